"""Raw logs as canonical tables: what each format reads, what it refuses and where, and the real KuaiRand piece."""

import gzip
import json
import re
from pathlib import Path

import polars as pl
import pytest

from model import datasets, prepare
from model.datasets import kuairand, lines, parquet
from model.datasets.lines import DAY, FLAG, INT, INTS, MILLISECONDS, TEXT, Column
from model.datasets.tables import BadLines, DataError, DataSet, MalformedLine, Options
from model.features import schema as features_toml
from tests.raw_logs import canonical

NOW = 1_650_812_741_436
COLUMNS = {"user": Column(INT, required=True), "name": Column(TEXT), "tags": Column(INTS)}


def read(path: Path, content: str | bytes, columns=COLUMNS, skip_bad: int = 0) -> tuple[pl.DataFrame, int]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    bad = BadLines(skip_bad)
    return pl.concat(list(lines.read(path, columns, bad))), bad.count


# --- the registry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", datasets.names())
def test_every_data_set_has_a_writer_and_a_feature_table(tmp_path, name):
    (tmp_path / "features.toml").write_bytes(datasets.features("simulated", None).read_bytes())

    assert callable(datasets.load(name).write_tables)
    assert features_toml.load(datasets.features(name, tmp_path)).item_id.name == "item_id"


def test_an_unknown_data_set_and_tables_without_a_feature_table_are_refused(tmp_path):
    with pytest.raises(
        DataError,
        match="'kuairec', allowed: amazon, chain, kuairand, kuaivideo, movielens, parquet, recbole, service_log, "
        "simulated, taobao, taobaoad, yambda",
    ):
        datasets.load("kuairec")
    with pytest.raises(DataError, match="features.toml is missing"):
        datasets.features("parquet", tmp_path)


# --- lines of text ------------------------------------------------------------------------------------------------


def test_values_get_their_declared_types_and_gaps_are_null(tmp_path):
    columns = {
        "a": Column(INT),
        "b": Column(TEXT),
        "c": Column(DAY),
        "d": Column(INTS),
        "e": Column(FLAG),
        "f": Column(MILLISECONDS),
        "absent": Column(INT),
    }
    table, _ = read(
        tmp_path / "log.csv",
        f'f,e,d,c,b,a,other\n{NOW},1,"39,7",2022-04-10,"[100,1k)",-12.0,x\n,,,,,,\n'
        f'{NOW},0,5,1969-12-31,"say ""é""",3,\n',
        columns,
    )

    assert table.columns == list(columns)
    assert table["a"].to_list() == [-12, None, 3]
    assert table["b"].to_list() == ["[100,1k)", None, 'say "é"']
    assert table["c"].to_physical().to_list() == [19092, None, -1]
    assert table["d"].to_list() == [[39, 7], None, [5]]
    assert table["e"].to_list() == [1, None, 0]
    assert table["f"].to_list() == [NOW, None, NOW]
    assert table["absent"].to_list() == [None] * 3 and table["absent"].dtype == pl.Int64


@pytest.mark.parametrize(
    "content",
    [
        b"user,name,tags\n1,a,\n2,b,\n",
        b"user,name,tags\r\n1,a,\r\n2,b,\r\n",
        b"\xef\xbb\xbfuser,name,tags\n1,a,\n2,b,",
        b"user,name,tags\n\n1,a,\n\n2,b,\n\n",
        gzip.compress(b"user,name,tags\n1,a,\n") + gzip.compress(b"2,b,\n"),
    ],
    ids=["LF", "CRLF", "byte-order mark, no last line end", "blank lines", "gzip in two members"],
)
def test_line_ends_marks_blank_lines_and_packing_change_nothing(tmp_path, content):
    name = "log.csv.gz" if content.startswith(b"\x1f\x8b") else "log.csv"

    table, bad = read(tmp_path / name, content)

    assert table["user"].to_list() == [1, 2] and table["name"].to_list() == ["a", "b"] and bad == 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"3,c", "2 fields given, 3 are in the header"),
        (b"3,c,,", "4 fields given, 3 are in the header"),
        (b"x3,c,", "user: 'x3' given, an integer is allowed"),
        (b"3.5,c,", "user: '3.5' given, an integer is allowed"),
        (b" 3,c,", "user: ' 3' given, an integer is allowed"),
        (b"9223372036854775808,c,", "user: '9223372036854775808' given, an integer is allowed"),
        (b",c,", "user: nothing given, an integer is allowed"),
        (b'3,c,"1,,2"', "tags: '1,,2' given, integers with commas between them is allowed"),
        (b"3,c\xff,", "byte 0xff in place 4 given, UTF-8 is allowed"),
        (b'3,"c,', "fields that cannot be told apart: unexpected end of data"),
        (b'3,"c"d,', "fields that cannot be told apart: ',' expected after '\"'"),
        (b"3,c\rd,", "fields that cannot be told apart: new-line character seen in unquoted field"),
    ],
)
def test_a_malformed_line_stops_with_file_line_and_reason_or_is_counted(tmp_path, line, reason):
    path, content = tmp_path / "log.csv", b"user,name,tags\n1,a,\n" + line + b'\n2,"b",\n'

    with pytest.raises(MalformedLine) as stopped:
        read(path, content)
    assert (stopped.value.file, stopped.value.line) == (path, 3)
    assert stopped.value.reason.startswith(reason)
    assert str(stopped.value).startswith(f"{path}, line 3: {reason}")

    table, bad = read(path, content, skip_bad=1)
    assert table["user"].to_list() == [1, 2] and bad == 1


