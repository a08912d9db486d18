"""The chain: exact counts, the same log by seed, and recorded probabilities that follow from the last click alone."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from model.datasets import chain
from model.datasets.tables import TABLES, DataSet, Options

SEED, IMPRESSIONS = 7, 20_003


def write(out: Path, seed: int = SEED) -> dict[str, pl.DataFrame]:
    out.mkdir(parents=True, exist_ok=True)
    assert chain.write_tables(None, out, Options(impressions=IMPRESSIONS, seed=seed)) == DataSet("chain", "UTC")
    return {name: pl.read_parquet(out / f"{name}.parquet") for name in TABLES}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    return write(tmp_path_factory.mktemp("chain"))


def test_a_log_has_the_impressions_asked_for_and_a_behaviour_for_every_click(tables: dict[str, pl.DataFrame]) -> None:
    impressions = tables["impressions"]
    assert len(impressions) == IMPRESSIONS and len(tables["behaviours"]) == impressions["label"].sum()
    assert set(tables["users"]["user_id"]) == set(impressions["user_id"])
    assert tables["users"]["user_id"].is_unique().all()


def test_a_seed_fixes_every_table_and_another_seed_changes_them(
    tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    again, other = write(tmp_path / "again"), write(tmp_path / "other", SEED + 1)
    assert all(again[name].equals(tables[name]) and not other[name].equals(tables[name]) for name in TABLES)


def test_nothing_but_item_user_last_category_and_its_age_decides_a_click(tables: dict[str, pl.DataFrame]) -> None:
    world = chain.make_world(SEED)
    clicks: dict[str, list[tuple[int, int]]] = {}
    for user, item, at in tables["behaviours"].select("user_id", "object_id", "timestamp").iter_rows():
        clicks.setdefault(user, []).append((at, int(item[1:])))
    own: dict[str, list[float]] = {}
    faded = []
    for user, item, now, p in (
        tables["impressions"].select("user_id", "item_id", "timestamp", "true_probability").iter_rows()
    ):
        before = [(at, clicked) for at, clicked in clicks.get(user, []) if at < now]
        logit = math.log(p / (1 - p)) - chain.BASE - world.quality[int(item[1:])]
        if before:
            at, last = max(before)
            fade = math.exp((at - now) / chain.PULL_LASTS_MS)
            logit -= chain.PULL * fade * world.pull[world.category[last], world.category[int(item[1:])]]
            faded.append(fade)
        own.setdefault(user, []).append(logit)
    assert max(np.ptp(left) for left in own.values()) < 1e-9, "what is left is the user's own, and always the same"
    assert np.std([left[0] for left in own.values()]) == pytest.approx(chain.USER, rel=0.2)
    assert np.mean(np.array(faded) > 0.5) > 0.3, "of many impressions the last click still says much"


def test_the_table_of_steps_is_a_chain_and_the_oracle_knows_it(tables: dict[str, pl.DataFrame]) -> None:
    chance = np.exp(chain.make_world(SEED).pull) / chain.CATEGORIES
    assert chance.sum(1) == pytest.approx(np.ones(chain.CATEGORIES))
    assert (np.diag(chance) >= chain.STAYS).all() and (np.sort(chance)[:, :-3] < 1 / chain.CATEGORIES).all()
    label, truth = tables["impressions"]["label"], tables["impressions"]["true_probability"]
    assert abs(label.sum() - truth.sum()) < 4 * math.sqrt((truth * (1 - truth)).sum())
    assert roc_auc_score(label, truth) > 0.7
