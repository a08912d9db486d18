"""How well an exported model ranks: AUC, GAUC, logloss and calibration, beside what learns nothing.

    python -m model.evaluate --bundle bundles/bst_kuairand --data data/kuairand --split test [--precision int8]
    python -m model.evaluate --bundle bundles/bst_kuairand --data data/kuairand --delay 0,10m,1h

What is measured is the ONNX graph that is served, not the network in memory: of a bundle with two, the one that a
service on this machine takes, unless --precision names it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import command
from model.bundle.precision import PRECISIONS, Precision, choose
from model.bundle.reading import Bundle
from model.evaluation import delays
from model.evaluation.boosting.kept import boosted_scores
from model.evaluation.measure import check_encoding, measure, score_rows
from model.evaluation.metrics import auc, calibration_bins
from model.options import OptionError, durations
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS


def evaluate(bundle: Bundle, data: Prepared, split: str, precision: Precision = "auto") -> dict[str, Any]:
    """Figures and calibration bins of the exported model on a split, by the graph that a service would take.

    Raises BundleError where the data is encoded otherwise, or int8 is asked for and cannot be had; ValueError where the
    split is empty.
    """
    check_encoding(bundle, data)
    rows = data.of_split(split)
    if not len(rows):
        raise ValueError(f"{data.folder} has no impressions of {split}; there are some of {', '.join(_filled(data))}")
    chosen = choose(bundle, precision)
    score = score_rows(bundle, data, rows, chosen.session)
    trained_on, objective = bundle.manifest.get("trained_on", ["train"]), bundle.manifest["objective"]
    graph = {"precision": chosen.precision, "tables": bundle.tables}
    figures = graph | measure(data, rows, score, trained_on, objective)
    informed = boosted_scores(data, rows, trained_on, derived=True)
    figures["gbdt_derived_auc"] = auc(data.label[rows], informed) if informed is not None else None
    if objective == "click":
        figures["calibration_bins"] = calibration_bins(data.label[rows], score)
    return figures


def _filled(data: Prepared) -> list[str]:
    return [split for split in SPLITS if len(data.of_split(split))]


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = []
    for name, value in figures.items():
        if name == "calibration_bins":
            lines.append(f"{'calibration':22}expected  observed")
            lines += [f"{'':22}{b['expected']:8.4f}  {b['observed']:8.4f}" for b in value]
        elif isinstance(value, dict):  # of rules, of classes
            lines += [f"{name}: {key:20}{_cell(own)}" for key, own in value.items()]
        elif not isinstance(value, list):
            lines.append(f"{name:22}{_cell(value)}")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "-" if value is None else format(value, ".4f") if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description="Evaluate an exported model.")
    parser.add_argument(
        "--bundle", type=Path, required=True, help="a bundle, or the folder whose `current` points to one"
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument(
        "--delay",
        metavar="DURATIONS",
        help="by commas: also where behaviours newer than each are not known yet: 0,10m,1h (default: as prepared)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="the graph to measure, as RANKER_PRECISION has it (default: auto, what a service on this machine takes)",
    )
    arguments = parser.parse_args(argv)
    try:
        delays_s = durations(arguments.delay, "arguments", "--delay") if arguments.delay is not None else []
    except OptionError as error:
        parser.error(str(error))
    try:
        bundle, data = Bundle.open(arguments.bundle), Prepared(arguments.data)
        figures = evaluate(bundle, data, arguments.split, arguments.precision)
        if delays_s:
            session = choose(bundle, arguments.precision).session
            rows = data.of_split(arguments.split)
            figures["by_delay"] = delays.by_delay(bundle, data, rows, delays_s, session)
    except (OSError, ValueError) as error:
        print(f"evaluate: {command.words(error)}", file=sys.stderr)
        return 1
    if arguments.split in bundle.manifest.get("trained_on", ["train"]) or (
        arguments.split == "test" == bundle.manifest.get("selected_on")
    ):
        print(f"evaluate: the model has seen {arguments.split}: its figures say nothing of new rows", file=sys.stderr)
    if figures["auc"] is None:
        print(f"evaluate: all labels of {arguments.split} are alike, so that it has no AUC", file=sys.stderr)
    if figures["scores"] == "relative":
        print(
            f"evaluate: scores are relative: calibrated, if at all, to the {figures['rate']:.4f} of these rows, and to "
            "no click rate",
            file=sys.stderr,
        )
    print(table(figures))
    if delays_s:
        print(delays.table(figures["by_delay"]))
    print(json.dumps(figures | {"delay_s": data.delay_s}))
    return 0


if __name__ == "__main__":
    command.run(main, "evaluate")
