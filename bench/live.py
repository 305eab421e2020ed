#!/usr/bin/env python3
"""What following a live log costs, how soon a row is there, and how soon the daemon is up on a very large log.

    python3 bench/live.py [--rate 50] [--seconds 60] [--big 10] [--only following,idle,big] [--results FILE]

following: messages at this rate, their lines written when they are due; CPU of the daemon and of its MariaDB server; seconds from a
message's `removed` being written to its row being visible. idle: the same daemon when nothing comes any more: CPU, system calls,
statements. big: a log of so many GB (sparse: real lines at both ends), a saved position near its end, or `start = end`: seconds from
the start of the process to the first new row.
"""
import argparse
import collections
import contextlib
import datetime
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent / "tests")]

import generate  # noqa: E402
import mariadb as mariadb_server  # noqa: E402
import mysql.connector  # noqa: E402
import report  # noqa: E402

CLEANUP, POLL = 10, 0.5             # the configuration's defaults
TICK = 0.02
LOOK = 0.05                         # seconds between two looks at the table
SETTLE = 45                         # after the last line: queue_timeout, then two flushes
REMOVED = re.compile(r" (\w+): removed$")


class Feed:
    """Lines of a generated log that are written when they are due; remembers when each `removed` was."""

    def __init__(self, path, rate):
        self.generator = generate.Generator(generate.parse_options(["-n", "1000000000", "--rate", str(rate), "--style", "rfc3339"]))
        self.path = path
        self.removed = {}
        self.lines = 0

    def run(self, seconds):
        """Write for so many seconds; messages that are under way then stay so."""
        generator, began, due = self.generator, time.time(), 0.0
        generator.options.start = began
        with open(self.path, "ab", buffering=0) as log:
            while time.time() < began + seconds:
                now = time.time() - began
                while due < now + 1:                # what a message says first may be due a moment before what is already told
                    due += generator.random.expovariate(generator.options.rate)
                    generator.arrive(due)
                self.write(log, list(generator.due(now)))
                time.sleep(TICK)

    def write(self, log, lines):
        """Write lines, and remember which messages they remove."""
        log.write("".join(lines).encode("utf-8"))
        self.removed.update((REMOVED.search(line).group(1), time.monotonic()) for line in lines if line.endswith(": removed\n"))
        self.lines += len(lines)


class Watcher(threading.Thread):
    """Looks at the table all the time; remembers when a queue ID was first there."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.seen = {}
        self.ended = threading.Event()

    def run(self):
        """Until `ended` is set."""
        connection = connect(self.server)
        cursor, last = connection.cursor(), 0
        while not self.ended.is_set():
            cursor.execute("SELECT id, queue_id FROM mail_relay_log WHERE id > %d" % last)
            now = time.monotonic()
            for number, queue_id in cursor.fetchall():
                last = max(last, number)
                self.seen.setdefault(queue_id, now)
            time.sleep(LOOK)
        connection.close()


def connect(server):
    """A connection of ours, beside the tracker's."""
    return mysql.connector.connect(unix_socket=server.socket, user="root", database="mail_tracking", autocommit=True, use_pure=True)


class Live:
    """A folder with a log, and the daemon that follows it."""

    def __init__(self, server, python):
        self.server, self.python = server, python
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mrt-live."))
        self.log = self.folder / "mail.log"
        self.log.touch()
        self.daemon = None

    def start(self, **settings):
        """Start the daemon; returns once it follows the log."""
        config = report.configure(
            self.folder, database__unix_socket=self.server.socket, database__password=mariadb_server.PASSWORD, logging__log_file=self.log,
            state__state_file=self.folder / "state.json", logging__cleanup_interval=CLEANUP, logging__poll_interval=POLL, **settings)
        errors = open(self.folder / "errors", "wb")
        self.daemon = subprocess.Popen([self.python, "-m", report.TRACKER.stem, "-v", "-c", str(config)], cwd=str(self.folder),
                                       env=dict(os.environ, TZ="UTC", PYTHONPATH=str(report.ROOT)), stderr=errors)
        wait_for(lambda: b"following" in (self.folder / "errors").read_bytes(), 30)

    def stop(self):
        """Stop the daemon; it saves its position."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(30)
            self.daemon = None

    def close(self):
        """Stop, and remove everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_for(condition, seconds):
    """Wait until something is so; gives up after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("waited %d seconds in vain" % seconds)
        time.sleep(0.01)


def on_cpu(pid):
    """Seconds on the CPU, finer than the clock's ticks; of a process with one thread."""
    return int(pathlib.Path("/proc/%d/schedstat" % pid).read_text(encoding="ascii").split()[0]) / 1e9


def following(live, options):
    """Under load: CPU and latency."""
    live.start()
    feed, watcher = Feed(live.log, options.rate), Watcher(live.server)
    watcher.start()
    feed.run(5)                         # caches fill
    daemon, server = on_cpu(live.daemon.pid), report.cpu_of(live.server.process.pid)
    began, lines, messages = time.monotonic(), feed.lines, feed.generator.messages
    feed.run(options.seconds)
    took = time.monotonic() - began
    daemon, server = on_cpu(live.daemon.pid) - daemon, report.cpu_of(live.server.process.pid) - server
    written, told = feed.lines - lines, feed.generator.messages - messages
    wait_for(lambda: feed.removed.keys() <= watcher.seen.keys(), 60)
    watcher.ended.set()
    watcher.join()
    late = sorted(watcher.seen[queue_id] - then for queue_id, then in feed.removed.items())
    return [["messages per second", told / took], ["lines per second", written / took],
            ["daemon: % of a core", 100 * daemon / took], ["daemon: µs per line", 1e6 * daemon / written],
            ["daemon: peak RSS, MB", report.rss_of(live.daemon.pid)],
            ["MariaDB server: % of a core (with our looking)", 100 * server / took],
            ["removed → visible: median, s", statistics.median(late)], ["removed → visible: longest, s", late[-1]],
            ["allowed: cleanup_interval + poll_interval, s", CLEANUP + POLL]]


