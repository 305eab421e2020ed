"""The house stays readable: order of the sections, who may use whom, how long a function may be, types, versions, docstrings."""
import ast
import doctest
import re
import statistics
import subprocess
import sys

import pytest
from conftest import ROOT

import mail_relay_tracker

SOURCE = (ROOT / "mail_relay_tracker.py").read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
FENCE = re.compile(r"^# =+ (.+)$", re.M)
SECTIONS = ["constants and limits", "errors", "records", "line header", "program parsers", "addresses", "correlator", "stores",
            "log follower", "state file", "configuration", "daemon loop", "commands and main"]
PURE = SECTIONS[:7]
WORLD = set("os sys clock socket signal select sqlite3 importlib logging LOG open print tempfile shutil fcntl random getpass "
            "io gzip bz2 lzma".split())


def sections():
    """{title: (first line, last line)}."""
    starts = [(SOURCE.count("\n", 0, found.start()) + 1, found.group(1)) for found in FENCE.finditer(SOURCE)]
    ends = [line for line, _ in starts[1:]] + [SOURCE.count("\n") + 1]
    return {title: (line, end) for (line, title), end in zip(starts, ends)}


def section_of(line):
    return next((title for title, (first, last) in sections().items() if first <= line < last), None)


def functions(tree=TREE):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def defined(node):
    """The names that a top-level statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def test_sections_stand_in_the_order_of_the_map():
    assert list(sections()) == SECTIONS
    for title in SECTIONS:
        assert title.split(" and ")[0] in mail_relay_tracker.__doc__


def test_each_section_uses_only_those_above_it():
    home = {name: section_of(node.lineno) for node in TREE.body for name in defined(node)}
    wrong = []
    for node in TREE.body:
        here = section_of(node.lineno)
        for name in ast.walk(node):
            there = home.get(name.id) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load) else None
            if here and there and SECTIONS.index(there) > SECTIONS.index(here):
                wrong.append("line %d: %s uses %s of %s" % (name.lineno, here, name.id, there))
    assert not wrong


LOGS_CLOCK = ast.dump(ast.parse("self.memory", mode="eval").body)       # its `now` is the newest stamp read


def test_the_core_knows_no_clock_file_socket_or_driver():
    wrong = ["line %d: %s" % (node.lineno, node.id) for node in ast.walk(TREE)
             if isinstance(node, ast.Name) and node.id in WORLD and section_of(node.lineno) in PURE]
    assert not wrong
    now = [node for node in ast.walk(TREE) if isinstance(node, ast.Attribute) and node.attr in ("now", "utcnow", "today")
           and isinstance(node.value, ast.Attribute) and section_of(node.lineno) in PURE]
    assert {ast.dump(node.value) for node in now} <= {LOGS_CLOCK}


def test_functions_are_short():
    length = {node.name: node.end_lineno - node.lineno + 1 for node in functions()}
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in functions())
    assert not {name: lines for name, lines in length.items() if lines > 60}
    assert statistics.median(lengths) <= 10
    assert lengths[int(len(lengths) * 0.9)] <= 30


def test_everything_public_says_what_it_is():
    silent = []
    for node in ast.walk(TREE):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and not ast.get_docstring(node):
            silent.append("line %d: %s" % (node.lineno, node.name))
    inherited = {name for name, value in vars(mail_relay_tracker.Store).items() if callable(value)}
    assert not [one for one in silent if one.split()[-1] not in inherited]


def test_examples_in_docstrings_are_true():
    assert doctest.testmod(mail_relay_tracker).failed == 0


def test_every_event_is_folded_and_every_parser_is_reachable():
    events = {value for value in vars(mail_relay_tracker).values()
              if isinstance(value, type) and section_of_class(value) == "records" and hasattr(value, "_fields")}
    helpers = {mail_relay_tracker.Column, mail_relay_tracker.Row, mail_relay_tracker.Ignored}
    assert events - helpers == set(mail_relay_tracker.FOLDS)


def section_of_class(value):
    return next((section_of(node.lineno) for node in TREE.body if isinstance(node, ast.ClassDef) and node.name == value.__name__), None)


def test_no_name_is_defined_and_never_used():
    used = {name.id for name in ast.walk(TREE) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load)}
    used |= {node.attr for node in ast.walk(TREE) if isinstance(node, ast.Attribute)}
    tests = "".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("test_*.py"), *ROOT.glob("tests/**/*.py")])
    dead = [name for node in TREE.body for name in defined(node)
            if name not in used and not re.search(r"\b%s\b" % name, tests)]
    assert not dead


@pytest.mark.parametrize("arguments", [
    ["-m", "ruff", "check", "."],
    ["-m", "mypy", "mail_relay_tracker.py"],
    ["-c", "import vermin; vermin.main()", "-q", "-t=3.6-", "--no-tips", "mail_relay_tracker.py", "test_domain_filtering.py",
     "test_srs_unwrapping.py", "test_spamassassin_parsing.py", "test_policyd_spf.py"],
], ids=["ruff", "mypy", "vermin"])
def test_tools_find_nothing(arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()[-3000:]
