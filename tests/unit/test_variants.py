"""Experiments without a service: the file, the draw of users, request ids, limits, shadows' comparison."""

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from service.comparing import statistics
from service.shadowing.shadow import compared
from service.variants.counting import Counting, beyond, bucket_of, middle_ms
from service.variants.draw import drawn, uniform
from service.variants.experiment import Arm, Experiment
from service.variants.plan import Plan, PlanError, parsed
from service.variants.tag import key_of, read, tagged
from service.variants.told import sample_ratio, told

GOOD = """
salt = "s"
start = 2026-11-27T08:00:00Z
[[variants]]
name = "wdl"
share = 0.5
[[variants]]
name = "bst"
bundle = "bundles/bst"
share = 0.5
"""
USERS = [f"u{number}" for number in range(20_000)]


def test_a_plan_is_read_with_its_bundles_beside_the_file(tmp_path: Path) -> None:
    plan = parsed(GOOD, tmp_path / "experiments.toml")
    assert plan.base == "wdl" and plan.bundles == [("bst", tmp_path / "bundles/bst")]
    assert not plan.runs(plan.begin_ms - 1) and plan.runs(plan.begin_ms) and plan.runs(10**14)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("share = 0.5\n[[", "share = 0.4\n[["), "share: those of the variants sum to 0.9, 1 is needed"),
        (('name = "bst"', 'name = "wdl"'), "name: wdl given twice"),
        (('name = "bst"', 'name = "b s"'), "variants.1.name: "),
        (("08:00:00Z", "08:00:00"), "start: a time with its zone is needed"),
        (('salt = "s"', ""), "salt: Field required"),
        (('salt = "s"', 'salt = "s"\ncontrol = "din"'), "control: 'din' given, a variant's name is allowed"),
        (('salt = "s"', 'salt = "s"\nsalz = 1'), "salz: no such key"),
        (('salt = "s"', 'salt = "s"\nend = 2026-11-26T00:00:00Z'), "end: it lies before start"),
        (('bundle = "bundles/bst"', 'builtin = "bst"'), "variants.1.builtin: "),
        (('bundle = "bundles/bst"', 'builtin = "random"\nbundle = "b"'), "bundle and builtin given"),
        (('salt = "s"', "salt = "), "Invalid value (at line 2"),
        (("share = 0.5\n[[", "share = nan\n[["), "variants.0.share: "),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(change: tuple[str, str], told: str) -> None:
    with pytest.raises(PlanError) as refusal:
        parsed(GOOD.replace(*change, 1), Path("/etc/ranker/experiments.toml"))
    assert str(refusal.value).startswith("/etc/ranker/experiments.toml: ") and told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_users_are_drawn_by_the_shares_and_stay(tmp_path: Path) -> None:
    shares = [("a", 0.5), ("b", 0.3), ("c", 0.2), ("d", 0.0)]
    drawn_once = {user: drawn("salt", shares, user) for user in USERS}
    counts = Counter(drawn_once.values())
    for name, share in shares:
        assert abs(counts[name] - share * len(USERS)) <= 4 * (share * (1 - share) * len(USERS)) ** 0.5
    assert all(drawn("salt", list(reversed(shares)), user) == name for user, name in drawn_once.items()), "any order"
    other = [drawn("other salt", shares, user) == name for user, name in drawn_once.items()]
    assert abs(np.mean(other) - (0.5**2 + 0.3**2 + 0.2**2)) < 0.02, "another salt is another draw"


@pytest.mark.parametrize(
    ("before", "after", "must", "may"),
    [
        ([("a", 0.5), ("b", 0.5)], [("a", 0.9), ("b", 0.1)], 0.4, 0.4),
        ([("a", 0.5), ("b", 0.5)], [("a", 0.4), ("b", 0.4), ("c", 0.2)], 0.2, 0.2),
        ([("a", 0.6), ("b", 0.2), ("c", 0.2)], [("a", 0.2), ("b", 0.4), ("c", 0.4)], 0.4, 0.4),
        ([("a", 0.5), ("b", 0.3), ("c", 0.2)], [("a", 0.6), ("b", 0.2), ("c", 0.2)], 0.1, 0.2),
    ],
)
def test_a_change_of_shares_moves_no_more_users_than_it_must(
    before: list[tuple[str, float]], after: list[tuple[str, float]], must: float, may: float
) -> None:
    moved = np.mean([drawn("s", before, user) != drawn("s", after, user) for user in USERS])
    noise = 4 * (0.25 / len(USERS)) ** 0.5
    assert must - noise <= moved <= may + noise


