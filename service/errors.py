"""The errors a caller can get: a small tree, turned into a status in one table.

A message says what was given and what is allowed; a traceback goes to the log, never to the caller.
"""

from typing import Any


class RankerError(Exception):
    """A request that gets an error for an answer; `kind` is what programs look at, the message is for people."""

    kind = "internal"


class MalformedBody(RankerError):
    kind = "malformed_json"


class InvalidRequest(RankerError):
    kind = "invalid_request"


class TooManyCandidates(RankerError):
    kind = "too_many_candidates"


class BodyTooLarge(RankerError):
    kind = "body_too_large"


STATUS = {
    "malformed_json": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_too_large": 413,
    "invalid_request": 422,
    "too_many_candidates": 422,
    "internal": 500,
}


def error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "request_id": request_id}}
