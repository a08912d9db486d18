"""A child's end: with its parent, and within so many seconds."""

import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

PARENT = "RANKER_PARENT"  # tells a child whose it is: once it looks for itself, that one may be gone


def of_this() -> dict[str, str]:
    """What a child of this process finds in its environment."""
    return {PARENT: str(os.getpid())}


def end_with_parent(grace_s: float) -> None:
    """Ends this process when its parent is gone, however it went: a killed parent can tell nobody.

    In order, but within `grace_s`: its event loop may be stuck.
    """
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def end_within(seconds: float) -> None:
    """Ends this process then, whatever it is at: also one whose event loop is stuck."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def leave(code: int) -> NoReturn:
    """Ends this process now. The interpreter's own end waits for every thread of a pool, and one may hang (a resolver
    that does not answer, say)."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has left
            stream.flush()
    os._exit(code)
