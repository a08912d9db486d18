"""Public logs as they are downloaded: releases of Amazon, ML-100K, RecBole, copies of Taobao; and what is refused."""

import json
from pathlib import Path

import pytest

from model import prepare as prepare_verb
from model.datasets import amazon, kuairand, movielens, recbole, taobao
from model.datasets.tables import TABLES, TEST, TRAIN, VALIDATION, DataError, DataSet, MalformedLine
from tests.raw_logs import canonical, write

DAY_S = 86_400
NOW_S = 1_500_000_000
MIDNIGHT = taobao.FIRST_S


def objects(*records: dict) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


# --- Amazon -------------------------------------------------------------------------------------------------------

TAKEN = [(user, item, n) for user in "abc" for n, item in enumerate("pqrs")]


def reviews_2018(step: int = DAY_S) -> str:
    return objects(
        *({"reviewerID": u, "asin": i, "overall": 5.0, "unixReviewTime": NOW_S + step * n} for u, i, n in TAKEN)
    )


def reviews_2023(milliseconds: int = 1000) -> str:
    return objects(
        *(
            {"rating": 5.0, "asin": i + "-red", "parent_asin": i, "user_id": u, "timestamp": milliseconds * (NOW_S + n)}
            for u, i, n in TAKEN
        )
    )


META_2014 = objects(*({"asin": i, "categories": [["Root", "Leaf " + i], ["Gifts"]]} for i in "pqrs"))
META_2018 = objects(*({"asin": i, "category": ["Root", "Leaf " + i]} for i in "pqrs"))
META_2023 = objects(*({"parent_asin": i, "categories": ["Root", "Leaf " + i], "store": None} for i in "pqrs"))
RATINGS_2023 = "user_id,parent_asin,rating,timestamp,history\n" + "".join(
    f"{u},{i},5.0,{1000 * (NOW_S + n)},{' '.join('pqrs'[:n])}\n" for u, i, n in TAKEN
)


def amazon_folder(folder: Path, reviews: tuple[str, str], meta: tuple[str, str]) -> Path:
    write(folder / meta[0], meta[1])
    return write(folder / reviews[0], reviews[1])


@pytest.mark.parametrize(
    ("reviews", "meta", "step_ms"),
    [
        (("Tiny_5.json.gz", reviews_2018()), ("meta_Tiny.json.gz", META_2018), DAY_S * 1000),
        (("Tiny.json", reviews_2018()), ("meta_Tiny.json", META_2018), DAY_S * 1000),
        (("Tiny.jsonl.gz", reviews_2023()), ("meta_Tiny.jsonl", META_2023), 1000),
        (("Tiny.csv.gz", RATINGS_2023), ("meta_Tiny.jsonl.gz", META_2023), 1000),
        # under the names of 2014, as renamed for a reader of that release; and one release's meta beside another's
        (("reviews_Tiny_5.json.gz", reviews_2018()), ("meta_Tiny.json.gz", META_2018), DAY_S * 1000),
        (("reviews_Tiny_5.json", reviews_2023()), ("meta_Tiny.json", META_2023), 1000),
        (("Tiny_5.json.gz", reviews_2018()), ("meta_Tiny.json.gz", META_2014), DAY_S * 1000),
        (("reviews_Tiny_5.json", "\ufeff" + reviews_2018()), ("meta_Tiny.json", "\ufeff" + META_2014), DAY_S * 1000),
    ],
)
def test_every_release_of_amazon_is_read_by_its_keys_whatever_its_name(tmp_path, reviews, meta, step_ms):
    log, tables = canonical(amazon, amazon_folder(tmp_path / "raw", reviews, meta), tmp_path / "out")

    assert log == DataSet("amazon", "UTC", notes=log.notes, drawn_negatives=True)
    assert log.notes == ("12 positives have no negative: their users reviewed all items",)
    assert tables["impressions"].rows()[:4] == [
        ("a", item, NOW_S * 1000 + step_ms * n, 1, split)
        for n, (item, split) in enumerate(zip("pqrs", (TRAIN, TRAIN, VALIDATION, TEST), strict=True))
    ]
    assert tables["items"].rows() == [(i, f"Leaf {i}", ["Root", f"Leaf {i}"]) for i in "pqrs"]


