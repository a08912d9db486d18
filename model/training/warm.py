"""A warm start: training goes on from a bundle's weights, on data whose vocabularies have grown since."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from model.bundle.layout import WEIGHTS
from model.bundle.reading import Bundle
from model.features.schema import without_sizes
from model.prepared.loader import Prepared
from model.training.recipe import RecipeError


def open_warm(path: Path | None, network: str) -> Bundle | None:
    """The bundle to start from, where one is given. Raises RecipeError and BundleError."""
    bundle = Bundle.open(path) if path else None
    if bundle and bundle.manifest["network"] != network:
        raise RecipeError(f"--warm {path} is of the network {bundle.manifest['network']}, --network says {network}")
    if bundle and not (bundle.folder / WEIGHTS).exists():
        raise RecipeError(f"--warm {path} has no {WEIGHTS}: an older release wrote it; train it again")
    return bundle


def check_rows_stayed(warm: Bundle, data: Prepared) -> None:
    """Raises RecipeError unless the data's encoding is the bundle's or has grown from it: every id kept its row."""
    wrong = [] if without_sizes(warm.schema) == without_sizes(data.schema) else ["features.toml"]
    if not wrong:
        now = data.encoder.vocabularies
        for name, older in warm.encoder.vocabularies.items():
            known = older.table.items()[0]
            if not np.array_equal(older.rows(known), now[name].rows(known)):
                wrong.append(name)
        wrong += ["numbers"] if warm.encoder.statistics.numbers != data.encoder.statistics.numbers else []
    if wrong:
        raise RecipeError(f"--warm {warm.folder} encodes {', '.join(wrong)} otherwise; prepare the data with --grow")


def take_over(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copies a bundle's weights; of a table that has grown since, the rows that it had. Raises RecipeError."""
    own = network.state_dict()
    if strangers := sorted(set(weights) - set(own)):
        raise RecipeError(f"--warm has {strangers[0]}, which this network has not: made by another network or recipe")
    for name, tensor in own.items():
        older = weights.get(name)
        if older is None or older.shape[1:] != tensor.shape[1:] or len(older.shape) != len(tensor.shape):
            shape = "nothing" if older is None else tuple(older.shape)
            raise RecipeError(f"--warm has {shape} for {name} {tuple(tensor.shape)}: made by another network or recipe")
        if older.shape[:1] > tensor.shape[:1]:
            raise RecipeError(
                f"--warm knows {len(older)} rows of {name}, the data {len(tensor)}: prepare it with --grow"
            )
        if tensor.ndim:
            tensor[: len(older)] = older
        else:
            tensor.copy_(older)
    network.load_state_dict(own)
