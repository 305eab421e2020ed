"""What people get wrong: one clear line that names the file, the key and the remedy, and the right exit code."""
import contextlib
import errno
import fcntl
import functools
import glob
import gzip
import io
import lzma
import os
import pathlib
import re
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import termios
import time
from unittest import mock

import load
import mariadb as mariadb_server
from mysql.connector import connect, errors
import pytest
from conftest import ROOT, Worn

import mail_relay_tracker as tracker
from tests.unit import test_parts

LOG = ROOT / "samples" / "mail.log"
NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")


def told(done, code, *words):
    """The process ended with this code and one line that holds these words; never a traceback."""
    assert done.returncode == code, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if ": WARNING:" not in line]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


def wait_until(holds):
    """Wait until something holds."""
    deadline = time.time() + 20
    while not holds():
        assert time.time() < deadline
        time.sleep(0.1)


@pytest.fixture
def settings(command):
    """Settings with which everything works, on SQLite."""
    return {"database__engine": "sqlite", "database__database": command.folder / "t.db", "logging__log_file": LOG,
            "state__state_file": command.folder / "state.json"}


@pytest.fixture
def mysql(command, mariadb):
    """Settings with which everything works, on MariaDB."""
    mariadb.load_schema("errors")
    return {"database__unix_socket": mariadb.socket, "database__database": "errors", "database__password": mariadb_server.PASSWORD,
            "database__connect_timeout": 2, "logging__log_file": LOG, "state__state_file": command.folder / "state.json"}


def test_missing_configuration(command):
    told(command.run("-c", "nowhere.conf", "--once"), 78, "nowhere.conf", "mail_relay_tracker.conf.template")


@pytest.mark.parametrize("setting, words", [
    ({"database__hots": "a"}, ("hots", "[database]", "did you mean host?")),
    ({"database__log_file": "a"}, ("log_file", "it belongs to section [logging]")),
    ({"logging__queue_timeout": "soon"}, ("[logging] queue_timeout = soon", "number of seconds")),
    ({"logging__queue_timeout": "0"}, ("[logging] queue_timeout = 0", "above 0")),
    ({"logging__queue_timeout": "99999999"}, ("[logging] queue_timeout = 99999999", "below 31536000")),
    ({"database__database": ":memory:"}, ("[database] database = :memory:", "name a file")),
    ({"state__state_file": "s\0x"}, ("[state] state_file = s", "NUL byte")),
    ({"state__state_file": LOG}, ("state_file = %s" % LOG, "is also the log_file", "of its own")),
    ({"state__state_file": "./t.db"}, ("state_file = ./t.db", "is also the database", "of its own")),
    ({"state__state_file": "./tracker.conf"}, ("state_file = ./tracker.conf", "is also the configuration", "of its own")),
    ({"database__password": "x y\n  user = z"}, ("[database] password = …", "several lines")),
    ({"logging__poll_interval": "nan"}, ("[logging] poll_interval = nan", "number of seconds")),
    ({"database__port": "0"}, ("[database] port = 0", "1 to 65535")),
    ({"database__port": "65536"}, ("[database] port", "1 to 65535")),
    ({"database__host": "db1, db2:x"}, ("[database] host", "db1, db2:3307")),
    ({"database__engine": "oracle"}, ("[database] engine", "mysql, sqlite")),
    ({"logging__start": "middle"}, ("[logging] start", "beginning, end")),
    ({"database__ssl_verify": "perhaps"}, ("[database] ssl_verify", "yes or no")),
    ({"system__server_hostname": "mx1 ; this host"}, ("[system] server_hostname", "one word")),
    ({"system__server_hostname": "mx1 mx2"}, ("[system] server_hostname = mx1 mx2", "one word")),
    ({"system__server_hostname": '"mx1"'}, ('[system] server_hostname = "mx1"', "without quotes")),
    ({"system__server_hostname": "mx1\n  log_file = a"}, ("[system] server_hostname = mx1", "several lines")),
    ({"DEFAULT__server_hostname": "mx1"}, ("[DEFAULT]", "into its section")),
    ({"filters__track_domains": "a@b"}, ("[filters] track_domains", "not a domain")),
    ({"filters__track_domains": "*.example.com"}, ("[filters] track_domains", "subdomains are included")),
    ({"filters__track_domains": "example.com;example.net"}, ("[filters] track_domains", "write example.com, example.net")),
    ({"filters__track_domains": '"example.com"'}, ("[filters] track_domains", "not a domain")),
    ({"filters__track_domains": "example.com, ."}, ("[filters] track_domains", ". is not a domain")),
    ({"database__database": ""}, ("[database] database =", "must not be empty")),
    ({"logging__log_file": ""}, ("[logging] log_file =", "must not be empty")),
    ({"database__engine": "mysql", "database__ssl_ca": "/nowhere/ca.pem"}, ("[database] ssl_ca", "no such file")),
    ({"database__engine": "mysql", "database__ssl_cert": LOG}, ("[database] ssl_cert = %s" % LOG, "name its ssl_key as well")),
    ({"database__engine": "mysql", "database__ssl_key": LOG}, ("[database] ssl_key = %s" % LOG, "name its ssl_cert as well")),
    ({"database__engine": "mysql", "database__password_file": "/nowhere/pw"},
     ("[database] password_file", "/nowhere/pw", "make it a text file")),
    ({"database__engine": "mysql", "database__password_file": "/etc"}, ("[database] password_file = /etc", "make it a text file")),
    ({"database__engine": "mysql", "database__password_file": "/etc/passwd", "database__password": "s"},
     ("[database] password_file = /etc/passwd", "remove one of the two")),
    ({"database__engine": "mysql", "database__host": "db1 db2"}, ("[database] host = db1 db2", "db1, db2:3307")),
    ({"database__engine": "mysql", "database__host": "[::1"}, ("[database] host = [::1:", "db1, db2:3307, [2001:db8::1]:3306")),
    ({"database__engine": "mysql", "database__host": "::1]"}, ("[database] host = ::1]:", "db1, db2:3307, [2001:db8::1]:3306")),
    ({"database__engine": "mysql", "database__host": "db1, [::1"}, ("[database] host = db1, [::1:", "[2001:db8::1]:3306")),
    ({"database__engine": "mysql", "database__host": "[db1"}, ("[database] host = [db1:", "db1, db2:3307")),
    ({"database__engine": "mysql", "database__unix_socket": "/run/s", "database__ssl_verify": "yes"},
     ("[database] ssl_verify = yes", "unix_socket = /run/s", "unset one of the two")),
])
def test_wrong_settings(command, settings, setting, words):
    path = command.configure(**dict(settings, **setting))
    told(command.run("-c", path, "--once"), 78, path, *words)


@pytest.mark.parametrize("setting, faults", [
    ({"database__hots": "a", "database__port": "0", "logging__start": "middle"},
     ("unknown key hots in section [database]", "[database] port = 0", "[logging] start = middle")),
    ({"database__engine": "mysql", "database__ssl_ca": "/nowhere/ca.pem", "database__ssl_key": LOG, "state__state_file": LOG},
     ("state_file = %s" % LOG, "[database] ssl_ca = /nowhere/ca.pem", "[database] ssl_key = %s" % LOG)),
    ({"database__hots": "a", "DEFAULT__server_hostname": "mx1", "DEFAULT__prot": "25", "database__port": "0"},
     ("unknown key hots in section [database]", "unknown key server_hostname in section [DEFAULT]",
      "unknown key prot in section [DEFAULT]", "[database] port = 0"))])
def test_all_faults_of_a_configuration_are_told_a_line_each(command, settings, setting, faults):
    path = command.configure(**dict(settings, **setting))
    done = command.run("-c", path, "--check")
    assert done.returncode == 78
    lines = done.stderr.splitlines()
    assert len(lines) == len(faults)
    for line, fault in zip(lines, faults):
        assert line.startswith("mail_relay_tracker: configuration %s: %s: " % (path, fault))


def test_a_database_of_a_server_is_no_file(command):
    path = command.configure(database__database="mails", state__state_file="mails", logging__log_file=LOG)
    assert tracker.load_config(path)["database"] == "mails"


def test_what_the_driver_is_told(command):
    secret, tls = command.folder / "password", {"ssl_ca": str(LOG), "ssl_cert": str(LOG), "ssl_key": str(LOG)}
    secret.write_bytes(b"\xef\xbb\xbf in a file \r\nnot this\n")
    account = {"database__database": "mails", "database__user": "u", "database__host": "db1, db2:3307, [::1]", "database__port": 3308}
    encrypted = dict(account, database__password="5%d", database__ssl_verify="yes", **{"database__" + key: LOG for key in tls})
    store = tracker.make_store(tracker.load_config(command.configure(**encrypted)))
    assert store.hosts == [("db1", 3308), ("db2", 3307), ("::1", 3308)] and store.tls_required
    told_of_both = {"database": "mails", "user": "u", "autocommit": True, "use_pure": True, "charset": "utf8mb4",
                    "collation": "utf8mb4_general_ci"}
    assert store.options == dict(told_of_both, password="5%d", connection_timeout=10, ssl_verify_cert=True, ssl_verify_identity=True, **tls)
    local = dict(account, database__unix_socket="/run/s", database__password_file=secret, database__connect_timeout=0.2)
    store = tracker.make_store(tracker.load_config(command.configure(**local)))
    assert len(store.hosts) == 1 and not store.tls_required
    assert store.options == dict(told_of_both, password=" in a file ", connection_timeout=1, unix_socket="/run/s")


