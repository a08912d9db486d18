"""Open-loop load against a service, judged by budgets.

    python -m loadtest --url URL [--budgets FILE] [--scenario NAME ...] [--requests FILE] [--seed N] [--processes N]
                       [--out DIR] [--compare OLD.json] [--search p99=20ms,errors=0.1%] [--window SECONDS]
    python -m loadtest --start ...

It knows the service by HTTP alone: POST {url}/rank, and GET {url}/model for ids to ask about where no file of requests
is given; a server that offers none is asked about made-up ones. Scenarios run one after another. The last line of the
output is JSON: the figures of the worst scenario, and all of them under `scenarios`.

--search asks for the highest rate at which each scenario holds that budget, instead of judging its own.

Exit codes: 0 within budget; 1 a budget is missed, or no rate holds it; 2 the run is no good (more than 1 % of the sends
left later than 1 ms, or 5 % of the p99 budget where that is more) or could not take place.
"""

import argparse
import asyncio
import json
import math
import resource
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loadtest.bench.started import started
from loadtest.errors import NoRun
from loadtest.generator import budgets, plan
from loadtest.generator.answers import Log
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Target, parse_url
from loadtest.generator.send import new_loop
from loadtest.generator.target import Service
from loadtest.verdict import compare, series
from loadtest.verdict.environment import environment
from loadtest.verdict.report import Report, exit_code, judge, summary, table
from loadtest.verdict.search import Found, Limits, most_rate, parse_limits, search

CONNECTIONS = 10_240  # more than macOS allows a process
BUDGETS = Path(__file__).with_name("budgets.toml")
WINDOW_S = 10.0  # shorter ones hold too few requests for a p99
POOL = 5_000  # bodies that a search's windows share


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
        target = parse_url(args.url) if args.url else None
        _allow_connections()
        with ExitStack() as stack:
            stack.enter_context(_terminated_like_interrupted())
            target = target or parse_url(stack.enter_context(started()))
            runner = stack.enter_context(asyncio.Runner(loop_factory=new_loop))
            done = runner.run(run(target, scenarios, bodies, args.seed, limits, args.window))
    except NoRun as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loadtest: interrupted", file=sys.stderr)
        return 130
    line = done.line()
    print(table(done.budgets, done.reports))
    for name, found in done.found.items():
        print(said(name, found))
    if old is not None:
        print(compare.table(compare.changes(old, line), old, line))
    if args.out:
        print(f"report: {write(args.out, done, line, args.seed, old)}")
    print(json.dumps(line))
    return exit_code(done.reports)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: a service that was started for it is stopped."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Done:
    """What a load test found, scenario by scenario."""

    def __init__(self, model: bytes | None) -> None:
        self.environment = environment(model)
        self.budgets: list[Budget] = []
        self.reports: list[Report] = []
        self.logs: list[Log] = []
        self.found: dict[str, Found] = {}

    def add(self, budget: Budget, report: Report, log: Log) -> None:
        self.budgets.append(budget)
        self.reports.append(report)
        self.logs.append(log)

    def line(self) -> dict[str, Any]:
        searched = {name: found.summary() for name, found in self.found.items()}
        return summary(self.reports) | ({"search": searched} if searched else {})


async def run(
    target: Target,
    scenarios: Sequence[Budget],
    given: Sequence[plan.Body] | None,
    seed: int,
    limits: Limits | None = None,
    window_s: float = WINDOW_S,
) -> Done:
    """Runs the scenarios in turn, or searches each one's highest rate; with the bodies given or drawn ones.

    Raises NoRun.
    """
    service = Service(target, given)
    try:
        await service.reach(scenarios)
        done = Done(service.model)
        for budget in scenarios:
            rng = plan.generator(seed, budget.scenario)
            if limits:
                await _search(service, limits.over(budget, window_s), rng, done)
            else:
                log = await service.run(budget, rng)
                done.add(budget, judge(budget, log), log)
        return done
    finally:
        await service.close()


