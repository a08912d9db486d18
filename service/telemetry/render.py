"""The text of `GET /metrics`, from the records of all workers."""

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from service.telemetry.exposition import CONTENT_TYPE, Labels, Text
from service.telemetry.families import GAUGES, QUANTILES, SIZES, STAGE_BOUNDS_S, STAGES, TOTAL
from service.telemetry.pulse import born
from service.telemetry.record import Name, Shape, snapshot
from service.telemetry.window import Counts, Record, quantiles, recent

NONE = Name().key


class _Model:
    """All workers' counts under one name."""

    def __init__(self, name: Name, slots: Sequence[Any]):
        self.labels: Labels = tuple(zip(("model", "version", "variant"), name.key, strict=True))
        self.older = name.version == "older" and not name.sha
        self.counts_SB: Counts = np.sum([slot["totals"]["counts"] for slot in slots], axis=0)
        self.sums_s = (np.sum([slot["totals"]["sums_ns"] for slot in slots], axis=0) / 1e9).tolist()
        self.counters = np.sum([slot["counters"] for slot in slots], axis=0).tolist()
        self.sizes = {size: np.sum([slot["sizes"][size] for slot in slots], axis=0) for size in SIZES}
        self.size_sums = {size: float(sum(slot["sums"][size].item() for slot in slots)) for size in SIZES}
        self.totals_S: list[int] = self.counts_SB.sum(axis=1).tolist()


def render(shape: Shape, records: Sequence[Record], now_s: float) -> tuple[bytes, str]:
    """The body and its content type: the families as a reader wants them, at `now_s` of CLOCK_MONOTONIC."""
    text = Text()
    slots = [named for record in records for named in snapshot(record)]
    by_key: dict[tuple[str, str, str], list[tuple[Name, Any]]] = {}
    for name, slot in slots:
        by_key.setdefault(name.key, []).append((name, slot))
    models = {key: _Model(named[0][0], [slot for _, slot in named]) for key, named in sorted(by_key.items())}
    _write_requests(text, shape, models)
    _write_durations(text, shape, models.values())
    _write_response_times(text, shape, models.values(), recent([record["window"] for record in records], now_s))
    _write_sizes(text, models)
    _write_events(text, shape, models)
    _write_models(text, slots)
    _write_catalog(text, records)
    _write_workers(text, records)
    return text.encode(), CONTENT_TYPE


Models = Mapping[tuple[str, str, str], _Model]


def _of_models(models: Models) -> list[_Model]:
    """Those of models that answered; where there is none yet, nobody's, so that each family has its series."""
    return [model for key, model in models.items() if key != NONE] or [models[NONE]]


def _write_requests(text: Text, shape: Shape, models: Models) -> None:
    text.family(
        "ranker_requests_total",
        "counter",
        "Requests answered: ok, degraded (ranked without something), refused (4xx) or failed (5xx).",
    )
    for key, model in models.items():
        for (route, stage, outcome), count in zip(shape.times, model.totals_S, strict=True):
            expected = key == NONE or (route in shape.ranking and not model.older)
            if stage == TOTAL and (count or expected):
                text.sample("ranker_requests_total", (*model.labels, ("route", route), ("outcome", outcome)), count)


def _write_durations(text: Text, shape: Shape, models: Iterable[_Model]) -> None:
    name = "ranker_request_duration_seconds"
    text.family(name, "histogram", "Time from a request's arrival to its answer, in seconds.")
    for model in models:
        for row, (route, stage, outcome) in enumerate(shape.times):
            if stage == TOTAL and model.totals_S[row]:
                labels = (*model.labels, ("route", route), ("outcome", outcome))
                upto = _upto(model.counts_SB[row], shape.at_request_bounds)
                text.histogram(name, labels, shape.request_bounds_s, upto, model.sums_s[row])
    name = "ranker_stage_duration_seconds"
    text.family(name, "histogram", "Time in one stage of a request, in seconds.")
    for model in models:
        for stage in STAGES:
            rows = [row for row, (_, of_row, _) in enumerate(shape.times) if of_row == stage and model.totals_S[row]]
            if rows:
                upto = _upto(model.counts_SB[rows].sum(axis=0), shape.at_stage_bounds)
                sum_s = sum(model.sums_s[row] for row in rows)
                text.histogram(name, (*model.labels, ("stage", stage)), STAGE_BOUNDS_S, upto, sum_s)


