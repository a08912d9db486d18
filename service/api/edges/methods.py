"""What HTTP asks of every route alike: HEAD is GET without a body, OPTIONS tells what is allowed. ASGI."""

from collections.abc import Sequence
from typing import Any

from fastapi import Response
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answers import call_of, refusal
from service.api.edges.cors import Cors
from service.errors import CorsRefused


class Methods:
    """Around the routes. `cors`: whose pages may call, where any may."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], cors: Cors | None):
        self.app, self._routes, self._cors = app, routes, cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["method"] == "HEAD":
                await self._head(scope, receive, send)
                return
            if scope["method"] == "OPTIONS" and (response := self._options(scope)) is not None:
                await response(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As GET, up to its content-length; where there is no GET it is refused as that is."""

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b""})

        as_get: dict[str, Any] = {**scope, "method": "GET"}
        try:
            await self.app(as_get, receive, without_body)
        finally:
            if "route" in as_get:
                scope["route"] = as_get["route"]  # for the metrics

    def _options(self, scope: Scope) -> Response | None:
        """None for a path that is not there, which the routes refuse."""
        if self._cors is not None:
            try:
                if (response := self._cors.preflight(scope)) is not None:
                    return response
            except CorsRefused as error:
                return refusal(call_of(Request(scope)), error)
        if scope["path"] == "*":  # of the server as a whole (RFC 9110, 9.3.7)
            everything = {method for route in self._routes for method in getattr(route, "methods", None) or ()}
            return Response(status_code=204, headers={"allow": ", ".join(sorted(everything | {"HEAD", "OPTIONS"}))})
        allowed, route = allowed_of(self._routes, scope)
        if route is None:
            return None
        scope["route"] = route
        return Response(status_code=204, headers={"allow": allowed})


def allowed_of(routes: Sequence[BaseRoute], scope: Scope) -> tuple[str, BaseRoute | None]:
    """The methods that its path takes, as `Allow` has them, and one of its routes; "" and None for no such path."""
    methods: set[str] = set()
    first = None
    for route in routes:
        if route.matches({**scope, "type": "http", "method": "GET"})[0] is not Match.NONE:
            first = first or route
            methods |= set(getattr(route, "methods", None) or {"GET"})  # a folder of files takes GET
    methods |= {"HEAD"} if "GET" in methods else set()
    return ", ".join(sorted({*methods, "OPTIONS"})) if methods else "", first
