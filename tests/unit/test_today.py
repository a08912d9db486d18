"""Counters of the day: as one counts them by hand, the same in training and serving, and blind to what comes later."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.datasets.tables import DataSet
from model.features.behaviour import Behaviour
from model.features.ids import FIRST, UNKNOWN
from model.features.kinds import SchemaError
from model.features.schema import Schema, parse
from model.features.today import Calendar
from model.features.wanted import Wanted
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.prepared.order import in_order
from model.replaying.shown import ShownToday
from model.servicelog.records import Event, Forgotten, Impression
from tests.derived import DAY, OFFSET_MS, ZONE, match
from tests.worlds import FEATURES, HOUR, write_log

Row = dict[str, Any]


def today(name: str, event: str, **options: Any) -> Row:
    return {"name": name, "side": "cross", "kind": "today", "event": event, "width": 4} | options


TODAY = [
    today("shown_today", "impression"),
    match("item_count", "item_id", "count", length=5),
    today("clicks_today", "click"),
    today("likes_today", "like", length=1),
]


def schema(features: list[Row] | None = None, actions: tuple[str, ...] = ("click", "like")) -> Schema:
    history = {"length": 3, "actions": list(actions)}
    return parse({"user_id": "str", "history": history, "feature": [*FEATURES, *(features or TODAY)]})


def prepared(folder: Path, impressions: pl.DataFrame | None = None, behaviours: pl.DataFrame | None = None) -> Prepared:
    write_log(folder)
    for name, frame in (("impressions", impressions), ("behaviours", behaviours)):
        if frame is not None:
            frame.write_parquet(folder / "tables" / f"{name}.parquet")
    encode_tables(folder, schema(), DataSet("log", ZONE))
    return Prepared(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("today"))


def tables(data: Prepared) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Impressions as they are prepared, and behaviours."""
    of = data.folder / "tables"
    shown = in_order(pl.read_parquet(of / "impressions.parquet"), data.schema)
    return shown, pl.read_parquet(of / "behaviours.parquet").unique()


def begun(now: int) -> int:
    return (now + OFFSET_MS) // DAY * DAY - OFFSET_MS


def by_hand(data: Prepared, delay_ms: int = 0) -> list[dict[str, int]]:
    """Of each impression what its user was shown and did on its day before it."""
    shown, done = tables(data)
    whole = []
    for user, now in shown.select("user_id", "timestamp").iter_rows():
        that_day = pl.col("timestamp").is_between(begun(now), now - delay_ms, closed="left") & (
            pl.col("user_id") == user
        )
        acted = done.filter(that_day & (pl.col("object_type") == "item"))["action"]
        whole.append(
            {
                "shown_today": len(shown.filter(that_day)),
                "clicks_today": int((acted == "click").sum()),
                "likes_today": int((acted == "like").sum()),
            }
        )
    return whole


def rows(data: Prepared) -> dict[str, np.ndarray]:
    places, cross = data.schema.places("cross"), data.batch(np.arange(len(data.time)))["cross"][:, 0]
    return {one.name: cross[:, places[one.name].start] for one in data.schema.todays}


def bucket(count: int) -> int:
    return FIRST + math.floor(2 * math.log2(1 + count))


@pytest.mark.parametrize("delay_ms", [0, 2 * HOUR])
def test_they_are_those_that_one_counts_by_hand(data: Prepared, delay_ms: int) -> None:
    made = rows(data if not delay_ms else data.delayed(delay_ms / 1000))
    for at, counts in enumerate(by_hand(data, delay_ms)):
        for name, count in counts.items():
            assert made[name][at] == bucket(min(count, 1) if name == "likes_today" else count), (name, at)
    assert (
        len(set(made["shown_today"])) > 5 and len(set(made["clicks_today"])) > 2 and set(made["likes_today"]) == {2, 4}
    )


