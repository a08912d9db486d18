"""Where tables are written: a folder, or an s3:// or gs:// URL by polars' own file systems; whole, or not at all.

What goes to a URL is there once its upload is complete; credentials come from the environment, as polars reads it.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from model.files import replacing
from model.servicelog.tables import FORGOTTEN, SCHEMAS
from service.drained.rows import SEEN_US

REMOTE = ("s3://", "gs://")


class Out:
    def __init__(self, where: str):
        self.where = where.rstrip("/") if "://" in where else str(Path(where))
        if "://" in where and not where.startswith(REMOTE):
            raise ValueError(f"--out {where}: a folder, s3://… or gs://… is allowed")
        self.local = "://" not in where

    def write(self, frame: pl.DataFrame, table: str, day: str | None, name: str) -> None:
        parts = [self.where, table, *([] if day is None else [f"day={day}"]), f"{name}.parquet"]
        self._put(frame, "/".join(parts))

    def _put(self, frame: pl.DataFrame, path: str) -> None:
        if not self.local:
            frame.write_parquet(path)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path), durable=True) as partial:
            frame.write_parquet(partial)

    def forgotten(self) -> pl.DataFrame:
        """Until when each user is forgotten, by all tombstones."""
        found = self._scan("forgotten", "*.parquet", tuple(FORGOTTEN))
        rows = pl.DataFrame(schema=FORGOTTEN) if found is None else found.collect()
        return rows.group_by("user_id").agg(pl.col("stored_us").max().alias("until_us"))

    def forget(self, tombstones: pl.DataFrame) -> int:
        """Removes the rows of those users from before in all tables that are there; how many rows that were.

        Files that hold any are written anew, each at once: one that is begun again finds what is left.
        """
        removed = 0
        for table, column in SEEN_US.items():
            found = self._scan(table, "*/*.parquet", ("user_id", column))
            if found is None:
                continue
            theirs = found.select("user_id", column, "path").join(tombstones.lazy(), on="user_id")
            paths = theirs.filter(pl.col(column) < pl.col("until_us")).select("path").unique().collect()["path"]
            for path in sorted(paths):
                frame = pl.read_parquet(path, hive_partitioning=False)
                left = without(frame, table, tombstones)
                removed += len(frame) - len(left)
                self._put(left, path)
        return removed

    def _scan(self, table: str, pattern: str, columns: Sequence[str]) -> pl.LazyFrame | None:
        """These columns and `path`; None where there is no such table yet."""
        if self.local and not any(Path(self.where, table).glob(pattern)):
            return None
        where = f"{self.where}/{table}/{pattern}"
        schema = {name: SCHEMAS[table][name] for name in columns}
        found = pl.scan_parquet(
            where, schema=schema, extra_columns="ignore", include_file_paths="path", hive_partitioning=False, glob=True
        )
        try:
            found.collect_schema()
            if not self.local:
                found.head(1).collect()
        except (pl.exceptions.ComputeError, FileNotFoundError) as error:
            if "empty" in str(error) or isinstance(error, FileNotFoundError):  # nothing there that is so called
                return None
            raise
        return found


def without(frame: pl.DataFrame, table: str, tombstones: pl.DataFrame) -> pl.DataFrame:
    """The rows that no tombstone is newer than, in their order."""
    until = frame.select("user_id").join(tombstones, on="user_id", how="left", maintain_order="left")["until_us"]
    return frame.filter((frame[SEEN_US[table]] < until).fill_null(False).not_())
