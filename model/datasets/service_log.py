"""The service's own log, as `python -m service.drain` writes it: what was shown, joined to what was clicked.

`raw` is the drain's folder or URL: the tables of model/servicelog/tables.py. What the log does not hold comes from
another prepared data set, `--base`: features of items, behaviours and profiles of before.

    impressions    an item that a request returned (or, --shown confirmed, that an impression event names) is a row; a
                   click of that request, user and item within the window makes it a positive
    context        as the request named it, else the feature's default, as in serving. A context feature `position`
                   is the place where the item stood, 1 the best; its default is what serving assumes
    behaviours     events, the base's behaviours, and what the store held at a user's first request in the log
    users          the base's profiles, and over them what the log last knew of each
    items          likewise: the base's, and features that requests named for items

`meta.json` in `raw` may name the time zone, as for tables of one's own; else it is the base's, else UTC.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from model.datasets.logged import today
from model.datasets.logged.base import Base
from model.datasets.logged.entities import Entities
from model.datasets.logged.told import notes
from model.datasets.own.meta import read_meta
from model.datasets.tables import AS_USED, DataError, DataSet, Options
from model.engine import engine, first_line, literal, progress, quoted
from model.features.kinds import Feature, to_text
from model.features.schema import Schema
from model.servicelog import joins, views
from model.servicelog.joins import one
from model.servicelog.reading import LogError, files, is_url
from model.servicelog.records import IMPRESSION

NAME = "service_log"
OPTIONS = ("base", "shown", "window_s", "label")

POSITION = "position"  # a context feature of this name is where an item stood
LABEL = "click"  # the action that is a positive, where there is one of this name
BEHAVIOUR = "user_id, action, object_type, object_id, timestamp"
COUNTED = {  # of the impressions and events as they are
    "requests": "SELECT count(*) FROM impressions",
    "users": "SELECT count(DISTINCT user_id) FROM impressions",
    "degraded": "SELECT count(*) FROM impressions WHERE len(degraded) > 0",
    "replays": "SELECT count(*) FROM impressions WHERE replay",
    "named_users": """SELECT count(*) FROM impressions WHERE "user" <> '{}'""",
    "explored": "SELECT count(item.propensity) FROM (SELECT unnest(items) AS item FROM impressions)",
    "sent_again": "SELECT sum(times - 1) FROM distinct_events",
}
# The store as it was at a user's first request of each model, which reads what that model wants.
HELD_BEFORE = (
    "SELECT user_id, unnest(behaviours, recursive := true) FROM impressions SEMI JOIN (SELECT user_id, model, version, "
    "min(read_us) AS read_us FROM impressions WHERE len(degraded) = 0 GROUP BY ALL) "
    "USING (user_id, model, version, read_us)"
)
# Of users: the profile that the store last had, what a request last named, and all that was set.
KNOWN_OF_USERS = (
    "SELECT user_id AS id, read_us AS time, profile AS named, false AS whole FROM impressions "
    "SEMI JOIN (SELECT user_id, max(read_us) AS read_us FROM impressions WHERE profile <> '{}' GROUP BY user_id) "
    "USING (user_id, read_us) "
    """UNION ALL SELECT user_id, read_us, "user", false FROM impressions """
    """SEMI JOIN (SELECT user_id, max(read_us) AS read_us FROM impressions WHERE "user" <> '{}' GROUP BY user_id) """
    "USING (user_id, read_us) "
    "UNION ALL SELECT user_id, stored_us, coalesce(profile, '{}'), coalesce(replaced, true) FROM users"
)
KNOWN_OF_ITEMS = (
    "SELECT item.item_id AS id, read_us AS time, item.features AS named, false AS whole FROM "
    "(SELECT read_us, unnest(items) AS item FROM impressions) WHERE item.features IS NOT NULL"
)


def write_tables(raw: Path | str, out: Path, options: Options, schema: Schema) -> DataSet:
    """Writes the tables. Raises DataError, OSError."""
    try:
        with TemporaryDirectory(dir=out, prefix=".read-") as folder, engine(out, options.memory_gib) as con:
            views.create(con, files(raw, Path(folder)), Path(folder))
            with progress(con, "joining clicks"):
                return _written(con, raw, out, options, schema)
    except LogError as error:
        raise DataError(str(error)) from None
    except duckdb.OutOfMemoryException as error:
        raise DataError(f"{raw}: more memory is needed, --memory GIB allows it: {first_line(error)}") from None
    except duckdb.Error as error:
        raise DataError(f"{raw} cannot be read: {first_line(error)}") from None


def _written(con: duckdb.DuckDBPyConnection, raw: Path | str, out: Path, options: Options, schema: Schema) -> DataSet:
    if not one(con, "SELECT count(*) FROM impressions"):
        raise DataError(f"{raw} holds no impressions: nothing was ranked, or RANKER_JOURNAL_SAMPLE keeps nobody")
    base = Base(con, options.base)
    time_zone = _time_zone(raw, base.folder)
    con.execute(
        f"CREATE TABLE distinct_events AS SELECT {joins.IDENTITY}, max(watch_ms) AS watch_ms, count(*) AS times "
        f"FROM events GROUP BY {joins.IDENTITY}"
    )
    counts = {name: one(con, query) for name, query in COUNTED.items()} | {"users_of_base": base.users_known}
    label, label_note = _label(con, schema, options.label)
    today_note = today.count(con, schema, time_zone) if schema.impressions_counted else ()
    counts |= _impressions(con, raw, out, schema, options, label)
    _behaviours(con, out, base)
    users = Entities(con, "user_id", schema.side("user"), base.users)
    users.write(KNOWN_OF_USERS, out / "users.parquet")
    items = Entities(con, "item_id", schema.side("item"), base.items)
    items.write(KNOWN_OF_ITEMS, out / "items.parquet")
    if items.unknown:
        raise DataError(
            f"features.toml names {', '.join(items.unknown)} of items, of which the log says nothing; "
            f"{'--base does not have them either' if base.items else '--base DATA, a prepared data set, may have them'}"
            "; or --features names a table without them"
        )
    told = (*label_note, *today_note, *notes(counts, options, base.folder), *users.notes, *items.notes)
    return DataSet(NAME, time_zone, notes=told, counts=counts)


def _time_zone(raw: Path | str, base: Path | None) -> str:
    own = None if is_url(raw) else Path(raw) / "meta.json"
    if own is not None and own.is_file():
        return read_meta(own)[0]
    return read_meta(base / "meta.json", ("time_zone",))[0] if base else "UTC"


def _label(con: duckdb.DuckDBPyConnection, schema: Schema, asked: str | None) -> tuple[str, list[str]]:
    """The action that makes a positive, and a note where that was our choice."""
    events = con.execute(f"SELECT DISTINCT event FROM events WHERE event <> {literal(IMPRESSION)}").fetchall()
    actions = list(dict.fromkeys([*schema.history.actions, *sorted(event for (event,) in events)]))
    if asked is not None:
        if asked not in actions:
            raise DataError(f"--label {asked!r} given, actions of features.toml and the log are: {', '.join(actions)}")
        return asked, []
    label = LABEL if LABEL in actions else actions[0]
    others = [action for action in actions if action != label]
    told = f"positives are events {label!r}; others are {', '.join(others)}, and --label takes one of them instead"
    return label, [told] if others else []


def _impressions(
    con: duckdb.DuckDBPyConnection, raw: Path | str, out: Path, schema: Schema, options: Options, label: str
) -> dict[str, int]:
    context = schema.side("context")
    values = "".join(f", {_value(feature)} AS c{at}" for at, feature in enumerate(context))
    source, used = ("counted", f", {AS_USED}") if schema.impressions_counted else ("impressions", "")
    con.execute(
        "CREATE TABLE returned AS SELECT request_id, user_id, item.item_id AS item_id, now, item.position AS place"
        f"{used}{values} FROM (SELECT request_id, user_id, now, context{used}, unnest(items) AS item FROM {source})"
    )
    for at, feature in enumerate(context):
        _to_numbers(con, raw, f"c{at}", feature)
    window_ms = round(options.window_s * 1000)
    rule = joins.Rule(label, schema.history.object_type, window_ms, options.shown == "confirmed")
    counts = joins.join(con, rule)
    if not counts["impressions"]:
        raise DataError(
            f"{raw}: no event {IMPRESSION!r} confirms one of the {counts['returned']} items that were returned; "
            "--shown returned takes all of them"
        )
    watched = one(con, "SELECT count(watch_ms) FROM distinct_events")
    named = "".join(f", c{at} AS {quoted(feature.name)}" for at, feature in enumerate(context))
    con.execute(
        f"COPY (SELECT user_id, item_id, now AS timestamp, label, request_id{', watch_ms' if watched else ''}"
        f"{used}{named} "
        f"FROM labelled) TO {literal(str(out / 'impressions.parquet'))} (FORMAT parquet)"
    )
    return counts


def _value(feature: Feature) -> str:
    """A context feature of one item, as SQL: its own, else the request's, else the default."""
    if feature.name == POSITION:
        return "item.position"
    path = literal(f'$."{feature.name}"')
    named = " ".join(
        f"WHEN json_exists({of}, {path}) THEN json_extract_string({of}, {path})" for of in ("item.features", "context")
    )
    return f"CASE {named} ELSE {literal(to_text(feature.default))} END"


