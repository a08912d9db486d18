"""A bundle or a prepared data set that is broken is one line: which file, what is wrong with it, what to do."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.bundle.layout import BundleError, located
from model.bundle.reading import Bundle
from model.bundle.session import Session
from model.datasets.tables import DataSet
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from tests.worlds import COUPONS, make_schema, write_log

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_log(folder)
    encode_tables(folder, make_schema(3, groups=[COUPONS]), DataSet("log", "UTC", 0))
    return folder


def gone(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def written(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def cut(name: str, share: float = 0.5) -> Change:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def shorter(folder: Path) -> None:
    path = folder / "encoded" / "label.npy"
    np.save(path, np.load(path)[:-1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (gone("encoded/label.npy"), "of an older release (no encoded/label.npy); prepare it again"),
        (gone("encoded/coupon_end.npy"), "(no encoded/coupon_end.npy); prepare it again"),
        (cut("encoded/users.npy"), "encoded/users.npy is cut off or no array ("),
        (cut("encoded/end.npy", 0), "encoded/end.npy is cut off or no array ("),
        (written("encoded/item.npy", "text"), "encoded/item.npy is cut off or no array ("),
        (shorter, "'label': 1499"),
        (gone("features.toml"), "features.toml'); prepare it again"),
        (written("features.toml", "user_id = 3"), "features.toml: user_id 3, allowed: int, str); prepare it again"),
        (gone("vocab/statistics.json"), "statistics.json'); prepare it again"),
        (written("vocab/statistics.json", "[]"), "statistics.json: tables `rows` and `numbers` are needed); prepare"),
        (written("vocab/statistics.json", '{"rows": {}, "numbers": {}}'), "nothing of age, income, interests, item_id"),
        (cut("vocab/statistics.json"), "statistics.json: Expecting"),
        (gone("vocab/age.npy"), "vocab/age.npy is missing, the vocabulary of a feature that features.toml declares"),
        (cut("vocab/age.npy"), "vocab/age.npy is cut off or no vocabulary ("),
        (written("meta.json", "{}"), "meta.json names no dataset); prepare it again"),
        (cut("meta.json"), "); prepare it again"),
        (cut("catalog/items.npy"), "catalog/items.npy: "),
    ],
)
def test_a_broken_prepared_data_set_names_what_is_broken(
    whole: Path, tmp_path: Path, change: Change, says: str
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(whole, folder)
    Prepared(folder)
    change(folder)
    with pytest.raises((OSError, ValueError)) as error:
        Prepared(folder)
    assert says in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut("model.onnx"), "model.onnx is broken, or its .data is of another graph: "),
        (cut("model.onnx.data"), "model.onnx is broken, or its .data is of another graph: "),
        (written("vocab/statistics.json", "{}"), "tables `rows` and `numbers` are needed"),
        (
            written("features.toml", "user_id = 'str'\nwidth = = 3"),
            "features.toml: Invalid value (at line 2, column 9)",
        ),
        (cut("manifest.json"), "manifest.json: "),
    ],
)
def test_a_broken_bundle_names_what_is_broken(tmp_path: Path, change: Change, says: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(located(Path("service/demo/bundle"))[0], folder)
    change(folder)
    with pytest.raises(BundleError) as error:
        Bundle.open(folder).session()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_bundle_says_so_and_names_those_inside(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (tmp_path, file, tmp_path / "nothing"):
        with pytest.raises(BundleError, match="is no bundle: it has neither a manifest.json nor a `current`$"):
            Bundle.open(path)
    for version in ("20260101T000000-1", "20260102T000000-2"):  # written, and not published
        (tmp_path / "weak" / version).mkdir(parents=True)
        (tmp_path / "weak" / version / "manifest.json").touch()
    with pytest.raises(BundleError, match=f"it holds {tmp_path}/weak/20260102T000000-2, {tmp_path}/weak/20260101"):
        Bundle.open(tmp_path / "weak")
    (tmp_path / "bst_mine" / "current").mkdir(parents=True)
    with pytest.raises(BundleError, match=f"it holds {tmp_path}/bst_mine: name one of them"):
        Bundle.open(tmp_path)
    (tmp_path / "bst_low" / "20260101T000000-0").mkdir(parents=True)
    (tmp_path / "bst_low" / "20260101T000000-0" / "manifest.json").touch()
    with pytest.raises(
        BundleError, match="no version of it was published .*; it holds .*/bst_low/20260101T000000-0: name one of them$"
    ):
        Bundle.open(tmp_path / "bst_low")
    with pytest.raises(BundleError, match="file is broken"):
        Session(file)
