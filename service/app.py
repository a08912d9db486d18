"""Builds the parts of one worker: the only file that knows them all."""

import time
from functools import partial
from pathlib import Path

from fastapi import FastAPI

from model.bundle.reading import Bundle
from service.api.application import application
from service.api.auth import guard_of
from service.api.duty import Duty
from service.api.edges.cors import Cors
from service.api.endpoint import Parts
from service.api.gate import Gate
from service.api.report import Report
from service.api.routes import BULK, METHODS, STAGES_OF
from service.explore import Explore
from service.journal.journal import Journal, NoJournal
from service.journal.kept import FileJournal
from service.journal.users import Users
from service.models.announced import announced
from service.models.loading import Loading
from service.process.orders import Orders
from service.running import running
from service.scoring.admission import Admission
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
from service.telemetry import logs, tracing
from service.telemetry.counts import Metrics
from service.telemetry.logs import RequestLog
from service.variants.following import Following
from service.variants.opening import Opening
from service.variants.tag import key_of
from service.variants.variants import Variants


def create_app(
    settings: Settings, metrics_folder: Path, traces: tracing.Tracing | None = None, orders: Orders | None = None
) -> FastAPI:
    """The service, its bundle loaded; store connections are made when it starts, and all is closed when it ends.

    `metrics_folder` is where all workers count (`folder.prepare_folder`). `traces`, where there are any, gets every
    request's spans, and is closed at the end. `orders` is the way to the parent process. Raises BundleError, KeysError.
    """
    begun = time.perf_counter()
    bundle = Bundle.open(settings.bundle)
    bundle.verify_swapped()  # they may be others than those that the parent checked
    scorer = Scorer(settings.score_threads)
    served = Served.open(bundle, scorer, settings.precision)
    metrics = Metrics(metrics_folder, STAGES_OF, REASONS, budgets_s=[budget / 1000 for budget in settings.budgets_ms])
    logs.call_it(f"worker {metrics.number}")
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
    journal = _journal(settings, metrics)
    explore = Explore(settings.explore_share, settings.explore_top, journal.keeps) if settings.explore_share else None
    variants = _variants(settings, live, scorer, metrics, metrics_folder)
    parts = Parts(settings, live, history, gate, metrics, duty, loading, orders or Orders(), journal, explore, variants)

    app = application(parts, report, cors, traces, partial(running, parts, traces))
    app.state.live, app.state.duty, app.state.loading, app.state.variants = live, duty, loading, variants
    return app


def _journal(settings: Settings, metrics: Metrics) -> Journal:
    if settings.journal is None:
        return NoJournal()
    return FileJournal(
        settings.journal,
        metrics,
        Users(settings.journal_sample, _salt(settings)),
        flush_s=settings.journal_flush_s,
        rotate_bytes=int(settings.journal_rotate_mb * 1e6),
        rotate_s=settings.journal_rotate_s,
        sync=settings.journal_sync,
        worker=metrics.number,
    )


def _salt(settings: Settings) -> str | None:
    return None if settings.journal_salt is None else settings.journal_salt.get_secret_value()


def announce(metrics: Metrics, served: Served, load_s: float) -> Served:
    """The same with its row in the metrics, which tell of it from now on; `load_s`: seconds that loading it took."""
    metrics.catalog(len(served.catalog), served.catalog.modified_ns)
    metrics.statistics(served.counted_until_ms)
    return announced(metrics, served, load_s)


def _variants(settings: Settings, live: Live, scorer: Scorer, metrics: Metrics, folder: Path) -> Variants | None:
    """Raises BundleError."""
    if settings.experiments is None:
        return None
    opening = Opening(
        live,
        scorer,
        settings.precision,
        settings.history_keep,
        metrics,
        settings.redis_url or DEFAULT_URL,
        lambda family, newer: metrics.add(family, outcome="refused" if newer is None else "ok"),
        key_of(_salt(settings)),
    )
    poll_s, journal = settings.catalog_poll_s, settings.journal is not None
    following = Following(settings.experiments, opening, metrics, folder, poll_s, journal)
    following.begin()
    return Variants(following, metrics)


def _retire(metrics: Metrics, before: Served, served: Served) -> None:
    if before.slot != served.slot:  # one is loaded again where its files have changed
        metrics.retire(before.slot)
