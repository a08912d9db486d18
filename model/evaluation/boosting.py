"""Gradient boosting on counts: an opponent beside the floor that needs no network. LightGBM (Ke et al., NeurIPS 2017).

What an impression is described by:

    of user, item, category and context values    smoothed click rate (log odds, as in the floor) and how often shown
    of the history that networks see              length, age of the newest behaviour; of the behaviours on the
                                                  candidate's item and on its category: number, share, age and place
    as they are                                   numbers, and categories of few values
    with `derived`                                matches and statistics, as networks see them

Where negatives were drawn, nobody was shown them: only clicks are counted then, each value's share of all.

A training row's rates must not hold its own label, and to leave that one label out is not enough: what then lacks in a
group's clicks tells it. So training rows are cut by time into blocks, a row is described by what was counted before its
block, and the first block is only counted. Rows that are scored are described likewise: by what lies before them.

How many trees there are is picked on validation, after trees that were fitted to train alone; where validation is
trained on as well, so many are then fitted to both. Histories are as long as the data's `features.toml` says.

Scores are kept in `boosted/` of the prepared data: a hundred networks on it are measured beside one fit.
"""

import hashlib
import json
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from model.evaluation.metrics import Floats
from model.features.ids import PAD
from model.features.kinds import ITEM_ID, Side
from model.files import replacing
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS

Rows = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]  # (n,) each, by name
SIDES: dict[Side, str] = {"user": "users", "item": "items", "context": "context"}  # arrays of encoded features
CHUNK = 65_536  # impressions whose histories are gathered at once
PARAMETERS = Path(__file__).with_suffix(".toml")
FOLDER = "boosted"


@dataclass(frozen=True)
class Parameters:
    """What boosting.toml holds, where each has its reason."""

    most_rows: int
    blocks: int
    smoothing: float
    most_values: int
    most_trees: int
    patience: int
    blind_trees: int
    lightgbm: dict[str, Any]


@cache
def parameters() -> Parameters:
    return Parameters(**tomllib.loads(PARAMETERS.read_text()))


def boosted_scores(
    data: Prepared, rows: Rows, trained_on: Sequence[str] = ("train",), derived: bool = False
) -> Floats | None:
    """Click probabilities (n,) by trees that were fitted to the splits `trained_on`; kept with the prepared data.

    `derived`: the trees see the data's match and statistic features beside what they count themselves. None where the
    data has none, where a row was trained on, and where lightgbm is not installed, which is told once on stderr.
    """
    if derived and not (data.encoder.schema.matches or data.encoder.schema.statistics):
        return None
    unseen = _of(data, [split for split in SPLITS if split not in trained_on])
    if not np.isin(rows, unseen, assume_unique=True).all():
        return None
    name = "_".join([*sorted(trained_on), *["derived"] * derived])
    path, key = data.folder / FOLDER / f"{name}.npz", _key(data, trained_on, derived)
    scores = _kept(path, key)
    if scores is None:
        try:
            scores = Boosted(data, trained_on, derived).scores(unseen)
        except (ImportError, OSError) as error:  # OSError: the library is there, and OpenMP's is not
            _tell(f"no gradient boosting beside the figures ({error}); pip install 'bst-ranker[train]' brings it")
            return None
        _keep(path, key, scores)
    return scores[np.searchsorted(unseen, rows)]


