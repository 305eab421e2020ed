"""No input takes more than linear time: growth is measured, on texts made to make each pattern, and each function that reads, go back.

A text of 64 KiB (MAX_LINE, more is never looked at) is a beginning that matches, a piece of it again and again, and an end that does
not. The beginnings and pieces come from the parse tree of each pattern, and from the samples of every line template. Four times the
text may take four times the processor time, and a little more; what takes nine times as long, twice over, and again when measured
again, is not linear. No duration is judged by itself; what takes less than a millisecond at 16 KiB is not measured further.
"""
import ast
import collections
import functools
import inspect
import re
import time

import pytest

from tests.unit.replay import PRESENT, tracker
from tests.unit.test_samples import ALL, STAMP

try:
    from re import _constants as codes
    from re import _parser as trees
except ImportError:                                 # before Python 3.11
    import sre_constants as codes
    import sre_parse as trees

SIZES = (4096, 16384, 65536)
WORTH_A_LOOK = 0.001                                # seconds of processor time at 16 KiB
LINEAR, TRIES = 9, 5
ALPHABET = "aA1z9FxTZ ,;:.<>()[]{}@=\"\\/-+_?|#\xc3"


# -- growth

def cost(act, text, times):
    """Seconds of processor time, the least of some tries."""
    least = float("inf")
    for _ in range(times):
        began = time.process_time()
        act(text)
        least = min(least, time.process_time() - began)
    return least


