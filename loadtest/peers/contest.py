"""A library's network on one data set: its settings are picked on validation, and test is scored."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.peers import Peer
from model.prepared.splits import SPLITS

WIDTHS = [16, 16]  # of embeddings outside the sequence, and in it
TRAIN, VALIDATION, TEST = range(len(SPLITS))  # the files of rows, by number
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    rate: float
    l2: float | None = None  # on embeddings; None: as shipped

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Picked:
    """What was best on validation, by seed 1; `fell`: the epochs before it that brought nothing."""

    auc: float
    setting: Setting
    epochs: int
    fell: tuple[int, ...]
    scores: Floats  # of test


class Contest:
    """`name`: of the network with its library's; `looks`: what each setting had on validation after each epoch."""

    def __init__(self, peer: Peer, name: str, network: str, batch_size: int, scratch: Path, bar: Any):
        self._peer, self._name, self._network, self._batch_size = peer, name, network, batch_size
        self._scores, self._bar = scratch / "scores.npy", bar
        self.looks: list[dict[str, Any]] = []

    def pick(self, settings: Sequence[Setting], epochs: int, patience: int) -> Picked:
        best: Picked | None = None
        for setting in settings:
            top, since, fell = 0.0, 0, list[int]()
            self._build(setting, seed=1)
            for epoch in range(1, epochs + 1):
                self._epoch([TRAIN], f"{setting.as_dict()}, epoch {epoch}")
                auc = self._predict(VALIDATION)[0]
                self.looks.append({"network": self._name, **setting.as_dict(), "epoch": epoch, "validation_auc": auc})
                if best is None or auc > best.auc:
                    best = Picked(auc, setting, epoch, tuple(fell), self._predict(TEST)[1])
                if auc > top:
                    top, since = auc, 0
                    continue
                since += 1
                if since >= patience:
                    break
                fell.append(epoch)
                self._peer.ask(do="fell")
        assert best
        return best

    def train(self, splits: Sequence[int], picked: Picked, seed: int) -> Floats:
        """Scores of test after as many epochs over these splits, at rates that fall where they fell."""
        self._build(picked.setting, seed)
        for epoch in range(1, picked.epochs + 1):
            self._epoch(splits, f"seed {seed}, epoch {epoch} of {picked.epochs}")
            if epoch in picked.fell:
                self._peer.ask(do="fell")
        return self._predict(TEST)[1]

    def _build(self, setting: Setting, seed: int) -> None:
        self._peer.ask(
            do="build", network=self._network, **setting.as_dict(), seed=seed, batch_size=self._batch_size,
            widths=WIDTHS,
        )  # fmt: skip

    def _epoch(self, splits: Sequence[int], what: str) -> None:
        self._bar.set_description(f"{self._name}: {what}")
        self._peer.ask(do="train", rows=list(splits))
        self._bar.update()

    def _predict(self, split: int) -> tuple[float, Floats]:
        auc = self._peer.ask(do="predict", rows=split, out=str(self._scores))["auc"]
        scores: Floats = np.load(self._scores)
        return float(auc), scores
