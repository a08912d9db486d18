"""int8: calibrated on every context, judged on unseen impressions and by the worst segment, served as evaluated."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model import evaluate, export
from model.bundle.layout import GRAPH, INT8, INT8_GRAPH, BundleError
from model.bundle.precision import Precision, choose
from model.bundle.reading import Bundle
from model.bundle.session import byte_products
from model.evaluation.measure import score_rows
from model.features.behaviour import Behaviour
from model.features.kinds import ITEM_ID
from model.graph import quantize as quantizing
from model.graph.gate import Bounds, judge, judged_on, kendall_tau
from model.graph.publish import publish
from model.graph.quantize import calibration, quantize
from model.graph.segments import by_context, segments
from model.prepared.loader import Prepared
from model.prepared.order import in_order
from model.prepared.splits import SPLITS
from model.replay import replay as replay_log
from model.training.run import Run
from service.call import Call
from service.scoring.scorer import WORTH_CUTTING, Scorer
from service.scoring.served import Served
from tests.client import ask, replay
from tests.servicelog import Served as Logged
from tests.worlds import SMALL

pytestmark = pytest.mark.filterwarnings("error")
needs_byte_products = pytest.mark.skipif(not byte_products(), reason="this processor has no products of bytes")
SMALLS = Bounds(least_tau=0.9, least_segment_tau=0.9, most_shift=0.0015)  # of so small a network
LEFT_OUT = 70  # the split of impressions that are of none


def copied(bundle: Bundle, folder: Path) -> Bundle:
    shutil.copytree(bundle.folder, folder)
    return Bundle.open(folder)


def with_splits(data: Prepared, split: np.ndarray[Any, Any]) -> Prepared:
    other = copy(data)
    other.arrays = data.arrays | {"split": split}
    return other


@pytest.fixture(scope="module")
def plain_bundle(small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a network that sees no statistics: what one context has to itself is then learnt of that context."""
    recipe = replace(SMALL, inputs={"without": ["match", "statistic"]})
    run = Run(small_data, "bst", recipe, 1, tmp_path_factory.mktemp("plain") / "checkpoint.pt")
    run.fit()
    return Bundle.open(publish(run, tmp_path_factory.mktemp("plain") / "bundles", boosting=False, explain=False).bundle)


