"""What the load test reads of a running service's processes, while some of them end."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from loadtest.bench.processes import descriptors, pss
from loadtest.errors import NoRun

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Starts a child that ends and that nobody waits for: it is listed, and there is nothing more to read of it.
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", ""])
os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
print("ended", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ended\n"
        yield process
        process.communicate()


def test_a_child_that_has_just_ended_weighs_nothing(parent: "subprocess.Popen[bytes]") -> None:
    assert pss(parent.pid) > 2**20
    assert descriptors(parent.pid) >= 3


@pytest.mark.parametrize("look", [pss, descriptors])
def test_a_service_that_has_ended_is_no_run(look: object) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(NoRun, match=f"process {process.pid} has ended"):
        look(process.pid)  # type: ignore[operator]
