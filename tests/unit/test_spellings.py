"""One user has one key in the store, however a request spells the id."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.features.behaviour import Behaviour
from model.features.catalog import Catalog
from model.features.encode import Encoder, Statistics
from model.features.ids import FIRST, keys
from model.features.schema import parse
from model.features.table import Vocabulary
from model.features.wanted import Wanted
from service.call import Call
from service.errors import InvalidRequest
from service.rank import Ranked, rank, rank_many
from service.store.history import Asked, Stored
from service.wire.shapes import RankRequest
from service.wire.turns import Turns

NOW = 1_700_000_000_000


class Kept:
    """What a store holds, by the ids of its keys."""

    def __init__(self, users: dict[str, Stored]):
        self.users = users

    async def read(self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None) -> list[Stored]:
        return [self.users.get(user_id, Stored({}, [], 0)) for user_id, *_ in users]


def served(user_id: str) -> Any:
    """Scores every candidate alike."""
    item = {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 8}
    schema = parse({"user_id": user_id, "feature": [item]})
    vocabulary = Vocabulary.build(keys(["i1"], "str"), np.array([FIRST]))

    async def score(inputs: Any, call: Any) -> Any:
        return np.zeros(inputs["item"].shape[1])

    async def score_many(inputs: Any, call: Any) -> Any:
        return [await score(one, call) for one in inputs]

    return SimpleNamespace(
        encoder=Encoder(schema, {"item_id": vocabulary}, Statistics({"item_id": 3})),
        catalog=Catalog.build(schema, keys(["i1"], "str"), {}),
        wanted=Wanted.of(schema),
        score=score,
        score_many=score_many,
    )


def lengths(of: str, store: dict[str, Stored], *user_ids: int | str) -> list[int]:
    """History lengths of requests for these users, alone and in one batch."""
    requests = [RankRequest(user_id=user_id, candidates=["i1"]) for user_id in user_ids]

    async def go() -> tuple[list[Ranked], list[Any]]:
        alone = [await rank(Call("1", 0.0), request, NOW, Kept(store), served(of)) for request in requests]
        return alone, await rank_many(Call("2", 0.0), requests, NOW, Kept(store), served(of), Turns())

    alone, together = asyncio.run(go())
    assert [one.history_length for one in together] == [one.history_length for one in alone]
    return [one.history_length for one in alone]


KNOWN = Stored({}, [Behaviour("click", "item", "i1", NOW - 1000)], 0)


def test_an_integers_zeros_do_not_count() -> None:
    assert lengths("int", {"7": KNOWN}, 7, "7", "007", "0007") == [1, 1, 1, 1]
    assert lengths("int", {"-7": KNOWN}, -7, "-07", 7) == [1, 1, 0]


def test_a_texts_zeros_are_part_of_it() -> None:
    assert lengths("str", {"007": KNOWN}, "007", "7", 7) == [1, 0, 0]
    assert lengths("str", {"7": KNOWN}, "7", 7) == [1, 1]


@pytest.mark.parametrize("user_id", ["u7", "7.0", " 7"])
def test_what_is_no_integer_is_refused_where_integers_are_declared(user_id: str) -> None:
    with pytest.raises(InvalidRequest, match=f"user_id: '{user_id}' given, an integer is allowed"):
        lengths("int", {}, user_id)
