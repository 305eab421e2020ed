"""The class Follower: random lives of a log against a model, a case for every promise, and the programs that rotate.

A life is a list of actions. `World` carries it out in a folder: a writer that appends numbered lines, a logrotate
that renames, packs, copies and truncates, and the real Follower with a sink, saved, stopped, killed and started as
the daemon does it, under a clock that only moves when told. Every line handed out is compared at once with what was
written.

    FOLLOWER_SEEDS=200000 pytest tests/test_follower.py -k random       more lives than the usual ones
    FOLLOWER_SEEDS=1234:1235 pytest tests/test_follower.py -k random    one of them
"""
import bz2
import contextlib
import errno
import gzip
import io
import itertools
import json
import logging
import lzma
import os
import pathlib
import random
import re
import shutil
import stat
import subprocess
import tempfile
import time
import tracemalloc

import pytest
from conftest import Worn

import mail_relay_tracker as tracker

SEEDS = os.environ.get("FOLLOWER_SEEDS", "2000")
BLOCKS = 8                          # the random lives in so many tests
EPOCH = 1790000000                  # where the artificial clock of the files begins
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lambda data: lzma.compress(data, preset=0)}
NAMINGS = ("numbers", "savelog", "date", "date and epoch", "date before the extension", "postfix logrotate")

# Bugs of the module that the random lives keep clear of; each has a life of its own below, expected to fail while
# its name stands here. Whoever repairs one takes it out.
KNOWN = frozenset()


def text(number, filler=0):
    """Line `number`: its stamp alone tells it from every other."""
    day, rest = divmod(number, 86400)
    more = (" %d" % number * filler)[:filler]
    return "Nov %2d %02d:%02d:%02d mx postfix/qmgr[9]: %d: removed%s" % (
        day + 1, rest // 3600, rest // 60 % 60, rest % 60, number, more)


class Remote(io.FileIO):
    """A file on an NFS server: when that was restarted, what was open before is stale, and the path opens well."""

    restarts = 0

    def __init__(self, *rest):
        super().__init__(*rest)
        self.opened = Remote.restarts

    def read(self, size=-1):
        self.check()
        return super().read(size)

    def readinto(self, buffer):
        self.check()
        return super().readinto(buffer)

    def fileno(self):
        self.check()
        return super().fileno()

    def check(self):
        if self.opened != Remote.restarts:
            raise OSError(errno.ESTALE, "Stale file handle")


def open_remote(path):
    """What open_log does, on an NFS server."""
    plain = Remote(path, "rb")
    magic = plain.read(6)
    plain.seek(0)
    return next((opener(plain) for start, opener in tracker.MAGICS if magic.startswith(start)), plain)


class Wrong(AssertionError):
    """The follower broke a promise."""


class File:
    """One generation of the log: what was written between two rotations; `path` None once it is deleted."""

    def __init__(self, path):
        self.path = path
        self.numbers = []           # places of its lines in World.written


class World:
    """A folder with a log, its writer, its logrotate and its reader."""

    def __init__(self, folder, naming="numbers", chunk=1 << 18, known=frozenset(), log="mail.log"):
        self.folder, self.naming, self.known = pathlib.Path(str(folder)), naming, known
        self.path = str(self.folder / log)
        self.chunk = chunk
        self.now = 1000.0           # the reader's clock
        self.clock = EPOCH          # the files' clock, in seconds
        self.written = []           # complete lines in the order of the files, what a finished file ended with included
        self.places = {}            # line: its place in `written`
        self.maybe = set()          # places of lines that copytruncate or deletion may have taken away
        self.pieces = set()         # what copytruncate has made of a half line
        self.lossy = self.blind = False
        self.elsewhere = False      # rotated to where nobody looks for it
        self.blank = False          # the log was empty when the reader last looked at it
        self.begun = self.rest = None   # a half line: what is in the file, and what is not yet
        self.broken = False             # its beginning is in the copy, its end will be in the truncated file
        self.serial = 0
        self.rotated = []           # the rotated files, newest first
        self.copies = 0             # how often somebody has copied a log beside it
        self.renewed = False        # one of these copies seems to be younger than it is: it may be read again
        self.packing = None         # the file that is being compressed, the name and the bytes of the result
        self.live = None
        self.file = self.handle = None      # where the writer writes
        self.reader, self.sink, self.seen = None, [], set()
        self.passed = {}            # the reader, and where the last line that it gave ends
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

    def fill(self, size):
        """Write lines until the log is so long."""
        while size - os.stat(self.path).st_size > 2 * len(text(self.serial)) + 9:
            self.append()
        self.append(filler=size - os.stat(self.path).st_size - len(text(self.serial)) - 1)
        assert os.stat(self.path).st_size == size

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
        if self.naming == "postfix logrotate":
            return "%s.%s-%06d" % (self.path, date[1:], self.clock % 1000000)
        if self.naming == "date":
            return self.path + date
        if self.naming == "date and epoch":
            return "%s%s-%d" % (self.path, date, self.clock)
        return "%s%s.log" % (self.path[:-4], date)

    def shift(self):
        """Make room for one more rotated file; returns its name."""
        self.packed()
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

    def rotated_by(self, late=0, made=True):
        """Some program has renamed the log, and made a new one unless told; a week later. The writer hears of it when
        it has written `late` lines more.
        """
        self.live = None
        self.append(late)
        self.let_go()
        self.live = File(self.path) if made else None
        self.clock += 7 * 86400
        self.reopen()

    def pack(self, kind="gz", number=0, share=None):
        """Compress a rotated file that nobody writes to any more. `share`: so much of it is done when others look."""
        self.packed()
        files = [file for file in self.rotated if file is not self.file and not file.path.endswith(tuple(PACKERS))]
        if files:
            file = files[number % len(files)]
            packed = "%s.%s" % (file.path, kind)
            self.packing = file, packed, PACKERS[kind](pathlib.Path(file.path).read_bytes())
            if share is None:
                self.packed()
            else:
                pathlib.Path(packed).write_bytes(self.packing[2][:int(len(self.packing[2]) * share)])
                self.tick(packed)

    def packed(self):
        """Finish the compression that was begun."""
        if self.packing is not None:
            file, packed, data = self.packing
            plain, self.packing = pathlib.Path(file.path), None
            pathlib.Path(packed).write_bytes(data)
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

    def backup(self, number=-1, keep=True):
        """Copy the `number`th rotated file from the newest, or the log itself, beside it: under the name of a rotated one. `keep` its
        mtime (`cp -p`).
        """
        self.packed()
        files = [file for file in ([self.live] if number < 0 else self.rotated) if file is not None]
        if files:
            path = files[max(number, 0) % len(files)].path
            self.copies += 1
            copy = "%s-2025%04d%s" % (self.path, self.copies, "".join(end for end in tracker.PACKED if path.endswith(end)))
            (shutil.copy2 if keep else shutil.copyfile)(path, copy)
            if not keep:
                self.tick(copy)
                self.renewed = True

    def delete(self, number=-1):
        """Delete a rotated file, the `number`th from the newest, or the log itself."""
        self.packed()
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

    def restart_server(self):
        """All that is open is stale; not again before that was got over, nor while there is too little to know a file again by."""
        files = self.reader.files[-1:] + self.reader.queue if self.reader is not None else []
        if not any(file.said or 0 < len(file.head) < 32 for file in files):
            Remote.restarts += 1

    # -- the reader

    def start(self):
        """Start at the saved place, as the daemon does; it does not run when there is nothing to read."""
        if self.reader is not None:
            return
        if "packed, then held" in self.known:
            self.reopen()
        self.reader = tracker.Follower(self.path, 1.0, open_remote)
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
        with contextlib.suppress(OSError):      # a stale handle
            self.blank = bool(files) and files[-1].path == self.path and not files[-1].size()

    def read(self, count=10 ** 6, once=False):
        """Take so many batches, or all there are."""
        for _ in range(count if self.reader is not None else 0):
            batch = self.reader.read(self.now, once)
            if self.reader.warned and not self.lossy and not self.elsewhere:
                raise Wrong("false alarm: all rotated files are beside the log")
            self.look()
            if batch is None:
                return
            position = batch.position
            if position < self.passed.get(self.reader, 0):
                raise Wrong("the position goes back from %d to %d" % (self.passed[self.reader], position))
            for line in batch.lines:
                self.check(line)
                self.sink.append((position, self.next - (line in self.places)))
                position += len(line) + 1
            self.passed = {self.reader: position - 1}       # the last line of a file may have no newline

    def check(self, line):
        """Compare a line with what was written."""
        place = self.places.get(line)
        if place is None:
            if not self.lossy or not (line in self.pieces or any(one.startswith(line) for one in self.written)
                                      or (self.begun or "").startswith(line)):
                raise Wrong("was never written: %r" % line)
            return
        if place < self.next and self.renewed:
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

    def once(self):
        """Start, read to the end, save, and end: `--once`, which gives no writer time to go on in a rotated file."""
        if self.reader is None:
            self.reopen()
            self.start()
            self.read(once=True)
            self.stop()

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
def world(naming="numbers", chunk=1 << 18, known=frozenset(), log="mail.log"):
    """A world in a folder of its own, quiet, with a chunk size of its own, and nothing left of it."""
    folder = tempfile.mkdtemp(prefix="mail_relay_tracker.follower.")
    sync, size, disabled = os.fsync, tracker.CHUNK, tracker.LOG.disabled
    here = None
    try:
        os.fsync, tracker.CHUNK, tracker.LOG.disabled = (lambda descriptor: None), chunk, True
        here = World(folder, naming, chunk, known, log)
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
         ("kill", 1), ("start", 4), ("once", 1), ("read", 5), ("time", 3), ("reuse", 1), ("backup", 1),
         ("restart_server", 1))
        + ((("copytruncate", 4), ("delete", 1)) if lossy else ()))))[0]
    if kind == "append":
        return kind, lot.randint(1, 4), lot.choice((0, 0, 40, 300))
    if kind == "half":
        return kind, round(lot.random(), 2), lot.choice((0, 0, 400))
    if kind == "rotate":
        return kind, lot.choice(("create", "create", "hold", "late", "gap"))
    if kind == "pack":
        return kind, lot.choice(list(PACKERS)), lot.randint(0, 2), lot.choice((None, None, 0, 0.3, 0.7, 0.99))
    if kind in ("save", "stop"):
        return kind, lot.choice((0, 0, 1, 3))
    if kind == "read":
        return kind, lot.choice((1, 2, 99999))
    if kind == "time":
        return kind, lot.choice((0.5, 1.0, 2.5))
    if kind == "backup":
        return kind, lot.randint(-1, 2), lossy or lot.random() < 0.5
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
    "packing": [("append", 1, 300), ("rotate", "hold"), ("rotate",), ("append", 1), ("rotate",), ("pack", "gz", 1),
                ("pack", "xz", 1, 0.99)],
    "once, empty": [("rotate", "late"), ("create",), ("append", 3), ("stop",), ("once",)],
    "empty, then rotated twice": [("copytruncate",), ("delete", 0), ("stop",), ("start",), ("rotate",), ("append",), ("rotate",)],
    "younger files": [("read",), ("stop",), ("rotate",), ("append",), ("rotate",), ("delete", 1)],
}


