"""The traps of the list of log formats, each a case of its own: what a reader of mail logs takes for something else, and must not.

A case is a small log and the rows that come of it, the same however the log is read: at once, twice, cut and restarted anywhere. Where
no rows are needed, it is a line and the event that it is.
"""
import itertools
import os
import pathlib
import shutil
import tempfile
import time
import unittest

from tests.unit.replay import PRESENT, Replay, event_of, tracker

ID, OTHER = "4F00061AE", "4F00161AF"
RELAY = "mx.example.net[198.51.100.1]:25"
SESSION = "mail.example.org[192.0.2.1]"
SAID = "host mx.example.net[198.51.100.1] said: "
CONNECTED, DISCONNECTED = "postfix/smtpd[11]: connect from " + SESSION, "postfix/smtpd[11]: disconnect from " + SESSION
TRAILER = "from=<a@example.org> to=<b@example.com> proto=ESMTP helo=<mail.example.org>"


def log(*texts):
    """Lines of host mx, a second apart, one character per byte."""
    stamps = ("2026-11-20T10:%02d:%02d.000000+00:00 mx " % divmod(second, 60) for second in itertools.count())
    return [stamp + text.encode("utf-8").decode("latin-1") for stamp, text in zip(stamps, texts)]


def client(queue_id=ID, peer=SESSION, more=""):
    return "postfix/smtpd[11]: %s: client=%s%s" % (queue_id, peer, more)


def message_id(queue_id=ID, value="<m1@example.org>"):
    return "postfix/cleanup[12]: %s: message-id=%s" % (queue_id, value)


def active(queue_id=ID, sender="a@example.org", nrcpt=1):
    return "postfix/qmgr[13]: %s: from=<%s>, size=1234, nrcpt=%d (queue active)" % (queue_id, sender, nrcpt)


def arrival(queue_id=ID, nrcpt=1):
    """A message comes in by SMTP."""
    return [client(queue_id), message_id(queue_id, "<%s@example.org>" % queue_id.lower()), active(queue_id, nrcpt=nrcpt)]


def delivery(reason="250 2.0.0 Ok", to="b@example.com", status="sent", dsn="2.0.0", queue_id=ID, orig=None, relay=RELAY, agent="smtp",
             delays="delay=1.2, delays=0.1/0/0.4/0.7", close=")"):
    """A delivery status line."""
    named = ", orig_to=<%s>" % orig if orig is not None else ""
    return "postfix/%s[14]: %s: to=<%s>%s, relay=%s, %s, dsn=%s, status=%s (%s%s" % (
        agent, queue_id, to, named, relay, delays, dsn, status, reason, close)


def removed(queue_id=ID):
    return "postfix/qmgr[13]: %s: removed" % queue_id


def smtpd(text):
    return "postfix/smtpd[11]: " + text


def judged(text, by="postfix/smtpd[11]: NOQUEUE: reject: RCPT", trailer=TRAILER):
    """A decision on what the client says."""
    return "%s from %s: %s; %s" % (by, SESSION, text, trailer)


def checked(what, reason=""):
    """A header check of cleanup."""
    return "postfix/cleanup[12]: %s: %s: header Subject: x from %s; %s%s" % (ID, what, SESSION, TRAILER, reason)


def opendkim(text):
    return "opendkim[7]: %s: %s" % (ID, text)


def opendmarc(text):
    return "opendmarc[8]: %s: %s" % (ID, text)


def notified(child=OTHER):
    return "postfix/bounce[18]: %s: sender non-delivery notification: %s" % (ID, child)


DEFERRED = delivery("connect to x: no", to="c@example.com", status="deferred", dsn="4.4.1", relay="none")
SENT = [active(), delivery(), removed()]        # what follows when all goes well


class Case(unittest.TestCase):
    """What the cases share."""

    maxDiff = None

    def rows(self, *texts, **settings):
        """The rows of a small log, however it is read."""
        return Replay(log(*texts), **settings).however_read()

    def row(self, *texts):
        """The only row of a small log."""
        rows = self.rows(*texts)
        self.assertEqual(len(rows), 1, rows)
        return rows[0]

    def delivered(self, *deliveries):
        """The rows of one message with these delivery lines."""
        return self.rows(*arrival(nrcpt=len(deliveries)), *deliveries, removed())


