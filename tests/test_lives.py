"""Whole lives of mails at random: retries hours apart, forwards, filters, bounces, what the administrator does, all interleaved.

Nobody wrote down what becomes of them. But the table must not depend on how the log was read: at once, with rows written after every
line, as the daemon does, or with restarts anywhere; in both forms of stamps.

    LIVES_SEEDS=1000:2000 pytest tests/test_lives.py         other lives
"""
import datetime
import os
import random

import pytest

from tests.unit.replay import Replay, told, traditional

START = datetime.datetime(2026, 11, 20, 8)
NEXT_HOP = "relay=mx.far.test[198.51.100.1]:25, delay=1, delays=0/0/0/1"
SENT = NEXT_HOP + ", dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4ABCDEF0123)"
BOUNCED = NEXT_HOP + ", dsn=5.1.1, status=bounced (host mx.far.test[198.51.100.1] said: 550 5.1.1 no (in reply to RCPT TO command))"
DEFERRED = "relay=none, delay=1, delays=0/0/0/1, dsn=4.4.1, status=deferred (connect to mx.far.test[198.51.100.1]:25: Connection refused)"
LOCAL = "relay=local, delay=1, delays=0/0/0/1, "
FORWARDED = LOCAL + "dsn=2.0.0, status=sent (forwarded as %s)"
COMMAND = (LOCAL + 'dsn=2.0.0, status=sent (delivered to command: "list")',
           LOCAL + 'dsn=5.3.0, status=bounced (Command died with status 1: "list")')
FILTERED = ("relay=127.0.0.1[127.0.0.1]:10024, delay=1, delays=0/0/0/1, dsn=2.0.0, "
            "status=sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as %s)")
PROBED = NEXT_HOP + ", dsn=2.1.5, status=deliverable (250 2.1.5 Ok)"
CIPHER = "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"


