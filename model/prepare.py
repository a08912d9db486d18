"""Raw log → prepared data set: canonical tables, splits, vocabularies, catalogue and the training form.

    python -m model.prepare --dataset simulated --impressions 1000000 --seed 1 --out data/simulated
    python -m model.prepare --dataset kuairand --raw KuaiRand-Pure/data --out data/kuairand

Everything fitted (vocabularies, statistics) is fitted on the training split alone: an item first seen on the test day
is unknown. The folder is written beside and renamed into place, so that a killed run leaves none that looks whole.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import tomli_w
from tqdm import tqdm

from model import datasets
from model.datasets.tables import DataSet, Options
from model.entities import Entities, PrepareError, series_column, table_series
from model.features import schema as features_toml
from model.features.catalog import FILE, Catalog
from model.features.columns import Column
from model.features.encode import Encoder, Statistics
from model.features.ids import ABSENT, FIRST, MISSING, Keys
from model.features.schema import Group, Schema, SchemaError
from model.features.table import Vocabulary
from model.loader import SPLITS

CHUNK = 1_000_000  # impressions encoded at once: bounds memory, not the result
KEPT = ("watch_ms", "true_probability")  # columns of impressions that are no features, kept where the log has them
Counts = npt.NDArray[np.int64]


def prepare(
    dataset: str,
    raw: Path | None,
    out: Path,
    options: Options,
    features: Path | None = None,
    grow: Path | None = None,
) -> dict[str, Any]:
    """Writes the prepared data set `out` and returns its meta.json. Raises PrepareError, SchemaError, MalformedLine.

    `grow` is a bundle or a prepared data set whose encoding goes on: its rows stay, new ids get rows after them.
    """
    if out.exists() and (any(out.iterdir()) if out.is_dir() else True) and not (out / "meta.json").exists():
        raise PrepareError(f"--out {out} holds something that is no prepared data set; name an empty or a new folder")
    schema = features_toml.load(features or datasets.features(dataset, raw))
    older = _older(grow, schema) if grow else None
    out = out.resolve()
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "tables").mkdir(parents=True)
    try:
        made = datasets.load(dataset).write_tables(raw, partial / "tables", options)
        meta = encode_tables(partial, schema, made, older)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return meta


def _older(folder: Path, schema: Schema) -> Encoder:
    folder = folder / "current" if (folder / "current").is_dir() else folder
    try:
        older = Encoder.open(folder)
    except (OSError, KeyError, ValueError) as error:
        raise PrepareError(f"--grow {folder} is neither a bundle nor a prepared data set: {error}") from None
    if features_toml.without_sizes(older.schema) != features_toml.without_sizes(schema):
        raise PrepareError(f"--grow {folder} encodes other features; the same features.toml is needed (--features)")
    return older


def encode_tables(folder: Path, schema: Schema, made: DataSet, older: Encoder | None = None) -> dict[str, Any]:
    """Encodes `folder/tables` into `folder`: features.toml, vocab/, catalog/, encoded/, meta.json (returned)."""
    tables = folder / "tables"
    impressions = _impressions(tables / "impressions.parquet", schema)
    if impressions.is_empty():
        raise PrepareError("the log holds no impressions")
    log = pl.scan_parquet(tables / "behaviours.parquet")
    history = schema.history
    behaviours = _of_group(log, history.object_type, history.actions)
    others = {group.object_type: _of_group(log, group.object_type, group.actions) for group in schema.groups}
    named = [frame["user_id"] for frame in (impressions, behaviours, *others.values())]
    users = Entities("user_id", schema.user_id, pl.read_parquet(tables / "users.parquet"), named)
    shown_or_clicked = [impressions["item_id"], behaviours["object_id"]]
    items = Entities("item_id", schema.item_id.type, pl.read_parquet(tables / "items.parquet"), shown_or_clicked)
    user, item = users.rows(impressions["user_id"]), items.rows(impressions["item_id"])
    time = impressions["timestamp"].to_numpy()
    split, between = _split(impressions, made.time_zone)
    train = split == SPLITS.index("train")
    # What was merely drawn was not seen: were it counted, a rare item that is known would tell that it was drawn.
    shown = train & (impressions["label"].to_numpy() > 0) if made.drawn_negatives else train
    clicks, seen_clicks = _behaviours(
        behaviours, history.actions, users, items.rows(behaviours["object_id"]), items.keys, user, time, train
    )
    seen_items = np.bincount(item[shown], minlength=len(items)) + np.bincount(
        clicks["clicked"][seen_clicks], minlength=len(items)
    )
    columns = {
        "user": {f.name: users.column(f) for f in schema.side("user")},
        "item": {f.name: items.column(f) for f in schema.side("item")},
        "context": {
            f.name: series_column(f, table_series(impressions, f.name, "impressions")) for f in schema.side("context")
        },
    }
    seen = {
        "user": np.bincount(user[shown], minlength=len(users)),
        "item": seen_items,
        "context": train.astype(np.int64),
    }
    arrays = dict(clicks)
    for group in schema.groups:
        frame = others[group.object_type]
        distinct, row = _objects(frame, group)
        found, seen_objects = _behaviours(frame, group.actions, users, row, distinct, user, time, train)
        columns |= {group.object_type: {group.object_type: distinct}}
        seen[group.object_type] = np.bincount(found["clicked"][seen_objects], minlength=len(distinct))
        arrays |= {f"{group.object_type}_{name}": array for name, array in found.items()}
    encoder = fit(schema, columns, seen, older)
    for group in schema.groups:  # an object is known by its id alone, so that its table row can stand for it
        rows = encoder.rows([group.feature], columns[group.object_type], len(columns[group.object_type]))[:, 0]
        arrays[f"{group.object_type}_clicked"] = rows.astype(np.int32)[arrays[f"{group.object_type}_clicked"]]

    (folder / "features.toml").write_text(tomli_w.dumps(schema.as_dict()))
    encoder.save(folder / "vocab")
    (folder / "catalog").mkdir()
    Catalog.build(schema, items.keys, columns["item"]).save(folder / "catalog" / FILE)
    encoded = folder / "encoded"
    encoded.mkdir()
    arrays |= {
        "user": user,
        "item": item,
        "time": time,
        "label": impressions["label"].to_numpy().astype(np.int8),
        "split": split,
    }
    for name in KEPT:
        if name in impressions.columns:
            arrays[name] = impressions[name].to_numpy()
    for side, name, count in (
        ("user", "users", len(users)),
        ("item", "items", len(items)),
        ("context", "context", len(time)),
    ):
        features = schema.side(side)  # type: ignore[arg-type]  # mypy widens the tuple's literals to str
        arrays[name] = encoder.rows(features, columns[side], count).astype(np.int32)
        arrays[f"{name}_numbers"] = encoder.numbers(features, columns[side], count)
    arrays["cross"] = _crosses(encoder, columns, user, item)
    for name, array in arrays.items():
        np.save(encoded / f"{name}.npy", array)
    users.ids.to_frame("user_id").write_parquet(folder / "encoded" / "users.parquet")
    items.ids.to_frame("item_id").write_parquet(folder / "encoded" / "items.parquet")

    meta = {
        "dataset": made.name,
        "time_zone": made.time_zone,
        "bad_lines": made.bad_lines,
        "notes": list(made.notes),
        "drawn_negatives": made.drawn_negatives,
        "impressions": {name: int((split == code).sum()) for code, name in enumerate(SPLITS)},
        "click_rate": float(arrays["label"][train].mean()),
        "split": between,
        "users": len(users),
        "items": len(items),
        "behaviours": len(clicks["clicked"]),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    return meta


def _split(impressions: pl.DataFrame, time_zone: str) -> tuple[npt.NDArray[np.int8], Any]:
    """Split of each impression, and how it was made: as the table says, else by calendar day."""
    if "split" not in impressions.columns:
        return split_days(impressions["timestamp"], time_zone)
    split = impressions["split"].to_numpy().astype(np.int8)
    if not (split == SPLITS.index("train")).any():
        raise PrepareError("the table's own split leaves train empty")
    return split, "of the table"


def split_days(timestamps: pl.Series, time_zone: str) -> tuple[npt.NDArray[np.int8], dict[str, list[str]]]:
    """Split of each impression by calendar day: the last day is test, the one before validation. Timestamps in ms."""
    days = timestamps.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").dt.convert_time_zone(time_zone).dt.date()
    calendar = days.unique().sort().to_list()
    if len(calendar) < len(SPLITS):
        raise PrepareError(f"impressions on {len(calendar)} day(s), at least 3 are needed: train, validation, test")
    split = np.zeros(len(days), np.int8)
    split[(days == calendar[-2]).to_numpy()] = SPLITS.index("validation")
    split[(days == calendar[-1]).to_numpy()] = SPLITS.index("test")
    named = {"train": [calendar[0], calendar[-3]], "validation": [calendar[-2]], "test": [calendar[-1]]}
    return split, {name: [day.isoformat() for day in between] for name, between in named.items()}


def fit(
    schema: Schema,
    columns: Mapping[str, Mapping[str, Column]],
    seen: Mapping[str, Counts],
    older: Encoder | None = None,
) -> Encoder:
    """Vocabularies and statistics: `seen` counts, per row of a side's columns, how often training saw it.

    With an `older` encoder its rows stay, new keys get rows after them, and numbers keep their statistics: weights
    that were learnt with it still mean the same. A group's object is a side of its own, under its name.
    """
    vocabularies: dict[str, Vocabulary] = {}
    rows: dict[str, int] = {}
    numbers: dict[str, tuple[float, float]] = {}
    for feature in schema.embedded:
        if feature.side == "cross":
            continue
        side = feature.name if feature.side == "object" else feature.side
        values, weight = columns[side][feature.name], seen[side]
        if feature.has_vocabulary:
            found = _frequent(values, weight, feature.min_count)
            if older:
                vocabularies[feature.name] = older.vocabularies[feature.name].grown(found)
            else:
                vocabularies[feature.name] = Vocabulary.build(found, FIRST + np.arange(len(found)))
            rows[feature.name] = FIRST + len(vocabularies[feature.name].table.items()[0])
        elif older and feature.is_float:
            numbers[feature.name] = older.statistics.numbers[feature.name]
        elif feature.is_float:
            known = ~np.isnan(values) & (weight > 0)
            mean = float(np.average(values[known], weights=weight[known])) if known.any() else 0.0
            variance = float(np.average((values[known] - mean) ** 2, weights=weight[known])) if known.any() else 1.0
            numbers[feature.name] = (mean, variance**0.5 or 1.0)
    return Encoder(schema, vocabularies, Statistics(rows, numbers))


def _frequent(values: Keys, weight: Counts, min_count: int) -> Keys:
    """Keys seen at least `min_count` times, the most frequent first: what is looked up most lies together."""
    weight = np.repeat(weight, values.size // max(1, len(values)))
    found, inverse = np.unique(values.reshape(-1), return_inverse=True)
    count = np.bincount(inverse, weights=weight, minlength=len(found))
    kept = (count >= min_count) & (found != MISSING) & (found != ABSENT)
    found, count = found[kept], count[kept]
    ordered: Keys = found[np.lexsort((found, -count))]
    return ordered


def _impressions(path: Path, schema: Schema) -> pl.DataFrame:
    """The columns that encoding needs, in time order

    A log of tens of millions has others (request ids) that fill memory.
    """
    frame = pl.scan_parquet(path)
    wanted = {"user_id", "item_id", "timestamp", "label", "split", *KEPT, *(f.name for f in schema.side("context"))}
    named = [name for name in frame.collect_schema().names() if name in wanted]
    return frame.select(named).collect().sort("timestamp", maintain_order=True)


def _of_group(behaviours: pl.LazyFrame, object_type: str, actions: Sequence[str]) -> pl.DataFrame:
    """The behaviours of one group, which can enter its history: the named actions on that type of object."""
    kept = pl.col("action").is_in(actions) & (pl.col("object_type") == object_type)
    columns = ("user_id", "action", "object_type", "object_id", "timestamp")  # once each, as in the store
    return behaviours.filter(kept).select(columns).unique(maintain_order=True).collect()


def _objects(behaviours: pl.DataFrame, group: Group) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Keys of a group's distinct objects, and which of them each behaviour is on."""
    distinct = behaviours["object_id"].unique().sort()
    code = distinct.to_frame("object_id").with_columns(code=pl.int_range(len(distinct)))
    row = behaviours.join(code, on="object_id", how="left", maintain_order="left")["code"]
    return series_column(group.feature, distinct), row.to_numpy().astype(np.int64)


