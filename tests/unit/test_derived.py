"""Matches and statistics: as one counts them by hand, the same in training and serving, and blind to the future."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model import networks
from model.datasets.tables import DataSet
from model.features.behaviour import Behaviour
from model.features.counts import Counts, CountsError
from model.features.derived import Match
from model.features.ids import FIRST, UNKNOWN, key
from model.features.kinds import SchemaError
from model.features.matches import Codes, along, by_keys
from model.features.schema import Schema, parse
from model.features.timeposition import time_positions
from model.features.wanted import Wanted
from model.networks.blocks import HIGHEST, start
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.prepared.order import in_order
from model.prepared.paired import Pairs, Sums
from tests.derived import DAY, DERIVED, OFFSET_MS, ZONE, match, statistic
from tests.worlds import FEATURES, HOUR, write_log


def schema(derived: list[dict[str, Any]] | None = None, **history: Any) -> Schema:
    of_history = {"length": 3, "actions": ["click", "like"]} | history
    return parse({"user_id": "str", "history": of_history, "feature": [*FEATURES, *(derived or DERIVED)]})


def prepared(folder: Path, impressions: pl.DataFrame | None = None) -> Prepared:
    write_log(folder)
    if impressions is not None:
        impressions.write_parquet(folder / "tables" / "impressions.parquet")
    encode_tables(folder, schema(), DataSet("log", ZONE, 0))
    return Prepared(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("derived"))


@pytest.fixture(scope="module")
def log(data: Prepared) -> list[dict[str, Any]]:
    """The impressions as they are prepared, with item and user features and what their user did before."""
    tables = data.folder / "tables"
    items = {row["item_id"]: row for row in pl.read_parquet(tables / "items.parquet").iter_rows(named=True)}
    users = {row["user_id"]: row for row in pl.read_parquet(tables / "users.parquet").iter_rows(named=True)}
    done: dict[str, list[Behaviour]] = defaultdict(list)
    for user, *rest in pl.read_parquet(tables / "behaviours.parquet").unique(maintain_order=True).iter_rows():
        done[user].append(Behaviour(*rest))
    rows = []
    for row in in_order(pl.read_parquet(tables / "impressions.parquet"), data.schema).iter_rows(named=True):
        of_item = items.get(row["item_id"], {"category_id": None})
        of_user = users.get(row["user_id"], {"age": None, "income": None, "interests": None})
        before = [b for b in done[row["user_id"]] if b.timestamp < row["timestamp"]]
        day = (row["timestamp"] + OFFSET_MS) // DAY
        clicked_categories = {b: items.get(b.object_id, {"category_id": None})["category_id"] for b in before}
        rows.append(of_user | of_item | row | {"day": day, "before": before, "categories": clicked_categories})
    return rows


Moves = tuple[Counter[frozenset[str | None]], Counter[str | None]]  # between two values; to or from one


def before(data: Prepared, day: int) -> Moves:
    """How often users moved between two categories until the end of the day before, and how often to or from one."""
    tables = data.folder / "tables"
    category = dict(pl.read_parquet(tables / "items.parquet").select("item_id", "category_id").iter_rows())
    done: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    actions, found = data.schema.history.actions, {}
    for user, action, kind, item, time in pl.read_parquet(tables / "behaviours.parquet").unique().iter_rows():
        if kind == "item" and action in actions:
            done[user].append((time, key(item, "str"), actions.index(action)))
            found[key(item, "str")] = category.get(item)
    pairs, alone = Counter[frozenset[str | None]](), Counter[str | None]()
    for of_user in map(sorted, done.values()):
        for (_, one, _), (time, other, _) in zip(of_user, of_user[1:], strict=False):
            pair = frozenset({found[one], found[other]})
            if (time + OFFSET_MS) // DAY < day and None not in pair and len(pair) == 2:
                pairs[pair] += 1
                alone.update(pair)
    return pairs, alone


def strength_by_hand(own: str, values: list[str | None], moves: Moves) -> float:
    pairs, alone = moves
    of_each = [
        pairs[frozenset({own, value})] / (math.sqrt(alone[own] * alone[value]) + 10) for value in values if value
    ]
    return max(of_each, default=0.0)


def by_hand(feature: Match, row: dict[str, Any], data: Prepared, until: Callable[[int], Moves]) -> int:
    """A match's row in its table, counted behaviour by behaviour."""
    whole = data.schema
    actions, length = whole.view(feature)
    seen = [b for b in row["before"] if b.object_type == "item" and b.action in actions]
    seen.sort(key=lambda b: (b.timestamp, key(b.object_id, "str"), whole.history.actions.index(b.action)))
    seen = seen[-length:]
    own = row[feature.of[0]]
    values = [b.object_id if feature.of[0] == "item_id" else row["categories"][b] for b in seen]
    if own is None:
        return UNKNOWN
    if feature.what == "cooccurrence":
        strength = strength_by_hand(own, values, until(row["day"]))
        return FIRST + int(strength > 0) + sum(strength >= 2 ** (-n / 2) for n in range(1, 19))
    places = [at for at, value in enumerate(values) if value == own]
    if feature.what == "count":
        return FIRST + math.floor(2 * math.log2(1 + len(places)))
    if feature.what == "last":
        return FIRST + int(bool(places) and places[-1] == len(seen) - 1)
    if feature.what == "share":
        return FIRST + math.ceil(16 * len(places) / max(1, len(seen)))
    if not places:
        return FIRST
    at, now = np.array([[seen[places[-1]].timestamp]]), np.array([row["timestamp"]])
    return FIRST + int(time_positions(at, now)[0, 0])