class Addresses(Case):
    """Traps 1 to 3, 12, 14, 15, 21, 22, 35: addresses and names."""

    def test_trap_01_a_quoted_local_part_imitates_later_fields(self):
        for forged in ('"x>, relay=evil[192.0.2.66]:25, status=sent"@example.net',
                       '"x>, relay=evil[192.0.2.66]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)"@example.net',
                       r'"\">, orig_to=<z@example.com>, relay=evil, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (x)"@example.net'):
            row, = self.delivered(delivery("no", to=forged, status="bounced", dsn="5.1.1", relay="none"))
            self.assertEqual((row.upstream_to, row.orig_to, row.relay_host, row.relay_ip, row.relay_status, row.dsn, row.relay_message),
                             (forged, forged, "none", None, "bounced", "5.1.1", "no"))

    def test_trap_01_a_quoted_sender_imitates_later_fields(self):
        forged = '"x>, size=9, nrcpt=9 (queue active)"@example.org'
        row = self.row(client(), active(sender=forged), delivery(), removed())
        self.assertEqual((row.envelope_from, row.size, row.nrcpt), (forged, 1234, 1))

    def test_trap_02_the_same_without_quotes_before_3_5(self):
        for forged in ("x>, relay=evil[192.0.2.66]:25, status=sent@example.net", "a>b, c d@example.net", "a b@example.net",
                       "x>, dsn=2.0.0, status=sent@example.net"):
            row, = self.delivered(delivery("no", to=forged, status="bounced", dsn="5.1.1", relay="none"))
            self.assertEqual((row.upstream_to, row.orig_to, row.relay_host, row.relay_ip, row.relay_status, row.dsn),
                             (forged, forged, "none", None, "bounced", "5.1.1"))
            row, = self.delivered(delivery("no", to="b@example.net", orig=forged, status="bounced", dsn="5.1.1", relay="none"))
            self.assertEqual((row.upstream_to, row.orig_to, row.relay_host, row.relay_status), ("b@example.net", forged, "none", "bounced"))

    def test_trap_03_orig_to_absent_equals_to(self):
        row, = self.delivered(delivery(to="b@example.com"))
        self.assertEqual((row.orig_to, row.upstream_to), ("b@example.com", "b@example.com"))
        row, = self.delivered(delivery(to="b@example.com", orig="info@example.com"))
        self.assertEqual((row.orig_to, row.upstream_to), ("info@example.com", "b@example.com"))
        self.assertIsNone(event_of(delivery().replace("<b@example.com>", "b@example.com")), "Postfix never leaves the brackets out")

    def test_trap_12_one_recipient_has_several_lines(self):
        deferred = DEFERRED.replace("c@", "b@")
        row, = self.delivered(deferred, deferred, delivery())
        self.assertEqual((row.relay_status, row.relay_message, row.dsn), ("sent", "250 2.0.0 Ok", "2.0.0"))

    def test_trap_12_one_orig_to_has_several_to_and_the_other_way_round(self):
        rows = self.delivered(delivery(to="b@example.com", orig="all@example.com"), delivery(to="c@example.com", orig="all@example.com"))
        self.assertEqual([(row.orig_to, row.upstream_to) for row in rows],
                         [("all@example.com", "b@example.com"), ("all@example.com", "c@example.com")])
        rows = self.delivered(delivery(to="b@example.com", orig="info@example.com"), delivery(to="b@example.com", orig="sales@example.com"),
                              delivery(to="b@example.com"))
        self.assertEqual([row.orig_to for row in rows], ["info@example.com", "sales@example.com", "b@example.com"])

    def test_trap_14_long_ids_differ_by_case(self):
        one, two = "4jXSnX0bKLz1Tq", "4JXSNX0BKLz1TQ"
        rows = self.rows(client(one), client(two), active(one), active(two, sender="z@example.org"), delivery(queue_id=one),
                         delivery("no", queue_id=two, status="bounced", dsn="5.1.1"), removed(two), removed(one))
        self.assertEqual([(row.queue_id, row.envelope_from, row.relay_status) for row in rows],
                         [(one, "a@example.org", "sent"), (two, "z@example.org", "bounced")])
        types = {column.name: column.type for column in tracker.COLUMNS}
        for name in ("queue_id", "next_queue_id", "parent_queue_id"):
            self.assertIn("COLLATE ascii_bin", types[name])

    def test_trap_15_short_ids_come_back_after_removed(self):
        lines = [client(), active(), delivery(), removed(), client(peer="mail.other.example[192.0.2.2]"), active(sender="z@other.example"),
                 delivery("no", status="bounced", dsn="5.1.1"), removed()]
        within_a_second = ["2026-11-20T10:00:00.%06d+00:00 mx %s" % (place, line) for place, line in enumerate(lines)]
        for form in (log(*lines), within_a_second):
            rows = Replay(form).however_read()
            self.assertEqual([(row.queue_id, row.client_ip, row.envelope_from, row.relay_status) for row in rows],
                             [(ID, "192.0.2.1", "a@example.org", "sent"), (ID, "192.0.2.2", "z@other.example", "bounced")])

    def test_trap_15_a_bounce_may_get_the_id_of_a_message_just_removed(self):
        rows = self.rows(client(), message_id(), *SENT, message_id(value="<20261120.%s@mx.example.com>" % ID), active(sender=""),
                         delivery("no", to="z@example.org", status="bounced", dsn="5.1.1"), removed())
        self.assertEqual([(row.envelope_from, row.client_ip, row.relay_status) for row in rows],
                         [("a@example.org", "192.0.2.1", "sent"), ("", None, "bounced")])

    def test_trap_15_short_ids_are_those_of_one_host(self):
        lines = log(client(), client(peer="mail.other.example[192.0.2.2]"), active(), active(sender="z@other.example"), delivery(),
                    delivery("no", status="bounced", dsn="5.1.1"), removed(), removed())
        lines[1::2] = [line.replace("+00:00 mx ", "+00:00 mx2 ") for line in lines[1::2]]
        rows = Replay(lines).however_read()
        self.assertEqual([(row.server_hostname, row.client_ip, row.envelope_from, row.relay_status) for row in rows],
                         [("mx", "192.0.2.1", "a@example.org", "sent"), ("mx2", "192.0.2.2", "z@other.example", "bounced")])

    def test_trap_21_message_ids_are_no_tidy_values(self):
        for value, expected in (("<CaSe@Example.ORG>", "CaSe@Example.ORG"), ("no.brackets", "no.brackets"), ("<>", ""),
                                ("<a@example.org> (added by x)", "a@example.org"), ("?<a@example.org>", "a@example.org"),
                                ("<a@example.org> <b@example.org>", "a@example.org"), ("<a b@example.org>", "a b@example.org"),
                                ("<%s@example.org>" % ("x" * 300), "x" * 300 + "@example.org"),
                                ("<%s@example.org>" % ("x" * 900), "x" * 512)):
            self.assertEqual(self.row(client(), message_id(value=value), active(), delivery(), removed()).message_id, expected)

    def test_trap_21_the_first_of_several_counts(self):
        row = self.row(client(), message_id(value="<one@example.org>"), message_id(value="<two@example.org>"),
                       "postfix/cleanup[12]: %s: resent-message-id=<three@example.org>" % ID, active(), delivery(), removed())
        self.assertEqual(row.message_id, "one@example.org")

    def test_trap_21_several_in_one_header_as_filters_tell_them(self):
        """rspamd cuts one bracket at either end, and makes a `?` of each blank (mime_headers.c); amavis tells the header as it is."""
        rspamd = "rspamd[600]: <a1b2c3>; task; rspamd_task_write_log: id: <one@example.org>?<two@example.org>, qid: <%s>, ip: 192.0.2.1, " \
                 "(default: T (reject): [77.50/15.00] [A(1.00){}]), len: 100, time: 1ms" % ID
        amavis = "amavis[5]: (1-01) Passed SPAMMY {RelayedTaggedInbound}, [192.0.2.1]:25 <a@example.org> -> <b@example.com>, " \
                 "Queue-ID: %s, Message-ID: <one@example.org> <two@example.org>, mail_id: x, Hits: 77.5, size: 3, 4 ms" % ID
        for line in (rspamd, amavis, amavis.replace("Queue-ID: %s, " % ID, "")):
            row = self.row(client(), message_id(value="<one@example.org> <two@example.org>"), line, active(), delivery(), removed())
            self.assertEqual((row.spam_status, row.spam_score, row.message_id), ("Yes", 77.5, "one@example.org"))

    def test_trap_22_pickup_and_bounces_have_no_client(self):
        pickup = "postfix/pickup[15]: %s: uid=0 from=<root>" % ID
        row = self.row(pickup, message_id(), active(sender="root@example.com"), delivery(), removed())
        self.assertEqual((row.client_ip, row.client_hostname, row.envelope_from), (None, None, "root@example.com"))
        row = self.row(message_id(value="<20261120.%s@mx.example.com>" % ID), active(sender=""), delivery(), removed())
        self.assertEqual((row.client_ip, row.envelope_from, row.original_envelope_from), (None, "", ""))

    def test_trap_22_a_transcript_comes_from_double_bounce_and_a_probe_is_no_mail(self):
        lines = [message_id(value="<20261120.%s@mx.example.com>" % ID), active(sender="double-bounce@mx.example.com")]
        row = self.row(*lines, delivery(to="postmaster@example.com"), removed())
        self.assertEqual((row.envelope_from, row.upstream_to), ("double-bounce@mx.example.com", "postmaster@example.com"))
        for status in ("deliverable", "undeliverable", "undeliverable-but-not-cached"):
            self.assertEqual(self.rows(*lines, delivery("250 2.1.5 Ok", status=status), removed()), [])

    def test_trap_35_addresses_are_no_ascii(self):
        row = tracker.fitted(self.row(client(), active(sender="jörg@müller.example"), delivery(to="почта@пример.example"), removed()))
        self.assertEqual((row.envelope_from, row.upstream_to), ("jörg@müller.example", "почта@пример.example"))
        lines = log(client(), active(sender="j??rg@example.org"), delivery(to="b@example.com"), removed())
        lines[2] = lines[2].replace("b@example.com", "\xff\xc3b@example.com")
        row, = map(tracker.fitted, Replay(lines).however_read())
        self.assertEqual((row.envelope_from, row.upstream_to), ("j??rg@example.org", "\ufffd\ufffdb@example.com"))


