"""Historical logs in any order, read more than once, in parts that overlap: the rows are those of the whole log."""
import collections
import contextlib
import datetime
import gzip
import os
import sqlite3

import pytest
from conftest import ROOT

import mail_relay_tracker as tracker
from tests.unit.replay import Replay

SAMPLE = (ROOT / "samples" / "mail.log").read_bytes().splitlines(keepends=True)
HEARD_LATER = {"id", "first_seen", "last_seen", "recipient_no"}    # of a message under way at the cut: as the newer log began with it


def table(command):
    """The rows by queue ID and recipient, without those of NOQUEUE, whose IDs hold their place in the file."""
    connection = sqlite3.connect(str(command.folder / "mail_relay_tracker.db"))
    connection.row_factory = lambda cursor, values: dict(zip([column[0] for column in cursor.description], values))
    found = collections.defaultdict(list)
    for row in connection.execute("SELECT * FROM mail_relay_log WHERE queue_id NOT LIKE 'NOQUEUE%' ORDER BY first_seen, recipient_no"):
        found[row["queue_id"], row["orig_to"], row["upstream_to"]].append(
            {name: value for name, value in row.items() if name not in HEARD_LATER})
    connection.close()
    return found


def selected(command, columns, *logs):
    """These columns of all rows that one import makes of some logs, each (name, lines), in this order."""
    for name, lines in logs:
        (command.folder / name).write_text("\n".join(lines) + "\n")
    done = command.run("--import", *[name for name, _ in logs])
    assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(str(command.folder / "mail_relay_tracker.db"))) as connection:
        return sorted(connection.execute("SELECT %s FROM mail_relay_log" % columns))


