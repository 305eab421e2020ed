"""Every question of the README, and every view: its whole answer against rows made by hand, and answered from an index."""
import datetime
import decimal
import random
import re
import time

import mariadb as mariadb_server
import mysql.connector
import pytest
from conftest import ROOT

import mail_relay_tracker as tracker

MODE = "ONLY_FULL_GROUP_BY,STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO"      # as strict as any server's default
STATUSES = ("sent", "bounced", "deferred", "expired", "rejected", "held", "discarded", "deleted", "requeued", "incomplete")


def questions():
    """The questions of the README and their queries: {heading: query}."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Questions and answers\n")[2].partition("\n## ")[0]
    found = {}
    for part in section.split("\n### ")[1:]:
        blocks = re.findall("^```sql\n(.*?)^```", part, re.M | re.S)
        assert len(blocks) == 1, part
        found[part.partition("\n")[0]] = blocks[0]
    return found


QUESTIONS = questions()
NOW = int(time.time()) * tracker.SECOND


def ago(hours, seconds=0):
    """So many hours before now, in microseconds; `seconds` later."""
    return NOW - int(hours * tracker.HOUR) + seconds * tracker.SECOND


def at(hours, seconds=0):
    """The same as the database tells it, in UTC."""
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=ago(hours, seconds))


def row(hours, queue_id, seconds=0, **values):
    """A row first seen so many hours ago; the sender behind SRS is the sender where nothing else is said."""
    first = ago(hours, seconds)
    known = dict.fromkeys(tracker.ROW_COLUMNS)
    known.update(server_hostname="mx1", queue_id=queue_id, first_seen=first, last_seen=first + tracker.SECOND, recipient_no=0)
    known.update(values)
    if known["original_envelope_from"] is None:
        known["original_envelope_from"] = known["envelope_from"]
    return tracker.Row(**known)


GMAIL = {"relay_host": "gmail-smtp-in.l.google.com", "relay_ip": "192.0.2.200", "relay_port": 25}
FILTER = {"relay_host": "127.0.0.1", "relay_ip": "127.0.0.1", "relay_port": 10024}
SAID = "host gmail-smtp-in.l.google.com[192.0.2.200] said: "
ERIKA = {"message_id": "20261122.1@example.net", "envelope_from": "erika@example.net", "client_ip": "192.0.2.10", "helo": "out.example.net",
         "spf_result": "Pass", "dkim_result": "pass", "dmarc_result": "pass", "dmarc_domain": "example.net",
         "spam_status": "No", "spam_score": -1.2, "spam_tests": "DKIM_VALID,SPF_PASS"}
ANNA = {"envelope_from": "SRS0=HHHH=TT=orig.example=anna@fwd.example", "original_envelope_from": "anna@orig.example",
        "message_id": "anna.1@orig.example", "client_ip": "203.0.113.5", "spf_result": "Softfail",
        "spam_status": "No", "spam_score": 4.9, "spam_tests": "SPF_SOFTFAIL, HTML_MESSAGE"}
SHOP = {"envelope_from": "werbung@shop.example", "client_ip": "198.51.100.7", "spf_result": "Fail", "dmarc_result": "fail",
        "dmarc_domain": "shop.example", "spam_status": "No", "spam_score": 3.1, "spam_tests": "SPF_FAIL,HTML_MESSAGE"}
BLOCKED = {"relay_status": "rejected", "smtp_code": 554, "dsn": "5.7.1"}
UNKNOWN = {"relay_status": "rejected", "smtp_code": 550, "dsn": "5.1.1"}

ROWS = [
    # A mail to two people; one copy goes to Gmail, one to the second server, which is tracked, too.
    row(1.5, "4jXSnX0bKLz1Tq", orig_to="hans@example.org", upstream_to="hans@gmail.com", relay_status="sent", smtp_code=250,
        dsn="2.0.0", relay_message="250 2.0.0 OK", relay_tls="TLSv1.3 TLS_AES_256_GCM_SHA384", **ERIKA, **GMAIL),
    row(1.5, "4jXSnX0bKLz1Tq", recipient_no=1, orig_to="post@example.org", upstream_to="post@mx2.example.org",
        relay_host="mx2.example.org", relay_ip="192.0.2.26", relay_status="sent", smtp_code=250, dsn="2.0.0",
        relay_message="250 2.0.0 Ok: queued as 4F0050368", next_queue_id="4F0050368", **ERIKA),
    row(1.5, "4F0050368", 2, server_hostname="mx2", message_id="20261122.1@example.net", envelope_from="erika@example.net",
        client_ip="192.0.2.25", orig_to="post@mx2.example.org", upstream_to="post@mx2.example.org", relay_host="virtual",
        relay_status="sent", dsn="2.0.0", relay_message="delivered to maildir"),
    # The same ID on another server, long ago: another mail.
    row(400, "4F0050368", server_hostname="mx2", envelope_from="old@example.net", orig_to="old@example.org", relay_status="sent"),
    # Through a content filter: requeued, then sent; an SRS sender.
    row(3, "3854F172385", orig_to="Hans@Example.org", upstream_to="hans@example.org", relay_status="requeued", smtp_code=250,
        relay_message="250 2.0.0 Ok: queued as 8405417232B", next_queue_id="8405417232B", **ANNA, **FILTER),
    row(3, "8405417232B", 1, orig_to="Hans@Example.org", upstream_to="hans@gmail.com", relay_status="sent", smtp_code=250,
        relay_message="250 OK", parent_queue_id="3854F172385", **ANNA, **GMAIL),
    # Refused by Gmail, and the bounce; another one, by its second server; one too old; one that another server refused.
    row(5, "689C3172356", orig_to="hans@example.org", upstream_to="hans@gmail.com", relay_status="bounced", smtp_code=550, dsn="5.7.26",
        relay_message=SAID + "550-5.7.26 unauthenticated", **SHOP, **GMAIL),
    row(5, "F0216172358", 2, envelope_from="", orig_to="werbung@shop.example", upstream_to="werbung@shop.example",
        relay_host="mx.shop.example", relay_ip="198.51.100.8", relay_status="sent", smtp_code=250, relay_message="250 ok",
        parent_queue_id="689C3172356"),
    row(30, "689C3172357", orig_to="lisa@example.org", upstream_to="lisa@gmail.com", relay_host="alt1.gmail-smtp-in.l.google.com",
        relay_status="bounced", smtp_code=552, dsn="5.2.2", relay_message="552-5.2.2 over quota", envelope_from="tom@example.net",
        client_ip="192.0.2.11", spam_status="No", spam_score=0.5, spam_tests="HTML_MESSAGE"),
    row(240, "689C3172358", orig_to="lisa@example.org", upstream_to="lisa@gmail.com", relay_status="bounced", smtp_code=550,
        envelope_from="tom@example.net", spam_status="No", spam_score=1, spf_result="Fail", dmarc_result="fail", **GMAIL),
    row(6, "689C3172359", orig_to="nobody@other.example", upstream_to="nobody@other.example", relay_host="mx.fakegoogle.com",
        relay_status="bounced", smtp_code=550, dsn="5.1.1", relay_message="550 no such user", envelope_from="tom@example.net"),
    # Refused before there was a queue ID.
    row(2, "NOQUEUE-20261122000000000001", client_hostname="unknown", client_ip="203.0.113.66", envelope_from="a@bad.example",
        orig_to="hans@example.org", relay_message="554 5.7.1 Service unavailable; blocked using zen.example", **BLOCKED),
    row(2, "NOQUEUE-20261122000000000002", 1, client_hostname="unknown", client_ip="203.0.113.67", envelope_from="B@BAD.example",
        orig_to="lisa@example.org", relay_message="554 5.7.1 Service unavailable; blocked using zen.example", **BLOCKED),
    row(4, "NOQUEUE-20261122000000000003", client_hostname="mail.bad.example", client_ip="203.0.113.66", envelope_from="a@bad.example",
        orig_to="x1@example.org", relay_message="550 5.1.1 <x1@example.org>: Recipient address rejected: User unknown", **UNKNOWN),
    row(4, "NOQUEUE-20261122000000000004", 1, client_hostname="mail.bad.example", client_ip="203.0.113.66", envelope_from="",
        orig_to="x2@example.org", relay_message="550 5.1.1 <x2@example.org>: Recipient address rejected: User unknown", **UNKNOWN),
    row(7, "NOQUEUE-20261122000000000005", client_hostname="unknown", client_ip="203.0.113.68", relay_status="rejected", smtp_code=521,
        relay_message="521 5.5.1 Protocol error"),
    # Refused by a milter, with a queue ID.
    row(8, "CC11D172443", client_hostname="mail.bad.example", client_ip="203.0.113.66", envelope_from="c@bad.example",
        orig_to="hans@example.org", milter_action="reject", milter_reason="Blocked by SpamAssassin",
        relay_message="5.7.1 Blocked by SpamAssassin", relay_status="rejected", dsn="5.7.1", spf_result="Fail", spam_status="Yes",
        spam_score=12.5, spam_required=5, spam_tests="BAYES_99,SPF_FAIL"),
    # Failed SPF and DMARC, and was delivered all the same, in clear text.
    row(9, "0B7DF172443", orig_to="lisa@example.org", upstream_to="lisa@example.org", envelope_from="chef@forged.example",
        client_ip="198.51.100.99", relay_host="mail.example.org", relay_ip="192.0.2.30", relay_status="sent", smtp_code=250,
        spf_result="Fail", dmarc_result="fail", dmarc_domain="forged.example", spam_status="No", spam_score=2, spam_tests="SPF_FAIL"),
    # All the other ends.
    row(10, "A000010000", orig_to="slow@slow.example", upstream_to="slow@slow.example", envelope_from="erika@example.net",
        relay_host="mx.slow.example", relay_status="deferred", smtp_code=451, delay=3600.5, relay_message="451 4.7.1 later"),
    row(11, "A000011000", orig_to="slow@slow.example", envelope_from="odd@example.net", relay_status="held", milter_action="hold",
        relay_message="looks odd"),
    row(12, "A000012000", orig_to="gone@example.org", upstream_to="gone@example.org", envelope_from="odd@example.net",
        relay_host="none", relay_status="discarded"),
    row(13, "A000013000", orig_to="gone@example.org", upstream_to="gone@example.org", envelope_from="odd@example.net",
        relay_status="deleted"),
    row(14, "A000014000", client_ip="203.0.113.9", relay_status="incomplete"),
    row(150, "A000015000", orig_to="never@slow.example", upstream_to="never@slow.example", envelope_from="erika@example.net",
        relay_host="mx.slow.example", relay_status="expired", smtp_code=451, dsn="4.7.1", relay_message="451 4.7.1 later"),
    # Local mail: names without domain. An SRS1 address whose sender nobody knows.
    row(15, "A000016000", orig_to="root", upstream_to="root", envelope_from="root", relay_host="local", relay_status="sent"),
    row(16, "A000017000", orig_to="hans@example.org", upstream_to="hans@example.org", client_ip="203.0.113.5",
        envelope_from="srs1+AAAA=fwd.example==BBBB@fwd2.example", relay_host="mail.example.org", relay_ip="192.0.2.30",
        relay_status="sent", relay_tls="TLSv1.3 TLS_AES_256_GCM_SHA384", spf_result="None"),
]

BLOCKLIST = "554 5.7.1 Service unavailable; blocked using zen.example"
NO_USER = "550 5.1.1 <>: Recipient address rejected: User unknown"
GMAIL_HOST, SLOW = GMAIL["relay_host"], "451 4.7.1 later"
SENT_OK = "250 2.0.0 OK"
LATER = "250 2.0.0 Ok: queued as 4F0050368"


def days():
    """Mails of a week by day, counted from the list above: (hours ago, server, delivered, rejected) per mail."""
    mails = [(1.5, "mx1", 1, 0), (1.5, "mx1", 1, 0), (1.5 - 2 / 3600, "mx2", 1, 0), (3 - 1 / 3600, "mx1", 1, 0), (5, "mx1", 0, 0),
             (5 - 2 / 3600, "mx1", 1, 0), (30, "mx1", 0, 0), (6, "mx1", 0, 0), (2, "mx1", 0, 1), (2 - 1 / 3600, "mx1", 0, 1),
             (4, "mx1", 0, 1), (4 - 1 / 3600, "mx1", 0, 1), (7, "mx1", 0, 1), (8, "mx1", 0, 1), (9, "mx1", 1, 0), (10, "mx1", 0, 0),
             (11, "mx1", 0, 0), (12, "mx1", 0, 0), (13, "mx1", 0, 0), (14, "mx1", 0, 0), (150, "mx1", 0, 0), (15, "mx1", 1, 0),
             (16, "mx1", 1, 0)]
    found = {}
    for hours, host, delivered, rejected in mails:
        day = found.setdefault((at(hours).date(), host), [0, 0, 0])
        for place, number in enumerate((1, delivered, rejected)):
            day[place] += number
    return [key + tuple(counts) for key, counts in sorted(found.items())]


# The whole answer to each question, worked out by hand from the rows above.
ANSWERS = {
    "Which mails did Gmail refuse?": [
        (550, "5.7.26", 1, 1, at(5, 1)),
        (552, "5.2.2", 1, 1, at(30, 1))],
    "How much of each recipient's mail gets through?": [
        ("hans@example.org", 6, 3, 0, 50.0),
        ("lisa@example.org", 3, 1, 0, 33.33),
        ("gone@example.org", 2, 0, 0, 0.0),
        ("slow@slow.example", 2, 0, 2, None),
        ("never@slow.example", 1, 0, 0, 0.0),
        ("nobody@other.example", 1, 0, 0, 0.0),
        ("post@example.org", 1, 1, 0, 100.0),
        ("post@mx2.example.org", 1, 1, 0, 100.0),
        ("root", 1, 1, 0, 100.0),
        ("werbung@shop.example", 1, 1, 0, 100.0),
        ("x1@example.org", 1, 0, 0, 0.0),
        ("x2@example.org", 1, 0, 0, 0.0)],
    "Who fails DMARC?": [
        ("198.51.100.7", "shop.example", 1, 0),
        ("198.51.100.99", "forged.example", 1, 1)],
    "What bounced lately, and why?": [
        (at(5), "198.51.100.7", "werbung@shop.example", "hans@example.org", "bounced", 550, "5.7.26", SAID + "550-5.7.26 unauthenticated"),
        (at(6), None, "tom@example.net", "nobody@other.example", "bounced", 550, "5.1.1", "550 no such user"),
        (at(30), "192.0.2.11", "tom@example.net", "lisa@example.org", "bounced", 552, "5.2.2", "552-5.2.2 over quota"),
        (at(150), None, "erika@example.net", "never@slow.example", "expired", 451, "4.7.1", SLOW)],
    "Which domains does the mail go to?": [
        ("example.org", 9, 2, 0),
        ("(no domain)", 3, 1, 0),
        ("gmail.com", 3, 2, 1),
        ("mx2.example.org", 2, 2, 0),
        ("slow.example", 2, 0, 0),
        ("other.example", 1, 0, 1),
        ("shop.example", 1, 1, 0)],
    "Which domains send most?": [
        ("example.net", 10, 3, 2),
        ("bad.example", 4, 0, 0),
        ("(no domain)", 3, 1, 0),
        ("<>", 2, 1, 0),
        ("forged.example", 1, 1, 0),
        ("fwd2.example", 1, 1, 0),
        ("orig.example", 1, 1, 0),
        ("shop.example", 1, 0, 1)],
    "How many senders stood behind SRS, and were they found?": [
        (20, 18, 2, 1, 1, 5.0)],
    "What does SpamAssassin say?": [
        (6, 1, 5, 3.63, 12.5, -1.2)],
    "What passed the spam filter and bounced all the same?": [
        ("198.51.100.7", "werbung@shop.example", "hans@example.org", 3.1, "SPF_FAIL,HTML_MESSAGE", SAID + "550-5.7.26 unauthenticated")],
    "Which SpamAssassin rules fire most often?": [
        ("HTML_MESSAGE", 3, 2.83, 0),
        ("SPF_FAIL", 3, 5.87, 1),
        ("BAYES_99", 1, 12.5, 1),
        ("DKIM_VALID", 1, -1.2, 0),
        ("SPF_PASS", 1, -1.2, 0),
        ("SPF_SOFTFAIL", 1, 4.9, 0)],
    "How do the SPF results spread?": [
        ("Fail", 3, 1, 1),
        ("Pass", 2, 2, 0),
        ("None", 1, 1, 0),
        ("Softfail", 1, 1, 0)],
    "What failed SPF and was delivered?": [
        (at(3, 1), "203.0.113.5", "anna@orig.example", "Hans@Example.org", "Softfail", None, 4.9),
        (at(9), "198.51.100.99", "chef@forged.example", "lisa@example.org", "Fail", "fail", 2.0)],
    "What was turned away before it was queued?": [
        (at(2, 1), "203.0.113.67", "unknown", "B@BAD.example", "lisa@example.org", 554, BLOCKLIST),
        (at(2), "203.0.113.66", "unknown", "a@bad.example", "hans@example.org", 554, BLOCKLIST),
        (at(4, 1), "203.0.113.66", "mail.bad.example", "", "x2@example.org", 550, NO_USER.replace("<>", "<x2@example.org>")),
        (at(4), "203.0.113.66", "mail.bad.example", "a@bad.example", "x1@example.org", 550, NO_USER.replace("<>", "<x1@example.org>")),
        (at(7), "203.0.113.68", "unknown", None, None, 521, "521 5.5.1 Protocol error")],
    "Whose mail is turned away most, and why?": [
        ("bad.example", 4, 2, "; ".join(("5.7.1 Blocked by SpamAssassin", NO_USER, BLOCKLIST))),
        ("(no domain)", 1, 1, "521 5.5.1 Protocol error"),
        ("<>", 1, 1, NO_USER)],
    "What are the commonest reasons for refusals?": [
        (NO_USER, 2, 1, at(4), at(4, 1)),
        (BLOCKLIST, 2, 2, at(2), at(2, 1)),
        ("5.7.1 Blocked by SpamAssassin", 1, 1, at(8), at(8)),
        ("521 5.5.1 Protocol error", 1, 1, at(7), at(7))],
    "What becomes of the mail?": [
        ("sent", 8, 34.78), ("rejected", 6, 26.09), ("bounced", 3, 13.04), ("deferred", 1, 4.35), ("deleted", 1, 4.35),
        ("discarded", 1, 4.35), ("expired", 1, 4.35), ("held", 1, 4.35), ("incomplete", 1, 4.35)],
    "How much mail is there each day?": days(),
    "What is waiting, and for what?": [
        (at(11), "mx1", "A000011000", "odd@example.net", "slow@slow.example", None, "held", None, "looks odd"),
        (at(10), "mx1", "A000010000", "erika@example.net", "slow@slow.example", "mx.slow.example", "deferred", 3600.5, SLOW)],
    "Which servers take our mail in clear text?": [
        (GMAIL_HOST, 2, 1), ("mail.example.org", 2, 1), ("mx.shop.example", 1, 1), ("mx2.example.org", 1, 1)],
    "What became of the mail from or to an address?": [
        (at(1.5), "mx1", "4jXSnX0bKLz1Tq", "erika@example.net", "hans@example.org", "hans@gmail.com", GMAIL_HOST, "sent", 250, SENT_OK),
        (at(2), "mx1", "NOQUEUE-20261122000000000001", "a@bad.example", "hans@example.org", None, None, "rejected", 554, BLOCKLIST),
        (at(3, 1), "mx1", "8405417232B", "anna@orig.example", "Hans@Example.org", "hans@gmail.com", GMAIL_HOST, "sent", 250, "250 OK"),
        (at(3), "mx1", "3854F172385", "anna@orig.example", "Hans@Example.org", "hans@example.org", "127.0.0.1", "requeued", 250,
         "250 2.0.0 Ok: queued as 8405417232B"),
        (at(5), "mx1", "689C3172356", "werbung@shop.example", "hans@example.org", "hans@gmail.com", GMAIL_HOST, "bounced", 550,
         SAID + "550-5.7.26 unauthenticated"),
        (at(8), "mx1", "CC11D172443", "c@bad.example", "hans@example.org", None, None, "rejected", None, "5.7.1 Blocked by SpamAssassin"),
        (at(16), "mx1", "A000017000", "srs1+AAAA=fwd.example==BBBB@fwd2.example", "hans@example.org", "hans@example.org",
         "mail.example.org", "sent", None, None)],
    "What became of the mail with this Message-ID?": [
        (at(1.5), at(1.5, 1), "mx1", "4jXSnX0bKLz1Tq", "hans@example.org", "hans@gmail.com", GMAIL_HOST, "sent", SENT_OK),
        (at(1.5), at(1.5, 1), "mx1", "4jXSnX0bKLz1Tq", "post@example.org", "post@mx2.example.org", "mx2.example.org", "sent", LATER),
        (at(1.5, 2), at(1.5, 3), "mx2", "4F0050368", "post@mx2.example.org", "post@mx2.example.org", "virtual", "sent",
         "delivered to maildir")],
    "What became of the mail with this queue ID, before and after?": [
        (at(3), "mx1", "3854F172385", None, "8405417232B", "Hans@Example.org", "127.0.0.1", "requeued",
         "250 2.0.0 Ok: queued as 8405417232B"),
        (at(3, 1), "mx1", "8405417232B", "3854F172385", None, "Hans@Example.org", GMAIL_HOST, "sent", "250 OK")],
    "Which bounces and notices did this mail give rise to?": [
        (at(5, 2), "mx1", "F0216172358", "werbung@shop.example", "mx.shop.example", "sent", "250 ok")],
    "What did this client send, about that time?": [
        (at(1.5), "4jXSnX0bKLz1Tq", "out.example.net", "erika@example.net", "hans@example.org", "sent", 250, SENT_OK),
        (at(1.5), "4jXSnX0bKLz1Tq", "out.example.net", "erika@example.net", "post@example.org", "sent", 250, LATER)],
}


def plain(value):
    """A value as the answers above write it."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.decode() if isinstance(value, (bytes, bytearray)) else value


