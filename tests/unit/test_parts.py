"""Small parts, each by a table: time stamps, queue IDs, replies, columns, places in files, what is stored and what is new."""
import collections
import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import time
import unittest
from unittest import mock

from tests.unit.replay import PRESENT, tracker

MS = 1000


def utc(year, month, day, hour=0, minute=0, second=0, micro=0):
    """A moment in UTC, as the module counts."""
    return tracker.epoch(year, month, day, hour * 3600 + minute * 60 + second) + micro


@contextlib.contextmanager
def time_zone(name):
    """The local time zone, for a while."""
    before = os.environ["TZ"]
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        os.environ["TZ"] = before
        time.tzset()


class TimeStamps(unittest.TestCase):
    """Every form of log-writing programs."""

    FORMS = (
        ("rsyslog, RFC 3164", "Nov  5 09:03:07 mx x: y", utc(2026, 11, 5, 9, 3, 7)),
        ("Postfix maillog_file, journalctl", "Nov 05 09:03:07 mx x: y", utc(2026, 11, 5, 9, 3, 7)),
        ("syslog-ng with fractions", "Nov  5 09:03:07.250 mx x: y", utc(2026, 11, 5, 9, 3, 7, 250 * MS)),
        ("a day without filling", "Nov 5 09:03:07 mx x: y", utc(2026, 11, 5, 9, 3, 7)),
        ("the same with a year", "2026 Nov 5 09:03:07.5 mx x: y", utc(2026, 11, 5, 9, 3, 7, 500 * MS)),
        ("rsyslog, RFC 3339", "2026-11-05T09:03:07.123456+01:00 mx x: y", utc(2026, 11, 5, 8, 3, 7, 123456)),
        ("RFC 3339 without fraction, Z", "2026-11-05T09:03:07Z mx x: y", utc(2026, 11, 5, 9, 3, 7)),
        ("journalctl short-iso of systemd 252", "2026-11-05T09:03:07+0100 mx x: y", utc(2026, 11, 5, 8, 3, 7)),
        ("west of UTC", "2026-11-05T09:03:07.5-02:30 mx x: y", utc(2026, 11, 5, 11, 33, 7, 500 * MS)),
        ("syslog-ng full", "2026 Nov  5 09:03:07.123 mx x: y", utc(2026, 11, 5, 9, 3, 7, 123 * MS)),
        ("journalctl short-full", "Thu 2026-11-05 09:03:07 UTC mx x: y", utc(2026, 11, 5, 9, 3, 7)),
        ("a template of rsyslog", "2026-11-05 09:03:07 mx x: y", utc(2026, 11, 5, 9, 3, 7)),
        ("journalctl short-unix", "1793869387.123456 mx x: y", 1793869387123456),
        ("RFC 5424", "<22>1 2026-11-05T09:03:07.123456+01:00 mx postfix/smtpd 7 - - y", utc(2026, 11, 5, 8, 3, 7, 123456)),
        ("priority in front", "<22>Nov  5 09:03:07 mx x: y", utc(2026, 11, 5, 9, 3, 7)),
        ("29 February", "Feb 29 00:00:00 mx x: y", utc(2024, 2, 29)),
        ("tomorrow is within a clock's error", "Nov 23 23:59:59 mx x: y", utc(2026, 11, 23, 23, 59, 59)),
        ("next week must be last year", "Nov 30 00:00:00 mx x: y", utc(2025, 11, 30)),
        ("leap second", "Jun 30 23:59:60 mx x: y", utc(2026, 7, 1)),
    )

    def test_forms(self):
        for name, line, expected in self.FORMS:
            found, start = tracker.Calendar(PRESENT).read(line)
            self.assertEqual(found, expected, name)
            self.assertTrue(line[start:].startswith("mx "), name)

    def test_lines_without_a_stamp(self):
        for line in ("", "-- Journal begins at Mon --", "Nov 32 00:00:00 mx x: y", "Abc  5 09:03:07 mx x: y", "Nov  5 25:03:07 mx x: y",
                     "2026-13-05T09:03:07Z mx x: y", "x" * 100):
            self.assertEqual(tracker.Calendar(PRESENT).read(line), (0, -1), line)

    def test_a_stamp_of_the_minute_of_the_one_before_is_read_as_by_itself(self):
        calendar = tracker.Calendar(PRESENT)
        for stamp in ("Nov  5 09:03:07", "Nov  5 09:03:59", "Nov  5 09:03:60", "Nov  5 09:03:5x", "Nov  5 09:03:07.5", "Nov  5 09:03:0",
                      "Nov  5 09:03:00", "Nov  5 09:04:00", "Nov 24 00:00:00", "Jun 30 23:59:59", "Jun 30 23:59:60", "Jun 30 23:59:61"):
            self.assertEqual(calendar.read(stamp + " mx x: y"), tracker.Calendar(PRESENT).read(stamp + " mx x: y"), stamp)
        for newest in (utc(2026, 11, 4, 9, 3, 5), utc(2026, 11, 4, 9, 3, 20), utc(2027, 11, 5), utc(2027, 11, 4),
                       utc(2025, 11, 4, 9, 3, 10)):
            for second in (9, 10, 11):
                calendar.newest = newest
                line = "Nov  5 09:03:%02d mx x: y" % second
                self.assertEqual(calendar.read(line), tracker.Calendar(newest).read(line), (newest, second))

    def test_a_stamp_of_the_second_of_the_one_before_is_read_as_by_itself(self):
        calendar = tracker.Calendar(PRESENT)
        for stamp in ("07.000001+01:00", "07.999999+01:00", "07.12x456+01:00", "07.1_3456+01:00", "07.123456+01:30", "07.12345 +01:00",
                      "07.1234567+0100", "07.7654321+0100", "07.123456+01:00", "08.123456+01:00", "61.123456+01:00", "08.123456+01:00"):
            line = "2026-11-05T09:03:%s mx x: y" % stamp
            self.assertEqual(calendar.read(line), tracker.Calendar(PRESENT).read(line), stamp)

    def test_only_times_that_every_server_can_hold_are_read(self):
        end = tracker.LATEST // tracker.SECOND
        for form in ("%Y-%m-%dT%H:%M:%S.500000+00:00 mx x: y", "%Y-%m-%dT%H:%M:%SZ mx x: y", "%b %e %H:%M:%S mx x: y"):
            for moments in ((1, 0, 0, -1, 60), (end - 1, end, end)):
                calendar = tracker.Calendar(max(moments) * tracker.SECOND)
                for moment in moments:
                    _, start = calendar.read(time.strftime(form, time.gmtime(moment)))
                    self.assertEqual(start > 0, 1 <= moment < end, (form, moment))

    def test_new_year_in_both_directions(self):
        calendar = tracker.Calendar(utc(2027, 1, 1, 0, 0, 5))
        self.assertEqual(calendar.read("Dec 31 23:59:59 mx x: y")[0], utc(2026, 12, 31, 23, 59, 59))
        self.assertEqual(calendar.read("Jan  1 00:00:01 mx x: y")[0], utc(2027, 1, 1, 0, 0, 1))
        self.assertEqual(calendar.read("Dec 31 23:59:59 mx x: y")[0], utc(2026, 12, 31, 23, 59, 59))

    def test_the_hour_that_the_end_of_summer_time_repeats(self):
        with time_zone("Europe/Berlin"):
            calendar = tracker.Calendar(PRESENT)
            clocks = ("02:59:58", "02:00:01", "02:59:59", "02:00:01", "02:31:00", "02:59:59", "03:00:00")
            times = [calendar.read("Oct 25 %s mx x: y" % clock)[0] for clock in clocks]
            self.assertEqual(times, [utc(2026, 10, 25, 0, 59, 58), utc(2026, 10, 25, 1, 0, 1), utc(2026, 10, 25, 0, 59, 59),
                                     utc(2026, 10, 25, 1, 0, 1), utc(2026, 10, 25, 1, 31), utc(2026, 10, 25, 1, 59, 59),
                                     utc(2026, 10, 25, 2)])

    def test_what_a_classic_syslogd_says_was_repeated_is_not_read_again_behind_that_hour(self):
        with time_zone("Europe/Berlin"):
            lines = ["Oct 25 02:59:58 mx x: y", "Oct 25 02:00:01 mx x: y", "Oct 25 02:59:59 mx x: y",
                     "Oct 25 03:00:00 mx last message repeated 2 times"]
            reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30), self.fail, self.fail)
            reader.feed(lines, 0, 0)
            self.assertEqual([reader.calendar.is_repeated(24 * place) for place in range(4)], [False, True, True, False])


