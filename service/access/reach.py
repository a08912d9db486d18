"""Where a service may do without keys: where only this machine reaches it, or where it is told so expressly."""

import ipaddress
import logging
import socket
from collections.abc import Iterable

from service.access.keyring import Keyring
from service.access.keys import MAKE, KeysError

log = logging.getLogger("ranker")


def check_reach(listeners: Iterable[socket.socket], ring: Keyring | None, without_keys: bool) -> None:
    """Raises KeysError where strangers could ask. `without_keys`: that is what the operator wants."""
    wide = [name for listener in listeners if (name := _beyond_this_machine(listener)) is not None]
    if ring is not None:
        if without_keys:
            log.warning("RANKER_UNSAFE_NO_KEYS does nothing: there are keys")
        return
    if not wide:
        return
    if not without_keys:
        raise KeysError(
            f"{' and '.join(wide)} can be reached from other machines, and there are no keys: set RANKER_KEYS_FILE or "
            f"RANKER_KEYS ({MAKE}), or listen on RANKER_HOST=127.0.0.1; RANKER_UNSAFE_NO_KEYS=true serves whoever asks"
        )
    log.warning("whoever reaches %s may ask: there are no keys, as RANKER_UNSAFE_NO_KEYS says", " and ".join(wide))


def _beyond_this_machine(listener: socket.socket) -> str | None:
    """Its address, where others may reach it; None on loopback and for a socket in the file system.

    It goes by the socket and not by the setting: a name may resolve to anything, and a socket may be handed over.
    """
    if listener.family == socket.AF_UNIX:
        return None
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return None if mapped.is_loopback else f"{host}:{port}"
