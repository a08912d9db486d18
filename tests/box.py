"""A box that a command runs in and that sees what leaves it: names looked up, ways out tried, files written anywhere.

A network namespace in which only loopback is up, a resolver of its own that writes down each question and knows no
name, and an overlay over the whole file system, whose upper layer holds every file that was made or changed. Needs
Linux and root, or user namespaces that may mount.
"""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME, WORK = "/srv/box/home", "/srv/box/work"  # within the box: fresh and empty
IN_MEMORY = ("dev/shm", "tmp")
LIMIT_S = 240
KEPT = ("PATH", "LANG", "LC_ALL")  # of our own environment; what it names would not be the command's choice


@dataclass(frozen=True)
class Seen:
    """What a command did in the box."""

    code: int
    output: str
    questions: tuple[str, ...]  # names that were looked up, in order
    no_route: int  # packets for an address outside: sent nowhere
    files: tuple[str, ...]  # made or changed and still there, but for those in WORK


@cache
def refusal() -> str | None:
    """Why there can be no box here, or None."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return "no box: it needs Linux and unshare"
    try:
        seen = boxed([sys.executable, "-c", "print('in the box')"])
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        return f"no box: {error}"
    return None if seen.output.strip() == "in the box" else f"no box: {seen.output}"


def boxed(command: Sequence[str], **environment: str) -> Seen:
    """Runs the command to its end in a box, in an empty folder WORK, with an empty HOME. RuntimeError: no box here."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    kept |= {"HOME": HOME, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    kept |= {"OMP_NUM_THREADS": "1"} | environment
    told = json.dumps({"command": list(command), "environment": kept})
    # As one's own root where one is not: so may mount what only it sees.
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    namespaces = ["unshare", *mapped, "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"]
    # By its path, not as a module: that would import the tests' folder, and be measured with it.
    ran = subprocess.run(
        [*namespaces, sys.executable, __file__, told], capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT
    )
    lines = ran.stdout.splitlines()
    if ran.returncode or not lines:
        raise RuntimeError((ran.stderr.strip() or f"unshare: exit code {ran.returncode}").splitlines()[-1])
    seen = json.loads(lines[-1])
    return Seen(seen["code"], seen["output"], tuple(seen["questions"]), seen["no_route"], tuple(seen["files"]))


# --- within


def main(told: str) -> None:
    task = json.loads(told)
    _run("mount", "--make-rprivate", "/")
    _run("ip", "link", "set", "lo", "up")
    outside = Path("/mnt") if Path("/mnt").is_dir() else Path("/media")
    _run("mount", "-t", "tmpfs", "tmpfs", outside)
    upper, inside = outside / "upper", outside / "inside"
    for folder in (upper, outside / "scratch", inside):
        folder.mkdir()
    layers = f"lowerdir=/,upperdir={upper},workdir={outside / 'scratch'}"
    _run("mount", "-t", "overlay", "overlay", "-o", layers, inside)
    _run("mount", "--rbind", "/dev", inside / "dev")
    for folder in IN_MEMORY:  # empty: services of others keep their counts and sockets there, and ours may clear away
        (inside / folder).mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", inside / folder)
    for needed in sorted(
        {ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    ):  # what holds another first
        if not (inside / needed.relative_to("/")).exists():  # on a file system of its own: seen, not written
            (inside / needed.relative_to("/")).mkdir(parents=True, exist_ok=True)
            _run("mount", "--rbind", "-o", "ro", needed, inside / needed.relative_to("/"))
    _run("mount", "-t", "proc", "proc", inside / "proc")
    for folder in (HOME, WORK):
        (inside / folder.lstrip("/")).mkdir(parents=True)
    # A link would lead out of it; what it leads to is somebody else's resolver.
    (inside / "etc/resolv.conf").unlink(missing_ok=True)
    (inside / "etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (inside / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    before = set(_written(upper, inside))

    questions: list[str] = []
    threading.Thread(target=_resolve, args=(_resolver(), questions), daemon=True).start()
    said = outside / "output"  # a file: whatever the command leaves running would hold a pipe open
    with said.open("w") as writing:
        ran = subprocess.run(
            ["chroot", str(inside), "sh", "-c", f'cd {WORK} && exec "$@"', "sh", *task["command"]],
            env=task["environment"],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
        )
    output = said.read_text(errors="replace")
    made = set(_written(upper, inside)) - before
    files = sorted(name for name in made if not name.startswith(f"{WORK}/"))
    told_back = {"code": ran.returncode, "output": output, "questions": questions, "no_route": _no_route()}
    print(json.dumps(told_back | {"files": files}))


def _run(*command: object) -> None:
    ran = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {ran.stderr.strip()}")


def _written(upper: Path, inside: Path) -> Iterator[str]:
    yield from _files(upper)
    for folder in IN_MEMORY:
        yield from (f"/{folder}{name}" for name in _files(inside / folder))


def _files(folder: Path) -> Iterator[str]:
    """All but folders, as paths from `folder` on; what was deleted from the layer below is a device there."""
    for path in folder.rglob("*"):
        if not path.is_dir() or path.is_symlink():
            yield f"/{path.relative_to(folder)}"


def _no_route() -> int:
    """How often a packet had nowhere to go: an address was tried without asking for a name."""
    rows = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    six = dict(line.split() for line in Path("/proc/net/snmp6").read_text().splitlines())
    return int(dict(zip(*rows, strict=True))["OutNoRoutes"]) + int(six["Ip6OutNoRoutes"])


def _resolver() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 53))
    return listener


def _resolve(listener: socket.socket, questions: list[str]) -> None:
    """Writes down what is asked; there is no such name."""
    while True:
        query, sender = listener.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode(errors="replace"))
            at += 1 + query[at]
        questions.append(".".join(labels))
        flags = struct.pack("!H", 0x8183)  # an answer: no such name
        counts = struct.pack("!4H", 1, 0, 0, 0)
        listener.sendto(query[:2] + flags + counts + query[12 : at + 5], sender)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main(sys.argv[1])
