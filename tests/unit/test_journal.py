"""The journal: lines and files, what waits and what is dropped, whose records are kept; and orders that are drawn."""

import asyncio
import errno
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from model.features.behaviour import Behaviour
from model.servicelog.records import Event, Forgotten, Impression, Profile, Shown
from service.explore import Explorer
from service.journal import appending, files
from service.journal.appending import DROPPED, WRITTEN, Appending, Bounds
from service.journal.files import DONE, OPEN, JournalFile, Reading, WrongFile
from service.journal.journal import JournalFull
from service.journal.lines import BadLine, Showing, line_of, line_of_showing, record_of
from service.journal.who import Who

NOW = 1_757_937_600_000
EVENT = Event("click", "u1", "item", "i1", NOW, "r1", None, NOW * 1000, NOW * 1000 + 5)


def showing(user_id: str = "u1", request_id: str = "r1", **changed: Any) -> Showing:
    answer = {
        "request_id": request_id,
        "model": "m",
        "version": "1",
        "variant": None,
        "items": [{"item_id": "i2", "score": 0.5}, {"item_id": 7, "score": 0.25}],
        "degraded": [],
        "timings_ms": {"total": 3.0},
    }
    fields: dict[str, Any] = {
        "answer": orjson.dumps(answer),
        "user_id": user_id,
        "now": NOW,
        "read_us": NOW * 1000,
        "replay": False,
        "precision": "fp32",
        "catalog": "c" * 64,
        "statistics": None,
        "context": {"page": 2},
        "user": {},
        "profile": {"age": "30"},
        "behaviours": [Behaviour("click", "item", "a|b\n", NOW - 1)],
        "features": {"1": {"category_id": "c9"}},
        "propensities": [0.6],
    }
    return Showing(**fields | changed)


def test_records_come_back_as_they_were() -> None:
    assert record_of(line_of_showing(showing(), "u1")) == Impression(
        "r1", "u1", NOW, NOW * 1000, False, "m", "1", None, "fp32", "c" * 64, None,
        [Shown("i2", 0.5, 1, 0.6), Shown("7", 0.25, 2, None, {"category_id": "c9"})],
        {"page": 2}, {}, {"age": "30"}, [Behaviour("click", "item", "a|b\n", NOW - 1)], [],
    )  # fmt: skip
    for record in (EVENT, Profile("u", {"age": "3"}, True, 1, 2), Forgotten("u", 1, 2)):
        assert record_of(line_of(record, record.user_id)) == record
    for line in (b"{", b"[]", b'{"kind":"other"}', b'{"kind":"event"}', b'{"kind":"impression","answer":{}}'):
        with pytest.raises(BadLine, match="no record"):
            record_of(line)


