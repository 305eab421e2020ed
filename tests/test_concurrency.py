"""Many at a time: lines of SPF and spam filters carry no queue ID, and each must find the one message it is about.

Two hundred transactions of one client whose lines interleave in every way that real processes allow: every message shows the SPF
result that was told for its own sender. Two hundred scans by parallel children of spamd, with Message-IDs that are repeated or missing:
every message shows its own score. The same after restarts anywhere, and in both forms of stamps.

    CONCURRENCY_SEEDS=7:9 pytest tests/test_concurrency.py         other interleavings
"""
import bisect
import collections
import itertools
import os
import random
from unittest import mock

import pytest

from tests.unit.replay import Replay, tracker, traditional

MANY = 200
RESULTS = ("Pass", "Fail", "Softfail", "Neutral", "None", "Temperror", "Permerror")
CLIENT = "mail.bulk.test[192.0.2.10]"


def seeds():
    """The seeds that CONCURRENCY_SEEDS names, `first:end`, else the usual ones."""
    first, _, end = os.environ.get("CONCURRENCY_SEEDS", "1:2").partition(":")
    return range(int(first), int(end or int(first) + 1))


def stamped(texts, step):
    """Lines, `step` microseconds apart."""
    return ["2026-11-20T10:%02d:%02d.%06d+00:00 mx %s" % (
        now // 60000000, now // 1000000 % 60, now % 1000000, text) for now, text in zip(range(1000, 3600000000, step), texts)]


def lives(replay, rng):
    """(how, rows) of lives that are cut here and there."""
    places = range(1, len(replay.lines))
    yield "at once", replay.whole()
    yield "twice", replay.twice()
    yield "written after every line", replay.cut(len(replay.lines), rhythm=1)
    for place in sorted(rng.sample(places, 4)):
        yield "cut before line %d" % (place + 1), replay.cut(place)
    many = sorted(rng.sample(places, 20))
    yield "cut before lines %s" % ", ".join(str(place + 1) for place in many), replay.cut(*many)


def in_every_life(lines, rng, wrong):
    """Assert that `wrong` finds nothing in the rows, however the lines are read, in both forms of stamps."""
    for form in (lines, traditional(lines)):
        for how, rows in lives(Replay(form), rng):
            found = wrong(rows)
            assert not found, "%s: %d wrong, the first: %s\n%s" % (how, len(found), found[0], "\n".join(
                line for line in form if any(name and str(name) in line for name in found[0][:2])))


# SPF results: a client's transactions

class Transaction:
    """A mail of the client: what its processes log, in their order.

    `intake` is the part that the smtpd process does before it turns to its next mail. `result` None: the policy server said nothing of
    it. `refused`: its only recipient is.
    """

    def __init__(self, number, sender, result, refused=False, envelope=None):
        self.number, self.sender, self.result, self.refused = number, sender, result, refused
        self.queue_id = "3A%03d17%04d" % (number, number)
        self.envelope = sender if envelope is None else envelope

    def intake(self, smtpd, policy):
        """What is logged until the mail is taken in."""
        lines = []
        if self.result is not None:
            lines.append("policyd-spf[%d]: prepend Received-SPF: %s (%s) identity=%s; client-ip=192.0.2.10; helo=mail.bulk.test; "
                         "envelope-from=%s; receiver=<UNKNOWN> " % (
                             policy, self.result, "mailfrom" if self.sender else "helo", "mailfrom" if self.sender else "helo",
                             self.sender.lower() or "<>"))
        if self.refused:
            return [*lines, "postfix/smtpd[%d]: NOQUEUE: reject: RCPT from %s: 550 5.1.1 <n%d@ok.test>: no; from=<%s> to=<n%d@ok.test> "
                    "proto=ESMTP helo=<mail.bulk.test>" % (smtpd, CLIENT, self.number, self.sender, self.number)]
        return [*lines, "postfix/smtpd[%d]: %s: client=%s" % (smtpd, self.queue_id, CLIENT),
                "postfix/cleanup[%d]: %s: message-id=<m%d@bulk.test>" % (smtpd + 5000, self.queue_id, self.number)]

    def delivery(self):
        """What is logged then."""
        if self.refused:
            return []
        return ["postfix/qmgr[9]: %s: from=<%s>, size=%d, nrcpt=1 (queue active)" % (self.queue_id, self.envelope, self.number),
                "postfix/smtp[%d]: %s: to=<r%d@ok.test>, relay=mx.ok.test[192.0.2.90]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, "
                "status=sent (250 ok)" % (20000 + self.number, self.queue_id, self.number),
                "postfix/qmgr[9]: %s: removed" % self.queue_id]

    def name(self):
        """How its row is found again."""
        return "n%d@ok.test" % self.number if self.refused else "r%d@ok.test" % self.number


def of_different_senders(rng, count=MANY):
    """Each its own sender, some in capitals, some rewritten when they reach the queue."""
    for number in range(count):
        sender = "%s%d@Bulk%d.test" % (rng.choice(("a", "News+")), number, number % 17)
        local, _, domain = sender.partition("@")
        envelope = "SRS0=Ab1+=JL=%s=%s@me.test" % (domain, local) if rng.random() < 0.2 else None
        yield Transaction(number, sender, rng.choice(RESULTS), envelope=envelope)


def of_few_senders(rng, count=MANY):
    """Some senders have several mails under way; for one client a sender has one result."""
    senders = [("a%d@bulk%d.test" % (number, number), rng.choice(RESULTS)) for number in range(count * 3 // 10 + 1)]
    for number in range(count):
        yield Transaction(number, *rng.choice(senders))


def of_null_senders(rng, count=MANY):
    """Many bounces among them: theirs is the result for the HELO name, which is the client's one."""
    for number in range(count):
        sender, result = ("", "Softfail") if rng.random() < 0.4 else ("a%d@bulk.test" % number, rng.choice(RESULTS))
        yield Transaction(number, sender, result)


def of_some_without_result(rng, count=MANY):
    """Of some the policy server said nothing: they must not take another's."""
    for number in range(count):
        yield Transaction(number, "a%d@bulk.test" % number, rng.choice(RESULTS) if rng.random() < 0.8 else None)


def of_some_refused(rng, count=MANY):
    """Some are turned away: they have taken their result with them."""
    for number in range(count):
        yield Transaction(number, "a%d@bulk.test" % number, rng.choice(RESULTS), refused=rng.random() < 0.3)


# Interleavings

def merged(rng, chains, at_a_time):
    """Lines of chains at random, so many chains being under way."""
    waiting, open_chains = collections.deque(chains), []
    while waiting or open_chains:
        while waiting and len(open_chains) < at_a_time:
            open_chains.append(collections.deque(waiting.popleft()))
        chain = rng.choice(open_chains)
        if chain:
            yield chain.popleft()
        if not chain:
            open_chains.remove(chain)


def all_at_a_time(rng, mails, policy):
    """Two hundred smtpd processes: any line after any other."""
    return merged(rng, [mail.intake(100 + mail.number, policy(mail.number)) + mail.delivery() for mail in mails], MANY)


def few_at_a_time(rng, mails, policy):
    """At any moment eight are under way."""
    return merged(rng, [mail.intake(100 + mail.number, policy(mail.number)) + mail.delivery() for mail in mails], 8)


def all_results_first(rng, mails, policy):
    """The policy server answers for all of them, then they are taken in, in another order, then they are queued, in another still."""
    results, births = results_and_births(mails, policy)
    rng.shuffle(results)
    rng.shuffle(births)
    return itertools.chain(*results, *births, merged(rng, [mail.delivery() for mail in mails], MANY))


def last_come_first_served(rng, mails, policy):
    """The one whose result came last is taken in first, and queued last."""
    results, births = results_and_births(mails, policy)
    return itertools.chain(*results, *reversed(births), *[mail.delivery() for mail in mails])


def results_and_births(mails, policy):
    """What the policy server says of each, and what smtpd and cleanup do."""
    intakes = [mail.intake(100 + mail.number, policy(mail.number)) for mail in mails]
    return ([[line for line in chain if line.startswith("policyd-spf") is said] for chain in intakes] for said in (True, False))


def twenty_sessions(rng, mails, policy, count=20):
    """Twenty smtpd processes, each with one mail after the other; what becomes of a mail does not keep its session waiting."""
    sessions = [[] for _ in range(count)]
    for mail in mails:
        number = mail.number % count
        sessions[number] += [(line, None) for line in mail.intake(100 + number, policy(number))]
        sessions[number][-1] = sessions[number][-1][0], mail
    ready = []
    for line, taken_in in merged(rng, sessions, count):
        yield line
        if taken_in is not None:
            ready.append(taken_in.delivery())
        while ready and rng.random() < 0.55:
            chain = rng.choice(ready)
            yield from chain[:1]
            del chain[:1]
            ready = [one for one in ready if one]
    yield from merged(rng, ready, MANY)


INTERLEAVINGS = (all_at_a_time, few_at_a_time, all_results_first, last_come_first_served, twenty_sessions)
POPULATIONS = (of_different_senders, of_few_senders, of_null_senders, of_some_without_result, of_some_refused)
POLICY_SERVERS = {"one policy process per smtpd": lambda number: 30000 + number, "one policy process": lambda number: 30000}


@pytest.mark.parametrize("processes", POLICY_SERVERS)
@pytest.mark.parametrize("population", POPULATIONS)
@pytest.mark.parametrize("interleaved", INTERLEAVINGS)
def test_each_of_200_interleaved_mails_of_one_client_gets_the_spf_result_of_its_sender(interleaved, population, processes):
    for seed in seeds():
        print("seed", seed)
        rng = random.Random(seed)
        mails = list(population(rng))
        lines = stamped(interleaved(rng, mails, POLICY_SERVERS[processes]), 23000)
        in_every_life(lines, rng, lambda rows, mails=mails: misplaced(rows, mails))


def misplaced(rows, mails):
    """(queue ID, sender, result, result expected) of the rows that show another's result, or a result too few."""
    shown = {row.orig_to: row for row in rows}
    assert len(rows) == len(mails) == len(shown)
    return [(mail.queue_id, mail.sender, shown[mail.name()].spf_result, mail.result) for mail in mails
            if shown[mail.name()].spf_result != mail.result]


@pytest.mark.parametrize("form", [list, traditional])
@pytest.mark.parametrize("population", POPULATIONS)
def test_of_few_interleaved_mails_each_gets_the_spf_result_of_its_sender_wherever_the_reading_is_cut(population, form):
    """Two or three sessions of one client with four to seven mails: cut before every line, and at each line once."""
    for seed in itertools.chain.from_iterable(range(seed * 1000, seed * 1000 + 25) for seed in seeds()):
        print("seed", seed)
        rng = random.Random(seed)
        mails = list(population(rng, rng.randint(4, 7)))
        lines = stamped(twenty_sessions(rng, mails, POLICY_SERVERS["one policy process per smtpd"], rng.randint(2, 3)), 23000)
        assert not misplaced(Replay(form(lines)).however_read(), mails), "\n".join(lines)


@pytest.mark.parametrize("interleaved", INTERLEAVINGS)
def test_of_one_sender_whose_results_differ_each_is_shown_once(interleaved):
    """A name server that answers now and then: which of two overlapping mails of one sender had which result, no log tells."""
    for seed in seeds():
        print("seed", seed)
        rng = random.Random(seed)
        mails = [Transaction(number, "a%d@bulk.test" % (number % 40), rng.choice(RESULTS)) for number in range(MANY)]
        lines = stamped(interleaved(rng, mails, POLICY_SERVERS["one policy process per smtpd"]), 23000)
        expected = sorted((mail.sender, mail.result) for mail in mails)
        in_every_life(lines, rng, lambda rows, expected=expected: differing(
            sorted((row.envelope_from, row.spf_result or "") for row in rows), expected))


def differing(found, expected):
    """Pairs of what is found and expected, where they differ."""
    return [(*one, *other) for one, other in zip(found, expected) if one != other] or ["too few"] * (len(found) != len(expected))


# Spam scores: a message's scan is found by its Message-ID

class Scanned:
    """A message and the scan of it. `message_id` is what cleanup says of its Message-ID, `scanned` what spamd says."""

    def __init__(self, number, message_id, scanned=None):
        self.number, self.message_id = number, message_id
        self.scanned = message_id if scanned is None else scanned
        self.queue_id = "3A%03d17%04d" % (number, number)
        self.score = round(number * 0.1 - 7, 1)
        self.child = None

    def lines(self, behind_the_queue):
        """(step, text) of its way: scanned by a milter before it is queued, or by a filter behind the queue."""
        active = ("active", "postfix/qmgr[9]: %s: from=<a@bulk.test>, size=9, nrcpt=1 (queue active)" % self.queue_id)
        scan = [("begin", "spamd: processing message %s for nobody:115" % self.scanned),
                ("score", "spamd: %s (%.1f/5.0) for nobody:115 in 0.1 seconds, 99 bytes." % (
                    "identified spam" if self.score >= 5 else "clean message", self.score)),
                ("result", "spamd: result: %s %2d - BAYES_50 scantime=0.1,size=99,user=nobody,uid=115,required_score=5.0,rhost=localhost,"
                           "raddr=127.0.0.1,rport=58868,mid=%s,autolearn=no" % (
                               "Y" if self.score >= 5 else ".", int(self.score), self.scanned.replace(",", "_")))]
        return [("birth", "postfix/smtpd[%d]: %s: client=%s" % (100 + self.number, self.queue_id, CLIENT)),
                ("id", "postfix/cleanup[%d]: %s: message-id=%s" % (5000 + self.number, self.queue_id, self.message_id)),
                *([active, *scan] if behind_the_queue else [*scan, active]),
                ("sent", "postfix/pipe[%d]: %s: to=<r%d@ok.test>, relay=filter, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (ok)" % (
                    20000 + self.number, self.queue_id, self.number)),
                ("removed", "postfix/qmgr[9]: %s: removed" % self.queue_id)]


def some_messages():
    """Two hundred: a fifth without Message-ID, two fifths share one with others, the rest have strange ones of their own."""
    for number in range(MANY):
        if number % 5 == 0:
            yield Scanned(number, "<>", "(unknown)")
        elif number % 5 in (1, 2):
            yield Scanned(number, "<newsletter%d@bulk.test>" % (number % 7))
        elif number % 3 == 0:
            yield Scanned(number, "<m%d with blanks, and commas@bulk.test>" % number, "<m%d?with?blanks,?and?commas@bulk.test>" % number)
        elif number % 3 == 1:
            yield Scanned(number, "m%d_without_brackets@bulk.test" % number, "<m%d_without_brackets@bulk.test>" % number)
        else:
            yield Scanned(number, "<M%d@Bulk.Test> (a comment)" % number, "<M%d@Bulk.Test>" % number)


def scans(rng, messages, behind_the_queue, children, waits):
    """The lines of all, thirty messages under way: so many children scan at a time, one message each.

    `waits(message, step, twins)` keeps a message before a step because of those under way that have the same Message-ID: the lines
    that are still to come of each.
    """
    waiting, under_way, free = collections.deque(messages), {}, list(range(800, 800 + children))
    while waiting or under_way:
        while waiting and len(under_way) < 30:
            message = waiting.popleft()
            under_way[message] = collections.deque(message.lines(behind_the_queue))
        message = rng.choice(list(under_way))
        step, text = under_way[message][0]
        twins = [lines for other, lines in under_way.items() if other is not message and other.message_id == message.message_id]
        if step == "begin" and not free or waits(step, twins):
            continue
        if step == "begin":
            message.child = free.pop(rng.randrange(len(free)))
        under_way[message].popleft()
        yield "spamd[%d]: %s" % (message.child, text) if text.startswith("spamd: ") else text
        if step == "result":
            free.append(message.child)
        if step == "removed":
            del under_way[message]


def one_after_the_other(step, twins):
    """Of those with one Message-ID the next comes in when the one before is gone."""
    return step == "birth" and any(lines[0][0] != "birth" for lines in twins)


def answered_one_by_one(step, twins):
    """They are scanned at the same time; but whoever has its result goes on before the next has."""
    return step == "result" and any(is_answered(lines) for lines in twins)


def is_answered(lines):
    """Whether of these lines to come the one that follows the result is the first."""
    return [step for step, _ in lines] in (["active", "sent", "removed"], ["sent", "removed"])


def at_any_time(step, twins):
    """Nobody waits for another."""
    return False


def scanned(seed, behind_the_queue, children, waits):
    """(messages, their lines, the generator for what follows)."""
    print("seed", seed)
    rng = random.Random(seed)
    messages = list(some_messages())
    rng.shuffle(messages)
    return messages, stamped(scans(rng, messages, behind_the_queue, children, waits), 23000), rng


of_both_places = pytest.mark.parametrize("behind_the_queue", [False, True], ids=["milter", "filter behind the queue"])


@pytest.mark.parametrize("waits, children", [(one_after_the_other, 1), (one_after_the_other, 7), (answered_one_by_one, 7)])
@of_both_places
def test_each_of_200_messages_with_repeated_or_missing_message_ids_gets_its_own_spam_score(behind_the_queue, waits, children):
    for seed in seeds():
        messages, lines, rng = scanned(seed, behind_the_queue, children, waits)
        in_every_life(lines, rng, lambda rows, messages=messages: scores_of_others(rows, messages))


def scores_of_others(rows, messages):
    """(queue ID, Message-ID, score, score expected) of the rows that show another's score, or none."""
    shown = {row.queue_id: row for row in rows}
    assert len(rows) == len(messages) == len(shown)
    return [(message.queue_id, message.message_id, shown[message.queue_id].spam_score, message.score) for message in messages
            if shown[message.queue_id].spam_score != message.score
            or shown[message.queue_id].spam_status != ("Yes" if message.score >= 5 else "No")]


@pytest.mark.parametrize("form", [list, traditional])
@pytest.mark.parametrize("waits", [one_after_the_other, answered_one_by_one])
@of_both_places
def test_of_few_scanned_messages_each_gets_its_own_spam_score_wherever_the_reading_is_cut(behind_the_queue, waits, form):
    """Three to six messages, most of them with one Message-ID: cut before every line, and at each line once."""
    for seed in itertools.chain.from_iterable(range(seed * 1000, seed * 1000 + 25) for seed in seeds()):
        print("seed", seed)
        rng = random.Random(seed)
        messages = [Scanned(10 * number, rng.choice(("<one@bulk.test>", "<one@bulk.test>", "<other@bulk.test>")))
                    for number in range(rng.randint(3, 6))]
        lines = stamped(scans(rng, messages, behind_the_queue, 3, waits), 23000)
        assert not scores_of_others(Replay(form(lines)).however_read(), messages), "\n".join(lines)


@of_both_places
def test_of_overlapping_scans_of_one_message_id_each_score_is_shown_once(behind_the_queue):
    """When several were answered before any of them went on, no log tells which was which."""
    for seed in seeds():
        messages, lines, rng = scanned(seed, behind_the_queue, 7, at_any_time)
        in_every_life(lines, rng, lambda rows, messages=messages: differing(*of_message_ids(rows, messages)))


def of_message_ids(rows, messages):
    """The scores shown for every Message-ID, and those of its messages."""
    names = {message.queue_id: message.message_id for message in messages}
    shown = sorted((names[row.queue_id], -99 if row.spam_score is None else row.spam_score) for row in rows)
    return shown, sorted((message.message_id, message.score) for message in messages)


# What is under way together keeps the saved position back, but never for long

def without_a_pause(chains, seconds, overlap):
    """Lines of chains, each begun when the one before is only half told; `overlap` of them at a time, `seconds` from line to line."""
    texts = []
    for number, chain in enumerate(chains):
        texts += [(number + overlap * place / len(chain), text) for place, text in enumerate(chain)]
    return stamped([text for _, text in sorted(texts)], int(seconds * 1e6))


def longest_lag(lines):
    """By how many seconds of the log the position, saved after every line, stays behind at most."""
    replay, store, lags = Replay(lines), Replay.table(), []
    moments = [minute * 60 + second for minute, second in ((int(line[14:16]), float(line[17:26])) for line in lines)]
    saved = tracker.Correlator.low_water

    def low_water(correlator, position):
        low = saved(correlator, position)
        if position in replay.offsets[1:]:
            here = bisect.bisect_left(replay.offsets, position) - 1
            lags.append(moments[here] - moments[min(bisect.bisect_left(replay.offsets, low), here)])
        return low

    with mock.patch.object(tracker.Correlator, "low_water", low_water):
        replay.run(store, 0, len(lines), rhythm=1)
    store.close()
    return max(lags)


def always_a_mail_under_way():
    """One client."""
    return [mail.intake(100 + mail.number, 30000 + mail.number) + mail.delivery() for mail in of_some_without_result(random.Random(1), 140)]


def always_a_client_with_two_mails_under_way():
    """One client after the other, each with two mails at a time."""
    mails, chains = list(of_different_senders(random.Random(1), 140)), []
    for one, other in zip(mails[::2], mails[1::2]):
        pairs = zip(*[mail.intake(100 + mail.number, 30000 + mail.number) + mail.delivery() for mail in (one, other)])
        chains.append([text.replace("192.0.2.10", "192.0.2.%d" % (one.number + 10)) for pair in pairs for text in pair])
    return chains


def always_a_scan_under_way():
    """One Message-ID."""
    messages = [Scanned(number, "<newsletter@bulk.test>") for number in range(140)]
    for message in messages:
        message.child = 800 + message.number
    return [["spamd[%d]: %s" % (message.child, text) if text.startswith("spamd: ") else text for _, text in message.lines(False)]
            for message in messages]


@pytest.mark.parametrize("chains", [always_a_mail_under_way, always_a_client_with_two_mails_under_way, always_a_scan_under_way])
def test_the_saved_position_moves_on_when_something_is_always_under_way(chains):
    lines = without_a_pause(chains(), 4, 3)
    assert 60 < longest_lag(lines) < 3 * tracker.CROWD_LIFE / tracker.SECOND < float(lines[-1][14:16]) * 60
