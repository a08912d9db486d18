"""The errors that a caller can get: a small tree, whose leaves carry their status, and the kind that programs see.

A message says what was given and what is allowed; a traceback goes to the log, never to the caller.
"""

from typing import Any


class RankerError(Exception):
    """A request that gets an error for an answer; the message is for people."""

    kind = "internal"  # for programs
    status = 500
    shed = False  # whether it is turned away before any work, which `ranker_shed_total` counts by kind


class MalformedBody(RankerError):
    kind, status = "malformed_json", 400


class NotFound(RankerError):
    kind, status = "not_found", 404


class MethodNotAllowed(RankerError):
    kind, status = "method_not_allowed", 405


class BodyTooLarge(RankerError):
    kind, status, shed = "body_too_large", 413, True


class InvalidRequest(RankerError):
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
    kind, status, shed = "too_many_candidates", 422, True


class TooManyRequests(RankerError):
    """In one batch."""

    kind, status, shed = "too_many_requests_in_batch", 422, True


class Draining(RankerError):
    kind, status = "draining", 503


class NoParent(RankerError):
    """What concerns all workers cannot be done: the application runs without `python -m service`."""

    kind, status = "no_parent", 503


class BadHttp(RankerError):
    """No HTTP request, or one on whose end two readers could differ; the connection is closed."""

    kind, status = "malformed_http", 400


class UrlTooLong(RankerError):
    kind, status = "url_too_long", 414


class HeadTooLarge(RankerError):
    kind, status = "headers_too_large", 431


class SlowHead(RankerError):
    """The caller took too long to send a request's head."""

    kind, status = "slow_headers", 408


class TooManyConnections(RankerError):
    kind, status = "too_many_connections", 503


KINDS: tuple[type[RankerError], ...] = (RankerError, *RankerError.__subclasses__())
OF_STATUS = {error.status: error for error in reversed(KINDS)}  # the first of several with one status
SHED = tuple(error.kind for error in KINDS if error.shed)


def error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "request_id": request_id}}