@pytest.mark.parametrize(
    ("type", "given", "allowed"),
    [
        (FLAG, "2", "0 or 1"),
        (DAY, "2022-04-31", "a day like 2022-04-10"),
        (MILLISECONDS, "1650812741", "milliseconds since 1970"),
        (MILLISECONDS, "1650812741436000", "milliseconds since 1970"),
        (INT, "nan", "an integer"),
    ],
)
def test_a_value_outside_its_type_is_named_with_what_is_allowed(tmp_path, type, given, allowed):
    with pytest.raises(MalformedLine, match=f"line 2: v: '{given}' given, {allowed}"):
        read(tmp_path / "log.csv", f"v\n{given}\n", {"v": Column(type)})


def test_the_first_malformed_line_is_reported_and_one_line_counts_once(tmp_path):
    content = "user,name,tags\n1,a,\nx,b,y\n2\n3,c,\n,d,\n"

    with pytest.raises(MalformedLine, match="line 3: user: 'x' given"):
        read(tmp_path / "log.csv", content)
    with pytest.raises(MalformedLine, match="line 6: user: nothing given"):
        read(tmp_path / "log.csv", content, skip_bad=2)
    table, bad = read(tmp_path / "log.csv", content, skip_bad=3)
    assert table["user"].to_list() == [1, 3] and bad == 3


def test_lines_are_numbered_through_all_chunks(tmp_path):
    good = b"123456," + b"long " * 200 + b",\n"
    count = 2 * lines.CHUNK_BYTES // len(good)
    content = b"user,name,tags\n" + good * count + b"7\n" + good

    with pytest.raises(MalformedLine, match=f"line {count + 2}: 1 fields given"):
        read(tmp_path / "log.csv", content)
    assert len(read(tmp_path / "log.csv", content, skip_bad=1)[0]) == count + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; a first line that names the columns is needed, with user"),
        ("id,name\n1,a\n", "has no column user; there are id, name"),
        ("user,name,user\n1,a,1\n", "has several columns called user"),
        (b"PAR1\xff\x00\n", "line 1: byte 0xff in place 5 given, UTF-8 is allowed"),
    ],
)
def test_a_file_without_the_required_columns_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "log.csv", content)


@pytest.mark.parametrize("damaged", [lambda packed: packed[:-9], lambda packed: b"not packed"])
def test_a_broken_gzip_file_is_refused_by_name(tmp_path, damaged):
    with pytest.raises(DataError, match=r"log\.csv\.gz: broken gzip file"):
        read(tmp_path / "log.csv.gz", damaged(gzip.compress(b"user,name,tags\n1,a,\n")))


def test_a_file_of_a_header_alone_is_an_empty_table(tmp_path):
    table, _ = read(tmp_path / "log.csv", "user,name,tags")

    assert len(table) == 0 and table.schema == {"user": pl.Int64, "name": pl.String, "tags": pl.List(pl.Int64)}


# --- KuaiRand -----------------------------------------------------------------------------------------------------

