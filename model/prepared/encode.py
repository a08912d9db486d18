"""Four canonical tables → the training form: encoded columns, sorted behaviours, ends of histories, meta.json."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import tomli_w

from model.datasets.tables import DataSet, Options
from model.features.catalog import FILE, FOLDER, Catalog
from model.features.counts import FILE as COUNTS
from model.features.encode import Encoder
from model.features.ids import Keys
from model.features.kinds import Column, Feature
from model.features.schema import Schema
from model.features.today import Calendar
from model.files import write_json
from model.prepared.arrays import make, put
from model.prepared.counted import Counted, Parts
from model.prepared.engines import Engine
from model.prepared.entities import PrepareError
from model.prepared.fit import fit
from model.prepared.matched import codes, matched_features
from model.prepared.numbered import Behaviours, Log
from model.prepared.onduckdb import DuckDb
from model.prepared.order import KEPT
from model.prepared.paired import AllPairs
from model.prepared.slices import Plan, raw_column, save_columns
from model.prepared.splits import SPLITS, Split, by_day, by_tenths
from model.prepared.summary import refuse_other_actions, summarised
from model.prepared.today import SHOWN, counts_impressions

ROWS = 1_000_000  # of an array that are written at once


def encode_tables(
    folder: Path, schema: Schema, dataset: DataSet, older: Encoder | None = None, how: Options | None = None
) -> dict[str, Any]:
    """Encodes `folder/tables` into `folder`: features.toml, vocab/, catalog/, encoded/, meta.json (returned).

    Of `how` the delay, on which histories depend; memory, processes and parts, on which no byte written depends.
    """
    how = how or Options()
    encoded = folder / "encoded"
    encoded.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".work-") as place, _engine(how, Path(place)) as engine:
        work = Path(place)
        with engine.queries():
            with engine.progress("numbering ids"):
                log = Log(engine, folder / "tables", schema, work)
                found = refuse_other_actions(log)
                users, items = log.users, log.items
            with engine.progress("sorting impressions"):
                context = log.context(schema.side("context"))
                coded = tuple(column is not None for column in context.values())
                impressions = log.write_impressions(list(zip(context, coded, strict=True)))
                split = _split(log, dataset.time_zone)
            train = split.sql("train")
            with engine.progress("sorting behaviours"):
                behaviours = {group.object_type: log.write_behaviours(group, train) for group in log.groups}
                shown = log.write_shown() if counts_impressions(schema, [*log.columns["impressions"]]) else None
            columns, seen = _columns(log, context, behaviours, dataset.drawn_negatives, train)
            np.save(encoded / "matched.npy", matched := codes(schema, columns, len(items)))
            pairs = None
            if schema.paired:
                with engine.progress("counting pairs"):
                    done, _ = behaviours[schema.history.object_type]
                    of_features = dict(zip(matched_features(schema), matched.T, strict=True))
                    pairs = AllPairs.of(schema, columns, of_features, done.path, dataset.time_zone)
                    pairs.save(encoded)
            counted, raw = None, partial(raw_column, work, "cross")
            count = log.count("shown")
            if schema.counting:
                with engine.progress("counting"):
                    counted = Counted(schema, impressions, dataset.time_zone, _parts_of(schema, columns, context))
                    counted.write_columns(raw, count)
            fitted = (counted.fitted(raw, split) if counted else {}) | {
                feature.name: log.exact_mean(f"c{at}", train)
                for at, feature in enumerate(schema.side("context"))
                if feature.is_float and not coded[at]
            }
            encoder = fit(schema, columns, seen, fitted, older, dataset.time_zone)
            kept = tuple(name for name in KEPT if name in log.columns["impressions"])
            unused, holes = log.unused(), log.holes()
            unlisted = log.unlisted(behaviours[schema.history.object_type][0].table)

        (folder / "features.toml").write_text(tomli_w.dumps(schema.as_dict()))
        encoder.save(folder / "vocab")
        (folder / FOLDER).mkdir(exist_ok=True)
        Catalog.build(schema, items.keys, _of(columns, schema.side("item"))).save(folder / FOLDER / FILE)
        if counted:
            days, calendar = counted.newest_days(), Calendar(dataset.time_zone)
            begins = [*map(calendar.begin_ms, days)]
            of_pairs = pairs.records(begins) if pairs else []
            counted.table(days, begins, of_pairs).save(folder / FOLDER / COUNTS, schema)
        for side, entities in (("user", users), ("item", items)):
            features = schema.side(side)  # type: ignore[arg-type]  # mypy widens the tuple's literals to str
            entities.ids.rechunk().to_frame().write_parquet(encoded / f"{side}s.parquet")
            save_columns(work, side, _of(columns, features))
            _save_entities(encoded, side, encoder, columns, len(entities))
        save_columns(work, "context", context)
        for at, (group, (done, _)) in enumerate(behaviours.items()):
            rows = None
            if at:  # an object is known by its id alone, so that its table row can stand for it
                feature = schema.groups[at - 1].feature
                rows = encoder.rows([feature], columns, len(columns[group]))[:, 0].astype(np.int32)
            _save_behaviours(encoded, f"{group}_" if at else "", done, rows)
        groups: tuple[str, ...] = ("", *(f"{group.object_type}_" for group in schema.groups))
        if shown:
            _save_shown(encoded, *shown)
            groups = (*groups, SHOWN)
        _make_room(encoded, schema, encoder, count, groups, {name: log.kept_type(name) for name in kept})
        plan = Plan(folder, work, impressions, split, coded, groups, kept, round(how.delay_s * 1000))
        told = engine.encode(plan, count)
    meta = {
        "dataset": dataset.name,
        "time_zone": dataset.time_zone,
        "bad_lines": dataset.bad_lines,
        "notes": [*dataset.notes, *([split.note] if split.note else []), *schema.remarks, *_drawn(schema, dataset)],
        "drawn_negatives": dataset.drawn_negatives,
        **({"log": dict(dataset.counts)} if dataset.counts else {}),
        "impressions": dict(zip(SPLITS, told.rows.tolist(), strict=True)),
        "click_rate": float(told.clicks[0] / max(1, told.rows[0])),
        "split": split.described,
        "delay_s": how.delay_s,
        "users": len(users),
        "items": len(items),
        "behaviours": behaviours[schema.history.object_type][0].count,
        "summary": summarised(told, found, unused) | {"list_holes": holes, "unlisted": unlisted},
    }
    write_json(folder / "meta.json", meta)
    return meta


def _drawn(schema: Schema, dataset: DataSet) -> list[str]:
    if not (dataset.drawn_negatives and schema.impressions_counted):
        return []
    return ["impressions of the day are counted, and negatives were drawn: they say nothing of what was shown"]


@contextmanager
def _engine(how: Options, work: Path) -> Iterator[Engine]:
    """The engine that the options name, with its files in `work`. Raises PrepareError where it is not there."""
    if how.engine == "spark":
        from model.prepared.onspark import on_spark  # Spark and Java, only where they are wanted

        with on_spark(how, work) as spark:
            yield spark
    else:
        yield DuckDb(how, work)


def _split(log: Log, time_zone: str) -> Split:
    if "split" in log.columns["impressions"]:
        split = Split(None, "of the table")
    else:
        days = log.days(time_zone)
        split = by_day(days) or by_tenths(*log.tenths(), days)
    if not log.count(f"(SELECT 1 FROM shown WHERE {split.sql('train')} LIMIT 1)"):
        raise PrepareError("the table's own split leaves train empty")
    return split


def _columns(
    log: Log,
    context: Mapping[str, Column | None],
    behaviours: Mapping[str, tuple[Behaviours, Keys]],
    drawn_negatives: bool,
    train: str,
) -> tuple[dict[str, Column], dict[str, npt.NDArray[np.int64]]]:
    """Raw columns by feature, and how often training saw each of their rows."""
    columns: dict[str, Column] = {}
    seen: dict[str, npt.NDArray[np.int64]] = {}
    # What was merely drawn was not seen: were it counted, a rare item that is known would tell that it was drawn.
    shown = f"{train} AND label > 0" if drawn_negatives else train
    clicked, _ = next(iter(behaviours.values()))
    for side, entities in (("user", log.users), ("item", log.items)):
        counts = log.counted(
            f"SELECT {side} AS row, count(*) AS n FROM shown WHERE {shown} GROUP BY {side}", len(entities)
        )
        for feature in log.schema.side(side):  # type: ignore[arg-type]
            columns[feature.name] = entities.column(feature)
            seen[feature.name] = counts + clicked.seen if side == "item" else counts
    for place, (name, column) in enumerate(context.items()):
        if column is not None:
            columns[name] = column
            seen[name] = log.counted(
                f"SELECT c{place} AS row, count(*) AS n FROM shown WHERE {train} GROUP BY c{place}", len(column)
            )
    for group in log.schema.groups:
        done, columns[group.object_type] = behaviours[group.object_type]
        seen[group.object_type] = done.seen
    return columns, seen


def _parts_of(schema: Schema, columns: Mapping[str, Column], context: Mapping[str, Column | None]) -> Parts:
    """How a slice of the impressions as numbers has the keys of what a statistic is of."""
    place = {name: at for at, name in enumerate(context)}
    side_of = {feature.name: feature.side for feature in schema.features}

    def keys(name: str, frame: pl.DataFrame) -> Keys:
        of = frame[f"c{place[name]}" if name in place else side_of[name]].to_numpy()
        chosen: Keys = columns[name][of]
        return chosen

    return keys


def _of(columns: Mapping[str, Column], features: Sequence[Feature]) -> dict[str, Column]:
    return {feature.name: columns[feature.name] for feature in features}


def _save_entities(encoded: Path, side: str, encoder: Encoder, columns: Mapping[str, Column], count: int) -> None:
    features = encoder.schema.side(side)  # type: ignore[arg-type]
    rows, numbers = encoded / f"{side}s.npy", encoded / f"{side}s_numbers.npy"
    make(rows, np.int32, (count, sum(f.columns for f in features if not f.is_float)))
    make(numbers, np.float32, (count, sum(f.is_float for f in features)))
    for at in range(0, count, ROWS):
        piece = {feature.name: columns[feature.name][at : at + ROWS] for feature in features}
        length = min(ROWS, count - at)
        put(rows, at, encoder.rows(features, piece, length))
        put(numbers, at, encoder.numbers(features, piece, length))


def _save_behaviours(encoded: Path, prefix: str, done: Behaviours, rows: npt.NDArray[np.int32] | None) -> None:
    """A group's arrays; `rows` are the table rows of its objects, where the object is not looked up otherwise."""
    np.save(encoded / f"{prefix}begin.npy", done.begin)
    files = {name: encoded / f"{prefix}{name}.npy" for name in ("clicked", "clicked_at", "acted")}
    for file, dtype in zip(files.values(), (np.int32, np.int64, np.int8), strict=True):
        make(file, dtype, (done.count,))
    for at in range(0, done.count, ROWS):
        frame = pl.scan_parquet(done.path).slice(at, ROWS).collect()
        objects = frame["object"].to_numpy()
        put(files["clicked"], at, objects if rows is None else rows[objects])
        put(files["clicked_at"], at, frame["time"].to_numpy())
        put(files["acted"], at, frame["acted"].to_numpy())


