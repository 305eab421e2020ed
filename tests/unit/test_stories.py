"""Whole messages as small logs: each story read in one go, cut and restarted at every line, read twice, written after every line, in
both forms of stamps; and with the stamps and prefixes of every other writer of logs.

A story is a folder of tests/stories: input.log, and expected.json with `rows` (the columns that the story is about; there are no
other rows, and no result, link or protocol detail that it does not name) and, where needed, `settings` of the tracker.
"""
import datetime
import functools
import json
import re
import unittest

from tests.unit.replay import ROOT, Replay, read_story, rough, told, tracker, traditional

STORIES = sorted((ROOT / "tests" / "stories").glob("*/expected.json"))
NAMED_OR_EMPTY = (
    "helo protocol sasl_username client_tls relay_tls spf_result dkim_result dkim_signatures dkim_domain dkim_selector dkim_algorithm "
    "dmarc_result dmarc_domain spam_status spam_score spam_required spam_tests milter_action milter_reason next_queue_id parent_queue_id"
).split()


class Stories(unittest.TestCase):
    """One test per story, made below."""

    maxDiff = None

    def tell(self, path):
        """Run a story in every way."""
        expected = json.loads(path.read_text(encoding="utf-8"))["rows"]
        lines, settings = read_story(path)
        for form in (lines, traditional(lines)):
            replay = Replay(form, **settings)
            rows = replay.whole()
            self.assertEqual(len(rows), len(expected), "\n".join(map(tracker.row_json, rows)))
            for row, columns in zip(self.ordered(rows), expected):
                found = json.loads(tracker.row_json(row))
                found.update((name, found[name][:19]) for name in tracker.TIMES)
                self.assertEqual({column: found[column] for column in columns}, columns)
                told_more = {column: found[column] for column in NAMED_OR_EMPTY if column not in columns and found[column] is not None}
                self.assertFalse(told_more)
            self.assertEqual(replay.twice(), rows, "read twice")
            self.assertEqual(replay.twice(rhythm=1), rows, "read again, written after every line")
            for place in range(1, len(lines)):
                self.assertEqual(replay.cut(place), rows, "cut before line %d" % (place + 1))
            self.assertEqual(replay.cut(*range(1, len(lines))), rows, "cut before every line")
            self.assertEqual(replay.cut(len(lines), rhythm=1), rows, "written after every line")
            for rhythm in range(1, len(lines)):
                self.assertEqual(replay.whole(rhythm=rhythm), rows, "in one life, written after every %d lines" % rhythm)
        self.assertEqual(rough(Replay(lines, **settings).whole()), rough(rows), "the two forms")

    @staticmethod
    def ordered(rows):
        """Rows in the order in which a reader meets them."""
        return sorted(rows, key=lambda row: (row.first_seen, not row.queue_id.startswith("NOQUEUE"), row.queue_id, row.recipient_no))


def story(path):
    """The test of one story."""
    return lambda self: self.tell(path)


for place in STORIES:
    setattr(Stories, "test_" + place.parent.name, story(place))

# Other writers of logs

LINE = re.compile(r"2026-11-(\d\d)T(\d\d:\d\d:\d\d\.\d{6})\+00:00 (\S+) (?:([^\[: ]+)(?:\[(\d+)\])?: )?(.*)", re.S)
TWO_WEEKS = datetime.timedelta(days=15)     # earlier: there the day of the month has one digit


def with_stamps(form, east=0):
    """The same lines two weeks earlier, stamped `east` hours east of UTC."""
    shift = datetime.timedelta(hours=east)

    def rewritten(lines):
        return ["%s %s" % (stamped(form, moment_of(line) + shift), line[33:]) for line in lines]
    return rewritten


