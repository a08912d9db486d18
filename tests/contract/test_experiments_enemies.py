"""Experiments that somebody works against: many who look at once, files that are none, what is gone under a worker."""

import asyncio
import os
import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from service.store.ledger import Ledger
from service.telemetry.folder import prepare_folder
from service.variants import following
from service.variants.counting import MOST_A_PARCEL, Counting, clicked_ttl_s
from service.variants.plan import parsed
from service.variants.reading import MOST_BYTES
from service.variants.variants import HEADER
from tests.client import items_of, run
from tests.experimenting import DEMO, GOOD, in_service, told, variants_of
from tests.versions import version

BESIDE = GOOD.replace('builtin = "random"', 'bundle = "beside"')


def settings_of(url: str, path: Path) -> Settings:
    given: dict[str, Any] = {"bundle": DEMO.folder, "redis_url": url, "experiments": path, "catalog_poll_s": 0}
    return Settings(**given)


def is_refused(problem: str, now: Any) -> bool:
    return problem in str(now["refused"])


def begins_with(name: str, now: Any) -> bool:
    return bool(now["experiment"]["variants"][0]["name"] == name)


def test_many_who_look_as_one_experiment_follows_another_all_get_an_answer(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)

    async def scenario(client: httpx.AsyncClient) -> None:
        for number in range(4):
            before = await variants_of(client, 20)
            path.write_text(GOOD.replace('"s"', f'"s{number}"'))
            until = time.monotonic() + 60
            answers: list[httpx.Response] = []
            while not any(one.json()["experiment"]["salt"] == f"s{number}" for one in answers):
                assert time.monotonic() < until
                answers = await asyncio.gather(*(client.get("/experiments") for _ in range(100)))
                assert {one.status_code for one in answers} == {200}
            assert before
        counts = await variants_of(client, 30)
        await asyncio.sleep(1.2)  # what counts beside the requests goes on
        answer = await told(client)
        assert {one["name"]: one["users"] for one in answer["experiment"]["variants"]} == counts

    in_service(valkey_url, path, scenario)


def test_a_file_that_was_empty_before_it_was_wrong_is_not_taken_for_empty_at_once(
    valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)
    with prepare_folder(1) as folder:
        variants = create_app(settings_of(valkey_url, path), folder).state.variants
        monkeypatch.setattr(following, "RESTS_S", 3600.0)
        for text in ("", "", "salt = ", "", GOOD):
            path.write_text(text)
            variants.following.look()
            assert variants.experiment is not None, "somebody may be writing"
        path.write_text("")
        variants.following.look()
        monkeypatch.setattr(following, "RESTS_S", 0.0)
        variants.following.look()
        assert variants.experiment is None


def test_a_header_of_any_length_and_letters_is_refused_in_one_short_line(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)

    async def scenario(client: httpx.AsyncClient) -> None:
        body = {"user_id": "u", "candidates": items_of(DEMO, 2)}
        answer = await client.post("/rank", json=body, headers={HEADER.encode(): b"\xe4\xff" * 3000})
        assert answer.status_code == 422 and len(answer.content) < 400
        assert "allowed: control, chance" in answer.json()["error"]["message"]

    in_service(valkey_url, path, scenario)


def test_what_a_request_under_way_showed_counts_though_its_experiment_has_ended(
    valkey_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)

    async def scenario() -> None:
        settings = settings_of(valkey_url, path)
        with prepare_folder(1) as folder:
            variants = create_app(settings, folder).state.variants
            counting = variants.experiment.counting
            path.write_text("# over")
            variants.following.look()
            assert variants.experiment is None
            await variants.flush()
            counting.shown("control", "late", 3, "m 1")
            await variants.flush()
            assert (await counting.ledger.totals())["control:x"] == 3
            await variants.end()

    run(scenario())


