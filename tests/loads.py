"""What tests of the load test share: an HTTP server with known faults, and whole runs as processes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from tests.processes import finished

# The server


class Reply(NamedTuple):
    content: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


Rank = Callable[[int, dict[str, Any]], Reply | None]  # None: hang up


def ranked(asked: dict[str, Any]) -> bytes:
    """A right answer."""
    ids = [item["item_id"] if isinstance(item, dict) else item for item in asked["candidates"]]
    items = [{"item_id": item, "score": 1 / (i + 1)} for i, item in enumerate(ids)]
    return json.dumps({"items": items[: asked.get("top_k")]}).encode()


def taking(delay_s: float) -> Callable[[int, dict[str, Any]], Reply]:
    """Right answers, each after `delay_s`: the time that a run has to find, so it is slept and not waited for."""

    def rank(_: int, asked: dict[str, Any]) -> Reply:
        time.sleep(delay_s)
        return Reply(ranked(asked))

    return rank


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept alive
    disable_nagle_algorithm = True  # or each answer would wait 40 ms for an ACK of its head
    server: "Server"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self._reply(Reply(b"{}", 404) if self.server.model is None else Reply(self.server.model))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.add(self.path)
        self.server.contents.append(content)
        self.server.asked.set()
        self._reply(self.server.rank(len(self.server.contents) - 1, json.loads(content)))

    def _reply(self, reply: Reply | None) -> None:
        if reply is None:  # hang up
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers:
            self.send_header(name, value)
        if ("Transfer-Encoding", "chunked") not in reply.headers:
            self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers POST /rank as `rank` says, given the request's number and body, and GET /model with `model`, else 404."""

    request_queue_size = 128

    def __init__(self, rank: Rank, model: bytes | None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rank, self.model = rank, model
        self.connections = 0
        self.paths: set[str] = set()
        self.contents: list[bytes] = []
        self.asked = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(content) for content in self.contents]


@contextmanager
def serving(rank: Rank = lambda _, asked: Reply(ranked(asked)), model: bytes | None = None) -> Iterator[Server]:
    with Server(rank, model) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# The run

DEFAULTS = {
    "rate": 60,
    "duration_s": 0.8,
    "candidates": 4,
    "p50_ms": 2000,
    "p99_ms": 10_000,
    "errors": 0,
    "warmup_s": 0,
    "smoke": True,  # too short to carry a p99
}


def budgets_file(folder: Path, **scenarios: dict[str, Any]) -> Path:
    lines = []
    for name, values in scenarios.items():
        lines += [f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in (DEFAULTS | values).items())]
    path = folder / "budgets.toml"
    path.write_text("\n".join(lines))
    return path


def _toml(value: Any) -> str:
    return (
        f"{{ {', '.join(f'{k} = {v}' for k, v in value.items())} }}" if isinstance(value, dict) else json.dumps(value)
    )


class Ran(NamedTuple):
    code: int
    out: list[str]
    err: str

    @property
    def line(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.out[-1])
        return line


def arguments(url: str, budget: Path, *more: str) -> list[str]:
    """Of `python` for a load test."""
    return ["-m", "loadtest", "--url", url, "--budgets", str(budget), *more]


def run(url: str, budget: Path, *more: str, **environment: str) -> Ran:
    """A load test to its end. Its environment names a proxy that does not exist: nobody may ask for it."""
    proxies = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    ended = finished(*arguments(url, budget, *more), **proxies | environment)
    return Ran(ended.returncode, ended.stdout.splitlines(), ended.stderr)
