"""Experiments where something is wrong: a file, a bundle, the store, a variant that is gone."""

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.bundle.reading import Bundle
from model.bundle.writing import amend
from model.files import write_text
from tests.client import items_of
from tests.experimenting import DEMO, GOOD, in_service, told, variants_of
from tests.faults.store.server import real_store
from tests.versions import spoil, version

FREE, LAST = 'builtin = "random"', 'builtin = "random"\nshare = 0.5\n'
WRONG = (  # what is put in the place of what, and what is told of it
    ('salt = "s"', "salt = ", "Invalid value (at line 1"),
    ('salt = "s"', f"salt = {'[' * 5000}", "recursion"),
    ('salt = "s"', f"salt = 1{'0' * 5000}", "digits"),
    ('salt = "s"', "", "salt: Field required"),
    ('salt = "s"', 'salt = "s"\nsalz = 1', "salz: no such key"),
    ('salt = "s"', 'salt = "s"\ncontrol = "din"', "control: 'din' given, a variant's name is allowed"),
    ('salt = "s"', 'salt = "s"\nwindow_s = 0', "window_s: "),
    ("00:00:00Z", "00:00:00", "start: a time with its zone is needed"),
    ("2020-01-01T00:00:00Z", "2020-01-01", "start: a time with its zone is needed"),
    ("share = 0.5\n[[", "share = 0.4\n[[", "share: those of the variants sum to 0.9, 1 is needed"),
    ("share = 0.5\n[[", "share = -0.5\n[[", "variants.0.share: "),
    ('name = "chance"', 'name = "control"', "name: control given twice"),
    ('name = "chance"', f'name = "{"x" * 33}"', "variants.1.name: "),
    ("share = 0.5\n[[", 'share = "0.5"\n[[', "variants.0.share: "),
    ("2020-01-01T00:00:00Z", "5", "start: a time with its zone is needed"),
    (FREE, 'builtin = "best"', "variants.1.builtin: "),
    (FREE, 'bundle = "nowhere"', "/nowhere: no bundle is there"),
    (FREE, f'{FREE}\nbundle = "b"', "bundle and builtin given"),
    (FREE, 'bundle = "a\\u0000b"', "variants.1.bundle: a path without the character NUL"),
    (FREE, 'bundle = "spoilt"', "/spoilt"),
    (FREE, 'bundle = "numbers"', "its users' ids are int, others' are not"),
    (LAST, f"{LAST}[catch]\nerror = 0.1", "catch.error: no such key"),
    (LAST, f"{LAST}[catch]\nerrors = 0", "catch.errors: "),
    (LAST, f'{LAST}[[shadows]]\nname = "din"\nshare = 0.1', "shadows.0.bundle: Field required"),
    (LAST, f'{LAST}[[shadows]]\nname = "chance"\nshare = 0.1\nbundle = "b"', "name: chance given twice"),
    ('[[variants]]\nname = "chance"\nbuiltin = "random"\nshare = 0.5\n', "", "variants: "),
)


def numbered(bundle: Bundle, folder: Path) -> None:
    """The same network for users whose ids are numbers."""
    shutil.copytree(bundle.folder, folder)
    features = folder / "features.toml"
    features.write_text(features.read_text().replace('user_id = "str"', 'user_id = "int"'))
    copy = Bundle.open(folder)
    requests = [request | {"user_id": number} for number, request in enumerate(bundle.golden(), 1)]
    amend(copy, {"golden.json": {"requests": requests}}, {}, [*copy.manifest["files"]])


def test_whatever_is_wrong_with_a_file_is_told_and_the_one_before_goes_on(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)
    spoil(version(DEMO, tmp_path, "spoilt"))
    numbered(DEMO, tmp_path / "numbers")

    async def scenario(client: httpx.AsyncClient) -> None:
        before = await variants_of(client)
        for old, new, problem in WRONG:
            assert GOOD.count(old) >= 1, old
            write_text(path, GOOD.replace(old, new, 1))
            answer = await told(client, lambda now, problem=problem: problem in str(now["refused"]))
            assert answer["refused"]["problem"].count("\n") == 0
            assert [one["name"] for one in answer["experiment"]["variants"]] == ["control", "chance"]
        path.write_bytes(b"\xff\xfe")
        await told(client, lambda now: "can't decode" in str(now["refused"]))
        path.unlink()
        path.mkdir()
        await told(client, lambda now: "directory" in str(now["refused"]).lower())
        assert await variants_of(client) == before
        path.rmdir()
        write_text(path, GOOD)
        await told(client, lambda now: now["refused"] is None)

    in_service(valkey_url, path, scenario)


