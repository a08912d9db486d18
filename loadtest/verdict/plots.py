"""A run's figures → plots that stand inside the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from loadtest.quantiles import BEYOND, MARK, told
from model.pages.drawing import GRID, INK, drawn, panels

DUE, SERVICE, WRONG, RIGHT, OLD = "#d5404f", "#2f80d0", "#b3261e", "#1f9a6d", "#8a8f98"
REFUSED, LATE, DEGRADED = "#c77f12", "#8457c2", "#5b8fa8"
FEW = "fewer than ten requests beyond"
NEAR = 1.5  # a budget of at most so many times the highest measured time stands in the plot
STAGES = ("parse", "history", "encode", "queue", "score", "sort", "serialise")  # in the order of a request
WHOLE = {"total": "total, in the service", "network": "there and back"}  # which make up the time from send to answer
Entry = Mapping[str, Any]


@drawn("Response time by percentile")
def percentiles(report: Entry, course: Entry, old: Entry | None) -> Figure | None:
    """The HDR plot: the rarer, the further right; from due, from send, and an earlier run's from due.

    Dotted where too few requests carry the curve. None where there was nothing to time.
    """
    if not course["due_ms"]:
        return None
    figure, (axes,) = panels(9.2, 3.9)
    lines = [(old, "due_ms", OLD, 1.4, "the earlier run")] if old and old["due_ms"] else []
    lines += [(course, "service_ms", SERVICE, 1.6, "service time, from send")]
    lines += [(course, "due_ms", DUE, 2, "response time, from due")]
    for entry, key, colour, width, label in lines:
        rarity, ms = _rarity(entry), entry[key]
        firm = sum(at <= entry.get("requests", np.inf) / BEYOND for at in rarity)
        axes.plot(rarity[:firm], ms[:firm], color=colour, linewidth=width, label=label)
        rest = slice(max(0, firm - 1), None)
        axes.plot(rarity[rest], ms[rest], color=colour, linewidth=width, linestyle=(0, (1, 1.6)))
    axes.plot([], [], color=INK, linewidth=1.6, linestyle=(0, (1, 1.6)), label=FEW)
    axes.set_xscale("log")
    ticks = [1, 2, 10, 100, 1_000, 10_000, 100_000, 1_000_000]
    labels = ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"]
    end = max(200.0, *(_rarity(entry)[-1] for entry, *_ in lines))
    axes.set_xlim(1, end * 1.1)
    shown = [number for number, tick in enumerate(ticks) if tick <= end * 1.1]
    axes.set_xticks([ticks[number] for number in shown], [labels[number] for number in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    budgets = {key: report["budget"][key] for key in ("p50_ms", "p99_ms")}
    _ms(axes, [ms for entry, key, *_ in lines for ms in entry[key]], list(budgets.values()))
    for share, key in ((0.5, "p50_ms"), (0.99, "p99_ms")):
        if _shows(axes, budgets[key], key):
            face = "none" if key in report["too_few_for"] else INK
            label = f"{key.removesuffix('_ms')} budget"
            axes.plot(1 / (1 - share), budgets[key], "v", color=INK, markerfacecolor=face, markersize=8, label=label)
    axes.set_xlabel("share of the requests that took at most as long")
    axes.legend(loc="lower left", ncols=3, bbox_to_anchor=(-0.01, 1.0))
    return figure


@drawn("Response time, throughput and errors over time")
def over_time(report: Entry, course: Entry) -> Figure:
    """p50 and p99 from due above; what was due, answered and how it ended otherwise below."""
    slices = course["slices"]
    at_s = [one["at_s"] for one in slices]
    figure = Figure(figsize=(9.2, 5.4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.25, 1])
    budgets = {key: report["budget"][key] for key in ("p99_ms", "p50_ms")}
    for key, colour in (("p99_ms", DUE), ("p50_ms", SERVICE)):
        taken = np.array([one[key] for one in slices], float)
        firm = np.array([key not in one["too_few_for"] for one in slices])
        faint = {} if firm.any() else {"linestyle": (0, (1, 1.6))}
        above.plot(at_s, taken, color=colour, label=key.removesuffix("_ms"), linewidth=1.6, **faint)
        above.plot(at_s, np.where(firm, taken, np.nan), "o", color=colour, markersize=4)
        above.plot(at_s, np.where(firm, np.nan, taken), "o", color=colour, markerfacecolor="none", markersize=4)
    if any(one["too_few_for"] for one in slices):
        above.plot([], [], "o", color=INK, markerfacecolor="none", markersize=4, label=FEW)
    _ms(above, [one[key] for one in slices for key in budgets if one[key] is not None], list(budgets.values()))
    for key, colour in (("p99_ms", DUE), ("p50_ms", SERVICE)):
        if _shows(above, budgets[key], key):
            label = f"{key.removesuffix('_ms')} budget"
            above.axhline(budgets[key], color=colour, linewidth=1, linestyle=(0, (5, 3)), label=label)
    above.legend(loc="lower left", ncols=3, bbox_to_anchor=(-0.01, 1.0))
    looks = (
        ("due", INK, 1.1, "due"),
        ("answered", RIGHT, 1.9, "answered right"),
        ("degraded", DEGRADED, 1.3, "degraded"),
        ("refused", REFUSED, 1.3, "refused (429)"),
        ("late", LATE, 1.3, "late (504)"),
        ("errors", WRONG, 1.5, "errors"),
    )
    for key, colour, width, label in looks:
        rates = [one[key] for one in slices]
        if any(rates) or key in ("due", "answered"):
            below.plot(at_s, rates, color=colour, label=label, drawstyle="steps-mid", linewidth=width)
    below.set_ylim(bottom=0)
    below.set_ylabel("requests/s")
    below.set_xlabel("seconds since the end of the warm-up")
    below.legend(loc="lower left", ncols=6, bbox_to_anchor=(-0.01, 1.0))
    figure.subplots_adjust(hspace=0.36)
    return figure


@drawn("Time by stage, as the service tells it")
def stages(report: Entry) -> Figure | None:
    """p50 and p99 of each stage in the service's answers, its total and the whole time below; None without any."""
    by_name = {name: taken for name, taken in report["stages"].items() if taken["p99_ms"] >= 0}
    if not by_name or report["service_p99_ms"] is None:
        return None
    order = [name for name in STAGES if name in by_name]
    order += sorted(name for name in by_name if name not in (*STAGES, *WHOLE))
    rows = [(name, by_name[name]) for name in order]
    rows += [(title, by_name[name]) for name, title in WHOLE.items() if name in by_name]
    keys = {title: name for name, title in WHOLE.items()}
    rows += [("from send to answer", {"p50_ms": report["service_p50_ms"], "p99_ms": report["service_p99_ms"]})]
    figure, (axes,) = panels(9.2, 0.9 + 0.33 * len(rows))
    for place, (name, taken) in enumerate(reversed(rows)):
        colour = SERVICE if name in by_name else DUE if name.startswith("from") else INK
        axes.barh(place, taken["p50_ms"], height=0.55, color=colour, alpha=0.85)
        axes.plot([taken["p50_ms"], taken["p99_ms"]], [place, place], color=colour, linewidth=1.2)
        axes.plot(taken["p99_ms"], place, "|", color=colour, markersize=11)
        where = "service_" if name.startswith("from") else f"stages.{keys.get(name, name)}."
        figures = " / ".join(told(taken[key], where + key not in report["too_few_for"]) for key in ("p50_ms", "p99_ms"))
        axes.annotate(figures, (taken["p99_ms"], place), (7, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_xlim(0, max(taken["p99_ms"] for _, taken in rows) * 1.16 or 1)
    axes.set_xlabel(f"ms: bar p50, tick p99; {MARK} fewer than ten answers beyond")
    axes.grid(axis="y", visible=False)
    axes.tick_params(length=0)
    return figure


@drawn("Throughput, goodput and p99 by offered rate")
def curve(search: Entry, most_ms: float) -> Figure | None:
    """Offered rate → right answers, those in time, what was turned away, and p99; the page says what its marks mean."""
    points = sorted(search["curve"], key=lambda point: point["planned_rate"])
    if not points:
        return None
    offered = [point["planned_rate"] for point in points]
    figure, (left, right) = panels(9.2, 3.7, 2)
    left.plot([0, max(offered)], [0, max(offered)], color=GRID, linewidth=1.2, linestyle=(0, (4, 3)))
    lines = [
        (left, "throughput", SERVICE, "right answers"),
        (left, "goodput", RIGHT, "goodput: right and in time"),
        (left, "refused", REFUSED, "refused (429)"),
        (left, "late", LATE, "late (504)"),
        (right, "p99_ms", DUE, "p99 from due"),
    ]
    for axes, key, colour, label in lines:
        turned_away = key in ("refused", "late")
        if turned_away and not any(point[key] for point in points):
            continue
        per_s = [point["planned_rate"] / point["requests"] if turned_away else 1 for point in points]
        values = np.array([point[key] for point in points], float) * per_s
        axes.plot(offered, values, color=colour, linewidth=1.7, label=label)
        for point, value in zip(points, values, strict=True):
            face = colour if point["good"] else "none"
            look = "x" if key in point["too_few_for"] else "o"
            axes.plot(point["planned_rate"], value, look, color=colour, markerfacecolor=face, markersize=5)
    for axes in (left, right):
        axes.axvline(search["rate"], color=INK, linewidth=1)
        axes.set_xlim(left=0)
        axes.set_xlabel("offered, requests/s")
    left.set_ylim(bottom=0)
    left.set_ylabel("answers/s")
    _ms(right, [point["p99_ms"] for point in points if point["p99_ms"] is not None], [most_ms])
    if _shows(right, most_ms, "p99_ms"):
        right.axhline(most_ms, color=DUE, linewidth=1, linestyle=(0, (5, 3)), label="its budget")
    for axes in (left, right):
        axes.legend(loc="lower left", ncols=2, bbox_to_anchor=(-0.02, 1.0))
    figure.subplots_adjust(wspace=0.22)
    return figure


def _rarity(course: Entry) -> list[float]:
    return [1 / max(1e-9, 1 - share) for share in course["shares"]]


def _ms(axes: Axes, values: Sequence[float], budgets: Sequence[float]) -> None:
    """The axis of milliseconds: from 0, or logarithmic where a hundredfold lies between.

    It follows what was measured: a budget moves its end only where it lies near.
    """
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    high = max([high, *(budget for budget in budgets if budget <= NEAR * high)])
    axes.set_ylabel("ms")
    if high <= 30 * float(np.median(positive)):
        axes.set_ylim(0, high * 1.12)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 1.25, high * 1.25)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high < 1000 * low else (1,)
    axes.yaxis.set_major_locator(FixedLocator([step * 10.0**decade for decade in decades for step in steps]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))


def _shows(axes: Axes, budget_ms: float, key: str) -> bool:
    """Whether the axis reaches a budget; one that lies beyond is told in the legend."""
    low, high = axes.get_ylim()
    if low <= budget_ms <= high:
        return True
    where = "above" if budget_ms > high else "below"
    axes.plot([], [], " ", label=f"{key.removesuffix('_ms')} budget, {budget_ms:g} ms: {where} this axis")
    return False
