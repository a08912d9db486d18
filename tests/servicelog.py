"""A small service that keeps its log: a real bundle scores, a dict stands for the store, and what is written are the
tables that the drain writes. Every fact of a test is said by who calls it; nothing here is drawn.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from model.bundle.layout import CATALOG, COUNTS
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.features.behaviour import Behaviour
from model.features.catalog import KIND as CATALOGUE
from model.features.counts import KIND as STATISTICS
from model.features.ids import canonical
from model.features.kinds import ITEM_ID
from model.features.sealed import seal
from model.features.wanted import Wanted
from model.servicelog.records import IMPRESSION, Event, Forgotten, Impression, Profile, Shadowed, Shown
from model.servicelog.tables import SCHEMAS

NOON = 1_757_937_600_000  # 2025-09-15 12:00 UTC: the demo's last day
DAY = 86_400_000


@dataclass
class Served:
    """What happens to users, in the order of the calls; the clock stands until a test moves it."""

    bundle: Bundle
    now: int = NOON
    precision: str = "fp32"
    session: Session | None = None
    impressions: list[Impression] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    users: list[Profile | Forgotten] = field(default_factory=list)
    profiles: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    histories: dict[str, set[Behaviour]] = field(default_factory=lambda: defaultdict(set))
    _us: int = 0

    def tick(self) -> int:
        """The service's clock in microseconds, later at each look."""
        self._us += 7
        return self.now * 1000 + self._us

    def rank(
        self,
        user_id: str,
        candidates: Sequence[Any],
        request_id: str,
        context: Mapping[str, Any] | None = None,
        user: Mapping[str, Any] | None = None,
        before: int | None = None,
        top: int = 10,
        degraded: Sequence[str] = (),
    ) -> Impression:
        """One request; `before` makes it a replay of that time."""
        schema, at = self.bundle.schema, self.now if before is None else before
        read_us = self.tick()
        profile, behaviours = dict(self.profiles[user_id]), self._read(user_id, before)
        if degraded:
            profile, behaviours = {}, []
        encoded = self.bundle.encoder.encode(
            canonical(user_id, schema.user_id),
            profile,
            behaviours,
            candidates,
            at,
            self.bundle.catalog,
            user=user,
            context=context,
        )
        self.session = self.session or self.bundle.session()
        scores = self.bundle.score(self.session, encoded.inputs)[0]
        items = []
        for place, index in enumerate((-scores).argsort(kind="stable")[:top].tolist(), 1):
            candidate = candidates[index]
            features = {k: v for k, v in candidate.items() if k != ITEM_ID} if isinstance(candidate, dict) else None
            item = candidate[ITEM_ID] if isinstance(candidate, dict) else candidate
            items.append(Shown(str(item), float(scores[index]), place, features=features or None))
        shown = Impression(
            request_id,
            user_id,
            at,
            read_us,
            before is not None,
            self.bundle.name,
            self.bundle.version,
            None,
            self.precision,
            sha256(self.bundle.folder / CATALOG, CATALOGUE),
            sha256(self.bundle.folder / COUNTS, STATISTICS) if schema.counting else None,
            items,
            dict(context or {}),
            dict(user or {}),
            profile,
            behaviours,
            list(degraded),
        )
        self.impressions.append(shown)
        return shown

    def act(
        self,
        user_id: str,
        item_id: str,
        request_id: str | None,
        after_ms: int = 1000,
        event: str = "click",
        watch_ms: int | None = None,
    ) -> Event:
        """An event, `after_ms` after the clock's time, in the store at once."""
        received = self.tick()
        told = Event(event, user_id, "item", item_id, self.now + after_ms, request_id, watch_ms, received, self.tick())
        self.events.append(told)
        if event != IMPRESSION:
            self.histories[user_id].add(Behaviour(event, "item", item_id, told.timestamp))
        return told

    def set(self, user_id: str, fields: Mapping[str, str], replaced: bool = False) -> None:
        received = self.tick()
        self.profiles[user_id] = {**({} if replaced else self.profiles[user_id]), **fields}
        self.users.append(Profile(user_id, dict(fields), replaced, received, self.tick()))

    def forget(self, user_id: str) -> None:
        received = self.tick()
        self.profiles.pop(user_id, None)
        self.histories.pop(user_id, None)
        self.users.append(Forgotten(user_id, received, self.tick()))

    def _read(self, user_id: str, before: int | None) -> list[Behaviour]:
        """As the store gives them: of each kind the newest that are wanted, and those of the last one's moment."""
        there = [b for b in self.histories[user_id] if before is None or b.timestamp < before]
        chosen: list[Behaviour] = []
        for kind in Wanted.of(self.bundle.schema).behaviours:
            of_kind = sorted((b for b in there if b[:2] == kind[:2]), key=lambda b: (b.timestamp, b), reverse=True)
            edge = of_kind[: kind.most][-1].timestamp if of_kind else 0
            chosen += [b for b in of_kind if b.timestamp >= edge]
        return sorted(chosen, key=lambda b: (b.timestamp, b))

    def change(self, place: int, **fields: Any) -> None:
        """Makes the log say something else of an impression than what was served."""
        self.impressions[place] = replace(self.impressions[place], **fields)

    def write(self, folder: Path) -> Path:
        """The drain's tables."""
        return write_tables(folder, self.impressions, self.events, self.users)


def write_tables(
    folder: Path,
    impressions: Sequence[Impression],
    events: Sequence[Event],
    users: Sequence[Profile | Forgotten] = (),
    shadows: Sequence[Shadowed] = (),
) -> Path:
    """The drain's tables of these records."""
    rows: dict[str, list[tuple[int, dict[str, Any]]]] = {
        "impressions": [(i.now, _impression(i)) for i in impressions],
        "events": [(e.timestamp, asdict(e)) for e in events],
        "users": [(u.stored_us // 1000, _user(u)) for u in users],
        "shadows": [(s.now, row) for s in shadows for row in _shadowed(s)],
    }
    for table, timed in rows.items():
        days: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for ms, row in timed:
            days[f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"].append(row)
        for day, of_day in days.items():
            path = folder / table / f"day={day}" / "worker-1.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pl.DataFrame(of_day, SCHEMAS[table]).write_parquet(path)
    return folder


def sha256(path: Path, kind: str) -> str:
    sealed = seal(path, kind)
    assert sealed is not None
    return sealed.sha256


def _impression(impression: Impression) -> dict[str, Any]:
    row = {name: getattr(impression, name) for name in SCHEMAS["impressions"]}
    for name in ("context", "user", "profile"):
        row[name] = json.dumps(row[name])
    row["items"] = [{**asdict(i), "features": json.dumps(i.features) if i.features else None} for i in impression.items]
    row["behaviours"] = [b._asdict() for b in impression.behaviours]
    return row


def _shadowed(record: Shadowed) -> list[dict[str, Any]]:
    told = asdict(record)
    return [{**told, "item_id": item, "score": score} for item, score in told.pop("items")]


def _user(record: Profile | Forgotten) -> dict[str, Any]:
    times = {"user_id": record.user_id, "received_us": record.received_us, "stored_us": record.stored_us}
    if isinstance(record, Forgotten):
        return times | {"profile": None, "replaced": None}
    return times | {"profile": json.dumps(record.fields), "replaced": record.replaced}
