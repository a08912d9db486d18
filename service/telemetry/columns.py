"""Which cell of a row of counts holds what: found by name, so that a family's place in the table means nothing."""

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from service.telemetry.families import OUTCOMES, STAGE_BOUNDS_S, STAGES, TOTAL, UNMATCHED, WITH_STAGES, Family
from service.telemetry.window import Counts, Series


class Times(NamedTuple):
    """The times of one stage of one route with one outcome."""

    route: str
    stage: str
    outcome: str
    series: Series


class Histogram(NamedTuple):
    """Cells of a histogram, from `first`: one a bucket, the last one for what is above all bounds; and its sum's."""

    first: int
    sum: int
    bounds: tuple[float, ...]


class Columns:
    """The cells of one row: first times of whole requests, then times of stages, then the families of the table.

    A row has so many `cells`, whole numbers, and so many `sums`, floats. A series of times has its
    sum in its first cell, in whole nanoseconds: rows are added to each other in any order, and a float could fall by
    its last bit, which Prometheus takes for a restart.
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        routes: Mapping[str, Sequence[str]],
        request_bounds_s: tuple[float, ...],
        edges: Sequence[float],
    ) -> None:
        self.request_bounds_s = request_bounds_s
        ends = [(route, outcome) for route in (*routes, UNMATCHED) for outcome in OUTCOMES]
        staged = [end for end in ends if end[1] in WITH_STAGES]
        stages = [(route, s, outcome) for s in STAGES for route, outcome in staged if s in routes.get(route, ())]
        self.cells = self.sums = 0
        self.requests = list(self._times([(route, TOTAL, end) for route, end in ends], request_bounds_s, edges, 0))
        self._end_of_requests = self.cells
        self.stages = list(self._times(stages, STAGE_BOUNDS_S, edges, len(ends)))
        self._end_of_stages = self.cells
        self.times = [*self.requests, *self.stages]
        self.ranking = {route for route, its in routes.items() if its}
        self.counters: dict[Hashable, int] = {}
        self.histograms: dict[str, Histogram] = {}
        for name, family in families.items():
            if family.bounds:
                self.histograms[name] = Histogram(self.cells, self.sums, family.bounds)
                self.cells += len(family.bounds) + 1
                self.sums += 1
                continue
            for labels in combinations(family):
                self.counters[counter_key(name, labels)] = self.cells
                self.cells += 1

    def _times(
        self, labels: Sequence[tuple[str, str, str]], bounds_s: tuple[float, ...], edges: Sequence[float], begin: int
    ) -> Iterator[Times]:
        at = [1 + bisect_left(bounds_s, edge) for edge in edges] + [1 + len(bounds_s)]  # every bound is an edge
        for number, (route, stage, outcome) in enumerate(labels, begin):
            yield Times(route, stage, outcome, Series(number, self.cells, at))
            self.cells += 1 + len(bounds_s) + 1

    def split(self, cells: Counts) -> tuple[Counts, Counts]:
        """A row's times of whole requests and of stages, by series: nanoseconds, then the histogram's buckets."""
        stages = cells[self._end_of_requests : self._end_of_stages]
        return cells[: self._end_of_requests].reshape(len(self.requests), -1), stages.reshape(
            len(self.stages), 1 + len(STAGE_BOUNDS_S) + 1
        )


def combinations(family: Family) -> list[dict[str, str]]:
    """Every combination of the values that a family's labels may have."""
    return [dict(zip(family.labels, values, strict=True)) for values in product(*family.labels.values())]


def counter_key(name: str, labels: Mapping[str, str]) -> Hashable:
    return (name, *sorted(labels.items())) if labels else name
