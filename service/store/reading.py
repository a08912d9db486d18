"""One user's commands in a pipeline of reads, and what the replies say: version 2 of the format, beside version 1.

A command for the profile's fields, one a kind of behaviours, one for version 1, one for impressions where they are
counted; a replay's one more, for the index, and one for impressions of before.
"""

from collections.abc import Sequence
from typing import Any

from model.features.behaviour import Behaviour, Behaviours
from model.features.wanted import View, Wanted
from service.settings import MOST_KEPT
from service.store import format1
from service.store.format import (
    CUT_BEFORE,
    Pipeline,
    history_key,
    kinds_key,
    moment,
    profile_key,
    shown_key,
    unpack,
)
from service.store.history import Asked, Stored

# Behaviours read beyond the newest `most`: of those that share the last one's millisecond the encoder chooses.
TIED = 8
ALL = 2 * MOST_KEPT


class Unfinished:
    """An outcome: what was read ends amid one millisecond, or behind members that are none. All is to be read."""


class Reading:
    """How users are read for one model."""

    def __init__(self, wanted: Wanted, keep: int):
        self._fields = wanted.fields
        self._kinds = [(one, f"{one.action}|{one.object_type}") for one in wanted.behaviours]
        most = {one.object_type: one.most for one in wanted.behaviours}
        of_type = {type: tuple(o.action for o in wanted.behaviours if o.object_type == type) for type in most}
        self._views = [*(View(type, actions, most[type]) for type, actions in of_type.items()), *wanted.apart]
        self._keep_1 = min(keep, format1.KEPT)
        self._impressions = wanted.impressions

    def queue(self, pipeline: Pipeline, asked: Asked, *, whole: bool = False) -> int:
        """Queues a user's commands, and gives their number. `whole`: all that is kept, however little is wanted."""
        user_id, before, _ = asked
        if self._fields:
            pipeline.execute_command("HMGET", profile_key(user_id), *self._fields)
        for one, kind in self._kinds:
            key, count = history_key(user_id, kind), ALL if whole else one.most + TIED
            if before is None:
                pipeline.execute_command("ZRANGE", key, 0, count - 1, "REV")
            else:
                edge = f"({moment(before)}"  # before all members of that millisecond
                pipeline.execute_command("ZRANGE", key, edge, "-", "BYLEX", "REV", "LIMIT", 0, count)
        if self._kinds:
            pipeline.execute_command("ZRANGE", format1.history_key(user_id), 0, MOST_KEPT - 1, "REV")
            if before is not None:
                pipeline.execute_command("ZMSCORE", kinds_key(user_id), CUT_BEFORE, *(kind for _, kind in self._kinds))
        own = bool(self._fields) + len(self._kinds) + bool(self._kinds) * (1 if before is None else 2)
        return own + self._queue_shown(pipeline, asked)

    def _queue_shown(self, pipeline: Pipeline, asked: Asked) -> int:
        """Queues what counts the impressions of the day, and gives the number of commands."""
        user_id, before, today = asked
        if today is None:
            return 0
        key, until = shown_key(user_id), "+" if before is None else f"({moment(before)}"
        pipeline.execute_command("ZLEXCOUNT", key, f"[{moment(today)}", until)
        if before is None:
            return 1
        pipeline.execute_command("ZLEXCOUNT", key, "-", f"({moment(today)}")
        return 2

    def stored(self, replies: Sequence[Any], asked: Asked, *, whole: bool = False) -> Stored | Unfinished:
        """What a user's replies say."""
        if asked.today is not None:
            own = len(replies) - (1 if asked.before is None else 2)
            shown, *earlier = replies[own:]
            others = self.stored(replies[:own], asked._replace(today=None), whole=whole)
            if isinstance(others, Unfinished):
                return others
            # What was cut was older than all that is held, so something of before that day says that all of it is.
            all_held = not earlier or shown >= self._impressions or earlier[0] > 0
            return others._replace(shown_today=shown, complete=others.complete and all_held)
        profile = _profile(self._fields, replies[0]) if self._fields else {}
        lists = replies[bool(self._fields) :]
        actions: list[str] = []
        types: list[str] = []
        ids: list[str] = []
        times: list[int] = []
        skipped = 0
        for (one, _), members in zip(self._kinds, lists, strict=False):
            if members:
                more, broken = _newest(ids, times, members, one.most, asked.before)
                if more and not whole:
                    return Unfinished()
                skipped += broken
                actions += [one.action] * (len(ids) - len(actions))
                types += [one.object_type] * (len(ids) - len(types))
        for column in (actions, types, ids, times):
            column.reverse()
        behaviours = Behaviours(actions, types, ids, times)
        if len(self._kinds) > 1:
            behaviours = behaviours.taken(
                sorted(range(len(times)), key=list(zip(times, actions, strict=True)).__getitem__)
            )
        old = lists[len(self._kinds)] if self._kinds else ()
        oldest_1 = None
        if old:
            behaviours, skipped, oldest_1 = self._joined(behaviours, skipped, old, asked.before)
        if asked.before is None or not self._kinds:
            return Stored(profile, behaviours, skipped)
        return Stored(profile, behaviours, skipped, self._complete(behaviours, lists[-1], oldest_1))

    def _joined(
        self, behaviours: Behaviours, skipped: int, members: Sequence[bytes], before: int | None
    ) -> tuple[Behaviours, int, int | None]:
        """With what version 1 holds, each once; and up to when that may have been cut (ms)."""
        kinds = {(one.action, one.object_type) for one, _ in self._kinds}
        both, oldest = set(behaviours), None
        for member in members:
            try:
                behaviour = format1.unpack(member)
            except ValueError:
                skipped += 1
                continue
            oldest = behaviour.timestamp if oldest is None else min(oldest, behaviour.timestamp)
            if before is not None and behaviour.timestamp >= before:
                continue
            if behaviour[:2] in kinds:
                both.add(behaviour)
        ordered = sorted(both, key=lambda b: (b.timestamp, b))
        return Behaviours.of(ordered), skipped, oldest if len(members) >= self._keep_1 else None

    def _complete(self, behaviours: Sequence[Behaviour], cuts: Sequence[bytes | None], oldest_1: int | None) -> bool:
        """Whether nothing that was cut could be among the newest that the model reads.

        Of whatever is looked at together so many were found that the last of them is newer than all that was cut of its
        kinds; or nothing was cut.
        """
        for_all, *of_kinds = (0 if cut is None else int(float(cut)) for cut in cuts)
        cut_before = dict(zip(((one.object_type, one.action) for one, _ in self._kinds), of_kinds, strict=True))
        for object_type, actions, most in self._views:
            newest_cut = max(for_all, oldest_1 or 0, *(cut_before[object_type, action] for action in actions))
            if not newest_cut:
                continue
            times = [b.timestamp for b in behaviours if b.object_type == object_type and b.action in actions]
            if len(times) < most or times[-most] <= newest_cut:
                return False
        return True


def _newest(
    ids: list[str], times: list[int], members: Sequence[bytes], most: int, before: int | None
) -> tuple[bool, int]:
    """Adds the newest `most` of the members, and those of the last one's millisecond, newest first.

    Gives whether more of these may lie beyond the members, and how many of them are no behaviours.
    """
    count, last, skipped = 0, -1, 0
    for member in members:
        try:
            object_id, timestamp = unpack(member)
        except ValueError:
            skipped += 1
            continue
        if count >= most and timestamp != last:
            return False, skipped
        if before is not None and timestamp >= before:
            skipped += 1  # a wrong score must not show a replay its future
            continue
        ids.append(object_id)
        times.append(timestamp)
        count, last = count + 1, timestamp
    return len(members) >= most + TIED, skipped


def _profile(fields: Sequence[str], values: Sequence[bytes | None]) -> dict[str, str]:
    return {
        name: value.decode(errors="replace") for name, value in zip(fields, values, strict=True) if value is not None
    }
