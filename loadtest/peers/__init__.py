"""Other libraries' networks, which ours are measured against: torch-rechub's and FuxiCTR's.

The project never imports them: `rechub.py` and `fuxictr.py` run as processes in the peers' environment, and know of the
project nothing but `program.py`. That environment sees the project's packages too (a .pth file), so that all sides run
on one torch and 200 MB are spared. `rows.py` writes our impressions for them.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import NoRun

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "peers"


@dataclass(frozen=True)
class Library:
    """`networks`: its own, and of ours the one whose recipe gives the size of a batch."""

    name: str  # in scores, before the network's
    release: str
    program: str  # a module of this room
    networks: Mapping[str, str]
    patience: int  # of its trainer: epochs that bring nothing


RECHUB = Library("torch-rechub", "torch-rechub==0.9.0", "rechub", {"BST": "bst", "DIN": "din", "WDL": "wdl"}, 1)
FUXICTR = Library(  # 430 MB with ray and pyarrow, which its networks import and do not use
    "FuxiCTR", "fuxictr==2.3.10", "fuxictr", {"DIN": "din", "TransAct": "bst", "DCNv2": "wdl_seq"}, 2
)
LIBRARIES = {"rechub": RECHUB, "fuxictr": FUXICTR}


def environment(library: Library = RECHUB, folder: Path = FOLDER, install: bool = True) -> Path | None:
    """The Python of the peers' environment with a library; made where it is missing, None where it may not be made."""
    python, mark = folder / "bin" / "python", folder / f"{library.release}.done"
    if mark.exists() or not install:
        return python if mark.exists() else None
    print(f"installing {library.release} into {folder}", file=sys.stderr)
    if not [*folder.glob("*.done")]:  # nothing whole to keep
        venv.create(folder, with_pip=False, clear=True)
        base = {"base": str(folder), "platbase": str(folder)}
        packages = Path(sysconfig.get_path("purelib", "venv", base))
        (packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after its own: pip, torch, numpy
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *constraints]
    done = subprocess.run([*command, library.release], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise NoRun(f"{library.release} could not be installed: {why}")
    mark.touch()
    return python


class Peer:
    """A process in the peers' environment; it answers every line of JSON that it is sent with one."""

    def __init__(self, python: Path, arguments: Sequence[str], threads: int, library: Library = RECHUB):
        module = f"{__name__}.{library.program}"  # -P: in its own folder, fuxictr.py would hide the library
        command = [str(python), "-P", "-m", module, *arguments, "--threads", str(threads)]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        self._name = library.name
        self._process = subprocess.Popen(
            command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Raises NoRun where the process has died."""
        assert self._process.stdin and self._process.stdout and self._process.stderr
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            lines = self._process.stderr.read().strip().splitlines()
            raise NoRun(f"{self._name}'s process ended: {lines[-1] if lines else 'without a word'}")
        return dict(json.loads(answer))

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
