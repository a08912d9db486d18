"""The order in which an epoch visits impressions, and arrays as tensors."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from model.features.encode import Inputs

BLOCK, WINDOW = 1024, 1 << 20  # impressions; a log below WINDOW is shuffled through and through


def shuffled(count: int, seed: int, epoch: int, skip: int = 0) -> Iterator[npt.NDArray[np.int64]]:
    """0 … count-1 in an order that seed and epoch decide, window by window; the first `skip` are left out."""
    blocks = np.random.default_rng([seed, epoch]).permutation(-(-count // BLOCK))
    for window, at in enumerate(range(0, len(blocks), WINDOW // BLOCK)):
        chosen = blocks[at : at + WINDOW // BLOCK]
        size = len(chosen) * BLOCK - (-count % BLOCK if blocks.size - 1 in chosen else 0)
        if size <= skip:
            skip -= size
            continue
        within = (chosen[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
        order = np.random.default_rng([seed, epoch, window]).permutation(within[within < count])
        yield order[skip:]
        skip = 0


def shuffled_batches(
    rows: npt.NDArray[np.int64], size: int, seed: int, epoch: int, begin: int = 0
) -> Iterator[npt.NDArray[np.int64]]:
    """One epoch's batches of the impressions `rows`, from batch number `begin` on."""
    rest = np.empty(0, np.int64)
    for window in shuffled(len(rows), seed, epoch, begin * size):
        rest = np.concatenate([rest, window])
        whole = len(rest) - len(rest) % size
        for at in range(0, whole, size):
            yield rows[rest[at : at + size]]
        rest = rest[whole:]
    if len(rest):
        yield rows[rest]


def tensors(inputs: Inputs) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}
