"""A bundle at the paper's sizes that was trained: for figures that depend on learnt weights, such as those of int8.

BST with its default Config (MLP 1024-512-256) on the simulator, by model.train's own functions and trained.toml, then
quantised. Made on first use and kept with its data set in .cache/trained; after a kill it goes on where it was.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.errors import NoRun
from loadtest.peers import ROOT
from model.bundle.layout import INT8, BundleError
from model.bundle.reading import Bundle
from model.datasets.tables import Options
from model.evaluation.measure import check_encoding
from model.graph import golden
from model.graph.publish import publish
from model.graph.quantize import quantize
from model.graph.write import ExportError
from model.prepare import prepare
from model.prepared.loader import Prepared
from model.training.recipe import load_recipe
from model.training.run import Run, TrainingError

CACHE = ROOT / ".cache" / "trained"
RECIPE = Path(__file__).with_suffix(".toml")
FORMAT = 1  # of data set, recipe and bundle: another number makes the cache anew
NETWORK, DATASET, SEED = "bst", "simulated", 3


@dataclass(frozen=True)
class Sizes:
    impressions: int = 300_000
    epochs: int | None = None  # the recipe's
    takes: str = "two to five minutes on one core"


QUICK = Sizes(20_000, 1, "half a minute")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, help="a trained bst instead of the one kept in .cache/trained")
    parser.add_argument("--data", type=Path, help="the prepared data set that it was trained on")


def choose(args: argparse.Namespace, cache: Path) -> tuple[Bundle, Prepared]:
    """The bundle of the options and its data set, else those kept in `cache`. Raises NoRun."""
    if (args.bundle is None) != (args.data is None):
        raise NoRun("--bundle and --data go together: the requests are the data set's")
    try:
        if args.bundle is None:
            return cached(cache, QUICK if args.quick else Sizes())
        bundle, data = Bundle.open(args.bundle), Prepared(args.data)
        check_encoding(bundle, data)
    except (BundleError, ExportError, TrainingError, ValueError) as error:
        raise NoRun(str(error)) from None
    return bundle, data


def cached(cache: Path, sizes: Sizes) -> tuple[Bundle, Prepared]:
    """The trained bundle and its data set, made where the cache lacks them."""
    recipe = load_recipe([RECIPE], NETWORK)
    recipe = replace(recipe, training=replace(recipe.training, epochs=sizes.epochs or recipe.training.epochs))
    home = cache / f"{DATASET}_{sizes.impressions}_seed_{SEED}_epochs_{recipe.training.epochs}_format_{FORMAT}"
    log, bundles = home / "data", home / "bundles"
    current = bundles / f"{NETWORK}_{DATASET}"
    trained = (current / "current").exists()
    if not trained:
        print(f"training BST on the simulator, once: {sizes.takes}; it is kept in {home}", file=sys.stderr)
    if not (log / "meta.json").exists():
        prepare(DATASET, None, log, Options(impressions=sizes.impressions, seed=SEED))
    data = Prepared(log)
    if not trained:
        checkpoint = home / "checkpoint.pt"
        run = Run(data, NETWORK, recipe, SEED, checkpoint)
        run.resume()
        run.fit()
        publish(run, bundles, boosting=False, explain=False)
        checkpoint.unlink(missing_ok=True)
    bundle = Bundle.open(current)
    if INT8 not in bundle.manifest:
        quantize(bundle, data)
    return bundle, data


def full_rows(data: Prepared, length: int) -> npt.NDArray[np.int64]:
    """Impressions of the validation day whose users had clicked `length` times. Raises NoRun where there is none."""
    rows = data.of_split("validation")
    full: npt.NDArray[np.int64] = rows[data.arrays["end"][rows] - data.arrays["begin"][data.user[rows]] >= length]
    if not len(full):
        raise NoRun(f"{data.folder}: no user of the validation day has {length} clicks before it")
    return full


def requests(bundle: Bundle, data: Prepared, count: int, candidates: int, seed: int) -> list[dict[str, Any]]:
    """Requests of users with full histories, in golden.json's form. Raises NoRun."""
    rows = full_rows(data, bundle.schema.history.length)
    if len(rows) < count:
        raise NoRun(f"{data.folder}: {len(rows)} impressions of users with full histories, {count} are needed")
    return golden.requests(data, rows, count, candidates, np.random.default_rng(seed))
