"""The `ranker_` families: names, labels, bounds and help texts, as tables."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.errors import KINDS, OF_KEYS, SHED

STAGES = ("parse", "history", "queue", "encode", "score", "sort", "serialise")
ROUTES: Mapping[str, Sequence[str]] = {  # the stages of those in service/api/routes.py, for who does without them
    "/rank": STAGES,
    "/rank/batch": STAGES,
    "/feedback": (),
    "/users/{user_id}": (),
    "/experiments": (),
    "/model": (),
    "/metrics": (),
    "/health/live": (),
    "/health/ready": (),
    "/admin/model": (),
    "/admin/experiments": (),
    "/openapi.json": (),
    "/docs": (),
    "/": (),
}
OUTCOMES = ("ok", "degraded", "refused", "shed", "late", "gone", "failed")
WITH_STAGES = ("ok", "degraded", "late", "failed")  # of the others no stage tells anything: they were not let in
_OUTCOME_OF = {429: "shed", 499: "gone", 503: "refused", 504: "late"}  # 503: it stops, and whoever asks is told
CLOSED, HALF_OPEN, OPEN = 0, 1, 2  # the states of the store's circuit breaker
JOURNAL_OFF, JOURNAL_WRITES, JOURNAL_FAILS = 0, 1, 2
QUANTILES = (0.5, 0.9, 0.99, 0.999)
BAD_REQUESTS = (  # why a connection was refused or closed before the application saw a request
    "malformed_http",
    "headers_too_large",
    "url_too_long",
    "slow_headers",
    "slow_upload",
    "draining",
    "too_many_connections",
    "silent",
    "evicted",
    "unread",
)
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


class Family(NamedTuple):
    """A counter or, where it has `bounds`, a histogram.

    `labels` holds the values that each label may have: no caller can put a user, an item or a raw path into one. A
    family `by_model` carries the labels model, version and variant too.
    """

    text: str
    labels: Mapping[str, Sequence[str]] = {}
    bounds: tuple[float, ...] = ()
    by_model: bool = False


DEGRADED = "ranker_degraded"
FAMILIES = {  # by the name that callers count by; as the exposition format has it, a counter is shown with `_total`
    "ranker_candidates": Family("Candidates in a ranked request.", bounds=_one_two_five(0, 4), by_model=True),
    "ranker_history_length": Family(
        "Behaviours that a ranked request's history had, after filter and cut.",
        bounds=(0, *_one_two_five(0, 3)),
        by_model=True,
    ),
    "ranker_history_age_seconds": Family(
        "Seconds from a user's newest stored behaviour to the ranking; users without any are not in it.",
        bounds=(1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400, 90 * 86400, 365 * 86400),
        by_model=True,
    ),
    "ranker_score_mean": Family(
        "Mean score of a ranked request's candidates: a model or a feature that went wrong shows here.",
        bounds=_one_two_five(-4, 3),
        by_model=True,
    ),
    "ranker_batch_requests": Family("Requests in one call of /rank/batch.", bounds=_one_two_five(0, 3)),
    "ranker_store_duration_seconds": Family(
        "Time of one round trip to the store, failed ones too, less what this process was late by; seconds.",
        {"op": ("read",)},
        STAGE_BOUNDS_S,
    ),
    "ranker_arrival_lag_seconds": Family(
        "Seconds from a request's bytes being there to the service looking at them: accept queue and event loop.",
        bounds=STAGE_BOUNDS_S,
    ),
    "ranker_upload_seconds": Family(
        "Seconds that a caller took to send a request's body, which no response time counts.",
        bounds=(*STAGE_BOUNDS_S, 2.56, 5.12, 10.24, 20.48),
    ),
    "ranker_unknown_items": Family("Candidates without an embedding, scored as UNKNOWN.", by_model=True),
    "ranker_cold_users": Family("Ranked requests of users without a history.", by_model=True),
    "ranker_future_behaviours": Family(
        "Behaviours stamped ahead of the clock, taken as happening just now.", by_model=True
    ),
    "ranker_malformed_behaviours": Family(
        "Stored behaviours and profile values that could not be read and were passed over.", by_model=True
    ),
    "ranker_list_holes": Family(
        "Elements of lists (requests', profiles') that held nothing, as null does, and were left out.", by_model=True
    ),
    "ranker_score_nan": Family("Scores that were no finite number.", by_model=True),
    DEGRADED: Family(
        "Answers that did without something, by what was missing.",
        {"reason": ()},  # ranking's, which Metrics gets as an argument
        by_model=True,
    ),
    "ranker_store_ops": Family(
        "Round trips to the store, by how they ended; lagged: this process was too late to read the answer in time.",
        {"op": ("read", "write", "show", "probe"), "outcome": ("ok", "timeout", "lagged", "error")},
    ),
    "ranker_deadline_exceeded": Family(
        "Requests that ran out of time, by the stage that was cut off (history, without which they went on) or was not "
        "begun any more.",
        {"stage": STAGES},
    ),
    "ranker_shed": Family(
        "Requests turned away before any work, since they were too large or too much was waiting, by the reason.",
        {"reason": SHED},
    ),
    "ranker_key_refusals": Family(
        "Requests refused for their key: none or an unknown one (unauthorized), one without the scope (forbidden), one "
        "above RANKER_RATE (too_many_requests).",
        {"kind": OF_KEYS},
    ),
    "ranker_bad_requests": Family(
        "Connections that were refused or closed before the application saw a request (whole), by the reason; silent: "
        "nothing was sent, evicted: idle and closed to make room, unread: an answer was not taken.",
        {"reason": BAD_REQUESTS},
    ),
    "ranker_batch_errors": Family(
        "Requests of a batch that got an error for an answer, by its kind.", {"kind": tuple(e.kind for e in KINDS)}
    ),
    "ranker_catalog_reloads": Family(
        "Newer catalogue files that a worker took over (ok) or refused, each worker's own.",
        {"outcome": ("ok", "refused")},
    ),
    "ranker_statistics_reloads": Family(
        "Newer files of counts, for features of kind statistic, that a worker took over (ok) or refused, each worker's "
        "own.",
        {"outcome": ("ok", "refused")},
    ),
    "ranker_model_swap": Family(
        "Models that a worker took over (ok), its first one included, or that were refused; each worker's own.",
        {"outcome": ("ok", "refused")},
    ),
    "ranker_feedback_events": Family(
        "Events of POST /feedback: accepted (in the store and the journal), refused (no events), failed (not in both: "
        "whoever sent them was told to send them again).",
        {"outcome": ("accepted", "refused", "failed")},
    ),
    "ranker_journal_records": Family(
        "Records of the journal: written, or lost since the disk is full, the folder is unwritable, or too much waits "
        "to be written (overflow). A lost event was refused with 503.",
        {
            "kind": ("impression", "event", "profile", "forgotten", "shadowed"),
            "outcome": ("written", "full", "unwritable", "overflow"),
        },
    ),
    "ranker_journal_bytes": Family("Bytes written to the journal."),
    "ranker_experiment_impressions": Family(
        "Items that a variant of an experiment returned to users whom it was drawn for.", by_model=True
    ),
    "ranker_experiment_clicks": Family("Clicks on them, each impression's once.", by_model=True),
    "ranker_variant_caught": Family("Times that a variant was taken out by its limits, by this worker.", by_model=True),
    "ranker_experiment_reloads": Family(
        "Newer experiment files that a worker took over (ok) or refused, each worker's own.",
        {"outcome": ("ok", "refused")},
    ),
    "ranker_worker_starts": Family("Workers started, in the place of those that ended too."),
}

OF_REQUESTS = {  # what the times of requests are shown as: type and help text
    "ranker_requests_total": (
        "counter",
        "Requests answered: ok, degraded (ranked without something), refused (4xx), shed (429), late (504), gone (the "
        "caller hung up) or failed (5xx).",
    ),
    "ranker_request_duration_seconds": ("histogram", "Time from a request's arrival to its answer, in seconds."),
    "ranker_stage_duration_seconds": ("histogram", "Time in one stage of a request, in seconds."),
    "ranker_response_time_seconds": (
        "summary",
        "Seconds by stage (total: the whole request): quantiles over the last 60 s, count and sum since the start.",
    ),
}

OF_MODELS = {  # gauges of the models that living workers answer with: help text and, but for the first, the field
    "ranker_model_info": ("Models that workers answer with; always 1.", None),
    "ranker_model_exported_timestamp_seconds": ("When a model was exported, in seconds since 1970.", "exported_s"),
    "ranker_model_loaded_timestamp_seconds": ("When a worker last loaded it, in seconds since 1970.", "loaded_s"),
    "ranker_model_load_seconds": ("How long a worker last took to load, prove and warm it, in seconds.", "load_s"),
}

FEATURE_VALUES = "ranker_feature_values_total"  # by the features of each model, which no table of families knows
VALUE_STATES = ("known", "unknown", "missing")

OF_WORKERS = {  # gauges of each worker that lives, by its slot
    "draining": (
        "ranker_worker_draining",
        "Whether a worker asks that nothing new come: the service stops.",
    ),
    "in_flight": ("ranker_in_flight", "Ranking requests under way."),
    "queue_items": ("ranker_queue_items", "Candidates that wait for a scoring thread, at most 0.25 s ago."),
    "queue_age_s": ("ranker_queue_age_seconds", "Seconds that the one who waits longest for a scoring thread has."),
    "in_flight_candidates": (
        "ranker_in_flight_candidates",
        "Candidates of the requests that were let in and are not answered yet.",
    ),
    "cost_s": ("ranker_admission_cost_seconds", "Seconds that a candidate costs, as learnt from those ranked lately."),
    "wait_s": (
        "ranker_queue_predicted_wait_seconds",
        "Seconds that a request which came now would wait for its turn, as predicted: too many, and it is refused.",
    ),
    "lag_s": (
        "ranker_event_loop_lag_seconds",
        "Longest that the event loop was late within the last 60 s, in seconds: nothing is answered meanwhile.",
    ),
    "breaker": (
        "ranker_store_breaker_state",
        "Whether the store is asked: 0 closed (it is), 1 half-open (one request at a time), 2 open (by probes alone).",
    ),
    "journal_state": (
        "ranker_journal_state",
        "Whether the journal is written: 0 nothing was to be written yet or there is none, 1 it is, 2 it cannot be.",
    ),
    "journal_pending": ("ranker_journal_pending_bytes", "Bytes of records that wait to be written to the journal."),
    "resident_bytes": (
        "ranker_worker_resident_bytes",
        "Memory of a worker that is in RAM; pages that workers share count in each.",
    ),
    "started_s": ("ranker_worker_start_time_seconds", "When a worker started, in seconds since 1970."),
}


def outcome_of(status: int, degraded: bool = False) -> str:
    """The outcome label of an answered request, from its HTTP status."""
    if status in _OUTCOME_OF:
        return _OUTCOME_OF[status]
    if status >= 500:
        return "failed"
    if status >= 400:
        return "refused"
    return "degraded" if degraded else "ok"
