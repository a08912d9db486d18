"""Users of the simulator's world, and the pages that they ask for by the day.

A page is drawn before anybody orders it: its time, its candidates, and the luck of each. So all who order pages meet
the same days, and what differs between their click rates is their order.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.datasets import simulated
from model.datasets.simulated import Floats, Ints, Users, World

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Page:
    """A page that a user asks for; the candidates, C of them, in random order."""

    user: int
    number: int  # within the visit, from 1
    now: int  # ms
    item: Ints  # (C,) indexes
    channel: Ints  # (C,) which recall channel drew it
    luck: Floats  # (C,) it is clicked where its probability is larger
    click_after: Ints  # (places,) ms from the page until what is shown there is clicked


@dataclass(frozen=True)
class Feed:
    """A world, its users, and how many pages the average one asks for in a day."""

    world: World
    users: Users
    activity: Floats  # (U,) mean 1: some come often, some rarely
    pages_a_day: float
    pool: int  # candidates that are drawn for a page, repetitions included
    top: int  # that are shown of them
    seed: int

    @classmethod
    def make(cls, world: World, users: int, pages_a_day: float, pool: int, top: int, seed: int) -> "Feed":
        rng = np.random.default_rng([seed, 10_000])  # the simulator's own blocks of users have smaller numbers
        people = simulated.make_users(world, users, rng)
        return cls(world, people, rng.gamma(2.0, 0.5, users), pages_a_day, pool, top, seed)

    def day(self, number: int) -> dict[int, list[Page]]:
        """The pages of day `number`, from 1, of the users who come, by user and in order; always the same."""
        rng = np.random.default_rng([self.seed, 20_000 + number])
        start = simulated.END_MS + (number - 1) * DAY_MS
        pages = rng.poisson(self.pages_a_day * self.activity)
        pages[0] = max(pages[0], 1)  # a day has a page at least
        times, numbers = simulated.page_times(pages, rng, start, start + DAY_MS)
        of_user: dict[int, list[Page]] = {}
        for step in range(times.shape[1]):
            for page in self._pages(np.flatnonzero(times[:, step] < start + DAY_MS), times, numbers, step, rng):
                of_user.setdefault(page.user, []).append(page)
        return of_user

    def _pages(self, users: Ints, times: Ints, numbers: Ints, step: int, rng: np.random.Generator) -> Iterator[Page]:
        item, channel, counts = simulated.exposures(self.world, self.users.favourites[users], rng, self.pool)
        luck = rng.random(item.shape)
        places = np.arange(self.top)
        after = simulated.CLICK_AFTER_MS + simulated.CLICK_STEP_MS * places
        after = after + rng.integers(simulated.CLICK_JITTER_MS, size=(len(users), self.top))
        for row, user in enumerate(users.tolist()):
            these = rng.permutation(np.flatnonzero(counts[row]))
            now, number = int(times[user, step]), int(numbers[user, step])
            yield Page(user, number, now, item[row, these], channel[row, these], luck[row, these], after[row])


@dataclass(frozen=True)
class Click:
    item: int
    at: int  # ms


class Course:
    """What becomes of the users under one way of ordering: their clicks pull them on, so each way has its own."""

    def __init__(self, feed: Feed):
        self.feed = feed
        self._pulled_at = np.full((len(feed.activity), simulated.CATEGORIES), -np.inf)

    def relevance(self, page: Page) -> Floats:
        """True logits of a page's candidates (C,), whatever place they are shown at."""
        feed, pulled_at = self.feed, self._pulled_at[page.user, self.feed.world.category[page.item]]
        user, number = np.array([page.user]), np.array([page.number])
        pulled_ms = page.now - pulled_at[None]
        logits: Floats = simulated.relevance(feed.world, feed.users, user, page.item[None], number, pulled_ms)[0]
        return logits

    def show(self, page: Page, order: Ints) -> list[Click]:
        """The user's clicks on candidates in this order, best first; the page is read downwards."""
        places = np.arange(1, len(order) + 1)
        probability = simulated.click_probability(self.relevance(page)[order], places)
        clicked = np.flatnonzero(page.luck[order] < probability)
        clicks = [Click(int(page.item[order[at]]), page.now + int(page.click_after[at])) for at in clicked.tolist()]
        world = self.feed.world
        for click in clicks:
            self._pulled_at[page.user, world.complement[world.category[click.item]]] = click.at
        return clicks