def test_a_user_draws_evenly_and_never_0() -> None:
    draws = np.array([uniform("s", "x", user) for user in USERS])
    assert 0 < draws.min() and draws.max() <= 1 and abs(draws.mean() - 0.5) < 0.02


@given(st.text(), st.text(min_size=1), st.integers(0, 10**14))
def test_an_id_tells_its_variant_to_its_user_alone(request_id: str, user: str, now: int) -> None:
    told = tagged(request_id, "bst", now, user, "experiment")
    found = read(told, user, "experiment")
    assert found is not None and found == ("bst", now)
    assert read(told, user + "x", "experiment") is None and read(told, user, "another") is None
    assert read(told[:-1] + ("0" if told[-1] != "0" else "1"), user, "experiment") is None


def test_an_id_of_a_salted_journal_tells_a_guessed_user_to_nobody_without_the_salt() -> None:
    told = tagged("id", "bst", 1, "u", "experiment", key_of("secret"))
    assert read(told, "u", "experiment", key_of("secret")) == ("bst", 1)
    assert read(told, "u", "experiment") is None and read(told, "u", "experiment", key_of("guess")) is None


@pytest.mark.parametrize("variant", ["a b", "a;b 1 1", "", "x" * 33])
def test_a_forged_id_that_names_what_can_be_no_variant_is_none(variant: str) -> None:
    assert read(tagged("id", variant, 1, "u", "experiment"), "u", "experiment") is None


@given(st.text())
def test_any_other_id_is_none(request_id: str) -> None:
    assert read(request_id, "u", "experiment") is None


@pytest.mark.parametrize(
    ("catch", "outcomes", "told"),
    [
        ({"errors": 0.02}, ["failed", "late", "late"], "3.0% of 100 requests failed or were late, errors = 0.02"),
        ({"errors": 0.03}, ["failed", "late", "late"], None),
        ({"degraded": 0.01}, ["degraded"] * 2, "2.0% of 100 requests were degraded"),
        ({"p99_ms": 9.9}, [], "p99 of 100 requests is beyond p99_ms = 9.9: 100 of them took longer"),
        ({"p99_ms": 10.0}, [], None),
        ({"p99_ms": 9.9, "requests": 101}, [], None),
        ({}, ["failed"] * 100, None),
    ],
)
def test_limits_of_the_last_minute(catch: dict[str, Any], outcomes: list[str], told: str | None) -> None:
    plan = parsed(GOOD, Path("x"))
    plan = Plan.model_validate(plan.model_dump() | {"catch": {"requests": 100} | catch})
    counting = Counting(plan, cast(Any, None))
    for outcome in (outcomes + ["ok"] * 100)[:100]:
        counting.answered("bst", outcome, 0.01)
    found = beyond(counting._minutes.get("bst", ()), plan)
    assert found is None if told is None else told in str(found)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=400))
def test_the_limit_of_p99_is_the_one_of_all_times_in_order(times_ms: list[int]) -> None:
    plan = parsed(GOOD, Path("x"))
    plan = Plan.model_validate(plan.model_dump() | {"catch": {"requests": 1, "p99_ms": 4.5}})
    counting = Counting(plan, cast(Any, None))
    for time_ms in times_ms:
        counting.answered("bst", "ok", time_ms / 1000)
    p99 = sorted(times_ms)[math.ceil(0.99 * len(times_ms)) - 1]
    assert (beyond(counting._minutes["bst"], plan) is not None) == (p99 > 4.5)


