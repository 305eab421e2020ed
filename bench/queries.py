#!/usr/bin/env python3
"""How fast the README's questions are answered on a large table, and whether the retention event lets the tracker write.

    python3 bench/queries.py [--rows 10000000] [--days 91] [--seconds 60] [--results FILE]

The rows are made by a MariaDB server of our own, from number sequences, evenly spread over the days; the last 7 of them are what most
questions ask for. Each question is asked twice; told are both times, its plan's steps on the table, and the rows of the answer.
Then the retention event deletes what is older than its 90 days, while a writer writes batches like the tracker's: its waits, beside
those without the event.
"""
import argparse
import itertools
import os
import pathlib
import re
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT), str(ROOT / "tests")]

import mariadb as mariadb_server  # noqa: E402
import mysql.connector  # noqa: E402
import report  # noqa: E402

import mail_relay_tracker as tracker  # noqa: E402

MEMORY = "2G"                       # the server's buffer pool; the rest of the server is as it comes
OPTIONS = ("--innodb-buffer-pool-size=" + MEMORY, "--innodb-log-file-size=1G", "--innodb-sort-buffer-size=64M", "--event-scheduler=OFF")
BATCH = 500                         # rows that the writer writes at once
VALUES = (                          # column, expression of n, the number of the row
    ("server_hostname", "IF(n % 3, 'mx1', 'mx2')"),
    ("queue_id", "IF(n % 4 = 0, CONCAT('NOQUEUE-20261101', LPAD(n, 12, '0')), CONCAT('4Z', LPAD(CONV(n, 10, 36), 8, '0'), 'z', n % 51))"),
    ("first_seen", "NOW(6) - INTERVAL ({rows} - n) * {step} MICROSECOND"),
    ("last_seen", "NOW(6) - INTERVAL ({rows} - n) * {step} MICROSECOND + INTERVAL 2 SECOND"),
    ("client_hostname", "CONCAT('mail.d', CRC32(n) % 5000, '.example')"),
    ("client_ip", "CONCAT('198.', CRC32(n) % 200, '.', CRC32(n + 7) % 250, '.7')"),
    ("helo", "IF(n % 4 = 0, 'mail.example', NULL)"),
    ("client_tls", "'TLSv1.3 TLS_AES_256_GCM_SHA384'"),
    ("message_id", "IF(n % 4 = 0, NULL, CONCAT(MD5(n), '.', n, '@d', CRC32(n) % 5000, '.example'))"),
    ("size", "IF(n % 4 = 0, NULL, 800 + CRC32(n) % 60000)"),
    ("nrcpt", "IF(n % 4 = 0, NULL, 1)"),
    ("envelope_from", "IF(n % 25 = 1, '', CONCAT('user', CRC32(n) % 200000, '@d', CRC32(n) % 5000, '.example'))"),
    ("original_envelope_from", "IF(n % 25 = 1, '', CONCAT('user', CRC32(n) % 200000, '@d', CRC32(n) % 5000, '.example'))"),
    ("spf_result", "IF(n % 4, ELT(1 + CRC32(n + 1) % 6, 'Pass', 'Pass', 'Pass', 'None', 'Softfail', 'Fail'), NULL)"),
    ("dkim_result", "IF(n % 4, ELT(1 + CRC32(n + 2) % 5, 'pass', 'pass', 'pass', 'none', 'fail'), NULL)"),
    ("dmarc_result", "IF(n % 4, ELT(1 + CRC32(n + 3) % 8, 'pass', 'pass', 'pass', 'pass', 'none', 'none', 'none', 'fail'), NULL)"),
    ("dmarc_domain", "IF(n % 4, CONCAT('d', CRC32(n) % 5000, '.example'), NULL)"),
    ("spam_status", "IF(n % 4, IF(CRC32(n + 4) % 12, 'No', 'Yes'), NULL)"),
    ("spam_score", "IF(n % 4, CRC32(n + 4) % 120 / 10 - 4, NULL)"),
    ("spam_required", "IF(n % 4, 5, NULL)"),
    ("spam_tests", "IF(n % 4, ELT(1 + CRC32(n + 5) % 3, 'BAYES_00,DKIM_VALID,SPF_PASS', 'BAYES_50,HTML_MESSAGE,RDNS_NONE', "
                   "'DKIM_SIGNED,DKIM_VALID,FREEMAIL_FROM,HTML_MESSAGE'), NULL)"),
    ("orig_to", "CONCAT('r', CRC32(n + 6) % 100000, '@cust', CRC32(n + 6) % 300, '.example.net')"),
    ("upstream_to", "IF(n % 4, CONCAT('box', CRC32(n + 6) % 100000, '@store.example'), NULL)"),
    ("relay_host", "IF(n % 4, ELT(1 + CRC32(n + 8) % 4, 'gmail-smtp-in.l.google.com', 'mx.store.example', 'mx2.store.example', "
                   "'lmtp.store.example'), NULL)"),
    ("relay_ip", "IF(n % 4, CONCAT('192.0.2.', CRC32(n + 8) % 4), NULL)"),
    ("relay_port", "IF(n % 4, 25, NULL)"),
    ("relay_tls", "IF(n % 4 AND CRC32(n + 9) % 20, 'TLSv1.3 TLS_AES_256_GCM_SHA384', NULL)"),
    ("relay_status", "IF(n % 4 = 0, 'rejected', IF(CRC32(n + 9) % 30 = 0, 'bounced', IF(CRC32(n + 9) % 30 = 1 AND n > {rows} * 0.98, "
                     "'deferred', IF(CRC32(n + 9) % 200 = 2, 'requeued', 'sent'))))"),
    ("smtp_code", "IF(n % 4 = 0 OR CRC32(n + 9) % 30 = 0, 550, 250)"),
    ("dsn", "IF(n % 4 = 0 OR CRC32(n + 9) % 30 = 0, '5.1.1', '2.0.0')"),
    ("relay_message", "IF(n % 4 = 0 OR CRC32(n + 9) % 30 = 0, CONCAT('550 5.1.1 <r', CRC32(n + 6) % 100000, '>: Recipient address "
                      "rejected: User unknown'), CONCAT('250 2.0.0 Ok: queued as ', CONV(n, 10, 36)))"),
    ("delay", "1.5"),
    ("delays", "'1/0.02/0.3/0.18'"),
    ("parent_queue_id", "IF(n % 25 = 1, CONCAT('4Z', LPAD(CONV(n - 1, 10, 36), 8, '0'), 'z', (n - 1) % 51), NULL)"))


