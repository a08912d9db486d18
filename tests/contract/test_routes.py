"""The routes are one table; what documents them, labels them and refuses others follows from it."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from model.bundle.reading import Bundle
from service.api.endpoint import Door
from service.api.routes import ALLOWED, ENDPOINTS, STAGES_OF
from service.app import create_app
from service.errors import KINDS, OF_STATUS, SHED
from service.listed import MOST_BUDGETS
from service.settings import Settings
from service.store.history import REASONS
from service.telemetry.counts import Metrics
from service.telemetry.families import ROUTES
from service.telemetry.folder import FOLDER_BYTES_PER_WORKER
from tests.client import client_of, run


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    return create_app(Settings(), tmp_path_factory.mktemp("counts"))


def test_every_route_of_the_table_is_answered_by_the_one_door(app: FastAPI) -> None:
    doors = {(route.path.replace(":rest}", "}"), *route.methods) for route in app.routes if isinstance(route, Door)}
    assert doors == {(endpoint.path, endpoint.method) for endpoint in ENDPOINTS}


def test_the_documentation_holds_the_table_and_nothing_else(app: FastAPI) -> None:
    documented = {(path, method.upper()) for path, of_path in app.openapi()["paths"].items() for method in of_path}
    assert documented == {(one.path, one.method) for one in ENDPOINTS if one.summary is not None}


def test_documented_errors_are_those_of_the_error_tree(app: FastAPI) -> None:
    responses = app.openapi()["paths"]["/rank"]["post"]["responses"]
    assert set(responses) == {
        "200",
        "400",
        "401",
        "403",
        "408",
        "413",
        "414",
        "415",
        "422",
        "429",
        "431",
        "500",
        "503",
        "504",
    }
    assert {int(status) for status in responses} - {200} <= {error.status for error in KINDS}
    assert all(OF_STATUS[error.status].status == error.status for error in KINDS)


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("GET", "/rank"), ("DELETE", "/model")])
def test_what_the_table_does_not_have_is_refused_with_what_it_has(method: str, path: str, valkey_url: str) -> None:
    async def go() -> tuple[int, str]:
        async with client_of(Bundle.open(Settings().bundle), valkey_url) as client:
            answer = await client.request(method, path)
            return answer.status_code, answer.json()["error"]["message"]

    status, message = run(go())
    assert status == (404 if path == "/nowhere" else 405)
    assert message.endswith(f"allowed: {ALLOWED}")
    assert set(re.findall(r"/[\w/.{}]*", ALLOWED)) == {endpoint.path for endpoint in ENDPOINTS}


def test_the_metrics_know_the_tables_routes_and_the_trees_refusals(app: FastAPI, valkey_url: str) -> None:
    async def go() -> str:
        async with client_of(Bundle.open(Settings().bundle), valkey_url) as client:
            return str((await client.get("/metrics")).text)

    families = {family.name: family for family in text_string_to_metric_families(run(go()))}
    routes = {sample.labels["route"] for sample in families["ranker_requests"].samples}
    assert routes == {*STAGES_OF, "unmatched"}
    assert {sample.labels["reason"] for sample in families["ranker_shed"].samples} == set(SHED)
    assert list(STAGES_OF.items()) == list(ROUTES.items()), "the parent and the admin process count what workers count"


def test_a_handler_is_named_in_one_row(app: FastAPI) -> None:
    handlers = [endpoint.handler for endpoint in ENDPOINTS]
    assert len(handlers) == len(set(handlers))
    assert ENDPOINTS[0].path == "/rank", "the route asked most often is the first that is tried"


def test_a_workers_counts_take_the_room_that_is_asked_of_the_folder(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, STAGES_OF, REASONS, budgets_s=[0.0123 + n / 1000 for n in range(MOST_BUDGETS)])
    [file] = tmp_path.glob("worker-*")
    metrics.close()
    assert FOLDER_BYTES_PER_WORKER / 2 < file.stat().st_size <= FOLDER_BYTES_PER_WORKER
