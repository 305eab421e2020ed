#!/usr/bin/env python3
"""Verify what the spam filters say: spamd, the X-Spam-Status header a milter adds, spamass-milter, amavis, rspamd.

spam_status is Yes or No; spam_score is negative, zero or positive, with its decimals when any line has them (spamd's
`result:` line truncates it); spam_required is the threshold; spam_tests are the names of the tests that were triggered.

Run: python3 test_spamassassin_parsing.py (nothing to install), or pytest. A new case is one more line in TEXTS or LOGS.
"""
import re
import sys
import unittest

import mail_relay_tracker as tracker
from mail_relay_tracker import IGNORED, Checked, Spam, SpamResult, SpamScore, SpamStart

QID = "3F1A20C5D1"
MID = "<1@a.net>"
TRAILER = "mx.a.net[192.0.2.1]%s from=<joe@a.net> to=<ann@b.org> proto=ESMTP helo=<mx.a.net>"


def begins(mid, word="processing", pid=9):
    """spamd begins a scan."""
    return "spamd[%d]: spamd: %s message %s for ann:1000" % (pid, word, mid)


def judged(words, score, user="ann:1000", pid=9):
    """spamd's verdict, with decimals."""
    return "spamd[%d]: spamd: %s (%s/5.0) for %s in 0.3 seconds, 900 bytes." % (pid, words, score, user)


def result(score, tests, mid=MID, more="autolearn=no", pid=9):
    """spamd's result, the score truncated."""
    return ("spamd[%d]: spamd: result: %s - %s scantime=0.3,size=900,user=ann,uid=1000,required_score=5.0,"
            "rhost=localhost,raddr=127.0.0.1,rport=52584,mid=%s,%s" % (pid, score, tests, mid, more))


def header(value, check="milter-header-info", name="X-Spam-Status"):
    """cleanup shows a header, as a header check asks it to."""
    return "postfix/cleanup[2]: %s: %s: header %s: %s from %s: " % (QID, check, name, value, TRAILER % ";")


def amavis(verdict, score, more=", Queue-ID: " + QID, tests=""):
    """amavis' line on a message, in its default short template; with `tests`, in a longer one."""
    return ("amavis[7]: (04336-07) %s {RelayedInbound}, [192.0.2.1]:4711 [192.0.2.1] <joe@a.net> -> <ann@b.org>%s, "
            "Message-ID: %s, mail_id: wnMB3mhE3oaz, Hits: %s, size: 900, queued_as: 4A1B2C3D4E%s, 120 ms"
            % (verdict, more, MID, score, tests))


def rspamd(verdict, more=", qid: <%s>, ip: 192.0.2.1, from: <joe@a.net>" % QID):
    """rspamd's line on a message, in its default format."""
    return ("rspamd[8]: <a1b2c3>; task; rspamd_task_write_log: id: %s%s, (default: %s), len: 900, time: 12.3ms, "
            "dns req: 3, digest: <0123456789abcdef>, rcpts: <ann@b.org>" % (MID, more, verdict))


def told(status, score, required=None, tests=None):
    """What a milter's header tells of the message."""
    return Checked(QID, "joe@a.net", "ESMTP", "mx.a.net", Spam(QID, None, status, score, required, tests))


def found(status, score, required=None, tests=None, queue_id=QID, child=None, **more):
    """What amavis or rspamd found."""
    return Spam(queue_id, "1@a.net", status, score, required, tests, child, **more)


def passed_on(status, score, tests=None, queue_id=QID, kept_back=None):
    """What amavis found of a message that it gave on, to all or, where some are `kept_back`, to others."""
    return found(status, score, None, tests, queue_id, "4A1B2C3D4E", kept_back=kept_back)


