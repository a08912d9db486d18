"""One worker under `python -m service`: what its parent tells it, and its end when the parent is gone."""

import os
from pathlib import Path

from fastapi import FastAPI

from service.app import create_app
from service.parent import end_with
from service.settings import load_settings
from service.telemetry import logs, tracing

METRICS_FOLDER, PARENT = "RANKER_METRICS_FOLDER", "RANKER_PARENT"  # how `python -m service` tells its workers


def from_environment() -> FastAPI:
    """The app of one worker under `python -m service`."""
    parent = int(os.environ[PARENT])
    settings = load_settings()
    if parent != os.getpid():
        end_with(parent)
        logs.configure(settings.log_level, settings.log_format)
    return create_app(settings, Path(os.environ[METRICS_FOLDER]), tracing.from_environment(os.environ))
