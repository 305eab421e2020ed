"""A real mail server and the daemon: mail is sent by SMTP, the log followed into MariaDB, every row held against what was sent."""
import contextlib
import itertools
import os
import re
import signal
import time

import mariadb as mariadb_server
import postfix
import pytest
from conftest import Command
from test_corpus import rows_of
from test_follow import Live

import mail_relay_tracker as tracker

REASON = postfix.missing()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

GOOD, STRANGER, VISITOR, INSIDE = (10, "mail.good.test"), (11, "mail.stranger.test"), (12, "mail.visitor.test"), (20, "app.relay.test")
HOP = re.compile(r"\bby mx1\.relay\.test \(Postfix.*?\)\s+(?:with \w+ )?id (\w+)")
OVERLAPPING = ["slow", "slower"]
EARLY = ["reset", "broken", "unwanted"]             # over before anything else tells their sender
SETTLED = 40                # seconds
MEASURED = {"queue_id", "first_seen", "last_seen", "size", "delay", "delays"}


def answers():
    """What the next hop says to recipients that it does not take, or not at once."""
    return {"gone@ok.test": "550 5.1.1 No such user", "later@ok.test": ["451 4.7.1 Greylisted, try again"],
            "patient@ok.test": "452 4.2.2 Mailbox full", "forced@ok.test": "450 4.2.0 Try again later"}


def zone(host):
    """The DNS of senders and next hops."""
    def at(number):
        return [("A", host.address(number))]

    def text(value):
        return [("TXT", value)]
    reverse = ".".join(reversed(host.net.split("."))) + ".in-addr.arpa"
    return {
        "mail.good.test": at(10), "app.relay.test": at(20), "mx.ok.test": at(30), "mx.tls.test": at(31), "mx.refused.test": at(32),
        "10." + reverse: [("PTR", "mail.good.test")], "20." + reverse: [("PTR", "app.relay.test")],
        "good.test": text("v=spf1 ip4:%s -all" % host.address(10)), "soft.test": text("v=spf1 ~all"), "neutral.test": text("v=spf1 ?all"),
        "nospf.test": at(11), "perm.test": text("v=spf1 include:"), "temp.test": text(None), "fail.test": text("v=spf1 -all"),
        "s1._domainkey.good.test": text(host.public_key()), "revoked._domainkey.good.test": text("v=DKIM1; k=rsa; p="),
        "_dmarc.good.test": text("v=DMARC1; p=none"), "_dmarc.strict.test": text("v=DMARC1; p=reject"), "strict.test": at(11),
        "_dmarc.careful.test": text("v=DMARC1; p=quarantine"), "careful.test": at(11), "relay.test": at(1), "elsewhere.test": at(33),
    }


def content(name, domain, *headers):
    """A small message."""
    lines = ["From: <%s@%s>" % (name, domain), "To: <you@ok.test>", "Subject: " + name, "Message-ID: <%s@lab.test>" % name,
             "Date: Sun, 22 Nov 2026 12:00:00 +0000", *headers, "", "Hello.", ""]
    return "\r\n".join(lines).encode()


