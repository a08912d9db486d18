"""Loading users into a real store, from JSON lines and from tables."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from model.features.behaviour import Behaviour
from model.features.schema import load as load_schema
from service.loading.lines import users_of_lines
from service.loading.load import Loaded, _load, load_file, load_tables, load_users
from service.loading.user import BackfillError, Fields
from service.store.history import Stored
from service.store.redis import RedisHistory
from tests.stores import dead_url, read_one

pl = pytest.importorskip("polars")

TTL_S = 1000
T = 1_700_000_000_000  # a time; those of the tests lie a few milliseconds after it
FEATURES = """user_id = "{user}"

[[feature]]
name = "item_id"
side = "item"
kind = "id"
type = "{item}"
sequence_width = 8
"""
KIND = {"age": 'kind = "number"\ntransform = "log"', "tags": 'kind = "multi"\nmax_values = 3'}


def click(object_id: str, timestamp: int) -> Behaviour:
    return Behaviour("click", "item", object_id, timestamp)


def line(user_id, user=None, behaviours=()) -> str:
    return json.dumps({"user_id": user_id, "user": user or {}, "behaviours": list(behaviours)}, ensure_ascii=False)


def stored(url: str, *user_ids: str) -> list[Stored]:
    async def read() -> list[Stored]:
        history = RedisHistory(url, keep=1000, ttl_s=TTL_S, timeout_ms=5000, connections=1)
        try:
            return [await read_one(history, user_id, None) for user_id in user_ids]
        finally:
            await history.close()

    return asyncio.run(read())


def everything(url: str) -> dict[bytes, bytes]:
    with redis.Redis.from_url(url) as client:
        return {key: client.dump(key) for key in client.scan_iter()}


def features(*names: str, user: str = "str", item: str = "str") -> str:
    """A feature table with these features of users."""
    each = (f'\n[[feature]]\nname = "{n}"\nside = "user"\n{KIND.get(n, KIND["age"])}\nwidth = 2\n' for n in names)
    return FEATURES.format(user=user, item=item) + "".join(each)


def write_tables(data: Path, users: dict, behaviours: dict, table: str | None = None) -> Path:
    (data / "tables").mkdir()
    (data / "features.toml").write_text(table or features(*(name for name in users if name != "user_id")))
    pl.DataFrame(users).write_parquet(data / "tables" / "users.parquet")
    pl.DataFrame(behaviours).write_parquet(data / "tables" / "behaviours.parquet")
    return data


def tables_of_40_users(data: Path) -> Path:
    clicks = [(user, n) for user in range(40) for n in range(user)]
    return write_tables(
        data,
        {"user_id": list(range(40)), "age": [20 + n for n in range(40)]},
        {
            "user_id": [user for user, _ in clicks],
            "action": ["click"] * len(clicks),
            "object_type": ["item"] * len(clicks),
            "object_id": [n for _, n in clicks],
            "timestamp": [T + 1000 * user + (7 * n) % 40 for user, n in clicks],  # not in order of time
        },
    )


def backfill(
    *arguments: str, redis_url: str | None = None, code: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RANKER_")}
    if redis_url is not None:
        environment["RANKER_REDIS_URL"] = redis_url
    start = ["-c", code] if code else ["-m", "service.backfill"]
    return subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True, env=environment)


def test_lines_become_profiles_and_histories(socket_url):
    lines = [
        line("u1", {"age": 30, "score": 0.1, "city": "北京", "tags": ["a", "b"], "gone": None, "new": True},
             [["click", "item", "i2", T + 20], ["buy", "item", 1, T + 10]]),
        line(7, {}, []).encode(),
        '{"user_id": "bare"}\n',
    ]  # fmt: skip

    loaded = load_users(lines, socket_url, keep=100, ttl_s=TTL_S)

    profile = {"age": "30", "score": "0.1", "city": "北京", "tags": '["a", "b"]', "new": "1"}
    behaviours = [Behaviour("buy", "item", "1", T + 10), click("i2", T + 20)]
    assert stored(socket_url, "u1", "7", "bare") == [
        Stored(profile, behaviours, 0),
        Stored({}, [], 0),
        Stored({}, [], 0),
    ]
    assert loaded.users == 3 and loaded.behaviours == 2
    assert loaded.bytes_per_user is not None and 50 < loaded.bytes_per_user < 500


def test_only_the_newest_are_sent(valkey_url):
    lines = [line("u", None, [["click", "item", f"i{n}", T + (n * 37) % 100] for n in range(100)] * 2)]

    loaded = load_users(lines, valkey_url, keep=3, ttl_s=TTL_S)

    assert loaded.behaviours == 3
    assert [behaviour.timestamp for behaviour in stored(valkey_url, "u")[0].behaviours] == [T + 97, T + 98, T + 99]


def test_times_are_shifted(valkey_url):
    load_users([line("u", None, [["click", "item", "i", T]])], valkey_url, keep=3, ttl_s=TTL_S, shift_ms=-4)

    assert stored(valkey_url, "u")[0].behaviours == [click("i", T - 4)]


def test_all_keys_expire(valkey_url):
    load_users([line("u", {"age": 1}, [["click", "item", "i", T]])], valkey_url, keep=3, ttl_s=TTL_S)

    with redis.Redis.from_url(valkey_url) as client:
        assert [0 < client.ttl(key) <= TTL_S for key in client.keys()] == [True] * 3


def test_no_users_are_no_error(valkey_url):
    assert load_users([], valkey_url, keep=3, ttl_s=TTL_S) == Loaded(0, 0, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "EOF"),
        ("[]", "valid dictionary|object"),
        ("{}", "user_id: Field required"),
        ('{"user_id": null}', "user_id"),
        ('{"user_id": true}', "user_id"),
        ('{"user_id": 1.5}', "user_id"),
        ('{"user_id": ""}', "user_id: 0 characters given, 1 to 256 are allowed"),  # as a request's
        ('{"user_id": "' + "x" * 257 + '"}', "user_id: 257 characters"),
        ('{"user_id": "u", "users": {}}', "users: Extra inputs"),
        ('{"user_id": "u", "user": {"age": {}}}', "age: {} given"),
        ('{"user_id": "u", "user": {"tags": [[1]]}}', "tags: .* given"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i"]]}', "behaviours.0.3: Field required"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i", "10"]]}', "behaviours.0.3: .*integer"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i", 1.5]]}', "behaviours.0.3: .*integer"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i", 1, 2]]}', "behaviours.0"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i", 1700000000]]}', "behaviours.0: .* looks like seconds"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i", 1700000000000000]]}', "looks like microseconds"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i", 1700000000000000000]]}', "looks like nanoseconds"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i", -1]]}', "before 1970"),
        ('{"user_id": "u", "behaviours": [["click", "item", "i", 0]]}', "milliseconds since 1970"),
        ('{"user_id": "u", "behaviours": [["cl|ck", "item", "i", 1700000000000]]}', "neither may hold"),
        (b'{"user_id": "\xff"}', "UTF-8|unicode"),
        ('{"user_id": "\\ud800"}', "hex escape"),
    ],
)
def test_a_malformed_line_stops_with_its_place_and_reason(valkey_url, text, reason):
    with pytest.raises(BackfillError, match=f"users.jsonl:2: .*({reason})"):
        load_users([line("u"), text, line("v")], valkey_url, keep=3, ttl_s=TTL_S, source="users.jsonl")


LINE = json.dumps({"user_id": "b1", "behaviours": [["click", "item", "i1", T]]}).encode()
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("blank.jsonl", LINE + b"\n\n \t\n" + LINE + b"\n\n"),
        ("bom.jsonl", BOM + LINE + b"\n" + BOM + LINE),
        ("windows.jsonl", LINE + b"\r\n\r\n" + LINE + b"\r\n"),
        ("packed.jsonl.gz", gzip.compress(BOM + LINE + b"\n")),
        ("packed_twice", gzip.compress(LINE + b"\n") + gzip.compress(b"\n" + LINE)),
        ("only_by_name.gz", LINE),
    ],
    ids=["blank", "bom", "windows", "packed", "packed twice", "only by name"],  # gzip's bytes hold the time
)
def test_a_file_is_read_as_editors_and_exporters_leave_it(valkey_url, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    loaded = load_file(tmp_path / name, valkey_url, keep=3, ttl_s=TTL_S)

    assert stored(valkey_url, "b1") == [Stored({}, [click("i1", T)], 0)]
    assert loaded.users == 1, "a user on several lines is one user"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LINE + b"\n\n" + LINE.replace(b"1700000000000", b"1700000000"), "users:3: behaviours.0: .*looks like seconds"),
        (LINE + b"\n{", "users:2: Invalid JSON"),
        (gzip.compress(LINE * 1000)[:-20], "users: gzip that is cut off"),
        (b"PK\x03\x04", "users: a zip archive given, UTF-8 text, plain or gzip, is allowed"),
        ("\ufeff{}".encode("utf-16-le"), "users: UTF-16 given"),
    ],
    ids=["seconds", "half a line", "cut off", "zip", "UTF-16"],
)
def test_nothing_of_a_file_with_a_fault_is_written(valkey_url, tmp_path, content, says):
    (tmp_path / "users").write_bytes(content)

    with pytest.raises(BackfillError, match=says):
        load_file(tmp_path / "users", valkey_url, keep=3, ttl_s=TTL_S)

    assert everything(valkey_url) == {}


def test_what_cannot_be_read_twice_is_refused(valkey_url, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackfillError, match="pipe is no file"):
        load_file(tmp_path / "pipe", valkey_url, keep=3, ttl_s=TTL_S)


def test_a_bundle_s_features_say_which_fields_are_loaded_and_how_ids_are_written(valkey_url, tmp_path):
    (tmp_path / "features.toml").write_text(features("age", "tags", user="int", item="int"))
    schema = load_schema(tmp_path / "features.toml")
    lines = [
        line("007", {"age": 3.0, "email": "a@b", "tags": ["a", None]},
             [["click", "item", "08", T], ["view", "page", "08", T]]),
        line(7, {"signup": None}, [["click", "item", 8, T]]),
    ]  # fmt: skip

    loaded = load_users(lines, valkey_url, keep=9, ttl_s=TTL_S, schema=schema)

    behaviours = [click("8", T), Behaviour("view", "page", "08", T)]
    assert stored(valkey_url, "7", "007") == [Stored({"age": "3.0", "tags": '["a"]'}, behaviours, 0), Stored({}, [], 0)]
    assert (loaded.users, loaded.left_out, loaded.holes) == (1, ("email", "signup"), 1)
    assert any("email, signup" in note for note in loaded.notes)
    for wrong, says in (
        (line("x7"), "user_id: 'x7' given, an integer"),
        (line(7, {"age": "old"}), "user.age: 'old' given, a number"),
        (line(7, {"tags": "a"}), "user.tags: 'a' given, a.* list"),
        (line(7, None, [["click", "item", "i8", T]]), "behaviours.0: 'i8' given, an integer"),
    ):
        with pytest.raises(BackfillError, match=says):
            load_users([wrong], valkey_url, keep=9, ttl_s=TTL_S, schema=schema)


def test_a_column_that_the_model_does_not_need_never_reaches_the_store(valkey_url, tmp_path):
    users = pl.DataFrame({"user_id": ["007"], "tags": [["a", None]], "email": ["a@b"], "signup": [T]})
    users = users.with_columns(pl.col("signup").cast(pl.Datetime("ms")))
    table = features("tags", user="int", item="int")
    write_tables(tmp_path, users.to_dict(), GOOD | {"user_id": ["07"], "object_id": ["09"]}, table)

    ended = backfill("--data", str(tmp_path), redis_url=valkey_url)

    assert ended.returncode == 0, ended.stderr
    assert stored(valkey_url, "7") == [Stored({"tags": '["a"]'}, [click("9", T)], 0)]
    assert len(everything(valkey_url)) == 3, "one user"
    told = [text for text in ended.stderr.splitlines() if text.startswith("backfill: ")]
    assert told == [
        "backfill: not loaded, no user features of features.toml: email, signup",
        "backfill: 1 empty places in lists left out, of tags",
    ]
    report = json.loads(ended.stdout.splitlines()[-1])
    assert (report["users"], report["left_out"], report["holes"]) == (1, ["email", "signup"], 1)


def test_behaviours_that_no_history_reads_are_loaded_and_told(valkey_url, tmp_path):
    data = write_tables(tmp_path, {"user_id": [1]}, GOOD | {"action": ["Click"], "object_type": ["product"]})

    loaded = load_tables(data, valkey_url, keep=3, ttl_s=TTL_S)

    assert loaded.behaviours == 1
    assert "('click' on 'item'): loaded are 'Click' on 'product'" in loaded.notes[0]


def test_a_clock_that_is_far_ahead_is_told(valkey_url):
    loaded = load_users([line("u", None, [["click", "item", "i", 50 * T]])], valkey_url, keep=3, ttl_s=TTL_S)
    assert "1 behaviours lie more than a day ahead" in loaded.notes[0]


def test_a_store_that_fails_under_way_says_what_is_loaded_and_to_start_over(valkey_url, monkeypatch):
    monkeypatch.setattr("service.loading.load.BATCH", 5)
    fields = Fields(None)
    with redis.Redis.from_url(valkey_url) as client:

        def lines():
            for number in range(100):
                if number == 50:
                    client.config_set("maxmemory", "1")
                yield number, line(f"u{number}", {"age": 1})

        try:
            with pytest.raises(BackfillError, match="maxmemory.*about 50 users are loaded, .* run the command again"):
                _load(users_of_lines(lines(), "line", fields), fields, valkey_url, 3, TTL_S)
        finally:
            client.config_set("maxmemory", "0")


def test_tables_become_profiles_and_histories(socket_url, tmp_path):
    data = write_tables(
        tmp_path,
        {
            "user_id": ["a", "b", "c"],
            "age": [30, None, 5],
            "score": [0.5, float("nan"), 1.0],
            "tags": [["x"], [], None],
        },
        {
            "user_id": ["b", "a", "a", "a", "d"],
            "action": ["click"] * 5,
            "object_type": ["item"] * 5,
            "object_id": [1, 2, 3, 3, 4],
            "timestamp": [T + 10, T + 30, T + 20, T + 20, T + 5],
            "extra": [0] * 5,
        },
    )

    loaded = load_tables(data, socket_url, keep=100, ttl_s=TTL_S)

    assert stored(socket_url, "a", "b", "c", "d") == [
        Stored({"age": "30", "score": "0.5", "tags": '["x"]'}, [click("3", T + 20), click("2", T + 30)], 0),
        Stored({"tags": "[]"}, [click("1", T + 10)], 0),
        Stored({"age": "5", "score": "1.0"}, [], 0),
        Stored({}, [click("4", T + 5)], 0),
    ]
    assert loaded.users == 4 and loaded.behaviours == 4


@pytest.mark.parametrize("slice_rows", [1, 100])
def test_what_is_loaded_does_not_depend_on_the_slices(valkey_url, tmp_path, slice_rows):
    data = tables_of_40_users(tmp_path)
    at_once = load_tables(data, valkey_url, keep=7, ttl_s=TTL_S)
    expected = everything(valkey_url)
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()

    sliced = load_tables(data, valkey_url, keep=7, ttl_s=TTL_S, slice_rows=slice_rows)

    assert everything(valkey_url) == expected
    assert sliced[:2] == at_once[:2] == (40, sum(min(user, 7) for user in range(40)))


def test_loading_again_changes_nothing(socket_url, tmp_path):
    data = tables_of_40_users(tmp_path)
    lines = [line(user, {"age": 3}, [["click", "item", n, T] for n in range(20)]) for user in range(50)]
    for load in (
        lambda: load_tables(data, socket_url, keep=7, ttl_s=TTL_S),
        lambda: load_users(lines, socket_url, keep=7, ttl_s=TTL_S),
    ):
        load()
        once = everything(socket_url)
        load()

        assert everything(socket_url) == once


def test_a_table_of_users_without_features_loads_their_histories(valkey_url, tmp_path):
    data = write_tables(
        tmp_path,
        {"user_id": [1]},
        {"user_id": [1], "action": ["click"], "object_type": ["item"], "object_id": ["i"], "timestamp": [T]},
    )

    load_tables(data, valkey_url, keep=7, ttl_s=TTL_S)

    assert stored(valkey_url, "1") == [Stored({}, [click("i", T)], 0)]


GOOD = {"user_id": [1], "action": ["click"], "object_type": ["item"], "object_id": ["i"], "timestamp": [T]}


@pytest.mark.parametrize(
    ("users", "behaviours", "reason"),
    [
        ({"age": [1]}, GOOD, "users.parquet: no column user_id"),
        ({"user_id": [1.0]}, GOOD, "users.parquet: column user_id is Float64"),
        ({"user_id": [1, None]}, GOOD, "users.parquet: row 2: no user_id"),
        ({"user_id": [1], "born": [{"year": 1}]}, GOOD, "users.parquet: column born is Struct.*allowed"),
        ({"user_id": [1]}, {**GOOD, "timestamp": ["5"]}, "behaviours.parquet: column timestamp is String, integers"),
        (
            {"user_id": [1]},
            {**GOOD, "object_id": pl.Series([None], dtype=pl.String)},
            "behaviours.parquet: row 1: no object_id",
        ),
        ({"user_id": [1]}, {**GOOD, "action": ["a|b"]}, "behaviours.parquet: row 1: action 'a.b' given"),
        ({"user_id": [1]}, {**GOOD, "timestamp": [T // 1000]}, "behaviours.parquet: row 1: .* looks like seconds"),
        ({"user_id": [1]}, {**GOOD, "timestamp": [T * 1000]}, "behaviours.parquet: row 1: .* looks like microseconds"),
        ({"user_id": [1]}, {**GOOD, "timestamp": [-1]}, "behaviours.parquet: row 1: .* before 1970"),
    ],
)
def test_a_table_that_cannot_be_loaded_says_which_and_why(valkey_url, tmp_path, users, behaviours, reason):
    with pytest.raises(BackfillError, match=reason):
        load_tables(write_tables(tmp_path, users, behaviours), valkey_url, keep=7, ttl_s=TTL_S)


def test_the_command_loads_tables_and_ends_in_a_json_line(valkey_url, tmp_path):
    ended = backfill("--data", str(tables_of_40_users(tmp_path)), "--keep", "7", redis_url=valkey_url)

    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report.keys() == {"users", "behaviours", "seconds", "bytes_per_user", "left_out", "holes"}
    assert report["users"] == 40 and report["bytes_per_user"] > 100
    assert "behaviours" in ended.stderr  # the progress bar
    assert len(stored(valkey_url, "39")[0].behaviours) == 7


def test_the_command_loads_lines_and_names_a_malformed_one(valkey_url, tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(line("u", {"age": 3}) + "\n")
    bad.write_text(line("u") + "\n{\n")

    ended = backfill("--users", str(good), "--url", valkey_url)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["users"] == 1
    assert "no --bundle given" in ended.stderr and "holds no users" not in ended.stderr

    good.write_text("\n")
    ended = backfill("--users", str(good), "--url", valkey_url)
    assert ended.returncode == 0 and f"{good} holds no users" in ended.stderr

    ended = backfill("--users", str(bad), "--url", valkey_url)
    assert ended.returncode == 1
    assert f"{bad}:2: " in ended.stderr and "Traceback" not in ended.stderr


def test_the_command_without_a_store_says_so_in_one_line(tmp_path):
    ended = backfill("--data", str(tmp_path))
    assert ended.returncode == 2 and "RANKER_REDIS_URL" in ended.stderr.splitlines()[-1]

    (tmp_path / "users.jsonl").write_text(line("u", {"age": 3}))
    ended = backfill("--users", str(tmp_path / "users.jsonl"), "--url", "redis://localhost?foo=1")
    assert ended.returncode == 1 and "?foo" in ended.stderr
    assert "checked" not in ended.stderr, "a wrong URL is told before the users are read"

    with dead_url() as url:
        ended = backfill("--users", str(tmp_path / "users.jsonl"), redis_url=url)
    assert ended.returncode == 1
    assert "connecting" in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr


def test_tables_without_polars_say_what_to_install(valkey_url, tmp_path):
    code = "import sys; sys.modules['polars'] = None\nfrom service.backfill import main\nsys.exit(main())"
    ended = backfill("--data", str(tmp_path), redis_url=valkey_url, code=code)

    assert ended.returncode == 1
    assert "pip install 'bst-ranker[tables]'" in ended.stderr.splitlines()[-1]
