"""Versions of one bundle side by side under a folder with `current`, told apart by their weights and their scores."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from model.bundle import versions
from model.bundle.reading import Bundle
from model.bundle.writing import amend

FIRST, SECOND, THIRD = NAMES = ("20260101T000000-a", "20260102T000000-b", "20260103T000000-c")


def version(bundle: Bundle, home: Path, name: str, scale: float = 1.0) -> Path:
    """A copy of the bundle under `home`, its weights scaled, with golden requests recorded anew."""
    folder = home / name
    shutil.copytree(bundle.folder, folder)
    weights = np.memmap(folder / "model.onnx.data", np.float32, "r+")
    weights *= scale
    weights.flush()
    copy = Bundle.open(folder)
    session = copy.session()
    golden = {"requests": copy.golden()}
    for request in golden["requests"]:
        request["scores"] = copy.score(session, copy.encode_golden(request))[0].tolist()
    amend(copy, {"golden.json": golden}, {"version": name}, list(copy.manifest["files"]))
    return folder


def three(bundle: Bundle, home: Path) -> Path:
    """`home` with three versions, `current` the first."""
    home.mkdir(parents=True)
    for name, scale in zip(NAMES, (1.0, 1.3, 0.7), strict=True):
        version(bundle, home, name, scale)
    versions.point(home, FIRST)
    return home


def spoil(folder: Path) -> None:
    """One byte of its weights is another."""
    content = bytearray((folder / "model.onnx.data").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx.data").write_bytes(content)


def golden_off(folder: Path) -> None:
    """Its hashes are right, its answers are not: made by another library, say."""
    golden = json.loads((folder / "golden.json").read_text())
    golden["requests"][0]["scores"][0] += 0.01
    (folder / "golden.json").write_text(json.dumps(golden))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["golden.json"]["sha256"] = hashlib.sha256((folder / "golden.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
