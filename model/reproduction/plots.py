"""The report's dict → plots that stand inside the page; the networks' colours are of a middle tone."""

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from model.pages.drawing import INK, drawn, panels
from model.reproduction.probes import HISTORY_BINS

COLOURS = {
    "bst": "#d5404f",
    "din": "#2f80d0",
    "wdl_seq": "#1f9a6d",
    "wdl": "#b8860b",
    "atrank": "#8d63c8",
    "bilstm": "#d062a4",
    "bilstm_attention": "#e07a2c",
    "cnn_maxpool": "#25a0b0",
    "bpr": "#8a8f98",
}
OTHER = "#9c7a55"
DASHES = ("-", (0, (5, 1.6)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))  # a network's first variant, second, ...
MARKERS = ("o", "s", "^", "D")
Networks = Mapping[str, Mapping[str, Any]]


class Look:
    """Colour, dash and marker of every network in one report: a variant looks like its network, dashed otherwise."""

    def __init__(self, networks: Networks):
        self.of: dict[str, dict[str, Any]] = {}
        counted: dict[str, int] = {}
        for name, entry in networks.items():
            kind = entry.get("network", "peer")
            number = counted.get(kind, 0)
            counted[kind] = number + 1
            self.of[name] = {
                "color": COLOURS.get(kind, OTHER),
                "linestyle": DASHES[number % len(DASHES)],
                "marker": MARKERS[number % len(MARKERS)],
            }


def compared(networks: Networks) -> Networks:
    """What the plots of all networks show: no ablation, no warning, nothing without a result."""
    return {n: e for n, e in networks.items() if e["kind"] in ("main", "peer") and "auc_mean" in e}


@drawn("AUC of every network with its interval, and its difference to BST")
def auc_by_network(report: Mapping[str, Any]) -> Figure:
    """AUC with its interval, beside the difference to the reference with its own."""
    shown, look = compared(report["networks"]), Look(report["networks"])
    names = sorted(shown, key=lambda name: shown[name]["auc_mean"])
    figure, (left, right) = panels(9.2, 1.3 + 0.34 * len(names), 2, sharey=True, width_ratios=[1.25, 1])
    for place, name in enumerate(names):
        entry, style = shown[name], look.of[name]
        (low, high), mean, colour, marker = entry["ci95"], entry["auc_mean"], style["color"], style["marker"]
        left.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        left.plot(entry["auc"], [place] * len(entry["auc"]), "|", color=colour, markersize=11, alpha=0.6)
        left.plot(mean, place, marker, color=colour, markersize=6.5)
        if to := entry["to_reference"]:
            right.plot([to["low"], to["high"]], [place, place], color=colour, linewidth=2.2)
            right.plot(to["mean"], place, marker, color=colour, markersize=6.5)
        elif name == report["reference"]:
            right.plot(0, place, marker, color=colour, markersize=6.5)
    bounds: list[tuple[str, Any, Any, float]] = [("floor", report["floor_auc"], (0, (2, 2)), 1.01)]
    bounds += [("boosting", report["gbdt_auc"], (0, (1, 2)), 1.08)]  # higher: the others' names would cover it
    rule = max((own["auc_mean"] for own in report["rules"].values()), default=None)
    if rule is not None and rule > report["floor_auc"]:  # else it tells nothing, and would stretch the axis
        bounds += [("best rule", rule, (0, (3, 1, 1, 1)), 1.15)]
    bounds += [("oracle", report["oracle_auc"], (0, (6, 2)), 1.01)]
    for what, at, dash, height in bounds:
        if at is not None:
            left.axvline(at, color=INK, linewidth=1.1, linestyle=dash, zorder=0)
            above, text = left.get_xaxis_transform(), f"{what} {at:.4f}"
            left.text(at, height, text, transform=above, ha="right", va="bottom", fontsize=9)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(-0.6, len(names) - 0.4)
    left.set_xlabel("AUC on test (ticks: seeds)")
    right.axvline(0, color=INK, linewidth=1.1, zorder=0)
    right.set_xlabel("AUC minus the reference's, paired")
    right.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:+.3f}" if at else "0"))
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.subplots_adjust(wspace=0.06)
    return figure


@drawn("AUC on validation and training loss by epoch")
def training_curves(report: Mapping[str, Any]) -> Figure:
    """Validation AUC and training loss at every look, a line for each seed; losses of the usual objective alone."""
    shown = {name: entry for name, entry in compared(report["networks"]).items() if entry.get("curves")}
    look, objectives = Look(report["networks"]), [entry["objective"] for entry in shown.values()]
    usual = max(objectives, key=objectives.count, default="click")
    figure, (left, right) = panels(9.2, 3.6, 2)
    for name, entry in shown.items():
        style = look.of[name] | {"marker": "o", "markersize": 3, "linewidth": 1.4}
        for number, curve in enumerate(entry["curves"].values()):
            epochs = [point["epochs"] for point in curve]
            own = style | {"alpha": 1.0 if number == 0 else 0.35, "label": name if number == 0 else None}
            left.plot(epochs, [point["auc"] for point in curve], **own)
            if entry["objective"] == usual:
                right.plot(epochs, [point["train_loss"] for point in curve], **own)
    left.set_ylabel("AUC on validation")
    right.set_ylabel(f"training loss ({usual})")
    for axes in (left, right):
        axes.set_xlabel("epochs")
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=_longest(shown) >= 3))
    figure.subplots_adjust(wspace=0.25)
    _legend(figure, left)
    return figure


