"""Gradient boosting beside the floor: what its columns count, that no label leaks, and what is kept."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.datasets.tables import DataSet
from model.evaluation.boosting import kept
from model.evaluation.boosting.described import Described
from model.evaluation.boosting.kept import boosted_scores
from model.evaluation.boosting.parameters import parameters
from model.evaluation.boosting.trees import Boosted, training_rows
from model.evaluation.measure import floor_scores, measure
from model.evaluation.metrics import auc
from model.features.ids import PAD
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from tests.worlds import COUPONS, make_schema, write_log

pytest.importorskip("lightgbm")


@pytest.fixture(scope="module")
def odd_data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A log of coin throws with ties, unknown ids, missing categories and a second group of behaviours."""
    folder = tmp_path_factory.mktemp("odd")
    write_log(folder)
    encode_tables(folder, make_schema(groups=[COUPONS]), DataSet("odd", "UTC"))
    return Prepared(folder)


@pytest.fixture
def copy(odd_data: Prepared, tmp_path: Path) -> Path:
    return Path(shutil.copytree(odd_data.folder, tmp_path / "copy"))


def test_the_candidate_is_looked_up_in_the_behaviours_strictly_before_the_impression(odd_data: Prepared) -> None:
    data, a, rows = odd_data, odd_data.arrays, np.arange(1500)
    columns = Described(data).columns(rows)
    category = a["items"][:, data.schema.places("item")["category_id"].start]
    ties = 0
    for n, row in enumerate(rows):
        user, item = a["user"][row], a["item"][row]
        own = slice(a["begin"][user], [*a["begin"], len(a["clicked"])][user + 1])
        ties += int((a["clicked_at"][own] == a["time"][row]).sum())
        earlier = [p for p in range(own.start, own.stop) if a["clicked_at"][p] < a["time"][row]]
        seen = earlier[-data.schema.history.length :][::-1]  # the newest first
        assert columns["behaviours"][n] == len(seen)
        for name, same in (
            ("item", [p for p in seen if a["clicked"][p] == item]),
            ("category_id", [p for p in seen if category[a["clicked"][p]] == category[item] != PAD]),
        ):
            assert columns[f"same {name}"][n] == len(same)
            place, age = columns[f"same {name}, place"][n], columns[f"same {name}, age"][n]
            if same:
                assert place == seen.index(same[0])
                assert age == pytest.approx(np.log1p((a["time"][row] - a["clicked_at"][same[0]]) / 1000))
            else:
                assert np.isnan(place) and np.isnan(age)
    assert ties, "the log has none of what strictly is about"


def test_a_training_row_is_described_by_what_was_counted_before_its_block(odd_data: Prepared) -> None:
    rows = odd_data.of_split("train")
    how = replace(parameters(), most_rows=400, blocks=4)
    described, matrix, label = training_rows(odd_data, rows, how=how)
    newest = rows[-400:]
    assert (label == odd_data.label[newest]).all() and described.rows == len(rows)
    names = list(described.columns(rows[:0]))
    for at in (0, 99, 100, 399):
        before = rows[rows < newest[at - at % 100]]
        mine = before[odd_data.item[before] == odd_data.item[newest[at]]]
        rate = (odd_data.label[before].sum() + 1) / (len(before) + 2)
        smoothed = (odd_data.label[mine].sum() + 20 * rate) / (len(mine) + 20)
        expected = np.log(smoothed / (1 - smoothed)) - np.log(rate / (1 - rate))
        assert matrix[at, names.index("rate of item")] == pytest.approx(expected, abs=1e-6)
        assert matrix[at, names.index("times of item")] == pytest.approx(np.log1p(len(mine)))


def test_labels_of_coin_throws_are_not_learnt(small_data: Prepared, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_data.folder, tmp_path / "thrown"))
    label = np.random.default_rng(1).integers(0, 2, len(small_data.label)).astype(np.int8)
    np.save(folder / "encoded" / "label.npy", label)
    data = Prepared(folder)
    _, matrix, labels = training_rows(data, data.of_split("train"))
    for column in matrix.T:
        assert auc(labels, np.nan_to_num(column, nan=-1.0)) == pytest.approx(0.5, abs=0.02)
    test = data.of_split("test")
    assert auc(label[test], Boosted(data).scores(test)) == pytest.approx(0.5, abs=0.04)


def test_it_learns_more_than_the_floor_and_the_same_each_time(small_data: Prepared) -> None:
    test = small_data.of_split("test")
    scores = Boosted(small_data).scores(test)
    assert (scores == Boosted(small_data).scores(test)).all()
    floor, truth = floor_scores(small_data, test), small_data.arrays["true_probability"][test]
    label = small_data.label[test]
    areas = [auc(label, score) or 0 for score in (floor, scores, truth)]
    assert areas == sorted(areas)


