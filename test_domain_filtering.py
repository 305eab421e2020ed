#!/usr/bin/env python3
"""Verify the domain filter: which recipients `[filters] track_domains` keeps, and which it leaves out.

A recipient is tracked when the domain of orig_to or of upstream_to is a tracked domain or a subdomain of one; a local
name without domain is judged by the other address; an SRS address leads back to a sender and never counts.

Run: python3 test_domain_filtering.py (nothing to install), or pytest. A new case is one more line in ADDRESSES or LOGS.
"""
import re
import sys
import unittest

import mail_relay_tracker as tracker

ORG = ["example.org"]
IDN = ["müller.example"]

# name, track_domains, orig_to, upstream_to, whether the recipient is tracked
ADDRESSES = (
    ("full address in a tracked domain", ORG, "ann@example.org", "ann@example.org", True),
    ("full address of a third party", ORG, "bob@other.net", "bob@other.net", False),
    ("tracked address forwarded to a third party", ORG, "ann@example.org", "ann@mail.other.net", True),
    ("address of a third party forwarded to a tracked domain", ORG, "bob@other.net", "ann@example.org", True),
    ("refused before a hop exists: no upstream_to", ORG, "ann@example.org", None, True),
    ("third party refused before a hop exists", ORG, "bob@other.net", None, False),
    ("second of several domains", ["example.org", "example.com"], "ann@example.com", "ann@example.com", True),
    ("local user forwarded to a tracked domain", ORG, "ann", "ann@example.org", True),
    ("local user forwarded to a third party", ORG, "ann", "ann@other.net", False),
    ("tracked address delivered to a local user", ORG, "ann@example.org", "ann", True),
    ("local user without any domain", ORG, "ann", "ann", False),
    ("local user whose name is a tracked domain", ORG, "example.org", "example.org", False),
    ("subdomain", ORG, "ann@lists.example.org", "ann@lists.example.org", True),
    ("subdomain of a subdomain", ORG, "ann@a.b.example.org", "ann@a.b.example.org", True),
    ("parent of a tracked subdomain", ["lists.example.org"], "ann@example.org", "ann@example.org", False),
    ("sister of a tracked subdomain", ["lists.example.org"], "ann@www.example.org", "ann@www.example.org", False),
    ("lookalike: tracked domain as the end of a label", ORG, "ann@evilexample.org", "ann@evilexample.org", False),
    ("lookalike: tracked domain as the beginning", ORG, "ann@example.org.evil.net", "ann@example.org.evil.net", False),
    ("lookalike: longer top-level domain", ORG, "ann@example.organic", "ann@example.organic", False),
    ("lookalike: hyphen for a dot", ORG, "ann@mail-example.org", "ann@mail-example.org", False),
    ("address in upper case", ORG, "ANN@EXAMPLE.ORG", "ANN@EXAMPLE.ORG", True),
    ("configured domain in mixed case", ["Example.ORG"], "ann@lists.example.org", "ann@lists.example.org", True),
    ("trailing dot in the address", ORG, "ann@example.org.", "ann@example.org.", True),
    ("trailing dot in the configured domain", ["example.org."], "ann@example.org", "ann@example.org", True),
    ("IDN configured, logged as UTF-8", IDN, "ann@müller.example", "ann@müller.example", True),
    ("IDN configured, logged as UTF-8 in upper case", IDN, "ann@MÜLLER.EXAMPLE", "ann@MÜLLER.EXAMPLE", True),
    ("IDN configured, logged in ASCII form", IDN, "ann@xn--mller-kva.example", "ann@xn--mller-kva.example", True),
    ("IDN configured, logged in ASCII form, upper case", IDN, "ann@XN--MLLER-KVA.EXAMPLE", None, True),
    ("IDN configured, subdomain logged in ASCII form", IDN, "ann@mx.xn--mller-kva.example", None, True),
    ("IDN configured and logged in ASCII form", ["xn--mller-kva.example"], "ann@xn--mller-kva.example", None, True),
    ("IDN whose letter IDNA 2003 replaced, logged in ASCII form", ["Straße.example"], "ann@xn--strae-oqa.example", None, True),
    ("IDN whose letter IDNA 2003 replaced, configured in ASCII form", ["xn--strae-oqa.example"], "ann@straße.example", None, True),
    ("IDN whose letter IDNA 2003 replaced is not that other domain", ["straße.example"], "ann@strasse.example", None, False),
    ("IDN configured in ASCII form, logged as UTF-8", ["xn--mller-kva.example"], "ann@müller.example", "ann@müller.example", True),
    ("IDN beside a label in ASCII form", ["müller.xn--p1ai"], "ann@xn--mller-kva.xn--p1ai", None, True),
    ("ASCII form of nothing", ["xn--999999999.example"], "ann@xn--999999999.example", None, True),
    ("IDN without its umlaut is another domain", IDN, "ann@muller.example", "ann@muller.example", False),
    ("UTF-8 local part in a tracked domain", ORG, "jörg@example.org", "jörg@example.org", True),
    ("SRS0 recipient at a tracked domain", ORG, "SRS0=HHHH=TT=evil.net=bob@example.org", "bob@evil.net", False),
    ("SRS0 recipient in both addresses", ORG, "SRS0=HHHH=TT=evil.net=bob@example.org",
     "SRS0=HHHH=TT=evil.net=bob@example.org", False),
    ("SRS1 recipient at a tracked domain", ORG, "SRS1=HHHH=fwd.net==HHHH=TT=evil.net=bob@example.org", None, False),
    ("SRS tag in lower case", ORG, "srs0=hhhh=tt=evil.net=bob@example.org", None, False),
    ("SRS tag followed by a plus sign", ORG, "SRS0+HHHH=TT=evil.net=bob@example.org", None, False),
    ("SRS tag followed by a hyphen", ORG, "SRS0-HHHH=TT=evil.net=bob@example.org", None, False),
    ("SRS recipient in quotes", ORG, '"SRS0=HHHH=TT=evil.net=bob b"@example.org', None, False),
    ("SRS recipient forwarded to a tracked address", ORG, "SRS0=HHHH=TT=evil.net=bob@gw.net", "ann@example.org", True),
    ("user named srs0, no SRS address", ORG, "srs0@example.org", "srs0@example.org", True),
    ("quoted at sign before a foreign domain", ORG, '"a@example.org"@other.net', '"a@example.org"@other.net', False),
    ("quoted at sign before a tracked domain", ORG, '"a@other.net"@example.org', '"a@other.net"@example.org', True),
    ("quoted local part that is a tracked domain", ORG, '"example.org"@other.net', '"example.org"@other.net', False),
    ("unquoted at sign, as logged before Postfix 3.5", ORG, "a@example.org@other.net", None, False),
    ("percent hack", ORG, "ann%example.org@other.net", "ann%example.org@other.net", False),
    ("VERP address that names a tracked domain", ORG, "owner-list+ann=example.org@lists.net", None, False),
    ("very long name in a tracked domain", ORG, "ann@" + "a." * 200 + "example.org", None, True),
    ("very long name in one label in a tracked domain", ORG, "ann@" + "a" * 250 + ".example.org", None, True),
    ("very long name: lookalike", ORG, "ann@" + "a" * 300 + "example.org", None, False),
    ("leading at sign and dot in the configured domain", ["@.example.org"], "ann@lists.example.org", None, True),
    ("address literal", ORG, "ann@[192.0.2.1]", "ann@[192.0.2.1]", False),
    ("empty filter, full address", [], "bob@other.net", "bob@other.net", True),
    ("empty filter, local user", [], "ann", "ann", True),
    ("empty filter, SRS recipient", [], "SRS0=HHHH=TT=evil.net=bob@example.org", "bob@evil.net", True),
)