class Attack(collections.namedtuple("Attack", "beginning piece end")):
    """A text of any size."""

    def text(self, size):
        """As many pieces as fit between beginning and end."""
        return self.beginning + self.piece * max((size - len(self.beginning) - len(self.end)) // len(self.piece), 1) + self.end


def is_linear(act, attack):
    """Whether the cost of an attack grows as its text does. A suspect is measured again, more carefully, before it is one."""
    small, middle, large = map(attack.text, SIZES)
    if cost(act, middle, 1) < WORTH_A_LOOK or cost(act, middle, 3) < WORTH_A_LOOK:
        return True
    if any(cost(act, middle, times) <= LINEAR * cost(act, small, times) for times in range(1, TRIES)):
        return True
    return cost(act, large, 1) <= LINEAR * cost(act, middle, TRIES)


def superlinear(act, attacks):
    """The first attack whose cost grows faster than its text, or None."""
    return next((attack for attack in attacks if not is_linear(act, attack)), None)


# -- attacks on patterns, from their parse trees

def members(items):
    """Characters of a class."""
    pattern = re.compile("[%s]" % "".join(map(member, items)))
    return [one for one in ALPHABET if pattern.match(one)] or [chr(one) for one in range(1, 256) if pattern.match(chr(one))][:1]


CATEGORIES = {codes.CATEGORY_DIGIT: r"\d", codes.CATEGORY_NOT_DIGIT: r"\D", codes.CATEGORY_SPACE: r"\s", codes.CATEGORY_NOT_SPACE: r"\S",
              codes.CATEGORY_WORD: r"\w", codes.CATEGORY_NOT_WORD: r"\W"}


def member(item):
    """An item of a class, as it stands in a pattern."""
    kind, value = item
    if kind is codes.NEGATE:
        return "^"
    if kind is codes.RANGE:
        return "%s-%s" % tuple(re.escape(chr(one)) for one in value)
    return CATEGORIES[value] if kind is codes.CATEGORY else re.escape(chr(value))


def pieces(tree):
    """Texts that a part of a pattern matches, one for each way through it that matters."""
    kind, value = tree[0] if len(tree) == 1 else (None, None)
    if kind is codes.IN:
        return members(value)
    if kind is codes.NOT_LITERAL:
        return [one for one in ALPHABET if one != chr(value)]
    if kind is codes.ANY:
        return list(ALPHABET)
    if kind is codes.SUBPATTERN:
        return pieces(value[-1])
    if kind is codes.BRANCH:
        return [piece for way in value[1] for piece in pieces(way)]
    return [example(tree)]


def example(tree):
    """A text that a part of a pattern matches."""
    return "".join(example_of(kind, value) for kind, value in tree)


def example_of(kind, value):
    """A text that one node matches; of what may be absent, one."""
    if kind is codes.LITERAL:
        return chr(value)
    if kind in (codes.IN, codes.NOT_LITERAL, codes.ANY):
        return pieces([(kind, value)])[0]
    if kind is codes.SUBPATTERN:
        return example(value[-1])
    if kind is codes.BRANCH:
        return example(value[1][0])
    if kind in (codes.MAX_REPEAT, codes.MIN_REPEAT):
        return example(value[2]) * max(value[0], 1)
    return ""                                       # anchors, and looks ahead


def repeats(tree, before=""):
    """(text before, what is repeated) for every repeat of a pattern that knows no limit, or a high one."""
    for kind, value in tree:
        if kind is codes.SUBPATTERN:
            yield from repeats(value[-1], before)
        elif kind is codes.BRANCH:
            for way in value[1]:
                yield from repeats(way, before)
        elif kind in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            yield from repeats(value[2], before)
            if value[1] > 8:
                yield before, value[2]
        before += example_of(kind, value)


def attacks_on_pattern(pattern):
    """Every repeat fed with all that it takes, and every piece of a matching text, over and over."""
    tree = trees.parse(pattern.pattern, pattern.flags)
    whole = example(tree)
    found = {Attack(before, piece, end) for before, body in repeats(tree) for piece in pieces(body) if piece
             for end in ("\0", "!", whole[-1:])}
    found |= {Attack("", whole[first:last], "\0") for last in range(1, len(whole) + 1)
              for first in {0, last - 1, last - 2, last - 4, last - 8} if 0 <= first < last}
    return sorted(found)


# -- what is used, and how

SOURCE = ast.parse(inspect.getsource(tracker))
METHODS = ("match", "fullmatch", "search", "finditer", "findall", "sub", "split")
HANDED_ON = {"SMTPD_TRAILERS": "search", "POSTSCREEN_TRAILERS": "search", "CHECK_TRAILERS": "finditer", "PLAIN": "match",
             "STAMP_FORMS": "match"}                # patterns that are used under another name


LET_THROUGH = {"FIELD": "DELIVERY, INTERNAL_TAIL: fields with their commas", "ROTATED": "names of files", "ROTATED_LOG": "names of files"}


def patterns():
    """{name: pattern} of all compiled patterns of the module, those in lists and those whose method alone is kept, too."""
    found = {}
    for name, value in vars(tracker).items():
        listed = isinstance(value, (list, tuple))
        for number, one in enumerate(value if listed else [value]):
            first = one[0] if isinstance(one, tuple) and one else one
            pattern = getattr(first, "__self__", first)
            if isinstance(pattern, re.Pattern):
                found["%s[%d]" % (name, number) if listed else name] = pattern
    found.update(("USUAL[%s]" % parse.__name__, pattern) for parse, (_, pattern) in tracker.USUAL.items())
    return found


def uses():
    """{(name, method): whether it looks at a window of the text only} of all calls of a pattern's methods."""
    found = {}
    for node in ast.walk(SOURCE):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) \
                and node.func.attr in METHODS:
            windowed = any(isinstance(name, ast.Name) and name.id == "TRAILER_REACH" for one in node.args for name in ast.walk(one))
            key = node.func.value.id, node.func.attr
            found[key] = found.get(key, True) and windowed
    return found


USES = uses()


def methods_of(name):
    """How a pattern is used on texts of any length."""
    plain = name.partition("[")[0]
    if plain == "USUAL":
        return ["findall"]
    if plain in LET_THROUGH:
        return []
    if plain in HANDED_ON:
        return [] if HANDED_ON[plain] != "match" else ["match"]
    return [method for (owner, method), windowed in USES.items() if owner == plain and not windowed]


def applied(pattern, method):
    """A use of a pattern, to the end of what it finds."""
    use = getattr(pattern, method)
    if method == "sub":
        return functools.partial(use, "_")
    return (lambda text: collections.deque(use(text), 0)) if method == "finditer" else use


PATTERNS = [(name, method) for name in patterns() for method in methods_of(name)]


@pytest.mark.parametrize("name, method", PATTERNS)
def test_a_pattern_takes_linear_time(name, method):
    pattern = patterns()[name]
    assert superlinear(applied(pattern, method), attacks_on_pattern(pattern)) is None