class QueueIds(unittest.TestCase):
    """What Postfix creates, and what only looks like it."""

    def test_created_by_postfix(self):
        for word in ("3854F172385", "00000A", "ABCDEF", "F30AF1", "F41AF1", "F420A1", "F423F1", "3854F" + 59 * "1", "4jXSnX0bKLz1Tq",
                     "4Zz01m1QbBz5Rk", "5000005z0000z0", "4jXSnX7bKLzFgHjY", "4jXSnX0bKLz" + 19 * "1"):
            self.assertTrue(tracker.is_queue_id(word), word)

    def test_other_words(self):
        for word in ("", "NOQUEUE", "warning", "statistics", "FACADE", "F42400", "12345", "3854f172385", "4jXSnX0bKLz1TqE", "a" * 65,
                     "3854F172385 ", "3854F17238\n", "F424A1", "3854F" + 60 * "1", "4jXSnX8bKLz1Tq", "4jXSnX0bKLz", "4jXSnX0bKLz1zq",
                     "4jXSnX0bKL1Tq", "4jXSn0bKLz1Tq", "4jXSnX0bKLz" + 20 * "1"):
            self.assertFalse(tracker.is_queue_id(word), word)


class Columns(unittest.TestCase):
    """Values as the columns can hold them, whatever the log said."""

    def row(self, **values):
        message = tracker.Message("mx", "mx", "3854F172385", PRESENT, 0, False)
        recipient = tracker.Recipient("a@b", "a@b", PRESENT)
        recipient.recipient_no, recipient.relay_status = 0, "sent"
        message.recipients.append(recipient)
        for name, value in values.items():
            setattr(recipient if name in tracker.RECIPIENT_COLUMNS else message, name, value)
        return tracker.rows_of(message, tracker.DomainFilter(()))[0]

    def test_text_is_clipped_by_characters(self):
        for column in tracker.COLUMNS:
            if column.type.startswith(("VARCHAR", "TEXT")) and column.name not in tracker.KEY:
                row = tracker.fitted(self.row(**{column.name: "\xc3\xa4" * 70000}))
                self.assertEqual(getattr(row, column.name), "ä" * column.limit, column.name)

    def test_every_byte_comes_back(self):
        raw = "".join(map(chr, range(1, 128)))
        self.assertEqual(tracker.fitted(self.row(relay_message=raw)).relay_message, raw)
        self.assertEqual(tracker.fitted(self.row(relay_message="\0\xff\xf0\x9f\x98\x80")).relay_message, "\ufffd\ufffd😀")

    def test_numbers_stay_within_range(self):
        row = tracker.fitted(self.row(size=1 << 40, nrcpt=1 << 40, spam_score=-1e9, delay=1e30, relay_port=99999, smtp_code=550))
        self.assertEqual((row.size, row.nrcpt, row.spam_score, row.delay, row.relay_port, row.smtp_code),
                         (4294967295, 4294967295, -99999, 999999999, 65535, 550))

    def test_nothing_can_end_a_literal(self):
        for text in ("'; DROP TABLE mail_relay_log; --", "\\", "\\'", "a\nb", "😀", "%s", ""):
            literal = tracker.literal(text)
            self.assertRegex(literal, r"^_utf8mb4 X'[0-9a-f]*'$")
            self.assertEqual(bytes.fromhex(literal[11:-1]).decode("utf-8"), text)


