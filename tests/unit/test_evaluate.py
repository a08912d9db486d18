"""AUC, GAUC, logloss and the floor: by hand and against scikit-learn."""

import shutil
from copy import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.evaluate import evaluate
from model.evaluation.measure import check_encoding, floor_scores
from model.evaluation.metrics import auc, calibration_bins, coverage, gauc, logloss
from model.prepared.loader import Prepared

rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.1, 0.2, 0.5, 0.7, 0.9]), st.integers(0, 4)), min_size=1, max_size=60
)


@given(rows)
def test_auc_is_scikit_learns_with_ties(made: list[tuple[int, float, int]]) -> None:
    label, score, _ = (np.array(column) for column in zip(*made, strict=True))
    if len(set(label.tolist())) < 2:
        assert auc(label, score) is None
    else:
        assert auc(label, score) == pytest.approx(roc_auc_score(label, score))


@given(rows)
def test_gauc_weighs_users_by_impressions_and_leaves_out_those_of_one_class(made: list[tuple[int, float, int]]) -> None:
    label, score, user = (np.array(column) for column in zip(*made, strict=True))
    areas, weights = [], []
    for one in set(user.tolist()):
        mine = user == one
        if len(set(label[mine].tolist())) == 2:
            areas.append(roc_auc_score(label[mine], score[mine]))
            weights.append(mine.sum())
    expected = np.average(areas, weights=weights) if areas else None
    assert gauc(label, score, user) == (expected if expected is None else pytest.approx(expected))


def test_coverage_is_the_share_of_impressions_and_users_that_gauc_is_of() -> None:
    user, label = np.array([9, 9, 9, 4, 4, 7]), np.array([1, 0, 0, 1, 1, 0])
    assert coverage(label, user) == (3 / 6, 1 / 3)
    assert coverage(label[:0], user[:0]) == (0, 0)


def test_auc_by_hand() -> None:
    label, score = np.array([1, 0, 1, 0]), np.array([0.9, 0.9, 0.4, 0.1])
    assert auc(label, score) == (0.5 + 1 + 0 + 1) / 4


def test_logloss_is_scikit_learns_and_survives_certainty() -> None:
    draw = np.random.default_rng(0)
    label, score = draw.integers(0, 2, 500), draw.random(500)
    assert logloss(label, score) == pytest.approx(log_loss(label, score))
    assert np.isfinite(logloss(np.array([1, 0]), np.array([0.0, 1.0])))


def test_calibration_bins_are_tenths_by_score() -> None:
    score = np.linspace(0, 1, 1000)
    bins = calibration_bins((score > 0.5).astype(int), score)
    assert [b["rows"] for b in bins] == [100] * 10 and bins[0]["observed"] == 0 and bins[9]["observed"] == 1


def test_the_floor_is_the_sum_of_smoothed_log_odds_counted_on_training_days(small_data: Prepared) -> None:
    train, test = small_data.of_split("train"), small_data.of_split("test")[:5]
    p = small_data.label[train].mean()
    floor = floor_scores(small_data, test)
    items = small_data.arrays["items"]
    category = small_data.schema.places("item")["category_id"].start
    groups = [
        lambda row: small_data.item == small_data.item[row],
        lambda row: small_data.user == small_data.user[row],
        lambda row: items[small_data.item, category] == items[small_data.item[row], category],
        *(
            lambda row, c=c: small_data.arrays["context"][:, c] == small_data.arrays["context"][row, c]
            for c in range(3)
        ),
    ]
    for row, value in zip(test, floor, strict=True):
        total = 0.0
        for of in groups:
            mine = small_data.label[train][of(row)[train]]
            rate = (mine.sum() + 20 * p) / (len(mine) + 20)
            total += np.log(rate / (1 - rate)) - np.log(p / (1 - p))
        assert value == pytest.approx(total)


def test_data_that_is_encoded_otherwise_is_not_evaluated(
    small_bundle: Bundle, small_data: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> None:
    figures = evaluate(small_bundle, small_data, "validation")
    assert figures["rows"] == len(small_data.of_split("validation")) and figures["oracle_auc"] > figures["floor_auc"]
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(small_data.folder, other / "data")
    vocabulary = other / "data" / "vocab" / "age.npy"
    content = bytearray(vocabulary.read_bytes())
    content[-1] ^= 1
    vocabulary.write_bytes(content)
    with pytest.raises(BundleError, match=r"encode differently: age.npy"):
        evaluate(small_bundle, Prepared(other / "data"), "test")
    shutil.rmtree(other / "data")
    shutil.copytree(small_data.folder, other / "data")
    table = other / "data" / "features.toml"
    table.write_text(table.read_text().replace('actions = [\n    "click",\n]', 'actions = ["buy"]'))
    assert Prepared(other / "data").schema.history.actions == ("buy",)
    with pytest.raises(BundleError, match=r"encode differently: features.toml"):
        evaluate(small_bundle, Prepared(other / "data"), "test")
    shutil.copytree(small_data.folder, other / "grown")
    (other / "grown" / "vocab" / "colour.npy").touch()
    more = copy(small_data)
    more.folder = other / "grown"
    with pytest.raises(BundleError, match=r"encode differently: colour.npy; a bundle goes with the data set"):
        check_encoding(small_bundle, more)


def test_a_split_without_impressions_is_not_measured(small_bundle: Bundle, small_data: Prepared) -> None:
    untested = copy(small_data)
    split = np.array(small_data.arrays["split"])
    split[small_data.of_split("test")] = 0
    untested.arrays = small_data.arrays | {"split": split}
    with pytest.raises(ValueError, match="no impressions of test; there are some of train, validation"):
        evaluate(small_bundle, untested, "test")
