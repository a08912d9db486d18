"""Experiments on real stores: what is counted is what was shown and clicked, once, whatever is sent twice."""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest

from model.bundle.reading import Bundle
from service import experiments
from service.comparing.statistics import gain
from service.journal.framing import Reader
from service.settings import DEMO_BUNDLE
from service.store.history import StoreUnavailable
from service.store.ledger import Clicked, Ledger, Parcel, Shown
from service.variants.told import moments_of
from service.variants.variants import HEADER
from tests.arms import week
from tests.client import client_of, items_of, run
from tests.documented import check
from tests.faults.store.server import PASSWORD, RealStore, real_store
from tests.records import DAY_MS
from tests.stores import dead_url

PLAN = """
salt = "{salt}"
start = 2020-01-01T00:00:00Z
{more}
[[variants]]
name = "control"
share = {share}
[[variants]]
name = "chance"
builtin = "random"
share = {rest}
"""


def plan_of(folder: Path, salt: str = "s", share: float = 0.5, more: str = "") -> Path:
    path = folder / "experiments.toml"
    path.write_text(PLAN.format(salt=salt, share=share, rest=1 - share, more=more))
    return path


def sums(users: dict[tuple[str, str], tuple[int, int]], variant: str) -> dict[str, int]:
    own = np.array([xy for (name, _), xy in users.items() if name == variant and sum(xy)], int).reshape(-1, 2)
    x, y = own.T
    told = {"users": len(own), "x": x.sum(), "y": y.sum(), "xx": x @ x, "xy": x @ y, "yy": y @ y}
    return {f"{variant}:{name}": int(value) for name, value in told.items() if value}


def test_the_ledger_sums_over_users_and_counts_each_parcel_and_each_click_once(store_url: str) -> None:
    rng = np.random.default_rng(7)
    users: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))

    async def scenario() -> Counter[str]:
        ledger = Ledger(store_url, "e1", timeout_s=10, clicked_ttl_s=100)
        for number in range(1, 6):
            shown = [Shown(v, f"u{rng.integers(40)}", int(rng.integers(1, 9))) for v in ("a", "b") for _ in range(30)]
            merged = Counter[tuple[str, str]]()
            for variant, user, items in shown:
                merged[variant, user] += items
                x, y = users[variant, user]
                users[variant, user] = x + items, y
            parcel = Parcel("w1", number, [Shown(*at, items) for at, items in merged.items()], {"a:us": 5}, {})
            await ledger.add(parcel)
            await ledger.add(parcel)  # nobody knew whether it had arrived
        clicks = [Clicked("a", f"u{n % 7}", f"click {n}", n % 2) for n in range(20)]
        assert await ledger.click([*clicks, clicks[3]]) == [True] * 20 + [False]
        assert await ledger.click(clicks[:5]) == [False] * 5
        for click in clicks:
            x, y = users["a", click.user_id]
            users["a", click.user_id] = x, y + 1
        totals = await ledger.totals()
        other = Ledger(store_url, "e2", timeout_s=10, clicked_ttl_s=100)
        assert not await other.totals() and await other.click(clicks[:1]) == [True], "another experiment's"
        await ledger.close()
        await other.close()
        return totals

    totals = run(scenario())
    both = {user for name, user in users if name == "a"} & {user for name, user in users if name == "b"}
    assert totals == sums(users, "a") | sums(users, "b") | {"a:us": 25, "mixed": len(both)}


def test_what_an_acl_forbids_in_the_midst_of_a_parcel_is_counted_once_it_is_allowed(tmp_path: Path) -> None:
    rights = "~{rx:* +evalsha +eval +hget +hset +hsetnx +hdel +hincrby +hgetall +sadd +pexpire".split()  # docs/store.md
    parcel = Parcel("w", 1, [Shown("a", "u", 3)], {"a:us": 5}, {"shares a 1": 7})

    async def scenario(store: RealStore) -> None:
        ledger = Ledger(f"unix://e:{PASSWORD}@{quote(str(store.path))}", "e", timeout_s=10, clicked_ttl_s=100)
        for missing in ("+hincrby", "+pexpire", "+evalsha", "+hset"):
            fewer = [one for one in rights if one != missing]
            store.admin.execute_command("ACL", "SETUSER", "e", "reset", "on", f">{PASSWORD}", *fewer)
            with pytest.raises(StoreUnavailable):
                await ledger.add(parcel)
        store.admin.execute_command("ACL", "SETUSER", "e", *rights)
        await ledger.add(parcel)
        assert await ledger.click([Clicked("a", "u", "c", 1)]) == [True]
        totals = await ledger.totals()
        assert (totals["a:users"], totals["a:x"], totals["a:y"], totals["a:us"]) == (1, 3, 1, 5)
        assert await ledger.standing() == ({}, {"shares a 1": 7})
        await ledger.close()

    with real_store() as store:
        run(scenario(store))


