"""KuaiVideo and TaobaoAd in the form of BARS, and Yambda: made-up files in the true form, and what is refused."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from model import prepare as prepare_verb
from model.datasets import kuaivideo, movielens, taobaoad, yambda
from model.datasets.tables import TEST, TRAIN, VALIDATION, DataError, DataSet, MalformedLine
from tests.raw_logs import canonical, write

DAY_S = 86_400

# --- KuaiVideo ----------------------------------------------------------------------------------------------------

KUAIVIDEO = "timestamp,user_id,item_id,is_click,is_like,is_follow,pos_items,neg_items\n"
NOW_MS = 761_105_059_450  # as the challenge's times are


def exposures(first: int, count: int, at: int = NOW_MS) -> str:
    """Two users' exposures by time; every third is a click, every sixth also a like."""
    return KUAIVIDEO + "".join(
        f"{at + 1000 * n},{n % 2},{100 + n},{int(n % 3 == 0)},{int(n % 6 == 0)},0,{'7^8^9' if n else ''},{n}^1\n"
        for n in range(first, first + count)
    )


def kuaivideo_folder(folder: Path, train: str = exposures(0, 40), test: str = exposures(40, 10)) -> Path:
    write(folder / "test.csv.gz", test)
    return write(folder / "train.csv", train)


def test_kuaivideos_files_become_tables_with_the_benchmarks_test_and_a_validation_of_our_own(tmp_path):
    log, tables = canonical(kuaivideo, kuaivideo_folder(tmp_path / "raw"), tmp_path / "out")

    assert log == DataSet("kuaivideo", "UTC", notes=log.notes)
    assert "times were disguised by the publisher" in log.notes[0]
    one = tables["impressions"].filter(user_id=0)
    assert one["item_id"].to_list() == list(range(100, 150, 2))
    assert one["timestamp"].to_list() == [NOW_MS + 1000 * n for n in range(0, 50, 2)]
    assert one["split"].to_list() == [TRAIN] * 18 + [VALIDATION] * 2 + [TEST] * 5
    assert one["label"].to_list() == [int(n % 3 == 0) for n in range(0, 50, 2)]
    assert tables["behaviours"].filter(pl.col("timestamp") == NOW_MS)["action"].to_list() == ["click", "like"]
    assert tables["behaviours"].filter(action="click").height == tables["impressions"]["label"].sum()
    assert tables["items"]["item_id"].to_list() == list(range(100, 150))
    assert tables["users"]["user_id"].to_list() == [0, 1]


def test_kuaivideo_times_that_are_no_milliseconds_keep_their_order_and_are_told(tmp_path):
    raw = kuaivideo_folder(tmp_path / "raw", exposures(0, 40, at=5), exposures(40, 10, at=5))

    log, tables = canonical(kuaivideo, raw, tmp_path / "out")

    assert log.notes[0].startswith("times from 5 to 49005 are no milliseconds since 1970")
    assert tables["impressions"]["timestamp"].min() == kuaivideo.FIRST_MS
    assert tables["impressions"]["timestamp"].max() == kuaivideo.FIRST_MS + 49_000


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.csv.gz", exposures(0, 4), r"holds 2 of train.csv\[.gz\]; exactly one is allowed"),
        ("train.csv", KUAIVIDEO.replace("is_click", "click"), "train.csv has no column is_click; there are timestamp,"),
        ("train.csv", KUAIVIDEO, "train.csv holds no exposures"),
        ("train.csv", "", "train.csv is empty; a first line that names the columns is needed, with timestamp, user_id"),
        ("train.csv", exposures(0, 4)[:-9], "train.csv, line 5: 7 fields given, 8 are in the header"),
        ("train.csv", exposures(0, 2).replace(",1,1,0,", ",2,1,0,"), "line 2: is_click: '2' given, 0 or 1 is allowed"),
        ("train.csv", exposures(0, 2) + "0.5,0,1,0,0,0,,\n", "line 4: timestamp: '0.5' given, an integer is allowed"),
        ("train.csv", exposures(0, 2) + f"{10**15},0,1,0,0,0,,\n", "times run from .*; at most .* ms are allowed"),
    ],
)
def test_a_kuaivideo_file_that_is_not_understood_is_refused(tmp_path, file, content, message):
    raw = kuaivideo_folder(tmp_path / "raw")
    write(raw / file, content)

    with pytest.raises(DataError, match=message):
        canonical(kuaivideo, raw, tmp_path / "out")


