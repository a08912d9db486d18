"""A simulated shop feed whose clicks depend on the order and the age of earlier clicks, with the true probabilities.

The world, as one impression of item i to user u at time t sees it:

    p(click) = examination(position) · sigmoid(relevance)
    relevance = BASE + quality of i (appeal, shop, tag)               the item alone
              + taste of u for the category of i                      lasting; shows in the history's categories
              + PULL · exp(-(t - t') / PULL_LASTS)                    t': u's last click on what the category completes
              + crosses: gender × category, age × item, os × item     Table 1 of Chen et al. 2019
              - FATIGUE · (page - 1)

Complements are directed. All categories stand on one random cycle, and a click on one pulls towards the next (a phone,
then a case) and never back, so that a pair of clicks means something else in the other order. A user's lasting tastes
come in pairs along the same arrows: whoever likes phones likes cases. Hence the *set* of categories that a user
clicked tells the taste, and only the order and the time tell the pull. The newest click counts, not their number:
who looked at five phones needs one case.

Exposures are a mixture of three recall channels (the context `match_type`): popularity, the user's taste, and chance.
A page of up to ten is shown in random order, so that position is no disguise of quality.

Where the constants come from. Nothing here was fitted to the results of any network, or may be.
- Examination before relevance: the position-based model, Richardson et al., WWW 2007. Its form (1/rank)^η: Joachims
  et al., WSDM 2017, who vary η about 1 for search results; a feed is scrolled rather than searched, hence 1/2.
- Popularity: Zipf's law with exponent 0.8, the upper part of what Breslau et al., INFOCOM 1999, found for requests.
- Features and crosses: Table 1 of Chen et al. 2019.
- BASE puts the click rate of the whole log within a feed's usual 5 to 15 %.
- All other effects are choices in units of the logit: what a history can show (taste, pull) is largest, what the log
  has many observations of (category, shop, tag) comes next, what it has few of (item alone, item × profile) is
  smallest, so that most of what the oracle knows is in the log at all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from model.datasets.tables import ITEM, DataSet, Options, Parts

NAME = "simulated"
OPTIONS = ("impressions",)

IMPRESSIONS_A_USER = 240  # about 17 a day, some 20 clicks in all: as many as the networks' histories hold
IMPRESSIONS_AN_ITEM = 200
FEWEST_USERS, FEWEST_ITEMS, FEWEST_SHOPS = 50, 200, 20  # of a small log
ITEMS_A_SHOP = 25
BLOCK = 1024  # users simulated side by side: bounds memory, and is part of what a seed means

AGES = ("18-24", "25-29", "30-34", "35-39", "40-49", "50+")
GENDERS = ("f", "m")
SYSTEMS = ("android", "ios")
CHANNELS = ("popularity", "taste", "chance")
CITIES, CATEGORIES, TAGS_A_CATEGORY = 20, 40, 5

ZIPF = 0.8
MIXTURE = (0.40, 0.45, 0.15)  # of CHANNELS
PAGE = 10  # exposures; fewer where the channels agree on an item
EXAMINATION = 0.5  # η

BASE = -2.4
APPEAL, APPEAL_OF_POPULARITY = 0.35, 0.25  # deviations: an item's own, and what goes with its popularity
SHOP, TAG = 0.3, 0.3  # deviations
TASTE_PAIRS, TASTE = 2, (1.2, 2.0)  # a user's favourites, in pairs; uniform between
PULL, PULL_LASTS_MS = 2.0, 12 * 3_600_000  # an errand is mostly done within the day
GENDER_CATEGORY, OS_ITEM = 0.4, 0.15  # deviations
AGE_DISTANCE, AGE_SPREAD = 0.25, 1.0  # logit lost per age band away from the item's own, which varies so much about
FATIGUE = 0.1  # its category's

START_MS = 1_756_684_800_000  # Monday, 1 September 2025, 00:00 UTC
DAYS = 14
END_MS = START_MS + DAYS * 86_400_000
PAGES_A_VISIT = 3.0
PAGE_TAKES_MS, PAGE_LINGERS_MS = 45_000, 30_000  # until the next page: at least, and on average beyond that
CLICK_AFTER_MS, CLICK_STEP_MS, CLICK_JITTER_MS = 1_000, 4_000, 2_000  # a page is read downwards, clicks on the way
BUYS, BUY_AFTER_MS = 0.05, 1_000  # of clicks; they pull nothing: a history must be filtered by action to leave them out

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Everything that does not depend on a user: items, their categories and all effects. Arrays by index."""

    complement: Ints  # (categories,): clicking category k pulls towards complement[k]
    category: Ints  # (items,), rising: items are numbered by category, ids are shuffled
    shop: Ints  # (items,)
    tag: Ints  # (items,)
    name: Ints  # (items,): the number in the item's id
    share: Floats  # (items + 1,): running sum of popularity, 0 to 1
    begin: Ints  # (categories + 1,): where each category's items begin
    quality: Floats  # (items,)
    age: Floats  # (items,): the age band at which the item is liked most
    gender_category: Floats  # (genders, categories)
    os_item: Floats  # (systems, items)
    city_category: Floats  # (cities, categories): how likely a city's people are to have a taste, as logits
    city_share: Floats  # (cities,)


