"""SECURITY.md names every limit that can be set, with the default that it has."""

import re
from pathlib import Path

import pytest

from service.settings import Settings

TEXT = (Path(__file__).parents[2] / "SECURITY.md").read_text()
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ")]
# Numbers that bound nothing that somebody else sends: a new setting that is a number is a limit, or is named here.
NO_LIMITS = {"port", "admin_port", "workers", "score_threads", "catalog_poll_s", "bundle_poll_s", "hang_s"}
NO_LIMITS |= {"log_sample", "log_slow_ms", "compress_from_bytes"}
LIMITS = [
    name
    for name, field in Settings.model_fields.items()
    if isinstance(field.default, (int, float)) and not isinstance(field.default, bool) and name not in NO_LIMITS
]


def written(default: float) -> set[str]:
    """As a page may have it."""
    ways = {f"{default:g}", f"{default:.0f}"}
    return ways | {f"{default / size:g} {unit}" for size, unit in ((2**10, "KiB"), (2**20, "MiB"))}


@pytest.mark.parametrize("name", LIMITS)
def test_every_limit_is_in_the_table_with_its_default(name: str) -> None:
    rows = [row for row in ROWS if f"`RANKER_{name.upper()}` |" in row]
    assert rows, "SECURITY.md, Limits: this one is missing"
    default = Settings.model_fields[name].default
    for row in rows:
        cell = row.split(" | ")[1]
        assert any(re.match(rf"{re.escape(way)}(?![\w.])", cell) for way in written(default)), row


def test_some_limits_are_looked_at() -> None:
    assert {"max_body_bytes", "timeout_ms", "history_connections"} <= set(LIMITS)
