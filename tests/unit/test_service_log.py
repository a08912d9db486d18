"""The service's own log as a data set: every impression once, every click where it belongs, the rest counted."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model import prepare as command
from model.bundle.reading import Bundle
from model.datasets.tables import DataError, Options
from model.features.behaviour import Behaviour
from model.prepare import prepare
from model.prepared.loader import Prepared
from model.servicelog.records import BUILTIN
from service.settings import DEMO_BUNDLE
from tests.servicelog import DAY, NOON, Served

WINDOW_MS = 30 * 60_000
ITEMS = [f"i{at}" for at in range(100, 120)]
USERS = [f"w{at}" for at in range(4)]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open(DEMO_BUNDLE)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    """A prepared data set of the demo's world, with features of ITEMS, and a past of the first user."""
    folder = tmp_path_factory.mktemp("base") / "data"
    table = DEMO_BUNDLE / "features.toml"
    prepare("simulated", None, folder, Options(impressions=3000, seed=7), features=table)
    tables = folder / "tables"
    users = pl.read_parquet(tables / "users.parquet")
    first = users.head(1).with_columns(user_id=pl.lit(USERS[0]), city=pl.lit("city3"))
    pl.concat([users, first]).write_parquet(tables / "users.parquet")
    items = pl.read_parquet(tables / "items.parquet")
    known = items.head(len(ITEMS)).with_columns(item_id=pl.Series(ITEMS), category_id=pl.lit("c1"))
    pl.concat([items.filter(~pl.col("item_id").is_in(ITEMS)), known]).write_parquet(tables / "items.parquet")
    behaviours = pl.read_parquet(tables / "behaviours.parquet")
    past = behaviours.head(1).with_columns(user_id=pl.lit(USERS[0]), object_id=pl.lit("i100"), timestamp=NOON - DAY)
    pl.concat([behaviours, past.select(behaviours.columns)]).write_parquet(tables / "behaviours.parquet")
    return folder


def three_days(bundle: Bundle) -> Served:
    """Each day each user looks at the items and clicks the second and the fifth."""
    served = Served(bundle)
    for day in range(3):
        served.now = NOON + day * DAY
        for user_id in USERS:
            shown = served.rank(user_id, ITEMS, f"{user_id}-{day}")
            for place in (1, 4):
                served.act(user_id, shown.items[place].item_id, f"{user_id}-{day}", after_ms=place * 1000)
    return served


def made(served: Served, folder: Path, base: Path | None, **options: Any) -> tuple[Prepared, dict[str, int], str]:
    """The prepared data set, what was counted, and the notes."""
    served.write(folder / "log")
    meta = prepare("service_log", folder / "log", folder / "data", Options(base=base, **options))
    return Prepared(folder / "data"), meta["log"], "\n".join(meta["notes"])


def table(data: Prepared, name: str = "impressions") -> pl.DataFrame:
    return pl.read_parquet(data.folder / "tables" / f"{name}.parquet")


def joined_by_hand(served: Served, confirmed: bool = False) -> Counter[tuple[str, str, str]]:
    """(request, user, item) with a click in the window: each once, as somebody else would count them."""
    shown = {(i.request_id, i.user_id, item.item_id): i.now for i in served.impressions for item in i.items}
    named = {(e.request_id, e.user_id, e.object_id) for e in served.events if e.event == "impression"}
    return Counter(
        {
            (str(e.request_id), e.user_id, e.object_id): 1
            for e in served.events
            if e.event == "click"
            and (at := shown.get((e.request_id, e.user_id, e.object_id))) is not None  # type: ignore[arg-type]
            and 0 <= e.timestamp - at <= WINDOW_MS
            and (not confirmed or (e.request_id, e.user_id, e.object_id) in named)
        }
    )


