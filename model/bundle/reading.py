"""The artefact: written by export, read by the service; everything a request needs besides the store.

<name>/<version>/  model.onnx, model.onnx.data   graph; its tables (fp32, fp16 or int8) are memory-mapped and shared by
                                                 workers
                   model.int8.onnx               optional: the graph with an MLP of bytes, on the same tables
                   attention.onnx                optional: what the network attends to, on the same tables (`explain`)
                   features.toml, vocab/         how to encode
                   catalog/items.npy             item features; a newer one may be swapped in, also while it is served
                   catalog/statistics.npy        what was counted until each of a few days; swapped like the catalogue
                   catalog/previous….npy         optional: those before their last swap, to go back to
                   catalog/older/                optional: those before these, to score a log again
                   golden.json                   recorded requests with their scores
                   golden.npy                    the catalogue of the items that these requests name
                   golden_statistics.npy         and what was counted of them
                   report.json, recipe.toml      metrics, data, seed, versions; what it was trained by
                   manifest.json                 schema version, exported_at, sha256 of every file
<name>/current     symlink to the version to serve, swapped last
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.bundle.layout import (
    CATALOG,
    COUNTS,
    EXPORTED_AT,
    GOLDEN,
    GOLDEN_CATALOG,
    GOLDEN_COUNTS,
    GOLDEN_TOLERANCE,
    GRAPH,
    INT8,
    INT8_GRAPH,
    OLDER,
    PREVIOUS_CATALOG,
    PREVIOUS_COUNTS,
    REPORT,
    TABLES,
    VERSION_TIME,
    BundleError,
    _sha256,
    located,
    verify_catalog,
)
from model.bundle.session import Session, byte_products
from model.features.behaviour import Behaviour
from model.features.catalog import FOLDER, Catalog, CatalogError
from model.features.counts import Counts, CountsError, Known
from model.features.encode import Encoder, Inputs
from model.features.timeposition import bucket_count
from model.files import partial_prefix


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
            self._golden_encoder = self.encoder  # likewise by the counts of then
            if GOLDEN_COUNTS in manifest["files"]:
                counts = Counts.open(folder / GOLDEN_COUNTS, self.encoder.schema)
                self._golden_encoder = self.encoder.with_counts(counts)
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

    @property
    def exported_s(self) -> float:
        """When it was exported, seconds since 1970.

        Older releases wrote no `exported_at`: then by the version, which begins with that time, or else, where another
        program named the version, by when the manifest was written.
        """
        for text, form in ((self.manifest.get("exported_at"), EXPORTED_AT), (self.version[:15], VERSION_TIME)):
            with suppress(ValueError):
                return datetime.strptime(str(text), form).replace(tzinfo=UTC).timestamp()
        return (self.folder / "manifest.json").stat().st_mtime

    @property
    def tables(self) -> str:
        """What its long embedding tables are stored in: fp32, fp16 or int8."""
        return str(self.manifest.get(TABLES, {}).get("form", "fp32"))

    def verify(self) -> None:
        """Compares every file with its sha256. Raises BundleError, also for a file that the manifest does not list."""
        there = {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}
        kept = (PREVIOUS_CATALOG, PREVIOUS_COUNTS)
        swapping = tuple(f"{FOLDER}/{partial_prefix(Path(name).name)}" for name in (CATALOG, COUNTS, *kept))
        there = {name for name in there if not name.startswith((*swapping, f"{OLDER}/"))}
        strangers = there - set(self.manifest["files"]) - {"manifest.json", *kept}
        if strangers:
            raise BundleError(f"{self.folder}: {', '.join(sorted(strangers))} not listed in manifest.json")
        self.verify_swapped()
        for name, facts in self.manifest["files"].items():
            if name in (CATALOG, COUNTS):
                continue
            sha256 = _sha256(self.folder / name)
            if sha256 != facts["sha256"]:
                raise BundleError(
                    f"{self.folder / name}: sha256 {sha256[:12]}…, manifest.json says {facts['sha256'][:12]}…"
                )

    def verify_swapped(self) -> None:
        """Compares the files that are swapped in service with the sha256 at their own ends. Raises BundleError."""
        verify_catalog(self.folder, self.manifest)
        if self.schema.counting:
            self._verify_counts()

    def read_catalog(self) -> Catalog:
        """The catalogue that is in place now, its hash compared. Raises BundleError."""
        try:
            verify_catalog(self.folder, self.manifest)
            return Catalog.open(self.folder / CATALOG, self.schema)
        except (CatalogError, OSError) as error:
            raise BundleError(str(error)) from None

    def with_catalog(self, catalog: Catalog) -> "Bundle":
        """The same bundle with another catalogue, opened by `read_catalog`."""
        bundle = copy(self)
        bundle.catalog = catalog
        return bundle

    def read_counts(self) -> Counts:
        """What was counted, of the file that is in place now, its hash compared. Raises BundleError."""
        self._verify_counts()
        try:
            return Counts.open(self.folder / COUNTS, self.schema)
        except (CountsError, OSError) as error:
            raise BundleError(str(error)) from None

    def with_counts(self, counts: Counts) -> "Bundle":
        """The same bundle with others, opened by `read_counts`."""
        bundle = copy(self)
        bundle.encoder = self.encoder.with_counts(counts)
        return bundle

    def _verify_counts(self) -> None:
        try:
            Counts.verify(self.folder / COUNTS)
        except (CountsError, OSError) as error:
            raise BundleError(str(error)) from None

    def session(self, graph: Path | None = None) -> Session:
        """A session for serving, of the fp32 graph unless another is named.

        One thread a run (requests run side by side), none spinning while idle.
        """
        return Session(graph or self.folder / GRAPH)

    def score(self, session: Session, inputs: Inputs, output: str = "score") -> npt.NDArray[np.float32]:
        """Scores (U, C) of encoded requests, or another output of a graph.

        Raises BundleError for a row outside its table: a negative one would wrap silently.
        """
        for name, limit in self._unsigned.items():
            if name in inputs and (inputs[name].view(np.uint64) >= limit).any():  # unsigned, a negative one is huge
                raise BundleError(f"input {name!r} holds a row outside its table")
        feed = {name: inputs[name] for name in session.names}
        scores: npt.NDArray[np.float32] = session.run([output], feed)[0]
        return scores

    def golden(self) -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = json.loads((self.folder / GOLDEN).read_text())["requests"]
        return requests

    def shares(self) -> dict[str, dict[str, float]]:
        """`unknown` and `missing`: by feature its share of the impressions of the newest split, as the report says.

        Empty where the report does not say it (other programs write bundles too).
        """
        try:
            splits = json.loads((self.folder / REPORT).read_text())["data"]["summary"]["splits"]
            newest = [splits[name] for name in ("train", "validation", "test") if name in splits][-1]
            return {name: dict(newest.get(name, {})) for name in ("unknown", "missing")}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def replay_golden(
        self, session: Session, tolerance: float = GOLDEN_TOLERANCE, pause: Callable[[], object] = lambda: None
    ) -> None:
        """Answers the recorded requests again; `pause` is called between two.

        Raises BundleError when a score is not as recorded, to `tolerance`; relative above 1.
        """
        for number, request in enumerate(self.golden()):
            pause()
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

    def int8_session(self, pause: Callable[[], object] = lambda: None) -> Session:
        """The int8 graph's session, proven on the golden requests, `pause` between two.

        Raises BundleError, which says what is missing.
        """
        figures = self.manifest.get(INT8)
        if not figures:
            raise BundleError("the bundle has no int8 graph (python -m model.export --quantize makes one)")
        if not figures["accepted"]:
            reasons = figures.get("refused") or ["its report says by how much"]  # older releases named no reason
            raise BundleError(f"the bundle's int8 graph failed its gate: {'; '.join(reasons)}")
        if not byte_products():
            raise BundleError("this processor has no instructions for products of bytes (AVX-512 VNNI, AVX-VNNI)")
        session = self.session(self.folder / INT8_GRAPH)
        self.replay_golden(session, 2 * figures["golden_max_abs_diff"] + GOLDEN_TOLERANCE, pause)
        return session

    def encode_golden(
        self, request: Mapping[str, Any], catalog: Catalog | None = None, counts: Known | None = None
    ) -> Inputs:
        encoder = self._golden_encoder if counts is None else self._golden_encoder.with_counts(counts)
        return encoder.encode(
            request["user_id"],
            request["profile"],
            [Behaviour(*behaviour) for behaviour in request["behaviours"]],
            request["candidates"],
            request["now"],
            catalog or self._golden_catalog,
            context=request["context"],
            shown_today=request.get("shown_today", -1),
        ).inputs


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
