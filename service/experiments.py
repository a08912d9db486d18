"""Which of two models earns more clicks, from the drained log: one page, and one line of JSON.

    python -m service.experiments --log DIR-or-URL --out DIR [--control NAME] [--bundle bundles] [--days 2026-11-26,…]

An arm is a `variant` of the log, else a model and its version: two services with different bundles behind a balancer
that keeps users apart are an experiment. The page may be made and looked at any time: its intervals allow for that.

    OUT/experiment.html    the verdict, the paper's Table 4 for one's own traffic, plots
    OUT/experiment.json    all of it as figures

Figures that nobody should decide by (users came by other shares, saw several arms, arms at different times) are told
on the page, in the JSON's `doubts` and on stderr. The last line of the output is JSON.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from model import command
from model.files import write_json, write_text
from model.options import OptionError, seconds

PAGE, CONTENT = "experiment.html", "experiment.json"
DAY = re.compile(r"\d{4}-\d\d-\d\d")
EXTRAS = "tables,loadtest"  # that bring these
PACKAGES = ("duckdb", "polars", "jinja2", "markupsafe", "matplotlib")
LONG = ("series", "segments")  # of the report: in the file, not in the line


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)

    try:
        from model.servicelog.joins import Rule
        from model.servicelog.reading import LogError
        from service.comparing import live, page  # polars, duckdb, matplotlib: after --help
        from service.comparing.arms import Wanted, compare
        from service.comparing.report import report
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in PACKAGES:
            raise
        say(f"{package} is not installed: pip install 'bst-ranker[{EXTRAS}]' brings it")
        return 1

    rule = Rule(options.label, options.type, round(options.window * 1000), options.shown == "confirmed")
    wanted = Wanted(rule, options.days, options.mixed, options.replays)
    try:
        now = None if options.live is None else live.read(options.live)
        compared = compare(options.log, wanted, options.memory)
        told = report(options.log, wanted, compared, options.control, dict(options.shares), options.bundle, now)
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / CONTENT, told)
        write_text(options.out / PAGE, page.html(told) + "\n")
    except (LogError, OSError) as error:
        say(command.words(error))
        return 1
    for line in (told["verdict"], *told["doubts"]):
        say(line)
    print(json.dumps({name: value for name, value in told.items() if name not in LONG}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.experiments", description="Which arm earns more clicks?")
    parser.add_argument("--log", required=True, metavar="DIR-or-URL", help="as python -m service.drain --out")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the page and its figures")
    parser.add_argument("--control", metavar="ARM", help="that others are compared to (control, else the first shown)")
    parser.add_argument("--bundle", type=Path, nargs="+", default=[], metavar="DIR", help="bundles, for offline AUC")
    parser.add_argument("--window", type=_window, default=1800.0, metavar="DURATION", help="for a click to come (30m)")
    parser.add_argument(
        "--days", type=_days, default=(), help="of impressions, UTC, with commas: 2026-11-26,2026-11-27"
    )
    parser.add_argument(
        "--live", type=Path, metavar="FILE", help="the answer of GET /experiments: control, shares, and their changes"
    )
    parser.add_argument("--shares", type=_shares, default=(), metavar="ARM=SHARE,…", help="of users (equal ones)")
    parser.add_argument(
        "--mixed", choices=("out", "first"), default="out", help="users of several arms: left out, or …"
    )
    parser.add_argument("--shown", choices=("returned", "confirmed"), default="returned", help="what is an impression")
    parser.add_argument("--replays", action="store_true", help="count requests that named their time")
    parser.add_argument("--label", default="click", metavar="ACTION", help="the event that is a click (click)")
    parser.add_argument("--type", default="item", metavar="OBJECT_TYPE", help="of the items (item)")
    parser.add_argument("--memory", type=_memory, default=4.0, metavar="GIB", help="that joining may take (4)")
    return parser


def say(line: str) -> None:
    print(f"experiments: {line}", file=sys.stderr, flush=True)


def _days(text: str) -> tuple[str, ...]:
    days = tuple(text.split(","))
    if not all(DAY.fullmatch(day) for day in days):
        raise argparse.ArgumentTypeError(f"{text} given, days like 2026-11-26,2026-11-27 are allowed")
    return days


def _window(text: str) -> float:
    try:
        return seconds(text, "--window", "duration")
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _shares(text: str) -> tuple[tuple[str, float], ...]:
    """Arms' names may hold = but no comma."""
    pairs = []
    for pair in text.split(","):
        name, _, share = pair.rpartition("=")
        pairs.append((name, _above_0(share, f"{pair!r} given, ARM=SHARE with a share above 0 is allowed")))
    if len({name for name, _ in pairs}) < len(pairs):
        raise argparse.ArgumentTypeError(f"{text!r} names an arm twice")
    return tuple(pairs)


def _memory(text: str) -> float:
    return _above_0(text, f"{text!r} given, a number above 0 is allowed")


def _above_0(text: str, otherwise: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(otherwise)
    return number


if __name__ == "__main__":
    command.run(main, "experiments")