@pytest.mark.parametrize("module", [kuaivideo, taobaoad])
def test_an_archive_where_a_benchmarks_files_are_needed_is_named(tmp_path, module):
    with pytest.raises(DataError, match=r"holds 0 of train.csv\[.gz\]; exactly one is allowed; unpack x1.zip there"):
        canonical(module, write(tmp_path / "raw" / "x1.zip", b""), tmp_path / "out")


# --- TaobaoAd -----------------------------------------------------------------------------------------------------

TAOBAOAD = (
    "clk,btag_his,cate_his,brand_his,userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,"
    "shopping_level,occupation,new_user_class_level,adgroup_id,cate_id,campaign_id,customer,brand,price,pid,btag\n"
)
Behaviour = tuple[int, int, int]  # action, category, brand


def shown(user: int, ad: int, history: list[Behaviour], clicked: int = 0) -> str:
    lists = ("^".join(str(b[n]) for b in history if b[n]) for n in range(3))  # zeros are dropped, as by BARS
    profile = f"{user % 97},3,2,4,{user % 3},3,0,2"
    return f"{clicked},{','.join(lists)},{user},{profile},{ad},{ad % 7},{ad % 5},{ad % 3},{ad % 2},{ad}.5,{ad % 2},1\n"


def taobaoad_folder(folder: Path, train: str, test: str) -> Path:
    write(folder / "test.csv.gz", TAOBAOAD + test)
    return write(folder / "train.csv", TAOBAOAD + train)


VIEWS = [(1, 40 + n, 9 * n) for n in range(4)]  # the first has no brand


def test_taobaoads_lists_become_behaviours_between_the_lines_that_they_are_news_of(tmp_path):
    train = shown(7, 20, VIEWS[:2]) + shown(8, 21, []) + shown(7, 22, VIEWS[:2], 1) + shown(7, 20, VIEWS[:3])
    raw = taobaoad_folder(tmp_path / "raw", train, shown(7, 23, [*VIEWS, (2, 41, 9)]))

    log, tables = canonical(taobaoad, raw, tmp_path / "out")

    assert log == DataSet("taobaoad", "Asia/Shanghai", notes=log.notes)
    assert log.notes[0].startswith("the log has no times: lines were spread evenly")
    assert log.notes[1].startswith("in 4 histories actions, categories and brands differ in number")
    first, quarter = taobaoad.FIRST_MS, 7 * DAY_S * 1000 // 4
    assert tables["impressions"].sort("timestamp").rows() == [
        (7, "20", first, 0, "0"),
        (8, "21", first + quarter, 0, "1"),
        (7, "22", first + 2 * quarter, 1, "0"),
        (7, "20", first + 3 * quarter, 0, "0"),
        (7, "23", first + 7 * DAY_S * 1000, 0, "1"),
    ]
    assert tables["behaviours"].sort("timestamp").rows() == [
        (7, "btag_1", "item", "40/0", first - 2),
        (7, "btag_1", "item", "41/9", first - 1),
        (7, "btag_1", "item", "42/18", first + 3 * quarter - 1),
        (7, "btag_1", "item", "43/27", first + 7 * DAY_S * 1000 - 2),
        (7, "btag_2", "item", "41/9", first + 7 * DAY_S * 1000 - 1),
    ]
    items = {row["item_id"]: row for row in tables["items"].rows(named=True)}
    assert items["20"] == {
        "item_id": "20",
        "category_id": 6,
        "brand": None,
        "campaign_id": 0,
        "customer": 2,
        "price": 20.5,
    }
    assert (items["41/9"]["category_id"], items["41/9"]["brand"], items["41/9"]["price"]) == (41, 9, None)
    assert (items["40/0"]["category_id"], items["40/0"]["brand"]) == (40, None)
    assert tables["users"].row(0, named=True)["pvalue_level"] == 1


