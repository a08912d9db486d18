"""What `python -m service` does.

Checks the bundle once, starts a store where none is named, and serves with the workers asked for. This process answers
no request, and is kept small: what needs numpy, the model's runtime or a client of the store is done in others.
"""

import asyncio
import json
import logging
import os
import shlex
import signal
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from model import command
from model.bundle.errors import BundleError
from service.access.keyring import KNOWN, Keyring, Watch, ring_of
from service.access.reach import check_reach
from service.api.http.bounds import Bounds
from service.journal.folder import check_folder
from service.models.check import Checked
from service.models.live import following
from service.process.adminprocess import Task, admin_process, shadows_process
from service.process.child import leave
from service.process.handover import Handover, Predecessor
from service.process.kept import KeptProcess
from service.process.listening import Listeners, base, from_systemd, opened
from service.process.prelude import Prelude, Prepared
from service.process.supervisor import Supervisor, Times
from service.settings import Settings, SettingsError, load_settings
from service.store.embedded import EmbeddedStore, EmbeddedStoreError
from service.telemetry import lately, logs, relay, tracing
from service.telemetry.folder import prepare_folder

log = logging.getLogger("ranker")

ADMIN_CONNECTIONS = 100  # at most, of the admin port: who asks there are balancers and Prometheus


def serve(data: Path | None = None) -> int:
    """Serves until it is stopped, which ends this process; the exit code of a service that could not start.

    `data`: a prepared data set to try the bundle with.
    """
    signal.signal(signal.SIGTERM, _stopped_while_starting)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing yet that could look for a newer bundle
    try:
        with ExitStack() as stack:
            code = _served(stack, data)
    except (SettingsError, BundleError, EmbeddedStoreError, ValueError, OSError) as error:
        logs.refused(f"service: {error}")
        return 1
    relay.finish()
    leave(code)


def _stopped_while_starting(*_: object) -> NoReturn:
    raise SystemExit(0)


def _served(stack: ExitStack, data: Path | None) -> int:
    settings = load_settings()
    if data is not None:
        _refuse_data(data, settings)
    logs.configure(settings.log_level, settings.log_format)
    _warn(settings)
    _check_journal(settings)
    times = _times(settings)
    prelude = stack.enter_context(closing(Prelude()))
    inherited = from_systemd(settings.admin_port)
    predecessor = None
    if settings.handover is not None and "main" not in inherited:
        predecessor = Predecessor.at(settings.handover, settings)
        inherited = predecessor.sockets if predecessor is not None else inherited
    os.environ.pop(KNOWN, None)  # ours to say
    text = None if settings.keys is None else settings.keys.get_secret_value()
    ring = ring_of(text, settings.keys_file, None, settings.rate)
    listeners = opened(settings, inherited, own=not inherited)
    stack.callback(listeners.close)
    check_reach(listeners.all().values(), ring, settings.unsafe_no_keys)
    if ring is not None:
        stack.callback(_watched(ring).close)
    bundle = _checked(prelude, settings)
    store = None
    if settings.redis_url is None:
        store = os.environ["RANKER_REDIS_URL"] = stack.enter_context(EmbeddedStore()).url
        log.warning("RANKER_REDIS_URL is not set: embedded store, lost at exit, not for production")
    prepared = prelude.prepare(bundle.folder, store, data)
    folder = stack.enter_context(prepare_folder(settings.workers))
    if settings.journal is not None:
        lately.link(folder, settings.journal)
    supervisor = Supervisor(settings.workers, listeners, folder, Path(bundle.folder), times)
    supervisor.answering = _announcement(
        supervisor, base(listeners.main), prepared.example or bundle.example, ring is not None
    )
    admin = None
    if listeners.admin is not None:
        admin = admin_process(listeners.admin, _admin_task(folder, settings, prepared))
        log.info("health and metrics also on %s, by a process of their own", base(listeners.admin))
    if settings.experiments is not None and settings.journal is not None:
        stack.enter_context(shadows_process(folder))
    return _run(_supervised(stack, settings, supervisor, bundle, listeners, admin, predecessor))


