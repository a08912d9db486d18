"""The fault suite in short: some of its faults under few requests. In full: `make faults`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from model.features.behaviour import Behaviour
from model.servicelog.tables import SCHEMAS
from service.store.format import queue_write
from tests.faults.held import Held, LeftOut
from tests.faults.store.server import RealStore, real_store
from tests.faults.table import FAULTS, Fault, seen
from tests.faults.world import World, world
from tests.faults.writes.account import Account
from tests.faults.writes.audit import audit_log, audit_store
from tests.judge.ledger import Told
from tests.records import NOW

SHORT = [fault for fault in FAULTS if fault.short]


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    with world(users=100) as made:
        yield made


@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: fault.name)
def test_what_is_promised_under_a_fault_holds(running: World, fault: Fault) -> None:
    try:
        held = asyncio.run(seen(fault, running, max(100, fault.size // 100)))
    except LeftOut as error:
        pytest.skip(str(error))
    assert not held.broken, "\n".join(held.broken)
    assert held.sent >= 20, f"{fault.name}: only {held.sent} requests were sent"


def test_the_suite_tells_another_users_answer_and_one_without_its_history(running: World) -> None:
    users = running.users
    one, other = users.ordinary[:2]

    def answer(scores: dict[str, float], degraded: list[str], history_length: int) -> dict[str, object]:
        items = [{"item_id": item, "score": score} for item, score in sorted(scores.items(), key=lambda pair: -pair[1])]
        return {"items": items, "degraded": degraded, "history_length": history_length, "new_user": False}

    mine, theirs, bare = users.whole[one], users.whole[other], users.bare[one]
    assert users.wrong(one, answer(mine.scores, [], mine.history_length)) is None
    assert users.wrong(one, answer(bare.scores, ["history:open"], 0)) is None
    assert users.wrong(one, answer(mine.scores, ["history:cached"], mine.history_length)) is None
    crossed = users.wrong(one, answer(theirs.scores, [], mine.history_length))
    assert crossed and "CROSSED" in crossed and other in crossed
    silent = users.wrong(one, answer(bare.scores, [], 0))
    assert silent and "history_length 0" in silent
    unknown = users.wrong(one, answer(mine.scores, ["history"], mine.history_length))
    assert unknown and "allowed are history:timeout" in unknown


def test_the_suite_tells_a_lost_write_and_what_is_back_though_it_was_forgotten(tmp_path: Path) -> None:
    def click(user_id: str, at: int) -> Told:
        return Told("click", user_id, f"i{at}", NOW + at, "r1")

    kept, lost, gone = (Account(user_id=f"audit-{name}") for name in ("kept", "lost", "gone"))
    for account in (kept, lost, gone):
        account.sends([click(account.user_id, 1), click(account.user_id, 2)])
        account.acknowledges(account.sent)
        account.has_put({"age": "30"})
    gone.deleted()

    def write(store: RealStore, account: Account, *at: int) -> None:
        behaviours = [Behaviour("click", "item", f"i{one}", NOW + one) for one in at]
        queue_write(store.admin, account.user_id, behaviours, {"age": "30"}, keep=100, ttl_s=100)

    def drained(*events: Told, day: str = "day=2027-01-15") -> None:
        rows = [(told.event, told.user_id, "item", *told[2:], None, 0, at) for at, told in enumerate(events)]
        path = tmp_path / "events" / day / "1.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows, SCHEMAS["events"], orient="row").write_parquet(path)
        profiles = [(one.user_id, '{"age": "30"}', True, 0, 0) for one in (kept, lost)]
        path = tmp_path / "users" / day / "1.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(profiles, SCHEMAS["users"], orient="row").write_parquet(path)
        path = tmp_path / "forgotten" / "1.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame([("audit-gone", 1)], SCHEMAS["forgotten"], orient="row").write_parquet(path)

    with real_store() as store:
        write(store, kept, 1, 2)
        write(store, lost, 1, 2)
        held = Held("whole")
        drained(*kept.sent, *lost.sent)
        audit_store(held, [kept, lost, gone], store, "audit-")
        audit_log(held, [kept, lost, gone], tmp_path, "audit-")
        assert (held.lost_writes, held.wrong) == (0, 0), held.quoted

        store.admin.delete("{u:audit-lost}:history:2:click|item")
        write(store, gone, 1)
        write(store, Account(user_id="audit-nobody"), 1)
        held = Held("in the store")
        audit_store(held, [kept, lost, gone], store, "audit-")
        assert held.lost_writes == 2 and held.wrong == 3, held.quoted  # back: history and profile; and nobody's keys

    drained(*kept.sent, *kept.sent, click("audit-gone", 1), click("audit-nobody", 1))
    held = Held("in the log")
    audit_log(held, [kept, lost, gone], tmp_path, "audit-")
    assert held.lost_writes == 2 and held.wrong == 2, held.quoted


def test_no_two_faults_have_one_name_and_each_says_what_it_does_and_promises() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) > 40
    assert all(fault.does and fault.promises for fault in FAULTS)
