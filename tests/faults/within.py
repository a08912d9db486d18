"""Runs a command of the project within bounds that it alone has: mounts, so many open files, files' modes.

    python -m tests.faults.within [--bind SOURCE TARGET] [--tmpfs BYTES TARGET] [--files N] [--obeys-modes] -- MODULE …

--obeys-modes: who may write which file holds of root too, in all processes that the command starts.
Mounts need a mount namespace, which root may make; without it exit code and last line say NO_NAMESPACE.
"""

import argparse
import ctypes
import os
import resource
import runpy
import sys
from collections.abc import Callable

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
PR_CAPBSET_DROP, OVERRIDES = 24, (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
NO_NAMESPACE = "no mount namespace of one's own"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.within")
    parser.add_argument("--bind", nargs=2, action="append", default=[], metavar=("SOURCE", "TARGET"))
    parser.add_argument("--tmpfs", nargs=2, action="append", default=[], metavar=("BYTES", "TARGET"))
    parser.add_argument("--files", type=int)
    parser.add_argument("--obeys-modes", action="store_true")
    parser.add_argument("command", nargs="+")
    told = parser.parse_args()
    libc = ctypes.CDLL(None, use_errno=True)
    steps: list[Callable[[], int]] = []
    if told.bind or told.tmpfs:
        steps.append(lambda: libc.unshare(CLONE_NEWNS))
        steps.append(lambda: libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    for source, target in told.bind:
        steps.append(lambda a=source, b=target: libc.mount(a.encode(), b.encode(), None, MS_BIND, None))
    for size, target in told.tmpfs:
        steps.append(lambda a=size, b=target: libc.mount(b"few", b.encode(), b"tmpfs", 0, f"size={a}".encode()))
    if told.obeys_modes and os.geteuid() == 0:
        steps += [lambda one=one: libc.prctl(PR_CAPBSET_DROP, one, 0, 0, 0) for one in OVERRIDES]
    for step in steps:
        if step() != 0:
            sys.exit(f"{NO_NAMESPACE}: {os.strerror(ctypes.get_errno())}")
    if told.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (told.files, told.files))
    sys.argv[:] = told.command
    runpy.run_module(told.command[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
