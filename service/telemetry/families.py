"""The `ranker_` families: names, labels, bounds and help texts, a table each.

A family is known by its name alone; the order of a table is the order in which `GET /metrics` tells its families.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.errors import SHED
from service.telemetry.exposition import Labels

STAGES = ("parse", "history", "queue", "encode", "score", "sort", "serialise")
OUTCOMES = ("ok", "degraded", "refused", "failed")
QUANTILES = (0.5, 0.9, 0.99, 0.999)
UNMATCHED = "unmatched"  # the route of a request that no route matches
TOTAL = "total"  # the stage that is the whole request


def _bounds(base_s: float, per_octave: int, octaves: range) -> set[float]:
    steps = range(octaves.start * per_octave, octaves.stop * per_octave + 1)
    return {float(f"{base_s * 2 ** (step / per_octave):.3g}") for step in steps}


def _one_two_five(first: int, last: int) -> tuple[float, ...]:
    """10^first to 10^last."""
    steps = [float(f"{digit}e{power}") for power in range(first, last) for digit in (1, 2, 5)]
    return (*steps, float(f"1e{last}"))


# Four to the octave around the budgets (1.25 to 160 ms), so that `histogram_quantile` is off by a few percent there;
# the library's default bounds are off by 29 %. 10 ms is among them, and its doubles and halves; the round ones are
# where people set budgets. The service's settings add their own.
REQUEST_BOUNDS_S = tuple(sorted(_bounds(0.01, 4, range(-3, 4)) | {0.0003, 0.0006, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10}))
STAGE_BOUNDS_S = tuple(sorted(_bounds(0.01, 1, range(-10, 7))))


class Histogram(NamedTuple):
    """A histogram of what is no request's time; its labels are fixed."""

    text: str
    bounds: tuple[float, ...]
    labels: Labels = ()
    of_model: bool = False  # whether it carries model, version and variant


class Counter(NamedTuple):
    """A family of counters, with the values that each of its labels may have."""

    text: str
    labels: Mapping[str, Sequence[str]] = {}
    of_model: bool = False


SIZES = {
    "ranker_candidates": Histogram("Candidates in a ranked request.", _one_two_five(0, 4), of_model=True),
    "ranker_history_length": Histogram(
        "Behaviours that a ranked request's history had, after filter and cut.",
        (0, *_one_two_five(0, 3)),
        of_model=True,
    ),
    "ranker_history_age_seconds": Histogram(
        "Seconds from a user's newest stored behaviour to the ranking; users without any are not in it.",
        (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400, 90 * 86400, 365 * 86400),
        of_model=True,
    ),
    "ranker_score_mean": Histogram(
        "Mean score of a ranked request's candidates: a model or a feature that went wrong shows here.",
        _one_two_five(-4, 3),
        of_model=True,
    ),
    "ranker_batch_requests": Histogram("Requests in one call of /rank/batch.", _one_two_five(0, 3)),
    "ranker_store_duration_seconds": Histogram(
        "Time of one round trip to the store, failed ones too, in seconds.", STAGE_BOUNDS_S, (("op", "read"),)
    ),
}
DEGRADED = "ranker_degraded"
EVENTS = {  # as the exposition format has it, the names get their `_total` when written
    "ranker_unknown_items": Counter("Candidates without an embedding, scored as UNKNOWN.", of_model=True),
    "ranker_cold_users": Counter("Ranked requests of users without a history.", of_model=True),
    "ranker_future_behaviours": Counter(
        "Behaviours stamped ahead of the clock, taken as happening just now.", of_model=True
    ),
    "ranker_malformed_behaviours": Counter(
        "Stored behaviours and profile values that could not be read and were passed over.", of_model=True
    ),
    "ranker_score_nan": Counter("Scores that were no finite number.", of_model=True),
    "ranker_store_ops": Counter(
        "Round trips to the store, by how they ended.", {"op": ("read",), "outcome": ("ok", "timeout", "error")}
    ),
    "ranker_deadline_exceeded": Counter(
        "Requests whose stage ran out of the time it may take, and went on without.", {"stage": ("history",)}
    ),
    "ranker_shed": Counter(
        "Requests turned away before any work because they were too large, by which limit.", {"reason": SHED}
    ),
    "ranker_catalog_reloads": Counter(
        "Newer catalogue files that a worker took over (ok) or refused, each worker's own.",
        {"outcome": ("ok", "refused")},
    ),
    "ranker_model_swap": Counter(
        "Models that a worker took over, the one it starts with included, each worker's own.", {"outcome": ("ok",)}
    ),
    "ranker_worker_starts": Counter("Workers started, in the place of those that ended too."),
    DEGRADED: Counter("Answers that did without something, by what was missing.", {"reason": ()}, of_model=True),
}  # the reasons of DEGRADED are ranking's, and come with the routes

GAUGES = {  # of each worker that lives, by its slot
    "in_flight": ("ranker_in_flight", "Ranking requests under way."),
    "queue_items": ("ranker_queue_items", "Candidates that wait for a scoring thread, at most 0.25 s ago."),
    "queue_age_s": ("ranker_queue_age_seconds", "Seconds that the one who waits longest for a scoring thread has."),
    "lag_s": (
        "ranker_event_loop_lag_seconds",
        "Longest that the event loop was late within the last 60 s, in seconds: nothing is answered meanwhile.",
    ),
    "resident_bytes": (
        "ranker_worker_resident_bytes",
        "Memory of a worker that is in RAM; pages that workers share count in each.",
    ),
    "started_s": ("ranker_worker_start_time_seconds", "When a worker started, in seconds since 1970."),
}


def outcome_of(status: int, degraded: bool = False) -> str:
    """The outcome label of an answered request, from its HTTP status."""
    if status >= 500:
        return "failed"
    if status >= 400:
        return "refused"
    return "degraded" if degraded else "ok"
