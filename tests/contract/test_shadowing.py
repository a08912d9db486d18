"""Shadows from a journal that a service writes: the same bundle gives the scores that were served."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.bundle.reading import Bundle
from model.features.ids import BadValue
from model.servicelog.records import Impression
from service.journal.framing import Reader
from service.journal.lines import line, record
from service.journal.tail import Tail
from service.settings import Settings
from service.shadowing import process
from service.shadowing.process import Shadows
from service.telemetry.exposition import Text
from service.telemetry.shadows import write
from tests.client import client_of, items_of, run

PLAN = """
salt = "s"
start = 2020-01-01T00:00:00Z
[[variants]]
name = "a"
share = 0.5
[[variants]]
name = "b"
share = 0.5
[[shadows]]
name = "all"
bundle = "{bundle}"
share = 1.0
[[shadows]]
name = "half"
bundle = "{bundle}"
share = 0.5
"""
USERS = 40


def ranked(bundle: Bundle, url: str, journal: Path, users: int = USERS) -> dict[str, dict[str, float]]:
    """Scores by request, as served; all are in the journal."""
    items = items_of(bundle, 12)

    async def go() -> dict[str, dict[str, float]]:
        served = {}
        async with client_of(bundle, url, journal=journal, journal_flush_s=0.01) as client:
            for number in range(users):
                body = {"user_id": f"u{number}", "candidates": items[: 2 + number % 9], "top_k": 8}
                answer: httpx.Response = await client.post("/rank", json=body)
                told = answer.json()
                served[told["request_id"]] = {item["item_id"]: item["score"] for item in told["items"]}
            body |= {"timestamp": 1_757_900_000_000}
            assert (await client.post("/rank", json=body)).status_code == 200, "a replay, which no shadow scores"
        return served

    return dict(run(go()))


def shadowed(journal: Path) -> list[Any]:
    found = []
    for path in sorted(journal.glob("[!.]*")):
        with path.open("rb") as file:
            found += [record(one) for block in Reader(file) for one in block if one["kind"] == "shadowed"]
    return found


@pytest.fixture
def shadows(small_bundle: Bundle, tmp_path: Path) -> Iterator[Shadows]:
    (tmp_path / "experiments.toml").write_text(PLAN.format(bundle=small_bundle.folder))
    (tmp_path / "journal").mkdir()
    settings = Settings(experiments=tmp_path / "experiments.toml", journal=tmp_path / "journal")  # type: ignore[call-arg]
    made = Shadows(settings, tmp_path)
    yield made
    made.close()


def test_the_same_bundle_gives_the_scores_that_were_served(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path, shadows: Shadows
) -> None:
    shadows.look()  # it begins to follow
    served = ranked(small_bundle, valkey_url, tmp_path / "journal")
    shadows.look()
    shadows.look()  # nothing is scored twice
    shadows.close()
    of_all = [one for one in shadowed(tmp_path / "journal") if one.shadow == "all"]
    assert len(of_all) == USERS and {one.request_id for one in of_all} == served.keys()
    for one in of_all:
        assert dict(one.items) == pytest.approx(served[one.request_id], abs=1e-5)
    of_half = {one.user_id for one in shadowed(tmp_path / "journal") if one.shadow == "half"}
    assert 0 < len(of_half) < USERS
    text = Text()
    write(text, tmp_path)
    lines = text.encode().decode()
    named = f'model="{small_bundle.name}",shadow="all",version="{small_bundle.version}"'
    assert f"ranker_shadow_requests_total{{{named}}} {USERS}.0" in lines
    [correlation] = [one for one in lines.splitlines() if one.startswith(f"ranker_shadow_rank_correlation{{{named}")]
    assert float(correlation.split()[-1]) == pytest.approx(1.0)


def test_what_it_is_late_for_is_passed_over_and_what_was_before_is_none_of_its(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path, shadows: Shadows, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadows.look()
    ranked(small_bundle, valkey_url, tmp_path / "journal", users=5)
    monkeypatch.setattr(process, "LATE_S", -1.0)
    shadows.look()
    told = json.loads((tmp_path / "shadows.json").read_text())
    assert [(row["shadow"], row["requests"]) for row in told] == [("all", 0), ("half", 0)]
    assert told[0]["passed_over"] == 5
    monkeypatch.setattr(process, "LATE_S", 60.0)
    shadows.close()
    later = Shadows(shadows._settings, tmp_path)
    later.look()
    later.close()
    seen = shadowed(tmp_path / "journal")
    assert len(seen) >= 5, "one that begins takes what was shown in the last minute"
    old = Shadows(shadows._settings, tmp_path)
    monkeypatch.setattr(process.time, "time", lambda: time.monotonic() + 2 * time.time_ns() / 1e9)
    old.look()
    old.close()
    assert len(shadowed(tmp_path / "journal")) == len(seen)
    assert all(row["passed_over"] == 0 for row in json.loads((tmp_path / "shadows.json").read_text()))


def test_a_broken_file_leaves_the_shadows_and_a_record_that_it_cannot_read_ends_nothing(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path, shadows: Shadows, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadows.look()
    (tmp_path / "experiments.toml").write_text("salt = ")
    score, failed = process.Shadow.score, []

    def sometimes(self: Any, request: Impression) -> Any:
        if not failed:
            failed.append(request)
            raise BadValue("as of another type")
        return score(self, request)

    monkeypatch.setattr(process.Shadow, "score", sometimes)
    ranked(small_bundle, valkey_url, tmp_path / "journal", users=6)
    shadows.look()
    shadows.close()
    of_all = [one for one in shadowed(tmp_path / "journal") if one.shadow == "all"]
    assert len(of_all) == 5
    (tmp_path / "experiments.toml").write_text("# over\n")
    shadows.look()
    assert json.loads((tmp_path / "shadows.json").read_text()) == []


def test_a_tail_reads_each_record_once_through_cut_blocks_and_renames(tmp_path: Path) -> None:
    from service.journal.file import JournalFile
    from service.journal.framing import blocks
    from tests.records import impression

    def block(user: str) -> bytes:
        return b"".join(blocks([line(impression(user), user)]))

    def read(tail: Tail) -> list[str]:
        return [one["user_id"] for one in tail.read()]

    file = JournalFile(tmp_path)
    file.append(block("u1"))
    tail, from_now = Tail(tmp_path, since_s=60), Tail(tmp_path, since_s=-1)
    assert read(tail) == ["u1"] and read(from_now) == []
    half = block("u2")
    file.append(half[:9])
    assert read(tail) == [] and read(from_now) == []
    file.append(half[9:])
    file.append(block("u3"))
    file.close()  # by a rename
    assert read(tail) == ["u2", "u3"] == read(from_now) and read(tail) == []
    (tmp_path / "other.journal").write_bytes(b"no journal\n")
    second = JournalFile(tmp_path)
    second.append(block("u4"))
    assert read(tail) == ["u4"]
    second.close()
    for path in tmp_path.iterdir():
        path.unlink()  # a drain
    assert read(tail) == []
