"""What the drain tells of the last hours, and how a scrape shows it."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest

from model.servicelog.records import BUILTIN, Event, Impression
from service import drain as verb
from service.drained import lately
from service.journal.file import JournalFile
from service.journal.framing import blocks
from service.journal.lines import line
from service.telemetry.form import Form
from service.telemetry.lately import link
from service.telemetry.reader import Reader
from tests.records import click, impression

HOUR_MS = 3_600_000


def journal(folder: Path, *records: Impression | Event) -> None:
    folder.mkdir(exist_ok=True)
    file = JournalFile(folder, worker=0)
    file.append(b"".join(blocks([line(one, one.user_id) for one in records])))
    file.close()


def shown(user: str, now: int, request: str, version: str = "1", replay: bool = False) -> Impression:
    return replace(impression(user, request, now), version=version, replay=replay)


def test_clicks_and_predictions_of_the_last_hours_are_told_by_model_and_place(tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    old, late, fresh = now - 3 * HOUR_MS, now - HOUR_MS, now - 60_000
    journal(
        tmp_path / "journal",
        *(shown(f"u{n}", late, f"r{n}") for n in range(10)),  # items a (.5) and b (.25) each
        *(shown(f"v{n}", late, f"s{n}", "2") for n in range(4)),
        replace(shown("c", late, "by chance"), model="random", precision=BUILTIN),
        *(click(f"u{n}", "a", late + 5, f"r{n}") for n in range(3)),
        click("u0", "a", late + 9, "r0"),  # the same impression's
        click("u9", "b", late + 29 * 60_000, "r9"),
        click("u8", "b", late + 31 * 60_000, "r8"),  # too late
        click("v0", "z", late + 5, "s0"),  # was not shown
        shown("w", fresh, "t"),  # may still be clicked
        shown("w", old, "x"),
        shown("w", late, "y", replay=True),
    )
    assert verb.main(["--journal", str(tmp_path / "journal"), "--out", str(tmp_path / "out"), "--lately", "2"]) == 0
    told = json.loads((tmp_path / "journal" / "lately.json").read_text())
    assert told["hours"] == 2 and abs(told["until_s"] - (now / 1000 - 1800)) < 60
    names = ("model", "version", "variant", "position", "impressions", "clicks", "predicted")
    assert [tuple(row[name] for name in names) for row in told["rows"]] == [
        ("bst", "1", "", 1, 10, 3, 5.0),
        ("bst", "1", "", 2, 10, 1, 2.5),
        ("bst", "2", "", 1, 4, 0, 2.0),
        ("bst", "2", "", 2, 4, 0, 1.0),
        ("random", "1", "", 1, 1, 0, 0.0),  # whose scores predict nothing
        ("random", "1", "", 2, 1, 0, 0.0),
    ]
    assert verb.main(["--journal", str(tmp_path / "journal"), "--out", str(tmp_path / "out")]) == 0, "it is no journal"

    told["until_s"] = 7.5
    (tmp_path / "journal" / "lately.json").write_text(json.dumps(told))
    counts = tmp_path / "counts"
    counts.mkdir()
    link(counts, tmp_path / "journal")
    text = Reader(counts, Form({}, ())).render()[0].decode()
    assert 'ranker_live_clicks{model="bst",position="1",variant="",version="1"} 3' in text
    assert 'ranker_live_predicted_clicks{model="bst",position="2",variant="",version="2"} 1' in text
    assert "ranker_live_until_timestamp_seconds 7.5" in text


def test_many_places_are_told_as_one_and_a_log_without_these_days_as_nothing(tmp_path: Path) -> None:
    assert lately.figures(str(tmp_path), 0, 10, 5, "click", "item") == []


@pytest.mark.parametrize("content", [None, "{", "{}", '{"until_s": 1, "rows": [{}]}', '{"until_s": 1, "rows": 3}'])
def test_a_scrape_goes_on_whatever_is_told(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "journal").mkdir()
    link(tmp_path, tmp_path / "journal")
    if content is not None:
        (tmp_path / "journal" / "lately.json").write_text(content)
    lines = Reader(tmp_path, Form({}, ())).render()[0].decode().splitlines()
    assert not [one for one in lines if one.startswith("ranker_live_") and not one.startswith("ranker_live_until")]
    [until] = [one for one in lines if one.startswith("ranker_live_until")]
    assert math.isnan(float(until.split()[1]))
