"""A small log of one's own, written in any form, read as prepare reads it."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model.datasets import parquet
from model.datasets.tables import TABLES, DataError, DataSet, Options
from model.features import schema as features_toml

NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC
DAY = 86_400_000

FEATURES: dict[str, Any] = {
    "user_id": "int",
    "history": {"actions": ["click"]},
    "feature": [
        {"name": "item_id", "side": "item", "kind": "id", "type": "int", "sequence_width": 4},
        {"name": "price", "side": "item", "kind": "number", "transform": "log"},
        {"name": "brand", "side": "item", "kind": "category", "type": "int"},
        {"name": "title", "side": "item", "kind": "category", "type": "str"},
        {"name": "tags", "side": "item", "kind": "multi", "type": "str", "max_values": 3},
        {"name": "slot", "side": "context", "kind": "category", "type": "int", "default": 1},
    ],
}
SCHEMA = features_toml.parse(FEATURES)


def schema_of(user: str = "int", item: str = "int") -> features_toml.Schema:
    first, *others = FEATURES["feature"]
    return features_toml.parse(FEATURES | {"user_id": user, "feature": [first | {"type": item}, *others]})


def own_tables() -> dict[str, pl.DataFrame]:
    """Ids, times and values that every type in the tests below can hold."""
    return {
        "impressions": pl.DataFrame(
            {
                "user_id": [7, 8, 7, 8],
                "item_id": [1, 2, 3, 1],
                "timestamp": [NOON, NOON + DAY, NOON + DAY, NOON + 2 * DAY],
                "label": [1, 0, 0, 1],
                "slot": [1, 2, None, 1],
            }
        ),
        "behaviours": pl.DataFrame(
            {
                "user_id": [7, 8],
                "action": ["click", "click"],
                "object_type": ["item", "item"],
                "object_id": [1, 2],
                "timestamp": [NOON - DAY, NOON - DAY],
            }
        ),
        "items": pl.DataFrame(
            {
                "item_id": [1, 2, 3],
                "price": [0.5, None, 12.25],
                "brand": [21, None, 22],
                "title": ['a "quoted", one', "two\nlines", "drei €"],
                "tags": [["x", None], [], ["y", "z"]],
            }
        ),
        "users": pl.DataFrame({"user_id": [7, 8]}),
    }


def write(raw: Path, tables: dict[str, pl.DataFrame]) -> Path:
    raw.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(raw / f"{name}.parquet")
    return raw


def read(
    raw: Path, out: Path, schema: features_toml.Schema | None = SCHEMA, **options: Any
) -> tuple[DataSet, dict[str, pl.DataFrame]]:
    out.mkdir()
    made = parquet.write_tables(raw, out, Options(memory_gib=0.5, **options), schema)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.parquet" for name in TABLES)
    return made, {name: pl.read_parquet(out / f"{name}.parquet") for name in TABLES}


def refusal(raw: Path, out: Path, schema: features_toml.Schema | None = SCHEMA, **options: Any) -> str:
    with pytest.raises(DataError) as refused:
        read(raw, out, schema, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def canonical_tables() -> dict[str, pl.DataFrame]:
    own = own_tables()
    own["impressions"] = own["impressions"].with_columns(pl.col("label").cast(pl.Int8))
    return own


def assert_canonical(tables: dict[str, pl.DataFrame]) -> None:
    for name, table in canonical_tables().items():
        assert tables[name].equals(table) and tables[name].schema == table.schema, name


# --- formats ------------------------------------------------------------------------------------------------------


def as_text(table: pl.DataFrame) -> pl.DataFrame:
    """Lists as JSON, which is how text holds them."""
    lists = [name for name, dtype in table.schema.items() if dtype == pl.List]
    return table.with_columns(
        pl.Series(name, [json.dumps(values) for values in table[name].to_list()]) for name in lists
    )


def csv_bytes(table: pl.DataFrame, separator: str = ",") -> bytes:
    return as_text(table).write_csv(separator=separator).encode()


def parts(folder: Path, table: pl.DataFrame, suffix: str, to: Callable[[pl.DataFrame, Path], Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    (folder / f".part-0.{suffix}.crc").write_bytes(b"crc")
    for number, row in enumerate(range(0, len(table), 1), 8):  # 8, 9, 10, 11: by number, not by letter
        to(table[row : row + 1], folder / f"part-{number}.{suffix}")


def csv_parts(folder: Path, table: pl.DataFrame) -> None:
    parts(folder, table, "csv", lambda part, path: path.write_bytes(csv_bytes(part)))


WRITERS: dict[str, Callable[[Path, str, pl.DataFrame], Any]] = {
    "parquet": lambda raw, name, table: table.write_parquet(raw / f"{name}.parquet", row_group_size=1),
    "folder of Spark": lambda raw, name, table: parts(
        raw / f"{name}.parquet", table, "snappy.parquet", lambda part, path: part.write_parquet(path)
    ),
    "folder without a suffix": lambda raw, name, table: parts(
        raw / name / "deeper", table, "parquet", lambda part, path: part.write_parquet(path)
    ),
    "csv": lambda raw, name, table: (raw / f"{name}.csv").write_bytes(csv_bytes(table)),
    "csv of Excel": lambda raw, name, table: (raw / f"{name}.csv").write_bytes(
        b"\xef\xbb\xbf" + csv_bytes(table, ";").replace(b"\n", b"\r\n").replace(b"two\r\nlines", b"two\nlines")
    ),
    "csv, blank lines, no last end": lambda raw, name, table: (raw / f"{name}.csv").write_bytes(
        csv_bytes(table).replace(b"\n", b"\n\n", 1).rstrip(b"\n")
    ),
    "csv.gz in two members": lambda raw, name, table: (raw / f"{name}.csv.gz").write_bytes(
        gzip.compress(csv_bytes(table)[:40]) + gzip.compress(csv_bytes(table)[40:])
    ),
    "tsv": lambda raw, name, table: (raw / f"{name}.tsv").write_bytes(csv_bytes(table, "\t")),
    "folder of csv": lambda raw, name, table: csv_parts(raw / f"{name}.csv", table),
    "jsonl": lambda raw, name, table: table.write_ndjson(raw / f"{name}.jsonl"),
    "json, blank lines and a mark": lambda raw, name, table: (raw / f"{name}.json").write_bytes(
        b"\xef\xbb\xbf" + table.write_ndjson().replace("\n", "\r\n  \n\n").encode()
    ),
    "ndjson.gz": lambda raw, name, table: (raw / f"{name}.ndjson.gz").write_bytes(
        gzip.compress(table.write_ndjson().encode())
    ),
    "folder of jsonl": lambda raw, name, table: parts(
        raw / name, table, "jsonl", lambda part, path: part.write_ndjson(path)
    ),
}
