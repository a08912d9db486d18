"""A row of the table of routes, and the one door through which requests reach their handlers.

The door is FastAPI's route with its handler overridden: what it documents is what answers, but bodies are neither
parsed nor answers checked by FastAPI, whose dependencies cost more than the handlers (`python -m loadtest.overhead`).
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import Receive, Scope, Send

from service.access.keys import ADMIN
from service.api.answers import call_of
from service.api.duty import Duty
from service.api.gate import Gate
from service.call import Call
from service.errors import KINDS, ClientGone, MethodNotAllowed, NotFound
from service.models.examples import Ids
from service.process.orders import Orders
from service.scoring.served import Live
from service.settings import Settings
from service.store.history import History
from service.telemetry.counts import Metrics
from service.wire.shapes import ErrorResponse, RankRequest
from service.wire.turns import Turns


@dataclass(frozen=True)
class Parts:
    """What handlers work with; app.py builds it."""

    settings: Settings
    live: Live
    history: History
    gate: Gate
    metrics: Metrics
    duty: Duty
    orders: Orders
    turns: Turns = field(default_factory=Turns)


_KEY = Depends(HTTPBearer(scheme_name="key", description="An API key.", auto_error=False))

Handler = Callable[[Call, Request, Parts], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """One route. `stages`: what a ranking request comes through; none for a route that ranks nothing."""

    method: str
    path: str
    handler: Handler
    scope: str = ADMIN  # that a caller's key must have; OPEN: anybody may. One that is forgotten is closed
    stages: tuple[str, ...] = ()
    summary: str | None = None  # None: it is not documented
    answer: Any = None  # type of the documented answer
    media: type[Response] = JSONResponse
    example: Callable[[Ids], Any] | None = None  # a body that works
    bulk: bool = False  # it ranks many requests at once, and lets single ones pass


class Door(APIRoute):
    """A documented route that calls its handler and sends what it returns."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def install(app: FastAPI, endpoints: Iterable[Endpoint], parts: Parts, ids: Ids) -> None:
    """Adds the routes, in their order; `ids` fill the documented examples."""
    refusals = sorted({error.status for error in KINDS} - {NotFound.status, MethodNotAllowed.status, ClientGone.status})
    for endpoint in endpoints:
        extra = None if endpoint.example is None else {"requestBody": _documented(endpoint.example(ids))}
        errors: dict[int | str, Any] = {status: {"model": ErrorResponse} for status in refusals if endpoint.stages}
        app.router.add_api_route(
            endpoint.path,
            _bound(endpoint, parts),
            methods=[endpoint.method],
            summary=endpoint.summary,
            include_in_schema=endpoint.summary is not None,
            response_model=endpoint.answer,
            response_class=endpoint.media,
            responses=errors,
            openapi_extra=extra,
            dependencies=[_KEY] if parts.gate.guard.needs_key(endpoint.scope) else None,  # documents it
            route_class_override=Door,
        )


def _bound(endpoint: Endpoint, parts: Parts) -> Callable[[Request], Awaitable[Response]]:
    handler = endpoint.handler

    async def answer(request: Request) -> Response:
        call = call_of(request)
        parts.gate.guard.permit(call.key, endpoint.method, endpoint.path, endpoint.scope)
        return await handler(call, request, parts)

    answer.__name__ = handler.__name__.removeprefix(
        f"{endpoint.method.lower()}_"
    )  # in the documentation's operation ids
    return answer


def _documented(body: Any) -> dict[str, Any]:
    schema = RankRequest.model_json_schema()
    if isinstance(body, list):
        schema = {"type": "array", "items": schema}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": body}}}
