"""The parity proof: a log of a real bundle is scored again to the digit, and what differs is found, in its stage."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model import catalog, replay
from model.bundle.layout import OLDER
from model.bundle.reading import Bundle
from model.bundle.swapping import swap_counts
from model.features.behaviour import Behaviour
from model.features.counts import Counts, keys_of
from model.features.ids import keys
from model.features.wanted import Wanted
from model.replaying.histories import Past
from model.replaying.proof import STAGES
from model.servicelog.records import BUILTIN, Event, Forgotten, Impression, Profile
from service.settings import DEMO_BUNDLE
from tests.servicelog import DAY, NOON, Served

USERS = [json.loads(line) for line in (DEMO_BUNDLE.parent / "users.jsonl").read_text().splitlines()[:6]]
ITEMS = [f"i{at}" for at in range(40, 60)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A copy of the demo bundle as a version of its home, whose catalogue and counts may be swapped."""
    folder = tmp_path / "bundles" / "bst_simulated"
    version = json.loads((DEMO_BUNDLE / "manifest.json").read_text())["version"]
    shutil.copytree(DEMO_BUNDLE, folder / version)
    (folder / "current").symlink_to(version)
    return Bundle.open(folder)


def filled(bundle: Bundle, **more: Any) -> Served:
    """A service whose store has the demo's users, each with clicks from before the log."""
    served = Served(bundle, **more)
    for user in USERS:
        served.profiles[user["user_id"]] = dict(user["user"])
        served.histories[user["user_id"]] = {Behaviour(*behaviour) for behaviour in user["behaviours"]}
    return served


def browse(served: Served, days: int = 2) -> None:
    """Everyone looks, clicks what stands first or second, and looks again; profiles change, and one is forgotten."""
    for day in range(days):
        for at, user in enumerate(USERS):
            user_id = user["user_id"]
            for turn in range(2):
                served.now += 60_000
                request = f"r{day}-{at}-{turn}"
                candidates: list[Any] = [*ITEMS[at:], {"item_id": "i7", "position": 3, "tag": "t5"}, "never-seen"]
                shown = served.rank(user_id, candidates, request, {"page": 2} if turn else None)
                served.act(user_id, shown.items[turn].item_id, request)
            served.set(user_id, {"city": f"city{day}"}, replaced=at == 1)
        if day == 0:
            served.forget(USERS[2]["user_id"])
    served.rank(USERS[0]["user_id"], ITEMS, "replayed", before=served.now - 90_000)
    served.rank(USERS[0]["user_id"], ITEMS, "inline", user={"gender": "f"})


