#!/usr/bin/env python3
"""Verify SPF results: what the policy servers log, and which message a result belongs to.

policyd-spf (Python) and policy-spf (Perl) log a result with client address and sender, mostly before the message has a
queue ID. The tracker joins it to the `client=` line of that client that follows within 60 seconds.

Run: python3 test_policyd_spf.py (nothing to install), or pytest. A new case is one more line in TEXTS or LOGS.
"""
import re
import sys
import unittest
from unittest import mock

import mail_relay_tracker as tracker
from mail_relay_tracker import IGNORED, Spf

IP, IP6 = "192.0.2.1", "2001:db8::25"
JOE, EVE = "joe@a.net", "eve@c.net"
SRS = "SRS0=HHHH=TT=c.net=eve@a.net"
FAIL, TIMEOUT = "SPF fail - not authorized", "SPF Temporary Error: DNS Timeout"
SOFTFAIL, NEUTRAL = "domain owner discourages use of this host", "access neither permitted nor denied"
NOT_PREPENDED = "Header field not prepended:"            # Header_Type = None


def fields(identity="mailfrom", ip=IP, sender=JOE):
    """The fields at the end of a Received-SPF header."""
    return "identity=%s; client-ip=%s; helo=mx.a.net; envelope-from=%s; receiver=<UNKNOWN> " % (identity, ip, sender)


def refusal(client_ip, sender, result):
    """What the words of a refusal tell."""
    return Spf(client_ip, sender, result, refusal=mock.ANY)


def prepend(result, comment="mailfrom", what="prepend", **given):
    """policyd-spf's answer."""
    return "%s Received-SPF: %s (%s) %s" % (what, result, comment, fields(**given))


def prepend_ar(result, comment="sender SPF authorized", of="mailfrom=a.net", what="prepend", ip=IP, sender=JOE):
    """policyd-spf's answer with Header_Type = AR."""
    return ("%s Authentication-Results: mx.b.org; spf=%s (%s) smtp.%s (client-ip=%s; helo=mx.a.net; envelope-from=%s; "
            "receiver=<UNKNOWN>)" % (what, result, comment, of, ip, sender))


def skip(why):
    """policyd-spf's answer when it checks nothing."""
    return "prepend X-Comment: SPF %s - client-ip=%s; helo=mx.a.net; envelope-from=%s; receiver=b.org " % (why, IP, JOE)


def refuse(answer, why, of="mfrom;id=" + JOE, ip=IP):
    """policyd-spf's answer when it refuses."""
    done = "deferred" if answer.startswith("def") else "rejected"
    return ("%s Message %s due to: %s. Please see http://www.openspf.net/Why?s=%s;ip=%s;r=<UNKNOWN>"
            % (answer, done, why, of, ip))


def perl(result, comment, identity='mailfrom; envelope-from="%s"' % JOE, ip=IP):
    """The Perl server's answer."""
    return ("Policy action=PREPEND Received-SPF: %s (%s) receiver=mx.b.org; identity=%s; helo=mx.a.net; client-ip=%s"
            % (result, comment, identity, ip))


