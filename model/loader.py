"""The training form of a data set, memory-mapped, and batches of it: a history is gathered, never materialised.

`python -m model.prepare` writes these files; `encoded/` holds N columns a side as model/features/encode.py makes them:

    users, items (rows, N) · users_numbers, items_numbers     one row a user, an item
    user, item, time, label, split, end (impressions,)        sorted by time; user and item are rows of the above
    context, cross, context_numbers (impressions, N)
    clicked, clicked_at (behaviours,) · begin (users,)        sorted by user, time and key; item row and ms

`end` is one past the last behaviour that the impression's user had strictly before it, so the history is [end-T, end).
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.features.catalog import FILE, Catalog
from model.features.encode import Encoder, Inputs, network_inputs
from model.features.ids import PAD
from model.features.timeposition import time_positions

SPLITS = ("train", "validation", "test")


class Prepared:
    """A prepared data set in `folder`. Raises FileNotFoundError with what to do when it is none."""

    def __init__(self, folder: Path):
        if not (folder / "meta.json").exists():
            raise FileNotFoundError(
                f"{folder} is no prepared data set (no meta.json); make one with python -m model.prepare"
            )
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        self.encoder = Encoder.open(folder)
        self.schema = self.encoder.schema
        self.catalog = Catalog.open(folder / "catalog" / FILE, self.schema)
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted((folder / "encoded").glob("*.npy"))}
        self.arrays: dict[str, npt.NDArray[Any]] = arrays
        self.user, self.item, self.time, self.label = (arrays[name] for name in ("user", "item", "time", "label"))
        self.rows = {f.name: self.encoder.table_rows(f) for f in self.schema.features if not f.is_float}
        places = self.schema.places("item")
        self._sequence = np.r_[tuple(places[f.name] for f in self.schema.sequence)]

    @property
    def fingerprint(self) -> str:
        """What the encoding and the rows were when they were prepared; differs when the data is prepared otherwise."""
        made = hashlib.sha256((self.folder / "features.toml").read_bytes() + (self.folder / "meta.json").read_bytes())
        for path in sorted((self.folder / "vocab").iterdir()):
            made.update(path.read_bytes())
        return made.hexdigest()

    def of_split(self, split: str) -> npt.NDArray[np.int64]:
        """Impressions of a split, in time order."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}, allowed: {', '.join(SPLITS)}")
        return np.flatnonzero(self.arrays["split"] == SPLITS.index(split))

    def batch(self, rows: npt.NDArray[np.int64]) -> Inputs:
        """Network input of impressions (U,), C = 1; arrays as model/features/encode.py lists them."""
        a, length = self.arrays, self.schema.history.length
        user, item = a["user"][rows], a["item"][rows]
        end = a["end"][rows]
        at = np.maximum(a["begin"][user], end - length)[:, None] + np.arange(length)
        visible = at < end[:, None]
        at = np.where(visible, at, 0)
        history = np.full((len(rows), length, len(self._sequence)), PAD, np.int64)
        gap = np.full((len(rows), length), PAD, np.int64)
        if len(a["clicked"]):
            clicked = a["items"][a["clicked"][at]][..., self._sequence]
            history = np.where(visible[..., None], clicked, PAD).astype(np.int64)
            gap = np.where(
                visible, time_positions(a["clicked_at"][at], a["time"][rows], self.schema.history.gap_edges_s), PAD
            )
        return network_inputs(
            user=a["users"][user].astype(np.int64),
            item=a["items"][item].astype(np.int64)[:, None],
            context=a["context"][rows].astype(np.int64)[:, None],
            cross=a["cross"][rows].astype(np.int64)[:, None],
            history=history,
            gap=gap,
            user_numbers=a["users_numbers"][user],
            item_numbers=a["items_numbers"][item][:, None],
            context_numbers=a["context_numbers"][rows][:, None],
        )


def batches(
    data: Prepared, rows: npt.NDArray[np.int64], size: int, begin: int = 0
) -> Iterator[tuple[npt.NDArray[np.int64], Inputs]]:
    """The impressions `rows` in batches of `size`, from the batch number `begin` on: (rows, input) pairs."""
    for at in range(begin * size, len(rows), size):
        chosen = rows[at : at + size]
        yield chosen, data.batch(chosen)


def tensors(inputs: Inputs) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}
