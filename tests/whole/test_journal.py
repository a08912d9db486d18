"""The journal of a service that runs: what a killed process leaves is drained, and a folder that cannot be is told."""

import os
import re
import signal
from pathlib import Path

import orjson
import polars as pl
import pytest

from model.bundle.reading import Bundle
from service import drain
from tests.client import get, post, serving
from tests.processes import Running, cmdline, finished, started, wait_until

APPENDING = """
import asyncio, sys
from functools import partial
from pathlib import Path
from service.journal.kept import FileJournal
from service.journal.users import Users
from service.telemetry.counts import Metrics
from service.telemetry.folder import prepare_folder
from tests.records import click, impression

async def main():
    with prepare_folder(1) as folder:
        journal = FileJournal(Path(sys.argv[1]), Metrics(folder, {}, ()), Users(), rotate_bytes=3000)
        for at in range(1_000_000):
            journal.shown("u", partial(impression, "u", f"r{at}"))
            await journal.append([click("u", f"i{at}")])
            print(f"acknowledged i{at}.", flush=True)

asyncio.run(main())
"""


def rows(out: Path, table: str) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in out.glob(f"{table}/*/*.parquet")])


def test_what_was_acknowledged_before_a_kill_is_drained_once(tmp_path: Path) -> None:
    folder, out = tmp_path / "j", tmp_path / "out"
    folder.mkdir()
    with started("-c", APPENDING, folder, kind=Running) as process:
        wait_until(lambda: "i40." in process.output, process)
        assert drain.main(["--journal", str(folder), "--out", str(out)]) == 0  # beside it
        seen = len(process.output)
        wait_until(lambda: len(process.output) > seen + 200, process)
        process.kill()
        acknowledged = set(re.findall(r"acknowledged (i\d+)\.", process.output))
    assert drain.main(["--journal", str(folder), "--out", str(out)]) in (0, 1)  # 1: it died within a block
    found = rows(out, "events")["object_id"].to_list()
    assert len(found) == len(set(found)) and acknowledged <= set(found)
    assert len(set(found) - acknowledged) <= 1  # written, and killed before it could say so
    shown = rows(out, "impressions")["request_id"].to_list()
    assert len(shown) == len(set(shown)) and len(shown) >= len(found) - 2


def test_a_drain_that_is_told_to_stop_first_takes_what_the_worker_has_left(tmp_path: Path) -> None:
    """As beside a service whose pod ends: the folder goes with it."""
    folder, out = tmp_path / "j", tmp_path / "out"
    folder.mkdir()
    with (
        started("-c", APPENDING, folder, kind=Running) as worker,
        started("-m", "service.drain", "--journal", folder, "--out", out, "--every", "3600") as drainer,
    ):
        wait_until(lambda: (folder / "lately.json").exists() and "i40." in worker.output, drainer)  # one pass is over
        worker.kill()
        drainer.process.terminate()
        assert drainer.ended() in (0, 1), drainer  # 1: it was killed within a block
        acknowledged = set(re.findall(r"acknowledged (i\d+)\.", worker.output))
    found = rows(out, "events")["object_id"].to_list()
    assert len(found) == len(set(found)) and acknowledged <= set(found)


def test_a_killed_workers_impressions_are_drained_but_for_the_last_flush(small_bundle: Bundle, tmp_path: Path) -> None:
    folder, out = tmp_path / "j", tmp_path / "out"
    body = {"user_id": "u1", "candidates": ["i1", {"item_id": "i2"}, "i3"], "top_k": 2}
    settings = {"journal": str(folder), "journal_flush_s": "0.1", "explore_share": "1", "journal_salt": "secret"}
    with serving(bundle=str(small_bundle.folder), **settings) as service:
        answer = post(f"{service.url}/rank", body)
        replayed = post(f"{service.url}/rank", body | {"timestamp": 1_700_000_000_000})
        assert answer["explored"] is True and "explored" not in replayed
        written = 'ranker_journal_records_total{kind="impression",outcome="written"} 2'
        wait_until(lambda: written in get(f"{service.url}/metrics"), service)
        [worker] = [pid for pid in service.children.pids() if b"process.worker" in cmdline(pid)]
        os.kill(worker, signal.SIGKILL)
        arguments = ["--journal", str(folder), "--out", str(out)]
        wait_until(lambda: drain.main(arguments) == 0 and list(out.glob("impressions/*/*")), service)
    found = rows(out, "impressions").sort("replay")
    assert found["request_id"].to_list() == [answer["request_id"], replayed["request_id"]]
    live, replay = found.rows(named=True)
    assert [item["item_id"] for item in live["items"]] == [item["item_id"] for item in answer["items"]]
    assert all(0 < item["propensity"] <= 1 for item in live["items"]) and replay["items"][0]["propensity"] is None
    assert replay["replay"] and replay["now"] == 1_700_000_000_000 and live["read_us"] // 1000 <= live["now"] + 60_000
    assert live["user_id"] == replay["user_id"] != "u1" and re.fullmatch("[0-9a-f]{32}", live["user_id"])
    assert re.fullmatch("[0-9a-f]{64}", live["catalog"]) and live["precision"] in ("fp32", "int8")
    assert orjson.loads(live["context"]) == {}
    assert 0 < live["took_us"] / 1e6 < 60 and live["took_us"] > 1000 * answer["timings_ms"]["score"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"RANKER_JOURNAL": "/proc/nothing/here"}, r"RANKER_JOURNAL=/proc/nothing/here: "),
        (
            {"RANKER_JOURNAL": __file__},
            r"RANKER_JOURNAL=.*test_journal.py stands where a folder is needed|test_journal.py: ",
        ),
        ({"RANKER_EXPLORE_SHARE": "0.1"}, "RANKER_EXPLORE_SHARE=0.1: what is drawn must be written down"),
    ],
)
def test_a_journal_that_cannot_be_written_stops_the_start_in_a_line(settings: dict[str, str], why: str) -> None:
    done = finished("-m", "service", **settings)
    assert done.returncode == 1 and re.search(why, done.stderr) and done.stderr.strip().count("\n") == 0, done.stderr
