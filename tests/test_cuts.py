"""Cut anywhere: the same lines end in the same table wherever the reading was cut and taken up again, killed, or repeated, and in
whatever order concurrent writers left their lines.

Most of it runs the tracker's lives within the test (class Replay). The live runs feed a log line by line to the real daemon, which is
killed at random moments, rotated, and at once started again.

    KILL_SEEDS=7:9 KILLS=500 pytest tests/test_cuts.py -k kill      other live runs, of more kills
    CUT_SEEDS=7:9 pytest tests/test_cuts.py                         other random lives, stretches and disorder
"""
import concurrent.futures
import datetime
import gzip
import itertools
import json
import os
import random
import re
import signal
import time

import mariadb as mariadb_server
import pytest
from conftest import ROOT, Command
from test_follow import Live, stamp

import mail_relay_tracker as tracker
from tests.unit.replay import Replay, read_story, traditional

STRETCH = 3000                      # of the corpus, its first lines
KILLS = int(os.environ.get("KILLS", "110"))
ENDS = ("finished", "stopped", "killed", "unsaved")


def seeds(variable, usual):
    """The seeds that an environment variable names, `first:end`, else the usual ones."""
    first, _, end = os.environ.get(variable, usual).partition(":")
    return range(int(first), int(end or int(first) + 1))


CUT_SEEDS = seeds("CUT_SEEDS", "1:9")


# What is read

def moment(line):
    """The time stamp of a line."""
    return datetime.datetime.fromisoformat(line[:26])


def moved(line, seconds):
    """A line, said so much later."""
    return (moment(line) + datetime.timedelta(seconds=seconds)).isoformat("T", "microseconds") + line[26:]


