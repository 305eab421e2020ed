"""Every text column takes everything a log may hold and gives it back; what a database really refuses is set aside, alone.

Three tables: SQLite, MariaDB as it comes, MariaDB with an empty sql_mode and latin1 as its character set. What is in them is
read past the module: SQLite with sqlite3, MariaDB in hexadecimal with its own client.

    BAD_ROWS_SEED=7 pytest tests/test_bad_rows.py -k random         other random texts
"""
import contextlib
import json
import math
import os
import random
import re
import resource
import signal
import sqlite3
import stat
import time

import mariadb as mariadb_server
import pytest
from test_follow import message
from test_state import Heard

import mail_relay_tracker as tracker
from tests.unit import replay, test_parts

SEED = int(os.environ.get("BAD_ROWS_SEED", "1"))
NAMES = [column.name for column in tracker.COLUMNS]
TEXTS = [column for column in tracker.COLUMNS if column.type.startswith(("VARCHAR", "TEXT"))]
TEXT_NAMES = frozenset(column.name for column in TEXTS)
FREE = [column for column in TEXTS if not column.name.endswith("queue_id")]     # IDs are ASCII: the parsers let nothing else through
SMILE, SMILE_BYTES = "\U0001f600", b"\xf0\x9f\x98\x80"
INSIDE = test_parts.Columns()                                                   # makes rows of what the correlator holds


# -- three tables

class SqliteTable:
    """A table in an SQLite file."""

    def __init__(self, folder):
        self.path = folder / "t.db"
        self.settings = {"database__engine": "sqlite", "database__database": self.path}
        self.sql(tracker.sqlite_table())

    def sql(self, text):
        """Run a statement past the module; returns the rows."""
        with contextlib.closing(sqlite3.connect(str(self.path), timeout=10)) as connection, connection:
            return connection.execute(text).fetchall()

    def refuse(self, *senders, message="not this one"):
        """From now on it refuses rows of these senders."""
        self.sql("CREATE TRIGGER refusal BEFORE INSERT ON mail_relay_log WHEN NEW.envelope_from IN ('%s') "
                 "BEGIN SELECT RAISE(ABORT, '%s'); END" % ("', '".join(senders), message))

    def dump(self):
        """{queue_id: {column: value}}, with the recipient's number behind the ID if that is not 0; numbers as MariaDB prints them."""
        found = {}
        for values in self.sql("SELECT %s FROM mail_relay_log" % ", ".join(NAMES)):
            row = {name: "%.3f" % value if isinstance(value, float) else str(value) if isinstance(value, int) else value
                   for name, value in zip(NAMES, values)}
            found[row_name(row)] = row
        return found


class MariadbTable:
    """A table in a database of its own."""

    def __init__(self, server):
        self.server = server
        server.load_schema("bad_rows")
        self.settings = {"database__engine": "mysql", "database__unix_socket": server.socket, "database__database": "bad_rows",
                         "database__password": mariadb_server.PASSWORD, "database__connect_timeout": "5"}

    def sql(self, text):
        """Run a statement, which may hold semicolons, as root; returns the rows, their values separated by tabs."""
        return self.server.client("DELIMITER //\nSET time_zone = '+00:00' //\n%s //\n" % text, "bad_rows").splitlines()[1:]

    def refuse(self, *senders, message="not this one"):
        """From now on it refuses rows of these senders."""
        self.sql("CREATE TRIGGER refusal BEFORE INSERT ON mail_relay_log FOR EACH ROW IF NEW.envelope_from IN ('%s') "
                 "THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '%s'; END IF" % ("', '".join(senders), message))

    def dump(self):
        """{queue_id: {column: value}}, with the recipient's number behind the ID if that is not 0; numbers and times as text."""
        fields = ", ".join("HEX(CONVERT(%s USING utf8mb4))" % name if name in TEXT_NAMES else name for name in NAMES)
        found = {}
        for line in self.sql("SELECT %s FROM mail_relay_log" % fields):
            row = {name: None if value == "NULL" else bytes.fromhex(value).decode("utf-8") if name in TEXT_NAMES else value
                   for name, value in zip(NAMES, line.split("\t"))}
            found[row_name(row)] = row
        return found

    def inserts(self):
        """How many INSERT statements the server has been given since it began."""
        return int(self.sql("SHOW GLOBAL STATUS LIKE 'Com_insert'")[0].split()[-1])


def row_name(row):
    """A short name of a row."""
    return row["queue_id"] if row["recipient_no"] == "0" else "%s/%s" % (row["queue_id"], row["recipient_no"])


@pytest.fixture(scope="module")
def lenient():
    """A MariaDB that would rather change a value than refuse it, and thinks in latin1."""
    server = mariadb_server.MariaDB(["--sql-mode=", "--character-set-server=latin1", "--collation-server=latin1_swedish_ci"])
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def table_on(request, tmp_path):
    """A function that makes an empty table of a kind."""
    def make(kind):
        if kind == "sqlite":
            return SqliteTable(tmp_path)
        return MariadbTable(request.getfixturevalue({"strict": "mariadb", "lenient": "lenient"}[kind]))
    return make


@pytest.fixture(params=["sqlite", "strict", "lenient"])
def table(request, table_on):
    """An empty table, of each kind."""
    return table_on(request.param)


@pytest.fixture(params=["strict", "lenient"])
def server_table(request, table_on):
    """An empty table on each MariaDB."""
    return table_on(request.param)


