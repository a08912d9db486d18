"""Where a bundle's files are and what its manifest must say."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from model.bundle import versions
from model.bundle.errors import BundleError as BundleError  # by this name most know it
from model.features.catalog import FILE, FOLDER, Catalog, CatalogError
from model.features.counts import FILE as COUNTS_FILE

SCHEMA_VERSION = 2  # 2: features of kinds match and statistic
READS = (1, 2)  # schema versions that this release reads
GOLDEN_TOLERANCE = 1e-5
GRAPH, INT8_GRAPH, REPORT = "model.onnx", "model.int8.onnx", "report.json"
EXPORTED_AT, VERSION_TIME = "%Y-%m-%dT%H:%M:%SZ", "%Y%m%dT%H%M%S"  # UTC; a version begins with its time
NARROW = ("fp16", "int8")  # what long embedding tables may be stored in instead of fp32
ATTENTION_GRAPH = "attention.onnx"  # what `explain` asks; older bundles, and networks without attention, have none
WEIGHTS = "weights.pt"  # as trained: what --warm, --quantize and --explain go on from; the service does not read it
RECIPE = "recipe.toml"  # what it was trained by, to copy and change
INT8 = "int8"  # the manifest's and the report's key of the gate's figures (model/graph/quantize.py)
TABLES = "tables"  # likewise, of tables that are not fp32 (model/graph/narrow.py); most bundles have no such key
CATALOG, GOLDEN, GOLDEN_CATALOG = f"{FOLDER}/{FILE}", "golden.json", "golden.npy"
COUNTS, GOLDEN_COUNTS = f"{FOLDER}/{COUNTS_FILE}", "golden_statistics.npy"  # of features of kind statistic
# Those before the last swap; in no manifest, and not read while serving.
PREVIOUS_CATALOG, PREVIOUS_COUNTS = f"{FOLDER}/previous.npy", f"{FOLDER}/previous_statistics.npy"
OLDER = f"{FOLDER}/older"  # likewise: those before these, by the sha256 at their ends, for model.replay


def located(path: Path) -> tuple[Path, dict[str, Any]]:
    """Folder and manifest of the bundle at `path`, or of the one that its `current` points to. Raises BundleError."""
    folder = versions.behind(path)
    return folder, _manifest(folder)


def verify_catalog(folder: Path, manifest: Mapping[str, Any], name: str = CATALOG) -> None:
    """Compares a catalogue with the sha256 at its own end, which goes with it when it is swapped in.

    One without (bundles made before) must be the manifest's. Raises BundleError.
    """
    path, recorded = folder / name, manifest["files"][CATALOG]["sha256"]
    try:
        if not Catalog.verify(path) and (sha256 := _sha256(path)) != recorded:
            raise BundleError(
                f"{path}: sha256 {sha256[:12]}…, manifest.json says {recorded[:12]}…, and none stands at its own end: "
                "cut off, or not written by model.catalog"
            )
    except CatalogError as error:
        raise BundleError(str(error)) from None
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        bundles = sorted(folder.glob("*/current"))
        made = sorted(folder.glob("[0-9]*T*/manifest.json"))[::-1]  # newest first
        inside = [str(one.parent) for one in (bundles or made)[:3]]
        why = "it has neither a manifest.json nor a `current`"
        if made:
            why = "it has no `current`, since no version of it was published (model.train said why)"
        named = f"; it holds {', '.join(inside)}: name one of them" if inside else ""
        raise BundleError(f"{folder} is no bundle: {why}{named}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") not in READS:
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        raise BundleError(f"{path}: schema version {version!r}, this release reads {', '.join(map(str, READS))}")
    wanting = {"name", "version", "network", "objective", "files"} - set(manifest)
    if wanting:
        raise BundleError(f"{path}: {', '.join(sorted(wanting))} missing")
    files = manifest["files"]
    if not isinstance(files, dict) or not all(isinstance(f, dict) and "sha256" in f for f in files.values()):
        raise BundleError(f"{path}: `files` must name each file with its sha256")
    outside = [name for name in files if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if outside:
        raise BundleError(f"{path}: `files` names {', '.join(outside[:3])}, outside the bundle's folder")
    needed = {"model.onnx", "model.onnx.data", "features.toml", GOLDEN, CATALOG}
    if needed - set(files):
        raise BundleError(f"{path}: {', '.join(sorted(needed - set(files)))} missing from `files`")
    return manifest


def _facts(path: Path) -> dict[str, Any]:
    return {"sha256": _sha256(path), "bytes": path.stat().st_size}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
