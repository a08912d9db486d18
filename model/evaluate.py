"""How well an exported model ranks: AUC, GAUC, logloss and calibration, beside a floor that learns nothing.

    python -m model.evaluate --bundle bundles/bst_kuairand --data data/kuairand --split test

What is measured is the ONNX graph that is served, not the network in memory.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from model.bundle import Bundle, BundleError, Session
from model.features.schema import ITEM_ID, without_sizes
from model.loader import SPLITS, Prepared, batches

Floats = npt.NDArray[np.floating[Any]]
BATCH = 4096
BINS = 10
FLOOR_WEIGHT = 20  # impressions of the average rate added to each group's own


def auc(label: npt.NDArray[Any], score: Floats) -> float | None:
    """Area under the ROC curve, ties counting a half; None where one class is absent."""
    values, weights = grouped_auc(label, score, np.zeros(len(label), np.int64))
    return float(values[0]) if len(weights) else None


def gauc(label: npt.NDArray[Any], score: Floats, user: npt.NDArray[Any]) -> float | None:
    """Mean of the users' AUCs weighted by their impressions (Zhu et al., KDD 2017)

    Users with one class are left out.
    """
    values, weights = grouped_auc(label, score, user)
    return float(np.average(values, weights=weights)) if len(weights) else None


def grouped_auc(
    label: npt.NDArray[Any], score: Floats, group: npt.NDArray[Any]
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """AUC and size of every group that has both classes, by the rank-sum (Mann-Whitney) form. All inputs (n,)."""
    order = np.lexsort((score, group))
    label, score, group = label[order].astype(np.float64), score[order], group[order]
    new_group = np.append(True, group[1:] != group[:-1])[: len(label)]
    new_tie = new_group | np.append(True, score[1:] != score[:-1])[: len(label)]
    begin = np.flatnonzero(new_group)
    tie_begin = np.flatnonzero(new_tie)
    tie_end = np.append(tie_begin[1:], len(label))
    tie = np.cumsum(new_tie) - 1
    group_of = np.cumsum(new_group) - 1
    rank = ((tie_begin + tie_end - 1) / 2)[tie] - begin[group_of] + 1  # tied scores share their mean rank
    size = np.bincount(group_of)
    positive = np.bincount(group_of, weights=label)
    negative = size - positive
    both = (positive > 0) & (negative > 0)
    sum_of_ranks = np.bincount(group_of, weights=rank * label)
    area = sum_of_ranks[both] - positive[both] * (positive[both] + 1) / 2
    return area / (positive[both] * negative[both]), size[both]


def logloss(label: npt.NDArray[Any], score: Floats) -> float:
    clipped = np.clip(score.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(label * np.log(clipped) + (1 - label) * np.log1p(-clipped)))


def calibration_bins(label: npt.NDArray[Any], score: Floats) -> list[dict[str, float]]:
    """Tenths of the impressions by score: mean score beside observed click rate."""
    parts = np.array_split(np.argsort(score, kind="stable"), BINS)
    return [
        {"expected": float(score[part].mean()), "observed": float(label[part].mean()), "rows": len(part)}
        for part in parts
        if len(part)
    ]


def floor_scores(data: Prepared, rows: npt.NDArray[np.int64], trained_on: Sequence[str] = ("train",)) -> Floats:
    """The no-learning floor: Σ over item, user, category, context of logit((clicks + 20p)/(n + 20)) − logit(p).

    Counted on the splits that the model was trained on: n impressions; p is their click rate.
    """
    train = np.concatenate([data.of_split(split) for split in trained_on])
    clicked = data.label[train].astype(np.float64)
    rate = clicked.mean()
    item_columns = data.arrays["items"][data.item][:, _category(data)]
    groups = [data.item, data.user, item_columns, *data.arrays["context"].T]
    total = np.zeros(len(rows))
    for group in groups:
        size = int(group.max()) + 1
        clicks = np.bincount(group[train], weights=clicked, minlength=size)
        shown = np.bincount(group[train], minlength=size)
        smoothed = (clicks + FLOOR_WEIGHT * rate) / (shown + FLOOR_WEIGHT)
        total += (_logit(smoothed) - _logit(rate))[group[rows]]
    return total


def _category(data: Prepared) -> int:
    """Column of the item's category: the sequence feature beside its id, or the id itself where there is none."""
    names = [f.name for f in data.schema.sequence if f.name != ITEM_ID]
    return int(data.schema.places("item")[names[0] if names else ITEM_ID].start)


def _logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-p)


