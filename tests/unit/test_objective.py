"""What networks are trained for: click, watch time, pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from model.bundle.reading import Bundle
from model.evaluation.measure import measure, score_rows, watch_correlation, watch_seconds
from model.graph.publish import publish
from model.prepared.loader import Prepared
from model.training import objective
from model.training.pairs import Pairs
from model.training.recipe import Recipe, RecipeError, Training
from model.training.run import Run


@pytest.fixture(scope="module")
def watched(small_data: Prepared) -> Prepared:
    """The small log with watched milliseconds: a click lasts longer the better its item."""
    made = Prepared(small_data.folder)
    draw = np.random.default_rng(0)
    seconds = 5 + 60 * made.arrays["true_probability"] + draw.exponential(3, len(made.label))
    made.arrays = made.arrays | {"watch_ms": (1000 * seconds).astype(np.int64)}
    return made


def test_watch_time_is_a_logistic_regression_with_clicks_weighted_by_their_seconds() -> None:
    """Against scikit-learn's, where a click weighs T and an impression without one 1: the odds are ΣT / (N - k)."""
    draw = np.random.default_rng(1)
    x = draw.integers(0, 2, 400)
    click = draw.random(400) < 0.2 + 0.3 * x
    seconds = np.where(click & (draw.random(400) < 0.9), draw.exponential(30, 400) + 1, 0)
    weight = np.where(click, seconds, 1)
    reference = LogisticRegression(C=np.inf).fit(x[:, None], click, sample_weight=weight)
    for exposures in ("unclicked", "all"):
        logit = torch.zeros(2, requires_grad=True)  # one for each value of x
        # a click that was watched for no time is a click: it weighs 0, and is no negative
        optimiser = torch.optim.LBFGS([logit], max_iter=100)

        def closure(logit: Any = logit, optimiser: Any = optimiser, exposures: str = exposures) -> Any:
            optimiser.zero_grad()
            watched, label = (torch.from_numpy(of).float() for of in (seconds, click))
            loss = objective.watch_time(logit[torch.from_numpy(x)], watched, label, exposures).mean()
            loss.backward()
            return loss

        optimiser.step(closure)
        odds = torch.exp(logit.detach()).numpy()
        for value in (0, 1):
            of = x == value
            negatives = of.sum() if exposures == "all" else (of & ~click).sum()
            assert odds[value] == pytest.approx(seconds[of].sum() / negatives, rel=1e-3)
        if exposures == "unclicked":
            np.testing.assert_allclose(logit.detach().numpy(), reference.decision_function([[0], [1]]), atol=1e-2)


def test_pairs_is_the_log_of_the_sigmoid_of_the_difference() -> None:
    positive, negative = torch.tensor([0.3, -2.0]), torch.tensor([1.0, -5.0])
    by_hand = -torch.log(1 / (1 + torch.exp(negative - positive)))
    torch.testing.assert_close(objective.pairs(positive, negative), by_hand)


def test_a_watch_time_model_serves_expected_seconds(watched: Prepared, tmp_path: Path) -> None:
    how = Training(
        objective="watch_time", exposures="all", optimiser="adam", learning_rate=3e-3, batch_size=256, evaluations=1
    )
    run = Run(watched, "bst", Recipe({"mlp": [32]}, how), 1, tmp_path / "x.pt")
    run.fit()
    outcome = publish(run, tmp_path, boosting=False, explain=False)
    figures = outcome.figures
    bundle, rows = Bundle.open(outcome.bundle), watched.of_split("test")
    score = score_rows(bundle, watched, rows)
    assert bundle.manifest["objective"] == "watch_time"
    assert score.mean() == pytest.approx(float(watch_seconds(watched, rows).mean()), rel=0.5) and (score > 0).all()
    assert figures["watch_calibration"] == pytest.approx(score.sum() / watch_seconds(watched, rows).sum(), rel=1e-5)
    assert figures["watch_correlation"] == watch_correlation(watched, rows, score) > 0.02
    assert figures["logloss"] is None and figures["calibration"] is None
    assert run.progress["curve"][0]["picked_by"] == run.progress["curve"][0]["watch_correlation"]


def test_the_watch_correlation_is_spearmans(watched: Prepared) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    rows, score = watched.of_split("test"), np.random.default_rng(0).integers(0, 9, len(watched.of_split("test")))
    expected = scipy_stats.spearmanr(score, watch_seconds(watched, rows)).statistic
    assert watch_correlation(watched, rows, score.astype(float)) == pytest.approx(expected)


def test_watch_time_without_watched_times_is_one_line(small_data: Prepared, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs impressions with watch_ms"):
        Run(small_data, "bst", Recipe({}, Training(objective="watch_time")), 1, tmp_path / "x.pt")


def test_a_pair_is_of_one_user_and_of_the_rows_given(small_data: Prepared) -> None:
    train = small_data.of_split("train")
    pairs = Pairs(small_data, train)
    negative = pairs.negative(pairs.positive, 1, 0)
    assert (small_data.user[pairs.positive] == small_data.user[negative]).all()
    assert (small_data.label[pairs.positive] == 1).all() and (small_data.label[negative] == 0).all()
    assert set(negative.tolist()) <= set(train.tolist())
    clicks = train[small_data.label[train] == 1]
    other = {u for u in small_data.user[train[small_data.label[train] == 0]].tolist()}
    assert len(pairs.positive) == sum(u in other for u in small_data.user[clicks].tolist())
    np.testing.assert_array_equal(negative, pairs.negative(pairs.positive, 1, 0))
    assert (negative != pairs.negative(pairs.positive, 1, 1)).any()


def test_pairs_of_users_with_one_kind_only_are_refused_in_one_line(small_data: Prepared) -> None:
    clicks = np.flatnonzero(small_data.label)
    with pytest.raises(ValueError, match="no user has impressions with and without a click"):
        Pairs(small_data, clicks)


def test_scores_that_are_no_probabilities_have_no_logloss(small_data: Prepared) -> None:
    rows = small_data.of_split("test")
    figures = measure(small_data, rows, np.random.default_rng(0).random(len(rows)), objective="pairs")
    assert figures["logloss"] is None and figures["calibration"] is None and figures["auc"] is not None
