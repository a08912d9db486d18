"""What a parent asks of a worker is always answered: also by one that has ended, or that meets what nobody foresaw."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.process.control import ENDED, Done, Line, Load, Message, Result, Switch
from service.process.orders import Orders
from service.process.worker import Answering
from service.process.workers import Worker


async def ends(worker: Worker) -> None:
    await worker.listen(lambda *_: None, lambda: None)


def test_a_worker_that_has_ended_or_ends_meanwhile_answers_that_it_ended() -> None:
    async def go() -> list[Done]:
        ours, theirs = socket.socketpair()

        class Process:
            async def wait(self) -> int:
                return 0

        worker = Worker(cast(Any, Process()), await Line.over(ours))
        listening = asyncio.create_task(ends(worker))
        meanwhile = asyncio.create_task(worker.ask(Load(1, "x")))
        await asyncio.sleep(0)
        theirs.close()
        await listening
        return [await meanwhile, await worker.ask(Switch(2))]

    assert asyncio.run(asyncio.wait_for(go(), 10)) == [Done(1, ENDED), Done(2, ENDED)]


@pytest.mark.parametrize("error", [KeyError("nodes"), MemoryError("no room")])
def test_a_load_that_fails_in_a_way_that_nobody_foresaw_is_answered(error: BaseException) -> None:
    async def load(number: int, folder: Path) -> Done:
        raise error

    async def go() -> Done:
        ours, theirs = socket.socketpair()
        parent, line = await Line.over(ours), await Line.over(theirs)
        app = SimpleNamespace(state=SimpleNamespace(loading=SimpleNamespace(load=load)))
        answering = Answering.__new__(Answering)
        answering._app = cast(Any, app)
        listening = asyncio.create_task(answering._listen(line))
        parent.tell(Load(7, "x"))
        async for message in parent:
            listening.cancel()
            parent.close()
            line.close()
            assert isinstance(message, Done)
            return message
        raise AssertionError("no answer")

    done = asyncio.run(asyncio.wait_for(go(), 10))
    assert done.number == 7 and done.problem is not None and repr(error) in done.problem


class Deaf:
    """A line to a parent that says nothing by itself."""

    def tell(self, message: Message) -> None:
        pass


def test_two_who_ask_at_once_each_get_their_own_answer() -> None:
    async def go() -> list[Result]:
        orders = Orders()
        orders.open(cast(Any, Deaf()))
        asked = [asyncio.create_task(orders.ask({"rollback": True})) for _ in range(2)]
        await asyncio.sleep(0)
        for number in (2, 1):  # the second is refused before the first is done
            orders.answered(Result(number, 200 + number))
            await asyncio.sleep(0)
        return [await one for one in asked]

    assert [one.status for one in asyncio.run(asyncio.wait_for(go(), 10))] == [201, 202]


def test_who_waits_for_a_parent_that_is_gone_is_told() -> None:
    async def go() -> Result:
        orders = Orders()
        orders.open(cast(Any, Deaf()))
        asked = asyncio.create_task(orders.ask({}))
        await asyncio.sleep(0)
        orders.close()
        return await asked

    assert asyncio.run(asyncio.wait_for(go(), 10)).body["kind"] == "no_parent"
