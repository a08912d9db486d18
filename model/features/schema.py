"""The feature table: which features there are, whose they are, how wide. Read from `features.toml`.

    user_id = "str"                  # the type of user ids, for the store
    [history]
    length = 20                      # T: the newest behaviours that the network sees
    actions = ["click"]              # which actions count, filtered before the cut to T
    [[feature]]
    name = "item_id"                 # every schema has it: side item, kind id
    side = "item"                    # user | item | context | cross
    kind = "id"                      # id | category | number | multi (kinds.py, a class per kind)
    type = "str"                     # int | str; numbers have none
    min_count = 2                    # a vocabulary's rows go to values seen so often in training; or:
    buckets = 100000                 # rows by hash, no vocabulary
    width = 16                       # embedding width among BST's "other features" (W_o); 0: not among them
    sequence_width = 32              # embedding width in the sequence's item vector (W_V); 0: not in it

    [[group]]                        # optional: behaviours on objects that are no items (ATRank's behaviour groups)
    object_type = "keyword"
    actions = ["search"]
    length = 10                      # the newest of this group, cut on its own
    type = "str"                     # of the objects' ids; min_count or buckets as above
    width = 8                        # each group has an embedding width of its own

    [[feature]]                      # optional: what the candidate has to do with what the user did (derived.py)
    name = "same_category"
    side = "cross"
    kind = "match"
    of = ["category_id"]
    what = "count"                   # count | age | last | share | cooccurrence
    length = 100                     # among the newest so many behaviours of `actions`, all of [history] unless named
    width = 4

    [[feature]]                      # optional: what was counted until the end of the day before (derived.py)
    name = "item_rate"
    side = "cross"
    kind = "statistic"
    of = ["item_id"]
    what = "rate"                    # rate | count | clicks
    days = 7                         # of so many days; or half_life_days; without both: of all

    [[feature]]                      # optional: what happened to the user since the day began (today.py)
    name = "clicks_today"
    side = "cross"
    kind = "today"
    event = "click"                  # an action of [history], or impression
    length = 100                     # counted up to so many
    width = 4

Every feature may say `seen = false`: it is encoded, and no network looks at it (recipes set it for a comparison). A
number has `transform = "standard"` (mean 0, deviation 1) or "log" (buckets, embedded), a multi `max_values`, a
context feature the `default` that stands where a request names none, a cross `of = ["age", "item_id"]` and `buckets`.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from model.features.derived import Match, Statistic
from model.features.ids import IdType
from model.features.kinds import ITEM_ID, KINDS, USER_ID, Category, Feature, SchemaError, Side, checked, declared, made
from model.features.timeposition import EDGES_S
from model.features.today import IMPRESSION, Today
from model.options import Count, Names, Natural, words


@dataclass(frozen=True)
class History:
    length: Count = 20
    actions: Names = ("click",)
    object_type: str = "item"
    gap_edges_s: tuple[Natural, ...] = EDGES_S  # carried, so that a bundle keeps its buckets whatever the code's age

    def __post_init__(self) -> None:
        checked(self, "[history]")
        if list(self.gap_edges_s) != sorted(set(self.gap_edges_s)):
            raise SchemaError("[history]: gap_edges_s must rise")
        _refuse_repeated(self.actions, "[history]")


@dataclass(frozen=True)
class Group:
    """Behaviours on another type of object than items; the object is known by its id alone."""

    object_type: str
    actions: Names
    length: Count = 20
    type: IdType = "str"
    min_count: Count = 1
    buckets: Count | None = None
    width: Count = 16

    def __post_init__(self) -> None:
        checked(self, f"group {self.object_type!r}")
        if not re.fullmatch(r"[A-Za-z]\w*", self.object_type):  # it names files and the network's inputs
            raise SchemaError(f"group: object_type {self.object_type!r}, allowed: letters, digits, _")
        _refuse_repeated(self.actions, f"group {self.object_type!r}")

    @property
    def feature(self) -> Feature:
        """The object's id as a feature, which is how it is encoded."""
        return Category(
            name=self.object_type,
            side="object",
            type=self.type,
            sequence_width=self.width,
            min_count=self.min_count,
            buckets=self.buckets,
        )


