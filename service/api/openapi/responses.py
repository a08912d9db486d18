"""Answers as the OpenAPI document tells of them: their headers, and the errors that a route can answer with."""

from http import HTTPStatus
from typing import Any

from service.access.keys import OPEN
from service.api.endpoint import Endpoint, Errors
from service.errors import (
    BadHttp,
    Forbidden,
    HeadTooLarge,
    RankerError,
    SlowHead,
    TooManyConnections,
    TooManyOfKey,
    Unauthorized,
    UrlTooLong,
)
from service.wire.refusals import told

# whatever the route; the last ones before it is looked at
ANYWHERE: Errors = (RankerError, BadHttp, UrlTooLong, HeadTooLarge, SlowHead, TooManyConnections)
KEYED: Errors = (Unauthorized, Forbidden, TooManyOfKey)  # where there are keys; a client is generated once for all
PARAMETERS = {
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "required": False,
        "description": "Names the request in answer, log and trace: up to 128 letters, digits and any of . : - _; "
        "anything else is passed over, and the service makes one.",
        "schema": {"type": "string"},
    }
}
HEADERS = {
    "X-Request-Id": {"description": "Names the request in the log.", "required": True, "schema": {"type": "string"}},
    "Server-Timing": {
        "description": "Milliseconds by stage, and in all; not where no request could be read.",
        "required": False,
        "schema": {"type": "string"},
        "example": "parse;dur=0.102, total;dur=2.705",
    },
    "Retry-After": {
        "description": "Seconds after which it is worth trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
}
_ALWAYS = ("X-Request-Id", "Server-Timing")
_BESIDES = {429: ("Retry-After",)}  # 503 has it too where it is worth trying again


def ok_response(endpoint: Endpoint, schema: dict[str, Any] | None, example: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema or {"type": "string"}}
    if example is not None:
        content["example"] = example
    return {"description": endpoint.summary, "headers": _headers(200), "content": {endpoint.media: content}}


def error_responses(endpoint: Endpoint, prefix: str) -> dict[str, Any]:
    """By status; `prefix` and the status are the reference to the error's schema."""
    by_status: dict[int, list[type[RankerError]]] = {}
    for error in sorted(
        (*endpoint.errors, *ANYWHERE, *(KEYED if endpoint.scope != OPEN else ())), key=lambda error: error.status
    ):
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _error_response(status, errors, prefix) for status, errors in by_status.items()}


def _error_response(status: int, errors: list[type[RankerError]], prefix: str) -> dict[str, Any]:
    kinds = [f"`{error.kind}`: {told(error)}" for error in errors]
    content = {"schema": {"$ref": f"{prefix}{status}"}, "examples": {error.kind: _example(error) for error in errors}}
    return {
        "description": " ".join((f"{HTTPStatus(status).phrase}.", *kinds)),
        "headers": _headers(status),
        "content": {"application/json": content},
    }


def _headers(status: int) -> dict[str, Any]:
    names = (*_ALWAYS, *_BESIDES.get(status, ()))
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _example(error: type[RankerError]) -> dict[str, Any]:
    request_id = "0af7651916cd43dd8448eb211c80319c"
    return {"value": {"error": {"kind": error.kind, "message": told(error), "request_id": request_id}}}
