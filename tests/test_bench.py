"""The bench works, on a tiny log, and no wrong row gets past it. How fast anything is, is not asked here."""
import json
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest
from conftest import ROOT

BENCH = ROOT / "bench"
WRONG = """
write = SqliteStore.write
SqliteStore.write = lambda self, rows: write(self, [rows[0]._replace(dsn="9.9.9")] + rows[1:])
"""


def run(*arguments, **options):
    """Run a command of the bench; returns the finished process, its output as text."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, encoding="utf-8", check=False, timeout=300, **options)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A small log, its truth, and the table that the tracker makes of it."""
    folder = tmp_path_factory.mktemp("bench")
    assert run(BENCH / "generate.py", "-n", 100, "-o", folder / "mail.log", "--truth", folder / "truth").returncode == 0
    (folder / "tracker.conf").write_text("[database]\nengine = sqlite\ndatabase = %s\n" % (folder / "t.db"), encoding="utf-8")
    done = run(ROOT / "mail_relay_tracker.py", "-c", folder / "tracker.conf", "--import", folder / "mail.log", env={"TZ": "UTC"})
    assert done.returncode == 0, done.stdout
    return folder


def changed(folder, tmp_path, statement):
    """What the comparison says after a change of the table."""
    table = tmp_path / "t.db"
    shutil.copy(str(folder / "t.db"), str(table))
    connection = sqlite3.connect(str(table))
    assert connection.execute(statement).rowcount == 1
    connection.commit()
    connection.close()
    return run(BENCH / "truth.py", folder / "truth", table)


def test_the_same_seed_makes_the_same_log(generated, tmp_path):
    run(BENCH / "generate.py", "-n", 100, "-o", tmp_path / "mail.log", "--truth", tmp_path / "truth")
    assert (tmp_path / "mail.log").read_bytes() == (generated / "mail.log").read_bytes()
    assert (tmp_path / "truth").read_bytes() == (generated / "truth").read_bytes()


def test_the_truth_has_every_column(generated):
    import mail_relay_tracker as tracker
    row = json.loads((generated / "truth").read_text(encoding="utf-8").partition("\n")[0])
    assert set(row) == set(tracker.ROW_COLUMNS) - {"recipient_no"}


@pytest.mark.parametrize("options", [(), ("--style", "rfc3339"), ("--queue-ids", "short")], ids=["plain", "rfc3339", "short"])
def test_the_rows_of_every_kind_of_log_are_right(tmp_path, options):
    run(BENCH / "generate.py", "-n", 300, "--seed", 2, "-o", tmp_path / "mail.log", "--truth", tmp_path / "truth", *options)
    done = run(ROOT / "mail_relay_tracker.py", "--import", tmp_path / "mail.log", "--dry-run", env={"TZ": "UTC"})
    (tmp_path / "rows").write_text("".join(line + "\n" for line in done.stdout.splitlines() if line.startswith("{")), encoding="utf-8")
    done = run(BENCH / "truth.py", tmp_path / "truth", tmp_path / "rows")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("statement", [
    "UPDATE mail_relay_log SET delay = delay + 0.001 WHERE id = (SELECT MIN(id) FROM mail_relay_log WHERE delay IS NOT NULL)",
    "UPDATE mail_relay_log SET spam_tests = NULL WHERE id = (SELECT MIN(id) FROM mail_relay_log WHERE spam_tests IS NOT NULL)",
    "UPDATE mail_relay_log SET last_seen = first_seen WHERE id = (SELECT MIN(id) FROM mail_relay_log WHERE last_seen > first_seen)",
    "DELETE FROM mail_relay_log WHERE id = (SELECT MAX(id) FROM mail_relay_log)",
    "INSERT INTO mail_relay_log (server_hostname, queue_id, first_seen, last_seen, recipient_no) VALUES ('mx1', 'A', '', '', 0)",
], ids=["number", "missing value", "time", "row missing", "row too many"])
def test_a_wrong_row_is_found(generated, tmp_path, statement):
    assert run(BENCH / "truth.py", generated / "truth", generated / "t.db").returncode == 0
    done = changed(generated, tmp_path, statement)
    assert done.returncode == 1
    assert re.search(r"\d+ rows right, [01] missing, [01] too many", done.stdout)


def test_the_command_tells_its_figures_and_that_the_rows_are_right(tmp_path):
    done = run(BENCH / "run.py", "--lines", 3000, "--rounds", 1, "--only", "wc -l,bare read loop,read,events,parse,render,sqlite",
               "--results", tmp_path / "RESULTS.md")
    assert done.returncode == 0, done.stdout
    found = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    for name in ("wc -l", "bare read loop", "ours: read", "ours: events, not correlated", "ours: parse and correlate",
                 "ours: the same, and SQL", "ours: --import, SQLite"):
        assert re.search(r"^\| %s +\|( +[0-9.]+ \|)" % re.escape(name), found, re.M), found
    assert re.search(r"All \d+ rows, every column, as the log's truth says \(parse, sqlite\)", found)


def test_the_command_ends_badly_when_the_tracker_makes_a_wrong_row(tmp_path):
    text = (ROOT / "mail_relay_tracker.py").read_text(encoding="utf-8")
    wrong = tmp_path / "mail_relay_tracker.py"
    module, main, end = text.rpartition('\nif __name__ == "__main__":')
    wrong.write_text(module + WRONG + main + end, encoding="utf-8")
    done = run(BENCH / "run.py", "--lines", 3000, "--rounds", 1, "--only", "sqlite", "--tracker", wrong)
    assert done.returncode == 1
    assert "WRONG ROWS" in done.stdout


def test_a_part_of_the_results_takes_the_place_of_the_former_one(tmp_path):
    for lines in (3000, 3000):
        done = run(BENCH / "run.py", "--lines", lines, "--rounds", 1, "--only", "read", "--title", "A part", "--results", tmp_path / "R.md")
        assert done.returncode == 0, done.stdout
    assert (tmp_path / "R.md").read_text(encoding="utf-8").count("## A part\n") == 1


def test_the_readme_tells_what_was_measured():
    sys.path.insert(0, str(BENCH))
    import report
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Speed\n")[2].partition("\n## ")[0]
    told = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert told == report.quoted((BENCH / "RESULTS.md").read_text(encoding="utf-8"))


def test_the_profile_tells_shares_by_section_and_function():
    done = run(BENCH / "run.py", "--lines", 30000, "--profile", "parse")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^\| correlator +\|", done.stdout, re.M) and re.search(r"^\| function +\|", done.stdout, re.M)
