"""From an answer to the tables: the service journals, service.drain makes tables, each record is there once."""

import asyncio
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from model.features.sealed import seal
from model.servicelog.records import Event, Forgotten, Profile
from model.servicelog.tables import SCHEMAS
from service import drain as verb
from service.drain import drain
from service.drained.target import Target
from service.journal.files import DONE, MAKING, OPEN, JournalFile
from service.journal.lines import line_of
from tests.client import NOW, client_of, items_of
from tests.stores import write

US = NOW * 1000


def journal_of(folder: Path, *records: Event | Profile | Forgotten, close: bool = True) -> JournalFile:
    """A file with these records, a block each."""
    file = JournalFile(folder, 0)
    for record in records:
        file.append([line_of(record, record.user_id)], sync=False)
    if close:
        file.close()
    return file


def click(user: str, item: str = "i1", us: int = US) -> Event:
    return Event("click", user, "item", item, NOW, None, None, us, us)


def table(out: Path, name: str) -> pl.DataFrame:
    paths = sorted((out / name).rglob("*.parquet"))
    frames = [pl.read_parquet(path, hive_partitioning=False) for path in paths]
    return pl.concat([pl.DataFrame(schema=SCHEMAS[name]), *frames])


def test_what_was_shown_is_in_the_tables_with_all_that_it_was_ranked_by(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    journal, out = tmp_path / "journal", tmp_path / "out"
    journal.mkdir()
    items = items_of(small_bundle, 30)
    clicked = Behaviour("click", "item", items[0], NOW - 5000)
    write(valkey_url, "u1", [clicked], {"age": "25-29", "gender": "f"})
    inline = {"item_id": items[1], "category_id": "c1"}
    body = {"user_id": "u1", "candidates": [*items[2:], inline], "top_k": 29, "context": {"page": 2}}

    async def scenario() -> tuple[dict[str, Any], list[dict[str, Any]], str]:
        async with client_of(small_bundle, valkey_url, journal=journal) as client:
            live = await client.post("/rank", json=body)
            batch = await client.post(
                "/rank/batch", json=[body | {"top_k": 3, "timestamp": NOW}, {"user_id": "u2", "candidates": []}]
            )
            metrics = await client.get("/metrics")
            return live.json(), batch.json(), metrics.text

    live, batch, metrics = asyncio.run(scenario())
    done = drain(journal, Target(str(out)))
    assert (done.files, done.rows["impressions"], done.items) == (1, 2, 32) and not list(journal.glob(f"*{DONE}"))
    rows = {row["replay"]: row for row in table(out, "impressions").to_dicts()}
    row = rows[False]
    assert row["request_id"] == live["request_id"] and row["user_id"] == "u1" and not row["degraded"]
    shown = [(one["item_id"], np.float32(one["score"]), one["position"]) for one in row["items"]]
    assert shown == [(one["item_id"], np.float32(one["score"]), at) for at, one in enumerate(live["items"], 1)]
    assert {one["item_id"]: one["features"] for one in row["items"] if one["features"]} == {
        items[1]: '{"category_id":"c1"}'
    }
    assert json.loads(row["context"]) == {"page": 2} and json.loads(row["profile"]) == {"age": "25-29", "gender": "f"}
    assert row["behaviours"] == [clicked._asdict()]
    sealed = seal(small_bundle.folder / "catalog" / "items.npy", "catalogue")
    assert sealed is not None and row["catalog"] == sealed.sha256
    assert abs(row["now"] - row["read_us"] / 1000) < 60_000 and row["precision"] in ("fp32", "int8")
    replay = rows[True]
    assert replay["now"] == NOW and [one["item_id"] for one in replay["items"]] == [
        one["item_id"] for one in batch[0]["items"]
    ]
    assert 'ranker_journal_records_total{kind="impression",outcome="written"}' in metrics


def test_an_explored_answer_says_so_and_keeps_its_chances(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    items = items_of(small_bundle, 30)
    body = {"user_id": "u1", "candidates": items, "top_k": 8}

    (tmp_path / "journal").mkdir()

    async def scenario() -> list[dict[str, Any]]:
        changed: dict[str, Any] = {"journal": tmp_path / "journal", "explore_share": 1, "explore_top": 5}
        async with client_of(small_bundle, valkey_url, **changed) as client:
            bodies = [body] * 5 + [body | {"timestamp": NOW}]
            return [(await client.post("/rank", json=one)).json() for one in bodies]

    *live, replay = asyncio.run(scenario())
    assert all(one["explored"] is True for one in live) and "explored" not in replay
    plain = [one["item_id"] for one in replay["items"]]
    orders = [[item["item_id"] for item in one["items"]] for one in live]
    assert all(sorted(order[:5]) == sorted(orders[0][:5]) and order[5:] == orders[0][5:] for order in orders)
    assert len({tuple(order) for order in orders}) > 1 and len(plain) == 8
    drain(tmp_path / "journal", Target(str(tmp_path / "out")))
    for row in table(tmp_path / "out", "impressions").to_dicts():
        chances = [item["propensity"] for item in row["items"]]
        drawn = 0 if row["replay"] else 5
        assert all(0 < chance <= 1 for chance in chances[:drawn]) and chances[drawn:] == [None] * (8 - drawn)


def test_files_that_are_written_wait_and_those_of_killed_workers_do_not(tmp_path: Path) -> None:
    journal, out = tmp_path / "journal", tmp_path / "out"
    journal.mkdir()
    living = journal_of(journal, click("alive"), close=False)
    dead = journal_of(journal, click("dead"), click("cut"), close=False)
    os.ftruncate(dead._fd, dead.bytes - 3)
    os.close(dead._fd)  # as the kernel does with a killed process's
    (journal / f"begun{MAKING}").touch()
    done = drain(journal, Target(str(out)))
    assert table(out, "events")["user_id"].to_list() == ["dead"] and done.cut_bytes > 0 and not done.refused
    assert (journal / f"begun{MAKING}").exists(), "it may be a worker's that begins just now"
    living.close()
    assert drain(journal, Target(str(out))).rows["events"] == 1
    assert sorted(table(out, "events")["user_id"]) == ["alive", "dead"]
    assert not [path for path in journal.iterdir() if path.suffix in (DONE, OPEN)]


@pytest.mark.parametrize("at", range(6))
def test_a_drain_that_is_killed_anywhere_does_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Killed: nothing that it would do afterwards is done, not even cleaning up."""
    journal, out = tmp_path / "journal", tmp_path / "out"
    journal.mkdir()
    journal_of(journal, click("u1", us=US - 9), click("u2"), Profile("u1", {"age": "3"}, True, US - 5, US - 5))
    journal_of(journal, Forgotten("u1", US, US), click("u1", "i2", US + 9))
    steps = 0

    class Killed(BaseException):
        pass

    def counting(real: Any) -> Any:
        def step(*args: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > at:
                raise Killed
            return real(*args, **named)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(Target, "write", counting(Target.write))
        patched.setattr(Path, "unlink", counting(Path.unlink))
        try:
            drain(journal, Target(str(out)))
        except Killed:
            pass
    drain(journal, Target(str(out)))
    drain(journal, Target(str(out)))
    assert sorted(table(out, "events").select("user_id", "object_id").rows()) == [("u1", "i2"), ("u2", "i1")]
    assert table(out, "users").select("user_id", "profile").rows() == [("u1", None)]
    assert table(out, "forgotten").rows() == [("u1", US)]
    assert not list(journal.glob(f"*{DONE}"))


def test_who_was_forgotten_goes_from_tables_of_before_and_from_files_that_come_later(tmp_path: Path) -> None:
    journal, out = tmp_path / "journal", tmp_path / "out"
    journal.mkdir()
    journal_of(journal, click("u1", us=US - 9), click("u2"))
    late = journal_of(journal, click("u1", "of before", US - 7), click("u1", "of after", US + 7), close=False)
    drain(journal, Target(str(out)))
    assert len(table(out, "events")) == 2
    journal_of(journal, Forgotten("u1", US, US))
    assert drain(journal, Target(str(out))).removed_rows == 1
    late.close()
    assert drain(journal, Target(str(out))).removed_rows == 1
    assert sorted(table(out, "events").select("user_id", "object_id").rows()) == [("u1", "of after"), ("u2", "i1")]


def test_what_is_no_journal_is_kept_aside_and_named_and_the_rest_is_drained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, out = tmp_path / "journal", tmp_path / "out"
    journal.mkdir()
    journal_of(journal, click("u1"))
    (journal / f"other{DONE}").write_bytes(b"bst-ranker journal 9\n{}\n")
    cut = journal_of(journal, click("u2"), click("u3"))
    content = cut._done.read_bytes()
    cut._done.write_bytes(content[:-3])
    arguments = ["--journal", str(journal), "--out", str(out)]
    assert verb.main(arguments) == 1
    said = capsys.readouterr()
    assert "a journal of version 9; this release reads version 1" in said.err and "are no block" in said.err
    figures = json.loads(said.out.splitlines()[-1])
    assert (figures["files"], figures["events"], len(figures["refused"])) == (2, 2, 2)
    assert len(list((journal / "refused").iterdir())) == 2 and not list(journal.glob(f"*{DONE}"))
    assert verb.main(arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["--journal", "{tmp}/none", "--out", "{tmp}/out"],
            1,
            "none is no folder; RANKER_JOURNAL of the service names",
        ),
        (["--journal", "{tmp}", "--out", "{tmp}/out", "--every", "0"], 2, "seconds above 0 are allowed"),
        (["--out", "{tmp}/out"], 2, "give --journal or set RANKER_JOURNAL"),
        (["--journal", "{tmp}", "--out", "{tmp}/file/out"], 1, "nothing is lost: drain again"),
    ],
)
def test_wrong_input_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "file").touch()
    journal_of(tmp_path, click("u1"))
    try:
        assert verb.main([one.format(tmp=tmp_path) for one in arguments]) == code
    except SystemExit as end:
        assert end.code == code
    assert said in capsys.readouterr().err
    assert len(list(tmp_path.glob(f"*{DONE}"))) == 1, "and nothing is lost"


def test_two_drains_at_once_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / verb.LOCK).open("w") as file:
        file.write("4711")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert verb.main(["--journal", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "process 4711 drains" in capsys.readouterr().err
