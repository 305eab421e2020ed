#!/usr/bin/env python3
"""A synthetic Postfix log, the same for the same seed, and the rows that a tracker must make of it.

    bench/generate.py --lines 1000000 -o mail.log --truth truth.jsonl

Every message is one or more sessions whose lines are merged in order of time with those of all others, so that queue IDs
interleave as they do on a busy host. No real address, host or name appears. The truth is written from what was decided, not from
the lines: one JSON object per row, its keys being columns of the table. It holds every column but `id` and `recipient_no`.
"""
import argparse
import heapq
import json
import os
import random
import sys
from datetime import datetime, timedelta, timezone

LINES_PER_MESSAGE = 18.526          # all told, with the defaults
START = 1793491200                  # 2026-11-01 00:00 UTC
DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
SPAM_TESTS = ("BAYES_00 BAYES_50 BAYES_99 DKIM_SIGNED DKIM_VALID DKIM_VALID_AU DMARC_PASS FREEMAIL_FROM HTML_MESSAGE MIME_HTML_ONLY "
              "RCVD_IN_DNSWL_NONE RCVD_IN_MSPIKE_H2 RDNS_NONE SPF_HELO_NONE SPF_PASS SPF_FAIL T_SCC_BODY_TEXT_LINE URIBL_BLOCKED "
              "URIBL_BLACK").split()
