"""The store's URL: which kind of store, where, and how it is spoken to.

    redis://[[user]:password@]host[:6379][/db]                             rediss:// by TLS
    unix://[[user]:password@]/path/of/the/socket
    redis+sentinel://[[user]:password@]host[:26379],…/master[/db]          rediss+sentinel:// by TLS
    redis+cluster://[[user]:password@]host[:6379],…                        rediss+cluster:// by TLS

The first three are redis-py's; it has no URL for several hosts, and these are the ones that other Python software
takes. redis-py passes over what it does not understand (`/x` is database 0, `ssl_check_hostname=flase` is true) or
fails at the first read; here it is refused, in a message that shows no piece of what may be a password.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from redis.asyncio.connection import parse_ssl_verify_flags

SINGLE, SOCKET, SENTINEL, CLUSTER = "single", "socket", "sentinel", "cluster"
_SCHEMES = {
    "redis": (SINGLE, False),
    "rediss": (SINGLE, True),
    "unix": (SOCKET, False),
    "redis+sentinel": (SENTINEL, False),
    "rediss+sentinel": (SENTINEL, True),
    "redis+cluster": (CLUSTER, False),
    "rediss+cluster": (CLUSTER, True),
}
_NO_URL = (
    "the store's URL must be redis://, rediss:// or unix://, or redis+sentinel:// or redis+cluster:// with several "
    "hosts (rediss+… by TLS), and what a password holds of :/?#@ be %-encoded"
)
_PORTS = {SINGLE: 6379, CLUSTER: 6379, SENTINEL: 26379}
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:,\s]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class StoreURL:
    """What a URL says, checked."""

    kind: str
    by_tls: bool
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""  # of a Unix socket
    master: str = ""  # what the sentinels call it
    db: int = 0
    connection: Mapping[str, Any] = field(default_factory=dict)  # redis-py's options of a connection
    tls: Mapping[str, Any] = field(default_factory=dict)  # and those of TLS, of every connection
    sentinel: Mapping[str, Any] = field(default_factory=dict)  # user and password at the sentinels

    @property
    def address(self) -> str:
        """Fit for messages: without user, password and options."""
        if self.kind == SOCKET:
            return self.path
        hosts = ",".join(written(host, port) for host, port in self.hosts)
        return f"{self.master} by its sentinels {hosts}" if self.kind == SENTINEL else hosts


def written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parsed(url: str) -> StoreURL:
    """Raises ValueError for whatever cannot be used, in one line that says what is allowed."""
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise ValueError(_NO_URL)
    kind, by_tls = _SCHEMES[scheme]
    location, _, query = rest.partition("?")
    authority, slash, path = location.partition("/")
    login, _, hosts = authority.rpartition("@")
    if "#" in rest or "@" in query or (kind != SOCKET and "@" in path):  # the password's, not %-encoded
        raise ValueError(_NO_URL)
    options = _options(query, kind, by_tls)
    user, _, password = login.partition(":")
    for name, value in (("username", user), ("password", password)):
        if value and options.setdefault(name, unquote(value)) != unquote(value):
            raise ValueError(f"the store's URL names two {name}s, one before the host and one as an option")
    if kind == SOCKET:
        if hosts or not path:
            raise ValueError(f"{_NO_URL}; a socket's path is absolute, unix:///run/redis.sock")
        place: dict[str, Any] = {"path": unquote(slash + path)}
    else:
        place = {"hosts": _hosts(hosts, kind), **_path(path, kind)}
    if "db" in options:
        if place.get("db"):
            raise ValueError("the store's URL names two databases, one after the host and one as ?db")
        place["db"] = options.pop("db")
    return StoreURL(
        kind,
        by_tls,
        tls={name: options.pop(name) for name in list(options) if name.startswith("ssl_")},
        sentinel={name[9:]: options.pop(name) for name in list(options) if name.startswith("sentinel_")},
        connection=options,
        **place,
    )


def _hosts(text: str, kind: str) -> tuple[tuple[str, int], ...]:
    matches = [_HOST.fullmatch(part) for part in text.split(",")] if text else []
    if text == "" and kind == SINGLE:
        return (("localhost", _PORTS[kind]),)
    hosts = []
    for match in matches:
        port = int(match["port"] or _PORTS[kind]) if match else 0
        if match is None or not 1 <= port <= 65535:
            raise ValueError(_NO_URL)
        hosts.append((unquote(match["host"]).strip("[]"), port))
    if not hosts:
        raise ValueError(f"{_NO_URL}; the hosts are missing")
    if kind == SINGLE and len(hosts) > 1:
        raise ValueError(f"{_NO_URL}; several hosts are given as if they were one")
    return tuple(hosts)


def _path(text: str, kind: str) -> dict[str, Any]:
    """What stands after the hosts: a database, before it the master's name where sentinels are asked."""
    master, _, number = text.partition("/") if kind == SENTINEL else ("", "", text)
    if kind == SENTINEL and not master:
        raise ValueError("the store's URL lacks the master's name: redis+sentinel://host:26379/mymaster")
    if not re.fullmatch(r"[0-9]{0,5}", number):
        raise ValueError("the store's URL ends in what is no database: a number is allowed, /0")
    if kind == CLUSTER and int(number or 0):
        raise ValueError("the store's URL names a database: a cluster has but 0, leave it out")
    return {"master": unquote(master), "db": int(number or 0)}


