"""The daemon on a growing log: how soon rows appear, restarts, rotation by the real logrotate, the database going away."""
import contextlib
import os
import re
import select
import signal
import sqlite3
import subprocess
import time

import mariadb as mariadb_server
import pytest
from conftest import ROOT, place_in

import mail_relay_tracker as tracker

PATIENCE = 20


def stamp(moment=None):
    """A traditional time stamp in UTC."""
    return time.strftime("%b %e %H:%M:%S", time.gmtime(moment or time.time()))


def message(number, *steps):
    """The lines of a message from one smtpd session; `steps` choose how far its story is told."""
    queue_id, client = "4Zz%02dm1QbBz5Rk" % number, "mail.good.test[192.0.2.%d]" % number
    lines = {
        "connect": "postfix/smtpd[10%d]: connect from %s" % (number, client),
        "tls": "postfix/smtpd[10%d]: Anonymous TLS connection established from %s: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 "
               "(256/256 bits)" % (number, client),
        "spf": "policyd-spf[7]: : prepend Received-SPF: Pass (mailfrom) identity=mailfrom; client-ip=192.0.2.%d; helo=h; "
               "envelope-from=a%d@good.test; receiver=<UNKNOWN> " % (number, number),
        "client": "postfix/smtpd[10%d]: %s: client=%s" % (number, queue_id, client),
        "id": "postfix/cleanup[20]: %s: message-id=<m%d@good.test>" % (queue_id, number),
        "active": "postfix/qmgr[30]: %s: from=<a%d@good.test>, size=100, nrcpt=1 (queue active)" % (queue_id, number),
        "gone": "postfix/smtpd[10%d]: disconnect from %s ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5" % (number, client),
        "deferred": "postfix/smtp[40]: %s: to=<b%d@ok.test>, relay=none, delay=1, delays=1/0/0/0, dsn=4.4.1, status=deferred "
                    "(connect to mx.ok.test[192.0.2.99]:25: Connection timed out)" % (queue_id, number),
        "sent": "postfix/smtp[40]: %s: to=<b%d@ok.test>, relay=mx.ok.test[192.0.2.99]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent "
                "(250 2.0.0 Ok: queued as 4F00061AE)" % (queue_id, number),
        "removed": "postfix/qmgr[30]: %s: removed" % queue_id,
    }
    return ["%s mx %s\n" % (stamp(), lines[step]) for step in steps or lines if steps or step != "deferred"]


class Live:
    """A daemon following a log that the test writes, into an SQLite file."""

    def __init__(self, command, **settings):
        self.command, self.folder = command, command.folder
        self.log = self.folder / "mail.log"
        self.log.touch()
        self.settings = dict({
            "database__engine": "sqlite", "database__database": self.folder / "t.db", "logging__log_file": self.log,
            "logging__cleanup_interval": "0.5", "logging__queue_timeout": "3", "logging__poll_interval": "0.1",
            "system__rotation_check_interval": "0.3", "state__state_file": self.folder / "state.json"}, **settings)
        self.daemon = None
        self.said = ""

    def start(self, *arguments):
        self.daemon = self.command.start("-c", self.command.configure(**self.settings), *arguments)
        self.wait((self.folder / "state.json").exists)

    def stop(self, number=signal.SIGTERM):
        if self.daemon is not None:
            self.daemon.send_signal(number)
            self.said += self.daemon.communicate(timeout=10)[1].decode()
            code, self.daemon = self.daemon.returncode, None
            return code
        return None

    def write(self, lines, path=None):
        with open(str(path or self.log), "a", encoding="utf-8") as log:
            log.write("".join(lines))

    def rows(self):
        """{sender: relay_status} of the table, as it is now."""
        with contextlib.closing(sqlite3.connect(str(self.folder / "t.db"), timeout=10)) as connection:
            try:
                return dict(connection.execute("SELECT envelope_from, relay_status FROM mail_relay_log"))
            except sqlite3.OperationalError:
                return {}

    def count(self):
        with contextlib.closing(sqlite3.connect(str(self.folder / "t.db"), timeout=10)) as connection:
            return connection.execute("SELECT COUNT(*) FROM mail_relay_log").fetchone()[0]

    @staticmethod
    def wait(condition, seconds=PATIENCE):
        """Wait until something holds; returns how long that took."""
        began = time.time()
        while not condition():
            assert time.time() - began < seconds, "waited in vain"
            time.sleep(0.05)
        return time.time() - began


@pytest.fixture
def live(command):
    found = Live(command)
    yield found
    found.stop(signal.SIGKILL)


