"""A command that ends with the process that starts it, however that one ends: on Linux the kernel kills it.

A program of its own, run by its path, rather than a preexec_fn, which forks and is not safe where other threads run.
It imports nothing of the project, so it begins in no time and in any environment.
"""

import ctypes
import os
import signal
import sys


def tied(*command: object) -> list[str]:
    """Start it from the main thread: it ends with the thread that starts it. Elsewhere a SIGKILL leaves it running."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *map(str, command)]


def _become(parent: int, command: list[str]) -> None:
    """Replaces this process by the command, to be killed when `parent` ends."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel was told to watch it
        sys.exit("the parent is gone")
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
