"""Amazon reviews of one kind of product: the releases of 2014 (McAuley et al., SIGIR 2015), 2018 (Ni et al., EMNLP
2019) and 2023 (Hou et al., 2024, https://amazon-reviews-2023.github.io).

`raw` is a folder with one file of reviews and the meta file of its kind, each plain or as .gz. Their keys decide of
which release each is, never their names:

           reviews (usual name)                               meta, meta_<kind>.json[l]
    2014   reviewerID, asin, unixReviewTime (reviews_*_5.json)  asin, categories: lists of paths
    2018   reviewerID, asin, unixReviewTime (*_5.json, *.json)  asin, category: one path
    2023   user_id, parent_asin, timestamp (*.jsonl, *.csv)     parent_asin, categories: one path

Records are JSON lines, or the Python literals of 2014; the 5-core of 2023 comes as CSV. An item of 2023 is its
parent_asin, as its authors advise (https://huggingface.co/datasets/McAuley-Lab/Amazon-Reviews-2023): its `asin` is one
of the product's colours and sizes, and meta describes products.

A review is a behaviour and a positive, as in ATRank (Zhou et al., AAAI 2018) and DIN (Zhou et al., KDD 2018); a record
that is repeated is one review. Of each user, by time, the last review is test, the one before it validation, and the
others train: also the first, which those papers leave out. A service meets users without a history every day, and here
a network learns what to tell them. Each positive has one negative of the same user and time, drawn uniformly from all
items reviewed, but none that the user reviewed in any split.

Times of 2014 and 2018 are days, and most reviews share theirs with another of their user. A history holds what happened
strictly before, so by default (`ties="strict"`) reviews of one day never see each other. With "published" the file's
order decides within a day, as in the papers: then a history also holds what the same basket held. It serves the
comparison with their numbers and no other purpose. Times of 2023 are milliseconds: a tie is a review of the same
millisecond, no paper orders those, and "published" is refused. Which of tied reviews is the last one is decided by the
file's order in all cases.

Categories run from the root to a leaf; the leaf is the item's category_id, the whole path its `categories`. Of 2014's
several paths the first counts (DIN takes the last). In 2018 scraped HTML follows some paths; it is cut off. A kind may
lack categories altogether (All_Beauty of 2018), which the notes tell. Items are those reviewed. All of it is in memory:
some 100 bytes a review.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl

from model.datasets.checks import TOLD_BELOW, coverage, files, object_keys, unpack_first
from model.datasets.lines import MILLISECONDS, PATHS, SECONDS, TEXT, TEXTS, Column, Type, read, read_objects
from model.datasets.negatives import generator, one_each
from model.datasets.splits import by_user
from model.datasets.tables import ITEM, TRAIN, BadLines, DataError, DataSet, Options, Parts

NAME = "amazon"
OPTIONS = ("ties",)
TIME_ZONE = "UTC"  # times of 2014 and 2018 are days of this zone


class Reviews(NamedTuple):
    """The keys of a release's reviews."""

    release: str
    user: str
    item: str
    time: str
    unit: Type

    @property
    def columns(self) -> dict[str, Column]:
        types = {self.user: TEXT, self.item: TEXT, self.time: self.unit}
        return {name: Column(type, required=True) for name, type in types.items()}


class Meta(NamedTuple):
    """The keys of a release's meta; of several paths the first counts."""

    release: str
    item: str
    categories: str
    type: Type

    @property
    def columns(self) -> dict[str, Column]:
        return {self.item: Column(TEXT, required=True), self.categories: Column(self.type)}