def test_a_file_that_is_cut_anywhere_is_read_up_to_its_last_whole_block(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, 3)
    file.append([b"one", b"two"], sync=False)
    first = file.bytes
    file.append([b"three" * 20], sync=True)
    [path] = tmp_path.glob(f"*-w3{OPEN}")
    whole = path.read_bytes()
    for length in range(first, len(whole)):
        cut = tmp_path / "cut"
        cut.write_bytes(whole[:length])
        reading = Reading(cut)
        assert list(reading) == [[b"one", b"two"]] and reading.cut_bytes == length - first
    broken = bytearray(whole)
    broken[first + 10] ^= 1
    cut.write_bytes(broken)
    reading = Reading(cut)
    assert list(reading) == [[b"one", b"two"]] and reading.cut_bytes == len(whole) - first
    file.close()
    assert list(Reading(path.with_suffix(DONE))) == [[b"one", b"two"], [b"three" * 20]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"bst-ranker journal 7\n{}\n", "version 7; this release reads version 1"),
        (b"PAR1....", "no journal: it begins with b'PAR1"),
        (b"", "no journal"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(WrongFile, match=told):
        Reading(tmp_path / "x")


def test_a_write_that_fails_midway_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JournalFile(tmp_path, 0)
    file.append([b"before"], sync=False)
    real, left = files.os.pwrite, 10

    def full(fd: int, content: memoryview, at: int) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        count, left = real(fd, content[:left], at), 0
        return count

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            file.append([b"lost" * 100], sync=False)
    file.append([b"after"], sync=False)
    file.close()
    assert [line for lines in Reading(next(tmp_path.glob(f"*{DONE}"))) for line in lines] == [b"before", b"after"]


# ---- a worker's journal


class Told:
    """A journal in a folder, what it counted, and what its files hold."""

    def __init__(self, folder: Path, share: float = 1, salt: str | None = None, **bounds: Any):
        self.counts: Counter[tuple[str, str]] = Counter()
        self._folder = folder
        at = Bounds(**{"flush_s": 0.01, "rotate_bytes": 1 << 30, "rotate_s": 1e9, "sync": False} | bounds)

        def count(kind: str, outcome: str, records: int) -> None:
            self.counts[kind, outcome] += records

        self.journal = Appending(folder, 0, Who(share, salt), at, count)

    def records(self) -> list[Any]:
        paths = sorted([*self._folder.glob(f"*{DONE}"), *self._folder.glob(f"*{OPEN}")])
        return [record_of(line) for path in paths for lines in Reading(path) for line in lines]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


def test_events_are_in_the_file_once_they_are_acknowledged_and_impressions_soon(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(tmp_path)
        await told.journal.append([EVENT])
        assert told.records() == [EVENT]
        told.journal.shown(showing())
        await until(lambda: len(told.records()) == 2)
        await asyncio.gather(*(told.journal.append([EVENT, Forgotten(f"u{n}", 1, 2)]) for n in range(50)))
        assert len(told.records()) == 102
        told.journal.shown(showing("u9"))
        await told.journal.close()
        assert len(told.records()) == 103 and not list(tmp_path.glob(f"*{OPEN}")), "what was pending is written"
        assert told.counts == {("event", WRITTEN): 51, ("forgotten", WRITTEN): 50, ("impression", WRITTEN): 2}

    asyncio.run(scenario())


def test_files_are_done_by_size_and_by_age(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(tmp_path, rotate_bytes=1, flush_s=60)
        for _ in range(3):
            await told.journal.append([EVENT])
        assert len(list(tmp_path.glob(f"*{DONE}"))) == 2
        await told.journal.close()
        aged = Told(tmp_path, rotate_s=0.02)
        await aged.journal.append([EVENT])
        await until(lambda: len(list(tmp_path.glob(f"*{DONE}"))) == 4 and not list(tmp_path.glob(f"*{OPEN}")))
        await aged.journal.close()
        assert aged.records() == [EVENT] * 4

    asyncio.run(scenario())


def test_a_full_disk_refuses_events_drops_impressions_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario() -> None:
        told = Told(tmp_path)
        await told.journal.append([EVENT])
        monkeypatch.setattr(appending, "AGAIN_S", 0.05)
        with monkeypatch.context() as patched:
            patched.setattr(files.os, "pwrite", full)
            for _ in range(2):
                with pytest.raises(JournalFull, match="cannot be written: No space left"):
                    await told.journal.append([EVENT])
            told.journal.shown(showing())
            await until(lambda: told.counts["impression", DROPPED] == 1)
        await told.journal.append([EVENT])
        assert told.records() == [EVENT, EVENT] and told.counts["event", DROPPED] == 2
        await told.journal.close()

    asyncio.run(scenario())
    assert [record.message.partition(":")[0] for record in caplog.records] == ["journal"] * 2, "one line a change"


def test_a_sample_keeps_whole_users_and_a_salt_hides_who_they_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        told = Told(tmp_path, share=0.3, salt="secret")
        for n in range(400):
            told.journal.shown(showing(f"u{n}"))
            await told.journal.append([EVENT.__class__("click", f"u{n}", "item", "i", NOW, None, None, 1, 2)])
        await told.journal.close()
        by_user: dict[str, list[str]] = {}
        for record in told.records():
            by_user.setdefault(record.user_id, []).append(type(record).__name__)
        assert 80 < len(by_user) < 160
        assert {tuple(sorted(kinds)) for kinds in by_user.values()} == {("Event", "Impression")}
        assert not any(user in f"u{n}" for user in by_user for n in range(400))

    asyncio.run(scenario())
    others = Who(1, "other").named("u1"), Who(1, "secret").named("u1"), Who(1, "secret").named("u2")
    assert len(set(others)) == 3 and Who(0.3, None).keeps("u5") == Who(0.3, "x").keeps("u5")


# ---- orders that are drawn


def test_orders_are_drawn_as_often_as_their_propensities_say() -> None:
    scores = np.array([0.1, 0.4, 0.2, 0.3, 0.05], np.float32)
    best = (-scores).argsort()
    explorer, seen, chance = Explorer(1, 3), Counter[tuple[int, ...]](), {}
    for n in range(20_000):
        drawn = explorer.drawn(f"r{n}", "u", best, scores)
        assert drawn is not None and drawn.order[3:].tolist() == [0, 4], "the others keep their places"
        seen[tuple(drawn.order[:3].tolist())] += 1
        chance[tuple(drawn.order[:3].tolist())] = float(np.prod(drawn.propensities))
    assert len(seen) == 6 and sum(chance.values()) == pytest.approx(1)
    for order, count in seen.items():
        assert count / 20_000 == pytest.approx(chance[order], abs=4 * (chance[order] / 20_000) ** 0.5)
    again = [explorer.drawn("r1", "u", best, scores) for _ in range(2)]
    assert again[0] is not None and again[1] is not None and (again[0].order == again[1].order).all()


def test_so_many_requests_are_drawn_as_are_to_be_and_none_by_scores_that_are_no_weights() -> None:
    scores, best = np.array([0.2, 0.1], np.float32), np.array([0, 1])
    drawn = sum(Explorer(0.25, 10).drawn(f"r{n}", "u", best, scores) is not None for n in range(4000))
    assert 850 < drawn < 1150
    assert Explorer(0, 10).drawn("r", "u", best, scores) is None
    for wrong in (np.nan, 0.0, -1.0):
        assert Explorer(1, 10).drawn("r", "u", best, np.array([0.2, wrong], np.float32)) is None


def test_the_form_of_a_file_is_what_its_documentation_says(tmp_path: Path) -> None:
    JournalFile(tmp_path, 2).append([b"x"], sync=False)
    head, _, rest = next(tmp_path.glob("*")).read_bytes().partition(b"\n")
    assert head == b"bst-ranker journal 1"
    assert json.loads(rest.partition(b"\n")[0])["worker"] == 2
