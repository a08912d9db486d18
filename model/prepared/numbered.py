"""A log as whole numbers: users, items and values of the context numbered, impressions and behaviours sorted.

SQL on an engine (engines.py) does what grows with the log: distinct ids, joins, sorts, counts. What comes out are
Parquet files of numbers, which slices.py encodes without knowing any id.

Everything is in an order that the rows alone decide, never the files: users and items by id, impressions as order.py
says. So the prepared data are the same bytes however the log was cut into files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import frexp
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from model.engine import literal, quoted
from model.features.ids import IdType, Keys
from model.features.kinds import Column, Feature
from model.features.schema import Group, History, Schema
from model.prepared.engines import Engine
from model.prepared.entities import Entities, PrepareError, series_column
from model.prepared.order import KEPT

Counts = npt.NDArray[np.int64]
INTEGER = r"^-?[0-9]+\z"  # $ may stand before a line's end
OWN, OWN_USER = '"{own}"', '"{own user}"'  # names that no column of the user's has: SQL would take theirs for ours


@dataclass(frozen=True)
class Behaviours:
    """One group's behaviours as numbers, sorted by user, time, object's key and action."""

    path: Path  # user, object, time, acted
    table: str  # the same in the engine
    begin: Counts  # (users,), where a user's begin
    seen: Counts  # (objects,), how often one stands before an impression of the training split
    count: int


class Log:
    """The tables of the folder `tables` on an engine; numbers its users and items at once."""

    def __init__(self, engine: Engine, tables: Path, schema: Schema, work: Path):
        self.engine, self.schema, self.work = engine, schema, work
        self.rows, self.frame = engine.rows, engine.frame
        self.columns = {path.stem: engine.open(path.stem, path) for path in sorted(tables.glob("*.parquet"))}
        if not self.count("impressions"):
            raise PrepareError("the log holds no impressions")
        history = schema.history
        user, item = ("impressions", "user_id"), ("impressions", "item_id")
        acting = [("behaviours", "user_id", _of_group(group.object_type, group.actions)) for group in self.groups]
        clicked = ("behaviours", "object_id", _of_group(history.object_type, history.actions))
        self.users = self._entities("user_id", schema.user_id, [user, *acting], schema.side("user"))
        self.items = self._entities("item_id", schema.item_id.type, [item, clicked], schema.side("item"))

    # ---- the engine's answers

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    def counted(self, query: str, size: int) -> Counts:
        """(size,), of a query for `row` and `n`."""
        answer, counts = self.frame(query), np.zeros(size, np.int64)
        counts[answer["row"].to_numpy()] = answer["n"].to_numpy()
        return counts

    # ---- ids

    def _id(self, table: str, column: str, kind: IdType, where: str = "") -> str:
        """A column's ids in their declared type, as SQL, of the rows `where`.

        Raises PrepareError for a text that is no integer.
        """
        name = quoted(column)
        if kind == "str":
            return f"CAST({name} AS STRING)"
        if self.columns[table][column] == "VARCHAR":
            wrong = self.rows(
                f"SELECT {name} FROM (SELECT {name} FROM {table} {where}) "
                f"WHERE NOT {self.engine.matches(name, INTEGER)} OR TRY_CAST({name} AS BIGINT) IS NULL LIMIT 1"
            )
            if wrong:
                raise PrepareError(
                    f"{table}: {column} {wrong[0][0]!r} given, features.toml declares int: whole numbers of 64 bits "
                    'are allowed; or declare it "str"'
                )
        return f"TRY_CAST({name} AS BIGINT)"  # of the rows `where` all are integers; others are not looked at

    def _entities(
        self, name: str, kind: IdType, seen: Sequence[tuple[str, ...]], features: Sequence[Feature]
    ) -> Entities:
        """Those of their own table and those that only the log names, by id.

        In the engine they are a table `<name>s`: id, row, key.
        """
        table = f"{name.removesuffix('_id')}s"
        own = self._id(table, name, kind)
        twice = self.rows(f"SELECT {own} FROM {table} GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 NULLS LAST LIMIT 1")
        if twice:
            raise PrepareError(f"{table}: {name} {twice[0][0]!r} stands twice")
        named = [f"SELECT {own} AS id FROM {table}"]
        for source, column, *where in seen:
            of = " ".join(where)
            named.append(f"SELECT DISTINCT {self._id(source, column, kind, of)} FROM {source} {of}")
        lacking = [f.name for f in features if f.name not in (*self.columns[table], "user_id", "item_id")]
        if lacking:
            raise PrepareError(
                f"{table} have no column {lacking[0]!r} that features.toml names; "
                f"there are {', '.join(self.columns[table])}"
            )
        self.engine.make(
            f"{name}s_by_row",
            "SELECT id, row_number() OVER (ORDER BY id) - 1 AS row "
            f"FROM (SELECT DISTINCT id FROM ({' UNION ALL '.join(named)}) WHERE id IS NOT NULL)",
        )
        columns = "".join(f", t.{quoted(f.name)}" for f in features if f.name not in ("user_id", "item_id"))
        frame = self.frame(
            f"SELECT n.id AS {name}{columns} FROM {name}s_by_row n LEFT JOIN (SELECT *, {own} AS {OWN} FROM {table}) t "
            f"ON n.id = t.{OWN} ORDER BY n.row"
        )
        entities = Entities(name, kind, frame)
        self._number(f"{name}s", entities.keys)
        return entities

    def _number(self, table: str, keys: Keys) -> None:
        """The table `<table>_by_row` with its rows' keys becomes `table`."""
        path = self.work / f"{table}_keys.parquet"
        # Not every engine has unsigned numbers: signed ones in the same order.
        signed = (keys ^ np.uint64(1 << 63)).view(np.int64)
        pl.DataFrame({"row": np.arange(len(keys)), "key": signed}).write_parquet(path)
        self.engine.open(f"{table}_keys", path)
        self.engine.make(table, f"SELECT id, row, key FROM {table}_by_row JOIN {table}_keys USING (row)")
        self.engine.drop(f"{table}_by_row")

    # ---- impressions

    def context(self, features: Sequence[Feature]) -> dict[str, Column | None]:
        """The distinct values of each context feature as a raw column, a missing one last.

        None: numbers that stand in the log as they are, for which the impressions carry the numbers themselves.
        """
        columns: dict[str, Column | None] = {}
        for place, feature in enumerate(features):
            if feature.name not in self.columns["impressions"]:
                raise PrepareError(
                    f"impressions have no column {feature.name!r} that features.toml names; "
                    f"there are {', '.join(self.columns['impressions'])}"
                )
            name = quoted(feature.name)
            if not feature.typed and self.columns["impressions"][feature.name] in _NUMBERS:
                largest = self.rows(
                    f"SELECT max(abs(CAST({name} AS DOUBLE))) FROM impressions WHERE {self.engine.known(name)}"
                )
                series_column(feature, pl.Series([largest[0][0]]))  # refuses what 32 bits cannot hold
                columns[feature.name] = None
                continue
            order = self.engine.order("value", self.columns["impressions"][feature.name])
            self.engine.make(
                f"context_{place}",
                f"SELECT value, row_number() OVER (ORDER BY {order}) - 1 AS code "
                f"FROM (SELECT DISTINCT {name} AS value FROM impressions WHERE {name} IS NOT NULL)",
            )
            values = self.frame(f"SELECT value FROM context_{place} ORDER BY code")["value"]
            columns[feature.name] = series_column(
                feature, pl.concat([values, pl.Series("value", [None], values.dtype)])
            )
        return columns

    def write_impressions(self, context: Sequence[tuple[str, bool]]) -> Path:
        """Sorted: user, item, time, label, `split` and KEPT where they are there, and c<n> of the n-th context feature.

        A context feature is (name, whether its impressions carry a code and not a number).
        """
        user = self._id("impressions", "user_id", self.schema.user_id)
        item = self._id("impressions", "item_id", self.schema.item_id.type)
        there = [name for name in ("split", *KEPT) if name in self.columns["impressions"]]
        chosen = [f"p.{name}" for name in there]
        joins = ""
        for place, (name, coded) in enumerate(context):
            column = f"p.{quoted(name)}"
            if coded:
                joins += f" LEFT JOIN context_{place} ON context_{place}.value = {column}"
                codes = f"(SELECT count(*) FROM context_{place})"
                chosen.append(f"CAST(coalesce(context_{place}.code, {codes}) AS INTEGER) AS c{place}")
            else:
                chosen.append(f"CASE WHEN {self.engine.known(column)} THEN CAST({column} AS DOUBLE) END AS c{place}")
        order = ["time", "user", "item", "label", *(f"c{place}" for place in range(len(context))), *there]
        self._shown = self.engine.write(
            f"SELECT CAST(u.row AS INTEGER) AS user, CAST(i.row AS INTEGER) AS item, p.timestamp AS time, "
            f"CAST(p.label AS TINYINT) AS label{''.join(f', {c}' for c in chosen)} "
            f"FROM (SELECT *, {user} AS {OWN_USER}, {item} AS {OWN} FROM impressions) p "
            f"JOIN user_ids u ON u.id = p.{OWN_USER} JOIN item_ids i ON i.id = p.{OWN}{joins} "
            f"ORDER BY {', '.join(f'{name} NULLS LAST' for name in order)}",
            "shown",
        )
        self.engine.open("shown", self._shown)
        return self._shown

    def write_shown(self) -> tuple[Path, Counts, int]:
        """Times of all impressions by user, and where each user's begin; how many there are."""
        path = self.engine.write("SELECT user, time FROM shown ORDER BY user, time", "shown_by_user")
        each = self.counted("SELECT user AS row, count(*) AS n FROM shown GROUP BY user", len(self.users))
        return path, _begins(each), int(each.sum())

    def exact_mean(self, column: str, where: str) -> tuple[float, float]:
        """Mean and deviation of a number, (0, 1) where there is none: the same bits in any order of the rows."""
        known = f"FROM shown WHERE {where} AND {column} IS NOT NULL"
        ((count, largest),) = self.rows(f"SELECT count(*), max(abs({column})) {known}")
        if not count:
            return 0.0, 1.0
        mean = self._exact_sum(column, known, largest) / count
        apart = f"({column} - {_double(float(mean))})"
        ((furthest,),) = self.rows(f"SELECT max({apart} * {apart}) {known}")
        variance = self._exact_sum(f"{apart} * {apart}", known, furthest) / count
        return float(mean), float(variance) ** 0.5 or 1.0

    def _exact_sum(self, expression: str, known: str, largest: float) -> Fraction:
        """A sum in fixed point of 88 bits for the largest value, in two halves, as engines have integers of 64.

        A half's sum has 38 digits, which leaves more rows than there may be.
        """
        places = 88 - frexp(largest)[1]
        scaled = f"({expression}) * {_double(2.0 ** (places // 2))} * {_double(2.0 ** (places - places // 2))}"
        half = _double(2.0**44)
        high, low = self.rows(
            "SELECT sum(CAST(high AS DECIMAL(20, 0))), "
            f"sum(CAST(CAST(floor(scaled - CAST(high AS DOUBLE) * {half}) AS BIGINT) AS DECIMAL(20, 0))) "
            f"FROM (SELECT scaled, CAST(floor(scaled / {half}) AS BIGINT) AS high FROM "
            f"(SELECT {scaled} AS scaled {known}))"
        )[0]
        return (Fraction(high) * 2**44 + Fraction(low)) / Fraction(2) ** places

    def days(self, time_zone: str) -> list[tuple[Any, int, int]]:
        """(day, impressions, first ms) of each calendar day of the zone, in order."""
        day = self.engine.day("time", time_zone)
        return self.rows(
            f"SELECT day, count(*), min(time) FROM (SELECT {day} AS day, time FROM shown) GROUP BY day ORDER BY day"
        )

    def tenths(self) -> tuple[int, int, int, int]:
        """Times (ms) of the first impression, of those where the last two tenths begin, and of the last."""
        count = self.count("shown")
        places = (0, count * 8 // 10, count * 9 // 10, count - 1)
        times = pl.scan_parquet(self._shown).select("time")
        at = [times.slice(place, 1).collect().item() for place in places]
        return at[0], at[1], at[2], at[3]

    def kept_type(self, name: str) -> npt.DTypeLike:
        return np.float64 if self.columns["impressions"][name] in ("FLOAT", "DOUBLE") else np.int64

    # ---- behaviours

    @property
    def groups(self) -> tuple[History | Group, ...]:
        return (self.schema.history, *self.schema.groups)

    def write_behaviours(self, group: History | Group, train: str) -> tuple[Behaviours, Keys]:
        """Those of [history] or of a [[group]], and their objects' keys; `train`: which of `shown` are training."""
        number = self.groups.index(group)
        where = _of_group(group.object_type, group.actions)
        user = self._id("behaviours", "user_id", self.schema.user_id)
        if isinstance(group, Group):
            own, objects = self._id("behaviours", "object_id", group.type, where), f"objects_{number}"
            keys = self._objects(group, own, where, objects)
        else:
            own, objects = self._id("behaviours", "object_id", self.schema.item_id.type, where), "item_ids"
            keys = self.items.keys
        acted = " ".join(f"WHEN {literal(action)} THEN {code}" for code, action in enumerate(group.actions, 1))
        path = self.engine.write(
            "SELECT CAST(u.row AS INTEGER) AS user, CAST(o.row AS INTEGER) AS object, time, acted FROM "
            f"(SELECT DISTINCT {user} AS own_user, {own} AS own, timestamp AS time, "
            f"CAST(CASE action {acted} END AS TINYINT) AS acted FROM behaviours {where}) b "
            f"JOIN user_ids u ON u.id = b.own_user JOIN {objects} o ON o.id = b.own "
            "ORDER BY u.row, time, o.key, acted",
            done := f"done_{number}",
        )
        self.engine.open(done, path)
        each = self.counted(f"SELECT user AS row, count(*) AS n FROM {done} GROUP BY user", len(self.users))
        seen = self.counted(
            f"SELECT b.object AS row, count(*) AS n FROM {done} b JOIN (SELECT user, max(time) AS last FROM shown "
            f"WHERE {train} GROUP BY user) s ON b.user = s.user WHERE b.time < s.last GROUP BY b.object",
            len(keys),
        )
        return Behaviours(path, done, _begins(each), seen, int(each.sum())), keys

    def _objects(self, group: Group, own: str, where: str, table: str) -> Keys:
        """Numbers a group's objects in the engine's table `table`; their keys."""
        self.engine.make(
            f"{table}_by_row",
            "SELECT id, row_number() OVER (ORDER BY id) - 1 AS row "
            f"FROM (SELECT DISTINCT {own} AS id FROM behaviours {where})",
        )
        keys = series_column(group.feature, self.frame(f"SELECT id FROM {table}_by_row ORDER BY row")["id"])
        self._number(table, keys)
        return keys

    # ---- what a summary tells

    def unused(self) -> dict[str, list[str]]:
        """Columns of each table that neither the data set's form nor features.toml names."""
        used = {"impressions": {"user_id", "item_id", "timestamp", "label", "split", "request_id", *KEPT}}
        used["impressions"] |= {feature.name for feature in self.schema.side("context")}
        used["users"] = {"user_id", *(feature.name for feature in self.schema.side("user"))}
        used["items"] = {"item_id", *(feature.name for feature in self.schema.side("item"))}
        used["behaviours"] = {"user_id", "action", "object_type", "object_id", "timestamp"}
        unused = {name: [c for c in self.columns[name] if c not in columns] for name, columns in used.items()}
        return {name: columns for name, columns in unused.items() if columns}

    def holes(self) -> dict[str, int]:
        """Elements of lists that hold nothing (["a", null]) and are left out, by table.column; those that have any."""
        holes: dict[str, int] = {}
        for side, table in (("user", "users"), ("item", "items"), ("context", "impressions")):
            for feature in self.schema.side(side):  # type: ignore[arg-type]
                if feature.listed and self.columns[table][feature.name].endswith("]"):
                    name = quoted(feature.name)
                    count = self.rows(f"SELECT coalesce(sum({self.engine.holes(name)}), 0) FROM {table}")[0][0]
                    holes |= {f"{table}.{feature.name}": int(count)} if count else {}
        return holes

    def unlisted(self, clicked: str) -> dict[str, dict[str, float]]:
        """By table of items and of users: share of the rows of each other table whose id it does not list.

        Of a table that holds no features nothing is lacking. `clicked` is the table of [history]'s behaviours.
        Raises PrepareError where ids are written otherwise: a table lists none of what was shown, or histories hold
        nothing that was.
        """
        places = (("item", "impressions", "shown", "item"), ("item", "behaviours", clicked, "object"))
        shares: dict[str, dict[str, float]] = {}
        for name, source, relation, column in (*places, ("user", "impressions", "shown", "user")):
            kind = self.schema.user_id if name == "user" else self.schema.item_id.type
            has_features = any(feature.name != f"{name}_id" for feature in self.schema.side(name))  # type: ignore[arg-type]
            own = self._id(f"{name}s", f"{name}_id", kind)
            listed = f"SELECT row FROM {name}_ids WHERE id IN (SELECT {own} FROM {name}s)"
            of = f"FROM (SELECT {column} AS row, count(*) AS n FROM {relation} GROUP BY {column}) s"
            ((known, rows),) = self.rows(
                f"SELECT coalesce(sum(n) FILTER (WHERE l.row IS NOT NULL), 0), coalesce(sum(n), 0) {of} "
                f"LEFT JOIN ({listed}) l ON s.row = l.row"
            )
            if rows and not known and source == "behaviours":
                self._refuse_strangers(of)
            elif rows and not known and has_features and self.count(f"{name}s"):
                table, shown = self._examples(name, f"({listed})", f"(SELECT row {of})")
                raise PrepareError(
                    f"{name}s describe none of those that were shown: they have {name}_id {table!r}, impressions "
                    f"{shown!r}; one way of writing an id is allowed"
                )
            if known < rows and has_features:
                shares.setdefault(f"{name}s", {})[source] = int(rows - known) / int(rows)
        return shares

    def _refuse_strangers(self, clicked: str) -> None:
        """Raises PrepareError where none of the items in histories is shown in any impression."""
        if self.rows(f"SELECT 1 {clicked} JOIN shown ON shown.item = s.row LIMIT 1"):
            return
        other, shown = self._examples("item", f"(SELECT row {clicked})", "(SELECT item AS row FROM shown)")
        raise PrepareError(
            f"none of the behaviours on {self.schema.history.object_type!r} is on an item of the log: behaviours have "
            f"object_id {other!r}, impressions item_id {shown!r}; one way of writing an item's id is allowed, or no "
            "history says anything of a candidate"
        )

    def _examples(self, name: str, *rows: str) -> list[Any]:
        """The least id among each of these rows of users or items."""
        return [self.rows(f"SELECT min(id) FROM {name}_ids JOIN {of} USING (row)")[0][0] for of in rows]

    def acted(self) -> list[tuple[str, str, int]]:
        """(object type, action, behaviours) of all that the log holds, the most frequent first."""
        kinds = "SELECT object_type, action, count(*) AS n FROM behaviours GROUP BY object_type, action"
        return self.rows(f"{kinds} ORDER BY n DESC, object_type, action")


_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "FLOAT", "DOUBLE")


def _begins(counts: Counts) -> Counts:
    """Where each one's begin, of so many of each."""
    begins = np.zeros(len(counts), np.int64)
    begins[1:] = np.cumsum(counts)[:-1]
    return begins


def _double(value: float) -> str:
    """A number as SQL, to the last bit: a plain literal is a decimal here, a double there."""
    return f"CAST('{value!r}' AS DOUBLE)"


def _of_group(object_type: str, actions: Sequence[str]) -> str:
    return f"WHERE object_type = {literal(object_type)} AND action IN ({', '.join(map(literal, actions))})"
