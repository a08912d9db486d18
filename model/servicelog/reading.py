"""The tables of a drained log as files to read, checked before anything is made of them.

A folder is read where it lies. Of a URL (s3://, gs://) the table library fetches the files into a folder first.
"""

from collections.abc import Callable, Container, Sequence
from pathlib import Path

import polars as pl

from model.servicelog.tables import ADDED, SCHEMAS

NEEDED = ("impressions",)  # a log without one tells nothing; of the others there may be none yet


class LogError(ValueError):
    """A log that cannot be read; one line that says which file, what is there and what is needed."""


def is_url(root: Path | str) -> bool:
    return "://" in str(root)


def files(root: Path | str, work: Path, wanted: Callable[[str, str], bool] = lambda table, day: True) -> "Files":
    """The files of each table, in order. `wanted`: whether those of a table's day are (2026-11-27, or empty).

    Raises LogError, OSError.
    """
    found: Files = {}
    for table in SCHEMAS:
        paths = _remote(str(root), table, work, wanted) if is_url(root) else _local(Path(root), table, wanted)
        for path in paths:
            check(path, table)
        found[table] = paths
    if not any(found.values()) and not is_url(root) and not Path(root).is_dir():
        raise LogError(f"{root} is no folder; one that service.drain filled is needed")
    for table in NEEDED:
        if not found[table]:
            raise LogError(
                f"{root} holds no {table}: {table}/day=2026-11-27/….parquet is needed, as python -m service.drain "
                f"--out writes it"
            )
    return found


Files = dict[str, list[Path]]


def check(path: Path, table: str) -> None:
    """Raises LogError for a file that is none of this table's: cut off, or of another version."""
    try:
        columns = pl.read_parquet_schema(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise LogError(f"{path}: no whole Parquet file: {_first_line(error)}") from None
    needed = SCHEMAS[table]
    absent = _absent(table, columns)
    if absent:
        raise LogError(
            f"{path}: no column {', '.join(absent)}; {table} of another version? This release reads "
            f"{', '.join(needed)}, there are {', '.join(columns)}"
        )
    for name, kind in needed.items():
        if name in columns and columns[name] != kind and not _holds(kind, columns[name]):
            raise LogError(f"{path}: column {name} is {columns[name]}, {kind} is needed")


def _absent(table: str, columns: Container[str]) -> list[str]:
    return [name for name in SCHEMAS[table] if name not in columns and name not in ADDED.get(table, {})]


def _holds(needed: pl.DataType, there: pl.DataType) -> bool:
    """Whether a nested column has all fields that are needed, and maybe more; an empty table's may be null."""
    if there == pl.Null:
        return True
    if isinstance(needed, pl.List) and isinstance(there, pl.List):
        return _holds(needed.inner, there.inner)  # type: ignore[arg-type]
    if isinstance(needed, pl.Struct) and isinstance(there, pl.Struct):
        own = {field.name: field.dtype for field in there.fields}
        return all(f.name in own and _holds(f.dtype, own[f.name]) for f in needed.fields)  # type: ignore[arg-type]
    return needed == there


def _local(root: Path, table: str, wanted: Callable[[str, str], bool]) -> list[Path]:
    folder = root / table
    below = sorted(folder.rglob("*.parquet")) if folder.is_dir() else []
    names = [(path, path.relative_to(folder).parts) for path in below]
    return [path for path, parts in names if not any(p[0] in "._" for p in parts) and wanted(table, _day(parts))]


def _day(parts: Sequence[str]) -> str:
    return next((part.removeprefix("day=") for part in parts if part.startswith("day=")), "")


def _remote(root: str, table: str, work: Path, wanted: Callable[[str, str], bool]) -> list[Path]:
    """One file, fetched: its rows are those of the days that are wanted."""
    path = work / f"{table}.parquet"
    pattern = f"{root.rstrip('/')}/{table}/**/*.parquet"
    try:
        scan = pl.scan_parquet(pattern, hive_partitioning=False, include_file_paths="file", extra_columns="ignore")
        names = scan.select(pl.col("file").unique()).collect()["file"].to_list()
        chosen = [name for name in names if wanted(table, _day(name.split("/")))]
        parts = [_whole(name, table) for name in chosen] or [pl.LazyFrame(schema=SCHEMAS[table])]
        pl.concat(parts).sink_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        if "expanded paths were empty" in str(error):
            return []
        raise LogError(f"{pattern}: {_first_line(error)}") from None
    return [path]


def _whole(file: str, table: str) -> pl.LazyFrame:
    """All columns, also those that are newer than the file."""
    scan = pl.scan_parquet(file, hive_partitioning=False)
    columns = scan.collect_schema()
    absent = _absent(table, columns)
    if absent:
        raise LogError(f"{file}: no column {', '.join(absent)}; {table} of another version?")
    added = [pl.lit(of, pl.Int64).alias(name) for name, of in ADDED.get(table, {}).items() if name not in columns]
    return scan.with_columns(added).select(list(SCHEMAS[table]))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
