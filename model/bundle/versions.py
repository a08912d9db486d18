"""A bundle's versions side by side: what its name may be, which one `current` is, and which old ones may go."""

import re
import shutil
from pathlib import Path

from model.bundle.layout import BundleError

ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_name(name: str) -> str:
    """The name of a bundle: a folder's, and a label's in metrics. Raises BundleError."""
    if not ALLOWED.fullmatch(name):
        raise BundleError(f"{name!r} cannot name a bundle; allowed: letters, digits, _ . -, the first no . or -")
    return name


def current(home: Path) -> str | None:
    """The version that `home/current` points to; None where nothing is published yet."""
    link = home / "current"
    return link.resolve().name if link.is_dir() else None


def prune(home: Path, keep: int, *spared: str | None) -> list[str]:
    """Removes all but the newest `keep` versions, never one of `spared`, and says which it removed.

    A version's name begins with its time. What has no manifest is no version, and stays.
    """
    versions = sorted(path.parent.name for path in home.glob("*/manifest.json") if not path.parent.is_symlink())
    versions = [version for version in versions if not version.startswith(".")]
    old = [version for version in versions[: max(0, len(versions) - keep)] if version not in spared]
    for version in old:
        shutil.rmtree(home / version)
    return old