def _save_shown(encoded: Path, path: Path, begin: npt.NDArray[np.int64], count: int) -> None:
    """Times of what was shown, as those of a group's behaviours."""
    np.save(encoded / f"{SHOWN}begin.npy", begin)
    times = encoded / f"{SHOWN}clicked_at.npy"
    make(times, np.int64, (count,))
    for at in range(0, count, ROWS):
        put(times, at, pl.scan_parquet(path).slice(at, ROWS).collect()["time"].to_numpy())


def _make_room(
    encoded: Path,
    schema: Schema,
    encoder: Encoder,
    count: int,
    groups: Sequence[str],
    kept: Mapping[str, npt.DTypeLike],
) -> None:
    """The arrays of the impressions at their full size, which the slices fill."""
    context = schema.side("context")
    rows = sum(f.columns for f in context if not f.is_float)
    plain = {"user": np.int32, "item": np.int32, "time": np.int64, "label": np.int8, "split": np.int8}
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {name: (dtype, (count,)) for name, dtype in plain.items()}
    shapes |= {name: (dtype, (count,)) for name, dtype in kept.items()}
    shapes |= {f"{group}end": (np.int64, (count,)) for group in groups}
    shapes["context"] = np.int32, (count, rows)
    shapes["context_numbers"] = np.float32, (count, sum(f.is_float for f in context))
    shapes["cross"] = np.int32, (count, len(schema.crosses))
    shapes["cross_numbers"] = np.float32, (count, len(schema.statistics))
    for name, (dtype, shape) in shapes.items():
        make(encoded / f"{name}.npy", dtype, shape)
