"""Run log lines through the tracker as the daemon would: in one go, or cut anywhere and restarted from the saved position."""
import bisect
import functools
import json
import os
import pathlib
import re
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import mail_relay_tracker as tracker  # noqa: E402

os.environ["TZ"] = "UTC"
time.tzset()
PRESENT = tracker.epoch(2026, 11, 23, 0)
ISO_STAMP = re.compile(r"2026-11-(\d\d)T(\d\d:\d\d:\d\d)\.\d+\+00:00 ")


def traditional(lines):
    """The same lines with RFC 3164 stamps."""
    return [ISO_STAMP.sub(lambda found: "Nov %2d %s " % (int(found.group(1)), found.group(2)), line) for line in lines]


@functools.lru_cache(None)
def read_story(path):
    """(lines, settings) of the story that this expected.json is of; they are not to be changed."""
    lines = (path.parent / "input.log").read_bytes().decode("latin-1").splitlines()
    return lines, json.loads(path.read_text(encoding="utf-8")).get("settings", {})


def event_of(line):
    """What the parser of a line's program makes of its text."""
    program, _, text = line.partition(": ")
    return tracker.parser_of(re.sub(r"\[[0-9]+\]$", "", program))(text)


class Table(tracker.SqliteStore):
    """An empty table in memory. When it is closed, its connection serves the next one: to make a table takes longer than most lives."""

    spare = []

    def connect(self):
        """Take a table that nobody uses, or make one."""
        if not self.spare:
            super().connect()
            return
        self.connection = self.spare.pop()
        self.identity = self._identity()

    def close(self):
        """Empty it, and let it go."""
        if self.connection is not None:
            self.connection.execute("DELETE FROM mail_relay_log")
            self.spare.append(self.connection)
            self.connection = None


class Replay:
    """Some log lines, and a table of their own for every way of reading them."""

    def __init__(self, lines, queue_timeout=30, server_hostname="", track_domains=(), present=PRESENT):
        self.lines = list(lines)
        self.present = present
        self.settings = int(queue_timeout * tracker.SECOND), server_hostname, tracker.DomainFilter(track_domains)
        self.offsets = [0]
        for line in self.lines:
            self.offsets.append(self.offsets[-1] + len(line) + 1)
        self.tracker = None

    def run(self, store, first, last, rhythm=None, end="finished"):
        """One life of the tracker: read lines [first, last), write what is ready after every `rhythm` of them, else once; returns the
        line to go on with.

        How it ends: `finished`, as --once does, with all written that is known; `imported`, where that is the only writing; `stopped`
        as the daemon is; `killed` before it wrote what was ready; `unsaved`, killed with that committed and the position not saved.
        """
        unsupported, failed = [], []
        dates = tracker.Calendar(self.present)
        self.tracker = tracker.Tracker(dates, tracker.Correlator(*self.settings), unsupported.append, failed.append)
        self.tracker.previous = tracker.last_said(self.lines[:first])
        recorder = tracker.Recorder(store, self.tracker, self, None, 1)
        recorder.connected, recorder.known_until = True, store.newest()
        correlator, saved = self.tracker.correlator, self.offsets[first]
        for start in range(first, last, rhythm or max(last - first, 1)):
            stop = min(start + rhythm, last) if rhythm else last
            self.tracker.feed(self.lines[start:stop], self.offsets[start], 0)
            if stop < last or end not in ("killed", "imported"):
                recorder.flush()
            if stop < last or end not in ("killed", "unsaved"):
                saved = correlator.low_water(self.offsets[stop])
        if end in ("finished", "imported"):
            correlator.close(everything=end == "imported")
            recorder.flush()
        if unsupported or failed:
            raise AssertionError("unsupported %r, failed %r" % (unsupported, failed))
        return max(bisect.bisect_right(self.offsets, saved) - 1, 0)

    @staticmethod
    def add(row, reason):
        """No row is refused."""
        raise AssertionError("refused: %s %r" % (reason, row))

    @staticmethod
    def table():
        """An empty table in memory."""
        store = Table(":memory:")
        store.connect()
        return store

    def whole(self, **how):
        """The rows after one undisturbed life (`how`: see run)."""
        store = self.table()
        self.run(store, 0, len(self.lines), **how)
        return self.rows(store)

    def cut(self, *places, **how):
        """The rows after lives that end at these lines (`how`: see run), each beginning where the one before had to leave off."""
        store, first = self.table(), 0
        for last in places:
            first = self.run(store, first, last, **how)
        self.run(store, first, len(self.lines))
        return self.rows(store)

    def twice(self, **how):
        """The rows after reading everything, and everything again (`how`: see run)."""
        store = self.table()
        self.run(store, 0, len(self.lines))
        self.run(store, 0, len(self.lines), **how)
        return self.rows(store)

    def however_read(self, alike=list):
        """The rows, which are the same (`alike` makes what is compared of them) however the lines are read: at once, twice, in two
        lives cut anywhere, in a life for every line.
        """
        rows, places = self.whole(), range(1, len(self.lines))
        ways = {"twice": self.twice(), "cut before every line": self.cut(*places)}
        ways.update(("cut before line %d" % (place + 1), self.cut(place)) for place in places)
        for way, found in ways.items():
            if alike(found) != alike(rows):
                raise AssertionError("read %s:\n%s\nat once:\n%s" % (way, told(found), told(rows)))
        return rows

    @staticmethod
    def rows(store):
        """The rows of a table, by key; it is closed."""
        found = sorted(store.all_rows(), key=lambda row: (row.first_seen, row.queue_id, row.recipient_no))
        store.close()
        return found


def told(rows):
    """Rows as JSON lines, for a reader."""
    return "\n".join(map(tracker.row_json, rows))


def rough(rows):
    """Rows without what the form of the stamps decides: fractions of a second, digits of NOQUEUE IDs."""
    return sorted(repr(row._replace(
        first_seen=row.first_seen // tracker.SECOND, last_seen=row.last_seen // tracker.SECOND,
        queue_id="NOQUEUE" if row.queue_id.startswith("NOQUEUE") else row.queue_id)) for row in rows)