def test_drawn_negatives_are_not_counted(copy: Path) -> None:
    meta = (copy / "meta.json").read_text()
    (copy / "meta.json").write_text(meta.replace('"drawn_negatives": false', '"drawn_negatives": true'))
    data = Prepared(copy)
    described, rows = Described(data), data.of_split("train")
    described.add(rows)
    columns = described.columns(rows[:3])
    assert "times of item" not in columns and "rate of item" not in columns
    clicked = rows[data.label[rows] > 0]
    expected = [np.log(((data.item[clicked] == data.item[row]).sum() + 1) / (len(clicked) + 1)) for row in rows[:3]]
    assert columns["clicks of item"] == pytest.approx(expected)


def test_scores_are_kept_until_the_data_are_prepared_anew(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Prepared(copy)
    test = data.of_split("test")
    first = boosted_scores(data, test)
    assert first is not None and first.shape == test.shape
    fits: list[object] = []
    fit = Boosted._fitted
    monkeypatch.setattr(Boosted, "_fitted", lambda *given: fits.append(given) or fit(*given))
    again = boosted_scores(Prepared(copy), test[::2])
    assert again is not None and (again == first[::2]).all() and not fits
    boosted_scores(data, data.of_split("validation"))
    assert not fits, "validation was scored by the same trees"
    both = boosted_scores(data, test, ("train", "validation"))
    assert both is not None and (both != first).any() and len(fits) == 2

    (file,) = copy.glob(f"{kept.FOLDER}/train.npz")
    file.write_bytes(file.read_bytes()[:100])  # cut short
    assert (boosted_scores(data, test) == first).all() and len(fits) == 3

    label = np.load(copy / "encoded" / "label.npy")
    np.save(copy / "encoded" / "label.npy", 1 - label)
    turned = boosted_scores(Prepared(copy), test)
    assert turned is not None and (turned != first).any() and len(fits) == 4


def test_rows_that_were_trained_on_have_no_scores(copy: Path) -> None:
    data = Prepared(copy)
    assert boosted_scores(data, data.of_split("train")) is None
    assert boosted_scores(data, data.of_split("validation"), ("train", "validation")) is None
    assert boosted_scores(data, data.of_split("test"), ("train", "validation", "test")) is None
    assert not (copy / kept.FOLDER).exists()


def test_a_log_of_one_class_or_a_few_rows_has_scores(copy: Path) -> None:
    label = np.load(copy / "encoded" / "label.npy")
    np.save(copy / "encoded" / "label.npy", np.zeros_like(label))
    data = Prepared(copy)
    assert len(set(Boosted(data).scores(data.of_split("test")))) == 1
    split = np.load(copy / "encoded" / "split.npy")
    np.save(copy / "encoded" / "label.npy", label)
    few = np.where(np.arange(len(split)) < 9, 0, 2).astype(split.dtype)  # nine rows of train, no validation
    np.save(copy / "encoded" / "split.npy", few)
    data = Prepared(copy)
    assert np.isfinite(Boosted(data).scores(data.of_split("test"))).all()


def test_without_lightgbm_the_figure_is_none_and_how_to_get_it_is_told_once(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    kept._tell.cache_clear()
    data = Prepared(copy)
    for split in ("validation", "test"):
        rows = data.of_split(split)
        figures = measure(data, rows, np.random.default_rng(0).random(len(rows)))
        assert figures["gbdt_auc"] is None and figures["floor_auc"] is not None
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "pip install 'bst-ranker[train]'" in told


def test_a_folder_that_cannot_be_written_costs_a_note_and_not_the_figure(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / kept.FOLDER).write_text("a file where the folder would be")
    kept._tell.cache_clear()
    data = Prepared(copy)
    assert boosted_scores(data, data.of_split("test")) is not None
    assert "cannot be kept" in capsys.readouterr().err


def test_given_match_and_statistic_features_it_sees_them_as_networks_do(
    small_data: Prepared, odd_data: Prepared
) -> None:
    rows, schema = small_data.of_split("test")[:500], small_data.schema
    columns, batch = Described(small_data, derived=True).columns(rows), small_data.batch(rows)
    for match in schema.matches:
        assert (columns[f"match {match.name}"] == batch["cross"][:, 0, schema.places("cross")[match.name].start]).all()
    for at, statistic in enumerate(schema.statistics):
        assert (columns[f"statistic {statistic.name}"] == batch["cross_numbers"][:, 0, at]).all()
    assert not any(name.startswith(("match", "statistic")) for name in Described(small_data).columns(rows))
    assert boosted_scores(odd_data, odd_data.of_split("test"), derived=True) is None, "there are none"