def windows(seed: int, users: int = 30, lines: int = 900) -> tuple[list[str], list[tuple[int, list[Behaviour]]]]:
    """Lines of users whose lists slide over what they do; and each line's user and list."""
    draw = random.Random(seed)
    done: dict[int, list[Behaviour]] = {user: [] for user in range(users)}
    log, lists = [], []
    for n in range(lines):
        user = draw.randrange(users)
        for _ in range(draw.choice([0, 0, 1, 3, 20, 70])):  # few kinds: windows often look alike when shifted
            done[user].append((draw.choice([1, 1, 2]), draw.choice([5, 6]), draw.choice([8, 9])))
        window = done[user][-taobaoad.LONGEST :]
        log.append(shown(user, n, window))
        lists.append((user, window))
    return log, lists


def test_a_taobaoad_history_is_the_list_of_its_line_for_every_line(tmp_path):
    log, lists = windows(seed=3)
    raw = taobaoad_folder(tmp_path / "raw", "".join(log[:800]), "".join(log[800:]))

    made, tables = canonical(taobaoad, raw, tmp_path / "out")

    assert len(made.notes) == 1  # nothing restarted, nothing uneven
    behaviours = tables["behaviours"].sort("user_id", "timestamp")
    times = tables["impressions"].sort("timestamp")["timestamp"].to_list()
    assert len(lists) == len(times)
    for (user, window), time in zip(lists, times, strict=True):
        before = behaviours.filter((pl.col("user_id") == user) & (pl.col("timestamp") < time)).tail(taobaoad.LONGEST)
        assert before["object_id"].to_list() == [f"{category}/{brand}" for _, category, brand in window]
        assert before["action"].to_list() == [f"btag_{action}" for action, _, _ in window]


def test_taobaoad_lists_that_do_not_go_on_are_added_whole_and_counted(tmp_path):
    train = shown(7, 20, VIEWS[1:3]) + shown(7, 21, VIEWS[3:])
    raw = taobaoad_folder(tmp_path / "raw", train, shown(8, 20, VIEWS[3:]))

    log, tables = canonical(taobaoad, raw, tmp_path / "out")

    assert log.notes[1].startswith("1 histories do not go on from their user's history before")
    assert tables["behaviours"].filter(user_id=7)["object_id"].to_list() == ["41/9", "42/18", "43/27"]


def test_a_taobaoad_behaviour_without_a_brand_goes_on_from_the_list_before_though_brands_lie_elsewhere(tmp_path):
    train = shown(7, 20, VIEWS[1:3]) + shown(7, 21, [*VIEWS[1:3], (1, 50, 0)])
    raw = taobaoad_folder(tmp_path / "raw", train, shown(8, 20, VIEWS[3:]))

    log, tables = canonical(taobaoad, raw, tmp_path / "out")

    assert [note.split(",")[0] for note in log.notes[1:]] == ["in 1 histories actions"]
    assert tables["behaviours"].filter(user_id=7)["object_id"].to_list() == ["41/9", "42/18", "50/18"]


def test_the_size_of_the_pieces_that_taobaoad_is_worked_on_in_changes_nothing(tmp_path, monkeypatch):
    log, _ = windows(seed=4, lines=200)
    raw = taobaoad_folder(tmp_path / "raw", "".join(log[:150]), "".join(log[150:]))
    _, whole = canonical(taobaoad, raw, tmp_path / "whole")
    monkeypatch.setattr(taobaoad, "BUCKET_ROWS", 30)

    _, pieces = canonical(taobaoad, raw, tmp_path / "pieces")

    by = ["user_id", "timestamp"]
    assert pieces["behaviours"].sort(by).equals(whole["behaviours"].sort(by))
    assert all(pieces[name].equals(whole[name]) for name in ("impressions", "items", "users"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TAOBAOAD.replace("clk,", ""), "train.csv has no column clk; there are btag_his, cate_his"),
        (TAOBAOAD.replace("cate_his", "cates"), "train.csv has no column cate_his; there are clk, btag_his, cates"),
        (TAOBAOAD, "train.csv holds no exposures"),
        (TAOBAOAD + shown(7, 20, VIEWS)[:-4], "train.csv, line 2: 20 fields given, 21 are in the header"),
        (TAOBAOAD + shown(7, 20, VIEWS).replace("^", "|"), "btag_his: '1.1.1.1' given, integers with \\^ between"),
        (TAOBAOAD + shown(7, 20, VIEWS, 3), "line 2: clk: '3' given, 0 or 1 is allowed"),
        (TAOBAOAD + shown(7, 20, VIEWS).replace("20.5", "cheap"), "line 2: price: 'cheap' given, a number is allowed"),
    ],
)
def test_a_taobaoad_file_that_is_not_understood_is_refused(tmp_path, content, message):
    raw = taobaoad_folder(tmp_path / "raw", "", shown(7, 20, VIEWS))
    write(raw / "train.csv", content)

    with pytest.raises(DataError, match=message):
        canonical(taobaoad, raw, tmp_path / "out")