class _Option(NamedTuple):
    """An option that may be given."""

    read: Callable[[str], Any]  # raises ValueError or KeyError
    allowed: str
    kinds: tuple[str, ...] = (SINGLE, SOCKET, SENTINEL, CLUSTER)
    secret: bool = False  # its value is never shown


def _text(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError
    return text


def _word(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError
    return text


def _count(least: int) -> _Option:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
            raise ValueError
        return int(text)

    return _Option(read, f"a number from {least} on")


def _lines(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TRUTH = _Option(lambda text: _TRUTHS[text.lower()], "true or false")
_FILE = _Option(_text, "a path")
_SECRET = _Option(_text, "a text", secret=True)
_VERSIONS = {"771": 771, "772": 772}
_CHECKS = {name: name for name in ("none", "optional", "required")}
_FLAGS = _Option(parse_ssl_verify_flags, "names of ssl.VerifyFlags with commas between")
_AT_SENTINELS = _SECRET._replace(kinds=(SENTINEL,))
_OPTIONS = {
    "db": _count(0)._replace(kinds=(SINGLE, SOCKET, SENTINEL)),
    "username": _SECRET,
    "password": _SECRET,
    "client_name": _Option(_word, "a word"),
    "health_check_interval": _count(0),
    "socket_keepalive": _TRUTH._replace(kinds=(SINGLE, SENTINEL, CLUSTER)),
    "socket_read_size": _count(1),
    "sentinel_username": _AT_SENTINELS,
    "sentinel_password": _AT_SENTINELS,
    "ssl_ca_certs": _FILE,
    "ssl_ca_path": _FILE,
    "ssl_ca_data": _Option(_lines, "certificates in PEM", secret=True),
    "ssl_cert_reqs": _Option(lambda text: _CHECKS[text], "none, optional or required"),
    "ssl_certfile": _FILE,
    "ssl_check_hostname": _TRUTH,
    "ssl_ciphers": _Option(_word, "OpenSSL's names of ciphers"),
    "ssl_exclude_verify_flags": _FLAGS,
    "ssl_include_verify_flags": _FLAGS,
    "ssl_keyfile": _FILE,
    "ssl_min_version": _Option(lambda text: _VERSIONS[text], "771 (TLS 1.2) or 772 (TLS 1.3)"),
    "ssl_password": _SECRET,
}
_TIMEOUT = "RANKER_HISTORY_TIMEOUT_MS says how long a read may take"
_FIXED = "the service reads bytes by RESP 2, and never reads again what failed"
_SET_BY_US = {
    "max_connections": "RANKER_HISTORY_CONNECTIONS says how many there are",
    **dict.fromkeys(("timeout", "socket_timeout", "socket_connect_timeout"), _TIMEOUT),
    **dict.fromkeys(("decode_responses", "encoding", "encoding_errors", "errors", "protocol"), _FIXED),
    **dict.fromkeys(("legacy_responses", "retry", "retry_on_error", "retry_on_timeout"), _FIXED),
}


def _options(query: str, kind: str, by_tls: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in _SET_BY_US:
            raise ValueError(f"the store's URL has ?{name}: leave it out, {_SET_BY_US[name]}")
        option = _OPTIONS.get(name)
        allowed = [one for one, of in _OPTIONS.items() if kind in of.kinds and (by_tls or not one.startswith("ssl_"))]
        if option is None or name not in allowed:
            wrong = f"?{name}, which needs rediss" if option and name.startswith("ssl_") else f"?{name}"
            raise ValueError(f"the store's URL has {wrong}: of a store of this kind are allowed {', '.join(allowed)}")
        if name in options:
            raise ValueError(f"the store's URL has ?{name} twice: once is allowed")
        try:
            options[name] = option.read(text)
        except (ValueError, KeyError):
            shown = f"?{name}" if option.secret else f"?{name}={text}"
            raise ValueError(f"the store's URL has {shown}: {option.allowed} is allowed") from None
    return options
