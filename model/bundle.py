"""The artefact: written by export, read by the service; everything a request needs besides the store.

<name>/<version>/  model.onnx, model.onnx.data   graph; its tables are memory-mapped and shared by workers
                   model.int8.onnx               optional: the graph with an MLP of bytes, on the same tables
                   features.toml, vocab/         how to encode
                   catalog/items.npy             item features; a newer one may be swapped in, also while it is served
                   golden.json                   recorded requests with their scores
                   golden.npy                    the catalogue of the items that these requests name
                   report.json                   metrics, data, seed, versions
                   manifest.json                 schema version, sha256 of every file
<name>/current     symlink to the newest version, swapped last
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from model.features.behaviour import Behaviour
from model.features.catalog import FILE, Catalog, CatalogError, partial_prefix
from model.features.encode import Encoder, Inputs
from model.features.ids import Keys, canonical, keys
from model.features.timeposition import bucket_count

SCHEMA_VERSION = 1
READS = (1,)  # schema versions that this release reads
GOLDEN_TOLERANCE = 1e-5
GRAPH, INT8_GRAPH, REPORT = "model.onnx", "model.int8.onnx", "report.json"
WEIGHTS = "weights.pt"  # as trained: what --warm and --quantize go on from; the service does not read it
INT8 = "int8"  # the manifest's and the report's key of the gate's figures (model/quantize.py)
CATALOG, GOLDEN, GOLDEN_CATALOG = f"catalog/{FILE}", "golden.json", "golden.npy"


class BundleError(Exception):
    """A bundle that must not be served; the message names the file and what is wrong with it."""


class Session(onnxruntime.InferenceSession):  # type: ignore[misc]  # it publishes no types
    """A graph ready to run; `names`: of its inputs, which it would look up anew for every run.

    Serving takes one thread that never spins; the others are there for loadtest.scoring, which compares them.
    """

    def __init__(self, graph: Path, threads: int = 1, spinning: bool = False):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        options.log_severity_level = 3
        super().__init__(str(graph), options, providers=["CPUExecutionProvider"])
        self.names = tuple(node.name for node in self.get_inputs())


class Bundle:
    """An opened bundle; hashes are checked by `verify`, once, by whoever starts the workers."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder = folder
        self.manifest = manifest
        missing = [name for name in manifest["files"] if not (folder / name).is_file()]
        if missing:
            raise BundleError(f"{folder}: missing {', '.join(missing)}, which manifest.json lists")
        try:
            self.encoder = Encoder.open(folder)
            self.catalog = Catalog.open(folder / CATALOG, self.encoder.schema)
            # Golden requests prove the model, whatever the catalogue has become; a bundle made before there was such a
            # file answers them with its catalogue.
            own = GOLDEN_CATALOG in manifest["files"]
            self._golden_catalog = Catalog.open(folder / GOLDEN_CATALOG, self.encoder.schema) if own else self.catalog
        except (ValueError, OSError, KeyError) as error:
            raise BundleError(f"{folder}: {error}") from None
        self.schema = self.encoder.schema
        self.name: str = manifest["name"]
        self.version: str = manifest["version"]
        self.limits = _limits(self.encoder)
        self._unsigned = {name: limit.astype(np.uint64) for name, limit in self.limits.items()}

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """The bundle at `path`, or the one that its `current` points to. Raises BundleError."""
        return cls(*located(path))

    @classmethod
    def unfinished(cls, folder: Path) -> "Bundle":
        """A bundle that is still being written and has no manifest yet; for export, which scores with it."""
        return cls(folder, {"name": folder.parent.name, "version": "unfinished", "files": {}})

    def verify(self) -> None:
        """Compares every file with its sha256. Raises BundleError, also for a file that the manifest does not list."""
        there = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        there = {name for name in there if not name.startswith(f"catalog/{partial_prefix(FILE)}")}  # a swap under way
        strangers = there - set(self.manifest["files"]) - {"manifest.json"}
        if strangers:
            raise BundleError(f"{self.folder}: {', '.join(sorted(strangers))} not listed in manifest.json")
        for name, facts in self.manifest["files"].items():
            if name == CATALOG:
                verify_catalog(self.folder, self.manifest)
                continue
            found = _sha256(self.folder / name)
            if found != facts["sha256"]:
                raise BundleError(
                    f"{self.folder / name}: sha256 {found[:12]}…, manifest.json says {facts['sha256'][:12]}…"
                )

    def read_catalog(self) -> Catalog:
        """The catalogue that is in place now, its hash compared. Raises BundleError."""
        try:
            verify_catalog(self.folder, self.manifest)
            return Catalog.open(self.folder / CATALOG, self.schema)
        except (CatalogError, OSError) as error:
            raise BundleError(str(error)) from None

    def session(self, graph: Path | None = None) -> Session:
        """A session for serving, of the fp32 graph unless another is named.

        One thread a run (requests run side by side), none spinning while idle.
        """
        return Session(graph or self.folder / GRAPH)

    def score(self, session: Session, inputs: Inputs) -> npt.NDArray[np.float32]:
        """Scores (U, C) of encoded requests. Raises BundleError for a row outside its table

        A negative one would wrap silently.
        """
        for name, limit in self._unsigned.items():
            if name in inputs and (inputs[name].view(np.uint64) >= limit).any():  # unsigned, a negative one is huge
                raise BundleError(f"input {name!r} holds a row outside its table")
        feed = {name: inputs[name] for name in session.names}
        scores: npt.NDArray[np.float32] = session.run(["score"], feed)[0]
        return scores

    def golden(self) -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = json.loads((self.folder / GOLDEN).read_text())["requests"]
        return requests

    def replay_golden(self, session: Session, tolerance: float = GOLDEN_TOLERANCE) -> None:
        """Answers the recorded requests again.

        Raises BundleError when a score is not as recorded, to `tolerance`; relative above 1.
        """
        for number, request in enumerate(self.golden()):
            scores = self.score(session, self.encode_golden(request))[0]
            recorded = np.asarray(request["scores"])
            if scores.shape != recorded.shape or not np.isfinite(scores).all():
                raise BundleError(
                    f"{self.folder}: golden request {number} is answered with {scores.size} scores or not finitely"
                )
            difference = float((np.abs(scores - recorded) / np.maximum(1, np.abs(recorded))).max())
            if difference > tolerance:
                raise BundleError(
                    f"{self.folder}: golden request {number} is answered {difference:.1e} off its recorded scores"
                )

    def int8_session(self) -> Session:
        """The int8 graph's session, proven on the golden requests. Raises BundleError, which says what is missing."""
        figures = self.manifest.get(INT8)
        if not figures:
            raise BundleError("the bundle has no int8 graph (python -m model.export --quantize makes one)")
        if not figures["accepted"]:
            said = f"AUC fell by {figures['auc_drop']:.5f}, Kendall's tau was {figures['kendall_tau']:.4f}"
            raise BundleError(f"the bundle's int8 graph failed its gate: {said}")
        if not byte_products():
            raise BundleError("this processor has no instructions for products of bytes (AVX-512 VNNI, AVX-VNNI)")
        session = self.session(self.folder / INT8_GRAPH)
        self.replay_golden(session, 2 * figures["golden_max_abs_diff"] + GOLDEN_TOLERANCE)
        return session

    def golden_items(self) -> Keys:
        """Keys of the items that the golden requests name, as candidates or in histories; repeated ones too."""
        history = self.schema.history
        named = [item for request in self.golden() for item in request["candidates"]]
        for request in self.golden():
            named += [b[2] for b in request["behaviours"] if b[1] == history.object_type]
        return keys([canonical(item, self.schema.item_id.type) for item in named], self.schema.item_id.type)

    def write_golden_catalog(self) -> None:
        """Writes `golden.npy`, beside the `golden.json` whose scores were recorded with this catalogue."""
        self.catalog.only(self.golden_items()).save(self.folder / GOLDEN_CATALOG)

    def add_golden_catalog(self) -> None:
        """Gives a bundle made before its `golden.npy`, so that its catalogue may change. Raises BundleError.

        Only where the golden requests are still answered as recorded with the catalogue that is in place.
        """
        self.replay_golden(self.session())
        self.write_golden_catalog()
        self.amend({}, {}, [GOLDEN_CATALOG])

    def amend(self, texts: Mapping[str, str], facts: Mapping[str, Any], files: Sequence[str]) -> None:
        """Rewrites files of text and adds `facts` to the manifest, which lists those of `files` that are there."""
        for name, text in texts.items():
            self._write(name, text)
        listed = {name: fact for name, fact in self.manifest["files"].items() if (self.folder / name).exists()}
        listed |= {name: _facts(self.folder / name) for name in (*texts, *files) if (self.folder / name).exists()}
        self.manifest = {**self.manifest, **facts, "files": dict(sorted(listed.items()))}
        self._write("manifest.json", json.dumps(self.manifest, indent=1) + "\n")

    def _write(self, name: str, text: str) -> None:
        partial = self.folder / f".{name}-{os.getpid()}"
        partial.write_text(text)
        os.replace(partial, self.folder / name)

    def encode_golden(self, request: Mapping[str, Any], catalog: Catalog | None = None) -> Inputs:
        return self.encoder.encode(
            request["user_id"],
            request["profile"],
            [Behaviour(*behaviour) for behaviour in request["behaviours"]],
            request["candidates"],
            request["now"],
            catalog or self._golden_catalog,
            context=request["context"],
        ).inputs


