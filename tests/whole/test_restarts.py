"""Rolling restarts under load, in tiny sizes: nobody notices. For figures: `python -m loadtest.restarts`."""

import json
import os

import numpy as np
import pytest

from loadtest.rolling.balancer import installed
from loadtest.rolling.stream import Heard, summary
from service.settings import Settings
from tests.processes import finished


@pytest.mark.long
@pytest.mark.skipif("handover" not in Settings.model_fields, reason="there is no RANKER_HANDOVER")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core for the services, one for their load")
def test_nobody_notices_a_release_on_one_host_or_behind_a_balancer() -> None:
    done = finished("-m", "loadtest.restarts", "--quick")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["sent"] > 50 and line["failed_handover"] == 0, done.stdout
    if installed():
        assert line["failed_balancer"] == 0 and line["note"] is None, done.stdout
    else:
        assert line["failed_balancer"] is None and "haproxy is not installed" in line["note"]


def test_a_restart_is_judged_by_what_was_due_within_it() -> None:
    steady = [Heard(at, at + 0.010, "") for at in np.arange(0.0, 10.0, 0.01).tolist()]
    slow = [Heard(at, at + 0.050, "") for at in np.arange(10.0, 11.0, 0.01).tolist()]
    lost = [
        Heard(10.5, 10.6, "cannot connect: Connection refused"),
        Heard(10.5, 10.6, "the connection ended before the answer"),
        Heard(10.5, 10.6, "status 503"),
    ]
    seen = summary([*steady, *slow, *lost], [(10.0, 11.0)])
    assert (seen["sent"], seen["failed"], seen["not_taken"], seen["resets"]) == (1103, 3, 1, 1)
    assert seen["p99_restart_over_steady"] == pytest.approx(5.0, rel=1e-3)
    assert seen["longest_gap_s"] == pytest.approx(0.05, abs=1e-3)
