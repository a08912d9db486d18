"""A prepared data set that nobody clicked for: training's speed and memory depend on its size alone.

Features are the paper's Table 1 at its sizes: d = 64 (32 item + 16 category + 16 position), T = 20. Ids are uniform,
the worst case for tables: no row is warm in a cache and no two rows of a batch are one. It is made on first use and
kept; it cannot be published from, since it has no ids to record.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tomli_w
from tqdm import tqdm

from model.features import schema as features_toml
from model.features.catalog import FILE, Catalog
from model.features.encode import Encoder, Statistics
from model.features.ids import FIRST
from model.features.schema import Schema
from model.features.table import Vocabulary
from model.files import replacing, write_json
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS

WIDTH = 16  # of the features outside the sequence
CHUNK = 500_000  # rows written at once
DAY_MS = 86_400_000
DAYS = 100  # of the log: the last one is test, the one before validation
BEGIN_MS = 1_600_000_000_000 // DAY_MS * DAY_MS
PER_USER, CLICKS = 20, 40  # impressions and behaviours per user; nearly all histories are full
CLICK_RATE = 0.1
FORMAT = 2  # of these data sets: another number makes the cache anew
VALUES = {"age": 10, "gender": 3, "city": 400, "position": 50, "category_id": 10_000}
Arrays = npt.NDArray[Any]


def schema() -> Schema:
    """Features of the paper's Table 1 at its sizes."""

    def category(name: str, side: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "side": side, "kind": "category", "type": "int", "width": WIDTH, **more}

    users = [category(name, "user") for name in ("age", "gender", "city")]
    item = {"name": "item_id", "side": "item", "kind": "id", "type": "int", "sequence_width": 32}
    return features_toml.parse(
        {
            "user_id": "int",
            "history": {"length": 20},
            "feature": [
                *users,
                item,
                category("category_id", "item", sequence_width=16),
                category("position", "context", default=1),
            ],
        }
    )


def write_data(folder: Path, items: int, impressions: int, seed: int = 1) -> None:
    """`impressions` are those of the training days; the two days after them add a hundredth each."""
    table, sizes, rng = schema(), VALUES | {"item_id": items}, np.random.default_rng(seed)
    for room in ("vocab", "catalog", "encoded"):
        (folder / room).mkdir(parents=True)
    (folder / "features.toml").write_text(tomli_w.dumps(table.as_dict()))
    known = {name: Vocabulary.build(np.arange(n, dtype=np.uint64), FIRST + np.arange(n)) for name, n in sizes.items()}
    encoder = Encoder(table, known, Statistics({name: FIRST + n for name, n in sizes.items()}))
    encoder.save(folder / "vocab")
    columns = {"item_id": np.arange(items, dtype=np.uint64), "category_id": _keys(rng, "category_id", items)}
    Catalog.build(table, columns["item_id"], columns).save(folder / "catalog" / FILE)

    day = max(1, impressions // (DAYS - 2))
    count = impressions + 2 * day
    users = -(-count // PER_USER)

    def new(name: str, dtype: Any, *shape: int) -> Arrays:
        array: Arrays = np.lib.format.open_memmap(folder / "encoded" / f"{name}.npy", "w+", dtype, shape)
        return array

    item_rows, user_rows = new("items", np.int32, items, 2), new("users", np.int32, users, 3)
    for at in _pieces("items", items):
        values = {name: column[at] for name, column in columns.items()}
        item_rows[at] = encoder.rows(table.side("item"), values, at.stop - at.start)
    begin, clicked = new("begin", np.int64, users), new("clicked", np.int32, users * CLICKS)
    clicked_at, acted = new("clicked_at", np.int64, users * CLICKS), new("acted", np.int8, users * CLICKS)
    for at in _pieces("users", users):
        size, behaviours = at.stop - at.start, slice(at.start * CLICKS, at.stop * CLICKS)
        values = {f.name: _keys(rng, f.name, size) for f in table.side("user")}
        user_rows[at] = encoder.rows(table.side("user"), values, size)
        begin[at] = np.arange(at.start, at.stop) * CLICKS
        clicked[behaviours] = rng.integers(items, size=size * CLICKS)
        times = rng.integers(BEGIN_MS - DAYS * DAY_MS, BEGIN_MS + DAYS * DAY_MS, (size, CLICKS))
        clicked_at[behaviours] = np.sort(times, 1).reshape(-1)
        acted[behaviours] = 1
    times_UB = clicked_at.reshape(users, CLICKS)
    user, item, end = new("user", np.int32, count), new("item", np.int32, count), new("end", np.int64, count)
    time, label, split = new("time", np.int64, count), new("label", np.int8, count), new("split", np.int8, count)
    context = new("context", np.int32, count, 1)
    for at in _pieces("impressions", count):
        number = np.arange(at.start, at.stop)
        user[at] = whose = rng.integers(users, size=len(number))
        item[at] = rng.integers(items, size=len(number))
        time[at] = when = BEGIN_MS + number * (DAYS * DAY_MS) // count
        end[at] = whose * CLICKS + (times_UB[whose] < when[:, None]).sum(1)
        label[at] = rng.random(len(number)) < CLICK_RATE
        split[at] = np.searchsorted([impressions, impressions + day], number, "right")
        values = {"position": _keys(rng, "position", len(number))}
        context[at] = encoder.rows(table.side("context"), values, len(number))
    for name, rows in {"items": items, "users": users, "context": count}.items():
        new(f"{name}_numbers", np.float32, rows, 0)
    new("cross", np.int32, count, 0)
    new("cross_numbers", np.float32, count, 0)
    new("matched", np.int32, items, 0)
    meta = {
        "dataset": "made_up",
        "time_zone": "UTC",
        "impressions": dict(zip(SPLITS, (impressions, day, day), strict=True)),
        "users": users,
        "items": items,
        "behaviours": users * CLICKS,
    }
    write_json(folder / "meta.json", meta)


def _keys(rng: np.random.Generator, name: str, count: int) -> npt.NDArray[np.uint64]:
    return rng.integers(VALUES[name], size=count).astype(np.uint64)


def _pieces(what: str, count: int) -> Iterator[slice]:
    """Slices of CHUNK rows: memory stays bounded, however long the log."""
    with tqdm(total=count, desc=f"making {what}", unit_scale=True, delay=1, leave=False) as bar:
        for at in range(0, count, CHUNK):
            piece = slice(at, min(at + CHUNK, count))
            yield piece
            bar.update(piece.stop - at)


def data_set(cache: Path, items: int, impressions: int) -> Prepared:
    """The made-up data set of that size, from the cache where it is there."""
    folder = cache / f"{items}-items-{impressions}-impressions-{FORMAT}"
    if not folder.exists():
        with replacing(folder) as partial:
            write_data(partial, items, impressions)
    return Prepared(folder)
