"""What is written agrees with what is: README, template, schema, options, columns."""
import contextlib
import io
import os
import re
import sqlite3

import pytest
from conftest import ROOT

import mail_relay_tracker as tracker

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCHEMA = (ROOT / "schema.sql").read_text(encoding="utf-8")
TEMPLATE = (ROOT / "mail_relay_tracker.conf.template").read_text(encoding="utf-8")
STATUSES = {"sent", "bounced", "deferred", "expired", "rejected", "held", "discarded", "deleted", "requeued", "incomplete"}
ASCII_COLUMNS = {"queue_id", "next_queue_id", "parent_queue_id"}


def section(title):
    """The text under a heading of the README, up to the next of the same or a higher level."""
    found = re.search(r"^(#+) %s\n(.*?)(?=^#{1,3} |\Z)" % re.escape(title), README, re.M | re.S)
    assert found, title
    return found.group(2)


def table(title):
    """The rows of the tables under a heading, without their heads, as lists of cells."""
    rows = [line for line in section(title).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    return [row for row, after in zip(cells, cells[1:] + [[""]]) if not after[0].startswith("---") and not row[0].startswith("---")]


def bare(cell):
    """A cell's content without back quotes."""
    return cell.replace("`", "")


def base_type(column):
    """The type of a column as the README gives it: VARCHAR(255), INT UNSIGNED."""
    return re.match(r"[A-Z]+(?:\([0-9,]+\))?(?: UNSIGNED)?", column.type).group()


# ---------------------------------------------------------------------------- README

def test_every_option_of_the_command_line_is_told():
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.raises(SystemExit):
        tracker.parse_arguments(["--help"])
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text.getvalue())) - {"-vv"}
    assert {"-c", "--config", "-v", "--verbose", "--once", "--import", "--check", "--dry-run", "--version", "-h", "--help"} <= options
    told = " ".join(row[0] for row in table("Commands and options"))
    assert options <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", told))


def test_every_promise_names_the_tests_that_hold_it():
    files = {path.relative_to(ROOT / "tests").with_suffix("").as_posix(): path.read_text(encoding="utf-8")
             for path in (ROOT / "tests").glob("**/test_*.py")}
    promised = {number: set(re.findall("`(.*?)`", row[-1])) for row in table("What is promised, and what is not")
                for number in row[0].split(", ")}
    assert list(promised) == ["T%d" % number for number in range(1, 21)]
    for number, named in promised.items():
        bearing = {name for name, text in files.items() if re.search(r"def test_(T\d+_)*%s_" % number, text)}
        assert bearing and bearing <= named <= set(files), number


def test_every_key_is_told_with_its_section_and_default():
    told = [tuple(map(bare, row[:3])) for row in table("Configuration")]
    assert told == [("[%s]" % one.section, one.key, one.default or "(empty)") for one in tracker.OPTIONS]


def test_the_example_configuration_is_taken(tmp_path):
    path = tmp_path / "example.conf"
    path.write_text(re.search("^```ini\n(.*?)^```", section("Configuration"), re.M | re.S).group(1), encoding="utf-8")
    path.chmod(0o600)
    assert tracker.load_config(str(path))["track_domains"] == ["example.com", "example.net"]


def test_every_column_is_told_with_its_type():
    told = [(bare(row[0]), row[1]) for row in table("The table")]
    assert told == [("id", "BIGINT UNSIGNED")] + [(column.name, base_type(column)) for column in tracker.COLUMNS]


def test_every_exit_code_is_told():
    codes = {"0", "1", "130"}
    kinds = tracker.TrackerError.__subclasses__()
    codes |= {str(kind.exit_code) for kind in kinds}
    assert {row[0] for row in table("Exit codes")} == codes


def test_every_outcome_is_told():
    source = (ROOT / "mail_relay_tracker.py").read_text(encoding="utf-8")
    assert all('"%s"' % status in source for status in STATUSES - {"bounced"})
    assert {bare(row[0]) for row in table("What became of it: `relay_status`")} == STATUSES


def test_every_signal_is_told():
    told = " ".join(row[0] for row in table("Signals"))
    source = (ROOT / "mail_relay_tracker.py").read_text(encoding="utf-8")
    taken = set(re.findall(r"signal\.(SIG(?!_)[A-Z0-9]+)\b", source)) - {"SIGALRM"}
    assert taken == set(re.findall("SIG[A-Z0-9]+", told))


