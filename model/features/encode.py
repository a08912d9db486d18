"""Columns → the arrays that a network reads, for training and serving alike: no other code makes network input.

A network's input is a dict of these arrays (N: columns of that side, as `features.toml` orders them):

    user (U, N) · item (U, C, N) · context (U, C, N) · cross (U, C, N)     rows of embedding tables
    history (U, T, N)                                                      rows of the sequence features, oldest first
    gap, action (U, T)                                                     time buckets, actions; PAD in unused slots
    history_<g> (U, T, 1) · gap_<g>, action_<g> (U, T)                     likewise, of each further behaviour group g
    user_numbers (U, N) · item_numbers, context_numbers, cross_numbers (U, C, N)    standardised numbers

An array of no columns is left out.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features import schema as features_toml
from model.features.behaviour import Behaviour, BehaviourGroup
from model.features.catalog import FOLDER, Catalog
from model.features.compared import Keyed
from model.features.counts import FILE as COUNTS
from model.features.counts import Counts, Known, NoCounts
from model.features.crosses import Crosses
from model.features.ids import FIRST, MISSING, PAD, UNKNOWN, BadValue, Keys, keys
from model.features.joint import MOST_LINES
from model.features.kinds import ITEM_ID, USER_ID, Column, Feature, Rows, Side, standardised
from model.features.ready import MOST, OfRequest, ReadyItems, numbers_of
from model.features.schema import Schema
from model.features.table import Table, Vocabulary
from model.features.timeposition import time_positions
from model.features.today import Calendar

Inputs = dict[str, npt.NDArray[Any]]
Which = npt.NDArray[np.bool_]
Candidate = str | int | Mapping[str, Any]  # a bare item id, or {"item_id": ..., feature: value, ...}


@dataclass(frozen=True)
class Statistics:
    """What is fitted on the training split: rows of every table, mean and deviation of every standardised number.

    And the log's time zone, in whose days a `today` counts.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    time_zone: str = "UTC"


@dataclass(frozen=True)
class Encoded:
    """One request as the network sees it, and what the encoder noticed on the way."""

    inputs: Inputs  # U = 1
    history_length: int  # behaviours that the network sees
    unknown_items: int  # candidates without an embedding of their own
    future: int  # behaviours stamped ahead of `now`, taken as just now
    malformed: int  # profile values and behaviours of the wrong type, left out
    holes: int  # elements of lists that hold nothing (["a", null]), left out
    columns: Mapping[str, Column]  # what was encoded of user, candidates and context; one row where all are alike


