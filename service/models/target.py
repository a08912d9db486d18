"""What a path leads to right now: the bundle's folder, and what tells one state of it from another.

Links are followed to their end, so that a volume which swaps a folder above (as Kubernetes does with `..data`) is seen
as well as a `current` that moves.
"""

from pathlib import Path
from typing import NamedTuple

from model.bundle.versions import CURRENT, MANIFEST, behind, only


class Target(NamedTuple):
    """`stamp` is that of its manifest: another bundle in the same place has another. None: there is no bundle."""

    folder: Path
    stamp: tuple[int, int, int] | None


def target_of(path: Path) -> Target:
    try:
        folder = behind(path)
    except (OSError, RuntimeError):  # not to be read; or links that lead in a circle
        return Target(path.absolute(), None)
    return Target(folder, _stamp(folder / MANIFEST))


def state_of(folder: Path) -> tuple[object, ...]:
    """What changes with any of its files: of a bundle that was refused, whether it is worth another look."""
    return tuple((str(path), _stamp(path)) for path in sorted(folder.rglob("*")))


def home_of(path: Path) -> Path | None:
    """The folder whose `current` is behind `path`, a service's RANKER_BUNDLE; None where that names a bundle itself."""
    if path.name == CURRENT and path.is_symlink():
        return path.parent
    if (path / CURRENT).is_symlink():
        return path
    return None if (path / MANIFEST).exists() else only(path) or path


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
