"""Bugs that other followers of logs have had, each as a case for the class Follower: named by the project and its issue."""
import contextlib
import fcntl
import itertools
import json
import os
import pathlib

import pytest
from test_follower import PACKERS, inherit, world

import mail_relay_tracker as tracker

BUGS = """
    vector_18342 vector_23076 fluent_bit_1330 fluent_bit_1875 fluent_bit_5382 fluent_bit_8025 fluent_bit_11455
    fluent_bit_PR_2960 beats_1281 beats_1341 beats_3537 beats_39731 beats_45300 rsyslog_1829 rsyslog_3918 rsyslog_4781
    rsyslog_4875 rsyslog_5285 fail2ban_17 fail2ban_1797 pygtail_34 pygtail_38 pygtail_65 pygtail_71 pygtail_PR_42
    hpcloud_tail_127 file_tail_PR_14 goaccess_1815 logdna_agent_v2_PR_580 postfix_exporter_14 postfix_exporter_24
    postfix_exporter_78 maillog2mysql mailwatch""".split()


@pytest.fixture(name="here")
def a_world():
    """A world, see test_follower.py."""
    with world() as found:
        yield found


@pytest.mark.parametrize("bug", BUGS)
def test_every_bug_has_its_case(bug):
    assert [name for name in globals() if name.startswith("test_%s_" % bug)]


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
@pytest.mark.parametrize("stopped", [False, True])
def test_fluent_bit_5382_the_first_line_after_a_rotation_is_whole(how, stopped):
    """After a rotation a line came without its beginning: "22-04-22T08:03" for "2022-04-22T08:03"."""
    with world(chunk=50) as here:
        here.begin(4)
        for number in range(6):
            here.half(0.3 + number / 10, 40 * number)
            here.read()
            if stopped:
                here.stop()
            here.rotate(how)
            here.append(3, 30 * number)
            here.reopen()
            here.start()
            here.pass_time(10)
        lines = [here.written[place] for place in here.seen]
        assert sorted(here.seen) == list(range(len(here.written)))
        assert all(line.startswith("Nov  1 00:00:") for line in lines)


def test_fluent_bit_8025_deleted_while_it_was_down_and_the_next_one_is_as_long(here):
    """The inode of a deleted file was still in the database: the file that got it was taken for read."""
    here.begin(8)
    here.stop()
    here.delete()
    here.reopen()
    here.fill(here.saved.position)
    here.reuse()
    here.start()
    here.pass_time()
    assert here.lines() == list(range(8, len(here.written))) and len(here.lines()) > 5


def test_fluent_bit_PR_2960_of_two_places_with_one_inode_the_later_one_counts(here):
    """The database had two records of one inode, an old file's and the present one's: it went on at the old offset."""
    here.begin(9)
    here.stop()
    old = here.saved
    inherit(here)
    here.append(4)
    here.start()
    here.pass_time()
    here.stop()
    assert (here.saved.inode, here.saved.device) == (old.inode, old.device) and here.saved.position < old.position
    here.append(9)
    here.start()
    here.pass_time()
    assert here.lines() == list(range(13, 22))


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


def test_beats_1281_stopped_after_rotations_it_sends_nothing_again(here):
    """At its end it wrote down the inodes that the names had had before they were rotated: after the next start the
    rotated files were sent a second time.
    """
    here.begin()
    for _ in range(3):
        here.append(2)
        here.rotate()
        here.append()
        here.pass_time()
    here.stop()
    assert here.saved.inode == os.stat(here.path).st_ino and here.saved.position == os.stat(here.path).st_size
    for _ in range(2):
        here.start()
        here.pass_time()
        assert here.lines() == []
        here.rotate()
        here.append()
        here.pass_time()
        assert len(here.lines()) == 1
        here.stop()


