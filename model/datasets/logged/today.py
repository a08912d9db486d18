"""How many impressions of its day each request found in the store: as used, for what training sees is what served.

A request whose model counted none gets what the store would have counted: the events that confirmed an impression and
were stored by then.
"""

import duckdb

from model.datasets.tables import AS_USED
from model.engine import literal
from model.features.schema import Schema
from model.features.today import IMPRESSION, QUARTER_MS, Calendar
from model.servicelog.joins import one

ALSO = "NOT i.replay OR e.timestamp < i.now"  # a live request saw all that was stored


def count(con: duckdb.DuckDBPyConnection, schema: Schema, time_zone: str) -> tuple[str, ...]:
    """Makes the view `counted`: impressions with AS_USED, -1 where the store did not say. Gives what is to be told."""
    quarters = con.execute(f"SELECT DISTINCT now // {QUARTER_MS} FROM impressions").fetchall()
    calendar = Calendar(time_zone)
    begins = ", ".join(f"({quarter}, {calendar.begun_ms(quarter * QUARTER_MS)})" for (quarter,) in quarters)
    con.execute(f"CREATE TABLE begun AS SELECT * FROM (VALUES {begins}) AS of(quarter, begun)")
    con.execute(
        "CREATE TABLE confirmed AS SELECT user_id, object_id, timestamp, min(stored_us) AS stored_us FROM events "
        f"WHERE event = {literal(IMPRESSION)} AND object_type = {literal(schema.history.object_type)} "
        "GROUP BY user_id, object_id, timestamp"
    )
    rebuilt = (
        "(SELECT count(*) FROM confirmed e WHERE e.user_id = i.user_id AND e.timestamp >= b.begun "
        f"AND e.stored_us <= i.read_us AND ({ALSO}))"
    )
    con.execute(
        f"CREATE VIEW counted AS SELECT i.*, CASE WHEN i.shown_today >= 0 THEN i.shown_today "
        f"WHEN len(i.degraded) > 0 THEN -1 ELSE {rebuilt} END AS {AS_USED} "
        f"FROM impressions i JOIN begun b ON b.quarter = i.now // {QUARTER_MS}"
    )
    used = one(con, "SELECT count(*) FROM impressions WHERE shown_today >= 0")
    unknown = one(con, f"SELECT count(*) FROM counted WHERE {AS_USED} < 0")
    others = one(con, "SELECT count(*) FROM impressions") - used - unknown
    told = f"impressions of the day: as used in {used} requests"
    told += f"; counted from events for {others} whose model counted none" if others else ""
    return (told + (f"; unknown in {unknown}, to which the store did not say" if unknown else ""),)
