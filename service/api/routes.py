"""The routes as one table, at the end of this file, and the handlers that it names.

Metrics' labels, error messages and documentation follow from the table.
"""

import asyncio
import time
from collections.abc import Iterable
from functools import partial

import orjson
from fastapi import Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from service.access.keys import ADMIN, METRICS, OPEN, RANK, WRITE
from service.api.admin import post_model
from service.api.answers import call_of, error_response, json_response, ranked_body, ranked_json, timings_ms
from service.api.bodies import body_of
from service.api.choosing import chosen
from service.api.edges.methods import allowed_of
from service.api.endpoint import Endpoint, Parts
from service.api.experiments import get_experiments, post_experiments
from service.api.feedback import post_feedback
from service.api.told import tell
from service.api.users import delete_user, get_user, put_user
from service.batch import Batch, Messages, rank_batch
from service.call import Call
from service.errors import (
    OF_STATUS,
    BodyTooLarge,
    BundleRefused,
    DeadlineExceeded,
    Draining,
    InvalidEvent,
    InvalidRequest,
    JournalFailed,
    MalformedBody,
    MalformedEncoding,
    MethodNotAllowed,
    NoParent,
    NothingBefore,
    Overloaded,
    RankerError,
    SlowUpload,
    StoreFailed,
    SwapUnderWay,
    TooManyCandidates,
    TooManyEvents,
    TooManyRequests,
    UnknownUser,
    UnsupportedEncoding,
    WrongMediaType,
    error_body,
)
from service.models.description import described
from service.rank import Ranked, rank
from service.scoring.admission import Size
from service.scoring.served import bear
from service.telemetry.families import STAGES
from service.wire.experiments import Experiments, VariantLetIn, VariantOrder
from service.wire.feedback import FeedbackEvent, FeedbackTaken, UserKnown, UserProfile, UserWritten
from service.wire.model import ModelDescription
from service.wire.orders import ModelOrder, ModelSwapped
from service.wire.pieces import PIECE
from service.wire.refusals import BatchError
from service.wire.shapes import Liveness, RankRequest, RankResponse, Readiness, parse, parse_large

ASSETS = "/docs-assets"  # of Swagger UI, without a CDN


async def post_rank(call: Call, request: Request, parts: Parts) -> Response:
    with parts.turns.single():
        return await _post_rank(call, request, parts)


async def _post_rank(call: Call, request: Request, parts: Parts) -> Response:
    served, settings = parts.live.take(call), parts.settings
    body = await body_of(call, request, settings.max_body_bytes, parts.metrics, parts.gate)
    call.check("parse")
    parts.gate.uploaded(call, len(body), bulk=False)
    if len(body) <= PIECE:
        ranking = parse(body, settings.max_candidates)
    else:
        ranking = await parse_large(body, settings.max_candidates, parts.turns)
    if settings.log_user_ids:
        call.user_id = ranking.user_id
    call.stages["parse"] = call.spent_s()
    parts.gate.counted(call, Size(1, len(ranking.candidates)), len(body), ranking.timeout_ms)

    now = ranking.timestamp if ranking.timestamp is not None else time.time_ns() // 1_000_000
    if (taken := chosen(call, request, ranking, served, parts)) is not None:
        served, call.arm = bear(call, taken.served), taken.answered
    ranked = await rank(call, ranking, now, parts.history, served, parts.explore)
    if taken is not None:
        call.id = taken.request_id
        if taken.shown is not None:
            taken.shown(str(ranked.used.user_id), len(ranked.items))
    body = ranked_json(call, ranked)
    tell(call, ranked, parts.journal)
    _count([ranked], parts)
    return Response(body, media_type="application/json")


async def post_rank_batch(call: Call, request: Request, parts: Parts) -> Response:
    served, settings, turns = parts.live.take(call), parts.settings, parts.turns
    body = await body_of(call, request, settings.max_body_bytes, parts.metrics, parts.gate)
    call.check("parse")
    parts.gate.uploaded(call, len(body), bulk=True)
    batch = await Batch.of(body, settings.max_batch_requests, turns)
    parts.metrics.size("ranker_batch_requests", len(batch))
    await batch.measure(settings.max_candidates, settings.max_batch_candidates)
    call.stages["parse"] = call.spent_s()
    parts.gate.counted(call, Size(len(batch), batch.candidates), len(body), None)

    now = time.time_ns() // 1_000_000
    written: list[bytes] = []
    messages = Messages()
    choose = partial(chosen, call, request, served=served, parts=parts)
    answered = rank_batch(
        call, batch, settings.max_candidates, now, parts.history, served, turns, parts.explore, choose
    )
    async for answers in answered:
        with call.stage("serialise"):
            timings = timings_ms(call)  # until here: what comes after is other requests' time
            for answer in answers:
                await turns.next()
                if isinstance(answer, RankerError):
                    told = error_body(answer.kind, messages.of(answer), call.id)
                    parts.metrics.add("ranker_batch_errors", kind=answer.kind)
                else:
                    told = ranked_body(call, answer, timings)
                    tell(call, answer, parts.journal)
                written.append(orjson.dumps(told))
        _count([answer for answer in answers if isinstance(answer, Ranked)], parts)
    return Response(b"[" + b",".join(written) + b"]", media_type="application/json")


