"""The whole way on a real log: prepare, train, evaluate, serve, rank, by the commands that docs/data.md names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import evaluate, prepare, train
from model.bundle.reading import Bundle
from model.graph.quantize import quantize
from model.prepared.loader import Prepared
from model.training.recipe import RECIPES
from tests.client import replay


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


@pytest.mark.parametrize(("network", "reaches"), [("wdl", 0.73), pytest.param("bst", 0.734, marks=pytest.mark.long)])
def test_kuairand_from_the_raw_log_to_the_served_score(
    real_logs: Path, tmp_path: Path, valkey_url: str, capsys: pytest.CaptureFixture[str], network: str, reaches: float
) -> None:
    data, bundles = str(tmp_path / "kuairand"), str(tmp_path / "bundles")
    assert prepare.main(["--dataset", "kuairand", "--raw", str(real_logs / "kuairand_pure"), "--out", data]) == 0
    assert sum(last_line(capsys)["impressions"].values()) == 193_703

    recipe = tmp_path / "recipe.toml"  # KuaiRand's own, but for the second training that a refit is
    recipe.write_text((RECIPES / "kuairand.toml").read_text().replace("refit = true", "refit = false"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a run's bits, and the fourth digit of its AUC, depend on their number
    try:
        assert train.main(["--data", data, "--network", network, "--out", bundles, "--recipe", str(recipe)]) == 0
    finally:
        torch.set_num_threads(threads)
    trained = last_line(capsys)

    assert evaluate.main(["--bundle", trained["bundle"], "--data", data, "--split", "test"]) == 0
    figures = last_line(capsys)
    assert figures["rows"] == 13_566 and figures["oracle_auc"] is None
    assert figures["auc"] == pytest.approx(trained["auc"], abs=1e-9)
    assert figures["auc"] >= reaches and figures["auc"] >= figures["floor_auc"] + 0.004 and figures["gauc"] > 0.6
    assert 0.8 < figures["calibration"] < 1.25

    prepared, bundle = Prepared(tmp_path / "kuairand"), Bundle.open(Path(trained["bundle"]))
    rows = prepared.of_split("test")
    some = np.sort(np.random.default_rng(0).choice(rows, 400, replace=False))  # all: python -m tests.replay
    assert replay(bundle, prepared, valkey_url, some) == 1

    figures = quantize(bundle, prepared)
    assert figures["accepted"] and figures["split"] == "validation" and figures["unseen"], figures["refused"]
    assert {"tab=1", "tab=3", "no history", "unknown item"} <= {segment["segment"] for segment in figures["segments"]}
    assert abs(figures["worst_shift"]["shift"]) < 0.004 and figures["worst_tau"]["kendall_tau"] > 0.985