def test_the_domain_filter_s_examples_are_true():
    tracks = tracker.DomainFilter(["example.com"]).tracks
    examples = table("The domain filter")
    assert len(examples) == 5
    for orig_to, upstream_to, verdict in examples:
        assert tracks(bare(orig_to), bare(upstream_to)) == verdict.startswith("tracked")


def test_the_summary_and_the_rows_shown_are_what_comes_out(command):
    (command.folder / "samples").symlink_to(ROOT / "samples")
    shown, answer = re.findall("^```text\n(.*?)^```", section("What comes out"), re.M | re.S)
    done = command.run("--import", "samples/mail.log")
    assert done.stdout == shown
    query = re.search('"(SELECT .*?)"\n', answer, re.S).group(1)
    rows = sqlite3.connect(str(command.folder / "mail_relay_tracker.db")).execute(query).fetchall()
    told = answer[answer.index('"\n') + 2:].splitlines()[2:]
    assert [[str(value) for value in row if value is not None] for row in rows] == [line.split() for line in told]


def test_links_lead_somewhere():
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall("^#+ (.*)$", README, re.M)}
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif "://" not in link:
            assert (ROOT / link).exists(), link


def test_files_and_programs_named_are_there():
    for name in ("mail_relay_tracker.py", "mail_relay_tracker.conf.template", "mail_relay_tracker.service", "schema.sql",
                 "requirements.txt", "samples/mail.log", "tests/run", "LICENSE"):
        assert name in README
        assert (ROOT / name).exists()


def test_the_driver_s_versions_are_those_of_requirements():
    told = " ".join(" ".join(row[:2]) for row in table("Requirements"))
    for version in re.findall(r"[=<>]=([0-9.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8")):
        assert re.search(r"(?<![0-9.])%s(?![0-9]|\.[0-9])" % re.escape(version), told), version


def test_the_version_is_in_the_changelog():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search("^## %s - [0-9]{4}-[0-9]{2}-[0-9]{2}$" % re.escape(tracker.VERSION), changes, re.M)


@pytest.mark.parametrize("name", ["README.md", "schema.sql", "mail_relay_tracker.conf.template", "CHANGELOG.md"])
def test_the_project_speaks_of_itself_alone(name):
    text = (ROOT / name).read_text(encoding="utf-8").lower()
    for other in ("pflogsumm", "mailwatch", "logwatch", "lightmeter", "postfix_exporter", "mailgraph", "sendmailanalyzer", "mailcow",
                  "parsedmarc", "collate.pl", "logs-viewer", "pmg-log", "postfix-parser", "mta-log-parser", "fail2ban", "filebeat"):
        assert other not in text


def test_prose_is_wrapped():
    code = False
    for number, line in enumerate(README.splitlines(), 1):
        code ^= line.startswith("```")
        assert code or line.startswith(("|", "```")) or len(line) <= 120, number


# ---------------------------------------------------------------------------- template

def test_the_template_is_the_one_in_the_code():
    assert tracker.template() == TEMPLATE


def test_the_template_is_taken_and_holds_the_defaults(tmp_path, caplog):
    path = tmp_path / "template.conf"
    path.write_text(TEMPLATE, encoding="utf-8")
    path.chmod(0o640)
    config = tracker.load_config(str(path))
    for option in tracker.OPTIONS:
        assert config[option.key] == tracker.read_value(option, option.default)
        assert re.search("^(%s = %s|#%s =)$" % (option.key, re.escape(option.default), option.key), TEMPLATE, re.M)
    assert not caplog.records


def test_the_template_is_taken_with_every_key_set(tmp_path):
    path = tmp_path / "all.conf"
    path.write_text(re.sub("(?m)^#([a-z_]+ =)$", r"\1", TEMPLATE), encoding="utf-8")
    path.chmod(0o640)
    assert tracker.load_config(str(path))["track_domains"] == []


# ---------------------------------------------------------------------------- schema

@pytest.fixture(scope="module")
def described(mariadb):
    """The table as MariaDB describes it: (columns, indexes)."""
    mariadb.load_schema("docs")
    return columns_of(mariadb), indexes_of(mariadb)


