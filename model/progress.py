"""How far an engine's work is, on stderr, where it takes more than a second."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(what: str, percent: Callable[[], int]) -> Iterator[None]:
    """Asks for `percent` now and then, from a thread; it falls where another query or stage begins."""
    done = threading.Event()

    def show() -> None:
        with tqdm(total=100, desc=what, unit="%", delay=1, leave=False) as bar:
            while not done.wait(0.5):
                now = max(0, percent())
                if now < bar.n:
                    bar.reset()
                bar.update(now - bar.n)

    watch = threading.Thread(target=show, daemon=True)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()
