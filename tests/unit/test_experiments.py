"""The report of an experiment: counts are the log's own, doubts are told, and the page needs nothing beside itself."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model.bundle.layout import REPORT
from model.bundle.reading import Bundle
from service import experiments
from service.settings import DEMO_BUNDLE
from tests.arms import Traffic, week
from tests.records import DAY_MS, NOW, click

Told = dict[str, Any]


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Told]:
    """What the report says of a log; of the one before without a new one."""

    def of(traffic: Traffic | None, *options: str) -> Told:
        log = traffic.write(tmp_path / "log") if traffic else tmp_path / "log"
        assert experiments.main(["--log", str(log), "--out", str(tmp_path / "out"), *options]) == 0
        content: Told = json.loads((tmp_path / "out" / experiments.CONTENT).read_text())
        return content

    return of


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line by which the report refuses a log; nothing is written."""

    def of(traffic: Traffic, *options: str) -> str:
        log, out = traffic.write(tmp_path / "log"), tmp_path / "out"
        assert experiments.main(["--log", str(log), "--out", str(out), *options]) == 1
        said = capsys.readouterr()
        assert not said.out and not out.exists()
        (line,) = said.err.splitlines()
        return line.removeprefix("experiments: ")

    return of


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return week(1200, 0.8, seed=1)


def two_arms(users: int = 6) -> Traffic:
    """Users by turns in `bst 1` and `wdl 1`, of whom each clicks the first of five items."""
    traffic = Traffic()
    for number in range(users):
        traffic.visit(f"u{number}", ("bst 1", "wdl 1")[number % 2], clicks=[1], now=NOW + number)
    return traffic


def arms(content: Told) -> dict[str, Told]:
    return {arm["name"]: arm for arm in content["arms"]}


def test_users_impressions_and_clicks_are_those_of_whoever_wrote_the_log(
    traffic: Traffic, told: Callable[..., Told]
) -> None:
    content = told(traffic)
    arm_of = {one.user_id: f"{one.model} {one.version}" for one in traffic.impressions}
    for name, arm in arms(content).items():
        users = [user for user, of in arm_of.items() if of == name]
        shown = sum(len(one.items) for one in traffic.impressions if arm_of[one.user_id] == name)
        clicked = sum(arm_of[event.user_id] == name for event in traffic.events)
        assert (arm["users"], arm["impressions"], arm["clicks"]) == (len(users), shown, clicked)
        assert arm["ctr"] == clicked / shown and arm["ctr_interval"][0] < arm["ctr"] < arm["ctr_interval"][1]
    by = arms(content)
    assert content["control"] == content["arms"][0]["name"] and not content["doubts"]
    other = next(arm for arm in by.values() if arm["gain"])
    assert other["gain"]["estimate"] == pytest.approx(other["ctr"] / by[content["control"]]["ctr"] - 1)
    for segment in ("position", "history", "hour"):
        rows = content["segments"][segment]
        assert sum(row["impressions"] for row in rows) == sum(arm["impressions"] for arm in by.values())


def test_the_arm_that_earns_more_is_found_and_the_verdict_says_so(traffic: Traffic, told: Callable[..., Told]) -> None:
    content = told(traffic, "--control", "wdl 1")
    gain = arms(content)["bst 1"]["gain"]
    assert gain["interval"][0] < 0.8 < gain["interval"][1] and gain["decided"] == 1
    assert content["verdict"].startswith("bst 1 is better") and "you may stop here" in content["verdict"]
    assert NOW < gain["since"] <= content["end"] and gain["users_needed"][0] > gain["users_needed"][1]
    turned = told(None, "--control", "bst 1")
    assert arms(turned)["wdl 1"]["gain"]["decided"] == -1 and turned["verdict"].startswith("bst 1 is better")


