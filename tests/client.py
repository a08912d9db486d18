"""The service as its callers meet it: in process through ASGI, or `python -m service` as a process of its own."""

import asyncio
import json
import os
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cached_property
from typing import Any

import httpx
import numpy as np
import polars as pl
from prometheus_client.parser import text_string_to_metric_families

from model.bundle.precision import Precision, choose
from model.bundle.reading import Bundle
from model.evaluation.measure import score_rows
from model.prepared.loader import Prepared
from model.prepared.order import in_order
from service.app import create_app
from service.backfill import load_tables
from service.settings import Settings
from service.telemetry.folder import prepare_folder
from service.telemetry.tracing import Tracing
from tests.processes import Running, started, wait_until

NOW = 1_757_900_000_000


@asynccontextmanager
async def client_of(
    bundle: Bundle, url: str, closed_pool: bool = False, traces: Tracing | None = None, **changes: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, started as uvicorn would start it; with `closed_pool` its scoring threads are dead."""
    given = {"history_timeout_ms": 1000, "timeout_ms": 60_000} | changes  # a busy machine is no reason to fail
    settings = Settings(bundle=bundle.folder, redis_url=url, **given)
    async with AsyncExitStack() as stack:
        app = create_app(settings, stack.enter_context(prepare_folder(1)), traces)
        await stack.enter_async_context(app.router.lifespan_context(app))
        if closed_pool:
            app.state.live.current.scorer.close()
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://ranker"))


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


def ask(bundle: Bundle, url: str, *bodies: Any, **changes: Any) -> list[httpx.Response]:
    """Answers of POST /rank to bodies: dicts, or bytes as they are."""

    async def go() -> list[httpx.Response]:
        async with client_of(bundle, url, **changes) as client:
            return [
                await client.post("/rank", **({"content": body} if isinstance(body, bytes) else {"json": body}))
                for body in bodies
            ]

    answers: list[httpx.Response] = run(go())
    return answers


def items_of(bundle: Bundle, count: int) -> list[str]:
    """So many items that the bundle knows, each once."""
    return list(dict.fromkeys(item for request in bundle.golden() for item in request["candidates"]))[:count]


def replay(
    bundle: Bundle, data: Prepared, url: str, rows: Any, keep: int = 1000, precision: Precision = "auto"
) -> float:
    """Impressions asked for one by one, before a store of the log: each is scored as `evaluate --precision` scores it.

    But for those of whose history the store no longer holds all, which the answer says; gives the others' share.
    """
    load_tables(data.folder, url, keep=keep, ttl_s=10_000)
    frame = in_order(pl.read_parquet(data.folder / "tables" / "impressions.parquet"), data.schema)
    context = [f.name for f in data.schema.side("context")]
    expected = score_rows(bundle, data, rows, choose(bundle, precision).session)
    bodies = [
        {
            "user_id": row["user_id"],
            "candidates": [row["item_id"]],
            "timestamp": row["timestamp"],
            "context": {name: row[name] for name in context},
        }
        for row in frame[rows.tolist()].iter_rows(named=True)
    ]
    answers = ask(bundle, url, *bodies, history_keep=keep, precision=precision)
    served = [answer.json()["items"][0]["score"] for answer in answers]
    assert all(not answer.json()["degraded"] for answer in answers)
    complete = np.array([answer.json()["history_complete"] for answer in answers])
    np.testing.assert_allclose(np.array(served)[complete], expected[complete], atol=1e-5)
    lengths = {answer.json()["history_length"] for answer in answers}
    assert len(lengths) > 3, "the replay saw hardly any history"
    return float(complete.mean())


def requests(metrics: str, route: str, outcome: str) -> float:
    """How many were counted, whatever the model that answered them."""
    (family,) = [f for f in text_string_to_metric_families(metrics) if f.name == "ranker_requests"]
    wanted = {"route": route, "outcome": outcome}.items()
    return sum(sample.value for sample in family.samples if wanted <= sample.labels.items())


# ---- as a process


class Service(Running):
    """A running service."""

    def curl(self) -> str:
        """The curl line it prints when it is ready."""
        wait_until(lambda: "curl" in self.output or self.process.poll() is not None, self)
        self.children.look()
        (line,) = [line for line in self.output.splitlines() if line.startswith("curl ")]
        return line

    def all_answer(self, workers: int) -> None:
        """Waits until all of them do: it says that it is ready when the first does."""
        models = re.compile(r"^ranker_worker_model_info\{", re.MULTILINE)
        wait_until(lambda: len(models.findall(get(f"{self.url}/metrics"))) == workers, self)

    @cached_property
    def url(self) -> str:
        found = re.search(r"(http://\S+)/rank", self.curl())
        assert found
        return found.group(1)


@contextmanager
def serving(*arguments: object, **settings: str) -> Iterator[Service]:
    """A service with these arguments and settings and no other, on a free port; see `started`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RANKER_")}
    environment |= {"RANKER_PORT": "0", "RANKER_DRAIN_S": "0", "PYTHONUNBUFFERED": "1"}  # nobody balances here
    environment |= {f"RANKER_{k.upper()}": v for k, v in settings.items()}
    with started("-m", "service", *arguments, environment=environment, kind=Service) as service:
        yield service


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def post(url: str, body: Any) -> Any:
    """The answer to a body. Raises HTTPError."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())
