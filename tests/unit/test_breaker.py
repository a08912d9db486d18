"""The breaker by a clock that is given in: what opens it, what does not, and how it closes."""

import pytest

from service.store.fallback.breaker import CLOSED, FAILURES, HALF_OPEN, LONGEST_PAUSE_S, OPEN, Breaker

LASTING_S = 0.05


class World:
    """A breaker, the time, and what the breaker told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[int] = []
        self.breaker = Breaker(LASTING_S, clock=lambda: self.now, uniform=lambda low, high: high, tell=self.told.append)

    def fail(self, times: int = 1, took_s: float = LASTING_S) -> bool:
        """Failures one after the other; whether the last of them opened it."""
        opened = False
        for _ in range(times):
            begun = self.now
            self.now += took_s
            opened = self.breaker.failed(begun)
        return opened


@pytest.fixture
def world() -> World:
    return World()


def test_it_opens_with_the_fifth_failure_in_a_row(world: World) -> None:
    assert not world.fail(FAILURES - 1) and world.breaker.admits()
    assert world.fail() and world.breaker.state == OPEN and not world.breaker.admits()
    assert not world.fail()  # it is open already
    assert world.told == [OPEN]


def test_an_answer_between_them_begins_the_row_anew(world: World) -> None:
    for _ in range(10):
        assert not world.fail(FAILURES - 1)
        world.breaker.answered()
    assert world.told == []


def test_failures_at_one_moment_are_one_event(world: World) -> None:
    assert not world.fail(100, took_s=0) and world.breaker.state == CLOSED
    assert world.fail(took_s=2 * LASTING_S)


def test_a_probe_half_opens_it_and_one_read_at_a_time_tries(world: World) -> None:
    world.fail(FAILURES)
    world.breaker.probed()
    assert world.breaker.state == HALF_OPEN
    assert world.breaker.admits() and not world.breaker.admits()
    world.breaker.release()  # its caller hung up
    assert world.breaker.admits() and not world.breaker.admits()
    world.breaker.answered()
    world.breaker.release()
    assert world.breaker.state == CLOSED and world.breaker.admits() and world.breaker.admits()
    assert world.told == [OPEN, HALF_OPEN, CLOSED]


def test_a_trial_that_fails_opens_it_at_once(world: World) -> None:
    world.fail(FAILURES)
    world.breaker.probed()
    assert world.breaker.admits()
    assert world.fail() and world.breaker.state == OPEN


def test_a_read_begun_while_the_store_was_dead_says_nothing_of_the_store_that_is_back(world: World) -> None:
    world.fail(FAILURES)
    begun = world.now - 0.01
    world.breaker.probed()
    world.breaker.answered()
    world.now += 1
    assert not any(world.breaker.failed(begun) for _ in range(100)) and world.breaker.failures == 0


def test_probes_come_at_growing_pauses_up_to_a_bound_and_an_answered_read_begins_them_anew(world: World) -> None:
    assert {world.breaker.pause_s() for _ in range(5)} == {0.02}  # closed: whether it is dead is soon to be known
    world.fail(FAILURES)
    pauses = [world.breaker.pause_s() for _ in range(10)]
    assert pauses[:4] == [0.02, 0.04, 0.08, 0.16] and pauses[-1] == LONGEST_PAUSE_S == max(pauses)
    world.breaker.probed()
    assert world.breaker.pause_s() == LONGEST_PAUSE_S  # a store that answers probes alone is not asked more often
    world.breaker.answered()
    assert world.breaker.pause_s() == 0.02


def test_no_two_workers_probe_in_step() -> None:
    one, other = Breaker(LASTING_S), Breaker(LASTING_S)
    one.trip()
    other.trip()
    assert [one.pause_s() for _ in range(5)] != [other.pause_s() for _ in range(5)]
    assert all(LONGEST_PAUSE_S / 2 <= one.pause_s() <= LONGEST_PAUSE_S for _ in range(20))