def test_what_a_builtin_variant_showed_is_learnt_from_as_all_else(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = three_days(bundle)
    for place in range(0, len(served.impressions), 2):
        served.change(place, model="random", variant="chance", precision=BUILTIN)
    data, log, _ = made(served, tmp_path, base)
    rows = table(data)
    assert len(rows) == sum(len(one.items) for one in served.impressions)
    assert rows["label"].sum() == log["joined"] == len(joined_by_hand(served)) == 2 * len(served.impressions)


def test_every_click_is_joined_or_counted_for_what_it_is(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = three_days(bundle)
    user, request = USERS[0], f"{USERS[0]}-2"
    items = [item.item_id for item in served.impressions[-len(USERS)].items]
    served.act(user, items[1], request, after_ms=1000)  # the same event once more
    served.act(user, items[1], request, after_ms=7000)  # another click on it
    served.act(user, items[2], request, after_ms=WINDOW_MS)  # just in time
    served.act(user, items[3], request, after_ms=WINDOW_MS + 1)
    served.act(user, items[5], request, after_ms=-1)
    served.act(user, items[6], "nobody-ranked-this")
    served.act(USERS[1], items[6], request)  # another one's request
    served.act(user, items[6], None)
    served.act(user, "i1", request)  # which was not returned
    served.act(user, items[7], request, event="buy")
    data, counts, notes = made(served, tmp_path, base)
    rows = table(data)
    assert len(rows) == counts["impressions"] == sum(len(i.items) for i in served.impressions) == 120
    joined = rows.filter(pl.col("label") == 1).select("request_id", "user_id", "item_id").rows()
    assert Counter(joined) == joined_by_hand(served) and len(joined) == counts["joined"] == 25
    lost = {"late": 1, "early": 1, "orphaned": 2, "not_returned": 1, "without_request": 1, "not_confirmed": 0}
    assert {name: counts[name] for name in lost} == lost
    assert (counts["doubled"], counts["sent_again"], counts["clicks"]) == (1, 1, 24 + 1 + 1 + sum(lost.values()))
    assert "120 impressions (returned) of 12 requests; 25 of 32 clicks are joined" in notes
    assert "1 clicks later than 1800 s" in notes and "2 clicks of a request that the log does not hold" in notes
    assert "positives are events 'click'; others are buy" in notes
    done = table(data, "behaviours").filter(pl.col("user_id") == user)
    assert len(done) == len(served.histories[user]) + 1, "all events but doubles, and what the base knows"


def test_labels_windows_and_confirmed_impressions_are_options(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = three_days(bundle)
    for shown in served.impressions:
        for item in shown.items[:4]:
            served.now = shown.now
            served.act(shown.user_id, item.item_id, shown.request_id, event="impression", after_ms=500)
        served.act(shown.user_id, shown.items[0].item_id, shown.request_id, event="buy", after_ms=9000, watch_ms=70)
    data, counts, notes = made(served, tmp_path / "confirmed", base, shown="confirmed")
    rows = table(data)
    assert len(rows) == counts["impressions"] == 48 and rows["position"].unique().sort().to_list() == [1, 2, 3, 4]
    joined = rows.filter(pl.col("label") == 1).select("request_id", "user_id", "item_id").rows()
    assert Counter(joined) == joined_by_hand(served, confirmed=True) and counts["not_confirmed"] == 12
    assert "72 returned items that no impression event confirms: left out" in notes
    assert not (table(data, "behaviours")["action"] == "impression").any()

    data, counts, _ = made(served, tmp_path / "buys", base, label="buy", window_s=9.0)
    bought = table(data).filter(pl.col("label") == 1)
    assert counts["joined"] == len(bought) == 12 and (bought["position"] == 1).all()
    assert table(data)["watch_ms"].sum() == 12 * 70
    _, counts, _ = made(served, tmp_path / "soon", base, window_s=2.0)
    assert (counts["joined"], counts["late"]) == (12, 12)


def test_an_item_that_a_request_returned_twice_gets_one_click(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = three_days(bundle)
    user = USERS[1]
    shown = served.rank(user, [*ITEMS[:3], ITEMS[0]], "twice")
    again = served.rank(user, ITEMS[:3], "twice")  # of one batch, or its id was sent again
    served.act(user, ITEMS[0], "twice")
    data, counts, _ = made(served, tmp_path, base)
    rows = table(data).filter(pl.col("request_id") == "twice")
    assert len(rows) == len(shown.items) + len(again.items) == 7
    assert rows.filter(pl.col("label") == 1)["item_id"].to_list() == [ITEMS[0]]
    assert counts["joined"] == 25 and counts["doubled"] == 0


def test_context_is_as_served_and_the_place_is_where_it_stood(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = three_days(bundle)
    candidates: list[Any] = [{"item_id": ITEMS[0], "page": 5, "shop_id": "s-new"}, {"item_id": ITEMS[1], "page": None}]
    shown = served.rank(USERS[0], [*candidates, ITEMS[2]], "named", context={"page": 3, "match_type": "chance"})
    data, _, _ = made(served, tmp_path, base)
    rows = table(data)
    by_item = {row["item_id"]: row for row in rows.filter(pl.col("request_id") == "named").iter_rows(named=True)}
    assert [by_item[item]["page"] for item in ITEMS[:3]] == [5, None, 3]
    assert {row["match_type"] for row in by_item.values()} == {"chance"}
    assert {item.item_id: item.position for item in shown.items} == {k: r["position"] for k, r in by_item.items()}
    others = rows.filter(pl.col("request_id") != "named")
    assert others["page"].unique().to_list() == [1] and others["match_type"].unique().to_list() == ["taste"]
    items = table(data, "items").filter(pl.col("item_id").is_in(ITEMS[:2])).sort("item_id")
    assert items["shop_id"][0] == "s-new" and items["category_id"].to_list() == ["c1", "c1"]


def test_users_are_as_last_known(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = three_days(bundle)
    served.profiles[USERS[1]] = {"city": "city1", "os": "ios"}  # from before the log
    served.histories[USERS[1]].add(Behaviour("click", "item", "i3", NOON - 2 * DAY))
    served.rank(USERS[1], ITEMS, "later")
    served.set(USERS[1], {"city": "city2", "age": "50+"})
    served.set(USERS[2], {"city": "city9"})
    served.set(USERS[2], {"gender": "f"}, replaced=True)
    served.rank(USERS[3], ITEMS, "inline", user={"age": "18-24"})
    data, counts, notes = made(served, tmp_path, base)
    users = {row["user_id"]: row for row in table(data, "users").iter_rows(named=True)}
    assert users[USERS[0]]["city"] == "city3" and users[USERS[1]]["city"] == "city2"
    assert (users[USERS[1]]["age"], users[USERS[1]]["os"]) == ("50+", "ios")
    assert (users[USERS[2]]["city"], users[USERS[2]]["gender"]) == (None, "f")
    assert users[USERS[3]]["age"] == "18-24"
    assert "1 requests that named features of their user" in notes and "1 of the log's 4 users are in --base" in notes
    assert counts["users_of_base"] == 1


def test_what_the_store_held_before_the_log_is_history_too(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = Served(bundle)
    before = Behaviour("click", "item", "i3", NOON - 2 * DAY)
    served.histories[USERS[1]].add(before)
    for day in range(3):
        served.now = NOON + day * DAY
        shown = served.rank(USERS[1], ITEMS, f"r{day}", degraded=["history:timeout"] if day == 0 else [])
        served.act(USERS[1], shown.items[0].item_id, f"r{day}")
    data, counts, notes = made(served, tmp_path, base)
    done = table(data, "behaviours").filter(pl.col("user_id") == USERS[1])
    assert len(done) == 4 and NOON - 2 * DAY in done["timestamp"].to_list()
    assert counts["degraded"] == 1 and "1 requests that were ranked without the store's history" in notes
    assert "knows none of the log's 1 users (are their ids salted" in notes


def test_who_was_forgotten_since_is_in_no_table(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = three_days(bundle)
    folder = served.write(tmp_path / "log")
    gone = pl.DataFrame({"user_id": [USERS[0]], "stored_us": [served.tick()]})
    (folder / "forgotten").mkdir()
    gone.write_parquet(folder / "forgotten" / "worker-1.parquet")
    prepare("service_log", folder, tmp_path / "data", Options(base=base))
    data = Prepared(tmp_path / "data")
    assert USERS[0] not in table(data)["user_id"].to_list() + table(data, "behaviours")["user_id"].to_list()
    assert len(table(data)) == 90


def test_a_log_of_one_day_and_of_another_time_zone(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    served = Served(bundle)
    for at in range(20):
        served.now += 60_000
        shown = served.rank(USERS[at % 4], ITEMS, f"r{at}")
        served.act(USERS[at % 4], shown.items[at % 10].item_id, f"r{at}")
    folder = served.write(tmp_path / "log")
    (folder / "meta.json").write_text('{"time_zone": "Asia/Tokyo"}')
    meta = prepare("service_log", folder, tmp_path / "data", Options(base=base))
    assert meta["time_zone"] == "Asia/Tokyo"
    assert any("test is the last tenth by time" in note and "1 calendar day(s)" in note for note in meta["notes"])


def test_the_command_grows_a_bundle_and_reads_a_url(
    bundle: Bundle, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = three_days(bundle).write(tmp_path / "log")
    told = ["--dataset", "service_log", "--base", str(base), "--grow", str(DEMO_BUNDLE), "--window", "30m"]
    assert command.main([*told, "--raw", str(log), "--out", str(tmp_path / "data")]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert command.main([*told, "--raw", f"file://{log}", "--out", str(tmp_path / "other")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["log"] == first["log"]
    assert f"the feature table is {base / 'features.toml'}" in said.err


def _spoilt(log: Path, name: str, frame: pl.DataFrame | None = None) -> None:
    (path, *_) = sorted((log / name).rglob("*.parquet"))
    if frame is None:
        path.write_bytes(path.read_bytes()[:300])
    else:
        frame.write_parquet(path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda log: _spoilt(log, "events"), r"events/day=2025-09-15/worker-1.parquet: no whole Parquet file"),
        (
            lambda log: _spoilt(log, "impressions", pl.DataFrame({"a": [1]})),
            "no column request_id, .* another version?",
        ),
        (
            lambda log: _spoilt(
                log,
                "events",
                pl.read_parquet(log / "events/day=2025-09-15/worker-1.parquet").cast({"timestamp": pl.String}),
            ),
            "column timestamp is String, Int64 is needed",
        ),
        (lambda log: [path.unlink() for path in (log / "impressions").rglob("*.parquet")], "holds no impressions"),
    ],
    ids=["half", "columns", "type", "empty"],
)
def test_a_wrong_log_is_one_clear_line(
    bundle: Bundle, base: Path, tmp_path: Path, spoil: Callable[[Path], Any], says: str
) -> None:
    log = three_days(bundle).write(tmp_path / "log")
    spoil(log)
    with pytest.raises(DataError, match=says):
        prepare("service_log", log, tmp_path / "data", Options(base=base))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--base", "{log}"], "--base .* is no prepared data set|features.toml is not there"),
        (["--features", str(DEMO_BUNDLE / "features.toml")], "features.toml names category_id, shop_id, tag of items"),
        ([], "features.toml is missing: .* by --base DATA, or by --features"),
        (["--base", "{base}", "--label", "like"], "--label 'like' given, actions .*: click"),
        (["--base", "{base}", "--shown", "confirmed"], "no event 'impression' confirms one of the 120 items"),
    ],
    ids=["no data set", "no base", "no table", "no such action", "nothing confirmed"],
)
def test_wrong_arguments_are_one_clear_line(
    bundle: Bundle, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:

    log = three_days(bundle).write(tmp_path / "log")
    told = [one.format(log=log, base=base) for one in arguments]
    assert command.main(["--dataset", "service_log", "--raw", str(log), "--out", str(tmp_path / "data"), *told]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(says, line), line


def test_impressions_of_the_day_are_as_used_or_as_events_tell(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    """The model that served counted none, but for one request, to which another one answered; one found no store."""
    table = tmp_path / "features.toml"
    today = '\n[[feature]]\nname = "t"\nside = "cross"\nkind = "today"\nevent = "impression"\nwidth = 4\n'
    table.write_text((DEMO_BUNDLE / "features.toml").read_text() + today)
    served = three_days(bundle)
    user = USERS[0]
    expected = {shown.request_id: 0 for shown in served.impressions}
    served.now = NOON + 2 * DAY + 60_000
    for item in ("i100", "i101", "i101"):
        served.act(user, item, None, event="impression")
    served.act(user, "i102", None, event="impression", after_ms=-DAY)  # yesterday's
    for number, known in enumerate((2, 9, -1)):
        served.now += 60_000
        served.rank(user, ITEMS, f"r{number}", degraded=["history:error"] if known < 0 else ())
        expected[f"r{number}"] = known
    served.change(-2, shown_today=9)
    served.rank(user, ITEMS, "past", before=NOON + 2 * DAY + 60_500)
    served.act(user, "i103", None, event="impression")  # nobody asked since
    expected["past"] = 0
    served.write(tmp_path / "log")
    meta = prepare("service_log", tmp_path / "log", tmp_path / "data", Options(base=base), features=table)
    data = Prepared(tmp_path / "data")
    rows = pl.read_parquet(tmp_path / "data" / "tables" / "impressions.parquet").unique(("request_id", "item_id"))
    assert dict(rows.select("request_id", "shown_today_as_used").iter_rows()) == expected
    place = data.schema.places("cross")["t"].start
    of_row = {-1: 1, 0: 2, 2: 5, 9: 8}  # unknown, or 2 + floor(2 log2(1 + n))
    made = Counter(data.batch(np.arange(len(data.time)))["cross"][:, 0, place].tolist())
    assert made == Counter(of_row[known] for known in expected.values() for _ in range(10))
    told = f"as used in 1 requests; counted from events for {len(expected) - 2} whose model counted none; unknown in 1"
    assert any(told in note for note in meta["notes"])
