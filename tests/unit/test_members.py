"""A store's members are read all at once as they are read one by one, whatever some program has put among them."""

import numpy as np

from model.features.behaviour import Behaviour
from model.features.wanted import Newest, Wanted
from service.store.format import unpack
from service.store.history import Asked, Stored
from service.store.reading import TIED, Reading, Unfinished

MOST = 5
STRANGE = [
    b"",
    b"|",
    b"01700000000000",
    b"01700000000000|",
    b"1700000000000|i1",
    b"0170000000000|0|i1",
    b"0170000000000x|i1",
    "0170000000000²|i1".encode(),
    b"01700000000000|a|b|c",
    b"01700000000000|two\nlines",
    b"01700000000000|\xff",
    "01700000000000|日本".encode(),
    b"+1700000000000|i1",
    b"01_00000000000|i1",
    b" 1700000000000|i1",
]


def one_by_one(members: list[bytes], before: int | None) -> tuple[list[Behaviour], int] | None:
    """The newest MOST and those of the last one's millisecond, oldest first, and how many were none; None: too few."""
    taken: list[Behaviour] = []
    skipped = 0
    for member in members:
        try:
            object_id, time = unpack(member)
        except ValueError:
            skipped += 1
            continue
        if len(taken) >= MOST and time != taken[-1].timestamp:
            return taken[::-1], skipped
        if before is not None and time >= before:
            skipped += 1
            continue
        taken.append(Behaviour("click", "item", object_id, time))
    return None if len(members) >= MOST + TIED else (taken[::-1], skipped)


def test_all_at_once_is_one_by_one() -> None:
    draw = np.random.default_rng(5)
    reading = Reading(Wanted((), (Newest("click", "item", MOST),)), 100)
    unfinished = strange = 0
    for _ in range(3000):
        times = 1_700_000_000_000 - np.sort(draw.integers(0, int(draw.choice([2, 10, 1000])), draw.integers(0, 14)))
        members = [b"%014d|i%d" % (time, draw.integers(9)) for time in times.tolist()]
        for _ in range(int(draw.choice([0, 0, 1, 2]))):
            members.insert(int(draw.integers(len(members) + 1)), STRANGE[draw.integers(len(STRANGE))])
        members = members[: MOST + TIED]
        before = int(draw.choice([0, 1_700_000_000_000, 1_699_999_999_999])) or None
        replies = [members, []] if before is None else [members, [], [None, None]]
        stored, expected = reading.stored(replies, Asked("u", before)), one_by_one(members, before)
        if expected is None:
            assert isinstance(stored, Unfinished), members
            unfinished += 1
        else:
            assert isinstance(stored, Stored)
            assert (stored.behaviours, stored.skipped) == expected, members
            strange += stored.skipped > 0
    assert unfinished > 50 and strange > 300
