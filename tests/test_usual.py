"""What nearly all lines look like is read by one pattern each, faster; whatever they match, the general patterns read alike.

The lines are those of the recorded log and of the samples, and what chance makes of them.

    USUAL_TEXTS=1000000 USUAL_SEED=7 pytest tests/test_usual.py        more, and others
"""
import importlib.util
import os
import random
import re

import mail_relay_tracker as tracker
from tests.unit.replay import ROOT
from tests.unit.test_samples import ALL

TEXTS, SEED = int(os.environ.get("USUAL_TEXTS", "30000")), int(os.environ.get("USUAL_SEED", "1"))
RECORDED = re.compile(r".{16}[^ ]+ ([^[: ]+)(?:\[[0-9]+\])?: (.*)$")
PIECES = (
    "; from=<a@b> to=<c@d> proto=ESMTP helo=<x>", ">, relay=evil[192.0.2.66]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 ok",
    '"', "\\", ";", " ", "<", ">", "<>", ", ", "[", "]", "(", ")", "=", ",mid=<x@y>", "@", ":", "\xc3\xa9", "\0", "status=", "; from=<",
    "550 ", " from x[192.0.2.66]: ", ", sasl_username=x", "5.7.1 ", "autolearn=", ", orig_queue_id=4F00061AE", ", conn_use=2", ", tls=none",
)


def general():
    """The module without its patterns for the usual."""
    spec = importlib.util.spec_from_file_location("general", str(ROOT / "mail_relay_tracker.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    usual = [name for name in vars(module) if name.startswith("USUAL_") and hasattr(getattr(module, name), "match")]
    assert usual
    for name in usual:
        setattr(module, name, re.compile("(?!)"))
    return module


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


def test_what_is_read_as_usual_is_read_alike_by_the_general_patterns(corpus):
    plain, pools = general(), {}
    lines = (corpus / "mail-traditional.log").read_bytes().decode("latin-1").splitlines()
    said = [found.groups() for found in map(RECORDED.match, lines) if found]
    for program, text in said + [tuple(sample.line.split(": ", 1)) for sample in ALL if ": " in sample.line]:
        if tracker.parser_of(program) in (tracker.parse_smtpd, tracker.parse_agent, tracker.parse_discard, tracker.parse_spamd):
            pools.setdefault(program, []).append(text)
    assert sum(map(len, pools.values())) > 4000
    rng, programs = random.Random(SEED), sorted(pools)
    print("USUAL_SEED=%d" % SEED)
    for _ in range(TEXTS):
        program = rng.choice(programs)
        text = changed(rng, rng.choice(pools[program]), pools[program])
        events = [module.parser_of(program)(text) for module in (tracker, plain)]
        assert repr(events[0]) == repr(events[1]), (program, text)
