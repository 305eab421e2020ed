"""A real server's log against what was really sent: every area, every form of the log, both stores."""
import itertools
import subprocess
import sys

import mariadb as mariadb_server
import pytest
from conftest import ROOT

import mail_relay_tracker as tracker

FORMS = ("traditional", "rfc3339", "repeated")


def truth_says(corpus, table):
    """The score of a table by area; the comparison's own last lines."""
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "corpus" / "compare_truth.py"), str(corpus / "truth.json"), str(table)],
                          stdout=subprocess.PIPE, check=False)
    return done.returncode, done.stdout.decode()[-3000:]


def rows_of(store):
    """All rows of a store, without what the form of the log decides: fractions of a second, digits of NOQUEUE IDs."""
    store.connect()
    if isinstance(store, tracker.SqliteStore):
        rows = list(store.all_rows())
    else:
        rows = list(map(tracker.row_from, store._query("SELECT %s FROM mail_relay_log" % ", ".join(tracker.ROW_COLUMNS))))
    store.close()
    return rows


def comparable(rows):
    """Rows as sortable text; NOQUEUE rows by their content."""
    found = []
    for row in rows:
        queue_id = "NOQUEUE" if row.queue_id.startswith("NOQUEUE") else row.queue_id
        found.append(repr(tuple(row._replace(first_seen=row.first_seen // tracker.SECOND, last_seen=row.last_seen // tracker.SECOND,
                                             queue_id=queue_id))))
    return sorted(found)


@pytest.fixture(scope="module")
def tables(corpus, mariadb, tmp_path_factory):
    """Every form imported into both stores: {(form, engine): rows}, and the rows as JSON lines for the comparison."""
    from conftest import Command
    found = {}
    for form, engine in itertools.product(FORMS, ("sqlite", "mysql")):
        command = Command(tmp_path_factory.mktemp("%s-%s" % (form, engine)))
        database = "corpus_" + form
        if engine == "sqlite":
            path = command.configure(database__engine="sqlite", database__database=command.folder / "t.db")
        else:
            mariadb.load_schema(database)
            path = command.configure(database__unix_socket=mariadb.socket, database__database=database,
                                     database__password=mariadb_server.PASSWORD)
        done = command.run("-c", path, "--import", corpus / ("mail-%s.log" % form))
        assert done.returncode == 0, done.stderr
        assert " 0 unsupported, 0 failed" in done.stdout
        rows = rows_of(tracker.make_store(tracker.load_config(path)))
        (command.folder / "rows.json").write_text("".join(tracker.row_json(row) + "\n" for row in rows), encoding="utf-8")
        found[form, engine] = rows, command.folder / "rows.json"
    return found


@pytest.mark.parametrize("engine", ["sqlite", "mysql"])
@pytest.mark.parametrize("form", FORMS)
def test_the_table_agrees_with_the_truth_in_every_area(corpus, tables, form, engine):
    code, said = truth_says(corpus, tables[form, engine][1])
    assert code == 0, said
    assert "all:           19341/19341" in said


def test_the_six_tables_are_equal_but_for_fractions_and_noqueue_digits(tables):
    distinct = {tuple(comparable(rows)) for rows, _ in tables.values()}
    assert len(distinct) == 1
    assert len(distinct.pop()) == 1163


def test_the_same_form_gives_exactly_the_same_rows_in_both_stores(tables):
    for form in FORMS:
        assert sorted(tables[form, "sqlite"][0], key=repr) == sorted(tables[form, "mysql"][0], key=repr)


def test_importing_twice_changes_nothing(command, corpus):
    database = command.folder / "mail_relay_tracker.db"
    command.run("--import", corpus / "mail-rfc3339.log")
    before = rows_of(tracker.SqliteStore(str(database)))
    done = command.run("--import", corpus / "mail-rfc3339.log")
    assert "(0 written now)" in done.stdout
    assert rows_of(tracker.SqliteStore(str(database))) == before


def test_dry_run_prints_the_rows_that_the_database_would_hold(command, corpus):
    done = command.run("--import", corpus / "mail-rfc3339.log", "--dry-run")
    (command.folder / "dry.json").write_text(done.stdout, encoding="utf-8")
    assert truth_says(corpus, command.folder / "dry.json")[0] == 0
    assert "messages" in done.stderr and not (command.folder / "mail_relay_tracker.db").exists()


@pytest.mark.parametrize("first, queue_timeout", [(0, 30), (4000, 1), (8600, 0.05)])
def test_restarted_before_every_line_of_a_stretch_gives_the_same_table(corpus, first, queue_timeout):
    from tests.unit.replay import Replay
    lines = (corpus / "mail-rfc3339.log").read_bytes().decode("latin-1").splitlines()[first:first + 800]
    replay = Replay(lines, queue_timeout)
    assert replay.cut(*range(1, len(lines))) == replay.whole()
