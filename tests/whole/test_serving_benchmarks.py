"""The serving benchmarks: their bundles are ones that the service takes, their commands say what is relied on."""

import json
import math
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest import networks, overhead, scale
from loadtest.bench import caller, processes, turns, users
from loadtest.bench.bundles import FORMAT, bundle
from loadtest.bench.plot import plot
from loadtest.bench.users import HISTORY, made_up_users
from loadtest.errors import NoRun
from loadtest.table import table
from model.bundle.reading import Bundle
from model.prepared.loader import Prepared
from tests.client import get
from tests.processes import finished, offspring, started, wait_until
from tests.verbs import refusal

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="module")
def made_up(cache: Path) -> Bundle:
    return bundle(cache, items=500)


@pytest.fixture(scope="module")
def running(made_up: Bundle) -> Iterator[processes.Service]:
    stored = users.recent_users(500, np.random.default_rng(1))
    settings = {"bundle": made_up.folder, "workers": 1}
    with offspring(), users.store(stored) as url, processes.service(redis_url=url, **settings) as service:
        yield service


def asked(candidates: int = 10, count: int = 3) -> list[bytes]:
    return caller.rank_messages(500, candidates, count, np.random.default_rng(2))


@pytest.mark.long
def test_a_made_up_bundle_has_the_papers_sizes_and_passes_the_services_checks(made_up: Bundle) -> None:
    made_up.verify()
    made_up.replay_golden(made_up.session())
    features = made_up.schema.features
    assert sum(f.width for f in features) == 100 and sum(f.sequence_width for f in features) == 48
    assert made_up.encoder.table_rows(made_up.schema.item_id) == 2 + 500 == 2 + len(made_up.catalog)


@pytest.mark.long
def test_its_items_are_scored_apart_and_every_golden_history_is_full(made_up: Bundle) -> None:
    *users, stranger, with_unknown = made_up.golden()
    scores = np.array([request["scores"] for request in users])
    assert 0.3 < np.log(scores / (1 - scores)).std() < 3
    assert all(len(request["behaviours"]) == HISTORY for request in users)
    assert not stranger["behaviours"] and with_unknown["candidates"][0] == "nothing"


@pytest.mark.long
def test_a_bundle_is_made_once_and_one_that_a_kill_left_half_is_cleared_away(cache: Path, made_up: Bundle) -> None:
    assert bundle(cache, items=500).version == made_up.version
    assert f"format_{FORMAT}" in made_up.name
    left = cache / made_up.name.replace("_500_", "_20_") / ".bundle-99999999"  # of a process that is gone
    left.mkdir(parents=True)
    again = bundle(cache, items=20)
    assert not left.exists() and len(again.catalog) == 20


def test_made_up_users_clicked_before_now_oldest_first() -> None:
    (person,) = made_up_users(1, 50, np.random.default_rng(0))
    times = [when for *_, when in person["behaviours"]]
    assert times == sorted(times) and len(times) == HISTORY


@pytest.mark.long
def test_a_caller_reads_whole_answers_and_connects_anew_after_idling(running: processes.Service) -> None:
    one = caller.Caller(running.port, asked(1000))
    ranked = one.ask()
    assert set(ranked.stages) == set(caller.STAGES)
    assert ranked.client > ranked.stages["total"] > ranked.stages["score"] > 0
    idle = one._connection
    one._answered -= caller.IDLE_S
    assert len(one.several(2, untimed=1)) == 2
    assert one._connection is not idle
    one.close()


@pytest.mark.long
def test_an_answer_that_is_an_error_ends_the_run(running: processes.Service) -> None:
    with pytest.raises(NoRun, match="answered 422"):
        caller.Caller(running.port, [caller.rank_message("u1", [])])
    with pytest.raises(NoRun, match="a user with 20 clicks"):
        caller.Caller(running.port, [caller.rank_message("nobody", ["i1"])])


