"""Open-loop load against a running service, judged by budgets.

    python -m loadtest --url URL --budgets loadtest/budgets.toml [--requests FILE] [--scenario NAME ...] [--seed N]

It knows the service by HTTP alone: POST {url}/rank, and GET {url}/model for ids to ask about where no file of requests
is given; a server that offers none is asked about made-up ones. Scenarios run one after another. The last line of the
output is JSON: the figures of the worst scenario, and all of them under `scenarios`.
Exit codes: 0 within budget; 1 a budget is missed; 2 the run is no good (more than 1 % of the sends left later than
1 ms, or 5 % of the p99 budget where that is more) or could not take place.
"""

import argparse
import asyncio
import gc
import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest import budgets, plan
from loadtest.answers import Log
from loadtest.budgets import Budget
from loadtest.client import Client, Target, parse_url
from loadtest.errors import NoRun
from loadtest.plan import Body
from loadtest.progress import Progress
from loadtest.report import Report, exit_code, judge, summary, table
from loadtest.send import new_loop, open_loop

CONNECTIONS = 10_240  # more than macOS allows a process


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("loadtest", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", required=True, help="where the service is: http(s)://host[:port][/base]")
    parser.add_argument("--budgets", required=True, type=Path, help="TOML, a table a scenario")
    parser.add_argument(
        "--requests", type=Path, help="JSON lines, each a body for POST /rank; else ids from GET /model"
    )
    parser.add_argument("--scenario", action="extend", nargs="+", default=[], metavar="NAME", help="only these")
    parser.add_argument("--seed", type=_seed, default=0, help="of arrivals and bodies, at least 0 (default 0)")
    args = parser.parse_args(argv)
    try:
        scenarios = budgets.load(args.budgets, args.scenario)
        bodies = plan.read_bodies(args.requests) if args.requests else None
        target = parse_url(args.url)
        _allow_connections()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            reports = runner.run(run(target, scenarios, bodies, args.seed))
    except NoRun as error:
        print(f"loadtest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("loadtest: interrupted", file=sys.stderr)
        return 130
    print(table(scenarios, reports))
    print(json.dumps(summary(reports)))
    return exit_code(reports)


async def run(target: Target, scenarios: Sequence[Budget], given: Sequence[Body] | None, seed: int) -> list[Report]:
    """Runs the scenarios in turn, with the bodies given or drawn ones. Raises NoRun."""
    client = Client(target)
    try:
        await client.reach()
        samples = None if given else await _samples(client)
        reports = []
        for budget in scenarios:
            rng = plan.generator(seed, budget.scenario)
            due_s = plan.arrivals(budget, rng)
            bodies = given or plan.draw_bodies(samples or plan.made_up(), budget.candidates, len(due_s), rng)
            messages = [client.message("POST", "/rank", body.content) for body in bodies[: len(due_s)]]
            log = Log(due_s, [body.items for body in bodies])
            progress = Progress(budget.scenario, len(due_s))
            gc.collect()
            gc.freeze()  # the plan stays: the collector need not walk it between sends
            await open_loop(client, messages, log, budget.wait_s, progress)
            gc.unfreeze()
            progress.close()
            reports.append(judge(budget, log))
        return reports
    finally:
        await client.close()


async def _samples(client: Client) -> plan.Samples | None:
    answer = await client.get("/model")
    samples = plan.read_samples(answer.content) if answer.status == 200 else None
    if samples is None:
        print(f"loadtest: GET /model offers no samples (status {answer.status}), ids are made up", file=sys.stderr)
    return samples


def _allow_connections() -> None:
    """Room for a service that stalls, which needs one connection a request; the usual limit is 1024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # -1: no limit
    if 0 <= soft < CONNECTIONS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(CONNECTIONS, hard) if hard >= 0 else CONNECTIONS, hard))


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; integers of at least 0 are allowed")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
