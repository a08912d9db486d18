"""Who asks, and how much: users by Zipf, unknown ones, users by the length of their history, numbers of candidates.

What the service holds of a user cannot be chosen in a request, only the user can. So a mix of history lengths needs a
service whose answers tell `history_length`: each sample user is asked about once, before the clock starts, and the
mix then chooses among the users of each length. It says what the network saw, at most its T newest clicks.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import orjson

from loadtest.errors import NoRun
from loadtest.generator.budgets import Budget, Mix
from loadtest.generator.client import Client

Id = str | int


def sizes(budget: Budget, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The number of candidates of each request, (count,)."""
    if isinstance(budget.candidates, int):
        return np.full(count, budget.candidates)
    allowed, weights = zip(*budget.candidates, strict=True)
    return rng.choice(allowed, count, p=np.array(weights) / sum(weights))


def users(
    known: Sequence[Id], lengths: Mapping[Id, int] | None, budget: Budget, count: int, rng: np.random.Generator
) -> list[Id]:
    """The user of each request, (count,). Raises NoRun where nobody has a history as long as is asked for."""
    if lengths is not None and budget.history is not None:
        groups = _groups(known, lengths, budget.history, budget.scenario)
        weights = np.array([weight for _, weight in budget.history])
        group = rng.choice(len(groups), count, p=weights / weights.sum())
    else:
        groups, group = [list(known)], np.zeros(count, np.int64)
    drawn: list[Id] = [""] * count
    for number, members in enumerate(groups):
        places = np.flatnonzero(group == number)
        popularity = np.arange(1, len(members) + 1) ** -float(budget.zipf)
        chosen = rng.choice(len(members), len(places), p=popularity / popularity.sum())
        for place, one in zip(places.tolist(), chosen.tolist(), strict=True):
            drawn[place] = members[one]
    for place in np.flatnonzero(rng.random(count) < budget.cold).tolist():
        drawn[place] = _nobody(known, rng)
    return drawn


async def history_lengths(client: Client, known: Sequence[Id], item: Id) -> dict[Id, int]:
    """How many clicks the service sees of each user. Raises NoRun where its answers do not tell."""
    lengths = {}
    for user in known:
        answer = await client.ask("POST", "/rank", orjson.dumps({"user_id": user, "candidates": [item]}))
        try:
            length = orjson.loads(answer.content)["history_length"] if answer.status == 200 else None
        except (orjson.JSONDecodeError, KeyError, TypeError):
            length = None
        if type(length) is not int:
            raise NoRun(
                f"a mix of history lengths needs answers with history_length; POST /rank gave status {answer.status} "
                "without one"
            )
        lengths[user] = length
    return lengths


def _groups(known: Sequence[Id], lengths: Mapping[Id, int], history: Mix, scenario: str) -> list[list[Id]]:
    """The users from each least length of the mix up to the next."""
    least = [length for length, _ in history]
    groups: list[list[Id]] = [[] for _ in least]
    for user in known:
        place = int(np.searchsorted(least, lengths[user], side="right")) - 1
        if place >= 0:
            groups[place].append(user)
    for number, members in enumerate(groups):
        if not members:
            upper = f" and below {least[number + 1]}" if number + 1 < len(least) else ""
            there = f"{min(lengths.values())} to {max(lengths.values())}"
            raise NoRun(f"[{scenario}]: no sample user has a history of {least[number]} or more{upper}, only {there}")
    return groups


def _nobody(known: Sequence[Id], rng: np.random.Generator) -> Id:
    """A user whom no log has: of the kind of id that the others have."""
    number = int(rng.integers(2**51, 2**52))
    return number if isinstance(known[0], int) else f"nobody-{number:x}"
