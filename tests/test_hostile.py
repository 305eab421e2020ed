"""Hostile text: whatever a stranger writes where he may write, only the field that holds it shows it.

Carriers are the samples of every line template (tests/unit/samples) and the stories. PLACES is the table of what strangers control: a
pattern that finds the place in a line, and what its program lets through there. Every attack is put into every place, and the outcome
held against that of a harmless word in the same place: all fields, all rows, all columns are the same, but where the word stood stands
the attack. AMBIGUOUS lists the places whose format cannot be read with certainty, and what is promised all the same.
"""
import functools
import itertools
import re
import urllib.parse
from typing import Callable, NamedTuple, Optional, Pattern
from unittest import mock

import pytest
from conftest import ROOT

from tests.unit.replay import PRESENT, Replay, event_of, read_story, tracker
from tests.unit.test_samples import ALL, outcome_of_text

DOMAIN = "@stranger.example"
ORDINARY = r'(?:"(?:[^"\\]|\\.)*"|[^][\s<>(),;:\\"@]+)(?:@[^\s<>(),;\\"@]+)?>, '
WHOLE_DELIVERY = re.compile(ORDINARY + "(?:orig_to=<" + ORDINARY + r")?relay=[^,<>]*(?:, [a-z_]+=[^,<>]*)*?, status=[a-z]+ \(", re.S)
VICTIM, OWN = "4E00061AB", "4F00061AE"      # the message of another client that is in the queue all the while, and the carriers' own


# -- what programs make of a stranger's text; all text here is held one character per byte, as the tracker does

def printable(text):
    """Postfix shows control characters, and bytes that are no UTF-8, as `?` (printable.c)."""
    readable = text.encode("latin-1").decode("utf-8", "replace").replace("\ufffd", "?")
    return re.sub("[\x00-\x1f\x7f]", "?", readable).encode("utf-8").decode("latin-1")


def quoted(local):
    """A local part in external form; what stands before the colon of a source route is left alone (quote_822_local.c)."""
    route, local = re.match(r"(@[^:]*:|)(.*)", local, re.S).groups()
    if re.fullmatch(r"[^][\x00- ()<>@,;:\\\"\x7f.]+(?:\.[^][\x00- ()<>@,;:\\\"\x7f.]+)*", local):
        return route + local
    return '%s"%s"' % (route, re.sub(r'(["\\\r])', r"\\\1", local))


def address(text):
    """A stranger's address as Postfix 3.5 and later log it."""
    return printable(quoted(text) + DOMAIN)


def quoted_address(text):
    """The same as other programs write it, who know no source routes."""
    return printable(quoted(" " + text).replace('" ', '"', 1) + DOMAIN)


def bare_address(text):
    """The same before 3.5, and wherever an address stands within a text."""
    return printable(text + DOMAIN)


def internal_address(text):
    """The same with a delivery. Not an ordinary address with all fields behind it: so 3.5 and later log a delivery, and so it is read."""
    written = bare_address(text)
    return None if WHOLE_DELIVERY.match(written) else written


def local_address(text):
    """An address without a domain."""
    return printable(quoted(text))


def smtpd_helo(text):
    """A HELO name as smtpd keeps it (smtpd.c: NEUTER_CHARACTERS)."""
    return re.sub(r'[ <>()\\";@]', "?", printable(text))


def postscreen_helo(text):
    """A HELO name as postscreen keeps it: the first word."""
    return printable(text).replace(" ", "") or None


def host_name(text):
    """A name that a resolver gave: letters, digits, `-`, `.` and `_`, not all of it a number (valid_hostname.c)."""
    name = re.sub(r"[^0-9A-Za-z._-]+", "", text)
    name = ".".join(label.strip("-")[:63] for label in name.split(".") if label.strip("-"))[:250]
    return name if re.search(r"[^0-9.-]", name) else None


def header(text):
    """The beginning of a header or body line: 200 bytes with its name (cleanup_message.c)."""
    return printable(text)[:180]


def mime_text(text):
    """What cleanup shows of a header that it cannot accept."""
    return printable(text)[:80]


def lower(text):
    """A sender as policyd-spf sees it: letters in lower case, not bytes."""
    seen = bare_address(text).encode("latin-1").decode("utf-8", "surrogateescape")
    return seen.lower().encode("utf-8", "surrogateescape").decode("latin-1")


def perl_address(text):
    """A sender as policyd-spf-perl logs it, between quotes."""
    return re.sub(r'(["\\])', r"\\\1", bare_address(text))


def uri(text):
    """A sender within the URL of policyd-spf-perl."""
    return urllib.parse.quote(bare_address(text), safe="", encoding="latin-1")


def tag_value(text):
    """A value of a DKIM-Signature: no blank, no semicolon."""
    return re.sub(r"[\s;]", "", printable(text)) or None


def name_in_from(text):
    """A From domain, as opendmarc takes it out of the header: a word without colon."""
    return re.sub(r"[\s:@<>]", "", printable(text)).lower() or None


def spamd_id(text):
    """A Message-ID as spamd logs it with its result: blanks and commas replaced."""
    return "<%s>" % re.sub(r"[\x00-\x20,\x7f]", "_", text)


def spampd_id(text):
    """A Message-ID as spampd logs it."""
    return "<%s>" % re.sub(r"[^!-~]|[<>]", "?", text)


def message_id(text):
    """A Message-ID header."""
    return "<%s>" % printable(text)


def bracketless(text):
    """The content of a Message-ID, which ends at its bracket."""
    return printable(text).replace(">", "") or None


def raw(text):
    """Bytes as they come, but for those that end a line."""
    return text.replace("\n", "#012").replace("\0", "#000")


class Place(NamedTuple):
    """Where a stranger's text stands: group 1 of `pattern` in lines of these programs. `writes`: what his text becomes there."""

    name: str
    programs: str
    pattern: Pattern[str]
    writes: Callable[[str], Optional[str]]


def place(name, programs, pattern, writes):
    return Place(name, programs, re.compile(pattern, re.S), writes)


