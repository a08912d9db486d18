"""Newer counts: put into a bundle beside the catalogue, taken over by a service that runs, told in metrics."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model import catalog as command
from model.bundle.layout import COUNTS, PREVIOUS_COUNTS, BundleError
from model.bundle.reading import Bundle
from model.bundle.swapping import day
from model.datasets.tables import DataSet
from model.features.behaviour import Behaviour
from model.features.counts import Counts, CountsError
from model.features.encode import Encoder
from model.features.schema import Schema, parse
from model.features.table import Table
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from service.models.description import described
from service.scoring.catalog import CATALOGUE, STATISTICS, Watch
from service.scoring.scorer import Scorer
from service.scoring.served import Live, Served
from service.settings import Settings
from service.variants.sharing import sharing
from tests.client import get, post, serving
from tests.derived import published
from tests.processes import wait_until
from tests.worlds import FEATURES, HOUR, make_schema, write_log

DAY = 24 * HOUR
ITEMS = [f"i{n}" for n in range(40)]


def schema(**of_rate: Any) -> Schema:
    derived: list[dict[str, Any]] = [
        {"name": "same_category", "side": "cross", "kind": "match", "of": ["category_id"], "what": "count", "width": 4},
        {"name": "item_rate", "side": "cross", "kind": "statistic", "of": ["item_id"], "what": "rate"} | of_rate,
        {"name": "item_clicks", "side": "cross", "kind": "statistic", "of": ["item_id", "position"], "what": "clicks"},
    ]
    return parse({"user_id": "str", "history": {"length": 5}, "feature": [*FEATURES, *derived]})


def prepared(folder: Path, without_last_days: int, table: Schema | None = None) -> Prepared:
    """The log of worlds.py as it was known so many days before its end."""
    write_log(folder)
    path = folder / "tables" / "impressions.parquet"
    shown = pl.read_parquet(path)
    until = (shown["timestamp"].max() // DAY + 1 - without_last_days) * DAY  # type: ignore[operator]
    shown.filter(pl.col("timestamp") < until).write_parquet(path)
    encode_tables(folder, table or schema(), DataSet("log", "UTC"))
    return Prepared(folder)


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("yesterday"), 1)


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("today"), 0)


@pytest.fixture(scope="module")
def trained(yesterday: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(yesterday, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that counts nothing."""
    data = prepared(tmp_path_factory.mktemp("without"), 1, make_schema())
    return Bundle.open(published(data, tmp_path_factory.mktemp("trained")))