class Replies(Case):
    """Traps 4 to 10, 33, 34, 38: what stands in a delivery line."""

    def codes(self, *reasons):
        """The reply code of each reason, as recorded."""
        lines = [delivery(reason, to="r%d@example.com" % place, status="deferred", dsn="4.0.0") for place, reason in enumerate(reasons)]
        return [row.smtp_code for row in self.delivered(*lines)]

    def test_trap_04_the_reason_ends_at_the_last_parenthesis(self):
        reason = "host mx.example.net[198.51.100.1] said: 550 5.1.1 no (really (no)) (in reply to RCPT TO command)"
        for close in (")", ")   ", ""):
            row, = self.delivered(delivery(reason, status="bounced", dsn="5.1.1", close=close))
            self.assertEqual((row.relay_status, row.relay_message), ("bounced", reason if close else reason[:-1]))

    def test_trap_04_a_truncated_reason_is_what_is_left(self):
        row, = self.delivered(delivery(SAID + "550 5.1.1 " + "x" * 1800, status="bounced", dsn="5.1.1", close=""))
        self.assertEqual((row.relay_status, row.smtp_code, len(row.relay_message)), ("bounced", 550, len(SAID) + 1810))

    def test_trap_04_fields_in_an_address_before_3_5_that_the_record_s_end_cuts_are_not_believed(self):
        forged = delivery(to='b";c@example.com', relay="evil[192.0.2.66]:25", reason="ok", close="")
        self.assertEqual(event_of(forged).relay, "evil[192.0.2.66]:25")
        self.assertIsNone(event_of(forged + " " + "x" * 1999))

    def test_trap_05_said_and_refused_name_no_port(self):
        for reason in (SAID + "450 4.7.1 later", SAID + "450 4.7.1 later (in reply to RCPT TO command)",
                       "host mx.example.net[198.51.100.1] refused to talk to me: 450 busy"):
            row, = self.delivered(delivery(reason, status="deferred", dsn="4.7.1", relay="mx.example.net[2001:db8::25]:2525"))
            self.assertEqual((row.smtp_code, row.relay_host, row.relay_ip, row.relay_port, row.relay_message),
                             (450, "mx.example.net", "2001:db8::25", 2525, reason))

    def test_trap_06_multi_line_replies_keep_their_hyphens(self):
        reply = "550-5.7.26 text 550-5.7.26 2024 more 550 5.7.26 end"
        row, = self.delivered(delivery(SAID + reply + " (in reply to end of DATA command)", status="bounced", dsn="5.7.26"))
        self.assertEqual((row.smtp_code, row.dsn), (550, "5.7.26"))
        self.assertIn(reply, row.relay_message)
        self.assertEqual(self.codes(SAID + "550 User unknown", SAID + "452-4.2.2 full 452 4.2.2 full", SAID + "421", "250-one 250 two"),
                         [550, 452, 421, 250])

    def test_trap_06_of_a_refusal_the_enhanced_code_may_or_may_not_follow(self):
        for text, code, dsn in (("550-5.7.26 a 550 5.7.26 b", 550, "5.7.26"), ("550 User unknown", 550, None),
                                ("452-4.2.2 full", 452, "4.2.2"), ("550 2024.5.1 no", 550, None)):
            row = self.row(judged(text))
            self.assertEqual((row.smtp_code, row.dsn, row.relay_message), (code, dsn, text))

    def test_trap_07_without_a_reply_there_is_no_code(self):
        self.assertEqual(set(self.codes(
            "connect to mx550.example.net[198.51.100.250]:25: Connection timed out", 'unknown user: "250"', "delivered to maildir",
            "Host or domain name not found. Name service error for name=450.example type=MX: Host not found",
            "lost connection with mx.example.net[198.51.100.1] while sending end of data -- message may be sent more than once",
            "delivery temporarily suspended: %s450 4.7.1 later (in reply to RCPT TO command)" % SAID,
            "message size 52428800 exceeds size limit 26214400 of server mx.example.net[198.51.100.1]",
            "TLS is required, but was not offered by host mx.example.net[198.51.100.1]", "Cannot start TLS: handshake failure",
            "see https://example.net/?code=550 5.1.1")), {None})

    def test_trap_07_what_a_command_prints_is_no_reply(self):
        for said in ("550 mailboxes full", "450"):
            row, = self.delivered(delivery(said, agent="pipe", relay="maildrop", status="bounced", dsn="5.3.0"))
            self.assertEqual((row.smtp_code, row.relay_message), (None, said))

    def test_trap_08_status_decides_whatever_the_reply_says(self):
        for status, dsn, reason, expected, code in (
                ("deferred", "4.0.0", "host mx.example.net[198.51.100.1] refused to talk to me: 554 5.7.1 no", "deferred", 554),
                ("bounced", "5.2.2", SAID + "452 4.2.2 full (in reply to RCPT TO command)", "bounced", 452),
                ("deferred", "4.7.1", SAID + "550 5.7.1 no (in reply to RCPT TO command)", "deferred", 550),
                ("SOFTBOUNCE", "4.1.1", SAID + "550 5.1.1 no (in reply to RCPT TO command)", "deferred", 550),
                ("bounced", "5.5.0", "Protocol error: " + SAID + "250 2.0.0 Ok (in reply to DATA command)", "bounced", 250),
                ("bounced", "5.0.0", SAID + "550 no (in reply to RCPT TO command)", "bounced", 550)):
            row, = self.delivered(delivery(reason, status=status, dsn=dsn))
            self.assertEqual((row.relay_status, row.dsn, row.smtp_code), (expected, dsn, code))

    def test_trap_09_a_relay_may_have_no_port_no_address_or_many_colons(self):
        for relay, expected in (
                ("none", ("none", None, None)), ("local", ("local", None, None)), ("virtual", ("virtual", None, None)),
                ("maildrop", ("maildrop", None, None)), ("mx[private/dovecot-lmtp]", ("mx[private/dovecot-lmtp]", None, None)),
                ("mail[/var/run/lmtp]", ("mail[/var/run/lmtp]", None, None)), ("[/var/run/lmtp]", ("[/var/run/lmtp]", None, None)),
                ("mx[2001:db8::25]:25", ("mx", "2001:db8::25", 25)), ("::1[::1]:2600", ("::1", "::1", 2600)),
                ("mx.example.net[198.51.100.1]:587", ("mx.example.net", "198.51.100.1", 587))):
            row, = self.delivered(delivery(relay=relay))
            self.assertEqual((row.relay_host, row.relay_ip, row.relay_port), expected)

    def test_trap_10_sent_to_a_filter_is_not_final(self):
        reply = "250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as " + OTHER
        rows = self.rows(*arrival(), client(OTHER, "localhost[127.0.0.1]").replace("[11]", "[16]"), message_id(OTHER), active(OTHER),
                         delivery(reply, relay="127.0.0.1[127.0.0.1]:10024"), removed(),
                         delivery("no", queue_id=OTHER, status="bounced", dsn="5.1.1"), removed(OTHER))
        self.assertEqual([(row.queue_id, row.relay_status, row.next_queue_id) for row in rows],
                         [(ID, "requeued", OTHER), (OTHER, "bounced", None)])

    def test_trap_10_sent_and_thrown_away(self):
        dropped = delivery("250 2.7.0 Ok, discarded, id=04336-07 - SPAM", dsn="2.7.0", relay="127.0.0.1[127.0.0.1]:10024")
        self.assertEqual([row.relay_status for row in self.delivered(dropped)], ["discarded"])
        self.assertEqual([row.relay_status for row in self.delivered(delivery("trap", agent="discard", relay="none"))], ["discarded"])
        row, = self.delivered(delivery("delivered to file: /dev/null", agent="local", relay="local"))
        self.assertEqual(row.relay_message, "delivered to file: /dev/null")

    def test_trap_33_tls_stands_between_delays_and_dsn(self):
        for tls, expected in (("none", None), ("may", "may"), ("dane:halfdane", "dane:halfdane"), ("encrypt/!x", "encrypt/!x")):
            row, = self.delivered(delivery(delays="delay=1.2, delays=0.1/0/0.4/0.7, tls=" + tls))
            self.assertEqual((row.relay_status, row.dsn, row.relay_tls, row.delays), ("sent", "2.0.0", expected, "0.1/0/0.4/0.7"))

    def test_trap_33_tls_stands_behind_an_address_without_quotes(self):
        row, = self.delivered(delivery(to="a>b, c@example.net", delays="conn_use=2, delay=1.2, delays=0.1/0/0.4/0.7, tls=may"))
        self.assertEqual((row.upstream_to, row.relay_status, row.relay_tls), ("a>b, c@example.net", "sent", "may"))

    def test_trap_34_delays_are_integers_or_decimals_and_may_be_days(self):
        for delay, delays, expected in (("0", "0/0/0/0", 0), ("0.07", "0.02/0.01/0.03/0.01", 0.07), ("431234", "431230/0.5/2/1.5", 431234),
                                        ("12", "11/0/0.5/0.52", 12), ("0.123456", "0.1/0.003456/0.01/0.01", 0.123456)):
            row, = self.delivered(delivery(delays="delay=%s, delays=%s" % (delay, delays)))
            self.assertEqual((row.delays, row.relay_status), (delays, "sent"))
            self.assertAlmostEqual(float(row.delay), expected, places=3)

    def test_trap_38_the_next_id_is_the_word_after_the_last_queued_as(self):
        for reply, expected in (
                ("250 2.0.0 Ok: queued as 4F00261B0", "4F00261B0"), ("250 2.0.0 Ok: 1234 bytes queued as 4F00261B0", "4F00261B0"),
                ("250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4jXSnX0bKLz1Tq", "4jXSnX0bKLz1Tq"),
                ("250 2.0.0 Ok: queued as x-1 and queued as 4F00261B0", "4F00261B0"),
                ("250 2.6.0 <m1@example.org> Queued mail for delivery", None), ("250 2.0.0 OK  1793865787 abc.12 - gsmtp", None),
                ("250 2.0.0 Message accepted for delivery", None)):
            row, = self.delivered(delivery(reply))
            self.assertEqual((row.next_queue_id, row.relay_status), (expected, "sent"))


