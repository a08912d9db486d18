"""Bundles: what is written, what is refused."""

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.bundle.writing import writing
from model.graph.write import ExportError, cases, check_parity
from model.training.run import Run


@pytest.fixture
def copy(small_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_whole_bundle_is_verified_and_answers_as_recorded(small_bundle: Bundle) -> None:
    small_bundle.verify()
    small_bundle.replay_golden(small_bundle.session())
    listed = set(small_bundle.manifest["files"])
    there = {str(p.relative_to(small_bundle.folder)) for p in small_bundle.folder.rglob("*") if p.is_file()}
    assert there == listed | {"manifest.json"}
    assert {
        "model.onnx",
        "model.onnx.data",
        "features.toml",
        "golden.json",
        "report.json",
        "catalog/items.npy",
    } <= listed


def test_current_points_to_the_newest_bundle(small_bundle: Bundle) -> None:
    assert Bundle.open(small_bundle.folder.parent).version == small_bundle.version


def test_a_bundle_holds_no_path_of_the_machine_that_made_it(small_bundle: Bundle) -> None:
    root = str(Path(__file__).parents[2]).encode()
    for path in small_bundle.folder.rglob("*"):
        assert not path.is_file() or root not in path.read_bytes(), path.name


@pytest.mark.parametrize(
    "name", ["model.onnx", "model.onnx.data", "vocab/item_id.npy", "catalog/items.npy", "report.json"]
)
def test_a_changed_file_is_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{Path(name).name}: sha256"):
        Bundle.open(copy).verify()


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "vocab" / "age.npy").unlink()
    with pytest.raises(BundleError, match="missing vocab/age.npy"):
        Bundle.open(copy)


@pytest.mark.parametrize("version", [3, None, "1"])
def test_an_unknown_schema_version_is_refused_with_those_that_are_read(copy: Path, version: object) -> None:
    edit(copy / "manifest.json", lambda m: m.update(schema_version=version))
    with pytest.raises(BundleError, match="schema version .*this release reads 1, 2"):
        Bundle.open(copy)


def test_a_folder_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        Bundle.open(tmp_path)


def test_other_scores_than_recorded_are_refused(copy: Path) -> None:
    def change(golden: dict[str, Any]) -> None:
        golden["requests"][2]["scores"][0] += 1e-4

    edit(copy / "golden.json", change)
    bundle = Bundle.open(copy)
    with pytest.raises(BundleError, match="golden request 2"):
        bundle.replay_golden(bundle.session())


@pytest.mark.parametrize("name", ["user", "item", "context", "cross", "history", "gap"])
@pytest.mark.parametrize("row", [-1, 10**6])
def test_a_row_outside_its_table_never_reaches_onnxruntime(small_bundle: Bundle, name: str, row: int) -> None:
    inputs = small_bundle.encode_golden(small_bundle.golden()[0])
    inputs[name] = inputs[name].copy()
    inputs[name].flat[0] = row
    with pytest.raises(BundleError, match=f"input '{name}'"):
        small_bundle.score(small_bundle.session(), inputs)


def test_the_exported_graph_answers_as_torch_for_all_shapes(small_run: Run, small_bundle: Bundle) -> None:
    shapes = {(i["item"].shape[:2], int((i["gap"] != 0).sum())) for i in cases(small_bundle)}
    assert {users for (users, _), _ in shapes} == {1, 3} and {c for (_, c), _ in shapes} == {1, 2, 100, 1000}
    assert {visible for (users, _), visible in shapes if users == 1} == {0, 1, 10, 20}
    assert check_parity(small_run.network, small_bundle) < 1e-5


def test_a_graph_that_answers_otherwise_is_refused(small_run: Run, small_bundle: Bundle) -> None:
    weight = small_run.network.head.rest[-1].bias
    with torch.no_grad():
        weight += 0.01
    try:
        with pytest.raises(ExportError, match="differ by"):
            check_parity(small_run.network, small_bundle)
    finally:
        with torch.no_grad():
            weight -= 0.01


def test_a_failed_export_leaves_neither_bundle_nor_current(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writing(tmp_path, "bst_x", {}) as draft:
        (draft.folder / "model.onnx.data").write_bytes(b"half")
        raise RuntimeError
    assert list((tmp_path / "bst_x").iterdir()) == []


def test_padded_slots_do_not_change_an_exported_score(small_bundle: Bundle) -> None:
    session = small_bundle.session()
    inputs = small_bundle.encode_golden(small_bundle.golden()[1])
    wide = dict(inputs)
    wide["gap"] = np.pad(inputs["gap"], ((0, 0), (0, 5)))
    wide["history"] = np.pad(inputs["history"], ((0, 0), (0, 5), (0, 0)))
    np.testing.assert_allclose(small_bundle.score(session, wide), small_bundle.score(session, inputs), atol=1e-6)


def test_a_bundle_says_when_it_was_exported_also_one_of_an_older_release(copy: Path) -> None:
    edit(copy / "manifest.json", lambda m: m.update(exported_at="2026-03-01T12:00:00Z"))
    assert Bundle.open(copy).exported_s == 1_772_366_400
    edit(copy / "manifest.json", lambda m: m.pop("exported_at"))
    edit(copy / "manifest.json", lambda m: m.update(version="20260301T120001-0123abcd"))
    assert Bundle.open(copy).exported_s == 1_772_366_401  # as its version says
    edit(copy / "manifest.json", lambda m: m.update(version="ours-7"))
    os.utime(copy / "manifest.json", (5, 6))
    assert Bundle.open(copy).exported_s == 6


def test_a_new_bundle_carries_the_time_of_its_export(small_bundle: Bundle) -> None:
    written = datetime.fromisoformat(small_bundle.manifest["exported_at"])
    assert f"{written:%Y%m%dT%H%M%S}" == small_bundle.version[:15]
    assert 0 <= time.time() - small_bundle.exported_s < 24 * 3600


def test_a_folder_with_one_bundle_in_it_is_that_bundle_as_a_container_mounts_it(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    def home(name: str) -> Path:
        shutil.copytree(small_bundle.folder, tmp_path / name / small_bundle.version)
        (tmp_path / name / "current").symlink_to(small_bundle.version)
        return tmp_path / name / small_bundle.version

    only = home("bst_mine")
    (tmp_path / "lost+found").mkdir()
    assert Bundle.open(tmp_path).folder == only.resolve()
    home("bst_other")
    named = rf"is no bundle: .*; it holds {tmp_path}/bst_mine, {tmp_path}/bst_other: name one of them$"
    with pytest.raises(BundleError, match=named):
        Bundle.open(tmp_path)
