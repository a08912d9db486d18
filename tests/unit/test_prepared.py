"""A log becomes the same bytes however it is cut; what prepare tells of it; what is refused in it."""

import math
import os
import signal
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.datasets.tables import DataSet, Options
from model.engine import engine
from model.features.schema import Schema, parse
from model.prepared import summary
from model.prepared.encode import encode_tables
from model.prepared.entities import PrepareError
from model.prepared.loader import Prepared
from model.prepared.numbered import Log
from model.prepared.onduckdb import DuckDb
from model.prepared.slices import ends
from tests.mixed_log import DAY, FIRST, SCHEMA, tables


def schema(**changes: Any) -> Schema:
    return parse(SCHEMA | changes)


def write(folder: Path, frames: dict[str, pl.DataFrame]) -> Path:
    (folder / "tables").mkdir(parents=True)
    for name, frame in frames.items():
        frame.write_parquet(folder / "tables" / f"{name}.parquet")
    return folder


def prepared(folder: Path, frames: dict[str, pl.DataFrame], **how: Any) -> dict[str, bytes]:
    """Every file but the tables."""
    encode_tables(write(folder, frames), schema(), DataSet("log", "UTC"), None, Options(**how))
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "tables"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def test_the_same_bytes_whatever_the_parts_the_processes_and_the_order_of_the_rows(tmp_path: Path) -> None:
    frames = tables()
    one = prepared(tmp_path / "one", frames, parts=1, processes=1)
    assert prepared(tmp_path / "many", frames, parts=8, processes=1) == one
    mixed = {name: frame.sample(fraction=1, shuffle=True, seed=1) for name, frame in frames.items()}
    assert prepared(tmp_path / "mixed", mixed, parts=3, processes=2, memory_gib=0.2) == one
    assert {"vocab/user_id.npy", "catalog/items.npy", "encoded/cross.npy", "encoded/coupon_end.npy"} <= set(one)


def test_columns_may_be_called_as_the_engine_calls_its_own(tmp_path: Path) -> None:
    frames = tables(500)
    plain = prepared(tmp_path / "plain", frames)
    names = "id own row key value code time user item own_user own_item day n".split()
    more = [pl.lit("x").alias(name) for name in names]
    named = prepared(tmp_path / "named", {table: frame.with_columns(more) for table, frame in frames.items()})
    del plain["meta.json"], named["meta.json"]  # it tells which columns are not used
    assert named == plain


def test_what_the_engine_cannot_do_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"^more memory is needed than 0\.0001 GiB, --memory allows it: [^\n]+$"):
        prepared(tmp_path, tables(500), memory_gib=0.0001)


def test_ctrl_c_during_a_query_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    long = "SELECT sum(hash(range)) FROM range(5_000_000_000)"  # a scan: a join of two ranges once hung when cancelled
    pressed = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), engine(tmp_path, 0.1) as connection:
        pressed.start()
        connection.execute(long).fetchall()
    assert not [*tmp_path.iterdir()]


def test_every_end_is_one_past_the_last_behaviour_strictly_before() -> None:
    draw = np.random.default_rng(0)
    for behaviours, users in ((0, 3), (1, 1), (500, 7)):
        owner = np.sort(draw.integers(users, size=behaviours))
        times = draw.integers(50, size=behaviours)
        times = times[np.lexsort((times, owner))]
        begin = np.searchsorted(owner, np.arange(users))
        user, now = draw.integers(users, size=300).astype(np.int32), draw.integers(52, size=300)
        expected = [begin[u] + int(((owner == u) & (times < t)).sum()) for u, t in zip(user, now, strict=True)]
        np.testing.assert_array_equal(ends(begin, times, user, now), expected)


@pytest.mark.parametrize("values", [[0.1] * 10 + [1e16, -1e16, 3.0], [1e-300, 2e-300], [5.0], [-7.25, 7.25, 1e38]])
def test_means_and_deviations_are_the_same_bits_in_any_order(values: list[float], tmp_path: Path) -> None:
    spreads = set()
    for seed in range(4):
        frames = tables(len(values))
        numbers = np.random.default_rng(seed).permutation(values)
        frames["impressions"] = frames["impressions"].with_columns(wait=pl.Series(numbers))
        folder = write(tmp_path / str(seed), frames)
        engine = DuckDb(Options(memory_gib=0.5), tmp_path)
        with engine.queries():
            log = Log(engine, folder / "tables", schema(), tmp_path)
            log.write_impressions([("wait", False)])
            spreads.add(log.exact_mean("c0", "true"))
    ((mean, deviation),) = spreads
    exact, largest = sum(map(Fraction, values)) / len(values), max(map(abs, values))
    assert abs(Fraction(mean) - exact) <= Fraction(largest) / 2**80 + Fraction(abs(mean)) / 2**53
    squares = sum((Fraction(value) - exact) ** 2 for value in values) / len(values)
    assert deviation == pytest.approx(float(squares) ** 0.5 or 1.0, rel=1e-14)


