"""Splits by user: the end of every user's own log is held out, whatever the day."""

import polars as pl

from model.datasets.tables import TEST, TRAIN, VALIDATION


def by_user(log: pl.DataFrame, held_out: pl.Expr) -> pl.DataFrame:
    """`log` with the column `split`, sorted by user_id and timestamp; ties keep the log's order.

    Of a user's rows the last `held_out` are test and as many before them validation, ties or not.
    """
    from_end = pl.len().over("user_id") - 1 - pl.int_range(pl.len()).over("user_id")
    split = pl.when(from_end < held_out).then(TEST).when(from_end < 2 * held_out).then(VALIDATION).otherwise(TRAIN)
    return log.sort("user_id", "timestamp", maintain_order=True).with_columns(split=split.cast(pl.Int8))