@pytest.fixture(params=["sqlite", "strict"])
def engine_table(request, table_on):
    """An empty table on each engine."""
    return table_on(request.param)


@pytest.fixture
def store_of(command):
    """A function that connects a store to a table, configured as a user would; all are closed in the end."""
    with contextlib.ExitStack() as opened:
        def connect(table):
            store = tracker.make_store(tracker.load_config(command.configure("store.conf", **table.settings)))
            store.connect()
            opened.callback(store.close)
            return store
        yield connect


class Kept(list):
    """Takes the rows that are refused."""

    def add(self, row, reason):
        assert reason
        self.append(row)

    def ids(self):
        """Their queue IDs, in the order in which they came."""
        return [row.queue_id for row in self]


# -- what goes in comes out

def row_of(number, **values):
    """A row of which the correlator held these values; its queue ID bears the number."""
    return INSIDE.row(queue_id="3854F17%04X" % number, **values)


def filled(number, data):
    """A row for which the log had these bytes, a function of the column's width, in every free text column."""
    return row_of(number, **{column.name: data(column.limit).decode("latin-1") for column in FREE})


def comes_back(table, store, texts):
    """`texts` are pairs (bytes, text) of functions of a column's width: of bytes in the log the text is stored, and read again."""
    kept, rows = Kept(), [filled(number, data) for number, (data, _) in enumerate(texts)]
    tracker.write_rows(store, rows, kept.add)
    found = table.dump()
    assert not kept and sorted(found) == [row.queue_id for row in rows]
    for row, (_, text) in zip(rows, texts):
        for column in FREE:
            assert found[row.queue_id][column.name] == text(column.limit)[:column.limit], (row.queue_id, column.name)
    stored = list(map(tracker.as_stored, rows))
    known = store.recall({(row.server_hostname, row.queue_id) for row in stored})
    assert sorted(map(repr, sum(known.values(), []))) == sorted(map(repr, stored))


def same(data, text):
    """The same bytes, and text, for every width."""
    return lambda limit: data, lambda limit: text


def test_every_byte_value_in_every_text_column(table, store_of):
    """A byte alone is ASCII or nothing: the upper half, and NUL, are U+FFFD."""
    texts = [same(b"x" + bytes([byte]), "x" + (chr(byte) if 0 < byte < 128 else "\ufffd")) for byte in range(256)]
    comes_back(table, store_of(table), texts)


def test_every_ascii_character_in_the_columns_of_queue_ids(table, store_of):
    rows = [row_of(byte, next_queue_id="x" + chr(byte), parent_queue_id=chr(byte) * 65) for byte in range(1, 128)]
    tracker.write_rows(store_of(table), rows, Kept().add)
    found = table.dump()
    assert {name: (row["next_queue_id"], row["parent_queue_id"]) for name, row in found.items()} == {
        "3854F17%04X" % byte: ("x" + chr(byte), chr(byte) * 64) for byte in range(1, 128)}