def columns_of(server):
    """(name, type, nullable, default, charset, collation) of every column, in order."""
    told = server.client("SELECT column_name, column_type, is_nullable, column_default, character_set_name, collation_name "
                         "FROM information_schema.columns WHERE table_schema = 'docs' AND table_name = 'mail_relay_log' "
                         "ORDER BY ordinal_position")
    return [tuple(line.split("\t")) for line in told.splitlines()[1:]]


def indexes_of(server):
    """{name: (unique, [(column, prefix)])}."""
    told = server.client("SELECT index_name, non_unique, column_name, sub_part FROM information_schema.statistics "
                         "WHERE table_schema = 'docs' AND table_name = 'mail_relay_log' ORDER BY index_name, seq_in_index")
    found = {}
    for line in told.splitlines()[1:]:
        name, repeated, column, prefix = line.split("\t")
        found.setdefault(name, (repeated == "0", []))[1].append((column, prefix))
    return found


def server_kind(kind):
    """A type as the server tells it, without the width of numbers: `int(10) unsigned` on MariaDB, `int unsigned` on MySQL."""
    return re.sub(r"(?<=int)\([0-9]+\)", "", kind)


def test_schema_and_code_agree_column_by_column(described):
    columns, _ = described
    assert (columns[0][0], server_kind(columns[0][1])) == ("id", "bigint unsigned")
    assert [column[0] for column in columns[1:]] == [column.name for column in tracker.COLUMNS]
    for (name, kind, nullable, default, charset, collation), column in zip(columns[1:], tracker.COLUMNS):
        assert server_kind(kind) == base_type(column).lower(), name
        assert nullable == ("NO" if "NOT NULL" in column.type else "YES"), name
        if kind.startswith("timestamp"):
            assert default.lower() == "current_timestamp(6)"
        if kind.startswith(("varchar", "text")):
            expected = ("ascii", "ascii_bin") if name in ASCII_COLUMNS else ("utf8mb4", "utf8mb4_unicode_ci")
            assert (charset, collation) == expected, name
        else:
            assert charset == "NULL"
    assert {column.name for column in tracker.COLUMNS if "ascii_bin" in column.type} == ASCII_COLUMNS


def test_schema_and_code_tell_the_same_meaning():
    for column in tracker.COLUMNS:
        assert "    %s %s" % (column.name, column.type) in SCHEMA
        assert "COMMENT '%s'" % column.meaning.replace("'", "''") in SCHEMA


