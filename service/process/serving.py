"""What `python -m service` does.

Checks the bundle once, starts a store where none is named, and serves with the workers asked for.
"""

import asyncio
import logging
import os
import shlex
import socket
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from service.access.keyring import KNOWN, Keyring, Watch
from service.access.reach import check_reach
from service.api.arrival import stamped
from service.api.auth import guard_of
from service.api.routes import STAGES_OF
from service.loading import trial
from service.loading.load import load_users
from service.loading.user import BackfillError
from service.models.check import Checked, checked
from service.process.admin import AdminProcess, Task
from service.process.supervisor import Supervisor
from service.settings import DEMO_BUNDLE, DEMO_USERS, Settings, SettingsError, load_settings
from service.store import clients
from service.store.embedded import EmbeddedStore, EmbeddedStoreError
from service.store.history import REASONS
from service.telemetry import logs, tracing
from service.telemetry.folder import prepare_folder

log = logging.getLogger("ranker")


def serve(data: Path | None = None) -> int:
    """Serves until it is stopped; gives the exit code. `data`: a prepared data set to try the bundle with."""
    try:
        settings = load_settings()
        if data is not None:
            _refuse_data(data, settings)
        logs.configure(settings.log_level, settings.log_format)
        _warn_of_unknown_settings(settings)
        _warn_of_no_deadline(settings)
        if (refusal := tracing.refusal(os.environ)) is not None:
            log.warning("%s", refusal)
        if settings.redis_url is not None:
            _check_store(settings.redis_url)
        if settings.admin_port and settings.admin_port == settings.port:
            raise SettingsError(f"RANKER_PORT and RANKER_ADMIN_PORT are both {settings.port}: two ports are needed")
        os.environ.pop(KNOWN, None)  # ours to say
        ring = guard_of(settings).ring
        listener = _listen(settings.host, settings.port, "RANKER_PORT")
        admin = _listen(settings.host, settings.admin_port, "RANKER_ADMIN_PORT") if settings.admin_port else None
        check_reach([opened for opened in (listener, admin) if opened is not None], ring, settings.unsafe_no_keys)
        bundle = _checked(settings)
    except (SettingsError, BundleError, ValueError, OSError) as error:
        print(f"service: {error}", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        for opened in (listener, admin):
            if opened is not None:
                stack.callback(opened.close)
        try:
            if settings.redis_url is None:
                os.environ["RANKER_REDIS_URL"] = _embedded(stack, settings, Path(bundle.folder), data)
            body = (trial.example(data, 5) if data else None) or bundle.example
        except (EmbeddedStoreError, BackfillError) as error:
            print(f"service: {error}", file=sys.stderr)
            return 1
        if ring is not None:
            stack.callback(_watched(ring).close)
        folder = stack.enter_context(prepare_folder(settings.workers))
        base = _base(listener)
        if admin is not None:
            stack.enter_context(AdminProcess(admin, _admin_task(folder, settings)))
            log.info("health and metrics also on %s, by a process of their own", _base(admin))
        threading.Thread(target=_announce, args=(base, body, ring is not None), daemon=True).start()
        return asyncio.run(_supervised(settings, listener, folder, Path(bundle.folder)))


async def _supervised(settings: Settings, listener: socket.socket, folder: Path, bundle: Path) -> int:
    grace_s = settings.shutdown_grace_s
    return await Supervisor(settings.workers, listener, folder, bundle, settings.drain_s, grace_s).run()


def _checked(settings: Settings) -> Checked:
    """The bundle, its hashes compared and its golden requests answered: once, here, before any worker starts."""
    bundle = checked(settings.bundle)
    facts = (bundle.name, bundle.version, bundle.folder, bundle.precision, bundle.seconds)
    log.info("bundle %s %s at %s, served in %s, checked in %.2f s", *facts)
    return bundle


def _admin_task(folder: Path, settings: Settings) -> Task:
    routes = {path: list(stages) for path, stages in STAGES_OF.items()}
    budgets_s = [budget / 1000 for budget in settings.budgets_ms]
    keys_file = None if settings.keys_file is None else str(settings.keys_file)
    return Task(
        str(folder),
        settings.workers,
        routes,
        list(REASONS),
        budgets_s,
        settings.log_level,
        settings.log_format,
        keys_file,
        settings.metrics_open,
    )


def _base(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _listen(host: str, port: int, setting: str) -> socket.socket:
    """A bound socket, so that a port in use is one clear line before anything else starts."""
    family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        stamped(listener)
        listener.listen(2048)
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        wrong = f"cannot listen on {host}:{port} ({error.strerror})"
        raise OSError(f"{wrong}; stop what listens there or set {setting} to another port") from None
    return listener


def _watched(ring: Keyring) -> Watch:
    """Tells of the keys, in the log and to every process that starts from now on."""

    def told(level: int, text: str) -> None:
        os.environ[KNOWN] = ring.text()
        log.log(level, "%s", text)

    told(logging.INFO, f"keys: {ring.words()}")
    watch = Watch(ring, told)
    watch.start()
    return watch


def _check_store(url: str) -> None:
    try:
        clients.check(url)
    except ValueError as error:
        raise SettingsError(f"RANKER_REDIS_URL: {error}") from None


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


def _embedded(stack: ExitStack, settings: Settings, bundle: Path, data: Path | None) -> str:
    """Starts the embedded store with the users of `data`, or with the demo's for the demo; gives the store's URL."""
    url = stack.enter_context(EmbeddedStore()).url
    log.warning("RANKER_REDIS_URL is not set: embedded store, lost at exit, not for production")
    if data is not None:
        trial.load(data, Bundle.open(bundle), url, settings)
    elif settings.bundle != DEMO_BUNDLE:
        log.warning("%s", trial.hint(bundle))
    else:
        lines = DEMO_USERS.read_bytes().splitlines()
        newest = max(moment[3] for moment in chain(*(orjson.loads(line)["behaviours"] for line in lines)))
        shift_ms = time.time_ns() // 1_000_000 - newest  # as if the newest click of the demo were made just now
        loaded = load_users(lines, url, keep=settings.history_keep, ttl_s=settings.history_ttl_s, shift_ms=shift_ms)
        log.info("%d demo users with %d clicks loaded", loaded.users, loaded.behaviours)
    return url


def _warn_of_unknown_settings(settings: Settings) -> None:
    known = {f"RANKER_{name.upper()}" for name in type(settings).model_fields}
    for name in sorted(name for name in os.environ if name.startswith("RANKER_") and name not in known):
        log.warning("%s is no setting and does nothing; settings: %s", name, ", ".join(sorted(known)))


def _warn_of_no_deadline(settings: Settings) -> None:
    for name, what in (("timeout_ms", "requests"), ("batch_timeout_ms", "batches")):
        if not getattr(settings, name):
            named = f"RANKER_{name.upper()}"
            log.warning("%s=0: %s have no deadline and wait however long the queue is; set it in ms", named, what)


def _announce(base: str, request: dict[str, Any], keyed: bool) -> None:
    """Says when the service answers, with a command to try it; where there are keys, the reader puts one in."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            opener.open(f"{base}/health/ready", timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    body = orjson.dumps(request).decode()
    print(f"\nready on {base} — docs at {base}/docs, metrics at {base}/metrics. Try:\n")
    key = "-H 'authorization: Bearer KEY' " if keyed else ""
    print(f"curl -s {base}/rank {key}-H 'content-type: application/json' -d {shlex.quote(body)}\n", flush=True)
