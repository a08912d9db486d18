"""Several requests as one network input, along U; one request as several, along C."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.encode import Inputs
from model.features.ids import PAD

USER = ("user", "user_numbers")  # one row per request
OF_BEHAVIOURS = ("history", "gap", "action")  # how the names of inputs along T begin


def axes(name: str) -> tuple[str, ...]:
    """The axes of an input that vary."""
    if name in USER:
        return ("U",)
    return ("U", "T") if name.startswith(OF_BEHAVIOURS) else ("U", "C")


def candidates(inputs: Inputs) -> int:
    """C."""
    return int(inputs["item"].shape[1])


def stacked(requests: Sequence[Inputs]) -> Inputs:
    """Requests along U, padded to the longest history and the most candidates. Padding changes no request's scores.

    Row PAD is in every table, and a network hides a behaviour of PAD.
    """
    stack: Inputs = {}
    for name in requests[0]:
        arrays = [request[name] for request in requests]
        if len(axes(name)) > 1:
            length = max(array.shape[1] for array in arrays)
            arrays = [_padded(array, length) for array in arrays]
        stack[name] = np.concatenate(arrays)
    return stack


def pieces(inputs: Inputs, count: int) -> Iterator[Inputs]:
    """A request's candidates in `count` parts of nearly equal size; each part has the whole user."""
    bounds = np.linspace(0, candidates(inputs), count + 1).astype(int).tolist()
    for begin, end in zip(bounds, bounds[1:], strict=False):
        yield {name: array[:, begin:end] if "C" in axes(name) else array for name, array in inputs.items()}


def of_candidates(inputs: Inputs, chosen: npt.NDArray[np.int64]) -> Inputs:
    """The same requests with some of their candidates, in the order of `chosen`."""
    return {name: array[:, chosen] if "C" in axes(name) else array for name, array in inputs.items()}


def _padded(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    missing = length - array.shape[1]
    if not missing:
        return array
    return np.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)], constant_values=PAD)