def test_statistics_and_vocabularies_count_what_training_saw(tmp_path: Path) -> None:
    frames = tables()
    encode_tables(write(tmp_path, frames), schema(), DataSet("log", "UTC"))
    encoder = Prepared(tmp_path).encoder
    train = frames["impressions"].filter(pl.col("timestamp") < FIRST + 3 * DAY)
    waits = train["wait"].drop_nulls().to_list()
    assert encoder.statistics.numbers["wait"][0] == pytest.approx(math.fsum(waits) / len(waits), rel=1e-15)
    assert encoder.statistics.numbers["wait"][1] == pytest.approx(np.std(waits), rel=1e-12)
    prices = dict(zip(frames["items"]["item_id"], frames["items"]["price"], strict=True))
    last = train.group_by("user_id").agg(last=pl.col("timestamp").max())
    read = frames["behaviours"].filter(pl.col("action").is_in(["click", "buy"])).unique()
    clicked = read.join(last, on="user_id").filter(pl.col("timestamp") < pl.col("last"))["object_id"].cast(pl.Int64)
    seen = [prices[item] for item in (*train["item_id"], *clicked) if item in prices]
    assert encoder.statistics.numbers["price"] == pytest.approx((np.mean(seen), np.std(seen)), rel=1e-12)
    often = train["user_id"].value_counts().filter(pl.col("count") >= 3)["user_id"]
    assert encoder.statistics.rows["user_id"] == 2 + len(often)


def test_the_summary_tells_splits_histories_strangers_and_what_is_not_used(tmp_path: Path) -> None:
    frames = tables()
    frames["users"] = frames["users"].with_columns(email=pl.col("user_id") + "@example.com")
    late = frames["impressions"].filter(pl.col("timestamp") >= FIRST + 4 * DAY).with_columns(item_id=pl.lit(999))
    early = frames["impressions"].filter(pl.col("timestamp") < FIRST + 4 * DAY)
    frames["impressions"] = pl.concat([early, late.cast(early.schema)])
    meta = encode_tables(write(tmp_path, frames), schema(), DataSet("log", "UTC"))
    facts = meta["summary"]["splits"]
    assert facts["test"]["impressions"] == len(late) and facts["test"]["unknown"]["item_id"] == 1
    assert facts["test"]["click_rate"] == pytest.approx(late["label"].mean())
    assert facts["validation"]["unknown"]["item_id"] < 0.2 and "unknown" not in facts["train"]
    data = Prepared(tmp_path)
    begin, end = data.arrays["begin"][data.user], data.arrays["end"]
    for code, name in enumerate(facts):
        lengths = np.minimum(end - begin, 5)[data.arrays["split"] == code]
        assert facts[name]["with_history"] == pytest.approx((lengths > 0).mean())
        quantiles = np.quantile(lengths, [0.1, 0.5, 0.9], method="inverted_cdf").tolist()
        assert facts[name]["history_lengths"] == quantiles
    assert meta["summary"]["unused_columns"] == {"impressions": ["session"], "users": ["email"]}
    told = summary.warnings(meta)
    assert any("users: not used" in line and "email" in line for line in told)
    assert any("'look'" in line for line in told)
    assert any(line.startswith("test ") and str(len(late)) in line for line in summary.lines(meta, 5))


