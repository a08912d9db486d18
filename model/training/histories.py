"""How many training impressions have a history at all: a network that reads none learns without a word to say so."""

from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.ids import PAD
from model.features.schema import Schema
from model.networks.blocks import RankingNetwork
from model.prepared.loader import Prepared, batches

SAMPLE, BATCH = 16_384, 4096  # impressions that the share is counted on, spread over the split


def empty_share(data: Prepared, rows: npt.NDArray[np.int64], network: RankingNetwork) -> float | None:
    """The share of the impressions `rows` in whose history the network finds nothing; 1.0: it is empty in all of them.

    None for a network that reads no history. Counted on a sample, and on all rows before it is said of all.
    """
    inputs = _inputs(network, data.schema)
    if not inputs or not len(rows):
        return None
    sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64)]
    found = sum(int(_filled(batch, inputs).sum()) for _, batch in batches(data, sample, BATCH))
    if found:
        return 1 - found / len(sample)
    if any(_filled(batch, inputs).any() for _, batch in batches(data, rows, BATCH)):
        return 1 - 1 / len(rows)
    return 1.0


def _inputs(network: RankingNetwork, schema: Schema) -> list[str]:
    """The inputs that are padded where there is no behaviour, of the histories that the network reads."""
    items = [] if "history" in network.unseen else ["gap"]
    groups = [] if "groups" in network.unseen else [f"gap_{group.object_type}" for group in schema.groups]
    return items + groups


def _filled(batch: Any, inputs: list[str]) -> npt.NDArray[np.bool_]:
    """Which requests of a batch have a behaviour in any of the histories, (U,)."""
    return np.any([(batch[name] != PAD).any(1) for name in inputs], axis=0)
