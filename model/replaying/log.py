"""The log by user: each with requests, what was told, and what another data set knows, in the order of time.

DuckDB sorts within a memory limit; one user at a time is in memory here.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from model.engine import literal
from model.features.behaviour import Behaviour
from model.features.kinds import USER_ID
from model.features.schema import Schema
from model.servicelog.reading import Files, LogError
from model.servicelog.records import Event, Forgotten, Impression, Profile, Shown
from model.servicelog.tables import SCHEMAS

ROWS = 1000  # fetched at once

Row = tuple[Any, ...]


@dataclass
class User:
    """What the log and another data set tell of one user."""

    user_id: str
    requests: list[Impression] = field(default_factory=list)  # by read_us
    records: list[Event | Profile | Forgotten] = field(default_factory=list)  # by stored_us
    profile: dict[str, str] | None = None  # of before the log; None: not known
    behaviours: list[Behaviour] = field(default_factory=list)  # likewise


class Log:
    """The tables in the engine. `base`: a prepared data set, whose users are read by its own `schema`."""

    def __init__(self, con: duckdb.DuckDBPyConnection, found: Files, base: Path | None, schema: Schema | None):
        self._con, self._found = con, found
        self._base, self._schema = base, schema
        self._fields = [f for f in schema.side("user") if f.name != USER_ID] if schema else []

    def requests(self) -> int:
        row = self._con.execute(f"SELECT count(*) FROM {self._table('impressions')}").fetchone()
        return int(row[0]) if row else 0

    def users(self) -> Iterator[User]:
        """Users with requests, in the order of their ids."""
        sources = {
            "request": self._rows("impressions", "read_us", ""),
            "event": self._rows("events", "stored_us", ""),
            "change": self._rows("users", "stored_us", ""),
            "gone": self._rows("forgotten", "stored_us", ""),
            "profile": self._base_rows("users"),
            "behaviour": self._base_rows("behaviours"),
        }
        streams = {name: _Stream(rows) for name, rows in sources.items()}
        while (user_id := streams["request"].user_id) is not None:
            of = {name: stream.of(user_id) for name, stream in streams.items()}
            user = User(user_id, [_impression(row) for row in of["request"]])
            user.records = [Event(**_named("events", row)) for row in of["event"]]
            user.records += [_change(row) for row in of["change"]]
            user.records += [Forgotten(id, at, at) for id, at in of["gone"]]
            user.records.sort(key=lambda record: record.stored_us)
            if of["profile"]:
                user.profile = self._profile(of["profile"][0])
            user.behaviours = [Behaviour(*row[1:]) for row in of["behaviour"]]
            yield user

    def _table(self, table: str) -> str:
        named = ", ".join(literal(str(path)) for path in self._found[table])
        return f"read_parquet([{named}], hive_partitioning = false)"

    def _rows(self, table: str, time: str, where: str) -> Iterator[Row]:
        if not self._found[table]:
            return iter(())
        columns = ["user_id", *(name for name in SCHEMAS[table] if name != "user_id")]
        named = ", ".join(f'"{name}"' for name in columns)
        order = f"{time}, {'request_id' if table == 'impressions' else named}"
        return self._fetched(f"SELECT {named} FROM {self._table(table)} {where} ORDER BY user_id, {order}")

    def _base_rows(self, table: str) -> Iterator[Row]:
        if self._base is None:
            return iter(())
        path = self._base / "tables" / f"{table}.parquet"
        columns = [f'"{feature.name}"' for feature in self._fields]
        if table == "behaviours":
            columns = ["action", "object_type", "CAST(object_id AS VARCHAR)", "timestamp"]
        query = (
            f"SELECT {', '.join(['CAST(user_id AS VARCHAR) AS user_id', *columns])} FROM read_parquet("
            f"{literal(str(path))}) SEMI JOIN (SELECT user_id AS id FROM {self._table('impressions')}) "
            "ON id = CAST(user_id AS VARCHAR) ORDER BY 1"
        )
        return self._fetched(query)

    def _fetched(self, query: str) -> Iterator[Row]:
        cursor = self._con.cursor()
        try:
            cursor.execute(query)
            while rows := cursor.fetchmany(ROWS):
                yield from rows
        except duckdb.Error as error:
            raise LogError(str(error).partition("\n")[0]) from None

    def _profile(self, row: Row) -> dict[str, str]:
        """As the store has it once it was loaded from that data set."""
        texts = ((f.name, f.stored(value)) for f, value in zip(self._fields, row[1:], strict=True))
        return {name: text for name, text in texts if text is not None}


class _Stream:
    """Rows in the order of users, given user by user."""

    def __init__(self, rows: Iterator[Row]):
        self._rows = rows
        self._next = next(rows, None)

    @property
    def user_id(self) -> str | None:
        return None if self._next is None else self._next[0]

    def of(self, user_id: str) -> list[Row]:
        """The rows of a user; those of users before are passed over."""
        rows = []
        while self._next is not None and self._next[0] <= user_id:
            if self._next[0] == user_id:
                rows.append(self._next)
            self._next = next(self._rows, None)
        return rows


def _named(table: str, row: Row) -> dict[str, Any]:
    """A row's values by column."""
    return dict(zip(["user_id", *(name for name in SCHEMAS[table] if name != "user_id")], row, strict=True))


def _impression(row: Row) -> Impression:
    values = _named("impressions", row)
    for name in ("context", "user", "profile"):
        values[name] = json.loads(values[name] or "{}")
    values["items"] = [
        Shown(**{**item, "features": json.loads(item["features"]) if item["features"] else None})
        for item in ({name: item[name] for name in Shown.__dataclass_fields__} for item in values["items"])
    ]
    values["behaviours"] = [
        Behaviour(*(behaviour[name] for name in Behaviour._fields)) for behaviour in values["behaviours"] or ()
    ]
    values["degraded"] = values["degraded"] or []
    return Impression(**values)


def _change(row: Row) -> Profile | Forgotten:
    values = _named("users", row)
    profile, replaced = values.pop("profile"), values.pop("replaced")
    return Forgotten(**values) if profile is None else Profile(fields=json.loads(profile), replaced=replaced, **values)
