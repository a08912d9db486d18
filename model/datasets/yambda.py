"""Yambda: 300 days of Yandex Music, in samples of 50 million, 500 million and 5 billion events. Ploshkin et al., 2025.

https://huggingface.co/datasets/yandex/yambda, Apache 2.0. `raw` is the folder `flat/50m`, `flat/500m` or `flat/5b`:

    multi_event.parquet     all events; where it is missing, listens.parquet with any of likes, dislikes, unlikes and
                            undislikes.parquet, which hold the same
    artist_item_mapping.parquet, album_item_mapping.parquet     there or up to two folders above, as downloaded

An impression is a listen that a recommendation brought about (`is_organic` 0), a click where half of the track or more
was played, the publishers' own line between a listen and none. Behaviours are all events, own choices included:
`listen` from half of the track on, else `skip`, and `like`, `dislike`, `unlike`, `undislike`.

Times are seconds since the log's unknown beginning, in steps of 5. They are counted back from midnight of 1 January
2025 (UTC), where the log ends: so the last calendar day is the log's last 24 hours, which its publishers test on. The
half hour that they leave out before it is not left out here: it is the end of the validation day.

It is not said whether a listen's time is its beginning or its end. A `like` may then come before the listen that it
belongs to and tell its label; the feature table takes `listen` alone into histories.

Nothing but items and users is ever in memory at once: DuckDB streams within --memory.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from model.datasets.checks import coverage, unpack_first
from model.datasets.tables import ITEM, BadLines, DataError, DataSet, MalformedLine, Options
from model.engine import engine, first_line, literal, progress

NAME = "yambda"
TIME_ZONE = "UTC"
END_MS = 1_735_689_600_000  # 1 January 2025, 00:00 UTC
STEP_S = 5  # of times
MOST_S = 10 * 366 * 86_400  # of a time; what is larger is no time since the log's beginning
LISTENED = 50  # per cent of a track

LISTEN = "listen"
EVENTS = {LISTEN: "listens", "like": "likes", "dislike": "dislikes", "unlike": "unlikes", "undislike": "undislikes"}
ALL = "multi_event.parquet"
NEEDED = ("uid", "timestamp", "item_id", "is_organic")
LISTENS = ("played_ratio_pct", "track_length_seconds")  # null in multi_event for what is no listen
MAPPINGS = {"artist_id": "artist_item_mapping.parquet", "album_id": "album_item_mapping.parquet"}

FAULTS = (  # of an event: where it is one, its column, what is allowed
    ("uid IS NULL", "uid", "an integer"),
    ("item_id IS NULL", "item_id", "an integer"),
    (f"timestamp IS NULL OR timestamp NOT BETWEEN 0 AND {MOST_S}", "timestamp", f"seconds, 0 to {MOST_S},"),
    (f"event IS NULL OR event NOT IN ({', '.join(map(literal, EVENTS))})", "event_type", ", ".join(EVENTS)),
    (f"event = '{LISTEN}' AND (is_organic IS NULL OR is_organic NOT IN (0, 1))", "is_organic", "0 or 1"),
    (f"event = '{LISTEN}' AND played_ratio_pct IS NULL", "played_ratio_pct", "a number"),
)


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the events in `raw`. Raises DataError, MalformedLine, OSError."""
    files = _files(raw)
    bad = BadLines(options.skip_bad)
    told = _told(raw, options.memory_gib)
    with told, engine(out, options.memory_gib) as connection, progress(connection, "reading events"):
        queries = [_query(connection, file, event) for file, event in files.items()]
        for file, query in zip(files, queries, strict=True):
            _refuse_faults(connection, file, query, bad)
        faulty = " OR ".join(f"({fault})" for fault, _, _ in FAULTS)
        connection.execute(f"CREATE VIEW raw AS {' UNION ALL '.join(queries)}")
        connection.execute(f"CREATE VIEW good AS SELECT * FROM raw WHERE ({faulty}) IS NOT TRUE")
        (last,) = _row(connection, "SELECT max(timestamp) FROM good")
        if last is None:
            raise DataError(f"{next(iter(files))} holds no events")
        since = f"{END_MS} - ({last} + {STEP_S} - timestamp) * 1000"
        connection.execute(f"CREATE VIEW events AS SELECT * REPLACE ({since} AS timestamp) FROM good")
        notes = _write(connection, raw, out)
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes))


@contextmanager
def _told(raw: Path, memory_gib: float) -> Iterator[None]:
    """What the engine refuses, in words."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise DataError(
            f"{raw}: more memory is needed than {memory_gib:g} GiB, --memory allows it: {first_line(error)}"
        ) from None
    except duckdb.Error as error:
        raise DataError(f"{raw} cannot be read: {first_line(error)}") from None


def _files(raw: Path) -> dict[Path, str | None]:
    """The files to read, and the event that each holds; None where a column names it."""
    if (raw / ALL).is_file():
        return {raw / ALL: None}
    files: dict[Path, str | None] = {raw / f"{name}.parquet": event for event, name in EVENTS.items()}
    if not (raw / "listens.parquet").is_file():
        below = sorted(str(path.parent) for path in raw.glob(f"flat/*/{ALL}"))
        hint = f"; --raw {below[0]} does" if below else unpack_first(raw)
        raise DataError(f"{raw} holds neither {ALL} nor listens.parquet{hint}")
    return {file: event for file, event in files.items() if file.is_file()}


def _columns(connection: duckdb.DuckDBPyConnection, file: Path) -> dict[str, str]:
    """The types of a Parquet file's columns, by name."""
    try:
        rows = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(str(file))})").fetchall()
    except duckdb.Error as error:
        raise DataError(f"{file} cannot be read as Parquet: {first_line(error)}") from None
    return {name: type for name, type, *_ in rows}


