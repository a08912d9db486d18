"""A user's own tables: common formats and types give the same canonical ones; what would lose something is told."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

from model import prepare
from model.datasets import parquet
from model.datasets.own.sources import opened
from model.datasets.tables import TABLES, DataError, DataSet, MalformedLine, Options
from model.engine import engine
from model.features import schema as features_toml
from model.features.behaviour import looks_like

NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC
DAY = 86_400_000

FEATURES: dict[str, Any] = {
    "user_id": "int",
    "history": {"actions": ["click"]},
    "feature": [
        {"name": "item_id", "side": "item", "kind": "id", "type": "int", "sequence_width": 4},
        {"name": "price", "side": "item", "kind": "number", "transform": "log"},
        {"name": "brand", "side": "item", "kind": "category", "type": "int"},
        {"name": "title", "side": "item", "kind": "category", "type": "str"},
        {"name": "tags", "side": "item", "kind": "multi", "type": "str", "max_values": 3},
        {"name": "slot", "side": "context", "kind": "category", "type": "int", "default": 1},
    ],
}
SCHEMA = features_toml.parse(FEATURES)


def schema_of(user: str = "int", item: str = "int") -> features_toml.Schema:
    first, *others = FEATURES["feature"]
    return features_toml.parse(FEATURES | {"user_id": user, "feature": [first | {"type": item}, *others]})


def own_tables() -> dict[str, pl.DataFrame]:
    """Ids, times and values that every type in the tests below can hold."""
    return {
        "impressions": pl.DataFrame(
            {
                "user_id": [7, 8, 7, 8],
                "item_id": [1, 2, 3, 1],
                "timestamp": [NOON, NOON + DAY, NOON + DAY, NOON + 2 * DAY],
                "label": [1, 0, 0, 1],
                "slot": [1, 2, None, 1],
            }
        ),
        "behaviours": pl.DataFrame(
            {
                "user_id": [7, 8],
                "action": ["click", "click"],
                "object_type": ["item", "item"],
                "object_id": [1, 2],
                "timestamp": [NOON - DAY, NOON - DAY],
            }
        ),
        "items": pl.DataFrame(
            {
                "item_id": [1, 2, 3],
                "price": [0.5, None, 12.25],
                "brand": [21, None, 22],
                "title": ['a "quoted", one', "two\nlines", "drei €"],
                "tags": [["x", None], [], ["y", "z"]],
            }
        ),
        "users": pl.DataFrame({"user_id": [7, 8]}),
    }


def write(raw: Path, tables: dict[str, pl.DataFrame]) -> Path:
    raw.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(raw / f"{name}.parquet")
    return raw


def read(
    raw: Path, out: Path, schema: features_toml.Schema | None = SCHEMA, **options: Any
) -> tuple[DataSet, dict[str, pl.DataFrame]]:
    out.mkdir()
    made = parquet.write_tables(raw, out, Options(memory_gib=0.5, **options), schema)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.parquet" for name in TABLES)
    return made, {name: pl.read_parquet(out / f"{name}.parquet") for name in TABLES}


def refusal(raw: Path, out: Path, schema: features_toml.Schema | None = SCHEMA, **options: Any) -> str:
    with pytest.raises(DataError) as refused:
        read(raw, out, schema, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def canonical_tables() -> dict[str, pl.DataFrame]:
    own = own_tables()
    own["impressions"] = own["impressions"].with_columns(pl.col("label").cast(pl.Int8))
    return own


def assert_canonical(tables: dict[str, pl.DataFrame]) -> None:
    for name, table in canonical_tables().items():
        assert tables[name].equals(table) and tables[name].schema == table.schema, name


# --- formats ------------------------------------------------------------------------------------------------------


def as_text(table: pl.DataFrame) -> pl.DataFrame:
    """Lists as JSON, which is how text holds them."""
    lists = [name for name, dtype in table.schema.items() if dtype == pl.List]
    return table.with_columns(
        pl.Series(name, [json.dumps(values) for values in table[name].to_list()]) for name in lists
    )


def csv_bytes(table: pl.DataFrame, separator: str = ",") -> bytes:
    return as_text(table).write_csv(separator=separator).encode()


def parts(folder: Path, table: pl.DataFrame, suffix: str, to: Callable[[pl.DataFrame, Path], Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "_SUCCESS").touch()
    (folder / f".part-0.{suffix}.crc").write_bytes(b"crc")
    for number, row in enumerate(range(0, len(table), 1), 8):  # 8, 9, 10, 11: by number, not by letter
        to(table[row : row + 1], folder / f"part-{number}.{suffix}")


def csv_parts(folder: Path, table: pl.DataFrame) -> None:
    parts(folder, table, "csv", lambda part, path: path.write_bytes(csv_bytes(part)))


WRITERS: dict[str, Callable[[Path, str, pl.DataFrame], Any]] = {
    "parquet": lambda raw, name, table: table.write_parquet(raw / f"{name}.parquet", row_group_size=1),
    "folder of Spark": lambda raw, name, table: parts(
        raw / f"{name}.parquet", table, "snappy.parquet", lambda part, path: part.write_parquet(path)
    ),
    "folder without a suffix": lambda raw, name, table: parts(
        raw / name / "deeper", table, "parquet", lambda part, path: part.write_parquet(path)
    ),
    "csv": lambda raw, name, table: (raw / f"{name}.csv").write_bytes(csv_bytes(table)),
    "csv of Excel": lambda raw, name, table: (raw / f"{name}.csv").write_bytes(
        b"\xef\xbb\xbf" + csv_bytes(table, ";").replace(b"\n", b"\r\n").replace(b"two\r\nlines", b"two\nlines")
    ),
    "csv, blank lines, no last end": lambda raw, name, table: (raw / f"{name}.csv").write_bytes(
        csv_bytes(table).replace(b"\n", b"\n\n", 1).rstrip(b"\n")
    ),
    "csv.gz in two members": lambda raw, name, table: (raw / f"{name}.csv.gz").write_bytes(
        gzip.compress(csv_bytes(table)[:40]) + gzip.compress(csv_bytes(table)[40:])
    ),
    "tsv": lambda raw, name, table: (raw / f"{name}.tsv").write_bytes(csv_bytes(table, "\t")),
    "folder of csv": lambda raw, name, table: csv_parts(raw / f"{name}.csv", table),
    "jsonl": lambda raw, name, table: table.write_ndjson(raw / f"{name}.jsonl"),
    "json, blank lines and a mark": lambda raw, name, table: (raw / f"{name}.json").write_bytes(
        b"\xef\xbb\xbf" + table.write_ndjson().replace("\n", "\r\n  \n\n").encode()
    ),
    "ndjson.gz": lambda raw, name, table: (raw / f"{name}.ndjson.gz").write_bytes(
        gzip.compress(table.write_ndjson().encode())
    ),
    "folder of jsonl": lambda raw, name, table: parts(
        raw / name, table, "jsonl", lambda part, path: part.write_ndjson(path)
    ),
}


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_gives_the_same_tables(tmp_path: Path, format: str) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, table in own_tables().items():
        WRITERS[format](raw, name, table)

    made, tables = read(raw, tmp_path / "out")

    assert made == DataSet("parquet", "UTC")
    assert_canonical(tables)


def test_folders_called_key_and_value_are_columns(tmp_path: Path) -> None:
    own = own_tables()
    raw = write(tmp_path / "raw", own | {"impressions": own["impressions"].drop("slot")})
    (raw / "impressions.parquet").unlink()
    for slot, part in zip((2, 1), (own["impressions"][:2], own["impressions"][2:]), strict=True):
        folder = raw / "impressions" / f"slot={slot}"
        folder.mkdir(parents=True)
        part.drop("slot").write_parquet(folder / "0.parquet")

    assert read(raw, tmp_path / "out")[1]["impressions"]["slot"].to_list() == [1, 1, 2, 2]  # folders by their names


def test_parts_may_differ_in_types_and_in_columns_that_may_be_missing(tmp_path: Path) -> None:
    """pandas writes integers with gaps as floats, part by part; above 2^53 a float is no longer the id it was."""
    own, large = own_tables(), (1 << 60) + 1
    own["items"] = own["items"].with_columns(brand=pl.Series([large, None, 22]))
    raw = write(tmp_path / "raw", own)
    (raw / "items.parquet").unlink()
    (raw / "items").mkdir()
    own["items"][:1].write_parquet(raw / "items" / "1.parquet")
    own["items"][1:2].drop("brand", "tags").write_parquet(raw / "items" / "2.parquet")
    own["items"][2:].with_columns(pl.col("brand").cast(pl.Float64)).write_parquet(raw / "items" / "3.parquet")

    items = read(raw, tmp_path / "out")[1]["items"]

    assert items["brand"].to_list() == [large, None, 22] and items["tags"].to_list() == [["x", None], None, ["y", "z"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: (raw / "items.csv").write_text("item_id\n1\n"), "holds the table items 2 times, as items.csv and"),
        (lambda raw: (raw / "items.parquet").write_bytes(b""), "items.parquet is empty; a file or a folder of Parquet"),
        (lambda raw: (raw / "items.parquet").write_bytes(b"PAR" * 9), "items.parquet cannot be read: Invalid Input"),
        (lambda raw: emptied(raw).mkdir(), "items.parquet holds no part of a table"),
        (lambda raw: (emptied(raw).parent / "items.csv").write_bytes(b"\n\n1,2\n"), "has no first line that names"),
        (lambda raw: (emptied(raw).parent / "items.csv").write_text("a,b,A\n1,2,3\n"), "several columns called A, a;"),
        (lambda raw: (emptied(raw).parent / "items.csv.gz").write_bytes(b"no gzip"), "items.csv.gz: broken gzip file"),
        (lambda raw: (emptied(raw).parent / "items.json").write_text('[{"item_id": 1}]'), "is one JSON array; an obj"),
        (lambda raw: (emptied(raw).parent / "items.json").write_text("\n\n"), "items.json is empty; a JSON object a l"),
        (lambda raw: (emptied(raw).parent / "items.jsonl").write_text("7\n8\n"), "items.jsonl holds no JSON object"),
    ],
)
def test_files_that_cannot_be_read_are_told_in_a_line(
    tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    raw = write(tmp_path / "raw", own_tables())
    change(raw)

    assert message in refusal(raw, tmp_path / "out")


def emptied(raw: Path) -> Path:
    (raw / "items.parquet").unlink()
    return raw / "items.parquet"


def test_a_broken_gzip_of_which_the_header_can_be_read_is_told_by_name(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", own_tables())
    emptied(raw)
    rows = "".join(f"{number},{number * number}\n" for number in range(80_000))
    (raw / "items.csv.gz").write_bytes(gzip.compress(f"item_id,price\n{rows}".encode())[:-9])

    assert "items.csv.gz: broken gzip file: Compressed file ended" in refusal(raw, tmp_path / "out", None)


def test_views_show_the_tables_as_the_files_have_them(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", own_tables())
    with engine(tmp_path, 0.5) as con:
        sources = opened(con, raw, ["impressions.slot=position"])
        assert list(sources) == ["behaviours", "impressions", "items", "users"]
        assert sources["items"].columns["price"] == "DOUBLE" and sources["items"].files == (raw / "items.parquet",)
        assert con.execute("SELECT sum(position) FROM raw_impressions").fetchall() == [(4,)]


# --- types --------------------------------------------------------------------------------------------------------

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


def test_parts_of_text_without_a_byte_hold_no_rows_and_a_list_in_some_parts_is_not_passed_on(tmp_path: Path) -> None:
    own = own_tables()
    raw = write(tmp_path / "raw", own)
    shown = own["impressions"]
    (raw / "impressions.parquet").unlink()
    (raw / "impressions").mkdir()
    for part, rows in enumerate((shown[:2], None, shown[2:])):
        (raw / f"impressions/part-{part}.json").write_text("" if rows is None else rows.write_ndjson())
    assert_canonical(read(raw, tmp_path / "out")[1])

    for part in (raw / "impressions").iterdir():
        part.unlink()
    shown[:2].with_columns(other=1).write_parquet(raw / "impressions/part-0.parquet")
    shown[2:].with_columns(other=pl.lit([1.5])).write_parquet(raw / "impressions/part-1.parquet")
    made, tables = read(raw, tmp_path / "lists")
    assert "impressions: other not used" in made.notes[0]
    assert_canonical(tables)


@pytest.mark.parametrize(
    ("name", "start", "said"),
    [
        ("users.csv", b"PAR1....PAR1", "users.csv is Parquet; call it so (.parquet)"),
        ("users.jsonl", b"\x1f\x8b\x08", "users.jsonl is gzip; call it so (.gz)"),
        ("users.csv", "user_id".encode("utf-16"), "users.csv is text in UTF-16; a file or a folder of Parquet"),
        ("users.csv", b"PK\x03\x04", "users.csv is a zip archive or an Excel sheet; a file or a folder of Parquet"),
    ],
)
def test_a_file_of_another_form_than_its_name_says_is_told(tmp_path: Path, name: str, start: bytes, said: str) -> None:
    raw = write(tmp_path / "raw", own_tables())
    (raw / "users.parquet").unlink()
    (raw / name).write_bytes(start)
    assert said in refusal(raw, tmp_path / "out")


def test_a_row_of_parts_is_told_by_its_part(tmp_path: Path) -> None:
    own = own_tables()
    own["impressions"] = own["impressions"].with_columns(label=pl.Series([1, 0, 0, 7]))
    raw = write(tmp_path / "raw", own)
    (raw / "impressions.parquet").unlink()
    WRITERS["folder of Spark"](raw, "impressions", own["impressions"])

    assert "impressions.parquet/part-11.snappy.parquet, row 1: label: 7 given" in refusal(raw, tmp_path / "out")


CSV = b"""user_id,item_id,timestamp,label,slot,note
7,1,1767268800000,1,1,"two
lines"

