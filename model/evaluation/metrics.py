"""AUC, GAUC, logloss and calibration of arrays of labels and scores."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
BINS = 10


def auc(label: npt.NDArray[Any], score: Floats) -> float | None:
    """Area under the ROC curve, ties counting a half; None where one class is absent.

    Raises ValueError for scores that are NaN: they have no order.
    """
    values, weights = grouped_auc(label, score, np.zeros(len(label), np.int64))
    return float(values[0]) if len(weights) else None


def gauc(label: npt.NDArray[Any], score: Floats, user: npt.NDArray[Any]) -> float | None:
    """Mean of the users' AUCs weighted by their impressions (Zhu et al., KDD 2017)

    Users with one class are left out.
    """
    values, weights = grouped_auc(label, score, user)
    return float(np.average(values, weights=weights)) if len(weights) else None


def coverage(label: npt.NDArray[Any], user: npt.NDArray[Any]) -> tuple[float, float]:
    """Which shares of the impressions and of the users GAUC is of: those of users with both classes."""
    _, number = np.unique(user, return_inverse=True)
    shown, clicked = np.bincount(number), np.bincount(number, weights=label > 0)
    both = (clicked > 0) & (clicked < shown)
    return float(shown[both].sum() / max(1, len(label))), float(both.sum() / max(1, len(shown)))


def grouped_auc(
    label: npt.NDArray[Any], score: Floats, group: npt.NDArray[Any]
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """AUC and size of every group that has both classes, by the rank-sum (Mann-Whitney) form. All inputs (n,).

    Raises ValueError for scores that are NaN.
    """
    if wrong := int(np.isnan(score).sum()):
        raise ValueError(f"{wrong} of {len(score)} scores are NaN, and only numbers can be ranked")
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
