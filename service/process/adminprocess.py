"""Processes beside the workers as their parent sees them: one answers for the workers, one scores for nobody."""

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from service.process.kept import KeptProcess

_ADMIN = "import sys; from service.process.admin import main; main(sys.argv[1:])"  # no verb: others need not start it
_SHADOWS = "import sys; from service.shadowing.process import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Task:
    """What the admin process is told, as JSON."""

    folder: str  # of the workers' counts
    workers: int  # that there should be
    routes: dict[str, list[str]]  # and what follows: the form of these counts, see Form
    reasons: list[str]
    budgets_s: list[float]
    log_level: str
    log_format: Literal["text", "json"]
    keys_file: str | None  # keys themselves come by the environment, which others cannot read as they can arguments
    metrics_open: bool
    bounds: dict[str, float]  # of connections: the fields of http.bounds.Bounds


def admin_process(listener: socket.socket, task: Task) -> KeptProcess:
    """It needs no store, whose URL may hold a password."""
    arguments = [str(listener.fileno()), json.dumps(asdict(task))]
    return KeptProcess("admin", _ADMIN, arguments, unset=["RANKER_REDIS_URL"], fds=[listener.fileno()])


def shadows_process(folder: Path) -> KeptProcess:
    """`folder`: of the workers' counts."""
    return KeptProcess("shadows", _SHADOWS, [str(folder)], unset=["RANKER_REDIS_URL", "RANKER_KEYS"])
