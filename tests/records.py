"""Records of the service's log, as tests write them."""

from model.features.behaviour import Behaviour
from model.servicelog.records import Event, Impression, Shadowed, Shown

NOW = 1_800_000_000_000  # ms
DAY_MS = 86_400_000


def impression(user_id: str, request_id: str = "r1", now: int = NOW, read_us: int | None = None) -> Impression:
    return Impression(
        request_id=request_id,
        user_id=user_id,
        now=now,
        read_us=now * 1000 if read_us is None else read_us,
        replay=False,
        model="bst",
        version="1",
        variant=None,
        precision="fp32",
        catalog="c" * 64,
        statistics=None,
        items=[Shown("a", 0.5, 1), Shown("b", 0.25, 2)],
        context={"hour": 3},
        user={},
        profile={"age": "30"},
        behaviours=[Behaviour("click", "item", "z", now - 1000)],
        degraded=[],
    )


def click(user_id: str, item_id: str, timestamp: int = NOW, request_id: str | None = "r1") -> Event:
    received_us = timestamp * 1000
    return Event("click", user_id, "item", item_id, timestamp, request_id, None, received_us, received_us + 500)


def shadowed(user_id: str, request_id: str = "r1", now: int = NOW, shadow: str = "next") -> Shadowed:
    return Shadowed(request_id, user_id, now, now * 1000, shadow, "din", "2", [("b", 0.75), ("a", 0.5), ("c", 0.25)])
