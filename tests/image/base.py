"""What stands in for `python:X.Y-slim-SUITE` where no registry is to be had: that Debian, with its own Python X.Y.

debootstrap makes it, and what slim images leave out (manuals, translations) is taken away. What differs: Python is
Debian's build in /usr/bin, of that branch but with an older last number, and without pip of its own; `venv` brings one.
"""

import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.image.podman import NotHere, Podman, done, needed
from tests.processes import ROOT

PACKAGES = ("ca-certificates", "netbase", "python-is-python3", "python3-venv", "tzdata")
NOT_IN_SLIM = (
    *("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man"),
    *("var/cache/apt", "var/lib/apt/lists", "var/log"),
)
DEFAULT = re.compile(r"^ARG BASE=python:(\d+\.\d+)-slim-(\w+)$", re.MULTILINE)


class Base(NamedTuple):
    python: str
    suite: str

    @property
    def name(self) -> str:
        return f"localhost/debian-{self.suite}-python:{self.python}"


def wanted() -> Base:
    """The Dockerfile's."""
    default = DEFAULT.search((ROOT / "Dockerfile").read_text())
    if default is None:
        raise NotHere("Dockerfile: no line `ARG BASE=python:X.Y-slim-SUITE`, so it is not known what to stand in for")
    return Base(default[1], default[2])


def stand_in(podman: Podman, base: Base, mirror: str, home: Path) -> str:
    """The image's name. The root is kept as an archive in `home`: debootstrap runs once."""
    archive = home / f"{base.suite}.tar"
    if not archive.exists():
        _bootstrap(base, mirror, archive)
    if not podman.succeeds("image", "exists", base.name):
        podman("import", "--change", "CMD python3", archive, base.name)
    version = podman.run(base.name, "python", "--version")
    if not version.startswith(f"Python {base.python}."):
        raise NotHere(f"Debian {base.suite} has {version.strip()}, the Dockerfile wants {base.python}: name a --base")
    return base.name


def _bootstrap(base: Base, mirror: str, archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="root-") as folder:
        root, new = Path(folder) / "root", Path(folder) / "new.tar"
        command = [needed("debootstrap"), "--variant=minbase", f"--include={','.join(PACKAGES)}", base.suite]
        done(*command, root, mirror, progress="I: Retrieving InRelease")
        for name in NOT_IN_SLIM:
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir()
        done(needed("tar"), "--create", "--numeric-owner", "--directory", root, "--file", new, ".")
        new.rename(archive)
