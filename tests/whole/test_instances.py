"""Two instances behind a balancer on a cluster, in tiny sizes. For figures: `python -m loadtest.instances`."""

import json
import os
import subprocess
import sys

import pytest

from loadtest.rolling import balancer, prometheus
from loadtest.rolling.findings import TIMES
from tests.processes import ROOT, offspring

MOST_S = 580


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not balancer.installed(), reason="haproxy is not installed")
@pytest.mark.skipif(not prometheus.installed(), reason="prometheus is not installed")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core for the services, one for their load")
def test_several_instances_lose_and_cross_nothing_while_a_primary_dies_and_all_is_renewed() -> None:
    command = [sys.executable, "-m", "loadtest.instances", "--quick"]
    with offspring():
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=MOST_S)
    assert done.returncode == 0, done.stdout + done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["sent"] == line["answered"] > 100 and line["unmet"] == []
    assert list(line["acts"]) == ["steady", "failover", "publishing", "renewal"]
    assert all(line[name] > 0 for name in TIMES)
    assert all(0.5 < line[f"recorded_over_inside_{share}"] < 2 for share in ("p50", "p90", "p99")), "of few requests"
