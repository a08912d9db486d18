"""The network of a bundle as it was trained, for those who draw another graph of it: int8, attention."""

import json

import torch

from model import networks
from model.bundle.layout import REPORT, TABLES, WEIGHTS
from model.bundle.reading import Bundle
from model.networks.blocks import RankingNetwork


class NoWeights(ValueError):
    """A bundle that another program wrote."""


class OtherTables(ValueError):
    """A bundle whose tables are not as they were trained."""


def network_of(bundle: Bundle) -> RankingNetwork:
    """Built by the bundle's recipe, with its weights. Raises NoWeights for a bundle without them, and OptionError.

    OtherTables for one whose graphs are not on the tables as they were trained, with which another graph would share.
    """
    if facts := bundle.manifest.get(TABLES):
        raise OtherTables(
            f"{bundle.folder} has {facts['form']} tables: add the graph to the version that it was made from, "
            f"{facts['of']}, and make this one anew from it (--tables {facts['form']})"
        )
    try:
        weights = torch.load(bundle.folder / WEIGHTS, weights_only=True)
        recipe = json.loads((bundle.folder / REPORT).read_text())["recipe"]
    except (OSError, KeyError):
        raise NoWeights(f"{bundle.folder} has no {WEIGHTS} or no recipe: it was not written by model.train") from None
    rows = {f.name: bundle.encoder.table_rows(f) for f in bundle.schema.embedded if not f.is_float}
    network = networks.build(bundle.manifest["network"], bundle.schema, rows, recipe["network"])
    network.load_state_dict(weights)
    return network
