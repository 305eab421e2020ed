"""Database faults against a real server while a log is being written, and a sudden end at every call of a run.

Each fault: the daemon follows a log that grows by more than 200 messages a second, the fault comes and goes, the log ends, the
daemon catches up and is stopped. Then its table equals that of an undisturbed import of the same log, its log has said once what
was wrong and once that it is over, it was never read on meanwhile, and its memory stayed small.

MRT_FAULT_SEED changes what the load consists of, where lines are cut, which calls are tried; MRT_FAULT_CALLS how many of them.
"""
import collections
import contextlib
import errno
import itertools
import logging
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import types

import load
import mariadb as mariadb_server
import mysql.connector
import pytest
from conftest import ROOT, Command, place_in
from test_follow import Live
from unit.replay import Replay

import mail_relay_tracker as tracker

SEED = int(os.environ.get("MRT_FAULT_SEED", "1"))
CALLS = int(os.environ.get("MRT_FAULT_CALLS", "16"))
RATE = 220                              # messages a second
MEMORY = 150000                         # kB
PATIENCE = 90
STANDSTILL = 20                         # seconds after which a table that does not change is final
PAUSES, BACK = "; reading pauses, trying again until it works", " is back after "
UPSERT = b"INSERT INTO mail_relay_log "
COLUMNS = ", ".join(tracker.ROW_COLUMNS)
NUMBERS = itertools.count(1)            # of the databases


def by_key(rows):
    """Rows in the order of their natural key."""
    return sorted(rows, key=lambda row: (row.server_hostname, row.queue_id, row.first_seen, row.recipient_no))


def difference(found, expected):
    """What differs between two tables, the first few rows of it, for a reader; nothing when they are equal."""
    if found == expected:
        return ""
    told = ["%d rows instead of %d" % (len(found), len(expected))]
    found, expected = ({tuple(getattr(row, name) for name in tracker.KEY): row for row in rows} for rows in (found, expected))
    for word, keys in (("missing", expected.keys() - found.keys()), ("too many", found.keys() - expected.keys())):
        told += ["%s: %r" % (word, key) for key in sorted(keys)[:5]]
    changed = sorted(key for key in found.keys() & expected.keys() if found[key] != expected[key])
    for key in changed[:5]:
        told += ["%r: %s is %r instead of %r" % (key, *names) for names in zip(tracker.ROW_COLUMNS, found[key], expected[key])
                 if names[1] != names[2]]
    return "\n".join(told + ["%d rows differ" % len(changed)])