def test_a_repeated_review_is_one_and_scraped_html_ends_a_path(tmp_path):
    lines = reviews_2018()
    meta = objects(
        {"asin": "p", "category": ["Root", "Leaf", "</span></span>", "Machine wash"]},
        {"asin": "q", "category": []},
        {"asin": "r", "category": ["Root"]},
    )

    log, tables = canonical(
        amazon,
        amazon_folder(tmp_path / "raw", ("T_5.json", lines + lines.splitlines()[0] + "\n"), ("meta_T.json", meta)),
        tmp_path / "out",
    )

    assert log.notes[0] == "1 reviews repeat an earlier one and were left out"
    assert len(tables["behaviours"]) == 12
    assert tables["items"].rows() == [
        ("p", "Leaf", ["Root", "Leaf"]),
        ("q", None, None),
        ("r", "Root", ["Root"]),
        ("s", None, None),
    ]


def test_a_kind_without_categories_is_read_and_told(tmp_path):
    meta = objects(*({"parent_asin": i, "categories": []} for i in "pqrs"))

    log, _ = canonical(
        amazon, amazon_folder(tmp_path / "raw", ("T.jsonl", reviews_2023()), ("meta_T.jsonl", meta)), tmp_path / "out"
    )

    assert log.notes[0] == "4 of 4 items have no category: categories is empty for them"


def test_a_meta_file_that_describes_few_items_is_told_and_one_of_another_kind_refused(tmp_path):
    few = objects({"asin": "p", "category": ["Root"]})
    raw = amazon_folder(tmp_path / "few", ("T_5.json", reviews_2018()), ("meta_T.json", few))
    log, _ = canonical(amazon, raw, tmp_path / "out")
    assert log.notes[0] == "meta_T.json describes 1 of the log's 4 items; the others have no features"

    other = objects({"asin": "B1", "category": ["Root"]})
    raw = amazon_folder(tmp_path / "none", ("T_5.json", reviews_2018()), ("meta_T.json", other))
    with pytest.raises(DataError, match=r"describes 0 of the log's 4 items, .* like 'B1', the log's like 'p'"):
        canonical(amazon, raw, tmp_path / "refused")


def test_hidden_files_and_folders_beside_a_log_are_no_logs(tmp_path):
    raw = amazon_folder(tmp_path / "raw", ("T.jsonl", reviews_2023()), ("meta_T.jsonl", META_2023))
    write(raw / "._T.jsonl", b"\x00\x05\x16\x07")
    (raw / "old.json").mkdir()

    _, tables = canonical(amazon, raw, tmp_path / "out")

    assert len(tables["behaviours"]) == 12


def test_times_in_milliseconds_have_no_published_order_of_ties(tmp_path):
    raw = amazon_folder(tmp_path / "raw", ("T.jsonl", reviews_2023()), ("meta_T.jsonl", META_2023))

    with pytest.raises(DataError, match="T.jsonl: ties published is for days, but times of 2023 are milliseconds"):
        canonical(amazon, raw, tmp_path / "out", ties="published")


@pytest.mark.parametrize(
    ("reviews", "meta", "message"),
    [
        (
            reviews_2018(),
            META_2018.replace("category", "cats"),
            r"meta_T.json has the keys asin, cats; asin, categories \(",
        ),
        (reviews_2018(), META_2018.replace("asin", "sku"), r"meta_T.json has the keys sku, category; asin, categories"),
        (
            reviews_2018().replace("reviewerID", "user"),
            META_2018,
            r"T_5.json has the keys user, asin, overall, unixRev",
        ),
        (reviews_2018().replace("unixReviewTime", "time"), META_2018, "line 1: unixReviewTime: nothing given"),
        (reviews_2023(1), META_2023, r"T_5.json, line 1: timestamp: 1500000000 given, milliseconds since 1970"),
        (RATINGS_2023, META_2023, r"T_5.json: 'user_id,parent_asin,.*' given, JSON objects with reviewerID"),
        ("\n\n", META_2023, "T_5.json is empty; JSON objects with reviewerID, asin, unixReviewTime"),
        (reviews_2018(), "", r"meta_T.json is empty; JSON objects with asin, categories \(2014\) or asin, category"),
        (reviews_2018().encode("utf-16"), META_2018, "T_5.json: .* given, JSON objects with"),
    ],
)
def test_an_amazon_file_that_is_not_understood_is_refused_with_what_it_holds(tmp_path, reviews, meta, message):
    raw = amazon_folder(tmp_path / "raw", ("T_5.json", reviews), ("meta_T.json", meta))

    with pytest.raises(DataError, match=message):
        canonical(amazon, raw, tmp_path / "out")