def _refuse_missing(file: Path, there: Mapping[str, str], needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in there]
    if missing:
        raise DataError(f"{file} has no column {', '.join(missing)}; there are {', '.join(there)}")
    lists = [name for name in needed if there[name].endswith("[]")]
    if lists:
        raise DataError(f"{file}: {', '.join(lists)} are lists, as in the folder sequential; the folder flat is read")


def _query(connection: duckdb.DuckDBPyConnection, file: Path, event: str | None) -> str:
    """The file's events as SQL. Raises DataError for a file of another form."""
    there = _columns(connection, file)
    own = LISTENS if event in (None, LISTEN) else ()
    _refuse_missing(file, there, (*NEEDED, *own, *(() if event else ("event_type",))))
    named = literal(event) if event else "CAST(event_type AS VARCHAR)"
    listens = ", ".join(name if own else f"NULL AS {name}" for name in LISTENS)
    return (
        "SELECT CAST(uid AS BIGINT) AS uid, CAST(item_id AS BIGINT) AS item_id, CAST(timestamp AS BIGINT) AS timestamp,"
        f" is_organic, {listens}, {named} AS event, file_row_number "
        f"FROM read_parquet({literal(str(file))}, file_row_number = true)"
    )


def _row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def _refuse_faults(connection: duckdb.DuckDBPyConnection, file: Path, query: str, bad: BadLines) -> None:
    """Adds the file's malformed rows to `bad`."""
    cases = " ".join(f"WHEN {fault} THEN {number}" for number, (fault, _, _) in enumerate(FAULTS))
    values = ", ".join(f"CAST({'event' if name == 'event_type' else name} AS VARCHAR)" for _, name, _ in FAULTS)
    rows = connection.execute(
        f"SELECT file_row_number + 1, CASE {cases} END AS fault, [{values}] FROM ({query}) "
        f"WHERE fault IS NOT NULL ORDER BY 1 LIMIT {bad.allowed + 1}"
    ).fetchall()
    for number, fault, given in rows:
        _, name, allowed = FAULTS[fault]
        value = "nothing" if given[fault] is None else repr(given[fault])
        bad.add(MalformedLine(file, number, f"{name}: {value} given, {allowed} is allowed", "row"))


def _write(connection: duckdb.DuckDBPyConnection, raw: Path, out: Path) -> list[str]:
    def write(table: str, query: str) -> int:
        """Writes a table; gives its rows."""
        (rows,) = _row(connection, f"COPY ({query}) TO {literal(str(out / f'{table}.parquet'))} (FORMAT parquet)")
        return int(rows)

    listened = f"played_ratio_pct >= {LISTENED}"
    shown = write(
        "impressions",
        f"SELECT uid AS user_id, item_id, timestamp, CAST({listened} AS TINYINT) AS label, "
        "CAST(played_ratio_pct * CAST(track_length_seconds AS BIGINT) * 10 AS BIGINT) AS watch_ms "
        f"FROM events WHERE event = '{LISTEN}' AND is_organic = 0",
    )
    if not shown:
        raise DataError(f"{raw} holds no listen that a recommendation brought about (is_organic 0)")
    write(
        "behaviours",
        f"SELECT uid AS user_id, CASE WHEN event <> '{LISTEN}' THEN event WHEN {listened} THEN '{LISTEN}' "
        f"ELSE 'skip' END AS action, '{ITEM}' AS object_type, item_id AS object_id, timestamp FROM events",
    )
    connection.execute(
        "CREATE TABLE tracks AS SELECT item_id, CAST(max(track_length_seconds) AS BIGINT) AS track_length_s "
        "FROM events GROUP BY item_id"
    )
    notes, joins, columns = [], "", ""
    for name, file_name in MAPPINGS.items():
        file = next((folder / file_name for folder in _near(raw) if (folder / file_name).is_file()), None)
        if file is None:
            notes.append(f"{file_name} is neither in {raw} nor up to two folders above: {name} is unknown for all")
            columns += f", CAST(NULL AS BIGINT) AS {name}"
            continue
        _refuse_missing(file, _columns(connection, file), ("item_id", name))
        # A track may have several artists; which one is taken does not depend on the order of rows.
        connection.execute(
            f"CREATE TABLE {name} AS SELECT CAST(item_id AS BIGINT) AS item_id, CAST(min({name}) AS BIGINT) AS {name} "
            f"FROM read_parquet({literal(str(file))}) WHERE item_id IN (SELECT item_id FROM tracks) GROUP BY item_id"
        )
        notes += coverage(_ids(connection, "tracks"), _ids(connection, name), file)
        columns += f", {name}.{name}"
        joins += f" LEFT JOIN {name} USING (item_id)"
    write("items", f"SELECT item_id, track_length_s{columns} FROM tracks{joins} ORDER BY item_id")
    write("users", "SELECT DISTINCT uid AS user_id FROM events ORDER BY user_id")
    return notes


def _ids(connection: duckdb.DuckDBPyConnection, table: str) -> pl.Series:
    return pl.Series(connection.execute(f"SELECT item_id FROM {table}").fetchnumpy()["item_id"])


def _near(raw: Path) -> list[Path]:
    return [raw, *raw.resolve().parents[:2]]
