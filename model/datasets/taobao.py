"""UserBehavior: what a million users did on Taobao, 25 November to 3 December 2017. Alibaba, Tianchi data set 649.

`raw` is the folder with `UserBehavior.csv` or `UserBehavior.csv.gz`: lines of `user_id,item_id,category_id,behavior,
timestamp` (seconds) without a header, a behaviour being pv (a page view), cart, fav or buy. All four are behaviours.
Copies differ: a header names the columns, in any order and among others; tabs part the fields; times are milliseconds.
All three are seen from the file and told, save the header.

The log has no impressions, so they are made: every pv is a positive, and each has one negative of the same user and
time, drawn from the pv events of the same day (Asia/Shanghai), where an item stands as often as it was viewed. So
positives and negatives are equally popular on their day; items drawn uniformly would be told apart by their popularity
alone (in a sample of few users upside down, since most events fall on items that nobody else saw). A negative is
nothing that its user touched that day. It follows that a candidate which the history holds from the same day is always
a positive: what a network gains by that is in its AUC.

The unit of times is that in which events fall into the nine days; a file with events of both units is refused.

Official files hold some events far outside the nine days (1970, 2037): clocks that were wrong. Their place in a history
cannot be known, so they are left out, which the notes count. A record that is repeated is one event. Work is done day
by day, and memory bounded by the largest day (some eleven million events); what model/prepare.py then encodes is not.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from tqdm import tqdm

from model.datasets.checks import first_lines, unpack_first
from model.datasets.lines import INT, Column, Form, Type, read
from model.datasets.negatives import NONE, draw, generator
from model.datasets.tables import ITEM, BadLines, DataError, DataSet, Options, Parts

NAME = "taobao"
TIME_ZONE = "Asia/Shanghai"
FILES = ("UserBehavior.csv", "UserBehavior.csv.gz")

VIEW = "pv"
ACTIONS = (VIEW, "cart", "fav", "buy")
FIRST_S = int(datetime(2017, 11, 25, tzinfo=ZoneInfo(TIME_ZONE)).timestamp())
DAY_S, DAYS = 86_400, 9
UNITS = {"seconds": 1, "milliseconds": 1000}  # in a second

LOG = {
    "user_id": Column(INT, required=True),
    "item_id": Column(INT, required=True),
    "category_id": Column(INT, required=True),
    "behavior": Column(Type(pl.String(), ", ".join(ACTIONS), among=ACTIONS), required=True),
    "timestamp": Column(INT, required=True),
}


OTHER_NAMES = {"behaviortype": "behavior", "behaviour": "behavior", "behaviourtype": "behavior"}  # in headers


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the log in `raw`. Raises DataError, MalformedLine, OSError."""
    file = _file(raw)
    bad = BadLines(options.skip_bad)
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        log, notes = _log(file, bad, Path(folder) / "log")
        impressions, behaviours = Parts(Path(folder) / "impressions"), Parts(Path(folder) / "behaviours")
        without = 0
        for day in tqdm(range(DAYS), "drawing negatives", unit="day", delay=1, leave=False):
            events = log.filter(pl.col("day") == day).drop("day").collect().unique(maintain_order=True)
            shown, alone = _impressions(events, generator(options.seed, day))
            impressions.add(shown)
            behaviours.add(_behaviours(events))
            without += alone
        if without:
            notes.append(f"{without} positives have no negative: their users touched all that was viewed that day")
        impressions.scan().sink_parquet(out / "impressions.parquet")
        behaviours.scan().sink_parquet(out / "behaviours.parquet")
        # A few items are listed under two categories; which one is lower does not depend on the order of the lines.
        log.group_by("item_id").agg(pl.min("category_id")).sort("item_id").sink_parquet(out / "items.parquet")
        log.select("user_id").unique().sort("user_id").sink_parquet(out / "users.parquet")
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes), drawn_negatives=True)


def _file(raw: Path) -> Path:
    there = [raw / name for name in FILES if (raw / name).is_file()]
    if len(there) != 1:
        raise DataError(f"{raw} holds {len(there)} of {' and '.join(FILES)}; exactly one is allowed{unpack_first(raw)}")
    return there[0]