async def _search(service: Service, budget: Budget, rng: Any, done: Done) -> None:
    bodies = service.bodies(budget, POOL, rng)
    kept: dict[int, tuple[Budget, Report, Log]] = {}

    async def measure(rate: float) -> Report:
        at = replace(budget, rate=rate)
        log = await service.run(at, rng, bodies, f"{budget.scenario} at {rate:.1f}/s")
        report = judge(at, log)
        kept[id(report)] = at, report, log
        verdict = "held" if report.passed else "missed" if report.good else "sent too late"
        what = f"p50 {report.p50_ms:.1f} ms, p99 {report.p99_ms:.1f} ms, {report.errors / report.requests:.2%} errors"
        tqdm.write(f"{budget.scenario} at {rate:.1f}/s: {what}: {verdict}", file=sys.stderr)
        if not report.passed:
            await service.settle(bodies[0], budget.p99_ms)
        return report

    found = await search(measure, budget.rate, most_rate(budget))
    done.found[budget.scenario] = found
    done.add(*kept[id(found.report)])


def said(name: str, found: Found) -> str:
    """What a search found, in a sentence."""
    if not found.rate:
        return f"{name}: no rate down to {min(report.planned_rate for report in found.tried):.2f}/s holds the budget"
    least = "at least " if found.limited_by != "service" else ""
    why = {"service": "", "generator": "; above, the generator lags", "nothing": "; a window may not send more"}
    return (
        f"{name}: {least}{found.rate:.1f} requests/s hold the budget, confirmed at {found.confirmed_rate:.1f}/s"
        + why[found.limited_by]
    )


def write(out: Path, done: Done, line: Mapping[str, Any], seed: int, old: Mapping[str, Any] | None) -> Path:
    """report.html, report.json, and an .hgrm a scenario and way of counting; gives the page's path."""
    from loadtest.verdict import page  # matplotlib takes half a second, and nobody needs it without --out

    courses = {}
    for budget, log in zip(done.budgets, done.logs, strict=True):
        courses[budget.scenario] = series.course(budget, log)
        measured = log.due_s >= budget.warmup_s
        left_s = [sent if math.isfinite(sent) else due for sent, due in zip(log.sent_s, log.due_s, strict=True)]
        for kind, since_s in (("", log.due_s), ("-service", left_s)):
            file = out / f"{_file_name(budget.scenario)}{kind}.hgrm"
            file.write_bytes(series.hgrm((log.answered_s - since_s)[measured]))
    report = {**line, "seed": seed, "environment": done.environment, "courses": courses}
    (out / "report.json").write_text(json.dumps(report, indent=1))
    (out / "report.html").write_text(page.html(report, old))
    return out / "report.html"


def _file_name(scenario: str) -> str:
    """A TOML table may be called anything, a file may not."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in scenario)


def _can_write(out: Path) -> None:
    """Seen to before the run, which may take long. Raises NoRun."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise NoRun("--out draws with matplotlib, which is not installed; the extra loadtest has it") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").open("a").close()
    except OSError as error:
        raise NoRun(f"--out {out}: {error.strerror}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m loadtest",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="where the service is: http(s)://host[:port][/base]")
    where.add_argument("--start", action="store_true", help="start one: python -m service, set by RANKER_* as usual")
    parser.add_argument("--budgets", default=BUDGETS, type=Path, help="TOML, a table a scenario (default: ours)")
    parser.add_argument(
        "--requests", type=Path, help="JSON lines, each a body for POST /rank; else ids from GET /model"
    )
    parser.add_argument("--scenario", action="extend", nargs="+", default=[], metavar="NAME", help="only these")
    parser.add_argument("--seed", type=_count, default=0, help="of arrivals and bodies, at least 0 (default 0)")
    parser.add_argument("--processes", type=_count, default=0, help="that generate; 0: as the budgets say (default)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for report.html, report.json and *.hgrm")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="an earlier report.json: shows the change")
    parser.add_argument("--search", metavar="BUDGET", help="such as p99=20ms,errors=0.1%%: the highest rate within it")
    parser.add_argument("--window", type=_seconds, default=WINDOW_S, help="of a search, in seconds (default 10)")
    return parser


def _allow_connections() -> None:
    """Room for a service that stalls, which needs one connection a request; the usual limit is 1024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # -1: no limit
    if 0 <= soft < CONNECTIONS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(CONNECTIONS, hard) if hard >= 0 else CONNECTIONS, hard))


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
    sys.exit(main())
