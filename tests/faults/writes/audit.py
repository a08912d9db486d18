"""What was acknowledged is sought in the store and in the drained log, and what is there is sought in the accounts."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import orjson
import polars as pl

from tests.faults.held import Held
from tests.faults.store.server import RealStore
from tests.faults.writes.account import Account, Profile
from tests.judge import kept
from tests.judge.ledger import Told


def audit_store(held: Held, accounts: Sequence[Account], store: RealStore, prefix: str) -> None:
    """`prefix` is that of all these users' ids, and of no others'."""
    keys = defaultdict[str, list[str]](list)
    for key in store.admin.scan_iter(f"{{u:{prefix}*", count=10_000):
        user, _, kind = key.decode().removeprefix("{u:").partition("}:")
        keys[user].append(kind)
    for account in accounts:
        there = keys.pop(account.user_id, [])
        profile = _profile(store, account.user_id) if "profile:1" in there else {}
        clicks = kept.stored_clicks(store.admin, account.user_id)
        _clicks(held, account, clicks)
        if account.is_forgotten and not account.sent and not account.passed and account.profiles == [{}]:
            _wrong(held, f"{account.user_id} is forgotten and has {there}" if there else None)
        elif profile not in account.profiles:
            told = f"{account.user_id}: the store has the profile {profile}, allowed are {account.profiles}"
            _lost(held, [told] if profile in account.replaced or not profile else [])
            _wrong(held, None if profile in account.replaced or not profile else told)
    _wrong(held, f"keys of users nobody wrote of: {sorted(keys)[:3]}" if keys else None)


def audit_log(held: Held, accounts: Sequence[Account], log: Path, prefix: str) -> None:
    frames = {table: _of(kept.records(log, table), prefix) for table in ("events", "users", "forgotten")}
    for table, frame in frames.items():
        doubled = len(frame) - len(frame.unique())
        _wrong(held, f"{doubled} rows of {table} are there twice" if doubled else None)
    columns = frames["events"].select("event", "user_id", "object_id", "timestamp", "request_id").iter_rows()
    events, profiles = defaultdict[str, set[Told]](set), defaultdict[str, list[Profile]](list)
    for told in map(Told._make, columns):
        events[told.user_id].add(told)
    for user_id, profile in frames["users"].drop_nulls("profile").select("user_id", "profile").iter_rows():
        profiles[user_id].append(orjson.loads(profile))
    tombstones = set(frames["forgotten"]["user_id"])
    for account in accounts:
        name, there = account.user_id, events.pop(account.user_id, set())
        _events(held, account, there)
        if not account.deleting:
            _lost(held, [f"{name}: the log lacks {one}" for one in account.confirmed if one not in profiles[name]])
        if account.is_forgotten and name not in tombstones:
            _lost(held, [f"{name}: the log does not say that it is forgotten"])
    _wrong(held, f"events of users nobody wrote of: {sorted(events)[:3]}" if events else None)


def _clicks(held: Held, account: Account, there: set[tuple[str, int]]) -> None:
    sure = account.behaviours_of(account.acknowledged)
    missing = sure - there
    if account.deleting:  # all of it or nothing
        half = missing and missing != sure
        _wrong(held, f"{account.user_id}: a DELETE left {len(sure) - len(missing)} of {len(sure)}" if half else None)
    else:
        _lost(held, [f"{account.user_id}: the store lacks {one}" for one in missing])
    strange = there - account.behaviours_of(account.sent | account.passed)
    back = strange & account.behaviours_of(account.forgotten)
    _wrong(held, f"{account.user_id}: {len(back)} forgotten clicks are in the store" if back else None)
    _wrong(held, f"{account.user_id}: {len(strange - back)} clicks that nobody told" if strange - back else None)


def _events(held: Held, account: Account, there: set[Told]) -> None:
    sure = account.acknowledged - account.unlogged
    missing = sure - there
    if account.deleting:
        half = missing and missing != sure
        _wrong(held, f"{account.user_id}: a DELETE left a half of the log" if half else None)
    else:
        _lost(held, [f"the log lacks {told}" for told in missing])
    strange = there - account.sent - account.passed
    _wrong(held, f"{account.user_id}: {len(strange)} events forgotten or never told, in the log" if strange else None)


def _of(frame: pl.DataFrame, prefix: str) -> pl.DataFrame:
    return frame.filter(pl.col("user_id").str.starts_with(prefix))


def _profile(store: RealStore, user_id: str) -> Profile:
    fields = store.admin.hgetall(f"{{u:{user_id}}}:profile:1")
    return {name.decode(): value.decode() for name, value in fields.items()}  # type: ignore[union-attr]


def _lost(held: Held, told: Sequence[str]) -> None:
    held.lost_writes += len(told)
    for one in told:
        held.quote(f"LOST: {one}")


def _wrong(held: Held, told: str | None) -> None:
    if told is not None:
        held.wrong += 1
        held.quote(told)
