"""The log's tables in the engine, without whoever was forgotten since."""

from pathlib import Path

import duckdb
import polars as pl

from model.engine import literal
from model.servicelog.reading import Files
from model.servicelog.tables import ADDED, SCHEMAS

# A user who was forgotten goes from the drained log with the next drain; here all of the time before is gone already.
FORGETTABLE = {"impressions": "read_us", "events": "stored_us", "users": "stored_us", "shadows": "read_us"}


def create(con: duckdb.DuckDBPyConnection, found: Files, work: Path) -> None:
    """Views of the log's tables, named as these; `work` is a folder."""
    for table in reversed(SCHEMAS):  # forgotten first
        paths = found[table]
        if not paths:
            paths = [work / f"no-{table}.parquet"]
            pl.DataFrame(schema=SCHEMAS[table]).write_parquet(paths[0])
        named = ", ".join(literal(str(path)) for path in paths)
        read = f"read_parquet([{named}], hive_partitioning = false, union_by_name = true)"
        there = {name for name, *_ in con.execute(f"DESCRIBE SELECT * FROM {read}").fetchall()}
        added = ADDED.get(table, {})
        columns = [_or(name, added[name], name in there) if name in added else name for name in SCHEMAS[table]]
        rows = f"SELECT {', '.join(columns)} FROM {read}"
        if table in FORGETTABLE:
            rows = (
                f"SELECT t.* FROM ({rows}) t LEFT JOIN (SELECT user_id, max(stored_us) AS at FROM forgotten "
                f"GROUP BY user_id) f USING (user_id) WHERE f.at IS NULL OR t.{FORGETTABLE[table]} > f.at"
            )
        con.execute(f"CREATE VIEW {table} AS {rows}")


def _or(name: str, value: int, there: bool) -> str:
    return f"coalesce({name}, {value}) AS {name}" if there else f"CAST({value} AS BIGINT) AS {name}"