@pytest.mark.parametrize("setting, value, words", [
    ("database__user", "mailtracker\n  password = geheim", "[database] user = mailtracker: spans several lines"),
    ("database__user", "mailtracker\0\n  password = geheim", "[database] user = mailtracker\\0: holds a NUL byte"),
    ("database__password", "x\0\n  geheim", "[database] password = …: holds a NUL byte"),
    ("filters__track_domains", "example.com,\n  password = geheim", "[filters] track_domains = example.com,: = is not a domain"),
    ("filters__track_domains", "example.com,\n  password=geheim", "[filters] track_domains = example.com,: password=… is not a domain"),
    ("filters__track_domains", "example.com,\n  password: geheim", "[filters] track_domains = example.com,: password: is not a domain")])
def test_a_password_on_an_indented_line_is_not_told(command, settings, setting, value, words):
    """It is part of the value above then."""
    done = command.run("-c", command.configure(**dict(settings, **{setting: value})), "--once")
    told(done, 78, words)
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("text, words", [
    (b"[database\nport=1\n", "line 1: "), (b"password = geheim\n", "line 1: "), (b"[database]\nport=1\nport=2\n", "[line  3]"),
    (b"[database]\nport=1\nport=1\n", "already exists: leave one of the two"), (b"[state]\n[state]\n", "'state' already exists: leave one"),
    (b"[database]\nport=1\npassword geheim\n", "line 3: "), (b"[database]\nuser = J\xf6rg\n", "byte 20 is not UTF-8"),
    (b"[database]\nport\n", "line 2: ")])
def test_a_file_that_is_no_configuration(command, text, words):
    (command.folder / "bad.conf").write_bytes(text)
    done = command.run("-c", "bad.conf", "--once")
    told(done, 78, "bad.conf", words)
    assert "geheim" not in done.stderr


@as_root
def test_configuration_that_its_reader_may_not_read(command, settings):
    path = open_to_all(command, **settings)
    os.chmod(path, 0o600)
    for name in (path, str(command.folder)):
        told(run_as_nobody(command, "-c", name, "--once"), 78, name, "a file that user nobody can read", "-c")


def test_files_with_a_byte_order_mark(command, mysql):
    """As some editors write them."""
    secret = command.folder / "password"
    secret.write_text(mysql.pop("database__password") + "\r\n", encoding="utf-8-sig")
    path = command.configure(**dict(mysql, database__password_file=secret))
    with open(path, encoding="utf-8") as plain:
        text = plain.read()
    with open(path, "w", encoding="utf-8-sig") as marked:
        marked.write(text)
    assert command.run("-c", path, "--check").returncode == 0


def test_configuration_that_is_no_utf8(command):
    (command.folder / "bad.conf").write_bytes(b"[database]\npassword = \xff\n")
    told(command.run("-c", "bad.conf", "--once"), 78, "bad.conf")


def test_password_file_that_is_no_utf8(command, settings):
    secret = command.folder / "password"
    secret.write_bytes(b"geh\xe4m")
    path = command.configure(**dict(settings, database__engine="mysql", database__password_file=secret))
    told(command.run("-c", path, "--once"), 78, "[database] password_file = %s: is not UTF-8: make it a text file" % secret)


def test_configuration_that_others_can_read_gets_a_warning(command, settings):
    path = command.configure(**settings)
    os.chmod(path, 0o644)
    done = command.run("-c", path, "--once")
    assert done.returncode == 0 and "chmod 640` it, before it holds a password" in done.stderr


def test_passwords_that_others_can_read_get_a_warning(command, mysql):
    secret = command.folder / "password"
    secret.write_text(mysql["database__password"] + "\n")
    secret.chmod(0o644)
    path = command.configure(**mysql)
    os.chmod(path, 0o644)
    said = command.run("-c", path, "--once").stderr
    assert said.count("WARNING") == 1 and "configuration %s can be read" % path in said and "it, it holds a password" in said
    del mysql["database__password"]
    said = command.run("-c", command.configure(**dict(mysql, database__password_file=secret)), "--once").stderr
    assert said.count("WARNING") == 1 and "password_file %s can be read" % secret in said


@pytest.mark.parametrize("arguments", [["--frobnicate"], ["--dry-run"], ["--once", "--check"], ["--import"], ["surplus"]])
def test_wrong_usage(command, arguments):
    told(command.run(*arguments), 64, "--help")


@pytest.mark.parametrize("arguments", [[], ["--once"]])
def test_log_missing(command, settings, arguments):
    path = command.configure(**dict(settings, logging__log_file="/nowhere/mail.log"))
    told(command.run("-c", path, *arguments), 74, "/nowhere/mail.log", "[logging] log_file")


def test_log_is_a_directory(command, settings):
    path = command.configure(**dict(settings, logging__log_file=command.folder))
    told(command.run("-c", path), 74, str(command.folder), "[logging] log_file")


AS_ANOTHER = """
import encodings.ascii, encodings.idna, encodings.utf_8_sig, os, pwd, sys
sys.path.insert(0, sys.argv[1])
import mail_relay_tracker
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
sys.exit(mail_relay_tracker.main(sys.argv[3:]))
"""


def run_as(user, command, *arguments):
    """The tracker, loaded by root (the interpreter may be in root's home), then run as a user without rights."""
    return subprocess.run([sys.executable, "-c", AS_ANOTHER, str(ROOT), str(user), *arguments], cwd=str(command.folder),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, check=False)


def open_to_all(command, **settings):
    """Let everybody write in the test's folder, and read the configuration made of these settings; returns its path."""
    for one in (command.folder, *command.folder.parents):
        one.chmod(one.stat().st_mode | 0o755)
    command.folder.chmod(0o777)
    path = command.configure(**settings)
    os.chmod(path, 0o644)
    return path


def run_as_nobody(command, *arguments):
    """The tracker as the user who owns nothing."""
    return run_as(NOBODY, command, *arguments)


@as_root
def test_log_unreadable(command, settings):
    log = command.folder / "mail.log"
    log.write_bytes(b"")
    log.chmod(0o600)
    path = open_to_all(command, **dict(settings, logging__log_file=log))
    told(run_as_nobody(command, "-c", path, "--once"), 74, str(log), "adm", "[logging] log_file")


def test_state_directory_missing(command, settings):
    path = command.configure(**dict(settings, state__state_file="/nowhere/state.json"))
    told(command.run("-c", path), 73, "/nowhere/state.json", "[state] state_file")
    assert "FAULT state         state file /nowhere/state.json: " in command.run("-c", path, "--check").stdout


@pytest.mark.parametrize("whole, rows", [(150000, True), (0, False)])
def test_a_log_that_cannot_be_read_to_its_end(command, settings, monkeypatch, capsys, whole, rows):
    """What could be read is written."""
    monkeypatch.setattr(tracker, "Follower", functools.partial(tracker.Follower, opener=lambda path: Worn(path, whole, block=10000)))
    config = tracker.load_config(command.configure(**settings))
    said = "log file %s: cannot be read to its end: check its disk" % LOG
    with pytest.raises(tracker.LogError, match=said):
        tracker.run_once(config, dry_run=False)
    store = tracker.make_store(config)
    store.connect()
    assert any(store.all_rows()) is rows
    if not whole:
        assert tracker.run_check(config) == 1 and said in capsys.readouterr().out


@as_root
def test_state_directory_not_writable(command, settings):
    locked = command.folder / "locked"
    locked.mkdir(mode=0o755)
    path = open_to_all(command, **dict(settings, state__state_file=locked / "state.json"))
    told(run_as_nobody(command, "-c", path, "--once"), 73, str(locked), "writable")


@as_root
def test_check_finds_what_another_user_left(command, settings):
    """Somebody ran a command as root: its state file, its SQLite file are not the service's."""
    path = open_to_all(command, **settings)
    for name, words in (("state.json", "FAULT state"), ("state.json.tmp", "FAULT state"), ("state.json.rejected.jsonl", "FAULT state"),
                        ("t.db", "FAULT database")):
        assert command.run("-c", path, "--once").returncode == 0
        (command.folder / "state.json.tmp").write_text("{")
        (command.folder / "state.json.rejected.jsonl").touch()
        for left in command.folder.glob("*"):
            if left.name not in (name, "tracker.conf"):
                left.unlink()
        done = run_as_nobody(command, "-c", path, "--check")
        assert done.returncode == 1 and words in done.stdout and ("writable for user nobody" in done.stdout or "the rights" in done.stdout)
        (command.folder / name).unlink()


@as_root
def test_a_user_without_a_name(command, settings):
    """As in a container: remedies tell the number."""
    (command.folder / "locked").mkdir(mode=0o755)
    path = open_to_all(command, **dict(settings, state__state_file=command.folder / "locked" / "state.json"))
    told(run_as(12345, command, "-c", path, "--once"), 73, "user 12345")


def test_second_tracker_on_one_state(command, settings):
    path = command.configure(**settings)
    first = command.start("-c", path)
    try:
        wait_until((command.folder / "state.json").exists)
        told(command.run("-c", path), 73, "another tracker", "[state] state_file")
        assert "in use by a running tracker" in command.run("-c", path, "--check").stdout
    finally:
        first.terminate()
        assert first.wait(10) == 0
        first.communicate()


def test_wrong_password(command, mysql):
    path = command.configure(**dict(mysql, database__password="guess"))
    for arguments in ([], ["--once"]):
        told(command.run("-c", path, *arguments), 77, "Access denied", "password", "[database]")


@pytest.mark.skipif(bool(mariadb_server.MYSQLD), reason="MariaDB makes no certificate of its own")
def test_an_account_that_asks_for_the_tls_that_its_server_lacks(command, mysql, mariadb):
    """Its words are those for a wrong password."""
    mariadb.client("ALTER USER mailtracker@localhost REQUIRE SSL")
    try:
        told(command.run("-c", command.configure(**mysql), "--once"), 77, "Access denied", "password", "TLS", "REQUIRE SSL")
    finally:
        mariadb.client("ALTER USER mailtracker@localhost REQUIRE NONE")


