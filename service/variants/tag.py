"""Request ids that carry the variant, so that a click tells for which it counts and nothing need be written to rank.

    <the request's id>:<variant>:<when, ms, in base 36>:<a hash of all that, the experiment and the user>

The hash keeps out ids of other experiments and users, and what somebody made up by mistake. Its key follows from
RANKER_JOURNAL_SALT: the journal has these ids, and without a key they would tell who guesses a user that it was they.
"""

import hashlib
import re
from typing import NamedTuple

from service.variants.plan import NAME

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
HASH = 8  # hex digits


class Tagged(NamedTuple):
    """What an id says: the impression was shown by `variant`, at `now` (ms)."""

    variant: str
    now: int


def key_of(salt: str | None) -> bytes:
    return b"" if salt is None else hashlib.sha256(salt.encode()).digest()


def tagged(request_id: str, variant: str, now: int, user_id: str, experiment: str, key: bytes = b"") -> str:
    told = f"{request_id}:{variant}:{_written(now)}"
    return f"{told}:{_hash(told, user_id, experiment, key)}"


def read(request_id: str, user_id: str, experiment: str, key: bytes = b"") -> Tagged | None:
    """None: it is not one that this experiment gave this user."""
    told, _, hashed = request_id.rpartition(":")
    parts = told.rsplit(":", 2)
    if len(parts) < 3 or len(hashed) != HASH or _hash(told, user_id, experiment, key) != hashed:
        return None
    if not re.fullmatch(NAME, parts[1]):  # somebody computed the hash of something else
        return None
    try:
        return Tagged(parts[1], int(parts[2], 36))
    except ValueError:
        return None


def _hash(told: str, user_id: str, experiment: str, key: bytes) -> str:
    named = f"{experiment}\n{user_id}\n{told}".encode(errors="surrogatepass")
    return hashlib.blake2b(named, digest_size=HASH // 2, key=key, person=b"request").hexdigest()


def _written(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return digits or "0"
