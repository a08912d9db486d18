"""A journal's records: what one request showed, what a user did, what is known of a user, who is forgotten, and what
shadows would have scored.

Times named `_us` are microseconds since 1970-01-01 UTC by the service's clock; others are milliseconds, the
events' own. Ids are text, as the store has them (an integer in decimal); a user's is a salted hash where the
operator asks for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.features.behaviour import Behaviour
from model.features.today import IMPRESSION as IMPRESSION

VERSION = 1  # of the journal's files; a reader refuses others in words

BUILTIN = "builtin"  # the `precision` of a variant that no graph scores: its scores are neither proven nor predictions


@dataclass(frozen=True, slots=True)
class Shown:
    """An item that a request returned, at its place (1 is the best)."""

    item_id: str
    score: float
    position: int
    propensity: float | None = None  # chance of this item at this place, given those before; None: no exploration
    features: Mapping[str, Any] | None = None  # that the request named for it, item's and context's


@dataclass(frozen=True, slots=True)
class Impression:
    """One ranked request, and all that its scores were computed from.

    Joined to events by `request_id`, `user_id` and item: the requests of a batch share their id.
    """

    request_id: str
    user_id: str
    now: int  # the recommending time, in ms
    read_us: int  # when the store was asked for the history
    replay: bool  # whether the request named its `timestamp`: it saw what happened strictly before `now`
    model: str
    version: str
    variant: str | None
    precision: str  # fp32, int8 or BUILTIN
    catalog: str  # sha256 of the catalogue, as its file's own end says
    statistics: str | None  # likewise of the counts; None: the model has none
    items: Sequence[Shown]  # that were returned, best first
    context: Mapping[str, Any]  # as the request named it
    user: Mapping[str, Any]  # features of the user that the request named
    profile: Mapping[str, str]  # as the store had it
    behaviours: Sequence[Behaviour]  # as the store had them, oldest first: the encoder cuts
    degraded: Sequence[str]
    took_us: int = 0  # from when the request was there until its answer was ready; 0: unknown
    shown_today: int = -1  # impressions of the day, as the store had them; -1: no feature counts them, or it failed
    named: int = 0  # 1: the request named its variant, as a test does, and nobody's chance did


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a user did; what is equal in all but the times of the service is the same event."""

    event: str  # an action, or IMPRESSION
    user_id: str
    object_type: str
    object_id: str
    timestamp: int
    request_id: str | None
    watch_ms: int | None
    received_us: int
    stored_us: int  # the store has it since; a request that asked the store later saw it


@dataclass(frozen=True, slots=True)
class Profile:
    """Fields of a user that were set; the others stay."""

    user_id: str
    fields: Mapping[str, str]  # as the store has them
    replaced: bool  # whether fields that are not named were removed
    received_us: int
    stored_us: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A user whose profile and histories were removed; all of this user before that goes from the log too."""

    user_id: str
    received_us: int
    stored_us: int


@dataclass(frozen=True, slots=True)
class Shadowed:
    """Scores that a shadow gave to items of a request, none of which it decided.

    `request_id`, `user_id` and `now` are those of the request's impression, which says what was shown. Items may be all
    candidates, or only those shown; of what a shadow would have shown, only what was shown can tell a click.
    """

    request_id: str
    user_id: str
    now: int
    read_us: int  # the impression's: who is forgotten later goes from here too
    shadow: str  # the name by which the operator knows it
    model: str
    version: str
    items: Sequence[tuple[str, float]]  # item_id and score, in any order


Record = Impression | Event | Profile | Forgotten | Shadowed