AGENTS = "smtp lmtp local virtual pipe error retry discard qmgr cleanup"
WORD = r"([^<>\"@ ]+@[^<>\" ]+)"
PLACES = (
    place("recipient", AGENTS, r": to=<" + WORD + ">", address),
    place("recipient without domain", AGENTS, r": to=<" + WORD + ">", local_address),
    place("recipient, internal form", AGENTS, r": to=<" + WORD + ">", internal_address),
    place("orig_to", AGENTS, r", orig_to=<" + WORD + ">", address),
    place("orig_to, internal form", AGENTS, r", orig_to=<" + WORD + ">", internal_address),
    place("queued sender", "qmgr pickup", r": (?:uid=[0-9]+ )?from=<" + WORD + ">", address),
    place("queued sender, internal form", "qmgr pickup", r": (?:uid=[0-9]+ )?from=<" + WORD + ">", bare_address),
    place("envelope sender", "smtpd cleanup postscreen", r"; from=<" + WORD + ">", address),
    place("envelope sender without domain", "smtpd cleanup postscreen", r"; from=<" + WORD + ">", local_address),
    place("envelope sender, internal form", "smtpd cleanup postscreen", r"; from=<" + WORD + ">", bare_address),
    place("envelope recipient", "smtpd cleanup postscreen", r"[ ;,] to=<" + WORD + ">", address),
    place("envelope recipient without domain", "smtpd cleanup postscreen", r"[ ;,] to=<" + WORD + ">", local_address),
    place("envelope recipient, internal form", "smtpd cleanup postscreen", r"[ ;,] to=<" + WORD + ">", bare_address),
    place("HELO", "smtpd cleanup", r" helo=<([^>]+)>", smtpd_helo),
    place("HELO in a refusal", "smtpd", r": [245][0-9]{2} [245]\.[0-9.]+ <([^>]+)>: Helo", smtpd_helo),
    place("HELO at postscreen", "postscreen", r" helo=<([^ ]+)>$", postscreen_helo),
    place("client name", "smtpd cleanup", r"(?: from |: client=)([^] []+)\[(?!\S+ to=<@ from )", host_name),     # not one in a subject
    place("client name of XFORWARD", "smtpd", r", orig_client=([^] []+)", host_name),
    place("login name", "smtpd", r": client=.*sasl_username=([^,<>]+)", printable),
    place("login name of a refusal", "smtpd", r" helo=.* sasl_username=([^ ,<>]+)", printable),
    place("login name of a refusal, in brackets", "smtpd", r" sasl_username=<([^>]+)>", printable),
    place("refusal", "smtpd postscreen", r"reject: [A-Z-]+ from [^ ]+: [45][0-9]{2} [45]\.[0-9.]+ (.*?); from=", printable),
    place("decision", "smtpd", r"(?:hold|discard|filter|redirect|bcc|delay|info|warn|permit|hangup|reject_warning): [A-Z-]+ from [^ ]+: "
          r"(.*?); from=", printable),
    place("filter's refusal", "smtpd", r"proxy-reject: [A-Z-]+: [45][0-9]{2} [45]\.[0-9.]+ (.*?); from=", printable),
    place("what a filter found", "smtpd", r"proxy-reject: [A-Z-]+: [45][0-9]{2} [45]\.[0-9.]+ Reject, id=[^ ]+ - (.*?); from=", printable),
    place("recipient that a filter refuses", "smtpd", r"rejected \"RCPT TO:<" + WORD + ">", address),
    place("filter's refusal of a command", "smtpd", r"rejected \"[^\"]+\": \"[45][0-9]{2} [45]\.[0-9.]+ (.*)\"$", printable),
    place("milter's text", "cleanup", r"milter-[a-z]+: [A-Z-]+ from [^ ]+: (?:[45]\.[0-9.]+ )?(.*?); (?:from|proto)=", printable),
    place("header", "cleanup", r": (?:header|body) (?:[A-Za-z-]+: )?(.*?) from (?:local|unknown|[^ ]+\[[^ ]+);(?! to=<@ from )", header),
    place("header of a MIME error", "cleanup", r" header: (?:[A-Za-z-]+: )?(.*?) from (?:local|[^ ]+\[[^ ]+);", mime_text),
    place("Message-ID", "cleanup", r"message-id=(.+)$", printable),
    place("Message-ID in brackets", "cleanup", r"message-id=(<[^<>]+>)$", message_id),
    place("reply to a command", "smtp lmtp error retry", r"said: (?:[2-5][0-9]{2}[ -])?(?:[245]\.[0-9.]+ )?(.*?)(?: \(in reply to|\)$)",
          printable),
    place("reply to the message", "smtp lmtp", r"status=(?:sent|deliverable) \([0-9]{3}[ -](.*)\)$", printable),
    place("recipient that a reply repeats", "smtp lmtp", r"status=sent \(250 2\.[0-9.]+ <" + WORD + ">", quoted_address),
    place("Message-ID that a reply repeats", "smtp", r"status=sent \(250 2\.6\.0 <([^<>]+)>", bracketless),
    place("greeting", "smtp lmtp retry", r"(?:refused to talk to me|refused to start TLS): [0-9]{3} (.*?)\)?$", printable),
    place("next hop", "smtp lmtp", r"relay=([^] []+)\[[0-9a-f.:]+\]:", host_name),
    place("unknown user", "local virtual", r"unknown user: \"([^\"]+)\"", printable),
    place("a command's output", "pipe", r"Command output: (.*)\)$", printable),
    place("a command's own text", "pipe", r"status=(?:bounced|deferred) \(([a-z].*)\)$", printable),
    place("noise of smtpd", "smtpd", r"(?:(?<!reject_)warning: (?!proxy ).*?|improper command .*?\]): (.*)$", printable),
    place("noise of postscreen", "postscreen", r"(?:PREGREET|COMMAND|NON-SMTP) .*?\]:[0-9]+(?: after [A-Z]+)?: (.*)$", printable),
    place("noise of smtp", "smtp", r": (?:warning|info|replace|prepend|strip): (?:header|body) (.*)$", printable),
    place("name in a certificate", "smtpd smtp", r"subject_CN=([^,]+),", printable),
    place("TLS name", "smtpd smtp", r"TLS connection [a-z]+ (?:from|to) [^ ]+ to ([^ ]+):", host_name),
    place("key selector", "opendkim dkimpy-milter", r"(?:: |(?:failed|revoked|verified) \()s=([^ ,)]+)", tag_value),
    place("signing domain", "opendkim dkimpy-milter", r"(?:: |(?:failed|revoked|verified) \()s=[^ ,)]+,? d=([^ ,)]+)", tag_value),
    place("selector of a result", "opendkim", r" selector=([^ ]+)", tag_value),
    place("domain of a result", "opendkim", r" domain=([^ ]+)", tag_value),
    place("part of a signature", "opendkim", r"signature=([^ ]+) ", tag_value),
    place("why a signature is bad", "opendkim", r": (?:syntax error|s=.* SSL|RFC5322[^:]*|resource unavailable): (.+)$", raw),
    place("header that opendkim cannot read", "opendkim", r"(?:value|field) '(.*)'", raw),
    place("sender that is not signed", "opendkim", r"match for '(.*)'", raw),
    place("client that is not internal", "opendkim", r": ([^ []+) \[[0-9a-f.:]+\] not internal", host_name),
    place("From domain", "opendmarc", r": ([^ :]+) (?:pass|fail|none|temperror)$", name_in_from),
    place("From domain that was asked for", "opendmarc", r"_query_dmarc\(([^)]+)\)", host_name),
    place("identity of SPF", "opendmarc", r"SPF\([a-z]+\): ([^ ]+) ", bare_address),
    place("explanation of SPF", "policyd-spf", r"(?:Received-SPF: [A-Za-z]+|spf=[a-z]+) \((.*?)\) (?:identity|smtp)", raw),
    place("HELO of SPF", "policyd-spf policy-spf", r"; helo=([^;]+);", smtpd_helo),
    place("sender of SPF", "policyd-spf", r"; envelope-from=(?!<>|\")([^;]+);", lower),
    place("explanation of a refusal by SPF", "policyd-spf pyspf-milter", r"due to: (.*)\. Please see", raw),
    place("sender of a refusal by SPF", "policyd-spf", r";id=([^@;]+@[^;]+);", lower),
    place("HELO of smf-spf", "smf-spf", r", helo=([^,]+), from=", smtpd_helo),
    place("sender of smf-spf", "smf-spf", r", from=<" + WORD + ">$", quoted_address),
    place("explanation of SPF in Perl", "policy-spf", r"Received-SPF: [a-z]+ \((.*)\) receiver=", raw),
    place("sender of SPF in Perl", "policy-spf", r"envelope-from=\"([^\"]+)\"", perl_address),
    place("sender of a refusal by SPF in Perl", "policy-spf", r";id=([^;]+%40[^;]+);", uri),
    place("scanned Message-ID", "spamd", r"(?:processing|checking) message (<[^<>]+>)", message_id),
    place("resent Message-ID", "spamd", r" aka (<[^<>]+>)", message_id),
    place("Message-ID of a result", "spamd", r",mid=(<[^<>]+>)", spamd_id),
    place("resent Message-ID of a result", "spamd", r",rmid=(<[^<>]+>)", spamd_id),
    place("Message-ID as spampd tells it", "spampd", r"(?:processing message|clean message|identified spam) (<[^<>]+>)", spampd_id),
    place("spampd's sender", "spampd", r" from <" + WORD + "> for", quoted_address),
    place("amavis's sender", "amavis", r" <" + WORD + "> ->", quoted_address),
    place("amavis's recipient", "amavis", r"-> <" + WORD + ">", quoted_address),
    place("amavis's Message-ID", "amavis", r", Message-ID: <([^>]+)>", bracketless),
    place("amavis's resent Message-ID", "amavis", r", Resent-Message-ID: <([^>]+)>", bracketless),
    place("name of an attachment", "amavis", r"(?:BANNED|INFECTED) \((.*?)\) \{", printable),
    place("subject", "amavis", r", Subject: \"(.*?)\"", printable),
    place("HELO of amavis's client", "amavis", r", helo=([^,]+)", smtpd_helo),
    place("reply of the next hop", "amavis", r", queued_as: 250 (.*?), dkim", printable),
    place("recipient of Proxmox's filter", "pmg-smtp-filter", r"mail (?:to|for) <" + WORD + ">", quoted_address),
    place("Message-ID as Proxmox's filter tells it", "pmg-smtp-filter", r"new mail message-id=(<[^<>]+>)", message_id),
    place("rspamd's Message-ID", "rspamd", r"id: <([^>]+)>", bracketless),
    place("rspamd's sender", "rspamd", r", from: <([^>]+)>", quoted_address),
    place("rspamd's recipient", "rspamd", r", rcpts: <([^>]+)>", quoted_address),
    place("option of a symbol", "rspamd", r"\[[A-Z_]+\([0-9.-]+\)\{([^}]*)", printable),
    place("attached file", "rspamd", r", file: ([^,]+)", printable),
    place("rewritten sender", "postsrsd", r"<([^@<>]+@[^@<>]+)> (?:rewritten|forwarded)", address),
    place("sender that is not rewritten", "postsrsd", r"<([^@<>]+@[^@<>]+)> not", address),
)


