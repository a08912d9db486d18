"""What the load test says of a run: which quantiles judge, what the headline claims, what a comparison colours."""

import asyncio
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from loadtest.__main__ import EXIT_CODES
from loadtest.generator.answers import Kind, Log
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Answer
from loadtest.generator.plan import Body
from loadtest.quantiles import carried, enough_s, needed
from loadtest.verdict import compare, page, scatter, series
from loadtest.verdict.report import Outcome, judge
from loadtest.verdict.scenarios import Results, _search
from loadtest.verdict.search import search, search_headline
from loadtest.verdict.words import headline, show, summary

BODY = Body(b'{"candidates":["a"]}', 1)
RIGHT = b'{"items":[{"item_id":"a","score":0.5}]}'
ANSWERS = {
    Kind.RIGHT: Answer(0, 200, RIGHT),
    Kind.DEGRADED: Answer(0, 200, RIGHT[:-1] + b',"degraded":["history:open"]}'),
    Kind.REFUSED: Answer(0, 429, b"", retry_after=b"1"),
    Kind.LATE: Answer(0, 504, b""),
    Kind.WRONG: Answer(0, 200, b"{}"),
    Kind.FAILED: Answer(0, 500, b""),
}


def budget_of(**values: Any) -> Budget:
    return Budget(**({"scenario": "one", "rate": 100, "duration_s": 1, "candidates": 1} | LIMITS | values))


LIMITS: dict[str, Any] = {"p50_ms": 10, "p99_ms": 20, "errors": 0, "warmup_s": 0}


def logged(taken_ms: Any, kinds: dict[int, Kind] | None = None, late_ms: float = 0) -> Log:
    """A log of a request each 10 ms that took so long; right answers, but for those numbered in `kinds`."""
    log = Log(np.arange(len(taken_ms)) / 100, [BODY])
    for request, ms in enumerate(taken_ms):
        log.sent(request, request / 100 + late_ms / 1000)
        if (kind := (kinds or {}).get(request, Kind.RIGHT)) is not Kind.UNANSWERED:
            log.answered(request, request / 100 + ms / 1000, ANSWERS[kind])
    log.close(len(taken_ms) / 100 + 5)
    return log


def judged(taken_ms: Any, kinds: dict[int, Kind] | None = None, late_ms: float = 0, **limits: Any) -> Outcome:
    return judge(budget_of(**limits), logged(taken_ms, kinds, late_ms))


# What judges


def test_ten_requests_beyond_it_carry_a_quantile() -> None:
    assert [needed(share) for share in (0.5, 0.9, 0.99, 0.999)] == [20, 100, 1000, 10_000]
    assert [carried(count, 0.99) for count in (999, 1000)] == [False, True] == [carried(n, 0.5) for n in (19, 20)]
    assert np.mean(np.random.default_rng(1).poisson(20 * enough_s(20, 0.99), 1000) >= 1000) > 0.99


def test_a_quantile_that_too_few_requests_carry_judges_nothing_and_is_marked() -> None:
    times = [5.0] * 995 + [500.0] * 4
    few, enough = judged(times), judged([*times, 5.0])
    assert (enough.verdict, enough.p99_ms, enough.unjudged) == ("passed", 5, [])
    assert (few.verdict, few.passed, few.missed, few.judged["p99_ms"]) == ("too few", False, [], "too few")
    assert few.unjudged == ["p99: 999 timed requests, it takes 1000; duration_s = 12 sends enough"]
    assert {"p99_ms", "service_p99_ms", "all_p99_ms", "p999_ms"} == {*few.too_few_for}
    assert "~5.00 (20)" in show([few]) and "~" not in show([enough])
    assert EXIT_CODES[headline([few]).verdict] == 2
    slow = judged([5.0] * 950 + [500.0] * 30)
    assert slow.p99_ms == 500 and slow.judged["p99_ms"] == "missed"


