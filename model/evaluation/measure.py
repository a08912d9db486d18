"""Scores of impressions, and their figures beside what learns nothing (floor, rules) and gradient boosting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.evaluation.boosting.kept import boosted_scores
from model.evaluation.metrics import Floats, auc, coverage, gauc, logloss
from model.evaluation.rules import repeats, rule_scores
from model.features.kinds import ITEM_ID
from model.features.schema import without_sizes
from model.prepared.loader import Prepared, batches

SCORED_AT_ONCE, OF_LENGTH = 4096, 20  # impressions, with histories up to so long; fewer with longer ones
FLOOR_WEIGHT = 20  # impressions of the average rate added to each group's own


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
    """Spearman's rank correlation of scores (n,) with the watched seconds; ties share their mean rank.

    0 where either is the same throughout: it orders nothing.
    """
    expected, watched = (pl.Series(of).rank("average").to_numpy() for of in (score, watch_seconds(data, rows)))
    if not len(rows) or np.ptp(expected) == 0 or np.ptp(watched) == 0:
        return 0.0
    return float(np.corrcoef(expected, watched)[0, 1])


def measure(
    data: Prepared,
    rows: npt.NDArray[np.int64],
    score: Floats,
    trained_on: Sequence[str] = ("train",),
    objective: str = "click",
    boosting: bool = True,
) -> dict[str, Any]:
    """The figures of scores (n,) for impressions (n,), beside floor, rules, gradient boosting and, if known, oracle.

    Boosting is None where lightgbm is not installed, and for impressions that the model was trained on. The first call
    on a prepared data set fits it; who reads neither it nor the rules passes `boosting=False`.

    Where negatives were drawn, AUC also stands without repeats (model/evaluation/rules.py), whose share it tells by
    class, and scores are relative: what they are calibrated to is `rate`, that of the drawing.

    Scores that are no probabilities (another objective than click) have no logloss; calibration is then None for pairs,
    and of watched seconds, expected ÷ observed, for watch_time.
    """
    label, user = data.label[rows], data.user[rows]
    truth = data.arrays.get("true_probability")
    boosted = boosted_scores(data, rows, trained_on) if boosting else None
    drawn = data.meta.get("drawn_negatives", False)
    fresh = ~repeats(data, rows) if drawn else None
    rules = rule_scores(data, rows, trained_on) if boosting else {}
    figures: dict[str, Any] = {
        "auc": auc(label, score),
        "gauc": gauc(label, score, user),
        **dict(zip(("gauc_coverage", "gauc_users"), coverage(label, user), strict=True)),
        "auc_without_repeats": auc(label[fresh], score[fresh]) if fresh is not None else None,
        "repeats": repeated(label, fresh) if fresh is not None else None,
        "logloss": logloss(label, score) if objective == "click" else None,
        "calibration": float(score.sum() / label.sum()) if objective == "click" and label.any() else None,
        "floor_auc": auc(label, floor_scores(data, rows, trained_on)),
        "gbdt_auc": auc(label, boosted) if boosted is not None else None,
        "oracle_auc": auc(label, truth[rows]) if truth is not None else None,
        "rules": {name: auc(label, own) for name, own in rules.items()},
        "rows": len(rows),
        "rate": float((label > 0).mean()) if len(rows) else None,
        "scores": meaning(objective, drawn),
    }
    if objective == "watch_time":
        figures["watch_correlation"] = watch_correlation(data, rows, score)
        figures["floor_watch_correlation"] = watch_correlation(data, rows, floor_scores(data, rows, trained_on))
        figures["watch_calibration"] = float(score.sum() / max(1.0, watch_seconds(data, rows).sum()))
    return figures


def repeated(label: npt.NDArray[Any], fresh: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Which share of each class repeats what the user met that day."""
    classes = {"positives": label > 0, "negatives": label <= 0}
    return {name: float((~fresh[of]).mean()) if of.any() else 0.0 for name, of in classes.items()}


def meaning(objective: str, drawn_negatives: bool) -> str:
    """What scores are good for: `probabilities` of a click, expected `seconds`, or `relative` order alone.

    Where negatives were drawn, nobody was shown them, and how many were drawn decides how high a score is.
    """
    if objective == "watch_time":
        return "seconds"
    return "relative" if drawn_negatives or objective == "pairs" else "probabilities"


def at_once(data: Prepared) -> int:
    """How many impressions are scored at once: as many as keep a batch's memory, however long histories are."""
    return max(1, SCORED_AT_ONCE * OF_LENGTH // max(OF_LENGTH, data.schema.history.length))


def score_rows(
    bundle: Bundle, data: Prepared, rows: npt.NDArray[np.int64], session: Session | None = None
) -> npt.NDArray[np.float32]:
    """The exported model's scores of impressions, (n,); by its fp32 graph unless a session is given."""
    session, data = session or bundle.session(), data.seen_by(bundle.schema)
    size = at_once(data)
    progress = tqdm(batches(data, rows, size), "scoring", -(-len(rows) // size), unit="batch", delay=1, leave=False)
    scores = [bundle.score(session, inputs)[:, 0] for _, inputs in progress]
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def check_encoding(bundle: Bundle, data: Prepared) -> None:
    """Raises BundleError where the data is encoded otherwise than the bundle encodes; names what differs."""
    theirs, ours = without_sizes(bundle.schema), without_sizes(data.schema)
    kept, known = ({path.name: path for path in (home.folder / "vocab").iterdir()} for home in (bundle, data))
    if theirs != ours:
        features = {f.name: f for f in theirs.features}, {f.name: f for f in ours.features}
        names = [name for name in {**features[0], **features[1]} if features[0].get(name) != features[1].get(name)]
        what = f"features.toml ({', '.join(names) or 'user_id, [history] or [[group]]'})"
    else:
        differing = [
            n for n in sorted({*kept, *known}) if n not in kept or n not in known or not _alike(kept[n], known[n])
        ]
        what = ", ".join(differing)
    if what:
        raise BundleError(
            f"{data.folder} and {bundle.folder} encode differently: {what}; a bundle goes with the data set that "
            "it was trained on (data_at in its report.json)"
        )


def _alike(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()
