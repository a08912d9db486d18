"""Own tables: every common form gives the same canonical tables; what cannot be read is told by file and line."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model.datasets.own.sources import opened
from model.datasets.tables import DataSet, MalformedLine
from model.engine import engine
from tests.own_tables import (
    WRITERS,
    assert_canonical,
    csv_bytes,
    own_tables,
    read,
    refusal,
    write,
)


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