def make_world(seed: int, items: int) -> World:
    rng = np.random.default_rng([seed, 0])
    cycle = rng.permutation(CATEGORIES)
    complement = np.empty(CATEGORIES, np.int64)
    complement[cycle] = np.roll(cycle, -1)

    category = np.sort(np.concatenate([np.arange(CATEGORIES), rng.integers(CATEGORIES, size=items - CATEGORIES)]))
    shops = max(FEWEST_SHOPS, items // ITEMS_A_SHOP)
    shop = rng.integers(shops, size=items)
    tag = category * TAGS_A_CATEGORY + rng.integers(TAGS_A_CATEGORY, size=items)
    rank = rng.permutation(items)
    popularity = (1.0 + rank) ** -ZIPF
    # By rank and not by popularity itself, or the head of a large catalogue would be clicked for certain.
    standing = math.sqrt(12) * (0.5 - (rank + 0.5) / items)  # mean 0, deviation 1, within ±1.74
    large = 1 / np.arange(1.0, CITIES + 1)  # Zipf's law for cities
    age_of_category = rng.uniform(0, len(AGES) - 1, CATEGORIES)
    return World(
        complement=complement,
        category=category,
        shop=shop,
        tag=tag,
        name=rng.permutation(items),
        share=np.concatenate([[0.0], np.cumsum(popularity) / popularity.sum()]),
        begin=np.searchsorted(category, np.arange(CATEGORIES + 1)),
        quality=APPEAL * rng.standard_normal(items)
        + APPEAL_OF_POPULARITY * standing
        + SHOP * rng.standard_normal(shops)[shop]
        + TAG * rng.standard_normal(CATEGORIES * TAGS_A_CATEGORY)[tag],
        age=np.clip(age_of_category[category] + AGE_SPREAD * rng.standard_normal(items), 0, len(AGES) - 1),
        gender_category=GENDER_CATEGORY * rng.standard_normal((len(GENDERS), CATEGORIES)),
        os_item=OS_ITEM * rng.standard_normal((len(SYSTEMS), items)),
        city_category=rng.standard_normal((CITIES, CATEGORIES)),
        city_share=large / large.sum(),
    )


@dataclass(frozen=True)
class Users:
    """A block of users: U of them, profile as indexes."""

    age: Ints
    gender: Ints
    os: Ints
    city: Ints
    favourites: Ints  # (U, 2 · pairs) categories
    taste: Floats  # (U, categories) logits


def make_users(world: World, count: int, rng: np.random.Generator) -> Users:
    city = rng.choice(CITIES, count, p=world.city_share)
    # The largest of logits plus Gumbel noise is a draw without replacement from their softmax.
    drawn = world.city_category[city] + rng.gumbel(size=(count, CATEGORIES))
    first = np.argsort(-drawn, axis=1)[:, :TASTE_PAIRS]
    favourites = np.concatenate([first, world.complement[first]], axis=1)
    strength = rng.uniform(*TASTE, (count, TASTE_PAIRS))
    taste = np.zeros((count, CATEGORIES))
    np.put_along_axis(taste, favourites, np.concatenate([strength, strength], axis=1), axis=1)
    return Users(
        age=rng.integers(len(AGES), size=count),
        gender=rng.integers(len(GENDERS), size=count),
        os=rng.integers(len(SYSTEMS), size=count),
        city=city,
        favourites=favourites,
        taste=taste,
    )


def page_times(
    pages: Ints, rng: np.random.Generator, start_ms: int = START_MS, end_ms: int = END_MS
) -> tuple[Ints, Ints]:
    """When each user's pages are asked for, ms, and their numbers within a visit from 1; both (U, most pages).

    Visits begin at any time of the days; pages that a user does not have, or that would fall behind the last day, are
    `end_ms`. A user's pages lie at least PAGE_TAKES_MS apart.
    """
    users, most = len(pages), int(pages.max())
    step = np.arange(most)
    exists = step < pages[:, None]
    opens = (rng.random((users, most)) < 1 / PAGES_A_VISIT) & exists
    opens[:, 0] = True
    visit = np.cumsum(opens, axis=1) - 1
    starts = rng.integers(start_ms, end_ms, (users, most))
    starts[step > visit[:, -1:]] = end_ms
    starts = np.take_along_axis(np.sort(starts, axis=1), visit, axis=1)
    after = PAGE_TAKES_MS + rng.exponential(PAGE_LINGERS_MS, (users, most)).astype(np.int64)

    time, page = np.empty((users, most), np.int64), np.empty((users, most), np.int64)
    previous, number = np.full(users, start_ms - PAGE_TAKES_MS), np.zeros(users, np.int64)
    for p in range(most):
        soonest = previous + np.where(opens[:, p], PAGE_TAKES_MS, after[:, p])
        previous = time[:, p] = np.where(opens[:, p], np.maximum(starts[:, p], soonest), soonest)
        number = page[:, p] = np.where(opens[:, p], 1, number + 1)
    return np.where(exists, np.minimum(time, end_ms), end_ms), page


def make_log(world: World, users: Users, mean_pages: float, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """All impressions of a block of users, sorted by user, time and position; one array a column.

    user, item: indexes; time: of the page, ms; label; clicked_at: ms, 0 where there was no click; page, position: from
    1; channel: index into CHANNELS; request: the page's number among the user's; true_probability.
    """
    count = len(users.age)
    # Some come often, some rarely: gamma with shape 2, at least one page each.
    pages = 1 + rng.poisson(np.maximum(mean_pages - 1, 0) * rng.gamma(2.0, 0.5, count))
    times, numbers = page_times(pages, rng)
    pulled_at = np.full((count, CATEGORIES), -math.inf)  # the last click on what each category completes, ms
    made: list[dict[str, npt.NDArray[Any]]] = []
    for p in range(times.shape[1]):
        user = np.flatnonzero(times[:, p] < END_MS)
        now, page = times[user, p], numbers[user, p]
        item, channel, shown = exposures(world, users.favourites[user], rng)
        position: Ints = np.cumsum(shown, axis=1)  # from 1, without gaps where an item was dropped
        category = world.category[item]
        pulled_ms = now[:, None] - pulled_at[user[:, None], category]
        probability = click_probability(relevance(world, users, user, item, page, pulled_ms), position)
        clicked = (rng.random(item.shape) < probability) & shown
        clicked_at = now[:, None] + CLICK_AFTER_MS + CLICK_STEP_MS * (position - 1)
        clicked_at += rng.integers(CLICK_JITTER_MS, size=item.shape)

        row, place = np.nonzero(clicked)  # downwards, so that of two clicks with one complement the later one stays
        pulled_at[user[row], world.complement[category[row, place]]] = clicked_at[row, place]

        columns = {
            "user": user[:, None],
            "item": item,
            "time": now[:, None],
            "label": clicked,
            "clicked_at": np.where(clicked, clicked_at, 0),
            "page": page[:, None],
            "position": position,
            "channel": channel,
            "request": np.full((1, 1), p),
            "true_probability": probability,
        }
        made.append({name: np.broadcast_to(values, item.shape)[shown] for name, values in columns.items()})
    log = {name: np.concatenate([columns[name] for columns in made]) for name in made[0]}
    order = np.argsort(log["user"], kind="stable")  # within a user the pages already are in order
    return {name: values[order] for name, values in log.items()}


def relevance(world: World, users: Users, user: Ints, item: Ints, page: Ints, pulled_ms: Floats) -> Floats:
    """Logits of items (N, C) for users (N,) on their pages (N,); `pulled_ms`: since the last click that pulls there."""
    category = world.category[item]
    return (
        BASE
        + world.quality[item]
        + users.taste[user[:, None], category]
        + PULL * np.exp(-pulled_ms / PULL_LASTS_MS)
        + world.gender_category[users.gender[user, None], category]
        - AGE_DISTANCE * np.abs(users.age[user, None] - world.age[item])
        + world.os_item[users.os[user, None], item]
        - FATIGUE * (page[:, None] - 1)
    )


def click_probability(relevance: Floats, position: Ints) -> Floats:
    """Of what is shown at a position, from 1."""
    probability: Floats = np.maximum(position, 1) ** -EXAMINATION / (1 + np.exp(-relevance))
    return probability


def exposures(
    world: World, favourites: Ints, rng: np.random.Generator, count: int = PAGE
) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """What is drawn for each of U users: items, channels, and which count (all but repetitions); (U, count) each."""
    shape = (len(favourites), count)
    channel = np.searchsorted(np.cumsum(MIXTURE)[:-1], rng.random(shape), side="right")
    uniform = rng.random(shape)

    chosen = np.take_along_axis(favourites, rng.integers(favourites.shape[1], size=shape), axis=1)
    first = np.where(channel == CHANNELS.index("taste"), world.begin[chosen], 0)
    last = np.where(channel == CHANNELS.index("taste"), world.begin[chosen + 1], len(world.category)) - 1
    low, high = world.share[first], world.share[last + 1]
    popular = np.searchsorted(world.share, low + uniform * (high - low), side="right") - 1
    chance = (uniform * len(world.category)).astype(np.int64)
    item = np.where(channel == CHANNELS.index("chance"), chance, np.clip(popular, first, last))

    again = (item[:, :, None] == item[:, None, :]) & np.tri(count, k=-1, dtype=bool)
    return item, channel, ~again.any(axis=2)


def write_tables(raw: None, out: Path, options: Options) -> DataSet:
    """Writes the tables of a log of exactly `options.impressions`; `raw` is not read. Memory is bounded by BLOCK."""
    world = make_world(options.seed, max(FEWEST_ITEMS, options.impressions // IMPRESSIONS_AN_ITEM))
    items_of(world).write_parquet(out / "items.parquet")
    with TemporaryDirectory(dir=out, prefix="parts-") as folder:
        parts = {name: Parts(Path(folder) / name) for name in ("users", "impressions", "behaviours")}
        for frames in _blocks(world, options.impressions, options.seed):
            for name, part in parts.items():
                part.add(frames[name])
        for name, part in parts.items():
            part.scan().sink_parquet(out / f"{name}.parquet")
    return DataSet(NAME, time_zone="UTC")


def _blocks(world: World, impressions: int, seed: int) -> Iterator[dict[str, pl.DataFrame]]:
    """Tables of one block of users after the other, until there are exactly so many impressions."""
    expected_users = max(FEWEST_USERS, round(impressions / IMPRESSIONS_A_USER))
    mean_pages = impressions / expected_users / PAGE
    count, left, first = min(BLOCK, expected_users), impressions, 0
    item_ids = pl.select(pl.format("i{}", pl.Series(world.name))).to_series()
    with tqdm(total=impressions, desc=NAME, unit=" impressions", unit_scale=True, delay=1, leave=False) as bar:
        for block in range(impressions):  # each has at least one impression
            rng = np.random.default_rng([seed, 1 + block])
            users = make_users(world, count, rng)
            log = make_log(world, users, mean_pages, rng)
            log = {name: values[:left] for name, values in log.items()}
            yield tables_of(users, log, first, item_ids, rng)
            left -= len(log["user"])
            first += count
            bar.update(len(log["user"]))
            if left == 0:
                return


def tables_of(
    users: Users, log: dict[str, npt.NDArray[Any]], first: int, item_ids: pl.Series, rng: np.random.Generator
) -> dict[str, pl.DataFrame]:
    """The canonical tables of one block, whose users are numbered from `first`."""
    seen = np.unique(log["user"])
    number = pl.Series(first + seen)
    profiles = pl.select(
        user_id=pl.format("u{}", number),
        age=_named(AGES, users.age[seen]),
        gender=_named(GENDERS, users.gender[seen]),
        city=pl.format("city{}", pl.Series(users.city[seen])),
        os=_named(SYSTEMS, users.os[seen]),
    )
    user, item = pl.select(pl.format("u{}", pl.Series(first + log["user"]))).to_series(), item_ids.gather(log["item"])
    impressions = pl.select(
        user_id=user,
        item_id=item,
        timestamp=pl.Series(log["time"]),
        label=pl.Series(log["label"].astype(np.int8)),
        match_type=_named(CHANNELS, log["channel"]),
        position=pl.Series(log["position"]),
        page=pl.Series(log["page"]),
        request_id=pl.format("{}-{}", user, pl.Series(log["request"])),
        true_probability=pl.Series(log["true_probability"]),
    )
    clicks = pl.DataFrame({"user_id": user, "object_id": item, "timestamp": log["clicked_at"]}).filter(log["label"])
    buys = clicks.filter(rng.random(len(clicks)) < BUYS).with_columns(pl.col("timestamp") + BUY_AFTER_MS)
    behaviours = pl.concat(
        frame.select(
            "user_id", pl.lit(action).alias("action"), pl.lit(ITEM).alias("object_type"), "object_id", "timestamp"
        )
        for action, frame in (("click", clicks), ("buy", buys))
    )
    return {"users": profiles, "impressions": impressions, "behaviours": behaviours}


def items_of(world: World) -> pl.DataFrame:
    return pl.select(
        item_id=pl.format("i{}", pl.Series(world.name)),
        category_id=pl.format("c{}", pl.Series(world.category)),
        shop_id=pl.format("s{}", pl.Series(world.shop)),
        tag=pl.format("t{}", pl.Series(world.tag)),
    )


def _named(names: tuple[str, ...], index: Ints) -> pl.Series:
    return pl.Series(names).gather(index)
