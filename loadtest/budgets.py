"""Budgets: what load a scenario sends, and what the service may take for it. TOML, a table a scenario:

    [steady]
    rate = 50         # requests a second, on average; they arrive as a Poisson process
    duration_s = 20   # measured seconds
    candidates = 100  # items a request; requests from a file bring their own
    p50_ms = 10       # at most, from the moment a request was due until its answer is whole
    p99_ms = 20
    errors = 0        # share of the requests that may go wrong, 0 to 1

These six are required: a budget that falls back on a default would be nobody's decision. Optional are `warmup_s` and
`wait_s`, see Budget.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from loadtest.errors import NoRun

MOST_REQUESTS = 1_000_000  # in one scenario: bounds its memory and its time
MOST_SECONDS = 86_400
MOST_CANDIDATES = 100_000


@dataclass(frozen=True)
class Budget:
    scenario: str
    rate: float
    duration_s: float
    candidates: int
    p50_ms: float
    p99_ms: float
    errors: float
    warmup_s: float = 2  # sent first, at the same rate, and left out of all figures
    wait_s: float = 5  # after the last send; what is unanswered then is an error


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
    budgets = [_budget(f"budgets {path}", name, table) for name, table in tables.items()]
    for name in names:
        if name not in tables:
            raise NoRun(f"budgets {path}: no scenario {name!r}, only {', '.join(tables)}")
    return [budget for budget in budgets if not names or budget.scenario in names]


def _budget(where: str, name: str, table: Any) -> Budget:
    if not isinstance(table, Mapping):
        raise NoRun(f"{where}: {name} stands outside a table; allowed are tables, one per scenario: [steady]")
    where = f"{where}: [{name}]"
    for key in table:
        if key not in ALLOWED:
            raise NoRun(f"{where}: unknown key {key!r}, allowed are {', '.join(ALLOWED)}")
    missing = [key for key in REQUIRED if key not in table]
    if missing:
        raise NoRun(f"{where}: {', '.join(missing)} missing; required are {', '.join(REQUIRED)}")
    for key, value in table.items():
        _check(where, key, value)
    requests = table["rate"] * (table["duration_s"] + table.get("warmup_s", Budget.warmup_s))
    if requests > MOST_REQUESTS:
        raise NoRun(f"{where}: rate x (duration_s + warmup_s) is {requests:.0f} requests, at most {MOST_REQUESTS}")
    return Budget(name, **table)


def _check(where: str, key: str, value: Any) -> None:
    """Raises NoRun for a value outside what its key allows."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    match key:
        case "candidates":
            fits, allowed = type(value) is int and 1 <= value <= MOST_CANDIDATES, f"integers 1 to {MOST_CANDIDATES}"
        case "errors":
            fits, allowed = number and 0 <= value <= 1, "a share, 0 to 1"
        case "warmup_s":
            fits, allowed = number and 0 <= value <= MOST_SECONDS, f"seconds, 0 to {MOST_SECONDS}"
        case "duration_s" | "wait_s":
            fits, allowed = number and 0 < value <= MOST_SECONDS, f"seconds above 0, at most {MOST_SECONDS}"
        case _:
            fits, allowed = number and value > 0, "numbers above 0"
    if not fits:
        raise NoRun(f"{where}: {key} = {value!r}; allowed: {allowed}")
