"""The simulator: exact counts, the same log by seed, recorded probabilities that hold, and pulls that point one way."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from model import datasets
from model.datasets import simulated
from model.datasets.simulated import AGES, GENDERS, SYSTEMS, make_users, make_world
from model.datasets.tables import TABLES, DataSet, Options
from model.options import OptionError

SEED, IMPRESSIONS = 7, 50_000
HOUR_MS = 3_600_000


def write(out: Path, impressions: int, seed: int = SEED) -> dict[str, pl.DataFrame]:
    out.mkdir(parents=True, exist_ok=True)
    made = simulated.write_tables(None, out, Options(impressions=impressions, seed=seed))
    assert made == DataSet("simulated", time_zone="UTC", bad_lines=0)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.parquet" for name in TABLES)
    return {name: pl.read_parquet(out / f"{name}.parquet") for name in TABLES}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, pl.DataFrame]:
    return write(tmp_path_factory.mktemp("simulated"), IMPRESSIONS)


@pytest.fixture(scope="module")
def world() -> simulated.World:
    return make_world(SEED, IMPRESSIONS // simulated.IMPRESSIONS_AN_ITEM)


def excess_clicks_in_deviations(group: pl.DataFrame) -> float:
    """Clicks beyond those expected, in standard deviations of their number."""
    p = group["true_probability"]
    return float((group["label"].sum() - p.sum()) / math.sqrt((p * (1 - p)).sum()))


def since_click(tables: dict[str, pl.DataFrame], leads_to: np.ndarray) -> pl.DataFrame:
    """Impressions of the user's favourites with `hours` since the last click on a category that `leads_to` theirs."""
    categories = tables["items"].select("item_id", category=pl.col("category_id").str.slice(1).cast(pl.Int64))
    clicks = (
        tables["behaviours"]
        .filter(pl.col("action") == "click")
        .join(categories, left_on="object_id", right_on="item_id")
        .select("user_id", category=pl.col("category").replace_strict(dict(enumerate(leads_to))), at="timestamp")
    )
    impressions = tables["impressions"].filter(pl.col("match_type") == "taste").join(categories, on="item_id")
    return (
        impressions.with_row_index()
        .join(clicks, on=["user_id", "category"])
        .filter(pl.col("at") < pl.col("timestamp"))
        .group_by("index")
        .agg(pl.first("label"), hours=(pl.first("timestamp") - pl.max("at")) / HOUR_MS)
    )


@pytest.mark.parametrize("impressions", [1, 999, 20_003])
def test_a_log_has_exactly_the_impressions_asked_for(tmp_path, impressions):
    tables = write(tmp_path, impressions)

    assert len(tables["impressions"]) == impressions
    assert set(tables["users"]["user_id"]) == set(tables["impressions"]["user_id"])
    assert len(tables["behaviours"].filter(pl.col("action") == "click")) == tables["impressions"]["label"].sum()


def test_a_log_of_several_blocks_of_users_has_each_user_once(tmp_path):
    tables = write(tmp_path, 300_000)

    assert len(tables["users"]) > simulated.BLOCK
    assert tables["users"]["user_id"].n_unique() == len(tables["users"])
    assert set(tables["users"]["user_id"]) == set(tables["impressions"]["user_id"])
    assert len(tables["impressions"]) == 300_000


def test_a_seed_fixes_every_table_and_another_seed_changes_them(tmp_path, tables):
    again, other = write(tmp_path / "again", IMPRESSIONS), write(tmp_path / "other", IMPRESSIONS, SEED + 1)

    for name in TABLES:
        assert again[name].equals(tables[name])
        assert not other[name].equals(tables[name])


