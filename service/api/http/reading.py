"""How bytes become requests: slice by slice, within bounds, one request at a time.

What comes is parsed up to the end of one request (uvicorn begins all that a read holds); the rest waits until it is
answered.
"""

import httptools

from service.api.http.answering import Answering
from service.api.http.bounds import FRAMING
from service.api.http.place import BODY, NONE
from service.api.http.refusals import misread
from service.errors import BadHttp, HeadTooLarge

END = b"\r\n\r\n"  # of a head, and of a chunked body
CHUNKED_SLICE = 512  # bytes of a chunked body that are read before the next is looked for


class Reading(Answering):
    """A connection whose bytes are parsed."""

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self._pass_over(len(data))
            return
        if self._rest:
            self._rest += data
            self.flow.pause_reading()
            return
        self._read(data)

    def _read(self, data: bytes) -> None:
        """Parses it, slice by slice: one holds no more than one request's end."""
        at, size = 0, len(data)
        try:
            while at < size:
                if self.pipeline:
                    self._rest = data[at:]
                    self.flow.pause_reading()
                    break
                end = self._slice(data, at, size)
                piece = data[at:end]
                at = end
                before = self._reading
                try:
                    self.parser.feed_data(piece)
                except httptools.HttpParserUpgrade:
                    self._go_on_as_before()
                if self.deaf:
                    return
                if before == BODY and self._reading == BODY:
                    self._check_body(len(piece))
                elif self._reading != BODY and before != BODY:
                    self._check_head(len(piece))
        except httptools.HttpParserError as error:
            self.refuse(misread(error, piece))
            return
        if self._reading != NONE or self.queue is not None or not self._busy():  # else it waits for us, as a rule
            self._place()

    def _slice(self, data: bytes, at: int, size: int) -> int:
        """Where the slice that begins `at` ends."""
        if self._reading != BODY:
            end = data.find(END, at) + len(END)
            most = at + self.lobby.bounds.header_bytes - self._head_bytes
            return min(size if end < len(END) else end, most)
        if self._head.chunked:
            end = data.find(END, at + CHUNKED_SLICE) + len(END)
            return size if end < len(END) else end
        return min(size, at + self._head.length - self.received)

    def _check_head(self, more: int) -> None:
        self._head_bytes += more
        most = self.lobby.bounds.header_bytes
        if self._head_bytes >= most:
            self.refuse(HeadTooLarge(f"a head of more than {most} bytes, at most {most}"))

    def _check_body(self, more: int) -> None:
        if self.cycle.response_complete:
            self._pass_over(more)
            return
        self._body_bytes += more
        framing = self._body_bytes - self.received
        if self._head.chunked and framing > FRAMING * self.received + self.lobby.bounds.header_bytes:
            self.refuse(BadHttp(f"{framing} bytes of chunks' sizes, extensions and trailers around {self.received}"))
            return
        more, self._held = self.received - self._held, self.received
        self.lobby.hold(more)

    def _go_on_as_before(self) -> None:
        """An upgrade is not offered here, so it is ignored; the parser has ended, and one like it takes its place.

        A body would have been taken for what follows the upgrade: the new parser is told of it by a head of its own.
        """
        reading, head = self._reading, self._head
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if reading == BODY:
            framing = b"Transfer-Encoding: chunked" if head.chunked else b"Content-Length: %d" % head.length
            muted = self._reading = -1
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + END)
            assert self._reading == muted
            self._reading = BODY

    def on_response_complete(self) -> None:
        """uvicorn's, without its timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self.lobby.move(self, self.lobby.unread)
            return
        if self.expect_100_continue and self._reading == BODY:
            self._hang_up()  # it may never send the body
            return
        if self._rest:  # before the next request's task, whose body is in it: it would seem to be slow in coming
            self.loop.call_soon(self._go_on)
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._say(self._refusal)
            return
        if not self._rest:
            if self.flow.read_paused:
                self.flow.resume_reading()
            if self._reading == NONE and self.cycle.response_complete:
                self._forget()
        self._place()

    def _go_on(self) -> None:
        data, self._rest = self._rest, b""
        if self.transport.is_closing() or self.deaf:
            return
        self.flow.resume_reading()
        self._read(data)

    def _forget(self) -> None:
        """What an answered request leaves behind is some kilobytes, for as long as the connection is kept."""
        self.cycle = self.scope = self.headers = None  # type: ignore[assignment]
        self._earlier.clear()