def test_every_known_bug_has_its_life():
    assert not KNOWN - set(BUGS)


@pytest.mark.parametrize("bug", [
    pytest.param(bug, marks=[pytest.mark.xfail(bug in KNOWN, strict=True, reason=bug)]) for bug in BUGS])
def test_life_of_a_known_bug(bug):
    for chunk in (1 << 18, 50):
        carry_out(BUGS[bug], chunk=chunk)


@pytest.mark.parametrize("moment", ["before it is looked at", "before it is opened"])
def test_a_rotated_file_that_goes_while_the_folder_is_read_is_passed_over(here, monkeypatch, moment):
    here.begin()
    here.stop()
    for _ in range(3):
        here.append()
        here.rotate()
    here.append()
    here.lossy = True
    gone, known, looks = here.rotated[1].path, os.stat, []

    def lose_and_look(path, **options):
        found = known(path, **options)
        if path == gone:
            looks.append(path)
            if len(looks) == 2:             # the first look was for the saved place
                os.unlink(path)
        return known(path, **options) if moment == "before it is looked at" else found

    monkeypatch.setattr(os, "stat", lose_and_look)
    here.start()
    here.pass_time()
    assert len(looks) == 2 and here.lines() == [3, 5, 6]


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


FIRST = "Nov 29 08:00:01 mx postfix/qmgr[1]: first"       # what stands behind the zeros begins as lines do
POWER_CUTS = (      # what the file holds, and its lines
    (b"half a li\0\0\0%s\nsecond\n", ["half a li", FIRST, "second"]),
    (b"one\nhalf\0\0\0\0", ["one", "half"]),
    (b"one\n\0\0%s\n\n\0\0\nlast", ["one", FIRST, "", "", "last"]),
    (b"a\0b\0\0c\nd\r\n\0", ["a\0b\0\0c", "d"]),
    (b"one\n\0\0half\0\0\0%s\n", ["one", "half", FIRST]),
    (b"x" * (tracker.MAX_LINE + 9) + b"\0\0%s\n", ["x" * tracker.MAX_LINE, FIRST]),
    (b"\0" * 70000 + b"one\ntwo" + b"\0" * 70000 + b"%s\n", ["one", "two", FIRST]),
)
POWER_CUTS = [(data.replace(b"%s", FIRST.encode()), lines) for data, lines in POWER_CUTS]


@pytest.mark.parametrize("data, lines", POWER_CUTS, ids=range(len(POWER_CUTS)))
@pytest.mark.parametrize("piece", [1, 2, 3, 5, 32, 4096, 1 << 20])
def test_T10_zeros_that_a_power_cut_left_end_a_line(tmp_path, data, lines, piece):
    """Each line stands at its place, however the reading is cut."""
    path = tmp_path / "mail.log"
    path.write_bytes(data)
    if piece < 100 < len(data) / piece:
        piece *= 1000
    with contextlib.closing(tracker.LogFile(str(path), 1000)) as file:
        batches = [batch for start in range(0, len(data), piece) for batch in file.take(data[start:start + piece])]
        batches += file.last_line()
    found = [line for batch in batches for line in batch.lines]
    assert found == lines
    for batch in batches:
        place = batch.position - 1000
        for line in batch.lines:
            assert data[place:place + len(line)].decode("latin-1") == line and data[place - 1:place] in (b"", b"\0", b"\n")
            place += len(line) + 1


def read_from(path, place):
    """(line before, batches, place of FIRST) of a follower that begins there."""
    follower = tracker.Follower(str(path), 1.0)
    follower.begin(place, False)
    before, batches = follower.line_before(), [tuple(batch) for batch in iter(lambda: follower.read(0.0), None)]
    place = follower.place(613)
    follower.close()
    return before, batches, place


def test_T10_restarted_before_and_behind_zeros_in_the_midst_of_a_line(tmp_path):
    path = tmp_path / "mail.log"
    path.write_bytes(b"one\nhalf a li" + b"\0" * 600)
    assert read_from(path, None)[1] == [(["one"], 0, 0)]
    with open(str(path), "ab") as log:
        log.write(FIRST.encode() + b"\n")
    before, batches, place = read_from(path, None)
    assert (before, batches) == ("", [(["one"], 0, 0), (["half a li"], 4, 0), ([FIRST], 613, 0)])
    assert read_from(path, place)[:2] == ("half a li", [([FIRST], 613, 0)])


@pytest.mark.parametrize("end, line", [("", ""), ("one\n", "one"), ("one\nsecond\r\n", "second"), ("one\nseco", ""), ("\n", ""),
                                       ("x" * tracker.MAX_LINE + "\none\n", "one"),
                                       ("Nov 20 10:00:00 mx a: b\nNov 20 10:00:30 mx last message repeated 9 times\n",
                                        "Nov 20 10:00:00 mx a: b")])
def test_T9_the_line_before_the_place_where_reading_begins(tmp_path, end, line):
    """As it was handed out; a classic syslogd may say next that it was repeated."""
    path = tmp_path / "mail.log"
    path.write_bytes(end.encode("ascii"))
    with contextlib.closing(tracker.LogFile(str(path), 0)) as file:
        file.seek(len(end))
        assert file.line_before() == line


@pytest.mark.parametrize("hole", [0, 1, 5000, (1 << 17) - 3, 1 << 17, (1 << 17) + 5000])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_T6_who_looks_elsewhere_in_a_file_reads_on_where_he_was(tmp_path, monkeypatch, hole, ending):
    """At its length, or at what stands behind its hole, be it of any size."""
    path = tmp_path / ("mail.log" + ending)
    lines = ["%s %s" % (FIRST, "x" * number) for number in range(200)]
    data = b"\0" * hole + "".join(line + "\n" for line in lines).encode("ascii")
    path.write_bytes(gzip.compress(data) if ending else data)
    with contextlib.closing(tracker.LogFile(str(path), 0)) as file:
        head = file.peek(0, tracker.BEGINNING)
        assert file.opening(head) == data[hole:hole + len(head)] and file.length() == len(data)
        monkeypatch.setattr(tracker, "CHUNK", 100)
        found = []
        while not file.at_end:
            found += [line for batch in file.lines() for line in batch.lines]
            if len(found) == 10:
                assert file.opening(head) == data[hole:hole + len(head)] and file.length() == len(data)
        assert found == lines


def test_T6_a_file_of_nothing_but_a_hole_has_no_opening(tmp_path):
    path = tmp_path / "mail.log"
    path.write_bytes(b"\0" * 300000)
    with contextlib.closing(tracker.LogFile(str(path), 0)) as file:
        assert file.opening(file.peek(0, tracker.BEGINNING)) == b""


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


def test_T4_rotated_again_while_the_next_file_is_looked_for(here):
    """Between the listing of the rotated files and the opening of the live one it is rotated once more."""
    here.begin()
    here.rotate()
    here.append(2)
    opened, here.reader.logs.opener = open_and_then(here, here.path, lambda: (here.rotate(), here.append(2)))
    here.pass_time(20)
    assert opened and here.lines() == list(range(7))


def test_T4_rotated_while_the_lost_place_is_looked_for(here):
    """The file of the saved place is gone; the live one is rotated before it is opened."""
    here.begin()
    here.stop()
    here.delete()
    here.reopen()
    here.append(2)
    opened, opener = open_and_then(here, here.path, lambda: (here.rotate(), here.append(2)))
    here.reader, here.sink = tracker.Follower(here.path, 1.0, opener), []
    here.reader.begin(here.saved, False)
    here.pass_time(20)
    assert opened and here.lines() == [3, 4, 5, 6]


@pytest.mark.parametrize("made", [os.mkfifo, lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
                                  lambda path: os.symlink("/dev/null", path), os.mkdir], ids=["pipe", "socket", "device", "folder"])
def test_T4_a_log_that_gives_way_to_what_is_no_file_is_a_trouble_until_that_is_over(here, made):
    here.begin()
    os.rename(here.path, here.path + ".1")
    made(here.path)
    with pytest.raises(tracker.LogError, match="is not a regular file: check .logging. log_file"):
        for _ in range(20):
            here.now += 1
            here.reader.read(here.now)
    assert here.reader.blocked
    os.rename(here.path, here.path + "-away")
    pathlib.Path(here.path).write_text("one\n")
    batches = []
    for _ in range(20):
        here.now += 1
        batches.append(here.reader.read(here.now))
    assert [batch.lines for batch in batches if batch] == [["one"]] and not here.reader.blocked


def open_and_then(here, path, happens):
    """An opener for the follower: when `path` is opened, something has happened just before. Also a list of when."""
    times = []

    def opener(name):
        if name == path and not times:
            times.append(here.now)
            happens()
        return tracker.open_log(name)

    return times, opener


@pytest.mark.parametrize("error, troubles", [
    (PermissionError(13, "Permission denied"), 5), (FileNotFoundError(2, "No such file or directory"), 0)])
def test_T4_a_new_log_that_cannot_be_opened_yet_is_waited_for(here, error, troubles):
    """Its rights are set a moment later, or it went again before it was opened. It counts as one rotation."""
    here.begin()
    here.append()
    here.rotate()
    here.append(2)
    denied = 5

    def opener(path):
        nonlocal denied
        if path == here.path and denied:
            denied -= 1
            raise error
        return tracker.open_log(path)

    here.reader.logs.opener = opener
    told = []
    for _ in range(40):
        try:
            here.read()
        except tracker.LogError as trouble:
            told.append(str(trouble))
        here.time(0.5)
    assert here.lines() == [0, 1, 2, 3, 4, 5] and here.reader.rotations == 1
    assert len(told) == troubles and all("Permission denied" in one and here.path in one for one in told)


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


def test_T5_of_the_archives_only_the_one_that_the_place_is_in_is_unpacked(here, monkeypatch):
    """Older ones are told from it by their heads: a start after a rotation took as long as unpacking all of them."""
    for _ in range(3):
        here.append(400, 200)
        here.rotate()
        here.pack("bz2")
    here.append(400, 200)
    here.start()
    here.read()
    here.stop()
    here.rotate()
    here.pack("bz2")
    here.append()
    looks, known = [], tracker.LogFile.peek

    def peek(file, offset, length):
        looks.append((file.path, offset))
        return known(file, offset, length)

    monkeypatch.setattr(tracker.LogFile, "peek", peek)
    here.start()
    here.pass_time()
    assert {path for path, offset in looks if offset and path != here.path} == {here.rotated[0].path}
    assert here.next == len(here.written)


