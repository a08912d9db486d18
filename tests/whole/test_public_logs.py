"""Taobao, Amazon and MovieLens: official forms, splits, negatives that leak nothing, ties, and the real pieces."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from model.datasets import amazon, movielens, taobao
from model.datasets.negatives import NONE, draw, generator
from model.datasets.splits import by_user
from model.datasets.tables import TABLES, TEST, TRAIN, VALIDATION, DataError, DataSet, MalformedLine, Options
from model.networks.blocks import Lookup
from model.prepare import main as prepare_main
from model.prepare import prepare
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS
from tests.raw_logs import Tables, canonical, write

DAY_S = 86_400
MIDNIGHT = taobao.FIRST_S  # 25 November 2017, 00:00 in Shanghai


def pairs(frame: pl.DataFrame, item: str = "item_id") -> set[tuple]:
    return set(frame.select("user_id", item).iter_rows())


# --- negatives and splits -----------------------------------------------------------------------------------------


def test_a_negative_is_drawn_as_often_as_it_stands_in_the_pool_and_never_from_what_the_user_touched():
    pool = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    users = np.repeat([0, 1], 40_000)

    drawn = draw(pool, users, np.array([1, 1]), np.array([0, 3]), generator(5))

    assert np.bincount(drawn[:40_000]) / 40_000 == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.01)
    assert np.bincount(drawn[40_000:]) / 40_000 == pytest.approx([0, 30 / 45, 15 / 45], abs=0.01)


def test_who_touched_nearly_all_of_a_pool_gets_the_rest_by_its_shares_and_who_touched_all_gets_none():
    pool = np.concatenate([np.zeros(1_000_000, np.int64), [1, 1, 1, 2]])
    users = np.repeat([0, 1, 2], [2_000, 5, 5])

    drawn = draw(pool, users, np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2]), generator(5))

    assert set(drawn[:2_000]) == {1, 2} and (drawn[:2_000] == 1).mean() == pytest.approx(0.75, abs=0.04)
    assert (drawn[2_000:2_005] == NONE).all() and (drawn[2_005:] != NONE).all()
    assert (draw(pool[:0], users, users, users, generator(5)) == NONE).all()


def test_the_codes_of_splits_are_the_loaders():
    assert [SPLITS[code] for code in (TRAIN, VALIDATION, TEST)] == ["train", "validation", "test"]


def test_a_split_by_user_holds_out_the_end_of_each_users_log_and_ties_keep_the_logs_order():
    log = pl.DataFrame(
        {"user_id": [2, 1, 1, 1, 1, 3], "item_id": [9, 5, 6, 7, 8, 1], "timestamp": [1, 30, 20, 30, 10, 4]}
    )

    split = by_user(log, pl.lit(1))

    assert split.select("user_id", "item_id", "split").rows() == [
        (1, 8, TRAIN),
        (1, 6, TRAIN),
        (1, 5, VALIDATION),
        (1, 7, TEST),
        (2, 9, TEST),
        (3, 1, TEST),
    ]
    assert split["split"].dtype == pl.Int8


# --- Taobao -------------------------------------------------------------------------------------------------------


def event(user: int, item: int, action: str, day: int, second: int = 0, category: int | None = None) -> str:
    return f"{user},{item},{item % 10 if category is None else category},{action},{MIDNIGHT + day * DAY_S + second}\n"


def test_the_official_taobao_file_becomes_canonical_tables(tmp_path):
    lines = [
        event(7, 11, "pv", 0, DAY_S - 1),
        event(7, 12, "cart", 0, DAY_S - 1),
        event(8, 13, "pv", 0, 5),
        event(8, 13, "pv", 0, 5),  # the same record again
        event(8, 14, "buy", 1),
        event(9, 15, "fav", 8, DAY_S - 1),
    ]
    for name in taobao.FILES:
        made, tables = canonical(taobao, write(tmp_path / name / name, "".join(lines)), tmp_path / f"out-{name}")

        assert made == DataSet("taobao", "Asia/Shanghai", drawn_negatives=True)
        assert tables["impressions"].sort("user_id", "label").rows() == [
            (7, 13, (MIDNIGHT + DAY_S - 1) * 1000, 0),
            (7, 11, (MIDNIGHT + DAY_S - 1) * 1000, 1),
            (8, 11, (MIDNIGHT + 5) * 1000, 0),
            (8, 13, (MIDNIGHT + 5) * 1000, 1),
        ]
        assert tables["impressions"]["label"].dtype == pl.Int8
        assert tables["behaviours"].rows() == [
            (7, "pv", "item", 11, (MIDNIGHT + DAY_S - 1) * 1000),
            (7, "cart", "item", 12, (MIDNIGHT + DAY_S - 1) * 1000),
            (8, "pv", "item", 13, (MIDNIGHT + 5) * 1000),
            (8, "buy", "item", 14, (MIDNIGHT + DAY_S) * 1000),
            (9, "fav", "item", 15, (MIDNIGHT + 9 * DAY_S - 1) * 1000),
        ]
        assert tables["items"].rows() == [(item, item % 10) for item in (11, 12, 13, 14, 15)]
        assert tables["users"].rows() == [(7,), (8,), (9,)]


def test_taobao_events_outside_the_nine_days_are_left_out_and_counted_as_no_fault_of_the_file(tmp_path):
    lines = event(1, 5, "pv", 0) + event(2, 6, "pv", 0)
    outside = [0, -2_134_949_234, MIDNIGHT - 1, MIDNIGHT + 9 * DAY_S, 2_122_867_355]

    made, tables = canonical(
        taobao,
        write(tmp_path / "raw/UserBehavior.csv", lines + "".join(f"3,7,1,pv,{t}\n" for t in outside)),
        tmp_path / "out",
    )

    assert made.bad_lines == 0
    assert made.notes == ("5 events outside 25 November to 3 December 2017 were left out",)
    assert set(tables["behaviours"]["user_id"]) == set(tables["users"]["user_id"]) == {1, 2}


def test_an_item_under_two_taobao_categories_has_the_lower_one_whatever_the_order(tmp_path):
    lines = [event(1, 5, "pv", 0, category=8), event(2, 5, "pv", 1, category=3), event(2, 6, "pv", 0)]
    for name, order in (("a", lines), ("b", lines[::-1])):
        _, tables = canonical(
            taobao, write(tmp_path / name / "UserBehavior.csv", "".join(order)), tmp_path / f"o{name}"
        )

        assert tables["items"].rows() == [(5, 3), (6, 6)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2,3,pv", "4 fields given, 5 are allowed"),
        ("1,2,3,view,1511544070", "behavior: 'view' given, pv, cart, fav, buy is allowed"),
        ("1,2,3,pv,yesterday", "timestamp: 'yesterday' given, an integer is allowed"),
        ("1,,3,pv,1511544070", "item_id: nothing given, an integer is allowed"),
        ('"1,2,3,pv,1511544070', "fields that cannot be told apart"),
    ],
)
def test_a_malformed_taobao_line_stops_with_its_number_or_is_counted(tmp_path, line, reason):
    raw = write(tmp_path / "raw/UserBehavior.csv", event(1, 5, "pv", 0) + line + "\n" + event(2, 6, "pv", 0))

    with pytest.raises(MalformedLine) as stopped:
        canonical(taobao, raw, tmp_path / "none")
    assert stopped.value.line == 2 and stopped.value.reason.startswith(reason)

    made, tables = canonical(taobao, raw, tmp_path / "one", skip_bad=1)
    assert made.bad_lines == 1 and len(tables["behaviours"]) == 2


def test_a_taobao_user_who_touched_all_that_was_viewed_keeps_positives_without_negatives(tmp_path):
    lines = event(1, 5, "pv", 0) + event(1, 6, "cart", 0, 9) + event(2, 6, "pv", 0) + event(3, 5, "pv", 1)

    made, tables = canonical(taobao, write(tmp_path / "raw/UserBehavior.csv", lines), tmp_path / "out")

    assert made.notes == ("2 positives have no negative: their users touched all that was viewed that day",)
    assert tables["impressions"].filter(label=0).select("user_id", "item_id").rows() == [(2, 5)]


def taobao_days(seed: int, users: int = 100, items: int = 5_000) -> str:
    """Three days on which a few items are viewed often and most once."""
    rng = np.random.default_rng(seed)
    viewed = (rng.pareto(0.5, (3, users, 30)) * 30).astype(int) % items
    return "".join(
        event(user, int(item), "pv" if rng.random() < 0.8 else "fav", day, int(rng.integers(DAY_S)))
        for day in range(3)
        for user in range(users)
        for item in viewed[day, user]
    )


def assert_taobao_rules(tables: Tables) -> None:
    day = ((pl.col("timestamp") // 1000 - MIDNIGHT) // DAY_S).alias("day")
    impressions, behaviours = tables["impressions"].with_columns(day), tables["behaviours"].with_columns(day)
    positives, negatives = impressions.filter(label=1), impressions.filter(label=0)
    at = ["user_id", "timestamp"]
    views = behaviours.filter(action="pv").rename({"object_id": "item_id"})

    in_order = ["user_id", "item_id", "timestamp"]
    assert positives.select(in_order).sort(in_order).equals(views.select(in_order).sort(in_order))
    assert negatives.select(at).sort(at).equals(positives.select(at).sort(at))
    touched = behaviours.select("user_id", "day", item_id="object_id")
    assert negatives.join(touched, on=["user_id", "day", "item_id"], how="semi").is_empty()
    assert negatives.join(views, on=["day", "item_id"], how="anti").is_empty()


def test_every_taobao_view_has_one_negative_of_its_user_and_time_that_was_viewed_by_others_that_day(tmp_path):
    _, tables = canonical(taobao, write(tmp_path / "raw/UserBehavior.csv", taobao_days(1)), tmp_path / "out")

    assert_taobao_rules(tables)


def test_taobao_negatives_follow_the_days_views(tmp_path):
    _, tables = canonical(taobao, write(tmp_path / "raw/UserBehavior.csv", taobao_days(1)), tmp_path / "out")
    counts = (
        tables["impressions"]
        .group_by("item_id")
        .agg(viewed=(pl.col("label") == 1).sum(), drawn=(pl.col("label") == 0).sum())
    )

    assert np.corrcoef(counts["viewed"].log1p(), counts["drawn"].log1p())[0, 1] > 0.8
    assert popularity_auc(tables, split_by_day(tables)) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("module", "fixture"), [(taobao, "taobao_raw"), (amazon, "amazon_raw")])
def test_a_seed_fixes_the_negatives_and_another_seed_changes_them_alone(module, fixture, request, tmp_path):
    raw = request.getfixturevalue(fixture)

    first, again, other = (
        canonical(module, raw, tmp_path / name, seed=seed)[1] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )

    assert all(first[name].equals(again[name]) for name in TABLES)
    assert all(first[name].equals(other[name]) for name in TABLES if name != "impressions")
    assert first["impressions"].filter(label=1).equals(other["impressions"].filter(label=1))
    assert not first["impressions"].equals(other["impressions"])


@pytest.fixture
def taobao_raw(tmp_path) -> Path:
    return write(tmp_path / "taobao/UserBehavior.csv", taobao_days(2))


def test_no_taobao_behaviour_at_or_after_its_impression_is_in_the_history(taobao_raw, tmp_path):
    prepare("taobao", taobao_raw, tmp_path / "out", Options())

    assert_histories_end_before(Prepared(tmp_path / "out"))


# --- Amazon -------------------------------------------------------------------------------------------------------


def review(user: str, item: str, day: int, **more) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": 1_400_000_000 + day * DAY_S, **more}) + "\n"


META = "".join(
    json.dumps({"asin": f"B{n:02}", "categories": [["Beauty", f"c{n % 3}"], ["Gifts"]]}) + "\n" for n in range(30)
)


@pytest.fixture
def amazon_raw(tmp_path) -> Path:
    """Forty users with six reviews each, half of the days tied."""
    rng = np.random.default_rng(3)
    lines = [
        review(f"A{user:02}", f"B{item:02}", int(day), reviewText='5" é', overall=4.0)
        for user in range(40)
        for item, day in zip(rng.choice(30, 6, replace=False), rng.integers(4, size=6), strict=True)
    ]
    write(tmp_path / "amazon/meta_Beauty.json", META)
    return write(tmp_path / "amazon/reviews_Beauty_5.json.gz", "".join(lines))


def small_amazon(folder: Path, reviews: str, meta: str | bytes = META) -> Path:
    write(folder / "meta_Beauty.json.gz", meta)
    return write(folder / "reviews_Beauty_5.json", reviews)


def test_the_official_amazon_files_become_canonical_tables(tmp_path):
    lines = [review("A2", "B05", 9), review("A1", "B07", 1), review("A1", "B03", 5), review("A1", "B99", 2)]

    made, tables = canonical(amazon, small_amazon(tmp_path / "raw", "".join(lines)), tmp_path / "out")

    at = [(1_400_000_000 + day * DAY_S) * 1000 for day in range(10)]
    assert made == DataSet("amazon", "UTC", drawn_negatives=True)
    assert tables["impressions"].filter(label=1).rows() == [
        ("A1", "B07", at[1], 1, TRAIN),
        ("A1", "B99", at[2], 1, VALIDATION),
        ("A1", "B03", at[5], 1, TEST),
        ("A2", "B05", at[9], 1, TEST),
    ]
    assert tables["impressions"].filter(label=0).select("user_id", "item_id", "split").rows()[:3] == [
        ("A1", "B05", split) for split in (TRAIN, VALIDATION, TEST)
    ]
    assert tables["behaviours"].rows()[0] == ("A1", "review", "item", "B07", at[1])
    assert len(tables["behaviours"]) == 4
    assert tables["items"].rows() == [
        ("B03", "c0", ["Beauty", "c0"]),
        ("B05", "c2", ["Beauty", "c2"]),
        ("B07", "c1", ["Beauty", "c1"]),
        ("B99", None, None),
    ]
    assert tables["users"].rows() == [("A1",), ("A2",)]


def test_meta_as_python_literals_reads_as_strict_json_does(tmp_path):
    record = {"asin": "B05", "title": 'Men\'s "5" é', "price": None, "categories": [["Beauty", "Men's"]]}
    lines = "".join(review("A1", f"B0{n}", n) for n in (5, 6, 7))
    both = [json.dumps(record), repr(record)]

    read = [
        canonical(amazon, small_amazon(tmp_path / str(n), lines, f"{line}\n"), tmp_path / f"out{n}")[1]["items"]
        for n, line in enumerate(both)
    ]

    assert both[0] != both[1] and read[0].equals(read[1])
    assert read[0].row(0) == ("B05", "Men's", ["Beauty", "Men's"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            '{"reviewerID": "A1", "asin": "B05"',
            """'{"reviewerID": "A1", "asin": "B05"' given, a JSON object is allowed""",
        ),
        ("[1, 2]", "[1, 2] given, a JSON object is allowed"),
        ("__import__('os').getcwd()", '"__import__'),
        ('{"reviewerID": "A1", "asin": "B05"}', "unixReviewTime: nothing given, seconds since 1970"),
        ('{"reviewerID": "A1", "asin": 5, "unixReviewTime": 1400000000}', "asin: 5 given, text is allowed"),
        (
            '{"reviewerID": "A1", "asin": "B", "unixReviewTime": "1400000000"}',
            "unixReviewTime: '1400000000' given, sec",
        ),
        ('{"reviewerID": "A1", "asin": "B", "unixReviewTime": true}', "unixReviewTime: True given, seconds"),
        (
            '{"reviewerID": "A1", "asin": "B", "unixReviewTime": 1400000000000}',
            "unixReviewTime: 1400000000000 given, sec",
        ),
        (b'{"reviewerID": "A\xff"}', "byte 0xff in place 18 given, UTF-8 is allowed"),
        ("[" * 100_000, "'[[["),
    ],
)
def test_a_malformed_review_stops_with_its_line_and_reason_or_is_counted(tmp_path, line, reason):
    whole = [review("A1", f"B0{n}", n).encode() for n in (5, 6, 7)]
    line = line.encode() if isinstance(line, str) else line
    raw = small_amazon(tmp_path / "raw", "")
    write(raw / "reviews_Beauty_5.json", b"".join([whole[0], b"\n", line + b"\n", *whole[1:]]))

    with pytest.raises(MalformedLine) as stopped:
        canonical(amazon, raw, tmp_path / "none")
    assert stopped.value.line == 3 and stopped.value.reason.startswith(reason)

    made, tables = canonical(amazon, raw, tmp_path / "one", skip_bad=1)
    assert made.bad_lines == 1 and len(tables["behaviours"]) == 3


@pytest.mark.parametrize("categories", ['["Beauty"]', '"Beauty"', "[[1]]", "[[null]]"])
def test_categories_that_are_no_paths_of_names_are_refused(tmp_path, categories):
    lines = "".join(review("A1", f"B0{n}", n) for n in (5, 6, 7))
    raw = small_amazon(tmp_path / "raw", lines, f'{{"asin": "B05", "categories": {categories}}}\n')

    with pytest.raises(MalformedLine, match=r"meta_Beauty.json.gz, line 1: categories: .* a list of lists of texts is"):
        canonical(amazon, raw, tmp_path / "out")


def test_no_amazon_item_that_a_user_ever_reviewed_is_a_negative_of_theirs_in_any_split(amazon_raw, tmp_path):
    _, tables = canonical(amazon, amazon_raw, tmp_path / "out")

    assert_amazon_rules(tables)


def assert_amazon_rules(tables: Tables) -> None:
    impressions = tables["impressions"]
    positives, negatives = impressions.filter(label=1), impressions.filter(label=0)
    at = ["user_id", "timestamp", "split"]

    assert pairs(positives) == pairs(tables["behaviours"], "object_id")
    assert negatives.select(at).sort(at).equals(positives.select(at).sort(at))
    assert not pairs(negatives) & pairs(positives)  # of any split: none of test stands in train, in either class
    per_user = positives.group_by("user_id").agg(
        *(((pl.col("split") == code).sum()).alias(name) for code, name in enumerate(SPLITS)),
        last=pl.col("timestamp").max() == pl.col("timestamp").filter(pl.col("split") == TEST).first(),
        ordered=pl.col("timestamp").filter(pl.col("split") == VALIDATION).first()
        >= pl.col("timestamp").filter(pl.col("split") == TRAIN).max(),
    )
    assert (per_user["test"] == 1).all() and (per_user["validation"] == 1).all()
    assert per_user["last"].all() and per_user["ordered"].all()


def test_amazon_negatives_are_uniform_over_the_reviewed_items(tmp_path):
    """Half of all reviews are of one item; a user without it gets it as a negative no more often than any other."""
    lines = [
        review(f"A{user:03}", f"B{item:02}", day)
        for user in range(400)
        for day, item in enumerate([0 if user % 2 else 1 + user % 28, 1 + (user + 7) % 28, 1 + (user + 13) % 28])
    ]
    _, tables = canonical(amazon, small_amazon(tmp_path / "raw", "".join(lines)), tmp_path / "out")

    drawn = tables["impressions"].filter(pl.col("label") == 0, pl.col("user_id").str.slice(1).cast(pl.Int64) % 2 == 0)
    assert len(drawn) == 600
    assert (drawn["item_id"] == "B00").mean() == pytest.approx(1 / 26, abs=0.03)


def test_a_tied_day_enters_no_history_unless_the_papers_order_of_ties_is_asked_for(tmp_path):
    """Days 1, 1, 2, 2: what a history of each review holds, and that the split takes the file's last two both times."""
    lines = [review("A1", f"B0{n}", day) for n, day in ((5, 1), (6, 1), (7, 2), (8, 2))]
    raw = small_amazon(tmp_path / "raw", "".join([*lines, review("A2", "B09", 1)]))
    seen = {}
    for ties in ("strict", "published"):
        meta = prepare("amazon", raw, tmp_path / ties, Options(ties=ties))
        data = Prepared(tmp_path / ties)
        items = pl.read_parquet(tmp_path / ties / "encoded/items.parquet")["item_id"]
        own = np.flatnonzero((data.user == data.user[0]) & (data.label == 1))
        begin, end = data.arrays["begin"][data.user[own]], data.arrays["end"][own]
        seen[ties] = {
            (items[int(data.item[row])], SPLITS[data.arrays["split"][row]]): sorted(
                items[int(clicked)] for clicked in data.arrays["clicked"][first:last]
            )
            for row, first, last in zip(own, begin, end, strict=True)
        }
        assert ("see each other" in " ".join(meta["notes"])) == (ties == "published")

    assert seen["strict"] == {
        ("B05", "train"): [],
        ("B06", "train"): [],
        ("B07", "validation"): ["B05", "B06"],
        ("B08", "test"): ["B05", "B06"],
    }
    assert seen["published"] == {
        ("B05", "train"): [],
        ("B06", "train"): ["B05"],
        ("B07", "validation"): ["B05", "B06"],
        ("B08", "test"): ["B05", "B06", "B07"],
    }


