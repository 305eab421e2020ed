"""The rows depend on the log alone: not on how many of its lines come together, nor on what the store had when they came."""
import pytest
from tests.unit.replay import PRESENT, tracker

SECOND = tracker.SECOND


class Reader:
    """A tracker whose lines come in batches, each written before the next one comes. `asked`: called before every question to the store."""

    def __init__(self, asked=lambda names: None):
        self.correlator = tracker.Correlator(30 * SECOND)
        self.failed = []
        self.tracker = tracker.Tracker(tracker.Calendar(PRESENT), self.correlator, self.failed.append, self.failed.append)
        self.store, self.position, self.written, self.asked = tracker.SqliteStore(":memory:"), 0, [], asked
        self.store.connect()

    def read(self, *batches, known_until=0, everything=True):
        """Read batches, each a text; at their end all is written. Returns the rows, by queue ID."""
        for batch in batches:
            lines = ["2026-11-20T10:%s.000000+00:00 mx %s" % tuple(line.split(None, 1)) for line in batch.strip().splitlines()]
            self.tracker.feed(lines, self.position, 0)
            self.position += sum(map(len, lines)) + len(lines)
            self.flush(known_until)
        self.correlator.close(everything)
        self.flush(known_until)
        assert not self.failed
        return sorted(self.store.all_rows(), key=lambda row: (row.queue_id, row.recipient_no))

    def flush(self, known_until):
        harvest = self.correlator.harvest()
        rows = None
        while rows is None:
            try:
                rows = tracker.settle(harvest, self.recall, known_until, self.correlator.filter)
            except tracker.StoreGone:
                continue
        self.written.append([(row.queue_id, row.recipient_no) for row in rows])
        self.store.write(rows)

    def recall(self, names):
        self.asked(names)
        return self.store.recall(names)


def one_by_one(text):
    """Every line of a text is a batch."""
    return text.strip().splitlines()


def test_messages_finished_to_make_room_are_continued_by_later_lines_of_the_same_batch(monkeypatch):
    monkeypatch.setattr(tracker, "MAX_OPEN", 10)
    ids = ["4F0006%04X" % (0xA000 + number) for number in range(15)]
    lines = ["00:%02d postfix/%s" % (number, line) for number, queue_id in enumerate(ids) for line in (
        "smtpd[%d]: %s: client=a.example[192.0.2.1]" % (number, queue_id), "cleanup[2]: %s: message-id=<%s@a>" % (queue_id, queue_id),
        "qmgr[3]: %s: from=<x@a.example>, size=1000, nrcpt=1 (queue active)" % queue_id)]
    lines += ["00:%02d postfix/%s" % (20 + number, line) for number, queue_id in enumerate(ids) for line in (
        "smtp[4]: %s: to=<y@b.example>, relay=b[192.0.2.9]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 Ok)" % queue_id,
        "qmgr[3]: %s: removed" % queue_id)]
    for batches in (["\n".join(lines)], lines):
        rows = Reader().read(*batches)
        assert [(row.queue_id, row.client_ip, row.relay_status) for row in rows] == [(queue_id, "192.0.2.1", "sent") for queue_id in ids]


def test_there_is_never_more_open_than_may_be(monkeypatch):
    monkeypatch.setattr(tracker, "MAX_OPEN", 10)
    reader = Reader()
    for number in range(100):
        reader.read("00:00 postfix/smtpd[1]: 4F0006%04X: client=a.example[192.0.2.1]" % (0xA000 + number), everything=False)
        assert reader.correlator.open_count <= 10