# name, line, what it says
TEXTS = (
    ("spamd: begins", begins(MID), SpamStart(MID)),
    ("spamd: begins a check", begins(MID, "checking"), SpamStart(MID)),
    ("spamd: begins with a resent message", begins(MID + " aka <2@fwd.net>"), SpamStart(MID)),
    ("spamd: begins, no Message-ID", begins("(unknown)"), SpamStart("(unknown)")),
    ("spamd: spam", judged("identified spam", "7.6"), SpamScore("Yes", 7.6, 5.0)),
    ("spamd: clean", judged("clean message", "1.4"), SpamScore("No", 1.4, 5.0)),
    ("spamd: negative score", judged("clean message", "-1.9"), SpamScore("No", -1.9, 5.0)),
    ("spamd: score zero", judged("clean message", "0.0"), SpamScore("No", 0.0, 5.0)),
    ("spamd: score at the threshold", judged("identified spam", "5.0"), SpamScore("Yes", 5.0, 5.0)),
    ("spamd: score of three digits", judged("identified spam", "1004.2"), SpamScore("Yes", 1004.2, 5.0)),
    ("spamd: virtual user", judged("clean message", "1.4", "ann@b.org:115"), SpamScore("No", 1.4, 5.0)),
    ("spamd: other lines", "spamd[9]: spamd: connection from localhost [127.0.0.1]:52584 to port 783, fd 5", IGNORED),
    ("spamd: lines of its parent", "spamd[9]: prefork: child states: IS", IGNORED),
    ("result: spam", result("Y 7", "BAYES_99,HTML_MESSAGE,URIBL_BLACK"),
     SpamResult(MID, "Yes", 7.0, 5.0, "BAYES_99,HTML_MESSAGE,URIBL_BLACK")),
    ("result: clean", result(". 1", "HTML_MESSAGE"), SpamResult(MID, "No", 1.0, 5.0, "HTML_MESSAGE")),
    ("result: score padded to two columns", result("Y  7", "BAYES_99"), SpamResult(MID, "Yes", 7.0, 5.0, "BAYES_99")),
    ("result: negative score", result(". -2", "ALL_TRUSTED"), SpamResult(MID, "No", -2.0, 5.0, "ALL_TRUSTED")),
    ("result: no tests", result(". 0", ""), SpamResult(MID, "No", 0.0, 5.0, "")),
    ("result: no Message-ID", result(". 0", "MISSING_MID", "(unknown)"),
     SpamResult("(unknown)", "No", 0.0, 5.0, "MISSING_MID")),
    ("result: resent message, Bayes", result("Y 7", "BAYES_99", more="rmid=<2@fwd.net>,bayes=0.999000,autolearn=spam"),
     SpamResult(MID, "Yes", 7.0, 5.0, "BAYES_99")),
    ("result: autolearn with a blank", result("Y 7", "BAYES_99", more="autolearn=unavailable autolearn_force=no"),
     SpamResult(MID, "Yes", 7.0, 5.0, "BAYES_99")),
    ("result: short circuit", result("Y 99", "GTUBE", more="autolearn=no autolearn_force=no,shortcircuit=spam"),
     SpamResult(MID, "Yes", 99.0, 5.0, "GTUBE")),
    ("header: spam", header("Yes, score=7.6 required=5.0 tests=BAYES_99,URIBL_BLACK autolearn=no version=4.0.1"),
     told("Yes", 7.6, 5.0, "BAYES_99,URIBL_BLACK")),
    ("header: clean, negative score", header("No, score=-1.9 required=5.0 tests=ALL_TRUSTED autolearn=ham"),
     told("No", -1.9, 5.0, "ALL_TRUSTED")),
    ("header: score zero", header("No, score=0.0 required=5.0 tests=SPF_PASS"), told("No", 0.0, 5.0, "SPF_PASS")),
    ("header: hits, as it was called before", header("No, hits=1.4 required=5.0 tests=X"), told("No", 1.4, 5.0, "X")),
    ("header: folded before tests", header("Yes, score=7.6 required=5.0??tests=X"), told("Yes", 7.6, 5.0, "X")),
    ("header: cut before tests", header("Yes, score=7.6 required=5.0"), told("Yes", 7.6, 5.0)),
    ("header: warning instead of info", header("Yes, score=7.6 required=5.0 tests=X", "milter-header-warning"),
     told("Yes", 7.6, 5.0, "X")),
    ("amavis: clean", amavis("Passed CLEAN", "-1.9"), passed_on("No", -1.9)),
    ("amavis: score zero", amavis("Passed CLEAN", "0"), passed_on("No", 0.0)),
    ("amavis: spammy, passed with a tag", amavis("Passed SPAMMY", "6.312"), passed_on("Yes", 6.312)),
    ("amavis: spam, blocked", amavis("Blocked SPAM", "21.5"), passed_on("Yes", 21.5, kept_back="<ann@b.org>")),
    ("amavis: names of tests", amavis("Passed SPAMMY", "6.3", tests=", Tests: [BAYES_99=3.5,X=0.001,Y_2=2.8]"),
     passed_on("Yes", 6.3, "BAYES_99,X,Y_2")),
    ("amavis: no queue ID", amavis("Passed CLEAN", "1.4", ""), passed_on("No", 1.4, queue_id=None)),
    ("amavis: not scanned", amavis("Passed CLEAN", "-"), IGNORED),
    ("amavis: other lines", "amavis[7]: (04336-07) Checking: wnMB3mhE3oaz [192.0.2.1] <joe@a.net> -> <a@b>", IGNORED),
    ("rspamd: no action", rspamd("F (no action): [-0.50/15.00] [SPF_ALLOW(-0.50){+ip4:192.0.2.0/24;},ARC_NA(0.00){}]"),
     found("No", -0.5, 15.0, "SPF_ALLOW,ARC_NA")),
    ("rspamd: score zero", rspamd("F (no action): [0.00/15.00] [ARC_NA(0.00){}]"), found("No", 0.0, 15.0, "ARC_NA")),
    ("rspamd: greylisted is no spam", rspamd("F (greylist): [5.10/15.00] [BAYES_SPAM(5.10){99.87%;}]"),
     found("No", 5.1, 15.0, "BAYES_SPAM")),
    ("rspamd: header added", rspamd("T (add header): [8.10/15.00] [BAYES_SPAM(5.10){99%;},MANY(3.00){a,b;}]"),
     found("Yes", 8.1, 15.0, "BAYES_SPAM,MANY")),
    ("rspamd: rejected", rspamd("T (reject): [16.20/15.00] [BAYES_SPAM(5.10){99%;},PHISH(11.10){x.net:[url];}]"),
     found("Yes", 16.2, 15.0, "BAYES_SPAM,PHISH")),
    ("rspamd: skipped", rspamd("S (no action): [0.00/0.00] []"), IGNORED),
    ("rspamd: no queue ID", rspamd("T (reject): [16.20/15.00] [PHISH(16.20){}]", ""),
     found("Yes", 16.2, 15.0, "PHISH", queue_id=None)),
)


