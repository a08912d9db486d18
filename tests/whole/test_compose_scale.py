"""docker-compose.yml's profile `scale`, without containers: its nodes, what joins them, its instances, its balancer.

Other than there, each node has an address of its own on loopback, and all have free ports.
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
import yaml

from loadtest.rolling import balancer
from service.backfill import main as backfill
from service.settings import DEMO_USERS
from tests.client import get, requests
from tests.knocking import knocking
from tests.processes import ROOT, Running, started, wait_until
from tests.servers import Child, free_ports

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

    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{here(address)}:{self.port}" for address in [*NODES.values()][:3])

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
        assert backfill(["--users", str(DEMO_USERS), "--url", cluster.url()]) == 0
        cluster.nodes["node-a"].kill()
        wait_until(lambda: replica.info("replication")["role"] == "master", cluster.nodes["node-d"].log)
        assert replica.dbsize() > 10


def answers(node: "redis.Redis") -> bool:
    with suppress(redis.exceptions.ConnectionError):
        return bool(node.ping())
    return False


# --- two instances, a balancer ---


class Instance(NamedTuple):
    name: str
    port: int
    admin: int

    @contextmanager
    def running(self, store: str) -> Iterator[Running]:
        told = SERVICES[self.name]["environment"]
        assert told.keys() == {"RANKER_REDIS_URL", "RANKER_KEYS_FILE"}  # the one is given here, the other not needed
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RANKER_")}
        environment |= {"RANKER_PORT": str(self.port), "RANKER_ADMIN_PORT": str(self.admin), "RANKER_REDIS_URL": store}
        environment |= {"RANKER_TIMEOUT_MS": "20000", "RANKER_HISTORY_TIMEOUT_MS": "1000"}  # a busy machine
        with started("-m", "service", environment=environment) as process:
            yield process

    def answered(self) -> float:
        """Requests since its start; 0 while it starts."""
        with suppress(OSError):
            return requests(get(f"http://127.0.0.1:{self.admin}/metrics"), "/rank", "ok")
        return 0


@pytest.mark.long
@pytest.mark.skipif(balancer.installed() is None, reason="haproxy is not installed")
def test_no_request_is_lost_while_both_instances_are_renewed_and_a_node_of_the_store_dies(
    cluster: Cluster,
) -> None:
    store = cluster.url()
    assert backfill(["--users", str(DEMO_USERS), "--url", store]) == 0
    ports = free_ports(4)
    instances = [Instance("ranker-a", *ports[:2]), Instance("ranker-b", *ports[2:4])]
    with ExitStack() as stack:
        running = {one.name: stack.enter_context(one.running(store)) for one in instances}
        for one in instances:
            wait_until(lambda one=one: reachable(one.admin), running[one.name])  # type: ignore[misc]
        front = stack.enter_context(balancer.deployed([(one.port, one.admin) for one in instances], set()))
        wait_until(lambda: reachable(front))
        clients = stack.enter_context(knocking(f"http://127.0.0.1:{front}", new=2, kept=2))
        for one in instances:
            wait_until(lambda one=one: one.answered() > 10, running[one.name])  # type: ignore[misc]
        for one in instances:
            running[one.name].process.terminate()
            assert running[one.name].ended() == 0, running[one.name]
            running[one.name] = stack.enter_context(one.running(store))
            wait_until(lambda one=one: one.answered() > 10, running[one.name])  # type: ignore[misc]
        cluster.nodes["node-a"].kill()
        with cluster.node("node-d") as replica:
            wait_until(lambda: replica.info("replication")["role"] == "master", cluster.nodes["node-d"].log)
        before = clients.counts["ok"]
        wait_until(lambda: clients.counts["ok"] > before + 50)
        clients.stop.set()
    assert clients.counts.keys() == {"ok"}, (clients.counts, clients.examples[:3])


def reachable(port: int) -> bool:
    with suppress(OSError):
        return bool(get(f"http://127.0.0.1:{port}/health/ready"))
    return False