def test_a_csv_of_amazon_without_a_header_and_a_packed_file_cut_short_are_refused(tmp_path):
    raw = amazon_folder(tmp_path / "a", ("T.csv", RATINGS_2023.partition("\n")[2]), ("meta_T.jsonl", META_2023))
    with pytest.raises(DataError, match="T.csv has no column user_id, parent_asin, timestamp; there are a, p, 5.0"):
        canonical(amazon, raw, tmp_path / "out-a")

    raw = amazon_folder(tmp_path / "b", ("T_5.json.gz", reviews_2018()), ("meta_T.json", META_2018))
    packed = (raw / "T_5.json.gz").read_bytes()
    (raw / "T_5.json.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="T_5.json.gz: broken gzip file"):
        canonical(amazon, raw, tmp_path / "out-b")


# --- MovieLens-100K -----------------------------------------------------------------------------------------------


def ml_100k(folder: Path) -> Path:
    ratings = "".join(f"1\t{film}\t{1 + film % 5}\t{880_000_000 + film}\n" for film in range(1, 21))
    write(folder / "u.data", ratings + "2\t1\t5\t880000000\n")
    flags = ["0"] * 19
    children, unknown = flags.copy(), flags.copy()
    children[3] = children[4] = "1"  # Animation, Children's
    unknown[0] = "1"
    films = [f"{n}|Film {n} ({1970 + n})|01-Jan-1995||http://x|{'|'.join(children)}" for n in range(1, 20)]
    films.append(f"20|Misérables, Les|||http://x|{'|'.join(unknown)}")
    write(folder / "u.item", "\n".join(films).encode("latin-1"))
    return write(folder / "u.user", "1|24|M|technician|85711\n2|7|F|none|T8H1N\n")


def test_ml_100k_becomes_the_tables_that_ml_1m_does(tmp_path):
    log, tables = canonical(movielens, ml_100k(tmp_path / "raw"), tmp_path / "out")

    assert log == DataSet("movielens", "UTC")
    one = tables["impressions"].filter(user_id=1)
    assert one["label"].to_list() == [int(film % 5 >= 3) for film in range(1, 21)]
    assert one["split"].to_list() == [TRAIN] * 16 + [VALIDATION] * 2 + [TEST] * 2
    assert tables["items"].row(0) == (1, ["Animation", "Children's"], 1971)
    assert tables["items"].row(-1) == (20, None, None)
    assert tables["users"].rows(named=True) == [
        {"user_id": 1, "gender": "M", "age": 18, "occupation": 19, "zip": "85711", "zip_area": "857"},
        {"user_id": 2, "gender": "F", "age": 1, "occupation": 12, "zip": "T8H1N", "zip_area": "T8H"},
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("u.data", "user_id\titem_id\trating\ttimestamp\n", "u.data, line 1: userId: 'user_id' given, an integer"),
        ("u.data", "1 1 5 880000000\n", "u.data, line 1: 1 fields given, 4 are allowed"),
        ("u.data", "", "u.data holds no ratings; userId, movieId, rating, timestamp are needed"),
        ("u.item", "1|Film (1990)|Drama\n", "u.item, line 1: 3 fields given, 24 are allowed"),
        ("u.item", "7|Film (1990)||||" + "|".join("0" * 18 + "2") + "\n", "u.item, line 1: Western: '2' given, 0 or 1"),
        ("u.item", "77|Film (1990)||||" + "|".join("0" * 19) + "\n", "u.item describes 0 of the log's 20 items"),
        ("u.user", "77|24|M|none|85711\n", "u.user describes 0 of the log's 2 users"),
        ("u.user", "1|24|M|astronaut|85711\n", "u.user, line 1: occupation: 'astronaut' given, an occupation of"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n", r"holds 2 of ratings.csv\[.gz\] and ratings.dat.*u.data"),
    ],
)
def test_an_ml_100k_file_that_is_not_understood_is_refused(tmp_path, file, content, message):
    raw = ml_100k(tmp_path / "raw")
    write(raw / file, content)

    with pytest.raises(DataError, match=message):
        canonical(movielens, raw, tmp_path / "out")


@pytest.mark.parametrize(
    ("module", "archive"), [(movielens, "ml-100k.zip"), (taobao, "UserBehavior.csv.zip"), (kuairand, "Pure.tar.gz")]
)
def test_an_archive_where_files_are_needed_is_named(tmp_path, module, archive):
    with pytest.raises(DataError, match=f"; unpack {archive} there first"):
        canonical(module, write(tmp_path / "raw" / archive, b""), tmp_path / "out")


# --- Taobao's copies ----------------------------------------------------------------------------------------------

EVENTS = [
    (1, 11, 5, "pv", MIDNIGHT + 7),
    (2, 12, 5, "pv", MIDNIGHT + 9),
    (2, 13, 6, "buy", MIDNIGHT + DAY_S),
    (3, 11, 5, "fav", 0),
]
ORDER = ("user_id", "item_id", "category_id", "behavior", "timestamp")


def copied(names: tuple[str, ...] = ORDER, header: str = "", separator: str = ",", unit: int = 1) -> str:
    lines = [separator.join(str(value) for value in row) for row in _in_order(names, unit)]
    return "\n".join(([header] if header else []) + lines) + "\n"


def _in_order(names: tuple[str, ...], unit: int) -> list[list[object]]:
    rows = [dict(zip(ORDER, event, strict=True)) for event in EVENTS]
    return [[row[name] * unit if name == "timestamp" else row.get(name, 0) for name in names] for row in rows]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (copied(), ""),
        ("\ufeff" + copied(), ""),
        (copied(header="user_id,item_id,category_id,behavior,timestamp"), ""),
        ("\ufeff" + copied(header='"UserID","ItemID","CategoryID","BehaviorType","Timestamp"'), ""),
        (copied(("row", *reversed(ORDER)), ",timestamp,behavior_type,category_id,item_id,user_id"), ""),
        (copied(separator="\t"), "fields are parted by tabs"),
        (copied(header="\t".join(ORDER), separator="\t"), "fields are parted by tabs"),
        (copied(unit=1000), "times are in milliseconds"),
        (copied(header=",".join(ORDER), unit=1000), "times are in milliseconds"),
    ],
)
def test_a_copy_of_taobao_gives_the_tables_of_the_official_file(tmp_path, content, note):
    _, official = canonical(taobao, write(tmp_path / "official/UserBehavior.csv", copied()), tmp_path / "official-out")

    log, tables = canonical(taobao, write(tmp_path / "copy/UserBehavior.csv.gz", content), tmp_path / "out")

    assert all(tables[name].equals(official[name]) for name in TABLES)
    assert tables["behaviours"]["timestamp"].to_list() == [1000 * event[-1] for event in EVENTS[:3]]
    assert note in " ".join(log.notes) and len(log.notes) == 1 + bool(note)
    assert "1 events outside 25 November to 3 December 2017 were left out" in log.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (copied() + copied(unit=1000), "UserBehavior.csv has times in seconds and times in milliseconds"),
        (copied(unit=1_000_000), "has no event between 25 November .*: its 4 run from 0 to 1511625600000000"),
        (
            copied(header="user,thing,category_id,behavior,timestamp"),
            r"no column user_id, item_id; its first line is 'u",
        ),
        (
            copied(header="user_id,item_id,category_id,behavior,BehaviorType"),
            "columns behavior and BehaviorType; one of",
        ),
        (copied(separator=";"), r"no column user_id, .*; its first line is '1;11;5;pv;"),
        (copied().replace("pv", "PV"), "line 1: behavior: 'PV' given, pv, cart, fav, buy is allowed"),
        (copied(("user_id", *ORDER)), "line 1: 6 fields given, 5 are allowed"),
        ("", "UserBehavior.csv is empty; lines of user_id,item_id,category_id,behavior,timestamp are needed"),
        (",".join(ORDER) + "\n", "has no event between .*: it holds none"),
        (copied().encode("utf-16"), "UserBehavior.csv"),
    ],
)
def test_a_copy_of_taobao_that_is_not_understood_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        canonical(taobao, write(tmp_path / "raw/UserBehavior.csv", content), tmp_path / "out")


