"""The journal's files: what goes in comes out, a cut is told, a full disk costs no request and nothing after it."""

import asyncio
import resource
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pytest

from model.features.behaviour import Behaviour
from model.servicelog.records import Event, Forgotten, Impression, Profile, Record, Shown
from service.journal.file import CLOSED, OPEN, JournalFile
from service.journal.framing import NotReadable, Reader, blocks, first_line
from service.journal.items import Items
from service.journal.journal import JournalFull
from service.journal.kept import FileJournal
from service.journal.lines import line, record
from service.journal.users import Users
from service.telemetry.counts import Metrics
from service.telemetry.folder import prepare_folder
from tests.records import click, impression, shadowed

SOME: list[Impression | Event | Profile | Forgotten] = [
    impression("u1"),
    replace(impression("u2"), items=[Shown("a", 0.5, 1, 0.25, {"price": 2}), Shown("b", 0.4, 2)], statistics="f" * 64),
    click("u1", "a"),
    Profile("u1", {"age": "30"}, True, 1, 2),
    Forgotten("u1", 3, 4),
]


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    with prepare_folder(1) as folder:
        metrics = Metrics(folder, {}, ())
        yield metrics
        metrics.close()


@asynccontextmanager
async def journal(
    folder: Path, metrics: Metrics, users: Users | None = None, **options: Any
) -> AsyncIterator[FileJournal]:
    kept = FileJournal(folder, metrics, users or Users(), **{"flush_s": 0.01, **options})
    try:
        yield kept
    finally:
        await kept.close()


def told(folder: Path) -> list[Record]:
    """All records of a folder's closed files, which are all that there are."""
    assert not list(folder.glob(f"*{OPEN}"))
    found: list[Record] = []
    for path in sorted(folder.glob(f"*{CLOSED}")):
        with path.open("rb") as file:
            reader = Reader(file)
            found += [record(one) for block in reader for one in block]
            assert reader.cut == 0
    return found


def counted(metrics: Metrics, kind: str, outcome: str) -> int:
    text = metrics.render()[0].decode()
    wanted = f'ranker_journal_records_total{{kind="{kind}",outcome="{outcome}"}} '
    return int(float(next(row.removeprefix(wanted) for row in text.splitlines() if row.startswith(wanted))))


def test_records_are_read_as_they_were_written(tmp_path: Path, metrics: Metrics) -> None:
    async def write() -> None:
        async with journal(tmp_path, metrics) as kept:
            for one in SOME:
                if isinstance(one, Impression):
                    kept.shown(one.user_id, partial(replace, one))
            await kept.append([one for one in SOME if not isinstance(one, Impression)])

    asyncio.run(write())
    assert sorted(map(repr, told(tmp_path))) == sorted(map(repr, SOME))
    assert counted(metrics, "impression", "written") == 2 and counted(metrics, "event", "written") == 1


def test_what_a_shadow_scored_is_read_as_it_was_written() -> None:
    assert record(_one(line(shadowed("u2"), "u2"))) == shadowed("u2")


def test_an_impression_is_made_after_the_answer_and_of_the_sample_alone(tmp_path: Path, metrics: Metrics) -> None:
    made: list[str] = []
    sample = Users(0.5)

    def make(user: str) -> Impression:
        made.append(user)
        return impression(user)

    async def write() -> None:
        async with journal(tmp_path, metrics, sample) as kept:
            for user in users:
                kept.shown(user, partial(make, user))
            assert not made
            await asyncio.sleep(0)
            assert made == [user for user in users if sample.keeps(user)]

    users = [f"u{at}" for at in range(20)]
    asyncio.run(write())
    assert [one.user_id for one in told(tmp_path) if isinstance(one, Impression)] == made != users


