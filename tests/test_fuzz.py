"""Random input: bytes, and real lines that were damaged. Nothing stops the reading, every line is counted, every row can be written.

In CI the same few thousand lines each time. More, and others: FUZZ_EXAMPLES=50000 FUZZ_SEED=1 pytest -s tests/test_fuzz.py, which prints
how many lines that were.
"""
import collections
import functools
import lzma
import operator
import os
import random
import re
from unittest import mock

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from test_hostile import AMBIGUOUS, BREAKS, CERTAIN, FIELDS, HARMLESS, TRIALS, differences, renamed, told

from tests.unit.replay import PRESENT, Replay, event_of, tracker
from tests.unit.test_samples import ALL, STAMP

EXAMPLES, SEED = int(os.environ.get("FUZZ_EXAMPLES", "0")), os.environ.get("FUZZ_SEED")
STATUSES = {"sent", "bounced", "deferred", "expired", "rejected", "held", "discarded", "deleted", "requeued", "incomplete"}
LINES = collections.Counter()


def fuzz(examples):
    """So many examples in CI, in the same proportion as FUZZ_EXAMPLES has it: then a failure is shown as it was met."""
    wanted = settings(max_examples=EXAMPLES * examples // 100 or examples, derandomize=SEED is None, database=None, deadline=None,
                      phases=[Phase.generate] if EXAMPLES else list(Phase), suppress_health_check=list(HealthCheck))
    return (lambda test: seed(int(SEED))(wanted(test))) if SEED is not None else wanted


@pytest.fixture(scope="module", autouse=True)
def count():
    """Tell how many lines there were."""
    yield
    print("\n%s" % ", ".join("%d lines %s" % (number, kind) for kind, number in LINES.items()))


# -- one life of the tracker

class Life:
    """The tracker and a table of its own. What it must never do fails at once."""

    def __init__(self):
        self.store = Replay.table()
        self.read, self.unsupported = 0, 0
        self.tracker = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30 * tracker.SECOND), self._count, self._failed)
        self.position = 0

    def feed(self, lines):
        """Read lines, and hold that each was counted once."""
        self.tracker.feed(lines, self.position, 0)
        self.position += sum(map(len, lines)) + len(lines)
        self.read += len(lines)
        totals = dict(zip(tracker.CLASSES, self.tracker.totals()))
        assert sum(totals.values()) == self.read and totals["failed"] == 0
        assert totals["unsupported"] == self.unsupported

    def flush(self, end=False):
        """Write what is ready, at the end all that is known; and hold that the table took every row."""
        correlator = self.tracker.correlator
        if end:
            correlator.close(everything=True)
        rows = tracker.settle(correlator.harvest(), self.store.recall, 0, correlator.filter)
        for row in rows:
            check_row(tracker.fitted(row))
        tracker.write_rows(self.store, rows, self._refused)
        assert 0 <= correlator.low_water(self.position) <= self.position
        if end:
            self.finish()

    def finish(self):
        """Everything is written, and nothing of it kept."""
        correlator = self.tracker.correlator
        assert correlator.open_count == 0 and not correlator.scans.by_message_id and not correlator.scans.twins
        assert not any(crowd.unnamed for crowd in correlator.spf.crowds.values())
        for row in self.store.all_rows():
            tracker.row_json(row)
        self.store.close()

    def _count(self, line):
        self.unsupported += 1

    @staticmethod
    def _failed(line):
        raise AssertionError("an exception: %r" % line)

    @staticmethod
    def _refused(row, reason):
        raise AssertionError("refused, %s: %r" % (reason, row))


def check_row(row):
    """Whether every column of a strict server takes a row, and the words are those that are promised."""
    assert row.relay_status in STATUSES, row
    for column in tracker.COLUMNS:
        value = getattr(row, column.name)
        if value is None:
            assert "NOT NULL" not in column.type, (column.name, row)
        elif column.type.startswith(("VARCHAR", "TEXT")):
            assert isinstance(value, str) and len(value) <= column.limit and "\0" not in value, (column.name, row)
            value.encode("ascii" if "ascii" in column.type else "utf-8")
        elif column.type.startswith("TIMESTAMP"):
            assert isinstance(value, int) and 0 <= value < tracker.LATEST, (column.name, row)
        else:
            lowest = 0 if "UNSIGNED" in column.type or column.name == "delay" else -column.limit
            assert lowest <= value <= column.limit, (column.name, row)


