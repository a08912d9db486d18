"""What a user did: the one form in which a behaviour travels through store, logs and encoder.

ATRank (Zhou et al., AAAI 2018) writes a behaviour as the tuple {a, o, t}: action, object, time. The object's type
names its group (item, coupon, keyword, ...).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.features.ids import BadValue, IdType, Keys, canonical, keys

# What a time in milliseconds can be: 1973 to 5138. Seconds lie below for the next 3,000 years, microseconds above.
EARLIEST_MS, LATEST_MS = 10**11, 10**14 - 1


class Behaviour(NamedTuple):
    """One behaviour; `timestamp` is when it happened, in milliseconds since 1970-01-01 UTC."""

    action: str
    object_type: str
    object_id: str
    timestamp: int


class BehaviourGroup:
    """One behaviour group: which behaviours belong to it, and what their objects' ids and actions are."""

    def __init__(self, object_type: str, actions: Sequence[str], id_type: IdType):
        self.object_type, self.id_type = object_type, id_type
        self.action = {name: number for number, name in enumerate(actions, 1)}  # 0 is PAD

    def newest(
        self, behaviours: Sequence[Behaviour], length: int
    ) -> tuple[Keys, npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
        """Keys, times and actions of the newest `length` of the group, oldest first; and how many had a wrong id.

        Those of one millisecond stand in the order of their keys, then actions, as in the prepared training form.
        """
        seen, wrong = [b for b in behaviours if b.action in self.action and b.object_type == self.object_type], 0
        try:
            ids = keys([b.object_id for b in seen], self.id_type)
        except BadValue:
            right = [b for b in seen if _is_id(b.object_id, self.id_type)]
            seen, wrong = right, len(seen) - len(right)
            ids = keys([b.object_id for b in seen], self.id_type)
        times = np.fromiter((b.timestamp for b in seen), np.int64, len(seen))
        actions = np.fromiter((self.action[b.action] for b in seen), np.int64, len(seen))
        chosen = np.lexsort((actions, ids, times))[-length:]
        return ids[chosen], times[chosen], actions[chosen], wrong


def _is_id(value: Any, kind: IdType) -> bool:
    try:
        canonical(value, kind)
    except BadValue:
        return False
    return True
