"""MovieLens: ratings of films. Harper and Konstan, ACM TiiS 2015, https://grouplens.org/datasets/movielens.

`raw` is the folder of ML-20M, -25M, -32M or -latest (`ratings.csv`, `movies.csv`), of ML-1M or -10M (`ratings.dat`,
`movies.dat` and, in ML-1M, `users.dat`, fields parted by `::`) or of ML-100K (`u.data` parted by tabs, `u.item` and
`u.user` by bars). The text files may be packed as .gz.

ML-1M and ML-100K have profiles. ML-100K's ages become ML-1M's bands; its occupations, which are names and not quite
those of ML-1M, become their places in the alphabet of its `u.occupation`.

Every rating is an impression, a click where it is 4 or more. Of each user, by time, the last tenth (rounded down) is
test, the tenth before it validation; ratings of one second keep the file's order. A rating is also a behaviour: `click`
from 4 on, else `rate`. The rating itself is in no table: it is the label.

Who rates a film has seen it, so the negatives are films that were chosen and then disliked: this is not the ranking of
exposures. All ratings are in memory: some 100 bytes each.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from model.datasets.checks import coverage, text_file, unpack_first
from model.datasets.lines import CSV, FLAG, INT, SECONDS, TEXT, Column, Form, Type, read
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
AGES = (1, 18, 25, 35, 45, 50, 56)  # ML-1M's bands, by their youngest

OCCUPATIONS = (  # ML-100K's
    *("administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare"),
    *("homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman"),
    *("scientist", "student", "technician", "writer"),
)
GENRES_100K = (  # flags of u.item, in their order, after one for "unknown"
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
MOVIES_100K = {
    "movieId": Column(INT, required=True),
    "title": Column(TEXT, required=True),
    "released": Column(TEXT),
    "released on video": Column(TEXT),
    "address": Column(TEXT),
} | {genre: Column(FLAG, required=True) for genre in ("unknown", *GENRES_100K)}
USERS_100K = {
    "userId": Column(INT, required=True),
    "age": Column(INT),
    "gender": Column(TEXT),
    "occupation": Column(Type(pl.String(), "an occupation of u.occupation", among=OCCUPATIONS)),
    "zip": Column(TEXT),
}


@dataclass(frozen=True)
class Release:
    """The files of a release: their names, and the forms and columns of ratings, films and users."""

    ratings: str
    movies: str
    users: str | None = None
    separators: tuple[str, str] = (",", ",")  # of ratings, of the others
    old: bool = False  # ML-100K's columns


RELEASES = (
    Release("ratings.csv", "movies.csv"),
    Release("ratings.dat", "movies.dat", "users.dat", ("::", "::")),
    Release("u.data", "u.item", "u.user", ("\t", "|"), old=True),
)


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the ratings in `raw`. Raises DataError, MalformedLine, OSError."""
    release, ratings_file = _release(raw)
    movies_file = text_file(raw, release.movies)
    bad = BadLines(options.skip_bad)
    between, other = release.separators
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        parts = Path(folder)
        ratings = _read(ratings_file, RATINGS, between, bad, parts / "ratings").select(
            user_id="userId",
            item_id="movieId",
            timestamp=pl.col("timestamp") * 1000,
            label=(pl.col("rating") >= LIKED).cast(pl.Int8),
        )
        log = by_user(ratings.collect(), pl.len().over("user_id") // 10)
        if log.is_empty():
            raise DataError(f"{ratings_file} holds no ratings; {', '.join(RATINGS)} are needed, a line each")
        log.write_parquet(out / "impressions.parquet")
        log.select(
            "user_id",
            pl.when(pl.col("label") == 1).then(pl.lit("click")).otherwise(pl.lit("rate")).alias("action"),
            pl.lit(ITEM).alias("object_type"),
            pl.col("item_id").alias("object_id"),
            "timestamp",
        ).write_parquet(out / "behaviours.parquet")
        movies = _read(movies_file, MOVIES_100K if release.old else MOVIES, other, bad, parts / "movies")
        items = _items(_with_genres(movies) if release.old else movies).collect()
        items.write_parquet(out / "items.parquet")
        notes = coverage(log["item_id"].unique(), items["item_id"], movies_file)
        if release.users and _there(raw, release.users):
            columns, users_file = USERS_100K if release.old else USERS, text_file(raw, release.users)
            users = _read(users_file, columns, other, bad, parts / "users")
            users = (_as_in_1m(users) if release.old else users).rename({"userId": "user_id"})
            profiled = users.select("user_id").collect().to_series()
            notes += coverage(log["user_id"].unique(), profiled, users_file, "users")
        else:
            unknown = {name: pl.lit(None, column.type.dtype) for name, column in USERS.items() if name != "userId"}
            users = log.lazy().select("user_id").unique(maintain_order=True).with_columns(**unknown)
        # Five figures are nearly one user each; the first three are the sorting centre, a region.
        users.with_columns(zip_area=pl.col("zip").str.head(3)).sink_parquet(out / "users.parquet")
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes))


def _release(raw: Path) -> tuple[Release, Path]:
    there = [(release, path) for release in RELEASES for path in _there(raw, release.ratings)]
    if len(there) != 1:
        names = "ratings.csv[.gz] and ratings.dat[.gz]; exactly one is allowed, or ML-100K's u.data[.gz] alone"
        raise DataError(f"{raw} holds {len(there)} of {names}{unpack_first(raw)}")
    return there[0]


def _there(raw: Path, name: str) -> list[Path]:
    return [path for path in (raw / name, raw / f"{name}.gz") if path.is_file()]


def _read(file: Path, columns: dict[str, Column], separator: str, bad: BadLines, folder: Path) -> pl.LazyFrame:
    # Titles are in Latin-1 in ML-100K and -1M, in UTF-8 in ML-10M; only the year is read, and Latin-1 refuses no byte.
    form = CSV if separator == "," else Form(tuple(columns), separator, encoding="latin-1")
    parts = Parts(folder)
    for chunk in read(file, columns, bad, form):
        parts.add(chunk)
    return parts.scan()


def _with_genres(movies: pl.LazyFrame) -> pl.LazyFrame:
    """ML-100K's flags as the other releases write genres: "Drama|War"."""
    named = (pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES_100K)
    genres = pl.concat_str(*named, separator="|", ignore_nulls=True)
    return movies.with_columns(genres=pl.when(genres != "").then(genres))


def _as_in_1m(users: pl.LazyFrame) -> pl.LazyFrame:
    band = pl.lit(None, pl.Int64)
    for youngest in AGES:
        band = pl.when(pl.col("age") >= youngest).then(youngest).otherwise(band)
    occupation = pl.col("occupation").replace_strict(list(OCCUPATIONS), list(range(len(OCCUPATIONS))))
    return users.select("userId", "gender", age=band, occupation=occupation.cast(pl.Int64), zip="zip")


def _items(movies: pl.LazyFrame) -> pl.LazyFrame:
    """Genres as a list, and the year in which the film came out, which closes its title: "Heat (1995)"."""
    return movies.select(
        item_id="movieId",
        genres=pl.when(pl.col("genres") != UNLISTED).then(pl.col("genres").str.split("|")),
        year=pl.col("title").str.extract(r"\((\d{4})(?:[-–]\d{0,4})?\)\s*$").cast(pl.Int64),
    )
