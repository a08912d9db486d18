"""What GET /model tells: read from the bundle that answers and the settings, nothing by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from model.features.catalog import catalogued
from model.features.counts import Counts, Known
from service.models.examples import samples
from service.scoring.served import Served
from service.settings import Settings
from service.wire.model import (
    CatalogDescription,
    FeatureDescription,
    GroupDescription,
    HistoryDescription,
    Limits,
    ModelDescription,
    Refusal,
    Samples,
    StatisticsDescription,
    WorkerModel,
)


def described(
    served: Served, settings: Settings, workers: Sequence[Mapping[str, Any]], refused: Mapping[str, Any] | None = None
) -> ModelDescription:
    """It reads the bundle's golden requests and counts its catalogue: nothing for the event loop.

    `workers`: which model each worker answers with (`Reader.models`). `refused`: one that was not
    taken (`Loading.told`).
    """
    bundle, encoder, schema = served.bundle, served.encoder, served.encoder.schema
    manifest, shares = bundle.manifest, bundle.shares()
    return ModelDescription(
        name=served.name,
        version=served.version,
        variant=served.variant,
        network=manifest["network"],
        objective=manifest["objective"],
        scores=manifest.get("scores"),
        precision=served.precision,
        tables=bundle.tables,
        exported_at=int(bundle.exported_s * 1000),
        dataset=manifest.get("dataset"),
        trained_on=manifest.get("trained_on", []),
        schema_version=manifest["schema_version"],
        user_id=schema.user_id,
        item_id=schema.item_id.type,
        history=HistoryDescription(
            length=schema.history.length,
            actions=list(schema.history.actions),
            object_type=schema.history.object_type,
            gap_edges_s=list(schema.history.gap_edges_s),
        ),
        groups=[GroupDescription.of_group(group, encoder) for group in schema.groups],
        features=[FeatureDescription.of_feature(feature, encoder, shares) for feature in schema.features],
        catalog=CatalogDescription(
            items=len(served.catalog),
            modified_at=served.catalog.modified_ns // 1_000_000,
            attributes=[feature.name for feature in catalogued(schema)],
        ),
        statistics=_statistics(encoder.counts),
        limits=Limits(**{name: getattr(settings, name) for name in Limits.model_fields}),
        samples=Samples(**samples(bundle)),
        workers=[WorkerModel(**worker) for worker in workers],
        refused=Refusal(**refused) if refused else None,
    )


def _statistics(counts: Known) -> StatisticsDescription | None:
    if not isinstance(counts, Counts):
        return None
    days = [int(begin) for begin in counts.begins]
    return StatisticsDescription(values=len(counts), counted_until=counts.until_ms, days=days)
