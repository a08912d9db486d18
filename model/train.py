"""Train a network on a prepared data set, evaluate it, export it.

    python -m model.train --data data/kuairand --network bst --out bundles
    torchrun --nproc-per-node 2 -m model.train …                            data-parallel (model/training/parallel.py)

A killed run goes on with --resume (model/training/run.py). Test is opened once, at the end, for the exported model.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import networks
from model.evaluate import table
from model.graph.publish import publish, rows_per_s
from model.prepared.loader import Prepared
from model.training.parallel import World
from model.training.recipe import choose_recipe, load_recipe
from model.training.run import Run
from model.training.warm import open_warm


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.train", description="Train, evaluate and export a network.")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--network", required=True, choices=networks.names())
    parser.add_argument("--out", type=Path, required=True, help="folder of bundles")
    parser.add_argument("--recipe", type=Path, help="TOML with what differs from the defaults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of a killed run")
    parser.add_argument("--warm", type=Path, metavar="BUNDLE", help="start from its weights (model.prepare --grow)")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="write TensorBoard logs there")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU where there is one")
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        parser.error(f"--seed {arguments.seed}, allowed: 0 and more")
    if arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"--out {arguments.out} is no folder")
    world = World()
    try:
        data = Prepared(arguments.data)
        paths = choose_recipe(arguments.network, data.meta["dataset"], arguments.recipe)
        checkpoint = arguments.out / f"{arguments.network}_{data.meta['dataset']}" / f".training-{arguments.seed}.pt"
        run = Run(
            data,
            arguments.network,
            load_recipe(paths, arguments.network),
            arguments.seed,
            checkpoint,
            warm=open_warm(arguments.warm),
            board=_board(arguments.tensorboard) if arguments.tensorboard and world.rank == 0 else None,
            device=arguments.device,
        )
        if world.rank == 0:
            print(f"recipe: {', '.join(map(str, paths)) or 'none, the defaults'}")
        if arguments.resume:
            print("resumed" if run.resume() else f"nothing to resume at {checkpoint}, starting anew")
        run.fit()
        if world.rank:
            return 0
        bundle, figures = publish(run, arguments.out)
    except (OSError, ValueError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    finally:
        world.close()
    checkpoint.unlink(missing_ok=True)
    print(table(figures))
    print(f"bundle: {bundle}")
    print(json.dumps({"bundle": str(bundle), **figures, "rows_per_s": rows_per_s(run)}))
    return 0


def _board(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only for whoever asks

    return SummaryWriter(str(folder))


if __name__ == "__main__":
    sys.exit(main())