# name, text of the line, what it says: client address, sender, result, queue ID
TEXTS = (
    ("Pass", prepend("Pass"), Spf(IP, JOE, "Pass")),
    ("Fail", prepend("Fail"), Spf(IP, JOE, "Fail")),
    ("Softfail", prepend("Softfail"), Spf(IP, JOE, "Softfail")),
    ("Neutral", prepend("Neutral"), Spf(IP, JOE, "Neutral")),
    ("None", prepend("None"), Spf(IP, JOE, "None")),
    ("Temperror", prepend("Temperror"), Spf(IP, JOE, "Temperror")),
    ("Permerror", prepend("Permerror"), Spf(IP, JOE, "Permerror")),
    ("IPv6 client", prepend("Pass", ip=IP6), Spf(IP6, JOE, "Pass")),
    ("VERP sender", prepend("Pass", sender="list+ann=b.org@a.net"), Spf(IP, "list+ann=b.org@a.net", "Pass")),
    ("null sender, by its HELO", prepend("Pass", "helo", identity="helo", sender="<>"), Spf(IP, "", "Pass")),
    ("HELO result as the answer", prepend("Fail", "helo", identity="helo"), Spf(IP, JOE, "Fail")),
    ("HELO result with an explanation", prepend("Fail", "Why? (See http://a.net/?ip=all; bye)", identity="helo"),
     Spf(IP, JOE, "Fail")),
    ("HELO result, explanation that imitates fields",
     prepend("Fail", "No) identity=mailfrom; client-ip=192.0.2.9; (no", identity="helo"), Spf(IP, JOE, "Fail")),
    ("spf-engine 3.0, queue ID empty", ": " + prepend("Pass"), Spf(IP, JOE, "Pass")),
    ("spf-engine 3.0, short queue ID", "3F1A20C5D1: " + prepend("Pass"), Spf(IP, JOE, "Pass", "3F1A20C5D1")),
    ("spf-engine 3.0, long queue ID", "4jXSnX0bKLz1Tq: " + prepend("Pass"), Spf(IP, JOE, "Pass", "4jXSnX0bKLz1Tq")),
    ("header not prepended", prepend("Softfail", what=NOT_PREPENDED), Spf(IP, JOE, "Softfail")),
    ("AR: pass", prepend_ar("pass"), Spf(IP, JOE, "Pass")),
    ("AR: softfail", prepend_ar("softfail", SOFTFAIL), Spf(IP, JOE, "Softfail")),
    ("AR: permerror", prepend_ar("permerror", "SPF Permanent Error: Unknown mechanism found: foo:bar"),
     Spf(IP, JOE, "Permerror")),
    ("AR: null sender, by its HELO", prepend_ar("pass", of="helo=mx.a.net", sender="<>"), Spf(IP, "", "Pass")),
    ("AR: IPv6 client, quoted", prepend_ar("pass", ip='"%s"' % IP6), Spf(IP6, JOE, "Pass")),
    ("AR: quoted sender", prepend_ar("pass", sender='"%s"' % JOE), Spf(IP, JOE, "Pass")),
    ("AR: spf-engine 3.0, queue ID empty", ": " + prepend_ar("none", "no SPF record"), Spf(IP, JOE, "None")),
    ("AR: header not prepended", prepend_ar("neutral", NEUTRAL, what=NOT_PREPENDED), Spf(IP, JOE, "Neutral")),
    ("refused: fail", refuse("550 5.7.23", FAIL), refusal(IP, JOE, "Fail")),
    ("refused: fail, spf-engine 3.0", refuse(": 550 5.7.23", FAIL), refusal(IP, JOE, "Fail")),
    ("refused: fail, no status code", refuse("550", FAIL), refusal(IP, JOE, "Fail")),
    ("refused: fail, words of the domain", refuse("550 5.7.23", "See http://a.net/?s=why;ip=all (bye)"),
     refusal(IP, JOE, "Fail")),
    ("refused: softfail", refuse("550 5.7.23", SOFTFAIL), refusal(IP, JOE, "Softfail")),
    ("refused: neutral", refuse("550 5.7.23", NEUTRAL), refusal(IP, JOE, "Neutral")),
    ("refused: receiver's policy", refuse("550 5.7.23", "Receiver policy for SPF Softfail"), refusal(IP, JOE, "Softfail")),
    ("refused: permerror", refuse("550 5.7.24", "SPF Permanent Error: Void lookup limit of 2 exceeded"),
     refusal(IP, JOE, "Permerror")),
    ("refused: IPv6 client", refuse("550 5.7.23", FAIL, ip=IP6), refusal(IP6, JOE, "Fail")),
    ("refused for its HELO, no sender told", refuse("550 5.7.23", FAIL, "helo;id=mx.a.net"), refusal(IP, None, "Fail")),
    ("deferred: temperror", refuse("defer_if_permit 4.7.24", TIMEOUT), refusal(IP, JOE, "Temperror")),
    ("deferred: temperror, no status code", refuse("defer_if_permit", TIMEOUT), refusal(IP, JOE, "Temperror")),
    ("not checked: local connection", skip("check N/A for local connections"), IGNORED),
    ("not checked: whitelisted relay", skip("skipped for whitelisted relay"), IGNORED),
    ("not checked: whitelisted HELO", ": " + skip("skipped for whitelisted HELO domain"), IGNORED),
    ("not checked: AR", "prepend Authentication-Results: mx.b.org; none (SPF not checked; client-ip=%s)" % IP, IGNORED),
    ("a restriction, no result", "result_only spf_failed", IGNORED),
    ("debug: result", "Softfail; " + fields(), Spf(IP, JOE, "Softfail", None, True)),
    ("debug: HELO result of the null sender", "Pass; " + fields("helo", sender="<>"), Spf(IP, "", "Pass", None, True)),
    ("debug: HELO result of another sender", "Pass; " + fields("helo"), IGNORED),
    ("debug: library", "spfcheck: pyspf result: \"['Pass', 'sender SPF authorized', 'mailfrom']\"", IGNORED),
    ("debug: action", "Action: prepend: Text: %s Reject action: 550 5.7.23" % prepend("Pass")[8:], IGNORED),
    ("debug: configuration", "Config: {'debugLevel': 3, 'HELO_reject': 'Fail', 'Mail_From_reject': 'Fail'}", IGNORED),
    ("Perl: pass",
     perl("pass", "a.net: 192.0.2.1 is authorized to use 'joe@a.net' in 'mfrom' identity (mechanism 'a' matched)"),
     Spf(IP, JOE, "Pass")),
    ("Perl: softfail", perl("softfail", "a.net: Sender is not authorized by default to use 'joe@a.net'"),
     Spf(IP, JOE, "Softfail")),
    ("Perl: none", perl("none", "a.net: No applicable sender policy available"), Spf(IP, JOE, "None")),
    ("Perl: permerror", perl("permerror", "a.net: Junk encountered in record 'v=spf1 (a) \"x\": y'"),
     Spf(IP, JOE, "Permerror")),
    ("Perl: null sender, by its HELO", perl("pass", "mx.a.net: is authorized", identity="helo"), Spf(IP, "", "Pass")),
    ("Perl: IPv6 client", perl("pass", "a.net: is authorized", ip=IP6), Spf(IP6, JOE, "Pass")),
    ("Perl: not checked",
     "Policy action=PREPEND Authentication-Results: mx.b.org; none (SPF not checked for localhost)", IGNORED),
    ("Perl: second recipient", "Policy action=DUNNO", IGNORED),
)


