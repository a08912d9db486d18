"""Columns in → integer and float arrays out: the only maker of network input, for training and serving alike.

A network's input is a dict of these arrays (N: columns of that side, as `features.toml` orders them):

    user (U, N) · item (U, C, N) · context (U, C, N) · cross (U, C, N)     rows of embedding tables
    history (U, T, N)                                                      rows of the sequence features, oldest first
    gap, action (U, T)                                                     time buckets, actions; PAD in unused slots
    history_<g> (U, T, 1) · gap_<g>, action_<g> (U, T)                     likewise, of each further behaviour group g
    user_numbers (U, N) · item_numbers, context_numbers (U, C, N)          standardised numbers

An array of no columns is left out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features import schema as features_toml
from model.features.behaviour import Behaviour
from model.features.catalog import Catalog
from model.features.columns import Column, column, from_text
from model.features.ids import (
    ABSENT,
    FIRST,
    MISSING,
    PAD,
    UNKNOWN,
    BadValue,
    IdType,
    Keys,
    canonical,
    crossed,
    hashed_rows,
    keys,
)
from model.features.schema import ITEM_ID, LOG_BUCKETS, USER_ID, Feature, Schema
from model.features.table import Table, Vocabulary
from model.features.timeposition import time_positions

MOST_DEVIATIONS = 100.0  # a standardised number is cut there: one absurd value must not drown all others

Rows = npt.NDArray[np.int64]
Inputs = dict[str, npt.NDArray[Any]]
Candidate = str | int | Mapping[str, Any]  # a bare item id, or {"item_id": ..., feature: value, ...}


@dataclass(frozen=True)
class Statistics:
    """What fitting found: rows of every table, mean and deviation of every standardised number."""

    rows: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoded:
    """One request as the network sees it, and what the encoder noticed on the way."""

    inputs: Inputs  # U = 1
    history_length: int  # behaviours that the network sees
    unknown_items: int  # candidates without an embedding of their own
    future: int  # behaviours stamped ahead of `now`, taken as just now
    malformed: int  # profile values and behaviours of the wrong type, left out


class Encoder:
    """Encodes by one feature table, its vocabularies and its statistics."""

    def __init__(self, schema: Schema, vocabularies: Mapping[str, Vocabulary], statistics: Statistics):
        self.schema = schema
        self.vocabularies = vocabularies
        self.statistics = statistics
        self._history = _Kind(schema.history.object_type, schema.history.actions, schema.item_id.type)
        self._groups = [_Kind(g.object_type, g.actions, g.type) for g in schema.groups]
        self._users, self._items, self._contexts = (schema.side(side) for side in ("user", "item", "context"))
        crosses = schema.side("cross")
        self._crosses = len(crosses)
        self._alike = []  # crosses of equally many parts, which are made at once
        for count in sorted({len(cross.of) for cross in crosses}):
            places = [place for place, cross in enumerate(crosses) if len(cross.of) == count]
            names, of = [crosses[place].name for place in places], [crosses[place].of for place in places]
            self._alike.append((places, names, of, np.array([[crosses[p].buckets] for p in places], np.uint64)))
        self._defaults = {f.name: column(f, [f.default]) for f in self._contexts}
        self._edges = np.array(schema.history.gap_edges_s, np.int64)
        place_of = schema.places("item")
        self._item_place = place_of[ITEM_ID].start
        in_sequence = [place_of[feature.name] for feature in schema.sequence]
        self._sequence_places = np.array([p for at in in_sequence for p in range(at.start, at.stop)], np.int64)
        self._allowed = {
            "user": tuple(f.name for f in schema.side("user") if f.name != USER_ID),
            "candidate": tuple(f.name for f in (*schema.side("item"), *schema.side("context"))),
            "context": tuple(f.name for f in schema.side("context")),
        }

    @classmethod
    def open(cls, folder: Path) -> "Encoder":
        """The encoder in a bundle or a prepared data set: `features.toml` and `vocab/`, tables memory-mapped."""
        schema = features_toml.load(folder / "features.toml")
        statistics = Statistics(**json.loads((folder / "vocab" / "statistics.json").read_text()))
        vocabularies = {
            f.name: Vocabulary(Table.open(folder / "vocab" / f"{f.name}.npy"))
            for f in schema.embedded
            if f.has_vocabulary
        }
        return cls(schema, vocabularies, statistics)

    def save(self, vocab: Path) -> None:
        """Writes the vocabularies and statistics into the folder `vocab`."""
        vocab.mkdir(parents=True, exist_ok=True)
        for name, vocabulary in self.vocabularies.items():
            vocabulary.table.save(vocab / f"{name}.npy")
        kept = {"rows": dict(self.statistics.rows), "numbers": dict(self.statistics.numbers)}
        (vocab / "statistics.json").write_text(json.dumps(kept, indent=1) + "\n")

    def table_rows(self, feature: Feature) -> int:
        """Rows of a feature's embedding table."""
        return feature.fixed_rows or self.statistics.rows[feature.name]

    # ---- columns → arrays: prepare calls these on whole tables, `encode` on one request

    def rows(self, features: Sequence[Feature], columns: Mapping[str, Column], count: int) -> Rows:
        """Table rows of the features that are not plain numbers, (count, N): N counts a multi's places one by one."""
        made = [self._feature_rows(f, columns[f.name]) for f in features if not f.is_float]
        return np.concatenate(made, axis=-1) if made else np.zeros((count, 0), np.int64)

    def _feature_rows(self, feature: Feature, values: Column) -> Rows:
        rows: Rows
        if feature.transform == "log":
            steps = np.floor(2 * np.log2(1 + np.fmax(values, 0)))  # a NaN is 0 here
            rows = FIRST + np.minimum(steps, LOG_BUCKETS - 1).astype(np.int64)
            np.copyto(rows, UNKNOWN, where=np.isnan(values))
        elif feature.buckets is not None:
            rows = hashed_rows(values, feature.buckets)
        else:
            rows = self.vocabularies[feature.name].rows(values)
        if feature.kind == "multi":
            np.copyto(rows, PAD, where=values == ABSENT)
            return rows
        return rows[..., None]

    def numbers(
        self, features: Sequence[Feature], columns: Mapping[str, Column], count: int
    ) -> npt.NDArray[np.float32]:
        """Standardised numbers, (count, N); a missing one is 0, the mean."""
        made = []
        for feature in features:
            if feature.is_float:
                mean, deviation = self.statistics.numbers[feature.name]
                standard = np.clip((columns[feature.name] - mean) / deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS)
                made.append(np.where(np.isnan(standard), 0, standard)[..., None])
        return np.concatenate(made, axis=-1, dtype=np.float32) if made else np.zeros((count, 0), np.float32)

    def cross_rows(self, columns: Mapping[str, Keys], count: int) -> Rows:
        """Rows of the crosses, (count, N); a part's column is (count,) or, for all alike, (1,)."""
        made = np.empty((count, self._crosses), np.int64)
        for places, names, parts, buckets in self._alike:
            mixed = crossed(names, [[columns[part] for part in of] for of in parts])
            made[:, places] = hashed_rows(mixed, buckets).T
        return made

    # ---- one request

    def encode(
        self,
        user_id: int | str,
        profile: Mapping[str, str],
        behaviours: Sequence[Behaviour],
        candidates: Sequence[Candidate],
        now: int,
        catalog: Catalog,
        user: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Encoded:
        """Network input of one request, U = 1 and C = len(candidates), at the recommending time `now` (ms).

        `profile` is the store's text, in which a wrong value is left out; `user`, `context` and the candidates' own
        features are the caller's, win over profile, defaults and catalogue, and raise BadValue when wrong.
        """
        schema = self.schema
        profile_columns, malformed = self._profile(user_id, profile, user or {})
        clicked, times, actions, wrong = self._history.newest(behaviours, schema.history.length)
        ids, given = self._candidates(candidates)
        count = len(ids)

        both = np.concatenate([ids, clicked])  # candidates and clicks are looked up at once
        items, _ = catalog.columns(both)
        items[ITEM_ID] = both
        _overwrite(self._items, items, given)
        item_rows = self.rows(self._items, items, len(both))
        item_columns = {name: values[:count] for name, values in items.items()}
        if context or given:
            context_columns, context_rows, context_numbers = self._contexts_of(context or {}, count, given)
        else:
            context_columns, context_rows, context_numbers = self._neutral

        sequences = self._sequence("", item_rows[count:].take(self._sequence_places, axis=1), times, actions, now)
        future = int(np.count_nonzero(times > now))
        for group, kind in zip(schema.groups, self._groups, strict=True):
            objects, at, what, malformed_here = kind.newest(behaviours, group.length)
            rows = self._feature_rows(group.feature, objects)
            sequences |= self._sequence(f"_{group.object_type}", rows, at, what, now)
            wrong += malformed_here
            future += int(np.count_nonzero(at > now))

        inputs = network_inputs(
            user=self.rows(self._users, profile_columns, 1),
            item=item_rows[None, :count],
            context=_for_each(context_rows, count)[None],
            cross=self.cross_rows({**profile_columns, **item_columns, **context_columns}, count)[None],
            **sequences,
            user_numbers=self.numbers(self._users, profile_columns, 1),
            item_numbers=self.numbers(self._items, item_columns, count)[None],
            context_numbers=_for_each(context_numbers, count)[None],
        )
        return Encoded(
            inputs=inputs,
            history_length=len(clicked),
            unknown_items=int(np.count_nonzero(item_rows[:count, self._item_place] == UNKNOWN)),
            future=future,
            malformed=malformed + wrong,
        )

    def _profile(
        self, user_id: int | str, profile: Mapping[str, str], given: Mapping[str, Any]
    ) -> tuple[dict[str, Column], int]:
        _refuse_unknown("user", given, self._allowed["user"])
        columns, malformed = {}, 0
        for feature in self._users:
            name = feature.name
            if name == USER_ID:
                columns[name] = column(feature, [user_id])
            elif name in given:
                columns[name] = _column(feature, [given[name]], f"user.{name}")
            else:
                try:
                    value = from_text(feature, profile[name]) if name in profile else None
                    columns[name] = column(feature, [value])
                except BadValue:  # another program wrote it: the request is not to blame
                    columns[name], malformed = column(feature, [None]), malformed + 1
        return columns, malformed

    def _sequence(
        self, suffix: str, rows: Rows, times: npt.NDArray[np.int64], actions: npt.NDArray[np.int64], now: int
    ) -> Inputs:
        """A group's three inputs, U = 1; an empty one is one padded slot: no operator meets an axis of size 0."""
        if not len(times):
            empty = np.full((1, 1), PAD, np.int64)
            return {
                f"history{suffix}": np.full((1, 1, rows.shape[-1]), PAD, np.int64),
                f"gap{suffix}": empty,
                f"action{suffix}": empty,
            }
        gap = time_positions(times[None], np.array([now]), self._edges)
        return {f"history{suffix}": rows[None], f"gap{suffix}": gap, f"action{suffix}": actions[None]}

    def _candidates(self, candidates: Sequence[Candidate]) -> tuple[Keys, list[tuple[int, Mapping[str, Any]]]]:
        kinds = set(map(type, candidates))
        bare_ids = kinds <= {str, int}  # the usual case
        given = [] if bare_ids else [(index, c) for index, c in enumerate(candidates) if isinstance(c, Mapping)]
        for index, features in given:
            if features.get(ITEM_ID) is None:
                raise BadValue(f"candidates[{index}]: {ITEM_ID} is missing")
            _refuse_unknown(f"candidates[{index}]", features, self._allowed["candidate"])
        bare = [c[ITEM_ID] if isinstance(c, Mapping) else c for c in candidates] if given else candidates
        kind = self._history.id_type
        try:
            ids = keys(bare, kind, kinds if bare_ids else None)
        except BadValue:
            for index, item in enumerate(bare):
                _column(self.schema.item_id, [item], f"candidates[{index}]")
            raise
        if not bare_ids and (ids == MISSING).any():  # None has a key, but is no item
            raise BadValue(f"candidates[{int((ids == MISSING).argmax())}]: None given, an item id is allowed")
        return ids, given

    @cached_property
    def _neutral(self) -> tuple[dict[str, Column], Rows, npt.NDArray[np.float32]]:
        """The context of a request that names none."""
        return self._contexts_of({}, 1, [])

    def _contexts_of(
        self, context: Mapping[str, Any], count: int, given: Sequence[tuple[int, Mapping[str, Any]]]
    ) -> tuple[dict[str, Column], Rows, npt.NDArray[np.float32]]:
        """Context columns, rows and numbers: of length one where they hold for all candidates, else one for each."""
        _refuse_unknown("context", context, self._allowed["context"])
        columns = {
            f.name: _column(f, [context[f.name]], f"context.{f.name}") if f.name in context else self._defaults[f.name]
            for f in self._contexts
        }
        if given:
            columns = {name: value.repeat(count, axis=0) for name, value in columns.items()}
            _overwrite(self._contexts, columns, given)
        length = count if given else 1
        return columns, self.rows(self._contexts, columns, length), self.numbers(self._contexts, columns, length)


class _Kind:
    """One behaviour group: which behaviours belong to it, and what their objects' ids and actions are."""

    def __init__(self, object_type: str, actions: Sequence[str], id_type: IdType):
        self.object_type, self.id_type = object_type, id_type
        self.action = {name: number for number, name in enumerate(actions, 1)}  # 0 is PAD

    def newest(
        self, behaviours: Sequence[Behaviour], length: int
    ) -> tuple[Keys, npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
        """Keys, times and actions of the newest `length` of the group, oldest first; and how many had a wrong id.

        Those of one millisecond stand in the order of their keys, then actions, as in the prepared training form.
        """
        seen, wrong = [b for b in behaviours if b.action in self.action and b.object_type == self.object_type], 0
        try:
            ids = keys([b.object_id for b in seen], self.id_type)
        except BadValue:
            right = [b for b in seen if _is_id(b.object_id, self.id_type)]
            seen, wrong = right, len(seen) - len(right)
            ids = keys([b.object_id for b in seen], self.id_type)
        times = np.fromiter((b.timestamp for b in seen), np.int64, len(seen))
        actions = np.fromiter((self.action[b.action] for b in seen), np.int64, len(seen))
        chosen = np.lexsort((actions, ids, times))[-length:]
        return ids[chosen], times[chosen], actions[chosen], wrong


def _for_each(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """A copy with one row for each of `count` candidates, of rows that are one each, or one for all."""
    return values.repeat(count // len(values), axis=0)


def network_inputs(**arrays: npt.NDArray[Any]) -> Inputs:
    """The arrays by name, without those of features that the schema does not have."""
    return {name: array for name, array in arrays.items() if name.startswith(("gap", "action")) or array.shape[-1]}


def _overwrite(
    features: Sequence[Feature], columns: dict[str, Column], given: Sequence[tuple[int, Mapping[str, Any]]]
) -> None:
    """Puts the values that candidates carry themselves over those of catalogue and defaults."""
    for feature in features if given else ():
        if feature.name == ITEM_ID:
            continue
        own = [(index, values[feature.name]) for index, values in given if feature.name in values]
        if own:
            places, values = zip(*own, strict=True)
            try:
                columns[feature.name][list(places)] = column(feature, values)
            except BadValue:  # say which
                for index, value in own:
                    _column(feature, [value], f"candidates[{index}].{feature.name}")
                raise


def _column(feature: Feature, values: Sequence[Any], where: str) -> Column:
    try:
        return column(feature, values)
    except BadValue as error:
        raise BadValue(f"{where}: {error}") from None


def _refuse_unknown(where: str, given: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise BadValue(
            f"{where}: unknown {', '.join(repr(n[:60]) for n in unknown[:3])}; allowed: {', '.join(allowed) or 'none'}"
        )


def _is_id(value: Any, kind: IdType) -> bool:
    try:
        canonical(value, kind)
    except BadValue:
        return False
    return True