def _form(file: Path) -> tuple[Mapping[str, str], Form]:
    """Each column's name in the file, and the file's form. Raises DataError where a header lacks one."""
    lines = first_lines(file)
    if not lines:
        raise DataError(f"{file} is empty; lines of {','.join(LOG)} are needed")
    first = lines[0].decode(errors="replace")
    separator = "\t" if "\t" in first and "," not in first else ","
    fields = [field.strip('"') for field in first.split(separator)]
    if any(re.fullmatch(r"-?\d+(\.\d+)?", field) for field in fields):  # numbers: no header
        return {name: name for name in LOG}, Form(tuple(LOG), separator)
    there: dict[str, str] = {}
    for field in fields:
        word = re.sub("[^a-z]", "", field.lower())
        word = OTHER_NAMES.get(word, word)
        if there.setdefault(word, field) != field:
            raise DataError(f"{file} has the columns {there[word]} and {field}; one of them is allowed")
    names = {name: there.get(name.replace("_", "")) for name in LOG}
    missing = [name for name, field in names.items() if field is None]
    if missing:
        raise DataError(
            f"{file} has no column {', '.join(missing)}; its first line is {first[:200]!r}, and lines of "
            f"{','.join(LOG)} are needed, or a header with these names"
        )
    return {name: field for name, field in names.items() if field is not None}, Form((), separator)


def _log(file: Path, bad: BadLines, folder: Path) -> tuple[pl.LazyFrame, list[str]]:
    """The events of the nine days with their `day` from 0 and times in milliseconds, and what is to be told."""
    names, form = _form(file)
    parts, rows, inside = Parts(folder), 0, dict.fromkeys(UNITS, 0)
    times: list[Any] = []  # the earliest and the latest of each chunk
    columns = {names[name]: column for name, column in LOG.items()}
    days = {unit: (pl.col("timestamp") - FIRST_S * each) // (DAY_S * each) for unit, each in UNITS.items()}
    for chunk in read(file, columns, bad, form):
        chunk = chunk.rename({field: name for name, field in names.items()})
        for unit, day in days.items():
            events = chunk.filter(day.is_between(0, DAYS - 1)).with_columns(day=day.cast(pl.Int8))
            inside[unit] += len(events)
            if len(events) or unit == "seconds":
                parts.add(events.with_columns(pl.col("timestamp") * (1000 // UNITS[unit])))
        rows += len(chunk)
        if len(chunk):
            times += [chunk["timestamp"].min(), chunk["timestamp"].max()]
        if all(inside.values()):
            raise DataError(f"{file} has times in seconds and times in milliseconds; one unit is allowed")
    read_as = "milliseconds" if inside["milliseconds"] else "seconds"
    if not inside[read_as]:
        span = f"its {rows} run from {min(times)} to {max(times)}" if rows else "it holds none"
        raise DataError(
            f"{file} has no event between 25 November and 3 December 2017 in seconds or milliseconds since 1970: {span}"
        )
    notes = ["times are in milliseconds, as in no official file"] if read_as == "milliseconds" else []
    if form.separator == "\t":
        notes.append("fields are parted by tabs, as in no official file")
    if rows > inside[read_as]:
        notes.append(f"{rows - inside[read_as]} events outside 25 November to 3 December 2017 were left out")
    return parts.scan(), notes


def _impressions(events: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, int]:
    """The day's positives, then a negative for each; and for how many there was none."""
    ids, item = np.unique(events["item_id"].to_numpy(), return_inverse=True)
    user = np.unique(events["user_id"].to_numpy(), return_inverse=True)[1]
    viewed = (events["behavior"] == VIEW).to_numpy()
    drawn = draw(item[viewed], user[viewed], user, item, rng)
    positives = events.filter(viewed).select("user_id", "item_id", "timestamp", label=pl.lit(1, pl.Int8))
    has_negative = drawn != NONE
    negatives = positives.filter(has_negative).with_columns(
        item_id=pl.Series(ids[drawn[has_negative]], dtype=pl.Int64), label=pl.lit(0, pl.Int8)
    )
    return pl.concat([positives, negatives]), int((~has_negative).sum())


def _behaviours(events: pl.DataFrame) -> pl.DataFrame:
    return events.select(
        "user_id",
        pl.col("behavior").alias("action"),
        pl.lit(ITEM).alias("object_type"),
        pl.col("item_id").alias("object_id"),
        "timestamp",
    )
