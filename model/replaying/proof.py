"""Each request scored twice: from what the log says it was scored from, and from what events say that it should be.

A row is an item that was returned. Scores do not depend on the other candidates, so these alone are scored.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.bundle.reading import Bundle
from model.features.encode import Candidate, Encoded
from model.features.ids import BadValue, canonical
from model.features.kinds import ITEM_ID, USER_ID
from model.features.wanted import Wanted
from model.replaying.histories import Past, Rebuilt, as_read
from model.replaying.log import User
from model.replaying.shelf import Absent, Shelf
from model.servicelog.records import BUILTIN, Impression

STAGES = ("profile", "history", "catalogue", "statistics", "score")
SKIPPED = ("bundle", "int8")  # stages of Absent that say nothing of what was served
SALTED = re.compile(r"[0-9a-f]{32,}")
FIRST = 10  # rows that are kept to be shown

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Differing:
    """A row that is not as it was served, and in what."""

    stage: str
    request_id: str
    user_id: str
    item_id: str
    logged: float
    recomputed: float | None
    why: str


@dataclass
class Proof:
    """What was found so far."""

    rows: int = 0
    requests: int = 0
    rebuilt_rows: int = 0  # of which the history was rebuilt too
    max_abs_diff: float = 0.0
    max_abs_diff_rebuilt: float = 0.0
    differences: Counter[str] = field(default_factory=Counter)  # rows by stage
    skipped: Counter[str] = field(default_factory=Counter)  # rows by reason
    first: list[Differing] = field(default_factory=list)

    def differ(self, request: Impression, stage: str, why: str, rows: Sequence[tuple[int, float | None]]) -> None:
        """`rows`: places of items, and what their scores should be."""
        self.differences[stage] += len(rows)
        for at, recomputed in rows[: FIRST - len(self.first)]:
            item = request.items[at]
            self.first.append(
                Differing(stage, request.request_id, request.user_id, item.item_id, item.score, recomputed, why)
            )


class Prover:
    """Scores users' requests again, by what is on the shelf."""

    def __init__(self, shelf: Shelf, tolerance: float, keep: int, skew_us: int):
        self._shelf, self._tolerance, self._keep, self._skew_us = shelf, tolerance, keep, skew_us
        self.proof = Proof()
        self.absent: dict[str, None] = {}  # what is not there, each once

    def prove(self, user: User) -> None:
        past = Past(user.records, self._keep, self._skew_us)
        if user.profile is not None or user.behaviours:
            past.begin(user.profile or {}, user.behaviours)
        for request in user.requests:
            self.proof.requests += 1
            try:
                self._prove(request, past)
            except Absent as absent:
                self._told(request, absent)

    def _told(self, request: Impression, absent: Absent) -> None:
        self.absent.setdefault(str(absent))
        if absent.stage in SKIPPED:
            self.proof.skipped[absent.stage] += len(request.items)
        else:
            every = [(at, None) for at in range(len(request.items))]
            self.proof.differ(request, absent.stage, str(absent), every)

    def _prove(self, request: Impression, past: Past) -> None:
        if request.precision == BUILTIN:
            self.proof.skipped["builtin variants, which no graph scores"] += len(request.items)
            return
        model = request.model, request.version
        bundle = self._shelf.bundle(model)
        wanted = Wanted.of(bundle.schema)
        rebuilt = (
            None if request.degraded else past.at(request, wanted, bundle.encoder.calendar.begun_ms(request.now))
        )  # also where the rest is absent
        catalog = self._shelf.catalog(model, request.catalog)
        if request.statistics is not None:
            bundle = bundle.with_counts(self._shelf.counts(model, request.statistics))
        bundle = bundle.with_catalog(catalog)
        session = self._shelf.session(model, request.precision)
        off = _Off(request, self._shelf.tolerance(model, request.precision, self._tolerance))
        if not request.items:
            return
        try:
            own = _encoded(bundle, request, request.profile, request.behaviours, request.shown_today)
        except BadValue as error:
            self._unencodable(request, str(error), _is_salted(bundle, request))
            return
        if _is_salted(bundle, request):
            self._unencodable(request, "", True)
            return
        scores = bundle.score(session, own.inputs)[0]
        self.proof.rows += len(request.items)
        self.proof.max_abs_diff = max(self.proof.max_abs_diff, off.most(scores))
        wrong, why = off.rows(scores), "scored again from what the log holds"
        if rebuilt is None or rebuilt.unproven:
            self.proof.skipped["degraded" if rebuilt is None else str(rebuilt.unproven)] += len(request.items)
            unlike = {}
        else:
            again = _encoded(bundle, request, rebuilt.profile, rebuilt.behaviours, rebuilt.shown_today)
            if not _alike(own, again):
                scores = bundle.score(session, again.inputs)[0]
            self.proof.rebuilt_rows += len(request.items)
            self.proof.max_abs_diff_rebuilt = max(self.proof.max_abs_diff_rebuilt, off.most(scores))
            unlike = dict(_unlike(request, rebuilt, wanted))
            if not wrong:
                wrong, why = off.rows(scores), "scored again from events"
        for stage, how in unlike.items():
            self.proof.differ(request, stage, how, [(at, float(score)) for at, score in enumerate(scores)])
        if wrong and not unlike:  # else that other score is what the earlier stage made of it
            self.proof.differ(request, "score", why, wrong)

    def _unencodable(self, request: Impression, why: str, salted: bool) -> None:
        if salted:
            self.proof.skipped["salted ids, which the model reads"] += len(request.items)
        else:
            self.proof.differ(request, "score", why, [(at, None) for at in range(len(request.items))])