def test_every_pattern_is_measured():
    """Alone, or with the functions that look at no more than a window of its text, or at what another pattern let through."""
    measured = {id(patterns()[name]) for name, _ in PATTERNS}
    with_functions = {owner for (owner, _), window in USES.items() if window} | set(HANDED_ON) | set(LET_THROUGH)
    left = [name for name, pattern in patterns().items() if id(pattern) not in measured and name.partition("[")[0] not in with_functions]
    assert not left
    assert len(measured) > 60


# -- functions

def whole_line(text):
    """All that the tracker does with a line."""
    reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(0, "", tracker.DomainFilter(["example.com"])), len, len)
    reader.feed([text], 0, 0)
    reader.correlator.close(everything=True)
    tracker.settle(reader.correlator.harvest(), lambda names: {}, 0, reader.correlator.filter)


TRACKS = tracker.DomainFilter(["example.com"]).tracks
READERS = (
    (tracker.Calendar(PRESENT).read, STAMP), (tracker.split_prefix, "mx1 postfix-in/smtpd[42]"),
    (tracker.split_uncolonned, "mx postfix/submission/smtpd[1234567 4X: client=a[::1]"),
    (tracker.split_line, "mx1 mail.info postfix/smtpd[1]: x"),
    (lambda head: tracker.second_head(head, 16), "Nov 29 14:53:17 mx poNov 29 14:53:20 mx postfix/smtp[14]"),
    (lambda head: tracker.second_head(head, -1), "2026-11-29T14:52026-11-29T14:53:20+00:00 <mail.info> mx postfix/smtp[14]"),
    (lambda line: tracker.inner_line(line, -1), '{"log":"a\\u003c: b\\n","stream":"stdout"}'),
    (lambda line: tracker.inner_line(line, 0), "mx 075f16ca663a[811]: Nov 29 14:53:20 075f16ca663a postfix/smtp[14]: x"),
    (tracker.split_uncolonned, 'mx app 42 ID [a@1 b="c"][d@2 e="f\\""] text'), (tracker.is_queue_id, "4jXSnX0bKLz1Tq"),
    (tracker.codes_of, "550-5.7.26 no"), (tracker.number, "-10.5"), (tracker.queued_as, "250 2.0.0 Ok: queued as 4F00061AE"),
    (tracker.own_words, '250 a<\\"b"<c'), (tracker.own_words, '250 a<\\"b\\'),
    (tracker.closed, "host x said: 550 no (in reply to RCPT TO command))"),
    (tracker.find_trailer, "Subject: x from a[192.0.2.1]; from=<a@b> to=<c@d> proto=SMTP helo=<e>: no"),
    (lambda said: tracker.spf_of_refusal("5.7.23", said), "Message rejected due to: Receiver policy for SPF Softfail"),
    (lambda said: tracker.spf_of_refusal("5.7.23", said), "550 5.7.23 <a@b>: Recipient address rejected: Message rejected due to: x"),
    (tracker.unwrap_srs, "SRS1=HHH=fwd.example==HHH=TT=orig.example=user@me.example"), (tracker.text_of, "j\xc3\xb6rg\0\xff"),
    (tracker.bare, '"a\\"b"@Example.org'), (tracker.message_id_forms, "<a b,c\\x{C3}\\\\@x> <y>"),
    (tracker.message_id_content, "<a@b> <c>"), (tracker.split_relay.__wrapped__, "mx.example[2001:db8::1]:25"),
    (tracker.reply_code, "Protocol error: host x[y] said: 550-5.7.1 no"), (lambda to: TRACKS(to, to), "a@b.c.example.net"),
)


def attacks_on_text(text):
    """A text with one of its pieces, or a character, many times in any place, and the rest behind it or none."""
    edges = [0, *(found.end() for found in re.finditer("[^0-9A-Za-z.]+|$", text))]
    found = set()
    for place in edges:
        units = set(' ,;:<>"\\[]()=@a.1') | {text[first:place] for first in edges if first < place and (place - first < 60 or not first)}
        found |= {Attack(text[:place], unit, end) for unit in units for end in (text[place:], "\0")}
    return sorted(found)


@pytest.mark.parametrize("reader, text", READERS, ids=[text for _, text in READERS])
def test_a_function_takes_linear_time(reader, text):
    assert superlinear(reader, attacks_on_text(text)) is None


