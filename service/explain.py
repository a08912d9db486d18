"""Why an answer is as it is: the attention of every past behaviour, what was unknown, the score without the history.

It is made after the ranking, of the items that are returned, by the graphs that scoring/explaining.py opens; a request
that does not ask for it comes nowhere near. Its time counts as the stages `encode`, `queue` and `score`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from model.bundle.attention import Attention
from model.features.batch import candidates, of_candidates
from model.features.behaviour import Behaviour
from model.features.encode import Encoded, Inputs
from service.call import Call
from service.scoring.lanes import Scores
from service.scoring.served import Served
from service.store.history import Stored
from service.wire.shapes import RankRequest

Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """A ranked request: what is explained."""

    request: RankRequest
    user_id: int | str
    stored: Stored
    now: int  # its recommending time, ms
    encoded: Encoded
    scores_C: Scores
    order: Order  # places of the returned items among the candidates, best first


@dataclass(frozen=True)
class Explanation:
    """As wire.Explanation and wire.ItemExplanation document it."""

    shared: dict[str, Any]
    of_items: list[dict[str, Any]]  # in the answer's order


async def explain(call: Call, subject: Subject, served: Served, bulk: bool = False) -> Explanation:
    """`bulk`: as a batch's, which lets single requests pass. Raises DeadlineExceeded or ClientGone."""
    if served.builtin is not None:
        return _without_network(subject, served)
    explainer = served.explaining.opened
    if explainer is None:
        explainer = await asyncio.to_thread(served.explaining.open, served.bundle, served.session, served.precision)
    call.check("score")
    with call.stage("encode"):
        shown = of_candidates(subject.encoded.inputs, subject.order)
        alone = _without_history(subject, served)
        behaviours, user, items = _behaviours(subject, served, explainer.attention), *_strangers(subject, served)

    graph = partial(served.bundle.score, explainer.session)
    scores = subject.scores_C[subject.order]
    if explainer.session is not served.session:
        scores = await served.scorer.run(graph, shown, call, bulk)
    without = await served.scorer.run(graph, alone, call, bulk)
    told = zip(items, scores.ravel().tolist(), without.ravel().tolist(), strict=True)
    of_items = [{"score": score, "score_without_history": bare, **item} for item, score, bare in told]
    normalised = None
    if explainer.attention is not None:
        normalised = explainer.attention.facts.normalised
        weigh = partial(explainer.attention.weights, served.bundle)
        weights_1CT = await served.scorer.run(weigh, shown, call, bulk)
        _add_weights(of_items, weights_1CT[0], _places(behaviours, explainer.attention.parts(served.bundle, shown)))
        if explainer.attention.facts.target:
            for item, own in zip(of_items, weights_1CT[0, :, -1].tolist(), strict=True):
                item["attention_target"] = own
    shared = {
        "behaviours": [_told(one, subject.now) for group in behaviours for one in group],
        "normalised": normalised,
        "precision": explainer.precision,
        **user,
        "note": explainer.note,
    }
    return Explanation(shared, of_items)


def _without_network(subject: Subject, served: Served) -> Explanation:
    """Of a variant that looks at no history: a page must not break for the users who happen to get it."""
    user, items = _strangers(subject, served)
    scores = subject.scores_C[subject.order].tolist()
    of_items = [
        {"score": score, "score_without_history": score, **item} for item, score in zip(items, scores, strict=True)
    ]
    note = (
        f"variant {served.variant!r} is the builtin {served.name}, not a network: it looks at no history, so there is "
        "no attention, and scores are the same without the history"
    )
    return Explanation({"behaviours": [], "normalised": None, "precision": None, **user, "note": note}, of_items)


def _without_history(subject: Subject, served: Served) -> Inputs:
    """The returned items for the same user, of whom nothing but the profile is known."""
    request = subject.request
    return served.encoder.encode(
        subject.user_id,
        subject.stored.profile,
        [],
        [request.candidates[place] for place in subject.order.tolist()],
        subject.now,
        served.catalog,
        user=request.user,
        context=request.context,
        shown_today=subject.stored.shown_today,
    ).inputs


def _behaviours(subject: Subject, served: Served, attention: Attention | None) -> list[list[Behaviour]]:
    """Those that the network attends to, by group, oldest first; without a graph that says so, the items'."""
    groups = served.encoder.slots(subject.stored.behaviours)
    return groups if attention is not None and attention.facts.groups else groups[:1]


def _places(behaviours: Sequence[Sequence[Behaviour]], parts: Sequence[int]) -> list[int]:
    """Where in the weights each behaviour stands: behind a group's there may be slots that hold none."""
    begins = np.cumsum([0, *parts]).tolist()
    return [begin + slot for begin, group in zip(begins, behaviours, strict=False) for slot in range(len(group))]


def _add_weights(items: list[dict[str, Any]], weights_CT: npt.NDArray[np.float32], places: list[int]) -> None:
    for item, weights in zip(items, weights_CT[:, places].tolist(), strict=True):
        item["attention"] = weights


def _strangers(subject: Subject, served: Served) -> tuple[dict[str, list[str]], list[dict[str, list[str]]]]:
    """Names of unknown and of missing features: of the user, and of each returned item with its context."""
    user: dict[str, list[str]] = {"unknown": [], "missing": []}
    items: list[dict[str, list[str]]] = [{"unknown": [], "missing": []} for _ in subject.order]
    count = candidates(subject.encoded.inputs)
    for name, side, unknown, missing in served.encoder.strangers(subject.encoded):
        for kind, which in (("unknown", unknown), ("missing", missing)):
            if side == "user":
                user[kind] += [name] * bool(which[0])
            else:
                for place in np.flatnonzero(np.broadcast_to(which, count)[subject.order]).tolist():
                    items[place][kind].append(name)
    return user, items


def _told(behaviour: Behaviour, now: int) -> dict[str, Any]:
    action, object_type, object_id, timestamp = behaviour
    age_s = max(0, now - timestamp) / 1000  # a client's clock ahead of ours is just now, as for the network
    return {"action": action, "object_type": object_type, "object_id": object_id, "age_s": age_s}
