"""What statistics say of one request's candidates: all of them looked up, computed and standardised at once."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from model.features.counts import Known, key_of_all
from model.features.derived import Prior, Statistic, rates
from model.features.ids import Keys
from model.features.kinds import Side, standardised
from model.features.schema import Schema

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


def _first(schema: Schema, parts: Sequence[str]) -> int:
    return min(_ORDER.index(feature.side) for feature in schema.features if feature.name in parts)


class Lookup:
    """Some statistics of a schema by counts that stay as they are.

    Of each day it keeps what was counted of all, which no candidate changes.
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
        self._counts, counted, firsts = counts, list(of), [_first(schema, parts) for parts in of.values()]
        self._of_items, self._of_contexts = (firsts.count(side) for side in (0, 1))
        self._of_all = np.array([key_of_all(name) for name in counted], np.uint64)
        self._mean, self._deviation = np.array([fitted[one.name] for one in statistics]).T[..., None]
        of_rates = [one for one in statistics if one.what == "rate"]
        self._rated = np.array([counted.index(one.counted) for one in of_rates], np.int64)
        self._logged = np.array(
            [counted.index(one.counted) + len(counted) * (one.what == "clicks") for one in statistics[len(of_rates) :]],
            np.int64,
        )
        self._smoothing = np.array([one.smoothing for one in of_rates])[:, None]
        self._priors: dict[int, Prior] = {}  # by how many days have begun

    def numbers(self, keys: Keys, own: bool, now: int) -> npt.NDArray[np.float64]:
        """The statistics (N, n), standardised, by the keys (groups, n) of what is counted; (N, 1) where all are alike.

        `own`: candidates have contexts of their own. What does not differ between them is looked up once.
        """
        each = self._of_items + (self._of_contexts if own else 0)
        if not each:
            keys = keys[:, :1]
        groups, count = keys.shape
        if each in (0, groups):
            of_value = self._counts.before(now, keys.reshape(-1)).reshape(2, groups, count)
        else:
            both = self._counts.before(now, np.concatenate([keys[:each].reshape(-1), keys[each:, 0]]))
            of_value = np.empty((2, groups, count))
            of_value[:, :each] = both[:, : each * count].reshape(2, each, count)
            of_value[:, each:] = both[:, each * count :, None]
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