class Scenes:
    """What is sent. `ids` are the queue IDs as the senders were told, `answers` all that they were told."""

    def __init__(self, host):
        self.host = host
        self.ids, self.answers = {}, {}

    def send(self, name, domain, recipients, client=GOOD, data=None, **how):
        """Send a message from name@domain."""
        with self.host.session(*client, **how) as smtp:
            self.told(name, smtp.transact("%s@%s" % (name, domain), recipients, data or content(name, domain)))

    def told(self, name, answers):
        """Keep what a sender was told."""
        self.answers[name] = answers
        if " queued as " in answers[-1]:
            self.ids[answers[-1].rpartition(" ")[2]] = name

    def play(self):
        """Everything that is sent from outside, and by sendmail(1)."""
        self.authenticated()
        self.refused()
        self.held_or_discarded()
        self.undelivered()
        self.expanded()
        self.unfinished()
        self.rewritten()
        self.host.run("sendmail", "-f", "local@relay.test", "local@ok.test", input=content("local", "relay.test"))
        self.host.run("sendmail", "-bv", "-f", "probe@good.test", "probed@ok.test", input=b"")

    def authenticated(self):
        """SPF, DKIM and DMARC, good and bad."""
        signed = self.host.sign(content("signed", "good.test"), "s1", "good.test")
        self.send("signed", "good.test", ["signed@tls.test"], data=signed, tls=True)
        altered = self.host.sign(content("altered", "good.test"), "s1", "good.test").replace(b"Hello", b"Hullo")
        self.send("altered", "good.test", ["altered@ok.test"], data=altered)
        for selector in ("nosuch", "revoked"):
            self.send(selector, "good.test", ["%s@ok.test" % selector],
                      data=self.host.sign(content(selector, "good.test"), selector, "good.test"))
        self.send("outgoing", "relay.test", ["outgoing@ok.test"], INSIDE)
        for name in ("soft", "neutral", "nospf", "perm", "temp"):
            self.send(name, name + ".test", [name + "@ok.test"], STRANGER)

    def refused(self):
        """Refused before the queue, within a message, after the data."""
        self.send("fail", "fail.test", ["fail@ok.test"], STRANGER)
        self.send("outside", "good.test", ["outside@elsewhere.test"])
        self.send("ghost", "good.test", ["ghost@mx1.relay.test"])
        self.send("unwanted", "good.test", ["unwanted@ok.test"])
        self.send("mixed", "good.test", ["ghost1@mx1.relay.test", "mixed@ok.test", "ghost2@mx1.relay.test"])
        self.send("strict", "nospf.test", ["strict@ok.test"], STRANGER, data=content("strict", "strict.test"))
        self.send("reject", "good.test", ["reject@ok.test"], data=content("reject", "good.test", "X-Test: reject"))

    def held_or_discarded(self):
        """Held by header check, access table and opendmarc; discarded by header check and transport."""
        for name in ("hold", "drop", "discard"):
            action = "discard" if name == "discard" else "hold"
            self.send(name, "good.test", [name + "@ok.test"], data=content(name, "good.test", "X-Test: " + action))
        self.send("odd", "good.test", ["odd@ok.test"])
        self.send("careful", "nospf.test", ["careful@ok.test"], STRANGER, data=content("careful", "careful.test"))
        self.send("thrown", "good.test", ["thrown@discard.test"])

    def undelivered(self):
        """Bounced, and deferred for the time being."""
        self.send("bounced", "good.test", ["gone@ok.test"])
        self.send("later", "good.test", ["later@ok.test"])
        self.send("patient", "good.test", ["quick@ok.test", "patient@ok.test"])
        self.send("forced", "good.test", ["forced@ok.test"])
        self.send("unreachable", "good.test", ["unreachable@refused.test"])

    def expanded(self):
        """Aliases and mailboxes of this host."""
        self.send("team", "good.test", ["team@relay.test"])
        self.send("forward", "good.test", ["forward@mx1.relay.test"])
        self.send("nothing", "good.test", ["nothing@mx1.relay.test"])
        self.send("home", "good.test", ["home@box.test"])

    def unfinished(self):
        """A transaction that is reset, between two that are not; one that breaks off; two at the same time."""
        with self.host.session(*GOOD) as smtp:
            self.told("first", smtp.transact("first@good.test", ["first@ok.test"], content("first", "good.test")))
            smtp.mail("reset@good.test")
            smtp.rcpt("reset@ok.test")
            smtp.rset()
            self.told("second", smtp.transact("second@good.test", ["second@ok.test"], content("second", "good.test")))
        with contextlib.closing(self.host.session(*VISITOR)) as smtp:
            smtp.mail("broken@soft.test")
            smtp.rcpt("broken@ok.test")
        with self.host.session(*STRANGER) as one, self.host.session(*STRANGER) as other:
            for smtp, sender in ((one, "slow@soft.test"), (other, "slower@neutral.test")):
                smtp.mail(sender)
                smtp.putcmd("RCPT TO:<%s>" % sender.replace("soft", "ok").replace("neutral", "ok"))
            for smtp, name, domain in ((one, "slow", "soft.test"), (other, "slower", "neutral.test")):
                self.told(name, ["%d %s" % (code, text.decode()) for code, text in (smtp.getreply(), smtp.data(content(name, domain)))])

    def rewritten(self):
        """Through a content filter; forwarded with a sender by SRS, to which a stranger's bounce returns."""
        self.send("filtered", "good.test", ["filtered@ok.test"], port=postfix.FILTERED_PORT)
        self.send("srs", "good.test", ["srs@ok.test"], port=postfix.SRS_PORT)
        Live.wait(lambda: self.host.sink.taken_for("srs@ok.test"))
        with self.host.session(*STRANGER, port=postfix.SRS_PORT) as smtp:
            self.told("returned", smtp.transact("", [self.host.sink.taken_for("srs@ok.test")], content("returned", "nospf.test")))

    def work_on_the_queue(self):
        """What an administrator, and time, do to mail that waits."""
        ids = {name: queue_id for queue_id, name in self.ids.items()}
        for option, name in (("-H", "hold"), ("-H", "careful"), ("-d", "drop"), ("-r", "odd"), ("-e", "forced")):
            self.host.run("postsuper", option, ids[name])
        self.host.run("postconf", "-e", "maximal_queue_lifetime=1s")
        self.host.run("postfix", "reload")

    def name_the_rest(self):
        """Name the queue IDs that no sender was told, by the headers of the mail that reached the next hop."""
        for sender, recipients, data in self.host.sink.taken:
            text = data.decode()
            hops = HOP.findall(text.partition("\r\n\r\n")[0])
            report = re.search(r"^X-Postfix-Queue-ID: (\w+)", text, re.M)
            if report:
                self.ids.setdefault(hops[0], "report on " + self.ids.setdefault(report.group(1), local_part(recipients[0])))
            else:
                self.ids.setdefault(hops[0], "next leg of " + self.ids[hops[1]] if len(hops) > 1 else local_part(sender))

    def visible(self, rows):
        """Rows by message, each as {column: value} of what is certain beforehand, with names for queue IDs and 192.0.2 for the network."""
        self.name_the_rest()
        found = {}
        for one in rows:
            told = self.ids.get(one.queue_id)
            kind = "NOQUEUE " if one.queue_id.startswith("NOQUEUE-") else "untold "
            found.setdefault(told or kind + local_part(one.envelope_from or ""), []).append({
                column: self.masked(value) for column, value in one._asdict().items() if value is not None and column not in MEASURED})
        return found

    def masked(self, value):
        """A value with names for what chance decides."""
        if not isinstance(value, str):
            return value
        if value == self.host.sink.taken_for("srs@ok.test"):
            return "SRS"
        value = re.sub(r"\w{6,}", lambda word: self.ids.get(word.group(), word.group()), value.replace(self.host.net, "192.0.2"))
        return re.sub(r"^\d{14}\..*@", "generated@", value)