class Table:
    """A database with rows, written by the tracker's store, and a session of the tracker's user that asks questions."""

    def __init__(self, server, folder, database, rows):
        self.server, self.database = server, database
        server.load_schema(database)
        config = folder / (database + ".conf")
        config.write_text("[database]\nunix_socket = %s\ndatabase = %s\npassword = %s\n"
                          % (server.socket, database, mariadb_server.PASSWORD), encoding="utf-8")
        config.chmod(0o600)
        store = tracker.make_store(tracker.load_config(str(config)))
        store.connect()
        refused = []
        tracker.write_rows(store, rows, lambda one, reason: refused.append(reason))
        store.close()
        assert not refused
        self.session = mysql.connector.connect(unix_socket=server.socket, database=database, user="mailtracker",
                                               password=mariadb_server.PASSWORD, use_pure=True, autocommit=True)
        # The rows were made for this moment; behind a long suite it may be half an hour ago.
        self.ask("SET SESSION time_zone = '+00:00', SESSION sql_mode = '%s', SESSION timestamp = %d" % (MODE, NOW // tracker.SECOND))

    def ask(self, query):
        """The answer to a query."""
        with self.session.cursor() as cursor:
            cursor.execute(query)
            return [tuple(map(plain, found)) for found in cursor.fetchall()] if cursor.description else []

    def plan(self, query):
        """The steps of a query's plan that read the table, not what the query makes: (table, type, key). Of a view root alone is told."""
        told = self.server.client("EXPLAIN FORMAT = TRADITIONAL " + query, self.database)
        heads, *steps = [line.split("\t") for line in told.splitlines()]
        named = [dict(zip(heads, step)) for step in steps]
        return [(step["table"], step["type"], step["key"]) for step in named if not re.match("NULL|<|trail|fired", step["table"])]


@pytest.fixture(scope="module")
def table(mariadb, tmp_path_factory):
    """The rows above."""
    found = Table(mariadb, tmp_path_factory.mktemp("queries"), "queries", ROWS)
    yield found
    found.session.close()


def many_rows(count):
    """Generated rows over 60 days, with the shares of a server in daily use."""
    dice = random.Random(1)
    for number in range(count):
        status = dice.choices(STATUSES, (600, 30, 5, 2, 300, 2, 5, 1, 50, 5))[0]
        refused = status == "rejected"
        sender = "s%d@d%d.example" % (dice.randrange(3000), dice.randrange(500))
        recipient = "r%d@example.org" % dice.randrange(400)
        checked = dice.random() < 0.4
        yield row(dice.uniform(0.1, 1440), "%s%06X" % ("NOQUEUE-20261122" if refused else "A", number), client_hostname="c.example",
                  client_ip="192.0.2.%d" % dice.randrange(250), message_id="%d@example.net" % number, envelope_from=sender,
                  orig_to=recipient, upstream_to=None if refused else recipient, relay_status=status,
                  relay_host=dice.choice((GMAIL_HOST, "mx.example.org")), relay_ip="192.0.2.200", smtp_code=550 if refused else 250,
                  relay_message="550 5.1.1 <%s>: no" % recipient, recipient_no=int(dice.random() < 0.2),
                  spf_result=dice.choice((None, "Pass", "Pass", "Fail", "Softfail", "None")) if checked else None,
                  dmarc_result=dice.choice(("pass", "pass", "none", "fail")) if checked else None, dmarc_domain="d.example",
                  spam_status=dice.choice(("No", "No", "No", "Yes")) if checked else None, spam_score=1.5 if checked else None,
                  spam_tests="A,B,C" if checked else None, next_queue_id="A%06X" % (number + 1) if status == "requeued" else None,
                  parent_queue_id="A%06X" % (number - 1) if dice.random() < 0.1 else None)


@pytest.fixture(scope="module")
def large(mariadb, tmp_path_factory):
    """A table that is large enough for the planner to care."""
    found = Table(mariadb, tmp_path_factory.mktemp("plans"), "plans", list(many_rows(20000)))
    mariadb.client("ANALYZE TABLE mail_relay_log", "plans")
    yield found
    found.session.close()


def test_every_question_has_its_answer_here_and_every_status_has_a_row():
    assert list(QUESTIONS) == list(ANSWERS)
    assert {one.relay_status for one in ROWS} == set(STATUSES)


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_the_answer_is_right(table, question):
    assert table.ask(QUESTIONS[question]) == ANSWERS[question]


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_the_answer_comes_from_an_index(large, question):
    plan = large.plan(QUESTIONS[question])
    assert plan
    for step in plan:
        assert step[1] not in ("ALL", "index") and step[2] != "NULL", plan


def test_the_trail_of_a_mail_leads_forth_and_back_and_to_the_next_server(table):
    query = QUESTIONS["What became of the mail with this queue ID, before and after?"]
    for start, trail in (("8405417232B", ["3854F172385", "8405417232B"]),
                         ("4jXSnX0bKLz1Tq", ["4jXSnX0bKLz1Tq", "4jXSnX0bKLz1Tq", "4F0050368"]),
                         ("F0216172358", ["689C3172356", "F0216172358"])):
        assert [found[2] for found in table.ask(query.replace("3854F172385", start))] == trail
    assert not table.ask(query.replace("3854F172385", "4JXSNX0BKLZ1TQ")), "queue IDs differ by case alone"


def test_a_view_with_each_mail_once(table):
    every = [(one.server_hostname, one.queue_id, one.recipient_no) for one in ROWS if one.queue_id != "3854F172385"]
    assert sorted(table.ask("SELECT server_hostname, queue_id, recipient_no FROM mail_final")) == sorted(every)


def test_a_view_of_what_did_not_arrive(table):
    found = table.ask("SELECT queue_id, relay_status FROM mail_problems ORDER BY first_seen, queue_id")
    assert found == [("689C3172358", "bounced"), ("A000015000", "expired"), ("689C3172357", "bounced"), ("A000011000", "held"),
                     ("A000010000", "deferred"), ("CC11D172443", "rejected"), ("NOQUEUE-20261122000000000005", "rejected"),
                     ("689C3172359", "bounced"), ("689C3172356", "bounced"), ("NOQUEUE-20261122000000000003", "rejected"),
                     ("NOQUEUE-20261122000000000004", "rejected"), ("NOQUEUE-20261122000000000001", "rejected"),
                     ("NOQUEUE-20261122000000000002", "rejected")]


def test_a_view_of_mails_by_day_and_outcome(table):
    found = table.ask("SELECT day, server_hostname, relay_status, mails FROM mail_daily")
    assert sum(mails for _, _, _, mails in found) == len(ROWS) - 1
    assert {status for _, _, status, _ in found} == set(STATUSES) - {"requeued"}
    sent = {}
    for day, host, status, mails in found:
        if status == "sent":
            sent[day, host] = mails
    expected = {(day, host): delivered for day, host, _, delivered, _ in days() if delivered}
    expected[at(400).date(), "mx2"] = 1
    assert sent == expected


def test_the_tracker_s_user_can_neither_delete_nor_change_the_table(table):
    for statement in ("DELETE FROM mail_relay_log", "DROP VIEW mail_daily", "ALTER TABLE mail_relay_log ADD x INT"):
        with pytest.raises(mysql.connector.Error) as refused:
            table.ask(statement)
        assert refused.value.errno == 1142
