#!/usr/bin/env python3
"""Verify SPF results: what the policy servers log, and which message a result belongs to.

policyd-spf (Python) and policy-spf (Perl) log a result with client address and sender, but mostly without queue ID, before
the message has one. The tracker joins it to the `client=` line of that client that follows within 60 seconds.

Run: python3 test_policyd_spf.py (nothing to install), or pytest. A new case is one more line in TEXTS or LOGS.
"""
import re
import sys
import unittest

import mail_relay_tracker as tracker
from mail_relay_tracker import IGNORED, Spf

IP, IP6 = "192.0.2.1", "2001:db8::25"
JOE = "joe@a.net"


def fields(identity="mailfrom", ip=IP, sender=JOE):
    """The fields that end a Received-SPF header."""
    return "identity=%s; client-ip=%s; helo=mx.a.net; envelope-from=%s; receiver=<UNKNOWN> " % (identity, ip, sender)


def received(word, comment="mailfrom", **given):
    """What policyd-spf prepends by default."""
    return "prepend Received-SPF: %s (%s) %s" % (word, comment, fields(**given))


def results(word, comment="sender SPF authorized", of="mailfrom=a.net", ip=IP, sender=JOE):
    """The same with Header_Type = AR."""
    return ("prepend Authentication-Results: mx.b.org; spf=%s (%s) smtp.%s "
            "(client-ip=%s; helo=mx.a.net; envelope-from=%s; receiver=<UNKNOWN>)" % (word, comment, of, ip, sender))


def because(text, ip=IP, of="mfrom;id=" + JOE, done="rejected"):
    """The reason of a refusal, as it comes from the box."""
    return ("Message %s due to: %s. Please see http://www.openspf.net/Why?s=%s;ip=%s;r=<UNKNOWN>" % (done, text, of, ip))


def perl(word, comment, rest="identity=mailfrom; envelope-from=\"%s\"; helo=mx.a.net; client-ip=%s" % (JOE, IP)):
    """What the Perl server answers."""
    return "Policy action=PREPEND Received-SPF: %s (%s) receiver=mx.b.org; %s" % (word, comment, rest)


SKIPPED = "client-ip=%s; helo=mx.a.net; envelope-from=%s; receiver=b.org " % (IP, JOE)
PERL_PASS = "a.net: %s is authorized to use '%s' in 'mfrom' identity (mechanism 'ip4:%s' matched)" % (IP, JOE, IP)
PERL_HELO = "mx.a.net: %s is authorized to use 'mx.a.net' in 'helo' identity (mechanism 'a' matched)" % IP