class Lines(Case):
    """Traps 11, 13, 16 to 20, 28 to 32, 36, 37, 39, 40: what a line is about, and which lines there are."""

    def test_trap_11_queue_active_repeats_on_every_retry(self):
        rows = self.rows(*arrival(nrcpt=2), delivery(), DEFERRED, active(nrcpt=2), DEFERRED, active(nrcpt=1), delivery(to="c@example.com"),
                         removed())
        self.assertEqual([(row.upstream_to, row.relay_status, row.nrcpt, row.recipient_no) for row in rows],
                         [("b@example.com", "sent", 2, 0), ("c@example.com", "sent", 2, 1)])

    def test_trap_13_words_that_look_like_short_ids(self):
        for word in ("DEADBEEF", "DEFACED", "BEADED"):
            self.assertTrue(tracker.is_queue_id(word), word)
        for word in "FACADE NOQUEUE warning statistics disconnect connect reject message prepend cache timeout".split():
            self.assertFalse(tracker.is_queue_id(word), word)

    def test_trap_13_an_id_stands_right_after_the_tag_of_a_known_program(self):
        rows = self.rows(
            *arrival(), "dovecot[1]: DEADBEEF: removed", "kernel: BEADED: removed", "postfix/smtpd[11]: warning: hostname DEFACED: unknown",
            "postfix/smtp[14]: connect to DEADBEEF: removed", "opendkim[7]: cache: DEFACED: DKIM verification successful",
            "postfix/smtpd[11]: warning: %s: DEADBEEF: queue file size limit exceeded" % SESSION,
            "postfix/smtp[14]: %s: host DEADBEEF: removed said: 450 DEFACED: no" % ID, delivery("250 BEADED: removed"), removed())
        self.assertEqual([(row.queue_id, row.relay_status, row.dkim_result) for row in rows], [(ID, "sent", None)])

    def test_trap_16_warning_before_and_behind_the_id(self):
        row = self.row(client(), checked("warning", ": queue file size limit exceeded"), *SENT)
        self.assertEqual((row.relay_status, row.helo), ("sent", "mail.example.org"))
        row = self.row(client(), message_id(), "postfix/cleanup[12]: warning: %s: queue file size limit exceeded" % ID)
        self.assertEqual((row.relay_status, row.relay_message), ("rejected", "queue file size limit exceeded"))

    def test_trap_16_the_reason_of_a_reject_by_cleanup_stands_at_its_end(self):
        row = self.row(client(), message_id(), checked("reject", ": 4.7.1 not now").replace("Subject: x", "Subject: 550 5.0.0 x"))
        self.assertEqual((row.relay_status, row.relay_message, row.dsn, row.smtp_code, row.helo, row.orig_to),
                         ("rejected", "4.7.1 not now", "4.7.1", None, "mail.example.org", "b@example.com"))

    def test_trap_17_the_trailer_is_the_last_one(self):
        for text in ("554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example; https://zen.example/?ip=192.0.2.1",
                     "550 5.7.23 <b@example.com>: SPF fail. Please see http://x.example/Why?s=mfrom;id=z@x.example;ip=1;r=<UNKNOWN>",
                     "554 5.7.1 no; from=<forged@example.net> to=<forged@example.net> proto=SMTP helo=<forged>",
                     "554 5.7.1 no; proto=SMTP helo=<forged>", "554 5.7.1 <x>; to=<forged@example.net>"):
            row = self.row(judged(text))
            self.assertEqual((row.relay_message, row.envelope_from, row.orig_to, row.protocol, row.helo),
                             (text, "a@example.org", "b@example.com", "ESMTP", "mail.example.org"))

    def test_trap_18_trailers_differ(self):
        no = "554 5.7.1 no"
        postscreen = judged(no, "postfix/postscreen[17]: NOQUEUE: reject: RCPT", TRAILER.replace(" ", ", "))
        for line, username in (
                (judged(no), None),
                (judged(no, trailer=TRAILER + " sasl_method=PLAIN sasl_username=joe"), "joe"),
                (judged(no, "postfix/smtpd[11]: NOQUEUE: milter-reject: RCPT", TRAILER + " sasl_username=<joe>"), "joe"),
                (smtpd("proxy-reject: END-OF-MESSAGE: %s; %s sasl_username=<joe>" % (no, TRAILER)), "joe"),
                (postscreen.replace(SESSION, "[192.0.2.1]:9"), None)):
            row = self.row(line)
            self.assertEqual((row.envelope_from, row.orig_to, row.protocol, row.helo, row.sasl_username, row.relay_message),
                             ("a@example.org", "b@example.com", "ESMTP", "mail.example.org", username, no), line)
        self.assertEqual(event_of(client(more=", sasl_method=PLAIN, sasl_username=joe").replace("[11]", "")).sasl_username, "joe")

    def test_trap_19_noqueue_is_not_always_a_rejection(self):
        said = [judged("<b@example.com>: Recipient address does something", "postfix/smtpd[11]: NOQUEUE: %s: RCPT" % what)
                for what in "filter info warn permit reject_warning hold redirect bcc milter-hold".split()]
        said += [client("NOQUEUE"), smtpd("NOQUEUE: lost connection after RCPT from " + SESSION)]
        for line in said:
            self.assertEqual(self.rows(CONNECTED, line, DISCONNECTED), [], line)

    def test_trap_19_a_hold_without_an_id_is_of_the_message_that_follows(self):
        hold = judged("<b@example.com>: Recipient address triggers HOLD action", "postfix/smtpd[11]: NOQUEUE: hold: RCPT")
        row = self.row(CONNECTED, hold, client(), message_id(), DISCONNECTED)
        self.assertEqual((row.queue_id, row.relay_status, row.orig_to), (ID, "held", "b@example.com"))

    def test_trap_20_a_port_stands_in_lines_of_smtpd_and_not_in_those_of_cleanup(self):
        for peer, address in (("mail.example.org[192.0.2.1]", "192.0.2.1"), ("unknown[2001:db8::1]", "2001:db8::1")):
            refused = judged("5.7.1 no", "postfix/cleanup[12]: %s: milter-reject: END-OF-MESSAGE" % ID).replace(SESSION, peer)
            row = self.row(smtpd("connect from %s:40000" % peer), client(peer=peer + ":40000"), message_id(), refused,
                           smtpd("disconnect from %s:40000" % peer))
            self.assertEqual((row.client_ip, row.client_hostname, row.relay_status), (address, peer.partition("[")[0], "rejected"))

    def test_trap_28_stamps_of_one_log_differ(self):
        """One message told by rsyslog, journalctl, Postfix and syslog-ng."""
        texts = [client(), message_id(), active(), opendkim("no signature data"), delivery(), removed()]
        stamps = ("Nov  5 10:00:00", "Nov 05 10:00:01", "2026 Nov  5 10:00:02.500", "Thu 2026-11-05 10:00:03 CET",
                  "2026-11-05T10:00:04+0100", "2026-11-05T10:00:05.250000+01:00")
        os.environ["TZ"] = "CET-1"
        time.tzset()
        try:
            row, = Replay(["%s mx %s" % pair for pair in zip(stamps, texts)]).however_read()
        finally:
            os.environ["TZ"] = "UTC"
            time.tzset()
        nine = tracker.epoch(2026, 11, 5, 9 * 3600)
        self.assertEqual((row.first_seen, row.last_seen, row.relay_status), (nine, nine + 4 * tracker.SECOND, "sent"))

    def test_trap_29_repeated_lines_hide_the_id(self):
        rows = self.rows(smtpd("message repeated 3 times: [ %s]" % judged("554 5.7.1 no").partition(": ")[2]))
        self.assertEqual([(row.relay_status, row.orig_to) for row in rows], [("rejected", "b@example.com")] * 3)
        self.assertEqual(len({row.queue_id for row in rows}), 3)
        repeated = "postfix/smtp[14]: message repeated 2 times: [ %s]" % delivery().partition(": ")[2]
        self.assertEqual([(row.queue_id, row.relay_status) for row in self.delivered(repeated)], [(ID, "sent")])

    def test_trap_29_repeated_more_often_than_the_line_has_bytes(self):
        """Its repetitions take no other line's place."""
        refused = judged("554 5.7.1 no").partition(": ")[2]
        lines = ["Nov  5 10:00:00 mx " + smtpd(text) for text in ("message repeated 1000 times: [ %s]" % refused, refused, refused)]
        self.assertEqual(len(Replay(lines).however_read()), 1002)

    def test_trap_29_the_text_inside_is_cut_at_800_bytes(self):
        text = " " + delivery("250 2.0.0 " + "x" * 2000).partition(": ")[2]
        row, = self.delivered("postfix/smtp[14]: message repeated 2 times: [%s]" % text[:800])
        self.assertEqual((row.relay_status, row.smtp_code, row.upstream_to), ("sent", 250, "b@example.com"))
        self.assertTrue(row.relay_message.endswith("xxx"), row.relay_message)

    def test_trap_30_lines_interleave_and_are_out_of_order(self):
        lines = log(*arrival(), delivery(), removed())
        stamps = [line.partition(" ")[0] for line in lines]
        wanted = [row._replace(first_seen=0) for row in Replay(lines).whole()]
        for order in itertools.permutations(range(5)):
            if order.index(4) < max(order.index(0), order.index(1)):
                continue                    # a birth behind the end is that of another message
            moved = ["%s %s" % (stamps[place], lines[place].partition(" ")[2]) for place in order]
            rows = Replay(moved).whole()
            self.assertEqual(rows[0].first_seen, tracker.Calendar(PRESENT).read(moved[0])[0], "the first line read")
            self.assertEqual([row._replace(first_seen=0) for row in rows], wanted, order)

    def test_trap_30_other_sources_are_a_few_milliseconds_behind(self):
        texts = [message_id(), opendkim("DKIM verification successful"), client(), active(), removed(), delivery()]
        stamps = (3, 4, 1, 5, 9, 8)
        rows = Replay(["2026-11-20T10:00:00.00%d000+00:00 mx %s" % pair for pair in zip(stamps, texts)]).however_read()
        self.assertEqual([(row.client_ip, row.message_id, row.dkim_result, row.relay_status) for row in rows],
                         [("192.0.2.1", "m1@example.org", "pass", "sent")])

    def test_trap_31_the_line_of_a_bounce_stands_before_or_behind_those_of_its_message(self):
        child = [message_id(OTHER, "<20261120.%s@mx.example.com>" % OTHER), active(OTHER, sender="")]
        failed = [*arrival(), delivery("no", status="bounced", dsn="5.1.1")]
        for told in ([*child, notified()], [child[0], notified(), child[1]], [notified(), *child]):
            rows = self.rows(*failed, *told, removed(), delivery(queue_id=OTHER, to="a@example.org"), removed(OTHER))
            self.assertEqual([(row.queue_id, row.parent_queue_id, row.relay_status) for row in rows],
                             [(ID, None, "bounced"), (OTHER, ID, "sent")])

    def test_trap_31_the_new_id_may_never_become_a_message(self):
        row = self.row(*arrival(), delivery("no", status="bounced", dsn="5.1.1"), notified(),
                       "postfix/cleanup[12]: %s: removed (canceled)" % OTHER, removed())
        self.assertEqual((row.queue_id, row.relay_status), (ID, "bounced"))

    def test_trap_32_a_message_may_have_no_line_of_qmgr(self):
        milter = "postfix/cleanup[12]: %s: milter-%%s: END-OF-MESSAGE" % ID
        for line, status in ((judged("5.7.1 no", milter % "reject"), "rejected"),
                             (judged("milter triggers DISCARD action", milter % "discard"), "discarded"),
                             (checked("hold"), "held"), (checked("discard"), "discarded")):
            row = self.row(CONNECTED, client(), message_id(), opendkim("s=sel1 d=example.org a=rsa-sha256 SSL "),
                           opendkim("DKIM verification successful"), opendmarc("example.org fail"), line, DISCONNECTED)
            self.assertEqual((row.relay_status, row.message_id, row.dkim_result, row.dkim_domain, row.dmarc_result, row.size),
                             (status, "m1@example.org", "pass", "example.org", "fail", None))

    def test_trap_36_lines_of_other_programs_are_long(self):
        bad = "; ".join('signature=AbCdEf%02d domain=d%d.example selector=s result="signature verification failed"' % (place, place)
                        for place in range(200))
        good = '; signature=Zz domain=good.example selector=s result="no signature error"'
        row = self.row(client(), message_id(), opendkim(bad + good), *SENT)
        self.assertEqual((row.dkim_result, row.dkim_domain, row.dkim_signatures), ("pass", "good.example", 201))

    def test_trap_36_a_last_line_without_its_end_waits_for_more(self):
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, str(folder))
        path = folder / "mail.log"
        whole = "\n".join(log(delivery("250 2.0.0 Ok: queued as 4F00261B0"), removed())).encode("latin-1") + b"\n"
        for cut in (1, 60, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:cut])
            file = tracker.LogFile(str(path), 0)
            early = [line for batch in file.lines() for line in batch.lines]
            with path.open("ab") as more:
                more.write(whole[cut:])
            late = [line for batch in file.lines() for line in batch.lines]
            self.assertEqual(early, whole[:cut].decode("latin-1").split("\n")[:-1])
            self.assertEqual(early + late, whole.decode("latin-1").splitlines())

    def test_trap_36_a_delivery_line_cut_in_its_reason_counts(self):
        row, = self.delivered(delivery(SAID + "550 5.1.1 <b@exam", status="bounced", dsn="5.1.1", close=""))
        self.assertEqual((row.relay_status, row.relay_message), ("bounced", SAID + "550 5.1.1 <b@exam"))

    def test_trap_37_removed_means_what_its_program_means(self):
        self.assertEqual(self.row(*arrival(), delivery(), removed()).relay_status, "sent")
        self.assertEqual(self.row(*arrival(), DEFERRED, removed().replace("qmgr[13]", "postsuper[19]")).relay_status, "deleted")
        canceled = "postfix/cleanup[12]: %s: removed (canceled)" % ID
        self.assertEqual(self.row(client(), message_id(), canceled).relay_status, "incomplete")
        discarded = [checked("discard"), canceled.replace("canceled", "discarded")]
        self.assertEqual(self.row(client(), message_id(), *discarded).relay_status, "discarded")

    def test_trap_37_what_a_before_queue_filter_began_to_hand_in_gives_its_id_back_too(self):
        begun = client(peer="localhost[127.0.0.1]", more=", orig_client=" + SESSION)
        bounce = [message_id(value="<20261120100000.%s@mx>" % ID), active(sender=""), delivery(), removed()]
        gone, sent = Replay(log(begun, "postfix/cleanup[12]: %s: removed (canceled)" % ID, *bounce)).whole()
        self.assertEqual((gone.relay_status, sent.relay_status, sent.client_ip), ("incomplete", "sent", None))

    def test_trap_37_the_tail_is_matched_exactly(self):
        for program, text in (("qmgr", "removed (canceled)"), ("qmgr", "removed by hand"), ("postsuper", "removed (canceled)")):
            self.assertNotIsInstance(event_of("postfix/%s: %s: %s" % (program, ID, text)), tracker.Removed)

    def test_trap_39_a_milter_names_one_recipient_and_means_all(self):
        milter = "postfix/cleanup[12]: %s: milter-%%s: END-OF-MESSAGE" % ID
        refused = judged("550 5.1.1 no", "postfix/smtpd[11]: %s: reject: RCPT" % ID, TRAILER.replace("b@", "unknown@"))
        rows = self.rows(client(), refused, message_id(), judged("5.7.1 spam", milter % "reject"))
        self.assertEqual({row.orig_to: (row.relay_status, row.relay_message) for row in rows},
                         {"unknown@example.com": ("rejected", "550 5.1.1 no"), "b@example.com": ("rejected", "5.7.1 spam")})
        rows = self.rows(client(), refused, message_id(), judged("milter triggers HOLD action", milter % "hold"),
                         "postfix/postsuper[19]: %s: released from hold" % ID, active(nrcpt=2), delivery(), DEFERRED,
                         "postfix/postsuper[19]: %s: placed on hold" % ID)
        self.assertEqual({row.orig_to: row.relay_status for row in rows},
                         {"unknown@example.com": "rejected", "b@example.com": "sent", "c@example.com": "held"})

    def test_trap_39_a_reject_at_rcpt_concerns_that_recipient_alone(self):
        rows = self.rows(client(), judged("550 5.1.1 no", "postfix/smtpd[11]: %s: reject: RCPT" % ID), message_id(), active(),
                         delivery(to="c@example.com"), removed())
        self.assertEqual({row.orig_to: row.relay_status for row in rows}, {"b@example.com": "rejected", "c@example.com": "sent"})

    def test_trap_40_nrcpt_is_not_the_number_of_lines(self):
        expanded = [delivery("delivered to mailbox", to=name + "@example.com", orig="all@example.com", agent="local", relay="local")
                    for name in "bcd"]
        rows = self.rows(*arrival(nrcpt=1), *expanded, removed())
        self.assertEqual([(row.upstream_to, row.nrcpt) for row in rows], [(name + "@example.com", 1) for name in "bcd"])
        row = self.row(*arrival(nrcpt=3), delivery(), removed())
        self.assertEqual((row.nrcpt, row.relay_status), (3, "sent"))


