"""JSON that is parsed piece by piece is what the parser says of it at once, and holds the event loop for one piece."""

import asyncio
import json
import random
from typing import Any

import pytest
from pydantic_core import from_json

from service.errors import InvalidRequest, MalformedBody, RankerError, TooManyCandidates
from service.wire.pieces import DEEPEST, LONGEST, PIECE, WINDOW, Tally, TooManyParts, parsed, parts
from service.wire.turns import Turns

TEXTS = ("", "a\\", '"q"', "[{,", "\\" * 7, "é" * 9, "x" * WINDOW, "\\" * (WINDOW + 1), '\\"' * PIECE, "}" * 50)
BROKEN = (b"", b",", b"]", b"}", b'"', b"[", b"{", b"\\", b" ", b"1", b":")


def value_of(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if depth > 4 or kind < 0.3:
        return draw.choice([1, -2.5, True, None, *TEXTS])
    count = draw.randint(0, 6)
    if kind < 0.65:
        return [value_of(draw, depth + 1) for _ in range(count)]
    return {draw.choice(["a", 'b"', "c\\", "[", "{,", *"defgh"]): value_of(draw, depth + 1) for _ in range(count)}


def outcome(text: bytes) -> Any:
    try:
        return asyncio.run(parsed(text, Turns()))
    except RankerError as error:
        return type(error)


@pytest.mark.parametrize("seed", range(12))
def test_pieces_are_put_together_as_they_were_whole_and_broken(seed: int) -> None:
    draw = random.Random(seed)
    value = [value_of(draw), {"k": value_of(draw)}, *range(draw.randint(0, 9000))]
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1])).encode()
    assert outcome(b" " * draw.randint(0, 9) + text + b"\n") == value
    for _ in range(8):
        at = draw.randrange(len(text))
        broken = text[:at] + draw.choice(BROKEN) + text[at + draw.randint(0, 1) :]
        try:
            whole = from_json(broken)
        except ValueError:
            whole = MalformedBody
        assert outcome(broken) in (whole, InvalidRequest) and (whole is MalformedBody or outcome(broken) == whole)


@pytest.mark.parametrize("middle", [b"", b"1,", b",1", b"1,,2"])
def test_a_missing_value_is_no_empty_list_wherever_a_piece_ends(middle: bytes) -> None:
    long = b'"' + b"x" * PIECE + b'"'
    whole = b"[" + long + b"," + middle + b"," + long + b"]"
    assert outcome(whole) is MalformedBody


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"[" * PIECE, MalformedBody),
        (b"[" + b"1," * PIECE + b"1}", MalformedBody),
        (b"[" + b"1," * PIECE + b"1] 1", MalformedBody),
        (b" " * LONGEST + b"[1]", InvalidRequest),
        (b"[1]" + b" " * 2 * PIECE, MalformedBody),
        (b'"' + b"x" * LONGEST + b'"', InvalidRequest),
        (b'{"' + b"k" * PIECE + b'":1}', InvalidRequest),
    ],
)
def test_what_no_request_is_made_of_is_refused(text: bytes, error: type[RankerError]) -> None:
    assert outcome(text) is error


def test_values_levels_and_parts_are_bounded() -> None:
    def tally(most: int) -> Tally:
        return Tally(most, TooManyCandidates("too many"))

    many = b"[" + b"[1,2]," * PIECE + b"1]"
    with pytest.raises(TooManyCandidates):
        asyncio.run(parsed(many, Turns(), tally(3 * PIECE)))
    assert len(asyncio.run(parsed(many, Turns(), tally(3 * PIECE + 1)))) == PIECE + 1
    deep = b"[" * (DEEPEST + 1) + b"1," * PIECE + b"1" + b"]" * (DEEPEST + 1)
    with pytest.raises(InvalidRequest, match="within each other"):
        asyncio.run(parsed(deep, Turns(), tally(10**9)))
    with pytest.raises(TooManyParts):
        asyncio.run(parts(many, Turns(), PIECE))
    begins, ends = asyncio.run(parts(b' [ 1,"a,]", [2, 3] ] ', Turns(), 3))
    assert [' [ 1,"a,]", [2, 3] ] '[a:b].strip() for a, b in zip(begins, ends, strict=True)] == ["1", '"a,]"', "[2, 3]"]


def test_a_round_of_the_loop_comes_between_pieces() -> None:
    rounds = 0

    async def go() -> None:
        async def count() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await parsed(b"[" + b"[]," * 300_000 + b"1]", Turns())
        counting.cancel()

    asyncio.run(go())
    assert rounds > 20
