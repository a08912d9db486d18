"""Podman, with images and containers of its own in a folder, and without cgroups: nothing else is touched."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TAIL = 3  # lines of what failed
RUN = ("run", "--network", "host", "--cgroups", "disabled")  # on the machine's own network, within its limits


class NotHere(Exception):
    """What cannot be done here, and why, in one line."""


def needed(program: str) -> str:
    """Where the program is; NotHere says which package brings it."""
    where = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if where is None:
        raise NotHere(f"{program} is not there (Debian: apt-get install {program})")
    return where


def done(*words: object, progress: str | None = None) -> str:
    """What the command writes to standard output. Lines that begin with `progress` are passed on as they come."""
    command = [str(word) for word in words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE if progress is None else subprocess.STDOUT, text=True
    ) as process:
        if progress is None:
            output, error = process.communicate()
        else:
            output = error = "".join(_passed_on(process, progress))
    if process.returncode:
        told = " | ".join([line.strip() for line in error.splitlines() if line.strip()][-TAIL:])
        raise NotHere(f"{Path(command[0]).name}: exit code {process.returncode}: {told}")
    return output


def _passed_on(process: "subprocess.Popen[str]", progress: str) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(progress):
            print(line.rstrip(), file=sys.stderr, flush=True)
        yield line


class Podman:
    def __init__(self, home: Path):
        places = ["--root", home / "storage", "--runroot", home / "run", "--tmpdir", home / "run"]
        self._words = [needed("podman"), *places, "--events-backend", "file", "--cgroup-manager", "cgroupfs"]

    def __call__(self, *words: object, progress: str | None = None) -> str:
        return done(*self._words, *words, progress=progress)

    def told(self, *words: object) -> Any:
        """What a command tells as JSON."""
        return json.loads(self(*words))

    def succeeds(self, *words: object) -> bool:
        return subprocess.run([str(word) for word in (*self._words, *words)], capture_output=True).returncode == 0

    def run(self, image: str, *command: object, options: Sequence[object] = ()) -> str:
        """A container to its end; nothing is left of it."""
        return self(*RUN, "--rm", *options, image, *command)

    @contextmanager
    def running(self, name: str, image: str, options: Sequence[object]) -> Iterator["subprocess.Popen[str]"]:
        """A container with what its image runs; gone on leaving, however it ended."""
        command = [str(word) for word in (*self._words, *RUN, "--name", name, *options, image)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield process
            finally:
                self("rm", "--force", "--time", 0, "--ignore", name)