SPLIT = """
00:00 postfix/smtpd[11]: 3A1B2172385: client=mail.good.test[192.0.2.10]
00:00 postfix/cleanup[12]: 3A1B2172385: message-id=<1@good.test>
00:00 postfix/qmgr[3]: 3A1B2172385: from=<a@good.test>, size=900, nrcpt=2 (queue active)
00:01 postfix/smtpd[17]: 3A1C3172386: client=localhost[127.0.0.1]
00:01 postfix/cleanup[12]: 3A1C3172386: message-id=<1@good.test>
00:01 postfix/qmgr[3]: 3A1C3172386: from=<a@good.test>, size=1000, nrcpt=1 (queue active)
00:01 postfix/smtp[14]: 3A1B2172385: to=<dest@ok.test>, orig_to=<sales@good.test>, relay=127.0.0.1[127.0.0.1]:10024, delay=1.3, \
delays=0.3/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 3A1C3172386)
00:01 postfix/smtpd[17]: disconnect from localhost[127.0.0.1]
00:20 postfix/smtp[15]: 3A1B2172385: to=<big@slow.test>, relay=none, delay=20, delays=0.3/0/20/0, dsn=4.4.1, \
status=deferred (connect to slow.test[192.0.2.77]:25: Connection timed out)
00:35 postfix/anvil[9]: statistics: max cache size 1"""
ENDS = """
00:40 postfix/smtp[16]: 3A1C3172386: to=<dest@ok.test>, relay=mx.ok.test[192.0.2.90]:25, delay=39, delays=0.3/0/38/0.7, dsn=2.0.0, \
status=sent (250 ok)
00:40 postfix/qmgr[3]: 3A1C3172386: removed
00:40 postfix/smtp[15]: 3A1B2172385: to=<big@slow.test>, relay=slow.test[192.0.2.78]:25, delay=40, delays=0.3/0/39/1, dsn=2.0.0, \
status=sent (250 ok)
00:40 postfix/qmgr[3]: 3A1B2172385: removed"""


def test_one_that_inherits_is_written_together_with_the_one_it_came_from():
    rows = Reader().read(SPLIT, *one_by_one(ENDS))
    assert [(row.orig_to, row.parent_queue_id) for row in rows] == [
        ("sales@good.test", None), ("big@slow.test", None), ("sales@good.test", "3A1B2172385")]
    assert Reader().read(SPLIT, ENDS) == Reader().read(SPLIT + ENDS) == rows


def test_a_client_whose_connect_is_missing_ends_the_session_before():
    """An aborted mail of that one neither comes in any more nor keeps its place in the log."""
    reader = Reader()
    reader.read("""
        00:00 postfix/smtpd[1]: connect from a.example[192.0.2.1]
        00:00 postfix/smtpd[1]: 4F00061AAA: client=a.example[192.0.2.1]
        00:10 postfix/smtpd[1]: 4F00061BBB: client=b.example[192.0.2.2]
        00:11 postfix/smtpd[1]: disconnect from b.example[192.0.2.2]""", "01:00 postfix/anvil[7]: statistics: x", everything=False)
    assert not reader.correlator.open_count and reader.correlator.low_water(reader.position) == reader.position


SHOWN = """
00:00 postfix/smtpd[1]: connect from a.example[192.0.2.1]
00:00 policyd-spf[9]: prepend Received-SPF: Fail (mailfrom) identity=mailfrom; client-ip=192.0.2.1; helo=a; envelope-from=s1@a.example; \
receiver=z
00:00 postfix/smtpd[1]: 4F00061AAA: client=a.example[192.0.2.1]
00:00 postfix/cleanup[2]: 4F00061AAA: message-id=<a@a.example>
00:00 postfix/qmgr[3]: 4F00061AAA: from=<s2@a.example>, size=1000, nrcpt=1 (queue active)
00:00 postfix/smtp[4]: 4F00061AAA: to=<y@z>, relay=none, delay=1, delays=0/0/0/1, dsn=4.4.1, status=deferred (connect to z: refused)
00:40 postfix/anvil[7]: statistics: max"""
CALLED_IN = """
00:41 postfix/smtpd[1]: 4F00061BBB: client=a.example[192.0.2.1]
00:41 postfix/cleanup[2]: 4F00061BBB: message-id=<b@a.example>
00:41 postfix/qmgr[3]: 4F00061BBB: from=<s1@a.example>, size=1000, nrcpt=1 (queue active)"""
GOES_ON = """
00:42 postfix/smtp[4]: 4F00061AAA: to=<y@z>, relay=z[192.0.2.9]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)
00:42 postfix/qmgr[3]: 4F00061AAA: removed"""


def test_a_result_called_in_from_a_written_message_stays_so_when_that_goes_on_in_the_same_batch():
    rows = Reader().read(SHOWN, CALLED_IN, GOES_ON)
    assert [(row.queue_id, row.spf_result) for row in rows] == [("4F00061AAA", None), ("4F00061BBB", "Fail")]
    assert Reader().read(SHOWN, CALLED_IN + GOES_ON) == rows


