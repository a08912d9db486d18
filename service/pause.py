"""How long work in another thread spreads itself out, beside requests that want the interpreter."""

import time

REST = 3  # times as long as a step took


class Pause:
    """Called between steps, it sleeps REST times as long as it took since the last call."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __call__(self) -> None:
        time.sleep(REST * (time.perf_counter() - self._since))
        self._since = time.perf_counter()
