"""Events on their way: all into the store by one round trip, then into the journal, and only then acknowledged."""

import time
from collections.abc import Container, Sequence
from typing import NamedTuple

from model.servicelog.records import Event
from service.feedback.judging import Judged
from service.journal.journal import Journal
from service.store.history import History, StoreUnavailable, Write


class Taken(NamedTuple):
    """Of each event None, or why it could not be written."""

    failures: list[StoreUnavailable | None]


async def take(
    events: Sequence[Judged], history: History, journal: Journal, timeout_s: float, counted: Container[str] = ()
) -> Taken:
    """Writes them within `timeout_s`. Raises StoreUnavailable where none could be written, JournalFull.

    `counted`: types of object whose impressions the store counts. What was written before it raised stays: sent again,
    it is the same.
    """
    received_us = time.time_ns() // 1000
    of_user: dict[str, list[Judged]] = {}
    for event in events:
        if event.is_stored(counted):
            of_user.setdefault(event.user_id, []).append(event)
    writes = [_write(user, theirs) for user, theirs in of_user.items()]
    outcomes = await history.write_many(writes, timeout_s) if writes else []
    wrong = {write.user_id: outcome for write, outcome in zip(writes, outcomes, strict=True) if outcome is not None}
    stored_us = time.time_ns() // 1000
    failures = [wrong.get(event.user_id) if event.is_stored(counted) else None for event in events]
    kept = dict.fromkeys(event for event, failure in zip(events, failures, strict=True) if failure is None)
    await journal.append([_record(event, received_us, stored_us) for event in kept])
    return Taken(failures)


def _write(user_id: str, events: Sequence[Judged]) -> Write:
    done = [event.behaviour for event in events if event.is_behaviour]
    return Write(user_id, done, {}, [event.behaviour for event in events if not event.is_behaviour])


def _record(event: Judged, received_us: int, stored_us: int) -> Event:
    action, object_type, object_id, timestamp = event.behaviour
    told = event.request_id, event.watch_ms
    return Event(action, event.user_id, object_type, object_id, timestamp, *told, received_us, stored_us)
