"""The items of an impression without an object for each: those of a request are written, and seldom read."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

from model.features.ids import IdType, canonical
from model.servicelog.records import Shown


class Items(Sequence[Shown]):
    """Returned items in order; `answered` is what the answer shows, `features` what was named, by place from 0."""

    __slots__ = ("_answered", "_type", "features", "propensities")

    def __init__(
        self,
        answered: Sequence[Mapping[str, Any]],
        id_type: IdType,
        propensities: Sequence[float | None] | None = None,
        features: Mapping[int, Mapping[str, Any]] | None = None,
    ):
        self._answered, self._type = answered, id_type
        self.propensities, self.features = propensities, features or {}

    def ids(self) -> list[str]:
        """As the store has them: an integer in decimal."""
        ids = [item["item_id"] for item in self._answered]
        if self._type == "str" and set(map(type, ids)) <= {str}:
            return ids
        return [str(canonical(one, self._type)) for one in ids]

    @property
    def scores(self) -> list[float]:
        return [item["score"] for item in self._answered]

    def __len__(self) -> int:
        return len(self._answered)

    @overload
    def __getitem__(self, at: int) -> Shown: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Shown]: ...
    def __getitem__(self, at: int | slice) -> Shown | Sequence[Shown]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        place = range(len(self))[at]
        item = self._answered[place]
        propensity = None if self.propensities is None else self.propensities[place]
        item_id = str(canonical(item["item_id"], self._type))
        return Shown(item_id, item["score"], place + 1, propensity, self.features.get(place))
