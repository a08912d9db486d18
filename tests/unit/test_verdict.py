"""Figures say whether a model may be served, and what to look at first."""

import numpy as np
import pytest

from model.evaluation import verdict
from model.evaluation.metrics import auc, gauc


def looks(*values: float) -> list[dict[str, float]]:
    return [{"epoch": number + 1, "picked_by": value} for number, value in enumerate(values)]


def test_scores_that_are_nan_are_refused_and_infinite_ones_ranked() -> None:
    label = np.array([0, 1, 0, 1])
    for figure in (lambda s: auc(label, s), lambda s: gauc(label, s, np.zeros(4, int))):
        with pytest.raises(ValueError, match="1 of 4 scores are NaN"):
            figure(np.array([0.1, np.nan, 0.3, 0.4]))
    assert auc(label, np.array([-np.inf, 2.0, 1.0, np.inf])) == 1


@pytest.mark.parametrize(
    ("figures", "objective", "may"),
    [
        ({"auc": 0.7, "floor_auc": 0.7}, "click", True),
        ({"auc": 0.69, "floor_auc": 0.7}, "click", False),
        ({"auc": 0.69, "floor_auc": 0.7}, "pairs", False),
        ({"auc": 0.49, "floor_auc": 0.47}, "click", False),  # chance is better than both
        ({"auc": 0.51, "floor_auc": 0.47}, "click", True),
        ({"auc": None, "floor_auc": None}, "click", False),
        (None, "click", False),
        # watched time is not clicks: judged by what it learns
        (
            {"auc": 0.6, "floor_auc": 0.7, "watch_correlation": 0.3, "floor_watch_correlation": 0.2},
            "watch_time",
            True,
        ),
        (
            {"auc": 0.8, "floor_auc": 0.7, "watch_correlation": 0.1, "floor_watch_correlation": 0.2},
            "watch_time",
            False,
        ),
    ],
)
def test_a_model_is_judged_by_what_it_learns_and_unmeasured_it_may_not(
    figures: dict[str, float] | None, objective: str, may: bool
) -> None:
    assert verdict.above_floor(figures, objective) is may


def test_test_judges_and_validation_where_test_has_no_auc() -> None:
    measured, unmeasured = {"auc": 0.6}, {"auc": None}
    assert verdict.judged_on({"validation": measured, "test": measured}) == "test"
    assert verdict.judged_on({"validation": measured, "test": unmeasured}) == "validation"
    assert verdict.judged_on({"test": unmeasured}) is None and verdict.judged_on({}) is None


def test_what_figures_say_is_told_once_and_with_what_to_do() -> None:
    figures = {"auc": 0.71, "floor_auc": 0.7, "gbdt_auc": 0.72}
    noise = {"mean": 0.01, "low": -0.01, "high": 0.03}
    told = verdict.of_figures("test", figures, noise, "click")
    assert len(told) == 2 and "-0.0100 to +0.0300" in told[0] and "0.7200" in told[1]
    sure = {"mean": 0.01, "low": 0.001, "high": 0.02}
    assert verdict.of_figures("test", figures | {"gbdt_auc": None}, sure, "click") == []
    assert verdict.of_figures("test", {"auc": 0.71, "floor_auc": 0.7}, sure, "click") == []
    assert verdict.of_figures(None, None, None, "click") == []


def test_a_logloss_worse_than_the_click_rate_s_own_is_told() -> None:
    bins = [{"expected": 0.9, "observed": 0.5, "rows": 50}, {"expected": 0.1, "observed": 0.1, "rows": 150}]
    figures = {"auc": 0.71, "floor_auc": 0.7, "calibration_bins": bins}  # a click rate of 0.2: 0.5004
    (told,) = verdict.of_figures("test", figures | {"logloss": 0.51}, None, "click")
    assert "logloss 0.5100 on test is worse than the 0.5004" in told
    assert verdict.of_figures("test", figures | {"logloss": 0.50}, None, "click") == []
    assert verdict.of_figures("test", figures | {"logloss": 0.51}, None, "pairs") == [], (
        "no probabilities were promised"
    )


def test_still_rising_at_the_last_look_is_told() -> None:
    (told,) = verdict.of_course(looks(0.5, 0.6, 0.7), 3)
    assert "epochs = 6" in told and "recipe.toml" in told
    assert verdict.of_course(looks(0.5, 0.7, 0.6), 3) == []
    assert verdict.of_course(looks(0.5), 1) == [] == verdict.of_course([], 1), "one look shows no direction"


def test_few_clicks_and_empty_histories_are_told() -> None:
    told = verdict.of_sizes({"validation": (1000, 900), "test": (5000, 600)})
    assert len(told) == 1 and told[0].startswith("validation has 900 clicks among 1000")
    assert verdict.of_sizes({"test": (0, 0)}) == []
    assert "75%" in verdict.of_histories(0.75)[0] and verdict.of_histories(0.2) == [] == verdict.of_histories(None)


def test_the_gain_of_a_large_test_is_scaled_from_a_part_of_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    user = np.repeat(np.arange(2000), 5)
    label = draw.integers(0, 2, len(user))
    score, floor = label + draw.normal(0, 1.5, len(user)), label + draw.normal(0, 3.0, len(user))
    aucs = auc(label, score) or 0.0, auc(label, floor) or 0.0
    whole = verdict.gain(label, score, floor, user, aucs)
    assert whole.low < whole.mean == aucs[0] - aucs[1] < whole.high
    monkeypatch.setattr(verdict, "MOST_ROWS", 2500)
    part = verdict.gain(label, score, floor, user, aucs)
    assert part.mean == whole.mean and part.low < part.mean < part.high
    assert part.high - part.low == pytest.approx(whole.high - whole.low, rel=0.25)


def test_a_rule_that_ranks_better_is_told_with_its_name() -> None:
    figures = {
        "auc": 0.71,
        "floor_auc": 0.5,
        "rules": {"popularity": 0.5, "category_recency": 0.8, "path_overlap": None},
    }
    (warning,) = verdict.of_figures("test", figures, None, "pairs")
    assert warning.startswith("the rule category_recency, which learns nothing, ranks better: AUC 0.8000 on test")
    assert verdict.of_figures("test", figures | {"auc": 0.81}, None, "pairs") == []
    assert verdict.best_rule({}) == (None, None)


def test_a_checkpoint_picked_on_test_warns() -> None:
    (warning,) = verdict.of_selection("test")
    assert "are no result" in warning and verdict.of_selection("validation") == []