def born(mid=MID):
    """A message comes in."""
    return ["postfix/smtpd[1]: %s: client=mx.a.net[192.0.2.1]" % QID,
            "postfix/cleanup[2]: %s: message-id=%s" % (QID, mid)]


def scan(words, score, tests, mid=MID, pid=9):
    """The three lines of a scan by spamd; the last one truncates the score."""
    truncated = ("Y %d" if words == "identified spam" else ". %d") % float(score)
    return [begins(mid, pid=pid), judged(words, score, pid=pid), result(truncated, tests, mid, pid=pid)]


BORN = born()
QUEUED = ["postfix/qmgr[3]: %s: from=<joe@a.net>, size=900, nrcpt=1 (queue active)" % QID]
BLOCKED = ["postfix/cleanup[2]: %s: milter-reject: END-OF-MESSAGE from %s"
           % (QID, TRAILER % ": 5.7.1 Blocked by SpamAssassin;")]
SPAM = scan("identified spam", "7.6", "BAYES_99,HTML_MESSAGE")
CLEAN = scan("clean message", "-0.5", "HTML_MESSAGE")
OTHER = scan("identified spam", "9.1", "GTUBE", "<2@other.net>", pid=10)
FORGED = "No, score=-99 required=5.0 tests=X"
NOTHING = (None, None, None, None)

