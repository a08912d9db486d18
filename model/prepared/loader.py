"""The training form of a data set, memory-mapped, and batches of it: a history is gathered, never materialised.

`python -m model.prepare` writes these files; `encoded/` holds N columns a side as model/features/encode.py makes them:

    users, items (rows, N) · users_numbers, items_numbers     one row a user, an item
    user, item, time, label, split, end (impressions,)        sorted by time; user and item are rows of the above
    context, cross, context_numbers, cross_numbers (impressions, N)    cross: the hashed ones; matches are found anew
    matched (items, N)                                        codes that tell the values of matched features apart
    paired-begins, paired-<f>-together, paired-<f>-alone      pairs of a feature's values by day (paired.py)
    clicked, clicked_at, acted (behaviours,) · begin (users,) sorted by user, time, key, action; item row, ms, action
    impressions-clicked_at, impressions-begin, impressions-end    likewise, times of what was shown, where it is counted
    <g>_clicked, <g>_clicked_at, <g>_acted, <g>_begin, <g>_end likewise for every further behaviour group g; table rows

`end` is one past the last behaviour that the impression's user had strictly before it, less the feedback delay of
`model.prepare --delay`, so the history is [end-T, end).

Batches are drawn from memory-mapped files. An epoch is shuffled in blocks: BLOCK impressions that lie together stay in
one window, windows of WINDOW impressions are mixed through, so that what a batch touches lies in few pages however
large the log. In memory are the row numbers of a split (8 bytes an impression) and the sequence features of the items.
"""

import hashlib
import json
from collections.abc import Iterator
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.catalog import FILE, Catalog
from model.features.encode import Encoder, Inputs, network_inputs
from model.features.ids import PAD
from model.features.schema import Schema
from model.features.timeposition import time_positions
from model.prepared.matched import Matches
from model.prepared.paired import names as paired_names
from model.prepared.slices import ends
from model.prepared.splits import SPLITS
from model.prepared.today import SHOWN, TodayCounts, counts_impressions

_OF_IMPRESSIONS = ("user", "item", "time", "label", "split", "context", "context_numbers", "cross", "cross_numbers")
_ARRAYS = (*_OF_IMPRESSIONS, "users", "users_numbers", "items", "items_numbers", "matched")
ROWS = 1_000_000  # impressions whose ends are searched at once


class BrokenData(ValueError):
    """A prepared data set that cannot be read; names the file and says what to do."""