def test_a_finished_message_is_written_within_the_cleanup_interval(live):
    live.settings["logging__queue_timeout"] = "60"
    live.start()
    live.write(message(1))
    live.wait(lambda: live.rows() == {"a1@good.test": "sent"}, 8)       # less than the interval that nobody sets
    assert live.stop() == 0


def test_what_is_finished_when_it_is_told_to_stop_is_written_and_the_position_saved(live):
    """However long it is until the next round of writing. The first round is at the start."""
    live.settings["logging__cleanup_interval"] = "3600"
    live.write(message(1))
    live.start()
    live.wait(lambda: live.rows() == {"a1@good.test": "sent"})
    live.write(message(2))
    live.wait(lambda: place_in(live.daemon.pid, live.log) == live.log.stat().st_size)
    time.sleep(0.3)
    assert live.count() == 1
    assert live.stop() == 0
    assert live.rows() == {"a1@good.test": "sent", "a2@good.test": "sent"}
    assert '"position": %d,' % live.log.stat().st_size in (live.folder / "state.json").read_text()


def test_an_unfinished_message_is_written_after_the_queue_timeout_and_repaired_later(live):
    live.start()
    began = time.time()
    live.write(message(1, "connect", "client", "id", "active", "gone", "deferred"))
    live.wait(lambda: live.rows() == {"a1@good.test": "deferred"})
    assert time.time() - began > 1.5
    live.write(message(1, "sent", "removed"))
    live.wait(lambda: live.rows() == {"a1@good.test": "sent"})
    assert live.count() == 1


def test_a_message_in_flight_survives_a_restart_with_all_it_had(live):
    live.start()
    live.write(message(1, "connect", "tls", "spf", "client"))
    time.sleep(1)
    assert live.stop() == 0
    live.write(message(1, "id", "active", "gone"))
    live.start()
    live.write(message(1, "sent", "removed"))
    live.wait(lambda: live.rows() == {"a1@good.test": "sent"})
    row = next(iter(stored(live)))
    assert (row.client_tls, row.spf_result, row.client_ip) == ("TLSv1.3 TLS_AES_256_GCM_SHA384", "Pass", "192.0.2.1")
    assert live.count() == 1


def stored(live):
    store = tracker.SqliteStore(str(live.folder / "t.db"))
    store.connect()
    return list(store.all_rows())


def test_kill_minus_nine_loses_and_doubles_nothing(live):
    live.start()
    for number in range(10, 20):
        live.write(message(number))
        time.sleep(0.15)
        if number % 3 == 0:
            live.stop(signal.SIGKILL)
            live.start()
    live.wait(lambda: len(live.rows()) == 10)
    assert live.count() == 10 and set(live.rows().values()) == {"sent"}


def test_rename_and_create_while_the_writer_keeps_the_old_file_open(live):
    live.start()
    live.write(message(1))
    with open(str(live.log), "a", encoding="utf-8") as writer:
        live.log.rename(live.folder / "mail.log.1")
        live.log.touch()
        time.sleep(0.7)
        writer.write("".join(message(2)))
        writer.flush()
        live.write(message(3))
        live.wait(lambda: set(live.rows()) == {"a1@good.test", "a2@good.test", "a3@good.test"})
    assert live.count() == 3


def test_rotated_several_times_and_packed_while_stopped(live):
    live.start()
    live.write(message(1))
    live.wait(lambda: len(live.rows()) == 1)
    live.stop()
    live.write(message(2))
    live.log.rename(live.folder / "mail.log.2")
    live.write(message(3))
    live.log.rename(live.folder / "mail.log.1")
    subprocess.run(["gzip", str(live.folder / "mail.log.2")], check=True)
    live.write(message(4))
    live.start()
    live.wait(lambda: len(live.rows()) == 4)
    assert live.count() == 4


def test_copytruncate_is_noticed_and_the_copy_read(live):
    live.start()
    live.write(message(1))
    live.wait(lambda: len(live.rows()) == 1)
    os.kill(live.daemon.pid, signal.SIGSTOP)
    live.write(message(2))
    (live.folder / "mail.log.1").write_bytes(live.log.read_bytes())
    os.truncate(str(live.log), 0)
    live.write(message(3) + message(4) + message(5))
    os.kill(live.daemon.pid, signal.SIGCONT)
    live.wait(lambda: len(live.rows()) == 5)
    live.stop()
    assert "truncated" in live.said


