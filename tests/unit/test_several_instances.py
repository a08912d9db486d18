"""loadtest.instances would notice: answers that are lost, crossed or failed, and recorded quantiles that are off."""

from typing import Any

import numpy as np
import orjson
import pytest

from loadtest.generator.answers import Kind, Log, check
from loadtest.generator.client import Answer
from loadtest.generator.plan import Body
from loadtest.rolling.findings import COUNTS, SHARES, Findings, Steady, counted
from loadtest.rolling.known import MOST_CLICKS, draw, made_up_users, told_apart
from model.features.timeposition import EDGES_S, time_positions

SCORES = {"a": 0.9, "b": 0.5}
BODY = Body(orjson.dumps({"user_id": "u", "candidates": ["a", "b"]}), 2, SCORES)
NOW_MS, RUN_MS = 1_700_000_000_000, 900_000


def answer(scores: dict[str, float], degraded: list[str] | None = None, status: int = 200) -> Answer:
    items = [{"item_id": item, "score": score} for item, score in scores.items()]
    content = orjson.dumps({"items": items, "degraded": degraded or []})
    return Answer(0.02, status, content, server_timing=b"total;dur=5.0")


def test_another_users_scores_are_no_right_answer_and_a_degraded_one_has_its_own() -> None:
    others = {"a": 0.9, "b": 0.4999}
    assert check(answer({"a": 0.900004, "b": 0.5}), BODY).kind is Kind.RIGHT
    assert check(answer(others), BODY)[:2] == (Kind.WRONG, "not the scores of this request")
    assert check(answer(others, ["history:timeout"]), BODY).kind is Kind.DEGRADED
    assert check(answer(others), BODY._replace(scores=None)).kind is Kind.RIGHT, "nothing is known of it"


def closed(*answers: Answer | None) -> Log:
    """Requests that were due a tenth of a second apart, sent at once and answered after 20 ms, or never."""
    log = Log(np.arange(len(answers)) / 10, [BODY])
    for request, one in enumerate(answers):
        log.sent(request, request / 10)
        if one is not None:
            log.answered(request, request / 10 + 0.02, one)
    log.close(60.0)
    return log


def act(*answers: Answer | None) -> dict[str, Any]:
    return counted([closed(*answers), closed(answer(SCORES))])


def test_what_is_lost_crossed_or_failed_is_counted_apart_and_told() -> None:
    right, without = answer(SCORES), answer({"a": 0.3, "b": 0.2}, ["history:error"])
    other_items, other_scores = answer({"a": 0.9, "c": 0.5}), answer({"a": 0.8, "b": 0.5})
    bad = act(right, without, other_items, other_scores, None, answer({}, status=503), answer({}, status=429))
    assert [bad[name] for name in COUNTS] == [8, 3, 1, 1, 2, 2]
    assert bad["degradations"] == {"history:error": 1} and bad["faults"]["status 503"] == 1
    assert bad["runs"] == 2 and bad["p99_ms"] == pytest.approx(20)
    findings = Findings({"steady": act(right), "renewal": bad}, steady([1.0, 1.0, 1.0]), {"renewed_s": 3.0})
    [told] = findings.unmet()
    assert told.startswith("renewal: 1 lost, 2 crossed, 2 failed of 8: ")
    assert findings.figures()["crossed"] == 2 and "3.0 s to stop and start both instances" in findings.show()


def steady(over: list[float], timed: int = 1000, seen: tuple[float, ...] = (5.0, 8.0, 20.0)) -> Steady:
    rows = dict.fromkeys(("due", "send", "network", "inside"), [*seen])
    return Steady(timed, rows | {"recorded": [ms * times for ms, times in zip(seen, over, strict=True)]}, (1, 1))


@pytest.mark.parametrize(
    ("one", "unmet", "told"),
    [
        (steady([1.0, 0.96, 1.04]), [], ""),
        (steady([1.0, 0.94, 1.06]), ["p90", "p99"], ""),
        (steady([float("nan"), 1.0, 1.0]), [], "p50 is not judged: nan ms"),
        (steady([1.0, 1.0, 2.0], timed=999), [], "what is recorded is not judged: 999 requests, it takes 1000"),
        (steady([1.0, 1.0, 1.2], seen=(5.0, 8.0, 150.0)), [], "p99 is not judged: 180 ms"),
    ],
)
def test_a_recorded_quantile_is_judged_where_requests_carry_it_and_buckets_are_fine(
    one: Steady, unmet: list[str], told: str
) -> None:
    findings = Findings({"steady": act(answer(SCORES))}, one, {})
    assert [words.partition(":")[0] for words in findings.unmet()] == unmet
    assert told in (findings.figures()["note"] or "")
    assert list(SHARES) == ["p50", "p90", "p99"]


def test_a_request_that_two_instances_count_is_told() -> None:
    twice = Findings({"steady": act(answer(SCORES))}, steady([1.0, 1.0, 1.0])._replace(asked=(1, 2)), {})
    assert twice.unmet() == ["steady: the instances counted 3 requests, 2 were sent"]


def test_what_is_recorded_stands_beside_the_totals_that_answers_tell() -> None:
    seen = Steady.of(closed(answer(SCORES), answer(SCORES), answer({}, status=503)), [5.0, 5.0, 6.0], [2, 1])
    assert seen.timed == 2 and seen.by_row["inside"] == [5.0, 5.0, 5.0]
    assert seen.by_row["network"] == pytest.approx([15.0] * 3) and seen.over == pytest.approx([1.0, 1.0, 1.2])


def test_made_up_users_have_every_length_of_history_and_positions_that_a_run_does_not_change() -> None:
    items = [f"i{number}" for number in range(50)]
    users = made_up_users(2 * MOST_CLICKS, items, NOW_MS, np.random.default_rng(1))
    assert sorted({len(user["behaviours"]) for user in users}) == list(range(1, MOST_CLICKS + 1))
    for user in users:
        clicked_ms = np.array([[click[3] for click in user["behaviours"]]])
        sooner, later = (time_positions(clicked_ms, np.array([now]), EDGES_S) for now in (NOW_MS, NOW_MS + RUN_MS))
        assert (sooner == later).all() and (np.diff(clicked_ms) >= 0).all()
    requests = draw(users, items, 10, 100, np.random.default_rng(2))
    assert {request["user_id"] for request in requests} == {user["user_id"] for user in users}
    assert all(len(set(request["candidates"])) == 10 for request in requests)


def test_users_whose_scores_are_alike_cannot_be_told_apart() -> None:
    bodies = [BODY, BODY._replace(scores={"b": 0.2, "a": 0.9}), BODY._replace(scores={"a": 0.7, "b": 0.1})]
    assert told_apart(bodies) == pytest.approx(0.2)
    assert told_apart([BODY, BODY]) == 0
