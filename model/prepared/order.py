"""The order of prepared impressions, which their values alone decide: time, user, item, label, then their context.

However a log was cut into files, its impressions come out alike.
"""

import polars as pl

from model.datasets.tables import AS_USED
from model.features.schema import Schema

KEPT = ("watch_ms", "true_probability", AS_USED)  # columns of impressions, no features, kept where the log has them


def in_order(impressions: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """Canonical impressions in the order of the encoded arrays, whose row n is the frame's row n."""
    kinds = {"user_id": schema.user_id, "item_id": schema.item_id.type}
    ids = [pl.col(name).cast(pl.Int64 if kind == "int" else pl.String) for name, kind in kinds.items()]
    names = [f.name for f in schema.side("context") if not f.listed]
    last = [name for name in ("split", *KEPT) if name in impressions.columns]
    return impressions.sort("timestamp", *ids, "label", *names, *last, nulls_last=True, maintain_order=True)