def lines_by_parser():
    """{name: lines}: one line of each kind, by the parser that reads it."""
    found, known = collections.OrderedDict(), set()
    for sample in ALL:
        program, _, text = sample.line.partition(": ")
        parser = tracker.parser_of(re.sub(r"\[[0-9]+\]$", "", program)) if sample.file != "headers" else None
        if parser and (parser, sample.kind) not in known:
            known.add((parser, sample.kind))
            found.setdefault(parser.__name__, []).append((parser, text, sample.line))
    return found


LINES = lines_by_parser()


@pytest.mark.parametrize("name", LINES)
def test_a_parser_takes_linear_time(name):
    for parser, text, _ in LINES[name]:
        assert superlinear(parser, attacks_on_text(text)) is None


@pytest.mark.parametrize("name", LINES)
def test_a_line_takes_linear_time_from_its_stamp_to_its_rows(name):
    for _, _, line in LINES[name][:3]:
        assert superlinear(whole_line, attacks_on_text(STAMP + line)[::7]) is None


# -- many messages at once

SENT = ", delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent "


def newsletter(copies):
    """Mails with one Message-ID, all in the queue before the first of them is delivered, on a host that scans others."""
    ids = ["4%09X1" % number for number in range(copies)]
    lines = ["spamd[5]: spamd: processing message <other@example.net> for debian-spamd:117"]
    for queue_id in ids:
        lines += ["postfix/smtpd[9]: %s: client=lists[192.0.2.1]" % queue_id,
                  "postfix/cleanup[8]: %s: message-id=<issue-7@example.org>" % queue_id,
                  "postfix/qmgr[7]: %s: from=<list@example.org>, size=9, nrcpt=1 (queue active)" % queue_id]
    for queue_id in ids:
        lines += ["postfix/smtp[6]: %s: to=<b@example.net>, relay=mx[192.0.2.9]:25%s(ok)" % (queue_id, SENT),
                  "postfix/qmgr[7]: %s: removed" % queue_id]
    return [STAMP + line for line in lines]


def guesses(count):
    """Recipients that one client asks for and does not get, after a table has decided on the filter of the mail."""
    lines = []
    for number in range(count):
        envelope = "; from=<a@example.org> to=<guess%d@example.net> proto=ESMTP helo=<x>" % number
        lines += ["NOQUEUE: filter: RCPT from x[192.0.2.1]: <x[192.0.2.1]>: Client host triggers FILTER scan:[192.0.2.9]" + envelope,
                  "NOQUEUE: reject: RCPT from x[192.0.2.1]: 550 5.1.1 <guess%d@example.net>: User unknown" % number + envelope]
    return [STAMP + "postfix/smtpd[9]: " + line for line in lines]


MAILING = ["postfix/cleanup[8]: 3B1B2172385: message-id=<issue-8@example.org>",
           "postfix/qmgr[7]: 3B1B2172385: from=<list@example.org>, size=9, nrcpt=1 (queue active)"]


def forwards(count):
    """A mail to many, whom local(8) forwards it, to each under an ID of its own."""
    lines = MAILING[:]
    for number in range(count):
        queue_id = "4%09X1" % number
        lines += ["postfix/cleanup[8]: %s: message-id=<issue-8@example.org>" % queue_id,
                  "postfix/local[6]: 3B1B2172385: to=<b%d@example.net>, relay=local%s(forwarded as %s)" % (number, SENT, queue_id),
                  "postfix/smtp[5]: %s: to=<b%d@example.com>, orig_to=<b%d@example.net>, relay=mx[192.0.2.9]:25%s(ok)"
                  % (queue_id, number, number, SENT), "postfix/qmgr[7]: %s: removed" % queue_id]
    return [STAMP + line for line in lines + ["postfix/qmgr[7]: 3B1B2172385: removed"]]


def forwards_behind_a_filter(count):
    """The same, when a content filter has taken the mail for all of them in and handed it on at once."""
    lines = ["postfix/qmgr[7]: 3A1B2172384: from=<list@example.org>, size=9, nrcpt=1 (queue active)",
             "postfix/smtpd[9]: 3B1B2172385: client=localhost[127.0.0.1], orig_queue_id=3A1B2172384"]
    lines += ["postfix/smtp[6]: 3A1B2172384: to=<b%d@example.net>, relay=127.0.0.1[127.0.0.1]:10024%s(250 ok: queued as 3B1B2172385)"
              % (number, SENT) for number in range(count)]
    return [STAMP + line for line in lines] + forwards(count)


