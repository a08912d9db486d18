"""Batches for the tests of networks: every kind of feature once, two behaviour groups, histories of every length."""

from typing import Any

import numpy as np
import torch

from model.features.ids import PAD, UNKNOWN
from model.features.schema import Schema, parse
from model.features.timeposition import bucket_count
from model.networks.blocks import RankingNetwork

T = 6


ACTIONS, SEARCHES = ["click", "cart", "buy"], ["search", "suggest"]


def make_schema() -> Schema:
    """Every side and every kind of feature once, and a second behaviour group."""
    feature = [
        {"name": "user_id", "side": "user", "kind": "id", "width": 4},
        {"name": "age", "side": "user", "kind": "category", "width": 4},
        {"name": "income", "side": "user", "kind": "number", "transform": "standard"},
        {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 32},
        {"name": "category_id", "side": "item", "kind": "category", "width": 8, "sequence_width": 16},
        {"name": "tags", "side": "item", "kind": "multi", "width": 4, "max_values": 3},
        {"name": "price", "side": "item", "kind": "number", "transform": "standard"},
        {"name": "duration", "side": "item", "kind": "number", "transform": "log", "width": 4},
        {"name": "position", "side": "context", "kind": "category", "type": "int", "width": 4, "default": 1},
        {
            "name": "age_x_item",
            "side": "cross",
            "kind": "category",
            "of": ["age", "item_id"],
            "buckets": 50,
            "width": 4,
        },
        {"name": "item_rate", "side": "cross", "kind": "statistic", "of": ["item_id"], "what": "rate"},
        {"name": "same_age", "side": "cross", "kind": "match", "of": ["category_id"], "what": "age", "width": 4},
    ]
    group = [{"object_type": "keyword", "actions": SEARCHES, "length": T - 2, "width": 12}]
    history = {"length": T, "actions": ACTIONS}
    return parse({"user_id": "str", "history": history, "feature": feature, "group": group})


ROWS = {
    "user_id": 10,
    "age": 9,
    "item_id": 40,
    "category_id": 12,
    "tags": 15,
    "duration": 82,
    "position": 12,
    "age_x_item": 52,
    "same_age": 29,
    "keyword": 20,
}
SEQUENCES = {"": ("history", "gap", "action"), "_keyword": ("history_keyword", "gap_keyword", "action_keyword")}


def make_batch(users: int, candidates: int, slots: int = T, seed: int = 0) -> dict[str, torch.Tensor]:
    """Users with histories of every length from none to full; PAD, UNKNOWN and known ids.

    The first user has neither clicks nor keywords, and every second one no keywords.
    """
    draw = np.random.default_rng(seed)
    buckets = bucket_count(make_schema().history.gap_edges_s)

    def rows(name: str, *shape: int) -> np.ndarray[Any, Any]:
        made = draw.integers(2, ROWS[name], shape)
        return np.where(draw.random(shape) < 0.15, UNKNOWN, made)

    def sequence(suffix: str, lengths: Any, slots: int, objects: list[str], actions: int) -> dict[str, Any]:
        padded = np.arange(slots) >= np.minimum(lengths, slots)[:, None]
        history = np.stack([rows(name, users, slots) for name in objects], -1)
        gap, action = (draw.integers(1, limit, (users, slots)) for limit in (buckets, 1 + actions))
        made = dict(zip(SEQUENCES[suffix], (history, gap, action), strict=True))
        for array in made.values():
            array[padded] = PAD
        return made

    order = np.arange(users)
    clicks = sequence("", order * 2, slots, ["item_id", "category_id"], len(ACTIONS))
    keywords = sequence("_keyword", order % 2 * (order + 1), max(1, slots - 2), ["keyword"], len(SEARCHES))
    lead = (users, candidates)
    tags = rows("tags", *lead, 3)
    tags[..., 1:][draw.random((*lead, 2)) < 0.5] = PAD
    item = [rows("item_id", *lead, 1), rows("category_id", *lead, 1), tags, rows("duration", *lead, 1)]
    arrays = {
        "user": np.concatenate([rows("user_id", users, 1), rows("age", users, 1)], -1),
        "item": np.concatenate(item, -1),
        "context": rows("position", *lead, 1),
        "cross": np.concatenate([rows("age_x_item", *lead, 1), rows("same_age", *lead, 1)], -1),
        **clicks,
        **keywords,
        "user_numbers": draw.normal(size=(users, 1)).astype(np.float32),
        "item_numbers": draw.normal(size=(*lead, 1)).astype(np.float32),
        "cross_numbers": draw.normal(size=(*lead, 1)).astype(np.float32),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def of_user(name: str) -> bool:
    return name.startswith(("user", "history", "gap", "action"))


def pick(batch: dict[str, torch.Tensor], user: int, candidates: Any = slice(None)) -> dict[str, torch.Tensor]:
    return {
        name: tensor[user : user + 1] if of_user(name) else tensor[user : user + 1, candidates]
        for name, tensor in batch.items()
    }


def strong(made: RankingNetwork) -> RankingNetwork:
    """For scoring, with weights large enough that a mistake shows."""
    for module in made.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, 0, 0.5)
            with torch.no_grad():
                module.weight[PAD] = 0
    return made.eval()


def close(a: torch.Tensor, b: torch.Tensor, apart: float = 1e-5) -> None:
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=apart)
