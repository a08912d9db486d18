"""The shape of GET /model: what the bundle that answers is, which features it reads, and what may be asked of it.

Scripts read it, so keys are added and never taken away.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from model.features.encode import Encoder
from model.features.ids import FIRST
from model.features.kinds import Feature, Side
from model.features.schema import Group

# Nullable where most have none; always there, so that a reader need not tell "none" from "an older service".
Values = Annotated[
    int | None,
    Field(description="Known values with an embedding of their own, of all that training saw; null: no vocabulary."),
]
Buckets = Annotated[int | None, Field(description="Rows by hash in place of a vocabulary; null: none.")]
Rows = Annotated[
    int | None, Field(description="Rows of the embedding table, two reserved ones included; null: it enters as it is.")
]
IdType = Literal["int", "str"]
Shares = Mapping[str, Mapping[str, float]]  # `unknown` and `missing`: by feature


class FeatureDescription(BaseModel):
    """A feature that the model reads, as `features.toml` declares it and training fitted it."""

    name: str
    side: Side = Field(
        description="Where a request gives it: user: `user`; item: a candidate; context: `context` or a candidate. "
        "A cross is computed."
    )
    kind: str = Field(
        description="`id`, `category`, `number` or `multi` (a list of values); computed: `match`, `statistic`."
    )
    type: IdType | None = Field(description="Type of its values; null for a number.")
    width: int = Field(description="Embedding width beside the sequence; 0: it is not there.")
    sequence_width: int = Field(description="Embedding width within the behaviour sequence; 0: it is not there.")
    rows: Rows
    vocabulary: Values
    buckets: Buckets
    min_count: int | None = Field(description="How often training had to see a value to know it; null: no vocabulary.")
    default: bool | int | float | str | list[bool | int | float | str] | None = Field(
        description="What a context feature is where a request names none."
    )
    of: list[str] = Field(description="The features that a cross joins, a match compares or a statistic counts.")
    max_values: int | None = Field(description="Values of a multi that are read; more are cut off. Else null.")
    transform: str | None = Field(description="Of a number: `standard` (mean 0, deviation 1) or `log` (buckets).")
    mean: float | None = Field(description="Of a standardised number; a missing value counts as it. Else null.")
    deviation: float | None = Field(description="Of a standardised number. Else null.")
    what: str | None = Field(
        description="What a match or a statistic tells, its key `what`; which `event` a today counts. Else null."
    )
    unknown: float | None = Field(
        description="Share of the impressions of the newest split whose value training did not know, as the report has "
        "it, to compare with `ranker_feature_values_total`; null: no vocabulary."
    )
    missing: float | None = Field(description="Share of the same impressions without a value; null: it is computed.")

    @classmethod
    def of_feature(cls, feature: Feature, encoder: Encoder, shares: Shares) -> "FeatureDescription":
        mean, deviation = encoder.statistics.numbers[feature.name] if feature.is_float else (None, None)
        return cls(
            name=feature.name,
            side=feature.side,
            kind=feature.kind,
            type=feature.type if feature.typed else None,
            width=feature.width,
            sequence_width=feature.sequence_width,
            rows=None if feature.is_float else encoder.table_rows(feature),
            vocabulary=_known(feature, encoder),
            buckets=feature.buckets,
            min_count=feature.min_count if feature.has_vocabulary else None,
            default=list(feature.default) if isinstance(feature.default, tuple) else feature.default,
            of=list(feature.of),
            max_values=getattr(feature, "max_values", None),
            transform=getattr(feature, "transform", None),
            mean=mean,
            deviation=deviation,
            what=getattr(feature, "what", None) or getattr(feature, "event", None),
            unknown=shares.get("unknown", {}).get(feature.name),
            missing=shares.get("missing", {}).get(feature.name),
        )


class GroupDescription(BaseModel):
    """Behaviours on objects that are no items, in a history of their own."""

    object_type: str
    actions: list[str]
    length: int = Field(description="The newest so many are read.")
    type: IdType = Field(description="Type of the objects' ids.")
    width: int = Field(description="Embedding width.")
    vocabulary: Values
    buckets: Buckets

    @classmethod
    def of_group(cls, group: Group, encoder: Encoder) -> "GroupDescription":
        return cls(
            object_type=group.object_type,
            actions=list(group.actions),
            length=group.length,
            type=group.type,
            width=group.width,
            vocabulary=_known(group.feature, encoder),
            buckets=group.buckets,
        )


class HistoryDescription(BaseModel):
    """Which of a user's behaviours on items the model reads."""

    length: int = Field(description="The newest so many are read.")
    actions: list[str]
    object_type: str
    gap_edges_s: list[int] = Field(description="Seconds before now at which a behaviour's time bucket ends.")


class CatalogDescription(BaseModel):
    """The items whose features need not be sent."""

    items: int
    modified_at: int = Field(description="When its file was written, in ms; 0: it is no file.")
    attributes: list[str] = Field(description="The features that it holds of each item.")


class StatisticsDescription(BaseModel):
    """What was counted for features of kind `statistic`."""

    values: int = Field(description="Values, or combinations of values, with counts of their own.")
    counted_until: int = Field(description="When the newest day begins before which all was counted, in ms.")
    days: list[int] = Field(
        description="When each day begins for which its counts are held, in ms: a replay takes those of its day."
    )


class Limits(BaseModel):
    """What one request may hold, as this instance is set."""

    max_candidates: int
    max_batch_requests: int
    max_batch_candidates: int = Field(description="Of all requests of a batch.")
    max_body_bytes: int
    timeout_ms: int = Field(description="Deadline of a request that names none; 0: none.")
    batch_timeout_ms: int = Field(description="Deadline of a batch; 0: none.")


class Samples(BaseModel):
    """Ids to try: those of the bundle's golden requests, of users with profile and history first."""

    user_ids: list[str | int]
    item_ids: list[str | int]


class WorkerModel(BaseModel):
    """A worker process, and the model that it answers with; during a swap they differ for a moment."""

    worker: int
    name: str
    version: str


class Refusal(BaseModel):
    """The last bundle that was to go live and did not; null once another one has."""

    bundle: str
    problem: str
    at: int = Field(description="When, in ms.")


class ModelDescription(BaseModel):
    """The model that answers."""

    name: str
    version: str
    variant: str | None
    network: str
    objective: str = Field(description="What a score predicts: `click` is the probability of a click.")
    scores: str | None = Field(
        description="What scores are good for: `probabilities` of a click, expected `seconds`, or `relative` order "
        "alone (negatives were drawn, or pairs were learnt). null: the bundle is too old to say."
    )
    precision: str = Field(description="`fp32` or `int8`: the graph that runs.")
    tables: str = Field(description="`fp32`, `fp16` or `int8`: what long embedding tables are stored in.")
    exported_at: int = Field(description="When the bundle was made, in ms.")
    dataset: str | None
    trained_on: list[str] = Field(description="Splits of the data set.")
    schema_version: int = Field(description="Format of the bundle.")
    user_id: IdType = Field(description="Type of user ids.")
    item_id: IdType = Field(description="Type of item ids.")
    history: HistoryDescription
    groups: list[GroupDescription]
    features: list[FeatureDescription]
    catalog: CatalogDescription
    statistics: StatisticsDescription | None = Field(description="null: no feature is of kind `statistic`.")
    limits: Limits
    samples: Samples
    workers: list[WorkerModel]
    refused: Refusal | None

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def _known(feature: Feature, encoder: Encoder) -> int | None:
    return encoder.table_rows(feature) - FIRST if feature.has_vocabulary else None
