"""The drained log → users of each arm, what they were shown and what they clicked.

An arm is what the log says of a request: its `variant`, else model and version. Impressions and clicks are joined as
for training, over the whole log; what does not belong to the comparison is left out afterwards, and counted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np

from model.engine import engine, first_line, literal
from model.servicelog import joins, views
from model.servicelog.joins import IDENTITY, Rule, one
from model.servicelog.reading import LogError, files
from service.comparing.shadows import Shadow, estimate
from service.comparing.statistics import Ints, Moments, accumulate

LOOKS = 60  # of the whole time, at which the page shows the gain
SEGMENTS = {  # of impressions: the page shows the click rate in each
    "position": "least(place, 20)",
    "history": "CASE WHEN history = 0 THEN 0 WHEN history < 5 THEN 1 WHEN history < 10 THEN 2 WHEN history < 20 THEN 3 "
    "WHEN history < 50 THEN 4 ELSE 5 END",
    "hour": "(now // 3600000) % 24",
}


@dataclass(frozen=True)
class Wanted:
    """What of a log is compared."""

    rule: Rule
    days: Sequence[str] = ()  # of impressions, UTC; none: all
    mixed: str = "out"  # users who saw more than one arm: left "out", or whole to the "first" they saw
    replays: bool = False  # whether requests that named their time count

    @property
    def live(self) -> str:
        """The rows that count, in SQL."""
        return "named = 0" if self.replays else "NOT replay AND named = 0"


@dataclass(frozen=True)
class Response:
    """How long requests took, of those whose time the log knows and that were no part of a batch."""

    requests: int
    average_ms: float | None
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class Arm:
    """One arm as it was shown."""

    name: str
    models: tuple[tuple[str, str], ...]  # model and version, most requests first
    begin: int  # ms, of its first impression
    end: int
    degraded: int  # impressions of requests that were ranked without the store's history
    response: Response


@dataclass(frozen=True)
class Compared:
    """A log's arms, in the order of their names."""

    arms: Sequence[Arm]
    times: Ints  # ms, the end of each look
    moments: Moments  # (arms, looks), as they stood then
    segments: dict[str, dict[int, dict[int, Moments]]]  # segment, its value, arm
    order: Ints  # arm of each user, in the order in which they came
    counts: dict[str, int]
    shadows: Sequence[Shadow]
    looked: Sequence[float]  # how often each place is looked at, the first one's as 1; none without shadows


def compare(log: Path | str, wanted: Wanted, memory_gib: float) -> Compared:
    """Raises LogError for a log without what is needed, OSError."""
    with _opened(log, wanted, memory_gib) as con:
        con.execute(
            f"CREATE TABLE distinct_events AS SELECT {IDENTITY}, max(watch_ms) AS watch_ms FROM events "
            f"GROUP BY {IDENTITY}"
        )
        con.execute(
            "CREATE TABLE returned AS SELECT request_id, user_id, item.item_id AS item_id, now, "
            "item.position AS place, item.score AS score, read_us, replay, named, took_us, "
            "len(behaviours) AS history, len(degraded) > 0 AS degraded, model, version, "
            "coalesce(nullif(variant, ''), model || ' ' || version) AS arm FROM "
            "(SELECT * EXCLUDE (items), unnest(items) AS item FROM impressions)"
        )
        counts = joins.join(con, wanted.rule)
        _refuse_empty(con, log, wanted)
        counts |= _chosen(con, wanted)
        shadows, looked = estimate(con, wanted.live) if one(con, "SELECT count(*) FROM shadows") else ((), ())
        names = [name for (name,) in con.execute("SELECT DISTINCT arm FROM chosen ORDER BY 1").fetchall()]
        if not names or (len(names) < 2 and not shadows):
            raise LogError(_too_few(con, log, wanted, names))
        arms = [_arm(con, name) for name in names]
        counts["apart"] = _apart(con, log, arms)
        times, moments = _by_look(con, names)
        segments = {segment: _by_segment(con, names, value) for segment, value in SEGMENTS.items()}
        order = con.execute("SELECT any_value(arm) AS arm FROM chosen GROUP BY user_id ORDER BY min(now), user_id")
        of_user = _numbers(order.fetchnumpy()["arm"], names)
        return Compared(arms, times, moments, segments, of_user, counts, shadows, looked)


