"""Kinds of features that no table of a log holds: computed for a candidate from what is known of it and of the user.

BST's "other features" (Chen et al. 2019, Table 1) name statistical numbers of an item and cross features; these are
they. These kinds are of side `cross`, have no raw value, and are computed by the encoder alone:

- `match`: what the candidate has to do with what the user did before `now` (matches.py, cooccurrence.py),
- `statistic`: how often it was shown and clicked until the end of the day before `now` (counts.py),
- `today`: what the user did and was shown since then (today.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from model.features import cooccurrence
from model.features.ids import FIRST
from model.features.kinds import KINDS, Column, Feature, Rows, SchemaError
from model.options import Count, Positive

MOST_MATCHED = 1000  # behaviours that a match may look at: as many as a store keeps of an action
MOST_PAIRED = 50  # of a cooccurrence, which looks up each of them with each candidate: 0.1 µs a pair
# Of a count x bucket floor(2·log2(1 + x)), as of other numbers: read here, since a logarithm of each takes longer.
BUCKET_OF = np.floor(2 * np.log2(1 + np.arange(MOST_MATCHED + 1))).astype(np.int64)
COUNTS = 1 + int(BUCKET_OF[-1])
PARTS = 16  # of a history: a share is told in so many, rounded up, so that one behaviour is not none
WHATS = ("count", "age", "last", "share", "cooccurrence")


@dataclass(frozen=True)
class Match(Feature):
    """What a candidate's value of an item feature has to do with those of the newest behaviours, embedded in buckets.

    `count`: how many of them have it. `age`: how long ago the newest of these was, in the buckets of time positions.
    `last`: whether it is that of the newest behaviour of all. `share`: how many of those that there are have it.
    `cooccurrence`: how well it goes with those that it is not, by what all users did until the end of the day before.
    A candidate without a value is UNKNOWN.
    """

    what: Literal["count", "age", "last", "share", "cooccurrence"] | None = None
    actions: tuple[str, ...] = ()  # none: those of [history]
    length: Count = 100  # whatever the length of [history], which a recipe may change

    kind: ClassVar[str] = "match"
    derived: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_derived(self, "match", ", ".join(WHATS))
        self._require(len(self.of) == 1, f"of = {list(self.of)}, one item feature is allowed")
        self._require(bool(self.width), "a match is embedded: `width` is needed")
        most, of = (MOST_PAIRED, " of a cooccurrence") if self.counts else (MOST_MATCHED, "")
        self._require(self.length <= most, f"length {self.length}, at most {most} allowed{of}")

    @property
    def has_vocabulary(self) -> bool:
        return False

    def may_be_of(self, part: Feature) -> bool:
        return part.crossable and part.side == "item"

    def column(self, values: Sequence[Any]) -> Column:
        return self.empty(len(values))

    def buckets_of(self, gaps: int) -> int:
        """Rows of its embedding table; `gaps`: those of the table of time positions."""
        sizes = {"count": COUNTS, "age": gaps, "last": 2, "share": 1 + PARTS, "cooccurrence": cooccurrence.BUCKETS}
        return FIRST + sizes[str(self.what)]

    @property
    def ordered(self) -> bool:
        return self.what == "share"

    @property
    def counts(self) -> bool:
        """Whether it asks what was counted until the day before."""
        return self.what == "cooccurrence"


@dataclass(frozen=True)
class Statistic(Feature):
    """What was counted of a value, or of values together, until the end of the day before: a standardised number.

    With n impressions and c clicks of it, N and C of all, p = (C + 1) / (N + 2) and s = `smoothing`:
    `rate`: logit((c + s·p) / (n + s)) - logit(p). `count`: log(1 + n). `clicks`: log(1 + c).
    Of `days`, so many; with `half_life_days` h, a day's counts weigh half after h days; else of all days.
    """

    what: Literal["rate", "count", "clicks"] | None = None
    days: Count | None = None
    half_life_days: Count | None = None
    smoothing: Positive = 20.0

    kind: ClassVar[str] = "statistic"
    derived: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_derived(self, "statistic", "rate, count, clicks")
        self._require(not self.width, "a statistic enters the network as a number: no `width`")
        self._require(self.days is None or self.half_life_days is None, "days or half_life_days, not both")

    @property
    def is_float(self) -> bool:
        return True

    @property
    def counted(self) -> str:
        """Names what is counted, in table and keys: statistics of the same parts and days share it."""
        window = f"/{self.days}d" if self.days else f"/half {self.half_life_days}d" if self.half_life_days else ""
        return " x ".join(self.of) + window

    def column(self, values: Sequence[Any]) -> Column:
        return np.full(len(values), np.nan)

    def values(
        self, shown: Column, clicks: Column, all_shown: npt.ArrayLike, all_clicks: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """The number before it is standardised, of counts (n,) of its value and (n,) or () of all."""
        if self.what == "rate":
            return rates(shown, clicks, Prior.of(all_shown, all_clicks, self.smoothing), self.smoothing)
        return np.log1p(shown if self.what == "count" else clicks)


def match_rows(
    what: str | None,
    count: npt.NDArray[np.int64],
    gap: npt.NDArray[np.int64],
    last: npt.NDArray[np.bool_],
    behaviours: npt.NDArray[np.int64] | int,
) -> Rows:
    """Rows of a count, an age, a last or a share of all `behaviours`, by what was found; gap 0: nothing was.

    Arrays of one shape, or that broadcast to it.
    """
    rows: Rows
    if what == "count":
        rows = BUCKET_OF.take(count, mode="clip")
    elif what == "share":
        rows = -(-PARTS * count // np.maximum(behaviours, 1))
    else:
        rows = gap if what == "age" else last.astype(np.int64)
    rows = FIRST + rows
    return rows


class Prior(NamedTuple):
    """What `smoothing` adds to a value's clicks, and the logit of the rate of all: what a rate is drawn to."""

    clicks: npt.NDArray[np.float64]
    logit: npt.NDArray[np.float64]

    @classmethod
    def of(cls, shown: npt.ArrayLike, clicks: npt.ArrayLike, smoothing: npt.ArrayLike) -> "Prior":
        """By the counts of all; arrays that broadcast."""
        rate = (np.asarray(clicks) + 1) / (np.asarray(shown) + 2)
        return cls(np.asarray(smoothing) * rate, np.log(rate / (1 - rate)))


def rates(shown: Column, clicks: Column, prior: Prior, smoothing: Column | float) -> npt.NDArray[np.float64]:
    """The `rate` of `Statistic`, of one or of several at once: arrays that broadcast."""
    rate: npt.NDArray[np.float64] = clicks + prior.clicks
    rate /= shown + smoothing
    rate /= 1 - rate
    np.log(rate, out=rate)
    rate -= prior.logit
    return rate


def _require_derived(feature: Feature, kind: str, allowed: str) -> None:
    where = f"feature {feature.name!r}"
    if feature.what is None:  # type: ignore[attr-defined]
        raise SchemaError(f"{where}: what is missing, allowed: {allowed}")
    if feature.side != "cross":
        raise SchemaError(f"{where}: side {feature.side!r}, a {kind} is of side 'cross'")
    if feature.buckets is not None or feature.min_count != 1:
        raise SchemaError(f"{where}: a {kind} has no vocabulary: no min_count, buckets")
    Feature.__post_init__(feature)


KINDS.update({cls.kind: cls for cls in (Match, Statistic)})
