"""Which variant a user gets: by hash alone, so on every worker and instance, and after every restart, the same.

Weighted rendezvous hashing (Thaler, Ravishankar 1998; weights: Schindelhauer, Schomaker 2005): of each variant the user
draws -ln(u) / share, and the smallest wins, with the chance that its share says. Where shares change, users move to
those that grew in proportion to the others alone: no more than must, where one variant grows or shrinks and the others
keep their proportions, as two always do; else at most twice as many.
"""

import math
from collections.abc import Sequence

import xxhash

_WHOLE = 2.0**64


def uniform(salt: str, what: str, user_id: str) -> float:
    """In (0, 1]: the same for the same three, and independent of it for others."""
    named = f"{salt}\n{what}\n{user_id}".encode(errors="surrogatepass")
    return (xxhash.xxh3_64_intdigest(named) + 1) / _WHOLE


def drawn(salt: str, shares: Sequence[tuple[str, float]], user_id: str) -> str:
    """The name of one of the `shares`, of which at least one is above 0."""
    return min((-math.log(uniform(salt, name, user_id)) / share, name) for name, share in shares if share > 0)[1]
