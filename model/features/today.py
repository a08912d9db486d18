"""Counters that move within the day: what a user did, and was shown, since the day of `now` began.

They go on where statistics end (derived.py), which know a day once it is over: both have the days of the log's time
zone. What a user did is counted in the behaviours as read, as matches are. What was shown is in no history: the store
counts what feedback confirmed, training what the log shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from model.features.derived import BUCKET_OF, COUNTS, MOST_MATCHED
from model.features.ids import FIRST, UNKNOWN
from model.features.kinds import KINDS, Column, Feature, Rows, SchemaError
from model.options import Count

IMPRESSION = "impression"  # an event that confirms that an item was seen; never a behaviour
QUARTER_MS = 900_000  # since 1973 every zone's days begin at a quarter of an hour


@dataclass(frozen=True)
class Today(Feature):
    """How often `event` happened to the user since the day began, embedded in buckets, one for all candidates.

    An impression that nobody could count, since the store did not answer, is UNKNOWN.
    """

    event: str = ""
    length: Count = 100  # more are as many

    kind: ClassVar[str] = "today"
    whole: ClassVar[bool] = True
    derived: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.event:
            raise SchemaError(
                f"feature {self.name!r}: event is missing, allowed: an action of [history], or {IMPRESSION}"
            )
        if self.side != "cross":
            raise SchemaError(f"feature {self.name!r}: side {self.side!r}, a today is of side 'cross'")
        self._require(not self.of, f"of = {list(self.of)}, a today is the user's: no `of`")
        super().__post_init__()
        self._require(self.buckets is None and self.min_count == 1, "a today has no vocabulary: no min_count, buckets")
        self._require(bool(self.width), "a today is embedded: `width` is needed")
        self._require(self.length <= MOST_MATCHED, f"length {self.length}, at most {MOST_MATCHED} allowed")

    @property
    def fixed_rows(self) -> int:
        return FIRST + COUNTS

    @property
    def of_impressions(self) -> bool:
        return self.event == IMPRESSION

    def column(self, values: Sequence[Any]) -> Column:
        return self.empty(len(values))

    def rows_of(self, count: npt.NDArray[np.int64]) -> Rows:
        """Rows of its embedding table, of counts (n,); -1: nobody could count."""
        rows: Rows = FIRST + BUCKET_OF.take(np.clip(count, 0, self.length))
        np.copyto(rows, UNKNOWN, where=count < 0)
        return rows


class Calendar:
    """The days of a time zone. Raises ValueError for one that this machine does not know."""

    def __init__(self, time_zone: str):
        self.time_zone = time_zone
        try:
            self._zone = ZoneInfo(time_zone) if time_zone != "UTC" else UTC
        except (LookupError, OSError, TypeError, ValueError):  # ZoneInfoNotFoundError is a KeyError
            raise ValueError(f"time zone {time_zone!r} is not known here, an IANA name is allowed") from None
        self._of_quarter = lru_cache(maxsize=4096)(self._begin)

    def begin_ms(self, day: int) -> int:
        """When a day begins, in ms since 1970, of its number."""
        midnight = datetime(1970, 1, 1, tzinfo=self._zone) + timedelta(day)  # on the zone's own clock
        return int(midnight.timestamp() * 1000)  # one that a clock change leaves out is that change itself

    def begun_ms(self, now: int) -> int:
        """When the day of a moment began, both in ms since 1970."""
        return self._of_quarter(now // QUARTER_MS)

    def all_begun_ms(self, now: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`begun_ms` of moments (n,)."""
        quarters, of = np.unique(now // QUARTER_MS, return_inverse=True)
        begun = np.fromiter(map(self._of_quarter, quarters.tolist()), np.int64, len(quarters))
        return begun[of]

    def _begin(self, quarter: int) -> int:
        local = datetime.fromtimestamp(quarter * (QUARTER_MS // 1000), self._zone).date()
        return self.begin_ms(local.toordinal() - datetime(1970, 1, 1).toordinal())


KINDS[Today.kind] = Today
