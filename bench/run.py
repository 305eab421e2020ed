#!/usr/bin/env python3
"""How much CPU the tracker takes for a log, beside other tools that read the same one.

    python3 bench/run.py [--lines 1000000] [--rounds 5] [--python PYTHON] [--peer NAME=COMMAND] [--profile] [--results FILE]

Makes its log (kept in bench/.cache), and runs everything on it in turn, so many rounds: the tools that are installed, each stage of
the tracker as a process of its own, and the whole command into SQLite and into a MariaDB of its own. Told are medians of user and
system CPU seconds of the process and its children. The rows of every round are compared with the truth of the log: exit code 1 when
one is wrong. A peer's command gets the log in place of `{log}`.
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent / "tests")]

import mariadb as mariadb_server  # noqa: E402
import report  # noqa: E402
from report import CACHE, ROOT  # noqa: E402

LOOP = "n = 0\nfor line in open('{log}', 'rb'):\n    n += 1\nprint(n)"
MTAIL = "/usr/share/doc/mtail/examples/postfix.mtail"
LOGWATCH = "/usr/share/logwatch/scripts/services/postfix"
ALL_ROWS = "SELECT JSON_OBJECT(%s) FROM mail_relay_log"
TIMES = ("first_seen", "last_seen")


def log_of(options):
    """The log and its truth: (path, path, lines, rows). Made when they are not there."""
    stem = "%d-%d-%s-%s" % (options.lines, options.seed, options.style, options.queue_ids)
    log, truth = CACHE / (stem + ".log"), CACHE / (stem + ".truth")
    if not truth.exists():
        subprocess.run([sys.executable, str(ROOT / "bench" / "generate.py"), "--lines", str(options.lines), "--seed", str(options.seed),
                        "--style", options.style, "--queue-ids", options.queue_ids, "-o", str(log), "--truth", str(truth) + ".new"],
                       check=True)
        os.rename(str(truth) + ".new", truth)
    return log, truth, count_lines(log), count_lines(truth)


def count_lines(path):
    """Lines of a file, without keeping it in memory: what this process holds counts for those it starts."""
    with open(path, "rb") as data:
        return sum(block.count(b"\n") for block in iter(lambda: data.read(1 << 18), b""))


def peers(options, log, folder):
    """{name: command} of the tools that are installed or named."""
    found = collections.OrderedDict()
    found["wc -l"] = ["wc", "-l", log]
    found["bare read loop"] = [options.python, "-c", LOOP.format(log=log)]
    if shutil.which("pflogsumm"):
        found["pflogsumm"] = ["pflogsumm", log]
    if shutil.which("mtail") and os.path.exists(MTAIL):
        found["mtail"] = ["mtail", "--one_shot", "--one_shot_format", "json", "--progs", MTAIL, "--logs", log, "--log_dir", folder,
                          "--port", "0"]
    if os.path.exists(LOGWATCH):
        alias = folder / "postfix-logwatch"          # by this name it reads a whole log by itself
        alias.symlink_to(LOGWATCH)
        found["logwatch"] = ["perl", alias, "--detail", "5", log]
    for peer in options.peer:
        name, _, command = peer.partition("=")
        found[name] = shlex.split(command.format(log=log))
    return found


class Bench:
    """One run: the log, the server, the figures by name."""

    def __init__(self, options, server):
        self.options = options
        self.server = server
        self.log, self.truth, self.lines, self.rows = log_of(options)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mrt-bench."))
        self.peers = peers(options, self.log, self.folder)
        self.figures = collections.OrderedDict()
        self.wrong = []
        driver = report.driver_for(options.python) if server else None
        self.environment = {"BENCH_TRACKER": str(options.tracker), "PYTHONDONTWRITEBYTECODE": ""}
        if driver:
            self.environment["PYTHONPATH"] = str(driver)

    def contestants(self):
        """(name, function that runs it and returns what it cost), in the order in which they are run."""
        found = [(name, lambda command=command: report.run(command, output=CACHE / "peer.out")) for name, command in self.peers.items()]
        found += [(stage, lambda stage=stage: self.stage(stage)) for stage in ("read", "events", "parse", "render")]
        found.append(("sqlite", self.sqlite))
        if self.server:
            found.append(("mariadb", self.mariadb))
        only = self.options.only.split(",") if self.options.only else [name for name, _ in found]
        return [(name, act) for name, act in found if name in only]

    def python(self, *arguments, **options):
        """Run the interpreter that is measured."""
        return report.run([self.options.python, *arguments], self.folder, self.environment, **options)

    def stage(self, stage, *arguments):
        """One stage of ours."""
        return self.python(ROOT / "bench" / "stages.py", stage, self.log, *arguments)

    def sqlite(self):
        """The whole command, into a new SQLite file."""
        for old in self.folder.glob("mail_relay_tracker.*"):
            old.unlink()
        used = self.python(self.options.tracker, "--import", self.log)
        self.compare("sqlite", self.folder / "mail_relay_tracker.db")
        return used

    def database(self):
        """A new table in the server; returns the configuration that uses it."""
        self.server.load_schema()
        return report.configure(self.folder, database__unix_socket=self.server.socket, database__password=mariadb_server.PASSWORD)

    def mariadb(self):
        """The whole command, into a new table; what the server needs for it is told beside."""
        config = self.database()
        before = report.cpu_of(self.server.process.pid)
        used = self.python(self.options.tracker, "-c", config, "--import", self.log)
        server = report.cpu_of(self.server.process.pid) - before
        self.figures.setdefault("server", []).append(report.Usage(server, report.rss_of(self.server.process.pid), used.wall))
        self.compare("mariadb", self.dump())
        return used

    def dump(self):
        """The table as JSON lines."""
        path = self.folder / "rows.json"
        columns = self.server.client("SELECT column_name FROM information_schema.columns WHERE table_name = 'mail_relay_log' "
                                     "AND table_schema = 'mail_tracking' AND column_name <> 'id'").split()[1:]
        pairs = ", ".join("'%s', %s" % (name, "CAST(%s AS CHAR)" % name if name in TIMES else name) for name in columns)
        command = ["mariadb", "--no-defaults", "--socket", self.server.socket, "-u", "root", "--batch", "--raw", "--skip-column-names",
                   "--quick", "--default-character-set=utf8mb4", "mail_tracking", "-e", "SET time_zone = '+00:00'; " + ALL_ROWS % pairs]
        with open(path, "wb") as out:
            subprocess.run(command, stdout=out, check=True)
        return path

    def compare(self, name, table):
        """Compare a table with the truth, in a process of its own."""
        done = subprocess.run([sys.executable, str(ROOT / "bench" / "truth.py"), str(self.truth), str(table)], stdout=subprocess.PIPE,
                              check=False)
        if done.returncode:
            self.wrong.append("%s: %s" % (name, done.stdout.decode()))

    def check_parse(self):
        """The rows of the stage that stores none."""
        path = self.folder / "parsed.json"
        self.stage("parse", "--rows", path)
        self.compare("parse", path)

    def run(self):
        """All rounds, everything in turn."""
        names = [name for name, _ in self.contestants()]
        self.python("-m", "py_compile", self.options.tracker)       # else the first stage pays for it, in time and memory
        for number in range(self.options.rounds):
            sys.stderr.write("round %d:" % (number + 1))
            for name, act in self.contestants():
                used = act()
                self.figures.setdefault(name, []).append(used)
                sys.stderr.write(" %s %.2f" % (name, used.cpu))
                sys.stderr.flush()
            sys.stderr.write("\n")
        if "parse" in names:
            self.check_parse()

    def median(self, name):
        """The median CPU seconds of one of the figures; None when it was not run."""
        return statistics.median(used.cpu for used in self.figures[name]) if name in self.figures else None

    def result(self):
        """What came out, as Markdown."""
        rows = []
        for name, title in [(name, name) for name in self.peers] + OURS:
            cpu = self.median(name)
            if cpu is None:
                continue
            every = sorted(used.cpu for used in self.figures[name])
            rows.append([title, cpu, "%.2f–%.2f" % (every[0], every[-1]), ratio(cpu, self.median("pflogsumm")),
                         ratio(cpu, self.median("bare read loop")), int(self.lines / max(cpu, 0.001)),
                         int(self.rows / max(cpu, 0.001)) if name in ROWED else None,
                         int(max(used.rss for used in self.figures[name]))])
        heads = ("", "CPU s", "least–most", "× pflogsumm", "× bare loop", "lines/CPU s", "rows/CPU s", "peak RSS MB")
        checked = [name for name in ("parse", "sqlite", "mariadb") if name in self.figures]
        verdict = "WRONG ROWS: " + "; ".join(self.wrong) if self.wrong else \
            "All %d rows, every column, as the log's truth says (%s)." % (self.rows, ", ".join(checked)) if checked else ""
        return "%d lines, %.0f MB, %d rows; medians of %d rounds; %s. Peers: %s.\n\n%s\n\n%s" % (
            self.lines, self.log.stat().st_size / 1e6, self.rows, self.options.rounds, version(self.options.python),
            versions(self.figures) or "none", report.table(heads, rows), verdict)

    def profile(self):
        """Where the CPU goes: by section of the module, and the hottest functions."""
        parts = []
        for stage in self.options.profile.split(","):
            arguments = ["--config", self.database()] if stage == "mariadb" else []
            for old in self.folder.glob("mail_relay_tracker.*"):
                old.unlink()
            self.stage(stage, "--profile", self.folder / "profile", *arguments)
            found = json.loads((self.folder / "profile").read_text(encoding="utf-8"))
            sections = collections.Counter()
            for section, _, share in found["functions"]:
                sections[section] += share
            parts.append("**%s**, %d samples, own time (with what it calls in C):\n" % (stage, found["samples"]))
            parts.append(report.table(("section", "%"), [[title, 100 * share] for title, share in sections.most_common() if share > 0.001]))
            parts.append("")
            parts.append(report.table(("function", "section", "%"), [[name, section, 100 * share]
                                                                     for section, name, share in found["functions"][:25]]))
            parts.append("")
        return "\n".join(parts)

    def close(self):
        """Remove what was made."""
        shutil.rmtree(self.folder, ignore_errors=True)


OURS = [("read", "ours: read"), ("events", "ours: events, not correlated"), ("parse", "ours: parse and correlate"),
        ("render", "ours: the same, and SQL"), ("sqlite", "ours: --import, SQLite"), ("mariadb", "ours: --import, MariaDB"),
        ("server", "(MariaDB server)")]
ROWED = ("parse", "render", "sqlite", "mariadb", "server")


def ratio(cpu, other):
    """How many times another's cost."""
    return None if other is None else cpu / max(other, 0.001)


