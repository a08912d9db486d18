"""A world that one thing decides: what a user clicked last, and how long ago. Made to judge networks by, and no shop.

    logit p(click) = BASE + quality of the item + the user's own
                   + PULL · exp(-(t - t') / PULL_LASTS) · log(K · P[k', k])

k is the candidate's category of K, k' that of the user's last click, which was at t'; P is a first-order Markov chain:
from every category mostly to itself, to a second and to a third one, seldom to any other. Who has not clicked yet has
no last term. Items are shown by popularity alone, a page at a time, and a user's lasting taste for a category there is
none: the *set* of what was clicked says next to nothing that the last click does not say better.

So networks have an order here by what they see of a history: nothing (WDL), its mean (WDL(+Seq)), a sum weighted by the
candidate (DIN), which click was when (BST). The table of transitions is what a model has to find; match features tell
the step from a category to itself alone. It has few ids and no recipe: training goes by the settings that suit a log.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from model.datasets.simulated import END_MS, Floats, Ints, page_times
from model.datasets.tables import ITEM, DataSet, Options

NAME = "chain"
OPTIONS = ("impressions",)

CATEGORIES, ITEMS, COUNTRIES = 20, 600, ("de", "fr", "it")
IMPRESSIONS_A_USER, PAGE = 30, 4
STAYS, SECOND, THIRD = 0.35, 0.30, 0.15  # the chain's steps; what is left goes to all categories alike
BASE, QUALITY, USER = -1.6, 0.3, 0.2  # deviations of the last two
PULL, PULL_LASTS_MS = 0.9, 12 * 3_600_000
ZIPF = 0.8
CLICK_AFTER_MS, CLICK_STEP_MS = 2_000, 3_000  # a page is read downwards, clicks on the way


@dataclass(frozen=True)
class World:
    """What does not depend on a user."""

    category: Ints  # (items,)
    quality: Floats  # (items,)
    share: Floats  # (items,): running sum of popularity, up to 1
    pull: Floats  # (categories, categories): log(K · P), from the last click's to the candidate's


def make_world(seed: int) -> World:
    rng = np.random.default_rng([seed, 0])
    chance = np.full((CATEGORIES, CATEGORIES), (1 - STAYS - SECOND - THIRD) / CATEGORIES)
    chance[np.diag_indices(CATEGORIES)] += STAYS
    for share in (SECOND, THIRD):
        cycle = rng.permutation(CATEGORIES)
        chance[cycle, np.roll(cycle, -1)] += share
    popularity = (1.0 + rng.permutation(ITEMS)) ** -ZIPF
    return World(
        category=rng.integers(CATEGORIES, size=ITEMS),
        quality=QUALITY * rng.standard_normal(ITEMS),
        share=np.cumsum(popularity) / popularity.sum(),
        pull=np.log(CATEGORIES * chance),
    )


def make_pages(world: World, users: int, mean_pages: float, rng: np.random.Generator) -> Iterator[pl.DataFrame]:
    """The impressions of all users' first pages, of their second ones, and so on; `clicked_at`: ms, 0: no click."""
    pages = 1 + rng.poisson(np.maximum(mean_pages - 1, 0) * rng.gamma(2.0, 0.5, users))
    times, _ = page_times(pages, rng)
    own = USER * rng.standard_normal(users)
    last, last_at = np.full(users, -1), np.zeros(users, np.int64)
    for now_of_all in times.T:
        user = np.flatnonzero(now_of_all < END_MS)
        now = now_of_all[user]
        item = np.minimum(np.searchsorted(world.share, rng.random((len(user), PAGE)), side="right"), ITEMS - 1)
        shown = ~((item[:, :, None] == item[:, None, :]) & np.tri(PAGE, k=-1, dtype=bool)).any(axis=2)
        fades = np.where(last[user] < 0, 0, np.exp((last_at[user] - now) / PULL_LASTS_MS))
        pulled = PULL * fades[:, None] * world.pull[last[user, None], world.category[item]]
        probability = 1 / (1 + np.exp(-(BASE + world.quality[item] + own[user, None] + pulled)))
        clicked = (rng.random(item.shape) < probability) & shown
        at = now[:, None] + CLICK_AFTER_MS + CLICK_STEP_MS * np.arange(PAGE)

        row, place = np.nonzero(clicked)  # downwards, so that of a page's clicks the last one stays
        last[user[row]], last_at[user[row]] = world.category[item[row, place]], at[row, place]
        columns = {
            "user": user[:, None],
            "item": item,
            "timestamp": now[:, None],
            "label": clicked.astype(np.int8),
            "true_probability": probability,
            "clicked_at": np.where(clicked, at, 0),
        }
        yield pl.DataFrame({name: np.broadcast_to(of, item.shape)[shown] for name, of in columns.items()})


def write_tables(raw: None, out: Path, options: Options) -> DataSet:
    """Writes the tables of a log of exactly `options.impressions`; `raw` is not read. All of it is in memory."""
    world, rng = make_world(options.seed), np.random.default_rng([options.seed, 1])
    users = max(1, options.impressions // IMPRESSIONS_A_USER)
    mean_pages, left = 1.1 * options.impressions / users / PAGE, options.impressions
    pieces: list[pl.DataFrame] = []
    while left > 0:  # more users, where those before were shown too little
        pieces.append(_named(pl.concat(make_pages(world, users, mean_pages, rng)), len(pieces)).head(left))
        left -= len(pieces[-1])
    log = pl.concat(pieces)
    names = log["user_id"].unique(maintain_order=True)
    pl.DataFrame({"user_id": names, "country": rng.choice(COUNTRIES, len(names))}).write_parquet(out / "users.parquet")
    pl.select(
        item_id=pl.format("i{}", pl.int_range(ITEMS)), category_id=pl.format("c{}", pl.Series(world.category))
    ).write_parquet(out / "items.parquet")
    log.drop("clicked_at").write_parquet(out / "impressions.parquet")
    clicked = log.filter(pl.col("label") > 0)
    clicked.select(
        "user_id",
        pl.lit("click").alias("action"),
        pl.lit(ITEM).alias("object_type"),
        pl.col("item_id").alias("object_id"),
        pl.col("clicked_at").alias("timestamp"),
    ).write_parquet(out / "behaviours.parquet")
    return DataSet(NAME, time_zone="UTC")


def _named(log: pl.DataFrame, crowd: int) -> pl.DataFrame:
    """A crowd's impressions, a user after the other and each in the order of time, with ids as a log has them."""
    ids = pl.format("u{}-{}", pl.lit(crowd), "user").alias("user_id"), pl.format("i{}", "item").alias("item_id")
    return log.sort("user", "timestamp", maintain_order=True).select(
        *ids, "timestamp", "label", "true_probability", "clicked_at"
    )
