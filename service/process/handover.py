"""A running service hands its listening sockets to its successor on the same host, over a Unix socket.

The successor asks, gets the sockets (SCM_RIGHTS), starts its workers on them and says so when all answer. Then the one
before accepts no more, finishes what it has, and ends. Until then it goes on as if nobody had asked, and so it does
where the successor fails. Nobody but a process of the same user is answered.
"""

import asyncio
import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from service.process.listening import ADMIN, MAIN, base
from service.process.supervisor import Supervisor
from service.settings import Settings, SettingsError

log = logging.getLogger("ranker")

ANSWERING, HANDED = b"answering", b"handed"
ANSWER_S = 10.0  # for one word from the other service, which has nothing else to do
MOST_BYTES = 4096
MOST_PATH = 90  # bytes: the kernel takes 107, and the socket is made beside, under a longer name
_UCRED = struct.Struct("3i")  # pid, uid, gid


class Predecessor:
    """The service that runs, as its successor sees it; `sockets` are those of its that the settings name too."""

    def __init__(self, path: Path, line: socket.socket, sockets: dict[str, socket.socket]):
        self._path, self._line, self.sockets = path, line, sockets

    @classmethod
    def at(cls, path: Path, settings: Settings) -> "Predecessor | None":
        """None where nobody runs. Raises SettingsError."""
        if len(os.fsencode(path)) > MOST_PATH:
            raise SettingsError(f"RANKER_HANDOVER={path}: no socket can be made there: at most {MOST_PATH} bytes")
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(ANSWER_S)
        try:
            line.connect(str(path))
            if _user(line) != os.getuid():
                raise SettingsError(f"RANKER_HANDOVER={path}: another user's service is there; name another path")
            told, descriptors, _, _ = socket.recv_fds(line, MOST_BYTES, 2)
        except (FileNotFoundError, ConnectionRefusedError):  # nobody, or one that was killed
            line.close()
            return None
        except OSError as error:
            raise SettingsError(f"RANKER_HANDOVER={path}: the service there does not hand over ({error})") from None
        if not told:
            raise SettingsError(f"RANKER_HANDOVER={path}: the service there is handing over to another, or stops")
        sockets = dict(zip(json.loads(told), (socket.socket(fileno=one) for one in descriptors), strict=True))
        return cls(path, line, {name: one for name, one in sockets.items() if _named(settings, name, one)})

    def let_go(self) -> bool:
        """Says that all workers answer: it accepts nothing more from now on. False where it is gone already."""
        try:
            self._line.sendall(b" ".join([ANSWERING, *(name.encode() for name in self.sockets)]))
            done = self._line.recv(MOST_BYTES) == HANDED
        except OSError:
            done = False
        self._line.close()
        return done


class Handover:
    """At `path`, for the next successor. `leave` is called when it has taken over."""

    def __init__(
        self, path: Path, supervisor: Supervisor, sockets: dict[str, socket.socket], leave: Callable[[], None]
    ):
        self._path, self._supervisor, self._sockets, self._leave = path, supervisor, sockets, leave
        self._beside = path.with_name(f".{path.name}.{os.getpid()}")
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            if path.exists() and not path.is_socket():
                raise OSError("something that is no socket stands there")
            with suppress(FileNotFoundError):
                self._beside.unlink()
            self._listener.bind(str(self._beside))
            self._beside.chmod(0o600)
            self._listener.listen(1)
            self._listener.setblocking(False)
        except OSError as error:
            self._listener.close()
            raise SettingsError(f"RANKER_HANDOVER={path}: no socket can be made there ({error})") from None
        self._inode = self._beside.stat().st_ino

    async def serve(self) -> None:
        """Until it is cancelled, or a successor has taken over."""
        try:
            os.replace(self._beside, self._path)  # the one before had it until now
        except OSError as error:
            log.error("RANKER_HANDOVER=%s: no successor can take over from this service (%s)", self._path, error)
            return
        loop = asyncio.get_running_loop()
        while not self._supervisor.stopping:
            line, _ = await loop.sock_accept(self._listener)
            with line:
                try:
                    await self._hand(line)
                except OSError as error:
                    log.warning("the sockets could not be handed over: %s", error)

    async def _hand(self, line: socket.socket) -> None:
        if _user(line) != os.getuid():
            log.warning("user %d asked for the sockets, which user %d has: refused", _user(line), os.getuid())
            return
        line.setblocking(False)
        loop, sole = asyncio.get_running_loop(), self._supervisor.sole
        names = [name for name, one in self._sockets.items() if one.fileno() >= 0]
        self._supervisor.sole = False
        socket.send_fds(line, [json.dumps(names).encode()], [self._sockets[name].fileno() for name in names])
        log.info("a successor has the listening sockets; this service goes on until that one answers")
        said = (await loop.sock_recv(line, MOST_BYTES)).split()
        if said[:1] != [ANSWERING]:
            self._supervisor.sole = sole
            log.warning("the successor has ended before it answered; this service goes on")
            return
        if MAIN.encode() in said:
            self._supervisor.hand_over()
        else:  # on a port of its own
            self._supervisor.sole = sole
            self._supervisor.stop()
        self._leave()
        await loop.sock_sendall(line, HANDED)
        log.info("a successor answers; this service finishes what it has and ends")

    def close(self) -> None:
        self._listener.close()
        for path in (self._beside, self._path):
            with suppress(OSError):
                if path.stat().st_ino == self._inode:  # else it is the successor's
                    path.unlink()


def _user(line: socket.socket) -> int:
    """Whose process is at the other end."""
    if sys.platform != "linux":
        return os.getuid()  # the file's mode alone guards it there
    return int(_UCRED.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])


def _named(settings: Settings, name: str, listener: socket.socket) -> bool:
    """Whether the settings name this socket's address; it is closed otherwise."""
    port = {MAIN: settings.port, ADMIN: settings.admin_port}.get(name, 0)
    if name == MAIN and not port:
        return True  # any
    if port:
        found = socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        if listener.getsockname()[:2] in {address[4][:2] for address in found}:
            return True
        log.warning("the service before listens on %s, this one is to listen elsewhere", base(listener))
    listener.close()
    return False
