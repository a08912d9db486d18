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
from tests.worlds import COUPONS, HOUR, make_schema, write_log

DELAY_S = 6 * 3600
DELAY = 6 * HOUR
GROUPS = ("", "coupon_")


def encoded(folder: Path, delay_s: float, behaviours: pl.DataFrame | None = None) -> Prepared:
    """The small log, with other behaviours where some are given."""
    write_log(folder)
    if behaviours is not None:
        behaviours.write_parquet(folder / "tables" / "behaviours.parquet")
    how = Options(delay_s=delay_s, processes=1)
    encode_tables(folder, make_schema(5, groups=[COUPONS]), DataSet("log", "UTC"), None, how)
    return Prepared(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return encoded(tmp_path_factory.mktemp("plain"), 0)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The same log, prepared with the delay."""
    return encoded(tmp_path_factory.mktemp("late"), DELAY_S)


def test_histories_end_at_the_last_behaviour_strictly_before_now_less_the_delay(late: Prepared) -> None:
    for group in GROUPS:
        begin, times = late.arrays[f"{group}begin"], late.arrays[f"{group}clicked_at"]
        bound = np.append(begin[1:], len(times))
        for row, user in enumerate(late.user):
            known = times[begin[user] : bound[user]] < late.time[row] - DELAY
            assert late.arrays[f"{group}end"][row] == begin[user] + known.sum()


def test_data_delayed_later_are_those_that_were_prepared_with_the_delay(plain: Prepared, late: Prepared) -> None:
    delayed, back = plain.delayed(DELAY_S), late.delayed(0)
    for group in GROUPS:
        np.testing.assert_array_equal(delayed.arrays[f"{group}end"], late.arrays[f"{group}end"])
        np.testing.assert_array_equal(back.arrays[f"{group}end"], plain.arrays[f"{group}end"])
        assert (plain.arrays[f"{group}end"] > late.arrays[f"{group}end"]).any()
    rows = np.arange(len(plain.time))
    for name, values in late.batch(rows).items():
        np.testing.assert_array_equal(delayed.batch(rows)[name], values, err_msg=name)
    assert [one.delay_s for one in (plain, delayed, late, back)] == [0, DELAY_S, DELAY_S, 0]
    assert len({one.fingerprint for one in (plain, delayed, late, back)}) == 4, "what is kept by it would be mixed"


def test_gaps_are_counted_from_the_impression_all_the_same(late: Prepared) -> None:
    rows = np.flatnonzero(late.arrays["end"] > late.arrays["begin"][late.user])
    newest = late.arrays["clicked_at"][late.arrays["end"][rows] - 1]
    expected = time_positions(newest[:, None], late.time[rows], late.schema.history.gap_edges_s)[:, 0]
    gap = late.batch(rows)["gap"]
    np.testing.assert_array_equal(gap[np.arange(len(rows)), (gap > 0).sum(1) - 1], expected)


@pytest.mark.parametrize("delay_s", [DELAY_S, 0])
def test_what_is_done_within_the_delay_changes_nothing(delay_s: int, plain: Prepared, tmp_path: Path) -> None:
    """Behaviours of the last hours before `now`, and after it, are shuffled, and more are planted among them."""
    now, draw = int(plain.time[-1]) - HOUR, np.random.default_rng(2)
    log = pl.read_parquet(plain.folder / "tables" / "behaviours.parquet")
    newer = pl.col("timestamp") >= now - DELAY
    shuffled = log.filter(newer).with_columns(pl.col("object_id").shuffle(seed=2).over("object_type"))
    planted = log.sample(500, seed=2).with_columns(timestamp=now - DELAY + pl.Series(draw.integers(DELAY, size=500)))
    other = encoded(tmp_path, delay_s, pl.concat([log.filter(~newer), shuffled, planted]))
    before = plain.delayed(delay_s)
    rows = np.flatnonzero((plain.time <= now) & (plain.time > now - DELAY))
    of = before.batch(rows), other.batch(rows)
    assert len(rows) > 50 and (of[0]["gap"] > 0).any()
    differing = {name for name in of[0] if not np.array_equal(of[0][name], of[1][name])}
    leaks = {"history", "gap", "history_coupon", "gap_coupon", "action_coupon"}  # of items, clicks alone are read
    assert differing == (set() if delay_s else leaks), "without a delay, all must differ: else no leak would be seen"


def test_recorded_requests_know_what_the_network_knew(late: Prepared) -> None:
    requests = golden.requests(late, late.of_split("test"), 50, 1, np.random.default_rng(0))
    ages = [request["now"] - behaviour[-1] for request in requests for behaviour in request["behaviours"]]
    assert DELAY < min(ages) < 2 * DELAY


def test_the_summary_tells_the_delay(plain: Prepared, late: Prepared) -> None:
    told = ["the last 21600 s before an impression" in "\n".join(lines(data.meta, 5)) for data in (plain, late)]
    assert told == [False, True]


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
    assert reproduce.main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), f"--delay=0,{text}"]) == 1
    assert capsys.readouterr().err.startswith("reproduce: arguments: --delay ")


def test_the_command_prepares_with_a_delay_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--dataset", "simulated", "--impressions", "2000", "--processes", "1", "--delay", "1h"]
    assert prepare.main([*arguments, "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["delay_s"] == 3600 == Prepared(out).delay_s


def test_figures_by_delay_are_those_of_the_delayed_data(
    small_bundle: Bundle, small_data: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--bundle", str(small_bundle.folder), "--data", str(small_data.folder), "--split", "train"]
    assert evaluate.main([*command, "--delay", "0,9d"]) == 0
    printed = capsys.readouterr().out.splitlines()
    figures = json.loads(printed[-1])
    now, never = figures["by_delay"]
    assert figures["delay_s"] == 0 and (now["auc"], now["logloss"]) == (figures["auc"], figures["logloss"])
    assert [row["delay_s"] for row in figures["by_delay"]] == [0, 777_600]
    assert never["auc"] < now["auc"] and never["with_history"] < now["with_history"]
    assert min(now["history_age_s"]) < 86_400 < 777_600 < min(never["history_age_s"] or [np.inf])
    assert any(line.split()[:1] == ["777600"] for line in printed), "no line of the table has the delay"


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
