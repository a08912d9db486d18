"""What happens beyond capacity: goodput, refusals, recovery and probes at up to four times what the service can take.

    python -m loadtest.overload [--capacity RATE] [--also 20] [--rounds N] [--window SECONDS] [--set NAME=VALUE …]
                                [--checkout DIR] [--count-late] [--quick]

A service of its own on the demo bundle has one core, this load generator another: two cores are needed. Requests of 500
candidates come in an open loop (Poisson), and times count from when a request was due.

- capacity: the highest rate that the load test's search confirms with a p99 within 50 ms
- goodput, right answers within 50 ms per second, at TIMES the capacity; its peak is the best seen
- recovery: seconds after the last of these windows until half the capacity is answered as quickly as it usually is
- the same with batches of 10 x 50 candidates mixed in (one call in twenty); their peak is the best seen with batches
- callers who hang up after 100 ms (three in ten), and how many answers nobody was there to read
- /health/live and /metrics, asked on a new connection every half second, on the main port and on RANKER_ADMIN_PORT

A window whose sends were late does not count: it is repeated, a few times at most. A figure is null where no window
counts. The last line is JSON.
"""

import argparse
import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.bench.command import Command, Measured, checkout, positive
from loadtest.bench.plot import plot
from loadtest.bench.processes import bare_environment, free_port, on, service, two_cores
from loadtest.errors import NoRun
from loadtest.generator.send import new_loop
from loadtest.machine import allow_connections
from loadtest.quantiles import carried, told
from loadtest.surge.course import BUDGET_MS, CANDIDATES, Course, Sizes
from loadtest.surge.probes import Probes
from loadtest.surge.traffic import Mix
from loadtest.surge.windows import Span, Window, recovery_s, slices
from loadtest.table import table
from loadtest.verdict.search import Capacity
from model.command import run as run_command
from service.settings import Settings

TIMES = (0.5, 1.0, 1.5, 2.0, 4.0)  # the capacity; the service recovers after the last
MIXED_TIMES = (1.0, 2.0, 4.0)
IMPATIENT_TIMES = 2.0
BATCHES, IMPATIENT = Mix(batches=0.05), Mix(impatient=0.3)
QUICK = Sizes(window_s=0.4, warmup_s=0.1, recover_s=1.0, capacity=40, tries=1, settled_ms=2_000.0)
HEAD = ("offered/s", "goodput/s", "p50", "p99", "refused", "refusal p99", "504", "degraded", "failed", "late sends")
Curve = Mapping[float, Sequence[Window]]  # by times the capacity, round by round


class Seen(NamedTuple):
    """All windows of a run."""

    capacity: float
    found: Capacity | None  # None: the rate was given
    curve: Curve
    mixed: Curve
    impatient: Window
    main: Probes
    admin: Probes
    repeated: int


async def see(url: str, admin_url: str, sizes: Sizes, also: Sequence[int]) -> Seen:
    """Raises NoRun."""
    course = Course(url, admin_url, sizes)
    try:
        await course.reach()
        found = None if sizes.capacity else await course.capacity()
        capacity = found.confirmed_rate if found else float(sizes.capacity)
        curve: dict[float, list[Window]] = {times: [] for times in (*TIMES, *also)}
        mixed: dict[float, list[Window]] = {times: [] for times in MIXED_TIMES}
        for _ in range(sizes.rounds):
            for times, windows in curve.items():
                windows.append(await course.window(capacity, times, recover=times == TIMES[-1]))
            for times, windows in mixed.items():
                windows.append(await course.window(capacity, times, BATCHES))
        impatient = await course.window(capacity, IMPATIENT_TIMES, IMPATIENT)
        return Seen(capacity, found, curve, mixed, impatient, course.main, course.admin, course.repeated)
    finally:
        await course.close()


def counted(windows: Iterable[Window], sizes: Sizes) -> list[Window]:
    """The windows that count, by goodput."""
    return sorted((one for one in windows if one.good or sizes.count_late), key=lambda one: one.goodput)