def test_reviews_that_leave_nothing_to_train_on_are_refused(tmp_path):
    raw = small_amazon(tmp_path / "raw", review("A1", "B05", 1) + review("A1", "B06", 2) + review("A2", "B05", 1))

    with pytest.raises(DataError, match="no user has three reviews"):
        canonical(amazon, raw, tmp_path / "out")


# --- MovieLens ----------------------------------------------------------------------------------------------------


def movielens_1m(folder: Path) -> Path:
    """Twenty ratings of user 1, in no order of time and two in one second; three of user 2."""
    order = [(movie * 7) % 20 for movie in range(20)]
    ratings = [
        f"1::{1 + movie}::{1 + movie % 5}::{978_300_000 + 60 * max(when, 1)}" for movie, when in enumerate(order)
    ]
    ratings += [f"2::{movie}::4::{978_400_000 + movie}" for movie in (1, 2, 3)]
    write(folder / "ratings.dat", "\n".join(ratings) + "\n")
    films = [f"{n}::Film {n} ({1980 + n})::Drama|War" for n in range(1, 20)] + [
        "20::Misérables, Les (1995)::Drama|Musical"
    ]
    write(folder / "movies.dat", "\n".join(films).encode("latin-1"))
    return write(folder / "users.dat", "1::F::1::10::48067\n2::M::56::16::70072-1234\n")


