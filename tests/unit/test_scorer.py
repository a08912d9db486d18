"""The scoring path: cut, joined or alone, a candidate gets the same score; int8 is served only where it may be."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import export
from model.bundle.layout import GRAPH, INT8, INT8_GRAPH, BundleError
from model.bundle.reading import Bundle
from model.bundle.session import byte_products
from model.features.batch import candidates, pieces, stacked
from model.features.encode import Inputs
from model.graph.quantize import kendall_tau, quantize
from model.prepared.loader import Prepared
from service.call import Call
from service.scoring.lanes import JOINED, SHORT
from service.scoring.scorer import WORTH_CUTTING, Scorer
from service.scoring.served import Served

pytestmark = pytest.mark.filterwarnings("error")


def requests_of(bundle: Bundle, *counts: int) -> list[Inputs]:
    """Golden requests, of different users and history lengths, with so many candidates each."""
    golden = bundle.golden()
    made = []
    for number, count in enumerate(counts):
        request = golden[number % len(golden)]
        shown = (request["candidates"] * count)[:count]
        behaviours = request["behaviours"][: number % 5] if number % 2 else request["behaviours"]
        made.append(bundle.encode_golden(request | {"candidates": shown, "behaviours": behaviours}))
    return made


def alone(bundle: Bundle, inputs: Inputs) -> np.ndarray[Any, Any]:
    return bundle.score(bundle.session(), inputs)[0]


def scored(bundle: Bundle, requests: list[Inputs], threads: int, together: bool = False) -> list[Any]:
    async def go() -> list[Any]:
        served = Served.open(bundle, Scorer(threads), "fp32")
        try:
            if together:
                return await served.score_many(requests, Call("", 0.0))
            return await asyncio.gather(*(served.score(inputs, Call("", 0.0)) for inputs in requests))
        finally:
            served.scorer.close()

    return asyncio.run(go())


def test_joined_requests_score_as_each_does_alone(small_bundle: Bundle) -> None:
    requests = requests_of(small_bundle, 3, 40, 1, 17)
    scores_UC = small_bundle.score(small_bundle.session(), stacked(requests))
    assert scores_UC.shape == (4, 40)
    for row, inputs in zip(scores_UC, requests, strict=True):
        assert np.allclose(row[: candidates(inputs)], alone(small_bundle, inputs), atol=1e-6)


def test_the_pieces_of_a_request_are_its_candidates_in_order_and_the_whole_user(small_bundle: Bundle) -> None:
    (inputs,) = requests_of(small_bundle, 10)
    parts = list(pieces(inputs, 3))
    assert [candidates(part) for part in parts] == [3, 3, 4]
    assert np.array_equal(np.concatenate([part["item"] for part in parts], 1), inputs["item"])
    assert all(np.array_equal(part["history"], inputs["history"]) for part in parts)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_long_list_that_is_cut_scores_as_one_run(small_bundle: Bundle, threads: int) -> None:
    (inputs,) = requests_of(small_bundle, 10 * WORTH_CUTTING + 7)
    (scores,) = scored(small_bundle, [inputs], threads)
    assert np.allclose(scores, alone(small_bundle, inputs), atol=1e-6)


def test_requests_that_wait_are_each_answered_with_their_own_scores(small_bundle: Bundle) -> None:
    requests = requests_of(small_bundle, *[1 + n % (SHORT + 5) for n in range(3 * JOINED // SHORT)], 400)
    for inputs, scores in zip(requests, scored(small_bundle, requests, threads=1), strict=True):
        assert scores.shape == (candidates(inputs),)
        assert np.allclose(scores, alone(small_bundle, inputs), atol=1e-6)


def test_many_requests_at_once_score_as_each_does_alone(small_bundle: Bundle) -> None:
    requests = requests_of(small_bundle, 5, 1200, 60, 1, 61)
    for inputs, scores in zip(requests, scored(small_bundle, requests, threads=2, together=True), strict=True):
        assert scores.shape == (candidates(inputs),)
        assert np.allclose(scores, alone(small_bundle, inputs), atol=1e-6)


def test_a_request_with_a_row_outside_its_table_fails_alone(small_bundle: Bundle) -> None:
    sound, broken = requests_of(small_bundle, 3, 4)
    broken["item"] = broken["item"] + 10**9

    async def go() -> list[Any]:
        served = Served.open(small_bundle, Scorer(1), "fp32")
        try:
            answers = [served.score(inputs, Call("", 0.0)) for inputs in (sound, broken, sound)]
            return await asyncio.gather(*answers, return_exceptions=True)
        finally:
            served.scorer.close()

    first, error, last = asyncio.run(go())
    assert isinstance(error, BundleError) and "item" in str(error)
    assert np.allclose(first, alone(small_bundle, sound)) and np.allclose(last, first)


# ---- int8


@pytest.fixture(scope="module")
def int8_bundle(small_bundle: Bundle, small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy with an int8 graph, whatever the gate says of so small a network."""
    folder = tmp_path_factory.mktemp("int8") / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    figures = quantize(Bundle.open(folder), small_data, least_tau=0.9)
    assert figures["accepted"], figures
    return Bundle.open(folder)