@pytest.fixture(scope="module")
def int8_bundle(plain_bundle: Bundle, small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = copied(plain_bundle, tmp_path_factory.mktemp("int8") / "bundle")
    figures = quantize(bundle, small_data, SMALLS)
    assert figures["accepted"], figures
    return Bundle.open(bundle.folder)


@pytest.fixture(scope="module")
def refused_bundle(plain_bundle: Bundle, small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Calibrated on training days of which one context is left out, without room; the gate's days have it."""
    frame = in_order(pl.read_parquet(small_data.folder / "tables" / "impressions.parquet"), small_data.schema)
    split = np.array(small_data.arrays["split"])
    split[(split == SPLITS.index("train")) & (frame["match_type"] == "chance").to_numpy()] = LEFT_OUT
    bundle = copied(plain_bundle, tmp_path_factory.mktemp("refused") / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizing, "ROOM", 1.0)
        quantize(bundle, with_splits(small_data, split), SMALLS)
    return Bundle.open(bundle.folder)


# ---- the graph


def test_the_int8_graph_ranks_nearly_as_fp32_and_shares_its_tables(int8_bundle: Bundle) -> None:
    int8_bundle.verify()
    fp32, int8 = int8_bundle.session(), int8_bundle.session(int8_bundle.folder / INT8_GRAPH)
    inputs = int8_bundle.encode_golden(int8_bundle.golden()[0])
    one, other = int8_bundle.score(fp32, inputs)[0], int8_bundle.score(int8, inputs)[0]
    assert 0 < np.abs(one - other).max() < 0.02 and kendall_tau(one, other) > 0.95
    size = (int8_bundle.folder / INT8_GRAPH).stat().st_size
    assert size < (int8_bundle.folder / f"{GRAPH}.data").stat().st_size / 2


def test_calibration_holds_every_value_of_the_context_however_rare(small_bundle: Bundle, small_data: Prepared) -> None:
    rows = small_data.of_split("train")
    rare = min((len(segment.rows), segment.name) for segment in by_context(small_data, rows))
    assert rare[0] < len(rows) / 1000, "requests drawn from all would hardly hold it"
    requests = [one for one in calibration(small_bundle, small_data) if one["context"].shape[1] > 1]
    for column, values in enumerate(np.asarray(small_data.arrays["context"][rows]).T):
        assert set(values.tolist()) == {int(one["context"][0, 0, column]) for one in requests}


# ---- the gate


def test_segments_are_of_the_logs_own_values_and_hold_their_impressions(small_data: Prepared) -> None:
    rows = small_data.of_split("validation")
    frame = in_order(pl.read_parquet(small_data.folder / "tables" / "impressions.parquet"), small_data.schema)[rows]
    by_name = {segment.name: segment.rows for segment in segments(small_data, rows)}
    for name in ("match_type", "position", "page"):
        for value in frame[name].unique():
            inside = (frame[name] == value).to_numpy()
            assert np.array_equal(by_name[f"{name}={value}"], rows[inside]), (name, value)
    length = small_data.schema.history.length
    lengths = (small_data.batch(rows)["gap"] > 0).sum(1)
    assert np.array_equal(by_name[f"history of {length} or more"], rows[lengths == length])
    assert np.array_equal(by_name[f"history of 1 to {length - 1}"], rows[(lengths > 0) & (lengths < length)])
    unknown = small_data.arrays["items"][small_data.item[rows], small_data.schema.places("item")[ITEM_ID].start] == 1
    assert np.array_equal(by_name.get("unknown item", rows[:0]), rows[unknown])


@pytest.mark.parametrize(
    ("trained_on", "split", "unseen"),
    [
        (["train"], "validation", True),
        (["train", "validation"], "test", True),  # after refit
        (["train", "validation", "test"], "test", False),  # after --final: the newest, for agreement alone
    ],
)
def test_the_gate_looks_at_impressions_that_the_model_has_not_seen(
    small_data: Prepared, trained_on: Sequence[str], split: str, unseen: bool
) -> None:
    assert judged_on(small_data, trained_on) == (split, unseen)


def test_a_split_that_has_no_auc_is_not_the_one_to_judge_on(small_data: Prepared) -> None:
    emptied = np.array(small_data.arrays["split"])
    emptied[emptied == SPLITS.index("validation")] = LEFT_OUT
    assert judged_on(with_splits(small_data, emptied), ["train"]) == ("test", True)
    clicks = np.array(small_data.arrays["split"])
    clicks[(clicks == SPLITS.index("validation")) & (np.asarray(small_data.label) == 0)] = LEFT_OUT
    assert judged_on(with_splits(small_data, clicks), ["train"]) == ("test", True)


def test_a_model_of_all_days_is_judged_by_agreement_alone_and_that_is_said(
    int8_bundle: Bundle, small_data: Prepared
) -> None:
    final = Bundle(int8_bundle.folder, int8_bundle.manifest | {"trained_on": list(SPLITS)})
    figures = judge(final, small_data, final.folder / INT8_GRAPH, SMALLS)
    assert figures["auc_fp32"] is figures["auc_int8"] is figures["auc_drop"] is None
    assert figures["accepted"] and not figures["unseen"] and figures["split"] == "test"
    remark = export.unjudged(final, figures)
    assert remark and "trained on train, validation, test" in remark and "agreement with fp32 alone" in remark
    assert export.unjudged(int8_bundle, int8_bundle.manifest[INT8]) is None
    assert Bounds(most_shift=0).refusals(figures), "agreement still decides"


def test_a_context_that_shifts_is_named_and_refused_where_the_mean_is_not(
    refused_bundle: Bundle, int8_bundle: Bundle
) -> None:
    figures = refused_bundle.manifest[INT8]
    assert not figures["accepted"] and len(figures["refused"]) == 1
    assert "the mean score shifts by" in figures["refused"][0] and "for match_type=chance" in figures["refused"][0]
    assert figures["worst_shift"]["segment"] == "match_type=chance"
    assert abs(figures["shift"]) < SMALLS.most_shift < abs(figures["worst_shift"]["shift"])
    by_name = {segment["segment"]: segment for segment in int8_bundle.manifest[INT8]["segments"]}
    assert abs(by_name["match_type=chance"]["shift"]) < abs(figures["worst_shift"]["shift"]) / 2, "calibrated with it"


def test_a_segment_of_few_impressions_has_no_say_and_is_reported(int8_bundle: Bundle, small_data: Prepared) -> None:
    graph = int8_bundle.folder / INT8_GRAPH
    figures = judge(int8_bundle, small_data, graph, Bounds(least_tau=0.9, least_rows=10**6, least_segment_tau=1.01))
    assert figures["accepted"] and figures["worst_tau"] is None is figures["worst_shift"]
    assert len(figures["segments"]) > 20 and "too few to be judged" in export.table(figures)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"auc_drop": 0.001}, "AUC falls by 0.00100"),
        ({"kendall_tau": 0.98}, r"tau is 0.9800, at least 0.99"),
        ({"shift": -0.01}, r"shifts by -0.0100, at most 0.005"),
        ({"worst_tau": {"segment": "tab=3", "kendall_tau": 0.97}}, r"tau is 0.9700 for tab=3, at least 0.98"),
        ({"worst_shift": {"segment": "tab=3", "shift": 0.018}}, r"shifts by \+0.0180 for tab=3, at most 0.005"),
    ],
)
def test_each_bound_refuses_by_itself_and_says_what_is_beyond_it(changed: dict[str, Any], words: str) -> None:
    sound = {"auc_drop": 0.0, "kendall_tau": 0.997, "shift": 0.0, "worst_tau": None, "worst_shift": None}
    assert Bounds().refusals(sound) == []
    (told,) = Bounds().refusals(sound | changed)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(told)


