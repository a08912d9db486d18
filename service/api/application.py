"""The HTTP side of a worker: FastAPI with the table of routes, and around them what every request passes.

Of FastAPI's own layers only the one that answers errors is kept. The others catch what Observed has caught, bound
bodies that the protocol bounds, close files that no route opens, and ask OpenTelemetry thrice per request whether it is
wanted; all that took some 10 µs of each.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.answers import client_gone, ranker_error
from service.api.edges.compressed import Compressed
from service.api.edges.cors import Cors
from service.api.edges.methods import Methods
from service.api.edges.prefix import Prefix
from service.api.endpoint import Parts, install
from service.api.observed import Observed
from service.api.openapi.document import Document
from service.api.report import Report
from service.api.routes import ASSETS, BULK, ENDPOINTS, STAGES_OF, http_error
from service.errors import RankerError
from service.telemetry.tracing import Tracing


class Application(FastAPI):
    """FastAPI with no layers but ours and the one that answers errors."""

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = ExceptionMiddleware(self.router, handlers=self.exception_handlers)
        for layer, args, options in reversed(self.user_middleware):
            app = layer(app, *args, **options)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)


def application(parts: Parts, report: Report, cors: Cors | None, traces: Tracing | None, lifespan: Any) -> Application:
    """`traces`, where there are any, gets every request's spans."""
    settings = parts.settings
    app = Application(
        title="bst-ranker",
        lifespan=lifespan,
        openapi_url=None,  # the table of routes has it, and what documents them
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # Starlette's would repeat the caller's Host
    )
    document = Document(ENDPOINTS, parts.live, settings, parts.gate.guard.needs_key)
    app.openapi = document.current  # type: ignore[method-assign]  # FastAPI's place for it
    install(app, ENDPOINTS, parts)
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]))
    if settings.compress_from_bytes:
        app.add_middleware(Compressed, least=settings.compress_from_bytes)
    app.add_middleware(Methods, routes=app.routes, cors=cors)
    app.add_middleware(  # outermost
        Observed,
        routes=STAGES_OF,
        bulk=BULK,
        gate=parts.gate,
        metrics=parts.metrics,
        report=report,
        traces=traces,
        prefix=Prefix(settings.root_path, settings.trusted_proxies, STAGES_OF),
        cors=cors,
    )
    app.add_exception_handler(RankerError, ranker_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, client_gone)
    return app