def test_matches_are_those_that_one_counts_by_hand(data: Prepared, log: list[dict[str, Any]]) -> None:
    chosen = np.arange(0, len(log), 3)
    made, places = data.batch(chosen)["cross"][:, 0], data.schema.places("cross")
    seen, until = defaultdict(set), cache(partial(before, data))
    for at, row in zip(chosen, made, strict=True):
        for feature in data.schema.matches:
            expected = by_hand(feature, log[at], data, until)
            assert row[places[feature.name].start] == expected, (feature.name, at)
            seen[feature.name].add(expected)
    assert seen["category_last"] == {UNKNOWN, FIRST, FIRST + 1} and len(seen["category_age"]) > 5
    assert seen["category_share"] >= {UNKNOWN, FIRST, FIRST + 16} and len(seen["category_share"]) > 5
    assert seen["category_goes_with"] >= {UNKNOWN, FIRST} and len(seen["category_goes_with"]) > 6
    assert len(seen["category_count"]) > 2 and UNKNOWN not in seen["item_age"]


def expected_statistic(name: str, row: dict[str, Any], log: list[dict[str, Any]]) -> float:
    feature = next(f for f in schema().statistics if f.name == name)
    values = [row[part] for part in feature.of]
    n = c = n_all = c_all = 0.0
    for other in log:
        back = row["day"] - other["day"]
        if back < 1 or (feature.days and back > feature.days):
            continue
        weight = 0.5 ** ((back - 1) / feature.half_life_days) if feature.half_life_days else 1.0
        n_all, c_all = n_all + weight, c_all + weight * other["label"]
        if None not in values and [other[part] for part in feature.of] == values:
            n, c = n + weight, c + weight * other["label"]
    if feature.what != "rate":
        return math.log1p(n if feature.what == "count" else c)
    p = (c_all + 1) / (n_all + 2)
    q = (c + feature.smoothing * p) / (n + feature.smoothing)
    return math.log(q / (1 - q)) - math.log(p / (1 - p))


def test_statistics_are_those_of_the_days_before(data: Prepared, log: list[dict[str, Any]]) -> None:
    made = data.batch(np.arange(len(log)))["cross_numbers"][:, 0]
    for at, feature in enumerate(data.schema.statistics):
        mean, deviation = data.encoder.statistics.numbers[feature.name]
        chosen = list(range(0, len(log), 31))
        raw = [expected_statistic(feature.name, log[row], log) for row in chosen]
        np.testing.assert_allclose(made[chosen, at], (np.array(raw) - mean) / deviation, atol=2e-6)
        train = made[data.of_split("train"), at]
        assert abs(train.mean()) < 1e-5 and abs(train.std() - 1) < 1e-4