def _count(answers: Iterable[Ranked], parts: Parts) -> None:
    """What ranked requests were made of, under the model that answered them."""
    for ranked in answers:
        slot = ranked.served.slot
        values: dict[str, float] = {
            "ranker_candidates": ranked.candidates,
            "ranker_history_length": ranked.history_length,
            "ranker_unknown_items": ranked.unknown_items,
            "ranker_cold_users": not ranked.history_length,
            "ranker_future_behaviours": ranked.future,
            "ranker_malformed_behaviours": ranked.malformed,
            "ranker_list_holes": ranked.holes,
            "ranker_score_nan": ranked.bad_scores,
        }
        if ranked.history_age_s is not None:
            values["ranker_history_age_seconds"] = ranked.history_age_s
        if not ranked.bad_scores:
            values["ranker_score_mean"] = ranked.score_mean
        parts.metrics.ranked(slot, values)
        if parts.metrics.sampled():
            parts.metrics.features(slot, ranked.served.encoder.states(ranked.encoded))
        for reason in ranked.degraded:
            parts.metrics.add("ranker_degraded", slot=slot, reason=reason)


async def get_model(call: Call, request: Request, parts: Parts) -> Response:
    served = parts.live.take(call)
    workers = await asyncio.to_thread(parts.metrics.reader.models)
    model = await asyncio.to_thread(described, served, parts.settings, workers, parts.loading.told())
    return json_response(model.as_json())


async def get_scrape(call: Call, request: Request, parts: Parts) -> Response:
    content, media_type = await asyncio.to_thread(parts.metrics.render)
    return Response(content, headers={"content-type": media_type})


async def get_live(call: Call, request: Request, parts: Parts) -> Response:
    return json_response({"status": "live"})


async def get_ready(call: Call, request: Request, parts: Parts) -> Response:
    served = parts.live.take(call)
    if parts.duty.draining:
        raise Draining("this instance is stopping; send nothing new here")
    return json_response({"status": "ready", "model": served.name, "version": served.version})


async def get_openapi(call: Call, request: Request, parts: Parts) -> Response:
    root = request.scope.get("root_path", "")
    servers = {"servers": [{"url": root}]} if root else {}
    return json_response(await asyncio.to_thread(request.app.openapi) | servers)


async def get_docs(call: Call, request: Request, parts: Parts) -> Response:
    root = request.scope.get("root_path", "")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=request.app.title,
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )


async def get_home(call: Call, request: Request, parts: Parts) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")


async def http_error(request: Request, error: Exception) -> Response:
    """What the framework refuses: a path or a method that the table does not have."""
    assert isinstance(error, HTTPException)
    kind = OF_STATUS.get(error.status_code, InvalidRequest).kind
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))  # as `allowed` names them
    message = f"{request.method} {path}: {error.detail}; allowed: {ALLOWED}"
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == MethodNotAllowed.status:
        headers["allow"], _ = allowed_of(request.app.routes, request.scope)
    return error_response(call_of(request), error.status_code, kind, message, headers)