def test_what_is_no_plan_is_refused_unread(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(GOOD)

    async def scenario(client: httpx.AsyncClient) -> None:
        with (tmp_path / "large").open("wb") as file:
            file.truncate(50_000_000)
        os.mkfifo(tmp_path / "pipe")
        for target, problem in (
            (tmp_path / "large", f"50000000 bytes, {MOST_BYTES} are allowed"),
            (tmp_path / "pipe", "neither a file nor a link to one"),
            (Path("/dev/zero"), "neither a file nor a link to one"),
            (tmp_path / "nowhere", "No such file"),
            (path, "symbolic links"),
        ):
            path.unlink()
            path.symlink_to(target)
            answer = await told(client, partial(is_refused, problem))
            assert len(answer["experiment"]["variants"]) == 2
        path.unlink()
        path.write_text(GOOD.replace('"s"', '"s\0"'))
        await told(client, lambda now: "Illegal character" in str(now["refused"]))

    in_service(valkey_url, path, scenario)


def test_a_bundle_that_is_exported_anew_in_its_place_is_taken_over_and_one_that_is_gone_is_told(
    valkey_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "experiments.toml"
    first, second = version(DEMO, tmp_path, "1"), version(DEMO, tmp_path, "2")
    place = tmp_path / "beside"
    shutil.copytree(first, place)
    path.write_text(BESIDE)

    async def scenario(client: httpx.AsyncClient) -> None:
        before = (await told(client))["experiment"]["variants"][1]["version"]
        place.rename(tmp_path / "was")
        await told(client, lambda now: "beside" in str(now["refused"]))
        assert (await variants_of(client))["chance"], "what is open answers on"
        shutil.copytree(second, place)
        answer = await told(client, lambda now: now["refused"] is None)
        assert answer["experiment"]["variants"][1]["version"] != before or before == "beside"

    in_service(valkey_url, path, scenario)


def test_a_worker_that_starts_when_file_and_bundles_are_gone_answers_without(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    shutil.copytree(DEMO.folder, tmp_path / "beside")
    path.write_text(BESIDE)
    settings = settings_of(valkey_url, path)
    with prepare_folder(2) as folder:
        assert create_app(settings, folder).state.variants.experiment is not None
        path.write_text("salt = ")
        shutil.rmtree(tmp_path / "beside")
        later = create_app(settings, folder).state.variants
        assert later.experiment is None and "counts nothing" in later.following.refused.problem


def test_what_waited_through_an_outage_is_brought_in_small_parcels(valkey_url: str, tmp_path: Path) -> None:
    plan = parsed(GOOD, tmp_path / "experiments.toml")

    class Weighed(Ledger):
        async def add(self, parcel) -> None:  # type: ignore[no-untyped-def]
            sizes.append(len(parcel.shown))
            await super().add(parcel)

    async def scenario() -> Counter[str]:
        counting = Counting(plan, Weighed(valkey_url, plan.id, 10, clicked_ttl_s(plan)))
        for number in range(2 * MOST_A_PARCEL + 5):
            counting.shown("control", f"u{number}", 2, "m 1")
        counting.answered("control", "ok", 0.001)
        assert await counting.flush()
        totals = await counting.ledger.totals()
        await counting.ledger.close()
        return totals

    sizes: list[int] = []
    totals = run(scenario())
    assert sizes == [MOST_A_PARCEL, MOST_A_PARCEL, 5]
    assert (totals["control:users"], totals["control:x"]) == (2 * MOST_A_PARCEL + 5, 4 * MOST_A_PARCEL + 10)
    assert totals["control:requests"] == 1


@pytest.mark.parametrize("window_s", [60, 7 * 86400])
def test_clicks_are_known_as_long_as_the_newest_file_lets_them_come(
    valkey_url: str, tmp_path: Path, window_s: int
) -> None:
    path = tmp_path / "experiments.toml"
    longer = parsed(GOOD.replace('salt = "s"', f'salt = "s"\nwindow_s = {window_s}'), path)
    plan = parsed(GOOD, path)

    async def scenario() -> None:
        ledger = Ledger(valkey_url, plan.id, 10, clicked_ttl_s(plan))
        Counting(plan, ledger).go_on(longer)
        assert ledger._clicked_ttl_ms >= (window_s + 2 * 86400) * 1000
        await ledger.close()

    run(scenario())


def test_two_files_of_six_variants_have_rows_of_their_own_in_the_metrics(valkey_url: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    head = GOOD.partition("[[")[0]

    def six(letter: str) -> str:
        return head + "".join(f'[[variants]]\nname = "{letter}{n}"\nshare = {1 / 6}\n' for n in range(6))

    path.write_text(six("a"))

    async def scenario(client: httpx.AsyncClient) -> None:
        for letter in "bcd":
            await variants_of(client, 30)
            path.write_text(six(letter))
            await told(client, partial(begins_with, f"{letter}0"))
        path.write_text("# over")
        await told(client, lambda now: now["experiment"] is None)
        body = {"user_id": "u", "candidates": items_of(DEMO, 4)}
        for _ in range(5):
            assert (await client.post("/rank", json=body)).json().get("variant") is None
        text = (await client.get("/metrics")).text
        own = f'{{model="{DEMO.name}",outcome="ok",route="/rank",variant="",version="{DEMO.version}"}} 5.0'
        assert f"ranker_requests_total{own}" in text

    in_service(valkey_url, path, scenario)