def test_training_and_serving_find_and_count_alike(data: Prepared, log: list[dict[str, Any]]) -> None:
    for at in range(0, len(log), 3):
        row = log[at]
        profile = {"age": str(row["age"])} if row["age"] is not None else {}
        context = {"position": row["position"]}
        served = data.encoder.encode(
            row["user_id"], profile, row["before"], [row["item_id"]], row["timestamp"], data.catalog, context=context
        ).inputs
        trained = data.batch(np.array([at]))
        np.testing.assert_array_equal(served["cross"], trained["cross"])
        assert served["cross_numbers"].dtype == trained["cross_numbers"].dtype
        np.testing.assert_array_equal(served["cross_numbers"], trained["cross_numbers"])
        slots = served["gap"].shape[1]
        np.testing.assert_array_equal(served["history"], trained["history"][:, :slots])


def test_the_rows_of_a_share_start_in_their_order_and_so_they_do_anew(data: Prepared) -> None:
    tables = networks.build("bst", data.schema, data.rows, {"mlp": [4]}).embed.other
    long = {name: table.weight[FIRST:, 0] for name, table in tables.items() if len(table.weight) > 10}
    rising = {name for name, first in long.items() if (first.diff() > 0).all()}
    assert rising == {"category_share"} < set(long), "other tables start at random"
    table = tables["category_share"]
    start(table)
    first, others = table.weight[:, 0].tolist(), table.weight[FIRST:, 1:]
    assert first[:FIRST] == [0, 0] and first == sorted(first) and first[-1] == HIGHEST
    assert (others != 0).all()


