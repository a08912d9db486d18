"""Records of journal files as rows of the tables in model/servicelog/tables.py."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import polars as pl

from model.servicelog.tables import ADDED, SCHEMAS
from service.journal.lines import KIND

TABLE_OF = {
    "impression": "impressions",
    "event": "events",
    "profile": "users",
    "forgotten": "users",
    "shadowed": "shadows",
}
DAY_BY = {
    "impressions": ("now", 1000),
    "events": ("timestamp", 1000),
    "users": ("stored_us", 1_000_000),
    "shadows": ("now", 1000),
}
SEEN_US = {  # what a tombstone is compared with
    "impressions": "read_us",
    "events": "stored_us",
    "users": "stored_us",
    "shadows": "read_us",
}


class Rows:
    """Rows of one file, by table and day; they are kept as columns, and so take little more than the file's lines."""

    def __init__(self) -> None:
        self._frames: dict[tuple[str, str], list[pl.DataFrame]] = {}
        self.forgotten: list[dict[str, Any]] = []
        self.counts = dict.fromkeys(DAY_BY, 0)  # of records

    def add(self, block: Sequence[Mapping[str, Any]]) -> None:
        """Raises KeyError, TypeError or ValueError where a line is no record."""
        rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for told in block:
            table = TABLE_OF[told[KIND]]
            name, per_s = DAY_BY[table]
            day = datetime.fromtimestamp(told[name] // per_s, UTC).date().isoformat()
            rows.setdefault((table, day), []).extend(_rows(told))
            self.counts[table] += 1
            if told[KIND] == "forgotten":
                self.forgotten.append({"user_id": told["user_id"], "stored_us": told["stored_us"]})
        for key, some in rows.items():
            self._frames.setdefault(key, []).append(pl.DataFrame(some, schema=SCHEMAS[key[0]]))

    def tables(self) -> dict[tuple[str, str], pl.DataFrame]:
        return {key: pl.concat(frames) for key, frames in sorted(self._frames.items())}


def _rows(told: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """One, but of a shadow's scores: a row an item."""
    if told[KIND] == "impression":
        return [_impression(told)]
    if told[KIND] != "shadowed":
        return [_row(told)]
    own = {name: value for name, value in told.items() if name not in (KIND, "items")}
    return [{**own, "item_id": item, "score": _score(score)} for item, score in told["items"]]


def _score(written: float | None) -> float:
    """JSON has no nan."""
    return float("nan") if written is None else written


def _row(told: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: value for name, value in told.items() if name not in (KIND, "fields")}
    if told[KIND] == "profile":
        row["profile"] = _text(told["fields"])
    elif told[KIND] == "forgotten":
        row |= {"profile": None, "replaced": None}
    return row


def _impression(told: Mapping[str, Any]) -> dict[str, Any]:
    row = {**ADDED["impressions"], **{name: value for name, value in told.items() if name != KIND}}
    columns = told["items"]
    features = columns.get("features", {})
    propensities = columns.get("propensities") or [None] * len(columns["ids"])
    row["items"] = [
        {
            "item_id": item,
            "score": _score(score),
            "position": at + 1,
            "propensity": propensity,
            "features": _text(features[str(at)]) if str(at) in features else None,
        }
        for at, (item, score, propensity) in enumerate(
            zip(columns["ids"], columns["scores"], propensities, strict=True)
        )
    ]
    names = ("action", "object_type", "object_id", "timestamp")
    row["behaviours"] = [dict(zip(names, one, strict=True)) for one in told["behaviours"]]
    for name in ("context", "user", "profile"):
        row[name] = _text(told[name])
    return row


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()