@pytest.mark.parametrize(
    ("history", "groups", "words"),
    [
        (
            {"object_type": "product"},
            [],
            r"\[history\].*'product'.*'click', 'buy'.*holds.*object_type 'item' with action",
        ),
        ({"actions": ["Click"]}, [], r"\[history\].*'Click'.*object_type 'item' with action 'click' \("),
        (
            {},
            [{"object_type": "cupon", "actions": ["take"]}],
            r"\[\[group\]\] 'cupon'.*object_type 'coupon' with action 'take'",
        ),
        ({}, [{"object_type": "coupon", "actions": ["taken"]}], r"\[\[group\]\] 'coupon'.*'taken'"),
    ],
)
def test_a_history_that_would_always_be_empty_is_refused(
    history: dict[str, Any], groups: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    named = schema(history=SCHEMA["history"] | history, group=groups)  # type: ignore[operator]
    with pytest.raises(PrepareError, match=words):
        encode_tables(write(tmp_path, tables()), named, DataSet("log", "UTC"))


def test_histories_that_are_empty_for_another_reason_are_told(tmp_path: Path) -> None:
    frames = tables()
    frames["behaviours"] = frames["behaviours"].with_columns(user_id="x" + pl.col("user_id"))
    meta = encode_tables(write(tmp_path / "others", frames), schema(), DataSet("log", "UTC"))
    assert any("every history is empty" in line and "user_id" in line for line in summary.warnings(meta))
    frames["behaviours"] = frames["behaviours"].clear()
    meta = encode_tables(write(tmp_path / "none", frames), schema(), DataSet("log", "UTC"))
    assert any("there are no behaviours" in line for line in summary.warnings(meta))


def test_ids_that_one_table_writes_otherwise_are_told_and_refused_where_none_is_alike(tmp_path: Path) -> None:
    frames = tables()
    meta = encode_tables(write(tmp_path / "some", frames), schema(), DataSet("log", "UTC"))
    lacking = ~frames["impressions"]["item_id"].is_in(frames["items"]["item_id"].to_list())
    clicked = frames["behaviours"].filter(pl.col("object_type") == "item", pl.col("action").is_in(["click", "buy"]))
    strange = ~clicked.unique()["object_id"].is_in(frames["items"]["item_id"].cast(pl.String).to_list())
    shares = {"impressions": lacking.mean(), "behaviours": strange.mean()}
    assert meta["summary"]["unlisted"]["items"] == pytest.approx(shares)
    assert any(f"{lacking.mean():.1%} of the impressions" in line for line in summary.warnings(meta))
    other = frames["behaviours"].with_columns(
        object_id=pl.when(pl.col("object_type") == "item").then("9000" + pl.col("object_id")).otherwise("object_id")
    )
    with pytest.raises(PrepareError, match="none of the behaviours on 'item'.*object_id 9000.*item_id "):
        encode_tables(write(tmp_path / "other", frames | {"behaviours": other}), schema(), DataSet("log", "UTC"))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("items", "items describe none of those that were shown: they have item_id 1000, impressions -5; one way"),
        ("users", "users describe none of those that were shown: they have user_id 'xu0', impressions 'u0'; one way"),
    ],
)
def test_a_table_that_describes_nothing_of_the_log_is_refused(table: str, words: str, tmp_path: Path) -> None:
    frames = tables()
    otherwise = pl.col("item_id") + 1000 if table == "items" else "x" + pl.col("user_id")
    frames[table] = frames[table].with_columns(otherwise.alias(f"{table[:-1]}_id"))
    with pytest.raises(PrepareError, match=words):
        encode_tables(write(tmp_path, frames), schema(), DataSet("log", "UTC"))


def test_an_id_that_is_not_of_its_declared_type_is_refused_with_the_id(tmp_path: Path) -> None:
    frames = tables()
    frames["items"] = frames["items"].with_columns(item_id=pl.lit("b") + pl.col("item_id").cast(pl.String))
    with pytest.raises(PrepareError, match='items: item_id \'b.*features.toml declares int.*or declare it "str"'):
        encode_tables(write(tmp_path / "a", frames), schema(), DataSet("log", "UTC"))
    frames = tables()
    frames["items"] = pl.concat([frames["items"], frames["items"].head(1)])
    with pytest.raises(PrepareError, match="items: item_id 0 stands twice"):
        encode_tables(write(tmp_path / "b", frames), schema(), DataSet("log", "UTC"))


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e39])
def test_a_number_that_no_network_can_read_is_refused(value: float, tmp_path: Path) -> None:
    frames = tables()
    frames["impressions"] = frames["impressions"].with_columns(
        wait=pl.when(pl.int_range(pl.len()) == 7).then(value).otherwise("wait")
    )
    with pytest.raises(PrepareError, match="column wait: .*a finite number"):
        encode_tables(write(tmp_path, frames), schema(), DataSet("log", "UTC"))


def test_a_number_that_is_none_is_missing(tmp_path: Path) -> None:
    frames = tables()
    holes = pl.int_range(pl.len()) % 3 == 0
    for name, hole in (("null", None), ("nan", math.nan)):
        changed = frames["impressions"].with_columns(pl.when(holes).then(hole).otherwise("wait").alias("wait"))
        encode_tables(write(tmp_path / name, frames | {"impressions": changed}), schema(), DataSet("log", "UTC"))
    one, other = (Prepared(tmp_path / name) for name in ("null", "nan"))
    assert one.encoder.statistics == other.encoder.statistics
    np.testing.assert_array_equal(one.arrays["context_numbers"], other.arrays["context_numbers"])
    assert np.isfinite(other.arrays["context_numbers"]).all() and (other.arrays["context_numbers"] == 0).sum() > 600
