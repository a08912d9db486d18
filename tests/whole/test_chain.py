"""In a world where the last click decides, networks rank by what they see of a history."""

from pathlib import Path

import numpy as np
import pytest

from model.datasets.tables import Options
from model.evaluation.boosting.kept import boosted_scores
from model.prepare import prepare
from model.prepared.loader import Prepared, batches
from model.training.choosing.defaults import suited
from model.training.run import Run

IMPRESSIONS = 60_000


def expected_auc(chance: np.ndarray, score: np.ndarray) -> float:
    """The AUC of labels that are drawn with these probabilities, in the mean: one drawing's luck is no part of it."""
    chance = chance[np.argsort(score, kind="stable")]
    below = np.cumsum(1 - chance) - (1 - chance)
    return float((chance * below).sum() / (chance.sum() * (1 - chance).sum() - (chance * (1 - chance)).sum()))


@pytest.mark.long
@pytest.mark.timeout(1800)  # four trainings: minutes, on a busy machine many
def test_networks_rank_as_the_world_was_built_by_the_settings_that_suit_it(tmp_path: Path) -> None:
    prepare("chain", None, tmp_path / "data", Options(impressions=IMPRESSIONS, seed=1))
    data = Prepared(tmp_path / "data")
    test = data.of_split("test")
    truth = np.asarray(data.arrays["true_probability"][test])
    reached = {}
    for network in ("wdl", "wdl_seq", "din", "bst"):
        run = Run(data, network, suited(data, network).recipe, 1, tmp_path / f"{network}.pt")
        run.fit()
        run.network.eval()
        scores = [run.logit(rows).detach().numpy() for rows, _ in batches(data, test, 4096)]
        reached[network] = expected_auc(truth, np.concatenate(scores))
    boosted = boosted_scores(data, test)
    if boosted is not None:
        assert reached["bst"] > expected_auc(truth, boosted) + 0.02, reached
    assert expected_auc(truth, truth) > reached["bst"] > reached["din"] + 0.02, reached
    assert reached["din"] > reached["wdl_seq"] > reached["wdl"] - 0.005, reached
