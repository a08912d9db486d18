"""What the store and the drained log hold, read without the service: what was acknowledged is sought there."""

from pathlib import Path

import polars as pl
import redis

from model.servicelog.tables import SCHEMAS


def stored_clicks(store: redis.Redis, user_id: str) -> set[tuple[str, int]]:
    """Items that the store holds as clicked by a user, and when; all that there are."""
    members = store.zrange(f"{{u:{user_id}}}:history:2:click|item", 0, -1)
    pairs = [member.decode().split("|", 1) for member in members]  # type: ignore[union-attr]
    return {(item, int(time)) for time, item in pairs}


def records(log: Path, table: str) -> pl.DataFrame:
    """All rows of a drained table; none where nothing of it was drained."""
    paths = sorted((log / table).rglob("*.parquet"))
    if not paths:
        return pl.DataFrame(schema=SCHEMAS[table])
    return pl.read_parquet(paths, hive_partitioning=False)


def events(log: Path) -> pl.DataFrame:
    """Drained events, each once."""
    return records(log, "events").unique(["user_id", "event", "object_type", "object_id", "timestamp", "request_id"])
