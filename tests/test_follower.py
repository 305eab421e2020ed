"""The class Follower: random lives of a log against a model, and a case for every promise and for other people's bugs.

A life is a list of actions. `World` carries it out in a folder: a writer that appends numbered lines, a logrotate
that renames, packs, copies and truncates, and the real Follower with a sink, saved, stopped, killed and started as
the daemon does it, under a clock that only moves when told. Every line handed out is compared at once with what was
written.

    FOLLOWER_SEEDS=200000 pytest tests/test_follower.py -k random       more lives than the usual ones
    FOLLOWER_SEEDS=1234:1235 pytest tests/test_follower.py -k random    one of them
"""
import bz2
import contextlib
import gzip
import itertools
import logging
import lzma
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import tracemalloc

import pytest

import mail_relay_tracker as tracker

SEEDS = os.environ.get("FOLLOWER_SEEDS", "2000")
BLOCKS = 8                          # the random lives in so many tests
EPOCH = 1790000000                  # where the artificial clock of the files begins
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lambda data: lzma.compress(data, preset=0)}
NAMINGS = ("numbers", "savelog", "date", "date and epoch", "date before the extension")

# Bugs of the module that the random lives keep clear of; each has a life of its own below, expected to fail while
# its name stands here. Whoever repairs one takes it out.
KNOWN = frozenset()


