"""The shadows' process over a journal that a service wrote: killed and begun again, or beside its successor."""

from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from service.journal.lines import record
from service.journal.tail import Tail
from service.settings import Settings
from service.shadowing.process import Shadows
from service.telemetry.folder import prepare_folder
from service.variants.variants import HEADER
from tests.client import items_of
from tests.experimenting import DEMO, GOOD, in_service


def scored(journal: Path) -> Counter[tuple[str, str]]:
    """By shadow and request."""
    records: list[Any] = [record(told) for told in Tail(journal, 60).read() if told["kind"] == "shadowed"]
    return Counter((one.shadow, one.request_id) for one in records)


def test_each_request_is_scored_once_by_each_shadow_whoever_dies(valkey_url: str, tmp_path: Path) -> None:
    path, journal = tmp_path / "experiments.toml", tmp_path / "journal"
    journal.mkdir()
    shadow = f'[[shadows]]\nname = "other"\nshare = 1\nbundle = "{DEMO.folder}"\n'
    path.write_text(GOOD + shadow)

    async def scenario(client: httpx.AsyncClient) -> None:
        for number in range(12):
            body = {"user_id": f"u{number}", "candidates": items_of(DEMO, 4)}
            named = {HEADER: "control"} if number % 2 else {}
            assert (await client.post("/rank", json=body, headers=named)).status_code == 200

    in_service(valkey_url, path, scenario, journal=journal)
    given: dict[str, Any] = {"bundle": DEMO.folder, "experiments": path, "journal": journal}
    with prepare_folder(1) as folder:
        first, second = (Shadows(Settings(**given), folder) for _ in range(2))
        first.look()
        second.look()
        once = scored(journal)
        assert len(once) == 12 and set(once.values()) == {1}, "one at a time"
        first.close()
        path.write_text(GOOD + shadow + shadow.replace("other", "later"))
        second.look()
        both = scored(journal)
        assert len(both) == 24 and set(both.values()) == {1}
        second.close()
