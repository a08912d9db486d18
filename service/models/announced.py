"""A model gets its row in the metrics, which tell of it from then on."""

from dataclasses import replace

from service.scoring.served import Served
from service.telemetry.counts import Metrics


def announced(metrics: Metrics, served: Served, load_s: float) -> Served:
    """The same with its row; `load_s`: seconds that loading it took. Raises ValueError for names that are too long."""
    manifest = served.bundle.manifest
    slot = metrics.model(
        served.name,
        served.version,
        served.variant,
        network=manifest["network"] if served.builtin is None else served.name,
        sha=manifest["files"]["model.onnx"]["sha256"],
        exported_s=served.bundle.exported_s,
        load_s=load_s,
        features=served.encoder.stated,
    )
    return replace(served, slot=slot)