FRAGMENTS = [
    "'); DROP TABLE mail_relay_log; --", "' OR '1'='1", '" OR ""="', "'", "''", '"', "`", "\\", "\\'", "\\\\'); --", "\\0\\n\\Z\\%\\_",
    ";", "--", "#", "/*!50000 DROP TABLE mail_relay_log*/", "%s", "%", "%(helo)s %d %%", "{} {0}", "?", ":a @b $1", "X'41'",
    "_utf8mb4 X'41'", "0x41", "NULL", "\x1a", "\x1b[31m", "\x7f", "\b\t\r\x0b\x0c", "<b>&amp;</b>", "${jndi:ldap://x/}", "=1", "",
]
ENCODED = [
    ("J\u00f6rg".encode(), "J\u00f6rg"), (b"J\xf6rg", "J\ufffdrg"), (SMILE_BYTES, SMILE), (b"\xe2\x82\xac", "\u20ac"),
    ("\u202ecba \u0301\ufeff\uffff\U0010ffff".encode(), "\u202ecba \u0301\ufeff\uffff\U0010ffff"),
    (b"\0", "\ufffd"), (b"a\0b", "a\ufffdb"), (b"\0" * 400, "\ufffd" * 400),
    (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"), (b"a\xed\xbf\xbfb", "a\ufffd\ufffd\ufffdb"), (b"\xed\xa0\xbd\xed\xb8\x80", "\ufffd" * 6),
    (b"\xc0\x80", "\ufffd\ufffd"), (b"\xf4\x90\x80\x80", "\ufffd" * 4), (b"\xff" * 20000, "\ufffd" * 20000),
    (SMILE_BYTES[:3], "\ufffd"), (b"\xe2\x82x", "\ufffdx"), (SMILE_BYTES[1:], "\ufffd" * 3),
    (b" ", " "), (b"a  ", "a  "), (b"  a", "  a"), (b"\xc2\xa0", "\xa0"), (b"A\xcc\x88", "A\u0308"),
    (b"a" * 65536, "a" * 65536), (SMILE_BYTES * 16384, SMILE * 16384), (b"'" * 65536, "'" * 65536), (b"\\" * 65536, "\\" * 65536),
    (b"\x01" * 65536, "\x01" * 65536), (bytes(range(1, 128)) * 516, "".join(map(chr, range(1, 128))) * 516),
]
WIDTHS = [
    (lambda limit: SMILE_BYTES * (limit - 1), lambda limit: SMILE * (limit - 1)),
    (lambda limit: SMILE_BYTES * limit, lambda limit: SMILE * limit),
    (lambda limit: SMILE_BYTES * (limit + 1), lambda limit: SMILE * limit),
    (lambda limit: SMILE_BYTES * (limit - 1) + b"ab", lambda limit: SMILE * (limit - 1) + "a"),
    (lambda limit: b"a" * (limit - 1) + SMILE_BYTES * 2, lambda limit: "a" * (limit - 1) + SMILE),
    (lambda limit: b"a" * (limit - 1) + SMILE_BYTES[:2], lambda limit: "a" * (limit - 1) + "\ufffd"),
    (lambda limit: b"a" * limit + b"\0", lambda limit: "a" * limit),
]


def test_hostile_texts_in_every_text_column(table, store_of):
    comes_back(table, store_of(table), [same(text.encode(), text) for text in FRAGMENTS] + [same(*pair) for pair in ENCODED])


def test_texts_about_as_wide_as_each_column(table, store_of):
    """One below its width, of it, one above it, in characters of four bytes and mixed ones."""
    comes_back(table, store_of(table), WIDTHS)


def test_random_bytes_in_every_text_column(table, store_of):
    print("BAD_ROWS_SEED=%d" % SEED)
    chance = random.Random(SEED)
    pieces = [text.encode() for text in FRAGMENTS] + [data for data, _ in ENCODED if len(data) < 500]
    texts = []
    for _ in range(200):
        data = b"".join(chance.choice(pieces) if chance.random() < 0.5 else bytes(chance.choices(range(256), k=chance.randrange(20)))
                        for _ in range(chance.randrange(1, 9)))
        texts.append(same(data, data.decode("utf-8", "replace").replace("\0", "\ufffd")))
    comes_back(table, store_of(table), texts)


def test_a_nul_among_nothing_but_ascii(table, store_of):
    comes_back(table, store_of(table), [same(b"a\0b", "a\ufffdb")])


@pytest.mark.parametrize("sign", [1, -1], ids=["large", "small"])
def test_numbers_beyond_their_columns_become_the_last_that_fit(table, store_of, sign):
    """Of the small ones only those that a log may tell of: scores."""
    columns = [column for column in tracker.ROW if column.limit and column.name not in TEXT_NAMES and column.name not in tracker.KEY
               and (sign > 0 or column.name.startswith("spam"))]
    kept = Kept()
    tracker.write_rows(store_of(table), [row_of(1, **{column.name: sign * (column.limit + 1) for column in columns})], kept.add)
    found, = table.dump().values()
    assert not kept and len(columns) > 1
    assert {column.name: float(found[column.name]) for column in columns} == {column.name: sign * column.limit for column in columns}


def test_no_nul_and_no_lone_surrogate_gets_to_a_driver():
    for column in FREE:
        found = getattr(tracker.fitted(row_of(1, **{column.name: "a\ud800\0"})), column.name)
        assert len(found) == 3 and not {"\0", "\ud800"} & set(found), column.name


def test_a_text_that_is_no_unicode_is_the_same_to_every_store(table, store_of):
    """It does not come from a log: what stands in a row is one character per byte."""
    kept, strange = Kept(), row_of(1)._replace(helo="a\ud800\u20acb")
    tracker.write_rows(store_of(table), [row_of(0), strange, row_of(2)], kept.add)
    found = table.dump()
    assert not kept and sorted(found) == ["3854F170000", "3854F170001", "3854F170002"]
    assert found["3854F170001"]["helo"] == "a??b" == json.loads(tracker.row_json(strange))["helo"]


# -- the way through a log

STORY = b"""\
postfix/smtpd[1]: connect from TEXT[192.0.2.1]
postfix/smtpd[1]: NOQUEUE: reject: RCPT from TEXT[192.0.2.1]: 554 5.7.1 <TEXT>: TEXT; from=<TEXT> to=<TEXT> proto=ESMTP helo=<TEXT>
policyd-spf[7]: : prepend Received-SPF: Pass (mailfrom) identity=mailfrom; client-ip=192.0.2.1; helo=TEXT; envelope-from=TEXT; receiver=x
postfix/smtpd[1]: ID: client=TEXT[192.0.2.1], sasl_method=PLAIN, sasl_username=TEXT
postfix/cleanup[2]: ID: message-id=<TEXT>
postfix/cleanup[2]: ID: hold: header Subject: TEXT from TEXT[192.0.2.1]; from=<TEXT> to=<TEXT> proto=ESMTP helo=<TEXT>: TEXT
postfix/cleanup[2]: ID: milter-hold: END-OF-MESSAGE from TEXT[192.0.2.1]: TEXT; from=<TEXT> to=<TEXT> proto=ESMTP helo=<TEXT>
opendkim[3]: ID: TEXT [192.0.2.1] not internal
opendkim[3]: ID: DKIM verification successful
opendkim[3]: ID: s=TEXT d=TEXT a=rsa-sha256 SSL
opendmarc[4]: ID: TEXT pass
spamd[5]: spamd: result: Y 9 - TEXT scantime=0.1,size=9,user=x,mid=<TEXT>,autolearn=no
postfix/qmgr[6]: ID: from=<TEXT>, size=100, nrcpt=2 (queue active)
postfix/smtp[8]: ID: to=<a@b.test>, orig_to=<TEXT>, relay=none, delay=1, delays=1/0/0/0, dsn=5.0.0, status=bounced (TEXT)
postfix/smtp[8]: ID: to=<TEXT>, relay=TEXT[192.0.2.9]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 queued as TEXT)
postfix/bounce[9]: ID: sender non-delivery notification: TEXT
postfix/smtpd[1]: DI: client=TEXT[192.0.2.1], orig_queue_id=TEXT, orig_client=TEXT[192.0.2.2]
postfix/qmgr[6]: DI: from=<TEXT>, size=100, nrcpt=1 (queue active)
postfix/qmgr[6]: DI: removed
postfix/qmgr[6]: ID: removed
"""
THROUGH = [b"plain"] + [text.encode() for text in FRAGMENTS if text] + [data for data, _ in ENCODED if len(data) <= 400] + [
    bytes([byte]) for byte in range(256) if byte != 10] + [b"1" + SMILE_BYTES * 1000, b"a" * 2000]


def story(number, text):
    """The lines of a message, with a text of strangers wherever strangers can put one."""
    ids = (b"3854F17%04X" % number, b"4854F17%04X" % number)
    lines = STORY.replace(b"ID:", ids[0] + b":").replace(b"DI:", ids[1] + b":").replace(b"TEXT", text)
    return b"".join(b"Nov 20 10:%02d:%02d mx %s\n" % (number // 60, number % 60, line) for line in lines.split(b"\n")[:-1])


def test_T11_a_log_with_texts_of_strangers_everywhere_makes_equal_tables(table_on, command):
    log, tables = command.folder / "strangers.log", {}
    log.write_bytes(b"".join(story(number, text) for number, text in enumerate(THROUGH)))
    for kind in ("sqlite", "strict", "lenient"):
        table = table_on(kind)
        done = command.run("-c", command.configure(**table.settings), "--import", log)
        assert done.returncode == 0 and not done.stderr, done.stderr
        tables[kind] = table.dump()
    assert tables["strict"] == tables["sqlite"] and tables["lenient"] == tables["sqlite"]
    assert not (command.folder / "mail_relay_tracker.rejected.jsonl").exists()
    plain = tables["sqlite"]["3854F170000"]
    assert (plain["relay_message"], plain["helo"], plain["sasl_username"], plain["message_id"]) == ("plain",) * 4
    for number, text in enumerate(THROUGH):
        row = tables["sqlite"]["3854F17%04X" % number]
        assert row["relay_status"] == "bounced", text
        assert row["relay_message"] == text.decode("utf-8", "replace").replace("\0", "\ufffd"), text


# -- what a database really refuses

REFUSALS = {
    "a narrower column": ("MODIFY helo VARCHAR(5)", {"helo": "longer"}, {"helo": "short"}),
    "a column of bytes": ("MODIFY helo VARCHAR(255) CHARACTER SET latin1", {"helo": "\xf0\x9f\x98\x80"}, {"helo": "\xc3\xb6"}),
    "NOT NULL": ("MODIFY helo VARCHAR(255) NOT NULL", {}, {"helo": "h"}),
    "CHECK": ("ADD CONSTRAINT polite CHECK (helo <> 'rude')", {"helo": "rude"}, {"helo": "h"}),
    "a smaller integer": ("MODIFY size TINYINT UNSIGNED", {"size": 256}, {"size": 255}),
    "a smaller decimal": ("MODIFY delay DECIMAL(4,2)", {"delay": 100.0}, {"delay": 99.99}),
    "ENUM": ("MODIFY relay_status ENUM('sent', 'bounced')", {"relay_status": "deferred"}, {"relay_status": "bounced"}),
    "a foreign key": ("ADD FOREIGN KEY (helo) REFERENCES known (name)", {"helo": "stranger"}, {"helo": "friend"}),
    "a time behind the type's end": ("COMMENT 'as it is'", {"first_seen": tracker.epoch(2110, 1, 1, 0)}, {}),
    "a time before the type's begin": ("COMMENT 'as it is'", {"first_seen": 0}, {}),
}


def set_aside(table, store, rows, bad):
    """The rows at these places are refused, and they alone; the connection goes on working."""
    kept = Kept()
    tracker.write_rows(store, rows, kept.add)
    assert kept.ids() == [rows[place].queue_id for place in bad]
    assert sorted(table.dump()) == [row.queue_id for place, row in enumerate(rows) if place not in bad]
    tracker.write_rows(store, [row for place, row in enumerate(rows) if place not in bad], kept.add)
    assert len(kept) == len(bad)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_T13_values_that_the_server_refuses_are_set_aside_alone(server_table, store_of, refusal):
    change, bad, good = REFUSALS[refusal]
    server_table.sql("CREATE TABLE known (name VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci PRIMARY KEY) // "
                     "INSERT INTO known VALUES ('friend') // ALTER TABLE mail_relay_log " + change)
    places = (0, 7, 8, 29)
    set_aside(server_table, store_of(server_table), [row_of(number, **(bad if number in places else good)) for number in range(30)], places)


def test_T13_what_a_trigger_refuses_is_set_aside_alone(table, store_of):
    table.refuse("a@bad.test")
    places = (3, 4, 11)
    rows = [row_of(number, envelope_from="a@bad.test" if number in places else "a@good.test") for number in range(20)]
    set_aside(table, store_of(table), rows, places)


@pytest.mark.parametrize("state", ["45000", "42000", "HY000", "99001"])
def test_T13_what_a_trigger_refuses_is_set_aside_alone_whatever_state_it_signals(server_table, store_of, state):
    server_table.sql("CREATE TRIGGER refusal BEFORE INSERT ON mail_relay_log FOR EACH ROW IF NEW.helo = 'rude' "
                     "THEN SIGNAL SQLSTATE '%s' SET MESSAGE_TEXT = 'be polite'; END IF" % state)
    rows = [row_of(number, helo="rude" if number in (3, 4) else "h") for number in range(9)]
    set_aside(server_table, store_of(server_table), rows, (3, 4))


@pytest.mark.parametrize("change", ["helo TEXT CHECK (length(helo) < 6)", "helo TEXT NOT NULL DEFAULT '' CHECK (helo <> 'longer')"])
def test_T13_what_a_constraint_in_sqlite_refuses_is_set_aside_alone(table_on, store_of, change):
    table = table_on("sqlite")
    table.sql("DROP TABLE mail_relay_log")
    table.sql(tracker.sqlite_table().replace("helo TEXT", change))
    places = (0, 5, 9)
    set_aside(table, store_of(table), [row_of(number, helo="longer" if number in places else "short") for number in range(10)], places)


@pytest.mark.parametrize("places", [(0,), (1,), (249,), (250,), (499,), (0, 499), (100, 101, 400)], ids=str)
def test_T13_a_bad_row_among_500_costs_no_more_statements_than_halving(table_on, store_of, places):
    table = table_on("strict")
    table.refuse("a@bad.test")
    store, kept, before = store_of(table), Kept(), table.inserts()
    rows = [row_of(number, envelope_from="a@bad.test" if number in places else "") for number in range(500)]
    tracker.write_rows(store, rows, kept.add)
    assert kept.ids() == ["3854F17%04X" % place for place in places] and len(table.dump()) == 500 - len(places)
    assert table.inserts() - before <= 1 + 2 * math.ceil(math.log2(500)) * len(places)


def test_T13_nothing_but_bad_rows(table, store_of):
    table.refuse("a@bad.test")
    store = store_of(table)
    set_aside(table, store, [row_of(number, envelope_from="a@bad.test") for number in range(70)], range(70))
    tracker.write_rows(store, [row_of(70)], Kept().add)
    assert list(table.dump()) == ["3854F170046"]


# -- packets

BIG = """\
Nov 20 10:00:00 mx postfix/smtp[1]: 3854F17ABCD: to=<big@b.test>, relay=none, delay=1, delays=1/0/0/0, dsn=5.0.0, status=bounced (%s)
Nov 20 10:00:00 mx postfix/qmgr[2]: 3854F17ABCD: removed
"""


@pytest.fixture(params=[1 << 16, 1 << 20], ids=["64 KiB", "1 MiB"])
def packet(request, lenient):
    """The largest statement that the server takes, for a while."""
    before = lenient.client("SELECT @@GLOBAL.max_allowed_packet").split()[-1]
    lenient.client("SET GLOBAL max_allowed_packet = %d" % request.param)
    yield request.param
    lenient.client("SET GLOBAL max_allowed_packet = %s" % before)


def test_T13_many_rows_are_split_by_the_packet_that_the_server_takes(packet, table_on, store_of):
    table, kept = table_on("lenient"), Kept()
    tracker.write_rows(store_of(table), [filled(number, lambda limit: b"x" * min(limit, 300)) for number in range(200)], kept.add)
    assert not kept and len(table.dump()) == 200


def test_T13_a_row_larger_than_the_packet_is_set_aside_and_blocks_nothing(packet, table_on, bad):
    """The widest line makes a statement of 128 KB: too much for one of the servers."""
    table = table_on("lenient")
    daemon = bad(table)
    daemon.start()
    daemon.write(message(1) + [BIG % (SMILE * 15900)] + message(2))
    wanted = 2 if packet < 128000 else 3
    daemon.wait(lambda: len(table.dump()) == wanted and daemon.saved_all())
    assert daemon.stop() == 0
    texts = [row["relay_message"] for row in table.dump().values()] + [line["row"]["relay_message"] for line in daemon.refused()]
    assert sorted(texts)[-1] == SMILE * 15900 and len(texts) == 3 and len(daemon.refused()) == 3 - wanted


# -- the daemon and its reject file

class Bad(Heard):
    """A daemon on a table that refuses rows of some senders."""

    def __init__(self, command, table):
        super().__init__(command, **table.settings)
        self.rejects = self.folder / "state.json.rejected.jsonl"
        self.table = table

    def refused(self):
        """The lines of the reject file, each a JSON object."""
        return [json.loads(line) for line in self.rejects.read_text(encoding="utf-8").splitlines()] if self.rejects.exists() else []

    def senders(self):
        """Of the refused rows."""
        return [line["row"]["envelope_from"] for line in self.refused()]

    def stored(self):
        """The senders in the table, sorted."""
        return sorted(row["envelope_from"] for row in self.table.dump().values())

    def saved_all(self):
        """Whether the saved position is the end of the log."""
        return json.loads((self.folder / "state.json").read_text())["position"] == self.log.stat().st_size


@pytest.fixture
def bad(command):
    """A function that makes a daemon on a table; stopped in the end."""
    with contextlib.ExitStack() as made:
        def make(table):
            daemon = Bad(command, table)
            made.callback(daemon.stop, signal.SIGKILL)
            return daemon
        yield make


def sender(number):
    """Of test_follow's message."""
    return "a%d@good.test" % number


def test_T13_the_daemon_sets_bad_rows_aside_and_goes_on(engine_table, bad):
    engine_table.refuse(sender(3), sender(7), sender(12))
    daemon = bad(engine_table)
    daemon.start()
    daemon.write(sum(map(message, range(1, 13)), []))
    good = sorted(map(sender, set(range(1, 13)) - {3, 7, 12}))
    daemon.wait(lambda: daemon.stored() == good and daemon.saved_all())
    daemon.daemon.send_signal(signal.SIGUSR1)
    daemon.wait(lambda: daemon.hears("rows written"))
    assert daemon.stop() == 0
    assert daemon.said.count("refuses a row of") == 3 and "trying again" not in daemon.said, daemon.said
    assert "9 rows written, 3 refused" in daemon.said, daemon.said
    assert daemon.senders() == [sender(3), sender(7), sender(12)]
    daemon.start()
    daemon.write(message(13))
    daemon.wait(lambda: len(daemon.stored()) == 10 and daemon.saved_all())
    assert daemon.stop() == 0 and len(daemon.refused()) == 3


def test_T13_a_refused_row_is_kept_as_it_was_with_its_reason_for_its_owner_alone(engine_table, bad):
    """As raw as it would have been written, and in the table's order."""
    engine_table.refuse("''); \u00e4\ufffd@bad.test")
    daemon = bad(engine_table)
    with open(str(daemon.log), "ab") as log:
        log.write(b"Nov 20 10:00:00 mx postfix/smtpd[1]: 3854F170001: client=c.test[192.0.2.1]\n"
                  b"Nov 20 10:00:01 mx postfix/qmgr[2]: 3854F170001: from=<'); \xc3\xa4\xff@bad.test>, size=7, nrcpt=1 (queue active)\n"
                  b"Nov 20 10:00:02 mx postfix/smtp[3]: 3854F170001: to=<" + SMILE_BYTES + b"@b.test>, relay=r[192.0.2.2]:25, delay=1.5, "
                  b"delays=1/0.5/0/0, dsn=2.0.0, status=sent (250 ok)\nNov 20 10:00:03 mx postfix/qmgr[2]: 3854F170001: removed\n")
    daemon.start()
    daemon.wait(daemon.refused)
    assert daemon.stop() == 0
    line, = daemon.refused()
    row = line["row"]
    assert "not this one" in line["reason"] and list(row) == NAMES
    assert (row["envelope_from"], row["upstream_to"], row["size"], row["delay"], row["relay_status"], row["client_ip"]) == (
        "'); \u00e4\ufffd@bad.test", SMILE + "@b.test", 7, 1.5, "sent", "192.0.2.1")
    assert row["first_seen"].endswith("-11-20 10:00:00.000000")
    assert stat.S_IMODE(daemon.rejects.stat().st_mode) & 0o077 == 0


OBSTACLES = {"a link": lambda path: path.symlink_to("/dev/full"), "a directory": lambda path: path.mkdir()}


@pytest.mark.parametrize("obstacle, ending", [
    ("a link", None), ("a directory", None), ("a link", signal.SIGKILL), ("a link", signal.SIGTERM)],
    ids=["a link", "a directory", "a link, killed", "a link, stopped"])
def test_T13_while_the_reject_file_cannot_be_written_nothing_is_dropped(table_on, bad, obstacle, ending):
    table = table_on("sqlite")
    table.refuse(sender(2), sender(4))
    daemon = bad(table)
    OBSTACLES[obstacle](daemon.rejects)
    daemon.start()
    daemon.write(sum(map(message, range(1, 6)), []))
    daemon.wait(lambda: daemon.hears("trying again"))
    time.sleep(1)
    assert daemon.daemon.poll() is None and not daemon.saved_all()
    if ending:
        daemon.stop(ending)
        assert not daemon.saved_all()
    daemon.rejects.rmdir() if daemon.rejects.is_dir() else daemon.rejects.unlink()
    if ending:
        daemon.start()
    daemon.wait(lambda: daemon.stored() == [sender(1), sender(3), sender(5)] and daemon.saved_all())
    assert daemon.stop() == 0
    assert daemon.senders() == [sender(2), sender(4)]
    assert daemon.said.count("trying again") == 1 and str(daemon.rejects) in daemon.said, daemon.said
    assert daemon.said.count("kept in") == 2, daemon.said


def test_T13_a_reject_file_that_was_cut_by_a_full_disk_stays_readable(table_on, bad):
    """A hundred bytes more are all that its process may write to it, for a while."""
    table = table_on("strict")
    table.refuse(sender(2), sender(3))
    daemon = bad(table)
    line = json.dumps({"reason": "long ago", "row": {"envelope_from": "a0@good.test", "helo": "x" * 4000}}) + "\n"
    daemon.rejects.write_text(line)
    daemon.start()
    limits = resource.prlimit(daemon.daemon.pid, resource.RLIMIT_FSIZE, (len(line) + 100, resource.RLIM_INFINITY))
    daemon.write(sum(map(message, range(1, 5)), []))
    daemon.wait(lambda: daemon.hears("trying again"))
    assert daemon.daemon.poll() is None and not daemon.saved_all()
    resource.prlimit(daemon.daemon.pid, resource.RLIMIT_FSIZE, limits)
    daemon.wait(lambda: daemon.stored() == [sender(1), sender(4)] and daemon.saved_all())
    assert daemon.stop() == 0
    assert daemon.senders() == ["a0@good.test", sender(2), sender(3)]


def test_T13_a_connection_lost_while_rows_are_set_aside_doubles_none(table_on, store_of, tmp_path):
    """The statements are said again; what is kept already is not kept again."""
    table = table_on("strict")
    refused = [sender(number) for number in (2, 5, 6, 11)]
    table.refuse(*refused)

    class Interrupting(tracker.RejectFile):
        """Takes a row, and then the connection goes."""

        def add(self, row, reason):
            super().add(row, reason)
            if row.envelope_from in (refused[0], refused[2]) and row not in seen:
                seen.append(row)
                table.server.kill("mailtracker")

    seen, rejects = [], Interrupting(str(tmp_path / "rejected.jsonl"))
    reader = tracker.Tracker(tracker.Calendar(int(time.time()) * tracker.SECOND), tracker.Correlator(30 * tracker.SECOND), print, print)
    recorder = tracker.Recorder(store_of(table), reader, rejects, tracker.pause, 5)
    recorder.begin()
    reader.feed([line.rstrip("\n") for line in sum(map(message, range(1, 13)), [])], 0, 0)
    recorder.flush()
    assert len(seen) == 2
    assert {row["envelope_from"] for row in table.dump().values()} == {sender(number) for number in range(1, 13)} - set(refused)
    kept = [json.loads(line)["row"]["envelope_from"] for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert sorted(kept) == sorted(refused)


def test_T13_a_row_that_is_refused_again_is_kept_once(tmp_path, monkeypatch):
    """By the same tracker, as when a log is read anew, or by the next one; but in each file, should somebody take one away."""
    path, first, second = tmp_path / "rejected.jsonl", row_of(1), row_of(2)
    monkeypatch.setattr(tracker.RejectFile, "KNOWN", 2)
    for _ in range(2):
        rejects = tracker.RejectFile(str(path))
        for row in (first, second, first, second):
            rejects.add(row, "no")
        assert rejects.count == 4
    assert [json.loads(line)["row"]["queue_id"] for line in path.read_text().splitlines()] == [first.queue_id, second.queue_id]
    for number in range(3, 9):
        rejects.add(row_of(number), "no")
    assert len(rejects.kept) == 2
    path.write_text('{"reason": "the power fai')
    rejects.add(row_of(9), "no")
    assert len(path.read_text().splitlines()) == 2
    path.unlink()
    rejects.add(row_of(9), "no")
    assert len(path.read_text().splitlines()) == 1


def test_T13_of_a_refused_row_for_which_there_is_no_room_nothing_is_left(tmp_path, monkeypatch):
    path, write = tmp_path / "rejected.jsonl", os.write
    rejects = tracker.RejectFile(str(path))
    rejects.add(row_of(1), "no")
    kept = path.read_bytes()
    monkeypatch.setattr(tracker.os, "write", lambda file, data: write(file, data[:100]))
    with pytest.raises(tracker.OutputError, match="No space left on device: make room .*; the row waits until then"):
        rejects.add(row_of(2), "no")
    assert path.read_bytes() == kept and rejects.count == 1 and stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.undo()
    rejects.add(row_of(2), "no")
    assert len(path.read_bytes().splitlines()) == rejects.count == 2


def test_T13_only_the_first_refused_rows_are_shown_which_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracker, "SAMPLES", 2)
    rejects = tracker.RejectFile(str(tmp_path / "rejected.jsonl"))
    for number in range(1, 5):
        rejects.add(row_of(number), "no")
    assert [said.partition(":")[0] for said in caplog.messages] == [
        "the database refuses a row of %s" % row_of(1).queue_id, "the database refuses a row of %s" % row_of(2).queue_id,
        "further ones are kept there, and counted, but not shown"]
    assert rejects.count == len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 4


def test_T13_an_import_that_cannot_keep_a_refused_row_tells_where_it_could(command, monkeypatch):
    """The file is in the current directory, whatever the configuration says."""
    sqlite = tracker.SqliteStore(str(command.folder / "mail_relay_tracker.db"))
    sqlite.connect()
    sqlite.connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON mail_relay_log BEGIN SELECT RAISE(ABORT, 'not this one'); END")
    sqlite.close()
    (command.folder / "mail_relay_tracker.rejected.jsonl").mkdir()
    (command.folder / "mail.log").write_text("".join(message(1)))
    monkeypatch.chdir(command.folder)
    monkeypatch.setattr(tracker, "pause", lambda seconds: True)
    words = "reject file ./mail_relay_tracker.rejected.jsonl: Is a directory: move it away, or start in another directory; the row waits"
    with pytest.raises(tracker.OutputError, match=words):
        tracker.run_import(tracker.load_config(None), ["mail.log"], False)


def test_T13_reading_again_refuses_again_and_changes_nothing_else(engine_table, bad):
    """Without a state all is read again: the table stays as it is, the refused rows are the same."""
    engine_table.refuse(sender(2))
    daemon = bad(engine_table)
    daemon.write(sum(map(message, range(1, 4)), []))
    tables = []
    for _ in range(2):
        daemon.start()
        daemon.wait(lambda: daemon.stored() == [sender(1), sender(3)] and daemon.saved_all())
        assert daemon.stop() == 0
        (daemon.folder / "state.json").unlink()
        tables.append(engine_table.dump())
    assert tables[0] == tables[1]
    assert daemon.senders() == [sender(2)]


@pytest.mark.parametrize("arguments", [["--import", "mail.log"], ["--once"]], ids=["import", "once"])
def test_T13_a_one_shot_command_tells_how_many_rows_were_refused_and_where_they_are(engine_table, bad, arguments):
    """Each is told of, up to a limit, and kept once, however often the log is read."""
    every = range(1, tracker.SAMPLES + 21)
    engine_table.refuse(*map(sender, every))
    daemon = bad(engine_table)
    daemon.write(sum(map(message, every), []) + message(0))
    path = daemon.command.configure(**daemon.settings)
    rejects = daemon.folder / "mail_relay_tracker.rejected.jsonl" if "--import" in arguments else daemon.rejects
    for anew in ("nor today", "nor at all"):
        done = daemon.command.run("-c", path, *arguments)
        assert done.returncode == 0
        assert re.search(r"^refused +%d by the database, kept in .*%s$" % (len(every), re.escape(rejects.name)), done.stdout, re.M)
        assert done.stderr.count("refuses a row of") == tracker.SAMPLES and done.stderr.count("but not shown") == 1
        kept = rejects.read_text().splitlines()
        assert len(kept) == len(every) and "not this one" in kept[-1]
        engine_table.sql("DROP TRIGGER refusal")
        engine_table.refuse(*map(sender, every), message=anew)
        (daemon.folder / "state.json").exists() and (daemon.folder / "state.json").unlink()
    assert daemon.stored() == [sender(0)]


# -- names and times that a log may hold

def deferred_and_sent(host):
    """A message that is delivered long after it has left memory."""
    said = ("postfix/smtpd[1]: 3854F170001: client=c.test[192.0.2.1]",
            "postfix/qmgr[2]: 3854F170001: from=<a@b.test>, size=7, nrcpt=1 (queue active)",
            "postfix/smtp[3]: 3854F170001: to=<c@d.test>, relay=none, delay=1, delays=1/0/0/0, dsn=4.4.1, status=deferred (timed out)",
            "postfix/qmgr[2]: 3854F17000A: removed",
            "postfix/smtp[3]: 3854F170001: to=<c@d.test>, relay=r[192.0.2.2]:25, delay=9, delays=9/0/0/0, dsn=2.0.0, status=sent (250 ok)")
    return ["Nov 20 1%d:00:00 %s %s" % (hour, host, line) for hour, line in enumerate(said)]


HOSTS = {
    "plain": ("mx", ""), "UTF-8": ("mx-\xc3\xbc", ""), "no UTF-8": ("mx-\xff", ""), "long": ("h" * 300, ""),
    "long, wide": ("\xf0\x9f\x98\x80" * 300, ""), "SQL": ("mx');--", ""), "set": ("mx", "mx-\u00fc"),
    "set, Cyrillic": ("mx", "\u043c\u0445 1"), "set, long": ("mx", "h" * 300),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_message_finds_its_row_again_whatever_its_host_is_called(engine_table, store_of, name):
    host, configured = HOSTS[name]
    lines = deferred_and_sent(host)
    lives, store = replay.Replay(lines, server_hostname=configured), store_of(engine_table)
    assert lives.run(store, 0, 4) >= 3
    assert [row["relay_status"] for row in engine_table.dump().values()] == ["deferred"]
    lives.run(store, 4, len(lines))
    assert [row["relay_status"] for row in engine_table.dump().values()] == ["sent"]


STAMPS = [
    "0001-01-01T00:00:00.000000+14:00", "0001-01-01T00:00:00.000000Z", "1000-01-01T00:00:00Z", "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00.000000+00:00", "1970-01-01T00:00:01+00:00", "2038-01-18T23:59:59.999999Z", "2038-01-19T03:14:08Z",
    "2106-02-07T06:28:16.000000+00:00", "9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.000000-14:00", "0000-00-00T00:00:00Z",
    "2026-02-30T00:00:00Z", "000000000.000000", "9999999999.999999", "2147483648.000000",
]
STAMPED = "%s mx postfix/smtp[1]: 3854F17%04X: to=<a@b.test>, relay=none, delay=1, delays=1/0/0/0, dsn=5.0.0, status=bounced (no)\n"


def test_T11_stamps_that_no_column_can_hold_stop_nothing(table_on, command):
    """Those that a TIMESTAMP can hold make rows, the same on both engines, the messages beside them are as ever; read again, too."""
    log, tables = command.folder / "stamps.log", {}
    stamps = [stamp for stamp in STAMPS for _ in range(2)] + ["Nov 20 10:00:00"]
    log.write_text("".join(STAMPED % (stamp, number) for number, stamp in enumerate(stamps)) + "".join(message(1)))
    for kind in ("sqlite", "strict"):
        table = table_on(kind)
        path = command.configure(state__state_file=command.folder / (kind + ".json"), logging__log_file=log, **table.settings)
        for _ in range(2):
            done = command.run("-c", path, "--once")
            assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
            assert tables.setdefault(kind, table.dump()) == table.dump()
        assert tables[kind]["4Zz01m1QbBz5Rk"]["relay_status"] == "sent"
    sure = ("1970-01-01T00:00:01+00:00", "2038-01-18T23:59:59.999999Z", "Nov 20 10:00:00")
    assert {"3854F17%04X" % number for number, stamp in enumerate(stamps) if stamp in sure} < set(tables["strict"])
    assert tables["strict"] == tables["sqlite"]