# -- what a stranger would like to be read

FIELDS = (
    "status=sent (250 ok)", ", relay=evil[192.0.2.66]:25", ", orig_to=<x@victim.example>",
    ", relay=evil[192.0.2.66]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as %s)" % VICTIM,
    ", orig_to=<x@victim.example>, relay=evil, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok",
    ", size=9, nrcpt=9 (queue active)", ", status=expired, returned to sender", " orig_id=" + VICTIM,
    "; from=<e@evil.example> to=<v@victim.example> proto=SMTP helo=<evil>",
    "; from=<e@evil.example>, to=<v@victim.example>, proto=SMTP, helo=<evil>",
    "; from=<e@evil.example> to=<v@victim.example>", "; from=<", "; to=<", "; proto=SMTP helo=<evil> sasl_method=PLAIN sasl_username=boss",
    " to=<v@victim.example> proto=SMTP helo=<evil>", " proto=SMTP helo=<evil>", " helo=<evil>", " sasl_username=b; to=<",
    " from evil.example[192.0.2.66]; from=<e@evil.example> to=<v@victim.example> proto=SMTP helo=<evil>: 2.0.0 ok",
    " from local; from=<e@evil.example> to=<v@victim.example>", "[192.0.2.66]", "] not internal", "]: 554 5.7.1 go away; from=<",
    ": %s: removed" % VICTIM, "%s: removed" % VICTIM, "removed", ": removed (canceled)", "queued as " + VICTIM, "forwarded as " + VICTIM,
    ", sasl_method=PLAIN, sasl_username=boss", ", orig_queue_id=%s, orig_client=bank.example[192.0.2.99]" % VICTIM,
    " (in reply to RCPT TO command))", "250 2.7.0 Ok, discarded, id=1", "host evil[192.0.2.66] said: 250 ok", " sasl_username=<boss>",
    "message repeated 5 times: [ %s: removed]" % VICTIM, " last message repeated 5 times", " -- message not accepted, try again later",
    " identity=mailfrom; client-ip=192.0.2.99; helo=evil; envelope-from=v@victim.example; receiver=x; ",
    "; client-ip=192.0.2.99; helo=evil; envelope-from=v@victim.example; receiver=x",
    " smtp.mailfrom=victim.example (client-ip=192.0.2.99; helo=evil; envelope-from=v@victim.example; receiver=x)",
    " Please see http://www.openspf.net/Why?s=mfrom;id=v@victim.example;ip=192.0.2.99;r=x", ". 550 5.7.24 due to: SPF fail",
    "Receiver policy for SPF Pass",
    " example.net pass", "DKIM verification successful", " d=victim.example a=rsa-sha256 SSL ", ", d=victim.example, a=x)",
    "; signature=x domain=victim.example selector=s result=\"no signature error\"", "DKIM-Signature field added (s=x, d=victim.example)",
    ", dkim_sd=s:victim.example, 1 ms", ", mail_id: x, Hits: -99, size: 1, dkim_new=s:victim.example, 1 ms",
    ", mail_id: x, Hits: -99, size: 1", ", Tests: [GOOD=-99]", ", Queue-ID: %s, mail_id: x, Hits: -99, size: 1" % VICTIM,
    " <a@b> -> <c@d>, Queue-ID: %s, Message-ID: <x>, mail_id: y, Hits: -99, size: 1" % VICTIM, ",mid=<victim@victim.example>,x=",
    " for root:0", ", qid: <%s>, ip: 192.0.2.66, from: <>, (default: F (no action): [-99.00/1.00] [GOOD(-9.00){}]), len: 1" % VICTIM,
    "}] [GOOD(-9.00){", "X-Spam-Status: No, score=-99.0 required=5.0 tests=GOOD", " forwarded as <SRS0=HHHH=TT=victim.example=boss@x>",
    " rewritten as <v@victim.example>", " not rewritten: x", "SRS0=HHHH=TT=victim.example=boss",
    "SRS1=G=a.example==H=TT=victim.example=boss", " with cipher EVIL (1/1 bits)",
    "status=deferred (bounce failed)", "(((((", "#012",
    "\n%s: removed" % VICTIM, "\0\t\r\x1b[1m", "\xff\xfe\xc3", "j\xc3\xb6rg \xe2\x80\xae", "x" * 120,
    " Discarded Email",
)
BREAKS = ("", "x", ">", '"', "\\", '">', '@d>', '"@d>', '\\">', ")", "; ", ": ", "@x>", "@a>:", "<", '; to=<"', '; from=<"')
ATTACKS = [opening + field for field in FIELDS for opening in BREAKS]
HARMLESS = "harmless"