COPIED = {                          # beside the log, after which more was written: when, and what else happened. Ten lines were read
    "while stopped": [("stop",), ("append", 10), ("backup", -1), ("append", 10), ("rotate",), ("append", 10)],
    "where the reading stopped": [("stop",), ("backup", -1), ("append", 10), ("rotate",), ("append", 10)],
    "and the log packed": [("stop",), ("backup", -1), ("append", 10), ("rotate",), ("pack",), ("append", 10)],
    "twice": [("stop",), ("backup", -1), ("append", 10), ("backup", -1), ("append", 10), ("rotate",), ("pack", "xz"), ("append", 10)],
    "when it had few lines": [("stop",), ("rotate",), ("append", 2), ("backup", -1), ("append", 10), ("rotate",), ("append", 10)],
    "the next log": [("stop",), ("rotate",), ("append", 10), ("backup", -1), ("append", 10), ("rotate",), ("append", 10)],
    "the next log, packed": [("stop",), ("rotate",), ("append", 10), ("rotate",), ("pack",), ("backup", 0), ("append", 10)],
    "while reading pauses": [("rotate",), ("append", 10), ("backup", -1), ("append", 10), ("rotate",), ("append", 10)],
    "a broken copytruncate, then a whole one": [("append", 5), ("backup", -1), ("append", 5), ("copytruncate",), ("append", 5)],
    "the same while stopped": [("stop",), ("append", 5), ("backup", -1), ("append", 5), ("copytruncate",), ("append", 5)],
}


@pytest.mark.parametrize("naming", ["numbers", "date"])
@pytest.mark.parametrize("keep", [True, False], ids=["cp -p", "cp"])
@pytest.mark.parametrize("when", list(COPIED))
def test_T5_a_copy_beside_the_log_hides_no_line(when, keep, naming):
    """It begins like the log, and ends earlier: the longest of the files that begin alike is read, once."""
    with world(naming) as here:
        here.begin(10)
        for action, *arguments in COPIED[when]:
            getattr(here, action)(*arguments, *([keep] if action == "backup" else []))
        here.start()
        here.pass_time(10)
        assert here.next == len(here.written) and here.seen == set(range(len(here.written)))


def test_T5_the_reading_goes_on_in_the_file_of_which_it_read_a_copy(here):
    """The saved place is in the copy, for that was all there was; then the log itself was put back beside it."""
    here.begin(10)
    here.backup()
    here.append(10)
    here.rotate()
    here.append(10)
    away, copy = str(here.folder / "away"), here.path + "-20250001"
    os.rename(here.rotated[0].path, away)
    with contextlib.closing(tracker.LogFile(copy, 0)) as file:
        here.saved = file.place(5 * (len(text(0)) + 1))
    here.kill()
    os.rename(away, here.rotated[0].path)
    here.saved_next = 5
    here.start()
    assert here.reader.current.path == copy
    here.pass_time()
    assert here.lines() == list(range(5, 30))


def test_T7_two_logs_that_begin_with_zeros_are_two(here):
    """What a writer that does not append leaves behind copytruncate: heads alike, and yet no copies."""
    here.begin(10)
    here.stop()
    here.rotate()
    for _ in range(2):
        here.put("\0" * 500)
        here.append(3)
        here.rotate()
    here.append(1)
    here.start()
    here.pass_time(10)
    assert here.lines() == list(range(10, 17))


def test_T5_logrotate_copies_once_and_renames_the_next_time(here):
    """`copy` leaves the log as it is; whoever turns to `create` then has a rotated file that ends in the middle of the next one."""
    here.begin(10)
    here.stop()
    for how in ("copy", "create"):
        config = here.folder / how
        config.write_text("%s {\n rotate 9\n %s\n}\n" % (here.path, how), encoding="ascii")
        config.chmod(0o600)
        here.append(10)
        subprocess.run([program("logrotate"), "-f", "-s", str(here.folder / "status"), str(config)], check=True)
        here.tick(here.path + ".1")
    here.rotated_by()
    here.append(10)
    assert [len(pathlib.Path(here.path + end).read_text(encoding="ascii").splitlines()) for end in (".1", ".2")] == [30, 20]
    here.start()
    here.pass_time()
    assert here.lines() == list(range(10, 40))


def test_T5_other_files_in_the_folder_are_no_rotated_ones(here):
    for name in ("mail.err.1", "mail.log.bak", "mail.log.1.swp", "mail.log.1.tmp", "mail.info-20261122", "xmail.log.1",
                 "mail.logger.1", "mail.log.gz.part"):
        (here.folder / name).write_text(text(99) + "\n", encoding="ascii")
    (here.folder / "mail.log.7").mkdir()
    assert tracker.siblings(here.path) == []


@pytest.mark.parametrize("log, others", [
    ("mail.log", "mail2.log mail-2.log mail_2.log mail2.log.1 mail1.log.gz mail-2.log-20261122 mail.log2 mail22.log"),
    ("mx.log", "mx1.log mx-10.log mx10.log.1 mx10.example.log"), ("maillog", "maillog2 maillog2.1 maillog2-20261122.gz")])
def test_T5_the_logs_of_other_instances_are_no_rotated_ones(log, others):
    with world(log=log) as here:
        here.begin()
        for name in others.split():
            (here.folder / name).write_text(text(99) + "\n", encoding="ascii")
        here.rotate()
        here.append()
        here.pass_time()
        assert here.lines() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["mail.log", "maillog"])
@pytest.mark.parametrize("kind", ["", "gz"])
def test_T5_the_log_is_a_symbolic_link(here, name, kind):
    """Plesk has one beside its own logs. The rotated files are where the log is."""
    (here.folder / "plesk").mkdir()
    link = str(here.folder / "plesk" / name)
    os.symlink(here.path, link)
    here.begin()
    here.stop()
    here.append(2)
    here.rotate()
    if kind:
        here.pack(kind)
    here.append(2)
    here.reader, here.sink = tracker.Follower(link, 1.0), []
    here.reader.begin(here.saved, False)
    here.pass_time()
    here.rotate("late")
    here.append(2)
    here.reopen()
    here.append(2)
    here.pass_time()
    assert here.lines() == list(range(3, 11))


@pytest.mark.parametrize("log", ["mail.log", "maillog"])
@pytest.mark.parametrize("form", ["_%Y-%m-%d_%H:%M:%S", "-%Y-%m-%dT%H:%M:%S", ".%d-%m-%Y-%s", "-%Y%m%d%H-%s"])
def test_T5_dates_as_logrotates_dateformat_gives_them(log, form):
    with world(log=log) as here:
        here.begin()
        here.stop()
        for extension in ("", ".log"):
            config = here.folder / "config"
            config.write_text("%s {\n rotate 9\n create\n dateext\n dateformat %s\n %s\n}\n" % (
                here.path, form, "extension .log" if extension and log.endswith(".log") else ""), encoding="ascii")
            config.chmod(0o600)
            here.append(3)
            subprocess.run([program("logrotate"), "-f", "-s", str(here.folder / "status"), str(config)], check=True)
            here.rotated_by()
            time.sleep(1.1)                 # the date is to be another
        here.append(1)
        assert len(tracker.siblings(here.path)) == 2
        here.start()
        here.pass_time()
        assert here.lines() == list(range(3, 10))


def sealed(here, ending=".zst"):
    """Pack the youngest rotated file by a program that Python knows nothing of; its mtime stays."""
    path, packed = here.rotated[0].path, here.rotated[0].path + ending
    pathlib.Path(packed).write_bytes(b"\x28\xb5\x2f\xfd" + b"zstd" * 20)
    os.utime(packed, ns=(os.stat(path).st_mtime_ns,) * 2)
    os.unlink(path)
    here.rotated[0].path = packed


@pytest.mark.parametrize("where", ["olddir", "zstd", "the link has another target"])
def test_T5_rotated_to_where_nobody_looks_is_told_once(here, caplog, where):
    """While it is open it is read to its end all the same; what is rotated behind the reader's back is lost, so say it in time."""
    tracker.LOG.disabled, here.elsewhere = False, True
    (here.folder / "old").mkdir()
    if where == "the link has another target":
        os.rename(here.path, here.path + "-a")
        os.symlink(here.path + "-a", here.path)
    here.begin()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            here.append(2)
            if where == "zstd":
                here.rotate()
                sealed(here)
            elif where == "olddir":
                os.rename(here.path, str(here.folder / "old" / ("mail.log-%d" % number)))
                here.rotated_by(made=False)
            else:
                os.unlink(here.path)
                os.symlink("%s-%s" % (here.path, "bcd"[number]), here.path)
                here.tick(os.open(here.path, os.O_CREAT | os.O_WRONLY))
                here.live = None
                here.let_go()
                here.live = File(here.path)
                here.reopen()
            here.append(2)
            here.pass_time()
    assert here.lines() == list(range(15))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and here.path + " was rotated to where it is not looked for" in said[0] and "olddir" in said[0]


@pytest.mark.parametrize("ending", [".zst", ".z", ".gz.gpg"])
def test_T5_archives_that_nobody_here_can_unpack_are_named(here, caplog, ending):
    """When the saved position may be in one of them. What is older than that was read long ago, and of what is gone nobody knows."""
    tracker.LOG.disabled = False
    os.symlink(str(here.folder / "nothing"), here.path + ".9" + ending)
    here.append(3)
    here.rotate()
    sealed(here, ending)
    here.begin()
    here.stop()
    for _ in range(2):
        here.append(3)
        here.rotate()
        sealed(here, ending)
    here.append(1)
    here.lossy = True
    with caplog.at_level(logging.WARNING):
        here.start()
        here.pass_time()
    said = [record.getMessage() for record in caplog.records if "packed in a way" in record.getMessage()]
    assert len(said) == 1 and "%s, %s; unpack and --import" % (here.rotated[1].path, here.rotated[0].path) in said[0]
    assert here.lines() == [len(here.written) - 1]


@pytest.mark.parametrize("position", ["at its beginning", "behind its lines"])
@pytest.mark.parametrize("rotated", [0, 1])
def test_T5_the_file_of_the_saved_place_is_gone_and_that_is_said(here, caplog, position, rotated):
    """With the file that is read next, and what can be done; also when nothing of the file had been finished yet."""
    tracker.LOG.disabled = False
    here.append(3)
    with contextlib.closing(tracker.LogFile(here.path, 0)) as file:
        place = file.place(0 if position == "at its beginning" else file.size())
    here.rotate()
    os.rename(here.rotated.pop(0).path, str(here.folder / "elsewhere"))
    for _ in range(rotated):
        here.append(1)
        here.rotate()
    here.append(1)
    with caplog.at_level(logging.WARNING):
        follower = tracker.Follower(here.path, 1.0)
        follower.begin(place, False)
        follower.close()
    said, = [record.getMessage() for record in caplog.records]
    assert "saved position belongs to is gone" in said and "--import them" in said
    assert said.endswith("reading %s from its beginning" % ", then ".join([one.path for one in here.rotated] + [here.path]))


@pytest.mark.parametrize("position, said", [(0, 0), (7, 1)])
def test_T5_the_file_of_a_position_written_by_hand_is_gone_and_that_is_said(here, caplog, position, said):
    """Unless nothing had been read."""
    tracker.LOG.disabled = False
    here.append(3)
    with caplog.at_level(logging.WARNING):
        follower = tracker.Follower(here.path, 1.0)
        follower.begin(tracker.Place(position, os.stat(here.path).st_ino + 1), False)
    assert len(caplog.records) == said and len(follower.read(0.0).lines) == 3
    follower.close()


