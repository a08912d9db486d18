"""Counts of pairs, which cooccurrences ask, swapped under a service before a real store and held to a count by hand."""

import asyncio
import contextlib
import io
import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model import catalog as command
from model import replay
from model.bundle.layout import COUNTS
from model.bundle.reading import Bundle
from model.datasets.tables import DataSet
from model.features.behaviour import Behaviour
from model.features.counts import Counts
from model.features.ids import FIRST, UNKNOWN, key
from model.features.schema import Schema, parse
from model.prepared.encode import encode_tables
from model.prepared.loader import Prepared
from service import drain
from service.backfill import load_tables
from tests.client import client_of, run
from tests.derived import DAY, OFFSET_MS, ZONE, match, published
from tests.worlds import FEATURES, write_log

ODD = {"c0": "a beside b", "c1": "a\x1f|,b", "c2": "旅行 🧳", "c3": "ü\n"}  # what separators and alphabets are
ITEMS: list[Any] = [*(f"i{n}" for n in range(40)), {"item_id": "i40", "category_id": ODD["c2"]}, "stranger"]
IDS = [item["item_id"] if isinstance(item, dict) else item for item in ITEMS]
LATER = 1_900_000_000_000
USERS = [f"u{n}" for n in range(12)]
ACTIONS = ["click", "like"]


def schema() -> Schema:
    goes_with = match("goes_with", "category_id", "cooccurrence", length=4)
    history = {"length": 3, "actions": ACTIONS}
    return parse({"user_id": "str", "history": history, "feature": [*FEATURES, goes_with]})


def prepared(folder: Path, without_last_days: int) -> Prepared:
    """The log as it was known so many days before its end, with categories of odd names."""
    write_log(folder)
    tables = folder / "tables"
    items = pl.read_parquet(tables / "items.parquet").with_columns(pl.col("category_id").replace(ODD))
    items.write_parquet(tables / "items.parquet")
    logs = {name: pl.read_parquet(tables / f"{name}.parquet") for name in ("impressions", "behaviours")}
    end = int(pl.concat([table.select("timestamp") for table in logs.values()]).to_series().to_numpy().max())
    until = ((end + OFFSET_MS) // DAY + 1 - without_last_days) * DAY - OFFSET_MS
    for name, table in logs.items():
        table.filter(pl.col("timestamp") < until).write_parquet(tables / f"{name}.parquet")
    encode_tables(folder, schema(), DataSet("log", ZONE, 0))
    return Prepared(folder)


class ByHand:
    """What the tables of a log say of users and pairs, counted one by one."""

    def __init__(self, data: Prepared):
        tables = data.folder / "tables"
        self.category = dict(pl.read_parquet(tables / "items.parquet").select("item_id", "category_id").iter_rows())
        self.users = {row["user_id"]: row for row in pl.read_parquet(tables / "users.parquet").iter_rows(named=True)}
        self.done: dict[str, list[Behaviour]] = defaultdict(list)
        for user, *rest in pl.read_parquet(tables / "behaviours.parquet").unique().iter_rows():
            self.done[user].append(Behaviour(*rest))
        for done in self.done.values():
            done.sort(key=lambda b: (b.timestamp, key(b.object_id, "str"), ACTIONS.index(b.action)))

    def seen(self, user: str, now: int) -> list[Behaviour]:
        return [one for one in self.done[user] if one.timestamp < now]

    def profile(self, user: str) -> dict[str, str]:
        given = {name: value for name, value in self.users.get(user, {}).items() if value is not None}
        return {name: json.dumps(value) if isinstance(value, list) else str(value) for name, value in given.items()}

    def rows(self, user: str, now: int, until: int) -> list[int]:
        """Rows of all candidates' cooccurrences, of what was counted before `until`."""
        pairs, alone = Counter[frozenset[str | None]](), Counter[str | None]()
        for done in self.done.values():
            clicked = [one for one in done if one.object_type == "item"]
            for one, other in zip(clicked, clicked[1:], strict=False):
                values = self.category.get(one.object_id), self.category.get(other.object_id)
                if None not in values and values[0] != values[1] and other.timestamp < until:
                    pairs[frozenset(values)] += 1
                    alone.update(values)
        newest = [one for one in self.seen(user, now) if one.object_type == "item"][-4:]
        seen = [self.category.get(one.object_id) for one in newest]
        made = []
        for item in ITEMS:
            own = item["category_id"] if isinstance(item, dict) else self.category.get(item)
            goes = [pairs[frozenset({own, one})] / (math.sqrt(alone[own] * alone[one]) + 10) for one in seen if one]
            strength = max(goes, default=0.0)
            row = FIRST + int(strength > 0) + sum(strength >= 2 ** (-n / 2) for n in range(1, 19))
            made.append(UNKNOWN if own is None else row)
        return made


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("yesterday"), 1)


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("today"), 0)


