"""Intervals that may be looked at any time: sums against plain ones, the boundary against another library's."""

import math
from collections import defaultdict

import numpy as np
import pytest
import ville

from service.comparing.statistics import (
    ALPHA,
    ENOUGH,
    NORMAL_95,
    PLANNED,
    PRIOR_USERS,
    Moments,
    accumulate,
    boundary,
    gain,
    log_rate,
    rate_interval,
    sample_ratio,
    users_needed,
)
from tests import peeking


def moments(x: np.ndarray, y: np.ndarray) -> Moments:
    """Of users with so many impressions and clicks each."""
    return Moments(*(np.asarray(float(v)) for v in (len(x), x.sum(), y.sum(), x @ x, x @ y, y @ y)))


def users(seed: int, count: int, rate: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Impressions and clicks of each; who clicks, clicks often."""
    chance = np.random.default_rng(seed)
    shown = chance.integers(1, 40, count)
    return shown.astype(float), chance.binomial(shown, chance.beta(2 * rate, 2 * (1 - rate), count)).astype(float)


def test_moments_at_every_look_are_those_of_all_that_was_shown_until_then() -> None:
    chance, looks = np.random.default_rng(3), 7
    rows = sorted({(int(u), int(k)) for u, k in zip(*chance.integers(0, (40, looks), (120, 2)).T, strict=True)})
    arm_of = chance.integers(0, 3, 40)
    x = chance.integers(1, 20, len(rows)).astype(float)
    y = chance.binomial(x.astype(int), 0.3).astype(float)
    user, look = (np.array(column) for column in zip(*rows, strict=True))
    found = accumulate(user, arm_of[user], look, x, y, (3, looks))
    for arm in range(3):
        for until in range(looks):
            of: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
            for (one, at), shown, clicked in zip(rows, x, y, strict=True):
                if arm_of[one] == arm and at <= until:
                    of[one][0] += shown
                    of[one][1] += clicked
            sums = [(1, a, b, a * a, a * b, b * b) for a, b in of.values()]
            plain = [sum(column) for column in zip(*sums, strict=True)] if sums else [0] * 6
            assert [float(part) for part in found.of((arm, until))] == plain


def test_moments_of_nobody_are_nothing() -> None:
    none = np.array([], np.int64)
    found = accumulate(none, none, none, none.astype(float), none.astype(float), (2, 3))
    assert all(part.shape == (2, 3) and not part.any() for part in found)


def test_the_variance_is_what_drawing_users_again_shows() -> None:
    x, y = users(1, 4000)
    log, variance = log_rate(moments(x, y))
    assert float(log) == pytest.approx(math.log(y.sum() / x.sum()))
    residual = y - y.sum() / x.sum() * x
    assert float(variance) == pytest.approx(residual.var(ddof=1) * len(x) / y.sum() ** 2)
    chance = np.random.default_rng(2)
    again = [np.log(y[at].sum() / x[at].sum()) for at in (chance.integers(0, len(x), len(x)) for _ in range(1000))]
    assert float(variance) == pytest.approx(np.var(again), rel=0.15)
    of_impressions = (1 - y.sum() / x.sum()) / y.sum()
    assert float(variance) > 3 * of_impressions, "what a test of impressions believes, where users differ"


def test_the_boundary_is_the_normal_mixture_of_another_library() -> None:
    information = np.geomspace(1, 1e7, 30)
    theirs = ville.normal_mixture(information, ALPHA, 1 / PLANNED**2) / np.sqrt(information)
    np.testing.assert_allclose(boundary(information), theirs, rtol=1e-12)
    walk = np.random.default_rng(4).normal(0.02, 1, 20_000)
    evidence = ville.MSPRT(sigma=1.0, tau=PLANNED).fit(walk).log_e_values_
    time = np.arange(1, len(walk) + 1)
    crossed = np.abs(walk.cumsum()) / np.sqrt(time) >= boundary(time)
    assert crossed.any() and not crossed.all()
    np.testing.assert_array_equal(crossed, evidence >= math.log(1 / ALPHA))


def test_an_interval_is_the_gain_and_its_boundary() -> None:
    treated, control = moments(*users(1, 5000, 0.12)), moments(*users(2, 4000))
    own = gain(treated, control)
    (log_t, var_t), (log_c, var_c) = log_rate(treated), log_rate(control)
    error = math.sqrt(var_t + var_c)
    margin = error * float(boundary(1 / error**2))
    assert float(own.estimate) == pytest.approx(math.exp(log_t - log_c) - 1)
    assert float(own.low) == pytest.approx(math.exp(log_t - log_c - margin) - 1)
    assert float(own.high) == pytest.approx(math.exp(log_t - log_c + margin) - 1)
    stricter = gain(treated, control, ALPHA / 2)
    assert stricter.low < own.low and own.high < stricter.high
    other = gain(control, treated)
    assert (1 + float(other.low)) * (1 + float(own.high)) == pytest.approx(1)


def test_too_few_users_or_clicks_have_no_interval() -> None:
    x, y = users(1, 5000)
    few = x[: ENOUGH - 1], y[: ENOUGH - 1]
    rare = x, (np.arange(len(x)) < ENOUGH - 1).astype(float)
    for short in (few, rare):
        for pair in ((moments(*short), moments(x, y)), (moments(x, y), moments(*short))):
            own = gain(*pair)
            assert np.isfinite(own.estimate) and np.isnan(own.low) and np.isnan(own.high)
    never = gain(moments(x, y), moments(x, 0 * y))
    assert all(np.isnan(part) for part in never)


def test_the_interval_of_one_look_is_the_usual_one_and_none_without_clicks() -> None:
    own = moments(*users(1, 5000))
    log, variance = log_rate(own)
    low, high = rate_interval(own)
    assert math.log(high / low) == pytest.approx(2 * NORMAL_95 * math.sqrt(variance))
    assert math.sqrt(low * high) == pytest.approx(math.exp(log))
    x, y = users(1, 10)
    for short in (moments(x[:1], y[:1]), moments(x, 0 * y)):
        assert all(np.isnan(part) for part in rate_interval(short))


def test_users_needed_stand_beside_those_of_a_fixed_horizon() -> None:
    treated, control = (moments(*users(seed, 20_000)) for seed in (1, 2))
    needed = users_needed(treated, control, 0.0757)
    assert needed is not None
    ours, fixed = needed
    variance = float(log_rate(treated)[1] + log_rate(control)[1]) * 40_000
    assert fixed == pytest.approx((1.959964 + 0.841621) ** 2 * variance / math.log1p(0.0757) ** 2, rel=1e-4)
    assert 1.5 < ours / fixed < 3, "the price of looking at any time"
    of_three = users_needed(treated, control, 0.0757, ALPHA / 3)
    assert of_three is not None
    assert of_three[1] == pytest.approx((2.393980 + 0.841621) ** 2 * variance / math.log1p(0.0757) ** 2, rel=1e-4)
    smaller = users_needed(treated, control, 0.02)
    assert smaller is not None and smaller[1] > 10 * fixed
    assert users_needed(moments(*users(1, 100, 0.001)), control, 0.0757) is None


def test_ours_calls_no_false_alarms_where_a_test_of_impressions_calls_one_in_two() -> None:
    """Users click again and again, and each of 200 looks may end the experiment; python -m tests.peeking has more."""
    looked = peeking.look(experiments=300, users=1500, seed=1)
    assert looked.ever("ours") <= ALPHA
    assert looked.ever("users") > 2 * ALPHA, "right at one look, wrong at many"
    assert looked.ever("impressions") > 8 * ALPHA
    assert looked.covered.mean() >= 1 - ALPHA


def test_the_papers_gain_is_found_and_lies_in_the_interval() -> None:
    looked = peeking.look(experiments=20, users=40_000, true_gain=0.0757, seed=1)
    assert looked.ever("ours") >= 0.8
    assert looked.covered.mean() >= 1 - ALPHA
    sums = peeking.experiment(np.random.default_rng(5), 20, 40_000, 0.0757)
    needed = users_needed(*(Moments(*(part[:, -1].sum() for part in own)) for own in sums), 0.0757)
    assert needed is not None
    told = needed[0]
    half_saw = float(np.median(looked.first("ours")))
    assert 0.4 * told < half_saw < told, "four cases of five are seen by so many, half of them sooner"


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_sample_ratio_mismatch_is_found_at_the_odds_of_another_library(share: float) -> None:
    shares, chance = np.array([share, 1 - share]), np.random.default_rng(6)
    even, odd = (chance.random(20_000) > p for p in (share, share - 0.03))
    for arm, well in ((even, True), (odd, False)):
        first = (~arm).astype(float)
        prior = (PRIOR_USERS * share, PRIOR_USERS * (1 - share))
        theirs = ville.BernoulliTest(share, prior=prior).fit(first).p_values_.min()
        found = sample_ratio(arm.astype(np.int64), shares)
        assert found == pytest.approx(theirs, rel=1e-6)
        assert (found >= 0.01) == well


def test_three_arms_and_nobody_have_a_sample_ratio_too() -> None:
    chance, shares = np.random.default_rng(7), np.array([0.5, 0.3, 0.2])
    assert sample_ratio(chance.choice(3, 20_000, p=shares), shares) >= 0.01
    assert sample_ratio(chance.choice(3, 20_000, p=[0.5, 0.26, 0.24]), shares) < 1e-6
    assert sample_ratio(np.array([], np.int64), shares) == 1.0