def _to_numbers(con: duckdb.DuckDBPyConnection, raw: Path | str, column: str, feature: Feature) -> None:
    """Texts that stand for numbers become such. Raises DataError for one that does not."""
    if feature.name == POSITION or feature.listed or (feature.typed and feature.type == "str"):
        return
    kind, allowed = ("BIGINT", "integers") if feature.typed else ("DOUBLE", "numbers")
    wrong = con.execute(
        f"SELECT {column} FROM returned WHERE {column} IS NOT NULL AND TRY_CAST({column} AS {kind}) IS NULL LIMIT 1"
    ).fetchone()
    if wrong:
        raise DataError(
            f"{raw}: context {feature.name} was served as {wrong[0][:60]!r}, and features.toml declares {allowed}"
        )
    con.execute(f"ALTER TABLE returned ALTER {column} TYPE {kind}")


def _behaviours(con: duckdb.DuckDBPyConnection, out: Path, base: Base) -> None:
    parts: Sequence[str] = [
        f"SELECT user_id, event AS action, object_type, object_id, timestamp FROM events "
        f"WHERE event <> {literal(IMPRESSION)}",
        HELD_BEFORE,
    ]
    if base.behaviours:
        parts = [
            *parts,
            "SELECT CAST(user_id AS VARCHAR) AS user_id, action, object_type, CAST(object_id AS VARCHAR) AS object_id, "
            f"timestamp FROM read_parquet({literal(str(base.behaviours))}) ANTI JOIN (SELECT user_id AS gone "
            "FROM forgotten) ON gone = CAST(user_id AS VARCHAR)",
        ]
    rows = " UNION ALL ".join(f"SELECT {BEHAVIOUR} FROM ({part})" for part in parts)
    con.execute(
        f"COPY (SELECT DISTINCT {BEHAVIOUR} FROM ({rows})) "
        f"TO {literal(str(out / 'behaviours.parquet'))} (FORMAT parquet)"
    )
