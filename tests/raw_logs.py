"""Raw logs as files, and the canonical tables that a data set makes of them."""

import gzip
from pathlib import Path
from types import ModuleType

import polars as pl

from model.datasets.tables import TABLES, DataSet, Options

Tables = dict[str, pl.DataFrame]


def canonical(module: ModuleType, raw: Path, out: Path, **options) -> tuple[DataSet, Tables]:
    out.mkdir(parents=True)
    log = module.write_tables(raw, out, Options(**options))
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.parquet" for name in TABLES)
    return log, {name: pl.read_parquet(out / f"{name}.parquet") for name in TABLES}


def write(path: Path, content: str | bytes) -> Path:
    """Packed where the name ends in .gz; gives the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(plain) if path.suffix == ".gz" else plain)
    return path.parent