@contextmanager
def writing(parent: Path, name: str, facts: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to fill; on leaving without an error it becomes `parent/name/<version>` and `current` points to it.

    The yielded path is where the files go; the finished bundle is what `parent/name/current` resolves to.
    """
    home = parent / name
    home.mkdir(parents=True, exist_ok=True)
    partial = home / f".partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        files = {str(path.relative_to(partial)): path for path in sorted(partial.rglob("*")) if path.is_file()}
        version = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{_sha256(partial / 'model.onnx.data')[:8]}"
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "version": version,
            **facts,
            "made_with": {
                "onnxruntime": onnxruntime.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "files": {key: _facts(path) for key, path in files.items()},
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        os.replace(partial, home / version)
        link = home / f".current-{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(version)
        os.replace(link, home / "current")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def located(path: Path) -> tuple[Path, dict[str, Any]]:
    """Folder and manifest of the bundle at `path`, or of the one that its `current` points to. Raises BundleError."""
    folder = (path / "current" if (path / "current").is_dir() else path).resolve()
    return folder, _manifest(folder)


def verify_catalog(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compares the catalogue with the sha256 at its own end, which goes with it when it is swapped in.

    One without (bundles made before) must be the manifest's. Raises BundleError.
    """
    path, recorded = folder / CATALOG, manifest["files"][CATALOG]["sha256"]
    try:
        if not Catalog.verify(path) and (found := _sha256(path)) != recorded:
            raise BundleError(
                f"{path}: sha256 {found[:12]}…, manifest.json says {recorded[:12]}…, and none stands at its own end: "
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
    except FileNotFoundError:
        raise BundleError(f"{folder} is no bundle: it has neither a manifest.json nor a `current`") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") not in READS:
        given = manifest.get("schema_version") if isinstance(manifest, dict) else None
        raise BundleError(f"{path}: schema version {given!r}, this release reads {', '.join(map(str, READS))}")
    wanting = {"name", "version", "network", "objective", "files"} - set(manifest)
    if wanting:
        raise BundleError(f"{path}: {', '.join(sorted(wanting))} missing")
    files = manifest["files"]
    if not isinstance(files, dict) or not all(isinstance(f, dict) and "sha256" in f for f in files.values()):
        raise BundleError(f"{path}: `files` must name each file with its sha256")
    needed = {"model.onnx", "model.onnx.data", "features.toml", GOLDEN, CATALOG}
    if needed - set(files):
        raise BundleError(f"{path}: {', '.join(sorted(needed - set(files)))} missing from `files`")
    return manifest


def _limits(encoder: Encoder) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of the table behind every column of every integer input."""
    schema, sides = encoder.schema, ("user", "item", "context", "cross")
    features = {side: schema.side(side) for side in sides} | {"history": schema.sequence}  # type: ignore[arg-type]
    features |= {f"history_{group.object_type}": (group.feature,) for group in schema.groups}
    limits = {
        name: np.array([encoder.table_rows(f) for f in side if not f.is_float for _ in range(f.columns)], np.int64)
        for name, side in features.items()
    }
    gaps = np.array(bucket_count(schema.history.gap_edges_s))
    limits |= {"gap": gaps, "action": np.array(1 + len(schema.history.actions))}
    for group in schema.groups:
        limits |= {
            f"gap_{group.object_type}": gaps,
            f"action_{group.object_type}": np.array(1 + len(group.actions)),
        }
    return limits


def byte_products() -> bool:
    """Whether this processor multiplies bytes at once: without, int8 is slower than fp32 or saturates."""
    if platform.machine() in ("arm64", "aarch64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


def _facts(path: Path) -> dict[str, Any]:
    return {"sha256": _sha256(path), "bytes": path.stat().st_size}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
