"""What tests start is found again wherever it hides; a test that leaves something behind fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.processes import finished, offspring, started, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Starts a process of another session that listens in a folder like a store's and has forgotten the mark, and says its
# number, which is how a store behaves.
DETACHED = """
import os, signal, socket, subprocess, sys, tempfile
folder = tempfile.mkdtemp(prefix="ranker-store-")
code = "import signal, socket; s = socket.create_server(('127.0.0.1', 0)); print('up', flush=True); signal.pause()"
command = [sys.executable, "-c", code]
child = subprocess.Popen(command, cwd=folder, env={}, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
"""


def test_a_process_that_detached_itself_fails_the_test_and_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"{DETACHED}signal.pause()"
    with pytest.raises(AssertionError, match="processes are left"), started("-c", program) as parent:
        wait_until(lambda: "\n" in parent.output, parent)
        child = int(parent.output)
        assert child in parent.children.pids()
        parent.children.look()
        assert len(parent.children.ports()) == len(parent.children.folders) == 1
        monkeypatch.setattr(processes, "PATIENCE_S", 0.3)
    wait_until(lambda: not parent.children.pids())
    assert not parent.children.ports()
    for folder in parent.children.folders:
        folder.rmdir()


def test_a_folder_that_an_orderly_end_leaves_behind_fails_the_test(tmp_path: Path) -> None:
    folder = tmp_path / "ranker-metrics-1"
    folder.mkdir()
    program = f"import os, signal; os.chdir({str(folder)!r}); print('there', flush=True); signal.pause()"
    with pytest.raises(AssertionError, match="left behind: .*ranker-metrics-1"), started("-c", program) as parent:
        wait_until(lambda: parent.output, parent)
    folder.mkdir(exist_ok=True)
    with started("-c", program) as parent:
        wait_until(lambda: parent.output, parent)
        parent.kill()
    assert not folder.exists(), "who was killed could not clear away"


def test_a_test_that_fails_ends_what_it_started() -> None:
    with pytest.raises(ZeroDivisionError), offspring() as children:
        program = "import signal; signal.pause()"
        child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        assert children.pids() == {child.pid}
        raise ZeroDivisionError
    assert child.wait() == -9


def test_the_tests_own_settings_reach_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKER_REAL_LOGS", "somewhere")
    done = finished("-c", "import os; print(os.environ.get('RANKER_REAL_LOGS'), os.environ['MORE'])", MORE="1")
    assert done.stdout == "None 1\n" and os.environ["RANKER_REAL_LOGS"] == "somewhere"
