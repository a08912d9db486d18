"""A Redis Cluster on loopback: three primaries, and a replica of the first, which takes over when that one dies."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from loadtest.bench.processes import free_ports, on
from loadtest.errors import NoRun
from service.store import embedded
from service.store.tied import tied

PRIMARIES, LAST_SLOT = 3, 16383
NODE_TIMEOUT_MS = 3000  # without a word from a node, until the others call it dead; deployments have 5 s or more
PATIENCE_S, LOOK_S = 60.0, 0.02


def node_files(ports: Sequence[tuple[int, int]]) -> list[str]:
    """What each node finds in its nodes.conf; `ports` are its own and its bus', the replica's last.

    Nodes that are told of each other in files are a cluster at once: CLUSTER MEET would take seconds to get round.
    """
    ids, primaries = node_ids(len(ports)), len(ports) - 1
    edges = [(LAST_SLOT + 1) * number // primaries for number in range(primaries + 1)]
    slots = [f"{first}-{until - 1}" for first, until in zip(edges, edges[1:], strict=False)] + [""]
    files = []
    for me in range(len(ports)):
        rows = []
        for other, (port, bus) in enumerate(ports):
            role = f"slave {ids[0]}" if other == primaries else "master -"
            mine = "myself," if other == me else ""
            at = f"127.0.0.1:{port}@{bus}"
            rows.append(f"{ids[other]} {at} {mine}{role} 0 0 {other + 1} connected {slots[other]}".rstrip())
        files.append("\n".join([*rows, f"vars currentEpoch {len(ports)} lastVoteEpoch 0", ""]))
    return files


def node_ids(count: int) -> list[str]:
    return [f"{number + 1:x}" * 40 for number in range(count)]


def options(port: int, bus: int) -> list[object]:
    own: list[object] = ["--port", port, "--cluster-port", bus, "--cluster-enabled", "yes"]
    return [*own, "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", NODE_TIMEOUT_MS]


class Cluster:
    """What runs. `url`: as RANKER_REDIS_URL names it, by its primaries."""

    def __init__(self, nodes: Sequence["subprocess.Popen[bytes]"], ports: Sequence[int]):
        self._nodes, self._ports = nodes, ports
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports[:PRIMARIES])

    def kill_first(self) -> None:
        """SIGKILL to the primary that has a replica."""
        self._nodes[0].kill()
        self._nodes[0].wait()

    def taken_over(self) -> bool:
        """Whether the replica has become a primary, and all slots have one again."""
        return self._told(PRIMARIES, "replication")["role"] == "master" and self._whole(PRIMARIES)

    def healthy(self) -> bool:
        """Whether all nodes know all slots, and the replica follows."""
        return (
            all(map(self._whole, range(len(self._ports))))
            and self._told(PRIMARIES, "replication").get("master_link_status") == "up"
        )

    def _whole(self, number: int) -> bool:
        with redis.Redis(port=self._ports[number], decode_responses=True) as node:
            return "cluster_state:ok" in str(node.execute_command("CLUSTER", "INFO"))

    def _told(self, number: int, section: str) -> dict[str, str]:
        with redis.Redis(port=self._ports[number], decode_responses=True) as node:
            return dict(node.info(section))


@contextmanager
def cluster(cpus: set[int]) -> Iterator[Cluster]:
    """Call it from the main thread, with whose end the nodes end too. Raises NoRun."""
    try:
        binary = embedded.packaged_server()
    except embedded.EmbeddedStoreError as error:
        raise NoRun(str(error)) from None
    free = free_ports(2 * (PRIMARIES + 1))
    ports = list(zip(free[::2], free[1::2], strict=True))
    with ExitStack() as undo:
        home = Path(undo.enter_context(TemporaryDirectory()))
        nodes = []
        for number, (own, text) in enumerate(zip(ports, node_files(ports), strict=True)):
            folder = home / str(number)
            folder.mkdir()
            (folder / "nodes.conf").write_text(text)
            kept: list[object] = ["--bind", "127.0.0.1", "--dir", folder, "--save", "", "--repl-diskless-sync-delay", 0]
            with (folder / "log").open("wb") as log, on(cpus):
                command = tied(binary, *options(*own), *kept)
                node = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            undo.callback(node.wait)
            undo.callback(node.kill)
            nodes.append(node)
        running = Cluster(nodes, [port for port, _ in ports])
        _wait(running, nodes, home)
        yield running


def _wait(running: Cluster, nodes: Sequence["subprocess.Popen[bytes]"], home: Path) -> None:
    """Raises NoRun."""
    until = time.monotonic() + PATIENCE_S
    while True:
        with suppress(redis.RedisError):
            if running.healthy():
                return
        for number, node in enumerate(nodes):
            if node.poll() is not None or time.monotonic() > until:
                log = (home / str(number) / "log").read_text(errors="replace").strip()
                raise NoRun(f"the cluster does not come up; node {number}: {log[-300:] or 'without a word'}")
        time.sleep(LOOK_S)
