"""How well an exported model ranks: AUC, GAUC, logloss and calibration, beside what learns nothing.

    python -m model.evaluate --bundle bundles/bst_kuairand --data data/kuairand --split test

What is measured is the ONNX graph that is served, not the network in memory.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import command
from model.bundle.reading import Bundle
from model.evaluation.measure import check_encoding, measure, score_rows
from model.evaluation.metrics import calibration_bins
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS


def evaluate(bundle: Bundle, data: Prepared, split: str) -> dict[str, Any]:
    """Figures and calibration bins of the exported model on a split.

    Raises BundleError where the data is encoded otherwise, ValueError where the split is empty.
    """
    check_encoding(bundle, data)
    rows = data.of_split(split)
    if not len(rows):
        raise ValueError(f"{data.folder} has no impressions of {split}; there are some of {', '.join(_filled(data))}")
    score = score_rows(bundle, data, rows)
    trained_on, objective = bundle.manifest.get("trained_on", ["train"]), bundle.manifest["objective"]
    figures = measure(data, rows, score, trained_on, objective)
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
        else:
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
    arguments = parser.parse_args(argv)
    try:
        bundle = Bundle.open(arguments.bundle)
        figures = evaluate(bundle, Prepared(arguments.data), arguments.split)
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
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    command.run(main, "evaluate")
