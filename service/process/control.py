"""What the parent and a worker tell each other: lines of JSON over a pair of sockets that only these two hold.

No file, no port and no name: it ends with either of them. A message is a dataclass; the table at the end names all.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_BYTES = 2**20  # of one message
ENDED = "the worker ended"  # the problem in Done of one that will never answer


@dataclass(frozen=True)
class Drain:
    """To a worker: serve on, but say that nothing new should come here."""


@dataclass(frozen=True)
class Stop:
    """To a worker: accept nothing more, finish what is under way within so many seconds, and end.

    Connections that it has already are served for `linger_s` more, where they have not been closed by then.
    """

    grace_s: float
    linger_s: float = 0.0


@dataclass(frozen=True)
class Load:
    """To a worker: open and warm this bundle beside the one that answers. It tells Done."""

    number: int
    folder: str


@dataclass(frozen=True)
class Switch:
    """To a worker: answer with what was loaded under this number. It tells Done."""

    number: int


@dataclass(frozen=True)
class Drop:
    """To a worker: the bundle under this number was refused; forget what was loaded of it, and count and tell it."""

    number: int
    folder: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Up:
    """From a worker: it answers, with this bundle."""

    name: str
    version: str
    folder: str


@dataclass(frozen=True)
class Failed:
    """From a worker: why it cannot start. It ends then."""

    problem: str


@dataclass(frozen=True)
class Beat:
    """From a worker: its event loop turns."""


@dataclass(frozen=True)
class Leaving:
    """From a worker: somebody sent it SIGTERM. It serves on until its parent, which knows more, tells it to stop."""


@dataclass(frozen=True)
class Done:
    """From a worker: what was asked under this number is done; else the problem, in words."""

    number: int
    problem: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Order:
    """From a worker, whose caller wants something of all of them (POST /admin/model)."""

    number: int
    what: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """To that worker: an HTTP status and a body, or the kind and message of an error."""

    number: int
    status: int
    body: dict[str, Any] = field(default_factory=dict)


Message = Drain | Stop | Load | Switch | Drop | Up | Failed | Beat | Leaving | Done | Order | Result
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Drain, Stop, Load, Switch, Drop, Up, Failed, Beat, Leaving, Done, Order, Result)
}


def told(end: socket.socket, message: Message) -> None:
    """Tells it where no event loop runs yet."""
    end.sendall(_line(message))


def _line(message: Message) -> bytes:
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


class Line:
    """One end. Messages come in order; iterating ends when the other end is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Line":
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MOST_BYTES))

    def tell(self, message: Message) -> None:
        """Does not wait: messages are few and small. Whoever is gone hears nothing."""
        if not self._writer.is_closing():
            self._writer.write(_line(message))

    async def __aiter__(self) -> AsyncIterator[Message]:
        try:
            while line := await self._reader.readline():
                kind, fields = json.loads(line)
                yield _KINDS[kind](**fields)
        except ConnectionError:
            return

    def close(self) -> None:
        self._writer.close()
