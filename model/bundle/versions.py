"""A bundle's versions side by side: names, `current` and `previous`, and which old ones may go.

`current` is swapped last and in one step; `previous` is the one that it pointed to before. Whoever answers with a
version holds its folder (a shared lock, which ends with the process), and what is held is not pruned.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model.bundle.errors import BundleError
from model.files import replacing

ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
CURRENT, PREVIOUS, MANIFEST = "current", "previous", "manifest.json"


def check_name(name: str) -> str:
    """The name of a bundle: a folder's, and a label's in metrics. Raises BundleError."""
    if not ALLOWED.fullmatch(name):
        raise BundleError(f"{name!r} cannot name a bundle; allowed: letters, digits, _ . -, the first no . or -")
    return name


def behind(path: Path) -> Path:
    """The bundle's folder that a path leads to, all links followed: the path itself, or its `current`.

    Or the `current` of the one bundle in a folder of bundles, as training fills it and a container mounts it.
    """
    home = path if (path / MANIFEST).exists() else only(path) or path
    return (home / CURRENT if (home / CURRENT).is_dir() else home).resolve()


def only(path: Path) -> Path | None:
    """The home of the one bundle in a folder of bundles; None: it has none or several, or is a home itself."""
    if (path / CURRENT).is_dir():
        return None
    homes = [link.parent for link in path.glob(f"*/{CURRENT}") if (link / MANIFEST).is_file()]
    return homes[0] if len(homes) == 1 else None


def current(home: Path) -> str | None:
    """The version that `home/current` points to; None where nothing is published yet."""
    return _version(home / CURRENT)


def previous(home: Path) -> str | None:
    """The version that was `current` before; None where there was none, or it is gone."""
    return _version(home / PREVIOUS)


def _version(link: Path) -> str | None:
    return link.resolve().name if link.is_dir() else None


def point(home: Path, version: str) -> None:
    """Makes `current` point to that version of `home`, and `previous` to the one before; no other one changes nothing.

    Each link is renamed into place, `current` last: whoever looks finds one that is whole.
    """
    before = current(home)
    if before == version:
        return
    if before is not None:
        with replacing(home / PREVIOUS) as link:
            link.symlink_to(before)
    with replacing(home / CURRENT) as link:
        link.symlink_to(version)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Inside, `prune` leaves this version alone, whichever process of this machine calls it."""
    descriptor = hold(folder)
    try:
        yield
    finally:
        release(descriptor)


def hold(folder: Path) -> int | None:
    """As `holding`, until `release` or this process' end; None where the file system has no locks of folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            os.close(descriptor)
    return None


def release(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)


def held(folder: Path) -> bool:
    """Whether somebody on this machine answers with it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without such locks
        return False
    finally:
        os.close(descriptor)
    return False


def prune(home: Path, keep: int, *spared: str | None) -> list[str]:
    """Removes all but the newest `keep` versions, and says which.

    Never `current`, `previous`, one of `spared`, or one that a running service holds. A version's name begins with its
    time. What has no manifest is no version, and stays.
    """
    versions = sorted(path.parent.name for path in home.glob("*/manifest.json") if not path.parent.is_symlink())
    versions = [version for version in versions if not version.startswith(".")]
    kept = {*spared, current(home), previous(home)}
    old = [version for version in versions[: max(0, len(versions) - keep)] if version not in kept]
    old = [version for version in old if not held(home / version)]
    for version in old:
        shutil.rmtree(home / version)
    return old