# --- Yambda -------------------------------------------------------------------------------------------------------

LAST_S = 26_000_000
LISTENS = [  # uid, timestamp, item_id, is_organic, played_ratio_pct, track_length_seconds
    (10, 1_000, 5, 1, 100, 200),
    (10, 1_000, 6, 0, 49, 180),
    (20, LAST_S - DAY_S, 5, 0, 50, 200),
    (20, LAST_S, 7, 0, 130, 60),
]
COLUMNS = {
    "uid": pl.UInt32,
    "timestamp": pl.UInt32,
    "item_id": pl.UInt32,
    "is_organic": pl.UInt8,
    "played_ratio_pct": pl.UInt16,
    "track_length_seconds": pl.UInt32,
}
LIKED = [(10, 1_005, 5, 1), (20, LAST_S - 5, 8, 0)]


def events(rows: list[tuple], columns: int = len(COLUMNS)) -> pl.DataFrame:
    return pl.DataFrame(rows, {name: COLUMNS[name] for name in list(COLUMNS)[:columns]}, orient="row")


def multi(listens: pl.DataFrame) -> pl.DataFrame:
    """As multi_event.parquet: all events, what only listens have being null of the others."""
    named = pl.Enum(list(yambda.EVENTS))
    return pl.concat(
        [
            listens.with_columns(event_type=pl.lit("listen", named)),
            events(LIKED, 4).with_columns(event_type=pl.lit("like", named)),
        ],
        how="diagonal",
    )


def yambda_folder(root: Path, form: str = "multi_event", size: str = "50m") -> Path:
    raw = root / "flat" / size
    raw.mkdir(parents=True)
    if form == "multi_event":
        multi(events(LISTENS)).write_parquet(raw / "multi_event.parquet")
    else:
        events(LISTENS).write_parquet(raw / "listens.parquet")
        events(LIKED, 4).write_parquet(raw / "likes.parquet")
    pl.DataFrame({"artist_id": [3, 2, 9, 9], "item_id": [5, 5, 6, 99]}).write_parquet(
        root / "artist_item_mapping.parquet"
    )
    pl.DataFrame({"album_id": [1, 1, 4], "item_id": [5, 6, 7]}).write_parquet(root / "album_item_mapping.parquet")
    return raw


def at(second: int) -> int:
    """A time of the log as milliseconds: its last step ends at midnight."""
    return yambda.END_MS - 1000 * (LAST_S + yambda.STEP_S - second)


@pytest.mark.parametrize("size", ["50m", "500m", "5b"])
@pytest.mark.parametrize("form", ["multi_event", "listens"])
def test_yambdas_recommended_listens_are_impressions_and_all_events_behaviours(tmp_path, form, size):
    log, tables = canonical(yambda, yambda_folder(tmp_path / "yambda", form, size), tmp_path / "out")

    assert log == DataSet("yambda", "UTC")
    assert tables["impressions"].sort("timestamp").rows() == [
        (10, 6, at(1_000), 0, 88_200),
        (20, 5, at(LAST_S - DAY_S), 1, 100_000),
        (20, 7, at(LAST_S), 1, 78_000),
    ]
    assert tables["impressions"]["label"].dtype == pl.Int8
    assert sorted(tables["behaviours"].rows()) == [
        (10, "like", "item", 5, at(1_005)),
        (10, "listen", "item", 5, at(1_000)),
        (10, "skip", "item", 6, at(1_000)),
        (20, "like", "item", 8, at(LAST_S - 5)),
        (20, "listen", "item", 5, at(LAST_S - DAY_S)),
        (20, "listen", "item", 7, at(LAST_S)),
    ]
    assert tables["items"].rows(named=True) == [
        {"item_id": 5, "track_length_s": 200, "artist_id": 2, "album_id": 1},
        {"item_id": 6, "track_length_s": 180, "artist_id": 9, "album_id": 1},
        {"item_id": 7, "track_length_s": 60, "artist_id": None, "album_id": 4},
        {"item_id": 8, "track_length_s": None, "artist_id": None, "album_id": None},
    ]
    assert tables["users"].rows() == [(10,), (20,)]
    assert all(tables[name].schema[key] == pl.Int64 for name, key in (("items", "item_id"), ("users", "user_id")))


