"""Whether a bundle may go live: hashes, golden requests, finite scores, the store's KEEP. A process of its own.

So what checking costs is nobody's response time: its memory goes with it, it holds no worker's interpreter lock, and
beside requests it runs at the lowest priority.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.bundle.errors import BundleError
from service.telemetry.relay import relayed

_PROGRAM = "import sys; from service.models.check import main; main(sys.argv[1:])"  # no verb


@dataclass(frozen=True)
class Checked:
    """What a bundle turned out to be."""

    folder: str  # with `current` resolved
    name: str
    version: str
    precision: str
    seconds: float
    example: dict[str, Any]  # a request that works


def checked(folder: Path, nice: int = 0) -> Checked:
    """Blocks until it is checked, by this process' settings. Raises BundleError."""
    command = [sys.executable, "-c", _PROGRAM, str(folder), str(nice)]
    with relayed("check") as log_lines:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_lines.stderr,
            env=os.environ | log_lines.environment,
            start_new_session=True,
        )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise BundleError(f"{folder}: the process that checked it ended with exit code {done.returncode}")
    told = json.loads(lines[-1])
    if "problem" in told:
        raise BundleError(told["problem"])
    return Checked(**told)


def main(arguments: Sequence[str]) -> None:
    from model.bundle.reading import Bundle
    from model.features.wanted import Wanted
    from service.models.examples import example, samples
    from service.scoring.scorer import Scorer
    from service.scoring.served import Served, check_kept
    from service.settings import load_settings
    from service.telemetry import logs

    folder, nice = arguments
    os.nice(int(nice))
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    begun = time.perf_counter()
    try:
        bundle = Bundle.open(Path(folder))
        check_kept(bundle, Wanted.of(bundle.schema), settings.history_keep)
        bundle.verify()
        served = Served.open(bundle, Scorer(1), settings.precision)
    except (BundleError, ValueError, OSError) as error:
        print(json.dumps({"problem": str(error)}))
        return
    spent_s = time.perf_counter() - begun
    facts = (str(bundle.folder), bundle.name, bundle.version, served.precision, spent_s, example(samples(bundle), 5))
    print(json.dumps(asdict(Checked(*facts))))
