"""A mail server of our own: Debian's Postfix, policyd-spf, opendkim, opendmarc, postsrsd, rsyslogd, in a folder and namespaces of its own.

Private namespaces hold the host name, /dev/log, the resolver's configuration and all processes: when the one process that keeps them
ends, everything in them ends with it. Addresses are those of a free network 127.x.y; no port is below 1024 but the name server's.
"""
import base64
import contextlib
import os
import pathlib
import random
import shutil
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time

import dkim
import dnslib
import dnslib.server
from aiosmtpd.controller import Controller

PACKAGES = {"postfix": "postfix", "policyd-spf": "postfix-policyd-spf-python", "opendkim": "opendkim", "opendmarc": "opendmarc",
            "postsrsd": "postsrsd", "rsyslogd": "rsyslog", "openssl": "openssl", "/usr/lib/python3/dist-packages/dns": "python3-dnspython"}
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
ENVIRONMENT = dict(os.environ, PATH=PATH, TZ="UTC", LC_ALL="C")
PORT, SRS_PORT, FILTERED_PORT = 2525, 2526, 2527

NAMESPACES = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc"]
# The first process of the namespaces. Once all is in its place, it lives until its standard input ends.
FIRST_PROCESS = """
hostname mx1
mount -t tmpfs none dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev
ln -s /proc/self/fd dev/fd
mkdir dev/shm
mount --move dev /dev
for file in resolv.conf hosts nsswitch.conf; do mount --bind "$file" "/etc/$file"; done
echo ready
read -r end || :
"""

