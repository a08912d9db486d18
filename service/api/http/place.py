"""A connection's place among all of its process: the lobby's queue of what it is waited for, and its end.

It is uvicorn's protocol, which speaks to the transport; `reading.py` and `answering.py` build on it.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.api.duty import DUTY, Duty
from service.api.http.arrival import Arrival
from service.api.http.lobby import LOBBY, Lobby, Queue
from service.api.http.refusals import Head
from service.errors import RankerError

NONE, HEAD, BODY = range(3)  # what of a request is being read


class Placed(HttpToolsProtocol):
    """What a connection is at, and where it waits for it (lobby.Connection)."""

    counts = False
    received = 0
    unseen: Callable[[], bool]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.lobby: Lobby = app_state.get(LOBBY) or app_state.setdefault(LOBBY, Lobby())
        self.queue: Queue | None = None
        self._duty: Duty | None = app_state.get(DUTY)
        self._earlier: list[RequestResponseCycle] = []  # of pipelined requests those before the last
        self._arrival: Arrival | None = None
        self._head = Head()
        self._reading = NONE
        self._head_bytes = self._body_bytes = 0  # as they came, framing and all
        self._held = 0  # of the lobby's bytes
        self._rest = b""  # what came after a request that waits for its turn
        self._last = False  # whether the request that is read is the connection's last one
        self._turned_away = False
        self._refusal: bytes | None = None  # that waits for earlier requests' answers

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the last one alone; one that is under way would fail when it answers.
        for cycle in self._earlier:
            gone(cycle)
        self._release()
        self.lobby.leave(self)
        del self.unseen  # it holds the door, which holds this
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._place()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._place()

    @abstractmethod
    def refuse(self, error: RankerError) -> None:
        """It gets one answer, and is closed."""

    def ours(self) -> bool:
        return self.flow.read_paused

    def close(self) -> None:
        self.lobby.leave(self)
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # its answer has been waiting for as long
        else:
            self.transport.close()

    def abort(self) -> None:
        self.lobby.leave(self)
        self.transport.abort()

    @property
    def asked_at(self) -> float:
        """When the first byte of the newest request came, by time.perf_counter; 0: none yet."""
        return 0.0 if self._arrival is None else self._arrival.begun

    @property
    def amid_request(self) -> bool:
        """Whether a request's first byte has come and its last one has not."""
        return self._reading != NONE

    def _place(self) -> None:
        """Into the queue of what it is waited for."""
        lobby = self.lobby
        if self.queue is lobby.leaving or not self.counts:
            return
        if self.flow.write_paused:
            lobby.move(self, lobby.unread)
        elif self._reading == BODY:
            lobby.move(self, lobby.bodies)
        elif self._busy() or self.flow.read_paused:
            lobby.move(self, None)
        elif self._reading == HEAD:
            lobby.move(self, lobby.heads)
        elif self.queue is not lobby.silent or self._arrival is not None:
            lobby.move(self, lobby.idle)

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _closing(self) -> bool:
        return self._duty is not None and self._duty.closing

    def _release(self) -> None:
        self.lobby.hold(-self._held)
        self._held = 0


def gone(cycle: RequestResponseCycle) -> None:
    """Who has asked is told so."""
    cycle.disconnected = True
    cycle.message_event.set()
