"""Which origins' pages may call from a browser (CORS): what each answer says of it, and what a browser asks before.

Starlette's middleware decides. It is not used as a middleware, because refusals that never come to the application
(gate.py) must say it too: without it a page sees a failed network instead of a 429.
"""

from collections.abc import Iterable

from fastapi import Response
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from service.errors import CorsRefused

ALLOWED_HEADERS = ("authorization", "content-encoding", "content-type", "traceparent", "tracestate", "x-request-id")
EXPOSED_HEADERS = ("Server-Timing", "X-Request-Id", "Retry-After", "traceresponse")
ASKED = b"access-control-request-method"

Fields = list[tuple[bytes, bytes]]


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("Starlette's rules are asked, not its middleware")


class Cors:
    """For pages of these origins; `*` is all of them. Cookies are not sent along: nothing here knows any."""

    def __init__(self, origins: tuple[str, ...], methods: tuple[str, ...]):
        self._rules = CORSMiddleware(
            _nobody,
            allow_origins=origins,
            allow_methods=methods,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )
        self._simple: Fields = [
            (name.lower().encode(), value.encode()) for name, value in self._rules.simple_headers.items()
        ]

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> Fields:
        """What an answer to a request with these headers says, whatever the answer is."""
        origin = next((value for name, value in headers if name == b"origin"), None)
        if self._rules.allow_all_origins:
            return [] if origin is None else self._simple
        if origin is not None and self._rules.is_allowed_origin(origin.decode("latin-1")):
            return [*self._simple, (b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        return [(b"vary", b"Origin")]

    def lines(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The same, as lines of a head that is written by hand."""
        return b"".join(b"%b: %b\r\n" % field for field in self.of(headers))

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a browser that asks before it calls; None for every other request. Raises CorsRefused.

        It asks without a key, whatever the call itself will need.
        """
        names = {name for name, _ in scope["headers"]}
        if scope["method"] != "OPTIONS" or b"origin" not in names or ASKED not in names:
            return None
        asked = Headers(scope=scope)
        decision = self._rules.preflight_response(asked)
        if decision.status_code != 200:
            methods, allowed = ", ".join(self._rules.allow_methods), ", ".join(self._rules.allow_headers)
            raise CorsRefused(
                f"{bytes(decision.body).decode()}: {asked['origin'][:200]} asked for "
                f"{asked[ASKED.decode()][:20]}; allowed are the origins of RANKER_CORS_ORIGINS, the methods {methods} "
                f"and the headers {allowed}"
            )
        told = {name: value for name, value in decision.headers.items() if name.startswith("access-control-")}
        told.pop("access-control-allow-origin")  # every answer has it: `of`
        return Response(status_code=204, headers=told)
