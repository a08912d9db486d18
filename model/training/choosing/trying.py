"""Two recipes tried on validation, where no rule tells which a log wants; the pick is kept beside the data.

Some logs are learnt by heart in one epoch, some only by remembering: on the same settings tables that start anew at
every epoch gain 0.06 of AUC on one log and lose 0.03 on the next (model/LOG.md). Test is not opened.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from model.files import write_json
from model.prepared.loader import Prepared
from model.training.recipe import Recipe

SEED = 1
FOLDER = "tried"  # of the prepared data


def tried(data: Prepared, network: str, recipes: Sequence[Recipe]) -> list[float]:
    """The best AUC on validation of each recipe, by a training that ends as its recipe says; kept for the next time."""
    kept = data.folder / FOLDER / f"{network}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        answer = json.loads(kept.read_text())
        if answer["asked"] == asked(data, network, recipes):
            return [float(auc) for auc in answer["auc"]]
    from model.training.parallel import World  # torch takes seconds to import: not for --help
    from model.training.run import Run

    aucs = []
    for number, recipe in enumerate(recipes, 1):
        with TemporaryDirectory() as folder:
            how = replace(recipe.training, refit=False, select="validation")
            run = Run(data, network, replace(recipe, training=how), SEED, Path(folder) / "checkpoint.pt")
            if run.world.rank == 0:
                print(f"trying recipe {number} of {len(recipes)} on validation", file=sys.stderr)
            run.train(data.of_split("train"), how.epochs, how.evaluations)
        aucs.append(float(run.progress["best"]))
    if World().rank == 0:
        with suppress(OSError):  # a folder that cannot be written costs the trying again
            kept.parent.mkdir(exist_ok=True)
            write_json(kept, {"asked": asked(data, network, recipes), "auc": aucs})
    return aucs


def asked(data: Prepared, network: str, recipes: Sequence[Recipe]) -> str:
    """What tells one question from another: the data, the network, all settings."""
    question = json.dumps([data.fingerprint, network, [asdict(recipe) for recipe in recipes]], sort_keys=True)
    return sha256(question.encode()).hexdigest()
