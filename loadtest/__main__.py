"""Open-loop load against a service, judged by budgets.

    python -m loadtest --url URL [--budgets FILE] [--scenario NAME ...] [--requests FILE] [--seed N] [--processes N]
                       [--out DIR] [--compare OLD.json] [--search p99=20ms,errors=0.1%] [--window SECONDS]
                       [--key KEY]
    python -m loadtest --start ...

It knows the service by HTTP alone: POST {url}/rank, and GET {url}/model for ids to ask about where no file of requests
is given; a server that offers none is asked about made-up ones. Scenarios run one after another. The last line of the
output is JSON: the figures of the worst scenario, and all of them under `scenarios`.

--search asks for the highest rate at which each scenario holds that budget, instead of judging its own.

Exit codes: 0 within budget; 1 a budget is missed, or no rate holds it; 2 no verdict: the run is no good (more than 1 %
of the sends left later than 1 ms, or 5 % of the p99 budget where that is more), it has too few requests to judge a
quantile (a p99 takes 1000, a p50 20; `smoke = true` lets that pass), or it could not take place.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from loadtest.bench.processes import service
from loadtest.errors import NoRun
from loadtest.generator import budgets, plan
from loadtest.generator.client import parse_url
from loadtest.generator.send import new_loop
from loadtest.machine import allow_connections
from loadtest.verdict import compare
from loadtest.verdict.report import MISSED, NO_GOOD, PASSED
from loadtest.verdict.scenarios import WINDOW_S, run
from loadtest.verdict.search import parse_limits
from loadtest.verdict.words import show
from model.command import run as run_command

EXIT_CODES = {PASSED: 0, MISSED: 1, NO_GOOD: 2}
KEY = "RANKER_LOADTEST_KEY"
BUDGETS = Path(__file__).with_name("budgets.toml")


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        scenarios = budgets.load(args.budgets, args.scenario)
        if args.processes:
            scenarios = [replace(budget, processes=args.processes) for budget in scenarios]
        bodies = plan.read_bodies(args.requests) if args.requests else None
        limits = parse_limits(args.search) if args.search else None
        old = compare.read(args.compare) if args.compare else None
        if args.out:
            _can_write(args.out)
        key = args.key if args.key is not None else os.environ.get(KEY, "")
        address = parse_url(args.url, key) if args.url else None
        allow_connections()
        with ExitStack() as stack:
            stack.enter_context(_terminated_like_interrupted())
            settings = {name: value for name, value in os.environ.items() if name != KEY}
            address = address or parse_url(stack.enter_context(service(settings)).url, key)
            runner = stack.enter_context(asyncio.Runner(loop_factory=new_loop))
            results = runner.run(run(address, scenarios, bodies, args.seed, limits, args.window))
    except NoRun as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loadtest: interrupted", file=sys.stderr)
        return 130
    line = results.line()
    print(show(results.outcomes))
    for name, capacity in results.capacities.items():
        print("\n  ".join([f"{name}:", *capacity.words()]))
    if old is not None:
        print(compare.show(compare.changes(old, line), old, line))
    if args.out:
        print(f"report: {results.write(args.out, args.seed, old)}")
    print(results.headline.text)
    print(json.dumps(line))
    return EXIT_CODES[results.headline.verdict]


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: a service that was started for it is stopped."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _can_write(out: Path) -> None:
    """Looks before the run, which may take long. Raises NoRun."""
    try:
        import loadtest.verdict.page  # noqa: F401
    except ImportError as error:
        raise NoRun(f"--out needs {error.name}, which is not installed; the extra loadtest has it") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").open("a").close()
    except OSError as error:
        raise NoRun(f"--out {out}: {error.strerror}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m loadtest", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="where the service is: http(s)://host[:port][/base]")
    where.add_argument("--start", action="store_true", help="start one: python -m service, set by RANKER_* as usual")
    add = parser.add_argument
    add("--key", help=f"API key with the scope rank, which every request brings; else that of {KEY}")
    add("--budgets", default=BUDGETS, type=Path, help="TOML, a table per scenario (default: ours)")
    add("--requests", type=Path, help="JSON lines, each a body for POST /rank; else ids from GET /model")
    add("--scenario", action="extend", nargs="+", default=[], metavar="NAME", help="only these")
    add("--seed", type=_count, default=0, help="of arrivals and bodies, at least 0 (default 0)")
    add("--processes", type=_count, default=0, help="that generate; 0: as the budgets say (default)")
    add("--out", type=Path, metavar="DIR", help="for report.html, report.json and *.hgrm")
    add("--compare", type=Path, metavar="OLD.json", help="an earlier report.json: shows the change")
    add("--search", metavar="BUDGET", help="such as p99=20ms,errors=0.1%%: the highest rate within it")
    add(
        "--window",
        type=_seconds,
        default=WINDOW_S,
        help="of a search, in seconds, at least; longer where a p99 takes it (default 10)",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; integers of at least 0 are allowed")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}; seconds above 0, at most 3600, are allowed")
    return seconds


if __name__ == "__main__":
    run_command(main, "loadtest")
