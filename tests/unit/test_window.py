"""The sliding window: quantiles against numpy's, the clock's edges, and files of workers that did not end well."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from service.telemetry.window import (
    LONGEST_S,
    SHORTEST_S,
    Series,
    TimesWriter,
    WorkerFile,
    WorkerFiles,
    log_edges,
    merge,
    quantiles,
    window_layout,
)

EDGES = log_edges([0.005, 0.01])
LAYOUT = np.dtype([("window", window_layout(2, EDGES)), ("cells", np.uint64, (2, 6))], align=True)
AT = [1 if edge <= 0.01 else 2 for edge in EDGES] + [2]  # the cell of a time up to 10 ms, or above
SERIES = [Series(0, 0, AT), Series(1, 3, AT)]


class Worker:
    """What a worker process does with its file."""

    def __init__(self, folder: Path) -> None:
        self.file = WorkerFile(folder, LAYOUT)
        self.files = WorkerFiles(folder, LAYOUT)
        self._writer = TimesWriter(self.file.record["window"], EDGES, self.file.record["cells"])

    def add(self, seconds: float, now_s: float, series: int = 0, row: int = 0) -> None:
        self._writer.add({"": SERIES[series]}, {"": seconds}, now_s, row)

    def recent(self, now_s: float) -> np.ndarray:
        return merge([record["window"] for record in self.files.everyone()], now_s, LAYOUT["window"])

    def cells(self) -> list[list[int]]:
        """Counts since the start, by row."""
        return sum(record["cells"] for record in self.files.everyone()).tolist()


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """A function that starts one more worker on the same folder; all are closed at the end."""
    with ExitStack() as stack:

        def start_one() -> Worker:
            worker = Worker(tmp_path)
            stack.callback(worker.file.close)
            return worker

        yield start_one


@pytest.mark.parametrize(("median_s", "sigma"), [(0.008, 0.5), (0.0002, 1.0), (0.5, 1.0)])
def test_quantiles_over_all_workers_are_within_two_percent_of_the_exact_ones(start, median_s, sigma):
    workers = [start() for _ in range(3)]
    recorded = np.random.default_rng(1).lognormal(math.log(median_s), sigma, 30_000)
    for i, seconds in enumerate(recorded):
        workers[i % 3].add(seconds, now_s=1000 + i / 1000)

    answers = [quantiles(worker.recent(1030)[0], EDGES, [0, 0.5, 0.9, 0.99, 0.999, 1]) for worker in workers]

    exact = np.quantile(recorded, [0, 0.5, 0.9, 0.99, 0.999, 1], method="inverted_cdf")
    np.testing.assert_allclose(answers[0], exact, rtol=0.02)
    assert answers[0] == answers[1] == answers[2]


def test_a_single_time_is_every_quantile(start):
    worker = start()
    worker.add(0.0123, now_s=0)

    np.testing.assert_allclose(quantiles(worker.recent(0)[0], EDGES, [0.5, 0.999]), 0.0123, rtol=0.02)


def test_an_empty_window_is_nan_and_not_zero(start):
    assert all(math.isnan(seconds) for seconds in quantiles(start().recent(1000)[0], EDGES, [0.5, 0.99]))


def test_a_time_is_seen_for_60_s_and_no_longer_than_65_but_counted_for_ever(start):
    worker = start()
    worker.add(0.25, now_s=104.9)

    recent = {now_s: int(worker.recent(now_s)[0].sum()) for now_s in (104.9, 164.8, 170)}

    assert recent == {104.9: 1, 164.8: 1, 170: 0}
    assert worker.cells() == [[250_000_000, 0, 1, 0, 0, 0], [0] * 6]


def test_slices_are_used_again_without_what_they_held_before(start):
    worker = start()

    for now_s in range(1000):
        worker.add(0.01, now_s)
        if now_s >= 65:
            assert 60 <= worker.recent(now_s)[0].sum() <= 65


def test_series_do_not_mix_nor_do_rows(start):
    worker = start()
    worker.add(0.001, now_s=7, series=0)
    worker.add(1.0, now_s=7, series=1)
    worker.add(0.002, now_s=7, series=1, row=1)

    assert worker.cells()[0] == [1_000_000, 1, 0, 1_000_000_000, 0, 1]
    assert quantiles(worker.recent(7)[1], EDGES, [0.5, 1]) == pytest.approx([0.002, 1.0], rel=0.02)


def test_times_off_the_scale_answer_with_its_ends(start):
    worker = start()
    worker.add(0.0, now_s=0)
    worker.add(10 * LONGEST_S, now_s=0)

    lowest, highest = quantiles(worker.recent(0)[0], EDGES, [0, 1])

    assert lowest == SHORTEST_S
    assert highest == pytest.approx(LONGEST_S, rel=0.04)


def test_edges_are_four_percent_apart_at_most_and_name_every_bound():
    edges = np.array(log_edges([0.005, 0.0333]))

    assert (edges[1:] / edges[:-1]).max() <= 1.04
    assert {0.005, 0.0333} <= set(edges)


def test_a_time_on_a_bound_belongs_below_it(start):
    worker = start()  # as Prometheus has it: le means less or equal
    worker.add(0.01, now_s=0)

    assert worker.recent(0)[0][: EDGES.index(0.01) + 1].sum() == 1
    assert worker.cells()[0][:3] == [10_000_000, 1, 0]


def test_a_new_worker_counts_on_where_the_one_before_it_stopped(start, tmp_path):
    reader, first = start(), Worker(tmp_path)
    first.add(0.01, now_s=0)
    first.file.close()

    second = start()
    second.add(0.01, now_s=0)

    assert reader.cells()[0][:3] == [20_000_000, 2, 0]
    assert len(list(tmp_path.iterdir())) == 2


def test_workers_that_live_have_a_file_each(start, tmp_path):
    for _ in range(4):
        start()

    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("size", [0, 100, LAYOUT.itemsize - 1])
def test_a_file_that_its_maker_did_not_finish_is_passed_over_and_then_taken_over(start, tmp_path, size):
    worker = start()
    worker.add(0.01, now_s=0)
    (tmp_path / "worker-1.counts").write_bytes(bytes(size))

    assert worker.recent(0)[0].sum() == 1

    start().add(0.01, now_s=0)

    assert worker.recent(0)[0].sum() == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        WorkerFile(tmp_path / "nowhere", LAYOUT)