@pytest.mark.long
def test_a_closed_loop_answers_every_request_it_sent(running: processes.Service) -> None:
    times, rate = caller.closed_loop(running.port, asked(), clients=2, seconds=0.2)
    assert len(times) >= 2 and rate > 0 and min(times) > 0


def test_sides_take_turns_and_each_begins_a_round() -> None:
    seen: list[str] = []
    sides: dict[str, Callable[[], None]] = {name: lambda name=name: seen.append(name) for name in "abc"}
    found = turns.take_turns("letters", 3, sides)
    assert "".join(seen) == "abcbcacab" and [len(of) for of in found.values()] == [3, 3, 3]


def test_neither_side_is_always_started_last() -> None:
    assert [[*turns.starting(number, {"a": 1, "b": 2}).items()] for number in range(3)] == [
        [("a", 1), ("b", 2)],
        [("b", 2), ("a", 1)],
        [("a", 1), ("b", 2)],
    ]


def test_a_ratio_is_that_of_rounds_side_by_side() -> None:
    assert turns.ratio([[10, 10], [40, 40], [90, 90]], [1, 4, 3]) == 10


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match="no bundle"), processes.service(bundle=tmp_path):
        pass


def test_a_benchmarks_service_knows_nothing_of_its_callers_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANKER_BUNDLE", str(tmp_path))
    with processes.service(workers=1) as running:
        assert urllib.request.urlopen(f"{running.url}/health/ready").status == 200
    with pytest.raises(NoRun, match="no bundle"), processes.service(os.environ):
        pass


def test_a_recorded_user_is_as_old_now_as_then() -> None:
    behaviours = [["click", "item", "i", 1_000], ["click", "item", "j", 4_000]]
    user = users.recent({"user_id": "u", "user": {}, "behaviours": behaviours}, then_ms=5_000)
    first, second = (when for *_, when in user["behaviours"])
    assert second - first == 3_000 and abs(time.time_ns() // 1_000_000 - second - 1_000) < 1_000


def test_a_table_is_as_wide_as_its_cells_and_leaves_out_what_is_not_there() -> None:
    text = table("ms", [10, "ratio"], {"ours": [0.1234, 12_345], "theirs": [1234.5, None]})
    assert text.split("\n") == ["ms            10   ratio", "ours       0.123  12,345", "theirs  1,234.50"]


def test_numbers_are_drawn_as_lines_and_names_as_bars_side_by_side() -> None:
    lines, bars = plot({"a": {"one": {1: 2.0, 10: 3.0}}, "b": {"x": {"p50": 1.0}, "y": {"p50": 2.0}}}, "n", "x").axes
    assert len(lines.lines) == 1 and not lines.patches and lines.get_xscale() == "log"
    assert len(bars.patches) == 2 and not bars.lines


def test_the_best_rate_is_one_within_the_p99() -> None:
    rates = {1: {"candidates_per_s": 10.0, "p99_ms": 5.0}, 2: {"candidates_per_s": 20.0, "p99_ms": 21.0}}
    assert overhead.best(rates) == 10.0
    assert overhead.best({2: rates[2]}) is None


def quick(name: str, cache: Path, tmp_path: Path, *more: str) -> dict[str, Any]:
    out = tmp_path / "plot.png"
    done = finished("-m", f"loadtest.{name}", "--quick", "--cache", cache, "--out", out, *more)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.mark.long
def test_overhead_ends_in_the_line_that_scripts_read(
    cache: Path, made_up: Bundle, small_bundle: Bundle, small_data: Prepared, tmp_path: Path
) -> None:
    learnt = ["--bundle", str(small_bundle.folder), "--data", str(small_data.folder)]
    figures = quick("overhead", cache, tmp_path, *learnt)
    assert math.isfinite(figures["rank_over_scoring_500"]) and math.isfinite(figures["not_scoring_ms_100"])
    assert figures["candidates_per_s_core"] is None and "int8" in figures["note"]
    assert "candidates_per_s_core_fp32" in figures  # null where a busy machine misses the p99
    assert set(figures["ms"]) == {"10", "50", "100", "500", "1000"}
    assert set(figures["closed_loop"]["fp32"]) == {"1", "2", "4"}


@pytest.mark.long
def test_networks_ends_in_the_line_that_scripts_read(cache: Path, made_up: Bundle, tmp_path: Path) -> None:
    figures = quick("networks", cache, tmp_path, "--networks", "bst")
    assert set(figures["over_wdl_500"]) == {"bst", "wdl"} and figures["over_wdl_500"]["wdl"] == 1
    assert all(math.isfinite(value) and value > 0 for value in figures["over_wdl_500"].values())


@pytest.mark.long
def test_batches_ends_in_the_line_that_scripts_read(cache: Path, made_up: Bundle, tmp_path: Path) -> None:
    figures = quick("batches", cache, tmp_path)
    assert figures["p99_ratio"] > 0 and math.isfinite(figures["p99_ratio"])
    assert figures["tries"] >= 3 and 0 <= figures["histories_kept"] <= figures["tries"]
    assert 0 <= figures["users_kept_share"] <= 1 and figures["requests"] == 10


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="PSS is Linux's")
def test_scale_ends_in_the_line_that_scripts_read(cache: Path, made_up: Bundle, tmp_path: Path) -> None:
    figures = quick("scale", cache, tmp_path)
    for key in ("p50_ratio_10m_over_10k", "ready_s_10m", "second_worker_memory_share"):
        assert math.isfinite(figures[key]), key
    assert figures["pss_mib_two_workers"]["500"] > figures["pss_mib_one_worker"]["500"] > 50


