"""Counters of the day before a real store: moved by feedback, used by the very next ranking, journalled as used."""

import asyncio
import contextlib
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from model import replay
from model.bundle.reading import Bundle
from model.datasets.tables import AS_USED, DataSet, Options
from model.features.behaviour import Behaviour
from model.features.schema import parse
from model.features.wanted import Newest, Wanted
from model.graph.publish import publish
from model.prepare import prepare
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.servicelog.records import Impression
from model.training.run import Run
from service import drain
from service.journal.framing import Reader
from service.journal.lines import record
from service.store import clients
from service.store.format import SHOWN_MS, history_key, shown_key
from service.store.history import Asked, Stored, Write
from service.store.redis import RedisHistory
from tests.client import client_of, run
from tests.stores import Proxy
from tests.worlds import FEATURES, SMALL, write_log

HOUR, DAY = 3_600_000, 86_400_000
NOW = time.time_ns() // 1_000_000
ZONE = f"Etc/GMT{NOW // HOUR % 24 - 12:+d}"  # where it is noon: no midnight comes while the tests run
ITEMS = [f"i{n}" for n in range(12)]
TODAY: list[dict[str, Any]] = [
    {"name": f"{event}s_today", "side": "cross", "kind": "today", "event": event, "width": 4}
    for event in ("impression", "click")
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("today")
    write_log(folder)
    table = parse({"user_id": "str", "history": {"length": 3}, "feature": [*FEATURES, *TODAY]})
    encode_tables(folder, table, DataSet("log", ZONE))
    return Prepared(folder)


@pytest.fixture(scope="module")
def bundle(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = Run(data, "wdl", SMALL, 1, tmp_path_factory.mktemp("run") / "checkpoint.pt")
    made.fit()
    return Bundle.open(publish(made, tmp_path_factory.mktemp("bundles"), boosting=False, explain=False).bundle)


def event(name: str, user: str, item: str, later_ms: int, **more: Any) -> dict[str, Any]:
    return {"event": name, "user_id": user, "item_id": item, "timestamp": NOW + later_ms, **more}


def journalled(folder: Path) -> list[Impression]:
    records = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            records += [record(line) for block in Reader(file) for line in block]
    return [one for one in records if isinstance(one, Impression)]


def scores(answer: httpx.Response) -> dict[str, float]:
    return {item["item_id"]: item["score"] for item in answer.json()["items"]}


def test_feedback_moves_the_counters_and_the_very_next_ranking_uses_them(
    bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    used: list[tuple[int, int, dict[str, float]]] = []  # impressions, clicks, scores

    async def scenario() -> None:
        async with (
            client_of(bundle, valkey_url, journal=tmp_path) as one,
            client_of(bundle, valkey_url, journal=tmp_path) as other,
        ):

            async def ranked(shown: int, clicks: int) -> None:
                for client in (one, other):
                    answer = await client.post("/rank", json={"user_id": "u1", "candidates": ITEMS})
                    assert not answer.json()["degraded"]
                    used.append((shown, clicks, scores(answer)))

            await ranked(0, 0)
            for number in range(1, 6):
                seen = [event("impression", "u1", ITEMS[n], number) for n in range(number)]
                for _ in range(2):  # sent again it counts once
                    assert (await one.post("/feedback", json=seen)).json()["accepted"] == number
                await ranked(number * (number + 1) // 2, 0)
            yesterday = [event("impression", "u1", "i1", -DAY), event("click", "u1", "i1", -DAY)]
            await one.post("/feedback", json=[*yesterday, event("click", "u1", "i2", 7)])
            await ranked(15, 1)

    run(scenario())
    records = sorted(journalled(tmp_path), key=lambda one: one.read_us)
    assert [one.shown_today for one in records] == [shown for shown, _, _ in used]
    assert len({tuple(sorted(of.items())) for *_, of in used}) > 3, "scores move with the counters"
    session = bundle.session()
    for one, (_, clicks, served) in zip(records, used, strict=True):
        encoded = bundle.encoder.encode(
            "u1", {}, one.behaviours, ITEMS, one.now, bundle.catalog, shown_today=one.shown_today
        )
        row = dict(zip(ITEMS, bundle.score(session, encoded.inputs)[0].tolist(), strict=True))
        assert served == pytest.approx(row, abs=1e-6)
        place = bundle.schema.places("cross")["clicks_today"].start
        assert encoded.inputs["cross"][0, 0, place] == 2 + 2 * clicks


def test_what_was_counted_is_shown_and_forgotten_and_others_are_not_asked_for_it(
    bundle: Bundle, small_bundle: Bundle, valkey_url: str
) -> None:
    async def scenario() -> None:
        async with client_of(bundle, valkey_url) as client:
            assert (await client.post("/feedback", json=event("impression", "u1", "i3", 1))).status_code == 200
            assert (await client.get("/users/u1")).json()["shown"] == [["i3", NOW + 1]]
            assert (await client.delete("/users/u1")).status_code == 200
            assert (await client.get("/users/u1")).status_code == 404
        async with client_of(small_bundle, valkey_url) as client:
            assert (await client.post("/feedback", json=event("impression", "u1", "i3", 1))).status_code == 200

    run(scenario())
    with clients.opened_sync(valkey_url, 1) as admin:
        assert not admin.keys("*"), "what no model counts is not kept"


def test_a_challenger_that_counts_is_told_of_what_is_shown(
    bundle: Bundle, small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    plan = tmp_path / "experiments.toml"
    plan.write_text(
        'salt = "s"\nstart = 2020-01-01T00:00:00Z\n[[variants]]\nname = "control"\nshare = 0.5\n'
        f'[[variants]]\nname = "counts"\nshare = 0.5\nbundle = "{bundle.folder}"\n'
    )

    async def scenario() -> None:
        async with client_of(small_bundle, valkey_url, experiments=plan) as client:
            assert (await client.post("/feedback", json=event("impression", "u1", "i3", 1))).status_code == 200
            assert (await client.get("/users/u1")).json()["shown"] == [["i3", NOW + 1]]

    run(scenario())


def test_all_is_read_in_one_round_trip(bundle: Bundle, valkey_url: str) -> None:
    async def scenario(url: str, proxy: Proxy) -> None:
        async with client_of(bundle, url) as client:
            body = {"user_id": "u1", "candidates": ITEMS}
            await client.post("/rank", json=body)
            before = proxy.turns
            for _ in range(5):
                assert not (await client.post("/rank", json=body)).json()["degraded"]
            assert proxy.turns - before == 5
            before = proxy.turns
            together = [event("impression", "u1", "i1", 1), event("click", "u1", "i1", 2)]
            await client.post("/feedback", json=together)
            assert proxy.turns - before == 1

    with Proxy(valkey_url) as proxy:
        run(scenario(proxy.url, proxy))


def test_a_store_that_does_not_answer_leaves_the_counter_unknown(
    bundle: Bundle, socket_url: str, tmp_path: Path
) -> None:
    async def scenario(proxy: Proxy) -> None:
        async with client_of(bundle, proxy.url, journal=tmp_path, history_cache_s=0) as client:
            await client.post("/feedback", json=event("impression", "u1", "i1", 1))
            proxy.hold()
            try:
                body = {"user_id": "u1", "candidates": ITEMS, "timeout_ms": 400}
                answer = await client.post("/rank", json=body)
                assert answer.json()["degraded"] == ["history:timeout"]
            finally:
                proxy.release()

    with Proxy(socket_url) as proxy:
        run(scenario(proxy))
    assert [one.shown_today for one in journalled(tmp_path)] == [-1]


def impressions(*moments: int, item: str = "i1") -> list[Behaviour]:
    return [Behaviour("impression", "item", item, at) for at in moments]


def test_a_store_of_each_kind_counts_a_day_keeps_no_more_and_forgets(store_url: str) -> None:
    wanted = Wanted(("age",), (Newest("click", "item", 5),), impressions=4)
    begun = NOW // DAY * DAY

    async def scenario() -> None:
        store = RedisHistory(store_url, keep=6, ttl_s=10**6, timeout_ms=5000, connections=2)

        async def counted(before: int | None, today: int = begun) -> tuple[int, bool]:
            [stored] = await store.read([Asked("u}1", before, today)], wanted)
            assert isinstance(stored, Stored)
            return stored.shown_today, stored.complete

        async def show(shown: Sequence[Behaviour]) -> None:
            assert await store.write_many([Write("u}1", [], {}, shown)]) == [None]

        assert await counted(None) == (0, True) and await counted(begun + 9) == (0, False)
        await show(impressions(begun - 1, begun, begun + 1))
        await show([*impressions(begun + 1), *impressions(begun + 1, item="i2|x")])
        assert await counted(None) == (3, True)
        assert await counted(begun + 1) == (1, True), "a replay sees what was before it, and the day before is held"
        assert await counted(begun, begun - DAY) == (1, False), "nothing of before that day says that all is held"
        await show(impressions(*range(begun + 10, begun + 20)))
        assert await counted(None) == (6, True) and await counted(begun + 16) == (2, False), "the newest six are kept"
        await show(impressions(begun + 4 * DAY))
        assert await counted(None) == (1, True), "what is three days older is gone"
        assert (await store.known("u}1")).shown == [("i1", begun + 4 * DAY)]
        with clients.opened_sync(store_url, 1) as admin:
            assert 0 < admin.pttl(shown_key("u}1")) <= SHOWN_MS and not admin.exists(history_key("u}1", "click|item"))
        await store.forget("u}1")
        assert await counted(None) == (0, True)
        await store.close()

    asyncio.run(scenario())


def browse(bundle: Bundle, url: str, journal: Path) -> None:
    """Users look, are seen to see, and click; one is asked for in the past, and one is forgotten."""

    async def scenario() -> None:
        async with client_of(bundle, url, journal=journal) as client:
            for turn in range(8):
                for user in ("u1", "u2", "u3", "u4"):
                    request = {"user_id": user, "candidates": ITEMS[turn % 3 :], "top_k": 4}
                    if user == "u4" and turn > 4:
                        request["timestamp"] = time.time_ns() // 1_000_000 - 20
                    answer = await client.post("/rank", json=request)
                    shown = [item["item_id"] for item in answer.json()["items"]]
                    at, of = time.time_ns() // 1_000_000, {"user_id": user, "request_id": answer.json()["request_id"]}
                    told = [{"event": "impression", "item_id": one, "timestamp": at, **of} for one in shown[: turn + 1]]
                    told += [{"event": "click", "item_id": shown[0], "timestamp": at, **of}] if turn % 2 else []
                    if user != "u3":
                        assert (await client.post("/feedback", json=told)).json()["accepted"] == len(told)
            await client.delete("/users/u2")
            await client.post("/rank", json={"user_id": "u2", "candidates": ITEMS, "top_k": 4})

    run(scenario())


def test_training_reads_what_was_used_and_replay_proves_it(
    bundle: Bundle, data: Prepared, valkey_url: str, tmp_path: Path
) -> None:
    journal, log = tmp_path / "journal", tmp_path / "log"
    journal.mkdir()
    browse(bundle, valkey_url, journal)
    records = {(one.request_id, one.user_id): one for one in journalled(journal)}
    assert max(one.shown_today for one in records.values()) > 15
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert drain.main(["--journal", str(journal), "--out", str(log)]) == 0

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        status = replay.main(["--log", str(log), "--bundle", str(bundle.folder)])
    proof = json.loads(out.getvalue().splitlines()[-1])
    assert status == 0 and proof["max_abs_diff"] <= 1e-5 and proof["max_abs_diff_rebuilt"] <= 1e-5, proof
    assert proof["rows_rebuilt"] == proof["rows"] > 80 and not proof["skipped"]

    meta = prepare("service_log", log, tmp_path / "data", Options(base=data.folder))
    made = Prepared(tmp_path / "data")
    table = pl.read_parquet(tmp_path / "data" / "tables" / "impressions.parquet")
    assert len(table) == len(made.time) and any("impressions of the day: as used in" in note for note in meta["notes"])
    for request_id, user_id, used in table.select("request_id", "user_id", AS_USED).iter_rows():
        assert used == records[request_id, user_id].shown_today
    rows = np.arange(len(made.time))
    np.testing.assert_array_equal(np.sort(made.today.impressions(rows)), np.sort(table[AS_USED].to_numpy()))

    for path in (log / "impressions").rglob("*.parquet"):  # the last request of one user counted one too few
        wrong = (pl.col("user_id") == "u1") & (pl.col("now") == pl.col("now").max().over("user_id"))
        pl.read_parquet(path).with_columns(pl.col("shown_today") - wrong.cast(pl.Int64)).write_parquet(path)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        assert replay.main(["--log", str(log), "--bundle", str(bundle.folder)]) == 1
    assert "21 impressions of the day were used, events say 22" in out.getvalue()
