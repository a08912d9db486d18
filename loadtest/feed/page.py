"""The loop's figures → one HTML file: the click rates by day as a plot and as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from loadtest.feed.rates import LOOP, ORACLE, ORDERS, POPULARITY, RANDOM
from model.pages.drawing import INK, drawn, panels
from model.pages.render import render

TEMPLATE = Path(__file__).with_suffix(".html")
COLOURS = {LOOP: "#2f80d0", POPULARITY: "#b8860b", RANDOM: "#8a6fc0", ORACLE: INK}
NAMES = {
    LOOP: "the loop: trained on its own traffic",
    POPULARITY: "popularity: clicks so far",
    RANDOM: "random",
    ORACLE: "oracle: true probabilities",
}


def html(figures: Mapping[str, Any]) -> str:
    return render(TEMPLATE, figures=figures, orders=ORDERS, names=NAMES, plot=plot(figures))


@drawn("click rate by day and way of ordering, with 95 % intervals")
def plot(figures: Mapping[str, Any]) -> Figure:
    figure, (axes,) = panels(8.5, 4.4)
    days = figures["days"]
    for name in ORDERS:
        rates, bounds = figures["ctr"][name], figures["ctr_95"][name]
        style = "--" if name == ORACLE else "-"
        low, high = zip(*bounds, strict=True)
        axes.fill_between(days, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        axes.plot(days, rates, style, marker="o", markersize=4, color=COLOURS[name], label=NAMES[name])
    axes.set(xlabel="day", ylabel="click rate of what was shown", xticks=days)
    axes.set_ylim(0, 1.35 * max(figures["ctr"][ORACLE]))
    axes.legend(loc="upper left", ncols=2)
    return figure