def local_part(address):
    """What stands before the at sign."""
    return address.partition("@")[0]


def row(*parts, **columns):
    """The columns of a row that are not NULL."""
    found = {"server_hostname": "mx1", "recipient_no": 0}
    for part in (*parts, columns):
        found.update(part)
    return {column: value for column, value in found.items() if value is not None}


def sender(name, domain):
    """Client and sender, as a message and a refusal bear them."""
    helo, number = (GOOD if domain == "good.test" else STRANGER)[::-1]
    hostname = helo if domain == "good.test" else "unknown"
    address = "%s@%s" % (name, domain)
    return {"client_hostname": hostname, "client_ip": "192.0.2.%d" % number, "envelope_from": address, "original_envelope_from": address}


def accepted(name, domain="good.test"):
    """A message that came into the queue, with nothing particular about it."""
    good = domain == "good.test"
    return dict(sender(name, domain), message_id=name + "@lab.test", nrcpt=1, spf_result="Pass" if good else "None", dkim_result="none",
                dkim_signatures=0, dmarc_result="pass" if good else "none", dmarc_domain=domain)


def to(recipient, status, said=None):
    """A recipient and what became of the mail to it; an SMTP answer tells its codes."""
    found = {"orig_to": recipient, "upstream_to": recipient, "relay_status": status, "relay_message": said}
    answer = re.search(r"(?:^|said: )(\d{3}) (\d\.\d+\.\d+) ", said or "")
    return dict(found, smtp_code=int(answer.group(1)), dsn=answer.group(2)) if answer else found