def test_an_impression_that_cannot_be_made_is_counted_and_told(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    async def write() -> None:
        async with journal(tmp_path, metrics) as kept:
            kept.shown("u1", partial(impression, "u1", no_such_field=1))
            kept.shown("u2", partial(impression, "u2"))

    asyncio.run(write())
    assert [one.user_id for one in told(tmp_path) if isinstance(one, Impression)] == ["u2"]
    assert counted(metrics, "impression", "unwritable") == 1 and "no_such_field" in caplog.text


def test_items_of_an_answer_are_written_as_the_store_has_their_ids() -> None:
    items = Items(
        [{"item_id": "007", "score": 0.5}, {"item_id": 8, "score": 0.25}], "int", [0.5, None], {1: {"tab": 2}}
    )
    read = record(_one(line(replace(impression("u"), items=items), "u")))
    assert isinstance(read, Impression)
    assert read.items == list(items) == [Shown("7", 0.5, 1, 0.5), Shown("8", 0.25, 2, None, {"tab": 2})]


def test_a_line_of_before_response_times_and_named_variants_were_kept_is_read() -> None:
    told = _one(line(impression("u"), "u"))
    assert told.pop("took_us") == told.pop("named") == 0
    assert record(told) == replace(impression("u"), items=[*impression("u").items])


def test_what_orjson_does_not_write_is_written_too() -> None:
    named = {"big": 1 << 70, "digits": 10**400, "half": "\ud800", "few": [1, "\udc00é"]}
    read = record(_one(line(replace(impression("u"), context=named), "u")))
    assert isinstance(read, Impression) and read.user_id == "u"
    assert read.context == {"big": str(1 << 70), "digits": str(10**400), "half": "?", "few": [1, "?é"]}


def _one(written: bytes) -> dict[str, Any]:
    told: dict[str, Any] = orjson.loads(written)  # as the reader does
    return told


def test_a_file_is_closed_by_its_size_and_by_its_age(tmp_path: Path, metrics: Metrics) -> None:
    async def write(folder: Path, **options: Any) -> int:
        folder.mkdir()
        async with journal(folder, metrics, **options) as kept:
            await kept.append([click("u1", "a")])
            async with asyncio.timeout(10):
                while list(folder.glob(f"*{OPEN}")):
                    await asyncio.sleep(0.005)
            await kept.append([click("u1", "b")])
        return len(list(folder.glob(f"*{CLOSED}")))

    assert asyncio.run(write(tmp_path / "size", rotate_bytes=10)) == 2
    assert asyncio.run(write(tmp_path / "age", rotate_s=0.02)) == 2


def test_a_file_that_is_cut_anywhere_in_its_last_block_is_read_up_to_it_and_the_rest_is_told() -> None:
    whole = first_line() + b"".join(blocks([line(click("u1", "a"), "u1")]))
    content = whole + b"".join(blocks([line(click("u1", "b"), "u1")]))
    for end in range(len(whole), len(content)):
        reader = Reader(BytesIO(content[:end]))
        assert [one["object_id"] for block in reader for one in block] == ["a"]
        assert reader.cut == end - len(whole)
    flipped = bytearray(content)
    flipped[-1] ^= 1
    reader = Reader(BytesIO(flipped))
    assert len(list(reader)) == 1 and reader.cut == len(content) - len(whole)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"[1]\n", b"\xff\xfe", struct.pack("<II", 9, 9)])
def test_what_is_no_journal_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(NotReadable, match="no journal"):
        Reader(BytesIO(content))


