"""Logs of real servers about odd mail, and the rows that they make, each of which somebody has looked at.

Postfix 3.5.25 (Debian 11, traditional stamps) and 3.11.7 were sent the same 100 mails and sessions: aliases that nest, fail, run commands;
BCC maps, header and body checks, access actions, postscreen, XCLIENT, XFORWARD, before-queue and after-queue filters, DSN, VRFY, SMTPUTF8,
quoted addresses, replies that imitate the log, postsuper, sendmail -t, -bs and -bv. The others are 3.11.7 with amavis 2.13 (`log_level` 2)
behind and before the queue and rspamd 4.1 as a milter; with spamd 4.0.3 and spamass-milter; with pyspf-milter 3.1, dkimpy-milter,
milter-greylist, postgrey and Dovecot's LMTP.
"""
import lzma
import pathlib
import random

import pytest

from tests.unit.replay import Replay, tracker

LOGS = sorted((pathlib.Path(__file__).parent / "real").glob("*.log.xz"))
NAMES = [path.name[:-len(".log.xz")] for path in LOGS]
THAT_WEEK = tracker.epoch(2026, 12, 1, 0)


def replay_of(path):
    """The log, to be read in any way; a line that nobody knows is an error there."""
    return Replay(lzma.decompress(path.read_bytes()).decode("latin-1").splitlines(), present=THAT_WEEK)


@pytest.mark.parametrize("path", LOGS, ids=NAMES)
def test_the_rows_are_those_that_somebody_has_looked_at(path):
    known = lzma.decompress(path.with_name(path.name.replace(".log.", ".rows.")).read_bytes()).decode().splitlines()
    rows = list(map(tracker.row_json, replay_of(path).whole()))
    assert sorted(rows) == sorted(known) and len(rows) > 40


@pytest.mark.parametrize("path", LOGS, ids=NAMES)
def test_restarted_anywhere_the_table_is_the_same(path):
    replay, chance = replay_of(path), random.Random(path.name)
    whole, lines = replay.whole(), len(replay.lines)
    for end in ("finished", "stopped", "killed", "unsaved") * 2:
        places = sorted(chance.sample(range(1, lines), chance.choice((1, 2, 5, 12))))
        assert replay.cut(*places, rhythm=chance.choice((7, 50, None)), end=end) == whole, (places, end)