def _write_response_times(text: Text, shape: Shape, models: Iterable[_Model], recent_SB: Any) -> None:
    name = "ranker_response_time_seconds"
    text.family(
        name,
        "summary",
        "Seconds by stage (total: the whole request): quantiles over the last 60 s, count and sum since the start.",
    )
    totals = np.sum([model.totals_S for model in models], axis=0).tolist()
    sums_s = np.sum([model.sums_s for model in models], axis=0).tolist()
    recent_S: list[bool] = np.any(recent_SB, axis=1).tolist()
    rows = zip(shape.times, totals, sums_s, recent_S, recent_SB, strict=True)
    for (route, stage, outcome), total, sum_s, some, recent_B in rows:
        if outcome != "ok" and not total:  # what goes well is always shown: NaN before the first request
            continue
        labels = (("route", route), ("stage", stage), ("outcome", outcome))
        seconds = quantiles(recent_B, shape.edges, QUANTILES) if some else [math.nan] * len(QUANTILES)
        for quantile, value in zip(QUANTILES, seconds, strict=True):
            text.sample(name, (*labels, ("quantile", str(quantile))), value)
        text.sample(f"{name}_count", labels, total)
        text.sample(f"{name}_sum", labels, sum_s)


def _write_sizes(text: Text, models: Models) -> None:
    for name, size in SIZES.items():
        text.family(name, "histogram", size.text)
        for model in _of_models(models) if size.of_model else [models[NONE]]:
            labels = (*model.labels, *size.labels) if size.of_model else size.labels
            text.histogram(name, labels, size.bounds, np.cumsum(model.sizes[name]).tolist(), model.size_sums[name])


def _write_events(text: Text, shape: Shape, models: Models) -> None:
    for name, counter in shape.events.items():
        text.family(f"{name}_total", "counter", counter.text)
        for model in _of_models(models) if counter.of_model else [models[NONE]]:
            for values in product(*counter.labels.values()):
                own = tuple(zip(counter.labels, values, strict=True))
                labels = (*model.labels, *own) if counter.of_model else own
                text.sample(f"{name}_total", labels, model.counters[shape.counters[(name, *sorted(own))]])


def _write_models(text: Text, slots: Iterable[tuple[Name, Any]]) -> None:
    newest: dict[Name, Any] = {}
    for name, slot in sorted(slots, key=lambda named: float(named[1]["loaded_s"])):
        if slot["live"]:
            newest[name] = slot
    families = {
        "ranker_model_info": ("Models that workers answer with; always 1.", None),
        "ranker_model_exported_timestamp_seconds": ("When a model was exported, in seconds since 1970.", "exported_s"),
        "ranker_model_loaded_timestamp_seconds": ("When a worker last loaded it, in seconds since 1970.", "loaded_s"),
        "ranker_model_load_seconds": ("How long a worker last took to load, prove and warm it, in seconds.", "load_s"),
    }
    for family, (help_text, field) in families.items():
        text.family(family, "gauge", help_text)
        for name, slot in sorted(newest.items()):
            labels: Labels = (("name", name.model), ("version", name.version), ("variant", name.variant))
            if field is None:
                text.sample(family, (*labels, ("network", name.network), ("sha", name.sha)), 1)
            elif slot[field]:
                text.sample(family, labels, float(slot[field]))


def _write_catalog(text: Text, records: Sequence[Record]) -> None:
    catalog = max((record["catalog"] for record in records), key=lambda catalog: int(catalog["modified_ns"]))
    text.single(
        "ranker_catalog_items", "gauge", "Items of the newest catalogue that a worker has.", int(catalog["items"])
    )
    modified_s = int(catalog["modified_ns"]) / 1e9
    help_text = "When that catalogue's file was written, in seconds since 1970."
    text.single("ranker_catalog_modified_timestamp_seconds", "gauge", help_text, modified_s)


def _upto(counts_B: Counts, at: Any) -> list[float]:
    upto_B = np.cumsum(counts_B)
    return [*upto_B[at].tolist(), int(upto_B[-1])]


def _write_workers(text: Text, records: Sequence[Record]) -> None:
    """Workers by their slot; the one who takes a dead one's slot goes on under its number."""
    states = [record["worker"] for record in records]
    workers = [(("worker", str(state["number"])),) for state in states]
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
