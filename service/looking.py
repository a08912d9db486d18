"""A thread that looks every so many seconds: at files, which tell nobody that they have changed."""

import threading
from collections.abc import Callable


class Looking:
    """Calls `look` every `poll_s` seconds from `start` to `close`; 0: never."""

    def __init__(self, look: Callable[[], object], poll_s: float, name: str):
        self._look, self._poll_s = look, poll_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        if self._poll_s:
            self._thread.start()

    def close(self, wait_s: float | None = None) -> None:
        """Waits for a look that is under way, to its end or for `wait_s`: what then goes on ends with the process."""
        self._ending.set()
        if self._poll_s:
            self._thread.join(wait_s)

    def _run(self) -> None:
        while not self._ending.wait(self._poll_s):
            self._look()
