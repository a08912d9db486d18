"""A request's matches and statistics, all at once, are those of each candidate by itself."""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import pytest

from model.datasets.tables import DataSet
from model.features import ready
from model.features.behaviour import Behaviour, Behaviours
from model.features.catalog import Catalog
from model.features.cooccurrence import joined, mixed
from model.features.counts import Counts, Known, NoCounts, key_of_all, keys_of
from model.features.encode import Encoded, Encoder
from model.features.ids import FIRST, MISSING, UNKNOWN, key, keys
from model.features.kinds import MOST_DEVIATIONS
from model.features.lookup import Lookup, groups, rates_first
from model.features.schema import parse
from model.features.timeposition import time_positions
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from tests.derived import DAY, DERIVED, ZONE, match, statistic
from tests.worlds import FEATURES, write_log

MORE = [
    statistic("item_clicks", ["item_id"], "clicks"),
    statistic("item_rate_two_days", ["item_id"], "rate", days=2, smoothing=3.0),
    statistic("item_in_category_rate", ["item_id", "category_id"], "rate"),
    statistic("user_rate", ["user_id"], "rate"),
    statistic("age_count", ["age"], "count"),
    statistic("position_clicks", ["position"], "clicks", half_life_days=2),
    statistic("age_category_rate", ["age", "category_id"], "rate", smoothing=5.0),
    statistic("age_category_count", ["category_id", "age"], "count"),
    statistic("position_item_rate", ["position", "item_id"], "rate"),
    match("item_last", "item_id", "last", length=2, actions=["like"]),
]
REQUESTS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("same")
    write_log(folder)
    user_id = {"name": "user_id", "side": "user", "kind": "id", "width": 4}
    features = [user_id, *FEATURES, *DERIVED, *MORE]
    table = {"user_id": "str", "history": {"length": 3, "actions": ["click", "like"]}, "feature": features}
    encode_tables(folder, parse(table), DataSet("log", ZONE, 0))
    return Prepared(folder)


