"""What a raw log looks like before it is read, and whether its files belong together.

Releases of one log differ in the names of keys and columns. The first records decide which release a file is of, never
its name: renamed files read by their name once lost every category without a word.
"""

import ast
import gzip
import zlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from model.datasets.tables import DataError

PEEKED = 100  # records that are looked at; a release repeats its keys in every one of them
LEAST_COVERED, TOLD_BELOW = 0.01, 0.5  # of the items of a log that the file of items must describe


def first_lines(path: Path, count: int = PEEKED) -> list[bytes]:
    """Up to `count` lines that are not blank, without their ends and a byte-order mark. Raises DataError, OSError."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            lines = [line.rstrip(b"\r\n") for line in islice(file, count)]
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: broken gzip file: {error}") from None
    if lines:
        lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    return [line for line in lines if line.strip()]


def object_keys(path: Path, needed: str) -> list[str]:
    """The keys of the file's first JSON objects (or Python literals, as in older releases), in order.

    `needed` says for the message what should be there. Raises DataError for a file without objects, OSError.
    """
    lines = first_lines(path)
    if not lines:
        raise DataError(f"{path} is empty; JSON objects with {needed} are needed, one a line")
    keys = list(dict.fromkeys(key for line in lines for key in _object(line)))
    if not keys:
        given = lines[0][:60].decode(errors="replace")
        raise DataError(f"{path}: {given!r} given, JSON objects with {needed} are needed, one a line")
    return keys


def coverage(items: pl.Series, described: pl.Series, file: Path) -> list[str]:
    """Notes on how many of a log's `items` the file of items describes. Raises DataError where it is of another log."""
    known = int(items.is_in(described.implode()).sum())
    if known < LEAST_COVERED * len(items):
        raise DataError(
            f"{file} describes {known} of the log's {len(items)} items, so it belongs to another log: "
            f"its ids are like {_example(described)}, the log's like {_example(items)}"
        )
    if known < TOLD_BELOW * len(items):
        return [f"{file.name} describes {known} of the log's {len(items)} items; the others have no features"]
    return []


def unpack_first(raw: Path, ends: Iterable[str] = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")) -> str:
    """The end of a message on missing files, where an archive lies in their folder."""
    archives = sorted(path.name for path in raw.iterdir() if path.name.endswith(tuple(ends)))
    return f"; unpack {archives[0]} there first" if archives else ""


def _object(line: bytes) -> dict[str, Any]:
    """The line's object, empty where there is none: the reader says later what is wrong with the line."""
    try:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            record = ast.literal_eval(line.decode())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _example(ids: pl.Series) -> str:
    return repr(ids.drop_nulls().sort().first()) if len(ids) else "none"