def questions():
    """The questions of the README and their queries: {heading: query}."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Questions and answers\n")[2].partition("\n## ")[0]
    return {part.partition("\n")[0]: query for part in section.split("\n### ")[1:]
            for query in re.findall("^```sql\n(.*?)^```", part, re.M | re.S)}


EXAMPLES = (                        # what the README asks for by way of example, and the column it stands for
    ("hans@example.org", "orig_to"), ("20261122.1@example.net", "message_id"), ("3854F172385", "queue_id"),
    ("689C3172356", "parent_queue_id"), ("192.0.2.10", "client_ip"))
FAMILY = ("SELECT %s FROM mail_relay_log AS child JOIN mail_relay_log AS parent ON parent.queue_id = child.parent_queue_id "
          "WHERE child.first_seen BETWEEN NOW() - INTERVAL 110 MINUTE AND NOW() - INTERVAL 70 MINUTE AND child.message_id IS NOT NULL "
          "ORDER BY child.first_seen LIMIT 1" % ", ".join("child." + column for _, column in EXAMPLES))


def about_rows_of(session, asked):
    """The same questions, about a mail that is in the table: who is asked for nobody is answered soon."""
    found = ask(session, FAMILY)
    if not found:
        sys.exit("no mail of an hour and a half ago has a bounce: make more --rows, 400000 say")
    for (example, _), value in zip(EXAMPLES, found[0]):
        if not any("'%s'" % example in query for query in asked.values()):
            sys.exit("README.md asks for %s no more: bench/queries.py has to learn what it asks for" % example)
        asked = {question: query.replace("'%s'" % example, "'%s'" % value) for question, query in asked.items()}
    return asked


def fill(server, rows, days):
    """Make the table, in one statement: into an empty one the server then sorts, and writes each index once. Returns seconds."""
    began = time.monotonic()
    server.load_schema()
    names, texts = zip(*VALUES)
    select = ", ".join(texts).replace("{rows}", str(rows)).replace("{step}", str(int(days * 86400e6 / rows)))
    server.client("SET time_zone = '+00:00', unique_checks = 0, foreign_key_checks = 0; INSERT INTO mail_relay_log (%s) SELECT %s FROM "
                  "(SELECT seq AS n FROM seq_1_to_%d) AS numbers; ANALYZE TABLE mail_relay_log"
                  % (", ".join(names), select, rows), "mail_tracking")
    return time.monotonic() - began


def connect(server):
    """A session as a reader of the table has it."""
    session = mysql.connector.connect(unix_socket=server.socket, user="root", database="mail_tracking", use_pure=True, autocommit=True)
    ask(session, "SET SESSION time_zone = '+00:00'")
    return session


def ask(session, query):
    """The answer to a query."""
    cursor = session.cursor()
    cursor.execute(query)
    found = cursor.fetchall() if cursor.description else []
    cursor.close()
    return found


def timed(session, query):
    """(seconds, rows of the answer)."""
    began = time.monotonic()
    found = ask(session, query)
    return time.monotonic() - began, len(found)


def plan(session, query):
    """The plan's steps on the table: [(access, key, rows expected)]."""
    return [(step[3], step[5], step[8]) for step in ask(session, "EXPLAIN " + query)
            if step[2] is not None and not step[2].startswith("<")]


