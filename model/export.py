"""Adds to an exported bundle: the int8 graph beside the fp32 one, if it passes its gate (model/graph/gate.py), or the
graph of what its network attends to (model/graph/attention.py), which training has added since there is `explain`.
Or makes another version of it on smaller tables, by the same gate (model/graph/narrow.py).

python -m model.export --bundle DIR --quantize [--data DIR]
python -m model.export --bundle DIR --explain
python -m model.export --bundle DIR --tables fp16|int8 [--data DIR]
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model import command
from model.bundle.layout import ATTENTION_GRAPH, INT8, NARROW, REPORT
from model.bundle.reading import Bundle
from model.bundle.writing import amend
from model.evaluation.measure import check_encoding
from model.prepared.loader import Prepared

BOUNDS = {  # options: the fields of gate.Bounds, which holds each one's default and reason
    "most_auc_drop": "AUC may fall by so much on impressions that the model was not trained on",
    "least_tau": "mean Kendall's tau to the fp32 order",
    "least_segment_tau": "the same in the worst segment",
    "most_shift": "the mean score of all, and of the worst segment, may shift by so much",
    "least_rows": "impressions of a segment that is judged",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.export", description="Add to an exported bundle, or shrink it."
    )
    parser.add_argument(
        "--bundle", type=Path, required=True, help="a bundle, or the folder whose `current` points to one"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--quantize", action="store_true", help="the int8 graph beside the fp32 one")
    what.add_argument("--explain", action="store_true", help="the graph that POST /rank asks where `explain` is true")
    what.add_argument("--tables", choices=NARROW, help="another version, whose long tables are stored in that")
    parser.add_argument(
        "--data", type=Path, help="not for --explain: prepared data set (default: where the bundle was trained)"
    )
    parser.add_argument(
        "--table-rows", type=int, metavar="N", help="with --tables: one of fewer rows stays fp32 (default: 10000)"
    )
    for name, what in BOUNDS.items():
        kind = int if name == "least_rows" else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=f"the gate's bound: {what}")
    arguments = parser.parse_args(argv)
    if arguments.table_rows is not None and (not arguments.tables or arguments.table_rows < 1):
        parser.error(f"--table-rows {arguments.table_rows}: allowed with --tables, from 1 on")
    if arguments.explain:
        return _explain(arguments.bundle)
    return _gated(arguments)


def _explain(path: Path) -> int:
    from model.graph.attention import add_attention  # torch takes seconds: after the arguments
    from model.graph.trained import network_of

    try:
        bundle = Bundle.open(path)
        difference = add_attention(bundle, network_of(bundle))
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: weights of other shapes
        print(f"export: {command.words(error)}", file=sys.stderr)
        return 1
    if difference is None:
        network = bundle.manifest["network"]
        print(f"export: {network} attends to nothing: POST /rank explains without attention", file=sys.stderr)
        return 1
    amend(bundle, {}, {}, [ATTENTION_GRAPH])
    graph = bundle.folder / ATTENTION_GRAPH
    print(f"{graph}: {graph.stat().st_size / 2**10:.0f} KiB, at most {difference:.1e} off torch's attention")
    print(json.dumps({"bundle": str(bundle.folder), "max_abs_diff_torch": difference}))
    return 0


def _gated(arguments: argparse.Namespace) -> int:
    """The int8 graph, or smaller tables: both are made by the same gate, and told alike."""
    try:
        bundle = Bundle.open(arguments.bundle)
        figures = _judged(arguments, bundle)
    except (OSError, ValueError) as error:
        print(f"export: {command.words(error)}", file=sys.stderr)
        return 1
    if remark := unjudged(bundle, figures):
        print(f"export: {remark}", file=sys.stderr)
    print(table(figures))
    print(_told_tables(bundle, figures) if arguments.tables else _told_int8(figures))
    print(json.dumps({"bundle": str(bundle.folder), **figures}))  # tables: figures name the new version's folder
    return 0 if figures["accepted"] else 1


def _judged(arguments: argparse.Namespace, bundle: Bundle) -> dict[str, Any]:
    from model.graph.gate import Bounds  # torch takes seconds: after the arguments
    from model.graph.narrow import narrow
    from model.graph.quantize import quantize
    from model.graph.tables import LEAST_ROWS

    bounds = Bounds(**{name: value for name in BOUNDS if (value := getattr(arguments, name)) is not None})
    data = _data_of(bundle, arguments.data)
    if arguments.tables:
        return narrow(bundle, data, arguments.tables, bounds, arguments.table_rows or LEAST_ROWS)
    return quantize(bundle, data, bounds)


def _told_int8(figures: Mapping[str, Any]) -> str:
    if figures["accepted"]:
        return "int8 accepted: it is served where the processor multiplies bytes"
    return f"int8 refused, fp32 stays: {'; '.join(figures['refused'])}"


def _told_tables(bundle: Bundle, figures: Mapping[str, Any]) -> str:
    form = figures["form"]
    lines = [f"the int8 graph on these tables\n{table(figures[INT8])}"] if INT8 in figures else []
    lines.append(of_tables(figures))
    if not figures["accepted"]:
        lines.append(f"{form} tables refused, {bundle.folder} is as it was: {'; '.join(figures['refused'])}")
    elif figures["published"]:
        lines.append(f"{form} tables accepted: {figures['bundle']} is `current`")
    else:
        lines.append(f"{form} tables accepted: {figures['bundle']}, not made `current`, as {bundle.folder} is not")
    return "\n".join(lines)


def of_tables(figures: Mapping[str, Any]) -> str:
    """The tables for people: what each is stored in, and what that saves."""
    lines = [f"{'table':50} {'rows':>13} {'width':>6} {'form':>5} {'MB':>10}"]
    small = 0
    for name, facts in figures["tables"].items():
        small += facts["rows"] < figures["least_rows"]
        size = f"{facts['bytes'] / 1e6:10.2f}"
        lines.append(f"{name:50} {facts['rows']:13,} {facts['width']:6} {facts['form']:>5} {size}")
    if small:
        lines.append(f"{small} of fewer than {figures['least_rows']:,} rows stay fp32 (--table-rows)")
    before, after = (figures["bytes"][when] for when in ("before", "after"))
    lines.append(f"all weights: {before / 1e6:,.2f} MB before, {after / 1e6:,.2f} MB after")
    return "\n".join(lines)


def unjudged(bundle: Bundle, figures: Mapping[str, Any]) -> str | None:
    """What the gate could not look at."""
    if figures["unseen"]:
        return None
    trained_on = ", ".join(bundle.manifest.get("trained_on", ["train"]))
    return (
        f"no impressions of both classes are left that the model has not seen (trained on {trained_on}): what it "
        "costs in AUC is not known, and the gate goes by agreement with fp32 alone"
    )


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people: each beside its bound, then the segments."""
    bounds, worst_tau, worst_shift = figures["bounds"], figures["worst_tau"], figures["worst_shift"]
    values = [
        ("auc_drop", figures["auc_drop"], f"at most {bounds['most_auc_drop']:g}, on {figures['split']}"),
        ("kendall_tau", figures["kendall_tau"], f"at least {bounds['least_tau']:g}"),
        ("shift", figures["shift"], f"at most {bounds['most_shift']:g}"),
    ]
    if worst_tau and worst_shift:
        least, most = f"at least {bounds['least_segment_tau']:g}", f"at most {bounds['most_shift']:g}"
        values.append(("worst tau", worst_tau["kendall_tau"], f"{least}, for {worst_tau['segment']}"))
        values.append(("worst shift", worst_shift["shift"], f"{most}, for {worst_shift['segment']}"))
    lines = [f"{name:12} {'-' if value is None else format(value, '+.5f'):>8}   {what}" for name, value, what in values]
    lines.append(f"{'segment':34} {'rows':>8} {'shift':>9} {'tau':>7}")
    for one in figures["segments"]:
        few = "" if one["rows"] >= bounds["least_rows"] else "   too few to be judged"
        lines.append(f"{one['segment']:34} {one['rows']:8} {one['shift']:+9.5f} {one['kendall_tau']:7.4f}{few}")
    return "\n".join(lines)


def _data_of(bundle: Bundle, folder: Path | None) -> Prepared:
    """The data set named, else the one the bundle was trained on; it must encode as the bundle does."""
    if folder is None:
        data_at = json.loads((bundle.folder / REPORT).read_text()).get("data_at")
        folder = bundle.folder / data_at if data_at else None
        if folder is None or not folder.is_dir():
            raise ValueError(f"the data set that {bundle.folder} was trained on is not there: name it by --data")
    data = Prepared(folder)
    check_encoding(bundle, data)
    return data


if __name__ == "__main__":
    command.run(main, "export", "the bundle is as it was")
