"""A MariaDB server of our own: private data directory and socket, no port; made in seconds, gone without a trace.

With MYSQLD=/path/to/mysqld in the environment it is a MySQL server.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

PASSWORD = "a % and a ' in it"
ROOT = pathlib.Path(__file__).resolve().parent.parent
MYSQLD = os.environ.get("MYSQLD")
SERVER = [MYSQLD, "--no-defaults", "--mysqlx=OFF", "--disable-log-bin", "--secure-file-priv=NULL"] if MYSQLD else \
    ["mariadbd", "--no-defaults"]
INSTALL = SERVER + ["--initialize-insecure"] if MYSQLD else \
    ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
VERSION = subprocess.run(SERVER[:1] + ["--version"], stdout=subprocess.PIPE, check=True).stdout.decode() if MYSQLD else ""
NAMED_ANEW = {"--skip-ssl": "--tls-version="} if MYSQLD and "Ver 8.0." not in VERSION else {}


class MariaDB:
    """One server. `socket` is where it listens; `client` runs SQL as root."""

    def __init__(self, options=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mrt-db."))
        self.socket = str(self.folder / "s")
        self.options = list(options)
        self.environment = dict(os.environ, TMPDIR=str(self.folder))    # a server that starts deletes the temporary tables of others
        self.process = None

    def create(self):
        """Make the data directory; root needs no password on the socket."""
        os.chmod(self.folder, 0o755)
        data = self.folder / "data"
        user = ["--user=mysql"] if os.getuid() == 0 else []
        if user:
            data.mkdir()
            shutil.chown(data, "mysql", "mysql")
            shutil.chown(self.folder, "mysql", "mysql")
        subprocess.run(INSTALL + ["--datadir=%s" % data] + user, check=True, env=self.environment, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    def command(self, *options):
        """The server's command line."""
        user = ["--user=mysql"] if os.getuid() == 0 else []
        return [*SERVER, "--datadir=%s" % (self.folder / "data"), "--socket=%s" % self.socket, "--skip-networking",
                "--pid-file=%s" % (self.folder / "pid"), "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=2",
                "--log-error=%s" % (self.folder / "log.err"), *user, *(NAMED_ANEW.get(one, one) for one in [*self.options, *options])]

    def start(self, *options):
        """Start the server and wait until it answers."""
        self.process = subprocess.Popen(self.command(*options), env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.time() + 60
        while subprocess.run(["mariadb-admin", "--no-defaults", "--socket", self.socket, "-u", "root", "ping"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
            if time.time() > deadline or self.process.poll() is not None:
                raise RuntimeError((self.folder / "log.err").read_text(errors="replace")[-2000:])
            time.sleep(0.1)

    def stop(self, kill=False):
        """Stop the server, politely or not."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(30)

    def remove(self):
        """Stop it and delete its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self, sql, database=None):
        """Run SQL as root; returns what the client printed, tab-separated."""
        command = ["mariadb", "--no-defaults", "--socket", self.socket, "-u", "root", "--batch", "--raw"] + ([database] if database else [])
        done = subprocess.run(command, input=sql.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        return done.stdout.decode()

    def kill(self, user):
        """End all connections of a user."""
        for number in self.client("SELECT id FROM information_schema.processlist WHERE user = '%s'" % user).split()[1:]:
            self.client("KILL %s" % number)

    def load_schema(self, database="mail_tracking"):
        """Load schema.sql, into a database of this name, and make the tracker's user."""
        schema = (ROOT / "schema.sql").read_text(encoding="utf-8").replace("mail_tracking", database)
        self.client("DROP DATABASE IF EXISTS %s;\n%s" % (database, schema))
        self.client("CREATE USER IF NOT EXISTS mailtracker@localhost IDENTIFIED BY '%s';"
                    "GRANT INSERT, SELECT, UPDATE ON %s.* TO mailtracker@localhost;" % (PASSWORD.replace("'", "''"), database))


@contextlib.contextmanager
def running():
    """A server for as long as the context lasts."""
    server = MariaDB()
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.remove()
