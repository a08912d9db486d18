"""The tables that `service.drain` makes of journals: Parquet, partitioned by the UTC day of what they tell.

    DIR/impressions/day=2026-11-27/FILE.parquet    a row a request, day of `now`
    DIR/events/day=2026-11-27/FILE.parquet         a row an event, day of `timestamp`
    DIR/users/day=2026-11-27/FILE.parquet          a row a profile that was set or a user forgotten, day of `stored_us`
    DIR/shadows/day=2026-11-27/FILE.parquet        a row an item that a shadow scored, day of `now`
    DIR/forgotten/FILE.parquet                     tombstones, which every later drain applies too

FILE is the journal file's name, so that a drain which is begun again writes the same tables. What a feature table may
name (context, features, profile) is JSON text: its columns are the bundle's, not ours. Columns are as the fields of
`records` of the same name.
"""

import polars as pl

ITEM = pl.Struct(
    {
        "item_id": pl.String,
        "score": pl.Float32,
        "position": pl.Int32,
        "propensity": pl.Float64,  # null: no exploration
        "features": pl.String,  # JSON object; null: none
    }
)
BEHAVIOUR = pl.Struct({"action": pl.String, "object_type": pl.String, "object_id": pl.String, "timestamp": pl.Int64})
_IMPRESSION: dict[str, pl.DataType | type[pl.DataType]] = {
    "request_id": pl.String,
    "user_id": pl.String,
    "now": pl.Int64,
    "read_us": pl.Int64,
    "replay": pl.Boolean,
    "model": pl.String,
    "version": pl.String,
    "variant": pl.String,
    "precision": pl.String,
    "catalog": pl.String,
    "statistics": pl.String,
    "items": pl.List(ITEM),
    "context": pl.String,  # JSON object, as `user`
    "user": pl.String,
    "profile": pl.String,  # JSON object of texts
    "behaviours": pl.List(BEHAVIOUR),
    "degraded": pl.List(pl.String),
    "took_us": pl.Int64,
    "named": pl.Int64,
    "shown_today": pl.Int64,
}
IMPRESSIONS = pl.Schema(_IMPRESSION)
ADDED: dict[str, dict[str, int]] = {  # columns that older drains did not write, and what stands for them
    "impressions": {"took_us": 0, "named": 0, "shown_today": -1},
}
EVENTS = pl.Schema(
    {
        "event": pl.String,
        "user_id": pl.String,
        "object_type": pl.String,
        "object_id": pl.String,
        "timestamp": pl.Int64,
        "request_id": pl.String,
        "watch_ms": pl.Int64,
        "received_us": pl.Int64,
        "stored_us": pl.Int64,
    }
)
USERS = pl.Schema(
    {
        "user_id": pl.String,
        "profile": pl.String,  # JSON object of texts; null: the user was forgotten
        "replaced": pl.Boolean,
        "received_us": pl.Int64,
        "stored_us": pl.Int64,
    }
)
SHADOWS = pl.Schema(
    {
        "request_id": pl.String,
        "user_id": pl.String,
        "item_id": pl.String,
        "shadow": pl.String,
        "model": pl.String,
        "version": pl.String,
        "score": pl.Float32,
        "now": pl.Int64,
        "read_us": pl.Int64,
    }
)
FORGOTTEN = pl.Schema({"user_id": pl.String, "stored_us": pl.Int64})

SCHEMAS = {
    "impressions": IMPRESSIONS,
    "events": EVENTS,
    "users": USERS,
    "shadows": SHADOWS,
    "forgotten": FORGOTTEN,
}