class Encoder:
    """Encodes by one feature table, its vocabularies, what was fitted, and what was counted until a day."""

    def __init__(
        self,
        schema: Schema,
        vocabularies: Mapping[str, Vocabulary],
        statistics: Statistics,
        counts: Known | None = None,
    ):
        self.schema = schema
        self.vocabularies = vocabularies
        self.statistics = statistics
        of_items = schema.history
        known = NoCounts() if counts is None else counts  # a file may know nothing yet
        self.crosses = Crosses(schema, statistics.numbers, statistics.time_zone, known)
        views = self.crosses.views
        # All that is looked at, of which the network's own history is the newest part. The newest of a rare action may
        # be older than all of these.
        self._longest = max([of_items.length, *(view.length for view in views if view.acted is None)])
        self._rare = [view for view in views if view.acted is not None]
        read = sys.maxsize if self._rare else self._longest
        self._history = BehaviourGroup(of_items.object_type, of_items.actions, schema.item_id.type, read)
        self._groups = [
            (group.feature, BehaviourGroup(group.object_type, group.actions, group.type, group.length))
            for group in schema.groups
        ]
        self._users, self._items, self._contexts = (schema.side(side) for side in ("user", "item", "context"))
        self._listed = [f for f in (*self._items, *self._contexts) if f.listed]
        self._ready: ReadyItems | None = None
        self._defaults = {f.name: f.column([f.default]) for f in self._contexts}
        self._edges = np.array(schema.history.gap_edges_s, np.int64)
        place_of = schema.places("item")
        self._item_place = place_of[ITEM_ID].start
        in_sequence = [place_of[feature.name] for feature in schema.sequence]
        self._sequence_places = np.array([p for at in in_sequence for p in range(at.start, at.stop)], np.int64)
        sides: tuple[Side, ...] = ("user", "item", "context")
        self._stated = [
            (feature, side, schema.places(side)[feature.name].start if not feature.is_float else 0)
            for side in sides
            for feature in schema.side(side)
        ]
        self._allowed = {
            "user": tuple(f.name for f in schema.side("user") if f.name != USER_ID),
            "candidate": tuple(f.name for f in (*schema.side("item"), *schema.side("context"))),
            "context": tuple(f.name for f in schema.side("context")),
        }

    @classmethod
    def open(cls, folder: Path) -> "Encoder":
        """The encoder in a bundle or a prepared data set: `features.toml` and `vocab/`, tables memory-mapped.

        Raises SchemaError, ValueError for a file that is broken or does not go with `features.toml`, and OSError.
        """
        schema = features_toml.load(folder / "features.toml")
        statistics = _statistics(folder / "vocab" / "statistics.json", schema)
        vocabularies = {
            f.name: _vocabulary(folder / "vocab" / f"{f.name}.npy") for f in schema.embedded if f.has_vocabulary
        }
        counts = Counts.open(folder / FOLDER / COUNTS, schema) if schema.counting else None
        return cls(schema, vocabularies, statistics, counts)

    @property
    def counts(self) -> Known:
        """What was counted until a day."""
        return self.crosses.counts

    @property
    def calendar(self) -> Calendar:
        """The days of the log."""
        return self.crosses.calendar

    def with_counts(self, counts: Known) -> "Encoder":
        """The same with other counts; nothing of it keeps these. What was made ready stays where they are the same."""
        other = copy(self)
        other.crosses = self.crosses.with_counts(counts)
        if not (isinstance(counts, Counts) and counts.shares(self.counts)):
            other._ready = None
        return other

    def ready_for(self, catalog: Catalog, pause: Callable[[], object] = lambda: None) -> "Encoder":
        """The same, by what requests ask of that catalogue's items, computed beforehand; they then cost less.

        Of a catalogue of too many items nothing but the statistics is (ready.py, lookup.py). `pause` is called between
        steps.
        """
        if self._ready is not None and self._ready.are_of(catalog, self.counts):
            return self
        other = copy(self)
        other.crosses = self.crosses.made_ready()
        parts = other.crosses.parts
        joints = {
            pair: (of_pair, self.vocabularies[pair[1]].keys)
            for pair, of_pair in parts.items()
            if pair and self.statistics.rows[pair[1]] - FIRST <= MOST_LINES  # before its keys are looked for
        }
        alone = parts.get(None)
        few = catalog.places * numbers_of(self.schema, alone) <= MOST
        rows_of = partial(_rows, self.vocabularies, self._items)  # not of this encoder, which keeps its catalogue
        other._ready = ReadyItems(self.schema, catalog, self.counts, rows_of, alone, joints, pause) if few else None
        return other

    def save(self, vocab: Path) -> None:
        """Writes the vocabularies and statistics into the folder `vocab`."""
        vocab.mkdir(parents=True, exist_ok=True)
        for name, vocabulary in self.vocabularies.items():
            vocabulary.table.save(vocab / f"{name}.npy")
        kept: dict[str, Any] = {"rows": dict(self.statistics.rows), "numbers": dict(self.statistics.numbers)}
        if self.schema.todays:
            kept["time_zone"] = self.statistics.time_zone
        (vocab / "statistics.json").write_text(json.dumps(kept, indent=1) + "\n")

    def table_rows(self, feature: Feature) -> int:
        """Rows of a feature's embedding table."""
        return feature.fixed_rows or self.statistics.rows[feature.name]

    # ---- columns → arrays: prepare calls these on whole tables, `encode` on one request

    def rows(self, features: Sequence[Feature], columns: Mapping[str, Column], count: int) -> Rows:
        """Table rows of the features that are not plain numbers, (count, N): N counts a multi's places one by one."""
        return _rows(self.vocabularies, features, columns, count)

    def numbers(
        self, features: Sequence[Feature], columns: Mapping[str, Column], count: int
    ) -> npt.NDArray[np.float32]:
        """Standardised numbers, (count, N); a missing one is 0, the mean."""
        fitted = self.statistics.numbers
        floats = [feature for feature in features if feature.is_float]
        if not floats:
            return np.zeros((count, 0), np.float32)
        values = np.stack([columns[feature.name] for feature in floats], axis=-1)
        mean, deviation = np.array([fitted[feature.name] for feature in floats]).T
        return standardised(values, mean, deviation).astype(np.float32)

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
        shown_today: int = -1,
    ) -> Encoded:
        """Network input of one request, U = 1 and C = len(candidates), at the recommending time `now` (ms).

        `profile` is the store's text, in which a wrong value is left out; `user`, `context` and the candidates' own
        features are the caller's, win over profile, defaults and catalogue, and raise BadValue when wrong.
        `shown_today` are the impressions of the day of `now`, as the store has them; -1: it did not say.
        """
        profile_columns, malformed, holes = self._profile(user_id, profile, user or {})
        seen, seen_at, seen_as, wrong = self._history.newest(behaviours)
        if self._rare:
            looked_at = self._looked_at(seen_as)
            seen, seen_at, seen_as = seen[looked_at], seen_at[looked_at], seen_as[looked_at]
        begin = max(0, len(seen) - self.schema.history.length)  # of what the network itself sees
        times, actions = seen_at[begin:], seen_as[begin:]
        ids, own = self._candidates(candidates)
        count = len(ids)

        both = np.concatenate([seen, ids])  # clicks and candidates are looked up at once
        known = catalog.find(both)
        items = {**known.columns, ITEM_ID: both}
        item_columns = {name: values[len(seen) :] for name, values in items.items()}
        _overwrite(self._items, item_columns, own)
        gap = time_positions(seen_at[None], np.array([now]), self._edges)[0]
        ready = None
        if self._ready is not None and not own and self._ready.are_of(catalog, self.counts):
            ready = OfRequest(self._ready, known, items, len(seen), now)
        compared = ready or Keyed(items, len(seen), self.counts, now)
        found = self.crosses.found(compared, gap, seen_at, seen_as, now, shown_today)
        if ready:
            rows = ready.rows(begin)
        else:
            shown = {name: values[begin:] for name, values in items.items()}
            rows = self.rows(self._items, shown, len(times) + count)
        sequence_rows, item_rows = rows[: len(times)].take(self._sequence_places, axis=1), rows[len(times) :]
        if context or own:
            context_columns, context_rows, context_numbers = self._contexts_of(context or {}, count, own)
        else:
            context_columns, context_rows, context_numbers = self._neutral

        sequences = self._sequence("", sequence_rows, gap[begin:], actions)
        future, length = int(np.count_nonzero(times > now)), len(times)
        for feature, group in self._groups:
            objects, times, actions, malformed_here = group.newest(behaviours)
            rows = feature.rows(objects, self.vocabularies)
            gap = time_positions(times[None], np.array([now]), self._edges)[0]
            sequences |= self._sequence(f"_{group.object_type}", rows, gap, actions)
            wrong += malformed_here
            future += int(np.count_nonzero(times > now))

        columns = {**profile_columns, **item_columns, **context_columns}
        cross, cross_numbers = self.crosses.rows_and_numbers(found, columns, count, bool(own), now, ready)
        inputs = network_inputs(
            user=self.rows(self._users, profile_columns, 1),
            item=item_rows[None],
            context=_for_each(context_rows, count)[None],
            cross=cross[None],
            **sequences,
            user_numbers=self.numbers(self._users, profile_columns, 1),
            item_numbers=self.numbers(self._items, item_columns, count)[None],
            context_numbers=_for_each(context_numbers, count)[None],
            cross_numbers=cross_numbers[None],
        )
        return Encoded(
            inputs=inputs,
            history_length=length,
            unknown_items=int(np.count_nonzero(item_rows[:, self._item_place] == UNKNOWN)),
            future=future,
            malformed=malformed + wrong,
            holes=holes + self._holes(context or {}, own),
            columns=columns,
        )

    @property
    def stated(self) -> tuple[str, ...]:
        """The features of user, item and context (F,), in the order of `states`."""
        return tuple(feature.name for feature, _, _ in self._stated)

    def states(self, encoded: Encoded) -> Keys:
        """How many values of each of the `stated` features are known, unknown and missing, (F, 3).

        Unknown: training saw it too rarely for a row of its own. Of a list the first value counts.
        """
        states = np.zeros((len(self._stated), 3), np.uint64)
        for at, (_, _, unknown, missing) in enumerate(self.strangers(encoded)):
            counted = int(np.count_nonzero(unknown)), int(np.count_nonzero(missing))
            states[at] = len(unknown) - sum(counted), *counted
        return states

    def strangers(self, encoded: Encoded) -> Iterator[tuple[str, Side, Which, Which]]:
        """Of each of the `stated` features its name, its side, and which values are unknown, which missing, (n,) each.

        n is C, or 1 where one value holds for all candidates.
        """
        for feature, side, place in self._stated:
            column = encoded.columns[feature.name]
            missing = feature.missing(column)
            unknown: Which = np.zeros(len(column), bool)
            if feature.has_vocabulary:
                rows = encoded.inputs[side].reshape(-1, encoded.inputs[side].shape[-1])[: len(column), place]
                unknown = (rows == UNKNOWN) & ~missing  # a missing value has the row of the unknown
            yield feature.name, side, unknown, missing

    def slots(self, behaviours: Sequence[Behaviour]) -> list[list[Behaviour]]:
        """What stands in the slots of the network's histories, oldest first: of items, then of each further group."""
        newest = self._history.slots(behaviours)[-self.schema.history.length :]
        return [newest, *(group.slots(behaviours) for _, group in self._groups)]

    def _looked_at(self, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Which of a user's behaviours (T,) history or matches look at, oldest first."""
        looked_at = np.zeros(len(actions), bool)
        looked_at[-self._longest :] = True
        for view in self._rare:
            looked_at[view.chosen(actions)] = True
        return np.flatnonzero(looked_at)

    def _profile(
        self, user_id: int | str, profile: Mapping[str, str], user: Mapping[str, Any]
    ) -> tuple[dict[str, Column], int, int]:
        _refuse_unknown("user", user, self._allowed["user"])
        columns, malformed, holes = {}, 0, 0
        for feature in self._users:
            name = feature.name
            if name == USER_ID:
                columns[name] = feature.column([user_id])
            elif name in user:
                columns[name] = _column(feature, [user[name]], f"user.{name}")
                holes += feature.holes([user[name]])
            else:
                try:
                    value = feature.from_text(profile[name]) if name in profile else None
                    columns[name] = feature.column([value])
                    holes += feature.holes([value])
                except BadValue:  # another program wrote it: the request is not to blame
                    columns[name], malformed = feature.column([None]), malformed + 1
        return columns, malformed, holes

    def _holes(self, context: Mapping[str, Any], own: Sequence[tuple[int, Mapping[str, Any]]]) -> int:
        """Of the lists in the context and in candidates."""
        carried = (context, *(features for _, features in own)) if self._listed else ()
        return sum(f.holes([values[f.name]]) for values in carried for f in self._listed if f.name in values)

    def _sequence(self, suffix: str, rows: Rows, gap: npt.NDArray[np.int64], actions: npt.NDArray[np.int64]) -> Inputs:
        """A group's three inputs, U = 1; an empty one is one padded slot: no operator meets an axis of size 0."""
        if not len(gap):
            empty = np.full((1, 1), PAD, np.int64)
            return {
                f"history{suffix}": np.full((1, 1, rows.shape[-1]), PAD, np.int64),
                f"gap{suffix}": empty,
                f"action{suffix}": empty,
            }
        return {f"history{suffix}": rows[None], f"gap{suffix}": gap[None], f"action{suffix}": actions[None]}

    def _candidates(self, candidates: Sequence[Candidate]) -> tuple[Keys, list[tuple[int, Mapping[str, Any]]]]:
        types = set(map(type, candidates))
        bare_ids = types <= {str, int}  # the usual case
        own = [] if bare_ids else [(index, c) for index, c in enumerate(candidates) if isinstance(c, Mapping)]
        for index, features in own:
            if features.get(ITEM_ID) is None:
                raise BadValue(f"candidates[{index}]: {ITEM_ID} is missing")
            _refuse_unknown(f"candidates[{index}]", features, self._allowed["candidate"])
        bare = [c[ITEM_ID] if isinstance(c, Mapping) else c for c in candidates] if own else candidates
        try:
            ids = keys(bare, self.schema.item_id.type, types if bare_ids else None)
        except BadValue:
            for index, item in enumerate(bare):
                _column(self.schema.item_id, [item], f"candidates[{index}]")
            raise
        if not bare_ids and (ids == MISSING).any():  # None has a key, but is no item
            raise BadValue(f"candidates[{int((ids == MISSING).argmax())}]: None given, an item id is allowed")
        return ids, own

    @cached_property
    def _neutral(self) -> tuple[dict[str, Column], Rows, npt.NDArray[np.float32]]:
        """The context of a request that names none."""
        return self._contexts_of({}, 1, [])

    def _contexts_of(
        self, context: Mapping[str, Any], count: int, own: Sequence[tuple[int, Mapping[str, Any]]]
    ) -> tuple[dict[str, Column], Rows, npt.NDArray[np.float32]]:
        """Context columns, rows and numbers: of length one where they hold for all candidates, else one for each."""
        _refuse_unknown("context", context, self._allowed["context"])
        columns = {
            f.name: _column(f, [context[f.name]], f"context.{f.name}") if f.name in context else self._defaults[f.name]
            for f in self._contexts
        }
        if own:
            columns = {name: value.repeat(count, axis=0) for name, value in columns.items()}
            _overwrite(self._contexts, columns, own)
        length = count if own else 1
        return columns, self.rows(self._contexts, columns, length), self.numbers(self._contexts, columns, length)


def _statistics(path: Path, schema: Schema) -> Statistics:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    rows, numbers = (content.get(name) if isinstance(content, dict) else None for name in ("rows", "numbers"))
    if not isinstance(rows, dict) or not isinstance(numbers, dict):
        raise ValueError(f"{path}: tables `rows` and `numbers` are needed")
    wanting = [f.name for f in schema.embedded if f.name not in (numbers if f.is_float else rows)]
    wanting = [name for name in wanting if name not in {f.name for f in schema.embedded if f.fixed_rows}]
    if wanting:
        raise ValueError(f"{path}: nothing of {', '.join(wanting)}, which features.toml declares")
    time_zone = content.get("time_zone", "UTC")
    try:
        Calendar(time_zone)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Statistics(rows, numbers, time_zone)


def _vocabulary(path: Path) -> Vocabulary:
    try:
        return Vocabulary(Table.open(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing, the vocabulary of a feature that features.toml declares") from None
    except (ValueError, IndexError, EOFError) as error:  # IndexError: an array without fields
        raise ValueError(f"{path} is cut off or no vocabulary ({error})") from None


def _rows(
    vocabularies: Mapping[str, Vocabulary], features: Sequence[Feature], columns: Mapping[str, Column], count: int
) -> Rows:
    rows = [f.rows(columns[f.name], vocabularies) for f in features if not f.is_float]
    return np.concatenate(rows, axis=-1) if rows else np.zeros((count, 0), np.int64)


def _for_each(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """A copy with one row for each of `count` candidates, of rows that are one each, or one for all."""
    return values.repeat(count // len(values), axis=0)


def network_inputs(**arrays: npt.NDArray[Any]) -> Inputs:
    """The arrays by name, without those of features that the schema does not have."""
    return {name: array for name, array in arrays.items() if name.startswith(("gap", "action")) or array.shape[-1]}


def _overwrite(
    features: Sequence[Feature], columns: dict[str, Column], own: Sequence[tuple[int, Mapping[str, Any]]]
) -> None:
    """Puts the values that candidates carry themselves over those of catalogue and defaults."""
    for feature in features if own else ():
        if feature.name == ITEM_ID:
            continue
        carried = [(index, values[feature.name]) for index, values in own if feature.name in values]
        if carried:
            places, values = zip(*carried, strict=True)
            try:
                columns[feature.name][list(places)] = feature.column(values)
            except BadValue:  # say which
                for index, value in carried:
                    _column(feature, [value], f"candidates[{index}].{feature.name}")
                raise


def _column(feature: Feature, values: Sequence[Any], where: str) -> Column:
    try:
        return feature.column(values)
    except BadValue as error:
        raise BadValue(f"{where}: {error}") from None


def _refuse_unknown(where: str, values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = [name for name in values if name not in allowed]
    if unknown:
        raise BadValue(
            f"{where}: unknown {', '.join(repr(n[:60]) for n in unknown[:3])}; allowed: {', '.join(allowed) or 'none'}"
        )
