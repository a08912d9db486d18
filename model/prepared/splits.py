"""Train, validation and test: as the table says, by calendar day, or by tenths where the last day is a small one.

Without a column of its own a split is two moments, so that a time alone tells it, in SQL and in numpy alike.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from model.prepared.entities import PrepareError

SPLITS = ("train", "validation", "test")
LEAST_SHARE = 0.02  # of all impressions, which each of the last two days must hold


@dataclass(frozen=True)
class Split:
    """`moments` (ms) at which validation and test begin; None: the column `split` says."""

    moments: tuple[int, int] | None
    described: Any  # for meta.json
    note: str | None = None  # what whoever reads a figure must know

    def of(self, frame: pl.DataFrame) -> npt.NDArray[np.int8]:
        """Split of each impression of a frame with the columns time and, where there is one, split."""
        if self.moments is None:
            return frame["split"].to_numpy().astype(np.int8)
        time, (validation, test) = frame["time"].to_numpy(), self.moments
        return (time >= validation).astype(np.int8) + (time >= test).astype(np.int8)

    def sql(self, code: str) -> str:
        """The condition that an impression is of a split."""
        number = SPLITS.index(code)
        if self.moments is None:
            return f"split = {number}"
        below, above = (-(2**63), *self.moments)[number], (*self.moments, 2**63 - 1)[number]
        return f"(time >= {below} AND time < {above})"


def by_day(days: list[tuple[Any, int, int]]) -> Split | None:
    """The last calendar day is test, the one before validation; None where there are too few days or rows on them.

    `days` are (day, impressions, first ms), in order.
    """
    total = sum(count for _, count, _ in days)
    if len(days) < len(SPLITS) or min(count for _, count, _ in days[-2:]) < LEAST_SHARE * total:
        return None
    named = {"train": [days[0][0], days[-3][0]], "validation": [days[-2][0]], "test": [days[-1][0]]}
    described = {name: [day.isoformat() for day in between] for name, between in named.items()}
    return Split((days[-2][2], days[-1][2]), described)


def by_tenths(first: int, validation: int, test: int, last: int, days: list[tuple[Any, int, int]]) -> Split:
    """The last tenth by time is test, the tenth before it validation; times in ms. Raises PrepareError."""
    if not first < validation < test:
        raise PrepareError(
            f"impressions at {len(days)} day(s) with too few moments to part them by time: train, validation and test "
            "must each begin later than the one before; give the impressions a column `split`"
        )
    moments = [np.datetime64(ms, "ms").astype(str) + "Z" for ms in (first, validation, test, last)]
    described = {"train": moments[:2], "validation": moments[1:3], "test": moments[2:]}
    why = (
        f"the log has {len(days)} calendar day(s), and a split by days takes 3"
        if len(days) < len(SPLITS)
        else f"of the last two days one holds {min(count for _, count, _ in days[-2:])} impressions, below "
        f"{LEAST_SHARE:.0%} of all"
    )
    return Split((validation, test), described, f"test is the last tenth by time, validation the one before: {why}")