BORN = ("postfix/smtpd[1]: 3F1A20C5D1: client=mx.sender.example[192.0.2.1]",
        "postfix/cleanup[2]: 3F1A20C5D1: message-id=<1@sender.example>",
        "postfix/qmgr[3]: 3F1A20C5D1: from=<joe@sender.example>, size=900, nrcpt=4 (queue active)")
GONE = ("postfix/qmgr[3]: 3F1A20C5D1: removed",)


def sent(addresses):
    """The delivery line of a recipient, from `to=<…>` or `to=<…>, orig_to=<…>`."""
    return ("postfix/smtp[4]: 3F1A20C5D1: %s, relay=gw.example[192.0.2.9]:25, delay=0.3, delays=0.1/0/0.1/0.1, "
            "dsn=2.0.0, status=sent (250 2.0.0 Ok)" % addresses,)


def refused(stage, fields):
    """smtpd turns somebody away before there is a queue ID."""
    return ("postfix/smtpd[1]: NOQUEUE: reject: %s from unknown[192.0.2.66]: 554 5.7.1 Access denied;%s proto=ESMTP"
            % (stage, fields),)


# name, track_domains, lines of the log, the rows: (recipient_no, orig_to, upstream_to, relay_status)
LOGS = (
    ("message for a tracked domain", ORG, BORN + sent("to=<ann@example.org>") + GONE,
     [(0, "ann@example.org", "ann@example.org", "sent")]),
    ("message for a third party makes no row", ORG, BORN + sent("to=<bob@other.net>") + GONE, []),
    ("bounce to an SRS address makes no row", ORG,
     BORN + sent("to=<bob@evil.net>, orig_to=<SRS0=HHHH=TT=evil.net=bob@example.org>") + GONE, []),
    ("alias of a local user", ORG, BORN + sent("to=<ann@example.org>, orig_to=<ann>") + GONE,
     [(0, "ann", "ann@example.org", "sent")]),
    ("several recipients: the tracked ones are numbered", ORG,
     BORN + sent("to=<bob@other.net>") + sent("to=<ann@example.org>") + sent("to=<eve@evilexample.org>")
     + sent("to=<amy@example.org>") + GONE,
     [(0, "ann@example.org", "ann@example.org", "sent"), (1, "amy@example.org", "amy@example.org", "sent")]),
    ("several recipients, empty filter: all are numbered", [],
     BORN + sent("to=<bob@other.net>") + sent("to=<ann>") + GONE,
     [(0, "bob@other.net", "bob@other.net", "sent"), (1, "ann", "ann", "sent")]),
    ("recipient at an IDN, as UTF-8 in log and row", IDN, BORN + sent("to=<ann@müller.example>") + GONE,
     [(0, "ann@müller.example", "ann@müller.example", "sent")]),
    ("imitated delivery fields in a quoted local part", ORG,
     BORN + sent('to=<"x>, orig_to=<ann@example.org>, relay=none"@other.net>') + GONE, []),
    ("refused client: no recipient, tracked", ORG, refused("CONNECT", ""), [(0, None, None, "rejected")]),
    ("refused sender: no recipient, tracked", ORG, refused("MAIL", " from=<a@b.example>"),
     [(0, None, None, "rejected")]),
    ("refused recipient of a tracked domain", ORG, refused("RCPT", " from=<a@b.example> to=<ann@example.org>"),
     [(0, "ann@example.org", None, "rejected")]),
    ("refused relaying to a third party makes no row", ORG,
     refused("RCPT", " from=<a@b.example> to=<bob@other.net>"), []),
    ("refused relaying to a third party, empty filter", [], refused("RCPT", " from=<a@b.example> to=<bob@other.net>"),
     [(0, "bob@other.net", None, "rejected")]),
)