def idle(live, options):
    """When nothing comes any more."""
    if live.daemon is None:
        live.start()
    time.sleep(SETTLE)
    connection = connect(live.server)
    asked, pid = questions(connection), live.daemon.pid
    used, began = on_cpu(pid), time.monotonic()
    time.sleep(options.seconds)
    took = time.monotonic() - began
    used, asked = on_cpu(pid) - used, questions(connection) - asked - 1
    found = [["daemon: % of a core", 100 * used / took], ["statements to the server in %.0f s" % took, asked]]
    if shutil.which("strace"):
        for name, count in calls(pid, 20):
            found.append(["%s, calls per second" % name, count / 20])
    connection.close()
    return found


def questions(connection):
    """Statements that the server has got so far."""
    cursor = connection.cursor()
    cursor.execute("SHOW GLOBAL STATUS LIKE 'Questions'")
    return int(cursor.fetchone()[1])


def calls(pid, seconds):
    """System calls of a process over so many seconds: [(name, count)], most first."""
    with tempfile.NamedTemporaryFile("r") as out:
        tracer = subprocess.Popen(["strace", "-c", "-f", "-p", str(pid), "-o", out.name], stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)
        text = out.read()
    found = collections.Counter({line.split()[-1]: int(line.split()[3]) for line in text.splitlines()
                                 if re.match(r"\s*[0-9.]+\s+[0-9.]+\s+\d+\s+\d+", line) and not line.endswith("total")})
    return found.most_common()


def a_message(live, number):
    """Append a whole message; returns its queue ID."""
    stamp = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")
    queue_id = "4jHFMN%04dzRfYB" % number
    texts = ("postfix/smtpd[1]: %s: client=a.example[192.0.2.1]", "postfix/cleanup[2]: %s: message-id=<1@example>",
             "postfix/qmgr[3]: %s: from=<a@example>, size=9, nrcpt=1 (queue active)",
             "postfix/smtp[4]: %s: to=<b@example>, relay=mx.example[192.0.2.2]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, "
             "status=sent (250 ok)",
             "postfix/qmgr[3]: %s: removed")
    with open(live.log, "ab") as log:
        log.write("".join("%s mx1 %s\n" % (stamp, text % queue_id) for text in texts).encode("ascii"))
    return queue_id


def big(live, options):
    """On a log of many GB."""
    connection = connect(live.server)
    cursor = connection.cursor()

    def visible(queue_id):
        cursor.execute("SELECT COUNT(*) FROM mail_relay_log WHERE queue_id = '%s'" % queue_id)
        return cursor.fetchone()[0] > 0

    a_message(live, 1)
    os.truncate(live.log, int(options.big * 2 ** 30))
    with open(live.log, "ab") as log:
        log.write(b"\n")
    a_message(live, 2)
    began = time.monotonic()
    live.start(logging__start="end")
    up = time.monotonic() - began
    queue_id = a_message(live, 3)
    wait_for(lambda: visible(queue_id), 60)
    first = time.monotonic() - began
    live.stop()
    queue_id = a_message(live, 4)
    began = time.monotonic()
    live.start()
    wait_for(lambda: visible(queue_id), 60)
    again = time.monotonic() - began
    read = int(re.search(r"rchar: (\d+)", pathlib.Path("/proc/%d/io" % live.daemon.pid).read_text(encoding="ascii")).group(1))
    found = [["size of the log, GB (2^30)", options.big], ["start = end: follows the log, s", up], ["start = end: first new row, s", first],
             ["saved position: first new row, s", again], ["saved position: bytes read by the process, MB", read / 1e6],
             ["peak RSS, MB", report.rss_of(live.daemon.pid)], ["rows of lines before the position", int(visible("4jHFMN0002zRfYB"))]]
    connection.close()
    return found


PARTS = collections.OrderedDict((
    ("following", ("Following live", following)), ("idle", ("Idle", idle)), ("big", ("Start on a very large log", big))))


def main(arguments=None):
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description="Following live, idling, starting on a large log.")
    parser.add_argument("--rate", type=float, default=50, help="messages per second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--big", type=float, default=10, help="size of the large log in GB")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--results", metavar="FILE")
    options = parser.parse_args(arguments)
    os.environ["PATH"] += ":/usr/sbin"
    report.CACHE.mkdir(exist_ok=True)
    subprocess.run([options.python, "-m", "py_compile", str(report.TRACKER)], check=True)       # as README installs it
    with mariadb_server.running() as server, contextlib.ExitStack() as stack:
        lives = {}
        for name in options.only.split(","):
            kind = "big" if name == "big" else "live"
            if kind not in lives:
                for live in lives.values():
                    live.close()
                server.load_schema()
                lives[kind] = Live(server, options.python)
                stack.callback(lives[kind].close)
            title, measure = PARTS[name]
            report.publish(title, "%s.\n\n%s" % (report.first_line([options.python, "--version"]),
                                                report.table(("", ""), measure(lives[kind], options))), options.results)


if __name__ == "__main__":
    main()
