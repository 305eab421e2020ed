"""A mail log under load: whole stories told side by side at a given rate, the same for the same seed.

In a process of its own, its stamps those of the wall clock, until it gets SIGTERM; then it tells the stories under way to their
end and prints its figures as JSON:

    load.py LOG RATE SEED

or in memory, with `tell`.
"""
import datetime
import heapq
import itertools
import json
import random
import signal
import subprocess
import sys
import time

DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
TICK = 0.02
HOPS = ("mx.ok.test[192.0.2.90]:25", "mx.far.test[192.0.2.91]:25", "mail.example.test[2001:db8::25]:25")
WHY = "connect to mx.slow.test[192.0.2.99]:25: Connection timed out"


class Mail:
    """One mail: who sends it, from where, under which queue ID, and what happens to it, step by step."""

    def __init__(self, number, seed):
        self.number = number
        self.lot = random.Random("%d/%d" % (seed, number))
        self.queue_id = "4Zx%s%sz%s" % (self.digits(number // 200, 4), self.digits(number, 4), self.digits(number % 51, 3))
        self.short_id = "3%09X" % (number * 4099)
        self.client_ip = "198.18.%d.%d" % (number // 250 % 250, number % 250 + 1)
        self.client = "mail%d.good.test[%s]" % (number % 97, self.client_ip)
        self.sender = "a%d@good.test" % number
        self.smtpd = "postfix/smtpd[%d]" % (1000 + number % 20000)

    @staticmethod
    def digits(number, width):
        """A number in the digits of Postfix's long queue IDs: seconds, microseconds and inode are told in them."""
        found = ""
        for _ in range(width):
            found = DIGITS[number % 52] + found
            number //= 52
        return found

    def taken_in(self, queue_id, spf=True, tls=False):
        """From connect to the queue."""
        yield 0.002, self.smtpd, "connect from " + self.client
        if tls:
            yield 0.004, self.smtpd, (
                "Anonymous TLS connection established from %s: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)" % self.client)
        if spf:
            yield 0.01, "policyd-spf[%d]" % (50 + self.number % 7), (
                ": prepend Received-SPF: %s (mailfrom) identity=mailfrom; client-ip=%s; helo=mail.good.test; envelope-from=%s; "
                "receiver=<UNKNOWN> " % (self.lot.choice(("Pass", "Softfail", "None")), self.client_ip, self.sender))
        yield 0.002, self.smtpd, "%s: client=%s" % (queue_id, self.client)
        yield 0.01, "postfix/cleanup[20]", "%s: message-id=<m%d.%s@good.test>" % (queue_id, self.number, queue_id)

    def queued(self, queue_id, nrcpt=1, sender=None):
        """qmgr takes it, the client goes."""
        yield 0.01, "postfix/qmgr[30]", "%s: from=<%s>, size=%d, nrcpt=%d (queue active)" % (
            queue_id, self.sender if sender is None else sender, 1000 + self.number, nrcpt)
        if sender is None:
            yield 0.001, self.smtpd, "disconnect from %s ehlo=1 mail=1 rcpt=%d data=1 quit=1 commands=%d" % (self.client, nrcpt, nrcpt + 4)

    def delivery(self, queue_id, to, status="sent", reply="250 2.0.0 Ok: queued as 4F00061AE", relay=None, wait=0.2):
        """One attempt."""
        relay = relay or ("none" if status == "deferred" else self.lot.choice(HOPS))
        dsn = {"sent": "2.0.0", "deferred": "4.4.1", "bounced": "5.1.1"}[status]
        yield wait, "postfix/%s[40]" % ("local" if relay == "local" else "smtp"), (
            "%s: to=<%s>, relay=%s, delay=%.2f, delays=0.1/0/0.1/0, dsn=%s, status=%s (%s)" % (
                queue_id, to, relay, wait + 0.1, dsn, status, reply))

    @staticmethod
    def removed(queue_id):
        """The end."""
        yield 0.001, "postfix/qmgr[30]", "%s: removed" % queue_id

    def address(self, place=0):
        """The recipient of this place."""
        return "b%d.%d@%s.test" % (self.number, place, ("ok", "far", "example")[place % 3])

    def relayed(self):
        """To one, two or three recipients, at once."""
        count = self.lot.randint(1, 3)
        yield from self.taken_in(self.queue_id, tls=self.number % 3 == 0)
        yield from self.queued(self.queue_id, count)
        for place in range(count):
            yield from self.delivery(self.queue_id, self.address(place), wait=self.lot.uniform(0.01, 0.8))
        yield from self.removed(self.queue_id)

    def retried(self, waits=(0.3, 5)):
        """Deferred, and sent with a later attempt; the other recipient at once."""
        yield from self.taken_in(self.queue_id, spf=False)
        yield from self.queued(self.queue_id, 2)
        yield from self.delivery(self.queue_id, self.address(0))
        for wait in waits:
            yield from self.delivery(self.queue_id, self.address(1), "deferred", WHY, wait=wait)
        yield from self.delivery(self.queue_id, self.address(1), wait=self.lot.uniform(1, 5))
        yield from self.removed(self.queue_id)

    def long_retried(self):
        """Deferred again and again."""
        yield from self.retried((0.3, 4, 5, 6))

    def refused(self):
        """NOQUEUE, two recipients of one session, the SPF result used up by the first."""
        yield 0.002, self.smtpd, "connect from " + self.client
        yield 0.01, "policyd-spf[57]", (
            ": prepend Received-SPF: Fail (mailfrom) identity=mailfrom; client-ip=%s; helo=h; envelope-from=%s; receiver=<UNKNOWN> "
            % (self.client_ip, self.sender))
        for address in (self.address(0), self.address(1)):
            yield 0.01, self.smtpd, (
                "NOQUEUE: reject: RCPT from %s: 550 5.1.1 <%s>: Recipient address rejected: User unknown in relay recipient table; "
                "from=<%s> to=<%s> proto=ESMTP helo=<mail.good.test>" % (self.client, address, self.sender, address))
        yield 0.01, self.smtpd, "disconnect from %s ehlo=1 mail=1 rcpt=0/2 quit=1 commands=3/5" % self.client

    def filtered(self, pause=0):
        """Through a content filter: it comes back under another ID, and goes out, maybe before the filter has answered."""
        child, address = self.short_id, self.address()
        yield from self.taken_in(self.queue_id)
        yield from self.queued(self.queue_id)
        yield 0.1, "postfix/smtpd[17]", "%s: client=localhost[127.0.0.1]" % child
        yield 0.01, "postfix/cleanup[21]", "%s: message-id=<m%d.%s@good.test>" % (child, self.number, self.queue_id)
        yield from self.queued(child, sender=self.sender)
        first = itertools.chain(self.delivery(self.queue_id, address, reply="250 2.0.0 Ok: queued as " + child,
                                              relay="127.0.0.1[127.0.0.1]:10024", wait=pause or 0.01), self.removed(self.queue_id))
        second = itertools.chain(self.delivery(child, address, wait=self.lot.uniform(0.1, 1)), self.removed(child))
        for leg in (second, first) if pause else (first, second):
            yield from leg

    def filtered_slowly(self):
        """The filter answers when what it handed on is long delivered and written."""
        yield from self.filtered(self.lot.uniform(0.5, 2))

    def bounced(self):
        """Refused by the next hop; the sender is told, by a message of its own."""
        child = self.short_id
        yield from self.taken_in(self.queue_id)
        yield from self.queued(self.queue_id)
        yield from self.delivery(self.queue_id, self.address(), "bounced", "host mx.ok.test[192.0.2.90] said: 550 5.1.1 unknown")
        yield 0.01, "postfix/cleanup[22]", "%s: message-id=<20261122131312.%s@mx.relay.test>" % (child, child)
        yield from self.queued(child, sender="")
        yield 0.001, "postfix/bounce[50]", "%s: sender non-delivery notification: %s" % (self.queue_id, child)
        yield from self.removed(self.queue_id)
        yield from self.delivery(child, self.sender, wait=1)
        yield from self.removed(child)

    def requeued(self):
        """Deferred, requeued by the administrator, sent under its new ID."""
        yield from self.taken_in(self.queue_id)
        yield from self.queued(self.queue_id)
        yield from self.delivery(self.queue_id, self.address(), "deferred", WHY)
        yield 4, "postfix/postsuper[60]", "%s: requeued" % self.queue_id
        yield 2, "postfix/pickup[61]", "%s: uid=104 from=<%s> orig_id=%s" % (self.short_id, self.sender, self.queue_id)
        yield 0.01, "postfix/cleanup[23]", "%s: message-id=<m%d.%s@good.test>" % (self.short_id, self.number, self.queue_id)
        yield from self.queued(self.short_id, sender=self.sender)
        yield from self.delivery(self.short_id, self.address())
        yield from self.removed(self.short_id)

    def given_out_anew(self):
        """A short queue ID that comes back as soon as it is free."""
        for turn in range(2):
            yield from self.taken_in(self.short_id, spf=False)
            yield from self.queued(self.short_id)
            yield from self.delivery(self.short_id, self.address(turn))
            yield from self.removed(self.short_id)
            yield 0.4, "postfix/anvil[70]", "statistics: max cache size 1 at Nov 22 10:00:00"

    def broken_off(self):
        """The client goes away in the middle of the content."""
        yield from self.taken_in(self.queue_id)
        yield 0.5, self.smtpd, "lost connection after DATA (24 bytes) from " + self.client
        yield 0.001, self.smtpd, "disconnect from %s ehlo=1 mail=1 rcpt=1 data=0/1 commands=3/4" % self.client


STORIES = (("relayed", 55), ("retried", 12), ("long_retried", 3), ("refused", 10), ("filtered", 6), ("filtered_slowly", 4),
           ("bounced", 5), ("requeued", 3), ("given_out_anew", 3), ("broken_off", 3))
NAMES = [name for name, _ in STORIES]
WEIGHTS = [weight for _, weight in STORIES]


def tell(seed, rate, begin, enough):
    """(time, line) of mails that come in at this rate until `enough(number)`; then of those under way, to their end."""
    lot, heap = random.Random(seed), []
    for number in itertools.count():
        birth = begin + number / rate
        ended = enough(number)
        while heap and (ended or heap[0][0] < birth):
            when, place, program, text, story = heapq.heappop(heap)
            yield when, "%s mx %s: %s\n" % (stamp(when), program, text)
            push(heap, when, place, story)
        if ended:
            return
        push(heap, birth, number, iter(getattr(Mail(number, seed), lot.choices(NAMES, WEIGHTS)[0])()))


def push(heap, now, place, story):
    """Bring the next step of a story in line."""
    step = next(story, None)
    if step is not None:
        heapq.heappush(heap, (now + step[0], place, step[1], step[2], story))


def stamp(moment):
    """A time stamp of rsyslog's RFC 3339 form."""
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")


def main(path, rate, seed):
    """Write the log until told to stop, each line when it is due."""
    ended, born, lines, begin, mark = [], [0], 0, time.time(), None
    signal.signal(signal.SIGTERM, lambda *_: ended.append(time.time()))

    def enough(number):
        born[0] = number
        return bool(ended)

    with open(path, "a", encoding="ascii") as log:
        for when, line in tell(seed, rate, begin, enough):
            if not ended and when > time.time():
                log.flush()
                time.sleep(max(TICK, when - time.time()))
            log.write(line)
            lines += 1
            if ended and mark is None:
                mark = ended[0] - begin
    print(json.dumps({"messages": born[0], "lines": lines, "seconds": round(mark, 1), "rate": round(born[0] / mark)}))


class Writer:
    """The writer as a process; `stop` lets it end its stories, and returns its figures."""

    def __init__(self, path, rate, seed):
        self.process = subprocess.Popen([sys.executable, __file__, str(path), str(rate), str(seed)], stdout=subprocess.PIPE)

    def stop(self):
        """Let it finish; returns its figures, None when it is stopped already."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        process.terminate()
        return json.loads(process.communicate(timeout=60)[0].decode())


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
