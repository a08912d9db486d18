"""How many impressions of its day a request must have found in the store, rebuilt from the events that confirmed them.

As with behaviours, what was being stored just then may have been counted or not. On the first day of which a user's
requests tell, impressions may lie before the log, or events before the store counted any: the first request then says
how many these are, and those after it are held to that.
"""

from collections.abc import Sequence

from model.servicelog.records import Event, Forgotten, Impression

KEPT_MS = 3 * 86_400_000  # that the store holds them, at the least

Member = tuple[int, str]  # time, item


class ShownToday:
    """One user's; `at` is asked in the order of `read_us`.

    `records`: impression events and what forgot the user, in the order of `stored_us`. `keep`: what the store keeps;
    `retried_us`: it may hold an event so long before it was acknowledged.
    """

    def __init__(self, records: Sequence[Event | Forgotten], keep: int, skew_us: int, retried_us: int):
        self._records, self._keep, self._skew_us, self._retried_us = records, keep, skew_us, retried_us
        self._next = 0
        self._held: set[tuple[str, Member]] = set()  # type of object, and what it was
        self._known = False  # all since the user was forgotten
        self._first: int | None = None  # the day (its begin, ms) of which not all is known
        self._others = 0  # impressions of it of which no event tells, or events that were not counted

    def uncounted(self) -> None:
        """A model answers that counts none: what is shown meanwhile may not be counted."""
        self._known, self._first = False, None

    def at(self, request: Impression, object_type: str, begun: int) -> int | None:
        """The impressions since `begun`: as the log has them, where that may be; None: the log cannot tell."""
        sure, maybe = self._held_by(request.read_us, object_type)
        until = request.now if request.replay else max([begun, *(at for at, _ in sure | maybe)]) + 1
        if request.replay and (len(sure | maybe) > self._keep or any(at - begun > KEPT_MS for at, _ in sure | maybe)):
            return None
        least, most = (sum(begun <= at < until for at, _ in some) for some in (sure, sure | maybe))
        used = request.shown_today
        if self._first is None:
            self._first = begun
            self._others = 0 if self._known else used - min(max(used, least), most)
        if begun == self._first:
            least, most = least + self._others, most + self._others
        return min(max(used, least), most) if most <= self._keep else min(max(used, min(least, self._keep)), self._keep)

    def _held_by(self, read_us: int, object_type: str) -> tuple[set[Member], set[Member]]:
        """What was surely stored by then, and what may have been."""
        while self._next < len(self._records) and self._records[self._next].stored_us <= read_us - self._skew_us:
            record = self._records[self._next]
            self._next += 1
            if isinstance(record, Forgotten):
                self._held, self._known, self._first = set(), True, None
            else:
                self._held.add((record.object_type, (record.timestamp, record.object_id)))
        maybe = set()
        for record in self._records[self._next :]:
            if record.stored_us > read_us + self._retried_us:
                break
            if isinstance(record, Event) and record.object_type == object_type:
                maybe.add((record.timestamp, record.object_id))
        return {member for of, member in self._held if of == object_type}, maybe
