"""An earlier report beside this one: what changed, scenario by scenario."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from loadtest.errors import NoRun
from loadtest.quantiles import MARK, carried
from loadtest.table import table
from loadtest.verdict.report import SHARES
from loadtest.verdict.scatter import Interval, apart

LOWER, HIGHER, NEITHER = "lower", "higher", ""  # which way is better
FIGURES = {
    "p50_ms": LOWER,
    "p99_ms": LOWER,
    "p999_ms": LOWER,
    "service_p50_ms": LOWER,
    "service_p99_ms": LOWER,
    "rate": NEITHER,
    "throughput": HIGHER,
    "goodput": HIGHER,
    "errors %": LOWER,
    "refused %": LOWER,
    "late %": LOWER,
    "degraded %": LOWER,
}
NO_SCATTER = "the earlier report is of before scatter was told: no change can be told from chance"


class Figure(NamedTuple):
    """Of one run. `scatter`: its 95 % interval; None where untold or not carried."""

    value: float
    scatter: Interval | None = None
    carried: bool = True

    def __str__(self) -> str:
        return f"{'' if self.carried else MARK}{self.value:,.2f}".removesuffix(".00")


class Change(NamedTuple):
    name: str
    before: Figure
    now: Figure
    comparable: bool = True  # both runs sent the same load

    @property
    def title(self) -> str:
        """The figure's name for people."""
        name = self.name.removesuffix("_ms").replace("_", " ").replace("p999", "p99.9")
        return name + " ms" * self.name.endswith("_ms")

    @property
    def percent(self) -> float | None:
        """None where there was nothing to compare with."""
        return (self.now.value / self.before.value - 1) * 100 if self.before.value else None

    @property
    def better(self) -> bool | None:
        """None where neither way is better, or where the change lies within the runs' own scatter."""
        way, before, now = FIGURES.get(self.name, HIGHER), self.before.scatter, self.now.scatter
        if way == NEITHER or not (self.comparable and before and now and apart(before, now)):
            return None
        return (self.now.value < self.before.value) == (way == LOWER)


def read(path: Path) -> Mapping[str, Any]:
    """A report.json, or output of a load test whose last line is JSON. Raises NoRun."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise NoRun(f"compare {path}: {getattr(error, 'strerror', None) or 'not text'}") from None
    for candidate in (text, text.rstrip().rpartition("\n")[2]):
        try:
            report = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(report, dict) and isinstance(report.get("scenarios"), list):
            return report
    raise NoRun(f"compare {path}: no report of a load test; report.json or its last line is allowed")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Change]]:
    """By scenario, of those that both have and of the figures that both have."""
    before = {report.get("scenario"): report for report in old["scenarios"] if isinstance(report, dict)}
    by_scenario = {}
    for report in new["scenarios"]:
        name = report["scenario"]
        if name in before:
            was, now = _figures(before[name]), _figures(report)
            comparable = not other_load(old, report)
            by_scenario[name] = [
                Change(key, was[key], now[key], comparable) for key in FIGURES if key in was and key in now
            ]
            rates = [_searched(each, name) for each in (old, new)]
            if rates[0] and rates[1]:
                by_scenario[name].append(Change("highest rate", rates[0], rates[1]))
    return by_scenario


def scatter_remark(old: Mapping[str, Any]) -> str:
    """What to say of an earlier report of before there was a scatter; empty where it has one."""
    told = any(isinstance(report, dict) and report.get("scatter") for report in old["scenarios"])
    return "" if told else NO_SCATTER


def other_load(old: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """What the scenario sent in the earlier run, where it was not what it sends now: times do not compare then."""
    keys = ("planned_rate", "arrivals")
    for before in old["scenarios"]:
        if isinstance(before, dict) and before.get("scenario") == report["scenario"]:
            then, now = ([each.get(key) for key in keys] for each in (before, report))
            if None not in then and then != now:
                return f"the earlier run sent another load: {then[1]}, {then[0]:g} requests/s; now {now[1]}, {now[0]:g}"
    return ""


def course(old: Mapping[str, Any] | None, scenario: str) -> Mapping[str, Any] | None:
    """What the earlier report plots of a scenario, where it has it in our form."""
    courses = old.get("courses") if old else None
    of_scenario = courses.get(scenario) if isinstance(courses, dict) else None
    return of_scenario if isinstance(of_scenario, dict) and {"shares", "due_ms"} <= of_scenario.keys() else None


def show(changes: Mapping[str, Sequence[Change]], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """For people. The last column is empty for what the runs' own scatter explains."""
    rows: dict[str, list[object]] = {}
    remarks = []
    for report in new["scenarios"]:
        name = report["scenario"]
        if name not in changes:
            remarks.append(f"{name}: not in the earlier report")
        elif other := other_load(old, report):
            remarks.append(f"{name}: {other}")
        for change in changes.get(name, []):
            percent = None if change.percent is None else f"{change.percent:+.1f} %"
            words = {True: "better", False: "worse", None: None}[change.better]
            rows[f"{name} {change.name}"] = [str(change.before), str(change.now), percent, words]
    remarks += [remark] if (remark := scatter_remark(old)) else []
    return "\n".join([table("figure", ("before", "now", "change", "beyond both runs' scatter"), rows), *remarks])


def _figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    report = report if "refused" in report else _told_apart(report)
    requests, few, scatter = report.get("requests"), report.get("too_few_for"), report.get("scatter")
    if not isinstance(few, list):  # a report of before it was told
        few = [key for key, share in SHARES.items() if _number(requests) and not carried(int(requests), share)]
        few += [f"service_{key}" for key in few]
    by_key = scatter if isinstance(scatter, dict) else {}
    figures = {}
    for key in FIGURES:
        of = key.removesuffix(" %")
        value, times = report.get(of), 1.0
        if key != of:  # a count: a share of the requests, in percent
            times = 100 / requests if _number(requests) and requests else math.nan
        if _number(value) and not math.isnan(times):
            figures[key] = Figure(value * times, _interval(by_key.get(of), 100 if key != of else 1), of not in few)
            if of in few:
                figures[key] = figures[key]._replace(scatter=None)
    return figures


def _told_apart(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """A report of before refused and late answers were told apart: they stood among its errors, and in `faults`."""
    faults, errors = report.get("faults"), report.get("errors")
    if not isinstance(faults, dict) or not _number(errors):
        return report
    own = {"refused": faults.get("status 429", 0), "late": faults.get("status 504", 0)}
    return {**report, **own, "errors": errors - sum(own.values())}


def _interval(value: Any, times: float) -> Interval | None:
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_number, value)):
        return value[0] * times, value[1] * times
    return None


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _searched(report: Mapping[str, Any], scenario: str) -> Figure | None:
    """The highest rate of a search: between what was confirmed and the next that did not hold."""
    searched = report.get("search")
    of_scenario = searched.get(scenario) if isinstance(searched, dict) else None
    if not isinstance(of_scenario, dict) or not _number(of_scenario.get("rate")):
        return None
    return Figure(of_scenario["rate"], _interval([of_scenario.get(key) for key in ("confirmed_rate", "above_rate")], 1))