def program_of(text):
    """Which policy server writes like this."""
    return "postfix/policy-spf" if text.startswith("Policy ") else "policyd-spf"


def spf(second, text, pid=7):
    """A policy server's line."""
    return second, "%s[%d]: %s" % (program_of(text), pid, text)


def connect(second, pid=1):
    """A client connects."""
    return second, "postfix/smtpd[%d]: connect from mx.a.net[%s]" % (pid, IP)


def client(second, queue_id, pid=1, ip=IP):
    """smtpd accepts the first recipient of a message."""
    return second, "postfix/smtpd[%d]: %s: client=mx.a.net[%s]" % (pid, queue_id, ip)


def queued(second, queue_id, sender=JOE):
    """A message enters the queue: now its sender is known."""
    return second, "postfix/qmgr[3]: %s: from=<%s>, size=900, nrcpt=1 (queue active)" % (queue_id, sender)


def reject(second, why, sender=JOE):
    """smtpd turns a recipient away."""
    return second, ("postfix/smtpd[1]: NOQUEUE: reject: RCPT from mx.a.net[%s]: %s; from=<%s> to=<x@b.org> proto=ESMTP "
                    "helo=<mx.a.net>" % (IP, why, sender))


def warn(second, why):
    """It would have, but for warn_if_reject."""
    return second, reject(second, why)[1].replace(": reject: ", ": reject_warning: ")