UNDECIDED = """
00:03 postfix/smtpd[12]: NOQUEUE: reject: RCPT from b.example[192.0.2.20]: 550 5.1.1 <gone@ok.test>: Recipient address rejected: \
User unknown; from=<b@b.example> to=<gone@ok.test> proto=ESMTP helo=<h>
00:03 policyd-spf[22]: prepend Received-SPF: Softfail (mailfrom) identity=mailfrom; client-ip=192.0.2.20; helo=h; \
envelope-from=b@b.example; receiver=z
00:03 postfix/smtpd[12]: 4F00061AAA: client=b.example[192.0.2.20]"""


def test_a_result_that_a_mail_shows_at_the_end_of_the_log_is_not_that_of_the_refusal_before():
    rows = Reader().read(UNDECIDED)
    assert [(row.relay_status, row.spf_result) for row in rows] == [("incomplete", "Softfail"), ("rejected", None)]


SLOW_FILTER = """
00:00 postfix/smtpd[11]: 3A1B2172385: client=mail.good.test[192.0.2.10]
00:00 postfix/cleanup[12]: 3A1B2172385: message-id=<f@good.test>
00:00 postfix/qmgr[13]: 3A1B2172385: from=<a@good.test>, size=1365, nrcpt=1 (queue active)
00:00 postfix/smtpd[11]: disconnect from mail.good.test[192.0.2.10]
00:45 postfix/smtpd[17]: 3A1C3172386: client=localhost[127.0.0.1]
00:45 postfix/cleanup[12]: 3A1C3172386: message-id=<f@good.test>
00:45 postfix/qmgr[13]: 3A1C3172386: from=<a@good.test>, size=1365, nrcpt=1 (queue active)
00:45 postfix/lmtp[40]: 3A1C3172386: to=<b@ok.test>, relay=mx[lmtp], delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 Saved)
00:45 postfix/qmgr[13]: 3A1C3172386: removed
00:45 postfix/smtp[41]: 3A1B2172385: to=<b@ok.test>, relay=127.0.0.1[127.0.0.1]:10024, delay=45, delays=0/0/0/45, dsn=2.0.0, \
status=sent (250 Ok: queued as 3A1C3172386)
00:45 postfix/qmgr[13]: 3A1B2172385: removed"""


def test_what_a_slow_filter_hands_back_inherits_of_a_message_that_was_written_meanwhile():
    rows = Reader().read(*one_by_one(SLOW_FILTER))
    assert [(row.client_ip, row.relay_status) for row in rows] == [("192.0.2.10", "requeued"), ("192.0.2.10", "sent")]
    assert Reader().read(SLOW_FILTER) == rows


NEWER = """
00:59 postfix/smtpd[5]: 4F00061BBB: client=localhost[127.0.0.1]
00:59 postfix/cleanup[2]: 4F00061BBB: message-id=<a@a.example>
00:59 postfix/qmgr[3]: 4F00061BBB: from=<s2@a.example>, size=1100, nrcpt=1 (queue active)
01:00 postfix/smtp[4]: 4F00061AAA: to=<y@z.example>, relay=127.0.0.1[127.0.0.1]:10024, delay=60, delays=0/0/0/1, dsn=2.0.0, \
status=sent (250 2.0.0 Ok: queued as 4F00061BBB)
01:00 postfix/qmgr[3]: 4F00061AAA: removed
01:01 postfix/smtp[4]: 4F00061BBB: to=<y@z.example>, relay=z.example[192.0.2.9]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)
01:01 postfix/qmgr[3]: 4F00061BBB: removed"""
OLDER = """
00:00 postfix/smtpd[1]: 4F00061AAA: client=a.example[192.0.2.1]
00:00 postfix/cleanup[2]: 4F00061AAA: message-id=<a@a.example>
00:00 postfix/qmgr[3]: 4F00061AAA: from=<s2@a.example>, size=1000, nrcpt=1 (queue active)"""


@pytest.mark.parametrize("gone", [0, 1, 2], ids=["never", "at the first question", "at the second"])
def test_what_an_older_log_read_later_tells_reaches_those_that_inherit(gone):
    """Also when the database is away for a moment."""
    questions = []

    def asked(names):
        questions.append(names)
        if len(questions) == gone:
            raise tracker.StoreGone("away")

    reader = Reader()
    assert [row.client_ip for row in reader.read(NEWER)] == [None, "127.0.0.1"]
    reader.asked = asked
    rows = reader.read(OLDER, known_until=tracker.LATEST)
    assert [(row.queue_id, row.client_ip) for row in rows] == [("4F00061AAA", "192.0.2.1"), ("4F00061BBB", "192.0.2.1")]


