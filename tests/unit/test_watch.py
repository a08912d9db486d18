"""What the log says of the store: one line per change, with cause and remedy and no secret."""

import logging
import socket
import ssl

import pytest
from redis import exceptions as redis

from service.store.fallback.causes import blames_store, cause_of
from service.store.fallback.watch import MANY, READS, Watch
from service.store.history import StoreTimedOut, StoreUnavailable

SECRET = "hush"


def unavailable(cause: BaseException, by: BaseException | None = None) -> StoreUnavailable:
    error = StoreUnavailable(f"the store at h:1: {SECRET}")
    error.__cause__ = cause
    cause.__context__ = by
    return error


REFUSED = unavailable(redis.ConnectionError(SECRET), ConnectionRefusedError(111, SECRET))
WRONG_TYPE = unavailable(redis.ResponseError(f"WRONGTYPE {SECRET}"))


class Told:
    """A watch, its clock, and the lines that it wrote."""

    def __init__(self, lines: pytest.LogCaptureFixture):
        self.now, self._lines = 0.0, lines
        lines.set_level(logging.INFO, "ranker.store")
        self.watch = Watch("h:1", clock=lambda: self.now)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self._lines.records]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_an_outage_is_two_lines(told: Told) -> None:
    for _ in range(3):
        told.watch.read(REFUSED)
    told.watch.opened(REFUSED)
    told.now = 7.5
    told.watch.closed()
    told.watch.closed()
    down, up = told.lines
    assert down.startswith("store at h:1 is down: it refuses connections.") and "RANKER_REDIS_URL" in down
    assert up == "store at h:1 is up again after 7.5 s"
    assert not told.watch.troubled


def test_a_store_that_fails_some_users_is_said_to_be_failing_once_until_none_of_the_last_reads_failed(
    told: Told,
) -> None:
    for at in range(10 * READS):
        told.watch.read(WRONG_TYPE if at % 3 == 0 else None)
    for _ in range(READS):
        told.watch.read(None)
    failing, up = told.lines
    assert failing.startswith("store at h:1 is failing: it answers with an error.") and "up again" in up


def test_a_few_slow_reads_are_no_line(told: Told) -> None:
    for _ in range(20):
        for _ in range(MANY - 1):
            told.watch.read(StoreTimedOut("late"))
        for _ in range(READS):
            told.watch.read(None)
    assert told.lines == [] and not told.watch.troubled


def test_a_store_that_flaps_does_not_fill_the_log_and_its_last_state_is_told(told: Told) -> None:
    for _ in range(200):
        told.watch.opened(REFUSED)
        told.watch.closed()
    told.watch.opened(REFUSED)
    assert len(told.lines) == 6 and "up again" in told.lines[-1]
    told.now += 10
    told.watch.read(REFUSED)
    assert len(told.lines) == 7 and "changes before it had no line" in told.lines[-1]


CAUSES = [
    (redis.AuthenticationError(SECRET), None, "refuses user or password", "redis://USER:PASSWORD@HOST"),
    (redis.NoPermissionError(SECRET), None, "does not permit", "+@read"),
    (redis.ConnectionError(SECRET), ssl.SSLCertVerificationError(SECRET), "certificate", "ssl_ca_certs"),
    (redis.ConnectionError(SECRET), ssl.SSLError(SECRET), "TLS", "rediss://"),
    (redis.ConnectionError(SECRET), socket.gaierror(SECRET), "cannot be found", "DNS"),
    (redis.ConnectionError(SECRET), ConnectionRefusedError(SECRET), "refuses connections", "start it"),
    (redis.BusyLoadingError(SECRET), None, "loading", "nothing to do"),
    (redis.MovedError("1 h:2"), None, "cluster", "name the cluster"),
    (redis.MaxConnectionsError(SECRET), None, "more requests than connections", "RANKER_HISTORY_CONNECTIONS"),
    (redis.InvalidResponse(SECRET), None, "not Redis' protocol", "names a Redis"),
    (UnicodeDecodeError("utf-8", b"x", 0, 1, SECRET), None, "not Redis' protocol", "names a Redis"),
    (redis.ResponseError(SECRET), None, "answers with an error", "{u:"),
    (ConnectionResetError(SECRET), None, "closes connections", "log"),
    (TimeoutError(SECRET), None, "does not answer in time", "RANKER_HISTORY_TIMEOUT_MS"),
    (redis.ConnectionError(SECRET), None, "ends connections", "network"),
]


@pytest.mark.parametrize(("cause", "by", "does", "help"), CAUSES)
def test_a_cause_is_named_with_what_to_do_and_without_the_errors_text(
    told: Told, cause: BaseException, by: BaseException | None, does: str, help: str
) -> None:
    told.watch.opened(unavailable(cause, by))
    [line] = told.lines
    assert does in line and help in line.split("To do: ")[1] and SECRET not in line


def test_an_error_that_nobody_foresaw_is_named_by_kind_and_place() -> None:
    error = StoreUnavailable("AttributeError at redis.py:7")
    error.__cause__ = AttributeError(SECRET)
    assert "AttributeError at redis.py:7" in cause_of(error).does


def test_an_error_reply_to_one_users_key_does_not_blame_the_store() -> None:
    assert not blames_store(WRONG_TYPE)
    for cause in (redis.NoPermissionError(""), redis.BusyLoadingError(""), redis.MovedError("1 h:2"), RuntimeError("")):
        assert blames_store(unavailable(cause))
