"""The errors that a caller can get: a small tree, whose leaves carry their status, and the kind that programs see.

A message says what was given and what is allowed; a traceback goes to the log, never to the caller.
"""

from typing import Any


class RankerError(Exception):
    """A fault of the service; the traceback is in its log, under the request id."""

    # The root of all errors that a caller gets. Its own kind is for what nobody foresaw; docstrings are documentation.

    kind = "internal"  # for programs
    status = 500
    shed = False  # whether it is turned away before any work, which `ranker_shed_total` counts by kind
    keyed = False  # whether it is refused for its key, which `ranker_key_refusals_total` counts by kind

    def headers(self) -> list[tuple[str, str]]:
        """Those that go with the answer."""
        return []


class MalformedBody(RankerError):
    """The body is no JSON."""

    kind, status = "malformed_json", 400


class MalformedEncoding(RankerError):
    """The body is not what its Content-Encoding says, or ends before its end."""

    kind, status = "malformed_encoding", 400


class CorsRefused(RankerError):
    """A browser asked whether a page may call, and it may not."""

    kind, status = "cors_refused", 400


class UnsupportedEncoding(RankerError):
    """A Content-Encoding that is not known; `Accept-Encoding` of the answer names those that are."""

    kind, status = "unsupported_encoding", 415

    def __init__(self, message: str, allowed: str):
        super().__init__(message)
        self.allowed = allowed

    def headers(self) -> list[tuple[str, str]]:
        return [("accept-encoding", self.allowed)]  # RFC 9110, 15.5.16


class NotFound(RankerError):
    """There is no such route."""

    kind, status = "not_found", 404


class MethodNotAllowed(RankerError):
    """The route takes another method."""

    kind, status = "method_not_allowed", 405


class BodyTooLarge(RankerError):
    """The body is longer than `RANKER_MAX_BODY_BYTES`, or a profile than 64 KiB; it is not read."""

    kind, status, shed = "body_too_large", 413, True


class InvalidRequest(RankerError):
    """A key, a type or a value that is not allowed."""

    kind, status = "invalid_request", 422


class SlowUpload(RankerError):
    """The caller took longer to send the body than the whole answer may take."""

    kind, status = "slow_upload", 408


class Overloaded(RankerError):
    """More is waiting than can be answered in time."""

    kind, status, shed = "overloaded", 429, True

    def __init__(self, message: str, retry_after_s: int = 1):
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[str, str]]:
        return [("retry-after", str(self.retry_after_s))]


class DeadlineExceeded(RankerError):
    """Too late to be of use; what was not begun by then was not begun."""

    kind, status = "deadline_exceeded", 504

    def __init__(self, message: str, before: str):
        super().__init__(message)
        self.before = before  # the stage that was not begun


class ClientGone(RankerError):
    """Who asked has hung up; nobody reads this."""

    kind, status = "client_gone", 499  # nginx's status for it


class TooManyCandidates(RankerError):
    """More candidates than a request, or all requests of a batch, may have; or far more values than so many have."""

    kind, status, shed = "too_many_candidates", 422, True


class TooManyRequests(RankerError):
    """More requests in one batch than it may have."""

    kind, status, shed = "too_many_requests_in_batch", 422, True


class InvalidEvent(RankerError):
    """No event as the model's features.toml knows them, or not one of a list was; the message says why."""

    kind, status = "invalid_event", 422


class TooManyEvents(RankerError):
    """More events in one body than `RANKER_MAX_FEEDBACK_EVENTS`."""

    kind, status, shed = "too_many_events", 422, True


class UnknownUser(RankerError):
    """The store holds nothing of this user."""

    kind, status = "unknown_user", 404


class _NotTaken(RankerError):
    status = 503

    def headers(self) -> list[tuple[str, str]]:
        return [("retry-after", "1")]


BROKEN = "another program has put a value of the wrong type under this user's keys: it fails until that is gone"


class StoreFailed(_NotTaken):
    """The store did not take it, or not in time; send it again, which does no harm."""

    kind = "store_failed"


class JournalFailed(_NotTaken):
    """The journal could not be written, so nothing is acknowledged; send it again, which does no harm."""

    kind = "journal_failed"


class Draining(RankerError):
    """This instance is stopping; another one answers."""

    kind, status = "draining", 503


class NoParent(RankerError):
    """What concerns all workers cannot be done: the application runs without `python -m service`."""

    kind, status = "no_parent", 503


class WrongMediaType(RankerError):
    """A body that is not declared as JSON: a page in somebody's browser could have sent it unasked."""

    kind, status = "wrong_media_type", 415


class SwapUnderWay(RankerError):
    """Another bundle is going live already."""

    kind, status = "swap_under_way", 409


class NothingBefore(RankerError):
    """There is no model to go back to."""

    kind, status = "nothing_before", 409


class BundleRefused(RankerError):
    """It does not go live; the one before goes on."""

    kind, status = "bundle_refused", 422


class Unauthorized(RankerError):
    """Without a key that is known here."""

    kind, status, keyed = "unauthorized", 401, True

    def __init__(self, message: str, browsed: bool = False):
        super().__init__(message)
        self.browsed = browsed  # a browser may ask its user for a password

    def headers(self) -> list[tuple[str, str]]:
        ways = ["Bearer", "Basic"] if self.browsed else ["Bearer"]
        return [("www-authenticate", f'{way} realm="bst-ranker"') for way in ways]


class Forbidden(RankerError):
    """A known key that lacks the scope."""

    kind, status, keyed = "forbidden", 403, True

    def __init__(self, message: str, scope: str):
        super().__init__(message)
        self.scope = scope

    def headers(self) -> list[tuple[str, str]]:
        return [("www-authenticate", f'Bearer realm="bst-ranker", error="insufficient_scope", scope="{self.scope}"')]


class TooManyOfKey(RankerError):
    """More requests by one key than RANKER_RATE allows."""

    kind, status, keyed = "too_many_requests", 429, True

    def __init__(self, message: str, retry_after_s: int):
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[str, str]]:
        return [("retry-after", str(self.retry_after_s))]


class BadHttp(RankerError):
    """No HTTP request, or one on whose end two readers could differ; the connection is closed."""

    kind, status = "malformed_http", 400


class UrlTooLong(RankerError):
    """A URL of more than 8 KiB."""

    kind, status = "url_too_long", 414


class HeadTooLarge(RankerError):
    """More than `RANKER_MAX_HEADER_BYTES`, or more than 100 headers."""

    kind, status = "headers_too_large", 431


class SlowHead(RankerError):
    """The caller took too long to send a request's head."""

    kind, status = "slow_headers", 408


class TooManyConnections(RankerError):
    """More than `RANKER_MAX_CONNECTIONS`, and all at work."""

    kind, status = "too_many_connections", 503


def _leaves(error: type[RankerError]) -> list[type[RankerError]]:
    return [leaf for below in error.__subclasses__() for leaf in (_leaves(below) or [below])]


KINDS: tuple[type[RankerError], ...] = (RankerError, *_leaves(RankerError))
OF_STATUS = {error.status: error for error in reversed(KINDS)}  # the first of several with one status
SHED = tuple(error.kind for error in KINDS if error.shed)
OF_KEYS = tuple(error.kind for error in KINDS if error.keyed)


def error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "request_id": request_id}}
