"""RecBole's atomic files: many public logs in one form. Zhao et al., CIKM 2021, https://recbole.io/docs.

`raw` is a folder with one `<name>.inter` and, where there are any, `<name>.item` and `<name>.user` (each also as .gz):
fields parted by tabs, under a first line of `name:type`, a type being token, token_seq (tokens parted by blanks), float
or float_seq. Needed are user_id:token, item_id:token and timestamp:float of the interactions.

    label:float                0 or 1: a click, or an impression without one
    rating:float, up to 5      an impression, a click from 4 on; any other rating is the behaviour `rate`
    neither, or one rating     clicks alone; each gets a negative of the same user and time, drawn uniformly from all
                               items but those that the user ever took

With labels or ratings the last tenth of each user's log is test and the tenth before it validation, as in `movielens`.
Of clicks alone the last one is test and the one before it validation, as in `amazon`. The form does not declare the
unit of times: all seconds, or all milliseconds, is seen from their size and told; both in one file is refused.

Ids are tokens: text. The first column of .item that is called like a category is category_id and `categories` in the
tables; the other columns keep their names, and only an own feature table (--features) uses them. A comma at the end of
a token of a sequence is cut off, since "Drama, War" stands for two genres. float_seq is not read.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from model.datasets.checks import coverage, files, first_lines, unpack_first
from model.datasets.lines import NUMBER, TEXT, Column, Form, Type, read
from model.datasets.negatives import generator, one_each
from model.datasets.splits import by_user
from model.datasets.tables import ITEM, TRAIN, BadLines, DataError, DataSet, Options, Parts
from model.features.behaviour import EARLIEST_MS, LATEST_MS

NAME = "recbole"
TIME_ZONE = "UTC"
LIKED, MOST = 4, 5  # stars

TIME = Type(  # their ranges do not overlap
    pl.Float64(),
    f"seconds ({EARLIEST_MS // 1000} to {LATEST_MS // 1000}) or milliseconds ({EARLIEST_MS} to {LATEST_MS}) since 1970",
    EARLIEST_MS // 1000,
    LATEST_MS,
)
LABEL = Type(pl.Float64(), "0 or 1", 0, 1)
TYPES = {"token": TEXT, "token_seq": TEXT, "float": NUMBER}  # that are read
CATEGORIES = ("category_id", "category", "categories", "cate_id", "genre", "genres", "class", "tags", "type")
KEYS = {"user": "user_id", "item": "item_id"}


def write_tables(raw: Path, out: Path, options: Options) -> DataSet:
    """Writes the tables of the atomic files in `raw`. Raises DataError, MalformedLine, OSError."""
    inter = _inter(raw)
    bad = BadLines(options.skip_bad)
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        parts = Path(folder)
        log, notes = _interactions(inter, bad, parts / "inter")
        items = _entities(inter, "item", log, bad, parts, notes)
        users = _entities(inter, "user", log, bad, parts, notes)
    clicks_alone = "label" not in log.columns
    if clicks_alone:
        log = by_user(log, pl.lit(1)).with_columns(action=pl.lit("click"))
        impressions, alone = one_each(log, log["item_id"].unique().sort(), generator(options.seed))
        if alone:
            notes.append(f"{alone} clicks have no negative: their users took all items")
    else:
        log = by_user(log, pl.len().over("user_id") // 10)
        impressions = log.select("user_id", "item_id", "timestamp", "label", "split")
    if not (log["split"] == TRAIN).any():
        raise DataError(f"{inter}: no user has three clicks, so there is nothing to train on")
    impressions.write_parquet(out / "impressions.parquet")
    log.filter(pl.col("action").is_not_null()).select(
        "user_id",
        "action",
        pl.lit(ITEM).alias("object_type"),
        pl.col("item_id").alias("object_id"),
        "timestamp",
    ).write_parquet(out / "behaviours.parquet")
    _with_categories(items).write_parquet(out / "items.parquet")
    users.write_parquet(out / "users.parquet")
    return DataSet(NAME, TIME_ZONE, bad.count, tuple(notes), drawn_negatives=clicks_alone)


def _inter(raw: Path) -> Path:
    there = files(raw, (".inter", ".inter.gz"))
    if len(there) != 1:
        names = ", ".join(path.name for path in there) or "none"
        raise DataError(f"{raw} holds {names} of *.inter[.gz]; exactly one is allowed{unpack_first(raw)}")
    return there[0]


def _header(file: Path) -> dict[str, str]:
    """The types of the file's columns by their names. Raises DataError for a line that is no header of atomic files."""
    lines = first_lines(file)
    if not lines:
        raise DataError(f"{file} is empty; a first line of name:type is needed, parted by tabs")
    first = lines[0].decode(errors="replace")
    columns = [field.rpartition(":") for field in first.split("\t")]
    known = (*TYPES, "float_seq")
    if not all(name and ":" not in name and type in known for name, _, type in columns):
        needed = f"a first line of name:type is needed, parted by tabs, types being {', '.join(known)}"
        raise DataError(f"{file}: {first[:200]!r} given, {needed}")
    return {name: type for name, _, type in columns}


