"""Clients that are generated from /openapi.json compile, and rank: in Python and in TypeScript, by types alone.

npm's packages come from its registry once, into `.cache/clients`; where it cannot be reached the test of TypeScript
skips and says so. `make clients` runs both.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.openapi.document import API_VERSION
from tests.client import Service, get, serving

ROOT = Path(__file__).parents[2]
CALLERS = ROOT / "tests" / "clients"
RUN_JS = "import { main } from './out/rank.js'; console.log(JSON.stringify(await main(process.argv[1])))"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """With the demo bundle: its are the ids that the callers and the pages name."""
    with serving(timeout_ms="0", history_timeout_ms="5000") as service:
        yield service


@pytest.fixture(scope="module")
def pages() -> list[Any]:
    """The requests that README and the page of the API show."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/api.md")]
    return [json.loads(re.findall(r"/rank -H [^\n]* -d '(.*?)'", text, re.DOTALL)[0]) for text in texts]


def done(folder: Path, *command: object, **environment: str) -> str:
    """The output of a command that must succeed."""
    run = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, f"{command[:4]}: {run.stdout[-3000:]}{run.stderr[-3000:]}"
    return run.stdout


def check(told: Any, service: Service, caller: str) -> None:
    """What a caller told of its answers, the same in every language."""
    model = json.loads(get(f"{service.url}/model"))
    assert told["readme"]["status"] == 200 and len(told["readme"]["items"]) == 3
    assert told["shown"] == [200, 200]
    assert sorted(told["features"]["items"]) == ["i390", "i586"] and told["request_id"] == caller
    assert told["wrong"] == {"status": 422, "items": [], "kind": "invalid_request"}
    assert told["batch"] == [2, "invalid_request"]
    assert told["model"]["version"] == model["version"] and told["model"]["limit"] == 5000
    assert told["model"]["defaults"] == ["match_type", "position", "page"]
    assert told["model"]["attributes"] == ["category_id", "shop_id", "tag"]
    assert told["metrics"] is True


def test_a_generated_python_client_type_checks_and_ranks(service: Service, pages: list[Any], tmp_path: Path) -> None:
    if importlib.util.find_spec("openapi_python_client") is None:
        pytest.skip("openapi-python-client is not installed: pip install -e '.[dev]'")
    (tmp_path / "openapi.json").write_text(get(f"{service.url}/openapi.json"))
    ruff = str(Path(sys.executable).parent)  # the generator formats what it has written
    told = done(
        tmp_path,
        *(sys.executable, "-m", "openapi_python_client", "generate", "--meta", "pdm"),
        *("--path", "openapi.json", "--output-path", "client"),
        PATH=f"{ruff}{os.pathsep}{os.environ['PATH']}",
    )
    assert "arning" not in told, told  # nothing of the document was left out
    client = tmp_path / "client"
    package = tomllib.loads((client / "pyproject.toml").read_text())["project"]
    assert (package["name"], package["version"]) == ("bst-ranker-client", API_VERSION)
    shutil.copy(CALLERS / "rank.py", client)
    done(
        client, sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", tmp_path, "rank.py"
    )
    told = done(client, sys.executable, "rank.py", service.url, json.dumps(pages), no_proxy="127.0.0.1")
    check(json.loads(told), service, "python-1")


def test_a_generated_typescript_client_compiles_and_ranks(service: Service, pages: list[Any], tmp_path: Path) -> None:
    modules = node_modules()
    (tmp_path / "node_modules").symlink_to(modules)
    for name in ("rank.ts", "tsconfig.json", "package.json"):
        shutil.copy(CALLERS / name, tmp_path)
    (tmp_path / "openapi.json").write_text(get(f"{service.url}/openapi.json"))
    typed = 'import type { components } from "./api.js";\nexport const pages: components["schemas"]["RankRequest"][] = '
    (tmp_path / "pages.ts").write_text(typed + json.dumps(pages))
    done(tmp_path, "node", "node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "api.d.ts")
    done(tmp_path, "node", "node_modules/typescript/bin/tsc")
    told = done(tmp_path, "node", "--input-type=module", "-e", RUN_JS, service.url)
    check(json.loads(told), service, "typescript-1")


def node_modules() -> Path:
    """npm's packages as the lock file names them, kept for the next run. Skips where they cannot be had."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    lock = (CALLERS / "package-lock.json").read_bytes()
    kept = ROOT / ".cache" / "clients" / hashlib.sha256(lock).hexdigest()[:16]
    if not kept.is_dir():
        partial = kept.with_name(f"{kept.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        try:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(CALLERS / name, partial)
            npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
            try:
                ended = subprocess.run(npm, cwd=partial, capture_output=True, text=True, timeout=100)
                failure = ended.stderr[-300:] if ended.returncode else ""
            except subprocess.TimeoutExpired as error:
                failure = str(error)
            if failure:
                pytest.skip(f"npm cannot install what tests/clients/package-lock.json names: {failure}")
            partial.rename(kept)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return kept / "node_modules"