def by(host, number, port=2500):
    """The next hop."""
    return {"relay_host": host, "relay_ip": "192.0.2.%d" % number, "relay_port": port}


OK = by("mx.ok.test", 30)


def sent(recipient):
    """Taken by the usual next hop."""
    return dict(to(recipient, "sent", "250 2.0.0 Ok: queued as 4F00061AE"), **OK, next_queue_id="4F00061AE")


def at_rcpt(said):
    """What the usual next hop answered to a recipient, in Postfix's words."""
    return "host mx.ok.test[192.0.2.30] said: %s (in reply to RCPT TO command)" % said


def refused(recipient, said):
    """Refused by smtpd."""
    return dict(to(recipient, "rejected", said), upstream_to=None, protocol="ESMTP")


def stopped(recipient, status, reason):
    """Refused, held or discarded by a header check or a milter, which smtpd's part of the session told the HELO of."""
    action = {"rejected": "reject", "held": "hold", "discarded": "discard"}[status]
    return dict(to(recipient, status, reason), upstream_to=None, protocol="ESMTP", nrcpt=None, milter_action=action, milter_reason=reason)


def report_on(name, recipient):
    """Postfix's report to a sender."""
    return [row(sent(recipient), message_id="generated@mx1.relay.test", nrcpt=1, envelope_from="", original_envelope_from="",
                parent_queue_id=name)]


TLS = "TLSv1.3 TLS_AES_256_GCM_SHA384"
HELO = {"helo": "mail.good.test", "protocol": "ESMTP"}
STRANGERS_HELO = {"helo": "mail.stranger.test", "protocol": "ESMTP"}
SIGNED = {"dkim_signatures": 1, "dkim_domain": "good.test", "dkim_selector": "s1", "dkim_algorithm": "rsa-sha256"}
UNCHECKED = {"dkim_result": None, "dkim_signatures": None, "dmarc_result": None, "dmarc_domain": None}
LOCAL = {"relay_host": "local", "dsn": "2.0.0"}
SPF_FAIL = ("550 5.7.23 <fail@ok.test>: Recipient address rejected: Message rejected due to: SPF fail - not authorized. "
            "Please see http://www.openspf.net/Why?s=mfrom;id=fail@fail.test;ip=192.0.2.11;r=ok.test")
DMARC_REJECT, QUARANTINE = "5.7.1 rejected by DMARC policy for strict.test", "milter triggers HOLD action"
ODD = "<odd@good.test>: Sender address odd sender"
REFUSED = "connect to mx.refused.test[192.0.2.32]:2500: Connection refused"


def ghost(number):
    """What smtpd says to a recipient that is none."""
    return "550 5.1.1 <ghost%s@mx1.relay.test>: Recipient address rejected: User unknown in local recipient table" % number


