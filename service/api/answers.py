"""What a request is answered with when it gets an error, and the routes that may be named then."""

from collections.abc import Mapping

import orjson
from fastapi import Request, Response
from starlette.exceptions import HTTPException

from service.errors import STATUS, RankerError, error_body
from service.telemetry.families import STAGES

ROUTES = {
    "/rank": STAGES,
    "/rank/batch": STAGES,
    "/model": (),
    "/metrics": (),
    "/health/live": (),
    "/health/ready": (),
    "/docs": (),
}
RANKED, READ = ([route for route, stages in ROUTES.items() if bool(stages) == ranked] for ranked in (True, False))
CLIENT_GONE = 499  # nginx's status for a caller that hung up; nobody reads it


def _error(
    request: Request, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    request.scope["ranker.error"] = kind
    content = orjson.dumps(error_body(kind, message, request.scope["ranker.request_id"]))
    return Response(content, status, headers, media_type="application/json")


async def ranker_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RankerError)
    return _error(request, STATUS[error.kind], error.kind, str(error))


async def http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = next((kind for kind, status in STATUS.items() if status == error.status_code), "invalid_request")
    said = (
        f"{request.method} {request.url.path}: {error.detail}; allowed: POST {', '.join(RANKED)}, GET {', '.join(READ)}"
    )
    return _error(request, error.status_code, kind, said, error.headers)


async def client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
