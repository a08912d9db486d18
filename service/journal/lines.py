"""Records as JSON lines and back. An impression's items lie in columns: they take half the time and room so."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import orjson

from model.features.behaviour import Behaviour
from model.servicelog.records import Event, Forgotten, Impression, Profile, Record, Shadowed, Shown
from service.journal.items import Items

KIND = "kind"
KINDS = {
    "impression": Impression,
    "event": Event,
    "profile": Profile,
    "forgotten": Forgotten,
    "shadowed": Shadowed,
}
_NAME_OF = {of: name for name, of in KINDS.items()}
_COLUMNS = {"items", "behaviours"}  # of an impression
_FIELDS = {
    of: tuple(one.name for one in fields(of) if of is not Impression or one.name not in _COLUMNS) for of in _NAME_OF
}


def kind_of(record: Record) -> str:
    return _NAME_OF[type(record)]


def line(record: Record, user_id: str) -> bytes:
    """One record, of a user who is called so in the journal."""
    told: dict[str, Any] = {name: getattr(record, name) for name in _FIELDS[type(record)]}  # asdict takes tenfold
    if isinstance(record, Impression):
        told["items"] = _columns(record)
        told["behaviours"] = [*map(tuple, record.behaviours)]
    told |= {KIND: kind_of(record), "user_id": user_id}
    try:
        return orjson.dumps(told)
    except TypeError:
        return orjson.dumps(_writable(told))


def _writable(value: Any) -> Any:
    """Without what orjson neither writes nor reads: half a character is a `?`, an integer of over 64 bits its text."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_writable(name): _writable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(one) for one in value]
    return str(value) if isinstance(value, int) and value.bit_length() > 63 else value


def _columns(record: Impression) -> dict[str, Any]:
    if isinstance(record.items, Items):
        items = record.items
        ids, scores, propensities, features = items.ids(), items.scores, items.propensities, items.features
    else:
        ids, scores = [item.item_id for item in record.items], [item.score for item in record.items]
        propensities = [item.propensity for item in record.items]
        features = {at: item.features for at, item in enumerate(record.items) if item.features is not None}
    columns: dict[str, Any] = {"ids": ids, "scores": scores}
    if propensities is not None and any(one is not None for one in propensities):
        columns["propensities"] = propensities
    if features:
        columns["features"] = {str(at): of for at, of in features.items()}
    return columns


def record(told: dict[str, Any]) -> Record:
    """The record of one line. Raises KeyError or TypeError where it is none."""
    own = {name: value for name, value in told.items() if name != KIND}
    make: Callable[..., Record] = KINDS[told[KIND]]
    if make is Impression:
        columns = own["items"]
        features = columns.get("features", {})
        propensities = columns.get("propensities") or [None] * len(columns["ids"])
        rows = zip(columns["ids"], columns["scores"], propensities, strict=True)
        own["items"] = [
            Shown(item, float("nan") if score is None else score, at + 1, propensity, features.get(str(at)))
            for at, (item, score, propensity) in enumerate(rows)
        ]
        own["behaviours"] = [Behaviour(*one) for one in own["behaviours"]]
    elif make is Shadowed:
        own["items"] = [(item, float("nan") if score is None else score) for item, score in own["items"]]
    return make(**own)