def test_serving_counts_as_training_does(data: Prepared) -> None:
    shown, done = tables(data)
    of_user = {user: frame for (user,), frame in done.sort("timestamp").partition_by("user_id", as_dict=True).items()}
    counted = data.today.impressions(np.arange(len(data.time)))
    for at in range(0, len(shown), 5):
        row = shown.row(at, named=True)
        before = (
            of_user[row["user_id"]].filter(pl.col("timestamp") < row["timestamp"]) if row["user_id"] in of_user else []
        )
        behaviours = [Behaviour(*one[1:]) for one in before.iter_rows()] if len(before) else []
        served = data.encoder.encode(
            row["user_id"],
            {},
            behaviours,
            [row["item_id"], "i1"],
            row["timestamp"],
            data.catalog,
            context={"position": row["position"]},
            shown_today=int(counted[at]),
        ).inputs["cross"][0]
        places = [data.schema.places("cross")[one.name].start for one in (*data.schema.todays, *data.schema.matches)]
        np.testing.assert_array_equal(served[0, places], data.batch(np.array([at]))["cross"][0, 0, places])
        np.testing.assert_array_equal(served[1, places[:3]], served[0, places[:3]])


def test_no_row_sees_itself_or_what_comes_later(data: Prepared, tmp_path: Path) -> None:
    """From a moment on everything is otherwise: other labels, twice as many impressions and behaviours."""
    shown, done = tables(data)
    now = int(data.time[len(data.time) * 2 // 3])
    later = pl.col("timestamp") >= now
    more = [
        shown.filter(later).with_columns(label=1 - pl.col("label")),
        shown.filter(later).with_columns(item_id=pl.lit("i2")),
    ]
    planted = done.filter(later).with_columns(object_id=pl.lit("i5"))
    other = prepared(tmp_path, pl.concat([shown.filter(~later), *more]), pl.concat([done, planted]))
    until = int((data.time < now).sum())
    for name, of in rows(data).items():
        np.testing.assert_array_equal(of[:until], rows(other)[name][:until])
    after = rows(other)["shown_today"][until:]
    assert len(after) > len(data.time) - until and after.max() > rows(data)["shown_today"].max()


def test_a_day_begins_anew(data: Prepared) -> None:
    """The log's zone says when, also to a service elsewhere."""
    midnight = begun(1_700_100_000_000)
    clicks = [Behaviour("click", "item", "i1", midnight + minute * 60_000) for minute in range(-3, 3)]
    place = data.schema.places("cross")["clicks_today"].start
    for now, count in ((midnight - 1, 6), (midnight, 3), (midnight + DAY - 1, 3), (midnight + DAY, 0)):
        inputs = data.encoder.encode("u1", {}, clicks, ["i1"], now, data.catalog).inputs
        assert inputs["cross"][0, 0, place] == bucket(count), now
    assert data.encoder.calendar.time_zone == ZONE


def test_what_nobody_could_count_is_unknown_and_none_is_none(data: Prepared) -> None:
    place = data.schema.places("cross")["shown_today"].start
    for shown, row in ((-1, UNKNOWN), (0, FIRST), (1, FIRST + 2), (100, bucket(100)), (10**9, bucket(100))):
        inputs = data.encoder.encode(
            "u1", {}, [], ["i1", "i2"], 1_700_100_000_000, data.catalog, shown_today=shown
        ).inputs
        assert inputs["cross"][0, :, place].tolist() == [row, row]


def test_the_store_is_asked_for_what_is_counted() -> None:
    wanted = Wanted.of(schema())
    assert [newest.most for newest in wanted.behaviours] == [100, 100] and wanted.impressions == 100
    assert {(view.actions, view.most) for view in wanted.apart} == {(("click",), 100), (("like",), 1)}
    assert Wanted.of(schema(TODAY[1:2])).impressions == 0


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/Sao_Paulo", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_a_calendar_finds_the_days_that_polars_finds(zone: str) -> None:
    """Over four years by odd steps, clock changes among them."""
    moments = np.arange(1_500_000_000_000, 1_630_000_000_000, 7_777_777)
    local = pl.Series(moments).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(zone).dt.date()
    calendar = Calendar(zone)
    days = local.cast(pl.Int32).to_numpy()
    begins = {int(day): calendar.begin_ms(int(day)) for day in np.unique(days)}
    expected = np.array([begins[day] for day in days.tolist()])
    np.testing.assert_array_equal(calendar.all_begun_ms(moments), expected)
    assert calendar.begun_ms(int(moments[7])) == expected[7]


def test_an_unknown_time_zone_is_told() -> None:
    with pytest.raises(ValueError, match="time zone 'Mars/Olympus' is not known here"):
        Calendar("Mars/Olympus")


@pytest.mark.parametrize(
    ("feature", "says"),
    [
        ({"name": "t", "side": "cross", "kind": "today", "width": 4}, "'t': event is missing, allowed: an action of"),
        (today("t", "buy"), "event 'buy', allowed: those of [history], click, like, and impression"),
        (today("t", "click", side="user"), "side 'user', a today is of side 'cross'"),
        (today("t", "click", of=["item_id"]), "of = ['item_id'], a today is the user's: no `of`"),
        (today("t", "click", width=0), "a today is embedded: `width` is needed"),
        (today("t", "click", length=1001), "length 1001, at most 1000 allowed"),
        (today("t", "click", length=0), "length 0, allowed: whole number from 1"),
        (today("t", "click", buckets=5), "a today has no vocabulary: no min_count, buckets"),
        (today("t", "click", what="count"), "unknown what; allowed: name, side"),
    ],
)
def test_a_wrong_declaration_is_one_line(feature: Row, says: str) -> None:
    with pytest.raises(SchemaError) as error:
        schema([feature])
    assert says in str(error.value) and "\n" not in str(error.value)


def shown(at: int, stored_us: int, item: str = "i1", of: str = "item") -> Event:
    return Event("impression", "u1", of, item, at, None, None, stored_us - 5, stored_us)


def request(used: int, read_us: int, now: int, replay: bool = False) -> Impression:
    nobody = ("m", "1", None, "fp32", "", None, [], {}, {}, {}, [], [])
    return Impression("r", "u1", now, read_us, replay, *nobody, shown_today=used)


def test_what_must_have_been_counted_is_rebuilt_from_events() -> None:
    events: list[Event | Forgotten] = [shown(n, 1000 + n) for n in (10, 20, 20, 30, 120, 130)]
    events += [shown(25, 1060, "i2"), shown(26, 1061, of="page"), Forgotten("u1", 2000, 2001), shown(140, 2100)]
    events.sort(key=lambda one: one.stored_us)

    def rebuilt(*requests: tuple[Impression, int], keep: int = 100) -> list[int | None]:
        past = ShownToday(events, keep, skew_us=0, retried_us=50)
        return [past.at(one, "item", begun) for one, begun in requests]

    assert rebuilt((request(2, 1021, 40), 0), (request(9, 1059, 40), 0)) == [2, 4], "the first of all is believed"
    assert rebuilt((request(5, 1021, 40), 0), (request(6, 1030, 40), 0), (request(4, 1061, 40), 0)) == [5, 5, 5], (
        "four may be told of by then, so one was before the log: later it counts still"
    )
    assert rebuilt((request(0, 1021, 40), 0), (request(7, 1200, 140), 100)) == [0, 2], "and not of another day"
    assert rebuilt((request(0, 900, 40), 0), (request(3, 2090, 140), 0), (request(1, 2200, 140), 0)) == [0, 1, 1]
    assert rebuilt((request(2, 1200, 25, replay=True), 0)) == [2]
    assert rebuilt((request(3, 1200, 40), 0), keep=3) == [3]
    assert rebuilt((request(2, 1200, 25, replay=True), 0), keep=3) == [None], "a replay of what may be cut"
