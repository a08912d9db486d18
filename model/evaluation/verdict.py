"""What a model's figures say to whoever would serve it: whether it may be, and what to look at first.

A model is judged on test; where test has no AUC (no impression, or one class alone), on validation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.evaluation.bootstrap import RESAMPLES, Interval, difference, resampled_aucs
from model.evaluation.metrics import Floats

FEW_CLICKS = 200  # of either class: the AUC's 95 % interval is then some ±0.04 wide
MOSTLY_EMPTY = 0.5
CHANCE = {"floor_auc": 0.5, "floor_watch_correlation": 0.0}  # a floor can lie below it, and is none then
FEWEST_RESAMPLES, MOST_ROWS = 100, 2_000_000  # of a large test: users are drawn, and the interval is scaled
WORK = 200_000_000  # resamples × impressions


def judged_on(figures: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The split by which a model is judged; None: no split that the model has not seen has an AUC."""
    return next((split for split in ("test", "validation") if figures.get(split, {}).get("auc") is not None), None)


def gauge(objective: str) -> tuple[str, str]:
    """What a model of this objective is judged by, and what it must not be below: keys of its figures."""
    if objective == "watch_time":
        return "watch_correlation", "floor_watch_correlation"
    return "auc", "floor_auc"


def above_floor(figures: Mapping[str, Any] | None, objective: str) -> bool:
    """Whether a model may be served unasked: it is below neither the floor nor chance. Unmeasured: no."""
    own, _ = gauge(objective)
    return figures is not None and figures[own] is not None and figures[own] >= least(figures, objective)


def least(figures: Mapping[str, Any], objective: str) -> float:
    """What a model must reach: the floor, and never less than what a random order has."""
    _, floor = gauge(objective)
    return float(max(figures[floor], CHANCE[floor]))


def gain(
    label: npt.NDArray[Any], score: Floats, floor: Floats, user: npt.NDArray[Any], aucs: tuple[float, float]
) -> Interval:
    """By how much `score`'s AUC is above `floor`'s, with the interval by users; `aucs` are the two on all rows."""
    share = 1.0
    if len(label) > MOST_ROWS:
        users = np.unique(user)
        drawn = np.random.default_rng(0).random(len(users)) < MOST_ROWS / len(label)
        chosen = drawn[np.searchsorted(users, user)]
        label, score, floor, user, share = label[chosen], score[chosen], floor[chosen], user[chosen], chosen.mean()
    resamples = int(np.clip(WORK // max(1, len(label)), FEWEST_RESAMPLES, RESAMPLES))
    samples = [resampled_aucs(label, of, user, resamples) for of in (score, floor)]
    middle = float(np.nanmean(samples[0] - samples[1]))
    apart = difference([aucs[0]], samples[:1], [aucs[1]], samples[1:])
    centre = apart.mean if share < 1 else middle
    low, high = (float(centre + (end - middle) * np.sqrt(share)) for end in (apart.low, apart.high))
    return Interval(apart.mean, low, high)


def of_figures(
    split: str | None, figures: Mapping[str, Any] | None, gain_over_floor: Mapping[str, float] | None, objective: str
) -> list[str]:
    """Warnings that the figures of the judged split give. What is below the floor is the publisher's to say."""
    if split is None or figures is None:
        return []
    warnings = []
    if gain_over_floor and above_floor(figures, objective) and gain_over_floor["low"] <= 0:
        interval = f"95 %: {gain_over_floor['low']:+.4f} to {gain_over_floor['high']:+.4f}"
        warnings.append(
            f"the gain over the floor on {split}, {gain_over_floor['mean']:+.4f} ({interval}), is within noise: "
            "other users might have shown none; more rows on test, or more seeds (python -m model.reproduce), tell"
        )
    constant = _constant_logloss(figures)
    if objective == "click" and constant is not None and figures["logloss"] > constant:
        warnings.append(
            f"logloss {figures['logloss']:.4f} on {split} is worse than the {constant:.4f} of always saying the click "
            "rate: the scores are too sure of themselves, and order candidates, but are no probabilities"
        )
    boosted = figures.get("gbdt_auc")
    if boosted is not None and objective == "click" and boosted > figures["auc"]:
        warnings.append(
            f"gradient boosting on counts and rates ranks better: AUC {boosted:.4f} on {split}, this network "
            f"{figures['auc']:.4f}; python -m model.search looks for better settings"
        )
    name, rule = best_rule(figures)
    if rule is not None and figures["auc"] is not None and rule > figures["auc"]:
        warnings.append(
            f"the rule {name}, which learns nothing, ranks better: AUC {rule:.4f} on {split}, this network "
            f"{figures['auc']:.4f}; a longer history, or what the rule looks at as a feature, may mend it"
        )
    return warnings


def best_rule(figures: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """Name and AUC of the best of the rules, picked on the very rows: to their advantage. None where there are none."""
    rules = {name: value for name, value in figures.get("rules", {}).items() if value is not None}
    name = max(rules, key=lambda name: rules[name], default=None)
    return name, rules[name] if name else None


def of_selection(select: str) -> list[str]:
    """A warning where the checkpoint was picked on the very split that tells what it is worth."""
    if select != "test":
        return []
    return [
        'the checkpoint was picked on test (select = "test"): its figures there are no result, and it is in no way '
        'better for it; select = "validation" picks by days that are not measured on'
    ]


def _constant_logloss(figures: Mapping[str, Any]) -> float | None:
    """What saying the split's own click rate of every impression costs; None where it is not known."""
    bins = figures.get("calibration_bins") or []
    rows = sum(b["rows"] for b in bins)
    rate = sum(b["rows"] * b["observed"] for b in bins) / rows if rows else 0.0
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate)) if 0 < rate < 1 else None


def of_sizes(sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """Warnings of splits too small to tell much; `sizes` are impressions and clicks by split."""
    uses = {"validation": "what is picked on it is picked by chance", "test": "its figures say little"}
    return [
        f"{split} has {clicks} clicks among {rows} impressions: {uses[split]}; an AUC of fewer than {FEW_CLICKS} "
        "clicks is good to some ±0.04 at best"
        for split, (rows, clicks) in sizes.items()
        if rows and min(clicks, rows - clicks) < FEW_CLICKS
    ]


def of_course(curve: Sequence[Mapping[str, Any]], epochs: int) -> list[str]:
    """A warning where validation was still getting better when the epochs were over."""
    picked_by = [look["picked_by"] for look in curve]
    if len(curve) < 2 or picked_by.index(max(picked_by)) < len(curve) - 1:
        return []
    return [
        f"validation was still rising at the last look (epoch {curve[-1]['epoch']} of {epochs}): more may be in it; "
        f"copy the bundle's recipe.toml, set epochs = {2 * epochs} there, and name the copy by --recipe"
    ]


def of_histories(empty: float | None) -> list[str]:
    """A warning where the network reads histories and finds few."""
    if empty is None or empty < MOSTLY_EMPTY:
        return []
    return [
        f"{empty:.0%} of the training impressions have an empty history, and this network reads them: check actions "
        "and object_type in features.toml, and whether the behaviours reach further back than the impressions"
    ]
