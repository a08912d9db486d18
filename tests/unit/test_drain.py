"""The drain: journals become the same tables however often it is killed, and who is forgotten is gone from all."""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from model.files import held
from model.servicelog.records import Forgotten, Profile, Record
from model.servicelog.tables import SCHEMAS
from service import drain as verb
from service.drained import files
from service.drained.drain import drain
from service.drained.out import Out
from service.journal.file import CLOSED, OPEN, JournalFile
from service.journal.framing import blocks
from service.journal.lines import line
from tests.records import DAY_MS, NOW, click, impression, shadowed

US = NOW * 1000


class Killed(BaseException):
    """As kill -9: nothing that comes after is done."""


def written(folder: Path, records: Sequence[Record]) -> Path:
    folder.mkdir(exist_ok=True)
    file = JournalFile(folder)
    for one in records:
        file.append(b"".join(blocks([line(one, one.user_id)])))
    file.close()
    return next(folder.glob(f"{file.path.stem}.*"))


def tables(out: Path) -> dict[str, list[str]]:
    """Every table's rows, and no table twice."""
    found = {}
    for name, schema in SCHEMAS.items():
        paths = sorted(out.glob(f"{name}/**/*.parquet"))
        frames = [pl.read_parquet(path, hive_partitioning=False) for path in paths]
        assert all(frame.schema == schema for frame in frames)
        for path, frame in zip(paths, frames, strict=True):
            if "day=" in path.parent.name and "now" in schema:
                days = {str(day) for day in pl.from_epoch(frame["now"], "ms").dt.date()}
                assert days <= {path.parent.name.removeprefix("day=")}
        found[name] = sorted(json.dumps(row, default=str) for frame in frames for row in frame.rows())
    return found


def run(folder: Path, out: Path, *options: str) -> int:
    return verb.main(["--journal", str(folder), "--out", str(out), *options])


SOME: list[Record] = [
    impression("u1"),
    impression("u2", now=NOW + DAY_MS),
    click("u1", "a"),
    click("u2", "b", NOW + DAY_MS),
    Profile("u2", {"age": "30"}, False, US, US + 1),
    shadowed("u1"),
]


def test_each_record_is_in_its_days_table_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "j", SOME)
    assert run(tmp_path / "j", tmp_path / "out") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"files": 1, "impressions": 2, "events": 2, "users": 1, "shadows": 1, "cut_bytes": 0}.items() <= told.items()
    assert not path.exists()
    shown = pl.read_parquet(tmp_path / "out" / "impressions" / "day=2027-01-15" / f"{path.stem}.parquet")
    assert shown["user_id"].to_list() == ["u1"] and shown["items"][0][1]["position"] == 2
    assert json.loads(shown["profile"][0]) == {"age": "30"} and shown["behaviours"][0][0]["object_id"] == "z"
    before = tables(tmp_path / "out")
    assert run(tmp_path / "j", tmp_path / "out") == 0  # nothing new
    assert tables(tmp_path / "out") == before and {name: len(rows) for name, rows in before.items()} == {
        "impressions": 2,
        "events": 2,
        "users": 1,
        "shadows": 3,  # a row an item
        "forgotten": 0,
    }


