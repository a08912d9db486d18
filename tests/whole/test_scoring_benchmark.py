"""The scoring benchmark: its reference is our network, what it compares gives equal scores, its line is relied on."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from loadtest import peers, scoring
from loadtest.bench import trained
from loadtest.bench.usual import UsualBST, repeated
from loadtest.errors import NoRun
from model import networks
from model.bundle.layout import INT8
from model.bundle.reading import Bundle
from model.bundle.session import byte_products
from model.graph.quantize import quantize
from model.graph.write import cases
from model.prepared.loader import Prepared
from model.training.batches import tensors
from tests.processes import finished
from tests.verbs import refusal

ROOT = Path(__file__).parents[2]
ONCE = scoring.Sizes(rounds=1, runs=1)
COUNTS = {"10", "50", "100", "500", "1000"}


@pytest.fixture(scope="module")
def quantised(small_bundle: Bundle, small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("quantised") / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    bundle = Bundle.open(folder)
    quantize(bundle, small_data)
    return bundle


@pytest.fixture(scope="module")
def requests(small_bundle: Bundle, small_data: Prepared) -> scoring.Requests:
    return scoring.Requests(small_bundle, small_data)


@pytest.mark.parametrize("blocks", [1, 2])
def test_the_usual_bst_gives_our_networks_logits_whatever_the_history(small_bundle: Bundle, blocks: int) -> None:
    torch.manual_seed(blocks)
    rows = {f.name: small_bundle.encoder.table_rows(f) for f in small_bundle.schema.embedded if not f.is_float}
    network = networks.build("bst", small_bundle.schema, rows, {"blocks": blocks, "mlp": [64, 32]}).eval()
    usual, seen = UsualBST(network).eval(), set()  # type: ignore[arg-type]
    for inputs in cases(small_bundle):
        batch = tensors(inputs)
        if len(batch["user"]) == 1:
            with torch.no_grad():
                ours, theirs = network(batch)[0], usual(repeated(batch))[:, 0]
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
            seen.add(int((inputs["gap"] != 0).sum()))
    assert seen >= {0, 10, 20}


def test_the_reference_refuses_an_ablation_of_bst(small_bundle: Bundle) -> None:
    rows = {f.name: small_bundle.encoder.table_rows(f) for f in small_bundle.schema.embedded if not f.is_float}
    with pytest.raises(ValueError, match="time gaps"):
        UsualBST(networks.build("bst", small_bundle.schema, rows, {"position": "index"}))  # type: ignore[arg-type]


def test_the_network_is_read_from_its_bundle(small_bundle: Bundle, requests: scoring.Requests) -> None:
    inputs = requests.encoded(10)[0]
    with torch.no_grad():
        expected = torch.sigmoid(scoring.network_of(small_bundle)(tensors(inputs))).numpy()
    np.testing.assert_allclose(small_bundle.score(small_bundle.session(), inputs), expected, atol=1e-5)


def test_requests_have_full_histories_and_the_candidates_asked_for(requests: scoring.Requests) -> None:
    for inputs in requests.encoded(50):
        assert inputs["gap"].shape == (1, 20) and (inputs["gap"] != 0).all()
        assert inputs["item"].shape[:2] == (1, 50)


def test_a_turn_tells_the_runs_asked_for_and_not_the_first() -> None:
    seen: list[str] = []
    times = scoring.turn([lambda: seen.append("a"), lambda: seen.append("b")], 3)
    assert len(times) == 3 and "".join(seen) == "baba"


@pytest.mark.long
def test_the_quick_run_ends_in_the_line_that_scripts_read(
    quantised: Bundle, small_data: Prepared, tmp_path: Path
) -> None:
    out = tmp_path / "plot.png"
    given = ["--bundle", str(quantised.folder), "--data", str(small_data.folder), "--out", str(out), "--rounds", "1"]
    done = finished("-m", "loadtest.scoring", "--quick", "--cache", tmp_path / "cache", *given)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "cache").exists()  # nothing was trained
    figures = json.loads(done.stdout.splitlines()[-1])
    assert 0 <= figures["max_abs_diff_fp32"] <= 1e-5
    assert 0 < figures["max_abs_diff_fp16_tables"] < 1e-3 and 0 < figures["max_abs_diff_int8_tables"] < 0.05
    assert math.isfinite(figures["ratio_fp32_500"]) and figures["ratio_peers_500"] is None
    gate = quantised.manifest[INT8]
    if gate["accepted"] and byte_products():
        assert math.isfinite(figures["ratio_int8_500"]) and figures["note"] is None
        assert figures["auc_drop_int8"] == pytest.approx(gate["auc_drop"], rel=1e-5, abs=1e-9)
        assert figures["kendall_tau_int8"] == pytest.approx(gate["kendall_tau"], rel=1e-5)
    assert all(set(of_side) == COUNTS for of_side in figures["ms"].values())
    assert figures["history"] == 20 and figures["threads"] == 1


@pytest.mark.long
def test_a_bundle_without_an_int8_graph_has_null_for_it_and_a_note(small_bundle: Bundle, small_data: Prepared) -> None:
    figures, table, _ = scoring.measure(small_bundle, small_data, None, ONCE)
    for key in ("ratio_int8_500", "auc_drop_int8", "kendall_tau_int8"):
        assert figures[key] is None, key
    assert "no int8 graph" in figures["note"] and figures["note"] in table
    assert figures["max_abs_diff_fp32"] <= 1e-5


def test_a_bundle_of_another_network_is_refused(small_bundle: Bundle) -> None:
    other = Bundle(small_bundle.folder, small_bundle.manifest | {"network": "wdl"})
    with pytest.raises(NoRun, match="a bst with its weights.pt"):
        scoring.network_of(other)


@pytest.mark.long
def test_a_trained_bundle_is_made_once_at_the_papers_sizes(tmp_path: Path) -> None:
    tiny = trained.Sizes(3_000, 1, "no time")
    bundle, data = trained.cached(tmp_path, tiny)
    bundle.verify()
    network = scoring.network_of(bundle)
    assert [layer.out_features for layer in network.head.rest if hasattr(layer, "out_features")][:2] == [512, 256]
    assert network.embed.width_D + network.position.embedding_dim == 64
    assert bundle.manifest["trained_on"] == ["train"] and INT8 in bundle.manifest
    again, _ = trained.cached(tmp_path, tiny)
    assert again.version == bundle.version
    assert data.meta["dataset"] == "simulated"


@pytest.fixture(scope="module")
def peers_python() -> Path:
    python = peers.environment(install=False)
    if python is None:
        pytest.skip("the peers' environment is not there: python -m loadtest.scoring --peers makes it")
    return python


def test_the_peers_network_is_exported_and_scores_every_row(
    small_bundle: Bundle, small_data: Prepared, peers_python: Path, tmp_path: Path
) -> None:
    peer = scoring.PeersBST(peers_python, small_data.seen_by(small_bundle.schema), 64, tmp_path)
    assert peer.refused is None and peer.session is not None
    for candidates in (10, 100):
        [scores] = scoring.run_of(peer.session, peer.feed(candidates, seed=1))()
        assert scores.shape == (candidates,) and np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bundle", "somewhere"], "--bundle and --data go together"),
        (["--bundle", "nowhere", "--data", "nowhere"], "nowhere is no bundle"),
        (["--rounds", "0"], "integers of at least 1 are allowed"),
        (["--out", "curve.svg"], "ends in .png"),
        (["--cache", str(ROOT / "Makefile")], "Makefile is no folder"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal(capsys, scoring.main, arguments)
