"""Every network the whole way: trained, exported, and served by the same service from its bundle.

The log has two behaviour groups (items and coupons) and two actions, ties and unknown ids.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from model import networks
from model.bundle.layout import GRAPH
from model.bundle.reading import Bundle
from model.datasets.tables import DataSet
from model.features.behaviour import Behaviour
from model.features.schema import parse
from model.graph.publish import publish
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.training.batches import tensors
from model.training.recipe import Recipe, Training
from model.training.run import Run
from tests.client import NOW, ask, replay
from tests.graphs import check_head, check_narrow
from tests.stores import write
from tests.worlds import COUPONS, FEATURES, make_schema, write_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("log")
    write_log(folder)
    user_id = {"name": "user_id", "side": "user", "kind": "id"}
    named = parse({"user_id": "str", "feature": [user_id, *FEATURES]})
    schema = replace(make_schema(4, ("click", "like"), [COUPONS]), features=named.features)
    encode_tables(folder, schema, DataSet("log", "UTC"))
    return Prepared(folder)


@pytest.fixture(scope="module", params=networks.names())
def run(request: pytest.FixtureRequest, log: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    small = {"mlp": (16,)} if "mlp" in networks.options(request.param) else {}
    how = Training(optimiser="adam", learning_rate=0.01, batch_size=128, evaluations=1)
    run = Run(log, request.param, Recipe(small, how), 1, tmp_path_factory.mktemp("run") / "x.pt")
    run.fit()
    return run


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(publish(run, tmp_path_factory.mktemp("bundles"), boosting=False).bundle)


def test_a_network_is_served_as_it_was_evaluated(log: Prepared, run: Run, bundle: Bundle, valkey_url: str) -> None:
    bundle.verify()
    assert bundle.manifest["network"] == run.name
    assert bundle.manifest["objective"] == ("pairs" if run.name == "bpr" else "click")
    assert replay(bundle, log, valkey_url, np.arange(0, len(log.label), 10)) == 1  # early ones have short histories


def test_its_graph_has_a_head_by_name_and_scores_nearly_alike_on_smaller_tables(
    run: Run, bundle: Bundle, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_head(run.network, bundle.folder / GRAPH)
    feed = bundle.encode_golden(bundle.golden()[0])
    scores = torch.from_numpy(bundle.score(bundle.session(), feed))
    check_narrow(run.network, bundle.folder, tmp_path, feed, scores)
    assert "Expected shape" not in capfd.readouterr().err, "onnxruntime met a shape that the export took for constant"


CANDIDATES = ["i1", "i5", "gone", "i39"]
HISTORIES = {  # by user: clicks and likes of items, then of coupons; the network sees the newest 4 and 2
    "u1": (3, 1),
    "u2": (6, 0),
    "u3": (0, 3),
    "u4": (0, 0),
}


def behaviours_of(user_id: str) -> tuple[list[Behaviour], list[Behaviour]]:
    items, coupons = HISTORIES[user_id]
    return (
        [Behaviour("like" if n % 2 else "click", "item", f"i{n + 1}", NOW - 60_000 * (9 - n)) for n in range(items)],
        [Behaviour("click", "coupon", f"i{n + 7}", NOW - 90_500 * (9 - n)) for n in range(coupons)],
    )


def attended(run: Run, bundle: Bundle, user_id: str) -> "tuple[list[Behaviour], np.ndarray[Any, Any] | None]":
    """The behaviours that the network sees, and torch's weights of them for each candidate, the target's own last."""
    items, coupons = (newest[-most:] for newest, most in zip(behaviours_of(user_id), (4, 2), strict=True))
    encoded = bundle.encoder.encode(user_id, {}, [*items, *coupons], CANDIDATES, NOW, bundle.catalog)
    with torch.no_grad():
        weights = run.network.eval().attention(tensors(encoded.inputs))
    if weights is None:
        return items, None
    of_groups = "groups" not in run.network.unseen
    slots = [max(1, len(items)), max(1, len(coupons))] if of_groups else [max(1, len(items))]
    places = [*range(len(items)), *(slots[0] + n for n in range(len(coupons) if of_groups else 0))]
    assert not np.delete(weights[0].numpy(), [*places, *range(sum(slots), weights.shape[2])], 1).any(), "padding weighs"
    places += range(sum(slots), weights.shape[2])
    return [*items, *(coupons if of_groups else ())], weights[0].numpy()[:, places]


def test_an_explanation_tells_torchs_attention_of_every_behaviour(run: Run, bundle: Bundle, valkey_url: str) -> None:
    for user_id in HISTORIES:
        items, coupons = behaviours_of(user_id)
        write(valkey_url, user_id, sorted([*items, *coupons], key=lambda b: b.timestamp), {})
    plain = {"candidates": CANDIDATES, "timestamp": NOW}
    bodies = [plain | {"user_id": user_id} for user_id in HISTORIES]
    told = ask(bundle, valkey_url, *bodies, *(body | {"explain": True} for body in bodies), *bodies)
    before, explained, after = (told[at : at + len(bodies)] for at in range(0, len(told), len(bodies)))
    for user_id, unasked, answer, later in zip(HISTORIES, before, explained, after, strict=True):
        body = answer.json()
        behaviours, expected = attended(run, bundle, user_id)
        shared = body.pop("explanation")
        assert shared["behaviours"] == [
            {"action": b.action, "object_type": b.object_type, "object_id": b.object_id, "age_s": age(b)}
            for b in behaviours
        ]
        assert (shared["note"] is None) == (shared["normalised"] is not None) == (expected is not None)
        for item in body["items"]:
            why = item.pop("explanation")
            assert why["score"] == item["score"]
            if expected is None:
                assert "attention" not in why and "attention_target" not in why
                continue
            own = [why["attention_target"]] if "attention_target" in why else []
            assert len(why["attention"]) == len(behaviours) and (run.name == "bst") == bool(own)
            weights = np.array([*why["attention"], *own])
            np.testing.assert_allclose(weights, expected[CANDIDATES.index(item["item_id"])], atol=1e-5)
            assert shared["normalised"] == (run.name != "din")
            if shared["normalised"]:
                assert weights.sum() == pytest.approx(1 if len(weights) else 0, abs=1e-5)
        assert [plainly(unasked), plainly(later)] == [plainly(answer, body)] * 2, "asking changes no answer"


def plainly(answer: httpx.Response, body: Any = None) -> Any:
    return {k: v for k, v in (body or answer.json()).items() if k not in ("request_id", "timings_ms")}


def age(behaviour: Behaviour) -> float:
    return (NOW - behaviour.timestamp) / 1000
