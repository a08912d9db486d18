"""Ids: coercion, refusal, hashing and tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.features.direct import Direct
from model.features.ids import (
    ABSENT,
    FIRST,
    MISSING,
    UNKNOWN,
    BadValue,
    canonical,
    crossed,
    hashed_rows,
    key,
    keys,
    mix,
    mix_one,
)
from model.features.table import SMALL, Table, Vocabulary


@pytest.mark.parametrize(
    ("given_", "kind", "canon"), [(7, "int", 7), ("7", "int", 7), ("-7", "int", -7), (7, "str", "7")]
)
def test_an_integer_and_its_decimal_text_are_one_id(given_: object, kind: str, canon: object) -> None:
    assert canonical(given_, kind) == canon  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", [True, 1.0, 1.5, "1.0", "", " 1", "x", "٣", None, [], 2**63, -(2**63), "9" * 30, "--1"]
)
def test_what_is_no_integer_is_refused_with_what_is_allowed(value: object) -> None:
    with pytest.raises(BadValue, match="integer"):
        canonical(value, "int")


@pytest.mark.parametrize("value", [True, 1.0, None, [], {}])
def test_what_is_no_string_is_refused_with_what_is_allowed(value: object) -> None:
    with pytest.raises(BadValue, match="a string is allowed"):
        canonical(value, "str")


def test_a_string_key_is_its_xxh3_hash_and_does_not_change_with_releases() -> None:
    assert key("i1", "str") == 0x4E5C1B441FF8643E
    assert key(-1, "int") == 2**64 - 1
    cross = crossed(["age_x_item"], [[keys(["30"], "str"), keys(["i1"], "str")]])
    assert cross.tolist() == [[12654003903117772596]]


@given(st.lists(st.one_of(st.text(max_size=5), st.integers(-(2**63) + 2, 2**63 - 1), st.none()), max_size=20))
def test_an_array_of_ids_has_the_keys_of_its_members(values: list[object]) -> None:
    try:
        alone = [key(value, "str") for value in values]
    except BadValue:
        return
    assert keys(values, "str").tolist() == alone


@given(st.lists(st.integers(-(2**63) + 2, 2**63 - 1), max_size=20))
def test_integers_keep_their_keys_in_an_array_and_in_numpy(values: list[int]) -> None:
    alone = [key(value, "int") for value in values]
    assert keys(values, "int").tolist() == alone
    assert keys(np.array(values, np.int64), "int").tolist() == alone
    assert keys([np.int64(value) for value in values], "int").tolist() == alone


def test_the_reserved_keys_belong_to_no_value() -> None:
    with pytest.raises(BadValue):
        keys([-(2**63)], "int")
    with pytest.raises(BadValue):
        keys(np.array([-(2**63) + 1]), "int")
    assert key(None, "int") == key(None, "str") == MISSING


@pytest.mark.parametrize("size", [0, 1, 5, 8, 9, 1000, 50_000, 200_000])
def test_a_vocabulary_finds_every_key_and_nothing_else(size: int) -> None:
    draw = np.random.default_rng(size)
    known = draw.choice(2**40, size, replace=False).astype(np.uint64)
    vocabulary = Vocabulary.build(known, FIRST + np.arange(size))
    assert vocabulary.rows(known).tolist() == list(range(FIRST, FIRST + size))
    strangers = np.array([2**41, 2**41 + 1, MISSING, ABSENT], np.uint64)
    assert vocabulary.rows(strangers).tolist() == [UNKNOWN] * 4


def test_keys_that_all_hash_to_one_bucket_are_still_found() -> None:
    """Overflow goes on into the next bucket, also past the table's end."""
    draw = np.random.default_rng(0).choice(2**50, 200_000, replace=False).astype(np.uint64)
    sample = Table.build(draw[:1000], {})
    buckets = len(sample.buckets)
    crowded = draw[(mix(draw) & np.uint64(buckets - 1)) == buckets - 1][:40]
    others = draw[:900][~np.isin(draw[:900], crowded)]
    known = np.concatenate([crowded, others])
    vocabulary = Vocabulary.build(known, FIRST + np.arange(len(known)))
    assert len(vocabulary.table.buckets) == buckets and len(crowded) > 3 * 8
    assert vocabulary.rows(known).tolist() == list(range(FIRST, FIRST + len(known)))


