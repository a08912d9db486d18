"""How answers go out that the application does not give: what is turned away by its head, and what is no request.

A refusal comes after the answers of the requests before it, and ends the connection.
"""

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.api.http.bounds import MOST_PASSED_OVER
from service.api.http.place import BODY, Placed, gone
from service.api.http.refusals import answer_to
from service.errors import RankerError


class _Answered:
    """In the place of uvicorn's cycle: a request that is answered."""

    response_complete = True
    message_event = asyncio.Event()  # nobody waits for it


_ANSWERED = _Answered()


class Answering(Placed):
    """A connection that can be answered without the application."""

    deaf = False  # whether what comes is passed over

    def refuse(self, error: RankerError) -> None:
        """One answer, after those of the requests before it, and the end of the connection."""
        self.lobby.tell(error.kind)
        self.deaf, self._rest, self._body_bytes = True, b"", 0
        self._release()
        broken = self.cycle if self._reading == BODY and self._busy() else None
        if self._reading == BODY and (broken is None or broken.response_started):
            self.abort()  # it has its answer, or a part of it
            return
        if broken is not None:
            gone(broken)
            broken.response_complete = True  # the task that has it learns that the caller is gone
        answer = answer_to(error, self.headers or ())
        if broken is not None and self.pipeline:
            self.pipeline.pop()
        elif broken is not None or not self._busy():
            self._say(answer)
            return
        self._refusal = answer
        self.lobby.move(self, None)

    def _answer(self, answer: bytes) -> None:
        """Without a task, and without the body: what comes of it is passed over.

        A connection's last request is passed over too before it is closed: to close with bytes unread is a reset, which
        takes the answer from a caller who is still sending. Who asked whether to send the body (Expect) does not send
        it now, and what came next would be taken for it.
        """
        self.cycle = cast(RequestResponseCycle, _ANSWERED)
        self._turned_away = True
        self._last = self._last or self.expect_100_continue or self._closing()
        if self._last:
            answer = answer.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
        self.transport.write(answer)
        self.on_response_complete()

    def _say(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self._hang_up()

    def _hang_up(self) -> None:
        """No more answers, and no more requests; the rest is passed over for a moment."""
        self.deaf, self._body_bytes = True, 0
        self.cycle = cast(RequestResponseCycle, _ANSWERED)
        self.flow.resume_reading()
        self.transport.write_eof()
        self.lobby.linger(self)

    def _pass_over(self, count: int) -> None:
        self._body_bytes += count
        if self._body_bytes > MOST_PASSED_OVER:
            self.abort()