def test_the_official_ml_1m_files_become_canonical_tables(tmp_path):
    made, tables = canonical(movielens, movielens_1m(tmp_path / "raw"), tmp_path / "out")

    impressions = tables["impressions"]
    assert made == DataSet("movielens", "UTC")
    assert impressions.columns == ["user_id", "item_id", "timestamp", "label", "split"]
    one = impressions.filter(user_id=1)
    when = ((one["timestamp"] // 1000 - 978_300_000) // 60).to_list()
    assert when == [1, 1, *range(2, 20)]  # by time
    assert one["item_id"].to_list()[:2] == [1, 4]  # one second: as in the file
    assert one["split"].to_list() == [TRAIN] * 16 + [VALIDATION] * 2 + [TEST] * 2
    assert one["label"].to_list() == [int((movie - 1) % 5 >= 3) for movie in one["item_id"]]
    assert set(impressions.filter(user_id=2)["split"]) == {TRAIN}  # a tenth of three is none

    assert tables["items"].row(-1, named=True) == {"item_id": 20, "genres": ["Drama", "Musical"], "year": 1995}
    assert tables["users"].rows(named=True) == [
        {"user_id": 1, "gender": "F", "age": 1, "occupation": 10, "zip": "48067", "zip_area": "480"},
        {"user_id": 2, "gender": "M", "age": 56, "occupation": 16, "zip": "70072-1234", "zip_area": "700"},
    ]


def test_a_rating_of_four_or_more_is_a_click_and_any_other_a_rating_and_no_table_holds_the_rating(tmp_path):
    _, tables = canonical(movielens, movielens_1m(tmp_path / "raw"), tmp_path / "out")

    behaviours, impressions = tables["behaviours"], tables["impressions"]
    assert pairs(behaviours.filter(action="click"), "object_id") == pairs(impressions.filter(label=1))
    assert pairs(behaviours.filter(action="rate"), "object_id") == pairs(impressions.filter(label=0))
    assert len(behaviours) == len(impressions) == 23
    assert not any("rating" in frame.columns for frame in tables.values())


def movielens_csv(folder: Path) -> Path:
    write(
        folder / "movies.csv",
        'movieId,title,genres\n1,"American President, The (1995)",Comedy|Drama\n2,Fawlty Towers (1975-1979),Comedy\n'
        "3,Untitled,(no genres listed)\n",
    )
    ratings = "".join(f"7,{1 + n % 3},{0.5 * (1 + n % 10)},{1_100_000_000 + n}\n" for n in range(39))
    return write(folder / "ratings.csv.gz", "userId,movieId,rating,timestamp\n" + ratings)


def test_the_official_csv_releases_are_read_with_half_stars_and_without_profiles(tmp_path):
    _, tables = canonical(movielens, movielens_csv(tmp_path / "raw"), tmp_path / "out")

    assert tables["impressions"]["label"].to_list() == ([0, 0, 0, 0, 0, 0, 0, 1, 1, 1] * 4)[:39]
    assert tables["impressions"]["split"].to_list() == [TRAIN] * 33 + [VALIDATION] * 3 + [TEST] * 3
    assert tables["items"].rows() == [(1, ["Comedy", "Drama"], 1995), (2, ["Comedy"], 1975), (3, None, None)]
    assert tables["users"].row(0) == (7, None, None, None, None, None)


@pytest.mark.parametrize("raw", [movielens_1m, movielens_csv])
def test_both_forms_of_movielens_are_prepared_with_histories_of_what_was_liked(tmp_path, raw):
    meta = prepare("movielens", raw(tmp_path / "raw"), tmp_path / "out", Options())

    data = Prepared(tmp_path / "out")
    assert_histories_end_before(data)
    assert meta["behaviours"] == data.label.sum()


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("ratings.dat", "1::2::6::978300000", "rating: '6' given, a number from 0.5 to 5 is allowed"),
        ("ratings.dat", "1::2::nan::978300000", "rating: 'nan' given"),
        ("ratings.dat", "1::2::5", "3 fields given, 4 are allowed"),
        ("ratings.dat", "1::2::5::978300000000", "timestamp: '978300000000' given, seconds since 1970"),
        ("movies.dat", "x::Film (1990)::Drama", "movieId: 'x' given, an integer is allowed"),
    ],
)
def test_a_malformed_movielens_line_stops_with_its_number_or_is_counted(tmp_path, file, line, reason):
    raw = movielens_1m(tmp_path / "raw")
    (raw / file).write_bytes(line.encode() + b"\n" + (raw / file).read_bytes())

    with pytest.raises(MalformedLine) as stopped:
        canonical(movielens, raw, tmp_path / "none")
    assert stopped.value.line == 1 and stopped.value.reason.startswith(reason)
    assert canonical(movielens, raw, tmp_path / "one", skip_bad=1)[0].bad_lines == 1


