"""Commands to one server and their replies, in one round trip.

redis-py's pipeline does it too, but takes the event loop 85 µs more a read (model/LOG.md, 2026-11-26): it packs in
Python, and looks each reply up among its own kinds of replies. These commands need none of that.
"""

import asyncio
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.store.clients.opening import Client

PIECE = 100  # commands that are packed, or replies that are read, before other requests get their turn: 0.2 ms


class Commands(list[tuple[str | int, ...]]):
    """Commands to be sent together, queued as on a pipeline (format.Pipeline)."""

    def execute_command(self, *args: str | int) -> None:
        self.append(args)


async def exchanged(client: Client, commands: Commands) -> list[Any]:
    """The replies; an error reply stands in its place. The connection of a call that is cut off is closed.

    Raises what redis-py does where the connection fails.
    """
    if not isinstance(client, Redis):  # a cluster, whose commands go to the nodes that have their keys
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers
    packed: list[bytes] = []
    for begin in range(0, len(commands), PIECE):
        if begin:
            await asyncio.sleep(0)
        packed += [hiredis.pack_command(one) for one in commands[begin : begin + PIECE]]  # type: ignore[arg-type]
    pool = client.connection_pool
    connection: Any = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.send_packed_command(packed, check_health=False)
        replies: list[Any] = []
        for number in range(1, len(commands) + 1):
            if not number % PIECE:
                await asyncio.sleep(0)
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies
    except BaseException:  # cancelled too: a reply that nobody read would be the next caller's answer
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)
