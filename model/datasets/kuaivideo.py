"""KuaiVideo_x1: micro-videos on Kuaishou, from the challenge of China MM 2018, in the form of the benchmark BARS.

https://github.com/reczoo/Datasets; split by Li et al., Routing Micro-videos, MM 2019. `raw` is the folder with
`train.csv` and `test.csv` (each also as .csv.gz), whose first line is

    timestamp,user_id,item_id,is_click,is_like,is_follow,pos_items,neg_items

A line is a video whose thumbnail a user saw; a label is `is_click`. Clicks, likes and follows are behaviours, at the
time of the exposure. Differs from BARS:

- A history is what the user did in the log before the exposure, on test days too. `pos_items` and `neg_items` are not
  read: their conversion keeps the first 100 of a list, and they have no times.
- BARS picks its models on test. Here the last tenth of each user's lines in train.csv is validation.
- The thumbnails' vectors (`item_visual_emb_dim64.h5`) are not read, since no kind of feature takes them.

The times were disguised by the publisher: their order holds, a calendar is not known. Times that can be milliseconds
since 1970 are taken as they are; others are counted in milliseconds from 2000 on, which the notes tell. The columns
that are read are in memory, some 200 bytes a line.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from model.datasets.checks import text_file
from model.datasets.lines import FLAG, INT, Column, read
from model.datasets.tables import ITEM, TEST, TRAIN, VALIDATION, BadLines, DataError, DataSet, Options, Parts
from model.features.behaviour import EARLIEST_MS, LATEST_MS

NAME = "kuaivideo"
TIME_ZONE = "UTC"
FIRST_MS = 946_684_800_000  # 1 January 2000: where times begin that cannot be milliseconds since 1970

ACTIONS = {"is_click": "click", "is_like": "like", "is_follow": "follow"}
LOG = {
    "timestamp": Column(INT, required=True),
    "user_id": Column(INT, required=True),
    "item_id": Column(INT, required=True),
} | {name: Column(FLAG, required=True) for name in ACTIONS}


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the log in `raw`. Raises DataError, MalformedLine, OSError."""
    files = {split: text_file(raw, name) for split, name in ((TRAIN, "train.csv"), (TEST, "test.csv"))}
    bad = BadLines(options.skip_bad)
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        parts = Parts(Path(folder) / "log")
        for split, file in files.items():
            for chunk in read(file, LOG, bad):
                parts.add(chunk.with_columns(split=pl.lit(split, pl.Int8)))
        log, notes = _timed(parts.scan().collect())
    for split, file in files.items():
        if not (log["split"] == split).any():
            raise DataError(f"{file} holds no exposures")
    log = _with_validation(log)
    log.select("user_id", "item_id", "timestamp", label=pl.col("is_click").cast(pl.Int8), split="split").write_parquet(
        out / "impressions.parquet"
    )
    pl.concat(
        log.filter(pl.col(column) == 1).select(
            "user_id",
            pl.lit(action).alias("action"),
            pl.lit(ITEM).alias("object_type"),
            pl.col("item_id").alias("object_id"),
            "timestamp",
        )
        for column, action in ACTIONS.items()
    ).write_parquet(out / "behaviours.parquet")
    for key, table in (("item_id", "items"), ("user_id", "users")):
        log.select(pl.col(key).unique().sort()).write_parquet(out / f"{table}.parquet")
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes))


def _timed(log: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The log with times in milliseconds since 1970, and what is to be told of them."""
    times = log["timestamp"]
    if times.is_between(EARLIEST_MS, LATEST_MS).all():
        return log, ["times were disguised by the publisher: order and gaps hold, the days of the calendar do not"]
    first, last = int(times.to_numpy().min()), int(times.to_numpy().max())
    shifted = log.with_columns(pl.col("timestamp") - first + FIRST_MS)
    if not shifted["timestamp"].is_between(EARLIEST_MS, LATEST_MS).all():
        raise DataError(f"times run from {first} to {last}; at most {LATEST_MS - FIRST_MS} ms are allowed")
    return shifted, [
        f"times from {first} to {last} are no milliseconds since 1970: they are counted in milliseconds "
        "from 2000 on; their order holds, the lengths of gaps may not"
    ]


def _with_validation(log: pl.DataFrame) -> pl.DataFrame:
    """The log sorted by user and time, the last tenth of a user's training lines being validation."""
    log = log.sort("user_id", "timestamp", maintain_order=True)
    own = ("user_id", "split")
    from_end = pl.len().over(own) - 1 - pl.int_range(pl.len()).over(own)
    held_out = (pl.col("split") == TRAIN) & (from_end < pl.len().over(own) // 10)
    return log.with_columns(split=pl.when(held_out).then(VALIDATION).otherwise("split").cast(pl.Int8))
