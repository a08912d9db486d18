"""Gauges of how the model did in the last hours, as the drain wrote them beside the journal (drained/lately.py).

The folder of the counts has a link to that file, so that whoever scrapes finds it.
"""

import json
import math
from pathlib import Path
from typing import Any

from service.telemetry.exposition import Text

LINK, FILE = "lately", "lately.json"
UNTIL = "ranker_live_until_timestamp_seconds"
FAMILIES = {
    "ranker_live_impressions": ("Items shown in the last hours, by the place where they stood.", "impressions"),
    "ranker_live_clicks": ("Of these, how many were clicked.", "clicks"),
    "ranker_live_predicted_clicks": ("Of these, how many clicks their scores predicted: their sum.", "predicted"),
}


def link(folder: Path, journal: Path) -> None:
    """Lets scrapes of the counts in `folder` find what the drain of `journal` tells."""
    (folder / LINK).symlink_to(journal.resolve() / FILE)


def write(text: Text, folder: Path) -> None:
    """The families; without samples where no drain has told anything, or what it told cannot be read."""
    try:
        told: dict[str, Any] = json.loads((folder / LINK).read_bytes())
        rows = [(row, _labels(row)) for row in told["rows"]]
        until_s = float(told["until_s"])
    except (OSError, ValueError, KeyError, TypeError):
        rows, until_s = [], math.nan
    for name, (about, field) in FAMILIES.items():
        text.family(name, "gauge", about)
        for row, labels in rows:
            text.sample(name, labels, float(row[field]))
    about = "Until when the drain has told of impressions and their clicks, in seconds since 1970. NaN: it has not."
    text.single(UNTIL, "gauge", about, until_s)


def _labels(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    named = tuple((name, str(row[name])) for name in ("model", "version", "variant"))
    for field in ("impressions", "clicks", "predicted"):
        float(row[field])
    return (*named, ("position", str(int(row["position"]))))