class Site:
    """A mail server and its log: (second, tag, text) in the order in which they were thought of."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.said = []
        self.serial = 0

    def say(self, time, tag, text):
        """A line."""
        self.said.append((time, tag, text))

    def lines(self):
        """The log."""
        ordered = sorted(self.said, key=lambda line: line[0])
        return ["%s+00:00 mx %s: %s" % ((START + datetime.timedelta(seconds=time)).isoformat(timespec="microseconds"), tag, text)
                for time, tag, text in ordered]

    def new_id(self):
        """A queue ID."""
        self.serial += 1
        return "%05X%06X" % (self.rng.randrange(0x10000, 0xF423F), 0xA00000 + self.serial)

    def chance(self, share):
        """Whether something happens."""
        return self.rng.random() < share

    def mail(self, time, number):
        """A mail, from its client or submitter to its end."""
        queue_id, sender = self.new_id(), "s%d@ex%d.test" % (number, number)
        if self.chance(0.15):
            self.probe(time, queue_id)
            return
        if self.chance(0.25):
            self.say(time, "postfix/pickup[51]", "%s: uid=0 from=<%s>" % (queue_id, sender))
        else:
            time = self.session(time, number, queue_id, sender)
        time += self.rng.choice((0.1, 0.2, 0.3))
        self.say(time, "postfix/cleanup[70]", "%s: message-id=<%s@m>" % (queue_id, sender))
        if self.chance(0.3):
            self.say(time + 0.01, "opendkim[9]", "%s: DKIM verification successful" % queue_id)
        names = [("u%d@here.test" % one, self.rng.choice("uv") + "%d@here.test" % one) for one in range(self.rng.randrange(1, 4))]
        self.deliver(time + 0.1, queue_id, sender, names)

    def session(self, time, number, queue_id, sender):
        """A client hands the mail in; returns when."""
        smtpd, peer = "postfix/smtpd[%d]" % (100 + number), "h%d[203.0.113.%d]" % (number % 3, number % 3 + 1)
        refused = "reject: RCPT from %s: 550 5.1.1 <no@h.test>: unknown; from=<%s> to=<no@h.test> proto=ESMTP helo=<hello>" % (peer, sender)
        self.say(time, smtpd, "connect from " + peer)
        if self.chance(0.5):
            self.say(time + 0.1, smtpd, "Anonymous TLS connection established from %s: %s" % (peer, CIPHER))
        if self.chance(0.3):
            self.say(time + 0.2, smtpd, "NOQUEUE: " + refused)
        if self.chance(0.3):
            self.say(time + 0.3, "policyd-spf[8]", ": prepend Received-SPF: Pass (mailfrom) identity=mailfrom; "
                     "client-ip=203.0.113.%d; helo=h; envelope-from=%s; receiver=<UNKNOWN>" % (number % 3 + 1, sender))
        self.say(time + 0.4, smtpd, "%s: client=%s" % (queue_id, peer))
        if self.chance(0.3):
            self.say(time + 0.5, smtpd, "%s: %s" % (queue_id, refused))
        self.say(time + self.rng.choice((1, 50)), smtpd, "disconnect from %s ehlo=1 quit=1 commands=2" % peer)
        return time + 0.5

    def probe(self, time, queue_id):
        """verify(8) asks, the answer may take its time."""
        sender = self.rng.choice(("", "double-bounce@mx.here.test", "postmaster@here.test"))
        self.say(time, "postfix/cleanup[70]", "%s: message-id=<20261120.%s@mx.here.test>" % (queue_id, queue_id))
        self.say(time + 0.1, "postfix/qmgr[50]", "%s: from=<%s>, size=256, nrcpt=1 (queue active)" % (queue_id, sender))
        time += self.rng.choice((1, 60))
        self.say(time, "postfix/smtp[60]", "%s: to=<who@far.test>, %s" % (queue_id, PROBED))
        self.say(time + 0.1, "postfix/qmgr[50]", "%s: removed" % queue_id)

    def deliver(self, time, queue_id, sender, names, depth=0):
        """Attempts, until nobody is left or somebody ends it. `names`: (to, orig_to)."""
        queued = "%s: from=<%s>, size=%d, nrcpt=%d (queue active)" % (queue_id, sender, self.rng.randrange(500, 9999), len(names))
        for _ in range(4):
            self.say(time, "postfix/qmgr[50]", queued)
            for name in list(names):
                time += self.rng.choice((0.01, 0.5, 3, 20, 45))
                if self.attempt(time, queue_id, sender, name, depth):
                    names.remove(name)
            if not names:
                self.say(time + 0.1, "postfix/qmgr[50]", "%s: removed" % queue_id)
                return
            time += self.rng.choice((5, 40, 300))
            if self.handled(time, queue_id, sender, names, depth):
                return
            time += 45
        self.expire(time, queue_id, sender, depth)

    def attempt(self, time, queue_id, sender, name, depth):
        """Try to deliver to one recipient; whether that is done with."""
        to, orig_to = name
        outcome = self.rng.choice(("sent", "sent", "deferred", "bounced") + (("forwarded", "command", "filtered") if depth < 2 else ()))
        head = "%s: to=<%s>, " % (queue_id, to) + ("orig_to=<%s>, " % orig_to if orig_to != to else "")
        tail = {"sent": SENT, "deferred": DEFERRED, "bounced": BOUNCED}.get(outcome)
        if tail:
            self.say(time, "postfix/smtp[%d]" % self.rng.randrange(60, 64), head + tail)
            return outcome != "deferred"
        child = self.new_id()
        if outcome == "filtered":
            self.say(time, "postfix/smtp[60]", head + FILTERED % child)
            self.say(time - 0.004, "postfix/smtpd[99]", "%s: client=localhost[127.0.0.1], orig_queue_id=%s, orig_client=h[203.0.113.9]" % (
                child, queue_id))
        else:
            if outcome == "command":
                self.say(time, "postfix/local[65]", head + self.rng.choice(COMMAND))
            self.say(time + 0.001, "postfix/local[65]", head + FORWARDED % child)
        self.say(time - 0.002, "postfix/cleanup[70]", "%s: message-id=<%s@m>" % (child, sender))
        self.deliver(time + 0.01, child, sender, [(to, to) if outcome == "filtered" else ("f@far.test", orig_to)], depth + 1)
        return True

    def handled(self, time, queue_id, sender, names, depth):
        """What happens between two attempts; whether it was the end."""
        what = self.rng.choice(("nothing", "nothing", "hold", "expire", "delete", "requeue"))
        if what == "hold":
            self.say(time, "postfix/postsuper[80]", "%s: placed on hold" % queue_id)
            self.say(time + self.rng.choice((5, 40)), "postfix/postsuper[81]", "%s: released from hold" % queue_id)
        elif what == "expire":
            self.expire(time, queue_id, sender, depth)
        elif what == "delete":
            self.say(time, "postfix/postsuper[80]", "%s: removed" % queue_id)
        elif what == "requeue":
            child = self.new_id()
            self.say(time, "postfix/postsuper[80]", "%s: requeued" % queue_id)
            time += self.rng.choice((0.1, 5, 40))
            self.say(time, "postfix/pickup[51]", "%s: uid=104 from=<%s> orig_id=%s" % (child, sender, queue_id))
            self.say(time + 0.01, "postfix/cleanup[70]", "%s: message-id=<%s@m>" % (child, sender))
            self.deliver(time + 0.02, child, sender, names, depth)
        return what in ("expire", "delete", "requeue")

    def expire(self, time, queue_id, sender, depth):
        """Back to the sender."""
        child = self.new_id()
        self.say(time, "postfix/qmgr[50]", "%s: from=<%s>, status=expired, returned to sender" % (queue_id, sender))
        self.say(time + 0.01, "postfix/cleanup[70]", "%s: message-id=<20261120.%s@mx.here.test>" % (child, child))
        told = "%s: sender non-delivery notification: %s" % (queue_id, child)
        self.say(time + self.rng.choice((0.005, 0.02)), "postfix/bounce[71]", told)
        if depth < 3:
            self.deliver(time + 0.05, child, "", [(sender, sender)], 3)
        self.say(time + 0.1, "postfix/qmgr[50]", "%s: removed" % queue_id)


class CheckedSite(Site):
    """The same where cleanup's checks hold some of the mail, or throw it away, and a filter hands it back for all recipients together.

    What local(8) forwards is not checked (forward.c: CLEANUP_FLAG_MASK_INTERNAL).
    """

    def deliver(self, time, queue_id, sender, names, depth=0):
        what = self.rng.choice(("pass", "pass", "hold", "milter-hold", "discard", "together"))
        if depth == 3 or what == "pass" or names[0][0] == "f@far.test" or what == "together" and depth:
            super().deliver(time, queue_id, sender, names, depth)
        elif what == "together":
            self.hand_back(time, queue_id, sender, names)
        elif not self.is_over(time, queue_id, sender, what, self.rng.choice(self.rng.choice(names))):
            super().deliver(time + 101, queue_id, sender, names, depth)

    def is_over(self, time, queue_id, sender, what, name):
        """A check says what becomes of a mail, and names one recipient, by either name; returns whether that is the end."""
        said = "END-OF-MESSAGE from h[203.0.113.9]: milter triggers HOLD action" if what == "milter-hold" else "header X: x from local"
        said += "; from=<%s> to=<%s> proto=ESMTP helo=<h>" % (sender, name)
        self.say(time - 0.001, "postfix/cleanup[70]", "%s: %s: %s" % (queue_id, what, said))
        if what == "discard":
            return True
        is_deleted = self.chance(0.2)
        said = "removed" if is_deleted else "released from hold"
        self.say(time + self.rng.choice((5, 40, 100)), "postfix/postsuper[80]", "%s: %s" % (queue_id, said))
        return is_deleted

    def hand_back(self, time, queue_id, sender, names):
        """Through a filter, all together, and some through an alias behind it, where there is no other filter."""
        child, time = self.new_id(), time + self.rng.choice((0.1, 3, 20, 45))
        told = self.rng.choice(("", ", orig_client=h[203.0.113.9]", ", orig_queue_id=%s, orig_client=h[203.0.113.9]" % queue_id))
        self.say(time - 0.01, "postfix/smtpd[99]", "%s: client=localhost[127.0.0.1]%s" % (child, told))
        self.say(time - 0.009, "postfix/cleanup[70]", "%s: message-id=<%s@m>" % (child, sender))
        for to, orig_to in names:
            alias = "orig_to=<%s>, " % orig_to if orig_to != to else ""
            self.say(time, "postfix/smtp[60]", "%s: to=<%s>, %s%s" % (queue_id, to, alias, FILTERED % child))
        self.say(time + 0.003, "postfix/qmgr[50]", "%s: removed" % queue_id)
        behind = [(self.rng.choice((to, "f%d@far.test" % place)), to) for place, (to, _) in enumerate(names)]
        self.deliver(time + 0.004, child, sender, behind, 2)


class CheckingSite(Site):
    """A server whose policy server checks SPF for most of the mail that few clients hand in at once, some recipients being refused."""

    def mail(self, time, number):
        """What a client hands in within a session."""
        smtpd, peer = "postfix/smtpd[%d]" % (100 + number), "h[203.0.113.%d]" % self.rng.choice((1, 1, 2))
        policyd = "policyd-spf[%d]" % self.rng.choice((8, 200 + number, 200 + number))
        self.say(time, smtpd, "connect from " + peer)
        for _ in range(self.rng.randrange(1, 4)):
            time = self.transaction(time + self.rng.choice((0.01, 0.3, 2, 20)), smtpd, peer, policyd)
        self.say(time + self.rng.choice((0.1, 3)), smtpd, "disconnect from %s ehlo=1 mail=1 quit=1 commands=3" % peer)

    def transaction(self, time, smtpd, peer, policyd):
        """A mail of a sender of its own; returns when it was handed in."""
        queue_id = self.new_id()
        sender, result = "s%d@ex.test" % self.serial, self.rng.choice(("Pass", "Fail", "Softfail", "None"))
        refused = "reject: RCPT from %s: 550 5.1.1 <no@h.test>: unknown; from=<%s> to=<no@h.test> proto=ESMTP helo=<h>" % (peer, sender)
        if self.chance(0.8):
            self.say(time, policyd, ": prepend Received-SPF: %s (mailfrom) identity=mailfrom; client-ip=%s; helo=h; envelope-from=%s; "
                     "receiver=<UNKNOWN>" % (result, peer[2:-1], sender))
        if self.chance(0.3):
            self.say(time + 0.01, smtpd, "NOQUEUE: " + refused)
            if self.chance(0.4):
                return time + 0.01
            time += self.rng.choice((0.01, 1))
        self.say(time + 0.01, smtpd, "%s: client=%s" % (queue_id, peer))
        if self.chance(0.2):
            self.say(time + 0.02, smtpd, "%s: %s" % (queue_id, refused))
        time += self.rng.choice((0.03, 0.5, 5))
        self.say(time, "postfix/cleanup[70]", "%s: message-id=<%s@m>" % (queue_id, sender))
        self.deliver(time + self.rng.choice((0.01, 0.4, 9)), queue_id, sender, [("u@far.test", "u@far.test")], 3)
        return time


TELLING = (91, 96, 103, 161, 164, 285, 347, 364, 626, 733, 821, 899, 1171, 1279, 1311, 1433, 31101)       # that found something once


def seeds():
    """The seeds that LIVES_SEEDS names, `first:end`, else the usual ones."""
    if "LIVES_SEEDS" not in os.environ:
        return [*range(1, 81), *TELLING]
    first, _, end = os.environ["LIVES_SEEDS"].partition(":")
    return range(int(first), int(end or int(first) + 1))


@pytest.mark.parametrize("seed", seeds())
def test_T1_random_lives_end_alike_however_they_are_read(seed):
    live(Site(seed), 4)


@pytest.mark.parametrize("seed", seeds())
def test_T1_random_lives_with_checks_end_alike_however_they_are_read(seed):
    live(CheckedSite(seed), 2)


@pytest.mark.parametrize("seed", seeds())
def test_T1_random_sessions_with_spf_end_alike_however_they_are_read(seed):
    live(CheckingSite(seed), 3)


def live(site, mails):
    """Some mails live at a site: the rows are the same however its log is read."""
    for number in range(mails):
        site.mail(site.rng.random() * 120, number)
    site.say(86400, "postfix/anvil[9]", "statistics: max cache size 1 at Nov 20 10:00:00")
    lines = site.lines()
    for form in (lines, traditional(lines)):
        replay, places = Replay(form), sorted(site.rng.sample(range(1, len(lines)), min(6, len(lines) - 1)))
        rows = replay.whole()
        ways = {
            "twice": replay.twice(), "again, written after every line": replay.twice(rhythm=1),
            "written after every line": replay.cut(len(lines), rhythm=1), "in one life, written after every line": replay.whole(rhythm=1),
            "in one life, written after every 5 lines": replay.whole(rhythm=5), "cut before every line": replay.cut(*range(1, len(lines))),
            "cut before lines %s" % [place + 1 for place in places]: replay.cut(*places)}
        for way, found in ways.items():
            assert found == rows, "%s:\n%s\nat once:\n%s\n\n%s" % (way, told(found), told(rows), "\n".join(form))