def test_a_budget_is_missed_where_even_the_highest_quantile_that_is_carried_lies_above_it() -> None:
    slow = judged([5.0] * 80 + [50.0] * 20)
    assert (slow.verdict, slow.unjudged) == ("missed", [])
    assert slow.missed == ["p99: p90, all that 100 requests carry, 50.00 ms, at most 20"]


def test_a_smoke_test_passes_without_its_p99_and_says_so() -> None:
    smoke = judged([5.0] * 100, smoke=True)
    assert (smoke.verdict, smoke.judged["p99_ms"]) == ("passed", "too few")
    assert headline([smoke]).text == (
        "Within budget: one: p99: 100 timed requests, it takes 1000; duration_s = 12 sends enough (smoke = true)"
    )
    assert judged([15.0] * 100, smoke=True).verdict == "missed"


def test_quick_refusals_and_failures_are_counted_and_flatter_no_quantile() -> None:
    kinds = dict.fromkeys(range(0, 600), Kind.REFUSED) | {601: Kind.LATE, 602: Kind.FAILED, 603: Kind.WRONG}
    outcome = judged([0.1] * 604 + [8.0] * 1000, kinds | {604: Kind.DEGRADED, 605: Kind.UNANSWERED})
    assert (outcome.refused, outcome.late, outcome.degraded, outcome.errors) == (600, 1, 1, 3)
    assert (outcome.p50_ms, outcome.all_p50_ms) == (8, 8) and outcome.max_ms > 5000
    assert judged([0.1] * 1000 + [8.0] * 900, dict.fromkeys(range(1000), Kind.REFUSED)).all_p50_ms == 0.1
    assert sum(outcome.outcomes.values()) == outcome.requests == 1604
    assert outcome.missed == ["37.66% errors, at most 0.00% (3 wrong or failed, 1 late, 600 refused)"]


def test_a_budget_of_refusals_takes_them_out_of_the_errors() -> None:
    def missed(**limits: float) -> list[str]:
        return judged([5.0] * 1100, dict.fromkeys(range(11), Kind.REFUSED), **limits).missed

    assert missed(errors=0.01) == [] == missed(refused=0.01) and missed(errors=0.009)
    assert missed(refused=0.009, errors=1) == ["1.00% refused, at most 0.90%"]


def test_where_everything_was_refused_there_are_no_quantiles_and_a_page_all_the_same() -> None:
    log = logged([1.0] * 50, dict.fromkeys(range(50), Kind.REFUSED))
    outcome = judge(budget_of(refused=1), log)
    assert (outcome.p50_ms, outcome.p99_ms, outcome.goodput, outcome.verdict) == (None, None, 0, "too few")
    line = summary([outcome], headline([outcome])) | {"courses": {"one": series.course(budget_of(), log)}}
    assert "–" in show([outcome]) and "refused (429)" in page.html(line | {"seed": 0, "environment": {}}, None)
    json.dumps(line, allow_nan=False)
    assert series.hgrm(np.array([]))


# The headline