@dataclass(frozen=True)
class Schema:
    user_id: IdType
    features: tuple[Feature, ...]
    history: History = field(default_factory=History)
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        if self.user_id not in get_args(IdType):
            raise SchemaError(f"user_id {self.user_id!r}, allowed: {', '.join(get_args(IdType))}")
        names = [feature.name for feature in self.embedded]
        twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
        if twice is not None:
            raise SchemaError(f"names of features and groups must differ: {twice!r} stands twice")
        if any(feature.side == "object" for feature in self.features):
            raise SchemaError("side 'object' is a group's: write [[group]]")
        if self.history.object_type in (group.object_type for group in self.groups):
            raise SchemaError(f"group {self.history.object_type!r}: [history] has these behaviours already")
        by_name = {feature.name: feature for feature in self.features}
        if ITEM_ID not in by_name or by_name[ITEM_ID].side != "item" or by_name[ITEM_ID].kind != "id":
            raise SchemaError("a feature `item_id` with side item and kind id is needed")
        user_id = by_name.get(USER_ID)
        if user_id is not None and (user_id.side, user_id.kind, user_id.type) != ("user", "id", self.user_id):
            raise SchemaError(f"feature `user_id` needs side user, kind id and type {self.user_id!r}, as user_id says")
        for cross in self.side("cross"):
            for part in cross.of:
                if part not in by_name or not cross.may_be_of(by_name[part]):
                    kinds = ", ".join(name for name, kind in KINDS.items() if kind.crossable)
                    whose = " and side item" if isinstance(cross, Match) else ""
                    raise SchemaError(
                        f"feature {cross.name!r}: `of` names {part!r}, allowed: features of kind {kinds}{whose}"
                    )
        for match in self.matches:
            _refuse_repeated(match.actions, f"feature {match.name!r}")
            strange = [action for action in match.actions if action not in self.history.actions]
            if strange:
                raise SchemaError(
                    f"feature {match.name!r}: action {strange[0]!r}, allowed: those of [history], "
                    f"{', '.join(self.history.actions)}"
                )
        for today in self.todays:
            if not today.of_impressions and today.event not in self.history.actions:
                raise SchemaError(
                    f"feature {today.name!r}: event {today.event!r}, allowed: those of [history], "
                    f"{', '.join(self.history.actions)}, and {IMPRESSION}"
                )

    @property
    def crosses(self) -> tuple[Feature, ...]:
        """The crosses that are hashed: of side cross, without the derived features."""
        return tuple(feature for feature in self.side("cross") if not feature.derived)

    @property
    def matches(self) -> tuple[Match, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Match))

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Statistic))

    @property
    def paired(self) -> list[str]:
        """The item features of which pairs of values are counted in behaviours."""
        return sorted({match.of[0] for match in self.matches if match.counts})

    @property
    def counting(self) -> bool:
        """Whether a file of what was counted until a day goes with it."""
        return bool(self.statistics or self.paired)

    @property
    def todays(self) -> tuple[Today, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Today))

    @property
    def impressions_counted(self) -> int:
        """Up to how many impressions of a day are counted; 0: none are."""
        return max((today.length for today in self.todays if today.of_impressions), default=0)

    @property
    def views(self) -> list[tuple[tuple[str, ...], int]]:
        """Which behaviours are looked at by themselves: the newest so many of the named actions of [history]."""
        counted = [((today.event,), today.length) for today in self.todays if not today.of_impressions]
        return sorted({*map(self.view, self.matches), *counted})

    def view(self, match: Match) -> tuple[tuple[str, ...], int]:
        """Which behaviours a match looks at: the newest so many of the named actions of [history]."""
        return match.actions or self.history.actions, match.length

    @property
    def embedded(self) -> tuple[Feature, ...]:
        """All features, those of the groups' objects among them."""
        return (*self.features, *(group.feature for group in self.groups))

    def side(self, side: Side) -> tuple[Feature, ...]:
        return tuple(feature for feature in self.features if feature.side == side)

    def places(self, side: Side | Literal["sequence"]) -> dict[str, slice]:
        """Which columns of a side's encoded rows belong to which feature."""
        places, at = {}, 0
        for feature in self.sequence if side == "sequence" else self.side(side):
            if not feature.is_float:
                places[feature.name] = slice(at, at + feature.columns)
                at += feature.columns
        return places

    @property
    def sequence(self) -> tuple[Feature, ...]:
        """The item features that make up an item's vector in the sequence (§2.1: item_id and category_id)."""
        return tuple(feature for feature in self.features if feature.sequence_width)

    @property
    def remarks(self) -> list[str]:
        """What is allowed and worth a second look, a sentence each."""
        if self.sequence:
            return []
        items = ", ".join(feature.name for feature in self.side("item") if not feature.is_float)
        return [
            "no item feature has a sequence_width, so that no network but bpr can be trained; "
            f"allowed for: {items} (sequence_width = 32 in features.toml, then prepare again)"
        ]

    @property
    def item_id(self) -> Feature:
        return next(feature for feature in self.features if feature.name == ITEM_ID)

    def as_dict(self) -> dict[str, Any]:
        """The table as plain values, for writing TOML: what `parse` reads, defaults left out."""
        groups = [{k: v for k, v in asdict(group).items() if v is not None} for group in self.groups]
        rows = [feature.as_dict() for feature in self.features]
        table = {"user_id": self.user_id, "history": asdict(self.history), "feature": rows}
        return table | ({"group": groups} if groups else {})