def recipients(live):
    """What is stored of each recipient."""
    return {row.orig_to: (row.relay_status, row.recipient_no, row.client_ip, row.message_id, row.envelope_from, row.size)
            for row in stored(live)}


@pytest.mark.parametrize("timeout", ["3", "6"], ids=["written", "open"])
def test_a_log_that_is_cut_in_place_and_read_anew_spoils_no_row(live, timeout):
    """As by an editor, or when it was restored: the birth of a message comes again, with other results than the first time."""
    live.settings["logging__queue_timeout"] = timeout
    live.start()
    born = "".join(message(1, "connect", "client", "id"))
    live.write([born] + message(1, "active", "sent") + [line.replace("<b1@", "<c1@") for line in message(1, "deferred")])
    if timeout == "3":
        live.wait(lambda: len(stored(live)) == 2)
    else:
        live.wait(lambda: place_in(live.daemon.pid, live.log) == live.log.stat().st_size)
    os.truncate(str(live.log), len(born))
    live.wait(lambda: len(stored(live)) == 2)
    later = stamp(time.time() + 300)
    live.write([later + line[15:].replace("<b1@", "<c1@") for line in message(1, "sent", "removed")])
    live.wait(lambda: recipients(live).get("c1@ok.test", [""])[0] == "sent")
    assert recipients(live) == {"%s1@ok.test" % letter: ("sent", number, "192.0.2.1", "m1@good.test", "a1@good.test", 100)
                                for number, letter in enumerate("bc")}


@pytest.mark.parametrize("options", [
    "create 0644", "nocreate", "copytruncate", "dateext\n dateformat -%Y%m%d-%s\n delaycompress\n compress"])
def test_the_real_logrotate(live, options):
    configuration = live.folder / "rotate.conf"
    configuration.write_text("%s {\n rotate 5\n missingok\n %s\n su root root\n}\n" % (live.log, options))
    configuration.chmod(0o644)
    live.folder.chmod(0o755)
    live.start()
    for number in range(1, 4):
        live.write(message(number))
        live.wait(lambda wanted=number: len(live.rows()) >= wanted)
        subprocess.run(["logrotate", "-f", "-s", str(live.folder / "rotate.state"), str(configuration)], check=True)
        time.sleep(1.1)
    live.write(message(4))
    live.wait(lambda: len(live.rows()) == 4)
    assert live.count() == 4


def test_a_line_is_not_read_before_its_end(live):
    live.start()
    whole = "".join(message(1))
    for start in range(0, len(whole), 97):
        live.write([whole[start:start + 97]])
        time.sleep(0.02)
    live.wait(lambda: live.rows() == {"a1@good.test": "sent"})


def test_hand_written_state_skips_history(live):
    live.write(message(1))
    status = live.log.stat()
    (live.folder / "state.json").write_text('{"position": %d, "inode": %d}' % (status.st_size, status.st_ino))
    live.start()
    live.write(message(2))
    live.wait(lambda: live.rows() == {"a2@good.test": "sent"})


def test_first_start_reads_from_the_beginning_or_from_the_end(command):
    for start, expected in (("beginning", {"a1@good.test", "a2@good.test"}), ("end", {"a2@good.test"})):
        command.folder = command.folder / start
        command.folder.mkdir()
        live = Live(command, logging__start=start)
        live.write(message(1))
        live.start()
        live.write(message(2))
        live.wait(lambda want=expected, live=live: set(live.rows()) == want)
        live.stop()


def test_deleting_the_state_reads_all_again_and_changes_nothing(live):
    live.start()
    live.write(message(1) + message(2))
    live.wait(lambda: len(live.rows()) == 2)
    live.stop()
    (live.folder / "state.json").unlink()
    before = stored(live)
    live.start()
    live.wait((live.folder / "state.json").exists)
    time.sleep(1)
    assert stored(live) == before


def test_a_damaged_state_is_moved_aside_and_named(live):
    (live.folder / "state.json").write_text('{"position": "')
    live.write(message(1))
    live.daemon = command_start(live)
    live.wait(lambda: len(live.rows()) == 1)
    live.stop()
    assert "cannot be used" in live.said and list(live.folder.glob("state.json.damaged-*"))


def command_start(live):
    return live.command.start("-c", live.command.configure(**live.settings))


def test_statistics_on_request(live):
    live.start()
    live.write(message(1))
    live.wait(lambda: len(live.rows()) == 1)
    live.daemon.send_signal(signal.SIGUSR1)
    while "database: " not in live.said:
        live.said += live.daemon.stderr.readline().decode()
        assert live.daemon.poll() is None, live.said
    live.stop()
    assert re.search(r"STATISTICS: lines: 9 parsed, 0 ignored", live.said), live.said
    assert "postfix/smtpd: " in live.said and "database: 1 rows written" in live.said


