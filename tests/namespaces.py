"""A service that sees the file system otherwise than we do; needs Linux and root."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.client import Service
from tests.processes import started

ENTER = "import os, sys; os.execvp('unshare', ['unshare', '--mount', 'sh', '-c', *sys.argv[1:]])"
PRIVATE = "mount --make-rprivate / && "


@contextmanager
def serving_where(mounts: str, **settings: str) -> Iterator[Service]:
    """A service after these commands of a shell, in a mount namespace of its own. Skips the test where none is had."""
    tried = ["unshare", "--mount", "sh", "-c", f"{PRIVATE}true"]
    if shutil.which("unshare") is None or subprocess.run(tried, capture_output=True).returncode:
        pytest.skip("a mount namespace of one's own needs Linux and root")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RANKER_")}
    environment |= {"RANKER_PORT": "0", "RANKER_DRAIN_S": "0", "PYTHONUNBUFFERED": "1"}
    environment |= {f"RANKER_{name.upper()}": value for name, value in settings.items()}
    command = f'{PRIVATE}{mounts} && exec "$0" -m service'
    with started("-c", ENTER, command, sys.executable, environment=environment, kind=Service) as service:
        yield service
