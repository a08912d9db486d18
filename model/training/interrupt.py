"""Ctrl-C while a run trains: it ends at the next place from which it goes on to the same bits."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model.training.run import Run


@contextmanager
def stopped_by_ctrl_c(run: Run) -> Iterator[None]:
    """The first Ctrl-C ends the run after the batch under way, its checkpoint written; the second one ends it at once.

    Both raise KeyboardInterrupt. Several processes do not stop at one batch: there the first one ends it at once, and
    the last checkpoint stays.
    """
    if run.world.size > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ends(number: int, frame: Any) -> None:
        run.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ends)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
