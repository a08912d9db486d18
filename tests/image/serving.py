"""The service in its container, with what docker-compose.yml gives it, and what is promised of it."""

import json
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import yaml

from service.store.embedded import packaged_server
from tests.image.podman import NotHere, Podman
from tests.processes import ROOT
from tests.servers import Server, free_ports

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
USER = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
NAME = "bst-ranker-tried"
IN_MEMORY = re.compile(r"/dev/(shm|mqueue)(/|$)")  # the kernel's message queues too, as in any container
READY_S, PAUSE_S = 120, 0.1
INSIDE = (Path(__file__).with_name("inside.py")).read_text()


class Promise(NamedTuple):
    what: str
    seen: object
    held: bool


class Tried(NamedTuple):
    promises: list[Promise]
    ready_s: float
    stopped_s: float
    packages: Mapping[str, int]  # bytes


def tried(podman: Podman, image: str, folder: Path) -> Tried:
    """Starts it, asks it, looks into it and stops it. `folder` is for the store's files."""
    store, port, admin = free_ports(3)
    key, line = podman.run(image, "python", "-m", "service.keys", "me", "rank").splitlines()
    told = {"REDIS_URL": f"redis://127.0.0.1:{store}/0", "KEYS": line, "PORT": port, "ADMIN_PORT": admin}
    options = [*confined(), *(word for name, value in told.items() for word in ("--env", f"RANKER_{name}={value}"))]
    users = [word.replace("$$", "$") for word in COMPOSE["services"]["demo-users"]["command"]]
    grace_s = int(COMPOSE["services"]["service"]["stop_grace_period"].removesuffix("s"))
    with ExitStack() as stack:
        server = Server(packaged_server(), folder, store, "--port", store)
        server.start()
        stack.callback(server.kill)
        podman.run(image, *users, options=options)
        with podman.running(NAME, image, [*options, "--entrypoint", '["true"]']) as idle:
            idle.wait()
            untouched = podman.told("diff", "--format", "json", NAME)
        begun = time.monotonic()
        process = stack.enter_context(podman.running(NAME, image, options))
        wait_until_ready(f"http://127.0.0.1:{admin}/health/ready", process)
        ready = time.monotonic()
        answer, stranger = asked(port, key), asked(port, None)
        healthy = podman.succeeds("healthcheck", "run", NAME)
        inside = json.loads(podman("exec", NAME, "python", "-c", INSIDE))
        stopping = time.monotonic()
        podman("stop", "--time", grace_s, NAME)
        code = process.wait()
        stopped = time.monotonic()
        written = podman.told("diff", "--format", "json", NAME)
    ids = sorted({(one["Uid"], one["Gid"]) for one in inside["processes"]})
    powers = sorted({(one["CapEff"], one["NoNewPrivs"]) for one in inside["processes"]})
    held = [
        Promise("it ranks with a user's history", answer, ranks(*answer)),
        Promise("it asks for a key", stranger[0], stranger[0] == 401),
        Promise("the image's own health check finds it well", healthy, healthy),
        Promise("each process is the image's user", ids, ids == [USER]),
        Promise("none has a capability or can gain one", powers, powers == [("0000000000000000", "1")]),
        Promise("it can write to memory alone", inside["writable"], all(map(IN_MEMORY.match, inside["writable"]))),
        Promise("no pip is among its packages", len(inside["packages"]), "pip" not in inside["packages"]),
        Promise("it has written what a container that does nothing has", written, written == untouched),
        Promise(f"SIGTERM ends it with exit code 0 within {grace_s} s", code, code == 0),
    ]
    return Tried(held, ready - begun, stopped - stopping, inside["packages"])


def confined() -> list[str]:
    """Options that say what docker-compose.yml says of the service."""
    told = COMPOSE["x-ranker"]
    # As Docker understands it: Podman's would bring a /tmp that can be written.
    options = ["--read-only", "--read-only-tmpfs=false"] if told["read_only"] else []
    options += ["--shm-size", told["shm_size"].removesuffix("b")]
    options += [word for one in told["cap_drop"] for word in ("--cap-drop", one)]
    return options + [word for one in told["security_opt"] for word in ("--security-opt", one.removesuffix(":true"))]


def wait_until_ready(url: str, process: "subprocess.Popen[str]") -> None:
    """Reads on what it says meanwhile. NotHere: it ended, or is not ready in time."""
    lines: list[str] = []
    assert process.stdout is not None
    threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True).start()
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=READY_S):
                return
        except OSError:
            time.sleep(PAUSE_S)
    told = " | ".join(line.strip() for line in lines[-3:])
    raise NotHere(f"the service was not ready within {READY_S} s (exit code {process.poll()}): {told}")


def asked(port: int, key: str | None) -> tuple[int, Any]:
    """Status and answer of the README's request."""
    request = re.search(r"localhost:8000/rank .* -d '(\{.*?\})'\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert request is not None
    headers = {"content-type": "application/json"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    rank = urllib.request.Request(f"http://127.0.0.1:{port}/rank", request[1].encode(), headers)
    try:
        with urllib.request.urlopen(rank, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def ranks(status: int, answer: Mapping[str, Any]) -> bool:
    scores = [item["score"] for item in answer.get("items", ())]
    ordered = len(scores) == 3 and scores == sorted(scores, reverse=True)
    return status == 200 and ordered and answer["history_length"] > 0 and not answer["degraded"]
