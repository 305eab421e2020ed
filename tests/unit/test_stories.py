"""Whole messages as small logs: each story read in one go, cut and restarted at every line, read twice, in both forms of stamps.

A story is a folder of tests/stories: input.log, and expected.json with `rows` (the columns that the story is about; there are no
other rows) and, where needed, `settings` of the tracker.
"""
import json
import unittest

from tests.unit.replay import ROOT, Replay, rough, tracker, traditional

STORIES = sorted((ROOT / "tests" / "stories").glob("*/expected.json"))


class Stories(unittest.TestCase):
    """One test per story, made below."""

    maxDiff = None

    def tell(self, path):
        """Run a story in every way."""
        expected = json.loads(path.read_text(encoding="utf-8"))
        lines = (path.parent / "input.log").read_bytes().decode("latin-1").splitlines()
        for form in (lines, traditional(lines)):
            replay = Replay(form, **expected.get("settings", {}))
            rows = replay.whole()
            self.assertEqual(len(rows), len(expected["rows"]), "\n".join(map(tracker.row_json, rows)))
            for row, columns in zip(self.ordered(rows), expected["rows"]):
                found = json.loads(tracker.row_json(row))
                found.update((name, found[name][:19]) for name in tracker.TIMES)
                self.assertEqual({column: found[column] for column in columns}, columns)
            self.assertEqual(replay.twice(), rows, "read twice")
            for place in range(1, len(lines)):
                self.assertEqual(replay.cut(place), rows, "cut before line %d" % (place + 1))
            self.assertEqual(replay.cut(*range(1, len(lines))), rows, "cut before every line")
        self.assertEqual(rough(Replay(lines, **expected.get("settings", {})).whole()), rough(rows), "the two forms")

    @staticmethod
    def ordered(rows):
        """Rows in the order in which a reader meets them."""
        return sorted(rows, key=lambda row: (row.first_seen, not row.queue_id.startswith("NOQUEUE"), row.queue_id, row.recipient_no))


def story(path):
    """The test of one story."""
    return lambda self: self.tell(path)


for place in STORIES:
    setattr(Stories, "test_" + place.parent.name, story(place))

if __name__ == "__main__":
    unittest.main()
