"""A bundle tried with a prepared data set: its users and histories in the embedded store, as if they had just happened.

A log of last year would make every gap of a history the largest there is. So all times are moved by one span, which
puts the newest behaviour at the start of the service.
"""

import logging
import time
from pathlib import Path
from typing import Any

from model.bundle.layout import REPORT
from model.bundle.reading import Bundle
from service.loading.load import load_opened
from service.loading.tables import Tables
from service.settings import Settings

log = logging.getLogger("ranker")

DAY_MS = 86_400_000


def load(data: Path, bundle: Bundle, url: str, settings: Settings) -> None:
    """Loads the data set for the bundle's features. Raises BackfillError."""
    tables = Tables(data, bundle.schema)
    shift_ms = time.time_ns() // 1_000_000 - tables.newest if tables.newest is not None else 0
    loaded = load_opened(tables, url, keep=settings.history_keep, ttl_s=settings.history_ttl_s, shift_ms=shift_ms)
    log.info(
        "%d users with %d behaviours of %s loaded, times moved by %.1f days, so that the newest happened just now",
        loaded.users,
        loaded.behaviours,
        data,
        shift_ms / DAY_MS,
    )
    for note in loaded.notes:
        log.warning("%s: %s", data, note)


def example(data: Path, candidates: int) -> dict[str, Any] | None:
    """A request of a user with a history and of items that were shown, as the data set has them; None without any."""
    import polars as pl

    if not (data / "tables" / "impressions.parquet").exists():
        return None
    behaviours = pl.scan_parquet(data / "tables" / "behaviours.parquet").select("user_id")
    shown = pl.scan_parquet(data / "tables" / "impressions.parquet").select("user_id", "item_id").tail(100_000)
    rows = shown.join(behaviours.unique(), on="user_id", how="semi", maintain_order="left").collect(engine="streaming")
    rows = rows if len(rows) else shown.collect()
    if not len(rows):
        return None
    # Each item's last row, not its first: those first shown last are the ones that training does not know.
    items = shown.collect().unique("item_id", keep="last", maintain_order=True).tail(candidates)["item_id"]
    return {"user_id": rows["user_id"][-1], "candidates": items.to_list()}


def hint(bundle: Path) -> str:
    """What to do about an embedded store without users."""
    import json

    try:
        data_at = json.loads((bundle / REPORT).read_text()).get("data_at")
    except (OSError, ValueError):
        data_at = None
    data = (bundle / data_at).resolve() if data_at else None
    known = str(data) if data and (data / "tables").is_dir() else "a prepared data set"
    return (
        f"the embedded store has no users for this bundle, so every history is empty; to try it with users: "
        f"python -m service --data DIR (make run BUNDLE=… DATA=…), DIR being {known}"
    )
