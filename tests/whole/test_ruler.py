"""/metrics beside the load test: the same requests, the same figures."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from loadtest import ruler
from loadtest.errors import NoRun
from loadtest.generator.answers import Log
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Answer
from loadtest.generator.plan import Body
from loadtest.verdict.report import judge
from tests.processes import offspring

BUDGET = Budget("one", 10, 1, 1, p50_ms=100, p99_ms=100, errors=0, warmup_s=0)
BODY = Body(b'{"candidates":["a"]}', 1)
RIGHT = b'{"items":[{"item_id":"a","score":0.5}],"timings_ms":{"score":1.0,"total":3.0}}'


def answered(timing: bytes, content: bytes = RIGHT) -> Log:
    """Ten requests, the n-th answered after 10 + n ms."""
    log = Log(np.arange(10) / 10, [BODY])
    for request, due_s in enumerate(log.due_s.tolist()):
        log.sent(request, due_s)
        log.answered(request, due_s + 0.010 + request / 1000, Answer(0.0, 200, content, None, timing))
    log.close(2.0)
    return log


def test_the_way_is_each_requests_time_less_the_services_own_total() -> None:
    stages = judge(BUDGET, answered(b"score;dur=1.0, total;dur=4.0")).stages
    assert stages["network"] == pytest.approx({"p50_ms": 10.0, "p99_ms": 15.0})  # 14 and 19, less 4
    assert stages["total"] == {"p50_ms": 4.0, "p99_ms": 4.0}  # the header's, which counts the writing of the answer


def test_without_a_total_nothing_is_said_of_the_way() -> None:
    content = b'{"items":[{"item_id":"a","score":0.5}]}'
    assert judge(BUDGET, answered(b"score;dur=1.0", content)).stages.keys() == {"score"}


def test_a_runs_quantiles_stand_beside_the_metrics() -> None:
    seen = ruler.Seen(answered(b"total;dur=4.0"), np.full(5, 0.009), {0.5: 0.004, 0.9: 0.0041, 0.99: 0.0042})
    found = ruler.quantiles(seen, BUDGET)
    assert found["send"] == [14, 18, 19] and found["network"] == [10, 14, 15] and found["probe"] == [9, 9, 9]
    assert found["inside"] == [4, 4, 4] and found["metrics"] == pytest.approx([4, 4.1, 4.2])


@pytest.mark.parametrize(
    ("log", "probes", "said"),
    [
        (answered(b"total;dur=4.0", b"{}"), [0.009], "10 of 10 requests went wrong: no items with scores"),
        (answered(b"", b'{"items":[{"item_id":"a","score":0.5}]}'), [0.009], "without a Server-Timing"),
        (answered(b"total;dur=4.0"), [math.nan], "without a Server-Timing"),
        (answered(b"total;dur=4.0"), [], "none to /health/live"),
    ],
)
def test_a_run_that_proves_nothing_is_refused(log: Log, probes: list[float], said: str) -> None:
    with pytest.raises(NoRun, match=said):
        ruler.quantiles(ruler.Seen(log, np.array(probes), dict.fromkeys(ruler.SHARES.values(), 0.004)), BUDGET)


def test_a_scrape_without_rank_is_refused() -> None:
    with pytest.raises(NoRun, match="has no ranker_response_time_seconds"):
        ruler.scraped_s('ranker_response_time_seconds{route="/model",stage="total",outcome="ok",quantile="0.5"} 1.0\n')


@pytest.mark.long
def test_metrics_of_several_workers_are_within_five_percent_of_the_load_tests_times_less_the_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with offspring():
        assert ruler.main(["--quick", "--out", str(tmp_path / "ruler.png")]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["requests"] > 40 and figures["probes"] > 10
    for share in ("p50", "p90", "p99"):
        assert figures[f"metrics_over_inside_{share}"] == pytest.approx(1, abs=0.05)
        assert 0 < figures[f"network_{share}_ms"] < figures[f"send_{share}_ms"]
    if len(os.sched_getaffinity(0)) > 1:
        assert figures["accepted_2x"] > 0
        assert all(math.isfinite(figures[f"metrics_over_raw_2x_{share}"]) for share in ("p50", "p90", "p99"))
    else:
        assert "two are needed" in figures["note"]
    assert (tmp_path / "ruler.png").stat().st_size > 10_000


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ruler.main(["--rate", "0"])
    assert ended.value.code == 2 and "integers of at least 1" in capsys.readouterr().err