# --- missing files, the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "files", "message"),
    [
        (taobao, [], "holds 0 of UserBehavior.csv and UserBehavior.csv.gz; exactly one is allowed"),
        (taobao, list(taobao.FILES), "holds 2 of UserBehavior.csv"),
        (amazon, ["meta_Beauty.json"], r"holds none of reviews_\*_5.json"),
        (amazon, ["reviews_Beauty_5.json", "meta_Books.json"], r"holds 0 of meta_Beauty.json\[.gz\]"),
        (amazon, ["reviews_Beauty_5.json", "reviews_Books_5.json.gz"], "holds reviews_Beauty_5.json, reviews_Books_5"),
        (movielens, ["movies.csv"], r"holds 0 of ratings.csv\[.gz\] and ratings.dat\[.gz\]; exactly one is allowed"),
        (movielens, ["ratings.csv", "movies.dat"], r"holds 0 of movies.csv\[.gz\]; exactly one is allowed"),
    ],
)
def test_a_folder_without_exactly_the_files_of_one_release_is_refused(tmp_path, module, files, message):
    for name in files:
        write(tmp_path / "raw" / name, "x")
    (tmp_path / "raw").mkdir(exist_ok=True)

    with pytest.raises(DataError, match=message):
        canonical(module, tmp_path / "raw", tmp_path / "out")


