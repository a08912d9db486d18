"""The log's tables and another data set's in the engine, without whoever was forgotten since."""

from pathlib import Path

import duckdb
import polars as pl

from model.datasets.logged.joins import one
from model.datasets.tables import DataError
from model.engine import literal
from model.servicelog.reading import Files
from model.servicelog.tables import SCHEMAS

# A user who was forgotten goes from the drained log with the next drain; here all of the time before is gone already.
FORGETTABLE = {"impressions": "read_us", "events": "stored_us", "users": "stored_us"}


def create(con: duckdb.DuckDBPyConnection, found: Files, work: Path) -> None:
    """Views of the log's tables, named as these; `work` is a folder."""
    for table in reversed(SCHEMAS):  # forgotten first
        paths = found[table]
        if not paths:
            paths = [work / f"no-{table}.parquet"]
            pl.DataFrame(schema=SCHEMAS[table]).write_parquet(paths[0])
        named = ", ".join(literal(str(path)) for path in paths)
        rows = f"SELECT {', '.join(SCHEMAS[table])} FROM read_parquet([{named}], hive_partitioning = false)"
        if table in FORGETTABLE:
            rows = (
                f"SELECT t.* FROM ({rows}) t LEFT JOIN (SELECT user_id, max(stored_us) AS at FROM forgotten "
                f"GROUP BY user_id) f USING (user_id) WHERE f.at IS NULL OR t.{FORGETTABLE[table]} > f.at"
            )
        con.execute(f"CREATE VIEW {table} AS {rows}")


class Base:
    """Another prepared data set's tables, as far as the log's users are its own. Raises DataError."""

    def __init__(self, con: duckdb.DuckDBPyConnection, folder: Path | None):
        self.folder = folder
        if folder is not None and not (folder / "tables" / "items.parquet").is_file():
            raise DataError(f"--base {folder} is no prepared data set: tables/items.parquet is not there")
        self.users_known = 0
        if folder is not None:
            ids = f"SELECT CAST(user_id AS VARCHAR) AS user_id FROM read_parquet({literal(str(self._path('users')))})"
            self.users_known = one(
                con,
                f"SELECT count(*) FROM (SELECT DISTINCT user_id FROM impressions) SEMI JOIN ({ids}) USING (user_id)",
            )

    def _path(self, table: str) -> Path:
        assert self.folder is not None
        return self.folder / "tables" / f"{table}.parquet"

    @property
    def items(self) -> Path | None:
        return self._path("items") if self.folder else None

    @property
    def users(self) -> Path | None:
        """None also where it knows none of the log's users: their ids are written otherwise, salted as a rule."""
        return self._path("users") if self.users_known else None

    @property
    def behaviours(self) -> Path | None:
        return self._path("behaviours") if self.users_known else None