def test_the_live_gain_is_the_reports_of_the_same_log(valkey_url: str, tmp_path: Path) -> None:
    traffic = week(600, 0.8, seed=1)
    arms = {one.request_id: one.variant or f"{one.model}-{one.version}" for one in traffic.impressions}

    async def scenario() -> Counter[str]:
        ledger = Ledger(valkey_url, "e", timeout_s=10, clicked_ttl_s=100)
        shown = [Shown(arms[one.request_id], one.user_id, len(one.items)) for one in traffic.impressions]
        clicks = [
            Clicked(arms[one.request_id], one.user_id, f"{one.request_id} {one.object_id}", one.timestamp // DAY_MS)
            for one in traffic.events
            if one.request_id
        ]
        for number, at in enumerate(range(0, len(shown), 300), 1):
            await ledger.click(clicks[at : at + 300])  # some before what they are clicks on
            await ledger.add(Parcel("w1", number, shown[at : at + 300], {}, {}))
        await ledger.click(clicks)
        totals = await ledger.totals()
        await ledger.close()
        return totals

    totals = run(scenario())
    live = gain(moments_of(totals, "bst-1"), moments_of(totals, "wdl-1"))
    log = traffic.write(tmp_path / "log")
    assert experiments.main(["--log", str(log), "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / experiments.CONTENT).read_text())
    [reported] = [arm["gain"] for arm in content["arms"] if arm["gain"]]
    assert [*map(float, live)] == pytest.approx([reported["estimate"], *reported["interval"]])


def test_who_is_caught_stays_so_everywhere_until_let_in(store_url: str) -> None:
    async def scenario() -> None:
        one, other = (Ledger(store_url, "e", timeout_s=10, clicked_ttl_s=100) for _ in range(2))
        await one.catch("a", "1 slow")
        await other.catch("a", "2 slower")
        assert (await other.standing()).caught == {"a": "1 slow"}, "the first reason stays"
        assert await other.let_in("a") and not await one.let_in("a") and not (await one.standing()).caught
        await one.close()
        await other.close()

    run(scenario())


def test_a_dead_store_is_told() -> None:
    with dead_url() as url:

        async def scenario() -> None:
            ledger = Ledger(url, "e", timeout_s=5, clicked_ttl_s=100)
            for what in (ledger.totals(), ledger.standing(), ledger.click([Clicked("a", "u", "c", 1)])):
                with pytest.raises(StoreUnavailable):
                    await what
            await ledger.close()

        run(scenario())


def in_service(
    bundle: Bundle, url: str, path: Path, scenario: Callable[[httpx.AsyncClient], Any], **changes: Any
) -> Any:
    async def go() -> Any:
        async with client_of(bundle, url, experiments=path, **changes) as client:
            return await scenario(client)

    return run(go())


async def told(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/experiments")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_services_counts_are_the_callers_own(small_bundle: Bundle, valkey_url: str, tmp_path: Path) -> None:
    items, rng = items_of(small_bundle, 8), np.random.default_rng(1)

    async def scenario(client: httpx.AsyncClient) -> None:
        shown, clicked, seen, models = Counter[str](), Counter[str](), defaultdict(set), {}
        for number in range(150):
            user = f"u{number % 40}"
            body = {"user_id": user, "candidates": items, "top_k": 3}
            if number % 3:
                answer = (await client.post("/rank", json=body)).json()
            else:
                [answer] = (await client.post("/rank/batch", json=[body])).json()
            variant = answer["variant"]
            models[variant] = answer["model"]
            shown[variant] += len(answer["items"])
            seen[user].add(variant)
            for item in answer["items"]:
                if rng.random() < 0.4:
                    event = {
                        "event": "click",
                        "user_id": user,
                        "item_id": item["item_id"],
                        "timestamp": time.time_ns() // 1_000_000,
                        "request_id": answer["request_id"],
                    }
                    again = event | {"timestamp": event["timestamp"] + 1}
                    late = event | {"timestamp": event["timestamp"] + 3_600_000}
                    stranger = event | {"user_id": "somebody"}
                    events = [event, again, event, late, stranger, event | {"event": "impression"}]
                    sent = await client.post("/feedback", json=events)
                    assert sent.json()["accepted"] == 6
                    clicked[variant] += 1
        assert all(len(variants) == 1 for variants in seen.values()), "no user sees both"
        assert models == {"control": small_bundle.name, "chance": "random"}
        experiment = (await told(client))["experiment"]
        users = Counter(variant for variants in seen.values() for variant in variants)
        for variant in experiment["variants"]:
            name = variant["name"]
            assert variant["users"] == users[name] and variant["impressions"] == shown[name]
            assert variant["clicks"] == clicked[name]
            assert variant["ctr"] == pytest.approx(clicked[name] / shown[name])
            assert variant["requests"] and variant["errors"] == 0 and variant["response_ms"]["p99"] > 0
        assert experiment["sample_ratio"]["users_in_several"] == 0 and experiment["state"] == "runs"
        text = (await client.get("/metrics")).text
        for variant in ("control", "chance"):
            name = f'model="{models[variant]}",variant="{variant}"'
            assert f"ranker_experiment_impressions_total{{{name}" in text

    in_service(small_bundle, valkey_url, plan_of(tmp_path), scenario)


def test_what_is_asked_for_by_header_or_for_the_past_counts_for_nothing(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    items = items_of(small_bundle, 5)

    async def scenario(client: httpx.AsyncClient) -> None:
        body = {"user_id": "u1", "candidates": items}
        for name in ("control", "chance"):
            answer = (await client.post("/rank", json=body, headers={HEADER: name})).json()
            assert answer["variant"] == name and ":" not in answer["request_id"]
        wrong = await client.post("/rank", json=body, headers={HEADER: "bst"})
        assert wrong.status_code == 422 and "'bst' given, allowed: control, chance" in wrong.text
        replay = (await client.post("/rank", json=body | {"timestamp": 1_757_900_000_000})).json()
        assert replay["variant"] and ":" not in replay["request_id"]
        assert all(not variant["impressions"] for variant in (await told(client))["experiment"]["variants"])
        drawn = (await client.post("/rank", json=body)).json()
        both = (await client.post("/rank/batch", json=[body, body], headers={HEADER: "chance"})).json()
        names = [answer["request_id"] for answer in (drawn, *both)]
        assert ":" in names[0] and names[1] == names[2]

    (tmp_path / "journal").mkdir()
    in_service(small_bundle, valkey_url, plan_of(tmp_path), scenario, journal=tmp_path / "journal")
    records = []
    for path in (tmp_path / "journal").iterdir():
        with path.open("rb") as file:
            records += [one for block in Reader(file) for one in block]
    assert [(one["named"], one["replay"]) for one in records] == [(1, False)] * 2 + [(0, True), (0, False)] + [
        (1, False)
    ] * 2


@pytest.mark.parametrize("builtin", ["random", "popularity"])
def test_a_variant_without_a_network_is_explained_in_words(valkey_url: str, tmp_path: Path, builtin: str) -> None:
    bundle = Bundle.open(DEMO_BUNDLE)
    path = plan_of(tmp_path)
    path.write_text(path.read_text().replace('"random"', f'"{builtin}"'))
    body = {"user_id": "u1", "candidates": [*items_of(bundle, 4), "new"], "explain": True, "top_k": 3}

    async def scenario(client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        alone = await client.post("/rank", json=body, headers={HEADER: "chance"})
        together = await client.post("/rank/batch", json=[body, body | {"explain": False}], headers={HEADER: "chance"})
        check(document, alone)
        check(document, together)
        second, plain = together.json()
        assert "explanation" not in plain
        for answer in (alone.json(), second):
            why = answer["explanation"]
            assert f"variant 'chance' is the builtin {builtin}" in why["note"] and "no attention" in why["note"]
            assert (why["behaviours"], why["normalised"], why["precision"]) == ([], None, None)
            assert len(answer["items"]) == 3
            for item in answer["items"]:
                told = item["explanation"]
                assert told["score"] == told["score_without_history"] == item["score"] and "attention" not in told
                assert ("item_id" in told["unknown"]) == (item["item_id"] == "new")

    in_service(bundle, valkey_url, path, scenario)


def test_a_change_of_shares_under_one_salt_is_told_at_once_by_all_instances(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    bodies = [{"user_id": f"u{number}", "candidates": items_of(small_bundle, 4)} for number in range(10)]

    async def drawn(client: httpx.AsyncClient) -> str | None:
        for body in bodies:
            assert (await client.post("/rank", json=body)).status_code == 200
        changed: str | None = (await told(client))["experiment"]["sample_ratio"]["shares_changed"]
        return changed

    async def asked(client: httpx.AsyncClient) -> Any:
        return (await told(client))["experiment"]["sample_ratio"]["shares_changed"]

    path = plan_of(tmp_path)
    assert in_service(small_bundle, valkey_url, path, asked) is None
    plan_of(tmp_path, share=0.7)
    assert in_service(small_bundle, valkey_url, path, drawn) is None, "nobody was drawn by the shares before"
    path.write_text(path.read_text() + '[[variants]]\nname = "none"\nshare = 0.0\n')
    assert in_service(small_bundle, valkey_url, path, drawn) is None, "a share of 0 draws nobody"
    plan_of(tmp_path, share=0.4)
    assert "under the same salt: chance 0.3, control 0.7 since 20" in in_service(small_bundle, valkey_url, path, asked)
    assert in_service(small_bundle, valkey_url, path, drawn)
    plan_of(tmp_path, share=0.7)
    assert "chance 0.6, control 0.4 since 20" in in_service(small_bundle, valkey_url, path, asked), "and stays so"
    plan_of(tmp_path, share=0.7, salt="another")
    assert in_service(small_bundle, valkey_url, path, drawn) is None


def test_outside_its_time_and_without_a_file_nothing_is_split(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    items = items_of(small_bundle, 5)

    async def scenario(client: httpx.AsyncClient) -> dict[str, Any]:
        answer = (await client.post("/rank", json={"user_id": "u1", "candidates": items})).json()
        assert answer["variant"] is None and ":" not in answer["request_id"]
        return await told(client)

    path = plan_of(tmp_path, more="end = 2020-01-02T00:00:00Z")
    assert in_service(small_bundle, valkey_url, path, scenario)["experiment"]["state"] == "ended"
    path.write_text("# nothing yet\n")
    assert in_service(small_bundle, valkey_url, path, scenario) == {"experiment": None, "refused": None}


def test_a_file_is_taken_over_live_or_refused_and_the_one_before_goes_on(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    path = plan_of(tmp_path)

    async def changed(client: httpx.AsyncClient, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until = time.monotonic() + 60
        while not wanted(answer := await told(client)):
            assert time.monotonic() < until, answer
            await asyncio.sleep(0.02)
        return answer

    async def scenario(client: httpx.AsyncClient) -> None:
        plan_of(tmp_path, share=0.25)
        await changed(client, lambda now: now["experiment"]["variants"][0]["share"] == 0.25)
        path.write_text(path.read_text().replace("share = 0.25", "share = 0.3"))
        refused = await changed(client, lambda now: now["refused"] is not None)
        assert "share: those of the variants sum to 1.05" in refused["refused"]["problem"]
        assert refused["experiment"]["variants"][0]["share"] == 0.25
        path.write_text(
            PLAN.format(salt="s", share=0.5, rest=0.5, more="").replace('builtin = "random"', 'bundle = "nowhere"')
        )
        refused = await changed(client, lambda now: "nowhere" in str(now["refused"]))
        path.unlink()
        await changed(client, lambda now: "No such file" in str(now["refused"]))
        plan_of(tmp_path, salt="another")
        after = await changed(client, lambda now: now["experiment"]["salt"] == "another")
        assert after["refused"] is None and all(not variant["users"] for variant in after["experiment"]["variants"])
        path.write_text("")
        await changed(client, lambda now: now["experiment"] is None)

    in_service(small_bundle, valkey_url, path, scenario, catalog_poll_s=0.02)


def test_a_variant_beyond_its_limits_is_taken_out_and_comes_back_by_hand(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    items = items_of(small_bundle, 5)

    async def scenario(client: httpx.AsyncClient) -> None:
        async def variants() -> set[str]:
            bodies = [{"user_id": f"u{number}", "candidates": items} for number in range(40)]
            return {(await client.post("/rank", json=body)).json()["variant"] for body in bodies}

        assert await variants() == {"control", "chance"}
        caught = (await told(client))["experiment"]["variants"][1]["caught"]
        assert "p99 of" in caught and await variants() == {"control"}
        assert 'ranker_variant_caught_total{model="random",variant="chance"' in (await client.get("/metrics")).text
        form = await client.post("/admin/experiments", content=b'{"let_in": "chance"}')
        assert form.status_code == 415, "what another site's page may send without asking"
        wrong = await client.post("/admin/experiments", json={"let_in": "bst"})
        assert wrong.status_code == 422 and "allowed: control, chance" in wrong.text
        back = await client.post("/admin/experiments", json={"let_in": "chance"})
        assert back.json() == {"variant": "chance", "was_caught": True}
        assert await variants() == {"control", "chance"}

    path = plan_of(tmp_path)
    path.write_text(path.read_text() + "[catch]\np99_ms = 0.000001\nrequests = 5\n")
    in_service(small_bundle, valkey_url, path, scenario)
