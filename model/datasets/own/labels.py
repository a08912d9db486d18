"""The labels of a user's own log: clicks and others must be there; for a log of positives alone negatives are drawn.

As for the public logs of positives alone (model/datasets/taobao.py): a negative has the user, the time and the context
of its positive, and an item of the same day's positives, where an item stands as often as it was one. So positives and
negatives are equally popular on their day. A negative is nothing that its user touched that day.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from model.datasets.negatives import NONE, draw, generator
from model.datasets.tables import DataError, Parts
from model.engine import literal

OF_THE_POSITIVE_ALONE = ("watch_ms", "true_probability")  # what is not known of a drawn impression


def check(con: duckdb.DuckDBPyConnection, impressions: Path, path: Path, negatives: int, drawn: bool) -> None:
    """Refuses a log without clicks, without negatives, or with both and an order to draw more. Raises DataError."""
    query = f"SELECT count(*), sum(label) FROM read_parquet({literal(str(impressions))})"
    rows, clicks = con.execute(query).fetchall()[0]
    if not rows:
        raise DataError(f"{path} holds no impression")
    if not clicks:
        raise DataError(f"{path}: label is 0 in all {rows} rows; clicks (label 1) are needed beside them")
    if clicks < rows and negatives:
        raise DataError(f"{path}: {rows - clicks} rows have label 0; --negatives is for a log of positives alone")
    if clicks == rows and not negatives:
        raise DataError(
            f"{path}: label is 1 in all {rows} rows; --negatives N draws N for each from what others clicked that day"
        )
    if negatives and drawn:
        raise DataError(f'{path}: meta.json says "drawn_negatives", but label is 1 in all {rows} rows')


def draw_negatives(
    con: duckdb.DuckDBPyConnection, out: Path, each: int, seed: int, time_zone: str, object_type: str
) -> list[str]:
    """Adds `each` negatives for each positive to the table of impressions, day by day; returns what must be known."""
    impressions, without, rows = out / "impressions.parquet", 0, 0
    table = f"read_parquet({literal(str(impressions))})"
    acts = pl.scan_parquet(out / "behaviours.parquet").filter(object_type=object_type)
    day = f"CAST(timezone({literal(time_zone)}, make_timestamptz(timestamp * 1000)) AS DATE)"
    days = con.execute(f"SELECT {day}, min(timestamp), max(timestamp) FROM {table} GROUP BY 1 ORDER BY 1").fetchall()
    with TemporaryDirectory(dir=out, prefix=".drawn-") as folder:
        parts = Parts(Path(folder) / "days")
        for place, (_, first, last) in enumerate(tqdm(days, "drawing negatives", unit="day", delay=1, leave=False)):
            inside = pl.col("timestamp").is_between(first, last)
            positives = pl.scan_parquet(impressions).filter(inside).collect()
            acted = acts.filter(inside).select("user_id", pl.col("object_id").cast(pl.String)).collect()
            shown, alone = _with_negatives(positives, acted, each, generator(seed, place))
            parts.add(shown)
            without, rows = without + alone, rows + len(positives)
        con.execute(
            f"COPY (SELECT * FROM read_parquet({literal(str(Path(folder) / 'days' / '*.parquet'))})) "
            f"TO {literal(str(Path(folder) / 'all.parquet'))} (FORMAT parquet)"
        )
        (Path(folder) / "all.parquet").replace(impressions)
    notes = [f"{each} negative(s) drawn for each of {rows} positives, from the same day's positives"]
    if without:
        notes.append(f"{without} positives have no negative: their users touched all that was positive that day")
    return notes


def _with_negatives(
    positives: pl.DataFrame, acted: pl.DataFrame, each: int, rng: np.random.Generator
) -> tuple[pl.DataFrame, int]:
    """The day's positives, then their negatives; and for how many there is none."""
    shown = len(positives)
    items = pl.concat([positives["item_id"].cast(pl.String), acted["object_id"]])
    users = pl.concat([positives["user_id"], acted["user_id"]])
    item, user = _numbers(items), _numbers(users)
    drawn = draw(item[:shown], np.repeat(user[:shown], each), user, item, rng)
    row = np.repeat(np.arange(shown), each)[drawn != NONE]
    place = np.zeros(int(item.max(initial=0)) + 1, np.int64)
    place[item[:shown][::-1]] = np.arange(shown)[::-1]  # a row that shows each item
    known = [name for name in OF_THE_POSITIVE_ALONE if name in positives.columns]
    negatives = positives[row].with_columns(
        positives["item_id"][place[drawn[drawn != NONE]]].alias("item_id"),
        pl.lit(0, pl.Int8).alias("label"),
        *(pl.lit(None, positives.schema[name]).alias(name) for name in known),
    )
    return pl.concat([positives, negatives]), int((drawn == NONE).sum()) // each


def _numbers(values: pl.Series) -> npt.NDArray[np.int64]:
    """A number from 0 for each distinct value."""
    return values.rank("dense").to_numpy().astype(np.int64) - 1