@pytest.mark.long
def test_bundles_on_smaller_tables_are_ones_that_the_service_takes(cache: Path, made_up: Bundle) -> None:
    smaller = bundle(cache, items=20, tables="int8")
    smaller.verify()
    smaller.replay_golden(smaller.session())
    data = "model.onnx.data"
    assert smaller.tables == "int8"
    assert (smaller.folder / data).stat().st_size < (made_up.folder / data).stat().st_size - 10_000 * 3 * 16, "of users"


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupted_benchmark_leaves_no_process(
    cache: Path, made_up: Bundle, small_bundle: Bundle, small_data: Prepared, tmp_path: Path
) -> None:
    out = tmp_path / "plot.png"
    learnt = ["--bundle", str(small_bundle.folder), "--data", str(small_data.folder)]
    program = ["-m", "loadtest.overhead", "--quick", "--rounds", "100000", *learnt, "--cache", cache, "--out", out]
    with started(*program) as benchmark:

        def under_way() -> bool:
            assert benchmark.process.poll() is None, benchmark.output
            benchmark.children.look()
            return any(ranked_by(port) > 10 for port in benchmark.children.ports())

        wait_until(under_way, benchmark)
        benchmark.process.send_signal(signal.SIGTERM)  # loadtest's own tests send SIGINT too
        assert benchmark.ended() == 130, benchmark.output
        assert "overhead: interrupted" in benchmark.output


def ranked_by(port: int) -> float:
    """How many requests a service has ranked; none where it does not answer yet."""
    try:
        lines = get(f"http://127.0.0.1:{port}/metrics").splitlines()
    except OSError:
        return 0
    return sum(float(line.split()[-1]) for line in lines if re.match(r'ranker_requests_total.*route="/rank"', line))


@pytest.mark.parametrize(
    ("main", "arguments", "said"),
    [
        (overhead.main, ["--out", "curve.svg"], "ends in .png"),
        (overhead.main, ["--cache", str(ROOT / "Makefile")], "Makefile is no folder"),
        (networks.main, ["--networks", "rnn"], "'rnn'"),
        (networks.main, ["--rounds", "0"], "integers of at least 1 are allowed"),
        (networks.main, ["--lengths", "20", "0"], "integers of at least 1 are allowed"),
        (scale.main, ["--items", "0"], "integers of at least 1 are allowed"),
    ],
)
def test_wrong_input_is_one_clear_line(
    main: Callable[[list[str]], int], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, main, arguments)
