"""Encoding: one request by hand, golden rows, and training's form equal to serving's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.datasets.tables import DataSet
from model.features.behaviour import Behaviour
from model.features.catalog import Catalog, CatalogError
from model.features.encode import Encoder, Statistics
from model.features.ids import FIRST, PAD, UNKNOWN, BadValue, keys
from model.features.kinds import SchemaError, to_text
from model.features.schema import parse
from model.features.table import Vocabulary
from model.features.timeposition import EDGES_S, bucket_count, time_positions
from model.prepare import PrepareError
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.prepared.order import in_order
from tests.worlds import COUPONS, FEATURES, HOUR, make_schema, write_log

NOW = 1_700_000_000_000


def vocabulary(values: list[Any], kind: Any) -> Vocabulary:
    return Vocabulary.build(keys(values, kind), FIRST + np.arange(len(values)))


@pytest.fixture
def encoder() -> Encoder:
    words = {
        "age": vocabulary([20, 30], "int"),
        "interests": vocabulary(["a", "b", "c"], "str"),
        "item_id": vocabulary(["i1", "i2", "i3"], "str"),
        "category_id": vocabulary(["c1", "c2"], "str"),
        "position": vocabulary([1, 2], "int"),
    }
    rows = {"age": 4, "interests": 5, "item_id": 5, "category_id": 4, "position": 4}
    return Encoder(make_schema(), words, Statistics(rows, {"income": (100.0, 50.0)}))


@pytest.fixture
def catalog(encoder: Encoder) -> Catalog:
    columns = {
        "category_id": keys(["c1", "c2", None, "c9"], "str"),
        "price": np.array([0.0, 3.0, np.nan, 1e30]),
    }
    return Catalog.build(encoder.schema, keys(["i1", "i2", "i3", "i4"], "str"), columns)


def click(item: str, before_ms: int, action: str = "click", kind: str = "item") -> Behaviour:
    return Behaviour(action, kind, item, NOW - before_ms)


def test_a_request_is_encoded_as_by_hand(encoder: Encoder, catalog: Catalog) -> None:
    encoded = encoder.encode(
        "u1",
        {"age": "30", "income": "200", "interests": '["c"]'},
        [click("i2", 2 * HOUR), click("nobody", 1000)],
        ["i1", {"item_id": "i4", "category_id": "c2", "position": 2}, "i3"],
        NOW,
        catalog,
    )
    made = encoded.inputs
    assert made["user"].tolist() == [[3, 4, PAD]]  # age 30; interests c, then an unused place
    assert made["user_numbers"].tolist() == [[2.0]]
    # item, category, price bucket: floor(2·log2(1 + 0)) = 0; 1e30 is cut to the last bucket; a missing price is UNKNOWN
    assert made["item"][0].tolist() == [[2, 2, 2], [UNKNOWN, 3, 81], [4, UNKNOWN, UNKNOWN]]
    assert made["context"].tolist() == [[[2], [3], [2]]]
    assert made["history"].tolist() == [[[3, 3], [UNKNOWN, UNKNOWN]]]
    assert made["gap"].tolist() == [[14, 2]]  # 7200 s lies above 2^12 = 4096, the 13th edge; 1 s above the first
    assert (encoded.history_length, encoded.unknown_items, encoded.future, encoded.malformed) == (2, 1, 0, 0)


def test_golden_rows_of_crosses_never_change(encoder: Encoder, catalog: Catalog) -> None:
    encoded = encoder.encode("u1", {"age": "30"}, [], ["i1", "i2", "stranger"], NOW, catalog)
    assert encoded.inputs["cross"][0, :, 0].tolist() == GOLDEN_CROSS
    assert encoder.encode("u1", {}, [], ["i1"], NOW, catalog).inputs["cross"].tolist() == [[[UNKNOWN]]]


GOLDEN_CROSS = [80, 669, 240]


def test_an_empty_history_is_one_padded_slot(encoder: Encoder, catalog: Catalog) -> None:
    encoded = encoder.encode("u1", {}, [], ["i1"], NOW, catalog)
    assert encoded.inputs["gap"].tolist() == [[PAD]] and encoded.inputs["history"].tolist() == [[[PAD, PAD]]]
    assert encoded.history_length == 0


def test_other_actions_are_filtered_before_the_cut_to_the_newest(encoder: Encoder, catalog: Catalog) -> None:
    clicks = [click("i1", 50_000), click("i2", 40_000), click("i3", 30_000), click("i1", 20_000)]
    noise = [click("i2", age, "like") for age in range(1000, 9000, 1000)] + [click("i2", 10, kind="coupon")]
    encoded = encoder.encode("u1", {}, [*clicks, *noise], ["i1"], NOW, catalog)
    assert encoded.inputs["history"][0, :, 0].tolist() == [3, 4, 2] and encoded.history_length == 3


def test_a_click_from_the_future_is_just_now_and_counted(encoder: Encoder, catalog: Catalog) -> None:
    encoded = encoder.encode("u1", {}, [click("i1", -5000), click("i2", 0)], ["i1"], NOW, catalog)
    assert encoded.inputs["gap"].tolist() == [[1, 1]] and encoded.future == 1


def test_behaviours_of_one_millisecond_stand_in_the_order_of_their_keys(encoder: Encoder, catalog: Catalog) -> None:
    tied = [click(item, 1000) for item in ("i1", "i2", "i3")]
    one = encoder.encode("u1", {}, tied, ["i1"], NOW, catalog).inputs["history"]
    other = encoder.encode("u1", {}, tied[::-1], ["i1"], NOW, catalog).inputs["history"]
    assert (one == other).all()


def test_a_candidate_is_encoded_alike_alone_and_in_company(encoder: Encoder, catalog: Catalog) -> None:
    bare: list[Any] = ["i1", "i2", "stranger", "i4", 7] * 4
    given: list[Any] = [{"item_id": "i3", "price": 5, "position": 2}, {"item_id": "i1", "category_id": None}]
    clicks = [click("i2", 1000), click("nobody", 500)]
    for candidates in (bare, [*bare, *given]):
        arguments = {"profile": {"age": "30"}, "behaviours": clicks, "now": NOW, "catalog": catalog}
        together = encoder.encode("u1", candidates=candidates, **arguments).inputs
        for place, candidate in enumerate(candidates):
            for name, alone in encoder.encode("u1", candidates=[candidate], **arguments).inputs.items():
                of_candidate = name in ("item", "context", "cross")
                mine = together[name][:, place : place + 1] if of_candidate else together[name]
                np.testing.assert_array_equal(mine, alone, err_msg=f"{name} of {candidate}")
    assert all(array.flags.c_contiguous for array in together.values())


def test_a_schema_without_a_sequence_or_a_request_without_candidates_has_axes_of_no_length(catalog: Catalog) -> None:
    plain = [{**row, "sequence_width": 0} for row in FEATURES if row["name"] in ("item_id", "category_id", "price")]
    cross = {"name": "c", "side": "cross", "kind": "category", "of": ["category_id", "item_id"], "buckets": 9}
    other = {"name": "d", "side": "cross", "kind": "category", "of": ["user_id", "item_id"], "buckets": 9}
    whose = {"name": "user_id", "side": "user", "kind": "id", "buckets": 7}
    schema = parse({"user_id": "str", "feature": [*plain, whose, cross, other]})
    words = {"item_id": vocabulary(["i1"], "str"), "category_id": vocabulary(["c1"], "str")}
    encoder = Encoder(schema, words, Statistics({"item_id": 3, "category_id": 3}))
    encoded = encoder.encode("u1", {}, [click("i1", 1000)], ["i1"], NOW, catalog)
    assert "history" not in encoded.inputs and encoded.inputs["gap"].shape == (1, 1)
    assert encoder.encode("u1", {}, [], [], NOW, catalog).inputs["cross"].shape == (1, 0, 2)


def test_what_the_caller_gives_wins_over_profile_catalogue_and_default(encoder: Encoder, catalog: Catalog) -> None:
    made = encoder.encode(
        "u1",
        {"age": "30"},
        [],
        [{"item_id": "i1", "category_id": None}],
        NOW,
        catalog,
        user={"age": 20},
        context={"position": 2},
    ).inputs
    assert made["user"][0, 0] == 2 and made["item"][0, 0, 1] == UNKNOWN and made["context"].tolist() == [[[3]]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"candidates": [{"item_id": "i1", "colour": "red"}]},
            r"candidates\[0\]: unknown 'colour'; allowed: item_id, category_id",
        ),
        ({"candidates": ["i1", None]}, r"candidates\[1\]: None given, an item id is allowed"),
        ({"candidates": ["i1", 1.5]}, r"candidates\[1\]: 1.5 given, a string"),
        ({"candidates": ["i1", True]}, r"candidates\[1\]: True given, a string"),
        ({"candidates": [["i1"]]}, r"candidates\[0\]: \['i1'\] given"),
        ({"candidates": [{"category_id": "c1"}]}, r"candidates\[0\]: item_id is missing"),
        (
            {"candidates": ["i1", {"item_id": "i1", "price": "x"}]},
            r"candidates\[1\].price: 'x' given, a number is allowed",
        ),
        ({"user": {"age": 1.5}}, r"user.age: 1.5 given, an integer is allowed"),
        ({"user": {"income": 10**400}}, "user.income: 1000+ given, a finite number"),
        ({"user": {"income": 1e300}}, r"user.income: 1e\+300 given, a finite number of 32 bits"),
        ({"user": {"income": float("-inf")}}, r"user.income: -inf given, a finite number"),
        ({"user": {"interests": "a"}}, r"user.interests: 'a' given, a list is allowed"),
        ({"user": {"user_id": "u2"}}, r"user: unknown 'user_id'; allowed: age, income, interests"),
        ({"context": {"position": "first"}}, r"context.position: 'first' given, an integer"),
        ({"context": {"age": 3}}, r"context: unknown 'age'; allowed: position"),
    ],
)
def test_wrong_values_of_the_caller_are_refused_by_place(
    encoder: Encoder, catalog: Catalog, arguments: dict[str, Any], says: str
) -> None:
    given = {"candidates": ["i1"], **arguments}
    with pytest.raises(BadValue, match=says):
        encoder.encode("u1", {}, [], given.pop("candidates"), NOW, catalog, **given)


def test_wrong_values_in_the_store_are_left_out_and_counted(encoder: Encoder, catalog: Catalog) -> None:
    profile = {"age": "thirty", "income": "inf", "interests": "[", "unheard_of": "1"}
    encoded = encoder.encode("u1", profile, [], ["i1"], NOW, catalog)
    assert encoded.inputs["user"].tolist() == [[UNKNOWN, PAD, PAD]] and encoded.inputs["user_numbers"].tolist() == [
        [0.0]
    ]
    assert encoded.malformed == 3


def test_a_behaviour_whose_id_is_of_the_wrong_type_is_left_out_and_counted() -> None:
    schema = parse(
        {
            "user_id": "int",
            "feature": [{"name": "item_id", "side": "item", "kind": "id", "type": "int", "sequence_width": 8}],
        }
    )
    encoder = Encoder(schema, {"item_id": vocabulary([5], "int")}, Statistics({"item_id": 3}))
    catalog = Catalog.build(schema, keys([5], "int"), {})
    encoded = encoder.encode(1, {}, [click("5", 1000), click("i5", 500)], [5], NOW, catalog)
    assert encoded.inputs["history"].tolist() == [[[2]]] and encoded.malformed == 1
    assert set(encoded.inputs) == {"item", "history", "gap", "action"}


def test_positions_are_gaps_to_the_recommending_time() -> None:
    edges = np.array(EDGES_S)
    for gap_s, bucket in [
        (0, 1),
        (0.9, 1),
        (1, 2),
        (1.999, 2),
        (2, 3),
        (3600, 13),
        (2**25 - 1, 26),
        (2**25, 27),
        (1e9, 27),
    ]:
        now = np.array([NOW])
        assert time_positions(now[:, None] - int(gap_s * 1000), now).tolist() == [[bucket]]
    assert bucket_count(EDGES_S) == 28 and len(edges) == 26
    assert time_positions(np.array([[NOW + 10**9]]), np.array([NOW])).tolist() == [[1]]


def test_a_profiles_text_reads_back_as_the_value(encoder: Encoder) -> None:
    interests, age = encoder.schema.features[2], encoder.schema.features[0]
    assert interests.from_text(to_text(["a", "ü"])) == ["a", "ü"]
    assert (age.column([age.from_text(to_text(30))]) == age.column([30])).all()


def test_a_catalogue_of_other_fields_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    other = parse({"user_id": "str", "feature": [{"name": "item_id", "side": "item", "kind": "id"}]})
    Catalog.build(other, keys(["i1"], "str"), {}).save(tmp_path / "items.npy")
    with pytest.raises(CatalogError, match="needs .*category_id"):
        Catalog.open(tmp_path / "items.npy", encoder.schema)


def test_an_encoder_saved_and_opened_encodes_alike(encoder: Encoder, catalog: Catalog, tmp_path: Path) -> None:
    import tomli_w

    (tmp_path / "features.toml").write_text(tomli_w.dumps(encoder.schema.as_dict()))
    encoder.save(tmp_path / "vocab")
    opened = Encoder.open(tmp_path)
    assert opened.schema == encoder.schema
    arguments = ("u1", {"age": "20"}, [click("i1", 5000)], ["i1", "i9"], NOW, catalog)
    for name, array in encoder.encode(*arguments).inputs.items():
        np.testing.assert_array_equal(array, opened.encode(*arguments).inputs[name])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"feature": FEATURES[:3]}, "item_id"),
        ({"feature": [*FEATURES, FEATURES[0]]}, "must differ"),
        ({"feature": [{**FEATURES[0], "wdith": 3}, *FEATURES[3:5]]}, "unknown wdith; allowed: name, side"),
        ({"feature": [{**FEATURES[0], "side": "client"}, *FEATURES[3:5]]}, "side 'client', allowed: user, item"),
        ({"feature": [{**FEATURES[6], "default": None}, *FEATURES[3:5]]}, "neutral `default`"),
        ({"feature": [*FEATURES[3:5], {**FEATURES[7], "of": ["age", "item_id"]}]}, "names 'age'"),
        ({"history": {"length": 0}}, "length"),
        ({"history": {"gap_edges_s": [2, 1]}}, "must rise"),
        ({"feature": [*FEATURES, {"name": "user_id", "side": "user", "kind": "id", "type": "int"}]}, "type 'str'"),
        ({"user_id": "float"}, "allowed: int, str"),
        ({"users": 1}, "unknown users"),
    ],
)
def test_a_feature_table_that_cannot_be_used_says_why(change: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        parse({"user_id": "str", "feature": FEATURES} | change)


# ---- the same impressions through the training form and through a request


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, pl.DataFrame]:
    behaviours = write_log(tmp_path)
    schema = make_schema(4, ("click", "like"), [COUPONS])
    meta = encode_tables(tmp_path, schema, DataSet("log", "UTC", 0))
    assert sum(meta["impressions"].values()) == 1500 and min(meta["impressions"].values()) > 100
    return tmp_path, behaviours


def test_training_and_serving_encode_every_impression_alike(log: tuple[Path, pl.DataFrame]) -> None:
    folder, behaviours = log
    data = Prepared(folder)
    users = pl.read_parquet(folder / "tables" / "users.parquet")
    profiles = {
        row["user_id"]: {k: to_text(v) for k, v in row.items() if k != "user_id" and v is not None}
        for row in users.iter_rows(named=True)
    }
    impressions = in_order(pl.read_parquet(folder / "tables" / "impressions.parquet"), data.schema)
    of_user: dict[str, list[Behaviour]] = {}
    for user_id, *rest in behaviours.unique(maintain_order=True).iter_rows():
        of_user.setdefault(user_id, []).append(Behaviour(*rest))
    lengths, coupons = set(), set()
    for row, (user_id, item_id, now, _, position) in enumerate(impressions.iter_rows()):
        trained = data.batch(np.array([row]))
        seen = [b for b in of_user.get(user_id, []) if b.timestamp < now]
        served = data.encoder.encode(
            user_id, profiles.get(user_id, {}), seen, [item_id], now, data.catalog, context={"position": position}
        )
        lengths.add(served.history_length)
        coupons.add(int((served.inputs["gap_coupon"] != PAD).sum()))
        assert set(served.inputs) == set(trained)
        for name, array in served.inputs.items():
            mine = trained[name]
            if name.startswith(("gap", "history", "action")):
                slots = array.shape[1]
                assert (mine[:, slots:] == PAD).all()
                mine = mine[:, :slots]
            np.testing.assert_array_equal(mine, array, err_msg=f"{name} of impression {row}")
            assert mine.dtype == array.dtype
    assert lengths == {0, 1, 2, 3, 4} and coupons == {0, 1, 2}
    every = data.batch(np.arange(len(impressions)))
    assert set(np.unique(every["action"])) == {PAD, 1, 2} == set(np.unique(every["action_coupon"]))
    assert len(np.unique(every["history_coupon"])) > 10


def test_ids_that_are_new_get_rows_after_those_that_were_there(tmp_path: Path) -> None:
    """Warm start: a second log that goes on from the first moves no row and no statistic, and knows more ids."""
    for name in ("first", "second"):
        write_log(tmp_path / name)
    for table, name in (("impressions", "item_id"), ("items", "item_id"), ("behaviours", "object_id")):
        path = tmp_path / "second" / "tables" / f"{table}.parquet"
        frame = pl.read_parquet(path)
        frame.with_columns(pl.col(name).str.replace("^i1", "new1")).write_parquet(path)
    schema = make_schema(4, ("click", "like"), [COUPONS])
    encode_tables(tmp_path / "first", schema, DataSet("log", "UTC", 0))
    first = Prepared(tmp_path / "first").encoder
    encode_tables(tmp_path / "second", schema, DataSet("log", "UTC", 0), first)
    second = Prepared(tmp_path / "second").encoder
    old, new = keys([f"i{n}" for n in range(40)], "str"), keys(["new1", *(f"new1{n}" for n in range(10))], "str")
    was, now = first.vocabularies["item_id"], second.vocabularies["item_id"]
    np.testing.assert_array_equal(was.rows(old), now.rows(old))
    assert (was.rows(new) == UNKNOWN).all()
    begin, end = first.statistics.rows["item_id"], second.statistics.rows["item_id"]
    assert set(now.rows(new).tolist()) == set(range(begin, end)) and end == begin + 11
    assert first.statistics.numbers == second.statistics.numbers


def test_a_split_of_the_tables_own_is_taken_as_it_is(tmp_path: Path) -> None:
    write_log(tmp_path)
    path = tmp_path / "tables" / "impressions.parquet"
    frame = pl.read_parquet(path).with_columns(split=(pl.int_range(pl.len()) % 3).cast(pl.Int8))
    frame.write_parquet(path)
    meta = encode_tables(tmp_path, make_schema(), DataSet("log", "UTC", 0))
    assert meta["split"] == "of the table" and meta["impressions"] == {"train": 500, "validation": 500, "test": 500}
    data = Prepared(tmp_path)
    np.testing.assert_array_equal(data.arrays["split"], in_order(frame, data.schema)["split"])
    frame.with_columns(split=pl.lit(1, pl.Int8)).write_parquet(path)
    with pytest.raises(PrepareError, match="leaves train empty"):
        encode_tables(tmp_path, make_schema(), DataSet("log", "UTC", 0))


def test_nothing_is_fitted_on_what_comes_after_training(tmp_path: Path) -> None:
    write_log(tmp_path / "a")
    write_log(tmp_path / "b")
    for name, offset in (("impressions", 0), ("behaviours", 0)):
        path = tmp_path / "b" / "tables" / f"{name}.parquet"
        frame = pl.read_parquet(path)
        last_two = frame["timestamp"] >= 1_700_006_400_000 + 3 * 24 * HOUR + offset
        item = "item_id" if name == "impressions" else "object_id"
        changed = frame.with_columns(
            pl.when(last_two).then(pl.lit("never-in-train")).otherwise(pl.col(item)).alias(item)
        )
        changed.write_parquet(path)
    for side in ("a", "b"):
        encode_tables(tmp_path / side, make_schema(), DataSet("log", "UTC", 0))
    for path in sorted((tmp_path / "a" / "vocab").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / "vocab" / path.name).read_bytes(), path.name
    other = Prepared(tmp_path / "b")
    test = other.of_split("test")
    assert (other.batch(test)["item"][..., 0] == UNKNOWN).all()


def test_the_last_day_is_test_and_the_one_before_validation(log: tuple[Path, pl.DataFrame]) -> None:
    data = Prepared(log[0])
    days = [data.time[data.of_split(split)] // (24 * HOUR) for split in ("train", "validation", "test")]
    assert [sorted(set((d - days[0].min()).tolist())) for d in days] == [[0, 1, 2], [3], [4]]
    assert json.loads((log[0] / "meta.json").read_text())["split"]["test"] == ["2023-11-19"]


def test_a_log_of_two_days_is_split_by_tenths_which_is_told(tmp_path: Path) -> None:
    write_log(tmp_path)
    path = tmp_path / "tables" / "impressions.parquet"
    frame = pl.read_parquet(path).filter(pl.col("timestamp") < 1_700_006_400_000 + 2 * 24 * HOUR)
    frame.write_parquet(path)
    meta = encode_tables(tmp_path, make_schema(), DataSet("log", "UTC", 0))
    times = np.sort(frame["timestamp"].to_numpy())
    validation, test = times[len(times) * 8 // 10], times[len(times) * 9 // 10]
    split = (times >= validation).astype(int) + (times >= test)
    np.testing.assert_array_equal(Prepared(tmp_path).arrays["split"], split)
    assert meta["notes"] == [
        "test is the last tenth by time, validation the one before: the log has 2 calendar day(s), and a split by days "
        "takes 3"
    ]


def test_a_small_last_day_is_no_test_split(tmp_path: Path) -> None:
    write_log(tmp_path)
    path = tmp_path / "tables" / "impressions.parquet"
    frame = pl.read_parquet(path)
    few = frame.head(20).with_columns(timestamp=frame["timestamp"].max() + 24 * HOUR + pl.int_range(20))
    pl.concat([frame, few]).write_parquet(path)
    meta = encode_tables(tmp_path, make_schema(), DataSet("log", "UTC", 0))
    assert meta["impressions"] == {"train": 1215, "validation": 153, "test": 152}  # one of 1216 is tied with the next
    assert "one holds 20 impressions, below 2% of all" in meta["notes"][0]


def test_impressions_of_one_moment_cannot_be_split(tmp_path: Path) -> None:
    write_log(tmp_path)
    path = tmp_path / "tables" / "impressions.parquet"
    pl.read_parquet(path).with_columns(timestamp=pl.lit(1_700_006_400_000)).write_parquet(path)
    with pytest.raises(PrepareError, match="too few moments.*give the impressions a column `split`"):
        encode_tables(tmp_path, make_schema(), DataSet("log", "UTC", 0))


def test_a_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    write_log(tmp_path)
    path = tmp_path / "tables" / "items.parquet"
    pl.read_parquet(path).drop("price").write_parquet(path)
    with pytest.raises(PrepareError, match="no column 'price'.*category_id"):
        encode_tables(tmp_path, make_schema(), DataSet("log", "UTC", 0))


def test_a_drawn_negative_is_no_observation_of_its_item(tmp_path: Path) -> None:
    """Were it counted, a rare item that is known would tell that it was drawn."""
    found = {}
    for drawn in (False, True):
        folder = tmp_path / str(drawn)
        write_log(folder)
        path = folder / "tables" / "impressions.parquet"
        frame = pl.read_parquet(path)
        only = (pl.col("label") == 0) & (pl.col("item_id") == "i3")
        item = pl.when(only).then(pl.lit("only-drawn")).otherwise(pl.col("item_id"))
        frame.with_columns(item.alias("item_id")).write_parquet(path)
        meta = encode_tables(folder, make_schema(), DataSet("log", "UTC", drawn_negatives=drawn))
        assert meta["drawn_negatives"] is drawn
        vocabulary = Prepared(folder).encoder.vocabularies["item_id"]
        found[drawn] = vocabulary.rows(keys(["only-drawn", "i3"], "str")) != UNKNOWN
    assert found[False].tolist() == [True, True] and found[True].tolist() == [False, True]
