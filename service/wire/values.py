"""Values of features and ids as JSON schemas: what a request may say, for the documentation.

The encoder checks them (`model.features.kinds`); a test sends what these schemas allow.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from model.features.ids import INT_MAX, INT_MIN, IdType
from model.features.kinds import ITEM_ID, USER_ID, Feature, Side
from model.features.schema import Schema

JsonSchema = dict[str, Any]
INTEGER: JsonSchema = {"type": "integer", "minimum": INT_MIN, "maximum": INT_MAX}
TEXT: JsonSchema = {"type": "string"}
DIGITS: JsonSchema = {"type": "string", "pattern": "^-?[0-9]{1,18}$"}  # text of an integer; a longer one may not fit
_LARGEST = float(np.finfo(np.float32).max)
NUMBER: JsonSchema = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
NOTHING: JsonSchema = {"type": "null"}


def ids(id_type: IdType) -> list[JsonSchema]:
    """How an id or a category's value may be written."""
    return [TEXT, INTEGER] if id_type == "str" else [INTEGER, DIGITS]


def value(feature: Feature) -> JsonSchema:
    """A value of a feature, as a request may give it; null is missing."""
    one = ids(feature.type) if feature.typed else [NUMBER]
    if feature.listed:
        one = [{"type": "array", "items": {"anyOf": [*one, NOTHING]}}]
    return {"description": _told(feature), "anyOf": [*one, NOTHING]}


def features(schema: Schema, *sides: Side) -> JsonSchema:
    """The features of some sides, each with what it takes. Left open: another bundle has others."""
    named = [feature for side in sides for feature in schema.side(side) if feature.name not in (ITEM_ID, USER_ID)]
    return {
        "type": "object",
        "properties": {feature.name: value(feature) for feature in named},
        "additionalProperties": True,
    }


def names(schema: Schema, *sides: Side) -> str:
    """Names of features, for a sentence."""
    return _listed(feature.name for side in sides for feature in schema.side(side) if feature.name != USER_ID)


def _told(feature: Feature) -> str:
    told = f"A {feature.kind} of side {feature.side}"
    if feature.default is not None:
        told += f"; {feature.default!r} where neither request nor candidate names it"
    return f"{told}."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