def stamped(form, moment):
    """A time stamp in a form of strftime's; SSS stands for milliseconds."""
    return moment.strftime(form.replace("SSS", "%03d" % (moment.microsecond // 1000)))


@functools.lru_cache(None)
def moment_of(line):
    """When a line is said to be written."""
    day, clock = LINE.match(line).groups()[:2]
    return datetime.datetime.strptime("2026-11-%s %s" % (day, clock), "%Y-%m-%d %H:%M:%S.%f") - TWO_WEEKS


def journal(form):
    """What journalctl prints: between the records, lines of its own."""
    def rewritten(lines):
        found = with_stamps(form)(lines)
        found.insert(len(found) // 2, "-- Boot 5e1f0a4b7c --")
        return ["-- Journal begins at Wed 2026-11-04 06:25:01 UTC. --", *found, "-- No entries --"]
    return rewritten


def unix(lines):
    """journalctl -o short-unix."""
    utc = datetime.timezone.utc
    return ["%d.%06d %s" % (moment.replace(tzinfo=utc).timestamp() // 1, moment.microsecond, line[33:])
            for moment, line in zip(map(moment_of, lines), lines)]


def rfc5424(blanks):
    """RFC 5424 as rsyslog writes it: no `tag[pid]:`; the blank in front of a text that came in locally is kept."""
    def rewritten(lines):
        found = []
        for line in lines:
            _, _, host, program, pid, text = LINE.match(line).groups()
            found.append("<22>1 %s %s %s %s - -%s%s" % (
                stamped("%Y-%m-%dT%H:%M:%S.%f+00:00", moment_of(line)), host, program, pid or "-", " " * blanks, text))
        return found
    return rewritten


def with_level(form, warning="warning"):
    """Syslogds that tell facility and level, behind the host or before it: each has a word of its own for a warning."""
    def rewritten(lines):
        found = []
        for line in lines:
            host, _, rest = line[33:].partition(" ")
            level = warning if ": warning: " in rest else "info"
            found.append("%s %s" % (stamped("%b %e %H:%M:%S", moment_of(line)), form.format(host, level, rest)))
        return found
    return rewritten


def behind(opening, writer):
    """What shows, or keeps, the output of a container puts before each line: a stamp of its own, or the container's name."""
    return lambda lines: [stamped(opening, moment_of(line)) + shown for line, shown in zip(lines, writer(lines))]


def in_docker_file(lines):
    """What Docker keeps of a container's output (json-file), in JSON as Go writes it."""
    found = []
    for line in with_stamps("%b %d %H:%M:%S")(lines):
        text = json.dumps(line.encode("latin-1").decode("utf-8", "surrogateescape") + "\n", ensure_ascii=False)
        text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        found.append('{"log":%s,"stream":"stdout","time":"2026-11-05T09:03:07.123456789Z"}'
                     % text.encode("utf-8", "surrogateescape").decode("latin-1"))
    return found


def severity(rest):
    """What follows a stamp in a Docker image's log (boky/postfix): a severity instead of the host."""
    text = rest.partition(" ")[2]
    return "%-7s %s" % ("WARNING" if ": warning: " in text else "INFO", text)


def cut_tags(lines):
    """What rsyslog forwards of long tags: their first 32 characters (RSYSLOG_ForwardFormat), here all but the colon."""
    found = []
    for line in with_stamps("%b %e %H:%M:%S")(lines):
        head, colon, text = line.partition(": ")
        start, slash, daemon = head.partition(" postfix")
        missing = 32 - len("postfix" + daemon)
        is_tag = slash and daemon.endswith("]") and missing > 0
        found.append("%s postfix%s%s %s" % (start, "-" * missing, daemon, text) if is_tag else line)
    return found


def bare_tags(lines):
    """What rsyslog makes of `%TIMESTAMP% %HOSTNAME% %programname%[%procid%] %msg%`: no colon."""
    return [line.replace("]: ", "] ", 1) if re.match("[^:]*:..:[^:]*]: ", line) else line for line in with_stamps("%b %e %H:%M:%S")(lines)]


def ending_in_blanks(lines):
    """What some syslog daemons make of a newline, or a template's end."""
    return [line + " " * (1 + number % 2) for number, line in enumerate(with_stamps("%b %e %H:%M:%S")(lines))]


def own_template(lines):
    """What rsyslog makes of `%$NOW% %TIMESTAMP:8:15% %HOSTNAME% %syslogtag% %msg%`: the text begins with a blank of its own."""
    is_of_rsyslog = not any(", suppressed by syslog-ng on " in line for line in lines)
    return [line.replace(": ", ":  " if is_of_rsyslog else ": ", 1) for line in with_stamps("%Y-%m-%d %H:%M:%S")(lines)]


WRITERS = {
    "Docker's json-file": in_docker_file, "ISO 8601 without a zone": with_stamps("%Y-%m-%dT%H:%M:%S.%f"),
    "ISO 8601 with blanks": with_stamps("%Y-%m-%d %H:%M:%S +0200", east=2), "tags without a colon": bare_tags,
    "the year last": with_stamps("%a %b %e %H:%M:%S %Y"),
    "blanks at the end": ending_in_blanks, "rsyslog, a template of one's own": own_template,
    "BusyBox": with_level("{} mail.{} {}", "warn"), "FreeBSD": with_level("<mail.{1}> {0} {2}"), "AIX": with_level("{} mail:{} {}"),
    "rsyslog, tags cut": cut_tags, "docker compose logs": behind("mx-1         | ", with_stamps("%b %d %H:%M:%S")),
    "docker logs -t": behind("%Y-%m-%dT%H:%M:%S.%f789Z ", with_stamps("%b %e %H:%M:%S")),
    "CRI": behind("%Y-%m-%dT%H:%M:%S.%f789+00:00 stdout F ", with_stamps("%Y-%m-%dT%H:%M:%S.%f+00:00")),
    "rsyslog, traditional": with_stamps("%b %e %H:%M:%S"), "rsyslog, RFC 3339 without fraction": with_stamps("%Y-%m-%dT%H:%M:%SZ"),
    "rsyslog, RFC 5424": rfc5424(1), "rsyslog, RFC 5424 of local processes": rfc5424(2),
    "syslog-ng, bsd": with_stamps("%b %e %H:%M:%S.SSS"), "syslog-ng, iso": with_stamps("%Y-%m-%dT%H:%M:%S.SSS+02:00", east=2),
    "syslog-ng, full": with_stamps("%Y %b %e %H:%M:%S.SSS"), "Postfix's own log": with_stamps("%b %d %H:%M:%S"),
    "journalctl -o short": journal("%b %d %H:%M:%S"), "journalctl -o short-precise": journal("%b %d %H:%M:%S.%f"),
    "journalctl -o short-iso": journal("%Y-%m-%dT%H:%M:%S+0000"), "journalctl -o short-iso-precise": journal("%Y-%m-%dT%H:%M:%S.%f+00:00"),
    "journalctl -o short-full": journal("%a %Y-%m-%d %H:%M:%S UTC"), "journalctl -o short-unix": unix,
}


@functools.lru_cache(None)
def wanted_rows(path):
    """What every writer's form of a story is to make."""
    lines, settings = read_story(path)
    return rough(Replay(with_stamps("%Y-%m-%dT%H:%M:%S.%f+00:00")(lines), **settings).whole())


class Writers(unittest.TestCase):
    """One test per writer, made below."""

    def check_of_one_host(self, write, suits):
        """A story of one host, the lines of which suit, makes the same rows, but for that host's name."""
        for path in STORIES:
            lines, settings = read_story(path)
            settings = dict(settings, server_hostname="mx")
            if len({line.split(" ")[1] for line in lines}) == 1 and all(map(suits, lines)):
                found, wanted = (rough(Replay(form, **settings).whole()) for form in ([write(line) for line in lines], lines))
                self.assertEqual(found, wanted, path.parent.name)

    def test_an_image_with_a_severity_where_the_host_stands(self):
        self.check_of_one_host(lambda line: "%s %s" % (line[:32], severity(line[33:])), suits=bool)

    def test_lines_without_a_host(self):
        self.check_of_one_host(lambda line: line[:33] + line[33:].partition(" ")[2], suits=lambda line: LINE.match(line).group(5))

    def tell(self, writer):
        """Every story as this writer has it makes the same rows, but for fractions of a second and NOQUEUE digits."""
        other = {}
        for path in STORIES:
            lines, settings = read_story(path)
            if writer.__qualname__.startswith(("rfc5424", "behind")) and any(LINE.match(line).group(4) is None for line in lines):
                continue                    # a classic syslogd's line without a tag; these forms have nothing like it
            replay = Replay(writer(lines), **settings)
            for rows in (replay.whole(), replay.cut(*range(1, len(replay.lines)))):
                if rough(rows) != wanted_rows(path):
                    other[path.parent.name] = told(rows)
        self.assertFalse(other, "\n".join("%s:\n%s" % one for one in other.items()))


def writer_test(writer):
    """The test of one writer."""
    return lambda self: self.tell(writer)


for title, maker in WRITERS.items():
    setattr(Writers, "test_" + re.sub(r"\W+", "_", title), writer_test(maker))

if __name__ == "__main__":
    unittest.main()
