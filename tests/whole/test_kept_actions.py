"""Actions that the network reads are kept, whatever else a user does: served scores are the evaluated ones."""

from itertools import islice
from pathlib import Path

import numpy as np
import redis

from model.bundle.reading import Bundle
from model.datasets import taobao
from model.graph.publish import publish
from model.prepare import main as prepare
from model.prepared.loader import Prepared
from model.training.recipe import Recipe, Training
from model.training.run import Run
from tests.client import replay

LINES = 6_000  # of the log, which is sorted by user: some 50 of them, with ten views to each other action
T = 20


def test_carts_and_buys_between_ten_times_as_many_views_are_served_as_evaluated(
    real_logs: Path, tmp_path: Path, valkey_url: str
) -> None:
    raw, features = tmp_path / "raw", tmp_path / "features.toml"
    raw.mkdir()
    with (real_logs / "taobao_userbehavior" / taobao.FILES[0]).open() as log:
        (raw / taobao.FILES[0]).write_text("".join(islice(log, LINES)))
    declared = Path(taobao.__file__).with_suffix(".toml").read_text()
    all_actions, three = 'actions = ["pv", "cart", "fav", "buy"]', 'actions = ["cart", "fav", "buy"]'
    assert all_actions in declared
    # Matches that look at no more behaviours than the network: the store may then be told to keep no more.
    features.write_text(declared.replace(all_actions, three).replace("length = 200", f"length = {T}"))
    out = str(tmp_path / "data")
    assert prepare(["--dataset", "taobao", "--raw", str(raw), "--out", out, "--features", str(features)]) == 0

    data = Prepared(Path(out))
    how = Training(optimiser="adam", learning_rate=0.01, batch_size=512, evaluations=1)
    run = Run(data, "bst", Recipe({"mlp": (16,)}, how), 1, tmp_path / "x.pt")
    run.fit()
    bundle = Bundle.open(publish(run, tmp_path / "bundles", boosting=False, explain=False).bundle)
    assert bundle.schema.history.length == T

    rows = np.sort(np.random.default_rng(0).choice(len(data.label), 200, replace=False))
    assert replay(bundle, data, valkey_url, rows) == 1
    with redis.Redis.from_url(valkey_url) as admin:
        admin.flushall()
    assert 0.5 < replay(bundle, data, valkey_url, rows, keep=T) < 1, "what the store has cut is told"
