"""Where a run took place: machine, versions and model, for the report."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson

from loadtest.machine import processor, system
from model.cores import cores

PACKAGES = ("bst-ranker", "numpy", "httptools", "hdrhistogram")
OF_MODEL = ("name", "version", "network", "objective", "precision")


def environment(model: bytes | None) -> dict[str, Any]:
    """`model`: the answer of GET /model, where there is one."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    load = round(os.getloadavg()[0], 2)
    machine = {"processor": processor(), "cores": cores(), "system": system(), "load": load}
    return {"machine": machine, "versions": versions, "service": _service(model)}


def _service(model: bytes | None) -> dict[str, Any]:
    """What a model's answer tells in plain words and numbers."""
    try:
        answer = orjson.loads(model or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return {
        key: answer[key]
        for key in OF_MODEL
        if isinstance(answer, dict) and isinstance(answer.get(key), str | int | float)
    }
