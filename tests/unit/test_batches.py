"""The order of an epoch: every impression once, in blocks, and from any batch on."""

import numpy as np
import pytest

from model.training import batches
from model.training.batches import BLOCK, shuffled, shuffled_batches


@pytest.mark.parametrize("count", [1, 1000, BLOCK, 5 * BLOCK + 17])
def test_an_epoch_meets_every_impression_once(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW", 2 * BLOCK)
    order = np.concatenate(list(shuffled(count, 1, 0)))
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    np.testing.assert_array_equal(order, np.concatenate(list(shuffled(count, 1, 0))))
    if count > 1:
        assert (order != np.concatenate(list(shuffled(count, 1, 1)))).any()
        assert (order != np.concatenate(list(shuffled(count, 2, 0)))).any()


def test_what_a_window_touches_lies_in_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW", 2 * BLOCK)
    windows = list(shuffled(9 * BLOCK + 5, 3, 0))
    assert len(windows) == 5 and max(len(np.unique(w // BLOCK)) for w in windows) == 2
    within = windows[0][windows[0] // BLOCK == windows[0][0] // BLOCK]
    assert (np.diff(within) < 0).any(), "a block is mixed through, not read in order"


def test_batches_taken_up_midway_are_those_of_the_whole_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WINDOW", 2 * BLOCK)
    rows = np.arange(7 * BLOCK + 99) * 3
    whole = list(shuffled_batches(rows, 300, 5, 2))
    assert [len(batch) for batch in whole[:-1]] == [300] * (len(whole) - 1)
    np.testing.assert_array_equal(np.sort(np.concatenate(whole)), rows)
    for begin in (0, 1, 6, 7, 13, len(whole) - 1, len(whole)):
        rest = list(shuffled_batches(rows, 300, 5, 2, begin))
        assert len(rest) == len(whole) - begin
        for one, other in zip(rest, whole[begin:], strict=True):
            np.testing.assert_array_equal(one, other)
