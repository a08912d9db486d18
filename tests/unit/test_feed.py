"""The simulated feed: the same days for all who order them, luck that decides, and from which day the loop is ahead."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from loadtest.feed import page, rates
from loadtest.feed.orders import Chance, Day, Popularity, Truth
from loadtest.feed.rates import LOOP, ORACLE, ORDERS, POPULARITY, RANDOM, beats_from
from loadtest.feed.visits import DAY_MS, Course, Feed
from model.datasets import simulated
from model.evaluation.bootstrap import Interval


@pytest.fixture(scope="module")
def feed() -> Feed:
    return Feed.make(simulated.make_world(3, 300), users=60, pages_a_day=2.0, pool=40, top=10, seed=3)


def test_a_day_is_the_same_whenever_it_is_asked_for_and_lies_within_its_bounds(feed: Feed) -> None:
    day, again, other = feed.day(2), feed.day(2), feed.day(3)
    assert list(day) == list(again) and list(day) != list(other)
    begin = simulated.END_MS + DAY_MS
    for user, pages in day.items():
        for one, same in zip(pages, again[user], strict=True):
            assert one.now == same.now and (one.item == same.item).all() and (one.luck == same.luck).all()
            assert one.user == user and begin <= one.now < begin + DAY_MS
            assert len(set(one.item.tolist())) == len(one.item) > feed.top, "each candidate once"
        times = [one.now for one in pages]
        assert all(b - a >= simulated.PAGE_TAKES_MS for a, b in zip(times, times[1:], strict=False))


def test_a_user_clicks_where_luck_is_below_the_probability_of_place_and_moment(feed: Feed) -> None:
    course = Course(feed)
    one = next(iter(feed.day(1).values()))[0]
    order = np.arange(10)
    expected = course.relevance(one)[order]
    probability = np.arange(1, 11) ** -simulated.EXAMINATION / (1 + np.exp(-expected))

    clicks = course.show(one, order)

    assert [click.item for click in clicks] == one.item[order][one.luck[order] < probability].tolist()
    assert all(
        one.now < click.at < one.now + 10 * (simulated.CLICK_STEP_MS + simulated.CLICK_AFTER_MS) for click in clicks
    )


def test_a_click_pulls_towards_what_it_completes_in_its_own_course_alone(feed: Feed) -> None:
    course, apart = Course(feed), Course(feed)
    before = next(one for pages in feed.day(1).values() for one in pages)
    lucky = np.zeros_like(before.luck)  # every item is clicked
    [click, *_] = course.show(replace(before, luck=lucky), np.array([0]))
    complement = feed.world.complement[feed.world.category[click.item]]
    later = replace(before, now=click.at + 1000)
    pulled = course.relevance(later) - apart.relevance(later)
    towards = feed.world.category[later.item] == complement
    assert (pulled[~towards] == 0).all()
    assert np.allclose(pulled[towards], simulated.PULL, atol=0.01)


def test_who_knows_the_truth_is_clicked_most_and_chance_least(feed: Feed) -> None:
    truth, chance, popular = Truth(feed), Chance(feed), Popularity(feed)
    days: dict[str, list[Day]] = {ORACLE: [], RANDOM: [], POPULARITY: []}
    for number in range(1, 6):
        pages = feed.day(number)
        for name, order in ((ORACLE, truth), (RANDOM, chance), (POPULARITY, popular)):
            days[name].append(asyncio.run(order.day(pages)))
        popular.learn(click.item for click in days[RANDOM][-1].clicks)
    mean = {name: np.mean([rates.rate(day) for day in some]) for name, some in days.items()}
    assert mean[ORACLE] > 1.5 * mean[RANDOM] and mean[ORACLE] > mean[POPULARITY] > mean[RANDOM]
    assert all(len({int(day.shown.sum()) for day in of_day}) == 1 for of_day in zip(*days.values(), strict=True))


def test_the_loop_is_ahead_from_the_first_day_after_which_no_interval_holds_0() -> None:
    ahead, level = Interval(0.02, 0.01, 0.03), Interval(0.01, -0.01, 0.03)
    assert beats_from([level, ahead, ahead]) == 2
    assert beats_from([ahead, level, ahead]) == 3
    assert beats_from([ahead, ahead, level]) is None
    assert beats_from([ahead]) == 1


def seeds(apart: float) -> list[dict[str, list[Day]]]:
    """Two seeds of 200 users, of whom the loop's click more often by so much, and the oracle's most."""
    draw = np.random.default_rng(5)

    def day(chance: float) -> Day:
        return Day(np.full(200, 10), draw.binomial(10, chance, 200))

    chances = {LOOP: 0.1 + apart, POPULARITY: 0.1, RANDOM: 0.1, ORACLE: 0.3}
    return [{name: [day(chances[name]) for _ in range(2)] for name in ORDERS} for _ in range(2)]


def test_figures_have_intervals_and_say_from_which_day_on_the_loop_is_ahead() -> None:
    ahead, level = rates.figures(seeds(0.08), [1, 2]), rates.figures(seeds(0.0), [1, 2])
    assert ahead["beats_popularity_from_day"] == ahead["beats_random_from_day"] == 1
    assert level["beats_popularity_from_day"] is None
    for name in ORDERS:
        for mean, (low, high) in zip(ahead["ctr"][name], ahead["ctr_95"][name], strict=True):
            assert low < mean < high
    assert ahead["shown"] == 2 * 2 * 2000


def test_the_page_shows_every_order_and_day_and_loads_nothing() -> None:
    figures = rates.figures(seeds(0.08), [1, 2]) | {
        "users": 200,
        "versions": [["a", "b"], ["c", "d"]],
        "unpublished": 1,
    }
    html = page.html(figures)
    assert all(name in html for name in page.NAMES.values())
    assert "from day 1 on" in html and "a, c" in html and "b, d" in html
    assert "On 1 evening(s)" in html
    assert 'src="http' not in html and "<script" not in html