# name, program, text of its line, what it says
TEXTS = (
    ("pass", "policyd-spf", received("Pass"), Spf(IP, JOE, "Pass")),
    ("fail", "policyd-spf", received("Fail"), Spf(IP, JOE, "Fail")),
    ("softfail", "policyd-spf", received("Softfail"), Spf(IP, JOE, "Softfail")),
    ("neutral", "policyd-spf", received("Neutral"), Spf(IP, JOE, "Neutral")),
    ("none", "policyd-spf", received("None"), Spf(IP, JOE, "None")),
    ("temperror", "policyd-spf", received("Temperror"), Spf(IP, JOE, "Temperror")),
    ("permerror", "policyd-spf", received("Permerror"), Spf(IP, JOE, "Permerror")),
    ("spf-engine 3.0 without queue ID", "policyd-spf", ": " + received("Pass"), Spf(IP, JOE, "Pass")),
    ("spf-engine 3.0 with queue ID", "policyd-spf", "3F1A20C5D1: " + received("Pass"), Spf(IP, JOE, "Pass", "3F1A20C5D1")),
    ("spf-engine 3.0 with long queue ID", "policyd-spf", "4jXSnX0bKLz1Tq: " + received("Pass"),
     Spf(IP, JOE, "Pass", "4jXSnX0bKLz1Tq")),
    ("IPv6 client", "policyd-spf", received("Pass", ip=IP6), Spf(IP6, JOE, "Pass")),
    ("null sender, HELO checked", "policyd-spf", received("Pass", "helo", identity="helo", sender="<>"), Spf(IP, "", "Pass")),
    ("HELO result is the answer", "policyd-spf", received("Fail", "helo", identity="helo"), Spf(IP, JOE, "Fail")),
    ("HELO result with its explanation", "policyd-spf",
     received("Softfail", "domain owner (a.net) discourages use of this host", identity="helo"), Spf(IP, JOE, "Softfail")),
    ("VERP sender", "policyd-spf", received("Pass", sender="list+ann=b.org@a.net"), Spf(IP, "list+ann=b.org@a.net", "Pass")),
    ("AR: pass", "policyd-spf", results("pass"), Spf(IP, JOE, "Pass")),
    ("AR: softfail", "policyd-spf", results("softfail", "domain owner discourages use of this host"),
     Spf(IP, JOE, "Softfail")),
    ("AR: permerror", "policyd-spf", results("permerror", "SPF Permanent Error: Unknown mechanism found: foo:bar"),
     Spf(IP, JOE, "Permerror")),
    ("AR: spf-engine 3.0 without queue ID", "policyd-spf", ": " + results("none", "no SPF record"), Spf(IP, JOE, "None")),
    ("AR: HELO of the null sender", "policyd-spf", results("pass", of="helo=mx.a.net", sender="<>"), Spf(IP, "", "Pass")),
    ("AR: IPv6 client, quoted", "policyd-spf", results("pass", ip='"%s"' % IP6), Spf(IP6, JOE, "Pass")),
    ("AR: quoted sender", "policyd-spf", results("pass", sender='"%s"' % JOE), Spf(IP, JOE, "Pass")),
    ("no header wanted", "policyd-spf", received("Softfail").replace("prepend", "Header field not prepended:"),
     Spf(IP, JOE, "Softfail")),
    ("AR: no header wanted", "policyd-spf", results("neutral").replace("prepend", "Header field not prepended:"),
     Spf(IP, JOE, "Neutral")),
    ("rejected: fail", "policyd-spf", "550 5.7.23 " + because("SPF fail - not authorized"), Spf(IP, JOE, "Fail")),
    ("rejected: fail, spf-engine 3.0", "policyd-spf", ": 550 5.7.23 " + because("SPF fail - not authorized"),
     Spf(IP, JOE, "Fail")),
    ("rejected: fail, without status code", "policyd-spf", "550 " + because("SPF fail - not authorized"), Spf(IP, JOE, "Fail")),
    ("rejected: fail, in the domain's own words", "policyd-spf", "550 5.7.23 " + because("See http://a.net/?s=why;ip=all (really)"),
     Spf(IP, JOE, "Fail")),
    ("rejected: softfail", "policyd-spf", "550 5.7.23 " + because("domain owner discourages use of this host"),
     Spf(IP, JOE, "Softfail")),
    ("rejected: neutral", "policyd-spf", "550 5.7.23 " + because("access neither permitted nor denied"),
     Spf(IP, JOE, "Neutral")),
    ("rejected: receiver's policy", "policyd-spf", "550 5.7.23 " + because("Receiver policy for SPF Softfail"),
     Spf(IP, JOE, "Softfail")),
    ("rejected: permerror", "policyd-spf", "550 5.7.24 " + because("SPF Permanent Error: Void lookup limit of 2 exceeded"),
     Spf(IP, JOE, "Permerror")),
    ("rejected: IPv6 client", "policyd-spf", "550 5.7.23 " + because("SPF fail - not authorized", ip=IP6),
     Spf(IP6, JOE, "Fail")),
    ("rejected for its HELO, sender unknown", "policyd-spf", "550 5.7.23 " + because("SPF fail - not authorized", of="helo;id=mx.a.net"),
     Spf(IP, None, "Fail")),
    ("deferred: temperror", "policyd-spf", "defer_if_permit 4.7.24 " + because("SPF Temporary Error: DNS Timeout", done="deferred"),
     Spf(IP, JOE, "Temperror")),
    ("deferred: temperror, without status code", "policyd-spf",
     "defer_if_permit " + because("SPF Temporary Error: DNS Timeout", done="deferred"), Spf(IP, JOE, "Temperror")),
    ("comment: local connection", "policyd-spf", "prepend X-Comment: SPF check N/A for local connections - " + SKIPPED, IGNORED),
    ("comment: whitelisted relay", "policyd-spf", "prepend X-Comment: SPF skipped for whitelisted relay - " + SKIPPED, IGNORED),
    ("comment: whitelisted HELO", "policyd-spf", "prepend X-Comment: SPF skipped for whitelisted HELO domain - " + SKIPPED, IGNORED),
    ("AR: not checked", "policyd-spf",
     "prepend Authentication-Results: mx.b.org; none (SPF skipped for whitelisted relay - client-ip=%s)" % IP, IGNORED),
    ("restriction instead of a result", "policyd-spf", "result_only spf_failed", IGNORED),
    ("debug: result of the library", "policyd-spf",
     "spfcheck: pyspf result: \"['Pass', 'sender SPF authorized', 'mailfrom']\"", IGNORED),
    ("debug: sender", "policyd-spf", "Pass; " + fields(), Spf(IP, JOE, "Pass")),
    ("debug: HELO of the null sender", "policyd-spf", "Pass; " + fields("helo", sender="<>"), Spf(IP, "", "Pass")),
    ("debug: HELO of another sender decides nothing", "policyd-spf", "None; " + fields("helo"), IGNORED),
    ("debug: configuration", "policyd-spf", "Config: {'debugLevel': 3, 'HELO_reject': 'Fail', 'Mail_From_reject': 'Fail'}", IGNORED),
    ("Perl: pass", "postfix/policy-spf", perl("pass", PERL_PASS), Spf(IP, JOE, "Pass")),
    ("Perl: softfail", "postfix/policy-spf", perl("softfail", "a.net: Sender is not authorized by default to use '%s'" % JOE),
     Spf(IP, JOE, "Softfail")),
    ("Perl: none", "postfix/policy-spf", perl("none", "a.net: No applicable sender policy available"), Spf(IP, JOE, "None")),
    ("Perl: permerror", "postfix/policy-spf", perl("permerror", "a.net: Junk encountered in record 'v=spf1 (all) \"x\": y'"),
     Spf(IP, JOE, "Permerror")),
    ("Perl: null sender", "postfix/policy-spf",
     perl("pass", PERL_HELO, "identity=helo; helo=mx.a.net; client-ip=" + IP), Spf(IP, "", "Pass")),
    ("Perl: IPv6 client", "postfix/policy-spf",
     perl("pass", "a.net: ok", "identity=mailfrom; envelope-from=\"%s\"; helo=mx.a.net; client-ip=%s" % (JOE, IP6)),
     Spf(IP6, JOE, "Pass")),
    ("Perl: not checked", "postfix/policy-spf",
     "Policy action=PREPEND Authentication-Results: mx.b.org; none (SPF not checked for localhost)", IGNORED),
    ("Perl: second recipient", "postfix/policy-spf", "Policy action=DUNNO", IGNORED),
)