# name, lines of the log, (spam_status, spam_score, spam_required, spam_tests) of the message's row
LOGS = (
    ("no filter at all", BORN + QUEUED, NOTHING),
    ("scan: 7.6, truncated to 7", BORN + SPAM + QUEUED, ("Yes", 7.6, 5.0, "BAYES_99,HTML_MESSAGE")),
    ("scan: -0.5, truncated to 0", BORN + CLEAN + QUEUED, ("No", -0.5, 5.0, "HTML_MESSAGE")),
    ("scan: -1.9, truncated to -1", BORN + scan("clean message", "-1.9", "X") + QUEUED, ("No", -1.9, 5.0, "X")),
    ("scan: 4.9, truncated to 4", BORN + scan("clean message", "4.9", "X") + QUEUED, ("No", 4.9, 5.0, "X")),
    ("scan: 12.96, rounded to 13.0 and truncated to 12", BORN + [judged("identified spam", "13.0"), result("Y 12", "X")] + QUEUED,
     ("Yes", 13.0, 5.0, "X")),
    ("scan: -1.97, rounded to -2.0 and truncated to -1", BORN + [judged("clean message", "-2.0"), result(". -1", "X")] + QUEUED,
     ("No", -2.0, 5.0, "X")),
    ("scan: 0.0", BORN + scan("clean message", "0.0", "X") + QUEUED, ("No", 0.0, 5.0, "X")),
    ("scan: no tests", BORN + scan("clean message", "0.0", "") + QUEUED, ("No", 0.0, 5.0, None)),
    ("scan: only the result was logged", BORN + SPAM[2:] + QUEUED, ("Yes", 7.0, 5.0, "BAYES_99,HTML_MESSAGE")),
    ("scan: behind the queue", BORN + QUEUED + SPAM, ("Yes", 7.6, 5.0, "BAYES_99,HTML_MESSAGE")),
    ("scan: of another message", BORN + OTHER + QUEUED, NOTHING),
    ("scan: of a message without Message-ID", BORN + scan("clean message", "1.4", "X", "(unknown)") + QUEUED, NOTHING),
    ("scan: another one at the same time", BORN + [line for pair in zip(OTHER, CLEAN) for line in pair] + QUEUED,
     ("No", -0.5, 5.0, "HTML_MESSAGE")),
    ("scan: decimals of another one are not taken", BORN + CLEAN[:1] + OTHER[:2] + CLEAN[2:] + QUEUED,
     ("No", 0.0, 5.0, "HTML_MESSAGE")),
    ("scan: decimals that do not fit the result are not taken",
     BORN + [judged("identified spam", "9.1")] + CLEAN[2:] + QUEUED, ("No", 0.0, 5.0, "HTML_MESSAGE")),
    ("scan: comma and blank in the Message-ID",
     born("<1,2 3@a.net>") + scan("clean message", "1.4", "X", "<1_2_3@a.net>") + QUEUED, ("No", 1.4, 5.0, "X")),
    ("scan: UTF-8 in the Message-ID, spamd 4",
     born("<\xc3\xb6@a.net>") + scan("clean message", "1.4", "X", r"<\x{C3}\x{B6}@a.net>") + QUEUED,
     ("No", 1.4, 5.0, "X")),
    ("header of a milter", BORN + [header("Yes, score=7.6 required=5.0 tests=X")] + QUEUED, ("Yes", 7.6, 5.0, "X")),
    ("header of a milter has the decimals", BORN + SPAM[2:] + [header("Yes, score=7.6 required=5.0")] + QUEUED,
     ("Yes", 7.6, 5.0, "BAYES_99,HTML_MESSAGE")),
    ("header of a milter is cut, spamd has the names",
     BORN + SPAM + [header("Yes, score=7.6 required=5.0 tests=BAYES_99,HTM")] + QUEUED,
     ("Yes", 7.6, 5.0, "BAYES_99,HTML_MESSAGE")),
    ("header of the sender is not believed", BORN + [header(FORGED, "info")] + QUEUED, NOTHING),
    ("header of the sender, another action", BORN + [header(FORGED, "warning")] + QUEUED, NOTHING),
    ("header of the sender beside spamd's result", BORN + SPAM + [header(FORGED, "info")] + QUEUED,
     ("Yes", 7.6, 5.0, "BAYES_99,HTML_MESSAGE")),
    ("subject that imitates a milter's header",
     BORN + [header("milter-header-info: header X-Spam-Status: " + FORGED, "info", "Subject")] + QUEUED, NOTHING),
    ("header of a milter that cites a status",
     BORN + [header("X-Spam-Status: " + FORGED, name="X-Spam-Report")] + QUEUED, NOTHING),
    ("spamass-milter rejects what spamd scored", BORN + SPAM + BLOCKED, ("Yes", 7.6, 5.0, "BAYES_99,HTML_MESSAGE")),
    ("amavis, by queue ID", BORN + QUEUED + [amavis("Passed SPAMMY", "6.312")], ("Yes", 6.312, None, None)),
    ("amavis, by Message-ID", BORN + QUEUED + [amavis("Passed SPAMMY", "6.312", "")], ("Yes", 6.312, None, None)),
    ("rspamd, by queue ID", BORN + [rspamd("F (no action): [-0.50/15.00] [X(-0.50){}]")] + QUEUED,
     ("No", -0.5, 15.0, "X")),
    ("rspamd, by Message-ID", BORN + [rspamd("T (reject): [16.20/15.00] [X(16.20){}]", "")] + QUEUED,
     ("Yes", 16.2, 15.0, "X")),
)