@pytest.mark.parametrize("spread", [0, 20, 40, 50])
def test_a_row_is_the_same_by_perfect_hash_by_bucket_and_one_by_one(spread: int) -> None:
    """Keys that differ in a few bits only are as good as any."""
    known = np.arange(3000, dtype=np.uint64) << np.uint64(spread)
    asked = np.concatenate([known + np.uint64(1), known[:7], [MISSING, ABSENT]])
    table = Table.build(known[:2000], {"row": FIRST + np.arange(2000)})
    found, bucket, slot = table.find(asked)
    by_bucket = np.where(found, *table.values(["row"], bucket, slot), UNKNOWN)
    vocabulary = Vocabulary(table)
    assert len(table.buckets) < SMALL and vocabulary._direct
    np.testing.assert_array_equal(vocabulary.rows(asked), by_bucket)
    np.testing.assert_array_equal([vocabulary.rows(asked[at : at + 1])[0] for at in range(len(asked))], by_bucket)
    np.testing.assert_array_equal(vocabulary.rows(asked[:3000].reshape(500, 2, 3)).reshape(-1), by_bucket[:3000])


def test_a_perfect_hash_of_nothing_knows_nothing() -> None:
    none = Direct(np.empty(0, np.uint64), np.empty(0, np.int64))
    assert none.rows(np.array([0, MISSING, ABSENT], np.uint64)).tolist() == [UNKNOWN] * 3


def test_a_table_reads_values_of_any_width() -> None:
    draw, known = np.random.default_rng(0), np.arange(500, dtype=np.uint64)
    columns = {f"w{width}": draw.random((500, width)) for width in (1, 2, 3, 4, 6, 8, 12)} | {"one": draw.random(500)}
    table = Table.build(known, columns)
    _, *place = table.find(known)
    for name, values in zip(columns, table.values(list(columns), *place), strict=True):
        np.testing.assert_array_equal(values, columns[name])
    with pytest.raises(ValueError, match="'half' is <f2"):
        Table.build(known, {"half": np.zeros(500, "<f2")})


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_keys_are_mixed_alike_alone_and_in_an_array(values: list[int]) -> None:
    assert mix(np.array(values, np.uint64)).tolist() == [mix_one(value) for value in values]


def test_rows_never_move_when_ids_are_added() -> None:
    known = np.array([5, 9, 1], np.uint64)
    vocabulary = Vocabulary.build(known, np.array([2, 3, 4])).grown(np.array([9, 77, 78, 77, MISSING], np.uint64))
    assert vocabulary.rows(np.array([5, 9, 1, 77, 78], np.uint64)).tolist() == [2, 3, 4, 5, 6]


def test_a_table_refuses_a_key_that_stands_twice() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Table.build(np.array([1, 1], np.uint64), {})


def test_hashed_rows_stay_within_their_buckets_and_missing_is_unknown() -> None:
    rows = hashed_rows(np.arange(10_000).astype(np.uint64), 50)
    assert rows.min() == FIRST and rows.max() == FIRST + 49
    assert np.bincount(rows - FIRST).std() < 3 * np.sqrt(200)
    assert hashed_rows(np.array([MISSING]), 50).tolist() == [UNKNOWN]


def test_a_cross_depends_on_every_part_on_their_order_and_on_its_name() -> None:
    a, b = np.array([1, 2, 1], np.uint64), np.array([2, 1, 3], np.uint64)
    one = crossed(["x"], [[a, b]])[0]
    assert len(set(one.tolist())) == 3
    assert one[0] == crossed(["x"], [[b, a]])[0, 1] != crossed(["x"], [[b, a]])[0, 0]
    assert (one != crossed(["y"], [[a, b]])).all()


def test_a_cross_with_a_missing_part_is_missing() -> None:
    assert crossed(["x"], [[np.array([MISSING]), np.arange(3).astype(np.uint64)]]).tolist() == [[MISSING] * 3]


def test_crosses_made_at_once_are_those_made_one_by_one() -> None:
    crosses = [[np.array([1, 2, MISSING], np.uint64), np.array([7], np.uint64)], [np.array([3], np.uint64)] * 2]
    one, other = crossed(["x", "y"], crosses)
    assert one.tolist() == crossed(["x"], crosses[:1])[0].tolist() and one[2] == MISSING
    assert other.tolist() == crossed(["y"], crosses[1:])[0].tolist() * 3
    pair, alone = crossed(["x", "z"], [crosses[0], crosses[0][:1]])  # of fewer parts
    assert pair.tolist() == one.tolist() and alone.tolist() == crossed(["z"], [crosses[0][:1]])[0].tolist()
