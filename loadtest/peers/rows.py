"""Our impressions as rows for other libraries: the same integers and numbers, named and described."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.errors import NoRun
from model.features.kinds import Feature, Side
from model.prepared.loader import Prepared

SIDES: tuple[Side, ...] = ("user", "item", "context", "cross")
CHUNK = 65_536  # impressions gathered at once


def encoded(data: Prepared, rows: npt.NDArray[np.int64]) -> tuple[list[dict[str, Any]], dict[str, npt.NDArray[Any]]]:
    """Impressions (n,) as other libraries take them: features described, and an array (n,) or (n, T) for each.

    The same integers and numbers as ours, with PAD for what is not there; a feature that stands in the sequence is a
    target feature, which their models give to the MLP too. The history ends where ours does, its oldest first.
    """
    schema = data.schema
    kept: dict[str, list[npt.NDArray[Any]]] = {}
    described: dict[str, dict[str, Any]] = {}
    for at in range(0, len(rows), CHUNK):
        inputs = data.batch(rows[at : at + CHUNK])
        for feature, column in _columns(data, inputs):
            role, kind = ("target", "sparse") if feature.sequence_width else ("other", "sparse")
            if feature.columns > 1:
                if feature.sequence_width:
                    raise NoRun(f"{feature.name}: a peer has no place for a multi-valued feature in a sequence")
                kind = "multi"
            described[feature.name] = {
                "name": feature.name, "role": role, "kind": kind, "rows": data.rows[feature.name]
            }  # fmt: skip
            kept.setdefault(feature.name, []).append(column.astype(np.int32))
        for name, place in schema.places("sequence").items():
            described[f"history_{name}"] = {
                "name": f"history_{name}", "role": "history", "kind": "sequence", "rows": data.rows[name],
                "shared_with": name
            }  # fmt: skip
            kept.setdefault(f"history_{name}", []).append(inputs["history"][..., place][..., 0].astype(np.int32))
        for side in SIDES:
            plain = [f.name for f in schema.side(side) if f.is_float]
            for number, name in enumerate(plain):
                described[name] = {"name": name, "role": "other", "kind": "dense"}
                values = inputs[f"{side}_numbers"]
                kept.setdefault(name, []).append(values.reshape(len(values), -1)[:, number])
    return list(described.values()), {name: np.concatenate(parts) for name, parts in kept.items()}


def _columns(data: Prepared, inputs: Mapping[str, npt.NDArray[Any]]) -> list[tuple[Feature, npt.NDArray[Any]]]:
    """Every embedded feature of the impressions with its rows, (n,) or, of a multi, (n, places)."""
    columns = []
    for side in SIDES:
        by_name = {f.name: f for f in data.schema.side(side)}
        for name, place in data.schema.places(side).items():
            if by_name[name].width or by_name[name].sequence_width:
                values = inputs[side].reshape(len(inputs[side]), -1)[:, place]
                columns.append((by_name[name], values[:, 0] if by_name[name].columns == 1 else values))
    return columns


def write_rows(path: Path, data: Prepared, rows: npt.NDArray[np.int64]) -> None:
    """Impressions for a peer's program: an .npz file of the arrays, the labels and the features' description."""
    described, arrays = encoded(data, rows)
    text = np.array(json.dumps(described))
    label = np.asarray(data.label[rows], np.float32)
    named: dict[str, Any] = {f"x_{name}": array for name, array in arrays.items()}
    np.savez(path, features=text, label=label, **named)
