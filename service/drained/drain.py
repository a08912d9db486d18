"""One pass: every file that may be had becomes tables, and only then goes away.

A table's file has the journal file's name. So a pass that was killed, wherever it was, is begun again and writes the
same files over again. A journal file that forgets users goes away only when they are gone from all tables.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from model.servicelog.tables import FORGOTTEN
from service.drained.files import ASIDE, KEPT, finish, sweep, taken, waiting
from service.drained.out import Out, without
from service.drained.rows import Rows
from service.journal.framing import NotReadable, Reader

TOLD_S = 10.0  # between two lines of progress


@dataclass
class Drained:
    """What a pass did. `live`: files that workers still write."""

    files: int = 0
    impressions: int = 0
    events: int = 0
    users: int = 0
    shadows: int = 0  # requests that a shadow scored
    forgotten_rows: int = 0  # removed, since their user was forgotten later
    live: int = 0
    cut_files: int = 0
    cut_bytes: int = 0
    refused_files: int = 0

    @property
    def well(self) -> bool:
        return not self.cut_files and not self.refused_files

    def figures(self) -> dict[str, int]:
        return asdict(self)


Finish = Callable[[Path, str | None], None]


def drain(folder: Path, out: Out, say: Callable[[str], None], keep: bool = False, finish: Finish = finish) -> Drained:
    """`say` is told one line of each thing that is wrong, and of progress. Raises OSError, polars' errors."""
    drained, told_s = Drained(), time.monotonic()
    sweep(folder)
    tombstones, again = out.forgotten(), list[tuple[Path, str | None]]()
    journals, others = waiting(folder)
    for path in others:
        drained.refused_files += 1
        say(f"{path}: no journal by its name, left alone")
    newer: list[pl.DataFrame] = []
    for number, path in enumerate(journals):
        if time.monotonic() - told_s > TOLD_S:
            told_s = time.monotonic()
            say(f"{number} of {len(journals)} files, {drained.impressions} impressions, {drained.events} events")
        with taken(path) as file:
            if file is None:
                drained.live += 1
                continue
            rows = Rows()
            try:
                reader = Reader(file)
                for block in reader:
                    rows.add(block)
            except (NotReadable, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
                drained.refused_files += 1
                why = str(error) if isinstance(error, NotReadable) else f"holds what is no record: {error!r}"
                say(f"{path}: {why}; moved to {folder / ASIDE}")
                finish(path, ASIDE)
                continue
            for (table, day), frame in rows.tables().items():
                left = without(frame, table, tombstones)
                drained.forgotten_rows += len(frame) - len(left)
                out.write(left, table, day, path.stem)
            if rows.forgotten:
                stones = pl.DataFrame(rows.forgotten, schema=FORGOTTEN)
                out.write(stones, "forgotten", None, path.stem)
                newer.append(stones)
            if reader.cut:
                drained.cut_files += 1
                drained.cut_bytes += reader.cut
                say(
                    f"{path}: cut, its last {reader.cut} bytes are no whole block; what is before is drained, "
                    f"the file moved to {folder / ASIDE}"
                )
            into = ASIDE if reader.cut else KEPT if keep else None
            if rows.forgotten:
                again.append((path, into))
            else:
                finish(path, into)
        drained.files += 1
        drained.impressions += rows.counts["impressions"]
        drained.events += rows.counts["events"]
        drained.users += rows.counts["users"]
        drained.shadows += rows.counts["shadows"]
    if newer:
        until = pl.concat(newer).group_by("user_id").agg(pl.col("stored_us").max().alias("until_us"))
        drained.forgotten_rows += out.forget(until)
    for path, into in again:
        finish(path, into)
    if newer and (unread := [str(folder / name) for name in (ASIDE, KEPT) if any((folder / name).glob("*"))]):
        say(
            f"users were forgotten, whose records may still lie in {' and '.join(unread)}: no drain looks there, "
            "remove what is no longer needed"
        )
    return drained