def middle(windows: Sequence[Window], sizes: Sizes) -> Window | None:
    """The median window by goodput; None where none counts."""
    good = counted(windows, sizes)
    return good[len(good) // 2] if good else None


def of_curve(curve: Curve, sizes: Sizes, prefix: str = "") -> dict[str, Any]:
    """The peak, and beside it each point from twice the capacity on."""
    by_times = {times: middle(windows, sizes) for times, windows in curve.items()}
    peak = max((one.goodput for windows in curve.values() for one in counted(windows, sizes)), default=None)
    figures: dict[str, Any] = {f"{prefix}peak_goodput": peak}
    for times, one in by_times.items():
        if times >= 2:
            figures |= {
                f"{prefix}goodput_{times:g}x_over_peak": one.goodput / peak if one and peak else None,
                f"{prefix}p99_accepted_{times:g}x_ms": one.figures["p99_accepted_ms"] if one else None,
                f"{prefix}refusal_p99_{times:g}x_ms": one.figures["refusal_p99_ms"] if one else None,
            }
    return figures


def recovered_s(curve: Curve, sizes: Sizes) -> float | None:
    """The longest of the rounds' recoveries; None where one did not recover in time, or half load's was no good."""
    half, last = middle(curve[0.5], sizes), counted(curve[TIMES[-1]], sizes)
    if half is None or not last:
        return None
    load_end_s = sizes.warmup_s + sizes.window_s
    usual = slices(half.sent.singles, Span(sizes.warmup_s, load_end_s))
    after = Span(load_end_s, load_end_s + sizes.recover_s)
    times_s = [recovery_s(usual, slices(one.sent.singles, after), load_end_s) for one in last]
    found = [seconds for seconds in times_s if seconds is not None]
    return max(found) if len(found) == len(times_s) else None


def uncounted(prefix: str, curve: Curve, sizes: Sizes) -> list[str]:
    return [f"{prefix}{times:g}x" for times, windows in curve.items() if middle(windows, sizes) is None]


def point(one: Window) -> dict[str, Any]:
    """A window for scripts."""
    own = {"goodput": one.goodput, "sends_late": one.sends_late, "counts": one.good, "in_vain": one.in_vain}
    parts = {name: of for name, of in (("batches", one.batches), ("impatient", one.impatient)) if of}
    return one.figures | own | parts


def figures_of(seen: Seen, sizes: Sizes) -> dict[str, Any]:
    notes = []
    if seen.found and seen.found.limited_by != "service":
        notes.append(f"capacity: {'; '.join(seen.found.words())}")
    if seen.repeated:
        notes.append(f"{seen.repeated} windows were repeated: their sends were late")
    if sizes.count_late:
        notes.append("windows whose sends were late count too: no figures to quote")
    if seen.admin.silent:
        notes.append("no answer on the admin port")
    if late := uncounted("", seen.curve, sizes) + uncounted("batch ", seen.mixed, sizes):
        notes.append(f"no window counts, sends were late: {', '.join(late)}")
    return {
        "capacity": seen.capacity,
        **of_curve(seen.curve, sizes),
        "recovery_s": recovered_s(seen.curve, sizes),
        **of_curve(seen.mixed, sizes, "batch_"),
        "admin_worst_ms": seen.admin.worst_ms,
        "main_worst_ms": seen.main.worst_ms,
        "probes": {name: vars_of(port) for name, port in (("admin", seen.admin), ("main", seen.main))},
        "hung_up": seen.impatient.hung_up,
        "computed_in_vain": seen.impatient.in_vain,
        "in_vain_share": seen.impatient.in_vain / max(1, seen.impatient.computed),
        "curve": {f"{times:g}": [point(one) for one in windows] for times, windows in seen.curve.items()},
        "batch_curve": {f"{times:g}": [point(one) for one in windows] for times, windows in seen.mixed.items()},
        "impatient": point(seen.impatient),
        "windows_repeated": seen.repeated,
        "deadline_ms": sizes.deadline_ms,
        "note": "; ".join(notes) or None,
    }


def vars_of(port: Probes) -> dict[str, Any]:
    return {path: vars(one) for path, one in port.by_path.items()}


def measure(sizes: Sizes, also: Sequence[int], settings: Mapping[str, str], whose: Path | None) -> Measured:
    """Raises NoRun."""
    if whose is None and (unknown := [name for name in settings if name not in Settings.model_fields]):
        allowed = ", ".join(sorted(Settings.model_fields))  # of another checkout, its service's log would tell
        raise NoRun(f"--set {', '.join(unknown)}: no such setting; allowed: {allowed}")
    cpus, own_cpus = two_cores()
    allow_connections()
    if int(settings.get("timeout_ms", 0)):
        sizes = replace(sizes, deadline_ms=float(settings["timeout_ms"]))
    port = free_port()
    with ExitStack() as stack:
        named: dict[str, Any] = {"admin_port": port, "workers": 1, **settings}
        running = stack.enter_context(service(bare_environment(), cpus, whose, **named))
        stack.enter_context(on(own_cpus))
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_loop))
        seen = runner.run(see(running.url, f"http://127.0.0.1:{port}", sizes, also))
    figures = figures_of(seen, sizes)
    return Measured(figures, shown(seen, figures, sizes), drawn(seen, sizes))


