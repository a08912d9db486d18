"""The peer that training is measured against, torch-rechub, in an environment of its own.

The project never imports it: `rechub.py` runs in the peers' environment, knows nothing of the project, and is given
rows as an .npz file. That environment sees the project's packages too (a .pth file), so that both sides run on one
torch and 200 MB are spared.
"""

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.errors import NoRun
from model.features.kinds import Feature, Side
from model.prepared.loader import Prepared

RECHUB = "torch-rechub==0.9.0"
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "peers"
PROGRAM = Path(__file__).parent / "rechub.py"
NUMBERS: tuple[Side, ...] = ("user", "item", "context")
CHUNK = 65_536  # impressions gathered at once


def environment(folder: Path = FOLDER, install: bool = True) -> Path | None:
    """The Python of the peers' environment; made where it is missing. None where it is missing and may not be made."""
    python, mark = folder / "bin" / "python", folder / f"{RECHUB}.done"
    if mark.exists() or not install:
        return python if mark.exists() else None
    print(f"installing {RECHUB} into {folder}", file=sys.stderr)
    venv.create(folder, with_pip=False, clear=True)
    base = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", base))
    (packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after its own: pip, torch, numpy
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints, RECHUB]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NoRun(f"{RECHUB} could not be installed: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    mark.touch()
    return python


def encoded(data: Prepared, rows: npt.NDArray[np.int64]) -> tuple[list[dict[str, Any]], dict[str, npt.NDArray[Any]]]:
    """Impressions (n,) as torch-rechub takes them: its features described, and an array (n,) or (n, T) for each.

    The same integers as ours, with PAD for what is not there; a feature that stands in the sequence is a target
    feature, which its models give to the MLP too. Its history ends where ours does.
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
                    raise NoRun(f"{feature.name}: torch-rechub has no place for a multi-valued feature in a sequence")
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
        for side in NUMBERS:
            plain = [f.name for f in schema.side(side) if f.is_float]
            for number, name in enumerate(plain):
                described[name] = {"name": name, "role": "other", "kind": "dense"}
                values = inputs[f"{side}_numbers"]
                kept.setdefault(name, []).append(values.reshape(len(values), -1)[:, number])
    return list(described.values()), {name: np.concatenate(parts) for name, parts in kept.items()}


def _columns(data: Prepared, inputs: Mapping[str, npt.NDArray[Any]]) -> list[tuple[Feature, npt.NDArray[Any]]]:
    """Every embedded feature of the impressions with its rows, (n,) or, of a multi, (n, places)."""
    columns = []
    sides: tuple[Side, ...] = ("user", "item", "context", "cross")
    for side in sides:
        by_name = {f.name: f for f in data.schema.side(side)}
        for name, place in data.schema.places(side).items():
            if by_name[name].width or by_name[name].sequence_width:
                values = inputs[side].reshape(len(inputs[side]), -1)[:, place]
                columns.append((by_name[name], values[:, 0] if by_name[name].columns == 1 else values))
    return columns


def write_rows(path: Path, data: Prepared, rows: npt.NDArray[np.int64]) -> None:
    """Impressions for `rechub.py`: an .npz file of the arrays, the labels and the features' description."""
    described, arrays = encoded(data, rows)
    text = np.array(json.dumps(described))
    label = np.asarray(data.label[rows], np.float32)
    named: dict[str, Any] = {f"x_{name}": array for name, array in arrays.items()}
    np.savez(path, features=text, label=label, **named)


class Peer:
    """A process in the peers' environment; it answers every line of JSON that it is sent with one."""

    def __init__(self, python: Path, arguments: Sequence[str], threads: int):
        command = [str(python), str(PROGRAM), *arguments, "--threads", str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Raises NoRun where the process has died."""
        assert self._process.stdin and self._process.stdout and self._process.stderr
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            lines = self._process.stderr.read().strip().splitlines()
            raise NoRun(f"torch-rechub's process ended: {lines[-1] if lines else 'without a word'}")
        return dict(json.loads(answer))

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
