#!/usr/bin/env python3
"""Verify SRS unwrapping: who is behind a sender that a forwarder rewrote (Sender Rewriting Scheme).

SRS0=hash=time=domain=local@forwarder hides local@domain; SRS1 wraps such an address once more. What is no SRS address,
or cannot be read back, unwraps to None, and original_envelope_from is then the same as envelope_from.

Run: python3 test_srs_unwrapping.py (nothing to install), or pytest. A new case is one more line in ADDRESSES or LOGS.
"""
import re
import sys
import unittest

import mail_relay_tracker as tracker

SRS0 = "SRS0=HHHH=TT=orig.example=joe@fwd.example"
SRS1 = "SRS1=HHHH=fwd.example==GGGG=TT=orig.example=joe@me.example"
VERP = "owner-list+joe=example.com@lists.example"
DATABASE = "SRS0=HHHH=TT=1=K7PQ5MBDRIV0A2LT9UG83H6JENCFS14O@fwd.example"        # postsrsd 2 keeps the sender to itself
DATABASE1 = "SRS1=HHHH=fwd.example==HHHH=TT=1=K7PQ5MBDRIV0A2LT9UG83H6JENCFS14O@me.example"

# name, address, the sender behind it
ADDRESSES = (
    ("SRS0", SRS0, "joe@orig.example"),
    ("SRS0, real hash and time stamp", "SRS0=GOZY=JL=gmail.com=jane.doe@example.com", "jane.doe@gmail.com"),
    ("SRS0, separator plus", "SRS0+HHHH=TT=orig.example=joe@fwd.example", "joe@orig.example"),
    ("SRS0, separator hyphen", "SRS0-HHHH=TT=orig.example=joe@fwd.example", "joe@orig.example"),
    ("SRS0, tag in lower case", "srs0=hhhh=tt=orig.example=joe@fwd.example", "joe@orig.example"),
    ("SRS0, tag in mixed case", "Srs0=HHHH=tt=orig.example=joe@fwd.example", "joe@orig.example"),
    ("case of the sender is kept", "SRS0=HHHH=TT=Orig.Example=Joe@fwd.example", "Joe@Orig.Example"),
    ("hash with plus and slash", "SRS0=a+/b=TT=orig.example=joe@fwd.example", "joe@orig.example"),
    ("hash of one character", "SRS0=H=TT=orig.example=joe@fwd.example", "joe@orig.example"),
    ("hash of twelve characters", "SRS0=HHHHHHHHHHHH=TT=orig.example=joe@fwd.example", "joe@orig.example"),
    ("time stamp with digits", "SRS0=HHHH=27=orig.example=joe@fwd.example", "joe@orig.example"),
    ("equals sign in the local part", "SRS0=HHHH=TT=orig.example=a=b@fwd.example", "a=b@orig.example"),
    ("several equals signs in the local part", "SRS0=HHHH=TT=orig.example=a=b==c=@fwd.example", "a=b==c=@orig.example"),
    ("plus in the local part", "SRS0=HHHH=TT=orig.example=joe+shop@fwd.example", "joe+shop@orig.example"),
    ("hyphen in the local part", "SRS0=HHHH=TT=orig.example=joe-bob@fwd.example", "joe-bob@orig.example"),
    ("VERP address within", "SRS0=HHHH=TT=lists.net=list+joe=x.example@me.example", "list+joe=x.example@lists.net"),
    ("BATV address within", "SRS0=HHHH=TT=orig.example=prvs=1234ab=joe@me.example", "prvs=1234ab=joe@orig.example"),
    ("special characters in the local part", "SRS0=HHHH=TT=orig.example=o'neil/{x}!#%@me.example",
     "o'neil/{x}!#%@orig.example"),
    ("subdomain with hyphens and digits", "SRS0=HHHH=TT=mx-2.4.orig.example=joe@me.example", "joe@mx-2.4.orig.example"),
    ("domain that begins with the digit 1", "SRS0=HHHH=TT=1.example=joe@fwd.example", "joe@1.example"),
    ("IDN in ASCII form", "SRS0=HHHH=TT=xn--mller-kva.example=joe@fwd.example", "joe@xn--mller-kva.example"),
    ("UTF-8 local part", "SRS0=HHHH=TT=orig.example=jörg@fwd.example", "jörg@orig.example"),
    ("quoted local part with a blank", '"SRS0=HHHH=TT=orig.example=john doe"@fwd.example', '"john doe"@orig.example'),
    ("quoted local part with an at sign", '"SRS0=HHHH=TT=orig.example=a@b"@fwd.example', '"a@b"@orig.example'),
    ("blank without quotes, as logged before Postfix 3.5", "SRS0=HHHH=TT=orig.example=john doe@fwd.example",
     "john doe@orig.example"),
    ("SRS0 within SRS0: the sender as its forwarder saw it",
     "SRS0=HHHH=TT=fwd.example=SRS0=GGGG=SS=orig.example=joe@me.example", "SRS0=GGGG=SS=orig.example=joe@fwd.example"),
    ("SRS1", SRS1, "joe@orig.example"),
    ("SRS1, separator plus", "SRS1+HHHH=fwd.example==GGGG=TT=orig.example=joe@me.example", "joe@orig.example"),
    ("SRS1, separator hyphen", "SRS1-HHHH=fwd.example==GGGG=TT=orig.example=joe@me.example", "joe@orig.example"),
    ("SRS1 of an SRS0 with plus", "SRS1=HHHH=fwd.example=+GGGG=TT=orig.example=joe@me.example", "joe@orig.example"),
    ("SRS1 of an SRS0 with hyphen", "SRS1=HHHH=fwd.example=-GGGG=TT=orig.example=joe@me.example", "joe@orig.example"),
    ("SRS1, tag in lower case", "srs1=hhhh=fwd.example==gggg=tt=orig.example=joe@me.example", "joe@orig.example"),
    ("SRS1, equals in the local part", "SRS1=HH=fwd.example==GG=TT=orig.example=a=b@me.example", "a=b@orig.example"),
    ("SRS1, quoted local part", '"SRS1=HHHH=fwd.example==GGGG=TT=orig.example=a b"@me.example', '"a b"@orig.example'),
    ("no SRS address", "joe@orig.example", None),
    ("null sender", "", None),
    ("local name without domain", "root", None),
    ("tag within the local part", "joe.SRS0=HHHH=TT=orig.example=joe@fwd.example", None),
    ("tag in the domain", "joe@SRS0=HHHH=TT=orig.example", None),
    ("tag without separator", "SRS0@fwd.example", None),
    ("tag with another separator", "SRS0_HHHH=TT=orig.example=joe@fwd.example", None),
    ("tag of an unknown number", "SRS2=HHHH=TT=orig.example=joe@fwd.example", None),
    ("SRS0 from a database", DATABASE, None),
    ("SRS1 of an SRS0 from a database", DATABASE1, None),
    ("SRS0 without hash", "SRS0=TT=orig.example=joe@fwd.example", None),
    ("SRS0 with an empty hash", "SRS0==TT=orig.example=joe@fwd.example", None),
    ("SRS0 without time stamp", "SRS0=HHHH=orig.example=joe@fwd.example", None),
    ("SRS0 with a time stamp outside base32", "SRS0=HHHH=T1=orig.example=joe@fwd.example", None),
    ("SRS0 with an empty domain", "SRS0=HHHH=TT==joe@fwd.example", None),
    ("SRS0 without local part", "SRS0=HHHH=TT=orig.example@fwd.example", None),
    ("SRS0 with an empty local part", "SRS0=HHHH=TT=orig.example=@fwd.example", None),
    ("SRS0 without at sign", "SRS0=HHHH=TT=orig.example=joe", None),
    ("SRS1 without the doubled separator", "SRS1=HHHH=fwd.example=GGGG=TT=orig.example=joe@me.example", None),
    ("SRS1 that holds nothing", "SRS1=HHHH=fwd.example==@me.example", None),
    ("SRS1 cut short", "SRS1=HHHH=fwd.example==GGGG=TT@me.example", None),
    ("VERP address", VERP, None),
    ("VERP address of a list named srs0", "srs0+joe=example.com@lists.example", None),
    ("BATV: prvs", "prvs=1234abcdef=joe@orig.example", None),
    ("BATV: prvs, old order", "prvs=joe=1234abcdef@orig.example", None),
    ("BATV: msprvs1", "msprvs1=17856tHGB9FfR=joe@orig.example", None),
    ("BATV: btv1", "btv1==1234abcdef==joe@orig.example", None),
    ("BATV around SRS", "prvs=1234abcdef=SRS0=HHHH=TT=orig.example=joe@fwd.example", None),
)