class Guarantee(NamedTuple):
    """What is promised of a place that cannot be read with certainty: no field but those of `forged` is ever wrong.

    `missing`: nothing at all may be learnt from the line. `result` of an SPF check, where it is forged, is never one of `never`.
    """

    why: str
    forged: str = ""
    missing: bool = False
    never: str = ""


TRAILER = "text envelope_from recipient protocol helo sasl_username"
AMBIGUOUS = {
    "recipient, internal form": Guarantee(
        "before 3.5 a local part stands without quotes, and may hold a whole chain `>, relay=…, status=… (`: so may a reply, behind it. "
        "Of two, neither is believed; but one behind an ordinary address is the true one of 3.5 and later, whatever else follows",
        "upstream_to orig_to", missing=True),
    "orig_to, internal form": Guarantee("as the recipient", "upstream_to orig_to", missing=True),
    "envelope sender, internal form": Guarantee(
        "before 3.5 a local part stands without quotes: whether a trailer is its own, or imitated by it, nobody can say (trap 17)",
        TRAILER + " dsn client_hostname client_ip", missing=True),
    "envelope recipient, internal form": Guarantee("as the sender", TRAILER + " dsn client_hostname client_ip", missing=True),
    "login name": Guarantee("commas and blanks are allowed in it, and sasl_sender= or orig_…= may follow (3.2)", "sasl_username"),
    "login name of a refusal": Guarantee("it stands last, without quotes (3.3): so may a trailer be imitated in the text before", TRAILER),
    "login name of a refusal, in brackets": Guarantee("it stands last, and `>` is allowed in it (3.4)", TRAILER),
    "sender of SPF": Guarantee("it stands without quotes, behind an explanation that the domain's owner writes (4.3)", missing=True),
    "explanation of a refusal by SPF": Guarantee("the domain's owner writes it, the URL with the client's address comes behind it (4.3)",
                                                 "result", missing=True, never="Pass None"),
    "sender of a refusal by SPF": Guarantee("it stands without quotes within that URL", "result", missing=True, never="Pass None"),
    "signing domain": Guarantee("a word, which nobody checks, before `, a=` or `)` (4.1)", "domain algorithm"),
    "reply of the next hop": Guarantee("it stands without quotes, and names the message it made; with a template of one's own the tests "
                                       "may follow (4.7); behind one with a comma in it signatures are not read",
                                       "tests child dkim_result dkim_domain dkim_selector", never="victim.example"),
    "option of a symbol": Guarantee("it may hold brackets, and so may a Message-ID before (4.8)", missing=True),
}