def test_T5_of_an_empty_file_that_is_gone_nothing_is_missed(here, caplog):
    tracker.LOG.disabled = False
    with contextlib.closing(tracker.LogFile(here.path, 0)) as file:
        place = file.place(0)
    os.unlink(here.path)
    pathlib.Path(here.path).write_text("one\n")
    with caplog.at_level(logging.WARNING):
        follower = tracker.Follower(here.path, 1.0)
        follower.begin(place, False)
        follower.close()
    assert not caplog.records


def test_T5_a_log_replaced_by_a_copy_of_itself_is_no_rotation_elsewhere(here):
    """As an editor does that saves it: the reading goes on where it was."""
    here.begin(10)
    replaced(here)
    here.append(3)
    here.pass_time()
    assert here.lines() == list(range(13)) and not here.reader.warned


@pytest.mark.parametrize("kind", list(PACKERS))
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("stopped", [False, True])
def test_T5_a_file_that_is_being_compressed_is_read_once(kind, share, stopped):
    """Plain and packed are both there; the packed one is younger, and its end is missing."""
    with world(chunk=1000) as here:
        here.begin(30)
        if stopped:
            here.stop()
        for _ in range(3):
            here.append(30)
            here.rotate()
        here.append(2)
        here.pack(kind, 2 if not stopped else 1, share)
        first = 0 if not stopped else here.saved_next
        here.start()
        here.pass_time(10)
        here.packed()
        here.append(2)
        here.pass_time()
        assert here.lines() == list(range(first, len(here.written)))


@pytest.mark.parametrize("kind", list(PACKERS))
def test_T5_compressed_between_the_listing_and_the_opening(here, kind):
    here.begin()
    here.append(2)
    here.stop()
    here.rotate()
    here.append(2)
    here.pack(kind, 0, 1.0)
    times, opener = open_and_then(here, here.rotated[0].path, here.packed)
    here.reader, here.sink = tracker.Follower(here.path, 1.0, opener), []
    here.reader.begin(here.saved, False)
    here.pass_time()
    assert times and here.lines() == [3, 4, 5, 6]


def denying(*denied):
    """An opener without rights on some files."""
    def opener(path):
        if path in denied:
            raise PermissionError(13, "Permission denied", path)
        return tracker.open_log(path)
    return opener


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_T5_a_rotated_file_that_cannot_be_read_for_now_is_waited_for(here, number, packed):
    """Lines may stand in it that were not read: the one that the saved place is in, or a younger one. Once it is readable all is read. An
    archive has another inode than what it was made of, and its time to the second, if bzip2 made it.
    """
    here.begin()
    here.stop()
    for _ in range(3):
        here.append()
        here.rotate()
    here.append()
    if packed:
        here.pack("bz2", len(here.rotated) - 1 - number)
    denied = here.rotated[-1 - number].path
    if packed:
        os.utime(denied, ns=(os.stat(denied).st_mtime_ns - 900000000,) * 2)
    with pytest.raises(tracker.LogError, match="%s: Permission denied: .*make it readable for user" % denied):
        tracker.Follower(here.path, 1.0, denying(denied)).begin(here.saved, False)
    here.start()
    here.pass_time()
    assert here.next == len(here.written)


def test_T5_an_old_rotated_file_that_cannot_be_read_is_named_and_passed_over(here, caplog):
    """All that stands in it was read long ago."""
    tracker.LOG.disabled = False
    here.append()
    here.rotate()
    here.begin()
    here.stop()
    here.append()
    here.rotate()
    here.append()
    denied = here.rotated[1].path
    os.utime(denied, (1, 1))
    here.reader = tracker.Follower(here.path, 1.0, denying(denied))
    with caplog.at_level(logging.WARNING):
        here.reader.begin(here.saved, False)
        here.pass_time()
    assert here.next == len(here.written)
    assert any("%s: " % denied in record.getMessage() and "passed over" in record.getMessage() for record in caplog.records)


def test_T5_very_many_rotated_files(here, monkeypatch):
    """A process may not hold a thousand files open, nor as many as were missed."""
    monkeypatch.setattr(tracker, "MAX_QUEUE", 3)
    for _ in range(5):
        here.append()
        here.rotate()
    here.begin()
    here.stop()
    for _ in range(10):
        here.append()
        here.rotate()
    here.append()
    here.start()
    assert len(here.reader.files + here.reader.queue) <= 4
    for _ in range(10):
        here.pass_time()
    assert here.next == len(here.written)


@pytest.mark.parametrize("once", [False, True])
def test_T4_the_old_file_grows_between_its_end_and_the_look_at_the_new_one(here, monkeypatch, once):
    """Its writer ends it, and begins the new one, while the reader is on its way from one to the other."""
    here.begin()
    here.rotate("hold")
    look, due = os.stat, here.now if once else here.now + 5
    here.read(once=once)

    def look_late(path, **options):
        if path == here.path and here.file is not here.live and here.now > due:
            here.append()
            here.reopen()
            here.append()
        return look(path, **options)

    monkeypatch.setattr(os, "stat", look_late)
    for _ in range(40):
        here.time(0.5)
        here.read(once=once)
    assert here.next == len(here.written) == 5


def test_T5_the_archive_that_the_saved_place_is_in_is_damaged(here, caplog):
    """Its rest is lost; all that is younger is read."""
    tracker.LOG.disabled = False
    here.begin()
    here.stop()
    for _ in range(2):
        here.append(5, 100)
        here.rotate()
        here.pack("gz")
    damaged = pathlib.Path(here.rotated[1].path)
    damaged.write_bytes(damaged.read_bytes()[:12])
    here.append()
    here.lossy = True
    with caplog.at_level(logging.WARNING):
        here.start()
        here.pass_time()
    assert here.lines() == list(range(8, 14))
    said = [record.getMessage() for record in caplog.records]
    assert any("cannot read rotated log %s" % damaged in one for one in said) and any(here.path + " from its" in one for one in said)


def test_T5_the_damaged_end_of_an_archive_is_told_once(here, caplog):
    """However long the live log stays empty after it."""
    tracker.LOG.disabled = False
    here.begin()
    here.stop()
    here.append(2000, 200)
    here.rotate()
    here.pack("gz")
    damaged = pathlib.Path(here.rotated[0].path)
    damaged.write_bytes(damaged.read_bytes()[:-2000])
    here.lossy = True
    here.start()
    with caplog.at_level(logging.WARNING):
        here.pass_time(60)
    assert len(caplog.records) == 1 and here.rotated[0].path in caplog.records[0].getMessage()
    assert here.next > 1000
    here.append(2)
    here.pass_time()
    assert here.lines()[-2:] == [2003, 2004]


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


def test_T6_truncated_and_grown_between_the_check_and_the_read(here, monkeypatch):
    """The process was suspended just there."""
    here.begin(6)
    here.append(2)
    known, late = tracker.LogFile.is_truncated, []

    def check_and_truncate(file):
        found = known(file)
        if not late:
            late.append(file)
            here.copytruncate(0, "larger")
            here.append(5)
        return found

    monkeypatch.setattr(tracker.LogFile, "is_truncated", check_and_truncate)
    here.pass_time()
    assert late and here.lines() == list(range(len(here.written)))


def test_T6_the_rest_of_a_copy_that_is_being_compressed(here):
    """The reader is behind when the log is truncated: the copy is there as it was, and half packed."""
    here.begin()
    here.append(6000, 60)
    here.copytruncate()
    here.pack("gz", 0, 0.9)
    here.append(2)
    here.pass_time()
    assert here.lines() == list(range(len(here.written)))


@pytest.mark.parametrize("stopped", [False, True])
def test_T6_a_writer_that_does_not_append_leaves_zeros(here, stopped):
    """After the truncation it goes on where it was: what it skipped reads as zeros (T10)."""
    here.begin(6)
    os.close(here.handle)
    here.handle = os.open(here.path, os.O_WRONLY)
    os.lseek(here.handle, 0, os.SEEK_END)
    here.append(2)
    if stopped:
        here.stop()
    first = here.saved_next if stopped else 0
    here.copytruncate()
    here.append(3)
    assert pathlib.Path(here.path).read_bytes()[:1] == b"\0"
    here.start()
    here.pass_time()
    assert here.lines() == list(range(first, 11))
    here.save()
    here.append()
    here.restart()
    assert here.lines() == [11]


def test_T6_a_damaged_archive_beside_the_copy(here):
    """It cannot be the copy; the copy is found all the same."""
    here.begin()
    here.append(2)
    here.copytruncate()
    for kind, compress in PACKERS.items():
        damaged = here.folder / ("mail.log.9." + kind)
        damaged.write_bytes(compress(b"lost")[:12])
        here.tick(str(damaged))
    here.append(2)
    here.pass_time()
    assert here.lines() == list(range(7))


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


def inherit(here):
    """The log is deleted, and the new one has its inode."""
    held = str(here.folder / "held")
    os.link(here.path, held)
    here.delete()
    os.close(here.handle)
    os.truncate(held, 0)
    os.rename(held, here.path)
    here.handle = os.open(here.path, os.O_WRONLY | os.O_APPEND)
    here.live = here.file = File(here.path)


def test_T7_inode_reuse(here):
    """The deleted file's inode is given to the next: really, by a second name that outlives the first."""
    here.begin()
    here.stop()
    inherit(here)
    here.append(9)
    assert os.stat(here.path).st_ino == here.saved.inode
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


def shorter(here, size=0):
    """Somebody has truncated the log: what was in it is nowhere now."""
    here.lossy = True
    os.truncate(here.path, size)
    here.tick(here.path)


def rewritten(here, offset, data):
    """Somebody has changed some bytes of the log; the lines they are in count as they are now."""
    with open(here.path, "r+b") as log:
        log.seek(offset)
        log.write(data)
    here.lossy, here.saved_next = True, 0
    for place, line in enumerate(pathlib.Path(here.path).read_text(encoding="ascii").splitlines()):
        here.places[line] = place


def replaced(here):
    """The log was copied elsewhere and back: the same bytes under another inode."""
    other = here.folder / "elsewhere"
    shutil.copyfile(here.path, str(other))
    os.close(here.handle)
    os.replace(str(other), here.path)
    here.handle = os.open(here.path, os.O_WRONLY | os.O_APPEND)


def again(here, count):
    """The log has only its first lines left; they are read again."""
    shorter(here, count * (len(text(0)) + 1))
    here.saved_next = 0


