"""Run log lines through the tracker as the daemon would: in one go, or cut anywhere and restarted from the saved position."""
import bisect
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


class Replay:
    """Some log lines, and a table of their own for every way of reading them."""

    def __init__(self, lines, queue_timeout=30, server_hostname="", track_domains=()):
        self.lines = list(lines)
        self.settings = int(queue_timeout * tracker.SECOND), server_hostname, tracker.DomainFilter(track_domains)
        self.offsets = [0]
        for line in self.lines:
            self.offsets.append(self.offsets[-1] + len(line) + 1)
        self.tracker = None

    def run(self, store, first, last):
        """One life of the tracker: read lines [first, last), write all that is known; returns the line to go on with."""
        unsupported, failed = [], []
        self.tracker = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(*self.settings), unsupported.append, failed.append)
        correlator, known = self.tracker.correlator, store.newest()
        self.tracker.feed(self.lines[first:last], self.offsets[first], 0)
        self._flush(store, known)
        low = correlator.low_water(self.offsets[last])
        correlator.close(everything=False)
        self._flush(store, known)
        if unsupported or failed:
            raise AssertionError("unsupported %r, failed %r" % (unsupported, failed))
        return max(bisect.bisect_right(self.offsets, low) - 1, 0)

    def _flush(self, store, known):
        correlator = self.tracker.correlator
        tracker.write_rows(store, tracker.settle(correlator.harvest(), store.recall, known, correlator.filter), self._refuse)

    @staticmethod
    def _refuse(row, reason):
        raise AssertionError("refused: %s %r" % (reason, row))

    @staticmethod
    def table():
        """An empty table in memory."""
        store = tracker.SqliteStore(":memory:")
        store.connect()
        return store

    def whole(self):
        """The rows after one undisturbed life."""
        store = self.table()
        self.run(store, 0, len(self.lines))
        return self.rows(store)

    def cut(self, *places):
        """The rows after lives that end at these lines, each beginning where the one before had to leave off."""
        store, first = self.table(), 0
        for last in [*places, len(self.lines)]:
            first = self.run(store, first, last)
        return self.rows(store)

    def twice(self):
        """The rows after reading everything, and everything again."""
        store = self.table()
        self.run(store, 0, len(self.lines))
        self.run(store, 0, len(self.lines))
        return self.rows(store)

    @staticmethod
    def rows(store):
        """The rows of a table, by key; it is closed."""
        found = sorted(store.all_rows(), key=lambda row: (row.first_seen, row.queue_id, row.recipient_no))
        store.close()
        return found


def rough(rows):
    """Rows without what the form of the stamps decides: fractions of a second, digits of NOQUEUE IDs."""
    return sorted(repr(row._replace(
        first_seen=row.first_seen // tracker.SECOND, last_seen=row.last_seen // tracker.SECOND,
        queue_id="NOQUEUE" if row.queue_id.startswith("NOQUEUE") else row.queue_id)) for row in rows)