def paused(lines, pause, every=41):
    """The same log on a server where after every few lines nothing happens for `pause` seconds.

    More than the queue timeout: what is open then is written as it is, leaves memory, and comes back through its rows. Not so to
    spamd, which calls a message by its Message-ID alone: its lines are left out.
    """
    lines = [line for line in lines if " spamd[" not in line]
    return [moved(line, number // every * pause) for number, line in enumerate(lines)]


NAMES = re.compile(r"\b(?:[0-9A-F]{10,12}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{12,20})\b")
BIRTH = re.compile(r"client=|message-id=|uid=")


def owner(line):
    """The queue ID that a line is about, and what it says of it; None without one."""
    name, _, rest = line[33:].partition(": ")[2].partition(": ")
    return (name, rest) if NAMES.fullmatch(name) else (None, rest)


def stretch(lines, start, count):
    """Some lines of a log, without those of messages that were born before it: what little such a line tells makes no row alone."""
    known, kept = set(), []
    for line in lines[start:start + count]:
        name, rest = owner(line)
        known |= {name} if name and BIRTH.match(rest) else set()
        kept += [line] if name is None or name in known else []
    return kept


@pytest.fixture(scope="module")
def recorded(corpus):
    """The corpus by form, as lines."""
    return {form: (corpus / ("mail-%s.log" % form)).read_bytes().decode("latin-1").splitlines()
            for form in ("rfc3339", "traditional", "repeated")}


@pytest.fixture(scope="module")
def logs(recorded):
    """The logs that are cut, by name: the corpus's beginning as it was recorded and with pauses, in both forms of stamps."""
    lines = recorded["rfc3339"][:STRETCH]
    slow = paused(recorded["rfc3339"], 45)[:STRETCH]
    return {"rfc3339": lines, "traditional": recorded["traditional"][:STRETCH], "repeated": recorded["repeated"][3900:4150],
            "paused": slow, "paused traditional": traditional(slow)}


def every_story():
    """(name, lines, settings) of every story."""
    for path in sorted((ROOT / "tests" / "stories").glob("*/expected.json")):
        yield (path.parent.name, *read_story(path))


STORIES = list(every_story())
of_each_story = pytest.mark.parametrize("name, lines, settings", STORIES, ids=[name for name, _, _ in STORIES])


# Where it goes

class ServerTable(tracker.MysqlStore):
    """A table on the server, as Replay wants one."""

    def all_rows(self):
        return map(tracker.row_from, self._query("SELECT %s FROM mail_relay_log" % ", ".join(tracker.ROW_COLUMNS)))

    def empty(self):
        """The same, with nothing in it."""
        self.connect()
        self._execute("DELETE FROM mail_relay_log")
        return self


@pytest.fixture(scope="module")
def server_table(mariadb):
    """Makes the empty table on the server."""
    mariadb.load_schema("cuts")
    return ServerTable([("localhost", 0)], {
        "unix_socket": mariadb.socket, "user": "root", "database": "cuts", "autocommit": True, "use_pure": True, "charset": "utf8mb4",
        "collation": "utf8mb4_general_ci", "connection_timeout": 10}).empty


@pytest.fixture
def table(request, engine):
    """Makes an empty table of the engine that the test asks for."""
    return request.getfixturevalue("server_table") if engine == "mysql" else Replay.table


def replay_into(make_table, lines, **settings):
    """Log lines to be read into tables of this kind."""
    replay = Replay(lines, **settings)
    replay.table = make_table
    return replay


# How tables are compared

def differences(found, wanted):
    """Where two tables differ: a few of the places, for a reader."""
    tables = [{tuple(getattr(row, name) for name in tracker.KEY): row for row in rows} for rows in (found, wanted)]
    said = []
    for key in sorted(set(tables[0]) | set(tables[1])):
        one, other = (rows.get(key) for rows in tables)
        if one is None or other is None:
            said.append("%s %s: %s" % (key[1], tracker.time_text(key[2]), "one too many" if other is None else "missing"))
        elif one != other:
            said.append("%s: %s" % (key[1], ", ".join("%s %r, not %r" % (name, mine, due) for name, mine, due
                                                       in zip(tracker.ROW_COLUMNS, one, other) if mine != due)))
    if not said and len(found) != len(wanted):
        said.append("%d rows, not %d" % (len(found), len(wanted)))
    return said[:10]


def order_free(rows):
    """Rows without what the order of independent lines decides: recipient numbers, digits of NOQUEUE IDs; and numbered anew."""
    bare = sorted((row._replace(recipient_no=0, queue_id=re.sub("NOQUEUE-.*", "NOQUEUE", row.queue_id)) for row in rows), key=repr)
    return [row._replace(recipient_no=number) for number, row in enumerate(bare)]


def dump(store):
    """Everything in a table, number of the row included."""
    return store._query("SELECT * FROM mail_relay_log ORDER BY id")


# T14: cut at every line

@pytest.mark.parametrize("log, queue_timeout, engine", [
    ("rfc3339", 1, "sqlite"), ("repeated", 0.05, "sqlite"), ("paused", 30, "sqlite"), ("paused", 0.05, "sqlite"),
    ("paused traditional", 1, "mysql")])
def test_T14_the_corpus_restarted_before_every_line_ends_in_the_same_table(logs, table, log, queue_timeout):
    lines = logs[log]
    found = replay_into(table, lines, queue_timeout=queue_timeout).cut(*range(1, len(lines)))
    assert not differences(found, Replay(lines, queue_timeout).whole())


class RawReplay(Replay):
    """Replay that hands out a table as it is stored, which is faster to compare."""

    @staticmethod
    def rows(store):
        columns = ", ".join(tracker.ROW_COLUMNS)
        found = store._query("SELECT %s FROM mail_relay_log ORDER BY first_seen, queue_id, recipient_no" % columns)
        store.close()
        return found


def wrong_cuts(lines, queue_timeout, places, how):
    """The places where one cut makes another table."""
    replay = RawReplay(lines, queue_timeout)
    rows = replay.whole()
    return [place for place in places if replay.cut(place, **how) != rows]


def windows(count, size=600, step=300):
    """(start, places) of overlapping windows: each line is a place of the window in whose middle half it is, or of the first or last."""
    for start in range(0, count - size + 1, step):
        first = start + (size - step) // 2 if start else 1
        last = start + (size + step) // 2 if start + size < count else count
        for place in range(first, last, 125):
            yield start, range(place - start, min(place + 125, last) - start)


@pytest.mark.parametrize("log, queue_timeout, how", [("rfc3339", 30, {}), ("paused traditional", 1, {"rhythm": 25, "end": "unsaved"})])
def test_T14_the_corpus_cut_once_at_each_line_ends_in_the_same_table(logs, log, queue_timeout, how):
    lines, size = logs[log], 600
    tasks = list(windows(len(lines), size))
    assert sorted(start + place for start, places in tasks for place in places) == list(range(1, STRETCH))
    with concurrent.futures.ProcessPoolExecutor() as pool:
        running = [pool.submit(wrong_cuts, lines[start:start + size], queue_timeout, places, how) for start, places in tasks]
    wrong = [(start, place) for (start, _), done in zip(tasks, running) for place in done.result()]
    for start, place in wrong[:1]:
        replay = Replay(lines[start:start + size], queue_timeout)
        assert not differences(replay.cut(place, **how), replay.whole()), "lines from %d, cut before line %d: %d such" % (
            start + 1, start + place + 1, len(wrong))


def test_T14_on_the_server_the_corpus_cut_once_ends_in_the_same_table(logs, server_table):
    for start, place in ((start, place) for start, places in windows(STRETCH) for place in places[::40]):
        lines = logs["paused"][start:start + 600]
        found = replay_into(server_table, lines).cut(place, rhythm=25, end="unsaved")
        assert not differences(found, Replay(lines).whole()), "cut before line %d" % (start + place + 1)


def cut_in_every_way(replay):
    """The rows, which are the same however the lines are read, and after a life that wrote after every line and ended anywhere, anyhow."""
    rows = replay.however_read()
    for place, end in itertools.product(range(1, len(replay.lines) + 1), ENDS):
        assert not differences(replay.cut(place, rhythm=1, end=end), rows), "%s before line %d" % (end, place + 1)
    return rows


@pytest.mark.parametrize("form", ["rfc3339", "traditional"])
@of_each_story
def test_T1_a_story_is_the_same_wherever_and_however_a_life_ends(name, lines, settings, form):
    cut_in_every_way(Replay(traditional(lines) if form == "traditional" else lines, **settings))


@of_each_story
def test_T2_a_story_that_is_imported_and_written_at_its_end_only_is_the_same(name, lines, settings):
    replay = Replay(lines, **settings)
    store = replay.table()
    replay.run(store, 0, len(lines), end="imported")
    assert not differences(replay.rows(store), replay.whole())


@of_each_story
def test_T2_a_story_that_is_read_again_and_written_after_every_line_is_the_same(name, lines, settings):
    replay = Replay(lines, **settings)
    assert not differences(replay.twice(rhythm=1), replay.whole())


# By story: the lines before which an import ends too soon. It writes what is known by then, and that stays: no row is ever deleted, and
# what a row tells by the word of one line is not taken back at that of another.
HALF_TOLD = {
    "a_probe_from_nobody_is_answered_late": {3, 4, 5},
    "before_queue_filter_leaves_before_it_refuses": {5, 6, 7, 13, 14},
    "before_queue_filter_refuses_what_it_had_begun_to_hand_in": {6, 7, 13},
    "before_queue_filter_refuses_while_another_mail_comes_in": {16},
    "dkimpy_milter_verifies_and_signs": {13},
    "domain_filter_a_mail_is_refused_after_one_of_its_recipients": {9},
    "filter_gives_up_a_mail_that_it_began_to_hand_back": {8, 9, 14, 15, 16},
    "hold_of_a_refused_recipient_and_a_client_that_left": {5},
    "hold_of_a_refused_transaction_does_not_stick": {6, 7},
    "late_result_of_a_refusal_is_not_shown_by_a_mail_of_another_sender": {5, 6},
    "opendkim_that_is_silent_about_success": {13},
    "pickup_tries_again_what_cleanup_cannot_take": {2},
    "pickup_tries_again_what_is_put_off": {2, 3, 5, 7, 8, 11, 12},
    "pickup_tries_again_where_a_milter_refuses_a_recipient": {2, 6},
    "policy_result_of_a_message_whose_sender_comes_last": {21, 22, 23},
    "policy_server_tells_after_its_own_refusal": {6},
    "refused_to_all_under_an_id_that_came_before_any_recipient": {5, 6, 7, 8, 9, 10, 13},
    "requeued_when_all_had_got_it": {11, 12},
    "scanned_behind_the_queue_at_the_same_time_with_one_message_id": {11},
    "scanned_by_a_milter_at_the_same_time_with_one_message_id": {9},
    "sendmail_bs_lays_mail_into_the_maildrop": set(range(3, 15)),
    "sendmail_bs_on_a_server_that_logs_ports": {3, 4, 5},
    "spf_with_the_queue_id": {7},
}


@of_each_story
def test_T2_a_log_that_is_imported_again_when_it_has_grown_makes_the_rows_of_the_whole(name, lines, settings):
    replay = Replay(lines, **settings)
    wanted = replay.whole()
    for place, rhythm in itertools.product(range(1, len(lines)), (1, None)):
        if place + 1 not in HALF_TOLD.get(name, ()):
            store = replay.table()
            replay.run(store, 0, place, end="imported")
            replay.run(store, 0, len(lines), rhythm=rhythm)
            assert not differences(replay.rows(store), wanted), "imported up to line %d" % place


@of_each_story
def test_T14_on_the_server_too_a_story_restarted_before_every_line_is_the_same(server_table, name, lines, settings):
    rows, replay = Replay(lines, **settings).whole(), replay_into(server_table, lines, **settings)
    assert not differences(replay.cut(*range(1, len(lines)), rhythm=1), rows)
    assert not differences(replay.twice(), rows)


def written_late(make_table, lines, **settings):
    """(the rows, the rows after each was written once more as it was every time, the newest first) when rows are written after every line.

    So a server does with a statement that nobody waited for. An SPF result may prove to be another mail's, so it is not compared.
    """
    replay, store, versions = Replay(lines, **settings), make_table(), []
    write = store.write
    store.write = lambda rows: (versions.extend(rows), write(rows))
    replay.run(store, 0, len(lines), rhythm=1)
    rows = list(store.all_rows())
    for row in reversed(versions):
        write([row])
    late = list(store.all_rows())
    store.close()
    assert len(versions) >= len(rows)
    return [[row._replace(spf_result=None) for row in found] for found in (late, rows)]


@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
@of_each_story
def test_T2_what_a_story_wrote_once_and_writes_again_late_changes_nothing(table, name, lines, settings):
    assert not differences(*written_late(table, lines, **settings))


@pytest.mark.parametrize("engine, log", [
    ("sqlite", "rfc3339"), ("sqlite", "paused"), ("mysql", "rfc3339"), ("mysql", "paused traditional")])
def test_T2_what_the_corpus_wrote_once_and_writes_again_late_changes_nothing(logs, table, log):
    assert not differences(*written_late(table, logs[log], queue_timeout=1))


def lives(replay, rng, longest):
    """The rows after lives of random length, each with its own rhythm of writing and its own end, and a last one to the end."""
    store, first, last = replay.table(), 0, 0
    while last < len(replay.lines):
        last = min(last + rng.randint(1, longest), len(replay.lines))
        first = replay.run(store, first, last, rhythm=rng.choice((None, 4, 20, 100)), end=rng.choice(ENDS))
    replay.run(store, first, len(replay.lines))
    return replay.rows(store)


@pytest.mark.parametrize("engine, log, queue_timeout", [
    ("sqlite", "rfc3339", 30), ("sqlite", "paused", 30), ("sqlite", "paused traditional", 1), ("mysql", "paused", 1)])
def test_T1_the_corpus_read_in_lives_of_every_kind_ends_in_the_same_table(recorded, table, engine, log, queue_timeout):
    whole = recorded["rfc3339"] if log == "rfc3339" else paused(recorded["rfc3339"], 45)
    for seed in CUT_SEEDS if engine == "sqlite" else CUT_SEEDS[:2]:
        rng = random.Random(seed)
        start = rng.randrange(len(whole) - 1200)
        lines = stretch(whole, start, 1200)
        lines = traditional(lines) if log.endswith("traditional") else lines
        found = lives(replay_into(table, lines, queue_timeout=queue_timeout), rng, 60)
        assert not differences(found, Replay(lines, queue_timeout).whole()), "seed %d, lines from %d" % (seed, start + 1)


@pytest.mark.parametrize("log", ["rfc3339", "traditional", "paused"])
@pytest.mark.parametrize("queue_timeout", [30, 1])
def test_T14_how_often_rows_are_written_does_not_change_them(recorded, log, queue_timeout):
    lines = paused(recorded["rfc3339"], 45) if log == "paused" else recorded[log]
    replay = Replay(lines, queue_timeout)
    rows = replay.whole()
    for rhythm in (1, 7, 400):
        assert not differences(replay.cut(len(lines), rhythm=rhythm), rows), "written after every %d lines" % rhythm


SCAN = """\
10:00:00.100000+00:00 mx postfix/smtpd[11]: 3A1B2172385: client=mail.good.test[192.0.2.10]
10:00:00.200000+00:00 mx postfix/cleanup[12]: 3A1B2172385: message-id=<a@good.test>
10:00:00.300000+00:00 mx postfix/qmgr[13]: 3A1B2172385: from=<a@good.test>, size=1, nrcpt=1 (queue active)
10:00:00.350000+00:00 mx postfix/smtpd[11]: disconnect from mail.good.test[192.0.2.10] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5
10:00:00.400000+00:00 mx spamd[137]: spamd: processing message <a@good.test> for x:115
10:00:35.000000+00:00 mx postfix/smtpd[21]: connect from a.test[192.0.2.11]
10:03:20.000000+00:00 mx spamd[137]: spamd: identified spam (6.3/5.0) for x:115 in 199.6 seconds, 1490 bytes.
10:03:20.000001+00:00 mx spamd[137]: spamd: result: Y 6 - LAB_SPAM7 scantime=199.6,size=837,user=x,uid=115,required_score=5.0,\
rhost=localhost,raddr=127.0.0.1,rport=47738,mid=<a@good.test>,autolearn=disabled
10:03:20.100000+00:00 mx postfix/pipe[14]: 3A1B2172385: to=<x@ok.test>, relay=spamfilter, delay=200, delays=1/0/0/199, dsn=2.0.0, \
status=sent (delivered via spamfilter service)
10:03:20.200000+00:00 mx postfix/qmgr[13]: 3A1B2172385: removed"""


def test_T14_a_scan_longer_than_the_queue_timeout_is_not_forgotten():
    replay = Replay(["2026-11-20T" + line for line in SCAN.splitlines()])
    rows = cut_in_every_way(replay)
    assert [(row.relay_status, row.spam_status, row.spam_score) for row in rows] == [("sent", "Yes", 6.3)]


SECOND_LEG = """\
00.1 smtpd[11]: 3A1B2172385: client=mail.good.test[192.0.2.10]
00.2 cleanup[12]: 3A1B2172385: message-id=<f@good.test>
00.3 qmgr[13]: 3A1B2172385: from=<a@good.test>, size=1, nrcpt=1 (queue active)
01.0 smtpd[17]: connect from localhost[127.0.0.1]
01.1 smtpd[17]: 3A1C3172386: client=localhost[127.0.0.1]%s
01.2 cleanup[12]: 3A1C3172386: message-id=<f@good.test>
01.3 qmgr[13]: 3A1C3172386: from=<a@good.test>, size=2, nrcpt=1 (queue active)
01.4 smtp[14]: 3A1B2172385: to=<dest@ok.test>, orig_to=<sales@good.test>, relay=127.0.0.1[127.0.0.1]:10024, delay=1.3, delays=0.3/0/0/1, \
dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 3A1C3172386)
01.5 qmgr[13]: 3A1B2172385: removed
01.6 smtpd[17]: disconnect from localhost[127.0.0.1] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5
40.0 anvil[9]: statistics: max cache size 1
45.0 smtp[15]: 3A1C3172386: to=<dest@ok.test>, relay=mx.ok.test[192.0.2.90]:25, delay=44, delays=0.3/0/43/0.7, dsn=2.0.0, \
status=sent (250 ok)
45.1 qmgr[13]: 3A1C3172386: removed"""


@pytest.mark.parametrize("origin", ["", ", orig_queue_id=3A1B2172385, orig_client=mail.good.test[192.0.2.10]"], ids=["plain", "XFORWARD"])
def test_T14_what_the_second_leg_inherits_does_not_depend_on_the_haste_of_the_next_hop(origin):
    replay = Replay(["2026-11-20T10:00:%s00000+00:00 mx postfix/%s" % tuple(line.split(" ", 1))
                     for line in (SECOND_LEG % origin).splitlines()])
    rows = cut_in_every_way(replay)
    assert [(row.relay_status, row.orig_to, row.client_ip) for row in rows] == [
        ("requeued", "sales@good.test", "192.0.2.10"), ("sent", "sales@good.test", "192.0.2.10")]


OVERLAPPING = """\
00:00.0 postfix/smtpd[2]: connect from mail.good.test[192.0.2.10]
00:00.0 postfix/smtpd[3]: connect from mail.good.test[192.0.2.10]
00:00.0 postfix/smtpd[4]: connect from mail.good.test[192.0.2.10]
00:00.1 policyd-spf[51]: Pass one@good.test
00:00.2 postfix/smtpd[2]: 3A1B2172385: client=mail.good.test[192.0.2.10]
00:00.3 policyd-spf[52]: None two@none.test
00:00.4 postfix/smtpd[3]: 3A1B2172386: client=mail.good.test[192.0.2.10]
00:00.5 policyd-spf[53]: Neutral three@neutral.test
00:00.6 postfix/smtpd[4]: 3A1B2172387: client=mail.good.test[192.0.2.10]
01:10.0 postfix/qmgr[9]: 3A1B2172386: from=<one@good.test>, size=1, nrcpt=1 (queue active)
01:10.1 postfix/smtp[8]: 3A1B2172386: to=<x@ok.test>, relay=none, delay=70, delays=70/0/0/0, dsn=2.0.0, status=sent (250 ok)
01:10.2 postfix/qmgr[9]: 3A1B2172386: removed
01:11.0 postfix/qmgr[9]: 3A1B2172385: from=<three@neutral.test>, size=1, nrcpt=1 (queue active)
01:11.1 postfix/smtp[8]: 3A1B2172385: to=<x@ok.test>, relay=none, delay=71, delays=71/0/0/0, dsn=2.0.0, status=sent (250 ok)
01:11.2 postfix/qmgr[9]: 3A1B2172385: removed
04:00.0 postfix/anvil[7]: statistics: max cache size 3
04:10.0 postfix/qmgr[9]: 3A1B2172387: from=<two@none.test>, size=1, nrcpt=1 (queue active)
04:10.1 postfix/smtp[8]: 3A1B2172387: to=<x@ok.test>, relay=none, delay=250, delays=250/0/0/0, dsn=2.0.0, status=sent (250 ok)
04:10.2 postfix/qmgr[9]: 3A1B2172387: removed"""


def test_T14_results_exchanged_by_overlapping_transactions_survive_while_one_is_under_way():
    lines = ["2026-11-20T10:%s00000+00:00 mx %s" % tuple(line.split(" ", 1)) for line in OVERLAPPING.splitlines()]
    replay = Replay(re.sub(r"(policyd-spf.* )(\w+) (\S+)$", r"\1: prepend Received-SPF: \2 (mailfrom) identity=mailfrom; "
                           r"client-ip=192.0.2.10; helo=h; envelope-from=\3; receiver=<UNKNOWN> ", line) for line in lines)
    rows = cut_in_every_way(replay)
    assert {row.original_envelope_from: row.spf_result for row in rows} == {
        "one@good.test": "Pass", "two@none.test": "None", "three@neutral.test": "Neutral"}


# T2: read again

@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
@pytest.mark.parametrize("log", ["rfc3339", "traditional", "repeated", "paused"])
def test_T2_reading_again_from_anywhere_changes_nothing(logs, table, log):
    replay = replay_into(table, logs[log])
    store = replay.table()
    replay.run(store, 0, len(replay.lines))
    before = dump(store)
    assert len(before) == len(Replay(replay.lines).whole()) > 9
    for seed in CUT_SEEDS:
        replay.run(store, random.Random(seed).randrange(len(replay.lines)) if seed > CUT_SEEDS[0] else 0, len(replay.lines),
                   rhythm=(None, 50)[seed % 2])
        assert dump(store) == before, "seed %d" % seed


def test_T2_a_short_queue_id_that_comes_back_within_the_second_is_read_again_from_anywhere():
    """Where reading begins between the two messages' births, the last lines of the first are its own, though the second is stored."""
    replay = Replay("""
        Nov 20 10:00:01 mx postfix/smtpd[11]: 4F00061AE: client=a.example[192.0.2.1]
        Nov 20 10:00:01 mx postfix/cleanup[12]: 4F00061AE: message-id=<a@a.example>
        Nov 20 10:00:01 mx postfix/qmgr[13]: 4F00061AE: from=<a@a.example>, size=10, nrcpt=2 (queue active)
        Nov 20 10:00:02 mx postfix/smtp[14]: 4F00061AE: to=<x@ok.example>, relay=none, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (ok)
        Nov 20 10:00:09 mx postfix/smtp[14]: 4F00061AE: to=<y@ok.example>, relay=none, delay=8, delays=8/0/0/0, dsn=2.0.0, status=sent (ok)
        Nov 20 10:00:09 mx postfix/qmgr[13]: 4F00061AE: removed
        Nov 20 10:00:09 mx postfix/smtpd[11]: 4F00061AE: client=b.example[192.0.2.2]
        Nov 20 10:00:09 mx postfix/cleanup[12]: 4F00061AE: message-id=<b@b.example>
        Nov 20 10:00:09 mx postfix/qmgr[13]: 4F00061AE: from=<b@b.example>, size=20, nrcpt=1 (queue active)
        Nov 20 10:00:10 mx postfix/smtp[14]: 4F00061AE: to=<z@ok.example>, relay=none, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (ok)
        Nov 20 10:00:10 mx postfix/qmgr[13]: 4F00061AE: removed
        """.replace("\n        ", "\n").strip("\n").split("\n"))
    rows = replay.however_read()
    assert [(row.envelope_from, row.upstream_to) for row in rows] == [
        ("a@a.example", "x@ok.example"), ("a@a.example", "y@ok.example"), ("b@b.example", "z@ok.example")]
    for place in range(len(replay.lines)):
        store = replay.table()
        replay.run(store, 0, len(replay.lines))
        replay.run(store, place, len(replay.lines))
        assert replay.rows(store) == rows, "again from line %d" % (place + 1)


# T16: disorder

INTAKE = re.compile(r"(?:smtpd|cleanup|pickup|(?:policyd?|smf)-spf|opendkim|opendmarc|spamp?d|postsrsd|pmg-smtp-filter)\b")
FILTER = re.compile(r"(?:amavis|spamp?d|pmg-smtp-filter|tlsproxy)\b")


class Writers:
    """Lines as concurrent processes wrote them, and which two of them could as well stand the other way round in the log.

    Not those of one process; not those of two that answer each other, as smtpd, cleanup, milters and policy servers do, and as filters
    behind the queue and the deliveries to them, and tlsproxy and the deliveries by it; not a birth and a line that names the newborn; not
    two about one message, but for deliveries to its recipients; not a classic syslogd's `last message repeated` and the line that it
    repeats.
    """

    def __init__(self, lines):
        self.lines = lines
        self.times = [moment(line) for line in lines]
        parts = [line[33:].partition(": ")[::2] for line in lines]
        self.process = [prefix for prefix, _ in parts]
        self.intake = [bool(INTAKE.search(prefix)) for prefix, _ in parts]
        self.named = [set(NAMES.findall(text)) for _, text in parts]
        owned = list(map(owner, lines))
        self.owner = [name for name, _ in owned]
        self.birth = [bool(name and BIRTH.match(rest)) for name, rest in owned]
        self.delivery = [", status=" in text and ": to=<" in text for _, text in parts]
        self.filter = [bool(FILTER.search(prefix)) for prefix, _ in parts]
        self.gone = [delivery or text.endswith(": removed") for delivery, (_, text) in zip(self.delivery, parts)]
        repeats = [" last message repeated " in line for line in lines]
        self.tied = [one or other for one, other in zip(repeats, repeats[1:] + [False])]

    def free(self, one, other):
        """Whether two lines are of writers that do not wait for each other."""
        if self.process[one] == self.process[other] or self.intake[one] and self.intake[other] or self.tied[one] or self.tied[other]:
            return False
        if self.filter[one] and self.gone[other] or self.filter[other] and self.gone[one]:
            return False
        if self.owner[one] is not None and self.owner[one] == self.owner[other]:
            return self.delivery[one] and self.delivery[other]
        return not (self.birth[one] and self.owner[one] in self.named[other] or self.birth[other] and self.owner[other] in self.named[one])

    def disordered(self, rng):
        """The lines in another order, none further than 5 seconds from where its stamp belongs."""
        places = list(range(len(self.lines)))
        for _ in range(20 * len(places)):
            at = rng.randrange(len(places) - 1)
            one, other = places[at:at + 2]
            if abs(self.times[one] - self.times[other]) < datetime.timedelta(seconds=5) and self.free(one, other):
                places[at:at + 2] = other, one
        return [self.lines[place] for place in places]


@of_each_story
def test_T16_a_story_is_the_same_in_whatever_order_its_processes_write(name, lines, settings):
    rows, writers = order_free(Replay(lines, **settings).whole()), Writers(lines)
    for seed in CUT_SEEDS:
        found = Replay(writers.disordered(random.Random(seed)), **settings).however_read(order_free)
        assert not differences(order_free(found), rows), "seed %d" % seed


@pytest.mark.parametrize("queue_timeout", [30, 1])
def test_T16_the_corpus_is_the_same_in_whatever_order_its_processes_write(recorded, queue_timeout):
    for seed in CUT_SEEDS:
        rng = random.Random(seed)
        start = rng.randrange(len(recorded["rfc3339"]) - 1500)
        lines = stretch(recorded["rfc3339"], start, 1500)
        rows = order_free(Replay(lines, queue_timeout).whole())
        other = Writers(lines).disordered(rng)
        assert sum(map(str.__ne__, lines, other)) > len(lines) // 4
        replay = Replay(other, queue_timeout)
        for found in (replay.whole(), lives(replay, rng, 60)):
            assert not differences(order_free(found), rows), "seed %d, lines from %d" % (seed, start + 1)


@pytest.mark.parametrize("late", [0, 5])
def test_T16_two_hosts_in_one_log_are_two_logs(recorded, late):
    """A central log server: the same queue IDs on both hosts, the lines of each in order, those of one up to 5 seconds late."""
    one = recorded["rfc3339"][:1500]
    two = [moved(line, 1.5).replace(" mx ", " mx2 ", 1) for line in one]
    rows = sorted(order_free(Replay(one).whole()) + order_free(Replay(two).whole()), key=repr)
    for seed in CUT_SEEDS[:3]:
        rng, delay = random.Random(seed), 0
        queue = [(moment(line), 0, number, line) for number, line in enumerate(one)]
        for number, line in enumerate(two):
            delay = rng.uniform(0, late) if number % 100 == 0 else delay
            queue.append((moment(line) + datetime.timedelta(seconds=delay), 1, number, line))
        arrived = sorted(queue[:len(one)]) + sorted(queue[len(one):], key=lambda entry: entry[2])
        merged = [line for _, _, _, line in merge_keeping_order(arrived, len(one))]
        found = [row for host in ("mx", "mx2")
                 for row in order_free(row for row in lives(Replay(merged), rng, 80) if row.server_hostname == host)]
        assert not differences(found, rows), "seed %d" % seed


def merge_keeping_order(entries, split):
    """Two queues as one, each in its own order, by their times of arrival."""
    queues = [entries[:split], entries[split:]]
    while any(queues):
        turn = min((queue for queue in queues if queue), key=lambda queue: queue[0][0])
        yield turn.pop(0)


DELIVERY = "postfix/smtp[14]: 3A1B2172385: to=<x@ok.test>, relay=%s, delay=9, delays=1/0/0/8, dsn=%s, status=%s (%s)"
MX = "mx.ok.test[192.0.2.90]"
LATE = {
    "intake": ["00.1 postfix/smtpd[11]: 3A1B2172385: client=mail.good.test[192.0.2.10]",
               "00.2 postfix/cleanup[12]: 3A1B2172385: message-id=<a@good.test>",
               "00.3 postfix/qmgr[13]: 3A1B2172385: from=<a@good.test>, size=1, nrcpt=1 (queue active)"],
    "sent": ["10.0 " + DELIVERY % (MX + ":25", "2.0.0", "sent", "250 ok")],
    "bounced": ["10.0 " + DELIVERY % (MX + ":25", "5.1.1", "bounced", "host %s said: 550 5.1.1 no" % MX)],
    "deferred": ["10.0 " + DELIVERY % (MX + ":25", "4.7.1", "deferred", "host %s said: 451 4.7.1 later" % MX)],
    "older deferred": ["05.0 " + DELIVERY % ("none", "4.4.1", "deferred", "connect to %s:25: Connection timed out" % MX)],
    "older bounced": ["05.0 " + DELIVERY % ("none", "5.4.4", "bounced", "Host not found")],
    "older hold": ["05.0 postfix/postsuper[16]: 3A1B2172385: placed on hold"],
    "older expired": ["05.0 postfix/qmgr[13]: 3A1B2172385: from=<a@good.test>, status=expired, returned to sender"],
    "removed": ["10.1 postfix/qmgr[13]: 3A1B2172385: removed"],
    "a minute": ["59.0 postfix/anvil[9]: statistics: max cache size 1"],
}


@pytest.mark.parametrize("story", [
    "sent, removed, older deferred", "sent, older deferred, removed", "sent, removed, a minute, older deferred",
    "sent, removed, older bounced", "sent, a minute, older hold", "sent, removed, older expired", "bounced, removed, older deferred",
    "bounced, older deferred, removed", "bounced, a minute, older expired", "deferred, older deferred",
    "deferred, a minute, older deferred"])
def test_T16_a_late_older_line_never_overwrites_a_newer_outcome(story):
    """In memory, when the row is written already, and after a restart: cut anywhere."""
    wanted = Replay(told_late("intake", story.partition(",")[0])).whole()
    replay = Replay(told_late("intake", *story.split(", ")))
    for rows in (replay.however_read(), *(replay.cut(len(replay.lines), rhythm=rhythm) for rhythm in (1, 2))):
        assert not differences(rows, wanted)


@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
def test_T16_an_import_of_an_older_log_beside_the_daemon_never_overwrites_a_newer_outcome(table, monkeypatch):
    """It asked for the newest row while the table was empty: what the daemon has written since, it does not know of."""
    replay = replay_into(table, told_late("intake", "older deferred", "sent", "removed"))
    store = replay.table()
    replay.run(store, 0, len(replay.lines))
    before = dump(store)
    monkeypatch.setattr(store, "newest", int)
    replay.run(store, 0, len(LATE["intake"] + LATE["older deferred"]))
    assert dump(store) == before


@pytest.mark.parametrize("story", ["amavis_re_injects_with_xforward", "amavis_re_injects_without_xforward"])
def test_T2_a_filtered_mail_of_which_the_newer_log_tells_the_rest_is_the_same_when_all_is_read(story):
    """Its row begins later then, and shows the client that it has inherited, not the filter; no second row comes beside it."""
    replay = Replay((ROOT / "tests" / "stories" / story / "input.log").read_text(encoding="utf-8").splitlines())
    wanted = outcomes(replay.whole())
    for place, rhythm in itertools.product(range(1, len(replay.lines)), (1, 5)):
        store = replay.table()
        replay.run(store, place, len(replay.lines), end="imported")
        replay.run(store, 0, len(replay.lines), rhythm=rhythm)
        assert outcomes(replay.rows(store)) == wanted, "the newer log begins at line %d" % (place + 1)


@pytest.mark.parametrize("story", ["message_id_that_spamd_sees_is_the_last", "amavis_gives_a_mail_on_to_some_only",
                                   "before_queue_filter_answers_when_the_message_is_long_delivered"])
@pytest.mark.parametrize("form", [list, traditional])
def test_T2_reading_again_from_any_line_of_a_mail_changes_none_of_its_rows(story, form):
    """From behind the first of its two Message-IDs, or the word of the filter that kept it from some, or what the client of that filter
    told of itself: another mail may begin there.
    """
    replay = Replay(form((ROOT / "tests" / "stories" / story / "input.log").read_text(encoding="utf-8").splitlines()))
    wanted = replay.whole()
    for place, rhythm in itertools.product(range(1, len(replay.lines)), (None, 1, 5)):
        store = replay.table()
        replay.run(store, 0, len(replay.lines))
        replay.run(store, place, len(replay.lines), rhythm=rhythm)
        assert not differences(replay.rows(store), wanted), "again from line %d" % (place + 1)


def outcomes(rows):
    """What became of every recipient, without where it began."""
    return sorted((row.queue_id, row.upstream_to or "", row.relay_status) for row in rows)


def told_late(*chapters):
    """The lines of some chapters of LATE."""
    lines = [line.split(" ", 1) for chapter in chapters for line in LATE[chapter]]
    return ["2026-11-20T10:00:%09.6f+00:00 mx %s" % (float(second), text) for second, text in lines]


# A classic syslogd's repetitions

@pytest.fixture
def live(command):
    found = Live(command, logging__cleanup_interval="0.1")
    yield found
    found.stop(signal.SIGKILL)


# Without HELO, which would be kept for the next mails of the session, and so the position.
REJECT = ("%s mx postfix/smtpd[11]: NOQUEUE: reject: RCPT from unknown[192.0.2.66]: 550 5.1.1 <x@ok.test>: no; "
          "from=<a@spam.test> to=<x@ok.test> proto=SMTP\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_T1_a_line_and_the_word_that_it_was_repeated_may_be_cut_apart(live, number):
    live.write([REJECT % stamp()])
    live.start()
    live.wait(lambda: json.loads((live.folder / "state.json").read_text())["position"] == live.log.stat().st_size)
    live.stop(number)
    live.write(["%s mx last message repeated 3 times\n" % stamp()])
    live.start()
    live.wait(lambda: live.count() == 4)
    live.stop()
    found = stored(Command.configure(live.command, **live.settings))
    assert not differences(found, imported(live.command, [live.log]))


def stored(path):
    """The rows of a configuration's database."""
    store = tracker.make_store(tracker.load_config(path))
    store.connect()
    if isinstance(store, tracker.SqliteStore):
        rows = list(store.all_rows())
    else:
        rows = list(ServerTable.all_rows(store))
    store.close()
    return rows


def imported(command, logs):
    """The rows of one undisturbed reading of some files."""
    path = command.configure("import.conf", database__engine="sqlite", database__database=command.folder / "import.db")
    done = command.run("-c", path, "--import", *logs)
    assert done.returncode == 0 and " 0 unsupported, 0 failed" in done.stdout, done.stderr + done.stdout
    return stored(path)


# T1: killed at random moments of a live run

class Fed(Live):
    """A daemon on a log that is fed line by line; killed, started again at once, its log rotated now and then."""

    def __init__(self, command, rng, **settings):
        super().__init__(command, **dict({
            "logging__cleanup_interval": "0.02", "logging__poll_interval": "0.01", "logging__queue_timeout": "30",
            "system__rotation_check_interval": "0.1"}, **settings))
        self.rng = rng
        self.path = command.configure(**self.settings)
        self.writer = open(str(self.log), "ab", buffering=0)
        self.startup = self.at_first = 0.3
        self.kills = self.stops = self.rotations = 0
        self.places = set()

    def start(self):
        self.daemon = self.command.start("-c", self.path)

    def first_life(self):
        """Start for the first time, and see how long that takes on this machine."""
        self.start()
        self.startup = self.at_first = self.wait((self.folder / "state.json").exists, 60)

    def life(self, lines, long=False):
        """Start, feed lines, and end it: at any moment from before it is awake until well in its work, in the middle of a line, too."""
        self.start()
        span = self.rng.uniform(0, self.startup) if self.rng.random() < 0.25 else self.startup + self.rng.uniform(0, 0.3)
        span += 2.5 if long else 0          # longer than a rotated file is given
        for line in lines:
            half = self.rng.randrange(len(line)) if self.rng.random() < 0.2 else 0
            for piece in (line[:half], line[half:]):
                self.writer.write(piece)
                time.sleep(self.rng.uniform(0, span / len(lines)))
        self.end()

    def end(self):
        """SIGKILL, or now and then SIGTERM."""
        if self.rng.random() < 0.08:
            assert self.stop() in (0, -signal.SIGTERM)      # by the signal itself: it was not yet awake
            self.stops += 1
        else:
            self.stop(signal.SIGKILL)
            self.kills += 1
        place = (self.folder / "state.json").read_text()
        # One that did not come so far as to save anything new gives the next more time: the machine may be busier by now.
        self.startup = min(self.startup * 1.1, 3) if place in self.places else self.at_first
        self.places.add(place)

    def rotate(self, pack):
        """Rename all the logs, as logrotate does; the writer turns to the new one after a while."""
        for number in range(self.rotations, 0, -1):
            for end in ("", ".gz"):
                old = self.folder / ("mail.log.%d%s" % (number, end))
                if old.exists():
                    old.rename(self.folder / ("mail.log.%d%s" % (number + 1, end)))
        self.log.rename(self.folder / "mail.log.1")
        self.log.touch()
        self.rotations += 1
        second = self.folder / "mail.log.2"
        if pack and second.exists():
            packed = self.folder / "mail.log.2.gz"
            packed.write_bytes(gzip.compress(second.read_bytes()))
            os.utime(str(packed), ns=(second.stat().st_mtime_ns,) * 2)
            second.unlink()

    def rotate_again(self, lines):
        """Once more before anybody looks, some of the lines between the two; returns the others."""
        self.reopen()
        self.writer.write(b"".join(lines[:len(lines) // 2]))
        self.rotate(pack=True)
        return lines[len(lines) // 2:]

    def reopen(self):
        """The writer turns to the new log."""
        self.writer.close()
        self.writer = open(str(self.log), "ab", buffering=0)


def live_log(lines, form):
    """A log of everything: each story on hosts of its own, one after the other, then the corpus with pauses; yesterday was its last line.

    The final line is said two hours later: by then all that was open is written with what is known.
    """
    told = []
    for number, (_, story, _) in enumerate(STORIES):
        shift = (moment(told[-1]) - moment(story[0])).total_seconds() + 60 if told else 0
        told += [re.sub(r"(?<=\+00:00 )(\S+)", r"\1-%d" % number, moved(line, shift), count=1) for line in story]
    shift = (moment(told[-1]) - moment(lines[0])).total_seconds() + 60
    told += [moved(line, shift) for line in paused(lines, 200)]
    told.append(moved(told[-1], 7200)[:33] + "mx CRON[1]: (root) CMD (true)")
    shift = time.time() // 1 - 86400 - moment(told[-1]).replace(tzinfo=datetime.timezone.utc).timestamp() // 1
    told = [moved(line, shift) for line in told]
    if form == "traditional":
        told = [moment(line).strftime("%b %e %H:%M:%S ") + line[33:] for line in told]
    return [(line + "\n").encode("latin-1") for line in told]


@pytest.fixture
def fed(command, request, seed, engine):
    settings = {}
    if engine == "mysql":
        server = request.getfixturevalue("mariadb")
        server.load_schema("killed")
        settings = {"database__engine": "mysql", "database__unix_socket": server.socket, "database__database": "killed",
                    "database__password": mariadb_server.PASSWORD}
    found = Fed(command, random.Random(seed), **settings)
    yield found
    found.stop(signal.SIGKILL)
    found.writer.close()


@pytest.mark.parametrize("seed", seeds("KILL_SEEDS", "1:2"))
@pytest.mark.parametrize("engine, form", [("sqlite", "rfc3339"), ("mysql", "traditional")])
def test_T1_killed_at_random_moments_of_a_live_run_the_table_is_that_of_an_undisturbed_one(recorded, fed, seed, form):
    lines = live_log(recorded["rfc3339"][:STRETCH], form)
    told = sum(len(story) for _, story, _ in STORIES)
    cuts = sorted(fed.rng.sample(range(1, told), KILLS // 3) + fed.rng.sample(range(told, len(lines) - 1), KILLS * 7 // 9))
    rotations = set(fed.rng.sample(range(2, len(cuts) - 2), 5))
    fed.first_life()
    fed.end()
    for number, (first, last) in enumerate(zip([0, *cuts], cuts)):
        share = lines[first:last]
        if number in rotations:
            fed.rotate(pack=number % 2)
            share = fed.rotate_again(share) if fed.rng.random() < 0.5 else share
        fed.life(share, long=number - 1 in rotations)
        if number in rotations:
            fed.reopen()
    fed.start()
    for line in lines[cuts[-1]:]:
        fed.writer.write(line)
    files = sorted(path for path in fed.folder.glob("mail.log*"))
    wanted = sorted(imported(fed.command, files))
    deadline = time.monotonic() + 60
    while sorted(stored(fed.path)) != wanted and time.monotonic() < deadline:
        time.sleep(0.3)
    assert fed.stop() == 0
    print("seed %d: %d kills, %d stops, %d rotations, %d positions saved, %d lines, %d rows, started in %.2f s" % (
        seed, fed.kills, fed.stops, fed.rotations, len(fed.places), len(lines), len(wanted), fed.startup))
    assert not differences(stored(fed.path), wanted)
    assert fed.kills >= KILLS * 9 // 10 and fed.rotations >= 5 and len(fed.places) >= 10
    assert "Traceback" not in fed.said and "cannot be used" not in fed.said
