"""Another data set's tables, beside the log's."""

from pathlib import Path

import duckdb

from model.datasets.tables import DataError
from model.engine import literal
from model.servicelog.joins import one


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