@given(st.floats(1e-5, 1e3))
def test_a_bucket_is_off_by_a_fortieth_at_most(seconds: float) -> None:
    assert abs(middle_ms(bucket_of(seconds)) / 1000 / seconds - 1) <= 0.0251


def test_a_sample_ratio_is_told_whole() -> None:
    rng = np.random.default_rng(1)
    fair = [sample_ratio(rng.multinomial(10_000, [0.5, 0.3, 0.2]).tolist(), [0.5, 0.3, 0.2]) for _ in range(200)]
    assert np.mean([p is not None and p < 0.01 for p in fair]) <= 0.01
    assert sample_ratio([5300, 4700], [0.5, 0.5]) < 0.01  # type: ignore[operator]
    assert sample_ratio([0, 0], [0.5, 0.5]) is None and sample_ratio([5, 5], [1.0, 0.0]) is None
    assert sample_ratio([10**9, 10**8], [0.5, 0.5]) == 0.0


@pytest.mark.parametrize(
    ("users", "mixed", "shares", "decided"),
    [
        ((1000, 1000), 0, [], "more"),
        ((1000, 1000), 0, ["bst 0.5, wdl 0.5"], "more"),
        ((1000, 1000), 90, [], "more"),
        ((1000, 1000), 110, [], None),
        ((1000, 1300), 0, [], None),
        ((1000, 1000), 0, ["bst 0.1, wdl 0.9", "bst 0.5, wdl 0.5"], None),
        ((1000, 1000), 0, ["bst 0.1, wdl 0.9"], None),
    ],
)
def test_nothing_is_decided_where_users_came_by_other_shares_or_saw_both(
    users: tuple[int, int], mixed: int, shares: list[str], decided: str | None
) -> None:
    plan = parsed(GOOD, Path("/etc/ranker/experiments.toml"))
    live = cast(Any, SimpleNamespace(current=SimpleNamespace(name="m", version="1")))
    counting = Counting(plan, cast(Any, None))
    counting.since = {f"shares {drawn_by}": plan.begin_ms - 2000 + at for at, drawn_by in enumerate(shares)}
    experiment = Experiment(plan, {v.name: Arm(v, live, None) for v in plan.variants}, counting)
    totals = Counter({"mixed": mixed})
    for name, count, clicks in zip(("wdl", "bst"), users, (1, 2), strict=True):  # of 10 items, in one user of two
        sums = (count, 10 * count, clicks * count / 2, 100 * count, 5 * clicks * count, clicks**2 * count / 2)
        parts = ("users", "x", "y", "xx", "xy", "yy")
        totals |= Counter({f"{name}:{part}": int(total) for part, total in zip(parts, sums, strict=True)})
    answer = told(experiment, totals, plan.begin_ms)
    bst = answer.variants[1]
    assert bst.gain is not None and bst.gain.low is not None and bst.gain.low > 0, "whatever it may be worth"
    assert bst.decided == decided
    changed = answer.sample_ratio.shares_changed
    assert ("bst 0.1, wdl 0.9 since 2026-11-27 07:59:58, bst 0.5, wdl 0.5 since" in str(changed)) == (
        "0.1" in str(shares)
    )


def test_who_looks_after_each_user_and_takes_the_least_p_has_the_reports() -> None:
    rng, shares = np.random.default_rng(2), [0.5, 0.3, 0.2]
    alarms = 0
    for _ in range(100):
        arm = rng.choice(3, 300, p=shares)
        users = np.cumsum(arm[:, None] == np.arange(3), axis=0).tolist()
        least = min(p for p in (sample_ratio(look, shares) for look in users) if p is not None)
        assert least == pytest.approx(statistics.sample_ratio(arm, np.array(shares)))
        alarms += least < 0.1
    assert alarms <= 10


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    live, shadow = np.array(pairs, np.float64).T
    found = compared(live, shadow.astype(np.float32))
    if len(set(live)) == 1 or len(set(shadow)) == 1:
        assert found.correlation is None
    else:
        assert found.correlation == pytest.approx(spearmanr(live, shadow).statistic)
    assert found.shift == pytest.approx(shadow.mean() - live.mean())
