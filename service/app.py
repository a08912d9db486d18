"""Builds the parts and translates HTTP: the only file that knows them all."""

import asyncio
import gc
import logging
import math
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse
from starlette.types import Scope

from model.bundle.layout import verify_catalog
from model.bundle.reading import Bundle
from model.features.catalog import Catalog
from service import rank as ranking
from service.api.answers import ROUTES, client_gone, http_error, ranker_error
from service.api.observed import Direct, Endpoint, Observed
from service.errors import BodyTooLarge, RankerError, TooManyCandidates, error_body
from service.scoring.catalog import CatalogWatch
from service.scoring.scorer import Scorer
from service.settings import Settings, load_settings
from service.store.counted import Counted
from service.store.redis import RedisHistory
from service.telemetry import logs, tracing
from service.telemetry.counts import Metrics
from service.telemetry.logs import RequestLog
from service.telemetry.pulse import beat
from service.wire import ErrorResponse, RankRequest, RankResponse, parse, parse_batch

log = logging.getLogger("ranker")

ASSETS = "/docs-assets"
METRICS_FOLDER, PARENT = "RANKER_METRICS_FOLDER", "RANKER_PARENT"  # how `python -m service` tells its workers
SAMPLES = 1000  # ids that GET /model offers at most


def from_environment() -> FastAPI:
    """The app of one worker under `python -m service`."""
    parent = int(os.environ[PARENT])
    settings = load_settings()
    if parent != os.getpid():
        _end_with(parent)
        logs.configure(settings.log_level, settings.log_format)
    return create_app(settings, Path(os.environ[METRICS_FOLDER]), tracing.from_environment(os.environ))