# -- events

def daemon(line):
    return re.sub(r"\[[0-9]+\]$", "", line.partition(": ")[0]).rpartition("/")[2]


class Trial(NamedTuple):
    """A carrier, and a place in it. Of which table it is, and of which kind of line."""

    place: Place
    line: str
    table: str
    kind: str

    def put(self, text):
        """The line with a stranger's text, and that text as written: None, None where it cannot stand.

        The same address between brackets elsewhere in the line is his as well.
        """
        written = self.place.writes(text)
        if written is None:
            return None, None
        found = self.place.pattern.search(self.line)
        if self.place.writes is uri:
            return self.line[:found.start(1)] + written + self.line[found.end(1):], bare_address(text)
        if self.place.writes in (address, bare_address, internal_address, local_address):
            return re.sub("(?<=[a-z]=<)%s(?=>)" % re.escape(found.group(1)), lambda _: written, self.line), written
        return self.line[:found.start(1)] + written + self.line[found.end(1):], written


SAMPLES = [sample for sample in ALL if sample.file != "headers" and not sample.expected.startswith("foreign: ")
           and not sample.kind.startswith("two chains")]        # hostile themselves
TRIALS = [Trial(one, sample.line, sample.file, sample.kind) for one in PLACES for sample in SAMPLES
          if daemon(sample.line) in one.programs.split() and one.pattern.search(sample.line)]
BY_PLACE = {one.name: [trial for trial in TRIALS if trial.place is one] for one in PLACES}


