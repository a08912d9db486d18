"""Users who were forgotten: what the tables hold of them from before goes, now and with every later drain."""

import polars as pl

from model.servicelog.tables import FORGOTTEN
from service.drained.target import Target

TIMES = {"impressions": "read_us", "events": "stored_us", "users": "stored_us"}  # table → when a row came to be


class Tombstones:
    """When each user was last forgotten."""

    def __init__(self, frame: pl.DataFrame | None = None):
        empty = pl.DataFrame(schema=FORGOTTEN)
        self._frame = (empty if frame is None else frame).group_by("user_id").agg(pl.col("stored_us").max())

    @classmethod
    def read(cls, target: Target) -> "Tombstones":
        return cls(
            pl.concat([pl.DataFrame(schema=FORGOTTEN), *(target.scan(n).collect() for n in target.names("forgotten"))])
        )

    def __len__(self) -> int:
        return len(self._frame)

    def and_of(self, more: pl.DataFrame) -> "Tombstones":
        return Tombstones(pl.concat([self._frame.select(FORGOTTEN.names()), more]))

    def without(self, rows: pl.LazyFrame, table: str) -> pl.LazyFrame:
        """The rows that are not of a forgotten user's past."""
        if table not in TIMES or not len(self._frame):
            return rows
        stones = self._frame.lazy().rename({"stored_us": "forgotten_us"})
        gone = pl.col("forgotten_us").is_not_null() & (pl.col(TIMES[table]) < pl.col("forgotten_us"))
        return rows.join(stones, on="user_id", how="left", maintain_order="left").filter(~gone).drop("forgotten_us")

    def apply(self, target: Target) -> int:
        """Takes the past of these users out of the tables that stand there, file by file; how many rows went."""
        removed = 0
        for table in TIMES:
            for name in target.names(table):
                rows = target.scan(name)
                counts = pl.collect_all([rows.select(pl.len()), self.without(rows, table).select(pl.len())])
                before, after = (int(count.item()) for count in counts)
                if after < before:
                    target.write(self.without(rows, table).collect(), name)
                    removed += before - after
        return removed
