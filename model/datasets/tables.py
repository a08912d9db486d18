"""The four canonical tables, what their makers share, and the errors that stop them.

Every data set module has `write_tables(raw, out, options) -> DataSet`, which writes into the folder `out`

    behaviours.parquet    user_id, action, object_type, object_id, timestamp
    impressions.parquet   user_id, item_id, timestamp, label, context columns; where known: watch_ms, request_id,
                          true_probability; split, where days do not decide it (Int8: TRAIN, VALIDATION, TEST)
    items.parquet         item_id, one row each, any feature columns (a multi-valued feature is a list)
    users.parquet         user_id, likewise

Ids are Int64 or String, as the log has them; timestamps int64 milliseconds since 1970 UTC; labels int8, 0 or 1.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import polars as pl

from model.features.behaviour import MS_ALLOWED as MS_ALLOWED  # for the data sets
from model.options import Count, Natural, NotNegative, Positive, check

TABLES = ("behaviours", "impressions", "items", "users")
TRAIN, VALIDATION, TEST = range(3)  # of the column `split`, in the order of model/prepared/splits.py's SPLITS
AS_USED = (
    "shown_today_as_used"  # of impressions: those of its day that a request found in the store; -1: it did not say
)
BOM = b"\xef\xbb\xbf"  # with which editors mark UTF-8
ITEM = "item"  # the type of object that all behaviours of these data sets have


class DataError(ValueError):
    """A log that cannot be read; one line that says which file, what was given and what is allowed."""


class MalformedLine(DataError):
    """One record of a log that its format does not allow: where it stands and why. `unit` is line, or row of a table.

    Lines are counted from 1 with the header, rows of a Parquet table from 1.
    """

    def __init__(self, file: Path, line: int, reason: str, unit: str = "line"):
        super().__init__(f"{file}, {unit} {line}: {reason}")
        self.file, self.line, self.reason = file, line, reason


class BadLines:
    """Counts the malformed lines of a whole data set; the one after the last allowed is raised."""

    def __init__(self, allowed: int):
        self.allowed, self.count = allowed, 0

    def add(self, error: MalformedLine) -> None:
        if self.count >= self.allowed:
            raise error
        self.count += 1


COMMON = ("skip_bad", "seed", "delay_s", "memory_gib", "processes", "parts", "engine", "master")


@dataclass(frozen=True)
class Options:
    """COMMON are for all data sets; a data set names the others that it has in its `OPTIONS`."""

    skip_bad: Natural = 0  # malformed lines that are passed over, in all files of the data set together
    seed: Natural = 1  # of a world that is drawn and its log, and of the negatives that are drawn
    delay_s: NotNegative = 0.0  # behaviours newer than this before an impression are not known yet
    impressions: Count = 1_000_000  # simulated, chain: of the log that is drawn
    ties: Literal["strict", "published"] = "strict"  # amazon: of one day's reviews, none or the file's earlier ones
    map: tuple[str, ...] = ()  # parquet: columns under other names: impressions.ts=timestamp
    behaviours_from: Literal["tables", "impressions"] = "tables"  # parquet: or every clicked impression is a behaviour
    negatives: Natural = 0  # parquet: of a log of positives alone, so many are drawn for each
    base: Path | None = None  # service_log: a prepared data set with features of items and earlier behaviours
    shown: Literal["returned", "confirmed"] = "returned"  # service_log: what is an impression
    window_s: NotNegative = 1800.0  # service_log: a click so long after its impression is no positive
    label: str | None = None  # service_log: the action that is a positive; None: click, or the first of [history]
    memory_gib: Positive = 4.0  # that reading and encoding may take; more is spilled to the disk
    processes: Natural = 0  # that encode; 0: one a core
    parts: Natural = 0  # of the impressions, encoded one after another by each process; 0: of 500,000 each
    engine: Literal["duckdb", "spark"] = "duckdb"  # that numbers and encodes; no byte written depends on it
    master: str | None = None  # spark: local[N], spark://HOST:PORT, yarn, k8s://URL; None: this machine's cores

    def __post_init__(self) -> None:
        check(self, "options of the data set")


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a text file, of a packed one (.gz) those in it. Raises DataError where a packed one is broken."""
    packed: Any = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
    with packed as file:
        try:
            yield file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: broken gzip file: {error}") from None


@dataclass(frozen=True)
class DataSet:
    name: str
    time_zone: str  # of its days: an IANA name
    bad_lines: int = 0  # how many were passed over
    notes: tuple[str, ...] = ()  # what whoever reads a result must know, a sentence each
    drawn_negatives: bool = False  # its impressions without a click were drawn, and nobody was ever shown them
    counts: Mapping[str, int] = field(default_factory=dict)  # of its records, by what became of them


class Parts:
    """A table made piece by piece: files in a new `folder`, read back as one, so that no two pieces are in memory."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: list[Path] = []
        folder.mkdir()

    def add(self, frame: pl.DataFrame) -> None:
        self._files.append(self._folder / f"{len(self._files):08d}.parquet")
        frame.write_parquet(self._files[-1])

    def scan(self) -> pl.LazyFrame:
        """All pieces, in the order in which they were added; at least one must have been."""
        return pl.scan_parquet(self._files)
