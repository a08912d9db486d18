"""A row of the table of routes, and the one door through which requests reach their handlers.

The door is FastAPI's route with its handler overridden: bodies are neither parsed nor answers checked by FastAPI, whose
dependencies cost more than the handlers (`python -m loadtest.overhead`). `openapi/` documents the same table.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Receive, Scope, Send

from service.access.keys import ADMIN
from service.api.answers import call_of
from service.api.duty import Duty
from service.api.gate import Gate
from service.call import Call
from service.errors import RankerError
from service.explore import Explore
from service.journal.journal import Journal, NoJournal
from service.models.loading import Loading
from service.process.orders import Orders
from service.scoring.served import Live
from service.settings import Settings
from service.store.history import History
from service.telemetry.counts import Metrics
from service.variants.variants import Variants
from service.wire.turns import Turns

Errors = tuple[type[RankerError], ...]


@dataclass
class UnderWay:
    """Events that this worker is writing."""

    events: int = 0


@dataclass(frozen=True)
class Parts:
    """What handlers work with; app.py builds it."""

    settings: Settings
    live: Live
    history: History
    gate: Gate
    metrics: Metrics
    duty: Duty
    loading: Loading
    orders: Orders
    journal: Journal = field(default_factory=NoJournal)
    explore: Explore | None = None
    variants: Variants | None = None
    turns: Turns = field(default_factory=Turns)
    under_way: UnderWay = field(default_factory=UnderWay)


Handler = Callable[[Call, Request, Parts], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """One route, and what the documentation says of it. `stages`: what a ranking request comes through, else none."""

    method: str
    path: str
    handler: Handler
    scope: str = ADMIN  # that a caller's key must have; OPEN: anybody may. One that is forgotten is closed
    stages: tuple[str, ...] = ()
    summary: str | None = None  # None: it is not documented
    description: str = ""
    tag: str = "ranking"
    body: Any = None  # type of a documented body
    answer: Any = None  # type of the documented answer; None: text
    media: str = "application/json"
    errors: Errors = ()  # that it may answer, besides those that any route may
    bulk: bool = False  # it ranks many requests at once, and lets single ones pass

    @property
    def operation(self) -> str:
        """Its name in generated clients: `rank_batch`, `get_model`."""
        if "{" in self.path:  # /users/{user_id} → get_user
            return f"{self.method.lower()}_{self.path.split('/')[1].removesuffix('s')}"
        words = self.path.strip("/").replace("/", "_")
        return words if self.method == "POST" else f"{self.method.lower()}_{words}"


class Rest(Convertor[str]):
    """The rest of a path, whatever it holds: an id may have a slash, and starlette's `path` ends at a new line."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("rest", Rest())


class Door(APIRoute):
    """A route that calls its handler and sends what it returns."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def install(app: FastAPI, endpoints: Iterable[Endpoint], parts: Parts) -> None:
    """Adds the routes, in their order."""
    for endpoint in endpoints:
        app.router.add_api_route(
            endpoint.path.replace("}", ":rest}"),
            _bound(endpoint, parts),
            methods=[endpoint.method],
            name=endpoint.operation,
            include_in_schema=False,  # `openapi/` documents the table
            route_class_override=Door,
        )


def _bound(endpoint: Endpoint, parts: Parts) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        call = call_of(request)
        parts.gate.guard.permit(call.key, endpoint.method, endpoint.path, endpoint.scope)
        return await endpoint.handler(call, request, parts)

    return answer
