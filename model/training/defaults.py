"""Settings for a log that nobody has made a recipe for: from its rows, its ids and its histories; never from test.

The paper's own (`Training()`, `--recipe paper`) were made for 47 billion samples and leave a log of some 100,000 rows
below its floor. The rules come from model/LOG.md; each states its reason with the numbers that it went by.
"""

from dataclasses import dataclass
from typing import Any

from model import networks
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, Training

DENSE = 4_000_000  # table weights up to which Adam moves every row at every step: some 10 ms
PASSES = 10_000_000  # rows that all epochs together may visit: minutes on two cores


@dataclass(frozen=True)
class Suited:
    recipe: Recipe
    reasons: tuple[str, ...]  # sentences for people


def suited(data: Prepared, network: str) -> Suited:
    """The recipe for `network` on this data set. Looks at the size of training and validation."""
    rows = len(data.of_split("train"))
    reasons = []
    training: dict[str, Any] = {"optimiser": "adam", "learning_rate": 0.002, "batch_size": 512}
    reasons.append(f"Adam at 0.002: {rows:,} rows are too few for the paper's Adagrad.")
    weights = sum(data.rows[f.name] * (f.width + f.sequence_width) for f in data.schema.embedded if not f.is_float)
    if weights <= DENSE:
        training |= {"lazy": False, "l2": 1e-5}
    training |= {"epochs": max(1, min(20, PASSES // rows)), "evaluations": 2, "patience": 6}
    chosen = {"mlp": [128, 64]}
    chosen = {name: value for name, value in chosen.items() if name in networks.options(network)}
    return Suited(Recipe(network=chosen, training=Training(**training)), tuple(reasons))
