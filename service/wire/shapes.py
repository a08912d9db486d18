"""What goes over the wire: the request as it is checked, the answer as it is documented.

Names of features are not here: they are the bundle's, and the encoder refuses those that it does not have.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import from_json

from model.features.behaviour import EARLIEST_MS, LATEST_MS, looks_like
from model.features.ids import shown
from service.errors import InvalidRequest, MalformedBody, RankerError, TooManyCandidates
from service.wire.ids import LONGEST_ID, checked
from service.wire.pieces import Tally, parsed
from service.wire.turns import Turns

SHOWN = 3  # problems named in one message
SOME = 12  # problems that are worth looking at; pydantic collects one for each key of a body
VALUES = 32  # of one request, for each candidate allowed: more are refused before any of them is an object
_ITEM = {"type": ["string", "integer"], "minLength": 1, "maxLength": LONGEST_ID}
_CANDIDATES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
            {"type": "integer"},
            {"type": "object", "required": ["item_id"], "properties": {"item_id": _ITEM}},
        ]
    },
}


class RankRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    user_id: Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_ID)] | StrictInt
    candidates: Annotated[list[Any], Field(min_length=1), WithJsonSchema(_CANDIDATES)] = Field(
        description="Item ids, or objects with `item_id` and features of the item or of its place (display position), "
        "which win over catalogue and `context`. Duplicates are each scored and kept."
    )
    context: dict[str, Any] = Field(
        {}, description="Context features of the request; others take their neutral default."
    )
    user: dict[str, Any] = Field({}, description="Features of the user; they win over the stored profile.")
    timestamp: StrictInt | None = Field(
        None, description="Recommending time in ms, for replays: only what happened strictly before it is seen."
    )
    top_k: Annotated[StrictInt, Field(ge=1)] | None = Field(None, description="Return the best so many only.")
    timeout_ms: Annotated[StrictInt, Field(ge=1, le=600_000)] | None = Field(
        None, description="Deadline in ms from the request's first byte; else RANKER_TIMEOUT_MS."
    )

    @field_validator("candidates")
    @classmethod
    def _lengths(cls, value: list[Any]) -> list[Any]:
        checked(value)
        return value

    @field_validator("timestamp")
    @classmethod
    def _milliseconds(cls, value: int | None) -> int | None:
        if value is not None and not EARLIEST_MS <= value <= LATEST_MS:
            raise ValueError(looks_like(value))
        return value


class RankedItem(BaseModel):
    item_id: str | int
    score: float


class Timings(BaseModel):
    history: float
    encode: float
    score: float
    sort: float
    total: float


class RankResponse(BaseModel):
    """For the documentation; the answer itself is written straight from a dict."""

    request_id: str
    model: str
    version: str
    variant: str | None = None
    items: list[RankedItem] = Field(description="Best first; ties keep the caller's order.")
    history_length: int = Field(description="Behaviours that the network saw.")
    unknown_items: int = Field(description="Candidates without an embedding, scored by their features.")
    new_user: bool = Field(description="The store holds nothing of this user that the model reads.")
    degraded: list[str] = Field(
        description="What the answer had to do without: `history:timeout`, `history:error`, `history:open` (the store "
        "gave no history) or `history:cached` (it failed, and the history is one read seconds ago)."
    )
    history_complete: bool | None = Field(
        None,
        description="Of replays alone (`timestamp`): false where the store may no longer hold all behaviours that the "
        "model would have seen then.",
    )
    timings_ms: Timings


class ErrorDetail(BaseModel):
    kind: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    error: ErrorDetail


def parse(body: bytes, max_candidates: int) -> RankRequest:
    """The request in a body of up to PIECE bytes; it does not yield to other requests.

    Raises MalformedBody, InvalidRequest, TooManyCandidates.
    """
    try:
        request = RankRequest.model_validate_json(body)
    except ValidationError as error:
        if error.error_count() > SOME:
            return _checked(from_json(body), max_candidates)
        raise _refusal(error) from None
    _check_size(request, max_candidates)
    return request


async def parse_large(body: bytes, max_candidates: int, turns: Turns) -> RankRequest:
    """The same of any body, piece by piece: other requests come between."""
    most = VALUES * max_candidates
    refusal = TooManyCandidates(f"more than {most} values, at most {VALUES} for each of {max_candidates} candidates")
    return _checked(await parsed(body, turns, Tally(most, refusal)), max_candidates)


def _checked(value: Any, max_candidates: int) -> RankRequest:
    """The request that a parsed body is; of many unknown keys only the first are looked at."""
    if isinstance(value, dict) and len(value) > len(RankRequest.model_fields):
        unknown = islice((name for name in value if name not in RankRequest.model_fields), SHOWN)
        known = {name: value[name] for name in RankRequest.model_fields if name in value}
        value = known | {name: value[name] for name in unknown}
    try:
        request = RankRequest.model_validate(value)
    except ValidationError as error:
        raise _refusal(error) from None
    _check_size(request, max_candidates)
    return request


def _check_size(request: RankRequest, max_candidates: int) -> None:
    if len(request.candidates) > max_candidates:
        raise TooManyCandidates(f"{len(request.candidates)} candidates, at most {max_candidates}")


def _refusal(error: ValidationError) -> RankerError:
    """What to tell the caller of a body that is no request."""
    problems = error.errors(include_url=False)
    if problems[0]["type"] == "json_invalid":
        return MalformedBody(problems[0]["msg"])
    parts = [f"{_place(p['loc'])[:60]}: {_words(p)}{_input(p)}" for p in problems[:SHOWN]]
    if any(p["type"] == "extra_forbidden" for p in problems):
        parts.append(f"allowed fields: {', '.join(RankRequest.model_fields)}")
    return InvalidRequest("; ".join(parts))


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:60] for part in loc if part not in ("str", "int", "constrained-str")) or "body"


def _words(problem: Mapping[str, Any]) -> str:
    text: str = problem["msg"]
    return text.removeprefix("Value error, ")  # pydantic's, before a message of ours


def _input(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "missing" or (problem["loc"] == ("candidates",) and problem["type"] == "value_error"):
        return ""  # the message shows what it is about
    return f" (given {shown(problem['input'])})"
