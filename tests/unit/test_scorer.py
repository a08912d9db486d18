"""The scoring path: cut, joined or alone, a candidate gets the same score."""

import asyncio
from typing import Any

import numpy as np
import pytest

from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.features.batch import candidates, pieces, stacked
from model.features.encode import Inputs
from service.call import Call
from service.scoring.lanes import JOINED, SHORT
from service.scoring.scorer import WORTH_CUTTING, Scorer
from service.scoring.served import Served

pytestmark = pytest.mark.filterwarnings("error")


def requests_of(bundle: Bundle, *counts: int) -> list[Inputs]:
    """Golden requests, of different users and history lengths, with so many candidates each."""
    golden = bundle.golden()
    made = []
    for number, count in enumerate(counts):
        request = golden[number % len(golden)]
        shown = (request["candidates"] * count)[:count]
        behaviours = request["behaviours"][: number % 5] if number % 2 else request["behaviours"]
        made.append(bundle.encode_golden(request | {"candidates": shown, "behaviours": behaviours}))
    return made


def alone(bundle: Bundle, inputs: Inputs) -> np.ndarray[Any, Any]:
    return bundle.score(bundle.session(), inputs)[0]


def scored(bundle: Bundle, requests: list[Inputs], threads: int, together: bool = False) -> list[Any]:
    async def go() -> list[Any]:
        served = Served.open(bundle, Scorer(threads), "fp32")
        try:
            if together:
                return await served.score_many(requests, Call("", 0.0))
            return await asyncio.gather(*(served.score(inputs, Call("", 0.0)) for inputs in requests))
        finally:
            served.scorer.close()

    return asyncio.run(go())


def test_joined_requests_score_as_each_does_alone(small_bundle: Bundle) -> None:
    requests = requests_of(small_bundle, 3, 40, 1, 17)
    scores_UC = small_bundle.score(small_bundle.session(), stacked(requests))
    assert scores_UC.shape == (4, 40)
    for row, inputs in zip(scores_UC, requests, strict=True):
        assert np.allclose(row[: candidates(inputs)], alone(small_bundle, inputs), atol=1e-6)


def test_the_pieces_of_a_request_are_its_candidates_in_order_and_the_whole_user(small_bundle: Bundle) -> None:
    (inputs,) = requests_of(small_bundle, 10)
    parts = list(pieces(inputs, 3))
    assert [candidates(part) for part in parts] == [3, 3, 4]
    assert np.array_equal(np.concatenate([part["item"] for part in parts], 1), inputs["item"])
    assert all(np.array_equal(part["history"], inputs["history"]) for part in parts)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_long_list_that_is_cut_scores_as_one_run(small_bundle: Bundle, threads: int) -> None:
    (inputs,) = requests_of(small_bundle, 10 * WORTH_CUTTING + 7)
    (scores,) = scored(small_bundle, [inputs], threads)
    assert np.allclose(scores, alone(small_bundle, inputs), atol=1e-6)


def test_requests_that_wait_are_each_answered_with_their_own_scores(small_bundle: Bundle) -> None:
    requests = requests_of(small_bundle, *[1 + n % (SHORT + 5) for n in range(3 * JOINED // SHORT)], 400)
    for inputs, scores in zip(requests, scored(small_bundle, requests, threads=1), strict=True):
        assert scores.shape == (candidates(inputs),)
        assert np.allclose(scores, alone(small_bundle, inputs), atol=1e-6)


def test_many_requests_at_once_score_as_each_does_alone(small_bundle: Bundle) -> None:
    requests = requests_of(small_bundle, 5, 1200, 60, 1, 61)
    for inputs, scores in zip(requests, scored(small_bundle, requests, threads=2, together=True), strict=True):
        assert scores.shape == (candidates(inputs),)
        assert np.allclose(scores, alone(small_bundle, inputs), atol=1e-6)


def test_a_request_with_a_row_outside_its_table_fails_alone(small_bundle: Bundle) -> None:
    sound, broken = requests_of(small_bundle, 3, 4)
    broken["item"] = broken["item"] + 10**9

    async def go() -> list[Any]:
        served = Served.open(small_bundle, Scorer(1), "fp32")
        try:
            answers = [served.score(inputs, Call("", 0.0)) for inputs in (sound, broken, sound)]
            return await asyncio.gather(*answers, return_exceptions=True)
        finally:
            served.scorer.close()

    first, error, last = asyncio.run(go())
    assert isinstance(error, BundleError) and "item" in str(error)
    assert np.allclose(first, alone(small_bundle, sound)) and np.allclose(last, first)
