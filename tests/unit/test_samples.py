"""Every line that the mail stack writes: a sample for each template of each program, in every version and with every option.

The samples are tables, a file per program in tests/unit/samples. A row is a sample; to add one, write one line:

    program: what it said  =>  what is to be learned from it

Two blanks stand on either side of the arrow. Left of it: the line from the program's tag on, as in the log (headers.txt: the whole
line). Right of it: the event, its name and the fields that the line tells, in the order of the record in the module; or why there is
none, `ignored: …` (known, nothing to learn), `unsupported: …` (ours, in a shape that no version writes), `foreign: …` (a program of
others). A value with a blank or a quote in it stands between quotes, whatever it holds; a field that is absent was not told. Of a
delivery and of `queue active` the right side tells what is recorded. A row belongs to the heading above it: a section of the list
of formats, and the kind of line.

    pytest -q -s -k coverage        prints how many samples there are, by program and kind of line
"""
import collections
import datetime
import os
import re
import time
import unittest
from typing import NamedTuple, Optional
from unittest import mock

from tests.unit.replay import PRESENT, ROOT, tracker

SAMPLES = ROOT / "tests" / "unit" / "samples"
ARROW = "  =>  "
STAMP = "2026-11-05T09:03:07.000000+01:00 mx1 "
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
REASONS = ("ignored", "unsupported", "foreign")
SECTIONS = ["1", *("%d.%d" % (chapter, part) for chapter, parts in ((2, 5), (3, 14), (4, 10)) for part in range(1, parts + 1)), "5"]
PLAIN = re.compile(r"[^\s\"]+$")
PID = re.compile(r"\[([0-9]+)\]$")
HIDDEN = ("weight",)                    # the correlator's own notes, of which the line says nothing


class Sample(NamedTuple):
    """A row of a table. `before`: the line of the row above."""

    file: str
    place: int
    section: str
    kind: str
    line: str
    expected: str
    before: Optional[str]


class Said(NamedTuple):
    """What a line's header tells, and its text."""

    time: str
    host: str
    program: str
    pid: Optional[str]
    text: str


def read(path):
    """The samples of a file, one character per byte as the tracker holds lines."""
    section = kind = before = None
    for place, row in enumerate(path.read_bytes().decode("latin-1").split("\n"), 1):
        if row.startswith("## "):
            section, _, kind = row[3:].partition(" ")
        elif row and not row.startswith("# "):
            line, arrow, expected = row.rpartition(ARROW)
            if not arrow or kind is None:
                raise AssertionError("%s, line %d: no heading above, or no arrow: %r" % (path.name, place, row))
            yield Sample(path.stem, place, section, kind, line, expected, before)
            before = line


ALL = [sample for path in sorted(SAMPLES.glob("*.txt")) for sample in read(path)]


def shown(value):
    """A value as the tables write it."""
    if isinstance(value, tuple):
        return "(%s)" % told(type(value).__name__, value._asdict())
    text = str(value)
    return text if PLAIN.match(text) else '"%s"' % text


def told(name, facts):
    """An event as the tables write it: what is None or False was not told."""
    known = [(field, value) for field, value in facts.items() if value is not None and value is not False and field not in HIDDEN]
    return " ".join([name] + ["%s=%s" % (field, shown(value)) for field, value in known])


class Reading:
    """One reading of a line by the tracker, which keeps what its parser made of it."""

    def __init__(self):
        self.correlator = tracker.Correlator(30 * tracker.SECOND)
        self.reader = tracker.Tracker(tracker.Calendar(PRESENT), self.correlator, lambda line: None, self.failed)
        self.found = []

    @staticmethod
    def failed(line):
        raise AssertionError("an exception in a parser: %r" % line)

    def outcome(self, lines):
        """What the last of the lines is: its events, or the name of its class."""
        for line in lines:
            self.found, before = [], self.reader.totals()
            self.reader.feed([line], 0, 0)
        after = self.reader.totals()
        counted = [name for name, old, new in zip(tracker.CLASSES, before, after) if new == old + 1]
        if len(counted) != 1 or sum(after) != sum(before) + 1:
            raise AssertionError("counted as %r" % (counted,))
        if counted != ["parsed"]:
            return counted[0]
        copies = "%d x " % len(self.found) if len(self.found) > 1 else ""
        return copies + " / ".join(sorted(set(self.found)))

    def keep(self, correlator, origin, event):
        """Stands in for every fold: notes the event. Deliveries and `queue active` are folded, for what is recorded of them."""
        name, facts = type(event).__name__, event._asdict()
        if isinstance(event, tracker.Delivery):
            facts = self.delivered(origin, event)
        elif isinstance(event, tracker.Queued):
            facts = self.queued(origin, event)
        self.found.append(told(name, facts))

    def delivered(self, origin, event):
        """The recipient of a delivery line, as its row will have it."""
        self.correlator.fold_delivery(origin, event)
        facts = collections.OrderedDict(queue_id=event.queue_id)
        columns = [name for name in tracker.RECIPIENT_COLUMNS if name not in ("last_seen", "recipient_no")]
        for recipient in origin.open[event.queue_id].recipients:
            facts.update((name, getattr(recipient, name)) for name in columns)
        return facts

    def queued(self, origin, event):
        """The message of a `queue active` line, as its rows will have it."""
        self.correlator.fold_queued(origin, event)
        message = origin.open[event.queue_id]
        names = ("queue_id", "envelope_from", "original_envelope_from", "size", "nrcpt")
        return collections.OrderedDict((name, getattr(message, name)) for name in names)

    def hear(self, correlator, origin, event):
        """Stands in for the fold of `Said`: adds what the header told."""
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=correlator.time)
        pid = PID.search(origin.prefix)
        said = event._replace(time=moment.isoformat(timespec="microseconds"), host=origin.host, program=origin.program,
                              pid=pid.group(1) if pid else None)
        self.found.append(told("Said", said._asdict()))


