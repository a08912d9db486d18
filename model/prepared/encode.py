"""Four canonical tables → the training form: encoded columns, sorted behaviours, ends of histories, meta.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import tomli_w
from tqdm import tqdm

from model.datasets.tables import DataSet
from model.features.catalog import FILE, Catalog
from model.features.encode import Encoder
from model.features.ids import Keys
from model.features.kinds import Column
from model.features.schema import Group, Schema
from model.files import write_json
from model.prepared.entities import Entities, PrepareError, series_column, table_series
from model.prepared.fit import fit
from model.prepared.splits import SPLITS, _split

CHUNK = 1_000_000  # impressions encoded at once: bounds memory, not the result
KEPT = ("watch_ms", "true_probability")  # columns of impressions that are no features, kept where the log has them


def encode_tables(folder: Path, schema: Schema, dataset: DataSet, older: Encoder | None = None) -> dict[str, Any]:
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
    split, between = _split(impressions, dataset.time_zone)
    train = split == SPLITS.index("train")
    # What was merely drawn was not seen: were it counted, a rare item that is known would tell that it was drawn.
    shown = train & (impressions["label"].to_numpy() > 0) if dataset.drawn_negatives else train
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
    counts = {
        "user": np.bincount(user[shown], minlength=len(users)),
        "item": seen_items,
        "context": train.astype(np.int64),
    }
    arrays = dict(clicks)
    for group in schema.groups:
        frame = others[group.object_type]
        distinct, row = _objects(frame, group)
        group_arrays, seen_objects = _behaviours(frame, group.actions, users, row, distinct, user, time, train)
        columns |= {group.object_type: {group.object_type: distinct}}
        counts[group.object_type] = np.bincount(group_arrays["clicked"][seen_objects], minlength=len(distinct))
        arrays |= {f"{group.object_type}_{name}": array for name, array in group_arrays.items()}
    encoder = fit(schema, columns, counts, older)
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
        "dataset": dataset.name,
        "time_zone": dataset.time_zone,
        "bad_lines": dataset.bad_lines,
        "notes": list(dataset.notes),
        "drawn_negatives": dataset.drawn_negatives,
        "impressions": {name: int((split == code).sum()) for code, name in enumerate(SPLITS)},
        "click_rate": float(arrays["label"][train].mean()),
        "split": between,
        "users": len(users),
        "items": len(items),
        "behaviours": len(clicks["clicked"]),
    }
    write_json(folder / "meta.json", meta)
    return meta


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
    pieces = []
    parts = {part for feature in encoder.schema.side("cross") for part in feature.of}
    for at in tqdm(range(0, len(user), CHUNK), "encoding", unit="M impressions", delay=1, leave=False):
        to = slice(at, at + CHUNK)
        chosen = {name: values[user[to]] for name, values in columns["user"].items() if name in parts}
        chosen |= {name: values[item[to]] for name, values in columns["item"].items() if name in parts}
        chosen |= {name: values[to] for name, values in columns["context"].items() if name in parts}
        pieces.append(encoder.cross_rows(chosen, len(user[to])).astype(np.int32))
    return np.concatenate(pieces)