def spf(second, text, pid=7, program="policyd-spf"):
    """A policy server's line."""
    return second, "%s[%d]: %s" % (program, pid, text)


def client(second, queue_id, ip=IP, pid=1):
    """smtpd accepts the first recipient of a message."""
    return second, "postfix/smtpd[%d]: %s: client=mx.a.net[%s]" % (pid, queue_id, ip)


def queued(second, queue_id, sender=JOE):
    """A message enters the queue: now its sender is known."""
    return second, "postfix/qmgr[3]: %s: from=<%s>, size=900, nrcpt=1 (queue active)" % (queue_id, sender)


def reject(second, text="550 5.1.1 User unknown", sender=JOE, ip=IP, pid=1):
    """smtpd turns a recipient away."""
    return second, ("postfix/smtpd[%d]: NOQUEUE: reject: RCPT from mx.a.net[%s]: %s; from=<%s> to=<x@b.org> proto=ESMTP "
                    "helo=<mx.a.net>" % (pid, ip, text, sender))


A, B = "0A1A20C5D1", "0B1A20C5D2"
EVE, SRS = "eve@c.net", "SRS0=HHHH=TT=c.net=eve@a.net"
FAIL = "550 5.7.23 " + because("SPF fail - not authorized")

# name, (second, line) of the log, {queue ID: spf_result} of its rows
LOGS = (
    ("no policy server", [client(1, A), queued(2, A)], {A: None}),
    ("result before client=", [spf(0, received("Pass")), client(1, A), queued(2, A)], {A: "Pass"}),
    ("result of 60 seconds before", [spf(0, received("Pass")), client(60, A), queued(61, A)], {A: "Pass"}),
    ("result older than 60 seconds", [spf(0, received("Pass")), client(61, A), queued(62, A)], {A: None}),
    ("result of another client", [spf(0, received("Pass", ip="192.0.2.2")), client(1, A), queued(2, A)], {A: None}),
    ("IPv6 client", [spf(0, received("Pass", ip=IP6)), client(1, A, ip=IP6), queued(2, A)], {A: "Pass"}),
    ("null sender", [spf(0, received("Pass", "helo", identity="helo", sender="<>")), client(1, A), queued(2, A, "")],
     {A: "Pass"}),
    ("sender in another case", [spf(0, received("Pass")), client(1, A), queued(2, A, "Joe@A.NET")], {A: "Pass"}),
    ("sender is an SRS address", [spf(0, received("Pass", sender=SRS.lower())), client(1, A), queued(2, A, SRS)], {A: "Pass"}),
    ("not checked", [spf(0, "prepend X-Comment: SPF check N/A for local connections - " + SKIPPED), client(1, A), queued(2, A)],
     {A: None}),
    ("debug: HELO result does not win",
     [spf(0, "None; " + fields("helo")), spf(0, "Softfail; " + fields()), spf(0, received("Softfail")), client(1, A), queued(2, A)],
     {A: "Softfail"}),
    ("debug: duplicates are one result",
     [spf(0, "Pass; " + fields()), spf(0, received("Pass")), client(1, A), queued(2, A), client(3, B), queued(4, B)],
     {A: "Pass", B: None}),
    ("Perl server", [spf(0, perl("neutral", PERL_PASS), program="postfix/policy-spf"), client(1, A), queued(2, A)],
     {A: "Neutral"}),
    ("queue ID in the line", [client(0, A), spf(1, A + ": " + received("Softfail")), queued(2, A)], {A: "Softfail"}),
    ("one result, one message", [spf(0, received("Pass")), client(1, A), queued(2, A), client(3, B), queued(4, B)],
     {A: "Pass", B: None}),
    ("two messages of one client, one after the other",
     [spf(0, received("Pass")), client(1, A), queued(2, A),
      spf(3, received("Fail", sender=EVE)), client(4, B), queued(5, B, EVE)], {A: "Pass", B: "Fail"}),
    ("two overlapping, different senders",
     [spf(0, received("Pass"), 7), spf(0, received("Fail", sender=EVE), 8), client(1, A), client(1, B, pid=2),
      queued(2, A), queued(2, B, EVE)], {A: "Pass", B: "Fail"}),
    ("two overlapping, client= in the other order",
     [spf(0, received("Pass"), 7), spf(0, received("Fail", sender=EVE), 8), client(1, B, pid=2), client(1, A),
      queued(2, B, EVE), queued(2, A)], {A: "Pass", B: "Fail"}),
    ("two overlapping, queued in the other order",
     [spf(0, received("Pass"), 7), spf(0, received("Fail", sender=EVE), 8), client(1, A), client(1, B, pid=2),
      queued(2, B, EVE), queued(2, A)], {A: "Pass", B: "Fail"}),
    ("two overlapping, same sender",
     [spf(0, received("Pass"), 7), spf(0, received("Pass"), 8), client(1, A), client(1, B, pid=2), queued(2, A), queued(2, B)],
     {A: "Pass", B: "Pass"}),
    ("two clients at once",
     [spf(0, received("Pass")), spf(0, received("Fail", ip=IP6)), client(1, A), client(1, B, ip=IP6, pid=2),
      queued(2, A), queued(2, B)], {A: "Pass", B: "Fail"}),
    ("rejected for its SPF result", [spf(0, FAIL), reject(0, FAIL)], {"NOQUEUE": "Fail"}),
    ("rejected for its SPF result, policy server logs elsewhere", [reject(0, FAIL)], {"NOQUEUE": "Fail"}),
    ("deferred for its SPF result",
     [spf(0, "defer_if_permit 4.7.24 " + because("SPF Temporary Error: DNS Timeout", done="deferred")),
      reject(0, "450 4.7.24 " + because("SPF Temporary Error: DNS Timeout", done="deferred"))], {"NOQUEUE": "Temperror"}),
    ("rejected for another reason", [spf(0, received("Pass")), reject(1)], {"NOQUEUE": "Pass"}),
    ("a reject uses up its result", [spf(0, FAIL), reject(0, FAIL), client(3, A, pid=2), queued(4, A)],
     {"NOQUEUE": "Fail", A: None}),
    ("a reject leaves the result of another sender",
     [spf(0, received("Softfail", sender=EVE), 8), spf(0, FAIL), reject(0, FAIL), client(1, A, pid=2), queued(2, A, EVE)],
     {"NOQUEUE": "Fail", A: "Softfail"}),
    ("first recipient rejected, second accepted", [spf(0, received("Pass")), reject(1), client(2, A), queued(3, A)],
     {"NOQUEUE": "Pass", A: "Pass"}),
    ("OpenDMARC's own check, policy server silent",
     [client(1, A), (1, "opendmarc[9]: %s: SPF(mailfrom): a.net fail" % A), queued(2, A)], {A: "Fail"}),
    ("OpenDMARC's own check, policy server wins",
     [spf(0, received("Pass")), client(1, A), (1, "opendmarc[9]: %s: SPF(mailfrom): a.net fail" % A), queued(2, A)],
     {A: "Pass"}),
)


