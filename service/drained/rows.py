"""Records of a journal → rows of the tables, by table and day."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson
import polars as pl

from model.servicelog.records import Event, Forgotten, Impression, Profile, Record
from model.servicelog.tables import SCHEMAS

Place = tuple[str, str]  # table, and day (2026-11-27; empty: the table has no days)


class Rows:
    """What was read of one file so far; frames, since rows as objects take ten times the memory."""

    def __init__(self) -> None:
        self._frames: dict[Place, list[pl.DataFrame]] = {}

    def add(self, records: Iterable[Record]) -> None:
        """One block's."""
        rows: dict[Place, list[dict[str, Any]]] = {}
        for record in records:
            for place, row in _rows_of(record):
                rows.setdefault(place, []).append(row)
        for place, some in rows.items():
            self._frames.setdefault(place, []).append(pl.DataFrame(some, schema=SCHEMAS[place[0]], orient="row"))

    def tables(self) -> dict[Place, pl.DataFrame]:
        return {place: pl.concat(frames) for place, frames in sorted(self._frames.items())}


def _rows_of(record: Record) -> list[tuple[Place, dict[str, Any]]]:
    match record:
        case Impression():
            return [(("impressions", _day(record.now)), _impression(record))]
        case Event():
            return [(("events", _day(record.timestamp)), asdict(record))]
        case Profile():
            row = {name: getattr(record, name) for name in ("user_id", "replaced", "received_us", "stored_us")}
            return [(("users", _day(record.stored_us // 1000)), row | {"profile": _json(record.fields)})]
        case Forgotten():
            row = asdict(record)
            tombstone = {name: row[name] for name in SCHEMAS["forgotten"]}
            gone = row | {"profile": None, "replaced": True}
            return [(("users", _day(record.stored_us // 1000)), gone), (("forgotten", ""), tombstone)]


def _impression(record: Impression) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in SCHEMAS["impressions"]}
    items = [
        {
            "item_id": item.item_id,
            "score": item.score,
            "position": item.position,
            "propensity": item.propensity,
            "features": None if item.features is None else _json(item.features),
        }
        for item in record.items
    ]
    behaviours = [one._asdict() for one in record.behaviours]
    open_ended = {name: _json(row[name]) for name in ("context", "user", "profile")}
    return row | open_ended | {"items": items, "behaviours": behaviours}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _day(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d}"
