"""What the service itself tells of an experiment that runs: the answer of GET /experiments, kept in a file."""

import json
from pathlib import Path
from typing import NamedTuple

from model.servicelog.reading import LogError


class Live(NamedTuple):
    """Of the experiment: what the log does not hold."""

    control: str
    shares: dict[str, float]
    shares_changed: str | None


def read(path: Path) -> Live:
    """Raises LogError."""
    try:
        told = json.loads(path.read_text())["experiment"]
        shares = {one["name"]: float(one["share"]) for one in told["variants"] if one["share"]}
        return Live(told["control"], shares, told["sample_ratio"]["shares_changed"])
    except OSError as error:
        raise LogError(f"--live {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise LogError(f"--live {path}: the answer of GET /experiments, while an experiment runs, is needed") from None
