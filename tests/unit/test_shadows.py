"""A shadow's order in a world whose examination and attraction are known: the estimate finds what it would earn."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.engine import engine
from model.servicelog.tables import SHADOWS
from service.comparing.shadows import Shadow, estimate, examination

LOOKED = np.array([1, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15])  # how often each place is
SHOWN = len(LOOKED)


class World:
    """Requests with candidates that attract by a chance of their own."""

    def __init__(self, requests: int, candidates: int, seed: int):
        self.chance = np.random.default_rng(seed)
        self.attraction = self.chance.beta(1, 6, (requests, candidates))

    def scores(self, noise: float) -> np.ndarray:
        """Of a model that knows attraction, but for so much noise."""
        return np.log(self.attraction) + self.chance.normal(0, noise, self.attraction.shape)

    def earned(self, scores: np.ndarray) -> float:
        """The click rate of this order."""
        order = (-scores).argsort(axis=1)[:, :SHOWN]
        return float((np.take_along_axis(self.attraction, order, 1) * LOOKED).mean())

    def tables(self, shown_by: np.ndarray, shadow: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame]:
        """`labelled` of what was shown by one model, and `shadows` of another."""
        requests, candidates = self.attraction.shape
        order = (-shown_by).argsort(axis=1)[:, :SHOWN]
        clicked = self.chance.random(order.shape) < np.take_along_axis(self.attraction, order, 1) * LOOKED
        request = np.repeat(np.arange(requests), SHOWN)
        labelled = _requests(request).with_columns(
            item_id=pl.Series(order.ravel()).cast(pl.String),
            place=pl.Series(np.tile(np.arange(1, SHOWN + 1), requests)).cast(pl.Int32),
            score=pl.Series(np.take_along_axis(shown_by, order, 1).ravel()),
            label=pl.Series(clicked.ravel().astype(np.int8)),
            model=pl.lit("bst"),
            version=pl.lit("1"),
        )
        every = np.repeat(np.arange(requests), candidates)
        shadows = _requests(every).with_columns(
            item_id=pl.Series(np.tile(np.arange(candidates), requests)).cast(pl.String),
            shadow=pl.lit("next"),
            model=pl.lit("din"),
            version=pl.lit("2"),
            score=pl.Series(shadow.ravel()).cast(pl.Float32),
            read_us=pl.lit(1),
        )
        return labelled, shadows.select(list(SHADOWS))


def _requests(number: np.ndarray) -> pl.DataFrame:
    """Three of each user."""
    return pl.DataFrame({"request_id": number, "user_id": number // 3, "now": number}).cast(
        {"request_id": pl.String, "user_id": pl.String, "now": pl.Int64}
    )


def told(folder: Path, labelled: pl.DataFrame, shadows: pl.DataFrame) -> tuple[list[Shadow], list[float]]:
    with engine(folder, 1.0) as con:
        for name, table in (("labelled", labelled), ("shadows", shadows)):
            table.write_parquet(folder / f"{name}.parquet")
            con.execute(f"CREATE VIEW {name} AS FROM '{folder / name}.parquet'")
        found, looked = estimate(con, "true")
    return list(found), list(looked)


def test_examination_is_told_apart_from_what_stands_at_the_top(tmp_path: Path) -> None:
    world = World(9_000, SHOWN, seed=1)
    labelled, shadows = world.tables(world.scores(0.7), world.scores(0.7))
    _, looked = told(tmp_path, labelled, shadows)
    np.testing.assert_allclose(looked, LOOKED, rtol=0.15)
    plain = labelled.group_by("place").agg(pl.col("label").mean()).sort("place")["label"].to_numpy()
    assert plain[-1] / plain[0] < 0.5 * LOOKED[-1], "click rates by place hold what the model knew, too"


def test_examination_of_counts_that_fit_is_exact_and_a_place_that_was_never_shown_has_none() -> None:
    shown = np.array([[100.0, 400, 0, 50], [300, 10, 0, 80]])
    clicked = shown * np.array([[0.2], [0.05]]) * np.array([1, 0.5, 1, 0.25])
    np.testing.assert_allclose(examination(shown, clicked), [1, 0.5, np.nan, 0.25])
    assert examination(shown, 0 * shown)[0] == 0


@pytest.mark.parametrize("noise", [0.2, 3.0])
def test_what_a_shadow_would_have_earned_is_found_where_all_was_shown(tmp_path: Path, noise: float) -> None:
    world = World(9_000, SHOWN, seed=2)
    live, shadow = world.scores(0.7), world.scores(noise)
    (found,), _ = told(tmp_path, *world.tables(live, shadow))
    truth = world.earned(shadow) / world.earned(live) - 1
    assert abs(truth) > 0.06 and found.gain is not None and found.gain_interval is not None and found.ctr is not None
    assert found.gain == pytest.approx(truth, abs=0.03)
    assert found.gain_interval[0] < truth < found.gain_interval[1]
    assert found.ctr == pytest.approx(world.earned(shadow), rel=0.04)
    assert found.shown_ctr == pytest.approx(world.earned(live), rel=0.04)
    assert (found.seen, found.requests, found.users) == (1, 9_000, 3_000)


def test_of_a_shadow_that_would_have_shown_other_items_what_was_shown_tells(tmp_path: Path) -> None:
    """Half of the candidates were shown, drawn at random: those that were not are like those that were."""
    world = World(9_000, 2 * SHOWN, seed=3)
    live, shadow = world.chance.random(world.attraction.shape), world.scores(0.5)
    (found,), looked = told(tmp_path, *world.tables(live, shadow))
    assert found.seen == pytest.approx(0.5, abs=0.01)
    assert found.ctr == pytest.approx(world.earned(shadow), rel=0.05)
    np.testing.assert_allclose(looked, LOOKED, rtol=0.15)


def test_the_same_order_has_no_gain_and_nan_is_the_last_place(tmp_path: Path) -> None:
    world = World(300, SHOWN, seed=4)
    live = world.scores(0.5)
    (same,), _ = told(tmp_path, *world.tables(live, live))
    assert same.gain == pytest.approx(0) and same.gain_interval == pytest.approx((0, 0))
    worst = np.where(live == live.max(axis=1, keepdims=True), np.nan, live)
    last = np.where(np.isnan(worst), -1e9, worst)
    labelled, shadows = world.tables(live, worst)
    (found,), _ = told(tmp_path, labelled, shadows)
    again = shadows.with_columns(score=pl.Series(last.ravel()).cast(pl.Float32))
    assert told(tmp_path, labelled, again)[0] == [found]


def test_a_request_that_returned_an_item_twice_is_left_out_and_few_clicks_have_no_interval(tmp_path: Path) -> None:
    world = World(30, SHOWN, seed=5)
    labelled, shadows = world.tables(world.scores(0.5), world.scores(0.5))
    twice = pl.when((pl.col("now") == 0) & (pl.col("place") == 2)).then(pl.col("item_id").first())
    labelled = labelled.with_columns(item_id=twice.otherwise("item_id"))
    (found,), _ = told(tmp_path, labelled, shadows)
    assert found.requests == 29 and found.gain_interval is None
    assert told(tmp_path, labelled, shadows.head(0))[0] == []


def test_a_log_without_impressions_has_no_shadow(tmp_path: Path) -> None:
    world = World(3, SHOWN, seed=6)
    labelled, shadows = world.tables(world.scores(0.5), world.scores(0.5))
    assert told(tmp_path, labelled.head(0), shadows) == ([], [])
