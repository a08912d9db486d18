"""What goes back to the caller: ranked items as JSON, and errors of every kind in one form."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from service.call import Call
from service.errors import ClientGone, DeadlineExceeded, RankerError, error_body
from service.rank import Ranked
from service.wire.shapes import Timings

CALL = "ranker.call"  # where a request's scope holds its Call


def call_of(request: Request) -> Call:
    call: Call = request.scope[CALL]
    return call


def json_response(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def timings_ms(call: Call) -> dict[str, float]:
    """Milliseconds of the stages that an answer tells, and in all until now."""
    spent_s = call.stages | {"total": call.spent_s()}
    return {name: round(spent_s.get(name, 0.0) * 1000, 3) for name in Timings.model_fields}


def ranked_body(call: Call, ranked: Ranked, timings: Mapping[str, float]) -> dict[str, Any]:
    """One ranked request, as wire.RankResponse documents it."""
    replay = {} if ranked.history_complete is None else {"history_complete": ranked.history_complete}
    return {
        "request_id": call.id,
        "model": call.model,
        "version": call.version,
        "variant": call.variant,
        "items": ranked.items,
        "history_length": ranked.history_length,
        "unknown_items": ranked.unknown_items,
        "new_user": ranked.new_user,
        "degraded": ranked.degraded,
        **replay,
        "timings_ms": timings,
    }


def error_response(
    call: Call, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    call.error = kind
    return Response(orjson.dumps(error_body(kind, message, call.id)), status, headers, media_type="application/json")


def refusal(call: Call, error: RankerError) -> Response:
    if isinstance(error, DeadlineExceeded):
        call.late_before = error.before
    response = error_response(call, error.status, error.kind, str(error))
    for name, value in error.headers():
        response.headers.append(name, value)
    return response


async def ranker_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RankerError)
    return refusal(call_of(request), error)


async def client_gone(request: Request, error: Exception) -> Response:
    assert isinstance(error, ClientDisconnect)
    return Response(status_code=ClientGone.status)