def test_the_gates_figures_are_in_report_and_manifest(int8_bundle: Bundle) -> None:
    figures = int8_bundle.manifest[INT8]
    assert json.loads((int8_bundle.folder / "report.json").read_text())[INT8] == figures
    assert abs(figures["auc_drop"]) <= 0.0005 and figures["kendall_tau"] >= 0.9
    assert figures["split"] == "validation" and figures["lists"] == 200
    assert figures["bounds"]["most_shift"] == SMALLS.most_shift


@pytest.mark.parametrize(
    ("one", "other", "tau"), [([1, 2, 3], [1, 2, 3], 1), ([1, 2, 3], [3, 2, 1], -1), ([1, 2, 3], [1, 3, 2], 1 / 3)]
)
def test_kendalls_tau_by_hand(one: list[float], other: list[float], tau: float) -> None:
    assert kendall_tau(np.array(one, np.float32), np.array(other, np.float32)) == pytest.approx(tau)


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


# ---- served


@needs_byte_products
def test_a_bundle_with_an_accepted_int8_graph_is_served_in_it(int8_bundle: Bundle) -> None:
    assert Served.open(int8_bundle, Scorer(1)).precision == "int8"


def test_an_int8_graph_that_fails_its_gate_is_not_put_in_and_fp32_is_served(
    refused_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    refused_bundle.verify()
    assert not (refused_bundle.folder / INT8_GRAPH).exists()
    with caplog.at_level("INFO", "ranker"):
        served = Served.open(refused_bundle, Scorer(1))
    assert served.precision == "fp32"
    assert "failed its gate: the mean score shifts" in caplog.text and "match_type=chance" in caplog.text
    with pytest.raises(BundleError, match="failed its gate"):
        Served.open(refused_bundle, Scorer(1), "int8")


def test_a_bundle_without_an_int8_graph_serves_fp32_and_says_so(
    small_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "ranker"):
        served = Served.open(small_bundle, Scorer(1))
    assert served.precision == "fp32" and "model.export --quantize" in caplog.text


@needs_byte_products
def test_an_int8_graph_that_answers_otherwise_than_recorded_is_not_served(int8_bundle: Bundle, tmp_path: Path) -> None:
    bundle = copied(int8_bundle, tmp_path / "bundle")
    bundle.manifest[INT8]["golden_max_abs_diff"] = -1.0
    assert Served.open(bundle, Scorer(1)).precision == "fp32"


# ---- served = evaluated


@needs_byte_products
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_log_of_the_int8_graph_is_proven_against_it(int8_bundle: Bundle, tmp_path: Path, precision: str) -> None:
    """One that calls the same scores fp32's is not."""
    served = Logged(int8_bundle, precision=precision, session=int8_bundle.session(int8_bundle.folder / INT8_GRAPH))
    for request in {request["user_id"]: request for request in int8_bundle.golden()}.values():
        served.now = request["now"]
        served.histories[request["user_id"]] = {Behaviour(*one) for one in request["behaviours"]}
        served.rank(request["user_id"], request["candidates"], "golden", request["context"], top=100)
    proof = replay_log(served.write(tmp_path), int8_bundle.folder).proof
    assert proof.rows == sum(len(shown.items) for shown in served.impressions)
    assert (proof.max_abs_diff <= 1e-5) == (not proof.differences) == (precision == "int8")


@needs_byte_products
@pytest.mark.parametrize("precision", ["auto", "int8", "fp32"])
def test_what_is_served_is_what_evaluate_measures_in_either_precision(
    int8_bundle: Bundle, small_data: Prepared, valkey_url: str, precision: Precision
) -> None:
    rows = small_data.of_split("test")[:100]
    assert replay(int8_bundle, small_data, valkey_url, rows, precision=precision) == 1
    figures = evaluate.evaluate(int8_bundle, small_data, "test", precision)
    assert figures["precision"] == ("fp32" if precision == "fp32" else "int8")
    other = choose(int8_bundle, "int8" if precision == "fp32" else "fp32").session
    taken = choose(int8_bundle, precision).session
    one, two = (score_rows(int8_bundle, small_data, rows, session) for session in (taken, other))
    assert np.abs(one - two).max() > 1e-4, "the two would pass for each other"


@needs_byte_products
def test_a_candidate_scores_in_int8_as_it_does_alone_however_long_the_list(int8_bundle: Bundle) -> None:
    request = int8_bundle.golden()[0]
    shown = (request["candidates"] * 100)[: 4 * WORTH_CUTTING + 3]
    session = choose(int8_bundle, "int8").session

    async def cut() -> Any:
        served = Served.open(int8_bundle, Scorer(2), "int8")
        try:
            return await served.score(int8_bundle.encode_golden(request | {"candidates": shown}), Call("", 0.0))
        finally:
            served.scorer.close()

    alone = {
        item: float(int8_bundle.score(session, int8_bundle.encode_golden(request | {"candidates": [item]}))[0, 0])
        for item in set(shown)
    }
    np.testing.assert_allclose(asyncio.run(cut()), [alone[item] for item in shown], atol=1e-5)


def test_evaluate_says_which_precision_it_measured_and_refuses_what_cannot_be_had(
    small_bundle: Bundle, small_data: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--bundle", str(small_bundle.folder), "--data", str(small_data.folder)]
    assert evaluate.main(given) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["precision"] == "fp32"
    assert evaluate.main([*given, "--precision", "int8"]) == 1
    assert "the bundle has no int8 graph" in capsys.readouterr().err


@needs_byte_products
def test_where_int8_answers_an_explanation_is_of_the_fp32_graph(int8_bundle: Bundle, valkey_url: str) -> None:
    golden = int8_bundle.golden()[0]
    body = {key: golden[key] for key in ("user_id", "candidates", "context")} | {"timestamp": golden["now"]}
    [answer] = ask(int8_bundle, valkey_url, body | {"explain": True}, precision="int8")
    shared, items = answer.json()["explanation"], answer.json()["items"]
    assert shared["precision"] == "fp32" and shared["note"].startswith("int8 answers")
    alone = golden | {"profile": {}, "behaviours": []}  # the store is empty
    scores = int8_bundle.score(int8_bundle.session(), int8_bundle.encode_golden(alone, int8_bundle.catalog))[0]
    expected = dict(zip(golden["candidates"], scores.tolist(), strict=True))
    assert [item["explanation"]["score"] for item in items] == pytest.approx(
        [expected[item["item_id"]] for item in items], abs=1e-5
    )
    assert any(item["explanation"]["score"] != item["score"] for item in items)
