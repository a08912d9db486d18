"""What goes over the wire: the request as it is checked, the answer as it is documented.

Names of features are not here: they are the bundle's, and the encoder refuses those that it does not have.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError, field_validator
from pydantic_core import from_json

from model.features.behaviour import EARLIEST_MS, LATEST_MS, looks_like
from model.features.ids import shown
from service.errors import InvalidRequest, MalformedBody, RankerError, TooManyCandidates
from service.wire.ids import LONGEST_ID, checked
from service.wire.pieces import Tally, parsed
from service.wire.turns import Turns

SHOWN = 3  # problems named in one message
SOME = 12  # problems that are worth looking at; pydantic collects one for each key of a body
MOST_EXPLAINED = 100  # items of an answer: each costs a second and a third look, and a weight for every behaviour
VALUES = 32  # of one request, for each candidate allowed: more are refused before any of them is an object


def _in_ms(schema: dict[str, Any]) -> None:
    """Documents the bounds that `_milliseconds` holds a time to, which tells more than pydantic of one outside."""
    schema["anyOf"][0] |= {"minimum": EARLIEST_MS, "maximum": LATEST_MS}


class RankRequest(BaseModel):
    """Candidates to rank for a user."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    user_id: Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_ID)] | StrictInt
    candidates: Annotated[list[Any], Field(min_length=1)] = Field(
        description="Item ids, or objects with `item_id` and features of the item or of its place (display position), "
        "which win over catalogue and `context`. Duplicates are each scored and kept."
    )
    context: dict[str, Any] = Field(
        default_factory=dict, description="Context features of the request; others take their neutral default."
    )
    user: dict[str, Any] = Field(
        default_factory=dict, description="Features of the user; they win over the stored profile."
    )
    timestamp: StrictInt | None = Field(
        None,
        description="Recommending time in ms, for replays: only what happened strictly before it is seen.",
        json_schema_extra=_in_ms,
    )
    top_k: Annotated[StrictInt, Field(ge=1)] | None = Field(None, description="Return the best so many only.")
    timeout_ms: Annotated[StrictInt, Field(ge=1, le=600_000)] | None = Field(
        None, description="Deadline in ms from the request's first byte; else RANKER_TIMEOUT_MS."
    )
    explain: StrictBool = Field(
        False,
        description="Tell why: the attention of every past behaviour, what was unknown, the score without the history. "
        f"Of at most {MOST_EXPLAINED} returned items.",
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


class ItemExplanation(BaseModel):
    """Why an item has its score; all of it is of the graph that `precision` names."""

    score: float = Field(description="By that graph; the item's own score where that graph answers.")
    score_without_history: float = Field(description="Of the same request for the same profile without any behaviour.")
    unknown: list[str] = Field(
        description="Features of the item and its context whose value training saw too rarely for an embedding."
    )
    missing: list[str] = Field(description="Features of the item and its context that have no value.")
    attention: list[float] | None = Field(
        None, description="The weight of each of the answer's `behaviours`, in their order."
    )
    attention_target: float | None = Field(
        None, description="The weight of the item itself, where the network attends to it too (BST)."
    )


class PastBehaviour(BaseModel):
    """A behaviour that the network attends to."""

    action: str
    object_type: str
    object_id: str = Field(description="As the store holds it.")
    age_s: float = Field(description="Seconds before the recommending time; 0 for a clock ahead of ours.")


class Explanation(BaseModel):
    """What explains all items of an answer alike."""

    behaviours: list[PastBehaviour] = Field(
        description="Those that the network attends to, oldest first: the items', then each further group's."
    )
    normalised: bool | None = Field(
        description="Whether the weights of an item, its own included, add up to 1 (to 0 where there is nothing to "
        "attend to); null without attention."
    )
    precision: str | None = Field(
        description="Of the graph that is explained: fp32, also where int8 answers; null of a builtin variant."
    )
    unknown: list[str] = Field(description="As of items, of the user's features.")
    missing: list[str] = Field(description="As of items, of the user's features.")
    note: str | None = Field(description="What the explanation does without, and why.")


class RankedItem(BaseModel):
    """A candidate and its score."""

    item_id: str | int = Field(description="As the request spelt it.")
    score: float
    explanation: ItemExplanation | None = Field(None, description="Where `explain` asks for it.")


class Timings(BaseModel):
    """Milliseconds, by the names of the header Server-Timing; what came after the body was written is only there."""

    parse: float
    history: float
    encode: float
    queue: float
    score: float
    sort: float
    serialise: float = Field(description="Until the body was written. The header's has compressing it too.")
    total: float = Field(description="From the request's first byte until the body was written.")


class RankResponse(BaseModel):
    """Ranked items, best first."""

    request_id: str
    model: str
    version: str
    variant: str | None
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
    explanation: Explanation | None = Field(None, description="Where `explain` asks for it.")
    explored: Literal[True] | None = Field(
        None,
        description="Only where the order of the top was drawn (RANKER_EXPLORE_SHARE): items there do not stand by "
        "their scores.",
    )
    timings_ms: Timings


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["live"]


class Readiness(BaseModel):
    """The bundle is loaded, checked and warm."""

    status: Literal["ready"]
    model: str
    version: str


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
    if request.explain and (count := explained(request)) > MOST_EXPLAINED:
        raise InvalidRequest(
            f"explain: {count} items would be returned, at most {MOST_EXPLAINED} are explained; "
            f"a top_k of up to {MOST_EXPLAINED} is allowed"
        )


def explained(request: RankRequest) -> int:
    """How many items are to be explained."""
    count = len(request.candidates)
    return min(request.top_k or count, count) if request.explain else 0


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
