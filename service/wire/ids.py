"""Lengths of ids: an empty one is a caller's mistake, and a very long one is no id."""

from collections.abc import Sequence
from typing import Any

from model.features.ids import shown

LONGEST_ID = 256  # characters


def checked(candidates: Sequence[Any]) -> None:
    """Raises ValueError at the first item id of a wrong length. What else is wrong with one is the encoder's to say."""
    if _fit(candidates):
        return
    for at, candidate in enumerate(candidates):
        item = candidate.get("item_id", 0) if isinstance(candidate, dict) else candidate
        if isinstance(item, str) and not 1 <= len(item) <= LONGEST_ID:
            told = f"candidates[{at}]: an item id of {len(item)} characters ({shown(item)})"
            raise ValueError(f"{told}; 1 to {LONGEST_ID} are allowed")


def _fit(candidates: Sequence[Any]) -> bool:
    """Whether all are of a right length; False also where each must be looked at, which takes longer."""
    try:
        "".join(candidates)  # whether all are bare texts: a quarter of what their types take
    except TypeError:
        types = set(map(type, candidates))
        return types == {int} or (types == {dict} and _fit([one.get("item_id", 0) for one in candidates]))
    lengths = set(map(len, candidates))
    return 1 <= min(lengths) and max(lengths) <= LONGEST_ID