@pytest.fixture
def server_with():
    """A function that starts a server with these options; it is removed in the end."""
    with contextlib.ExitStack() as made:
        def start(*options):
            server = mariadb_server.MariaDB(options)
            made.callback(server.remove)
            server.create()
            server.start()
            server.load_schema("errors")
            return server
        yield start


@pytest.mark.skipif(bool(mariadb_server.MYSQLD), reason="MariaDB's plugin")
def test_account_with_a_plugin_that_the_driver_lacks_is_mended_as_told(command, mysql, server_with):
    server = server_with("--plugin-load-add=auth_ed25519")
    server.client("ALTER USER mailtracker@localhost IDENTIFIED VIA ed25519 USING PASSWORD('its password')")
    path = command.configure(**dict(mysql, database__unix_socket=server.socket, database__password="its password"))
    for arguments in ([], ["--once"]):
        done = command.run("-c", path, *arguments)
        told(done, 77, "client_ed25519", "ALTER USER")
        assert len(done.stderr.splitlines()) == 1, done.stderr
    server.client(done.stderr.rpartition(": ")[2].replace("...", "mailtracker@localhost"))
    assert command.run("-c", path, "--check").returncode == 0


@pytest.mark.skipif(bool(mariadb_server.MYSQLD), reason="MariaDB's words")
@pytest.mark.parametrize("options, limit, number, remedy", [
    ([], "ALTER USER mailtracker@localhost WITH MAX_QUERIES_PER_HOUR 1", 1226, "max_user_connections"),
    ([], "ALTER USER mailtracker@localhost WITH MAX_STATEMENT_TIME 0.000001", 1969, "max_statement_time"),
    (["--max-user-connections=1"], "SELECT 1", 1203, "raise the limits of this account"),
])
def test_limits_of_a_server_are_told_with_their_remedy(command, mysql, server_with, options, limit, number, remedy):
    """They pass by, or are raised: nothing is given up for them."""
    server = server_with(*options)
    path = command.configure(**dict(mysql, database__unix_socket=server.socket))
    other = connect(unix_socket=server.socket, user="mailtracker", password=mariadb_server.PASSWORD, use_pure=True)
    try:
        server.client(limit)
        done = command.run("-c", path, "--once")
        assert done.returncode == 75 and done.stderr
        assert all(": %d (" % number in line and remedy in line for line in done.stderr.splitlines()), done.stderr
    finally:
        other.disconnect()


@pytest.mark.parametrize("kind", ["ReadTimeoutError", "WriteTimeoutError"])
def test_a_server_that_does_not_answer_is_told_from_one_that_ends_statements(kind):
    """The driver gives the end of its own patience the number of the server's limit, without an SQLSTATE."""
    store = tracker.MysqlStore([("db", 3306)], {"database": "errors"})
    silent = store._meaning(getattr(errors, kind, errors.OperationalError)(errno=3024))
    assert isinstance(silent, tracker.StoreGone) and "check [database] host and port" in str(silent) and "statement_time" not in str(silent)
    ended = store._meaning(errors.DatabaseError("maximum statement execution time exceeded", 3024, sqlstate="HY000"))
    assert isinstance(ended, tracker.StoreGone) and "max_statement_time" in str(ended)


@pytest.mark.parametrize("words, kind", [("2055: Unable to verify server identity: hostname mismatch", tracker.StoreGone),
                                         ("mysql_clear_password requires SSL", tracker.StoreRefused)])
def test_what_the_driver_says_of_tls_is_told_with_its_remedy(words, kind):
    """Its numbers differ by version, or there is none."""
    store = tracker.MysqlStore([("db", 3306)], {"database": "errors"})
    for number in (None, 2055):
        meaning = store._meaning(errors.InterfaceError(words, number))
        assert type(meaning) is kind and "check [database] ssl_ca" in str(meaning)


@pytest.fixture
def by_tcp(mysql, server_with):
    """A function that starts a server with these options on TCP; returns it and the settings for it."""
    def start(*options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = server_with("--skip-networking=0", "--bind-address=127.0.0.1", "--port=%d" % port, *options)
        del mysql["database__unix_socket"]
        return server, dict(mysql, database__host="127.0.0.1", database__port=port)
    return start


def test_a_server_without_the_tls_that_is_asked_for(command, by_tcp):
    path = command.configure(**dict(by_tcp("--skip-ssl")[1], database__ssl_verify="yes"))
    done = command.run("-c", path, "--once")
    assert done.returncode == 75 and "whether the server offers TLS" in done.stderr


def test_of_several_hosts_one_that_served_is_asked_anew_when_its_connection_was_cut(command, by_tcp):
    """As by wait_timeout, on which nothing was said for long. One that never took a write is left for the next."""
    server, settings = by_tcp()
    port = settings["database__port"]
    config = tracker.load_config(command.configure(**dict(settings, database__host="127.0.0.1:%d, localhost:%d" % (port, port))))
    store = tracker.make_store(config)

    for host, writes in [("127.0.0.1", False), ("localhost", False), ("127.0.0.1", True), ("127.0.0.1", True), ("127.0.0.1", False),
                         ("localhost", False)]:
        store.connect()
        assert " on %s:" % host in store.name
        if writes:
            store.rehearse()
        store.cursor.execute("SET SESSION wait_timeout = 1")
        wait_until(lambda: "mailtracker" not in server.client("SHOW PROCESSLIST"))
        with pytest.raises(tracker.StoreGone):
            store.rehearse()
    store.close()


def certificates(folder):
    """Make a.pem, signed by itself, with its key a.key; b.key, another key; bad.pem, none at all."""
    for name in "ab":
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=" + name, "-keyout", name + ".key",
                        "-out", name + ".pem"], check=True, cwd=str(folder), stderr=subprocess.DEVNULL)
        (folder / (name + ".key")).chmod(0o644)     # for the server's user
    (folder / "bad.pem").write_text("no certificate")
    for one in (folder, *folder.parents):
        one.chmod(one.stat().st_mode | 0o755)


def test_certificates_that_cannot_be_used(command, by_tcp):
    folder = command.folder
    certificates(folder)
    mysql = by_tcp("--ssl-cert=%s" % (folder / "a.pem"), "--ssl-key=%s" % (folder / "a.key"), "--ssl-ca=%s" % (folder / "a.pem"))[1]
    for names in (("bad.pem", "a.key"), ("a.pem", "b.key")):
        path = command.configure(**dict(mysql, **{"database__ssl_" + key: folder / name for key, name in zip(("cert", "key"), names)}))
        told(command.run("-c", path), 78, "Invalid Certificate/Key", "[database] ssl_ca, ssl_cert and ssl_key")
    told(command.run("-c", command.configure(**dict(mysql, database__ssl_ca=folder / "bad.pem"))), 78, "Invalid CA", "ssl_ca")
    path = command.configure(**dict(mysql, database__ssl_cert=folder / "a.pem", database__ssl_key=folder / "a.key"))
    assert command.run("-c", path, "--check").returncode == 0


@pytest.mark.parametrize("name", ["nothing_here", "CERTIFICATE"])
def test_unknown_database(command, mysql, mariadb, name):
    mariadb.client("GRANT SELECT, INSERT, UPDATE ON `%s`.* TO mailtracker@localhost" % name)
    path = command.configure(**dict(mysql, database__database=name))
    told(command.run("-c", path), 78, name, "schema.sql")


@pytest.mark.skipif(bool(mariadb_server.MYSQLD), reason="MariaDB's numbers")
@pytest.mark.parametrize("name", ["x" * 65, "information_schema"])
def test_what_can_be_no_database_of_ours_is_not_waited_for(command, mysql, name):
    told(command.run("-c", command.configure(**dict(mysql, database__database=name))), 78, name, "check [database] database")


@pytest.mark.parametrize("name", ["db..example.com", "x" * 64])
def test_what_can_be_no_name_of_a_host_is_not_waited_for(command, mysql, name):
    path = command.configure(**dict(mysql, database__unix_socket="", database__host=name))
    told(command.run("-c", path), 78, name, "check [database] host")


@pytest.mark.parametrize("host, name", [("127.0.0.1", "127.0.0.1:1"), ("::1", "[::1]:1")])
def test_a_server_is_named_as_the_configuration_takes_it(host, name):
    store = tracker.MysqlStore([(host, 1)], {"database": "errors", "connection_timeout": 1, "use_pure": True})
    with pytest.raises(tracker.StoreGone) as error:
        store.connect()
    assert str(error.value).startswith("database errors on %s: " % name)


@pytest.mark.parametrize("words", [
    "encoding with 'idna' codec failed (UnicodeError: label empty or too long)", "label empty or too long", "label too long",
    "'idna' codec can't encode character '\\x2e' in position 2: label empty"])
def test_what_can_be_no_name_of_a_host_is_known_by_the_words_of_every_python(words):
    store = tracker.MysqlStore([("db..example.com", 3306)], {"database": "mail_tracking"})
    meaning = store._meaning(UnicodeError(words))
    assert isinstance(meaning, tracker.ConfigError) and str(meaning).endswith("check [database] host")


def test_table_missing(command, mysql, mariadb):
    mariadb.client("DROP TABLE mail_relay_log", "errors")
    told(command.run("-c", command.configure(**mysql)), 78, "mail_relay_log", "schema.sql")


@pytest.mark.parametrize("spoiled, said, remedy", [
    ("DROP COLUMN dkim_selector, DROP COLUMN delays", "lacks the columns dkim_selector, delays: ", "ALTER TABLE mail_relay_log ADD COLUMN"),
    ("DROP KEY message_recipient", "lacks its unique key, without which rows double: ", "CREATE UNIQUE INDEX"),
    ("MODIFY id BIGINT UNSIGNED NOT NULL", "does not number its rows: ", "AUTO_INCREMENT"),
    ("MODIFY id BIGINT UNSIGNED NOT NULL DEFAULT 0", "does not number its rows: ", "AUTO_INCREMENT"),
    ("MODIFY first_seen TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)",
     "gives a row that changes another key: ", "MODIFY first_seen")])
