"""A small log of users, items and coupons with the features of its tables; and a recipe that trains in seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from model.features.schema import Schema, parse
from model.training.recipe import Recipe, Training

SMALL = Recipe(
    network={"mlp": (64, 32)},
    training=Training(optimiser="adam", learning_rate=2e-3, batch_size=512, epochs=2, evaluations=1),
)

HOUR = 3_600_000
FEATURES: list[dict[str, Any]] = [
    {"name": "age", "side": "user", "kind": "category", "type": "int", "width": 4},
    {"name": "income", "side": "user", "kind": "number", "transform": "standard"},
    {"name": "interests", "side": "user", "kind": "multi", "max_values": 2, "width": 4},
    {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 32},
    {"name": "category_id", "side": "item", "kind": "category", "width": 8, "sequence_width": 16},
    {"name": "price", "side": "item", "kind": "number", "transform": "log", "width": 4},
    {"name": "position", "side": "context", "kind": "category", "type": "int", "width": 4, "default": 1},
    {"name": "age_x_item", "side": "cross", "kind": "category", "of": ["age", "item_id"], "buckets": 1000, "width": 4},
]


def make_schema(length: int = 3, actions: Sequence[str] = ("click",), groups: Sequence[dict[str, Any]] = ()) -> Schema:
    history = {"length": length, "actions": list(actions)}
    return parse({"user_id": "str", "history": history, "feature": FEATURES, "group": list(groups)})


COUPONS = {"object_type": "coupon", "actions": ["like", "click"], "length": 2, "min_count": 2, "width": 8}


def write_log(folder: Path, seed: int = 0) -> pl.DataFrame:
    """A small log with everything that can differ

    Ties, gaps, unknown ids, missing values, other actions, late users.
    """
    draw = np.random.default_rng(seed)
    tables = folder / "tables"
    tables.mkdir(parents=True)
    start, days = 1_700_006_400_000, 5
    users, items = [f"u{n}" for n in range(30)], [f"i{n}" for n in range(40)]
    n = 1500
    at = np.sort(start + draw.integers(0, days * 24 * HOUR // 60_000, n) * 60_000)  # whole minutes: many ties
    impressions = pl.DataFrame(
        {
            "user_id": draw.choice(users, n),
            "item_id": draw.choice(items, n),
            "timestamp": at,
            "label": draw.integers(0, 2, n),
            "position": draw.integers(1, 4, n),
        }
    )
    m = 900
    behaviours = pl.DataFrame(
        {
            "user_id": draw.choice(users, m),
            "action": draw.choice(["click", "click", "like"], m),
            "object_type": draw.choice(["item", "item", "item", "coupon"], m),
            "object_id": draw.choice([*items, "gone"], m),
            "timestamp": start + draw.integers(0, days * 24 * HOUR // 60_000, m) * 60_000,
        }
    )
    behaviours = pl.concat([behaviours, behaviours.head(50)])  # some twice: a store keeps them once
    ages = [None if n % 7 == 0 else 20 + n % 5 for n in range(28)]  # two users are in no table
    interests = [["a"] if n % 3 else ["b", "c", "d"] for n in range(28)]
    pl.DataFrame(
        {
            "user_id": users[:28],
            "age": ages,
            "income": [None if n % 5 == 0 else float(n) for n in range(28)],
            "interests": interests,
        }
    ).write_parquet(tables / "users.parquet")
    pl.DataFrame(
        {
            "item_id": items[:37],
            "category_id": [None if n % 9 == 0 else f"c{n % 6}" for n in range(37)],
            "price": [float(n) for n in range(37)],
        }
    ).write_parquet(tables / "items.parquet")
    impressions.write_parquet(tables / "impressions.parquet")
    behaviours.write_parquet(tables / "behaviours.parquet")
    return behaviours
