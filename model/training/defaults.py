"""Settings for a log that no recipe was made for: what suits its size."""

from dataclasses import dataclass

from model import networks
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, Training


@dataclass(frozen=True)
class Suited:
    recipe: Recipe
    reasons: tuple[str, ...]  # a line each, for people


def suited(data: Prepared, network: str) -> Suited:
    """The settings for a network on a prepared data set, and why."""
    rows = len(data.of_split("train"))
    own = {"mlp": [128, 64]} if "mlp" in networks.options(network) else {}
    how = Training(optimiser="adam", learning_rate=0.001, batch_size=512, epochs=5, evaluations=1, patience=2)
    return Suited(Recipe(network=own, training=how), (f"Adam 0.001, up to 5 epochs: {rows} rows to train on",))
