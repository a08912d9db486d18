"""TaobaoAd_x1: advertisements shown on Taobao, 6 to 13 May 2017, in the form of the benchmark BARS.

https://github.com/reczoo/Datasets; from Alibaba's Tianchi data set 56, after Lyu et al., AAAI 2020. `raw` is the folder
with `train.csv` and `test.csv` (each also as .csv.gz), whose first line names, in any order,

    clk, userid, adgroup_id, pid                the label, the user, the advertisement, the place where it was shown
    btag_his, cate_his, brand_his               the user's newest behaviours before, at most 50, parted by ^: what was
                                                done (1: a view), and the category and brand that it was done to
    cate_id, campaign_id, customer, brand, price                of the advertisement
    cms_segid, cms_group_id, final_gender_code, age_level, pvalue_level, shopping_level, occupation,
    new_user_class_level                                        of the user

Other columns (`btag`, which is 1 throughout) are not read. Brand 0 stands for none.

The form has no times, and behaviours name no advertisement. So

- The lines of train.csv are spread, in their order, evenly over 6 to 12 May, those of test.csv over 13 May (Shanghai).
  The last of these days is test, as in BARS, and the one before validation, where BARS picks its models on test.
- A user's lists are windows on one sequence. What a line's list adds at its end to that of the user's line before
  happened between the two, just before the later one; so each impression's history is its own list. A list that is no
  such window (lines that are not in the order of time) is added as a whole, and counted in the notes.
- Items are advertisements (their id as text) and the pairs "category/brand" of behaviours, told apart by the slash.
  Both have the features category_id and brand, which alone should be in the sequence.

The conversion drops each list's zeros alone, so where brands are missing the lists differ in length; they are then laid
together at their newest end, as BARS lays them. Oldest comes first. Its authors warn that ids were mapped faultily
before they came to them (PaddleRec issue 821). Memory is bounded by BUCKET_ROWS lines.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from model.datasets.checks import first_lines, text_file
from model.datasets.lines import FLAG, INT, NUMBER, TEXT, Column, Type, read
from model.datasets.tables import ITEM, BadLines, DataError, DataSet, Options, Parts
from model.engine import engine, literal, progress

NAME = "taobaoad"
TIME_ZONE = "Asia/Shanghai"
FIRST_MS = int(datetime(2017, 5, 6, tzinfo=ZoneInfo(TIME_ZONE)).timestamp()) * 1000
DAY_MS = 86_400_000
SPANS = {"train.csv": (0, 7 * DAY_MS), "test.csv": (7 * DAY_MS, DAY_MS)}  # since FIRST_MS: the beginning, the length

LONGEST = 50  # behaviours in a list
BUCKET_ROWS = 100_000  # lines whose users are worked on at once: some 500 MB
NONE = -(2**63)  # a brand that is not there, among numbers

HISTORY = Type(pl.List(pl.Int64()), "integers with ^ between them", separator="^")
LISTS = {"btag_his": "action", "cate_his": "category_id", "brand_his": "brand"}
NOT_CATEGORY = [at for at, name in enumerate(LISTS.values()) if name != "category_id"]
ADVERTISEMENT = ("cate_id", "campaign_id", "customer", "brand", "price")
PROFILE = (
    *("cms_segid", "cms_group_id", "final_gender_code", "age_level", "pvalue_level", "shopping_level", "occupation"),
    "new_user_class_level",
)
LOG = (
    {"clk": Column(FLAG, required=True), "userid": Column(INT, required=True)}
    | {"adgroup_id": Column(INT, required=True), "pid": Column(TEXT, required=True)}
    | {name: Column(HISTORY) for name in LISTS}
    | {name: Column(NUMBER if name == "price" else INT) for name in (*ADVERTISEMENT, *PROFILE)}
)

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the log in `raw`. Raises DataError, MalformedLine, OSError."""
    bad = BadLines(options.skip_bad)
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        log = _log(raw, bad, Path(folder))
        log.select(
            user_id="userid",
            item_id=pl.col("adgroup_id").cast(pl.String),
            timestamp="time",
            label=pl.col("clk").cast(pl.Int8),
            pid="pid",
        ).sink_parquet(out / "impressions.parquet")
        behaviours, notes = _behaviours(log, Path(folder), options.memory_gib)
        behaviours.select(
            "user_id",
            pl.format("btag_{}", pl.col("action").fill_null(0)).alias("action"),
            pl.lit(ITEM).alias("object_type"),
            _pair().alias("object_id"),
            "timestamp",
        ).sink_parquet(out / "behaviours.parquet")
        _items(log, behaviours).sink_parquet(out / "items.parquet")
        users = log.group_by(user_id="userid").agg(pl.col(*PROFILE).min())  # a user's lines have one profile
        users.sort("user_id").sink_parquet(out / "users.parquet")
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes))


