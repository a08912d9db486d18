"""Networks that stand against each other, trained on one simulated log: BST is the demo bundle, Wide & Deep is made.

It is the paper's Wide & Deep: without what derives a user's taste from the history. So it cannot know the pull of the
newest clicks, which is in the world, and BST earns more.
"""

import tomllib
from pathlib import Path

import tomli_w

from model import demo
from model.datasets.tables import Options
from model.graph.publish import publish
from model.prepare import prepare
from model.prepared.loader import Prepared
from model.training.recipe import RECIPES, load_recipe
from model.training.run import Run

RECIPE = Path(__file__).with_name("wdl.toml")


def wide_and_deep(folder: Path, impressions: int = demo.IMPRESSIONS) -> Path:
    """A folder with `current`. With fewer impressions it knows fewer items."""
    features = tomllib.loads((RECIPES / "demo_features.toml").read_text())
    features["feature"] = [feature for feature in features["feature"] if feature["kind"] != "match"]
    named, data = folder / "features.toml", folder / "data"
    named.write_text(tomli_w.dumps(features))
    prepare("simulated", None, data, Options(impressions=impressions, seed=demo.SEED), features=named)
    run = Run(Prepared(data), "wdl", load_recipe([RECIPE], "wdl"), demo.SEED, folder / "checkpoint.pt")
    run.fit()
    publish(run, folder / "bundles", boosting=False, explain=False)
    return folder / "bundles" / "wdl_simulated"