def _read(file: Path, columns: dict[str, Column], types: dict[str, str], bad: BadLines, folder: Path) -> pl.LazyFrame:
    """The file's `columns` (by plain name)."""
    parts = Parts(folder)
    for chunk in read(
        file, {f"{name}:{types[name]}": column for name, column in columns.items()}, bad, Form((), separator="\t")
    ):
        parts.add(chunk.rename({name: name.rpartition(":")[0] for name in chunk.columns}))
    return parts.scan()


def _interactions(file: Path, bad: BadLines, folder: Path) -> tuple[pl.DataFrame, list[str]]:
    """user_id, item_id, timestamp (ms) and, where the log has other than clicks, label and action; and the notes."""
    types = _header(file)
    needed = {"user_id": ("token", TEXT), "item_id": ("token", TEXT), "timestamp": ("float", TIME)}
    missing = [f"{name}:{type}" for name, (type, _) in needed.items() if types.get(name) != type]
    if missing:
        there = ", ".join(f"{name}:{type}" for name, type in types.items())
        raise DataError(f"{file} has no column {', '.join(missing)}; there are {there}")
    columns = {name: Column(type, required=True) for name, (_, type) in needed.items()}
    signal = next((name for name in ("label", "rating") if types.get(name) == "float"), None)
    if signal:
        columns[signal] = Column(LABEL if signal == "label" else NUMBER, required=True)
    read_log = _read(file, columns, types, bad, folder).collect()
    if read_log.is_empty():
        raise DataError(f"{file} holds no interactions")
    log = read_log.unique(maintain_order=True)
    notes = []
    if len(log) < len(read_log):
        notes.append(f"{len(read_log) - len(log)} interactions repeat an earlier one and were left out")
    log = log.with_columns(timestamp=_milliseconds(file, log["timestamp"], notes))
    tied = log.select((pl.len().over("user_id", "timestamp") > 1).sum()).item()
    if tied > len(log) / 2:
        notes.append(
            f"{tied} of {len(log)} interactions share their time with another of their user: neither sees the other"
        )
    if left_out := [name for name in types if name not in columns]:
        notes.append(f"{file.name}: {', '.join(left_out)} not read")
    if signal:
        log = _labelled(file, log, signal, notes)
    if "label" not in log.columns:
        notes.append("the log holds clicks alone: each has one negative, drawn uniformly")
    return log, notes


def _milliseconds(file: Path, times: pl.Series, notes: list[str]) -> pl.Series:
    in_ms = int((times >= EARLIEST_MS).sum())
    if 0 < in_ms < len(times):
        raise DataError(
            f"{file}: {len(times) - in_ms} times look like seconds and {in_ms} like milliseconds; one unit is allowed"
        )
    notes.append(f"times were taken for {'milliseconds' if in_ms else 'seconds'}, as their size says")
    return (times * (1 if in_ms else 1000)).round().cast(pl.Int64)