@contextmanager
def _opened(log: Path | str, wanted: Wanted, memory_gib: float) -> Iterator[duckdb.DuckDBPyConnection]:
    """The log's tables; events count of all days, since a click may come after midnight."""
    with TemporaryDirectory(prefix="ranker-experiments-") as folder, engine(Path(folder), memory_gib) as con:
        try:
            days = set(wanted.days)
            found = files(log, Path(folder), lambda table, day: table != "impressions" or not days or day in days)
            views.create(con, found, Path(folder))
            yield con
        except LogError as error:
            raise LogError(f"{error}{f' (--days {chr(44).join(wanted.days)})' if wanted.days else ''}") from None
        except duckdb.OutOfMemoryException as error:
            raise LogError(f"{log}: more memory is needed, --memory GIB allows it: {first_line(error)}") from None
        except duckdb.Error as error:
            raise LogError(f"{log} cannot be read: {first_line(error)}") from None


def _refuse_empty(con: duckdb.DuckDBPyConnection, log: Path | str, wanted: Wanted) -> None:
    if not one(con, "SELECT count(*) FROM labelled"):
        what = "impressions that an event confirms" if wanted.rule.confirmed else "impressions"
        raise LogError(f"{log} holds no {what}: nothing was ranked, or RANKER_JOURNAL_SAMPLE keeps nobody")
    if not wanted.replays and not one(con, "SELECT count(*) FROM labelled WHERE NOT replay"):
        raise LogError(f"{log} holds only requests that named their time; --replays counts them")
    if not one(con, "SELECT sum(label) FROM labelled"):
        events = sorted(event for (event,) in con.execute("SELECT DISTINCT event FROM distinct_events").fetchall())
        there = f"its events are {', '.join(events)}: --label names the one that is a click" if events else "no event"
        raise LogError(f"{log} has no {wanted.rule.label} on what was shown; {there}")


def _chosen(con: duckdb.DuckDBPyConnection, wanted: Wanted) -> dict[str, int]:
    """Makes the table `chosen`, a row an impression that is compared, of the arm it counts for. Gives counts."""
    live = wanted.live
    con.execute(
        f"CREATE TABLE seen AS SELECT user_id, count(DISTINCT arm) AS arms, arg_min(arm, (read_us, arm)) AS first "
        f"FROM labelled WHERE {live} GROUP BY user_id"
    )
    kept = "arms = 1" if wanted.mixed == "out" else "true"
    con.execute(
        f"CREATE TABLE chosen AS SELECT l.* EXCLUDE (arm), s.first AS arm, arm <> s.first AS of_another "
        f"FROM labelled l JOIN seen s USING (user_id) WHERE {live} AND {kept}"
    )
    newest = "(SELECT max(now) FROM (SELECT now FROM impressions UNION ALL SELECT timestamp FROM events))"
    queries = {
        "users": "SELECT count(*) FROM seen",
        "mixed_users": "SELECT count(*) FROM seen WHERE arms > 1",
        "mixed_impressions": f"SELECT count(*) FROM labelled JOIN seen USING (user_id) WHERE arms > 1 AND {live}",
        "mixed_clicks": f"SELECT sum(label) FROM labelled JOIN seen USING (user_id) WHERE arms > 1 AND {live}",
        "live": f"SELECT count(*) FROM labelled WHERE {live}",
        "replayed": "SELECT 0" if wanted.replays else "SELECT count(*) FROM labelled WHERE replay",
        "named": "SELECT count(*) FROM labelled WHERE named = 1",
        "open": f"SELECT count(*) FROM chosen WHERE now > {newest} - {wanted.rule.window_ms}",
        "compared": "SELECT count(*) FROM chosen",
    }
    return {name: one(con, query) for name, query in queries.items()}


