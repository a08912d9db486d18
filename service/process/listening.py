"""The listening sockets: bound here, or handed over by systemd; and how one is closed without losing a connection.

A connection is made by the kernel, before any process accepts it: closing the socket resets those that wait. So new
connections are first kept out by a filter on the socket (socket(7), SO_ATTACH_FILTER), then those that wait are
accepted, then it is closed. A client whose first packet was dropped sends it again after a second, and is refused then.
"""

import ctypes
import logging
import os
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from service.api.http.stamps import stamped
from service.settings import Settings, SettingsError

log = logging.getLogger("ranker")

MAIN, ADMIN = "main", "admin"
BACKLOG = 2048
FIRST_FD = 3  # sd_listen_fds(3)
_SO_ATTACH_FILTER = 26  # of Linux; Python has no name for it
_TCP_INFO_BYTES, _TCP_INFO_WAITING = 32, 24  # of a listening socket, tcpi_unacked is the length of its accept queue
# Classic BPF: code, jump if true, jump if false, operand. A packet begins at its TCP header, whose byte 13 has the
# flags. SYN without ACK asks for a new connection.
_SYN, _SYN_ACK = 0x02, 0x12
_KEEP_NEW_ONES_OUT = (
    (0x30, 0, 0, 13),  # load byte 13
    (0x54, 0, 0, _SYN_ACK),  # and
    (0x15, 0, 1, _SYN),  # equal? else skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
)


@dataclass(frozen=True)
class Listeners:
    """`own`: nobody but this service and its workers holds them."""

    main: socket.socket
    admin: socket.socket | None
    own: bool = True

    def all(self) -> dict[str, socket.socket]:
        return {MAIN: self.main} | ({ADMIN: self.admin} if self.admin is not None else {})

    def close(self) -> None:
        for listener in self.all().values():
            listener.close()


def opened(settings: Settings, inherited: Mapping[str, socket.socket], own: bool = True) -> Listeners:
    """Those that are `inherited` (by MAIN and ADMIN), the others bound. Raises OSError, SettingsError."""
    if settings.admin_port and settings.admin_port == settings.port:
        raise SettingsError(f"RANKER_PORT and RANKER_ADMIN_PORT are both {settings.port}: two ports are needed")
    main = inherited.get(MAIN) or bound(settings.host, settings.port, "RANKER_PORT")
    admin = inherited.get(ADMIN)
    if admin is None and settings.admin_port:
        try:
            admin = bound(settings.host, settings.admin_port, "RANKER_ADMIN_PORT")
        except OSError:
            main.close()
            raise
    for listener in (main, admin):
        if listener is not None:
            stamped(listener)
    return Listeners(main, admin, own)


def bound(host: str, port: int, setting: str) -> socket.socket:
    """It listens, so that a port in use is one clear line before anything else starts."""
    listener = None
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        wrong = f"cannot listen on {host}:{port} ({error.strerror})"
        raise OSError(f"{wrong}; stop what listens there or set {setting} to another port") from None
    return listener


def from_systemd(admin_port: int) -> dict[str, socket.socket]:
    """The sockets that LISTEN_FDS hands to this process, by MAIN and ADMIN; children do not see the variables.

    The one named `admin` is ADMIN, or where none has that name the one on RANKER_ADMIN_PORT, or the second.
    Raises SettingsError.
    """
    told = {name: os.environ.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")}
    if not told["LISTEN_FDS"] or told["LISTEN_PID"] != str(os.getpid()):
        return {}
    if not told["LISTEN_FDS"].isdigit() or not 1 <= int(told["LISTEN_FDS"]) <= 2:
        raise SettingsError(f"LISTEN_FDS={told['LISTEN_FDS']}: 1 or 2 sockets are allowed, requests' and the admin's")
    sockets = [_passed(FIRST_FD + number) for number in range(int(told["LISTEN_FDS"]))]
    names = told["LISTEN_FDNAMES"].split(":")
    at = next((at for at, name in enumerate(names) if name == ADMIN and at < len(sockets)), None)
    if at is None and len(sockets) == 2:
        at = 0 if admin_port and sockets[0].getsockname()[1] == admin_port else 1
    main = [one for number, one in enumerate(sockets) if number != at]
    if not main:
        raise SettingsError("LISTEN_FDS hands over an admin socket alone; one for requests is needed, by another name")
    log.info("listening on what LISTEN_FDS hands over: %s", ", ".join(map(base, sockets)))
    return {MAIN: main[0]} | ({ADMIN: sockets[at]} if at is not None else {})


def _passed(descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise SettingsError(f"LISTEN_FDS: descriptor {descriptor} is no socket ({error.strerror})") from None
    tcp = listener.family in (socket.AF_INET, socket.AF_INET6) and listener.type == socket.SOCK_STREAM
    if not tcp or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise SettingsError(f"LISTEN_FDS: descriptor {descriptor} is no listening TCP socket (ListenStream=HOST:PORT)")
    listener.set_inheritable(False)
    return listener


def base(listener: socket.socket) -> str:
    """Its URL, for people."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def keep_out(listener: socket.socket) -> bool:
    """From now on no new connection comes to it; false where this system cannot."""
    if sys.platform != "linux":
        return False
    code = b"".join(struct.pack("HBBI", *step) for step in _KEEP_NEW_ONES_OUT)
    held = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(_KEEP_NEW_ONES_OUT), ctypes.addressof(held))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError as error:
        log.warning("connections made at the very end may be reset: no filter on the socket (%s)", error.strerror)
        return False
    return True


def waiting(listener: socket.socket) -> int:
    """Connections that are made and that nobody has accepted; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return int(struct.unpack_from("I", told, _TCP_INFO_WAITING)[0])
