"""The state file: damaged in every way, written by hand, held by another tracker, on a full disk, by a crash half written.

Whatever stands there, the rows in the end are those of an undisturbed life, or the tracker says why it goes another way.

    STATE_SEED=7 STATE_EXAMPLES=5000 pytest tests/test_state.py -k random       other, and more, random contents
"""
import contextlib
import errno
import fcntl
import json
import logging
import os
import pathlib
import re
import resource
import signal
import socket
import sqlite3
import stat
import string
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import ROOT, Command
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as some
from test_errors import as_root, run_as_nobody, told
from test_follow import Live, message, stored

import mail_relay_tracker as tracker
from tests.unit import test_parts

EXAMPLES = int(os.environ.get("STATE_EXAMPLES", "150"))
SEED = int(os.environ.get("STATE_SEED", "1"))
OPEN = ("connect", "tls", "spf", "client", "id")        # what is known of a message that is just coming in
REST = ("active", "gone", "sent", "removed")
BEFORE = sum((message(number) for number in range(1, 5)), []) + message(5, *OPEN)
AFTER = message(5, *REST) + sum((message(number) for number in range(6, 9)), [])


# -- lives within this process, as many as there are bytes to damage

class Remembering(tracker.SqliteStore):
    """A table in memory that is, at every connect, as it was when the tracker had stopped."""

    def __init__(self, remembered):
        super().__init__(":memory:")
        self.remembered = remembered

    def connect(self):
        super().connect()
        self.remembered.backup(self.connection)