@pytest.fixture(scope="module")
def trained(yesterday: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(yesterday, tmp_path_factory.mktemp("trained"))


def quietly(what: Callable[[], int]) -> str:
    """What a command says that does what it is to."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        assert what() == 0, err.getvalue()
    return out.getvalue()


def test_swapped_pairs_are_those_counted_by_hand_and_a_replay_takes_those_of_its_day(
    trained: Path, yesterday: Prepared, today: Prepared, valkey_url: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "bundles" / "bundle"))
    bundle, journal, log = Bundle.open(folder), tmp_path / "journal", tmp_path / "log"
    journal.mkdir()
    session, place = bundle.session(), bundle.encoder.schema.places("cross")["goes_with"].start
    by_hand, told = ByHand(today), []
    before, after = (Counts.open(data.folder / COUNTS, data.schema).until_ms for data in (yesterday, today))
    assert after == before + DAY
    load_tables(today.folder, valkey_url, keep=1000, ttl_s=10_000)

    async def scenario() -> None:
        async with client_of(bundle, valkey_url, catalog_poll_s=0.02, history_keep=1000, journal=journal) as client:

            async def held(until: int, replayed: int | None = None) -> None:
                rows = []
                for user in USERS:
                    body = {"user_id": user, "candidates": ITEMS} | ({"timestamp": replayed} if replayed else {})
                    answer = (await client.post("/rank", json=body)).json()
                    now = replayed or LATER
                    seen, profile = by_hand.seen(user, now), by_hand.profile(user)
                    encoded = bundle.encoder.encode(user, profile, seen, ITEMS, now, bundle.catalog)
                    rows.append(by_hand.rows(user, now, until))
                    encoded.inputs["cross"][0, :, place] = rows[-1]
                    expected = dict(zip(IDS, bundle.score(session, encoded.inputs)[0].tolist(), strict=True))
                    served = {item["item_id"]: item["score"] for item in answer["items"]}
                    assert served == pytest.approx(expected, abs=1e-5), user
                told.append(rows)

            async def changed(until: int, *how: str) -> None:
                quietly(lambda: command.main(["--bundle", str(folder), *how]))
                async with asyncio.timeout(60):
                    while (await client.get("/model")).json()["statistics"]["counted_until"] != until:
                        await asyncio.sleep(0.02)

            await held(before)
            await changed(after, "--statistics", str(today.folder))
            await held(after)
            await held(before, replayed=after - 1)
            await held(after, replayed=after)
            await changed(before, "--undo", "statistics")
            await held(before)

    run(scenario())
    assert told[0] == told[-1] != told[1], "told apart by rows"
    assert {row for rows in told[0] for row in rows} > {UNKNOWN, FIRST}

    quietly(lambda: drain.main(["--journal", str(journal), "--out", str(log)]))
    said = quietly(lambda: replay.main(["--log", str(log), "--bundle", str(folder.parent)]))
    proof = json.loads(said.splitlines()[-1])
    assert proof["max_abs_diff"] <= 1e-5 and proof["rows"] == 5 * len(USERS) * len(ITEMS), proof
