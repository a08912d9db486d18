"""Histories that were read in the last seconds, for when the store fails; never asked while it answers."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from model.features.wanted import Wanted
from service.store.history import CACHED, Asked, Stored


class Recent:
    """What live requests read of the newest `users`, at most `age_s` seconds ago. Either being 0 turns it off.

    Keeping is a reference, a place at the end and at most two goodbyes at the front: memory is freed bit by bit, for a
    thousand histories at once would hold up all that wait. `clock` is monotonic, in seconds.
    """

    def __init__(self, users: int, age_s: float, clock: Callable[[], float] = time.monotonic):
        self.on = users > 0 and age_s > 0
        self._users, self._age_s, self._clock = users, age_s, clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # the longest unread first
        self._written_s: OrderedDict[str, float] = OrderedDict()  # when, of the newest `users`

    def keep(
        self, user_id: str, wanted: Wanted, stored: Stored, asked_s: float = math.inf, today: int | None = None
    ) -> None:
        """Remembers what a live request read: a replay saw the past, which no live request may take for the present.

        `asked_s`: when the store was asked, by the clock; a read that a write has overtaken is not remembered.
        `today`: as in Asked.
        """
        if self._written_s.get(user_id, -math.inf) >= asked_s:
            return
        now, entries = self._clock(), self._entries
        entries[user_id] = _Entry(now, wanted, stored, today)
        entries.move_to_end(user_id)
        if len(entries) > self._users:
            entries.popitem(last=False)
        first = next(iter(entries))
        if now - entries[first].read_at > self._age_s:
            del entries[first]

    def drop(self, user_id: str) -> None:
        """The user was written: what is remembered is no longer so, nor what reads under way will bring."""
        if not self.on:
            return
        self._entries.pop(user_id, None)
        self._written_s[user_id] = self._clock()
        self._written_s.move_to_end(user_id)
        if len(self._written_s) > self._users:
            self._written_s.popitem(last=False)

    def find(self, asked: Asked, wanted: Wanted) -> Stored | None:
        """What a user was read with, `missing` saying that it is remembered; None where that is not known.

        A replay gets what of it happened before. What is cut off there made room for nothing older: `complete` says so.
        """
        entry = self._entries.get(asked.user_id)
        if entry is None:
            return None
        stored = entry.stored
        if self._clock() - entry.read_at > self._age_s or not covers(entry.wanted, wanted):
            return None
        if asked.before is not None or asked.today != entry.today:  # of that day, or part of it, nobody has counted
            stored = stored._replace(shown_today=-1)
        if asked.before is None:
            return stored._replace(missing=CACHED)
        earlier = [behaviour for behaviour in stored.behaviours if behaviour.timestamp < asked.before]
        complete = stored.complete and len(earlier) == len(stored.behaviours)
        return stored._replace(behaviours=earlier, complete=complete, missing=CACHED)


class _Entry(NamedTuple):
    read_at: float
    wanted: Wanted
    stored: Stored
    today: int | None


def covers(had: Wanted, wanted: Wanted) -> bool:
    """Whether what was read for one model holds all that another reads."""
    if had == wanted:
        return True
    most = {(kind.action, kind.object_type): kind.most for kind in had.behaviours}
    enough = all(most.get((kind.action, kind.object_type), 0) >= kind.most for kind in wanted.behaviours)
    return enough and set(wanted.fields) <= set(had.fields) and set(wanted.apart) <= set(had.apart)
