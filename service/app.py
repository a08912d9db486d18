"""Builds the parts of one worker: the only file that knows them all."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from model.bundle.layout import verify_catalog
from model.bundle.reading import Bundle
from model.features.catalog import Catalog
from service.access.keyring import Watch as KeysWatch
from service.api.answers import client_gone, ranker_error
from service.api.auth import guard_of
from service.api.duty import DUTY, Duty
from service.api.edges.compressed import Compressed
from service.api.edges.cors import Cors
from service.api.edges.methods import Methods
from service.api.edges.prefix import Prefix
from service.api.endpoint import Parts, install
from service.api.gate import Gate
from service.api.http.bounds import Bounds
from service.api.http.lobby import LOBBY, Lobby
from service.api.http.protocol import TURNSTILE
from service.api.observed import Observed
from service.api.openapi.document import Document
from service.api.report import Report
from service.api.routes import ASSETS, BULK, ENDPOINTS, METHODS, STAGES_OF, http_error
from service.errors import RankerError
from service.models.loading import Loading
from service.process.orders import Orders
from service.scoring.admission import Admission
from service.scoring.catalog import CatalogWatch
from service.scoring.scorer import Scorer
from service.scoring.served import Live, Served
from service.settings import Settings
from service.store import clients
from service.store.fallback.breaker import Breaker
from service.store.fallback.counted import Counted
from service.store.fallback.ladder import Ladder
from service.store.fallback.recent import Recent
from service.store.fallback.watch import Watch
from service.store.history import REASONS
from service.store.redis import DEFAULT_URL, opened
from service.telemetry import tracing
from service.telemetry.counts import Metrics
from service.telemetry.logs import RequestLog, event
from service.telemetry.pulse import beat

log = logging.getLogger("ranker")

CLOSE_S = 1.0  # for whatever is closed at the end


def create_app(
    settings: Settings, metrics_folder: Path, traces: tracing.Tracing | None = None, orders: Orders | None = None
) -> FastAPI:
    """The service, its bundle loaded; store connections are made when it starts, and all is closed when it ends.

    `metrics_folder` is where all workers count (`folder.prepare_folder`). `traces`, where there are any, gets every
    request's spans, and is closed at the end. `orders` is the way to the parent process. Raises BundleError, KeysError.
    """
    begun = time.perf_counter()
    bundle = Bundle.open(settings.bundle)
    verify_catalog(bundle.folder, bundle.manifest)  # it may be another than the one that the parent checked
    scorer = Scorer(settings.score_threads)
    served = Served.open(bundle, scorer, settings.precision)
    metrics = Metrics(metrics_folder, STAGES_OF, REASONS, budgets_s=[budget / 1000 for budget in settings.budgets_ms])
    live = Live(announce(metrics, served, time.perf_counter() - begun), settings.history_keep)
    timeout_s = settings.history_timeout_ms / 1000
    history = Ladder(
        Counted(opened(settings), metrics, timeout_s),
        Recent(settings.history_cache_users, settings.history_cache_s),
        Breaker(timeout_s, tell=metrics.breaker),
        Watch(clients.address(settings.redis_url or DEFAULT_URL)),
    )
    admission = Admission(settings.queue_candidates, lambda: live.current.work)
    requests = RequestLog(settings.log_sample, settings.log_slow_ms, settings.log_level)
    report = Report(STAGES_OF, metrics, requests)
    cors = Cors(settings.cors_origins, METHODS) if settings.cors_origins else None
    gate = Gate(admission, settings, BULK, report, guard_of(settings), cors)
    duty = Duty(metrics.draining)
    loading = Loading(
        live,
        scorer,
        settings.precision,
        partial(announce, metrics),
        partial(_retire, metrics),
        partial(metrics.add, "ranker_model_swap", outcome="refused"),
    )
    parts = Parts(settings, live, history, gate, metrics, duty, loading, orders or Orders())

    app = FastAPI(
        title="bst-ranker",
        lifespan=partial(_running, parts, metrics, traces),
        openapi_url=None,  # the table of routes has it, and what documents them
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,  # Starlette's would repeat the caller's Host
    )
    app.state.live, app.state.duty = live, duty
    app.state.loading = parts.loading
    app.openapi = Document(ENDPOINTS, live, settings, gate.guard.needs_key).current  # type: ignore[method-assign]  # FastAPI's place for it
    install(app, ENDPOINTS, parts)
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]))
    if settings.compress_from_bytes:
        app.add_middleware(Compressed, least=settings.compress_from_bytes)
    app.add_middleware(Methods, routes=app.routes, cors=cors)
    app.add_middleware(  # outermost
        Observed,
        routes=STAGES_OF,
        bulk=BULK,
        gate=gate,
        metrics=metrics,
        report=report,
        traces=traces,
        prefix=Prefix(settings.root_path, settings.trusted_proxies, STAGES_OF),
        cors=cors,
    )
    app.add_exception_handler(RankerError, ranker_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnect, client_gone)
    return app


def announce(metrics: Metrics, served: Served, load_s: float) -> Served:
    """The same with its row in the metrics, which tell of it from now on; `load_s`: seconds that loading it took."""
    manifest = served.bundle.manifest
    slot = metrics.model(
        served.name,
        served.version,
        served.variant,
        network=manifest["network"],
        sha=manifest["files"]["model.onnx"]["sha256"],
        exported_s=served.bundle.exported_s,
        load_s=load_s,
    )
    metrics.catalog(len(served.catalog), served.catalog.modified_ns)
    return replace(served, slot=slot)


def _retire(metrics: Metrics, before: Served, served: Served) -> None:
    if before.slot != served.slot:  # one is loaded again where its files have changed
        metrics.retire(before.slot)


@asynccontextmanager
async def _running(
    parts: Parts, metrics: Metrics, traces: tracing.Tracing | None, app: FastAPI
) -> AsyncIterator[dict[str, Any]]:
    def looked(catalog: Catalog | None) -> None:
        if catalog is not None:
            metrics.catalog(len(catalog), catalog.modified_ns)
        metrics.add("ranker_catalog_reloads", outcome="refused" if catalog is None else "ok")

    scorer = parts.live.current.scorer
    watch = CatalogWatch(parts.live, parts.settings.catalog_poll_s, looked)
    watch.start()
    keys = KeysWatch(parts.gate.guard.ring)
    keys.start()
    await parts.history.start(parts.live.current.wanted)
    if parts.settings.redis_url and (advice := await clients.advice(parts.settings.redis_url)):
        log.warning("%s", advice, extra=event("advice", advice))
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not walk it between requests

    def told(*pulse: Any) -> None:
        metrics.beat(*pulse)
        metrics.admission(*parts.gate.state())

    pulse = asyncio.create_task(beat(scorer.waiting, told))
    lobby = Lobby(
        Bounds.of(parts.settings).afforded(others=parts.settings.history_connections),
        lambda reason: metrics.add("ranker_bad_requests", reason=reason),
    )
    yield {TURNSTILE: parts.gate.turn_away, DUTY: parts.duty, LOBBY: lobby}  # for the protocol, before any request
    pulse.cancel()
    await asyncio.gather(pulse, return_exceptions=True)
    # What others see comes first. A store's name that does not resolve, a collector that does not answer or a thread
    # that is stuck holds up nothing but itself: whoever ends the process has a limit.
    with suppress(TimeoutError):
        await asyncio.wait_for(parts.history.close(), CLOSE_S)
    metrics.close()
    if traces is not None:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(traces.close), CLOSE_S)
    watch.close()
    keys.close()
    scorer.close()
