"""What the store must have held of a user at any moment, rebuilt from events: the other half of the proof.

A request sees what was stored when it asked. What was being stored just then it may have seen or not: that is taken as
the log has it. What was before the log comes from another data set; else from the requests themselves, each of which
then proves nothing of what it alone knows, and everything of what was known before it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from model.features.behaviour import Behaviour
from model.features.wanted import Wanted
from model.replaying.shown import ShownToday
from model.servicelog.records import IMPRESSION, Event, Forgotten, Impression, Profile

NEVER, ALWAYS = -(2**62), 2**62  # ms
RETRIED_US = 600 * 10**6  # a store may hold an event so long before it was acknowledged: its first try failed midway

Kind = tuple[str, str]  # action, type of object


class Rebuilt(NamedTuple):
    """What a request should have found. `unproven`: why the log cannot tell."""

    profile: dict[str, str]
    behaviours: list[Behaviour]  # oldest first
    unproven: str | None = None
    shown_today: int = -1  # impressions; -1: they need not be counted


class Past:
    """One user's; `at` is asked in the order of `read_us`.

    `records` are what was told of the user, in the order of `stored_us`. `keep`: what the store keeps of a kind;
    `skew_us`: by how much the clocks of the service's machines may differ.
    """

    def __init__(self, records: Sequence[Event | Profile | Forgotten], keep: int, skew_us: int = 0):
        done = [one for one in records if not _confirms(one)]
        shown = [one for one in records if isinstance(one, Forgotten) or (isinstance(one, Event) and _confirms(one))]
        self._records, self._shown = done, ShownToday(shown, keep, skew_us, RETRIED_US)
        self._keep, self._skew_us = keep, skew_us
        self._next = 0  # the first record that was not surely stored at the last read
        self._behaviours: set[Behaviour] = set()
        self._profile: dict[str, str | None] = {}  # None: it is known that there is none
        self._profile_whole = False  # whether fields that are not there are known not to be
        self._before = NEVER  # all is known that happened earlier than this
        self._since: dict[Kind, int] = defaultdict(lambda: ALWAYS)  # and, of a kind, from then on

    def begin(self, profile: Mapping[str, str], behaviours: Iterable[Behaviour]) -> None:
        """All that there was before the log."""
        self._behaviours |= set(behaviours)
        self._profile |= profile
        self._profile_whole, self._before, self._since = True, ALWAYS, defaultdict(lambda: NEVER)

    def at(self, request: Impression, wanted: Wanted, begun: int = 0) -> Rebuilt:
        """At a request whose model reads what is `wanted`, on a day that begins at `begun` (ms)."""
        self._advance(request.read_us - self._skew_us)
        under_way = self._under_way(request.read_us)
        if any(isinstance(record, Forgotten) for record in under_way):
            return Rebuilt({}, [], "the user was being forgotten")
        kinds = {kind[:2] for kind in wanted.behaviours}
        logged = {behaviour for behaviour in request.behaviours if behaviour[:2] in kinds}
        told = {_behaviour(record) for record in under_way if isinstance(record, Event)}
        before = request.now if request.replay else ALWAYS
        self._learn(logged - told - self._behaviours, logged, before, wanted)
        there = self._behaviours | (told & logged)
        kept = newest(there, self._keep)
        seen = {behaviour for behaviour in kept if behaviour.timestamp < before}
        cut = request.replay and any(
            sum(b[:2] == kind[:2] for b in seen) < kind.most and any(b[:2] == kind[:2] for b in there - kept)
            for kind in wanted.behaviours
        )
        profile = self._rebuilt_profile(request.profile, wanted.fields, under_way)
        ordered = sorted(seen, key=lambda b: (b.timestamp, b))
        shown: int | None = -1
        if wanted.impressions:
            shown = self._shown.at(request, wanted.behaviours[0].object_type, begun)
        else:
            self._shown.uncounted()
        if cut or shown is None:
            return Rebuilt(profile, ordered, "a replay before what the store keeps")
        return Rebuilt(profile, ordered, shown_today=shown)

    def _advance(self, until_us: int) -> None:
        """Takes in what was surely stored by then."""
        while self._next < len(self._records) and self._records[self._next].stored_us <= until_us:
            record = self._records[self._next]
            self._next += 1
            if isinstance(record, Event):
                self._behaviours.add(_behaviour(record))
            elif isinstance(record, Profile):
                self._profile = changed(self._profile, record)
                self._profile_whole |= record.replaced
            else:
                self._behaviours, self._profile = set(), {}
                self._profile_whole, self._before, self._since = True, ALWAYS, defaultdict(lambda: NEVER)

    def _under_way(self, read_us: int) -> list[Event | Profile | Forgotten]:
        """What may have been in the store, or not: stored meanwhile, or at a first try before it was acknowledged."""
        open_records = []
        for at in range(self._next, len(self._records)):
            record = self._records[at]
            if record.stored_us > read_us + RETRIED_US:
                break
            if isinstance(record, Event) or record.received_us < read_us + self._skew_us:
                open_records.append(record)
        return open_records

    def _learn(self, strange: set[Behaviour], logged: set[Behaviour], before: int, wanted: Wanted) -> None:
        """What only this request tells of the time before the log is known from now on."""
        self._behaviours |= {b for b in strange if b.timestamp >= self._before or b.timestamp < self._since[b[:2]]}
        self._before = max(self._before, before)
        for kind in wanted.behaviours:
            times = [b.timestamp for b in logged if b[:2] == kind[:2]]
            since = min(times) if len(times) >= kind.most else NEVER
            self._since[kind[:2]] = min(self._since[kind[:2]], since)

    def _rebuilt_profile(
        self, logged: Mapping[str, str], fields: Sequence[str], under_way: Sequence[Event | Profile | Forgotten]
    ) -> dict[str, str]:
        for name in fields:
            if name not in self._profile and not self._profile_whole:
                self._profile[name] = logged.get(name)
        states = [self._profile]
        for record in under_way:  # each may have been there, or not yet
            if isinstance(record, Profile):
                states += [changed(state, record) for state in states]
        profiles = [{name: value for name in fields if (value := state.get(name)) is not None} for state in states]
        wanted = {name: logged[name] for name in fields if name in logged}
        return wanted if wanted in profiles else profiles[0]


def changed(profile: Mapping[str, str | None], record: Profile) -> dict[str, str | None]:
    """The profile after fields of it were set."""
    return {**({} if record.replaced else profile), **record.fields}


def as_read(behaviours: Iterable[Behaviour], wanted: Wanted) -> set[Behaviour]:
    """What of a history a model reads: of each kind as many as it wants, and those of the last one's moment."""
    there = list(behaviours)
    return {b for kind in wanted.behaviours for b in newest([b for b in there if b[:2] == kind[:2]], kind.most)}


def newest(behaviours: Iterable[Behaviour], most: int) -> set[Behaviour]:
    """Of each kind the newest `most`, and those of the last one's moment."""
    of_kind: dict[Kind, list[Behaviour]] = defaultdict(list)
    for behaviour in behaviours:
        of_kind[behaviour[:2]].append(behaviour)
    chosen: set[Behaviour] = set()
    for each in of_kind.values():
        edge = sorted((b.timestamp for b in each), reverse=True)[:most][-1]
        chosen |= {b for b in each if b.timestamp >= edge}
    return chosen


def _confirms(record: Event | Profile | Forgotten) -> bool:
    return isinstance(record, Event) and record.event == IMPRESSION


def _behaviour(event: Event) -> Behaviour:
    return Behaviour(event.event, event.object_type, event.object_id, event.timestamp)
