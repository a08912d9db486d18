"""Whether a ranking request is begun at all, asked before its body is read; and until when its answer is of use."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from urllib.parse import unquote

import orjson

from service.access.guard import Guard
from service.api.edges.cors import Cors
from service.api.report import Report, ids_of, server_timing
from service.call import Call
from service.errors import RankerError, error_body
from service.scoring.admission import Admission, Size
from service.scoring.learnt import Ratio
from service.settings import Settings

EXPANSION, PRIOR_BYTES = 4.0, 100_000  # of compressed bodies, believed before any was seen
_ANSWER = (
    b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b"
    b"x-request-id: %b\r\nserver-timing: %b\r\n%b\r\n%b"
)


class Gate:
    """The admission of one worker, by what HTTP tells of a request before its body; keys come before all else.

    `bulk`: the paths of the routes that rank, and whether they rank many requests at once.
    """

    def __init__(
        self,
        admission: Admission,
        settings: Settings,
        bulk: Mapping[str, bool],
        report: Report,
        guard: Guard,
        cors: Cors | None = None,
    ) -> None:
        self._admission, self._report, self.guard, self._cors = admission, report, guard, cors
        self._bulk = {path.encode(): (path, many) for path, many in bulk.items()}
        if settings.root_path:  # of a proxy that does not strip it
            self._bulk = {settings.root_path.encode() + path: row for path, row in self._bulk.items()} | self._bulk
        self._single_s = settings.timeout_ms / 1000 or None
        self._bulk_s = settings.batch_timeout_ms / 1000 or None
        self._expansion, self._most_bytes = Ratio(EXPANSION * PRIOR_BYTES, PRIOR_BYTES), settings.max_body_bytes
        batch = Size(settings.max_batch_requests, settings.max_batch_candidates)
        self._most = (Size(1, settings.max_candidates), batch)  # more is refused once it is parsed

    def state(self) -> tuple[int, float, float]:
        """For the metrics: candidates under way, seconds that one costs, and seconds that who comes now would wait."""
        return self._admission.candidates, self._admission.cost_s, self._admission.wait_s()

    def turn_away(self, begun: float, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """The answer to a request that has no chance; None for all others, which come by `enter`.

        A refusal must cost next to nothing, since there may be many times more of them than of answers: this spares a
        task, the framework and most of HTTP (an arrival.Turnstile).
        """
        path = url.partition(b"?")[0]
        row = self._bulk.get(path) if method == b"POST" else None
        if self.guard.ring is None and (row is None or not self._admission.candidates):
            return None  # there is nothing that could refuse it
        route, bulk = row or (path.decode("latin-1"), None)
        call = Call("", begun)
        try:
            self._foresee(call, method, path, headers)
            if bulk is not None:
                self._admission.check(*self._asked(call, headers, bulk), bulk)
            return None
        except RankerError as error:
            call.id, _, _ = ids_of(headers)
            call.error = error.kind
            body = orjson.dumps(error_body(error.kind, str(error), call.id))
            total_s = call.spent_s()
            self._report.refused(call, method.decode(), route, error.status, total_s)
            extra = "".join(f"{name}: {value}\r\n" for name, value in error.headers())
            head = (error.status, HTTPStatus(error.status).phrase.encode(), len(body), extra.encode())
            cors = b"" if self._cors is None else self._cors.lines(headers)
            content = b"" if method == b"HEAD" else body
            return _ANSWER % (*head, call.id.encode(), server_timing({}, total_s), cors, content)

    def _foresee(self, call: Call, method: bytes, path: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """The key, as `Observed` will find it: it decides, also of what is spelt so that only it can read it."""
        if self.guard.ring is None or not path.startswith(b"/"):
            return
        plain = path.decode("latin-1")
        plain = unquote(plain) if "%" in plain else plain
        if self.guard.foresees(plain):
            call.key = self.guard.admit(method.decode(), plain, headers, count=False)

    def enter(self, call: Call, headers: Iterable[tuple[bytes, bytes]], bulk: bool, whole: bool) -> None:
        """Gives the call its deadline and, where its body is whole, its ticket. Raises Overloaded.

        Nobody waits for what is still being sent: who sends slowly, or not at all, takes up no room.
        """
        size, left_s = self._asked(call, headers, bulk)
        if whole:
            call.ticket = self._admission.enter(size, left_s, bulk)
        else:
            self._admission.check(size, left_s, bulk)

    def uploaded(self, call: Call, body_bytes: int, bulk: bool) -> None:
        """The body is whole: now at the latest the call gets its ticket. Raises Overloaded."""
        if call.ticket is None:
            call.ticket = self._admission.enter(self._guessed(body_bytes, bulk), call.left_s(), bulk)

    def counted(self, call: Call, size: Size, body_bytes: int, timeout_ms: int | None) -> None:
        """The body is parsed: so much it holds, and this is the deadline that it names. Raises Overloaded."""
        if timeout_ms is not None:
            call.deadline = call.begun + timeout_ms / 1000
        if call.ticket is not None:
            news = timeout_ms is not None or call.ticket.bulk  # a batch's own work is no small part of its time
            self._admission.counted(call.ticket, size, body_bytes, call.left_s() if news else None)

    def expanded(self, body_bytes: int, plain_bytes: int) -> None:
        """A compressed body was so long as it came, and plain: by its length alone the next ones would look small."""
        self._expansion.learn(plain_bytes, body_bytes)

    def leave(self, call: Call, ranked: bool) -> None:
        """The call's answer is made; what comes after waits no longer for it. Once is enough."""
        if call.ticket is not None:
            # Late is as long as it took, or more: unlearnt, too many would be let in for as long as all are late.
            # What was late before it was parsed came late, and says nothing of what it would have taken.
            late = call.late_before not in (None, "parse")
            took_s = call.spent_s() if ranked or late else None
            self._admission.leave(call.ticket, took_s, call.stages.get("history", 0.0))
            call.ticket = None

    def _asked(self, call: Call, headers: Iterable[tuple[bytes, bytes]], bulk: bool) -> tuple[Size, float | None]:
        """What it holds, by its length, and the seconds until its deadline, which the call gets."""
        allowed_s = self._bulk_s if bulk else self._single_s
        if allowed_s is not None:
            call.deadline = call.begun + allowed_s
        return self._guessed(self._announced(headers), bulk), call.left_s()

    def _announced(self, headers: Iterable[tuple[bytes, bytes]]) -> int:
        """The body's length; of a compressed one what it will be plain, as it was of others lately."""
        announced, encoded = announced_bytes(headers)
        return min(self._most_bytes, round(self._expansion(announced))) if encoded else announced

    def _guessed(self, body_bytes: int, bulk: bool) -> Size:
        guessed, most = self._admission.guessed(body_bytes, bulk), self._most[bulk]
        return Size(min(guessed.requests, most.requests), min(guessed.candidates, most.candidates))


def announced_bytes(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bool]:
    """The body's length as its header has it, 0 where it has none; and whether it is compressed."""
    length, encoded = 0, False
    for name, value in headers:
        if name == b"content-length":
            length = int(value) if value.isdigit() else 0
        elif name == b"content-encoding":
            encoded = value != b"identity"
    return length, encoded
