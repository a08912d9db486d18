"""What the programs of the peers' environment share: rows read from files, batches, questions as lines of JSON."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

PAD = 0
MLP = (1024, 512, 256)
PREDICTED = 4096  # rows at once
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class Rows:
    """One file of rows: a tensor for each feature."""

    def __init__(self, path: str):
        with np.load(path) as arrays:
            self.described = json.loads(str(arrays["features"]))
            self.x = {name[2:]: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("x_")}
            self.label = torch.from_numpy(arrays["label"])

    def __len__(self) -> int:
        return len(self.label)


class Batches:
    """Sliced batches of several sets of rows, an epoch's order anew each time they are gone through."""

    def __init__(self, sets: list[Rows], size: int, order: torch.Generator | None):
        self.x = {name: torch.cat([rows.x[name] for rows in sets]) for name in sets[0].x}
        self.label = torch.cat([rows.label for rows in sets])
        self.size, self.order = size, order

    def __len__(self) -> int:
        return -(-len(self.label) // self.size)

    def __iter__(self) -> Iterator[Any]:
        order = torch.arange(len(self.label))
        if self.order is not None:
            order = torch.randperm(len(self.label), generator=self.order)
        for at in range(0, len(order), self.size):
            chosen = order[at : at + self.size]
            if len(chosen) > 1 or self.order is None:  # BatchNorm cannot train on one row
                yield self.formed({name: values[chosen] for name, values in self.x.items()}, self.label[chosen])

    def formed(self, x: dict[str, torch.Tensor], label: torch.Tensor) -> Any:
        """A batch as its library takes it."""
        return x, label


class Answers:
    """Answers questions about sets of rows; a library's own methods are questions too."""

    def __init__(self, sets: list[Rows]):
        self.sets = sets

    def scores(self, rows: Rows) -> npt.NDArray[Any]:
        """Of the network that was built and trained, (n,)."""
        raise NotImplementedError

    def predict(self, rows: int, out: str) -> dict[str, Any]:
        scores = np.asarray(self.scores(self.sets[rows]), np.float32)
        np.save(out, scores)
        return {"auc": float(roc_auc_score(self.sets[rows].label.numpy(), scores))}


def serve(answers: Callable[[list[Rows]], Answers]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    library = answers([Rows(path) for path in args.rows])
    for line in sys.stdin:
        question = json.loads(line)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            answer = getattr(library, question.pop("do"))(**question)  # trainers print and draw bars
        print(json.dumps(answer), flush=True)
