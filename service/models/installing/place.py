"""A bundle from wherever becomes `<home>/<version>`: fetched and unpacked beside, checked there, renamed into place.

`current` is not touched here. Of what was refused nothing stays.
"""

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from model.bundle.layout import BundleError, located
from model.bundle.versions import check_name
from model.command import words
from model.files import beside
from service.models import apart, check
from service.models.installing.fetch import compare, fetch, is_url, shown
from service.models.installing.unpack import unpack
from service.process.child import end_with_parent

MOST_BYTES = 64 * 2**30
SPARE = 64 * 2**20  # bytes of the disk that are not ours to fill


@dataclass(frozen=True)
class Placed:
    """A version that is whole. `installed`: it was not there before."""

    folder: Path
    name: str
    version: str
    installed: bool


def place(
    source: str,
    home: Path,
    sha256: str | None = None,
    most_bytes: int = MOST_BYTES,
    admit: Callable[[Path], object] = lambda folder: None,
) -> Placed:
    """Raises BundleError, OSError. `admit` may raise too, of a folder that is checked and not yet in its place.

    `sha256` is of an archive, or of a folder's manifest.json, which has those of all files.
    """
    if is_url(source) and sha256 is None:
        raise BundleError(f"{shown(source)}: what comes from a URL needs its sha256 (sha256sum FILE)")
    path = Path(source)
    if not is_url(source) and path.is_dir():
        folder, _ = located(path)
        if sha256 is not None:
            compare(folder / "manifest.json", sha256, f"{folder}/manifest.json")
        if folder.parent == home.resolve():  # a version that stands where it should
            return _admitted(folder, folder, admit, installed=False)
        source_path = folder
    shown_source = shown(source) if is_url(source) else source
    home.mkdir(parents=True, exist_ok=True)
    most_bytes = min(most_bytes, shutil.disk_usage(home).free - SPARE)
    if most_bytes <= 0:
        raise BundleError(f"{home}: no space left on the disk")
    with beside(home / "download") as download, beside(home / "bundle") as partial:
        if is_url(source):
            fetch(source, download, most_bytes)
            source_path = download
        elif not path.is_dir():
            source_path = path
        if sha256 is not None and source_path.is_file():
            compare(source_path, sha256, shown_source)
        unpack(source_path, partial, most_bytes)
        folder = _root(partial, source)
        _, manifest = located(folder)
        finished = home.resolve() / check_name(str(manifest["version"]))
        check_name(str(manifest["name"]))
        if finished.exists():
            if (finished / "manifest.json").read_bytes() != (folder / "manifest.json").read_bytes():
                raise BundleError(f"{finished} is there already with other content; remove it, or give another version")
            return _admitted(finished, finished, admit, installed=False)
        try:
            placed = _admitted(folder, finished, admit, installed=True)
        except BundleError as error:  # where it stands now nobody will find it
            raise BundleError(str(error).replace(str(folder), shown_source)) from None
        folder.rename(finished)
    return placed


def _admitted(folder: Path, finished: Path, admit: Callable[[Path], object], installed: bool) -> Placed:
    bundle = check.checked(folder)
    admit(folder)
    return Placed(finished, bundle.name, bundle.version, installed)


def _root(unpacked: Path, source: str) -> Path:
    """Where in an archive the bundle is: at its root, or in its only folder. Raises BundleError."""
    manifests = [path.parent for depth in ("", "*/", "*/*/") for path in unpacked.glob(f"{depth}manifest.json")]
    if len(manifests) != 1:
        many = f"{len(manifests)} of them" if manifests else "none"
        raise BundleError(f"{source}: a bundle's manifest.json is needed in it, and there is {many}")
    return manifests[0]


def _ended(*_: object) -> NoReturn:
    raise SystemExit(1)


def main(arguments: Sequence[str]) -> None:
    """In a process of its own: source, home, sha256 or nothing. Prints the folder, or the problem, as JSON."""
    source, home, sha256 = arguments
    signal.signal(signal.SIGTERM, _ended)  # nothing half-written stays
    end_with_parent(apart.ENDS_S)
    apart.yield_cores(idle=False)
    try:
        print(json.dumps({"folder": str(place(source, Path(home), sha256 or None).folder)}))
    except (BundleError, OSError) as error:
        print(json.dumps({"problem": words(error)}))