def text(number, filler=0):
    """Line `number`: its stamp alone tells it from every other."""
    day, rest = divmod(number, 86400)
    more = (" %d" % number * filler)[:filler]
    return "Nov %2d %02d:%02d:%02d mx postfix/qmgr[9]: %d: removed%s" % (
        day + 1, rest // 3600, rest // 60 % 60, rest % 60, number, more)


class Wrong(AssertionError):
    """The follower broke a promise."""


class File:
    """One generation of the log: what was written between two rotations; `path` None once it is deleted."""

    def __init__(self, path):
        self.path = path
        self.numbers = []           # places of its lines in World.written


class World:
    """A folder with a log, its writer, its logrotate and its reader."""

    def __init__(self, folder, naming="numbers", chunk=1 << 18, known=frozenset()):
        self.folder, self.naming, self.known = pathlib.Path(str(folder)), naming, known
        self.path = str(self.folder / "mail.log")
        self.chunk = chunk
        self.now = 1000.0           # the reader's clock
        self.clock = EPOCH          # the files' clock, in seconds
        self.written = []           # complete lines in the order of the files, what a finished file ended with included
        self.places = {}            # line: its place in `written`
        self.maybe = set()          # places of lines that copytruncate or deletion may have taken away
        self.pieces = set()         # what copytruncate has made of a half line
        self.lossy = self.blind = False
        self.blank = False          # the log was empty when the reader last looked at it
        self.begun = self.rest = None   # a half line: what is in the file, and what is not yet
        self.broken = False             # its beginning is in the copy, its end will be in the truncated file
        self.serial = 0
        self.rotated = []           # the rotated files, newest first
        self.live = None
        self.file = self.handle = None      # where the writer writes
        self.reader, self.sink, self.seen = None, [], set()
        self.next = 0               # the place of the line that comes next
        self.state = tracker.StateFile(str(self.folder / "state.json"))
        self.saved, self.saved_next, self.low = None, 0, 0
        self.reopen()

    # -- the writer

    def tick(self, path_or_descriptor):
        """A file was changed: by the artificial clock."""
        self.clock += 1
        os.utime(path_or_descriptor, ns=(self.clock * 10 ** 9,) * 2)

    def put(self, data):
        """Write to the log, as far as the writer has it open."""
        os.write(self.handle, data.encode("ascii"))
        self.tick(self.handle)

    def note(self, line):
        """A line is written."""
        self.places[line] = len(self.written)
        self.file.numbers.append(len(self.written))
        if self.file.path is None or self.blind:
            self.maybe.add(len(self.written))
        self.written.append(line)

    def append(self, count=1, filler=0):
        """Write lines; the end of a half one first."""
        if self.handle is None:
            self.reopen()
        if self.rest is not None:
            self.put(self.rest + "\n")
            if self.broken:
                self.pieces.add(self.rest)
            else:
                self.note(self.begun + self.rest)
            self.begun, self.rest, self.broken = None, None, False
        for _ in range(count):
            line = text(self.serial, filler)
            self.serial += 1
            self.put(line + "\n")
            self.note(line)

    def half(self, share=0.5, filler=0):
        """Write the beginning of a line, its stamp at least."""
        if self.rest is None:
            if self.handle is None:
                self.reopen()
            line = text(self.serial, filler)
            self.serial += 1
            cut = max(20, int(len(line) * share))
            self.begun, self.rest = line[:cut], line[cut:]
            self.put(self.begun)

    def reopen(self):
        """What rsyslog does on SIGHUP; a half line stays as it is."""
        if self.handle is None or self.file is not self.live:
            if self.handle is not None:
                self.let_go()
            self.create()
            self.handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            self.file = self.live

    def let_go(self):
        """The writer closes its file; it opens the log when it has something to write."""
        if self.handle is not None:
            if self.rest is not None:
                if self.broken:
                    self.pieces.add(self.rest)
                else:
                    self.note(self.begun)
                self.begun, self.rest, self.broken = None, None, False
            os.close(self.handle)
            self.handle = self.file = None

    def create(self):
        """An empty log, if there is none."""
        if self.live is None:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self.tick(self.path)
            self.live = File(self.path)

    # -- logrotate

    def name(self):
        """The name of the next rotated file."""
        if self.naming in ("numbers", "savelog"):
            return self.path + (".1" if self.naming == "numbers" else ".0")
        days = (self.clock - EPOCH) % 20000
        date = "-%04d%02d%02d" % (2026 + days // 336, days // 28 % 12 + 1, days % 28 + 1)
        if self.naming == "date":
            return self.path + date
        if self.naming == "date and epoch":
            return "%s%s-%d" % (self.path, date, self.clock)
        return "%s%s.log" % (self.path[:-4], date)

    def shift(self):
        """Make room for one more rotated file; returns its name."""
        if self.naming in ("numbers", "savelog"):
            for file in reversed(self.rotated):
                parts = file.path[len(self.path):].split(".")
                parts[1] = str(int(parts[1]) + 1)
                os.rename(file.path, self.path + ".".join(parts))
                file.path = self.path + ".".join(parts)
        self.clock += 1
        return self.name()

    def rotate(self, how="create"):
        """Rename the log. `create`: an empty new one, the writer moves on at once. `hold`: it stays where it is until
        it reopens. `late`: there is no new one before that. `gap`: the writer makes one when it writes.
        """
        if self.live is None:
            return
        self.reopen()
        if "packed, then held" in self.known and self.reader is not None and self.reader.current.packed:
            how = "create"
        name = self.shift()
        os.rename(self.path, name)
        self.live.path = name
        self.rotated.insert(0, self.live)
        self.live = None
        if how == "gap":
            self.let_go()
        elif how != "late":
            self.create()
        if how == "create":
            self.reopen()

    def pack(self, kind="gz", number=0):
        """Compress a rotated file that nobody writes to any more."""
        files = [file for file in self.rotated if file is not self.file and not file.path.endswith(tuple(PACKERS))]
        if files:
            file = files[number % len(files)]
            packed = "%s.%s" % (file.path, kind)
            plain = pathlib.Path(file.path)
            pathlib.Path(packed).write_bytes(PACKERS[kind](plain.read_bytes()))
            os.utime(packed, ns=(plain.stat().st_mtime_ns,) * 2)
            plain.unlink()
            file.path = packed

    def copytruncate(self, window=0, size="empty"):
        """Copy and truncate; `window` lines are written between the two, and then as many as make the file `smaller`,
        `equal` or `larger` than what had been read of it.
        """
        if self.live is None:
            return
        self.reopen()
        self.lossy = True
        name = self.shift()
        data = pathlib.Path(self.path).read_bytes()
        if self.rest is not None:
            self.pieces.add(self.begun)
            self.broken = self.broken or not window
            if window:
                self.maybe.add(len(self.written))
        pathlib.Path(name).write_bytes(data)
        self.tick(name)
        before = len(self.written)
        if window:
            self.append(window)
            if window > 1:
                self.read()
        self.maybe.update(range(before, len(self.written)))
        if self.blank:              # filled and truncated between two looks: nothing was there to know it by
            self.maybe.update(self.live.numbers)
        os.truncate(self.path, 0)
        self.tick(self.path)
        self.live.path = name
        self.rotated.insert(0, self.live)
        self.live = self.file = File(self.path)
        read = self.reader.current.offset if self.reader is not None and self.reader.files else len(data)
        if size == "smaller" and read > 150:
            self.append()
        elif size == "equal" and read > 150:
            self.append()
            left = read - os.stat(self.path).st_size - len(text(self.serial)) - 1
            if left >= 0:
                self.append(filler=left)
        elif size == "larger":
            while os.stat(self.path).st_size <= read:
                self.append(filler=100)
        self.avoid("no copy")

    def delete(self, number=-1):
        """Delete a rotated file, the `number`th from the newest, or the log itself."""
        if number >= 0 and self.rotated:
            number %= len(self.rotated)
            file = self.rotated.pop(number)
            if self.reader is not None and file.numbers and self.next <= file.numbers[-1] + 1:
                # The copy of what is being read: nothing else could tell which of the younger files come after it.
                self.blind = True
                for one in [*self.rotated[:number], *([self.live] if self.live else [])]:
                    self.maybe.update(one.numbers)
        elif number < 0 and self.live is not None:
            file, self.live = self.live, None
        else:
            return
        os.unlink(file.path)
        file.path = None
        self.maybe.update(file.numbers)
        self.lossy = True

    def reuse(self):
        """As if the log had the inode of the file that the saved place is in: what ext4 does when that one is gone."""
        if self.saved is not None and self.live is not None:
            status = os.stat(self.path)
            self.saved = self.saved._replace(inode=status.st_ino, device=status.st_dev)

    # -- the reader

    def start(self):
        """Start at the saved place, as the daemon does; it does not run when there is nothing to read."""
        if self.reader is not None:
            return
        if "packed, then held" in self.known:
            self.reopen()
        self.reader = tracker.Follower(self.path, 1.0)
        self.reader.begin(self.saved, False)
        self.sink, self.low, self.next = [], 0, self.saved_next
        if self.saved is None and self.live is not None:
            self.next = min(self.live.numbers, default=len(self.written))
        if not self.reader.files:
            self.kill()
        self.look()

    def look(self):
        """What the reader could see now."""
        self.blind = False
        files = self.reader.files if self.reader is not None else []
        self.blank = bool(files) and files[-1].path == self.path and not files[-1].size()

    def read(self, count=10 ** 6):
        """Take so many batches, or all there are."""
        for _ in range(count if self.reader is not None else 0):
            batch = self.reader.read(self.now)
            self.look()
            if batch is None:
                return
            position = batch.position
            for line in batch.lines:
                self.check(line)
                self.sink.append((position, self.next - (line in self.places)))
                position += len(line) + 1

    def check(self, line):
        """Compare a line with what was written."""
        place = self.places.get(line)
        if place is None:
            if not self.lossy or not (line in self.pieces or any(one.startswith(line) for one in self.written)
                                      or (self.begun or "").startswith(line)):
                raise Wrong("was never written: %r" % line)
            return
        if place < self.next:
            raise Wrong("once more: %r, awaited: %s" % (line, self.awaited()))
        if place > self.next and not self.lossy:
            raise Wrong("too early: %r, awaited: %s" % (line, self.awaited()))
        self.seen.add(place)
        self.next = place + 1

    def awaited(self):
        """The line that should come next."""
        return repr(self.written[self.next]) if self.next < len(self.written) else "none"

    def save(self, lag=0):
        """Save the place that is `lag` lines back: those are of messages still open."""
        if self.reader is None:
            return
        self.low = max(self.low, len(self.sink) - lag)
        position, following = (self.reader.position, self.next) if self.low >= len(self.sink) else self.sink[self.low]
        place = self.reader.place(position)
        if "short place" in self.known and place is not None and place.head[0] + place.tail[0] < 32:
            return
        if place is not None:
            self.state.save(place)
            self.saved = self.state.look()
            self.saved_next = following

    def stop(self, lag=0):
        """Save, and end."""
        self.save(lag)
        self.kill()

    def kill(self):
        """End without saving."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def time(self, seconds=1.0):
        """Let time pass."""
        self.now += seconds

    # -- for the named cases

    def lines(self):
        """The numbers of the lines that came since the start."""
        return [place for _, place in self.sink]

    def pass_time(self, seconds=6):
        """Read, again and again, while time passes."""
        for _ in range(2 * seconds):
            self.read()
            self.time(0.5)

    def begin(self, count=3):
        """A log with some lines, read, the place saved."""
        self.append(count)
        self.start()
        self.read()
        self.save()

    def restart(self):
        """End without saving, start at the saved place, read all."""
        self.kill()
        self.start()
        self.pass_time()

    # -- around known bugs

    def avoid(self, bug):
        """Have the reader read all there is before something happens that it could not bear."""
        if bug in self.known and self.reader is not None:
            for _ in range(2 + len(self.rotated)):
                self.read()
                self.time()

    # -- the end

    def finish(self):
        """All must have come once the writer has ended its line, and the reader has had time."""
        self.reopen()
        self.append()
        self.start()
        if self.reader is None:
            raise Wrong("does not start")
        for _ in range(6 + len(self.rotated)):
            self.read()
            self.time(3)
        missing = [line for place, line in enumerate(self.written) if place not in self.seen | self.maybe]
        if missing:
            raise Wrong("never came: %r" % missing)
        self.stop()
        if not self.lossy and self.saved_next != len(self.written):
            raise Wrong("saved too early a place")

    def close(self):
        """Leave no descriptor behind."""
        self.kill()
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


@contextlib.contextmanager
def world(naming="numbers", chunk=1 << 18, known=frozenset()):
    """A world in a folder of its own, quiet, with a chunk size of its own, and nothing left of it."""
    folder = tempfile.mkdtemp(prefix="mail_relay_tracker.follower.")
    sync, size, disabled = os.fsync, tracker.CHUNK, tracker.LOG.disabled
    here = None
    try:
        os.fsync, tracker.CHUNK, tracker.LOG.disabled = (lambda descriptor: None), chunk, True
        here = World(folder, naming, chunk, known)
        yield here
    finally:
        os.fsync, tracker.CHUNK, tracker.LOG.disabled = sync, size, disabled
        if here is not None:
            here.close()
        shutil.rmtree(folder)


def carry_out(actions, naming="numbers", chunk=1 << 18, known=frozenset()):
    """Live a life: the log has a line, the reader is started, and saves; then the actions, then the end."""
    with world(naming, chunk, known) as here:
        here.append()
        here.start()
        here.save()
        for action in actions:
            getattr(here, action[0])(*action[1:])
        here.finish()


# ---------------------------------------------------------------------------- random lives

def choose(lot, lossy):
    """One action."""
    kind = lot.choices(*zip(*(
        (("append", 6), ("half", 2), ("rotate", 3), ("reopen", 2), ("create", 1), ("pack", 2), ("save", 2), ("stop", 2),
         ("kill", 1), ("start", 4), ("read", 5), ("time", 3), ("reuse", 1))
        + ((("copytruncate", 4), ("delete", 1)) if lossy else ()))))[0]
    if kind == "append":
        return kind, lot.randint(1, 4), lot.choice((0, 0, 40, 300))
    if kind == "half":
        return kind, round(lot.random(), 2), lot.choice((0, 0, 400))
    if kind == "rotate":
        return kind, lot.choice(("create", "create", "hold", "late", "gap"))
    if kind == "pack":
        return kind, lot.choice(list(PACKERS)), lot.randint(0, 2)
    if kind in ("save", "stop"):
        return kind, lot.choice((0, 0, 1, 3))
    if kind == "read":
        return kind, lot.choice((1, 2, 99999))
    if kind == "time":
        return kind, lot.choice((0.5, 1.0, 2.5))
    if kind == "copytruncate":
        return kind, lot.choice((0, 0, 1, 2)), lot.choice(("empty", "smaller", "equal", "larger"))
    if kind == "delete":
        return kind, lot.randint(-1, 2)
    return (kind,)


def life(seed):
    """The life of a seed: its actions, its naming, its chunk size. Two of five have copytruncate and deletion."""
    lot = random.Random(seed)
    lossy = seed % 5 < 2
    actions = [choose(lot, lossy) for _ in range(lot.randint(3, 40))]
    return actions, lot.choice(NAMINGS), lot.choice((50, 200, 1000, 1 << 18))


def failure(actions, naming, chunk, known=KNOWN):
    """What goes wrong in a life, if anything."""
    try:
        carry_out(actions, naming, chunk, known)
    except Exception as error:
        return "%s: %s" % (type(error).__name__, error)
    return None


def shrink(actions, naming, chunk, tries=500, known=KNOWN):
    """Drop actions while the life still fails: large parts of it first, then one by one."""
    size = len(actions)
    while size:
        start = 0
        while start < len(actions) and tries:
            shorter = actions[:start] + actions[start + size:]
            tries -= 1
            if failure(shorter, naming, chunk, known):
                actions = shorter
            else:
                start += size
        size //= 2
    return actions


@pytest.mark.parametrize("block", range(BLOCKS))
def test_random_lives(block):
    first, _, last = SEEDS.rpartition(":")
    for seed in range(int(first or 0) + block, int(last), BLOCKS):
        if failure(*life(seed)):
            actions, naming, chunk = life(seed)
            actions = shrink(actions, naming, chunk)
            pytest.fail("seed %d: %s\nnaming %r, chunk %d:\n    %s" % (
                seed, failure(actions, naming, chunk), naming, chunk, "\n    ".join(map(repr, actions))), pytrace=False)


# ---------------------------------------------------------------------------- bugs of the module, found by the model

BUGS = {
    "names shift": [("kill",), ("rotate",), ("start",), ("append",), ("rotate",), ("append",)],
    "no grace at start": [("read",), ("stop",), ("rotate", "hold"), ("start",), ("read",), ("append",)],
    "early half": [("read",), ("stop",), ("rotate", "late"), ("start",), ("half",), ("read",), ("append",)],
    "truncated place": [("append", 3), ("read",), ("copytruncate", 0, "empty"), ("stop",), ("append", 9)],
    "empty place": [("read",), ("copytruncate",), ("read",), ("stop",), ("append",), ("rotate",), ("pack",)],
    "half at truncation": [("read",), ("half", 0.9, 400), ("read",), ("append",), ("copytruncate",)],
    "unread truncation": [("copytruncate",)],
    "negative place": [("read",), ("copytruncate", 2), ("read",), ("append",), ("read",), ("stop", 3)],
    "late lines": [("rotate", "hold"), ("append",), ("stop",), ("start",), ("read",), ("rotate", "gap")],
    "packed, then rotated": [("kill",), ("rotate",), ("pack",), ("append",), ("start",), ("rotate",)],
    "packed, then held": [("kill",), ("rotate",), ("pack",), ("start",), ("rotate", "hold"), ("read",), ("append",)],
    "no copy": [("copytruncate", 2), ("append",), ("copytruncate",)],
    "short place": [("kill",), ("rotate",), ("pack",), ("start",), ("read",), ("time", 9), ("read",), ("stop",),
                    ("append",), ("rotate",), ("pack",), ("append",), ("reuse",)],
    "younger files": [("read",), ("stop",), ("rotate",), ("append",), ("rotate",), ("delete", 1)],
}


def test_every_known_bug_has_its_life():
    assert not KNOWN - set(BUGS)


@pytest.mark.parametrize("bug", [
    pytest.param(bug, marks=[pytest.mark.xfail(bug in KNOWN, strict=True, reason=bug)]) for bug in BUGS])
def test_life_of_a_known_bug(bug):
    carry_out(BUGS[bug])


def test_a_rotated_file_that_goes_while_the_folder_is_read_is_passed_over(here, monkeypatch):
    here.begin()
    here.rotate()
    here.rotate()
    gone, known = here.rotated[1].path, os.stat

    def look_and_lose(path, **options):
        found = known(path, **options)
        if path == gone:
            os.unlink(gone)
        return found

    monkeypatch.setattr(os, "stat", look_and_lose)
    assert here.rotated[0].path in tracker.siblings(here.path)


@pytest.mark.parametrize("call", ["listdir", "stat"])
def test_a_folder_that_cannot_be_read_is_a_trouble_of_the_log(here, monkeypatch, call):
    here.begin()
    here.rotate()
    here.append()
    here.now += 3
    known = getattr(os, call)

    def denied(path, *rest, **options):
        if path in (str(here.folder), here.path):
            raise PermissionError(13, "Permission denied", path)
        return known(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, denied)
        with pytest.raises(tracker.LogError):
            here.pass_time()
    here.pass_time()
    assert here.lines() == [0, 1, 2, 3]


def test_T10_zeros_before_a_complete_line(tmp_path):
    path = tmp_path / "mail.log"
    for zeros in (5, 70000, 1 << 20):
        path.write_bytes(b"\0" * zeros + b"one\ntwo\n")
        assert read_all(path) == ["one", "two"]


def test_T10_a_place_behind_zeros(tmp_path):
    path = tmp_path / "mail.log"
    path.write_bytes(b"\0" * 500 + b"one")
    with contextlib.closing(tracker.LogFile(str(path), 0)) as file:
        assert file.lines() == [] and file.offset == 500
        place = file.place(file.offset)
    path.write_bytes(b"\0" * 500 + b"one\ntwo\n")
    follower = tracker.Follower(str(path), 1.0)
    follower.begin(place, False)
    assert follower.read(0.0).lines == ["one", "two"]
    follower.close()


# ---------------------------------------------------------------------------- the promises T4 to T10

@pytest.fixture
def here():
    """A world."""
    with world() as found:
        yield found


def read_all(path):
    """All lines of a file."""
    lines = []
    with contextlib.closing(tracker.LogFile(str(path), 0)) as file:
        while not file.at_end:
            lines += [line for batch in file.lines() for line in batch.lines]
        return lines + [line for batch in file.last_line() for line in batch.lines]


@pytest.mark.parametrize("how", ["create", "hold", "late", "gap"])
def test_T4_rename_while_running(here, how):
    here.begin()
    here.append()
    here.rotate(how)
    here.pass_time(30)
    if how in ("hold", "late"):
        here.append(2)
    here.pass_time()
    here.reopen()
    here.append(2)
    here.pass_time()
    assert here.lines() == list(range(len(here.written)))
    assert here.reader.rotations == 1


def test_T4_two_writers_for_a_second(tmp_path):
    """What the new file has does not keep the rest of the old one from being read, nor its order."""
    path = tmp_path / "mail.log"
    path.write_text("0\n", encoding="ascii")
    follower, lines = tracker.Follower(str(path), 1.0), []
    follower.begin(None, False)
    with open(str(path), "ab", buffering=0) as old:
        path.rename(tmp_path / "mail.log.1")
        path.write_text("9\n", encoding="ascii")
        for step in range(20):
            if step < 5:
                old.write(b"%d\n" % (step + 1))
            batch = follower.read(step / 4)
            while batch is not None:
                lines += batch.lines
                batch = follower.read(step / 4)
    follower.close()
    assert lines == ["0", "1", "2", "3", "4", "5", "9"]


def test_T4_the_path_is_missing_for_a_while(here):
    here.begin()
    here.rotate("gap")
    here.pass_time(30)
    here.save()
    assert here.saved.position == os.stat(here.rotated[0].path).st_size
    here.append(2)
    here.pass_time()
    assert here.lines() == [0, 1, 2, 3, 4]


def test_T4_the_place_stays_in_the_old_file_until_the_new_one_has_something(here):
    here.begin()
    here.rotate()
    here.pass_time()
    here.save()
    assert here.saved.inode == os.stat(here.rotated[0].path).st_ino
    here.append()
    here.pass_time()
    here.save()
    assert here.saved.inode == os.stat(here.path).st_ino


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", ["", *PACKERS])
@pytest.mark.parametrize("missed, delay", [(1, 0), (1, 1), (2, 0), (2, 1), (4, 1)])
def test_T5_rotated_while_stopped(naming, kind, missed, delay):
    with world(naming) as here:
        here.append(2)
        here.rotate()
        here.append(3)
        here.start()
        here.read()
        here.stop(1)
        first = here.saved_next
        for _ in range(missed):
            here.append(2)
            if kind and delay:
                here.pack(kind)
            here.rotate()
            if kind and not delay:
                here.pack(kind)
        here.append()
        here.start()
        here.pass_time()
        assert here.lines() == list(range(first, len(here.written)))


def test_T5_found_by_content_not_by_the_order_of_names(here):
    """Names that sort wrongly: `.10` before `.9`, a date set back."""
    here.begin()
    here.stop()
    for name in (".10", ".9", "-20200101", "-20190101.gz", ".1"):
        here.append()
        here.rotate()
        file = here.rotated[0]
        if name.endswith(".gz"):
            here.pack("gz")
        os.rename(file.path, here.path + name)
        file.path = here.path + name
        here.rotated = []
    here.append()
    here.start()
    here.pass_time()
    assert here.lines() == [3, 4, 5, 6, 7, 8]


def test_T5_other_files_in_the_folder_are_no_rotated_ones(here):
    for name in ("mail.err.1", "mail.log.bak", "mail.log.1.swp", "mail.log.1.tmp", "mail.info-20261122", "xmail.log.1",
                 "mail.logger.1", "mail.log.gz.part"):
        (here.folder / name).write_text(text(99) + "\n", encoding="ascii")
    (here.folder / "mail.log.7").mkdir()
    assert tracker.siblings(here.path) == []


def test_T5_a_damaged_archive_is_passed_over(here):
    here.begin()
    here.stop()
    for _ in range(3):
        here.append(5, 100)
        here.rotate()
        here.pack("gz")
    damaged = pathlib.Path(here.rotated[1].path)
    damaged.write_bytes(damaged.read_bytes()[:12])
    (here.folder / "mail.log.9.xz").write_bytes(b"\xfd7zXZ\0nothing of the kind")
    here.append()
    here.lossy = True
    here.start()
    here.pass_time()
    assert here.lines() == [*range(3, 8), *range(13, 19)]


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("size", ["empty", "smaller", "equal", "larger"])
@pytest.mark.parametrize("unread", [0, 2])
@pytest.mark.parametrize("kind", ["", *PACKERS])
def test_T6_copytruncate(here, stopped, size, unread, kind):
    here.begin(6)
    if stopped:
        here.stop()
    here.append(unread)
    offset = here.saved.position
    here.copytruncate(0, size)
    if size == "equal":
        assert os.stat(here.path).st_size >= offset
    if kind:
        here.pack(kind)
    first = here.saved_next if stopped else 0
    here.start()
    here.pass_time()
    here.append()
    here.pass_time()
    assert here.lines() == list(range(first, len(here.written)))
    if not stopped:
        assert here.reader.truncations == 1


def test_T6_lines_in_the_window_are_all_that_may_be_lost(here):
    here.begin()
    here.append(2)
    here.copytruncate(1)
    here.append(2)
    here.pass_time()
    assert here.lines() == [0, 1, 2, 3, 4, 6, 7]


def test_T6_several_while_stopped(here):
    here.begin()
    here.stop()
    for _ in range(3):
        here.append(2)
        here.copytruncate()
    here.append()
    here.start()
    here.pass_time()
    assert here.lines() == list(range(3, 10))


def test_T6_truncation_is_logged(here, caplog):
    tracker.LOG.disabled = False
    here.begin()
    with caplog.at_level(logging.WARNING):
        here.copytruncate(0, "larger")
        here.pass_time()
        here.append()
        os.truncate(here.path, 0)
        here.append()
        here.lossy = True
        here.pass_time()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "its copy" in said[0] and "has no copy" in said[1]


def test_T7_inode_reuse(here):
    """The deleted file's inode is given to the next: really, by a second name that outlives the first."""
    here.begin()
    here.stop()
    held = str(here.folder / "held")
    os.link(here.path, held)
    inode = os.stat(held).st_ino
    here.delete()
    os.close(here.handle)
    os.truncate(held, 0)
    os.rename(held, here.path)
    here.handle = os.open(here.path, os.O_WRONLY | os.O_APPEND)
    here.live = here.file = File(here.path)
    here.append(9)
    assert (here.saved.inode, os.stat(here.path).st_ino) == (inode, inode)
    here.start()
    here.pass_time()
    assert here.lines() == list(range(3, 12))


@pytest.mark.parametrize("facts", list(itertools.product((True, False), repeat=4)))
def test_T8_the_table_of_the_four_facts(here, facts):
    """Device and inode decide nothing where the content is long enough to tell."""
    same_device, same_inode, same_head, same_tail = facts
    here.append(20)
    with contextlib.closing(tracker.LogFile(here.path, 0)) as file:
        place = file.place(here.saved.position if here.saved else 470)
        strange = (256, "0" * 64)
        place = place._replace(device=place.device + (not same_device), inode=place.inode + (not same_inode),
                               head=place.head if same_head else strange, tail=place.tail if same_tail else strange)
        assert file.fits(place) == (same_head and same_tail)


def test_T8_a_file_of_any_size_is_read_at_once(here):
    os.write(here.handle, b"x\n")
    here.places["x"] = 0
    here.start()
    here.read()
    assert here.lines() == [0]


def test_T8_identity_is_taken_from_the_descriptor(here):
    """The path is another file by the time the place is saved."""
    here.begin()
    old = os.stat(here.path).st_ino
    here.rotate()
    here.append(9)
    here.save()
    assert here.saved.inode == old and here.saved.position == os.stat(here.rotated[0].path).st_size


def test_T9_byte_by_byte(here):
    here.begin(1)
    line = text(1)
    here.places[line] = 1
    for byte in line:
        here.put(byte)
        here.read()
        here.save()
        assert here.lines() == [0]
        if byte == ":":
            here.restart()
            assert here.lines() == []
            here.sink = [(0, 0)]
    here.put("\n")
    here.read()
    assert here.lines() == [0, 1]


@pytest.mark.parametrize("kind", ["", *PACKERS])
@pytest.mark.parametrize("stopped", [False, True])
def test_T9_the_unterminated_end_of_a_finished_file(here, stopped, kind):
    here.begin(2)
    if stopped:
        here.stop()
    here.append()
    here.half()
    here.read()
    assert len(here.sink) == (3 if not stopped else 2)
    here.rotate()
    if kind:
        here.pack(kind)
    here.append()
    here.start()
    here.pass_time()
    assert here.lines() == ([0, 1, 2, 3, 4] if not stopped else [2, 3, 4])
    here.stop()
    here.start()
    here.pass_time()
    assert here.lines() == []


def test_T10_a_line_without_end_takes_no_memory(tmp_path):
    path = tmp_path / "mail.log"
    with open(str(path), "wb") as log:
        log.write(b"one\n")
        for _ in range(160):
            log.write(b"y" * 65536)
    follower = tracker.Follower(str(path), 1.0)
    follower.begin(None, False)
    tracemalloc.start()
    lines = list(iter(lambda: follower.read(0.0), None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with open(str(path), "ab") as log:
        log.write(b"the rest\ntwo\n")
    lines += iter(lambda: follower.read(0.0), None)
    follower.close()
    found = [(line[:3], len(line)) for batch in lines for line in batch.lines]
    assert found == [("one", 3), ("yyy", tracker.MAX_LINE), ("two", 3)]
    assert peak < 8 * tracker.CHUNK


def test_T10_zeros_before_a_line_that_is_not_yet_complete(tmp_path):
    path = tmp_path / "mail.log"
    with open(str(path), "wb") as log:
        log.write(b"\0" * 3000000)
    follower = tracker.Follower(str(path), 1.0)
    follower.begin(None, False)
    assert follower.read(0.0) is None and not follower.current.rest
    with open(str(path), "ab") as log:
        log.write(b"one\n")
    assert follower.read(0.0) == (["one"], 3000000, 0)
    follower.close()


# ---------------------------------------------------------------------------- other people's bugs

def test_vector_18342_the_inode_comes_back_with_the_second_rotation(here):
    """With checkpoints by device and inode, a new log with an old one's inode was read from the old one's position."""
    here.begin()
    here.append()
    here.stop()
    here.rotate()
    here.append(9)
    here.reuse()
    here.start()
    here.pass_time()
    assert here.lines() == list(range(3, 13))


def test_vector_23076_a_position_beyond_the_end(here):
    """A position past the end was seeked to all the same, and nothing read until the file was that long again."""
    here.begin(9)
    here.stop()
    here.delete()
    here.reopen()
    here.append(2)
    here.reuse()
    here.start()
    here.pass_time()
    assert here.lines() == [9, 10]


def test_fluent_bit_1330_rotated_while_it_was_down(here):
    """After a restart the rotated file was taken for a new one, and sent again from its beginning."""
    here.begin()
    here.stop()
    here.append()
    here.rotate()
    here.append()
    here.start()
    here.pass_time()
    assert here.lines() == [3, 4]


def test_fluent_bit_1875_the_same_name_and_the_same_inode(here):
    """Offsets were kept by name and inode: made anew with both the same, a file was read from the old offset."""
    here.begin()
    here.stop()
    here.delete()
    here.reopen()
    here.append(20)
    here.reuse()
    assert os.stat(here.path).st_size > here.saved.position
    here.start()
    here.pass_time()
    assert here.lines() == list(range(3, 23))


@pytest.mark.parametrize("how", ["create", "hold", "late", "gap"])
def test_fluent_bit_11455_no_offset_larger_than_its_file_is_ever_saved(here, how):
    """At midnight's rotation the old offset was stored beside the new inode; the log was ignored for a day."""
    here.begin(9)
    here.rotate(how)
    for _ in range(20):
        here.read()
        here.save()
        owner = [one for one in here.folder.glob("mail*") if one.stat().st_ino == here.saved.inode]
        assert len(owner) == 1 and here.saved.position <= owner[0].stat().st_size
        here.time(0.5)
        if here.now > 1004:
            here.append()
    here.restart()
    assert here.next == len(here.written)


def test_beats_39731_a_copy_is_not_sent_again(here):
    """With copytruncate every rotation sent the whole file a second time: its copy looked like a new one."""
    here.begin()
    for _ in range(3):
        here.append(2)
        here.read()
        here.copytruncate()
        here.pass_time()
        here.append()
        here.pass_time()
    assert here.lines() == list(range(12))
    here.save()
    here.restart()
    assert here.lines() == []


def test_rsyslog_1829_what_is_sent_again_begins_at_the_saved_place(here):
    """A batch failed in its middle, its head was committed, and the whole was sent again. Here: never a line from
    before the saved place, whatever had been read beyond it.
    """
    here.begin()
    here.append(5)
    here.read()
    here.save(lag=4)
    here.append(5)
    here.read()
    here.restart()
    assert here.lines() == list(range(4, 13))
    here.restart()
    assert here.lines() == list(range(4, 13))


def test_fail2ban_17_a_file_rewritten_in_place(here):
    """A log that is rewritten with each line was rescanned with each line, and hits counted several times. Such a
    file is read anew, once: not again at each look.
    """
    here.begin(5)
    data = pathlib.Path(here.path).read_bytes()
    with open(here.path, "r+b") as log:
        log.truncate()
        log.write(data[data.index(b"\n") + 1:])
        log.truncate()
    here.append()
    here.lossy, here.next = True, 1
    here.pass_time()
    assert here.lines()[5:] == [1, 2, 3, 4, 5]
    here.append()
    here.pass_time()
    assert here.lines()[5:] == [1, 2, 3, 4, 5, 6] and here.reader.truncations == 1


def test_pygtail_34_renamed_while_it_reads(here):
    """Rotated by renaming while it ran, it went on with the old file for ever."""
    with world(chunk=50) as there:
        there.append(5)
        there.start()
        there.read(2)
        there.rotate()
        there.append(3)
        there.pass_time()
        assert there.lines() == list(range(8))


def test_pygtail_38_inode_and_offset_are_of_one_file(here):
    """The inode was asked of the path: after a rotation the new file's was stored beside the old file's offset."""
    here.begin(5)
    for how in ("create", "hold", "late"):
        here.reopen()
        here.append(2)
        here.read()
        here.rotate(how)
        here.save()
        with contextlib.closing(tracker.LogFile(here.rotated[0].path, 0)) as file:
            assert file.inode == here.saved.inode and file.fits(here.saved)
        here.pass_time()
    here.restart()
    here.reopen()
    here.append()
    here.pass_time()
    assert here.next == len(here.written)


def test_pygtail_65_moved_away_and_emptied_between_runs(here):
    """Plesk copies the mail log away and empties it: the offset lay beyond the end, and was never renewed."""
    here.begin()
    here.stop()
    for _ in range(4):
        here.append(4)
        here.copytruncate(0, "smaller")
        before = here.saved_next
        here.start()
        for batch in iter(lambda: here.reader.read(here.now, True), None):
            here.sink += [(0, here.places[line]) for line in batch.lines]
        assert here.lines() == list(range(before, len(here.written)))
        here.next = len(here.written)
        here.save()
        here.kill()
        assert here.saved.position == os.stat(here.path).st_size


def test_pygtail_71_rotated_between_finding_and_opening(here):
    """The file was chosen by its inode and opened later by its name: the old offset was seeked to in the new file."""
    here.begin()
    here.stop()
    here.append()

    def rotate_first(path):
        if not here.rotated:
            here.rotate()
            here.append(9)
        return tracker.open_log(path)

    follower = tracker.Follower(here.path, 1.0, rotate_first)
    follower.begin(here.saved, False)
    here.reader, here.sink = follower, []
    here.pass_time()
    assert here.lines() == list(range(3, 13))


def test_hpcloud_tail_127_the_last_line_before_the_rename(here):
    """A line written just before the rename was lost: the new file was opened with the old one not read to its end."""
    here.begin()
    for _ in range(5):
        here.append()
        here.rotate()
        here.append()
        here.pass_time()
    assert here.lines() == list(range(13))


def test_file_tail_PR_14_a_file_that_appears_late_is_read_from_its_beginning(here):
    """Missing when looked for, there when opened: the new file was read from its end."""
    here.append(3)
    here.reader = tracker.Follower(here.path, 1.0)
    here.reader.begin(None, True)
    here.next = 3
    here.rotate("gap")
    here.pass_time()
    here.append(5)
    here.pass_time()
    assert here.lines() == list(range(3, 8))


def test_goaccess_1815_inode_and_count_are_the_same_after_copytruncate(here):
    """Inode and number of lines told where it had stopped: after a copytruncate so many new lines were skipped."""
    here.begin(5)
    here.stop()
    here.copytruncate()
    here.append(9)
    here.start()
    here.pass_time()
    assert here.lines() == list(range(5, 14))


# ---------------------------------------------------------------------------- the real logrotate

DEBIAN = """%s {
    rotate 4
    weekly
    missingok
    notifempty
    compress
    delaycompress
    sharedscripts
    postrotate
        touch %s
    endscript
}
"""
RHEL = """weekly
rotate 4
create
dateext
%s {
    missingok
    sharedscripts
    postrotate
        touch %s
    endscript
}
"""


class Logrotate:
    """The system's logrotate, with a configuration and a state of its own; each run is a week after the one before."""

    def __init__(self, here, configuration):
        self.here, self.hup = here, here.folder / "hup"
        self.configuration, self.status = here.folder / "rotate.conf", here.folder / "rotate.status"
        created = "" if "create\n" in configuration else "create\n"      # Debian has it in logrotate.conf
        self.configuration.write_text(created + configuration % (here.path, self.hup), encoding="ascii")
        self.configuration.chmod(0o600)
        self.weeks = 0

    def run(self, late=0):
        """Rotate; `late` lines still go to the old file before the writer hears of it."""
        here, names = self.here, set(os.listdir(str(self.here.folder)))
        program = shutil.which("logrotate", path="%s:/usr/sbin:/sbin" % os.environ.get("PATH", ""))
        subprocess.run([program, "-f", "-s", str(self.status), str(self.configuration)], check=True)
        assert self.hup.exists()
        self.hup.unlink()
        self.weeks += 1
        for name in set(os.listdir(str(here.folder))) - names:
            if name.startswith("mail.log-"):    # it would not rotate twice on one day
                date = "2026%02d%02d" % (self.weeks // 4 + 1, self.weeks % 4 * 7 + 1)
                os.rename(str(here.folder / name), "%s-%s" % (here.path, date))
        here.live = None
        here.append(late)
        here.let_go()
        here.live = File(here.path)
        here.clock += 7 * 86400
        here.reopen()


@pytest.fixture(params=[DEBIAN, RHEL], ids=["Debian", "RHEL"])
def logrotate(here, request):
    """The log of a mail server of the distribution."""
    if not shutil.which("logrotate", path="%s:/usr/sbin:/sbin" % os.environ.get("PATH", "")):
        pytest.skip("no logrotate here")
    return Logrotate(here, request.param)


def test_logrotate_while_running(here, logrotate):
    here.begin()
    for _ in range(6):
        here.append(2)
        logrotate.run(late=1)
        here.append(2)
        here.pass_time()
    assert here.lines() == list(range(len(here.written))) and here.reader.rotations == 6


@pytest.mark.parametrize("missed", [1, 2, 3, 4])
def test_logrotate_while_stopped(here, logrotate, missed):
    """As many as are kept: 4. The oldest ones are packed by Debian."""
    here.append(2)
    logrotate.run()
    here.begin()
    here.stop(1)
    first = here.saved_next
    for _ in range(missed):
        here.append(3)
        logrotate.run(late=1)
    here.append(2)
    packed = [one for one in here.folder.iterdir() if one.suffix == ".gz"]
    assert len(packed) == (min(missed, 3) if "compress" in logrotate.configuration.read_text(encoding="ascii") else 0)
    here.start()
    here.pass_time(10)
    assert here.lines() == list(range(first, len(here.written)))


def test_logrotate_more_often_than_it_keeps(here, logrotate):
    """What is deleted is lost; all that is left is younger than the saved place, and read."""
    here.begin()
    here.stop()
    for _ in range(6):
        here.append(2)
        logrotate.run()
    here.append(2)
    here.lossy = True
    here.start()
    here.pass_time(10)
    assert here.lines() == list(range(len(here.written) - 10, len(here.written)))


def test_logrotate_copytruncate_while_running_and_stopped(here, logrotate):
    """The same with copytruncate, which Plesk and many a container use."""
    plain = logrotate.configuration.read_text(encoding="ascii")
    logrotate.configuration.write_text(plain.replace("missingok", "missingok\n    copytruncate"), encoding="ascii")
    here.begin()
    here.lossy = True
    for number in range(4):
        if number % 2:
            here.stop()
        here.append(3)
        handle = here.handle
        logrotate.run()
        assert handle is not None
        here.append(2)
        here.start()
        here.pass_time()
    assert here.seen == set(range(len(here.written)))