def test_an_arm_is_its_variant_and_control_is_the_one_of_that_name(told: Callable[..., Told]) -> None:
    traffic = Traffic()
    for number in range(4):
        traffic.visit(f"u{number}", "bst 1", [1], variant=("new", "control")[number % 2])
    content = told(traffic)
    assert list(arms(content)) == ["control", "new"] and content["control"] == "control"
    assert arms(content)["new"]["models"] == ["bst 1"]
    assert content["verdict"].startswith("Too early to say whether new earns more clicks than control")


def test_clicks_count_once_within_the_window_and_the_others_are_told(told: Callable[..., Told]) -> None:
    traffic = two_arms()
    traffic.visit("late", clicks=[1], now=NOW + 100, after_ms=31 * 60_000)
    traffic.visit("early", clicks=[1], now=NOW + 100, after_ms=-5)
    traffic.visit("twice", clicks=[1, 2], now=NOW + 100)
    traffic.visit("twice", clicks=[1], now=NOW + 100)
    traffic.events[-1] = replace(traffic.events[-2], timestamp=traffic.events[-1].timestamp + 1)
    traffic.events += [click("u1", "i1", NOW + 9, None), click("u1", "elsewhere", NOW + 9, "r1")]
    traffic.events += [click("u1", "i1", NOW + 9, "never")]
    content = told(traffic)
    counts = content["counts"]
    assert {name: counts[name] for name in ("late", "early", "doubled", "without_request")} == {
        "late": 1,
        "early": 1,
        "doubled": 1,
        "without_request": 1,
    }
    assert counts["not_returned"] == counts["orphaned"] == 1
    assert sum(arm["clicks"] for arm in content["arms"]) == 6 + 2
    for words in ("later than 1800 s", "before their impression", "does not hold", "did not return", "without a req"):
        assert [line for line in content["left_out"] if line.startswith("1 ") and words in line], words
    assert sum(arm["clicks"] for arm in told(None, "--window", "40m")["arms"]) == 6 + 3


def test_users_of_two_arms_are_left_out_and_told_or_counted_to_the_first(told: Callable[..., Told]) -> None:
    traffic = two_arms(40)
    traffic.visit("both", "bst 1", clicks=[1], now=NOW + 50)
    traffic.visit("both", "wdl 1", clicks=[1, 2], now=NOW + 60)
    content = told(traffic)
    assert [arm["users"] for arm in content["arms"]] == [20, 20] and not content["doubts"]
    assert any("1 users who saw more than one arm, with 10 impressions and 3 clicks" in x for x in content["left_out"])
    first = told(None, "--mixed", "first")
    assert [(arm["users"], arm["clicks"]) for arm in first["arms"]] == [(21, 23), (20, 20)]
    assert any("to the first that they saw" in line for line in first["left_out"])