def queued(sender):
    """A message of this sender enters the queue."""
    return ["postfix/smtpd[1]: 3F1A20C5D1: client=mx.fwd.example[192.0.2.1]",
            "postfix/qmgr[3]: 3F1A20C5D1: from=<%s>, size=900, nrcpt=1 (queue active)" % sender]


def refused(sender):
    """A message of this sender is turned away."""
    return ["postfix/smtpd[1]: NOQUEUE: reject: RCPT from mx.fwd.example[192.0.2.1]: 550 5.1.1 <ann@example.org>: "
            "Recipient address rejected: User unknown; from=<%s> to=<ann@example.org> proto=ESMTP helo=<h>" % sender]


def told(line, sender):
    """postsrsd says something, then a message of this sender enters the queue."""
    return ["postsrsd[5]: " + line] + queued(sender)


# name, lines of the log, (envelope_from, original_envelope_from) of its row
LOGS = (
    ("sender is an SRS0 address", queued(SRS0), (SRS0, "joe@orig.example")),
    ("sender is an SRS1 address", queued(SRS1), (SRS1, "joe@orig.example")),
    ("sender is no SRS address", queued("joe@orig.example"), ("joe@orig.example", "joe@orig.example")),
    ("sender is a VERP address", queued(VERP), (VERP, VERP)),
    ("sender is a malformed SRS address", queued("SRS0=HHHH@fwd.example"), ("SRS0=HHHH@fwd.example",) * 2),
    ("sender is a UTF-8 address", queued("jörg@orig.example"), ("jörg@orig.example", "jörg@orig.example")),
    ("null sender", queued(""), ("", "")),
    ("null sender, looked up by postsrsd 1", told('srs_forward: <""> not rewritten: No at sign in sender address', ""),
     ("", "")),
    ("refused sender is an SRS0 address", refused(SRS0), (SRS0, "joe@orig.example")),
    ("refused sender is no SRS address", refused("joe@orig.example"), ("joe@orig.example", "joe@orig.example")),
    ("refused null sender", refused(""), ("", "")),
    ("database, nobody told who is behind it", queued(DATABASE), (DATABASE, DATABASE)),
    ("database, told by postsrsd 1", told("srs_forward: <a@b> rewritten as <%s>" % DATABASE, DATABASE),
     (DATABASE, "a@b")),
    ("database, told by postsrsd 2", told("<a@b> forwarded as <%s>" % DATABASE, DATABASE), (DATABASE, "a@b")),
    ("database, told by postsrsd 2.2.1 as a table", told("socketmap: <a@b> forwarded as <%s>" % DATABASE, DATABASE),
     (DATABASE, "a@b")),
    ("database, told by postsrsd 2.2.1 as a milter", told("3F1A20C5D1: <a@b> forwarded as <%s>" % DATABASE, DATABASE),
     (DATABASE, "a@b")),
    ("database, told of an SRS1 address", told("srs_forward: <a@b> rewritten as <%s>" % DATABASE1, DATABASE1),
     (DATABASE1, "a@b")),
    ("database, told of another address", told("<a@b> forwarded as <%s>" % DATABASE1, DATABASE), (DATABASE, DATABASE)),
    ("database, not rewritten twice", told("<%s> not rewritten: Valid SRS address for <a@b>" % DATABASE, DATABASE),
     (DATABASE, DATABASE)),
)


