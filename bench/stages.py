#!/usr/bin/env python3
"""One stage of the tracker in a process of its own, so that its cost can be measured from outside.

    bench/stages.py STAGE LOG [--rows FILE] [--profile FILE] [--config FILE]

STAGE: `read` gets the lines. `events` tells what each of them says, and drops that: the cost when nothing is correlated; `parse`
makes rows of them, complete, and drops them; `render` makes the statements for MariaDB, and drops them: these three are `--import`
itself, with another store. `sqlite` and `mariadb` are all of it, into the database of --config, or without one into an SQLite file here.
`--rows` keeps the rows of `parse`, to see that it made them. `--profile` samples where the time goes.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import signal
import sys

MODULE = pathlib.Path(os.environ.get("BENCH_TRACKER") or pathlib.Path(__file__).resolve().parent.parent / "mail_relay_tracker.py")
sys.path.insert(0, str(MODULE.parent))

import mail_relay_tracker as tracker  # noqa: E402

INTERVAL = 0.001                    # seconds of CPU between two samples; the kernel makes that a tick


class NoStore(tracker.Store):
    """Takes rows and drops them; when they are to be kept in a file, it remembers them as a store does."""

    name = "nothing"

    def __init__(self, path):
        self.path = path
        self.count = 0
        self.rows = {}

    def connect(self):
        """Nothing to connect to."""

    def newest(self):
        return 0

    def recall(self, names):
        return {name: list(self.rows[name].values()) for name in names if name in self.rows}

    def write(self, rows):
        self.count += len(rows)
        for row in rows if self.path else ():
            self.rows.setdefault((row.server_hostname, row.queue_id), {})[row.first_seen, row.recipient_no] = row

    def outcomes(self, since, until, hosts):
        return []

    def close(self):
        if self.path:
            with open(self.path, "w", encoding="utf-8") as out:
                out.writelines(tracker.row_json(row) + "\n" for rows in self.rows.values() for row in rows.values())


class NoServer(tracker.MysqlStore):
    """Makes statements for a server that is not there."""

    def __init__(self):
        super().__init__([("", 0)], {})

    def connect(self):
        """Nothing to connect to."""

    def newest(self):
        return 0

    def recall(self, names):
        return {}

    def _execute(self, statement):
        """The statement is made, and dropped."""

    def outcomes(self, since, until, hosts):
        return []

    def close(self):
        """Nothing to close."""


def read(path):
    """The lines, as `--import` gets them."""
    file, lines = tracker.LogFile(path, 0), 0
    while not file.at_end:
        for batch in file.lines():
            lines += len(batch.lines)
    print("%d lines" % lines)


def import_into(store, path):
    """The command, with a store of ours."""
    tracker.make_store = lambda config: store
    return tracker.main(["--import", path])


class Sampler:
    """Looks every moment of CPU time which function is running; functions in C count for the one that called them."""

    def __init__(self):
        self.seen = collections.Counter()

    def look(self, number, frame):
        """The signal's handler."""
        code = frame.f_code
        self.seen[os.path.basename(code.co_filename), code.co_firstlineno, code.co_name] += 1

    def save(self, path):
        """(section, function, share), most first."""
        source = MODULE.read_text(encoding="utf-8")
        starts = [(source.count("\n", 0, found.start()) + 1, found.group(1)) for found in re.finditer("^# =+ (.+)$", source, re.M)]
        found, total = [], sum(self.seen.values())
        for (file, line, name), count in self.seen.most_common():
            section = ([title for start, title in starts if start <= line] or ["constants and limits"])[-1]
            if file != MODULE.name:
                section = "driver" if file.startswith(("cursor", "connection", "network", "protocol", "utils", "abstracts")) else file
            found.append((section, name, count / total))
        with open(path, "w", encoding="utf-8") as out:
            json.dump({"samples": total, "functions": found}, out)


def main():
    """Run the stage that is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=("read", "events", "parse", "render", "sqlite", "mariadb"))
    parser.add_argument("log")
    parser.add_argument("--rows")
    parser.add_argument("--profile")
    parser.add_argument("--config")
    options = parser.parse_args()
    sampler = Sampler()
    if options.profile:
        signal.signal(signal.SIGPROF, sampler.look)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    if options.stage == "read":
        read(options.log)
    elif options.stage == "events":
        tracker.FOLDS.update(dict.fromkeys(tracker.FOLDS, lambda correlator, origin, event: None))
        import_into(NoStore(None), options.log)
    elif options.stage in ("parse", "render"):
        import_into(NoStore(options.rows) if options.stage == "parse" else NoServer(), options.log)
    else:
        tracker.main((["-c", options.config] if options.config else []) + ["--import", options.log])
    if options.profile:
        signal.setitimer(signal.ITIMER_PROF, 0)
        sampler.save(options.profile)


if __name__ == "__main__":
    main()
