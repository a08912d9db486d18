"""The benchmark of preparing: its log is made once, its command says what it is relied on to say."""

import json
from pathlib import Path

import pytest

from loadtest import preparing
from loadtest.errors import NoRun


def test_the_quick_run_ends_in_the_line_that_scripts_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preparing.main(["--quick", "--cache", str(tmp_path)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["impressions"] == preparing.QUICK.impressions
    assert figures["rows_per_s_core"] > 0 and figures["peak_gib"] > 0 and figures["times_a_copy"] > 0
    assert [path.name for path in tmp_path.iterdir()] == [str(preparing.QUICK.impressions)], "the scratch is gone"


def test_a_process_that_fails_has_no_cost() -> None:
    with pytest.raises(NoRun, match="ended with 3: wrong"):
        preparing.cost(["-c", "import sys; print('wrong', file=sys.stderr); sys.exit(3)"])
