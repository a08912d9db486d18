"""What statistics say of one request's candidates: all of them looked up, computed and standardised at once."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.counts import Counts, Known, key_of_all
from model.features.derived import Prior, Statistic, rates
from model.features.ids import Keys
from model.features.kinds import Side, standardised
from model.features.schema import Schema

MOST_READY = 1 << 22  # numbers that are computed beforehand: 16 MB of each worker
AT_ONCE = 1 << 13  # values that are computed together: a multiple of a bucket's, and little memory
_ORDER: tuple[Side, ...] = ("item", "context", "user")


def rates_first(statistics: Iterable[Statistic]) -> list[Statistic]:
    """In the order in which a Lookup takes and gives them."""
    return sorted(statistics, key=lambda statistic: statistic.what != "rate")


def groups(schema: Schema, statistics: Sequence[Statistic]) -> dict[str, tuple[str, ...]]:
    """What statistics count, by name, with its parts; several of them may be of the same.

    Those with a part of the item come first, then those of the context, then those of the user alone.
    """
    parts = {statistic.counted: statistic.of for statistic in statistics}
    return dict(sorted(parts.items(), key=lambda counted: _first(schema, counted[1])))


def of_items_alone(schema: Schema, statistic: Statistic) -> bool:
    """Whether all that it counts is the item's own."""
    return {feature.side for feature in schema.features if feature.name in statistic.of} == {"item"}


def _first(schema: Schema, parts: Sequence[str]) -> int:
    return min(_ORDER.index(feature.side) for feature in schema.features if feature.name in parts)