def rows_of(domains, lines):
    """The rows that lines of a log make, as --import would write them."""
    tracks, odd = tracker.DomainFilter(domains), []
    correlator = tracker.Correlator(30 * tracker.SECOND, "mx", tracks)
    reader = tracker.Tracker(tracker.Calendar(tracker.epoch(2026, 12, 1, 0)), correlator, odd.append, odd.append)
    reader.feed([("Nov  5 09:03:07 mx " + line).encode("utf-8").decode("latin-1") for line in lines], 0, 0)
    correlator.close(everything=True)
    assert not odd, "lines not understood: %r" % odd
    return list(map(tracker.fitted, tracker.settle(correlator.harvest(), lambda names: {}, 0, tracks)))


def check_address(domains, orig_to, upstream_to):
    """Whether the filter tracks a recipient; the tool holds a log as one character per byte."""
    raw = [address and address.encode("utf-8").decode("latin-1") for address in (orig_to, upstream_to)]
    return tracker.DomainFilter(domains).tracks(*raw)


def check_log(domains, lines):
    """What became of the recipients in a log."""
    return [(row.recipient_no, row.orig_to, row.upstream_to, row.relay_status) for row in rows_of(domains, lines)]


class DomainFiltering(unittest.TestCase):
    """One test per case, in the order of the tables."""


def method_of(check, name, *case):
    """The test of a case: what goes into `check`, and last what must come out."""
    def test(self):
        self.assertEqual(check(*case[:-1]), case[-1])
    test.__doc__ = name
    return test


METHODS = [method_of(check_address, *case) for case in ADDRESSES] + [method_of(check_log, *case) for case in LOGS]
for number, method in enumerate(METHODS):
    setattr(DomainFiltering, "test_%02d_%s" % (number, re.sub(r"\W+", "_", method.__doc__)), method)


def main():
    """Run all cases, a line for each; the exit code."""
    failed, cases = 0, list(unittest.defaultTestLoader.loadTestsFromTestCase(DomainFiltering))
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
