"""A user's own log: the four canonical tables (model/datasets/tables.py), checked and passed on.

`raw` holds `behaviours.parquet` and `impressions.parquet`, and may hold

    items.parquet, users.parquet   without them the ids that the log names, which then have no features
    meta.json                      {"time_zone": "Europe/Berlin"}: where its days begin and end; UTC without it
    features.toml                  the feature table, unless --features names one

Ids are integers or strings, of one type in all tables. Columns beyond those that are named here are passed on as they
are. A row with a missing id, a time that is not in milliseconds, or a label other than 0 and 1 is malformed, as is the
second row of an item or a user.
"""

import json
from pathlib import Path

import polars as pl

from model.datasets.tables import (
    ITEM,
    MS_ALLOWED,
    TABLES,
    BadLines,
    DataError,
    DataSet,
    MalformedLine,
    Options,
)
from model.features.behaviour import EARLIEST_MS, LATEST_MS

NAME = "parquet"
OPTIONS = ("map", "behaviours_from", "negatives")

IDS, TEXT, INTEGER, NUMBER, SWITCH = "integers or strings", "strings", "integers", "numbers", "integers or booleans"

COLUMNS = {  # what each table must have, and of what kind it is
    "behaviours": {"user_id": IDS, "action": TEXT, "object_type": TEXT, "object_id": IDS, "timestamp": INTEGER},
    "impressions": {"user_id": IDS, "item_id": IDS, "timestamp": INTEGER, "label": SWITCH},
    "items": {"item_id": IDS},
    "users": {"user_id": IDS},
}
OPTIONAL = {"watch_ms": INTEGER, "true_probability": NUMBER}  # of impressions
LIMITS = {  # lowest, highest, in words
    "timestamp": (EARLIEST_MS, LATEST_MS, MS_ALLOWED),
    "label": (0, 1, "0 or 1"),
    "watch_ms": (0, LATEST_MS, "0 or more"),
    "true_probability": (0, 1, "0 to 1"),
}


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the checked tables. Raises DataError, MalformedLine (with the row's number), OSError."""
    time_zone = _time_zone(raw / "meta.json")
    files = {name: raw / f"{name}.parquet" for name in TABLES if (raw / f"{name}.parquet").is_file()}
    missing = [f"{name}.parquet" for name in ("behaviours", "impressions") if name not in files]
    if missing:
        raise DataError(f"{raw} holds no {', '.join(missing)}; behaviours and impressions are needed")
    bad = BadLines(options.skip_bad)
    id_types: dict[str, tuple[pl.DataType, str]] = {}
    for name, path in files.items():
        try:
            _write_table(name, path, out / path.name, id_types, bad)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    for name in ("items", "users"):
        if name not in files:
            _ids_seen(f"{name[:-1]}_id", out).sink_parquet(out / f"{name}.parquet")
    return DataSet(NAME, time_zone, bad.count)


def _write_table(name: str, path: Path, out: Path, id_types: dict[str, tuple[pl.DataType, str]], bad: BadLines) -> None:
    table = pl.scan_parquet(path)
    schema = table.collect_schema()
    lacking = [column for column in COLUMNS[name] if column not in schema]
    if lacking:
        raise DataError(f"{path} has no column {', '.join(lacking)}; there are {', '.join(schema)}")
    optional = OPTIONAL if name == "impressions" else {}
    kinds = COLUMNS[name] | {column: kind for column, kind in optional.items() if column in schema}
    values: dict[str, pl.Expr] = {}
    faults: list[pl.Expr] = []
    for column, kind in kinds.items():
        dtype = _dtype(schema[column], kind)
        if dtype is None:
            raise DataError(f"{path}: {column} is {schema[column]}, {kind} are allowed")
        if kind == IDS:
            of = "user_id" if column == "user_id" else "item_id"
            first, where = id_types.setdefault(of, (dtype, f"{column} of {path.name}"))
            if first != dtype:
                raise DataError(f"{path}: {column} is {schema[column]}, but {where} is {first}; one type is allowed")
        values[column] = pl.col(column).cast(dtype, strict=False)
        lowest, highest, words = LIMITS.get(column, (None, None, kind))
        faults.append(_fault(column, values[column].is_null(), words))
        if lowest is not None:
            faults.append(_fault(column, ~values[column].is_between(lowest, highest), words))
    if name in ("items", "users"):
        (column,) = kinds
        again = pl.format(f"{column}: {{}} stands in an earlier row, one row each is allowed", pl.col(column))
        faults.append(pl.when(~pl.col(column).is_first_distinct()).then(again))
    reason = pl.coalesce(faults)

    malformed = (
        table.select(reason.alias("reason")).with_row_index("row", offset=1).filter(pl.col("reason").is_not_null())
    )
    for row, why in malformed.head(bad.allowed - bad.count + 1).collect(engine="streaming").iter_rows():
        bad.add(MalformedLine(path, row, why, unit="row"))
    if "label" in values:
        values["label"] = values["label"].cast(pl.Int8)
    table.filter(reason.is_null()).with_columns(**values).sink_parquet(out)


def _dtype(dtype: pl.DataType, kind: str) -> pl.DataType | None:
    """The canonical type of a column of a kind, None where its own type is not of that kind."""
    if dtype.is_integer() and kind in (IDS, INTEGER, SWITCH) or dtype == pl.Boolean and kind == SWITCH:
        return pl.Int64()
    if dtype in (pl.String, pl.Categorical, pl.Enum) and kind in (IDS, TEXT):
        return pl.String()
    if (dtype.is_integer() or dtype.is_float()) and kind == NUMBER:
        return pl.Float64()
    return None


def _fault(column: str, holds: pl.Expr, allowed: str) -> pl.Expr:
    shown = pl.col(column).cast(pl.String).fill_null("nothing")
    return pl.when(holds).then(pl.format(f"{column}: {{}} given, {allowed} are allowed", shown))


def _ids_seen(column: str, out: Path) -> pl.LazyFrame:
    behaviours, impressions = (pl.scan_parquet(out / f"{name}.parquet") for name in ("behaviours", "impressions"))
    if column == "item_id":
        behaviours = behaviours.filter(pl.col("object_type") == ITEM).rename({"object_id": column})
    return pl.concat([impressions.select(column), behaviours.select(column)]).unique(maintain_order=True)


def _time_zone(path: Path) -> str:
    if not path.is_file():
        return "UTC"
    text = path.read_text()
    try:
        time_zone: str = json.loads(text)["time_zone"]
        pl.Series([0]).cast(pl.Datetime("ms", time_zone))  # polars has its own list of zones, and splits by it
    except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
        allowed = '{"time_zone": "Europe/Berlin"} or another IANA name'
        raise DataError(f"{path}: {text[:100]!r} given, {allowed} is allowed") from None
    return time_zone
