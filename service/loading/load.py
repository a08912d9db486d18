"""Users written into the store, many a round trip; what was written is told also where the rest fails."""

import random
import time
from array import array
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import redis
import xxhash
from tqdm import tqdm

from model.features.schema import Schema
from model.textfile import UnreadableFile, numbered_lines
from service.loading.lines import users_of_lines
from service.loading.tables import SLICE_ROWS, Tables
from service.loading.user import BackfillError, Fields, Summary, User
from service.store import clients
from service.store.format import history_key, kinds_key, profile_key, queue_write

BATCH = 50_000  # behaviours and users a round trip: some megabytes of commands, on both sides
SAMPLE = 200  # users whose memory is measured
TIMEOUT_S = 30.0  # of one round trip; a batch takes the store well under a second
AGAIN = "run the command again: what is loaded twice stays as it is"


class Loaded(NamedTuple):
    """What was sent, and how much memory a user takes in the store (None when the store does not say)."""

    users: int
    behaviours: int
    bytes_per_user: float | None
    left_out: tuple[str, ...] = ()  # fields that the feature table does not name
    holes: int = 0  # empty places in lists
    notes: tuple[str, ...] = ()  # what people should know of it


def load_users(
    lines: Iterable[str | bytes],
    url: str,
    *,
    keep: int,
    ttl_s: int,
    shift_ms: int = 0,
    source: str = "line",
    schema: Schema | None = None,
) -> Loaded:
    """Load JSON lines that are in memory into the store at `url`; `shift_ms` is added to every behaviour's time.

    All lines are checked before the first is written; `source` names them in messages. Raises BackfillError for a
    malformed line or a store that fails under way, ValueError for the URL, and redis.RedisError when it never answered.
    """
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    for _ in users_of_lines(numbered, source, Fields(schema)):
        pass
    fields = Fields(schema)
    return _load(users_of_lines(numbered, source, fields, shift_ms), fields, url, keep, ttl_s)


def load_file(path: Path, url: str, *, keep: int, ttl_s: int, schema: Schema | None = None) -> Loaded:
    """As `load_users`, of a file, which is read twice: to check every line, then to load. Raises OSError too."""
    clients.check(url)  # before all lines are, which may take minutes
    if path.exists() and not path.is_file():
        raise BackfillError(f"{path} is no file: a file is needed, since it is read twice, to check and to load")
    source, fields = str(path), Fields(schema)
    try:
        with _bar(path, "checked") as bar:
            for _ in users_of_lines(_counted(path, bar), source, Fields(schema)):
                pass
        with _bar(path, "loaded") as bar:
            return _load(users_of_lines(_counted(path, bar), source, fields), fields, url, keep, ttl_s)
    except UnreadableFile as error:
        raise BackfillError(str(error)) from None


def load_tables(
    data: Path, url: str, *, keep: int, ttl_s: int, slice_rows: int = SLICE_ROWS, schema: Schema | None = None
) -> Loaded:
    """Load a prepared data set's tables into the store at `url`, `slice_rows` rows in memory at a time.

    Fields and ids are those of `schema`, by default of the data set's features.toml. Raises as `load_users`.
    """
    tables = Tables(data, schema)
    return load_opened(tables, url, keep=keep, ttl_s=ttl_s, slice_rows=slice_rows)


def load_opened(
    tables: Tables, url: str, *, keep: int, ttl_s: int, slice_rows: int = SLICE_ROWS, shift_ms: int = 0
) -> Loaded:
    return _load(tables.users(keep, slice_rows, shift_ms), tables.fields, url, keep, ttl_s)


def _bar(path: Path, done: str) -> "tqdm[Any]":
    return tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=done)


def _counted(path: Path, bar: "tqdm[Any]") -> Iterator[tuple[int, bytes]]:
    users = 0
    for number, line in numbered_lines(path, bar.update):
        users += 1
        bar.set_postfix_str(f"{users} users", refresh=False)
        yield number, line


def _load(users: Generator[User, None, None], fields: Fields, url: str, keep: int, ttl_s: int) -> Loaded:
    ids = array("Q")  # hashes of the users' ids, since a file may name one several times
    sent_behaviours = queued = written = 0
    sample: list[str] = []
    chance = random.Random(0)
    summary = Summary(fields.schema, time.time_ns() // 1_000_000)
    with closing(users), clients.opened_sync(url, TIMEOUT_S) as store:
        pipeline = store.pipeline(transaction=False)
        try:
            for user in users:
                try:
                    sent = queue_write(pipeline, user.user_id, user.behaviours, user.profile, keep=keep, ttl_s=ttl_s)
                except ValueError as error:
                    raise BackfillError(f"{user.where}: {error}") from None
                summary.add(set(user.behaviours))
                ids.append(xxhash.xxh3_64_intdigest(user.user_id.encode()))
                sent_behaviours += sent
                queued += 1 + sent
                if queued >= BATCH:
                    pipeline.execute()
                    queued, written = 0, len(ids)
                if len(sample) < SAMPLE:
                    sample.append(user.user_id)
                elif (place := chance.randrange(len(ids))) < SAMPLE:
                    sample[place] = user.user_id
            pipeline.execute()
        except (redis.RedisError, BackfillError) as error:
            if not written:
                raise
            raise BackfillError(f"{error}; about {written} users are loaded, the rest is not: {AGAIN}") from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"about {written} users are loaded; to go on, {AGAIN}") from None
        return Loaded(
            len(np.unique(np.frombuffer(ids, np.uint64))) if ids else 0,
            sent_behaviours,
            _bytes_per_user(store, sample),
            tuple(sorted(fields.left_out)),
            fields.holes.total(),
            tuple(summary.notes(fields)),
        )


def _bytes_per_user(store: redis.Redis, user_ids: list[str]) -> float | None:
    pipeline = store.pipeline(transaction=False)
    try:
        for user_id in user_ids:
            pipeline.zrange(kinds_key(user_id), 0, -1)
        for user_id, kinds in zip(user_ids, pipeline.execute(), strict=True):
            histories = [history_key(user_id, kind.decode()) for kind in kinds]
            for key in (profile_key(user_id), kinds_key(user_id), *histories):
                pipeline.memory_usage(key, samples=0)
        sizes = pipeline.execute()
    except redis.ResponseError:  # some hosted stores do not allow it, and the load itself went well
        return None
    return round(sum(size or 0 for size in sizes) / len(user_ids), 1) if user_ids else None