class Prepared:
    """A prepared data set in `folder`.

    Raises FileNotFoundError with what to do when it is none, BrokenData when something in it is missing or cut off.
    """

    def __init__(self, folder: Path):
        if not (folder / "meta.json").exists():
            raise FileNotFoundError(
                f"{folder} is no prepared data set (no meta.json); make one with python -m model.prepare"
            )
        self.folder = folder
        try:
            self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
            self.encoder = Encoder.open(folder)
            self.schema = self.encoder.schema
            self.catalog = Catalog.open(folder / "catalog" / FILE, self.schema)
        except (OSError, ValueError) as error:
            raise BrokenData(f"{folder} is broken ({error}); prepare it again") from None
        if not isinstance(self.meta, dict) or "dataset" not in self.meta:
            raise BrokenData(f"{folder} is broken (meta.json names no dataset); prepare it again")
        arrays = {path.stem: _mapped(path) for path in sorted((folder / "encoded").glob("*.npy"))}
        self.arrays: dict[str, npt.NDArray[Any]] = arrays
        groups = ("", *(f"{group.object_type}_" for group in self.schema.groups))
        of_groups = [
            f"{group}{name}" for group in groups for name in ("clicked", "clicked_at", "acted", "begin", "end")
        ]
        if counts_impressions(self.schema, [*arrays]):
            of_groups += [f"{SHOWN}{name}" for name in ("clicked_at", "begin", "end")]
            groups = (*groups, SHOWN)
        missing = [name for name in (*_ARRAYS, *of_groups, *paired_names(self.schema)) if name not in arrays]
        if missing:
            cause = f"no {', '.join(f'encoded/{name}.npy' for name in missing[:3])}"
            raise FileNotFoundError(f"{folder} is broken, or of an older release ({cause}); prepare it again")
        lengths = {name: len(arrays[name]) for name in (*_OF_IMPRESSIONS, *(f"{group}end" for group in groups))}
        if len(set(lengths.values())) > 1:
            raise BrokenData(
                f"{folder} is broken (arrays of impressions differ in length: {lengths}); prepare it again"
            )
        self.user, self.item, self.time, self.label = (arrays[name] for name in ("user", "item", "time", "label"))
        self._groups = groups
        self._delayed = False  # whether histories end otherwise than they were prepared
        self.rows = {f.name: self.encoder.table_rows(f) for f in self.schema.embedded if not f.is_float}

    def seen_by(self, schema: Schema) -> "Prepared":
        """The same rows with the widths and history lengths of another schema."""
        other = copy(self)
        other.schema = schema
        return other

    @property
    def delay_s(self) -> float:
        """Behaviours newer than this before an impression are not known yet."""
        return float(self.meta.get("delay_s", 0))  # releases before the option had none

    def delayed(self, delay_s: float) -> "Prepared":
        """The same rows with another feedback delay: every history ends at the last behaviour before now - delay.

        Gaps are counted from the impression all the same. Takes 8 bytes an impression of memory for each group.
        """
        other, delay_ms = copy(self), round(delay_s * 1000)
        other.meta, other._delayed = self.meta | {"delay_s": delay_s}, True
        other.arrays = dict(self.arrays)
        for made in ("_matches", "today"):  # of these arrays, if at all
            other.__dict__.pop(made, None)
        for group in self._groups:
            begin, times = self.arrays[f"{group}begin"], self.arrays[f"{group}clicked_at"]
            other.arrays[f"{group}end"] = end = np.empty(len(self.time), np.int64)
            for at in range(0, len(end), ROWS):
                part = slice(at, at + ROWS)
                end[part] = ends(begin, times, self.user[part], self.time[part] - delay_ms)
        return other

    @cached_property
    def _sequence(self) -> npt.NDArray[np.int32]:
        """Rows of every item's sequence features, (items, N): most of what a batch gathers."""
        places = self.schema.places("item")
        return np.ascontiguousarray(self.arrays["items"][:, np.r_[tuple(places[f.name] for f in self.schema.sequence)]])

    @cached_property
    def _matches(self) -> Matches:
        """By the encoding, not by what a network sees: rows of all of its matches."""
        return Matches(self.encoder.schema, self.arrays)

    @cached_property
    def today(self) -> TodayCounts:
        """Likewise, what is of today."""
        return TodayCounts(self.encoder.schema, self.arrays, self.encoder.calendar)

    @property
    def fingerprint(self) -> str:
        """What the encoding and the rows were when they were prepared; differs when the data is prepared otherwise."""
        digest = hashlib.sha256((self.folder / "features.toml").read_bytes() + (self.folder / "meta.json").read_bytes())
        for path in sorted((self.folder / "vocab").iterdir()):
            digest.update(path.read_bytes())
        if self._delayed:
            digest.update(f"delay {self.delay_s}".encode())
        return digest.hexdigest()

    def of_split(self, split: str) -> npt.NDArray[np.int64]:
        """Impressions of a split, in time order."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}, allowed: {', '.join(SPLITS)}")
        return np.flatnonzero(self.arrays["split"] == SPLITS.index(split))

    def batch(self, rows: npt.NDArray[np.int64]) -> Inputs:
        """Network input of impressions (U,), C = 1; arrays as model/features/encode.py lists them."""
        a = self.arrays
        user, item = a["user"][rows], a["item"][rows]
        found = self._matches.rows(rows, user, item)
        if self.encoder.schema.todays:
            found = np.concatenate([found, self.today.rows(rows, user)])
        sequences = self._histories(rows, user, "", "", self.schema.history.length, self._sequence)
        for group in self.schema.groups:
            name = group.object_type
            sequences |= self._histories(rows, user, f"{name}_", f"_{name}", group.length, None)
        return network_inputs(
            user=a["users"][user].astype(np.int64),
            item=a["items"][item].astype(np.int64)[:, None],
            context=a["context"][rows].astype(np.int64)[:, None],
            cross=self.encoder.crosses.joined(found, a["cross"][rows].astype(np.int64))[:, None],
            **sequences,
            user_numbers=a["users_numbers"][user],
            item_numbers=a["items_numbers"][item][:, None],
            context_numbers=a["context_numbers"][rows][:, None],
            cross_numbers=a["cross_numbers"][rows][:, None],
        )

    def matches(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        """Rows (U,) of each match of impressions, by name."""
        of_all = self._matches.rows(rows, self.arrays["user"][rows], self.arrays["item"][rows])
        return {match.name: own for match, own in zip(self.encoder.schema.matches, of_all, strict=True)}

    def _histories(
        self,
        rows: npt.NDArray[np.int64],
        user: npt.NDArray[np.int32],
        prefix: str,
        suffix: str,
        length: int,
        of_object: npt.NDArray[np.int32] | None,
    ) -> Inputs:
        """The three inputs of one behaviour group; `of_object` (objects, N) are the objects' rows, None: they are."""
        a = {name: self.arrays[prefix + name] for name in ("clicked", "clicked_at", "acted", "begin", "end")}
        end = a["end"][rows]
        at = np.maximum(a["begin"][user], end - length)[:, None] + np.arange(length)
        visible = at < end[:, None]
        if not len(a["clicked"]):
            width, none = 1 if of_object is None else of_object.shape[-1], np.full(at.shape, PAD, np.int64)
            return {f"history{suffix}": np.repeat(none[..., None], width, -1)} | {
                f"{name}{suffix}": none for name in ("gap", "action")
            }
        at = np.where(visible, at, 0)
        clicked = a["clicked"][at]
        history = (clicked[..., None] if of_object is None else of_object[clicked]).astype(np.int64)
        gap = time_positions(a["clicked_at"][at], self.arrays["time"][rows], self.schema.history.gap_edges_s)
        return {
            f"history{suffix}": np.where(visible[..., None], history, PAD),
            f"gap{suffix}": np.where(visible, gap, PAD),
            f"action{suffix}": np.where(visible, a["acted"][at].astype(np.int64), PAD),
        }


def _mapped(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise BrokenData(f"{path} is cut off or no array ({error}); prepare the data set again") from None
    return array


def batches(data: Prepared, rows: npt.NDArray[np.int64], size: int) -> Iterator[tuple[npt.NDArray[np.int64], Inputs]]:
    """The impressions `rows`, in their order, in batches of `size`: (rows, input) pairs."""
    for at in range(0, len(rows), size):
        chosen = rows[at : at + size]
        yield chosen, data.batch(chosen)