def test_beats_1341_inodes_that_come_back_again_and_again(here):
    """A log every ten minutes, packed every hour: reused inodes were read from the old offset, or not at all."""
    here.begin()
    for number in range(12):
        here.append(2)
        here.read()
        here.stop()
        here.append(number % 3)
        here.rotate()
        here.append(1 + 5 * (number % 2))
        if number % 4 == 3:
            for _ in range(3):
                here.pack(number=1)
        here.reuse()
        here.start()
        here.pass_time()
    assert here.seen == set(range(len(here.written)))


@pytest.mark.parametrize("left", [b"", b"\0" * 300, b"\n"], ids=["nothing", "zeros", "a newline"])
def test_beats_3537_a_state_emptied_by_a_power_cut(command, left):
    """It would not start until somebody deleted the registry. Here it is moved aside and named; nothing is lost."""
    line = "Nov 22 10:00:00 mx postfix/%s\n"
    lines = [line % one for one in (
        "smtpd[1]: 4Zz01m1QbBz5Rk: client=mail.good.test[192.0.2.1]", "cleanup[2]: 4Zz01m1QbBz5Rk: message-id=<m1@good.test>",
        "qmgr[3]: 4Zz01m1QbBz5Rk: from=<a@good.test>, size=100, nrcpt=1 (queue active)",
        "smtp[4]: 4Zz01m1QbBz5Rk: to=<b@ok.test>, relay=mx.ok.test[192.0.2.9]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 Ok)",
        "qmgr[3]: 4Zz01m1QbBz5Rk: removed")]
    (command.folder / "mail.log").write_text("".join(lines), encoding="ascii")
    state = command.folder / "state.json"
    path = command.configure(database__engine="sqlite", database__database=command.folder / "t.db",
                             logging__log_file=command.folder / "mail.log", state__state_file=state)
    assert command.run("-c", path, "--once").returncode == 0
    whole = json.loads(state.read_text(encoding="ascii"))
    state.write_bytes(left)
    done = command.run("-c", path, "--once")
    assert done.returncode == 0 and "cannot be used" in done.stderr
    assert [one.read_bytes() for one in command.folder.glob("state.json.damaged-*")] == [left]
    assert json.loads(state.read_text(encoding="ascii"))["position"] == whole["position"] == sum(map(len, lines))
    store = tracker.SqliteStore(str(command.folder / "t.db"))
    store.connect()
    assert [row.relay_status for row in store.all_rows()] == ["sent"]
    store.close()


def test_beats_3537_the_state_is_synced_before_it_has_its_name(here, monkeypatch):
    """What it lacked: the bytes reach the disk first, then the name, then the folder that holds the name."""
    here.append()
    here.start()
    done, rename, folder = [], os.rename, os.stat(str(here.folder)).st_ino

    def sync(descriptor):
        status = os.fstat(descriptor)
        done.append("folder" if status.st_ino == folder else "file of %d" % (status.st_size > 0))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", lambda old, new: (done.append("name"), rename(old, new)))
    here.save()
    assert done == ["file of 1", "name", "folder"]


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