REVIEWS = (
    Reviews("2014 and 2018", "reviewerID", "asin", "unixReviewTime", SECONDS),
    Reviews("2023", "user_id", "parent_asin", "timestamp", MILLISECONDS),
)
META = (
    Meta("2014", "asin", "categories", PATHS),
    Meta("2018", "asin", "category", TEXTS),
    Meta("2023", "parent_asin", "categories", TEXTS),
)
REVIEW_ENDS = (".json", ".jsonl", ".csv", ".json.gz", ".jsonl.gz", ".csv.gz")
HTML = "</"  # never in a category's name


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the reviews in `raw`. Raises DataError, MalformedLine, OSError."""
    reviews_file, meta_file = _files(raw)
    keys, meta_keys = _reviews_keys(reviews_file), _meta_keys(meta_file)
    if options.ties == "published" and keys.unit is not SECONDS:
        raise DataError(f"{reviews_file}: ties published is for days, but times of {keys.release} are milliseconds")
    bad = BadLines(options.skip_bad)
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        parts = Path(folder)
        log, notes = _log(_read(reviews_file, keys.columns, bad, parts / "reviews"), keys)
        if not (log["split"] == TRAIN).any():
            raise DataError(f"{reviews_file}: no user has three reviews, so there is nothing to train on")
        meta = _described(_read(meta_file, meta_keys.columns, bad, parts / "meta"), meta_keys)
        reviewed = log.lazy().select("item_id").unique().sort("item_id")
        items = reviewed.join(meta, on="item_id", how="left", maintain_order="left").collect()
        covered = coverage(items["item_id"], meta.select("item_id").collect().to_series(), meta_file)
    notes += covered
    without = items["category_id"].null_count()
    if not covered and len(items) - without < TOLD_BELOW * len(items):
        notes.append(f"{without} of {len(items)} items have no category: {meta_keys.categories} is empty for them")
    if options.ties == "published":
        place = pl.int_range(pl.len()).over("user_id", "timestamp")
        log = log.with_columns(pl.col("timestamp") + place)  # ms: as much as fits between two days
        notes.append("ties published: reviews of one day see each other in the file's order, as in the papers")
    impressions, alone = one_each(log, items["item_id"], generator(options.seed))
    if alone:
        notes.append(f"{alone} positives have no negative: their users reviewed all items")
    impressions.write_parquet(out / "impressions.parquet")
    log.select(
        "user_id",
        pl.lit("review").alias("action"),
        pl.lit(ITEM).alias("object_type"),
        pl.col("item_id").alias("object_id"),
        "timestamp",
    ).write_parquet(out / "behaviours.parquet")
    items.write_parquet(out / "items.parquet")
    log.select("user_id").unique(maintain_order=True).write_parquet(out / "users.parquet")
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes), drawn_negatives=True)


def _files(raw: Path) -> tuple[Path, Path]:
    reviews = [path for path in files(raw, REVIEW_ENDS) if not path.name.startswith("meta_")]
    if len(reviews) != 1:
        there = ", ".join(path.name for path in reviews) or "none"
        raise DataError(
            f"{raw} holds {there} of reviews_*_5.json[.gz] (2014), *_5.json[.gz] (2018), *.jsonl[.gz] and *.csv[.gz] "
            f"(2023); exactly one is allowed{unpack_first(raw)}"
        )
    kind = reviews[0].name.removeprefix("reviews_").removesuffix(".gz").rsplit(".", 1)[0].removesuffix("_5")
    names = [f"meta_{kind}.{end}{pack}" for end in ("json", "jsonl") for pack in ("", ".gz")]
    meta = [raw / name for name in names if (raw / name).is_file()]
    if len(meta) != 1:
        others = ", ".join(sorted(path.name for path in raw.glob("meta_*"))) or "no other meta file"
        raise DataError(
            f"{raw} holds {len(meta)} of meta_{kind}.json[.gz] and meta_{kind}.jsonl[.gz]; exactly one is allowed, "
            f"and there is {others}"
        )
    return reviews[0], meta[0]


def _reviews_keys(file: Path) -> Reviews:
    if ".csv" in file.suffixes:
        return REVIEWS[-1]  # whose columns the reader then asks for
    needed = " or ".join(f"{', '.join(form.columns)} ({form.release})" for form in REVIEWS)
    there = object_keys(file, needed)
    for form in REVIEWS:
        if set(form.columns) <= set(there):
            return form
    # A file that lacks one key is told about that key, line by line, if it is plain which release it is of.
    for form in REVIEWS:
        if {form.user, form.item} <= set(there):
            return form
    raise DataError(f"{file} has the keys {', '.join(there)}; {needed} are needed")


def _meta_keys(file: Path) -> Meta:
    needed = " or ".join(f"{', '.join(form.columns)} ({form.release})" for form in META)
    there = object_keys(file, needed)
    for form in reversed(META):  # 2023 before 2014: a record may hold its asin beside parent_asin
        if set(form.columns) <= set(there):
            return form
    raise DataError(f"{file} has the keys {', '.join(there)}; {needed} are needed")


def _read(file: Path, columns: Mapping[str, Column], bad: BadLines, folder: Path) -> pl.LazyFrame:
    parts = Parts(folder)
    for chunk in read(file, columns, bad) if ".csv" in file.suffixes else read_objects(file, columns, bad):
        parts.add(chunk)
    return parts.scan()


def _log(reviews: pl.LazyFrame, keys: Reviews) -> tuple[pl.DataFrame, list[str]]:
    """user_id, item_id, timestamp (ms) and split, sorted by user and time; and the notes."""
    milliseconds = pl.col(keys.time) * (1000 if keys.unit is SECONDS else 1)
    log = reviews.select(user_id=keys.user, item_id=keys.item, timestamp=milliseconds).collect()
    once = log.unique(maintain_order=True)
    repeated = len(log) - len(once)
    notes = [f"{repeated} reviews repeat an earlier one and were left out"] if repeated else []
    return by_user(once, pl.lit(1)), notes


def _described(meta: pl.LazyFrame, keys: Meta) -> pl.LazyFrame:
    """item_id, category_id and categories, one row each; null where there is no path."""
    path = pl.col(keys.categories).list.first() if keys.type is PATHS else pl.col(keys.categories)
    html = pl.element().str.contains(HTML, literal=True).cast(pl.Int8).cum_max()
    path = path.list.eval(pl.element().filter(html == 0)) if keys.type is TEXTS else path
    path = pl.when(path.list.len() > 0).then(path)
    return meta.select(item_id=keys.item, category_id=path.list.last(), categories=path).unique(
        "item_id", keep="first", maintain_order=True
    )
