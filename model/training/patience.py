"""When a look at validation counts as waited in vain.

On some logs only the candidate beside the history tells anything: validation stays at 0.5 until the network has found
that, and rises for a long while then. A run that is still at chance has not begun to get worse, so it goes on, to its
last epoch if need be.
"""

import numpy as np
import numpy.typing as npt

NOISE = 2.0  # standard errors around 0.5 that are chance
NOTHING = 0.01  # on a large split less than this is significant, and still nothing learnt


def at_chance(best_auc: float, label: npt.NDArray[np.int8]) -> bool:
    """Whether the best AUC so far on impressions with these labels (n,) is that of a network that knows nothing.

    The standard error is that of the Mann-Whitney statistic for scores that have nothing to do with the labels.
    """
    clicks = int(label.sum())
    others = len(label) - clicks
    error = ((clicks + others + 1) / (12 * max(1, clicks * others))) ** 0.5
    return bool(best_auc < 0.5 + max(NOTHING, NOISE * error))