def test_cooccurrences_alone_are_counted_too(tmp_path: Path) -> None:
    """A data set without any statistic; of items, which users who did little meet but once."""
    write_log(tmp_path)
    encode_tables(tmp_path, schema([match("goes_with", "item_id", "cooccurrence", length=2)]), DataSet("log", ZONE, 0))
    data = Prepared(tmp_path)
    assert isinstance(data.encoder.counts, Counts) and "cross_numbers" not in data.batch(np.arange(3))
    found = data.matches(np.arange(len(data.time)))["goes_with"]
    assert (found[data.time < data.time.min() + DAY // 2] == FIRST).all() and len(set(found.tolist())) > 2


def test_counts_of_a_log_in_which_nothing_was_counted_yet_are_its_files(tmp_path: Path) -> None:
    """Of users who did one thing each: no pair, and still a file that a swap goes on from."""
    write_log(tmp_path)
    path = tmp_path / "tables" / "behaviours.parquet"
    once = pl.col("object_type") == "item", pl.col("user_id").is_first_distinct()
    pl.read_parquet(path).filter(once[0]).filter(once[1]).write_parquet(path)
    encode_tables(tmp_path, schema([match("goes_with", "item_id", "cooccurrence", length=2)]), DataSet("log", ZONE, 0))
    data = Prepared(tmp_path)
    counts = data.encoder.counts
    assert isinstance(counts, Counts) and len(counts) == 0 and counts.sha256 and counts.stamp
    assert set(data.matches(np.arange(len(data.time)))["goes_with"].tolist()) == {FIRST}


def test_values_that_are_in_more_pairs_than_a_whole_number_squared_holds_go_with_each_other() -> None:
    many, code, day = 1 << 32, np.arange(2), np.array([1, 1])
    together = Sums.of(code[1:], day[1:], np.array([many]), 2)
    pairs = Pairs(2, together, Sums.of(code, day, np.array([many, many]), 2))
    assert pairs.strengths(code, code[::-1], np.array([1, 2])).tolist() == [0, pytest.approx(1)]


def test_matches_see_no_more_of_a_delayed_history_than_a_network_does(data: Prepared) -> None:
    rows, place = np.arange(len(data.time)), data.schema.places("cross")["item_count"].start
    now = data.batch(rows)["cross"][:, 0, place]
    delayed = data.delayed(12 * HOUR / 1000).batch(rows)["cross"][:, 0, place]
    assert (delayed <= now).all() and (delayed < now).sum() > 50
    np.testing.assert_array_equal(data.delayed(0).batch(rows)["cross"][:, 0, place], now)


def test_candidates_of_one_request_are_as_alone(data: Prepared, log: list[dict[str, Any]]) -> None:
    row = log[-1]
    items = [f"i{n}" for n in range(40)] + ["stranger", {"item_id": "i1", "category_id": "c5", "position": 3}]
    arguments = (row["timestamp"], data.catalog)
    together = data.encoder.encode("u1", {"age": "21"}, row["before"], items, *arguments).inputs
    for at, item in enumerate(items):
        alone = data.encoder.encode("u1", {"age": "21"}, row["before"], [item], *arguments).inputs
        for name in ("cross", "cross_numbers"):
            np.testing.assert_array_equal(together[name][:, at : at + 1], alone[name])


def test_no_row_sees_its_own_day_or_a_later_one(data: Prepared, tmp_path: Path) -> None:
    """Labels of a day and of all after it are turned round: no statistic of that day or before it changes."""
    shown = pl.read_parquet(data.folder / "tables" / "impressions.parquet")
    for back in (0, 2):
        days = ((shown["timestamp"] + OFFSET_MS) // DAY).to_numpy()
        future = days >= days.max() - back
        turned = shown.with_columns(pl.Series("label", np.where(future, 1 - shown["label"].to_numpy(), shown["label"])))
        other = prepared(tmp_path / str(back), turned)
        rows = {}
        for name, of in (("before", data), ("after", other)):
            fitted = np.array([of.encoder.statistics.numbers[f.name] for f in of.schema.statistics])
            raw = of.arrays["cross_numbers"] * fitted[:, 1] + fitted[:, 0]
            frame = pl.DataFrame({"user": of.user, "item": of.item, "time": of.time})
            frame = frame.with_columns(pl.Series(f"s{n}", column) for n, column in enumerate(raw.T))
            rows[name] = frame.sort(frame.columns)
        until = (days.max() - back + 1) * DAY - OFFSET_MS
        seen = [frame.filter(pl.col("time") < until).to_numpy() for frame in rows.values()]
        np.testing.assert_allclose(*seen, atol=1e-5)
        if back:
            later = [frame.filter(pl.col("time") >= until).to_numpy() for frame in rows.values()]
            assert np.abs(later[0] - later[1]).max() > 0.1, "what comes later is told"


def test_no_row_sees_what_users_did_on_its_day_or_later(data: Prepared, tmp_path: Path) -> None:
    """Whatever others do on the last day, what goes with what until then stays, in training and in serving."""
    write_log(tmp_path)
    done = pl.read_parquet(tmp_path / "tables" / "behaviours.parquet")
    begin = (int(data.time.max()) + OFFSET_MS) // DAY * DAY - OFFSET_MS
    planted = [
        (f"v{user}", "click", "item", f"i{item}", begin + HOUR + item)
        for user in range(30)
        for item in np.random.default_rng(user).permutation(40).tolist()
    ]
    more = pl.concat([done, pl.DataFrame(planted, done.schema, orient="row")])
    more.write_parquet(tmp_path / "tables" / "behaviours.parquet")
    encode_tables(tmp_path, schema(), DataSet("log", ZONE, 0))
    other, place = Prepared(tmp_path), data.schema.places("cross")["category_goes_with"].start
    rows = np.arange(len(data.time))
    goes_with = [of.batch(rows)["cross"][:, 0, place] for of in (data, other)]
    assert len(set(goes_with[0][data.time >= begin])) > 3
    np.testing.assert_array_equal(*goes_with)
    seen = [Behaviour("click", "item", f"i{n}", begin - n) for n in range(1, 5)]
    items = [f"i{n}" for n in range(40)]
    for now, alike in ((begin, True), (begin + DAY - 1, True), (begin + DAY, False)):
        served = [
            of.encoder.encode("u1", {}, seen, items, now, of.catalog).inputs["cross"][..., place]
            for of in (data, other)
        ]
        assert (served[0] == served[1]).all() == alike


def test_a_day_takes_the_counts_that_were_known_when_it_began(data: Prepared) -> None:
    counts = data.encoder.counts
    assert isinstance(counts, Counts) and len(counts.begins) == 6  # of the log's days all but the first; the day after
    assert [(int(begin) + OFFSET_MS) % DAY for begin in counts.begins] == [0] * 6
    first, last = int(counts.begins[0]), int(counts.begins[-1])

    def rates(now: int) -> list[float]:
        inputs = data.encoder.encode("u1", {"age": "21"}, [], ["i1", "i2"], now, data.catalog).inputs
        return [float(value) for value in inputs["cross_numbers"].reshape(-1)]

    assert rates(first) == rates(first + DAY - 1) != rates(first + DAY) and rates(last) == rates(last + 99 * DAY)
    nothing = [(0 - mean) / deviation for mean, deviation in data.encoder.statistics.numbers.values() if deviation]
    assert len(set(rates(first - 1))) <= len(nothing), "before all days nothing is known, of any item"


def test_what_was_done_rarely_is_found_behind_all_that_was_done_often(data: Prepared) -> None:
    """A match of one action looks at the newest of it, however many of the others came since."""
    now = int(data.encoder.counts.begins[-1])  # type: ignore[attr-defined]
    places = data.schema.places("cross")
    clicks = [Behaviour("click", "item", "i2", now - 1000 * (n + 1)) for n in range(300)]
    likes = [Behaviour("like", "item", "i1", now - 1_000_000 * n) for n in range(1, 9)]
    rows = []
    for behaviours in ([*likes, *clicks], likes):
        inputs = data.encoder.encode("u1", {}, behaviours, ["i1", "i3"], now, data.catalog).inputs
        rows.append(inputs["cross"][0, :, places["category_age"].start].tolist())
        assert inputs["gap"].shape[1] == data.schema.history.length
    assert rows[0] == rows[1] and rows[0][0] > FIRST


@pytest.mark.parametrize(
    ("zone", "begins"),
    [("UTC", "2018-11-04T00:00Z"), ("America/Sao_Paulo", "2018-11-04T03:00Z"), ("Asia/Shanghai", "2018-11-03T16:00Z")],
)
def test_a_day_begins_where_its_zone_says_also_where_it_has_no_midnight(tmp_path: Path, zone: str, begins: str) -> None:
    """On 4 November 2018 clocks in Sao Paulo went from 23:59 to 1:00."""
    write_log(tmp_path)
    path = tmp_path / "tables" / "impressions.parquet"
    shown = pl.read_parquet(path)
    first = datetime.fromisoformat(begins)
    moved = int(first.timestamp() * 1000) - 2 * DAY - shown["timestamp"].min()  # type: ignore[operator]
    shown.with_columns(pl.col("timestamp") + moved).write_parquet(path)
    encode_tables(tmp_path, schema(), DataSet("log", zone))
    counts = Prepared(tmp_path).encoder.counts
    assert isinstance(counts, Counts) and first.timestamp() * 1000 in counts.begins.tolist()


def test_both_ways_of_finding_agree() -> None:
    """Also of several features at once, which have the same values: none is found among another's."""
    draw = np.random.default_rng(3)
    for length, values in ((0, 40), (1, 40), (2, 3), (40, 40), (100, 10_000), (1000, 40), (1000, 5_000)):
        of_features = draw.integers(0, values, (3, length)), draw.integers(0, values, (3, 500))
        found = by_keys(*(values.view(np.uint64) for values in of_features))
        numbered = (1 + values + 20_000 * np.arange(3)[:, None] for values in of_features)
        for one, other in zip(found, Codes(60_001).found(*numbered), strict=True):
            np.testing.assert_array_equal(one, other)
        counts = np.append([0, 0], found.how_many)[found.newest]
        newest = np.append([-1, -1], np.tile(np.arange(length), 3))[found.newest]
        for seen, own, count, place in zip(*of_features, counts, newest, strict=True):
            visible = np.ones((500, length), bool)
            for one, other in zip((count, place), along(own, np.tile(seen, (500, 1)), visible), strict=True):
                np.testing.assert_array_equal(one, other)
            for at_ in range(0, 500, 50):
                places = np.flatnonzero(seen == own[at_])
                assert count[at_] == len(places) and place[at_] == (places[-1] if len(places) else -1)


def test_the_store_is_asked_for_what_matches_look_at() -> None:
    assert [newest.most for newest in Wanted.of(schema()).behaviours] == [50, 50]
    assert Wanted.of(schema(DERIVED[3:4], length=4)).longest == 4


def test_counts_that_are_cut_off_or_of_another_table_are_refused(data: Prepared, tmp_path: Path) -> None:
    path = data.folder / "catalog" / "statistics.npy"
    whole, copy = path.read_bytes(), tmp_path / "statistics.npy"
    copy.write_bytes(whole)
    Counts.verify(copy)
    other = schema([statistic("item_rate", ["item_id"], "rate", days=3)])
    with pytest.raises(CountsError, match="made for other statistics than features.toml declares"):
        Counts.open(copy, other)
    copy.write_bytes(whole[:-1])
    for refused in (lambda: Counts.verify(copy), lambda: Counts.open(copy, data.schema)):
        with pytest.raises(CountsError, match="cut off, or not written by model.prepare"):
            refused()
    copy.write_bytes(whole[:5000] + b"x" + whole[5001:])
    with pytest.raises(CountsError, match="its own end says"):
        Counts.verify(copy)


@pytest.mark.parametrize(
    ("feature", "says"),
    [
        (match("m", "item_id", "sum"), "what 'sum', allowed: count, age, last, share, cooccurrence"),
        (match("m", "age", "count"), "`of` names 'age', allowed: features of kind id, category and side item"),
        (match("m", "price", "count"), "`of` names 'price', allowed: features of kind"),
        (match("m", "item_id", "count") | {"of": ["item_id", "category_id"]}, "one item feature is allowed"),
        (match("m", "item_id", "count", width=0), "a match is embedded: `width` is needed"),
        (match("m", "item_id", "count", length=1001), "length 1001, at most 1000 allowed"),
        (match("m", "item_id", "cooccurrence"), "length 100, at most 50 allowed of a cooccurrence"),
        (match("m", "item_id", "count", actions=["buy"]), "action 'buy', allowed: those of [history], click, like"),
        (match("m", "item_id", "count", actions=["like", "like"]), "actions ['like', 'like'], allowed: each once"),
        (match("m", "item_id", "count") | {"side": "item"}, "side 'item', a match is of side 'cross'"),
        (match("m", "item_id", "count", buckets=7), "a match has no vocabulary: no min_count, buckets"),
        (match("m", "item_id", "count", days=7), "unknown days; allowed: name, side"),
        ({"name": "m", "side": "cross", "kind": "match", "of": ["item_id"]}, "what is missing, allowed: count, age"),
        (statistic("s", ["item_id"], "ctr"), "what 'ctr', allowed: rate, count, clicks"),
        (statistic("s", ["item_id"], "rate", width=4), "a statistic enters the network as a number: no `width`"),
        (statistic("s", ["item_id"], "rate", days=0), "days 0, allowed: whole number from 1"),
        (statistic("s", ["item_id"], "rate", days=1, half_life_days=1), "days or half_life_days, not both"),
        (statistic("s", ["item_id"], "rate", smoothing=0.0), "smoothing 0.0, allowed: number above 0"),
        (statistic("s", ["income"], "rate"), "`of` names 'income', allowed: features of kind id, category"),
        (statistic("s", ["interests"], "rate"), "`of` names 'interests', allowed"),
    ],
)
def test_a_wrong_declaration_is_one_line(feature: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaError) as error:
        schema([feature])
    assert says in str(error.value) and "\n" not in str(error.value)
