"""A user as the store gets it: ids in their canonical form, known fields alone, times that are milliseconds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from model.features.behaviour import EARLIEST_MS, LATEST_MS, Behaviour, looks_like
from model.features.ids import BadValue, IdType, canonical, is_hole
from model.features.kinds import USER_ID, Feature, to_text
from model.features.schema import Schema
from service.store.format import pack

DAY_MS = 86_400_000
LONGEST_ID = 256  # of a user, as in a request (service/wire/shapes.py)


class BackfillError(Exception):
    """Users that cannot be loaded; the message says where (file and line) and why."""


class User(NamedTuple):
    where: str
    user_id: str
    profile: dict[str, str]
    behaviours: list[Behaviour]


class Fields:
    """How raw values are written: as a feature table types and names them, or, without one, as they come.

    It counts what it leaves out: fields that the feature table does not name, and holes in lists.
    """

    def __init__(self, schema: Schema | None):
        self.schema = schema
        self.features = user_features(schema) if schema else None
        self.id_types = id_types(schema) if schema else {}
        self.left_out: Counter[str] = Counter()
        self.holes: Counter[str] = Counter()
        self._user_id: IdType = schema.user_id if schema else "str"

    def user_id(self, value: Any) -> str:
        """Raises BadValue, also for an id that no request can name."""
        user_id = str(canonical(value, self._user_id))
        if not 1 <= len(user_id) <= LONGEST_ID:
            raise BadValue(f"{len(user_id)} characters given, 1 to {LONGEST_ID} are allowed")
        return user_id

    def behaviour(self, action: str, object_type: str, object_id: Any, timestamp: int) -> Behaviour:
        """Raises ValueError: for another clock's time, a `|`, or an id that its declared type refuses."""
        if not EARLIEST_MS <= timestamp <= LATEST_MS:
            raise BadValue(f"time {looks_like(timestamp)}")
        object_id = str(canonical(object_id, self.id_types.get(object_type, "str")))
        behaviour = Behaviour(action, object_type, object_id, timestamp)
        pack(behaviour)
        return behaviour

    def profile(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Raises BadValue, whose message begins with the field's name."""
        texts = {}
        for name, value in values.items():
            feature = self.features.get(name) if self.features is not None else None
            if self.features is not None and feature is None:
                self.left_out[name] += 1
                continue
            if isinstance(value, list | tuple):
                self.holes[name] += sum(map(is_hole, value))
            try:
                if feature is not None:
                    text = feature.stored(value)
                else:
                    text = None if is_hole(value) else to_text(value)
            except BadValue as error:
                raise BadValue(f"{name}: {error}") from None
            if text is not None:
                texts[name] = text
        return texts


class Summary:
    """What was loaded, and what people should know of it."""

    def __init__(self, schema: Schema | None, now_ms: int):
        self._reads = reads(schema) if schema else None
        self._now_ms = now_ms
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._ahead = 0
        self._newest = 0

    def add(self, behaviours: Iterable[Behaviour]) -> None:
        for action, object_type, _, timestamp in behaviours:
            self._kinds[object_type, action] += 1
            self._ahead += timestamp > self._now_ms + DAY_MS
            self._newest = max(self._newest, timestamp)

    def notes(self, fields: Fields) -> list[str]:
        """A sentence for each thing that was left out or looks wrong."""
        notes = []
        if fields.left_out:
            notes.append(f"not loaded, no user features of features.toml: {', '.join(sorted(fields.left_out))}")
        if holes := +fields.holes:
            notes.append(f"{holes.total()} empty places in lists left out, of {', '.join(sorted(holes))}")
        if self._ahead:
            newest = datetime.fromtimestamp(self._newest // 1000, UTC)
            notes.append(
                f"{self._ahead} behaviours lie more than a day ahead of this machine's clock (the newest: "
                f"{newest:%Y-%m-%d}); until then they count as just now and push out real ones"
            )
        if self._reads is not None and self._kinds and not self._reads & set(self._kinds):
            there = ", ".join(f"{action!r} on {kind!r}" for kind, action in sorted(self._kinds)[:10])
            wanted = ", ".join(f"{action!r} on {kind!r}" for kind, action in sorted(self._reads))
            notes.append(f"no behaviour is one that the network reads ({wanted}): loaded are {there}")
        return notes


def user_features(schema: Schema) -> dict[str, Feature]:
    """What a profile holds."""
    return {feature.name: feature for feature in schema.side("user") if feature.name != USER_ID}


def id_types(schema: Schema) -> dict[str, IdType]:
    """The id's type of each type of object that the feature table names."""
    return {schema.history.object_type: schema.item_id.type} | {g.object_type: g.type for g in schema.groups}


def reads(schema: Schema) -> set[tuple[str, str]]:
    """Object type and action of every behaviour that the network reads."""
    groups: Sequence[Any] = (schema.history, *schema.groups)
    return {(group.object_type, action) for group in groups for action in group.actions}