@pytest.fixture
def bundle(trained: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, whose counts may be changed."""
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


def recount(bundle: Path, data: Prepared | Path, *more: str) -> int:
    return command.main(
        ["--bundle", str(bundle), "--statistics", str(data if isinstance(data, Path) else data.folder), *more]
    )


def undo(bundle: Path) -> int:
    return command.main(["--bundle", str(bundle), "--undo", "statistics"])


def put(bundle: Path, content: bytes) -> None:
    """Some program's own swap."""
    (bundle / "beside").write_bytes(content)
    os.replace(bundle / "beside", bundle / COUNTS)


# ---- the command


def test_newer_counts_are_put_in_place_and_those_before_are_kept(
    bundle: Path, today: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    first, newer = ((folder / COUNTS).read_bytes() for folder in (bundle, today.folder))
    assert undo(bundle) == 1 and "nothing to go back to" in capsys.readouterr().err
    assert recount(bundle, today) == 0
    *_, told, kept, line = capsys.readouterr().out.splitlines()
    counts = Bundle.open(bundle).encoder.counts
    assert isinstance(counts, Counts)
    said = json.loads(line)
    assert said["counted_until"] == counts.until_ms == said["days"][-1] and said["values"] == len(counts)
    assert all(day(begin) in told for begin in said["days"]) and kept.endswith("--undo statistics")
    for content, other in ((newer, first), (first, newer), (newer, first)):
        assert (bundle / COUNTS).read_bytes() == content and (bundle / PREVIOUS_COUNTS).read_bytes() == other
        opened = Bundle.open(bundle)
        opened.verify()
        opened.replay_golden(opened.session())  # by the counts of then
        assert undo(bundle) == 0
    assert sorted(path.name for path in (bundle / "catalog").iterdir()) == [
        "items.npy",
        "previous_statistics.npy",
        "statistics.npy",
    ]


def test_older_counts_take_a_place_only_where_that_is_meant(
    bundle: Path, yesterday: Prepared, today: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recount(bundle, today) == 0
    before = (bundle / COUNTS).read_bytes()
    capsys.readouterr()
    assert recount(bundle, yesterday) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "counts until 20" in said and "--older" in said and (bundle / COUNTS).read_bytes() == before
    assert recount(bundle, yesterday.folder / COUNTS, "--older") == 0
    assert (bundle / COUNTS).read_bytes() != before


def test_counts_of_other_statistics_or_that_are_broken_are_one_clear_line(
    bundle: Path, today: Prepared, tmp_path: Path, without: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    before, broken = (bundle / COUNTS).read_bytes(), tmp_path / "broken.npy"
    broken.write_bytes((today.folder / COUNTS).read_bytes()[:-1])
    other = Prepared(prepared(tmp_path / "other", 0, schema(days=3)).folder)
    wrong: list[tuple[Path, Path, str]] = [
        (bundle, other.folder, "made for other statistics than features.toml declares"),
        (bundle, broken, "cut off, or not written by model.prepare"),
        (bundle, bundle / "catalog" / "items.npy", "cut off, or not written by"),
        (bundle, tmp_path / "nothing", "nothing is not there"),
        (without.folder, today.folder, "no statistic and no cooccurrence"),
    ]
    for where, source, says in wrong:
        assert recount(where, source) == 1
        said = capsys.readouterr()
        assert said.out == "" and len(said.err.splitlines()) == 1 and says in said.err, said.err
    assert (bundle / COUNTS).read_bytes() == before and not (bundle / PREVIOUS_COUNTS).exists()
    put(bundle, before[:1000])
    assert recount(bundle, today) == 0 and "replaces counts that are broken" in capsys.readouterr().err
    assert not (bundle / PREVIOUS_COUNTS).exists()
    Bundle.open(bundle).verify()


def test_a_switch_of_the_one_does_not_go_with_the_other(bundle: Path, today: Prepared) -> None:
    for more in (["--statistics", str(today.folder), "--merge"], ["--undo", "statistics", "--older"]):
        with pytest.raises(SystemExit):
            command.main(["--bundle", str(bundle), *more])


def test_days_without_an_order_are_refused(today: Prepared) -> None:
    counts = Counts.open(today.folder / COUNTS, today.schema)
    for begins in ([2.0, 1.0], [1.0, 1.0], [1.0, np.nan]):
        with pytest.raises(CountsError, match="days have no order"):
            Counts.build(begins, np.array([7], np.uint64), np.ones((1, 2)), np.ones((1, 2)))  # type: ignore[arg-type]
    with pytest.raises(CountsError, match="no table of counts"):
        Counts(Table.build(np.array([7], np.uint64), {"shown": np.ones((1, 2))}))
    assert counts.until_ms % DAY == 0


# ---- the watch


def test_the_watch_takes_over_newer_counts_once_and_refuses_broken_ones_once(
    bundle: Path, today: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int | None] = []
    items: list[Any] = []
    live = Live(Served.open(Bundle.open(bundle), Scorer(1), "fp32"), 100)
    watch = Watch(
        live,
        0,
        [(CATALOGUE, items.append), (STATISTICS, lambda counts: seen.append(counts and counts.until_ms))],
    )

    def look() -> list[int | None]:
        seen.clear()
        for _ in range(3):
            watch.look()
        return list(seen)

    first = live.current.counted_until_ms
    assert first is not None and look() == [], "what the bundle was opened with is not new"
    before = live.current
    recount(bundle, today)
    assert look() == [first + DAY] and live.current.counted_until_ms == first + DAY
    assert live.current.bundle.encoder.counts is live.current.encoder.counts
    assert live.current.session is before.session
    assert before.counted_until_ms == first, "who began with the counts before keeps them"
    good = (bundle / COUNTS).read_bytes()
    for broken in (good[:-1], b"", good[:5000] + b"?" + good[5001:]):
        put(bundle, broken)
        assert look() == [None] and caplog.text.count("statistics refused") == 1
        caplog.clear()
    assert live.current.counted_until_ms == first + DAY, "those before go on"
    put(bundle, good)
    assert look() == [first + DAY]
    assert undo(bundle) == 0 and look() == [first]
    assert not items, "the catalogue is as it was"


def test_what_answers_has_the_statistics_of_its_counts_ready(bundle: Path, today: Prepared) -> None:
    live = Live(Served.open(Bundle.open(bundle), Scorer(1), "fp32"), 100)
    request = live.current.bundle.golden()[0]

    def numbers(encoder: Encoder) -> list[Any]:
        what = request["user_id"], request["profile"], [Behaviour(*one) for one in request["behaviours"]]
        now = live.current.counted_until_ms
        assert now is not None
        encoded = encoder.encode(*what, request["candidates"], now, live.current.catalog, context=request["context"])
        return encoded.inputs["cross_numbers"].tolist()  # type: ignore[no-any-return]

    told = []
    for _ in range(2):
        encoder = live.current.encoder
        every = encoder.crosses._without(frozenset()).lookup
        assert encoder._ready is not None and every is not None and every._ready, "no request is to wait for it"
        assert numbers(encoder) == numbers(Bundle.open(bundle).encoder), "which computes them"
        told.append(numbers(encoder))
        recount(bundle, today)
        Watch(live, 0, [(STATISTICS, lambda _: None)]).look()
    assert told[0] != told[1]

    twin = Served.open(Bundle.open(Path(shutil.copytree(bundle, bundle.parent / "twin"))), Scorer(1), "fp32")
    shared = sharing(twin, live.current)
    assert shared.encoder._ready is live.current.encoder._ready and numbers(shared.encoder) == told[1]


def test_a_model_without_statistics_has_no_counts_to_look_for(without: Bundle) -> None:
    live = Live(Served.open(without, Scorer(1), "fp32"), 100)
    seen: list[Any] = []
    Watch(live, 0, [(STATISTICS, seen.append)]).look()
    assert not seen and live.current.counted_until_ms is None
    assert described(live.current, Settings(), []).statistics is None


def test_counts_cut_in_place_stop_a_worker_from_starting(bundle: Path) -> None:
    good = (bundle / COUNTS).read_bytes()
    put(bundle, good[:5000] + b"?" + good[5001:])
    with pytest.raises(BundleError, match="its own end says"):
        Bundle.open(bundle).verify_swapped()


# ---- what is told


def test_the_model_is_told_with_its_counts_and_the_shares_of_its_report(bundle: Path, yesterday: Prepared) -> None:
    served = Served.open(Bundle.open(bundle), Scorer(1), "fp32")
    told = described(served, Settings(), []).as_json()
    counts = served.encoder.counts
    assert isinstance(counts, Counts)
    assert told["statistics"] == {
        "values": len(counts),
        "counted_until": counts.until_ms,
        "days": [int(begin) for begin in counts.begins],
    }
    features = {feature["name"]: feature for feature in told["features"]}
    of_test = yesterday.meta["summary"]["splits"]["test"]
    assert features["age"]["missing"] == of_test["missing"]["age"] > 0
    assert features["item_id"]["unknown"] == of_test["unknown"]["item_id"]
    assert features["item_rate"]["what"] == "rate" and features["item_rate"]["missing"] is None
    (bundle / "report.json").write_text("{}")
    assert Bundle.open(bundle).shares() == {}


def test_values_are_known_unknown_or_missing(yesterday: Prepared) -> None:
    encoder = yesterday.encoder
    items: list[Any] = ["i1", "stranger", {"item_id": "i2", "category_id": "new"}, {"item_id": "i3", "price": None}]
    items.append({"item_id": "i4", "position": 99})
    profile = {"interests": '["a", "b"]', "income": "7"}
    encoded = encoder.encode("u1", profile, [], items, 1_800_000_000_000, yesterday.catalog)
    states = dict(zip(encoder.stated, encoder.states(encoded).tolist(), strict=True))
    missing_prices = 2 + sum(
        int(np.isnan(encoded.columns["price"][at])) for at in (0, 2, 4)
    )  # the stranger's, the one taken away, and the log's own
    assert states["age"] == [0, 0, 1] and states["income"] == [1, 0, 0] and states["interests"] == [1, 0, 0]
    assert states["item_id"] == [4, 1, 0] and states["position"] == [4, 1, 0]
    assert states["price"] == [5 - missing_prices, 0, missing_prices]
    assert states["category_id"][1] == 1 and states["category_id"][2] >= 1 and sum(states["category_id"]) == 5
    nobody = encoder.encode("u1", {"age": "999"}, [], ["i1"], 1_800_000_000_000, yesterday.catalog)
    states = dict(zip(encoder.stated, encoder.states(nobody).tolist(), strict=True))
    assert states["age"] == [0, 1, 0] and states["interests"] == [0, 0, 1] and states["position"] == [1, 0, 0]


def test_the_report_tells_which_values_are_missing_and_which_training_did_not_know(yesterday: Prepared) -> None:
    splits = yesterday.meta["summary"]["splits"]
    users = pl.read_parquet(yesterday.folder / "tables" / "users.parquet")
    without = set(users.filter(pl.col("age").is_null())["user_id"]) | {"u28", "u29"}
    names = pl.read_parquet(yesterday.folder / "encoded" / "users.parquet")["user_id"].to_list()
    for name in ("train", "validation", "test"):
        rows = yesterday.of_split(name)
        share = np.mean([names[user] in without for user in np.asarray(yesterday.user)[rows]])
        assert splits[name]["missing"]["age"] == pytest.approx(share)
        assert splits[name]["missing"]["item_id"] == 0
    assert splits["test"]["unknown"]["age"] == 0, "a missing value is no unknown one"


# ---- the running service


def test_a_running_service_takes_over_newer_counts_and_no_answer_mixes_two(bundle: Path, today: Prepared) -> None:
    def expected() -> dict[str, float]:
        opened = Bundle.open(bundle)
        encoded = opened.encoder.encode("nobody", {}, [], ITEMS, 1_900_000_000_000, opened.catalog)
        return dict(zip(ITEMS, opened.score(opened.session(), encoded.inputs)[0].tolist(), strict=True))

    before = expected()
    assert recount(bundle, today) == 0
    after = expected()
    assert undo(bundle) == 0
    told_apart = np.array([before[item] - after[item] for item in ITEMS])
    assert (np.abs(told_apart) > 1e-4).sum() > 20, "told apart by scores"

    def same(one: dict[str, float], other: dict[str, float]) -> bool:
        return all(abs(one[item] - other[item]) < 1e-5 for item in ITEMS)

    with serving(bundle=str(bundle), workers="2", catalog_poll_s="0.02", history_timeout_ms="5000") as service:
        service.all_answer(2)

        def ask() -> str:
            answer = post(f"{service.url}/rank", {"user_id": "nobody", "candidates": ITEMS})
            scores = {item["item_id"]: item["score"] for item in answer["items"]}
            of = [name for name, those in (("before", before), ("after", after)) if same(scores, those)]
            assert len(of) == 1, "an answer by no single table of counts"
            return of[0]

        def metric(name: str) -> float:
            lines = [line for line in get(f"{service.url}/metrics").splitlines() if line.startswith(f"{name} ")]
            return float(lines[0].split()[-1]) if lines else -1

        def reloads(outcome: str) -> Callable[[], float]:
            return lambda: metric(f'ranker_statistics_reloads_total{{outcome="{outcome}"}}')

        until_s = metric("ranker_statistics_until_timestamp_seconds")
        done: list[bool] = []

        def caller() -> set[str]:
            seen = set()
            while not done:
                seen.add(ask())
            return seen

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(caller) for _ in range(4)]
            try:
                for number in range(1, 5):
                    assert (recount(bundle, today) if number % 2 else undo(bundle)) == 0
                    wait_until(lambda n=number: reloads("ok")() == 2 * n, service)  # type: ignore[misc]
            finally:
                done.append(True)
        assert set.union(*(each.result() for each in asked)) == {"before", "after"}
        assert {ask() for _ in range(6)} == {"before"}

        put(bundle, (bundle / COUNTS).read_bytes()[:-1])
        wait_until(lambda: reloads("refused")() == 2, service)
        assert {ask() for _ in range(6)} == {"before"} and service.output.count("statistics refused") == 1
        assert metric("ranker_statistics_until_timestamp_seconds") == until_s
        assert json.loads(get(f"{service.url}/model"))["statistics"]["counted_until"] == 1000 * until_s
        put(bundle, (bundle / PREVIOUS_COUNTS).read_bytes())
        wait_until(lambda: reloads("ok")() == 10, service)
        assert metric("ranker_statistics_until_timestamp_seconds") == until_s + DAY / 1000
        values = [line for line in get(f"{service.url}/metrics").splitlines() if "ranker_feature_values_total{" in line]
        assert any('feature="age"' in line and 'state="missing"' in line and line[-2:] != " 0" for line in values)
        assert "Traceback" not in service.output