class Places(unittest.TestCase):
    """Is this the file that a saved position speaks of? Each fact fitting or not."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, str(self.folder))
        self.path = self.folder / "mail.log"
        line = b"Nov 22 10:00:%02d mx postfix/qmgr[1]: 3854F1723%02X: removed\n"
        self.content = b"".join(line % (number, number) for number in range(40))
        self.path.write_bytes(self.content)

    def place(self):
        return tracker.LogFile(str(self.path), 0).place(1000)

    def fits(self, place):
        return tracker.LogFile(str(self.path), 0).fits(place)

    def test_decisions(self):
        place = self.place()
        strange = (256, "0" * 64)
        for name, other, expected in (
                ("all fits", place, True),
                ("inode differs, content fits: a copy", place._replace(inode=1), True),
                ("device differs, content fits", place._replace(device=1), True),
                ("head differs: inode reused", place._replace(head=strange), False),
                ("tail differs: truncated and grown again", place._replace(tail=strange), False),
                ("beyond the end: truncated", place._replace(position=99999), False),
                ("hand-written, inode fits", tracker.Place(1000, place.inode), True),
                ("hand-written, inode differs", tracker.Place(1000, 1), False),
                ("hand-written, without inode", tracker.Place(1000), True),
                ("hand-written, beyond the end", tracker.Place(99999, place.inode), False)):
            self.assertEqual(self.fits(other), expected, name)

    def test_packed_copies_fit_by_content(self):
        place = self.place()
        for opener, name in ((tracker.gzip.open, "a.gz"), (tracker.bz2.open, "a.bz2"), (tracker.lzma.open, "a.xz")):
            with opener(str(self.folder / name), "wb") as packed:
                packed.write(self.content)
            file = tracker.LogFile(str(self.folder / name), 0)
            self.assertTrue(file.fits(place), name)
            file.seek(place.position)
            self.assertEqual(b"".join(line.encode() + b"\n" for batch in self.all_batches(file) for line in batch.lines),
                             self.content[self.content.index(b"\n", 999) + 1:])

    @staticmethod
    def all_batches(file):
        found = []
        while not file.at_end:
            found += file.lines()
        return found

    def test_lines_of_any_length(self):
        long = b"x" * 300000
        self.path.write_bytes(b"one\n" + long + b"\n\0\0\0two\n" + long)
        batches = self.all_batches(tracker.LogFile(str(self.path), 0))
        lines = [(batch.position, line) for batch in batches for line in batch.lines]
        self.assertEqual([position for position, _ in lines], [0, 4, 300008, 300012])
        self.assertEqual(max(len(line) for _, line in lines), tracker.MAX_LINE)


class States(unittest.TestCase):
    """What may stand in a state file."""

    def test_written_by_hand(self):
        self.assertEqual(tracker.place_from({"position": 7, "inode": 5}, 1), tracker.Place(7, 5))
        self.assertEqual(tracker.place_from({"position": 7}, 1), tracker.Place(7, None))
        self.assertEqual(tracker.place_from({"position": 0, "inode": 0, "device": 0}, 1), tracker.Place(0, 0, 0))

    def test_refused(self):
        for state in ([], {}, {"position": -1}, {"position": "7"}, {"position": True}, {"position": 1, "version": 2},
                      {"position": 1, "version": "1"}, {"position": 1, "mtime": -1}, {"position": 1 << 63},
                      {"position": 1, "inode": 1 << 64}, {"position": 1, "device": "sda"}, {"position": 1, "fingerprint": "x"},
                      {"position": 1, "fingerprint": {"head": [1]}}, {"position": 1, "fingerprint": {"head": [999, "x"]}},
                      {"position": 1, "fingerprint": {"tail": [3, 5]}}, None, 7):
            with self.assertRaises((ValueError, TypeError, KeyError), msg=json.dumps(state)):
                tracker.place_from(state, 1)


class Troubles(unittest.TestCase):
    """What the log is told of trouble, and of its end, as the time passes."""

    GONE, DENIED, LOCKED = tracker.StoreGone("it is away"), tracker.StoreRefused("denied"), tracker.StoreRefused("locked")

    def told(self, *acts):
        """Of each (second, error, None for the end of all): the level at which it is logged."""
        trouble, levels = tracker.Trouble(), []
        with mock.patch.object(tracker, "LOG") as log, mock.patch.object(tracker.clock, "monotonic") as now:
            for second, error in acts:
                now.return_value = float(second)
                log.reset_mock()
                trouble.over("it is back") if error is None else trouble.report(error, "waiting")
                levels.append(" ".join(name for name, _, _ in log.mock_calls))
        self.assertEqual(trouble.count, len([error for _, error in acts if error]))
        return levels

    def test_what_goes_on_is_told_again_after_ten_minutes(self):
        self.assertEqual(self.told((100, self.GONE), (101, self.GONE), (699, self.GONE), (700, self.GONE), (701, None), (702, None)),
                         ["error", "debug", "debug", "error", "warning", ""])

    def test_each_cause_is_told(self):
        self.assertEqual(self.told((100, self.GONE), (101, self.DENIED), (102, self.GONE), (103, self.LOCKED), (104, self.DENIED)),
                         ["error", "error", "debug", "error", "debug"])

    def test_what_comes_back_within_a_minute_is_the_same_unless_it_lasts(self):
        self.assertEqual(self.told((100, self.GONE), (130, None), (189, self.GONE), (199, self.GONE), (199, None)),
                         ["error", "warning", "debug", "debug", ""])
        self.assertEqual(self.told((100, self.GONE), (130, None), (189, self.GONE), (200, self.GONE), (201, self.GONE), (202, None)),
                         ["error", "warning", "debug", "error", "debug", "warning"])

    def test_what_comes_back_later_is_told_anew(self):
        self.assertEqual(self.told((100, self.GONE), (130, None), (190, self.GONE), (191, None)), ["error", "warning", "error", "warning"])


class Tries(unittest.TestCase):
    """How often a store that is away is tried, and how long it is waited for in between."""

    def waits(self, sleep, tries=0):
        """Try until that ends; returns how, how often it was tried, and the waits, without their jitter, in seconds."""
        store, slept = mock.Mock(), []
        store.connect.side_effect = tracker.StoreGone("it is away")
        recorder = tracker.Recorder(store, mock.Mock(), mock.Mock(), lambda seconds: slept.append(seconds) or sleep(slept), tries)
        with mock.patch.object(tracker, "LOG"), mock.patch.object(tracker.random, "uniform", lambda *bounds: sum(bounds) / 2):
            try:
                recorder.begin()
            except (tracker.StoreGone, tracker.Stopped) as error:
                return type(error), store.connect.call_count, slept

    def test_what_is_told_meanwhile(self):
        """The second failure, for a first one may be but a lost connection, and the end."""
        store, gone = mock.Mock(), tracker.StoreGone("it is away")
        store.name, store.newest.return_value = "the store", 0
        for tries, consequence in ((0, "reading pauses, trying again until it works"), (9, "trying again, 9 times in all")):
            store.connect.side_effect = [gone, gone, gone, None]
            with mock.patch.object(tracker, "LOG") as log, mock.patch.object(tracker.clock, "monotonic", lambda: 100.0):
                recorder = tracker.Recorder(store, mock.Mock(), mock.Mock(), lambda seconds: True, tries)
                recorder.begin()
                recorder.complete()
            self.assertEqual([call for call in log.mock_calls if call[0] != "debug"], [
                mock.call.log(tracker.logging.INFO, "%s; connecting anew", gone), mock.call.error("%s; %s", gone, consequence),
                mock.call.log(tracker.logging.INFO, "connected to %s", "the store"),
                mock.call.warning("%s after %.0f seconds", "the store is back", 0.0)])

    def test_connections_that_are_lost_again_and_again_are_told_every_ten_minutes(self):
        store, level = mock.Mock(), {10: "debug", 20: "info", 30: "warning"}
        store.name, store.newest.return_value, told = "db1", 0, []
        recorder = tracker.Recorder(store, mock.Mock(), mock.Mock(), lambda seconds: True)
        for second, name in ((100, "db1"), (699, "db1"), (700, "db1"), (701, "db2")):
            store.name, store.complete.side_effect = name, [tracker.StoreGone("it is away"), None]
            with mock.patch.object(tracker, "LOG") as log, mock.patch.object(tracker.clock, "monotonic", lambda now=second: float(now)):
                recorder.complete()
            told.append([level[call[0][0]] for call in log.log.call_args_list] + [call[0] for call in log.warning.call_args_list])
        self.assertEqual(told, [["info", "info"], ["debug", "debug"], ["info", "info"],
                                ["debug", "info", ("%s is used now instead of %s", "db2", "db1")]])

    def test_what_fails_is_tried_with_fewer_rows_at_once_but_never_with_none(self):
        sizes = []

        def write(store, rows, set_aside, size):
            sizes.append(size)
            if len(sizes) < 12:
                raise tracker.StoreGone("it is slow")

        recorder = tracker.Recorder(mock.Mock(**{"newest.return_value": 0}), mock.Mock(), mock.Mock(), lambda seconds: True)
        with mock.patch.multiple(tracker, LOG=mock.DEFAULT, settle=mock.Mock(return_value=[]), write_rows=write):
            recorder._write(mock.Mock(messages=[]))
        self.assertEqual(sizes, [500, 250, 125, 62, 31] + [15] * 7)

    def test_a_row_that_is_refused_before_and_after_trouble_counts_once(self):
        rejects, tries = mock.Mock(), []

        def write(store, rows, set_aside, size):
            set_aside("bad", "no")
            tries.append(size)
            if len(tries) == 1:
                raise tracker.StoreGone("it is away")

        recorder = tracker.Recorder(mock.Mock(**{"newest.return_value": 0}), mock.Mock(), rejects, lambda seconds: True)
        with mock.patch.multiple(tracker, LOG=mock.DEFAULT, settle=mock.Mock(return_value=["good", "bad"]), write_rows=write):
            recorder._write(mock.Mock(messages=[]))
        self.assertEqual((len(tries), rejects.add.mock_calls, recorder.rows), (2, [mock.call("bad", "no")], 1))

    def test_a_command_gives_up_after_a_few(self):
        self.assertEqual(self.waits(lambda slept: True, 4), (tracker.StoreGone, 4, [1, 2]))

    def test_the_service_goes_on_until_it_is_stopped_and_waits_a_minute_at_most(self):
        self.assertEqual(self.waits(lambda slept: len(slept) < 8), (tracker.Stopped, 9, [1, 2, 4, 8, 16, 32, 60, 60]))


class FullDisk(unittest.TestCase):
    """rsyslog appends the first line that it can write again to the one that it could not write to its end."""

    TEXT = "4A0000400: to=<a400@x.test>, relay=r.test[192.0.2.9]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok)"
    STAMPS = (                          # of the line cut off and of the one behind it, whose microseconds are told
        ("2026-11-22T14:53:17.810888+00:00 ", "2026-11-22T14:53:19.599871+00:00 ", 599871),
        ("Nov 22 14:53:17 ", "Nov 22 14:53:19 ", 0),
    )

    def read(self, *lines):
        """(Rows, unsupported lines) of some lines."""
        shown = []
        correlator = tracker.Correlator(30 * tracker.SECOND)
        reader = tracker.Tracker(tracker.Calendar(PRESENT), correlator, shown.append, self.fail)
        reader.feed(list(lines), 0, 0)
        self.assertEqual(sum(reader.totals()), len(lines))
        correlator.close(everything=True)
        return tracker.settle(correlator.harvest(), lambda names: {}, 0, correlator.filter), shown

    def test_the_line_behind_one_cut_within_its_header_is_read(self):
        for first, second, fraction in self.STAMPS:
            header = first + "mx postfix/smtp[14]"
            whole = second + "mx postfix/smtp[14]: " + self.TEXT
            for end in range(1, len(header) + 1):
                line = header[:end] + whole
                for before in ((), (first + "mx postfix/smtp[14]: connect to r.test[192.0.2.8]:25: Connection refused",)):
                    rows, shown = self.read(*before, line, first + "mx kernel: x")
                    self.assertEqual(([row.queue_id for row in rows], shown), (["4A0000400"], []), line)
                    self.assertEqual(rows[0].last_seen, utc(2026, 11, 22, 14, 53, 19) + fraction, line)
                    self.assertEqual(rows[0].server_hostname, "mx", line)

    def test_the_time_of_the_next_line_is_its_own(self):
        first, second, _ = self.STAMPS[1]
        lines = [first + "mx po" + second + "mx postfix/qmgr[1]: 4A0000300: removed", first + "mx postfix/smtp[14]: " + self.TEXT]
        self.assertEqual([row.last_seen for row in self.read(*lines)[0]], [utc(2026, 11, 22, 14, 53, 17)])

    def test_a_text_is_not_searched(self):
        for first, second, _ in self.STAMPS:
            whole = second + "mx postfix/smtp[14]: " + self.TEXT
            for begun in ("mx postfix/smtpd[3]: ", "mx postfix/smtpd[3]: lost connection af", "mx x: ", "mx x:", "mx x y ",
                          "mx postsrsd 7 - - <a ", "mx postfix/submission/smtpd[12345678 <"):
                self.assertEqual(self.read(first + begun + whole)[0], [], begun)
            for begun in ("x ", "half a li", "Thu ", "[", "Nov 22 half a li"):
                self.assertEqual(self.read(begun + whole)[0], [], begun)


class Counters(unittest.TestCase):
    """Every line is counted once, in one class."""

    def test_sum_is_the_number_of_lines(self):
        lines = ["Nov 22 10:00:00 mx postfix/qmgr[1]: 3854F172385: removed", "Nov 22 10:00:00 mx postfix/smtpd[1]: never seen before",
                 "Nov 22 10:00:00 mx kernel: hello", "Nov 22 10:00:00 mx postfix/anvil[1]: statistics: x", "", "garbage", "\0\0",
                 "-- Boot 1 --", "Nov 22 10:00:00 mx last message repeated 2 times", "Nov 22 10:00:00 mx",
                 "Nov 22 10:00:00 mx postfix/qmgr[1]:"]
        shown = []
        reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30 * tracker.SECOND), shown.append, self.fail)
        reader.feed(lines, 0, 0)
        self.assertEqual(sum(reader.totals()), len(lines))
        self.assertEqual(reader.totals()[tracker.FAILED], 0)

    def test_each_line_counts_in_its_class_and_what_nobody_knows_is_shown_once(self):
        stamp, known, unknown = "Nov 22 10:00:00 mx ", "3854F172385: removed", "never seen before"
        lines = {                           # with where each counts: program and class
            stamp + "postfix/qmgr[1]: " + known: ("postfix/qmgr", tracker.PARSED),
            "mx last message repeated 2 times": ("", tracker.FOREIGN),      # no stamp tells when
            stamp + "postfix/qmgr[1]: " + unknown: ("postfix/qmgr", tracker.UNSUPPORTED),
            stamp + "last message repeated 2 times": ("postfix/qmgr", tracker.IGNORED_LINES),
            stamp + "postfix/qmgr[1]: x message repeated 2 times: [ %s]" % known: ("postfix/qmgr", tracker.UNSUPPORTED),
            stamp + "postfix/anvil[1]: statistics: x": ("postfix/anvil", tracker.IGNORED_LINES),
            stamp + "kernel: hello": ("", tracker.FOREIGN),
            stamp + "postfix/new[1]: x": ("", tracker.UNSUPPORTED),
            "x" * 99 + " postfix/smtpd[1]: x": ("", tracker.FOREIGN),
            "": ("", tracker.IGNORED_LINES), "\0\0": ("", tracker.IGNORED_LINES), "-- Boot 1 --": ("", tracker.IGNORED_LINES),
        }
        shown = []
        reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30 * tracker.SECOND), shown.append, self.fail)
        reader.feed(list(lines), 0, 0)
        counted = {(program, place): count for program, tally in reader.tallies.items() for place, count in enumerate(tally) if count}
        self.assertEqual(counted, collections.Counter(lines.values()))
        self.assertEqual(sorted(shown), sorted(line for line, (_, place) in lines.items() if place == tracker.UNSUPPORTED))

    def test_a_repetition_that_syslog_ng_tells_is_of_the_program_that_it_names(self):
        before = "Nov 22 10:00:00 mx postfix/qmgr[1]: 3854F172385: removed"
        for program, place in (("postfix/qmgr", tracker.PARSED), ("postfix/smtp", tracker.IGNORED_LINES)):
            told = "Nov 22 10:00:00 mx %s[7]: Last message '3854F172385: removed' repeated 2 times, suppressed by syslog-ng on mx" % program
            reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30 * tracker.SECOND), self.fail, self.fail)
            reader.feed([before], 0, 0)
            reader.feed([told], len(before) + 1, 0)
            self.assertEqual(reader.totals()[place], 2 if place == tracker.PARSED else 1, program)

    def test_lines_whose_text_begins_elsewhere_than_behind_the_first_colon(self):
        """Nothing is remembered by what stands before that: an ID, or a part of a host's address."""
        texts = ["3854F172385: from=<a@example.com>, size=9, nrcpt=1 (queue active)", "3854F172385: removed"]
        for head in ("mx postfix/qmgr 7 - - ", "2001:db8:: postfix/qmgr[7]: "):
            reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30 * tracker.SECOND), self.fail, self.fail)
            reader.feed(["Nov 22 10:00:00 " + head + text for text in texts], 0, 0)
            self.assertEqual(reader.tallies["postfix/qmgr"][tracker.PARSED], 2, head)

    def test_the_line_of_a_container_within_one_of_the_host_is_shown(self):
        lines = ["Nov 22 10:00:00 mx docker[7]: Nov 22 09:00:00 mail dovecot: x",
                 "Nov 22 10:00:00 mx 3f2b6a1c9d01[7]: Nov 22 09:00:00 mail postfix/smtpd[1]: connect from localhost[::1]",
                 "Nov 22 10:00:00 mx kernel: hello"]
        shown = []
        reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30 * tracker.SECOND), shown.append, self.fail)
        reader.feed(lines, 0, 0)
        self.assertEqual(shown, lines[1:2])
        self.assertEqual((reader.totals()[tracker.UNSUPPORTED], reader.totals()[tracker.FOREIGN]), (1, 2))

    def test_an_exception_costs_one_line(self):
        reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30 * tracker.SECOND), self.fail, lambda line: None)
        before = tracker.FOLDS[tracker.Removed]
        tracker.FOLDS[tracker.Removed] = lambda *_: 1 // 0
        try:
            reader.feed(["Nov 22 10:00:00 mx postfix/qmgr[1]: 3854F172385: removed", "Nov 22 10:00:00 mx kernel: x"], 0, 0)
        finally:
            tracker.FOLDS[tracker.Removed] = before
        self.assertEqual((reader.totals()[tracker.FAILED], sum(reader.totals())), (1, 2))

    def test_the_first_lines_that_fail_are_shown(self):
        failures = iter(range(1, 9))
        with mock.patch.object(tracker, "LOG") as log, mock.patch.object(tracker, "SAMPLES", 2):
            for line in ("one", "two", "three"):
                tracker.log_failed(failures, line)
        self.assertEqual([call[0] for call in log.error.call_args_list], [("failed line: %s", "one"), ("failed line: %s", "two")])

    def test_more_processes_than_are_remembered(self):
        """A refusal waits to be written when the processes that were known, and the tables of their hosts, are forgotten."""
        refusal = "Nov 22 10:00:00 mx postfix/smtpd[1]: NOQUEUE: reject: CONNECT from x[192.0.2.1]: 554 5.7.1 no; proto=SMTP"
        others = ["Nov 22 10:00:00 other kernel[%d]: x" % pid for pid in range(tracker.MAX_ORIGINS)]
        correlator = tracker.Correlator(30 * tracker.SECOND)
        reader = tracker.Tracker(tracker.Calendar(PRESENT), correlator, self.fail, self.fail)
        reader.feed([refusal, *others], 0, 0)
        self.assertEqual(len(correlator.harvest().messages), 1)

    def test_a_refusal_has_its_name_from_where_it_stands_in_its_file_whatever_was_repeated_before(self):
        """By that name its row is found again when the file is read alone, or anew."""
        refusal = "Nov 22 10:00:%02d mx postfix/smtpd[1]: %sNOQUEUE: reject: CONNECT from x[192.0.2.1]: 554 5.7.1 no; proto=SMTP"
        often = refusal % (0, "message repeated 999 times: [ ") + "]"
        for file_start in (0, 5000):
            correlator = tracker.Correlator(30 * tracker.SECOND)
            reader = tracker.Tracker(tracker.Calendar(PRESENT), correlator, self.fail, self.fail)
            reader.feed([often, refusal % (1, "")], file_start, file_start)
            last = correlator.harvest().messages[-1]
            self.assertEqual((last.queue_id, last.next_no), ("NOQUEUE-20261122100001%06d" % (len(often) + 1), 1))


if __name__ == "__main__":
    unittest.main()
