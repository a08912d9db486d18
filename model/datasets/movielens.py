"""MovieLens: ratings of films. Harper and Konstan, ACM TiiS 2015, https://grouplens.org/datasets/movielens.

`raw` is the folder of ML-20M, -25M, -32M or -latest (`ratings.csv`, `movies.csv`) or of ML-1M or -10M (`ratings.dat`,
`movies.dat` and, in ML-1M, `users.dat`, fields parted by `::`). The text files may be packed as .gz.

Every rating is an impression, a click where it is 4 or more. Of each user, by time, the last tenth (rounded down) is
test, the tenth before it validation; ratings of one second keep the file's order. A rating is also a behaviour: `click`
from 4 on, else `rate`. The rating itself is in no table: it is the label.

Who rates a film has seen it, so the negatives are films that were chosen and then disliked: this is not the ranking of
exposures. All ratings are in memory: some 100 bytes each.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from model.datasets.lines import CSV, INT, SECONDS, TEXT, Column, Form, Type, read
from model.datasets.splits import by_user
from model.datasets.tables import ITEM, BadLines, DataError, DataSet, Options, Parts

NAME = "movielens"
TIME_ZONE = "UTC"
LIKED = 4  # stars, of five

RATINGS = {
    "userId": Column(INT, required=True),
    "movieId": Column(INT, required=True),
    "rating": Column(Type(pl.Float64(), "a number from 0.5 to 5", 0.5, 5), required=True),
    "timestamp": Column(SECONDS, required=True),
}
MOVIES = {
    "movieId": Column(INT, required=True),
    "title": Column(TEXT, required=True),
    "genres": Column(TEXT),
}
USERS = {
    "userId": Column(INT, required=True),
    "gender": Column(TEXT),
    "age": Column(INT),  # the youngest of a band: 1, 18, 25, 35, 45, 50, 56
    "occupation": Column(INT),
    "zip": Column(TEXT),
}
UNLISTED = "(no genres listed)"


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the ratings in `raw`. Raises DataError, MalformedLine, OSError."""
    end, ratings_file = _only(raw, "ratings", (".csv", ".dat"))
    _, movies_file = _only(raw, "movies", (end,))
    bad = BadLines(options.skip_bad)
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        parts = Path(folder)
        ratings = _read(ratings_file, RATINGS, bad, parts / "ratings").select(
            user_id="userId",
            item_id="movieId",
            timestamp=pl.col("timestamp") * 1000,
            label=(pl.col("rating") >= LIKED).cast(pl.Int8),
        )
        log = by_user(ratings.collect(), pl.len().over("user_id") // 10)
        log.write_parquet(out / "impressions.parquet")
        log.select(
            "user_id",
            pl.when(pl.col("label") == 1).then(pl.lit("click")).otherwise(pl.lit("rate")).alias("action"),
            pl.lit(ITEM).alias("object_type"),
            pl.col("item_id").alias("object_id"),
            "timestamp",
        ).write_parquet(out / "behaviours.parquet")
        _items(_read(movies_file, MOVIES, bad, parts / "movies")).sink_parquet(out / "items.parquet")
        if any(raw.glob("users.dat*")):
            users = _read(_only(raw, "users", (".dat",))[1], USERS, bad, parts / "users").rename({"userId": "user_id"})
        else:
            unknown = {name: pl.lit(None, column.type.dtype) for name, column in USERS.items() if name != "userId"}
            users = log.lazy().select("user_id").unique(maintain_order=True).with_columns(**unknown)
        # Five figures are nearly one user each; the first three are the sorting centre, a region.
        users.with_columns(zip_area=pl.col("zip").str.head(3)).sink_parquet(out / "users.parquet")
    return DataSet(NAME, TIME_ZONE, bad.count)


def _only(raw: Path, stem: str, ends: tuple[str, ...]) -> tuple[str, Path]:
    there = [(end, raw / f"{stem}{end}{pack}") for end in ends for pack in ("", ".gz")]
    there = [(end, path) for end, path in there if path.is_file()]
    if len(there) != 1:
        names = " and ".join(f"{stem}{end}[.gz]" for end in ends)
        raise DataError(f"{raw} holds {len(there)} of {names}; exactly one is allowed")
    return there[0]


def _read(file: Path, columns: dict[str, Column], bad: BadLines, folder: Path) -> pl.LazyFrame:
    # ML-1M's titles are in Latin-1, ML-10M's in UTF-8; only the year is read of them, and Latin-1 refuses no byte.
    form = Form(tuple(columns), separator="::", encoding="latin-1") if ".dat" in file.suffixes else CSV
    parts = Parts(folder)
    for chunk in read(file, columns, bad, form):
        parts.add(chunk)
    return parts.scan()


def _items(movies: pl.LazyFrame) -> pl.LazyFrame:
    """Genres as a list, and the year in which the film came out, which closes its title: "Heat (1995)"."""
    return movies.select(
        item_id="movieId",
        genres=pl.when(pl.col("genres") != UNLISTED).then(pl.col("genres").str.split("|")),
        year=pl.col("title").str.extract(r"\((\d{4})(?:[-–]\d{0,4})?\)\s*$").cast(pl.Int64),
    )