# -- bytes

TOKENS = [
    "Nov  5 09:03:07 ", "2026-11-05T09:03:07.123456+01:00 ", "<22>1 2026-11-05T09:03:07Z ", "mx ", "postfix/smtpd[1]: ",
    "postfix/qmgr[2]: ", "postfix/smtp[3]: ", "postfix/cleanup[4]: ", "opendkim[5]: ", "amavis[6]: ", "rspamd[7]: ",
    "spamd[8]: spamd: ", "policyd-spf[9]: ", "postsrsd[9]: ", "4F00061AE: ", "NOQUEUE: ", "removed",
    "last message repeated 3 times", "message repeated 3 times: [ ", "\n", "\0", "\xff",
]
BYTES = st.binary(max_size=60).map(lambda some: some.decode("latin-1"))


@fuzz(150)
@given(st.lists(st.one_of(BYTES, st.sampled_from(TOKENS + list(FIELDS))), min_size=5, max_size=60))
def test_any_bytes_are_read_and_counted(parts):
    lines = "".join(parts).split("\n")
    LINES["of bytes"] += len(lines)
    life = Life()
    life.feed(lines)
    life.flush(end=True)


# -- real lines, damaged

@functools.lru_cache(maxsize=None)
def real_lines():
    """The recorded logs, the stories and the samples: lines that were written, one character per byte."""
    lines = [sample.line if sample.file == "headers" else STAMP + sample.line for sample in ALL]
    for path in sorted((ROOT / "tests" / "corpus").glob("*.log.xz")) + sorted((ROOT / "tests" / "stories").glob("*/input.log")):
        data = lzma.open(str(path)).read() if path.suffix == ".xz" else path.read_bytes()
        lines += data.decode("latin-1").splitlines()
    return lines


def flip(line, one, other, text):
    """A bit turned over."""
    place = one % max(len(line), 1)
    return line[:place] + chr(ord(line[place]) ^ 1 << other % 8) + line[place + 1:] if line else line


def cut(line, one, other, text):
    """Only the beginning, or only the end."""
    place = one % (len(line) + 1)
    return line[:place] if other % 2 else line[place:]


def splice(line, one, other, text):
    """The beginning of a line, the end of another."""
    stranger = real_lines()[other % len(real_lines())]
    return line[:one % (len(line) + 1)] + stranger[other % (len(stranger) + 1):]


def repeat(line, one, other, text):
    """A part, many times."""
    first = one % (len(line) + 1)
    part = line[first:first + 1 + other % 40]
    return line[:first] + part * (1 + other % 50) + line[first:]


def leave_out(line, one, other, text):
    """A part is missing."""
    first = one % (len(line) + 1)
    return line[:first] + line[first + 1 + other % 60:]


def swap(line, one, other, text):
    """Two fields change places."""
    fields = re.split(r"([,;:]? )", line)
    first, second = one % len(fields), other % len(fields)
    fields[first], fields[second] = fields[second], fields[first]
    return "".join(fields)


def insert(line, one, other, text):
    """A stranger's text in any place."""
    place = one % (len(line) + 1)
    return line[:place] + text + line[place:]


def overflow(line, one, other, text):
    """A number that is too large for anything."""
    numbers = list(re.finditer("[0-9]+", line))
    if not numbers:
        return line
    found = numbers[one % len(numbers)]
    return line[:found.start()] + "9" * (other % 5000) + line[found.end():]


def lend(line, one, other, text):
    """The queue ID of another line."""
    ids = re.findall(r": ([0-9A-F]{10,12}): ", real_lines()[other % len(real_lines())])
    return re.sub(r": [0-9A-F]{9,12}: ", ": %s: " % ids[0], line) if ids else line


