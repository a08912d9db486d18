"""A small log that holds what makes preparing hard: ties, gaps, lists, strangers, negative ids, another group."""

from typing import Any

import numpy as np
import polars as pl

DAY, FIRST = 86_400_000, 1_767_225_600_000  # 1 January 2026
SCHEMA: dict[str, Any] = {
    "user_id": "str",
    "history": {"length": 5, "actions": ["click", "buy"]},
    "feature": [
        {"name": "user_id", "side": "user", "kind": "id", "type": "str", "min_count": 3, "width": 4},
        {"name": "age", "side": "user", "kind": "number", "transform": "standard"},
        {"name": "item_id", "side": "item", "kind": "id", "type": "int", "sequence_width": 4},
        {"name": "price", "side": "item", "kind": "number", "transform": "standard"},
        {"name": "tags", "side": "item", "kind": "multi", "type": "str", "max_values": 2, "width": 2},
        {"name": "page", "side": "context", "kind": "category", "type": "int", "width": 2, "default": 1},
        {
            "name": "query",
            "side": "context",
            "kind": "multi",
            "type": "str",
            "max_values": 2,
            "width": 2,
            "default": [],
        },
        {"name": "wait", "side": "context", "kind": "number", "transform": "standard", "default": 0.0},
        {"name": "depth", "side": "context", "kind": "number", "transform": "log", "width": 2, "default": 0},
        {"name": "user_x_page", "side": "cross", "kind": "category", "of": ["user_id", "page"], "buckets": 99},
    ],
    "group": [{"object_type": "coupon", "actions": ["take"], "length": 2, "width": 3}],
}
SCHEMA["feature"][-1]["width"] = 2


def tables(rows: int = 2000, seed: int = 5) -> dict[str, pl.DataFrame]:
    """Five days with many ties, gaps in every column that may have them, and users that have no row of their own."""
    draw = np.random.default_rng(seed)
    some = lambda values: [None if gap else value for value, gap in zip(values, draw.random(rows) < 0.1, strict=True)]  # noqa: E731
    impressions = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in draw.integers(60, size=rows)],
            "item_id": draw.integers(-5, 40, size=rows),
            "timestamp": FIRST + draw.integers(5 * 24 * 60, size=rows) * 60_000,
            "label": draw.integers(2, size=rows).astype(np.int8),
            "page": some(draw.integers(4, size=rows).tolist()),
            "query": some([[f"w{n}" for n in draw.integers(9, size=draw.integers(4))] for _ in range(rows)]),
            "wait": some((draw.random(rows) * 1e6).tolist()),
            "depth": some(draw.integers(1000, size=rows).tolist()),
            "session": "s",
        }
    )
    of = {"click": "item", "buy": "item", "look": "item", "take": "coupon"}
    action = draw.choice(list(of), size=rows)
    behaviours = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in draw.integers(60, size=rows)],
            "action": action,
            "object_type": [of[name] for name in action],
            "object_id": [
                str(n) if of[a] == "item" else f"c{n}"
                for a, n in zip(action, draw.integers(40, size=rows), strict=True)
            ],
            "timestamp": FIRST + draw.integers(5 * 24 * 60, size=rows) * 60_000,
        }
    )
    items = pl.DataFrame(
        {"item_id": range(30), "price": draw.random(30), "tags": [["a", "b"][: n % 3] for n in range(30)]}
    )
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(50)], "age": [None, *range(49)]})
    return {"impressions": impressions, "behaviours": behaviours, "items": items, "users": users}
