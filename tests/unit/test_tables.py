"""Embedding tables in fp16 and int8: the bytes they take, the scores they give, the gate before them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from model import catalog, evaluate, export
from model.bundle import versions
from model.bundle.attention import OUTPUT, Attention
from model.bundle.layout import ATTENTION_GRAPH, GRAPH, INT8, INT8_GRAPH, SCHEMA_VERSION, TABLES, WEIGHTS
from model.bundle.precision import Precision
from model.bundle.reading import Bundle
from model.bundle.session import Session, byte_products
from model.features.catalog import FILE, FOLDER
from model.graph import gate
from model.graph import tables as tables_module
from model.graph.gate import Bounds
from model.graph.narrow import narrow
from model.graph.nodes import Span
from model.graph.quantize import quantize
from model.graph.tables import DATA, Table, TablesError, formed, narrow_graphs
from model.graph.trained import network_of
from model.prepared.loader import Prepared
from model.training.run import Run
from service.models.description import described
from service.scoring.scorer import Scorer
from service.scoring.served import Served
from service.settings import Settings
from tests.client import replay
from tests.worlds import SMALL

pytestmark = pytest.mark.filterwarnings("error")
SMALLS = Bounds(least_tau=0.9, least_segment_tau=0.85, most_shift=0.005)  # of so small a network
LEAST_ROWS = 100
ITEMS = "network.embed.sequence.item_id.weight"
Made = dict[str, Bundle]


def spans(folder: Path, graph: str = GRAPH) -> dict[str, tuple[Span, list[int]]]:
    model = onnx.load(folder / graph, load_external_data=False)
    return {one.name: (Span.of(one), list(one.dims)) for one in model.graph.initializer if one.external_data}


@pytest.fixture(scope="module", autouse=True)
def few_lists() -> Iterator[None]:
    """The gate looks at a tenth of the requests: what it finds is tested elsewhere, here what comes of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "LISTS", 20)
        patch.setattr(gate, "LISTS_EACH", 2)
        yield