def _longest(shown: Networks) -> float:
    points = [point["epochs"] for entry in shown.values() for curve in entry["curves"].values() for point in curve]
    return max(points, default=0)


@drawn("Observed click rate by expected click rate")
def calibration(report: Mapping[str, Any]) -> Figure | None:
    """Tenths of the impressions by score: expected beside observed click rate, both logarithmic."""
    shown = {name: entry for name, entry in compared(report["networks"]).items() if entry.get("calibration_bins")}
    look = Look(report["networks"])
    if not shown:
        return None
    figure, (left, right) = panels(9.2, 3.9, 2)
    rates = []
    for name, entry in shown.items():
        bins = [b for b in entry["calibration_bins"] if b["observed"] > 0 and b["expected"] > 0]
        expected, observed = [b["expected"] for b in bins], [b["observed"] for b in bins]
        rates += expected + observed
        style = look.of[name] | {"markersize": 4, "linewidth": 1.2}
        left.plot(expected, observed, label=name, **style)
        right.plot(expected, [e / o for o, e in zip(observed, expected, strict=True)], **style)
    low, high = min(rates), max(rates)
    left.plot([low, high], [low, high], color=INK, linewidth=1.1, zorder=0)
    right.axhline(1, color=INK, linewidth=1.1, zorder=0)
    left.set_yscale("log")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("expected click rate, mean of a tenth")
        axes.tick_params(length=0, which="both")
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        _plain_log(axis, low, high)
    left.set_ylabel("observed click rate")
    right.set_ylabel("expected ÷ observed")
    figure.subplots_adjust(wspace=0.25)
    _legend(figure, left)
    return figure


def _plain_log(axis: Any, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 of every decade, as percents."""
    steps = [mantissa * 10.0**power for power in range(-7, 1) for mantissa in (1, 2, 5)]
    axis.set_major_locator(matplotlib.ticker.FixedLocator([step for step in steps if low / 1.5 <= step <= high * 1.5]))
    axis.set_major_formatter(FuncFormatter(lambda at, _: f"{100 * at:g} %"))
    axis.set_minor_locator(matplotlib.ticker.NullLocator())


@drawn("AUC by number of behaviours before the impression")
def auc_by_history(report: Mapping[str, Any]) -> Figure | None:
    """AUC by how many behaviours a user had before the impression."""
    shown, look = compared(report["networks"]), Look(report["networks"])
    counts = report["data"]["test_by_history"]
    there = [b for b in range(len(counts)) if any(entry["auc_by_history"][b] is not None for entry in shown.values())]
    if not there:
        return None
    figure, (axes,) = panels(9.2, 4.2)
    for name, entry in shown.items():
        points = [(place, entry["auc_by_history"][b]) for place, b in enumerate(there)]
        points = [(place, value) for place, value in points if value is not None]
        places, values = [place for place, _ in points], [value for _, value in points]
        axes.plot(places, values, label=name, **look.of[name] | {"markersize": 5, "linewidth": 1.4})
    axes.set_xticks(range(len(there)), [f"{_bin(b)}\n{counts[b]:,} rows" for b in there])
    axes.set_xlabel("behaviours of the user before the impression")
    axes.set_ylabel("AUC on test, mean of the seeds")
    axes.grid(axis="x", visible=False)
    axes.tick_params(length=0)
    _legend(figure, axes)
    return figure


def _bin(number: int) -> str:
    low, high = HISTORY_BINS[number]
    return str(low) if low == high else f"{low}–{high}" if high else f"over {low - 1}"


@drawn("Attention by place and by age of the behaviour")
def attention(report: Mapping[str, Any]) -> Figure | None:
    """Attention weight by place and by gap, ÷ what even attention would give."""
    networks = {n: e for n, e in report["networks"].items() if e["kind"] != "warning" and e.get("attention")}
    shown, look = {n: e for n, e in networks.items() if e["kind"] == "main"}, Look(report["networks"])
    if not shown:
        return None
    figure, (left, right) = panels(9.2, 3.9, 2)
    edges = sorted({gap["from_s"] for entry in shown.values() for gap in entry["attention"]["gaps"]})
    for name, entry in shown.items():
        found = entry["attention"]
        style = look.of[name] | {"markersize": 4, "linewidth": 1.4}
        left.plot(range(1, len(found["places"]) + 1), found["places"], label=name, **style)
        places = [edges.index(gap["from_s"]) for gap in found["gaps"]]
        right.plot(places, [gap["weight"] for gap in found["gaps"]], **style)
    every = max(1, -(-len(edges) // 8))
    right.set_xticks(range(0, len(edges), every), [duration(edge) for edge in edges[::every]], fontsize=9)
    left.set_xlabel("place, counted back from the newest behaviour")
    right.set_xlabel("time since the behaviour, at least")
    left.set_ylabel("mean attention, 1: as to any other")
    left.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axes in (left, right):
        axes.axhline(1, color=INK, linewidth=1.1, zorder=0)
        axes.tick_params(length=0)
    figure.subplots_adjust(wspace=0.18)
    _legend(figure, left)
    return figure


def duration(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds} s"


def _legend(figure: Figure, axes: Axes) -> None:
    """All names above the panels, where they cover nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, ncols=min(6, len(labels)), loc="lower left", bbox_to_anchor=(0.11, 0.9), handlelength=3
    )
