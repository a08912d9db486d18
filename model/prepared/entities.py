"""Users or items with their rows and columns: how a table of them becomes what encoding and catalogue are made of.

The one way there, for `prepare` (a log's tables) and `catalog` (items that change under a running service).
"""

import numpy as np
import polars as pl

from model.features.ids import BadValue, IdType, keys
from model.features.kinds import ITEM_ID, USER_ID, Column, Feature


class PrepareError(ValueError):
    """A log or a table that cannot be prepared; one line that says why."""


class Entities:
    """Users or items of a table, a row each. Raises PrepareError for an id of another type or that stands twice."""

    def __init__(self, name: str, kind: IdType, table: pl.DataFrame):
        self.name, self.kind = name, kind
        self.frame = table.with_columns(self._cast(table_series(table, name, self.table_name)))
        repeated = self.frame[name].filter(self.frame[name].is_duplicated())
        if len(repeated):
            raise PrepareError(f"{self.table_name}: {name} {repeated[0]!r} stands twice")
        self.ids = self.frame[name]
        self.keys = keys(self.ids.to_numpy() if kind == "int" else self.ids.to_list(), kind)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def table_name(self) -> str:
        return f"{self.name.removesuffix('_id')}s"

    def column(self, feature: Feature) -> Column:
        if feature.name in (ITEM_ID, USER_ID):
            return self.keys
        return series_column(feature, table_series(self.frame, feature.name, self.table_name))

    def _cast(self, ids: pl.Series) -> pl.Series:
        try:
            return ids.cast(pl.Int64 if self.kind == "int" else pl.String).alias(self.name)
        except pl.exceptions.InvalidOperationError as error:
            raise PrepareError(f"{self.name} is declared {self.kind}: {error}") from None


def series_column(feature: Feature, series: pl.Series) -> Column:
    """A table's column as raw column: each distinct value goes through the function that serving uses."""
    try:
        if series.dtype.is_nested() and not feature.listed:
            allowed = {"int": "an integer", "str": "a string"}[feature.type] if feature.typed else "a number"
            raise BadValue(f"{series.dtype} given, {allowed} is allowed; kind multi holds lists")
        if not feature.repeats:
            plain = series.dtype.is_float() or series.dtype.is_integer()  # as `column` takes it
            return feature.column(series.to_list() if plain else [feature.from_table(v) for v in series.to_list()])
        distinct = series.drop_nulls().unique().sort()
        codes = series.to_frame("v").join(
            pl.DataFrame({"v": distinct, "code": np.arange(len(distinct))}), on="v", how="left", maintain_order="left"
        )["code"]
        values = feature.column([*map(feature.from_table, distinct.to_list()), None])
        return np.take(values, codes.fill_null(len(distinct)).to_numpy())
    except BadValue as error:
        raise PrepareError(f"column {feature.name}: {error}") from None


def table_series(frame: pl.DataFrame, name: str, table: str) -> pl.Series:
    if name not in frame.columns:
        raise PrepareError(
            f"{table} have no column {name!r} that features.toml names; there are {', '.join(frame.columns)}"
        )
    return frame[name]
