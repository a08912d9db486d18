"""One request's behaviours and candidates, as matches compare them: by keys, or by codes that are ready (ready.py)."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from model.features import cooccurrence
from model.features.counts import Known
from model.features.kinds import ITEM_ID, Column, Rows
from model.features.matches import Found, by_keys

Chosen = npt.NDArray[np.int64] | slice  # places of some behaviours, oldest first


class Keyed:
    """By raw columns of the behaviours (T,), and behind them the candidates; as of `now`."""

    def __init__(self, columns: Mapping[str, Column], length: int, counts: Known, now: int):
        self._columns, self._length, self._before = columns, length, partial(counts.before, now)

    @property
    def candidates(self) -> int:
        return len(self._columns[ITEM_ID]) - self._length

    def found(self, features: Sequence[str], chosen: Chosen) -> Found:
        """Which of the chosen behaviours have the values that candidates have, of several features."""
        values = np.array([self._columns[name] for name in features])
        return by_keys(values[:, : self._length][:, chosen], values[:, self._length :])

    def beside(self, feature: str, chosen: Chosen, lengths: Sequence[int]) -> Rows:
        """Rows (lengths, C): how well candidates' values go with those of the newest so many that are chosen."""
        values = self._columns[feature]
        seen, own = values[: self._length][chosen], values[self._length :]
        return cooccurrence.rows_of(feature, seen, lengths, own, self._before)