def _log(raw: Path, bad: BadLines, folder: Path) -> pl.LazyFrame:
    """The lines of both files with their `time` in milliseconds."""
    spread = []
    for name, (begin, length) in SPANS.items():
        file = text_file(raw, name)
        _refuse_missing(file)
        parts, rows = Parts(folder / name), 0
        for chunk in read(file, LOG, bad):
            parts.add(chunk.with_row_index("row", rows))
            rows += len(chunk)
        if not rows:
            raise DataError(f"{file} holds no exposures")
        time = FIRST_MS + begin + pl.col("row").cast(pl.Int64) * length // rows
        spread.append(parts.scan().with_columns(time=time).drop("row"))
    return pl.concat(spread)


def _refuse_missing(file: Path) -> None:
    """A file without a column of lists; their values may be missing, so that `read` would take it for all empty."""
    there = [field.strip('"') for line in first_lines(file, 1) for field in line.decode(errors="replace").split(",")]
    missing = [name for name in LISTS if name not in there]
    if there and missing:
        raise DataError(f"{file} has no column {', '.join(missing)}; there are {', '.join(there)[:1000]}")


def _behaviours(log: pl.LazyFrame, folder: Path, memory_gib: float) -> tuple[pl.LazyFrame, list[str]]:
    """user_id, action, category_id, brand and timestamp of all behaviours, and what is to be told."""
    parts, restarts, uneven = Parts(folder / "behaviours"), 0, 0
    for users in _by_user(log.select("userid", "time", *LISTS), folder, memory_gib):
        lengths = users.select(pl.col(*LISTS).list.len().fill_null(0))
        rows = users.select(
            "userid", "time", uneven=lengths.max_horizontal() > lengths.min_horizontal(), elements=_elements()
        )
        added, restarted = _added(rows)
        parts.add(added)
        restarts += restarted
        uneven += int(rows["uneven"].sum())
    notes = ["the log has no times: lines were spread evenly, in their order, over 6 to 13 May 2017; gaps tell little"]
    if restarts:
        notes.append(f"{restarts} histories do not go on from their user's history before: all in them was added anew")
    if uneven:
        notes.append(f"in {uneven} histories actions, categories and brands differ in number: joined at the newest end")
    return parts.scan(), notes


def _by_user(log: pl.LazyFrame, folder: Path, memory_gib: float) -> Iterator[pl.DataFrame]:
    """The log in pieces of about BUCKET_ROWS lines, each with all lines of its users, sorted by user and time."""
    whole, buckets = folder / "lists.parquet", folder / "buckets"
    log.sink_parquet(whole)
    count = 1 + pl.scan_parquet(whole).select(pl.len()).collect().item() // BUCKET_ROWS
    with engine(folder, memory_gib) as connection, progress(connection, "gathering users"):
        connection.execute(
            f"COPY (SELECT *, hash(userid) % {count} AS bucket FROM read_parquet({literal(str(whole))})) "
            f"TO {literal(str(buckets))} (FORMAT parquet, PARTITION_BY (bucket))"
        )
    for bucket in sorted(buckets.iterdir()):
        rows = pl.concat(pl.read_parquet(file, hive_partitioning=False) for file in sorted(bucket.iterdir()))
        yield rows.sort("userid", "time")


