"""What lasts: messages that never end, uploads, retries over days, thousands of recipients, logs of gigabytes; and the daemon over a
long time: its memory, how it stops, what it tells of itself.

    LONG=1 pytest tests/test_long.py -k T15 -s      a million queue IDs instead of the usual share, with the figures
"""
import calendar
import gc
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
import types
from contextlib import closing, contextmanager, suppress

import mariadb as mariadb_server
import pytest
from conftest import ROOT, place_in
from test_corpus import rows_of
from test_follow import Live, message, stamp
from tests.unit.replay import Replay, tracker, traditional

BEGINNING = ("connect", "tls", "spf", "client")
WHOLE = ("id", "active", "gone", "sent", "removed")
LONG = bool(os.environ.get("LONG"))
SECOND = tracker.SECOND
MEGABYTE = 1 << 20
NOON = calendar.timegm((2026, 11, 20, 12, 0, 0))


def rfc3339(moment):
    """A stamp with its fraction."""
    return "%s.%06d+00:00" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)), round(moment % 1 * 1000000) % 1000000)


def log(moment, *said):
    """Lines with one stamp."""
    head = rfc3339(moment) + " mx "
    return [head + text for text in said]


def texts(number, *steps):
    """What the lines of `message` say, without stamp and host."""
    return [line[19:].rstrip() for line in message(number, *steps)]


def told(moment, number, *steps):
    """Lines of `message` with this stamp."""
    return log(moment, *texts(number, *steps))


class Table:
    """The table of a tracker in either store: how to configure it, how to ask it."""

    serial = 0

    def __init__(self, engine, folder, server):
        self.engine, self.server = engine, server
        if engine == "sqlite":
            self.path = folder / "t.db"
            self.settings = {"database__engine": "sqlite", "database__database": self.path}
        else:
            Table.serial += 1
            self.name = "long%d" % Table.serial
            server.load_schema(self.name)
            self.settings = {"database__engine": "mysql", "database__unix_socket": server.socket, "database__database": self.name,
                             "database__password": mariadb_server.PASSWORD, "database__connect_timeout": "2"}

    def ask(self, question):
        """The answer to a query, as lists of text."""
        if self.engine == "mysql":
            return [line.split("\t") for line in self.server.client(question, self.name).splitlines()[1:]]
        with closing(sqlite3.connect(str(self.path), timeout=20)) as connection:
            return [list(map(str, row)) for row in connection.execute(question)]

    def count(self, condition="1 = 1"):
        """How many rows there are; none as long as nobody has made the table."""
        try:
            return int(self.ask("SELECT COUNT(*) FROM mail_relay_log WHERE " + condition)[0][0])
        except sqlite3.OperationalError:
            return 0

    def store(self, command):
        """The product's own way to it."""
        return tracker.make_store(tracker.load_config(command.configure("store.conf", **self.settings)))


ENGINES = pytest.mark.parametrize("table", ["sqlite", "mysql"], indirect=True)


@pytest.fixture
def table(request, tmp_path):
    """A table in SQLite, or where a test says."""
    engine = getattr(request, "param", "sqlite")
    return Table(engine, tmp_path, request.getfixturevalue("mariadb") if engine == "mysql" else None)


