"""The class Follower: random lives of a log against a model, a case for every promise on rotation, and for other people's bugs.

A life is a list of actions. `World` carries it out in a folder: a writer that appends numbered lines, a logrotate that renames,
packs, copies and truncates, and the real Follower with a sink, saved, stopped, killed and started as the daemon does it, under
a clock that only moves when told. Every line handed out is compared at once with what was written.

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
PACKERS = {"gz": gzip.compress, "bz2": lambda data: bz2.compress(data, 1), "xz": lambda data: lzma.compress(data, preset=0)}
NAMINGS = ("numbers", "savelog", "date", "date and epoch", "date before the extension")

# Bugs of the module that the random lives keep clear of, each shown by a case of its own below, marked as expected to fail.
# Whoever repairs one takes the mark away there and the name away here.
KNOWN = frozenset((
    "names shift",          # the names of the files to be read next are kept; a rotation meanwhile gives them to others
    "no grace at start",    # a rotated file found at the start is left at once, though the writer may still have it open
    "early half",           # its half last line is handed out, again and again, while the log itself is missing
    "truncated place",      # a place saved between a truncation and its discovery belongs to neither content
    "empty place",          # a place in an empty file cannot be found again once that has been packed, or truncated
    "half at truncation",   # a half line longer than 256 bytes, or the file's first: the copy is not recognised
    "unread truncation",    # nor is it when nothing of the file had been read
    "negative place",       # truncated without a copy: places before that become negative, and the state file useless
    "late lines",           # what comes before an empty rotated file is taken for younger when it was written to later
    "younger files",        # the file of the saved place is gone: those that came after it are passed over
))


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
            cut = max(15, int(len(line) * share))
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
        """Rename the log. `create`: an empty new one, the writer moves on at once. `hold`: it stays where it is until it
        reopens. `late`: there is no new one before that. `gap`: the writer makes one when it writes.
        """
        if self.live is None:
            return
        self.reopen()
        self.avoid("names shift")
        if "late lines" in self.known and not self.live.numbers and self.rest is None:
            return
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
        if not self.avoid("names shift"):
            return
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
        if "half at truncation" in self.known and self.rest is not None:
            self.append(0)
        self.avoid("names shift")
        self.avoid("unread truncation")
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
        self.avoid("truncated place")

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
        if self.saved is not None and self.live is not None and self.saved.head[0] + self.saved.tail[0] >= 32:
            status = os.stat(self.path)
            self.saved = self.saved._replace(inode=status.st_ino, device=status.st_dev)

    # -- the reader

    def start(self):
        """Start at the saved place, as the daemon does; it does not run when there is nothing to read."""
        if self.reader is not None:
            return
        if "no grace at start" in self.known or "early half" in self.known:
            self.reopen()
        if "younger files" in self.known:
            self.avoid_younger()
        self.reader = tracker.Follower(self.path, 1.0)
        self.reader.begin(self.saved, False)
        self.sink, self.low, self.next = [], 0, self.saved_next
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
        if "negative place" in self.known and self.reader.files and position < self.reader.files[0].start:
            return
        place = self.reader.place(position)
        if "empty place" in self.known and place is not None and place.head[0] + place.tail[0] < 32:
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

    # -- around known bugs

    def avoid(self, bug):
        """Have the reader read all there is before something happens that it could not bear; False when it cannot."""
        if bug in self.known and self.reader is not None:
            for _ in range(2 + len(self.rotated)):
                self.read()
            return self.reader.files and self.reader.current.path == self.path
        return True

    def avoid_younger(self):
        """Where the file of the saved place is gone, nothing but the log itself will be read."""
        for file in [*self.rotated, *([self.live] if self.live else [])] if self.saved else ():
            with contextlib.closing(tracker.LogFile(file.path, 0)) as one:
                if one.fits(self.saved):
                    return
        for file in self.rotated:
            self.maybe.update(file.numbers)
        self.lossy = True

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