def _elements() -> pl.Expr:
    """A line's behaviours, oldest first: a list of structs of what LISTS names, joined at the newest end.

    A behaviour is there where a category is; what is missing at the oldest end of another list is null.
    """
    length = pl.col("cate_his").list.len()
    ends = (pl.col(name).list.reverse().list.gather(pl.int_ranges(length), null_on_oob=True) for name in LISTS)
    return pl.struct(e.list.reverse().alias(name) for e, name in zip(ends, LISTS.values(), strict=True))


def _added(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The behaviours that each line's list adds to its user's line before; and how many lists do not go on from it."""
    lists = rows.with_row_index("row").unnest("elements").explode(*LISTS.values())
    done = lists.filter(pl.col("category_id").is_not_null())
    length = np.bincount(done["row"].to_numpy(), minlength=len(rows)).astype(np.int64)
    place = np.arange(len(done)) - np.repeat(np.cumsum(length) - length, length)
    user, time = rows["userid"].to_numpy(), rows["time"].to_numpy()
    same = np.append(False, user[1:] == user[:-1])  # as the line before
    row = done["row"].to_numpy()
    uneven = rows["uneven"].to_numpy()
    loose = uneven | np.append(False, uneven[:-1])
    behaviours = done.select(*LISTS.values()).fill_null(NONE).to_numpy()
    overlap, restarted = _overlaps(behaviours, row, place, length, same, loose)
    gap = np.where(same, time - np.append(0, time[:-1]), LONGEST)
    back = np.minimum(length[row] - place, gap[row])  # ms before the line: the newest 1, the one before it 2, …
    added = done.select(
        user_id="userid", action="action", category_id="category_id", brand="brand", timestamp=pl.col("time") - back
    )
    return added.filter(place >= overlap[row]), restarted


def _overlaps(behaviours: Ints, row: Ints, place: Ints, length: Ints, same: Flags, loose: Flags) -> tuple[Ints, int]:
    """How many of each list's oldest elements end the list before; and how many lists do not go on from it.

    `behaviours` (n, 3) stand each in the list `row` at its `place`. Of lists, `length`, `same`: of the same user as the
    one before, and `loose`: only categories are compared, since brands lie elsewhere where one is missing.
    A list goes on where nothing is lost: it holds the whole list before, or is full.
    """
    width = int(length.max(initial=0))
    begins, ends = (np.zeros((len(length), width, len(LISTS)), np.int64) for _ in range(2))
    begins[row, place] = behaviours  # from the left
    ends[row, width - length[row] + place] = behaviours  # to the right
    before, before_length = ends[:-1], length[:-1]
    here, here_length = begins[1:], length[1:]
    overlap, left = np.zeros(len(length), np.int64), np.flatnonzero(same[1:])
    for shared in range(width, -1, -1):
        may = (shared <= before_length[left]) & (shared <= here_length[left])
        may &= (shared == before_length[left]) | (here_length[left] >= LONGEST)
        tried = left[may]
        equal = before[tried, width - shared :] == here[tried, :shared]
        equal[..., NOT_CATEGORY] |= loose[1 + tried, None, None]
        may[may] = equal.all(axis=(1, 2))
        overlap[1 + left[may]] = shared
        left = left[~may]
    return overlap, len(left)


def _pair() -> pl.Expr:
    return pl.format("{}/{}", "category_id", pl.col("brand").fill_null(0))


def _items(log: pl.LazyFrame, behaviours: pl.LazyFrame) -> pl.LazyFrame:
    """Advertisements and the pairs of category and brand of behaviours.

    Should an advertisement's lines differ, the lowest values stand: which do not depend on the order of lines.
    """
    shown = log.group_by("adgroup_id").agg(pl.col(*ADVERTISEMENT).min())
    brand = pl.when(pl.col("brand") != 0).then("brand")
    advertisements = shown.select(
        item_id=pl.col("adgroup_id").cast(pl.String),
        category_id="cate_id",
        brand=brand,
        campaign_id="campaign_id",
        customer="customer",
        price="price",
    )
    pairs = behaviours.select("category_id", "brand").unique().select("category_id", "brand", item_id=_pair())
    return pl.concat([advertisements, pairs], how="diagonal").sort("item_id")
