"""Which of two arms earns more clicks, with intervals that may be looked at any time.

Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences"
(2021; Annals of Statistics 2024), Theorem 2.2: the mixture over a normal prior. Departures, with their reasons:

- The unit is the user. Clicks of one user are not independent, so variances come from users' totals by the delta
  method (Deng, Knoblich, Lu, KDD 2018), and the gain is the logarithm of the ratio of two ratios.
- Time is information, 1 / variance of the gain, as users come back and are not drawn once. Where an earlier estimate
  is a later one and noise of its own, as of users alike in how much they come back, looks are a Brownian motion's.
  Where users differ in that, no theorem says so, and information may even fall: simulations stand for it
  (tests/peeking.py; docs/experiments.md has the least kind worlds that were tried).
- The prior's width is a gain, set before any data are seen, not a number of users.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

ALPHA = 0.05  # chance that an interval ever misses the truth, over all looks together
PLANNED = 0.05  # the gain whose square is the prior's variance: intervals are tightest for gains of this order
ENOUGH = 100  # users, and clicks, of each arm before there is an interval: the theory is of many
PRIOR_USERS = 100.0  # how much data the prior of the sample ratio's test weighs
NORMAL_95, NORMAL_80 = 1.959964, 0.841621  # quantiles: two-sided 95 %, one-sided 80 %


class Moments(NamedTuple):
    """Sums over users, of a user's x impressions and y clicks so far; all of one shape."""

    users: Floats
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats

    def of(self, index: int | tuple[int, ...]) -> "Moments":
        return Moments(*(part[index] for part in self))


class Gain(NamedTuple):
    """Of the treated arm over control, 0.05 for 5 % more; nan where there is too little to say."""

    estimate: Floats
    low: Floats
    high: Floats


def accumulate(user: Ints, arm: Ints, look: Ints, x: Floats, y: Floats, shape: tuple[int, int]) -> Moments:
    """Moments by arm as they stand at each look: arrays of `shape` (arms, looks).

    A row is what one user did between two looks; rows are in the order of users, a user's in that of looks.
    """
    first = np.r_[True, user[1:] != user[:-1]][: len(user)]
    since = np.cumsum(first) - 1

    def before(values: Floats) -> Floats:
        total = np.cumsum(values) - values
        return np.asarray(total - total[first][since])

    def summed(values: npt.NDArray[np.generic]) -> Floats:
        sums = np.bincount(arm * shape[1] + look, values, shape[0] * shape[1])
        return np.asarray(sums.reshape(shape).cumsum(axis=1), np.float64)

    x0, y0 = before(x), before(y)
    x1, y1 = x0 + x, y0 + y
    squares = (x1 * x1 - x0 * x0, x1 * y1 - x0 * y0, y1 * y1 - y0 * y0)
    return Moments(summed(first), summed(x), summed(y), *(summed(square) for square in squares))


def log_rate(m: Moments) -> tuple[Floats, Floats]:
    """Logarithm of clicks / impressions, and its variance by the delta method with users as the unit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = m.y / m.x
        residual = m.yy - 2 * rate * m.xy + rate**2 * m.xx
        return np.log(rate), np.asarray(residual / m.y**2 * m.users / (m.users - 1))


def boundary(information: npt.ArrayLike, alpha: float = ALPHA) -> Floats:
    """Standard errors from the truth that the estimate exceeds at any look with the chance alpha."""
    weight = np.asarray(information, np.float64) * PLANNED**2
    return np.asarray(np.sqrt((1 + 1 / weight) * np.log((1 + weight) / alpha**2)))


def gain(treated: Moments, control: Moments, alpha: float = ALPHA) -> Gain:
    """With its interval at every look; the chance that any of them misses the truth is alpha."""
    (log_t, var_t), (log_c, var_c) = log_rate(treated), log_rate(control)
    least = np.minimum.reduce([treated.users, control.users, treated.y, control.y])
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.where((least >= ENOUGH) & (var_t + var_c > 0), var_t + var_c, np.nan)
        margin = np.sqrt(variance) * boundary(1 / variance, alpha)
        return Gain(*(np.expm1(np.where(least > 0, log_t - log_c + off, np.nan)) for off in (0, -margin, margin)))


def rate_interval(m: Moments) -> tuple[Floats, Floats]:
    """Of clicks / impressions, 95 % at one look: to show, not to decide by. nan for a single user or without clicks."""
    log, variance = log_rate(m)
    with np.errstate(invalid="ignore"):
        margin = NORMAL_95 * np.sqrt(np.where((m.users > 1) & (m.y > 0), variance, np.nan))
        return np.exp(log - margin), np.exp(log + margin)


def users_needed(treated: Moments, control: Moments, of: float, alpha: float = ALPHA) -> tuple[int, int] | None:
    """Users of both arms until a true gain `of` is seen in four cases of five: by `gain`, and by a test at a fixed
    horizon, whose number has to be set before; from how much these arms' users tell. None: they tell too little."""
    variance = float(log_rate(treated)[1] + log_rate(control)[1])
    users = float(treated.users + control.users)
    if not (variance > 0 and min(treated.y, control.y) >= ENOUGH):
        return None
    size = abs(math.log1p(of))
    fixed = ((NormalDist().inv_cdf(1 - alpha / 2) + NORMAL_80) / size) ** 2
    information = fixed
    for _ in range(50):  # a contraction: the boundary grows as the root of a logarithm
        information = ((float(boundary(information, alpha)) + NORMAL_80) / size) ** 2
    return round(users * information * variance), round(users * fixed * variance)


def sample_ratio(arm: Ints, shares: Floats) -> float:
    """How likely it is, at worst, that users came to the arms by these shares: a p-value for any number of looks.

    `arm`: of each user, in the order in which they came. Lindon, Malek, "Anytime-valid inference for multinomial count
    data" (NeurIPS 2022): the multinomial against a Dirichlet prior about the shares.
    """
    seen = np.empty(len(arm))  # users of the same arm before
    for one in range(len(shares)):
        places = np.flatnonzero(arm == one)
        seen[places] = np.arange(len(places))
    expected = shares[arm]
    odds = (PRIOR_USERS * expected + seen) / ((PRIOR_USERS + np.arange(len(arm))) * expected)
    return float(min(1.0, np.exp(-np.cumsum(np.log(odds)).max(initial=0.0))))