OFFICIAL_LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
USERS = (
    "user_id,user_active_degree,is_live_streamer,fans_user_num_range,register_days,onehot_feat4\n"
    '0,full_active,-124,"[10,100)",799,4.0\n17,UNKNOWN,0,0,,\n'
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,music_id,music_type,tag\n"
    '5,7349781,NORMAL,2022-04-10,LongImport,0.0,87433.0,9155697141,9.0,"39,7"\n6,2103883,AD,2022-04-11,Web,0.0,,0,,\n'
)


def write_kuairand(folder: Path, logs: dict[str, str], version: str = "pure", users=USERS, videos=VIDEOS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in logs.items():
        packed = gzip.compress(content.encode()) if name.endswith(".gz") else content.encode()
        (folder / name).write_bytes(packed)
    (folder / f"user_features_{version}.csv").write_text(users)
    (folder / f"video_features_basic_{version}.csv").write_text(videos)
    return folder


def test_the_official_kuairand_files_become_canonical_tables(tmp_path):
    first = f"0,5,20220424,1100,{NOW},1,1,0,0,0,0,1,61802,49866,0,0,0,0,4\n"
    logs = {
        "log_standard_4_08_to_4_21_pure.csv": OFFICIAL_LOG + first + first,
        "log_standard_4_22_to_5_08_pure.csv": OFFICIAL_LOG
        + first
        + f"17,6,20220424,1200,{NOW + 1},0,0,0,0,0,1,0,0,49866,0,0,0,0,1\n",
        "log_random_4_22_to_5_08_pure.csv": OFFICIAL_LOG + "not read\n",
        "video_features_statistic_pure.csv": "not read\n",
    }

    made, tables = canonical(kuairand, write_kuairand(tmp_path / "raw", logs), tmp_path / "out")

    assert made == DataSet("kuairand", "Asia/Shanghai", bad_lines=0)
    assert tables["impressions"].rows(named=True) == [
        {"user_id": 0, "item_id": 5, "timestamp": NOW, "label": 1, "tab": 4, "watch_ms": 61802},
        {"user_id": 17, "item_id": 6, "timestamp": NOW + 1, "label": 0, "tab": 1, "watch_ms": 0},
    ]
    assert tables["impressions"]["label"].dtype == pl.Int8
    assert tables["behaviours"].rows() == [(0, action, "item", 5, NOW) for action in ("click", "long_view", "like")]
    assert tables["items"].rows(named=True)[0] | {"server_width": None} == {
        "item_id": 5,
        "author_id": 7349781,
        "video_type": "NORMAL",
        "upload_type": "LongImport",
        "visible_status": 0,
        "video_duration": 87433,
        "server_width": None,
        "server_height": None,
        "music_id": 9155697141,
        "music_type": 9,
        "tag": [39, 7],
        "category_id": 39,
        "upload_day": 19092,
    }
    without = tables["items"].row(1, named=True)
    assert (without["video_duration"], without["music_type"], without["tag"], without["category_id"]) == (None,) * 4
    user = tables["users"].row(0, named=True)
    assert (user["onehot_feat4"], user["is_live_streamer"], user["fans_user_num_range"]) == (4, -124, "[10,100)")
    assert tables["users"].row(1, named=True)["register_days"] is None


def test_a_kuairand_log_in_parts_packed_and_without_the_columns_that_are_not_needed_is_read_whole(tmp_path):
    header = "tab,play_time_ms,is_click,time_ms,video_id,user_id\n"
    logs = {
        "log_standard_4_08_to_4_21_27k_part1.csv": header + f"1,0,0,{NOW},5,0\n",
        "log_standard_4_08_to_4_21_27k_part2.csv.gz": header + f"1,9,1,{NOW + 1},6,0\n",
    }

    _, tables = canonical(kuairand, write_kuairand(tmp_path / "raw", logs, "27k"), tmp_path / "out")

    assert tables["impressions"]["item_id"].to_list() == [5, 6]
    assert tables["behaviours"]["action"].to_list() == ["click"]


def test_malformed_lines_are_counted_over_all_files_of_a_data_set(tmp_path):
    header = "user_id,video_id,time_ms,is_click,tab,play_time_ms\n"
    raw = write_kuairand(
        tmp_path / "raw",
        {"log_standard_1_1k.csv": header + f"0,5,{NOW // 1000},1,1,0\n0,5,{NOW},1,1,0\n"},
        "1k",
        users=USERS + "18,a\n",
    )

    with pytest.raises(MalformedLine, match=r"log_standard_1_1k\.csv, line 2: time_ms: '1650812741' given, millisec"):
        canonical(kuairand, raw, tmp_path / "none")
    with pytest.raises(MalformedLine, match=r"user_features_1k\.csv, line 4: 2 fields given, 6 are in the header"):
        canonical(kuairand, raw, tmp_path / "one", skip_bad=1)
    made, tables = canonical(kuairand, raw, tmp_path / "two", skip_bad=2)
    assert made.bad_lines == 2 and len(tables["impressions"]) == 1


def test_a_folder_without_exactly_one_kuairand_version_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds none of user_features"):
        canonical(kuairand, tmp_path, tmp_path / "a")
    raw = write_kuairand(tmp_path / "raw", {})
    with pytest.raises(DataError, match="holds 0 of log_standard_"):
        canonical(kuairand, raw, tmp_path / "b")
    write_kuairand(raw, {}, "1k")
    with pytest.raises(DataError, match="user_features_1k.csv, user_features_pure.csv of"):
        canonical(kuairand, raw, tmp_path / "c")


def test_the_real_kuairand_piece_is_read_whole(real_logs, tmp_path):
    made, tables = canonical(kuairand, real_logs / "kuairand_pure", tmp_path / "out")

    impressions = tables["impressions"]
    assert made.bad_lines == 0
    assert (len(impressions), impressions["user_id"].n_unique()) == (193_703, 24_718)
    assert (len(tables["users"]), len(tables["items"])) == (27_285, 7_583)
    clicks = tables["behaviours"].filter(action="click")
    assert len(clicks) == impressions["label"].sum()
    assert set(impressions["user_id"]) <= set(tables["users"]["user_id"])
    assert set(impressions["item_id"]) <= set(tables["items"]["item_id"])
    assert tables["users"]["onehot_feat4"].null_count() == 874 and tables["items"]["tag"].null_count() == 96
    known = tables["items"].drop_nulls("tag")
    assert (known["tag"].list.first() == known["category_id"]).all()


# --- tables of one's own ------------------------------------------------------------------------------------------


def own_tables() -> dict[str, pl.DataFrame]:
    return {
        "behaviours": pl.DataFrame(
            {
                "user_id": ["u1", "u2"],
                "action": ["click", "follow"],
                "object_type": ["item", "shop"],
                "object_id": ["i1", "s1"],
                "timestamp": [NOW - 5, NOW - 4],
            }
        ),
        "impressions": pl.DataFrame(
            {
                "user_id": ["u1", "u3", "u1", "u3"],
                "item_id": ["i2", "i1", "i1", "i2"],
                "timestamp": [NOW, NOW + 1, NOW + 2, NOW + 3],
                "label": [True, False, True, False],
                "slot": ["top", None, "end", "end"],
                "watch_ms": [1, 0, 2, 0],
            }
        ),
    }


def write_own(folder: Path, tables: dict[str, pl.DataFrame]) -> Path:
    folder.mkdir()
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return folder


def test_own_tables_pass_with_their_other_columns_and_entities_are_made_where_there_are_none(tmp_path):
    made, tables = canonical(parquet, write_own(tmp_path / "raw", own_tables()), tmp_path / "out")

    assert made == DataSet("parquet", "UTC", bad_lines=0)
    assert tables["behaviours"].equals(own_tables()["behaviours"])
    assert tables["impressions"]["label"].to_list() == [1, 0, 1, 0] and tables["impressions"]["label"].dtype == pl.Int8
    assert tables["impressions"]["slot"].to_list() == ["top", None, "end", "end"]
    assert sorted(tables["items"]["item_id"]) == ["i1", "i2"]  # s1 is no item
    assert sorted(tables["users"]["user_id"]) == ["u1", "u2", "u3"]


def test_own_entities_time_zone_and_narrow_types_are_taken(tmp_path):
    own = own_tables()
    own["items"] = pl.DataFrame({"item_id": ["i9"], "tags": [["a", "b"]]})
    own["impressions"] = own["impressions"].with_columns(
        pl.col("user_id").cast(pl.Categorical), pl.col("watch_ms").cast(pl.UInt16), pl.col("label").cast(pl.UInt32)
    )
    raw = write_own(tmp_path / "raw", own)
    (raw / "meta.json").write_text(json.dumps({"time_zone": "Asia/Shanghai"}))

    made, tables = canonical(parquet, raw, tmp_path / "out")

    assert made.time_zone == "Asia/Shanghai"
    assert tables["items"].rows() == [("i9", ["a", "b"])]
    assert tables["impressions"]["user_id"].dtype == pl.String and tables["impressions"]["label"].dtype == pl.Int8


@pytest.mark.parametrize(
    ("table", "column", "value", "reason"),
    [
        (
            "impressions",
            "timestamp",
            NOW // 1000,
            "timestamp: 1650812741 looks like seconds, mult",
        ),
        (
            "impressions",
            "timestamp",
            NOW * 1000,
            "timestamp: 1650812741436000 looks like micros",
        ),
        ("impressions", "label", 2, "label: 2 given, 0 or 1 are allowed"),
        ("impressions", "label", 256, "label: 256 given, 0 or 1 are allowed"),
        ("impressions", "watch_ms", -1, "watch_ms: -1 given, 0 or more are allowed"),
        ("impressions", "item_id", None, "item_id: nothing given, integers or strings are allowed"),
        ("impressions", "true_probability", float("nan"), "true_probability: NaN given, 0 to 1 are allowed"),
        ("behaviours", "action", None, "action: nothing given, strings are allowed"),
        ("users", "user_id", "u1", "user_id: u1 stands in an earlier row"),
    ],
)
def test_a_malformed_row_stops_with_table_row_and_reason_or_is_counted(tmp_path, table, column, value, reason):
    own = own_tables()
    own["users"] = pl.DataFrame({"user_id": ["u1", "u2"]})
    own["impressions"] = own["impressions"].with_columns(pl.col("label").cast(pl.Int64), true_probability=0.5)
    second = pl.int_range(pl.len()) == 1
    own[table] = own[table].with_columns(pl.when(second).then(pl.lit(value)).otherwise(column).alias(column))
    raw = write_own(tmp_path / "raw", own)

    with pytest.raises(MalformedLine) as stopped:
        canonical(parquet, raw, tmp_path / "out")
    assert (stopped.value.file, stopped.value.line) == (raw / f"{table}.parquet", 2)
    assert str(stopped.value).startswith(f"{raw / table}.parquet, row 2: {reason}")

    made, tables = canonical(parquet, raw, tmp_path / "skipped", skip_bad=1)
    assert made.bad_lines == 1 and len(tables[table]) == len(own[table]) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("behaviours"), "holds no behaviours; behaviours.parquet, .csv, .* or --behaviours-from"),
        (
            lambda own: own.update(impressions=own["impressions"].drop("label")),
            "has no column label; there are user_id",
        ),
        (
            lambda own: own.update(impressions=own["impressions"].with_columns(timestamp=pl.lit("noon"))),
            "row 1: timestamp: 'noon' is no time; milliseconds since 1970",
        ),
        (
            lambda own: own.update(impressions=own["impressions"].with_columns(item_id=pl.lit(5))),
            "object_id is text \\('i1'\\), but item_id of impressions.parquet is INTEGER; one type is allowed",
        ),
    ],
)
def test_own_tables_of_the_wrong_form_are_refused(tmp_path, change, message):
    own = own_tables()
    change(own)

    with pytest.raises(DataError, match=message):
        canonical(parquet, write_own(tmp_path / "raw", own), tmp_path / "out")


def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path):
    raw = write_own(tmp_path / "raw", own_tables())
    (raw / "items.parquet").write_text("item_id\ni1\n")

    with pytest.raises(DataError, match="items.parquet cannot be read"):
        canonical(parquet, raw, tmp_path / "out")


@pytest.mark.parametrize("meta", ['{"time_zone": "Mars/Olympus"}', '{"time_zone": 8}', '{"zone": "UTC"}', "[]", "{"])
def test_a_meta_json_without_a_known_time_zone_is_refused(tmp_path, meta):
    raw = write_own(tmp_path / "raw", own_tables())
    (raw / "meta.json").write_text(meta)

    with pytest.raises(DataError, match="meta.json: .*another IANA name is allowed"):
        canonical(parquet, raw, tmp_path / "out")


@pytest.mark.parametrize("value", [str(Options().impressions), "5"])
def test_an_option_of_another_data_set_is_refused_whatever_its_value(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "amazon", "--raw", str(tmp_path), "--out", str(tmp_path / "out"), "--impressions", value]
    with pytest.raises(SystemExit) as ended:
        prepare.main(arguments)
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert re.search("data set amazon: unknown impressions; allowed: skip_bad, seed, .*ties", capsys.readouterr().err)