def version(python):
    """An interpreter's version."""
    return report.first_line([str(python), "--version"]) or str(python)


def versions(names):
    """Which versions the tools have that were run."""
    asked = (("pflogsumm", r"pflogsumm[^\n]*\d"), ("mtail", r"mtail version \S+"), ("logwatch", r"Logwatch \S+"))
    return ", ".join(report.first_line([name, "--version"], pattern) for name, pattern in asked if name in names)


def parse_options(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description="CPU that the tracker and its peers need for the same log.")
    parser.add_argument("--lines", type=int, default=1000000, help="size of the log")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--style", choices=("traditional", "rfc3339"), default="traditional")
    parser.add_argument("--queue-ids", choices=("long", "short"), default="long")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to measure")
    parser.add_argument("--tracker", type=pathlib.Path, default=report.TRACKER, help="another version of the module")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="one more tool; {log} is the log's path")
    parser.add_argument("--only", help="names, comma-separated: peers, read, events, parse, render, sqlite, mariadb")
    parser.add_argument("--no-mariadb", action="store_true", help="without a server")
    parser.add_argument("--profile", nargs="?", const="parse,render", metavar="STAGES",
                        help="instead: shares of CPU by section and function, of parse, render, sqlite or mariadb")
    parser.add_argument("--title", help="of the part of the results")
    parser.add_argument("--results", metavar="FILE", help="put the results into this file, too (bench/RESULTS.md)")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run what the options ask for; returns the exit code."""
    options = parse_options(arguments)
    options.tracker = options.tracker.resolve()
    CACHE.mkdir(exist_ok=True)
    wanted = (options.profile or options.only or "mariadb").split(",")
    with contextlib.ExitStack() as stack:
        server = None
        if "mariadb" in wanted and not options.no_mariadb and shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin"):
            server = stack.enter_context(mariadb_server.running())
        bench = Bench(options, server)
        stack.callback(bench.close)
        if options.profile:
            report.publish(options.title or "Profile", bench.profile(), options.results)
            return 0
        bench.run()
        report.publish(options.title or "CPU, " + version(options.python), bench.result(), options.results)
        return 1 if bench.wrong else 0


if __name__ == "__main__":
    os.environ["PATH"] += ":/usr/sbin"
    sys.exit(main())
