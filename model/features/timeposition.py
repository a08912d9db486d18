"""A behaviour's position is how long before the recommendation it happened.

BST (Chen et al. 2019, §2.1): pos(v_i) = t(v_t) - t(v_i), where t(v_t) is the recommending time and t(v_i) that of the
click. So a position changes with every request and is never stored: logs and stores keep when it happened.
"""

import numpy as np
import numpy.typing as npt

# Seconds: 1, 2, 4, ... about a year. The paper does not print its buckets; doubling ones tell minutes apart after a
# click and months after a season, and 27 rows are learnt from any log.
EDGES_S: tuple[int, ...] = tuple(2**power for power in range(26))


def bucket_count(edges_s: tuple[int, ...]) -> int:
    """Rows of a position table: PAD, then one bucket below, between and above the edges."""
    return 1 + len(edges_s) + 1


def time_positions(
    clicked_at_ms: npt.NDArray[np.int64], now_ms: npt.NDArray[np.int64], edges_s: npt.ArrayLike = EDGES_S
) -> npt.NDArray[np.int64]:
    """Bucket of each gap, 1..bucket_count-1; PAD (0) is never returned. Milliseconds in; shapes (U, T), (U,) -> (U, T).

    A click stamped ahead of `now` (a client's clock) is gap 0, as the target item's own gap is.
    """
    gaps_ms = np.maximum(now_ms[:, None] - clicked_at_ms, 0)
    below: npt.NDArray[np.int64] = (np.asarray(edges_s) * 1000).searchsorted(gaps_ms, side="right")
    below += 1
    return below
