"""Numbering on DuckDB and encoding in processes, both of this machine."""

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from model.cores import cores
from model.datasets.tables import Options
from model.engine import engine, first_line, literal, progress
from model.prepared.entities import PrepareError
from model.prepared.slices import SLICE, Plan, Seen, encode_slices


class DuckDb:
    """In this process; files in the folder `work`."""

    _connection: duckdb.DuckDBPyConnection

    def __init__(self, how: Options, work: Path):
        self._how, self._work = how, work

    @contextmanager
    def queries(self) -> Iterator[None]:
        try:
            with engine(self._work, self._how.memory_gib) as self._connection:
                yield
        except duckdb.OutOfMemoryException as error:
            raise PrepareError(
                f"more memory is needed than {self._how.memory_gib:g} GiB, --memory allows it: {first_line(error)}"
            ) from None
        except duckdb.Error as error:
            raise PrepareError(f"the engine gave up: {first_line(error)}") from None

    def open(self, name: str, path: Path) -> dict[str, str]:
        self._connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({literal(str(path))})")
        return {column: str(kind) for column, kind, *_ in self.rows(f"DESCRIBE {name}")}

    def make(self, name: str, query: str) -> None:
        self._connection.execute(f"CREATE TABLE {name} AS {query}")

    def drop(self, name: str) -> None:
        self._connection.execute(f"DROP TABLE {name}")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    def write(self, query: str, name: str) -> Path:
        path = self._work / f"{name}.parquet"
        self._connection.execute(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, ROW_GROUP_SIZE 250000)")
        return path

    def frame(self, query: str) -> pl.DataFrame:
        return pl.read_parquet(self.write(query, "frame"), memory_map=False)

    def progress(self, what: str) -> AbstractContextManager[None]:
        return progress(self._connection, what)

    def encode(self, plan: Plan, count: int) -> Seen:
        parts = min(self._how.parts or -(-count // SLICE), count)
        try:
            return encode_slices(plan, count, parts, min(self._how.processes or cores(), parts))
        except BrokenProcessPool:
            raise PrepareError(
                "a process that encodes was ended from outside, for its memory? --processes 1 takes least"
            ) from None

    def matches(self, text: str, pattern: str) -> str:
        return f"regexp_matches({text}, {literal(pattern)})"

    def known(self, number: str) -> str:
        """DuckDB answers isnan from Parquet's statistics, which know of no NaN, but not these two."""
        return f"(isfinite(CAST({number} AS DOUBLE)) OR isinf(CAST({number} AS DOUBLE)))"

    def holes(self, of: str) -> str:
        return f"(len({of}) - list_count({of}))"

    def order(self, value: str, type: str) -> str:
        return value

    def day(self, ms: str, time_zone: str) -> str:
        return f"CAST(epoch_ms({ms}) AT TIME ZONE 'UTC' AT TIME ZONE {literal(time_zone)} AS DATE)"
