"""Feedback delay: what happened shortly before an impression is not known yet, in training and evaluation alike."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model import evaluate, prepare, reproduce
from model.bundle.reading import Bundle
from model.datasets.tables import DataSet, Options
from model.evaluation import delays
from model.evaluation.measure import score_rows
from model.features.timeposition import time_positions
from model.graph import golden
from model.options import OptionError, seconds
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.prepared.summary import lines
from model.reproduction.gather import Finished
from model.reproduction.variants import parse
from tests.unit.test_prepared import DAY, FIRST, schema, tables, write

HOUR = 3_600_000
GROUPS = ("", "coupon_")


def encoded(folder: Path, frames: dict[str, pl.DataFrame], delay_s: float = 0.0) -> Prepared:
    encode_tables(write(folder, frames), schema(), DataSet("log", "UTC"), None, Options(delay_s=delay_s, processes=1))
    return Prepared(folder)


def test_histories_end_at_the_last_behaviour_strictly_before_now_less_the_delay(tmp_path: Path) -> None:
    data = encoded(tmp_path, tables(), 3600)
    for group in GROUPS:
        begin, times = data.arrays[f"{group}begin"], data.arrays[f"{group}clicked_at"]
        bound = np.append(begin[1:], len(times))
        for row in range(len(data.time)):
            user = data.user[row]
            own = times[begin[user] : bound[user]]
            assert data.arrays[f"{group}end"][row] == begin[user] + (own < data.time[row] - HOUR).sum()


def test_data_delayed_later_are_those_that_were_prepared_with_the_delay(tmp_path: Path) -> None:
    plain, prepared = encoded(tmp_path / "plain", tables()), encoded(tmp_path / "delayed", tables(), 3600)
    delayed, back = plain.delayed(3600), prepared.delayed(0)
    for group in GROUPS:
        np.testing.assert_array_equal(delayed.arrays[f"{group}end"], prepared.arrays[f"{group}end"])
        np.testing.assert_array_equal(back.arrays[f"{group}end"], plain.arrays[f"{group}end"])
        assert (plain.arrays[f"{group}end"] > prepared.arrays[f"{group}end"]).any()
    rows = np.arange(len(plain.time))
    for name, values in prepared.batch(rows).items():
        np.testing.assert_array_equal(delayed.batch(rows)[name], values, err_msg=name)
    assert (plain.delay_s, delayed.delay_s, prepared.delay_s, back.delay_s) == (0, 3600, 3600, 0)
    assert len({one.fingerprint for one in (plain, delayed, prepared, back)}) == 4, "what is kept by it would be mixed"


def test_gaps_are_counted_from_the_impression_all_the_same(tmp_path: Path) -> None:
    data = encoded(tmp_path, tables(), 3600)
    rows = np.flatnonzero(data.arrays["end"] > data.arrays["begin"][data.user])
    newest = data.arrays["clicked_at"][data.arrays["end"][rows] - 1]
    expected = time_positions(newest[:, None], data.time[rows], data.schema.history.gap_edges_s)[:, 0]
    gap = data.batch(rows)["gap"]
    np.testing.assert_array_equal(gap[np.arange(len(rows)), (gap > 0).sum(1) - 1], expected)


def test_what_is_done_within_the_delay_or_later_changes_nothing(tmp_path: Path) -> None:
    frames, now, draw = tables(), FIRST + 4 * DAY + 12 * HOUR, np.random.default_rng(2)
    late = frames["behaviours"].filter(pl.col("timestamp") >= now - HOUR)
    early = frames["behaviours"].filter(pl.col("timestamp") < now - HOUR)
    known = frames["behaviours"].filter(pl.col("action") != "look")
    planted = known.sample(500, seed=2).with_columns(timestamp=now - HOUR + draw.integers(HOUR, size=500))
    shuffled = late.with_columns(pl.col("object_id").shuffle(seed=2).over("action"))
    other = frames | {"behaviours": pl.concat([early, shuffled, planted.cast(dict(early.schema))])}
    differs = {}
    for delay_s in (3600, 0):
        one, two = (encoded(tmp_path / f"{n}-{delay_s}", log, delay_s) for n, log in enumerate((frames, other)))
        rows = np.flatnonzero((one.time <= now) & (one.time > now - HOUR))
        assert len(rows) >= 10
        inputs = one.batch(rows), two.batch(rows)
        differs[delay_s] = {name for name in inputs[0] if not np.array_equal(inputs[0][name], inputs[1][name])}
    assert not differs[3600]
    assert {"history", "gap", "action", "history_coupon"} <= differs[0], "the test would not have seen a leak"


def test_recorded_requests_know_what_the_network_knew(tmp_path: Path) -> None:
    data = encoded(tmp_path, tables(), 3600)
    requests = golden.requests(data, data.of_split("test"), 50, 1, np.random.default_rng(0))
    ages = [request["now"] - behaviour[-1] for request in requests for behaviour in request["behaviours"]]
    assert HOUR < min(ages) < 3 * HOUR


def test_the_summary_tells_the_delay(tmp_path: Path) -> None:
    assert "the last 3600 s before an impression" in "\n".join(lines(encoded(tmp_path, tables(), 3600).meta, 5))


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172_800), ("0", 0)]
)
def test_a_duration_is_read_with_or_without_its_unit(text: str, expected: float) -> None:
    assert seconds(text, "here", "--delay") == expected


@pytest.mark.parametrize("text", ["", "-1", "1 h", "1w", "h", "1e3", "inf", "1h30m"])
def test_what_is_no_duration_is_refused(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"here: --delay '.*', allowed: seconds, or a number with one of s, m, h, d"):
        seconds(text, "here", "--delay")
    with pytest.raises(SystemExit):
        prepare.main(["--dataset", "simulated", "--out", str(tmp_path / "out"), f"--delay={text}"])
    assert "allowed: seconds" in capsys.readouterr().err


def test_the_command_prepares_with_a_delay_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--dataset", "simulated", "--impressions", "2000", "--processes", "1", "--delay", "1h"]
    assert prepare.main([*arguments, "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["delay_s"] == 3600 == Prepared(out).delay_s


def test_figures_by_delay_are_those_of_the_delayed_data(
    small_bundle: Bundle, small_data: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--bundle", str(small_bundle.folder), "--data", str(small_data.folder), "--split", "train"]
    assert evaluate.main([*command, "--delay", "0,1h,9d"]) == 0
    printed = capsys.readouterr().out.splitlines()
    figures = json.loads(printed[-1])
    now, later, never = figures["by_delay"]
    assert figures["delay_s"] == 0 and (now["auc"], now["logloss"]) == (figures["auc"], figures["logloss"])
    assert [row["delay_s"] for row in figures["by_delay"]] == [0, 3600, 777_600]
    assert later["auc"] not in (now["auc"], never["auc"])
    assert now["history_age_s"][0] < later["history_age_s"][0] and never["with_history"] < now["with_history"]
    assert any(line.split()[:1] == ["3600"] for line in printed), "no line of the table has the delay"


def test_a_report_has_every_networks_figures_by_delay(
    small_bundle: Bundle, small_data: Prepared, tmp_path: Path
) -> None:
    variant, failed = parse("bst"), parse("din")
    home = tmp_path / "runs" / variant.folder / "1"
    home.mkdir(parents=True)
    (home / "bundle").symlink_to(small_bundle.folder)
    scores = score_rows(small_bundle, small_data, small_data.of_split("test"))
    runs = [Finished(variant, 1, {"bundle": "bundle"}, scores), Finished(failed, 1, {}, None)]
    every = reproduce.by_delay(tmp_path, runs, small_data, [0.0, 3600.0])
    assert every == {"bst": {"1": delays.by_delay(small_bundle, small_data, small_data.of_split("test"), [0, 3600])}}
    assert reproduce.delays_table(every, [0.0, 3600.0]).splitlines()[1].split()[0] == "bst"