def create_app(settings: Settings, metrics_folder: Path, traces: tracing.Tracing | None = None) -> FastAPI:
    """The service; bundle, session and store connections are made when it starts and closed when it ends.

    `metrics_folder` is where all workers count (`folder.prepare_folder`). `traces`, where given, gets every request's
    spans, and is closed at the end. Starting raises BundleError.
    """
    loading = time.perf_counter()
    bundle = Bundle.open(settings.bundle)
    verify_catalog(bundle.folder, bundle.manifest)  # it may be another than the one that the parent checked
    metrics = Metrics(
        metrics_folder, ROUTES, ranking.REASONS, budgets_s=[budget / 1000 for budget in settings.budgets_ms]
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = RedisHistory(
            settings.redis_url or "redis://localhost:6379",
            keep=settings.history_keep,
            ttl_s=settings.history_ttl_s,
            timeout_ms=settings.history_timeout_ms,
            connections=settings.history_connections,
        )
        app.state.history = Counted(store, metrics)
        app.state.scorer = Scorer(bundle, settings.score_threads, settings.precision)
        app.state.scorer.warm()
        app.state.slot = metrics.model(
            bundle.name,
            bundle.version,
            network=bundle.manifest["network"],
            sha=bundle.manifest["files"]["model.onnx"]["sha256"],
            exported_s=_exported_s(bundle),
            load_s=time.perf_counter() - loading,
        )

        def reloaded(catalog: Catalog | None) -> None:
            if catalog is not None:
                bundle.catalog = app.state.scorer.catalog = catalog  # nobody keeps the one before, and its disk space
                metrics.catalog(len(catalog), catalog.modified_ns)
            metrics.add("ranker_catalog_reloads", outcome="refused" if catalog is None else "ok")

        metrics.catalog(len(bundle.catalog), bundle.catalog.modified_ns)
        watch = CatalogWatch(bundle, settings.catalog_poll_s, reloaded)
        watch.start()
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not walk it between requests
        pulse = asyncio.create_task(beat(app.state.scorer.waiting, metrics.beat))
        yield
        pulse.cancel()
        await asyncio.gather(pulse, return_exceptions=True)
        watch.close()
        app.state.scorer.close()
        await app.state.history.close()
        metrics.close()
        if traces is not None:
            traces.close()

    app = FastAPI(
        title="bst-ranker",
        description="Ranks candidate items for a user by predicted click probability.",
        version=bundle.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]))  # Swagger UI without a CDN
    often: dict[str, Endpoint] = {}
    app.add_middleware(Direct, endpoints=often)
    told = RequestLog(settings.log_sample, settings.log_slow_ms, settings.log_level)
    app.add_middleware(Observed, metrics=metrics, log=told, traces=traces)  # outermost
    app.add_exception_handler(RankerError, ranker_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, client_gone)

    ids = samples(bundle)

    def answer(ranked: ranking.Ranked, request_id: str, timings_ms: dict[str, float]) -> dict[str, Any]:
        return {
            "request_id": request_id,
            "model": bundle.name,
            "version": bundle.version,
            "variant": None,
            "items": ranked.items,
            "history_length": ranked.history_length,
            "unknown_items": ranked.unknown_items,
            "new_user": ranked.new_user,
            "degraded": ranked.degraded,
            "timings_ms": timings_ms,
        }

    def count(ranked: Sequence[ranking.Ranked], scope: Scope) -> None:
        scope["ranker.slot"] = app.state.slot
        scope["ranker.degraded"] = any(one.degraded for one in ranked)
        for one in ranked:
            for reason in one.degraded:
                metrics.add("ranker_degraded", slot=app.state.slot, reason=reason)
            values: dict[str, float] = {
                "ranker_candidates": one.candidates,
                "ranker_history_length": one.history_length,
                "ranker_unknown_items": one.unknown_items,
                "ranker_cold_users": one.history_length == 0,
                "ranker_future_behaviours": one.future,
                "ranker_malformed_behaviours": one.malformed,
                "ranker_score_nan": one.bad_scores,
            }
            if one.history_age_s is not None:
                values["ranker_history_age_seconds"] = one.history_age_s
            if math.isfinite(one.score_mean):
                values["ranker_score_mean"] = one.score_mean
            metrics.ranked(app.state.slot, values)

    @app.post(
        "/rank",
        response_model=RankResponse,
        responses={code: {"model": ErrorResponse} for code in (400, 413, 422, 500)},
        openapi_extra={"requestBody": _request_body(example(ids, 10) | {"top_k": 3})},
        summary="Rank candidates for a user",
    )
    async def rank(request: Request) -> Response:
        stages: dict[str, float] = request.scope["ranker.stages"]
        begun: float = request.scope["ranker.begun"]
        body = await _body(request, settings.max_body_bytes)
        asked = parse(body)
        if settings.log_user_ids:
            request.scope["ranker.user_id"] = asked.user_id
        stages["parse"] = time.perf_counter() - begun

        now = asked.timestamp if asked.timestamp is not None else time.time_ns() // 1_000_000
        ranked = await ranking.rank(asked, now, app.state.history, app.state.scorer, settings.max_candidates, stages)
        with ranking.stage(stages, "serialise"):
            timings = _timings(stages, begun)
            response = _json(answer(ranked, request.scope["ranker.request_id"], timings))
        count([ranked], request.scope)
        return response

    @app.post(
        "/rank/batch",
        response_model=list[RankResponse | ErrorResponse],
        responses={code: {"model": ErrorResponse} for code in (400, 413, 422, 500)},
        openapi_extra={"requestBody": _request_body([example(ids, 10) | {"top_k": 3}])},
        summary="Rank candidates for several users: a list of requests, one answer or error each, in their order",
    )
    async def rank_batch(request: Request) -> Response:
        stages: dict[str, float] = request.scope["ranker.stages"]
        begun: float = request.scope["ranker.begun"]
        asked = parse_batch(await _body(request, settings.max_body_bytes))
        metrics.size("ranker_batch_requests", len(asked))
        total = sum(len(one.candidates) for one in asked if not isinstance(one, RankerError))
        if total > settings.max_batch_candidates:
            raise TooManyCandidates(f"{total} candidates in all, at most {settings.max_batch_candidates}")
        stages["parse"] = time.perf_counter() - begun

        now, scorer = time.time_ns() // 1_000_000, app.state.scorer
        ranked = await ranking.rank_many(asked, now, app.state.history, scorer, settings.max_candidates, stages)
        with ranking.stage(stages, "serialise"):
            request_id, timings = request.scope["ranker.request_id"], _timings(stages, begun)
            response = _json(
                [
                    error_body(one.kind, str(one), request_id)
                    if isinstance(one, RankerError)
                    else answer(one, request_id, timings)
                    for one in ranked
                ]
            )
        count([one for one in ranked if not isinstance(one, RankerError)], request.scope)
        return response

    often.update({"/rank": rank, "/rank/batch": rank_batch})

    @app.get("/model", summary="The bundle that answers, its features, and ids to try")
    async def model() -> dict[str, Any]:
        catalog: Catalog = app.state.scorer.catalog
        return {
            "name": bundle.name,
            "version": bundle.version,
            "network": bundle.manifest["network"],
            "objective": bundle.manifest["objective"],
            "precision": app.state.scorer.precision,
            "user_id": bundle.schema.user_id,
            "history": {"length": bundle.schema.history.length, "actions": bundle.schema.history.actions},
            "features": [
                {"name": f.name, "side": f.side, "kind": f.kind, "type": None if f.kind == "number" else f.type}
                for f in bundle.schema.features
            ],
            "catalog": {"items": len(catalog), "modified_at": catalog.modified_ns // 1_000_000},
            "samples": ids,
        }

    @app.get("/metrics", summary="Prometheus metrics over all workers", response_class=Response)
    async def scrape() -> Response:
        content, kind = await asyncio.to_thread(metrics.render)
        return Response(content, headers={"content-type": kind})

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{ASSETS}/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
        )

    @app.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    @app.get("/health/live", summary="The process answers; the store is not asked")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", summary="The bundle is loaded, checked and warm")
    async def ready() -> dict[str, str]:
        return {"status": "ready", "model": bundle.name, "version": bundle.version}

    return app


