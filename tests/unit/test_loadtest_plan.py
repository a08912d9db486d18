"""What a load test sends and when: shapes of arrivals, a log's timestamps, users and sizes, as budgets ask for them."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.errors import NoRun
from loadtest.generator import budgets, mix, plan
from loadtest.generator.arrivals import arrivals
from loadtest.generator.budgets import Budget
from loadtest.generator.processes import how_many
from loadtest.generator.replay import pace, read_times

DEFAULTS: dict[str, Any] = {
    "rate": 100,
    "duration_s": 100,
    "candidates": 4,
    "p50_ms": 10,
    "p99_ms": 20,
    "errors": 0,
    "warmup_s": 0,
}


def budget_of(**values: Any) -> Budget:
    return Budget("steady", **(DEFAULTS | values))


def rng() -> np.random.Generator:
    return plan.generator(1, "steady")


def budgets_file(folder: Path, more: str, leave_out: str = "") -> Path:
    """The defaults as a file, `more` after or instead of them."""
    path = folder / "budgets.toml"
    given = {key: value for key, value in DEFAULTS.items() if f"{key} =" not in more and key != leave_out}
    path.write_text("[steady]\n" + "\n".join(f"{key} = {value}" for key, value in given.items()) + f"\n{more}\n")
    return path


# When


@pytest.mark.parametrize(
    "shape",
    [
        {"arrivals": "poisson"},
        {"arrivals": "constant"},
        {"arrivals": "step"},
        {"arrivals": "burst"},
        {"arrivals": "burst", "period_s": 30, "burst_s": 12},  # the last period is cut off in its burst
    ],
)
def test_the_mean_rate_of_the_measured_time_is_the_one_asked_for_in_every_shape(shape):
    due_s = arrivals(budget_of(warmup_s=10, **shape), rng())

    measured = due_s[due_s >= 10]
    assert (np.diff(due_s) >= 0).all() and 0 <= due_s[0] and due_s[-1] <= 110
    assert len(measured) == pytest.approx(10_000, abs=5 * math.sqrt(10_000))
    assert len(due_s) > len(measured)


def test_constant_arrivals_are_evenly_apart():
    due_s = arrivals(budget_of(arrivals="constant", rate=50), rng())

    np.testing.assert_allclose(np.diff(due_s), 0.02)
    assert len(due_s) == 5000


def test_a_step_goes_up_by_its_peak_at_half_time():
    due_s = arrivals(budget_of(arrivals="step", peak=3), rng())

    assert np.sum(due_s >= 50) / np.sum(due_s < 50) == pytest.approx(3, rel=0.1)


def test_bursts_come_every_period_and_are_peak_times_as_dense():
    due_s = arrivals(budget_of(arrivals="burst", peak=8, burst_s=2, period_s=10), rng())

    bursting = due_s % 10 < 2
    assert (np.sum(bursting) / 20) / (np.sum(~bursting) / 80) == pytest.approx(8, rel=0.1)


def test_a_replayed_log_keeps_its_gaps_and_goes_round_again(tmp_path):
    log = tmp_path / "times.txt"
    log.write_text("1000\n1001\n1001.5\n1004\n")  # 3 gaps in 4 seconds

    due_s = arrivals(budget_of(arrivals="replay", replay=str(log), rate=0.75, duration_s=10), rng())
    twice_as_fast = arrivals(budget_of(arrivals="replay", replay=str(log), rate=1.5, duration_s=5), rng())

    once = [0, 1, 1.5, 4]
    np.testing.assert_allclose(due_s, [*once, *(16 / 3 + np.array(once))])
    np.testing.assert_allclose(twice_as_fast, due_s / 2)


def test_the_rate_of_a_replayed_log_may_be_left_out_and_is_the_logs_own(tmp_path):
    (tmp_path / "times.txt").write_text("\n".join(str(at / 8) for at in range(81)))
    path = budgets_file(tmp_path, 'arrivals = "replay"\nreplay = "times.txt"', leave_out="rate")

    (budget,) = budgets.load(path)

    assert budget.rate == 8
    assert len(arrivals(budget, rng())) == pytest.approx(800, abs=1)


def test_times_are_seconds_milliseconds_or_iso_in_any_order(tmp_path):
    log = tmp_path / "times.txt"
    log.write_text(
        "2026-11-21T17:00:02.500Z\n1795280400000\n\n2026-11-21T17:00:01\n2026-11-21T18:00:03+01:00\n1795280404.25\n"
    )

    times = read_times(log)

    np.testing.assert_allclose(times, [0, 1, 2.5, 3, 4.25], atol=1e-6)
    assert pace(times) == pytest.approx(4 / 4.25)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1\nyesterday\n", "times.txt:2: 'yesterday'; seconds, milliseconds since 1970 and ISO 8601"),
        ("1\ninf\n", "times.txt:2"),
        ("", "0 times"),
        ("5\n5\n", "2 times"),
    ],
)
def test_a_log_without_usable_times_is_refused(tmp_path, text, named):
    (tmp_path / "times.txt").write_text(text)

    with pytest.raises(NoRun, match=named):
        budgets.load(budgets_file(tmp_path, 'arrivals = "replay"\nreplay = "times.txt"'))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ('arrivals = "waves"', "arrivals = 'waves'; allowed: poisson, constant, step, burst, replay"),
        ('arrivals = "replay"', "go together"),
        ('replay = "times.txt"', "go together"),
        ('arrivals = "replay"\nreplay = "none.txt"', "none.txt: No such file"),
        ("peak = 0.5", "peak = 0.5"),
        ("burst_s = 20", "burst_s = 20; at most period_s = 10"),
        ("period_s = 0", "period_s = 0"),
        ("zipf = -1", "zipf = -1"),
        ("cold = 2", "cold = 2; allowed: a share"),
        ("processes = 65", "processes = 65"),
        ("smoke = 1", "smoke = 1; allowed: true or false"),
        ("refused = 5", "refused = 5; allowed: a share"),
        ("candidates = {}", "candidates = {}"),
        ("candidates = { 0 = 1 }", "candidates"),
        ("candidates = { 100 = 0 }", "candidates"),
        ('candidates = { 100 = "x" }', "candidates"),
        ("history = { many = 1 }", "history"),
        ("history = 5", "history = 5; allowed: a mix"),
    ],
)
def test_a_mistake_in_what_may_be_set_is_refused_with_what_is_allowed(tmp_path, more, named):
    with pytest.raises(NoRun) as refused:
        budgets.load(budgets_file(tmp_path, more))

    assert named in str(refused.value) and "\n" not in str(refused.value)


# Who, and how much


def asked(budget: Budget, count: int, lengths: dict[str | int, int] | None = None, users: int = 50) -> list[Any]:
    samples = plan.Samples([f"u{i}" for i in range(users)], list(range(1000)))
    return [json.loads(body.content) for body in plan.draw_bodies(samples, budget, count, rng(), lengths)]


def test_users_come_by_zipf():
    counts = Counter(one["user_id"] for one in asked(budget_of(zipf=1), 20_000))

    shares = [counts[f"u{k}"] / 20_000 for k in range(3)]
    harmonic = sum(1 / k for k in range(1, 51))
    assert shares == pytest.approx([1 / harmonic, 1 / 2 / harmonic, 1 / 3 / harmonic], rel=0.08)


def test_cold_users_are_nobody_and_no_two_are_alike():
    users = [one["user_id"] for one in asked(budget_of(cold=0.25), 4000)]

    cold = [user for user in users if user.startswith("nobody-")]
    assert len(cold) == pytest.approx(1000, abs=150)
    assert len(set(cold)) == len(cold)


def test_cold_users_have_numbers_where_users_have():
    drawn = mix.users([1, 2, 3], None, budget_of(cold=1), 100, rng())

    assert all(isinstance(user, int) and user > 3 for user in drawn)


def test_candidates_are_mixed_by_weight(tmp_path):
    (budget,) = budgets.load(budgets_file(tmp_path, "candidates = { 20 = 1, 5 = 3 }"))

    sizes = Counter(len(one["candidates"]) for one in asked(budget, 4000))

    assert sizes.keys() == {5, 20}
    assert sizes[5] == pytest.approx(3000, abs=150)


def test_history_lengths_are_mixed_by_choosing_users(tmp_path):
    (budget,) = budgets.load(budgets_file(tmp_path, "history = { 0 = 1, 10 = 2, 40 = 1 }"))
    lengths: dict[str | int, int] = {f"u{i}": i for i in range(50)}

    seen = [lengths[one["user_id"]] for one in asked(budget, 4000, lengths)]

    assert np.histogram(seen, [0, 10, 40, 50])[0].tolist() == pytest.approx([1000, 2000, 1000], abs=160)


def test_a_length_that_nobody_has_is_refused_with_those_there_are():
    lengths: dict[str | int, int] = {f"u{i}": 5 for i in range(50)}

    with pytest.raises(NoRun, match="history of 10 or more and below 20, only 5 to 5"):
        asked(budget_of(history=((0, 1.0), (10, 1.0), (20, 1.0))), 10, lengths)


def test_few_bodies_are_drawn_of_very_many_candidates_and_at_least_one():
    assert len(asked(budget_of(candidates=900), 5)) == 5
    assert len(plan.draw_bodies(plan.made_up(), budget_of(candidates=100_000), 200, rng())) == 100


def test_generators_are_as_many_as_the_rate_needs_unless_the_budget_says():
    assert how_many(budget_of(rate=20)) == 1
    assert how_many(budget_of(rate=20, processes=3)) == 3
    assert 1 <= how_many(budget_of(rate=50_000))
