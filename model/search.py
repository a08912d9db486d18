"""Search a recipe's settings with optuna, on validation only; the best ones become a recipe file.

    python -m model.search --data data/kuairand --network bst --trials 30 --out bst_kuairand.toml

What `model.train` would take is the start: what the space does not name stays as it is, and the start itself is the
first trial. The space (model/training/choosing/space.py) is widened to hold the start. A trial whose validation AUC
falls behind the median of the others at the same look is ended early; one at chance has as many looks as its patience
before that. Test is not opened. Trials are kept beside the output (`<out>.db`), so that a search that was killed goes
on; another space or start begins anew there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import tomli_w

from model import command, networks
from model.files import write_text
from model.options import OptionError
from model.prepared.loader import Prepared
from model.training.choosing.choice import choose
from model.training.choosing.space import Space, load_rooms
from model.training.recipe import Training

SPACE = Path(__file__).with_suffix(".toml")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.search", description="Search a recipe's settings.")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--network", required=True, choices=networks.names())
    parser.add_argument("--trials", type=int, default=20, help="in all, those of an earlier, killed search included")
    parser.add_argument("--out", type=Path, required=True, help="the recipe to write")
    parser.add_argument("--space", type=Path, default=SPACE, help="TOML of what to try (default: model/search.toml)")
    parser.add_argument(
        "--recipe", metavar="NAME_OR_PATH", help="where to start (default: what model.train would take)"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    if arguments.trials < 1:
        parser.error(f"--trials {arguments.trials}, at least 1")
    if arguments.out.is_dir():
        parser.error(f"--out {arguments.out} is a folder, the recipe's file is needed")
    from model.training.choosing.trials import (  # optuna and torch take seconds to import: after the arguments
        AGAIN,
        search,
        whole,
    )

    try:
        data = Prepared(arguments.data)
        choice = choose(arguments.network, data, arguments.recipe)
        print("\n".join(choice.lines()))
        rooms = load_rooms(arguments.space, arguments.network)
        space = Space(rooms, arguments.network, choice.recipe, data.schema)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        storage = arguments.out.with_name(arguments.out.name + ".db").resolve()
        study = search(data, space, arguments.trials, arguments.seed, storage)
        ends = [trial.user_attrs["refused"] for trial in study.trials if "refused" in trial.user_attrs]
        if not whole(study):
            raise OptionError(f"no trial came to an end; the last one: {ends[-1] if ends else 'behind the others'}")
    except (OSError, ValueError) as error:
        print(f"search: {command.words(error)}", file=sys.stderr)
        return 1
    best = study.best_trial
    recipe = asdict(space.recipe(best.params))
    changed = {key: value for key, value in recipe["training"].items() if value != asdict(Training())[key]}
    content = tomli_w.dumps({k: v for k, v in (recipe | {"training": changed}).items() if v})
    again = sum(AGAIN in trial.user_attrs for trial in study.trials)
    finished = len(whole(study)) - again
    ended = len(study.trials) - finished - again
    write_text(
        arguments.out,
        f"# {arguments.network} on {data.meta['dataset']}: {best.value:.4f} on validation, the best of {finished} "
        f"trials of\n# model.search ({ended} more ended early, {again} were drawn again), seed {arguments.seed}. "
        f"The start: {study.trials[0].value or 0:.4f}.\n\n{content}",
    )
    print(content)
    figures = {"validation": best.value, "start": study.trials[0].value, "trials": len(study.trials)}
    print(json.dumps({"recipe": str(arguments.out), **figures, **best.params}))
    return 0


if __name__ == "__main__":
    command.run(main, "search", "the trials that are done are kept beside --out, as .db: the same command goes on")
