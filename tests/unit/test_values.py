"""Values that tables hold in many ways, holes and missing ones among them, are one value in training and serving."""

import asyncio
import math
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.datasets.tables import DataSet
from model.features.behaviour import Behaviour
from model.features.ids import ABSENT, FIRST, MISSING, UNKNOWN, BadValue, key
from model.features.kinds import Feature, declared, to_text
from model.features.schema import parse
from model.features.wanted import Wanted
from model.graph import golden
from model.prepared.encode import encode_tables
from model.prepared.entities import PrepareError, series_column
from model.prepared.loader import Prepared
from model.prepared.summary import warnings
from service.call import Call
from service.rank import rank
from service.store.history import Stored
from service.wire.shapes import parse as request_of
from tests.worlds import HOUR

NAN = float("nan")


def feature(kind: str, **options: Any) -> Feature:
    return declared({"name": "x", "side": "item", "kind": kind} | options)


NUMBER, LOG = (feature("number", transform=transform) for transform in ("standard", "log"))
TAGS, CODES = feature("multi", max_values=2), feature("multi", max_values=2, type="int")
TEXT, WHOLE = feature("category"), feature("category", type="int")


@pytest.mark.parametrize(
    ("of", "value", "request_value"),
    [
        (WHOLE, 21.0, 21),
        (WHOLE, np.float64(21), 21),
        (WHOLE, Decimal("21.00"), 21),
        (WHOLE, True, 1),
        (WHOLE, NAN, None),
        (WHOLE, "007", 7),
        (TEXT, 21.0, "21"),
        (TEXT, False, "0"),
        (TEXT, date(2024, 5, 1), "2024-05-01"),
        (TEXT, datetime(2024, 5, 1, 12, 0, 0, 500_000), "2024-05-01T12:00:00.5Z"),
        (TEXT, datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2))), "2024-05-01T10:00:00Z"),
        (WHOLE, date(1970, 1, 2), 86_400_000),
        (NUMBER, datetime(1970, 1, 1, 0, 0, 1), 1000),
        (TEXT, np.str_("a"), "a"),
        (TEXT, NAN, None),
        (NUMBER, Decimal("9.99"), 9.99),
        (NUMBER, Decimal("NaN"), None),
        (NUMBER, True, 1),
        (NUMBER, np.int64(3), 3),
        (NUMBER, "2.5", 2.5),
        (NUMBER, " ", None),
        (LOG, NAN, None),
        (TAGS, ["a", None, "b", "c"], ["a", "b"]),
        (TAGS, [None, None], []),
        (TAGS, [], []),
        (TAGS, None, []),
        (TAGS, "", []),
        (TAGS, '["a", null, "b"]', ["a", "b"]),
        (TAGS, ("a", "b"), ["a", "b"]),
        (TAGS, np.array(["a", "b"]), ["a", "b"]),
        (CODES, [1.0, NAN, 2.0], [1, 2]),
        (CODES, np.array([1.0, NAN]), [1]),
        (CODES, "[1, 2.0]", [1, 2]),
    ],
)
def test_a_tables_value_is_that_of_a_request_and_of_the_store(of: Feature, value: Any, request_value: Any) -> None:
    expected = of.column([request_value])
    np.testing.assert_array_equal(of.column([of.from_table(value)]), expected)
    text = of.stored(value)
    np.testing.assert_array_equal(of.column([None if text is None else of.from_text(text)]), expected)


@pytest.mark.parametrize(
    ("of", "value", "says"),
    [
        (WHOLE, 21.5, "21.5 given, an integer is allowed"),
        (WHOLE, math.inf, "inf given, an integer is allowed"),
        (WHOLE, Decimal("Infinity"), "inf given, an integer is allowed"),
        (WHOLE, [1], "[1] given, an integer is allowed"),
        (TEXT, 1.5, "1.5 given, a string is allowed"),
        (TEXT, ["a"], "['a'] given, a string is allowed"),
        (NUMBER, math.inf, "inf given, a finite number of 32 bits is allowed"),
        (NUMBER, "1,5", "'1,5' given, a number is allowed"),
        (LOG, -math.inf, "-inf given, a finite number of 32 bits is allowed"),
        (LOG, [1.0], "[1.0] given, a number is allowed"),
        (TAGS, "a|b", '\'a|b\' given, a JSON list is allowed: ["a", "b"]'),
        (TAGS, '"a"', "'a' given, a list is allowed"),
        (TAGS, [["a"]], "['a'] given, a string is allowed"),
        (TAGS, 3, "3 given, a list is allowed"),
        (CODES, [1.5], "1.5 given, an integer is allowed"),
    ],
)
def test_what_would_lose_something_is_refused(of: Feature, value: Any, says: str) -> None:
    with pytest.raises(BadValue) as error:
        of.stored(value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("of", "value", "says"),
    [
        (WHOLE, 1.0, "1.0 given, an integer is allowed: write 1"),
        (WHOLE, True, "True given, an integer is allowed: write 1"),
        (TEXT, True, "True given, a string is allowed: write 1"),
        (TEXT, 1.5, "1.5 given, a string is allowed: put it in quotes"),
        (TAGS, '["a"]', "given, a list is allowed"),
        (NUMBER, True, "True given, a number is allowed"),
    ],
)
def test_a_requests_value_is_held_to_its_type_and_told_what_to_write(of: Feature, value: Any, says: str) -> None:
    with pytest.raises(BadValue) as error:
        of.column([value])
    assert says in str(error.value)