def batches(count):
    """A mail to many, which a content filter hands on to ten at a time."""
    lines = MAILING[:]
    for first in range(0, count, 10):
        queue_id = "4%09X1" % first
        lines += ["postfix/smtpd[9]: %s: client=localhost[127.0.0.1], orig_queue_id=3B1B2172385" % queue_id]
        for number in range(first, first + 10):
            lines += ["postfix/smtp[6]: 3B1B2172385: to=<b%d@example.net>, relay=127.0.0.1[127.0.0.1]:10024%s(250 ok: queued as %s)"
                      % (number, SENT, queue_id),
                      "postfix/smtp[5]: %s: to=<b%d@example.net>, relay=mx[192.0.2.9]:25%s(ok)" % (queue_id, number, SENT)]
        lines += ["postfix/qmgr[7]: %s: removed" % queue_id]
    return [STAMP + line for line in lines + ["postfix/qmgr[7]: 3B1B2172385: removed"]]


def aliases(count):
    """A mail to many, whose aliases cannot be looked up at first."""
    lines = ["postfix/local[6]: 3B1B2172385: to=<b%d@example.net>, relay=local, delay=1, delays=0/0/1/0, dsn=4.3.0, status=deferred "
             "(alias database unavailable)" % number for number in range(count)]
    lines += ["postfix/smtp[5]: 3B1B2172385: to=<c%d@example.com>, orig_to=<b%d@example.net>, relay=mx[192.0.2.9]:25%s(ok)"
              % (number, number, SENT) for number in range(count)]
    return [STAMP + line for line in MAILING + lines]


def burst(count):
    """Mails of one client, all of which come in before qmgr tells the sender of the first, and a policy server that has spoken."""
    ids = ["4%09X1" % number for number in range(count)]
    lines = ["policyd-spf[4]: prepend Received-SPF: Pass (mailfrom) identity=mailfrom; client-ip=192.0.2.1; helo=x; "
             "envelope-from=a@example.org; receiver=y"]
    for queue_id in ids:
        lines += ["postfix/smtpd[9]: %s: client=x[192.0.2.1]" % queue_id,
                  "postfix/cleanup[8]: %s: message-id=<%s@x>" % (queue_id, queue_id)]
    for queue_id in ids:
        lines += ["postfix/qmgr[7]: %s: from=<a@example.org>, size=9, nrcpt=1 (queue active)" % queue_id,
                  "postfix/smtp[5]: %s: to=<b@example.net>, relay=mx[192.0.2.9]:25%s(ok)" % (queue_id, SENT)]
    return [STAMP + line for line in lines]


def burst_backwards(count):
    """The same, when qmgr tells of the last one first."""
    lines = burst(count)
    told = len(lines) - 2 * count
    return lines[:told] + [line for place in range(len(lines) - 2, told - 1, -2) for line in lines[place:place + 2]]


def refuse(line):
    """None of these lines is odd."""
    raise AssertionError(line)


def correlate(lines):
    """How many rows these lines make."""
    life = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(tracker.HOUR), refuse, refuse)
    for first in range(0, len(lines), 1000):
        life.feed(lines[first:first + 1000], first, 0)
    life.correlator.close(True)
    return len(tracker.settle(life.correlator.harvest(), lambda names: {}, 0, tracker.DomainFilter(())))


@pytest.mark.parametrize("log_of, rows", [
    (newsletter, 1), (guesses, 1), (forwards, 2), (forwards_behind_a_filter, 3), (batches, 2), (aliases, 1), (burst, 1),
    (burst_backwards, 1)])
def test_mails_cost_each_what_one_costs(log_of, rows):
    """Also those with one Message-ID, and those that one client does not get rid of; and so does each recipient of one mail."""
    few, many = log_of(500), log_of(4000)
    assert (correlate(few), correlate(many)) == (500 * rows, 4000 * rows)
    assert any(cost(correlate, many, times) <= 16 * cost(correlate, few, times) for times in range(1, TRIES)), "8 times are linear, 64 not"
