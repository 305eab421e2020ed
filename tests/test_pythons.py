"""The same under every Python from 3.6 on that this machine has: the standalone scripts, the unit tests, the recorded log, the driver."""
import concurrent.futures
import os
import pathlib
import re
import sqlite3
import subprocess
import sys

import mariadb as mariadb_server
import pytest
from conftest import ROOT

SCRIPTS = ("test_domain_filtering.py", "test_srs_unwrapping.py", "test_spamassassin_parsing.py", "test_policyd_spf.py")
UNITS = ["tests.unit.%s" % path.stem for path in sorted((ROOT / "tests" / "unit").glob("test_*.py"))]


def version_of(python):
    """(major, minor) of an interpreter; None when it does not run."""
    try:
        said = subprocess.run([str(python), "-c", "import sys, sqlite3, ctypes; print('%d.%d' % sys.version_info[:2])"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=True).stdout.decode()
        return tuple(map(int, said.strip().split(".")))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def interpreters():
    """{version: path}: those of pyenv, those on the path, the one that runs the tests."""
    found = {sys.version_info[:2]: sys.executable}
    candidates = list(pathlib.Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3"))
    for folder in os.environ["PATH"].split(os.pathsep):
        candidates += [pathlib.Path(folder) / ("python3.%d" % minor) for minor in range(6, 15)]
    for candidate in candidates:
        version = version_of(candidate) if candidate.exists() else None
        if version is not None and version >= (3, 6):
            found.setdefault(version, str(candidate))
    return found


PYTHONS = interpreters()
VERSIONS = sorted(PYTHONS)
python = pytest.mark.parametrize("python", [PYTHONS[version] for version in VERSIONS], ids=["%d.%d" % version for version in VERSIONS])


def run(python, *arguments, **environment):
    return subprocess.run([python, *arguments], cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          env=dict(os.environ, TZ="UTC", PYTHONDONTWRITEBYTECODE="1", **environment))


@pytest.fixture(scope="module", autouse=True)
def unit_runs(request):
    """The unit tests under the interpreters that are asked for: the longest of all here, so they run beside the rest, two at a time."""
    asked = [item.callspec.params["python"] for item in request.session.items if item.name.startswith("test_unit_tests[")]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield {one: pool.submit(run, one, "-m", "unittest", *UNITS) for one in asked}


@python
@pytest.mark.parametrize("script", SCRIPTS)
def test_standalone_script(python, script):
    done = run(python, script)
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said[-2000:]
    assert int(re.search(r"(\d+) passed, 0 failed", said).group(1)) >= 15


@python
@pytest.mark.timeout(3600)
def test_unit_tests(unit_runs, python):
    done = unit_runs[python].result()
    assert done.returncode == 0, done.stdout.decode()[-3000:]


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    return table_of(sys.executable, corpus, tmp_path_factory.mktemp("reference"))


def table_of(python, corpus, folder):
    """The table that an interpreter makes of the recorded log."""
    done = subprocess.run([python, str(ROOT / "mail_relay_tracker.py"), "--import", str(corpus / "mail-traditional.log")], cwd=str(folder),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=dict(os.environ, TZ="UTC"))
    assert done.returncode == 0, done.stdout.decode()
    connection = sqlite3.connect(str(folder / "mail_relay_tracker.db"))
    rows = sorted(map(repr, connection.execute("SELECT * FROM mail_relay_log")))
    connection.close()
    return rows


@python
def test_recorded_log_gives_the_same_table(python, corpus, reference, tmp_path):
    assert table_of(python, corpus, tmp_path) == reference


def driver_for(python):
    """A folder with the driver that requirements.txt names for this interpreter; kept between runs."""
    version = "%d.%d" % version_of(python)
    folder = ROOT / ".cache" / ("driver-" + version)
    if not (folder / "mysql").exists():
        done = run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", str(folder), "-r", "requirements.txt")
        if done.returncode:
            pytest.skip("pip of Python %s cannot install the driver: %s" % (version, done.stdout.decode()[-300:]))
    return folder


@python
def test_pinned_driver_writes_to_mariadb(python, mariadb, command, corpus):
    folder = driver_for(python)
    mariadb.load_schema("pythons")
    path = command.configure(database__unix_socket=mariadb.socket, database__database="pythons", database__password=mariadb_server.PASSWORD)
    for written in ("1164 written now", "0 written now"):
        done = command.run("-c", path, "--import", corpus / "mail-rfc3339.log", python=python, environment={"PYTHONPATH": str(folder)})
        assert done.returncode == 0, done.stderr
        assert written in done.stdout
    assert mariadb.client("SELECT COUNT(*) FROM mail_relay_log", "pythons").split() == ["COUNT(*)", "1163"]
