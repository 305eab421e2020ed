#!/usr/bin/env python3
"""NAME
    mail_relay_tracker - record in a database what became of every mail in a Postfix log

SYNOPSIS
    mail_relay_tracker.py [-c FILE] [-v|-vv]                        follow the log until stopped (the service)
    mail_relay_tracker.py [-c FILE] --once [--dry-run]              read to the end of the log, write what is known, exit
    mail_relay_tracker.py [-c FILE] --import FILE... [--dry-run]    historical logs, packed or not, in any order
    mail_relay_tracker.py [-c FILE] --check                         configuration, log, state, database, schema

DESCRIPTION
    One row of mail_relay_log per message and recipient: client, sender (behind SRS, too), SPF, DKIM, DMARC, spam score, milter
    actions, next hop, outcome. A later delivery attempt updates the same row. The way of a line:

        bytes -> Follower -> lines -> Calendar, split_prefix -> time, process, text
              -> Pile -> parse_<program> -> event -> Correlator.fold_<event> -> Message
              -> settle (with what the store remembers) -> Row -> Store -> saved position

    Lines come in batches: those of one program are parsed together, which is faster, then all are folded in the order of the log.

    Where to find a rule, for instance that for milter-hold: `parse_decision` makes a Verdict of the line, `fold_verdict` decides whom it
    concerns, `Message.sweep` brings it to the recipients.

MAP
    constants and limits    units of time, how long and how much is kept; patterns and tables stand where they are used
    errors                  named by what they make the program do
    records                 the table's columns; events: what one line says
    line header             time stamps, host, program, pid
    program parsers         text -> event, a function per program; POSTFIX_PARSERS and OTHER_PARSERS list them; USUAL, for many texts
    addresses               SRS, the domain filter
    correlator              events -> messages -> rows; the low-water mark
    stores                  SQLite; MySQL and MariaDB
    log follower            rotation, truncation, packed siblings
    state file              the position, safely kept; rows that were refused
    configuration           one table of options: parsing, checks, template, README
    daemon loop             read, fold, write, save; signals; waiting for the database
    commands and main
    Each section uses only those above it. Those from line header to correlator are pure: no clock, file, socket or driver.
    `grep -n '^# [-=]' mail_relay_tracker.py` prints this map with the parts of each section.

GLOSSARY
    queue ID        Postfix's name of a message; a short one is given out anew after a while
    birth           the line with which a message begins under its ID: client=, uid= or message-id=
    continuation    lines of a message whose beginning is not in memory: the store may have rows of it
    leg             the way of a mail under one queue ID; a content filter, an alias or postsuper -r begins another
    orig_to, to     the recipient as the client named it, and as handed on (column upstream_to)
    relay           the next hop
    dsn             enhanced status code, RFC 3463
    sweep           an event of a whole message, brought to its recipients
    crowd           what one client has under way, its SPF results yet to be told apart; or twins
    twins           messages with one Message-ID, whose scores are yet to be told apart
    low water       the position of the first line still needed to rebuild what is in memory
    straddle        a stretch of the log that is read again as a whole or not at all: a crowd was under way in it, or a mail that
                    Postfix behind a before-queue filter had begun to take in when the client heard that it is refused
    harvest         messages that are ready for the store
    settle          to make rows of a harvest, with what the store has of it
    witness         a digest of some bytes of a file, by which it is known again whatever its name
    trap N          a pitfall of reading a mail log, tested under this number in tests/unit/test_traps.py

FILES
    ./mail_relay_tracker.conf, /etc/mail_relay_tracker.conf; without either: ./mail_relay_tracker.db, ./mail_relay_tracker.state.json
    <state_file>                    the position; beside it:
    <state_file>.lock               held while a tracker runs
    <state_file>.tmp                the next one, until it is whole
    <state_file>.damaged-<time>     one that could not be used
    <state_file>.rejected.jsonl     rows that the database refused; of --import: ./mail_relay_tracker.rejected.jsonl

SIGNALS
    SIGTERM, SIGINT stop (within two seconds); SIGUSR1 statistics to the log; SIGHUP look at the log at once. One-shot commands
    simply end on the first two, and ignore the others

EXIT STATUS
    0 done; 1 --check found a fault; 64 usage; 73 state or output not writable; 74 log not readable; 75 database gone (one-shot
    commands); 77 access refused; 78 configuration or schema wrong; 130 one-shot command interrupted

GUARANTEE
    The effect of every complete line of the log, or of a renamed predecessor, is in the database exactly once: first rows are
    committed, then a position is saved, which never passes a line whose effect is not committed; every write is an upsert on the
    natural key (server_hostname, queue_id, first_seen, recipient_no), so reading again changes nothing.
"""

import signal
import sys

if __name__ == "__main__":              # before all else: the other imports take a while, and a signal may come meanwhile
    signal.signal(signal.SIGHUP, signal.SIG_IGN)        # asked of a running service, it must not end one that is just starting
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.excepthook = lambda kind, *error: None if kind is KeyboardInterrupt else sys.__excepthook__(kind, *error)

import argparse
import bisect
import bz2
import calendar
import collections
import configparser
import contextlib
import datetime
import difflib
import errno
import fcntl
import functools
import gc
import gzip
import hashlib
import heapq
import importlib
import io
import itertools
import json
import logging
import lzma
import operator
import os
import pwd
import random
import re
import select
import socket
import sqlite3
import stat
import struct
import tempfile
import time as clock
import urllib.parse
import zlib
from typing import (
    IO, Any, Callable, Deque, Dict, Iterable, Iterator, List, Match, NamedTuple, NoReturn, Optional, Pattern, Sequence, Set, TextIO,
    Tuple, Type, Union, cast,
)

LOG = logging.getLogger("mail_relay_tracker")


# ============================================================================ constants and limits

VERSION = "1.0.0"

SECOND = 1000000                    # every time inside is an integer: microseconds since the epoch, UTC
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
EPOCH = datetime.datetime(1970, 1, 1)   # where they begin
NEVER = 1 << 62                     # a time, or a position, that never comes

SCAN_LIFE = 300 * SECOND            # spamd's own limit (--timeout-child); so long a message being scanned is not idle
SPF_WAIT = 60 * SECOND              # a policy result older than this is not of the `client=` that follows
SPF_LATE = SECOND                   # the policy server's line that led to a refusal comes at most so long after it
CROWD_LIFE = 5 * MINUTE             # what is under way together for longer is read again from its last minutes only
PATIENCE = HOUR                     # how long an upload, or a message without recipients, may keep its place in memory
CONNECTION_REUSE = 10 * MINUTE      # an outbound TLS line tells of deliveries up to this later: smtp_connection_reuse_time_limit is 300 s
ANNOUNCED_LIFE = MINUTE             # a message that another one named is born within this time, or was not born here
DRAFT_LIFE = 10 * MINUTE            # a message of which nobody can say yet whether it makes a row waits this long for more
ROWS_LIFE = 8 * DAY                 # rows last heard of before that are not continued: maximal_queue_lifetime is 5 days by default
DISORDER = 10 * SECOND              # lines of several processes may be out of order by this much
BIRTH_DISORDER = 5 * SECOND         # a line older than a message's `client=` by more than this is of another message with its ID
BIRTH_SLACK = 2 * SECOND            # whole-second stamps and rounded delays, when a birth or a connection is placed within a delivery

MAX_OPEN = 30000                    # open messages; the oldest are written and forgotten beyond that
MAX_CONTEXTS = 20000                # sessions, TLS connections, waiting results, SRS pairs: each table
MAX_STRADDLES = 500                 # beyond that, those that nobody needs any more are dropped
MAX_WAITING = 1000                  # SPF results of one client, mails and verdicts of one Message-ID, refusals of one sender
MAX_ORIGINS = 6000                  # cached line prefixes ("host program[pid]")
MAX_PROGRAMS = 500                  # programs with counters of their own
MAX_GENERATIONS = 10                # messages of which one came from the other, found in the store
MAX_COPIES = 10000                  # repetitions that are believed of "message repeated n times"
MAX_LINE = 65536                    # bytes of one line that are looked at; the rest is dropped, counted
MAX_DOMAIN = 255                    # characters of a domain name
RECORD = 1999                       # Postfix cuts a record at 2000 bytes (msg_syslog.c); a blank at the end may be gone, too
TRAILER_REACH = 4096                # the last fields of a record stand within so many characters of its end

TEXT_LIMIT = 16000                  # characters kept of a TEXT column
SAMPLES = 100                       # failed lines, and refused rows, shown per run
BATCH_ROWS = 500                    # rows of one statement: more gains nothing
MAX_HALVINGS = 5                    # of that, while statements fail
MAX_FINISHED = 4 * BATCH_ROWS       # finished messages that wait for the next time to write; more are written at once
BATCH_NAMES = 400                   # queue IDs in one query: even at their longest they fit into MIN_PACKET
BATCH_BYTES = 500000                # below max_allowed_packet of every server in the field
MAX_RECENT = BATCH_ROWS             # rows that are written once more to a server that may have forgotten them

SENT, BOUNCED, DEFERRED, EXPIRED, REJECTED, HELD = "sent", "bounced", "deferred", "expired", "rejected", "held"
DISCARDED, DELETED, REQUEUED, INCOMPLETE = "discarded", "deleted", "requeued", "incomplete"
UNDECIDED = frozenset((None, DEFERRED, HELD, INCOMPLETE))       # a later event of the whole message still reaches these

PARSED, IGNORED_LINES, FOREIGN, UNSUPPORTED, FAILED = range(5)  # places in a program's tally
CLASSES = ("parsed", "ignored", "foreign", "unsupported", "failed")


# ============================================================================ errors

class TrackerError(Exception):
    """Something the operator can mend: its text names the file, the key and the remedy. `exit_code`: as in sysexits.h, save 1."""

    exit_code = 1


class UsageError(TrackerError):
    """The command line is wrong."""

    exit_code = 64


class OutputError(TrackerError):
    """The state file, the reject file or standard output cannot be written."""

    exit_code = 73


class StateTaken(OutputError):
    """Another tracker has this state file."""


class LogError(TrackerError):
    """The log, or a file to import, cannot be read."""

    exit_code = 74


class StoreGone(TrackerError):
    """The database does not answer, or not now: keep everything, wait, try again."""

    exit_code = 75


class StoreRefused(TrackerError):
    """The database answers and refuses: password, rights. Keep everything, tell the operator, try again slowly."""

    exit_code = 77


class ConfigError(TrackerError):
    """The configuration or the schema is wrong."""

    exit_code = 78


class RowRefused(Exception):
    """The database will never take this value: set the row aside, go on with the others."""


class Interrupted(KeyboardInterrupt):
    """Told to stop while a call did not return; not an Exception, so that no driver catches it."""


# ============================================================================ records

class Column(NamedTuple):
    """A column of `mail_relay_log`: its name, its type on MySQL and MariaDB, and what fits in it.

    `limit` is a number of characters for text, the largest value for numbers, 0 for a time. `of` tells whose
    the value is: all rows of a message share a `message` column, a `recipient` column is the row's own.
    """

    name: str
    type: str
    limit: int
    of: str
    meaning: str


_ID = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin"
COLUMNS = (
    Column("server_hostname", "VARCHAR(255) NOT NULL", 255, "message", "configured name, else the host column of the log"),
    Column("queue_id", _ID + " NOT NULL", 64, "message", "Postfix queue ID; NOQUEUE-YYYYMMDDhhmmssnnnnnn when refused before one existed"),
    Column("first_seen", "TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)", 0, "message", "first log line of the message, UTC"),
    Column("last_seen", "TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)", 0, "recipient", "last log line about this recipient, UTC"),
    Column("recipient_no", "INT UNSIGNED NOT NULL", 4294967295, "recipient", "0, 1, … in order of appearance"),
    Column("client_hostname", "VARCHAR(255)", 255, "message", "name of the client that handed the mail in"),
    Column("client_ip", "VARCHAR(45)", 45, "message", "its address; NULL for local submission"),
    Column("helo", "VARCHAR(255)", 255, "message", "its HELO or EHLO name, when logged"),
    Column("protocol", "VARCHAR(16)", 16, "message", "SMTP or ESMTP, when logged"),
    Column("sasl_username", "VARCHAR(255)", 255, "message", "the login name of an authenticated client"),
    Column("client_tls", "VARCHAR(64)", 64, "message", "TLS protocol and cipher of the client's session"),
    Column("message_id", "VARCHAR(512)", 512, "message", "Message-ID without its brackets"),
    Column("size", "INT UNSIGNED", 4294967295, "message", "bytes of the message content"),
    Column("nrcpt", "INT UNSIGNED", 4294967295, "message", "recipients after alias expansion"),
    Column("envelope_from", "VARCHAR(1024)", 1024, "message", "sender as logged, empty for bounces"),
    Column("original_envelope_from", "VARCHAR(1024)", 1024, "message", "the sender behind SRS, else the same as envelope_from"),
    Column("spf_result", "VARCHAR(16)", 16, "message", "Pass, Fail, Softfail, Neutral, None, Temperror, Permerror"),
    Column("dkim_result", "VARCHAR(16)", 16, "message", "pass, fail, none, temperror, permerror, signed"),
    Column("dkim_signatures", "SMALLINT UNSIGNED", 65535, "message", "signatures the message bore, when logged"),
    Column("dkim_domain", "VARCHAR(255)", 255, "message", "d= of the deciding signature"),
    Column("dkim_selector", "VARCHAR(255)", 255, "message", "s= of the deciding signature"),
    Column("dkim_algorithm", "VARCHAR(32)", 32, "message", "a= of the deciding signature"),
    Column("dmarc_result", "VARCHAR(16)", 16, "message", "pass, fail, none, temperror, permerror"),
    Column("dmarc_domain", "VARCHAR(255)", 255, "message", "the From domain that DMARC judged"),
    Column("spam_status", "VARCHAR(3)", 3, "message", "Yes or No"),
    Column("spam_score", "DECIMAL(8,3)", 99999, "message", "with its decimals when any line has them"),
    Column("spam_required", "DECIMAL(8,3)", 99999, "message", "the threshold"),
    Column("spam_tests", "TEXT", TEXT_LIMIT, "message", "rules that fired, comma-separated"),
    Column("milter_action", "VARCHAR(16)", 16, "message", "hold, reject, discard… of a milter or a header or body check"),
    Column("milter_reason", "TEXT", TEXT_LIMIT, "message", "its text"),
    Column("orig_to", "VARCHAR(1024)", 1024, "recipient", "the recipient as the client named it"),
    Column("upstream_to", "VARCHAR(1024)", 1024, "recipient", "the recipient handed on; NULL when refused or held before any hop"),
    Column("relay_host", "VARCHAR(255)", 255, "recipient", "next hop; none, local, virtual or a pipe's name; a socket as host[path]"),
    Column("relay_ip", "VARCHAR(45)", 45, "recipient", "its address"),
    Column("relay_port", "SMALLINT UNSIGNED", 65535, "recipient", "its port"),
    Column("relay_tls", "VARCHAR(64)", 64, "recipient", "TLS towards the next hop; NULL when in clear text"),
    Column("relay_status", "VARCHAR(16)", 16, "recipient", "what became of it"),
    Column("smtp_code", "SMALLINT UNSIGNED", 65535, "recipient", "three-digit reply code, only when logged"),
    Column("dsn", "VARCHAR(16)", 16, "recipient", "enhanced status code, only when logged"),
    Column("relay_message", "TEXT", TEXT_LIMIT, "recipient", "the reply or the reason in full"),
    Column("delay", "DECIMAL(12,3)", 999999999, "recipient", "seconds from arrival to this delivery attempt"),
    Column("delays", "VARCHAR(64)", 64, "recipient", "its four parts a/b/c/d as logged"),
    Column("next_queue_id", _ID, 64, "recipient", "the ID that the next hop gave"),
    Column("parent_queue_id", _ID, 64, "message", "the message this one came from"),
)
KEY = ("server_hostname", "queue_id", "first_seen", "recipient_no")
MESSAGE_COLUMNS = tuple(column.name for column in COLUMNS if column.of == "message")
RECIPIENT_COLUMNS = tuple(column.name for column in COLUMNS if column.of == "recipient")
ROW_COLUMNS = MESSAGE_COLUMNS + RECIPIENT_COLUMNS           # rows are built, and written, in this order
FACTS = tuple(name for name in MESSAGE_COLUMNS if name not in KEY)

_make_tuple: Callable[..., Any] = collections.namedtuple


class Row(_make_tuple("Row", ROW_COLUMNS)):     # type: ignore[misc]  # its fields are the table's
    """A row of the table: its columns but the id, in the order of ROW_COLUMNS; times in microseconds.

    Text is as it is everywhere inside: one character per byte of the log, of any length. What a column can hold, the stores know.
    """

    __slots__ = ()


class Connect(NamedTuple):
    """smtpd: a client connected (smtpd.c:smtpd_service)."""

    client_hostname: str
    client_ip: str


class Disconnect(NamedTuple):
    """smtpd: the client is gone (smtpd.c:smtpd_service). `took_all`: it was this host itself, and every mail it began was accepted.
    `took_none`: none of the recipients that it named was, as is counted since Postfix 3.0.
    """

    took_all: Optional[bool] = None
    took_none: Optional[bool] = None


class Broken(NamedTuple):
    """smtpd: the session broke off: `lost connection after DATA`, `timeout after …` (smtpd.c:smtpd_proto)."""

    client_ip: Optional[str]


class ClientTls(NamedTuple):
    """smtpd: TLS with the client (tls_misc.c:tls_log_summary)."""

    client_hostname: str
    client_ip: str
    client_tls: str


class RelayTls(NamedTuple):
    """smtp: TLS with the next hop `relay`, written host[address]:port (tls_misc.c:tls_log_summary)."""

    relay: str
    relay_tls: str


class RelayLost(NamedTuple):
    """smtp: the connection to the next hop `peer`, written host[address], broke off (smtp_trouble.c:smtp_stream_except)."""

    peer: str


class Client(NamedTuple):
    """smtpd: the queue file is open, the message is born (smtpd.c:mail_open_stream).

    `queue_id` is None (NOQUEUE) when a before-queue filter will give it an ID. `orig_…`: the ID and the client that the message had when
    it came in, as a content filter told by XFORWARD.
    """

    queue_id: Optional[str]
    client_hostname: str
    client_ip: str
    sasl_username: Optional[str] = None
    orig_queue_id: Optional[str] = None
    orig_hostname: Optional[str] = None
    orig_ip: Optional[str] = None


class Verdict(NamedTuple):
    """smtpd, postscreen, cleanup: somebody decided something (smtpd_check.c:log_whatsup, cleanup_milter.c, cleanup_message.c).

    `queue_id` is None for NOQUEUE. `judge`: access, milter, proxy, check (header and body checks) or cleanup. `action`: reject, hold,
    discard, redirect… without the milter- prefix. `stage`: CONNECT … END-OF-MESSAGE. `text` is the reply or reason in full. `spam`: as in
    Checked.
    """

    queue_id: Optional[str]
    judge: str
    action: str
    stage: str
    text: Optional[str] = None
    code: Optional[int] = None
    dsn: Optional[str] = None
    client_hostname: Optional[str] = None
    client_ip: Optional[str] = None
    envelope_from: Optional[str] = None
    recipient: Optional[str] = None
    protocol: Optional[str] = None
    helo: Optional[str] = None
    sasl_username: Optional[str] = None
    spam: Optional["Spam"] = None


class Checked(NamedTuple):
    """cleanup: a header check that changes nothing still names HELO, protocol and sender (cleanup_message.c:cleanup_act_log).

    `spam`: what the header says, when it is a milter's X-Spam-Status.
    """

    queue_id: str
    envelope_from: Optional[str]
    protocol: Optional[str]
    helo: Optional[str]
    spam: Optional["Spam"] = None


class MessageId(NamedTuple):
    """cleanup: `message-id=` (cleanup_message.c:cleanup_header_callback)."""

    queue_id: str
    message_id: str


class Pickup(NamedTuple):
    """pickup: local submission, or a requeued message with its former ID (pickup.c:pickup_copy)."""

    queue_id: str
    sender: str
    orig_id: Optional[str]


class Queued(NamedTuple):
    """qmgr: `queue active` (opened.c)."""

    queue_id: str
    envelope_from: str
    size: int
    nrcpt: int


class Expired(NamedTuple):
    """qmgr: `status=expired, returned to sender` (qmgr_active.c)."""

    queue_id: str
    envelope_from: str


class Removed(NamedTuple):
    """qmgr, postsuper, cleanup: `removed`; pickup: nobody is left to get it. `by` is the program (qmgr_active.c, postsuper.c,
    cleanup_api.c, pickup.c).
    """

    queue_id: str
    by: str


class Handled(NamedTuple):
    """postsuper: `requeued`, `placed on hold`, `released from hold`: `action` is requeue, hold or release."""

    queue_id: str
    action: str


class Delivery(NamedTuple):
    """A delivery agent's verdict on one recipient (log_adhoc.c). `relay` as logged; `relay_tls` only from Postfix 3.11 on.

    `conn_use`: how often its connection was used by now, if an earlier delivery opened it.
    """

    queue_id: str
    upstream_to: str
    orig_to: Optional[str]
    relay: str
    conn_use: Optional[str]
    delay: Optional[str]
    delays: Optional[str]
    relay_tls: Optional[str]
    dsn: Optional[str]
    status: str
    reason: str


class Notification(NamedTuple):
    """bounce: `QID: sender non-delivery notification: NEW` (bounce_notify_util.c)."""

    queue_id: str
    child: str


class Proxied(NamedTuple):
    """smtpd: a before-queue filter accepted, and said under which ID (smtpd.c:common_post_message_handling)."""

    child: str
    envelope_from: Optional[str]
    protocol: Optional[str]
    helo: Optional[str]


class Restarted(NamedTuple):
    """master: Postfix started or stopped: no smtpd session lives on."""


# Weights of a line on DKIM, about: signing, or a count; some signatures; the one that decided; the message.
BY_THE_WAY, LISTED, IMPLIED, OVERALL = range(4)


class Dkim(NamedTuple):
    """opendkim, dkimpy-milter: what is known of the signatures. `weight`: a line of higher weight decides."""

    queue_id: str
    weight: int
    result: Optional[str] = None
    domain: Optional[str] = None
    selector: Optional[str] = None
    algorithm: Optional[str] = None
    signatures: Optional[int] = None


class Dmarc(NamedTuple):
    """opendmarc: `QID: example.org pass`."""

    queue_id: str
    domain: str
    result: str


class MilterSpf(NamedTuple):
    """opendmarc's own SPF check."""

    queue_id: str
    result: str


class Spf(NamedTuple):
    """policyd-spf and its kin: a result for a client, mostly before there is a queue ID. `sender` None: the text did not tell.

    `debug`: logged for debugging, the server's answer follows. `refusal`: the words of a refusal, from which the result was read. They may
    be those of the sender's domain (`exp=`, RFC 7208, 6.2), which may name any client in them: so the result counts only for a client
    whom Postfix refuses in these words.
    """

    client_ip: str
    sender: Optional[str]
    result: str
    queue_id: Optional[str] = None
    debug: bool = False
    refusal: Optional[str] = None


class SpamStart(NamedTuple):
    """spamd, spampd: `processing message`: what the same pid says next is about this Message-ID."""

    message_id: str


class SpamScore(NamedTuple):
    """spamd: `clean message (-1.0/5.0)`: the only spamd line with decimals."""

    status: str
    score: float
    required: float


class SpamResult(NamedTuple):
    """spamd: `result: Y 6 - TESTS …,mid=<…>`, whose `score` is truncated (spamd.raw); or spampd, which names no tests."""

    message_id: str
    status: str
    score: float
    required: Optional[float]
    tests: str


class Spam(NamedTuple):
    """A spam verdict that names its message by queue ID (milter header, amavis, rspamd), or by Message-ID.

    `child`: the ID under which the filter gave the message on. `status` is None where it did not scan, but checked or made signatures.
    `kept_back`: the recipients, as they stand in the line, to whom the filter did not give it on, though to others it did. `filter_id` is
    its name for one that it refused, maybe for some only, and of which it knows no queue ID: its answer to Postfix bears that, too;
    `outcome` is then what became of the mail for these.
    """

    queue_id: Optional[str]
    message_id: Optional[str]
    status: Optional[str]
    score: Optional[float]
    required: Optional[float] = None
    tests: Optional[str] = None
    child: Optional[str] = None
    dkim_result: Optional[str] = None
    dkim_domain: Optional[str] = None
    dkim_selector: Optional[str] = None
    kept_back: Optional[str] = None
    filter_id: Optional[str] = None
    outcome: Optional[str] = None


class Screened(NamedTuple):
    """pmg-smtp-filter: what becomes of a mail for one recipient. `filter_id` is its name there, which the answer to Postfix bears, too;
    `child` the ID under which it was given on, None in quarantine.
    """

    filter_id: str
    recipient: str
    child: Optional[str]


class ScreenScore(NamedTuple):
    """pmg-smtp-filter, amavis: the score of a mail of which the answer to Postfix tells under the filter's own name for it."""

    filter_id: str
    status: str
    score: Optional[float]
    required: Optional[float]
    tests: str


class Piece(NamedTuple):
    """amavis cuts a long line in pieces (Amavis/Log.pm, write_log): each bears the line's `am_id`, the first one `begins` it, and all
    but the last are `cut`.
    """

    am_id: str
    text: str
    begins: bool
    cut: bool


class Rewritten(NamedTuple):
    """postsrsd: `sender` goes out as `srs`."""

    sender: str
    srs: str


class Ignored(NamedTuple):
    """A known line with nothing to learn from it."""


IGNORED = Ignored()
Event = Any                                     # one of the records above; None means: a shape nobody knows


def maker(event: Type[Any]) -> Callable[[Iterable[Any]], Any]:
    """A function that makes an event of its fields in order, such as a pattern's groups: far faster than the class itself.

    >>> maker(Connect)(("mx", "::1"))
    Connect(client_hostname='mx', client_ip='::1')
    """
    return functools.partial(tuple.__new__, event)


# ============================================================================ line header

MONTHS = {name: place for place, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
_CLOCK = r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]{1,9}))?"
BEFORE_STAMP = re.compile("(?:\xef\xbb\xbf)?(?:<[0-9]{1,3}>(?:1 )?)?")       # an editor's byte order mark; a priority
YEARLESS = re.compile(r"([A-Z][a-z]{2}) ([ 0-9]?[0-9]) " + _CLOCK + " ")
YEAR_FIRST = re.compile(r"([0-9]{4}) ([A-Z][a-z]{2}) ([ 0-9]?[0-9]) " + _CLOCK + " ")
YEAR_AMID = re.compile(r"([A-Z][a-z]{2}) ([ 0-9]?[0-9]) ([0-9]{4}) " + _CLOCK + " ")
ISO = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]" + _CLOCK + r"(Z| ?[+-][0-9]{2}:?[0-9]{2})? ")
WEEKDAY = re.compile(r"[A-Z][a-z]{2} ([0-9]{4})-([0-9]{2})-([0-9]{2}) " + _CLOCK + r" ([A-Z]{3,5}|[+-][0-9]{2,4}) ")
_LEVEL = "[a-z][a-z0-9]{2,9}[.:][a-z]{3,7}"         # beside a facility
YEAR_LAST = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) ([ 0-9][0-9]) " + _CLOCK + " ([0-9]{4}) (?:" + _LEVEL + " )?")
UNIX = re.compile(r" *([0-9]{9,10})\.([0-9]{6}) ")
_HOST = r"(?:<(?:{0}|[0-9]{{1,2}}\.[0-7])> )?([^ ]+) +(?:(?:{0}|<[a-z]{{3,7}}>) )?".format(_LEVEL)
TAGGED = re.compile(_HOST + r"([^ \[\]]+)(?:\[[0-9]+\])?$")
WITHOUT_HOST = re.compile(r"()([^ \[\]]+)\[[0-9]+\]$")       # syslogds of BusyBox (-S) and OpenWrt
BARE_TAG = re.compile(r"([^ ]+) (?=[^ ]{32} |[^ ]+\] )([^ \[\]:]+)\[([0-9]+)\]? ")
SYSLOG_5424 = re.compile(r"([^ ]+) ([^ ]+) ([^ ]+) [^ ]+ (?:-|(?:\[(?:[^\"\]]|\"(?:[^\"\\]|\\.)*\")*\])+)(?: +(?:\xef\xbb\xbf)?|$)")
SEVERITIES = frozenset("DEBUG INFO NOTICE WARNING ERR CRIT ALERT EMERG".split())    # in an image's lines instead of the host
REPEATED = re.compile(r" *message repeated ([0-9]{1,9}) times: \[ ?(.*)$")
REPEATED_LAST = re.compile(_HOST + r"last message repeated ([0-9]{1,9}) times? *$")
SUPPRESSED = re.compile(r"Last message '(.{0,20})' repeated ([0-9]{1,9}) times?, suppressed by syslog-ng on [^ ]+ *$")
WHOLE_HEAD = re.compile("(?:%s|%s)%s" % (YEARLESS.pattern, ISO.pattern, TAGGED.pattern))      # a line as far as its first `: `
STAMP_PART = re.compile(r"(?:[A-Z][a-z]?|(?:%s)(?: [ 0-9:.,]*)?|[0-9][0-9T:.,+-]*)$" % "|".join(MONTHS))
# Before the line of a container: its name (docker compose logs), the runtime's stamp (kubectl logs --timestamps, CRI's files).
CONTAINER = re.compile(r"(?:[0-9A-Za-z][0-9A-Za-z_.@-]{0,99} +\| )?"
                       r"(?:[0-9-]{10}T[0-9:.]{8,18}(?:Z|[+-][0-9]{2}:[0-9]{2}) (?:std(?:out|err) F )?)?(?:<[0-9]{1,3}>)?$")
CONTAINER_ID = re.compile("[0-9a-f]{12}")
# Handed to the host's syslog by Docker (its drivers syslog and journald): the ID is the program, and the host of the line within.
BY_DOCKER = re.compile(r"[^ ]+ (%s)\[[0-9]{1,10}\]: (?=(?:%s|%s)\1 )" % (CONTAINER_ID.pattern, YEARLESS.pattern, ISO.pattern))
DOCKER = re.compile(r'\{"log":("(?:[^"\\]|\\.)*"),"stream":"')       # in Docker's own files (json-file, its default logging driver)
OF_POSTFIX = re.compile(r".{0,80}? postfix[a-z0-9-]{0,32}/[a-z/-]{2,40}\[[0-9]{1,7}\]: ")


def microseconds(fraction: Optional[str]) -> int:
    """The digits behind a second's point, as microseconds.

    >>> microseconds("25"), microseconds(None)
    (250000, 0)
    """
    return int((fraction + "000000")[:6]) if fraction else 0


def epoch(year: int, month: int, day: int, seconds: int, offset: int = 0) -> int:
    """Microseconds since the epoch of a moment `seconds` into a day, in a zone `offset` seconds east of UTC.

    >>> epoch(2026, 11, 5, 3661, 3600) == epoch(2026, 11, 5, 61)
    True
    """
    return ((datetime.date(year, month, day).toordinal() - EPOCH.toordinal()) * 86400 + seconds - offset) * SECOND


def zone_offset(zone: Optional[str]) -> Optional[int]:
    """Seconds east of UTC of `Z`, `+01:00`, `+0100` or `+01`; None of other letters, for several zones have the same.

    >>> zone_offset("-0230"), zone_offset("Z"), zone_offset("CST")
    (-9000, 0, None)
    """
    if zone in ("Z", "UTC", "GMT"):
        return 0
    if zone is None or zone.isalpha():
        return None
    zone = zone.lstrip(" ")
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -seconds if zone[0] == "-" else seconds


SHORT_YEAR = 364 * DAY              # no stamp comes again so soon
STEP_BACK = 2 * MINUTE              # a stamp so much older than the one before: the clock was put back
LATEST = epoch(2038, 1, 19, 0)      # what a TIMESTAMP holds on every server, beginning with the second second of 1970


class Calendar:
    """Reads time stamps: the forms of rsyslog, syslog-ng, journalctl, Postfix and RFC 5424, mixed as they come.

    A stamp without a year gets the latest year that brings it to no more than a day after `newest`. That is what the caller knows of the
    present: the wall clock when following, the file's mtime when importing. A stamp without a zone is local time (TZ); so is one with a
    zone's letters other than UTC and GMT, for the same letters name several zones. In the hour that the end of summer time repeats, a
    stamp means two moments: the line before tells which. The positions between which that hour is read a second time are noted, so that
    a restart in its midst reads it alike; `where` tells the position of the line at hand.
    """

    def __init__(self, newest: int) -> None:
        self.newest = newest
        self.last = 0
        self.where: Callable[[], int] = int         # int() is 0, until somebody tells the position
        self._again = False                         # in the hour that is repeated, the second time
        self._repeated = (0, 0)                     # the positions between which that was so last
        self._second = self._zone = "\n"            # of the last stamp in RFC 3339 as far as its second: most lines share these,
        self._base = 0                              # and its time, with the line before
        self._minute, self._begun = "\n", 0         # likewise of the last stamp without year and fraction, as far as its minute
        self._is_twice = False                      # whether the local time read last means two moments

    def read(self, line: str) -> Tuple[int, int]:
        """The time of a line, and where its host begins; (0, -1) when there is no stamp that could be read.

        >>> Calendar(epoch(2026, 1, 2, 0)).read("2026-01-01T00:00:01.5Z mx x: y")
        (1767225601500000, 23)
        """
        if line[:20] == self._second and line[26:33] == self._zone and line[20:26].isdecimal():
            return self._base + int(line[20:26]), 33
        if line[:13] == self._minute and line[15:16] == " " and line[13:15].isdecimal():
            time = self._begun + int(line[13:15]) * SECOND
            if time <= self.newest + DAY < self._begun + SHORT_YEAR:        # else it is of another year
                self.last = time
                return time, 16
        for found, reader in stamps_of(line):
            try:
                time = reader(self, found)
            except (KeyError, ValueError, OverflowError):
                continue                    # looks like a stamp, is none: month Abc, day 32
            if SECOND <= time < LATEST:
                self.last = time
                return time, found.end()
        return 0, -1

    def _read_iso(self, found: Match[str]) -> int:
        """Year, month, day, time and zone; local time when the zone is missing, or not known."""
        year, month, day = map(int, found.groups()[:3])
        offset = zone_offset(found.group(8))
        if offset is None:
            return self._local(year, month, day, found.groups()[3:7])
        hour, minute, second = map(int, found.groups()[3:6])
        base = epoch(year, month, day, hour * 3600 + minute * 60 + second, offset)
        if found.span() == (0, 33) and 0 < base < LATEST:
            self._second, self._zone, self._base = found.string[:20], found.string[26:33], base
        return base + microseconds(found.group(7))

    def _read_yearless(self, found: Match[str]) -> int:
        month, day = MONTHS[found.group(1)], int(found.group(2))
        limit = self.newest + DAY
        year = (EPOCH + datetime.timedelta(microseconds=limit)).year
        while True:                         # that far back there is every day, also a 29 February
            if (month, day) != (2, 29) or calendar.isleap(year):
                time = self._local(year, month, day, found.groups()[2:6])
                if time <= limit:
                    self._keep_minute(found, time)
                    return time
            year -= 1

    def _keep_minute(self, found: Match[str], time: int) -> None:
        """Most lines are of the same minute as the one before: unless that is repeated, only the seconds of their stamps differ."""
        second = int(found.group(5))
        begun = time - second * SECOND
        if found.span() == (0, 16) and not self._is_twice and 0 < begun < LATEST:
            self._minute, self._begun = found.string[:13], begun

    def _read_year_first(self, found: Match[str]) -> int:
        return self._local(int(found.group(1)), MONTHS[found.group(2)], int(found.group(3)), found.groups()[3:7])

    def _read_year_amid(self, found: Match[str]) -> int:
        return self._local(int(found.group(3)), MONTHS[found.group(1)], int(found.group(2)), found.groups()[3:7])

    def _read_year_last(self, found: Match[str]) -> int:
        return self._local(int(found.group(7)), MONTHS[found.group(1)], int(found.group(2)), found.groups()[2:6])

    def _read_unix(self, found: Match[str]) -> int:
        return int(found.group(1)) * SECOND + int(found.group(2))

    def _local(self, year: int, month: int, day: int, parts: Tuple[Any, ...]) -> int:
        """Local time as a moment; the second time that an hour is read, it means the `later` one. A leap second is the second after."""
        hour, minute, second = map(int, parts[:3])
        moment = datetime.datetime(year, month, day, hour, minute, min(second, 59))
        time = round(moment.timestamp()) * SECOND + microseconds(parts[3]) + max(second - 59, 0) * SECOND
        later = time + round(moment.replace(fold=1).timestamp() - moment.timestamp()) * SECOND
        self._is_twice = self._again or later > time
        if self._is_twice:
            self._switch(later > time and (self._again or self.last - time > STEP_BACK and later - self.last < DAY))
        return later if self._again and abs(self.last - time) > DISORDER else time

    def _switch(self, again: bool) -> None:
        """Into the hour that is repeated, or out of it."""
        self._minute = "\n"
        if again != self._again:
            self._again = again
            self._repeated = (self.where(), NEVER) if again else (self._repeated[0], self.where())

    def is_repeated(self, position: int) -> bool:
        """Whether the line at a position is of an hour that the end of summer time repeats."""
        return self._repeated[0] <= position < self._repeated[1]

    def go_on(self, position: int, repeated: bool) -> None:
        """Begin at a position; `repeated`: in an hour that is read the second time."""
        self.where = lambda: position
        self._switch(repeated)


STAMP_FORMS = (
    (YEARLESS, Calendar._read_yearless),
    (ISO, Calendar._read_iso),
    (YEAR_FIRST, Calendar._read_year_first),
    (YEAR_AMID, Calendar._read_year_amid),
    (WEEKDAY, Calendar._read_iso),
    (UNIX, Calendar._read_unix),
    (YEAR_LAST, Calendar._read_year_last),
)


def stamps_of(line: str) -> Iterator[Tuple[Match[str], Callable[[Calendar, Match[str]], int]]]:
    """What looks like a line's stamp, with what reads it; mostly one."""
    before = BEFORE_STAMP.match(line) if line[:1] in "<\xef" else None
    start = before.end() if before else 0
    for form, reader in STAMP_FORMS:
        found = form.match(line, start)
        if found:
            yield found, reader


def stamp_end(line: str) -> int:
    """Where the host of a line begins, behind what looks like a stamp; -1 when there is none.

    >>> stamp_end("Nov 29 14:53:17 mx x: y"), stamp_end("mx x: y")
    (16, -1)
    """
    return next((found.end() for found, _ in stamps_of(line)), -1)


class Header(NamedTuple):
    """What stands between stamp and text: `prefix` is "host program[pid]", the identity of the process that wrote the line."""

    prefix: str
    host: str
    program: str


def one_host(host: str) -> str:
    """A host as a line names it. Where an image writes a severity instead, all lines are of one host, INFO."""
    return "INFO" if host in SEVERITIES else host


def split_prefix(prefix: str) -> Optional[Header]:
    """Take "host program[pid]" apart; None when it is something else. A host may be an IPv6 address; it or the pid may be absent, not both.

    Syslogds of BusyBox and AIX (behind the host) and FreeBSD (before it) tell facility and level, too, a template of syslog-ng `<info>`:
    the prefix is without these.

    >>> split_prefix("2001:db8::1 postfix-in/smtpd[42]").program
    'postfix-in/smtpd'
    >>> split_prefix("mx mail.warn postfix/smtpd[42]").prefix
    'mx postfix/smtpd[42]'
    """
    found = TAGGED.match(prefix) or WITHOUT_HOST.match(prefix)
    if not found:
        return None
    host = one_host(found.group(1))
    return Header("%s %s" % (host, prefix[found.start(2):]), host, found.group(2))


def split_uncolonned(rest: str) -> Optional[Tuple[Header, str]]:
    """Header and text of a line without `tag:`, from its host on: RFC 5424 (rsyslog's SyslogProtocol23Format), a tag that was cut to
    32 characters on its way (RSYSLOG_ForwardFormat), or `%programname%[%procid%] %msg%` of a template.

    >>> split_uncolonned("mx postfix/qmgr 7 - - 4X: removed")[1]
    '4X: removed'
    >>> split_uncolonned("mx postfix/submission/smtpd[1234567 4X: client=a[::1]")[1]
    '4X: client=a[::1]'
    """
    found = BARE_TAG.match(rest) or SYSLOG_5424.match(rest)     # a blank, a hyphen and a blank in an address look like RFC 5424, too
    if not found:
        return None
    host, program, pid = one_host(found.group(1)), found.group(2), found.group(3)
    return Header("%s %s[%s]" % (host, program, pid), host, program), rest[found.end():]


def split_line(rest: str) -> Optional[Tuple[Header, str]]:
    """Header and text of a line, from its host on, in whatever form; None when it has none that is known."""
    end = rest.find(": ")
    if end >= 0 and " " not in rest[:end] and rest[end - 1] != "]":     # an IPv6 host that ends in colons
        end = rest.find(": ", end + 2)
    header = split_prefix(rest[:end] if end >= 0 else rest.rstrip(":"))
    if header is not None:
        return header, rest[end + 2:] if end >= 0 else ""
    return split_uncolonned(rest)


def second_head(head: str, start: int) -> int:
    """Where in `head`, the text before a line's first `: `, a second line begins that was appended to a torn one, or is a container's;
    0 when it is but one.

    So rsyslog goes on after a full disk: the first line ends within its stamp, host or tag. A stranger's text that looks like a line must
    not be taken for one, where it stands behind a tag without colon, or a colon without blank: so what is left of the first line may be a
    host, a blank and a word without colon, and no more. `start` is where the first line's host begins, -1 where its stamp is not whole.

    >>> second_head("Nov 29 14:53:17 mx poNov 29 14:53:20 mx postfix/smtp[14]", 16), second_head("Nov 29 14:53:20 mx postfix/smtp[14]", 16)
    (21, 0)
    >>> second_head("mx-1  | Nov 29 14:53:20 3f2b6a1c postfix/smtp[14]", -1)
    8
    >>> second_head("said on Nov 29 Nov 29 14:53:20 mx postfix/smtp[14]", -1), second_head("Nov 29 Nov 29 14:53:20 mx postfix/smtp[14]", -1)
    (0, 7)
    """
    found = WHOLE_HEAD.search(head, max(start, 0))
    place = found.start() if found else 0
    if place and CONTAINER.match(head[:place]):
        return place
    _, _, tag = head[start:place].partition(" ")
    was_cut_off = " " not in tag and ":" not in tag if start >= 0 else STAMP_PART.match(head[:place])
    return place if was_cut_off else 0


def inner_line(line: str, start: int) -> str:
    """The line that stands within a line whose host begins at `start` (-1: without a stamp); empty when it is but one.

    >>> inner_line("mx-1  | Nov 29 14:53:20 3f2b6a1c postfix/smtp[14]: 4F00061AE: host mx", -1)
    'Nov 29 14:53:20 3f2b6a1c postfix/smtp[14]: 4F00061AE: host mx'
    """
    written = DOCKER.match(line)
    if written:
        return out_of_json(written.group(1))
    handed = BY_DOCKER.match(line, start) if start >= 0 else None
    if handed:
        return line[handed.end():]
    place = second_head(line.partition(": ")[0], start)
    return line[place:] if place else ""


def out_of_json(quoted: str) -> str:
    r"""A line that is a string in JSON, one character per byte; empty when it is damaged.

    >>> out_of_json(r'"mx x: from=\u003ca@b\u003e\n"'), out_of_json(r'"\x"')
    ('mx x: from=<a@b>', '')
    """
    try:
        text: str = json.loads(quoted.encode("latin-1"))
        return text.partition("\n")[0].rstrip("\r").encode().decode("latin-1")
    except ValueError:
        return ""


def innermost(line: str) -> str:
    """The line that stands within a line, or that itself."""
    return inner_line(line, stamp_end(line)) or line


def says_repeated(line: str) -> bool:
    """Whether a line is a classic syslogd's word that the one before was repeated.

    >>> says_repeated("Nov 29 14:53:47 mx last message repeated 9 times"), says_repeated("mx last message repeated 9 times")
    (True, False)
    """
    line = innermost(line)
    start = stamp_end(line)
    return start >= 0 and REPEATED_LAST.match(line, start) is not None


def last_said(lines: Sequence[str]) -> str:
    """The last of some lines that says no other one was repeated; empty when there is none. As long as the same comes, a classic syslogd
    tells so again and again (FreeBSD's syslogd.c:logmsg).

    >>> last_said(["Nov 29 14:53:17 mx x: y", "Nov 29 14:53:47 mx last message repeated 9 times"])
    'Nov 29 14:53:17 mx x: y'
    """
    return next((line for line in reversed(lines) if not says_repeated(line)), "")


def times_in(lines: Iterable[str], present: int) -> List[int]:
    r"""The times that lines, or those within them, are stamped with.

    >>> times_in(['mx-1  | 2026-11-17T15:20:00Z mx a: b', 'c: d', r'{"log":"1795964000.000001 mx a: b\n","stream":"stdout"}'], LATEST)
    [1794928800000000, 1795964000000001]
    """
    dates = Calendar(present)
    found = [dates.read(innermost(line)) for line in lines]
    return [time for time, start in found if start >= 0]


# ============================================================================ program parsers

_DIGIT = "[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]"      # of 52; the last, z, ends the time: an inode is in 51 (mail_queue.h)
_LONG_END = "[0-7]" + _DIGIT + "{3}z[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-y]{1,19}"
LONG_ID = _DIGIT + "{6,40}" + _LONG_END
SHORT_ID = "(?:[0-9A-E][0-9A-F]{4}|F[0-3][0-9A-F]{3}|F4[01][0-9A-F]{2}|F42[0-3][0-9A-F])[0-9A-F]{1,59}"
QUEUE_ID = re.compile("%s|%s" % (SHORT_ID, LONG_ID))

# An address as logged between angle brackets: the local part quoted (external form, 3.5 and later), or nothing that ends it. Before the
# colon of a source route nothing is quoted (quote_822_local.c).
ADDRESS = r'<((?:@[^:]*:)?"(?:[^"\\]|\\.)*"(?:@[^">]*)?|(?:@[^:]*:)?[^">;]*(?:;(?! (?:from|to|proto)=)[^">;]*)*)>'
# The same without a route in which fields might stand: a HELO has a colon, too.
FIELD_ADDRESS = ADDRESS.replace("[^:]*", "(?:(?! (?:from|to|proto|helo)=)[^:])*")
# The same where text of strangers stands before it: what looks like the beginning of a trailer is not part of an address.
SAFE_ADDRESS = r'<((?:@[^:;]*:)?"(?:[^"\\;]|\\.|;(?! (?:from|to)=<))*"(?:@[^">]*)?|[^">]*)>'
# In internal form, as before 3.5, whatever it holds but what begins a field, or ends the fields of a header check.
INTERNAL_ADDRESS = "<((?:(?!>: )[^=;])*)>"
# One in no need of quotes: nothing can be imitated in it.
USUAL_ADDRESS = r"<([^][\0-\x20\x7f-\xa0<>(),;:\\\"@]+@[^][\0-\x20\x7f-\xa0<>(),;:\\\"@]+)>"
PORT = "(?::(?:[0-9]+|unknown))?"            # smtpd_client_port_logging; unknown when a filter did not tell it (smtpd_xforward.c)
CLIENT = r"([^ \[\]]*)\[([^ \[\]]*)\]" + PORT
REPLY = re.compile(r"(?:([2-5][0-9]{2})(?=[ -]|$)(?:[ -]([245]\.[0-9]{1,3}\.[0-9]{1,3})(?= |$))?|([245]\.[0-9]{1,3}\.[0-9]{1,3})(?= |$))")
NUMBER = re.compile(r"-?(?=\.?[0-9])[0-9]{0,12}(?:\.[0-9]{0,12})?$")
# How lines begin that tell nothing of a mail: those of any daemon, and those of one that has connections.
DAEMON_NOISE = ("warning: ", "fatal: ", "error: ", "panic: ", "table ", "database ")
PEER_NOISE = DAEMON_NOISE + (
    "connect to ", "send attr", "using ", "discarding EHLO keywords: ", "Host offered ", "TLS ", "SSL3 alert ", "SSL_set_fd error",
    "CA certificate verification failed ", "cannot load Certificat", "cannot set ", "skipping address family ",
)


def is_queue_id(word: str) -> bool:
    """Whether Postfix could have created this queue ID (mail_queue.h): hexadecimal, its first five digits below a million, or long.

    >>> is_queue_id("3854F172385"), is_queue_id("4jXSnX0bKLz1Tq"), is_queue_id("NOQUEUE"), is_queue_id("warning")
    (True, True, False, False)
    """
    return QUEUE_ID.fullmatch(word) is not None


def was_cut(*parts: str) -> bool:
    """Whether a record, in its parts, has the length at which Postfix cuts it: what it ended with may be lost."""
    return sum(map(len, parts)) >= RECORD


def trimmed(parse: Callable[[str], Event]) -> Callable[[str], Event]:
    """A parser that passes over blanks before a text (rsyslog's `%msg%` begins with one, and a template may put another before it) and
    behind it (some syslog daemons leave them, trap 4), unless a record may be cut there.
    """
    @functools.wraps(parse)
    def _parse_trimmed(text: str) -> Event:
        text = text.lstrip(" ")
        return parse(text.rstrip(" ") if text[-1:] == " " and not was_cut(text) else text)
    return _parse_trimmed


def codes_of(text: str) -> Tuple[Optional[int], Optional[str]]:
    """Reply code and enhanced status code that a text begins with.

    >>> codes_of("550-5.7.26 no"), codes_of("4.7.1 later"), codes_of("connect to x"), codes_of("2024.1.1 x")
    ((550, '5.7.26'), (None, '4.7.1'), (None, None), (None, None))
    """
    found = REPLY.match(text)
    if not found:
        return None, None
    code, dsn, dsn_alone = found.groups()
    return (int(code) if code else None), dsn or dsn_alone


@functools.lru_cache(maxsize=512)
def number(text: Optional[str]) -> Optional[float]:
    """A logged number; None when it is none, or out of all reason.

    >>> number("-0.5"), number("."), number(None)
    (-0.5, None, None)
    """
    return float(text) if text and NUMBER.match(text) else None


def ignore_noise(text: str, openings: Tuple[str, ...]) -> Event:
    """IGNORED when a text begins with one of these openings, else None: a shape nobody knows."""
    return IGNORED if text.startswith(openings) else None


def ignore_unless_repeated(text: str) -> Event:
    """IGNORED, for a program most of whose lines tell nothing; None for what rsyslog repeats, which has yet to be read (ratelimit.c)."""
    return None if text.startswith("message repeated ") else IGNORED


# -- smtpd and postscreen

CLIENT_LINE = re.compile(CLIENT + r"(?:, sasl_method=([^,]*))?(?:, sasl_username=(.*?))?(?:, sasl_sender=.*)?"
                         r"(?:, orig_queue_id=([0-9A-Za-z]+))?(?:, orig_client=([^ ,\[\]]*)(?:\[([^ \]]*)\])?" + PORT + ")?$")
DECISION = re.compile(r"((?:milter-)?[a-z_]+): ([A-Za-z-]+(?: content)?) from " + CLIENT + r": (.*)$")
SMTPD_TRAILERS = [re.compile(                       # sasl_… stand only behind helo=: nobody logs in without EHLO
    r"; (?:from=" + address + r" ?)?(?:to=" + address + r" ?)?(?:proto=([A-Z]+) ?)?(?:helo=<([^<>]*)>(?: sasl_method=[^ ]*)?"
    r"(?: sasl_username=((?:(?! helo=<|; from=<).)*?))?(?: sasl_sender=(?:(?! helo=<|; from=<).)*)?)?$")
    for address in (FIELD_ADDRESS, ADDRESS, INTERNAL_ADDRESS)]
POSTSCREEN_TRAILERS = [re.compile(
    r"; from=" + address + ", to=" + address + r", proto=([A-Z]+), helo=<([^ ]*)>()$")       # (): nobody logs in there
    for address in (FIELD_ADDRESS, ADDRESS, INTERNAL_ADDRESS)]
TLS_LINE = re.compile(r"[A-Z][a-z]+ TLS connection (?:established|reused) (from|to) ([^ ]+)(?: to [^ ]+)?: "
                      r"([^ ]+) with cipher ([^ ]+) ")
TLS_CLIENT = re.compile(CLIENT + "$")
TOOK_ALL = re.compile(r"disconnect from localhost\[127\.0\.0\.1\]" + PORT + r" (?:[a-z]+=[0-9/]+ )*mail=([0-9]+)(?:/[0-9]+)? "
                      r"(?:[a-z]+=[0-9/]+ )*data=\1(?:/[0-9]+)? ")
PROXY_REFUSAL = re.compile(
    r'warning: proxy [^ ]+ rejected "(rcpt to|data)(?:: *' + ADDRESS + r'[^"]*)?": "([45][0-9]{2}[ -].*)"$', re.I)
FILTER_DROPPED = re.compile(r"250[ -].*\b(?:discarded|blocked)\b", re.I)       # clamsmtpd, MIMEDefang; Proxmox Mail Gateway
# An address, a Message-ID: strangers choose them. Whatever begins like one is one: to try again within it would take quadratic time.
REPEATED_WORDS = re.compile(r'<(?:[^<>"]|"(?:[^"\\]|\\.)*(?:"|\\?$))*(?:>|(?=<)|$)')
AMAVIS_DROPPED = re.compile(r"250 2\.7\.[01] Ok, discarded, id=|250 2\.5\.0 Ok(?:, id=[^ ,]*, | <.*>, DSN (?:was sent|suppressed))")
AMAVIS_BOUNCED = re.compile(r"250 2\.5\.0 Ok(?:, id=.*\b(?:BOUNCE|REJECT)\b| <.*>, DSN was sent \()")
CONNECT = re.compile("connect from " + CLIENT)
PEER = re.compile(CLIENT + ": ")
BROKEN = re.compile(r"(?:lost connection|timeout|too many errors|bare <LF> received) after .*? from [^ \[\]]*\[([^ \[\]]*)\]" + PORT + "$")
AMAVIS_REST = re.compile(r", but [0-9]+ (DISCARD|BOUNCE|REJECT)\b")
WORD = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,63}")
DISCONNECT, TOOK_NONE = Disconnect(), Disconnect(took_none=True)
ACCESS_ACTIONS = frozenset("reject reject_warning hold discard filter redirect bcc delay".split())
MILTER_ACTIONS = frozenset("milter-reject milter-hold milter-discard".split())
QUIET_ACTIONS = frozenset("reject_warning warn info permit hangup warning pass replace strip".split())
QUEUED_AS = "queued as "
SMTPD_NOISE = PEER_NOISE + (
    "improper command pipelining ", "SSL_accept", "setting up TLS connection ", "certificate verification failed",
    "client certificate verification failed ", "initializing the server-side TLS engine", "idle timeout", "mapping DSN status ",
    "subject=", "issuer=", "ignoring DNS RR: ",
    # of a client in debug_peer_list
    "> ", "< ", ">>> ", "xsasl_", "name_", "match_", "smtpd_", "generic_checks", "reject_invalid", "reject_unauth_", "permit_",
    "rewrite_clnt", "watchdog", "input attribute", "private/", "public/", "auto_clnt", "maps_", "dict_", "ctable_", "vstream", "event_",
    "fsspace: ", "extract_addr: ", "smtp_stream_setup: ", "milter_", "milter8_", "milter unix:", "milter inet:", "event: ", "reply: ",
    "report ", "before ", "after ",
)
POSTSCREEN_NOISE = DAEMON_NOISE + (
    "CONNECT ", "DISCONNECT ", "PASS ", "HANGUP ", "PREGREET ", "DNSBL ", "ALLOWLISTED ", "DENYLISTED ", "ALLOWLIST VETO ", "WHITELISTED ",
    "BLACKLISTED ", "WHITELIST VETO ", "COMMAND ", "NON-SMTP COMMAND ", "BARE NEWLINE ", "DATA without ", "BDAT without ", "cache ",
    "close database ", "entering ", "leaving ", "using ",
)
POSTSCREEN_EDITED = re.compile(r"\[[^ \[\]]*\]:?[0-9]*: (?:discarding EHLO keywords|replacing command)")


def split_trailer(text: str, trailers: List[Pattern[str]], cut: bool = False) -> Tuple[str, Tuple[Optional[str], ...]]:
    """The text of a decision, and (from, to, proto, helo, sasl_username) from the fields that close it.

    The fields are those that reach the end of the line: the text before may imitate them (trap 17), and so may a quoted
    local part within them. A record that was cut has lost them, whatever its end looks like.

    >>> split_trailer("550 5.7.1 a; b; from=<x@y> to=<\\"; from=<z>\\"@d> proto=SMTP helo=<h>", SMTPD_TRAILERS)[1][:2]
    ('x@y', '"; from=<z>"@d')
    """
    reach = len(text) if cut else max(len(text) - TRAILER_REACH, 0)
    found = next(filter(None, (trailer.search(text, reach) for trailer in trailers)), None)
    if not found:
        return text.partition("; from=<")[0].rstrip("; "), (None,) * 5
    sender, recipient, protocol, helo, username = found.groups()
    if username and username[:1] == "<" and username[-1:] == ">":   # from 3.5 on
        username = username[1:-1]
    return text[:found.start()], (sender, recipient, protocol, helo, username or None)


def parse_decision(queue_id: Optional[str], text: str, trailers: List[Pattern[str]] = SMTPD_TRAILERS) -> Event:
    """`reject: RCPT from client: 550 …; from=<…> …` of smtpd, cleanup's milters and postscreen (smtpd_check.c:log_whatsup)."""
    found = DECISION.match(text)
    if not found:
        return None
    what, stage, hostname, address, said = found.groups()
    if what == "abort":                 # of a session without a client certificate: 421 (smtpd.c:smtpd_start_tls)
        what = "reject"
    if what in QUIET_ACTIONS and (what != "reject_warning" or queue_id is not None):
        return IGNORED
    judge = "milter" if what in MILTER_ACTIONS else "access"
    if judge == "access" and what not in ACCESS_ACTIONS:
        return None
    said, (sender, recipient, protocol, helo, username) = split_trailer(said, trailers, was_cut(queue_id or "NOQUEUE", ": ", text))
    action = what[len("milter-"):] if judge == "milter" else what
    code, dsn = codes_of(said) if action == "reject" else (None, None)
    return Verdict(queue_id, judge, action, stage, said, code, dsn, hostname or None, address, sender, recipient, protocol, helo, username)


def parse_client(queue_id: Optional[str], text: str) -> Event:
    """`client=name[address], sasl_…, orig_…` (smtpd.c:mail_open_stream).

    A login name may hold anything, so what stands behind one is not believed to come from a content filter.
    """
    found = CLIENT_LINE.match(text)
    if not found:
        return None
    hostname, address, _, username, orig_queue_id, orig_hostname, orig_ip = found.groups()
    if username is not None:
        orig_queue_id = orig_hostname = orig_ip = None
    return Client(queue_id, hostname, address, username, orig_queue_id, orig_hostname, orig_ip)


def parse_tls(text: str) -> Event:
    """`Anonymous TLS connection established from …: TLSv1.3 with cipher …` (tls_misc.c:tls_log_summary)."""
    found = TLS_LINE.match(text)
    if not found:
        return None
    direction, peer, protocol, cipher = found.groups()
    tls = "%s %s" % (protocol, cipher)
    if direction == "to":
        return RelayTls(peer, tls)
    client = TLS_CLIENT.match(peer)
    return ClientTls(client.group(1), client.group(2), tls) if client else None


@trimmed
def parse_smtpd(text: str) -> Event:
    """smtpd: sessions, births (`QID: client=`), decisions (`NOQUEUE: reject: …`)."""
    queue_id, _, rest = text.partition(": ")
    if queue_id == "NOQUEUE":
        return parse_transaction(None, rest)
    return parse_transaction(queue_id, rest) if is_queue_id(queue_id) else parse_session(text)


def parse_transaction(queue_id: Optional[str], text: str) -> Event:
    """What smtpd says of a mail under way, behind its queue ID or NOQUEUE."""
    if text.startswith("client="):
        return parse_client(queue_id, text[7:])
    if text.startswith("reply filter "):        # smtpd_reject_filter_maps: a reply before and after
        return IGNORED
    return parse_broken(text) or parse_decision(queue_id, text)


def disconnect_of(text: str) -> Disconnect:
    """What the counters tell of the recipients: `rcpt=0/2`, none of two was accepted (smtpd.c:smtpd_format_cmd_stats)."""
    return TOOK_NONE if " rcpt=0/" in text else DISCONNECT


def parse_session(text: str) -> Event:
    """What smtpd says of its session, without an ID in front."""
    found = CONNECT.match(text)
    if found:
        return Connect(*found.groups())
    if text.startswith("disconnect from "):
        return Disconnect(True) if TOOK_ALL.match(text) else disconnect_of(text)
    if text.startswith(("proxy-accept: ", "proxy-reject: ")):
        return parse_proxy(text)
    if text.startswith("warning: "):
        return parse_proxy_refusal(text) or parse_not_taken(text)
    return parse_tls(text) or parse_broken(text) or ignore_peer_noise(text, SMTPD_NOISE)


def ignore_peer_noise(text: str, openings: Tuple[str, ...]) -> Event:
    """As ignore_noise; IGNORED also for what is said of a certificate, `name[address]:port: Trusted: …` (tls_client.c, tls_server.c)."""
    return IGNORED if text.startswith(openings) or PEER.match(text) else None


def parse_proxy(text: str) -> Event:
    """`proxy-accept: END-OF-MESSAGE: 250 … queued as ID; from=<…> …`: the answer of a before-queue filter, without ID and client.

    It may have thrown the message away: amavis says so, `250 2.7.0 Ok, discarded, id=…`.
    """
    verb, stage, said = (text.split(": ", 2) + [""])[:3]
    if not said:
        return None
    reply = said.partition("; from=<")[0]       # up to 3.4 a sender without quotes may imitate what stands behind it, but not before
    said, (sender, recipient, protocol, helo, username) = split_trailer(said, SMTPD_TRAILERS, was_cut(text))
    child = queued_as(reply) if verb == "proxy-accept" else None
    if child:
        return Proxied(child, sender, protocol, helo)
    judge, action = ("access", "reject") if verb == "proxy-reject" else ("proxy", dropped_as(reply, True))
    if action is None and PMG_REPLY.match(reply):
        action = "screen"
    if action is None:
        return IGNORED
    code, dsn = codes_of(said) if not reply.startswith("3") else (None, None)       # 354: the answer before
    return Verdict(None, judge, action, stage, said, code, dsn, None, None, sender, recipient, protocol, helo, username)


def parse_proxy_refusal(text: str) -> Event:
    """`warning: proxy 127.0.0.1:10024 rejected "RCPT TO:<…>": "550 …"`: what a before-queue filter refuses earlier, and the client hears
    (smtpd_proxy.c:smtpd_proxy_cmd). `client=` stood before. None for any other warning, as of MAIL: nobody has told that client for good.
    """
    found = PROXY_REFUSAL.match(text)
    if not found:
        return None
    command, recipient, said = found.groups()
    code, dsn = codes_of(said)
    return Verdict(None, "access", "reject", command[:4].upper(), said, code, dsn, recipient=recipient)


def parse_broken(text: str) -> Event:
    """`lost connection after DATA (24 bytes) from …`, with the ID in front from 3.10 on (smtpd.c:smtpd_proto)."""
    found = BROKEN.match(text)
    return Broken(found.group(1)) if found else None


def dropped_as(reply: str, near: bool) -> Optional[str]:
    """`discard` or `bounce` when a content filter's reply says that the mail ends there: in amavis's words, or if it is `near` in any.

    >>> dropped_as("250 2.5.0 Ok, id=00185-05-2, BOUNCE", False), dropped_as("250 2.7.0 Ok, discarded, id=1", False)
    ('bounce', 'discard')
    >>> dropped_as("250 2.5.0 Ok, id=1, 1 REJECT, and 1 DISCARD", False)
    'bounce'
    >>> dropped_as("250 discarded", False), dropped_as("250 discarded", True)
    (None, 'discard')
    """
    if AMAVIS_DROPPED.match(reply):
        return "bounce" if AMAVIS_BOUNCED.match(reply) else "discard"
    said = reply.lower() if near else ""
    if "discarded" not in said and "blocked" not in said:       # so most are, and need no closer look
        return None
    return "discard" if FILTER_DROPPED.match(own_words(reply)) else None


def own_words(reply: str) -> str:
    """A reply without the addresses and the like that it repeats: a mailbox may be named after anything that a filter says.

    >>> own_words('250 2.0.0 <"a> queued as 4F00061AE"@b> Saved')
    '250 2.0.0 <> Saved'
    """
    return REPEATED_WORDS.sub("<>", reply) if "<" in reply else reply


def queued_as(reply: str) -> Optional[str]:
    """The ID in the last `queued as ID` of a reply (trap 38).

    >>> queued_as("250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 3854F172385")
    '3854F172385'
    """
    if QUEUED_AS not in reply:
        return None
    _, said, rest = own_words(reply).rpartition(QUEUED_AS)
    found = WORD.match(rest) if said else None
    return found.group(0) if found else None


@trimmed
def parse_postscreen(text: str) -> Event:
    """postscreen: what it refuses; its commas, its port, no host name (postscreen_smtpd.c:psc_rcpt_cmd)."""
    if text.startswith("NOQUEUE: reject: "):
        return parse_decision(None, text[9:], POSTSCREEN_TRAILERS)
    if text.startswith("reject: connect from "):
        return parse_decision(None, text.replace(" connect ", " CONNECT ", 1))
    return IGNORED if POSTSCREEN_EDITED.match(text) else ignore_noise(text, POSTSCREEN_NOISE)


# -- cleanup, pickup, qmgr, bounce, postsuper

CHECK = re.compile(r"((?:milter-header-)?[a-z]+): (?:header|body|content) ")     # content: message_reject_characters
CHECK_TRAILERS = [re.compile(
    r" from (?:local|unknown|" + CLIENT + r");(?: from=" + address + r")?(?: to=" + address + r")?"
    r"(?: proto=([A-Z]+))?(?: helo=<([^<>]*)>)?(?=: |:?$)") for address in (FIELD_ADDRESS, SAFE_ADDRESS, ADDRESS, INTERNAL_ADDRESS)]
MIME_ERROR = re.compile(r" from (?:local|unknown|" + CLIENT + "); from=" + ADDRESS + " to=(?:unknown|" + ADDRESS + ")$")
CHECK_CONTENT = 200                 # bytes of a header that are shown (cleanup_message.c:cleanup_act_log)
PICKUP_LINE = re.compile(r"uid=[0-9]+ from=<(.*)>(?: orig_id=([0-9A-Za-z]+))?$")
QUEUED_LINE = re.compile(r"from=<(.*)>, size=([0-9]{1,20}), nrcpt=([0-9]{1,20}) \(queue active\)$")
EXPIRED_LINE = re.compile(r"from=<(.*)>, status=(?:force-)?expired, returned to sender$")
NOBODY_LEFT = re.compile(r"warning: maildrop/[0-9A-Za-z]+: error writing ([0-9A-Za-z]+): no recipients specified$")
NOTIFICATION = re.compile(r"(?:sender|postmaster) (?:non-delivery|delay|delivery status) notification: ([0-9A-Za-z]+)$")
# cleanup_message.c, cleanup_envelope.c; cleanup_out.c; smtpd.c:bdat_cmd; cleanup_map1n.c, cleanup_map11.c, cleanup_masquerade.c
TRY_AGAIN = re.compile(r"write queue file: |.* -- message not accepted, try again later$")
NOT_TAKEN = re.compile(r"message rejected: |queue file size limit exceeded$|BDAT request from [^ ]+ exceeds message size limit$|"
                       + TRY_AGAIN.pattern)
SPAM_HEADER = re.compile(r"X-Spam-Status: (Yes|No), (?:score|hits)=(-?[0-9.]+)(?:[ ?]+required=(-?[0-9.]+))?"
                         r"(?:[ ?]+tests=((?:[A-Za-z0-9_]+,[ ?]*)*[A-Za-z0-9_]*))?", re.I)
CLEANUP_REMOVED = frozenset(("removed", "removed (canceled)", "removed (discarded)"))
POSTSUPER_NOISE = DAEMON_NOISE + ("Deleted: ", "Requeued: ", "Placed on hold: ", "Released from hold: ", "Force-expired: ", "Renamed ")
POSTFIX_NOISE = ("warning: ", "error: ", "fatal: ", "panic: ", "/", "Postfix is ", "See http", "To disable backwards compatibility ")
HANDLED = {"requeued": "requeue", "placed on hold": "hold", "released from hold": "release"}


def parse_cleanup(text: str) -> Event:
    """cleanup: a Message-ID, at the end of which blanks are its own, or another thing (cleanup_message.c)."""
    queue_id, names, message_id = text.lstrip(" ").partition(": message-id=")
    return MessageId(queue_id, message_id) if names and is_queue_id(queue_id) else parse_cleanup_other(text)


@trimmed
def parse_cleanup_other(text: str) -> Event:
    """The verdicts of milters and of header and body checks (cleanup_message.c, cleanup_milter.c), and what was not taken in."""
    queue_id, _, rest = text.partition(": ")
    if not is_queue_id(queue_id):
        return parse_not_taken(text) if text.startswith("warning: ") else ignore_noise(text, DAEMON_NOISE)
    found = CHECK.match(rest)
    if found:
        return parse_check(queue_id, found.group(1), rest[found.end():], was_cut(text))
    if rest.startswith("milter-"):
        return parse_decision(queue_id, rest)
    if rest in CLEANUP_REMOVED:
        return Removed(queue_id, "cleanup")
    if rest.startswith("to=<"):
        return parse_delivery(text)
    if rest.startswith("reject: mime-error "):
        return parse_mime_error(queue_id, rest)
    return IGNORED if rest.startswith("resent-message-id=") else not_taken(queue_id, rest)


def parse_not_taken(text: str) -> Event:
    """`warning: QID: queue file size limit exceeded`: a refusal that no other line tells; any other warning is noise."""
    queue_id, _, why = text[len("warning: "):].partition(": ")
    refusal = not_taken(queue_id, why) if is_queue_id(queue_id) else None
    return refusal or IGNORED


def not_taken(queue_id: str, why: str) -> Event:
    """Why a mail was not taken in; None when the words tell nothing of that."""
    return Verdict(queue_id, "cleanup", "reject", "END-OF-MESSAGE", why) if NOT_TAKEN.match(why) else None


def parse_check(queue_id: str, what: str, content: str, cut: bool) -> Event:
    """`hold: header Subject: … from client; from=<…> to=<…> proto=… helo=<…>: text` (cleanup_message.c:cleanup_act_log)."""
    action = what[len("milter-header-"):] if what.startswith("milter-header-") else what
    if cut:
        return IGNORED if action in QUIET_ACTIONS else Verdict(queue_id, "check", action, "END-OF-MESSAGE", content)    # without trailer
    trailer = find_trailer(content)
    if trailer is None:
        return None
    hostname, address, sender, recipient, protocol, helo = trailer.groups()
    spam = parse_spam_header(queue_id, content[:trailer.start()]) if action != what else None
    if action in QUIET_ACTIONS:
        return Checked(queue_id, sender, protocol, helo, spam)
    text = content[trailer.end() + 2:] or content[:trailer.start()]
    dsn = codes_of(text)[1] if action == "reject" else None
    return Verdict(queue_id, "check", action, "END-OF-MESSAGE", text, None, dsn, hostname, address, sender, recipient, protocol, helo,
                   None, spam)


def find_trailer(content: str) -> Optional[Match[str]]:
    """The fields behind the content of a header or body line.

    The content may imitate them, and so may a quoted address within them. So a pattern finds them one after the other, none within
    another, and the last counts that begins where the content can still end. Each pattern takes another view of what an address may
    hold: of all their findings the one that reaches furthest is the true one, of equals the first.
    """
    found = (one for pattern in CHECK_TRAILERS for one in pattern.finditer(content, 0, CHECK_CONTENT + TRAILER_REACH))
    return max((one for one in found if one.start() <= CHECK_CONTENT), key=lambda one: one.end(), default=None)


def parse_spam_header(queue_id: str, content: str) -> Optional[Spam]:
    """The X-Spam-Status header that a milter added. Only a milter's: the sender's own header proves nothing."""
    found = SPAM_HEADER.match(content)
    if not found:
        return None
    status, score, required, tests = found.groups()
    names = ",".join(name for name in re.split("[, ?]+", tests or "") if name not in ("", "none"))
    return Spam(queue_id, None, status.capitalize(), number(score), number(required), names or None)


def parse_mime_error(queue_id: str, text: str) -> Event:
    """`reject: mime-error why: text from …` (cleanup_message.c:cleanup_mime_error_callback)."""
    found = None if was_cut(queue_id, ": ", text) else MIME_ERROR.search(text, max(len(text) - TRAILER_REACH, 0))
    if not found:
        return None
    hostname, address, sender, recipient = found.groups()
    why = text[len("reject: "):found.start()]
    return Verdict(queue_id, "check", "reject", "END-OF-MESSAGE", why, None, None, hostname, address, sender,
                   None if recipient == "unknown" else recipient)


@trimmed
def parse_pickup(text: str) -> Event:
    """pickup: `QID: uid=0 from=<root>`, after postsuper -r with `orig_id=`; a mail without recipients is thrown away (pickup.c)."""
    queue_id, _, rest = text.partition(": ")
    found = PICKUP_LINE.match(rest)
    if found and is_queue_id(queue_id):
        return Pickup(queue_id, found.group(1), found.group(2))
    found = NOBODY_LEFT.match(text)
    if found and is_queue_id(found.group(1)):
        return Removed(found.group(1), "pickup")
    return ignore_noise(text, DAEMON_NOISE)


@trimmed
def parse_qmgr(text: str) -> Event:
    """qmgr: `queue active`, `expired`, `removed` (opened.c, qmgr_active.c). The sender is read from both ends (trap 1)."""
    queue_id, _, rest = text.partition(": ")
    if not is_queue_id(queue_id):
        return ignore_noise(text, DAEMON_NOISE)
    if rest == "removed":
        return Removed(queue_id, "qmgr")
    if rest.startswith("to=<"):
        return discarded(parse_delivery(text))
    found = QUEUED_LINE.match(rest)
    if found:
        sender, size, nrcpt = found.groups()
        return Queued(queue_id, sender, int(size), int(nrcpt))
    found = EXPIRED_LINE.match(rest)
    if found:
        return Expired(queue_id, found.group(1))
    return ignore_noise(rest, ("skipped, ", "status="))


@trimmed
def parse_bounce(text: str) -> Event:
    """bounce: which message tells of which (bounce_notify_util.c)."""
    queue_id, _, rest = text.partition(": ")
    if not is_queue_id(queue_id):
        return ignore_noise(text, DAEMON_NOISE)
    found = NOTIFICATION.match(rest)
    if found and is_queue_id(found.group(1)):
        return Notification(queue_id, found.group(1))
    return ignore_noise(rest, ("not sending ", "status="))


@trimmed
def parse_postsuper(text: str) -> Event:
    """postsuper: what the administrator did (postsuper.c)."""
    queue_id, _, rest = text.partition(": ")
    if not is_queue_id(queue_id):
        return ignore_noise(text, POSTSUPER_NOISE)
    if rest == "removed":
        return Removed(queue_id, "postsuper")
    if rest in HANDLED:
        return Handled(queue_id, HANDLED[rest])
    return ignore_noise(rest, ("expired",))


# -- delivery agents

DELIVERY = re.compile(r"to=" + ADDRESS + r"(?:, orig_to=" + ADDRESS + r")?, (relay=[^,<>]*(?:, [a-z_]+=[^,<>]*)*?), "
                      r"status=([A-Za-z-]+)(?: \((.*))?$")
INTERNAL_TAIL = re.compile(
    r">, (relay=[^,]*, (?:conn_use=[0-9]+, )?delay=[0-9.]+, delays=[0-9./]+, (?:[a-z]+=[^,<>]*, ){0,5}?dsn=[0-9.]+), "
    r"status=([A-Za-z-]+) \((.*)$")
SECOND_CHAIN = re.compile(">, [a-z_]+=")
ORDINARY = re.compile(r'(?:(?:@[^:]*:)?"(?:[^"\\]|\\.)*"|[^][\s<>(),;:\\"@]+)(?:@[^\s<>(),;\\"@]+)?$')    # quoted, or in no need of it
STATUSES = {                         # what status= says, as relay_status has it; None: the answer to a probe
    "sent": SENT, "bounced": BOUNCED, "deferred": DEFERRED, "SOFTBOUNCE": DEFERRED, DISCARDED: DISCARDED,
    "deliverable": None, "undeliverable": None, "undeliverable-but-not-cached": None,
}
FIELD = re.compile(r"([a-z_]+)=([^,]*)")
SMTP_NOISE = PEER_NOISE + (
    "certificate verification failed ", "server certificate verification failed ", "setting up TLS ", "SSL_connect",
    "initializing the client-side TLS engine", "looking for session ", "save session ", "reloaded session ", "remove session ", "TLSRPT: ",
    "skipping SRV lookup ", "SMTPS wrappermode ", "host ",
)
RELAY_LOST = re.compile(r"(?:lost connection with ([^ \[\]]*\[[^ \[\]]*\])|conversation with ([^ \[\]]*\[[^ \[\]]*\]) timed out) while ")
DELIVERY_ID_NOISE = (
    "host ", "lost connection with ", "conversation with ", "enabling PIX ", "passing <", "breaking line ", "info: ",
    "warning: ", "status=deferred", "Cannot start TLS", "TLS ", "SASL ", "Server certificate ", "replace: ", "prepend: ", "strip: ",
    "Protocol error", "local data error ", "mail for ", "message size ", "Sender requested ", "SMTPUTF8 ", "unexpected server message",
    "client TLS configuration problem", "unreadable mail queue entry",
)


def parse_delivery(text: str) -> Event:
    """A delivery status line (log_adhoc.c), its fields by name. The reason is what stands between the parentheses.

    From 3.5 on an address with strange characters is quoted, and read as such; before, only the chain of fields behind it
    tells where it ends.

    >>> parse_delivery('4F00061AE: to=<a@b>, relay=none, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (x (y))').reason
    'x (y)'
    """
    queue_id, _, rest = text.partition(": ")
    found = DELIVERY.match(rest)
    if found:
        upstream_to, orig_to, middle, status, reason = found.groups()
        if holds_chain(upstream_to) or holds_chain(orig_to):
            return None
    else:
        found = INTERNAL_TAIL.search(rest)
        if not found or rest.startswith(('to=<"', "to=<@")) or was_cut(text):
            return None                     # of a record cut within the address nothing is to be believed
        middle, status, reason = found.groups()
        upstream_to, _, orig_to = rest[4:found.start()].partition(">, orig_to=<")
        orig_to = orig_to or None
    if is_doubtful(reason or "", upstream_to, orig_to):
        return None
    if status not in STATUSES:
        return None                         # cut within, or damaged
    fields = dict(FIELD.findall(middle))
    return Delivery(queue_id, upstream_to, orig_to or None, fields["relay"], fields.get("conn_use"), fields.get("delay"),
                    fields.get("delays"), fields.get("tls"), fields.get("dsn"), status, closed(reason or ""))


def is_doubtful(reason: str, upstream_to: str, orig_to: Optional[str]) -> bool:
    """Whether nobody can say where an address ends: it is none as it stands, and a second chain of fields follows, in the reason.

    Before 3.5 a local part was logged as it came, and may imitate the whole chain; so may the reply of a server, at any time. Which of the
    two is forged cannot be told, and neither is believed. Behind what is an address the first chain counts, as from 3.5 on it must.

    >>> is_doubtful("250 ok@a>, relay=b", "x@y", None), is_doubtful("250 ok@a>, relay=b", "", None)
    (False, True)
    >>> is_doubtful("250 ok@a>, relay=b", '@r:"x\\\\"y z"@d', "root")
    False
    """
    return SECOND_CHAIN.search(reason) is not None and not (
        ORDINARY.match(upstream_to) and (orig_to is None or ORDINARY.match(orig_to)))


def holds_chain(address: Optional[str]) -> bool:
    """Whether what was read as a source route reaches into the fields behind it: had a true one held them, there would be quotes.

    >>> holds_chain("@a>, relay=b[192.0.2.1]:25, delay=1, status=sent (x@y"), holds_chain('@a:"b, status=sent (x"@y')
    (True, False)
    """
    return address is not None and address[:1] == "@" and ", status=" in address and '"' not in address


def closed(text: str, by: str = ")") -> str:
    """A text without the parenthesis that closes it, which a cut line lacks (trap 4)."""
    text = text.rstrip(" ")
    return text[:-1] if text.endswith(by) else text


@trimmed
def parse_agent(text: str) -> Event:
    """smtp, lmtp, local, virtual, pipe, error: deliveries, and the TLS of the connections they use."""
    queue_id, _, rest = text.partition(": ")
    if is_queue_id(queue_id):
        return parse_delivery(text) if rest.startswith("to=<") else parse_trouble(rest)
    return parse_tls(text) or ignore_peer_noise(text, SMTP_NOISE)


def parse_trouble(text: str) -> Event:
    """What a delivery agent says of a message while it goes on trying: that a connection broke off, or nothing to learn."""
    found = RELAY_LOST.match(text)
    return RelayLost(found.group(1) or found.group(2)) if found else ignore_noise(text, DELIVERY_ID_NOISE)


@trimmed
def parse_discard(text: str) -> Event:
    """discard: a delivery that is none (discard.c)."""
    return discarded(parse_agent(text))


def discarded(event: Event) -> Event:
    """`sent` by the discard transport, or by qmgr dropping an undeliverable double bounce, reached nobody."""
    if isinstance(event, Delivery) and event.status == SENT:
        return event._replace(status=DISCARDED)
    return event


@trimmed
def parse_master(text: str) -> Event:
    """master: after a start or a stop no smtpd session lives on (master.c)."""
    return Restarted() if text.startswith(("daemon started ", "terminating on signal ")) else IGNORED


@trimmed
def parse_daemonless(text: str) -> Event:
    """A tag without its daemon, `postfix`: rsyslog cuts it at the slash unless told `parser.permitSlashInProgramName`.

    postfix(1) itself bears it, too: it warns of what main.cf holds, and tells at each start that `compatibility_level` is an old one.
    """
    return ignore_noise(text, POSTFIX_NOISE)


def parse_nothing(text: str) -> Event:
    """Programs of the mail system that say nothing about a message."""
    return IGNORED


@trimmed
def parse_tlsproxy(text: str) -> Event:
    """tlsproxy: the TLS of a connection that it makes for smtp or lmtp (smtp_tls_connection_reuse). Its other client is postscreen."""
    return parse_tls(text) if " TLS connection established to " in text[:50] else ignore_unless_repeated(text)


@trimmed
def parse_qmqpd(text: str) -> Event:
    """qmqpd: whose mail it takes in, as smtpd says it (qmqpd.c)."""
    if text.startswith(("connect from ", "disconnect from ")):
        return parse_session(text)
    queue_id, _, rest = text.partition(": ")
    return parse_client(queue_id, rest[7:]) if is_queue_id(queue_id) and rest.startswith("client=") else IGNORED


# -- opendkim, opendmarc, dkimpy-milter

DKIM_LINE = re.compile(r"s=([^ ]*) d=([^ ]*)(?: a=([^ ]*))? SSL *(.*)$")
NOT_INTERNAL = re.compile(r"[^ ]+ \[[^ ]+\] not internal$")
DKIM_RESULT = re.compile(r'(?:^|; )signature=[^ ]* domain=([^ ]*) selector=([^ ]*) result="([^"]*)"')
DKIM_ADDED = re.compile(r"DKIM-Signature field added \(s=([^,]*), d=([^)]*)\)")
DKIM_KEY = re.compile(r"key (?:retrieval failed|revoked) \(s=([^ ]*), d=([^ ]*?)(?:, a=([^,)]*))?\)(?::|$)")
DKIMPY = re.compile(r"([a-z0-9-]+) DKIM signature (verified|added) \(s=([^ ]*) d=([^ ]*)\)$")
DKIM_WORDS = {"no signature error": "pass", "key not found in DNS": "permerror", "key DNS query failed": "temperror",
              "key DNS reply corrupt": "permerror", "key revoked": "permerror"}      # with all others it fails
DKIM_TEXTS = {                       # what a line begins with, and the result it tells
    "DKIM verification successful": "pass", "bad signature data": "fail", "no signature data": "none",
    "signature processing failed": "permerror", "syntax error": "permerror",
}
DKIM_TROUBLE = re.compile(r"(?:[A-Za-z0-9_()]+: )?(?:resource unavailable|internal error from libopendkim):")
OPENDKIM_NOISE = ("not authenticated", "no signing ", "no MTA name match", "no macros match", "external host ", "ignoring ", "can't ",
                  "RFC5322 header requirement error", "signature generation error", "SSL", "dkim_", "cannot ", "failed ", "domain ",
                  "skipping signing ", "BodyLengthDB ", "signing table ", "error ", "not POP ", "rate limit ", "Authentication-Results ",
                  "DKIM-Signature header ", "DKIM-Filter header ", "smfi_", "popen()", "pclose()")
DMARC_LINE = re.compile(r"([^ :]+) (pass|fail|none|temperror|permerror)$")
DMARC_SPF = re.compile(r"SPF\((?:mailfrom|helo)\): (.*?) ?(pass|fail|none|tempfail|permerror)$")
DMARC_QUERY = re.compile(r"opendmarc_policy_query_dmarc\(([^ ()]*)\) returned status ([0-9]+)$")
OPENDMARC_NOISE = ("RFC5322 ", "multi-valued From ", "ignoring ", "opendmarc_policy_", "ARC ", "can't ", "Authentication-Results ",
                   "DMARC-Filter header ", "unable ", "smfi_", "DMARC context ", "popen()", "pclose()")


@trimmed
def parse_opendkim(text: str) -> Event:
    """opendkim: results, domain and selector (opendkim.c). `not internal` and `not authenticated` are no results."""
    queue_id, _, rest = text.partition(": ")
    if NOT_INTERNAL.match(rest):
        return IGNORED
    if not is_queue_id(queue_id):
        return ignore_unless_repeated(text)
    if rest.startswith("s="):
        found = DKIM_LINE.match(rest)
        if not found:
            return None
        selector, domain, algorithm, error = found.groups()
        weight, result = (OVERALL, None) if error else (IMPLIED, "pass")
        return Dkim(queue_id, weight, result, domain, selector, algorithm)
    result = next((word for opening, word in DKIM_TEXTS.items() if rest.startswith(opening)), None)
    if result is not None:
        return Dkim(queue_id, OVERALL, result, signatures=0 if result == "none" else None)
    return parse_dkim_detail(queue_id, rest)


def parse_dkim_detail(queue_id: str, text: str) -> Event:
    """The rarer lines of opendkim: LogResults, keys, signing, several signatures."""
    if text.startswith("signature="):
        return parse_dkim_results(queue_id, text)
    found = DKIM_KEY.match(text)
    if found or text.startswith("key retrieval failed"):
        result = "permerror" if "revoked" in text[:12] or "not found" in text else "temperror"
        selector, domain, algorithm = found.groups() if found else (None, None, None)
        return Dkim(queue_id, OVERALL, result, domain, selector, algorithm)
    found = DKIM_ADDED.match(text)
    if found:
        return Dkim(queue_id, BY_THE_WAY, "signed", found.group(2), found.group(1))
    if DKIM_TROUBLE.match(text):
        return Dkim(queue_id, OVERALL, "temperror")
    if text.startswith("message has signatures from "):
        return Dkim(queue_id, BY_THE_WAY, signatures=text.count(", ") + 1)
    return ignore_noise(text, OPENDKIM_NOISE)


def parse_dkim_results(queue_id: str, text: str) -> Event:
    """`signature=… domain=… selector=… result="…"; …` (LogResults): one good signature is enough, else the first decides."""
    found = DKIM_RESULT.findall(text)
    if not found:
        return None
    results = [(DKIM_WORDS.get(words, "fail"), domain, selector) for domain, selector, words in found]
    result, domain, selector = next((one for one in results if one[0] == "pass"), results[0])
    return Dkim(queue_id, LISTED, result, domain, selector, None, len(results))


@trimmed
def parse_dkimpy(text: str) -> Event:
    """dkimpy-milter: one line per good signature; failures carry no ID."""
    queue_id, _, rest = text.partition(": ")
    found = DKIMPY.match(rest)
    if not is_queue_id(queue_id):
        return ignore_unless_repeated(text)
    if not found:
        return None
    algorithm, verb, selector, domain = found.groups()
    if verb == "added":
        return Dkim(queue_id, BY_THE_WAY, "signed", domain, selector, algorithm)
    return Dkim(queue_id, LISTED, "pass", domain, selector, algorithm)


@trimmed
def parse_opendmarc(text: str) -> Event:
    """opendmarc: `QID: domain result`, and its own SPF check (opendmarc.c)."""
    queue_id, _, rest = text.partition(": ")
    if not is_queue_id(queue_id):
        return ignore_unless_repeated(text)
    found = DMARC_LINE.match(rest)
    if found:
        return Dmarc(queue_id, found.group(1), found.group(2))
    found = DMARC_SPF.match(rest)
    if found:
        return MilterSpf(queue_id, spf_word(found.group(2)))
    found = DMARC_QUERY.match(rest)
    if found:
        return Dmarc(queue_id, found.group(1), "temperror" if found.group(2) in ("1", "2") else "permerror")
    return ignore_noise(rest, OPENDMARC_NOISE)


# -- policy servers: SPF

SPF_RESULTS = frozenset("Pass Fail Softfail Neutral None Temperror Permerror".split())
SPF_SENDER = r'("(?:(?! identity=)[^"\\]|\\.)*"(?:@[^;"]*)?|[^;]*)'      # what was begun in the explanation does not hold the true fields
SPF_ANSWER = "(?:prepend |Header field not prepended: )"
RECEIVED_SPF = re.compile(SPF_ANSWER + r"?(?:Received-SPF: )?([A-Za-z]+)(?: \((?:mailfrom|helo)\)|;) "
                          r"identity=(mailfrom|helo); client-ip=([^;]+); helo=[^;]*; envelope-from=(.*); receiver=[^;]*;? *$")
EXPLAINED_SPF = re.compile(SPF_ANSWER + r"Received-SPF: ([A-Za-z]+) \(")
# Strangers choose the explanation of a HELO, before the fields, and the sender, behind them: so the fields are found as one chain.
SPF_CHAIN = re.compile(r"(?:identity=|smtp\.)(?:mailfrom|helo)(?:; |=[^ ]* \()client-ip=\"?([^;\" ]+)\"?; helo=[^;]*; "
                       r"envelope-from=" + SPF_SENDER + r"; receiver=[^;]*;?$")
AUTH_RESULTS = re.compile(SPF_ANSWER + r"Authentication-Results: [^ ;]+; spf=([a-z]+) ")
PERL_SPF = re.compile("Policy action=PREPEND Received-SPF: ([A-Za-z]+) ")
PERL_VALUE = r'("(?:[^"\\]|\\.)*"|[^"\\;\s]*)'         # quoted when it is no dot-atom (Mail::SPF::Result, received_spf_header)
PERL_CHAIN = re.compile("identity=(?:mailfrom|mfrom|helo); (?:envelope-from={0}; )?helo={0}; client-ip={0}$".format(PERL_VALUE))
PERL_REFUSED = re.compile(r"Policy action=550 (.*)$")
SPF_REFUSED = re.compile(r"(?:550|defer_if_permit)(?: ([45]\.7\.2[34]))? (.*)$")
WHY = re.compile(r"[?;&]s=(mfrom|helo);id=((?:\"(?:[^\"\\]|\\.)*\"@)?[^ \";]*);ip=([0-9A-Fa-f.:%]+);r=")
WHY_IP = re.compile(r";ip=[0-9A-Fa-f.:%]+;r=")
SPF_TEXTS = (("SPF fail", "Fail"), ("domain owner discourages", "Softfail"), ("access neither permitted", "Neutral"),
             ("SPF Permanent Error", "Permerror"), ("SPF Temporary Error", "Temperror"))
# Where Postfix tells of it the words stand behind an address; one that imitates Postfix's words leaves the status code.
DUE_TO = re.compile(r"^(?:[45][0-9]{2} )?(?:[45]\.7\.2[34] )?(?:(?!.* rejected: .* rejected: )<.*?>: [A-Z][A-Za-z -]* rejected: )?"
                    r"(?:Message (?:rejected|deferred) due to: )?")
SPF_ACCEPTED = frozenset(("Pass", "None"))      # for which nobody refuses a mail
RECEIVER_POLICY = re.compile(r"Receiver policy for SPF ([A-Z][a-z]+)")
SPF_HEADER = re.compile(r"prepend (?:Received-SPF: |Authentication-Results: [^ ;]+; (?!none\b))")
# Strangers choose the HELO and the sender: if a field is imitated in one of these, nobody can tell what they were.
SMF_OPENING = r"SPF ([a-z]+)(?: \(cached\))?: ip="
SMF_SPF = re.compile(SMF_OPENING + r"([^ ,]+), fqdn=[^ ,]*, helo=(?:(?!, from=).)*, from=((?:(?!, from=).)*)$")
SMF_RESULT = re.compile(SMF_OPENING)
SPF_CODES = frozenset(("5.7.23", "5.7.24", "4.7.23", "4.7.24"))
MESSAGE_REJECTED = ": Recipient address rejected: Message "
NO_SPF_RESULT = ": Recipient address rejected: SPF-Result="         # postfix-policyd-spf-perl, of a name server that failed
QUOTES = str.maketrans("", "", '"\\')                # what an address bears in its external form alone


def spf_word(result: str) -> str:
    """An SPF result in the words of the column.

    >>> spf_word("softfail"), spf_word("tempfail")
    ('Softfail', 'Temperror')
    """
    return "Temperror" if result == "tempfail" else result.capitalize()         # opendmarc's word


@trimmed
def parse_policyd_spf(text: str) -> Event:
    """policyd-spf: results by client address, mostly before there is a queue ID (spf_engine/policyd_spf.py). `Action:` repeats."""
    return parse_behind_id(text, parse_spf_answer)


def parse_behind_id(text: str, parse: Callable[[str], Event]) -> Event:
    """What a policy server answers, behind the queue ID that it was asked about, which may be empty; or without one."""
    queue_id, _, rest = text.partition(": ")
    if queue_id and not is_queue_id(queue_id):
        return parse(text)
    event = parse(rest)
    return event._replace(queue_id=queue_id) if queue_id and isinstance(event, Spf) else event


def parse_spf_answer(text: str) -> Event:
    """The answer of policyd-spf itself: a header to be prepended, or a refusal."""
    found = RECEIVED_SPF.match(text)
    if found:
        result, identity, client_ip, sender = found.groups()
        event = spf_event(result, client_ip, sender, debug=text[0] not in "pH")
        if identity == "helo" and event and event.debug and event.sender:
            return IGNORED                  # the one of the sender follows
        return event
    found = EXPLAINED_SPF.match(text) or AUTH_RESULTS.match(text)
    if found:
        chain = SPF_CHAIN.search(text.rstrip(" "), max(found.end() - 1, len(text) - TRAILER_REACH))
        return spf_event(found.group(1), chain.group(1), chain.group(2)) if chain else None
    found = SPF_REFUSED.match(text)
    if found:
        return parse_spf_refusal(found.group(1), found.group(2))
    return None if SPF_HEADER.match(text) else ignore_unless_repeated(text)


def spf_event(result: str, client_ip: str, sender: str, debug: bool = False) -> Optional[Spf]:
    """A result, its words those of the column; None when it is none that is known."""
    word = spf_word(result)
    if sender[:1] == '"' == sender[-1:]:
        sender = sender[1:-1]
    sender = "" if sender == "<>" else sender
    return Spf(client_ip.lower(), sender, word, None, debug) if word in SPF_RESULTS else None


def parse_spf_refusal(dsn: Optional[str], said: str, decode: Callable[[str], str] = str) -> Event:
    """`550 5.7.23 Message rejected due to: … Please see http://…?s=mfrom;id=a@b;ip=1.2.3.4;r=…` (spf_engine defaults)."""
    why = WHY.search(said, max(len(said) - TRAILER_REACH, 0))
    if why is None or len(WHY_IP.findall(said)) > 1:       # explanation and sender are strangers', and may imitate the server's own words
        return IGNORED
    sender = decode(why.group(2)) if why.group(1) != "helo" else None
    return Spf(decode(why.group(3)).lower(), sender, spf_of_refusal(dsn, said), refusal=said)


def spf_of_refusal(dsn: Optional[str], said: str) -> str:
    """The SPF result behind a refusal, from pyspf's words, else from its status code (RFC 7372: X.7.23 fail, X.7.24 error).

    >>> spf_of_refusal("5.7.23", "Message rejected due to: domain owner discourages use of this host. Please see …")
    'Softfail'
    >>> spf_of_refusal("5.7.23", "550 5.7.23 <a@b>: Recipient address rejected: Message rejected due to: access neither permitted nor …")
    'Neutral'
    >>> spf_of_refusal("5.7.23", "550 5.7.23 <x>: Client host rejected: SPF Permanent Error@b>: Recipient address rejected: …")
    'Fail'
    >>> spf_of_refusal("5.7.24", "550 5.7.24 see https://x.example"), spf_of_refusal("4.7.24", "450 4.7.24 see https://x.example")
    ('Permerror', 'Temperror')
    """
    error = "Temperror" if dsn == "4.7.24" else "Permerror" if dsn == "5.7.24" else "Fail"
    return spf_of_words(DUE_TO.sub("", said, 1)) or error


def spf_of_words(said: str) -> Optional[str]:
    """The SPF result that pyspf's words, or pypolicyd-spf's of its `Reject_Not_Pass_Domains`, stand for.

    >>> spf_of_words("SPF fail - not authorized"), spf_of_words("too many connections"), spf_of_words("Receiver policy for SPF Pass")
    ('Fail', None, None)
    """
    policy = RECEIVER_POLICY.match(said)
    if policy and policy.group(1) in SPF_RESULTS - SPF_ACCEPTED:
        return policy.group(1)
    return next((word for opening, word in SPF_TEXTS if said.startswith(opening)), None)


def spf_of_verdict(verdict: Verdict) -> Optional[str]:
    """The SPF result that a refusal tells of: by a status code of SPF's own, else (`SPF_Enhanced_Status_Codes = No`, and the first
    versions of policyd-spf) by its words. These stand behind the whole recipient, which may imitate them, and has no quotes there.
    """
    said = verdict.text or ""
    if verdict.dsn in SPF_CODES:
        return spf_of_refusal(verdict.dsn, said)
    if MESSAGE_REJECTED not in said and NO_SPF_RESULT not in said:      # so most are, and need no closer look
        return None
    opening = "%s %s <%s>" % (verdict.code, verdict.dsn, verdict.recipient)
    opening, said = opening.translate(QUOTES), said.translate(QUOTES)
    if said.startswith(opening + NO_SPF_RESULT):
        return "Temperror"
    opening += MESSAGE_REJECTED
    return spf_of_words(said[len(opening):].partition(" due to: ")[2]) if said.startswith(opening) else None


def unquoted(text: str) -> str:
    """A text without the escapes of a URL, one character per byte as all text of the log.

    >>> unquoted("j%C3%B6rg%40x")
    'j\xc3\xb6rg@x'
    """
    return urllib.parse.unquote(text, "latin-1")


@trimmed
def parse_policy_spf(text: str) -> Event:
    """postfix-policyd-spf-perl, tag postfix/policy-spf; up to 2.002 it names the queue ID first."""
    return parse_behind_id(text, parse_perl_answer)


def parse_perl_answer(text: str) -> Event:
    """The answer of postfix-policyd-spf-perl: the comment holds quotes and parentheses, the fields reach the end of the line.

    The sender, quoted, may imitate them; but what begins within it cannot reach the end.
    """
    found = PERL_SPF.match(text)
    chain = PERL_CHAIN.search(text, max(len(text) - TRAILER_REACH, found.end())) if found else None
    if found and chain:
        sender, _, client_ip = chain.groups()
        return spf_event(found.group(1), client_ip.strip('"'), sender or "")
    found = PERL_REFUSED.match(text)
    if found:
        return parse_spf_refusal(None, found.group(1), unquoted)
    return None if text.startswith("Policy action=PREPEND Received-SPF: ") else ignore_unless_repeated(text)


@trimmed
def parse_smf_spf(text: str) -> Event:
    """smf-spf, a milter: a result for each MAIL FROM, before there is a queue ID (smf-spf.c:smf_envfrom)."""
    found = SMF_SPF.match(text)
    if found is None:
        return None if SMF_RESULT.match(text) else ignore_unless_repeated(text)
    result, client_ip, sender = found.groups()
    return spf_event(result, client_ip, sender[1:-1] if sender[:1] == "<" and sender[-1:] == ">" else sender)


# -- spam filters, SRS

SPAM_WORDS = {"identified spam": "Yes", "clean message": "No", "Y": "Yes", ".": "No"}      # spamd's and spampd's, as the column has it
SPAMD_SCORE = re.compile(r"(identified spam|clean message) \((-?[0-9.]+)/(-?[0-9.]+)\) for ")
SPAMD_USER = re.compile(r"[^ ]*:[0-9]+ ?$")         # a BSD syslogd writes a blank for the newline with which spamd ends its lines
SPAMD_RESULT = re.compile(r"result: ([Y.]) +(-?[0-9]{1,9}) - ([^ ]*) ")
SPAMD_MID = re.compile(r",mid=([^,]*)")
SPAMD_REQUIRED = re.compile(r"[, ]required_score=(-?[0-9.]+)")
SPAMPD_START = re.compile(r"processing message (<[^<> ]*>|\(unknown\)) for ")
SPAMPD_RESULT = re.compile(r"(identified spam|clean message) (<[^<> ]*>|\(unknown\)) \((-?[0-9.]+)/(-?[0-9.]+)\) from ")
AMAVIS = re.compile(r"\(([^ )]*)\) (Passed|Blocked) ([A-Z-]+)")
AMAVIS_ACTIONS = re.compile(r"\) \{[A-Za-z,]*\}, ")
RAW_ADDRESS = r'(?:"(?:[^"\\]|\\.)*"@[^"<>]*|[^"<>]*)'             # as SMTP has it, between angle brackets
AMAVIS_ADDRESS = "<" + RAW_ADDRESS + ">"
AMAVIS_RECIPIENT = re.compile(AMAVIS_ADDRESS)
AMAVIS_MAIL = re.compile(AMAVIS_ADDRESS + " -> (" + AMAVIS_ADDRESS + "(?:," + AMAVIS_ADDRESS + r")*)"
                         r"(?:, \([][0-9A-Za-z.:+/_< -]*\))?(?:, tls: [^ ,]+)?(?:, quarantine: [^ ,:]+(?:, [^ ,:]+(?=,))*)?"
                         r"(?:, Queue-ID: ([0-9A-Za-z]+))?(?:, Message-ID: <([^>]*|(?:(?!, ).)*)>)?"
                         r"(?:, Resent-Message-ID: <(?:[^>]*|(?:(?!, ).)*)>)?(?:, mail_id: [^ ,]+)?"
                         r"(?:, b: [^ ,]+)?, Hits: (?:-?[0-9]+(?:\.[0-9]+)?\.\.)?(-?[0-9.]+|-)(?:, size: [0-9]+)?(?:, pt: [^ ,]*)?"
                         r"(?:, queued_as: (?:[^,]* )?([0-9A-Za-z]+)(?:/[0-9A-Za-z]+)*(?![^,]))?")     # several: the reply names the first
AMAVIS_KEPT_BACK = ("Discarded", "Bounce", "Rejected", "TempFailed")
AMAVIS_MORE = re.compile(r"\.\.\.$|, Hits: (?:-,|[^ ,]*, tag=)")      # the rest is lost; not scanned; a report
AMAVIS_SIGNATURE = r"=([^ ,:=]+):([^ ,:=]+)(?:,[^ ,:=]+:[^ ,:=]+)*"       # selector and domain of the first
AMAVIS_SIGNATURES = "(?:, dkim_sd" + AMAVIS_SIGNATURE + ")?(?:, dkim_new" + AMAVIS_SIGNATURE + ")?, [0-9]+ ms"
AMAVIS_DKIM = re.compile("(?:, queued_as: [^,]*)?" + AMAVIS_SIGNATURES + r"(?:, Tests: \[[^\[\]]*\])?$")
AMAVIS_VERBOSE_DKIM = re.compile(r", Tests: \[[^\[\]]*\](?:, shortcircuit=[^,]*)?(?:, autolearn=[^,]*)?(?:, autolearnscore=[-0-9.]+)?"
                                 + AMAVIS_SIGNATURES + "$")
AMAVIS_TESTS = re.compile(r", Tests: \[([^\[\]]*)\]")
PMG_OUTCOME = re.compile("([0-9A-F]{10,25}): (?:accept mail to <(" + RAW_ADDRESS + r")> \(([0-9A-Za-z]+)\)|"
                         "moved mail for <(" + RAW_ADDRESS + r")> to (?:spam|virus) quarantine - [0-9A-Za-z]+) \(rule: ")
PMG_SCORE = re.compile(r"([0-9A-F]{10,25}): SA score=([0-9]{1,9})/([0-9]{1,9}) time=[^ ]+ bayes=[^ ]+ autolearn=.*? hits=([^ ]*)")
PMG_REPLY = re.compile(r"(?:250 2\.5\.0 OK|250 2\.7\.0 BLOCKED|554 5\.7\.1 Rejected for policy reasons) \(([0-9A-F]{10,25})\)$")
AMAVIS_REPLY = re.compile(r"[245][0-9]{2} [245]\.[0-9]{1,3}\.[0-9]{1,3} (?:[A-Za-z, ]{1,60}, )?id=([^ ,]+)(?=[ ,]|$)")
PMG_TOLD = re.compile(r"[0-9A-F]{10,25}: (?:accept mail to |SA score=)")
RSPAMD_OPENING = (r"(?:(?:[0-9-]{10} [0-9:.]{8,15} #[0-9]{1,10})?\([a-z_]+\) )?(?:<[^>]*>; [a-z_]+; )?"  # its module is `proxy` as a milter
                  "(?:rspamd_task_write_log: )?id: <")
RSPAMD = re.compile(RSPAMD_OPENING + r"([^>]*|[^ ]*)>(?:, qid: <([^>]*)>)?(?:, ip: [^,]*)?"
                    r"(?:, user: [^,]*)?(?:, from: " + ADDRESS + r")?,? \(default: ([TFS]) \(([a-z ]+)\): \[(-?[0-9.]+)/(-?[0-9.]+)\] "
                    r"\[((?:(?!\(default: ).)*)\]\)")
RSPAMD_ID = re.compile(RSPAMD_OPENING)
RSPAMD_NO_VERDICT = frozenset(("no action", "greylist", "soft reject"))
RSPAMD_SPAM = frozenset(("reject", "add header", "rewrite subject"))      # up to 1.8 `T` was said of the first alone (rspamd_task.c)
RSPAMD_SYMBOL = re.compile(r"(?:^|,)([A-Z][A-Z0-9_]*)\(")
RSPAMD_NAMES = re.compile(r"[A-Z][A-Z0-9_]*(?:,[A-Z][A-Z0-9_]*)*$")      # without scores: `$symbols` in log_format, once the default
SRS_PAIR = re.compile(r"[^>]*> (?!reversed to )[a-z ]+ <[^>]*>$")
SRS_OPENING = re.compile(r"(?:[0-9A-Za-z]+: )?(?:srs_forward: )?<")


@trimmed
def parse_spamd(text: str) -> Event:
    """spamd: no queue ID; by Message-ID and pid (spamd.raw). The result line truncates the score, the one before has it whole."""
    if not text.startswith("spamd: "):
        return ignore_unless_repeated(text)
    text = text[7:]
    if text.startswith("result: "):
        return parse_spamd_result(text)
    if text.startswith(("processing message", "checking message")):
        mid, _, user = text.partition(" message ")[2].rpartition(" for ")
        return SpamStart(mid.partition(" aka ")[0]) if SPAMD_USER.match(user) else None
    found = SPAMD_SCORE.match(text)
    if found:
        verdict, *scores = found.groups()
        score, required = map(number, scores)
        return SpamScore(SPAM_WORDS[verdict], score, required) if score is not None and required is not None else None
    return None if text.startswith(("identified spam", "clean message")) else IGNORED


def parse_spamd_result(text: str) -> Event:
    """`result: Y 6 - TESTS scantime=…,mid=<…>,autolearn=…`: blanks and commas of the Message-ID were replaced by `_`."""
    found = SPAMD_RESULT.match(text)
    mid = SPAMD_MID.search(text, found.end() - 1) if found else None
    if not found or not mid:
        return None
    required = SPAMD_REQUIRED.search(text)
    verdict, score, tests = found.groups()
    return SpamResult(mid.group(1), SPAM_WORDS[verdict], float(score), number(required.group(1)) if required else None, tests)


@trimmed
def parse_spampd(text: str) -> Event:
    """spampd, a proxy around SpamAssassin: by Message-ID, in which `?` stands for a blank and for what is not printable (spampd.pl)."""
    begun = SPAMPD_START.match(text)
    if begun:
        return SpamStart(begun.group(1))
    found = SPAMPD_RESULT.match(text)
    if not found:
        return None if text.startswith(("identified spam", "clean message")) else ignore_unless_repeated(text)
    verdict, mid, *scores = found.groups()
    score, required = map(number, scores)
    return None if score is None else SpamResult(mid, SPAM_WORDS[verdict], score, required, "")


@trimmed
def parse_amavis(text: str) -> Event:
    """amavis: what it tells of a mail, or a piece of that: `(id) Passed CLEAN … Message-ID: <a...`, then `(id) ...b@c>, …`.

    >>> parse_amavis("(04336-07) ...mple.org>, Hits: 17...")
    Piece(am_id='(04336-07)', text='mple.org>, Hits: 17', begins=False, cut=True)
    """
    am_id, _, rest = text.partition(" ")
    cut = rest.endswith("...")
    if rest.startswith("...") and am_id.startswith("("):
        return Piece(am_id, rest[3:-3] if cut else rest[3:], False, cut)
    if cut and AMAVIS.match(text):
        return Piece(am_id, text[:-3], True, True)
    return parse_amavis_verdict(text)


def parse_amavis_verdict(text: str) -> Event:
    """amavis, default template: `(id) Passed SPAMMY {…}, … <from> -> <to>, Queue-ID: …, Message-ID: …, …, Hits: 6.3, …`.

    Strangers choose the names of attachments, in parentheses before the chain of fields, and the Message-ID and subject behind it; all may
    imitate it. It counts where it begins with the first address behind those names, if there is no doubt where they end.
    """
    found = AMAVIS.match(text)
    if not found:
        return ignore_unless_repeated(text)
    ends = amavis_names(text, found.end())
    chain = AMAVIS_MAIL.match(text, text.find("<", ends[0])) if len(ends) == 1 and "<" in text else None
    if chain is None:
        return IGNORED if len(ends) != 1 or AMAVIS_MORE.search(text) else None
    recipients, queue_id, mid, hits, child = chain.groups()
    cut = text.endswith("...")              # the next piece is lost: only fields behind which another begins are sure to be whole
    am_id, action, category = found.groups()
    actions = text[text.rfind("{", 0, chain.start()):chain.start()].partition("}")[0] + "}"
    in_part = "Relayed" in actions and any(word in actions for word in AMAVIS_KEPT_BACK)
    filter_id = am_id if not queue_id and (in_part or action == "Blocked" and not child) else None
    if not (queue_id or mid or child or filter_id) or cut and not text.startswith(",", chain.end()):
        return IGNORED
    mid = mid and mid.partition(">")[0]     # of several the first, as Postfix has it
    signed = amavis_dkim(text, chain.end(), hits != "-")
    kept_back = recipients if action == "Blocked" and "Relayed" in actions else None
    outcome = "%s %s %s" % (action, category, actions) if kept_back and filter_id else None
    is_spam = category.startswith("SPAM")
    if hits == "-" and not is_spam:
        told = queue_id and (signed[0] or kept_back) or filter_id and in_part
        return Spam(queue_id, mid, None, None, None, None, child, *signed, kept_back, filter_id, outcome) if told else IGNORED
    tests = AMAVIS_TESTS.findall(text, chain.end())[-1:] if not cut else ()     # the last: a subject, which stands before, may imitate it
    names = ",".join(one.partition("=")[0] for one in tests[0].split(",")) if tests else None
    return Spam(queue_id, mid, "Yes" if is_spam else "No", number(hits), None, names, child, *signed, kept_back, filter_id, outcome)


def amavis_names(text: str, place: int) -> List[int]:
    """Where the names of attachments, which may begin at a place, may end: behind them are the actions, in braces.

    >>> amavis_names("BANNED (a, b) {DiscardedInbound}, [::1]", 6), amavis_names("CLEAN {RelayedInbound}, [::1]", 5)
    ([34], [5])
    """
    if not text.startswith(" (", place):
        return [place]
    return [one.end() for one in AMAVIS_ACTIONS.finditer(text, place)]


def amavis_dkim(text: str, place: int, scanned: bool) -> Tuple[Optional[str], Optional[str], Optional[str]]:
    """Result, domain and selector of a signature that amavis found valid, else of one that it made; nothing of others is logged.

    Only directly behind the chain of fields, where at most the next hop's reply stands: one with a comma in it may imitate them. In the
    verbose template behind the tests of a scan, with which the line ends: a subject and a HELO stand before.

    >>> amavis_dkim("size: 9, dkim_sd=s1:a.example,s2:b.example, 345 ms", 7, False)
    ('pass', 'a.example', 's1')
    >>> amavis_dkim('size: 9, Subject: "x", helo=y, Tests: [A=1], autolearn=no, dkim_new=s1:a.example, 345 ms', 7, True)
    ('signed', 'a.example', 's1')
    """
    found = AMAVIS_DKIM.match(text, place) or (AMAVIS_VERBOSE_DKIM.search(text, place) if scanned else None)
    selector, domain, new_selector, new_domain = found.groups() if found else (None,) * 4
    if selector and domain:
        return "pass", domain, selector
    return ("signed", new_domain, new_selector) if new_selector and new_domain else (None, None, None)


@trimmed
def parse_rspamd(text: str) -> Event:
    """rspamd's task log line (conf/logging.inc)."""
    found = RSPAMD.match(text)
    if not found:
        return None if RSPAMD_ID.match(text) else ignore_unless_repeated(text)
    mid, queue_id, _, flag, action, score, required, symbols = found.groups()
    told = action not in RSPAMD_NO_VERDICT      # a greylisted mail comes again, for another verdict; S skips the scan, but for GTUBE
    if flag == "S" and not told:
        return IGNORED
    tests = symbols if RSPAMD_NAMES.match(symbols) else ",".join(RSPAMD_SYMBOL.findall(symbols))
    known = queue_id if queue_id and is_queue_id(queue_id) else None
    is_spam = action in RSPAMD_SPAM or flag != "F" and told
    return Spam(known, mid.partition(">")[0], "Yes" if is_spam else "No", number(score), number(required), tests)


@trimmed
def parse_pmg(text: str) -> Event:
    """pmg-smtp-filter, the content filter of Proxmox Mail Gateway (PMG/RuleDB: Accept.pm, Quarantine.pm, Spam.pm). An attachment alone in
    quarantine is no outcome: the mail goes on. Whom it blocks its reply tells.

    >>> parse_pmg("2C225C6817C7EEE1481: accept mail to <a@b> (4F00061AE) (rule: default-accept)").child
    '4F00061AE'
    """
    found = PMG_OUTCOME.match(text)
    if found:
        filter_id, passed_to, child, kept_from = found.groups()
        return Screened(filter_id, passed_to or kept_from, child)
    found = PMG_SCORE.match(text)
    if found:
        filter_id, score, required, hits = found.groups()
        tests = ",".join(name for name in (one.partition("(")[0] for one in hits.split(",")) if name)
        return ScreenScore(filter_id, "Yes" if int(score) >= int(required) else "No", number(score), number(required), tests)
    return None if PMG_TOLD.match(text) else ignore_unless_repeated(text)


@trimmed
def parse_postsrsd(text: str) -> Event:
    """postsrsd 1 and 2: `<a> rewritten as <b>`, `<a> forwarded as <b>`; the way back is not needed."""
    opening = SRS_OPENING.match(text)
    sender, verb, srs = text.rpartition("> rewritten as <" if "> rewritten as <" in text else "> forwarded as <")
    if opening and verb and srs.endswith(">") and sender[opening.end():] != '""':
        return Rewritten(sender[opening.end():], srs[:-1])
    return None if opening and not verb and SRS_PAIR.match(text, opening.end()) else ignore_unless_repeated(text)


# The daemon is the last part of a Postfix tag, whatever syslog_name stands before it (mail_task.c): the name of its program, not that of
# its service in master.cf, so bounce and error also where they serve as defer, trace and retry.
POSTFIX_PARSERS = {
    "smtpd": parse_smtpd, "postscreen": parse_postscreen, "cleanup": parse_cleanup, "pickup": parse_pickup,
    "qmgr": parse_qmgr, "oqmgr": parse_qmgr, "nqmgr": parse_qmgr, "bounce": parse_bounce, "postsuper": parse_postsuper,
    "smtp": parse_agent, "lmtp": parse_agent, "local": parse_agent, "virtual": parse_agent, "pipe": parse_agent,
    "error": parse_agent, "discard": parse_discard, "master": parse_master, "policy-spf": parse_policy_spf, "qmqpd": parse_qmqpd,
    "tlsproxy": parse_tlsproxy,
}
POSTFIX_PARSERS.update(dict.fromkeys(
    "anvil scache verify dnsblog tlsmgr trivial-rewrite proxymap flush showq spawn nbdb_reindexd postfix-script postlog "
    "postlogd postqueue sendmail postdrop postalias postmap postmulti-script postfix-tls-script "
    "postfix-non-bdb-script policyd-weight".split(), parse_nothing))
OTHER_PARSERS = {
    "opendkim": parse_opendkim, "opendmarc": parse_opendmarc, "dkimpy-milter": parse_dkimpy, "policyd-spf": parse_policyd_spf,
    "pyspf-milter": parse_policyd_spf, "smf-spf": parse_smf_spf, "spamd": parse_spamd, "spampd": parse_spampd,
    "spamass-milter": parse_nothing, "amavis": parse_amavis, "amavisd": parse_amavis, "amavisd-new": parse_amavis,
    "rspamd": parse_rspamd, "postsrsd": parse_postsrsd, "postgrey": parse_nothing, "postfix": parse_daemonless,
    "pmg-smtp-filter": parse_pmg,
}


def parser_of(program: str) -> Optional[Callable[[str], Event]]:
    """The parser for a tag such as `postfix-in/submission/smtpd` or `opendkim`; None for programs of others.

    >>> parser_of("postfix/relay/smtp") is parse_agent, parser_of("dovecot") is None, parser_of("smtpd") is None
    (True, True, True)
    """
    _, slash, daemon = program.rpartition("/")
    if slash and daemon in POSTFIX_PARSERS and not program.startswith("cyrus/"):       # which has an lmtp and a master, too
        return POSTFIX_PARSERS[daemon]
    return OTHER_PARSERS.get(daemon)


# -- what nearly all lines look like, read many at once

# Fixed in length where it can be: a subset of QUEUE_ID that is found or not without trying twice.
USUAL_ID = "((?:[0-9A-E]|F[0-3])[0-9A-F]{5,14}|" + _DIGIT + "{6}" + _LONG_END + "): "
USUAL_CLIENT = r"([^][ \n]*)\[([^][ \n]+)\]"
USUAL_TLS = r"([^ \n]+) with cipher ([^ \n]+) .*"
make_connect, make_client_tls, make_client, make_verdict = maker(Connect), maker(ClientTls), maker(Client), maker(Verdict)
make_relay_tls, make_delivery, make_message_id = maker(RelayTls), maker(Delivery), maker(MessageId)
make_queued, make_removed, make_dkim, make_dmarc = maker(Queued), maker(Removed), maker(Dkim), maker(Dmarc)
make_broken = maker(Broken)
make_spam_start, make_spam_result = maker(SpamStart), maker(SpamResult)
Groups = Tuple[str, ...]                        # of all shapes: empty, but for those of the one that the line has


def holding(excluding: Match[str]) -> str:
    """A class that excludes characters, as the class of those it holds: `re` compares a few one by one, but looks many up.

    >>> re.sub(".+", holding, "[^b-y]")
    '[\\\\x00-\\\\x61\\\\x7a-\\\\xff]'
    """
    runs = re.finditer(excluding.group() + "+", "".join(map(chr, range(256))))
    return "[%s]" % "".join("\\x%02x-\\x%02x" % (found.start(), found.end() - 1) for found in runs)


def shapes(*usual: str) -> Pattern[str]:
    """One pattern for the usual shapes of a program's lines: of every line of a text it finds the groups, all empty in another shape.

    >>> shapes("a([0-9]+)", "b([0-9]+)").findall("b7\\nx\\na1")
    [('', '7'), ('', ''), ('1', '')]
    """
    return re.compile("^(?:%s|.*)$" % re.sub(r"\[\^\]?\[?(?:\\.|[^\[\]\\])*\]", holding, "|".join(usual)), re.M)


def usual_smtpd(groups: Groups, text: str) -> Event:
    """Sessions, births, refusals at RCPT, what strangers try in vain."""
    (hostname, client_ip, gone, queue_id, client, address, username, tls_client, tls_address, protocol, cipher,
     stage, refused, refused_ip, said, code, dsn, sender, recipient, proto, helo, broken, ignored) = groups
    if client_ip:
        return make_connect((hostname, client_ip))
    if gone:
        return disconnect_of(text)
    if queue_id:
        return make_client((queue_id, client, address, username or None, None, None, None))
    if cipher:
        return make_client_tls((tls_client, tls_address, protocol + " " + cipher))
    if stage and not was_cut(text):
        return make_verdict((None, "access", "reject", stage, said, int(code), dsn, refused or None, refused_ip, sender, recipient,
                             proto, helo, None, None))
    if broken:
        return make_broken((broken,))
    return IGNORED if ignored else parse_smtpd(text)


def usual_cleanup(groups: Groups, text: str) -> Event:
    """The Message-ID."""
    return make_message_id(groups) if groups[0] else parse_cleanup(text)


def usual_qmgr(groups: Groups, text: str) -> Event:
    """Into the active queue, and out of the queue."""
    queue_id, removed, sender, size, nrcpt = groups
    if removed:
        return make_removed((queue_id, "qmgr"))
    return make_queued((queue_id, sender, int(size), int(nrcpt))) if queue_id else parse_qmgr(text)


def usual_agent(groups: Groups, text: str) -> Event:
    """Deliveries between addresses in no need of quotes, TLS."""
    queue_id, upstream_to, orig_to, relay, conn_use, delay, delays, tls, dsn, status, reason, peer, protocol, cipher = groups
    if queue_id:
        return make_delivery((queue_id, upstream_to, orig_to or None, relay, conn_use or None, delay, delays, tls or None, dsn, status,
                              reason))
    return make_relay_tls((peer, protocol + " " + cipher)) if peer else parse_agent(text)


def usual_opendkim(groups: Groups, text: str) -> Event:
    """A verified signature, its words in three lines; a signature added."""
    queue_id, ignored, result, selector, domain, algorithm, error, new_selector, new_domain = groups
    if ignored:
        return IGNORED
    if result:
        result = DKIM_TEXTS[result]
        return make_dkim((queue_id, OVERALL, result, None, None, None, 0 if result == "none" else None))
    if new_domain:
        return make_dkim((queue_id, BY_THE_WAY, "signed", new_domain, new_selector, None, None))
    if error:
        return make_dkim((queue_id, OVERALL, None, domain, selector, algorithm or None, None))
    return make_dkim((queue_id, IMPLIED, "pass", domain, selector, algorithm or None, None)) if queue_id else parse_opendkim(text)


def usual_opendmarc(groups: Groups, text: str) -> Event:
    """The result of a domain."""
    return make_dmarc(groups) if groups[0] else parse_opendmarc(text)


def usual_policyd_spf(groups: Groups, text: str) -> Event:
    """A header to be prepended."""
    result, client_ip, sender = groups
    return spf_event(result, client_ip, sender) if result else parse_policyd_spf(text)


def usual_spamd(groups: Groups, text: str) -> Event:
    """The beginning of a scan, and its result."""
    ignored, started, verdict, score, tests, required, mid = groups
    if ignored:
        return IGNORED
    if started:
        return make_spam_start((started,))
    if verdict:
        return make_spam_result((mid, SPAM_WORDS[verdict], float(score), number(required), tests))
    return parse_spamd(text)


USUAL = {
    parse_smtpd: (usual_smtpd, shapes(
        "connect from " + USUAL_CLIENT, r"(disconnect from )(?!localhost\[).*",
        USUAL_ID + "client=" + USUAL_CLIENT + r"(?:, sasl_method=[^, \n]*, sasl_username=([^, =\n]+))?",
        "Anonymous TLS connection established from " + USUAL_CLIENT + ": " + USUAL_TLS,
        # Of the texts that fit, the longest: no address behind it can hold the beginning of another trailer.
        "NOQUEUE: reject: ([A-Z]+) from " + USUAL_CLIENT + r": (([45][0-9]{2}) ([45]\.[0-9]{1,3}\.[0-9]{1,3}) .*); from=(?:<>|"
        + USUAL_ADDRESS + ") to=" + USUAL_ADDRESS + r" proto=([A-Z]+) helo=<([^][<>\"; \n]*)>",
        r"(?:lost connection|timeout) after [A-Z-]+(?: \([0-9]+ bytes\))? from [^][ \n]*\[([^][ \n]+)\]",
        r"(warning: (?:hostname [^ \n]+ does not |[^][ \n]*\[[^][ \n]+\]: SASL |TLS library problem: )|SSL_accept ).*")),
    parse_cleanup: (usual_cleanup, shapes(USUAL_ID + "message-id=(.*)")),
    parse_qmgr: (usual_qmgr, shapes(
        USUAL_ID + r"(?:(removed)|from=<([^<>\n]*)>, size=([0-9]{1,20}), nrcpt=([0-9]{1,20}) \(queue active\))")),
    parse_agent: (usual_agent, shapes(
        USUAL_ID + "to=" + USUAL_ADDRESS + "(?:, orig_to=" + USUAL_ADDRESS + r")?, relay=([^,<>\n]*)(?:, conn_use=([0-9]+))?"
        r", delay=([0-9.]+), delays=([0-9./]+)(?:, tls=([^,<>\n]+))?, dsn=([0-9.]+), status=(sent|bounced|deferred) \((.*)\)",
        r"(?:Anonymous|Untrusted|Trusted|Verified) TLS connection established to ([^ \n]+): " + USUAL_TLS)),
    parse_opendkim: (usual_opendkim, shapes(
        USUAL_ID + r"(?:(not authenticated|[^ \n]+ \[[^ \n]+\] not internal)|(DKIM verification successful|bad signature data|"
        r"no signature data)|s=([^ \n]*) d=([^ \n]*)(?: a=([^ \n]+))? SSL *(.*)|"
        r"DKIM-Signature field added \(s=([^,\n]*), d=([^)\n]+)\))")),
    parse_opendmarc: (usual_opendmarc, shapes(USUAL_ID + r"([^ :\n]+) (pass|fail|none|temperror|permerror)")),
    parse_policyd_spf: (usual_policyd_spf, shapes(
        r"(?:: )?prepend Received-SPF: ([A-Za-z]+) \((?:mailfrom|helo)\) identity=(?:mailfrom|helo); client-ip=([^;\n]+); helo=[^;\n]*; "
        r"envelope-from=([^;\n]*); receiver=[^;\n]*;? *")),
    parse_spamd: (usual_spamd, shapes(
        r"(spamd: connection from ).*", r"spamd: (?:processing|checking) message ([^ \n]+) for [^ \n]*:[0-9]+",
        r"spamd: result: ([Y.]) +(-?[0-9]{1,9}) - ([^ \n]*) scantime=[0-9.]+,size=[0-9]+,user=[^,= \n]*,uid=[0-9]+,"
        r"required_score=(-?[0-9.]+),rhost=[^,= \n]*,raddr=[^,= \n]*,rport=[^,= \n]*,mid=([^,\n]*)(?:,.*)?")),
}   # type: Dict[Callable[[str], Event], Tuple[Callable[[Groups, str], Event], Pattern[str]]]


def parse_all(parse: Callable[[str], Event], texts: List[str]) -> List[Event]:
    """What a parser makes of each of many texts, none of which holds a newline: the same as one by one, but faster.

    >>> parse_all(parse_qmgr, ["4F00061AE: removed", "warning: x", "?"])
    [Removed(queue_id='4F00061AE', by='qmgr'), Ignored(), None]
    """
    if parse in USUAL:
        read, pattern = USUAL[parse]
        found = pattern.findall("\n".join(texts))
        if len(found) == len(texts):
            return list(map(read, found, texts))
    return list(map(parse, texts))


# ============================================================================ addresses

SRS0 = re.compile(r"SRS0[=+-]([A-Za-z0-9+/]+)=([A-Za-z2-7]{2})=([^=@ ]+)=(.+)$", re.I | re.S)
SRS1 = re.compile(r"SRS1[=+-][A-Za-z0-9+/]+=[^=@ ]+=[=+-]([A-Za-z0-9+/]+)=([A-Za-z2-7]{2})=([^=@ ]+)=(.+)$", re.I | re.S)
SRS_TAG = re.compile(r"\"?SRS[01][=+-]", re.I)


def is_srs(address: str) -> bool:
    """Whether an address is one of the Sender Rewriting Scheme (srs2.h:SRS_IS_SRS_ADDRESS).

    >>> is_srs("srs1+x@y"), is_srs("srs0@y")
    (True, False)
    """
    return "RS" in address[:4].upper() and SRS_TAG.match(address) is not None


def unwrap_srs(address: str) -> Optional[str]:
    """The original sender inside an SRS0 or SRS1 address; None when it is no such address, or hides it (libsrs2/srs2.c).

    The domain cannot hold `=`, the local part can. postsrsd 2 with a database puts the single digit 1 where the domain
    stands: nothing to unwrap there.

    >>> unwrap_srs("SRS0=GOZY=JL=lists.example=bounce+u=x.example@fwd.example")
    'bounce+u=x.example@lists.example'
    >>> unwrap_srs("SRS1=HHH=fwd.example==HHH=TT=orig.example=user@me.example")
    'user@orig.example'
    """
    local = address.rpartition("@")[0]
    quoted = local[:1] == '"' == local[-1:]
    if quoted:
        local = local[1:-1]
    found = SRS0.match(local) or SRS1.match(local)
    if not found or found.group(3) == "1":
        return None
    return ('"%s"@%s' if quoted else "%s@%s") % (found.group(4), found.group(3))


is_ascii: Callable[[str], Any] = getattr(str, "isascii", re.compile("[\x00-\x7f]*$").match)      # str has it from 3.7 on


def text_of(raw: str) -> str:
    """A piece of the log as text. Lines are held one character per byte; bytes that are no UTF-8 become U+FFFD, NUL too.

    >>> text_of("J\\xc3\\xb6rg \\xff")
    'Jörg \ufffd'
    """
    return raw.encode("latin-1", "replace").decode("utf-8", "replace").replace("\0", "\ufffd")


def raw_text(value: Any) -> Any:
    """A text from elsewhere as text is held here: one character per byte. What is no text stays as it is."""
    return value.encode("utf-8").decode("latin-1") if isinstance(value, str) and not is_ascii(value) else value


def domain_forms(domain: str) -> List[str]:
    """A configured domain as it may stand in a log, in lower case: as it is, and if internationalised in its other form, by IDNA 2008 as
    Postfix has it: IDNA 2003, which Python knows, took another letter for some of them.

    >>> sorted(domain_forms("M\u00fcller.example")), domain_forms("@Example.ORG."), domain_forms(".a..b"), domain_forms(".")
    (['m\u00fcller.example', 'xn--mller-kva.example'], ['example.org'], ['a..b'], [])
    """
    domain = domain.lstrip("@").strip(".").lower()
    forms = {domain}
    labels = domain.split(".")
    try:
        forms.add(".".join(label if is_ascii(label) else "xn--" + label.encode("punycode").decode("ascii") for label in labels))
        forms.add(".".join(label[4:].encode("ascii").decode("punycode") if label[:4] == "xn--" else label for label in labels))
    except UnicodeError:
        pass                                # no letters are meant by this xn--: it stands for itself
    return [form for form in forms if form]


class DomainFilter:
    """Which recipients are tracked: those of the given domains and their subdomains. No domains: all.

    >>> tracks = DomainFilter(["example.org"]).tracks
    >>> tracks("a@Sub.Example.ORG", None), tracks("SRS0=a=bc=x.org=b@example.org", "b@x.org"), tracks("user", "u@example.org")
    (True, False, True)
    """

    def __init__(self, domains: Iterable[str]) -> None:
        self.domains = frozenset(form for domain in domains for form in domain_forms(domain))

    def tracks(self, orig_to: Optional[str], upstream_to: Optional[str]) -> bool:
        """Whether one of a recipient's two addresses is tracked; an SRS address never is: it leads back to a sender."""
        return not self.domains or self._matches(orig_to) or self._matches(upstream_to)

    def _matches(self, address: Optional[str]) -> bool:
        if not address or is_srs(address):
            return False
        domain = text_of(address).rpartition("@")[2].lower().rstrip(".") if "@" in address else ""
        if len(domain) > MAX_DOMAIN:        # of no name that is so long, but its end decides
            domain = domain[-MAX_DOMAIN:].partition(".")[2]
        while domain:
            if domain in self.domains:
                return True
            domain = domain.partition(".")[2]
        return False


# ============================================================================ correlator

REMOTE_AGENTS = frozenset(("smtp", "lmtp"))    # what other agents tell is no server's reply
RELAY = re.compile(r"([^\[\]]*)\[([^\[\]]*)\]:([0-9]{1,5})$")
FORWARDED_AS = re.compile(r"forwarded as ([0-9A-Za-z]+)$")
ALIASES_AWAY = "alias database unavailable"
REMOTE_REPLY = re.compile(
    r"(?:Protocol error: )?(?:host [^ ]+ (?:said|refused to talk to me): "
    r"|SASL (?:\[CACHED\] )?authentication failed; server [^ ]+ said: |TLS is required, but host [^ ]+ refused to start TLS: )?"
    r"([2-5][0-9]{2})(?=[ -]|$)")
DMARC_REJECT = re.compile(r"[45]\.7\.1 rejected by DMARC policy for ([^ ;]+)")         # 4 with soft_bounce, or a milter's own setting
SPAM_REJECT = re.compile(r"[45]\.7\.1 (?:Blocked by SpamAssassin|Spam message rejected)")     # spamass-milter, rspamd
NEAR = re.compile(r"127\.|::1$|10\.|192\.168\.|172\.(?:1[6-9]|2[0-9]|3[01])\.|169\.254\.|f[cd][0-9a-f]{2}:|fe80:", re.I)
CLIENT_FACTS = frozenset(("client_hostname", "client_ip", "client_tls", "sasl_username"))
SCORE = ("spam_status", "spam_score", "spam_required", "spam_tests")
MID_PLAIN = re.compile(r"[!-+\--;=@-\[\]^`-~]*$")
MID_NOISE = re.compile(r"(?:\\x\{[0-9A-Fa-f]+\}|\\\\|[^!-+\--;=@-\[\]^`-~])+")
SWEPT = {"hold": HELD, "discard": DISCARDED, "reject": REJECTED, "bounce": BOUNCED}
HostKey = Tuple[str, str]           # a host, and what is its own there: a client's address, a Message-ID, a queue ID


# -- the processes that write the log

class Pile:
    """The lines of a batch that one parser reads: `add` each text, `read` all, and take what each tells with `next_event`, in order.

    `add` and `next_event` are methods of its lists, for they are called for every line.
    """

    __slots__ = ("parse", "texts", "events", "add", "next_event")

    def __init__(self, parse: Callable[[str], Event]) -> None:
        self.parse = parse
        self.texts: List[str] = []
        self.events: List[Event] = []
        self.add, self.next_event = self.texts.append, self.events.pop

    def read(self) -> None:
        """Parse all that was added, together. Of a line at which the parser fails the event is the exception."""
        try:
            self.events += parse_all(self.parse, self.texts)
        except Exception:               # one bad line must never stop the reading
            self.events += map(self._attempt, self.texts)
        self.events.reverse()

    def _attempt(self, text: str) -> Any:
        try:
            return self.parse(text)
        except Exception as error:
            return error

    def last_text(self) -> str:
        """The text of the event that was taken last."""
        return self.texts[-1 - len(self.events)]

    def clear(self) -> None:
        """Make room for the next batch, whether or not all events were taken."""
        del self.texts[:], self.events[:]


class Origin:
    """A process that writes lines: its host's open messages, the pile of its lines, its program's tally.

    `quiet`: the class in which lines with nothing to learn from are counted. `add` and `next_event` are those of the pile.
    """

    __slots__ = ("prefix", "host", "program", "daemon", "open", "pile", "add", "next_event", "tally", "quiet")

    def __init__(self, header: Header, open_messages: "Dict[str, Message]", pile: Pile, tally: List[int], quiet: int) -> None:
        self.prefix = header.prefix
        self.host = header.host
        self.program = header.program
        self.daemon = header.program.rpartition("/")[2]
        self.open = open_messages
        self.pile, self.add, self.next_event = pile, pile.add, pile.next_event
        self.tally, self.quiet = tally, quiet


# -- what is kept while a mail is under way

def small(name: Optional[str]) -> str:
    """A name in small letters, by which it is found however it is written."""
    return (name or "").lower()


class Recipient:
    """One recipient of a message and what became of it: a row's own columns, and three notes for the correlator.

    `recipient_no` None: not tracked, makes no row. `refused`: turned away at RCPT, while the message went on without it.
    `before_hold`: the status that a release brings back. `became`: the stored recipient that this one turned out to be.
    """

    __slots__ = RECIPIENT_COLUMNS + ("refused", "before_hold", "became")

    def __init__(self, orig_to: Optional[str], upstream_to: Optional[str], last_seen: int) -> None:
        self.orig_to, self.upstream_to, self.last_seen = orig_to, upstream_to, last_seen
        self.recipient_no: Optional[int] = None
        self.relay_host = self.relay_ip = self.relay_tls = None     # type: Optional[str]
        self.relay_status = self.dsn = self.relay_message = None    # type: Optional[str]
        self.relay_port = self.smtp_code = None                     # type: Optional[int]
        self.delay: Optional[float] = None
        self.delays = self.next_queue_id = None                     # type: Optional[str]
        self.refused = False
        self.before_hold: Optional[str] = None
        self.became: Optional[Recipient] = None


Named = Dict[str, Dict[Recipient, None]]    # by their names in small letters, in order; who stands for all by none


def add_named(named: Named, recipient: Recipient) -> None:
    """Put a recipient where it is found by its name."""
    named.setdefault(small(recipient.orig_to), {})[recipient] = None


def drop_named(named: Named, recipient: Recipient) -> None:
    """It is not to be found so any more."""
    named.get(small(recipient.orig_to), {}).pop(recipient, None)


def named_as(named: Named, new: Recipient, rules: Iterable[Callable[[Recipient, Recipient], bool]]) -> Optional[Recipient]:
    """The one that a new recipient is, by the first of some rules that finds one: they compare names, or look for who has none."""
    alike = [one for name in (new.orig_to, new.upstream_to, None) for one in named.get(small(name), ())]
    return next((one for fits in rules for one in alike if fits(new, one)), None)


class Sweep(NamedTuple):
    """An event of the whole message, for the recipients that only the store remembers. `status` None: released from hold."""

    status: Optional[str]
    time: int
    text: Optional[str] = None
    code: Optional[int] = None
    dsn: Optional[str] = None


class Message:
    """All that is known of a message: its columns, and these.

    Where it stands:
        low                 position of the first line that it was made from
        opened, heard       when it came into memory, and when it was last spoken of, by the log's clock
        continued           it was not born here: the store may know its rows
        queued              qmgr had it in the active queue
        ended, removed      the log has told its end; its queue file is gone
        finished            given to a harvest
        void                nobody is to get it: a probe of an address, or requeued when all had got it under the ID before
        stored              the rows that the store has of it, by recipient_no
    Its recipients:
        recipients          all of them; next_no: the number that the next tracked one gets
        by_address, named   some of them, to be found again: those of delivery lines; those only named so far
        fate                what befell the whole message, and befalls recipients named later, too
        sweeps              all that befell it, for recipients that only the store remembers
        kept_back           to whom a filter does not give it on, though to others it does
        put_off             a milter refused one of them where no client hears it
    Whence it came:
        session, peer_ip    of the smtpd that received it; its client, which may be a filter where client_ip is not
        pickup_sender       the sender as pickup told it
        pending             decisions that fell before it had an ID; they count once its sender is known to be theirs
        front, fronted      the client of the session in front of a before-queue filter; whether that is shown
        proxied             such a filter had handed it in when it left memory, a moment before it was spoken of again
        given_up            such a filter refused it, it seems, when it had begun to hand it in
        orig_queue_id       its ID before a content filter, as XFORWARD told it
        parent, past        the message it came from; what the store has of a continuation, for those that come from it
        requeued_as         the ID under which postsuper sent it on
    What filters said:
        spf, spf_key        the result that it shows; the key of the crowd in which it waits until its sender is known
        called_in           the SPF result that it showed, and that is another's
        milter_spf          opendmarc's result, which counts where there is no other
        dkim_weight         of the line that decided
        mid_key             its Message-ID, as far as all programs agree on it
        scanned_until       so long, by the log's clock, a scan keeps it from being idle
        scored              its score is spamd's, found by Message-ID, so a twin may claim it
    """

    __slots__ = MESSAGE_COLUMNS + (
        "host", "low", "last_seen", "opened", "heard", "recipients", "next_no", "fate", "sweeps", "continued", "queued", "ended",
        "removed", "finished", "void", "session", "spf", "milter_spf", "dkim_weight", "pickup_sender", "peer_ip", "orig_queue_id",
        "requeued_as", "parent", "mid_key", "spf_key", "stored", "by_address", "named", "pending", "front", "fronted", "proxied", "scored",
        "scanned_until", "called_in", "past", "kept_back", "put_off", "given_up")

    def __init__(self, host: str, server_hostname: str, queue_id: str, time: int, low: int, continued: bool, now: int = 0) -> None:
        self.host, self.server_hostname, self.queue_id = host, server_hostname, queue_id
        self.first_seen = self.last_seen = time
        self.opened = self.heard = now
        self.low, self.continued = low, continued
        self.client_hostname = self.client_ip = self.helo = self.protocol = None        # type: Optional[str]
        self.sasl_username = self.client_tls = self.message_id = None                   # type: Optional[str]
        self.size = self.nrcpt = self.dkim_signatures = None                            # type: Optional[int]
        self.envelope_from = self.original_envelope_from = self.spf_result = None       # type: Optional[str]
        self.dkim_result = self.dkim_domain = self.dkim_selector = self.dkim_algorithm = None   # type: Optional[str]
        self.dmarc_result = self.dmarc_domain = self.spam_status = self.spam_tests = None       # type: Optional[str]
        self.spam_score = self.spam_required = None                                     # type: Optional[float]
        self.milter_action = self.milter_reason = self.parent_queue_id = None           # type: Optional[str]
        self.recipients: List[Recipient] = []
        self.by_address: Dict[Tuple[Optional[str], Optional[str]], Recipient] = {}
        self.named: Named = {}
        self.pending: Tuple[Verdict, ...] = ()
        self.kept_back: Tuple[str, ...] = ()
        self.next_no = 0
        self.fate: Optional[Sweep] = None
        self.sweeps: Tuple[Sweep, ...] = ()
        self.queued = self.ended = self.removed = self.finished = self.void = False
        self.session: Optional[Session] = None
        self.spf: Optional[Waiting] = None
        self.milter_spf = self.pickup_sender = self.peer_ip = self.orig_queue_id = None  # type: Optional[str]
        self.dkim_weight, self.scanned_until = -1, 0
        self.scored = self.fronted = self.proxied = self.put_off = self.given_up = False
        self.requeued_as = self.mid_key = None      # type: Optional[str]
        self.spf_key: Optional[HostKey] = None
        self.parent: Optional[Message] = None
        self.front: Optional[Dict[str, Optional[str]]] = None
        self.stored: Dict[int, Row] = {}
        self.called_in: Optional[str] = None
        self.past: Optional[Message] = None

    def needs(self, low: Optional[int]) -> None:
        """The line at `low` is needed, too, to make it again; None: no such line."""
        if low is not None and low < self.low:
            self.low = low

    def hear(self, time: int, now: int) -> None:
        """A line spoke of this message. A clock that steps back does not make it younger."""
        self.heard = now
        self.last_seen = max(self.last_seen, time)

    def sweep(self, sweep: Sweep) -> None:
        """Something happened to the message as a whole: it reaches every recipient whose fate is not decided."""
        self.sweeps += (sweep,)
        if self.fate is None or self.fate.status in UNDECIDED:
            self.fate = sweep if sweep.status else None
        elif self.fate.status == sweep.status == REQUEUED:     # postsuper tells it, then pickup
            self.fate = max(self.fate, sweep, key=lambda one: one.time)
        for recipient in self.recipients:
            sweep_recipient(recipient, sweep)


class Session:
    """An smtpd process while it serves one client. `low`: position of the first line that told something that its mails will show.

    `pending`: decisions that wait for the `client=` of the mail they are about. `spf`: the result of the last refusal, for it may be about
    the next recipient, too. `message`: the one it is receiving. `live`: the client is not gone. `took_all`, `took_none`: as in
    Disconnect.
    """

    __slots__ = ("client_hostname", "client_ip", "client_tls", "helo", "protocol", "sasl_username", "started", "low", "pending", "spf",
                 "message", "live", "took_all", "took_none")

    def __init__(self, client_hostname: Optional[str], client_ip: Optional[str], started: int) -> None:
        self.client_hostname, self.client_ip, self.started = client_hostname, client_ip, started
        self.client_tls = self.helo = self.protocol = self.sasl_username = None     # type: Optional[str]
        self.low: Optional[int] = None
        self.pending: Tuple[Verdict, ...] = ()
        self.spf: Optional[Waiting] = None
        self.message: Optional[Message] = None
        self.live, self.took_all, self.took_none = True, False, False

    def needs(self, low: int) -> None:
        """The line at `low` is needed, too, to know again what is known of it."""
        self.low = low if self.low is None else min(self.low, low)

    def greet(self, helo: Optional[str], protocol: Optional[str], low: int) -> None:
        """How the client greeted, as a refusal told: that is true of its next mails, too."""
        if helo is not None:
            self.helo, self.protocol = helo, protocol
            self.needs(low)

    def turn_to(self, sender: str) -> None:
        """The mail under way is of this sender: what was decided on another's before came to nothing (smtpd.c:mail_reset)."""
        self.pending = tuple(one for one in self.pending if one.envelope_from in (None, sender))

    def close(self) -> None:
        """The client is gone. Without a circle of references a message's memory is free as soon as it is written."""
        self.live, self.message = False, None


class Waiting:
    """An SPF result, until it is known for good which message it is about.

    `heard` is when it came, by the log's clock; `time` is the stamp of its line: after a stamp from the future that clock stands still
    until the host's has caught up, and only stamps tell how old the result is. `contended`: the client had another transaction under
    way, so it may be about that one. `message` shows it, on trial, until its sender is known; `lent`: that sender turned out to be
    another one, and the message shows the result only until one of the right sender comes. `refused` was turned away just before this
    result came: if no other message takes it, it was about that one, and late.
    """

    __slots__ = ("event", "sender", "prefix", "heard", "time", "low", "message", "contended", "lent", "refused")

    def __init__(self, event: Spf, prefix: str, heard: int, time: int, low: int) -> None:
        self.event, self.prefix, self.heard, self.time, self.low = event, prefix, heard, time, low
        self.sender = None if event.sender is None else bare(event.sender)
        self.message = self.refused = None      # type: Optional[Message]
        self.contended = self.lent = False


PAIR = 2                            # one result and one message leave nothing to be told apart


class Crowd:
    """What is under way together, of one client or with one Message-ID: only all its lines tell which result is about which message.

    So it is read again as a whole, from position `low` to `high`, or not at all. It began at `since`, by the log's clock. `size` counts its
    results and messages, of which a PAIR is no crowd.
    """

    __slots__ = ("low", "high", "since", "size")
    low: int
    high: int
    since: int
    size: int


class Twins(Crowd):
    """The messages with one Message-ID. `scored`: those that show a score which another may claim; mostly none, of however many."""

    __slots__ = ("scored",)

    def __init__(self, low: int, since: int, scored: Set[Message]) -> None:
        self.low = self.high = low
        self.since, self.size = since, PAIR + 1     # they are read together again
        self.scored = scored

    def move_score(self, message: Message, twin: Optional[Message]) -> None:
        """Take the score from a message, and let its twin show it, if there is one to which it goes."""
        for name in SCORE:
            if twin is not None:
                setattr(twin, name, getattr(message, name))
            setattr(message, name, None)
        message.scored = False
        self.scored.discard(message)
        if twin is not None:
            twin.scored = True
            self.scored.add(twin)


class ClientCrowd(Crowd):
    """Of one client: `results` are those that no message has for good yet, `unnamed` the messages whose sender is not known yet."""

    __slots__ = ("results", "unnamed")

    def __init__(self, low: int, since: int) -> None:
        self.low = self.high = low
        self.since, self.size = since, 0
        self.results: List[Waiting] = []
        self.unnamed: "collections.OrderedDict[Message, None]" = collections.OrderedDict()

    def name(self, message: Message) -> None:
        """The sender of a message is known, or never will be."""
        self.unnamed.pop(message, None)

    def is_pair(self, one: Waiting, message: Message) -> bool:
        """Whether one result and one message are all that ever was under way, and the result is about no refusal."""
        return self.size == PAIR and self.results == [one] and list(self.unnamed) == [message] and one.refused is None

    def free(self) -> List[Waiting]:
        """The results that wait for a message."""
        return [one for one in self.results if one.message is None]

    def about(self, senders: Set[Optional[str]], said: str = "", until: int = NEVER) -> Optional[Waiting]:
        """A result about one of these senders: the newest that waits, else the first that a message has on trial, else one that is lent.

        `said`: what the client was told; if the result was read from a refusal, that has to stand there. `until`: when the mail was last
        spoken of; a result behind that is about another one.
        """
        fits = [one for one in self.results if one.sender in senders and said.endswith(one.event.refusal or "") and one.heard <= until]
        found = next((one for one in reversed(fits) if one.message is None), None)
        return found or next((one for lent in (False, True) for one in fits if one.lent is lent and one.sender is not None), None)


class Straddle(NamedTuple):
    """From `low` to `high`, positions, something was under way that began at `since`. Straddles are kept in order of `high`."""

    high: int
    low: int
    since: int


def client_key(host: str, client_ip: Optional[str]) -> HostKey:
    """The key of a client's crowd: programs differ in the case of the letters of an IPv6 address."""
    return host, (client_ip or "").lower()


class Context(NamedTuple):
    """Something that later lines refer to. Its `value`: a scan's score, the sender behind an SRS address, the link to a message yet to be
    born, a message that awaits its SPF result, one that left memory unscanned, a refusal that a filter may pass on, or a verdict that no
    mail in memory claimed.

    `heard`: when, by the log's clock. `low`: the position of its first line.
    """

    value: Any
    heard: int
    low: int


class Left(NamedTuple):
    """A message that left memory unscanned. `proxied`: a before-queue filter had handed it in."""

    queue_id: str
    proxied: bool


class Begun(NamedTuple):
    """A line of which a process has written `pieces`, joined here. `time` is the stamp of the first, `heard` and `low` as in Context."""

    origin: Origin
    pieces: Piece
    time: int
    heard: int
    low: int


class Screening:
    """What a content filter has told of a mail under its own name for it: the score, and by recipient the ID under which it goes on, None
    in quarantine.

    `heard`: when the last of it was told, by the log's clock. `low`: the position of the first line. `refused`: the mail itself, once
    Postfix has told that the filter refused it, or threw it away. `given_on`: the same, when it is given on to some of its recipients.
    """

    __slots__ = ("heard", "low", "score", "outcomes", "refused", "given_on")

    def __init__(self, low: int) -> None:
        self.heard, self.low = 0, low
        self.score: Optional[ScreenScore] = None
        self.refused = self.given_on = None     # type: Optional[Message]
        self.outcomes: Dict[str, Optional[str]] = {}


class Link(NamedTuple):
    """A line told that the message with ID `child` comes from `parent`; while it is not in memory, it is looked for in the store.

    It must be born within `birth`, (first, last) microsecond, for IDs are given out anew. `recipient`: the one whose delivery made it, None
    for a notification. `forwarded`: local(8) itself told so; anything else is the word of a next hop, which may be a stranger's.
    """

    child: str
    parent: Message
    birth: Tuple[int, int]
    recipient: Optional[Recipient] = None
    forwarded: bool = False


def comes_from(message: Message, queue_id: Optional[str]) -> bool:
    """Whether a message was made of the one with this ID."""
    return queue_id is not None and message.parent_queue_id == queue_id


def began(delays: Optional[str], time: int) -> int:
    """When a delivery attempt told at `time` began, at the earliest: the last two `delays` are its own (log_adhoc.c).

    >>> began("90/0.1/1.5/3", 60 * SECOND) == 60 * SECOND - 4500000 - BIRTH_SLACK
    True
    """
    return time - sum(int((number(part) or 0) * SECOND) for part in (delays or "").split("/")[2:]) - BIRTH_SLACK


def birth_during(delays: Optional[str], time: int) -> Tuple[int, int]:
    """Between which moments a delivery attempt told at `time` may have made another message."""
    return began(delays, time), time + BIRTH_SLACK


def is_born(child: Message, link: Link) -> bool:
    """Whether a message was born when the one that a link leads to must have been."""
    return link.birth[0] <= child.first_seen <= link.birth[1]


def is_former(child: Message, link: Link) -> bool:
    """Whether an open message is over, and not the one that a link leads to: it had the same ID before."""
    return child.removed and not is_born(child, link)


class Harvest(NamedTuple):
    """Messages that are ready to be written, links to follow, and the messages still open: the former may come from these.

    `unclaimed`: as in Scans.
    """

    messages: List[Message]
    links: List[Link]
    open_by_host: Dict[str, Dict[str, Message]]
    unclaimed: Dict[HostKey, List[Context]]


# -- rules on what one line, or one message, tells

def is_older(time: int, other: int) -> bool:
    """Whether a stamp is older than another; one without a fraction stands for any moment of its second.

    >>> is_older(3 * SECOND, 3 * SECOND + 5), is_older(3 * SECOND + 1, 3 * SECOND + 5)
    (False, True)
    """
    if time % SECOND == 0 or other % SECOND == 0:
        return time // SECOND < other // SECOND
    return time < other


def bounce_stands(known: Recipient, status: Optional[str]) -> bool:
    """Whether a recipient's bounce stays: one destination of an alias has bounced, and now local(8) tells of another that got the mail."""
    return known.relay_status == BOUNCED and known.relay_host == "local" and status in (SENT, REQUEUED)


def outranks(status: Optional[str], time: int, known: Recipient) -> bool:
    """Whether an outcome replaces the one known of a recipient.

    The newer stamp prevails. Yet an older decision replaces what only waits: a clock may have been set back between the two. Of equal
    stamps the last one heard prevails, unless it only waits and the known one is a decision; with local(8) even then, for one process
    tells in turn of all that an alias or a .forward means.
    """
    if bounce_stands(known, status) or status == DEFERRED and is_gone(known):
        return False
    if known.relay_status in (None, INCOMPLETE) or is_older(known.last_seen, time):
        return True
    waited, decides = known.relay_status in UNDECIDED, status not in UNDECIDED
    return waited and decides if is_older(time, known.last_seen) else waited or decides or known.relay_host == "local"


def is_gone(recipient: Recipient) -> bool:
    """Whether postsuper took the mail for a recipient away, deleted or requeued: an attempt that was under way cannot put it off any more.

    What went on through a filter or local(8) was delivered, as its status code says, and local(8) may tell of other parts of an alias.
    """
    return recipient.relay_status == DELETED or recipient.relay_status == REQUEUED and not (recipient.dsn or "").startswith("2.")


def stays_held(recipient: Recipient, status: Optional[str]) -> bool:
    """Whether a recipient on hold stays there: it is deferred by an attempt that was under way when it was put there."""
    return recipient.relay_status == HELD and status == DEFERRED


def awaits_alias(recipient: Recipient) -> bool:
    """Whether local(8) could not look up whom an alias means: the next attempt may name that one instead (alias.c:deliver_alias)."""
    return recipient.relay_message == ALIASES_AWAY and recipient.relay_host == "local" and recipient.relay_status in UNDECIDED


def goes_on(recipient: Recipient) -> bool:
    """Whether the mail for a recipient went on under another ID."""
    return recipient.relay_status == REQUEUED or recipient.next_queue_id is not None and bounce_stands(recipient, REQUEUED)


def hand_on(recipient: Recipient) -> None:
    """Let a recipient show that its mail goes on under another ID, which has the outcome."""
    if recipient.relay_status not in (BOUNCED, DISCARDED):      # by local(8), for another part of an alias; or by a filter
        recipient.relay_status = REQUEUED


def release(recipient: Recipient, time: int) -> None:
    """Let a recipient wait as it did before it was on hold. Of one that stands for all nothing is left of the hold: they come by name."""
    waits = (recipient.dsn or "").startswith("4.")
    recipient.relay_status = recipient.before_hold or (DEFERRED if waits else None)
    if names_nobody(recipient) and recipient.relay_status in (None, INCOMPLETE):
        recipient.relay_message = recipient.smtp_code = recipient.dsn = None
    else:
        recipient.last_seen = time


def sweep_recipient(recipient: Recipient, sweep: Sweep) -> None:
    """Let an event of the whole message reach one recipient, unless that one's fate is decided."""
    if recipient.relay_status == sweep.status == REQUEUED and recipient.next_queue_id is None:
        recipient.last_seen = max(recipient.last_seen, sweep.time)      # postsuper and pickup tell of it, in any order
    if recipient.relay_status not in UNDECIDED or not outranks(sweep.status, sweep.time, recipient):
        return
    if sweep.status is None:
        if recipient.relay_status == HELD:
            release(recipient, sweep.time)
        return
    if sweep.status == HELD and recipient.relay_status != HELD:
        recipient.before_hold = recipient.relay_status
    recipient.last_seen = sweep.time if recipient.relay_status == INCOMPLETE else max(recipient.last_seen, sweep.time)
    recipient.relay_status = sweep.status
    if sweep.text is not None:
        recipient.relay_message, recipient.smtp_code, recipient.dsn = sweep.text, sweep.code, sweep.dsn


@functools.lru_cache(maxsize=16)
def digits_of(second: int) -> str:
    """A second of UTC as the digits of a NOQUEUE ID.

    >>> digits_of(0)
    '19700101000000'
    """
    return str(EPOCH + datetime.timedelta(seconds=second)).replace("-", "").replace(" ", "").replace(":", "")


def bare(address: str) -> str:
    """An address for comparing: others see it in lower case, or without the quotes that Postfix logs.

    >>> bare('"John Doe"@Example.org'), bare(raw_text("JÖRG@example.org")) == raw_text("jörg@example.org")
    ('john doe@example.org', True)
    """
    lower: str = address.lower() if is_ascii(address) else raw_text(text_of(address).lower())
    return lower.replace('"', "").replace("\\", "")


def message_id_content(value: str) -> str:
    """The content of the first `<…>` of a Message-ID header, else its raw value.

    >>> message_id_content("<a b@c> trailing"), message_id_content("no.brackets "), message_id_content("<>")
    ('a b@c', 'no.brackets ', '')
    """
    _, opened, rest = value.partition("<")
    content, closed_by, _ = rest.partition(">")
    return content if opened and closed_by else value


def without_comments(value: str) -> str:
    """A header without its comments, as spamd takes a Message-ID (spamd.raw, parse_msgids): what a parenthesis opens and closes.

    >>> without_comments("(<one@x> (two)) <three@x> ) (")
    ' <three@x> ) ('
    """
    kept: List[str] = []
    opened: List[int] = []
    for piece in re.split("([()])", value):
        if piece == "(":
            opened.append(len(kept))
        if piece == ")" and opened:
            del kept[opened.pop():]
        else:
            kept.append(piece)
    return "".join(kept)


@functools.lru_cache(maxsize=512)
def message_id_forms(value: str) -> Tuple[str, str]:
    """The content of a Message-ID, and what Postfix, spamd 3 and spamd 4 agree on of it: each replaces what it does not like.

    >>> message_id_forms("<a,b@c>")
    ('a,b@c', 'a_b@c')
    """
    content = message_id_content(value)
    if value == "(unknown)":
        return content, ""
    if MID_PLAIN.match(content) and "(" not in value:
        return content, content
    return content, MID_NOISE.sub("_", message_id_content(without_comments(value)))


def mail_key(host: str, message_id: str) -> HostKey:
    """The key by which mails with a Message-ID are found, whichever program tells it."""
    return host, message_id_forms(message_id)[1]


@functools.lru_cache(maxsize=512)
def split_relay(relay: str) -> Tuple[str, Optional[str], Optional[int]]:
    """Host, address and port of `relay=`; a socket, `none` or a service name stays as logged (trap 9).

    >>> split_relay("::1[::1]:2600"), split_relay("mx[private/dovecot-lmtp]")
    (('::1', '::1', 2600), ('mx[private/dovecot-lmtp]', None, None))
    """
    found = RELAY.match(relay)
    return (found.group(1), found.group(2), int(found.group(3))) if found else (relay, None, None)


def reply_code(reason: str) -> Optional[int]:
    """The three digits of the remote server's reply; None when no server replied (traps 5 to 7).

    >>> reply_code("host mx[192.0.2.1] said: 550-5.7.1 no (in reply to RCPT TO command)"), reply_code("connect to a[::1]:25: refused")
    (550, None)
    """
    if reason.startswith("250 "):
        return 250
    found = REMOTE_REPLY.match(reason)
    return int(found.group(1)) if found else None


def is_of_instance(prefix: str, host: str, instance: str) -> bool:
    """Whether a process belongs to an instance of Postfix on a host. Services may have names of their own (`-o syslog_name=…`): they
    are the default instance's, for those of further ones begin with `postfix-` (postmulti(1)).

    >>> [is_of_instance(prefix, "mx", "postfix") for prefix in ("mx in/smtpd[7]", "mx postfix-out/smtpd[7]", "mx2 postfix/smtpd[7]")]
    [True, False, False]
    """
    prefix_host, _, program = prefix.partition(" ")
    name = program.partition("/")[0]
    return prefix_host == host and (name == instance or instance == "postfix" and not name.startswith("postfix-"))


def is_near(address: Optional[str]) -> bool:
    """Whether an address is one of this host or of its own network.

    >>> is_near("192.168.1.5"), is_near("192.0.2.1"), is_near(None)
    (True, False, False)
    """
    return NEAR.match(address or "") is not None


def may_be_scanned(recipient: Recipient) -> bool:
    """Whether the mail went where its scan can have been: to a program, a socket, a filter of this network; not to a server out there."""
    return is_near(recipient.relay_ip) if recipient.relay_ip else recipient.relay_host != "none"


def handed_to(recipient: Recipient) -> Optional[str]:
    """The address to which the mail for a recipient was handed; a socket, shown as host[path], is on this host."""
    return "127.0.0.1" if recipient.relay_ip is None and (recipient.relay_host or "").endswith("]") else recipient.relay_ip


def is_own(relay_ip: Optional[str], peer_ip: Optional[str]) -> bool:
    """Whether a message that came from `peer_ip` can be the one handed to `relay_ip`: a filter on this host, by whatever address of it, or
    on its own network.

    A server out in the world may say `queued as` what it likes.
    """
    if not relay_ip or not peer_ip or not is_near(relay_ip):
        return False
    return peer_ip == relay_ip or is_loopback(peer_ip)


def is_loopback(address: str) -> bool:
    """Whether an address is this host's own.

    >>> is_loopback("127.0.2.1"), is_loopback("::1"), is_loopback("12.7.0.0")
    (True, True, False)
    """
    return address.startswith("127.") or address == "::1"


def filter_id_in(reply: str) -> str:
    """A filter's own name for the mail that a reply of it is about; empty when the reply bears none.

    >>> filter_id_in("554 5.7.0 Reject, id=00207-18 - spam"), filter_id_in("554 5.7.1 Rejected for policy reasons (3A2B4C5D6E7F8)")
    ('00207-18', '3A2B4C5D6E7F8')
    """
    found = PMG_REPLY.match(reply) or AMAVIS_REPLY.match(reply)
    return found.group(1) if found else ""


def was_proxied(message: Message) -> bool:
    """Whether a before-queue filter handed a message in: it told whose that is, but no queue ID, for the mail had none (smtpd_proxy.c)."""
    return message.fronted or message.peer_ip not in (None, message.client_ip) and message.orig_queue_id is None


def is_begun(message: Message) -> bool:
    """Whether a before-queue filter has begun to hand a message in, and nobody has told yet what became of it."""
    return message.message_id is None and not message.queued and not message.finished and was_proxied(message)


def is_refusal(verdict: Spam) -> bool:
    """Whether a filter tells of a mail without a queue ID that it refused it, maybe for some of its recipients."""
    return verdict.filter_id is not None and verdict.child is None


def is_of_another(verdict: Spam, message: Message) -> bool:
    """Whether a verdict with a message's Message-ID is about another mail: a filter refused that one, and handed the message in."""
    return is_refusal(verdict) and was_proxied(message)


def is_guessed(message: Message) -> bool:
    """Whether the SPF result that a message shows is one of several, while nobody has told its sender."""
    return message.spf is not None and message.spf.contended and message.envelope_from is None


def is_double_bounce(message: Message) -> bool:
    """Whether Postfix itself sent it, and wants no answer: an address probe, or a word to the postmaster (verify.c, bounce(8))."""
    return message.client_ip is None and (message.envelope_from or "").startswith("double-bounce@")


def is_generated(message: Message) -> bool:
    """Whether Postfix itself gave a message its Message-ID: as for a bounce, or for mail that came without one."""
    return message.queue_id + "@" in (message.message_id or "")


def outlives_helo(verdict: Verdict) -> bool:
    """Whether a decision befalls a mail: the client's HELO undoes those taken before it (smtpd.c:mail_reset). Of a client that says none a
    hold at CONNECT stays, which smtpd does not repeat. What an access table would have thrown away there comes in after a HELO.
    """
    return verdict.envelope_from is not None or verdict.action == "hold" and verdict.helo is None


def is_draft(message: Message) -> bool:
    """Whether a message is a bounce that has only begun; or one of this host itself that named no recipient and came from no other one:
    that may be a probe (verify.c, `sendmail -bv`).
    """
    if is_generated(message) and message.envelope_from is None:
        return True
    if message.recipients or message.fate is not None:
        return False
    own = message.pickup_sender is not None or is_generated(message) and message.peer_ip is None
    return is_double_bounce(message) or own and message.parent_queue_id is None


def is_just_back(message: Message) -> bool:
    """Whether what pickup brought is not in the queue yet: of a requeued mail it may be about to say that nobody is left to get it."""
    return message.pickup_sender is not None and message.fate is None and not message.queued


def is_refused_to_all(message: Message) -> bool:
    """Whether each recipient that is known of a message was refused, and nothing else is: it may have got its ID before it had any
    (smtpd_delay_open_until_valid_rcpt = no), or when another one, of which no line tells, was accepted.
    """
    return message.message_id is None and message.fate is None and not message.queued and bool(message.recipients) \
        and all(one.refused for one in message.recipients)


def awaits_count(message: Message) -> bool:
    """Whether the end of its session is to tell if any of its recipients was accepted."""
    return message.session is not None and message.session.live and is_refused_to_all(message)


def is_coming_in(message: Message) -> bool:
    """Whether the client of a message is still sending it; or is this host itself, whose `disconnect` will tell whether it was sent."""
    session = message.session
    if session is None or not session.live or message.queued:
        return False
    return session.message is message or message.message_id is None and message.peer_ip == "127.0.0.1"


# -- what the parts of the correlator share

def keep(contexts: Dict[Any, Any], key: Any, value: Any) -> None:
    """Put something where later lines find it. When that has grown too large, its oldest tenth goes: a dictionary keeps the order."""
    contexts[key] = value
    if len(contexts) > MAX_CONTEXTS:
        for old in list(itertools.islice(contexts, MAX_CONTEXTS // 10)):
            del contexts[old]


def keep_beside(contexts: Dict[Any, List[Any]], key: Any, value: Any) -> None:
    """Put something beside what is kept under its key, of which the newest stay."""
    values = contexts.get(key, [])
    values.append(value)
    del values[:-MAX_WAITING]
    keep(contexts, key, values)


class Memory:
    """The messages in memory, and where the log stands: what the parts of the correlator share.

    `time` is the stamp of the line at hand, for the rows; `now` is the newest stamp of all, and never steps back: whatever waits is
    measured by it, so a host whose clock is behind loses nothing. `position` and `file_start` are where the line and its file begin;
    `turn` tells the repetitions of a line apart when they are more than it has bytes. `open_by_host`: the open messages of each host, by
    queue ID. `finished`: those for the next harvest. `straddles`: what is over, but still to be read as a whole.
    """

    __slots__ = ("now", "time", "position", "file_start", "turn", "open_by_host", "open_count", "finished", "straddles")

    def __init__(self) -> None:
        self.now = self.time = self.position = self.file_start = self.turn = 0
        self.open_by_host: Dict[str, Dict[str, Message]] = {}
        self.open_count = 0
        self.finished: List[Message] = []
        self.straddles: List[Straddle] = []

    def open_of(self, host: str) -> Dict[str, Message]:
        """The open messages of a host, by queue ID; those that a process of this host finds in its Origin."""
        return self.open_by_host.setdefault(host, {})

    def all_open(self) -> List[Message]:
        """The open messages of all hosts."""
        return [message for messages in self.open_by_host.values() for message in messages.values()]

    def newest_birth(self) -> int:
        """When the youngest of the open messages began."""
        return max((message.first_seen for message in self.all_open()), default=0)

    def writable(self, message: Message) -> Message:
        """A message that is still to be written; when it has left memory, a continuation by which its rows are reached."""
        if not message.finished or message in self.finished:
            return message
        messages = self.open_of(message.host)
        known = messages.get(message.queue_id)
        if known is not None and known.continued:
            return known
        again = Message(message.host, message.server_hostname, message.queue_id, message.first_seen, self.position, True, self.now)
        again.finished, again.proxied = True, was_proxied(message)
        self.finished.append(again)
        if known is None:                   # so that lines that come before it is written find it
            messages[message.queue_id] = again
            self.open_count += 1
        return again

    def disperse(self, crowd: Crowd) -> None:
        """A crowd is over; its lines are still to be read together."""
        if crowd.size > PAIR:
            self.keep_together(Straddle(crowd.high, crowd.low, crowd.since))

    def keep_together(self, lines: Straddle) -> None:
        """Some lines are to be read again as a whole, if at all."""
        bisect.insort(self.straddles, lines)
        del self.straddles[:-MAX_CONTEXTS]

    def whole_from(self, low: int) -> int:
        """The position from which to read when the line at `low` is needed, for reading must not begin in the midst of a crowd.

        But one may reach back into another, and this into a third: those that began more than CROWD_LIFE before the last of them are
        passed over, or the position would never move. Where reading begins in the midst of one of these, a message that has no result of
        its own may take another's.
        """
        oldest = None
        for one in reversed(self.straddles):
            if one.low < low <= one.high and (oldest is None or one.since >= oldest):
                oldest = one.since - CROWD_LIFE if oldest is None else oldest
                low = one.low
        return low


class Rewritings:
    """The senders behind SRS addresses, should the syntax of these not tell: postsrsd has told them. By address, in lower case."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told: Dict[str, Context] = {}

    def tell(self, event: Rewritten, now: int, low: int) -> None:
        """postsrsd rewrote a sender, at `now` by the log's clock; so says the line at `low`."""
        if is_srs(event.srs) and not is_srs(event.sender):
            keep(self.told, event.srs.lower(), Context(event.sender, now, low))

    def sender(self, address: str) -> Optional[str]:
        """Who is behind an address, if that was told."""
        known = self.told.get(address.lower())
        return known.value if known else None

    def original(self, address: str) -> str:
        """The sender behind an SRS address: by its syntax, else as postsrsd told, else the address itself."""
        return unwrap_srs(address) or self.sender(address) or address

    def low(self, address: str) -> Optional[int]:
        """The position of the line that told who is behind an address."""
        known = self.told.get(address.lower())
        return known.low if known else None

    def seen_as(self, *addresses: Optional[str]) -> Set[Optional[str]]:
        """An envelope sender as a policy server may have seen it: as it is, unwrapped, as postsrsd knew it. None fits any."""
        known = set(addresses)
        if self.told:
            known.update(self.sender(address) for address in addresses if address is not None)
        return {None if address is None else bare(address) for address in known} | {None}


# -- SPF results

class SpfResults:
    """The SPF results of policy servers: they wait, by client address, for the messages they are about.

    `has_policy`: such a server has spoken. `crowds`, by host and client: what that one has under way. `late`: results that were logged
    after the refusal they had led to. `awaiting`, by host, client and sender: a message that has no result yet.
    """

    __slots__ = ("memory", "rewritings", "has_policy", "crowds", "late", "awaiting")

    def __init__(self, memory: Memory, rewritings: Rewritings) -> None:
        self.memory, self.rewritings = memory, rewritings
        self.has_policy = False
        self.crowds: Dict[HostKey, ClientCrowd] = {}
        self.late: List[Waiting] = []
        self.awaiting: Dict[Tuple[str, str, Optional[str]], Context] = {}

    def hear(self, new: Waiting, host: str) -> None:
        """A policy server's result. What it tells for debugging comes again in its answer; two answers are two transactions."""
        if not self.has_policy:
            self._begin()
        owner = self._awaited_by(new, host) if self.awaiting else None
        if owner is not None and owner.session is not None:
            show_on_trial(owner, new)
            return
        crowd = self._crowd((host, new.event.client_ip), owner.low if owner is not None else new.low)
        if owner is not None:
            new.refused = owner
            self.late.append(new)
        if crowd.results:
            free = crowd.free()
            if self._takes_place(crowd, free, new):
                return
            for one in free:
                one.contended = new.contended = True
        crowd.results.append(new)
        if len(crowd.results) > MAX_WAITING:
            del crowd.results[0]
        crowd.size += 1

    def _begin(self) -> None:
        """The first result of all: there is a policy server. What came in so far waits for results, too."""
        self.has_policy = True
        for message in self.memory.all_open():
            if message.session is not None and message.envelope_from is None and message.orig_queue_id is None and not message.ended:
                self.put_on_trial(message, message.session)

    def _takes_place(self, crowd: ClientCrowd, free: List[Waiting], new: Waiting) -> bool:
        """Put a result, if it is the answer that another one foretold for debugging, in that one's place; tells whether it was."""
        for old in free:
            if old.event.debug and old.prefix == new.prefix and (old.sender == new.sender or new.sender is None):
                new.low, new.sender, new.contended, new.refused = old.low, old.sender, old.contended, new.refused or old.refused
                self.late = [one for one in self.late if one is not old] + ([new] if new.refused else [])
                crowd.results[crowd.results.index(old)] = new
                return True
        return False

    def _awaited_by(self, one: Waiting, host: str) -> Optional[Message]:
        """The message that has waited for this result: its policy server's line came behind the line of Postfix that told the sender."""
        known = self.awaiting.pop((host, one.event.client_ip, one.sender), None)
        if known is None or self.memory.now - known.heard > SPF_LATE or known.value.spf is not None:
            return None
        message: Message = known.value
        said = "" if message.session is not None else message.recipients[0].relay_message or ""
        return message if said.endswith(one.event.refusal or "") and (message.session is None or is_coming_in(message)) else None

    def _await(self, message: Message, senders: Set[Optional[str]]) -> None:
        """A message, or a refused recipient, has no result: it may come in a moment."""
        context = Context(message, self.memory.now, message.low)
        for sender in senders - {None}:
            keep(self.awaiting, (*client_key(message.host, message.client_ip), sender), context)

    def await_first(self, message: Message) -> None:
        """Before any policy server has spoken, a message awaits its result as it would behind one: reading may have begun anew here."""
        if message.session is not None and message.orig_queue_id is None:
            self._await(message, self.rewritings.seen_as(message.envelope_from, message.original_envelope_from))

    def _crowd(self, key: HostKey, low: int) -> ClientCrowd:
        """What a client has under way; a further line of it stands at `low`."""
        memory, crowd = self.memory, self.crowds.get(key)
        if crowd is not None and self._is_over(crowd):
            memory.disperse(self.crowds.pop(key))
            crowd = None
        if crowd is None:
            crowd = ClientCrowd(low, memory.now)
            keep(self.crowds, key, crowd)
        elif memory.now - crowd.since > CROWD_LIFE:
            crowd.since = memory.now
            crowd.low = min([low, memory.position] + [one.low for one in crowd.results] + [message.low for message in crowd.unnamed])
        elif low < crowd.low:
            crowd.low = low
        crowd.high = memory.position
        return crowd

    def _is_over(self, crowd: ClientCrowd) -> bool:
        """Whether nothing of a client is under way any more; results that have waited too long are forgotten."""
        if self.late:
            self.tell_late()
        now = self.memory.now
        if crowd.results and now - crowd.results[0].heard > SPF_WAIT:
            crowd.results = [one for one in crowd.results if now - one.heard <= SPF_WAIT or one.message in crowd.unnamed]
        return not crowd.results and not crowd.unnamed

    def tell_late(self, at_end: bool = False) -> None:
        """Give a refusal the result that came behind it in time for its harvest: there may be no later one."""
        for one in self.late:
            self._tell_refused(one, at_end)
        self.late = [one for one in self.late if one.refused is not None]

    def _tell_refused(self, one: Waiting, at_end: bool = False) -> None:
        """A result that came behind a refusal, and that no other message asked for in time, was about that refusal."""
        if one.refused is not None and (at_end and one.message is None or self.memory.now - one.heard > SPF_LATE):
            message, one.refused = self.memory.writable(one.refused), None
            one.contended = True            # so a mail of another sender does not show it
            if message.spf_result is None:
                message.spf_result = one.event.result
                message.needs(one.low)

    def put_on_trial(self, message: Message, session: Session) -> None:
        """At `client=`: a message shows the newest result for this client, until its sender is known and may say otherwise.

        What its session remembers goes before a result of another policy process: each smtpd has one of its own, mostly (spawn(8)).
        """
        key = message.spf_key = client_key(message.host, message.client_ip)
        crowd = self._crowd(key, message.low)
        free = [one for one in crowd.free() if not one.event.refusal and self.memory.time - one.time <= SPF_WAIT]
        newest, before = free[-1] if free else None, self._remembered(session)
        found = before if newest is None or before is not None and before.prefix != newest.prefix else newest
        if crowd.unnamed or len(free) > 1 or found is not newest:
            rival = next(reversed(crowd.unnamed)).spf if crowd.unnamed else None       # those before it contend already
            for one in (rival, *free, found):
                if one is not None:
                    one.contended = True
        if found is not None:
            show_on_trial(message, found)
        crowd.unnamed[message] = None
        crowd.size += 1

    def forgo_sender(self, message: Message) -> None:
        """No line will tell the sender of a message any more: the result on trial is its own, or lent when others contend for it."""
        key, message.spf_key = message.spf_key, None
        if key in self.crowds:
            crowd, own = self.crowds[key], message.spf
            crowd.name(message)
            if own is not None and own.contended and own in crowd.results:
                own.lent = True
                return
            self._use_up(crowd, key, own)

    def _use_up(self, crowd: ClientCrowd, key: HostKey, one: Optional[Waiting]) -> None:
        """A result is a message's own from here on; the message's memory is free as soon as it is written."""
        if one is not None:
            one.message = None
            if one in crowd.results:
                self._tell_refused(one)
                one.refused = None
                crowd.results.remove(one)
        crowd.high = max(crowd.high, self.memory.position)
        if self._is_over(crowd):
            self.memory.disperse(self.crowds.pop(key))

    def confirm(self, message: Message, key: HostKey) -> None:
        """The sender is known: keep the result on trial if it is about that sender, else exchange it for the one that is.

        If there is none, a result that no other mail, refused or not, contended for is lent: a policy server may have seen the sender in
        another form. Else the message has no result, and awaits one that comes late.
        """
        own, known = message.spf, self.crowds.get(key)
        if own is not None and known is not None and known.is_pair(own, message) and own.sender == bare(message.envelope_from or ""):
            own.message = message.spf_key = None        # one result, one mail: nobody else to ask
            del self.crowds[key]
            return
        crowd, message.spf_key = self._crowd(key, message.low), None
        crowd.name(message)
        senders = self.rewritings.seen_as(message.envelope_from, message.original_envelope_from)
        if own is not None and (own.sender in senders or own.event.queue_id is not None):
            self._use_up(crowd, key, own)
            return
        found = crowd.about(senders, until=message.heard) or self._remembered_about(message.session, senders)
        if found is None and own is not None and own in crowd.results and not own.contended and own.refused is None:
            own.lent = True                 # until a mail of that very sender comes
            return
        self._exchange(crowd, message, own, found)
        if found is None and not message.queued:
            self._await(message, senders)
        self._use_up(crowd, key, found)

    def _exchange(self, crowd: ClientCrowd, message: Message, own: Optional[Waiting], found: Optional[Waiting]) -> None:
        """Give a message the result that was found for it; whoever had that on trial has the message's own one now, if it still waits."""
        holder = found.message if found is not None else None
        if own is not None and own in crowd.results:
            own.message = None
        show_on_trial(message, self._call_in(found))
        if holder is not None and holder in crowd.unnamed and own in crowd.results:
            show_on_trial(holder, own)      # there it does not age

    def _call_in(self, one: Optional[Waiting]) -> Optional[Waiting]:
        """Take a result away from the message of another sender that shows it, if there is one."""
        holder = one.message if one is not None else None
        if one is not None and holder is not None:
            holder = self.memory.writable(holder)
            holder.called_in = one.event.result if one.lent else holder.called_in
            show_on_trial(holder, None)
            one.lent = False
        return one

    def claim(self, message: Message, session: Session, event: Verdict) -> None:
        """A refused recipient takes its result, too; the transaction may go on, so its session remembers it."""
        if event.envelope_from is None or message.client_ip is None:
            return
        senders = self.rewritings.seen_as(event.envelope_from, message.original_envelope_from)
        one = self._told_of(client_key(message.host, message.client_ip), session, senders, event.text or "")
        if one is None:
            self._await(message, senders)
            return
        show_for_good(message, one)
        self._remember(session, one)

    def claim_proxied(self, message: Message, session: Session, envelope_from: Optional[str]) -> None:
        """A message that a before-queue filter took in takes the result of the session in front of that filter."""
        senders = self.rewritings.seen_as(envelope_from, message.envelope_from)
        one = self._told_of(client_key(message.host, session.client_ip), session, senders, "") if message.spf is None else None
        if one is not None:
            show_for_good(message, one)

    def _told_of(self, key: HostKey, session: Session, senders: Set[Optional[str]], said: str) -> Optional[Waiting]:
        """The result behind what a client was told; the mail that it was about came to nothing. See put_on_trial for what is remembered."""
        one, before = self._about(key, senders, said), self._remembered_about(session, senders)
        if before is not None and (one is None or one.message is not None or one.prefix != before.prefix):
            if one is not None and one.message is None:
                one.contended = True        # it may have been about this mail all the same
            return before
        self._spend(key, one)
        return one

    def heed_warning(self, host: str, session: Session, event: Verdict) -> None:
        """`reject_warning`: the policy server's refusal did not count (postconf(5), warn_if_reject), but its result is the session's."""
        key = client_key(host, event.client_ip)
        one = self._about(key, self.rewritings.seen_as(event.envelope_from), event.text or "")
        if one is not None and one.event.refusal:
            self._spend(key, one)
            self._remember(session, one)

    def _about(self, key: HostKey, senders: Set[Optional[str]], said: str) -> Optional[Waiting]:
        crowd = self.crowds.get(key)
        return crowd.about(senders, said) if crowd is not None and not self._is_over(crowd) else None

    def _spend(self, key: HostKey, one: Optional[Waiting]) -> None:
        """A result was about a mail that has no queue ID."""
        if one is not None:
            crowd = self.crowds[key]
            crowd.size += 1
            self._use_up(crowd, key, self._call_in(one))

    @staticmethod
    def _remember(session: Session, one: Waiting) -> None:
        session.spf = one
        session.needs(one.low)

    def _remembered(self, session: Optional[Session]) -> Optional[Waiting]:
        """What a session remembers of a refusal, as long as it may be about its next recipient, too."""
        one = session.spf if session is not None else None
        return one if one is not None and self.memory.now - one.heard <= SPF_WAIT else None

    def _remembered_about(self, session: Optional[Session], senders: Set[Optional[str]]) -> Optional[Waiting]:
        """The same, if it is about one of these senders."""
        one = self._remembered(session)
        return one if one is not None and one.sender in senders else None

    def count_free(self) -> int:
        """How many results wait for a message."""
        return sum(len(crowd.free()) for crowd in self.crowds.values())

    def forget_outdated(self) -> None:
        """Drop what no later line can refer to any more."""
        now = self.memory.now
        self.awaiting = {key: one for key, one in self.awaiting.items() if now - one.heard <= SPF_LATE}
        old = now - SPF_WAIT                # a younger one ends with its last line, not by itself
        for key in [key for key, crowd in self.crowds.items() if crowd.since < old and self._is_over(crowd)]:
            self.memory.disperse(self.crowds.pop(key))

    def lows(self) -> List[int]:
        """The positions of the lines that are still needed for what waits here."""
        now = self.memory.now
        return [crowd.low for crowd in self.crowds.values()] + [one.low for one in self.awaiting.values() if now - one.heard <= SPF_LATE]


def show_on_trial(message: Message, one: Optional[Waiting]) -> None:
    """Let a message show an SPF result, or none, until its sender is known."""
    message.spf = one
    message.spf_result = one.event.result if one else None
    if one is not None:
        one.message = message
        message.needs(one.low)


def show_for_good(message: Message, one: Waiting) -> None:
    """Let a message show an SPF result that is nobody else's."""
    message.spf, message.spf_result = one, one.event.result
    message.needs(one.low)


# -- what is scanned

class Scans:
    """What is scanned. Scanners name a mail by its Message-ID, or by an ID of their own; its score they may tell by their process alone.

    `has_scanner`: one has spoken that knows no queue ID. `by_message_id`, by host and Message-ID: who has it now; `twins`, likewise:
    several, while they are scanned; `gone`: those that left memory unscanned a moment ago; `unclaimed`: verdicts of which memory knows no
    mail. `at_hand`, by process of a scanner: the score of the mail that it is about. `screenings`, by host and filter's ID: what became of
    a mail there.
    """

    __slots__ = ("memory", "has_scanner", "by_message_id", "twins", "gone", "unclaimed", "at_hand", "screenings")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.has_scanner = False
        self.by_message_id: Dict[HostKey, Dict[Message, None]] = {}
        self.twins: Dict[HostKey, Twins] = {}
        self.gone: Dict[HostKey, List[Context]] = {}
        self.unclaimed: Dict[HostKey, List[Context]] = {}
        self.at_hand: Dict[str, Context] = {}
        self.screenings: Dict[HostKey, Screening] = {}

    def enter(self, message: Message, mid_key: str) -> None:
        """From now on scanners know a message by this Message-ID."""
        if message.mid_key is not None:
            self._drop(message)
        message.mid_key = mid_key
        key = message.host, mid_key
        known = self.by_message_id.setdefault(key, {})
        known[message] = None
        if self.has_scanner and len(known) > 1:
            self._gather(key, message.low)

    def leave(self, message: Message) -> None:
        """A message leaves memory; of one that is unscanned a scanner may tell in a moment.

        A before-queue filter may be the first scanner to speak: that it handed the mail in is all that is known of it before.
        """
        if message.spam_score is None and (self.has_scanner or message.fronted or is_near(message.peer_ip)):
            left = Left(message.queue_id, was_proxied(message))
            keep_beside(self.gone, (message.host, message.mid_key or ""), Context(left, message.heard, message.low))
        self._drop(message)

    def _drop(self, message: Message) -> None:
        """A message is not found by its Message-ID any more; with the last one its twins are over."""
        key = message.host, message.mid_key or ""
        known = self.by_message_id.get(key)
        if known is not None:
            known.pop(message, None)
            if not known:
                del self.by_message_id[key]
        twins = self.twins.get(key)
        if twins is None:
            return
        twins.scored.discard(message)
        if key not in self.by_message_id:
            twins.high = self.memory.position
            self.memory.disperse(self.twins.pop(key))

    def _gather(self, key: HostKey, low: int = NEVER) -> None:
        """Make twins of the several messages with one Message-ID: only together do they tell whose score is whose.

        `low`: of the one that has just come to them.
        """
        known, twins = self.by_message_id[key], self.twins.get(key)
        if twins is None or self.memory.now - twins.since > CROWD_LIFE:
            low = min(message.low for message in known)
            twins = Twins(low, self.memory.now, {message for message in known if message.scored})
            keep(self.twins, key, twins)
        twins.low = min(low, twins.low)

    def begin(self, prefix: str, host: str, message_id: str) -> None:
        """A scan begins: the score comes without a Message-ID, from the same process. A message being scanned is not idle."""
        memory, message = self.memory, self.unscanned(host, message_id)
        if message is not None:
            message.hear(memory.time, memory.now)
            message.scanned_until = memory.now + SCAN_LIFE
        self.at_hand.pop(prefix, None)

    def tell(self, prefix: str, score: SpamScore) -> None:
        """The score of the mail that a scanner's process is about; the result line follows."""
        keep(self.at_hand, prefix, Context(score, self.memory.now, self.memory.position))

    def unscanned(self, host: str, message_id: str, child: Optional[str] = None) -> Optional[Message]:
        """The first message of this Message-ID that waits for its scan: before it is queued (milter), else behind (filter).

        Not the one that the filter made of it, unless there is no other: then it stands before the queue.
        """
        if not self.has_scanner:
            self.has_scanner = True
            for key, known in self.by_message_id.items():
                if len(known) > 1:
                    self._gather(key)
        found = self.by_message_id.get(mail_key(host, message_id), ())
        if len(found) == 1 and child is None:
            only, = found
            return only if only.spam_score is None and not only.finished else None
        unscanned = [one for one in found if one.spam_score is None and not one.finished and not comes_from(one, child)]
        return min(unscanned, key=lambda one: (one.queue_id == child, one.queued), default=None)

    def take_gone(self, host: str, message_id: str, is_meant: Callable[[Left], bool]) -> Optional[Context]:
        """The first message that left memory unscanned a moment ago, of those that can be meant: it is scanned now."""
        key = mail_key(host, message_id)
        young = [one for one in self.gone.get(key, ()) if self.memory.now - one.heard <= DISORDER]
        found = next((one for one in young if is_meant(one.value)), None)
        self._keep_gone(key, [one for one in young if one is not found])
        return found

    def _keep_gone(self, key: HostKey, gone: List[Context]) -> None:
        if gone:
            self.gone[key] = gone
        else:
            self.gone.pop(key, None)

    def just_over(self, host: str, message_id: str, child: Optional[str]) -> Optional[Message]:
        """A message that is over, but in memory, and unscanned. The one that the filter made comes last: it stands before the queue."""
        over = [one for one in self.by_message_id.get(mail_key(host, message_id), ())
                if one.finished and self.memory.now - one.heard <= DISORDER and one.spam_score is None and not comes_from(one, child)]
        return min(over, key=lambda one: one.queue_id == child, default=None)

    def offer(self, host: str, verdict: Spam, low: int) -> None:
        """Keep a verdict on a mail that is not in memory: of one that is tried again only its rows tell the Message-ID."""
        key = mail_key(host, verdict.message_id or "")
        if key[1]:
            keep_beside(self.unclaimed, key, Context(verdict, self.memory.now, low))

    def _twins_of(self, message: Message) -> Optional[Twins]:
        return self.twins.get((message.host, message.mid_key or ""))

    def over(self, message: Message) -> None:
        """The scan of a message, found by its Message-ID, is over: it shows the score, which a twin may claim."""
        message.scored, message.scanned_until = True, 0
        twins = self._twins_of(message)
        if twins is not None:
            twins.scored.add(message)

    def claim(self, message: Message, is_behind: Callable[[Message], bool]) -> None:
        """Give a message that goes on unscanned the score of a twin that `is_behind`: of those scanned together it was answered first."""
        twins = self._twins_of(message)
        if twins is None or not twins.scored:
            return
        known = self.by_message_id[message.host, message.mid_key or ""]
        twin = next((one for one in known if one in twins.scored and one.fate is None and is_behind(one)), None)
        if twin is not None:
            twins.move_score(twin, message)

    def withhold(self) -> None:
        """A score that a twin may still claim is not written: the message is read again."""
        for key, twins in self.twins.items():
            if len(self.by_message_id[key]) > 1:
                for message in [one for one in twins.scored if not one.by_address and not one.finished]:
                    twins.move_score(message, None)

    def screening(self, host: str, filter_id: str) -> Screening:
        """What a filter tells of a mail under its own name for it: a further line of that has come."""
        memory, known = self.memory, self.screenings.pop((host, filter_id), None)
        if known is None or memory.now - known.heard > DISORDER:
            known = Screening(memory.position)
        known.heard = memory.now
        keep(self.screenings, (host, filter_id), known)
        return known

    def answered(self, host: str, reply: str) -> Optional[Screening]:
        """What a filter has told of the mail that its reply is about."""
        known = self.screenings.get((host, filter_id_in(reply)))
        return known if known is not None and self.memory.now - known.heard <= DISORDER else None

    def refuse(self, message: Message, reply: str) -> None:
        """A filter refused a mail with this reply, or threw it away: it has told the score under its own name for it, or will soon."""
        filter_id = filter_id_in(reply)
        if filter_id:
            known = self.screening(message.host, filter_id)
            known.refused = message
            take_screening(message, known)

    def forget_outdated(self) -> None:
        """Drop what no later line can refer to any more."""
        now = self.memory.now
        for key, gone in list(self.gone.items()):
            self._keep_gone(key, [one for one in gone if now - one.heard <= DISORDER])
        self.screenings = {key: one for key, one in self.screenings.items() if now - one.heard <= DISORDER}
        # Whole lists: the harvest has them, too, and takes from them what it needs.
        self.unclaimed = {key: ones for key, ones in self.unclaimed.items() if ones and now - ones[-1].heard <= SCAN_LIFE}

    def lows(self) -> List[int]:
        """The positions of the lines that are still needed for what waits here."""
        lows = [crowd.low for crowd in self.twins.values()]
        young = self.memory.now - DISORDER
        lows += [one.low for known in (self.at_hand, self.screenings) for one in known.values() if one.heard >= young]
        lows += [one.low for known in (self.gone, self.unclaimed) for ones in known.values() for one in ones if one.heard >= young]
        return lows


def is_cut_off(known: float, exact: Optional[float]) -> bool:
    """Whether the known score is the exact one without its decimals: in one line spamd cuts them off, in another it rounds them to one.

    >>> [is_cut_off(12.0, 13.0), is_cut_off(-1.0, -2.0), is_cut_off(5.0, 5.9), is_cut_off(6.0, 5.9), is_cut_off(5.5, 5.9)]
    [True, True, True, False, False]
    """
    return exact is not None and known.is_integer() and known in (int(exact - 0.05), int(exact + 0.05))


def set_spam(message: Message, status: Optional[str], score: Optional[float], required: Optional[float], tests: Optional[str]) -> None:
    """Let a message show what a scanner said. Of several the first counts, as it does for its rows; another may know the decimals."""
    message.spam_status = message.spam_status or status
    if message.spam_score is None or is_cut_off(message.spam_score, score):
        message.spam_score = score
    message.spam_required = required if message.spam_required is None else message.spam_required
    message.spam_tests = message.spam_tests or tests or None


def take_verdict(message: Message, verdict: Spam) -> None:
    """Let a message show a filter's verdict on it."""
    if verdict.status is not None:
        set_spam(message, verdict.status, verdict.score, verdict.required, verdict.tests)
    if message.dkim_result is None or message.dkim_result == "signed" and verdict.dkim_result == "pass":
        message.dkim_result = verdict.dkim_result or message.dkim_result
        message.dkim_domain = verdict.dkim_domain or message.dkim_domain
        message.dkim_selector = verdict.dkim_selector or message.dkim_selector


def take_screening(message: Message, known: Screening) -> None:
    """Let a message show the score that a filter told."""
    told = known.score
    if told is not None and message.spam_score is None:
        set_spam(message, told.status, told.score, told.required, told.tests)
        message.needs(known.low)


# -- TLS towards the next hop

def tlsproxy_key(origin: Origin, relay: str) -> str:
    """The key of what tlsproxy tells of a next hop; the prefix of no process looks like it."""
    return "%s [tlsproxy] %s" % (origin.host, relay)


class Connection:
    """An outbound TLS connection of a process, and the queue ID of the message that used it last."""

    __slots__ = ("relay", "relay_tls", "heard", "time", "low", "user")

    def __init__(self, relay: str, relay_tls: str, heard: int, time: int, low: int) -> None:
        self.relay, self.relay_tls, self.heard, self.time, self.low = relay, relay_tls, heard, time, low
        self.user: Optional[str] = None


class Connections:
    """The outbound connections with TLS, by process of a delivery agent, or by next hop where tlsproxy told of them: it does not name the
    process that they are for.
    """

    __slots__ = ("memory", "known")

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.known: Dict[str, Connection] = {}

    def tell(self, origin: Origin, event: RelayTls) -> None:
        """A connection has TLS: for the deliveries over it."""
        memory = self.memory
        key = tlsproxy_key(origin, event.relay) if origin.daemon == "tlsproxy" else origin.prefix
        self.known.pop(key, None)
        keep(self.known, key, Connection(event.relay, event.relay_tls, memory.now, memory.time, memory.position))

    def lose(self, origin: Origin, event: RelayLost) -> None:
        """A connection broke off. The process tries again, perhaps in the clear (smtp.h:RETRY_AS_PLAINTEXT); of TLS it would tell anew."""
        connection = self.known.get(origin.prefix)
        if connection is not None and connection.relay.startswith(event.peer):
            del self.known[origin.prefix]

    def relay_tls(self, origin: Origin, event: Delivery) -> Optional[str]:
        """TLS of the connection used: Postfix 3.11 says it in the line, before that the same process said it when connecting."""
        if event.relay_tls is not None:
            level = event.relay_tls.partition("/")[0]       # behind it stands what became of REQUIRETLS
            plain = level == "none" or level.endswith(":none")
            return None if plain else event.relay_tls
        if not self.known:
            return None
        connection = self.known.get(origin.prefix)
        if connection is None or not self._served(connection, event):
            return self._told_by_tlsproxy(origin, event)
        connection.user = event.queue_id
        return connection.relay_tls

    def _served(self, connection: Connection, event: Delivery) -> bool:
        """Whether a delivery went over this connection of its process: not when another message used it last and no reuse is told."""
        age = max(self.memory.now - connection.heard, self.memory.time - connection.time)
        if connection.relay != event.relay or age > CONNECTION_REUSE:
            return False
        return connection.user in (None, event.queue_id) or event.conn_use is not None

    def _told_by_tlsproxy(self, origin: Origin, event: Delivery) -> Optional[str]:
        """TLS of a new connection, of which tlsproxy told while it was set up or used; None when nobody did: in the clear."""
        told = self.known.get(tlsproxy_key(origin, event.relay))
        if told is None or event.conn_use is not None:
            return None
        return told.relay_tls if told.time >= began(event.delays, self.memory.time) else None

    def lows(self) -> List[int]:
        """The positions of the lines that later deliveries refer to."""
        return [one.low for one in self.known.values() if self.memory.now - one.heard <= CONNECTION_REUSE]


# -- events make messages

class Correlator(Memory):
    """Folds events into messages, messages into rows. Knows no clock but the log's, no file, no database.

    Beside the messages it keeps what later lines refer to: sessions and lines begun by process, links by queue ID; SPF results, scans and
    outbound connections have classes of their own.
    """

    __slots__ = (
        "queue_timeout", "server_hostname", "filter", "sessions", "spf", "scans", "rewritings", "connections", "pieces", "announced", "due",
        "serial", "links", "dropped", "handed_in", "turned_away")

    def __init__(self, queue_timeout: int, server_hostname: str = "", tracked: Optional[DomainFilter] = None) -> None:
        super().__init__()
        self.queue_timeout = queue_timeout
        self.server_hostname = server_hostname
        self.filter = tracked or DomainFilter(())
        self.sessions: Dict[str, Session] = {}              # by process
        self.rewritings = Rewritings()
        self.spf = SpfResults(self, self.rewritings)
        self.scans = Scans(self)
        self.connections = Connections(self)
        self.pieces: Dict[str, Begun] = {}                  # by process of amavis: the line that it has begun
        self.announced: Dict[HostKey, Context] = {}         # by host and queue ID: the link to a child yet to be born
        self.handed_in: Dict[HostKey, List[Message]] = {}   # by host and client: what a before-queue filter has begun to hand in
        self.turned_away: Dict[Tuple[str, Optional[str], Optional[str]], List[Context]] = {}    # by host, client and sender: refusals
        self.due: List[Tuple[int, int, Message]] = []       # a heap: when to look whether a message is idle
        self.serial = 0
        self.links: List[Link] = []                         # for the next harvest
        self.dropped = 0                                    # messages that named no recipient while a domain filter is set

    # -- messages come and go

    def forget_hosts(self) -> None:
        """Drop the hosts that have nothing open. Only when no Origin but those of lines begun holds what `open_of` gave."""
        begun = {line.origin.host for line in self.pieces.values()}
        self.open_by_host = {host: messages for host, messages in self.open_by_host.items() if messages or host in begun}

    def _open(self, origin: Origin, queue_id: str, continued: bool) -> Message:
        """A new message under this ID; one that was there before is over, for the ID is given out anew."""
        if queue_id in origin.open:
            before = origin.open[queue_id]
            self._finish(before)
            self._leave(before)
        message = Message(origin.host, self.server_hostname or origin.host, queue_id, self.time, self.position, continued, self.now)
        origin.open[queue_id] = message
        self.open_count += 1
        self.serial += 1
        heapq.heappush(self.due, (self.now + self.queue_timeout, self.serial, message))
        announced = self.announced.pop((origin.host, queue_id), None) if self.announced else None
        if announced:
            self._adopt(message, announced.value)
            message.needs(announced.low)
        if self.open_count > MAX_OPEN:
            self._make_room()
        return message

    def _find(self, origin: Origin, queue_id: str) -> Message:
        """The message that a line is about: open, or the continuation of one that has left memory."""
        message = origin.open.get(queue_id)
        if message is None:
            message = self._open(origin, queue_id, True)
        message.heard = self.now            # as Message.hear does it, but for nearly every line a call less
        if self.time > message.last_seen:
            message.last_seen = self.time
        return message

    def _finish(self, message: Message) -> None:
        """Give a message to the next harvest; until then late lines still find it."""
        if message.pending:
            self._judge_pending(message)
        if message.ended and message.spf_key is not None:       # nobody will tell its sender any more
            self.spf.forgo_sender(message)
        if not message.finished:
            message.finished = True
            self.finished.append(message)

    def _end(self, message: Message, removed: bool = False) -> None:
        """The log has told the end of a message."""
        message.ended = True
        message.removed = message.removed or removed
        self._finish(message)

    def _leave(self, message: Message) -> None:
        """Forget a message that is written."""
        messages = self.open_by_host.get(message.host)      # none when its host was dropped: a NOQUEUE refusal is never open
        if messages and messages.get(message.queue_id) is message:
            del messages[message.queue_id]
            self.open_count -= 1
        if message.mid_key is not None:
            self.scans.leave(message)
        if message.spf_key is not None:
            self.spf.forgo_sender(message)

    def _make_room(self) -> None:
        """Finish the oldest tenth: so memory is bounded, and later lines continue their rows. They stay open until they are harvested: a
        line that comes before that finds nothing in the store yet.
        """
        unfinished = [message for message in self.all_open() if not message.finished]
        if len(unfinished) > MAX_OPEN:
            for message in sorted(unfinished, key=lambda one: one.low)[:MAX_OPEN // 10]:
                self._finish(message)

    def advance(self, now: int) -> None:
        """Let the log's clock reach `now`: messages silent for `queue_timeout` are finished with what is known."""
        self.now = max(now, self.now)
        while self.due and self.due[0][0] <= self.now:
            _, serial, message = heapq.heappop(self.due)
            if message.finished:
                continue
            due = message.heard + self.queue_timeout
            if due <= self.now and self._may_wait(message):
                due = self.now + min(self.queue_timeout, MINUTE) + 1
            if due > self.now:
                heapq.heappush(self.due, (due, serial, message))
            else:
                self._finish(message)
                if not message.recipients and stand_in_for(message) is None:
                    self._leave(message)    # it makes no row: nothing is to find it any more, whenever the next harvest is

    def _may_wait(self, message: Message) -> bool:
        """Whether a silent message is not idle: its client is still sending it, or nobody can say yet whether it makes a row."""
        age = self.now - message.opened
        if age >= PATIENCE or message.ended:
            return False
        if age < DRAFT_LIFE and is_draft(message) or self.now < message.scanned_until or age <= DISORDER and is_just_back(message):
            return True
        if age < SPF_WAIT and is_guessed(message) and not message.pending and message.message_id is not None:
            return True                     # which of the waiting results is its own, the sender will tell
        if is_coming_in(message) or awaits_count(message) or self._awaits_answer(message):
            return True
        return self._may_be_tracked(message) and not is_given_up(message)

    def _awaits_answer(self, message: Message) -> bool:
        """Whether a before-queue filter, which tells more, may still refuse what it has begun to hand in: its answer may be late."""
        return is_begun(message) and (is_coming_in(message) or self.now - message.heard <= DISORDER)

    def _may_be_tracked(self, message: Message) -> bool:
        """Whether a domain filter is set, and a message that began here has not named all its recipients yet, and no tracked one."""
        if not self.filter.domains or message.continued and message.message_id is None:
            return False
        delivered = sum(one.upstream_to is not None for one in message.recipients)
        return delivered < (message.nrcpt or 1) \
            and all(one.recipient_no is None for one in message.recipients) \
            and not any(self.filter.tracks(one.recipient, None) for one in message.pending)

    def harvest(self) -> Harvest:
        """Hand out what is finished, and forget it: the caller writes it before saving a position."""
        self.spf.tell_late()
        self._tell_pieces(self.now - DISORDER)
        harvest = Harvest(self.finished, self.links, self.open_by_host, self.scans.unclaimed)
        self.finished, self.links = [], []
        for message in harvest.messages:
            self._leave(message)
            self.dropped += bool(self.filter.domains) and not message.recipients and not message.void
        self._forget_outdated()
        return harvest

    def _forget_outdated(self) -> None:
        """Drop what no later line can refer to any more."""
        self.announced = {key: one for key, one in self.announced.items() if self.now - one.heard <= ANNOUNCED_LIFE}
        awaited = {key: [one for one in ones if self._awaits_answer(one)] for key, ones in self.handed_in.items()}
        self.handed_in = {key: ones for key, ones in awaited.items() if ones}
        self.turned_away = {key: ones for key, ones in self.turned_away.items() if ones and self.now - ones[-1].heard <= DISORDER}
        self.scans.forget_outdated()
        self.spf.forget_outdated()
        if len(self.straddles) > MAX_STRADDLES:
            del self.straddles[:bisect.bisect_left(self.straddles, (self.low_water(self.position),))]
        if len(self.due) > self.open_count + self.open_count // 4 + 50:
            self.due = [one for one in self.due if not one[2].finished]
            heapq.heapify(self.due)

    def close(self, everything: bool) -> None:
        """The log is at its end: finish the open messages; with `everything`, also those that may still wait."""
        if everything:
            self.spf.tell_late(at_end=True)
            self._tell_pieces(self.now)
        else:
            self.scans.withhold()
        for message in self.all_open():
            if everything or not self._may_wait(message):
                self._finish(message)

    def low_water(self, position: int) -> int:
        """The position from which all that is in memory and not yet written can be read again; the log is read up to `position`."""
        return self.whole_from(self._first_needed(position))

    def _first_needed(self, position: int) -> int:
        lows = [position]
        lows += [message.low for message in self.all_open()]
        lows += [message.low for message in self.finished]
        lows += [session.low for session in self.sessions.values() if session.low is not None and self.now - session.started < PATIENCE]
        lows += self.spf.lows() + self.scans.lows() + self.connections.lows()
        lows += [one.low for known in (self.announced, self.rewritings.told) for one in known.values()
                 if self.now - one.heard <= ANNOUNCED_LIFE]
        lows += [line.low for line in self.pieces.values()]
        return min(lows)

    # -- smtpd: sessions

    def _session(self, origin: Origin) -> Session:
        session = self.sessions.get(origin.prefix)
        if session is None:
            session = Session(None, None, self.now)
            keep(self.sessions, origin.prefix, session)
        return session

    def _session_of(self, origin: Origin, event: Union[Client, ClientTls, Verdict]) -> Session:
        """The session of the client that a line names, which may be the first line of it."""
        session = self.sessions.get(origin.prefix)
        if session is not None and session.client_ip == event.client_ip:
            return session
        session = self._session(origin)
        if session.client_ip is None:       # the log, or the reading, began after its `connect`
            session.client_hostname, session.client_ip = event.client_hostname, event.client_ip
        else:                               # another client by now: its `connect` is missing, or it came by XCLIENT; postscreen serves many
            self._end_session(origin.prefix)
            session = self.sessions[origin.prefix] = Session(event.client_hostname, event.client_ip, self.now)
        return session

    def fold_connect(self, origin: Origin, event: Connect) -> None:
        """A new client: whoever this process served before is gone."""
        if origin.prefix in self.sessions:
            self._end_session(origin.prefix)
        keep(self.sessions, origin.prefix, Session(event.client_hostname, event.client_ip, self.now))

    def fold_disconnect(self, origin: Origin, event: Disconnect) -> None:
        """The client is gone, and with it a message that it never sent."""
        session = self.sessions.get(origin.prefix)
        if session is not None:
            session.took_all, session.took_none = bool(event.took_all), bool(event.took_none)
        self._end_session(origin.prefix)

    def fold_broken(self, origin: Origin, event: Broken) -> None:
        """The session broke off: the message under way was not accepted."""
        session = self.sessions.get(origin.prefix)
        if session is None or session.client_ip not in (None, event.client_ip):
            return
        if session.message is None or not awaits_count(session.message):
            self._end_message(session, broken=True)

    def fold_restarted(self, origin: Origin, event: Restarted) -> None:
        """Postfix started or stopped: no session of this instance of this host lives on."""
        instance = origin.program.rpartition("/")[0]
        for prefix in [prefix for prefix in self.sessions if is_of_instance(prefix, origin.host, instance)]:
            self._end_session(prefix, broken=True)

    def _end_session(self, prefix: str, broken: bool = False) -> None:
        session = self.sessions.pop(prefix, None)
        if session is not None:
            self._end_message(session, broken)
            session.close()

    def _end_message(self, session: Session, broken: bool) -> None:
        """End the message of a session when it can never reach the queue: the session broke off, or it is thrown away anyway.

        After an orderly end cleanup and qmgr may be a moment behind; a message of which they say nothing goes idle. So does one that
        was accepted, perhaps, and would leave no row.
        """
        message = session.message
        if message is None or message.queued or message.ended:
            return
        if is_begun(message):
            message.heard = self.now        # from now on the answer of its filter is awaited
        if message.message_id is None:      # cleanup saw no header of it: it is not on hold, there is nothing of it
            self._judge_pending(message)
            message.sweep(Sweep(None, self.time))
        accepted = message.message_id is not None and self._may_be_tracked(message)
        if broken and not accepted or message.fate is not None and message.fate.status == DISCARDED:
            self._end(message)

    def fold_client_tls(self, origin: Origin, event: ClientTls) -> None:
        """TLS of a session, which all its messages will show."""
        session = self._session_of(origin, event)
        session.client_tls = event.client_tls
        session.needs(self.position)

    def fold_proxied(self, origin: Origin, event: Proxied) -> None:
        """A before-queue filter took the message in under an ID of its own: the client is this session's."""
        session, child = self._session(origin), origin.open.get(event.child)
        if session.client_ip is None or not is_queue_id(event.child):
            return
        child = child or self._find(origin, event.child)
        child.front = {"client_hostname": session.client_hostname, "client_ip": session.client_ip, "client_tls": session.client_tls,
                       "sasl_username": session.sasl_username, "protocol": event.protocol, "helo": event.helo}
        child.needs(session.low)
        if child.peer_ip is not None:
            show_front(child, child.peer_ip)
        self.spf.claim_proxied(child, session, event.envelope_from)

    # -- births

    def fold_client(self, origin: Origin, event: Client) -> None:
        """`client=`: a message is born; what was said of it before it had an ID is joined to it."""
        queue_id, hostname, client_ip, username, orig_queue_id, orig_hostname, _ = event
        session = self._session_of(origin, event)
        if queue_id is None:                # a before-queue filter will tell the ID, maybe of a message that is born by then
            session.sasl_username = username
            session.needs(self.position)
            return
        message = self._bear(origin, queue_id)
        if session.message is not None and session.message is not message:
            self._end_message(session, broken=False)
        message.session, session.message = session, message
        message.peer_ip = message.client_ip = client_ip
        message.client_hostname = hostname
        message.sasl_username, message.client_tls = username, session.client_tls
        if session.helo is not None and not orig_hostname and not is_loopback(client_ip):      # else a filter's
            message.helo, message.protocol = session.helo, session.protocol
        message.needs(session.low)
        if orig_queue_id or orig_hostname:
            self._take_xforward(origin, message, event)
        if self.spf.has_policy and not orig_queue_id:
            self.spf.put_on_trial(message, session)
        if session.pending:
            message.pending, session.pending = session.pending, ()

    def _bear(self, origin: Origin, queue_id: str) -> Message:
        """A message is born, of which another process may have spoken a moment before."""
        message = origin.open.get(queue_id)
        if message is None or message.removed or self.now - message.opened > BIRTH_DISORDER \
                or message.peer_ip is not None or message.pickup_sender is not None:
            return self._open(origin, queue_id, False)
        message.continued = False
        message.hear(self.time, self.now)
        return message

    def _take_xforward(self, origin: Origin, message: Message, event: Client) -> None:
        """What a content filter told by XFORWARD: the client and the queue ID that the message had before, if it had one."""
        if event.orig_hostname and event.orig_ip and event.orig_ip != "unknown":
            message.client_hostname, message.client_ip = event.orig_hostname, event.orig_ip
            message.client_tls = None       # that was the filter's
        if event.orig_queue_id:
            message.orig_queue_id = message.parent_queue_id = event.orig_queue_id
            message.parent = origin.open.get(event.orig_queue_id)
        if was_proxied(message):
            self.handed_in.setdefault(client_key(message.host, message.client_ip), []).append(message)

    def fold_message_id(self, origin: Origin, event: MessageId) -> None:
        """`message-id=`: a birth when its ID is over or unknown (bounces, local forwards).

        The first one is shown; scanners know the mail by its last (SpamAssassin's Message.pm, get_pristine_header).
        """
        queue_id, message_id = event
        message = origin.open.get(queue_id)
        if message is None or message.removed:
            message = self._open(origin, queue_id, True)
        message.hear(self.time, self.now)
        content, mid_key = message_id_forms(message_id)
        if message.message_id is None:
            message.message_id = content
        elif message.mid_key == mid_key:
            return
        self.scans.enter(message, mid_key)

    def fold_pickup(self, origin: Origin, event: Pickup) -> None:
        """Local submission, or the return of a requeued message under a new ID: it takes along what the old one knew."""
        message = self._bear(origin, event.queue_id)
        message.pickup_sender = event.sender
        if event.orig_id:
            parent = self._find(origin, event.orig_id)
            parent.requeued_as = event.queue_id
            if parent.pending:
                self._judge_pending(parent)
            parent.sweep(Sweep(REQUEUED, self.time))
            self._end(parent, removed=True)
            message.parent, message.parent_queue_id = parent, event.orig_id

    def fold_queued(self, origin: Origin, event: Queued) -> None:
        """`queue active`: sender, size, recipient count; repeated on every retry, the first counts (trap 11)."""
        queue_id, sender, size, nrcpt = event
        message = self._find(origin, queue_id)
        if message.continued or message.fate is not None and message.fate.status == HELD:
            message.sweep(Sweep(None, self.time))       # what is active is on hold no longer, even if only the store knows of the hold
        if message.queued:
            return
        message.queued = True
        if self.scans.has_scanner and message.spam_score is None:
            self.scans.claim(message, lambda twin: not twin.queued)
        message.size, message.nrcpt = size, nrcpt
        self._set_sender(message, sender)

    def _set_sender(self, message: Message, sender: str) -> None:
        message.envelope_from = sender
        message.original_envelope_from = sender
        if is_srs(sender):
            message.original_envelope_from = self.rewritings.original(sender)
            message.needs(self.rewritings.low(sender))
        if message.spf_key is not None:
            self.spf.confirm(message, message.spf_key)
        elif not self.spf.has_policy and not message.queued:
            self.spf.await_first(message)
        if message.pending:
            self._judge_pending(message)

    def _judge_pending(self, message: Message) -> None:
        """Decisions taken before there was an ID, now that the sender is known: those on another sender's mail came to nothing.

        So they did if the mail is active by now: the client took back what was to be held or discarded (smtpd.c:mail_reset). Its HELO
        takes back what was decided at CONNECT, which befalls the mail of one that says none.
        """
        pending, message.pending = message.pending, ()
        senders = self.rewritings.seen_as(message.envelope_from, message.original_envelope_from)
        for verdict in pending:
            if verdict.envelope_from is not None and message.envelope_from is not None and bare(verdict.envelope_from) not in senders:
                continue
            if not message.queued:
                self._judge(message, verdict, message.last_seen)
            elif verdict.envelope_from is not None:
                self._learn(message, verdict)

    def fold_rewritten(self, origin: Origin, event: Rewritten) -> None:
        """postsrsd: who is behind an SRS address, should its syntax not tell."""
        self.rewritings.tell(event, self.now, self.position)

    # -- verdicts

    def fold_verdict(self, origin: Origin, event: Verdict) -> None:
        """A decision: about nothing queued yet, about one recipient, or about a whole message (trap 39)."""
        if event.queue_id is None or event.stage == "VRFY":         # about an address, whatever mail is under way (smtpd.c:vrfy_cmd)
            self._fold_noqueue(origin, event)
            return
        if event.stage == "UNKNOWN":        # about a command, which the mail under way outlives (smtpd.c:smtpd_proto)
            return
        message = self._find(origin, event.queue_id)
        if event.spam is not None:
            self.fold_spam(origin, event.spam)
        if message.session is not None and event.client_ip == message.peer_ip:
            message.session.greet(event.helo, event.protocol, message.low)
        if event.action == "reject" and event.stage == "RCPT" and event.recipient is not None and origin.daemon == "smtpd":
            self._learn(message, event._replace(judge="access"))    # a milter's word on one recipient is none on the others
            self._refuse(message, event)
        else:
            self._judge(message, event, self.time)
            message.put_off = message.put_off or event.stage == "RCPT" and event.judge == "milter" and event.action == "reject"
            if event.action == "reject" or (event.action == "discard" and origin.daemon == "cleanup"):
                self._end(message)
            if event.action == "reject" and was_proxied(message):
                self._turn_away(message, event)

    def _fold_noqueue(self, origin: Origin, event: Verdict) -> None:
        """NOQUEUE: a refusal is a row at once; hold, discard and the like wait for the `client=` of the same process (trap 19)."""
        session = self._session(origin) if event.client_ip is None else self._session_of(origin, event)
        if origin.daemon == "smtpd":
            session.greet(event.helo, event.protocol, self.position)
        if session.pending and event.envelope_from is not None:
            session.turn_to(event.envelope_from)
        if event.action == "reject_warning":
            self.spf.heed_warning(origin.host, session, event)
        elif event.action == "screen":
            self._fold_proxy_screened(origin, session, event)
        elif event.action == "reject" or event.judge == "proxy":
            if not self._fold_passed_on(origin, session, event):
                self._fold_refusal(origin, session, event)
        elif outlives_helo(event):
            session.pending = tuple(one for one in session.pending if one.action != event.action) + (event,)    # what it repeats is undone
            session.needs(self.position)

    def _turn_away(self, message: Message, event: Verdict) -> None:
        """Keep a refusal of what a before-queue filter handed in: it may pass that on. Of one sender it may have several mails at once."""
        keep_beside(self.turned_away, (message.host, message.client_ip, event.envelope_from), Context(event, self.now, message.low))

    def _fold_passed_on(self, origin: Origin, session: Session, event: Verdict) -> bool:
        """Whether a before-queue filter but passes on what Postfix behind it answered, which has an ID there: one mail is refused once."""
        refusals = self.turned_away.get((origin.host, session.client_ip, event.envelope_from)) if event.client_ip is None else None
        if not refusals:
            return False
        meant = [one for one in refusals if self.now - one.heard <= DISORDER and one.value.text and one.value.text in (event.text or "")]
        known = min(meant, key=lambda one: one.value.recipient != event.recipient, default=None)
        if known is None:
            return False
        refusals.remove(known)
        self.fold_proxied(origin, Proxied(known.value.queue_id, event.envelope_from, event.protocol, event.helo))
        message = self._find(origin, known.value.queue_id)
        self.scans.refuse(message, event.text or "")
        self.keep_together(Straddle(self.position, min(known.low, message.low), session.started))
        return True

    def _fold_refusal(self, origin: Origin, session: Session, event: Verdict) -> None:
        """A mail that was turned away before it had a queue ID: a message of its own, over at once."""
        queue_id = "NOQUEUE-%s%06d" % (digits_of(self.time // SECOND), (self.position - self.file_start) % 1000000)
        message = Message(origin.host, self.server_hostname or origin.host, queue_id, self.time, self.position, False)
        message.next_no = self.turn         # so repetitions of a line that have the same ID are rows of their own
        message.client_hostname = event.client_hostname or session.client_hostname
        message.client_ip = event.client_ip or session.client_ip
        if session.pending:                 # they hold for the other recipients of that mail, too (smtpd_check.c: saved_flags)
            refused = (event.envelope_from, event.recipient)
            session.pending = tuple(one._replace(recipient=None) if (one.envelope_from, one.recipient) == refused else one
                                    for one in session.pending)
        message.client_tls = session.client_tls
        message.needs(session.low)
        self._learn(message, event)
        self.spf.claim(message, session, event)
        self._refuse(message, event)
        if event.client_ip is None:         # told by a filter before the queue
            self.scans.refuse(message, event.text or "")
            if event.stage != "RCPT":       # else the mail may go on to other recipients
                self._give_up(session, message)
        message.ended = True
        self._finish(message)

    def _give_up(self, session: Session, refused: Message) -> None:
        """What the filter had begun to hand in for that client may be the mail that it refused: it leaves no row of its own, if so."""
        for begun in self.handed_in.pop(client_key(refused.host, refused.client_ip), ()):
            if self._awaits_answer(begun):
                begun.given_up = True
                self.keep_together(Straddle(self.position, min(begun.low, refused.low), session.started))

    def _learn(self, message: Message, event: Union[Verdict, Checked]) -> None:
        """What a decision says of the message by the way."""
        message.helo = event.helo or message.helo
        message.protocol = event.protocol or message.protocol       # before EHLO it is but a guess
        if message.envelope_from is None and event.envelope_from is not None:
            self._set_sender(message, event.envelope_from)
        if isinstance(event, Verdict):
            message.sasl_username = message.sasl_username or event.sasl_username
            self._learn_verdict(message, event)

    @staticmethod
    def _learn_verdict(message: Message, event: Verdict) -> None:
        if message.spf_result is None and message.spf is None:
            message.spf_result = spf_of_verdict(event)
        if event.judge == "proxy":
            return
        if message.client_ip is None and event.client_ip and message.continued:
            message.client_hostname, message.client_ip = event.client_hostname, event.client_ip
        if event.judge == "access":
            return
        if event.judge in ("milter", "check") and (message.milter_action is None or event.action in SWEPT):
            message.milter_action, message.milter_reason = event.action, event.text
        if event.judge == "milter" and message.spam_status is None and SPAM_REJECT.match(event.text or ""):
            message.spam_status = "Yes"
        found = DMARC_REJECT.match(event.text or "") if event.judge == "milter" and message.dmarc_result is None else None
        if found:
            message.dmarc_result, message.dmarc_domain = "fail", found.group(1)

    def _refuse(self, message: Message, event: Verdict) -> None:
        """One recipient was turned away; or a before-queue filter took the mail for it, and threw it away."""
        recipient = self._add(message, event.recipient, None, self.time)
        recipient.refused = event.action == "reject"
        recipient.relay_status, recipient.relay_message = SWEPT[event.action], event.text
        recipient.smtp_code, recipient.dsn = event.code, event.dsn

    def _judge(self, message: Message, event: Verdict, time: int) -> None:
        """A decision on the whole message. It names one recipient, the last, whose fate it tells as that of all."""
        self._learn(message, event)
        status = SWEPT.get(event.action)
        if status is None:
            return
        if event.recipient is not None and (event.recipient, event.recipient) not in message.by_address \
                and self._named(message, event.recipient) is None:
            add_named(message.named, self._add(message, event.recipient, None, time))
        message.sweep(Sweep(status, time, event.text, event.code, event.dsn))

    @staticmethod
    def _named(message: Message, orig_to: str, upstream_to: str = "") -> Optional[Recipient]:
        return named_as(message.named, Recipient(orig_to, upstream_to, 0), (was_named, was_named_anew))

    def fold_checked(self, origin: Origin, event: Checked) -> None:
        """A header check that changed nothing, but told HELO and protocol."""
        message = self._find(origin, event.queue_id)
        if event.spam is not None:
            self.fold_spam(origin, event.spam)
        self._learn(message, event)

    def fold_handled(self, origin: Origin, event: Handled) -> None:
        """postsuper: held, released, or requeued to come back under another ID."""
        message = self._find(origin, event.queue_id)
        if message.pending:
            self._judge_pending(message)    # it is in the queue: what was decided before concerns it
        if event.action == "hold":
            message.sweep(Sweep(HELD, self.time))
        elif event.action == "release":
            message.sweep(Sweep(None, self.time))
        else:
            message.sweep(Sweep(REQUEUED, self.time))
            self._end(message, removed=True)

    def fold_expired(self, origin: Origin, event: Expired) -> None:
        """Too long in the queue: it reaches those still deferred."""
        message = self._find(origin, event.queue_id)
        if message.envelope_from is None:
            self._set_sender(message, event.envelope_from)
        message.sweep(Sweep(EXPIRED, self.time))

    def fold_removed(self, origin: Origin, event: Removed) -> None:
        """The queue file is gone: by qmgr when all is done, by the administrator, by cleanup when nothing came of it (trap 37); by pickup
        when postsuper requeued a mail that all had got by then: the ID before tells what became of it.
        """
        message = self._find(origin, event.queue_id)
        if message.pending:
            self._judge_pending(message)
        if event.by == "postsuper":
            message.sweep(Sweep(DELETED, self.time))
        elif event.by == "pickup":
            message.void = True
        elif event.by == "cleanup":         # what was to be held is not
            message.sweep(Sweep(None, self.time))
            if was_proxied(message) and message.message_id is None or awaits_count(message):
                message.removed = True      # but not over: what its filter answers, or its session counts, may be a moment behind
                return
        self._end(message, removed=True)

    # -- deliveries

    def _add(self, message: Message, orig_to: Optional[str], upstream_to: Optional[str], time: int) -> Recipient:
        """A further recipient of a message; only a tracked one gets a number, and so a row."""
        recipient = Recipient(orig_to, upstream_to, time if message.continued or time > message.first_seen else message.first_seen)
        self._number(message, recipient)
        if message.fate is not None:
            sweep_recipient(recipient, message.fate)
            if is_gone(recipient):
                recipient.last_seen = message.fate.time
        message.recipients.append(recipient)
        return recipient

    def _number(self, message: Message, recipient: Recipient) -> None:
        """Give a recipient its number, if it has none and is tracked."""
        if recipient.recipient_no is None and (not self.filter.domains or names_nobody(recipient)
                                               or self.filter.tracks(recipient.orig_to, recipient.upstream_to)):
            recipient.recipient_no = message.next_no
            message.next_no += 1

    def _recipient(self, message: Message, orig_to: str, upstream_to: str) -> Recipient:
        """The recipient of a delivery line: by both addresses; else one that was but named before any hop, or an alias."""
        recipient = message.by_address.get((orig_to, upstream_to))
        if recipient is None:
            recipient = self._named(message, orig_to, upstream_to) if message.named else None
            if recipient is None:
                recipient = self._add(message, orig_to, upstream_to, self.time)
            else:
                drop_named(message.named, recipient)
                message.by_address.pop((recipient.orig_to, recipient.upstream_to), None)
                recipient.orig_to, recipient.upstream_to = orig_to, upstream_to
                self._number(message, recipient)
            message.by_address[orig_to, upstream_to] = recipient
        return recipient

    def fold_delivery(self, origin: Origin, event: Delivery) -> None:
        """A delivery attempt: the newest one tells the recipient's outcome (trap 12)."""
        message = self._find(origin, event.queue_id)
        _, upstream_to, orig_to, relay, _, delay, delays, _, dsn, said, reason = event
        status = STATUSES[said]
        if status is None:
            message.void = True
            return
        recipient = self._recipient(message, orig_to or upstream_to, upstream_to)
        if recipient.relay_status is not None and not outranks(status, self.time, recipient):
            if bounce_stands(recipient, status):
                self._fold_sent(origin, message, recipient, event)
            return                          # a late, older line
        if self.time > recipient.last_seen:
            recipient.last_seen = self.time
        recipient.relay_host, recipient.relay_ip, recipient.relay_port = split_relay(relay)
        recipient.relay_tls = self.connections.relay_tls(origin, event)
        if stays_held(recipient, status):
            status, recipient.before_hold = HELD, DEFERRED
        recipient.relay_status, recipient.dsn, recipient.relay_message = status, dsn, reason
        recipient.smtp_code = reply_code(reason) if origin.daemon in REMOTE_AGENTS else None
        recipient.delay, recipient.delays, recipient.next_queue_id = number(delay), delays, None
        if self.scans.has_scanner and message.spam_score is None and message.mid_key is not None and may_be_scanned(recipient):
            self.scans.claim(message, lambda twin: not twin.by_address)
        if status == SENT:
            self._fold_sent(origin, message, recipient, event)
        elif awaits_alias(recipient):
            add_named(message.named, recipient)

    def fold_relay_tls(self, origin: Origin, event: RelayTls) -> None:
        """A connection to a next hop has TLS."""
        self.connections.tell(origin, event)

    def fold_relay_lost(self, origin: Origin, event: RelayLost) -> None:
        """A connection to a next hop broke off."""
        self.connections.lose(origin, event)

    def _fold_sent(self, origin: Origin, message: Message, recipient: Recipient, event: Delivery) -> None:
        """`sent` is not always delivered: it may go on under another ID on this host, or a filter may have dropped it (trap 10)."""
        reason = event.reason
        forwarded = FORWARDED_AS.match(reason) if origin.daemon == "local" else None
        child = forwarded.group(1) if forwarded else queued_as(reason)
        near = is_near(handed_to(recipient))
        if child is None and near and self.scans.screenings:
            child = self._take_screened(origin, message, recipient, reason)
        recipient.next_queue_id = child
        if child is None:
            dropped = "discard" if origin.daemon == "local" and reason == "discarded" else dropped_as(reason, near)
            recipient.relay_status = SWEPT[dropped] if dropped else recipient.relay_status
            return
        kept_back = AMAVIS_REST.search(reason) if message.kept_back and bare(recipient.upstream_to or "") in message.kept_back else None
        if kept_back:                       # the ID is that of the others' mail
            recipient.relay_status, recipient.next_queue_id = DISCARDED if kept_back.group(1) == "DISCARD" else BOUNCED, None
            return
        if forwarded:
            hand_on(recipient)
        known = origin.open.get(child)
        if known is None and not near and not forwarded:
            return                          # another server's word for it
        link = Link(child, message, birth_during(event.delays, self.time), recipient, forwarded is not None)
        if forwarded and known is not None and is_former(known, link):
            known = None
        if known is not None and (known.peer_ip is not None or not known.continued or forwarded):
            self._adopt(known, link)
        elif is_queue_id(child) and forwarded:
            self._announce(origin, link)    # its lines may come a moment later (trap 30)
        elif is_queue_id(child) and near:
            self.links.append(link)

    def _adopt(self, child: Message, link: Link) -> None:
        """Tie an open message to the one it came from. Of that there may be no row to inherit from, but its lines can be read again."""
        adopt(child, link)
        if child.parent is link.parent and self.filter.domains:
            child.needs(link.parent.low)

    def _announce(self, origin: Origin, link: Link) -> None:
        """A message that this host makes of another one: yet to be born, or no longer in memory."""
        keep(self.announced, (origin.host, link.child), Context(link, self.now, self.position))
        self.links.append(link)

    def fold_notification(self, origin: Origin, event: Notification) -> None:
        """A bounce or delay notification: which message it tells of. Before 3.11 it is born already, from 3.11 on not yet (trap 31)."""
        link = Link(event.child, self._find(origin, event.queue_id), (self.time - DRAFT_LIFE, self.time + DRAFT_LIFE))
        child = origin.open.get(event.child)
        if child is not None and not is_former(child, link):
            self._adopt(child, link)
        else:
            self._announce(origin, link)

    # -- what filters say

    def fold_dkim(self, origin: Origin, event: Dkim) -> None:
        """opendkim tells one result in several lines: the overall one decides, then the list of all signatures. Of a good signature it
        may say no more than which it was (without SyslogSuccess); of any other it says so right behind (opendkim.c:mlfi_eom).
        """
        queue_id, weight, result, domain, selector, algorithm, signatures = event
        message = self._find(origin, queue_id)
        if signatures is not None:
            message.dkim_signatures = max(signatures, message.dkim_signatures or 0)
        if weight == IMPLIED:
            weight, result = OVERALL, result if message.dkim_result in (None, "signed") else None
        if weight < message.dkim_weight or result is None and domain is None:
            return
        if weight == BY_THE_WAY and message.dkim_result not in (None, "signed"):
            return                          # amavis has told a result, without a weight
        message.dkim_weight = weight
        message.dkim_result = result or message.dkim_result
        if domain is not None:
            message.dkim_domain, message.dkim_selector, message.dkim_algorithm = domain, selector, algorithm

    def fold_dmarc(self, origin: Origin, event: Dmarc) -> None:
        """opendmarc's result."""
        queue_id, domain, result = event
        message = self._find(origin, queue_id)
        message.dmarc_domain, message.dmarc_result = domain, result

    def fold_milter_spf(self, origin: Origin, event: MilterSpf) -> None:
        """opendmarc's own SPF check: counts where policyd-spf is silent."""
        self._find(origin, event.queue_id).milter_spf = event.result

    def fold_spf(self, origin: Origin, event: Spf) -> None:
        """A policy server's result: about a message that it names, or about one of this client's."""
        one = Waiting(event, origin.prefix, self.now, self.time, self.position)
        if event.queue_id is None or event.queue_id not in origin.open:
            self.spf.hear(one, origin.host)
            return
        message = self._find(origin, event.queue_id)
        if message.spf is not None:         # on trial, maybe: it is another's
            message.spf.message = None
        show_for_good(message, one)

    def fold_spam_start(self, origin: Origin, event: SpamStart) -> None:
        """A scan begins."""
        self.scans.begin(origin.prefix, origin.host, event.message_id)

    def fold_spam_score(self, origin: Origin, event: SpamScore) -> None:
        """The score with its decimals."""
        self.scans.tell(origin.prefix, event)

    def fold_spam_result(self, origin: Origin, event: SpamResult) -> None:
        """The result of spamd or spampd, for the message of this Message-ID."""
        message_id, status, score, required, tests = event
        scan = self.scans.at_hand.pop(origin.prefix, None)
        if scan is not None and is_cut_off(score, scan.value.score):    # else it is of another scan
            score = scan.value.score
        message = self._scanned(origin, message_id)
        if message is None:
            told = Spam(None, message_id, status, score, required, tests)
            self.scans.offer(origin.host, told, scan.low if scan is not None else self.position)
            return
        self.scans.over(message)
        set_spam(message, status, score, required, tests)

    def _scanned(self, origin: Origin, message_id: str, child: Optional[str] = None, blocked: bool = False) -> Optional[Message]:
        """The message that a result with this Message-ID is about: one that waits for it, else the first of those that went without.

        A scanner tells the result after it has answered: the message may just have been removed, or have left memory. `child`: the ID
        under which the filter gave it on; `blocked`: it did not.
        """
        made = self._handed_in(origin, message_id, child) if child is not None else None
        if made is not None:
            return made                     # there is no mail before it
        message = self.scans.unscanned(origin.host, message_id, child)
        if message is not None and message.queue_id != child:
            return message
        gone = self.scans.take_gone(origin.host, message_id, lambda left: not blocked or not left.proxied)
        return self._again(origin, gone) or self.scans.just_over(origin.host, message_id, child) or message

    def _handed_in(self, origin: Origin, message_id: str, queue_id: str) -> Optional[Message]:
        """The message with this ID, if a before-queue filter has handed it in, even if it left memory a moment ago."""
        made = origin.open.get(queue_id)
        if made is not None and was_proxied(made):
            return made
        return self._again(origin, self.scans.take_gone(origin.host, message_id, lambda left: left == (queue_id, True)))

    def _again(self, origin: Origin, gone: Optional[Context]) -> Optional[Message]:
        """A message that left memory unscanned, and is spoken of once more."""
        if gone is None:
            return None
        message = self._find(origin, gone.value.queue_id)
        message.proxied = gone.value.proxied
        message.needs(gone.low)
        return message

    def fold_spam(self, origin: Origin, event: Spam) -> None:
        """A spam verdict with its message's queue ID, or with its Message-ID, or with nothing but the queue ID of what the filter made."""
        if event.filter_id and self._is_told(origin, event.filter_id, event):
            return
        queue_id = event.queue_id or (event.child if not event.message_id else None)
        message = self._find(origin, queue_id) if queue_id else \
            self._scanned(origin, event.message_id or "", event.child, blocked=is_refusal(event))
        if message is None or is_of_another(event, message):
            self.scans.offer(origin.host, event, self.position)
            return
        if event.queue_id is None and message.queue_id == event.child:
            self.scans.offer(origin.host, event, self.position)     # of the mail that became this one, perhaps
        take_verdict(message, event)
        self._keep_back(message, event)
        if event.filter_id and event.child is not None:
            self.scans.screening(origin.host, event.filter_id).given_on = message

    def _is_told(self, origin: Origin, filter_id: str, event: Spam) -> bool:
        """Take what a filter tells in its own name for a mail; whether that is all there is to a line."""
        known = self.scans.screening(origin.host, filter_id)
        if known.given_on is not None:      # to others, as the line before told
            self._keep_back(self.writable(known.given_on), event)
            return True
        if is_refusal(event) and event.status is not None:
            self.fold_screen_score(origin, ScreenScore(filter_id, event.status, event.score, event.required, event.tests or ""))
        return not (event.message_id or event.child)        # its answer to Postfix tells of which mail, and nothing else does

    def _keep_back(self, message: Message, verdict: Spam) -> None:
        """To some recipients a filter does not give a message on, as the deliveries to it will tell; or, before the queue, nothing else."""
        kept_back = [one[1:-1] for one in AMAVIS_RECIPIENT.findall(verdict.kept_back or "")]
        if not was_proxied(message) and not message.proxied:
            message.kept_back += tuple(map(bare, kept_back))
            return
        for address in kept_back:
            recipient = self._add(message, address, None, self.time)
            recipient.relay_status = BOUNCED if "Bounced" in (verdict.outcome or "") else DISCARDED
            recipient.relay_message = verdict.outcome

    def fold_screened(self, origin: Origin, event: Screened) -> None:
        """What Proxmox' filter makes of a mail for a recipient: its answer to Postfix, which follows, tells of which mail."""
        self.scans.screening(origin.host, event.filter_id).outcomes[bare(event.recipient)] = event.child

    def fold_screen_score(self, origin: Origin, event: ScreenScore) -> None:
        """The score that a filter gives a mail."""
        known = self.scans.screening(origin.host, event.filter_id)
        known.score = event
        if known.refused is not None:
            take_screening(self.writable(known.refused), known)

    def _take_screened(self, origin: Origin, message: Message, recipient: Recipient, reply: str) -> Optional[str]:
        """The ID under which a mail goes on to a recipient, if its filter told that; None when it is kept from the recipient, too."""
        known = self.scans.answered(origin.host, reply)
        if known is None:
            return None
        take_screening(message, known)
        child = known.outcomes.get(bare(recipient.upstream_to or ""), "")
        if child is None:
            recipient.relay_status = DISCARDED
        return child or None

    def _fold_proxy_screened(self, origin: Origin, session: Session, event: Verdict) -> None:
        """The filter's answer before the queue: the client of what it gave on is this session's; what it gave on to nobody is a row."""
        known = self.scans.answered(origin.host, event.text or "")
        if known is None or not known.outcomes:
            return
        children = sorted({child for child in known.outcomes.values() if child is not None and is_queue_id(child)})
        for child in children:
            self.fold_proxied(origin, Proxied(child, event.envelope_from, event.protocol, event.helo))
            if child in origin.open:
                take_screening(origin.open[child], known)
        if not children:
            self._fold_refusal(origin, session, event._replace(action="discard"))

    def fold_piece(self, origin: Origin, event: Piece) -> None:
        """A piece of amavis's line: what that tells is known with the last one, or as far as it can be when the rest is lost."""
        begun, line = self.pieces.pop(origin.prefix, None), None
        if event.begins:
            line = Begun(origin, event, self.time, self.now, self.position)
        elif begun is not None and begun.pieces.am_id == event.am_id:
            line, begun = begun._replace(pieces=event._replace(text=begun.pieces.text + event.text)), None
        if begun is not None:
            self._take_pieces(begun)
        if line is not None and line.pieces.cut and len(line.pieces.text) < MAX_LINE:
            keep(self.pieces, origin.prefix, line)
        elif line is not None:
            self._take_pieces(line)

    def _take_pieces(self, line: Begun) -> None:
        """Take the pieces of a line together, as if all stood where the first one does."""
        here = self.time, self.position
        self.time, self.position = line.time, line.low
        said = parse_amavis_verdict(line.pieces.text + ("..." if line.pieces.cut else ""))
        if isinstance(said, Spam):
            self.fold_spam(line.origin, said)
        self.time, self.position = here

    def _tell_pieces(self, old: int) -> None:
        """Take lines whose rest has not come by now: they were begun at `old`, or before."""
        for prefix in [prefix for prefix, line in self.pieces.items() if line.heard <= old]:
            self._take_pieces(self.pieces.pop(prefix))


def show_front(message: Message, peer_ip: Optional[str]) -> None:
    """Let a message show the client of the session in front of the filter that handed it in, if a filter of this network did that. A row
    may show this client already, as XFORWARD told it; then there is only more to be learnt.
    """
    front, message.front = message.front, None
    is_filter = is_near(peer_ip)
    if front and (is_filter or peer_ip == front["client_ip"]):
        message.fronted = True
        for name, value in front.items():
            if value is not None or is_filter and name in CLIENT_FACTS:     # those of the filter's own hop do not count
                setattr(message, name, value)


def adopt(child: Message, link: Link) -> None:
    """Tie a message to the one it came from, when the two really fit; only then is the first leg `requeued`.

    `forwarded as` is local(8)'s own word. Behind `queued as` stands somebody's reply: the child must have named its
    parent, or be born during that delivery, from this host's own address.
    """
    recipient, parent = link.recipient, link.parent
    if link.child == parent.queue_id:       # a filter calls the message as it was told to: nothing came of it here
        return
    born = is_born(child, link)
    if recipient is None:
        if born:
            child.parent_queue_id = child.parent_queue_id or parent.queue_id
        return
    recipient = recipient.became or recipient
    named = parent.queue_id in (child.orig_queue_id, child.parent_queue_id)
    forwarded = link.forwarded or goes_on(recipient)
    if named or born and (forwarded or is_own(handed_to(recipient), child.peer_ip)):
        hand_on(recipient)
        child.parent, child.parent_queue_id = parent, parent.queue_id


FOLDS = {
    Connect: Correlator.fold_connect, Disconnect: Correlator.fold_disconnect, Broken: Correlator.fold_broken,
    Restarted: Correlator.fold_restarted, ClientTls: Correlator.fold_client_tls, RelayTls: Correlator.fold_relay_tls,
    RelayLost: Correlator.fold_relay_lost, Proxied: Correlator.fold_proxied, Client: Correlator.fold_client,
    MessageId: Correlator.fold_message_id, Pickup: Correlator.fold_pickup, Queued: Correlator.fold_queued, Expired: Correlator.fold_expired,
    Removed: Correlator.fold_removed, Handled: Correlator.fold_handled, Delivery: Correlator.fold_delivery,
    Verdict: Correlator.fold_verdict, Checked: Correlator.fold_checked, Notification: Correlator.fold_notification,
    Dkim: Correlator.fold_dkim, Dmarc: Correlator.fold_dmarc, MilterSpf: Correlator.fold_milter_spf, Spf: Correlator.fold_spf,
    SpamStart: Correlator.fold_spam_start, SpamScore: Correlator.fold_spam_score, SpamResult: Correlator.fold_spam_result,
    Spam: Correlator.fold_spam, Piece: Correlator.fold_piece, Screened: Correlator.fold_screened,
    ScreenScore: Correlator.fold_screen_score, Rewritten: Correlator.fold_rewritten,
}   # type: Dict[Any, Callable[[Correlator, Origin, Any], None]]


# -- rows of a message

make_row = maker(Row)
_message_values = operator.attrgetter(*MESSAGE_COLUMNS)
_recipient_values = operator.attrgetter(*RECIPIENT_COLUMNS)


def lineage(message: Message) -> List[Message]:
    """The messages this one came from, nearest first, each followed by its past; a circle, which only a forged log can hold, ends it."""
    found: List[Message] = []
    parent = message.parent
    while parent is not None and parent is not message and parent not in found:
        found += [parent] if parent.past is None else [parent, parent.past]
        parent = parent.parent
    return found


INHERITED = tuple("client_hostname client_ip helo protocol sasl_username client_tls original_envelope_from spf_result dkim_result "
                  "dkim_signatures dkim_domain dkim_selector dkim_algorithm dmarc_result dmarc_domain spam_status spam_score "
                  "spam_required spam_tests".split())


class Leg:
    """The recipients of a message whose mail goes on under one ID.

    Of those handed on: `by_upstream`, by their address then; `kept`, both addresses; `sharing`, how many have an address then; `forwarded`,
    the name of which local(8) tells, if it is one; `is_requeued`, whether a last reply names no such ID, as one of a filter or of local(8)
    would.
    """

    __slots__ = ("recipients", "by_upstream", "kept", "sharing", "forwarded", "is_requeued")

    def __init__(self, queue_id: str, recipients: List[Recipient]) -> None:
        self.recipients = recipients
        handed_on = [one for one in recipients if one.upstream_to]
        self.by_upstream = {one.upstream_to: one for one in handed_on}
        self.kept = {(one.orig_to, one.upstream_to) for one in handed_on}
        self.sharing = collections.Counter(to for _, to in self.kept)
        local = {one.orig_to for one in handed_on if one.relay_host == "local" and queue_id in (one.relay_message or "")}
        self.forwarded = local.pop() if len(local) == 1 else None
        self.is_requeued = any(queue_id not in (one.relay_message or "") for one in handed_on)


class GoneOn:
    """The recipients of a message whose mail goes on under other IDs, by these, and by the address handed on. There may be many, and many
    messages that came from it. `untold`: the addresses handed on of those with no other name when it was made, mostly before they inherit
    one: their lines tell none.
    """

    __slots__ = ("recipients", "requeued_as", "by_id", "legs", "by_upstream", "untold")

    def __init__(self, parent: Message) -> None:
        self.recipients = [one for one in parent.recipients if goes_on(one)]
        self.requeued_as = parent.requeued_as
        self.by_id: Dict[Optional[str], List[Recipient]] = {}
        for one in self.recipients:
            self.by_id.setdefault(one.next_queue_id, []).append(one)
        self.legs: Dict[str, Leg] = {}
        self.by_upstream = {one.upstream_to: one for one in self.recipients if one.upstream_to}
        self.untold = {one.upstream_to for one in parent.recipients if one.orig_to in ("", one.upstream_to)}

    def leg(self, queue_id: str) -> Leg:
        """Those whose mail goes on under this ID."""
        if queue_id not in self.legs:
            recipients = self.recipients if queue_id == self.requeued_as else self.by_id.get(queue_id, [])
            self.legs[queue_id] = Leg(queue_id, recipients)
        return self.legs[queue_id]

    def named(self, name: str, is_untold: bool) -> Optional[Recipient]:
        """The one that was handed on under this name, which its child's lines may not tell: then it is none of local(8)'s."""
        one = self.by_upstream.get(name)
        return None if is_untold and one is not None and one.relay_host == "local" else one


GoneOnOf = Callable[[Message], GoneOn]       # may remember, for as long as no message changes


def legs_before(message: Message) -> List[Tuple[Message, str]]:
    """The messages this one came from, in the order of `lineage`, each with the ID under which its mail went on then."""
    found: List[Tuple[Message, str]] = []
    leg = below = message.queue_id
    for parent in lineage(message):
        if parent.queue_id != leg:          # else it is the past of the one before
            leg, below = parent.queue_id, leg
        found.append((parent, below))
    return found


def inherit(message: Message, gone_on: GoneOnOf) -> None:
    """Let a message show what only the first leg of its mail knows.

    Where reading began anew behind the birth of that leg, and it has no row, as when it is not tracked, it tells nothing. Then what the
    rows of this message already show of it stays: nobody else knows it any more.
    """
    legs = legs_before(message)
    is_lost = bool(legs and message.stored) and is_apart(legs[-1][0])
    for place, (parent, below) in enumerate(legs):
        for name in INHERITED:
            value = getattr(parent, name)
            # That the client had no TLS, or no login, is told, too: what the message has itself is of the filter's hop.
            is_told = value is not None or name in CLIENT_FACTS and parent.client_ip is not None
            if is_told and not (is_lost and getattr(message, name) is not None):
                setattr(message, name, value)
        later = [gone_on(one) for one in (message, *(known for known, _ in legs[:place])) if one.queue_id != parent.queue_id]
        inherit_names(message, gone_on(parent), below, later)


def inherit_names(message: Message, known: GoneOn, leg: str, later: List[GoneOn]) -> None:
    """Let recipients show the names (orig_to) that a parent of theirs, whose mail went on as `leg`, knew them by; `later` is what tells of
    that leg and of those after it.

    One keeps its own name if the parent handed it on under the very same two addresses. If its lines tell a name, as of an alias, that is
    the parent's `to`. If they do not, and the mail went on directly, the `to` of both is the same; likewise if it was requeued, which
    changes no recipient, and the parent itself shows an inherited name by now. Rows do not tell that pickup had it: then the parent's last
    reply does. The name of which local(8) tells is the one that the parent's own lines told, and may show no more. One that is but named,
    as by a header check that holds the mail, keeps its name, by which its row is found again, until a delivery tells its `to`. And one of
    a list with an `owner-` alias, whose names local(8) does not log, has none of its namesake, whose mail local(8) sent on elsewhere.
    """
    into, is_direct = known.leg(leg), leg == message.queue_id
    is_requeued = message.pickup_sender is not None or into.is_requeued
    for recipient in message.recipients:
        own, to = recipient.orig_to or "", recipient.upstream_to
        if to is not None and (own, to) not in into.kept:
            is_untold = any(own in one.untold for one in later)
            named = into.by_upstream.get(own) or known.named(own, is_untold)
            is_same = is_direct and (own in ("", to) or is_requeued and named is None and into.sharing[to] == 1)
            same = into.by_upstream.get(to) if is_same else None
            forwarded = into.forwarded if own != to and not is_untold else None
            recipient.orig_to = same and same.orig_to or named and named.orig_to or forwarded or recipient.orig_to


def number_heirs(message: Message, known: GoneOn, tracked: DomainFilter) -> None:
    """Number the recipients of which only the inheritance shows that they are tracked: by the address they had on the first leg; because
    local(8) made them of a tracked one, whose name it does not log when there is an `owner-` alias (alias.c); or because they were tracked
    before the mail was requeued.
    """
    into = [one for one in known.leg(message.queue_id).recipients if one.recipient_no is not None]
    made = any(one.relay_host == "local" and one.next_queue_id == message.queue_id for one in into)
    same = {one.upstream_to for one in into if one.upstream_to}
    for recipient in message.recipients:
        if recipient.recipient_no is None and (
                made or (recipient.upstream_to or recipient.orig_to) in same or tracked.tracks(recipient.orig_to, recipient.upstream_to)):
            recipient.recipient_no, message.next_no = message.next_no, message.next_no + 1


def fill_in(message: Message) -> None:
    """Put what comes nearest where nothing was logged."""
    if is_guessed(message):
        message.spf_result = None
    if message.spf_result is None:
        message.spf_result = message.milter_spf
    if message.envelope_from is None and message.pickup_sender is not None:
        message.envelope_from = message.pickup_sender
        if message.original_envelope_from is None:
            message.original_envelope_from = message.pickup_sender
    for recipient in message.recipients:
        if recipient.relay_status in (None, INCOMPLETE):
            recipient.relay_status, recipient.last_seen = INCOMPLETE, max(recipient.last_seen, message.last_seen)
        if recipient.relay_status == REQUEUED and recipient.next_queue_id is None:
            recipient.next_queue_id = message.requeued_as


def is_in_maildrop(message: Message) -> bool:
    """Whether `sendmail -bs` took it in: its smtpd lays each mail into the maildrop, and pickup brings that under another ID (smtpd(8)).

    Each mail of the session was taken, but cleanup, which logs the Message-ID of all that it takes, never spoke of this one.
    """
    return message.session is not None and message.session.took_all and message.message_id is None and not message.queued


def is_turned_away(message: Message) -> bool:
    """Whether the rows of its refused recipients tell all of a message: its client had no other."""
    return message.session is not None and message.session.took_none and is_refused_to_all(message)


def is_given_up(message: Message) -> bool:
    """Whether a filter began to hand on a mail, and gave up before its end: the first leg, or the refusal, tells what became of it."""
    if message.message_id is not None or message.queued:
        return False
    over = message.ended or message.session is not None and not message.session.live
    return message.given_up or over and message.orig_queue_id is not None and message.parent is not None


def stand_in_for(message: Message) -> Optional[Recipient]:
    """The recipient of a message that named none, when there is enough to tell of it to make a row.

    Postfix's own address probes (verify.c), known by their sender alone, name none until they are answered, and make no row then.
    """
    if is_double_bounce(message) or is_turned_away(message) \
            or message.fate is None and (is_in_maildrop(message) or is_given_up(message)):
        return None
    told = message.client_ip or message.envelope_from is not None or message.fate or message.pickup_sender is not None
    if not told and (message.message_id is None or is_generated(message)):
        return None
    recipient = Recipient(None, None, message.first_seen)
    recipient.recipient_no = message.next_no
    if message.fate is not None:
        sweep_recipient(recipient, message.fate)
    return recipient


def comes_again(message: Message) -> bool:
    """Whether what looks refused is tried again under another ID: mail that no client brought, and that cleanup cannot take for now, is
    kept by the program that brought it, pickup (pickup.c), local or bounce. Likewise mail one recipient of which a milter refuses: there
    is no client to hear that (cleanup_milter.c:cleanup_milter_eval).
    """
    fate = message.fate
    if fate is None or fate.status != REJECTED or message.peer_ip is not None or message.stored \
            or not is_loopback(message.client_ip or "::1"):       # of local mail a milter's refusal names this host as its client
        return False
    return message.put_off or TRY_AGAIN.match(fate.text or "") is not None or (fate.dsn or "").startswith("4.")


def rows_as_known(message: Message) -> List[Row]:
    """The rows of a message with what is known of it now, one per tracked recipient."""
    facts = _message_values(message)
    return [make_row(facts + _recipient_values(recipient)) for recipient in message.recipients if recipient.recipient_no is not None]


def rows_of(message: Message, tracked: DomainFilter, gone_on: GoneOnOf = GoneOn) -> List[Row]:
    """The rows of a message, one per tracked recipient; those that the store has already, unchanged, are left out.

    A message that named no recipient, but those refused, makes one row; while a domain filter is set, only when it was refused itself.
    """
    if message.void or comes_again(message):
        return []
    if not message.by_address and not message.stored and not message.queue_id.startswith("NOQUEUE") \
            and all(one.refused for one in message.recipients):
        refused = message.fate is not None and message.fate.status == REJECTED
        stand_in = stand_in_for(message) if not tracked.domains or refused else None
        if stand_in is not None:
            message.recipients.append(stand_in)
    if message.parent is not None:
        inherit(message, gone_on)
        number_heirs(message, gone_on(message.parent), tracked)
    fill_in(message)
    rows = rows_as_known(message)
    return [row for row in rows if is_news(row, message.stored.get(row.recipient_no))] if message.stored else rows


def fit(value: Any, limit: int) -> Any:
    """A value as its column can hold it, in every store alike: text decoded and clipped by characters, numbers within range.

    >>> fit("J\\xc3\\xb6rg", 2), fit("a\\0", 9), fit(-100000.5, 99999), fit(5, 0)
    ('Jö', 'a\ufffd', -99999, 5)
    """
    if isinstance(value, str):
        return value if len(value) <= limit and is_ascii(value) and "\0" not in value else text_of(value)[:limit]
    if value is None or not limit or -limit <= value <= limit:
        return value
    return limit if value > 0 else -limit


BY_NAME = {column.name: column for column in COLUMNS}
ROW = tuple(BY_NAME[name] for name in ROW_COLUMNS)
LIMITS = tuple(column.limit for column in ROW)


def fitted(row: Row) -> Row:
    """A row as its columns can hold it."""
    return cast(Row, make_row(map(fit, row, LIMITS)))


def as_stored(row: Row) -> Row:
    """A row as it would come back from the store: clipped, and what was no UTF-8 replaced."""
    return cast(Row, make_row(map(raw_text, fitted(row))))


def is_news(row: Row, stored: Optional[Row]) -> bool:
    """Whether a row is another than the one that the store has."""
    return stored is None or any(new != known and raw_text(fit(new, limit)) != known for new, known, limit in zip(row, stored, LIMITS))


def stored_text(name: str, value: Any) -> Any:
    """A value of a column as it would come back from the store."""
    return raw_text(fit(value, BY_NAME[name].limit))


def recipient_from(row: Row) -> Recipient:
    """The recipient that a stored row tells of."""
    recipient = Recipient(None, None, row.last_seen)
    for name in RECIPIENT_COLUMNS:
        setattr(recipient, name, getattr(row, name))
    recipient.refused = recipient.relay_status == REJECTED and recipient.upstream_to is None
    return recipient


# -- what the store has of a message

def absorb(message: Message, stored: Iterable[Row]) -> List[Link]:
    """Unite a message with the rows that the store has of it.

    A birth is united with rows of the very same moment, or with those that began without it; a continuation with the latest; neither
    when the two contradict each other, for short queue IDs come back. What is stored stays, what was unknown is filled in, a newer
    outcome replaces an older one, never the other way round. Returns links to the messages that this one was handed on as, when the store
    has known only what came later until now: they inherit from it.
    """
    rows = continued_rows(message, stored) if message.continued else born_rows(message, stored)
    is_earlier = bool(rows) and message.first_seen < rows[0].first_seen
    same_birth = bool(rows) and not message.continued and not is_earlier
    if not rows or not same_birth and is_another(message, rows):
        return []
    message.stored, message.first_seen = {row.recipient_no: row for row in rows}, rows[0].first_seen
    if same_birth and not message.fronted:
        forget_hop(message, rows[0])
    own = own_facts(message, rows[0])
    for name in FACTS:
        known = getattr(rows[0], name)
        if known is not None and name not in own and not (name == "spf_result" and known == message.called_in):
            setattr(message, name, better(name, known, getattr(message, name)))
    show_front(message, rows[0].client_ip)
    absorb_sender(message, rows[0].envelope_from, rows[0].original_envelope_from)
    known = [recipient_from(row) for row in rows]
    if is_earlier:
        sweep_back(message, known)
    unite(message, known)
    for recipient in message.recipients:
        recipient.last_seen = max(recipient.last_seen, message.first_seen)
    return heirs_of(message) if is_earlier else []


def names_nobody(recipient: Recipient) -> bool:
    """Whether a recipient stands for all of its message, for none was named yet."""
    return recipient.orig_to is None and recipient.upstream_to is None


def sweep_back(message: Message, known: List[Recipient]) -> None:
    """Let what a stored row of nobody tells reach those whom the lines before it name: it befell the message as a whole.

    One whom it reached gets that row, if there is any. The row's own status becomes None, not INCOMPLETE, so that its time stays.
    """
    nobody = next((one for one in known if names_nobody(one) and one.relay_status != INCOMPLETE), None)
    if nobody is None:
        return
    status, nobody.relay_status = nobody.relay_status, None
    message.sweep(Sweep(status, nobody.last_seen, nobody.relay_message, nobody.smtp_code, nobody.dsn))
    message.requeued_as = message.requeued_as or nobody.next_queue_id
    message.recipients.sort(key=lambda one: one.relay_status != status)


def own_facts(message: Message, row: Row) -> Set[str]:
    """The columns that a message itself knows better than its row."""
    own = {"envelope_from", "original_envelope_from"}
    if is_loopback(row.client_ip or "") and not is_loopback(message.client_ip or "127.0.0.1"):
        own |= {"client_hostname", "client_ip"}     # stored before the filter in front told whom it speaks for
    if message.fronted:                 # read again from its midst, that session may tell less: nothing is erased
        own |= {name for name in CLIENT_FACTS if getattr(message, name) is not None or row.client_ip != message.client_ip}
    return own


def forget_hop(message: Message, row: Row) -> None:
    """Read again without the session in front of its filter, a message has that filter for its client: take the true one from its row."""
    if message.peer_ip is not None and row.client_ip not in (None, message.client_ip) and not is_loopback(row.client_ip or ""):
        for name in CLIENT_FACTS:
            setattr(message, name, getattr(row, name))


def heirs_of(message: Message) -> List[Link]:
    """The links to those that a message was handed on as, or may have been: to a filter nearby, if the mail it made was read first."""
    found: List[Link] = []
    for one in message.recipients:
        child = one.next_queue_id or (message.requeued_as if one.relay_status == REQUEUED else None)
        if child is not None and (goes_on(one) or is_near(handed_to(one))):
            found.append(Link(child, message, birth_during(one.delays, one.last_seen), one))
    return found


def absorb_sender(message: Message, sender: Optional[str], original: Optional[str]) -> None:
    """Unite what is known of the sender: qmgr's word replaces a local submitter's; a sender seen behind another stays known."""
    learnt = message.original_envelope_from != message.envelope_from
    first_hand = message.queued or message.pickup_sender is not None
    if sender is not None and (message.envelope_from is None or not first_hand):
        message.envelope_from = sender
    if original is not None and not learnt and (original != sender or message.original_envelope_from is None or not first_hand):
        message.original_envelope_from = original


def latest(rows: Iterable[Row], moment: int) -> List[Row]:
    """Of the rows with one queue ID those of the message that bore it at a moment: the newest one born by then, unless it was last heard
    of so long before that it cannot be in the queue any more; on hold it can.

    When there is none, those of the first one born later: the clock may have been set back, or lines come in disorder.
    """
    rows = list(rows)
    young = [row.first_seen for row in rows if row.last_seen >= moment - ROWS_LIFE or row.relay_status == HELD]
    born = [first_seen for first_seen in young if first_seen <= moment]
    chosen = max(born) if born else min(young, default=0)
    return [row for row in rows if row.first_seen == chosen]


def born_rows(message: Message, stored: Iterable[Row]) -> List[Row]:
    """The rows of a birth: of its very moment; else those that began without one, for the older log is read after the newer one; else
    those that began with what another process said a moment before, where reading began anew between the two: they tell of a later time,
    or of the same delivery.

    They must begin within ROWS_LIFE of the last line about it, or, if it is on hold, at any time. Their first_seen, by which they are
    found, stays.
    """
    waits = any(one.relay_status == HELD for one in message.recipients)
    rows = [row for row in stored if message.first_seen <= row.first_seen and (waits or row.first_seen <= message.last_seen + ROWS_LIFE)]
    first = min((row.first_seen for row in rows), default=0)
    rows = [row for row in rows if row.first_seen == first]
    if first == message.first_seen or rows and is_rest(rows[0], message):
        return rows
    early = [row for row in stored if message.first_seen - BIRTH_DISORDER <= row.first_seen < message.first_seen]
    first = max((row.first_seen for row in early), default=0)
    rows = [row for row in early if row.first_seen == first]
    return rows if lived(rows, message.first_seen) or is_told_again(message, rows) else []


def is_rest(row: Row, message: Message) -> bool:
    """Whether a row that began later is the rest of this message, for the older log is read after the newer one.

    If both have a Message-ID, that decides. A row without one is the rest if it began before the log has told the end of this message, for
    until then its ID is nobody else's; or if both tell that it was requeued, for pickup tells that once more. If only the row has one, it
    is the rest when no more is known here than a client and whom it may not write to, and the row begins within a minute and names no other
    client, nor a message that it came from.
    """
    gap = row.first_seen - message.last_seen
    if row.message_id is None:
        requeued = message.fate is not None and message.fate.status == row.relay_status == REQUEUED
        return gap <= 0 or not message.ended or requeued
    if message.message_id is not None:
        return bool(stored_text("message_id", message.message_id) == row.message_id)
    bare_birth = all(one.refused for one in message.recipients) and not message.ended and gap <= MINUTE
    return bare_birth and row.client_ip in (None, message.client_ip) and row.parent_queue_id is None


def continued_rows(message: Message, stored: Iterable[Row]) -> List[Row]:
    """The rows that a continuation is about. If a message was born at the very moment of its first line, that may be one of the message
    before, which had the same ID: it is, if that one has the continuation's recipients and the newer one has not.
    """
    rows = latest(stored, message.first_seen)
    if rows and rows[0].first_seen == message.first_seen:
        older = latest([row for row in stored if row.first_seen < message.first_seen], message.first_seen)
        if older and shares_recipient(message, older) and not shares_recipient(message, rows):
            return older
    return rows


def shares_recipient(message: Message, rows: List[Row]) -> bool:
    """Whether a message was delivered to somebody whom these rows name."""
    named = {row.upstream_to for row in rows if row.upstream_to is not None}
    return any(stored_text("upstream_to", one.upstream_to) in named for one in message.recipients)


def contradicts(message: Message, row: Row) -> bool:
    """Whether a message cannot be the one in the store: then its ID was given out anew, unseen. The client of a row may be inherited."""
    peer = message.peer_ip if row.parent_queue_id is None else None
    pairs = ((message.message_id, "message_id"), (message.size, "size"), (peer, "client_ip"))
    return any(own is not None and getattr(row, name) is not None and stored_text(name, own) != getattr(row, name)
               for own, name in pairs)


def is_another(message: Message, rows: List[Row]) -> bool:
    """Whether these rows are of another message, which had the same ID before: they contradict, and do not tell of this one's life, too."""
    return contradicts(message, rows[0]) and not lived(rows, message.first_seen) and not is_told_again(message, rows)


def lived(rows: List[Row], moment: int) -> bool:
    """Whether rows tell of a time before a moment and of one after it: what happens between the two under their ID is of the same message,
    whatever Message-ID a reading that begins in its midst finds.
    """
    return any(row.first_seen < moment < row.last_seen for row in rows)


def is_told_again(message: Message, rows: List[Row]) -> bool:
    """Whether a delivery of a message is in these rows, as stamps without fractions may have it within the second of its birth."""
    known = {(row.upstream_to, row.last_seen) for row in rows if row.upstream_to is not None}
    return any((stored_text("upstream_to", one.upstream_to), one.last_seen) in known for one in message.recipients)


def better(name: str, known: Any, new: Any) -> Any:
    """Of two values of a fact the stored one; but a score that has its decimals is better than a truncated one."""
    return new if name == "spam_score" and is_cut_off(float(known), new) else known


def unite(message: Message, known: List[Recipient]) -> None:
    """Put the stored recipients of a message and those of its continuation together; those that it does not name, or of which it tells no
    outcome, are swept as well. Once deliveries to all are stored, one that is but named, as when a hold is read again, is one of these.
    """
    fresh, message.recipients = message.recipients, known
    message.next_no = max(one.recipient_no or 0 for one in known) + 1
    free = Unmatched(known, message)
    released = message.queued or any(sweep.status is None for sweep in message.sweeps)
    untold: List[Recipient] = []
    gone = next(filter(is_gone, known), None)
    is_complete = message.nrcpt is not None and len({small(one.orig_to) for one in known if one.upstream_to is not None}) >= message.nrcpt
    for recipient in fresh:
        recipient.orig_to = stored_text("orig_to", recipient.orig_to)
        recipient.upstream_to = stored_text("upstream_to", recipient.upstream_to)
        same = free.take(recipient)
        if same is not None:
            recipient.became = same
            take_outcome(same, recipient, released)
            if recipient.relay_status is None:
                untold.append(same)
        elif recipient.upstream_to is not None or recipient.relay_status not in UNDECIDED or not is_complete:
            if gone is not None and (recipient.relay_status == DEFERRED or is_gone(recipient)):
                take_away(recipient, gone)
            if recipient.recipient_no is not None:
                recipient.recipient_no, message.next_no = message.next_no, message.next_no + 1
            message.recipients.append(recipient)
    for recipient in free.left() + untold:
        for sweep in message.sweeps:
            sweep_recipient(recipient, sweep)


class Unmatched:
    """The stored recipients of a message, each to be matched once by one of its continuation; by index, mostly, for there may be many."""

    def __init__(self, known: List[Recipient], message: Message) -> None:
        self.message = message
        self.known = {id(one): one for one in known}
        delivered = [one for one in known if one.upstream_to is not None]
        self.loose: Named = {}
        for one in known:
            if one.upstream_to is None or awaits_alias(one):
                add_named(self.loose, one)
        self.by_address = {(one.orig_to, one.upstream_to): one for one in delivered}
        self.by_upstream = {one.upstream_to: one for one in delivered}
        self.by_orig = {small(one.orig_to): one for one in delivered}

    def take(self, new: Recipient) -> Optional[Recipient]:
        """The stored recipient that is the same as this one; None when there is none that is not taken yet.

        A row whose orig_to was inherited from the message before matches by `to`. One that was only named is matched by
        that name, one that named nobody by the first comer.
        """
        same = self._delivered(new)
        if same is None or id(same) not in self.known:
            same = named_as(self.loose, new, LOOSE_MATCHES)
        if same is not None:
            del self.known[id(same)]
            drop_named(self.loose, same)
        return same

    def _delivered(self, new: Recipient) -> Optional[Recipient]:
        if new.refused:
            return None
        if new.upstream_to is None:         # read again: by now a delivery to it is told
            return self.by_orig.get(small(new.orig_to)) or self.by_upstream.get(new.orig_to) or self.by_orig.get(self._name_before(new))
        same = self.by_address.get((new.orig_to, new.upstream_to))
        if same is None and self.message.parent_queue_id is not None:
            same = self.by_upstream.get(new.upstream_to)
        if same is None and awaits_alias(new):      # read again: by now it has the name that the alias stands for
            meant = self.by_orig.get(small(new.orig_to))
            same = meant if meant is not None and not is_older(meant.last_seen, new.last_seen) else None
        return same

    def _name_before(self, new: Recipient) -> str:
        """The name that one who is but named had on the first leg: its row may have inherited that by now."""
        name = new.orig_to
        for parent, below in legs_before(self.message):
            one = GoneOn(parent).leg(below).by_upstream.get(name)
            name = one and one.orig_to or name
        return small(name)

    def left(self) -> List[Recipient]:
        """Those that nobody took."""
        return list(self.known.values())


def is_called(recipient: Recipient, name: Optional[str]) -> bool:
    """Whether somebody to whom the mail may yet go was named so."""
    return not recipient.refused and recipient.orig_to is not None and small(recipient.orig_to) == small(name)


def was_named(new: Recipient, old: Recipient) -> bool:
    """Whether one was named before a delivery to the other was told; or awaits the alias that is known by now."""
    return not new.refused and is_called(old, new.orig_to) and (old.upstream_to is None or awaits_alias(old))


def was_named_anew(new: Recipient, old: Recipient) -> bool:
    """The same, when cleanup named it by what it made of the name (canonical_maps), or by what that was already when it was requeued."""
    return not new.refused and is_called(old, new.upstream_to) and old.upstream_to is None


LOOSE_MATCHES: Tuple[Callable[[Recipient, Recipient], bool], ...] = (      # of old ones without a delivery, the best match first
    # The same refusal, read again.
    lambda new, old: new.relay_status == old.relay_status == REJECTED and new.upstream_to is None
    and new.orig_to == old.orig_to and new.last_seen == old.last_seen,
    was_named, was_named_anew,
    # A row that stands for all recipients, when none was named yet; not for one refused of whom a domain filter wants no row.
    lambda new, old: old.orig_to is None and not (new.refused and new.recipient_no is None),
    # One that a milter refused: cleanup itself tells its bounce.
    lambda new, old: not new.refused and new.relay_host == "none" and old.relay_status == REJECTED and old.orig_to == new.orig_to,
)
OUTCOME = tuple(name for name in RECIPIENT_COLUMNS if name not in ("recipient_no", "orig_to", "upstream_to"))


def tells_less(known: Recipient, new: Recipient) -> bool:
    """Whether a delivery is told again without the message as which it went on, or the line of the filter that kept it back; or puts off
    what is gone.
    """
    if is_gone(known):
        return new.relay_status == DEFERRED
    if known.relay_status == REQUEUED:
        return new.relay_status == SENT
    return known.relay_status in (DISCARDED, BOUNCED) and new.relay_status in (SENT, REQUEUED) and new.last_seen == known.last_seen \
        and stored_text("relay_message", new.relay_message) == known.relay_message


def take_outcome(known: Recipient, new: Recipient, released: bool) -> None:
    """Give a stored recipient the outcome that its continuation tells, if that is the newer one. One on hold that was not `released` stays
    there when it is but deferred.

    A line read again tells no more than what is stored, perhaps less: what ties it to other messages may have come later.
    """
    if bounce_stands(known, new.relay_status):
        known.next_queue_id = known.next_queue_id or new.next_queue_id
        return
    has_bounced = bounce_stands(new, known.relay_status)        # the older log is read after the newer one
    if has_bounced:
        new.next_queue_id = new.next_queue_id or known.next_queue_id
    later = has_bounced or outranks(new.relay_status, new.last_seen, known) \
        or known.upstream_to is None and new.upstream_to is not None and not is_older(new.last_seen, known.last_seen)
    if known.upstream_to is None or awaits_alias(known):
        known.orig_to, known.upstream_to = new.orig_to or known.orig_to, new.upstream_to or known.upstream_to
    if new.relay_status in (None, INCOMPLETE) or not later or tells_less(known, new):
        return
    newest = new.last_seen if known.relay_status == INCOMPLETE else max(known.last_seen, new.last_seen)
    if is_gone(known) and is_gone(new) and new.relay_status == known.relay_status:
        known.last_seen = newest            # postsuper's word once more, or pickup's, of one whose attempts are told no more
        return
    read_again = new.last_seen <= known.last_seen       # perhaps without the line before it that told of TLS
    stays = stays_held(known, new.relay_status) and not released
    for name in OUTCOME:
        value = getattr(new, name)
        if value is not None or name != "relay_tls" or not read_again:
            setattr(known, name, value)
    known.refused, known.last_seen = new.refused, newest
    known.relay_status = HELD if stays else known.relay_status


def take_away(recipient: Recipient, other: Recipient) -> None:
    """Let a recipient be gone like another one of its message, which postsuper takes away as a whole: an attempt tells no more of it."""
    told = recipient if is_gone(recipient) else other       # by pickup, under which ID
    for name in OUTCOME:
        setattr(recipient, name, getattr(told, name) if name in ("relay_status", "last_seen", "next_queue_id") else None)


Name = Tuple[str, str]                      # (server_hostname, queue_id): how the store knows a message
Names = Set[Name]
Stored = Dict[Name, List[Row]]              # what it has of some
Recall = Callable[[Names], Stored]


def settle(harvest: Harvest, recall: Recall, known_until: int, tracked: DomainFilter) -> List[Row]:
    """Turn what is ready into rows, after asking the store what it knows of it.

    `recall` is asked for continuations, those from which others came included; for messages hardly newer than what the store may hold
    (`known_until`); for parents and children that are not in memory.
    """
    messages, links = harvest.messages, harvest.links       # the harvest's own list: what is added to it stays for a second try
    names = {name_of(message) for message in messages if message.continued or message.first_seen <= known_until + BIRTH_DISORDER}
    names |= {parent_name(message) for message in messages if has_lost_parent(message)}
    parents = {parent for message in messages if message.parent is not None for parent in lineage(message) if is_apart(parent)}
    parents |= {link.parent for link in links if is_apart(link.parent)}
    names |= {name_of(parent) for parent in parents}
    names |= {child_name(link) for link in links}
    stored = recall(names) if names else {}
    if stored:
        links += unite_all(messages, stored)
        for message in filter(has_lost_parent, messages):
            message.parent = message_from(latest(stored.get(parent_name(message), ()), message.first_seen))
    if harvest.unclaimed:
        claim_verdicts(messages, harvest.unclaimed)
    for parent in parents:
        recollect(parent, stored.get(name_of(parent), ()))
    tie_heirs([message for message in messages if is_heir(message)], harvest, stored, recall)
    gone_on = functools.lru_cache(maxsize=None)(GoneOn)
    return [row for message in messages + follow_links(links, stored, recall) for row in rows_of(message, tracked, gone_on)]


def unite_all(messages: List[Message], stored: Stored) -> List[Link]:
    """Unite messages with what is stored of them, and let `stored` be what they make of that; returns links to those that they were handed
    on as.

    For others of this harvest ask it, too: heirs; and the same message once more, if it left memory without a recipient and came back.
    """
    links: List[Link] = []
    for message in messages:
        name = name_of(message)
        rows = stored.get(name, ())
        if rows and not message.stored:     # else this is a second try, after trouble with the store
            links += absorb(message, rows)
        if message.stored:
            others = [row for row in rows if row.first_seen != message.first_seen]
            stored[name] = others + list(map(as_stored, rows_as_known(message)))
    return links


def claim_verdicts(messages: List[Message], unclaimed: Dict[HostKey, List[Context]]) -> None:
    """Give messages that are tried again the verdicts on their Message-ID, which only their rows have told: in turn, each to one."""
    for message in messages:
        verdicts = unclaimed.get(mail_key(message.host, message.message_id)) if message.message_id else None
        if verdicts and any(map(may_be_scanned, message.recipients)):
            claim_verdict(message, verdicts)


def claim_verdict(message: Message, verdicts: List[Context]) -> None:
    """Take the first of some verdicts that can be a message's own; if its rows show one, that is taken, too, lest another gets it.

    A message born about when a verdict fell is not meant: it may be what the filter made of the mail.
    """
    begun = message.opened - DISORDER if message.continued else message.opened + DISORDER
    for one in verdicts:
        is_shown = (message.spam_status, message.spam_score) == (one.value.status, one.value.score)
        is_near_it = begun <= one.heard <= message.heard + DISORDER and not is_of_another(one.value, message)
        if is_near_it and (is_shown or message.spam_score is None):
            take_verdict(message, one.value)
            verdicts.remove(one)
            return


@functools.lru_cache(maxsize=256)
def stored_host(server_hostname: str) -> str:
    """A host's name as its rows have it."""
    return cast(str, stored_text("server_hostname", server_hostname))


def name_of(message: Message) -> Name:
    """Under which name the store knows a message."""
    return stored_host(message.server_hostname), message.queue_id


_birth = operator.attrgetter("server_hostname", "queue_id", "first_seen")


def births_apart(messages: List[Message]) -> List[List[Message]]:
    """Messages in groups to be written one after the other, mostly in one. If a birth was read once more while its message was open, the
    second one comes in a later group, to find the rows of the first.
    """
    births = list(map(_birth, messages))
    if len(set(births)) == len(births):
        return [messages]
    found: List[List[Message]] = [[]]
    times: Dict[Tuple[str, str, int], int] = collections.defaultdict(int)
    for message, birth in zip(messages, births):
        if times[birth] == len(found):
            found.append([])
        found[times[birth]].append(message)
        times[birth] += 1
    return found


def parent_name(message: Message) -> Name:
    """Under which name the store knows the message that this one came from."""
    return stored_host(message.server_hostname), message.parent_queue_id or ""


def child_name(link: Link) -> Name:
    """Under which name the store knows the message that a link leads to."""
    return stored_host(link.parent.server_hostname), link.child


def has_lost_parent(message: Message) -> bool:
    """Whether a message came from another one that is not in memory, and inherits from it."""
    return message.orig_queue_id is not None and message.parent is None


def is_apart(message: Message) -> bool:
    """Whether a message is a continuation that is not united with its rows yet."""
    return message.continued and not message.stored


def recollect(parent: Message, stored: Iterable[Row]) -> None:
    """Let a parent that is not united with its rows yet know them as its past, which its heirs inherit."""
    if is_apart(parent):
        rows = continued_rows(parent, stored)
        parent.past = message_from(rows) if rows and not contradicts(parent, rows[0]) else None


def is_heir(message: Message) -> bool:
    """Whether a message came from another one, as its rows say, and has named a recipient since they were written, who inherits, too."""
    if not message.stored or message.parent is not None or message.parent_queue_id is None:
        return False
    named = {number for number, row in message.stored.items() if row.upstream_to is not None}
    return any(one.recipient_no not in named and one.upstream_to is not None for one in message.recipients)


def tie_heirs(heirs: List[Message], harvest: Harvest, stored: Stored, recall: Recall) -> None:
    """Give messages the parent that their rows name, be it open, at hand or stored, if it handed them on; a bounce inherits nothing."""
    at_hand = {(message.host, message.queue_id): message for message in harvest.messages} if heirs else {}
    missing = {parent_name(message) for message in heirs} - set(stored)
    if missing:
        stored.update(recall(missing))
    for message in heirs:
        rows = stored.get(parent_name(message), ())
        name = message.parent_queue_id or ""
        parent = harvest.open_by_host.get(message.host, {}).get(name) or at_hand.get((message.host, name))
        if parent is None:
            parent = message_from(latest(rows, message.first_seen))
        else:
            recollect(parent, rows)
        known = parent.recipients + (parent.past.recipients if parent.past else []) if parent else []
        if any(goes_on(one) and one.next_queue_id == message.queue_id for one in known):
            message.parent = parent


def message_from(rows: List[Row]) -> Optional[Message]:
    """The message that stored rows tell of."""
    if not rows:
        return None
    row = rows[0]
    message = Message(row.server_hostname, row.server_hostname, row.queue_id, row.first_seen, 0, True)
    message.stored = {one.recipient_no: one for one in rows}
    for name in FACTS:
        setattr(message, name, getattr(row, name))
    message.peer_ip = message.client_ip
    message.recipients = [recipient_from(one) for one in rows]
    message.next_no = max(one.recipient_no or 0 for one in message.recipients) + 1
    return message


def follow_links(links: List[Link], stored: Stored, recall: Recall) -> List[Message]:
    """The stored messages that, as links tell, came from others, now tied to these; and those that came from them in turn."""
    found: List[Message] = []
    children: Dict[Tuple[Name, int], Optional[Message]] = {}      # by name and birth
    for _ in range(MAX_GENERATIONS):
        missing = {child_name(link) for link in links} - set(stored)
        if missing:
            stored.update({name: [] for name in missing})
            stored.update(recall(missing))
        further: List[Link] = []
        for link in links:
            name = child_name(link)
            rows = latest(stored.get(name, ()), link.birth[1])
            key = name, rows[0].first_seen if rows else 0
            child = children[key] = children.get(key) or message_from(rows)
            if child is None:
                continue
            before = child.parent_queue_id, child.parent
            adopt(child, link)
            if (child.parent_queue_id, child.parent) != before:
                if child not in found:
                    found.append(child)
                if child.parent is not None:
                    further += heirs_of(child)
        links = further
        if not links:
            break
    return found


# -- lines in, events folded

class Tracker:
    """Lines in, finished messages out: the calendar, the parsers and the correlator, one after the other. No input stops it.

    `origins` are the processes met, by prefix, and by what lines have in its place; `piles` the lines of a batch, by parser; `tallies`
    the lines counted, by program. `nobody` is the process of lines that have none. `previous` is the last line of the batch before, should
    the next one say that it is repeated; `repeated` is the one of which that was said last.
    """

    def __init__(self, calendar: Calendar, correlator: Correlator, on_unsupported: Callable[[str], None],
                 on_failure: Callable[[str], None]) -> None:
        self.calendar = calendar
        self.correlator = correlator
        self.on_unsupported, self.on_failure = on_unsupported, on_failure
        self.origins: Dict[str, Origin] = {}
        self.tallies: Dict[str, List[int]] = {}
        self.piles: Dict[Optional[Callable[[str], Event]], Pile] = {}
        self.nobody = Origin(Header("", "", ""), {}, self._pile(None), [0] * len(CLASSES), IGNORED_LINES)
        self.previous = self.repeated = ""

    def feed(self, lines: List[str], position: int, file_start: int) -> None:
        """Read complete lines, one character per byte, without their newline. `position` is that of the first, `file_start` its file's.

        They are sorted by parser, for a pattern reads many lines of one kind faster than lines of all kinds; then folded in their order.
        """
        self.correlator.file_start = file_start
        times, origins = self._sort(lines, position)
        piles = [pile for pile in self.piles.values() if pile.texts]
        for pile in piles:
            pile.read()
        try:
            self._tell(lines, times, origins, position)
        finally:
            for pile in piles:
                pile.clear()
        if len(self.origins) > MAX_ORIGINS:
            self.origins.clear()
            self.correlator.forget_hosts()

    def _sort(self, lines: List[str], position: int) -> Tuple[List[int], List[Origin]]:
        """Lay each text on its pile; returns the time and the process of each line."""
        times: List[int] = []
        origins: List[Origin] = []
        known, calendar, stamp, start, time = self.origins.get, self.calendar, "\n", 0, 0
        calendar.where = lambda: position + sum(map(len, lines[:len(times)])) + len(times)
        for line in lines:
            try:
                if line[:16] != stamp:
                    time, start = calendar.read(line)
                    stamp = line[:16] if start == 16 else "\n"
                head, _, text = line.partition(": ")
                origin = known(head[start:])
                if origin is None:
                    inner = inner_line(line, start)
                    if inner:
                        stamp = "\n"
                        time, start = calendar.read(inner)
                    origin, text = self._meet(inner or line, start, lines[len(times) - 1] if times else self.previous)
            except Exception as error:
                origin, text = self._fail(line, error)
            origin.add(text)
            times.append(time)
            origins.append(origin)
        self.previous = lines[-1] if lines else self.previous
        calendar.where = int
        return times, origins

    def _tell(self, lines: List[str], times: List[int], origins: List[Origin], position: int) -> None:
        """Fold what the lines tell, in their order."""
        correlator, folds = self.correlator, FOLDS.get
        limit = self.calendar.newest + DAY      # a stamp from a far future does not make everything else idle
        for line, time, origin in zip(lines, times, origins):
            event = origin.next_event()
            try:
                if time > correlator.now:
                    correlator.advance(time if time < limit else limit)
                fold = folds(type(event))
                if fold is not None:
                    correlator.time, correlator.position = time, position
                    fold(correlator, origin, event)
                    origin.tally[PARSED] += 1
                elif event is IGNORED:
                    origin.tally[origin.quiet] += 1
                elif event is None:
                    self._tell_repeated(origin, line, time, position)
                else:
                    raise event             # the one at which its parser failed
            except Exception as error:
                self._fail(line, error)
            position += len(line) + 1

    def _meet(self, line: str, start: int, previous: str) -> Tuple[Origin, str]:
        """Process and text of a line from a process not met before, or in a form that needs a closer look; `previous`: the line before."""
        if not line.strip("\0 "):
            return self._pass(IGNORED_LINES)
        repeated = REPEATED_LAST.match(line, start) if start >= 0 else None
        if repeated:
            return self._repeat_last(previous, one_host(repeated.group(1)), repeated.group(2))
        split = self._split(line, start)
        if split is not None:
            header, text = split
            suppressed = SUPPRESSED.match(text)
            if suppressed:                  # the pid that stands there is syslog-ng's own
                return self._repeat_last(previous, header.host, suppressed.group(2), header.program, suppressed.group(1))
            if parser_of(header.program) or not OF_POSTFIX.match(line):
                origin = self._origin(header)
                head, _, rest = line[start:].partition(": ")
                if rest == text:
                    self.origins[head] = origin     # as it stands, beside a level: the next one needs no closer look
                return origin, text
        if OF_POSTFIX.match(line):          # behind no stamp, or one that nobody knows; or of a daemon that nobody knows
            self.on_unsupported(line)
            return self._pass(UNSUPPORTED)
        return self._pass(IGNORED_LINES if line.startswith("-- ") else FOREIGN)

    @staticmethod
    def _split(line: str, start: int) -> Optional[Tuple[Header, str]]:
        """Header and text of a line whose host begins at `start`; None of a container's line, too: it is not to be remembered, for the next
        one may hold a whole line.
        """
        split = split_line(line[start:]) if start >= 0 else None
        return None if split is not None and CONTAINER_ID.fullmatch(split[0].program) else split

    def _pass(self, line_class: int) -> Tuple[Origin, str]:
        """Count a line of no program; what stands for it on the pile of `nobody` is not counted again."""
        self._tally("")[line_class] += 1
        return self.nobody, ""

    def _fail(self, line: str, error: Exception) -> Tuple[Origin, str]:
        """One bad line must never stop the reading. Want of memory is no fault of the line: all is read again where there is room."""
        if isinstance(error, MemoryError):
            raise error
        self.on_failure(line)
        return self._pass(FAILED)

    def _tell_repeated(self, origin: Origin, line: str, time: int, position: int) -> None:
        """rsyslog's `message repeated n times: [ …]` is n lines (ratelimit.c); any other unknown shape is counted, and shown."""
        found = REPEATED.match(origin.pile.last_text())
        event = origin.pile.parse(closed(found.group(2), "]")) if found else None
        if found is None or event is None:
            origin.tally[UNSUPPORTED] += 1
            self.on_unsupported(line)
        elif event is IGNORED:
            origin.tally[IGNORED_LINES] += 1
        else:
            self._repeat(origin, event, int(found.group(1)), time, position, len(line))
            origin.tally[PARSED] += 1

    def _repeat(self, origin: Origin, event: Event, times: int, time: int, position: int, length: int) -> None:
        """Fold an event so many times, each as if it stood at another byte of the line; `turn` counts how often all were used."""
        try:
            for copy in range(1, min(times, MAX_COPIES) + 1):
                self.correlator.time, self.correlator.position = time, position + copy % length
                self.correlator.turn = copy // length
                FOLDS[type(event)](self.correlator, origin, event)
        finally:
            self.correlator.turn = 0

    def _repeat_last(self, previous: str, host: str, times: str, program: str = "", beginning: str = "") -> Tuple[Origin, str]:
        """Classic syslogd's `last message repeated n times`, in rsyslog's words: the line before it, if that was of the same host; behind
        another such line, what that one repeats. So syslog-ng's, which tells the program, too, and how the line begins
        (logwriter.c:log_writer_emit_suppress_summary).
        """
        self.repeated = previous = self.repeated if says_repeated(previous) else innermost(previous)
        header, text = self._split(previous, stamp_end(previous)) or (None, "")
        if header is None or header.host != host or program not in ("", header.program) or not text.startswith(beginning):
            return self._pass(IGNORED_LINES)
        origin = self._origin(header)
        event = origin.pile.parse(text)
        if event is None or event is IGNORED:
            origin.tally[origin.quiet] += 1
            return self.nobody, ""
        return origin, "message repeated %s times: [ %s]" % (times, text)

    def _origin(self, header: Header) -> Origin:
        """What is known of the process that wrote a line."""
        origin = self.origins.get(header.prefix)
        if origin is None:
            parse = parser_of(header.program)
            tally, quiet = (self._tally(header.program), IGNORED_LINES) if parse else (self._tally(""), FOREIGN)
            origin = self.origins[header.prefix] = Origin(header, self.correlator.open_of(header.host), self._pile(parse), tally, quiet)
        return origin

    def _pile(self, parse: Optional[Callable[[str], Event]]) -> Pile:
        return self.piles.setdefault(parse, Pile(parse or parse_nothing))

    def _tally(self, program: str) -> List[int]:
        if len(self.tallies) >= MAX_PROGRAMS and program not in self.tallies:
            program = ""
        return self.tallies.setdefault(program, [0] * len(CLASSES))

    def totals(self) -> List[int]:
        """Lines by class, over all programs; their sum is the number of lines read."""
        return [sum(tally[place] for tally in self.tallies.values()) for place in range(len(CLASSES))]


# ============================================================================ stores

# -- values, as a table holds them

TIMES = frozenset(column.name for column in COLUMNS if column.type.startswith("TIMESTAMP"))
DECIMALS = frozenset(column.name for column in COLUMNS if column.type.startswith("DECIMAL"))
TEXTS = frozenset(column.name for column in COLUMNS if column.type.startswith(("VARCHAR", "TEXT")))

def time_text(time: int) -> str:
    """A time as every store keeps it: UTC, `YYYY-MM-DD hh:mm:ss.ffffff`.

    >>> time_text(epoch(2026, 11, 5, 3661) + 5)
    '2026-11-05 01:01:01.000005'
    """
    return "%s.%06d" % (second_text(time // SECOND), time % SECOND)


@functools.lru_cache(maxsize=1024)
def second_text(second: int) -> str:
    """A second, without its fraction; rows written together share many."""
    return (EPOCH + datetime.timedelta(seconds=second)).isoformat(" ", "seconds")


def text_from(value: Any) -> str:
    """A stored text as text is held here; also any value of a server, which sends it as bytes.

    >>> text_from("\\u00e4") == text_from(bytearray(b"\\xc3\\xa4")) == "\\xc3\\xa4"
    True
    """
    return value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else str(raw_text(value))


def time_from(value: Any) -> int:
    """A stored time as microseconds since the epoch.

    >>> time_from("2026-11-05 01:01:01.5") == epoch(2026, 11, 5, 3661) + 500000
    True
    """
    second, _, fraction = text_from(value).partition(".")
    return second_from(second) + microseconds(fraction)


@functools.lru_cache(maxsize=1024)
def second_from(text: str) -> int:
    """A second, told without its fraction, as microseconds since the epoch; rows asked for together share many."""
    year, month, day, hour, minute, second = map(int, re.split("[- :]", text))
    return epoch(year, month, day, hour * 3600 + minute * 60 + second)


def storable(value: Any, column: Column) -> Any:
    """A value as a driver takes it: what its column can hold, a time as text."""
    return time_text(value) if column.name in TIMES else fit(value, column.limit)


def storables(values: Sequence[Any], column: Column) -> Iterable[Any]:
    """What the rows have in a column, made storable; as a rule it is already.

    >>> hostname = ROW[0]
    >>> storables(("mx", None), hostname), list(storables(("mx", "\\xc3\\xa4"), hostname))
    (('mx', None), ['mx', 'ä'])
    """
    if are_storable(values, column):
        return values
    made = {one: storable(one, column) for one in set(values)}      # once of equal ones: rows written together have much in common
    return map(made.__getitem__, values)


def are_storable(values: Sequence[Any], column: Column) -> bool:
    """Whether these values stay as they are in a column: to look at all together is faster than at each."""
    if column.name in TIMES:
        return False
    told = list(filter(None, values))
    if column.name not in TEXTS:
        return bool(-column.limit <= min(told, default=0) and max(told, default=0) <= column.limit)
    together = "".join(told)
    return len(max(told, key=len, default="")) <= column.limit and bool(is_ascii(together)) and "\0" not in together


READERS = tuple(time_from if column.name in TIMES else float if column.name in DECIMALS else text_from if column.name in TEXTS else int
                for column in ROW)   # type: Tuple[Callable[[Any], Any], ...]


def row_from(values: Iterable[Any]) -> Row:
    """A row as the correlator knows it, from what a driver returned."""
    return cast(Row, make_row([value if value is None else read(value) for value, read in zip(values, READERS)]))


def by_name(rows: Iterable[Row]) -> Stored:
    """Rows by (server_hostname, queue_id)."""
    found: Stored = {}
    for row in rows:
        found.setdefault((row.server_hostname, row.queue_id), []).append(row)
    return found


def by_host(names: Names) -> Iterator[Tuple[str, List[str]]]:
    """(host as the table has it, some of its queue IDs): one query for each."""
    for host, group in itertools.groupby(sorted(names), operator.itemgetter(0)):
        queue_ids = [queue_id for _, queue_id in group]
        for start in range(0, len(queue_ids), BATCH_NAMES):
            yield text_of(host), queue_ids[start:start + BATCH_NAMES]


# -- what every store does

class Store:
    """Where rows go. When `write` returns they are committed; when it raises, some may be: to write them again changes nothing.

    Every call may raise StoreGone (keep the rows, try again), StoreRefused or ConfigError (tell the operator, then the
    same), and `write` RowRefused (at least one of these rows will never be taken). `bulk`: until `complete` is called much is
    written, and little read.
    """

    name = ""
    bulk = False

    def connect(self) -> None:
        """Connect anew, whatever was before, and make sure that the table is there with all its columns and its key."""
        raise NotImplementedError

    def newest(self) -> int:
        """The newest `first_seen` in the table, 0 when it is empty."""
        found = self._query("SELECT MAX(first_seen) FROM mail_relay_log")[0][0]
        return time_from(found) if found else 0

    def recall(self, names: Names) -> Stored:
        """All rows of these messages, oldest first; which of them are meant, `latest` and `born_rows` say."""
        raise NotImplementedError

    def write(self, rows: List[Row]) -> None:
        """Insert or replace rows by their key; one that is stored with a newer last_seen stays, unless it is `incomplete`."""
        raise NotImplementedError

    def rehearse(self) -> None:
        """Write no row, but in the same way as `write`: missing rights, or a server that is read-only, show now."""
        raise NotImplementedError

    def weakness(self) -> str:
        """How the store may refuse rows, or lose what it has committed, for `--check`; empty when it does not."""
        return ""

    def complete(self) -> None:
        """Make up for what was put off while much was written: the end of `bulk`."""

    def outcomes(self, since: int, until: int, hosts: Iterable[str]) -> List[Tuple[str, int, int]]:
        """(relay_status, rows, messages) of the rows of these hosts that were first seen in a period, most rows first."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the connection; nothing is left to be written."""
        raise NotImplementedError

    def _query(self, statement: str) -> List[Any]:
        """All rows that a statement gives: what may go wrong at the last one, does so here."""
        raise NotImplementedError

    def definition(self, column: Column) -> str:
        """A column as this store's table has it."""
        return "%s %s" % (column.name, column.type)

    def with_columns(self, missing: List[Column]) -> str:
        """The statement, or other remedy, that gives the table the columns that it lacks."""
        return "ALTER TABLE mail_relay_log " + ", ".join("ADD COLUMN " + self.definition(column) for column in missing)

    def without_index(self, name: str, columns: List[str]) -> str:
        """The statement, or other remedy, that rids the table of an index of these columns."""
        raise NotImplementedError

    def check_table(self, present: Iterable[str], unique: Dict[str, List[str]]) -> None:
        """Raise ConfigError when the table lacks a column, or its `unique` keys do not tell rows apart by KEY and by nothing else.

        A column that a key takes only in part, or compares without regard to case, stands there with more than its bare name.
        """
        present = set(present)
        missing = [column for column in COLUMNS if column.name not in present]
        if missing:
            raise ConfigError("%s: table mail_relay_log lacks the column%s %s: %s" % (
                self.name, "s" if len(missing) > 1 else "", ", ".join(column.name for column in missing), self.with_columns(missing)))
        for name, columns in sorted(unique.items()):        # one with an `id` in it holds nothing twice
            if "id" not in columns and not set(columns) >= set(KEY):
                raise ConfigError("%s: by its unique key %s (%s) table mail_relay_log takes different rows for one: %s" % (
                    self.name, name, ", ".join(columns), self.without_index(name, columns)))
        if set(KEY) not in map(set, unique.values()):
            raise ConfigError("%s: table mail_relay_log lacks its unique key, without which rows double: "
                              "CREATE UNIQUE INDEX message_recipient ON mail_relay_log (%s)" % (self.name, ", ".join(KEY)))


RECALL = ("SELECT " + ", ".join(ROW_COLUMNS) + " FROM mail_relay_log WHERE server_hostname = %s AND queue_id IN (%s) "
          "ORDER BY first_seen, recipient_no")
OUTCOMES = ("SELECT relay_status, COUNT(*), SUM(recipient_no = 0) FROM mail_relay_log WHERE first_seen BETWEEN %s AND %s "
            "AND server_hostname IN (%s) GROUP BY relay_status ORDER BY 2 DESC, 1")


# When a new row replaces the stored one: if that one has an older last_seen, or is `incomplete` while the new one is not; and at the same
# last_seen, for a message may become better known without a new line of its own, unless the stored one has a parent, a HELO or a login
# that the new one lacks. Else it stays, for a statement may come late: a server that hangs may carry it out when nobody waits for it
# any more. At the same last_seen nothing known becomes unknown, except what may prove to be another message's (REVOCABLE).
PREVAILS = ("(NEW.last_seen > last_seen OR relay_status = '%s' AND NEW.relay_status <> '%s' OR NEW.last_seen = last_seen "
            "AND (NEW.parent_queue_id IS NOT NULL OR parent_queue_id IS NULL) AND (NEW.helo IS NOT NULL OR helo IS NULL) "
            "AND (NEW.sasl_username IS NOT NULL OR sasl_username IS NULL))"
            % (INCOMPLETE, INCOMPLETE))
REVOCABLE = CLIENT_FACTS | {"spf_result"}
_NEWER = "WHEN " + PREVAILS + " THEN NEW.{0} ELSE {0} END"
REPLACED = "{0} = CASE " + _NEWER
FILLED_IN = "{0} = CASE WHEN NEW.{0} IS NULL AND NEW.last_seen = last_seen THEN {0} " + _NEWER


def upsert(form: str, conflict: str, new: str) -> str:
    """The statement that inserts rows or, on their key, replaces those over which they prevail. `new`: how the server spells NEW.column.

    On MySQL and MariaDB each assignment sees the values of those before it. None may change what PREVAILS is to the next one: so last_seen
    and relay_status are assigned last, in this order; the other columns in it do not change it.
    """
    updated = [name for name in ROW_COLUMNS if name not in KEY and name not in ("last_seen", "relay_status")]
    assignments = ", ".join((REPLACED if name in REVOCABLE else FILLED_IN).format(name) for name in updated + ["last_seen", "relay_status"])
    return "INSERT INTO mail_relay_log (%s) VALUES %s %s %s" % (
        ", ".join(ROW_COLUMNS), form, conflict, re.sub(r"NEW\.(\w+)", new, assignments))


# -- this machine and its files

READ_ONLY_REMEDY = "remount it read-write, or let the service write there (ReadWritePaths=)"


def user_name() -> str:
    """The user that this process runs as, for a remedy; in a container often only a number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def is_mounted_read_only(folder: str) -> bool:
    """Whether its rights do not count, for nothing on its file system can be written: systemd does that to a service (ProtectSystem=)."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def identity_of(path: str) -> Optional[Tuple[int, int]]:
    """Which file a path leads to, (device, inode); None when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# -- SQLite

INDEXES = (                          # (name, columns): one for every way that the README's questions look for rows
    ("first_seen", "first_seen, relay_status"),
    ("outcome", "relay_status, first_seen"),
    ("orig_to", "orig_to, relay_status"),
    ("upstream_to", "upstream_to"),
    ("sender", "original_envelope_from, first_seen"),
    ("client", "client_ip, first_seen"),
    ("message_id", "message_id"),
    ("queue_id", "queue_id"),
    ("parent", "parent_queue_id"),
    ("dmarc", "dmarc_result, client_ip, dmarc_domain"),
    ("spf", "spf_result, first_seen"),
    ("spam", "spam_status, first_seen"),
)
SPARSE = frozenset(("upstream_to", "message_id", "parent_queue_id", "dmarc_result", "spf_result", "spam_status"))     # NULL in many rows
MADE_ANEW = "move the file away, and --import the logs that are left into a new one"
SQLITE_WORDED = (
    ("not a database", ConfigError, "check [database] database, it is somebody else's file"),
    ("malformed", ConfigError, MADE_ANEW),
    ("unable to open", ConfigError, "check [database] database, the file and the rights on its directory"),
    ("is locked", StoreGone, "end the program that holds it open for writing"),
    ("disk is full", StoreGone, "make room on its disk, or set [database] database"),
    ("disk I/O error", StoreGone, "check its disk, and whether there is room on it"),      # for the -shm file, when it is opened
)   # type: Tuple[Tuple[str, Type[TrackerError], str], ...]
SQLITE_TYPES = {"VARCHAR": "TEXT", "TEXT": "TEXT", "TIMESTAMP": "TEXT", "DECIMAL": "REAL"}
SQLITE_UPSERT = upsert("(%s)" % ", ".join("?" * len(ROW_COLUMNS)), "ON CONFLICT (%s) DO UPDATE SET" % ", ".join(KEY), r"excluded.\1")
LOCK_WAIT = 0.5                     # seconds for which SQLite itself waits for a lock: no signal is heard meanwhile
PULSE = 100000                      # steps of SQLite's after which it lets Python hear a signal: an index may take minutes to make
NULLS: Dict[None, None] = {}
sqlite3.register_adapter(type(None), NULLS.get)      # NULL as it is: the driver would look for an adapter anew for each, in vain


def sqlite_definition(column: Column) -> str:
    """A column as SQLite has it."""
    kind = SQLITE_TYPES.get(re.split("[^A-Z]", column.type)[0], "INTEGER")
    return "%s %s%s" % (column.name, kind, " NOT NULL" if column.name in KEY or column.name in TIMES else "")


def sqlite_table() -> str:
    """The statement that makes the table in an SQLite file."""
    lines = ["id INTEGER PRIMARY KEY AUTOINCREMENT"]
    lines += map(sqlite_definition, COLUMNS)
    lines.append("UNIQUE (%s)" % ", ".join(KEY))
    return "CREATE TABLE IF NOT EXISTS mail_relay_log (\n  %s\n)" % ",\n  ".join(lines)


class SqliteStore(Store):
    """The embedded store: one file, nothing to install. An empty path is a temporary one.

    `identity`: which file, and which log of it, was opened; once one is gone, or another in its place, a write raises StoreGone.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder = os.path.dirname(path) or "."
        self.name = "SQLite file %s" % path
        self.connection: Any = None
        self.identity: List[Optional[Tuple[int, int]]] = []

    def connect(self) -> None:
        self.close()
        if sqlite3.sqlite_version_info < (3, 24):
            raise ConfigError("SQLite %s of this Python is too old, 3.24 is needed: use a newer Python, or set [database] engine = mysql"
                              % sqlite3.sqlite_version)
        try:
            path = self.path if sys.version_info >= (3, 7) else os.fsencode(self.path).decode("utf-8", "replace")   # it is UTF-8 to 3.6
            self.connection = sqlite3.connect(path, timeout=LOCK_WAIT, isolation_level=None)
            self.connection.set_progress_handler(lambda: None, PULSE)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.execute(sqlite_table())
            self.identity = self._identity()
            self.check_table((column[1] for column in self.connection.execute("PRAGMA table_info(mail_relay_log)")), self._unique())
            if not self.bulk or self.newest():
                self.complete()
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    def definition(self, column: Column) -> str:
        return sqlite_definition(column)

    def with_columns(self, missing: List[Column]) -> str:
        if any(" NOT NULL" in self.definition(column) for column in missing):
            return MADE_ANEW
        return "; ".join("ALTER TABLE mail_relay_log ADD COLUMN " + self.definition(column) for column in missing)     # one each, there

    def without_index(self, name: str, columns: List[str]) -> str:
        if name.startswith("sqlite_autoindex") or " " in "".join(columns):      # it comes of the table's own definition
            return MADE_ANEW
        return 'DROP INDEX "%s"' % name.replace('"', '""')

    def _unique(self) -> Dict[str, List[str]]:
        found: Dict[str, List[str]] = {}
        for index in self.connection.execute("PRAGMA index_list(mail_relay_log)").fetchall():
            if index[2]:
                columns = self.connection.execute("PRAGMA index_xinfo('%s')" % index[1].replace("'", "''"))
                found[index[1]] = ["%s%s" % (column[2], "" if column[4] == "BINARY" else " COLLATE " + column[4])
                                   for column in columns if column[5]]
        return found

    def complete(self) -> None:
        """Make the indexes that are not there yet. To make them of a full table costs a tenth of filling them row by row.

        One that begins with a SPARSE column is without the rows that lack it: no `=`, `IN` or `<` finds these.
        """
        for name, columns in INDEXES:
            first = columns.partition(",")[0]
            self._query("CREATE INDEX IF NOT EXISTS mail_relay_log_%s ON mail_relay_log (%s)%s" % (
                name, columns, " WHERE %s IS NOT NULL" % first if first in SPARSE else ""))

    def recall(self, names: Names) -> Stored:
        return by_name(row_from(values) for host, queue_ids in by_host(names)
                       for values in self._query(RECALL % ("?", ", ".join("?" * len(queue_ids))), [host] + queue_ids))

    def write(self, rows: List[Row]) -> None:
        if self._identity() != self.identity:
            self._query("PRAGMA wal_checkpoint")    # to close brings in what the log holds, too, but not while others read
            raise StoreGone("%s: it or its -wal was removed, or another put in its place" % self.name)
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.executemany(SQLITE_UPSERT, zip(*map(storables, zip(*rows), ROW)))
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._meaning(error) from error

    def rehearse(self) -> None:
        self._query("BEGIN IMMEDIATE")
        try:
            self._query("DELETE FROM mail_relay_log WHERE 1 = 0")     # of a file that is only readable the beginning is no trouble yet
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        """End a transaction, unless SQLite itself has, as it does when a disk is full."""
        if self.connection.in_transaction:
            self._query("ROLLBACK")

    def outcomes(self, since: int, until: int, hosts: Iterable[str]) -> List[Tuple[str, int, int]]:
        hosts = list(map(text_of, hosts))
        marks = ", ".join("?" * len(hosts))
        return self._query(OUTCOMES % ("?", "?", marks), [time_text(since), time_text(until)] + hosts)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def all_rows(self) -> Iterator[Row]:
        """Every row, in the order in which it was first written."""
        try:
            yield from map(row_from, self.connection.execute("SELECT %s FROM mail_relay_log ORDER BY id" % ", ".join(ROW_COLUMNS)))
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    def _query(self, statement: str, values: Iterable[Any] = ()) -> List[Any]:
        try:
            return cast(List[Any], self.connection.execute(statement, list(values)).fetchall())
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    def _meaning(self, error: sqlite3.Error) -> BaseException:
        text = str(error)
        if text == "interrupted":           # what a signal's handler raised was lost on its way through SQLite
            return Interrupted()
        if isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError)):
            return RowRefused(text)
        if "readonly" in text or "unable to open" in text and self._is_denied():
            rights = "make it and its directory writable for user %s" % user_name()
            remedy = READ_ONLY_REMEDY if is_mounted_read_only(self.folder) else rights
            return StoreRefused("%s: %s: %s, or set [database] database" % (self.name, text, remedy))
        kind, remedy = next(((kind, remedy) for words, kind, remedy in SQLITE_WORDED if words in text), (StoreGone, ""))
        return kind("%s: %s: %s" % (self.name, text, remedy) if remedy else "%s: %s" % (self.name, text))

    def _identity(self) -> List[Optional[Tuple[int, int]]]:
        """Which files the rows go to: what was committed last stands in the second alone, and a crash would lose it if that has no name.
        A temporary one has none that could be lost.
        """
        path = self.path and os.path.realpath(self.path)        # SQLite follows links before it puts the second beside the first
        return [identity_of(path + ending) for ending in ("", "-wal")] if path else []

    def _is_denied(self) -> bool:
        """Whether there is a file, or a folder for one, that this user may not open."""
        denied = [path for path, needed in ((self.path, os.R_OK | os.W_OK), (self.folder, os.W_OK | os.X_OK))
                  if os.path.exists(path) and not os.access(path, needed)]
        return bool(denied) and not os.path.isdir(self.path)


# -- MySQL and MariaDB

MIN_PACKET = 1 << 16                # the least max_allowed_packet: room for a row of lines that Postfix cuts at 2000 bytes, in hexadecimal
WRITABLE = frozenset(("0", "OFF"))              # values of @@read_only; any other, of several from MariaDB 12 on, refuses writes
TLS_REMEDY = "check [database] ssl_ca, ssl_cert and ssl_key, and whether the server offers TLS"
HOST_REMEDY = "check [database] host"
PLUGIN_REMEDY = "give this account one that server and driver have: ALTER USER ... IDENTIFIED BY 'its password'"
# What the server's error numbers ask for, and of whom (measured: class and SQLSTATE tell too little).
MEANINGS = {number: (kind, remedy) for kind, remedy, numbers in (
    (ConfigError, "create the database and the table with schema.sql", (1049, 1054, 1064, 1136, 1146, 1273)),
    (ConfigError, "check [database] database", (1102, 1109)),
    (ConfigError, "give this column a default", (1364,)),
    (StoreRefused, "check user, password and grants (INSERT, SELECT, UPDATE) of section [database]",
     (1044, 1130, 1142, 1143, 1227, 1698, 1820, 1862, 3118, 4151)),
    (StoreRefused, "check user and password of section [database], and TLS if the account has REQUIRE SSL", (1045,)),
    (StoreRefused, PLUGIN_REMEDY, (1251, 1524, 2059)),
    (StoreGone, "check [database] host, port and unix_socket, and whether the server runs", (2002, 2003, 2005)),
    (StoreGone, TLS_REMEDY, (2026,)),
    (StoreGone, "let the server take writes, or name another one in [database] host", (1290, 1792, 1836)),
    (StoreGone, "raise the server's max_connections, or end some", (1040,)),
    (StoreGone, "raise the limits of this account, or max_user_connections", (1203, 1226)),
    (StoreGone, "make room on the server's disk", (1021, 1114)),
    (StoreGone, "end the transaction that holds the rows: SHOW PROCESSLIST", (1205,)),
    (StoreGone, "raise the server's max_statement_time or max_execution_time", (1969, 3024)),
) for number in numbers}   # type: Dict[Optional[int], Tuple[Type[TrackerError], str]]
DRIVER_ERRORS = range(2000, 3000)
SILENCE = "the server does not answer: check [database] host and port, its load and the network between"
WORDED = (                          # the driver's own errors, with numbers that differ by its version, or none
    ("Invalid Certificate/Key", ConfigError, TLS_REMEDY), ("Invalid CA Certificate", ConfigError, TLS_REMEDY),
    ("CERTIFICATE", StoreGone, TLS_REMEDY), ("Unable to verify server identity", StoreGone, TLS_REMEDY),
    ("requires SSL", StoreRefused, TLS_REMEDY), ("Authentication plugin", StoreRefused, PLUGIN_REMEDY),
    ("'idna' codec", ConfigError, HOST_REMEDY),         # what stands there cannot be a name; the other words are those of Python 3.12
    ("label empty", ConfigError, HOST_REMEDY), ("label too long", ConfigError, HOST_REMEDY),
)   # type: Tuple[Tuple[str, Type[TrackerError], str], ...]
CONFLICTS = frozenset((1205, 1213))             # of two transactions: the host is sound
CUT = frozenset((-1, 2006, 2013, 2055, 4031))   # the connection is gone, by the numbers of several versions of driver and server
ROW_ERRORS = frozenset((1048, 1264, 1265, 1292, 1300, 1366, 1367, 1406, 1411, 1644, 3140, 3819, 3988, 4025))
ROW_STATES = frozenset(("22", "23", "45"))      # classes of SQLSTATE: wrong data, violated constraint, a trigger's SIGNAL
LOCK_PATIENCE = 10                  # seconds that a server may wait for a lock: it is to say so before it seems not to answer
FORGETTABLE = 3                     # seconds: what a server took within these it may lose in a crash, and a replica may lack
COPIES = 8                          # of a statement, in memory at one time: ours and the driver's
# VALUES(column) is the one form that MySQL 8, MySQL 9 and MariaDB share.
MYSQL_UPSERT = upsert("(%s)", "ON DUPLICATE KEY UPDATE", r"VALUES(\1)")


def literals(ones: List[Any]) -> List[str]:
    """The SQL literals of values that are all text or all numbers, none of them None: to make them together is faster. Text is in
    hexadecimal, so that no byte of a log line can end it.

    >>> literals(["a", "b'"]), literals([0.5, 2])
    (["_utf8mb4 X'61'", "_utf8mb4 X'6227'"], ['0.5', '2'])
    """
    if isinstance(ones[0], str):
        return ["_utf8mb4 X'" + digits + "'" for digits in map(bytes.hex, map(str.encode, ones))]
    return list(map(repr, ones))


def literal(value: Any) -> str:
    """A value as SQL, or NULL.

    >>> literal("a'b"), literal(None), literal(-0.5)
    ("_utf8mb4 X'612762'", 'NULL', '-0.5')
    """
    return "NULL" if value is None else literals([value])[0]


def rendered(rows: List[Row]) -> Iterator[Tuple[str, ...]]:
    """The literals of rows. One is made for all equal values: rows written together have many in common, and so have columns alike in
    size and type.
    """
    alike: Dict[Tuple[int, str], Dict[Any, str]] = collections.defaultdict({None: "NULL"}.copy)
    columns = []
    for values, column in zip(zip(*rows), ROW):
        known = alike[column.limit, column.type[:4]]
        fresh = list(set(values).difference(known))
        if fresh:
            known.update(zip(fresh, literals(list(storables(fresh, column)))))
        columns.append(map(known.__getitem__, values))
    return zip(*columns)


def as_shown(value: Any) -> str:
    """What the server shows of itself, which the driver gives as bytes.

    >>> as_shown(bytearray(b"timestamp(6)")), as_shown(b"0"), as_shown(None)
    ('timestamp(6)', '0', 'None')
    """
    return value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value)


SHOW_COLUMNS = "SHOW FULL COLUMNS FROM mail_relay_log"


class Shown(NamedTuple):
    """A column of the server's table, as SHOW_COLUMNS begins to tell of it."""

    field: str
    type: str
    collation: str
    null: str
    key: str
    default: str
    extra: str


def by_field(columns: Iterable[Sequence[Any]]) -> Dict[str, Shown]:
    """The columns of the table that SHOW_COLUMNS tells of, by their names."""
    return {one.field: one for one in (Shown(*map(as_shown, column[:7])) for column in columns)}


def numbers_alike(number: Shown) -> bool:
    """Whether the column `id` gives all rows one number: a copy of a table, made by CREATE TABLE … AS SELECT, does not count on.

    >>> numbers_alike(Shown("id", "bigint", "None", "NO", "PRI", "0", ""))
    True
    """
    return "auto_increment" not in number.extra and re.match("(?:None|[0-9]*)$", number.default) is not None


def fault_of(column: Column, shown: Shown) -> str:
    """What is wrong with a column of the table; nothing, if it holds what ours does."""
    if column.type.startswith("TIMESTAMP(6)") and "(6)" not in shown.type:
        return "takes moments within a second for one"
    if "ascii_bin" in column.type and not shown.collation.endswith("_bin"):
        return "takes queue IDs that differ by case for one"
    if column.name in KEY and "on update" in shown.extra.lower():
        return "gives a row that changes another key"
    return ""


def is_narrow(column: Column, shown: Shown) -> bool:
    """Whether a column of the table is too short for what is written there, or takes no NULL.

    >>> [is_narrow(Column("helo", "VARCHAR(255)", 255, "message", ""), Shown("helo", found, "None", "YES", "", "None", ""))
    ...  for found in ("varchar(64)", "varchar(300)", "text")]
    [True, False, False]
    """
    length = re.match(r"(?:var)?char\(([0-9]+)\)", shown.type)
    return length is not None and int(length.group(1)) < column.limit or shown.null == "NO" and "NOT NULL" not in column.type


def load_driver() -> Any:
    """The driver, which only this store needs; raises ConfigError when it cannot be loaded."""
    try:
        driver = importlib.import_module("mysql.connector")
    except (ImportError, SyntaxError) as error:
        raise ConfigError("mysql-connector-python cannot be loaded (%s): install it with `pip3 install -r requirements.txt`, "
                          "or set [database] engine = sqlite" % error) from error
    logging.getLogger(driver.__name__).setLevel(logging.CRITICAL)       # what it logs at every try, its errors tell, too
    return driver


class MysqlStore(Store):
    """MySQL, MariaDB, and clusters that speak their protocol. One connection, one statement per batch, committed by itself.

    After any trouble the connection is thrown away: a driver whose read timed out would hand the next statement the answer
    of the one before. The pure driver is used: it has timeouts in every version, and behaves alike everywhere.

    `host_no` counts how often a host was left for the next one: modulo their number it is the place of the one in use. `idle`: every
    statement sent was answered. `served`: this connection has carried out a write. `session`: of the last one the name of the database
    and host, when that server was started, and the number there. `recent`: the rows of the last seconds, and when they were written.
    `may_have_forgotten`: this server may lack these, for it was started anew since, or is another one.
    """

    def __init__(self, hosts: List[Tuple[str, int]], options: Dict[str, Any], tls_required: bool = False) -> None:
        self.hosts = hosts
        self.options = options
        self.tls_required = tls_required
        self.host_no = 0
        self.name = "database %s" % options.get("database", "")
        self.connection: Any = None
        self.cursor: Any = None
        self.batch_bytes = BATCH_BYTES
        self.idle = self.served = False
        self.session = ("", 0.0, 0)
        self.recent: Deque[Tuple[float, Row]] = collections.deque(maxlen=MAX_RECENT)
        self.may_have_forgotten = False
        bytes(COPIES * BATCH_BYTES)         # once glibc has freed so large a piece, it keeps what one statement frees for the next

    def connect(self) -> None:
        self.close()
        errors: List[TrackerError] = []
        for _ in range(len(self.hosts)):
            try:
                self._connect_to(*self.hosts[self.host_no % len(self.hosts)])
                self.idle = True
                return
            except TrackerError as error:
                self.close()
                self.host_no += 1
                errors.append(error)
        away = [error for error in errors if isinstance(error, StoreGone)]      # one of these may be set up as it should
        worst = max(away or errors, key=lambda error: error.exit_code)
        raise type(worst)("; ".join(map(str, errors))) from worst

    def _connect_to(self, host: str, port: int) -> None:
        address = ("[%s]:%d" if ":" in host else "%s:%d") % (host, port)        # as [database] host takes it
        self.name = "database %s on %s" % (self.options.get("database", ""), self.options.get("unix_socket") or address)
        driver = load_driver()
        options = dict(self.options, host=host, port=port)
        if options.get("unix_socket"):
            del options["host"], options["port"]
        patience = max(int(options["connection_timeout"]), 15)      # a statement may take longer than connecting
        if tuple(map(int, driver.__version__.split(".")[:2])) >= (9, 2):
            options.update(read_timeout=patience, write_timeout=patience)
        try:
            self.connection = driver.connect(**options)
            self._limit_waiting(patience)
            self.cursor = self.connection.cursor(raw=True)      # values as the server sends them: to convert each costs more than to get it
            self._greet()
        except Exception as error:
            raise self._meaning(error) from error

    def _socket(self) -> Any:
        """The socket of the pure driver; it has no other way to it."""
        return getattr(getattr(self.connection, "_socket", None), "sock", None)

    def _limit_waiting(self, seconds: int) -> None:
        """Older drivers know no read timeout: a stopped server would hold the daemon for ever."""
        if self._socket() is not None:
            self._socket().settimeout(seconds)

    def _end_former_session(self) -> None:
        """A statement of a session that was given up must not come late, behind those of the new one.

        Its number means that session only on the same server, and only until that is started anew. A server that was started anew, or
        another one, may have forgotten what was written last.
        """
        self.cursor.execute("SHOW GLOBAL STATUS LIKE 'Uptime'")
        started = clock.monotonic() - int(self.cursor.fetchone()[1])
        former, self.session = self.session, (self.name, started, int(self.connection.connection_id))
        if former[0] != self.name or abs(former[1] - started) >= 2:
            self.may_have_forgotten = True
            return
        try:
            self.cursor.execute("KILL %d" % former[2])
        except Exception as error:          # mostly it is gone already
            LOG.debug("ending session %d: %s", former[2], error)

    def _greet(self) -> None:
        """Set the session up, and make sure that this server will take what is written, and has the table."""
        self.cursor.execute("SET SESSION time_zone = '+00:00', SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', "
                            "SESSION sql_big_selects = 1, "     # whatever max_join_size is
                            "SESSION sql_select_limit = 18446744073709551615")      # which holds for SHOW, too
        self._end_former_session()
        self.cursor.execute("SHOW VARIABLES LIKE 'wsrep_sync_wait'")
        if self.cursor.fetchall():          # a cluster: what another node took is to be read on this one, too
            self.cursor.execute("SET SESSION wsrep_sync_wait = 1")
        self.cursor.execute("SELECT @@max_allowed_packet, @@read_only, @@lock_wait_timeout, @@innodb_lock_wait_timeout")
        packet, read_only, *waits = map(as_shown, self.cursor.fetchone())
        if len(self.hosts) == 1:            # of several, one that does not answer is left
            self.cursor.execute("SET SESSION lock_wait_timeout = %d, SESSION innodb_lock_wait_timeout = %d"
                                % tuple(min(int(wait), LOCK_PATIENCE) for wait in waits))
        self._check_server(int(packet), read_only)
        self.batch_bytes = min(BATCH_BYTES, int(packet) - 4096)
        self._look_at_table()

    def _check_server(self, packet: int, read_only: str) -> None:
        """Raise ConfigError or StoreGone when this server would not take rows, or only in the clear where TLS is asked for."""
        if packet < MIN_PACKET:
            raise ConfigError("%s: the server takes no statement above max_allowed_packet = %s bytes, too little for a row: "
                              "set it to 16777216, as is usual, in its configuration; %d is the least" % (self.name, packet, MIN_PACKET))
        if len(self.hosts) > 1 and read_only not in WRITABLE:
            raise StoreGone("%s: the server is read-only" % self.name)
        if self.tls_required:
            self.cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            if not (self.cursor.fetchone() or ("", ""))[1]:
                raise ConfigError("%s: the connection is not encrypted: set up TLS on the server, or unset [database] ssl_verify"
                                  % self.name)

    def _look_at_table(self) -> None:
        """Find out whether the table is there, has all columns, and tells apart what is to be."""
        self.cursor.execute(SHOW_COLUMNS)
        found = by_field(self.cursor.fetchall())
        self.cursor.execute("SHOW INDEX FROM mail_relay_log WHERE Non_unique = 0")
        unique: Dict[str, List[str]] = {}
        for index in self.cursor.fetchall():
            name, _, part, _, _, size = map(as_shown, index[2:8])
            unique.setdefault(name, []).append(part if index[7] is None else "%s(%s)" % (part, size))
        self.check_table(found, unique)
        if "id" in found and numbers_alike(found["id"]):
            raise ConfigError("%s: table mail_relay_log does not number its rows: ALTER TABLE mail_relay_log "
                              "MODIFY id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT" % self.name)
        faults: Dict[str, List[Column]] = {}
        for column in COLUMNS:
            faults.setdefault(fault_of(column, found[column.name]), []).append(column)
        for fault in filter(None, faults):
            raise ConfigError("%s: table mail_relay_log %s: %s" % (self.name, fault, self.with_defined(faults[fault])))

    def with_defined(self, columns: List[Column]) -> str:
        """The statement that makes columns of the table what they are to be."""
        return "ALTER TABLE mail_relay_log " + ", ".join("MODIFY " + self.definition(column) for column in columns)

    def without_index(self, name: str, columns: List[str]) -> str:
        return "ALTER TABLE mail_relay_log DROP INDEX `%s`" % name.replace("`", "``")

    def recall(self, names: Names) -> Stored:
        self._remind()
        rows: List[Row] = []
        for host, queue_ids in by_host(names):
            listed = ", ".join("_ascii X'%s'" % one.encode("ascii", "replace").hex() for one in queue_ids)
            rows += map(row_from, self._query(RECALL % (literal(host), listed)))
        return by_name(rows)

    def write(self, rows: List[Row]) -> None:
        self._remind()
        self._insert(rows)
        now = clock.monotonic()
        while self.recent and now - self.recent[0][0] > FORGETTABLE:
            self.recent.popleft()
        self.recent.extend((now, row) for row in rows)

    def _remind(self) -> None:
        """Write once more what was written last, if this server may have forgotten it: one that is set to flush once a second
        (innodb_flush_log_at_trx_commit 0 or 2) does when it crashes, and a replica that takes its place may not have had it yet.
        """
        if self.may_have_forgotten:
            try:
                self._insert([row for _, row in self.recent])
            except RowRefused as error:     # it was taken before: the table is another now
                LOG.warning("%s; what was written last is not written again", error)
            self.may_have_forgotten = False

    def _insert(self, rows: List[Row]) -> None:
        """One transaction per statement; a caller's batch may take several: each is repeatable."""
        values: List[str] = []
        size, room = 0, self.batch_bytes - len(MYSQL_UPSERT)
        for text in map(",".join, rendered(rows)):
            if len(text) > room:            # sent all the same it would cost the connection
                raise RowRefused("%s: %d bytes are more than max_allowed_packet" % (self.name, len(text)))
            if values and size + len(text) > room:
                self._execute(MYSQL_UPSERT % "),(".join(values))
                values, size = [], 0
            values.append(text)
            size += len(text) + 3
        if values:
            self._execute(MYSQL_UPSERT % "),(".join(values))

    def rehearse(self) -> None:
        self._execute("INSERT INTO mail_relay_log ({0}) SELECT {0} FROM mail_relay_log WHERE 1 = 0 "
                      "ON DUPLICATE KEY UPDATE dsn = VALUES(dsn)".format(", ".join(ROW_COLUMNS)))

    def weakness(self) -> str:
        told = []
        found = by_field(self._query(SHOW_COLUMNS))
        narrow = [column for column in COLUMNS if is_narrow(column, found[column.name])]
        if narrow:
            told.append("rows that do not fit into all columns are refused: " + self.with_defined(narrow))
        flushed = int(self._query("SELECT @@innodb_flush_log_at_trx_commit")[0][0])
        if flushed != 1:
            told.append("innodb_flush_log_at_trx_commit = %s: when the server crashes, only a tracker that runs on writes its last rows "
                        "again: set it to 1, or --import the log after a crash of both" % flushed)
        return "; ".join(told)

    def outcomes(self, since: int, until: int, hosts: Iterable[str]) -> List[Tuple[str, int, int]]:
        found = self._query(OUTCOMES % ("'%s'" % time_text(since), "'%s'" % time_text(until), ", ".join(map(literal, map(text_of, hosts)))))
        return [(text_from(status), int(rows), int(messages)) for status, rows, messages in found]

    def close(self) -> None:
        """End the connection. In the middle of a statement it is cut, for a farewell could wait for a server that is stopped; else the
        farewell is said, lest the server count and log an aborted client.
        """
        if self.connection is None:
            return
        try:
            if self.idle:
                self.connection.close()
            else:
                self._cut()
        except Exception as error:          # it is being thrown away because it does not work
            LOG.debug("closing the connection: %s", error)
        finally:
            self.connection = self.cursor = None
            self.idle = self.served = False

    def _cut(self) -> None:
        """End the connection without a word; what the kernel has not sent yet is not to be sent any more."""
        if self._socket() is not None:
            self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown()

    def _query(self, statement: str) -> List[Any]:
        self.idle = False
        try:
            self.cursor.execute(statement)
            rows = cast(List[Any], self.cursor.fetchall())
            self.idle = True
            return rows
        except Exception as error:
            raise self._blame(error) from error

    def _execute(self, statement: str) -> None:
        """Send a statement that returns no rows; a cursor would first search all of it for a second one."""
        self.idle = False
        try:
            self.connection.cmd_query(statement)
            self.idle = self.served = True
        except Exception as error:
            raise self._blame(error) from error

    def _blame(self, error: Exception) -> Exception:
        """What a failed statement means. A host that takes connections but no statements is left for the next one; a sound one is asked
        again: two transactions were in conflict, or its wait_timeout, or a firewall, has ended a connection on which little was said.
        """
        meaning, number = self._meaning(error), getattr(error, "errno", None)
        was_sound = number in CONFLICTS or self.served and number in CUT and "timed out" not in str(error)
        if isinstance(meaning, StoreGone) and not was_sound:
            self.host_no += 1
        return meaning

    def _meaning(self, error: Exception) -> Exception:
        """What an exception of the driver asks for. Unknown ones count as a lost connection: nothing is given up for them."""
        if isinstance(error, (TrackerError, MemoryError)):
            return error
        code = getattr(error, "errno", None)
        text = "%s: %s" % (self.name, " ".join(str(error).split()).rstrip("."))      # a remedy may follow
        if code in ROW_ERRORS or str(getattr(error, "sqlstate", None))[:2] in ROW_STATES:
            return RowRefused(text)
        if code == 3024 and getattr(error, "sqlstate", None) is None:       # the driver's own number for its patience at an end
            return StoreGone("%s: %s" % (text, SILENCE))
        by_number = MEANINGS.get(code, (StoreGone, ""))
        worded = ((kind, remedy) for words, kind, remedy in WORDED if words in text)
        kind, remedy = by_number if code in MEANINGS and code not in DRIVER_ERRORS else next(worded, by_number)
        return kind("%s: %s" % (text, remedy) if remedy else text)


# -- rows in batches

def write_rows(store: Store, rows: List[Row], reject: Callable[[Row, str], None], size: int = BATCH_ROWS) -> None:
    """Write rows in batches. When the store refuses one, halve until the culprit stands alone, and give that one to `reject`."""
    for start in range(0, len(rows), size):
        _write_batch(store, rows[start:start + size], reject)


def _write_batch(store: Store, rows: List[Row], reject: Callable[[Row, str], None]) -> None:
    try:
        store.write(rows)
    except RowRefused as error:
        if len(rows) == 1:
            reject(rows[0], str(error))
            return
        half = len(rows) // 2
        _write_batch(store, rows[:half], reject)
        _write_batch(store, rows[half:], reject)


def row_json(row: Row) -> str:
    """A row as one line of JSON, its columns in the table's order."""
    named = dict(zip(ROW_COLUMNS, map(storable, row, ROW)))
    return json.dumps(collections.OrderedDict((column.name, named[column.name]) for column in COLUMNS))


# ============================================================================ log follower

CHUNK = 1 << 17                     # bytes read at once: what is made of their lines still fits into a processor's cache
ROTATION_GRACE = 2.0                # seconds for which a renamed file may still be written to: rsyslog goes on until it gets its signal
WITNESS = 256                       # bytes at a file's head, and before a position, that tell it from any other
BEGINNING = 4096                    # bytes whose stamps tell when a rotated file was begun
_STAMP = r"(?:<[0-9]{1,3}>)?(?:[A-Z][a-z]{2} |[0-9]{4})"       # as far as it takes to tell a line's beginning
TORN = re.compile(r"(?<!\0)\0+(?=%s)" % _STAMP)                    # what a power cut left between two lines
SKIPPED = re.compile(r"\n|(?<!\0)\0+(?=\Z|%s)" % _STAMP)          # the end of a line that is dropped
MAGICS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))
PACKED = (".gz", ".bz2", ".xz")
_PACKED = "(?:%s)?$" % "|".join(map(re.escape, PACKED))
ROTATED = re.compile(r"[._-][0-9][0-9T:._-]*" + _PACKED)            # what stands behind the log's name
_DATE = r"(?:[._-]?[0-9]{4}[._-]?[0-9]{2}[._-]?[0-9]{2}|[._-][0-9]{2}[._-][0-9]{2}[._-][0-9]{4})[0-9T:._-]*"
# The same of mail.log, behind `mail`: a number or a date may stand before the .log, too.
ROTATED_LOG = re.compile(r"(?:\.[0-9]+|%s)?\.log(?:[._-][0-9][0-9T:._-]*)?%s" % (_DATE, _PACKED))
PACKED_OTHERWISE = (".zst", ".lz4", ".lzo", ".lz", ".lzma", ".Z", ".zip", ".7z", ".br")    # not read, but told of
NUMBERED = re.compile(r"\.(0|[1-9][0-9]{0,3})" + _PACKED)
MACHINE_REMEDIES = {number: remedy for remedy, numbers in (     # what helps when it is not the file that is wrong
    ("raise the limit of open files (LimitNOFILE=, `ulimit -n`)", (errno.EMFILE, errno.ENFILE)),
    ("check its disk, or the server where it is", (errno.EIO, errno.ESTALE)),
) for number in numbers}
BAD_FILE = (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)     # what reading may raise, packed or not
# What somebody can mend, or what passes by itself.
MENDABLE = frozenset((errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT,
                      errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET))
LOOKS = 3                           # at the rotated files, should they be renamed while they are looked at
MAX_QUEUE = 100                     # rotated files that are held open, to be read in turn; the rest is looked for when they are read


# -- one file

class Batch(NamedTuple):
    """Complete lines of one file, one character per byte, and where they stand: `position` counts all bytes of all files read."""

    lines: List[str]
    position: int
    file_start: int


class Place(NamedTuple):
    """A position that outlives the process: an offset, and what tells its file from every other.

    `head` and `tail` are (length, SHA-256) of the file's first bytes and of those before the offset; None in a state file
    written by hand. `mtime`: when the file had last been written to, in microseconds. `repeated`: Calendar.is_repeated.
    """

    position: int
    inode: Optional[int] = None
    device: Optional[int] = None
    head: Optional[Tuple[int, str]] = None
    tail: Optional[Tuple[int, str]] = None
    mtime: int = 0
    repeated: bool = False


def open_log(path: str) -> IO[bytes]:
    """Open a log for reading bytes, unpacked when its first bytes say that it is packed."""
    plain = open(path, "rb", buffering=0)
    magic = plain.read(6)
    for start, opener in MAGICS:
        if magic.startswith(start):
            plain.close()
            return cast(IO[bytes], opener(path, "rb"))
    plain.seek(0)
    return plain


def witness(data: bytes) -> Tuple[int, str]:
    """What is kept of some bytes to know them again."""
    return len(data), hashlib.sha256(data).hexdigest()


def is_ordinary(data: bytes) -> bool:
    """Whether no line is longer than MAX_LINE, holds NUL bytes, or ends as lines do on Windows.

    >>> [is_ordinary(data) for data in (b"a\\nb", b"a\\0b", b"a\\r\\nb", b"a" * (MAX_LINE + 1))]
    [True, False, False, False]
    """
    if b"\0" in data or b"\r" in data and b"\r\n" in data:       # one byte is looked for far sooner than two
        return False
    place = 0
    while len(data) - place > MAX_LINE:     # from a line's beginning to the last that is within reach
        place = data.rfind(b"\n", place, place + MAX_LINE + 1) + 1
        if not place:
            return False
    return True


def torn(line: str) -> List[Tuple[int, str]]:
    """The lines in what stands before a newline, mostly one, each with its offset. NUL bytes at the head are those of a truncation. Where
    they stand before what begins like a line, a power cut left them in place of another line's end and its newline.

    >>> torn("\\0\\0half a l\\0\\0\\0Nov 29 08:00:01 mx x"), torn("a\\0b")
    ([(2, 'half a l'), (13, 'Nov 29 08:00:01 mx x')], [(0, 'a\\x00b')])
    """
    start, pieces = len(line) - len(line.lstrip("\0")), []
    for found in TORN.finditer(line, start):
        pieces.append((start, line[start:found.start()]))
        start = found.end()
    return pieces + [(start, line[start:])]


class LogFile:
    """One log file, open: identity from the descriptor, never from the path, which may mean another file by now.

    `start` is the position of its first byte in all that was read; `offset` is where in the file the lines not yet handed out begin; `rest`
    is the beginning of a line whose end is not there yet; `head` and `tail` are the file's first bytes and the last ones read. `packed`: it
    is only read forward, as a pipe is, too. `skipping`: what comes up to the next newline is dropped. `at_end`: the last read gave nothing.
    `touched`: its mtime when it was last read. `failing`: it could not be read when that was last tried; `damaged`: nor will it ever be;
    `said`: that was logged.
    """

    def __init__(self, path: str, start: int, opener: Callable[[str], IO[bytes]] = open_log) -> None:
        self.path = path
        self.start = start
        self.handle = opener(path)
        self.packed = not isinstance(self.handle, io.FileIO)
        self.offset = 0
        self.rest = self.tail = b""
        self.skipping = self.at_end = self.failing = self.damaged = self.said = False
        status = os.fstat(self.handle.fileno())
        self.device, self.inode = status.st_dev, status.st_ino
        self.head = b"" if self.packed else self.peek(0, WITNESS)
        self.touched = self.mtime()

    @property
    def identity(self) -> Tuple[int, int]:
        """Which file it is, whatever its name."""
        return self.device, self.inode

    @property
    def reached(self) -> int:
        """The offset behind all that was read, a line that is not whole yet included."""
        return self.offset + len(self.rest)

    def size(self) -> int:
        """Bytes in the file now; of a packed one, those read so far."""
        return self.offset if self.packed else os.fstat(self.handle.fileno()).st_size

    def is_empty(self) -> bool:
        """Whether nothing was in it when it was opened, or read; its handle, which may be stale by now, is not asked."""
        return not self.packed and not self.head

    def length(self) -> int:
        """Bytes in the file now; a packed one is read through for that, a damaged one up to the damage."""
        if not self.packed:
            return self.size()
        here, length = self.handle.tell(), 0
        self.handle.seek(0)
        try:
            for data in iter(lambda: cast(io.BufferedReader, self.handle).read1(CHUNK), b""):
                length += len(data)
        except BAD_FILE as error:
            LOG.debug("%s is damaged at byte %d: %s", self.path, length, error)
        self.handle.seek(here)
        return length

    def mtime(self) -> int:
        """When it was last written to, in microseconds."""
        return os.fstat(self.handle.fileno()).st_mtime_ns // 1000

    def seek(self, offset: int) -> None:
        """Go on reading at an offset; if that is in the middle of a line, behind that line."""
        self.head = self.peek(0, WITNESS)
        self.handle.seek(max(offset - WITNESS, 0))
        before = self._read_up_to(min(offset, WITNESS))
        self.handle.seek(offset)
        self.offset, self.rest, self.tail = offset, b"", before
        self.skipping = offset > 0 and not before.endswith((b"\n", b"\0"))

    def peek(self, offset: int, length: int) -> bytes:
        """Bytes somewhere in the file; the reading goes on where it was."""
        here = self.handle.tell()
        self.handle.seek(offset)
        data = self._read_up_to(length)
        self.handle.seek(here)
        return data

    def opening(self, head: bytes) -> bytes:
        """As many bytes as `head` has, from the first one on that is no NUL byte: behind a copytruncate a writer that does not append
        leaves a hole of these before its next line.
        """
        if head[:1] != b"\0":
            return head
        here, data = self.handle.tell(), b"\0"
        self.handle.seek(0)
        while data and not data.strip(b"\0"):
            data = self._read_up_to(CHUNK)
        data = data.lstrip(b"\0")[:len(head)]
        data += self._read_up_to(len(head) - len(data))
        self.handle.seek(here)
        return data

    def _read_up_to(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.handle.read(length - len(data))
            if not more:
                break
            data += more
        return data

    def before(self, offset: int, length: int) -> bytes:
        """The last bytes before an offset, `length` of them, or as many as there are."""
        start = max(offset - length, 0)
        return self.peek(start, offset - start)

    def line_before(self) -> str:
        """The line that ends where the reading stands, or, if that tells a repetition, what it repeats; empty at the file's beginning."""
        data = self.before(self.offset, MAX_LINE)
        lines = data[:-1].decode("latin-1").split("\n") if data.endswith((b"\n", b"\0")) else []
        return last_said([torn(line.rstrip("\0"))[-1][1].rstrip("\r") for line in lines])

    def place(self, offset: int) -> Place:
        """This file and this offset, to be found again."""
        head, tail = self.peek(0, WITNESS), self.before(offset, WITNESS)
        return Place(offset, self.inode, self.device, witness(head), witness(tail), self.mtime())

    def end(self) -> Place:
        """Where the reading has come to, by what was read: the file itself may hold something else by now."""
        return Place(self.reached, self.inode, self.device, witness(self.head), witness(self.tail))

    def fits(self, place: Place) -> bool:
        """Whether this is the file that a place speaks of: by its content; by inode when there is too little of that to tell."""
        if not self.packed and self.size() < place.position:
            return False
        same = self.has_inode_of(place)
        if place.head is None or place.tail is None:
            return same or place.inode is None
        if place.head[0] + place.tail[0] < WITNESS // 8 and not (same and place.position):
            return False
        if witness(self.peek(0, place.head[0])) != place.head:
            return False                    # known before an archive is unpacked up to the position
        return witness(self.before(place.position, place.tail[0])) == place.tail

    def has_inode_of(self, place: Place) -> bool:
        """Whether a place gives this file's device and inode; whether its content is still the same is another question."""
        return not self.packed and self.inode == place.inode and place.device in (None, self.device)

    def take_over(self, other: "LogFile") -> bool:
        """Go on where another file was left, if all that was read of it stands here, too: that one was a copy made earlier, or is this very
        file behind a handle gone stale. False if not: then this one is to be read from its beginning.
        """
        try:
            if not self.fits(other.end()):
                return False
            self.seek(other.offset)
        except BAD_FILE:
            self.handle.seek(0)             # what ails it is told when it is read
            return False
        self.start = other.start
        return True

    def renew(self, handle: IO[bytes]) -> None:
        """Read on through another handle of this very file; should it have been truncated meanwhile, that is seen as ever."""
        self.close()
        self.handle = handle
        self.handle.seek(self.reached)

    def last_write(self) -> int:
        """When it was last written to, as far as it can still be told, in microseconds."""
        try:
            return self.mtime()
        except OSError:
            return self.touched

    @property
    def is_ailing(self) -> bool:
        """Whether it could not be read when that was last tried, and that may pass."""
        return self.failing and not self.damaged

    def has_grown(self) -> bool:
        """Whether more was written than was read, or that cannot be told: the next read will tell."""
        try:
            return not self.failing and self.size() > self.reached
        except OSError:
            return True

    def is_truncated(self) -> bool:
        """Whether what was read is no longer there: the file is shorter now, or has even grown again with something else."""
        if self.packed:
            return False
        if not self.reached:
            return self.peek(0, len(self.head)) != self.head
        return self.size() < self.reached or self.before(self.reached, len(self.tail)) != self.tail

    def lines(self) -> List[Batch]:
        """The next complete lines; none, and `at_end`, when all is read for now."""
        return self.take(self.fetch())

    def fetch(self) -> bytes:
        """The next bytes. Before they are taken, `is_truncated` tells whether they still follow what was read. A damaged archive gives all
        that stands before the damage, for it is read piece by piece, and then no more.
        """
        if not self.packed:
            return self.handle.read(CHUNK)
        return b"" if self.failing else cast(io.BufferedReader, self.handle).read1(CHUNK)

    def take(self, data: bytes) -> List[Batch]:
        """The lines that are complete with these bytes."""
        self.at_end = not data
        if not data:
            return []
        if len(self.head) < WITNESS and len(self.head) < self.reached + len(data):
            self.head = (self.head[:self.reached] + data)[:WITNESS]
        self.tail, self.touched = (self.tail + data[-WITNESS:])[-WITNESS:], self.mtime()
        return self._split(self.rest + data)

    def last_line(self) -> List[Batch]:
        """The unterminated last line of a file to which nobody writes any more."""
        if not self.rest:
            return []
        batches = self._batches([self.rest.decode("latin-1").rstrip("\0")])
        self.offset, self.rest = self.reached, b""
        return batches

    def _split(self, data: bytes) -> List[Batch]:
        """Cut data into lines, each at its place; what comes behind the last newline waits."""
        if self.skipping:
            end = SKIPPED.search(data.decode("latin-1"))
            self.offset += end.end() if end else len(data)
            self.skipping, data = not end, data[end.end():] if end else b""
        lines = data.decode("latin-1").split("\n")
        self.rest = data[len(data) - len(lines.pop()):]
        batches: List[Batch] = []
        if lines:
            batches += [Batch(lines, self.start + self.offset, self.start)] if is_ordinary(data) else self._batches(lines)
        self.offset += len(data) - len(self.rest)
        if len(self.rest) > MAX_LINE or self.rest[:1] == b"\0":
            batches += self._cut_rest()
        return batches

    def _batches(self, lines: List[str]) -> List[Batch]:
        """Each line by itself, from the offset on."""
        batches, position = [], self.start + self.offset
        for line in lines:
            batches += [self._batch(piece, position + place) for place, piece in torn(line)]
            position += len(line) + 1
        return batches

    def _batch(self, line: str, position: int) -> Batch:
        return Batch([line[:MAX_LINE].rstrip("\r")], position, self.start)

    def _cut_rest(self) -> List[Batch]:
        """Keep memory bounded: of a line without end the first part counts; NUL bytes are no part of it."""
        *whole, (place, line) = torn(self.rest.decode("latin-1"))
        batches = [self._batch(piece, self.start + self.offset + at) for at, piece in whole]
        self.offset, self.rest = self.offset + place, self.rest[place:]
        if len(self.rest) > MAX_LINE:
            told = line.rstrip("\0")
            batches.append(self._batch(told, self.start + self.offset))
            self.offset, self.rest, self.skipping = self.reached, b"", told == line
        return batches

    def close(self) -> None:
        """Let go of the descriptor, stale or not."""
        with contextlib.suppress(OSError):
            self.handle.close()


# -- the files beside the log

def reason_of(error: Exception) -> str:
    """Why a file cannot be read, for a message that names it."""
    return getattr(error, "strerror", None) or str(error)


def machine_remedy(error: Exception, otherwise: str) -> str:
    """What helps when a file cannot be read: with the machine, or else with the file."""
    return MACHINE_REMEDIES.get(getattr(error, "errno", 0), otherwise)


def beside(path: str) -> Iterator[Tuple[str, str]]:
    """What lies beside a log: (path, the log's name there). If the log is a symbolic link, beside the link and beside what it leads to."""
    places = {(os.path.realpath(folder), name): folder for folder, name in map(os.path.split, (os.path.realpath(path), path))}
    for (_, name), folder in places.items():
        for other in names_in(folder or "."):
            yield os.path.join(folder, other), name


def is_rotated(path: str, name: str) -> bool:
    """Whether a path is named as logrotate, savelog and their kin name what a log was rotated into.

    >>> is_rotated("/var/log/mail.log.2.gz", "mail.log"), is_rotated("/var/log/mail.log", "mail.log")
    (True, False)
    """
    other = os.path.basename(path)
    stem, form = (name[:-4], ROTATED_LOG) if name.endswith(".log") else (name, ROTATED)
    return other != name and other.startswith(stem) and form.match(other, len(stem)) is not None


def siblings(path: str) -> List[str]:
    """The rotated files of a log, oldest mtime first: `.1`, `.0`, `-20261122`, `.2.gz`…"""
    found = rotated_beside(path)
    return sorted(found, key=lambda full: (found[full].st_mtime_ns, -rotations(full), full))


def rotated_beside(path: str) -> Dict[str, os.stat_result]:
    """The rotated files of a log, and what the system tells of them. One that is just being packed counts once, as it was."""
    found: Dict[str, os.stat_result] = {}
    for full, name in beside(path):
        if is_rotated(full, name):
            try:
                status = os.stat(full)
            except OSError:
                continue                    # gone in this moment: compressed, or deleted
            if stat.S_ISREG(status.st_mode):
                found[full] = status
    return {full: status for full, status in found.items()
            if not (full.endswith(PACKED) and full.rpartition(".")[0] in found and is_being_packed(full))}


def is_being_packed(path: str) -> bool:
    """Whether a packed file is just being made of the plain one beside it, as far as can be seen: it may be an older one left over."""
    heads: List[bytes] = []
    for name in (path.rpartition(".")[0], path):
        try:
            with contextlib.closing(LogFile(name, 0)) as file:
                heads.append(file.peek(0, WITNESS))
        except BAD_FILE:
            return True                     # there is nothing in the packed one yet, or the plain one just gave way to it
    return not heads[1] or is_akin(*heads)


def packed_otherwise(path: str, since: int) -> List[str]:
    """The rotated files of a log, written to at `since` or later, whose endings tell that they cannot be read here; oldest first."""
    found = {full for full, name in beside(path) if is_rotated(os.path.splitext(full)[0], name) and not is_rotated(full, name)}
    return sorted((full for full in found if mtime_of(full) >= since), key=mtime_of)


def rotations(name: str) -> int:
    """How often a file was renamed since it was the live one, as its number says; 0 when its name has another form.

    >>> rotations("mail.log.2.gz"), rotations("mail.log-20261122")
    (2, 0)
    """
    found = NUMBERED.search(name)
    return int(found.group(1)) if found else 0


def are_numbered(names: Sequence[str], log: str) -> bool:
    """Whether the rotated files of a log all have a number, each its own: then that tells their order. Numbers, unlike dates, begin with
    0 or 1, or with 2 while a rotation makes room.

    >>> [are_numbered(names.split(), "mail.log") for names in (
    ...     "mail.log.2.gz mail.log.1", "mail.log.1 mail.log.1.gz", "mail.log.1 mail.log-20261122", "mail.log.1130 mail.log.1201")]
    [True, False, False, False]
    """
    found = [NUMBERED.search(name) for name in names]
    stems = {name[:number.start()] if number else "" for name, number in zip(names, found)}
    numbers = {rotations(name) for name in names}
    return (len(stems) == 1 and os.path.basename(stems.pop()) in map(os.path.basename, (log, os.path.realpath(log)))
            and len(numbers) == len(names) and min(numbers) <= 2)


def identities(path: str) -> Dict[str, Tuple[int, int]]:
    """(device, inode) of the rotated files of a log, by name."""
    return {full: (status.st_dev, status.st_ino) for full, status in rotated_beside(path).items()}


def names_in(folder: str) -> List[str]:
    """What a folder holds."""
    try:
        return os.listdir(folder)
    except OSError as error:
        raise LogError("log folder %s: %s: check [logging] log_file; user %s must be able to read its folder"
                       % (folder, error.strerror, user_name())) from error


def mtime_of(path: str) -> int:
    """When a file was last written to, in microseconds; 0 when that cannot be told."""
    try:
        return os.stat(path).st_mtime_ns // 1000
    except OSError:
        return 0


Failures = List[Tuple[str, Exception]]      # paths of files that could not be read, and why


class Rotated(NamedTuple):
    """A rotated file as it was looked at: what tells it from every other, its first bytes, and the first that are no NUL bytes."""

    path: str
    identity: Tuple[int, int]
    mtime: int
    head: bytes
    opening: bytes


def is_akin(head: bytes, other: bytes) -> bool:
    """Whether two files begin alike, as far as both have content: one may be a copy of the other, made when that was shorter.

    >>> is_akin(b"one\\ntwo", b"one\\n"), is_akin(b"one", b"two"), is_akin(b"one", b"")
    (True, False, False)
    """
    common = min(len(head), len(other), WITNESS)
    return common > 0 and head[:common] == other[:common]


def is_same_file(file: Rotated, known: LogFile) -> bool:
    """Whether a file that was looked at is a known one; not if it was truncated since, nor if nothing was read and its handle is stale."""
    return file.identity == known.identity and (is_akin(file.head, known.head) if known.head else not known.is_ailing)


def begun_at(file: Rotated, present: int) -> int:
    """When a file was begun, by the middle one of its first stamps: there may be odd ones among them, of a host whose clock is wrong, or of
    a line that was held back on its way. A file without stamps counts as begun when it was last written to.
    """
    times = sorted(times_in(file.opening.decode("latin-1").split("\n"), present))
    return times[len(times) // 2] if times else file.mtime


class Logs:
    """A log and the files that it was rotated into: which of these a place speaks of, their order, and which hold what was not read yet."""

    def __init__(self, path: str, opener: Callable[[str], IO[bytes]]) -> None:
        self.path = path
        self.opener = opener

    def live(self) -> Optional[LogFile]:
        """The live log, open. It may be missing for a moment."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise OSError(errno.ESPIPE, "is not a regular file")
            return LogFile(self.path, 0, self.opener)
        except FileNotFoundError:
            return None
        except BAD_FILE as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> LogError:
        """What it means that the log itself cannot be read."""
        remedy = machine_remedy(error, "check [logging] log_file and the rights of user %s (group adm on Debian)" % user_name())
        return LogError("log file %s: %s: %s" % (self.path, reason_of(error), remedy))

    def rotated(self, name: str) -> LogFile:
        """A rotated file; one that was packed in this moment has another name by now."""
        for ending in ("",) + PACKED:
            try:
                return LogFile(name + ending, 0, self.opener)
            except FileNotFoundError as error:
                gone = error
        raise gone

    def fitting(self, place: Place) -> Tuple[Optional[LogFile], Failures]:
        """The rotated file that a place speaks of, and what could not be read. When they are renamed meanwhile, it may be missed."""
        for _ in range(LOOKS):
            known = identities(self.path)
            best, failures = self._best(siblings(self.path), place)
            if best is not None or identities(self.path) == known:
                break
        return best, failures

    def _best(self, names: List[str], place: Place) -> Tuple[Optional[LogFile], Failures]:
        """Of the files with these names, oldest first, the one that a place speaks of, and what could not be read."""
        best: Optional[LogFile] = None
        failures: Failures = []
        for name in reversed(names):
            try:
                best = self._better(best, self.rotated(name), place)
            except BAD_FILE as error:
                failures.append((name, error))
            if best is not None and best.has_inode_of(place):
                break
        return best, failures

    @staticmethod
    def _better(best: Optional[LogFile], file: LogFile, place: Place) -> Optional[LogFile]:
        """Of two files the one that a place speaks of, the other is closed: the very one, else the longest, for a copy may have been
        made before the last lines were written.
        """
        try:
            is_better = file.fits(place) and (best is None or file.has_inode_of(place) or file.length() > best.length())
        except BAD_FILE:
            file.close()
            raise
        worse = best if is_better else file
        if worse is not None:
            worse.close()
        return file if is_better else best

    @staticmethod
    def _trouble(name: str, error: Exception, since: int) -> Optional[LogError]:
        """What it means that a rotated file cannot be read: trouble, when somebody can mend it and it was written to at `since` or later,
        for lines not read yet may stand in it. It is passed over when it is too old for that, or is an archive damaged for good.
        """
        if getattr(error, "errno", None) in MENDABLE and mtime_of(name) >= since:
            remedy = machine_remedy(error, "make it readable for user %s, or move it away" % user_name())
            return LogError("rotated log %s: %s: lines not read yet may stand in it: %s" % (name, reason_of(error), remedy))
        LOG.warning("cannot read rotated log %s: %s; passed over", name, error)
        return None

    def doubt(self, failures: Failures, since: Callable[[str], int]) -> None:
        """What was not found may stand in files that cannot be read; raises LogError when one was written to at `since` of it or later."""
        doubts = [self._trouble(name, error, since(name)) for name, error in failures]
        for doubt in filter(None, doubts):
            raise doubt

    def by_age(self, needed: int) -> List[Rotated]:
        """The rotated files, oldest first: by their numbers, which no clock makes doubtful, when all have some; else by their first stamps,
        and where these are equal, by number, then by mtime. Those that were written to since `needed` have to be readable.
        """
        files = self._look_at_all(needed)
        names = [file.path for file in files]
        present = 0 if are_numbered(names, self.path) else max((file.mtime for file in files), default=0)
        return sorted(files, key=lambda file: (present and begun_at(file, present), -rotations(file.path), file.mtime, file.path))

    def _look_at_all(self, needed: int) -> List[Rotated]:
        """The rotated files as they are under their names, all at once: a rotation meanwhile would have hidden one."""
        known = identities(self.path)
        for _ in range(LOOKS):
            looks = [self._look(name, needed) for name in known]
            before, known = known, identities(self.path)
            if known == before:
                return [file for file in looks if file is not None]
        raise LogError("rotated logs of %s: were renamed just now: trying again" % self.path)

    def _look(self, name: str, needed: int) -> Optional[Rotated]:
        try:
            with contextlib.closing(self.rotated(name)) as file:
                head = file.peek(0, BEGINNING)
                return Rotated(name, file.identity, file.mtime(), head, file.opening(head))
        except FileNotFoundError:           # renamed meanwhile: all are looked at once more
            return None
        except BAD_FILE as error:
            self.doubt([(name, error)], lambda _: needed)
            return None

    def open_unknown(self, files: List[Rotated], since: int, *known: Optional[LogFile]) -> List[LogFile]:
        """Of some files those written to at `since` or later that are neither known nor copies of others, open; MAX_QUEUE at most."""
        known_files = [file for file in known if file is not None]
        fresh = [file for file in files if file.mtime >= since and file.head and not any(is_same_file(file, one) for one in known_files)]
        found = (file for number, file in enumerate(fresh) if not self._is_copy(fresh, number, known_files))
        return self._open_all(list(itertools.islice(found, MAX_QUEUE)))

    def _is_copy(self, files: List[Rotated], number: int, known: List[LogFile]) -> bool:
        """Whether all of a file stands in another one, too: in a known one, in a longer one, or in one as long that comes before it."""
        kin = [one for one in known if is_akin(one.head, files[number].head)]
        rivals = [place for place, one in enumerate(files) if place != number and is_akin(one.head, files[number].head)]
        if not kin and not rivals:
            return False
        try:
            with contextlib.closing(self.rotated(files[number].path)) as copy:
                length = copy.length()
                end = copy.place(length)
            return any(one.fits(end) for one in kin) or any(
                self._holds(files[place], end, length if place < number else length + 1) for place in rivals)
        except BAD_FILE as error:
            LOG.debug("cannot compare %s: %s", files[number].path, error)
            return False                    # what is read twice changes nothing

    def _holds(self, file: Rotated, end: Place, length: int) -> bool:
        with contextlib.closing(self.rotated(file.path)) as other:
            return other.length() >= length and other.fits(end)

    def _open_all(self, found: List[Rotated]) -> List[LogFile]:
        """Files that were looked at, open; raises LogError when one of them has another name by now."""
        opened: List[LogFile] = []
        try:
            for file in found:
                opened.append(self.rotated(file.path))
                opened[-1].head = file.head[:WITNESS]      # of an archive, too
                if opened[-1].peek(0, len(file.head)) != file.head:
                    raise FileNotFoundError(errno.ENOENT, "was renamed just now")
        except BAD_FILE as error:
            for one in opened:
                one.close()
            raise LogError("rotated log %s: %s: %s" % (file.path, reason_of(error), machine_remedy(error, "trying again"))) from error
        return opened


# -- the log, whatever file it is in

class Follower:
    """Reads a log and whatever it is rotated into, every line once and in order.

    Lines written between a copytruncate's copy and its truncation are lost to every reader, and so are files deleted before they were
    read. Times are by the clock of `read`:
        files           those that a saved position may still point into; the last one is being read
        queue           those to be read next, rotated ones, then the live one: open, for their names may be given to others meanwhile
        ready, base     lines read, and not handed out yet; while no file is open, the position where the next one begins
        next_check      when to look again whether the log was rotated
        rotated_at      since when the file at hand is no longer the live one, or could not be read while others wait
        grace           seconds for which such a file is still waited for
        idle_at         when it was last seen that nothing is left unread
        blocked         there may be a next file, but it cannot be read
        warned          that rotated files lie where they are not looked for
    """

    def __init__(self, path: str, check_interval: float, opener: Callable[[str], IO[bytes]] = open_log) -> None:
        self.path = path
        self.logs = Logs(path, opener)
        self.check_interval = check_interval
        self.grace = ROTATION_GRACE
        self.files: List[LogFile] = []
        self.queue: List[LogFile] = []
        self.ready: Deque[Batch] = collections.deque()
        self.base = 0
        self.next_check = self.idle_at = 0.0
        self.rotated_at: Optional[float] = None
        self.blocked = self.warned = False
        self.rotations = self.truncations = 0

    @property
    def current(self) -> LogFile:
        """The file that is being read."""
        return self.files[-1]

    @property
    def position(self) -> int:
        """All before this position was handed out."""
        return self.ready[0].position if self.ready else self._end()

    def _end(self) -> int:
        """The position behind all that was read, handed out or not."""
        return self.current.start + self.current.offset if self.files else self.base

    def begin(self, place: Optional[Place], at_end: bool) -> None:
        """Take up the reading: at a saved place, wherever its file is by now, else at the live file's beginning or its end."""
        live = self.logs.live()
        try:
            if place is not None and not (live and live.fits(place)):
                self._find(place, live)
            elif live is not None:
                if place is not None or at_end:
                    live.seek(place.position if place is not None else live.size())
                self.files.append(live)
        except BAD_FILE as error:
            raise self.logs.unreadable(error) from error

    def line_before(self) -> str:
        """The line that ends where the reading stands; empty at the file's beginning."""
        try:
            return self.current.line_before()
        except BAD_FILE as error:
            raise self.logs.unreadable(error) from error

    def read(self, now: float, once: bool = False) -> Optional[Batch]:
        """The next lines; None when there are none for now. `now` never steps; `once`: nobody is given time to write on."""
        while not self.ready:
            if not self.files and not self._go_live(self.logs.live()):
                return None
            try:
                data = self.current.fetch()
                if self.current.is_truncated():
                    self._recover()
                    continue
                self.ready.extend(self.current.take(data))
                self._heal()
            except BAD_FILE as error:
                self._fail(error, once)
            if self.current.at_end and not self._move_on(now, once):
                break
        return self.ready.popleft() if self.ready else None

    def _fail(self, error: Exception, once: bool) -> None:
        """The file at hand cannot be read on. An archive with damaged content will never be any better. Whatever else ails a file may pass:
        then what was read of it and not yet taken is read again.
        """
        file = self.current
        file.damaged = file.packed and getattr(error, "errno", None) is None
        if not file.said:
            waiting = "reading ends here" if once else "trying again until it is %s" % ("passed over" if self.queue else "rotated")
            consequence = "passed over" if file.damaged else waiting
            LOG.warning("cannot read on in %s: %s; %s", file.path, error, consequence)
            self.rotated_at = None          # it gets all the time of a renamed file
        file.at_end = file.failing = file.said = True
        if not file.packed:
            file.handle.seek(file.reached)

    def _heal(self) -> None:
        """The file at hand was read. Not so an archive that failed: its handle gives no more, only a new one will."""
        file = self.current
        if file.said and not (file.packed and file.failing):
            file.said = file.failing = False
            self.rotated_at = None
            LOG.info("%s can be read again", file.path)

    def insist(self) -> None:
        """Raise LogError when the file at hand could not be read to its end, and may be some day."""
        if self.current.is_ailing:
            raise LogError("log file %s: cannot be read to its end: check its disk, or the server where it is" % self.current.path)

    def lag(self) -> int:
        """Bytes that are not yet read, as far as they can be counted: of packed files nobody knows."""
        waiting = self.files[-1:] + self.queue
        unread = 0
        for file in waiting:
            with contextlib.suppress(OSError):      # a handle gone stale
                unread += max(file.size() - file.offset, 0)
        try:
            status = os.stat(self.path)
        except OSError:
            return unread
        known = (status.st_dev, status.st_ino) in [file.identity for file in waiting]
        return unread if known else unread + status.st_size

    def place(self, position: int) -> Optional[Place]:
        """What to save so that the reading can go on at `position`; None while that is inside a packed file, which cannot be
        searched at no cost, or inside one that cannot be read. Files before it are let go.
        """
        while len(self.files) > 1 and self.files[1].start <= position:
            self.files.pop(0).close()
        try:
            if not self.files or self.files[0].packed or self.files[0].is_truncated():
                return None
            return self.files[0].place(max(position - self.files[0].start, 0))
        except OSError as error:
            LOG.debug("cannot read %s: %s", self.files[0].path, error)
            return None

    def close(self) -> None:
        """Let go of all descriptors."""
        for file in self.files + self.queue:
            file.close()

    def _find(self, place: Place, live: Optional[LogFile]) -> None:
        """The file of a saved place was rotated while nobody looked: read its rest, then all that came after it."""
        file = self._left_off(place)
        if file is None:
            self._begin_without(place, live)
            return
        LOG.info("the log was rotated meanwhile: going on in %s at byte %d", file.path, place.position)
        self.files.append(file)
        self.queue = self._newer(live)
        if live is not None:
            live.close()

    def _begin_without(self, place: Place, live: Optional[LogFile]) -> None:
        """The file of a saved place is gone: read all files that were written to since, and say that lines may be missed."""
        truncated = live is not None and live.has_inode_of(place) and live.size() < place.position
        self.queue = self.logs.open_unknown(self.logs.by_age(place.mtime), place.mtime, live) if place.mtime else []
        if place.position or place.head and place.head[0]:      # of an empty file nothing is missed, and nothing tells it from another
            LOG.warning("%s; lines not read yet may be in other rotated logs: --import them; reading %s from its beginning",
                        "the log was truncated" if truncated else "the file that the saved position belongs to is gone",
                        ", then ".join([one.path for one in self.queue[:1]] + [self.path]))
            self._warn_of_packed_otherwise(place)
        self._go_live(live)

    def _warn_of_packed_otherwise(self, place: Place) -> None:
        """Log it when lines not read yet may be in files that only other programs can unpack."""
        names = packed_otherwise(self.path, place.mtime - SECOND)
        if names:
            LOG.warning("packed in a way that is not understood, and lines not read yet may stand there: %s; unpack and --import them, and "
                        "have logs packed by gzip, bzip2 or xz, with their usual endings", ", ".join(names))

    def _left_off(self, place: Place) -> Optional[LogFile]:
        """The rotated file that a place speaks of, to be read from there on; None when it is gone."""
        if place.inode is None and place.head is None:
            return None
        file, failures = self.logs.fitting(place)
        if file is not None:
            file.seek(place.position)
            return file
        since = place.mtime - SECOND if place.mtime else NEVER
        self.logs.doubt(failures, lambda name: 0 if (identity_of(name) or (0, None))[1] == place.inode else since)
        return None

    def _newer(self, live: Optional[LogFile]) -> List[LogFile]:
        """The rotated files that were begun after the one being read, oldest first. Of those that begin like it, only what was written to
        later can hold more: the others are copies of it, and no archive is unpacked to see that.
        """
        now = self.current.last_write()
        files = self.logs.by_age(now + 1)
        akin = [is_akin(file.head, self.current.head) for file in files]
        here = [number for number, file in enumerate(files) if is_same_file(file, self.current) and file.head] or [
            number for number in range(len(files)) if akin[number]]     # packed meanwhile; an empty file has no place among the others
        if not here and not (live and is_akin(live.head, self.current.head)):
            self._warn_of_elsewhere()
        later = [file for number, file in enumerate(files) if (file.mtime > now if akin[number] else not here or number > here[0])]
        return self.logs.open_unknown(later, 0 if here else now, self.current, live)

    def _warn_of_elsewhere(self) -> None:
        """Say once that the file read last is not where rotated files are looked for: then others, rotated meanwhile, are not either."""
        if self.warned or not self.current.head or self.current.identity in map(identity_of, siblings(self.path)):
            return
        self.warned = True
        LOG.warning("%s was rotated to where it is not looked for, or deleted: rotated files are read when they lie beside the log, "
                    "under its name with a number or a date, plain or packed by gzip, bzip2 or xz; any other (olddir, zstd) only while "
                    "it is open here: lines are lost when the log is rotated twice meanwhile, or while the tracker is stopped", self.path)

    def _recover(self) -> None:
        """The file was truncated: what was not read of it is in the copy, if there is one."""
        lost = self.current
        copy, failures = self.logs.fitting(lost.end())
        if copy is None:
            self.logs.doubt(failures, lambda _: lost.touched - SECOND)
        self.truncations += 1
        if copy is not None:
            LOG.warning("%s was truncated at byte %d; reading the rest of its copy %s", self.path, lost.offset, copy.path)
            copy.start = lost.start
            copy.seek(lost.offset)
            self.files[-1] = copy
            lost.close()
            self.queue = self._newer(None)
            return
        missed = self.logs.open_unknown(self.logs.by_age(NEVER), lost.touched)
        LOG.warning("%s was truncated at byte %d and has no copy; reading it from its beginning", self.path, lost.offset)
        lost.handle.seek(0)
        again = LogFile(lost.path, 0, lambda _: lost.handle)
        self.ready.extend(lost.last_line())
        self.files, self.base = [], lost.start + lost.offset
        self.queue = missed
        self._go_live(again)

    def _move_on(self, now: float, once: bool) -> bool:
        """At the end of a file: whether to read on, in the next or in this one, because somebody still wrote to it."""
        if self.queue:
            return self._is_done_with(now, once) and self._open_next()
        if not once and now < self.next_check:
            return False
        self.next_check = now + self.check_interval
        self.blocked = True                 # until all of this went well
        moved = self._follow_rotation(now, once)
        self.blocked = False
        return moved

    def _is_done_with(self, now: float, once: bool) -> bool:
        """Whether to go on with the next file. One that cannot be read for now is tried again; after a while it is passed over, if the next
        one can be read: else it is not the file that ails. Raises LogError instead for who reads `once`.
        """
        if not self.current.is_ailing:
            return True
        if once:
            self.insist()
        if not self._can_be_read(self.queue[0]):
            self.rotated_at = None
        if not self._has_time(now, once):
            return True
        self._open_anew()
        return False

    def _can_be_read(self, file: LogFile) -> bool:
        """Whether a queued file can be read just now, or is damaged for good. If its handle is stale, its name is tried: even when that
        means another file by now, the disk is seen to answer.
        """
        try:
            file.peek(0, 1)
        except BAD_FILE:
            try:
                LogFile(file.path, 0, self.logs.opener).close()
            except BAD_FILE as error:
                return getattr(error, "errno", None) in (None, errno.ENOENT)
        return True

    def _has_time(self, now: float, once: bool) -> bool:
        """Whether a rotated file is still waited for; to ask for the first time begins the wait."""
        if self.rotated_at is None:
            self.rotated_at, self.next_check = now, now + min(self.grace, self.check_interval)
        return not once and now - self.rotated_at < self.grace

    def _follow_rotation(self, now: float, once: bool) -> bool:
        """Go on with what comes next, if the live log is another file by now and nobody can still be writing to this one."""
        if self._is_live():
            self.rotated_at = None
            self._open_anew()
            if not self.current.is_ailing:
                self.idle_at = now
            return False
        if self._has_time(now, once):
            self._open_anew()
            return False
        if self.current.has_grown():        # between its end and this look its writer may have come to an end
            self.next_check = now
            return True
        return self._leave_rotated(now)

    def _leave_rotated(self, now: float) -> bool:
        """Go on with what came after the rotated file at hand; False while there is nothing: till there is, it may be written to."""
        live = self.logs.live()                 # opened before the others are listed: should it be rotated just now, it is in hand
        try:
            self.queue = self._newer(live)
        except LogError:
            if live is not None:
                live.close()
            raise
        if not self.queue and (live is None or live.is_empty()):
            if live is not None:
                live.close()
            self._open_anew()
            self.idle_at = now
            return False
        self._go_live(live)
        self.rotations += 1
        LOG.info("%s was rotated", self.path)
        return True

    def _is_live(self) -> bool:
        """Whether the file at hand is still the live log."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise LogError("log file %s: %s: check the rights of user %s on its folder"
                           % (self.path, error.strerror, user_name())) from error
        return (status.st_dev, status.st_ino) == self.current.identity

    def _open_anew(self) -> None:
        """When the file at hand fails: its handle may be stale while the file is well, as after the restart of an NFS server. Go on with a
        new one, of the live log or of what it was rotated into meanwhile.
        """
        stale = self.current
        if not stale.is_ailing:
            return
        try:
            file = self.logs.live()
        except LogError:
            return                          # it was said that it cannot be read
        if file is not None and file.identity == stale.identity and not file.packed and not stale.packed:
            stale.renew(file.handle)
            return
        if file is None or not self._replace_current(file):
            copy, _ = self.logs.fitting(stale.end())
            if copy is not None:
                self._replace_current(copy)

    def _replace_current(self, file: LogFile) -> bool:
        """Read on in another file, if that holds what was read."""
        if not file.take_over(self.current):
            file.close()
            return False
        file.said = True                    # until it was read
        self.current.close()
        self.files[-1] = file
        return True

    def _go_live(self, live: Optional[LogFile]) -> bool:
        """Go on with the live file, unless there are others to be read before it; False when there is neither."""
        if self.queue and live is not None:
            live.close()
        elif live is not None:
            self.queue = [live]
        return self._open_next()

    def _open_next(self) -> bool:
        """Finish the file at hand, and go on with the one queued next."""
        if not self.queue:
            return False
        before = self.files[-1] if self.files else None
        file = self.queue.pop(0)
        if before is None:
            file.start = self.base
        elif not file.take_over(before):
            file.start = before.start + before.reached
            self.ready.extend(before.last_line())
        self.files.append(file)
        self.rotated_at = None
        return True


# ============================================================================ state file

OTHER_STATE = "set [state] state_file"
STATE_REMEDIES = {number: remedy for remedy, numbers in (       # what helps beside more rights
    (READ_ONLY_REMEDY, (errno.EROFS,)),
    ("make room (`df -h`, `df -i`)", (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    ("move it away", (errno.ELOOP, errno.ENXIO, errno.EISDIR)),     # what lies there is a link, a pipe or socket, a directory
    ("let its file system keep locks (NFS: lockd)", (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)),
) for number in numbers}


def remedy_of(error: OSError, path: str, elsewhere: str = OTHER_STATE) -> str:
    """What helps when the state file, or one of those beside it, cannot be written. `elsewhere`: how to have it in another place."""
    number = error.errno or 0
    if number in MACHINE_REMEDIES:
        return MACHINE_REMEDIES[number]
    remedy = "create its directory, with all in it writable for user %s" % user_name()
    if number in (errno.EACCES, errno.EPERM) and os.path.exists(path):
        remedy = "make it writable for user %s, as by `chown %s %s`" % (user_name(), user_name(), path)
    return "%s, or %s" % (STATE_REMEDIES.get(number, remedy), elsewhere)


def open_own(path: str, flags: int, mode: int) -> int:
    """A descriptor of a file that the tracker keeps for itself; raises OSError for what is none. A link that lies there is not followed,
    for root would make, or write to, any file that whoever owns the directory has linked to, nor is a reader of a pipe waited for.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.ENXIO, "is not a regular file", path)


def open_lock(path: str, flags: int = 0) -> IO[bytes]:
    """A lock file, open for writing where that is allowed: on NFS only such a one can be locked (flock(2))."""
    try:
        return open(open_own(path, os.O_RDWR | flags, 0o644), "r+b", buffering=0)
    except OSError:                         # whatever else is wrong with it will show again
        return open(open_own(path, os.O_RDONLY | flags, 0o644), "rb", buffering=0)


def open_temporary(path: str) -> TextIO:
    """A file that is to become the state, empty. One that a crash has left is taken."""
    return open(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), "w", encoding="ascii")


STATE_BYTES = 4096                  # what a state needs on a disk: less than a block


class StateFile:
    """Where the reading stands, in a small JSON file: written beside it, synced, renamed, so that it is always whole.

    A lock beside it keeps a second tracker out. A file written by hand, `{"position": N, "inode": I}`, is as good as ours.
    """

    FORMAT = 1

    def __init__(self, path: str) -> None:
        try:
            self.path = os.path.realpath(path)
        except OSError as error:            # a relative path, and the current directory is gone
            raise OutputError("state file %s: %s: set [state] state_file to a path from the root" % (path, error.strerror)) from error
        self.lock: Optional[IO[bytes]] = None
        self.saved: Optional[Place] = None

    def acquire(self) -> None:
        """Lock the state, and make sure that it can be written, before anything is read."""
        try:
            lock = open_lock(self.path + ".lock", os.O_CREAT)
        except OSError as error:
            raise self._unwritable(error, self.path + ".lock") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            if isinstance(error, BlockingIOError):
                raise StateTaken("state file %s: another tracker is using it: stop that one, or set [state] state_file"
                                 % self.path) from error
            raise self._unwritable(error, self.path + ".lock") from error
        self.lock = lock
        self.rehearse()

    def rehearse(self, ending: str = ".tmp", size: int = 0) -> None:
        """Make sure that it can be written; nothing is changed. `ending`: of the temporary file's name; `size`: what has to fit into it."""
        temporary = self.path + ending
        try:
            with open_temporary(temporary) as handle:
                os.unlink(temporary)
                handle.write(" " * size)
        except OSError as error:
            raise self._unwritable(error, temporary) from error
        if os.path.exists(self.path) and not os.access(self.path, os.W_OK):
            raise self._unwritable(PermissionError(errno.EACCES, "is not writable"), self.path)

    def _unwritable(self, error: OSError, path: str) -> OutputError:
        """What it means that a file, be it one beside the state file, cannot be written."""
        told = "state file %s" % self.path if path == self.path else "state file %s: %s" % (self.path, path)
        return OutputError("%s: %s: %s" % (told, error.strerror, remedy_of(error, path)))

    def load(self) -> Optional[Place]:
        """The saved place; None when there is none. A damaged file is moved aside and named in the log."""
        try:
            self.saved = self.look()
        except ValueError as error:
            self._move_aside(str(error))
        return self.saved

    def look(self) -> Optional[Place]:
        """The saved place, None when there is none; nothing is changed. Raises ValueError when the file is damaged."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise OutputError("state file %s: is not a regular file: set [state] state_file to a path of its own" % self.path)
            with open(self.path, "rb") as handle:
                data = handle.read(1 << 20)
        except FileNotFoundError:
            return None
        except OSError as error:
            remedy = machine_remedy(error, "make it readable for user %s" % user_name())
            raise OutputError("state file %s: %s: %s" % (self.path, error.strerror, remedy)) from error
        try:
            return place_from(json.loads(data.decode("utf-8")), self.FORMAT)
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError("%s: %s" % (type(error).__name__, error)) from error

    def _move_aside(self, why: str) -> None:
        aside = "%s.damaged-%d" % (self.path, int(clock.time()))
        try:
            os.rename(self.path, aside)
        except OSError as error:
            raise OutputError("state file %s: cannot be used (%s), nor moved aside: %s: %s"
                              % (self.path, why, error.strerror, remedy_of(error, self.path))) from error
        LOG.error("state file %s cannot be used (%s): moved to %s; [logging] start decides where to begin", self.path, why, aside)

    def save(self, place: Place) -> None:
        """Make `place` the saved one, unless it is. The caller has committed all that comes before it."""
        if self.saved is not None and place._replace(mtime=0) == self.saved._replace(mtime=0):
            return
        self._hold()
        state = {"version": self.FORMAT, "position": place.position, "inode": place.inode, "device": place.device,
                 "fingerprint": {"head": place.head, "tail": place.tail}, "mtime": place.mtime, "repeated": place.repeated}
        temporary = self.path + ".tmp"
        try:
            with open_temporary(temporary) as handle:
                handle.write(json.dumps(state) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
            os.rename(temporary, self.path)
            self._sync_folder()
        except OSError as error:
            raise self._unwritable(error, error.filename or self.path) from error
        self.saved = place

    def _sync_folder(self) -> None:
        """Make the rename last through a power cut, too."""
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):    # of a file system that knows no such thing
                raise
        finally:
            os.close(folder)

    def _hold(self) -> None:
        """Make sure that the lock is held: when somebody tidied its file away, it is made anew, unless another tracker did that."""
        try:
            held = self.lock is not None and os.path.samestat(os.stat(self.path + ".lock"), os.fstat(self.lock.fileno()))
        except FileNotFoundError:
            held = False
        except OSError as error:            # its folder cannot be looked into: the lock is held still
            raise self._unwritable(error, self.path + ".lock") from error
        if not held:
            self.release()
            self.acquire()

    def release(self) -> None:
        """Give the lock back."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None


class UntouchedState(StateFile):
    """A state file that is read, but neither changed nor locked: a dry run's."""

    def acquire(self) -> None:
        """Nothing to lock."""

    def save(self, place: Place) -> None:
        """Nothing is kept."""

    def _move_aside(self, why: str) -> None:
        LOG.warning("state file %s cannot be used (%s): [logging] start decides where to begin", self.path, why)


def place_from(state: Any, version: int) -> Place:
    """A saved place from what JSON held; raises ValueError, TypeError or KeyError when that is not one.

    >>> place_from({"position": 7, "inode": 5}, 1)
    Place(position=7, inode=5, device=None, head=None, tail=None, mtime=0, repeated=False)
    """
    if not isinstance(state, dict):
        raise ValueError("not a JSON object")
    if not isinstance(state.get("version", version), int):
        raise ValueError("version must be a number")
    if state.get("version", version) > version:
        raise ValueError("written by a newer version")
    position, inode, device = state["position"], state.get("inode"), state.get("device")
    mtime, repeated = state.get("mtime", 0), bool(state.get("repeated"))
    for value, bits in ((position, 63), (0 if inode is None else inode, 64), (0 if device is None else device, 64), (mtime, 63)):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
            raise ValueError("position, inode and device must be numbers")
    witnesses = state.get("fingerprint") or {}
    if not isinstance(witnesses, dict):
        raise ValueError("fingerprint")
    return Place(position, inode, device, _witness_from(witnesses.get("head")), _witness_from(witnesses.get("tail")), mtime, repeated)


def _witness_from(value: Any) -> Optional[Tuple[int, str]]:
    if value is None:
        return None
    length, digest = value
    if not isinstance(length, int) or not 0 <= length <= WITNESS or not isinstance(digest, str):
        raise ValueError("fingerprint")
    return length, digest


# -- refused rows

class RejectFile:
    """Rows that the database will never take, kept with their values and the reason, one JSON object per line.

    One that stands there already, be it for another reason, is not added again; of a large file only the last part is looked through.
    `elsewhere`: how to have it in another place.
    """

    LOOKED_THROUGH = 1 << 24
    KNOWN = 1 << 14                         # rows, as many as fit into that part
    SEAM = b', "row": '                 # between reason and row, and nowhere else: in JSON's texts quotes have a backslash

    def __init__(self, path: str, elsewhere: str = OTHER_STATE) -> None:
        self.path = path
        self.elsewhere = elsewhere
        self.count = 0
        self.kept: Optional[Deque[bytes]] = None

    def add(self, row: Row, reason: str) -> None:
        """Keep a row; the caller goes on with the others. Raises OutputError when that cannot be done: then no part of it is left there."""
        line = json.dumps({"reason": reason, "row": json.loads(row_json(row))}) + "\n"
        try:
            self._append(line.encode("ascii"))
        except OSError as error:
            raise OutputError("%s; the row waits until then" % self._unwritable(error)) from error
        self.count += 1
        if self.count <= SAMPLES:
            LOG.error("the database refuses a row of %s: %s; kept in %s: mend the table, as schema.sql has it, and --import the log",
                      row.queue_id, reason, self.path)
        if self.count == SAMPLES:
            LOG.error("further ones are kept there, and counted, but not shown")

    def rehearse(self) -> None:
        """Make sure that a row could be added to what is there, or the file made; nothing is changed."""
        try:
            os.close(self._open())
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or not os.access(os.path.dirname(self.path) or ".", os.W_OK | os.X_OK):
                raise self._unwritable(error) from error

    def _open(self, flags: int = 0) -> int:
        return open_own(self.path, os.O_RDWR | os.O_APPEND | flags, 0o600)

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError("reject file %s: %s: %s" % (self.path, error.strerror, remedy_of(error, self.path, self.elsewhere)))

    def _append(self, line: bytes) -> None:
        descriptor = self._open(os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            if self.kept is None or not size:       # somebody took the file away
                known = os.pread(descriptor, min(size, self.LOOKED_THROUGH), max(size - self.LOOKED_THROUGH, 0))
                self.kept = collections.deque(map(self._digest_of, known.splitlines(True)), maxlen=self.KNOWN)
            digest = self._digest_of(line)
            if digest in self.kept:
                return
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line         # a power cut left half a line
            try:
                if os.write(descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            self.kept.append(digest)
        finally:
            os.close(descriptor)

    def _digest_of(self, line: bytes) -> bytes:
        return hashlib.blake2b(line.partition(self.SEAM)[2], digest_size=16).digest()


# ============================================================================ configuration

class Option(NamedTuple):
    """A configuration key. `kind`: text, word, path, seconds, port, choice of words, flag, hosts, domains."""

    section: str
    key: str
    kind: str
    default: str
    help: str


OPTIONS = (
    Option("database", "engine", "mysql|sqlite", "mysql", "mysql for MySQL and MariaDB; sqlite for a single file, which `database` names"),
    Option("database", "host", "hosts", "localhost", "server, or several to be tried in turn: db1, db2:3307"),
    Option("database", "port", "port", "3306", "port of servers named without one"),
    Option("database", "unix_socket", "path", "", "path of the server's socket; then host and port do not count"),
    Option("database", "database", "text", "mail_tracking", "name of the database; with engine = sqlite the path of the file"),
    Option("database", "user", "text", "mailtracker", "database user"),
    Option("database", "password", "text", "", "its password, without blanks around it; password_file keeps them"),
    Option("database", "password_file", "path", "", "file whose first line is the password, instead of `password`"),
    Option("database", "connect_timeout", "seconds", "10", "seconds to wait for a connection"),
    Option("database", "ssl_ca", "path", "", "CA certificate by which the server's has to be signed"),
    Option("database", "ssl_cert", "path", "", "client certificate"),
    Option("database", "ssl_key", "path", "", "its private key"),
    Option("database", "ssl_verify", "flag", "no", "yes: refuse a server that offers no TLS or a certificate that does not fit"),
    Option("logging", "log_file", "path", "/var/log/mail.log", "the mail log to follow; /var/log/maillog on RHEL and its kin"),
    Option("logging", "queue_timeout", "seconds", "30", "seconds of silence after which a message is written with what is known"),
    Option("logging", "cleanup_interval", "seconds", "10", "seconds between two rounds of writing and saving the position"),
    Option("logging", "poll_interval", "seconds", "0.5", "seconds between two looks at the log"),
    Option("logging", "start", "beginning|end", "beginning", "where to begin when there is no saved position"),
    Option("state", "state_file", "path", "/var/lib/mail_relay_tracker/state.json", "where the position in the log is kept"),
    Option("system", "server_hostname", "word", "", "name of this server in the table; empty: the host column of each log line"),
    Option("system", "rotation_check_interval", "seconds", "5", "seconds between two checks whether the log was rotated"),
    Option("filters", "track_domains", "domains", "", "recipient domains to track, with their subdomains; empty: everything"),
)
BUILT_IN = {"engine": "sqlite", "database": "./mail_relay_tracker.db", "state_file": "./mail_relay_tracker.state.json"}
CONFIG_FILES = ("./mail_relay_tracker.conf", "/etc/mail_relay_tracker.conf")


class Config:
    """The settings, by key, checked; `source` names the file they came from."""

    def __init__(self, source: str, values: Dict[str, Any]) -> None:
        self.source = source
        self.values = values

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


def find_config(path: Optional[str]) -> Optional[str]:
    """The configuration file to use: the one named, else the first of the usual places; None for the built-in defaults."""
    if path is not None:
        return path
    return next((one for one in CONFIG_FILES if os.path.exists(one)), None)


def load_config(path: Optional[str]) -> Config:
    """The configuration in a file, or the built-in one for None, checked; raises ConfigError that tells each fault in a line of its own:
    file, key and remedy.
    """
    if path is None:
        return Config("built-in defaults", {option.key: read_value(option, BUILT_IN.get(option.key, option.default)) for option in OPTIONS})
    parser = read_config(path)
    config, faults = Config(path, {}), list(unknown_keys(parser))
    for option in OPTIONS:
        text = parser.get(option.section, option.key, fallback=option.default)
        try:
            config.values[option.key] = read_value(option, text)
        except ValueError as error:
            faults.append("%s: %s" % (as_told(option, text), error))
    faults = faults or list(itertools.chain(shared_files(config), odd_database(config)))
    if faults:
        raise ConfigError("\n".join("configuration %s: %s" % (path, fault) for fault in faults))
    return config


def read_config(path: str) -> configparser.ConfigParser:
    """What a configuration file holds, not checked yet; raises ConfigError when it cannot be read, or is no INI file."""
    parser = configparser.ConfigParser(interpolation=None, strict=True, default_section="")     # no keys that count in every section
    try:
        with open(path, encoding="utf-8-sig") as handle:        # editors put a mark at its head
            parser.read_file(handle)
            why = "it holds a password" if parser.get("database", "password", fallback="") else "before it holds a password"
            warn_if_open(handle, "configuration %s" % path, why)
    except OSError as error:
        remedy = "copy mail_relay_tracker.conf.template there" if isinstance(error, FileNotFoundError) else \
            "make it a file that user %s can read" % user_name()
        raise ConfigError("configuration %s: %s: %s, or name another one with -c" % (path, error.strerror, remedy)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("configuration %s: byte %d is not UTF-8: save it as UTF-8" % (path, error.start + 1)) from error
    except configparser.ParsingError as error:      # whose own words show the line, and that may hold the password
        wrong = getattr(error, "errors", None) or [(getattr(error, "lineno", 0), "")]
        raise ConfigError("configuration %s: line %s: is neither a [section] nor, within one, key = value"
                          % (path, ", ".join(str(number) for number, _ in wrong))) from None
    except configparser.Error as error:             # a section or key that stands there twice
        raise ConfigError("configuration %s: %s: leave one of the two" % (path, str(error).replace("\n", " "))) from error
    return parser


def unknown_keys(parser: configparser.ConfigParser) -> Iterator[str]:
    """What is wrong with keys that no option has."""
    known = {(option.section, option.key) for option in OPTIONS}
    for section in parser.sections():
        for key in parser[section]:
            if (section, key) not in known:
                yield "unknown key %s in section [%s]: %s" % (key, section, advice(key))


def shared_files(config: Config) -> Iterator[str]:
    """What is wrong when two keys name one file: the state would be written over the log, or over the rows."""
    known = {os.path.realpath(config.source): "configuration"}
    for key in ("log_file", "password_file", "database", "state_file"):
        if not config[key] or key == "database" and config["engine"] != "sqlite":
            continue
        try:
            path = os.path.realpath(file_name(config[key]))
        except OSError:
            yield "%s = %s: the current directory is gone: name a path from the root" % (key, config[key])
            continue
        if path in known:
            yield "%s = %s: is also the %s: name a file of its own" % (key, config[key], known[path])
        known[path] = key


def odd_database(config: Config) -> Iterator[str]:
    """What is wrong with keys of [database] that are good by themselves, but not together."""
    if config["engine"] == "sqlite":
        if config["database"] == ":memory:":
            yield "[database] database = :memory:: name a file, for rows in memory end with the tracker"
        return
    if config["password"] and config["password_file"]:
        yield "[database] password_file = %s: there is also a password: remove one of the two" % config["password_file"]
    if config["unix_socket"] and config["ssl_verify"]:
        yield "[database] ssl_verify = yes: over unix_socket = %s nothing is encrypted: unset one of the two" % config["unix_socket"]
    for key in ("ssl_ca", "ssl_cert", "ssl_key"):
        if config[key] and not os.path.isfile(config[key]):
            yield "[database] %s = %s: no such file" % (key, config[key])
    for key, other in (("ssl_cert", "ssl_key"), ("ssl_key", "ssl_cert")):
        if config[key] and not config[other]:
            yield "[database] %s = %s: name its %s as well" % (key, config[key], other)


def warn_if_open(handle: IO[str], what: str, why: str) -> None:
    """Log a warning when everybody can read a file that is to be secret."""
    if os.fstat(handle.fileno()).st_mode & stat.S_IROTH:
        LOG.warning("%s can be read by everybody: `chmod 640` it, %s", what, why)


def advice(key: str) -> str:
    """What may have been meant by an unknown key."""
    homes = [option.section for option in OPTIONS if option.key == key]
    if homes:
        return "it belongs to section [%s]: put it into its section" % homes[0]
    near = difflib.get_close_matches(key, [option.key for option in OPTIONS], 1)
    return "did you mean %s?" % near[0] if near else "remove it; the template lists all keys"


def as_told(option: Option, text: str) -> str:
    """A setting as a message shows it: its first line, for one that was indented by mistake may hold the password."""
    told = "…" if option.key == "password" else text.strip().partition("\n")[0].replace("\0", "\\0")
    return ("[%s] %s = %s" % (option.section, option.key, told)).rstrip()


def read_value(option: Option, text: str) -> Any:
    """A setting as its kind asks for; raises ValueError that tells what is wrong, and the remedy."""
    text = text.strip()
    if "\0" in text:
        raise ValueError("holds a NUL byte: remove it")
    if "\n" in text and option.kind != "domains":
        raise ValueError("spans several lines: an indented line continues the one before")
    if not text and option.default and option.kind in ("text", "path"):
        raise ValueError("must not be empty: remove the line for the default, %s" % option.default)
    return read_choice(text, option.kind.split("|")) if "|" in option.kind else KINDS[option.kind](text)


def read_choice(text: str, words: List[str]) -> str:
    """One of a few words.

    >>> read_choice("SQLite", ["mysql", "sqlite"])
    'sqlite'
    """
    if text.lower() not in words:
        raise ValueError("must be one of %s" % ", ".join(words))
    return text.lower()


def read_seconds(text: str) -> float:
    """A number of seconds, more than none, less than a year."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 31536000:
        raise ValueError("must be a number of seconds above 0, below 31536000 (a year)")
    return seconds


def read_port(text: str) -> int:
    """A TCP port."""
    if not re.match("[0-9]{1,5}$", text) or not 0 < int(text) < 65536:
        raise ValueError("must be a port number, 1 to 65535")
    return int(text)


def read_flag(text: str) -> bool:
    """yes or no, in the words that configparser knows.

    >>> read_flag("Yes"), read_flag("off")
    (True, False)
    """
    if text.lower() not in configparser.ConfigParser.BOOLEAN_STATES:
        raise ValueError("must be yes or no")
    return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]


def read_hosts(text: str) -> List[Tuple[str, Optional[int]]]:
    """`db1, db2:3307, [2001:db8::1]:3306`: hosts and their ports, None where none is named.

    >>> read_hosts("db1, db2:3307, [::1]:3308, 2001:db8::2")
    [('db1', None), ('db2', 3307), ('::1', 3308), ('2001:db8::2', None)]
    """
    hosts: List[Tuple[str, Optional[int]]] = []
    for part in text.split(","):
        found = re.match(r"(?:\[([^][\s]+)\]|([^][:\s]+)|([^][\s]*:[^][\s]*:[^][\s]*))(?::([0-9]+))?$", part.strip())
        if not found:
            raise ValueError("must be a host, or several: db1, db2:3307, [2001:db8::1]:3306")
        hosts.append((found.group(1) or found.group(2) or found.group(3), read_port(found.group(4)) if found.group(4) else None))
    return hosts


def read_word(text: str) -> str:
    """Text without blanks, behind which there most likely stands a comment, and without quotes: they would become part of the value."""
    if len(text.split()) > 1 or text.startswith(('"', "'")):
        raise ValueError("must be one word without quotes; a comment needs a line of its own")
    return text


def file_name(text: str) -> str:
    """A path, as UTF-8 where the locale has no bytes for it, as the C locale of Python 3.6."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return os.fsdecode(text.encode("utf-8"))
    return text


def read_domains(text: str) -> List[str]:
    """Domains, separated by commas or blanks."""
    domains = [domain for domain in re.split(r"[,\s]+", text) if domain]
    for domain in domains:
        if not re.match(r"@?[\w.-]+$", domain) or not domain_forms(domain):
            told = re.sub("(?<=[=:]).+", "…", domain)       # an indented line `password=` would have the password there
            raise ValueError("%s is not a domain: write example.com, example.net; subdomains are included" % told)
    return domains


KINDS = {"text": str, "word": read_word, "path": file_name, "seconds": read_seconds, "port": read_port, "flag": read_flag,
         "hosts": read_hosts, "domains": read_domains}   # type: Dict[str, Callable[[str], Any]]


def template() -> str:
    """The configuration template: every key, its default, its help."""
    lines = ["# mail_relay_tracker: every key, with its default. Copy, change what differs, `chmod 640`."]
    for section in collections.OrderedDict.fromkeys(option.section for option in OPTIONS):
        lines += ["", "[%s]" % section]
        for option in OPTIONS:
            if option.section == section:
                lines += ["# %s" % option.help, "%s = %s" % (option.key, option.default) if option.default else "#%s =" % option.key]
    return "\n".join(lines) + "\n"


def read_password(config: Config) -> str:
    """The database password: from its file when one is named."""
    path = config["password_file"]
    if not path:
        return cast(str, config["password"])
    try:
        with open(path, encoding="utf-8-sig") as handle:
            warn_if_open(handle, "password_file %s" % path, "it holds one")
            return handle.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError("configuration %s: [database] password_file = %s: %s: make it a text file that user %s can read"
                          % (config.source, path, why, user_name())) from error


def make_store(config: Config) -> Store:
    """The store that the configuration asks for; nothing is connected yet."""
    if config["engine"] == "sqlite":
        return SqliteStore(file_name(config["database"]))
    options = {"database": config["database"], "user": config["user"], "password": read_password(config), "autocommit": True,
               "use_pure": True, "charset": "utf8mb4", "collation": "utf8mb4_general_ci",   # which every server and driver knows
               "connection_timeout": max(1, int(config["connect_timeout"]))}
    for key in ("unix_socket", "ssl_ca", "ssl_cert", "ssl_key"):
        if config[key]:
            options[key] = config[key]
    if config["ssl_verify"]:
        options.update(ssl_verify_cert=True, ssl_verify_identity=True)
    hosts = [(host, port or config["port"]) for host, port in config["host"]]
    return MysqlStore(hosts[:1] if config["unix_socket"] else hosts, options, config["ssl_verify"])


# ============================================================================ daemon loop

REPORT_AGAIN = 600                  # seconds between two reports of the same trouble
SAME_TROUBLE = 60                   # seconds: a trouble that comes back within these is the same one still, and not reported anew
LONG_TROUBLE = 10                   # seconds after which one that came back is reported all the same
ONE_SHOT_TRIES = 4                  # how often a command other than the daemon tries to reach a database that is away
STOP_GRACE = 1.5                    # seconds that a call to the database may still take when the daemon is told to stop
LAST_WORDS = 0.25                   # seconds for what is logged then, before the process is ended
STATISTICS = logging.CRITICAL + 1   # the level of what was asked for: logged whatever the log's level is


# -- waiting, and what is told of trouble

class Stopped(Exception):
    """Told to stop while waiting for the database."""


class Waiter:
    """Sleeps that a signal ends at once, and the signals themselves: SIGTERM and SIGINT stop (`stopping`), SIGUSR1 asks for statistics
    (`asked`), which `tell` gives, SIGHUP for a look at the log (`woken`). SIGALRM, after a stop, breaks off what does not return, and once
    nothing more is to be done (`ending`) ends the process.
    """

    def __init__(self) -> None:
        self.stopping = self.ending = self.asked = self.woken = False
        self.tell: Callable[[], None] = lambda: None
        self.reader, self.writer = socket.socketpair()
        for end in (self.reader, self.writer):
            end.setblocking(False)

    def install(self) -> None:
        """Take the signals over."""
        quiet: Dict[str, Any] = {"warn_on_full_buffer": False} if sys.version_info >= (3, 7) else {}
        signal.set_wakeup_fd(self.writer.fileno(), **quiet)
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGUSR1: self._ask, signal.SIGHUP: self._wake,
                    signal.SIGALRM: self._give_up}
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)        # a parent may have blocked them

    def _stop(self, number: int, frame: Any) -> None:
        if not self.stopping:
            self.stopping = True
            signal.setitimer(signal.ITIMER_REAL, STOP_GRACE, LAST_WORDS)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True

    def _wake(self, number: int, frame: Any) -> None:
        """SIGHUP: look at the log, and for a new one, now; rotation is noticed without it."""
        self.woken = True

    def _give_up(self, number: int, frame: Any) -> None:
        if self.ending:                     # the last words block: standard error is a full pipe that nobody reads
            os._exit(0)
        self.ending = True
        raise Interrupted()

    def sleep(self, seconds: float) -> bool:
        """Wait; False when told to stop."""
        if not self.stopping:
            if select.select([self.reader], [], [], seconds)[0]:
                self.reader.recv(4096)
            self.answer()
        return not self.stopping

    def answer(self) -> None:
        """Tell the statistics, when they were asked for."""
        if self.asked:
            self.asked = False
            self.tell()


def cause_of(error: TrackerError) -> Tuple[type, Any]:
    """What tells one trouble from another: the class of the error, and the number, else the words, of what is behind it all. Of a
    database that is away only the class: in going and coming back it shows many faces.

    >>> cause_of(StoreRefused("Access denied")), cause_of(StoreGone("Lost connection"))
    ((<class 'mail_relay_tracker.StoreRefused'>, 'Access denied'), (<class 'mail_relay_tracker.StoreGone'>, None))
    """
    if isinstance(error, StoreGone):
        return StoreGone, None
    root: BaseException = error
    while root.__cause__ not in (None, root):   # an error that needs no other meaning is its own cause
        root = root.__cause__
    return type(error), getattr(root, "errno", None) or str(root)


class Trouble:
    """Says once what is wrong, again after a while, and once when it is over. What comes back within a minute is the same trouble.

    `kind` is the class of the last error, `count` the number of all. Of the trouble at hand, by the clock: `since` when it lasts (0: there
    is none), and when each cause of it was last `reported`, for once one is mended another may show. `said`: it was reported at all, so
    its end is to be as well. `ended`: when the one before was over.
    """

    def __init__(self) -> None:
        self.kind: Optional[Type[TrackerError]] = None
        self.reported: Dict[Tuple[type, Any], float] = {}
        self.since = self.ended = 0.0
        self.said = False
        self.count = 0

    def report(self, error: TrackerError, consequence: str) -> None:
        """Log an error, unless one of its cause was logged a short while ago."""
        now, cause = clock.monotonic(), cause_of(error)
        self.count += 1
        self.kind = type(error)
        if not self.since:
            self.since = now
            if now - self.ended >= SAME_TROUBLE:
                self.reported.clear()
        lasts = not self.said and now - self.since > LONG_TROUBLE
        if lasts or cause not in self.reported or now - self.reported[cause] >= REPORT_AGAIN:
            LOG.error("%s; %s", error, consequence)
            self.reported[cause], self.said = now, True
        else:
            LOG.debug("%s; %s", error, consequence)

    def over(self, what: str) -> None:
        """The trouble is over, if there was any."""
        if self.since:
            now = clock.monotonic()
            if self.said:
                LOG.warning("%s after %.0f seconds", what, now - self.since)
            self.since, self.ended, self.said = 0.0, now, False


# -- rows into the store, however long it takes

ANY_TROUBLE = (StoreGone, StoreRefused, ConfigError, OutputError)      # what a recorder at work waits out


class Recorder:
    """Brings what the tracker has ready into the store, however long that takes, and counts it.

    `sleep` waits and tells whether to go on. `tries` 0: for ever, as the daemon does; else give up after so many. `known_until`: the store
    may hold messages born by then. `is_new`: the connection has not served yet. `told_lost`: when the loss of one was last logged at INFO;
    `level`: the level at which the latest loss was logged. `first`, `last`, `hosts`: of all messages written, for the summary.
    """

    def __init__(self, store: Store, tracker: Tracker, rejects: RejectFile, sleep: Callable[[float], bool], tries: int = 0) -> None:
        self.store = store
        self.tracker = tracker
        self.rejects = rejects
        self.sleep = sleep
        self.tries = tries
        self.trouble = Trouble()
        self.known_until = 0
        self.store_name = ""
        self.connected = self.is_new = False
        self.told_lost, self.level = -float(REPORT_AGAIN), logging.INFO
        self.rows = 0
        self.first, self.last = NEVER, 0
        self.hosts: Set[str] = set()

    def begin(self) -> None:
        """Connect. A refusal ends the program here, where somebody is looking; later it is waited out."""
        self._try(lambda: None, (StoreGone,))

    def _connect(self) -> None:
        self.store.connect()
        self.known_until = max(self.known_until, self.store.newest())
        self.connected = self.is_new = True

    def _tell_lost(self, error: TrackerError) -> None:
        """Log that a new connection is made, but seldom: a server, or a firewall, may end each that is idle for a while."""
        now = clock.monotonic()
        self.level = logging.DEBUG
        if now - self.told_lost >= REPORT_AGAIN:
            self.told_lost, self.level = now, logging.INFO
        LOG.log(self.level, "%s; connecting anew", error)

    def _tell_connected(self) -> None:
        """Name the new connection, now that it has served: while a trouble goes on, each try has one."""
        self.is_new = False
        if self.store_name not in ("", self.store.name):
            LOG.warning("%s is used now instead of %s", self.store.name, self.store_name)
        LOG.log(self.level if self.store_name == self.store.name else logging.INFO, "connected to %s", self.store.name)
        self.store_name = self.store.name

    def flush(self) -> None:
        """Write what is finished. When it returns, that is committed."""
        harvest = self.tracker.correlator.harvest()
        if not harvest.messages and not harvest.links:
            return
        *before, last = births_apart(harvest.messages)
        for messages in before:
            self._write(harvest._replace(messages=messages, links=[]))
        self._write(harvest._replace(messages=last))

    def _write(self, harvest: Harvest) -> None:
        tracked = self.tracker.correlator.filter
        rows = self._try(lambda: settle(harvest, self.store.recall, self.known_until, tracked), ANY_TROUBLE)
        refused: Set[Row] = set()
        sizes = (BATCH_ROWS >> min(tried, MAX_HALVINGS) for tried in itertools.count())     # a slow server may never be done with many
        self._try(lambda: write_rows(self.store, rows, functools.partial(self._set_aside, refused), next(sizes)), ANY_TROUBLE)
        written = len(rows) - len(refused)
        if written:
            LOG.debug("%d rows written", written)
        self._count(harvest.messages, written)

    def _count(self, messages: List[Message], rows: int) -> None:
        """Take what was written into the figures."""
        births = [message.first_seen for message in messages]
        self.first, self.last = min([self.first, *births]), max([self.last, *births])
        self.hosts.update(map(stored_host, {message.server_hostname for message in messages}))
        self.rows += rows

    def expect(self, first: int) -> None:
        """Another file follows, whose lines begin at `first`. If lines as late were read before, the store has to be asked for the messages
        that were made of them, or will be.
        """
        if first <= self.tracker.correlator.now:
            self.flush()
            self.known_until = max(self.known_until, self.last, self.tracker.correlator.newest_birth())

    def complete(self) -> None:
        """All is written: let the store make up for what it put off."""
        self._try(self.store.complete, ANY_TROUBLE)

    def _set_aside(self, refused: Set[Row], row: Row, reason: str) -> None:
        """Keep a refused row, once: after trouble the writing begins anew."""
        if row not in refused:
            self.rejects.add(row, reason)
            refused.add(row)

    def _try(self, act: Callable[[], Any], bearable: Tuple[Type[TrackerError], ...]) -> Any:
        """Do something with the store; when that fails, connect anew and do it again: every act may be repeated.

        A first new connection is made at once, and without a report, for it mends a lost one, or a deadlock.
        """
        wait, tried = 1.0, 0
        while True:
            try:
                if not self.connected:
                    self._connect()
                result = act()
                if self.is_new:
                    self._tell_connected()
                self.trouble.over("%s is back" % (self.rejects.path if self.trouble.kind is OutputError else self.store.name))
                return result
            except bearable as error:
                self.connected = False
                tried += 1
                if self.tries and tried >= self.tries:
                    raise
                if tried == 1:
                    self._tell_lost(error)
                    continue
                self.trouble.report(error, "trying again, %d times in all" % self.tries if self.tries
                                    else "reading pauses, trying again until it works")
                if not self.sleep(wait * random.uniform(0.8, 1.2)):
                    raise Stopped() from error
                wait = min(wait * 2, 60.0)


# -- the loop

class Daemon:
    """Follows the log: read a batch, fold it, write what is finished, save the position; wait when there is nothing to read.

    By our clock: `next_flush`, when to write next; `quiet_since`, when the last lines came. By the log's: `log_time`, the newest stamp
    then. `file_start`: where the file they came from begins.
    """

    def __init__(self, config: Config, follower: Follower, recorder: Recorder, state: StateFile) -> None:
        self.config = config
        self.follower = follower
        self.recorder = recorder
        self.tracker = recorder.tracker
        self.state = state
        self.trouble, self.state_trouble = Trouble(), Trouble()
        self.next_flush = self.quiet_since = clock.monotonic()
        self.log_time = self.file_start = 0

    def begin(self) -> None:
        """Find the place where the reading stopped last time."""
        place = self.state.load()
        self.follower.begin(place, self.config["start"] == "end")
        if not self.follower.files:
            raise LogError("log file %s: no such file: check [logging] log_file, or start Postfix first" % self.follower.path)
        self.tracker.previous = self.follower.line_before()     # a classic syslogd may say that it was repeated
        self.tracker.calendar.go_on(self.follower.position, place is not None and place.repeated)
        self.tracker.calendar.read(self.tracker.previous)
        LOG.info("following %s from byte %d", self.follower.current.path, self.follower.current.offset)
        if place is None:                   # should it end while the database is away, it is to begin here again, not at a later end
            self.try_to_save(self.place())

    def follow(self, waiter: Waiter) -> None:
        """Run until told to stop; then commit what is finished, and save."""
        while not waiter.stopping:
            if waiter.woken:
                waiter.woken, self.follower.next_check = False, 0.0
            busy = self.read_some()
            now = clock.monotonic()
            if not busy:
                self.let_time_pass()
            if now >= self.next_flush or len(self.tracker.correlator.finished) >= MAX_FINISHED:
                self.flush()
                self.next_flush = now + self.config["cleanup_interval"]
            waiter.answer()
            if not busy:
                due = self.next_flush - clock.monotonic()
                waiter.sleep(due if 0 < due < self.config["poll_interval"] else self.config["poll_interval"])
        self.flush()

    def read_some(self, once: bool = False) -> bool:
        """Read and fold one batch; False when there was none."""
        try:
            batch = self.follower.read(clock.monotonic(), once)
            if not self.follower.blocked:
                self.trouble.over("%s can be read again" % self.follower.path)
        except LogError as error:
            if once:
                raise
            self.trouble.report(error, "trying again until it works")
            return False
        if batch is None:
            return False
        self.tracker.calendar.newest = int(clock.time()) * SECOND
        if batch.file_start != self.file_start:     # mostly newer lines; but a log that was cut, or restored, is read anew
            self.file_start = batch.file_start
            self.recorder.expect(min(times_in(batch.lines, self.tracker.calendar.newest), default=0))
        self.tracker.feed(*batch)
        self.quiet_since, self.log_time = clock.monotonic(), self.tracker.correlator.now
        return True

    def let_time_pass(self) -> None:
        """At the end of the log its clock goes on by ours: by the time for which nothing has come since the last line, whatever its stamp.
        It stands still while there may be lines that cannot be read.
        """
        if self.log_time:
            self.tracker.correlator.advance(self.log_time + int(max(self.follower.idle_at - self.quiet_since, 0) * SECOND))

    def flush(self) -> None:
        """Write what is finished, then save the position before the first line that is still needed."""
        self.recorder.flush()
        self.try_to_save(self.place())

    def place(self) -> Optional[Place]:
        """Where the next run is to begin."""
        low = self.tracker.correlator.low_water(self.follower.position)
        place = self.follower.place(low)
        return place._replace(repeated=self.tracker.calendar.is_repeated(low)) if place is not None else None

    def try_to_save(self, place: Optional[Place]) -> None:
        """Save a position; while that fails, everything goes on, for the next run would only read more again. Raises StateTaken."""
        try:
            self.save(place)
            self.state_trouble.over("the position is saved again")
        except StateTaken:
            raise
        except OutputError as error:
            self.state_trouble.report(error, "going on, the position is saved when that is possible")

    def once(self, progress: "Progress") -> None:
        """Read to the end of the log and write all that is known. What may still change is read again by the next run."""
        while self.read_some(once=True):
            progress.show(self.follower.position, self.recorder)
            if len(self.tracker.correlator.finished) >= MAX_FINISHED:
                self.recorder.flush()
                self.save(self.place())
        self.recorder.flush()
        place = self.place()
        self.tracker.correlator.close(everything=False)
        self.recorder.flush()
        self.save(place)
        self.follower.insist()

    def save(self, place: Optional[Place]) -> None:
        """Save a position, if there is one that can be found again; raises OutputError when that cannot be written."""
        if place is not None:
            self.state.save(place)

    def statistics(self) -> List[str]:
        """What an operator wants to know of a running daemon, a line each."""
        correlator, follower = self.tracker.correlator, self.follower
        behind = max(clock.time() - self.log_time / SECOND, 0) if self.log_time else 0
        return class_lines(self.tracker) + [
            "log: %d bytes to read, newest line %.0f s old, %d rotations, %d truncations, %d times unreadable"
            % (follower.lag(), behind, follower.rotations, follower.truncations, self.trouble.count),
            "messages: %d open, %d dropped without a recipient; sessions: %d; SPF results waiting: %d"
            % (correlator.open_count, correlator.dropped, len(correlator.sessions), correlator.spf.count_free()),
            "database: %d rows written, %d refused, %d times in trouble"
            % (self.recorder.rows, self.recorder.rejects.count, self.recorder.trouble.count)]


def class_lines(tracker: Tracker) -> List[str]:
    """How many lines were understood, over all and by program."""
    found = ["lines: " + ", ".join("%d %s" % pair for pair in zip(tracker.totals(), CLASSES))]
    for program, tally in sorted(tracker.tallies.items()):
        found.append("%-23s %s" % ((program or "others") + ":", ", ".join("%d %s" % pair for pair in zip(tally, CLASSES) if pair[0])))
    return found


def log_statistics(lines: Iterable[str]) -> None:
    """Put statistics into the log, whatever its level."""
    for line in lines:
        LOG.log(STATISTICS, "%s", line)


# ============================================================================ commands and main

GARBAGE = (50000, 20, 50)           # for gc: reference cycles are few, and to look for them as often as usual costs a sixth of the time
RESERVE = 4 << 20                   # bytes, never touched: to tell that there is no more memory takes some
EARLIEST = epoch(1999, 1, 1, 0)     # no Postfix has written a log before
DATE = re.compile(r"(?<![0-9])((?:19|20)[0-9]{2})([-._]?)(0[1-9]|1[0-2])\2([0-3][0-9])(?:[0-9]{2}){0,3}(?![0-9])")    # a time may follow
PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, STATISTICS: 5, logging.INFO: 6, logging.DEBUG: 7}  # syslog(3)


# -- following, once or for good

class Progress:
    """A line on a terminal that tells how far a one-shot command is; nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self.began = self.shown = clock.monotonic()
        self.visible = sys.stderr is not None and sys.stderr.isatty()

    def show(self, position: int, recorder: Recorder) -> None:
        """Show bytes, lines per second and rows, five times a second."""
        now = clock.monotonic()
        if self.visible and now - self.shown >= 0.2:
            self.shown = now
            rate = sum(recorder.tracker.totals()) / (now - self.began)
            try:
                sys.stderr.write("\r%.1f MB, %.0f lines/s, %d rows \r" % (position / 1e6, rate, recorder.rows))
                sys.stderr.flush()
            except OSError:                 # the terminal is gone, the work goes on
                self.visible = False


def rejects_of(config: Config) -> RejectFile:
    """Where the rows go that the database refuses while the log is followed: beside the state."""
    return RejectFile(config["state_file"] + ".rejected.jsonl")


def make_tracker(config: Config) -> Tracker:
    """The pure part, set up as configured."""
    correlator = Correlator(int(config["queue_timeout"] * SECOND), raw_text(config["server_hostname"]),
                            DomainFilter(config["track_domains"]))
    return Tracker(Calendar(int(clock.time()) * SECOND), correlator, lambda line: LOG.debug("unsupported line: %s", text_of(line)[:2000]),
                   functools.partial(log_failed, itertools.count(1)))


def log_failed(failures: Iterator[int], line: str) -> None:
    """Show a line that could not be handled; with -vv where it went wrong, too."""
    if next(failures) <= SAMPLES:
        LOG.error("failed line: %s", text_of(line)[:2000], exc_info=LOG.isEnabledFor(logging.DEBUG))


def run_daemon(config: Config) -> NoReturn:
    """Follow the log until stopped; ends the process."""
    state, waiter, store = StateFile(config["state_file"]), Waiter(), make_store(config)
    state.acquire()
    waiter.install()
    recorder = Recorder(store, make_tracker(config), rejects_of(config), waiter.sleep)
    daemon = Daemon(config, Follower(config["log_file"], config["rotation_check_interval"]), recorder, state)
    waiter.tell = lambda: log_statistics(daemon.statistics())
    try:
        daemon.begin()
        recorder.begin()
        daemon.follow(waiter)
    except (Stopped, Interrupted):
        waiter.ending = True
        LOG.warning("stopped before all was written: what is not committed will be read again")
    finally:
        waiter.ending = True
        store.close()
        state.release()
    LOG.info("stopped")
    logging.shutdown()
    os._exit(0)                             # to free a large memory object by object takes longer than a stop may


def run_once(config: Config, dry_run: bool) -> int:
    """Read from the saved position to the end of the log."""
    state = (UntouchedState if dry_run else StateFile)(config["state_file"])
    store = SqliteStore("") if dry_run else make_store(config)
    state.acquire()
    tracker = make_tracker(config)
    recorder = Recorder(store, tracker, rejects_of(config), pause, ONE_SHOT_TRIES)
    daemon = Daemon(config, Follower(config["log_file"], config["rotation_check_interval"]), recorder, state)
    daemon.begin()
    recorder.begin()
    daemon.once(Progress())
    show_results(recorder, dry_run)
    store.close()
    state.release()
    return 0


def pause(seconds: float) -> bool:
    """Wait, where no signal handler is installed: a signal ends the process itself."""
    clock.sleep(seconds)
    return True


# -- --import

def run_import(config: Config, paths: List[str], dry_run: bool) -> int:
    """Read historical logs, oldest first, as one stream."""
    store = SqliteStore("") if dry_run else make_store(config)
    store.bulk = True
    tracker = make_tracker(config)
    files = sorted(map(look_at, paths))
    rejects = RejectFile("./mail_relay_tracker.rejected.jsonl", "start in another directory")
    recorder = Recorder(store, tracker, rejects, pause, ONE_SHOT_TRIES)
    recorder.begin()
    progress, position, broken = Progress(), 0, 0
    for known in files:
        recorder.expect(known.earliest)
        file = open_again(known, recorder)
        file.start = position
        tracker.calendar.newest = known.present
        broken += not import_file(file, recorder, progress)
        position = file.start + file.offset
        file.close()
    tracker.correlator.close(everything=True)
    recorder.flush()
    recorder.complete()
    show_results(recorder, dry_run)
    store.close()
    return LogError.exit_code if broken else 0


def open_import(path: str) -> LogFile:
    """A file to import; `-` is standard input."""
    if path.endswith(PACKED_OTHERWISE):
        raise LogError("cannot read %s: it is packed in a way that is not understood: unpack it first" % path)
    try:
        if path == "-" or stat.S_ISFIFO(os.stat(path).st_mode):
            return LogFile(path, 0, lambda _: open_log("/dev/fd/%d" % copy_of(path).fileno()))
        return LogFile(path, 0)
    except BAD_FILE as error:
        raise unreadable(path, error) from error


def unreadable(path: str, error: Exception) -> LogError:
    """What is told of a file that cannot be imported."""
    remedy = machine_remedy(error, "name log files, plain, .gz, .bz2 or .xz")
    if getattr(error, "errno", 0) in (errno.EACCES, errno.EPERM):
        remedy = "make it readable for user %s" % user_name()
    return LogError("cannot read %s: %s: %s" % (path, reason_of(error), remedy))


@functools.lru_cache(maxsize=None)
def copy_of(path: str) -> IO[bytes]:
    """A pipe's content in a temporary file, for what is imported is looked at twice. The file has no name, so that nothing is left of it
    however the import ends.
    """
    try:
        handle = tempfile.TemporaryFile()
        handle.writelines(chunks_of(path))
        handle.flush()
    except OSError as error:
        raise OutputError("cannot keep what comes from %s in the temporary folder %s: %s: make room, or name another one, TMPDIR=/var/tmp"
                          % (path, tempfile.tempdir or "", error.strerror)) from error
    return handle


def chunks_of(path: str) -> Iterator[bytes]:
    """What a pipe gives; raises LogError when it cannot be read."""
    if path == "-" and sys.stdin is None:
        raise LogError("standard input is closed: send a log there, or name files")
    try:
        with cast(io.BufferedReader, open(path, "rb") if path != "-" else sys.stdin.buffer) as source:
            yield from iter(lambda: source.read1(CHUNK), b"")       # read() would not hear a signal that comes between two pieces
    except OSError as error:
        raise unreadable(path, error) from error


class Historical(NamedTuple):
    """A file to import as it was looked at; they are read in the order of these. Times are in microseconds.

    It was `begun` at the middle one of its first stamps, for some may be odd (begun_at). The `earliest` of these tells what may have been
    read before. `present` is the present to it, for stamps without a year.
    """

    begun: int
    earliest: int
    present: int
    path: str
    identity: Tuple[int, int]


def date_in(name: str) -> Optional[int]:
    """The last date in a file's name, in microseconds; logrotate's `dateext` puts one there. None when there is none.

    >>> date_in("maillog-2025110503.gz") == date_in("mail.2025-11-05.log") == epoch(2025, 11, 5, 0)
    True
    >>> date_in("mail.log.1"), date_in("20250231")
    (None, None)
    """
    found = DATE.findall(name)
    try:
        return epoch(int(found[-1][0]), int(found[-1][2]), int(found[-1][3]), 0) if found else None
    except ValueError:
        return None


def written_to(file: LogFile) -> int:
    """When a file to import was last written to, in microseconds. Where an archive sets all to 0, or to a day before any Postfix, that is
    now. A copy that was made about a year after the date in its name, or later, has lost it: then it is about that date.
    """
    mtime = file.mtime()
    mtime = mtime if mtime >= EARLIEST else int(clock.time()) * SECOND
    dated = date_in(os.path.basename(file.path)) or mtime
    return mtime if mtime - dated < 360 * DAY else dated + 183 * DAY


def look_at(path: str) -> Historical:
    """A file to import, looked at and closed again.

    The present is when it was last written to. A copy may have lost that: then its last line, read as of the copy, is nearer.
    """
    file = open_import(path)
    times, present = [0], written_to(file)
    try:
        head = file.opening(file.peek(0, MAX_LINE)).decode("latin-1").split("\n")
        if any(map(YEARLESS.match, head)):
            present = (times_in(end_of(file), present) or [present])[-1]
        times = sorted(times_in(head, present)) or times
    except BAD_FILE as error:
        LOG.debug("cannot read %s: %s", path, error)
    file.close()
    return Historical(times[len(times) // 2], times[0], present, path, file.identity)


def open_again(known: Historical, recorder: Recorder) -> LogFile:
    """A file that was looked at before; raises LogError, with all written that was read, when it is another one by now."""
    try:
        file = open_import(known.path)
        if file.identity != known.identity:
            file.close()
            raise LogError("%s is another file by now, as after a rotation: import again; what was read already changes nothing"
                           % known.path)
        return file
    except LogError:
        recorder.flush()
        raise


def end_of(file: LogFile) -> List[str]:
    """The last lines of a file; a packed one is read through for that."""
    if not file.packed:
        file.handle.seek(max(file.size() - MAX_LINE, 0))
    data = b""
    with contextlib.suppress(*BAD_FILE):    # of a damaged one the last that can be read
        for more in iter(file.fetch, b""):
            data = (data + more)[-MAX_LINE:]
    return data.decode("latin-1").split("\n")[-100:]


def import_file(file: LogFile, recorder: Recorder, progress: Progress) -> bool:
    """Read one file to its end; False when it is damaged on the way."""
    whole = True
    while not file.at_end:
        try:
            batches = file.lines()
        except BAD_FILE as error:
            LOG.error("cannot read on in %s: %s; what was read counts", file.path, error)
            whole, file.at_end = False, True
        for batch in file.last_line() if file.at_end else batches:
            recorder.tracker.feed(*batch)
        if len(recorder.tracker.correlator.finished) >= BATCH_ROWS // 2:
            recorder.flush()
        progress.show(file.start + file.offset, recorder)
    return whole


# -- what is shown

def silence(descriptor: int) -> None:
    """Let a descriptor that cannot be written to lead nowhere: at its end the interpreter flushes what is left, and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def show(lines: Iterable[str], stream: Optional[TextIO], name: str = "standard output") -> None:
    """Print lines; raises OutputError when that cannot be done, BrokenPipeError when nobody reads them any more."""
    if stream is None:
        raise OutputError("%s is closed: leave it open, or send it to a file" % name)
    coding = stream.encoding or "utf-8"     # in the C locale ASCII
    try:
        for line in lines:
            print(line.encode(coding, "backslashreplace").decode(coding), file=stream)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(stream.fileno())
        raise OutputError("%s: %s: make room, or send it elsewhere" % (name, error.strerror)) from error


def show_results(recorder: Recorder, dry_run: bool) -> None:
    """Print the rows of a dry run, then the summary; raises OutputError."""
    if dry_run:
        show(map(row_json, cast(SqliteStore, recorder.store).all_rows()), sys.stdout)
        show(summary(recorder, dry_run), sys.stderr, "standard error")
    else:
        show(summary(recorder, dry_run), sys.stdout)


def summary(recorder: Recorder, dry_run: bool) -> List[str]:
    """What a one-shot command did, at a glance."""
    totals = recorder.tracker.totals()
    outcomes = recorder.store.outcomes(recorder.first, recorder.last, sorted(recorder.hosts)) if recorder.hosts else []
    lines = ["lines     %9d read: %s" % (sum(totals), ", ".join("%d %s" % pair for pair in zip(totals, CLASSES)))]
    lines += ["  " + line for line in class_lines(recorder.tracker)[1:]]
    lines.append("messages  %9d" % sum(messages for _, _, messages in outcomes))
    where = "shown, none written: a dry run" if dry_run else "in %s (%d written now)" % (recorder.store.name, recorder.rows)
    lines.append("rows      %9d %s" % (sum(rows for _, rows, _ in outcomes), where))
    lines += ["  %-12s%5d" % (status, rows) for status, rows, _ in outcomes]
    refused = recorder.rejects.count
    return lines + ["refused   %9d by the database, kept in %s" % (refused, recorder.rejects.path)] if refused else lines


# -- --check

def run_check(config: Config) -> int:
    """Check configuration, log, state, database and schema: a line each."""
    faults = 0
    for name, check in (("configuration", check_config), ("log", check_log), ("state", check_state), ("database", check_database)):
        try:
            told = "ok    %-14s%s" % (name, check(config))
        except TrackerError as error:
            told = "FAULT %-14s%s" % (name, error)
            faults += 1
        show([told], sys.stdout)
    return 1 if faults else 0


def check_config(config: Config) -> str:
    """The configuration was read already, or we would not be here."""
    tracked = ", ".join(config["track_domains"]) or "all recipients"
    return "%s; tracking %s" % (config.source, tracked)


def check_log(config: Config) -> str:
    """The log can be opened, and holds lines that we understand."""
    follower = Follower(config["log_file"], config["rotation_check_interval"])
    follower.begin(None, at_end=False)
    if not follower.files:
        raise LogError("log file %s: no such file: check [logging] log_file" % config["log_file"])
    tracker = make_tracker(config)
    batch = follower.read(0.0, once=True)
    follower.insist()
    if batch is not None:
        tracker.feed(*batch)
    known, size = tracker.totals()[PARSED], follower.current.size()
    follower.close()
    rotated = siblings(config["log_file"])
    for name in rotated[-1:]:
        if not os.access(name, os.R_OK):
            raise LogError("rotated log %s: cannot be read, but after a stop the rest of it may have to be: make it readable for user %s"
                           % (name, user_name()))
    return "%s, %d bytes, %d rotated files; %s" % (
        config["log_file"], size, len(rotated),
        "%d of the first lines tell of mail" % known if known else "none of the first lines tells of mail yet")


def check_state(config: Config) -> str:
    """The state file, and the one for refused rows beside it, can be written, and what the first says."""
    state = StateFile(config["state_file"])
    running = is_locked(state.path + ".lock")       # and then the temporary file is not to be touched
    state.rehearse(".check-%d" % os.getpid() if running else ".tmp", STATE_BYTES)
    rejects_of(config).rehearse()
    if running:
        return "%s, in use by a running tracker" % state.path
    try:
        place = state.look()
    except ValueError as error:
        raise OutputError("state file %s: %s: it would be moved aside, and [logging] start decide where to begin"
                          % (state.path, error)) from error
    return "%s, %s" % (state.path, "position %d" % place.position if place else "no position saved yet")


def is_locked(path: str) -> bool:
    """Whether a tracker holds this lock file."""
    try:
        with open_lock(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise OutputError("lock file %s: %s: %s" % (path, error.strerror, remedy_of(error, path))) from error
    return False


def check_database(config: Config) -> str:
    """The database answers, the table has all columns and takes rows."""
    store = make_store(config)
    if isinstance(store, SqliteStore) and not os.path.exists(store.path):
        if not os.access(store.folder, os.W_OK):
            raise ConfigError("%s: cannot write to %s: create it, writable for user %s" % (store.name, store.folder, user_name()))
        return "%s, to be made" % store.name
    store.connect()
    store.rehearse()
    newest, weakness = store.newest(), store.weakness()
    store.close()
    told = "%s, table mail_relay_log, newest row %s" % (store.name, time_text(newest) if newest else "none yet")
    return "%s; %s" % (told, weakness) if weakness else told


# -- the command line

class ArgumentParser(argparse.ArgumentParser):
    """Usage errors with their own exit code, and help that is shown as all else is."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        raise UsageError("%s: see --help" % message)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Show the help, or the version; argparse itself takes no notice when that cannot be written."""
        show(message.splitlines(), sys.stdout)


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(prog="mail_relay_tracker.py", description="Record in a database what became of every mail in a Postfix log.",
                            epilog="Without a command: follow the log until stopped.")
    parser.add_argument("-c", "--config", metavar="FILE", help="configuration (default: %s)" % ", ".join(CONFIG_FILES))
    parser.add_argument("-v", "--verbose", action="count", default=0, help="tell what is done; -vv: in detail")
    command = parser.add_mutually_exclusive_group()
    command.add_argument("--once", action="store_true", help="read to the end of the log, write what is known, exit")
    command.add_argument("--import", dest="imported", metavar="FILE", nargs="+", action="append",
                         help="historical logs: plain, .gz, .bz2, .xz or - for standard input, in any order")
    command.add_argument("--check", action="store_true", help="check configuration, log, state, database and schema, exit")
    command.add_argument("--version", action="version", version="mail_relay_tracker " + VERSION)
    parser.add_argument("--dry-run", action="store_true", help="with --once or --import: rows as JSON lines instead of the database")
    found = parser.parse_args(arguments)
    if found.dry_run and not (found.once or found.imported):
        parser.error("--dry-run goes with --once or --import")
    return found


def run(arguments: argparse.Namespace) -> int:
    """Carry out a command; returns the exit code."""
    gc.set_threshold(*GARBAGE)
    config = load_config(find_config(arguments.config))
    if arguments.check:
        return run_check(config)
    if arguments.imported:
        return run_import(config, list(itertools.chain(*arguments.imported)), arguments.dry_run)
    return run_once(config, arguments.dry_run) if arguments.once else run_daemon(config)


def is_journal(stream: Optional[TextIO]) -> bool:
    """Whether systemd's journal reads a stream: its device and inode are told to a service (systemd.exec(5), JOURNAL_STREAM)."""
    if stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except OSError:                         # it has no descriptor
        return False
    return os.environ.get("JOURNAL_STREAM") == "%d:%d" % (status.st_dev, status.st_ino)


def addressed(text: str, level: int, to_journal: bool) -> str:
    """A message as its reader takes it: the journal names the program itself, and is told how severe each line is (sd-daemon(3)), so that
    `journalctl -p warning` shows what is to be mended.
    """
    opening = "<%d>" % PRIORITIES[level] if to_journal else "mail_relay_tracker: "
    return opening + text.replace("\n", "\n" + opening)


class Addressed(logging.Formatter):
    """Messages as the reader of a stream takes them."""

    def __init__(self, stream: Optional[TextIO]) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self.to_journal = is_journal(stream)

    def format(self, record: logging.LogRecord) -> str:
        """The message behind its level."""
        return addressed(super().format(record), record.levelno, self.to_journal)


def log_to(stream: Optional[TextIO], level: int) -> None:
    """Send what is logged to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Addressed(stream))
    logging.basicConfig(handlers=[handler])
    logging.addLevelName(STATISTICS, "STATISTICS")
    LOG.setLevel(level)                     # not the driver's


def main(arguments: Optional[List[str]] = None) -> int:
    """The program: a command, its errors told in one line each, its exit code."""
    reserve = bytes(RESERVE)
    try:
        found = parse_arguments(arguments)
        log_to(sys.stderr, (logging.WARNING, logging.INFO, logging.DEBUG)[min(found.verbose, 2)])
        return run(found)
    except TrackerError as error:
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return complain("interrupted: what was written stays, and may be written again", 130)
    except MemoryError:
        del reserve
        return complain("out of memory: raise its limit (MemoryMax=, `ulimit -v`); the log was not read to its end", LogError.exit_code)
    except BrokenPipeError:
        silence(1)
        return complain("standard output was closed by its reader", OutputError.exit_code)
    finally:
        let_go_of_errors()


def complain(text: str, code: int) -> int:
    """Tell what is wrong in one line, if anybody still listens; returns the exit code."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # its reader is gone, or its disk is full: the exit code tells all the same
            print(addressed(text, logging.ERROR, is_journal(sys.stderr)), file=sys.stderr)
    return code


def let_go_of_errors() -> None:
    """Give up what standard error did not take: at its end the interpreter would try again, and end with a code of its own, 120."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:
        silence(2)


if __name__ == "__main__":
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_DFL)        # Python takes a while to end, and shows a traceback when interrupted
    sys.exit(status)