def check_address(address):
    """The sender behind an address; the tool holds a log as one character per byte."""
    sender = tracker.unwrap_srs(address.encode("utf-8").decode("latin-1"))
    return sender and sender.encode("latin-1").decode("utf-8")


def check_log(lines):
    """The two senders in the row that lines of a log make, as --import would write it."""
    odd, correlator = [], tracker.Correlator(30 * tracker.SECOND, "mx")
    reader = tracker.Tracker(tracker.Calendar(tracker.epoch(2026, 12, 1, 0)), correlator, odd.append, odd.append)
    reader.feed([("Nov  5 09:03:07 mx " + line).encode("utf-8").decode("latin-1") for line in lines], 0, 0)
    correlator.close(everything=True)
    assert not odd, "lines not understood: %r" % odd
    row, = map(tracker.fitted, tracker.settle(correlator.harvest(), lambda names: {}, 0, tracker.DomainFilter(())))
    return row.envelope_from, row.original_envelope_from


class SrsUnwrapping(unittest.TestCase):
    """One test per case, in the order of the tables."""


def method_of(check, name, given, expected):
    """The test of a case: what goes into `check`, and what must come out."""
    def test(self):
        self.assertEqual(check(given), expected)
    test.__doc__ = name
    return test


METHODS = [method_of(check_address, *case) for case in ADDRESSES] + [method_of(check_log, *case) for case in LOGS]
for number, method in enumerate(METHODS):
    setattr(SrsUnwrapping, "test_%02d_%s" % (number, re.sub(r"\W+", "_", method.__doc__)), method)


def main():
    """Run all cases, a line for each; the exit code."""
    failed, cases = 0, list(unittest.defaultTestLoader.loadTestsFromTestCase(SrsUnwrapping))
    for case in cases:
        result = unittest.TestResult()
        case(result)
        print("%-4s  %s" % ("ok" if result.wasSuccessful() else "FAIL", case.shortDescription()))
        for _, why in result.failures + result.errors:
            failed += 1
            print(why)
    print("%d passed, %d failed" % (len(cases) - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