FILES = {
    "resolv.conf": "nameserver %(name_server)s\noptions timeout:5 attempts:1\n",
    "hosts": "127.0.0.1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/main.cf": """
compatibility_level = 3.6
queue_directory = %(folder)s/queue
data_directory = %(folder)s/data
maillog_file = %(own_log)s
maillog_file_prefixes = %(folder)s
myhostname = mx1.relay.test
mydestination = $myhostname
inet_interfaces = loopback-only
smtp_bind_address = %(address)s
inet_protocols = ipv4
mynetworks = %(inside)s
relay_domains = ok.test, tls.test, refused.test, discard.test, srs.relay.test
relayhost = [mx.ok.test]:2500
transport_maps = inline:{ tls.test=smtp:[mx.tls.test]:2500, refused.test=smtp:[mx.refused.test]:2500, discard.test=discard: }
virtual_alias_domains = relay.test
virtual_alias_maps = inline:{ { team@relay.test = one@ok.test, two@ok.test } }
virtual_mailbox_domains = box.test
virtual_mailbox_base = %(folder)s/boxes
virtual_mailbox_maps = inline:{ home@box.test=home/ }
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
alias_maps = inline:{ forward=forwarded@ok.test, nothing=/dev/null }
local_recipient_maps = $alias_maps
header_checks = regexp:%(folder)s/etc/header_checks
smtpd_milters = inet:%(address)s:8891, inet:%(address)s:8893
smtpd_sender_restrictions = check_sender_access inline:{ { odd@good.test = HOLD odd sender } }
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_recipient_restrictions = permit_mynetworks, reject_unlisted_recipient, check_policy_service unix:private/policyd-spf,
 check_sender_access regexp:%(folder)s/etc/pauses, check_recipient_access inline:{ { unwanted@ok.test = REJECT not wanted } }
smtpd_tls_security_level = may
smtpd_tls_cert_file = %(folder)s/tls.pem
smtpd_tls_key_file = %(folder)s/tls.key
smtpd_tls_loglevel = 1
smtp_tls_security_level = may
smtp_tls_loglevel = 1
# Only a flush tries again, and no next hop is given up.
minimal_backoff_time = 1h
maximal_backoff_time = 1h
queue_run_delay = 1h
default_destination_concurrency_failed_cohort_limit = 0
""",
    "etc/header_checks": """
/^X-Test: hold/ HOLD test says so
/^X-Test: discard/ DISCARD test says so
/^X-Test: reject/ REJECT test says so
""",
    # After policyd-spf's line, time for another transaction of the client between it and client=; and, where two programs write the log,
    # for the line to get there first when nothing of the message comes later that names its sender.
    "etc/pauses": "/^(%(pauses)s)@/ sleep 1\n",
    "etc/services": """
%(address)s:2525 inet n - n - - smtpd
%(address)s:2526 inet n - n - - smtpd
  -o syslog_name=postfix/srs -o cleanup_service_name=srs-cleanup
%(address)s:2527 inet n - n - - smtpd
  -o syslog_name=postfix/filtered -o content_filter=filter:[%(address)s]:2528
%(address)s:2528 inet n - n - - smtpd
  -o syslog_name=postfix/reinject -o smtpd_milters= -o smtpd_authorized_xforward_hosts=%(address)s -o mynetworks=%(address)s
filter unix - - n - - smtp
  -o smtp_send_xforward_command=yes
srs-cleanup unix n - n - 0 cleanup
  -o sender_canonical_maps=tcp:%(address)s:10001 -o sender_canonical_classes=envelope_sender
  -o recipient_canonical_maps=tcp:%(address)s:10002 -o recipient_canonical_classes=envelope_recipient
policyd-spf unix - n n - 0 spawn
  user=nobody argv=%(policyd_spf)s %(folder)s/policyd-spf.conf
""",
    "rsyslogd.conf": """
global(workDirectory="%(folder)s")
module(load="imuxsock")
mail.* action(type="omfile" file="%(folder)s/mail.log" template="%(template)s")
""",
    "opendkim.conf": """
Syslog yes
SyslogSuccess yes
LogWhy yes
LogResults yes
Mode sv
Domain relay.test
Selector mail
KeyFile %(folder)s/dkim.key
RequireSafeKeys no
InternalHosts %(inside)s
Socket inet:8891@%(address)s
ResolverConfiguration %(folder)s/unbound.conf
""",
    "unbound.conf": """
server:
 do-not-query-localhost: no
 local-zone: "test." nodefault
forward-zone:
 name: "."
 forward-addr: %(name_server)s
""",
    "opendmarc.conf": """
Syslog true
AuthservID mx1.relay.test
RejectFailures true
HoldQuarantinedMessages true
Socket inet:8893@%(address)s
""",
    "policyd-spf.conf": """
debugLevel = 1
TestOnly = 1
HELO_reject = Fail
Mail_From_reject = Fail
PermError_reject = False
TempError_Defer = False
skip_addresses = 192.0.2.0/24
""",
    "postsrsd.secret": "not so secret\n",
}