def test_limits_fit_the_types():
    largest = {"INT UNSIGNED": 2 ** 32 - 1, "SMALLINT UNSIGNED": 2 ** 16 - 1, "DECIMAL(8,3)": 99999, "DECIMAL(12,3)": 999999999,
               "TEXT": 65535 // 4}
    for column in tracker.COLUMNS:
        kind = base_type(column)
        length = re.match(r"VARCHAR\(([0-9]+)\)", kind)
        assert column.limit == (int(length.group(1)) if length else 0 if kind.startswith("TIMESTAMP") else column.limit)
        assert kind not in largest or column.limit <= largest[kind]


def test_schema_and_code_agree_on_keys(described):
    _, indexes = described
    assert indexes.pop("PRIMARY") == (True, [("id", "NULL")])
    unique, columns = indexes.pop("message_recipient")
    assert unique and [name for name, _ in columns] == list(tracker.KEY)
    assert set(indexes) == {name for name, _ in tracker.INDEXES}
    for name, columns in tracker.INDEXES:
        unique, found = indexes[name]
        assert not unique and [column for column, _ in found] == columns.split(", ")


def test_schema_and_sqlite_agree(described, tmp_path):
    store = tracker.SqliteStore(str(tmp_path / "t.db"))
    store.connect()
    told = store.connection.execute("PRAGMA table_info(mail_relay_log)").fetchall()
    assert [column[1] for column in told] == [column[0] for column in described[0]]
    kinds = {"varchar": "TEXT", "text": "TEXT", "timestamp": "TEXT", "decimal": "REAL"}
    for (_, name, kind, required, _, primary), (_, server_kind, nullable, _, _, _) in zip(told, described[0]):
        assert kind == kinds.get(re.match("[a-z]+", server_kind).group(), "INTEGER"), name
        assert primary or bool(required) == (nullable == "NO"), name
    found = {}
    for _, name, unique, _, _ in store.connection.execute("PRAGMA index_list(mail_relay_log)"):
        found[name] = unique, [row[2] for row in store.connection.execute("PRAGMA index_info(%s)" % name)]
    store.close()
    assert (1, list(tracker.KEY)) in found.values()
    for name, columns in tracker.INDEXES:
        assert found["mail_relay_log_" + name] == (0, columns.split(", "))
    assert len(found) == len(tracker.INDEXES) + 1


@pytest.mark.parametrize("name, columns", tracker.INDEXES)
@pytest.mark.parametrize("condition", ["= ?", "IN (?, 'b')", "> ?", "BETWEEN ? AND 'b'", "= (SELECT dsn FROM mail_relay_log WHERE id = ?)"])
def test_sqlite_looks_rows_up_by_every_index(tmp_path, name, columns, condition):
    store = tracker.SqliteStore(str(tmp_path / "t.db"))
    store.connect()
    question = "EXPLAIN QUERY PLAN SELECT * FROM mail_relay_log WHERE %s %s" % (columns.partition(",")[0], condition)
    plan = [step[3] for step in store.connection.execute(question, ["a"])]
    store.close()
    assert "USING INDEX mail_relay_log_%s " % name in plan[0]


def test_an_index_that_an_sqlite_file_has_stays_as_it_is(tmp_path):
    store = tracker.SqliteStore(str(tmp_path / "t.db"))
    store.bulk = True
    store.connect()
    store.connection.execute("CREATE INDEX mail_relay_log_spam ON mail_relay_log (spam_status, first_seen)")
    store.complete()
    kept = store.connection.execute("SELECT sql FROM sqlite_master WHERE name = 'mail_relay_log_spam'").fetchone()
    store.close()
    assert kept == ("CREATE INDEX mail_relay_log_spam ON mail_relay_log (spam_status, first_seen)",)


def everything(server):
    """All that the database holds: definitions and rows."""
    told = [server.client("SHOW CREATE TABLE mail_relay_log; SHOW CREATE EVENT mail_relay_log_retention", "docs")]
    told += [server.client("SHOW CREATE VIEW " + view, "docs") for view in ("mail_final", "mail_problems", "mail_daily")]
    told += [server.client("SHOW FULL TABLES; SHOW EVENTS; SELECT * FROM mail_relay_log", "docs")]
    return told


def test_loading_the_schema_twice_changes_nothing(mariadb, described):
    mariadb.client("INSERT INTO mail_relay_log (server_hostname, queue_id) VALUES ('mx', '4jXSnX0bKLz1Tq')", "docs")
    before = everything(mariadb)
    mariadb.client(SCHEMA.replace("mail_tracking", "docs"))
    assert everything(mariadb) == before
    assert "4jXSnX0bKLz1Tq" in before[-1]


def test_retention_is_off_until_enabled_and_then_deletes_what_is_old(mariadb, described):
    status = "SELECT status FROM information_schema.events WHERE event_schema = 'docs'"
    assert mariadb.client(status).split()[1:] == ["DISABLED"]
    mariadb.client("DELETE FROM mail_relay_log; INSERT INTO mail_relay_log (server_hostname, queue_id, first_seen) "
                   "VALUES " + ", ".join("('mx', 'A%d', NOW() - INTERVAL %d HOUR)" % (age, age) for age in range(1, 3001)), "docs")
    body = re.search(r"DO BEGIN\n(.*?)END //", SCHEMA, re.S).group(1)
    mariadb.client("DELIMITER //\nCREATE PROCEDURE retention() BEGIN\n%sEND //\nDELIMITER ;\nCALL retention();" % body, "docs")
    left = mariadb.client("SELECT COUNT(*), MIN(first_seen) >= NOW() - INTERVAL 2161 HOUR FROM mail_relay_log", "docs")
    assert left.splitlines()[1].split() in (["2159", "1"], ["2160", "1"])


def test_scripts_can_be_executed():
    for name in ("mail_relay_tracker.py", "tests/run"):
        assert os.access(str(ROOT / name), os.X_OK)