def renamed(value, old, new):
    """A value, or an event, with one text exchanged for another."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, tuple):
        return type(value)(*(renamed(one, old, new) for one in value))
    return value


NOTHING = (None, tracker.IGNORED)               # a shape that nobody knows, or with nothing in it: which of them, does not matter here


VERBATIM = ("refusal",)                         # the line's own words


def differences(found, expected, guarantee):
    """In what an event differs from what it should be, against what is promised."""
    if found in NOTHING and (guarantee.missing or expected in NOTHING):
        return {}
    if type(found) is not type(expected):
        return {"event": (type(found).__name__, type(expected).__name__)}
    if not isinstance(found, tuple):
        return {}
    wrong = {name: (one, other) for name, one, other in zip(found._fields, found, expected) if one != other and name not in VERBATIM}
    return {name: values for name, values in wrong.items() if name not in guarantee.forged.split() or values[0] in guarantee.never.split()}


def attacks_on(trials):
    """(trial, attack) pairs: all attacks on the first line of a table, fewer on the first of a kind, few on the others, each its own."""
    known = set()
    for number, trial in enumerate(trials):
        step = 1 if trial.table not in known else 7 if trial.kind not in known else 97
        known |= {trial.table, trial.kind}
        for attack in ATTACKS[number % step::step]:
            yield trial, attack


def told(wrong, tried):
    """A failure, for a reader."""
    return "%d of %s lines, as\n%s" % (len(wrong), tried, "\n".join("%s\n    %s" % one for one in wrong[:5]))


def firsts(name):
    """The first line of each kind."""
    return {trial.kind: trial for trial in reversed(BY_PLACE[name])}.values()


def sparse(trials, step):
    """(trial, attack) pairs: of the attacks each trial gets one in `step`, another one than the trial before."""
    return [(trial, attack) for number, trial in enumerate(trials) for attack in ATTACKS[number % step::step]]


CERTAIN = Guarantee("")


@pytest.mark.parametrize("name", BY_PLACE)
def test_no_other_field_of_the_event_changes(name):
    wrong, tried = [], 0
    for trial, attack in attacks_on(BY_PLACE[name]):
        line, written = trial.put(attack)
        if line is None:
            continue
        tried += 1
        plain, word = trial.put(HARMLESS)
        event = differences(event_of(line), renamed(event_of(plain), word, written), AMBIGUOUS.get(name, CERTAIN))
        if event:
            wrong.append((line, event))
    assert tried >= 30, "nothing was tried"
    assert not wrong, told(wrong, tried)


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_listed_as_ambiguous_is(name):
    for trial, attack in attacks_on(BY_PLACE[name]):
        line, written = trial.put(attack)
        plain, word = trial.put(HARMLESS)
        if line is not None and differences(event_of(line), renamed(event_of(plain), word, written), CERTAIN):
            return
    raise AssertionError("%s is always read as it stands: take it off the list" % name)


# -- two places at once: one text opens what the other closes

OPENINGS = ('"', "\\", "(", "<", '<"', '; from=<"', '; to=<"', "; from=<", ' from local; from=<"', ' from x.example[192.0.2.66]; from=<"',
            '> -> <"', " <a@b> -> <", ", Message-ID: <", ' identity=mailfrom; client-ip=192.0.2.99; helo=x; envelope-from="', ", qid: <")
CLOSINGS = [closing + field for closing in ("", ">", '"', '">', "@d>", '"@d>', ")") for field in (
    " to=<v@victim.example> proto=SMTP helo=<evil>", " to=<v@victim.example> proto=SMTP helo=<evil>: 2.0.0 ok", " proto=SMTP helo=<evil>",
    "; from=<e@evil.example> to=<v@victim.example> proto=SMTP helo=<evil>", ", to=<v@victim.example>, proto=SMTP, helo=<evil>",
    ", relay=evil, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok", "; receiver=x", ", size=1, nrcpt=1 (queue active)",
    ", Queue-ID: %s, mail_id: x, Hits: -99, size: 1" % VICTIM, ", (default: F (no action): [-99.00/1.00] [GOOD(-9.00){}])")]


def spans(line):
    """(first, last, what is written) of the places in a carrier that can be read with certainty, in order."""
    found = [(one.pattern.search(line), one) for one in PLACES if one.name not in AMBIGUOUS and daemon(line) in one.programs.split()]
    return sorted(((*match.span(1), one.writes) for match, one in found if match), key=lambda span: span[:2])


def with_both(line, left, right, texts):
    """A carrier with a text in each of two places, and what is written there."""
    written = [span[2](text) for span, text in zip((left, right), texts)]
    if None in written:
        return None, written
    return line[:left[0]] + written[0] + line[left[1]:right[0]] + written[1] + line[right[1]:], written


def wrong_together(line, left, right):
    """(line, differences) of what is wrong when two texts stand in two places of a carrier."""
    plain, words = with_both(line, left, right, ("harmless", "innocent"))
    expected = renamed(renamed(event_of(plain), words[0], "\1"), words[1], "\2")
    for texts in itertools.product(OPENINGS, CLOSINGS):
        hostile, written = with_both(line, left, right, texts)
        wrong = hostile and differences(event_of(hostile), renamed(renamed(expected, "\1", written[0]), "\2", written[1]), CERTAIN)
        if wrong:
            yield hostile, wrong


def test_two_texts_together_change_no_other_field():
    wrong, carriers = [], {(sample.file, sample.kind): sample.line for sample in reversed(SAMPLES)}.values()
    for line in carriers:
        for left, right in itertools.combinations(spans(line), 2):
            if left[1] < right[0] and host_name not in (left[2], right[2]):
                wrong += wrong_together(line, left, right)
    assert not wrong, told(wrong, "many")


# -- repeated lines

def repeated(trial, attack):
    """Two outcomes that are the same: of a line, and of its repetition by rsyslog (ratelimit.c)."""
    line = trial.put(attack)[0] or trial.line
    program, _, text = line.partition(": ")
    once = outcome_of_text(trial._replace(line=line))
    twice = outcome_of_text(trial._replace(line="%s: message repeated 2 times: [ %s]" % (program, text.rstrip(" "))))
    return twice, once if once in ("ignored", "unsupported") else "2 x " + once


def test_a_repeated_line_tells_what_it_repeats():
    wrong = [(trial.line, found) for name in BY_PLACE for trial, attack in sparse(firsts(name), 167)
             if "message repeated" not in trial.line for found in [repeated(trial, attack)] if found[0] != found[1]]
    assert not wrong, told(wrong, "many")


# -- lines that were cut

def is_part(found, expected):
    """Whether a field of a cut line is absent, whole, or the beginning of what it was."""
    return found is None or found is False or found == expected or isinstance(found, str) and str(expected).startswith(found)


CUT_PLACES = [name for name in BY_PLACE if re.match("(?:envelope |queued )?(?:sender|recipient|orig_to)(?: without domain)?$", name)]


@pytest.mark.parametrize("name", CUT_PLACES)
def test_a_cut_line_tells_nothing_false(name):
    """Postfix cuts a record at 2000 bytes: where that is in the line, a stranger decides by the length of his address."""
    wrong, tried = [], 0
    for trial, attack in itertools.islice(attacks_on(BY_PLACE[name][:3]), 0, None, 7):
        line, written = trial.put("x" * 1950 + attack)
        if line is None:
            continue
        tried += 1
        plain, word = trial.put(HARMLESS)
        whole = renamed(event_of(plain), word, written)
        start = len(line.partition(": ")[0]) + 2
        cut = line[:start + 1999]
        found = event_of(cut)
        if isinstance(found, tuple) and found is not tracker.IGNORED and not (
                type(found) is type(whole) and all(map(is_part, found, whole))):
            wrong.append((cut[start:start + 80] + "…" + cut[-150:], found))
    assert not wrong, told(wrong, tried)


# -- rows

def log(*texts):
    """Lines of host mx, one after the other."""
    stamps = ("2026-11-20T10:%02d:%02d.000000+00:00 mx " % divmod(second, 60) for second in itertools.count())
    return [stamp + text for stamp, text in zip(stamps, texts)]


def delivery(queue_id, to, outcome):
    return "postfix/smtp[14]: %s: to=<%s>, relay=none, delay=1, delays=0/0/0/1, dsn=%s" % (queue_id, to, outcome)


def arrival(process, queue_id, client, mail):
    """A message comes in by SMTP."""
    return ["postfix/smtpd[%d]: connect from %s" % (process, client), "postfix/smtpd[%d]: %s: client=%s" % (process, queue_id, client),
            "postfix/cleanup[12]: %s: message-id=<%s>" % (queue_id, mail),
            "postfix/qmgr[13]: %s: from=<%s>, size=1234, nrcpt=2 (queue active)" % (queue_id, mail)]


VICTIMS = "victim.example[192.0.2.20]", "boss@victim.example"
STRANGERS = "mail.example.org[192.0.2.1]"
BANKS = "bank.example[192.0.2.99]", "v@victim.example"
SENT, WAITING = "2.0.0, status=sent (250 ok)", "4.4.1, status=deferred (no answer)"
LATER, OTHER = "4D00061AC", "4C00061AD"     # the next message of the same client, and one of still another client
OTHERS = (VICTIM, OTHER)
BEFORE = [
    *arrival(21, VICTIM, *VICTIMS), delivery(VICTIM, "v@example.com", WAITING),
    "spamd[6]: spamd: processing message <boss@victim.example> for joe:1",
    "policyd-spf[8]: prepend Received-SPF: None (mailfrom) identity=mailfrom; client-ip=192.0.2.99; helo=bank.example; "
    "envelope-from=v@victim.example; receiver=x", *arrival(11, OWN, STRANGERS, "m1@example.org")]
AFTER = [
    delivery(OWN, "c@example.com", WAITING), *arrival(11, LATER, STRANGERS, "m2@example.org"), delivery(LATER, "d@example.com", SENT),
    *arrival(22, OTHER, *BANKS), delivery(OTHER, "w@example.com", SENT), "postfix/smtpd[21]: disconnect from " + VICTIMS[0],
    delivery(VICTIM, "w@example.com", SENT), "postfix/qmgr[13]: %s: removed" % VICTIM]


def processes(line):
    """A carrier as its process writes it: that of the session under way."""
    program, _, text = line.partition(": ")
    pid = {"smtpd": 11, "spamd": 5, "policyd-spf": 9, "smtp": 15}.get(program.rpartition("/")[2], 12)
    return "%s[%d]: %s" % (re.sub(r"\[[0-9]+\]$", "", program), pid, text)


def unheard(line):
    """A line that nobody knows tells nothing; that it is counted is held elsewhere."""


def failed(line):
    raise AssertionError("an exception: %r" % line)


def rows_of(lines, recall=lambda names: {}, known=0):
    """What the daemon makes of lines."""
    reader = tracker.Tracker(tracker.Calendar(PRESENT), tracker.Correlator(30 * tracker.SECOND), unheard, failed)
    reader.feed(lines, 0, 0)
    reader.correlator.close(everything=False)
    return tracker.settle(reader.correlator.harvest(), recall, known, reader.correlator.filter)


def by_key(rows):
    return {(row.queue_id, row.recipient_no): tracker.fitted(row) for row in rows}


def log_with(line):
    """The log with a line in its midst."""
    return log(*BEFORE, processes(line), *AFTER)


@functools.lru_cache(maxsize=None)
def plain_rows(line):
    """The rows of the log with a harmless line."""
    return by_key(rows_of(log_with(line)))


def as_stored(text):
    """A text as the table holds it."""
    return text.encode("latin-1").decode("utf-8", "replace").replace("\0", "\ufffd")


def claimed(place, written):
    """{column: value} of what a stranger may say of his own mail."""
    claims = {}
    if place.name == "reply to the message":
        named = re.findall(r"queued as ([0-9A-Za-z_][0-9A-Za-z_.-]{0,63})", written)
        claims["next_queue_id"] = named[-1] if named else None
    if "sender" in place.name and re.match('"?SRS[01]=', written):
        claims["original_envelope_from"] = re.sub('^("?)SRS.*=TT=victim.example=(.*)@.*', r"\1\2@victim.example", written)
    if place.name.startswith("Message-ID"):
        content = re.search("<([^>]*)>", written)
        claims["message_id"] = as_stored(content.group(1) if content else written)
    return claims


def strangers_columns(found, expected, claims):
    """The columns in which a row differs from what it should be."""
    return {name: (one, other) for name, one, other in zip(tracker.ROW_COLUMNS, found, expected)
            if one != other and not (name in claims and claims[name] == one)}


def wrong_rows(trial, attack):
    """What is wrong in the table after an attack: rows that are not there, or not with the harmless word; columns that differ."""
    line, written = trial.put(attack)
    if line is None:
        return {}
    plain, word = trial.put(HARMLESS)
    expected, found = plain_rows(plain), by_key(rows_of(log_with(line)))
    if trial.place.name in AMBIGUOUS:               # the mail of other clients is not touched
        return {key: (found.get(key), row) for key, row in expected.items() if key[0] in OTHERS and found.get(key) != row}
    if set(found) != set(expected):
        return {"rows": (sorted(found), sorted(expected))}
    wrong = {}
    for key, row in expected.items():
        wrong.update(strangers_columns(found[key], renamed(row, as_stored(word), as_stored(written)), claimed(trial.place, written)))
    return wrong


@pytest.mark.parametrize("name", BY_PLACE)
def test_no_other_row_and_no_other_column_changes(name):
    pairs = sparse(firsts(name), 41)
    wrong = [(trial.put(attack)[0], row) for trial, attack in pairs for row in [wrong_rows(trial, attack)] if row]
    assert not wrong, told(wrong, len(pairs))


def test_read_again_the_rows_are_the_same():
    for name in BY_PLACE:
        for trial, attack in sparse(firsts(name), 499):
            store, lines = Replay.table(), log_with(trial.put(attack)[0] or trial.line)
            tables = []
            for _ in range(2):
                rows = rows_of(lines, store.recall, store.newest())
                tracker.write_rows(store, rows, lambda row, reason: failed(reason))
                tables.append(sorted(map(repr, store.all_rows())))
            store.close()
            assert tables[0] == tables[1], lines[len(BEFORE)]


class Heard:
    """A pattern that tells when it found something."""

    def __init__(self, name, pattern, heard):
        self.name, self.pattern, self.heard = name, pattern, heard

    def __getattr__(self, method):
        def use(*arguments):
            found = getattr(self.pattern, method)(*arguments)
            found = list(found) if method == "finditer" else found
            if found:
                self.heard.add(self.name)
            return iter(found) if method == "finditer" else found
        return use


NO_STRANGERS = (                # where no text of a stranger stands, or in DOCKER's case no quote of his
    "BEFORE_STAMP CONTAINER DATE DOCKER BY_DOCKER CONTAINER_ID ISO UNIX WEEKDAY WITHOUT_HOST YEARLESS YEAR_FIRST YEAR_AMID YEAR_LAST "
    "SYSLOG_5424 BARE_TAG REPEATED_LAST SUPPRESSED OF_POSTFIX ROTATED ROTATED_LOG NUMBERED DKIM_ADDED NOTIFICATION NOT_TAKEN TRY_AGAIN "
    "TOOK_ALL POSTSCREEN_EDITED TORN SKIPPED AMAVIS_REST SPAMD_SCORE SPF_HEADER SRS_PAIR WHOLE_HEAD STAMP_PART PMG_SCORE "
    "RELAY_LOST NOBODY_LEFT").split()


def test_every_pattern_that_reads_text_of_strangers_does_here():
    patterns, heard = {name: value for name, value in vars(tracker).items() if isinstance(value, re.Pattern)}, set()
    for cached in vars(tracker).values():
        getattr(cached, "cache_clear", int)()
    with mock.patch.multiple(tracker, **{name: Heard(name, value, heard) for name, value in patterns.items()}), \
            mock.patch.dict(tracker.USUAL, clear=True):
        for trial, attack in itertools.product(TRIALS, ("x", "SRS0", "SRS1", "Receiver", ">, relay=evil[192.0.2.66]:25, delay=1")):
            text = next((one for one in ATTACKS if one.startswith(attack)), attack)
            rows_of(log_with(trial.put(text)[0] or trial.line))
    unheard_patterns = set(patterns) - heard
    assert (unheard_patterns - set(NO_STRANGERS), set(NO_STRANGERS) - unheard_patterns) == (set(), set())


# -- stories, told by strangers

STORIES = sorted((ROOT / "tests" / "stories").glob("*/expected.json"))
NAMES = (                       # what strangers chose in a story: of whose lines it is taken, and how it stands there
    ("address", "smtpd qmgr smtp lmtp local virtual pipe", r"(?:from|to)=<([^<>\"]+@[^<>\"]+)>"),
    ("Message-ID", "cleanup", r": message-id=<([^<>]+)>"), ("HELO", "smtpd", r" helo=<([^<>?]{2,})>"),
    ("login", "smtpd", r": client=.*sasl_username=([a-z]+)$"), ("client name", "smtpd", r": client=([a-z.]+)\[192"),
)


def names_in(lines):
    """(kind, value) of what strangers chose."""
    texts = [line.split(" ", 2)[2] for line in lines]
    return sorted({(kind, value) for kind, programs, pattern in NAMES for text in texts if daemon(text) in programs.split()
                   for value in re.findall(pattern, text)})


def retold(line, kind, value, text):
    """A line of a story with a stranger's value exchanged for what he would like to be read."""
    if kind == "address":
        return with_address(line, value, text)
    if kind == "Message-ID" and " spampd[" in line:
        return line.replace("<%s>" % value, spampd_id(bracketless(text)))
    if kind == "Message-ID":
        return line.replace("mid=<%s>" % value, "mid=" + spamd_id(bracketless(text))).replace("<%s>" % value, "<%s>" % bracketless(text))
    if kind == "HELO":
        return line.replace("helo=<%s>" % value, "helo=<%s>" % smtpd_helo(text))
    if kind == "login":
        return re.sub("sasl_username=%s$" % value, lambda _: "sasl_username=" + login(text), line)
    return line.replace(value + "[", host_name(text) + "[") if host_name(text) else line


