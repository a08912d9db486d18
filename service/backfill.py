"""Load users, their profiles and histories, into the store.

    python -m service.backfill --data DIR          a prepared data set: DIR/tables/{users,behaviours}.parquet
    python -m service.backfill --users FILE        JSON lines, a user a line:

    {"user_id": "u1", "user": {"age": 30, "tags": ["a", "b"]}, "behaviours": [["click", "item", "i1", 1511544070000]]}

`user` and `behaviours` may be missing, lines may be blank, the file may be gzip. The file is read twice: every line is
checked before the first user is written. Of tables the fields that the data set's features.toml names are loaded; of
lines all, unless --bundle names the model that they are for. Loading again changes nothing but the TTL, so after a
failure start over. Of each action on each type of object the newest `keep` behaviours of a user stay. The last line of
the output is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from model import command
from model.bundle.layout import located
from model.features import schema as features_toml
from service.loading.load import Loaded, load_file, load_tables, load_users
from service.loading.user import BackfillError
from service.settings import MOST_KEPT, SettingsError, load_settings

__all__ = ["BackfillError", "Loaded", "load_tables", "load_users", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"backfill: {error}", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="python -m service.backfill", description="Load users into the store.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="DIR", help="prepared data set: DIR/tables/*.parquet")
    source.add_argument("--users", type=Path, metavar="FILE", help="JSON lines, a user a line; plain or gzip")
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="whose features.toml says what is loaded and which types ids have"
    )
    parser.add_argument("--url", default=settings.redis_url, help="the store; default: RANKER_REDIS_URL")
    parser.add_argument("--keep", type=_kept, default=settings.history_keep, help="newest behaviours of each kind")
    parser.add_argument("--ttl-s", type=_positive, default=settings.history_ttl_s, help="seconds until forgotten")
    options = parser.parse_args(argv)
    if options.url is None:
        parser.error("no store to load into: give --url or set RANKER_REDIS_URL")

    started = time.monotonic()
    try:
        schema = features_toml.load(located(options.bundle)[0] / "features.toml") if options.bundle else None
        limits = {"keep": options.keep, "ttl_s": options.ttl_s, "schema": schema}
        loaded = (
            load_tables(options.data, options.url, **limits)
            if options.data
            else load_file(options.users, options.url, **limits)
        )
    except (BackfillError, ValueError, OSError, redis.RedisError) as error:
        print(f"backfill: {command.words(error)}", file=sys.stderr)
        return 1
    notes = list(loaded.notes)
    if options.users and schema is None:
        notes.append("no --bundle given: every field is loaded, and ids stay as they are written (007 is not 7)")
    if not loaded.users:
        notes.append(f"{options.users or options.data} holds no users: nothing is loaded")
    for note in notes:
        print(f"backfill: {note}", file=sys.stderr)
    figures = {name: value for name, value in loaded._asdict().items() if name != "notes"}
    print(json.dumps({**figures, "seconds": round(time.monotonic() - started, 3)}))
    return 0


def _kept(text: str) -> int:
    if (number := _positive(text)) > MOST_KEPT:
        raise argparse.ArgumentTypeError(f"{number} given, an integer from 1 to {MOST_KEPT} is allowed")
    return number


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, an integer of at least 1 is allowed")
    return number


if __name__ == "__main__":
    command.run(main, "backfill")
