"""The path under which a proxy shows the service: told by the operator, or by a proxy that is believed.

Some proxies strip it from the path, some do not: both come to the same route, and routes' names, in metrics and log,
have no prefix.
"""

import ipaddress
import logging
from collections.abc import Callable, Collection
from functools import lru_cache

from starlette.types import Scope

from service import listed

log = logging.getLogger("ranker")

HEADER = b"x-forwarded-prefix"
_CLIENTS = 4096  # addresses that are remembered


class Prefix:
    """`root`: the operator's own. `trusted`: addresses and networks of proxies whose header wins over it.

    `paths`: those that have a route; such a path is taken as it stands, whatever it begins with.
    """

    def __init__(self, root: str, trusted: tuple[str, ...], paths: Collection[str]):
        self._root, self._paths = root, frozenset(paths)
        self._trusts = _trusting(trusted) if trusted else None
        self._told = False

    def __bool__(self) -> bool:
        return bool(self._root) or self._trusts is not None

    def place(self, scope: Scope) -> str:
        """The path without prefix. The scope gets `root_path`, and its path with it, as ASGI has it."""
        root, path = self._of(scope), str(scope["path"])
        if not path.startswith("/"):  # OPTIONS *
            return path
        if root and path not in self._paths and (path == root or path.startswith(f"{root}/")):
            path = path.removeprefix(root) or "/"
        scope["root_path"], scope["path"] = root, root + path
        return path

    def _of(self, scope: Scope) -> str:
        client = scope.get("client")
        if self._trusts is None or client is None or not self._trusts(client[0]):
            return self._root
        value = next((value for name, value in scope["headers"] if name == HEADER), None)
        if value is None:
            return self._root
        try:
            return listed.prefix(value.decode("latin-1"))
        except ValueError as error:
            if not self._told:
                self._told = True
                log.warning(
                    "X-Forwarded-Prefix of %s is passed over, and from now on without a line: %s", client[0], error
                )
            return self._root


def _trusting(trusted: tuple[str, ...]) -> Callable[[str], bool]:
    networks = [ipaddress.ip_network(one) for one in trusted]

    @lru_cache(_CLIENTS)
    def trusts(client: str) -> bool:
        try:
            address = ipaddress.ip_address(client)
        except ValueError:  # a socket without an address
            return False
        mapped = getattr(address, "ipv4_mapped", None)  # of a listener on ::
        return any((mapped or address) in network for network in networks)

    return trusts