8,2,1767268800000,0,1,
x,2,1767268800000,0,1,
8,2,1767268800000,0,1
8,2,1767268800000,0,1,,x
8,2,1767268800000,0,1,\xff
8,2,1767268800,0,1,
8,2,1767268800000,0,1,"a"b
8,3,1767268800000,1,1,end
"""
CSV_FAULTS = [
    "line 6: user_id: x given, integers of 64 bits",
    "line 7: 5 fields given, 6 are in the header",
    "line 8: 7 fields given, 6 are in the header",
    "line 9: bytes that are not UTF-8",
    "line 10: timestamp: 1767268800 looks like seconds",
    "line 11: fields that cannot be told apart",
]
OBJECTS = b"""\xef\xbb\xbf{"user_id":7,"item_id":1,"timestamp":1767268800000,"label":true}

{"user_id":"x","item_id":2,"timestamp":1767268800000,"label":0}
{"user_id":8,"item_id":2,"timestamp":1767268800000,"label":0
[8]
{"user_id":8,"item_id":2,"timestamp":1767268800000000,"label":0}
{"item_id":2,"timestamp":1767268800000,"label":0}
{"user_id":8,"item_id":2,"timestamp":1767268800000,"label":false,"slot":null,"more":{"a":1}}
{"user_id":8,"item_id":2,"timestamp":"2026-01-01T12:00:00Z","label":1,"slot":2}
"""
OBJECT_FAULTS = [
    "line 3: user_id: x given, integers of 64 bits",
    'line 4: \'{"user_id":8,"item_id":2',
    "line 5: '[8]' given, a JSON object is allowed",
    "line 6: timestamp: 1767268800000000 looks like microseconds",
    "line 7: user_id: nothing given, integers or strings are allowed",
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "faults", "rows"),
    [("impressions.csv", CSV, CSV_FAULTS, 3), ("impressions.jsonl", OBJECTS, OBJECT_FAULTS, 3)],
)
def test_a_malformed_line_of_text_is_told_by_its_number_and_the_first_ones_may_be_passed_over(
    tmp_path: Path, name: str, content: bytes, faults: list[str], rows: int, packed: bool
) -> None:
    raw = write(tmp_path / "raw", own_tables())
    (raw / "impressions.parquet").unlink()
    (raw / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)

    for passed, fault in enumerate(faults):
        assert f"{raw / name}{'.gz' * packed}, {fault}" in refusal(raw, tmp_path / f"no{passed}", skip_bad=passed)
    made, tables = read(raw, tmp_path / "out", skip_bad=len(faults))
    assert made.bad_lines == len(faults) and len(tables["impressions"]) == rows


@pytest.mark.parametrize(
    ("content", "passed", "said"),
    [
        (b"user_id,x\r\n7,a\n8,b\r\n", 0, None),  # mixed line ends
        (b"user_id,x\r7,a\r8,b\r", 0, None),
        (b"user_id,x\n7,a\n8,b\n9,c\rd\n", 1, "line 5: 1 fields given, 2 are in the header"),  # \r ends a line
        (b'user_id,x\n7,a\n8,b\n9,"c\n10,d\n11,"e"\n', 3, "line 4: fields that cannot be told apart"),
        (b"user_id,x\n7,a\n8,b,x\n", 0, "line 3: 3 fields given, 2 are in the header"),
        (b"user_id\n7\n\n8\n\n", 0, None),
    ],
)
def test_line_ends_are_those_of_any_system_and_a_stray_quote_costs_all_lines_that_it_swallows(
    tmp_path: Path, content: bytes, passed: int, said: str | None
) -> None:
    raw = write(tmp_path / "raw", own_tables())
    (raw / "users.parquet").unlink()
    (raw / "users.csv").write_bytes(content)

    if said:
        assert f"users.csv, {said}" in refusal(raw, tmp_path / "no")
    if passed or not said:
        made, tables = read(raw, tmp_path / "out", skip_bad=passed)
        assert made.bad_lines == passed and tables["users"]["user_id"].to_list()[:2] == [7, 8]


def test_a_column_named_as_the_engine_names_its_own_hides_no_row(tmp_path: Path) -> None:
    own = own_tables()
    own["impressions"] = own["impressions"].with_columns(
        file_index=pl.lit(9), file_row_number=pl.lit(77), label=pl.Series([1, 0, 5, 0])
    )
    raw = write(tmp_path / "raw", own)
    assert "impressions.parquet, row 3: label: 5" in refusal(raw, tmp_path / "parquet")
    (raw / "impressions.parquet").unlink()
    (raw / "impressions.csv").write_bytes(csv_bytes(own["impressions"]))
    assert "impressions.csv, line 4: label: 5" in refusal(raw, tmp_path / "csv")


def test_malformed_rows_are_counted_over_all_tables_and_the_second_of_an_entity_among_them(tmp_path: Path) -> None:
    own = own_tables()
    own["users"] = pl.DataFrame({"user_id": ["7", "007", None, "8", "7"]})
    raw = write(tmp_path / "raw", own)

    for passed, row in enumerate((2, 3, 5)):
        assert f"users.parquet, row {row}: user_id: " in refusal(raw, tmp_path / f"no{passed}", skip_bad=passed)
    made, tables = read(raw, tmp_path / "out", skip_bad=3)
    assert made.bad_lines == 3 and tables["users"]["user_id"].to_list() == [7, 8]
    with pytest.raises(MalformedLine):
        read(raw, tmp_path / "again", skip_bad=2)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("impressions", {"timestamp": "ts"}, "has no column timestamp; there are user_id, item_id, ts, label, slot; "),
        ("impressions", {"timestamp": "event_time"}, "; --map impressions.event_time=timestamp may be meant"),
        ("impressions", {"user_id": "UserId"}, "--map impressions.UserId=user_id may be meant"),
        ("behaviours", {"object_id": "product_id"}, "--map behaviours.product_id=object_id may be meant"),
        ("items", {"price": "Price"}, "has no column price that features.toml names; there are item_id, Price, brand"),
    ],
)  # fmt: skip
def test_a_column_under_another_name_is_told_and_can_be_mapped(
    tmp_path: Path, table: str, change: dict[str, str], message: str
) -> None:
    own = own_tables()
    own[table] = own[table].rename(change)
    raw = write(tmp_path / "raw", own)
    ((name, other),) = change.items()

    assert message in refusal(raw, tmp_path / "no")
    tables = read(raw, tmp_path / "out", map=(f"{table}.{other}={name}",))[1]
    assert_canonical(tables)


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        (("timestamp",), "--map timestamp: TABLE.COLUMN=NAME is allowed, as in impressions.ts=timestamp"),
        (
            ("shown.ts=timestamp",),
            "--map shown.ts=timestamp: there is no table shown; there are behaviours, impr",
        ),
        (("items.cost=price",), "--map items.cost: .*items.parquet has no column cost; there are item_id, price"),
        (("items.brand=price",), "brand cannot be called price, which another column is; rename that one too"),
        (("items.brand=x", "items.price=x"), "--map gives two columns one name"),
        (("items.brand=x", "items.brand=y"), "--map items.brand=y: brand has the name x already"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(tmp_path: Path, renames: tuple[str, ...], message: str) -> None:
    raw = write(tmp_path / "raw", own_tables())
    with pytest.raises(DataError, match=message):
        read(raw, tmp_path / "out", map=renames)


def test_columns_can_change_their_names(tmp_path: Path) -> None:
    own = own_tables()
    own["items"] = own["items"].rename({"brand": "title", "title": "brand"})
    raw = write(tmp_path / "raw", own)
    tables = read(raw, tmp_path / "out", map=("items.brand=title", "items.title=brand"))[1]
    assert_canonical(tables)


# --- behaviours from impressions, negatives ------------------------------------------------------------------------


def test_clicked_impressions_can_be_the_behaviours(tmp_path: Path) -> None:
    own = own_tables()
    raw = write(tmp_path / "raw", own)
    assert "behaviours.parquet; one source of behaviours is allowed" in refusal(
        raw, tmp_path / "two", behaviours_from="impressions"
    )
    (raw / "behaviours.parquet").unlink()
    assert "or --behaviours-from impressions" in refusal(raw, tmp_path / "none")

    tables = read(raw, tmp_path / "out", behaviours_from="impressions")[1]

    assert tables["behaviours"].rows() == [(7, "click", "item", 1, NOON), (8, "click", "item", 1, NOON + 2 * DAY)]


def positives(raw: Path) -> Path:
    rows = [(user, (user * 3 + day) % 7, NOON + day * DAY + user) for day in range(4) for user in range(6)]
    shown = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").with_columns(
        label=pl.lit(1), slot=pl.col("user_id") % 2, watch_ms=pl.lit(5)
    )
    write(raw, own_tables() | {"impressions": shown, "items": own_tables()["items"].clear()})
    return raw


def test_a_log_of_positives_alone_is_refused_or_gets_negatives_of_its_day(tmp_path: Path) -> None:
    raw = positives(tmp_path / "raw")
    assert "label is 1 in all 24 rows; --negatives N draws N for each" in refusal(raw, tmp_path / "none")

    made, tables = read(raw, tmp_path / "out", negatives=2)
    again = read(raw, tmp_path / "again", negatives=2)[1]
    other = read(raw, tmp_path / "other", negatives=2, seed=2)[1]

    shown = tables["impressions"].with_columns(day=(pl.col("timestamp") // DAY))
    assert made.drawn_negatives and "2 negative(s) drawn for each of 24 positives" in made.notes[0]
    assert shown["label"].value_counts().sort("label").rows() == [(0, 48), (1, 24)]
    clicked, drawn = shown.filter(label=1), shown.filter(label=0)
    key = ["user_id", "day", "item_id"]
    assert len(drawn.join(clicked, on=key)) == 0  # nothing that its user touched
    assert len(drawn.join(clicked.unique(["day", "item_id"]), on=["day", "item_id"])) == 48  # of the day
    assert (drawn["slot"] == drawn["user_id"] % 2).all() and drawn["watch_ms"].null_count() == 48
    assert tables["impressions"].equals(again["impressions"])
    assert not tables["impressions"].equals(other["impressions"])


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (pl.lit(0), {}, "label is 0 in all 4 rows; clicks"),
        (pl.col("label"), {"negatives": 1}, "2 rows have label 0; --negatives is for a log of positives alone"),
    ],
)
def test_labels_that_teach_nothing_are_refused(
    tmp_path: Path, label: pl.Expr, options: dict[str, Any], message: str
) -> None:
    own = own_tables()
    own["impressions"] = own["impressions"].with_columns(label=label)
    assert message in refusal(write(tmp_path / "raw", own), tmp_path / "out", **options)


def test_negatives_that_the_user_drew_are_declared(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", own_tables())
    (raw / "meta.json").write_text('{"time_zone": "Asia/Tokyo", "drawn_negatives": true}')
    made = read(raw, tmp_path / "out")[0]
    assert made.drawn_negatives and made.time_zone == "Asia/Tokyo"


@pytest.mark.parametrize("meta", ['{"drawn": true}', '{"drawn_negatives": 1}', "[]", "", '{"time_zone": null}'])
def test_a_meta_json_of_another_form_is_refused(tmp_path: Path, meta: str) -> None:
    raw = write(tmp_path / "raw", own_tables())
    (raw / "meta.json").write_text(meta)
    assert 'and "drawn_negatives": true or false' in refusal(raw, tmp_path / "out")


# --- the whole way ------------------------------------------------------------------------------------------------


def test_prepared_bytes_depend_on_neither_parts_nor_types_nor_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same log in one file, in parts with times of a data frame, and as text; `--map` is given twice."""
    own, raws = own_tables(), {}
    own["impressions"] = pl.concat(own["impressions"].with_columns(timestamp=NOON + d * DAY) for d in range(4))
    for name in ("parquet", "folder of Spark", "csv"):
        raws[name] = tmp_path / name
        raws[name].mkdir()
        for table, frame in own.items():
            if name == "folder of Spark" and table == "impressions":
                frame = frame.with_columns(IN_UTC.dt.cast_time_unit("us"))
            changed = frame.rename({"timestamp": "ts"}) if "timestamp" in frame.columns else frame
            WRITERS[name](raws[name], table, changed)
        (raws[name] / "features.toml").write_text(toml())
    outs = {name: tmp_path / f"{name}-prepared" for name in raws}
    for name, raw in raws.items():
        renames = ["--map", "impressions.ts=timestamp", "--map", "behaviours.ts=timestamp"]
        arguments = ["--dataset", "parquet", "--raw", str(raw), "--out", str(outs[name]), *renames]
        assert prepare.main(arguments) == 0, capsys.readouterr().err

    first = {path.relative_to(outs["parquet"]): path.read_bytes() for path in files(outs["parquet"])}
    assert first
    for name in ("folder of Spark", "csv"):
        assert {path.relative_to(outs[name]): path.read_bytes() for path in files(outs[name])} == first


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] != "tables"]


def toml() -> str:
    rows = "".join(
        "\n[[feature]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in row.items())
        for row in FEATURES["feature"]
    )
    return f'user_id = "int"\n[history]\nactions = ["click"]\n{rows}'


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