def test_table_lacks_something_and_is_mended_as_told(command, mysql, mariadb, spoiled, said, remedy):
    mariadb.client("ALTER TABLE mail_relay_log " + spoiled, "errors")
    path = command.configure(**mysql)
    done = command.run("-c", path)
    told(done, 78, said, remedy)
    mariadb.client(done.stderr.partition(said)[2], "errors")
    assert command.run("-c", path, "--check").returncode == 0


def test_a_locked_table_is_told_as_one_though_the_server_would_wait_for_longer_than_we_do(command, mysql, mariadb):
    before = mariadb.client("SELECT @@GLOBAL.lock_wait_timeout").split()[-1]
    mariadb.client("SET GLOBAL lock_wait_timeout = 86400")
    try:
        with contextlib.closing(connect(unix_socket=mariadb.socket, user="root", database="errors", use_pure=True)) as other:
            other.cursor().execute("LOCK TABLES mail_relay_log WRITE")
            done = command.run("-c", command.configure(**mysql), "--check")
    finally:
        mariadb.client("SET GLOBAL lock_wait_timeout = %s" % before)
    assert "1205" in done.stdout and "SHOW PROCESSLIST" in done.stdout, done.stdout


def test_check_tells_of_a_server_that_may_forget_rows(command, mysql, mariadb):
    path = command.configure(**mysql)
    for flushed in (1, 2):
        mariadb.client("SET GLOBAL innodb_flush_log_at_trx_commit = %d" % flushed)
        done = command.run("-c", path, "--check")
        told_of = "; innodb_flush_log_at_trx_commit = 2: when the server crashes" in done.stdout
        assert done.returncode == 0 and told_of == (flushed == 2)


@pytest.mark.parametrize("narrowed", [
    "MODIFY relay_message VARCHAR(255), MODIFY envelope_from VARCHAR(320)", "MODIFY helo VARCHAR(255) NOT NULL"])
def test_check_tells_of_columns_that_do_not_take_all_and_they_are_mended_as_told(command, mysql, mariadb, narrowed):
    mariadb.client("ALTER TABLE mail_relay_log " + narrowed, "errors")
    path, said = command.configure(**mysql), "; rows that do not fit into all columns are refused: "
    done = command.run("-c", path, "--check")
    assert done.returncode == 0 and said in done.stdout
    assert done.stdout.count("MODIFY ") == narrowed.count("MODIFY ")
    mariadb.client(done.stdout.partition(said)[2].partition("; innodb")[0], "errors")
    assert said not in command.run("-c", path, "--check").stdout


TWINS = """\
Nov 20 10:00:00 mx postfix/smtpd[1]: {0}: client=c.test[192.0.2.1]
Nov 20 10:00:00 mx postfix/qmgr[2]: {0}: from=<a@b.test>, size=7, nrcpt=1 (queue active)
Nov 20 10:00:00 mx postfix/smtp[3]: {0}: to=<{0}@d.test>, relay=r[192.0.2.2]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 ok)
Nov 20 10:00:00 mx postfix/qmgr[2]: {0}: removed
"""


def three_mails(command):
    """A log of three mails in one second, whose long IDs differ by case alone."""
    log = command.folder / "twins.log"
    log.write_text("".join(map(TWINS.format, ("4fGx3b2JzYz1bcd", "4fGX3b2JzYz1bcd", "4fgx3b2JzYz1bcd"))))
    return log


@pytest.mark.parametrize("spoiled", [
    "CONVERT TO CHARACTER SET utf8mb4", "MODIFY queue_id VARCHAR(64) CHARACTER SET ascii NOT NULL",
    "DROP KEY message_recipient, ADD UNIQUE message_recipient (server_hostname(1), queue_id(3), first_seen, recipient_no)",
    "ADD UNIQUE (server_hostname, first_seen)", "ADD UNIQUE `a``b` (client_ip, recipient_no)",
    "MODIFY first_seen TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP", "MODIFY last_seen TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP"])
def test_table_that_takes_different_mails_for_one_is_mended_as_told(command, mysql, mariadb, spoiled):
    mariadb.client("ALTER TABLE mail_relay_log " + spoiled, "errors")
    path, log = command.configure(**mysql), three_mails(command)
    for _ in range(2):
        done = command.run("-c", path, "--import", log)
        if done.returncode == 0:
            break
        told(done, 78, "mail_relay_log")
        assert "FAULT database" in command.run("-c", path, "--check").stdout
        mariadb.client(done.stderr.rpartition(": ")[2], "errors")
    assert command.run("-c", path, "--import", log).returncode == 0
    assert mariadb.client("SELECT COUNT(*) FROM mail_relay_log", "errors").split()[-1] == "3"


@pytest.mark.parametrize("key", ["(queue_id, id)", "(recipient_no, queue_id, server_hostname, first_seen, dsn)"])
def test_a_unique_key_that_holds_every_row_apart_is_no_fault(command, mysql, mariadb, key):
    mariadb.client("ALTER TABLE mail_relay_log ADD UNIQUE " + key, "errors")
    assert command.run("-c", command.configure(**mysql), "--check").returncode == 0


@pytest.mark.parametrize("lost", [["client_tls", "relay_tls"], ["last_seen"]])
def test_sqlite_table_lacks_columns_and_is_mended_as_told(command, settings, lost):
    database = sqlite3.connect(str(settings["database__database"]))
    path, log = command.configure(**settings), three_mails(command)
    lines = tracker.sqlite_table().split("\n")
    database.execute("\n".join(line for line in lines if line.split()[0] not in lost))
    done = command.run("-c", path, "--import", log)
    told(done, 78, "lacks the column", ", ".join(lost))
    remedy = done.stderr.rpartition(": ")[2]
    if remedy.startswith("move the file away"):
        (command.folder / settings["database__database"]).rename(command.folder / "away")
    else:
        database.executescript(remedy)
    assert command.run("-c", path, "--import", log).returncode == 0


def test_sqlite_table_that_takes_different_mails_for_one(command, settings):
    database = sqlite3.connect(str(settings["database__database"]))
    path, log = command.configure(**settings), three_mails(command)
    database.execute(tracker.sqlite_table().replace("queue_id TEXT", "queue_id TEXT COLLATE NOCASE"))
    told(command.run("-c", path, "--once"), 78, "queue_id COLLATE NOCASE", "move the file away")
    database.execute("DROP TABLE mail_relay_log")
    database.execute(tracker.sqlite_table())
    database.execute('CREATE UNIQUE INDEX "one""more" ON mail_relay_log (server_hostname, first_seen)')
    done = command.run("-c", path, "--once")
    told(done, 78, "(server_hostname, first_seen)", "DROP INDEX")
    database.execute(done.stderr[done.stderr.index("DROP INDEX"):])
    assert command.run("-c", path, "--import", log).returncode == 0
    assert database.execute("SELECT COUNT(*) FROM mail_relay_log").fetchone() == (3,)


def test_a_server_that_shows_one_row_of_all_hides_nothing(command, mysql, mariadb):
    """sql_select_limit holds for SHOW INDEX, too, and for what the table remembers."""
    path = command.configure(**mysql)
    mariadb.client("SET GLOBAL sql_select_limit = 1")
    try:
        assert command.run("-c", path, "--import", LOG).returncode == 0
        assert "(0 written now)" in command.run("-c", path, "--import", LOG).stdout
    finally:
        mariadb.client("SET GLOBAL sql_select_limit = DEFAULT")


def test_a_server_that_lets_no_question_look_at_many_rows_is_asked_all_the_same(command, mysql, mariadb):
    """max_join_size, which some providers set, holds for what the table remembers and for the summary."""
    path = command.configure(**mysql)
    mariadb.client("SET GLOBAL max_join_size = 2")
    try:
        assert command.run("-c", path, "--import", LOG).returncode == 0
        done = command.run("-c", path, "--import", LOG)
    finally:
        mariadb.client("SET GLOBAL max_join_size = DEFAULT")
    assert done.returncode == 0 and "(0 written now)" in done.stdout, done.stderr


@pytest.mark.skipif(mariadb_server.MYSQLD is not None, reason="MySQL's max_execution_time ends no statement that writes")
def test_a_server_too_slow_for_many_rows_at_once_takes_them_a_few_at_a_time(command, mysql, mariadb):
    """It would take three seconds for them all, and is given one: said anew each time, they were never written."""
    log = command.folder / "many.log"
    log.write_text("".join(line for _, line in load.tell(1, 50, 1796000000, lambda number: number >= 150)))
    mariadb.client("CREATE TRIGGER slow BEFORE INSERT ON mail_relay_log FOR EACH ROW DO SLEEP(0.01)", "errors")
    mariadb.client("SET GLOBAL max_statement_time = 1")
    try:
        done = command.run("-v", "-c", command.configure(**mysql), "--import", log)
    finally:
        mariadb.client("SET GLOBAL max_statement_time = 0")
    assert done.returncode == 0 and "1969" in done.stderr and "raise the server's max_statement_time" in done.stderr, done.stderr
    rows = int(mariadb.client("SELECT COUNT(*) FROM mail_relay_log", "errors").split()[-1])
    assert "(%d written now)" % rows in done.stdout and rows > 250


def test_a_server_that_takes_no_statement_as_long_as_ours(command, mysql, mariadb):
    before = mariadb.client("SELECT @@GLOBAL.max_allowed_packet").split()[-1]
    mariadb.client("SET GLOBAL max_allowed_packet = 4096")
    try:
        told(command.run("-c", command.configure(**mysql), "--once"), 78, "max_allowed_packet = 4096", "65536 is the least")
    finally:
        mariadb.client("SET GLOBAL max_allowed_packet = %s" % before)


