"""A bundle's files, written beside and renamed into place."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from model.bundle.layout import EXPORTED_AT, GOLDEN_CATALOG, SCHEMA_VERSION, VERSION_TIME, _facts, _sha256
from model.bundle.reading import Bundle
from model.features.ids import Keys, canonical, keys
from model.files import beside, replacing, write_json


@contextmanager
def writing(parent: Path, name: str, facts: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to fill; on leaving without an error it becomes `parent/name/<version>` and `current` points to it.

    The yielded path is where the files go; the finished bundle is what `parent/name/current` resolves to.
    """
    home = parent / name
    home.mkdir(parents=True, exist_ok=True)
    with beside(home / "bundle") as partial:
        partial.mkdir()
        yield partial
        files = {str(path.relative_to(partial)): path for path in sorted(partial.rglob("*")) if path.is_file()}
        now = datetime.now(UTC)
        version = f"{now:{VERSION_TIME}}-{_sha256(partial / 'model.onnx.data')[:8]}"
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "version": version,
            "exported_at": f"{now:{EXPORTED_AT}}",
            **facts,
            "made_with": {
                "onnxruntime": onnxruntime.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "files": {key: _facts(path) for key, path in files.items()},
        }
        write_json(partial / "manifest.json", manifest)
        partial.replace(home / version)
        with replacing(home / "current") as link:
            link.symlink_to(version)


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


def amend(bundle: Bundle, contents: Mapping[str, Any], facts: Mapping[str, Any], files: Sequence[str]) -> None:
    """Rewrites JSON files and adds `facts` to the manifest, which lists those of `files` that are there."""
    for name, content in contents.items():
        write_json(bundle.folder / name, content)
    listed = {name: fact for name, fact in bundle.manifest["files"].items() if (bundle.folder / name).exists()}
    listed |= {name: _facts(bundle.folder / name) for name in (*contents, *files) if (bundle.folder / name).exists()}
    bundle.manifest = {**bundle.manifest, **facts, "files": dict(sorted(listed.items()))}
    write_json(bundle.folder / "manifest.json", bundle.manifest)
