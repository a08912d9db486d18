"""Where a log becomes numbers: DuckDB on this machine (onduckdb.py), or Spark on many (onspark.py).

Both run the same SQL, numbered.py's, which keeps to what they read alike; what they say differently is a method here.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from model.prepared.slices import Plan, Seen


class Engine(Protocol):
    """Tables by name, and queries of them, which run within `queries()`; then the encoding of what they wrote."""

    def queries(self) -> AbstractContextManager[None]:
        """Raises PrepareError for what the engine refuses."""

    def open(self, name: str, path: Path) -> dict[str, str]:
        """A table that a file holds, or the files of a pattern; its columns with their types as DuckDB calls them."""

    def make(self, name: str, query: str) -> None:
        """A table of a query's rows."""

    def drop(self, name: str) -> None:
        """Forgets a table that was made."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A few rows."""

    def write(self, query: str, name: str) -> Path:
        """A query's rows as Parquet in their order: a file, or a pattern of files, for polars and `open`."""

    def frame(self, query: str) -> pl.DataFrame:
        """A query's rows, as many as this process can hold."""

    def progress(self, what: str) -> AbstractContextManager[None]:
        """Shows how far the queries are that run meanwhile."""

    def encode(self, plan: Plan, count: int) -> Seen:
        """Fills the arrays of `count` impressions."""

    # ---- what they say differently, as SQL

    def matches(self, text: str, pattern: str) -> str:
        """A text is of a form."""

    def known(self, number: str) -> str:
        """A number is there, and is one."""

    def holes(self, of: str) -> str:
        """How many elements of a list hold nothing."""

    def order(self, value: str, type: str) -> str:
        """What values of a type are sorted by: texts by their bytes, and in lists what holds nothing comes last."""

    def day(self, ms: str, time_zone: str) -> str:
        """The calendar day of a time."""
