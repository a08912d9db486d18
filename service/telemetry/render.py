"""The text of `GET /metrics`, from the records of all workers."""

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from service.telemetry.exposition import Labels, Text
from service.telemetry.families import GAUGES, MODEL_LABELS
from service.telemetry.pulse import born
from service.telemetry.window import Counts, Record


def _upto(counts_B: Counts, at: Any) -> list[float]:
    upto_B = np.cumsum(counts_B)
    return [*upto_B[at].tolist(), int(upto_B[-1])]


def _model(record: Record) -> dict[str, str]:
    """What the worker answers with; nothing before it has said so, or while it is saying so."""
    try:
        model: dict[str, str] = orjson.loads(record["model"].item())
    except orjson.JSONDecodeError:
        return {}
    return model


def _write_models(text: Text, records: Sequence[Record]) -> None:
    newest: dict[Labels, Any] = {}
    for record in sorted(records, key=lambda record: float(record["model_times"]["loaded_s"])):
        if model := _model(record):
            newest[tuple((label, model[label]) for label in MODEL_LABELS)] = record["model_times"]
    families = {
        "ranker_model_info": ("Models that workers answer with; always 1.", None),
        "ranker_model_exported_timestamp_seconds": ("When a model was exported, in seconds since 1970.", "exported_s"),
        "ranker_model_loaded_timestamp_seconds": ("When a worker last loaded it, in seconds since 1970.", "loaded_s"),
        "ranker_model_load_seconds": ("How long a worker last took to load, prove and warm it, in seconds.", "load_s"),
    }
    for name, (said, field) in families.items():
        text.family(name, "gauge", said)
        for labels, times in sorted(newest.items()):
            if field is None:
                text.sample(name, labels, 1)
            elif times[field]:
                text.sample(name, labels[:2], float(times[field]))
    catalog = max((record["catalog"] for record in records), key=lambda catalog: int(catalog["modified_ns"]))
    text.single(
        "ranker_catalog_items", "gauge", "Items of the newest catalogue that a worker has.", int(catalog["items"])
    )
    modified_s = int(catalog["modified_ns"]) / 1e9
    said = "When that catalogue's file was written, in seconds since 1970."
    text.single("ranker_catalog_modified_timestamp_seconds", "gauge", said, modified_s)


def _write_workers(text: Text, records: Sequence[Record]) -> None:
    """Workers by their slot; the one who takes a dead one's slot goes on under its number."""
    states = [record["worker"] for record in records]
    workers = [(("worker", str(state["slot"])),) for state in states]
    alive = [bool(state["pid"]) and born(int(state["pid"])) == int(state["born"]) for state in states]
    text.family("ranker_worker_up", "gauge", "Whether a worker lives: 0 until another takes a dead one's place.")
    for labels, up in zip(workers, alive, strict=True):
        text.sample("ranker_worker_up", labels, up)
    text.family(
        "ranker_worker_cpu_seconds_total", "counter", "Processor time of a worker and those in whose place it is."
    )
    for labels, state in zip(workers, states, strict=True):
        text.sample("ranker_worker_cpu_seconds_total", labels, int(state["cpu_ns"]) / 1e9)
    for field, (name, said) in GAUGES.items():
        text.family(name, "gauge", said)
        for labels, state, up in zip(workers, states, alive, strict=True):
            if up:
                text.sample(name, labels, state[field].item())
    versions = (("python", platform.python_version()), ("numpy", np.__version__))
    text.family("ranker_build_info", "gauge", "What this service is made of; always 1.")
    text.sample("ranker_build_info", versions, 1)