# --- KuaiRand -----------------------------------------------------------------------------------------------------

KUAIRAND_LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def kuairand_folder(folder: Path, version: str) -> Path:
    exposure = "{},{},20220408,1900,{},1,0,0,0,0,0,1,900,1000,0,0,0,0,1\n"
    for n, part in enumerate(("4_08_to_4_21", "4_22_to_5_08")):
        for m, end in enumerate(("_part1.csv", "_part2.csv.gz") if version == "27k" else (".csv",)):
            line = exposure.format(n, 10 * m + n, 1_650_000_000_000 + n)
            write(folder / f"log_standard_{part}_{version}{end}", "\ufeff" + KUAIRAND_LOG + line)
    write(folder / f"log_random_4_22_to_5_08_{version}.csv", "not read\n")
    write(folder / f"video_features_basic_{version}.csv.gz", "\ufeffvideo_id,author_id\n0,1\n1,1\n10,1\n11,1\n")
    return write(folder / f"user_features_{version}.csv", "\ufeffuser_id,user_active_degree\n0,high\n1,low\n")


@pytest.mark.parametrize(("version", "rows"), [("pure", 2), ("1k", 2), ("27k", 4)])
def test_every_version_of_kuairand_is_read_with_all_its_logs(tmp_path, version, rows):
    log, tables = canonical(kuairand, kuairand_folder(tmp_path / "raw", version), tmp_path / "out")

    assert log == DataSet("kuairand", "Asia/Shanghai")
    assert len(tables["impressions"]) == rows and len(tables["users"]) == 2