def check_text(line):
    """What a line says."""
    program, _, text = line.partition(": ")
    return tracker.parser_of(program.partition("[")[0])(text)


def check_log(lines):
    """The spam columns of the row that lines of a log make, as --import would write it."""
    odd, correlator = [], tracker.Correlator(30 * tracker.SECOND, "mx")
    reader = tracker.Tracker(tracker.Calendar(tracker.epoch(2026, 12, 1, 0)), correlator, odd.append, odd.append)
    reader.feed(["Nov  5 09:03:07 mx " + line for line in lines], 0, 0)
    correlator.close(everything=True)
    assert not odd, "lines not understood: %r" % odd
    row, = tracker.settle(correlator.harvest(), lambda names: {}, 0, tracker.DomainFilter(()))
    return row.spam_status, row.spam_score, row.spam_required, row.spam_tests


class SpamAssassinParsing(unittest.TestCase):
    """One test per case, in the order of the tables."""


def method_of(check, name, given, expected):
    """The test of a case: what goes into `check`, and what must come out, of the same kind."""
    def test(self):
        self.assertEqual(check(given), expected)
        self.assertIs(type(check(given)), type(expected))
    test.__doc__ = name
    return test


METHODS = [method_of(check_text, *case) for case in TEXTS] + [method_of(check_log, *case) for case in LOGS]
for number, method in enumerate(METHODS):
    setattr(SpamAssassinParsing, "test_%02d_%s" % (number, re.sub(r"\W+", "_", method.__doc__)), method)


def main():
    """Run all cases, a line for each; the exit code."""
    failed, cases = 0, list(unittest.defaultTestLoader.loadTestsFromTestCase(SpamAssassinParsing))
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
