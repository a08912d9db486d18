"""What `python -m model.reproduce` is told: which networks, other programs' scores, settings tried."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation.metrics import Floats
from model.prepared.loader import Prepared
from model.reproduction.gather import standard
from model.reproduction.runs import RUNS
from model.reproduction.variants import DEFAULT, Variant, ablations, parse_all
from model.reproduction.work import CONTENT


class ReproduceError(ValueError):
    """What cannot be reproduced from; says what was given and what is allowed."""


def named(networks: str | None, with_ablations: bool, common: str) -> tuple[list[Variant], list[Variant]]:
    """What --networks names, and the ablations to set apart from it. Raises OptionError, ReproduceError."""
    variants = parse_all(networks.split(",") if networks else list(DEFAULT), common)
    if not with_ablations:
        return variants, []
    bst = standard("bst", variants)
    if bst is None:
        raise ReproduceError("--ablations are of bst, which --networks does not name")
    there = {variant.folder for variant in variants}
    return variants, [variant for variant in ablations(bst, common) if variant.folder not in there]


def reported(out: Path) -> tuple[list[Variant], list[Variant], int, str]:
    """The same of the report that the folder holds, of how many runs it was to be, and their common options.

    Raises ReproduceError.
    """
    if not (out / CONTENT).exists():
        raise ReproduceError(f"{out} holds no {CONTENT}; name the --networks, or have it made without --report-only")
    content = json.loads((out / CONTENT).read_text())
    entries = {label: entry for label, entry in content["networks"].items() if entry["kind"] != "peer"}
    switched = [label for label, entry in entries.items() if "switch" in entry]
    common = content["with"]
    variants = parse_all([label for label in entries if label not in switched], common)
    return variants, parse_all(switched, common) if switched else [], content["progress"]["planned"], common


def read_peers(paths: Sequence[Path], rows: np.ndarray[Any, Any]) -> dict[str, list[Floats]]:
    """Other programs' scores of the test impressions, by name: arrays (n,) of .npz files, a file for each seed.

    Raises ReproduceError.
    """
    peers: dict[str, list[Floats]] = {}
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                scores = {name: arrays[name] for name in arrays.files}
        except (ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:  # AttributeError: a lone .npy
            raise ReproduceError(f"{path} is no .npz file of scores: {error}") from None
        for name, score in scores.items():
            if score.shape != rows.shape or score.dtype.kind != "f" or not np.isfinite(score).all():
                raise ReproduceError(
                    f"{path}: {name!r} is {score.dtype} {score.shape}; expected are {len(rows)} finite scores, one for "
                    "each impression of test in order"
                )
            peers.setdefault(name, []).append(score)
    return peers


def read_trials(texts: Sequence[str]) -> dict[str, int]:
    """Settings tried by name, of `NAME=N`. Raises ReproduceError."""
    trials = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal():
            raise ReproduceError(f"--trials {text!r}; a network or a peer and a whole number are allowed: bst=20")
        trials[name] = int(number)
    return trials


def check(data: Prepared, out: Path) -> None:
    """Raises ReproduceError for data that no AUC can be computed on, and for a folder that is not ours."""
    label = data.label[data.of_split("test")]
    if label.sum() in (0, len(label)):
        raise ReproduceError(
            f"{data.folder}: {label.sum()} clicks among {len(label)} impressions of test; both classes are needed"
        )
    if out.exists() and not out.is_dir():
        raise ReproduceError(f"--out {out} is no folder")
    if out.is_dir() and not (out / RUNS).is_dir() and (strangers := sorted(path.name for path in out.iterdir())):
        raise ReproduceError(
            f"--out {out} holds something else ({', '.join(strangers[:3])}); name a new folder or a report's"
        )