# What the table is to hold, by scene and message: "report on" and "next leg of" another one are messages of Postfix's own, "NOQUEUE" are
# refusals before the queue, "untold" are messages whose queue ID no sender heard of.
TABLE = {
    "authenticated": {
        "signed": [row(accepted("signed"), SIGNED, sent("signed@tls.test"), by("mx.tls.test", 31), dkim_result="pass", client_tls=TLS,
                       relay_tls=TLS)],
        "altered": [row(accepted("altered"), SIGNED, sent("altered@ok.test"), dkim_result="fail")],
        "nosuch": [row(accepted("nosuch"), SIGNED, sent("nosuch@ok.test"), dkim_result="permerror", dkim_selector="nosuch",
                       dkim_algorithm=None)],
        "revoked": [row(accepted("revoked"), SIGNED, sent("revoked@ok.test"), dkim_result="permerror", dkim_selector="revoked")],
        "outgoing": [row(accepted("outgoing", "relay.test"), sent("outgoing@ok.test"), client_hostname="app.relay.test",
                         client_ip="192.0.2.20", spf_result=None, dkim_result="signed", dkim_signatures=None, dkim_domain="relay.test",
                         dkim_selector="mail")],
        "soft": [row(accepted("soft", "soft.test"), sent("soft@ok.test"), spf_result="Softfail")],
        "neutral": [row(accepted("neutral", "neutral.test"), sent("neutral@ok.test"), spf_result="Neutral")],
        "nospf": [row(accepted("nospf", "nospf.test"), sent("nospf@ok.test"))],
        "perm": [row(accepted("perm", "perm.test"), sent("perm@ok.test"), spf_result="Permerror")],
        "temp": [row(accepted("temp", "temp.test"), sent("temp@ok.test"), spf_result="Temperror")],
    },
    "refused": {
        "NOQUEUE fail": [row(sender("fail", "fail.test"), STRANGERS_HELO, refused("fail@ok.test", SPF_FAIL), spf_result="Fail")],
        "NOQUEUE outside": [row(sender("outside", "good.test"), HELO, refused(
            "outside@elsewhere.test", "554 5.7.1 <outside@elsewhere.test>: Relay access denied"))],
        "NOQUEUE ghost": [row(sender("ghost", "good.test"), HELO, refused("ghost@mx1.relay.test", ghost("")))],
        "NOQUEUE unwanted": [row(sender("unwanted", "good.test"), HELO, refused(
            "unwanted@ok.test", "554 5.7.1 <unwanted@ok.test>: Recipient address rejected: not wanted"), spf_result="Pass")],
        "NOQUEUE mixed": [row(sender("mixed", "good.test"), HELO, refused("ghost1@mx1.relay.test", ghost(1)))],
        "mixed": [row(accepted("mixed"), HELO, refused("ghost2@mx1.relay.test", ghost(2))),
                  row(accepted("mixed"), HELO, sent("mixed@ok.test"), recipient_no=1)],
        "untold strict": [row(accepted("strict", "nospf.test"), STRANGERS_HELO, stopped("strict@ok.test", "rejected", DMARC_REJECT),
                              dsn="5.7.1", dmarc_result="fail", dmarc_domain="strict.test")],
        "untold reject": [row(accepted("reject"), UNCHECKED, HELO, stopped("reject@ok.test", "rejected", "5.7.1 test says so"),
                              dsn="5.7.1")],
    },
    "held_or_discarded": {
        "hold": [row(accepted("hold"), HELO, sent("hold@ok.test"), milter_action="hold", milter_reason="test says so")],
        "careful": [row(accepted("careful", "nospf.test"), STRANGERS_HELO, sent("careful@ok.test"), dmarc_result="fail",
                        dmarc_domain="careful.test", milter_action="hold", milter_reason=QUARANTINE)],
        "drop": [row(accepted("drop"), HELO, stopped("drop@ok.test", "held", "test says so"), relay_status="deleted")],
        "odd": [row(accepted("odd"), HELO, to("odd@ok.test", "requeued", ODD), nrcpt=None, upstream_to=None,
                    next_queue_id="next leg of odd")],
        "next leg of odd": [row(accepted("odd"), HELO, sent("odd@ok.test"), parent_queue_id="odd")],
        "discard": [row(accepted("discard"), UNCHECKED, HELO, stopped("discard@ok.test", "discarded", "test says so"))],
        "thrown": [row(accepted("thrown"), to("thrown@discard.test", "discarded", "discard.test"), relay_host="none", dsn="2.0.0")],
    },
    "undelivered": {
        "bounced": [row(accepted("bounced"), to("gone@ok.test", "bounced", at_rcpt("550 5.1.1 No such user")), OK)],
        "report on bounced": report_on("bounced", "bounced@good.test"),
        "later": [row(accepted("later"), sent("later@ok.test"))],
        "patient": [row(accepted("patient"), to("patient@ok.test", "expired", at_rcpt("452 4.2.2 Mailbox full")), OK, nrcpt=2),
                    row(accepted("patient"), sent("quick@ok.test"), nrcpt=2, recipient_no=1)],
        "report on patient": report_on("patient", "patient@good.test"),
        "forced": [row(accepted("forced"), to("forced@ok.test", "expired", at_rcpt("450 4.2.0 Try again later")), OK)],
        "report on forced": report_on("forced", "forced@good.test"),
        "unreachable": [row(accepted("unreachable"), to("unreachable@refused.test", "expired", REFUSED), relay_host="none", dsn="4.4.1")],
        "report on unreachable": report_on("unreachable", "unreachable@good.test"),
    },
    "expanded": {
        "team": [row(accepted("team"), sent("one@ok.test"), orig_to="team@relay.test", nrcpt=2),
                 row(accepted("team"), sent("two@ok.test"), orig_to="team@relay.test", nrcpt=2, recipient_no=1)],
        "forward": [row(accepted("forward"), to("forward@mx1.relay.test", "requeued", "forwarded as next leg of forward"), LOCAL,
                        next_queue_id="next leg of forward")],
        "next leg of forward": [row(accepted("forward"), sent("forwarded@ok.test"), orig_to="forward@mx1.relay.test",
                                    parent_queue_id="forward")],
        "nothing": [row(accepted("nothing"), to("nothing@mx1.relay.test", "sent", "delivered to file: /dev/null"), LOCAL)],
        "home": [row(accepted("home"), to("home@box.test", "sent", "delivered to maildir"), relay_host="virtual", dsn="2.0.0")],
    },
    "unfinished": {
        "first": [row(accepted("first"), sent("first@ok.test"))],
        "second": [row(accepted("second"), sent("second@ok.test"))],
        "slow": [row(accepted("slow", "soft.test"), sent("slow@ok.test"), spf_result="Softfail")],
        "slower": [row(accepted("slower", "neutral.test"), sent("slower@ok.test"), spf_result="Neutral")],
        "untold ": [row(client_hostname="mail.good.test", client_ip="192.0.2.10", relay_status="incomplete"),
                    row(client_hostname="unknown", client_ip="192.0.2.12", relay_status="incomplete", spf_result="Softfail")],
    },
    "rewritten": {
        "filtered": [row(accepted("filtered"), to("filtered@ok.test", "requeued", "250 2.0.0 Ok: queued as next leg of filtered"),
                         by("192.0.2.1", 1, 2528), relay_tls=TLS, next_queue_id="next leg of filtered")],
        "next leg of filtered": [row(accepted("filtered"), sent("filtered@ok.test"), parent_queue_id="filtered")],
        "srs": [row(accepted("srs"), sent("srs@ok.test"), envelope_from="SRS")],
        "returned": [row(accepted("returned", "nospf.test"), sent("srs@good.test"), orig_to="SRS", envelope_from="",
                         original_envelope_from="")],
        "local": [row(sent("local@ok.test"), message_id="local@lab.test", nrcpt=1, envelope_from="local@relay.test",
                      original_envelope_from="local@relay.test")],
        "report on probe": report_on("probe", "probe@good.test"),
    },
}
AT_THE_END = {name: rows for scene in TABLE.values() for name, rows in scene.items()}
BEFORE = {
    **AT_THE_END,
    "hold": [row(accepted("hold"), HELO, stopped("hold@ok.test", "held", "test says so"))],
    "drop": [row(accepted("drop"), HELO, stopped("drop@ok.test", "held", "test says so"))],
    "careful": [row(accepted("careful", "nospf.test"), STRANGERS_HELO, stopped("careful@ok.test", "held", QUARANTINE), dmarc_result="fail",
                    dmarc_domain="careful.test")],
    "odd": [row(accepted("odd"), HELO, to("odd@ok.test", "held", ODD), nrcpt=None, upstream_to=None)],
    "later": [row(accepted("later"), to("later@ok.test", "deferred", at_rcpt("451 4.7.1 Greylisted, try again")), OK)],
    "patient": [dict(AT_THE_END["patient"][0], relay_status="deferred"), AT_THE_END["patient"][1]],
    "forced": [dict(AT_THE_END["forced"][0], relay_status="deferred")],
    "unreachable": [dict(AT_THE_END["unreachable"][0], relay_status="deferred")],
}
for born_later in ("next leg of odd", "report on patient", "report on forced", "report on unreachable"):
    del BEFORE[born_later]


