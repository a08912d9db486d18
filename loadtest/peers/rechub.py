"""torch-rechub 0.9.0 as shipped, on rows that it is data. Runs in the peers' environment; reads and writes JSON lines.

    python -m loadtest.peers.rechub --rows FILE ...     the sets of rows, of which the questions speak by number
    {"do": "build", "network": "BST", "rate": 0.001, "seed": 1, "batch_size": 1024, "widths": [16, 32], "ffn": null,
     "l2": 1e-5}                    → {"parameters"}; "l2": its weight decay, on all weights
    {"do": "time", "rows": 0}       one epoch by its own trainer and its own DataLoader → {"seconds"}
    {"do": "train", "rows": [0, 1]} one epoch over these rows, shuffled, by its own trainer → {"loss"}
    {"do": "fell"}                  the epoch was no better on validation: nothing, by itself → {}
    {"do": "predict", "rows": 2, "out": FILE}   → scores (n,) in FILE (.npy), {"auc"}
    {"do": "export", "network": "BST", "widths": [16, 32], "rows": 0, "out": FILE}   → its class as an ONNX file, its
                                    rows and history dynamic; {"inputs": names} or {"refused": why}

Classes, initial weights, loss and trainer are its own. Departures: "ffn" replaces the Transformer's layer by one of
another inner width (its class leaves torch's 2048); "train" slices batches, since its DataLoader picks rows one by
one, which changes the time and not the result.
"""

import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch_rechub.basic.features import (  # type: ignore[import-not-found]  # installed in the peers' environment alone
    DenseFeature,
    SequenceFeature,
    SparseFeature,
)
from torch_rechub.models.ranking import BST, DIN, WideDeep  # type: ignore[import-not-found]
from torch_rechub.trainers import CTRTrainer  # type: ignore[import-not-found]
from torch_rechub.utils.data import DataGenerator  # type: ignore[import-not-found]

from loadtest.peers.program import MLP, PAD, PREDICTED, Answers, Batches, Rows, serve

ATTENTION_MLP = (256, 128)  # of DIN's unit, as in its example
DROPOUT = 0.2  # likewise


def features(described: list[dict[str, Any]], role: str, wide: int) -> list[Any]:
    """Its feature objects of one role, all of one width: it stacks their embeddings."""
    objects = []
    for one in described:
        if one["role"] != role:
            continue
        match one["kind"]:
            case "sparse":
                objects.append(SparseFeature(one["name"], one["rows"], wide))
            case "multi":
                objects.append(SequenceFeature(one["name"], one["rows"], wide, pooling="mean", padding_idx=PAD))
            case "sequence":
                shared = one["shared_with"]
                objects.append(
                    SequenceFeature(
                        one["name"], one["rows"], wide, pooling="concat", shared_with=shared, padding_idx=PAD
                    )
                )
            case _:
                objects.append(DenseFeature(one["name"]))
    return objects


def build(described: list[dict[str, Any]], network: str, widths: list[int], ffn: int | None) -> Any:
    """`widths`: of an embedding outside the sequence, and in it."""
    other = features(described, "other", widths[0])
    history, target = (features(described, role, widths[1]) for role in ("history", "target"))
    if network == "BST":
        length = 1 + 512  # places of its position table: more than any history here
        mlp = {"dims": list(MLP), "activation": "leakyrelu", "dropout": DROPOUT}
        model = BST(other, history, target, mlp, nhead=8, dropout=DROPOUT, num_layers=1, max_seq_len=length)
        if ffn:
            layer = nn.TransformerEncoderLayer(
                model.item_dim, 8, dim_feedforward=ffn, dropout=DROPOUT, activation=nn.LeakyReLU(), batch_first=True
            )
            model.transformer_layers = nn.TransformerEncoder(layer, num_layers=1)
        return model
    if network == "DIN":  # it drops dense features and then misses their columns: they stay out
        sparse = [feature for feature in other if not isinstance(feature, DenseFeature)]
        mlp = {"dims": list(MLP), "dropout": DROPOUT}
        return DIN(sparse, history, target, mlp, attention_mlp_params={"dims": list(ATTENTION_MLP)})
    mlp = {"dims": list(MLP), "activation": "relu", "dropout": DROPOUT}
    deep = [*other, *features(described, "target", widths[0])]
    return WideDeep([feature for feature in deep if not isinstance(feature, DenseFeature)], deep, mlp)


class Rechub(Answers):
    def build(
        self, network: str, rate: float, seed: int, batch_size: int, widths: list[int], ffn: int | None = None,
        l2: float = 1e-5,
    ) -> Any:  # fmt: skip
        torch.manual_seed(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.size = batch_size
        model = build(self.sets[0].described, network, widths, ffn)
        self.trainer = CTRTrainer(model, optimizer_params={"lr": rate, "weight_decay": l2}, model_path=os.devnull)
        return {"parameters": sum(p.numel() for p in model.parameters())}

    def time(self, rows: int) -> Any:
        data = self.sets[rows]
        loader = DataGenerator(data.x, data.label).generate_dataloader(
            x_val=data.x, y_val=data.label, x_test=data.x, y_test=data.label, batch_size=self.size
        )[0]
        begun = time.perf_counter()
        self.trainer.train_one_epoch(loader)
        return {"seconds": time.perf_counter() - begun}

    def train(self, rows: list[int]) -> Any:
        return {"loss": self.trainer.train_one_epoch(Batches([self.sets[one] for one in rows], self.size, self.order))}

    def fell(self) -> Any:
        return {}

    def scores(self, rows: Rows) -> npt.NDArray[Any]:
        return np.array(self.trainer.predict(self.trainer.model, Batches([rows], PREDICTED, None)))

    def export(self, network: str, widths: list[int], rows: int, out: str) -> Any:
        data = self.sets[rows]
        model = build(data.described, network, widths, None).eval()
        lengths = {one["name"] for one in data.described if one["kind"] == "sequence"}
        dynamic = {}
        for name, values in data.x.items():
            axes = range(2 if name in lengths else 1)
            dynamic[name] = dict.fromkeys(axes[: values.dim()], torch.export.Dim.DYNAMIC)
        try:
            with torch.no_grad():
                torch.onnx.export(
                    model, f=out, kwargs={"x": data.x}, dynamic_shapes={"x": dynamic}, input_names=list(data.x),
                    output_names=["score"], dynamo=True, external_data=False, verbose=False,
                )  # fmt: skip
        except Exception as error:  # the exporter raises what it meets in the class; the benchmark then tells so
            return {"refused": (str(error.__cause__ or error).strip().splitlines() or ["without a word"])[0]}
        return {"inputs": list(data.x)}


if __name__ == "__main__":
    serve(Rechub)
