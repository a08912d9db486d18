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

TOLD = tuple(Timings.model_fields)
CALL = "ranker.call"  # where a request's scope holds its Call


def call_of(request: Request) -> Call:
    call: Call = request.scope[CALL]
    return call


def json_response(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def timings_ms(call: Call) -> dict[str, float]:
    """Milliseconds of each stage until now, as the header Server-Timing names them, and in all until now."""
    spent_s = call.stages | {"total": call.spent_s()}
    return {name: round(spent_s.get(name, 0.0) * 1000, 3) for name in TOLD}


def ranked_json(call: Call, ranked: Ranked) -> bytes:
    """The answer's bytes. Its timings are written last, so that they tell of writing the rest too."""
    with call.stage("serialise"):
        answer = orjson.dumps(ranked_body(call, ranked))
    return b'%b,"timings_ms":%b}' % (answer[:-1], orjson.dumps(timings_ms(call)))


def ranked_body(call: Call, ranked: Ranked, timings: Mapping[str, float] | None = None) -> dict[str, Any]:
    """One ranked request, as wire.RankResponse documents it; without timings they are still to come."""
    replay = {} if ranked.history_complete is None else {"history_complete": ranked.history_complete}
    return {
        "request_id": ranked.request_id or call.id,
        "model": ranked.served.name,
        "version": ranked.served.version,
        "variant": ranked.served.variant,
        "items": ranked.items,
        "history_length": ranked.history_length,
        "unknown_items": ranked.unknown_items,
        "new_user": ranked.new_user,
        "degraded": ranked.degraded,
        **replay,
        **({} if ranked.explanation is None else {"explanation": ranked.explanation}),
        **({} if ranked.propensities is None else {"explored": True}),
        **({} if timings is None else {"timings_ms": timings}),
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
