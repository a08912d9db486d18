"""Match and statistic features beside those of worlds.py, in a log whose days are not those of UTC."""

from pathlib import Path
from typing import Any

from model.graph.publish import publish
from model.prepared.loader import Prepared
from model.training.run import Run
from tests.worlds import HOUR, SMALL

DAY = 24 * HOUR
ZONE, OFFSET_MS = "Asia/Shanghai", 8 * HOUR


def match(name: str, of: str, what: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "side": "cross", "kind": "match", "of": [of], "what": what, "width": 4} | options


def statistic(name: str, of: list[str], what: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "side": "cross", "kind": "statistic", "of": of, "what": what} | options


def published(data: Prepared, folder: Path) -> Path:
    """A bundle of a small WDL that was trained on it."""
    run = Run(data, "wdl", SMALL, 1, folder / "checkpoint.pt")
    run.fit()
    return publish(run, folder / "bundles", boosting=False, explain=False).bundle


DERIVED = [
    match("item_count", "item_id", "count", length=50),
    statistic("item_rate", ["item_id"], "rate"),
    match("item_age", "item_id", "age", length=50),
    match("category_count", "category_id", "count", length=3),
    match("category_age", "category_id", "age", length=5, actions=["like"]),
    match("category_last", "category_id", "last", length=7),
    match("category_share", "category_id", "share", length=7),
    match("category_goes_with", "category_id", "cooccurrence", length=4),
    match("category_goes_with_newest", "category_id", "cooccurrence", length=1),
    match("category_goes_with_liked", "category_id", "cooccurrence", length=2, actions=["like"]),
    statistic("age_position_rate", ["age", "position"], "rate", days=2, smoothing=3.0),
    statistic("category_count_ever", ["category_id"], "count"),
    statistic("category_clicks", ["category_id"], "clicks", half_life_days=1),
]