def missing():
    """Why there can be no mail server here, or None."""
    packages = [package for name, package in PACKAGES.items() if not os.path.exists(shutil.which(name, path=PATH) or name)]
    if packages:
        return "not installed: " + ", ".join(packages)
    if os.getuid() != 0:
        return "Postfix is started by root only"
    if subprocess.run([*NAMESPACES, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        return "no private namespaces here"
    return None


class Zone(dnslib.server.BaseResolver):
    """All names there are: {name: [(type, value)]}. A value of None is a server that fails."""

    def __init__(self):
        self.records = {}

    def resolve(self, request, handler):
        """Answer a question."""
        reply, name, wanted = request.reply(), str(request.q.qname).rstrip(".").lower(), dnslib.QTYPE[request.q.qtype]
        for kind, value in self.records.get(name, ()):
            if kind == wanted and value is None:
                reply.header.rcode = dnslib.RCODE.SERVFAIL
            elif kind == wanted:
                reply.add_answer(dnslib.RR(name, request.q.qtype, ttl=60, rdata=getattr(dnslib, kind)(value)))
        if not any(known == name or known.endswith("." + name) for known in self.records):
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        return reply


class Sink:
    """The next hop. What it says to a recipient is in `answers`: a text always, a list in turn; else it takes the mail."""

    def __init__(self, address, answers, tls=None):
        self.answers = answers
        self.taken = []
        self.controller = Controller(self, hostname=address, port=2500, server_hostname="sink.test", tls_context=tls)

    def taken_for(self, recipient):
        """The envelope sender of the mail that this recipient got, or None while there is none."""
        return next((sender for sender, recipients, _ in self.taken if recipient in recipients), None)

    async def handle_RCPT(self, server, session, envelope, address, options):
        """Answer to a recipient."""
        answer = self.answers.get(address)
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else None
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 2.1.5 Ok"

    async def handle_DATA(self, server, session, envelope):
        """Take a message."""
        self.taken.append((envelope.mail_from, list(envelope.rcpt_tos), envelope.content))
        return "250 2.0.0 Ok: queued as 4F00061AE"


class Client(smtplib.SMTP):
    """An SMTP session of a sending host with an address of its own."""

    def __init__(self, server, port, address, helo, tls=False):
        super().__init__(server, port, helo, 60, (address, 0))
        self.ehlo()
        if tls:
            self.starttls(context=ssl._create_unverified_context())
            self.ehlo()

    def transact(self, sender, recipients, content):
        """One message. Returns the answers to its recipients, and to its content when one of them was accepted."""
        self.mail(sender)
        answers = [self.rcpt(recipient) for recipient in recipients]
        if any(code == 250 for code, _ in answers):
            answers.append(self.data(content))
        return ["%d %s" % (code, text.decode()) for code, text in answers]


class MailHost:
    """The mail server. All its programs write `log`: rsyslogd by a template of its own, Postfix through it or itself."""

    def __init__(self, template, own_log, pauses):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mrt-mail."))
        self.log = self.folder / "mail.log"
        self.template, self.own_log, self.pauses = template, own_log, pauses
        self.zone = Zone()
        self.net = self.first = None
        self.servers = []
        self.running = contextlib.ExitStack()

    def address(self, number):
        """An address of this host's network: it has number 1."""
        return "%s.%d" % (self.net, number)

    def start(self, answers):
        """Start everything; the next hop gives these answers."""
        self._start_name_server()
        self._make_keys()
        self._write_files()
        self.sink = self._start_sink(30, answers)
        self._start_sink(31, answers, self._tls())
        self._enter_namespaces()
        try:
            self._start_servers()
        except Exception as error:
            written = [path.read_text() for path in (self.log, self.folder / "servers.err") if path.exists()]
            raise RuntimeError("the mail server does not start:\n" + "\n".join(written)) from error

    def stop(self):
        """Stop everything; the files stay."""
        self.running.close()

    def remove(self):
        """Stop everything and leave nothing."""
        try:
            self.stop()
        finally:
            shutil.rmtree(str(self.folder))

    def run(self, program, *arguments, **options):
        """Run one of Postfix's commands to its end."""
        command = [program, "-C" if program == "sendmail" else "-c", str(self.folder / "etc"), *arguments]
        done = subprocess.run(self._inside(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=ENVIRONMENT,
                              timeout=60, **options)
        if done.returncode:
            raise RuntimeError("%s: %s" % (" ".join(command), done.stdout.decode()))

    def spawn(self, *command):
        """Start a server; it ends with the namespaces."""
        with open(str(self.folder / "servers.err"), "ab") as errors:
            server = subprocess.Popen(self._inside(*command), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=ENVIRONMENT)
        self.servers.append(server)

    def session(self, number, helo, port=PORT, tls=False):
        """An SMTP session of a client with this address of the network."""
        return Client(self.address(1), port, self.address(number), helo, tls)

    def sign(self, content, selector, domain):
        """A message with a DKIM signature."""
        key = (self.folder / "dkim.key").read_bytes()
        return dkim.sign(content, selector.encode(), domain.encode(), key, include_headers=[b"From"]) + content

    def public_key(self):
        """The DKIM record of the one key there is."""
        key = subprocess.run(["openssl", "rsa", "-in", str(self.folder / "dkim.key"), "-pubout", "-outform", "DER"], check=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        return "v=DKIM1; k=rsa; p=" + base64.b64encode(key).decode()

    def _start_servers(self):
        # Two programs that write one log: on a busy machine, too, rsyslogd is to be hardly later than postlogd.
        self.spawn("nice", "-n", "-20", "rsyslogd", "-n", "-f", self.folder / "rsyslogd.conf", "-i", self.folder / "rsyslogd.pid")
        wait(pathlib.Path("/proc/%d/root/dev/log" % self.first).exists)
        self.spawn("opendkim", "-f", "-x", self.folder / "opendkim.conf")
        self.spawn("opendmarc", "-f", "-c", self.folder / "opendmarc.conf")
        self.spawn("postsrsd", "-4", "-d", "srs.relay.test", "-s", self.folder / "postsrsd.secret", "-l", self.address(1))
        for port in (8891, 8893, 10001, 10002):
            wait(lambda port=port: self._listens(port))
        self.run("postfix", "start")
        self.running.callback(self.run, "postfix", "stop")

    def _inside(self, *command):
        return ["nsenter", "--target", str(self.first), "--mount", "--uts", "--pid", "--", *map(str, command)]

    def _start_name_server(self):
        silent = dnslib.server.DNSLogger(logf=lambda line: None)
        while self.net is None:
            net = "127.%d.%d" % (random.randrange(64, 128), random.randrange(256))
            with contextlib.suppress(OSError):          # somebody else's
                server = dnslib.server.DNSServer(self.zone, net + ".53", 53, logger=silent)
                self.net = net
        server.start_thread()
        self.running.callback(server.server.server_close)
        self.running.callback(server.stop)

    def _make_keys(self):
        for command in ("genrsa -traditional -out dkim.key 1024",
                        "req -x509 -newkey rsa:2048 -nodes -subj /CN=relay.test -keyout tls.key -out tls.pem"):
            subprocess.run(["openssl", *command.split()], check=True, cwd=str(self.folder), stderr=subprocess.DEVNULL)

    def _tls(self):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(str(self.folder / "tls.pem"), str(self.folder / "tls.key"))
        return context

    def _write_files(self):
        values = {"folder": self.folder, "address": self.address(1), "name_server": self.address(53), "inside": self.address(20),
                  "template": self.template, "own_log": self.log if self.own_log else "", "pauses": "|".join(self.pauses),
                  "policyd_spf": shutil.which("policyd-spf", path=PATH)}
        for name in ("etc", "queue", "data", "boxes", "dev"):
            (self.folder / name).mkdir()
        self.folder.chmod(0o755)
        for name, text in FILES.items():
            (self.folder / name).write_text(text % values, encoding="utf-8")
        shutil.chown(str(self.folder / "data"), "postfix")
        shutil.chown(str(self.folder / "boxes"), "nobody")
        services = pathlib.Path("/usr/share/postfix/master.cf.dist").read_text() + (self.folder / "etc" / "services").read_text()
        (self.folder / "etc" / "master.cf").write_text(services)
        for change in (["-MX", "smtp/inet"], ["-F", "*/*/chroot=n", "pickup/unix/wakeup=1"]):
            subprocess.run(["postconf", "-c", str(self.folder / "etc"), *change], check=True, env=ENVIRONMENT)

    def _start_sink(self, number, answers, tls=None):
        sink = Sink(self.address(number), answers, tls)
        sink.controller.start()
        self.running.callback(sink.controller.stop)
        return sink

    def _enter_namespaces(self):
        holder = subprocess.Popen([*NAMESPACES, "sh", "-e", "-c", FIRST_PROCESS], cwd=str(self.folder), env=ENVIRONMENT,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.running.callback(self._leave_namespaces, holder)
        if holder.stdout.readline() != b"ready\n":
            raise RuntimeError("the namespaces could not be made")
        self.first = int(pathlib.Path("/proc/%d/task/%d/children" % (holder.pid, holder.pid)).read_text().split()[0])

    def _leave_namespaces(self, holder):
        holder.communicate()
        for server in self.servers:
            server.wait()

    def _listens(self, port):
        with contextlib.suppress(OSError), socket.create_connection((self.address(1), port), 1):
            return True
        return False


def wait(condition, seconds=60):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("waited in vain")
        time.sleep(0.05)