def test_a_balancer_that_mixes_users_or_sends_too_many_to_one_arm_ends_the_verdict(
    told: Callable[..., Told], capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = two_arms()
    for number in range(6):
        mixed.visit(f"both{number}", "bst 1", now=NOW + 10)
        mixed.visit(f"both{number}", "wdl 1", now=NOW + 20)
    content = told(mixed)
    assert "6 of 12 users, with 60 of 90 impressions, saw more than one arm" in content["doubts"][0]
    assert content["verdict"].startswith("Do not decide by these figures")
    assert "6 of 12 users" in capsys.readouterr().err
    busy = two_arms(100)
    for turn in range(20):
        busy.visit("both", ("bst 1", "wdl 1")[turn % 2], now=NOW + 20)
    content = told(busy)
    assert "1 of 101 users, with 100 of 600 impressions, saw more than one arm" in content["doubts"][0]
    uneven = Traffic()
    for number in range(200):
        uneven.visit(f"u{number}", "wdl 1" if number % 4 else "bst 1", clicks=[1], now=NOW + number)
    content = told(uneven)
    assert content["doubts"][0].startswith("Sample ratio mismatch: users are bst 1 50, wdl 1 150")
    planned = told(None, "--shares", "wdl 1=3,bst 1=1")
    assert not planned["doubts"] and planned["sample_ratio"]["shares"] == {"bst 1": 0.25, "wdl 1": 0.75}


def test_days_choose_impressions_and_times_when_one_arm_was_alone_are_told(told: Callable[..., Told]) -> None:
    traffic = two_arms()
    for number in range(4):
        traffic.visit(f"alone{number}", "bst 1", clicks=[1], now=NOW + DAY_MS + number)
    content = told(traffic)
    assert content["counts"]["apart"] == 20 + 5  # and those of the first user
    assert any("not all arms were shown" in line for line in content["doubts"])
    assert [arm["users"] for arm in told(None, "--days", "2027-01-15")["arms"]] == [3, 3]


def test_offline_auc_comes_from_the_bundles_of_the_same_model(told: Callable[..., Told]) -> None:
    bundle, traffic = Bundle.open(DEMO_BUNDLE), two_arms()
    traffic.impressions = [
        replace(one, model=bundle.name, version=bundle.version) if one.model == "bst" else one
        for one in traffic.impressions
    ]
    content = told(traffic, "--bundle", str(DEMO_BUNDLE))
    name = f"{bundle.name} {bundle.version}"
    auc = json.loads((bundle.folder / REPORT).read_text())["test"]["auc"]
    assert {arm["name"]: arm["offline_auc"] for arm in content["arms"]} == {name: auc, "wdl 1": None}
    assert "No offline AUC of wdl 1: no bundle of --bundle is wdl 1" in content["left_out"]


@pytest.mark.parametrize(
    "options, words",
    [
        (("--control", "din 1"), "--control 'din 1' given, arms of the log are: bst 1, wdl 1"),
        (("--shares", "bst 1=1,din 1=1"), "--shares or --live names bst 1, din 1, arms of the log are: bst 1, wdl 1"),
        (("--label", "buy"), "has no buy on what was shown; its events are click: --label names the one"),
        (("--days", "2027-03-01"), r"holds no impressions: .* \(--days 2027-03-01\)"),
        (("--bundle", "nowhere"), "--bundle nowhere is no folder"),
        (("--shown", "confirmed"), "holds no impressions that an event confirms"),
    ],
)
def test_what_the_log_does_not_have_is_one_line(
    refused: Callable[..., str], options: tuple[str, ...], words: str
) -> None:
    assert re.search(words, refused(two_arms(), *options))


def test_one_arm_or_arms_that_were_never_shown_at_once_are_no_experiment(refused: Callable[..., str]) -> None:
    alone, after, mixed = Traffic(), Traffic(), Traffic()
    alone.visit("u1", clicks=[1])
    assert "holds one arm, bst 1: an experiment needs two" in refused(alone)
    for number, arm in enumerate(("wdl 1", "bst 1")):
        after.visit(f"u{number}", arm, clicks=[1], now=NOW + number * DAY_MS)
    assert "never shown at the same time: bst 1 2027-01-16 08:00" in refused(after)
    for arm in ("wdl 1", "bst 1"):
        mixed.visit("u1", arm, clicks=[1])
    assert "users who saw one alone only of none: a balancer" in refused(mixed)


def test_a_log_without_clicks_or_with_replays_alone_says_so(refused: Callable[..., str]) -> None:
    traffic = two_arms()
    traffic.events.clear()
    assert "has no click on what was shown; no event" in refused(traffic)
    traffic.impressions = [replace(one, replay=True) for one in traffic.impressions]
    assert "holds only requests that named their time; --replays counts them" in refused(traffic)


def test_a_log_that_lacks_things_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(log: Path) -> str:
        assert experiments.main(["--log", str(log), "--out", str(tmp_path / "out")]) == 1
        (said,) = capsys.readouterr().err.splitlines()
        return said

    assert "is no folder; one that service.drain filled is needed" in line(tmp_path / "nowhere")
    log = two_arms().write(tmp_path / "log")
    (table,) = (log / "impressions").rglob("*.parquet")
    whole = table.read_bytes()
    table.write_bytes(whole[:-9])
    assert "no whole Parquet file" in line(log)
    table.write_bytes(whole)
    pl.read_parquet(table).drop("variant").write_parquet(table)
    assert "no column variant" in line(log)
    table.unlink()
    assert "holds no impressions: impressions/day=" in line(log)


@pytest.mark.parametrize(
    "option, value",
    [("--days", "today"), ("--shares", "bst"), ("--shares", "a=1,a=2"), ("--window", "soon"), ("--memory", "-1")],
)
def test_a_wrong_option_is_refused_by_name(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        experiments.main(["--log", "log", "--out", "out", option, value])
    assert end.value.code == 2 and f"argument {option}: " in capsys.readouterr().err


class Page(HTMLParser):
    """What a page loads from elsewhere, and its texts."""

    def __init__(self, html: str):
        super().__init__()
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        urls = [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        self.loads += [url for url in urls if not url.startswith("#")]
        if tag in ("script", "link", "iframe", "img", "object"):
            self.loads.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(" ".join(data.split()))


def test_the_page_has_the_papers_table_and_the_verdict_and_loads_nothing(
    traffic: Traffic, told: Callable[..., Told], tmp_path: Path
) -> None:
    content = told(traffic)
    html = (tmp_path / "out" / experiments.PAGE).read_text()
    page = Page(html)
    assert not page.loads and "@import" not in html and not re.search(r"url\((?!#)", html)
    assert content["verdict"] in page.texts
    for name in ("Methods", "Offline AUC", "Online CTR Gain", "Average RT (ms)", "bst 1", "wdl 1"):
        assert name in page.texts, name
    assert page.tags.count("svg") == 2
    for arm in content["arms"]:
        assert f"{arm['impressions']:,}" in page.texts and f"{arm['clicks']:,}" in page.texts
    for line in content["left_out"]:
        assert line in page.texts


def test_the_last_line_is_json_and_names_that_are_html_stay_text(
    told: Callable[..., Told], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traffic = Traffic()
    for number in range(4):
        traffic.visit(f"u{number}", clicks=[1], now=NOW + number, variant=("<script>x</script>", "b")[number % 2])
    content = told(traffic)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line == {name: value for name, value in content.items() if name not in experiments.LONG}
    assert not Page((tmp_path / "out" / experiments.PAGE).read_text()).loads


def test_response_times_are_of_requests_that_came_alone(told: Callable[..., Told]) -> None:
    traffic = two_arms()
    for number in range(3):
        traffic.visit(f"alone{number}", "bst 1", clicks=[1], now=NOW + 3)
        traffic.impressions[-1] = replace(traffic.impressions[-1], took_us=(number + 1) * 2000)
    for user in ("in", "a", "batch"):
        traffic.visit(user, "bst 1", now=NOW + 3)
        traffic.impressions[-1] = replace(traffic.impressions[-1], took_us=90_000, request_id="batch")
    by = arms(told(traffic))
    assert by["bst 1"]["response"] == {"requests": 3, "average_ms": 4, "p50_ms": 4, "p99_ms": pytest.approx(5.96)}
    assert by["wdl 1"]["response"] == {"requests": 0, "average_ms": None, "p50_ms": None, "p99_ms": None}


def test_requests_that_named_their_variant_are_left_out_and_told(told: Callable[..., Told]) -> None:
    traffic = two_arms()
    before = arms(told(traffic))
    traffic.visit("a", "bst 1", clicks=[1], now=NOW + 3)
    traffic.impressions[-1] = replace(traffic.impressions[-1], named=1)
    content = told(traffic)
    after, items = arms(content), len(traffic.impressions[-1].items)
    assert {name: (arm["users"], arm["impressions"], arm["clicks"]) for name, arm in after.items()} == {
        name: (arm["users"], arm["impressions"], arm["clicks"]) for name, arm in before.items()
    }
    assert f"{items} impressions of requests that named their variant" in content["left_out"]


@pytest.mark.parametrize("url", [False, True])
@pytest.mark.parametrize("older", [1, 2])
def test_tables_of_before_response_times_were_kept_are_read(tmp_path: Path, older: int, url: bool) -> None:
    traffic = two_arms()
    traffic.impressions = [replace(one, took_us=5000) for one in traffic.impressions]
    for number in range(2):
        traffic.visit(f"next{number}", ("bst 1", "wdl 1")[number], now=NOW + DAY_MS)
    log = traffic.write(tmp_path / "log")
    for table in sorted((log / "impressions").rglob("*.parquet"))[-older:]:
        pl.read_parquet(table, hive_partitioning=False).drop("took_us", "named").write_parquet(table)
    where = f"file://{log}" if url else str(log)
    assert experiments.main(["--log", where, "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / experiments.CONTENT).read_text())
    assert [arm["impressions"] for arm in content["arms"]] == [20, 20]
    assert [arm["response"]["requests"] for arm in content["arms"]] == ([3, 3] if older == 1 else [0, 0])


def test_a_shadow_stands_on_the_page_as_an_estimate_also_beside_one_arm(
    told: Callable[..., Told], tmp_path: Path
) -> None:
    traffic = Traffic()
    for number in range(300):
        traffic.visit(f"u{number}", "bst 1", clicks=[1] if number % 2 else [3], now=NOW + number)
        traffic.shadow("next", (3, 2, 1, 4, 5) if number % 3 else (1, 2, 3, 4, 5))
    content = told(traffic)
    (shadow,) = content["shadows"]
    assert {"name": "next", "model": "din", "version": "2", "requests": 300, "seen": 1}.items() <= shadow.items()
    assert shadow["shown_ctr"] == pytest.approx(0.2) and shadow["gain_interval"] is not None
    assert content["verdict"].startswith("Only bst 1 was shown, so nothing is compared")
    assert not content["doubts"] and content["arms"][0]["gain"] is None
    page = Page((tmp_path / "out" / experiments.PAGE).read_text())
    assert "What shadows would earn: an estimate" in page.texts and not page.loads
    assert any("It assumes that whether a place is looked at depends on the place alone" in x for x in page.texts)
    assert "Online CTR Gain" not in page.texts


def test_the_services_own_answer_gives_control_and_shares_and_ends_the_verdict_where_those_were_changed(
    traffic: Traffic, told: Callable[..., Told], tmp_path: Path
) -> None:
    file = tmp_path / "now.json"

    def live(changed: str | None) -> str:
        variants = [{"name": name, "share": share} for name, share in (("wdl 1", 0.4), ("bst 1", 0.6), ("none", 0.0))]
        answer = {"control": "bst 1", "variants": variants, "sample_ratio": {"shares_changed": changed}}
        file.write_text(json.dumps({"experiment": answer, "refused": None}))
        return str(file)

    content = told(traffic, "--live", live(None))
    assert content["control"] == "bst 1" and content["sample_ratio"]["shares"] == {"bst 1": 0.6, "wdl 1": 0.4}
    changed = told(None, "--live", live("Shares changed."))
    assert "Shares changed." in changed["doubts"] and changed["verdict"].startswith("Do not decide")
    assert told(None, "--live", str(file), "--control", "wdl 1")["control"] == "wdl 1"


@pytest.mark.parametrize("text", ['{"experiment": null, "refused": null}', "[]", "{", "\xff", None])
def test_what_is_no_answer_of_the_service_is_refused(
    refused: Callable[..., str], tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "now.json"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    line = refused(two_arms(), "--live", str(file))
    assert line.startswith(f"--live {file}: ")
    assert ("No such file" if text is None else "the answer of GET /experiments") in line
