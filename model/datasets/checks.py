"""What a raw log looks like before it is read, and whether its files belong together.

Releases of one log differ in the names of keys and columns. The first records decide which release a file is of, never
its name: renamed files read by their name once lost every category without a word.
"""

import ast
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from model.datasets.tables import BOM, DataError, unpacked

PEEKED = 1000  # records that are looked at; a release repeats its keys in every one of them
LEAST_COVERED, TOLD_BELOW = 0.01, 0.5  # of a log's items or users that their file must describe
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
LONGEST = 1 << 20  # bytes of a line that are looked at


def first_lines(path: Path, count: int = PEEKED) -> list[bytes]:
    """Up to `count` lines that are not blank, without their ends and a byte-order mark. Raises DataError, OSError."""
    with unpacked(path) as file:
        lines = [line.rstrip(b"\r\n") for line in islice(iter(lambda: file.readline(LONGEST), b""), count)]
    if lines:
        lines[0] = lines[0].removeprefix(BOM)
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


def coverage(ids: pl.Series, described: pl.Series, file: Path, what: str = "items") -> list[str]:
    """Notes on how many of a log's `ids` the file of items or users describes. Raises DataError if it hardly does."""
    known = int(ids.is_in(described.implode()).sum())
    if known < LEAST_COVERED * len(ids):
        raise DataError(
            f"{file} describes {known} of the log's {len(ids)} {what}, so it belongs to another log: "
            f"its ids are like {_example(described)}, the log's like {_example(ids)}"
        )
    if known < TOLD_BELOW * len(ids):
        return [f"{file.name} describes {known} of the log's {len(ids)} {what}; the others have no features"]
    return []


def files(raw: Path, ends: Iterable[str]) -> list[Path]:
    """The files of a folder whose names have one of the ends, sorted; hidden ones are an editor's or a system's."""
    return sorted(
        p for p in raw.iterdir() if p.is_file() and p.name.endswith(tuple(ends)) and not p.name.startswith(".")
    )


def unpack_first(raw: Path) -> str:
    """The end of a message on missing files, where an archive lies in their folder."""
    archives = files(raw, ARCHIVES)
    return f"; unpack {archives[0].name} there first" if archives else ""


def text_file(raw: Path, name: str) -> Path:
    """The one text file of that name, plain or packed (.gz). Raises DataError."""
    there = [path for path in (raw / name, raw / f"{name}.gz") if path.is_file()]
    if len(there) != 1:
        raise DataError(f"{raw} holds {len(there)} of {name}[.gz]; exactly one is allowed{unpack_first(raw)}")
    return there[0]


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
