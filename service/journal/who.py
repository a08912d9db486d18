"""Whose records are kept, and by which name."""

import hashlib

import xxhash

_WHOLE = float(1 << 64)


class Who:
    """A sample of users, the same on every worker and instance, so that a user's sequence stays whole.

    `salt`: ids become keyed hashes, of which nobody finds the id without it; None: they stay.
    """

    def __init__(self, share: float, salt: str | None):
        self._share, self._salt = share, salt.encode() if salt else None

    def keeps(self, user_id: str) -> bool:
        return self._share >= 1 or xxhash.xxh3_64_intdigest(f"journal {user_id}".encode()) / _WHOLE < self._share

    def named(self, user_id: str) -> str:
        if self._salt is None:
            return user_id
        return hashlib.blake2b(user_id.encode(), digest_size=16, key=hashlib.sha256(self._salt).digest()).hexdigest()
