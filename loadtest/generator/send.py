"""The open loop: every request leaves when the plan says, whether or not earlier ones are answered."""

import asyncio
import select
import selectors
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from loadtest.generator.answers import Log
from loadtest.generator.client import Answer, Client

HEAD_START_S = 0.05  # from setting the clock to the start of the plan

if sys.platform == "linux":

    class _Precise(selectors.EpollSelector):
        """epoll with waits as exact as the kernel's timers: its own are rounded up to whole milliseconds.

        An epoll descriptor can itself be waited for, and select() takes microseconds.
        """

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self], [], [], timeout)
                timeout = 0
            return super().select(timeout)
else:
    _Precise = selectors.DefaultSelector  # kqueue is exact as it is


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are late by 0.1 to 0.2 ms. uvloop takes less CPU, but counts whole milliseconds."""
    return asyncio.SelectorEventLoop(_Precise())


class Watcher(Protocol):
    """Is told of every answer, and every EVERY_S that it is time to show them."""

    EVERY_S: float

    def answered(self, seconds: float) -> None: ...

    def show(self) -> None: ...


async def open_loop(
    client: Client, messages: Sequence[bytes], log: Log, wait_s: float, progress: Watcher, start: float | None = None
) -> None:
    """Sends `messages` (round again when the plan is longer) at `log.due_s` and logs what happens.

    `start` is the zero of these seconds, by the loop's clock; without one, at once. Ends when all are answered, or
    `wait_s` after the last was due.
    """
    loop = asyncio.get_running_loop()
    due_s = log.due_s.tolist()
    start = loop.time() + HEAD_START_S if start is None else start
    waiting = len(due_s)
    finished = asyncio.Event()
    over = False
    timer: asyncio.TimerHandle
    ticker: asyncio.TimerHandle

    def send(request: int) -> None:
        nonlocal timer
        log.sent(request, loop.time() - start)
        client.send(messages[request % len(messages)], partial(answered, request))
        if request + 1 < len(due_s):  # one send a turn of the loop: answers are read between, even when it lags
            timer = loop.call_at(start + due_s[request + 1], send, request + 1)

    def answered(request: int, answer: Answer) -> None:
        nonlocal waiting
        if over:
            return
        at_s = answer.at - start
        log.answered(request, at_s, answer)
        progress.answered(at_s - due_s[request])
        waiting -= 1
        if not waiting:
            finished.set()

    def show() -> None:
        nonlocal ticker
        progress.show()
        ticker = loop.call_later(progress.EVERY_S, show)

    timer = loop.call_at(start + due_s[0], send, 0)
    ticker = loop.call_later(progress.EVERY_S, show)
    with suppress(TimeoutError):
        async with asyncio.timeout_at(start + due_s[-1] + wait_s):
            await finished.wait()
    over = True
    timer.cancel()
    ticker.cancel()
    log.close(loop.time() - start)
