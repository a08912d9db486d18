"""The Redis Cluster of docker-compose.yml's profile `scale`: its nodes' commands and the one that joins them, run here.

Other than there, each node has an address of its own on loopback, and a free port.
"""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
import yaml

from service.backfill import main as backfill
from service.settings import DEMO_USERS
from tests.processes import ROOT, wait_until
from tests.servers import Child

SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
NODES = {name: one["networks"]["cluster"]["ipv4_address"] for name, one in SERVICES.items() if name.startswith("node-")}
BUS = 10_000  # a node listens there too, above its port

pytestmark = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("redis-cli")), reason="redis-server is not installed"
)


def here(address: str) -> str:
    return re.sub(r"^172\.30", "127.30", address)


def free_on_all() -> int:
    """A port that is free on each node's address, as is the one of its bus."""
    for _ in range(100):
        with ExitStack() as taken, suppress(OSError):
            first = taken.enter_context(socket.socket())
            first.bind((here(NODES["node-a"]), 0))
            port = int(first.getsockname()[1])
            if port + BUS > 65535:
                continue
            for address in NODES.values():
                for number in {port, port + BUS} - ({port} if address == NODES["node-a"] else set()):
                    taken.enter_context(socket.socket()).bind((here(address), number))
            return port
    raise AssertionError("no port is free")


def shell(text: str, port: int, address: str = "") -> str:
    """A command of the file as a shell gets it here."""
    text = text.replace("$$", "$").replace("$(hostname -i)", address)
    text = text.replace("redis-cli -h", f"redis-cli -p {port} -h").replace(":6379", f":{port}")
    return text.replace("172.30.", "127.30.")


class Cluster(NamedTuple):
    port: int
    nodes: dict[str, Child]

    def node(self, name: str) -> "redis.Redis":
        return redis.Redis(here(NODES[name]), self.port, decode_responses=True)

    def join(self) -> None:
        """As the container `cluster` does it."""
        command = shell(SERVICES["cluster"]["command"][-1], self.port)
        ran = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(free_on_all(), {name: Child(tmp_path / name) for name in NODES})
    with ExitStack() as undo:
        for name, node in cluster.nodes.items():
            folder, address = tmp_path / name, here(NODES[name])
            folder.mkdir()
            command = shell(SERVICES[name]["command"][-1], cluster.port, address)
            own = f"--port {cluster.port} --bind {address} --dir {folder} "
            node.begin(shutil.which("sh"), "-c", command.replace("redis-server ", f"redis-server {own}"))
            undo.callback(node.kill)
        for name, node in cluster.nodes.items():
            asked = undo.enter_context(cluster.node(name))
            wait_until(lambda asked=asked: answers(asked), node)  # type: ignore[misc]
        cluster.join()
        yield cluster


def test_the_nodes_become_a_cluster_with_a_replica_and_joining_again_changes_nothing(cluster: Cluster) -> None:
    cluster.join()
    with cluster.node("node-d") as replica:
        told = replica.execute_command("CLUSTER INFO")
        assert (told["cluster_state"], told["cluster_known_nodes"], told["cluster_size"]) == ("ok", "4", "3")
        assert replica.info("replication")["master_host"] == here(NODES["node-a"])


@pytest.mark.long
def test_the_replica_takes_over_what_a_dead_node_had(cluster: Cluster) -> None:
    with cluster.node("node-d") as replica:
        wait_until(lambda: replica.info("replication").get("master_link_status") == "up")
        url = "redis+cluster://" + ",".join(f"{here(address)}:{cluster.port}" for address in [*NODES.values()][:3])
        assert backfill(["--users", str(DEMO_USERS), "--url", url]) == 0
        cluster.nodes["node-a"].kill()
        wait_until(lambda: replica.info("replication")["role"] == "master", cluster.nodes["node-d"].log)
        assert replica.dbsize() > 10


def answers(node: "redis.Redis") -> bool:
    with suppress(redis.exceptions.ConnectionError):
        return bool(node.ping())
    return False
