"""The fault suite in short: some of its faults under few requests. In full: `make faults`."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.faults.held import LeftOut
from tests.faults.table import FAULTS, Fault, seen
from tests.faults.world import World, world

SHORT = [fault for fault in FAULTS if fault.short]


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    with world(users=100) as made:
        yield made


@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: fault.name)
def test_what_is_promised_under_a_fault_holds(running: World, fault: Fault) -> None:
    try:
        held = asyncio.run(seen(fault, running, max(100, fault.size // 100)))
    except LeftOut as error:
        pytest.skip(str(error))
    assert not held.broken, "\n".join(held.broken)
    assert held.sent >= 20, f"{fault.name}: only {held.sent} requests were sent"


def test_the_suite_tells_another_users_answer_and_one_without_its_history(running: World) -> None:
    users = running.users
    one, other = users.ordinary[:2]

    def answer(scores: dict[str, float], degraded: list[str], history_length: int) -> dict[str, object]:
        items = [{"item_id": item, "score": score} for item, score in sorted(scores.items(), key=lambda pair: -pair[1])]
        return {"items": items, "degraded": degraded, "history_length": history_length, "new_user": False}

    mine, theirs, bare = users.whole[one], users.whole[other], users.bare[one]
    assert users.wrong(one, answer(mine.scores, [], mine.history_length)) is None
    assert users.wrong(one, answer(bare.scores, ["history:open"], 0)) is None
    assert users.wrong(one, answer(mine.scores, ["history:cached"], mine.history_length)) is None
    crossed = users.wrong(one, answer(theirs.scores, [], mine.history_length))
    assert crossed and "CROSSED" in crossed and other in crossed
    silent = users.wrong(one, answer(bare.scores, [], 0))
    assert silent and "history_length 0" in silent
    unknown = users.wrong(one, answer(mine.scores, ["history"], mine.history_length))
    assert unknown and "allowed are history:timeout" in unknown


def test_no_two_faults_have_one_name_and_each_says_what_it_does_and_promises() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) > 40
    assert all(fault.does and fault.promises for fault in FAULTS)