def test_sqlite_table_of_somebody_else(command, settings):
    database = sqlite3.connect(str(settings["database__database"]))
    database.execute("CREATE TABLE mail_relay_log (id INTEGER PRIMARY KEY, %s)" % ", ".join(
        tracker.sqlite_definition(column) for column in tracker.COLUMNS if column.name != "dsn"))
    path = command.configure(**settings)
    for words in ("ALTER TABLE mail_relay_log ADD COLUMN dsn TEXT", "CREATE UNIQUE INDEX"):
        done = command.run("-c", path, "--once")
        told(done, 78, words)
        database.execute(done.stderr[done.stderr.index(words):])
    assert command.run("-c", path, "--check").returncode == 0


@as_root
@pytest.mark.parametrize("mode, folder", [(0o600, 0o777), (0o644, 0o777), (0o644, 0o755)])
def test_sqlite_file_that_the_user_may_not_open(command, settings, mode, folder):
    """It is refused as a database server refuses a user."""
    place = command.folder / "place"
    place.mkdir()
    path = open_to_all(command, **dict(settings, database__database=place / "t.db"))
    tracker.SqliteStore(str(place / "t.db")).connect()
    for one in place.glob("*"):
        one.chmod(mode)
    place.chmod(folder)
    done = run_as_nobody(command, "-c", path, "--once")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 77 and "SQLite file %s" % (place / "t.db") in last and "writable for user nobody" in last, done.stderr