def check_text(program, text):
    """What a line says."""
    return tracker.parser_of(program)(text)


def check_log(lines):
    """The SPF results in the rows that lines of a log make, as --import would write them."""
    odd, correlator = [], tracker.Correlator(30 * tracker.SECOND, "mx")
    reader = tracker.Tracker(tracker.Calendar(tracker.epoch(2026, 12, 1, 0)), correlator, odd.append, odd.append)
    reader.feed(["2026-11-05T09:%02d:%02d+00:00 mx %s" % (divmod(second, 60) + (line,)) for second, line in lines], 0, 0)
    correlator.close(everything=True)
    assert not odd, "lines not understood: %r" % odd
    rows = tracker.settle(correlator.harvest(), lambda names: {}, 0, tracker.DomainFilter(()))
    return {row.queue_id.partition("-")[0]: row.spf_result for row in rows}


class PolicydSpf(unittest.TestCase):
    """One test per case, in the order of the tables."""


def method_of(check, name, *case):
    """The test of a case: what goes into `check`, and last what must come out."""
    def test(self):
        self.assertEqual(check(*case[:-1]), case[-1])
    test.__doc__ = name
    return test


METHODS = [method_of(check_text, *case) for case in TEXTS] + [method_of(check_log, *case) for case in LOGS]
for number, method in enumerate(METHODS):
    setattr(PolicydSpf, "test_%02d_%s" % (number, re.sub(r"\W+", "_", method.__doc__)), method)


def main():
    """Run all cases, a line for each; the exit code."""
    failed, cases = 0, list(unittest.defaultTestLoader.loadTestsFromTestCase(PolicydSpf))
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