@pytest.fixture
def daemons(command):
    """Makes daemons in one folder; what is left of them at the end is killed."""
    made = []

    def make(**settings):
        made.append(Live(command, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop(signal.SIGKILL)


# -- what the kernel knows of a process

def memory(pid):
    """(what it holds, the most it ever held) of a process, in bytes."""
    status = dict(line.split(":", 1) for line in open("/proc/%d/status" % pid, encoding="ascii") if ":" in line)
    return tuple(int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def bytes_read(pid):
    """All that a process ever read, from files of any kind."""
    return int(re.search(r"rchar: (\d+)", open("/proc/%d/io" % pid, encoding="ascii").read()).group(1))


# -- T15: messages that never end

def endless(number, moment):
    """A message that gets as far as the queue, in a session that is never closed."""
    queue_id, ip = "%05X%X" % (number * 7 % 1000000, 4096 + number), "198.%d.%d.%d" % (18 + number % 2, number // 256 % 256, number % 256)
    smtpd = "postfix/smtpd[%d]: " % (1000 + number % 5000)
    return queue_id, log(
        moment, smtpd + "connect from m%d.test[%s]" % (number, ip),
        smtpd + "Anonymous TLS connection established from m%d.test[%s]: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"
        % (number, ip),
        "policyd-spf[7]: : prepend Received-SPF: Pass (mailfrom) identity=mailfrom; client-ip=%s; helo=h; envelope-from=s%d@good.test; "
        "receiver=<UNKNOWN> " % (ip, number),
        "%s%s: client=m%d.test[%s]" % (smtpd, queue_id, number, ip),
        "postfix/cleanup[20]: %s: message-id=<m%d@good.test>" % (queue_id, number),
        "postfix/qmgr[30]: %s: from=<s%d@good.test>, size=100, nrcpt=1 (queue active)" % (queue_id, number))


def delivered(queue_id, number, moment):
    """How such a message ends after all."""
    return log(moment, "postfix/smtp[40]: %s: to=<r%d@ok.test>, relay=mx.ok.test[192.0.2.99]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, "
                       "status=sent (250 2.0.0 Ok: queued as 4F00061AE)" % (queue_id, number), "postfix/qmgr[30]: %s: removed" % queue_id)


IDS = 1000000 if LONG else 60000    # at 30000 all tables of bounded size are full


@pytest.mark.parametrize("table, rate, ids", [("sqlite", 3000, IDS), ("mysql", 3000, IDS)] + [("sqlite", 25000, IDS)] * LONG,
                         indirect=["table"])
def test_T15_queue_ids_that_never_end_take_no_memory_and_late_lines_land_on_their_rows(daemons, table, rate, ids):
    """At 3000 in a second those of the last five seconds stay in memory; at 25000 they are more than MAX_OPEN."""
    one = daemons(logging__queue_timeout="5", **table.settings)
    with open(str(one.log), "w", encoding="ascii") as handle:
        for number in range(ids):
            handle.write("\n".join(endless(number, NOON + number / rate)[1]) + "\n")
    size = one.log.stat().st_size
    one.start()
    pid = one.daemon.pid
    one.wait(lambda: place_in(pid, one.log) >= size / 2, 3600)
    half = memory(pid)
    one.wait(lambda: place_in(pid, one.log) >= size, 3600)
    end = memory(pid)
    print("\n%s, %d IDs, %d in a second: resident %.1f MB at half, %.1f MB at the end; at most %.1f and %.1f MB"
          % (table.engine, ids, rate, half[0] / 1e6, end[0] / 1e6, half[1] / 1e6, end[1] / 1e6))
    assert end[1] < half[1] + 10 * MEGABYTE
    one.wait(lambda: table.count() == ids, 600)
    late = [endless(number, NOON)[0] for number in range(0, 2000, 20)]
    one.write(line + "\n" for number, queue_id in enumerate(late) for line in delivered(queue_id, number * 20, NOON + ids / rate + 3600))
    one.wait(lambda: table.count("relay_status = 'sent'") == len(late), 60)
    stopped_in_time(one)
    assert table.count() == ids
    found = table.ask("SELECT upstream_to, client_hostname, envelope_from, message_id, spf_result, recipient_no FROM mail_relay_log "
                      "WHERE relay_status = 'sent' AND first_seen < '2026-11-20 12:00:01' AND client_tls LIKE 'TLSv1.3 %'")
    assert sorted(found) == sorted(["r%d@ok.test" % number, "m%d.test" % number, "s%d@good.test" % number, "m%d@good.test" % number,
                                    "Pass", "0"] for number in range(0, 2000, 20))


@pytest.fixture
def small(monkeypatch):
    """The bounds of memory, made small; the tables behind them are the same."""
    monkeypatch.setattr(tracker, "MAX_OPEN", 300)
    monkeypatch.setattr(tracker, "MAX_CONTEXTS", 300)
    monkeypatch.setattr(tracker, "MAX_ORIGINS", 300)


class Reading:
    """A tracker that reads lines and writes rows, as the daemon has it, without a daemon around."""

    def __init__(self, queue_timeout=30):
        self.store = tracker.SqliteStore(":memory:")
        dates = tracker.Calendar((NOON + 86400) * SECOND)
        self.tracker = tracker.Tracker(dates, tracker.Correlator(queue_timeout * SECOND), self.wrong, self.wrong)
        self.recorder = tracker.Recorder(self.store, self.tracker, self, None)
        self.recorder.begin()
        self.position = 0

    @staticmethod
    def wrong(line):
        """No line is of unknown shape, none fails."""
        raise AssertionError(line)

    @staticmethod
    def add(row, reason):
        """No row is refused."""
        raise AssertionError("%s: %s" % (reason, row))

    def read(self, lines):
        """Read some lines, write what is finished."""
        self.tracker.feed(lines, self.position, 0)
        self.position += sum(map(len, lines)) + len(lines)
        self.recorder.flush()

    def weight(self):
        """How many objects the tracker holds, of whatever kind, wherever."""
        seen, new = set(), [self.tracker]
        while new:
            seen.update(map(id, new))
            new = [one for one in {id(one): one for one in gc.get_referents(*new)}.values()
                   if id(one) not in seen and not isinstance(one, (type, types.ModuleType, types.FunctionType, types.MethodType))]
        return len(seen)


def test_T15_the_oldest_of_too_many_open_messages_leave_memory_and_late_lines_land_on_their_rows(small):
    reading = Reading()
    for number in range(3000):
        reading.read(endless(number, NOON)[1])
        assert reading.tracker.correlator.open_count <= 300
    for number in range(100):
        reading.read(delivered(endless(number, NOON)[0], number, NOON + 1))
    reading.tracker.correlator.close(everything=True)
    reading.recorder.flush()
    rows = list(reading.store.all_rows())
    assert len(rows) == len({row.queue_id for row in rows}) == 3000
    assert {row.envelope_from: (row.upstream_to, row.client_hostname, row.spf_result) for row in rows if row.relay_status == "sent"} == {
        "s%d@good.test" % number: ("r%d@ok.test" % number, "m%d.test" % number, "Pass") for number in range(100)}


TLS = "postfix/%s[%d]: Trusted TLS connection established %s: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"
SPF = "policyd-spf[7]: : prepend Received-SPF: Pass (mailfrom) identity=mailfrom; client-ip=%s; helo=h; envelope-from=s%d@x; receiver=h "
ADRIFT = {      # lines that wait for others which never come
    "sessions": lambda n: ["postfix/smtpd[%d]: connect from h[192.0.2.1]" % n],
    "sessions with TLS": lambda n: ["postfix/smtpd[%d]: connect from h[192.0.2.1]" % n, TLS % ("smtpd", n, "from h[192.0.2.1]")],
    "sessions on hold": lambda n: ["postfix/smtpd[%d]: NOQUEUE: hold: RCPT from h[192.0.2.1]: <b@ok.test>: Recipient address on hold; "
                                   "from=<a@x> to=<b@ok.test> proto=ESMTP helo=<h>" % n],
    "SPF results": lambda n: [SPF % ("198.18.%d.%d" % (n // 256, n % 256), n)],
    "scans": lambda n: ["spamd[%d]: spamd: processing message <m%d@x> for debian-spamd:113" % (n, n)],
    "rewritten senders": lambda n: ["postsrsd[5]: srs_forward: <a%d@b.test> rewritten as <SRS0=h%d=TT=b.test=a%d@ok.test>" % (n, n, n)],
    "notifications": lambda n: ["postfix/bounce[8]: %05X1: sender non-delivery notification: %05X2" % (n, n)],
    "outbound connections": lambda n: [TLS % ("smtp", n, "to mx.ok.test[192.0.2.9]:25")],
    "processes": lambda n: ["postfix/qmgr[%d]: %05X1: removed" % (n, n)],
    "generated message-ids": lambda n: ["postfix/cleanup[9]: %05X1: message-id=<20261120120000.%05X1@mx.test>" % (n, n)],
    "mail on a server on which one client hangs": lambda n: texts(1, "connect", "tls", "client") if n == 0 else [
        text.replace("4Zz02m1QbBz5Rk", "%05X1" % n) for text in texts(2)],
}


@pytest.mark.parametrize("kind", ADRIFT)
def test_T15_what_waits_for_lines_that_never_come_is_bounded(small, kind):
    """Everything comes in the same second: no time passes that would end the waiting."""
    reading, weights = Reading(), []
    for number in range(3000):
        reading.read(log(NOON, *ADRIFT[kind](number)))
        if number % 500 == 499:
            weights.append(reading.weight())
    assert max(weights[2:]) < max(weights[:2]) * 1.3 + 500, weights


# -- retries over days

def five_days(every):
    """A message deferred at once, tried again at intervals for five days, then sent: its lines, an attempt each."""
    ends = NOON + 5 * 86400
    attempts = [told(NOON, 1, *BEGINNING, "id", "active", "gone", "deferred")]
    for moment in [*range(NOON + every, ends, every), ends]:
        attempts.append(told(moment, 1, "active", *(("sent", "removed") if moment == ends else ("deferred",))))
    return [[line.replace("delay=1,", "delay=432000,") for line in attempt] for attempt in attempts]


def of_five_days(row):
    """What the row must show that tells of the first attempt and of the last one."""
    assert (row.relay_status, row.delay, row.relay_host, row.smtp_code, row.next_queue_id) == (
        "sent", 432000, "mx.ok.test", 250, "4F00061AE")
    assert (row.client_ip, row.client_tls, row.spf_result, row.message_id, row.envelope_from, row.size, row.orig_to, row.recipient_no) == (
        "192.0.2.1", "TLSv1.3 TLS_AES_256_GCM_SHA384", "Pass", "m1@good.test", "a1@good.test", 100, "b1@ok.test", 0)
    assert (row.first_seen, row.last_seen) == (NOON * SECOND, (NOON + 5 * 86400) * SECOND)


@pytest.mark.parametrize("form", [list, traditional])
def test_deferred_for_five_days_with_restarts_anywhere_ends_as_one_row_sent(form):
    lines = form([line for attempt in five_days(4000) for line in attempt])
    rows = Replay(lines, present=(NOON + 6 * 86400) * SECOND).however_read()
    assert len(rows) == 1
    of_five_days(rows[0])


@pytest.mark.parametrize("table", ["mysql"], indirect=True)
def test_deferred_for_five_days_and_a_daemon_for_every_attempt(daemons, table, command):
    """Stopped and killed by turns."""
    one = daemons(logging__queue_timeout="0.5", logging__cleanup_interval="0.2", **table.settings)
    attempts = five_days(86400)
    for number, attempt in enumerate(attempts):
        one.start()
        one.write(line + "\n" for line in attempt)
        moment = attempt[-1][:26].replace("T", " ")
        one.wait(lambda moment=moment: [moment] in table.ask("SELECT last_seen FROM mail_relay_log"))
        one.stop(signal.SIGKILL if number % 2 else signal.SIGTERM)
    rows = rows_of(table.store(command))
    assert len(rows) == 1
    of_five_days(rows[0])


# -- ten thousand recipients

RECIPIENTS = 10000


def newsletter():
    """A message to ten thousand; every tenth is deferred, and sent an hour later."""
    lines = [line.replace("nrcpt=1", "nrcpt=%d" % RECIPIENTS) for line in told(NOON, 1, *BEGINNING, "id", "active", "gone")]
    (sent,), (later,) = texts(1, "sent"), texts(1, "deferred")
    for number in range(RECIPIENTS):
        lines += log(NOON + 1 + number / 200, (sent if number % 10 else later).replace("<b1@", "<b%d@" % number))
    lines += told(NOON + 3600, 1, "active")
    for number in range(0, RECIPIENTS, 10):
        lines += log(NOON + 3601 + number / 200, sent.replace("<b1@", "<b%d@" % number))
    return lines + told(NOON + 3700, 1, "removed")


@ENGINES
def test_a_message_to_ten_thousand_recipients_however_its_lines_are_spread_over_lives(table, command):
    lines = newsletter()
    replay, store = Replay(lines), table.store(command)
    whole = replay.whole()
    assert [(row.recipient_no, row.orig_to) for row in whole] == [(number, "b%d@ok.test" % number) for number in range(RECIPIENTS)]
    assert {(row.relay_status, row.nrcpt, row.client_ip, row.spf_result) for row in whole} == {("sent", RECIPIENTS, "192.0.2.1", "Pass")}
    store.connect()
    first = 0
    for last in (4, 8, 4000, 9999, 10007, 10008, 10500, 11008, len(lines)):
        first = replay.run(store, first, last)
        if last == 10007:
            assert table.count("relay_status = 'deferred'") == RECIPIENTS // 10 and table.count() == RECIPIENTS
    assert sorted(rows_of(store)) == sorted(whole)


# -- slow uploads

def upload(minutes, *ending):
    """A client that sends its message for a while, and others that are quicker meanwhile."""
    lines = told(NOON, 1, "connect", "tls") + told(NOON + 2, 1, "spf") + told(NOON + 3, 1, "client")
    for number in range(2, 12):
        lines += told(NOON + minutes * 6 * (number - 1.5), number)
    return lines + [line for step in ending for line in told(NOON + minutes * 60, 1, step)] if ending else lines


@pytest.mark.parametrize("queue_timeout", [30, 3])
@pytest.mark.parametrize("minutes", [10, 59, 90])
@pytest.mark.parametrize("form", [list, traditional])
def test_a_slow_upload_with_restarts_anywhere_keeps_what_was_said_at_its_beginning(form, minutes, queue_timeout):
    rows = Replay(form(upload(minutes, *WHOLE)), queue_timeout).however_read()
    assert sorted(row.envelope_from for row in rows) == sorted("a%d@good.test" % number for number in range(1, 12))
    assert {(row.relay_status, row.spf_result, row.client_tls) for row in rows} == {("sent", "Pass", "TLSv1.3 TLS_AES_256_GCM_SHA384")}
    assert {row.envelope_from: row.first_seen for row in rows}["a1@good.test"] == (NOON + 3) * SECOND


@pytest.mark.parametrize("minutes", [10, 90])
def test_an_upload_that_breaks_off_is_incomplete(minutes):
    lost = log(NOON + minutes * 60, "postfix/smtpd[101]: lost connection after DATA (9000 bytes) from mail.good.test[192.0.2.1]",
               *texts(1, "gone"))
    rows = Replay(upload(minutes) + lost).however_read()
    assert [(row.client_ip, row.spf_result) for row in rows if row.relay_status != "sent"] == [("192.0.2.1", "Pass")]
    assert {row.relay_status for row in rows} == {"sent", "incomplete"}


def test_a_slow_upload_and_a_daemon_that_is_restarted_in_the_middle(daemons, table, command):
    one = daemons(logging__queue_timeout="1", **table.settings)
    lines = [line + "\n" for line in upload(10, *WHOLE)]
    one.start()
    one.write(lines[:50])
    one.wait(lambda: table.count("relay_status = 'sent'") == 5)
    assert table.count() == 5
    one.stop()
    one.start()
    one.write(lines[50:])
    one.wait(lambda: table.count("relay_status = 'sent'") == 11)
    one.stop()
    assert {row.spf_result for row in rows_of(table.store(command))} == {"Pass"} and table.count() == 11


# -- short queue IDs come back

def reused(*entries):
    """Lines of several messages, all under one short queue ID; `lost` is the end of a session without a message."""
    lines = []
    for moment, number, *steps in entries:
        found = texts(number, *steps) if steps != ["lost"] else [
            "postfix/smtpd[10%d]: lost connection after RCPT from mail.good.test[192.0.2.%d]" % (number, number), *texts(number, "gone")]
        for place, text in enumerate(found):
            lines += log(moment + place / 1000, text.replace("4Zz%02dm1QbBz5Rk" % number, "3A1B2172385"))
    return lines


REUSED = {
    "a second after removed": ([(NOON, 1), (NOON + 1, 2)], {1: "sent", 2: "sent"}),
    "three times, a second apart": ([(NOON, 1), (NOON + 1, 2), (NOON + 2, 3)], {1: "sent", 2: "sent", 3: "sent"}),
    "hours after removed": ([(NOON, 1), (NOON + 9000, 2)], {1: "sent", 2: "sent"}),
    "a second after the client was lost": ([(NOON, 1, *BEGINNING), (NOON + 0.5, 1, "lost"), (NOON + 1, 2)], {1: "incomplete", 2: "sent"}),
    "a minute after the client was lost": ([(NOON, 1, *BEGINNING), (NOON + 1, 1, "lost"), (NOON + 61, 2)], {1: "incomplete", 2: "sent"}),
    "a second after a message whose end is not in the log": ([(NOON, 1, *BEGINNING, "id", "active"), (NOON + 1, 2)],
                                                             {1: "incomplete", 2: "sent"}),
    "hours after a message whose end is not in the log": ([(NOON, 1, *BEGINNING, "id", "active", "gone", "deferred"), (NOON + 9000, 2)],
                                                          {1: "deferred", 2: "sent"}),
    "a second after removed, deferred then": ([(NOON, 1), (NOON + 1, 2, *BEGINNING, "id", "active", "gone", "deferred"),
                                               (NOON + 4000, 2, "active", "sent", "removed")], {1: "sent", 2: "sent"}),
}


@pytest.mark.parametrize("form", [list, traditional])
@pytest.mark.parametrize("case", REUSED)
def test_a_short_queue_id_comes_back(case, form):
    entries, expected = REUSED[case]
    rows = Replay(form(reused(*entries))).however_read()
    assert sorted((row.client_ip, row.envelope_from, row.relay_status) for row in rows) == sorted(
        ("192.0.2.%d" % number, "a%d@good.test" % number if status != "incomplete" or case.endswith("not in the log") else None, status)
        for number, status in expected.items())


def test_a_short_queue_id_comes_back_within_the_second():
    """It holds the microsecond of its second (mail_queue.h), so only a clock that was set can do that."""
    rows = Replay(reused((NOON, 1), (NOON + 0.5, 2))).however_read()
    assert sorted((row.client_ip, row.envelope_from, row.message_id, row.relay_status) for row in rows) == [
        ("192.0.2.%d" % number, "a%d@good.test" % number, "m%d@good.test" % number, "sent") for number in (1, 2)]


# -- T10, T17: long lines and large logs

def test_T10_a_line_of_ten_megabytes_without_its_end_takes_no_memory(daemons, table):
    one = daemons(**table.settings)
    one.start()
    one.write(message(1))
    one.wait(lambda: table.count() == 1)
    before = memory(one.daemon.pid)[1]
    for _ in range(160):
        one.write(["x" * 65536])
    one.wait(lambda: place_in(one.daemon.pid, one.log) == one.log.stat().st_size)
    assert memory(one.daemon.pid)[1] < before + 5 * MEGABYTE
    one.write(["\n", *message(2)])
    one.wait(lambda: table.count("relay_status = 'sent'") == 2)
    assert one.stop() == 0


def grown(path, size):
    """A log of this size: some lines, a hole, some lines. Nothing of it says what is at its end."""
    head = "".join(message(90))
    path.write_text(head)
    os.truncate(str(path), size)
    with open(str(path), "a", encoding="ascii") as handle:
        handle.write("\n" + "".join(message(91)))


def start_at_the_end(one, size):
    """The first start of a daemon that is to skip what is there."""
    grown(one.log, size)
    one.settings["logging__start"] = "end"
    one.start()


def start_by_hand(one, size):
    """A start with a position that the operator wrote."""
    grown(one.log, size)
    status = one.log.stat()
    (one.folder / "state.json").write_text('{"position": %d, "inode": %d}' % (status.st_size, status.st_ino))
    one.start()


def start_again(one, size):
    """A start where the last run left off, a whole log later."""
    start_at_the_end(one, size)
    assert one.stop() == 0
    one.start()
    one.wait(lambda: place_in(one.daemon.pid, one.log))


def start_after_rotation(one, size):
    """The log was rotated meanwhile; the rest of the old one comes first."""
    start_again(one, size)
    assert one.stop() == 0
    one.write(message(3))
    one.log.rename(one.folder / "mail.log.1")
    one.log.touch()
    one.start()


@pytest.mark.parametrize("begin", [start_at_the_end, start_by_hand, start_again, start_after_rotation])
def test_T17_what_is_read_before_the_first_row_does_not_depend_on_the_size_of_the_log(tmp_path, begin, command):
    read = []
    for size in (1 << 16, 1 << 30):
        command.folder = tmp_path / str(size)
        command.folder.mkdir()
        table = Table("sqlite", command.folder, None)
        one = Live(command, **table.settings)
        try:
            begin(one, size)
            one.write(message(1))
            one.wait(lambda table=table: table.count("envelope_from = 'a1@good.test'") == 1)
            read.append(bytes_read(one.daemon.pid))
            assert table.count() == 1 + (begin is start_after_rotation)
        finally:
            one.stop(signal.SIGKILL)
    assert read[1] < read[0] + MEGABYTE, read


# -- T19: stopping, and looking again

BACKLOG = 8000
LATEST_STOP = 2.0                   # seconds from the signal to the end of the process: the promise itself


def backlog():
    """A log that takes a while to read: messages that came while nobody looked."""
    lines = []
    for number in range(BACKLOG):
        moment = NOON + number / 500
        queue_id, received = endless(number, moment)
        lines += received + delivered(queue_id, number, moment + 0.001)
    return "".join(line + "\n" for line in lines)


@pytest.fixture(scope="module")
def read_for_a_while():
    return backlog()


def stopped_in_time(one, number=signal.SIGTERM):
    """Send a signal; the daemon must be gone in time, with exit code 0."""
    began = time.monotonic()
    one.daemon.send_signal(number)
    one.daemon.wait(30)
    took = time.monotonic() - began
    assert one.stop() == 0, one.said
    assert took < LATEST_STOP, (took, one.said)


@ENGINES
def test_T19_stopped_under_load_and_started_again_nothing_is_missing(daemons, table, read_for_a_while):
    one = daemons(**table.settings)
    one.log.write_text(read_for_a_while)
    size = one.log.stat().st_size
    places = []
    for share in (0.2, 0.6):
        one.start()
        one.wait(lambda share=share: place_in(one.daemon.pid, one.log) > share * size, 120)
        places.append(place_in(one.daemon.pid, one.log))
        stopped_in_time(one, (signal.SIGTERM, signal.SIGINT)[len(places) % 2])
    assert places[0] < size, "read before it could be stopped: make the backlog longer"
    one.start()
    one.wait(lambda: table.count("relay_status = 'sent'") == BACKLOG, 300)
    assert one.stop() == 0 and table.count() == BACKLOG
    assert table.count("spf_result = 'Pass' AND client_ip IS NOT NULL AND client_tls IS NOT NULL") == BACKLOG


@pytest.fixture(scope="module")
def own_server():
    """A server that a test may kill."""
    with mariadb_server.running() as server:
        yield server


def kill(server):
    """The server is gone."""
    server.stop(kill=True)
    return server.start


def freeze(server):
    """The server takes connections, and answers nothing."""
    server.process.send_signal(signal.SIGSTOP)
    return lambda: server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("away", [kill, freeze])
def test_T19_stopped_while_the_database_is_away(daemons, own_server, tmp_path, away):
    table = Table("mysql", tmp_path, own_server)
    one = daemons(**table.settings)
    one.start()
    one.write(message(1))
    one.wait(lambda: table.count() == 1)
    come_back = away(own_server)
    try:
        one.write(message(2))
        time.sleep(2)
        stopped_in_time(one)
    finally:
        come_back()
    one.write(message(3))
    one.start()
    one.wait(lambda: table.count("relay_status = 'sent'") == 3)
    assert one.stop() == 0 and table.count() == 3


@pytest.mark.parametrize("crash", [True, False])
def test_what_a_crash_made_the_server_forget_is_written_again(daemons, own_server, tmp_path, crash):
    """Deleted here, for how much of its last second a server loses is a matter of luck. What an administrator deletes stays away: to be cut
    off is no crash.
    """
    table = Table("mysql", tmp_path, own_server)
    one = daemons(**table.settings)
    one.start()
    one.write(message(1))
    one.wait(lambda: table.count() == 1)
    if crash:
        one.wait(lambda: int(table.ask("SHOW GLOBAL STATUS LIKE 'Uptime'")[0][1]) > 3)      # its start is what tells it from the next
        kill(own_server)()
    table.ask("DELETE FROM mail_relay_log")
    own_server.kill("mailtracker")
    one.write(message(2))
    one.wait(lambda: table.count() == 1 + crash)
    one.write(message(3))
    one.wait(lambda: table.count() == 2 + crash)
    assert one.stop() == 0 and table.count("relay_status = 'sent'") == 2 + crash


@contextmanager
def locked(daemons, table, *arguments):
    """A daemon that has another message to write, while somebody locks the file."""
    one = daemons(**table.settings)
    one.start(*arguments)
    one.write(message(1))
    one.wait(lambda: table.count() == 1)
    with closing(sqlite3.connect(str(table.path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        one.write(message(2))
        yield one


def test_T19_stopped_while_somebody_locks_the_file(daemons, table):
    with locked(daemons, table) as one:
        time.sleep(1.5)
        stopped_in_time(one)
    one.start()
    one.wait(lambda: table.count("relay_status = 'sent'") == 2)


def test_T19_stopped_while_SQLite_is_busy_for_long(daemons, table):
    """As with the indexes of a large file, which an import left to be made: here it counts for minutes when a row is written."""
    one = daemons(**table.settings)
    one.start()
    one.write(message(1))
    one.wait(lambda: table.count() == 1)
    with closing(sqlite3.connect(str(table.path))) as other:
        other.execute("CREATE TRIGGER slow AFTER INSERT ON mail_relay_log BEGIN SELECT max(n) FROM ("
                      "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2000000000) SELECT n FROM c); END")
    one.write(message(2))
    time.sleep(2)
    stopped_in_time(one)
    assert "stopped before all was written" in one.said
    with closing(sqlite3.connect(str(table.path))) as other:
        other.execute("DROP TRIGGER slow")
    one.start()
    one.wait(lambda: table.count("relay_status = 'sent'") == 2)


def test_a_trouble_that_goes_on_is_not_told_as_over_at_every_try(daemons, table):
    """Each try connects anew; -v names a connection when it has served."""
    with locked(daemons, table, "-v") as one:
        time.sleep(6)
    one.wait(lambda: table.count("relay_status = 'sent'") == 2)
    assert one.stop() == 0
    assert one.said.count("reading pauses") == 1 and one.said.count("connected to") == 2 and one.said.count("is back") == 1, one.said


def test_a_server_that_ends_every_idle_connection_is_not_told_each_time(daemons, own_server, tmp_path):
    """wait_timeout is a minute with many a server, and less than that passes between two mails at best."""
    table = Table("mysql", tmp_path, own_server)
    own_server.client("SET GLOBAL wait_timeout = 1")
    try:
        one = daemons(**table.settings)
        one.start("-v")
        for number in (1, 2, 3):
            one.write(message(number))
            one.wait(lambda number=number: table.count("relay_status = 'sent'") == number)
            time.sleep(2.5)
        assert one.stop() == 0
    finally:
        own_server.client("SET GLOBAL wait_timeout = 28800")
    assert one.said.count("connecting anew") == 1 and one.said.count("connected to") == 2, one.said
    assert "ERROR" not in one.said and "WARNING" not in one.said


@pytest.mark.parametrize("arguments, wrong", [([], True), (["-v"], True), (["-v"], False)])
def test_T19_stopped_while_nobody_reads_what_it_says(daemons, table, tmp_path, arguments, wrong):
    """Standard error is a pipe that is full: it waits to say that the database is away, or what it does."""
    if wrong:
        table.settings.update(database__engine="mysql", database__unix_socket=tmp_path / "nowhere")
    one = daemons(**table.settings)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    path = one.command.configure(**one.settings)
    one.daemon = subprocess.Popen([sys.executable, str(ROOT / "mail_relay_tracker.py"), "-c", path, *arguments], stderr=writer)
    try:
        one.wait((one.folder / "state.json.lock").exists)
        time.sleep(1.5)
        began = time.monotonic()
        one.daemon.terminate()
        assert one.daemon.wait(30) == 0
        assert time.monotonic() - began < LATEST_STOP
    finally:
        one.daemon.kill()
        one.daemon.wait()
        one.daemon = None
        for end in (reader, writer):
            os.close(end)


def test_T19_stopped_though_its_parent_had_blocked_the_signal(daemons, table):
    """Which a process inherits."""
    one = daemons(**table.settings)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
    try:
        one.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    one.write(message(1))
    one.wait(lambda: table.count() == 1)
    stopped_in_time(one)


def test_T19_SIGHUP_looks_for_a_new_log_at_once(daemons, table):
    """As the postrotate script of logrotate sends it; by itself this daemon would look in an hour."""
    one = daemons(system__rotation_check_interval="3600", **table.settings)
    one.start()
    for number in (1, 2):               # when the second comes, the daemon has been at the end of the log, and looked
        one.write(message(number))
        one.wait(lambda number=number: table.count() == number)
    one.log.rename(one.folder / "mail.log.1")
    one.write(message(3))
    one.daemon.send_signal(signal.SIGHUP)
    one.wait(lambda: table.count("relay_status = 'sent'") == 3)
    assert one.stop() == 0


# -- T20: what the daemon tells of itself

STATISTICS = (
    r"lines: (?P<parsed>\d+) parsed, (?P<ignored>\d+) ignored, (?P<foreign>\d+) foreign, (?P<unsupported>\d+) unsupported, "
    r"(?P<failed>\d+) failed",
    r"log: (?P<bytes>\d+) bytes to read, newest line (?P<seconds>\d+) s old, "
    r"(?P<rotations>\d+) rotations, (?P<truncations>\d+) truncations",
    r"messages: (?P<open>\d+) open, (?P<dropped>\d+) dropped without a recipient; sessions: (?P<sessions>\d+); "
    r"SPF results waiting: (?P<spf>\d+)",
    r"database: (?P<rows>\d+) rows written, (?P<refused>\d+) refused, (?P<trouble>\d+) times in trouble")


def statistics(one, seconds=10):
    """Ask a daemon for its statistics; returns them as numbers by name."""
    one.daemon.send_signal(signal.SIGUSR1)
    said, deadline = "", time.monotonic() + seconds
    while "database: " not in said:
        assert select.select([one.daemon.stderr], [], [], max(deadline - time.monotonic(), 0))[0], "no answer to SIGUSR1; said: " + said
        said += os.read(one.daemon.stderr.fileno(), 65536).decode()
    one.said += said
    found = {}
    for form in STATISTICS:
        match = re.search("STATISTICS: " + form, said)
        assert match, "%s: not in %s" % (form, said)
        found.update((key, int(value)) for key, value in match.groupdict().items())
    return found


def test_T20_every_line_is_counted_once_in_its_class(daemons, table):
    one = daemons(**table.settings)
    one.start()
    assert set(statistics(one).values()) == {0}
    other = ["%s mx %s\n" % (stamp(), text) for text in (
        "sshd[5]: Accepted publickey for root", "kernel: eth0: link up", "postfix/smtpd[7]: something never seen",
        "postfix/smtpd[7]: nor this",
        "postfix/anvil[6]: statistics: max cache size 1 at Nov 22 10:00:00")]
    one.write([*message(1), *message(2, "connect", "spf", "client"), *other, *other, "no stamp at all\n", "\n"])
    one.wait(lambda: table.count("relay_status = 'sent'") == 1)
    found = statistics(one)
    assert found["parsed"] + found["ignored"] + found["foreign"] + found["unsupported"] + found["failed"] == 9 + 3 + 10 + 2
    assert (found["parsed"], found["ignored"], found["foreign"], found["unsupported"], found["failed"]) == (12, 3, 5, 4, 0)
    assert (found["bytes"], found["rows"], found["open"], found["sessions"], found["refused"], found["trouble"]) == (0, 1, 1, 1, 0, 0)
    assert one.stop() == 0


@pytest.mark.parametrize("table", ["mysql"], indirect=True)
def test_what_a_mended_trouble_hid_is_told_at_once(daemons, table):
    """Both are refusals: the password was changed; now it is right again, and the rights are gone."""
    account, password = "mailtracker@localhost", mariadb_server.PASSWORD.replace("'", "''")
    one = daemons(**table.settings)
    one.start()
    one.write(message(1))
    one.wait(lambda: table.count() == 1)
    table.ask("ALTER USER %s IDENTIFIED BY 'another'" % account)
    table.server.kill("mailtracker")
    try:
        one.write(message(2))
        one.wait(lambda: statistics(one)["trouble"])
    finally:
        table.ask("REVOKE SELECT, INSERT, UPDATE ON %s.* FROM %s" % (table.name, account))
        table.ask("ALTER USER %s IDENTIFIED BY '%s'" % (account, password))
    tries = statistics(one)["trouble"]
    one.wait(lambda: statistics(one)["trouble"] > tries + 1)            # one may have been under way
    table.ask("GRANT SELECT, INSERT, UPDATE ON %s.* TO %s" % (table.name, account))
    one.wait(lambda: table.count() == 2)
    assert one.stop() == 0
    assert one.said.count("reading pauses") == 2 and one.said.count("is back") == 1, one.said


def test_T20_the_age_of_the_newest_line_is_that_of_the_line(daemons, table):
    one = daemons(**table.settings)
    one.start()
    written = int(time.time()) - 100
    one.write(["%s mx %s" % (stamp(written), line[16:].split(" ", 1)[1]) for line in message(1)])
    one.wait(lambda: table.count() == 1)
    for quiet in (0, 3):
        time.sleep(quiet)
        before = time.time()
        found = statistics(one)["seconds"]
        assert before - written - 1 <= found <= time.time() - written + 1
    assert one.stop() == 0


def test_T20_rotations_and_truncations(daemons, table):
    one = daemons(**table.settings)
    one.start()
    one.write(message(1))
    one.wait(lambda: table.count() == 1)
    one.log.rename(one.folder / "mail.log.2")
    one.write(message(2))
    one.wait(lambda: table.count() == 2)
    found = statistics(one)
    assert (found["rotations"], found["truncations"], found["parsed"]) == (1, 0, 18)
    subprocess.run(["cp", "-p", str(one.log), str(one.folder / "mail.log.1")], check=True)
    os.truncate(str(one.log), 0)
    one.wait(lambda: place_in(one.daemon.pid, one.log) == 0)
    time.sleep(1)
    one.write(message(3))
    one.wait(lambda: table.count() == 3)
    found = statistics(one)
    assert (found["truncations"], found["parsed"]) == (1, 27)
    assert one.stop() == 0


def test_T20_a_database_that_is_away_and_one_that_refuses_a_row(daemons, own_server, tmp_path):
    table = Table("mysql", tmp_path, own_server)
    own_server.client("ALTER TABLE mail_relay_log ADD CONSTRAINT CHECK (envelope_from <> 'a2@good.test')", table.name)
    one = daemons(**table.settings)
    one.start()
    one.write(message(1) + message(2) + message(3))
    one.wait(lambda: table.count() == 2)
    found = statistics(one)
    assert (found["rows"], found["refused"], found["trouble"]) == (2, 1, 0)
    come_back = kill(own_server)
    more = [line for number in range(4, 90) for line in message(number)] * 40
    try:
        one.write(message(4))
        one.wait(lambda: statistics(one)["trouble"])
        one.write(more)
        found = statistics(one)
        assert found["trouble"] >= 1 and found["bytes"] >= len("".join(more)) // 2
    finally:
        come_back()
    one.wait(lambda: table.count("relay_status = 'sent'") == 88 and not statistics(one)["bytes"], 120)
    assert one.stop() == 0