def differences(found, expected):
    """What is not as expected: {message: [{column: (found, expected)} of each row]}."""
    wrong = {}
    for name in sorted({*found, *expected}):
        pairs = list(itertools.zip_longest(found.get(name, []), expected.get(name, []), fillvalue={}))
        if any(one != other for one, other in pairs):
            wrong[name] = [{column: (one.get(column), other.get(column)) for column in {*one, *other}
                            if one.get(column) != other.get(column)} for one, other in pairs]
    return wrong


class Lab:
    """A mail server, a daemon on its log, and what the table held before the queue was worked on, and at the end."""

    def __init__(self, host, live, database):
        self.host, self.live, self.database = host, live, database
        self.scenes = Scenes(host)

    def play(self):
        """Everything, once; afterwards all are stopped, and the log is whole."""
        self.began = time.time()
        self.live.start()
        self.scenes.play()
        self.before = self.settled(BEFORE)
        self.scenes.work_on_the_queue()
        self.at_the_end = self.settled(AT_THE_END, lambda: self.host.run("postqueue", "-f"))
        self.host.stop()
        self.code = self.live.stop()
        self.rest = self.live.command.run("-c", self.live.folder / "tracker.conf", "--once")
        self.rows = self.table()
        self.ended = time.time()

    def table(self, database=None):
        """All rows of the daemon's table, or of another one."""
        path = self.live.command.configure("reader.conf", **dict(self.live.settings, database__database=database or self.database))
        rows = rows_of(tracker.make_store(tracker.load_config(path)))
        return sorted(rows, key=lambda one: (one.first_seen, one.queue_id, one.recipient_no))

    def settled(self, expected, meanwhile=lambda: None):
        """What the table holds once it is as expected, or has had the time to be."""
        deadline = time.monotonic() + SETTLED
        while True:
            meanwhile()
            for _ in range(10):
                found = self.scenes.visible(self.table())
                if found == expected or time.monotonic() > deadline:
                    return found
                time.sleep(0.2)


