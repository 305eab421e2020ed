"""Time as logs tell it: forms of stamps side by side, years that are not told, summer time, clocks that are set back.

Nearly every test reads its log in all ways (`Replay.however_read`): at once, twice, in two lives cut before any line, in a life for
every line. Whatever the stamps say, each way must end in the same table. Moments are seconds since the epoch; `log` writes them in
the form and the zone at hand.
"""
import calendar
import errno
import gzip
import io
import os
import pathlib
import tempfile
import time
from contextlib import redirect_stdout

import pytest
from conftest import ROOT, Command
from test_corpus import comparable, rows_of
from test_follow import message
from tests.unit.replay import PRESENT, Replay, read_story, rough, told, tracker
from tests.unit.test_stories import STORIES

SECOND = tracker.SECOND


def at(text):
    """The moment of a UTC time, written `2026-11-20 10:00:00`."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


def rfc3339(moment):
    """2026-11-20T10:00:00.000000+00:00, in the zone at hand."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S.000000%z", time.localtime(moment))
    return text[:-2] + ":" + text[-2:]


def rfc3164(moment):
    """Nov 20 10:00:00, in the zone at hand."""
    return time.strftime("%b %e %H:%M:%S", time.localtime(moment))


def year_first(moment):
    """2026 Nov 20 10:00:00, in the zone at hand: no zone told, but a year."""
    return time.strftime("%Y %b %e %H:%M:%S", time.localtime(moment))


FORMS = pytest.mark.parametrize("form", [rfc3339, rfc3164])
ZONELESS = pytest.mark.parametrize("form", [year_first, rfc3164])


def log(form, *entries):
    """Lines from (moment, number, steps): steps of `message`, all of them when none is named, with this stamp."""
    return [form(moment) + " " + line[16:].rstrip("\n")
            for moment, number, *steps in entries for line in message(number, *" ".join(steps).split())]


def outcomes(rows):
    """[(sender, outcome, SPF)] of rows, by sender: no row is left out, none comes twice unseen."""
    return sorted((row.envelope_from, row.relay_status, row.spf_result) for row in rows)


def sent(*numbers):
    """What `outcomes` says of messages that were sent."""
    return sorted(("a%d@good.test" % number, "sent", "Pass") for number in numbers)