def test_the_headline_tells_budgets_kept_from_missed_from_no_verdict() -> None:
    kept, missed = (judged([ms] * 1000, scenario=name) for name, ms in (("kept", 5.0), ("missed", 15.0)))
    late, few = judged([5.0] * 1000, late_ms=4, scenario="late"), judged([5.0] * 10, scenario="few")
    told = {
        "Within budget: kept": [kept],
        "Within budget: all 2 scenarios": [kept, kept],
        "Budget missed: missed: p50 15.00 ms, at most 10": [missed],
        "Budget missed: 1 of 2 scenarios; within budget: 1 of 2 scenarios: missed: p50 15.00 ms, at most 10": [
            kept,
            missed,
        ],
    }
    assert {headline(outcomes).text: outcomes for outcomes in told.values()} == told
    no_verdict = headline([kept, missed, late, few])
    assert no_verdict.short == (
        "No verdict: 2 of 4 scenarios; budget missed: 1 of 4 scenarios; within budget: 1 of 4 scenarios"
    )
    assert no_verdict.reasons[0] == "late: 100.0% of the sends left more than 1 ms late, at most 1% may"
    verdicts = [headline(some).verdict for some in ([kept], [kept, missed], [late], [few, missed])]
    assert [EXIT_CODES[verdict] for verdict in verdicts] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("taken_ms", "late_ms", "colour", "words"),
    [
        (5.0, 0, 'class="good"', "Within budget: one"),
        (15.0, 0, 'class="bad"', "Budget missed"),
        (5.0, 4, 'style="color: var(--warn)', "No verdict"),
    ],
)
def test_the_page_colours_a_run_that_was_no_good_neither_green_nor_red(
    taken_ms: float, late_ms: float, colour: str, words: str
) -> None:
    log = logged([taken_ms] * 1000, late_ms=late_ms)
    line = summary([one := judge(budget_of(), log)], headline([one]))
    line |= {"courses": {"one": series.course(budget_of(), log)}, "seed": 0, "environment": {}}
    head = page.html(line, None).partition("<h1>")[2].partition("</h1>")[0]
    assert colour in head and words in head
    assert (">pass<" in page.html(line, None)) is (late_ms == 0)


def test_the_axis_follows_the_curve_and_a_budget_far_above_it_is_told() -> None:
    log = logged([5.0] * 999 + [8.0])
    of = budget_of(p50_ms=2000, p99_ms=10_000, duration_s=10)
    line = summary([one := judge(of, log)], headline([one])) | {"courses": {"one": series.course(of, log)}}
    html = page.html(line | {"seed": 0, "environment": {}}, None)
    assert html.count("p99 budget, 10000 ms: above this axis") == 2 and ">2000<" not in html


# Beside an earlier run