def test_holes_are_left_out_before_the_cut_and_counted() -> None:
    lists = [["a", None, "b"], [None], [], None, [NAN, "c"]]
    a, b, c = (key(tag, "str") for tag in "abc")
    assert TAGS.column(lists).tolist() == [[a, b], *[[ABSENT, ABSENT]] * 3, [c, ABSENT]]
    assert TAGS.holes(lists) == 3 and TEXT.holes(["a", None]) == 0
    assert to_text(["a", None, "ü"]) == '["a", "ü"]' and to_text((1, NAN)) == "[1]"


@pytest.mark.parametrize("of", [NUMBER, LOG, TEXT, WHOLE, TAGS, CODES])
def test_a_missing_value_is_the_empty_columns(of: Feature) -> None:
    values = [None] if of.typed else [None, NAN, "nan"]
    for value in values:
        np.testing.assert_array_equal(of.column([value]), of.empty(1))


@pytest.mark.parametrize(
    ("of", "series", "values"),
    [
        (WHOLE, pl.Series([21.0, None, NAN]), [21, None, None]),
        (WHOLE, pl.Series([True, None]), [1, None]),
        (TEXT, pl.Series([1, None, 1]), ["1", None, "1"]),
        (NUMBER, pl.Series([Decimal("1.25"), None]), [1.25, None]),
        (NUMBER, pl.Series([True, None]), [1, None]),
        (NUMBER, pl.Series(["1.5", ""]), [1.5, None]),
        (TAGS, pl.Series([["a", None], None]), [["a"], None]),
        (TAGS, pl.Series(['["a"]', None]), [["a"], None]),
        (CODES, pl.Series([[1.0, NAN], []]), [[1], []]),
        (CODES, pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2)), [[1, 2]]),
    ],
)
def test_a_column_of_any_type_that_holds_the_values_is_read(of: Feature, series: pl.Series, values: list[Any]) -> None:
    np.testing.assert_array_equal(series_column(of, series), of.column(values))


@pytest.mark.parametrize("of", [TEXT, WHOLE, NUMBER])
def test_a_column_of_lists_where_one_value_is_declared_is_refused(of: Feature) -> None:
    with pytest.raises(PrepareError, match=r"column x: .*\[1\]|column x: List\(Int64\) given, .* is allowed"):
        series_column(of, pl.Series([[1], [2]]))


# ---- missing values of every kind and side, from tables to arrays and from requests to arrays

KINDS: list[dict[str, Any]] = [
    {"name": "mean", "kind": "number", "transform": "standard"},
    {"name": "log", "kind": "number", "transform": "log", "width": 4},
    {"name": "text", "kind": "category", "width": 4},
    {"name": "whole", "kind": "category", "type": "int", "width": 4},
    {"name": "tags", "kind": "multi", "max_values": 2, "width": 4},
    {"name": "codes", "kind": "multi", "max_values": 2, "type": "int", "width": 4},
]
DEFAULTS = {"mean": 0.0, "log": 0.0, "text": "a", "whole": 1}
VALUES: dict[str, list[Any]] = {
    "mean": [1.0, None, NAN, 3.0],
    "log": [None, 7.0, NAN, 1.0],
    "text": ["a", None, "b", "a"],
    "whole": [None, 1, 2, 1],
    "tags": [["a", None, "b", "c"], None, [], [None]],
    "codes": [[1.0, NAN], [2.0, 1.0, None], None, []],
}


def of_side(side: str) -> list[dict[str, Any]]:
    """Every kind, a context's lists apart: it has one value each."""
    features = [f | {"name": f"{side}_{f['name']}", "side": side} for f in KINDS]
    if side == "context":
        features = [f | {"default": DEFAULTS[kind]} for f in features if (kind := f["name"][8:]) in DEFAULTS]
    return features