def test_yambdas_last_day_is_the_last_24_hours_of_the_log():
    midnight = yambda.END_MS - 1000 * DAY_S

    assert at(LAST_S) < yambda.END_MS and yambda.END_MS % (1000 * DAY_S) == 0
    assert at(LAST_S - DAY_S) < midnight <= at(LAST_S - DAY_S + yambda.STEP_S)


def test_yambda_without_its_mappings_is_read_and_told(tmp_path):
    raw = yambda_folder(tmp_path / "yambda")
    (raw.parents[1] / "artist_item_mapping.parquet").unlink()

    log, tables = canonical(yambda, raw, tmp_path / "out")

    assert len(log.notes) == 1 and log.notes[0].startswith("artist_item_mapping.parquet is neither in")
    assert tables["items"]["artist_id"].null_count() == 4 and tables["items"]["album_id"].null_count() == 1


Change = Callable[[pl.DataFrame], pl.DataFrame]


def second(**values: object) -> Change:
    """The table with other values in its second row."""
    return lambda table: table.with_columns(
        pl.when(pl.int_range(pl.len()) == 1).then(pl.lit(value)).otherwise(name).alias(name)
        for name, value in values.items()
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (second(uid=None), "uid: nothing given, an integer is allowed"),
        (second(item_id=None), "item_id: nothing given, an integer is allowed"),
        (second(timestamp=1_740_000_000), "timestamp: '1740000000' given, seconds, 0 to 316224000, is allowed"),
        (second(played_ratio_pct=None), "played_ratio_pct: nothing given, a number is allowed"),
        (second(is_organic=2), "is_organic: '2' given, 0 or 1 is allowed"),
        (second(event_type="love"), "event_type: 'love' given, listen, like, dislike, unlike, undislike is allowed"),
    ],
)
def test_a_malformed_yambda_row_stops_with_its_number_or_is_counted(tmp_path, change, reason):
    raw = yambda_folder(tmp_path / "yambda")
    table = multi(events(LISTENS)).with_columns(pl.col("event_type").cast(pl.String))
    change(table).write_parquet(raw / "multi_event.parquet")

    with pytest.raises(MalformedLine) as stopped:
        canonical(yambda, raw, tmp_path / "none")
    assert str(stopped.value) == f"{raw / 'multi_event.parquet'}, row 2: {reason}"

    log, tables = canonical(yambda, raw, tmp_path / "one", skip_bad=1)
    assert log.bad_lines == 1 and len(tables["behaviours"]) == 5


def cut(raw: Path) -> None:
    file = raw / "multi_event.parquet"
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: (raw / "multi_event.parquet").unlink(), "holds neither multi_event.parquet nor listens.parquet"),
        (cut, "multi_event.parquet cannot be read as Parquet: "),
        (
            lambda raw: events(LISTENS).rename({"uid": "user"}).write_parquet(raw / "multi_event.parquet"),
            "multi_event.parquet has no column uid, event_type; there are user, timestamp, item_id,",
        ),
        (
            lambda raw: multi(events(LISTENS)).group_by("uid").agg(pl.all()).write_parquet(raw / "multi_event.parquet"),
            "timestamp, item_id, .* are lists, as in the folder sequential; the folder flat is read",
        ),
        (
            lambda raw: multi(events([])).clear().write_parquet(raw / "multi_event.parquet"),
            "multi_event.parquet holds no events",
        ),
        (
            lambda raw: multi(events(LISTENS[:1])).write_parquet(raw / "multi_event.parquet"),
            r"holds no listen that a recommendation brought about \(is_organic 0\)",
        ),
        (
            lambda raw: pl.DataFrame({"artist_id": [1], "item_id": [99]}).write_parquet(
                raw.parents[1] / "artist_item_mapping.parquet"
            ),
            "artist_item_mapping.parquet describes 0 of the log's 4 items",
        ),
    ],
)
def test_a_yambda_folder_that_is_not_understood_is_refused(tmp_path, change, message):
    raw = yambda_folder(tmp_path / "yambda")
    change(raw)

    with pytest.raises(DataError, match=message):
        canonical(yambda, raw, tmp_path / "out")


