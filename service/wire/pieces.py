"""JSON of any size, parsed piece by piece: other requests come between.

A parser holds the event loop, and in a thread the GIL: for 4 MB up to half a second. So numpy finds where the parts of
the outermost list or object lie, a window at a time (quotes and brackets; 4 MB take some 30 ms in all), and the parser
gets neighbouring parts of a few KiB together. Whatever is no JSON is still the parser's to say.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from service.errors import InvalidRequest, MalformedBody, RankerError
from service.wire.turns import Turns

PIECE = 16 * 1024  # bytes that are parsed at once
LONGEST = 512 * 1024  # bytes of one text or number
DEEPEST = 12  # lists and objects within each other; a request has four

WINDOW = 32 * 1024  # bytes that are looked at at once
SPACE = b" \t\n\r"
_KEY = re.compile(rb'[ \t\n\r]{0,256}("(?:[^"\\]|\\.){0,256}")[ \t\n\r]{0,256}:', re.DOTALL)
_QUOTE, _COMMA = b'",'
_OPENS, _CLOSES = b"[{", b"]}"
_STEP = np.zeros(256, np.int8)  # what a byte outside of texts does to the depth
_STEP[list(_OPENS)], _STEP[list(_CLOSES)] = 1, -1


class Parts(NamedTuple):
    """Where the parts of a list or an object lie: part n in [begins[n], ends[n])."""

    begins: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


class TooManyParts(Exception):
    """More than were allowed; how many there are is not known."""


class Tally:
    """What a text may hold: `most` values, above which `refusal` is raised, and DEEPEST levels."""

    def __init__(self, most: int, refusal: RankerError):
        self.left, self.refusal = most, refusal

    def add(self, values: int, depth: int) -> None:
        self.left -= values
        if self.left < 0:
            raise self.refusal
        if depth > DEEPEST:
            raise InvalidRequest(f"body: more than {DEEPEST} lists and objects within each other")


async def parts(text: bytes, turns: Turns, most: int | None = None, tally: Tally | None = None) -> Parts:
    """The parts of the list or object that a text is, which begins with its bracket but for white space.

    Raises MalformedBody, TooManyParts for more than `most`, and what `tally` raises.
    """
    opening = _opening(text)
    found: list[npt.NDArray[np.int64]] = []
    at, depth, inside, count = opening, 0, False, 1
    while at < len(text):
        await turns.next()
        window = text[at : at + WINDOW]
        if (run := len(window) - len(window.rstrip(b"\\"))) % 2 and run < len(window):
            window = text[at : at + WINDOW + 1]  # no escape is cut in two
        plain = window.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in window else window
        view = np.frombuffer(plain, np.uint8)
        quotes = view == _QUOTE
        texts = np.logical_xor.accumulate(quotes) ^ inside  # from an opening quote on, up to the closing one
        step = np.where(texts, 0, _STEP[view])
        depths = depth + np.cumsum(step, dtype=np.int32)
        commas = (view == _COMMA) & ~texts
        closed = np.flatnonzero((depths == 0) & (step < 0))
        if len(closed):
            step, depths, commas = step[: closed[0]], depths[: closed[0]], commas[: closed[0]]
        cuts = at + np.flatnonzero(commas & (depths == 1))
        count += len(cuts)
        if most is not None and count > most:
            raise TooManyParts
        if tally is not None:
            values = np.count_nonzero(commas) + np.count_nonzero(step > 0)
            tally.add(int(values), int(depths.max(initial=0)))
        found.append(cuts)
        if len(closed):
            return _parts(text, opening, at + int(closed[0]), np.concatenate(found))
        depth, inside, at = int(depths[-1]), bool(texts[-1]), at + len(window)
    raise MalformedBody(f"EOF after {len(text)} bytes: a list, an object or a text is not closed")


def _opening(text: bytes) -> int:
    """The place of the first bracket."""
    head = text[:PIECE]
    at = len(head) - len(head.lstrip(SPACE))
    if at == PIECE:
        raise MalformedBody(f"{PIECE} bytes of white space")
    if at == len(text) or text[at] not in _OPENS:
        raise MalformedBody("a list or an object is allowed")
    return at


def _parts(text: bytes, opening: int, closing: int, commas: npt.NDArray[np.int64]) -> Parts:
    if _OPENS.index(text[opening]) != _CLOSES.index(text[closing]):
        raise MalformedBody(f"byte {closing}: {chr(text[closing])} closes what {chr(text[opening])} opened")
    if text[closing + 1 : closing + 1 + PIECE].strip(SPACE) or len(text) - closing > PIECE:
        raise MalformedBody(f"byte {closing + 1}: trailing characters")
    begins, ends = np.append(opening, commas) + 1, np.append(commas, closing)
    if len(begins) == 1 and ends[0] - begins[0] <= PIECE and not text[begins[0] : ends[0]].strip(SPACE):
        return Parts(begins[:0], ends[:0])
    return Parts(begins, ends)


async def parsed(text: bytes, turns: Turns, tally: Tally | None = None) -> Any:
    """The value of a text. Raises MalformedBody, InvalidRequest, and what `tally` raises."""
    if len(text) <= PIECE:
        return _parsed(text)
    first = text[:PIECE].lstrip(SPACE)[:1]
    if first not in (b"[", b"{"):
        if len(text) > LONGEST:
            raise InvalidRequest(f"body: a text of {len(text)} bytes, at most {LONGEST}")
        return _parsed(text)
    begins, ends = await parts(text, turns, tally=tally)
    elements: list[Any] = []
    fields: dict[str, Any] = {}
    part = 0
    while part < len(begins):
        await turns.next()
        after = max(part + 1, int(np.searchsorted(ends, begins[part] + PIECE, side="right")))
        piece = text[begins[part] : ends[after - 1]]
        if after == part + 1 and not piece[:PIECE].strip(SPACE):
            raise MalformedBody(f"byte {begins[part]}: a value is missing")  # alone it would pass for an empty list
        if first == b"[":
            elements += _parsed(b"[" + piece + b"]") if len(piece) <= PIECE else [await parsed(piece, turns)]
        elif len(piece) <= PIECE:
            fields |= _parsed(b"{" + piece + b"}")
        else:
            key = _KEY.match(piece)
            if key is None:
                raise InvalidRequest(f"body: byte {begins[part]}: a key of at most 256 characters is allowed")
            fields[_parsed(key[1])] = await parsed(piece[key.end() :], turns)
        part = after
    return elements if first == b"[" else fields


def _parsed(text: bytes) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        raise MalformedBody(str(error)) from None