def test_a_live_worker_keeps_its_file_and_a_dead_ones_is_drained(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    folder.mkdir()
    file = JournalFile(folder)
    file.append(b"".join(blocks([line(click("u1", "a"), "u1")])))
    assert drain(folder, Out(str(tmp_path / "out")), print).live == 1 and file.path.exists()
    os.close(file._fd)  # as its death does
    assert drain(folder, Out(str(tmp_path / "out")), print).events == 1 and not file.path.exists()


class Dying(Out):
    """Dies before or after the step that `left` counts down to."""

    def __init__(self, where: str, left: int):
        super().__init__(where)
        self.left = left

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def _put(self, frame: pl.DataFrame, path: str) -> None:
        self.step()
        super()._put(frame, path)
        self.step()

    def finish(self, path: Path, into: str | None) -> None:
        self.step()
        files.finish(path, into)
        self.step()


def test_killed_at_any_step_and_begun_again_it_writes_the_same_tables(tmp_path: Path) -> None:
    def journal(folder: Path) -> Path:
        names = [written(folder, SOME), written(folder, [click("u3", "c"), Forgotten("u1", US + 1, US + 2000)])]
        for at, path in enumerate(names):  # the same on each try
            path.rename(path.with_name(f"{at}{CLOSED}"))
        return folder

    drain(journal(tmp_path / "j"), Out(str(tmp_path / "whole")), print)
    whole = tables(tmp_path / "whole")
    assert len(whole["impressions"]) == 1 and len(whole["events"]) == 2 and len(whole["forgotten"]) == 1
    steps = 0
    while True:
        out = tmp_path / f"out{steps}"
        folder = journal(tmp_path / f"j{steps}")
        dying = Dying(str(out), steps)
        try:
            drain(folder, dying, print, finish=dying.finish)
        except Killed:
            drain(folder, Out(str(out)), print)
            assert tables(out) == whole, f"after {steps} steps"
            assert not list(folder.glob(f"*{CLOSED}"))
            steps += 1
        else:
            break
    assert steps > 15


def test_who_is_forgotten_is_gone_from_tables_that_are_there_and_that_come_later(tmp_path: Path) -> None:
    folder, out = tmp_path / "j", tmp_path / "out"
    written(folder, [*SOME, Profile("u1", {"age": "3"}, True, US, US + 5)])
    assert run(folder, out) == 0
    later = impression("u1", "r2", read_us=US + 5000)
    written(folder, [Forgotten("u1", US + 1000, US + 2000), later])
    written(folder, [click("u1", "late"), click("u2", "kept")])
    assert run(folder, out) == 0
    written(folder, [click("u1", "later still"), click("u1", "after", NOW + 10)])
    assert run(folder, out) == 0
    left = {name: [row for row in rows if '"u1"' in row] for name, rows in tables(out).items()}
    assert len(left["impressions"]) == 1 and '"r2"' in left["impressions"][0]
    assert len(left["events"]) == 1 and '"after"' in left["events"][0]
    assert not left["shadows"]
    assert len(left["users"]) == 1 and "null" in left["users"][0]  # that it was forgotten
    assert len([row for row in tables(out)["events"] if '"u2"' in row]) == 2


def test_journals_and_tables_of_before_response_times_were_kept_are_drained(tmp_path: Path) -> None:
    folder, out = tmp_path / "j", tmp_path / "out"
    folder.mkdir()
    file = JournalFile(folder)
    older = json.loads(line(impression("u1"), "u1"))
    del older["took_us"]
    file.append(b"".join(blocks([json.dumps(older).encode(), line(replace(impression("u2"), took_us=7), "u2")])))
    file.close()
    assert run(folder, out) == 0
    (table,) = out.glob("impressions/*/*.parquet")
    frame = pl.read_parquet(table, hive_partitioning=False)
    assert frame["took_us"].to_list() == [0, 7]
    frame.drop("took_us").write_parquet(table)
    written(folder, [Forgotten("u1", US + 1000, US + 2000), impression("u3")])
    assert run(folder, out) == 0
    left = [pl.read_parquet(path, hive_partitioning=False) for path in out.glob("impressions/*/*.parquet")]
    assert sorted(user for frame in left for user in frame["user_id"]) == ["u2", "u3"]


def test_rows_that_another_machine_has_put_back_are_forgotten_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "j", tmp_path / "out"
    written(folder, SOME)
    assert run(folder, out) == 0
    table = min(out.glob("impressions/*/*.parquet"))  # u1's day
    read_before = table.read_bytes()
    written(folder, [Forgotten("u1", US + 1000, US + 2000)])
    assert run(folder, out) == 0
    table.write_bytes(read_before)  # by a machine that removes another user from it at the same time
    assert [row for row in tables(out)["impressions"] if '"u1"' in row]

    for removed in (1, 0):
        assert verb.main(["--forget-again", "--out", str(out)]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["forgotten_rows"] == removed
        assert not [row for row in tables(out)["impressions"] if '"u1"' in row]
    assert [row for row in tables(out)["impressions"] if '"u2"' in row]


@pytest.mark.parametrize("arguments", [["--out", "x"], ["--out", "x", "--journal", "j", "--forget-again"]])
def test_a_drain_has_a_journal_or_forgets(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        verb.main(arguments)


def test_where_else_a_forgotten_users_records_may_lie_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "j", tmp_path / "out"
    written(folder, SOME)
    assert run(folder, out, "--keep") == 0
    written(folder, [Forgotten("u1", US + 1000, US + 2000)])
    assert run(folder, out) == 0
    [told] = capsys.readouterr().err.splitlines()
    assert str(folder / files.KEPT) in told and str(folder / files.ASIDE) not in told and "remove" in told
    written(folder, [click("u2", "c")])
    assert run(folder, out) == 0 and not capsys.readouterr().err, "it is told when somebody is forgotten"


class Overtaken(Out):
    """Another machine's drain is at work between this one's steps: all that it does is done at step `at`."""

    def __init__(self, where: str, at: int, other: Callable[[], object]):
        super().__init__(where)
        self.left, self.other = at, other

    def _put(self, frame: pl.DataFrame, path: str) -> None:
        if self.left == 0:
            self.other()
        self.left -= 1
        super()._put(frame, path)


def test_two_machines_drains_into_one_place_lose_and_double_nothing_but_may_undo_what_the_other_forgot(
    tmp_path: Path,
) -> None:
    undone = 0
    for at in range(12):
        out, here, there = tmp_path / f"out{at}", tmp_path / f"here{at}", tmp_path / f"there{at}"
        written(here, [*SOME, click("u3", "c"), click("u4", "d")])
        drain(here, Out(str(out)), print)
        written(here, [Forgotten("u1", US + 1, US + 2000), click("u5", "e")])
        written(there, [Forgotten("u3", US + 1, US + 2000), click("u1", "f"), click("u6", "g")])
        other = partial(drain, there, Out(str(out)), print)
        overtaken = Overtaken(str(out), at, other)
        drain(here, overtaken, print)
        if overtaken.left >= 0:
            break
        events = Counter(json.loads(row)[1] for row in tables(out)["events"])
        assert {user: events[user] for user in ("u2", "u4", "u5", "u6")} == dict.fromkeys(("u2", "u4", "u5", "u6"), 1)
        undone += events["u1"] + events["u3"]
        assert verb.main(["--forget-again", "--out", str(out)]) == 0
        assert {json.loads(row)[1] for row in tables(out)["events"]} == {"u2", "u4", "u5", "u6"}
    assert at > 3 and undone


def test_what_is_cut_or_no_journal_or_of_another_version_is_told_and_kept_and_the_others_are_drained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "j", tmp_path / "out"
    cut = written(folder, [click("u1", "whole"), click("u1", "cut")])
    os.truncate(cut, cut.stat().st_size - 5)
    (folder / f"1{CLOSED}").write_bytes(b"not one\n")
    (folder / f"2{CLOSED}").write_bytes(b'{"format": "bst-ranker journal", "version": 7}\n')
    (folder / "notes.txt").write_text("?")
    written(folder, [click("u1", "other")])
    assert run(folder, out) == 1
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 4 and all(one.startswith("drain: ") for one in lines)
    for name, why in ((cut.name, "cut, its last"), ("1.", "no journal:"), ("2.", "version 7"), ("notes.txt", "left")):
        assert [one for one in lines if name in one and why in one], (name, why, lines)
    assert Counter(
        item for item in ("whole", "other", "cut") for row in tables(out)["events"] if f'"{item}"' in row
    ) == {
        "whole": 1,
        "other": 1,
    }
    told = json.loads(said.out.splitlines()[-1])
    assert told["files"] == 2 and told["cut_bytes"] > 5 and told["refused_files"] == 3
    assert {path.name for path in (folder / files.ASIDE).iterdir()} == {cut.name, f"1{CLOSED}", f"2{CLOSED}"}
    (folder / "notes.txt").unlink()
    assert run(folder, out) == 0


def test_two_drains_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "j"
    written(folder, SOME)
    with held(folder / files.LOCK):
        assert run(folder, tmp_path / "out") == 1
    assert f"another drain (process {os.getpid()})" in capsys.readouterr().err
    assert run(folder, tmp_path / "out", "--keep") == 0
    assert len(list((folder / files.KEPT).iterdir())) == 1


@pytest.mark.parametrize(
    ("journal", "out", "why"),
    [("gone", "out", "gone is not there"), ("file", "out", "is a file"), (".", "ftp://x", "a folder, s3://")],
)
def test_what_cannot_be_drained_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], journal: str, out: str, why: str
) -> None:
    (tmp_path / "file").touch()
    where = out if "://" in out else str(tmp_path / out)
    assert verb.main(["--journal", str(tmp_path / journal), "--out", where]) == 1
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


def test_a_file_that_its_owner_closes_meanwhile_is_left_for_the_next_pass(tmp_path: Path) -> None:
    with files.taken(tmp_path / f"gone{OPEN}") as file:
        assert file is None
