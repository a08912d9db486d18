"""Scores by trees, kept in `boosted/` of the prepared data: a hundred networks are measured beside one fit."""

import hashlib
import json
import sys
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from model.evaluation.boosting.described import Rows
from model.evaluation.boosting.parameters import PARAMETERS
from model.evaluation.boosting.trees import Boosted, rows_of
from model.evaluation.metrics import Floats
from model.files import replacing
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS

FOLDER = "boosted"


def boosted_scores(
    data: Prepared, rows: Rows, trained_on: Sequence[str] = ("train",), derived: bool = False
) -> Floats | None:
    """Click probabilities (n,) by trees that were fitted to the splits `trained_on`; kept with the prepared data.

    `derived`: the trees see the data's match and statistic features beside what they count themselves. None where the
    data has none, where a row was trained on, and where lightgbm is not installed, which is told once on stderr.
    """
    if derived and not (data.encoder.schema.matches or data.encoder.schema.statistics):
        return None
    unseen = rows_of(data, [split for split in SPLITS if split not in trained_on])
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


def _key(data: Prepared, trained_on: Sequence[str], derived: bool) -> str:
    """What kept scores depend on: this code and its parameters, the data as they were prepared, splits, columns."""
    digest = hashlib.sha256()
    for path in [*sorted(Path(__file__).parent.glob("*.py")), PARAMETERS]:
        digest.update(path.read_bytes())
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
