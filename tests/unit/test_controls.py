"""Controls that tell inputs from architecture: what a variant leaves out no network sees, in torch and in ONNX."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from model import networks
from model.bundle.reading import Bundle
from model.datasets.tables import DataSet
from model.evaluation.measure import at_once, check_encoding, score_rows
from model.features.ids import PAD
from model.features.kinds import KINDS
from model.features.schema import parse
from model.graph.publish import publish
from model.options import OptionError
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.reproduction import variants
from model.training.batches import tensors
from model.training.recipe import Derived, Recipe, RecipeError, Training, adapted
from model.training.run import Run
from tests.batches import close, strong
from tests.worlds import FEATURES, make_schema, write_log

DERIVED: list[dict[str, Any]] = [
    {"name": "counted", "side": "cross", "kind": "statistic", "of": ["item_id"], "what": "rate"},
    {"name": "same", "side": "cross", "kind": "match", "of": ["category_id"], "what": "count", "width": 4},
    {"name": "shown", "side": "cross", "kind": "statistic", "of": ["category_id"], "what": "count"},
]
WITHOUT = {"": (), "match": ("match",), "statistic": ("statistic",), "match-statistic": ("match", "statistic")}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("controls")
    write_log(folder)
    user_id = {"name": "user_id", "side": "user", "kind": "id"}  # for bpr
    history = {"length": 3, "actions": ["click"]}
    schema = parse({"user_id": "str", "history": history, "feature": [user_id, *FEATURES, *DERIVED]})
    encode_tables(folder, schema, DataSet("log", "UTC"))
    return Prepared(folder)


def recipe(network: str, without: str) -> Recipe:
    label = f"{network}:without={without}" if without else network
    return variants.parse(label).recipe(Recipe(training=Training(optimiser="adam", batch_size=256, evaluations=1)))


@pytest.mark.parametrize("network", [name for name in networks.names() if name != "bpr"])
@pytest.mark.parametrize("without", WITHOUT)
@torch.no_grad()
def test_what_a_variant_leaves_out_no_network_sees_and_all_else_it_does(
    log: Prepared, network: str, without: str
) -> None:
    torch.manual_seed(0)
    schema = adapted(log.schema, recipe(network, without))
    made = strong(networks.build(network, schema, log.rows))
    batch = tensors(log.batch(log.of_split("train")[-50:]))
    same = batch["cross"].clone()
    same[..., schema.places("cross")["same"]] = 2 + (same[..., schema.places("cross")["same"]] - 1) % 5
    changed = {"match": batch | {"cross": same}}
    for place in range(2):
        counted = batch["cross_numbers"].clone()
        counted[..., place] += 1
        changed[f"statistic {place}"] = batch | {"cross_numbers": counted}
    for what, other in changed.items():
        left_out = what.split()[0] in WITHOUT[without]
        assert torch.equal(made(other), made(batch)) == left_out, f"{what} without {without}"


def test_a_bundle_keeps_what_its_network_does_not_see_and_scores_as_it_was_trained(
    log: Prepared, tmp_path: Path
) -> None:
    run = Run(log, "wdl", recipe("wdl:mlp=16", "statistic"), 1, tmp_path / "x.pt")
    run.fit()
    bundle = Bundle.open(publish(run, tmp_path, boosting=False, explain=False).bundle)
    unseen = [feature.name for feature in bundle.schema.features if not feature.seen]
    assert unseen == ["counted", "shown"] and "without = [" in (bundle.folder / "recipe.toml").read_text()
    check_encoding(bundle, log)  # of the data it was trained on, which says nothing of what is seen
    rows = log.of_split("test")
    with torch.no_grad():
        expected = torch.sigmoid(run.network.eval()(tensors(run.data.batch(rows))))[:, 0]
    close(torch.from_numpy(score_rows(bundle, log, rows)), expected)
    request = bundle.golden()[0]
    np.testing.assert_allclose(
        bundle.score(bundle.session(), bundle.encode_golden(request))[0], request["scores"], 1e-5
    )


def test_a_log_without_such_features_has_nothing_to_compare() -> None:
    with pytest.raises(RecipeError, match="inputs without match, and features.toml has no feature of that kind"):
        adapted(make_schema(), recipe("bst", "match"))


def test_what_can_be_left_out_are_the_kinds_that_are_computed() -> None:
    assert set(get_args(Derived)) == {name for name, kind in KINDS.items() if kind.derived}


def test_blocks_stand_on_each_other_only_where_a_request_fits_in_memory(log: Prepared) -> None:
    longer, longest = (replace(log.schema, history=replace(log.schema.history, length=t)) for t in (201, 1000))
    with pytest.raises(OptionError, match="2 blocks: history length 201, allowed: up to 200, or blocks 1"):
        networks.build("bst", longer, log.rows, {"blocks": 2})
    networks.build("bst", longest, log.rows, {"mlp": (8,)})


def test_fewer_impressions_are_scored_at_once_where_histories_are_long(log: Prepared) -> None:
    lengths = {t: at_once(log.seen_by(make_schema(t))) for t in (3, 20, 200, 1000)}
    assert lengths == {3: 4096, 20: 4096, 200: 409, 1000: 81}


@torch.no_grad()
def test_the_loader_gives_as_many_behaviours_as_are_asked_for(log: Prepared) -> None:
    """Longer than any history in the log: the score stays that of all behaviours that there are."""
    rows = log.of_split("test")
    begun = log.arrays["end"][rows] - log.arrays["begin"][log.arrays["user"][rows]]
    longest = log.seen_by(replace(log.schema, history=replace(log.schema.history, length=1000)))
    batch = tensors(longest.batch(rows))
    assert batch["gap"].shape[1] == 1000 and ((batch["gap"] != PAD).sum(1).numpy() == begun).all()
    made = strong(networks.build("bst", longest.schema, log.rows, {"mlp": (8,)}))
    short = log.seen_by(replace(log.schema, history=replace(log.schema.history, length=int(begun.max()))))
    close(made(batch), made(tensors(short.batch(rows))))


def test_t_is_the_length_of_the_history() -> None:
    (found,) = variants.parse_all(["bst:T=50", "bst:history=50"])
    assert found.folder == "bst,history=50" and found.recipe(Recipe()).history == {"length": 50}
