"""Train, validation and test: by calendar day, or as the table says."""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from model.prepared.entities import PrepareError


def _split(impressions: pl.DataFrame, time_zone: str) -> tuple[npt.NDArray[np.int8], Any]:
    """Split of each impression, and how it was made: as the table says, else by calendar day."""
    if "split" not in impressions.columns:
        return split_days(impressions["timestamp"], time_zone)
    split = impressions["split"].to_numpy().astype(np.int8)
    if not (split == SPLITS.index("train")).any():
        raise PrepareError("the table's own split leaves train empty")
    return split, "of the table"


def split_days(timestamps: pl.Series, time_zone: str) -> tuple[npt.NDArray[np.int8], dict[str, list[str]]]:
    """Split of each impression by calendar day: the last day is test, the one before validation. Timestamps in ms."""
    days = timestamps.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").dt.convert_time_zone(time_zone).dt.date()
    calendar = days.unique().sort().to_list()
    if len(calendar) < len(SPLITS):
        raise PrepareError(f"impressions on {len(calendar)} day(s), at least 3 are needed: train, validation, test")
    split = np.zeros(len(days), np.int8)
    split[(days == calendar[-2]).to_numpy()] = SPLITS.index("validation")
    split[(days == calendar[-1]).to_numpy()] = SPLITS.index("test")
    named = {"train": [calendar[0], calendar[-3]], "validation": [calendar[-2]], "test": [calendar[-1]]}
    return split, {name: [day.isoformat() for day in between] for name, between in named.items()}


SPLITS = ("train", "validation", "test")
