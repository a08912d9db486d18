"""What a user did: the one form in which a behaviour travels through store, logs and encoder.

ATRank (Zhou et al., AAAI 2018) writes a behaviour as the tuple {a, o, t}: action, object, time. The object's type
names its group (item, coupon, keyword, ...).
"""

from typing import NamedTuple

# What a time in milliseconds can be: 1973 to 5138. Seconds lie below for the next 3,000 years, microseconds above.
EARLIEST_MS, LATEST_MS = 10**11, 10**14 - 1


class Behaviour(NamedTuple):
    """One behaviour; `timestamp` is when it happened, in milliseconds since 1970-01-01 UTC."""

    action: str
    object_type: str
    object_id: str
    timestamp: int