def answers(session):
    """Every question: a line of the report each; and the names of those that no index answers."""
    lines, bad = [], []
    for question, query in about_rows_of(session, questions()).items():
        steps = plan(session, query)
        if not steps or any(access in ("ALL", "index") or key is None for access, key, _ in steps):
            bad.append(question)
        (first, rows), (again, _) = timed(session, query), timed(session, query)
        keys = ", ".join("%s (%s)" % (key, access) for (access, key), _ in itertools.groupby(steps, key=lambda step: step[:2]))
        lines.append([question, keys, rows, first, again])
        sys.stderr.write("%.2f %s\n" % (first, question))
    return lines, bad


class Writer:
    """Writes as the tracker does: new rows, and updates of those of the batch before."""

    def __init__(self, server):
        self.store = tracker.MysqlStore([("", 0)], {
            "unix_socket": server.socket, "user": "root", "database": "mail_tracking", "connection_timeout": 10, "use_pure": True,
            "autocommit": True})
        self.store.connect()
        self.number = 0
        self.waits = []

    def batch(self):
        """One batch, as a day of now: half of it new."""
        now = int(time.time()) * tracker.SECOND
        rows = []
        for number in range(self.number, self.number + BATCH):
            known = dict.fromkeys(tracker.ROW_COLUMNS)
            known.update(server_hostname="mx1", queue_id="4Y%09dzB" % number, first_seen=now // tracker.HOUR * tracker.HOUR + number,
                         last_seen=now, recipient_no=0, client_ip="192.0.2.7", message_id="%d@writer.example" % number,
                         envelope_from="w@writer.example", original_envelope_from="w@writer.example", orig_to="r@cust1.example.net",
                         upstream_to="box@store.example", relay_status="sent", smtp_code=250, dsn="2.0.0", relay_message="250 2.0.0 Ok")
            rows.append(tracker.Row(**known))
        self.number += BATCH // 2
        began = time.monotonic()
        self.store.write(rows)
        self.waits.append(time.monotonic() - began)

    def run(self, seconds, ended=lambda: False):
        """A batch ten times a second, for so long; returns the waits."""
        self.waits, began = [], time.monotonic()
        while not self.waits or time.monotonic() < began + seconds and not ended():
            self.batch()
            time.sleep(0.1)
        return sorted(self.waits)


def retention(server, session, seconds):
    """The event's deletes beside the writer."""
    old = "SELECT COUNT(*) FROM mail_relay_log WHERE first_seen < NOW() - INTERVAL 90 DAY"
    before = ask(session, old)[0][0]
    writer = Writer(server)
    writer.run(5)
    alone = writer.run(min(seconds, 30))
    began = time.monotonic()
    ask(session, "ALTER EVENT mail_relay_log_retention ON SCHEDULE EVERY 1 HOUR STARTS NOW() ENABLE")
    ask(session, "SET GLOBAL event_scheduler = ON")
    time.sleep(0.5)
    beside = writer.run(seconds, lambda: not ask(session, old)[0][0])
    took = time.monotonic() - began
    gone = before - ask(session, old)[0][0]
    ask(session, "SET GLOBAL event_scheduler = OFF")
    writer.store.close()
    found = [["rows older than 90 days before", before], ["deleted", gone], ["in so many seconds", took], ["rows per second", gone / took]]
    for when, waits in (("alone", alone), ("beside", beside)):
        found += [["writer %s: batches of %d upserts" % (when, BATCH), len(waits)],
                  ["writer %s: median of its waits, s" % when, statistics.median(waits)],
                  ["writer %s: longest wait, s" % when, waits[-1]]]
    return found


def main(arguments=None):
    """Fill, ask, delete."""
    parser = argparse.ArgumentParser(description="The README's questions and the retention event on a large table.")
    parser.add_argument("--rows", type=int, default=10000000)
    parser.add_argument("--days", type=float, default=91)
    parser.add_argument("--seconds", type=float, default=60, help="at most so long beside the retention event")
    parser.add_argument("--results", metavar="FILE")
    options = parser.parse_args(arguments)
    os.environ["PATH"] += ":/usr/sbin"
    report.CACHE.mkdir(exist_ok=True)
    server = mariadb_server.MariaDB(OPTIONS)
    try:
        server.create()
        server.start()
        took = fill(server, options.rows, options.days)
        session = connect(server)
        size = sum(path.stat().st_size for path in (server.folder / "data" / "mail_tracking").iterdir())
        lines, bad = answers(session)
        verdict = "No index answers: " + "; ".join(bad) if bad else "Every step of every plan goes by an index."
        report.publish("Questions", "%d rows over %g days, %.1f GB, buffer pool %s; made in %.0f s. %s\n\n%s" % (
            options.rows, options.days, size / 1e9, MEMORY, took, verdict,
            report.table(("question", "index (access)", "rows", "first, s", "again, s"), lines)), options.results)
        report.publish("Retention beside a writer",
                       report.table(("", ""), retention(server, session, options.seconds)), options.results)
        session.close()
    finally:
        server.remove()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
