"""Intervals: every resample's AUC is scikit-learn's with the users' weights, and differences are paired."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from model.evaluation.bootstrap import difference, draw, interval, over_seeds, resampled_aucs


def log(rows: int = 600, users: int = 40, digits: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores with many ties, and users with odd ids."""
    chance = np.random.default_rng(5)
    label = (chance.random(rows) < 0.2).astype(np.int8)
    score = np.round(chance.normal(size=rows) + label, digits).astype(np.float32)
    return label, score, chance.integers(0, users, rows) * 7 + 3


def test_the_auc_of_a_resample_is_that_of_scikit_learn_with_ties() -> None:
    label, score, user = log()
    found = resampled_aucs(label, score, user, resamples=50, seed=9)
    _, cluster = np.unique(user, return_inverse=True)
    for number in (0, 1, 49):
        times = draw(cluster.max() + 1, 9, number)[cluster]
        assert times.min() == 0 and times.max() > 1, "a resample that leaves nobody out shows nothing"
        assert found[number] == pytest.approx(roc_auc_score(label, score, sample_weight=times), abs=1e-12)


def test_the_auc_of_a_resample_by_hand() -> None:
    """User 0: one click above one other. User 1: a click tied with one other, below user 0's click."""
    label, score, user = np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.3, 0.3]), np.array([0, 0, 1, 1])
    by_hand = {
        (2, 0): 4 / 4,  # user 0 twice: its click above its other one, 2 × 2 pairs
        (0, 2): (4 * 0.5) / 4,  # user 1 twice: all ties
        (1, 1): (1 + 1 + 0 + 0.5) / 4,  # 0.9 above both others; 0.3 below 0.5, tied with 0.3
    }
    found = resampled_aucs(label, score, user, resamples=20, seed=1)
    drawn = [tuple(draw(2, 1, number).tolist()) for number in range(20)]
    assert set(drawn) == set(by_hand), "some draw never came: the test shows less than it says"
    assert found.tolist() == [by_hand[times] for times in drawn]


def test_draws_follow_from_seed_and_number_alone() -> None:
    label, score, user = log(rows=30_000, users=500)  # so many that they are worked through in several blocks
    many = resampled_aucs(label, score, user, resamples=200, seed=2)
    assert np.array_equal(many[:30], resampled_aucs(label, score, user, resamples=30, seed=2))
    assert not np.array_equal(many[:30], resampled_aucs(label, score, user, resamples=30, seed=3))


def test_a_resample_of_one_class_is_left_out_of_the_interval() -> None:
    label, score, user = np.array([1, 0, 1, 0]), np.array([0.9, 0.1, 0.8, 0.2]), np.array([0, 1, 2, 3])
    found = resampled_aucs(label, score, user, resamples=100)
    assert np.isnan(found).any()
    made = interval([1.0], [found])
    assert (made.mean, made.low, made.high) == (1.0, 1.0, 1.0)


def test_users_are_drawn_whole() -> None:
    """The same rows said twenty times over by each user tell no more than said once; drawn one by one they would."""
    label, score, _ = log(rows=300, digits=6)
    label, score, user = np.repeat(label, 20), np.repeat(score, 20), np.repeat(np.arange(300), 20)
    whole = interval([0.0], [resampled_aucs(label, score, user, 300)])
    single = interval([0.0], [resampled_aucs(label, score, np.arange(6000), 300)])
    assert (whole.high - whole.low) > 3 * (single.high - single.low)


def test_differences_are_paired_over_the_users() -> None:
    label, score, user = log(rows=3000, users=200, digits=6)
    chance = np.random.default_rng(0)
    networks = {"better": score + 0.05 * chance.normal(size=3000), "worse": score + 0.7 * chance.normal(size=3000)}
    aucs = {name: [roc_auc_score(label, s)] for name, s in networks.items()}
    drawn = {name: [resampled_aucs(label, s, user, 400)] for name, s in networks.items()}
    apart = difference(aucs["better"], drawn["better"], aucs["worse"], drawn["worse"])
    assert apart.mean == pytest.approx(aucs["better"][0] - aucs["worse"][0])
    assert 0 < apart.low < apart.mean < apart.high
    by_hand = drawn["better"][0] - drawn["worse"][0]
    assert (apart.low, apart.high) == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])))
    alone = interval(aucs["better"], drawn["better"])
    assert apart.high - apart.low < alone.high - alone.low, "what both share does not cancel"
    to_itself = difference(aucs["worse"], drawn["worse"], aucs["worse"], drawn["worse"])
    assert (to_itself.mean, to_itself.low, to_itself.high) == (0, 0, 0)


@pytest.mark.parametrize("seeds", [2, 5])
def test_an_interval_holds_the_scatter_of_the_seeds_without_bias(seeds: int) -> None:
    """Resamples whose users do not differ: what is left is how far the mean of so many seeds scatters, s / √S."""
    chance = np.random.default_rng(1)
    squares = []
    for _ in range(300):
        aucs = 0.7 + 0.01 * chance.normal(size=seeds)
        squares.append(over_seeds([np.full(2000, auc) for auc in aucs]).var())
    assert np.mean(squares) == pytest.approx(0.01**2 / seeds, rel=0.15)


def test_seeds_that_scatter_more_than_two_networks_differ_tell_nothing() -> None:
    users = np.random.default_rng(4).normal(0, 0.004, 1000)  # common to all
    ours, theirs = [0.731, 0.735, 0.733], [0.730, 0.734, 0.729]
    apart = difference(ours, [auc + users for auc in ours], theirs, [auc + users for auc in theirs])
    assert apart.mean == pytest.approx(0.002) and apart.low < 0 < apart.high
    of_one = difference(ours[:1], [ours[0] + users], theirs[:1], [theirs[0] + users])
    assert of_one.low == pytest.approx(of_one.high), "of one seed each, nothing tells how seeds scatter"
