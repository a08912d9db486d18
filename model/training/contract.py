"""What every network must hold, tried on a few rows of the log before it is trained, and again before it is exported.

tests/contract/test_networks.py holds the networks of this project to it in all variants; this is for a file that
somebody has just added. A recurrent network written naively reads its padding: it scores a request otherwise beside
longer ones, in training, in a batch and when served.
"""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import torch

from model.features.batch import OF_BEHAVIOURS, axes
from model.features.ids import PAD
from model.networks.blocks import Batch, RankingNetwork
from model.prepared.loader import Prepared
from model.training.batches import tensors
from model.training.recipe import RecipeError

SAMPLE, CANDIDATES, LONGER = 256, 4, 3  # rows to choose among; candidates of each user; slots of padding more
TOLERANCE = 1e-4  # of logits, relative above 1: what float32 loses in another order of sums

Case = tuple[str, Batch, torch.Tensor]  # what is tried, the input, the logits that it should have


class ContractError(RecipeError):
    """A network whose scores depend on what they must not depend on."""


def check(network: RankingNetwork, data: Prepared) -> None:
    """Raises ContractError, which says what was tried and by how much logits differ; leaves the network as it was."""
    training = network.training
    device = next(chain(network.parameters(), network.buffers())).device
    network.eval()
    try:
        with torch.no_grad():
            batch = {name: tensor.to(device) for name, tensor in _rows(data).items()}
            logits_UC = network(batch)
            _hold(network, "its logits", batch, logits_UC)
            for what, other, expected in _cases(batch, logits_UC):
                _hold(network, what, other, expected)
    finally:
        network.train(training)


def _hold(network: RankingNetwork, what: str, batch: Batch, expected: torch.Tensor) -> None:
    logits = network(batch)
    wanted = tuple(batch["item"].shape[:2])
    if tuple(logits.shape) != wanted:
        raise ContractError(f"{_name(network)}: logits of shape {tuple(logits.shape)}, (U, C) = {wanted} is needed")
    if not torch.isfinite(logits).all():
        raise ContractError(f"{_name(network)}: {what}: a logit is no finite number")
    worst = float(((logits - expected).abs() / expected.abs().clamp(min=1)).max())
    if worst > TOLERANCE:
        raise ContractError(
            f"{_name(network)}: {what}, and logits differ by {worst:.1e}, at most {TOLERANCE} is allowed; what a "
            "network must hold: docs/networks.md, Add a network"
        )


def _cases(batch: Batch, logits_UC: torch.Tensor) -> Iterator[Case]:
    """The same requests in other company."""
    filled = {name: _padded(name, tensor, batch) for name, tensor in batch.items()}
    yield "more slots of padding, with other items in them", filled, logits_UC
    order = torch.arange(logits_UC.shape[1] - 1, -1, -1)
    yield "candidates in another order", _picked(batch, slice(None), order), logits_UC[:, order]
    for user in range(len(logits_UC)):
        alone = _picked(batch, slice(user, user + 1), slice(None))
        longest = max(1, int((alone["gap"] != PAD).sum()))
        own = {name: t[:, :longest] if name in ("history", "gap", "action") else t for name, t in alone.items()}
        yield "a user alone, without padding", own, logits_UC[user : user + 1]
        first = _picked(batch, slice(user, user + 1), slice(0, 1))
        yield "a candidate alone", first, logits_UC[user : user + 1, :1]


def _rows(data: Prepared) -> dict[str, torch.Tensor]:
    """Users with no, the shortest and the longest history of a sample, each with the same few candidates."""
    train = data.of_split("train")
    sample = train[np.linspace(0, len(train) - 1, min(len(train), SAMPLE)).astype(np.int64)]
    inputs = tensors(data.batch(sample))
    lengths = (inputs["gap"] != PAD).sum(1)
    some = torch.where(lengths > 0, lengths, lengths.max() + 1)
    users = torch.stack([lengths.argmin(), some.argmin(), lengths.argmax()])
    candidates = torch.arange(CANDIDATES) * (len(sample) // CANDIDATES) % len(sample)
    batch = {}
    for name, tensor in inputs.items():
        if "C" in axes(name):
            batch[name] = tensor[candidates, 0].unsqueeze(0).repeat_interleave(len(users), 0)
        else:
            batch[name] = tensor[users].clone()
            if name.startswith(OF_BEHAVIOURS):
                batch[name][0] = PAD  # a new user, whether or not the log has one
    return batch


def _padded(name: str, tensor: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Longer by a few slots of PAD; where only a behaviour's gap says that it is none, items of others stand in it."""
    if not name.startswith(OF_BEHAVIOURS):
        return tensor
    longer = torch.nn.functional.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, LONGER), value=PAD)
    if name.startswith("history"):
        gap = torch.nn.functional.pad(batch["gap" + name.removeprefix("history")], (0, LONGER), value=PAD)
        longer[gap == PAD] = longer.flatten(0, 1).max(0).values  # a row that the table has
    return longer


def _picked(batch: Batch, users: slice, candidates: slice | torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: t[users][:, candidates] if "C" in axes(name) else t[users] for name, t in batch.items()}


def _name(network: RankingNetwork) -> str:
    return f"network {type(network).__module__.rpartition('.')[2]}"
