"""Impressions and what users did with them: who clicked what within the window, each click once.

An event belongs to an item that its request returned to its user: 0 ≤ event.timestamp − impression.now ≤ window. Where
a request returned an item twice (in a batch, or its id was sent again), the event goes to the newest one before it, of
these to the best placed.
"""

from dataclasses import dataclass

import duckdb

from model.engine import literal
from model.servicelog.records import IMPRESSION

IDENTITY = "user_id, event, object_type, object_id, timestamp, request_id"
KEY = "request_id, user_id, item_id"


@dataclass(frozen=True)
class Rule:
    """Which events belong to impressions, and what they say."""

    label: str  # the action that makes an impression a positive
    object_type: str  # of items
    window_ms: int
    confirmed: bool  # whether only items count that an impression event names


def join(con: duckdb.DuckDBPyConnection, rule: Rule) -> dict[str, int]:
    """Makes the view `labelled`, a row an impression: columns of `returned`, `label` and `watch_ms`.

    Of tables `returned` (request_id, user_id, item_id, now, place and others) and `distinct_events`, and the view
    `impressions`. Gives what was counted.
    """
    con.execute(
        f"CREATE TABLE told AS SELECT row_number() OVER () AS event_row, event = {literal(rule.label)} AS positive, "
        f"event = {literal(IMPRESSION)} AS confirms, user_id, request_id, object_id AS item_id, timestamp, watch_ms "
        f"FROM distinct_events WHERE object_type = {literal(rule.object_type)}"
    )
    chosen = "true"
    if rule.confirmed:
        con.execute("CREATE VIEW shown AS SELECT rowid AS row, * FROM returned")
        _match(con, "confirming", "confirms", rule.window_ms)
        chosen = "rowid IN (SELECT row FROM confirming)"
    con.execute(f"CREATE OR REPLACE VIEW shown AS SELECT rowid AS row, * FROM returned WHERE {chosen}")
    _match(con, "joined", "NOT confirms", rule.window_ms)
    con.execute(
        "CREATE VIEW labelled AS SELECT s.* EXCLUDE (row), CAST(coalesce(j.positive, false) AS TINYINT) AS label, "
        "coalesce(j.watched, 0) AS watch_ms FROM shown s LEFT JOIN (SELECT row, bool_or(positive) AS positive, "
        "max(watch_ms) AS watched FROM joined JOIN told USING (event_row) GROUP BY row) j ON j.row = s.row"
    )
    return _counted(con)


def _match(con: duckdb.DuckDBPyConnection, name: str, which: str, window_ms: int) -> None:
    """Makes the table `name`: of each event the row of the impression in `shown` that it belongs to."""
    con.execute(
        f"CREATE TABLE {name} AS SELECT event_row, arg_max(s.row, (s.now, -s.place, -s.row)) AS row "
        f"FROM told t JOIN shown s USING ({KEY}) "
        f"WHERE {which} AND t.timestamp - s.now BETWEEN 0 AND {window_ms} GROUP BY event_row"
    )


def _counted(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Rows, and every click by what became of it: joined, doubled and the rest are `clicks` together."""
    con.execute(
        "CREATE TABLE clicks AS SELECT event_row, request_id, user_id, item_id, timestamp FROM told WHERE positive"
    )
    con.execute(
        "CREATE TABLE fates AS SELECT j.row, CASE WHEN j.event_row IS NOT NULL THEN 'joined' "
        "WHEN c.request_id IS NULL THEN 'without_request' WHEN r.request_id IS NULL THEN 'orphaned' "
        "WHEN i.first IS NULL THEN 'not_returned' WHEN c.timestamp < i.first THEN 'early' "
        "WHEN i.shown = 0 THEN 'not_confirmed' ELSE 'late' END AS fate FROM clicks c "
        "LEFT JOIN joined j USING (event_row) "
        "LEFT JOIN (SELECT DISTINCT request_id, user_id FROM impressions) r USING (request_id, user_id) "
        "LEFT JOIN (SELECT request_id, user_id, item_id, min(p.now) AS first, count(s.row) AS shown FROM returned p "
        f"SEMI JOIN clicks USING ({KEY}) LEFT JOIN (SELECT row FROM shown) s ON s.row = p.rowid "
        f"GROUP BY {KEY}) i USING ({KEY})"
    )
    found = dict(con.execute("SELECT fate, count(*) FROM fates GROUP BY fate").fetchall())
    lost = ("late", "early", "orphaned", "not_returned", "not_confirmed", "without_request")
    counts = {name: int(found.get(name, 0)) for name in lost}
    returned, impressions, joined, positives = (
        one(con, query)
        for query in (
            "SELECT count(*) FROM returned",
            "SELECT count(*) FROM shown",
            "SELECT count(*) FROM fates WHERE fate = 'joined'",
            "SELECT count(DISTINCT row) FROM fates WHERE fate = 'joined'",
        )
    )
    shown = {"returned": returned, "impressions": impressions, "clicks": joined + sum(counts.values())}
    return shown | {"joined": positives, "doubled": joined - positives} | counts


def one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    """The number that a query gives; 0 for none."""
    row = con.execute(query).fetchone()
    assert row is not None
    return int(row[0] or 0)