def proven(served: Served, folder: Path, *more: str, bundles: Path | None = None) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON line and all that was printed."""
    log = served.write(folder / "log")
    at = bundles or served.bundle.folder.parent
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = replay.main(["--log", str(log), "--bundle", str(at), *more])
    text = out.getvalue()
    return status, json.loads(text.splitlines()[-1]) if text else {}, text + err.getvalue()


def test_what_was_served_is_scored_again_from_the_log_and_from_events(bundle: Bundle, tmp_path: Path) -> None:
    served = filled(bundle)
    browse(served)
    status, facts, text = proven(served, tmp_path)
    assert status == 0, text
    assert facts["rows"] == facts["rows_rebuilt"] == sum(len(i.items) for i in served.impressions)
    assert facts["max_abs_diff"] <= 1e-5 and facts["max_abs_diff_rebuilt"] <= 1e-5
    assert not any(facts["differences"].values()) and not facts["skipped"]
    assert {len(i.behaviours) for i in served.impressions} >= {0, 1, 30}, "someone was forgotten, and began anew"


def test_what_no_graph_scored_is_passed_over_and_the_rest_proven(bundle: Bundle, tmp_path: Path) -> None:
    served = filled(bundle)
    browse(served, days=1)
    served.change(3, model="random", precision=BUILTIN)
    status, facts, text = proven(served, tmp_path)
    assert status == 0 and facts["skipped"] == {"builtin variants, which no graph scores": 10}, text
    assert "bundle random" not in text and not any(facts["differences"].values())
    assert facts["rows"] == sum(len(i.items) for i in served.impressions) - 10


def test_older_history_and_profiles_come_from_a_data_set(bundle: Bundle, tmp_path: Path) -> None:
    served = filled(bundle)
    tables = tmp_path / "data" / "tables"
    tables.mkdir(parents=True)
    shutil.copy(bundle.folder / "features.toml", tmp_path / "data")
    pl.DataFrame([{"user_id": user["user_id"], **user["user"]} for user in USERS]).write_parquet(
        tables / "users.parquet"
    )
    rows = [[user["user_id"], *behaviour] for user in USERS for behaviour in user["behaviours"]]
    frame = pl.DataFrame(rows, ["user_id", "action", "object_type", "object_id", "timestamp"], orient="row")
    frame.write_parquet(tables / "behaviours.parquet")
    browse(served)
    assert proven(served, tmp_path, "--base", str(tmp_path / "data"))[0] == 0
    frame[:-1].write_parquet(tables / "behaviours.parquet")
    status, facts, text = proven(served, tmp_path, "--base", str(tmp_path / "data"))
    assert status == 1 and facts["differences"]["history"] > 0, "the last user's newest click is in no table"
    assert "that no event tells of" in text and USERS[-1]["user_id"] in text


@pytest.mark.parametrize(
    ("stage", "plant"),
    [
        ("score", lambda i: {"items": [replace(i.items[0], score=i.items[0].score + 2e-5), *i.items[1:]]}),
        ("history", lambda i: {"behaviours": i.behaviours[:-1]}),
        ("history", lambda i: {"behaviours": [*i.behaviours, Behaviour("click", "item", "i1", NOON)]}),
        ("profile", lambda i: {"profile": {**i.profile, "os": "other"}}),
        ("catalogue", lambda i: {"catalog": "0" * 64}),
        ("statistics", lambda i: {"statistics": "0" * 64}),
    ],
    ids=["score", "lost behaviour", "strange behaviour", "profile", "catalogue", "statistics"],
)
def test_a_difference_is_found_in_its_stage_and_shown(
    bundle: Bundle, tmp_path: Path, stage: str, plant: Callable[[Impression], dict[str, Any]]
) -> None:
    served = filled(bundle)
    browse(served, days=1)
    place = 3  # a second request, after a click
    served.change(place, **plant(served.impressions[place]))
    status, facts, text = proven(served, tmp_path)
    assert status == 1
    assert facts["differences"] == {name: 0 for name in STAGES} | {stage: 1 if stage == "score" else 10}
    assert f"{stage}: request {served.impressions[place].request_id}, user {served.impressions[place].user_id}" in text
    if stage in ("catalogue", "statistics"):
        assert "000000000000… of" in text and "There are" in text


def test_a_log_is_proven_through_swaps_of_catalogue_and_counts(bundle: Bundle, tmp_path: Path) -> None:
    served = filled(bundle)
    browse(served, days=1)
    items = pl.DataFrame({"item_id": ["i41", "brand-new"], "category_id": ["c3", "c1"], "shop_id": "s1", "tag": "t1"})
    for at in range(3):  # the first of these is kept under no name but its sha256
        items.with_columns(shop_id=pl.lit(f"s{at}")).write_parquet(tmp_path / "items.parquet")
        assert (
            catalog.main(["--bundle", str(bundle.folder), "--items", str(tmp_path / "items.parquet"), "--merge"]) == 0
        )
        newer = tmp_path / f"counts-{at}.npy"
        counted(bundle, clicks=at + 1).save(newer, bundle.schema)
        swap_counts(bundle.folder, newer, older=True)
        bundle = Bundle.open(bundle.folder)
        served.bundle, served.session = bundle, None
        browse(served, days=1)
    bundle.verify()
    assert len({i.catalog for i in served.impressions}) == len({i.statistics for i in served.impressions}) == 4
    status, facts, text = proven(served, tmp_path, bundles=tmp_path / "bundles")
    assert status == 0, text
    assert facts["rows"] == sum(len(i.items) for i in served.impressions)
    shutil.rmtree(bundle.folder / OLDER)
    status, facts, text = proven(served, tmp_path, bundles=tmp_path / "bundles")
    assert status == 1 and facts["differences"]["catalogue"] > 0 and "swapped out and not kept" in text


def counted(bundle: Bundle, clicks: int) -> Counts:
    """Counts of ITEMS, each shown ten times until the day before the log."""
    of_items = keys_of(bundle.schema.statistics[0].counted, [keys(ITEMS, "str")])
    shown = np.full((len(ITEMS), 1), 10.0)
    return Counts.build([NOON - DAY], of_items, shown, np.full_like(shown, clicks))


def test_what_cannot_be_told_is_said(bundle: Bundle, tmp_path: Path) -> None:
    served = filled(bundle)
    browse(served, days=1)
    served.rank(USERS[0]["user_id"], ITEMS, "late", degraded=["history:timeout"])
    served.rank(USERS[0]["user_id"], ITEMS, "other")
    served.change(len(served.impressions) - 1, version="20200101T000000-00000000")
    status, facts, text = proven(served, tmp_path)
    assert status == 0, text
    assert facts["skipped"] == {"bundle": 10, "degraded": 10}
    assert "bundle bst_simulated 20200101T000000-00000000 is not there; there are bst_simulated 2026" in text
    other = served.impressions[-1:]
    served.impressions = other
    status, facts, text = proven(served, tmp_path / "alone")
    assert status == 1 and "nothing is proven" in text


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda log: shutil.rmtree(log / "impressions"), "holds no impressions"),
        (lambda log: (_only(log / "impressions")).write_bytes(b"PAR1 cut"), "no whole Parquet file"),
        (
            lambda log: pl.DataFrame({"event": ["click"]}).write_parquet(_only(log / "events")),
            "no column user_id, object_type",
        ),
        (lambda log: shutil.rmtree(log), "is no folder"),
    ],
    ids=["empty", "cut", "columns", "nothing"],
)
def test_a_wrong_log_is_one_clear_line(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], says: str
) -> None:
    served = filled(bundle)
    shown = served.rank(USERS[0]["user_id"], ITEMS, "one")
    served.act(USERS[0]["user_id"], shown.items[0].item_id, "one")
    log = served.write(tmp_path / "log")
    spoil(log)
    assert replay.main(["--log", str(log), "--bundle", str(bundle.folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("replay: ") and says in line


def test_a_wrong_bundle_and_wrong_days_are_one_clear_line(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = filled(bundle)
    served.rank(USERS[0]["user_id"], ITEMS, "one")
    log = served.write(tmp_path / "log")
    assert replay.main(["--log", str(log), "--bundle", str(tmp_path / "log")]) == 1
    assert "holds no bundle" in capsys.readouterr().err
    assert replay.main(["--log", str(log), "--bundle", str(bundle.folder), "--days", "2020-01-01"]) == 1
    assert "holds no impressions" in capsys.readouterr().err
    assert replay.main(["--log", str(log), "--bundle", str(bundle.folder), "--days", "2025-09-15"]) == 0
    with pytest.raises(SystemExit):
        replay.main(["--log", str(log), "--bundle", str(bundle.folder), "--days", "today"])


def _only(folder: Path) -> Path:
    (path,) = folder.rglob("*.parquet")
    return path


# ---- histories rebuilt

CLICK = Behaviour("click", "item", "i1", NOON)


def asked(read_us: int, behaviours: list[Behaviour], profile: dict[str, str], replay: bool = False) -> Impression:
    served = Served(Bundle.open(DEMO_BUNDLE))
    one = served.rank("u1", ["i1"], "r")
    return replace(one, read_us=read_us, behaviours=behaviours, profile=profile, replay=replay, now=NOON + 1000)


def click(received_us: int, stored_us: int, at: int = NOON) -> Event:
    return Event("click", "u1", "item", "i1", at, None, None, received_us, stored_us)


@pytest.fixture(scope="module")
def wanted() -> Wanted:
    return Wanted.of(Bundle.open(DEMO_BUNDLE).schema)


@pytest.mark.parametrize(
    ("event", "read_us", "visible"),
    [
        (click(100, 200), 200, [True]),
        (click(100, 200), 150, [True, False]),
        (click(100, 200), 100, [True, False]),
        (click(100 + 10**9, 200 + 10**9), 100, [False]),
    ],
    ids=["stored", "meanwhile", "just before", "much later"],
)
def test_an_event_is_seen_once_it_is_stored_and_may_be_while_it_is_being(
    wanted: Wanted, event: Event, read_us: int, visible: list[bool]
) -> None:
    for logged in (True, False):
        past = Past([event], keep=100)
        past.begin({}, [])
        rebuilt = past.at(asked(read_us, [CLICK] if logged else [], {}), wanted)
        agrees = (rebuilt.behaviours == [CLICK]) == logged
        assert agrees == (logged in visible)


def test_clocks_that_differ_leave_room(wanted: Wanted) -> None:
    past = Past([click(100, 200)], keep=100, skew_us=1000)
    past.begin({}, [])
    assert past.at(asked(300, [], {}), wanted).behaviours == [], "the reader's clock may be ahead"


def test_a_profile_is_what_was_set_and_a_forgotten_user_has_none(wanted: Wanted) -> None:
    records: list[Event | Profile | Forgotten] = [
        Profile("u1", {"city": "city2"}, False, 100, 200),
        Profile("u1", {"os": "ios"}, True, 300, 400),
        Forgotten("u1", 500, 600),
    ]
    past = Past(records, keep=100)
    past.begin({"age": "20", "city": "city1"}, [CLICK])
    assert past.at(asked(50, [CLICK], {}), wanted).profile == {"age": "20", "city": "city1"}
    assert past.at(asked(250, [CLICK], {}), wanted).profile == {"age": "20", "city": "city2"}
    assert past.at(asked(350, [CLICK], {"os": "ios"}), wanted).profile == {"os": "ios"}, "being set: as the log has it"
    assert past.at(asked(450, [CLICK], {}), wanted).profile == {"os": "ios"}
    assert past.at(asked(550, [CLICK], {}), wanted).unproven
    assert past.at(asked(700, [CLICK], {"age": "20"}), wanted)[:3] == ({}, [], None)


def test_a_replay_before_what_the_store_keeps_proves_nothing(wanted: Wanted) -> None:
    events = [click(1, 2 + at, NOON + at) for at in range(100)]
    past = Past(events, keep=10)
    past.begin({}, [])
    replayed = replace(asked(500, [], {}, replay=True), now=NOON + 50)
    assert past.at(replayed, wanted).unproven
    live = past.at(asked(501, [], {}), wanted)
    assert live.unproven is None and len(live.behaviours) == 10
