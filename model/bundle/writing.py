"""A bundle's files, written beside and renamed into place."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from model.bundle import versions
from model.bundle.layout import (
    EXPORTED_AT,
    GOLDEN_CATALOG,
    GOLDEN_COUNTS,
    SCHEMA_VERSION,
    VERSION_TIME,
    _facts,
    _sha256,
)
from model.bundle.reading import Bundle
from model.features.counts import Counts, Floats, Known
from model.features.ids import Keys, canonical, keys
from model.features.sealed import Stamp
from model.files import beside, write_json


@dataclass
class Draft:
    """A bundle that is being written: `folder` is where its files go, until they are whole.

    `publish` says whether `current` will point to it, `keep` whether anything of it stays, and `facts` what stands in
    its manifest; whoever writes it may decide so until the last.
    """

    folder: Path
    home: Path
    publish: bool = True
    keep: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    _now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def version(self) -> str:
        """Named by its time and its weights, so not to be asked for before they are written."""
        return f"{self._now:{VERSION_TIME}}-{_sha256(self.folder / 'model.onnx.data')[:8]}"

    @property
    def exported_at(self) -> str:
        return f"{self._now:{EXPORTED_AT}}"

    @property
    def finished(self) -> Path:
        """Where the bundle will stand."""
        return self.home.resolve() / self.version


@contextmanager
def writing(parent: Path, name: str, facts: Mapping[str, Any]) -> Iterator[Draft]:
    """A bundle to fill; on leaving without an error it becomes `parent/name/<version>`, and `current` points to it.

    Where `facts` name it otherwise, its folder is called `name` all the same.
    """
    home = parent / name
    home.mkdir(parents=True, exist_ok=True)
    with beside(home / "bundle") as partial:
        partial.mkdir()
        draft = Draft(partial, home, facts=dict(facts))
        yield draft
        if not draft.keep:
            return
        files = {str(path.relative_to(partial)): path for path in sorted(partial.rglob("*")) if path.is_file()}
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "version": draft.version,
            "exported_at": draft.exported_at,
            **draft.facts,
            "made_with": {
                "onnxruntime": onnxruntime.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "files": {key: _facts(path) for key, path in files.items()},
        }
        write_json(partial / "manifest.json", manifest)
        partial.replace(home / draft.version)
        if draft.publish:
            versions.point(home, draft.version)


def golden_items(bundle: Bundle) -> Keys:
    """Keys of the items that the golden requests name, as candidates or in histories; repeated ones too."""
    history = bundle.schema.history
    named = [item for request in bundle.golden() for item in request["candidates"]]
    for request in bundle.golden():
        named += [b[2] for b in request["behaviours"] if b[1] == history.object_type]
    return keys([canonical(item, bundle.schema.item_id.type) for item in named], bundle.schema.item_id.type)


def write_golden_catalog(bundle: Bundle) -> None:
    """Writes `golden.npy`, beside the `golden.json` whose scores were recorded with this catalogue."""
    bundle.catalog.only(golden_items(bundle)).save(bundle.folder / GOLDEN_CATALOG)


def write_golden_counts(bundle: Bundle) -> None:
    """Writes `golden_statistics.npy`: of what was counted, that of which the golden requests ask."""
    if isinstance(bundle.encoder.counts, Counts):
        asked = _Asked(bundle.encoder.counts)
        for request in bundle.golden():
            bundle.encode_golden(request, counts=asked)
        bundle.encoder.counts.only(np.concatenate(asked.keys)).save(bundle.folder / GOLDEN_COUNTS, bundle.schema)


class _Asked:
    """Counts that remember of which keys they were asked."""

    stamp: Stamp | None = None
    sha256: str | None = None

    def __init__(self, counts: Known):
        self._counts, self.keys = counts, [np.zeros(0, np.uint64)]

    def begun(self, now: int) -> int:
        return self._counts.begun(now)

    def before(self, now: int, keys: Keys) -> Floats:
        self.keys.append(keys)
        return self._counts.before(now, keys)


def add_golden_catalog(bundle: Bundle) -> None:
    """Gives a bundle made before its `golden.npy`, so that its catalogue may change. Raises BundleError.

    Only where the golden requests are still answered as recorded with the catalogue that is in place.
    """
    bundle.replay_golden(bundle.session())
    write_golden_catalog(bundle)
    amend(bundle, {}, {}, [GOLDEN_CATALOG])


def amend(bundle: Bundle, contents: Mapping[str, Any], facts: Mapping[str, Any], files: Sequence[str]) -> None:
    """Rewrites JSON files and adds `facts` to the manifest, which lists those of `files` that are there."""
    for name, content in contents.items():
        write_json(bundle.folder / name, content)
    listed = {name: fact for name, fact in bundle.manifest["files"].items() if (bundle.folder / name).exists()}
    listed |= {name: _facts(bundle.folder / name) for name in (*contents, *files) if (bundle.folder / name).exists()}
    bundle.manifest = {**bundle.manifest, **facts, "files": dict(sorted(listed.items()))}
    write_json(bundle.folder / "manifest.json", bundle.manifest)