WHAT_HAPPENED = {                   # while nobody looked: what it was, and what comes at the restart. Six lines were read
    "nothing": (lambda here: None, []),
    "it has grown": (lambda here: here.append(2), [6, 7]),
    "emptied": (shorter, []),
    "emptied, shorter now": (lambda here: (shorter(here), here.append(2)), [6, 7]),
    "emptied, as long now": (lambda here: (shorter(here), here.fill(here.saved.position)), list(range(6, 11))),
    "emptied, longer now": (lambda here: (shorter(here), here.append(8)), list(range(6, 14))),
    "cut": (lambda here: (again(here, 3), here.append(1)), [0, 1, 2, 6]),
    "cut, longer now": (lambda here: (again(here, 3), here.append(9)), [0, 1, 2, *range(6, 15)]),
    "another head": (lambda here: (rewritten(here, 0, b"Dec"), here.append(1)), list(range(7))),
    "another tail": (lambda here: (rewritten(here, 270, b"XXXX"), here.append(1)), list(range(7))),
    "another middle": (lambda here: (here.append(1), rewritten(here, 20, b"my")), list(range(7))),
    "another inode": (lambda here: (replaced(here), here.append(2)), [6, 7]),
    "copied and emptied": (lambda here: (here.append(2), here.copytruncate()), [6, 7]),
    "copied, packed and emptied": (lambda here: (here.append(2), here.copytruncate(), here.pack(), here.append(1)), [6, 7, 8]),
    "rotated": (lambda here: (here.append(2), here.rotate()), [6, 7]),
    "rotated and packed": (lambda here: (here.append(2), here.rotate(), here.pack(), here.append(1)), [6, 7, 8]),
    "rotated, no log yet": (lambda here: (here.append(2), here.rotate("gap")), [6, 7]),
    "rotated twice": (lambda here: (here.append(2), here.rotate(), here.append(2), here.rotate()), [6, 7, 8, 9]),
    "the inode of another": (lambda here: (here.rotate(), here.append(9), here.reuse()), list(range(6, 15))),
    "deleted, another in its place": (lambda here: (here.delete(), here.reopen(), here.append(9)), list(range(6, 15))),
}


@pytest.mark.parametrize("what", list(WHAT_HAPPENED))
def test_T8_what_a_restart_makes_of_it(here, what):
    """Go on, drain another file first, or start over; then it follows as ever."""
    happened, comes = WHAT_HAPPENED[what]
    here.begin(6)
    here.stop()
    happened(here)
    here.start()
    here.pass_time()
    assert here.lines() == comes
    following = len(here.written)
    here.append(2)
    here.pass_time()
    assert here.lines() == [*comes, following, following + 1]
    here.save()
    here.restart()
    assert here.lines() == []


@pytest.mark.parametrize("position, inode, comes, rotated", [
    (2, "right", [2, 3, 4], [2, 3, 4]), (2, "wrong", [0, 1, 2, 3, 4], [3, 4]), (2, "none", [2, 3, 4], []),
    (9, "right", [0, 1, 2, 3, 4], [3, 4]), (9, "none", [0, 1, 2, 3, 4], [3, 4]), (0, "right", [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])])
def test_T8_a_state_written_by_hand(position, inode, comes, rotated):
    """A position, and an inode if it may have been rotated meanwhile; the fingerprints are unknown."""
    for expected in (comes, rotated):
        with world() as here:
            here.append(3)
            state = {"position": position * (len(text(0)) + 1)}
            if inode != "none":
                state["inode"] = os.stat(here.path).st_ino + 1000 * (inode == "wrong")
            pathlib.Path(here.state.path).write_text(json.dumps(state), encoding="ascii")
            if expected is rotated:
                here.rotate()
            here.append(2)
            here.saved, here.saved_next, here.lossy = here.state.load(), 0, True
            here.start()
            here.pass_time()
            assert here.lines() == expected


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


def test_T8_renamed_between_the_opening_and_the_asking(here):
    here.append(3)

    def open_and_rotate(path):
        handle = tracker.open_log(path)
        here.rotate()
        here.append(9)
        return handle

    with contextlib.closing(tracker.LogFile(here.path, 0, open_and_rotate)) as file:
        assert file.inode == os.stat(here.rotated[0].path).st_ino != os.stat(here.path).st_ino
        assert file.place(0).inode == file.inode


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


def test_T10_killed_in_the_middle_of_a_line_without_end(tmp_path):
    """The place lies in the line: what comes of it after the restart is no line."""
    path = tmp_path / "mail.log"
    path.write_bytes(b"one\n" + b"y" * 300000)
    follower = tracker.Follower(str(path), 1.0)
    follower.begin(None, False)
    found = [(line[:3], len(line)) for batch in iter(lambda: follower.read(0.0), None) for line in batch.lines]
    place = follower.place(follower.position)
    follower.close()
    assert found == [("one", 3), ("yyy", tracker.MAX_LINE)] and place.position == 300004
    with open(str(path), "ab") as log:
        log.write(b"y" * 300000 + b"\ntwo\n")
    follower = tracker.Follower(str(path), 1.0)
    follower.begin(place, False)
    assert [batch.lines for batch in iter(lambda: follower.read(0.0), None)] == [["two"]]
    follower.close()


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


def test_T20_what_is_left_to_read_is_told(here):
    assert tracker.Follower(here.path, 1.0).lag() == 0
    here.append(4)
    here.start()
    assert here.reader.lag() == os.stat(here.path).st_size
    here.read()
    assert here.reader.lag() == 0
    here.half(0.5)
    assert here.reader.lag() == len(here.begun)
    here.read()
    assert here.reader.lag() == len(here.begun)
    here.append()
    here.read()
    assert here.reader.lag() == 0
    here.append()
    size = os.stat(here.path).st_size - here.reader.position
    here.rotate("gap")
    assert here.reader.lag() == size
    here.append()
    assert here.reader.lag() == size + os.stat(here.path).st_size
    here.stop()
    here.rotate()
    here.append(2)
    here.start()
    assert here.reader.queue and here.reader.lag() == size + sum(os.stat(path).st_size for path in (here.rotated[0].path, here.path))


# ---------------------------------------------------------------------------- the real logrotate

# What the distributions install, but for the paths: the directives of /etc/logrotate.conf, and what rsyslog's package
# has in /etc/logrotate.d.
DEBIAN_CONF = """\
weekly
rotate 4
create
include /etc/logrotate.d
"""
DEBIAN_12 = """\
/var/log/syslog
/var/log/mail.log
/var/log/kern.log
/var/log/auth.log
/var/log/user.log
/var/log/cron.log
{
\trotate 4
\tweekly
\tmissingok
\tnotifempty
\tcompress
\tdelaycompress
\tsharedscripts
\tpostrotate
\t\t/usr/lib/rsyslog/rsyslog-rotate
\tendscript
}
"""
DEBIAN_11 = """\
/var/log/syslog
{
\trotate 7
\tdaily
\tmissingok
\tnotifempty
\tdelaycompress
\tcompress
\tpostrotate
\t\t/usr/lib/rsyslog/rsyslog-rotate
\tendscript
}

/var/log/mail.info
/var/log/mail.warn
/var/log/mail.err
/var/log/mail.log
/var/log/daemon.log
/var/log/kern.log
/var/log/auth.log
/var/log/user.log
/var/log/lpr.log
/var/log/cron.log
/var/log/debug
/var/log/messages
{
\trotate 4
\tweekly
\tmissingok
\tnotifempty
\tcompress
\tdelaycompress
\tsharedscripts
\tpostrotate
\t\t/usr/lib/rsyslog/rsyslog-rotate
\tendscript
}
"""
RHEL_CONF = """\
weekly
rotate 4
create
dateext
include /etc/logrotate.d
"""
RHEL = """\
/var/log/cron
/var/log/maillog
/var/log/messages
/var/log/secure
/var/log/spooler
{
    missingok
    sharedscripts
    postrotate
        /usr/bin/systemctl -s HUP kill rsyslog.service >/dev/null 2>&1 || true
    endscript
}
"""
COMPRESSED = "{\n    delaycompress\n    compress\n"       # fail2ban's #1797 has these in it
DISTRIBUTIONS = {
    "Debian 11": (DEBIAN_CONF, DEBIAN_11, "mail.log"), "Debian 12": (DEBIAN_CONF, DEBIAN_12, "mail.log"),
    "RHEL": (RHEL_CONF, RHEL, "maillog"), "RHEL, compressed": (RHEL_CONF, RHEL.replace("{\n", COMPRESSED), "maillog")}


def program(name):
    """Where a program of the system is; without it there is nothing to test."""
    found = shutil.which(name, path="%s:/usr/sbin:/sbin" % os.environ.get("PATH", ""))
    if not found:
        pytest.skip("no %s here" % name)
    return found