@pytest.fixture(scope="module", params=["rsyslogd", "postlogd"])
def lab(request, mariadb, tmp_path_factory):
    """The whole story: in a log of rsyslogd's with RFC 3339 stamps, and in one that Postfix writes itself and rsyslogd for the others."""
    own_log = request.param == "postlogd"
    host = postfix.MailHost("RSYSLOG_TraditionalFileFormat" if own_log else "RSYSLOG_FileFormat", own_log,
                            OVERLAPPING + (EARLY if own_log else []))
    mariadb.load_schema("live")
    live = Live(Command(tmp_path_factory.mktemp("live")), database__engine="mysql", database__unix_socket=mariadb.socket,
                database__database="live", database__password=mariadb_server.PASSWORD, logging__log_file=host.log)
    try:
        host.start(answers())
        host.zone.records.update(zone(host))
        found = Lab(host, live, "live")
        found.play()
        yield found
    finally:
        live.stop(signal.SIGKILL)
        host.remove()
    assert not host.folder.exists() and not os.path.exists("/proc/%d" % host.first)


@pytest.mark.parametrize("scene", TABLE)
def test_every_row_is_right(lab, scene):
    assert differences({name: rows for name, rows in lab.at_the_end.items() if name in TABLE[scene]}, TABLE[scene]) == {}