def test_columns_are_those_of_the_feature_table(tables):
    assert tables["users"].columns == ["user_id", "age", "gender", "city", "os"]
    assert tables["items"].columns == ["item_id", "category_id", "shop_id", "tag"]
    assert tables["behaviours"].columns == ["user_id", "action", "object_type", "object_id", "timestamp"]
    assert dict(tables["impressions"].schema) == {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": pl.Int64,
        "label": pl.Int8,
        "match_type": pl.String,
        "position": pl.Int64,
        "page": pl.Int64,
        "request_id": pl.String,
        "true_probability": pl.Float64,
    }
    for column, letter in (("item_id", "i"), ("category_id", "c"), ("shop_id", "s"), ("tag", "t")):
        assert tables["items"][column].str.contains(rf"^{letter}\d+$").all()
    assert tables["items"].group_by("tag").agg(pl.col("category_id").n_unique())["category_id"].max() == 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_click_rate_is_that_of_a_feed(tmp_path, seed):
    assert 0.05 < write(tmp_path, 20_000, seed)["impressions"]["label"].mean() < 0.15


def test_clicks_are_as_frequent_as_the_recorded_probabilities_say(tables):
    impressions = tables["impressions"]
    bins = impressions.with_columns(bin=pl.col("true_probability").rank("ordinal") * 10 // (IMPRESSIONS + 1))

    for column in ("bin", "position", "match_type"):
        for group in bins.partition_by(column):
            assert abs(excess_clicks_in_deviations(group)) < 4, (column, group[column][0])


def test_recorded_probabilities_follow_from_the_world_and_the_clicks_before(tables, world):
    count = round(IMPRESSIONS / simulated.IMPRESSIONS_A_USER)
    users = make_users(world, count, np.random.default_rng([SEED, 1]))
    index = {f"i{name}": at for at, name in enumerate(world.name)}
    clicks = tables["behaviours"].filter(pl.col("action") == "click")
    checked = 0
    for u in range(20):
        history = [
            (at, index[item]) for item, at in clicks.filter(user_id=f"u{u}")["object_id", "timestamp"].iter_rows()
        ]
        for row in tables["impressions"].filter(user_id=f"u{u}").iter_rows(named=True):
            item, now = index[row["item_id"]], row["timestamp"]
            category = world.category[item]
            pulls = [
                at for at, clicked in history if at < now and world.complement[world.category[clicked]] == category
            ]
            relevance = (
                simulated.BASE
                + world.quality[item]
                + users.taste[u, category]
                + (simulated.PULL * math.exp((max(pulls) - now) / simulated.PULL_LASTS_MS) if pulls else 0.0)
                + world.gender_category[users.gender[u], category]
                - simulated.AGE_DISTANCE * abs(users.age[u] - world.age[item])
                + world.os_item[users.os[u], item]
                - simulated.FATIGUE * (row["page"] - 1)
            )
            expected = row["position"] ** -simulated.EXAMINATION / (1 + math.exp(-relevance))
            assert row["true_probability"] == pytest.approx(expected, rel=1e-9)
            checked += bool(pulls)
    assert checked > 100
    profile = tables["users"].filter(user_id="u0").row(0, named=True)
    assert (profile["age"], profile["gender"]) == (AGES[users.age[0]], GENDERS[users.gender[0]])
    assert profile["os"] == SYSTEMS[users.os[0]]


@pytest.mark.parametrize("seed", range(5))
def test_complements_point_one_way(seed):
    complement = make_world(seed, simulated.FEWEST_ITEMS).complement

    assert sorted(complement) == list(range(simulated.CATEGORIES))
    assert (complement != np.arange(simulated.CATEGORIES)).all()
    assert (complement[complement] != np.arange(simulated.CATEGORIES)).all()


def test_a_click_pulls_towards_its_complement_less_by_the_hour_and_never_back(tables, world):
    def click_rate(impressions: pl.DataFrame, after: float, before: float) -> float:
        chosen = impressions.filter(pl.col("hours").is_between(after, before))
        assert len(chosen) > 300
        return float(chosen["label"].mean())

    forward = since_click(tables, world.complement)
    back = since_click(tables, np.argsort(world.complement))

    assert click_rate(forward, 0, 3) > click_rate(forward, 6, 24) + 0.05
    assert click_rate(forward, 6, 24) > click_rate(forward, 48, 400) + 0.02
    faded = click_rate(forward, 0, 3) - click_rate(forward, 48, 400)
    assert abs(click_rate(back, 0, 3) - click_rate(back, 48, 400)) < faded / 3


def test_a_click_follows_its_impression_and_precedes_the_users_next_page(tables):
    impressions, clicks = tables["impressions"], tables["behaviours"].filter(pl.col("action") == "click")
    pages = (
        impressions.select("user_id", "timestamp")
        .unique()
        .sort("user_id", "timestamp")
        .with_columns(next_page=pl.col("timestamp").shift(-1, fill_value=2**62).over("user_id"))
    )
    clicked = impressions.filter(label=1).join(pages, on=["user_id", "timestamp"])
    followed = clicked.join(clicks, left_on=["user_id", "item_id"], right_on=["user_id", "object_id"]).filter(
        pl.col("timestamp_right").is_between(pl.col("timestamp"), pl.col("next_page"), closed="none")
    )

    assert len(followed) == len(clicked) == len(clicks)
    assert clicks.select((pl.col("timestamp").diff().over("user_id") > 0).all()).item()
    assert set(tables["behaviours"]["action"]) == {"click", "buy"}


def test_a_page_shows_each_item_once_at_positions_without_gaps(tables):
    pages = (
        tables["impressions"]
        .group_by("request_id")
        .agg(
            pl.col("user_id", "timestamp", "page", "item_id").n_unique(),
            pl.col("position").sort().alias("positions"),
            shown=pl.len(),
        )
    )
    # The log is cut at the count that was asked for, so its last page may be short.
    assert (pages["user_id"] == 1).all() and (pages["timestamp"] == 1).all() and (pages["page"] == 1).all()
    assert (pages["item_id"] == pages["shown"]).all()
    assert all(positions == list(range(1, len(positions) + 1)) for positions in pages["positions"].to_list())
    assert pages["shown"].max() == simulated.PAGE


def test_exposures_come_from_every_channel_and_lie_within_the_days(tables):
    impressions = tables["impressions"]
    shares = dict(impressions["match_type"].value_counts(normalize=True).iter_rows())

    assert shares.keys() == set(simulated.CHANNELS)
    for channel, share in zip(simulated.CHANNELS, simulated.MIXTURE, strict=True):
        assert shares[channel] == pytest.approx(share, abs=0.05)  # repetitions on a page are dropped, popular ones most
    assert impressions["timestamp"].min() >= simulated.START_MS
    assert impressions["timestamp"].max() < simulated.END_MS
    assert pl.select(pl.from_epoch(impressions["timestamp"], "ms").dt.date().n_unique()).item() == simulated.DAYS


def test_the_oracle_ranks_far_better_than_popularity(tables):
    impressions = tables["impressions"].with_columns(shown=pl.len().over("item_id"))

    oracle = roc_auc_score(impressions["label"], impressions["true_probability"])
    popularity = roc_auc_score(impressions["label"], impressions["shown"])

    assert oracle > 0.75
    assert 0.5 < popularity < oracle - 0.15


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"impressions": 0}, "impressions 0, allowed: whole number from 1"),
        ({"seed": -1}, "seed -1, allowed: whole number from 0"),
        ({"skip_bad": -1}, "skip_bad -1, allowed: whole number from 0"),
        ({"ties": "strict"}, "data set simulated: unknown ties; allowed: skip_bad, seed, .*impressions"),
    ],
)
def test_an_option_out_of_range_or_of_another_data_set_is_refused(values, says):
    with pytest.raises(OptionError, match=says):
        datasets.options("simulated", None, values)


def test_a_log_is_named_for_every_data_set_but_the_simulated_one(tmp_path):
    for name, raw in (("simulated", tmp_path), ("chain", tmp_path), ("taobao", None)):
        with pytest.raises(OptionError, match="every data set but simulated and chain"):
            datasets.options(name, raw, {})
    with pytest.raises(OptionError, match="nowhere is no folder"):
        datasets.options("taobao", tmp_path / "nowhere", {})
    assert datasets.options("amazon", tmp_path, {"ties": "published"}).ties == "published"
