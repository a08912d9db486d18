"""The project's own pages as tests read them: where they lie, and their headings' anchors."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> list[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def section(page: Path, anchor: str) -> str:
    """What stands below that heading, up to the next one."""
    return HEADING.split(FENCE.sub("", page.read_text()))[2 * anchors(page).index(anchor) + 2]
