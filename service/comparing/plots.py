"""The report's dict → plots that stand inside the page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from model.pages.drawing import INK, drawn, panels

COLOURS = ("#8a8f98", "#d5404f", "#2f80d0", "#1f9a6d", "#b8860b", "#8d63c8")  # control's, then the others'
MARKERS = ("s", "o", "^", "D", "v", "P")
HISTORIES = ("none", "1–4", "5–9", "10–19", "20–49", "50+")  # as arms.SEGMENTS has them
LAST_POSITION = 20  # likewise

Report = Mapping[str, Any]


def looks(report: Report) -> dict[str, tuple[str, str]]:
    """Colour and marker of each arm; control is grey."""
    names = [report["control"], *(arm["name"] for arm in report["arms"] if arm["name"] != report["control"])]
    return {name: (COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]) for at, name in enumerate(names)}


@drawn("Gain over control by time, with the band in which the true gain lies")
def gain_over_time(report: Report) -> Figure | None:
    series, style = report["series"], looks(report)
    times = np.array(series["times"], "datetime64[ms]")
    figure, (axes,) = panels(9.2, 3.4)
    bounds = []
    for name, own in series["gains"].items():
        at = [i for i, low in enumerate(own["low"]) if low is not None]
        if not at:
            continue
        colour = style[name][0]
        low, high, estimate = ([own[part][i] for i in at] for part in ("low", "high", "estimate"))
        axes.fill_between(times[at], low, high, color=colour, alpha=0.22, linewidth=0)
        axes.plot(times[at], estimate, color=colour, label=name)
        bounds += [abs(value) for i in at[len(at) // 4 :] for value in (own["low"][i], own["high"][i])]
    if not bounds:
        return None
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_ylim(-1.25 * max(bounds), 1.25 * max(bounds))  # the first looks' bands are as wide as the page
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel(f"clicks per item shown,\nover {report['control']}")
    axes.set_xlabel("UTC")
    axes.legend(loc="upper right")
    figure.autofmt_xdate(rotation=0, ha="center")
    return figure


@drawn("Click rate of each arm by position, by length of history and by hour of day")
def rates(report: Report) -> Figure:
    figure, (position, history, hour) = panels(11.5, 3.2, 3)
    for axes, segment, title in (
        (position, "position", "by position"),
        (history, "history", "by behaviours in the history"),
        (hour, "hour", "by hour of day, UTC"),
    ):
        _rates(axes, report, segment)
        axes.set_title(title)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)
    history.set_xticks(range(len(HISTORIES)), HISTORIES)
    position.xaxis.set_major_formatter(
        FuncFormatter(lambda at, _: f"{at:.0f}{'+' if at >= LAST_POSITION else ''}" if at == int(at) else "")
    )
    position.legend()
    figure.tight_layout()
    return figure


def _rates(axes: Axes, report: Report, segment: str) -> None:
    style = looks(report)
    for number, name in enumerate(style):
        colour, marker = style[name]
        rows = [row for row in report["segments"][segment] if row["arm"] == name]
        aside = (number - (len(style) - 1) / 2) * 0.16  # side by side, or the intervals cover each other
        axes.plot([row["at"] + aside for row in rows], [row["ctr"] for row in rows], marker, color=colour, label=name)
        for row in rows:
            if row["interval"]:
                axes.plot([row["at"] + aside] * 2, row["interval"], color=colour, linewidth=1.4)
