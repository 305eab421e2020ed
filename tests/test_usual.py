"""What nearly all lines look like is read many at once, by one pattern a program; whatever that finds, the parsers read alike.

The lines are those of the recorded log and of the samples, and what chance makes of them.

    USUAL_TEXTS=1000000 USUAL_SEED=7 pytest tests/test_usual.py        more, and others
"""
import os
import random
import re

import mail_relay_tracker as tracker
from tests.unit.test_samples import ALL

TEXTS, SEED = int(os.environ.get("USUAL_TEXTS", "30000")), int(os.environ.get("USUAL_SEED", "1"))
AT_ONCE = 20
RECORDED = re.compile(r".{16}[^ ]+ ([^[: ]+)(?:\[[0-9]+\])?: (.*)$")
PIECES = (
    "; from=<a@b> to=<c@d> proto=ESMTP helo=<x>", ">, relay=evil[192.0.2.66]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 ok",
    '"', "\\", ";", " ", "<", ">", "<>", ", ", "[", "]", "(", ")", "=", ",mid=<x@y>", "@", ":", "\xc3\xa9", "\0", "status=", "; from=<",
    "550 ", " from x[192.0.2.66]: ", ", sasl_username=x", "5.7.1 ", "autolearn=", ", orig_queue_id=4F00061AE", ", conn_use=2", ", tls=none",
)


def changed(rng, text, others):
    """A text with up to three things done to it."""
    for _ in range(rng.randrange(4)):
        place, chance = rng.randrange(len(text) + 1), rng.random()
        if chance < 0.5:
            text = text[:place] + rng.choice(PIECES) + text[place:]
        elif chance < 0.7:
            text = text[:place] + text[place + rng.randrange(1, 12):]
        elif chance < 0.85:
            other = rng.choice(others)
            text = text[:place] + other[rng.randrange(len(other) + 1):]
        else:
            text = text[:place] + chr(rng.randrange(1, 256)) + text[place:]
    return text.replace("\n", " ")


def test_many_texts_are_read_as_one_by_one(corpus):
    pools = {}
    lines = (corpus / "mail-traditional.log").read_bytes().decode("latin-1").splitlines()
    said = [found.groups() for found in map(RECORDED.match, lines) if found]
    for program, text in said + [tuple(sample.line.split(": ", 1)) for sample in ALL if ": " in sample.line]:
        parse = tracker.parser_of(re.sub(r"\[[0-9]+\]$", "", program))
        if parse in tracker.USUAL:
            pools.setdefault(parse, []).append(text)
    assert len(pools) == len(tracker.USUAL)
    assert sum(map(len, pools.values())) > 4000
    rng, parsers = random.Random(SEED), sorted(pools, key=lambda parse: parse.__name__)
    print("USUAL_SEED=%d" % SEED)
    for _ in range(TEXTS // AT_ONCE):
        parse = rng.choice(parsers)
        texts = [changed(rng, rng.choice(pools[parse]), pools[parse]) for _ in range(rng.randrange(2 * AT_ONCE))]
        events = tracker.parse_all(parse, texts)
        assert len(events) == len(texts)
        for text, event in zip(texts, events):
            assert repr(event) == repr(parse(text)), text


def test_nearly_all_lines_are_read_together(corpus):
    """Were they not, the patterns for the usual were for nothing."""
    lines = (corpus / "mail-traditional.log").read_bytes().decode("latin-1").splitlines()
    read = [(tracker.parser_of(found.group(1)), found.group(2)) for found in map(RECORDED.match, lines) if found]
    counts = {}
    for parse, text in read:
        if parse in tracker.USUAL:
            count = counts.setdefault(parse.__name__, [0, 0])
            count[any(tracker.USUAL[parse][1].findall(text)[0])] += 1
    print(counts)
    assert all(usual for _, usual in counts.values())
    assert sum(usual for _, usual in counts.values()) > 2 * sum(unusual for unusual, _ in counts.values())
