"""The users: what they are, did before, are offered and truly like, as the simulator's world has it."""

import time
from typing import Any

import numpy as np

from model.datasets import simulated
from model.datasets.simulated import Floats, Ints
from tests.judge import offline

POOL = 30  # candidates that are drawn for a page, repetitions included
PAGES_BEFORE = 6.0  # that a user saw before all this


class Crowd:
    """So many users of the demo's world. Items are indexes here, and ids on the wire."""

    def __init__(self, count: int, seed: int):
        self._rng = rng = np.random.default_rng([seed, 30_000])  # the simulator's own blocks have smaller numbers
        self._world = world = offline.world()
        self._users = simulated.make_users(world, count, rng)
        self.ids = [f"i{name}" for name in world.name.tolist()]
        self.index = {item_id: at for at, item_id in enumerate(self.ids)}
        log = simulated.make_log(world, self._users, PAGES_BEFORE, rng)
        later_ms = time.time_ns() // 1_000_000 - simulated.END_MS - 60_000
        clicked = log["label"].astype(bool)
        self._before = [log[name][clicked] for name in ("user", "item", "clicked_at")]
        self._before[2] = self._before[2] + later_ms
        self._pulled_at = np.full((count, simulated.CATEGORIES), -np.inf)
        order = np.argsort(self._before[2], kind="stable")
        user, item, at = (values[order] for values in self._before)
        self._pulled_at[user, world.complement[world.category[item]]] = at

    def behaviours(self) -> list[tuple[int, str, int]]:
        """User, item and time of all clicks before."""
        user, item, at = (values.tolist() for values in self._before)
        return list(zip(user, [self.ids[one] for one in item], at, strict=True))

    def profile(self, user: int) -> dict[str, Any]:
        users = self._users
        return {
            "age": simulated.AGES[users.age[user]],
            "gender": simulated.GENDERS[users.gender[user]],
            "city": f"city{users.city[user]}",
            "os": simulated.SYSTEMS[users.os[user]],
        }

    def candidates(self, user: int) -> list[str]:
        """In random order."""
        item, _, counts = simulated.exposures(self._world, self._users.favourites[[user]], self._rng, POOL)
        return [self.ids[at] for at in self._rng.permutation(item[0][counts[0]]).tolist()]

    def look(self, user: int, page: int, shown: list[str], now: int) -> tuple[Floats, list[str]]:
        """The true probabilities of what is shown, best place first, and what is clicked; that pulls from now on."""
        item = np.array([[self.index[item_id] for item_id in shown]])
        category = self._world.category[item[0]]
        pulled_ms = np.maximum(now - self._pulled_at[user, category], 0.0)
        who, number = np.array([user]), np.array([page])
        relevance = simulated.relevance(self._world, self._users, who, item, number, pulled_ms[None])[0]
        probability = simulated.click_probability(relevance, np.arange(1, len(shown) + 1))
        places: Ints = np.flatnonzero(self._rng.random(len(shown)) < probability)
        self._pulled_at[user, self._world.complement[category[places]]] = now
        return probability, [shown[at] for at in places.tolist()]
