"""The shape of GET /experiments, and of what an operator says of a variant."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Interval(BaseModel):
    """An estimate and its interval; null where there is too little to say."""

    estimate: float | None
    low: float | None
    high: float | None


class ResponseTime(BaseModel):
    """Of /rank, over all instances, in ms; quantiles to a fortieth."""

    average: float | None
    p50: float | None
    p99: float | None


class VariantResult(BaseModel):
    """What came of one variant, over all instances."""

    name: str
    model: str
    version: str
    models: list[str] = Field(
        description="Names and versions of those that answered, the first first: what came of all of them is counted "
        "together."
    )
    share: float = Field(description="As the file says.")
    caught: str | None = Field(description="Since when (ms since 1970) and why it gets no users; null: it does.")
    users: int
    impressions: int = Field(description="Items returned.")
    clicks: int = Field(description="Each impression's once, within the window.")
    ctr: float | None
    ctr_interval: Interval = Field(description="95 % at one look: to show, not to decide by.")
    gain: Interval | None = Field(
        description="Clicks per impression over control's, less 1, with an interval that may be looked at any time: "
        "the chance that it ever misses the truth is 5 % over all variants together. Null: it is control."
    )
    decided: Literal["more", "fewer"] | None = Field(
        description="Than control's; null: not yet, or nobody should decide, as the sample ratio is not well, shares "
        "were changed or over 5 % of users saw several variants."
    )
    response_ms: ResponseTime
    requests: int
    errors: int = Field(description="Requests that failed or were late.")
    degraded: int


class SampleRatio(BaseModel):
    """Whether users came to the variants as their shares say."""

    p: float | None = Field(
        description="By the shares of now, at any number of looks; below 0.01 nobody should decide by these figures."
    )
    well: bool
    users_in_several: int = Field(
        description="Who saw more than one variant: shares were changed meanwhile, or one was taken out."
    )
    shares_changed: str | None = Field(
        description="Since when users were drawn by other shares under the same salt, which ends a comparison; null: "
        "they were not."
    )


class ExperimentTold(BaseModel):
    """The experiment that runs."""

    salt: str
    state: Literal["to_come", "runs", "ended"]
    start: int = Field(description="ms since 1970.")
    end: int | None
    control: str
    click: str
    window_s: float
    shadows: list[str]
    variants: list[VariantResult]
    sample_ratio: SampleRatio
    uncounted: int = Field(description="Items shown by this worker that the failing store kept from being counted.")


class RefusedFile(BaseModel):
    """The last file that was not taken over."""

    problem: str
    at: int = Field(description="ms since 1970.")


class Experiments(BaseModel):
    """What runs, and what was refused."""

    experiment: ExperimentTold | None
    refused: RefusedFile | None


class VariantOrder(BaseModel):
    """A variant that was taken out gets its users again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    let_in: Annotated[str, Field(min_length=1, max_length=64)]


class VariantLetIn(BaseModel):
    """Whether it had been out; workers follow within seconds."""

    variant: str
    was_caught: bool
