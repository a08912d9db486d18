"""Keys of crosses of features, and of what statistics count: values of several features together."""

from collections.abc import Mapping, Sequence

import numpy as np

from model.features.ids import Keys, crossed


class Crossing:
    """Which features are crossed with which, in the order in which `crossed` takes them."""

    def __init__(self, crosses: Sequence[tuple[str, Sequence[str]]]):
        ordered = sorted(crosses, key=lambda cross: -len(cross[1]))
        self._names, self._of = [name for name, _ in ordered], [of for _, of in ordered]
        self._places = np.array([ordered.index(cross) for cross in crosses], np.int64)

    def keys(self, columns: Mapping[str, Keys]) -> Keys:
        """Keys of the crosses (crosses, n), of their parts' columns, (n,) or, for all alike, (1,)."""
        if not self._names:
            return np.zeros((0, 1), np.uint64)
        return crossed(self._names, [[columns[part] for part in of] for of in self._of]).take(self._places, axis=0)
