"""A bundle's files, written beside and renamed into place."""

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
import onnxruntime

from model.bundle.layout import GOLDEN_CATALOG, SCHEMA_VERSION, _facts, _sha256
from model.bundle.reading import Bundle
from model.features.ids import Keys, canonical, keys


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


def add_golden_catalog(bundle: Bundle) -> None:
    """Gives a bundle made before its `golden.npy`, so that its catalogue may change. Raises BundleError.

    Only where the golden requests are still answered as recorded with the catalogue that is in place.
    """
    bundle.replay_golden(bundle.session())
    write_golden_catalog(bundle)
    amend(bundle, {}, {}, [GOLDEN_CATALOG])


def amend(bundle: Bundle, texts: Mapping[str, str], facts: Mapping[str, Any], files: Sequence[str]) -> None:
    """Rewrites files of text and adds `facts` to the manifest, which lists those of `files` that are there."""
    for name, text in texts.items():
        _write(bundle, name, text)
    listed = {name: fact for name, fact in bundle.manifest["files"].items() if (bundle.folder / name).exists()}
    listed |= {name: _facts(bundle.folder / name) for name in (*texts, *files) if (bundle.folder / name).exists()}
    bundle.manifest = {**bundle.manifest, **facts, "files": dict(sorted(listed.items()))}
    _write(bundle, "manifest.json", json.dumps(bundle.manifest, indent=1) + "\n")


def _write(bundle: Bundle, name: str, text: str) -> None:
    partial = bundle.folder / f".{name}-{os.getpid()}"
    partial.write_text(text)
    os.replace(partial, bundle.folder / name)
