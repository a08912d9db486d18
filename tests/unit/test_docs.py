"""README and docs/ stay true: links lead somewhere, and what the code has is named where people look for it."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadtest import __main__ as loadtest
from model import datasets, networks
from service import publish
from service.api.routes import ENDPOINTS
from service.app import create_app
from service.errors import KINDS
from service.settings import Settings
from service.telemetry.families import BAD_REQUESTS
from service.telemetry.folder import prepare_folder
from tests import settings_page
from tests.markdown import DOCS, FENCE, ROOT, anchors
from tests.stores import dead_url

PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")] + sorted(DOCS.glob("*.md"))
ROOMS = ("service", "model", "loadtest")

LINK = re.compile(r"\]\(([^)\s]+)\)")
ALL = "\n".join(page.read_text() for page in PAGES)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of each link of a page that stays within the repository."""
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if not link.startswith(("http://", "https://")):
            target, _, anchor = link.partition("#")
            yield ((page.parent / target).resolve() if target else page), anchor


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    assert len(set(anchors(page))) == len(anchors(page)), "two headings share an anchor"
    broken = [
        f"{target}#{anchor}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert not broken


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name_of)
def test_a_page_is_one_jump_from_the_readme(page: Path) -> None:
    assert page in {target for target, _ in links(ROOT / "README.md")}


def test_the_readme_can_be_read_in_two_minutes() -> None:
    before, _, after = (ROOT / "README.md").read_text().partition("## What is where\n\n```\n")  # a room a line
    assert len(before.splitlines()) + len(after.partition("```")[2].splitlines()) <= 88


def test_the_page_of_settings_is_what_the_settings_say() -> None:
    assert (DOCS / "settings.md").read_text() == settings_page.page(), "run `make docs`"


def test_a_setting_that_a_page_names_exists() -> None:
    named = set(re.findall(r"\bRANKER_[A-Z_]*[A-Z]\b", ALL))
    assert named - {loadtest.KEY, publish.KEY} == {f"RANKER_{name.upper()}" for name in Settings.model_fields}


@pytest.fixture(scope="module")
def served() -> tuple[dict[str, Any], str]:
    """OpenAPI document and metrics of the service with the demo bundle."""

    async def ask() -> tuple[dict[str, Any], str]:
        async with AsyncExitStack() as stack:
            settings = Settings(redis_url=stack.enter_context(dead_url()))
            app = create_app(settings, stack.enter_context(prepare_folder(1)))
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app=app)
            client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://ranker"))
            return (await client.get("/openapi.json")).json(), (await client.get("/metrics")).text

    return asyncio.run(ask())


def test_every_route_and_its_keys_are_on_the_page_of_the_api(served: tuple[dict[str, Any], str]) -> None:
    page = (DOCS / "api.md").read_text()
    for path, methods in served[0]["paths"].items():
        for method in methods:
            assert re.search(rf"{method.upper()} {re.escape(path)}(?![\w/])", page), path
    schemas = served[0]["components"]["schemas"]
    for key in (*schemas["RankRequest"]["properties"], *schemas["RankResponse"]["properties"]):
        assert f"`{key}`" in page, key


def test_the_table_of_scopes_has_every_route() -> None:
    table = (DOCS / "operations.md").read_text().split("\n| scope | lets a caller ask for |\n")[1].split("\n\n")[0]
    told = {
        ("open" if scope == "none is needed" else scope.strip("`"), path)
        for scope, routes in re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE)
        for path in re.findall(r"`(/[^`]*)`", routes)
    }
    assert told == {(endpoint.scope, endpoint.path) for endpoint in ENDPOINTS}


def test_every_metric_is_on_the_page_of_metrics_and_no_page_names_another(served: tuple[dict[str, Any], str]) -> None:
    families = set(re.findall(r"^# TYPE (\w+) ", served[1], re.MULTILINE))
    page = (DOCS / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(ranker_\w+)` \|", page, re.MULTILINE)) == families
    named = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\branker_\w+", ALL)}
    assert named <= families, named - families


def test_every_error_and_every_reason_of_a_closed_connection_is_on_its_page() -> None:
    api, operations = ((DOCS / f"{name}.md").read_text() for name in ("api", "operations"))
    for error in KINDS:
        assert f"| {error.status} | `{error.kind}` |" in api, error.kind
    reasons = operations.split("\n## Limits\n")[1].split("\n## ")[0]
    assert not [reason for reason in BAD_REQUESTS if f"`{reason}`" not in reasons]


def test_every_alert_is_in_the_runbook_and_no_other() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    runbook = (DOCS / "operations.md").read_text().split("\n## Alerts\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(Ranker\w+)` \|", runbook, re.MULTILINE) == re.findall(r"- alert: (\w+)", rules)


def test_every_network_and_its_options_are_on_the_page_of_networks() -> None:
    page = (DOCS / "networks.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| .* \| .* \|$", page, re.MULTILINE) and all(
        f"\n| `{name}` |" in page for name in networks.names()
    )
    for name in networks.names():
        assert not [option for option in networks.options(name) if f"`{option}`" not in page], name


def test_every_data_set_is_on_the_page_of_data() -> None:
    page = (DOCS / "data.md").read_text()
    assert all(f"\n| `{name}` |" in page for name in datasets.names())


def verbs() -> list[str]:
    """What `python -m` runs: files that end by it, and a room's own `__main__`."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))]
    runs = [path for path in files if '__name__ == "__main__"' in path.read_text()]
    return [path.parent.name if path.stem == "__main__" else f"{path.parent.name}.{path.stem}" for path in runs]


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_is_on_a_page(verb: str) -> None:
    assert re.search(rf"python -m {re.escape(verb)}(?![\w.])", ALL)


def test_a_verb_that_a_page_names_exists() -> None:
    named = set(re.findall(r"\b(?:python|\d) -m ((?:service|model|loadtest)(?:\.\w+)*)", ALL))
    assert named == set(verbs())


def test_a_make_target_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", ALL, re.MULTILINE))
    assert named and named <= targets, named - targets


def test_a_file_that_a_page_names_exists() -> None:
    named = set(re.findall(r"`((?:service|model|loadtest|tests|deploy|docs)/[\w./-]*)`", ALL))
    assert named and not [path for path in named if not (ROOT / path).exists()]


def test_what_the_page_of_architecture_counts_as_core_exists() -> None:
    core = re.search(r"core='(.*?)'", (DOCS / "architecture.md").read_text(), re.DOTALL)
    assert core and not [path for path in core[1].split() if not (ROOT / path).exists()]


def test_the_readmes_tree_has_every_room_and_no_other() -> None:
    tree = (ROOT / "README.md").read_text().split("## What is where\n\n```\n")[1].split("```")[0]
    drawn, at = set(), ""
    for depth, folder in re.findall(r"^( *)([\w-]+)/ ", tree, re.MULTILINE):
        at = at if depth else folder
        drawn.add(f"{at}/{folder}" if depth else folder)
    there = {*ROOMS, "deploy", "docs", "tests"} | {
        f"{room}/{folder.name}"
        for room in ROOMS
        for folder in (ROOT / room).iterdir()
        if folder.is_dir() and folder.name != "__pycache__"
    }
    assert drawn == there