def test_one_child_of_two_recipients_is_written_once():
    deliveries = "\n".join(
        "01:00 postfix/smtp[4]: 4F00061AAA: to=<%s@z>, relay=127.0.0.1[127.0.0.1]:10024, delay=60, delays=0/0/0/1, dsn=2.0.0, "
        "status=sent (250 2.0.0 Ok: queued as 4F00061BBB)" % name for name in "yx")
    child = "\n".join(line for line in one_by_one(NEWER) if "AAA" not in line.split(" to=")[0])
    reader = Reader()
    reader.read(child, deliveries)
    assert all(len(set(written)) == len(written) for written in reader.written)


def test_a_failure_within_repeated_lines_leaves_the_next_ones_their_numbers(monkeypatch):
    def fold(correlator, origin, event):
        if correlator.turn:
            raise ZeroDivisionError
        if event.helo == "good":
            tracker.Correlator.fold_verdict(correlator, origin, event)

    monkeypatch.setitem(tracker.FOLDS, tracker.Verdict, fold)
    reader = Reader()
    reader.tracker.on_failure = lambda text: None
    line = "postfix/smtpd[1]: %sNOQUEUE: reject: RCPT from a[192.0.2.1]: 554 5.7.1 no; from=<x@b> to=<y@z> proto=ESMTP helo=<%s>%s"
    rows = reader.read("00:00 " + line % ("message repeated 5000 times: [ ", "bad", "]") + "\n00:00 " + line % ("", "good", ""))
    assert [row.recipient_no for row in rows] == [0]


FORWARDED = """
00:22 postfix/smtpd[182]: connect from c40.good.test[192.0.2.40]
00:22 postfix/smtpd[182]: NOQUEUE: client=c40.good.test[192.0.2.40]
00:23 postfix/smtpd[188]: ABA50218633: client=localhost[127.0.0.1]
00:23 postfix/cleanup[174]: ABA50218633: message-id=<m28@good.test>
00:23 postfix/qmgr[154]: ABA50218633: from=<a@good.test>, size=987, nrcpt=1 (queue active)
00:23 postfix/cleanup[174]: AC940218635: message-id=<m28@good.test>
00:23 postfix/local[190]: ABA50218633: to=<fwd@ok.test>, relay=local, delay=0, delays=0/0/0/0, dsn=2.0.0, \
status=sent (forwarded as AC940218635)
00:23 postfix/qmgr[154]: ABA50218633: removed
00:23 postfix/qmgr[154]: AC940218635: from=<a@good.test>, size=1187, nrcpt=1 (queue active)
00:23 amavis[185]: (00185-10) Passed SPAMMY {RelayedTaggedInbound}, PRE [192.0.2.40]:51925 <a@good.test> -> <fwd@ok.test>, \
Message-ID: <m28@good.test>, mail_id: vpY-UT77_1FT, Hits: 6.5, size: 438, queued_as: ABA50218633, 122 ms"""


def test_a_verdict_is_of_the_mail_that_it_names_not_of_one_that_was_made_of_it():
    rows = Reader().read(FORWARDED)
    assert [(row.queue_id, row.spam_status) for row in rows] == [("ABA50218633", "Yes"), ("AC940218635", "Yes")]


SCANNED = """
00:20 postfix/smtpd[7]: 4F00061AE: client=a.example[192.0.2.1]
00:20 postfix/cleanup[2]: 4F00061AE: message-id=<m1@example.org>
00:20 postfix/qmgr[3]: 4F00061AE: from=<a@example.org>, size=1234, nrcpt=1 (queue active)
%s
00:23 postfix/smtp[4]: 4F00061AE: to=<b@example.com>, relay=127.0.0.1[127.0.0.1]:10024, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (Ok)
00:23 postfix/qmgr[3]: 4F00061AE: removed
00:45 postfix/smtpd[8]: connect from c.example[192.0.2.3]"""
VERDICT = "Passed SPAMMY {RelayedTaggedInbound}, [192.0.2.1]:54180 <a@example.org> -> <b@example.com>, (), Queue-ID: 4F00061AE, " \
          "Message-ID: <m1@example.org>, mail_id: 47G-u3kjLkOz, b: 3tnIDXRGW, Hits: 5.9, size: 316, queued_as: 4F00061AF, " \
          "Subject: \"x...\", Tests: [BAYES_50=0.8,URIBL_BLACK=5.1], autolearn=no, 345 ms"


