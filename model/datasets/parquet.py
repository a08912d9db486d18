"""A user's own log: tables of any common form (model/datasets/own/sources.py) → the four canonical ones, checked.

`raw` holds `impressions` and `behaviours`, and may hold

    items, users     without them the ids that the log names, which then have no features
    meta.json        {"time_zone": "Europe/Berlin", "drawn_negatives": true}: where its days begin and end, UTC without
                     it; and whether the user drew the impressions without a click, which then nobody was shown
    features.toml    the feature table, unless --features names one

Columns of any type that holds the meaning without loss are taken (model/datasets/own/casting.py). Ids are integers or
strings as features.toml declares them, of one type in all tables. Columns that no feature names are passed on, but for
nested ones. A row is malformed that has a missing id, a time that is not in milliseconds, a label other than 0 and 1 or
a value that its feature cannot hold, as is the second row of an item or a user.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from model.datasets.own import casting, labels
from model.datasets.own.checking import COLUMNS, ENTITIES, IDS, Form, Table, check_columns
from model.datasets.own.meta import read_meta
from model.datasets.own.sources import Source, listed, opened, refuse_missing
from model.datasets.own.staged import Piece, staged
from model.datasets.tables import ITEM, BadLines, DataError, DataSet, Options
from model.engine import engine, first_line, literal
from model.features.ids import IdType
from model.features.schema import Schema

NAME = "parquet"
OPTIONS = ("map", "behaviours_from", "negatives")

SIDES = {"impressions": "context", "items": "item", "users": "user"}  # table → side of its features


def write_tables(raw: Path, out: Path, options: Options, schema: Schema | None = None) -> DataSet:
    """Writes the checked tables. Raises DataError, MalformedLine (with the row's number, or the line's), OSError.

    Without a schema columns of features are passed on as they are, and ids are integers where all tables have such.
    """
    try:
        return _written(raw, out, options, schema)
    except duckdb.OutOfMemoryException as error:
        raise DataError(f"{raw}: more memory is needed, --memory GIB allows it: {first_line(error)}") from None
    except duckdb.Error as error:
        raise DataError(f"{raw} cannot be read: {first_line(error)}") from None


def _written(raw: Path, out: Path, options: Options, schema: Schema | None) -> DataSet:
    time_zone, drawn = read_meta(raw / "meta.json")
    with TemporaryDirectory(dir=out, prefix=".read-") as folder, engine(out, options.memory_gib) as con:
        sources = opened(con, raw, options.map)
        refuse_missing(raw, sources, ("impressions", "behaviours"), options.behaviours_from == "impressions")
        pieces = {table: staged(con, source, Path(folder)) for table, source in sources.items()}
        for table, source in sources.items():
            check_columns(source, pieces[table])
        if schema is not None:
            _refuse_undescribed(raw, sources, schema)
        form = _form(con, pieces, sources, schema)
        bad, notes = BadLines(options.skip_bad), []
        for table, source in sources.items():
            notes += Table(con, source, pieces[table], form, bad).write(out / f"{table}.parquet")
        if time_zone != "UTC":
            notes += _without_zone(sources)
        if options.behaviours_from == "impressions":
            _behaviours(con, out, form.object_type)
        labels.check(con, out / "impressions.parquet", sources["impressions"].path, options.negatives, drawn)
        if options.negatives:
            notes += labels.draw_negatives(con, out, options.negatives, options.seed, time_zone, form.object_type)
        for table in ENTITIES:
            if table not in sources:
                _ids_seen(con, table, out, form)
    return DataSet(NAME, time_zone, bad.count, tuple(notes), drawn or options.negatives > 0)


def _refuse_undescribed(raw: Path, sources: Mapping[str, Source], schema: Schema) -> None:
    for table in ENTITIES:
        columns = [f.name for f in schema.side(SIDES[table]) if f.name not in IDS]  # type: ignore[arg-type]
        if columns and table not in sources:
            raise DataError(
                f"{raw} holds no {table}, of which features.toml names {listed(columns)}; {table}.parquet, .csv, .tsv, "
                f".jsonl or a folder {table} of parts is needed, or a features.toml without them"
            )


def _form(
    con: duckdb.DuckDBPyConnection,
    pieces: Mapping[str, Sequence[Piece]],
    sources: Mapping[str, Source],
    schema: Schema | None,
) -> Form:
    declared: dict[str, IdType] = {}
    object_type, groups = ITEM, set[IdType]()
    if schema is not None:
        object_type, groups = schema.history.object_type, {group.type for group in schema.groups}
        declared = {"user_id": schema.user_id, "item_id": schema.item_id.type}
    ids = {of: _id_type(con, of, declared.get(of), pieces, sources, object_type) for of in ("user_id", "item_id")}
    texts = "str" in groups or _has_other_objects(con, pieces.get("behaviours", ()), object_type)
    ids["object_id"] = "str" if texts else ids["item_id"]
    features: dict[str, dict[str, tuple[str, IdType]]] = {table: {} for table in SIDES}
    if schema is not None:
        for table, side in SIDES.items():
            for feature in schema.side(side):  # type: ignore[arg-type]  # mypy widens the literals to str
                kind = "several" if feature.listed else "one" if feature.typed else "number"
                features[table][feature.name] = (kind, feature.type)
    return Form(ids, features, object_type)


def _has_other_objects(con: duckdb.DuckDBPyConnection, pieces: Sequence[Piece], object_type: str) -> bool:
    """Whether there are behaviours on objects that are no items, with ids that are no integers: s1, of a shop."""
    for piece in pieces:
        cast = casting.integer_id(piece.expressions["object_id"], piece.columns["object_id"])
        if cast is not None and casting.family(piece.columns["object_id"]) == "text":
            others = f"{piece.expressions['object_type']} <> {literal(object_type)} AND {cast.refused}"
            if con.execute(f"SELECT 1 FROM {piece.relation} WHERE {others} LIMIT 1").fetchall():
                return True
    return False


def _id_type(
    con: duckdb.DuckDBPyConnection,
    of: str,
    declared: IdType | None,
    pieces: Mapping[str, Sequence[Piece]],
    sources: Mapping[str, Source],
    object_type: str,
) -> IdType:
    """The type of ids in all tables: as declared, else integers where they are such everywhere.

    Where some tables have integers and others text, the text must be digits throughout: else nothing would join.
    """
    there = [
        (table, column, piece)
        for table, some in pieces.items()
        for piece in some
        for column in COLUMNS[table]
        if IDS.get(column) == of and column in piece.columns
    ]
    texts = [place for place in there if casting.family(place[2].columns[place[1]]) == "text"]
    numbers = [place for place in there if place not in texts]
    if numbers and texts and declared != "int":  # of integers a row's fault is told
        for table, column, piece in texts:
            cast = casting.integer_id(piece.expressions[column], piece.columns[column])
            as_text = casting.text(piece.expressions[column], piece.columns[column])
            assert cast is not None and as_text is not None  # of text
            # 007 and 7.0 are integers, but not the text that stands for 7 where ids are strings: nothing would join.
            other_text = f"CAST({cast.sql} AS VARCHAR) <> {as_text.sql}" if declared else "false"
            query = f"SELECT {cast.raw} FROM {piece.relation} WHERE (({cast.refused}) OR {other_text})"
            if column == "object_id":
                query += f" AND {piece.expressions['object_type']} = {literal(object_type)}"
            refused = con.execute(f"{query} LIMIT 1").fetchall()
            if refused:
                other, name, whole = numbers[0]
                others = f"{name} of {sources[other].path.name} is {whole.columns[name]}"
                raise DataError(
                    f"{sources[table].path}: {column} is text ({refused[0][0]!r}), but {others}; one type is allowed: "
                    "write both as text or both as integers"
                )
    return declared or ("int" if numbers or not there else "str")


def _behaviours(con: duckdb.DuckDBPyConnection, out: Path, object_type: str) -> None:
    """Every clicked impression is a behaviour of its time."""
    con.execute(
        f"COPY (SELECT user_id, 'click' AS action, {literal(object_type)} AS object_type, item_id AS object_id, "
        f"timestamp FROM read_parquet({literal(str(out / 'impressions.parquet'))}) WHERE label = 1) "
        f"TO {literal(str(out / 'behaviours.parquet'))} (FORMAT parquet)"
    )


def _ids_seen(con: duckdb.DuckDBPyConnection, table: str, out: Path, form: Form) -> None:
    """The table of ids that the log names, in their order."""
    (name,) = COLUMNS[table]
    impressions, behaviours = (
        f"read_parquet({literal(str(out / f'{t}.parquet'))})" for t in ("impressions", "behaviours")
    )
    acted = f"SELECT user_id FROM {behaviours}"
    if table == "items":
        type = "BIGINT" if form.ids["item_id"] == "int" else "VARCHAR"
        acted = f"SELECT CAST(object_id AS {type}) FROM {behaviours} WHERE object_type = {literal(form.object_type)}"
    query = f"SELECT DISTINCT {name} FROM (SELECT {name} FROM {impressions} UNION ALL {acted}) ORDER BY {name}"
    con.execute(f"COPY ({query}) TO {literal(str(out / f'{table}.parquet'))} (FORMAT parquet)")


def _without_zone(sources: Mapping[str, Source]) -> list[str]:
    plain = [
        f"{table}.timestamp"
        for table, source in sources.items()
        if source.columns.get("timestamp", "") in ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
    ]
    return [f"{' and '.join(plain)}: times without a zone, taken for UTC"] if plain else []