def _too_few(con: duckdb.DuckDBPyConnection, log: Path | str, wanted: Wanted, names: Sequence[str]) -> str:
    shown = [name for (name,) in con.execute("SELECT DISTINCT arm FROM labelled ORDER BY 1").fetchall()]
    if len(shown) > 1:
        return (
            f"{log} holds arms {', '.join(shown)}, but users who saw one alone only of {', '.join(names) or 'none'}: a "
            "balancer that keeps users apart is needed; --mixed first counts each user to the first arm seen"
        )
    return (
        f"{log} holds one arm, {shown[0]}: an experiment needs two (variant, else model and version); "
        "services with different bundles behind a balancer that keeps users apart make them"
    )


def _arm(con: duckdb.DuckDBPyConnection, name: str) -> Arm:
    of = f"FROM chosen WHERE arm = {literal(name)}"
    models = con.execute(
        f"SELECT model, version {of} AND NOT of_another GROUP BY ALL ORDER BY count(*) DESC, model, version"
    ).fetchall()
    begin, end, degraded = (one(con, f"SELECT {what} {of}") for what in ("min(now)", "max(now)", "sum(degraded::INT)"))
    return Arm(name, tuple(models), begin, end, degraded, _response(con, of))


def _response(con: duckdb.DuckDBPyConnection, of: str) -> Response:
    """The requests of a batch share an id and most of their time."""
    row = con.execute(
        "SELECT count(*), avg(us) / 1000, quantile_cont(us, 0.5) / 1000, quantile_cont(us, 0.99) / 1000 FROM "
        f"(SELECT any_value(took_us) AS us {of} AND NOT of_another AND took_us > 0 GROUP BY request_id "
        "HAVING count(DISTINCT (user_id, now)) = 1)"
    ).fetchone()
    assert row is not None
    return Response(*row)


def _apart(con: duckdb.DuckDBPyConnection, log: Path | str, arms: Sequence[Arm]) -> int:
    """Impressions of times when not all arms were shown. Raises LogError where there was no other time."""
    begin, end = max(arm.begin for arm in arms), min(arm.end for arm in arms)
    if begin > end:
        spans = "; ".join(f"{arm.name} {when(arm.begin)} … {when(arm.end)}" for arm in arms)
        raise LogError(f"{log}: its arms were never shown at the same time: {spans} UTC; --days names days they share")
    return one(con, f"SELECT count(*) FROM chosen WHERE now < {begin} OR now > {end}")


def when(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _by_look(con: duckdb.DuckDBPyConnection, names: Sequence[str]) -> tuple[Ints, Moments]:
    begin, end = one(con, "SELECT min(now) FROM chosen"), one(con, "SELECT max(now) FROM chosen")
    step = (end - begin) // LOOKS + 1
    rows = con.execute(
        "SELECT dense_rank() OVER (ORDER BY user_id) AS user, any_value(arm) AS arm, "
        f"(now - {begin}) // {step} AS look, count(*) AS x, sum(label)::DOUBLE AS y FROM chosen "
        "GROUP BY user_id, look ORDER BY user_id, look"
    ).fetchnumpy()
    user, look = (np.asarray(rows[name], np.int64) for name in ("user", "look"))
    x, y = (np.asarray(rows[name], np.float64) for name in ("x", "y"))
    moments = accumulate(user, _numbers(rows["arm"], names), look, x, y, (len(names), LOOKS))
    return np.minimum(begin + step * np.arange(1, LOOKS + 1), end), moments


def _by_segment(con: duckdb.DuckDBPyConnection, names: Sequence[str], value: str) -> dict[int, dict[int, Moments]]:
    rows = con.execute(
        "SELECT value, arm, count(*), sum(x), sum(y), sum(x * x), sum(x * y), sum(y * y) FROM "
        f"(SELECT {value} AS value, arm, count(*)::DOUBLE AS x, sum(label)::DOUBLE AS y FROM chosen "
        "GROUP BY value, arm, user_id) GROUP BY value, arm ORDER BY value, arm"
    ).fetchall()
    found: dict[int, dict[int, Moments]] = {}
    for at, arm, *sums in rows:
        moments = Moments(*(np.asarray(part, np.float64) for part in sums))
        found.setdefault(int(at), {})[names.index(arm)] = moments
    return found


def _numbers(texts: Any, names: Sequence[str]) -> Ints:
    """Arms by number; the names are sorted."""
    return np.searchsorted(np.asarray(names, object), np.asarray(texts, object))