class Boosted:
    """Trees fitted to some splits of a data set. Raises ImportError or OSError where lightgbm cannot be imported."""

    def __init__(self, data: Prepared, trained_on: Sequence[str] = ("train",), derived: bool = False):
        self.data, self.derived = data, derived
        self.described, self.booster = self._fitted([split for split in trained_on if split != "validation"])
        if "validation" in trained_on:
            trees = self.booster.current_iteration() if self.booster else None
            self.described, self.booster = self._fitted(trained_on, trees)

    def scores(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Click probabilities of impressions (n,), by what was counted on all that was trained on."""
        if self.booster is None:
            return np.full(len(rows), self.described.rate, np.float32)
        scores = [self.booster.predict(self.described.matrix(part)) for part in _parts(rows)]
        return np.concatenate(scores).astype(np.float32)

    def _fitted(self, trained_on: Sequence[str], trees: int | None = None) -> tuple["Described", Any]:
        """Counts, and trees: `trees` of them, else as many as are best on validation. None where no label differs."""
        import lightgbm  # of the extra `train`, and slow to import

        how, data = parameters(), self.data
        described, inputs, label = training_rows(data, _of(data, trained_on), self.derived)
        if not 0 < label.sum() < len(label):
            return described, None
        rows = data.of_split("validation")
        categories = [at for at, name in enumerate(described.columns(rows[:0])) if name in described.categories]
        train = lightgbm.Dataset(inputs, label, categorical_feature=categories, params=how.lightgbm)
        stopped = trees is None and 0 < data.label[rows].sum() < len(rows)
        most = trees or (how.most_trees if stopped else how.blind_trees)
        with tqdm(total=most, desc="gradient boosting", unit="tree", delay=1, leave=False) as bar:
            callbacks: list[Any] = [lambda _: bar.update() and None]
            judges = []
            if stopped:
                judged = described.matrix(rows)
                judges = [lightgbm.Dataset(judged, data.label[rows], reference=train, params=how.lightgbm)]
                callbacks.append(lightgbm.early_stopping(how.patience, verbose=False))
            booster = lightgbm.train(how.lightgbm, train, most, valid_sets=judges, callbacks=callbacks)
        best = booster.best_iteration if stopped else most
        return described, lightgbm.Booster(model_str=booster.model_to_string(num_iteration=best))


def training_rows(data: Prepared, rows: Rows, derived: bool = False) -> tuple["Described", Floats, npt.NDArray[Any]]:
    """Counts on `rows`, which are in time order; of the newest rows the columns (n, columns) and labels (n,)."""
    how, described = parameters(), Described(data, derived)
    older, newest = np.split(rows, [max(0, len(rows) - how.most_rows)])
    described.add(older)
    matrices, labels = [described.matrix(rows[:0])], [data.label[rows[:0]]]
    for block in np.array_split(newest, how.blocks):
        if described.rows:
            matrices.append(described.matrix(block))
            labels.append(data.label[block])
        described.add(block)
    return described, np.concatenate(matrices), np.concatenate(labels)


class Described:
    """Impressions as columns, by what was counted among the rows that were added so far."""

    def __init__(self, data: Prepared, derived: bool = False):
        self.data, self.derived, self.rows, self.clicked = data, derived, 0, 0
        self.drawn = data.meta.get("drawn_negatives", False)
        schema, items = data.encoder.schema, data.arrays["items"]
        at, embedded = schema.places("item"), [f for f in schema.side("context") if not f.is_float]
        # The values (items, k) of what stands for an item in a sequence beside its id: its category.
        self.alike = {f.name: np.ascontiguousarray(items[:, at[f.name]]) for f in schema.sequence if f.name != ITEM_ID}
        sizes = {"item": len(items), "user": len(data.arrays["users"])}
        sizes |= {f"{name} {k}": data.rows[name] for name, values in self.alike.items() for k in range(values.shape[1])}
        sizes |= {f"context {f.name} {k}": data.rows[f.name] for f in embedded for k in range(f.columns)}
        self.shown = {group: np.zeros(size, np.int64) for group, size in sizes.items()}
        self.clicks = {group: np.zeros(size, np.int64) for group, size in sizes.items()}

    @property
    def rate(self) -> float:
        return (self.clicked + 1) / (self.rows + 2)

    @property
    def categories(self) -> set[str]:
        """Names of the columns whose values have no order."""
        features = self.data.encoder.schema.features
        return {f"= {f.name}" for f in features if f.kind != "number"}

    def add(self, rows: Rows) -> None:
        for part in _parts(rows):
            clicked = self.data.label[part] > 0
            self.rows, self.clicked = self.rows + len(part), self.clicked + int(clicked.sum())
            for group, value in self._values(part).items():
                np.add.at(self.shown[group], value, 1)
                np.add.at(self.clicks[group], value[clicked], 1)

    def matrix(self, rows: Rows) -> npt.NDArray[np.float32]:
        """All columns of impressions, (n, columns)."""
        stacked = [np.stack(list(self.columns(part).values()), 1).astype(np.float32) for part in _parts(rows)]
        return np.concatenate(stacked)

    def columns(self, rows: Rows) -> Columns:
        seen = self._counted(rows) | self._history(rows) | self._plain(rows)
        return seen | (self._derived(rows) if self.derived else {})

    def _values(self, rows: Rows) -> Columns:
        """Which value of each group the impressions have."""
        a = self.data.arrays
        item = a["item"][rows]
        of_item = [column for values in self.alike.values() for column in values[item].T]
        return dict(zip(self.shown, [item, a["user"][rows], *of_item, *a["context"][rows].T], strict=True))

    def _counted(self, rows: Rows) -> Columns:
        columns: Columns = {}
        smoothing, rate = parameters().smoothing, self.rate
        for group, value in self._values(rows).items():
            shown, clicks = self.shown[group][value], self.clicks[group][value]
            if self.drawn:
                columns[f"clicks of {group}"] = np.log((clicks + 1) / (self.clicked + 1))
            else:
                smoothed = (clicks + smoothing * rate) / (shown + smoothing)
                columns[f"rate of {group}"] = np.log(smoothed / (1 - smoothed)) - np.log(rate / (1 - rate))
                columns[f"times of {group}"] = np.log1p(shown)
        return columns

    def _history(self, rows: Rows) -> Columns:
        """Of the newest behaviours (n, T) strictly before each impression: all, and those like the candidate."""
        a, length = self.data.arrays, self.data.encoder.schema.history.length
        item, at = a["item"][rows], a["end"][rows][:, None] - np.arange(1, length + 1)  # the newest first
        visible = at >= a["begin"][a["user"][rows]][:, None]
        at = np.where(visible, at, 0)
        clicked, age = at, np.zeros(at.shape)
        if len(a["clicked"]):
            clicked = a["clicked"][at]
            age = np.log1p(np.maximum(a["time"][rows][:, None] - a["clicked_at"][at], 0) / 1000)
        same = {"item": visible & (clicked == item[:, None])}
        for name, values in self.alike.items():
            own = values[item][:, None, None, :]  # of several values one in common is enough
            same[name] = visible & ((values[clicked][..., None] == own) & (own != PAD)).any((-1, -2))
        length_of = visible.sum(1)
        columns: Columns = {"behaviours": length_of, "age": np.where(length_of > 0, age[:, 0], np.nan)}
        for name, match in same.items():
            newest, there = match.argmax(1), match.any(1)
            columns[f"same {name}"] = match.sum(1)
            columns[f"same {name}, share"] = match.sum(1) / np.maximum(length_of, 1)
            columns[f"same {name}, age"] = np.where(there, age[np.arange(len(rows)), newest], np.nan)
            columns[f"same {name}, place"] = np.where(there, newest, np.nan)
        return columns

    def _plain(self, rows: Rows) -> Columns:
        """Numbers, and categories of few values, as they are encoded."""
        columns: Columns = {}
        a, schema = self.data.arrays, self.data.encoder.schema
        of_side = {"user": a["user"][rows], "item": a["item"][rows], "context": rows}
        for side, name in SIDES.items():
            numbers, encoded, places = a[f"{name}_numbers"][of_side[side]], a[name][of_side[side]], schema.places(side)
            floats = [f.name for f in schema.side(side) if f.is_float]
            columns |= {f"= {feature}": numbers[:, at] for at, feature in enumerate(floats)}
            for feature in schema.side(side):
                few = feature.kind == "number" or self.data.rows.get(feature.name, 0) <= parameters().most_values
                if not feature.is_float and feature.columns == 1 and few:
                    columns[f"= {feature.name}"] = encoded[:, places[feature.name].start]
        return columns

    def _derived(self, rows: Rows) -> Columns:
        """Matches, whose rows rise with what they tell, and statistics as of the day before."""
        numbers = [f.name for f in self.data.encoder.schema.side("cross") if f.is_float]
        statistics = self.data.arrays["cross_numbers"][rows]
        matches = {f"match {name}": own for name, own in self.data.matches(rows).items()}
        return matches | {f"statistic {name}": statistics[:, at] for at, name in enumerate(numbers)}


def _of(data: Prepared, splits: Sequence[str]) -> Rows:
    """Impressions of several splits, in time order."""
    return np.flatnonzero(np.isin(data.arrays["split"], [SPLITS.index(split) for split in splits]))


def _parts(rows: Rows) -> Iterator[Rows]:
    """At least one part, so that no rows have columns, too."""
    for at in range(0, max(1, len(rows)), CHUNK):
        yield rows[at : at + CHUNK]


def _key(data: Prepared, trained_on: Sequence[str], derived: bool) -> str:
    """What kept scores depend on: this code and its parameters, the data as they were prepared, splits, columns."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + PARAMETERS.read_bytes())
    files = [(str(path), path.stat()) for path in sorted((data.folder / "encoded").rglob("*.npy"))]
    written = [(Path(name).name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    digest.update(json.dumps([data.fingerprint, sorted(trained_on), derived, written]).encode())
    return digest.hexdigest()


def _kept(path: Path, key: str) -> Floats | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return kept["scores"] if str(kept["key"]) == key else None
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):  # none, or one that cannot be read
        return None


def _keep(path: Path, key: str, scores: Floats) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            np.savez(partial, key=np.array(key), scores=scores)
    except OSError as error:
        _tell(f"gradient boosting is fitted anew each time: its scores cannot be kept ({error})")


@cache
def _tell(note: str) -> None:
    """On stderr, once a process."""
    print(note, file=sys.stderr)
