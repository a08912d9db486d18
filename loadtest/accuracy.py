"""torch-rechub's BST, DIN and WideDeep on exactly our rows, for the table that compares networks.

    python -m loadtest.accuracy --data data/kuairand --out peers.npz [--refit] [--seeds 2] [--networks BST DIN WDL]

It trains in the peers' environment on the encoded rows of a prepared data set and writes an .npz file for each seed:
the scores (n,) of the test impressions in their order, by name (`torch-rechub BST`, ...). With several seeds the files
are FILE-1.npz, FILE-2.npz, ...; `python -m model.reproduce --peers-scores` reads them.

Its classes and trainer stand as shipped: BST with the Transformer's inner width of 2048, embeddings 16 wide, MLP
1024-512-256 with dropout 0.2, N(0, 1e-4) starts, Adam with its weight decay of 1e-5, dense gradients, PAD = 0 as
padding. Batches are of our recipe's size. Learning rate and number of epochs are picked on the validation AUC at the
end of each epoch, by seed 1 alone, until --patience epochs bring nothing; test is scored by the best epoch's weights.
With --refit, as our recipes have it, the network is then trained anew on train + validation for as many epochs.
WideDeep sees no history, as the paper's WDL. DIN sees no standardised numbers: its class cannot take them.
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
from loadtest.peers import Peer
from model.command import run as run_command
from model.evaluation.metrics import auc
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS
from model.training.choosing.choice import choose

NETWORKS = {"BST": "bst", "DIN": "din", "WDL": "wdl"}  # theirs → ours, whose recipe gives the size of a batch
RATES = (1e-3, 2e-3, 4e-3)
WIDTHS = [16, 16]  # it stacks embeddings: one width outside the sequence, one in it
TRAIN, VALIDATION, TEST = range(len(SPLITS))  # the files of rows, by number
Floats = npt.NDArray[np.float32]


class Contest:
    """One of its networks on one data set: picks by validation, scores test."""

    def __init__(self, peer: Peer, network: str, batch_size: int, scratch: Path, bar: Any):
        self._peer, self._network, self._batch_size = peer, network, batch_size
        self._scores, self._bar = scratch / "scores.npy", bar
        self.looks: list[dict[str, Any]] = []

    def pick(self, rates: Sequence[float], epochs: int, patience: int) -> tuple[float, int, Floats]:
        """Learning rate and number of epochs best on validation, by seed 1, and that run's scores of test."""
        best: tuple[float, float, int, Floats] | None = None
        for rate in rates:
            top, since = 0.0, 0
            self._build(rate, seed=1)
            for epoch in range(1, epochs + 1):
                self._epoch([TRAIN], f"rate {rate:g}, epoch {epoch}")
                auc = self._predict(VALIDATION)[0]
                self.looks.append({"network": self._network, "rate": rate, "epoch": epoch, "validation_auc": auc})
                if best is None or auc > best[0]:
                    best = auc, rate, epoch, self._predict(TEST)[1]
                since = 0 if auc > top else since + 1
                top = max(top, auc)
                if since >= patience:
                    break
        assert best
        return best[1:]

    def train(self, splits: Sequence[int], rate: float, epochs: int, seed: int) -> Floats:
        """Scores of test after so many epochs over these splits."""
        self._build(rate, seed)
        for epoch in range(1, epochs + 1):
            self._epoch(splits, f"seed {seed}, epoch {epoch} of {epochs}")
        return self._predict(TEST)[1]

    def _build(self, rate: float, seed: int) -> None:
        self._peer.ask(
            do="build", network=self._network, rate=rate, seed=seed, batch_size=self._batch_size, widths=WIDTHS
        )

    def _epoch(self, splits: Sequence[int], what: str) -> None:
        self._bar.set_description(f"torch-rechub {self._network}: {what}")
        self._peer.ask(do="train", rows=list(splits))
        self._bar.update()

    def _predict(self, split: int) -> tuple[float, Floats]:
        auc = self._peer.ask(do="predict", rows=split, out=str(self._scores))["auc"]
        scores: Floats = np.load(self._scores)
        return float(auc), scores


def compare(args: argparse.Namespace, data: Prepared, python: Path, outs: Sequence[Path]) -> dict[str, Any]:
    """Writes the scores of test by name, a file for each seed, anew after every network; gives the figures.

    Raises NoRun.
    """
    by_seed: list[dict[str, Floats]] = [{} for _ in outs]
    figures: dict[str, Any] = {"looks": []}
    label = data.label[data.of_split("test")]
    with tempfile.TemporaryDirectory() as folder, tqdm(unit=" epochs") as bar:
        files = [Path(folder) / f"{split}.npz" for split in SPLITS]
        for split, file in zip(SPLITS, files, strict=True):
            peers.write_rows(file, data, data.of_split(split))
        with Peer(python, ["--rows", *map(str, files)], args.threads) as peer:
            for network in args.networks:
                size, name = args.batch_size or _batch_size(data, network), f"torch-rechub {network}"
                contest = Contest(peer, network, size, Path(folder), bar)
                rate, epochs, picked = contest.pick(args.rates, args.epochs, args.patience)
                for seed, scores in enumerate(by_seed, 1):
                    if args.refit:
                        scores[name] = contest.train([TRAIN, VALIDATION], rate, epochs, seed)
                    else:
                        scores[name] = picked if seed == 1 else contest.train([TRAIN], rate, epochs, seed)
                    np.savez(outs[seed - 1], **scores)  # type: ignore[arg-type]  # its other argument is a bool
                figures["looks"] += contest.looks
                aucs = [auc(label, scores[name]) for scores in by_seed]
                figures[name] = {"rate": rate, "epochs": epochs, "batch_size": size, "test_auc": aucs}
                mean = np.mean([one for one in aucs if one is not None])
                bar.write(f"{name:<20} test AUC {mean:.4f}   rate {rate:g}, {epochs} epochs, batch {size}")
    return figures


def _batch_size(data: Prepared, network: str) -> int:
    return choose(NETWORKS[network], data).recipe.training.batch_size


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m loadtest.accuracy", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="prepared data set")
    add("--out", type=Path, required=True, metavar="FILE.npz", help="scores of the test impressions")
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--seeds", type=positive, default=1, help="how many; rate and epochs are picked by the first")
    add("--refit", action="store_true", help="then train anew on train + validation")
    add("--rates", type=float, nargs="+", default=RATES, help="learning rates to pick from")
    add("--epochs", type=positive, default=4, help="at most")
    add("--patience", type=positive, default=1, help="epochs without a better validation AUC")
    add("--batch-size", type=positive, help="default: our recipe's")
    add("--threads", type=positive, default=torch.get_num_threads())
    args = parser.parse_args(arguments)
    if min(args.rates) <= 0 or args.out.suffix != ".npz":
        parser.error("rates are above 0, and --out ends in .npz")
    out, seeds = args.out, range(1, args.seeds + 1)
    outs = [out] if args.seeds == 1 else [out.with_name(f"{out.stem}-{seed}{out.suffix}") for seed in seeds]
    try:
        data = Prepared(args.data)
        for split in SPLITS:
            label = data.label[data.of_split(split)]
            if label.sum() in (0, len(label)):
                raise NoRun(f"{args.data}: {split} holds one class only")
        out.parent.mkdir(parents=True, exist_ok=True)
        python = peers.environment()
        assert python  # made where it was missing
        figures = compare(args, data, python, outs)
    except (NoRun, OSError, ValueError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"scores": [str(file) for file in outs], "refit": args.refit, **figures}))
    return 0


if __name__ == "__main__":
    run_command(main, "accuracy")