class Lookup:
    """Some statistics of a schema by counts that stay as they are.

    Of each day it keeps what was counted of all, which no candidate changes. Made ready, it takes what requests of the
    newest day ask for from numbers that were computed beforehand.
    """

    def __init__(
        self,
        schema: Schema,
        statistics: Sequence[Statistic],
        fitted: Mapping[str, tuple[float, float]],
        counts: Known,
    ):
        """`statistics`: the rates first. `fitted`: mean and deviation by name."""
        of = groups(schema, statistics)
        self._schema, self.statistics, self._fitted = schema, statistics, fitted
        self._counts, counted, firsts = counts, list(of), [_first(schema, parts) for parts in of.values()]
        self._of_items, self._of_contexts = (firsts.count(side) for side in (0, 1))
        self._of_all = np.array([key_of_all(name) for name in counted], np.uint64)
        self._mean, self._deviation = np.array([fitted[one.name] for one in statistics]).T[..., None]
        self._group = np.array([counted.index(one.counted) for one in statistics])
        of_rates = [one for one in statistics if one.what == "rate"]
        self._rated = self._group[: len(of_rates)]
        of_clicks = np.array([one.what == "clicks" for one in statistics[len(of_rates) :]], np.int64)
        self._logged = self._group[len(of_rates) :] + len(counted) * of_clicks
        self._smoothing = np.array([one.smoothing for one in of_rates])[:, None]
        self._priors: dict[int, Prior] = {}  # by how many days have begun
        self._ready: Ready | None = None

    def make_ready(self, most: int = MOST_READY) -> None:
        """Computes them for all that was counted until the newest day, unless these are more than `most` numbers."""
        counts, of_each = self._counts, len(self._group)
        if self._ready is not None or not isinstance(counts, Counts) or (counts.places + 1) * of_each > most:
            return
        numbers = np.empty((counts.places + 1, of_each), np.float32)
        for begin in range(0, counts.places, AT_ONCE):
            of_value = counts.of_newest_day(begin, begin + AT_ONCE)
            numbers[begin : begin + of_value.shape[1]] = self._of_any_group(of_value)
        numbers[-1:] = self._of_any_group(np.zeros((2, 1)))
        self._ready = Ready(counts, numbers.reshape(-1), self._group)

    def only(self, statistics: Sequence[Statistic]) -> "Lookup":
        """Some of these statistics, in this order; what was made ready is shared."""
        other = Lookup(self._schema, statistics, self._fitted, self._counts)
        if self._ready is not None:
            other._ready = self._ready.only([self.statistics.index(one) for one in statistics], other._group)
        return other

    @property
    def count(self) -> int:
        """How many statistics there are."""
        return len(self.statistics)

    @property
    def groups(self) -> list[tuple[str, tuple[str, ...]]]:
        """What they count, with its parts, in the order of `numbers`' keys."""
        return list(groups(self._schema, self.statistics).items())

    def _of_any_group(self, of_value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """All statistics (n, N) of values of which the file does not say what they are of, by their counts (2, n)."""
        of_groups = np.broadcast_to(of_value[:, None], (2, len(self._of_all), of_value.shape[1]))
        assert isinstance(self._counts, Counts)
        return self._computed(of_groups, self._counts.until_ms).T

    def numbers(self, keys: Keys, own: bool, now: int) -> npt.NDArray[np.floating[Any]]:
        """The statistics (N, n), standardised, by the keys (groups, n) of what is counted; (N, 1) where all are alike.

        `own`: candidates have contexts of their own. What does not differ between them is looked up once.
        """
        each = self._of_items + (self._of_contexts if own else 0)
        if not each:
            keys = keys[:, :1]
        if each in (0, len(keys)):
            asked = keys.reshape(-1)
        else:
            asked = np.concatenate([keys[:each].reshape(-1), keys[each:, 0]])
        if self._ready is not None and now >= self._ready.begins_ms:
            return self._ready.numbers(_spread(self._ready.places(asked), each, *keys.shape))
        return self._computed(_spread(self._counts.before(now, asked), each, *keys.shape), now)

    def _computed(self, of_value: npt.NDArray[np.float64], now: int) -> npt.NDArray[np.float64]:
        """The statistics (N, n) by the counts of what is counted (2, groups, n)."""
        groups, count = of_value.shape[1:]
        rated, logged = len(self._rated), len(self._logged)
        values = np.empty((rated + logged, count))
        if rated:
            shown, clicks = of_value.take(self._rated, axis=1)
            values[:rated] = rates(shown, clicks, self._prior(now), self._smoothing)
        if logged:
            np.log1p(of_value.reshape(2 * groups, count).take(self._logged, axis=0), out=values[rated:])
        return standardised(values, self._mean, self._deviation)

    def _prior(self, now: int) -> Prior:
        begun = self._counts.begun(now)
        prior = self._priors.get(begun)
        if prior is None:
            shown, clicks = self._counts.before(now, self._of_all)[:, self._rated, None]
            prior = self._priors[begun] = Prior.of(shown, clicks, self._smoothing)
        return prior


class Ready:
    """The statistics of all that was counted until the newest day."""

    def __init__(self, counts: Counts, numbers: npt.NDArray[np.float32], group: npt.NDArray[np.int64]):
        """`numbers`: of each place in the file all statistics, as if it were of each one's group, and behind all
        places those of what was not counted (places * N,). `group`: of which a statistic is (N,).
        """
        self.places, self.begins_ms = counts.place, counts.until_ms
        self._numbers, self._group, self._every = numbers, group, len(group)
        self._statistic = np.arange(len(group))[:, None]

    def only(self, which: Sequence[int], group: npt.NDArray[np.int64]) -> "Ready":
        """Some of the statistics, of these groups, from the same numbers."""
        other = copy(self)
        other._group, other._statistic = group, np.array(which)[:, None]
        return other

    def numbers(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The statistics (N, n) by the places of what is counted (groups, n)."""
        at = places.take(self._group, axis=0)
        at *= self._every
        at += self._statistic
        return self._numbers.take(at)


def _spread(values: npt.NDArray[Any], each: int, groups: int, count: int) -> npt.NDArray[Any]:
    """What was looked up (..., m) for each group and candidate (..., groups, count).

    The first `each` groups were looked up for each candidate, the others once; or all for as many.
    """
    lead = values.shape[:-1]
    if each in (0, groups):
        return values.reshape(*lead, groups, count)
    spread = np.empty((*lead, groups, count), values.dtype)
    spread[..., :each, :] = values[..., : each * count].reshape(*lead, each, count)
    spread[..., each:, :] = values[..., each * count :, None]
    return spread
