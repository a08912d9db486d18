"""Whether a request is let in at all: decided by its method, its path and its headers, before anything else of it.

What is not named in the table needs a key too, so that a stranger cannot even learn which paths there are. The table
goes by exact paths, and only makes a refusal early: behind it every route asks for its own scope again (`permit`), so
no spelling of a path leads past it.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from service.access.keyring import Keyring
from service.access.keys import METRICS, OPEN, RANK, Key
from service.errors import Forbidden, Unauthorized

if TYPE_CHECKING:
    from service.access.rates import Rates  # its library is not for the admin process, which bounds nobody

BROWSED = ("/", "/docs", "/openapi.json")  # paths that a browser opens by itself; it can send a key as a password alone

Headers = Iterable[tuple[bytes, bytes]]
Table = Mapping[tuple[str, str], str]  # method, path → scope


class Guard:
    """`ring` None: nobody needs a key. `browsed`: where what a page of BROWSED loads lies.

    `preflights`: whether pages of other origins may call, whose browsers ask before, without a key.
    """

    def __init__(
        self,
        ring: Keyring | None,
        table: Table,
        metrics_open: bool = False,
        rates: "Rates | None" = None,
        browsed: str = "/docs-assets/",
        preflights: bool = False,
    ):
        self.ring, self._preflights = ring, preflights
        self._table, self._rates, self._browsed = table, rates, browsed
        self._open = {OPEN, METRICS} if metrics_open else {OPEN}
        without_bearer = [path for (_, path), scope in table.items() if scope in self._open]
        self._ends = (*without_bearer, *BROWSED[1:])

    def needs_key(self, scope: str | None) -> bool:
        return self.ring is not None and scope not in self._open

    def foresees(self, path: str) -> bool:
        """Whether `admit` decides alike once a proxy's prefix is off the path: not where a Bearer may not be needed."""
        whole = path in self._ends or path.startswith(self._browsed)
        return whole or not (path.endswith(self._ends) or self._browsed in path)

    def admit(self, method: str, path: str, headers: Headers, count: bool) -> Key | None:
        """The caller's key; None where none is needed. Raises Unauthorized, Forbidden, TooManyOfKey.

        `count`: whether this is the request itself; else only its answer is foreseen.
        """
        if self.ring is None:
            return None
        method = "GET" if method == "HEAD" else method
        scope = self._table.get((method, path))
        if scope in self._open or (self._preflights and method == "OPTIONS" and _preflight(headers)):
            return None
        browsed = method == "GET" and (path in BROWSED or path.startswith(self._browsed))
        scope = RANK if browsed and scope is None else scope  # what the pages load, which no route names
        token = _token(headers, browsed)
        key = None if token is None else self.ring.who(token)
        if key is None:
            raise Unauthorized(_WITHOUT if token is None else _UNKNOWN, browsed)
        self.permit(key, method, path, scope)
        if self._rates is not None:
            self._rates.check(key, count)
        return key

    def permit(self, key: Key | None, method: str, path: str, scope: str | None) -> None:
        """Raises Unauthorized, Forbidden where this key may not have what needs this scope; None: any key may."""
        if not self.needs_key(scope):
            return
        if key is None:
            raise Unauthorized(_WITHOUT)
        if scope is not None and scope not in key.scopes:
            scopes = ", ".join(sorted(key.scopes))
            raise Forbidden(f"{method} {path} needs a key with the scope {scope}; {key.name!r} has {scopes}", scope)


_SEND = "send the header `Authorization: Bearer KEY`, once; whoever runs this service gives keys out"
_WITHOUT = f"no key; {_SEND}"
_UNKNOWN = f"a key that is not known here; {_SEND}"


def _preflight(headers: Headers) -> bool:
    return {b"origin", b"access-control-request-method"} <= {name for name, _ in headers}


def _token(headers: Headers, basic: bool) -> bytes | None:
    """What the header names; None for no header, another scheme, or two headers, of which a proxy may read the other.

    `basic`: whether a browser's password counts, whatever the user's name. It does for pages alone: browsers send it
    along with what other sites make them ask.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) != 1:
        return None
    scheme, _, rest = values[0].strip(b" \t").partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip(b" ")
    if not basic or scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(rest.strip(b" "), validate=True).partition(b":")[2]
    except binascii.Error:
        return None