async def _body(request: Request, limit: int) -> bytes:
    """The body, read no further than `limit` bytes. Raises BodyTooLarge."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(f"{announced} bytes, at most {limit}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"more than {limit} bytes, at most {limit}")
    return bytes(body)


def samples(bundle: Bundle) -> dict[str, list[Any]]:
    """Ids from the bundle's golden requests, for load tests and a first try; users with profile and history first."""
    requests = sorted(bundle.golden(), key=lambda r: not (r["profile"] and r["behaviours"]))
    users = dict.fromkeys(request["user_id"] for request in requests)
    items = dict.fromkeys(item for request in requests for item in request["candidates"])
    return {"user_ids": list(users)[:SAMPLES], "item_ids": list(items)[:SAMPLES]}


def example(ids: Mapping[str, list[Any]], candidates: int) -> dict[str, Any]:
    """A request that works."""
    return {"user_id": ids["user_ids"][0], "candidates": ids["item_ids"][:candidates]}


def _exported_s(bundle: Bundle) -> float:
    """Seconds since 1970, from its version, which begins with that time; of another's bundle, when it was written."""
    try:
        return datetime.strptime(bundle.version[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return (bundle.folder / "manifest.json").stat().st_mtime


def _timings(stages: Mapping[str, float], begun: float) -> dict[str, float]:
    timings = {name: round(stages.get(name, 0.0) * 1000, 3) for name in ("history", "encode", "score", "sort")}
    return timings | {"total": round((time.perf_counter() - begun) * 1000, 3)}


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


def _request_body(shown: Any) -> dict[str, Any]:
    schema = RankRequest.model_json_schema()
    if isinstance(shown, list):
        schema = {"type": "array", "items": schema}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": shown}}}


def _end_with(parent: int) -> None:
    """Ends this worker when its parent is gone, however it went: a killed parent can tell nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