def test_a_kuairand_folder_that_is_not_understood_is_refused(tmp_path):
    raw = kuairand_folder(tmp_path / "top/data", "1k")
    with pytest.raises(DataError, match="holds none of user_features.*; its folder .*data has one"):
        canonical(kuairand, tmp_path / "top", tmp_path / "a")

    name = "log_standard_4_08_to_4_21_1k.csv"
    write(raw / f"{name}.gz", (raw / name).read_bytes())
    with pytest.raises(DataError, match=f"holds {name} and {name}.gz; one of them is allowed"):
        canonical(kuairand, raw, tmp_path / "b")
    (raw / f"{name}.gz").unlink()

    write(raw / name, (raw / name).read_text().replace(",", "\t"))
    with pytest.raises(DataError, match=f"{name} has no column user_id, video_id, time_ms"):
        canonical(kuairand, raw, tmp_path / "c")
    (raw / name).unlink()

    write(raw / "user_features_1k.csv", "user_id,user_active_degree\n9,high\n")
    with pytest.raises(DataError, match="user_features_1k.csv describes 0 of the log's 1 users"):
        canonical(kuairand, raw, tmp_path / "e")
    write(raw / "user_features_1k.csv", "user_id,user_active_degree\n1,high\n")

    write(raw / "video_features_basic_1k.csv.gz", "video_id,author_id\n99,1\n")
    with pytest.raises(DataError, match="video_features_basic_1k.csv.gz describes 0 of the log's 1 items"):
        canonical(kuairand, raw, tmp_path / "d")


# --- RecBole ------------------------------------------------------------------------------------------------------


def atomic(header: str, *rows: tuple) -> str:
    return "".join("\t".join(str(value) for value in row) + "\n" for row in (header.split(), *rows))


def rated(unit: int = 1, scale: tuple = (1, 2, 3, 4, 5)) -> str:
    return atomic(
        "user_id:token item_id:token rating:float timestamp:float",
        *((user, f"i{n}", scale[n % 5], unit * (NOW_S + n)) for user in (7, "007") for n in range(20)),
    )


