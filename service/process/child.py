"""A child's end with its parent."""

import os
import signal
import threading
import time


def end_with(parent: int) -> None:
    """Ends this process when its parent is gone, however it went: a killed parent can tell nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
