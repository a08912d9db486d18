"""A run's figures → plots that stand inside the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from model.pages.drawing import GRID, INK, drawn, panels

DUE, SERVICE, WRONG, RIGHT, OLD = "#d5404f", "#2f80d0", "#b3261e", "#1f9a6d", "#8a8f98"
STAGES = ("queue", "parse", "history", "encode", "score", "sort", "serialise")  # in the order of a request
WHOLE = {"total": "total, in the service", "network": "there and back"}  # which make up the time from send to answer
Entry = Mapping[str, Any]


@drawn("Response time by percentile")
def percentiles(report: Entry, course: Entry, old: Entry | None) -> Figure:
    """The HDR plot: the rarer, the further right; from due, from send, and an earlier run's from due."""
    figure, (axes,) = panels(9.2, 3.9)
    if old:
        axes.plot(_rarity(old), old["due_ms"], color=OLD, linewidth=1.4, label="the earlier run")
    axes.plot(_rarity(course), course["service_ms"], color=SERVICE, linewidth=1.6, label="service time, from send")
    axes.plot(_rarity(course), course["due_ms"], color=DUE, linewidth=2, label="response time, from due")
    for share, key in ((0.5, "p50_ms"), (0.99, "p99_ms")):
        most = report["budget"][key]
        axes.plot(1 / (1 - share), most, "v", color=INK, markersize=8, label="budget" * (share == 0.5))
    axes.set_xscale("log")
    ticks = [1, 2, 10, 100, 1_000, 10_000, 100_000, 1_000_000]
    labels = ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"]
    end = max(200.0, *(_rarity(one)[-1] for one in (course, old) if one))
    axes.set_xlim(1, end * 1.1)
    shown = [number for number, tick in enumerate(ticks) if tick <= end * 1.1]
    axes.set_xticks([ticks[number] for number in shown], [labels[number] for number in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    _ms(axes, [*course["due_ms"], *report["budget"].values()])
    axes.set_xlabel("share of the requests that took at most as long")
    axes.legend(loc="lower left", ncols=4, bbox_to_anchor=(-0.01, 1.0))
    return figure


@drawn("Response time, throughput and errors over time")
def over_time(report: Entry, course: Entry) -> Figure:
    """p50 and p99 from due above, what was due, answered and wrong below."""
    slices = course["slices"]
    at_s = [one["at_s"] for one in slices]
    marker = {"marker": "o", "markersize": 3}
    figure = Figure(figsize=(9.2, 5.4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.25, 1])
    for key, colour in (("p99_ms", DUE), ("p50_ms", SERVICE)):
        taken = [one[key] if one[key] is not None else np.nan for one in slices]
        above.plot(at_s, taken, color=colour, label=key.removesuffix("_ms"), linewidth=1.6, **marker)
        above.axhline(report["budget"][key], color=colour, linewidth=1, linestyle=(0, (5, 3)))
    above.plot([], [], color=INK, linewidth=1, linestyle=(0, (5, 3)), label="its budget")
    _ms(above, [one["p99_ms"] for one in slices if one["p99_ms"] is not None] + [report["budget"]["p99_ms"]])
    above.legend(loc="lower left", ncols=3, bbox_to_anchor=(-0.01, 1.0))
    looks = (
        ("due", INK, 1.1, "due"),
        ("answered", RIGHT, 1.9, "answered right"),
        ("wrong", WRONG, 1.5, "wrong (when due)"),
    )
    for key, colour, width, label in looks:
        rates = [one[key] for one in slices]
        if any(rates) or key != "wrong":
            below.plot(at_s, rates, color=colour, label=label, drawstyle="steps-mid", linewidth=width)
    below.set_ylim(bottom=0)
    below.set_ylabel("requests/s")
    below.set_xlabel("seconds since the end of the warm-up")
    below.legend(loc="lower left", ncols=3, bbox_to_anchor=(-0.01, 1.0))
    figure.subplots_adjust(hspace=0.3)
    return figure


@drawn("Time by stage, as the service tells it")
def stages(report: Entry) -> Figure | None:
    """p50 and p99 of each stage in the service's answers, its total and the whole time below; None without any."""
    by_name = {name: taken for name, taken in report["stages"].items() if taken["p99_ms"] >= 0}
    if not by_name:
        return None
    order = [name for name in STAGES if name in by_name]
    order += sorted(name for name in by_name if name not in (*STAGES, *WHOLE))
    rows = [(name, by_name[name]) for name in order]
    rows += [(title, by_name[name]) for name, title in WHOLE.items() if name in by_name]
    rows += [("from send to answer", {"p50_ms": report["service_p50_ms"], "p99_ms": report["service_p99_ms"]})]
    figure, (axes,) = panels(9.2, 0.9 + 0.33 * len(rows))
    for place, (name, taken) in enumerate(reversed(rows)):
        colour = SERVICE if name in by_name else DUE if name.startswith("from") else INK
        axes.barh(place, taken["p50_ms"], height=0.55, color=colour, alpha=0.85)
        axes.plot([taken["p50_ms"], taken["p99_ms"]], [place, place], color=colour, linewidth=1.2)
        axes.plot(taken["p99_ms"], place, "|", color=colour, markersize=11)
        figures = f"{taken['p50_ms']:.2f} / {taken['p99_ms']:.2f}"
        axes.annotate(figures, (taken["p99_ms"], place), (7, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_xlim(0, max(taken["p99_ms"] for _, taken in rows) * 1.16 or 1)
    axes.set_xlabel("ms: bar p50, tick p99")
    axes.grid(axis="y", visible=False)
    axes.tick_params(length=0)
    return figure


@drawn("Throughput, goodput and p99 by offered rate")
def curve(search: Entry, most_ms: float) -> Figure | None:
    """Offered rate → right answers, those in time, and p99. Windows that the generator could not send are hollow."""
    points = sorted(search["curve"], key=lambda point: point["planned_rate"])
    if not points:
        return None
    offered = [point["planned_rate"] for point in points]
    figure, (left, right) = panels(9.2, 3.7, 2)
    left.plot([0, max(offered)], [0, max(offered)], color=GRID, linewidth=1.2, linestyle=(0, (4, 3)))
    lines = [(left, "throughput", SERVICE, "right answers"), (left, "goodput", RIGHT, "goodput: right and in time")]
    for axes, key, colour, label in [*lines, (right, "p99_ms", DUE, "p99 from due")]:
        axes.plot(offered, [point[key] for point in points], color=colour, linewidth=1.7, label=label)
        for point in points:
            face = colour if point["good"] else "none"
            axes.plot(point["planned_rate"], point[key], "o", color=colour, markerfacecolor=face, markersize=5)
        axes.axvline(search["rate"], color=INK, linewidth=1)
        axes.set_xlim(left=0)
        axes.set_xlabel("offered, requests/s")
    right.axhline(most_ms, color=DUE, linewidth=1, linestyle=(0, (5, 3)), label="its budget")
    left.set_ylim(bottom=0)
    left.set_ylabel("answers/s")
    _ms(right, [*(point["p99_ms"] for point in points), most_ms])
    for axes in (left, right):
        axes.legend(loc="lower left", ncols=2, bbox_to_anchor=(-0.02, 1.0))
    figure.subplots_adjust(wspace=0.22)
    return figure


def _rarity(course: Entry) -> list[float]:
    return [1 / max(1e-9, 1 - share) for share in course["shares"]]


def _ms(axes: Axes, values: Sequence[float]) -> None:
    """The axis of milliseconds: from 0, or logarithmic where a hundredfold lies between."""
    positive = [value for value in values if value > 0]
    axes.set_ylabel("ms")
    if max(positive, default=1) <= 30 * float(np.median(positive or [1])):
        axes.set_ylim(0, max(positive, default=1) * 1.12)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        return
    axes.set_yscale("log")
    low, high = np.log10(min(positive)), np.log10(max(positive))
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    steps = (1, 2, 5) if high - low < 3 else (1,)
    axes.yaxis.set_major_locator(FixedLocator([step * 10.0**decade for decade in decades for step in steps]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
