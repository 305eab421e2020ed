"""Three real Galera nodes, the daemon on one of them, a log that goes on: nodes die, refuse, hang and come back; each row arrives once."""
import concurrent.futures
import contextlib
import glob
import itertools
import operator
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import load
import mariadb as mariadb_server
import mysql.connector
import pytest
from test_corpus import rows_of
from test_follow import Live

import mail_relay_tracker as tracker

pytestmark = pytest.mark.skipif(mariadb_server.MYSQLD is not None, reason="nodes of MariaDB")
RATE = 120                          # messages per second
SEED = int(os.environ.get("GALERA_SEED", "1"))
LONG = 90                           # seconds to wait for what takes ten on an idle machine
LIBRARY = "/usr/lib*/galera*/libgalera_smm.so"
STARTED = itertools.count(SEED)


def free_ports(count):
    """Ports below those that the kernel gives to outgoing connections, so that they stay free while a node is down."""
    found = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


class Node(mariadb_server.MariaDB):
    """One node: a server that belongs to a cluster. It listens on loopback."""

    def __init__(self, port, group, transfers, members):
        found = glob.glob(LIBRARY)
        assert found, "%s is missing: tests/run installs it" % LIBRARY
        super().__init__([
            "--skip-networking=OFF", "--bind-address=127.0.0.1", "--port=%d" % port, "--innodb-log-file-size=16M",
            "--binlog-format=ROW", "--innodb-autoinc-lock-mode=2", "--wsrep-on=ON", "--wsrep-provider=" + found[0],
            "--wsrep-cluster-name=tracker", "--wsrep-cluster-address=gcomm://" + ",".join("127.0.0.1:%d" % member for member in members),
            "--wsrep-node-address=127.0.0.1:%d" % group, "--wsrep-sst-method=rsync",
            "--wsrep-sst-receive-address=127.0.0.1:%d" % transfers[0],
            "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:%d;ist.recv_addr=127.0.0.1:%d;gcache.size=32M;pc.recovery=no"
            % (group, transfers[1])])
        self.port = port

    def start(self, *options):
        """Start the server from where it stood, as the service of MariaDB's packages does; the first time from nothing."""
        super().start(*options, *(["--wsrep-start-position=" + self.position()] if self.saved().exists() else []))

    def saved(self):
        """Where the node keeps what it knows of the cluster."""
        return self.folder / "data" / "grastate.dat"

    def position(self):
        """`cluster:number` of the last transaction of a server that is down, even of one that was killed."""
        log = self.folder / "recovered.err"
        subprocess.run(self.command("--wsrep-recover", "--log-error=%s" % log), env=self.environment, check=True, stderr=subprocess.DEVNULL)
        return re.findall(r"Recovered position: (\S+)", log.read_text(errors="replace"))[-1]

    def alive(self):
        """Whether the server runs."""
        return self.process is not None and self.process.poll() is None

    def state(self):
        """What the node says of itself, and of how many nodes its part of the cluster is."""
        said = dict(line.split("\t", 1) for line in self.client("SHOW STATUS LIKE 'wsrep%'").splitlines())
        return "%s of %s" % (said["wsrep_local_state_comment"], said["wsrep_cluster_size"])

    def count(self, database):
        """Rows of the table, as this node sees it; None when it does not say."""
        try:
            return int(self.client("SELECT COUNT(*) FROM mail_relay_log", database).split()[-1])
        except RuntimeError:
            return None

    def refuses(self, database):
        """The error number of a statement on a connection that was made without one; 0 when the statement works."""
        with contextlib.closing(self.connect()) as connection:
            try:
                connection.cmd_query("SELECT COUNT(*) FROM %s.mail_relay_log" % database)
                return 0 if connection.get_rows() else None
            except mysql.connector.Error as error:
                return error.errno

    def connect(self, **account):
        """A connection, as root if not told otherwise."""
        return mysql.connector.connect(unix_socket=self.socket, use_pure=True, autocommit=True, **(account or {"user": "root"}))

    def session(self, number, **account):
        """A connection of this number, or a higher one when that is too late."""
        while True:
            connection = self.connect(**account)
            if connection.connection_id >= number:
                return connection
            connection.close()

    @contextlib.contextmanager
    def writes_hang(self):
        """Statements that write do not return here, as on a node that is being copied; reading works, the other nodes go on."""
        with contextlib.closing(self.connect()) as connection:
            connection.cmd_query("FLUSH TABLES WITH READ LOCK")
            yield
            connection.cmd_query("UNLOCK TABLES")

    @contextlib.contextmanager
    def unheard(self):
        """The other nodes do not hear it, nor it them; clients do."""
        self.client("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")
        try:
            yield
        finally:
            self.client("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")

    def remove(self):
        """Leave nothing: neither the server, stuck or not, nor what it started to copy data, nor files."""
        self.stop(kill=True)
        for number in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                with open("/proc/%s/cmdline" % number, "rb") as handle:
                    ours = str(self.folder).encode() in handle.read()
                if ours:
                    os.kill(int(number), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """Three nodes."""

    def __init__(self):
        self.nodes = []

    def create(self):
        """Make the first node and let the others copy it."""
        ports = free_ports(12)
        self.nodes = [Node(ports[place], ports[3 + place], ports[6 + 2 * place:8 + 2 * place], ports[3:6]) for place in range(3)]
        self.together(Node.create)
        self.nodes[0].start("--wsrep-new-cluster")
        for node in self.nodes[1:]:
            node.start()
        self.heal()

    def together(self, act):
        """Do something with all nodes at the same time."""
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            return list(pool.map(act, self.nodes))

    def heal(self):
        """Start what is down, and wait until all is well. Of a whole cluster that is down the most advanced node begins."""
        if not any(node.alive() for node in self.nodes):
            reached = [int(position.rpartition(":")[2]) for position in self.together(Node.position)]
            first = self.nodes[reached.index(max(reached))]
            first.saved().write_text(first.saved().read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
            first.start("--wsrep-new-cluster")
        self.together(lambda node: node.alive() or node.start())
        Live.wait(lambda: [node.state() for node in self.nodes] == ["Synced of 3"] * 3, LONG)

    def renew(self):
        """Heal, or begin anew when a test left something beyond help."""
        try:
            self.heal()
        except (AssertionError, RuntimeError) as error:
            print("begun anew:", error)
            self.remove()
            self.create()

    def load_schema(self, database):
        """Make the database and the tracker's user, whatever name the machine gives to 127.0.0.1."""
        self.nodes[0].load_schema(database)
        self.nodes[0].client("CREATE OR REPLACE USER mailtracker@'127.0.0.1' IDENTIFIED BY '%s'; GRANT INSERT, SELECT, UPDATE ON %s.* TO "
                             "mailtracker@'127.0.0.1';" % (mariadb_server.PASSWORD.replace("'", "''"), database))

    def remove(self):
        """Leave nothing."""
        for node in self.nodes:
            node.remove()


class Daemon(Live):
    """The daemon with the nodes as its hosts; what it says is known while it runs."""

    def __init__(self, command, nodes, database, log, **settings):
        super().__init__(command, database__engine="mysql", database__host=", ".join("127.0.0.1:%d" % node.port for node in nodes),
                         database__database=database, database__password=mariadb_server.PASSWORD, database__connect_timeout="3",
                         logging__log_file=log, logging__queue_timeout="2", **settings)
        self.nodes, self.log = nodes, log
        self.listener = None

    def start(self, name="tracker.conf"):
        self.daemon = self.command.start("-c", self.command.configure(name, **self.settings), "-v")
        self.listener = threading.Thread(target=self.listen, args=(self.daemon.stderr,))
        self.listener.start()

    def listen(self, pipe):
        for line in pipe:
            self.said += line.decode()

    def stop(self, number=signal.SIGTERM):
        if self.daemon is None:
            return None
        daemon, self.daemon = self.daemon, None
        daemon.send_signal(number)
        try:
            return daemon.wait(10)
        finally:
            daemon.kill()
            self.listener.join()
            daemon.communicate()

    def named(self, text):
        """The nodes that it named with these words, in turn, for each of its lives."""
        lives = self.said.split("INFO: following ")[1:]
        place = {str(node.port): number for number, node in enumerate(self.nodes)}
        return [[place[port] for port in re.findall(text % r"database \w+ on 127\.0\.0\.1:(\d+)", life)] for life in lives]

    def connected(self):
        """The nodes that it was connected to: those of one life in a list."""
        return self.named("INFO: connected to %s\n")

    def moved(self):
        """The nodes that it went to from another one, as it said without being asked for details."""
        return self.named("WARNING: %s is used now instead of")

    def busy_at(self, node):
        """Whether it waits for a statement on this node."""
        return bool(re.search(r"\tmailtracker\t.*\tQuery\t", node.client("SHOW PROCESSLIST")))

    def pauses(self):
        """How often it said that reading pauses."""
        return self.said.count("reading pauses")


def differences(expected, found):
    """What two tables differ in: rows that one of them lacks, or the columns, of the first few."""
    key = operator.attrgetter(*tracker.KEY)
    wanted, there = {key(row): row for row in expected}, {key(row): row for row in found}
    lines = ["%d rows instead of %d" % (len(found), len(expected))] if len(found) != len(expected) else []
    lines += ["missing: %r" % (one,) for one in sorted(set(wanted) - set(there))]
    lines += ["surplus: %r" % (one,) for one in sorted(set(there) - set(wanted))]
    lines += ["%r: %s is %r instead of %r" % (one, name, getattr(there[one], name), getattr(wanted[one], name))
              for one in sorted(set(wanted) & set(there)) for name in tracker.ROW_COLUMNS
              if getattr(there[one], name) != getattr(wanted[one], name)]
    return lines[:10]


class Life:
    """A daemon, the log that a writer of whole stories appends to, and a database of its own in the cluster."""

    def __init__(self, command, cluster):
        self.command, self.cluster, self.nodes, self.log = command, cluster, cluster.nodes, command.folder / "mail.log"
        self.seed = next(STARTED)
        self.database = "galera_%d" % self.seed
        self.cluster.load_schema(self.database)
        self.daemon = Daemon(command, self.nodes, self.database, self.log)
        self.writer = None

    def begin(self):
        """Write and follow, until rows arrive."""
        print("seed", self.seed)
        self.writer = load.Writer(self.log, RATE, self.seed)
        self.daemon.wait(self.log.exists)
        self.daemon.start()
        self.flows(self.nodes[0])

    def flows(self, node, rows=2 * RATE):
        """Wait until a node tells how many rows it has, and then until many more have arrived there."""
        self.daemon.wait(lambda: node.count(self.database) is not None, LONG)
        before = node.count(self.database) or 0
        self.daemon.wait(lambda: (node.count(self.database) or 0) > before + rows, LONG)

    def number_still_to_come_on(self, node):
        """Start the daemon again, so that its session on the first node has a number higher than any on this node; that number."""
        assert self.daemon.stop() == 0
        with contextlib.closing(node.connect()) as last:
            self.nodes[0].session(last.connection_id + 50).close()
        self.daemon.start()
        self.flows(self.nodes[0])
        return int(self.nodes[0].client("SELECT id FROM information_schema.processlist WHERE user = 'mailtracker'").split()[-1])

    def pauses(self):
        """Wait until the daemon says that it waits for the database."""
        self.daemon.wait(self.daemon.pauses, LONG)

    def pauses_without_quorum(self, node):
        """The same, and until this node takes connections, but no statements."""
        self.pauses()
        self.daemon.wait(lambda: node.refuses(self.database) == 1047, LONG)

    def undisturbed(self):
        """What an import of the same log makes of it."""
        path = self.command.configure("undisturbed.conf", database__engine="sqlite", database__database=self.command.folder / "t.db")
        done = self.command.run("-c", path, "--import", self.log)
        assert done.returncode == 0 and " 0 unsupported, 0 failed" in done.stdout, done.stdout + done.stderr
        return sorted(rows_of(tracker.SqliteStore(str(self.command.folder / "t.db"))), key=repr)

    def table(self, node):
        """All rows of a node."""
        path = self.command.configure("node.conf", database__host="127.0.0.1:%d" % node.port, database__database=self.database,
                                      database__password=mariadb_server.PASSWORD)
        return sorted(rows_of(tracker.make_store(tracker.load_config(path))), key=repr)

    def ends_well(self, *nodes):
        """Let the stories come to their end; then each of these nodes has what an undisturbed import has, neither less nor more.

        And the daemon has said each change of host once.
        """
        if self.writer is not None:
            print(self.writer.stop())
            self.writer = None
        expected = self.undisturbed()
        assert len(expected) > 4 * RATE
        for node in nodes:
            with contextlib.suppress(AssertionError):
                self.daemon.wait(lambda node=node: node.count(self.database) == len(expected) and self.table(node) == expected, LONG)
            assert not differences(expected, self.table(node))
        assert self.daemon.moved() == [[new for old, new in zip(one, one[1:]) if new != old] for one in self.daemon.connected()]
        print("%d rows equal on %d nodes" % (len(expected), len(nodes)))

    def remove(self):
        """Leave nothing running."""
        self.daemon.stop(signal.SIGKILL)
        if self.writer is not None:
            self.writer.process.kill()
            self.writer.process.communicate()


@pytest.fixture(scope="module")
def three():
    """The three nodes."""
    cluster = Cluster()
    try:
        cluster.create()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def life(three, command):
    """A life, begun on the first of three sound nodes."""
    three.renew()
    found = Life(command, three)
    try:
        found.begin()
        yield found
    finally:
        found.remove()
        print(found.daemon.said)


def test_T13_the_node_written_to_is_killed_and_the_next_takes_over(life):
    first, second, third = life.nodes
    first.stop(kill=True)
    life.flows(second)
    life.ends_well(second, third)
    life.cluster.heal()
    life.ends_well(first)
    assert life.daemon.stop() == 0
    assert life.daemon.connected() == [[0, 1]] and life.daemon.pauses() <= 1


def test_T13_the_node_in_use_is_shut_down_gracefully_and_a_session_of_its_number_on_the_next_is_left_alone(life):
    first, second, third = life.nodes
    number = life.number_still_to_come_on(second)
    with contextlib.closing(second.session(number, user="mailtracker", password=mariadb_server.PASSWORD)) as stranger:
        assert stranger.connection_id == number
        subprocess.run(["mariadb-admin", "--no-defaults", "--socket", first.socket, "-u", "root", "shutdown"], check=True)
        life.flows(second)
        assert stranger.is_connected()
    life.ends_well(second, third)
    assert life.daemon.stop() == 0
    assert life.daemon.connected() == [[0], [0, 1]] and life.daemon.pauses() <= 1


def test_T13_rows_wait_while_the_quorum_is_lost_until_it_is_restored_by_hand(life):
    first, second, third = life.nodes
    for node in (second, third):
        node.stop(kill=True)
    life.pauses_without_quorum(first)
    assert life.daemon.stop() == 0
    life.daemon.start()
    first.client("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
    life.flows(first)
    life.ends_well(first)
    assert life.daemon.pauses() <= 2


def test_T13_rows_wait_while_the_quorum_is_lost_until_the_others_are_heard_again(life):
    first, second, third = life.nodes
    with second.unheard(), third.unheard():
        life.pauses_without_quorum(first)
        assert life.daemon.stop() == 0
        life.daemon.start()
    life.flows(first)
    life.cluster.heal()
    life.ends_well(*life.nodes)
    assert life.daemon.pauses() <= 2


def test_T13_a_node_that_accepts_connections_and_refuses_statements_is_left_for_a_sound_one(life):
    first, second, third = life.nodes
    with first.unheard():
        life.flows(second)
        assert first.refuses(life.database) == 1047
        assert life.daemon.stop() == 0
        life.daemon.start()
        life.flows(second)
        assert life.daemon.connected() == [[0, 1], [1]]
        life.ends_well(second, third)
    life.cluster.heal()
    life.ends_well(first)


def test_T13_T19_a_node_where_writes_hang_is_left_for_a_sound_one_and_a_stop_does_not_wait_for_it(life):
    first, second, third = life.nodes
    with first.writes_hang():
        life.daemon.wait(lambda: life.daemon.busy_at(first), LONG)
        assert life.daemon.stop() == 0
        life.daemon.start()
        life.flows(second)
    life.ends_well(*life.nodes)
    assert life.daemon.connected() == [[0], [0, 1]]


def test_T13_all_nodes_go_down_and_come_back(life):
    life.cluster.together(lambda node: node.stop(kill=True))
    life.pauses()
    life.cluster.heal()
    life.flows(life.nodes[0])
    life.ends_well(*life.nodes)
    assert life.daemon.pauses() == 1


def test_T2_what_the_dead_node_had_committed_is_known_at_a_node_that_lags(life):
    first, second, third = life.nodes
    with second.writes_hang():
        life.flows(first, 5 * RATE)
        first.stop(kill=True)
        life.daemon.wait(lambda: life.daemon.busy_at(second), LONG)
        time.sleep(1)
    life.flows(second)
    life.ends_well(second, third)


def clash(life, other):
    """Let the daemon get stuck in the middle of a batch at the first node, while another one's batch of the same rows comes in.

    Whether it has lost one.
    """
    with contextlib.closing(life.nodes[0].connect()) as connection, contextlib.suppress(mysql.connector.Error):
        other.send_signal(signal.SIGSTOP)
        try:
            connection.start_transaction()
            connection.cmd_query("SELECT COUNT(*) FROM %s.mail_relay_log WHERE relay_status = 'deferred' FOR UPDATE" % life.database)
            connection.get_rows()
            time.sleep(1.5)
        finally:
            other.send_signal(signal.SIGCONT)
        life.flows(life.nodes[1], RATE)
    return " 1213 " in life.daemon.said


def test_T13_two_clients_on_two_nodes_write_the_same_rows(life):
    first, second, third = life.nodes
    for node in life.nodes:
        node.client("SET GLOBAL wsrep_retry_autocommit = 0")
    other = Daemon(life.command, [second], life.database, life.log, state__state_file=life.command.folder / "other.json")
    other.start("other.conf")
    try:
        life.daemon.wait(lambda: clash(life, other.daemon), LONG)
        life.ends_well(*life.nodes)
        assert life.daemon.stop() == other.stop() == 0
        assert set(life.daemon.connected()[0]) == {0} and life.daemon.moved() == [[]]
    finally:
        other.stop(signal.SIGKILL)
        print(other.said)
        for node in life.nodes:
            node.client("SET GLOBAL wsrep_retry_autocommit = DEFAULT")