class Filters(Case):
    """Traps 23 to 27: what programs beside Postfix say."""

    def test_trap_23_opendmarc_leaves_out_a_colon_and_an_identity(self):
        row = self.row(client(), message_id(), "opendmarc[8]: %s ignoring Authentication-Results at 1 from mx.example.net" % ID,
                       opendmarc("SPF(mailfrom):  pass"), opendmarc("example.org pass"), active(sender=""), delivery(), removed())
        self.assertEqual((row.spf_result, row.dmarc_result, row.dmarc_domain), ("Pass", "pass", "example.org"))

    def test_trap_24_an_empty_ssl_line_means_success(self):
        row = self.row(client(), message_id(), opendkim("DKIM verification successful"),
                       opendkim("s=sel1 d=example.org a=rsa-sha256 SSL "), *SENT)
        self.assertEqual((row.dkim_result, row.dkim_domain, row.dkim_selector, row.dkim_algorithm),
                         ("pass", "example.org", "sel1", "rsa-sha256"))

    def test_trap_24_not_internal_is_no_result_and_unsigned_mail_logs_nothing(self):
        for said in ("mail.example.org [192.0.2.1] not internal", "[192.0.2.1] [192.0.2.1] not internal", "not authenticated"):
            row = self.row(client(), message_id(), opendkim(said), *SENT)
            self.assertEqual((row.dkim_result, row.dkim_signatures), (None, None), said)
        self.assertIsNone(self.row(*arrival(), delivery(), removed()).dkim_result)

    def test_trap_25_policyd_spf_may_begin_with_a_colon_and_lowers_its_values(self):
        answer = ("policyd-spf[20]: %sprepend Received-SPF: %s (mailfrom) identity=mailfrom; client-ip=192.0.2.1; helo=mail.example.org; "
                  "envelope-from=%s; receiver=<UNKNOWN> ")
        joe, ann = "Joe@Example.ORG", "ANN@example.org"
        for opening in (": ", ""):
            rows = self.rows(answer % (opening, "Softfail", joe.lower()), answer % (opening, "Pass", ann.lower()), client(),
                             client(OTHER).replace("[11]", "[21]"), active(sender=joe), active(OTHER, sender=ann),
                             delivery(), delivery(queue_id=OTHER), removed(), removed(OTHER))
            self.assertEqual({row.envelope_from: row.spf_result for row in rows}, {joe: "Softfail", ann: "Pass"})

    def test_trap_25_the_perl_variant_has_a_tag_like_postfix(self):
        row = self.row("postfix/policy-spf[20]: Policy action=PREPEND Received-SPF: pass (example.org: 192.0.2.1 is authorized to use "
                       "'a@example.org' in 'mfrom' identity (mechanism 'a' matched)) receiver=mx; identity=mailfrom; "
                       "envelope-from=\"a@example.org\"; helo=x; client-ip=192.0.2.1", *arrival(), delivery(), removed())
        self.assertEqual(row.spf_result, "Pass")

    def test_trap_26_the_score_of_the_result_line_is_truncated(self):
        for wording, score, verdict, whole, status in (
                ("clean message", -0.5, ".", " 0", "No"), ("identified spam", 7.6, "Y", " 7", "Yes"),
                ("clean message", 5.0, ".", " 5", "No"), ("identified spam", 5.0, "Y", " 5", "Yes")):
            row = self.row(client(), message_id(), "spamd[22]: spamd: processing message <m1@example.org> for joe:1000",
                           "spamd[22]: spamd: %s (%.1f/5.0) for joe:1000 in 1.5 seconds, 1234 bytes." % (wording, score),
                           "spamd[22]: spamd: result: %s %s - A,B scantime=1.5,size=1234,user=joe,uid=1000,required_score=5.0,"
                           "rhost=localhost,raddr=127.0.0.1,rport=40000,mid=<m1@example.org>,autolearn=no" % (verdict, whole), *SENT)
            self.assertEqual((row.spam_status, float(row.spam_score), float(row.spam_required), row.spam_tests),
                             (status, score, 5.0, "A,B"))

    def test_of_a_line_of_amavis_whose_rest_is_lost_only_what_is_whole_counts(self):
        """It ends anywhere; a field counts if another one begins behind it."""
        verdict = tracker.Spam(ID, "m1@example.org", "Yes", 17.3)
        opening = "(04336-07) Passed SPAM {RelayedTaggedInbound}, [192.0.2.1]:40000 <a@example.org> -> <b@example.com>, Queue-ID: %s, " \
                  "Message-ID: <m1@exa" % ID
        score = opening + "mple.org>, mail_id: abcDEF123456, Hits: 17"
        for text, expected in (
                (opening, tracker.IGNORED), (score, tracker.IGNORED), (score + ".3, size: 12", tracker.IGNORED),
                (score + ".3, size: 1234, queued_as: 4F0006", verdict),
                (score + ".3, size: 1234, queued_as: 4F00061AF, Subject: \"Tests: [X=1]\", From: <a@example.org>, Tests: [A=0.1,RCVD_",
                 verdict._replace(child="4F00061AF")),
                ("(00185-05) Blocked BANNED (a.exe) {BouncedInbound,RelayedInbound,Quarantined}, [192.0.2.1]:40000 <a@example.org> -> "
                 "<b@example.com>, Queue-ID: %s, Message-ID: <m1@example.org>, mail_id: x, Hits: -, size: 448, Subject: \"y" % ID,
                 tracker.Spam(ID, "m1@example.org", None, None, kept_back="<b@example.com>"))):
            self.assertEqual(tracker.parse_amavis_verdict(text + "..."), expected, text)

    def test_trap_27_socketmap_stands_where_the_id_would(self):
        srs = "SRS0=HHHH=TT=1=0123456789ABCDEFGHIJKLMNOPQRSTUV@fwd.example.com"      # a database: the address itself does not tell
        told = "postsrsd[23]: socketmap: <a@example.org> forwarded as <%s>" % srs
        row = self.row(told, client(), active(sender=srs), delivery(), removed())
        self.assertEqual((row.queue_id, row.envelope_from, row.original_envelope_from), (ID, srs, "a@example.org"))


class Coverage(unittest.TestCase):
    """The list is whole."""

    def test_every_trap_is_a_case(self):
        cases = [name for holder in (Addresses, Replies, Lines, Filters) for name in dir(holder) if name.startswith("test_trap_")]
        self.assertEqual(sorted({int(name[10:12]) for name in cases}), list(range(1, 41)))


if __name__ == "__main__":
    unittest.main()
