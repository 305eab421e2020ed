#!/usr/bin/env python3
"""What the commands of the bench share: running and measuring processes, tables, and their part of RESULTS.md.

    python3 bench/report.py

brings the figures of RESULTS.md into the README's table.
"""
import datetime
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "bench" / ".cache"
RESULTS = ROOT / "bench" / "RESULTS.md"
TRACKER = ROOT / "mail_relay_tracker.py"
README = ROOT / "README.md"
QUOTED = (                          # what the README tells: text, a part of RESULTS.md, a row, a column, unit
    ("reading and understanding a log, all columns", "CPU, ", "ours: parse and correlate", "lines/CPU s", "lines per CPU second"),
    ("`--import` into a new SQLite file", "CPU, ", "ours: --import, SQLite", "lines/CPU s", "lines per CPU second"),
    ("`--import` into MariaDB, the server's share not counted", "CPU, ", "ours: --import, MariaDB", "lines/CPU s", "lines per CPU second"),
    ("memory of an import into SQLite, at most", "CPU, ", "ours: --import, SQLite", "peak RSS MB", "MB"),
    ("following a log", "Following live", "lines per second", 1, "lines per second"),
    ("that takes", "Following live", "daemon: % of a core", 1, "% of a core"),
    ("from `removed` to the row, with the default interval, at most", "Following live", "removed → visible: longest, s", 1, "s"),
    ("when there is nothing to read", "Idle", "daemon: % of a core", 1, "% of a core"),
    ("start on a log of 10 GB, until the first new row", "Start on a very large log", "saved position: first new row, s", 1, "s"),
)


class Usage:
    """What a process cost: CPU seconds, peak RSS in MB, wall seconds, what it said."""

    def __init__(self, cpu, rss, wall, said=""):
        self.cpu, self.rss, self.wall, self.said = cpu, rss, wall, said


def run(command, folder=None, environment=None, output=None):
    """Run a process to its end and measure it and its children; one that fails ends the bench."""
    target = output or CACHE / "output"
    began = time.monotonic()
    with open(target, "wb") as out:
        process = subprocess.Popen([str(word) for word in command], cwd=folder and str(folder), stdout=out, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, env=dict(os.environ, TZ="UTC", **(environment or {})))
        _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    said = "" if output else pathlib.Path(target).read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        sys.exit("%s: exit code %d\n%s" % (" ".join(map(str, command)), process.returncode, said[-2000:]))
    return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, wall, said)


def cpu_of(pid):
    """CPU seconds that a running process has used, threads and all."""
    fields = pathlib.Path("/proc/%d/stat" % pid).read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_of(pid):
    """The peak of a running process's resident memory, in MB."""
    status = pathlib.Path("/proc/%d/status" % pid).read_text(encoding="ascii", errors="replace")
    return int(re.search(r"^VmHWM:\s+(\d+)", status, re.M).group(1)) / 1024


def configure(folder, **settings):
    """A configuration file of section__key settings; returns its path."""
    sections = {}
    for setting, value in settings.items():
        section, _, key = setting.partition("__")
        sections.setdefault(section, []).append("%s = %s\n" % (key, value))
    path = pathlib.Path(folder) / "tracker.conf"
    path.write_text("".join("[%s]\n%s" % (section, "".join(lines)) for section, lines in sections.items()), encoding="utf-8")
    path.chmod(0o600)
    return path


def driver_for(python):
    """A folder with the database driver for an interpreter that lacks it; None when it has it."""
    asked = "import sys; print('%d.%d' % sys.version_info[:2])\ntry:\n    import mysql.connector; print('has it')\nexcept ImportError: pass"
    said = subprocess.run([str(python), "-c", asked], stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")
    folder = CACHE / ("driver-" + said[0])
    if said[1] == "has it":
        return None
    if not folder.exists():
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(folder),
                        "-r", str(ROOT / "requirements.txt")], check=True)
    return folder


def first_line(command, pattern=".*"):
    """What a command says of its version; empty when it is not there."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    except OSError:
        return ""
    found = re.search(pattern, done.stdout.decode(errors="replace"))
    return found.group(0).strip() if found else ""


def machine():
    """The machine and its system, in a line."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30
    system = re.search(r'^PRETTY_NAME="(.*)"', pathlib.Path("/etc/os-release").read_text(encoding="utf-8"), re.M)
    return "%s, %d cores, %.0f GB; %s, Linux %s; %s" % (
        cpu.group(1) if cpu else platform.machine(), os.cpu_count(), memory, system.group(1) if system else "", platform.release(),
        first_line(["mariadbd", "--version"], r"[0-9.]+-MariaDB") or "no MariaDB")


def table(heads, rows):
    """A Markdown table; numbers to the right."""
    texts = [list(heads)] + [[one if isinstance(one, str) else "" if one is None else "%.*f" % (places(one), one) for one in row]
                             for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts)]
    lines = ["| " + " | ".join(text.ljust(width) if not place else text.rjust(width)
                               for place, (text, width) in enumerate(zip(line, widths))) + " |" for line in texts]
    rule = "|" + "|".join("-" * (width + 1) + (":" if place else "-") for place, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule] + lines[1:])


def places(number):
    """How many decimals a number is told with."""
    return 0 if isinstance(number, int) or abs(number) >= 100 else 1 if abs(number) >= 20 else 2 if abs(number) >= 0.1 else 4


def command_line():
    """The command as it was given, from the repository's root."""
    return " ".join(["python3", "bench/" + pathlib.Path(sys.argv[0]).name] + [shlex.quote(word) for word in sys.argv[1:]])


def publish(title, text, path=None):
    """Print a part of the results; put it into RESULTS.md, in the place of the part with the same title, when asked to."""
    part = "## %s\n\n`%s`, %s UTC  \n%s\n\n%s\n" % (
        title, command_line(), datetime.datetime.utcnow().strftime("%Y-%m-%d %H:%M"), machine(), text.strip())
    print(part)
    if path is None:
        return
    path = pathlib.Path(path)
    known = path.read_text(encoding="utf-8") if path.exists() else "# Results\n\nWritten by the commands named in each part.\n"
    head, *parts = re.split(r"^(?=## )", known, flags=re.M)
    parts = [one.rstrip() + "\n" for one in parts]
    for place, one in enumerate(parts):
        if one.startswith("## %s\n" % title):
            parts[place] = part
            break
    else:
        parts.append(part)
    path.write_text("\n".join([head.rstrip() + "\n"] + parts), encoding="utf-8")


def cells(part):
    """The table of a part of the results: {first cell: {head: cell}}; cells by their number, too."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")]
    return {row[0]: dict(list(zip(rows[0], row)) + list(enumerate(row))) for row in rows}


def quoted(results):
    """The README's table of what RESULTS.md tells; what was not measured is left out."""
    parts, rows = re.split(r"^## ", results, flags=re.M)[1:], []
    for text, title, row, column, unit in QUOTED:
        found = [cells(part)[row][column] for part in parts if part.startswith(title) and row in cells(part)]
        if found:
            rows.append([text, "%s %s" % (found[0], unit)])
    return table(("what", "figure"), rows)


def quote():
    """Put the figures into the README."""
    text = README.read_text(encoding="utf-8")
    head, heading, rest = text.partition("\n## Speed\n")
    section, _, rest = rest.partition("\n## ")
    section = re.sub(r"(?:^\|.*\n)+", lambda _: quoted(RESULTS.read_text(encoding="utf-8")) + "\n", section, count=1, flags=re.M)
    README.write_text(head + heading + section + "\n## " + rest, encoding="utf-8")


if __name__ == "__main__":
    quote()
