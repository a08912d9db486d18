"""One worker under `python -m service`: what its parent tells it, and its end when the parent is gone."""

import os
import signal
import threading
import time
from pathlib import Path

from fastapi import FastAPI

from service.app import create_app
from service.settings import load_settings
from service.telemetry import logs, tracing

METRICS_FOLDER, PARENT = "RANKER_METRICS_FOLDER", "RANKER_PARENT"  # how `python -m service` tells its workers


def from_environment() -> FastAPI:
    """The app of one worker under `python -m service`."""
    parent = int(os.environ[PARENT])
    settings = load_settings()
    if parent != os.getpid():
        _end_with(parent)
        logs.configure(settings.log_level, settings.log_format)
    return create_app(settings, Path(os.environ[METRICS_FOLDER]), tracing.from_environment(os.environ))


def _end_with(parent: int) -> None:
    """Ends this worker when its parent is gone, however it went: a killed parent can tell nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
