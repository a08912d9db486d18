"""Amazon reviews of one kind of product, the 5-core of May 1996 to July 2014. McAuley et al., SIGIR 2015.

`raw` is a folder with one `reviews_<kind>_5.json[.gz]` (JSON lines; read are reviewerID, asin, unixReviewTime) and its
`meta_<kind>.json[.gz]` (asin, categories; strict JSON, or the Python literals of the release). A review is a behaviour
and a positive, as in ATRank (Zhou et al., AAAI 2018) and DIN (Zhou et al., KDD 2018). Of each user, by time, the last
review is test, the one before it validation, and the others train: also the first, which those papers leave out. A
service meets users without a history every day, and here a network learns what to tell them.

Each positive has one negative of the same user and time, drawn uniformly from all items reviewed, but none that the
user reviewed in any split: else a negative of train could be a positive of test.

Times are days, and most reviews share theirs with another of their user. A history holds what happened strictly before,
so by default (`ties="strict"`) reviews of one day never see each other. With "published" the file's order decides
within a day, as in the papers: then a history also holds what the same basket held. It serves the comparison with their
numbers and no other purpose. Which of tied reviews is the last one is decided by the file's order in both cases.

Categories run from the root to a leaf; the first path's leaf is the item's category_id (DIN takes the last path's), the
whole path its `categories`. Items are those reviewed. All of it is in memory: some 100 bytes a review.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from model.datasets.lines import PATHS, SECONDS, TEXT, Column, read_objects
from model.datasets.negatives import NONE, draw, generator
from model.datasets.splits import by_user
from model.datasets.tables import ITEM, TRAIN, BadLines, DataError, DataSet, Options, Parts

NAME = "amazon"
OPTIONS = ("ties",)
TIME_ZONE = "UTC"  # times are days of this zone

REVIEWS = {
    "reviewerID": Column(TEXT, required=True),
    "asin": Column(TEXT, required=True),
    "unixReviewTime": Column(SECONDS, required=True),
}
META = {
    "asin": Column(TEXT, required=True),
    "categories": Column(PATHS),
}


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the reviews in `raw`. Raises DataError, MalformedLine, OSError."""
    reviews_file, meta_file = _files(raw)
    rng = generator(options.seed)
    bad = BadLines(options.skip_bad)
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        reviews = _read(reviews_file, REVIEWS, bad, Path(folder) / "reviews").collect()
        meta = _read(meta_file, META, bad, Path(folder) / "meta")
        items = reviews.select(item_id="asin").unique().sort("item_id")
        _items(meta, items).write_parquet(out / "items.parquet")
    reviews = by_user(
        reviews.select(user_id="reviewerID", item_id="asin", timestamp=pl.col("unixReviewTime") * 1000), pl.lit(1)
    )
    if not (reviews["split"] == TRAIN).any():
        raise DataError(f"{reviews_file}: no user has three reviews, so there is nothing to train on")
    notes = []
    if options.ties == "published":
        place = pl.int_range(pl.len()).over("user_id", "timestamp")
        reviews = reviews.with_columns(pl.col("timestamp") + place)  # ms: as much as fits between two days
        notes.append("ties published: reviews of one day see each other in the file's order, as in the papers")
    impressions, without = _impressions(reviews, items["item_id"], rng)
    if without:
        notes.append(f"{without} positives have no negative: their users reviewed all items")
    impressions.write_parquet(out / "impressions.parquet")
    reviews.select(
        "user_id",
        pl.lit("review").alias("action"),
        pl.lit(ITEM).alias("object_type"),
        pl.col("item_id").alias("object_id"),
        "timestamp",
    ).write_parquet(out / "behaviours.parquet")
    reviews.select("user_id").unique(maintain_order=True).write_parquet(out / "users.parquet")
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes), drawn_negatives=True)


def _files(raw: Path) -> tuple[Path, Path]:
    reviews = sorted(path for end in (".json", ".json.gz") for path in raw.glob(f"reviews_*_5{end}"))
    if len(reviews) != 1:
        names = ", ".join(path.name for path in reviews) or "none"
        raise DataError(f"{raw} holds {names} of reviews_*_5.json[.gz]; exactly one is allowed")
    kind = reviews[0].name.removeprefix("reviews_").split("_5.json")[0]
    meta = [path for path in (raw / f"meta_{kind}.json", raw / f"meta_{kind}.json.gz") if path.is_file()]
    if len(meta) != 1:
        raise DataError(f"{raw} holds {len(meta)} of meta_{kind}.json[.gz]; exactly one is allowed")
    return reviews[0], meta[0]


def _read(file: Path, columns: dict[str, Column], bad: BadLines, folder: Path) -> pl.LazyFrame:
    parts = Parts(folder)
    for chunk in read_objects(file, columns, bad):
        parts.add(chunk)
    return parts.scan()


def _items(meta: pl.LazyFrame, items: pl.DataFrame) -> pl.DataFrame:
    path = pl.col("categories").list.first()
    known = meta.select(item_id="asin", category_id=path.list.last(), categories=path).unique("item_id", keep="first")
    return items.lazy().join(known, on="item_id", how="left", maintain_order="left").collect()


def _impressions(reviews: pl.DataFrame, items: pl.Series, rng: np.random.Generator) -> tuple[pl.DataFrame, int]:
    """The positives, then a negative for each; and for how many there was none."""
    item = items.search_sorted(reviews["item_id"]).cast(pl.Int64).to_numpy()
    user = reviews["user_id"].rle_id().cast(pl.Int64).to_numpy()  # sorted by user
    drawn = draw(np.arange(len(items)), user, user, item, rng)
    has_negative = drawn != NONE
    positives = reviews.select("user_id", "item_id", "timestamp", pl.lit(1, pl.Int8).alias("label"), "split")
    negatives = positives.filter(has_negative).with_columns(
        item_id=items.gather(drawn[has_negative]), label=pl.lit(0, pl.Int8)
    )
    return pl.concat([positives, negatives]), int((~has_negative).sum())