CLICKS = atomic(
    "session:token user_id:token timestamp:float item_id:token",
    *(("s", user, 1000.0 * (NOW_S + n) + 0.4, f"i{(3 * user + n) % 9}") for user in range(5) for n in range(4)),
)
ITEMS = atomic(
    "item_id:token movie_title:token_seq class:token_seq price:float vector:float_seq seller-id:token",
    *((f"i{n}", "Les Misérables", "Drama, War", "" if n else 9.5, "0.1 0.2", "s 1") for n in range(20)),
)


def test_recboles_ratings_become_canonical_tables_with_categories_from_the_column_that_is_called_so(tmp_path):
    write(tmp_path / "raw/small.item", ITEMS)
    write(tmp_path / "raw/small.user.gz", atomic("user_id:token age:float", (7, 30), ("007", "")))
    write(tmp_path / "raw/small.kg", "not read\n")

    log, tables = canonical(recbole, write(tmp_path / "raw/small.inter", rated()), tmp_path / "out")

    assert log == DataSet("recbole", "UTC", notes=log.notes)
    assert log.notes == (
        "times were taken for seconds, as their size says",
        "a rating of 4 or more is a click, any other an impression without one",
        "small.item: vector of type float_seq not read",
    )
    one = tables["impressions"].filter(user_id="7")
    assert one["label"].to_list() == [0, 0, 0, 1, 1] * 4
    assert one["timestamp"].to_list() == [1000 * (NOW_S + n) for n in range(20)]
    assert one["split"].to_list() == [TRAIN] * 16 + [VALIDATION] * 2 + [TEST] * 2
    assert tables["behaviours"]["action"].to_list()[:5] == ["rate"] * 3 + ["click"] * 2
    assert tables["items"].row(0, named=True) == {
        "item_id": "i0",
        "movie_title": ["Les", "Misérables"],
        "price": 9.5,
        "seller_id": "s 1",
        "category_id": "Drama",
        "categories": ["Drama", "War"],
    }
    assert tables["users"].rows() == [("7", 30.0), ("007", None)]


def test_recboles_clicks_alone_get_one_negative_each_and_milliseconds_are_seen(tmp_path):
    log, tables = canonical(recbole, write(tmp_path / "raw/clicks.inter", "\ufeff" + CLICKS), tmp_path / "out")

    assert log.drawn_negatives
    assert log.notes == (
        "times were taken for milliseconds, as their size says",
        "clicks.inter: session not read",
        "the log holds clicks alone: each has one negative, drawn uniformly",
    )
    clicks = tables["impressions"].filter(label=1)
    assert len(clicks) == 20 and len(tables["impressions"]) == 40
    assert clicks["split"].to_list() == [TRAIN, TRAIN, VALIDATION, TEST] * 5
    assert clicks["timestamp"].to_list()[:2] == [1000 * NOW_S, 1000 * NOW_S + 1000]
    taken = set(clicks.select("user_id", "item_id").rows())
    assert not taken & set(tables["impressions"].filter(label=0).select("user_id", "item_id").rows())
    assert tables["items"].columns == ["item_id", "category_id", "categories"]


@pytest.mark.parametrize(
    ("content", "note", "labels"),
    [
        (rated().replace("rating", "label").replace("\t2\t", "\t0\t"), "seconds", None),
        (rated(scale=(0, 1, 0, 1, 1)), "every rating is 0 or 1: 1 is a click", {0, 1}),
        (rated(scale=(1, 1, 1, 1, 1)), "every rating is 1, which tells nothing", {1}),
        (rated(scale=(0, 1, 0, 0, 1)).replace("rating", "label"), "seconds", {0, 1}),
        (rated(scale=(0.5, 1, 4.5, 4, 0)), "a rating of 4 or more is a click", {0, 1}),
    ],
)
def test_what_a_recbole_click_is_follows_from_the_values_and_is_told(tmp_path, content, note, labels):
    raw = write(tmp_path / "raw/x.inter", content)
    if labels is None:
        with pytest.raises(MalformedLine, match="label:float: '3' given, 0 or 1 is allowed"):
            canonical(recbole, raw, tmp_path / "out")
        return

    log, tables = canonical(recbole, raw, tmp_path / "out")

    assert note in " ".join(log.notes)
    assert set(tables["impressions"]["label"]) == labels