def verdicts(lines, everything=True):
    """What the rows tell of the scan, read at once and line by line."""
    read = [Reader().read(*batches, everything=everything) for batches in ([SCANNED % lines], one_by_one(SCANNED % lines))]
    found = [[(row.queue_id, row.spam_status, row.spam_score, row.spam_tests) for row in rows] for rows in read]
    assert found[0] == found[1]
    return found[0]


def test_a_line_that_amavis_cuts_anywhere_tells_what_it_tells_uncut():
    whole = verdicts("00:21 amavis[185]: (00185-10) " + VERDICT)
    assert whole == [("4F00061AE", "Yes", 5.9, "BAYES_50,URIBL_BLACK")]
    opening = VERDICT.index("{")                # amavis cuts behind some hundred bytes
    for place in range(opening, len(VERDICT)):
        pieces = "00:21 amavis[185]: (00185-10) %s...\n00:21 amavis[185]: (00185-10) ...%s" % (VERDICT[:place], VERDICT[place:])
        assert verdicts(pieces) == whole, pieces


@pytest.mark.parametrize("behind", [
    "00:21 amavis[185]: (00185-11) Blocked INFECTED (x) {DiscardedInbound}, <a@example.org> -> <c@example.com>, Hits: -, size: 1, 3 ms",
    "00:22 amavis[185]: (00185-11) Passed CLEAN {RelayedInbound}, <a@example.org> -> <c@example.com>, Queue-ID: 4F00061AD...",
    "00:21 amavis[185]: (00185-11) ...of another line, 3 ms", ""])
def test_of_a_line_whose_other_pieces_are_lost_what_is_there_counts(behind):
    begun = "00:21 amavis[185]: (00185-10) %s..." % VERDICT[:VERDICT.index(" autolearn")]
    lines = "00:21 amavis[185]: (00185-09) ...the beginning is lost, 3 ms\n%s\n%s" % (begun, behind)
    assert verdicts(lines.strip()) == [("4F00061AE", "Yes", 5.9, None)]
    assert verdicts(lines.strip(), everything=False) == [("4F00061AE", "Yes", 5.9, None)]


def test_pieces_without_end_do_not_fill_the_memory():
    pieces = "00:21 amavis[185]: (00185-10) %s...\n" % VERDICT[:VERDICT.index(" autolearn")]
    pieces += "00:21 amavis[185]: (00185-10) ...%s...\n" % (50000 * "x") * 5
    reader = Reader()
    rows = reader.read(SCANNED % (pieces + "00:21 amavis[186]: (00186-01) " + VERDICT[:50] + "..."))
    assert [(row.queue_id, row.spam_score) for row in rows] == [("4F00061AE", 5.9)]
    reader.correlator.pieces.clear()
    reader.read(*pieces.splitlines(), everything=False)
    assert sum(len(line.pieces.text) for line in reader.correlator.pieces.values()) <= tracker.MAX_LINE


LEFT_BETWEEN = """
00:00 postfix/smtpd[7]: 4F00061AE: client=a.example[192.0.2.1]
00:00 postfix/cleanup[2]: 4F00061AE: message-id=<m1@example.org>
00:00 postfix/qmgr[3]: 4F00061AE: from=<a@example.org>, size=1234, nrcpt=1 (queue active)
00:40 postfix/10025/smtpd[8]: connect from localhost[127.0.0.1]""", """
00:50 postfix/10025/smtpd[8]: 5F00061AE: client=localhost[127.0.0.1], orig_queue_id=4F00061AE, orig_client=a.example[192.0.2.1]
00:50 postfix/cleanup[2]: 5F00061AE: message-id=<m1@example.org>
00:50 postfix/qmgr[3]: 5F00061AE: from=<a@example.org>, size=1500, nrcpt=1 (queue active)
00:51 amavis[185]: (00185-10) Passed SPAMMY {RelayedTaggedInbound}, <a@example.org> -> <b@example.com>, Queue-ID: 4F00061AE, \
Message-ID: <m1@example.org>, mail_id: x, Hits: 5.9, size: 316, queued_as: 5F00061AE, 345 ms
01:22 postfix/local[9]: 5F00061AE: to=<b@example.com>, relay=local, delay=32, delays=0/0/0/32, dsn=2.0.0, status=sent (delivered to mailbox)
01:22 postfix/qmgr[3]: 5F00061AE: removed
01:23 postfix/smtp[4]: 4F00061AE: to=<b@example.com>, relay=127.0.0.1[127.0.0.1]:10024, delay=83, delays=0/0/0/83, dsn=2.0.0, \
status=sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 5F00061AE)
01:23 postfix/qmgr[3]: 4F00061AE: removed"""