FIRST_NAMES = ("anna", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
LAST_NAMES = ("smith", "jones", "meyer", "rossi", "garcia", "novak")
TOP_LEVEL = ("example", "test", "example.net", "example.org", "invalid")
REJECTS = (                         # weight, stage, code, dsn, text
    (30, "RCPT", 554, "5.7.1", "Service unavailable; Client host [{ip}] blocked using dnsbl.test; https://dnsbl.test/query/ip/{ip}"),
    (22, "RCPT", 550, "5.1.1", "<{rcpt}>: Recipient address rejected: User unknown in virtual mailbox table"),
    (16, "RCPT", 450, "4.2.0", "<{rcpt}>: Recipient address rejected: Greylisted, see http://greylist.test/help.html"),
    (10, "RCPT", 454, "4.7.1", "<{rcpt}>: Relay access denied"),
    (8, "RCPT", 450, "4.1.8", "<{sender}>: Sender address rejected: Domain not found"),
    (7, "RCPT", 504, "5.5.2", "<{helo}>: Helo command rejected: need fully-qualified hostname"),
    (5, "RCPT", 550, "5.7.23", "<{rcpt}>: Recipient address rejected: Message rejected due to: SPF fail - not authorized. "
                               "Please see http://www.openspf.test/Why?s=mfrom;id={sender};ip={ip};r=<UNKNOWN>"),
    (2, "MAIL", 452, "4.3.1", "Insufficient system storage"),
)
REJECT_LOTS = [place for place, reject in enumerate(REJECTS) for _ in range(reject[0])]
BOUNCES = (                         # dsn, what the other side said
    ("5.1.1", "550 5.1.1 <{rcpt}>: Recipient address rejected: User unknown (in reply to RCPT TO command)"),
    ("5.2.2", "552 5.2.2 <{rcpt}> Mailbox full, over quota (in reply to end of DATA command)"),
    ("5.7.1", "554 5.7.1 Message rejected as spam; id=9f3a, see https://policy.test/?e=1 (in reply to end of DATA command)"),
)
DEFERS = (                          # dsn, whether the other side said it, text
    ("4.4.1", None, "connect to {host}[{ip}]:25: Connection timed out"),
    ("4.4.3", None, "Host or domain name not found. Name service error for name={domain} type=MX: Host not found, try again"),
    ("4.2.0", "host", "450 4.2.0 <{rcpt}>: Recipient address rejected: Greylisted (in reply to RCPT TO command)"),
    ("4.7.0", "host", "421 4.7.0 [TS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume (in reply to MAIL FROM "
                      "command)"),
)
TLS = (                             # as logged
    "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits) "
    "server-digest SHA256",
    "TLSv1.2 with cipher ECDHE-RSA-AES256-GCM-SHA384 (256/256 bits)")
COLUMNS = ("server_hostname", "queue_id", "first_seen", "last_seen", "client_hostname", "client_ip", "helo", "protocol", "sasl_username",
           "client_tls", "message_id", "size", "nrcpt", "envelope_from", "original_envelope_from", "spf_result", "dkim_result",
           "dkim_signatures", "dkim_domain", "dkim_selector", "dkim_algorithm", "dmarc_result", "dmarc_domain", "spam_status",
           "spam_score", "spam_required", "spam_tests", "milter_action", "milter_reason", "orig_to", "upstream_to", "relay_host",
           "relay_ip", "relay_port", "relay_tls", "relay_status", "smtp_code", "dsn", "relay_message", "delay", "delays",
           "next_queue_id", "parent_queue_id")


def seconds_text(seconds):
    """Seconds the way Postfix logs them: two significant digits, never an exponent."""
    if seconds >= 10:
        return "%d" % seconds
    if seconds >= 1:
        return ("%.1f" % seconds).rstrip("0").rstrip(".")
    return ("%.2g" % max(seconds, 0.0001)) if seconds >= 0.01 else ("%.3f" % seconds).rstrip("0").rstrip(".")


def in_base(number, base, width=0):
    """A number in the digits of long queue IDs."""
    text = ""
    while number or len(text) < width:
        number, digit = divmod(number, base)
        text = DIGITS[digit] + text
    return text


def short_tls(logged):
    """`TLSv1.3 with cipher X (…)` as the table has it."""
    protocol, _, cipher = logged.partition(" with cipher ")
    return "%s %s" % (protocol, cipher.split(" ")[0])


class Generator:
    """Makes messages, refusals and unrelated lines in a random order that the seed decides."""

    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.heap = []
        self.sequence = 0
        self.zone = timezone(timedelta(minutes=options.zone))
        self.pids, self.busy = {}, {}
        self.nameless_until = 0
        self.inode = 3000000 + self.random.randrange(999999)
        self.used_inode = 0
        self.free = []
        self.truth = open(options.truth, "w", encoding="utf-8") if options.truth else None
        self.rows = self.messages = self.rejects = 0
        self.second = self.second_text = None
        self.stop = options.messages / options.rate

    # -- pieces

    def pid(self, program, pool):
        """A process of a program that has a pool of them, now and then a new pool."""
        pids = self.pids.get(program)
        if pids is None or self.random.random() < 0.002:
            pids = self.pids[program] = [self.random.randrange(900, 4194304) for _ in range(pool)]
        return self.random.choice(pids)

    def free_pid(self, program, pool, time):
        """A process that serves one client at a time, and nobody at this time: `busy` is to be set to the time until which it does."""
        chosen = self.pid(program, pool)
        pids = self.pids[program]
        at = pids.index(chosen)
        for pid in pids[at:] + pids[:at]:
            if self.busy.get(pid, 0) < time:
                return pid
        pids.append(self.random.randrange(900, 4194304))
        return pids[-1]

    def queue_id(self, time):
        """A queue ID that is given out at this time; inodes of removed messages come back."""
        second, microsecond = int(time), int((time % 1) * 1e6)
        if self.free and self.random.random() < 0.8:
            inode = self.free.pop(0)
        else:
            self.inode += self.random.randrange(1, 9)
            inode = self.inode
        if self.options.queue_ids == "short":
            return "%05X%X" % (microsecond, inode), inode
        return "%s%sz%s" % (in_base(second, 52), in_base(microsecond, 52, 4), in_base(inode, 51)), inode

    def stamp(self, time):
        """A time stamp of the chosen style."""
        if self.options.style == "rfc3339":
            return datetime.fromtimestamp(time, self.zone).isoformat(timespec="microseconds")
        if self.second != int(time):
            moment = datetime.fromtimestamp(int(time), self.zone)
            self.second = int(time)
            self.second_text = "%s %2d %s" % (MONTHS[moment.month - 1], moment.day, moment.strftime("%H:%M:%S"))
        return self.second_text

    def seen(self, time):
        """A time as the log tells it, and the table."""
        time = self.options.start + time
        time = int(time) if self.options.style == "traditional" else time
        return datetime.fromtimestamp(time, timezone.utc).replace(tzinfo=None).isoformat(" ", "microseconds")

    def put(self, time, program, pid, text):
        """A line, to be written when its time has come."""
        self.sequence += 1
        heapq.heappush(self.heap, (time, self.sequence, program, pid, text))

    def row(self, first, last, **values):
        """A row that the tracker must make; columns not named are NULL."""
        self.rows += 1
        if self.truth:
            known = dict.fromkeys(COLUMNS)
            known.update(values, server_hostname=self.options.host, first_seen=self.seen(first), last_seen=self.seen(last),
                         original_envelope_from=values["envelope_from"])
            self.truth.write(json.dumps(known, ensure_ascii=False, sort_keys=True) + "\n")

    def address(self):
        """An IP address, some of them IPv6."""
        lot = self.random
        if lot.random() < 0.08:
            return "2001:db8:%x:%x::%x" % (lot.randrange(65536), lot.randrange(65536), lot.randrange(1, 65536))
        return "%d.%d.%d.%d" % (lot.choice((192, 198, 203, 100)), lot.randrange(256), lot.randrange(256), lot.randrange(1, 255))

    def domain(self):
        """A domain that cannot be real."""
        return "d%d.%s" % (self.random.randrange(4000), self.random.choice(TOP_LEVEL))

    def local_part(self):
        """The part of an address before the @; a few are quoted or UTF-8."""
        lot = self.random
        kind = lot.random()
        if kind < 0.002:
            return '"odd, name"'
        if kind < 0.004:
            return "j\u00f6rg.m\u00fcller"
        if kind < 0.08:
            return "bounces+%d-%x=%s" % (lot.randrange(10 ** 7), lot.getrandbits(40), "tag%d" % lot.randrange(99))
        return "%s.%s%d" % (lot.choice(FIRST_NAMES), lot.choice(LAST_NAMES), lot.randrange(500))

    # -- what has no row

    def noise(self, time):
        """Lines that tell of no message."""
        kind, ip = self.random.random(), self.address()
        if kind < 0.22:
            self.postscreen(time, ip)
        elif kind < 0.32:
            self.put(time, "postfix/anvil", self.pid("anvil", 1), self.random.choice((
                "statistics: max connection rate %d/60s for (smtp:%s) at Nov 12 03:04:05" % (self.random.randrange(1, 40), ip),
                "statistics: max connection count %d for (smtp:%s) at Nov 12 03:04:05" % (self.random.randrange(1, 9), ip),
                "statistics: max cache size %d at Nov 12 03:01:05" % self.random.randrange(1, 99))))
        elif kind < 0.60:
            self.dovecot(time, ip)
        elif kind < 0.85:
            self.stranger(time, "unknown[%s]" % ip, ip)
        elif kind < 0.93:
            self.put(time, "postfix/scache", self.pid("scache", 1), "statistics: domain lookup hits=%d miss=%d success=%d%%"
                     % (self.random.randrange(9), self.random.randrange(9), self.random.randrange(100)))
        else:
            self.put(time, self.random.choice(("CRON", "systemd", "sshd")), self.random.randrange(1, 99999),
                     "pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)")

    def postscreen(self, time, ip):
        """A client before it reaches smtpd, or does not."""
        lot, pid = self.random, self.pid("postscreen", 1)
        self.put(time, "postfix/postscreen", pid, "CONNECT from [%s]:%d to [192.0.2.10]:25" % (ip, lot.randrange(1024, 65536)))
        self.put(time + 0.01 + lot.random() * 6, "postfix/postscreen", pid, lot.choice((
            "PASS OLD [%s]:%d" % (ip, lot.randrange(1024, 65536)), "PASS NEW [%s]:%d" % (ip, lot.randrange(1024, 65536)),
            "DNSBL rank %d for [%s]:%d" % (lot.randrange(2, 9), ip, lot.randrange(1024, 65536)),
            "PREGREET 14 after 0.0%d from [%s]:%d: EHLO ylmf-pc\\r\\n" % (lot.randrange(9), ip, lot.randrange(1024, 65536)),
            "HANGUP after 1.%d from [%s]:%d in tests before SMTP handshake" % (lot.randrange(9), ip, lot.randrange(1024, 65536)))))

    def dovecot(self, time, ip):
        """A neighbour that logs into the same file."""
        lot = self.random
        user = "%s@%s" % (self.local_part(), self.domain())
        self.put(time, "dovecot", None, lot.choice((
            "imap-login: Login: user=<%s>, method=PLAIN, rip=%s, lip=192.0.2.10, mpid=%d, TLS, session=<%x>"
            % (user, ip, lot.randrange(9 ** 6), lot.getrandbits(64)),
            "imap(%s)<%d><%x>: Disconnected: Logged out in=%d out=%d deleted=0 expunged=0 trashed=0 hdr_count=0 hdr_bytes=0 "
            "body_count=0 body_bytes=0" % (user, lot.randrange(9 ** 6), lot.getrandbits(64), lot.randrange(9999), lot.randrange(99999)),
            "imap-login: Disconnected: Connection closed (auth failed, 1 attempts in 2 secs): user=<%s>, method=PLAIN, rip=%s, "
            "lip=192.0.2.10, TLS, session=<%x>" % (user, ip, lot.getrandbits(64)))))

    def stranger(self, time, client, ip):
        """A session in which nothing is handed in."""
        lot, pid = self.random, self.free_pid("smtpd", 40, time)
        self.busy[pid] = time + 0.4
        if lot.random() < 0.4:
            self.put(time, "postfix/smtpd", pid, "warning: hostname host%d.%s does not resolve to address %s: Name or service not known"
                     % (lot.randrange(999), self.domain(), ip))
        self.put(time, "postfix/smtpd", pid, "connect from " + client)
        kind = lot.random()
        if kind < 0.4:
            self.put(time + 0.3, "postfix/smtpd", pid, "warning: %s: SASL LOGIN authentication failed: UGFzc3dvcmQ6" % client)
        elif kind < 0.7:
            self.put(time + 0.2, "postfix/smtpd", pid, "SSL_accept error from %s: -1" % client)
            self.put(time + 0.2, "postfix/smtpd", pid, "warning: TLS library problem: error:0A000102:SSL routines::unsupported protocol:"
                                                       "../ssl/statem/statem_srvr.c:1657:")
        self.put(time + 0.4, "postfix/smtpd", pid,
                 "lost connection after %s from %s" % (lot.choice(("AUTH", "CONNECT", "EHLO", "STARTTLS", "UNKNOWN")), client))
        self.put(time + 0.4, "postfix/smtpd", pid, "disconnect from %s ehlo=1 auth=0/1 commands=1/2" % client)

    # -- refusals

    def reject(self, time):
        """A client that is refused before a queue ID exists."""
        lot = self.random
        ip, domain = self.address(), self.domain()
        name = "unknown" if lot.random() < 0.5 else "mail%d.%s" % (lot.randrange(9), domain)
        helo = lot.choice((domain, "[%s]" % ip, "localhost", "ylmf-pc", "mail." + domain))
        sender, rcpt = "%s@%s" % (self.local_part(), domain), "%s@cust%d.example.net" % (self.local_part(), lot.randrange(300))
        _, stage, code, dsn, text = REJECTS[lot.choice(REJECT_LOTS)]
        text = text.format(rcpt=rcpt, ip=ip, helo=helo, sender=sender)
        protocol = lot.choice(("ESMTP", "ESMTP", "SMTP"))
        values = {"client_ip": ip, "client_hostname": name, "envelope_from": sender, "orig_to": rcpt, "helo": helo, "protocol": protocol,
                  "relay_status": "rejected"}
        self.rejects += 1
        if lot.random() < 0.15:
            text = "Service unavailable; client [%s] blocked using dnsbl.test" % ip
            self.row(time, time, **dict(values, client_hostname=None, smtp_code=550, dsn="5.7.1", relay_message="550 5.7.1 " + text))
            self.put(time, "postfix/postscreen", self.pid("postscreen", 1),
                     "NOQUEUE: reject: RCPT from [%s]:%d: 550 5.7.1 %s; from=<%s>, to=<%s>, proto=%s, helo=<%s>"
                     % (ip, lot.randrange(1024, 65536), text, sender, rcpt, protocol, helo))
            return
        pid, client = self.free_pid("smtpd", 40, time), "%s[%s]" % (name, ip)
        self.put(time, "postfix/smtpd", pid, "connect from " + client)
        time += 0.05 + lot.random() * 0.4
        if lot.random() < 0.5:
            self.put(time, "postfix/smtpd", pid, "Anonymous TLS connection established from %s: %s" % (client, TLS[1]))
            values["client_tls"] = short_tls(TLS[1])
        time += 0.05 + lot.random() * 0.4
        reply = "%d %s %s" % (code, dsn, text)
        values["spf_result"] = "Fail" if dsn == "5.7.23" else None      # the policy server's own words
        self.row(time, time, smtp_code=code, dsn=dsn, relay_message=reply, **values)
        self.put(time, "postfix/smtpd", pid, "NOQUEUE: reject: %s from %s: %s; from=<%s> to=<%s> proto=%s helo=<%s>"
                 % (stage, client, reply, sender, rcpt, protocol, helo))
        time += 0.02 + lot.random() * 0.2
        self.busy[pid] = time
        self.put(time, "postfix/smtpd", pid, "disconnect from %s ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4" % client)

    # -- messages

    def deliver(self, time, message, rcpts, attempt=0):
        """The queue manager takes the message up; one line per recipient follows, for those deferred later another."""
        queue_id, lot = message["queue_id"], self.random
        manager = self.pid("qmgr", 1)
        self.put(time, "postfix/qmgr", manager, "%s: from=<%s>, size=%d, nrcpt=%d (queue active)"
                 % (queue_id, message["envelope_from"], message["size"], len(rcpts)))
        message = dict(message) if attempt else dict(message, nrcpt=len(rcpts))
        left, bounced, end = [], [], time
        for rcpt, orig_to in rcpts:
            at = time + 0.05 + lot.expovariate(1 / 1.5)
            end = max(end, at)
            values = self.attempt(at, time, message, rcpt, orig_to, attempt)
            if values["relay_status"] == "deferred":
                left.append((rcpt, orig_to, at, values))
            else:
                self.row(message["born"], at, **columns(message), **values)
                bounced += [rcpt] if values["relay_status"] == "bounced" else []
        if left:
            again = end + 300 * 2 ** attempt + lot.random() * 60
            if again > self.stop + 600:         # not taken up again within this log
                for _, _, at, values in left:
                    self.row(message["born"], at, **columns(message), **values)
                return
            self.deliver(again, message, [(rcpt, orig_to) for rcpt, orig_to, _, _ in left], attempt + 1)
        if bounced and message["envelope_from"]:
            self.notify((again if left else end) + 0.01, message)
        if not left:
            self.put(end + 0.02, "postfix/qmgr", manager, "%s: removed" % queue_id)
            if len(self.free) < 400:
                self.free.append(self.used_inode)

    def attempt(self, time, active, message, rcpt, orig_to, attempt):
        """One recipient is tried: the line, and what the row says of it."""
        lot, kind, domain = self.random, self.random.random(), rcpt.rpartition("@")[2]
        agent = "lmtp" if domain == "store.example" else "smtp"
        if agent == "lmtp":
            host, ip, port = "lmtp.store.example", "private/dovecot-lmtp", None
        else:
            host, ip, port = "mx%d.%s" % (lot.randrange(3), domain), self.address(), 25
        relay = "%s[%s]%s" % (host, ip, ":25" if port else "")
        delay = seconds_text(time - message["came"])
        delays = "/".join(map(seconds_text, (max(active - message["came"], 0), lot.random() * 0.05, lot.random() * 0.5, lot.random())))
        following = None
        if kind < 0.90 or attempt > 2 or message["is_notification"]:
            status, dsn = "sent", "2.0.0"
            text, following = self.thanks(agent, rcpt, time)
        elif kind < 0.94:
            status = "bounced"
            dsn, text = lot.choice(BOUNCES)
            text = "host %s[%s] said: %s" % (host, ip, text.format(rcpt=rcpt))
        else:
            status = "deferred"
            dsn, said, text = lot.choice(DEFERS)
            text = text.format(rcpt=rcpt, host=host, ip=ip, domain=domain)
            text, relay = ("host %s[%s] said: %s" % (host, ip, text), relay) if said else (text, "none")
        self.put(time, "postfix/" + agent, self.pid(agent, 20), "%s: to=<%s>,%s relay=%s, delay=%s, delays=%s, dsn=%s, status=%s (%s)"
                 % (message["queue_id"], rcpt, " orig_to=<%s>," % orig_to if orig_to else "", relay, delay, delays, dsn, status, text))
        code = text.partition(" said: ")[2] or text
        hop = ("none", None, None) if relay == "none" else (relay, None, None) if agent == "lmtp" else (host, ip, port)
        return {"orig_to": orig_to or rcpt, "upstream_to": rcpt, "relay_host": hop[0], "relay_ip": hop[1], "relay_port": hop[2],
                "relay_status": status, "smtp_code": int(code[:3]) if code[:3].isdigit() else None, "dsn": dsn, "relay_message": text,
                "delay": float(delay), "delays": delays, "next_queue_id": following}

    def thanks(self, agent, rcpt, time):
        """How a next hop says that it has the mail, and the queue ID that it tells."""
        lot = self.random
        if agent == "lmtp":
            return "250 2.0.0 <%s> %x Saved" % (rcpt, lot.getrandbits(80)), None
        queued = "%X" % lot.getrandbits(44)
        return lot.choice((
            ("250 2.0.0 Ok: queued as " + queued, queued),
            ("250 2.0.0 OK  %d %x-v6si1234567edr.123 - gsmtp" % (time, lot.getrandbits(60)), None),
            ("250 2.6.0 <%x@out.example> [InternalId=%d, Hostname=EXCH%d.example] 9312 bytes in 0.106, 85.3 KB/sec Queued mail for delivery"
             % (lot.getrandbits(60), lot.getrandbits(40), lot.randrange(99)), None)))

    def notify(self, time, message):
        """A non-delivery notification for the sender: a message of its own."""
        queue_id, _ = self.queue_id(self.options.start + time)
        message_id = "%d.%s@mx1.example.net" % (self.options.start + time, queue_id)
        self.put(time, "postfix/cleanup", self.pid("cleanup", 8), "%s: message-id=<%s>" % (queue_id, message_id))
        self.put(time + 0.01, "postfix/bounce", self.pid("bounce", 4),
                 "%s: sender non-delivery notification: %s" % (message["queue_id"], queue_id))
        notification = {"queue_id": queue_id, "message_id": message_id, "envelope_from": "", "size": 3000 + self.random.randrange(4000),
                        "parent_queue_id": message["queue_id"], "born": time, "came": time, "is_notification": True}
        self.deliver(time + 0.02, notification, [(message["envelope_from"], None)])

    def message(self, time):
        """A message that is handed in, checked, and delivered or refused at its end."""
        lot = self.random
        self.messages += 1
        ip, domain = self.address(), self.domain()
        name = "unknown" if lot.random() < 0.06 else "mail%d.%s" % (lot.randrange(9), domain)
        client, submitted = "%s[%s]" % (name, ip), lot.random() < 0.15
        program = "postfix/submission/smtpd" if submitted else "postfix/smtpd"
        pid = self.free_pid("smtpd", 40, time)
        message = {"client_ip": ip, "client_hostname": name, "envelope_from": "%s@%s" % (self.local_part(), domain),
                   "is_notification": False, "parent_queue_id": None}
        self.put(time, program, pid, "connect from " + client)
        time += 0.03 + lot.random() * 0.3
        if lot.random() < 0.9:
            tls = lot.choice(TLS)
            self.put(time, program, pid, "Anonymous TLS connection established from %s: %s" % (client, tls))
            message["client_tls"] = short_tls(tls)
        time += 0.03 + lot.random() * 0.3
        count = lot.choice((1, 1, 1, 1, 1, 1, 1, 2, 2, 3))
        rcpts = self.recipients(count, submitted)
        if not submitted:
            message["spf_result"] = lot.choice(("Pass", "Pass", "Pass", "None", "Softfail", "Neutral"))
            self.put(time, "policyd-spf", self.pid("policyd-spf", 10), "prepend Received-SPF: %s (mailfrom) "
                     "identity=mailfrom; client-ip=%s; helo=%s; envelope-from=%s; receiver=<UNKNOWN> "
                     % (message["spf_result"], ip, name, message["envelope_from"]))
        time += 0.01
        message["queue_id"], self.used_inode = self.queue_id(self.options.start + time)
        message["born"] = time
        login = ", sasl_method=PLAIN, sasl_username=%s" % message["envelope_from"] if submitted else ""
        message["sasl_username"] = message["envelope_from"] if submitted else None
        self.put(time, program, pid, "%s: client=%s%s" % (message["queue_id"], client, login))
        time += 0.05 + lot.random() * 0.2
        header = self.header(time, domain)
        message["message_id"] = header.strip("<>")
        cleanup = self.pid("cleanup", 8)
        self.put(time, "postfix/cleanup", cleanup, "%s: message-id=%s" % (message["queue_id"], header))
        time += 0.02 + lot.random() * 0.1
        message["size"] = int(800 + lot.expovariate(1 / 60000.0))
        time = self.scan(self.signatures(time, message, domain, submitted), message, header, submitted)
        message["came"] = time - 1
        if message.get("spam_score", 0) >= 8:
            self.block(time, message, rcpts[-1][0], client, cleanup, program, pid)
            return
        self.busy[pid] = time + 0.05 + lot.random() * 0.2
        self.put(self.busy[pid], program, pid,
                 "disconnect from %s ehlo=2 starttls=1 mail=1 rcpt=%d data=1 quit=1 commands=%d" % (client, count, count + 6))
        self.deliver(time, message, rcpts)

    def header(self, time, domain):
        """A Message-ID. No two messages that are scanned at the same time have the same: no line would tell them apart."""
        kind = self.random.random()
        if kind >= 0.99:
            return "no-brackets-%d" % self.messages
        if kind < 0.985 or time < self.nameless_until:
            return "<%x.%d@%s>" % (self.random.getrandbits(96), self.random.randrange(10 ** 6), domain)
        self.nameless_until = time + 5
        return "<>"

    def recipients(self, count, submitted):
        """(to, orig_to) of a message; the first of equal ones counts."""
        found = []
        for _ in range(count):
            customer = "%s@cust%d.example.net" % (self.local_part(), self.random.randrange(300))
            if submitted:
                found.append(("%s@%s" % (self.local_part(), self.domain()), None))
            elif self.random.random() < 0.6:
                found.append(("box%d@store.example" % self.random.randrange(9999), customer))
            else:
                found.append((customer, None))
        return list(dict.fromkeys(found))

    def signatures(self, time, message, domain, submitted):
        """DKIM and DMARC: signing what is submitted, verifying the rest; returns the time then."""
        lot, queue_id, dkim = self.random, message["queue_id"], self.pid("opendkim", 1)
        if submitted:
            self.put(time, "opendkim", dkim, "%s: DKIM-Signature field added (s=mail, d=%s)" % (queue_id, domain))
            message.update(dkim_result="signed", dkim_domain=domain, dkim_selector="mail")
            return time
        self.put(time, "opendkim", dkim, "%s: %s [%s] not internal" % (queue_id, message["client_hostname"], message["client_ip"]))
        self.put(time, "opendkim", dkim, "%s: not authenticated" % queue_id)
        message["dkim_result"] = lot.choice(("pass", "pass", "pass", "none", "fail"))
        if message["dkim_result"] == "none":
            self.put(time, "opendkim", dkim, "%s: no signature data" % queue_id)
            message["dkim_signatures"] = 0
        else:
            if message["dkim_result"] == "pass":
                self.put(time, "opendkim", dkim, "%s: DKIM verification successful" % queue_id)
            message.update(dkim_domain=domain, dkim_selector="sel%d" % lot.randrange(9), dkim_algorithm="rsa-sha256")
            detail = "" if message["dkim_result"] == "pass" else " error:02000068:rsa routines::bad signature"
            self.put(time, "opendkim", dkim, "%s: s=%s d=%s a=rsa-sha256 SSL%s" % (queue_id, message["dkim_selector"], domain, detail))
            if message["dkim_result"] == "fail":
                self.put(time, "opendkim", dkim, "%s: bad signature data" % queue_id)
        time += 0.01
        message.update(dmarc_result=lot.choice(("pass", "pass", "none", "fail")), dmarc_domain=domain)
        self.put(time, "opendmarc", self.pid("opendmarc", 1), "%s: %s %s" % (queue_id, domain, message["dmarc_result"]))
        return time

    def scan(self, time, message, header, submitted):
        """SpamAssassin, for most of what is not submitted; returns the time then."""
        lot = self.random
        if submitted or lot.random() >= 0.95:
            return time
        score, pid = round(lot.gauss(0.5, 4), 1), self.free_pid("spamd", 20, time)
        done = self.busy[pid] = time + 0.3 + lot.random() * 2
        if lot.random() < 0.5:
            self.put(time, "spamd", pid, "spamd: connection from localhost [127.0.0.1]:%d to port 783, fd 5" % lot.randrange(1024, 65536))
        self.put(time + 0.01, "spamd", pid, "spamd: processing message %s for debian-spamd:114" % header)
        tests = ",".join(sorted(lot.sample(SPAM_TESTS, 6)))
        self.put(done, "spamd", pid, "spamd: result: %s %d - %s scantime=%.1f,size=%d,user=debian-spamd,uid=114,required_score=5.0,"
                 "rhost=localhost,raddr=127.0.0.1,rport=%d,mid=%s,bayes=0.%06d,autolearn=%s autolearn_force=no"
                 % ("Y" if score >= 5 else ".", int(score), tests, done - time, message["size"], lot.randrange(1024, 65536), header,
                    lot.randrange(10 ** 6), lot.choice(("ham", "no", "unavailable"))))
        message.update(spam_status="Yes" if score >= 5 else "No", spam_score=int(score), spam_required=5.0, spam_tests=tests)
        return done + 0.01

    def block(self, time, message, rcpt, client, cleanup, program, pid):
        """The milter refuses the message at its end."""
        reply = "5.7.1 Blocked by SpamAssassin"
        self.put(time, "postfix/cleanup", cleanup, "%s: milter-reject: END-OF-MESSAGE from %s: %s; from=<%s> to=<%s> proto=ESMTP helo=<%s>"
                 % (message["queue_id"], client, reply, message["envelope_from"], rcpt, message["client_hostname"]))
        self.busy[pid] = time + 0.05
        self.put(self.busy[pid], program, pid,
                 "disconnect from %s ehlo=2 starttls=1 mail=1 rcpt=1 data=0/1 quit=1 commands=6/7" % client)
        self.rejects += 1
        self.row(message["born"], time, **dict(columns(message), size=None, orig_to=rcpt, helo=message["client_hostname"], protocol="ESMTP",
                                               relay_status="rejected", dsn="5.7.1", relay_message=reply, milter_action="reject",
                                               milter_reason=reply))

    # -- all of it

    def run(self, out):
        """Write the log; returns the number of its lines."""
        time, written = 0.0, 0
        while self.messages < self.options.messages:
            time += self.random.expovariate(self.options.rate)
            written += self.write_until(time, out)
            self.arrive(time)
        return written + self.write_until(float("inf"), out)

    def arrive(self, time):
        """A message, and what comes at about the same time: a refusal perhaps, and lines that tell of no message."""
        lot, options = self.random, self.options
        self.message(time)
        if lot.random() < options.rejects / (1 - options.rejects):
            self.reject(time + lot.random() / options.rate)
        while lot.random() < options.noise:
            self.noise(time + lot.random() / options.rate)

    def write_until(self, time, out):
        """Write the lines that are due; returns how many."""
        lines = list(self.due(time))
        out.write("".join(lines).encode("utf-8"))
        return len(lines)

    def due(self, time):
        """The lines before this time."""
        heap = self.heap
        while heap and heap[0][0] < time:
            at, _, program, pid, text = heapq.heappop(heap)
            tag = program if pid is None else "%s[%d]" % (program, pid)
            yield "%s %s %s: %s\n" % (self.stamp(self.options.start + at), self.options.host, tag, text)


def columns(message):
    """What all rows of a message share."""
    return {name: value for name, value in message.items() if name in COLUMNS}


def parse_options(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description="A synthetic Postfix log, and the rows that belong to it.")
    parser.add_argument("-n", "--messages", type=int, help="accepted messages (default 1000)")
    parser.add_argument("--lines", type=int, help="instead: about so many lines")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--style", choices=("traditional", "rfc3339"), default="traditional", help="of the time stamps")
    parser.add_argument("--queue-ids", choices=("long", "short"), default="long", help="enable_long_queue_ids")
    parser.add_argument("--rejects", type=float, default=0.3, help="share of clients that are refused before there is a queue ID")
    parser.add_argument("--noise", type=float, default=0.4, help="chance of each further unrelated event per message")
    parser.add_argument("--rate", type=float, default=5.0, help="messages per second of the log's time")
    parser.add_argument("--start", type=int, default=START, help="time of the first line, in seconds since the epoch")
    parser.add_argument("--zone", type=int, default=0, help="the stamps' offset from UTC, in minutes")
    parser.add_argument("--host", default="mx1")
    parser.add_argument("--truth", help="write the rows here, as JSON lines")
    parser.add_argument("-o", "--out", default="-")
    options = parser.parse_args(arguments)
    if options.messages is None:
        options.messages = max(int(options.lines / LINES_PER_MESSAGE), 1) if options.lines else 1000
    return options


def main(arguments=None):
    """Write what the options ask for; tell how much it was on standard error."""
    options = parse_options(arguments)
    generator = Generator(options)
    with (sys.stdout.buffer if options.out == "-" else open(options.out, "wb")) as out:
        lines = generator.run(out)
    if generator.truth:
        generator.truth.close()
    if options.out != "-":
        end = options.start + options.messages / options.rate
        os.utime(options.out, (end, end))       # traditional stamps have no year: it is that of the last writing
    sys.stderr.write("%d lines, %d messages, %d refusals, %d rows\n" % (lines, generator.messages, generator.rejects, generator.rows))


if __name__ == "__main__":
    main()
