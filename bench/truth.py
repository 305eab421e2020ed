#!/usr/bin/env python3
"""Compare a table with the generator's truth, every column of every row.

    bench/truth.py TRUTH TABLE

TRUTH are the JSON lines of bench/generate.py; TABLE is an SQLite file, or JSON lines as `--dry-run` prints them. Prints the rows that
are missing and those that should not be there, a few of each; exit 0 only when there are none.
"""
import collections
import json
import pathlib
import sqlite3
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from generate import COLUMNS  # noqa: E402

SHOWN = 5
DECIMALS = frozenset(("spam_score", "spam_required", "delay"))


def values_of(row):
    """The columns that count, in their order. A refusal's own ID, made from its time and a counter, is the tracker's business."""
    if (row["queue_id"] or "NOQUEUE").startswith("NOQUEUE"):
        row["queue_id"] = None
    return tuple(float(row[name]) if name in DECIMALS and row[name] is not None else row[name] for name in COLUMNS)


def json_rows(path):
    """The rows of a file of JSON lines."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield dict(dict.fromkeys(COLUMNS), **row)


def sqlite_rows(path):
    """The rows of the table in an SQLite file."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    for row in connection.execute("SELECT %s FROM mail_relay_log" % ", ".join(COLUMNS)):
        yield dict(row)
    connection.close()


def is_sqlite(path):
    """Whether a file is a database."""
    with open(path, "rb") as table:
        return table.read(16) == b"SQLite format 3\0"


def differences(truth, table):
    """(rows right, rows missing, rows too many); the latter two as lists of tuples."""
    wanted = collections.Counter(map(values_of, json_rows(truth)))
    right, more = 0, []
    for row in map(values_of, sqlite_rows(table) if is_sqlite(table) else json_rows(table)):
        if wanted[row] > 0:
            wanted[row] -= 1
            right += 1
        else:
            more.append(row)
    return right, list(wanted.elements()), more


def by_likeness(missing, more):
    """A few pairs of a row that is missing and the most similar one that is there instead, told by the columns that differ."""
    for row in missing[:SHOWN]:
        likest = max(more, key=lambda other: sum(one == wanted for one, wanted in zip(other, row)), default=None)
        if likest is None:
            yield "missing: %s" % (row,)
        else:
            yield "row of %s: " % (row[1] or row[COLUMNS.index("orig_to")]) + "; ".join(
                "%s is %r instead of %r" % (name, is_now, wanted) for name, wanted, is_now in zip(COLUMNS, row, likest) if wanted != is_now)


def main(arguments):
    """Compare; returns the exit code."""
    right, missing, more = differences(*arguments)
    for text in by_likeness(missing, more):
        print(text)
    print("%d rows right, %d missing, %d too many" % (right, len(missing), len(more)))
    return 1 if missing or more or not right else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