def _labelled(file: Path, log: pl.DataFrame, signal: str, notes: list[str]) -> pl.DataFrame:
    """The log with label and action; without them where all its ratings are one and the same."""
    value = log[signal]
    values = value.unique().sort().to_list()
    if signal == "label":
        if not set(values) <= {0, 1}:
            raise DataError(f"{file}: label {next(v for v in values if v not in (0, 1))} given, 0 or 1 is allowed")
        if len(values) == 1:
            raise DataError(f"{file}: every label is {values[0]:g}; both 0 and 1 are needed, or no column label")
        liked, other = value == 1, None
    elif len(values) == 1:
        notes.append(f"every rating is {values[0]:g}, which tells nothing")
        return log.drop(signal)
    elif values == [0, 1]:
        liked, other = value == 1, None
        notes.append("every rating is 0 or 1: 1 is a click")
    elif values[0] < 0 or values[-1] > MOST:
        raise DataError(
            f"{file}: ratings run from {values[0]:g} to {values[-1]:g}, 0 to {MOST} are allowed; for another scale "
            "write a column label:float, 1 for what was liked and 0 else"
        )
    elif values[-1] < LIKED:
        raise DataError(
            f"{file}: no rating is {LIKED} or more, which counts as a click; write a column label:float, 1 for what "
            "was liked and 0 else"
        )
    else:
        liked, other = value >= LIKED, "rate"
        notes.append(f"a rating of {LIKED} or more is a click, any other an impression without one")
    action = pl.when(liked).then(pl.lit("click")).otherwise(pl.lit(other, pl.String))
    return log.drop(signal).with_columns(label=liked.cast(pl.Int8), action=action)


def _entities(inter: Path, kind: str, log: pl.DataFrame, bad: BadLines, parts: Path, notes: list[str]) -> pl.DataFrame:
    """The rows of the file of items or users; without one, the ids of the log."""
    key = KEYS[kind]
    stem = inter.name.removesuffix(".gz").removesuffix(".inter")
    there = [path for path in (inter.with_name(f"{stem}.{kind}{pack}") for pack in ("", ".gz")) if path.is_file()]
    if len(there) > 1:
        raise DataError(f"{inter.parent} holds {' and '.join(path.name for path in there)}; one of them is allowed")
    if not there:
        others = [path.name for path in files(inter.parent, (f".{kind}", f".{kind}.gz"))]
        if others:
            raise DataError(f"{inter.parent} holds {', '.join(others)} and no {stem}.{kind}[.gz]; rename or remove it")
        return log.select(key).unique(maintain_order=True)
    (file,) = there
    types = _header(file)
    if types.get(key) != "token":
        there_are = ", ".join(f"{name}:{type}" for name, type in types.items())
        raise DataError(f"{file} has no column {key}:token; there are {there_are}")
    columns = {name: Column(TYPES[type], required=name == key) for name, type in types.items() if type in TYPES}
    if left_out := [name for name in types if name not in columns]:
        notes.append(f"{file.name}: {', '.join(left_out)} of type float_seq not read")
    table = _read(file, columns, types, bad, parts / kind)
    for name in (name for name in columns if types[name] == "token_seq"):
        tokens = pl.col(name).str.split(" ").list.eval(pl.element().str.strip_suffix(",").filter(pl.element() != ""))
        table = table.with_columns(tokens.alias(name))
    rows = table.collect()
    once = rows.unique(key, keep="first", maintain_order=True)
    if len(once) < len(rows):
        notes.append(f"{file.name}: {len(rows) - len(once)} rows repeat an earlier {key} and were left out")
    notes += coverage(log[key].unique(), once[key], file, f"{kind}s")
    return once.rename(_plain(file, once.columns))


def _plain(file: Path, names: list[str]) -> dict[str, str]:
    """Names of letters, digits and underscores, as a feature table wants them."""
    plain = {name: re.sub(r"\W+", "_", name) for name in names}
    twice = sorted(name for name in names if list(plain.values()).count(plain[name]) > 1)
    if twice:
        raise DataError(f"{file}: columns {', '.join(twice)} differ only in signs; names of their own are needed")
    return plain


def _with_categories(items: pl.DataFrame) -> pl.DataFrame:
    """With category_id (text) and categories (a list), from the columns that are called so or nearly so, else null."""
    texts = pl.List(pl.String)
    named = [name for wanted in CATEGORIES for name in items.columns if name.lower() == wanted]
    one = next((name for name in named if items.schema[name] == pl.String), None)
    several = next((name for name in named if items.schema[name] == texts), None)
    paths = pl.col(several) if several else pl.col(one).cast(texts) if one else pl.lit(None, texts)
    made = {"category_id": pl.col(one) if one else paths.list.first(), "categories": paths}
    return items.with_columns(**made).drop([name for name in (one, several) if name and name not in made])