def _run(what: Coroutine[Any, Any, int]) -> int:
    """As asyncio.run, but for threads that do not end: it would wait for them."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(what)


async def _supervised(
    stack: ExitStack,
    settings: Settings,
    supervisor: Supervisor,
    bundle: Checked,
    listeners: Listeners,
    admin: KeptProcess | None,
    predecessor: Predecessor | None,
) -> int:
    """The exit code. Where there is a predecessor, it goes on until all workers answer."""
    handover = None
    if settings.handover is not None:

        def handed() -> None:
            if admin is not None:
                admin.end()  # the successor's answers now

        handover = Handover(settings.handover, supervisor, listeners.all(), handed)
        stack.callback(handover.close)
    running = asyncio.create_task(supervisor.run())
    if predecessor is not None:
        up = asyncio.create_task(supervisor.all_up.wait())
        await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if running.done():
            return running.result()
        if await asyncio.to_thread(predecessor.let_go):
            log.info("the service before has handed over")
        supervisor.sole = True
    if admin is not None:
        stack.enter_context(admin)
    serving = asyncio.create_task(handover.serve()) if handover is not None else None
    try:
        async with following(supervisor, bundle, settings.bundle, settings.bundle_poll_s) as live:
            supervisor.look, supervisor.order = live.look, live.order
            return await running
    finally:
        if serving is not None:
            serving.cancel()


def _times(settings: Settings) -> Times:
    """Raises SettingsError."""
    drain_s, grace_s = settings.drain_s, settings.shutdown_grace_s
    if "drain_s" not in settings.model_fields_set:
        drain_s = min(drain_s, grace_s / 2)
    elif drain_s > grace_s:
        raise SettingsError(
            f"RANKER_DRAIN_S={drain_s:g} is part of RANKER_SHUTDOWN_GRACE_S={grace_s}: at most {grace_s} is allowed, "
            "less what the last requests take"
        )
    return Times(drain_s, grace_s, settings.hang_s)


def _checked(prelude: Prelude, settings: Settings) -> Checked:
    """The bundle, its hashes compared and its golden requests answered: once, here, before any worker starts."""
    bundle = prelude.check(settings.bundle)
    facts = (bundle.name, bundle.version, bundle.folder, bundle.precision, bundle.seconds)
    log.info("bundle %s %s at %s, served in %s, checked in %.2f s", *facts)
    return bundle


def _admin_task(folder: Path, settings: Settings, prepared: Prepared) -> Task:
    budgets_s = [budget / 1000 for budget in settings.budgets_ms]
    form = (prepared.routes, prepared.reasons, budgets_s)
    keys_file = None if settings.keys_file is None else str(settings.keys_file)
    logged = (settings.log_level, settings.log_format)
    bounds = Bounds.of(settings)
    bounds = replace(bounds, connections=min(bounds.connections, ADMIN_CONNECTIONS))
    return Task(str(folder), settings.workers, *form, *logged, keys_file, settings.metrics_open, asdict(bounds))


def _watched(ring: Keyring) -> Watch:
    """Tells of the keys, in the log and to every process that starts from now on."""

    def told(level: int, text: str) -> None:
        os.environ[KNOWN] = ring.text()
        log.log(level, "%s", text)

    told(logging.INFO, f"keys: {ring.words()}")
    watch = Watch(ring, told)
    watch.start()
    return watch


def _refuse_data(data: Path, settings: Settings) -> None:
    """Raises SettingsError where --data could not be what is meant."""
    if settings.redis_url is not None:
        raise SettingsError(
            f"--data {data} goes into the embedded store, but RANKER_REDIS_URL names a store; unset it, or load that "
            f"store: python -m service.backfill --data {data}"
        )
    if "bundle" not in settings.model_fields_set:
        raise SettingsError(
            f"--data {data} needs the bundle that was trained on such data: set RANKER_BUNDLE (make run BUNDLE=…)"
        )


def _check_journal(settings: Settings) -> None:
    """Raises SettingsError where no worker could write it, or where exploring is in vain."""
    if settings.journal is None:
        if settings.explore_share:
            raise SettingsError(
                f"RANKER_EXPLORE_SHARE={settings.explore_share:g}: what is drawn must be written down; set "
                "RANKER_JOURNAL to a folder, or the share to 0"
            )
        return
    try:
        check_folder(settings.journal)
    except OSError as error:
        raise SettingsError(f"RANKER_JOURNAL={settings.journal}: {command.words(error)}") from None
    if settings.journal_salt is not None and not settings.journal_salt.get_secret_value():
        raise SettingsError("RANKER_JOURNAL_SALT is empty: a secret of some length, or unset it")


def _warn(settings: Settings) -> None:
    """Of what is set and does nothing, or less than one may think."""
    known = {f"RANKER_{name.upper()}" for name in type(settings).model_fields}
    for name in sorted(name for name in os.environ if name.startswith("RANKER_") and name not in known):
        log.warning("%s is no setting and does nothing; settings: %s", name, ", ".join(sorted(known)))
    for name, what in (("timeout_ms", "requests"), ("batch_timeout_ms", "batches")):
        if not getattr(settings, name):
            named = f"RANKER_{name.upper()}"
            log.warning("%s=0: %s have no deadline and wait however long the queue is; set it in ms", named, what)
    if (refusal := tracing.refusal(os.environ)) is not None:
        log.warning("%s", refusal)


def _announcement(supervisor: Supervisor, url: str, request: dict[str, Any], keyed: bool) -> Callable[[], None]:
    """Says once that the service answers, with a command to try it; with keys, the reader puts one in."""

    def say() -> None:
        supervisor.answering = lambda: None
        if logs.as_json():
            log.info("ready on %s", url, extra={logs.FIELDS: {"url": url}})
            return
        body = json.dumps(request, separators=(",", ":"), ensure_ascii=False)
        print(f"\nready on {url} — docs at {url}/docs, metrics at {url}/metrics. Try:\n")
        key = "-H 'authorization: Bearer KEY' " if keyed else ""
        print(f"curl -s {url}/rank {key}-H 'content-type: application/json' -d {shlex.quote(body)}\n", flush=True)

    return say
