"""Recorded requests with their scores: a bundle that answers otherwise is refused.

They are real impressions of test (or of the last split that has any), with some strangers: another user, an item that
nobody knows, no history at all.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from model.features.kinds import USER_ID
from model.prepared.loader import Prepared
from model.prepared.order import in_order
from model.prepared.splits import SPLITS

REQUESTS, CANDIDATES = 24, 40


def record(bundle: Bundle, data: Prepared, seed: int = 0) -> dict[str, Any]:
    """The content of golden.json: `requests`, each with its `scores` by `bundle`'s graph."""
    newest = next(rows for split in reversed(SPLITS) if len(rows := data.of_split(split)))
    recorded = requests(data, newest, REQUESTS, CANDIDATES, np.random.default_rng(seed))
    stranger = _unknown(bundle.schema.user_id), _unknown(bundle.schema.item_id.type)
    recorded.append(recorded[0] | {"user_id": stranger[0], "profile": {}, "behaviours": []})
    recorded.append(recorded[0] | {"candidates": [stranger[1], *recorded[0]["candidates"]]})
    return scored(bundle, recorded)


def scored(bundle: Bundle, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of golden.json, of these requests."""
    session = bundle.session()
    for request in requests:
        scores = bundle.score(session, bundle.encode_golden(request))[0]
        request["scores"] = [float(score) for score in scores]
    return {"requests": requests}


def requests(
    data: Prepared, rows: npt.NDArray[np.int64], count: int, candidates: int, draw: np.random.Generator
) -> list[dict[str, Any]]:
    """Requests of `count` of the impressions `rows`, as they stood then: the item shown, and others drawn at random.

    Histories hold what was known then: of data that were prepared with a delay, nothing newer.
    """
    users = pl.read_parquet(data.folder / "encoded" / "users.parquet")["user_id"]
    items = pl.read_parquet(data.folder / "encoded" / "items.parquet")["item_id"]
    chosen = np.sort(draw.choice(rows, min(count, len(rows)), replace=False))
    user_ids = users.gather(data.user[chosen])
    profiles = _profiles(data, user_ids)
    behaviours = _behaviours(data, user_ids)
    asked_in = contexts(data, chosen)
    counted = bool(data.schema.impressions_counted)
    of_today = data.today.impressions(chosen).tolist() if counted else [-1] * len(chosen)
    recorded = []
    for user_id, row, context, today in zip(user_ids.to_list(), chosen.tolist(), asked_in, of_today, strict=True):
        shown = [int(data.item[row]), *draw.integers(0, len(items), candidates - 1).tolist()]
        now = int(data.time[row])
        known = now - round(data.delay_s * 1000)
        recorded.append(
            {
                "user_id": user_id,
                "profile": profiles.get(user_id, {}),
                "behaviours": [list(b) for b in behaviours.get(user_id, []) if b.timestamp < known],
                "candidates": [items[at] for at in shown],
                "context": context,
                "now": now,
                **({"shown_today": today} if counted else {}),
            }
        )
    return recorded


def _unknown(kind: str) -> int | str:
    return 2**62 if kind == "int" else "nobody-knows-this-id"


def _profiles(data: Prepared, user_ids: pl.Series) -> dict[Any, dict[str, str]]:
    """Profiles as the store keeps them: text, without what is missing."""
    features = [f for f in data.schema.side("user") if f.name != USER_ID]
    frame = pl.read_parquet(data.folder / "tables" / "users.parquet").filter(
        pl.col("user_id").is_in(user_ids.implode())
    )
    return {
        row["user_id"]: {f.name: text for f in features if (text := f.stored(row[f.name])) is not None}
        for row in frame.iter_rows(named=True)
    }


def _behaviours(data: Prepared, user_ids: pl.Series) -> dict[Any, list[Behaviour]]:
    frame = (
        pl.scan_parquet(data.folder / "tables" / "behaviours.parquet")
        .filter(pl.col("user_id").is_in(user_ids.implode()))
        .sort("user_id", "timestamp", maintain_order=True)
        .collect()
    )
    of_user: dict[Any, list[Behaviour]] = {}
    for user_id, action, object_type, object_id, timestamp in frame.select(
        "user_id", "action", "object_type", pl.col("object_id").cast(pl.String), "timestamp"
    ).iter_rows():
        of_user.setdefault(user_id, []).append(Behaviour(action, object_type, object_id, timestamp))
    return of_user


def contexts(data: Prepared, chosen: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """The context of each of the impressions `chosen`, as a request names it: without what is missing."""
    features = {f.name: f for f in data.schema.side("context")}
    if not features:
        return [{} for _ in chosen]
    time = data.time[chosen]
    at_once = pl.scan_parquet(data.folder / "tables" / "impressions.parquet").filter(
        pl.col("timestamp").is_in(np.unique(time).tolist())
    )
    frame = in_order(at_once.collect(), data.schema)
    first = np.searchsorted(data.time, time)  # of the impressions at the same time
    places = np.searchsorted(frame["timestamp"].to_numpy(), time) + chosen - first
    rows = frame[places.tolist()].select(*features).to_dicts()
    requests = [{name: features[name].from_table(value) for name, value in row.items()} for row in rows]
    return [{name: value for name, value in row.items() if value is not None} for row in requests]
