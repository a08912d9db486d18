"""`meta.json` beside tables of one's own: what of a log its tables cannot say."""

import json
from collections.abc import Collection
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from model.datasets.tables import DataError

KEYS = ("time_zone", "drawn_negatives")


def read_meta(path: Path, only: Collection[str] = ()) -> tuple[str, bool]:
    """The time zone, and whether negatives were drawn by the user; UTC and no where there is no such file.

    `only`: of another program's file these keys are read, and others are allowed. Raises DataError.
    """
    if not path.is_file():
        return "UTC", False
    text = path.read_text("utf-8-sig", errors="replace")
    allowed = '{"time_zone": "Europe/Berlin"} or another IANA name is allowed, and "drawn_negatives": true or false'
    try:
        meta = {name: value for name, value in json.loads(text).items() if not only or name in only}
        time_zone, drawn = meta.get("time_zone", "UTC"), meta.get("drawn_negatives", False)
        ZoneInfo(time_zone)
        pl.Series([0]).cast(pl.Datetime("ms", time_zone))  # polars has its own list of zones, and splits by it
        right = isinstance(drawn, bool) and set(meta) <= set(KEYS)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, pl.exceptions.PolarsError):
        right = False
    if not right:
        raise DataError(f"{path}: {' '.join(text.split())[:100]!r} given, {allowed}")
    return time_zone, drawn