needs_byte_products = pytest.mark.skipif(not byte_products(), reason="this processor has no products of bytes")


def test_the_int8_graph_ranks_nearly_as_fp32_and_shares_its_tables(int8_bundle: Bundle) -> None:
    int8_bundle.verify()
    fp32, int8 = int8_bundle.session(), int8_bundle.session(int8_bundle.folder / INT8_GRAPH)
    (inputs,) = requests_of(int8_bundle, 100)
    one, other = int8_bundle.score(fp32, inputs)[0], int8_bundle.score(int8, inputs)[0]
    assert 0 < np.abs(one - other).max() < 0.02 and kendall_tau(one, other) > 0.95
    size = (int8_bundle.folder / INT8_GRAPH).stat().st_size
    assert size < (int8_bundle.folder / f"{GRAPH}.data").stat().st_size / 2


def test_the_gates_figures_are_in_report_and_manifest(int8_bundle: Bundle) -> None:
    figures = int8_bundle.manifest[INT8]
    assert json.loads((int8_bundle.folder / "report.json").read_text())[INT8] == figures
    assert abs(figures["auc_drop"]) <= 0.0005 and figures["kendall_tau"] >= 0.9
    assert figures["split"] == "validation" and figures["lists"] == 200


@needs_byte_products
def test_a_bundle_with_an_accepted_int8_graph_is_served_in_it(int8_bundle: Bundle) -> None:
    assert Served.open(int8_bundle, Scorer(1)).precision == "int8"


def test_an_int8_graph_that_fails_its_gate_is_not_put_in_and_fp32_is_served(
    small_bundle: Bundle, small_data: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    assert not quantize(Bundle.open(folder), small_data, least_tau=1.01)["accepted"]
    bundle = Bundle.open(folder)
    bundle.verify()
    assert not (folder / INT8_GRAPH).exists() and not bundle.manifest[INT8]["accepted"]
    with caplog.at_level("INFO", "ranker"):
        served = Served.open(bundle, Scorer(1))
    assert served.precision == "fp32" and "failed its gate" in caplog.text
    with pytest.raises(BundleError, match="failed its gate"):
        Served.open(bundle, Scorer(1), "int8")


def test_a_bundle_without_an_int8_graph_serves_fp32_and_says_so(
    small_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "ranker"):
        served = Served.open(small_bundle, Scorer(1))
    assert served.precision == "fp32" and "model.export --quantize" in caplog.text


@needs_byte_products
def test_an_int8_graph_that_answers_otherwise_than_recorded_is_not_served(int8_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(int8_bundle.folder, folder)
    bundle = Bundle.open(folder)
    bundle.manifest[INT8]["golden_max_abs_diff"] = -1.0
    assert Served.open(bundle, Scorer(1)).precision == "fp32"


def test_the_command_finds_the_training_data_itself_and_says_what_is_missing(
    small_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle.folder, folder)
    assert export.main(["--bundle", str(folder), "--quantize"]) == 1  # moved away from its data
    assert "name it by --data" in capsys.readouterr().err
    assert export.main(["--bundle", str(tmp_path), "--quantize"]) == 1
    assert "is no bundle" in capsys.readouterr().err
    told = json.loads((small_bundle.folder / "report.json").read_text())["data_at"]
    assert (small_bundle.folder / told / "meta.json").is_file()


@pytest.mark.parametrize(
    ("one", "other", "tau"), [([1, 2, 3], [1, 2, 3], 1), ([1, 2, 3], [3, 2, 1], -1), ([1, 2, 3], [1, 3, 2], 1 / 3)]
)
def test_kendalls_tau_by_hand(one: list[float], other: list[float], tau: float) -> None:
    assert kendall_tau(np.array(one, np.float32), np.array(other, np.float32)) == pytest.approx(tau)
