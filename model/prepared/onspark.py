"""Numbering and encoding on Spark: the same SQL and the same functions as on one machine, hence the same bytes.

Executors read and write the folder of the prepared data themselves, so they and this process share its storage. A task
that Spark runs twice writes the same bytes to the same places.
"""

import os
import pickle
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from model.datasets.tables import Options
from model.engine import literal
from model.prepared.entities import PrepareError
from model.prepared.slices import SLICE, Plan, Seen, edges, encode_slice
from model.spark import SparkError, progress, session

TYPES = {  # as DuckDB calls them
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "tinyint": "TINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
}
TOLD = "told binary"  # what a task gives back


class Spark:
    """On a session; tables that are made are Parquet files in the folder `work`."""

    def __init__(self, of: Any, work: Path, how: Options):
        self._session, self._work, self._how = of, work, how

    def queries(self) -> AbstractContextManager[None]:
        return nullcontext()  # the session has them too that encode

    def open(self, name: str, path: Path) -> dict[str, str]:
        frame = self._session.read.parquet(_url(path))
        frame.createOrReplaceTempView(name)
        return {field.name: _type(field.dataType) for field in frame.schema.fields}

    def make(self, name: str, query: str) -> None:
        self.open(name, self.write(query, name))

    def drop(self, name: str) -> None:
        self._session.catalog.dropTempView(name)
        shutil.rmtree(self._work / f"{name}.parquet")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._session.sql(query).collect()]

    def write(self, query: str, name: str) -> Path:
        folder = self._work / f"{name}.parquet"
        # A sorted query's files are numbered in its order.
        self._session.sql(query).write.mode("overwrite").parquet(_url(folder))
        return folder / "*.parquet"

    def frame(self, query: str) -> pl.DataFrame:
        return pl.read_parquet(self.write(query, "frame"), memory_map=False)

    def progress(self, what: str) -> AbstractContextManager[None]:
        return progress(self._session, what)

    def encode(self, plan: Plan, count: int) -> Seen:
        least = min(count, self._session.sparkContext.defaultParallelism)
        parts = min(count, self._how.parts or max(least, -(-count // SLICE)))
        with self.progress("encoding"):
            told = self._each(parts, partial(_encoded, plan, edges(count, parts)))
        every: list[Seen] = [pickle.loads(one) for one in told]
        return sum(every[1:], every[0])

    def look_around(self) -> None:
        """Raises SparkError where executors cannot encode: told before the queries, not hours later."""
        mark = self._work / "shared"
        mark.touch()
        for answer in self._each(2 * self._session.sparkContext.defaultParallelism, partial(_sees, mark)):
            if answer:
                raise SparkError(
                    f"the executor on {answer.decode()} does not see the folder of --out: it must be on storage that "
                    "this machine and all executors share, under one path"
                )

    def _each(self, tasks: int, function: Any) -> list[bytes]:
        """What a function of a task's number gives, from each of so many tasks."""
        numbers = self._session.range(0, tasks, 1, tasks)
        return [bytes(told) for (told,) in numbers.mapInArrow(partial(_batches, function), TOLD).collect()]

    def matches(self, text: str, pattern: str) -> str:
        return f"{text} RLIKE {literal(pattern)}"

    def known(self, number: str) -> str:
        return f"({number} IS NOT NULL AND NOT isnan(CAST({number} AS DOUBLE)))"

    def holes(self, of: str) -> str:
        return f"(size({of}) - size(array_compact({of})))"

    def order(self, value: str, type: str) -> str:
        return f"transform({value}, e -> struct(e IS NULL, e))" if type.endswith("]") else value

    def day(self, ms: str, time_zone: str) -> str:
        return f"to_date(from_utc_timestamp(timestamp_millis({ms}), {literal(time_zone)}))"


@contextmanager
def on_spark(how: Options, work: Path) -> Iterator[Spark]:
    """Spark as the options say. Raises PrepareError."""
    try:
        with session(how.master, how.memory_gib, work) as of:
            spark = Spark(of, work, how)
            spark.look_around()
            yield spark
    except SparkError as error:
        raise PrepareError(str(error)) from None


def _url(path: Path) -> str:
    return f"file://{path}"  # whatever file system a cluster takes for its own


def _type(kind: Any) -> str:
    if kind.typeName() == "array":
        return f"{_type(kind.elementType)}[]"
    name: str = kind.simpleString()
    return TYPES.get(name, name.upper())


# ---- what runs in the executors' Python processes


def _batches(function: Any, batches: Iterator[Any]) -> Iterator[Any]:
    import pyarrow

    for batch in batches:
        told = [function(number) for number in batch.column(0).to_pylist()]
        yield pyarrow.RecordBatch.from_arrays([pyarrow.array(told, pyarrow.binary())], ["told"])


def _encoded(plan: Plan, pieces: list[tuple[int, int]], number: int) -> bytes:
    return pickle.dumps(encode_slice(plan, *pieces[number]))


def _sees(mark: Path, number: int) -> bytes:
    """The host where the file is not seen; nothing where it is."""
    return b"" if os.path.exists(mark) else socket.gethostname().encode()