def shown(seen: Seen, figures: Mapping[str, Any], sizes: Sizes) -> str:
    def row(one: Window, of: Mapping[str, Any]) -> list[object]:
        turned_away = round(of["refused"] * of["offered"] * sizes.window_s)
        return [
            of["offered"],
            of["goodput"],
            told(of["p50_accepted_ms"], carried(of["accepted"], 0.5)),
            told(of["p99_accepted_ms"], carried(of["accepted"], 0.99)),
            f"{of['refused']:.1%}",
            told(of["refusal_p99_ms"], carried(turned_away, 0.99)),
            *(f"{of[share]:.1%}" for share in ("late", "degraded", "failed")),
            f"{one.sends_late:.1%}",
        ]

    rows = {}
    for title, curve in (("", seen.curve), (", batches mixed in", seen.mixed)):
        for times, windows in curve.items():
            one = middle(windows, sizes) or windows[-1]
            rows[f"{times:g} x capacity{title}"] = row(one, one.figures)
            if one.batches:
                rows[f"  {times:g} x, the batches"] = row(one, one.batches)
    rows[f"{IMPATIENT_TIMES:g} x capacity, some hang up"] = row(seen.impatient, seen.impatient.figures)
    if seen.impatient.impatient:
        rows["  who would hang up"] = row(seen.impatient, seen.impatient.impatient)
    names = [name for name in figures if name.endswith(("_over_peak", "_s", "worst_ms", "vain", "hung_up", "capacity"))]
    lines = table("figure", ["value"], {name: [figures[name]] for name in names})
    head = f"{CANDIDATES} candidates, goodput within {BUDGET_MS:g} ms; times in ms from when a request was due"
    return "\n".join([head, table("load", HEAD, rows), lines, *filter(None, [figures["note"]])])


def drawn(seen: Seen, sizes: Sizes) -> Any:
    def line(curve: Curve, value: str) -> dict[float, float]:
        points = {times: middle(windows, sizes) or windows[-1] for times, windows in curve.items()}
        return {
            times: getattr(one, value, None) or one.figures.get(value) or 0.0 for times, one in sorted(points.items())
        }

    goodput = {f"within {BUDGET_MS:g} ms": line(seen.curve, "goodput")}
    goodput[f"within the deadline, {sizes.deadline_ms:g} ms"] = line(seen.curve, "goodput_deadline")
    goodput[f"within {BUDGET_MS:g} ms, batches mixed in"] = line(seen.mixed, "goodput")
    return plot({"Goodput, right answers per second": goodput}, "offered load, times the capacity")


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("overload", __doc__, Sizes(), QUICK)
    add = command.parser.add_argument
    add("--capacity", type=positive, help="requests per second; it is searched where none is given")
    add("--window", type=positive, dest="window_s", metavar="SECONDS", help="measured at each point (default 10)")
    add("--also", nargs="+", type=positive, default=[], metavar="TIMES", help="more points of the curve")
    add("--set", nargs="+", type=setting, default=[], metavar="NAME=VALUE", help="RANKER_NAME of the service")
    add("--checkout", type=checkout, metavar="DIR", help="whose service (default: this one's)")
    add("--count-late", action="store_true", help="count windows whose sends were late: for a busy machine")
    return command.run(arguments, lambda args, sizes: measure(sizes, args.also, dict(args.set), args.checkout))


def setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}; NAME=VALUE is allowed, such as timeout_ms=100")
    name = name.lower().removeprefix("ranker_")
    if name == "timeout_ms" and not value.isdecimal():  # read here too, as the deadline of the windows
        raise argparse.ArgumentTypeError(f"{text!r}; timeout_ms=INTEGER is allowed, such as timeout_ms=100")
    return name, value


if __name__ == "__main__":
    run_command(main, "overload")
