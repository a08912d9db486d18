"""Several requests as one network input, and one request as several: along U (requests) and along C (candidates)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.encode import Inputs
from model.features.ids import PAD

USER = ("user", "user_numbers")  # what a request has once
OF_BEHAVIOURS = ("history", "gap", "action")  # how the names of inputs along T begin


def axes(name: str) -> tuple[str, ...]:
    """The axes of an input that vary."""
    if name in USER:
        return ("U",)
    return ("U", "T") if name.startswith(OF_BEHAVIOURS) else ("U", "C")


def candidates(inputs: Inputs) -> int:
    """C."""
    return int(inputs["item"].shape[1])


def joined(requests: Sequence[Inputs]) -> Inputs:
    """Requests as one input, padded to the longest history and to the most candidates; what is padded scores for none.

    A row of PAD is in every table, and a behaviour of PAD is hidden, so nothing of it reaches another score.
    """
    made: Inputs = {}
    for name in requests[0]:
        arrays = [request[name] for request in requests]
        if len(axes(name)) > 1:
            length = max(array.shape[1] for array in arrays)
            arrays = [_padded(array, length) for array in arrays]
        made[name] = np.concatenate(arrays)
    return made


def pieces(inputs: Inputs, count: int) -> Iterator[Inputs]:
    """A request's candidates in `count` parts of nearly equal size; each part has the whole user."""
    bounds = np.linspace(0, candidates(inputs), count + 1).astype(int).tolist()
    for begin, end in zip(bounds, bounds[1:], strict=False):
        yield {name: array[:, begin:end] if "C" in axes(name) else array for name, array in inputs.items()}


def _padded(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    missing = length - array.shape[1]
    if not missing:
        return array
    return np.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)], constant_values=PAD)
