"""Own tables: other names, behaviours of impressions, negatives, meta.json; the prepared bytes of any form."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model import prepare
from model.datasets.tables import DataError
from tests.own_tables import (
    DAY,
    FEATURES,
    NOON,
    WRITERS,
    assert_canonical,
    own_tables,
    read,
    refusal,
    write,
)


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
                frame = frame.with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC")).dt.cast_time_unit("us"))
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
