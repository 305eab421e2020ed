"""What several tests need: the module, a private MariaDB, the recorded log, the tracker as a command."""
import errno
import io
import lzma
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import mariadb as mariadb_server  # noqa: E402

for number in (signal.SIGINT, signal.SIGQUIT):      # a shell's background job ignores them, and so would its children
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def mariadb():
    """A MariaDB server, shared by all tests: each makes a database of its own."""
    with mariadb_server.running() as server:
        yield server


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The folder with the recorded logs and the truth beside them, unpacked."""
    folder = tmp_path_factory.mktemp("corpus")
    for packed in (ROOT / "tests" / "corpus").glob("*.xz"):
        (folder / packed.stem).write_bytes(lzma.open(packed).read())
    return folder


class Worn(io.FileIO):
    """A file on a disk of which all behind the first `whole` bytes is lost, but for what is read in blocks no larger than this."""

    def __init__(self, path, whole, block=0):
        super().__init__(path, "rb")
        self.whole, self.block = whole, block

    def read(self, size=-1):
        if size > self.block and self.tell() >= self.whole:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


def place_in(pid, path):
    """How far a process has come in a file; 0 when it has not got it open."""
    for name in os.listdir("/proc/%d/fd" % pid):
        try:
            if os.readlink("/proc/%d/fd/%s" % (pid, name)) == str(path):
                return int(re.search(r"pos:\s*(\d+)", open("/proc/%d/fdinfo/%s" % (pid, name), encoding="ascii").read()).group(1))
        except FileNotFoundError:
            continue
    return 0


class Command:
    """The tracker as a user runs it, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def configure(self, name="tracker.conf", **settings):
        """Write a configuration file from section__key settings; returns its path."""
        sections = {}
        for setting, value in settings.items():
            section, _, key = setting.partition("__")
            sections.setdefault(section, []).append("%s = %s" % (key, value))
        path = self.folder / name
        path.write_text("".join("[%s]\n%s\n" % (section, "\n".join(lines)) for section, lines in sections.items()), encoding="utf-8")
        path.chmod(0o600)
        return str(path)

    def run(self, *arguments, python=sys.executable, **options):
        """Run to the end; returns the finished process, its output as text."""
        environment = {**os.environ, "TZ": "UTC", "PYTHONDONTWRITEBYTECODE": "1", **options.pop("environment", {})}
        return subprocess.run([python, str(ROOT / "mail_relay_tracker.py"), *map(str, arguments)], cwd=str(self.folder), env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, encoding="utf-8", check=False,
                              timeout=options.pop("timeout", 120), **options)

    def start(self, *arguments):
        """Start the daemon; the caller stops it."""
        return subprocess.Popen([sys.executable, str(ROOT / "mail_relay_tracker.py"), *map(str, arguments)], cwd=str(self.folder),
                                env=dict(os.environ, TZ="UTC"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def command(tmp_path):
    """The tracker as a command."""
    return Command(tmp_path)
