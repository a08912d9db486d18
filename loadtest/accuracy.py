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
from loadtest.errors import NoRun
from loadtest.peers import Peer
from model.evaluation.metrics import auc
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS
from model.training.recipe import choose_recipe, load_recipe

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
                found = self._predict(VALIDATION)[0]
                self.looks.append({"network": self._network, "rate": rate, "epoch": epoch, "validation_auc": found})
                if best is None or found > best[0]:
                    best = found, rate, epoch, self._predict(TEST)[1]
                since = 0 if found > top else since + 1
                top = max(top, found)
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


def compare(given: argparse.Namespace, data: Prepared, python: Path, outs: Sequence[Path]) -> dict[str, Any]:
    """Writes the scores of test by name, a file for each seed, anew after every network; gives the figures.

    Raises NoRun.
    """
    seeds = range(1, given.seeds + 1)
    sizes = {network: given.batch_size or _batch_size(data, network) for network in given.networks}
    scores: list[dict[str, Floats]] = [{} for _ in seeds]
    figures: dict[str, Any] = {"looks": []}
    label = data.label[data.of_split("test")]
    with tempfile.TemporaryDirectory() as folder, tqdm(unit=" epochs") as bar:
        files = [Path(folder) / f"{split}.npz" for split in SPLITS]
        for split, file in zip(SPLITS, files, strict=True):
            peers.write_rows(file, data, data.of_split(split))
        with Peer(python, ["--rows", *map(str, files)], given.threads) as peer:
            for network, size in sizes.items():
                contest = Contest(peer, network, size, Path(folder), bar)
                rate, epochs, picked = contest.pick(given.rates, given.epochs, given.patience)
                name = f"torch-rechub {network}"
                for seed, found in zip(seeds, scores, strict=True):
                    if given.refit:
                        found[name] = contest.train([TRAIN, VALIDATION], rate, epochs, seed)
                    else:
                        found[name] = picked if seed == 1 else contest.train([TRAIN], rate, epochs, seed)
                figures["looks"] += contest.looks
                aucs = [_auc(label, found[name]) for found in scores]
                figures[name] = {"rate": rate, "epochs": epochs, "batch_size": size, "test_auc": aucs}
                for out, found in zip(outs, scores, strict=True):
                    named: dict[str, Any] = found
                    np.savez(out, **named)
                bar.write(f"{name:<20} test AUC {np.mean(aucs):.4f}   rate {rate:g}, {epochs} epochs, batch {size}")
    return figures


def _auc(label: npt.NDArray[Any], score: Floats) -> float:
    found = auc(label, score)
    assert found is not None  # both classes are there, as main has seen
    return found


def _batch_size(data: Prepared, network: str) -> int:
    ours, dataset = NETWORKS[network], data.meta["dataset"]
    return load_recipe(choose_recipe(ours, dataset, None), ours).training.batch_size


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m loadtest.accuracy", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="scores of the test impressions")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=1, help="how many; rate and epochs are picked by the first")
    parser.add_argument("--refit", action="store_true", help="then train anew on train + validation")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to pick from")
    parser.add_argument("--epochs", type=int, default=4, help="at most")
    parser.add_argument("--patience", type=int, default=1, help="epochs without a better validation AUC")
    parser.add_argument("--batch-size", type=int, help="default: our recipe's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    counts = (given.seeds, given.epochs, given.patience, given.batch_size or 1, given.threads, *given.rates)
    if min(counts) <= 0 or given.out.suffix != ".npz":
        parser.error("numbers are above 0, and --out ends in .npz")
    try:
        data = Prepared(given.data)
        for split in SPLITS:
            if _one_class(data.label[data.of_split(split)]):
                raise NoRun(f"{given.data}: {split} holds one class only")
        given.out.parent.mkdir(parents=True, exist_ok=True)
        python = peers.environment()
        assert python  # made where it was not there
        files = [given.out] if given.seeds == 1 else [_numbered(given.out, seed) for seed in range(1, given.seeds + 1)]
        figures = compare(given, data, python, files)
    except (NoRun, OSError, ValueError) as error:
        print(f"accuracy: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"scores": [str(file) for file in files], "refit": given.refit, **figures}))
    return 0


def _one_class(label: npt.NDArray[Any]) -> bool:
    return label.sum() in (0, len(label))


def _numbered(path: Path, seed: int) -> Path:
    return path.with_name(f"{path.stem}-{seed}{path.suffix}")


if __name__ == "__main__":
    sys.exit(main())
