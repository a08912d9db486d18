"""A worker's way to its parent: what a caller wants of all workers, and the parent's answer."""

import asyncio
from typing import Any

from service.errors import NoParent
from service.process.control import Line, Message, Order, Result


class Orders:
    def __init__(self) -> None:
        self._line: Line | None = None
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Result]] = {}

    def open(self, line: Line) -> None:
        self._line = line

    def tell(self, message: Message) -> None:
        if self._line is not None:
            self._line.tell(message)

    async def ask(self, what: dict[str, Any]) -> Result:
        """The parent's answer, however long it takes. Raises NoParent."""
        if self._line is None:
            raise NoParent("this process was not started by `python -m service`")
        self._number += 1
        number = self._number  # others ask meanwhile
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._line.tell(Order(number, what))
        try:
            return await answer
        finally:
            del self._waiting[number]

    def close(self) -> None:
        """The parent is gone: who waits for its answer gets none."""
        self._line = None
        for number in list(self._waiting):
            gone = {"kind": NoParent.kind, "message": "the parent process is gone, and this one ends"}
            self.answered(Result(number, NoParent.status, gone))

    def answered(self, result: Result) -> None:
        if (answer := self._waiting.get(result.number)) is not None and not answer.done():
            answer.set_result(result)
