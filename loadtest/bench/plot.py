"""How every benchmark draws its figures: what a table cannot show."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#2f80d0", "#2a9d5c", "#d5404f", "#8a6fc0", "#b8860b")
Series = Mapping[str, Mapping[Any, float]]  # by name, y by x


def plot(panels: Mapping[str, Series], x: str, log: str = "") -> Figure:
    """Plots side by side, by title: a line for each name where x is a number, else bars side by side.

    `log` names the logarithmic axes: "x", "xy" or none.
    """
    figure = Figure((1 + 5 * len(panels), 4.2), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.set(title=title, xlabel=x)
        ticks = list(dict.fromkeys(at for values in series.values() for at in values))
        (_lines if all(isinstance(at, int | float) for at in ticks) else _bars)(axes, series, ticks, log)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        if len(series) > 1:
            axes.legend(frameon=False)
    return figure


def _lines(axes: Axes, series: Series, ticks: Sequence[Any], log: str) -> None:
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(list(values), list(values.values()), "o-", color=colour, label=name)
    if "x" in log:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    if "y" in log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0, 1.08 * max(max(values.values()) for values in series.values()))


def _bars(axes: Axes, series: Series, ticks: Sequence[Any], _: str) -> None:
    width = 0.8 / len(series)
    for number, ((name, values), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        at = np.array([ticks.index(tick) for tick in values]) + (number - (len(series) - 1) / 2) * width
        bars = axes.bar(at, list(values.values()), width, color=colour, label=name)
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    many: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(ticks) > 5 else {}
    axes.set_xticks(range(len(ticks)), ticks, **many)