def test_what_a_message_learnt_between_two_silences_its_next_lines_and_its_heirs_know():
    """It was stored, left memory again with nothing but the verdict to tell, and came back, all within one batch."""
    first, rest = LEFT_BETWEEN
    for batches in ([first, rest], [first] + one_by_one(rest), one_by_one(first + rest), [first + rest]):
        rows = Reader().read(*batches)
        assert [(row.queue_id, row.spam_score, row.relay_status, row.parent_queue_id) for row in rows] == [
            ("4F00061AE", 5.9, "requeued", None), ("5F00061AE", 5.9, "sent", "4F00061AE")], batches


def test_what_a_parent_learnt_before_a_silence_its_heir_knows():
    first, rest = LEFT_BETWEEN
    rest = rest[:rest.index("01:22 ")] + "05:00 postfix/smtpd[8]: connect from c.example[192.0.2.3]"
    for batches in ([first, rest], [first] + one_by_one(rest), one_by_one(first + rest), [first + rest]):
        rows = Reader().read(*batches)
        assert [(row.queue_id, row.spam_score, row.relay_status) for row in rows] == [
            ("4F00061AE", 5.9, "incomplete"), ("5F00061AE", 5.9, "incomplete")], batches


BEFORE_THE_QUEUE = """
00:20 postfix/smtpd[182]: connect from c40.good.test[192.0.2.40]
00:22 postfix/smtpd[182]: NOQUEUE: client=c40.good.test[192.0.2.40]
00:22 postfix/smtpd[188]: 4660A218633: client=localhost[127.0.0.1]
00:22 postfix/cleanup[174]: 4660A218633: message-id=<m27@good.test>
00:22 postfix/qmgr[154]: 4660A218633: from=<>, size=987, nrcpt=1 (queue active)
00:22 postfix/smtp[189]: 4660A218633: to=<u1@ok.test>, relay=mx.ok.test[192.0.2.30]:25, delay=0.1, delays=0/0/0/0.1, dsn=2.0.0, \
status=sent (250 Ok)
00:22 postfix/qmgr[154]: 4660A218633: removed
00:22 amavis[185]: (00185-09) Passed CLEAN {RelayedInbound}, PRE [192.0.2.40]:51925 <> -> <u1@ok.test>, Message-ID: <m27@good.test>, \
mail_id: vpY-UT77_1FS, Hits: 0, size: 438, queued_as: 4660A218633, 122 ms
00:22 postfix/smtpd[182]: proxy-accept: END-OF-MESSAGE: 250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4660A218633; \
from=<> to=<u1@ok.test> proto=ESMTP helo=<mail.good.test>"""


def test_the_first_verdict_of_all_may_come_when_its_mail_has_left_memory():
    for batches in ([BEFORE_THE_QUEUE], one_by_one(BEFORE_THE_QUEUE)):
        rows = Reader().read(*batches)
        assert [(row.queue_id, row.client_ip, row.spam_score) for row in rows] == [("4660A218633", "192.0.2.40", 0.0)]


CLOCK_SET_BACK = """
20:00 postfix/smtpd[1]: 4F00061AAA: client=a.example[192.0.2.1]
20:00 postfix/cleanup[2]: 4F00061AAA: message-id=<a@a.example>
20:00 postfix/qmgr[3]: 4F00061AAA: from=<x@a.example>, size=1000, nrcpt=1 (queue active)
20:03 postfix/smtpd[1]: 4F00061AAA: reject: RCPT from a.example[192.0.2.1]: 550 5.1.1 <no@z>: User unknown; from=<x@a.example> to=<no@z> \
proto=ESMTP helo=<a>
20:03 postfix/smtpd[1]: disconnect from a.example[192.0.2.1]
20:50 postfix/anvil[7]: statistics: max
20:01 postfix/smtp[4]: 4F00061AAA: to=<y@z>, relay=z[192.0.2.9]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)
20:01 postfix/qmgr[3]: 4F00061AAA: removed"""


def test_an_outcome_with_an_earlier_stamp_takes_the_place_of_none_at_all():
    rows = Reader().read(CLOCK_SET_BACK)
    assert [(row.upstream_to, row.relay_status) for row in rows] == [(None, "rejected"), ("y@z", "sent")]
    assert Reader().read(*one_by_one(CLOCK_SET_BACK)) == rows