SENDING = (MalformedBody, MalformedEncoding, SlowUpload, BodyTooLarge, UnsupportedEncoding)
RANKING = (
    *SENDING,
    InvalidRequest,
    TooManyCandidates,
    Overloaded,
    DeadlineExceeded,
)
ENDPOINTS = (
    Endpoint(
        "POST",
        "/rank",
        post_rank,
        RANK,
        STAGES,
        "Rank candidates for a user",
        body=RankRequest,
        answer=RankResponse,
        errors=RANKING,
    ),
    Endpoint(
        "POST",
        "/rank/batch",
        post_rank_batch,
        RANK,
        STAGES,
        "Rank candidates for several users",
        "A list of requests, as /rank takes them; one answer or error each, in their order. "
        "An invalid request gets its own error, and the others are still ranked.",
        body=list[RankRequest],
        answer=list[RankResponse | BatchError],  # type: ignore[valid-type]  # a type made of the error tree
        errors=(*RANKING, TooManyRequests),
        bulk=True,
    ),
    Endpoint(
        "POST",
        "/feedback",
        post_feedback,
        WRITE,
        summary="Tell what users did",
        description="An event or a list. They are in the user's history, for every worker and instance, before the "
        "answer; sent again they are the same. A list is judged event by event: what is refused is named, the rest is "
        "kept.",
        tag="users",
        body=FeedbackEvent | list[FeedbackEvent],
        answer=FeedbackTaken,
        errors=(*SENDING, InvalidEvent, TooManyEvents, InvalidRequest, StoreFailed, JournalFailed),
    ),
    Endpoint(
        "PUT",
        "/users/{user_id}",
        put_user,
        WRITE,
        summary="Set a user's profile",
        tag="users",
        body=UserProfile,
        answer=UserWritten,
        errors=(*SENDING, InvalidRequest, StoreFailed, JournalFailed),
    ),
    Endpoint(
        "GET",
        "/users/{user_id}",
        get_user,
        WRITE,
        summary="All that is known of a user",
        tag="users",
        answer=UserKnown,
        errors=(InvalidRequest, UnknownUser, StoreFailed),
    ),
    Endpoint(
        "DELETE",
        "/users/{user_id}",
        delete_user,
        WRITE,
        summary="Forget a user",
        description="Profile and histories go at once, what the journal holds with the next drain; files that a drain "
        "has put aside or kept (`--keep`) stay until somebody removes them.",
        tag="users",
        answer=UserWritten,
        errors=(InvalidRequest, StoreFailed, JournalFailed),
    ),
    Endpoint(
        "GET",
        "/experiments",
        get_experiments,
        RANK,
        summary="The experiment that runs: users, clicks, gain and response times by variant",
        description="Over all instances on the same store; a worker's last second may be missing.",
        tag="experiments",
        answer=Experiments,
        errors=(StoreFailed,),
    ),
    Endpoint(
        "GET",
        "/model",
        get_model,
        RANK,
        summary="The model that answers, its features, and ids to try",
        tag="model",
        answer=ModelDescription,
    ),
    Endpoint(
        "GET",
        "/metrics",
        get_scrape,
        METRICS,
        summary="Prometheus metrics over all workers",
        tag="operations",
        media="text/plain",
    ),
    Endpoint(
        "GET",
        "/health/live",
        get_live,
        OPEN,
        summary="The process answers; the store is not asked",
        tag="operations",
        answer=Liveness,
    ),
    Endpoint(
        "GET",
        "/health/ready",
        get_ready,
        OPEN,
        summary="The bundle is loaded, checked and warm",
        tag="operations",
        answer=Readiness,
        errors=(Draining,),
    ),
    Endpoint(
        "POST",
        "/admin/model",
        post_model,
        ADMIN,
        summary="Make another bundle answer in all workers, or go back to the one before",
        tag="admin",
        body=ModelOrder,
        answer=ModelSwapped,
        errors=(
            MalformedBody,
            BodyTooLarge,
            InvalidRequest,
            WrongMediaType,
            SwapUnderWay,
            NothingBefore,
            BundleRefused,
            NoParent,
        ),
    ),
    Endpoint(
        "POST",
        "/admin/experiments",
        post_experiments,
        ADMIN,
        summary="Give a variant that was taken out its users again",
        tag="admin",
        body=VariantOrder,
        answer=VariantLetIn,
        errors=(*SENDING, InvalidRequest, WrongMediaType, StoreFailed),
    ),
    Endpoint("GET", "/openapi.json", get_openapi, RANK),
    Endpoint("GET", "/docs", get_docs, RANK),
    Endpoint("GET", "/", get_home, RANK),
)
SCOPES = {(endpoint.method, endpoint.path): endpoint.scope for endpoint in ENDPOINTS}
STAGES_OF = {endpoint.path: endpoint.stages for endpoint in ENDPOINTS}
BULK = {endpoint.path: endpoint.bulk for endpoint in ENDPOINTS if endpoint.stages}  # of the routes that rank
METHODS = tuple(sorted({"HEAD", *(endpoint.method for endpoint in ENDPOINTS)}))  # that a page may use
ALLOWED = ", ".join(
    f"{method} " + ", ".join(endpoint.path for endpoint in ENDPOINTS if endpoint.method == method)
    for method in dict.fromkeys(endpoint.method for endpoint in ENDPOINTS)
)
