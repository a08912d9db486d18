"""Why a store is unavailable, and what to do about it: for the log, from the kinds of errors and not from their texts.

A text may hold a password, a user's name or id, or a piece of a reply; a kind cannot.
"""

import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

from redis import exceptions as redis

from service.store.history import StoreTimedOut, StoreUnavailable


class Cause(NamedTuple):
    """What the store does, as the end of a sentence that begins with it, and what helps."""

    does: str
    help: str


_URL = "RANKER_REDIS_URL"
_CAUSES: tuple[tuple[tuple[type[BaseException], ...], Cause], ...] = (  # the first that is in the chain of errors
    (
        (redis.AuthenticationError, redis.AuthenticationWrongNumberOfArgsError, redis.AuthorizationError),
        Cause("refuses user or password", f"set those of the store in {_URL}, %-encoded: redis://USER:PASSWORD@HOST"),
    ),
    (
        (redis.NoPermissionError,),
        Cause("does not permit what is asked of it", f"let the user of {_URL} read keys ~{{u:* (+@read +ping)"),
    ),
    (
        (ssl.SSLCertVerificationError,),
        Cause(
            "shows a certificate that is not trusted here, or of another name",
            f"name its authority in {_URL} by ?ssl_ca_certs=FILE, and the host as the certificate does",
        ),
    ),
    (
        (ssl.SSLError,),
        Cause("does not speak TLS as it is asked", f"check rediss:// (TLS) or redis:// (none) in {_URL}"),
    ),
    ((socket.gaierror,), Cause("has a host name that cannot be found", f"check the host in {_URL}, and DNS")),
    ((ConnectionRefusedError,), Cause("refuses connections", f"start it, or check host and port in {_URL}")),
    ((FileNotFoundError,), Cause("has no socket where it should be", f"start it, or check the path in {_URL}")),
    ((PermissionError,), Cause("may not be connected to by this process", "check who may use its socket")),
    ((redis.BusyLoadingError,), Cause("is loading its data", "nothing to do: it answers when it has")),
    (
        (redis.MovedError, redis.AskError),
        Cause("is a node of a cluster, and sends us to another", f"name the cluster as such in {_URL}"),
    ),
    (
        (redis.ClusterDownError, redis.RedisClusterException, redis.ClusterError),
        Cause("is a cluster that is down or not whole", "look at CLUSTER INFO of its nodes"),
    ),
    ((redis.MaxConnectionsError,), Cause("gets more requests than connections", "raise RANKER_HISTORY_CONNECTIONS")),
    (
        (redis.ReadOnlyError,),
        Cause("is a replica, which takes no writes", f"name the master in {_URL}, or the sentinels that know it"),
    ),
    ((redis.OutOfMemoryError,), Cause("is out of memory", "give it more, or a policy of eviction")),
    (
        (redis.InvalidResponse, UnicodeError),
        Cause("answers in what is not Redis' protocol", f"check that {_URL} names a Redis or Valkey"),
    ),
    (
        (redis.ResponseError,),
        Cause("answers with an error", "look at its log, and whether another program wrote keys {u:…}"),
    ),
    (
        (ConnectionResetError, BrokenPipeError),
        Cause("closes connections", "look at its log and at what stands before it"),
    ),
    (
        (StoreTimedOut, redis.TimeoutError, TimeoutError),
        Cause(
            "does not answer in time", "look at its load and the network; RANKER_HISTORY_TIMEOUT_MS is the time it has"
        ),
    ),
    (
        (redis.ConnectionError, OSError),
        Cause("cannot be reached or ends connections", "look at its log and the network"),
    ),
)
_OF_ALL = (  # replies that every user gets alike
    redis.NoPermissionError,
    redis.AskError,  # MOVED too
    redis.ClusterDownError,
    redis.AuthenticationWrongNumberOfArgsError,
)
_UNKNOWN = "answers in a way that this service does not know"


def cause_of(error: StoreUnavailable) -> Cause:
    """The cause of a failure."""
    chain = list(_chain(error))
    for kinds, cause in _CAUSES:
        if any(isinstance(one, kinds) for one in chain):
            return cause
    return Cause(
        f"{_UNKNOWN} ({error})", f"check that {_URL} names a Redis or Valkey; else this is a bug of the service"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def blames_store(error: StoreUnavailable) -> bool:
    """Whether it says something of the whole store: an error reply to one user's key does not."""
    return not isinstance(error.__cause__, redis.ResponseError) or isinstance(error.__cause__, _OF_ALL)


def forbids(error: StoreUnavailable) -> bool:
    """Whether the store answered that the command is not for this user, or not at all."""
    return isinstance(error.__cause__, redis.NoPermissionError) or not blames_store(error)