DAMAGES = (flip, cut, splice, repeat, leave_out, swap, insert, overflow, lend)
PLACE = st.integers(0, 65535)
TEXT = st.one_of(st.sampled_from(FIELDS), st.sampled_from(BREAKS))
DAMAGE = st.tuples(st.sampled_from(DAMAGES), PLACE, PLACE, TEXT)


def damaged(start, damages):
    """Lines that follow on each other in a log, each with its damage."""
    lines = real_lines()
    return [damage(lines[(start + step) % len(lines)], one, other, text).replace("\n", "#012")
            for step, (damage, one, other, text) in enumerate(damages)]


@fuzz(100)
@given(st.integers(0, len(real_lines()) - 1), st.lists(DAMAGE, min_size=20, max_size=80), st.integers(1, 60))
def test_damaged_lines_are_read_and_counted_and_their_rows_written(start, damages, rhythm):
    lines = damaged(start, damages)
    LINES["damaged"] += len(lines)
    life = Life()
    for first in range(0, len(lines), rhythm):
        life.feed(lines[first:first + rhythm])
        life.flush()
    life.flush(end=True)


# -- forged texts

NOISE = st.text(st.characters(max_codepoint=255), max_size=3)
FORGED = st.lists(st.one_of(st.sampled_from(BREAKS), st.sampled_from(FIELDS), NOISE), min_size=1, max_size=5).map("".join)


@fuzz(1500)
@given(st.sampled_from(TRIALS), FORGED)
def test_forged_texts_change_no_other_field(trial, text):
    line, written = trial.put(text)
    if line is None:
        return
    LINES["forged"] += 1
    plain, word = trial.put(HARMLESS)
    wrong = differences(event_of(line), renamed(event_of(plain), word, written), AMBIGUOUS.get(trial.place.name, CERTAIN))
    assert not wrong, told([(line, wrong)], 1)


# -- a long life

LIMITS = {"MAX_OPEN": 200, "MAX_CONTEXTS": 100, "MAX_ORIGINS": 300}
PER_CONTEXT = (
    "sessions", "spf.crowds", "spf.awaiting", "connections.known", "scans.at_hand", "rewritings.told", "announced", "straddles",
    "scans.gone", "scans.unclaimed", "scans.screenings", "pieces")


def sizes_above_their_limits(life):
    """The tables of a life that have grown too large."""
    correlator = life.tracker.correlator
    found = {name: (len(operator.attrgetter(name)(correlator)), LIMITS["MAX_CONTEXTS"]) for name in PER_CONTEXT}
    scans = correlator.scans
    found["scans"] = max(len(scans.twins), len(scans.by_message_id)), correlator.open_count
    found["unnamed"] = sum(len(crowd.unnamed) for crowd in correlator.spf.crowds.values()), correlator.open_count
    found["origins"] = len(life.tracker.origins), LIMITS["MAX_ORIGINS"]
    found["hosts"] = len(correlator.open_by_host), LIMITS["MAX_ORIGINS"] + correlator.open_count
    found["open"] = sum(map(len, correlator.open_by_host.values())), min(LIMITS["MAX_OPEN"], correlator.open_count)
    found["due"] = len(correlator.due), 2 * correlator.open_count + 2 * tracker.BATCH_ROWS
    return {name: values for name, values in found.items() if values[0] > values[1]}


def test_a_long_life_with_damaged_lines_keeps_its_memory_within_the_limits():
    chosen = int(SEED or 1)
    print("seed %d" % chosen)
    chance, lines = random.Random(chosen), real_lines()
    with mock.patch.multiple(tracker, **LIMITS):
        life = Life()
        for _ in range(max(EXAMPLES // 100, 1) * 60):
            life.feed(damaged(chance.randrange(len(lines)), [
                (chance.choice(DAMAGES), chance.randrange(65536), chance.randrange(65536), chance.choice(FIELDS)) for _ in range(100)]))
            life.flush()
            assert not sizes_above_their_limits(life)
        LINES["of a long life"] += life.read
        life.flush(end=True)