def watch_seconds(data: Prepared, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """How long each impression was watched, (n,): 0 where there was no click."""
    return np.where(data.label[rows] > 0, data.arrays["watch_ms"][rows] / 1000, 0).astype(np.float32)


def watch_correlation(data: Prepared, rows: npt.NDArray[np.int64], score: Floats) -> float:
    """Spearman's rank correlation of scores (n,) with the watched seconds; ties share their mean rank."""
    expected, watched = (pl.Series(of).rank("average").to_numpy() for of in (score, watch_seconds(data, rows)))
    return float(np.corrcoef(expected, watched)[0, 1])


def measure(
    data: Prepared,
    rows: npt.NDArray[np.int64],
    score: Floats,
    trained_on: Sequence[str] = ("train",),
    objective: str = "click",
) -> dict[str, Any]:
    """The figures of scores (n,) for impressions (n,), with floor and, where the log knows it, oracle.

    Scores that are no probabilities (another objective than click) have no logloss; calibration is then None for pairs,
    and of watched seconds, expected ÷ observed, for watch_time.
    """
    label, user = data.label[rows], data.user[rows]
    truth = data.arrays.get("true_probability")
    figures = {
        "auc": auc(label, score),
        "gauc": gauc(label, score, user),
        "logloss": logloss(label, score) if objective == "click" else None,
        "calibration": float(score.sum() / max(1, label.sum())) if objective == "click" else None,
        "floor_auc": auc(label, floor_scores(data, rows, trained_on)),
        "oracle_auc": auc(label, truth[rows]) if truth is not None else None,
        "rows": len(rows),
    }
    if objective == "watch_time":
        figures["watch_correlation"] = watch_correlation(data, rows, score)
        figures["watch_calibration"] = float(score.sum() / max(1.0, watch_seconds(data, rows).sum()))
    return figures


def score_rows(
    bundle: Bundle, data: Prepared, rows: npt.NDArray[np.int64], session: Session | None = None
) -> npt.NDArray[np.float32]:
    """The exported model's scores of impressions, (n,); by its fp32 graph unless a session is given."""
    session, data = session or bundle.session(), data.seen_by(bundle.schema)
    progress = tqdm(batches(data, rows, BATCH), "scoring", -(-len(rows) // BATCH), unit="batch", delay=1, leave=False)
    scores = [bundle.score(session, inputs)[:, 0] for _, inputs in progress]
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def check_encoding(bundle: Bundle, data: Prepared) -> None:
    """Raises BundleError where the data is encoded otherwise than the bundle encodes."""
    for path in sorted((data.folder / "vocab").iterdir()):
        if path.read_bytes() != (bundle.folder / "vocab" / path.name).read_bytes():
            raise BundleError(f"{data.folder} and {bundle.folder} encode differently: {path.name}")
    if without_sizes(bundle.schema) != without_sizes(data.schema):
        raise BundleError(f"{data.folder} and {bundle.folder} encode differently: features.toml")


def evaluate(bundle: Bundle, data: Prepared, split: str) -> dict[str, Any]:
    """Figures and calibration bins of the exported model on a split.

    Raises BundleError where the data is encoded otherwise.
    """
    check_encoding(bundle, data)
    rows = data.of_split(split)
    score = score_rows(bundle, data, rows)
    trained_on, objective = bundle.manifest.get("trained_on", ["train"]), bundle.manifest["objective"]
    figures = measure(data, rows, score, trained_on, objective)
    if objective == "click":
        figures["calibration_bins"] = calibration_bins(data.label[rows], score)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = []
    for name, value in figures.items():
        if name == "calibration_bins":
            lines.append("calibration   expected  observed")
            lines += [f"{'':14}{b['expected']:8.4f}  {b['observed']:8.4f}" for b in value]
        elif isinstance(value, int | float) or value is None:
            lines.append(
                f"{name:14}{'-' if value is None else value if isinstance(value, int) else format(value, '.4f')}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description="Evaluate an exported model.")
    parser.add_argument(
        "--bundle", type=Path, required=True, help="a bundle, or the folder whose `current` points to one"
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--split", choices=SPLITS, default="test")
    given = parser.parse_args(arguments)
    try:
        bundle = Bundle.open(given.bundle)
        figures = evaluate(bundle, Prepared(given.data), given.split)
    except (BundleError, OSError, ValueError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    if given.split in bundle.manifest.get("trained_on", ["train"]) or (
        given.split == "test" == bundle.manifest.get("selected_on")
    ):
        print(f"evaluate: the model has seen {given.split}: its figures say nothing of new rows", file=sys.stderr)
    print(table(figures))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