def listen(text):
    """A parser that takes any text, save what stands for the lines before it."""
    return None if text.startswith("message repeated ") else Said("", "", "", None, text)


def outcome_of_text(sample):
    """What the tracker makes of a line."""
    reading = Reading()
    with mock.patch.dict(tracker.FOLDS, dict.fromkeys(tracker.FOLDS, reading.keep)):
        return reading.outcome([STAMP + sample.line])


def outcome_of_header(sample):
    """What the tracker makes of what stands before a line's text, read in Berlin behind the row above."""
    reading = Reading()
    lines = [line for line in (sample.before, sample.line) if line is not None]
    with mock.patch.dict(tracker.FOLDS, {Said: reading.hear}), mock.patch.object(tracker, "parser_of", lambda program: listen), \
            mock.patch.dict(os.environ, {"TZ": BERLIN}):
        time.tzset()
        try:
            return reading.outcome(lines)
        finally:
            os.environ["TZ"] = "UTC"
            time.tzset()


class Samples(unittest.TestCase):
    """One test per row, made below."""

    maxDiff = None

    def check(self, sample):
        outcome = outcome_of_header(sample) if sample.file == "headers" else outcome_of_text(sample)
        reason = sample.expected.partition(": ")[0]
        expected = reason if reason in REASONS else sample.expected
        self.assertEqual(outcome, expected, "%s.txt, line %d: %s" % (sample.file, sample.place, sample.line))


def row_test(sample):
    """The test of one row."""
    return lambda self: self.check(sample)


for one in ALL:
    words = re.sub(r"[^0-9A-Za-z]+", "_", "%s %s %s" % (one.file, one.section, re.split("[:;,(]", one.kind)[0])).strip("_").lower()
    setattr(Samples, "test_%s_line_%d" % (words, one.place), row_test(one))


class Coverage(unittest.TestCase):
    """Nothing is left without a sample: sections, programs, events, reasons."""

    def test_coverage_by_program_and_kind_of_line(self):
        kinds = collections.OrderedDict()
        for sample in ALL:
            kinds.setdefault(sample.file, collections.OrderedDict()).setdefault((sample.section, sample.kind), []).append(sample)
        for file, of_file in kinds.items():
            print("\n%-16s %3d kinds of lines, %4d samples" % (file, len(of_file), sum(map(len, of_file.values()))))
            for (section, kind), rows in of_file.items():
                print("  %-5s %4d  %s" % (section, len(rows), kind))
        print("\n%d samples of %d kinds of lines" % (len(ALL), sum(map(len, kinds.values()))))
        headings = [row for path in SAMPLES.glob("*.txt") for row in path.read_text(encoding="utf-8").splitlines() if row.startswith("## ")]
        self.assertEqual(len(headings), sum(map(len, kinds.values())), "a heading without a row, or twice the same in one file")

    def test_every_section_of_the_list_of_formats_has_samples(self):
        self.assertEqual([section for section in SECTIONS if section not in {sample.section for sample in ALL}], [])

    def test_every_program_with_a_parser_has_samples(self):
        parsers = {tracker.parser_of(sample.line.partition(": ")[0]) for sample in ALL if sample.file != "headers"}
        known = dict(tracker.POSTFIX_PARSERS, **tracker.OTHER_PARSERS)
        self.assertEqual([program for program, parser in known.items() if parser not in parsers], [])

    def test_every_program_that_tells_of_messages_has_a_line_that_is_counted_as_unsupported(self):
        parsers = {tracker.parser_of(sample.line.partition(": ")[0]) for sample in ALL if sample.expected.startswith("unsupported: ")}
        silent = {tracker.parse_master, tracker.parse_nothing}
        known = dict(tracker.POSTFIX_PARSERS, **tracker.OTHER_PARSERS)
        self.assertEqual([program for program, parser in known.items() if parser not in parsers | silent], [])

    def test_every_event_is_told_by_a_sample(self):
        names = {sample.expected.partition(" ")[0] for sample in ALL}
        events = [event.__name__ for event in tracker.FOLDS]
        self.assertEqual([event for event in events if event not in names and event != "Spam"], [])

    def test_no_sample_stands_twice(self):
        twice = [line for line, times in collections.Counter((sample.file, sample.line) for sample in ALL).items() if times > 1]
        self.assertEqual([line for file, line in twice if file != "headers"], [])

    def test_every_reason_is_given(self):
        bare = [sample for sample in ALL if sample.expected.partition(":")[0] in REASONS and not sample.expected.partition(": ")[2].strip()]
        self.assertEqual(bare, [])


if __name__ == "__main__":
    unittest.main()