def test_an_empty_file_of_reviews_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"reviews_Beauty_5.json is empty; JSON objects with reviewerID"):
        canonical(amazon, small_amazon(tmp_path / "raw", ""), tmp_path / "out")


def test_the_command_passes_the_order_of_ties_on_and_refuses_it_for_other_logs(
    amazon_raw, taobao_raw, tmp_path, capsys
):
    common = ["--out", str(tmp_path / "out"), "--ties", "published"]

    assert prepare_main(["--dataset", "amazon", "--raw", str(amazon_raw), *common]) == 0
    assert "ties published" in json.loads((tmp_path / "out/meta.json").read_text())["notes"][0]
    with pytest.raises(SystemExit):
        prepare_main(["--dataset", "taobao", "--raw", str(taobao_raw), *common])
    assert "data set taobao: unknown ties; allowed: skip_bad, seed" in capsys.readouterr().err


def test_a_user_id_of_width_0_is_encoded_for_those_who_want_it_and_adds_nothing_to_other_networks(small_data):
    place = small_data.schema.places("user")["user_id"]
    row = small_data.batch(np.arange(0, 20_000, 100))["user"][:, place]
    lookup = Lookup(small_data.schema, small_data.rows)

    assert len(np.unique(row)) > 10
    assert "user_id" not in lookup.other
    assert lookup.width_user_F == sum(f.width for f in small_data.schema.side("user"))