class Line:
    """A line from the tracker to the server that fails on demand. It listens on a TCP port, and leads to the server's socket.

    `mode`: "through"; "silent", nothing is passed on or answered; "refused", nobody listens; "cut", three of four statements that
    write rows end their connection, in one of the ways of CUTS; "late", they do so, and arrive when the connection is long over.
    `cuts` counts what was done.
    """

    CUTS = ("before", "half sent", "answer lost", "answer halved")

    def __init__(self, server, mode="through"):
        self.server, self.mode = server, mode
        self.lot, self.cuts = random.Random(SEED), collections.Counter()
        self.threads, self.clients, self.over = [], set(), threading.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.threads.append(threading.Thread(target=self._listen, daemon=True))
        self.threads[0].start()

    def end(self):
        """Hang up."""
        self.over.set()
        for thread in self.threads:
            thread.join(30)

    def hang_up(self):
        """Cut the connections that are there."""
        for client in list(self.clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _listen(self):
        while not self.over.is_set():
            if self.mode == "refused":
                self.over.wait(0.02)
                continue
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", self.port))
                listener.listen(20)
                while self.mode != "refused" and not self.over.is_set():
                    if select.select([listener], [], [], 0.02)[0]:
                        self.threads.append(threading.Thread(target=self._serve, args=(listener.accept()[0],), daemon=True))
                        self.threads[-1].start()

    def _serve(self, client):
        self.clients.add(client)
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self.server.socket)
            while self.mode != "refused" and not self.over.is_set():
                ready = select.select([client, server], [], [], 0.02)[0]
                if self.mode == "silent":
                    self.over.wait(0.02)
                elif (client in ready and not self._pass_on(client, server)) or (server in ready and not self._answer(client, server)):
                    break
        self.clients.discard(client)

    @staticmethod
    def _answer(client, server):
        data = server.recv(1 << 16)
        client.sendall(data)
        return data

    def _pass_on(self, client, server):
        packet = self._packet(client)
        if not (self.mode in ("cut", "late") and packet[4:5] == b"\x03" and UPSERT in packet[5:40] and self.lot.random() < 0.75):
            server.sendall(packet)
            return packet
        way = self.lot.choice(self.CUTS) if self.mode == "cut" else self.mode
        self.cuts[way] += 1
        getattr(self, "_cut_" + way.replace(" ", "_"))(client, server, packet)
        return b""

    @staticmethod
    def _packet(client):
        """What a client says, up to the end of its packet; nothing when it is gone."""
        data = client.recv(4, socket.MSG_WAITALL)
        return data + client.recv(int.from_bytes(data[:3], "little"), socket.MSG_WAITALL) if len(data) == 4 else b""

    def _cut_before(self, client, server, packet):
        """The statement never arrives."""

    def _cut_half_sent(self, client, server, packet):
        """Half of the statement arrives."""
        server.sendall(packet[:len(packet) // 2])

    def _cut_answer_lost(self, client, server, packet):
        """The statement is applied, nobody learns of it."""
        self._apply(server, packet)

    def _cut_answer_halved(self, client, server, packet):
        """The statement is applied, the answer breaks off."""
        client.sendall(self._apply(server, packet)[:5])

    def _cut_late(self, client, server, packet):
        """The line breaks; the network delivers the statement when others have followed it on another line."""
        client.shutdown(socket.SHUT_RDWR)
        self.over.wait(self.lot.uniform(0.2, 3))
        self._apply(server, packet)

    def _apply(self, server, packet):
        server.sendall(packet)
        answer = server.recv(1 << 16)
        self.cuts["applied" if answer[4:5] == b"\0" else "not applied"] += 1
        return answer


class Case(Live):
    """A daemon that follows a log under load, into a database of its own on a real server."""

    def __init__(self, command, server, database, line=None, **settings):
        self.server, self.database, self.line = server, database, line
        server.load_schema(database)
        way = {"database__host": "127.0.0.1:%d" % line.port} if line else {"database__unix_socket": server.socket}
        super().__init__(command, **{
            "database__engine": "mysql", "database__database": database, "database__password": mariadb_server.PASSWORD,
            "database__connect_timeout": "2", **way, **settings})
        self.errors = self.folder / "stderr"
        self.writer, self.figures = None, {}

    def start(self, wait=True):
        with open(str(self.errors), "ab") as errors:
            self.daemon = subprocess.Popen(
                [sys.executable, str(ROOT / "mail_relay_tracker.py"), "-v", "-c", self.command.configure(**self.settings)],
                cwd=str(self.folder), env=dict(os.environ, TZ="UTC"), stdout=subprocess.DEVNULL, stderr=errors)
        if wait:
            self.wait((self.folder / "state.json").exists)

    def stop(self, number=signal.SIGTERM):
        """Stop the daemon; returns its exit code."""
        if self.daemon is None:
            return None
        self.daemon.send_signal(number)
        daemon, self.daemon = self.daemon, None
        return daemon.wait(60)

    def clear(self):
        """Leave nothing running."""
        self.stop(signal.SIGKILL)
        if self.writer is not None:
            self.writer.stop()

    def said_by(self, *levels):
        """What the daemon's log says at these levels."""
        lines = self.errors.read_text(encoding="utf-8").splitlines()
        assert all(line.startswith("mail_relay_tracker: ") for line in lines), "a message of several lines:\n%s" % "\n".join(lines)
        return [line for line in lines if line.split(": ")[1] in levels]

    def paused(self):
        """Wait until the daemon has said that it pauses; then it reads nothing, however the log grows."""
        self.wait(lambda: self.daemon.poll() is not None or self.said_by("ERROR"), PATIENCE)
        assert self.daemon.poll() is None, self.errors.read_text()
        assert self.stands_still()

    def stands_still(self):
        """Whether it reads nothing for a while, though the log grows."""
        before, size = self.offset(), self.log.stat().st_size
        time.sleep(0.7)
        assert self.log.stat().st_size > size
        return self.offset() == before

    def offset(self):
        """How far the daemon has read its log."""
        return place_in(self.daemon.pid, self.log)

    @contextlib.contextmanager
    def hurried(self):
        """SIGHUP ten times a second ends each wait before the next try: many are made, and no test waits for the last."""
        over = threading.Event()

        def knock():
            while not over.wait(0.1):
                with contextlib.suppress(AttributeError):
                    self.daemon.send_signal(signal.SIGHUP)

        thread = threading.Thread(target=knock)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def under_load(self):
        """Let the log grow; with time for rows that a fault can be about."""
        self.writer = load.Writer(self.log, RATE, SEED)
        time.sleep(1.5)

    def end_load(self):
        """Let the stories under way end; the rows that the whole log makes in an undisturbed import."""
        self.figures, self.writer = self.writer.stop(), None
        path = self.command.configure("undisturbed.conf", database__engine="sqlite", database__database=self.folder / "undisturbed.db",
                                      logging__queue_timeout=self.settings["logging__queue_timeout"])
        done = self.command.run("-c", path, "--import", self.log)
        assert done.returncode == 0, done.stderr
        assert " 0 unsupported, 0 failed" in done.stdout
        store = tracker.SqliteStore(str(self.folder / "undisturbed.db"))
        store.connect()
        rows = by_key(store.all_rows())
        store.close()
        return rows

    def table(self):
        """All rows, all columns but the number of the row."""
        with self.as_root() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute("SELECT %s FROM mail_relay_log" % COLUMNS)
            return by_key(map(tracker.row_from, cursor.fetchall()))

    @contextlib.contextmanager
    def as_root(self):
        """A cursor of the server's operator; its transaction is rolled back."""
        connection = mysql.connector.connect(unix_socket=self.server.socket, user="root", database=self.database, use_pure=True,
                                             collation="utf8mb4_general_ci")
        try:
            yield connection.cursor(raw=True)
        finally:
            connection.close()

    def sessions(self):
        """The numbers of the tracker's connections."""
        return self.server.client("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'mailtracker'").split()[1:]

    def kill_sessions(self):
        """Cut them off."""
        for number in self.sessions():
            with contextlib.suppress(RuntimeError):     # gone by itself
                self.server.client("KILL %s" % number)

    def status(self, name):
        """A counter of the server."""
        return int(self.server.client("SHOW GLOBAL STATUS LIKE '%s'" % name).split()[-1])

    def deadlocks(self):
        """How many there were."""
        return int(self.server.client("SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'").split()[-1])

    def waits_for_a_lock(self):
        """Whether the tracker does, within a second."""
        return any(self.status("Innodb_row_lock_current_waits") for _ in range(40))

    def catch_up(self, expected, of_interest=list):
        """Wait until the table, or what is of interest in it, is the expected one; give up when nothing has changed for a while."""
        found, deadline = None, 0
        while found != expected:
            before, found = found, of_interest(self.table())
            deadline = time.time() + STANDSTILL if found != before else deadline
            told = self.errors.read_text()[-3000:]
            assert self.daemon.poll() is None, told
            assert time.time() < deadline, "%s\n%s" % (difference(found, expected), told)
            time.sleep(0.2)

    def tries(self):
        """How often a call to the database failed, by the daemon's own account."""
        told = re.compile(r"(\d+) times in trouble\n")
        before = len(told.findall(self.errors.read_text()))
        self.daemon.send_signal(signal.SIGUSR1)
        self.wait(lambda: len(told.findall(self.errors.read_text())) > before)
        return int(told.findall(self.errors.read_text())[-1])

    def memory(self):
        """The most memory that the daemon ever took, in kB."""
        return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/%d/status" % self.daemon.pid).read_text()).group(1))

    def live_through(self, fault):
        """Start, load, the fault, its end, the end of the load; the daemon has caught up and is stopped. Prints what was measured."""
        self.start()
        self.under_load()
        return self.see_through(fault)

    def see_through(self, fault):
        """The same, from the fault on; returns how many tries failed."""
        with self.hurried():
            fault(self)
            time.sleep(0.5)
            expected = self.end_load()
            self.catch_up(expected)
            tries, memory = self.tries(), self.memory()
        assert self.stop() == 0
        assert not difference(self.table(), expected)
        print("%(messages)d messages, %(lines)d lines, %(rate)d messages/s" % self.figures, "seed %d, %d rows equal, %d failed tries, "
              "%d messages of the trouble, %d kB" % (SEED, len(expected), tries, len(self.said_by("ERROR", "WARNING")), memory))
        assert memory < MEMORY
        return tries


@pytest.fixture(scope="module")
def server():
    """A server that faults are done to; each test puts right what it did."""
    found = mariadb_server.MariaDB(["--innodb-lock-wait-timeout=1", "--lock-wait-timeout=1", "--skip-ssl"])
    try:
        found.create()
        found.start()
        yield found
    finally:
        found.remove()


@pytest.fixture
def follow(command, server):
    """Makes cases; what they started is ended."""
    with contextlib.ExitStack() as undo:
        def make(line=None, on=server, **settings):
            case = Case(command, on, "fault_%d" % next(NUMBERS), line, **settings)
            undo.callback(case.clear)
            return case

        yield make


@pytest.fixture
def line(server):
    """A line to the server that can be cut."""
    found = Line(server)
    yield found
    found.end()


def killed(case):
    """kill -9, and a restart."""
    case.server.stop(kill=True)
    case.paused()
    case.server.start()


def stopped(case):
    """SIGSTOP for half a minute."""
    began = time.time()
    os.kill(case.server.process.pid, signal.SIGSTOP)
    try:
        case.paused()
        time.sleep(max(began + 30 - time.time(), 0))
    finally:
        os.kill(case.server.process.pid, signal.SIGCONT)


def killed_often(case):
    """KILL of the connection and of the query, again and again."""
    end, done = time.time() + 3, collections.Counter()
    while time.time() < end or done["CONNECTION"] < 15 or "1317" not in case.errors.read_text():
        for number in case.sessions():
            what = ("QUERY", "QUERY", "CONNECTION")[sum(done.values()) % 3]
            with contextlib.suppress(RuntimeError):     # gone by itself
                case.server.client("KILL %s %s" % (what, number))
                done[what] += 1
    print("killed:", dict(done))


def timed_out(case):
    """wait_timeout shorter than the pause between two writes: each finds its connection gone."""
    before = case.status("Aborted_clients")
    case.server.client("SET GLOBAL wait_timeout = 1")
    try:
        case.kill_sessions()
        case.wait(lambda: case.status("Aborted_clients") - before > 2, PATIENCE)
    finally:
        case.server.client("SET GLOBAL wait_timeout = 28800")


def read_only(case):
    """The server takes no statement that writes."""
    case.server.client("SET GLOBAL read_only = 1")
    try:
        case.paused()
    finally:
        case.server.client("SET GLOBAL read_only = 0")
    assert "read-only" in case.said_by("ERROR")[0]


def take_the_rest(case, taken):
    """Take every connection that is free."""
    with contextlib.suppress(mysql.connector.Error):
        while True:
            taken.enter_context(case.as_root())


def crowded(case):
    """Every connection that the server allows is taken when the tracker needs a new one."""
    case.server.client("SET GLOBAL max_connections = 10")
    try:
        with case.as_root() as cursor, contextlib.ExitStack() as taken:
            while not case.said_by("ERROR"):
                take_the_rest(case, taken)
                cursor.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'mailtracker'")
                for number, in cursor.fetchall():
                    with contextlib.suppress(mysql.connector.Error):
                        cursor.execute("KILL %d" % int(number))
            take_the_rest(case, taken)
            case.paused()
    finally:
        case.server.client("SET GLOBAL max_connections = 151")
    # The server answers and hangs up before it is spoken to: a driver that speaks first finds the line cut, and the server alone knows why.
    assert re.search(": (?:1040|2055|2013): ", case.said_by("ERROR")[0])
    assert case.status("Connection_errors_max_connections")


def rows_locked(case):
    """Another transaction holds all rows."""
    with case.as_root() as cursor:
        take_all_rows(cursor)
        case.paused()
    assert "1205" in case.said_by("ERROR")[0]


def take_all_rows(cursor):
    """Lock them, in a transaction that stays open."""
    while True:
        try:
            cursor.execute("SELECT * FROM mail_relay_log FOR UPDATE")
            cursor.fetchall()
            break
        except mysql.connector.Error as error:          # the tracker had some of them, and wanted others
            assert error.errno == 1213


def table_locked(case):
    """Somebody has locked the table, as a dump does."""
    with case.as_root() as cursor:
        cursor.execute("LOCK TABLES mail_relay_log WRITE")
        case.paused()
    assert "1205" in case.said_by("ERROR")[0]


def deadlocked(case):
    """A transaction that has changed more takes the same rows in another order, again and again: the tracker is the victim."""
    before = case.deadlocks()
    case.server.client("CREATE TABLE ballast (n INT); INSERT INTO ballast VALUES " + ",".join(["(1)"] * 20000), case.database)
    with case.as_root() as cursor:
        cursor.execute("SET innodb_lock_wait_timeout = 3")
        while case.deadlocks() - before < 20 or case.tries() < 3:
            with contextlib.suppress(mysql.connector.Error):
                cursor.execute("UPDATE ballast SET n = n + 1")
                cursor.execute("SELECT id FROM mail_relay_log WHERE relay_status = 'deferred' LIMIT 50 FOR UPDATE")
                if cursor.fetchall() and case.waits_for_a_lock():
                    cursor.execute("SELECT id FROM mail_relay_log FOR UPDATE")
                    cursor.fetchall()
            cursor.execute("ROLLBACK")
    print("%d deadlocks" % (case.deadlocks() - before))


def password_changed(case):
    """The password is changed, and changed back."""
    change = "ALTER USER mailtracker@localhost IDENTIFIED BY '%s'"
    case.server.client(change % "another")
    case.kill_sessions()
    case.paused()
    assert "Access denied" in case.said_by("ERROR")[0]
    case.server.client(change % mariadb_server.PASSWORD.replace("'", "''"))


def table_away(case):
    """The table is gone, and comes back with all its rows."""
    case.server.client("RENAME TABLE mail_relay_log TO aside", case.database)
    case.paused()
    assert "schema.sql" in case.said_by("ERROR")[0]
    case.server.client("RENAME TABLE aside TO mail_relay_log", case.database)


ONE_TROUBLE = {"kill -9": killed, "SIGSTOP for 30 s": stopped, "read-only": read_only, "no connection left": crowded,
               "rows locked": rows_locked, "table locked": table_locked, "password changed": password_changed, "table away": table_away}
COMES_AND_GOES = {"KILL": (killed_often, 0.05), "wait_timeout": (timed_out, 1.5),
                  "deadlock": (deadlocked, 0.5)}


def told_once(case):
    """The log said once what was wrong, and once that it was over; at these levels nothing else."""
    (error,), (warning,) = case.said_by("ERROR"), case.said_by("WARNING")
    assert error.endswith(PAUSES) and BACK in warning


@pytest.mark.parametrize("fault", ONE_TROUBLE)
def test_T13_a_fault_of_the_database_costs_nothing_and_is_told_once(follow, fault):
    case = follow()
    assert case.live_through(ONE_TROUBLE[fault])
    told_once(case)


@pytest.mark.parametrize("fault", COMES_AND_GOES)
def test_T13_a_fault_that_comes_and_goes_costs_nothing_and_is_not_told_each_time(follow, fault):
    act, interval = COMES_AND_GOES[fault]
    case = follow(logging__cleanup_interval=interval)
    case.live_through(act)
    assert len(case.said_by("ERROR")) <= 2 >= len(case.said_by("WARNING"))


@pytest.mark.parametrize("mode", ["cut", "late"])
def test_T13_a_line_cut_anywhere_costs_nothing(follow, line, mode):
    def cut_often(case):
        line.mode = mode
        case.wait(lambda: sum(line.cuts[way] for way in (*line.CUTS, "late")) >= 25, PATIENCE)
        line.mode = "through"

    case = follow(line, logging__cleanup_interval="0.2")
    case.live_through(cut_often)
    print(dict(line.cuts))
    assert mode == "late" or line.cuts["applied"] == line.cuts["answer lost"] + line.cuts["answer halved"] > 4
    assert len(case.said_by("ERROR")) <= 2 >= len(case.said_by("WARNING"))


@pytest.mark.parametrize("mode", ["silent", "refused"])
def test_T13_a_server_that_cannot_be_reached_costs_nothing_and_is_told_once(follow, line, mode):
    def unreachable(case):
        line.mode = mode
        line.hang_up()
        case.paused()
        line.mode = "through"

    case = follow(line, database__connect_timeout="1")
    case.live_through(unreachable)
    told_once(case)


def test_T13_a_server_that_is_down_when_the_daemon_starts_is_waited_for(follow, line):
    def comes_up(case):
        case.paused()
        line.mode = "through"

    line.mode = "refused"
    case = follow(line)
    case.start(wait=False)
    case.wait(lambda: PAUSES in case.errors.read_text())
    case.under_load()
    case.see_through(comes_up)
    told_once(case)


def test_T13_a_table_dropped_and_made_anew_has_all_that_begins_after_it(follow):
    """The rows that were in it are gone. Each mail that begins later has all its rows, each delivery that comes later has one."""
    def drop(case):
        case.server.client("DROP TABLE mail_relay_log", case.database)
        moment = int(time.time() * tracker.SECOND)
        case.paused()
        case.server.client((ROOT / "schema.sql").read_text(encoding="utf-8").replace("mail_tracking", case.database))
        return moment

    case = follow()
    case.start()
    case.under_load()
    with case.hurried():
        dropped = drop(case)
        time.sleep(1)
        undisturbed = case.end_load()
        older = {row.queue_id for row in undisturbed if row.first_seen < dropped}
        older |= {row.queue_id for row in undisturbed if row.parent_queue_id in older}

        def younger(rows):
            return [row for row in rows if row.queue_id not in older]

        case.catch_up(younger(undisturbed), younger)
    assert case.stop() == 0
    told_once(case)
    delivered = {(row.queue_id, row.upstream_to) for row in case.table() if row.relay_status == tracker.SENT}
    late = {(row.queue_id, row.upstream_to) for row in undisturbed if row.relay_status == tracker.SENT and row.last_seen > dropped}
    assert late <= delivered
    print("%d rows later, %d deliveries" % (len([row for row in undisturbed if row.first_seen > dropped]), len(late)))


class FullDisk:
    """A server whose data lie on a small file system of its own, which gets full."""

    SAYS = r"No space left|error: 28|is full|Disk"

    def __init__(self):
        self.server = mariadb_server.MariaDB(["--skip-ssl"])
        self.data = self.server.folder / "data"
        self.ballast = self.data / "ballast"

    def create(self):
        """Make the data elsewhere, and move them in."""
        self.server.create()
        self.data.rename(self.server.folder / "made")
        self.data.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256M", "none", str(self.data)], check=False).returncode:
            pytest.skip("mount is refused here; see the file size limit")
        subprocess.run(["cp", "-a", str(self.server.folder / "made") + "/.", str(self.data)], check=True)
        shutil.chown(self.data, "mysql", "mysql")

    def fill(self):
        """No byte is left."""
        with contextlib.suppress(OSError), open(str(self.ballast), "wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 65536)

    def free(self):
        """There is room again."""
        self.ballast.unlink()

    def remove(self):
        """Nothing is left of it."""
        self.server.stop(kill=True)
        subprocess.run(["umount", str(self.data)], check=False, stderr=subprocess.DEVNULL)
        self.server.remove()


class FullFiles(FullDisk):
    """The same where nothing can be mounted: no file of the server may grow."""

    SAYS = r"File too large|error: 27|is full|Disk"

    def create(self):
        """A server that survives the signal of the limit."""
        shim = self.server.folder / "bin"
        shim.mkdir()
        (shim / "mariadbd").write_text("#!/bin/sh\ntrap '' XFSZ\nexec %s \"$@\"\n" % shutil.which("mariadbd"))
        (shim / "mariadbd").chmod(0o755)
        self.server.environment["PATH"] = "%s:%s" % (shim, os.environ["PATH"])
        self.server.create()

    def fill(self):
        """The table's file may grow no more."""
        self._limit(max(path.stat().st_size for path in self.data.glob("fault_*/*.ibd")))

    def free(self):
        """No limit any more."""
        if self.server.process.poll() is None:
            self._limit("unlimited")

    def _limit(self, size):
        user = ["runuser", "-u", "mysql", "--"] if os.getuid() == 0 else []
        subprocess.run([*user, "prlimit", "--pid=%d" % self.server.process.pid, "--fsize=%s:" % size], check=True)


@pytest.mark.skipif(mariadb_server.MYSQLD is not None, reason="the disk is filled under MariaDB's server alone")
@pytest.mark.parametrize("kind", [FullDisk, FullFiles])
def test_T13_a_full_disk_costs_nothing_and_is_told_once(follow, kind):
    """InnoDB may end the server over it; then it is started when there is room."""
    disk = kind()

    def full(case):
        disk.fill()
        case.paused()
        disk.free()
        with contextlib.suppress(subprocess.TimeoutExpired):
            disk.server.process.wait(5)     # it may be about to end
            disk.server.start()

    try:
        disk.create()
        disk.server.start()
        case = follow(on=disk.server)
        case.live_through(full)
        told_once(case)
        assert re.search(kind.SAYS, (disk.server.folder / "log.err").read_text(encoding="utf-8", errors="replace"))
    finally:
        disk.remove()


@contextlib.contextmanager
def server_stopped(case):
    """A statement, or the greeting of a connection, has no answer."""
    os.kill(case.server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(case.server.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def line_silent(case):
    """The server accepts, and says nothing."""
    with line_mode(case, "silent"):
        yield


@contextlib.contextmanager
def line_refused(case):
    """Nobody listens: the daemon sleeps between its tries."""
    with line_mode(case, "refused"):
        yield


@contextlib.contextmanager
def line_mode(case, mode):
    """The line is like this, and none of the connections is left."""
    case.line.mode = mode
    case.line.hang_up()
    yield
    case.line.mode = "through"


@contextlib.contextmanager
def rows_held(case):
    """A statement waits for a lock, and is ended without effect."""
    with case.as_root() as cursor:
        take_all_rows(cursor)
        yield
        case.kill_sessions()


@contextlib.contextmanager
def read_only_for_now(case):
    """Statements are answered, and refused."""
    case.server.client("SET GLOBAL read_only = 1")
    try:
        yield
    finally:
        case.server.client("SET GLOBAL read_only = 0")


def test_T19_SIGTERM_ends_the_daemon_whatever_the_database_does_and_costs_nothing(follow, line):
    case, took = follow(line, database__connect_timeout="60"), {}
    case.server.client("SET GLOBAL innodb_lock_wait_timeout = 60")
    case.start()
    case.under_load()
    try:
        for trouble in (server_stopped, line_silent, line_refused, rows_held, read_only_for_now):
            with trouble(case):
                case.wait(case.stands_still)
                began = time.time()
                assert case.stop() == 0
                took[trouble.__name__] = round(time.time() - began, 2)
            connected = case.errors.read_text().count("connected to")
            case.start()
            case.wait(lambda before=connected: case.errors.read_text().count("connected to") > before)
    finally:
        case.server.client("SET GLOBAL innodb_lock_wait_timeout = 1")
    print("seconds from SIGTERM to the end:", took)
    assert max(took.values()) < 3           # two are promised; the third is the machine's
    case.see_through(lambda case: None)


def test_T13_the_waits_grow_to_a_minute_and_the_log_reminds_every_ten(command, monkeypatch, caplog):
    """Two hundred tries on a server that is not there, on a clock that jumps over the waits."""
    waits, config = [], tracker.load_config(command.configure(database__unix_socket=command.folder / "nowhere"))
    monkeypatch.setattr(tracker, "clock", types.SimpleNamespace(monotonic=lambda: 1000 + sum(waits), time=time.time))

    def sleep(seconds):
        waits.append(seconds)
        return len(waits) < 200

    recorder = tracker.Recorder(tracker.make_store(config), tracker.make_tracker(config), tracker.RejectFile("nowhere"), sleep)
    with pytest.raises(tracker.Stopped):
        recorder.begin()
    for number, wait in enumerate(waits):
        assert 0.79 < wait / min(2 ** number, 60) < 1.21
    assert len(set(waits)) == 200           # no two daemons knock in step
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(set(said)) == 1 and said[0].endswith(PAUSES)
    assert sum(waits) // 660 <= len(said) <= sum(waits) // 600 + 1


class Dead(BaseException):
    """A sudden end: no handler of the daemon's may survive it."""


class Moments:
    """Each call to the database and each rename of the state file has a moment before it and one after it; at one of them `strike` hits.

    `fatal`: the daemon ends there, and what it might still call has no effect. Else the call fails, and is made again.
    """

    def __init__(self, strike=-1, fatal=True):
        self.names, self.strike, self.fatal, self.dead = [], strike, fatal, False

    def __call__(self, name):
        self.names.append(name)
        if self.dead or len(self.names) == self.strike + 1:
            self.dead = self.fatal
            raise Dead() if self.fatal else self.error(name)

    @staticmethod
    def error(name):
        """What is raised by a call that fails."""
        if name.endswith("rename"):
            return OSError(errno.ENOSPC, "no space left")
        if name.endswith("connect"):
            return tracker.StoreGone("connection refused")
        return sqlite3.OperationalError("disk I/O error") if "SQLite" in name else mysql.connector.InterfaceError("lost", errno=2013)

    def around(self, name, act, *arguments):
        """Do something between its two moments."""
        self("before " + name)
        result = act(*arguments)
        self("after " + name)
        return result


class Watched:
    """A connection or a cursor, each of its statements between two moments."""

    def __init__(self, inner, kind, moments):
        self.inner, self.kind, self.moments = inner, kind, moments

    def __getattr__(self, name):
        act = getattr(self.inner, name)
        if not name.startswith("execute"):
            return act
        return lambda statement, *rest: self.moments.around("%s %s" % (self.kind, statement.split()[0]), act, statement, *rest)


class Clock:
    """The time, but for the clock that measures how long something took."""

    def __init__(self, lives):
        self.lives = lives

    def __getattr__(self, name):
        return getattr(time, name)

    def monotonic(self):
        """A microsecond more each time."""
        return next(self.lives.ticks) / 1e6


class Lives(tracker.Waiter):
    """Lives of the daemon in this process: on a log that comes in pieces, into one table, until the log has ended.

    It takes the place of the daemon's Waiter: when the daemon has read all that is there, another piece comes. Its clock ticks
    with every look at it, so every run makes the same calls.
    """

    POLL = 0.0123

    def __init__(self, monkeypatch, command, lines, **settings):
        super().__init__()
        self.data, self.log, self.state = "".join(lines).encode("ascii"), command.folder / "mail.log", command.folder / "state.json"
        self.config = tracker.load_config(command.configure(
            logging__log_file=self.log, state__state_file=self.state, logging__queue_timeout="3", logging__cleanup_interval="0.000000001",
            logging__poll_interval=self.POLL, **settings))
        self.moments, self.pieces = Moments(), []
        self.ticks = itertools.count()
        monkeypatch.setattr(tracker, "clock", Clock(self))
        make_store, rename = tracker.make_store, os.rename
        monkeypatch.setattr(tracker, "make_store", lambda config: self.watched(make_store(config)))
        monkeypatch.setattr(tracker, "Waiter", lambda: self)
        monkeypatch.setattr(tracker.os, "_exit", lambda code: None)     # the end of a life is not that of the test
        monkeypatch.setattr(tracker.logging, "shutdown", lambda: None)
        monkeypatch.setattr(tracker.os, "rename", lambda *paths: self.moments.around("rename", rename, *paths))

    def watched(self, store):
        """A store whose statements are watched as soon as it is connected."""
        connect, sqlite = store.connect, isinstance(store, tracker.SqliteStore)

        def watched_connect():
            self.moments.around("connect", connect)
            name = "connection" if sqlite else "cursor"
            setattr(store, name, Watched(getattr(store, name), "SQLite" if sqlite else "MariaDB", self.moments))

        store.connect = watched_connect
        return store

    def install(self):
        """No signals here."""

    def sleep(self, seconds):
        """At the end of the log more of it comes, or the daemon is told to stop; a wait for the database is over at once."""
        if seconds == self.POLL and self.pieces:
            with open(str(self.log), "ab") as log:
                log.write(self.pieces.pop(0))
        elif seconds == self.POLL:
            self.stopping = True
        return True

    def live(self, moments, pieces=12):
        """Let the daemon live, and live again, until all is read; returns how many lives that took."""
        self.moments, self.stopping, self.ticks, lives = moments, False, itertools.count(), 0
        self.pieces = [self.data[len(self.data) * place // pieces:len(self.data) * (place + 1) // pieces] for place in range(pieces)]
        self.log.write_bytes(b"")
        with contextlib.suppress(FileNotFoundError):
            self.state.unlink()
        while not self.stopping:
            lives, moments.dead = lives + 1, False
            with contextlib.suppress(Dead):
                tracker.run_daemon(self.config)
            self.stopping = self.stopping and not moments.dead
        return lives


@pytest.fixture
def memory_folder():
    """A folder in memory, where there is one: what is tried here is not the disk."""
    with tempfile.TemporaryDirectory(prefix="mrt-lives.", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def lives(monkeypatch, memory_folder):
    """Makes lives on a log of some 200 messages; the rows that it makes when nothing happens."""
    lines = [line for _, line in load.tell(SEED, 40, 1795000000, lambda number: number >= 200)]
    lines.append(load.stamp(1795003600) + " mx postfix/anvil[70]: statistics: max cache size 1 at Nov 18 10:00:00\n")
    expected = by_key(Replay([line.rstrip("\n") for line in lines], queue_timeout=3).whole())
    return (lambda **settings: Lives(monkeypatch, Command(memory_folder), lines, **settings)), expected


def strike(end_of, expected, fatal, chosen):
    """Let each of the chosen moments be the one; the table ends as ever."""
    quiet = Moments()
    assert end_of(quiet) == (expected, 1)
    for place in chosen(range(len(quiet.names))):
        moments = Moments(place, fatal)
        rows, count = end_of(moments)
        assert not difference(rows, expected), "seed %d, moment %d, %s" % (SEED, place, quiet.names[place])
        assert moments.names[:place + 1] == quiet.names[:place + 1]
        assert count == 1 + fatal
    print("seed %d, %d rows, %d moments: %s" % (SEED, len(expected), len(quiet.names), dict(collections.Counter(quiet.names))))


@pytest.mark.parametrize("fatal", [True, False], ids=["a sudden end", "a failure"])
def test_T3_at_any_call_of_a_run_into_SQLite_costs_nothing(lives, memory_folder, fatal):
    def end_of(moments):
        for path in memory_folder.glob("t.db*"):
            path.unlink()
        count = world.live(moments)
        store = tracker.SqliteStore(str(memory_folder / "t.db"))
        store.connect()
        rows = by_key(store.all_rows())
        store.close()
        return rows, count

    make, expected = lives
    world = make(database__engine="sqlite", database__database=memory_folder / "t.db")
    strike(end_of, expected, fatal, list)


@pytest.mark.parametrize("fatal", [True, False], ids=["a sudden end", "a failure"])
def test_T3_at_a_call_of_a_run_into_MariaDB_costs_nothing(lives, follow, fatal):
    def end_of(moments):
        case.server.client("TRUNCATE mail_relay_log", case.database)
        return (world.live(moments), case.table())[::-1]

    make, expected = lives
    case = follow()
    world = make(**{key: value for key, value in case.settings.items() if key.startswith("database__")})
    strike(end_of, expected, fatal, lambda places: sorted(random.Random(SEED).sample(places, min(CALLS, len(places)))))