def test_every_row_is_right_while_some_mail_still_waits(lab):
    assert differences(lab.before, BEFORE) == {}


def test_there_are_no_other_rows(lab):
    assert set(lab.at_the_end) == set(AT_THE_END)


def test_refusals_are_told_as_the_sender_heard_them(lab):
    heard = {name: [answer.replace(lab.host.net, "192.0.2") for answer in answers] for name, answers in lab.scenes.answers.items()}
    refused_rows = {"fail": "NOQUEUE fail", "outside": "NOQUEUE outside", "ghost": "NOQUEUE ghost", "mixed": "NOQUEUE mixed",
                    "unwanted": "NOQUEUE unwanted"}
    assert {name: lab.at_the_end[rows][0]["relay_message"] for name, rows in refused_rows.items()} == {
        name: heard[name][0] for name in refused_rows}
    assert lab.at_the_end["mixed"][0]["relay_message"] == heard["mixed"][2]
    for name in ("strict", "reject"):
        assert heard[name][1] == "550 " + lab.at_the_end["untold " + name][0]["relay_message"]


def test_times_and_sizes_are_possible(lab):
    first, last = (lab.began - 1) * tracker.SECOND, (lab.ended + 1) * tracker.SECOND
    for one in lab.rows:
        assert first <= one.first_seen <= one.last_seen <= last
        assert (one.size is None) == (one.nrcpt is None) and (one.size is None or one.size > 200)
        delivered = one.relay_host is not None
        assert (one.delay is not None) == (one.delays is not None) == delivered
        if delivered:
            parts = list(map(float, one.delays.split("/")))
            assert len(parts) == 4 and abs(sum(parts) - float(one.delay)) <= 0.1 * float(one.delay) + 0.05      # two digits are logged


def test_the_daemon_had_nothing_to_complain_of(lab):
    assert (lab.code, lab.live.said) == (0, "")


def test_reading_again_from_the_saved_position_changes_nothing(lab):
    assert lab.rest.returncode == 0, lab.rest.stderr
    assert differences(lab.scenes.visible(lab.rows), lab.at_the_end) == {}


def test_every_line_is_known_and_an_import_of_the_log_makes_the_same_table(lab, mariadb):
    mariadb.load_schema("live_again")
    path = lab.live.command.configure("import.conf", **dict(lab.live.settings, database__database="live_again"))
    done = lab.live.command.run("-c", path, "-vv", "--import", lab.host.log)
    assert done.returncode == 0 and " 0 unsupported, 0 failed" in done.stdout, done.stdout + done.stderr
    assert lab.table("live_again") == lab.rows


def test_a_policy_line_behind_the_verdict_still_finds_its_message(lab, mariadb):
    """As it happens where two programs write the log: the lines are the live log's own, some in another order."""
    lines = lab.host.log.read_text().splitlines(keepends=True)
    for name in ("mixed", "reject", "discard", "hold", "drop"):
        policy = next(place for place, line in enumerate(lines) if "envelope-from=%s@" % name in line)
        verdict = next(place for place, line in enumerate(lines) if "from=<%s@" % name in line and "NOQUEUE" not in line)
        if policy < verdict:            # else they met in that order by themselves
            lines.insert(verdict, lines.pop(policy))
    late = lab.live.folder / "late.log"
    late.write_text("".join(lines))
    mariadb.load_schema("live_late")
    path = lab.live.command.configure("late.conf", **dict(lab.live.settings, database__database="live_late"))
    assert lab.live.command.run("-c", path, "--import", late).returncode == 0
    assert differences(lab.scenes.visible(lab.table("live_late")), lab.at_the_end) == {}
