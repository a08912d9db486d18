"""A journal made into tables: what was shown and what came back, as training and model.replay read it.

    python -m service.drain --out DIR-or-URL [--journal DIR] [--every SECONDS] [--keep]

Closed files of the journal, and those of workers that died, become Parquet by day (model/servicelog/tables.py) in a
folder, or at a URL that the table library can write to (s3://, gs://, with the credentials that it finds). A file goes
once its tables are there; a drain that is killed does the same again, so every record is there once. Workers go on
writing meanwhile: a file that is open waits until it is done (RANKER_JOURNAL_ROTATE_MB, RANKER_JOURNAL_ROTATE_S).

Users who were forgotten (DELETE /users/{id}) are taken out of the tables, also of those of former drains. What is no
journal, or is broken, is moved to DIR/refused and named (exit code 1); the other files are drained.

The last line of the output is JSON; with --every a line a round, until it is interrupted.
"""

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from model import command
from model.files import AlreadyHeld, held
from service.drained.forgotten import Tombstones
from service.drained.rows import Rows
from service.drained.taking import clean, takeable, taken
from service.drained.target import Target
from service.journal.files import DONE, Reading, WrongFile
from service.journal.lines import BadLine, record_of
from service.settings import SettingsError, load_settings

LOCK, REFUSED = ".drain.lock", "refused"


@dataclass
class Drained:
    """What one round has done. `cut_bytes`: behind the last whole block of files whose writer was killed."""

    files: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    items: int = 0
    removed_rows: int = 0
    cut_bytes: int = 0
    refused: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        tables = {table: self.rows[table] for table in ("impressions", "events", "users", "forgotten")}
        others = {"removed_rows": self.removed_rows, "cut_bytes": self.cut_bytes, "refused": self.refused}
        return {"files": self.files, **tables, "items": self.items, **others}


def drain(journal: Path, target: Target, keep: bool = False) -> Drained:
    """Drains what is there. Raises AlreadyHeld where another drain is at it, OSError, polars' errors."""
    done = Drained()
    with held(journal / LOCK):
        clean(journal)
        paths = takeable(journal)
        stones, news = Tombstones.read(target), False
        over: list[Path] = []
        for path in tqdm(paths, desc="drained", unit=" files", delay=1, leave=False):
            with taken(path) as free:
                if free and (rows := _read(path, done)) is not None:
                    news |= _written(rows, path, target, stones, done)
                    over.append(path)
        if news:
            done.removed_rows = Tombstones.read(target).apply(target)
        for path in over:
            if keep:
                (journal / "drained").mkdir(exist_ok=True)
                path.replace(journal / "drained" / path.with_suffix(DONE).name)
            else:
                path.unlink()
    return done


def _read(path: Path, done: Drained) -> Rows | None:
    """All records of a file; None: it is refused."""
    try:
        reading, rows = Reading(path), Rows()
        for lines in reading:
            rows.add(record_of(line) for line in lines)
    except (WrongFile, BadLine) as error:
        aside = path.parent / REFUSED
        aside.mkdir(exist_ok=True)
        path.replace(aside / path.name)
        done.refused.append(f"{error} (now in {aside})")
        return None
    if reading.cut_bytes:
        done.cut_bytes += reading.cut_bytes
        told = f"{path}: {reading.cut_bytes} bytes behind its last whole block are no block"
        if path.suffix == DONE:  # its writer had closed it: what is missing was there
            aside = path.parent / REFUSED
            aside.mkdir(exist_ok=True)
            (aside / path.name).write_bytes(path.read_bytes())
            done.refused.append(f"{told}; what stands before them is drained, a copy of the file is in {aside}")
        else:
            print(f"drain: {told}: its worker was killed as it wrote them, and had acknowledged none", file=sys.stderr)
    return rows


def _written(rows: Rows, path: Path, target: Target, stones: Tombstones, done: Drained) -> bool:
    """Writes the tables of one file; whether it tells of users to forget."""
    tables = rows.tables()
    for (table, day), frame in tables.items():
        name = f"{table}/{f'day={day}/' if day else ''}{path.stem}.parquet"
        left = stones.without(frame.lazy(), table).collect()
        done.removed_rows += len(frame) - len(left)
        if len(left):
            target.write(left, name)
        else:
            target.remove(name, frame.schema)
        done.rows[table] += len(left)
        if table == "impressions":
            done.items += int(left["items"].list.len().sum())
    done.files += 1
    return ("forgotten", "") in tables


def _told(done: Drained, begun: float) -> None:
    for line in done.refused:
        print(f"drain: {line}", file=sys.stderr)
    print(json.dumps({**done.figures(), "seconds": round(time.monotonic() - begun, 3)}), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m service.drain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--journal", type=Path, metavar="DIR", help="default: RANKER_JOURNAL")
    add("--out", required=True, metavar="DIR-or-URL", help="where the tables stand")
    add("--every", type=float, metavar="SECONDS", help="again and again, until it is interrupted")
    add("--keep", action="store_true", help="drained files stay, in DIR/drained")
    arguments = parser.parse_args(argv)
    try:
        journal = arguments.journal or load_settings().journal
    except SettingsError as error:
        print(f"drain: {error}", file=sys.stderr)
        return 1
    if journal is None:
        parser.error("no journal to drain: give --journal or set RANKER_JOURNAL")
    if arguments.every is not None and not arguments.every > 0:
        parser.error(f"--every {arguments.every:g}: seconds above 0 are allowed")
    if not journal.is_dir():
        print(f"drain: {journal} is no folder; RANKER_JOURNAL of the service names the one to drain", file=sys.stderr)
        return 1
    target = Target(arguments.out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        begun = time.monotonic()
        try:
            done = drain(journal, target, arguments.keep)
        except AlreadyHeld as error:
            print(f"drain: process {error.pid} drains {journal} already; nothing is done", file=sys.stderr)
            return 1
        except (OSError, pl.exceptions.PolarsError) as error:
            print(f"drain: {command.words(error).partition(chr(10))[0]}; nothing is lost: drain again", file=sys.stderr)
            if arguments.every is None:
                return 1
        else:
            _told(done, begun)
            if arguments.every is None:
                return 1 if done.refused else 0
        with suppress(ValueError):
            time.sleep(arguments.every - (time.monotonic() - begun))


if __name__ == "__main__":
    command.run(main, "drain", "what is not drained yet is the next drain's")
