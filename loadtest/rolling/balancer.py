"""HAProxy before two instances: it asks each for /health/ready, and sends nothing to one that says 503."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.bench.processes import free_port, on
from loadtest.errors import NoRun

EVERY_MS, FALL, RISE = 200, 2, 2  # how often it asks, and after how many answers it believes
SEES_S = EVERY_MS / 1000 * (max(FALL, RISE) + 2)  # by then it knows
DEPLOYED = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
CONFIGURATION = """
global
    maxconn 2000
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
frontend callers
    bind 127.0.0.1:{port}
    default_backend rankers
backend rankers
    option httpchk GET /health/ready
    http-check expect status 200
    default-server check inter {every}ms fall {fall} rise {rise}
{servers}
"""


def installed() -> str | None:
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


@contextmanager
def balancer(ports: Sequence[int], cpus: set[int]) -> Iterator[int]:
    """The port that it listens on. Raises NoRun where it is not installed or does not start."""
    servers = "\n".join(f"    server ranker{number} 127.0.0.1:{one}" for number, one in enumerate(ports))
    port = free_port()
    told = CONFIGURATION.format(port=port, every=EVERY_MS, fall=FALL, rise=RISE, servers=servers)
    with _running(told, port, cpus):
        yield port


@contextmanager
def deployed(instances: Sequence[tuple[int, int]], cpus: set[int]) -> Iterator[int]:
    """As `balancer`, by deploy/haproxy/haproxy.cfg: of each instance its port and its admin port, which is asked."""
    port = free_port()
    told = DEPLOYED.read_text().replace("bind :8080", f"bind 127.0.0.1:{port}").replace(" resolvers docker", "")
    here = iter(instances)
    told, servers = re.subn(r"(server \w+) ranker-\w+:\d+", lambda server: f"{server[1]} {_at(*next(here))}", told)
    assert servers == len(instances), f"{DEPLOYED} has {servers} servers"
    with _running(told, port, cpus):
        yield port


def _at(port: int, admin_port: int) -> str:
    return f"127.0.0.1:{port} port {admin_port}"


@contextmanager
def _running(configuration: str, port: int, cpus: set[int]) -> Iterator[None]:
    program = installed()
    if program is None:
        raise NoRun("haproxy is not installed (Debian: apt install haproxy)")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "haproxy.cfg"
        file.write_text(configuration)
        with on(cpus):
            process = subprocess.Popen(
                [program, "-db", "-q", "-f", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            while not _listens(port):
                if process.poll() is not None:
                    raise NoRun(
                        f"haproxy ended with exit code {process.returncode}; its configuration:\n{configuration}"
                    )
                time.sleep(0.02)
            yield
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
