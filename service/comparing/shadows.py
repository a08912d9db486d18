"""What a shadow's own order would have earned: an estimate, from what was shown and clicked.

By a position-based model (Richardson, Dominowska, Ragno, WWW 2007): an item is clicked where its place is looked at and
it attracts. So a click at the place where it was shown counts as examination(the shadow's place) / examination(that
place) clicks of the shadow's order (inverse propensity scoring, as Joachims, Swaminathan, Schnabel, WSDM 2017).

How often places are looked at comes from the same log: click rates by place among impressions of like scores. What it
rests on is ASSUMPTION, which the page shows beside each figure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from service.comparing.statistics import ENOUGH, NORMAL_95, Floats

BUCKETS = 50  # of a model's scores, equally full: within one, items are taken to attract alike
ROUNDS = 100  # of fitting; each one brings rates and examination closer by far more than a digit in ten
ASSUMPTION = (
    "whether a place is looked at depends on the place alone; of items with like scores those at one place attract as "
    "well as those at another; what the shadow would have shown, but was not shown, attracts as well as the rest of "
    "its order"
)

REQUEST = "request_id, user_id, now"
SHADOW = "shadow, model, version"


@dataclass(frozen=True)
class Shadow:
    """One shadow beside what was shown to the same requests."""

    name: str
    model: str
    version: str
    users: int
    requests: int
    seen: float  # share of the items in its order that were shown: of the others no click can tell
    shown_ctr: float
    ctr: float | None  # None: nothing of its order was shown and clicked
    gain: float | None  # of its order over what was shown
    gain_interval: tuple[float, float] | None  # 95 %, at one look; users are the unit, examination is taken as known


def examination(shown: Floats, clicked: Floats) -> Floats:
    """How often each place is looked at, the first one's as 1; of counts (buckets, places).

    Clicks are Poisson with the mean impressions · the bucket's rate · the place's examination; each factor in turn is
    set to what is likeliest given the other. nan for places without impressions.
    """
    looked = np.ones(shown.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(ROUNDS):
            rate = np.nan_to_num(clicked.sum(axis=1) / (shown @ looked))
            looked = np.nan_to_num(clicked.sum(axis=0) / (rate @ shown))
        first = looked[np.flatnonzero(looked)[0]] if looked.any() else 1.0
        return np.where(shown.any(axis=0), looked / first, np.nan)


def estimate(con: duckdb.DuckDBPyConnection, live: str) -> tuple[Sequence[Shadow], Sequence[float]]:
    """Each shadow of `shadows`, and examination by place; of rows of `labelled` for which `live` holds.

    A request shows as many items of a shadow's order as it returned; nan is the last. One that returned an item twice
    is left out.
    """
    con.execute(
        f"CREATE TABLE scored AS SELECT {REQUEST}, item_id, place, label, "
        f"ntile({BUCKETS}) OVER (PARTITION BY model, version ORDER BY score) - 1 AS bucket FROM labelled WHERE {live}"
    )
    looked = _examination(con)
    if not len(looked):
        return [], []
    con.execute("CREATE TABLE looked (place INTEGER, often DOUBLE)")
    rows = [[at, often] for at, often in enumerate(looked.tolist(), 1) if not math.isnan(often)]
    con.executemany("INSERT INTO looked VALUES (?, ?)", rows)
    con.execute(
        f"CREATE TABLE whole AS SELECT {REQUEST}, count(*) AS items, sum(label) AS clicks FROM scored GROUP BY ALL "
        "HAVING count(*) = count(DISTINCT item_id)"
    )
    con.execute(
        f"CREATE TABLE own AS SELECT {SHADOW}, {REQUEST}, item_id, row_number() OVER (PARTITION BY {SHADOW}, {REQUEST} "
        "ORDER BY -score, item_id) AS own_place FROM (SELECT DISTINCT * FROM shadows)"
    )
    con.execute(
        f"CREATE TABLE reordered AS SELECT {SHADOW}, {REQUEST}, count(*) AS places, count(s.place) AS seen, "
        "sum(mine.often) AS looked, coalesce(sum(mine.often) FILTER (s.place IS NOT NULL), 0) AS looked_seen, "
        "coalesce(sum(mine.often / its.often) FILTER (s.label = 1), 0) AS clicks FROM own "
        f"JOIN whole w USING ({REQUEST}) JOIN looked mine ON mine.place = own_place "
        f"LEFT JOIN scored s USING ({REQUEST}, item_id) LEFT JOIN looked its ON its.place = s.place "
        "WHERE own_place <= w.items GROUP BY ALL"
    )
    names = con.execute(f"SELECT DISTINCT {SHADOW} FROM reordered ORDER BY ALL").fetchall()
    return [_shadow(con, *name) for name in names], [often for _, often in rows]


def _examination(con: duckdb.DuckDBPyConnection) -> Floats:
    rows = con.execute(
        "SELECT bucket, place - 1 AS place, count(*) AS shown, sum(label)::DOUBLE AS clicked FROM scored GROUP BY ALL"
    ).fetchnumpy()
    bucket, place = (np.asarray(rows[name], np.int64) for name in ("bucket", "place"))
    counts = np.zeros((2, BUCKETS, int(place.max(initial=-1)) + 1))
    counts[:, bucket, place] = rows["shown"], rows["clicked"]
    return examination(*counts)


def _shadow(con: duckdb.DuckDBPyConnection, name: str, model: str, version: str) -> Shadow:
    rows = con.execute(
        "SELECT count(*) AS requests, sum(places) AS places, sum(seen) AS seen, sum(r.looked) AS looked, "
        "sum(looked_seen) AS looked_seen, sum(r.clicks) AS clicks, sum(w.items) AS items, sum(w.clicks) AS clicked "
        f"FROM reordered r JOIN whole w USING ({REQUEST}) WHERE shadow = ? AND model = ? AND version = ? "
        "GROUP BY user_id ORDER BY user_id",
        [name, model, version],
    ).fetchnumpy()
    of = {column: np.asarray(values, np.float64) for column, values in rows.items()}
    sums = {column: float(values.sum()) for column, values in of.items()}
    shown_ctr = sums["clicked"] / sums["items"]
    ctr = gain = interval = None
    if sums["clicks"] > 0:
        rate = sums["clicks"] / sums["looked_seen"]
        ctr = rate * sums["looked"] / sums["places"]
        gain = ctr / shown_ctr - 1
        residual = (of["clicks"] - rate * of["looked_seen"]) / sums["clicks"]
        residual -= (of["clicked"] - shown_ctr * of["items"]) / sums["clicked"]  # of the same users: most of it cancels
        if min(len(residual), sums["clicked"]) >= ENOUGH:
            margin = NORMAL_95 * math.sqrt(residual @ residual)
            interval = ((1 + gain) * math.exp(-margin) - 1, (1 + gain) * math.exp(margin) - 1)
    seen = sums["seen"] / sums["places"]
    return Shadow(name, model, version, len(of["clicks"]), int(sums["requests"]), seen, shown_ctr, ctr, gain, interval)
