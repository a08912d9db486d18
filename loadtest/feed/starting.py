"""What there is before the first day: the shop's items, and a short log of other users who saw a random order."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from model import datasets
from model.datasets import simulated
from model.datasets.simulated import World


def write(world: World, impressions: int, seed: int, raw: Path) -> None:
    """Writes tables of one's own, `model.prepare --dataset parquet`, with their features.toml."""
    rng = np.random.default_rng([seed, 1])
    count = max(simulated.FEWEST_USERS, impressions // simulated.IMPRESSIONS_A_USER)
    users = simulated.make_users(world, count, rng)
    log = simulated.make_log(world, users, impressions / count / simulated.PAGE, rng)
    ids = pl.select(pl.format("i{}", pl.Series(world.name))).to_series()
    raw.mkdir()
    for name, frame in simulated.tables_of(users, log, 0, ids, rng).items():
        frame.drop("true_probability", "request_id", strict=False).write_parquet(raw / f"{name}.parquet")
    simulated.items_of(world).write_parquet(raw / "items.parquet")
    shutil.copy(datasets.features("simulated", None), raw / "features.toml")
