"""What a start needs of packages that the parent is to do without, in one process of its own.

It looks at the store's URL and the rate of keys and says so; then, as it is told, it checks the bundle, loads users
into the embedded store and tells the form of the counts. So the parent has neither numpy nor the model's runtime nor a
client of the store in its memory for as long as the service runs, and what they need is imported once.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from model.bundle.errors import BundleError
from service.models.apart import ENDS_S, answer
from service.models.check import Checked, look
from service.process.child import end_with_parent, of_this
from service.settings import DEMO_BUNDLE, DEMO_USERS, Settings, SettingsError
from service.telemetry.relay import relayed

log = logging.getLogger("ranker")

_PROGRAM = "from service.process.prelude import main; main()"  # no verb


@dataclass(frozen=True)
class Prepared:
    routes: dict[str, list[str]]  # and what follows: the form of the counts, see Form
    reasons: list[str]
    example: dict[str, Any] | None  # a request that works, where the data set has one


class Prelude:
    """The parent's side: `check`, then `prepare`."""

    def __init__(self) -> None:
        with relayed("start") as log_lines:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_lines.stderr,
                env=os.environ | of_this() | log_lines.environment,
                start_new_session=True,
            )
        self._told()

    def check(self, bundle: Path) -> Checked:
        """Raises BundleError."""
        self._tell({"bundle": str(bundle)})
        assert self._process.stdout
        output = self._process.stdout.readline()
        return Checked(**answer(output, 0 if output else self._process.wait(), str(bundle)))

    def prepare(self, bundle: str, store: str | None, data: Path | None) -> Prepared:
        """`store`: the embedded store's URL, if that is the store. Raises SettingsError."""
        self._tell({"bundle": bundle, "store": store, "data": None if data is None else str(data)})
        prepared = Prepared(**self._told())
        self.close()  # it has said all that it had to; else it would stay as a zombie for as long as the service lives
        return prepared

    def close(self) -> None:
        """Kills it, if it has not ended."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self._process.kill()
        self._process.wait()

    def _tell(self, what: Mapping[str, Any]) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has ended: there is no answer, and that is told
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def _told(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {"problem": "the start failed; what it said stands above"}
        if "problem" in told:
            self.close()
            raise SettingsError(told["problem"])
        return told


def main() -> None:
    from service.access.keys import KeysError
    from service.settings import load_settings
    from service.store import clients
    from service.telemetry import logs
    from service.variants.plan import PlanError

    end_with_parent(ENDS_S)
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    try:
        if settings.redis_url is not None:
            clients.check(settings.redis_url)
    except ValueError as error:
        _tell({"problem": f"RANKER_REDIS_URL: {error}"})
        return
    if settings.rate is not None:
        from service.access.rates import Rates

        try:
            Rates(settings.rate)  # each worker makes its own: what is wrong with it is said once, and here
        except KeysError as error:
            _tell({"problem": str(error)})
            return
    _tell({})

    line = sys.stdin.readline()
    if not line:  # the start has failed elsewhere
        return
    try:
        checked = look(Path(json.loads(line)["bundle"]), settings)
        if settings.experiments is not None:
            from service.variants.reading import check

            check(settings.experiments, lambda folder: look(folder, settings), settings.journal is not None)
    except (BundleError, PlanError) as error:
        _tell({"problem": str(error)})
        return
    _tell(asdict(checked))

    from service.loading.user import BackfillError
    from service.store.history import REASONS
    from service.telemetry.families import ROUTES

    line = sys.stdin.readline()
    if not line:
        return
    try:
        example = _loaded(settings, **json.loads(line))
    except (BackfillError, OSError) as error:
        _tell({"problem": str(error)})
        return
    _tell({"routes": ROUTES, "reasons": list(REASONS), "example": example})


def _tell(what: Mapping[str, Any]) -> None:
    print(json.dumps(what, default=list), flush=True)


def _loaded(settings: Settings, bundle: str, store: str | None, data: str | None) -> dict[str, Any] | None:
    """Loads the users of `data` into the embedded store, or the demo's for the demo; gives a request of the data's."""
    from model.bundle.reading import Bundle
    from service.loading import trial
    from service.loading.load import load_users

    if store is None:
        return None
    if data is not None:
        trial.load(Path(data), Bundle.open(Path(bundle)), store, settings)
        return trial.example(Path(data), 5)
    if settings.bundle != DEMO_BUNDLE:
        log.warning("%s", trial.hint(Path(bundle)))
        return None
    lines = DEMO_USERS.read_bytes().splitlines()
    newest = max(moment[3] for moment in chain(*(json.loads(line)["behaviours"] for line in lines)))
    shift_ms = time.time_ns() // 1_000_000 - newest  # as if the newest click of the demo were made just now
    loaded = load_users(lines, store, keep=settings.history_keep, ttl_s=settings.history_ttl_s, shift_ms=shift_ms)
    log.info("%d demo users with %d clicks loaded", loaded.users, loaded.behaviours)
    return None
