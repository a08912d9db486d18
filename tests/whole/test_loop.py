"""The loop closes: what users click trains the model that serves them the next day. For figures: `make loop`."""

import json
from pathlib import Path

import pytest

from tests.processes import finished


@pytest.mark.long
def test_a_day_is_served_drained_learnt_from_and_the_next_one_served_by_what_was_learnt(tmp_path: Path) -> None:
    done = finished("-m", "loadtest.loop", "--quick", "--out", tmp_path)
    assert done.returncode == 0, done.stderr  # its own counts are the log's, or it ends with an error
    line = json.loads(done.stdout.splitlines()[-1])
    [versions] = line["versions"]
    assert line["shown"] > 50 and line["clicked"] > 0
    assert line["unpublished"] == 1 or versions[0] != versions[1], line
    assert all(len(days) == 2 for days in line["ctr"].values())
    assert "The loop" in (tmp_path / "loop.html").read_text()
