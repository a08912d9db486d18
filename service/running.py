"""What runs in a worker beside its requests, from its start to its end: watches, the pulse, the store's connections."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI

from model.features.catalog import Catalog
from model.features.counts import Counts
from service.access.keyring import Watch
from service.api.duty import DUTY
from service.api.endpoint import Parts
from service.api.http.bounds import Bounds
from service.api.http.lobby import LOBBY, Lobby
from service.api.http.protocol import TURNSTILE
from service.scoring import catalog
from service.store import clients
from service.telemetry import tracing
from service.telemetry.logs import event
from service.telemetry.pulse import beat

log = logging.getLogger("ranker")

CLOSE_S = 1.0  # for whatever is closed at the end


@asynccontextmanager
async def running(parts: Parts, traces: tracing.Tracing | None, app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """From before the first request until after the last: what runs beside them, and what the protocol is told."""
    metrics = parts.metrics

    def catalogue(newer: Catalog | None) -> None:
        if newer is not None:
            metrics.catalog(len(newer), newer.modified_ns)
        metrics.add("ranker_catalog_reloads", outcome="refused" if newer is None else "ok")

    def statistics(newer: Counts | None) -> None:
        if newer is not None:
            metrics.statistics(newer.until_ms)
        metrics.add("ranker_statistics_reloads", outcome="refused" if newer is None else "ok")

    scorer = parts.live.current.scorer
    looked = ((catalog.CATALOGUE, catalogue), (catalog.STATISTICS, statistics))
    watch = catalog.Watch(parts.live, parts.settings.catalog_poll_s, looked)
    watch.start()
    beside: list[asyncio.Task[None]] = []
    if parts.variants is not None:
        parts.variants.following.start()
        beside.append(asyncio.create_task(parts.variants.run()))
    keys = Watch(parts.gate.guard.ring)
    keys.start()
    await parts.history.start(parts.live.current.wanted)
    if parts.settings.redis_url and (advice := await clients.advice(parts.settings.redis_url)):
        log.warning("%s", advice, extra=event("advice", advice))
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not walk it between requests

    def told(*pulse: Any) -> None:
        metrics.beat(*pulse)
        metrics.admission(*parts.gate.state())

    beside.append(asyncio.create_task(beat(scorer.waiting, told)))
    lobby = Lobby(
        Bounds.of(parts.settings).afforded(others=parts.settings.history_connections),
        lambda reason: metrics.add("ranker_bad_requests", reason=reason),
    )
    yield {TURNSTILE: parts.gate.turn_away, DUTY: parts.duty, LOBBY: lobby}  # for the protocol, before any request
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    # What others see comes first. A store's name that does not resolve, a collector that does not answer or a thread
    # that is stuck holds up nothing but itself: whoever ends the process has a limit.
    with suppress(TimeoutError):
        await asyncio.wait_for(parts.journal.close(), CLOSE_S)
    if parts.variants is not None:
        with suppress(TimeoutError):
            await asyncio.wait_for(parts.variants.end(), CLOSE_S)
    with suppress(TimeoutError):
        await asyncio.wait_for(parts.history.close(), CLOSE_S)
    metrics.close()
    if traces is not None:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(traces.close), CLOSE_S)
    watch.close()
    if parts.variants is not None:
        parts.variants.following.close()
    keys.close()
    scorer.close()
