"""Who is let in: by the predicted wait, learnt from what was answered; and which run is next."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.guard import Guard
from service.api.gate import Gate
from service.call import Call, Ticket
from service.errors import ClientGone, DeadlineExceeded, Overloaded
from service.scoring.admission import BULK_EVERY_S, CALM_S, STEADY_REQUESTS, Admission, Size, Work
from service.scoring.lanes import BULK_TURN, Lanes, Run
from service.scoring.scorer import Scorer
from service.settings import Settings

WORK = Work(0.001, 1e-5)  # 6 ms for 500 candidates
LEFT_S = 0.2


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def gate(most: int = 1_000_000, clock: Callable[[], float] | None = None) -> Admission:
    return Admission(most, lambda: WORK, clock or Clock())


def slowness(admission: Admission) -> float:
    return admission.cost_s / WORK.candidate_s


def let_in(admission: Admission, candidates: int = 500, left_s: float | None = LEFT_S, bulk: bool = False) -> int:
    """How many such requests come in before one is refused."""
    for count in range(10_000):
        try:
            admission.enter(Size(1, candidates), left_s, bulk)
        except Overloaded:
            return count
    raise AssertionError("nobody is ever refused")


def test_a_request_alone_is_never_refused() -> None:
    ticket = gate(most=10).enter(Size(1, 1_000_000), 0.001)
    assert ticket.candidates == 1_000_000


def test_a_burst_may_fill_half_of_the_deadline() -> None:
    assert let_in(gate()) == int(LEFT_S / 2 // 0.006) + 1  # the last one waits for all but itself


def test_after_a_refusal_the_wait_is_held_to_a_small_part_until_none_is_refused_for_a_while() -> None:
    clock = Clock()
    admission = gate(clock=clock)
    tickets = []
    with pytest.raises(Overloaded):
        while True:
            tickets.append(admission.enter(Size(1, 500), LEFT_S))
    for ticket in tickets[5:]:
        admission.leave(ticket, None)
    assert let_in(admission) == 1, "five wait for 30 ms, six would for 36"
    clock.now += CALM_S * 1.01
    assert let_in(admission) > 10


def test_a_few_requests_may_always_wait_for_each_other() -> None:
    admission = gate()
    let_in(admission, 5000, 0.5)
    for ticket in [Ticket(5000, WORK.seconds(1, 5000), 0.0, False)] * 100:
        if admission.candidates <= 5000:
            break
        admission.leave(ticket, None)
    assert admission.candidates == 5000 and let_in(admission, 5000, 0.5) == STEADY_REQUESTS


def test_a_refusal_says_how_long_and_when_to_come_again() -> None:
    admission = gate()
    admission.enter(Size(1, 500_000), None)
    with pytest.raises(
        Overloaded, match=r"5001 ms to wait, at most 100 would do .* within 200 ms; try again in 6 s"
    ) as refused:
        admission.enter(Size(1, 1), LEFT_S)
    assert refused.value.retry_after_s == 6 and refused.value.status == 429


def test_more_candidates_than_may_be_under_way_are_refused_whatever_the_deadline() -> None:
    admission = gate(most=1000)
    admission.enter(Size(1, 700), None)
    with pytest.raises(Overloaded, match="400 candidates, 700 under way, at most 1000"):
        admission.enter(Size(1, 400), None)
    admission.enter(Size(1, 300), None)


def test_the_prediction_follows_what_answers_took() -> None:
    admission = gate()
    for _ in range(300):
        ticket = admission.enter(Size(1, 500), LEFT_S)
        admission.leave(ticket, took_s=0.018)  # thrice what the warm runs had
    assert slowness(admission) == pytest.approx(3, rel=0.01)
    admission.enter(Size(1, 500), LEFT_S)
    assert admission.wait_s() == pytest.approx(0.018, rel=0.01)


def test_the_stores_time_is_no_wait_for_us_but_a_lagging_loop_is() -> None:
    admission = gate()
    for number in range(300):
        ticket = admission.enter(Size(1, 500), LEFT_S)
        lag_s = 0.006 if number % 2 else 0.0  # every other read is looked at late
        admission.leave(ticket, took_s=0.040 + 0.006 + lag_s, store_s=0.040 + lag_s)
    assert slowness(admission) == pytest.approx(1.5, rel=0.02)


def test_what_did_not_get_ranked_teaches_nothing() -> None:
    admission = gate()
    before = slowness(admission)
    for _ in range(50):
        admission.leave(admission.enter(Size(1, 500), LEFT_S), None)
    assert slowness(admission) == before


@pytest.mark.parametrize("before, teaches", [("parse", False), ("encode", True)])
def test_who_was_late_took_at_least_so_long_unless_he_came_late(before: str, teaches: bool) -> None:
    admission = gate()
    door = Gate(admission, Settings(), {"/rank": False}, cast(Any, None), Guard(None, {}))
    late = Call("", time.perf_counter() - 0.5, late_before=before)
    door.enter(late, [], bulk=False, whole=True)
    door.leave(late, ranked=False)
    assert (slowness(admission) > 1) == teaches and admission.candidates == 0


def test_small_requests_teach_that_calls_cost_something_and_not_that_candidates_do() -> None:
    """Else one large request under way, which takes 50 ms, would seem to keep small ones waiting for half a second."""
    admission = Admission(1_000_000, lambda: WORK._replace(fixed_s=0.0001, call_s=0.001), Clock())
    for _ in range(300):
        admission.leave(admission.enter(Size(1, 1), LEFT_S), took_s=0.002)
    admission.enter(Size(1, 5000), LEFT_S)
    assert admission.wait_s() < LEFT_S / 2
    admission.enter(Size(1, 1), LEFT_S)


def test_candidates_are_guessed_from_the_bodys_length_and_put_right() -> None:
    admission = gate()
    for _ in range(300):
        ticket = admission.enter(admission.guessed(20_000), LEFT_S)
        admission.counted(ticket, Size(1, 1000), 20_000, LEFT_S)
        assert admission.candidates == 1000
        admission.leave(ticket, 0.011)
    assert admission.guessed(10_000).candidates == pytest.approx(500, rel=0.02) and admission.guessed(0) == (1, 1)


def test_a_deadline_of_its_own_is_looked_at_once_the_body_is_read() -> None:
    admission = gate()
    admission.enter(Size(1, 500), LEFT_S)
    ticket = admission.enter(Size(1, 500), LEFT_S)
    with pytest.raises(Overloaded, match="within 10 ms"):
        admission.counted(ticket, Size(1, 500), 6000, 0.010)
    admission.leave(ticket, None)
    assert admission.candidates == 500


def test_those_who_are_let_in_do_not_refuse_each_other_once_they_are_parsed() -> None:
    clock = Clock()
    admission = gate(clock=clock)
    tickets = []
    with pytest.raises(Overloaded):
        while True:
            tickets.append(admission.enter(Size(1, 2000), LEFT_S))
    assert len(tickets) > 4
    for ticket in tickets:  # some time has passed, nobody has left
        admission.counted(ticket, Size(1, 2000), 24_000, LEFT_S)


def test_a_caller_in_a_hurry_does_not_make_it_an_overload_for_others() -> None:
    admission = gate()
    tickets = [admission.enter(Size(1, 500), LEFT_S) for _ in range(8)]
    with pytest.raises(Overloaded):
        admission.counted(tickets[-1], Size(1, 500), 6000, 0.001)
    assert let_in(admission) == int(LEFT_S / 2 // 0.006) + 1 - 8


def test_a_batch_may_wait_as_long_as_it_ends_in_time_and_single_requests_pass_it() -> None:
    clock = Clock()
    admission = gate(clock=clock)
    batch = admission.enter(Size(1, 0), 10.0, bulk=True)
    admission.counted(batch, Size(40, 30_000), 300_000, 10.0)  # seconds, behind single requests
    assert admission.wait_s() == 0 and admission.wait_s(bulk=True) > 1
    assert let_in(admission, 500, LEFT_S) > 10, "of a batch only what comes between them counts"
    clock.now += CALM_S * 1.01
    with pytest.raises(Overloaded, match="to wait"):
        admission.enter(Size(1, 0), 1.0, bulk=True)
    admission.enter(Size(1, 0), 10.0, bulk=True)


def test_while_single_requests_are_refused_batches_come_one_at_a_time_and_not_often() -> None:
    clock = Clock()
    admission = gate(clock=clock)
    let_in(admission)
    batch = admission.enter(Size(10, 500), 10.0, bulk=True)
    clock.now += BULK_EVERY_S * 1.01
    with pytest.raises(Overloaded, match="one batch at a time") as refused:
        admission.enter(Size(10, 500), 10.0, bulk=True)
    assert refused.value.retry_after_s >= 1
    let_in(admission)
    admission.leave(batch, 0.1)
    again = admission.enter(Size(10, 500), 10.0, bulk=True)
    admission.leave(again, 0.1)
    with pytest.raises(Overloaded, match="one batch at a time"):
        admission.check(Size(10, 500), 10.0, bulk=True)
    clock.now += CALM_S * 1.01  # nobody was refused meanwhile
    admission.enter(Size(10, 500), 10.0, bulk=True)
    admission.enter(Size(10, 500), 10.0, bulk=True)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5000), st.booleans()), max_size=60))
def test_whatever_comes_and_goes_nothing_is_left_under_way(steps: list[tuple[int, int, bool]]) -> None:
    admission = gate(most=20_000)
    tickets: list[Ticket] = []
    for what, candidates, bulk in steps:
        try:
            if what <= 1 or not tickets:
                tickets.append(admission.enter(Size(1, candidates), LEFT_S, bulk))
            elif what == 2:
                admission.counted(tickets[candidates % len(tickets)], Size(1, candidates), 12 * candidates, LEFT_S)
            else:
                admission.leave(tickets.pop(), 0.01)
        except Overloaded:
            pass
        assert admission.candidates == sum(ticket.candidates for ticket in tickets)
    for ticket in tickets:
        admission.leave(ticket, None)
    assert admission.candidates == 0 and admission.wait_s() == admission.wait_s(bulk=True) == 0


# ---- deadlines and lanes


def call(left_s: float | None = None, gone: bool = False) -> Call:
    now = time.perf_counter()
    return Call("", now - 1, None if left_s is None else now + left_s, gone=lambda: gone)


def test_a_call_that_is_late_or_whose_caller_has_gone_goes_no_further() -> None:
    call(left_s=60).check("score")
    with pytest.raises(DeadlineExceeded, match=r"400 ms are over by \d+ ms, before score"):
        late = call()
        late.deadline = late.begun + 0.4
        late.check("score")
    with pytest.raises(ClientGone):
        call(left_s=60, gone=True).check("score")


def inputs(rows: int) -> Any:
    return {"item": np.zeros((1, rows, 1), np.int64)}


def test_what_is_late_or_asked_by_nobody_is_never_run() -> None:
    ran: list[int] = []

    def graph(inputs: Any) -> Any:
        ran.append(inputs["item"].shape[1])
        return np.zeros(inputs["item"].shape[:2], np.float32)

    async def go() -> list[Any]:
        scorer = Scorer(1)
        try:
            calls = [call(), call(left_s=-0.001), call(gone=True), call(left_s=60)]
            asked = [scorer.score(graph, inputs(100 + n), one) for n, one in enumerate(calls)]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            scorer.close()

    first, late, gone, last = asyncio.run(go())
    assert ran == [100, 103] and len(first) == 100 and len(last) == 103
    assert isinstance(late, DeadlineExceeded) and isinstance(gone, ClientGone)


def test_single_requests_come_before_batches_which_get_their_turn_all_the_same() -> None:
    async def go() -> list[str]:
        lanes = Lanes()
        lanes.add([Run(lambda _: _, inputs(200), call()) for _ in range(3)], bulk=True)
        lanes.add([Run(lambda _: _, inputs(100), call()) for _ in range(2 * BULK_TURN)], bulk=False)
        order = []
        while len(lanes):
            [run] = lanes.next()
            order.append("batch" if run.rows == 200 else "single")
        return order

    singles = ["single"] * BULK_TURN
    assert asyncio.run(go()) == [*singles, "batch", *singles, "batch", "batch"]