def columns(side: str, count: int) -> dict[str, list[Any]]:
    names = [f["name"] for f in of_side(side)]
    return {name: [VALUES[name.removeprefix(f"{side}_")][(n + n // 4) % 4] for n in range(count)] for name in names}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("values")
    tables = folder / "tables"
    tables.mkdir()
    count, start = 240, 1_700_006_400_000
    users, items = [f"u{n}" for n in range(12)], [f"i{n}" for n in range(12)]
    times = [start + n * HOUR // 2 for n in range(count)]
    shown = {"user_id": [users[n % 12] for n in range(count)], "item_id": [items[n * 5 % 12] for n in range(count)]}
    shown |= {"timestamp": times, "label": [n % 2 for n in range(count)]}
    pl.DataFrame(shown | columns("context", count)).write_parquet(tables / "impressions.parquet")
    clicked = {"user_id": shown["user_id"], "action": ["click"] * count, "object_type": ["item"] * count}
    clicked |= {"object_id": shown["item_id"], "timestamp": times}
    pl.DataFrame(clicked).write_parquet(tables / "behaviours.parquet")
    for name, ids, side in (("users", users, "user"), ("items", items, "item")):
        pl.DataFrame({f"{side}_id": ids} | columns(side, 12), strict=False).write_parquet(tables / f"{name}.parquet")
    of_all = [f for side in ("user", "item", "context") for f in of_side(side)]
    item_id = {"name": "item_id", "side": "item", "kind": "id", "sequence_width": 8}
    schema = parse({"user_id": "str", "history": {"length": 3}, "feature": [item_id, *of_all]})
    encode_tables(folder, schema, DataSet("log", "UTC", 0))
    return Prepared(folder)


def test_prepare_tells_of_the_holes_in_lists_by_column(data: Prepared) -> None:
    assert data.meta["summary"]["list_holes"] == {"users.user_tags": 6, "users.user_codes": 3} | {
        "items.item_tags": 6,
        "items.item_codes": 3,
    }
    assert "users.user_tags: 6 elements of lists hold nothing and were left out" in warnings(data.meta)


def test_missing_values_of_every_kind_and_side_are_served_as_they_were_trained(data: Prepared) -> None:
    rows = np.arange(len(data.time))
    recorded = golden.requests(data, rows, 40, 1, np.random.default_rng(0))
    chosen = np.sort(np.random.default_rng(0).choice(rows, 40, replace=False))
    missing, numbers = set(), set()
    for row, request in zip(chosen, recorded, strict=True):
        served = data.encoder.encode(
            request["user_id"],
            request["profile"],
            [Behaviour(*behaviour) for behaviour in request["behaviours"]],
            request["candidates"],
            request["now"],
            data.catalog,
            context={f.name: request["context"].get(f.name) for f in data.schema.side("context")},
        )
        assert served.malformed == 0
        trained = data.batch(np.array([row]))
        for name in ("user", "item", "context", "user_numbers", "item_numbers", "context_numbers"):
            np.testing.assert_array_equal(trained[name], served.inputs[name], err_msg=f"{name} of impression {row}")
        for side in ("user", "item", "context"):
            missing |= {(side, at) for at, v in enumerate(served.inputs[side].reshape(-1)) if v == UNKNOWN}
            numbers.add((side, float(served.inputs[f"{side}_numbers"].reshape(-1)[0]) == 0))
    assert {side for side, _ in missing} == {"user", "item", "context"}
    assert numbers == {(side, at_the_mean) for side in ("user", "item", "context") for at_the_mean in (True, False)}


def test_a_missing_number_in_a_request_is_missing_whatever_it_is_written_as(data: Prepared) -> None:
    def user(profile: dict[str, str], values: dict[str, Any]) -> list[list[float]]:
        inputs = data.encoder.encode("u0", profile, [], ["i0"], 1_700_006_400_000, data.catalog, user=values).inputs
        return [inputs["user"].tolist()[0], inputs["user_numbers"].tolist()[0]]

    absent = user({}, {})
    for nothing in (None, NAN):
        assert user({"user_mean": "9", "user_log": "9"}, {"user_mean": nothing, "user_log": nothing}) == absent
    assert user({"user_mean": "nan", "user_log": "nan"}, {}) == absent
    assert absent[0][0] == UNKNOWN and absent[1] == [0.0]


def test_holes_in_profile_request_and_candidate_are_counted(data: Prepared) -> None:
    encode, now = data.encoder.encode, 1_700_006_400_000
    assert encode("u0", {"user_tags": '["a", null]'}, [], ["i0"], now, data.catalog).holes == 1
    encoded = encode(
        "u0", {}, [], ["i0", {"item_id": "i1", "item_tags": [None, "b"]}], now, data.catalog, user={"user_tags": [None]}
    )
    assert encoded.holes == 2 and encoded.malformed == 0
    place = data.schema.places("item")["item_tags"].start
    assert encoded.inputs["item"][0, 1, place] >= FIRST
    assert int(MISSING) not in TAGS.column([[None, "b"]])[0].tolist()


def test_a_ranked_request_says_how_many_holes_it_had(data: Prepared) -> None:
    async def read(users: Any, wanted: Any, timeout_s: Any) -> list[Stored]:
        return [Stored({"user_codes": "[null, 1]"}, [], 0)]

    async def score(inputs: Any, call: Any) -> Any:
        return np.zeros(inputs["item"].shape[1])

    wanted = Wanted.of(data.schema)
    served: Any = SimpleNamespace(encoder=data.encoder, catalog=data.catalog, score=score, wanted=wanted)
    history: Any = SimpleNamespace(read=read)
    body = (
        b'{"user_id": "u0", "candidates": [{"item_id": "i1", "item_tags": ["a", null]}], "user": {"user_tags": [null]}}'
    )
    ranked = asyncio.run(rank(Call("1", 0.0), request_of(body, 10), 1_700_006_400_000, history, served))
    assert (ranked.holes, ranked.malformed) == (3, 0)