def reported(outcome: Outcome, **more: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(json.dumps(summary([outcome], headline([outcome]))))
    report["scenarios"][0] |= more
    return report


def test_only_what_lies_outside_both_runs_scatter_is_coloured() -> None:
    draw = np.random.default_rng(0)
    runs = [judged(draw.lognormal(math.log(median), 0.5, 2000)) for median in (5, 5, 7)]
    same, slower = (
        {one.name: one.better for one in compare.changes(reported(runs[0]), reported(now))["one"]} for now in runs[1:]
    )
    assert set(same.values()) == {None}
    assert (slower["p50_ms"], slower["p99_ms"], slower["goodput"]) == (False, False, False)
    assert slower["p999_ms"] is None, "too few requests carry it"
    assert slower["errors %"] is slower["throughput"] is None


def test_without_a_scatter_or_with_another_load_nothing_is_coloured() -> None:
    before, now = (judged([ms] * 1000) for ms in (5.0, 7.0))
    (change, *_) = compare.changes(reported(before), reported(now))["one"]
    assert (change.name, change.better) == ("p50_ms", False)
    for old, said in (
        (reported(before, scatter=None), compare.NO_SCATTER),
        (reported(before, planned_rate=7), "other"),
    ):
        changes = compare.changes(old, reported(now))
        assert {one.better for one in changes["one"]} == {None} and said in compare.show(changes, old, reported(now))


def test_refused_and_late_answers_of_a_report_of_before_are_no_errors() -> None:
    old = {"scenario": "one", "requests": 100, "errors": 30, "faults": {"status 429": 20, "status 504": 9}}
    now = reported(judged([5.0] * 100))
    changes = {one.name: one.before.value for one in compare.changes({"scenarios": [old]}, now)["one"]}
    assert changes == {"errors %": 1, "refused %": 20, "late %": 9}


def test_a_scatter_holds_what_a_second_run_measures_and_no_error_promises_little() -> None:
    draw = np.random.default_rng(1)
    inside = []
    for _ in range(40):
        first = scatter.of_quantiles(draw.lognormal(0, 0.5, 1000), {"p50": 0.5})["p50"]
        inside.append(first[0] <= 1000 <= first[1])  # the true median: 1 s
    assert np.mean(inside) >= 0.8
    low, high = scatter.of_share(np.zeros(1000, bool))
    assert low == 0 and 0.003 < high < 0.005
    drifting = np.repeat([1.0, 2.0], 500) * draw.lognormal(0, 0.01, 1000)
    one, by_chance = (
        scatter.of_quantiles(times, {"p50": 0.5})["p50"] for times in (drifting, draw.permutation(drifting))
    )
    assert one[1] - one[0] >= by_chance[1] - by_chance[0], "neighbours that are alike leave more open"


# Search


def searched(
    holds: Any, missed: tuple[str, ...] = ("p99 99.00 ms, at most 20",), unjudged: tuple[str, ...] = ()
) -> Any:
    """A search among windows of which `holds(rate, number of window)` says whether they are within budget."""
    fine = judged([5.0] * 1000)
    seen: list[float] = []

    async def measure(rate: float) -> Outcome:
        seen.append(rate)
        held = holds(rate, len(seen))
        if held:
            return replace(fine, planned_rate=rate)
        return replace(fine, planned_rate=rate, passed=False, missed=[*missed], unjudged=[*unjudged])

    return asyncio.run(search(measure, 100, most=1e6, curve=False))


def test_a_search_says_what_was_confirmed_and_what_was_not() -> None:
    words = searched(lambda rate, _: rate <= 200).words()
    assert words == [
        "confirmed to keep p50 10 ms, p99 20 ms, errors 0 %: 190.0/s, 3 of 3 windows",
        "held, not tried anew: 200.0/s, 3 of 3 windows",
        "not held: 206.2/s, 0 of 2 windows (p99 99.00 ms, at most 20)",
    ]


def test_a_rate_that_did_not_hold_anew_is_not_the_one_found() -> None:
    tired = searched(lambda rate, number: rate <= (200 if number < 19 else 185))
    assert tired.rate == tired.confirmed_rate == pytest.approx(200 * 0.95**2)
    assert "tried anew, not confirmed: 190.0/s, 0 of 2 windows (p99 99.00 ms, at most 20)" in tired.words()
    assert tired.summary()["refuted_rates"] == [190]


def test_a_window_lasts_until_its_p99_is_carried_however_many_are_refused() -> None:
    lasted: list[tuple[float, float]] = []

    class HalfRefused:
        """A target that answers every other request in 5 ms, below 250 requests/s, and else in 50."""

        def bodies(self, *_: Any) -> list[Body]:
            return [BODY]

        async def run(self, budget: Budget, *_: Any) -> Log:
            lasted.append((budget.rate, budget.duration_s))
            count = round(budget.rate * budget.duration_s)
            kinds = dict.fromkeys(range(0, count, 2), Kind.REFUSED)
            return logged([5.0 if budget.rate < 250 else 50.0] * count, kinds)

        async def settle(self, *_: Any) -> None: ...

    results = Results({})
    budget = budget_of(rate=200, duration_s=8, refused=1)
    asyncio.run(_search(HalfRefused(), budget, np.random.default_rng(0), results))
    assert {outcome.verdict for outcome in results.outcomes} == {"passed"}
    assert 240 < results.capacities["one"].rate < 250 and results.capacities["one"].limited_by == "service"
    assert {seconds for rate, seconds in lasted if rate > 250} == {8}, "what is missed needs no longer window"
    assert max(seconds for rate, seconds in lasted if rate < 250) > 10


def test_a_search_that_found_nothing_says_whether_it_was_the_service() -> None:
    nothing = searched(lambda rate, _: False)
    assert nothing.words()[0].startswith("no rate down to 1.56/s is confirmed to keep p50 10 ms")
    assert search_headline({"one": nothing}) == ("No rate holds the budget: one", [], "missed")
    few = searched(lambda rate, _: False, missed=(), unjudged=("p99: 9 timed requests",))
    assert search_headline({"one": few}).text == (
        "No rate could be judged: one: one: windows hold too few requests for a p99: a longer --window may find more"
    )