class Life:
    """What one life of the tracker did: where it began to read, how many lines, the rows in the end, the damaged states it left."""

    def __init__(self, halfway, begin, recorder):
        self.begin, self.lines = begin, sum(recorder.tracker.totals())
        self.rows = sorted(recorder.store.all_rows(), key=repr)
        self.aside = sorted(halfway.folder.glob("state.json.damaged-*"))

    def is_named(self, caplog):
        """Whether the damaged state was moved aside, and the log names it and where it is now; whatever was logged is forgotten."""
        said = "".join(record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
        caplog.clear()
        return len(self.aside) == 1 and "cannot be used" in said and str(self.aside[0]) in said and "[logging] start" in said


class Halfway:
    """A tracker that was stopped in the middle of a message: its log has grown since, its table and state can be had again and again."""

    def __init__(self, folder):
        self.folder = folder
        self.log, self.path = folder / "mail.log", folder / "state.json"
        command = Command(folder)
        self.configs = {start: tracker.load_config(command.configure(start + ".conf", database__engine="sqlite", logging__start=start))
                        for start in ("beginning", "end")}
        self.log.write_text("".join(BEFORE), encoding="utf-8")
        self.table = sqlite3.connect(":memory:")
        store = tracker.SqliteStore(":memory:")
        self.known = self.live(store=store).rows
        store.connection.backup(self.table)
        self.state = self.path.read_bytes()
        with open(str(self.log), "a", encoding="utf-8") as log:
            log.write("".join(AFTER))
        self.size, self.inode = self.log.stat().st_size, self.log.stat().st_ino
        self.position = json.loads(self.state.decode())["position"]
        self.undisturbed = self.live(self.state).rows

    def live(self, state=None, start="beginning", store=None):
        """Read to the end of the log from this state."""
        for old in self.folder.glob("state.json*"):
            old.unlink()
        if state is not None:
            self.path.write_bytes(state)
        store = store or Remembering(self.table)
        file, follower = tracker.StateFile(str(self.path)), tracker.Follower(str(self.log), 5)
        rejects = tracker.RejectFile("/nowhere/rejected")
        recorder = tracker.Recorder(store, tracker.make_tracker(self.configs[start]), rejects, tracker.pause, 1)
        daemon = tracker.Daemon(self.configs[start], follower, recorder, file)
        file.acquire()
        with contextlib.closing(follower):
            daemon.begin()
            begin = follower.position
            recorder.begin()
            daemon.once(tracker.Progress())
        file.release()
        return Life(self, begin, recorder)


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """A tracker stopped in the middle of a message; in memory where that is possible, for it lives some thousand times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(tmp_path_factory.mktemp("halfway"))
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Halfway(pathlib.Path(folder))


def test_the_undisturbed_life_goes_on_where_it_stopped_and_equals_a_single_one(halfway):
    life = halfway.live(halfway.state, "end")
    whole = halfway.live(store=tracker.SqliteStore(":memory:"))
    assert life.begin == halfway.position < halfway.size
    assert len(halfway.known) < len(life.rows) == 8
    assert life.rows == whole.rows == halfway.undisturbed
    assert json.loads(halfway.path.read_text())["position"] == halfway.size


def survives(halfway, caplog, state):
    """A life with this state ends in the undisturbed rows; or the state is moved aside, named, and `start` decides."""
    assert halfway.live(state).rows == halfway.undisturbed, state
    caplog.clear()
    life = halfway.live(state, "end")
    if life.rows != halfway.undisturbed:
        assert life.is_named(caplog) and life.begin == halfway.size and life.rows == halfway.known, state
    assert json.loads(halfway.path.read_text())["position"] == halfway.size, state


DAMAGES = {"lowest bit": lambda byte: byte ^ 1, "highest bit": lambda byte: byte ^ 128, "zero": lambda byte: 0,
           "digit": lambda byte: ord("9"), "quote": lambda byte: ord('"')}


def test_T12_a_state_cut_at_every_byte(halfway, caplog):
    assert len(halfway.state) > 200
    for length in range(len(halfway.state)):
        survives(halfway, caplog, halfway.state[:length])


@pytest.mark.parametrize("damage", DAMAGES)
def test_T12_a_state_with_every_byte_damaged(halfway, caplog, damage):
    for place, byte in enumerate(halfway.state):
        survives(halfway, caplog, halfway.state[:place] + bytes([DAMAGES[damage](byte)]) + halfway.state[place + 1:])


# -- contents that somebody may have put there



CONTENTS = (
    # (name, contents, where the reading begins: where they say, at the beginning, or at the end once they are moved aside)
    ("as in the README", '{"position": $P, "inode": $I}\n', "there"),
    ("with the device", '{"position": $P, "inode": $I, "device": $D}', "there"),
    ("inode unknown", '{"position": $P}', "there"),
    ("inode null", '{"position": $P, "inode": null}', "there"),
    ("spaces, line ends, another order", '\r\n {\n\t"inode" : $I,\r\n "position" : $P }\n\n', "there"),
    ("keys of nobody", '{"position": $P, "inode": $I, "comment": "by hand", "offset": 7}', "there"),
    ("the last of two equal keys", '{"position": 0, "position": $P, "inode": $I}', "there"),
    ("the first version", '{"version": 1, "position": $P, "inode": $I}', "there"),
    ("another inode", '{"position": $P, "inode": 1}', "beginning"),
    ("another device", '{"position": $P, "inode": $I, "device": 1}', "beginning"),
    ("behind the end", '{"position": 99999999, "inode": $I}', "beginning"),
    ("far behind the end", '{"position": 9223372036854775807, "inode": $I}', "beginning"),
    ("no inode, behind the end", '{"position": 9223372036854775807}', "beginning"),
    ("at zero", '{"position": 0, "inode": $I}', "beginning"),
    ("behind every file", '{"position": %s, "inode": $I}' % ("9" * 40), "aside"),
    ("more digits than Python reads", '{"position": %s, "inode": $I}' % ("9" * 5000), "aside"),
    ("an inode of more digits", '{"position": $P, "inode": %s}' % ("9" * 40), "aside"),
    ("negative", '{"position": -1, "inode": $I}', "aside"),
    ("negative inode", '{"position": $P, "inode": -1}', "aside"),
    ("a float", '{"position": $P.0, "inode": $I}', "aside"),
    ("an exponent", '{"position": 1e3, "inode": $I}', "aside"),
    ("a string", '{"position": "$P", "inode": $I}', "aside"),
    ("an inode as string", '{"position": $P, "inode": "$I"}', "aside"),
    ("an empty inode", '{"position": $P, "inode": ""}', "aside"),
    ("an inode that is a list", '{"position": $P, "inode": []}', "aside"),
    ("an inode that is false", '{"position": $P, "inode": false}', "aside"),
    ("a device that is an object", '{"position": $P, "inode": $I, "device": {}}', "aside"),
    ("true", '{"position": true, "inode": $I}', "aside"),
    ("null", '{"position": null, "inode": $I}', "aside"),
    ("no number", '{"position": NaN, "inode": $I}', "aside"),
    ("infinite", '{"position": Infinity, "inode": $I}', "aside"),
    ("a list", '{"position": [$P], "inode": $I}', "aside"),
    ("no position", '{"inode": $I}', "aside"),
    ("a future version", '{"version": 2, "position": $P, "inode": $I}', "aside"),
    ("a version that is no number", '{"version": "1", "position": $P, "inode": $I}', "aside"),
    ("a version that is null", '{"version": null, "position": $P, "inode": $I}', "aside"),
    ("fingerprint a list", '{"position": $P, "inode": $I, "fingerprint": [1]}', "aside"),
    ("fingerprint a string", '{"position": $P, "inode": $I, "fingerprint": "x"}', "aside"),
    ("fingerprint a number", '{"position": $P, "inode": $I, "fingerprint": 5}', "aside"),
    ("half a witness", '{"position": $P, "inode": $I, "fingerprint": {"head": [1]}}', "aside"),
    ("a witness too long", '{"position": $P, "inode": $I, "fingerprint": {"head": [99999999, "x"], "tail": null}}', "aside"),
    ("a witness of negative length", '{"position": $P, "inode": $I, "fingerprint": {"head": [-1, "x"], "tail": [-1, "x"]}}', "aside"),
    ("a witness that is an object", '{"position": $P, "inode": $I, "fingerprint": {"tail": {"a": 1, "b": 2}}}', "aside"),
    ("a witness of nothing", '{"position": $P, "inode": $I, "fingerprint": {"head": [0, ""], "tail": [0, ""]}}', "beginning"),
    ("time no number", '{"position": $P, "inode": $I, "mtime": "yesterday"}', "aside"),
    ("empty", "", "aside"),
    ("a newline", "\n", "aside"),
    ("zeros", "\0" * 400, "aside"),
    ("a number alone", "4711", "aside"),
    ("a list alone", "[$P, $I]", "aside"),
    ("null alone", "null", "aside"),
    ("a position and more", '{"position": $P, "inode": $I} {}', "aside"),
    ("a comment", '# skip\n{"position": $P, "inode": $I}', "aside"),
    ("single quotes", "{'position': $P, 'inode': $I}", "aside"),
    ("lists without end", "[" * 200000, "aside"),
    ("lists without end behind the position", '{"position": $P, "inode": $I, "x": %s' % ("[" * 200000), "aside"),
    ("lists in lists", '{"position": $P, "inode": $I, "x": %s%s}' % ("[" * 100000, "]" * 100000), "aside"),
    ("more than anybody would keep", '{"position": $P, "inode": $I, "x": "%s"}' % ("x" * (2 << 20)), "aside"),
    ("the state of Filebeat", '{"_key":"filebeat::logs::native::$I-$D","_value":{"offset":$P,"source":"/var/log/mail.log"}}', "aside"),
    ("the state of rsyslog", '{ "filename": "/var/log/mail.log", "prev_was_nl": 0, "curr_offs": $P, "strt_offs": 0 }', "aside"),
    ("the state of pygtail", "$I\n$P", "aside"),
    ("the state of logrotate", 'logrotate state -- version 2\n"/var/log/mail.log" 2026-11-22-0:0:0\n', "aside"),
    ("no UTF-8", b'{"position": 7, "inode": 5, "x": "\xff"}', "aside"),
    ("a byte order mark", '\ufeff{"position": $P, "inode": $I}', "aside"),
    ("UTF-16", '{"position": 7, "inode": 5}'.encode("utf-16"), "aside"),
    ("a program", pathlib.Path(sys.executable).read_bytes()[:4096], "aside"),
    ("packed", b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bytes(range(256)), "aside"),
)


@pytest.mark.parametrize("contents, expected", [case[1:] for case in CONTENTS], ids=[case[0] for case in CONTENTS])
def test_T12_a_state_of_other_making(halfway, caplog, contents, expected):
    data = contents
    if isinstance(contents, str):
        names = {"P": halfway.position, "I": halfway.inode, "D": halfway.log.stat().st_dev}
        data = string.Template(contents).safe_substitute(names).encode("utf-8")
    life = halfway.live(data, "end")
    assert life.begin == {"there": halfway.position, "beginning": 0, "aside": halfway.size}[expected]
    assert life.is_named(caplog) == (expected == "aside")
    assert life.rows == (halfway.known if expected == "aside" else halfway.undisturbed)
    if expected == "aside":
        assert life.aside[0].read_bytes() == data
    assert halfway.live(data).rows == halfway.undisturbed


def test_T12_inodes_of_all_64_bits_are_as_good_as_others(halfway):
    """Some file systems, GlusterFS and mergerfs, make them of a hash."""
    state = dict(json.loads(halfway.state.decode()), inode=(1 << 64) - 1, device=(1 << 64) - 1)
    life = halfway.live(json.dumps(state).encode(), "end")
    assert life.begin == halfway.position and life.rows == halfway.undisturbed and not life.aside


@pytest.mark.parametrize("version, why", [(2, "written by a newer version"), ("x", "version must be a number"),
                                          (None, "version must be a number")])
def test_T12_why_a_version_is_not_taken(version, why):
    with pytest.raises(ValueError, match=why):
        tracker.place_from({"version": version, "position": 7, "inode": 5}, tracker.StateFile.FORMAT)


def test_a_position_in_the_middle_of_a_line_begins_behind_that_line(halfway):
    begin = halfway.size - sum(map(len, AFTER))
    for distance, skipped in ((-1, 0), (0, 0), (1, 1), (len(AFTER[0]) - 1, 1), (len(AFTER[0]), 1), (len(AFTER[0]) + 1, 2)):
        state = json.dumps({"position": begin + distance, "inode": halfway.inode})
        assert halfway.live(state.encode()).lines == len(AFTER) - skipped


# Random JSON, such as may stand where ours should: our keys and others, with values of every kind.
KEYS = some.sampled_from(["version", "position", "inode", "device", "fingerprint", "head", "tail", "mtime", "time", "other"])
LEAF = (some.none() | some.booleans() | some.integers(-(1 << 70), 1 << 70) | some.integers(-2, 300) | some.floats()
        | some.text(max_size=5) | some.just("position"))
VALUE = some.recursive(LEAF, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(KEYS, inner, max_size=4), max_leaves=8)
STATE = some.dictionaries(KEYS, VALUE, max_size=9)


@seed(SEED)
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(STATE, some.booleans(), some.booleans())
def test_T12_random_states(halfway, caplog, state, placed, known):
    """`placed`, `known`: with a position that may be true, with the inode that is."""
    state.update({"position": halfway.position} if placed else {}, **({"inode": halfway.inode} if known else {}))
    position = state.get("position")
    assume(not isinstance(position, int) or not halfway.position < position <= halfway.size)    # else told to leave lines out
    survives(halfway, caplog, json.dumps(state).encode())


@seed(SEED)
@settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(some.lists(some.tuples(some.integers(0, 1000), some.integers(0, 3), some.binary(max_size=3)), min_size=1, max_size=6))
def test_T12_random_damage(halfway, caplog, edits):
    """Some bytes of the state replaced by more, or fewer."""
    state = halfway.state
    for number, length, data in edits:
        place = number % (len(state) + 1)
        state = state[:place] + data + state[place + length:]
    survives(halfway, caplog, state)


# -- lives as processes

class Heard(Live):
    """A daemon to which we listen while it runs."""

    def hears(self, text):
        """Whether it has said this by now."""
        listening = self.daemon.stderr.fileno()
        os.set_blocking(listening, False)
        with contextlib.suppress(BlockingIOError):
            self.said += os.read(listening, 1 << 16).decode("utf-8", "replace")
        return text in self.said


class Told(Heard):
    """A tracker on a log of its own, run with --once or followed, that can be compared with an undisturbed one."""

    def __init__(self, command, **settings):
        super().__init__(command, **settings)
        self.state = pathlib.Path(str(self.settings["state__state_file"]))

    def once(self, *arguments, **settings):
        """One run to the end of the log."""
        path = self.command.configure("once.conf", **dict(self.settings, **settings))
        return self.command.run("-c", path, *(arguments or ["--once"]), timeout=30)

    def follow(self):
        """Start the daemon without waiting for anything."""
        self.daemon = self.command.start("-c", self.command.configure(**self.settings))

    def saved(self):
        """The position in the state file; None while there is none."""
        return json.loads(self.state.read_text())["position"] if self.state.exists() else None

    def undisturbed(self):
        """The rows that one life without any trouble makes of the log as it is."""
        done = self.once(database__database=self.folder / "whole.db", state__state_file=self.folder / "whole.json")
        assert done.returncode == 0, done.stderr
        store = tracker.SqliteStore(str(self.folder / "whole.db"))
        store.connect()
        return sorted(store.all_rows(), key=repr)

    def rows_are_right(self):
        """Nothing is lost, nothing is there twice, nothing differs."""
        return sorted(stored(self), key=repr) == self.undisturbed()

    def nothing_was_read(self):
        """Nobody got as far as the database."""
        return not (self.folder / "t.db").exists()


@pytest.fixture
def tell(command):
    """A tracker as a process."""
    found = Told(command)
    yield found
    found.stop(signal.SIGKILL)


@pytest.fixture
def tell_all():
    """The same in a folder that every user can write to; not below pytest's, which every run of pytest closes to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        found = Told(Command(pathlib.Path(folder)))
        yield found
        found.stop(signal.SIGKILL)


def as_nobody(tell, *arguments, **settings):
    """Run the tracker as a user without rights."""
    path = tell.command.configure(**dict(tell.settings, **settings))
    os.chmod(path, 0o644)
    return run_as_nobody(tell.command, "-c", path, *arguments)


@contextlib.contextmanager
def small_disk(folder, size, files=0):
    """A file system with room for so many bytes; for so many files if that is set."""
    folder.mkdir()
    options = "size=%d,nr_inodes=%d" % (size, files)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], stderr=subprocess.DEVNULL, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path):
    """Leave no room on its disk."""
    with open(str(path), "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"x" * 4096):
            pass


def make_socket(path):
    """A socket in the file system."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(os.path.relpath(path))


def make_link(path):
    """A link to a pipe."""
    os.mkfifo(path + ".pipe")
    os.symlink(path + ".pipe", path)


STRANGE = {"directory": os.mkdir, "pipe": os.mkfifo, "socket": make_socket, "link to a pipe": make_link,
           "link to a directory": lambda path: os.symlink(os.path.dirname(path), path)}
LINKS = {"link to a file": lambda path: os.symlink("target", path), "link to nowhere": lambda path: os.symlink("nowhere", path)}


@pytest.mark.parametrize("kind", STRANGE)
def test_T12_what_is_no_regular_file_is_refused_before_reading_and_left_as_it_is(tell, monkeypatch, kind):
    tell.write(message(1))
    monkeypatch.chdir(tell.folder)
    STRANGE[kind](str(tell.state))
    before = os.lstat(str(tell.state))
    for arguments in (["--once"], ["-v"]):
        told(tell.once(*arguments), 73, os.path.realpath(str(tell.state)), "[state] state_file")
    assert "FAULT state" in tell.once("--check").stdout
    assert (os.lstat(str(tell.state)).st_mode, os.lstat(str(tell.state)).st_ino) == (before.st_mode, before.st_ino)
    assert tell.nothing_was_read()


@pytest.mark.parametrize("name", ["state.json.tmp", "state.json.lock"])
@pytest.mark.parametrize("kind", [*STRANGE, *LINKS])
def test_T12_only_a_file_is_taken_for_a_leftover_temporary_one_or_a_lock(tell, monkeypatch, kind, name):
    """Behind a link root would write over any file that the owner of the directory has chosen; of a pipe a reader would be waited for."""
    temporary, target = tell.folder / name, tell.folder / "target"
    target.write_text("somebody's")
    monkeypatch.chdir(tell.folder)
    dict(STRANGE, **LINKS)[kind](str(temporary))
    tell.write(message(1))
    for arguments in (["--once"], ["-v"]):
        told(tell.once(*arguments), 73, str(temporary), "move it away, or set [state] state_file")
    assert "FAULT state" in tell.once("--check").stdout
    assert target.read_text() == "somebody's" and not (tell.folder / "nowhere").exists()
    assert os.path.lexists(str(temporary)) and tell.nothing_was_read()


@pytest.mark.parametrize("kind", [*STRANGE, *LINKS])
def test_T13_refused_rows_are_kept_in_a_file_only(tell, monkeypatch, kind):
    """Which `--check` tells before there are any."""
    rejects, target = tell.folder / "state.json.rejected.jsonl", tell.folder / "target"
    target.write_text("somebody's")
    monkeypatch.chdir(tell.folder)
    dict(STRANGE, **LINKS)[kind](str(rejects))
    tell.write(message(1))
    words = r"reject file %s: .*: move it away, or set \[state\] state_file" % re.escape(str(rejects))
    assert re.search("FAULT state +" + words, tell.once("--check").stdout)
    opened = os.listdir("/proc/self/fd")
    with pytest.raises(tracker.OutputError, match=words + "; the row waits until then"):
        tracker.RejectFile(str(rejects)).add(test_parts.Columns().row(), "no")
    assert os.listdir("/proc/self/fd") == opened
    assert target.read_text() == "somebody's" and not (tell.folder / "nowhere").exists()


@as_root
def test_T13_check_finds_a_folder_in_which_no_refused_row_can_be_kept(tell_all):
    """That of a link to the state file: beside this stand the rows, beside the file itself the lock."""
    tell_all.write(message(1))
    (tell_all.folder / "locked").mkdir(mode=0o755)
    link = tell_all.folder / "locked" / "state.json"
    link.symlink_to(tell_all.state)
    for name in (link, "state.json"):
        assert "ok    state" in tell_all.once("--check", state__state_file=name).stdout
    checked = as_nobody(tell_all, "--check", state__state_file=link).stdout
    assert "reject file %s.rejected.jsonl: No such file or directory: create its directory, with all in it writable" % link in checked
    assert os.listdir(str(tell_all.folder / "locked")) == ["state.json"]


@as_root
def test_T12_a_device_is_refused_and_left_as_it_is(tell):
    os.mknod(str(tell.state), 0o20666, os.makedev(1, 3))
    told(tell.once(), 73, str(tell.state), "[state] state_file")
    assert tell.state.is_char_device() and tell.nothing_was_read()


def test_T12_a_state_below_a_file_is_refused_before_reading(tell):
    tell.write(message(1))
    for arguments in (["--once"], ["-v"]):
        told(tell.once(*arguments, state__state_file=tell.log / "state.json"), 73, str(tell.log / "state.json"), "[state] state_file")
    assert "FAULT state" in tell.once("--check", state__state_file=tell.log / "state.json").stdout
    assert tell.nothing_was_read()


@as_root
@pytest.mark.parametrize("there", [(), ("state.json.lock",), ("state.json.lock", "state.json")], ids=["empty", "locked before", "used"])
def test_T12_a_read_only_file_system_is_refused_before_reading(tell, there):
    tell.write(message(1))
    with small_disk(tell.folder / "disk", 65536) as disk:
        for name in there:
            (disk / name).write_text('{"position": 0, "inode": 1}')
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        path = disk / "state.json"
        for arguments in (["--once"], ["-v"]):
            told(tell.once(*arguments, state__state_file=path), 73, str(path), "Read-only", "[state] state_file")
        assert "FAULT state" in tell.once("--check", state__state_file=path).stdout
    assert tell.nothing_was_read()


@as_root
@pytest.mark.parametrize("damage", ["whole", "damaged"])
def test_T12_an_immutable_state_is_refused_before_reading(tell, damage):
    tell.write(message(1))
    tell.state.write_text('{"position": 0, "inode": 1}' if damage == "whole" else "{")
    if subprocess.run(["chattr", "+i", str(tell.state)], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("no such attribute here")
    try:
        for arguments in (["--once"], ["-v"]):
            told(tell.once(*arguments), 73, str(tell.state))
        assert tell.nothing_was_read()
    finally:
        subprocess.run(["chattr", "-i", str(tell.state)], check=True)


@as_root
@pytest.mark.parametrize("name", ["state.json", "state.json.lock", "state.json.tmp"])
def test_T12_files_of_another_user_are_refused_before_reading(tell_all, name):
    tell_all.write(message(1))
    (tell_all.folder / name).write_text('{"position": 0, "inode": 1}')
    (tell_all.folder / name).chmod(0o600)
    for arguments in (["--once"], []):
        told(as_nobody(tell_all, *arguments), 73, str(tell_all.state), "nobody")
    assert tell_all.nothing_was_read()
    checked = as_nobody(tell_all, "--check")
    assert not [line for line in checked.stderr.splitlines() if "can be read by everybody" not in line], checked.stderr
    assert "FAULT state" in checked.stdout or name.endswith(".tmp"), checked


@as_root
@pytest.mark.parametrize("name", ["state.json", "state.json.lock", "state.json.tmp"])
def test_T12_a_file_of_another_user_is_told_once_with_how_to_give_it(tell_all, name):
    """As after `sudo mail_relay_tracker.py --once`."""
    tell_all.write(message(1))
    (tell_all.folder / name).write_text("")
    (tell_all.folder / name).chmod(0o644 if name == "state.json" else 0o600)
    said = as_nobody(tell_all, "--once").stderr.splitlines()[-1]
    file = str(tell_all.folder / name)
    assert "make it writable for user nobody, as by `chown nobody %s`" % file in said and "create its directory" not in said
    assert said.count(file + ":") == 1


@as_root
def test_T18_a_lock_left_by_another_user_neither_stops_a_tracker_nor_lets_two_in(tell_all):
    """As after a first try as root."""
    tell_all.start()
    for file in (tell_all.folder / "t.db", tell_all.state):
        file.chmod(0o666)
    told(as_nobody(tell_all, "--once"), 73, str(tell_all.state), "another tracker")
    assert "in use by a running tracker" in as_nobody(tell_all, "--check").stdout
    assert tell_all.stop() == 0
    (tell_all.folder / "t.db").unlink()
    assert as_nobody(tell_all, "--once").returncode == 0


def test_T18_the_lock_is_taken_as_NFS_asks_for_it(tmp_path, monkeypatch):
    """flock(2): an exclusive lock is for who may write to the file."""
    lock = fcntl.flock

    def flock(file, operation):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    path = str(tmp_path / "state.json")
    state = tracker.StateFile(path)
    for _ in range(2):
        state.acquire()
        assert tracker.is_locked(path + ".lock")
        with pytest.raises(tracker.StateTaken):
            tracker.StateFile(path).acquire()
        state.release()
        assert not tracker.is_locked(path + ".lock")


def test_T12_a_link_to_the_state_is_as_good_as_the_state(tell):
    (tell.folder / "elsewhere").mkdir()
    (tell.folder / "link.json").symlink_to(tell.folder / "elsewhere" / "state.json")
    linked = {"state__state_file": tell.folder / "link.json"}
    for number in (1, 2, 3):
        tell.write(message(number))
        assert tell.once(**linked).returncode == 0
        assert len(tell.rows()) == number
    assert (tell.folder / "link.json").is_symlink(), "the link was replaced: the disk it leads to is not used"
    assert json.loads((tell.folder / "elsewhere" / "state.json").read_text())["position"] == tell.log.stat().st_size


def test_T18_a_second_tracker_is_refused_however_its_path_is_written(tell):
    (tell.folder / "inner").mkdir()
    (tell.folder / "outer").symlink_to(tell.folder)
    (tell.folder / "link.json").symlink_to("state.json")
    tell.start()
    before = tell.state.read_bytes()
    for path in (tell.state, "state.json", "./state.json", "%s//state.json" % tell.folder, tell.folder / "inner" / ".." / "state.json",
                 tell.folder / "outer" / "state.json", tell.folder / "link.json"):
        for arguments in (["--once"], ["-v"]):
            told(tell.once(*arguments, state__state_file=path), 73, str(tell.state), "another tracker", "[state] state_file")
        assert "in use by a running tracker" in tell.once("--check", state__state_file=path).stdout
    assert tell.state.read_bytes() == before
    tell.write(message(1))
    tell.wait(lambda: tell.rows() == {"a1@good.test": "sent"})
    assert tell.stop() == 0


def test_T18_the_lock_goes_with_the_process_however_that_ends(tell):
    for number, end in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL), 1):
        tell.start()
        tell.write(message(number))
        tell.wait(lambda wanted=number: len(tell.rows()) == wanted)
        told(tell.once(), 73, "another tracker")
        tell.stop(end)
        assert (tell.folder / "state.json.lock").exists()
        assert tell.once().returncode == 0
    assert tell.rows_are_right()


def test_T18_a_lock_file_tidied_away_is_made_anew_before_the_position_moves(tell):
    tell.start()
    lock = tell.folder / "state.json.lock"
    lock.unlink()
    tell.write(message(1))
    tell.wait(lock.exists)
    told(tell.once(), 73, "another tracker")
    assert tell.stop() == 0 and tell.rows_are_right()


def test_T18_a_lock_that_cannot_be_made_anew_is_made_when_that_is_possible(tmp_path):
    state, lock, place = tracker.StateFile(str(tmp_path / "state.json")), tmp_path / "state.json.lock", tracker.Place(7, 5)
    state.acquire()
    lock.unlink()
    lock.mkdir()
    for _ in range(2):
        with pytest.raises(tracker.OutputError, match="state.json.lock: .*: move it away"):
            state.save(place)
    lock.rmdir()
    state.save(place)
    assert lock.is_file() and tracker.StateFile(str(tmp_path / "state.json")).load() == place
    with pytest.raises(tracker.StateTaken):
        tracker.StateFile(str(tmp_path / "state.json")).acquire()
    state.release()


def test_T18_who_finds_the_lock_in_other_hands_stops(tell):
    tell.start()
    lock = tell.folder / "state.json.lock"
    lock.unlink()
    with open(str(lock), "w", encoding="ascii") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        tell.write(message(1))
        assert tell.daemon.wait(20) == 73
    told_once = tell.daemon.communicate()[1].decode()
    assert "another tracker" in told_once and "Traceback" not in told_once
    tell.daemon = None


def test_T18_an_import_and_a_dry_run_beside_a_running_tracker_are_no_second_tracker(tell):
    tell.start()
    tell.write(message(1))
    tell.wait(lambda: tell.saved() == tell.log.stat().st_size)
    before = tell.state.read_bytes()
    assert tell.once("--import", tell.log).returncode == 0
    assert tell.once("--once", "--dry-run").returncode == 0
    assert tell.state.read_bytes() == before and tell.stop() == 0 and tell.rows_are_right()


def test_T12_a_dry_run_leaves_a_damaged_state_where_it_is(tell):
    tell.write(message(1))
    tell.state.write_text("{")
    done = tell.once("--once", "--dry-run")
    assert done.returncode == 0 and '"a1@good.test"' in done.stdout
    assert "state file %s cannot be used (" % tell.state in done.stderr and "moved" not in done.stderr
    assert {path.name for path in tell.folder.iterdir()} == {"mail.log", "once.conf", "state.json"} and tell.state.read_text() == "{"


# A tracker that is killed inside the call that is named here.
KILLED = """
import os, signal, sys
sys.path.insert(0, %r)
import mail_relay_tracker
os.%%s = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(mail_relay_tracker.main(sys.argv[1:]))
""" % str(ROOT)


@pytest.mark.parametrize("call", ["fsync", "rename"])
@pytest.mark.parametrize("known", [True, False], ids=["a state before", "no state before"])
def test_T12_killed_while_the_state_is_saved(tell, call, known):
    if known:
        tell.write(BEFORE)
        assert tell.once().returncode == 0
        tell.write(AFTER)
    else:
        tell.write(BEFORE + AFTER)
    before = tell.saved()
    path = tell.command.configure(**tell.settings)
    killed = subprocess.run([sys.executable, "-c", KILLED % call, "-c", path, "--once"], cwd=str(tell.folder), check=False,
                            env=dict(os.environ, TZ="UTC"), stderr=subprocess.PIPE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert tell.saved() == before and (tell.folder / "state.json.tmp").exists()
    assert tell.once().returncode == 0
    assert tell.saved() == tell.log.stat().st_size and not (tell.folder / "state.json.tmp").exists()
    assert tell.rows_are_right()


LEFTOVERS = {"empty": lambda state: b"", "zeros": lambda state: b"\0" * len(state), "cut": lambda state: state[:len(state) // 2],
             "ours": lambda state: state, "long": lambda state: b"x" * 70000}


@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_T12_a_leftover_temporary_file_is_not_believed(tell, leftover):
    """Not even when it is whole, and ahead of the state: what it says may never have been true."""
    tell.write(BEFORE)
    assert tell.once().returncode == 0
    tell.write(AFTER)
    assert tell.once(database__database=tell.folder / "whole.db", state__state_file=tell.folder / "whole.json").returncode == 0
    (tell.folder / "state.json.tmp").write_bytes(LEFTOVERS[leftover]((tell.folder / "whole.json").read_bytes()))
    done = tell.once()
    assert done.returncode == 0 and not done.stderr
    assert tell.saved() == tell.log.stat().st_size and not (tell.folder / "state.json.tmp").exists()
    assert tell.rows_are_right()


def test_T12_a_state_is_synced_before_it_gets_its_name_and_its_folder_after(halfway, monkeypatch):
    """No power cut can be had here: at least the order of the calls is held, on the files they are meant for."""
    calls, place = [], tracker.LogFile(str(halfway.log), 0).place(halfway.position)
    real = {name: getattr(os, name) for name in ("fsync", "rename")}

    def fsync(descriptor):
        calls.append(("fsync", os.readlink("/proc/self/fd/%d" % descriptor)))
        real["fsync"](descriptor)

    def rename(old, new):
        calls.append(("rename", old, new))
        assert json.loads(pathlib.Path(old).read_text())["position"] == halfway.position
        real["rename"](old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    path = str(halfway.folder / "order.json")
    tracker.StateFile(path).save(place)
    assert calls == [("fsync", path + ".tmp"), ("rename", path + ".tmp", path), ("fsync", str(halfway.folder))]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_T12_a_file_system_that_syncs_no_folders_keeps_the_state_all_the_same(tmp_path, monkeypatch, number):
    """Some of those on a network, or in user space."""
    sync = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    state, place = tracker.StateFile(str(tmp_path / "state.json")), tracker.Place(7, 5)
    state.save(place)
    assert state.look().position == 7 and state.saved == place


@as_root
def test_T12_disk_full_while_saving_is_said_once_and_costs_nothing(command):
    """The daemon goes on; killed and started again on the full disk too; saves when there is room."""
    with small_disk(command.folder / "disk", 3 * 4096) as disk:
        tell = Told(command, state__state_file=disk / "state.json")
        try:
            tell.follow()
            tell.write(message(1))
            tell.wait(lambda: tell.saved() == tell.log.stat().st_size)
            before = tell.state.read_bytes()
            fill(disk / "filler")
            for number in (2, 3):
                tell.write(message(number))
                tell.wait(lambda wanted=number: len(tell.rows()) == wanted)
            tell.wait(lambda: tell.hears("make room"))
            time.sleep(1.2)
            assert tell.state.read_bytes() == before
            tell.stop(signal.SIGKILL)
            assert tell.said.count("make room") == 1 and tell.said.count(str(tell.state)) == 1, tell.said
            tell.said = ""
            tell.follow()
            tell.write(message(4))
            tell.wait(lambda: len(tell.rows()) == 4 and tell.hears("make room"))
            time.sleep(1.2)
            (disk / "filler").unlink()
            tell.wait(lambda: tell.saved() == tell.log.stat().st_size)
            assert tell.stop() == 0
            assert tell.said.count("make room") == 1 and tell.said.count("saved again") == 1, tell.said
            assert "Traceback" not in tell.said and tell.rows_are_right()
        finally:
            tell.stop(signal.SIGKILL)


@as_root
def test_T12_a_one_shot_command_on_a_full_disk_says_so_and_the_next_run_loses_nothing(command):
    with small_disk(command.folder / "disk", 3 * 4096) as disk:
        tell = Told(command, state__state_file=disk / "state.json")
        tell.write(BEFORE)
        assert tell.once().returncode == 0
        before = tell.state.read_bytes()
        fill(disk / "filler")
        tell.write(AFTER)
        told(tell.once(), 73, str(tell.state), "No space left", "make room")
        assert tell.state.read_bytes() == before
        (disk / "filler").unlink()
        assert tell.once().returncode == 0
        assert tell.saved() == tell.log.stat().st_size and tell.rows_are_right()


@as_root
@pytest.mark.parametrize("running", [False, True])
def test_T12_check_finds_a_disk_without_room_for_the_state(command, running):
    """Also while a tracker runs that cannot save."""
    with small_disk(command.folder / "disk", 3 * 4096) as disk:
        tell = Told(command, state__state_file=disk / "state.json")
        try:
            tell.follow()
            tell.wait(tell.state.exists)
            if not running:
                tell.stop()
            assert "ok    state" in tell.once("--check").stdout
            fill(disk / "filler")
            assert re.search("FAULT state .*No space left on device: make room", tell.once("--check").stdout)
            assert not list(disk.glob("*check*"))
        finally:
            tell.stop(signal.SIGKILL)


def test_T12_check_leaves_the_temporary_file_of_a_running_tracker_where_it_is(tmp_path):
    state = tracker.StateFile(str(tmp_path / "state.json"))
    (tmp_path / "t.conf").write_text("[state]\nstate_file = %s" % state.path)
    config, temporary = tracker.load_config(str(tmp_path / "t.conf")), tmp_path / "state.json.tmp"
    state.acquire()
    temporary.write_text("{")
    assert tracker.check_state(config) == "%s, in use by a running tracker" % state.path
    assert temporary.read_text() == "{" and sorted(os.listdir(str(tmp_path))) == ["state.json.lock", "state.json.tmp", "t.conf"]
    state.release()
    assert tracker.check_state(config) == "%s, no position saved yet" % state.path
    assert not temporary.exists()


@as_root
def test_T12_check_finds_a_folder_in_which_a_running_tracker_cannot_save(tell_all):
    folder = tell_all.folder / "state"
    folder.mkdir()
    tell_all.settings["state__state_file"] = folder / "state.json"
    tell_all.command.configure(**tell_all.settings)
    tell_all.daemon = tell_all.command.start("-c", str(tell_all.folder / "tracker.conf"))
    tell_all.wait((folder / "state.json").exists)
    (folder / "state.json").chmod(0o666)
    assert re.search("FAULT state .*Permission denied: create its directory, with all in it writable for user nobody",
                     as_nobody(tell_all, "--check").stdout)
    folder.chmod(0o777)
    assert "in use by a running tracker" in as_nobody(tell_all, "--check").stdout


@as_root
@pytest.mark.parametrize("files, name", [(1, "state.json.lock"), (2, "state.json.tmp")])
def test_T12_no_more_files_on_the_disk_is_refused_before_reading_with_its_remedy(command, files, name):
    """The disk's own folder is one of them."""
    with small_disk(command.folder / "disk", 1 << 20, files) as disk:
        tell = Told(command, state__state_file=disk / "state.json")
        tell.write(BEFORE)
        told(tell.once(), 73, str(disk / name), "No space left", "make room")
        assert tell.nothing_was_read()


def test_T12_a_folder_that_cannot_be_looked_into_for_a_while_is_said_and_costs_nothing(command):
    """A file stands in its place."""
    folder, away = command.folder / "state", command.folder / "away"
    folder.mkdir()
    tell = Told(command, state__state_file=folder / "state.json")
    try:
        tell.follow()
        tell.write(message(1))
        tell.wait(lambda: tell.saved() == tell.log.stat().st_size)
        folder.rename(away)
        folder.touch()
        tell.write(message(2))
        tell.wait(lambda: tell.hears("state.json.lock: Not a directory: create its directory") and len(tell.rows()) == 2)
        folder.unlink()
        away.rename(folder)
        tell.wait(lambda: tell.saved() == tell.log.stat().st_size)
        assert tell.stop() == 0 and "Traceback" not in tell.said and tell.rows_are_right(), tell.said
    finally:
        tell.stop(signal.SIGKILL)


def test_T13_no_file_can_be_written_at_all_for_a_while(tell):
    """Neither the table nor the state: the limit of the running process is lowered, and lifted again."""
    tell.start()
    tell.write(message(1))
    tell.wait(lambda: tell.saved() == tell.log.stat().st_size)
    limits = resource.prlimit(tell.daemon.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    tell.write(message(2) + message(3))
    tell.wait(lambda: tell.hears("trying again"))
    time.sleep(1)
    assert tell.daemon.poll() is None and len(tell.rows()) == 1
    resource.prlimit(tell.daemon.pid, resource.RLIMIT_FSIZE, limits)
    tell.wait(lambda: tell.saved() == tell.log.stat().st_size)
    assert tell.stop() == 0
    assert tell.said.count("trying again") == 1 and "is back" in tell.said and "Traceback" not in tell.said, tell.said
    assert tell.rows_are_right()
