"""Nothing phones home: what packages would send or write unasked is off, before any of them is imported.

`model/__init__.py` calls it, which every room imports first, so processes that they start inherit it. Looked at, and
nothing to set: torch, polars, lightgbm, optuna, tensorboard's writer and redis-py send nothing and write where they are
told; OpenTelemetry sends where its own variables say; /docs has its scripts from a package; DuckDB's extensions are
neither fetched nor loaded by themselves (model/engine.py). tests/whole/test_quiet.py sees that it is so.
"""

import atexit
import os
import shutil

ALWAYS = {
    # onnxruntime 1.31 looks up mobile.events.data.microsoft.com and writes a device id and a database into the home
    # folder. It reads this when it is imported; its Python call comes too late.
    "ORT_DISABLE_TELEMETRY": "1",
    # The convention that some packages heed (consoledonottrack.com): one that comes with an update stays quiet too.
    "DO_NOT_TRACK": "1",
}
# matplotlib writes a list of fonts into the home folder. Making it anew takes less than a second.
FOLDER = "MPLCONFIGDIR"


def be_quiet() -> None:
    """Sets the environment. Whoever has named matplotlib a folder keeps it."""
    os.environ.update(ALWAYS)
    if FOLDER not in os.environ:
        # Not tempfile's: that tries to write at once, and the service needs no such folder.
        folder = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"bst-ranker-matplotlib-{os.getpid()}")
        os.environ[FOLDER] = folder
        atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, made_by: int) -> None:
    if os.getpid() == made_by:  # a fork's end is not the end of its parent
        shutil.rmtree(folder, ignore_errors=True)
