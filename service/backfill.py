"""Load users, their profiles and histories, into the store.

    python -m service.backfill --data DIR          a prepared data set: DIR/tables/{users,behaviours}.parquet
    python -m service.backfill --users FILE        JSON lines, a user a line:

    {"user_id": "u1", "user": {"age": 30, "tags": ["a", "b"]}, "behaviours": [["click", "item", "i1", 1511544070000]]}

`user` and `behaviours` may be missing. A line is malformed when it is anything else; the first such line stops the
load, and what stood before it may be loaded already. Loading again changes nothing but the TTL, so after a failure
start over; the newest `keep` behaviours of a user are sent and stay. The last line of the output is JSON: users,
behaviours (as sent), seconds, bytes_per_user (the store's own MEMORY USAGE of both keys, mean over a sample).
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from model.features.behaviour import Behaviour
from model.features.ids import BadValue
from model.features.kinds import to_text
from service.settings import SettingsError, load_settings
from service.store.format import history_key, profile_key, queue_write
from service.store.redis import address

if TYPE_CHECKING:
    import polars

BATCH = 50_000  # behaviours and users a round trip: some megabytes of commands, on both sides
SLICE_ROWS = 1_000_000  # rows of the tables in memory at once, about half a gigabyte
SAMPLE = 200  # users whose memory is measured
TIMEOUT_S = 30.0  # of one round trip; a batch takes the store well under a second


class BackfillError(Exception):
    """Users that cannot be loaded; the message says where (file and line) and why."""


class Loaded(NamedTuple):
    """What was sent, and how much memory a user takes in the store (None when the store does not say)."""

    users: int
    behaviours: int
    bytes_per_user: float | None


class _User(NamedTuple):
    where: str
    user_id: str
    profile: dict[str, str]
    behaviours: list[Behaviour]


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    user_id: str | int
    user: dict[str, Any] = {}
    behaviours: list[tuple[str, str, str | int, int]] = []


def load_users(
    lines: Iterable[str | bytes], url: str, *, keep: int, ttl_s: int, shift_ms: int = 0, source: str = "line"
) -> Loaded:
    """Load JSON lines into the store at `url`; `shift_ms` is added to every behaviour's time.

    `source` names the lines in messages. Raises BackfillError for a malformed line, ValueError for the URL, and
    redis.RedisError when the store fails.
    """
    return _load(_users_of_lines(lines, source, shift_ms), url, keep, ttl_s)


def load_tables(data: Path, url: str, *, keep: int, ttl_s: int, slice_rows: int = SLICE_ROWS) -> Loaded:
    """Load a prepared data set's tables into the store at `url`, `slice_rows` rows in memory at a time.

    Raises BackfillError for tables that cannot be loaded, ValueError for the URL, and redis.RedisError when the store
    fails.
    """
    return _load(_users_of_tables(data / "tables", keep, slice_rows), url, keep, ttl_s)


def _load(users: Iterator[_User], url: str, keep: int, ttl_s: int) -> Loaded:
    sent_users = sent_behaviours = queued = 0
    sample: list[str] = []
    chance = random.Random(0)
    address(url)
    with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S) as store:
        pipeline = store.pipeline(transaction=False)
        for user in users:
            newest = sorted(set(user.behaviours), key=lambda b: (b.timestamp, b))[-keep:]
            try:
                queue_write(pipeline, user.user_id, newest, user.profile, keep=keep, ttl_s=ttl_s)
            except ValueError as error:
                raise BackfillError(f"{user.where}: {error}") from None
            sent_users += 1
            sent_behaviours += len(newest)
            queued += 1 + len(newest)
            if queued >= BATCH:
                pipeline.execute()
                queued = 0
            if len(sample) < SAMPLE:
                sample.append(user.user_id)
            elif (place := chance.randrange(sent_users)) < SAMPLE:
                sample[place] = user.user_id
        pipeline.execute()
        return Loaded(sent_users, sent_behaviours, _bytes_per_user(store, sample))


def _bytes_per_user(store: redis.Redis, user_ids: list[str]) -> float | None:
    pipeline = store.pipeline(transaction=False)
    for user_id in user_ids:
        for key in (profile_key(user_id), history_key(user_id)):
            pipeline.memory_usage(key, samples=0)
    try:
        sizes = pipeline.execute()
    except redis.ResponseError:  # some hosted stores do not allow it, and the load itself went well
        return None
    return round(sum(size or 0 for size in sizes) / len(user_ids), 1) if user_ids else None


def _users_of_lines(lines: Iterable[str | bytes], source: str, shift_ms: int) -> Iterator[_User]:
    for number, text in enumerate(lines, 1):
        where = f"{source}:{number}"
        try:
            line = _Line.model_validate_json(text)
        except ValidationError as error:
            problem = error.errors()[0]
            at = ".".join(str(part) for part in problem["loc"])
            raise BackfillError(f"{where}: {at}{': ' if at else ''}{problem['msg']}") from None
        behaviours = [Behaviour(a, kind, str(what), when + shift_ms) for a, kind, what, when in line.behaviours]
        yield _User(where, str(line.user_id), _profile(line.user, where), behaviours)


def _users_of_tables(tables: Path, keep: int, slice_rows: int) -> Iterator[_User]:
    try:
        import polars as pl
    except ImportError:
        raise BackfillError("reading tables needs polars: pip install 'bst-ranker[tables]'") from None

    behaviours_at, users_at = tables / "behaviours.parquet", tables / "users.parquet"
    all_behaviours = _scan(
        behaviours_at, texts=["user_id", "action", "object_type", "object_id"], integers=["timestamp"]
    )
    all_behaviours = all_behaviours.select("user_id", *Behaviour._fields)
    all_users = _scan(users_at, texts=["user_id"], integers=[])
    features = [name for name in all_users.collect_schema() if name != "user_id"]
    profile = pl.struct(features) if features else pl.lit(None)
    all_users = all_users.select("user_id", profile.alias("profile"))

    rows, user_rows = (table.select(pl.len()).collect().item() for table in (all_behaviours, all_users))
    slices = 1 + (rows + user_rows) // slice_rows
    with tqdm(total=rows, unit=" behaviours", unit_scale=True) as bar:
        for number in range(slices):
            # A slice has all rows of its users, or their newest could not be told. To find them the files are read once
            # a slice, which is cheaper than sorting them outside memory.
            in_slice = pl.col("user_id").hash(0) % slices == number
            behaviours = all_behaviours.filter(in_slice).collect(engine="streaming")
            if behaviours.null_count().sum_horizontal().item():
                raise BackfillError(f"{behaviours_at}: a behaviour without user, action, object or time")
            histories = (
                behaviours.group_by("user_id", *Behaviour._fields)
                .len("rows")
                .sort("timestamp", "action", "object_type", "object_id")
                .group_by("user_id", maintain_order=True)
                .agg(pl.sum("rows"), pl.col(Behaviour._fields).tail(keep))
            )
            users = all_users.filter(in_slice).collect(engine="streaming")
            if users["user_id"].null_count():
                raise BackfillError(f"{users_at}: a row without user_id")
            for user_id, values, count, *columns in users.join(
                histories, on="user_id", how="full", coalesce=True
            ).iter_rows():
                newest = list(map(Behaviour, *columns)) if count else []
                yield _User(str(behaviours_at), user_id, _profile(values or {}, str(users_at)), newest)
                bar.update(count or 0)


def _scan(path: Path, texts: list[str], integers: list[str]) -> "polars.LazyFrame":
    """A table as it is read, the columns `texts` as text. Raises BackfillError when a column has another type."""
    import polars as pl

    try:
        table = pl.scan_parquet(path)
        types = table.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BackfillError(f"{path}: {error}") from None
    for name in texts + integers:
        kind = types.get(name)
        if kind is None:
            raise BackfillError(f"{path}: no column {name}, only {', '.join(types)}")
        if not kind.is_integer() and not (name in texts and kind in (pl.String, pl.Categorical, pl.Enum)):
            raise BackfillError(f"{path}: column {name} is {kind}, {'text or ' * (name in texts)}integers are allowed")
    return table.with_columns(pl.col(texts).cast(pl.String))


def _profile(values: Mapping[str, Any], where: str) -> dict[str, str]:
    present = {name: value for name, value in values.items() if value is not None and value == value}  # NaN is no value
    texts = {}
    for name, value in present.items():
        try:
            texts[name] = to_text(value)
        except BadValue as error:
            raise BackfillError(f"{where}: {name}: {error}") from None
    return texts


def main() -> None:
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.exit(str(error))
    parser = argparse.ArgumentParser(prog="python -m service.backfill", description="Load users into the store.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="prepared data set: DIR/tables/*.parquet")
    source.add_argument("--users", type=Path, metavar="FILE", help="JSON lines, a user a line")
    parser.add_argument("--url", default=settings.redis_url, help="the store; default: RANKER_REDIS_URL")
    parser.add_argument("--keep", type=_positive, default=settings.history_keep, help="newest behaviours of a user")
    parser.add_argument("--ttl-s", type=_positive, default=settings.history_ttl_s, help="seconds until forgotten")
    options = parser.parse_args()
    if options.url is None:
        parser.error("no store to load into: give --url or set RANKER_REDIS_URL")

    started = time.monotonic()
    try:
        if options.data:
            loaded = load_tables(options.data, options.url, keep=options.keep, ttl_s=options.ttl_s)
        else:
            with (
                options.users.open("rb") as file,
                tqdm(total=options.users.stat().st_size, unit="B", unit_scale=True) as bar,
            ):
                lines = _counted(file, bar)
                source_name = str(options.users)
                loaded = load_users(lines, options.url, keep=options.keep, ttl_s=options.ttl_s, source=source_name)
    except (BackfillError, ValueError, OSError, redis.RedisError) as error:
        sys.exit(f"backfill: {error}")
    print(json.dumps({**loaded._asdict(), "seconds": round(time.monotonic() - started, 3)}))


def _counted(lines: Iterable[bytes], bar: "tqdm[Any]") -> Iterator[bytes]:
    for line in lines:
        yield line
        bar.update(len(line))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} given, at least 1 is allowed")
    return number


if __name__ == "__main__":
    main()