@pytest.fixture(scope="module")
def made(small_bundle: Bundle, small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """By form: a bundle with an int8 graph and one that explains, and its versions on other tables."""
    home = tmp_path_factory.mktemp("tables") / "bst"
    shutil.copytree(small_bundle.folder, home / small_bundle.version)
    versions.point(home, small_bundle.version)
    whole = Bundle.open(home)
    assert quantize(whole, small_data, SMALLS)["accepted"]
    bundles = {"fp32": Bundle.open(home)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables_module, "PIECE", 1000)  # numbers: several pieces of each table
        for form in ("fp16", "int8"):
            figures = narrow(bundles["fp32"], small_data, form, SMALLS, LEAST_ROWS)
            assert figures["accepted"], figures["refused"]
            bundles[form] = Bundle.open(Path(figures["bundle"]))
            if form == "fp16":
                assert figures["published"] and versions.current(home) == bundles["fp16"].version
    return bundles


# ---- scores and bytes


def dequantised(form: str, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What a table says once it was stored, by numpy alone."""
    if form == "fp16" or rows.shape[1] <= 4:
        return rows.astype(np.float16).astype(np.float32)
    scale = (np.abs(rows).max(1) / 127).astype(np.float32)
    steps = np.round(np.divide(rows, scale[:, None], where=scale[:, None] > 0, out=np.zeros_like(rows)))
    return (steps.astype(np.int8) * scale[:, None]).astype(np.float32)


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_scores_are_those_of_the_fp32_graph_on_tables_that_numpy_dequantised(
    made: Made, form: str, tmp_path: Path
) -> None:
    whole, narrowed = made["fp32"], made[form]
    for name in (GRAPH, INT8_GRAPH, ATTENTION_GRAPH, DATA):
        shutil.copy(whole.folder / name, tmp_path / name)
    weights = np.memmap(tmp_path / DATA, np.uint8, "r+")
    for name, facts in narrowed.manifest[TABLES]["tables"].items():
        span, shape = spans(whole.folder)[name]
        if facts["rows"] >= LEAST_ROWS:
            at = slice(span.offset, span.offset + span.length)
            weights[at] = dequantised(form, weights[at].view(np.float32).reshape(shape)).ravel().view(np.uint8)
    weights.flush()
    for graph, output in ((GRAPH, "score"), (INT8_GRAPH, "score"), (ATTENTION_GRAPH, OUTPUT)):
        expected, answering = Session(tmp_path / graph), narrowed.session(narrowed.folder / graph)
        before = whole.session(whole.folder / graph)
        for request in narrowed.golden()[:8]:
            inputs = narrowed.encode_golden(request)
            answer = narrowed.score(answering, inputs, output)
            np.testing.assert_allclose(answer, whole.score(expected, inputs, output), rtol=0, atol=1e-6)
        assert not np.array_equal(answer, whole.score(before, inputs, output)), "the two would pass for each other"


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_a_table_takes_the_bytes_that_its_form_says_and_short_ones_stay(made: Made, form: str) -> None:
    facts, before = made[form].manifest[TABLES], spans(made["fp32"].folder)
    expected = sum(span.length for span, _ in before.values())
    for name, one in facts["tables"].items():
        rows, width = before[name][1]
        long = rows >= LEAST_ROWS
        assert (one["rows"], one["width"], one["form"]) == (rows, width, form if long else "fp32")
        assert one["bytes"] == rows * (4 * width if not long else 2 * width if form == "fp16" else width + 4)
        expected += one["bytes"] - 4 * rows * width
    size = (made[form].folder / DATA).stat().st_size
    assert 0 <= size - expected <= 2 * 64 * len(before), "each array begins at a multiple of 64"
    assert facts["bytes"] == {"before": (made["fp32"].folder / DATA).stat().st_size, "after": size}
    assert {one["form"] for one in facts["tables"].values()} == {"fp32", form}


@pytest.mark.parametrize(
    ("rows", "width", "asked", "stored"),
    [(100, 8, "int8", "int8"), (100, 4, "int8", "fp16"), (100, 1, "int8", "fp16"), (99, 8, "int8", "fp32")],
)
def test_a_table_is_stored_in_what_is_smaller(rows: int, width: int, asked: str, stored: str) -> None:
    assert formed(Table("a", rows, width), asked, 100).form == stored


def test_a_weight_beyond_fp16_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for name in (GRAPH, DATA):
        shutil.copy(made["fp32"].folder / name, source / name)
    np.memmap(source / DATA, np.float32, "r+", spans(source)[ITEMS][0].offset, (1,))[:] = 1e5
    with pytest.raises(TablesError, match=f"{ITEMS} holds a weight beyond fp16"):
        narrow_graphs(source, out, "fp16", LEAST_ROWS)
    narrow_graphs(source, out, "int8", LEAST_ROWS)  # whose scale is fp32


# ---- a version of its own


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_the_version_is_whole_and_the_one_before_as_it_was(made: Made, form: str) -> None:
    whole, narrowed = made["fp32"], made[form]
    narrowed.verify()
    whole.verify()
    assert (narrowed.name, narrowed.manifest["schema_version"]) == (whole.name, SCHEMA_VERSION)
    assert narrowed.version != whole.version and narrowed.manifest[TABLES]["of"] == whole.version
    assert (narrowed.tables, whole.tables) == (form, "fp32")
    assert json.loads((narrowed.folder / "report.json").read_text())[TABLES] == narrowed.manifest[TABLES]
    narrowed.replay_golden(narrowed.session())
    assert narrowed.golden()[0]["scores"] != whole.golden()[0]["scores"]
    assert narrowed.manifest[INT8]["accepted"] and narrowed.manifest[INT8] != whole.manifest[INT8]
    assert Attention.open(narrowed) is not None, "recorded anew"
    swapped = f"{FOLDER}/{FILE}"
    assert (narrowed.folder / WEIGHTS).samefile(whole.folder / WEIGHTS), "shared on the disk"
    assert not (narrowed.folder / swapped).samefile(whole.folder / swapped), "swaps touch what they replace"


def test_a_version_that_is_not_current_does_not_make_its_own_current(made: Made) -> None:
    home = made["fp32"].folder.parent
    assert versions.current(home) == made["fp16"].version, "int8 was made when fp16 was current"


def test_its_catalogue_is_swapped_as_any(made: Made, small_data: Prepared, tmp_path: Path) -> None:
    folder, items = tmp_path / "bundle", small_data.folder / "tables" / "items.parquet"
    shutil.copytree(made["int8"].folder, folder)
    assert catalog.main(["--bundle", str(folder), "--items", str(items), "--merge"]) == 0
    swapped = Bundle.open(folder)
    swapped.verify()
    swapped.replay_golden(swapped.session())


def test_training_goes_on_from_it_as_from_the_one_before(made: Made, small_data: Prepared, tmp_path: Path) -> None:
    run = Run(small_data, "bst", SMALL, 1, tmp_path / "checkpoint.pt", warm=made["int8"])
    for name, weight in network_of(made["fp32"]).state_dict().items():
        assert (run.network.state_dict()[name] == weight).all(), name


@pytest.mark.parametrize("precision", ["fp32", *(["int8"] if byte_products() else [])])
def test_what_is_served_on_int8_tables_is_what_evaluate_measures(
    made: Made, small_data: Prepared, valkey_url: str, precision: Precision
) -> None:
    rows = small_data.of_split("test")[:100]
    assert replay(made["int8"], small_data, valkey_url, rows, precision=precision) == 1
    figures = evaluate.evaluate(made["int8"], small_data, "test", precision)
    assert (figures["precision"], figures["tables"]) == (precision, "int8")


def test_the_service_tells_what_its_tables_are_stored_in(made: Made) -> None:
    for form, bundle in made.items():
        assert described(Served.open(bundle, Scorer(1), "fp32"), Settings(), []).tables == form


# ---- the gate


def test_spoilt_tables_are_refused_with_the_figures_and_nothing_is_made(
    made: Made, small_data: Prepared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = made["fp32"].folder.parent
    before = sorted(home.iterdir()), versions.current(home)
    monkeypatch.setattr(tables_module, "MOST", 1)  # steps: each number is the row's largest, 0, or minus it
    bounds = ["--least-tau", "0.9", "--table-rows", str(LEAST_ROWS)]
    command = ["--bundle", str(made["fp32"].folder), "--data", str(small_data.folder), "--tables", "int8", *bounds]
    assert export.main(command) == 1
    *lines, figures = capsys.readouterr().out.splitlines()
    assert "is as it was: " in lines[-1] and "AUC falls by 0.0" in lines[-1]
    told = json.loads(figures)
    assert not told["accepted"] and told["bundle"] is None and told["auc_drop"] > 0.0005
    assert any(why.startswith("the int8 graph on them: ") for why in told["refused"])
    assert "the int8 graph on these tables" in lines and not told[INT8]["accepted"]
    assert (sorted(home.iterdir()), versions.current(home)) == before


def test_the_command_tells_each_table_and_where_the_version_is(
    made: Made, small_data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "alone" / "bundle"
    shutil.copytree(made["fp32"].folder, folder, ignore=shutil.ignore_patterns(INT8_GRAPH))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][INT8_GRAPH], manifest[INT8]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    bounds = ["--least-tau", "0.9", "--least-segment-tau", "0.85", "--table-rows", str(LEAST_ROWS)]
    assert export.main(["--bundle", str(folder), "--data", str(small_data.folder), "--tables", "fp16", *bounds]) == 0
    out = capsys.readouterr().out
    figures = json.loads(out.splitlines()[-1])
    assert f"{figures['bundle']}, not made `current`, as {folder} is not" in out
    assert f"of fewer than {LEAST_ROWS} rows stay fp32 (--table-rows)" in out and ITEMS in out
    assert Bundle.open(Path(figures["bundle"])).tables == "fp16" and INT8 not in json.loads(
        (Path(figures["bundle"]) / "manifest.json").read_text()
    )


# ---- what cannot be had


@pytest.mark.parametrize(
    ("form", "asked", "words"),
    [
        ("fp32", ["--tables", "int8", "--table-rows", "1000000"], "the longest table has .* rows, and one of fewer"),
        ("int8", ["--tables", "fp16"], "has int8 tables: name the version that it was made from, 2"),
        ("int8", ["--quantize"], "has int8 tables: add the graph to the version that it was made from, 2"),
        ("int8", ["--explain"], "has int8 tables: add the graph to the version that it was made from, 2"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    made: Made, small_data: Prepared, form: str, asked: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(["--bundle", str(made[form].folder), "--data", str(small_data.folder), *asked]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(line)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--tables", "int4"], "invalid choice: 'int4' (choose from"),
        (["--tables", "int8", "--table-rows", "0"], "--table-rows 0: allowed with --tables, from 1 on"),
        (["--quantize", "--table-rows", "5"], "--table-rows 5: allowed with --tables, from 1 on"),
        (["--quantize", "--tables", "int8"], "not allowed with argument"),
    ],
)
def test_wrong_arguments_are_one_line(asked: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        export.main(["--bundle", "nowhere", *asked])
    assert end.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]
