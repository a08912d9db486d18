"""How the model that answers does: of the last hours' impressions how many were clicked, and how many it predicted.

Told by the drain, which knows all instances' clicks, in a file beside the journal that every scrape of the service
shows (service/telemetry/lately.py). Only impressions count whose clicks had the time to come.
"""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model.engine import engine, literal
from model.files import replacing
from model.servicelog import joins, views
from model.servicelog.joins import IDENTITY, Rule
from model.servicelog.reading import LogError, files
from model.servicelog.records import BUILTIN
from service.drained.files import LATELY

POSITIONS = 50  # that are told one by one
MEMORY_GIB = 1.0


def tell(out: str, journal: Path, hours: float, window_s: float, label: str, object_type: str) -> int:
    """Writes the file; how many impressions (returned items) it tells of. Raises LogError, OSError, duckdb's errors."""
    until_ms = int((time.time() - window_s) * 1000)
    rows = figures(out, until_ms - int(hours * 3_600_000), until_ms, int(window_s * 1000), label, object_type)
    told = {"until_s": until_ms / 1000, "hours": hours, "rows": rows}
    with replacing(journal / LATELY) as partial:
        partial.write_text(json.dumps(told))
    return sum(row["impressions"] for row in rows)


def figures(
    out: str, begin_ms: int, until_ms: int, window_ms: int, label: str, object_type: str
) -> list[dict[str, Any]]:
    """Impressions, clicks and the sum of predictions by model and position; replays are no impressions of the hours.

    A builtin variant's scores predict no clicks.
    """
    begin = datetime.fromtimestamp(begin_ms / 1000, UTC).date()
    days = {""} | {str(begin + timedelta(days=number)) for number in range((until_ms - begin_ms) // 86_400_000 + 3)}
    with TemporaryDirectory(prefix="ranker-lately-") as folder, engine(Path(folder), MEMORY_GIB, threads=1) as con:
        try:
            found = files(out, Path(folder), lambda table, day: day in days)
        except LogError:
            return []  # nothing of these days
        views.create(con, found, Path(folder))
        con.execute(
            f"CREATE TABLE distinct_events AS SELECT {IDENTITY}, max(watch_ms) AS watch_ms FROM events "
            f"WHERE timestamp >= {begin_ms} GROUP BY {IDENTITY}"
        )
        con.execute(
            "CREATE TABLE returned AS SELECT request_id, user_id, item.item_id AS item_id, now, "
            f"item.position AS place, CASE WHEN precision = {literal(BUILTIN)} THEN 0 ELSE item.score END AS score, "
            "model, version, coalesce(variant, '') AS variant FROM "
            "(SELECT request_id, user_id, now, model, version, variant, precision, unnest(items) AS item "
            f"FROM impressions WHERE NOT replay AND now >= {begin_ms} AND now < {until_ms})"
        )
        joins.join(con, Rule(label, object_type, window_ms, confirmed=False))
        found_rows = con.execute(
            f"SELECT model, version, variant, least(place, {POSITIONS + 1}) AS position, count(*), sum(label), "
            "sum(score) FROM labelled GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    names = ("model", "version", "variant", "position", "impressions", "clicks", "predicted")
    return [dict(zip(names, row[:4] + (int(row[4]), int(row[5]), float(row[6])), strict=True)) for row in found_rows]