@pytest.mark.parametrize("down", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("kind", ["", *PACKERS])
def test_beats_45300_copytruncate_and_packing_twice_with_restarts(here, down, kind):
    """Three times 50 lines, two copytruncates with packing: 100 of the 150 arrived, or 35."""
    here.start()
    for stopped in (*down, False):
        here.append(30)
        here.read()
        if stopped:
            here.stop()
        here.append(20)
        if len(here.written) < 150:
            here.copytruncate()
            if kind:
                here.pack(kind)
        here.start()
        here.pass_time()
        here.save()
    assert here.seen == set(range(150))
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


def test_rsyslog_3918_the_first_line_after_a_copytruncate(here):
    """Nothing was read after a copytruncate until the log was as long as it had been."""
    here.begin(1000)
    here.copytruncate()
    here.append()
    here.pass_time(4)
    assert here.lines() == list(range(1001))
    here.save()
    assert here.saved.position == os.stat(here.path).st_size


@pytest.mark.parametrize("naming", ["numbers", "date"])
@pytest.mark.parametrize("unread", [0, 3])
def test_rsyslog_4781_the_rest_of_a_file_rotated_while_it_was_down(naming, unread):
    """imfile says that it must run during a rotation: the rest of a file renamed before the start is not read."""
    with world(naming) as here:
        here.begin(5)
        here.stop()
        here.append(unread)
        here.rotate()
        here.append()
        here.start()
        here.pass_time()
        assert here.lines() == list(range(5, 6 + unread))


@pytest.mark.parametrize("how", ["create", "late", "gap"])
def test_rsyslog_4875_the_new_file_begins_at_zero(here, how):
    """The new file's state got the old one's offset: it was silent until it was that long."""
    here.begin(1000)
    here.rotate(how)
    here.pass_time()
    here.reopen()
    here.append()
    here.pass_time()
    assert here.lines() == list(range(1001))
    here.save()
    assert (here.saved.inode, here.saved.position) == (os.stat(here.path).st_ino, os.stat(here.path).st_size)
    here.restart()
    assert here.lines() == []


@pytest.mark.parametrize("same_inode", [False, True])
@pytest.mark.parametrize("lines", range(1, 12))
def test_rsyslog_5285_files_shorter_than_a_fingerprint(here, same_inode, lines):
    """imfile knows a file by its inode alone until it has 512 bytes. Here its bytes count from the first line on."""
    here.begin(lines)
    here.stop()
    here.append()
    here.rotate()
    here.append(lines)
    assert os.stat(here.path).st_size < 600
    if same_inode:
        here.reuse()
    here.start()
    here.pass_time()
    assert here.lines() == list(range(lines, 2 * lines + 1))


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


def test_fail2ban_1797_every_rotation_of_a_quiet_log_is_noticed():
    """dateext, compress, delaycompress: it went on with the old file, and bans failed until it was restarted."""
    with world("date") as here:
        here.begin()
        for number in range(5):
            here.rotate("late")
            here.pack(number=1)
            here.pass_time(20)
            here.append(number % 2)
            here.reopen()
            here.pass_time(20)
            here.append()
            here.read()
            here.pass_time(3)
            assert here.reader.current.path == here.path and here.reader.rotations == number + 1
        assert here.lines() == list(range(len(here.written)))


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


@pytest.mark.parametrize("lines", [1, 5, 9], ids=["shorter", "as long", "longer"])
@pytest.mark.parametrize("stopped", [False, True])
def test_pygtail_PR_42_rotated_to_where_nobody_looks(here, lines, stopped):
    """logrotate's olddir: the new file was read from the old one's offset. What was not read of the old one is lost to
    who comes later; who had it open reads it.
    """
    here.begin(5)
    if stopped:
        here.stop()
    here.append(2)
    (here.folder / "archive").mkdir()
    os.rename(here.path, str(here.folder / "archive" / "mail.log.1"))
    here.rotated_by(made=False)
    here.append(lines)
    here.lossy, here.elsewhere = stopped, True
    here.start()
    here.pass_time()
    assert here.lines() == list(range(7 if stopped else 0, 7 + lines)) and here.reader.warned != stopped


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


def test_file_tail_PR_14_a_log_that_is_not_there_at_the_start(here):
    """The same at its start, where it is to begin at the end: what is written before it looks is new."""
    here.rotate("gap")
    here.reader = tracker.Follower(here.path, 1.0)
    here.reader.begin(None, True)
    here.pass_time()
    here.append(5)
    here.pass_time()
    assert here.lines() == list(range(5))


def test_goaccess_1815_inode_and_count_are_the_same_after_copytruncate(here):
    """Inode and number of lines told where it had stopped: after a copytruncate so many new lines were skipped."""
    here.begin(5)
    here.stop()
    here.copytruncate()
    here.append(9)
    here.start()
    here.pass_time()
    assert here.lines() == list(range(5, 14))


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("lines", [5, 300])
def test_logdna_agent_v2_PR_580_much_comes_at_once_under_the_old_inode(here, stopped, lines):
    """A rotation that gave the new file the old inode passed for a truncation; when more than 8 KiB came with the next
    write, it went on at their end.
    """
    here.begin(100)
    if stopped:
        here.stop()
    inherit(here)
    here.append(lines)
    assert (os.stat(here.path).st_size > 8192) == (lines == 300)
    here.start()
    here.pass_time()
    assert here.lines() == list(range(100 if stopped else 0, 100 + lines))


def test_postfix_exporter_14_the_log_is_only_read(here):
    """It emptied the log that it had read: all else that reads logs lost them."""
    here.append(9)
    here.rotate()
    here.append(9)
    files = [here.path, here.rotated[0].path]
    before = [(pathlib.Path(path).read_bytes(), os.stat(path).st_mtime_ns, os.stat(path).st_mode) for path in files]
    here.saved, here.next = tracker.Place(0, os.stat(files[1]).st_ino), 0
    here.start()
    flags = {fcntl.fcntl(file.handle, fcntl.F_GETFL) & os.O_ACCMODE for file in [*here.reader.files, *here.reader.queue]}
    here.pass_time()
    here.stop()
    assert len(here.sink) == 18 and flags == {os.O_RDONLY}
    assert [(pathlib.Path(path).read_bytes(), os.stat(path).st_mtime_ns, os.stat(path).st_mode) for path in files] == before


@pytest.mark.parametrize("then", ["nothing", "rotate", "copytruncate"])
def test_postfix_exporter_24_written_between_the_end_and_the_saving(here, then):
    """What was appended after it had seen the end, and before it truncated, was lost."""
    here.begin()
    for _ in range(5):
        here.read()
        here.append(2)
        here.save()
        if then != "nothing":
            getattr(here, then)()
        here.restart()
        here.append()
    here.pass_time()
    assert here.seen == set(range(len(here.written)))


def test_postfix_exporter_78_it_lets_go_of_rotated_files(here):
    """It went on reading `mail.log.1 (deleted)`: rotated every hour, two rotations between two looks."""
    here.begin()
    for number in range(8):
        here.append()
        for _ in range(1 + number % 2):
            here.rotate("late")
            here.append()
            here.reopen()
        here.pass_time(10)
        here.append()
        here.pass_time()
        here.save()
        while len(here.rotated) > 1:
            here.delete(1)
        assert here.reader.current.path == here.path
        assert not [name for name in opened(here.folder) if name.endswith("(deleted)")]
    assert here.seen == set(range(len(here.written)))


def opened(folder):
    """What this process has open in a folder, as Linux names it."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):        # the descriptor of the listing itself
            found.append(os.readlink("/proc/self/fd/" + number))
    return [name for name in found if name.startswith(str(folder))]


@pytest.mark.parametrize("stopped", [False, True])
def test_maillog2mysql_what_the_new_file_has_when_it_is_opened(here, stopped):
    """At its start and at each rotation it went to the end of the log: what was there by then was never read."""
    here.begin()
    for _ in range(3):
        if stopped:
            here.stop()
        here.append(2)
        here.rotate()
        here.append(20)
        here.start()
        here.pass_time()
        here.save()
    assert here.seen == set(range(len(here.written)))


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("size", ["shorter", "as long", "longer"])
@pytest.mark.parametrize("how", ["rotate", "copytruncate"])
def test_mailwatch_the_size_alone_tells_nothing(here, size, how, stopped):
    """It asked for the size under the log's name: a new file as long as the old one was not noticed, a longer one read
    from the old one's size on, a shorter one not at all.
    """
    here.begin(8)
    if stopped:
        here.stop()
    length = here.saved.position
    getattr(here, how)()
    here.fill({"shorter": length // 2, "as long": length, "longer": 3 * length}[size])
    here.start()
    here.pass_time()
    assert here.seen == set(range(len(here.written)))
