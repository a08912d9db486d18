"""Every network the whole way: trained, exported, and served by the same service from its bundle.

The log has two behaviour groups (items and coupons) and two actions, ties and unknown ids.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import networks
from model.bundle.reading import Bundle
from model.datasets.tables import DataSet
from model.features.schema import parse
from model.graph.publish import publish
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, Training
from model.training.run import Run
from tests.client import replay
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


@pytest.mark.parametrize("name", networks.names())
def test_a_network_is_served_as_it_was_evaluated(log: Prepared, tmp_path: Path, name: str, valkey_url: str) -> None:
    small = {"mlp": (16,)} if "mlp" in networks.options(name) else {}
    how = Training(optimiser="adam", learning_rate=0.01, batch_size=128, evaluations=1)
    run = Run(log, name, Recipe(small, how), 1, tmp_path / "x.pt")
    run.fit()
    bundle = Bundle.open(publish(run, tmp_path, boosting=False).bundle)
    bundle.verify()
    assert bundle.manifest["network"] == name
    assert bundle.manifest["objective"] == ("pairs" if name == "bpr" else "click")
    assert replay(bundle, log, valkey_url, np.arange(0, len(log.label), 10)) == 1  # early ones have short histories
