"""An earlier report beside this one: what changed, scenario by scenario."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from loadtest.errors import NoRun
from loadtest.table import table

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
}


class Change(NamedTuple):
    figure: str
    before: float
    now: float

    @property
    def title(self) -> str:
        """The figure's name for people."""
        name = self.figure.removesuffix("_ms").replace("_", " ").replace("p999", "p99.9")
        return name + " ms" * self.figure.endswith("_ms")

    @property
    def percent(self) -> float | None:
        """None where there was nothing to compare with."""
        return (self.now / self.before - 1) * 100 if self.before else None

    @property
    def better(self) -> bool | None:
        """None where neither way is better."""
        way = FIGURES.get(self.figure, HIGHER)
        return None if way == NEITHER or self.now == self.before else (self.now < self.before) == (way == LOWER)


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
            by_scenario[name] = [Change(key, was[key], now[key]) for key in FIGURES if key in was and key in now]
            rates = [_searched(each, name) for each in (old, new)]
            if all(_number(rate) for rate in rates):
                by_scenario[name].append(Change("highest rate", *rates))
    return by_scenario


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
    """For people."""
    rows, remarks = {}, []
    for report in new["scenarios"]:
        name = report["scenario"]
        if name not in changes:
            remarks.append(f"{name}: not in the earlier report")
        elif other := other_load(old, report):
            remarks.append(f"{name}: {other}")
        for change in changes.get(name, []):
            percent = None if change.percent is None else f"{change.percent:+.1f} %"
            rows[f"{name} {change.figure}"] = [change.before, change.now, percent]
    return "\n".join([table("figure", ("before", "now", "change"), rows), *remarks])


def _figures(report: Mapping[str, Any]) -> dict[str, float]:
    figures = {key: report[key] for key in FIGURES if _number(report.get(key))}
    errors, requests = report.get("errors"), report.get("requests")
    if _number(errors) and _number(requests) and requests:
        figures["errors %"] = 100 * errors / requests
    return figures


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _searched(report: Mapping[str, Any], scenario: str) -> Any:
    searched = report.get("search")
    of_scenario = searched.get(scenario) if isinstance(searched, dict) else None
    return of_scenario.get("rate") if isinstance(of_scenario, dict) else None