def test_a_journal_of_another_version_is_refused_in_words() -> None:
    with pytest.raises(NotReadable, match="a journal of version 99, this release reads 1"):
        Reader(BytesIO(b'{"format": "bst-ranker journal", "version": 99}\n'))


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files may grow to that many bytes, as on a disk that is full after them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_drops_impressions_refuses_events_and_spoils_nothing_that_comes_after(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    async def write() -> None:
        async with journal(tmp_path, metrics) as kept:
            await kept.append([click("u1", "a")])
            [path] = tmp_path.glob(f"*{OPEN}")
            with room(path.stat().st_size + 20):  # half a block
                for _ in range(2):
                    kept.shown("u2", lambda: impression("u2"))
                    with pytest.raises(JournalFull, match="File too large"):
                        await kept.append([click("u1", "b")])
            await kept.append([click("u1", "c")])

    with caplog.at_level("INFO"):
        asyncio.run(write())
    assert [one.object_id for one in told(tmp_path) if isinstance(one, Event)] == ["a", "c"]
    assert counted(metrics, "event", "full") == 2 and counted(metrics, "impression", "full") == 2
    told_of = [one.message for one in caplog.records if "journal" in one.message]
    assert len(told_of) == 2 and "File too large" in told_of[0] and "4 records were dropped" in told_of[1]


def test_a_folder_that_vanishes_refuses_events_until_it_is_there_again(tmp_path: Path, metrics: Metrics) -> None:
    folder = tmp_path / "j"
    folder.mkdir()

    async def write() -> None:
        async with journal(folder, metrics) as kept:
            await kept.append([click("u1", "a")])
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
            for _ in range(2):
                with pytest.raises(JournalFull):
                    await kept.append([click("u1", "b")])
            folder.mkdir()
            await kept.append([click("u1", "c")])

    asyncio.run(write())
    assert [one.object_id for one in told(folder) if isinstance(one, Event)] == ["c"]
    assert counted(metrics, "event", "unwritable") == 2


def test_impressions_that_come_faster_than_they_are_written_are_dropped_and_counted(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.journal.kept.MOST_WAITING", 10)

    async def write() -> None:
        async with journal(tmp_path, metrics) as kept:
            for _ in range(25):
                kept.shown("u1", lambda: impression("u1"))

    asyncio.run(write())
    assert len(told(tmp_path)) == 10 and counted(metrics, "impression", "overflow") == 15


def test_events_that_wait_together_are_written_together(tmp_path: Path, metrics: Metrics) -> None:
    async def write() -> None:
        async with journal(tmp_path, metrics) as kept:
            await asyncio.gather(*(kept.append([click("u1", str(at))]) for at in range(50)))
            with pytest.raises(JournalFull, match="closed"):
                await kept.close()
                await kept.append([click("u1", "late")])

    asyncio.run(write())
    [path] = tmp_path.iterdir()
    with path.open("rb") as file:
        sizes = [len(block) for block in Reader(file)]
    assert sum(sizes) == 50 and len(sizes) <= 2


def test_the_sample_keeps_whole_users_and_a_salt_hides_them_the_same_in_every_process(
    tmp_path: Path, metrics: Metrics
) -> None:
    some, salted = Users(0.3), Users(0.3, "secret")
    users = [f"u{at}" for at in range(2000)]
    kept = [user for user in users if some.keeps(user)]
    assert 500 < len(kept) < 700 and kept == [user for user in users if salted.keeps(user)]
    assert Users(0.3, "secret").name("u1") == salted.name("u1") != Users(1, "other").name("u1")
    assert len({salted.name(user) for user in users}) == len(users)

    async def write() -> None:
        async with journal(tmp_path, metrics, salted) as one:
            for user in users[:50]:
                one.shown(user, partial(impression, user))
                await one.append([click(user, "a"), click(user, "b")])
            await one.append([Forgotten(users[0], 1, 2), Forgotten(users[1], 1, 2)])

    asyncio.run(write())
    found = told(tmp_path)
    names = {salted.name(user) for user in users[:50] if some.keeps(user)}
    assert {one.user_id for one in found if isinstance(one, Event)} == names
    assert {one.user_id for one in found if isinstance(one, Impression)} == names
    # who is forgotten may have been in a larger sample before
    assert {one.user_id for one in found if isinstance(one, Forgotten)} == set(map(salted.name, users[:2]))
    assert not any(b"u1" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_file_without_records_leaves_nothing(tmp_path: Path) -> None:
    JournalFile(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_behaviours_stay_what_they_are() -> None:
    read = record(_one(line(impression("u"), "u")))
    assert isinstance(read, Impression) and isinstance(read.behaviours[0], Behaviour)