class _Off:
    """How far scores are from the logged ones; relative above 1, as golden requests are compared."""

    def __init__(self, request: Impression, tolerance: float):
        self._logged = np.array([item.score for item in request.items], np.float64)
        self._tolerance = tolerance

    def most(self, scores: Scores) -> float:
        return float(np.nan_to_num(self._by(scores), nan=np.inf).max())

    def rows(self, scores: Scores) -> list[tuple[int, float | None]]:
        relative = self._by(scores) / np.maximum(1, np.abs(np.nan_to_num(self._logged)))
        return [(int(at), float(scores[at])) for at in np.flatnonzero(~(relative <= self._tolerance))]

    def _by(self, scores: Scores) -> npt.NDArray[np.float64]:
        off: npt.NDArray[np.float64] = np.abs(scores - self._logged)
        off[np.isnan(scores) & np.isnan(self._logged)] = 0
        return off


def _encoded(bundle: Bundle, request: Impression, profile: Any, behaviours: Any, shown_today: int) -> Encoded:
    ids = bundle.schema
    candidates: list[Candidate] = [
        {**item.features, ITEM_ID: item.item_id} if item.features else item.item_id for item in request.items
    ]
    return bundle.encoder.encode(
        canonical(request.user_id, ids.user_id),
        profile,
        behaviours,
        candidates,
        request.now,
        bundle.catalog,
        user=request.user,
        context=request.context,
        shown_today=shown_today,
    )


def _is_salted(bundle: Bundle, request: Impression) -> bool:
    """Whether the id is a hash where the model reads ids themselves."""
    reads = bundle.schema.user_id == "int" or any(feature.name == USER_ID for feature in bundle.schema.features)
    return reads and SALTED.fullmatch(request.user_id) is not None


def _alike(one: Encoded, other: Encoded) -> bool:
    return all(np.array_equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def _unlike(request: Impression, again: Rebuilt, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Stages in which what was rebuilt is not what was used, and how."""
    profile = again.profile
    used = {name: request.profile[name] for name in wanted.fields if name in request.profile}
    if used != profile:
        names = [name for name in wanted.fields if used.get(name) != profile.get(name)]
        told = ", ".join(f"{n} was {used.get(n)!r}, events say {profile.get(n)!r}" for n in names[:3])
        yield "profile", told
    logged, rebuilt = as_read(request.behaviours, wanted), as_read(again.behaviours, wanted)
    if logged != rebuilt:
        yield (
            "history",
            "; ".join(
                f"{len(some)} {text}, as {_shown(max(some, key=lambda b: b.timestamp))}"
                for some, text in (
                    (logged - rebuilt, "that no event tells of"),
                    (rebuilt - logged, "that were not used"),
                )
                if some
            ),
        )
    elif wanted.impressions and request.shown_today != again.shown_today:
        yield "history", f"{request.shown_today} impressions of the day were used, events say {again.shown_today}"


def _shown(behaviour: Any) -> str:
    return f"{behaviour.action} on {behaviour.object_type} {behaviour.object_id} at {behaviour.timestamp}"