def parse(table: Mapping[str, Any]) -> Schema:
    """Schema from a parsed TOML table.

    Raises SchemaError, also for unknown keys (a misspelt one would be silently ignored).
    """
    allowed = ("user_id", "history", "feature", "group")
    unknown = [name for name in table if name not in allowed]
    if unknown:
        raise SchemaError(f"unknown {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")
    if "user_id" not in table:
        raise SchemaError(f"user_id is missing, allowed above the first table: {words(IdType)}")
    history = table.get("history", {})
    if not isinstance(history, Mapping):
        raise SchemaError("history is one table: write [history]")
    groups = _tables(table, "group")
    return Schema(
        user_id=table["user_id"],
        features=tuple(declared(row) for row in _tables(table, "feature")),
        history=made(History, history, "[history]"),
        groups=tuple(made(Group, row, f"group {row.get('object_type')!r}") for row in groups),
    )


def _tables(table: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = table.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise SchemaError(f"{name} is a list of tables: write [[{name}]] above each")
    return rows


def load(path: Path) -> Schema:
    """Schema from a `features.toml`. Raises SchemaError, which names the file, and OSError."""
    try:
        return parse(tomllib.loads(path.read_text("utf-8-sig")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, SchemaError) as error:
        raise SchemaError(f"{path}: {error}") from None


def without_sizes(schema: Schema) -> Schema:
    """What decides a row's encoding: of a width only whether the feature is in the sequence, of a history no length."""
    plain = (
        replace(f, width=int(f.derived and not f.is_float), sequence_width=int(f.sequence_width > 0), seen=True)
        for f in schema.features
    )
    return replace(
        schema,
        features=tuple(plain),
        history=replace(schema.history, length=1),
        groups=tuple(replace(group, length=1, width=1) for group in schema.groups),
    )


def _refuse_repeated(actions: Sequence[str], where: str) -> None:
    if len(set(actions)) != len(actions):
        raise SchemaError(f"{where}: actions {list(actions)}, allowed: each once")
