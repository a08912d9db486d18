"""Errors as they are documented: a shape for each status, whose `kind` is one of those that have this status.

They follow from the tree in `service/errors.py`; a kind is told of by its class' own docstring.
"""

from collections.abc import Iterable
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from service.errors import KINDS, ClientGone, DeadlineExceeded, InvalidRequest, RankerError, TooManyCandidates

IN_BATCH = (InvalidRequest, TooManyCandidates, DeadlineExceeded)  # what one request of a batch can get
_TOLD = tuple(error for error in KINDS if error is not ClientGone)  # nobody gets that one
_MESSAGE = "For people: what was given and what is allowed. It may be worded otherwise in a later version."
_REQUEST_ID = "Names the request in the service's log; also in the header X-Request-Id."


def _shape(name: str, about: str, kind: Any) -> type[BaseModel]:
    detail = create_model(
        f"{name.removesuffix('Response')}Detail",
        __doc__="What went wrong.",
        kind=(kind, Field(description="For programs.")),
        message=(str, Field(description=_MESSAGE)),
        request_id=(str, Field(description=_REQUEST_ID)),
    )
    return create_model(name, __doc__=about, error=(detail, ...))


def _kinds(errors: Iterable[type[RankerError]]) -> Any:
    return Literal[tuple(error.kind for error in errors)]


def of_status(status: int) -> tuple[type[RankerError], ...]:
    return tuple(error for error in _TOLD if error.status == status)


def told(error: type[RankerError]) -> str:
    """What an error's kind means."""
    return " ".join((error.__dict__.get("__doc__") or "").split())


STATUSES = tuple(sorted({error.status for error in _TOLD}))
SHAPES = {
    status: _shape(f"Error{status}", f"{HTTPStatus(status).phrase}.", _kinds(of_status(status))) for status in STATUSES
}
ErrorKind = StrEnum("ErrorKind", [error.kind for error in _TOLD])  # type: ignore[misc]  # mypy wants them spelt out
ErrorResponse = _shape("ErrorResponse", "Any error, whatever its status.", ErrorKind)
BatchError = _shape("BatchError", "What one request of a batch got instead of a ranking.", _kinds(IN_BATCH))