def _behaviours(
    behaviours: pl.DataFrame,
    actions: Sequence[str],
    users: Entities,
    of_object: npt.NDArray[Any],
    object_keys: Keys,
    shown_to: npt.NDArray[np.int32],
    shown_at: npt.NDArray[np.int64],
    train: npt.NDArray[np.bool_],
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
    """One group's arrays, and which of its behaviours lie before an impression of the training split.

    Behaviours are sorted by user, time and, in one millisecond, key and action, as serving has them; `begin` is where a
    user's begin, `end` one past the last strictly before each impression, by one search over (user, time) pairs.
    """
    user, time = users.rows(behaviours["user_id"]), behaviours["timestamp"].to_numpy()
    number = {name: code for code, name in enumerate(actions, 1)}  # 0 is PAD
    acted = behaviours["action"].replace_strict(number, return_dtype=pl.Int8).to_numpy()
    order = np.lexsort((acted, object_keys[of_object], time, user))
    user, time = user[order], time[order]
    begin = np.zeros(len(users), np.int64)
    begin[1:] = np.cumsum(np.bincount(user, minlength=len(users)))[:-1]
    moments = np.unique(time)
    pair = user.astype(np.int64) * (len(moments) + 1) + np.searchsorted(moments, time)
    end = np.searchsorted(pair, shown_to.astype(np.int64) * (len(moments) + 1) + np.searchsorted(moments, shown_at))
    last = np.zeros(len(users), np.int64)
    np.maximum.at(last, shown_to[train], end[train])
    arrays = {"clicked": of_object[order], "clicked_at": time, "acted": acted[order], "begin": begin, "end": end}
    return arrays, np.arange(len(user)) < last[user]


def _crosses(
    encoder: Encoder,
    columns: Mapping[str, Mapping[str, Column]],
    user: npt.NDArray[np.int32],
    item: npt.NDArray[np.int32],
) -> npt.NDArray[np.int32]:
    made = []
    parts = {part for feature in encoder.schema.side("cross") for part in feature.of}
    for at in tqdm(range(0, len(user), CHUNK), "encoding", unit="M impressions", delay=1, leave=False):
        to = slice(at, at + CHUNK)
        chosen = {name: values[user[to]] for name, values in columns["user"].items() if name in parts}
        chosen |= {name: values[item[to]] for name, values in columns["item"].items() if name in parts}
        chosen |= {name: values[to] for name, values in columns["context"].items() if name in parts}
        made.append(encoder.cross_rows(chosen, len(user[to])).astype(np.int32))
    return np.concatenate(made)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.prepare", description="Raw log → prepared data set.")
    parser.add_argument("--dataset", required=True, choices=datasets.names())
    parser.add_argument("--raw", type=Path, help="folder of the raw log (not for simulated)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the prepared data set; an older one is replaced"
    )
    parser.add_argument("--features", type=Path, help="features.toml to use instead of the data set's own")
    parser.add_argument(
        "--grow", type=Path, help="bundle or prepared data whose rows stay, new ids after them: for model.train --warm"
    )
    parser.add_argument("--impressions", type=int, help="simulated: how many (default 1,000,000)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the simulated world and its log; taobao, amazon: of the negatives"
    )
    parser.add_argument(
        "--ties",
        choices=("strict", "published"),
        default="strict",
        help="amazon: of one day's reviews a history holds none, or those earlier in the file, as in the papers",
    )
    parser.add_argument(
        "--skip-bad", type=int, default=0, metavar="N", help="malformed lines to pass over before stopping"
    )
    given = parser.parse_args(arguments)
    if (given.raw is None) != (given.dataset == "simulated"):
        parser.error("--raw names the log of every data set but simulated, which has none")
    if given.raw is not None and not given.raw.is_dir():
        parser.error(f"--raw {given.raw} is no folder")
    if given.impressions is not None and (given.dataset != "simulated" or given.impressions < 1):
        parser.error("--impressions is for simulated, and at least 1")
    if given.ties != "strict" and given.dataset != "amazon":
        parser.error("--ties is for amazon, whose times are days")
    options = Options(skip_bad=given.skip_bad, impressions=given.impressions, seed=given.seed, ties=given.ties)
    try:
        meta = prepare(given.dataset, given.raw, given.out, options, given.features, given.grow)
    except (PrepareError, SchemaError, datasets.DataError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    if meta["bad_lines"]:
        print(f"prepare: {meta['bad_lines']} malformed lines passed over", file=sys.stderr)
    for note in meta["notes"]:
        print(f"prepare: {note}", file=sys.stderr)
    print(f"{meta['impressions']} impressions, {meta['users']} users, {meta['items']} items → {given.out}")
    print(json.dumps({"data": str(given.out), **meta}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
