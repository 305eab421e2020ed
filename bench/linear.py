#!/usr/bin/env python3
"""Whether the cost of a line stays the same however long the log is: CPU per line and peak RSS at growing sizes.

    python3 bench/linear.py [--sizes 100000,1000000,10000000] [--stages parse,sqlite] [--rounds 3] [--results FILE]

What the process takes to start is measured with an empty log, and not counted. Sizes take turns. To make ten million lines takes minutes.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import generate  # noqa: E402
import report  # noqa: E402
import run as bench  # noqa: E402


def log_of(lines):
    """(log, its lines). Made when it is not there; nobody asks for its truth."""
    log = report.CACHE / ("%d-lines.log" % lines)
    if not log.exists():
        generate.main(["--lines", str(lines), "-o", str(log) + ".new"])
        os.rename(str(log) + ".new", log)
    return log, bench.count_lines(log)


def measure(stage, log, folder, python):
    """What a stage costs on a log."""
    for old in folder.glob("mail_relay_tracker.*"):
        old.unlink()
    words = [report.TRACKER, "--import", log] if stage == "sqlite" else [report.ROOT / "bench" / "stages.py", stage, log]
    return report.run([python, *words], folder, {"PYTHONDONTWRITEBYTECODE": ""})


def main(arguments=None):
    """Measure and tell."""
    parser = argparse.ArgumentParser(description="CPU per line and memory at growing sizes of the log.")
    parser.add_argument("--sizes", default="100000,1000000,10000000")
    parser.add_argument("--stages", default="parse,sqlite")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--results", metavar="FILE")
    options = parser.parse_args(arguments)
    report.CACHE.mkdir(exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mrt-linear."))
    logs = [(folder / "empty", 0)] + [log_of(int(size)) for size in options.sizes.split(",")]
    logs[0][0].touch()
    rows = []
    try:
        for stage in options.stages.split(","):
            used = {log: [] for log, _ in logs}
            for _ in range(options.rounds):
                for log, lines in logs:
                    used[log].append(measure(stage, log, folder, options.python))
                    sys.stderr.write("%s, %d lines: %.2f s\n" % (stage, lines, used[log][-1].cpu))
            start = statistics.median(one.cpu for one in used[logs[0][0]])
            for log, lines in logs[1:]:
                cpu = statistics.median(one.cpu for one in used[log])
                rows.append([stage, lines, cpu, 1e6 * (cpu - start) / lines, int(max(one.rss for one in used[log]))])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.publish("Growing logs", "%s; medians of %d rounds.\n\n%s" % (
        bench.version(options.python), options.rounds,
        report.table(("stage", "lines", "CPU s", "µs per line, without the start", "peak RSS MB"), rows)), options.results)


if __name__ == "__main__":
    main()