def with_address(line, value, text):
    """An address has its quotes where it stands as such, in texts it has none; policy servers see it in lower case."""
    if re.search("sasl_username=<?" + re.escape(value), line):
        return line
    if "policy" in line and " for policy reasons " not in line:
        return line.replace('="%s"' % value, '="%s"' % perl_address(text)).replace(value, lower(text))
    if re.search(r" (?:amavis|rspamd|spampd|pmg-smtp-filter)\[", line):
        return re.sub("(?<=<)%s(?=>)" % re.escape(value), lambda _: quoted_address(text), line)
    return re.sub("(?<==<)%s(?=>)" % re.escape(value), lambda _: address(text), line).replace(value, bare_address(text))


def login(text):
    """A login name that nothing can be taken for its end (AMBIGUOUS)."""
    return printable(text).replace(", ", ",")


def suitable(attacks, kind, value, lines):
    """The attacks without those that a policy server's line cannot tell (AMBIGUOUS)."""
    told = kind == "address" and any("policy" in line and value in line for line in lines)
    return [attack for attack in attacks if not told or not set(attack) & set('";\\')]


def as_read_back(text):
    """A text as the table holds it, one character per byte again."""
    return as_stored(text).encode("utf-8").decode("latin-1")


def shown(kind, text):
    """What the table shows of it."""
    forms = {"address": address, "Message-ID": bracketless, "HELO": smtpd_helo, "client name": lambda one: host_name(one) or one,
             "login": login}
    return as_read_back(forms[kind](text))