def test_yambdas_root_names_the_folder_that_is_meant(tmp_path):
    raw = yambda_folder(tmp_path / "yambda")

    with pytest.raises(DataError, match=f"; --raw {raw} does"):
        canonical(yambda, raw.parents[1], tmp_path / "out")


# --- MovieLens-32M ------------------------------------------------------------------------------------------------


def test_ml_32ms_folder_is_read_with_quoted_titles_and_the_files_beside_it_left_alone(tmp_path):
    ratings = "".join(
        f"{user},{film},{0.5 + film % 10 / 2},{944_249_077 + film}\n" for user in (1, 2) for film in range(20)
    )
    films = "".join(f'{film},"Film, The {film} ({1980 + film})",Comedy|IMAX\n' for film in range(19))
    raw = write(tmp_path / "raw/ratings.csv", "userId,movieId,rating,timestamp\n" + ratings)
    write(raw / "movies.csv", f"movieId,title,genres\n{films}19,Untitled,(no genres listed)\n")
    for name in ("links.csv", "tags.csv", "README.txt", "checksums.txt"):
        write(raw / name, "not read\n")

    log, tables = canonical(movielens, raw, tmp_path / "out")

    assert log == DataSet("movielens", "UTC")
    one = tables["impressions"].filter(user_id=1)
    assert one["label"].to_list() == [int(film % 10 >= 7) for film in range(20)]
    assert one["split"].to_list() == [TRAIN] * 16 + [VALIDATION] * 2 + [TEST] * 2
    assert tables["items"].row(3) == (3, ["Comedy", "IMAX"], 1983) and tables["items"].row(19) == (19, None, None)


# --- all of them, prepared ----------------------------------------------------------------------------------------


def yambda_days(root: Path) -> Path:
    """Four days of four users, who hear three tracks."""
    draw = random.Random(2)
    times = sorted(draw.randrange(4 * DAY_S) for _ in range(400))
    rows = [
        (draw.randrange(4), time, draw.randrange(5, 8), draw.randrange(2), draw.randrange(120), 200) for time in times
    ]
    raw = yambda_folder(root)
    multi(events(rows)).filter(pl.col("timestamp") < 4 * DAY_S).write_parquet(raw / "multi_event.parquet")
    return raw


def taobaoad_days(root: Path) -> Path:
    log, _ = windows(seed=5)
    clicked = [line if n % 4 else "1" + line[1:] for n, line in enumerate(log)]
    return taobaoad_folder(root, "".join(clicked[:800]), "".join(clicked[800:]))


def longest_history(summary: str) -> int:
    """The longest of a summary's nine-tenths histories on test."""
    line = next(line for line in summary.splitlines() if line.startswith("test"))
    return int(line.split("%")[1].split()[0].split("/")[2])


@pytest.mark.parametrize(
    ("name", "raw", "longest"),
    [("kuaivideo", kuaivideo_folder, 8), ("taobaoad", taobaoad_days, 50), ("yambda", yambda_days, 50)],
)
def test_a_log_goes_through_prepare_with_the_feature_table_of_the_project(tmp_path, name, raw, longest, capsys):
    folder = raw(tmp_path / "raw")

    assert prepare_verb.main(["--dataset", name, "--raw", str(folder), "--out", str(tmp_path / "out")]) == 0

    printed = capsys.readouterr()
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert meta["dataset"] == name and "columns not used" not in printed.err
    assert longest_history(printed.out) == longest
