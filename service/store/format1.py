"""The format of the store, version 1: read beside version 2 (format.py), and moved into it by the next write.

    {u:<id>}:profile:1   as in version 2
    {u:<id>}:history:1   sorted set, a member a behaviour of any kind: score = time,
                         member = action|object_type|object_id|time, the time a plain decimal integer

The newest behaviours of all kinds together were kept, so what is missing of one kind is not known.
"""

from model.features.behaviour import LATEST_MS, Behaviour

KEPT = 100  # behaviours of a user, by default: with fewer, nothing had been cut


def history_key(user_id: str) -> str:
    return f"{{u:{user_id}}}:history:1"


def unpack(member: bytes) -> Behaviour:
    """The behaviour of a member. Raises ValueError for anything that is none."""
    text = member.decode()
    action, object_type, rest = text.split("|", 2)
    object_id, bar, time = rest.rpartition("|")
    timestamp = int(time)
    if not bar or str(timestamp) != time or not 0 <= timestamp <= LATEST_MS:  # "01" would be a second copy of 1
        raise ValueError(f"{text!r} given, action|object_type|object_id|time is allowed")
    return Behaviour(action, object_type, object_id, timestamp)
