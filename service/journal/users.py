"""Which users the journal keeps, and what they are called in it: the same on every worker and instance, at any time."""

import hashlib


class Users:
    """A share of the users, each with all that is theirs or nothing; under a keyed hash where there is a salt."""

    def __init__(self, share: float = 1.0, salt: str | None = None):
        self._below = int(share * 2**64)
        self._key = None if salt is None else hashlib.sha256(salt.encode()).digest()

    def keeps(self, user_id: str) -> bool:
        if self._below >= 2**64:
            return True
        drawn = hashlib.blake2b(user_id.encode(errors="surrogatepass"), digest_size=8, person=b"sample").digest()
        return int.from_bytes(drawn, "big") < self._below

    def name(self, user_id: str) -> str:
        """What stands in the journal: the id, or 32 hexadecimal digits that tell it to nobody without the salt."""
        if self._key is None:
            return user_id
        return hashlib.blake2b(user_id.encode(errors="surrogatepass"), digest_size=16, key=self._key).hexdigest()