# --- the real pieces ----------------------------------------------------------------------------------------------


def split_by_day(tables: Tables) -> pl.DataFrame:
    day = (pl.col("timestamp") // 1000 - MIDNIGHT) // DAY_S
    return tables["impressions"].with_columns(split=pl.when(day == day.max()).then(TEST).otherwise(TRAIN))


def popularity_auc(tables: Tables, impressions: pl.DataFrame) -> float:
    """AUC on test of how often training has the item as a positive."""
    counts = impressions.filter(pl.col("split") != TEST, pl.col("label") == 1).group_by("item_id").len()
    test = impressions.filter(split=TEST).join(counts, on="item_id", how="left", maintain_order="left")
    return float(roc_auc_score(test["label"], test["len"].fill_null(0)))


def assert_histories_end_before(data: Prepared) -> None:
    begin, end = data.arrays["begin"][data.user], data.arrays["end"]
    clicked_at, some = data.arrays["clicked_at"], end > begin
    assert some.any() and (clicked_at[end[some] - 1] < data.time[some]).all()


def test_the_real_taobao_piece_is_read_whole_and_its_popularity_is_not_inverted(real_logs, tmp_path):
    made, tables = canonical(taobao, real_logs / "taobao_userbehavior", tmp_path / "out")

    assert made == DataSet("taobao", "Asia/Shanghai", drawn_negatives=True)
    assert (len(tables["behaviours"]), len(tables["users"])) == (73_335, 700)
    assert tables["impressions"]["label"].mean() == 0.5 and len(tables["impressions"]) == 2 * 65_711
    assert_taobao_rules(tables)
    assert popularity_auc(tables, split_by_day(tables)) == pytest.approx(0.5, abs=0.02)  # uniform negatives: 0.27


def test_the_real_amazon_piece_is_read_whole_and_has_the_known_floor(real_logs, tmp_path):
    made, tables = canonical(amazon, real_logs / "amazon_beauty", tmp_path / "out")

    assert made == DataSet("amazon", "UTC", drawn_negatives=True)
    assert (len(tables["behaviours"]), len(tables["users"]), len(tables["items"])) == (198_502, 22_363, 12_101)
    assert tables["items"]["category_id"].null_count() == 0
    splits = tables["impressions"]["split"].value_counts().sort("split")["count"].to_list()
    assert splits == [2 * (198_502 - 2 * 22_363), 2 * 22_363, 2 * 22_363]
    assert_amazon_rules(tables)
    assert popularity_auc(tables, tables["impressions"]) == pytest.approx(0.675, abs=0.01)
