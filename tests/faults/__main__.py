"""Goes through every fault in full: a real service, a real store, a proxy between them, and callers of all kinds.

    python -m tests.faults [NAME …] [--list]

NAME: a fault of the table alone, `python -m tests.faults "black hole"`. Progress goes to standard error. At the end
come a table, the promises that did not hold, and one line of JSON. Exit code 1 where there are such, a wrong answer, a
lost write, or a 5xx other than 503 and 504.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from loadtest.table import table
from model.command import run
from tests.faults.held import Held, LeftOut
from tests.faults.table import FAULTS, Fault, seen
from tests.faults.world import World, world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The fault suite, in full.")
    parser.add_argument("name", nargs="*", help="faults to go through; all where none is named")
    parser.add_argument("--list", action="store_true", help="only say which there are, and what each promises")
    arguments = parser.parse_args()
    if arguments.list:
        for fault in FAULTS:
            print(f"{fault.name}: {fault.does}. Promised: {fault.promises}.")
        return 0
    if unknown := set(arguments.name) - {fault.name for fault in FAULTS}:
        allowed = ", ".join(repr(fault.name) for fault in FAULTS)
        parser.error(f"no fault is called {', '.join(map(repr, sorted(unknown)))}; allowed: {allowed}")
    chosen = [fault for fault in FAULTS if not arguments.name or fault.name in arguments.name]
    begun = time.perf_counter()
    with world() as running:
        faults, left_out = _all(running, chosen)
    report = summary(faults, left_out) | {"seconds": round(time.perf_counter() - begun, 1)}
    print(_table(faults))
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    for promise in report["broken"]:
        print(f"NOT HELD: {promise}")
    print(json.dumps(report))
    return 1 if any(report[ill] for ill in ("broken", "wrong", "lost_writes", "server_errors")) else 0


def _all(running: World, chosen: Sequence[Fault]) -> tuple[list[Held], dict[str, str]]:
    faults, left_out = [], {}
    for at, fault in enumerate(chosen, start=1):
        begun = time.perf_counter()
        try:
            held = asyncio.run(seen(fault, running, fault.size))
        except LeftOut as error:
            left_out[fault.name] = str(error)
            verdict = "left out"
        else:
            faults.append(held)
            verdict = (
                f"{held.sent:,} sent, {len(held.broken)} promises broken" if held.broken else f"{held.sent:,} sent"
            )
        seconds = time.perf_counter() - begun
        print(f"{at}/{len(chosen)} {fault.name}: {verdict}, {seconds:.1f} s", file=sys.stderr, flush=True)
    return faults, left_out


def summary(faults: Sequence[Held], left_out: Mapping[str, str]) -> dict[str, Any]:
    """The report: sums over all faults, and what held of each."""
    return {
        "requests": sum(held.sent for held in faults),
        "answered": sum(held.answered for held in faults),
        "in_time": sum(held.in_time for held in faults),
        "degraded": sum(sum(held.degraded.values()) for held in faults),
        "refused": sum(sum(held.refused.values()) for held in faults),
        "hung_up": sum(held.hung_up for held in faults),
        "lost": sum(held.lost for held in faults),
        "wrong": sum(held.wrong for held in faults),
        "lost_writes": sum(held.lost_writes for held in faults),
        "server_errors": sum(held.failed for held in faults),
        "faults": [held.name for held in faults],
        "left_out": dict(left_out),
        "held": {held.name: held.report() for held in faults},
        "broken": [promise for held in faults for promise in held.broken],
    }


def _table(faults: Sequence[Held]) -> str:
    head = [
        "sent",
        "answered",
        "in time",
        "degraded",
        "refused",
        "hung up",
        "wrong",
        "lost writes",
        "p50 ms",
        "back after s",
        "held",
    ]
    rows = {
        held.name: (
            held.sent,
            held.answered,
            held.in_time,
            sum(held.degraded.values()),
            sum(held.refused.values()),
            held.hung_up,
            held.wrong,
            held.lost_writes,
            median(held.seconds) * 1000 if held.seconds else None,
            held.figures.get("recovered_s"),
            "no" if held.broken else "yes",
        )
        for held in faults
    }
    return table("fault", head, rows)


if __name__ == "__main__":
    run(main, "faults", "nothing is kept; run it again")