class Logrotate:
    """The system's logrotate, with a distribution's configuration and a state of its own; each run is a week after the
    one before. The other logs that it rotates are in the same folder.
    """

    def __init__(self, here, main, snippet):
        self.here, self.program = here, program("logrotate")
        self.folder = here.folder / "etc"
        self.folder.mkdir()
        (self.folder / "logrotate.d").mkdir()
        self.hup, script = self.folder / "hup", self.folder / "rsyslog-rotate"
        script.write_text("#!/bin/sh\ntouch %s\n" % self.hup, encoding="ascii")
        script.chmod(0o700)
        self.others = [here.folder / line[9:] for line in snippet.splitlines() if line.startswith("/var/log/")]
        self.others.remove(pathlib.Path(here.path))
        snippet = re.sub("/usr/lib/rsyslog/rsyslog-rotate|/usr/bin/systemctl", str(script), snippet)
        self.snippet = self.write("logrotate.d/rsyslog", snippet.replace("/var/log/", "%s/" % here.folder))
        self.main = self.write("logrotate.conf", main.replace("/etc/", "%s/" % self.folder))
        self.compresses = "\n\tcompress" in snippet or COMPRESSED in snippet
        self.weeks = 0

    def write(self, name, content):
        """A file of the configuration, with the rights that logrotate asks for."""
        path = self.folder / name
        path.write_text(content, encoding="ascii")
        path.chmod(0o600)
        return path

    def run(self, late=0):
        """Rotate; `late` lines still go to the old file before the writer hears of it."""
        names = set(os.listdir(str(self.here.folder)))
        for other in self.others:
            other.write_text("Nov 22 10:00:00 mx another: log\n" * 20, encoding="ascii")
        subprocess.run([self.program, "-f", "-s", str(self.folder / "status"), str(self.main)], check=True)
        self.hup.unlink()
        self.weeks += 1
        for name in set(os.listdir(str(self.here.folder))) - names:
            stem, dash, today = name.partition("-")
            if dash and today.isdigit():        # it would not rotate twice on one day
                date = "2026%02d%02d" % (self.weeks // 4 + 1, self.weeks % 4 * 7 + 1)
                os.rename(str(self.here.folder / name), str(self.here.folder / ("%s-%s" % (stem, date))))
        self.here.rotated_by(late)


@pytest.fixture(params=list(DISTRIBUTIONS))
def logrotate(request):
    """The log of a mail server of the distribution, and what rotates it."""
    main, snippet, log = DISTRIBUTIONS[request.param]
    with world(log=log) as here:
        yield Logrotate(here, main, snippet)


def test_logrotate_while_running(logrotate):
    here = logrotate.here
    here.begin()
    for _ in range(6):
        here.append(2)
        logrotate.run(late=1)
        here.append(2)
        here.pass_time()
    assert here.lines() == list(range(len(here.written))) and here.reader.rotations == 6


@pytest.mark.parametrize("missed", [1, 2, 3, 4])
def test_logrotate_while_stopped(logrotate, missed):
    """As many as are kept: 4. The oldest ones are packed by Debian."""
    here = logrotate.here
    here.append(2)
    logrotate.run()
    here.begin()
    here.stop(1)
    first = here.saved_next
    for _ in range(missed):
        here.append(3)
        logrotate.run(late=1)
    here.append(2)
    packed = [name for name in tracker.siblings(here.path) if name.endswith(".gz")]
    assert len(packed) == (min(missed, 3) if logrotate.compresses else 0)
    assert len(tracker.siblings(here.path)) == min(missed + 1, 4)
    here.start()
    here.pass_time(10)
    assert here.lines() == list(range(first, len(here.written)))


def test_logrotate_more_often_than_it_keeps(logrotate):
    """What is deleted is lost; all that is left is younger than the saved place, and read."""
    here = logrotate.here
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


def test_logrotate_copytruncate_while_running_and_stopped(logrotate):
    """The same with copytruncate, which Plesk and many a container use."""
    here = logrotate.here
    plain = logrotate.snippet.read_text(encoding="ascii")
    logrotate.snippet.write_text(plain.replace("missingok", "missingok\n    copytruncate"), encoding="ascii")
    here.begin()
    here.lossy = True
    for number in range(4):
        if number % 2:
            here.stop()
        here.append(3)
        inode = os.stat(here.path).st_ino
        logrotate.run()
        assert os.stat(here.path).st_ino == inode
        here.append(2)
        here.start()
        here.pass_time()
    assert here.seen == set(range(len(here.written)))


# ---------------------------------------------------------------------------- other programs that rotate

def postfix_logrotate(here, late=0):
    """`postfix logrotate`: renames Postfix's own log (maillog_file) by maillog_file_rotate_suffix, %Y%m%d-%H%M%S, has
    postlogd open a new one, and hands the old one a second later to maillog_file_compressor, gzip.
    """
    rotated = here.path + time.strftime(".%Y%m%d-%H%M%S", time.gmtime(here.clock))
    os.rename(here.path, rotated)
    here.rotated_by(late, made=False)
    here.read()
    here.time(1)
    subprocess.run([program("gzip"), rotated], check=True)


def savelog(here, late=0):
    """Debian's savelog, as many a cron job calls it: `.0`, then `.1.gz`, `.2.gz`."""
    subprocess.run([program("savelog"), "-q", "-t", "-c", "7", here.path], check=True, stdout=subprocess.DEVNULL)
    here.rotated_by(late)


@pytest.mark.parametrize("log", ["mail.log", "maillog", "postfix.log"])
@pytest.mark.parametrize("rotate", [postfix_logrotate, savelog])
def test_another_program_rotates_while_running_and_while_stopped(log, rotate):
    with world(log=log) as here:
        here.begin()
        for _ in range(3):
            here.append(2)
            rotate(here, late=1)
            here.append(2)
            here.pass_time()
        assert here.lines() == list(range(len(here.written))) and here.reader.rotations == 3
        for missed in (1, 3):
            here.stop(1)
            first = here.saved_next
            for _ in range(missed):
                here.append(3)
                rotate(here)
            here.append(2)
            here.start()
            here.pass_time(10)
            assert here.lines() == list(range(first, len(here.written)))


# -- rotated files whose mtimes do not tell their order

def lines_of(letter):
    """Five lines of the same second: the stamps do not tell the order of such files."""
    return "".join("2026-11-22T13:13:01+00:00 mx x: %s%d this is a line of a log\n" % (letter, number) for number in range(5))


POLLS = itertools.count(0, 3)           # seconds of a clock that never steps back


def lines_from(follower, polls=60):
    """All lines that it gives, in order."""
    batches = [follower.read(float(now)) for now in itertools.islice(POLLS, polls)]
    return [line for batch in batches if batch for line in batch.lines]


def letters_of(follower, polls=60):
    """The letters of all lines, in order, each run of them once."""
    letters = [line.split()[3][0] for line in lines_from(follower, polls)]
    return "".join(letter for letter, run in itertools.groupby(letters) if len(list(run)) == 5)


def who_has_read_a(path, opener=tracker.open_log):
    """A follower that has read A, which is all there is."""
    path.write_text(lines_of("A"))
    follower = tracker.Follower(str(path), 0.0, opener)
    follower.begin(None, False)
    assert letters_of(follower) == "A"
    return follower


def taken_up(path, place, opener=tracker.open_log):
    """A follower that looks at every turn, and begins at a saved place."""
    follower = tracker.Follower(str(path), 0.0, opener)
    follower.begin(place, False)
    return follower


def missed_rotations(path, *names):
    """A follower that read A, and was away while `a` was appended and files were made: the last of the names is the live log."""
    follower = who_has_read_a(path)
    place = follower.place(follower.position)
    follower.close()
    with open(str(path), "a") as log:
        log.write(lines_of("a"))
    path.rename(str(path) + names[0])
    for letter, name in zip("BCD", names[1:]):
        pathlib.Path(str(path) + name).write_text(lines_of(letter))
    return place


@pytest.mark.parametrize("age", [0, 1, -1], ids=["equal", "in order", "the other way round"])
def test_T5_rotated_files_are_read_in_their_order_whatever_their_mtimes(tmp_path, age):
    path = tmp_path / "mail.log"
    place = missed_rotations(path, ".3", ".2", ".1", "")
    for number in (1, 2, 3):
        os.utime(str(path) + ".%d" % number, (1795000000 - age * number, 1795000000 - age * number))
    follower = taken_up(path, place)
    assert letters_of(follower) == "aBCD"


def test_T5_an_archive_packed_later_than_the_next_file_was_written_hides_nothing(tmp_path):
    path = tmp_path / "mail.log"
    place = missed_rotations(path, ".2", ".1", "")
    with open(str(path) + ".2", "rb") as plain, gzip.open(str(path) + ".2.gz", "wb") as packed:
        packed.write(plain.read())
    os.unlink(str(path) + ".2")
    os.utime(str(path) + ".2.gz", (4000000000, 4000000000))
    follower = taken_up(path, place)
    assert letters_of(follower) == "aBC"


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("left", ["", lines_of("Z")], ids=["empty", "of other lines"])
def test_T5_an_older_plain_file_hides_no_archive_of_its_name(tmp_path, kind, left):
    """It was left over when packing was switched on, or by somebody who unpacked to look."""
    path = tmp_path / "mail.log"
    place = missed_rotations(path, ".2", ".1", "")
    plain = tmp_path / "mail.log.2"
    pathlib.Path("%s.%s" % (plain, kind)).write_bytes(PACKERS[kind](plain.read_bytes()))
    plain.write_text(left)
    os.utime(str(plain), (EPOCH - 10 ** 6,) * 2)
    follower = taken_up(path, place)
    assert letters_of(follower) == "aBC"


def test_T5_archives_beside_their_plain_files_are_not_opened_at_every_look(tmp_path, monkeypatch):
    path = tmp_path / "mail.log"
    follower = who_has_read_a(path)
    for name, pack in (("mail.log.1", bytes), ("mail.log.1.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(lines_of("Z").encode("ascii")))
    opened = []
    monkeypatch.setattr(tracker, "is_being_packed", opened.append)
    assert letters_of(follower) == "" and not opened


def test_T5_two_rotations_between_two_looks_with_equal_mtimes(tmp_path):
    path = tmp_path / "mail.log"
    follower = who_has_read_a(path)
    path.rename(str(path) + ".2")
    pathlib.Path(str(path) + ".1").write_text(lines_of("B"))
    path.write_text(lines_of("C"))
    for number in (1, 2):
        os.utime(str(path) + ".%d" % number, (1795000000, 1795000000))
    assert letters_of(follower) == "BC"


def stamped(letter, *stamps):
    """A line of a log for every stamp."""
    return "".join("%s mx x: %s%d this is a line of a log\n" % (stamp, letter, number) for number, stamp in enumerate(stamps))


def letters_after(path, names, *texts):
    """The letters that a follower gives that has read half of the first text, and was away while all were written, and rotated into files
    of these names: the last is the live log.
    """
    path.write_text(texts[0][:texts[0].index("\n") + 1])
    follower = tracker.Follower(str(path), 0.0)
    follower.begin(None, False)
    assert follower.read(float(next(POLLS)), True)
    place = follower.place(follower.position)
    follower.close()
    with open(str(path), "a") as log:
        log.write(texts[0][texts[0].index("\n") + 1:])
    path.rename(str(path) + names[0])
    for name, text_of_it in zip(names[1:], texts[1:]):
        pathlib.Path(str(path) + name).write_text(text_of_it)
    follower = taken_up(path, place)
    return [re.search("x: (.)", line).group(1) for line in lines_from(follower)]


A_DAY, ODD = ["2026-11-2%d" % day + "T08:00:0%d.000000+00:00" for day in (6, 7, 8)], "2026-11-20T08:00:00.000000+00:00"
ODD_STAMPS = {
    "the hour that the end of summer time repeats": (["Oct 25 02:00:0%d" % second for second in (5, 7, 9)],
                                                     ["Oct 25 02:00:0%d" % second for second in (2, 4, 6)],
                                                     ["Oct 25 03:00:0%d" % second for second in (3, 5, 7)]),
    "a clock set back": tuple(["2026-11-26T02:%s:0%d+00:00" % (minute, second) for second in (5, 6, 7)] for minute in ("10", "05", "10")),
    "a late line": tuple([first] + [A_DAY[day] % second for second in (6, 7)] for day, first in enumerate(
        (A_DAY[0] % 5, "2026-11-26T07:59:40+00:00", A_DAY[2] % 5))),
    "a clock a week behind": tuple([first] + [A_DAY[day] % second for second in (6, 7)] for day, first in enumerate(
        (A_DAY[0] % 5, ODD, A_DAY[2] % 5))),
}


@pytest.mark.parametrize("odd", ODD_STAMPS)
@pytest.mark.parametrize("names", [(".2", ".1", ""), (".1", ".0", ""), (".10", ".9", ".1", "")], ids=["logrotate", "savelog", "more"])
def test_T5_numbers_tell_the_order_of_rotated_files_whatever_their_stamps(tmp_path, odd, names):
    texts = [stamped(letter, *stamps) for letter, stamps in zip("ABC", ODD_STAMPS[odd])]
    texts[2:2] = [texts[1].replace("x: B", "x: b")] if len(names) == 4 else []
    letters = letters_after(tmp_path / "mail.log", names, *texts)
    assert letters == list("AABBBbbbCCC" if len(names) == 4 else "AABBBCCC")


@pytest.mark.parametrize("odd", ["a late line", "a clock a week behind"])
@pytest.mark.parametrize("names", [("-20261126", "-20261127", ""), ("-20261126", ".1", "")], ids=["dates", "both"])
def test_T5_without_numbers_one_odd_stamp_does_not_tell_when_a_file_was_begun(tmp_path, odd, names):
    path = tmp_path / "mail.log"
    letters = letters_after(path, names, *[stamped(letter, *stamps) for letter, stamps in zip("ABC", ODD_STAMPS[odd])])
    assert letters == list("AABBBCCC")


def test_T5_behind_a_hole_stands_when_a_file_was_begun(tmp_path, monkeypatch):
    """Once truncated under a writer that does not append, and then rotated under a date; somebody has copied it without its mtime."""
    path = tmp_path / "mail.log"
    hole = "\0" * (tracker.BEGINNING + tracker.CHUNK)
    look = tracker.Logs._look

    def look_at(self, name, needed):
        if name.endswith("-20261127"):
            os.utime(name, (EPOCH - 10 ** 6,) * 2)
        return look(self, name, needed)

    monkeypatch.setattr(tracker.Logs, "_look", look_at)
    texts = [begin + stamped(letter, *[A_DAY[day] % second for second in (5, 6, 7)])
             for day, (begin, letter) in enumerate((("", "A"), (hole, "B"), ("", "C")))]
    assert letters_after(path, ("-20261126", "-20261127", ""), *texts) == list("AABBBCCC")


@pytest.mark.parametrize("names, numbered", [
    ("mail.log.0 mail.log.1.gz mail.log.2.gz", True), ("mail.log.2.gz mail.log.3.xz", True), ("mail.log.3 mail.log.4", False),
    ("mail.log.1 mail.log.2.gz mail.log.2", False), ("mail.log.1 mail.log-20261122", False), ("mail.log.01 mail.log.02", False),
    ("mail.log-2026.11.1 mail.log-2026.11.2", False), ("mail.log.2026 mail.log.2027", False), ("mail.1.log mail.2.log", False),
    ("real.log.1 real.log.2.gz", True), ("mail.log.1 real.log.2", False), ("", False)])
def test_T5_which_rotated_files_are_numbered(tmp_path, names, numbered):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real.log").touch()
    (tmp_path / "mail.log").symlink_to(tmp_path / "there" / "real.log")
    folders = {"mail": tmp_path, "real": tmp_path / "there"}
    assert tracker.are_numbered([str(folders[name[:4]] / name) for name in names.split()], str(tmp_path / "mail.log")) is numbered


@pytest.mark.parametrize("live", ["empty", "missing"])
@pytest.mark.parametrize("once", [False, True])
def test_T5_two_rotations_between_two_looks_and_nothing_in_the_new_log_yet(tmp_path, live, once):
    """Time does not go on as if all was read, while the file in between is not."""
    path = tmp_path / "mail.log"
    follower = who_has_read_a(path)
    path.rename(str(path) + ".2")
    pathlib.Path(str(path) + ".1").write_text(lines_of("B"))
    if live == "empty":
        path.touch()
    read, idle = 0, follower.idle_at
    for now in itertools.islice(POLLS, 20):
        batch = follower.read(float(now), once)
        read += len(batch.lines) if batch else 0
        assert read or follower.idle_at == idle
    assert read == 5 and follower.idle_at == now and follower.current.path.endswith(".1") and follower.rotations == 1
    path.write_text(lines_of("C"))
    assert letters_of(follower) == "C"


def renamed_before(path, opened, times):
    """An opener: before a rotated file of this name is opened, so many times the rotated files are renamed as logrotate does it."""
    left = [times]

    def opener(name):
        if name == str(path) + opened and left[0]:
            left[0] -= 1
            for number in (9, 8, 7, 6, 5, 4, 3, 2, 1):
                if os.path.exists("%s.%d" % (path, number)):
                    os.rename("%s.%d" % (path, number), "%s.%d" % (path, number + 1))
            pathlib.Path("%s.1" % path).write_text(lines_of("XYZ"[left[0]]))
        return tracker.open_log(name)

    return opener


def rotated_log(tmp_path, name, others):
    """The path and the follower of a log that was read and has another `name` by now, and `others` beside it: letters of their lines."""
    path = tmp_path / "mail.log"
    follower = who_has_read_a(path)
    path.rename(str(path) + name)
    for ending, letter in others.items():
        pathlib.Path(str(path) + ending).write_text(lines_of(letter))
    return path, follower


@pytest.mark.parametrize("opened", [".1", ".2", ".3"])
def test_T4_rotated_between_two_looks_at_rotated_files(tmp_path, opened):
    """What was to be looked at under one name has the next by then, the look at which is over."""
    path, follower = rotated_log(tmp_path, ".3", {".2": "B", ".1": "C", "": "D"})
    follower.logs.opener = renamed_before(path, opened, 1)
    assert letters_of(follower) == "BCXD"


def test_T4_a_name_that_is_gone_when_it_is_looked_at_is_no_trouble(tmp_path, caplog):
    path, follower = rotated_log(tmp_path, ".2", {".1": "B", "": "C"})

    def opener(name):
        if name.endswith(".1") and not os.path.exists("%s.3" % path):
            os.rename("%s.2" % path, "%s.3" % path)
            os.rename(name, "%s.2" % path)
        return tracker.open_log(name)

    follower.logs.opener = opener
    assert letters_of(follower) == "BC"
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def test_T4_rotated_while_the_file_of_the_saved_place_is_looked_for(tmp_path, caplog):
    """Its name was taken down, and before it is opened it has the next one, at which nobody looks."""
    path = tmp_path / "mail.log"
    place = missed_rotations(path, ".2", ".1", "")
    assert letters_of(taken_up(path, place, renamed_before(path, ".1", 1))) == "aBXC"
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def test_T4_rotated_at_each_look_is_a_trouble_that_passes(tmp_path):
    path = tmp_path / "mail.log"
    follower = who_has_read_a(path)
    path.rename(str(path) + ".1")
    path.write_text(lines_of("D"))
    follower.logs.opener = renamed_before(path, ".1", tracker.LOOKS)
    assert follower.read(float(next(POLLS))) is None       # somebody may still write to A
    with pytest.raises(tracker.LogError, match="trying again"):
        follower.read(float(next(POLLS)))
    assert letters_of(follower) == "ZYXD"


def at_second_opening(path, happens):
    """An opener: when a file is opened for the second time, something has happened just before."""
    opened = []

    def opener(name):
        opened.append(name)
        if name == path and opened.count(path) == 2:
            happens()
        return tracker.open_log(name)

    return opener


def test_T4_rotated_between_the_look_at_rotated_files_and_their_opening(tmp_path):
    """Under the name of what is to be read next there is another file by then: nothing is read before all were looked at again."""
    path, follower = rotated_log(tmp_path, ".3", {".2": "B", ".1": "C", "": "D"})

    def rename():
        for number in (3, 2, 1):
            os.rename("%s.%d" % (path, number), "%s.%d" % (path, number + 1))
        os.rename(str(path), "%s.1" % path)
        path.write_text(lines_of("E"))

    follower.logs.opener = at_second_opening("%s.2" % path, rename)
    assert follower.read(float(next(POLLS))) is None       # somebody may still write to A
    with pytest.raises(tracker.LogError, match=r"mail\.log\.2: was renamed just now: trying again"):
        follower.read(float(next(POLLS)))
    assert letters_of(follower) == "BCDE"


def test_T5_a_copy_that_cannot_be_compared_is_read_twice_rather_than_not_at_all(tmp_path):
    path, follower = rotated_log(tmp_path, ".2", {".1": "B", "-20250101": "B", "": "C"})

    def fail():
        raise OSError(errno.EIO, "Input/output error")

    follower.logs.opener = at_second_opening("%s.1" % path, fail)
    assert [line.split()[3][0] for line in lines_from(follower)] == list("BBBBBCCCCC")


class Moody(io.FileIO):
    """A file on a disk that fails now and then: `fails` tells of each read to come whether it does."""

    fails = []

    def read(self, size=-1):
        if Moody.fails and Moody.fails.pop(0):
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.fixture
def moody(tmp_path):
    """A log on such a disk, and who follows it: A is read, a was written since."""
    path = tmp_path / "mail.log"
    follower = who_has_read_a(path, lambda name: Moody(name, "rb"))
    with open(str(path), "a") as log:
        log.write(lines_of("a"))
    return path, follower


def test_T1_a_read_error_that_passes_costs_nothing(moody, monkeypatch, caplog):
    path, follower = moody
    monkeypatch.setattr(Moody, "fails", [True] * 3)
    assert follower.read(float(next(POLLS))) is None and follower.read(float(next(POLLS))) is None
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "cannot read on in %s: [Errno 5] Input/output error; trying again until it is rotated" % path]
    assert letters_of(follower) == "a"
    path.rename(str(path) + ".1")
    path.write_text(lines_of("B"))
    assert letters_of(follower) == "B"


@pytest.mark.parametrize("number", range(1, 9))
def test_T1_whichever_read_fails_nothing_is_lost(moody, monkeypatch, number):
    """Also one of those that only ask whether the file was truncated: what had been read by then is read again."""
    _, follower = moody
    monkeypatch.setattr(Moody, "fails", [False] * (number - 1) + [True])
    assert letters_of(follower) == "a" and not Moody.fails


@pytest.mark.parametrize("number", range(1, 5))
def test_T5_a_file_that_cannot_be_read_when_it_is_to_be_taken_over_is_read_from_its_beginning(tmp_path, monkeypatch, number):
    path = tmp_path / "mail.log"
    path.write_text(lines_of("A"))
    with contextlib.closing(tracker.LogFile(str(path), 0)) as known:
        known.lines()
        path.write_text(lines_of("A") + lines_of("B"))
        with contextlib.closing(tracker.LogFile(str(path), 0, lambda name: Moody(name, "rb"))) as file:
            monkeypatch.setattr(Moody, "fails", [False] * (number - 1) + [True])
            assert not file.take_over(known) and not Moody.fails
            assert [line for batch in file.lines() for line in batch.lines] == path.read_text().splitlines()


@pytest.fixture
def remote(here):
    """A reader of a log on an NFS server, ten lines read."""
    here.append(10)
    here.reader = tracker.Follower(here.path, 1.0, open_remote)
    here.reader.begin(None, False)
    here.pass_time()
    return here


def test_T1_a_stale_handle_is_opened_anew(remote, caplog):
    tracker.LOG.disabled = False
    remote.half()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            remote.restart_server()
            remote.append(2)
            assert remote.reader.lag() >= 0 and remote.reader.place(remote.reader.position) is None
            remote.pass_time(12)
            assert remote.reader.place(remote.reader.position) is not None
    assert remote.lines() == list(range(len(remote.written)))
    said = [record.getMessage().partition(": ")[0] for record in caplog.records]
    assert said == ["cannot read on in " + remote.path, remote.path + " can be read again"] * 3


def test_T1_a_stale_handle_of_an_empty_log_is_opened_anew(here):
    here.reader = tracker.Follower(here.path, 1.0, open_remote)
    here.reader.begin(None, False)
    here.pass_time()
    here.restart_server()
    here.pass_time()
    here.append(3)
    here.pass_time(12)
    assert here.lines() == [0, 1, 2]


def test_T4_a_handle_that_goes_stale_between_its_end_and_the_look_at_the_new_one(remote, monkeypatch):
    remote.rotate()
    remote.append(2)
    remote.read()
    remote.time(5)
    look, before = os.stat, Remote.restarts

    def look_late(path, **options):
        if Remote.restarts == before:
            remote.restart_server()
        return look(path, **options)

    monkeypatch.setattr(os, "stat", look_late)
    remote.pass_time(12)
    assert Remote.restarts > before and remote.lines() == list(range(12))


def test_T4_a_new_log_still_empty_whose_handle_goes_stale_while_rotated_files_are_looked_at(remote):
    remote.rotate()
    before = Remote.restarts

    def restarting(path):
        if path != remote.path and Remote.restarts == before:
            remote.restart_server()
        return open_remote(path)

    remote.reader.logs.opener = restarting
    remote.pass_time(12)
    assert Remote.restarts > before
    remote.append(2)
    remote.pass_time(12)
    assert remote.lines() == list(range(12))


@pytest.mark.parametrize("how", ["create", "hold", "late", "gap"])
def test_T4_rotated_while_its_handle_is_stale(remote, how):
    remote.append(2)
    remote.restart_server()
    remote.rotate(how)
    remote.append(2)
    remote.pass_time(12)
    remote.reopen()
    remote.append(2)
    remote.pass_time(12)
    assert remote.lines() == list(range(16))


def test_T6_copied_and_truncated_while_its_handle_is_stale(remote):
    remote.append(2)
    remote.restart_server()
    remote.copytruncate()
    remote.append(2)
    remote.pass_time(12)
    assert remote.lines() == list(range(14))


@pytest.mark.parametrize("kind", ["", *PACKERS])
def test_T5_the_rotated_files_to_be_read_next_have_stale_handles(remote, kind):
    for _ in range(4):
        remote.rotate()
        if kind:
            remote.pack(kind)
        remote.append(3)
    remote.time(9)
    while not remote.reader.queue:
        remote.time(3)
        remote.read(1)
    remote.restart_server()
    remote.pass_time(60)
    assert remote.lines() == list(range(22))


def test_T5_a_rotated_file_that_stays_unreadable_is_passed_over(here, monkeypatch):
    """Its handle is opened anew for a while; then the next one is read."""
    class Bad(io.FileIO):
        def read(self, size=-1):
            if self.tell() >= tracker.BEGINNING and os.fstat(self.fileno()).st_ino == bad:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    bad = None
    monkeypatch.setattr(tracker, "CHUNK", 200)
    here.append(10)
    here.reader = tracker.Follower(here.path, 1.0, lambda path: Bad(path, "rb"))
    here.reader.begin(None, False)
    here.pass_time()
    for number in range(3):
        here.rotate()
        here.append(20, 300)
        bad = os.stat(here.path).st_ino if number == 0 else bad
    here.append(1)
    here.lossy = True
    here.pass_time(60)
    assert here.lines() == [*range(22), *range(30, 71)]


@pytest.fixture
def amid_rotated(remote, monkeypatch):
    """A reader in the middle of the second of four files on an NFS server, the others queued."""
    monkeypatch.setattr(tracker, "CHUNK", 200)
    for _ in range(3):
        remote.rotate()
        remote.append(5, 300)
    while not remote.reader.queue:
        remote.time(3)
        remote.read(1)
    assert len(remote.lines()) < 15
    return remote


def test_T5_while_no_file_can_be_read_none_is_passed_over(amid_rotated, monkeypatch):
    """As when their server is away for longer than a rotated file is waited for: it is not the file at hand that ails."""
    here = amid_rotated

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as away:
        away.setattr(Remote, "check", fail)
        away.setattr(here.reader.logs, "opener", fail)
        read = here.lines()
        here.pass_time(60)
        assert here.lines() == read
    here.pass_time(60)
    assert here.lines() == list(range(25))


def test_T5_a_deleted_file_whose_handle_is_stale_does_not_hold_up_those_queued_with_stale_handles(amid_rotated):
    here = amid_rotated
    os.unlink(here.reader.current.path)
    here.restart_server()
    here.lossy = True
    here.pass_time(60)
    assert here.lines()[-10:] == list(range(15, 25))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_T5_trouble_with_a_disk_or_its_server_where_reading_begins_is_waited_for(here, number, place):
    here.begin()
    here.stop()
    for _ in range(3):
        here.append()
        here.rotate()
    here.append()
    ails = here.rotated[-1 - place].path

    def opener(path):
        if path == ails:
            raise OSError(number, os.strerror(number))
        return tracker.open_log(path)

    with pytest.raises(tracker.LogError, match="%s: %s: lines not read yet may stand in it" % (ails, os.strerror(number))):
        tracker.Follower(here.path, 1.0, opener).begin(here.saved, False)
    here.start()
    here.pass_time()
    assert here.next == len(here.written)


def all_at_once(follower):
    """The letters of all lines that are read without giving anybody time, in order."""
    batches = iter(lambda: follower.read(0.0, True), None)
    return "".join(line.split()[3][0] for batch in batches for line in batch.lines)


def test_T5_who_reads_once_is_told_of_a_rotated_file_that_cannot_be_read_to_its_end(tmp_path, caplog):
    """What stands behind it is not read either: the position would pass it."""
    path = tmp_path / "mail.log"
    place = missed_rotations(path, ".2", ".1", "")
    follower = taken_up(path, place, lambda name: Worn(name, 0, 10000) if name.endswith(".2") else tracker.open_log(name))
    with pytest.raises(tracker.LogError, match=r"mail\.log\.2: cannot be read to its end"):
        all_at_once(follower)
    assert follower.position == place.position and "Input/output error; reading ends here" in caplog.text
    follower = taken_up(path, place)
    assert all_at_once(follower) == "aaaaaBBBBBCCCCC"


def test_T5_who_reads_once_reads_on_behind_a_damaged_archive(tmp_path):
    """It will never be any better."""
    path = tmp_path / "mail.log"
    place = missed_rotations(path, ".2", ".1", "")
    archive = tmp_path / "mail.log.1.gz"
    archive.write_bytes(gzip.compress((tmp_path / "mail.log.1").read_bytes())[:-12])
    (tmp_path / "mail.log.1").unlink()
    follower = taken_up(path, place)
    assert all_at_once(follower).endswith("CCCCC")


# -- what cannot be read may hold lines

def forbid(*names):
    """Opens logs, but none that ends in one of these names."""
    def opener(path):
        if path.endswith(names):
            raise PermissionError(errno.EACCES, "Permission denied")
        return tracker.open_log(path)
    return opener


def test_T6_a_copy_that_cannot_be_read_yet_is_waited_for(tmp_path):
    path = tmp_path / "mail.log"
    follower = who_has_read_a(path)
    path.write_text(lines_of("A") + lines_of("B"))
    shutil.copy(str(path), str(path) + ".1")
    path.write_text(lines_of("C"))
    follower.logs.opener = forbid(".1")
    for _ in range(3):
        with pytest.raises(tracker.LogError, match=r"mail\.log\.1: Permission denied: lines not read yet may stand in it"):
            follower.read(float(next(POLLS)))
    assert follower.truncations == 0
    follower.logs.opener = tracker.open_log
    assert letters_of(follower) == "BC" and follower.truncations == 1


def test_T6_truncated_without_a_copy_amid_a_line(tmp_path):
    """What there was of the line is handed out; then the file is read from its beginning."""
    path = tmp_path / "mail.log"
    follower = who_has_read_a(path)
    with open(str(path), "a") as log:
        log.write("half a line")
    assert follower.read(float(next(POLLS))) is None
    end = path.stat().st_size
    path.write_text(lines_of("B"))
    batches = list(iter(lambda: follower.read(float(next(POLLS))), None))
    assert [line for batch in batches for line in batch.lines] == ["half a line", *lines_of("B").splitlines()]
    assert [batch.position for batch in batches] == [end - len("half a line"), end] and follower.truncations == 1


def test_T5_a_file_that_cannot_be_read_is_none_of_a_position_written_by_hand_if_its_inode_is_another(tmp_path, caplog):
    path = tmp_path / "mail.log"
    path.write_text(lines_of("B"))
    (tmp_path / "mail.log.1").write_text(lines_of("A"))
    follower = taken_up(path, tracker.Place(5, 1), forbid(".1"))
    assert letters_of(follower) == "B" and "mail.log.1: [Errno 13] Permission denied; passed over" in caplog.text


def test_T5_the_file_of_a_position_written_by_hand_is_rotated_and_cannot_be_read(tmp_path):
    path = tmp_path / "mail.log"
    path.write_text(lines_of("A") + lines_of("B"))
    place = tracker.Place(len(lines_of("A")), path.stat().st_ino)
    path.rename(str(path) + ".1")
    path.write_text(lines_of("C"))
    follower = tracker.Follower(str(path), 0.0, forbid(".1"))
    with pytest.raises(tracker.LogError, match=r"mail\.log\.1: Permission denied: lines not read yet may stand in it"):
        follower.begin(place, False)
    follower = taken_up(path, place)
    assert letters_of(follower) == "BC"


@pytest.mark.parametrize("at_end", [False, True])
def test_a_log_whose_disk_fails_where_reading_is_to_begin(tmp_path, at_end):
    path = tmp_path / "mail.log"
    path.write_text(lines_of("A") * 1000)
    place = None if at_end else tracker.LogFile(str(path), 0).place(path.stat().st_size)
    follower = tracker.Follower(str(path), 0.0, lambda name: Worn(name, 100000))
    with pytest.raises(tracker.LogError, match=r"mail\.log: Input/output error: check its disk"):
        follower.begin(place, at_end)


def test_a_log_whose_disk_fails_before_the_place_where_reading_begins(tmp_path):
    path = tmp_path / "mail.log"
    path.write_text(lines_of("A") * 1000)
    follower = tracker.Follower(str(path), 0.0, lambda name: Worn(name, 100000, tracker.WITNESS))
    follower.begin(tracker.LogFile(str(path), 0).place(path.stat().st_size), False)
    with pytest.raises(tracker.LogError, match=r"mail\.log: Input/output error: check its disk"):
        follower.line_before()


@pytest.mark.parametrize("path", ["log/mail.log", "./log/mail.log", "link/mail.log", "link.log"])
def test_every_rotated_file_counts_once_however_the_log_is_named(tmp_path, monkeypatch, path):
    folder = tmp_path / "log"
    folder.mkdir()
    for name in ("mail.log", "mail.log.1", "mail.log.2.gz"):
        (folder / name).write_bytes(b"")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "link.log").symlink_to(folder / "mail.log")
    monkeypatch.chdir(tmp_path)
    for name in (path, str(tmp_path / path)):
        assert sorted(map(os.path.basename, tracker.siblings(name))) == ["mail.log.1", "mail.log.2.gz"]
