"""What a user did: the form in which a behaviour travels through store, logs and encoder, and a group's newest ones.

ATRank (Zhou et al., AAAI 2018) writes a behaviour as the tuple {a, o, t}: action, object, time. The object's type
names its group (item, coupon, keyword, ...).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from model.features.ids import BadValue, IdType, Keys, canonical, keys

# What a time in milliseconds can be: 1973 to 5138. Seconds lie below for the next 3,000 years, microseconds above.
EARLIEST_MS, LATEST_MS = 10**11, 10**14 - 1
MS_ALLOWED = f"milliseconds since 1970 ({EARLIEST_MS} to {LATEST_MS})"
# Other units, by how much milliseconds differ from them; the ranges of no two overlap.
_UNITS = (
    ("seconds", "multiply by 1000", 1e3),
    ("microseconds", "divide by 1000", 1e-3),
    ("nanoseconds", "divide by 1000000", 1e-6),
)


def looks_like(value: Any) -> str:
    """What is wrong with a time that is not in milliseconds, for a message: what it looks like, what is allowed."""
    shown = str(value)[:60]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return f"{shown!r} is no time; {MS_ALLOWED} are allowed"
    if number < 0:
        return f"{shown} lies before 1970; {MS_ALLOWED} are allowed"
    for unit, remedy, factor in _UNITS:
        if EARLIEST_MS <= number * factor <= LATEST_MS:
            return f"{shown} looks like {unit}, {remedy}; {MS_ALLOWED} are allowed"
    return f"{shown} given, {MS_ALLOWED} are allowed"


class Behaviour(NamedTuple):
    """One behaviour; `timestamp` is when it happened, in milliseconds since 1970-01-01 UTC."""

    action: str
    object_type: str
    object_id: str
    timestamp: int


class Behaviours(Sequence[Behaviour]):
    """Behaviours as four columns, which a store's reply becomes at once; one is an object where it is looked at alone.

    It is equal to a list of the same behaviours.
    """

    __slots__ = ("actions", "object_types", "object_ids", "timestamps")

    def __init__(
        self,
        actions: Sequence[str] = (),
        object_types: Sequence[str] = (),
        object_ids: Sequence[str] = (),
        timestamps: Sequence[int] = (),
    ):
        self.actions, self.object_types, self.object_ids = actions, object_types, object_ids
        self.timestamps = timestamps

    @classmethod
    def of(cls, behaviours: Sequence[Behaviour]) -> "Behaviours":
        return behaviours if isinstance(behaviours, cls) else cls(*zip(*behaviours, strict=True))

    def taken(self, places: Iterable[int]) -> "Behaviours":
        """Those that stand at places, in their order."""
        at = list(places)
        actions, object_types, object_ids = ([column[place] for place in at] for column in self._columns()[:3])
        return Behaviours(actions, object_types, object_ids, [self.timestamps[place] for place in at])

    def __len__(self) -> int:
        return len(self.timestamps)

    def __iter__(self) -> Iterator[Behaviour]:
        return map(Behaviour, *self._columns())

    @overload
    def __getitem__(self, at: int) -> Behaviour: ...
    @overload
    def __getitem__(self, at: slice) -> list[Behaviour]: ...
    def __getitem__(self, at: int | slice) -> Behaviour | list[Behaviour]:
        if isinstance(at, slice):
            return list(self)[at]
        return Behaviour(self.actions[at], self.object_types[at], self.object_ids[at], self.timestamps[at])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | Behaviours) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Behaviours({list(self)})"

    def _columns(self) -> tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[int]]:
        return self.actions, self.object_types, self.object_ids, self.timestamps


class BehaviourGroup:
    """The behaviours that one history of a network holds: the named actions on one type of object, the newest ones."""

    def __init__(self, object_type: str, actions: Sequence[str], id_type: IdType, length: int):
        self.object_type, self.id_type, self.length = object_type, id_type, length
        self.action = {name: number for number, name in enumerate(actions, 1)}  # 0 is PAD

    def newest(self, behaviours: Sequence[Behaviour]) -> tuple[Keys, npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
        """Keys, times (ms) and actions of the newest `length`, (T,) each, oldest first; and how many had a wrong id.

        Behaviours of one millisecond stand in the order of their keys, then actions, as in the prepared training form.
        """
        seen, wrong = self._own(Behaviours.of(behaviours)), 0
        try:
            ids = keys(seen.object_ids, self.id_type)
        except BadValue:
            right = seen.taken(at for at, value in enumerate(seen.object_ids) if _is_id(value, self.id_type))
            return (*self.newest(right)[:3], len(seen) - len(right))
        times = np.array(seen.timestamps, np.int64)
        if len(self.action) == 1:
            actions = np.ones(len(seen), np.int64)
        else:
            actions = np.fromiter(map(self.action.__getitem__, seen.actions), np.int64, len(seen))
        if not np.count_nonzero(times[1:] <= times[:-1]):  # in order, as a store has them
            newest = slice(max(0, len(times) - self.length), len(times))
            return ids[newest], times[newest], actions[newest], wrong
        chosen = np.lexsort((actions, ids, times))[-self.length :]
        return ids[chosen], times[chosen], actions[chosen], wrong

    def _own(self, behaviours: Behaviours) -> Behaviours:
        """Those of its type of object and actions."""
        if {self.object_type}.issuperset(behaviours.object_types) and self.action.keys() >= set(behaviours.actions):
            return behaviours
        both = enumerate(zip(behaviours.actions, behaviours.object_types, strict=True))
        return behaviours.taken(at for at, (action, type) in both if type == self.object_type and action in self.action)

    def slots(self, behaviours: Sequence[Behaviour]) -> list[Behaviour]:
        """The behaviours that `newest` gives, in its order: what stands in each slot of the network's input."""
        own = [b for b in behaviours if b.action in self.action and b.object_type == self.object_type]
        seen = [b for b in own if _is_id(b.object_id, self.id_type)]
        ids = keys([b.object_id for b in seen], self.id_type)
        order = sorted(range(len(seen)), key=lambda at: (seen[at].timestamp, ids[at], self.action[seen[at].action]))
        return [seen[at] for at in order[-self.length :]]


def _is_id(value: Any, id_type: IdType) -> bool:
    try:
        canonical(value, id_type)
    except BadValue:
        return False
    return True