def test_v_tells_what_is_done_and_vv_shows_lines_of_unknown_shape(live):
    live.start("-vv")
    live.write(message(1) + ["%s mx postfix/smtpd[1]: something never seen\n" % stamp()])
    live.wait(lambda: len(live.rows()) == 1)
    live.stop()
    assert "following" in live.said and "unsupported line: " in live.said and "something never seen" in live.said


def test_bytes_that_are_no_utf8_are_replaced_and_the_reading_goes_on(live):
    live.start()
    data = "".join(message(1)).replace("b1@ok.test", "J\xf6rg@ok.test").encode("latin-1")
    with open(str(live.log), "ab") as log:
        log.write(b"\xff\xfe\x00 garbage\n" + data)
    live.wait(lambda: len(live.rows()) == 1)
    assert tracker.fitted(stored(live)[0]).upstream_to == "J\ufffdrg@ok.test"


def test_the_database_goes_away_and_comes_back(command):
    server = mariadb_server.MariaDB()
    try:
        server.create()
        server.start()
        server.load_schema("away")
        live = Live(command, database__engine="mysql", database__unix_socket=server.socket, database__database="away",
                    database__password=mariadb_server.PASSWORD, database__connect_timeout="2")
        live.start()
        live.write(message(1))
        count = "SELECT COUNT(*) FROM mail_relay_log WHERE relay_status = 'sent'"
        live.wait(lambda: server.client(count, "away").split()[-1] == "1")
        server.stop(kill=True)
        live.write(message(2) + message(3))
        live.wait(lambda: select.select([live.daemon.stderr], [], [], 0)[0])    # it says that it pauses
        time.sleep(2)
        server.start()
        live.wait(lambda: server.client(count, "away").split()[-1] == "3", 60)
        assert live.stop() == 0
        assert live.said.count("reading pauses") <= 2 and "is back" in live.said
    finally:
        live.stop(signal.SIGKILL)
        server.remove()


def test_once_leaves_what_may_still_change_to_the_next_run(command):
    live = Live(command)
    path = command.configure(**live.settings)
    live.write(message(1, "connect", "spf", "client", "id"))
    assert command.run("-c", path, "--once").returncode == 0
    live.write(message(1, "active", "gone", "sent", "removed"))
    done = command.run("-c", path, "--once")
    assert done.returncode == 0 and "sent" in done.stdout
    assert [(row.relay_status, row.spf_result) for row in stored(live)] == [("sent", "Pass")]


def test_readme_command_in_a_fresh_folder(command):
    done = command.run("--import", ROOT / "samples" / "mail.log")
    assert done.returncode == 0 and "rows" in done.stdout and (command.folder / "mail_relay_tracker.db").exists()


def test_once_saves_on_its_way_and_when_it_is_ended_there_the_next_run_goes_on(command, monkeypatch):
    """What comes before the saved position is committed."""
    def save(state, place):
        real(state, place)
        saved.append(place.position)
        if len(saved) == 2:
            state.release()                 # as the end of the process does
            assert 0 < len(stored_in("ended")) < len(whole)
            raise KeyboardInterrupt

    def stored_in(name):
        store = tracker.SqliteStore(str(command.folder / (name + ".db")))
        store.connect()
        return sorted(map(repr, store.all_rows()))

    def rows_of_two_runs(name):
        config = tracker.load_config(command.configure(
            database__engine="sqlite", database__database=command.folder / (name + ".db"), state__state_file=command.folder / name,
            logging__log_file=ROOT / "samples" / "mail.log"))
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt):
                tracker.run_once(config, dry_run=False)
        return stored_in(name)

    whole, real, saved = rows_of_two_runs("whole"), tracker.StateFile.save, []
    monkeypatch.setattr(tracker, "MAX_FINISHED", 20)
    monkeypatch.setattr(tracker.StateFile, "save", save)
    assert rows_of_two_runs("ended") == whole
    assert saved[0] == 0 < saved[1]


def test_a_signal_ends_one_wait_only():
    """The byte by which it does that is taken away, or the daemon would never rest again."""
    waiter = tracker.Waiter()
    waiter.writer.send(b"\0")
    begun = time.monotonic()
    assert waiter.sleep(5) and time.monotonic() - begun < 2
    assert waiter.sleep(0.3) and time.monotonic() - begun >= 0.3