def test_recbole_times_that_are_days_are_told_since_tied_interactions_do_not_see_each_other(tmp_path):
    rows = [("u", f"i{n}", 1 + n % 5, NOW_S + DAY_S * (n // 10)) for n in range(20)]
    content = atomic("user_id:token item_id:token rating:float timestamp:float", *rows)

    log, _ = canonical(recbole, write(tmp_path / "raw/x.inter", content), tmp_path / "out")

    assert log.notes[1].startswith("20 of 20 interactions share their time with another of their user")


def test_a_recbole_folder_goes_through_prepare_with_the_feature_table_of_the_project(tmp_path, capsys):
    write(tmp_path / "raw/small.item", ITEMS)
    raw = write(tmp_path / "raw/small.inter.gz", rated())

    code = prepare_verb.main(["--dataset", "recbole", "--raw", str(raw), "--out", str(tmp_path / "out")])

    printed = capsys.readouterr()
    assert code == 0 and "times were taken for seconds" in printed.err
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert (meta["users"], meta["items"], meta["behaviours"]) == (2, 20, 16)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.inter", "", "x.inter is empty; a first line of name:type is needed"),
        ("x.inter", rated().partition("\n")[0] + "\n", "x.inter holds no interactions"),
        ("x.inter", rated().replace("\t", ","), "x.inter: 'user_id:token,.*' given, a first line of name:type"),
        ("x.inter", rated().partition("\n")[2], r"x.inter: '7\\ti0\\t1\\t1500000000' given, a first line of name:type"),
        ("x.inter", rated().replace("item_id", "artist_id"), "x.inter has no column item_id:token; there are user_id:"),
        ("x.inter", rated().replace("timestamp:float", "timestamp:token"), "no column timestamp:float; there are"),
        ("x.inter", rated(1000) + rated().partition("\n")[2], "x.inter: 40 times look like seconds and 40 like milli"),
        (
            "x.inter",
            rated(1_000_000),
            "x.inter, line 2: timestamp:float: .* given, seconds .100000000 to 99999999999. or milli",
        ),
        (
            "x.inter",
            rated(scale=(-1, 2, 3, 4, 10)),
            r"x.inter: ratings run from -1 to 10, 0 to 5 are allowed; .*label:f",
        ),
        ("x.inter", rated(scale=(1, 2, 3, 2, 1)), "x.inter: no rating is 4 or more, .* write a column label:float"),
        ("x.inter", rated(scale=(0.5, 0, 1, 0, 0)).replace("rating", "label"), "label 0.5 given, 0 or 1 is allowed"),
        ("x.inter", rated(scale=(1,) * 5).replace("rating", "label"), "every label is 1; both 0 and 1 are needed"),
        ("x.inter", "\n".join(CLICKS.splitlines()[:3]), "x.inter: no user has three clicks"),
        ("y.inter", rated(), "holds x.inter, y.inter of .*; exactly one is allowed"),
        ("y.item", ITEMS, r"holds y.item and no x.item\[.gz\]; rename or remove it"),
        ("x.user", atomic("user_id:token age:float", (8, 30)), "x.user describes 0 of the log's 2 users"),
        ("x.item", ITEMS.replace("item_id", "sku"), "x.item has no column item_id:token; there are sku:token"),
        ("x.item", ITEMS.replace("\ti", "\tk").replace("\ni", "\nk"), "x.item describes 0 of the log's 20 items"),
        ("x.item", ITEMS.replace("9.5", "cheap"), "x.item, line 2: price:float: 'cheap' given, a number is allowed"),
        ("x.item", ITEMS.replace("price", "seller_id"), "columns seller-id, seller_id differ only in signs"),
    ],
)
def test_an_atomic_file_that_is_not_understood_is_refused(tmp_path, file, content, message):
    raw = write(tmp_path / "raw/x.inter", rated())
    write(raw / file, content)

    with pytest.raises(DataError, match=message):
        canonical(recbole, raw, tmp_path / "out")