def imported(command, *runs):
    """What some imports, one after the other, make of parts of the sample: each part is (first, last) in thousandths of its lines."""
    for file in command.folder.glob("mail_relay_tracker.db*"):
        file.unlink()
    for number, parts in enumerate(runs):
        names = []
        for first, last in parts:
            names.append("part.%d.%d.%d" % (number, first, last))
            (command.folder / names[-1]).write_bytes(b"".join(SAMPLE[len(SAMPLE) * first // 1000:len(SAMPLE) * last // 1000]))
        done = command.run("--import", *names)
        assert done.returncode == 0, done.stderr
    return table(command)


@pytest.mark.parametrize("cuts", [(333, 667), (137, 871), (490, 510), (600, 800)])
def test_parts_imported_newest_first_make_the_rows_of_the_whole(command, cuts):
    one, two = cuts
    expected = imported(command, [(0, 1000)])
    backwards = [(two, 1000)], [(one, two)], [(0, one)]
    assert imported(command, *backwards) == expected
    assert imported(command, *backwards, *reversed(backwards)) == expected
    assert imported(command, [(two, 1000)], [(0, two), (two, 1000)]) == expected        # as all logs are, when the newest was read already


def test_parts_that_overlap_make_the_rows_of_the_whole(command):
    assert imported(command, [(0, 600), (300, 1000)]) == imported(command, [(0, 1000)])


@pytest.mark.parametrize("again", [(0, 1000), (700, 1000), (0, 400)])
def test_what_is_named_twice_in_one_import_makes_the_rows_of_once(command, again):
    """Nothing was written yet when the second one begins: a short log is written in the end."""
    assert imported(command, [(0, 1000), again]) == imported(command, [(0, 1000)])


def test_import_given_twice_reads_what_both_name(command):
    expected = imported(command, [(0, 1000)])
    (command.folder / "mail_relay_tracker.db").unlink()
    for name, lines in (("one", SAMPLE[:1000]), ("two", SAMPLE[1000:2000]), ("three", SAMPLE[2000:])):
        (command.folder / name).write_bytes(b"".join(lines))
    done = command.run("--import", "three", "--import", "two", "one")
    assert done.returncode == 0 and done.stdout.startswith("lines          3000 read")
    assert table(command) == expected


HALVES = ["""\
Nov 20 10:00:00 mx postfix/smtpd[1]: 4fGx3b2JzYz1bcd: client=c.test[192.0.2.1]
Nov 20 10:00:00 mx postfix/qmgr[2]: 4fGx3b2JzYz1bcd: from=<a@b.test>, size=7, nrcpt=1 (queue active)
""", """\
Nov 20 10:00:09 mx postfix/smtp[3]: 4fGx3b2JzYz1bcd: to=<e@d.test>, relay=r[192.0.2.2]:25, delay=9, dsn=2.0.0, status=sent (250 ok)
Nov 20 10:00:09 mx postfix/qmgr[2]: 4fGx3b2JzYz1bcd: removed
"""]


def test_an_archive_that_is_cut_off_is_put_in_order_by_its_own_time(command):
    """Its stamps have no year, which is found by its end, or what is left of that."""
    (command.folder / "older").write_text(HALVES[0])
    more = "".join("Nov 20 11:%02d:%02d mx postfix/qmgr[2]: %X: removed\n" % (number // 60, number % 60, number * 7919 ** 3)
                   for number in range(3000))
    data = gzip.compress((HALVES[1] + more).encode())
    (command.folder / "newer.gz").write_bytes(data[:len(data) * 3 // 4])
    shown = command.run("--import", "newer.gz", "older", "--dry-run")
    assert shown.returncode == 74
    rows = [line for line in shown.stdout.splitlines() if "4fGx3b2JzYz1bcd" in line]
    assert len(rows) == 1 and '"client_ip": "192.0.2.1"' in rows[0] and '"relay_status": "sent"' in rows[0]
    older, newer = (tracker.look_at(str(command.folder / name)) for name in ("older", "newer.gz"))
    assert newer.earliest - older.earliest == 9 * tracker.SECOND


@pytest.mark.parametrize("name, year", [
    ("maillog-20241121.gz", 2024), ("mail-2023-11-01.log", 2023), ("maillog-2024112103", 2024), ("mail.log-20990101", 2026),
    ("mail.log.7", 2026), ("mail-20260101.log", 2026)])
def test_a_copy_of_an_old_log_has_its_year_from_the_date_in_its_name(command, name, year):
    """Its stamps have none, and when it was last written to is when it was copied."""
    data = "".join(HALVES).encode()
    (command.folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    os.utime(str(command.folder / name), (1798000000, 1798000000))      # 2026-12-23
    shown = command.run("--import", name, "--dry-run")
    assert '"first_seen": "%d-11-20 ' % year in shown.stdout


def test_each_of_a_year_s_daily_logs_that_were_copied_has_the_year_of_its_date(tmp_path):
    """Those of about the day of the copy, too: a year ago their lines had the same stamps as today's."""
    copied = datetime.datetime(2026, 11, 6, 12)
    for age in range(355, 371):
        dated = datetime.datetime(2026, 11, 6) - datetime.timedelta(age)
        begun = dated - datetime.timedelta(1)       # logrotate gives a log the date of the day after
        path = tmp_path / dated.strftime("maillog-%Y%m%d")
        path.write_text("".join((begun + datetime.timedelta(hours=hour)).strftime("%b %d %H:%M:%S mx x: y\n") for hour in range(24)))
        os.utime(str(path), (copied.timestamp(), copied.timestamp()))
        assert tracker.look_at(str(path)).begun == (begun + datetime.timedelta(hours=12)).timestamp() * tracker.SECOND


@pytest.mark.parametrize("left", [True, False])
def test_a_log_that_is_rotated_during_its_import_is_told_and_what_was_read_is_written(command, monkeypatch, left):
    """Of its name is another one by then, or none for a moment."""
    monkeypatch.chdir(str(command.folder))
    for name, lines in (("mail.log.1", SAMPLE[:1500]), ("mail.log", SAMPLE[1500:])):
        (command.folder / name).write_bytes(b"".join(lines))
    read = tracker.import_file

    def rotate_and_read(file, recorder, progress):
        if file.path == "mail.log.1":
            os.rename("mail.log.1", "mail.log.2")
            os.rename("mail.log", "mail.log.1")
            if left:
                (command.folder / "mail.log").write_bytes(b"")
        return read(file, recorder, progress)

    monkeypatch.setattr(tracker, "import_file", rotate_and_read)
    config = tracker.load_config(command.configure(database__engine="sqlite", database__database="mail_relay_tracker.db"))
    with pytest.raises(tracker.LogError, match="mail.log") as error:
        tracker.run_import(config, ["mail.log", "mail.log.1"], False)
    assert error.value.exit_code == 74 and ("is another file by now" if left else "cannot read mail.log") in str(error.value)
    assert len(table(command)) > 50
    assert command.run("--import", "mail.log.1", "mail.log.2").returncode == 0
    again = table(command)
    assert again == imported(command, [(0, 1000)])


def test_an_import_makes_the_indexes_when_all_rows_are_in(command):
    assert command.run("--import", ROOT / "samples" / "mail.log").returncode == 0
    with contextlib.closing(sqlite3.connect(str(command.folder / "mail_relay_tracker.db"))) as table:
        made = {name for name, in table.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")}
    assert {"mail_relay_log_%s" % name for name, _ in tracker.INDEXES} <= made


def test_a_log_that_went_through_windows_makes_the_same_rows(command):
    expected = imported(command, [(0, 1000)])
    (command.folder / "windows.log").write_bytes(b"".join(SAMPLE).replace(b"\n", b"\r\n"))
    (command.folder / "mail_relay_tracker.db").unlink()
    done = command.run("--import", "windows.log")
    assert done.returncode == 0 and " 0 unsupported" in done.stdout
    assert table(command) == expected


def test_one_odd_stamp_at_its_head_does_not_put_a_log_before_another(command):
    """A device whose clock is behind wrote the first line of the day on which a deferred mail was sent."""
    lines = ["2026-11-27T08:00:01.000000+00:00 mx postfix/smtpd[10]: 9A3B21C0D5: client=mail.good.test[192.0.2.1]",
             "2026-11-27T08:00:02.000000+00:00 mx postfix/cleanup[20]: 9A3B21C0D5: message-id=<m1@good.test>",
             "2026-11-27T08:00:03.000000+00:00 mx postfix/qmgr[30]: 9A3B21C0D5: from=<a@good.test>, size=100, nrcpt=1 (queue active)",
             "2026-11-27T08:00:04.000000+00:00 mx postfix/smtp[40]: 9A3B21C0D5: to=<b@ok.test>, relay=none, delay=1, "
             "delays=1/0/0/0, dsn=4.4.1, status=deferred (connect to mx.ok.test[192.0.2.99]:25: Connection timed out)",
             "2026-11-20T00:00:01.000000+00:00 printer7 lpd[3]: x",
             "2026-11-28T08:00:03.000000+00:00 mx postfix/qmgr[30]: 9A3B21C0D5: from=<a@good.test>, size=100, nrcpt=1 (queue active)",
             "2026-11-28T08:00:04.000000+00:00 mx postfix/smtp[40]: 9A3B21C0D5: to=<b@ok.test>, relay=mx.ok.test[192.0.2.99]:25, "
             "delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4F00061AE)",
             "2026-11-28T08:00:05.000000+00:00 mx postfix/qmgr[30]: 9A3B21C0D5: removed"]
    rows = selected(command, "relay_status, client_ip, first_seen", ("mail.log", lines[4:]), ("mail.log.1", lines[:4]))
    assert rows == [("sent", "192.0.2.1", "2026-11-27 08:00:01.000000")]


def test_a_birth_that_is_read_once_more_while_its_message_is_open(command):
    """Of a log that was cut in place and went on two parts are kept: the results in both are of one mail."""
    stamp, queue_id = "2026-11-27T08:0%d:0%d.000000+00:00 mx postfix/", "9A3B21C0D5: "
    born = [stamp % (0, 1) + "smtpd[10]: " + queue_id + "client=mail.good.test[192.0.2.1]",
            stamp % (0, 2) + "cleanup[20]: " + queue_id + "message-id=<m1@good.test>"]
    sent = ("smtp[40]: " + queue_id + "to=<%s@ok.test>, relay=mx.ok.test[192.0.2.99]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, "
            "status=sent (250 2.0.0 Ok: queued as 4F00061AE)")
    first = [stamp % (0, 3) + "qmgr[30]: " + queue_id + "from=<a@good.test>, size=100, nrcpt=2 (queue active)",
             stamp % (0, 4) + sent % "a",
             stamp % (0, 5) + "smtp[40]: " + queue_id + "to=<b@ok.test>, relay=none, delay=1, delays=1/0/0/0, dsn=4.4.1, "
             "status=deferred (connect to mx.ok.test[192.0.2.99]:25: Connection timed out)"]
    then = [stamp % (5, 4) + sent % "b", stamp % (5, 5) + "qmgr[30]: " + queue_id + "removed", *[stamp % (6, 0) + "anvil[5]: x"] * 2]
    rows = selected(command, "orig_to, relay_status, client_ip, message_id, size", ("one", born + first), ("two", born + then))
    assert rows == [("%s@ok.test" % letter, "sent", "192.0.2.1", "m1@good.test", 100) for letter in "ab"]


# By story: the lines before which a cut loses what a session has told, or whom an event of the whole mail reached.
NEWER_FIRST = {
    "a_message_is_forwarded_while_its_parent_is_a_continuation": {2},
    "amavis_re_injects_with_xforward": {2, 3},
    "an_alias_of_a_failing_command_and_a_forward": (),
    "connection_lost_after_data_in_3_10": (),
    "content_filter_re_injection_counts_once": (),
    "deleted_when_one_recipient_had_got_it": (),
    "expired_reaches_those_still_deferred": (),
    "held_by_the_administrator_released_or_deleted": (),
    "held_for_ten_days_then_released": (),
    "milter_refuses_one_recipient": (),
    "plain_filter_with_xforward_splits_a_message": (),
    "postsuper_requeues_under_a_new_id": (),
    "recipients_refused_around_accepted_ones_in_two_transactions": {11},
    "requeued_before_a_recipient_was_told_of": (),
    "requeued_with_one_recipient_delivered_already": {7},
    "several_recipients_refused_before_and_after_an_accepted_one": {1, 2},
}


@pytest.mark.parametrize("read_first", [{"end": "imported"}, {"rhythm": 1, "end": "finished"}], ids=["imported", "followed"])
@pytest.mark.parametrize("name", sorted(NEWER_FIRST))
def test_the_older_log_read_after_the_newer_one_makes_the_rows_of_the_whole(name, read_first):
    lines = (ROOT / "tests" / "stories" / name / "input.log").read_text(encoding="utf-8").splitlines()
    replay = Replay(lines)
    expected = alike(replay.whole())
    for place in range(1, len(lines)):
        if place not in NEWER_FIRST[name]:
            store = replay.table()
            replay.run(store, place, len(lines), **read_first)
            replay.run(store, 0, place, end="imported")
            assert alike(replay.rows(store)) == expected, "cut before line %d" % (place + 1)


def alike(rows):
    """Rows without what tells where the reading began."""
    return sorted(repr(row._replace(**dict.fromkeys(HEARD_LATER - {"id"}))) for row in rows)


ENDS = {
    "held and deleted": ["postsuper[5]: 9A3B21C0D5: placed on hold", "postsuper[5]: 9A3B21C0D5: removed"],
    "active and deleted": ["qmgr[3]: 9A3B21C0D5: from=<a@good.test>, size=100, nrcpt=2 (queue active)",
                           "postsuper[5]: 9A3B21C0D5: removed"],
    "requeued": ["postsuper[5]: 9A3B21C0D5: requeued", "pickup[6]: 9A3B21C0D7: uid=104 from=<a@good.test> orig_id=9A3B21C0D5"],
}


@pytest.mark.parametrize("end", sorted(ENDS))
@pytest.mark.parametrize("waiting", [True, False])
def test_what_the_newer_log_tells_of_the_whole_mail_takes_nobody_his_delivery(end, waiting):
    """Read first, it makes a row of nobody, of two moments; of the recipients one had got the mail before."""
    lines = ["2026-11-20T10:00:00.000000+00:00 mx postfix/smtpd[1]: 9A3B21C0D5: client=mail.good.test[192.0.2.1]",
             "2026-11-20T10:00:00.100000+00:00 mx postfix/cleanup[2]: 9A3B21C0D5: message-id=<m1@good.test>",
             "2026-11-20T10:00:00.200000+00:00 mx postfix/qmgr[3]: 9A3B21C0D5: from=<a@good.test>, size=100, nrcpt=2 (queue active)",
             "2026-11-20T10:00:01.000000+00:00 mx postfix/smtp[4]: 9A3B21C0D5: to=<x@ok.test>, relay=mx.ok.test[192.0.2.90]:25, delay=1, "
             "delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)"]
    lines += ["2026-11-20T10:00:01.500000+00:00 mx postfix/smtp[4]: 9A3B21C0D5: to=<y@slow.test>, relay=none, delay=1, delays=0/0/0/1, "
              "dsn=4.4.1, status=deferred (connect to mx.slow.test[192.0.2.91]:25: Connection refused)"] if waiting else []
    older = len(lines)
    lines += ["2026-11-20T1%d:00:00.000000+00:00 mx postfix/%s" % (2 + hour, line) for hour, line in enumerate(ENDS[end])]
    replay = Replay(lines)
    store = replay.table()
    replay.run(store, older, len(lines), end="imported")
    replay.run(store, 0, older, end="imported")
    rows = {row.upstream_to: row.relay_status for row in replay.rows(store) if row.queue_id == "9A3B21C0D5"}
    assert rows == dict({"x@ok.test": "sent"}, **({"y@slow.test": "requeued" if end == "requeued" else "deleted"} if waiting else {}))