def seen(rows):
    """{number of a message: the moment it was first seen, which is that of its `client=`}."""
    return {int(row.envelope_from[1:].split("@")[0]): row.first_seen // SECOND for row in rows}


@pytest.fixture
def zone():
    """A function that moves this process to a time zone; it comes back by itself."""
    before = os.environ["TZ"]

    def move(name):
        os.environ["TZ"] = name
        time.tzset()

    yield move
    move(before)


@pytest.fixture(autouse=True)
def utc(zone):
    """Tests begin in UTC."""
    zone("UTC")


class Lives:
    """`--once` on a growing log, with its own state file: what a life knows of the one before is what the product saved."""

    def __init__(self, command):
        self.command = command
        self.serial = 0

    def rows(self, lines, cuts=(), twice=False):
        """The rows after lives that end at these lines; `twice`: the state is deleted then, and all is read again."""
        self.serial += 1
        name = "life%d" % self.serial
        log, table, state = [self.command.folder / (name + end) for end in (".log", ".db", ".json")]
        config = tracker.load_config(self.command.configure(
            name + ".conf", database__engine="sqlite", database__database=table, logging__log_file=log, state__state_file=state))
        for first, last in zip((0, *cuts), (*cuts, len(lines))):
            with open(str(log), "a", encoding="ascii") as handle:
                handle.write("".join(line + "\n" for line in lines[first:last]))
            self.once(config)
        if twice:
            state.unlink()
            self.once(config)
        return sorted(rows_of(tracker.make_store(config)), key=lambda row: [getattr(row, name) for name in tracker.KEY])

    @staticmethod
    def once(config):
        """One life."""
        with redirect_stdout(io.StringIO()):
            assert tracker.run_once(config, dry_run=False) == 0

    def however_read(self, lines):
        """The same as Replay.however_read."""
        rows, places = self.rows(lines), range(1, len(lines))
        ways = {"twice": self.rows(lines, twice=True), "cut before every line": self.rows(lines, places)}
        ways.update(("cut before line %d" % (place + 1), self.rows(lines, [place])) for place in places)
        for way, found in ways.items():
            assert found == rows, "read %s:\n%s\nat once:\n%s" % (way, told(found), told(rows))
        return rows


@pytest.fixture
def lives():
    """In memory, where there is such a file system: hundreds of lives sync three files each."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        yield Lives(Command(pathlib.Path(folder)))


# -- both forms in one file

TWO_DECISIONS_IN_A_SECOND = ("local_submission_refused_by_cleanup_bounces",)


def alternately(lines, first):
    """Every second line, from the one numbered `first` on, with a traditional stamp in local time instead of its RFC 3339 one."""
    found = list(lines)
    for place in range(first, len(lines), 2):
        moment, start = tracker.Calendar(PRESENT).read(lines[place])
        if start == 33:
            found[place] = "%s %s" % (rfc3164(moment // SECOND), lines[place][start:])
    return found


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_every_story_tells_the_same_when_its_lines_change_between_two_forms(zone, name, first):
    """Also however it is read, but where two decisions on one recipient fall into one second and one stamp has no fraction."""
    zone(name)
    for path in STORIES:
        lines, settings = read_story(path)
        mixed = alternately(lines, first)
        assert mixed != lines
        replay = Replay(mixed, **settings)
        rows = replay.whole() if path.parent.name in TWO_DECISIONS_IN_A_SECOND else replay.however_read(rough)
        assert rough(rows) == rough(Replay(lines, **settings).whole()), path.parent.name


def test_the_recorded_log_with_its_lines_in_either_form_by_turns_gives_the_table_of_both(command, corpus):
    pure = [(corpus / ("mail-%s.log" % form)).read_bytes().splitlines(True) for form in ("rfc3339", "traditional")]
    mixed = corpus / "mail-mixed.log"
    mixed.write_bytes(b"".join(pair[place % 2] for place, pair in enumerate(zip(*pure))))
    found = []
    for path in (mixed, corpus / "mail-rfc3339.log"):
        name = path.stem + ".db"
        done = command.run("-c", command.configure(database__engine="sqlite", database__database=command.folder / name), "--import", path)
        assert done.returncode == 0 and " 0 unsupported, 0 failed" in done.stdout
        found.append(comparable(rows_of(tracker.SqliteStore(str(command.folder / name)))))
    assert found[0] == found[1]


# -- years that are not told

NEW_YEAR = at("2027-01-01 00:00:00")
OVER_NEW_YEAR = (
    (NEW_YEAR - 86400, 1),
    (NEW_YEAR - 20, 2, "connect tls spf client id active gone"), (NEW_YEAR - 10, 2, "deferred"),
    (NEW_YEAR - 1, 3, "connect tls spf"), (NEW_YEAR, 3, "client id active gone sent removed"),
    (NEW_YEAR + 5, 2, "active sent removed"),
    (NEW_YEAR + 86400, 4))


@pytest.mark.parametrize("name", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_new_year_while_the_daemon_runs(zone, name):
    """Each life reads what was written when it ended, and knows no later moment."""
    zone(name)
    shift = NEW_YEAR - int(time.mktime((2027, 1, 1, 0, 0, 0, 0, 0, -1)))
    moments = [(moment - shift, *rest) for moment, *rest in OVER_NEW_YEAR]
    lines = log(rfc3164, *moments)
    ends = [moment for moment, *rest in moments for _ in log(rfc3164, (moment, *rest))]
    replay = Replay(lines)
    tables = []
    for cuts in [[], *([place] for place in range(1, len(lines))), range(1, len(lines))]:
        store, first = replay.table(), 0
        for last in [*cuts, len(lines)]:
            replay.present = ends[last - 1] * SECOND
            first = replay.run(store, first, last)
        tables.append(replay.rows(store))
    assert outcomes(tables[0]) == sent(1, 2, 3, 4)
    assert seen(tables[0]) == {1: moments[0][0], 2: moments[1][0], 3: moments[4][0], 4: moments[-1][0]}
    assert all(table == tables[0] for table in tables)


@pytest.mark.parametrize("later", [0, 3600, 86400 * 30, 86400 * 300])
def test_a_log_over_new_year_is_the_same_whenever_in_the_new_year_it_is_read(later):
    replay = Replay(log(rfc3164, *OVER_NEW_YEAR), present=(OVER_NEW_YEAR[-1][0] + later) * SECOND)
    rows = replay.however_read()
    assert outcomes(rows) == sent(1, 2, 3, 4)
    assert seen(rows) == {1: NEW_YEAR - 86400, 2: NEW_YEAR - 20, 3: NEW_YEAR, 4: NEW_YEAR + 86400}


def test_lines_of_the_old_year_between_those_of_the_new_one_stay_in_the_old_year():
    """Two hosts in one file, one a minute behind; or a clock set back over New Year."""
    moments = {1: NEW_YEAR - 5, 2: NEW_YEAR + 2, 3: NEW_YEAR - 40, 4: NEW_YEAR + 3, 5: NEW_YEAR - 39, 6: NEW_YEAR + 60}
    rows = Replay(log(rfc3164, *((moment, number) for number, moment in moments.items())), present=(NEW_YEAR + 100) * SECOND).however_read()
    assert outcomes(rows) == sent(*moments) and seen(rows) == moments


def test_in_december_a_line_of_january_is_of_this_year_and_one_of_tomorrow_of_the_next():
    january = at("2026-01-02 12:00:00")
    lines = log(rfc3164, (january, 1), (NEW_YEAR - 10, 2), (NEW_YEAR + 20, 3))
    rows = Replay(lines, present=(NEW_YEAR - 5) * SECOND).however_read()
    assert seen(rows) == {1: january, 2: NEW_YEAR - 10, 3: NEW_YEAR + 20}


def test_29_february_of_a_leap_year_is_a_day_like_others():
    leap = at("2028-02-29 00:00:00")
    lines = log(rfc3164, (leap - 10, 1, "connect tls spf client id active gone deferred"), (leap + 5, 1, "active deferred"),
                (leap + 86390, 2, "connect tls spf client id active gone"), (leap + 86400, 2, "sent removed"),
                (leap + 86400 + 5, 1, "active sent removed"))
    for present in (leap + 86400 + 6, leap + 86400 * 100, leap + 86400 * 347):      # the last one is of a year that has no such day
        rows = Replay(lines, present=present * SECOND).however_read()
        assert outcomes(rows) == sent(1, 2)
        assert seen(rows) == {1: leap - 10, 2: leap + 86390}


def test_28_february_and_1_march_of_other_years_are_neighbours():
    march = at("2027-03-01 00:00:00")
    lines = log(rfc3164, (march - 10, 1, "connect tls spf client id active gone"), (march + 5, 1, "sent removed"))
    rows = Replay(lines, present=(march + 20) * SECOND).however_read()
    assert outcomes(rows) == sent(1) and seen(rows) == {1: march - 10}


# -- files of the past

class Archive:
    """Log files that were last written to at some moment, and `--import`."""

    def __init__(self, command):
        self.command = command
        self.config = command.configure(database__engine="sqlite", database__database=command.folder / "t.db")

    def file(self, name, lines, moment):
        """A file, packed when its name says so, with this mtime."""
        path = self.command.folder / name
        data = "".join(line + "\n" for line in lines).encode("ascii")
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        os.utime(str(path), (moment, moment))
        return path

    def rows(self, *paths, zone="UTC"):
        """The rows of the table after importing these files."""
        done = self.command.run("-c", self.config, "--import", *paths, environment={"TZ": zone})
        assert done.returncode == 0, done.stderr
        return rows_of(tracker.SqliteStore(str(self.command.folder / "t.db")))


@pytest.fixture
def archive(command):
    return Archive(command)


LAST_YEAR = time.gmtime().tm_year - 1


def days_of(year):
    """Moments through a year, one in each month, noon."""
    return [at("%d-%02d-%02d 12:00:00" % (year, month, 2 * month)) for month in range(1, 13)]


@pytest.mark.parametrize("name", ["mail.log", "mail.log.gz"])
def test_a_file_of_last_year_imported_today_is_of_last_year(archive, name):
    days = days_of(LAST_YEAR)
    path = archive.file(name, log(rfc3164, *((day, number) for number, day in enumerate(days))), days[-1] + 60)
    rows = archive.rows(path)
    assert seen(rows) == dict(enumerate(days))
    assert archive.rows(path) == rows


def test_files_of_several_years_are_read_in_the_order_of_time_whatever_their_names(archive):
    moments = [day for year in (LAST_YEAR - 2, LAST_YEAR - 1, LAST_YEAR) for day in days_of(year)]
    entries = [(moment, number) for number, moment in enumerate(moments)]
    halves = list(zip(entries[::2], entries[1::2]))
    paths = [archive.file("mail.log.%d" % (place * 7 % 18 + 1), log(rfc3164, *two), two[-1][0]) for place, two in enumerate(halves)]
    assert seen(archive.rows(*sorted(paths))) == dict(enumerate(moments))


@pytest.mark.parametrize("name", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_the_log_of_december_imported_in_january(archive, zone, name):
    """Rotated in the first minutes of the new year; a message over New Year has lines in both files."""
    zone(name)
    year = int(time.mktime((LAST_YEAR, 1, 1, 0, 0, 0, 0, 0, -1)))
    old = log(rfc3164, (year - 86400 * 30, 1), (year - 86400, 2), (year - 3, 3, "connect tls spf client id active gone deferred"))
    new = log(rfc3164, (year + 150, 3, "active sent removed"), (year + 200, 4))
    paths = [archive.file("mail.log", new, year + 201), archive.file("mail.log.1", old, year + 120)]
    rows = archive.rows(*paths, zone=name)
    assert outcomes(rows) == sent(1, 2, 3, 4)
    assert seen(rows) == {1: year - 86400 * 30, 2: year - 86400, 3: year - 3, 4: year + 200}
    assert archive.rows(*paths, zone=name) == rows


def test_29_february_in_a_file_of_a_leap_year(archive):
    leap = at("2024-02-29 12:00:00")
    path = archive.file("mail.log", log(rfc3164, (leap - 86400, 1), (leap, 2), (leap + 86400, 3)), leap + 86401)
    assert seen(archive.rows(path)) == {1: leap - 86400, 2: leap, 3: leap + 86400}


def test_a_file_that_lost_its_mtime_is_of_one_year_when_its_last_lines_can_only_be_of_the_last(archive):
    """Copied today without its time: lines that would be in the future are of last year, and so are those before them."""
    now = int(time.time())
    first, last = now - 86400 * 380, now - 86400 * 350
    path = archive.file("mail.log", log(rfc3164, (first, 1), (last, 2)), now)
    assert seen(archive.rows(path)) == {1: first, 2: last}


@pytest.mark.parametrize("mtime", [0, 1, at("1980-01-01 00:00:00")])
@pytest.mark.parametrize("name", ["mail.log", "mail.log.gz"])
def test_a_file_whose_mtime_is_set_to_nothing_is_of_the_last_year_up_to_now(archive, name, mtime):
    """As in archives that are to be reproducible."""
    now = int(time.time())
    first, last = now - 86400 * 40, now - 86400
    assert seen(archive.rows(archive.file(name, log(rfc3164, (first, 1), (last, 2)), mtime))) == {1: first, 2: last}


# -- summer time

CHANGES = (    # zone, the moment its clocks are put back, by how much, and the moment they are put forward
    ("Europe/Berlin", at("2026-10-25 01:00:00"), 3600, at("2026-03-29 01:00:00")),
    ("America/New_York", at("2026-11-01 06:00:00"), 3600, at("2026-03-08 07:00:00")),
    ("Australia/Lord_Howe", at("2026-04-04 15:00:00"), 1800, at("2026-10-03 15:30:00")),
)
STEADY = (("UTC", at("2026-10-25 01:00:00"), 3600, at("2026-03-29 01:00:00")),
          ("Asia/Kolkata", at("2026-10-25 01:00:00"), 3600, at("2026-03-29 01:00:00")),
          ("America/Phoenix", at("2026-11-01 06:00:00"), 3600, at("2026-03-08 07:00:00")))
ZONES = pytest.mark.parametrize("name, back, by, forward", CHANGES + STEADY, ids=[change[0] for change in CHANGES + STEADY])
CHANGING = pytest.mark.parametrize("name, back, by, forward", CHANGES, ids=[change[0] for change in CHANGES])


def over(change, by=3600):
    """A message that comes in and is deferred before a change, and sent after it; others around it."""
    return [(change - 400, 1), (change - 10, 2, "connect tls spf client id active gone"), (change - 5, 2, "deferred"),
            (change - 1, 3, "connect tls spf"), (change, 3, "client id"), (change + 1, 3, "active gone sent removed"),
            (change + 5, 2, "active sent removed"), (change + 400, 4)]


def crowded(back, by):
    """Messages all through the hour that comes twice, and around it."""
    return [(back + by * step // 6, 10 + step) for step in range(-8, 9)]


def retried(back, by):
    """A message deferred in the first hour, and again in the second; sent when that is over."""
    return [(back - by // 2, 1, "connect tls spf client id active gone"), (back - by // 2, 1, "deferred"), (back - 60, 2),
            (back + 30, 3), (back + by // 3, 1, "active deferred"), (back + by // 2, 4), (back + by + 60, 1, "active sent removed"),
            (back + by + 70, 5)]


def pinned(back, by):
    """A slow upload that begins in the second hour: read again after a restart, with what was written meanwhile."""
    return [(back - 100, 9), (back + 60, 1, "connect tls spf client"), (back + 80, 2), (back + 100, 3),
            (back + by // 3, 1, "id active gone sent removed"), (back + by + 60, 4)]


def quiet(back, by):
    """A host with so little mail that the step back is all that tells the second hour from the first."""
    return [(back - by * 2, 1), (back - by * 3 // 4, 2), (back + by // 12, 3), (back + by * 2 // 3, 4), (back + by * 2, 5)]


@ZONES
@FORMS
def test_clocks_put_forward(zone, name, back, by, forward, form):
    zone(name)
    rows = Replay(log(form, *over(forward))).however_read()
    assert outcomes(rows) == sent(1, 2, 3, 4)
    assert seen(rows) == {1: forward - 400, 2: forward - 10, 3: forward, 4: forward + 400}


@CHANGING
def test_an_hour_that_never_was_is_read_like_any_other(zone, name, back, by, forward):
    """A clock that nobody put forward in time: its lines are of the hour that never was."""
    zone(name)
    before = time.localtime(forward - 1)
    stamps = [time.strftime("%b %e ", before) + "%02d:%02d:%02d" % (before.tm_hour + (before.tm_min * 60 + 59 + later) // 3600,
                                                                  (before.tm_min + (59 + later) // 60) % 60, (59 + later) % 60)
              for later in (-59, 1, 5)]
    assert stamps[1] not in {rfc3164(moment) for moment in range(forward - 7200, forward + 7200)}
    lines = [stamp + " " + line[16:] for stamp, entry in zip(stamps, ("connect tls spf client id", "active gone deferred", "sent removed"))
             for line in log(rfc3164, (forward, 1, entry))]
    assert outcomes(Replay(lines).however_read()) == sent(1)


def born(entries, number):
    """The moments at which a message of a log says `client=`."""
    return [moment for moment, other, *steps in entries if other == number and (not steps or "client" in steps[0].split())]


@ZONES
@FORMS
@pytest.mark.parametrize("story", [over, crowded, retried, pinned, quiet])
def test_clocks_put_back(zone, name, back, by, forward, story, form):
    """Read at once, and again: every message at its own moment, in the order of the log."""
    zone(name)
    entries = story(back, by)
    replay = Replay(log(form, *entries))
    rows = replay.whole()
    numbers = sorted({number for _, number, *_ in entries})
    assert outcomes(rows) == sent(*numbers)
    assert seen(rows) == {number: min(born(entries, number)) for number in numbers}
    assert replay.twice() == rows


@CHANGING
@pytest.mark.parametrize("story", [crowded, retried])
def test_a_file_over_the_hour_that_comes_twice_imported_later(archive, zone, name, back, by, forward, story):
    zone(name)
    entries = story(back, by)
    path = archive.file("mail.log.gz", log(rfc3164, *entries), entries[-1][0] + 1)
    rows = archive.rows(path, zone=name)
    assert seen(rows) == {number: min(born(entries, number)) for _, number, *_ in entries}
    assert archive.rows(path, zone=name) == rows


@CHANGING
@pytest.mark.parametrize("story", [over, crowded, retried, pinned, quiet])
def test_restarted_in_the_hour_that_comes_twice(zone, lives, name, back, by, forward, story):
    """What told the second hour from the first was read by another life: keys stay the same all the same."""
    zone(name)
    lines = log(year_first, *story(back, by))
    rows = lives.rows(lines)
    assert outcomes(rows) == sent(*{number for _, number, *_ in story(back, by)})
    assert lives.rows(lines, range(1, len(lines), 2)) == rows


@pytest.mark.parametrize("story", [retried, pinned])
def test_restarted_anywhere_around_the_hour_that_comes_twice(zone, lives, story):
    name, back, by, _ = CHANGES[0]
    zone(name)
    lives.however_read(log(year_first, *story(back, by)))


@CHANGING
@ZONELESS
def test_a_file_that_begins_in_the_second_hour(zone, name, back, by, forward, form):
    """Rotated in between: nothing tells which hour it is, but every reading takes it for the same."""
    zone(name)
    rows = Replay(log(form, *((back + by * step // 8, 10 + step) for step in range(2, 10)))).however_read()
    assert outcomes(rows) == sent(*range(12, 20))
    assert [row.first_seen for row in rows] == sorted(row.first_seen for row in rows)


@CHANGING
@ZONELESS
def test_one_short_queue_id_at_the_same_wall_clock_time_in_both_hours_is_two_messages(zone, name, back, by, forward, form):
    zone(name)
    entries = [(back - by // 2, 1), (back - 60, 2), (back + 60, 3), (back + by // 2, 4)]
    lines = [line.replace("4Zz01m1QbBz5Rk", "3A1B2172385").replace("4Zz04m1QbBz5Rk", "3A1B2172385") for line in log(form, *entries)]
    replay = Replay(lines)
    rows = replay.whole()
    assert outcomes(rows) == sent(1, 2, 3, 4) and replay.twice() == rows
    assert seen(rows) == {number: moment for moment, number in entries}


# -- clocks that are set back, or forward

NOON = at("2026-11-20 12:00:00")
SESSION = "connect tls spf"
DEFERRED = [(NOON, 1, "connect tls spf client id active gone"), (NOON + 10, 1, "deferred")]
OTHERS = [(NOON + 60, 2), (NOON + 120, 3)]
BACK = NOON - 3600 + 130                # an hour earlier than it was
STEPS = {
    "deferred before, sent after": ([*DEFERRED, (BACK, 1, "sent"), (BACK + 1, 1, "removed")], sent(1)),
    "deferred before, tried again and sent after": ([*DEFERRED, (BACK, 1, "active sent removed")], sent(1)),
    "written as deferred before, sent after": ([*DEFERRED, *OTHERS, (BACK, 1, "sent removed")], sent(1, 2, 3)),
    "written as deferred before, tried again and sent after": ([*DEFERRED, *OTHERS, (BACK, 1, "active sent removed")], sent(1, 2, 3)),
    "tried again some time after": ([*DEFERRED, *OTHERS, (BACK, 4), (BACK + 900, 1, "active sent removed"), (BACK + 1000, 5)],
                                    sent(1, 2, 3, 4, 5)),
    "tried again twice after": ([*DEFERRED, *OTHERS, (BACK, 1, "active deferred"), (BACK + 900, 1, "active sent removed")], sent(1, 2, 3)),
    "tried again when the hour is over": ([*DEFERRED, *OTHERS, (BACK, 1, "active deferred"), (BACK + 3700, 1, "active sent removed")],
                                          sent(1, 2, 3)),
    "set back between connect and the queue ID": ([(NOON, 1, SESSION), (BACK, 1, "client id active gone sent removed")], sent(1)),
    "set back in the middle of the session": ([(NOON, 1, SESSION + " client"), (BACK, 1, "id active gone"), (BACK + 20, 1, "sent removed")],
                                              sent(1)),
    "set back between sent and removed": ([(NOON, 1, SESSION + " client id active gone sent"), (BACK, 1, "removed")], sent(1)),
    "mail all through the hour that comes again": ([(NOON + 60 * step, 10 + step) for step in range(3)]
                                                   + [(BACK + 600 * step, 20 + step) for step in range(8)],
                                                   sent(10, 11, 12, *range(20, 28))),
    "slow mail in the hour that comes again": ([(NOON, 2), (BACK, 1, SESSION), (BACK + 20, 1, "client"), (BACK + 40, 1, "id active"),
                                                (BACK + 55, 1, "sent removed gone"), (BACK + 100, 3)], sent(1, 2, 3)),
    "set back twice": ([*DEFERRED, *OTHERS, (BACK, 1, "active deferred"), (BACK + 60, 4), (BACK - 3600, 5),
                        (BACK - 3500, 1, "sent removed")], sent(1, 2, 3, 4, 5)),
    "a second": ([(NOON, 1, SESSION + " client id active gone deferred"), (NOON - 1, 1, "sent removed"), (NOON - 1, 2), (NOON, 3)],
                 sent(1, 2, 3)),
    "forward a day and back": ([(NOON, 1, SESSION + " client id"), (NOON + 86401, 1, "active gone deferred"), (NOON + 86402, 2),
                                (NOON + 10, 1, "active sent removed"), (NOON + 20, 3, SESSION), (NOON + 30, 3, "client id active"),
                                (NOON + 50, 3, "sent removed gone"), (NOON + 120, 4)], sent(1, 2, 3, 4)),
    "forward a day and back during an upload": ([(NOON, 1, SESSION + " client"), (NOON + 86400, 2), (NOON + 10, 1, "id active gone sent"),
                                                 (NOON + 11, 1, "removed"), (NOON + 120, 3)], sent(1, 2, 3)),
}


@pytest.mark.parametrize("queue_timeout", [30, 1])
@pytest.mark.parametrize("step", STEPS)
@FORMS
def test_a_clock_that_is_set(form, step, queue_timeout):
    """Nothing is lost, nothing doubled; what was logged later wins, whatever its stamp."""
    entries, expected = STEPS[step]
    present = max(moment for moment, *_ in entries) + 60
    rows = Replay(log(form, *entries), queue_timeout, present=present * SECOND).however_read()
    assert outcomes(rows) == expected
    assert {row.client_ip for row in rows} == {"192.0.2.%s" % row.envelope_from[1:].split("@")[0] for row in rows}
    assert {row.client_tls for row in rows} == {"TLSv1.3 TLS_AES_256_GCM_SHA384"}


def deferred_again(form):
    """The rows when a message is deferred before a clock is set back, and for another reason after that."""
    later = [line.replace("Connection timed out", "Connection refused") for line in log(form, (BACK, 1, "active deferred"))]
    return Replay(log(form, *DEFERRED, *OTHERS) + later).however_read()


@FORMS
def test_deferred_again_after_the_clock_was_set_back(form):
    assert outcomes(deferred_again(form)) == [("a1@good.test", "deferred", "Pass"), *sent(2, 3)]


def test_a_policy_result_is_of_the_mail_that_came_after_the_clock_was_set_back():
    """Two seconds, while two results of the client wait for theirs."""
    answer = "2026-11-20T10:00:0%d.%d00000+00:00 mx policyd-spf[7]: prepend Received-SPF: %s (mailfrom) identity=mailfrom; " \
             "client-ip=192.0.2.1; helo=mx.b.test; envelope-from=%s; receiver=<UNKNOWN> "
    rows = Replay([
        answer % (5, 1, "Softfail", "b@b.test"), answer % (5, 2, "Pass", "c@b.test"),
        "2026-11-20T10:00:03.000000+00:00 mx postfix/smtpd[1]: 4F00061AE1: client=mx.b.test[192.0.2.1]",
        "2026-11-20T10:00:03.100000+00:00 mx postfix/cleanup[2]: 4F00061AE1: message-id=<m1@b.test>",
        "2026-11-20T10:00:03.200000+00:00 mx postfix/qmgr[3]: 4F00061AE1: from=<b@b.test>, size=100, nrcpt=1 (queue active)",
        "2026-11-20T10:00:03.300000+00:00 mx postfix/smtp[4]: 4F00061AE1: to=<x@ok.test>, relay=mx.ok.test[192.0.2.90]:25, delay=1, "
        "delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)",
        "2026-11-20T10:00:03.400000+00:00 mx postfix/qmgr[3]: 4F00061AE1: removed"]).whole()
    assert [row.spf_result for row in rows] == ["Softfail"]


def test_deferred_again_after_the_clock_was_set_back_shows_the_reason_of_the_later_stamp():
    """Of two attempts that decided nothing: a line read again must not win."""
    assert [row.relay_message[-11:] for row in deferred_again(rfc3339) if row.relay_status == "deferred"] == ["n timed out"]


# -- the wall clock at the end of the log

class Skewed:
    """The module `time`, ahead by some seconds."""

    skew = 0.0

    def monotonic(self):
        return time.monotonic() + self.skew

    def time(self):
        return time.time() + self.skew

    def __getattr__(self, name):
        return getattr(time, name)


def pass_by(daemon, clock, seconds, blocked=False):
    """A daemon's rounds after so many seconds; `blocked`: its log cannot be opened meanwhile."""
    clock.skew += seconds
    daemon.follower.logs.opener = refuse if blocked else tracker.open_log
    busy = True
    while busy:
        busy = daemon.read_some()
        if not busy:
            daemon.let_time_pass()
        daemon.flush()


def refuse(path):
    raise PermissionError(errno.EACCES, "Permission denied")


def daemon_on(command, path, interval, sleep):
    """A daemon that follows a log into an SQLite file beside it."""
    table, state, rejected = (str(path) + end for end in (".db", ".json", ".rejected"))
    config = tracker.load_config(command.configure(
        database__engine="sqlite", database__database=table, logging__log_file=path, state__state_file=state))
    recorder = tracker.Recorder(tracker.make_store(config), tracker.make_tracker(config), tracker.RejectFile(rejected), sleep)
    return tracker.Daemon(config, tracker.Follower(str(path), interval), recorder, tracker.StateFile(state))


def rows_after_a_rotation(command, monkeypatch, cut, waits, blocked):
    """The rows of the recorded log, rotated before a line, so many seconds before the daemon looks at what comes then."""
    clock = Skewed()
    monkeypatch.setattr(tracker, "clock", clock)
    lines = (ROOT / "samples" / "mail.log").read_bytes().splitlines(True)
    path = command.folder / ("%d.log" % waits)
    path.write_bytes(b"".join(lines[:cut]))
    daemon = daemon_on(command, path, 5.0, tracker.pause)
    daemon.begin()
    daemon.recorder.begin()
    pass_by(daemon, clock, 0)
    path.rename(str(path) + ".1")
    path.write_bytes(b"".join(lines[cut:]))
    for seconds in (waits, 6, 6):
        pass_by(daemon, clock, seconds, blocked)
    for seconds in (6, 6, 6, 7200):
        pass_by(daemon, clock, seconds)
    daemon.recorder.store.close()
    return sorted(rows_of(tracker.make_store(daemon.config)), key=lambda row: [getattr(row, name) for name in tracker.KEY])


@pytest.mark.parametrize("blocked", [False, True], ids=["not looked at", "not readable"])
@pytest.mark.parametrize("cut", [345, 375, 430, 500])
def test_time_stands_still_while_lines_wait_unread(command, monkeypatch, cut, blocked):
    """As while the database is away for two hours, in which the log is rotated, or while nobody gives the new log its rights."""
    assert rows_after_a_rotation(command, monkeypatch, cut, 7200, blocked) == rows_after_a_rotation(command, monkeypatch, cut, 1, False)


class Asked(tracker.Waiter):
    """Waits for nothing. While it waits for the second time, the log is rotated, and the daemon asked to look at it."""

    def __init__(self, log):
        super().__init__()
        self.log, self.waits, self.daemon, self.noticed = log, 0, None, False

    def sleep(self, seconds):
        self.waits += 1
        if self.waits == 2:
            self.log.rename(str(self.log) + ".1")
            self.log.write_text("x")
            self.woken = True
        self.noticed, self.stopping = self.daemon.follower.rotated_at is not None, self.waits == 3
        return True


def test_SIGHUP_makes_the_daemon_look_at_the_log_before_it_waits_again(command):
    path = command.folder / "mail.log"
    path.write_bytes(b"")
    waiter = Asked(path)
    waiter.daemon = daemon_on(command, path, 3600.0, waiter.sleep)
    waiter.daemon.begin()
    waiter.daemon.follow(waiter)
    assert waiter.noticed