def test_what_a_failing_store_kept_waiting_is_counted_once_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)
    with real_store(appendonly="yes", appendfsync="always") as store:

        async def scenario(client: httpx.AsyncClient) -> None:
            shown, clicked, seen = Counter[str](), Counter[str](), set[tuple[str, str]]()
            refused = 0

            async def page(user: str) -> None:
                nonlocal refused
                body = {"user_id": user, "candidates": items_of(DEMO, 4), "top_k": 2}
                ranked = (await client.post("/rank", json=body)).json()
                variant = ranked["variant"]
                seen.add((variant, user))
                shown[variant] += 2
                event = {"event": "click", "user_id": user, "item_id": ranked["items"][0]["item_id"]}
                event |= {"timestamp": time.time_ns() // 1_000_000, "request_id": ranked["request_id"]}
                unsent.append((variant, event))

            async def send() -> None:
                nonlocal refused
                for variant, event in [*unsent]:
                    status = (await client.post("/feedback", json=event)).status_code
                    assert status in (200, 503)
                    if status == 200:
                        unsent.remove((variant, event))
                        clicked[variant] += 1
                    else:
                        refused += 1

            unsent: list[tuple[str, dict[str, Any]]] = []
            for fail, mend in ((store.kill, store.start), (store.freeze, store.thaw)):
                for number in range(12):
                    await page(f"u{number}")
                await send()
                fail()
                for number in range(6, 18):
                    await page(f"u{number}")
                del unsent[2:]  # their users give up
                await send()
                assert unsent, "nothing is acknowledged that may be lost"
                assert (await client.get("/experiments")).status_code == 503, "and what was counted is on its way"
                mend()
                until = time.monotonic() + 60
                while unsent and time.monotonic() < until:
                    await send()
            assert refused

            def same(now: Any) -> bool:
                return all(
                    (one["impressions"], one["clicks"], one["users"])
                    == (shown[one["name"]], clicked[one["name"]], sum(name == one["name"] for name, _ in seen))
                    for one in now["experiment"]["variants"]
                )

            await told(client, same)
            await asyncio.sleep(1.2)  # a parcel that comes again would come by now
            assert same(await told(client))

        in_service(store.url, path, scenario, history_timeout_ms=300, feedback_timeout_ms=300)


@pytest.mark.parametrize("how", ["full", "read-only", "forgetful"])
def test_a_store_that_takes_no_writes_or_forgets_its_scripts_costs_no_count(tmp_path: Path, how: str) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)
    with real_store() as store:
        replicate = partial(store.admin.execute_command, "REPLICAOF")
        ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "full": (store.fill, store.drain),
            "read-only": (partial(replicate, "127.0.0.1", "1"), partial(replicate, "NO", "ONE")),
            "forgetful": (store.admin.script_flush, lambda: None),
        }
        fail, mend = ways[how]

        async def scenario(client: httpx.AsyncClient) -> None:
            shown, clicked = Counter[str](), Counter[str]()

            async def visit(user: str) -> int:
                body = {"user_id": user, "candidates": items_of(DEMO, 4), "top_k": 2}
                ranked = (await client.post("/rank", json=body)).json()
                shown[ranked["variant"]] += 2
                event = {"event": "click", "user_id": user, "item_id": ranked["items"][1]["item_id"]}
                event |= {"timestamp": time.time_ns() // 1_000_000, "request_id": ranked["request_id"]}
                status = (await client.post("/feedback", json=event)).status_code
                clicked[ranked["variant"]] += status == 200
                return status

            def same(now: Any) -> bool:
                told = [(one["impressions"], one["clicks"]) for one in now["experiment"]["variants"]]
                return told == [(shown[name], clicked[name]) for name in ("control", "chance")]

            for number in range(8):
                assert await visit(f"u{number}") == 200
            await told(client, same)
            fail()
            statuses = {await visit(f"u{number}") for number in range(4, 12)}
            assert statuses == ({200} if how == "forgetful" else {503}), "nothing is acknowledged that is not counted"
            assert same(await told(client)) == (how == "forgetful"), "what is counted is told all the while"
            mend()
            await told(client, same)
            assert await visit("u1") == 200
            await told(client, same)

        in_service(store.url, path, scenario)


def test_another_model_behind_a_variant_is_told_beside_the_one_before(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)

    async def scenario(client: httpx.AsyncClient) -> None:
        app: Any = client._transport.app  # type: ignore[attr-defined]
        live = app.state.live
        before = await variants_of(client, 20)
        assert (await told(client))["experiment"]["variants"][0]["models"] == [f"{DEMO.name} {DEMO.version}"]
        live.swap(replace(live.current, version="next"))
        assert await variants_of(client, 20) == before
        control, chance = (await told(client))["experiment"]["variants"]
        assert control["models"] == [f"{DEMO.name} {DEMO.version}", f"{DEMO.name} next"]
        assert chance["models"] == [f"random {DEMO.version}", "random next"]
        assert control["version"] == "next" and control["users"] == before["control"]
        assert control["impressions"] == 2 * 4 * before["control"]

    in_service(valkey_url, path, scenario)


def test_a_variant_that_is_caught_while_the_store_is_down_stays_out_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(f"{GOOD}[catch]\np99_ms = 0.000001\nrequests = 20\n")
    with real_store(appendonly="yes", appendfsync="always") as store:

        async def scenario(client: httpx.AsyncClient) -> None:
            store.kill()
            assert (await variants_of(client, 60))["chance"] >= 20
            until = time.monotonic() + 60
            while (await variants_of(client, 5)).keys() != {"control"}:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
            store.start()
            await told(client, lambda now: "error" not in now and now["experiment"]["variants"][1]["caught"])
            for _ in range(3):  # each brings counts, and learns from the store who is out
                assert (await told(client))["experiment"]["variants"][1]["caught"]
            assert (await variants_of(client)).keys() == {"control"}
            back = await client.post("/admin/experiments", json={"let_in": "chance"})
            assert back.json() == {"variant": "chance", "was_caught": True}

        in_service(store.url, path, scenario)


def test_a_variant_that_goes_while_it_is_looked_at_does_not_end_the_counting(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    limited = f"{GOOD}[catch]\np99_ms = 0.000001\nrequests = 1000\n"
    path.write_text(limited)

    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await variants_of(client, 60))["chance"] >= 20
        write_text(path, limited.replace('"chance"', '"other"'))
        await told(client, lambda now: now["experiment"]["variants"][1]["name"] == "other")
        for _ in range(3):
            await told(client)
        counts = Counter[str](await variants_of(client, 10))
        answer = await told(client)
        assert answer["experiment"]["variants"][1]["users"] == counts["other"]

    in_service(valkey_url, path, scenario)


def test_popularity_follows_the_model_that_answers_or_goes_on_with_the_one_before(
    valkey_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD.replace('name = "chance"\nbuiltin = "random"', 'name = "clicks"\nbuiltin = "popularity"'))
    head, *features = (DEMO.folder / "features.toml").read_text().split("[[feature]]")
    ids = [one for one in features if 'name = "item_id"' in one]
    tables = {
        "moved": [one for one in features if one not in ids] + ids,
        "uncounted": [one for one in features if "statistic" not in one],
    }

    async def scenario(client: httpx.AsyncClient) -> None:
        app: Any = client._transport.app  # type: ignore[attr-defined]
        live, arm = app.state.live, app.state.variants.experiment.arms["clicks"].live

        def scores() -> list[float]:
            encoder, items = arm.current.encoder, items_of(DEMO, 8)
            encoded = encoder.encode("u1", {}, [], items, time.time_ns() // 1_000_000, arm.current.catalog)
            return [float(score) for score in arm.current.run(encoded.inputs)[0]]

        before = scores()
        assert len(set(before)) > 4
        for name, table in tables.items():
            folder = shutil.copytree(DEMO.folder, tmp_path / name)
            (folder / "features.toml").write_text("[[feature]]".join([head, *table]))
            if name == "uncounted":
                manifest = json.loads((folder / "manifest.json").read_text())
                for file in [file for file in manifest["files"] if file.endswith("statistics.npy")]:
                    del manifest["files"][file]
                    (folder / file).unlink()
                (folder / "manifest.json").write_text(json.dumps(manifest))
            other = Bundle.open(folder)
            live.swap(replace(live.current, bundle=other, encoder=other.encoder))
            assert arm.current.bundle.folder.name == "moved", "without clicks of items the one before goes on"
            assert scores() == before

    in_service(valkey_url, path, scenario)