@as_root
def test_sqlite_file_where_the_unit_lets_nobody_write(command, settings):
    """systemd shows a service all but what its unit names as mounted read-only, so that not even root may write there."""
    place = command.folder / "place"
    place.mkdir()
    path = command.configure(**dict(settings, database__database=place / "t.db"))
    mounted = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", str(place)], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    run = ["unshare", "-m", "sh", "-c", mounted, "sh", str(place), sys.executable, str(ROOT / "mail_relay_tracker.py"), "-c", path]
    for there in (False, True):
        if there:
            tracker.SqliteStore(str(place / "t.db")).connect()
        done = subprocess.run([*run, "--once"], cwd=str(command.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        last = done.stderr.decode().splitlines()[-1]
        assert done.returncode == 77 and "SQLite file %s" % (place / "t.db") in last, done.stderr
        assert last.endswith("remount it read-write, or let the service write there (ReadWritePaths=), or set [database] database")


def test_sqlite_file_that_another_program_holds(command, settings):
    store = tracker.SqliteStore(str(settings["database__database"]))
    store.connect()
    store.connection.execute("BEGIN IMMEDIATE")
    done = command.run("-c", command.configure(**settings), "--check")
    store.connection.execute("ROLLBACK")
    assert done.returncode == 1 and "database is locked: end the program that holds it open for writing" in done.stdout


def test_sqlite_file_without_room(command, settings):
    store = tracker.SqliteStore(str(settings["database__database"]))
    store.connect()
    store.connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(tracker.StoreGone, match="disk is full: make room on its disk, or set .database. database"):
        store._query("CREATE TABLE more (a)")
        store._query("INSERT INTO more VALUES (zeroblob(1000000))")


@pytest.mark.parametrize("number, remedy", [
    (errno.EMFILE, "raise the limit of open files (LimitNOFILE=, `ulimit -n`)"),
    (errno.ENFILE, "raise the limit of open files (LimitNOFILE=, `ulimit -n`)"),
    (errno.EIO, "check its disk, or the server where it is"),
    (errno.EROFS, "remount it read-write, or let the service write there (ReadWritePaths=), or set [state] state_file"),
    (errno.ENOSPC, "make room (`df -h`, `df -i`), or set [state] state_file")])
def test_what_keeps_the_state_from_being_saved_is_told_with_its_remedy(tmp_path, number, remedy):
    state = tracker.StateFile(str(tmp_path / "state.json"))
    said = str(state._unwritable(OSError(number, os.strerror(number)), state.path))
    assert said == "state file %s: %s: %s" % (state.path, os.strerror(number), remedy)


@pytest.mark.parametrize("number, remedy", [
    (errno.EMFILE, "raise the limit of open files (LimitNOFILE=, `ulimit -n`)"), (errno.EACCES, "make it readable for user ")])
def test_a_state_that_cannot_be_read_is_told_with_its_remedy(tmp_path, monkeypatch, number, remedy):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    state = tracker.StateFile(str(tmp_path / "state.json"))
    (tmp_path / "state.json").touch()
    monkeypatch.setattr(tracker, "open", refuse, raising=False)
    with pytest.raises(tracker.OutputError, match="state file %s: %s: %s" % (state.path, os.strerror(number), re.escape(remedy))):
        state.load()


def test_a_damaged_state_that_cannot_be_moved_aside_is_told_with_its_remedy(tmp_path, monkeypatch):
    """As when it is another user's, in a folder where each may remove his own only."""
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    state = tracker.StateFile(str(tmp_path / "state.json"))
    (tmp_path / "state.json").touch()
    monkeypatch.setattr(tracker.os, "rename", refuse)
    with pytest.raises(tracker.OutputError, match="nor moved aside: Operation not permitted: make it writable for user .*, or set .state."):
        state.load()


@pytest.mark.parametrize("call, kind, name", [
    ("fsync", stat.S_IFREG, ""), ("fsync", stat.S_IFDIR, ""), ("rename", stat.S_IFREG, "state.json.tmp: ")])
def test_what_cannot_be_saved_is_told_with_the_file_if_that_is_known(tmp_path, monkeypatch, call, kind, name):
    """When a disk fails at the new state, at its folder, at the name."""
    def refuse(file, *_):
        if stat.S_IFMT(os.stat(file).st_mode) == kind:
            raise OSError(errno.EIO, "Input/output error", *([file] if name else []))

    state = tracker.StateFile(str(tmp_path / "state.json"))
    state.acquire()
    monkeypatch.setattr(tracker.os, call, refuse)
    with pytest.raises(tracker.OutputError, match="state file %s: .*%sInput/output error: check its disk" % (state.path, name)):
        state.save(tracker.Place(7, 5))
    state.release()


def test_a_file_system_without_locks_is_told_with_its_remedy(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    state = tracker.StateFile(str(tmp_path / "state.json"))
    monkeypatch.setattr(tracker.fcntl, "flock", refuse)
    words = "state.json.lock: No locks available: let its file system keep locks (NFS: lockd), or set [state] state_file"
    with pytest.raises(tracker.OutputError, match=re.escape(words)):
        state.acquire()
    (tmp_path / "t.conf").write_text("[state]\nstate_file = %s" % state.path)
    with pytest.raises(tracker.OutputError, match=re.escape(words)):
        tracker.check_state(tracker.load_config(str(tmp_path / "t.conf")))


def test_rows_that_are_held_and_a_bad_disk_are_told_with_their_remedy():
    held = tracker.MysqlStore([("db", 3306)], {"database": "errors"})._meaning(
        errors.DatabaseError("Lock wait timeout exceeded; try restarting transaction", 1205, sqlstate="HY000"))
    assert isinstance(held, tracker.StoreGone) and str(held).endswith(": end the transaction that holds the rows: SHOW PROCESSLIST")
    bad = tracker.SqliteStore("t.db")._meaning(sqlite3.OperationalError("disk I/O error"))
    assert isinstance(bad, tracker.StoreGone) and str(bad).endswith("disk I/O error: check its disk, and whether there is room on it")


def test_certificate_without_its_key(command, mysql):
    certificate = command.folder / "client.pem"
    certificate.write_text("")
    path = command.configure(**dict(mysql, database__ssl_cert=certificate))
    told(command.run("-c", path), 78, "[database] ssl_cert", "ssl_key")


def test_what_is_away_is_waited_for_though_another_host_is_wrong(command, mysql):
    """A node that is being set up has no table yet; the one that is away may have it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = mariadb_server.MariaDB(["--skip-networking=0", "--bind-address=127.0.0.1", "--port=%d" % port])
    try:
        server.create()
        server.start()
        server.load_schema("without_table")
        server.client("DROP TABLE mail_relay_log", "without_table")
        del mysql["database__unix_socket"]
        mysql.update(database__host="127.0.0.1:1, 127.0.0.1:%d" % port, database__database="without_table")
        done = command.run("-c", command.configure(**mysql), "--once")
        assert done.returncode == 75 and "schema.sql" in done.stderr and "127.0.0.1:1" in done.stderr and "[database] host" in done.stderr
    finally:
        server.remove()


def test_database_down_ends_a_one_shot_command(command, mysql):
    path = command.configure(**dict(mysql, database__unix_socket="/nowhere/socket"))
    done = command.run("-c", path, "--once")
    assert done.returncode == 75
    assert "trying again" in done.stderr and "/nowhere/socket" in done.stderr.splitlines()[-1]


def test_database_down_at_start_makes_the_daemon_wait_and_say_so(command, mysql):
    path = command.configure(**dict(mysql, database__unix_socket="/nowhere/socket"))
    daemon = command.start("-c", path)
    said = daemon.stderr.readline()
    time.sleep(2)
    assert daemon.poll() is None
    daemon.terminate()
    said = (said + daemon.communicate(timeout=10)[1]).decode()
    assert daemon.returncode == 0
    assert said.count("reading pauses, trying again") == 1


def test_statistics_are_told_while_the_database_is_waited_for_from_the_start(command, mysql):
    said = command.folder / "said"
    path = command.configure(**dict(mysql, database__unix_socket="/nowhere/socket"))
    with said.open("wb") as output:
        daemon = subprocess.Popen([sys.executable, str(ROOT / "mail_relay_tracker.py"), "-c", path], stderr=output, cwd=str(command.folder))
    try:
        wait_until(lambda: b"reading pauses" in said.read_bytes())
        daemon.send_signal(signal.SIGUSR1)
        wait_until(lambda: b"times in trouble\n" in said.read_bytes())
        assert b"log: %d bytes to read" % LOG.stat().st_size in said.read_bytes()
    finally:
        daemon.kill()
        daemon.wait()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGINT"])
@pytest.mark.parametrize("arguments", [["--check"], []], ids=["command", "service"])
def test_a_signal_while_the_program_is_loaded(command, settings, name, arguments):
    """Sent by a module that it imports. A request is passed over, an interrupt ends it without a traceback."""
    (command.folder / "bisect.py").write_text("import os, signal\nos.kill(os.getpid(), signal.%s)\n"
                                              "from _bisect import *\nbisect, insort = bisect_right, insort_right\n" % name)
    said = command.folder / "said"
    with said.open("wb") as output:
        started = subprocess.Popen([sys.executable, str(ROOT / "mail_relay_tracker.py"), "-c", command.configure(**settings), *arguments],
                                   env=dict(os.environ, PYTHONPATH=str(command.folder)), stdout=output, stderr=output)
    try:
        wait_until(lambda: started.poll() is not None or (command.folder / "state.json").exists())
        started.terminate()
        assert started.wait(10) == (-signal.SIGINT if name == "SIGINT" else 0)
    finally:
        started.kill()
        started.wait()
    assert b"Traceback" not in said.read_bytes()


def test_an_interrupt_while_the_interpreter_ends(command):
    (command.folder / "bisect.py").write_text("import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
                                              "from _bisect import *\nbisect, insort = bisect_right, insort_right\n")
    done = command.run("--import", LOG, environment={"PYTHONPATH": str(command.folder)})
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "") and "rows            347 in SQLite file" in done.stdout


def test_a_command_and_a_service_that_end_take_their_leave_of_the_server(command, mysql, mariadb):
    """The server counts no aborted client."""
    def aborted():
        return mariadb.client("SHOW GLOBAL STATUS LIKE 'Aborted_clients'").split()[-1]

    path, before = command.configure(**mysql), aborted()
    for arguments in (["--check"], ["--once"]):
        assert command.run("-c", path, *arguments).returncode == 0
    daemon = command.start("-c", path, "-v")
    while b"connected to" not in daemon.stderr.readline():
        assert daemon.poll() is None
    daemon.terminate()
    assert daemon.wait(10) == 0
    daemon.communicate()
    time.sleep(0.5)
    assert aborted() == before


def test_driver_not_installed(command, mysql):
    done = command.run("-c", command.configure(**mysql), "--once", environment={"PYTHONPATH": str(ROOT / "tests" / "nodriver")})
    told(done, 78, "mysql-connector-python", "pip3 install -r requirements.txt", "engine = sqlite")


def test_summary_of_a_dry_run_claims_no_written_row(command):
    said = command.run("--import", LOG, "--dry-run").stderr
    assert "347 shown, none written: a dry run\n" in said and "written now" not in said
    assert not list(command.folder.glob("*"))


def test_reader_of_a_dry_run_goes_away(command):
    line = "%s %s --import %s --dry-run | head -1; exit ${PIPESTATUS[0]}" % (sys.executable, ROOT / "mail_relay_tracker.py", LOG)
    done = subprocess.run(["/bin/bash", "-c", line], cwd=str(command.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 73
    assert done.stdout.startswith(b'{"server_hostname"')
    assert done.stderr.decode().splitlines() == ["mail_relay_tracker: standard output was closed by its reader"]


def test_reader_of_the_help_is_gone_before_it_comes():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, str(ROOT / "mail_relay_tracker.py"), "--help"], stdout=writer, stderr=subprocess.PIPE,
                          universal_newlines=True, env=dict(os.environ, PYTHONUNBUFFERED=""), check=False)
    os.close(writer)
    told(done, 73, "standard output was closed by its reader")


@pytest.mark.parametrize("output, words", [(">/dev/full", "No space left on device"), (">&-", "standard output is closed")])
@pytest.mark.parametrize("arguments", ["--import %s" % LOG, "--import %s --dry-run" % LOG, "--check", "--help", "--version"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written(command, arguments, output, words, unbuffered):
    line = "exec %s %s %s %s" % (sys.executable, ROOT / "mail_relay_tracker.py", arguments, output)
    told(subprocess.run(["/bin/bash", "-c", line], cwd=str(command.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                        universal_newlines=True, env=dict(os.environ, PYTHONUNBUFFERED=unbuffered)), 73, words)


@pytest.mark.parametrize("form", ["<(cat %s)", "<(cat %s) <&-", "<(gzip -c %s)", "- < %s", "/dev/stdin < <(cat %s)"])
def test_import_from_a_pipe(command, form):
    line = "%s %s --import %s" % (sys.executable, ROOT / "mail_relay_tracker.py", form % LOG)
    done = subprocess.run(["/bin/bash", "-c", line], cwd=str(command.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for file in command.folder.glob("mail_relay_tracker.db*"):
        file.unlink()
    assert done.stdout == command.run("--import", LOG).stdout.encode()


def test_import_of_a_few_lines_from_a_pipe(command):
    few = command.folder / "few.log"
    few.write_bytes(b"".join(LOG.read_bytes().splitlines(keepends=True)[:9]))
    with few.open("rb") as source:
        assert "lines             9 read" in command.run("--import", "-", stdin=source).stdout


def test_import_from_a_pipe_without_room_for_what_comes(command):
    with LOG.open("rb") as source:
        done = command.run("--import", "-", stdin=source, environment={"TMPDIR": str(command.folder)},
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000)))
    told(done, 73, "the temporary folder %s:" % command.folder, "File too large", "make room", "TMPDIR")
    assert not list(command.folder.iterdir())


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)])
def test_import_from_a_pipe_that_is_ended_leaves_no_copy(command, number, code):
    with subprocess.Popen([sys.executable, str(ROOT / "mail_relay_tracker.py"), "--import", "-"], cwd=str(command.folder),
                          env=dict(os.environ, TMPDIR=str(command.folder)), stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(LOG.read_bytes())
        process.stdin.flush()
        wait_until(lambda: waits_for_more(process))
        assert str(command.folder) in " ".join(map(os.readlink, glob.glob("/proc/%d/fd/*" % process.pid)))
        process.send_signal(number)
        assert process.wait(20) == code
    assert not list(command.folder.iterdir())


def waits_for_more(process):
    """Whether a process has read all that was sent to it and sleeps until there is more."""
    unread = fcntl.ioctl(process.stdin, termios.FIONREAD, b"\0" * 4)
    state = pathlib.Path("/proc/%d/stat" % process.pid).read_text(encoding="ascii").rpartition(")")[2].split()[0]
    return unread == b"\0" * 4 and state == "S"


@pytest.mark.parametrize("is_journal", [True, False])
def test_the_journal_names_the_program_itself_and_is_told_how_severe_a_message_is(command, settings, is_journal):
    """It is known by what systemd tells a service of its standard error: device and inode."""
    path = command.configure(**dict(settings, logging__log_file="nowhere.log", database__password="known to all"))
    os.chmod(path, 0o644)
    with open(str(command.folder / "journal"), "w+", encoding="utf-8") as journal:
        status = os.fstat(journal.fileno())
        stream = "%d:%d" % (status.st_dev, status.st_ino if is_journal else status.st_ino + 1)
        code = subprocess.run([sys.executable, str(ROOT / "mail_relay_tracker.py"), "-c", path, "--once"], check=False, stderr=journal,
                              env=dict(os.environ, JOURNAL_STREAM=stream)).returncode
        journal.seek(0)
        warning, error = journal.read().splitlines()
    assert code == 74 and warning.startswith(("<4>" if is_journal else "mail_relay_tracker: ") + "WARNING: ")
    assert error.startswith(("<3>" if is_journal else "mail_relay_tracker: ") + "log file nowhere.log: ")


@pytest.mark.parametrize("arguments, code", [("--nope", 64), ("-c /nowhere --check", 78)])
def test_errors_that_cannot_be_told_end_with_their_code(command, arguments, code):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, str(ROOT / "mail_relay_tracker.py"), *arguments.split()], cwd=str(command.folder),
                              stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.returncode == code


def test_warnings_that_cannot_be_told_change_no_code(command, settings):
    """The interpreter tries at its end to write what is left of them, and has a code of its own for its failure."""
    path = command.configure(**dict(settings, database__password="known to all"))
    os.chmod(path, 0o644)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, str(ROOT / "mail_relay_tracker.py"), "-c", path, "--once", "-v"], check=False,
                              stdout=subprocess.PIPE, stderr=full, env=dict(os.environ, PYTHONUNBUFFERED=""))
    assert done.returncode == 0 and b"rows            346 in SQLite file" in done.stdout


def test_import_from_standard_input_that_cannot_be_read(command):
    with (command.folder / "output").open("wb") as output:
        told(command.run("--import", "-", stdin=output), 74, "cannot read -: Bad file descriptor")


def test_import_from_standard_input_that_is_closed(command):
    line = "%s %s --import - <&-" % (sys.executable, ROOT / "mail_relay_tracker.py")
    told(subprocess.run(["/bin/bash", "-c", line], cwd=str(command.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                        universal_newlines=True), 74, "standard input is closed")


def test_control_c_stops_the_daemon(command, settings):
    daemon = command.start("-c", command.configure(**settings))
    wait_until((command.folder / "state.json").exists)
    daemon.send_signal(signal.SIGINT)
    said = daemon.communicate(timeout=20)[1]
    assert daemon.returncode == 0 and b"Traceback" not in said


def test_signals_that_its_parent_had_blocked_are_heard_by_the_daemon(command, settings):
    blocking = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); os.execv(sys.argv[1], sys.argv[1:])"
    follow = [sys.executable, str(ROOT / "mail_relay_tracker.py"), "-c", command.configure(**settings)]
    with subprocess.Popen([sys.executable, "-c", blocking, *follow]) as daemon:
        wait_until((command.folder / "state.json").exists)
        daemon.terminate()
        try:
            assert daemon.wait(10) == 0
        finally:
            daemon.kill()


def test_control_c_ends_a_command_for_which_SQLite_is_busy_for_long(command, settings):
    """As with the indexes of a large file: here it counts for minutes when a row is written."""
    store = tracker.SqliteStore(str(settings["database__database"]))
    store.connect()
    store._query("CREATE TRIGGER slow AFTER INSERT ON mail_relay_log BEGIN SELECT max(n) FROM ("
                 "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2000000000) SELECT n FROM c); END")
    store.close()
    process = command.start("-c", command.configure(**settings), "--import", LOG)
    wait_until(lambda: os.path.exists(str(settings["database__database"]) + "-shm"))
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=5)[1].decode()
    assert process.returncode == 130 and said.startswith("mail_relay_tracker: interrupted") and said.count("\n") == 1, said


def test_control_c_is_heard_while_SQLite_looks_for_the_next_row_to_show():
    store = tracker.SqliteStore(":memory:")
    store.connect()
    store.connection.set_progress_handler(lambda: True, 1)      # as when a signal's handler raises there
    with pytest.raises(KeyboardInterrupt):
        list(store.all_rows())
    store.close()


@pytest.mark.parametrize("name", ["nofile.log", "."])
def test_import_of_what_cannot_be_read(command, name):
    told(command.run("--import", LOG, name), 74, name)


@as_root
def test_import_of_a_file_that_the_user_may_not_read(command):
    log = command.folder / "mail.log"
    log.write_bytes(b"")
    log.chmod(0o600)
    open_to_all(command)
    done = run_as_nobody(command, "--import", "mail.log")
    told(done, 74, "mail.log: Permission denied: make it readable for user nobody")


@pytest.mark.parametrize("error, remedy", [
    (FileNotFoundError(errno.ENOENT, "none"), "name log files"), (EOFError("cut off"), "name log files"),
    (OSError(errno.EIO, "Input/output error"), "check its disk")])
def test_import_of_what_cannot_be_read_is_told_with_what_fits(error, remedy):
    assert remedy in str(tracker.unreadable("mail.log", error))


@pytest.mark.parametrize("error, remedy", [
    (PermissionError(errno.EACCES, "Permission denied"), "check [logging] log_file and the rights of user "),
    (OSError(errno.EMFILE, "Too many open files"), "raise the limit of open files (LimitNOFILE=, `ulimit -n`)"),
    (OSError(errno.ESTALE, "Stale file handle"), "check its disk, or the server where it is")])
def test_log_that_cannot_be_read_is_told_with_what_fits(error, remedy):
    said = str(tracker.Logs("mail.log", tracker.open_log).unreadable(error))
    assert said.startswith("log file mail.log: %s: %s" % (error.strerror, remedy))


def test_check_tells_each_thing_in_a_line(command, settings, mysql, mariadb):
    done = command.run("-c", command.configure(**mysql), "--check")
    assert done.returncode == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", "configuration"], ["ok", "log"], ["ok", "state"], ["ok", "database"]]
    done = command.run("-c", command.configure(**dict(settings, logging__log_file="/nowhere/mail.log")), "--check")
    assert done.returncode == 1 and "FAULT log" in done.stdout


def test_check_tells_what_it_sees(command, settings):
    path, log = command.configure(**settings), "ok    log           %s, %d bytes, 0 rotated files; " % (LOG, LOG.stat().st_size)
    said = command.run("-vvv", "-c", path, "--check").stdout
    assert re.search(re.escape(log) + "[1-9][0-9]* of the first lines tell of mail\n", said)
    assert "; tracking all recipients\n" in said and "state.json, no position saved yet\n" in said and "t.db, to be made\n" in said
    assert command.run("-c", path, "--once").returncode == 0
    (command.folder / "empty.log").touch()
    path = command.configure(**dict(settings, logging__log_file="empty.log", filters__track_domains="a.test b.test"))
    said = command.run("-c", path, "--check").stdout
    assert "empty.log, 0 bytes, 0 rotated files; none of the first lines tells of mail yet\n" in said
    assert "; tracking a.test, b.test\n" in said and re.search("state.json, position [1-9]", said)
    assert "t.db, table mail_relay_log, newest row 2026-11-22 13:13:" in said


def test_check_finds_a_database_that_takes_no_rows(command, mysql, mariadb):
    path = command.configure(**mysql)
    trials = (("REVOKE INSERT ON errors.* FROM mailtracker@localhost", "GRANT INSERT ON errors.* TO mailtracker@localhost", "1142"),
              ("REVOKE UPDATE ON errors.* FROM mailtracker@localhost", "GRANT UPDATE ON errors.* TO mailtracker@localhost", "1142"),
              ("SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0", "read-only"))
    for before, after, words in trials:
        mariadb.client(before)
        done = command.run("-c", path, "--check")
        mariadb.client(after)
        fault = done.stdout.splitlines()[-1]
        assert done.returncode == 1 and fault.startswith("FAULT database") and words in fault
    assert command.run("-c", path, "--check").returncode == 0
    assert mariadb.client("SELECT COUNT(*) FROM errors.mail_relay_log").split()[-1] == "0"


def test_check_finds_an_sqlite_file_that_cannot_be_made(command, settings):
    done = command.run("-c", command.configure(**dict(settings, database__database="/nowhere/t.db")), "--check")
    assert done.returncode == 1 and "FAULT database" in done.stdout and "cannot write to /nowhere" in done.stdout


def test_log_is_a_pipe(command, settings):
    os.mkfifo(str(command.folder / "pipe"))
    path = command.configure(**dict(settings, logging__log_file=command.folder / "pipe"))
    told(command.run("-c", path, "--once", timeout=10), 74, "not a regular file", "[logging] log_file")


def test_too_many_rotated_files_for_the_limit_of_open_ones(command, settings):
    lines, log = LOG.read_bytes().splitlines(True), command.folder / "mail.log"
    path = command.configure(**dict(settings, logging__log_file=log))
    for number in range(15, 0, -1):
        log.write_bytes(b"".join(lines[200 * (15 - number):200 * (16 - number)]))
        if number == 15:
            assert command.run("-c", path, "--once").returncode == 0
        log.rename("%s.%d" % (log, number))
    log.touch()
    done = command.run("-c", path, "--once", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (14, 14)))
    told(done, 74, "mail.log.", "Too many open files", "raise the limit of open files")
    assert command.run("-c", path, "--once").returncode == 0
    assert rows_in(command.folder / "t.db") == 346      # and one message that may still go on


def test_import_of_a_file_that_only_another_program_unpacks(command):
    (command.folder / "mail.log.3.zst").write_bytes(b"\x28\xb5\x2f\xfd\n\n")
    told(command.run("--import", LOG, "mail.log.3.zst"), 74, "mail.log.3.zst", "unpack it first")
    assert not (command.folder / "mail_relay_tracker.db").exists()


@pytest.mark.parametrize("terminal, shown", [
    (True, "\r1.5 MB, 1000 lines/s, 7 rows \r" "\r2.5 MB, 500 lines/s, 7 rows \r"), (False, "")])
def test_progress_is_shown_on_a_terminal_five_times_a_second(monkeypatch, terminal, shown):
    stream, now, recorder = io.StringIO(), mock.Mock(return_value=100.0), mock.Mock(rows=7)
    stream.isatty = lambda: terminal
    recorder.tracker.totals.return_value = (250, 0, 50, 0, 0)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(tracker.clock, "monotonic", now)
    progress = tracker.Progress()
    for second, position in ((100.1, 500000), (100.3, 1500000), (100.4, 2000000), (100.6, 2500000)):
        now.return_value = second
        progress.show(position, recorder)
    assert stream.getvalue() == shown


def test_import_goes_on_when_its_terminal_is_gone(command):
    """As after the end of a remote session: what is told is lost, the rows are not."""
    (command.folder / "long.log").write_bytes(LOG.read_bytes() * 60)
    reader, terminal = os.openpty()
    started = subprocess.Popen([sys.executable, str(ROOT / "mail_relay_tracker.py"), "--import", "long.log"], cwd=str(command.folder),
                               stdout=subprocess.PIPE, stderr=terminal)
    os.close(terminal)
    assert b"rows" in os.read(reader, 100)
    os.close(reader)
    said = started.communicate()[0].decode()
    assert started.returncode == 0 and "lines        180000 read" in said, said


def test_import_with_standard_error_closed(command):
    done = subprocess.run([sys.executable, str(ROOT / "mail_relay_tracker.py"), "--import", str(LOG)], cwd=str(command.folder),
                          stdout=subprocess.PIPE, check=False, preexec_fn=lambda: os.close(2))
    assert done.returncode == 0 and b"347 in SQLite" in done.stdout


def test_names_that_the_locale_cannot_show(command, settings):
    database = command.folder / "m\xfcll.db"
    path = command.configure(**dict(settings, database__database=database, filters__track_domains="m\xfcnchen.example"))
    for coding in ("ascii", "utf-8"):
        done = command.run("-c", path, "--check", environment={"PYTHONIOENCODING": coding, "LC_ALL": "C"})
        assert done.returncode == 0, done.stderr
        assert ("m\\xfcnchen" if coding == "ascii" else "m\xfcnchen") in done.stdout


def test_paths_that_the_locale_cannot_say(command):
    """They are what they are in the configuration, which is UTF-8."""
    folder = command.folder / "m\xfcll"
    folder.mkdir()
    (folder / "l\xf6g").write_bytes(LOG.read_bytes())
    path = command.configure(database__engine="sqlite", database__database=folder / "d\xe4ten.db", logging__log_file=folder / "l\xf6g",
                             state__state_file=folder / "st\xe4te.json")
    for arguments in (["--check"], ["--once"], ["--check"]):
        done = command.run("-c", path, *arguments, environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
        assert done.returncode == 0 and not done.stderr, done.stderr
    assert {"l\xf6g", "d\xe4ten.db", "st\xe4te.json"} <= {one.name for one in folder.iterdir()}


@pytest.mark.parametrize("opener", [gzip.open, lzma.open])
def test_all_before_the_damage_counts(command, opener):
    """Of an archive that ends too early every line is read that its own program would have unpacked."""
    archive = command.folder / "cut"
    with opener(archive, "wb") as handle:
        handle.write(LOG.read_bytes())
    archive.write_bytes(archive.read_bytes()[:-archive.stat().st_size // 20])
    unpacked = subprocess.run(["zcat" if opener is gzip.open else "xzcat"], stdin=archive.open("rb"), stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False).stdout
    done = command.run("--import", archive)
    assert done.returncode == 74 and len(unpacked) > 100000
    assert int(done.stdout.split()[1]) == len(unpacked.splitlines())


@as_root
def test_live_log_is_not_readable_after_a_rotation(command, settings):
    """It is told once, told over once, and meanwhile counted as unread."""
    lines = LOG.read_bytes().splitlines(True)
    log, said = command.folder / "mail.log", command.folder / "said"
    log.write_bytes(b"".join(lines[:1000]))
    log.chmod(0o644)
    path = open_to_all(command, **dict(settings, logging__log_file=log, system__rotation_check_interval=0.5, logging__poll_interval=0.1))
    with said.open("wb") as output:
        daemon = subprocess.Popen([sys.executable, "-c", AS_ANOTHER, str(ROOT), str(NOBODY), "-c", path, "-v"], stderr=output,
                                  cwd=str(command.folder))
    try:
        wait_until((command.folder / "state.json").exists)
        log.rename(command.folder / "mail.log.1")
        (command.folder / "new").write_bytes(b"".join(lines[1000:]))
        (command.folder / "new").chmod(0o600)
        (command.folder / "new").rename(log)
        wait_until(lambda: b"Permission denied" in said.read_bytes())
        time.sleep(2)
        wait_until(lambda: daemon.send_signal(signal.SIGUSR1) or b"log: %d bytes to read" % log.stat().st_size in said.read_bytes())
        assert b"can be read again" not in said.read_bytes() and said.read_bytes().count(b"ERROR") == 1
        log.chmod(0o644)
        wait_until(lambda: b"can be read again" in said.read_bytes() and b"was rotated" in said.read_bytes())
    finally:
        daemon.kill()
        daemon.wait()


@as_root
def test_check_finds_a_rotated_log_that_cannot_be_read(command, settings):
    log, rotated = command.folder / "mail.log", command.folder / "mail.log.1"
    for one in (log, rotated):
        one.write_bytes(LOG.read_bytes())
        one.chmod(0o644)
    path = open_to_all(command, **dict(settings, logging__log_file=log))
    assert run_as_nobody(command, "-c", path, "--check").returncode == 0
    rotated.chmod(0o600)
    done = run_as_nobody(command, "-c", path, "--check")
    assert done.returncode == 1 and "FAULT log" in done.stdout and str(rotated) in done.stdout


def test_the_end_where_it_began_is_kept_while_the_database_is_away(command, mysql, mariadb):
    """With `start = end` all that comes behind the first start is to be read, though the database was not there yet."""
    lines = LOG.read_bytes().splitlines(True)
    log = command.folder / "mail.log"
    log.write_bytes(b"".join(lines[:1500]))
    settings = dict(mysql, logging__log_file=log, logging__start="end")
    daemon = command.start("-c", command.configure(**dict(settings, database__unix_socket="/nowhere")))
    wait_until((command.folder / "state.json").exists)
    with log.open("ab") as handle:
        handle.write(b"".join(lines[1500:]))
    daemon.kill()
    daemon.communicate()
    done = command.run("-c", command.configure(**settings), "--once")
    assert done.returncode == 0 and "%d read" % len(lines[1500:]) in done.stdout


def rows_in(database):
    """How many rows an SQLite file holds; none when it, or its table, is not there."""
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(
            sqlite3.connect("file:%s?mode=ro" % database, uri=True)) as connection:
        return connection.execute("SELECT COUNT(*) FROM mail_relay_log").fetchone()[0]
    return 0


def test_sqlite_file_is_removed_under_the_service(command, settings):
    """What is written from then on is in the new one."""
    lines = LOG.read_bytes().splitlines(True)
    log = command.folder / "mail.log"
    log.write_bytes(b"".join(lines[:1500]))
    path = command.configure(**dict(settings, logging__log_file=log, logging__cleanup_interval=0.2, logging__poll_interval=0.1))
    daemon = command.start("-c", path)
    database = command.folder / "t.db"
    try:
        wait_until(lambda: rows_in(database) > 100)
        for one in command.folder.glob("t.db*"):
            one.unlink()
        with log.open("ab") as handle:
            handle.write(b"".join(lines[1500:]))
        wait_until(lambda: rows_in(database) > 100)
    finally:
        daemon.kill()
        daemon.communicate()


def test_the_log_of_an_sqlite_file_is_removed_under_the_service(command, settings):
    """As by somebody who tidies up: `t.db-wal` holds what was committed last, and a kill -9 would take that along."""
    lines = LOG.read_bytes().splitlines(True)
    log, database = command.folder / "mail.log", command.folder / "t.db"
    log.write_bytes(b"".join(lines[:1500]))
    path = command.configure(**dict(settings, logging__log_file=log, logging__cleanup_interval=0.2, logging__poll_interval=0.1))
    daemon = command.start("-c", path)
    try:
        wait_until(lambda: rows_in(database) > 100)
        for ending in ("-wal", "-shm"):
            pathlib.Path("%s%s" % (database, ending)).unlink()
        with log.open("ab") as handle:
            handle.write(b"".join(lines[1500:]))
        wait_until(lambda: rows_in(database) > 300)
    finally:
        daemon.kill()
        daemon.communicate()
    assert command.run("-c", path, "--once").returncode == 0
    assert rows_in(database) == 346


READER = """import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone(), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def read_by_another(database):
    """Meanwhile another process has an SQLite file open."""
    reader = subprocess.Popen([sys.executable, "-c", READER, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert reader.stdout.readline()
        yield
    finally:
        reader.communicate()


@pytest.mark.parametrize("since", ["before", "after"])
def test_the_log_of_an_sqlite_file_is_removed_while_another_one_reads(tmp_path, since):
    """Whose lock keeps a connection that ends from bringing in what the log without a name holds; and the path is that of a link."""
    disk, path, row_of = tmp_path / "disk", tmp_path / "t.db", test_parts.Columns().row
    disk.mkdir()
    path.symlink_to(disk / "t.db")
    store = tracker.SqliteStore(str(path))
    store.connect()
    store.write([row_of(queue_id="3854F170001")])
    with contextlib.ExitStack() as stack:
        steps = [lambda: stack.enter_context(read_by_another(path)), lambda: [one.unlink() for one in disk.glob("t.db-*")]]
        for step in steps if since == "before" else reversed(steps):
            step()
        with pytest.raises(tracker.StoreGone):
            store.write([row_of(queue_id="3854F170002")])
        store.connect()
        store.write([row_of(queue_id="3854F170002")])
        assert rows_in(path) == 2
    store.close()
    assert rows_in(path) == 2


def test_a_temporary_sqlite_file_is_no_other_whatever_lies_in_the_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-wal").touch()
    store = tracker.SqliteStore("")
    store.connect()
    (tmp_path / "-wal").unlink()
    store.write([test_parts.Columns().row(queue_id="3854F170001")])
    assert len(list(store.all_rows())) == 1


def test_a_limit_of_memory_costs_no_line(command, settings):
    """No line is bad because there is no memory for what it tells: the service ends, and systemd begins it anew."""
    log, said = command.folder / "mail.log", command.folder / "said"
    log.touch()
    path = command.configure(**dict(settings, logging__log_file=log, logging__poll_interval=0.01))
    with said.open("wb") as output:
        daemon = subprocess.Popen([sys.executable, str(ROOT / "mail_relay_tracker.py"), "-c", path], cwd=str(command.folder), stderr=output)
    try:
        wait_until((command.folder / "state.json").exists)
        size = int(pathlib.Path("/proc/%d/statm" % daemon.pid).read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, (size + (8 << 20), resource.RLIM_INFINITY))
        with log.open("a", encoding="ascii") as handle:
            for number in range(30000):
                stamp = load.stamp(time.time())
                handle.write("%s mx postfix/qmgr[8]: 3%09X: from=<a%d@x.test>, size=9, nrcpt=1 (queue active)\n" % (stamp, number, number))
                handle.write("%s mx postfix/smtp[9]: 3%09X: to=<b%d@x.test>, relay=none, delay=1, dsn=4.4.1, status=deferred (slow)\n"
                             % (stamp, number, number))
        assert daemon.wait(60) == 74
    finally:
        daemon.kill()
        daemon.wait()
    assert re.match(r"mail_relay_tracker: out of memory: raise its limit .*\n$", said.read_text())
    assert command.run("-c", path, "--once").returncode == 0
    assert rows_in(command.folder / "t.db") == 30000


def test_a_driver_that_gets_no_memory_is_no_database_that_is_away():
    """To wait for it would be in vain: what fills the memory waits, too."""
    class Connection:
        @staticmethod
        def cmd_query(_):
            raise MemoryError

    store = tracker.MysqlStore([("localhost", 3306)], {"database": "mail_tracking"})
    store.connection = Connection()
    with pytest.raises(MemoryError):
        store.write([test_parts.Columns().row(queue_id="3854F170001")])
