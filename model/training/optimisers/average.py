"""Running means of weights: what is looked at and exported where a recipe has `average`.

    m_t = m_(t-1) + (w_t - m_(t-1)) / min(t, span)        the mean of the first `span` steps, from there on exponential

Steps at a rate that stays wander about what they look for, and their mean lies nearer to it (Polyak and Juditsky, 1992;
Izmailov et al., UAI 2018). What is trained does not know of its mean.

A table's rows that a step does not touch stand still, and what their mean does meanwhile is known:

    m_b = w + (m_a - w) · Π_{a<t≤b} (1 - 1/min(t, span))

So such rows are caught up when they are touched next or looked at, and a step's time does not grow with the tables. Of
a table of a few rows the means of all go along: that is cheaper than telling which were touched.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from model.training.optimisers.lazy import SMALL


class Average:
    """The running means of some weights over `span` steps. `by_rows` are those whose gradients are sparse."""

    def __init__(self, weights: Iterable[nn.Parameter], by_rows: Iterable[nn.Parameter]):
        self.span = 1
        self.steps = 0
        self.weights = list(weights)
        self._means = [weight.detach().clone() for weight in self.weights]
        self._begun = [0] * len(self.weights)  # the step after which each began
        rowwise = {id(weight) for weight in by_rows if len(weight) > SMALL}
        self._seen = [  # the step that the mean of each row has come to
            torch.zeros(len(weight), dtype=torch.int64, device=weight.device) if id(weight) in rowwise else None
            for weight in self.weights
        ]

    @contextmanager
    @torch.no_grad()
    def step(self) -> Iterator[None]:
        """Around a step of the optimisers, while gradients say which rows it moves."""
        touched = dict(self._touched())
        for place, rows in touched.items():
            self._catch_up(place, rows)
        yield
        self.steps += 1
        for place, (weight, mean) in enumerate(zip(self.weights, self._means, strict=True)):
            share = 1 / min(self.steps - self._begun[place], self.span)
            seen = self._seen[place]
            if seen is None:
                mean.lerp_(weight, share)
            elif place in touched:
                rows = touched[place]
                mean[rows] = mean[rows].lerp_(weight[rows], share)
                seen[rows] = self.steps

    def _touched(self) -> Iterator[tuple[int, Tensor | slice]]:
        """The rows that gradients name, by the weight's place."""
        for place, (weight, seen) in enumerate(zip(self.weights, self._seen, strict=True)):
            if seen is not None and (gradient := weight.grad) is not None:
                yield place, gradient._indices()[0].unique() if gradient.is_sparse else slice(None)

    def _catch_up(self, place: int, rows: Tensor | slice) -> None:
        weight, mean, seen = self.weights[place], self._means[place], self._seen[place]
        if seen is not None:
            now = torch.tensor(self.steps - self._begun[place])
            before_N1 = (seen[rows] - self._begun[place]).unsqueeze(1)
            mean[rows] = torch.lerp(weight[rows], mean[rows], self._kept(before_N1, now))
            seen[rows] = self.steps

    def _kept(self, before: Tensor, now: Tensor) -> Tensor:
        """Π (1 - 1/min(t, span)) over the steps t after `before` until `now`: what is left of a mean."""
        while_mean = before.clamp(max=self.span) / now.clamp(1, self.span)
        after = now.clamp(min=self.span) - before.clamp(min=self.span)
        return while_mean * (1 - 1 / self.span) ** after

    def forget(self, weight: nn.Parameter) -> None:
        """Begins anew with a weight that starts anew."""
        place = next(place for place, own in enumerate(self.weights) if own is weight)
        self._means[place].copy_(weight.detach())
        self._begun[place] = self.steps
        if (seen := self._seen[place]) is not None:
            seen.fill_(self.steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The means stand in the stead of the weights; nothing is copied."""
        with torch.no_grad():
            for place in range(len(self.weights)):
                self._catch_up(place, slice(None))
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for place, weight in enumerate(self.weights):
            weight.data, self._means[place] = self._means[place], weight.data

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "means": self._means, "begun": self._begun, "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self._begun = state["steps"], list(state["begun"])
        self._means, self._seen = list(state["means"]), list(state["seen"])
