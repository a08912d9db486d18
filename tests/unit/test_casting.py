"""Own tables: common types give the same canonical tables; a value that would lose something is told."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

from model.features import schema as features_toml
from model.features.behaviour import looks_like
from tests.own_tables import (
    FEATURES,
    SCHEMA,
    assert_canonical,
    own_tables,
    read,
    refusal,
    schema_of,
    write,
)

UNITS: tuple[Literal["ms", "us", "ns"], ...] = ("ms", "us", "ns")
NAIVE, IN_UTC = (pl.col("timestamp").cast(pl.Datetime("ms", zone)) for zone in (None, "UTC"))
WHOLE = [pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64, pl.Decimal(38, 0)]
SAME: dict[str, tuple[str, str, pl.Expr]] = {  # table, column, as another tool has it
    **{f"ids as {dtype}": ("impressions", "item_id", pl.col("item_id").cast(dtype)) for dtype in WHOLE},
    "ids with zeros before": ("impressions", "user_id", pl.format("00{}", "user_id")),
    "ids as whole floats in text": ("behaviours", "object_id", pl.format("{}.0", "object_id")),
    "ids as a dictionary": ("items", "item_id", pl.col("item_id").cast(pl.String).cast(pl.Categorical)),
    "ids as an enum": ("users", "user_id", pl.col("user_id").cast(pl.String).cast(pl.Enum(["7", "8"]))),
    "actions as a dictionary": ("behaviours", "action", pl.col("action").cast(pl.Categorical)),
    **{
        f"times in {unit} without a zone": ("impressions", "timestamp", NAIVE.dt.cast_time_unit(unit)) for unit in UNITS
    },
    **{f"times in {unit}, UTC": ("impressions", "timestamp", IN_UTC.dt.cast_time_unit(unit)) for unit in UNITS},
    "times elsewhere": ("impressions", "timestamp", IN_UTC.dt.convert_time_zone("Asia/Tokyo")),
    "times with microseconds": (
        "impressions",
        "timestamp",
        NAIVE.dt.cast_time_unit("us").dt.offset_by("7us"),
    ),
    "times as floats": ("impressions", "timestamp", pl.col("timestamp").cast(pl.Float64)),
    "times as decimals": ("impressions", "timestamp", pl.col("timestamp").cast(pl.Decimal(20, 3))),
    "times as digits": ("impressions", "timestamp", pl.col("timestamp").cast(pl.String)),
    "times as text": ("impressions", "timestamp", NAIVE.cast(pl.String)),
    "times as text with a zone": (
        "impressions",
        "timestamp",
        NAIVE.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    ),
    "times as text elsewhere": (
        "impressions",
        "timestamp",
        NAIVE.dt.offset_by("2h").dt.strftime("%Y-%m-%dT%H:%M:%S+02:00"),
    ),
    "labels as switches": ("impressions", "label", pl.col("label").cast(pl.Boolean)),
    "labels as floats": ("impressions", "label", pl.col("label").cast(pl.Float32)),
    "labels as decimals": ("impressions", "label", pl.col("label").cast(pl.Decimal(3, 1))),
    "labels as digits": ("impressions", "label", pl.col("label").cast(pl.String)),
    "labels as words": ("impressions", "label", pl.col("label").cast(pl.Boolean).cast(pl.String)),
    "labels as Python's words": ("impressions", "label", pl.col("label").replace_strict({1: "True", 0: "False"})),
    "numbers as decimals": ("items", "price", pl.col("price").cast(pl.Decimal(10, 2))),
    "numbers as text": ("items", "price", pl.col("price").cast(pl.String)),
    "numbers with NaN": ("items", "price", pl.col("price").fill_null(float("nan"))),
    "numbers with NaN in text": ("items", "price", pl.col("price").cast(pl.String).fill_null("NaN")),
    "categories as floats": ("items", "brand", pl.col("brand").cast(pl.Float64).fill_null(float("nan"))),
    "categories as text": ("items", "brand", pl.col("brand").cast(pl.String)),
    "categories as whole floats in text": ("items", "brand", pl.col("brand").cast(pl.Float64).cast(pl.String)),
    "text as a dictionary": ("items", "title", pl.col("title").cast(pl.Categorical)),
    "lists of a dictionary": ("items", "tags", pl.col("tags").cast(pl.List(pl.Categorical))),
}


@pytest.mark.parametrize("case", SAME)
def test_a_type_that_holds_the_meaning_gives_the_same_tables(tmp_path: Path, case: str) -> None:
    table, column, changed = SAME[case]
    own = own_tables()
    own[table] = own[table].with_columns(changed.alias(column))
    raw = write(tmp_path / "raw", own)

    assert_canonical(read(raw, tmp_path / "out")[1])


@pytest.mark.parametrize(
    ("feature", "values", "right"),
    [
        ("title", pl.Series([1, 2, 3]), ["1", "2", "3"]),
        ("title", pl.Series([21.0, float("nan"), 3.0]), ["21", None, "3"]),
        ("title", pl.Series([True, None, False]), ["1", None, "0"]),  # as the store has them
        ("title", pl.Series([(1 << 64) - 1, 2, 3], dtype=pl.UInt64), [str((1 << 64) - 1), "2", "3"]),
        ("title", pl.Series([date(2026, 1, 1), None, None]), ["2026-01-01", None, None]),
        ("title", pl.Series([datetime(2026, 1, 1, 1, 30), None, None]), ["2026-01-01T01:30:00Z", None, None]),
        ("title", pl.Series([b"raw", None, b"\xff"]), None),
        ("brand", pl.Series([True, None, False]), [1, None, 0]),
        ("brand", pl.Series(["true", "007", "-3"]), [1, 7, -3]),
        ("brand", pl.Series([Decimal("21.00"), None, Decimal("3.00")]), [21, None, 3]),
        ("brand", pl.Series([date(2026, 1, 1), None, None]), [1_767_225_600_000, None, None]),
        ("price", pl.Series([True, None, False]), [1.0, None, 0.0]),
        ("price", pl.Series(["1e3", " none ", ".5"]), [1000.0, None, 0.5]),
        ("price", pl.Series([Decimal("0.07"), None, Decimal("123456.78")]), [0.07, None, 123456.78]),
        ("tags", pl.Series([[1, None], [], None]), [["1", None], [], None]),
        ("tags", pl.Series([[1.0, float("nan")], [], None]), [["1", None], [], None]),
        ("tags", pl.Series(['["a", 5]', "", "[]"]), [["a", "5"], None, []]),
        ("tags", pl.Series([["a"], ["b"], ["c"]], dtype=pl.Array(pl.String, 1)), [["a"], ["b"], ["c"]]),
    ],
)
def test_a_feature_gets_what_its_declaration_needs(
    tmp_path: Path, feature: str, values: pl.Series, right: list[Any] | None
) -> None:
    own = own_tables()
    own["items"] = own["items"].with_columns(values.alias(feature))
    raw = write(tmp_path / "raw", own)

    if right is None:
        assert "row 3: title: " in refusal(raw, tmp_path / "out")
    else:
        assert read(raw, tmp_path / "out")[1]["items"][feature].to_list() == right


def test_ids_of_text_are_text_and_integers_are_their_digits(tmp_path: Path) -> None:
    own = own_tables()
    own["users"] = own["users"].with_columns(pl.col("user_id").cast(pl.String))
    raw = write(tmp_path / "raw", own)

    for number, (schema, users) in enumerate(((SCHEMA, [7, 8]), (None, [7, 8]), (schema_of("str"), ["7", "8"]))):
        tables = read(raw, tmp_path / str(number), schema)[1]
        assert tables["users"]["user_id"].to_list() == users
        assert tables["impressions"]["user_id"].unique().sort().to_list() == users


def test_large_ids_are_taken_as_text_alone(tmp_path: Path) -> None:
    own, large = own_tables(), (1 << 64) - 2
    for table, column in (("impressions", "item_id"), ("behaviours", "object_id"), ("items", "item_id")):
        own[table] = own[table].with_columns(pl.col(column).cast(pl.UInt64).replace({2: large}))
    raw = write(tmp_path / "raw", own)

    assert read(raw, tmp_path / "out", schema_of(item="str"))[1]["items"]["item_id"].to_list() == ["1", str(large), "3"]
    message = refusal(raw, tmp_path / "no")
    assert f"behaviours.parquet, row 2: object_id: {large} given, integers of 64 bits" in message
    assert message.endswith("or item_id declared str in features.toml")


@pytest.mark.parametrize("groups", [[], [{"object_type": "word", "actions": ["search"], "type": "str"}]])
def test_objects_that_are_no_items_may_have_ids_of_text(tmp_path: Path, groups: list[dict[str, Any]]) -> None:
    own = own_tables()
    own["behaviours"] = own["behaviours"].with_columns(
        action=pl.Series(["click", "search"]),
        object_type=pl.Series(["item", "word"]),
        object_id=pl.Series(["001", "é 1"]),
    )
    raw = write(tmp_path / "raw", own)

    tables = read(raw, tmp_path / "out", features_toml.parse(FEATURES | {"group": groups}))[1]

    assert tables["behaviours"]["object_id"].to_list() == ["1", "é 1"]
    assert tables["items"]["item_id"].to_list() == [1, 2, 3]


def test_columns_that_no_feature_names_are_passed_on_but_for_nested_ones(tmp_path: Path) -> None:
    own = own_tables()
    own["users"] = own["users"].with_columns(
        email=pl.lit("a@b.c"),
        balance=pl.lit(Decimal("1.25")),
        since=pl.lit(date(2020, 2, 29)),
        address=pl.struct(street=pl.lit("x")),
        pairs=pl.Series([[[1]], [[2]]]),
        photo=pl.lit(b"\xff"),
    )
    made, tables = read(write(tmp_path / "raw", own), tmp_path / "out")

    assert tables["users"].row(0, named=True) == {
        "user_id": 7,
        "email": "a@b.c",
        "balance": 1.25,
        "since": "2020-02-29",
        "pairs": [[1]],
    }
    assert made.notes == ("users: address, photo not used, nested values are no features",)


@pytest.mark.parametrize(
    "split", [["train", "Validation", "test", "train"], [0, 1, 2, 0], [0.0, 1.0, 2.0, 0.0], list("0120")]
)
def test_a_split_is_a_word_or_a_number(tmp_path: Path, split: list[Any]) -> None:
    own = own_tables()
    own["impressions"] = own["impressions"].with_columns(split=pl.Series(split))

    tables = read(write(tmp_path / "raw", own), tmp_path / "out")[1]

    assert tables["impressions"]["split"].to_list() == [0, 1, 2, 0] and tables["impressions"]["split"].dtype == pl.Int8


# --- what is refused ----------------------------------------------------------------------------------------------

REFUSED = [  # table, column, value of the second row (as the column's type), what is said
    ("impressions", "timestamp", 1_767_268_800, "timestamp: 1767268800 looks like seconds, multiply by 1000; mill"),
    ("impressions", "timestamp", 1_767_268_800_000_000, "timestamp: 1767268800000000 looks like microseconds, div"),
    ("behaviours", "timestamp", 1_767_268_800_000_000_000, "timestamp: 1767268800000000000 looks like nanoseconds"),
    ("behaviours", "timestamp", -1, "timestamp: -1 lies before 1970; milliseconds since 1970"),
    ("behaviours", "timestamp", 1_767_268_800.5, "timestamp: 1767268800.5 looks like seconds"),
    ("impressions", "timestamp", None, "timestamp: nothing given, milliseconds since 1970"),
    ("impressions", "timestamp", datetime(1970, 1, 2, tzinfo=UTC), "timestamp: 1970-01-02 00:00:00+00 given, times"),
    ("impressions", "timestamp", "01/02/2026", "timestamp: '01/02/2026' is no time; milliseconds since 1970"),
    ("impressions", "label", 0.5, "label: 0.5 given, 0 or 1 are allowed"),
    ("impressions", "label", "yes", "label: yes given, 0 or 1 are allowed"),
    ("impressions", "label", float("nan"), "label: NaN given, 0 or 1 are allowed"),
    ("impressions", "split", 258, "split: 258 given, train, validation, test or 0 to 2 are allowed"),
    ("impressions", "split", None, "split: nothing given, train, validation, test or 0 to 2 are allowed"),
    ("impressions", "split", "dev", "split: dev given, train, validation, test or 0 to 2 are allowed"),
    ("impressions", "watch_ms", -1, "watch_ms: -1 given, 0 or more are allowed"),
    ("impressions", "user_id", float("nan"), "user_id: NaN given, whole numbers below 2^53"),
    ("impressions", "user_id", 7.5, "user_id: 7.5 given, whole numbers below 2^53"),
    ("impressions", "user_id", 2.0**53, "user_id: 9007199254740992.0 given, whole numbers below 2^53, where floats"),
    ("impressions", "user_id", "u8", "user_id: u8 given, integers of 64 bits"),
    ("impressions", "slot", 1.5, "slot: 1.5 given, integers are allowed, as features.toml declares it int"),
    ("impressions", "user_id", " ", "user_id: nothing given, integers or strings are allowed"),
    ("items", "tags", '[["x"]]', 'tags: [["x"]] given, lists of strings, in text as JSON'),
    ("items", "brand", "b", "brand: b given, integers are allowed, as features.toml declares it int"),
    ("items", "title", 2.5, "title: 2.5 given, strings or whole numbers are allowed, as features.toml declares it str"),
    ("items", "price", "1,5", "price: 1,5 given, finite numbers of 32 bits are allowed"),
    ("items", "price", 1e39, "price: 1e+39 given, finite numbers of 32 bits are allowed"),
    ("items", "tags", [2.5], "tags: [2.5] given, lists of strings or whole numbers are allowed"),
    ("items", "tags", "a|b", "tags: a|b given, lists of strings, in text as JSON"),
    ("items", "item_id", 1, "item_id: 1 stands in an earlier row, one row each is allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "column", "value", "said"), REFUSED)
def test_what_would_lose_something_is_told_by_file_row_column_and_value(
    tmp_path: Path, table: str, column: str, value: Any, said: str
) -> None:
    own = own_tables()
    own["impressions"] = own["impressions"].with_columns(split=pl.lit(0), watch_ms=pl.lit(0))
    first, _, *others = own[table][column].to_list()
    if isinstance(value, datetime):
        first, *others = [datetime.fromtimestamp(at / 1000, UTC) for at in (first, *others)]
    if isinstance(value, str):
        first, *others = [None if isinstance(v, list | None) else str(v) for v in (first, *others)]
    if column in ("title", "tags") and not isinstance(value, str):
        first, *others = [None for _ in (first, *others)]
    dtype = own[table].schema[column] if value is None else pl.Series([value]).dtype
    own[table] = own[table].with_columns(pl.Series(column, [first, value, *others], dtype=dtype, strict=False))
    raw = write(tmp_path / "raw", own)

    assert f"{table}.parquet, row 2: {said}" in refusal(raw, tmp_path / "out")
    made, tables = read(raw, tmp_path / "skipped", skip_bad=1) if table != "impressions" else (None, {})
    assert made is None or (made.bad_lines == 1 and len(tables[table]) == len(own[table]) - 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('["a"]', 'title: ["a"] given, strings or whole numbers are allowed'),
        ('{"a": 1}', 'title: {"a":1} given, strings or whole numbers are allowed'),
        ("1.5", "title: 1.5 given, strings or whole numbers are allowed"),
    ],
)
def test_a_value_of_json_is_no_text_because_it_can_be_written(tmp_path: Path, value: str, said: str) -> None:
    raw = write(tmp_path / "raw", own_tables())
    (raw / "items.parquet").unlink()
    lines = [f'{{"item_id": {n}, "price": 1, "brand": 21, "title": "t", "tags": []}}' for n in (1, 2, 3)]
    lines[1] = lines[1].replace('"t"', value)
    (raw / "items.jsonl").write_text("\n".join(lines))

    assert f"items.jsonl, line 2: {said}" in refusal(raw, tmp_path / "out")


def test_whole_floats_and_switches_of_json_are_as_those_of_columns(tmp_path: Path) -> None:
    own = own_tables()
    raw = write(tmp_path / "raw", own)
    for name in ("impressions", "items", "users"):
        (raw / f"{name}.parquet").unlink()
    shown = own["impressions"].with_columns(pl.col("user_id", "item_id", "label").cast(pl.Float64))
    (raw / "impressions.jsonl").write_text(shown.write_ndjson())
    (raw / "users.jsonl").write_text('{"user_id": 7.0}\n{"user_id": "8"}\n')
    (raw / "items.jsonl").write_text(
        '{"item_id": 1.0, "price": "2", "brand": true, "title": 3.0, "tags": [true, null, 2.0, "z"]}\n'
        '{"item_id": "2", "price": 2.5, "brand": 7.0, "title": true, "tags": null}\n{"item_id": 3, "tags": []}\n'
    )

    _, tables = read(raw, tmp_path / "out", schema_of("str", "str"))

    assert tables["impressions"]["user_id"].to_list() == ["7", "8", "7", "8"]
    assert tables["users"]["user_id"].to_list() == ["7", "8"]
    assert tables["items"].select("item_id", "price", "brand", "title", "tags").rows() == [
        ("1", 2.0, 1, "3", ["1", None, "2", "z"]),
        ("2", 2.5, 7, "1", None),
        ("3", None, None, None, []),
    ]


def test_spaces_around_numbers_of_text_are_none_of_theirs(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", own_tables())
    (raw / "impressions.parquet").unlink()
    text = own_tables()["impressions"].write_csv()
    (raw / "impressions.csv").write_text(text.replace(",", " , "))

    assert_canonical(read(raw, tmp_path / "out")[1])


def test_a_table_whose_features_are_named_must_be_there(tmp_path: Path) -> None:
    own = own_tables()
    del own["items"]
    said = "holds no items, of which features.toml names price, brand, title, tags; items.parquet, .csv"
    assert said in refusal(write(tmp_path / "items", own), tmp_path / "no-items")


def test_digits_that_are_another_text_than_the_number_of_another_table_are_refused(tmp_path: Path) -> None:
    own = own_tables()
    own["users"] = pl.DataFrame({"user_id": ["007", "8"]})
    said = "users.parquet: user_id is text ('007'), but user_id of behaviours.parquet is BIGINT"
    assert said in refusal(write(tmp_path / "raw", own), tmp_path / "out", schema_of("str"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1_795_652_411, "1795652411 looks like seconds, multiply by 1000; milliseconds since 1970 (100000000000 to"),
        (1_795_652_411_000_000, "1795652411000000 looks like microseconds, divide by 1000; milliseconds since 1970"),
        (1_795_652_411_000_000_000, "1795652411000000000 looks like nanoseconds, divide by 1000000; milliseconds"),
        (-1, "-1 lies before 1970; milliseconds since 1970"),
        (5, "5 given, milliseconds since 1970"),
        ("noon", "'noon' is no time; milliseconds since 1970"),
        (None, "'None' is no time; milliseconds since 1970"),
    ],
)
def test_a_time_in_another_unit_is_told_as_what_it_looks_like(value: Any, said: str) -> None:
    assert looks_like(value).startswith(said)
