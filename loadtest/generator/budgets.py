"""Budgets: what load a scenario sends, and what the service may take for it. TOML, a table per scenario:

    [steady]
    rate = 50         # requests per second, on average
    duration_s = 20   # measured seconds
    candidates = 100  # items per request, or a mix: { 100 = 8, 500 = 2 }; requests from a file bring their own
    p50_ms = 10       # at most, from the moment a request was due until its answer is whole
    p99_ms = 20
    errors = 0        # share of the requests that may get no right answer, 0 to 1: refused and late ones count too

These six are required: a budget that falls back on a default would be nobody's decision. (Of a replayed log the rate
may be left out: then it is the log's own.) What else may be set, see Budget.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from loadtest.errors import NoRun
from loadtest.generator.replay import pace, read_times

MOST_REQUESTS = 1_000_000  # in one scenario: bounds its memory and its time
MOST_SECONDS = 86_400
MOST_CANDIDATES = 100_000
MOST_PROCESSES = 64
ARRIVALS = ("poisson", "constant", "step", "burst", "replay")

Mix = tuple[tuple[int, float], ...]  # (what, weight), ascending


@dataclass(frozen=True)
class Budget:
    scenario: str
    rate: float
    duration_s: float
    candidates: int | Mix
    p50_ms: float
    p99_ms: float
    errors: float
    warmup_s: float = 2  # sent first, at the same rate, and left out of all figures
    wait_s: float = 5  # after the last send; what is unanswered then is an error
    arrivals: str = "poisson"  # the shape, see arrivals.py
    peak: float = 4  # step, burst: how many times the quiet rate
    burst_s: float = 1  # burst: how long one lasts
    period_s: float = 10  # burst: from the start of one to the next
    replay: str | None = None  # replay: the file of times, beside the budgets file unless absolute; see replay.py
    zipf: float = 0  # users: the k-th comes with weight k^-zipf; 0 is all alike, 1 is usual of web traffic
    cold: float = 0  # share of requests whose user nobody knows, each a new one
    history: Mix | None = None  # users by history length: { 0 = 1, 10 = 3 } is one in 0 to 9, three in 10 and more
    refused: float | None = None  # share that may be refused (429); without it, refused ones count towards `errors`
    smoke: bool = False  # a test too short to carry its quantiles is meant so: they judge nothing, the rest decides
    processes: int = 0  # that generate; 0: one for each 1000 requests/s, on at most half of the cores


_KEYS = [field for field in fields(Budget) if field.name != "scenario"]
ALLOWED = tuple(key.name for key in _KEYS)
REQUIRED = tuple(key.name for key in _KEYS if key.default is MISSING)


def load(path: Path, names: Sequence[str] = ()) -> list[Budget]:
    """The scenarios of a file in its order, or only those `names`. Raises NoRun."""
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise NoRun(f"budgets {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise NoRun(f"budgets {path}: not TOML: {' '.join(str(error).split())}") from None
    if not tables:
        raise NoRun(f"budgets {path}: empty; a table per scenario is needed, with {', '.join(REQUIRED)}")
    budgets = [_budget(path, name, table) for name, table in tables.items()]
    for name in names:
        if name not in tables:
            raise NoRun(f"budgets {path}: no scenario {name!r}, only {', '.join(tables)}")
    return [budget for budget in budgets if not names or budget.scenario in names]


def _budget(path: Path, name: str, table: Any) -> Budget:
    where = f"budgets {path}"
    if not isinstance(table, Mapping):
        raise NoRun(f"{where}: {name} stands outside a table; allowed are tables, one per scenario: [steady]")
    where = f"{where}: [{name}]"
    for key in table:
        if key not in ALLOWED:
            raise NoRun(f"{where}: unknown key {key!r}, allowed are {', '.join(ALLOWED)}")
    replayed = table.get("arrivals") == "replay"
    missing = [key for key in REQUIRED if key not in table and not (key == "rate" and replayed)]
    if missing:
        raise NoRun(f"{where}: {', '.join(missing)} missing; required are {', '.join(REQUIRED)}")
    for key, value in table.items():
        _check(where, key, value)
    if replayed != ("replay" in table):
        raise NoRun(f'{where}: arrivals = "replay" and replay = "FILE" go together')
    values: dict[str, Any] = {key: _mix(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    if replayed:
        values["replay"] = str(path.parent / table["replay"])
        times = read_times(Path(values["replay"]))
        values.setdefault("rate", pace(times))
    budget = Budget(name, **values)
    if budget.burst_s > budget.period_s:
        raise NoRun(f"{where}: burst_s = {budget.burst_s:g}; at most period_s = {budget.period_s:g}")
    requests = budget.rate * (budget.duration_s + budget.warmup_s)
    if requests > MOST_REQUESTS:
        raise NoRun(f"{where}: rate x (duration_s + warmup_s) is {requests:.0f} requests, at most {MOST_REQUESTS}")
    return budget


def _check(where: str, key: str, value: Any) -> None:
    """Raises NoRun for a value outside what its key allows."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    match key:
        case "candidates":
            fits = _is_mix(value, 1) if isinstance(value, Mapping) else type(value) is int
            fits = fits and all(1 <= int(size) <= MOST_CANDIDATES for size in _sizes(value))
            allowed = f"integers 1 to {MOST_CANDIDATES}, or a mix of them with weights: {{ 100 = 8, 500 = 2 }}"
        case "history":
            fits = isinstance(value, Mapping) and _is_mix(value, 0)
            allowed = "a mix, least lengths with weights: { 0 = 1, 10 = 3 }"
        case "errors" | "cold" | "refused":
            fits, allowed = number and 0 <= value <= 1, "a share, 0 to 1"
        case "warmup_s":
            fits, allowed = number and 0 <= value <= MOST_SECONDS, f"seconds, 0 to {MOST_SECONDS}"
        case "duration_s" | "wait_s":
            fits, allowed = number and 0 < value <= MOST_SECONDS, f"seconds above 0, at most {MOST_SECONDS}"
        case "burst_s" | "period_s":  # shorter ones are no bursts, and would be very many
            fits, allowed = number and 0.1 <= value <= MOST_SECONDS, f"seconds, 0.1 to {MOST_SECONDS}"
        case "peak":
            fits, allowed = number and value >= 1, "numbers of at least 1"
        case "zipf":
            fits, allowed = number and 0 <= value <= 10, "numbers 0 to 10"
        case "arrivals":
            fits, allowed = value in ARRIVALS, ", ".join(ARRIVALS)
        case "replay":
            fits, allowed = isinstance(value, str) and value != "", "the path of a file of times"
        case "smoke":
            fits, allowed = isinstance(value, bool), "true or false"
        case "processes":
            fits, allowed = type(value) is int and 0 <= value <= MOST_PROCESSES, f"integers 0 to {MOST_PROCESSES}"
        case _:
            fits, allowed = number and value > 0, "numbers above 0"
    if not fits:
        raise NoRun(f"{where}: {key} = {value!r}; allowed: {allowed}")


def _is_mix(value: Mapping[str, Any], least: int) -> bool:
    weights = [w for w in value.values() if isinstance(w, int | float) and not isinstance(w, bool)]
    good = [w for w in weights if math.isfinite(w) and w > 0]
    return 0 < len(good) == len(value) and all(what.isdecimal() and int(what) >= least for what in value)


def _sizes(value: Any) -> Sequence[Any]:
    return list(value) if isinstance(value, Mapping) else [value]


def _mix(value: Mapping[str, float]) -> Mix:
    return tuple(sorted((int(what), float(weight)) for what, weight in value.items()))