def dmarc(second, queue_id, result):
    """OpenDMARC checks SPF itself."""
    return second, "opendmarc[9]: %s: SPF(mailfrom): a.net %s" % (queue_id, result)


A, B = "0A1A20C5D1", "0B1A20C5D2"
MESSAGE_A, MESSAGE_B = [client(1, A), queued(2, A)], [client(3, B), queued(4, B)]
PASS_JOE, FAIL_EVE = spf(0, prepend("Pass"), pid=7), spf(0, prepend("Fail", sender=EVE), pid=8)
REFUSED, DEFERRED = refuse("550 5.7.23", FAIL), refuse("defer_if_permit 4.7.24", TIMEOUT)
USER_UNKNOWN = "550 5.1.1 <x@b.org>: Recipient address rejected: User unknown"

# name, (second, line) of the log, {queue ID: spf_result} of its rows
LOGS = (
    ("no policy server", MESSAGE_A, {A: None}),
    ("result of a second before", [PASS_JOE] + MESSAGE_A, {A: "Pass"}),
    ("result of 60 seconds before", [PASS_JOE, client(60, A), queued(61, A)], {A: "Pass"}),
    ("result older than 60 seconds", [PASS_JOE, client(61, A), queued(62, A)], {A: None}),
    ("result of another client", [spf(0, prepend("Pass", ip="192.0.2.2"))] + MESSAGE_A, {A: None}),
    ("nothing checked", [spf(0, skip("check N/A for local connections"))] + MESSAGE_A, {A: None}),
    ("IPv6 client", [spf(0, prepend("Pass", ip=IP6)), client(1, A, ip=IP6), queued(2, A)], {A: "Pass"}),
    ("null sender", [spf(0, prepend("Pass", "helo", identity="helo", sender="<>")), client(1, A), queued(2, A, "")],
     {A: "Pass"}),
    ("sender in mixed case", [PASS_JOE, client(1, A), queued(2, A, "Joe@A.NET")], {A: "Pass"}),
    ("sender is an SRS address", [spf(0, prepend("Pass", sender=SRS.lower())), client(1, A), queued(2, A, SRS)],
     {A: "Pass"}),
    ("queue ID in the line", [client(0, A), spf(1, A + ": " + prepend("Softfail")), queued(2, A)], {A: "Softfail"}),
    ("Perl server", [spf(0, perl("neutral", "a.net: neutral"))] + MESSAGE_A, {A: "Neutral"}),
    ("one result, one message", [PASS_JOE] + MESSAGE_A + MESSAGE_B, {A: "Pass", B: None}),
    ("debug lines tell one result", [spf(0, "Pass; " + fields()), PASS_JOE] + MESSAGE_A + MESSAGE_B,
     {A: "Pass", B: None}),
    ("debug line on the HELO does not count",
     [spf(0, "None; " + fields("helo")), spf(0, "Pass; " + fields()), PASS_JOE] + MESSAGE_A, {A: "Pass"}),
    ("one after the other, different senders",
     [PASS_JOE] + MESSAGE_A + [spf(3, prepend("Fail", sender=EVE)), client(4, B), queued(5, B, EVE)],
     {A: "Pass", B: "Fail"}),
    ("overlapping, different senders",
     [PASS_JOE, FAIL_EVE, client(1, A), client(1, B, pid=2), queued(2, A), queued(2, B, EVE)], {A: "Pass", B: "Fail"}),
    ("overlapping, the second comes first",
     [PASS_JOE, FAIL_EVE, client(1, B, pid=2), client(1, A), queued(2, B, EVE), queued(2, A)], {A: "Pass", B: "Fail"}),
    ("overlapping, the second is queued first",
     [PASS_JOE, FAIL_EVE, client(1, A), client(1, B, pid=2), queued(2, B, EVE), queued(2, A)], {A: "Pass", B: "Fail"}),
    ("overlapping, only one was checked",
     [PASS_JOE, client(1, B, pid=2), client(1, A), queued(2, B, EVE), queued(2, A)], {A: "Pass", B: None}),
    ("overlapping, same sender",
     [PASS_JOE, spf(0, prepend("Pass"), pid=8), client(1, A), client(1, B, pid=2), queued(2, A), queued(2, B)],
     {A: "Pass", B: "Pass"}),
    ("two clients at once",
     [PASS_JOE, spf(0, prepend("Fail", ip=IP6)), client(1, A), client(1, B, pid=2, ip=IP6), queued(2, A), queued(2, B)],
     {A: "Pass", B: "Fail"}),
    ("rejected by the policy server", [spf(0, REFUSED), reject(0, REFUSED)], {"NOQUEUE": "Fail"}),
    ("a refusal that only warns", [connect(0), spf(0, REFUSED), warn(0, REFUSED), client(1, A), queued(2, A)], {A: "Fail"}),
    ("rejected by a policy server that logs elsewhere", [reject(0, REFUSED)], {"NOQUEUE": "Fail"}),
    ("deferred by the policy server", [spf(0, DEFERRED), reject(0, DEFERRED.replace("defer_if_permit", "450"))],
     {"NOQUEUE": "Temperror"}),
    ("rejected for another reason", [PASS_JOE, reject(1, USER_UNKNOWN)], {"NOQUEUE": "Pass"}),
    ("a reject uses up its result", [spf(0, REFUSED), reject(0, REFUSED), client(1, A, pid=2), queued(2, A)],
     {"NOQUEUE": "Fail", A: None}),
    ("a reject leaves the result of another sender",
     [PASS_JOE, FAIL_EVE, reject(0, REFUSED, EVE), client(1, A, pid=2), queued(2, A)], {"NOQUEUE": "Fail", A: "Pass"}),
    ("a recipient rejected, the next one accepted",
     [connect(0), PASS_JOE, reject(1, USER_UNKNOWN), client(1, A), queued(2, A)], {"NOQUEUE": "Pass", A: "Pass"}),
    ("OpenDMARC's own check fills in", [client(1, A), dmarc(1, A, "fail"), queued(2, A)], {A: "Fail"}),
    ("OpenDMARC's own check does not win", [PASS_JOE, client(1, A), dmarc(1, A, "fail"), queued(2, A)], {A: "Pass"}),
)


def check_text(text):
    """What a line says."""
    return tracker.parser_of(program_of(text))(text)


def check_log(lines):
    """The SPF results in the rows that lines of a log make, as --import would write them."""
    odd, correlator = [], tracker.Correlator(30 * tracker.SECOND, "mx")
    reader = tracker.Tracker(tracker.Calendar(tracker.epoch(2026, 12, 1, 0)), correlator, odd.append, odd.append)
    reader.feed(["2026-11-05T09:%02d:%02d+00:00 mx %s" % (*divmod(second, 60), line) for second, line in lines], 0, 0)
    correlator.close(everything=True)
    assert not odd, "lines not understood: %r" % odd
    rows = tracker.settle(correlator.harvest(), lambda names: {}, 0, tracker.DomainFilter(()))
    return {row.queue_id.partition("-")[0]: row.spf_result for row in rows}


class PolicydSpf(unittest.TestCase):
    """One test per case, in the order of the tables."""


def method_of(check, name, given, expected):
    """The test of a case: what goes into `check`, and what must come out."""
    def test(self):
        self.assertEqual(check(given), expected)
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
