"""Some callers at a time go through all visits, while things happen."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

CALLERS = 12
Deed = Callable[[], Awaitable[None]]


async def called(visits: Iterable[Deed], count: int, happens: Sequence[Deed]) -> None:
    """`happens`, one after another, at equal parts of the `count` visits."""
    left, begun = iter(visits), 0
    due = [count * (at + 1) // (len(happens) + 1) for at in range(len(happens))]
    reached = [asyncio.Event() for _ in due]

    async def call() -> None:
        nonlocal begun
        for visit in left:  # shared: each takes the next
            begun += 1
            for at, event in zip(due, reached, strict=True):
                if begun >= at:
                    event.set()
            await visit()

    async def go_wrong() -> None:
        for event, happen in zip(reached, happens, strict=True):
            await event.wait()
            await happen()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(go_wrong())
        for _ in range(CALLERS):
            tasks.create_task(call())
