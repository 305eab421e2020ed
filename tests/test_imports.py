"""Historical logs in any order, read more than once, in parts that overlap: the rows are those of the whole log."""
import collections
import sqlite3

import pytest
from conftest import ROOT

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


def imported(command, *runs):
    """What some imports, one after the other, make of parts of the sample: each part is (first, last) in thousandths of its lines."""
    for file in command.folder.glob("mail_relay_tracker.db*"):
        file.unlink()
    for number, parts in enumerate(runs):
        names = []
        for first, last in parts:
            names.append("part.%d.%d" % (number, first))
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


def test_parts_that_overlap_make_the_rows_of_the_whole(command):
    assert imported(command, [(0, 600), (300, 1000)]) == imported(command, [(0, 1000)])


def test_a_log_that_went_through_windows_makes_the_same_rows(command):
    expected = imported(command, [(0, 1000)])
    (command.folder / "windows.log").write_bytes(b"".join(SAMPLE).replace(b"\n", b"\r\n"))
    (command.folder / "mail_relay_tracker.db").unlink()
    done = command.run("--import", "windows.log")
    assert done.returncode == 0 and " 0 unsupported" in done.stdout
    assert table(command) == expected
