"""KuaiRand: short videos on Kuaishou, 8 April to 8 May 2022. Gao et al., CIKM 2022, https://kuairand.com, CC BY-SA 4.0.

`raw` is the folder `data` of KuaiRand-Pure, -1K or -27K; their files have one form. Of these are read

    log_standard_*_<version>[_part*].csv      what the feeds showed, and what came of it
    user_features_<version>.csv, video_features_basic_<version>.csv

each also as .csv.gz. The logs may lack every column that is not needed here. Not read: `log_random_*`, where videos
drawn by chance replaced what the feeds would have shown, so that clicks and videos are spread as a ranker never meets
them; and `video_features_statistic_*`, which counts over the whole month and would tell training about the test day.

A label is `is_click`: in a feed of one column it means a play that lasted, in a feed of two a tap. Each positive signal
is an action of its own, at the time of the exposure; features.toml chooses which are history.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from model.datasets.checks import coverage, unpack_first
from model.datasets.lines import DAY, FLAG, INT, INTS, MILLISECONDS, TEXT, Column, read
from model.datasets.tables import ITEM, BadLines, DataError, DataSet, Options, Parts

NAME = "kuairand"
TIME_ZONE = "Asia/Shanghai"

ACTIONS = {  # of a behaviour, by the log's column; is_hate is no sign of liking
    "is_click": "click",
    "long_view": "long_view",
    "is_like": "like",
    "is_follow": "follow",
    "is_comment": "comment",
    "is_forward": "forward",
}

LOG = {
    "user_id": Column(INT, required=True),
    "video_id": Column(INT, required=True),
    "time_ms": Column(MILLISECONDS, required=True),
    "is_click": Column(FLAG, required=True),
    "tab": Column(INT, required=True),
    "play_time_ms": Column(INT, required=True),
} | {name: Column(FLAG) for name in ACTIONS if name != "is_click"}

USERS = {
    "user_id": Column(INT, required=True),
    "user_active_degree": Column(TEXT),
    "is_lowactive_period": Column(INT),
    "is_live_streamer": Column(INT),  # 0, 1, and an undocumented -124, kept as a value of its own
    "is_video_author": Column(INT),
    "follow_user_num": Column(INT),
    "follow_user_num_range": Column(TEXT),
    "fans_user_num": Column(INT),
    "fans_user_num_range": Column(TEXT),
    "friend_user_num": Column(INT),
    "friend_user_num_range": Column(TEXT),
    "register_days": Column(INT),
    "register_days_range": Column(TEXT),
} | {f"onehot_feat{n}": Column(INT) for n in range(18)}

VIDEOS = {
    "video_id": Column(INT, required=True),
    "author_id": Column(INT),
    "video_type": Column(TEXT),
    "upload_dt": Column(DAY),
    "upload_type": Column(TEXT),
    "visible_status": Column(INT),
    "video_duration": Column(INT),  # ms
    "server_width": Column(INT),
    "server_height": Column(INT),
    "music_id": Column(INT),
    "music_type": Column(INT),
    "tag": Column(INTS),
}


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the log in `raw`. Raises DataError, MalformedLine, OSError."""
    logs, users, videos = _files(raw)
    bad = BadLines(options.skip_bad)
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        parts = Path(folder)
        # The official log repeats some records; a repetition is not a second exposure.
        log = _together(logs, LOG, bad, parts / "logs").unique(maintain_order=True)
        log.sink_parquet(parts / "log.parquet")
        _write_log(pl.scan_parquet(parts / "log.parquet"), out)
        _together([users], USERS, bad, parts / "users").sink_parquet(out / "users.parquet")
        _items(_together([videos], VIDEOS, bad, parts / "videos")).sink_parquet(out / "items.parquet")
        exposed = pl.scan_parquet(parts / "log.parquet")
        viewers, shown = (exposed.select(pl.col(key).unique()).collect().to_series() for key in ("user_id", "video_id"))
    if shown.is_empty():
        raise DataError(f"{logs[0]} holds no exposures")
    notes = coverage(viewers, pl.read_parquet(out / "users.parquet")["user_id"], users, "users")
    notes += coverage(shown, pl.read_parquet(out / "items.parquet")["item_id"], videos)
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes))


def _files(raw: Path) -> tuple[list[Path], Path, Path]:
    """The logs, the users' file and the videos' file of the one version that the folder holds."""
    users = _matching(raw, "user_features_*")
    if len(users) != 1:
        names = ", ".join(path.name for path in users) or "none"
        wanted = "user_features_*.csv[.gz]; exactly one is allowed"
        raise DataError(f"{raw} holds {names} of {wanted}{_data_folder(raw)}{unpack_first(raw)}")
    version = users[0].name.removeprefix("user_features_").split(".")[0]
    logs = _matching(raw, f"log_standard_*_{version}", f"log_standard_*_{version}_part*")
    videos = _matching(raw, f"video_features_basic_{version}")
    if not logs or len(videos) != 1:
        raise DataError(
            f"{raw} holds {len(logs)} of log_standard_*_{version}.csv[.gz] and {len(videos)} of "
            f"video_features_basic_{version}.csv[.gz]; at least one, and exactly one, are needed"
        )
    there = {path.name for path in logs}
    twice = sorted(name for name in there if f"{name}.gz" in there)
    if twice:
        raise DataError(f"{raw} holds {twice[0]} and {twice[0]}.gz; one of them is allowed")
    return logs, users[0], videos[0]


def _data_folder(raw: Path) -> str:
    return f"; its folder {raw / 'data'} has one" if _matching(raw / "data", "user_features_*") else ""


def _matching(raw: Path, *stems: str) -> list[Path]:
    return sorted(path for stem in stems for end in (".csv", ".csv.gz") for path in raw.glob(stem + end))


def _together(files: list[Path], columns: Mapping[str, Column], bad: BadLines, folder: Path) -> pl.LazyFrame:
    parts = Parts(folder)
    for file in files:
        for chunk in read(file, columns, bad):
            parts.add(chunk)
    return parts.scan()


def _write_log(log: pl.LazyFrame, out: Path) -> None:
    log.select(
        "user_id",
        pl.col("video_id").alias("item_id"),
        pl.col("time_ms").alias("timestamp"),
        pl.col("is_click").cast(pl.Int8).alias("label"),
        "tab",
        pl.col("play_time_ms").alias("watch_ms"),
    ).sink_parquet(out / "impressions.parquet")
    pl.concat(
        log.filter(pl.col(column) == 1).select(
            "user_id",
            pl.lit(action).alias("action"),
            pl.lit(ITEM).alias("object_type"),
            pl.col("video_id").alias("object_id"),
            pl.col("time_ms").alias("timestamp"),
        )
        for column, action in ACTIONS.items()
    ).sink_parquet(out / "behaviours.parquet")


def _items(videos: pl.LazyFrame) -> pl.LazyFrame:
    """The videos' columns under the canonical names, and the first tag, which stands for the category."""
    return videos.with_columns(
        category_id=pl.col("tag").list.first(),
        upload_day=pl.col("upload_dt").to_physical().cast(pl.Int64),  # days since 1970
    ).select(pl.col("video_id").alias("item_id"), pl.exclude("video_id", "upload_dt"))
