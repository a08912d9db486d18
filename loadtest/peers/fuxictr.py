"""FuxiCTR 2.3.10 as its wheel ships it, on rows that it is data. Runs in the peers' environment; JSON lines.

    python -m loadtest.peers.fuxictr --rows FILE ...    the sets of rows, of which the questions speak by number
    {"do": "build", "network": "DIN", "rate": 0.001, "seed": 1, "batch_size": 1024, "widths": [16, 32],
     "l2": 1e-5}                    → {"parameters"}; "l2": its embedding_regularizer, none by itself
    {"do": "train", "rows": [0, 1]} one epoch over these rows, shuffled, by its own `fit` → {}
    {"do": "fell"}                  the epoch was no better on validation: its trainer lowers the rate → {"rate"}
    {"do": "predict", "rows": 2, "out": FILE}   → scores (n,) in FILE (.npy), {"auc"}

Its wheel holds the networks of `model_zoo.LongCTR` alone: DIN, TransAct (a Transformer over the history, each behaviour
beside the candidate; then DCNv2), DCNv2 on the mean of the history, and others. BST and WideDeep are in its repository,
in no release. Classes, initial weights, loss, gradient clipping and options stand as shipped, and so no dropout and no
regularisation, but for the widths of embeddings and the MLP. Departures: batches are sliced and not read from its
files, and which epoch was best is told from outside, by the same AUC as its own trainer watches.
"""

from collections import OrderedDict
from typing import Any

import numpy.typing as npt
import torch
from fuxictr.features import FeatureMap  # type: ignore[import-not-found]  # installed in the peers' environment alone
from fuxictr.pytorch.torch_utils import seed_everything  # type: ignore[import-not-found]
from model_zoo.LongCTR import DIN, DCNv2, TransAct  # type: ignore[import-not-found]

from loadtest.peers.program import MLP, PAD, PREDICTED, Answers, Batches, Rows, serve

CLASSES = {"DIN": DIN, "TransAct": TransAct, "DCNv2": DCNv2}
HIDDEN = {"DIN": "dnn_hidden_units", "TransAct": "dcn_hidden_units", "DCNv2": "parallel_dnn_hidden_units"}
LABEL = "label"
TRAINER = {"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["AUC"], "verbose": 0, "model_root": ""}


def feature_map(described: list[dict[str, Any]], widths: list[int]) -> Any:
    """Its description of the features; `widths`: of an embedding outside the sequence, and in it."""
    known = FeatureMap("rows", "")
    known.labels, known.features = [LABEL], OrderedDict()
    for one in described:
        table = {"source": "", "padding_idx": PAD, "vocab_size": one.get("rows"), "embedding_dim": widths[0]}
        match one["role"], one["kind"]:
            case "target", _:  # and the history with it: its networks know both by one name
                spec = table | {"type": "categorical", "source": "item", "embedding_dim": widths[1]}
            case "history", _:
                continue
            case _, "sparse":
                spec = table | {"type": "categorical"}
            case _, "multi":
                spec = table | {"type": "sequence", "feature_encoder": "layers.MaskedAveragePooling()"}
            case _:
                spec = {"type": "numeric", "source": "", "embedding_dim": widths[0]}
        known.features[one["name"]] = spec
    known.num_fields = known.get_num_fields()
    return known


class LongBatches(Batches):
    """As its LongCTR loader makes them: other features; items, the candidate behind its history; the history's mask."""

    def __init__(self, sets: list[Rows], size: int, order: torch.Generator | None):
        super().__init__(sets, size, order)
        described = sets[0].described
        self._items = [one["name"] for one in described if one["role"] == "target"]
        self._others = [one["name"] for one in described if one["role"] == "other"]
        histories = [one["name"] for one in described if one["role"] == "history"]
        there = self.x[histories[0]] != PAD
        newest_last = torch.argsort(there.int(), dim=1, stable=True)  # padding goes to the left
        for name in histories:
            self.x[name] = self.x[name].gather(1, newest_last)

    def formed(self, x: dict[str, torch.Tensor], label: torch.Tensor) -> Any:
        others = {name: x[name] for name in self._others}
        items = {name: torch.cat([x[f"history_{name}"], x[name][:, None]], 1).flatten() for name in self._items}
        mask = (x[f"history_{self._items[0]}"] != PAD).float()
        return others | {LABEL: label}, items, mask


class FuxiCTR(Answers):
    def build(
        self, network: str, rate: float, seed: int, batch_size: int, widths: list[int], l2: float | None = None
    ) -> Any:
        seed_everything(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.size = batch_size
        sizes = {HIDDEN[network]: list(MLP), "embedding_dim": widths[0]}
        described = feature_map(self.sets[0].described, widths)
        options = TRAINER | sizes | {"learning_rate": rate, "embedding_regularizer": l2}
        self.model = CLASSES[network](described, **options)
        self.model.eval_step = lambda: None  # the epochs are judged from outside
        self.model.load_weights = lambda checkpoint: None
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def train(self, rows: list[int]) -> Any:
        self.model.fit(LongBatches([self.sets[one] for one in rows], self.size, self.order), epochs=1)
        return {}

    def fell(self) -> Any:
        return {"rate": self.model.lr_decay()}

    def scores(self, rows: Rows) -> npt.NDArray[Any]:
        return self.model.predict(LongBatches([rows], PREDICTED, None))  # type: ignore[no-any-return]


if __name__ == "__main__":
    serve(FuxiCTR)
