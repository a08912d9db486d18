"""Podman, with images and containers of its own in a folder, and without cgroups: nothing else is touched."""

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TAIL = 3  # lines of what failed
PROCESSES = 4096
WITHIN = "WITHIN_A_NAMESPACE"
# Where both kinds of cgroups are mounted, crun starts nothing, not even without any.
ONE_KIND = "if [ -d /sys/fs/cgroup/unified ]; then mount -t tmpfs none /sys/fs/cgroup/unified; fi"


class NotHere(Exception):
    """What cannot be done here, and why, in one line."""


def needed(program: str) -> str:
    """Where the program is; NotHere says what brings it."""
    where = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if where is None:
        raise NotHere(f"{program} is not there; on Debian: apt-get install podman crun debootstrap")
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


def enter_a_namespace(module: str) -> None:
    """Begins this command anew where mounts are its own, so that none of them is left, however it ends."""
    if WITHIN not in os.environ:
        command = ["unshare", "--mount", "sh", "-c", f'{ONE_KIND} && exec "$0" "$@"']
        os.execvpe(command[0], [*command, sys.executable, "-m", module, *sys.argv[1:]], os.environ | {WITHIN: "1"})


class Podman:
    """One at a time in a folder. What a command that was killed has left in it ends with its mounts."""

    def __init__(self, home: Path):
        self._lock = (home / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotHere(f"another one is at work in {home}") from None
        shutil.rmtree(home / "run", ignore_errors=True)  # as after a start of the machine
        places = ["--root", home / "storage", "--runroot", home / "run", "--tmpdir", home / "run"]
        self._words = [needed("podman"), *places, "--events-backend", "file", "--cgroup-manager", "cgroupfs"]
        # Podman's own limits are higher than a root without CAP_SYS_RESOURCE may set them.
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = [f"nofile={files}:{files}", f"nproc={PROCESSES}:{PROCESSES}"]
        self._run = ["run", "--network", "host", "--cgroups", "disabled"]
        self._run += [word for limit in limits for word in ("--ulimit", limit)]

    def __call__(self, *words: object, progress: str | None = None) -> str:
        return done(*self._words, *words, progress=progress)

    def told(self, *words: object) -> Any:
        """What a command tells as JSON."""
        return json.loads(self(*words))

    def succeeds(self, *words: object) -> bool:
        return subprocess.run([str(word) for word in (*self._words, *words)], capture_output=True).returncode == 0

    def run(self, image: str, *command: object, options: Sequence[object] = ()) -> str:
        """A container to its end; nothing is left of it."""
        return self(*self._run, "--rm", *options, image, *command)

    @contextmanager
    def running(self, name: str, image: str, options: Sequence[object]) -> Iterator["subprocess.Popen[str]"]:
        """A container with what its image runs; gone on leaving, however it ended."""
        self("rm", "--force", "--ignore", name)  # a killed command's
        command = [str(word) for word in (*self._words, *self._run, "--name", name, *options, image)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield process
            finally:
                self("rm", "--force", "--time", 0, "--ignore", name)
