"""Users and items of the log: what another data set's tables say of them, and over it what the log last knew.

What the log knows is the store's text, or a request's JSON. A column of which it knows something becomes text, as the
store has it; a feature reads it by the function that serves.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl

from model.engine import literal, quoted
from model.features.ids import BadValue
from model.features.kinds import ITEM_ID, USER_ID, Feature

IDS = (ITEM_ID, USER_ID)


class Entities:
    """A table of users or items (`name` is its id). `base`: that of another data set."""

    def __init__(self, con: duckdb.DuckDBPyConnection, name: str, features: Sequence[Feature], base: Path | None):
        self.con, self.name, self.base = con, name, base
        self.features = [feature for feature in features if feature.name not in IDS]
        self.notes: list[str] = []
        self.unknown: list[str] = []  # features of which neither base nor log says anything

    def write(self, known: str, out: Path) -> None:
        """Writes the table. `known`: a query of id, time, `named` (JSON by feature) and `whole`: others are gone."""
        frame = self._own()
        absent = [feature.name for feature in self.features if feature.name not in frame.columns]
        frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in absent)
        newer = self._newest(known, out.with_name(f"newest-{out.name}"))
        named = [f for f in self.features if newer is not None and newer[f.name].null_count() < len(newer)]
        self.unknown = [name for name in absent if name not in {feature.name for feature in named}]
        if newer is not None and named:
            frame = self._joined(frame, newer, named)
        frame.write_parquet(out)

    def _own(self) -> pl.DataFrame:
        if self.base is None:
            return pl.DataFrame(schema={self.name: pl.String})
        frame = pl.read_parquet(self.base, memory_map=False)
        there = [feature.name for feature in self.features if feature.name in frame.columns]
        return frame.select(pl.col(self.name).cast(pl.String), *there)

    def _newest(self, known: str, to: Path) -> pl.DataFrame | None:
        """Of each id its newest value of each feature, as {"text": …}; null: the log never named it."""
        if not self.features:
            return None
        values = []
        for feature in self.features:
            path = literal(f'$."{feature.name}"')
            values.append(
                f"arg_max({{'text': json_extract_string(named, {path})}}, time) "
                f"FILTER (whole OR json_exists(named, {path})) AS {quoted(feature.name)}"
            )
        query = f"SELECT CAST(id AS VARCHAR) AS {self.name}, {', '.join(values)} FROM ({known}) GROUP BY id"
        self.con.execute(f"COPY ({query}) TO {literal(str(to))} (FORMAT parquet)")
        try:
            return pl.read_parquet(to, memory_map=False)
        finally:
            to.unlink()

    def _joined(self, frame: pl.DataFrame, newer: pl.DataFrame, named: Sequence[Feature]) -> pl.DataFrame:
        frame = frame.with_columns(_as_text(feature, frame[feature.name]) for feature in named)
        texts = newer.select(
            self.name,
            *(pl.col(f.name).is_not_null().alias(f"named:{f.name}") for f in named),
            *(self._sound(f, newer[f.name].struct.field("text")).alias(f"text:{f.name}") for f in named),
        )
        both = frame.join(texts, on=self.name, how="full", coalesce=True)
        newest = (
            pl.when(f"named:{f.name}").then(pl.col(f"text:{f.name}")).otherwise(f.name).alias(f.name) for f in named
        )
        return both.with_columns(newest).select(self.name, *(feature.name for feature in self.features))

    def _sound(self, feature: Feature, texts: pl.Series) -> pl.Series:
        """Texts without those that the feature cannot hold, which serving leaves out too."""
        wrong = [text for text in texts.drop_nulls().unique().to_list() if not _fits(feature, text)]
        if wrong:
            count = int(texts.is_in(wrong).sum())
            self.notes.append(
                f"{count} values of {feature.name} in the log are none of its type, as {wrong[0][:40]!r}: missing, as "
                "in serving"
            )
        return texts.set(texts.is_in(wrong).fill_null(False), None)


def _fits(feature: Feature, text: str) -> bool:
    try:
        feature.column([feature.from_text(text)])
    except BadValue:
        return False
    return True


def _as_text(feature: Feature, series: pl.Series) -> pl.Series:
    """A table's column as the store would have it."""
    if feature.listed:
        return pl.Series(feature.name, [feature.stored(value) for value in series.to_list()], pl.String)
    distinct = series.drop_nulls().unique().to_list()
    texts = [feature.stored(value) for value in distinct]
    return series.replace_strict(distinct, texts, default=None, return_dtype=pl.String)