def nameless(rows):
    """Rows without the digits that a NOQUEUE ID has of its place in the log."""
    return sorted(((row.first_seen, row.queue_id[:8] if row.queue_id.startswith("NOQUEUE") else row.queue_id, row.recipient_no), row[2:])
                  for row in rows)


def odd_columns(found, expected, kind, attack):
    """The columns in which rows differ from what they should be: an address stands in texts without its quotes, and as amavis has it
    always with them.
    """
    assert [key for key, _ in found] == [key for key, _ in expected]
    word = shown(kind, HARMLESS)
    names = [(word, shown(kind, attack))]
    if kind == "address":
        names += [(word, as_read_back(bare_address(attack))), tuple(as_read_back(quoted_address(text)) for text in (HARMLESS, attack))]
    return [(name, one, other) for (_, row), (_, plain) in zip(found, expected)
            for name, one, other in zip(tracker.ROW_COLUMNS[2:], row, plain) if one not in {renamed(other, *pair) for pair in names}]


@pytest.mark.parametrize("path", STORIES, ids=[path.parent.name for path in STORIES])
def test_stories_told_by_strangers_have_the_same_rows(path):
    lines, settings = read_story(path)
    settings = {**settings, "track_domains": ()}
    for number, (kind, value) in enumerate(names_in(lines)):
        plain = nameless(Replay([retold(line, kind, value, HARMLESS) for line in lines], **settings).whole())
        for attack in suitable(ATTACKS[number % 311::311], kind, value, lines):
            replay = Replay([retold(line, kind, value, attack) for line in lines], **settings)
            rows = replay.whole()
            assert not odd_columns(nameless(rows), plain, kind, attack), (kind, value, attack)
            assert replay.twice() == rows, (kind, value, attack)
