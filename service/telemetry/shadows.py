"""What the shadows' process tells whoever scrapes: a file in the folder of the counts."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.telemetry.exposition import Text

FILE = "shadows.json"
FAMILIES = {
    "ranker_shadow_requests_total": ("counter", "Requests that a shadow scored after they were answered.", "requests"),
    "ranker_shadow_passed_over_total": (
        "counter",
        "Requests of a shadow's share that it did not score: it came too late to them, or could not read them.",
        "passed_over",
    ),
    "ranker_shadow_rank_correlation": (
        "gauge",
        "Spearman's correlation of a shadow's scores and those that decided, a request's items; mean of the last 1000.",
        "rank_correlation",
    ),
    "ranker_shadow_score_shift": (
        "gauge",
        "Mean of a shadow's scores less that of those that decided, on the same items; mean of the last 1000 requests.",
        "score_shift",
    ),
}


def write_file(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Written beside and renamed: a scrape sees all of it."""
    partial = folder / f"{FILE}.{os.getpid()}"
    partial.write_text(json.dumps(list(rows)))
    partial.replace(folder / FILE)


def write(text: Text, folder: Path) -> None:
    """The families; without samples where no shadow runs."""
    try:
        rows: list[dict[str, Any]] = json.loads((folder / FILE).read_bytes())
        named = [(row, tuple((name, str(row[name])) for name in ("shadow", "model", "version"))) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        named = []
    for name, (kind, about, field) in FAMILIES.items():
        text.family(name, kind, about)
        for row, labels in named:
            value = row.get(field)
            text.sample(name, labels, math.nan if value is None else float(value))
