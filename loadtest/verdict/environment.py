"""Where a run took place: machine and versions, for the report. No host name, no address."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

PACKAGES = ("bst-ranker", "numpy", "httptools", "hdrhistogram")


def environment(model: bytes | None) -> dict[str, Any]:
    """`model`: the answer of GET /model, where there is one."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"machine": _machine(), "versions": versions, "service": _service(model)}


def _machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = round(os.getloadavg()[0], 2)
    return {"processor": name, "cores": usable, "system": f"{platform.system()} {platform.release()}", "load": load}


def _service(model: bytes | None) -> dict[str, Any]:
    """What a model's answer tells in plain words and numbers."""
    try:
        told = orjson.loads(model or b"{}")
    except orjson.JSONDecodeError:
        return {}
    keys = ("name", "version", "network", "objective", "precision")
    return {key: told[key] for key in keys if isinstance(told, dict) and isinstance(told.get(key), str | int | float)}
