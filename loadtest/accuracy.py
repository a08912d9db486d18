"""Another library's networks on exactly our rows, for the table that compares networks.

    python -m loadtest.accuracy --data data/kuairand --out peers.npz [--library fuxictr] [--refit] [--seeds 2]
                                [--networks BST DIN WDL]

It trains in the peers' environment on the encoded rows of a prepared data set and writes an .npz file for each seed:
the scores (n,) of the test impressions in their order, by name (`torch-rechub BST`, `FuxiCTR DIN`, ...). With several
seeds the files are FILE-1.npz, FILE-2.npz, ...; `python -m model.reproduce --peers-scores` reads them.

Classes and trainers stand as shipped, with embeddings 16 wide and an MLP of 1024-512-256, without behaviours' times:

- rechub, torch-rechub's BST, DIN and WideDeep: BST with the Transformer's inner width of 2048, dropout 0.2, N(0, 1e-4)
  starts, Adam with its weight decay of 1e-5, dense gradients, PAD = 0 as padding. WideDeep sees no history, as the
  paper's WDL. DIN sees no numbers, and so none of `statistic`: its class cannot take them.
- fuxictr, FuxiCTR's DIN, TransAct (a Transformer over the history) and DCNv2 (on its mean): N(0, 1e-4) starts, Adam,
  no dropout, gradients clipped at a norm of 10; the rate falls to a tenth after an epoch that brings nothing.

Batches are of our recipe's size. Learning rate, penalty (--l2) and number of epochs are picked on the validation AUC at
the end of each epoch, by seed 1 alone, until --patience epochs bring nothing; test is scored by the best epoch's
weights. With --refit, as our recipes have it, the network is then trained anew on train + validation for as many
epochs.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from loadtest import peers
from loadtest.bench.command import positive
from loadtest.errors import NoRun
from loadtest.peers import LIBRARIES, Library, Peer
from loadtest.peers.contest import TRAIN, VALIDATION, Contest, Setting
from loadtest.peers.rows import write_rows
from model.command import run as run_command
from model.evaluation.metrics import auc
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS
from model.training.choosing.choice import choose

RATES = (1e-3, 2e-3, 4e-3)
Floats = npt.NDArray[np.float32]


def compare(
    args: argparse.Namespace, library: Library, data: Prepared, python: Path, outs: Sequence[Path]
) -> dict[str, Any]:
    """Writes the scores of test by name, a file for each seed, anew after every network; gives the figures.

    Raises NoRun.
    """
    by_seed: list[dict[str, Floats]] = [{} for _ in outs]
    figures: dict[str, Any] = {"looks": []}
    label = data.label[data.of_split("test")]
    with tempfile.TemporaryDirectory() as folder, tqdm(unit=" epochs") as bar:
        files = [Path(folder) / f"{split}.npz" for split in SPLITS]
        for split, file in zip(SPLITS, files, strict=True):
            write_rows(file, data, data.of_split(split))
        with Peer(python, ["--rows", *map(str, files)], args.threads, library) as peer:
            for network in args.networks or library.networks:
                name = f"{library.name} {network}"
                size = args.batch_size or choose(library.networks[network], data).recipe.training.batch_size
                contest = Contest(peer, name, network, size, Path(folder), bar)
                settings = [Setting(rate, l2) for l2 in args.l2 or [None] for rate in args.rates]
                picked = contest.pick(settings, args.epochs, args.patience or library.patience)
                for seed, scores in enumerate(by_seed, 1):
                    if seed == 1 and not args.refit:
                        scores[name] = picked.scores
                    else:
                        scores[name] = contest.train([TRAIN, VALIDATION] if args.refit else [TRAIN], picked, seed)
                    np.savez(outs[seed - 1], **scores)  # type: ignore[arg-type]  # its other argument is a bool
                figures["looks"] += contest.looks
                aucs = [auc(label, scores[name]) for scores in by_seed]
                told = picked.setting.as_dict() | {"epochs": picked.epochs, "batch_size": size}
                figures[name] = told | {"validation_auc": picked.auc, "test_auc": aucs}
                mean = np.mean([one for one in aucs if one is not None])
                bar.write(f"{name:<20} test AUC {mean:.4f}   {', '.join(f'{k} {v}' for k, v in told.items())}")
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m loadtest.accuracy", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="prepared data set")
    add("--out", type=Path, required=True, metavar="FILE.npz", help="scores of the test impressions")
    add("--library", choices=LIBRARIES, default="rechub")
    add("--networks", nargs="+", metavar="NAME", help="default: all that are shown of the library")
    add("--seeds", type=positive, default=1, help="how many; rate and epochs are picked by the first")
    add("--refit", action="store_true", help="then train anew on train + validation")
    add("--rates", type=float, nargs="+", default=RATES, help="learning rates to pick from")
    add("--l2", type=float, nargs="+", help="penalties on embeddings to pick from; default: as shipped")
    add("--epochs", type=positive, default=4, help="at most")
    add("--patience", type=positive, help="epochs without a better validation AUC; default: its trainer's")
    add("--batch-size", type=positive, help="default: our recipe's")
    add("--threads", type=positive, default=torch.get_num_threads())
    args = parser.parse_args(arguments)
    if min(args.rates) <= 0 or min(args.l2 or [0]) < 0 or args.out.suffix != ".npz":
        parser.error("rates are above 0, penalties not below, and --out ends in .npz")
    library = LIBRARIES[args.library]
    if unknown := [network for network in args.networks or [] if network not in library.networks]:
        parser.error(f"--networks {unknown[0]}; of {library.name} are allowed: {', '.join(library.networks)}")
    out, seeds = args.out, range(1, args.seeds + 1)
    outs = [out] if args.seeds == 1 else [out.with_name(f"{out.stem}-{seed}{out.suffix}") for seed in seeds]
    try:
        data = Prepared(args.data)
        for split in SPLITS:
            label = data.label[data.of_split(split)]
            if label.sum() in (0, len(label)):
                raise NoRun(f"{args.data}: {split} holds one class only")
        out.parent.mkdir(parents=True, exist_ok=True)
        python = peers.environment(library)
        assert python  # made where it was missing
        figures = compare(args, library, data, python, outs)
    except (NoRun, OSError, ValueError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"scores": [str(file) for file in outs], "refit": args.refit, **figures}))
    return 0


if __name__ == "__main__":
    run_command(main, "accuracy")
