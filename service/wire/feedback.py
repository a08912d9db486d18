"""Events and users as they go over the wire. Names of actions and features are the bundle's, which refuses others."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictInt, StrictStr, model_validator

from service.wire.ids import LONGEST_ID

LONGEST_WATCH_MS = 10**10  # four months
LONGEST_REQUEST_ID = 256  # a caller's of 128, and what an experiment adds
VALUES = 12  # of an event, at most, names not counted

Id = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_ID)] | StrictInt


class FeedbackEvent(BaseModel):
    """One thing that a user did. Sent again, it is the same event."""

    model_config = ConfigDict(extra="forbid")

    event: Annotated[StrictStr, Field(min_length=1, max_length=64)] = Field(
        description="An action that the model's features.toml names, or `impression`: an item that was seen."
    )
    user_id: Id
    item_id: Id | None = Field(None, description="Of an item; or else `object_type` and `object_id`.")
    object_type: Annotated[StrictStr, Field(min_length=1, max_length=64)] | None = None
    object_id: Id | None = None
    timestamp: StrictInt = Field(description="When it happened, in ms since 1970; up to a day ahead of our clock.")
    request_id: Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_REQUEST_ID)] | None = Field(
        None, description="Of the answer of /rank that showed the item: joins the two for training."
    )
    watch_ms: Annotated[StrictInt, Field(ge=0, le=LONGEST_WATCH_MS)] | None = Field(
        None, description="How long it was watched."
    )

    @model_validator(mode="after")
    def _names_one_object(self) -> Self:
        of_type = self.object_type is not None, self.object_id is not None
        if of_type not in ((True, True), (False, False)) or (self.item_id is not None) == of_type[0]:
            raise ValueError("either item_id, or object_type and object_id")
        return self


class RefusedEvent(BaseModel):
    """An event of a list that was not taken."""

    index: int = Field(description="Its place in the list, from 0.")
    kind: str = Field(description="invalid_event: do not send it again; store_failed: do.")
    message: str


class FeedbackTaken(BaseModel):
    """What became of the events."""

    request_id: str
    accepted: int = Field(description="In the store and, where there is one, the journal: the next /rank knows them.")
    refused: list[RefusedEvent]


class UserProfile(BaseModel):
    """A user's features; those that are not named are removed."""

    model_config = ConfigDict(extra="forbid")

    user: dict[str, Any] = Field(description="Features of the user, as features.toml names them.")


class UserWritten(BaseModel):
    """Done."""

    request_id: str
    user_id: str


class KindOfHistory(BaseModel):
    """Behaviours of one action on one type of object, as the store holds them."""

    action: str
    object_type: str
    cut_until: int | None = Field(description="The newest behaviour that is no longer held, in ms; null: all are held.")
    behaviours: list[tuple[str, int]] = Field(description="Object id and time (ms), oldest first.")


class StoredProfile(RootModel[dict[str, str]]):
    """Features of a user, as text."""


class UserKnown(BaseModel):
    """All that the store holds of a user."""

    request_id: str
    user_id: str
    user: StoredProfile
    history: list[KindOfHistory]
    shown: list[tuple[str, int]] = Field(
        description="Impressions of the last days, where a model counts them: item id and time (ms), oldest first."
    )
    expires_in_s: int | None = Field(description="Seconds until all of it is forgotten, unless something is written.")
