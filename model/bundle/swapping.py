"""A bundle's sealed files, exchanged while services read them: the catalogue, and what was counted.

Each lies whole under its name, and the one before it beside it, to go back to. Those of
before stay in `catalog/older` for a while, by the sha256 that the service's log names: model.replay looks for them.
"""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from model.bundle.layout import CATALOG, COUNTS, OLDER, PREVIOUS_COUNTS, BundleError, located
from model.features import schema as features_toml
from model.features.catalog import FOLDER
from model.features.catalog import KIND as CATALOGUE
from model.features.counts import FILE, Counts, CountsError
from model.features.counts import KIND as STATISTICS
from model.features.schema import Schema
from model.features.sealed import seal
from model.files import another_name, beside

KEPT = 10  # of each kind in `catalog/older`; a day's swaps, for a log that is replayed every evening
SHOWN = 16  # letters of a sha256 that name a file


def replace(current: Path, previous: Path, save: Callable[[Path], object], keep: bool, older: int = KEPT) -> None:
    """`save` writes a newer file to `current`; the one before becomes `previous`, where it is one to keep.

    What was `previous` goes to those of before, of which `older` stay.
    """
    with beside(previous) as before:
        if keep:
            another_name(current, before)
        save(current)
        if before.exists():
            _shelve(previous, current, older)
            before.replace(previous)


def exchange(current: Path, previous: Path, keep: bool) -> None:
    """`previous` becomes `current`, and the other way round where that is one to keep."""
    with beside(current) as aside:
        if keep:
            another_name(current, aside)
        os.utime(previous)  # services tell a new file by its time, and people when it was swapped in
        previous.replace(current)
        if keep:
            aside.replace(previous)


def _shelve(previous: Path, current: Path, most: int) -> None:
    """Gives `previous`, before another one takes its name, one by its sha256; the newest `most` such stay."""
    kind = CATALOGUE if current.name == Path(CATALOG).name else STATISTICS
    older = current.parent / Path(OLDER).name
    sealed = seal(previous, kind) if previous.is_file() else None
    if sealed is not None and most:
        older.mkdir(exist_ok=True)
        previous.replace(older / f"{current.stem}-{sealed.sha256[:SHOWN]}{current.suffix}")
    if older.is_dir():
        files = sorted(older.glob(f"{current.stem}-*{current.suffix}"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[: max(0, len(files) - most)]:
            path.unlink()
        if not any(older.iterdir()):
            older.rmdir()


class Recounted(NamedTuple):
    """Counts that were put in place: of how many values, and when the days begin before each of which they hold."""

    path: Path
    values: int
    begins: tuple[int, ...]  # ms, rising
    kept: bool  # whether there were others, which `undo_counts` goes back to


def swap_counts(path: Path, source: Path, older: bool = False, keep: int = KEPT) -> Recounted:
    """Puts the counts of `source`, a prepared data set or its file, into the bundle at `path`; `undo_counts` goes back.

    Raises BundleError, also where they end before those in place and not `older`; CountsError, SchemaError, OSError.
    """
    folder, schema = _counting(path)
    file = source / FOLDER / FILE if source.is_dir() else source
    newer = _sound(file, schema)
    before = _in_place(folder / COUNTS, schema)
    if before is not None and newer.until_ms < before.until_ms and not older:
        raise BundleError(
            f"{file} counts until {day(newer.until_ms)}, those in place until {day(before.until_ms)}: --older lets "
            "older counts take the place of newer ones; nothing is changed"
        )
    save, current = lambda to: newer.save(to, schema), folder / COUNTS
    replace(current, folder / PREVIOUS_COUNTS, save, before is not None, keep)
    return _recounted(folder, newer, before)


def undo_counts(path: Path) -> Recounted:
    """Exchanges the bundle's counts and those before the last swap. Raises as `swap_counts`."""
    folder, schema = _counting(path)
    previous = folder / PREVIOUS_COUNTS
    if not previous.is_file():
        raise BundleError(f"{previous} is not there: no counts before these are kept, nothing to go back to")
    before = _sound(previous, schema)
    now = _in_place(folder / COUNTS, schema)
    exchange(folder / COUNTS, previous, now is not None)
    return _recounted(folder, before, now)


def day(time_ms: int) -> str:
    """A time for people, in UTC."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _counting(path: Path) -> tuple[Path, Schema]:
    """Folder and feature table of a bundle that counts."""
    folder, _ = located(path)
    schema = features_toml.load(folder / "features.toml")
    if not schema.counting:
        raise BundleError(f"{folder}: no statistic and no cooccurrence in its features.toml, so that it counts nothing")
    return folder, schema


def _recounted(folder: Path, counts: Counts, before: Counts | None) -> Recounted:
    return Recounted(folder / COUNTS, len(counts), tuple(map(int, counts.begins)), before is not None)


def _sound(file: Path, schema: Schema) -> Counts:
    Counts.verify(file)
    return Counts.open(file, schema)


def _in_place(file: Path, schema: Schema) -> Counts | None:
    try:
        return _sound(file, schema)
    except (CountsError, OSError) as error:
        print(f"catalog: replaces counts that are broken: {error}", file=sys.stderr)
        return None
