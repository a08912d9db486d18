"""Whether a bundle may go live: hashes, golden requests, finite scores, the store's KEEP. In another process.

A start's is the one that prepares it (process/prelude.py); else it has one of its own. So what checking costs is
nobody's response time: its memory goes with it, it holds no worker's interpreter lock, and beside requests it runs at
the lowest priority.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bundle.errors import BundleError
from service.models import apart
from service.models.apart import ENDS_S
from service.process.child import end_with_parent, of_this
from service.telemetry.relay import relayed

if TYPE_CHECKING:
    from service.scoring.served import Served
    from service.settings import Settings

_PROGRAM = "import sys; from service.models.check import main; main(sys.argv[1:])"  # no verb
# Before requests are answered; beside them, where nobody else wants the core; beside them on a machine that is busy.
FIRST, IDLE, BEHIND = "first", "idle", "behind"
IDLE_S = 10.0  # for the second, which takes 2 s for ten million items; on a busy machine it would never end
DRAWS, CANDIDATES = 32, 1000  # requests of rows drawn at random, and candidates of each


@dataclass(frozen=True)
class Checked:
    """What a bundle turned out to be."""

    folder: str  # with `current` resolved
    name: str
    version: str
    precision: str
    seconds: float
    example: dict[str, Any]  # a request that works


def checked(folder: Path, when: str = FIRST) -> Checked:
    """Blocks until it is checked, by this process' settings. Raises BundleError."""
    command = [sys.executable, "-c", _PROGRAM, str(folder), when]
    with relayed("check") as log_lines:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_lines.stderr,
            env=os.environ | of_this() | log_lines.environment,
            start_new_session=True,
        )
    return Checked(**apart.answer(done.stdout, done.returncode, str(folder)))


async def checked_beside(folder: Path) -> Checked:
    """As `checked`, beside what is answered. Raises BundleError."""
    try:
        return Checked(**await apart.process(_PROGRAM, str(folder), IDLE, limit_s=IDLE_S))
    except apart.TooSlow:
        return Checked(**await apart.process(_PROGRAM, str(folder), BEHIND))


def main(arguments: Sequence[str]) -> None:
    folder, when = arguments
    end_with_parent(ENDS_S)
    if when != FIRST:
        apart.yield_cores(when == IDLE)
    from service.settings import load_settings
    from service.telemetry import logs

    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    try:
        print(json.dumps(asdict(look(Path(folder), settings))))
    except BundleError as error:
        print(json.dumps({"problem": str(error)}))


def look(folder: Path, settings: "Settings") -> Checked:
    """Checks the bundle in this process. Raises BundleError."""
    from model.bundle.reading import Bundle
    from model.bundle.versions import check_name
    from model.features.wanted import Wanted
    from service.models.examples import example, samples
    from service.scoring.scorer import Scorer
    from service.scoring.served import Served, check_kept

    begun = time.perf_counter()
    try:
        bundle = Bundle.open(folder)
        for name in (bundle.name, bundle.version):
            check_name(name)  # of a folder, and of a label
        check_kept(bundle, Wanted.of(bundle.schema), settings.history_keep)
        bundle.verify()
        served = Served.open(bundle, Scorer(1), settings.precision)
        check_finite(served)
    except (BundleError, OSError) as error:
        raise BundleError(str(error)) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        # Hashes say that a file is what was written, and not that it holds what this release reads.
        raise BundleError(f"{folder}: {error!r}") from error
    spent_s = time.perf_counter() - begun
    facts = (str(bundle.folder), bundle.name, bundle.version, served.precision, spent_s)
    return Checked(*facts, example(samples(bundle), 5))


def check_finite(served: "Served") -> None:
    """Raises BundleError where rows drawn at random from every table get a score that is no finite number.

    Golden requests see a few hundred rows of millions: a training that diverged may have spoilt others.
    """
    import numpy as np

    draw = np.random.default_rng(0)
    bundle = served.bundle
    request: dict[str, Any] = bundle.golden()[0]
    shown = request | {"candidates": (request["candidates"] * CANDIDATES)[:CANDIDATES]}
    inputs = bundle.encode_golden(shown)
    for _ in range(DRAWS):
        rows = {
            name: draw.integers(0, limit, inputs[name].shape, inputs[name].dtype)
            for name, limit in bundle.limits.items()
            if name in inputs
        }
        scores = served.run({**inputs, **rows})
        if not np.isfinite(scores).all():
            spoilt = int((~np.isfinite(scores)).sum())
            raise BundleError(
                f"{bundle.folder}: {spoilt} of {scores.size} scores of rows drawn at random from its tables are no "
                "finite numbers: the training has diverged"
            )