def requests(data: Prepared, seed: int = 11) -> Iterator[dict[str, Any]]:
    """Users and items known and unknown, candidates repeated, with values of their own, days before and after all."""
    draw = np.random.default_rng(seed)
    begins = data.encoder.counts.begins.astype(np.int64)  # type: ignore[attr-defined]
    for _ in range(REQUESTS):
        now = int(draw.choice([begins[-1] + DAY // 2, begins[2] + 5, begins[0] - 5], p=[0.8, 0.15, 0.05]))
        behaviours = [
            Behaviour(
                str(draw.choice(["click", "like", "buy"])),
                str(draw.choice(["item", "item", "item", "coupon"])),
                f"i{draw.integers(12) if draw.random() < 0.95 else draw.integers(36, 48)}",  # 40 are known
                now - int(draw.integers(1, 40)) * 60_000,  # ties
            )
            for _ in range(int(draw.choice([0, 1, 5, 80])))
        ]
        candidates: list[Any] = [f"i{draw.integers(48)}" for _ in range(int(draw.choice([1, 3, 30])))]
        if draw.random() < 0.3:
            candidates[0] = {"item_id": candidates[-1], "category_id": str(draw.choice(["c1", "none"]))}
        if draw.random() < 0.2:
            candidates[-1] = {"item_id": "i3", "position": int(draw.integers(1, 5))}
        yield {
            "user_id": f"u{draw.integers(33)}",
            "profile": {"age": str(draw.integers(20, 27))} if draw.random() < 0.7 else {},
            "behaviours": sorted(behaviours, key=lambda b: b.timestamp) if draw.random() < 0.5 else behaviours,
            "candidates": candidates,
            "context": {"position": 2} if draw.random() < 0.5 else None,
            "now": now,
        }


def encode(encoder: Encoder, request: dict[str, Any], catalog: Catalog) -> Encoded:
    parts = ("user_id", "profile", "behaviours", "candidates", "now")
    return encoder.encode(*(request[part] for part in parts), catalog, context=request["context"])


def plain_numbers(encoder: Encoder, encoded: Encoded, at: int, now: int) -> list[float]:
    """The statistics of one candidate, each counted and computed by itself."""
    made = []
    for one in encoder.schema.statistics:
        parts = [encoded.columns[part] for part in one.of]
        own = keys_of(one.counted, [part[[at if len(part) > 1 else 0]] for part in parts])
        (n,), (c,) = encoder.counts.before(now, own)
        (n_all,), (c_all,) = encoder.counts.before(now, np.array([key_of_all(one.counted)], np.uint64))
        p = (c_all + 1) / (n_all + 2)
        rate = (c + one.smoothing * p) / (n + one.smoothing)
        value = {
            "rate": math.log(rate / (1 - rate)) - math.log(p / (1 - p)),
            "count": math.log1p(n),
            "clicks": math.log1p(c),
        }[str(one.what)]
        mean, deviation = encoder.statistics.numbers[one.name]
        made.append(min(max((value - mean) / deviation, -MOST_DEVIATIONS), MOST_DEVIATIONS))
    return made


def cooccurrence(counts: Known, feature: str, own: int, value: int, now: int) -> float:
    one, other = (mixed(feature, np.array([value], np.uint64)) for value in (own, value))
    (apart,), (together,) = counts.before(now, joined(one, other))
    return float(together / (math.sqrt(apart) + 10))


def plain_matches(encoder: Encoder, encoded: Encoded, request: dict[str, Any], at: int, catalog: Catalog) -> list[int]:
    """The matches of one candidate, behaviour by behaviour."""
    schema, made = encoder.schema, []
    for one in schema.matches:
        actions, length = schema.view(one)
        own = int(encoded.columns[one.of[0]][at])
        seen = [b for b in request["behaviours"] if b.object_type == "item" and b.action in actions]
        order = {action: number for number, action in enumerate(schema.history.actions)}
        seen = sorted(seen, key=lambda b: (b.timestamp, key(b.object_id, "str"), order[b.action]))[-length:]
        items = keys([b.object_id for b in seen], "str")
        values = (items if one.of[0] == "item_id" else catalog.columns(items)[0][one.of[0]]).tolist()
        places = [place for place, value in enumerate(values) if value == own]
        if own == int(MISSING):
            made.append(UNKNOWN)
        elif one.what == "cooccurrence":
            goes = [cooccurrence(encoder.counts, one.of[0], own, value, request["now"]) for value in values]
            strength = max(goes, default=0.0)
            made.append(FIRST + int(strength > 0) + sum(strength >= 2 ** (-n / 2) for n in range(1, 19)))
        elif one.what == "count":
            made.append(FIRST + math.floor(2 * math.log2(1 + len(places))))
        elif one.what == "last":
            made.append(FIRST + int(places[-1:] == [len(seen) - 1]))
        elif one.what == "share":
            made.append(FIRST + math.ceil(16 * len(places) / max(1, len(seen))))
        else:
            newest = np.array([[seen[places[-1]].timestamp]]) if places else None
            gap = 0 if newest is None else int(time_positions(newest, np.array([request["now"]]))[0, 0])
            made.append(FIRST + gap)
    return made


def test_all_at_once_they_are_those_of_each_candidate_by_itself(data: Prepared) -> None:
    encoder, catalog = data.encoder, data.catalog
    places = encoder.schema.places("cross")
    at_places = [places[one.name].start for one in encoder.schema.matches]
    for request in requests(data):
        encoded = encode(encoder, request, catalog)
        for at in range(len(request["candidates"])):
            numbers = encoded.inputs["cross_numbers"][0, at]
            np.testing.assert_allclose(
                numbers, plain_numbers(encoder, encoded, at, request["now"]), rtol=1e-6, atol=1e-7
            )
            rows = encoded.inputs["cross"][0, at, at_places]
            assert rows.tolist() == plain_matches(encoder, encoded, request, at, catalog)


def test_whatever_was_asked_before_changes_no_bit(data: Prepared) -> None:
    """What is kept of a day is that of the day."""
    asked = list(requests(data))
    alone = [encode(data.encoder.with_counts(data.encoder.counts), request, data.catalog) for request in asked]
    kept = data.encoder.with_counts(data.encoder.counts)
    for number in np.random.default_rng(1).permutation(2 * len(asked)) % len(asked):
        for name, array in encode(kept, asked[number], data.catalog).inputs.items():
            np.testing.assert_array_equal(array, alone[number].inputs[name])


def hidden(request: dict[str, Any], data: Prepared) -> tuple[bool, bool]:
    """Whether the catalogue lacks one of the behaviours' items, and one of the candidates."""
    items = [[b.object_id for b in request["behaviours"]], [c for c in request["candidates"] if isinstance(c, str)]]
    seen, own = (not data.catalog.find(keys(ids, "str")).all_known for ids in items)
    return seen, own


EVERY = ready.MOST, ready.MOST_PAIRED, ready.MOST_JOINT


@pytest.mark.parametrize("most, paired, joint", [EVERY, (ready.MOST, 2, 50), (0, 0, 0)])
def test_what_was_made_ready_is_what_is_computed_to_the_bit(
    data: Prepared, monkeypatch: pytest.MonkeyPatch, most: int, paired: int, joint: int
) -> None:
    """On the newest day, which most requests see, and on days before, of which little is ready."""
    monkeypatch.setattr("model.features.encode.MOST", most)
    monkeypatch.setattr(ready, "MOST_PAIRED", paired)
    monkeypatch.setattr(ready, "MOST_JOINT", joint)
    counts = data.encoder.counts
    assert isinstance(counts, Counts)
    unready, known = data.encoder.with_counts(counts), data.encoder.ready_for(data.catalog)
    assert bool(known._ready) == bool(most) and bool(known._ready and known._ready.beforehand) == (paired > 2)
    of_pairs = {("category_id", "age"), ("item_id", "position")}
    assert not known._ready or set(known._ready.joints) == (of_pairs if joint > 50 else set())
    assert known.ready_for(data.catalog) is known or not most
    asked = [*requests(data), *requests(data, seed=12), *requests(data, seed=13)]
    assert {request["now"] >= counts.until_ms for request in asked} == {True, False}
    every = {(False, False), (False, True), (True, False), (True, True)}
    assert {hidden(request, data) for request in asked} == every
    for request in asked:
        one, other = (encode(encoder, request, data.catalog) for encoder in (known, unready))
        assert one.inputs.keys() == other.inputs.keys()
        for name, array in one.inputs.items():
            np.testing.assert_array_equal(array, other.inputs[name])
            assert array.dtype == other.inputs[name].dtype and array.flags.c_contiguous
        assert list(known.strangers(one)) and (known.states(one) == unready.states(other)).all()


def test_a_statistic_beside_many_values_is_not_made_ready(data: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them would cost a swap its time, however few categories there are."""
    monkeypatch.setattr("model.features.encode.MOST_LINES", 1)
    known = data.encoder.with_counts(data.encoder.counts).ready_for(data.catalog)
    assert known._ready is not None and known._ready.joints == {}


def test_another_catalogue_sees_nothing_of_what_was_made_ready_for_one(data: Prepared) -> None:
    """Which has fewer items: the others are as unknown to it as ever."""
    fewer = data.catalog.only(keys([f"i{n}" for n in range(20)], "str"))
    known = data.encoder.ready_for(data.catalog)
    swapped = known.ready_for(fewer)
    for request in requests(data):
        plain = encode(data.encoder, request, fewer).inputs
        for encoder in (known, swapped):
            for name, array in encode(encoder, request, fewer).inputs.items():
                np.testing.assert_array_equal(array, plain[name])


def test_every_value_that_was_counted_is_ready(data: Prepared) -> None:
    counts, table = data.encoder.counts, data.encoder.schema
    assert isinstance(counts, Counts)
    every = np.append(counts._table.items()[0], [MISSING, np.uint64(1)])  # and two that were not counted
    order = rates_first(table.statistics)
    keys_GN = np.tile(every, (len(groups(table, order)), 1))
    computed = Lookup(table, order, data.encoder.statistics.numbers, counts)
    known, too_many = copy(computed), copy(computed)
    known.make_ready()
    too_many.make_ready(most=100)
    expected = computed.numbers(keys_GN, True, counts.until_ms).astype(np.float32)
    np.testing.assert_array_equal(known.numbers(keys_GN, True, counts.until_ms), expected)
    assert known.numbers(keys_GN, True, counts.until_ms).dtype == np.float32  # float64 where they are computed
    assert too_many.numbers(keys_GN, True, counts.until_ms).dtype == np.float64
    assert known.numbers(keys_GN, True, counts.until_ms - 1).dtype == np.float64


def test_other_counts_see_nothing_of_what_was_kept(data: Prepared) -> None:
    asked = {"user_id": "u1", "profile": {}, "behaviours": [], "candidates": [f"i{n}" for n in range(40)]}
    asked |= {"context": None, "now": int(data.encoder.counts.begins[-1])}  # type: ignore[attr-defined]
    first = encode(data.encoder, asked, data.catalog).inputs["cross_numbers"]
    nothing = encode(data.encoder.with_counts(NoCounts()), asked, data.catalog).inputs["cross_numbers"]
    assert (nothing == nothing[:, :1]).all() and (nothing != first).any()
    np.testing.assert_array_equal(first, encode(data.encoder, asked, data.catalog).inputs["cross_numbers"])


def test_behaviours_in_columns_are_a_list_of_them() -> None:
    listed = [Behaviour("click", "item", f"i{n}", n) for n in range(5)] + [Behaviour("buy", "coupon", "c", 9)]
    columns: Sequence[Behaviour] = Behaviours.of(listed)
    assert columns == listed and listed == columns and columns != listed[:-1] and len(columns) == 6
    assert columns[-1] == listed[-1] and columns[1:3] == listed[1:3] and list(reversed(columns)) == listed[::-1]
    assert Behaviours.of([]) == [] and not Behaviours() and "i3" in repr(columns)


def test_a_sequence_in_columns_or_in_a_list_is_encoded_alike(data: Prepared) -> None:
    for request in requests(data):
        listed = encode(data.encoder, request, data.catalog)
        columns = encode(data.encoder, request | {"behaviours": Behaviours.of(request["behaviours"])}, data.catalog)
        for name, array in listed.inputs.items():
            np.testing.assert_array_equal(array, columns.inputs[name])
