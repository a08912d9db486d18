"""Two instances on one Redis Cluster and one home of bundles, and what operations does to them while callers go on."""

import asyncio
import json
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from loadtest.bench.processes import bare_environment, free_ports, on, output_of
from loadtest.errors import NoRun
from loadtest.generator.answers import Kind, check
from loadtest.generator.client import Client
from loadtest.generator.plan import Body
from loadtest.rolling.cluster import Cluster
from loadtest.rolling.instances import PATIENCE_S, Instance
from loadtest.rolling.stream import address
from loadtest.surge.scrape import requests, scrape
from model.bundle import versions
from service.settings import DEMO_BUNDLE

INSTANCES = 2
LOOK_S = 0.1  # between two looks whether something has come about
NEWER = "29990101T000000-newer"  # the version that is published: the demo bundle's own files
NEW_ITEM = "an-item-of-the-newer-catalogue"
SETTINGS = {"history_timeout_ms": 200, "timeout_ms": 10_000}  # a busy machine makes no answer late, few degraded


class Fleet:
    """Use it within one running loop. `folder` is the home of bundles and whatever else it writes."""

    def __init__(self, store: Cluster, folder: Path, cpus: set[int], stack: AsyncExitStack):
        self._store, self._folder, self._cpus, self._stack = store, folder, cpus, stack
        self._home = folder / "bundles"
        self._settings: dict[str, object] = {"redis_url": store.url, "bundle": self._home, **SETTINGS}
        ports = free_ports(2 * INSTANCES)
        self.ports, self.admin_ports = ports[:INSTANCES], ports[INSTANCES:]
        self.clients: list[Client] = []  # an instance each, past the balancer
        self._clock = asyncio.get_running_loop().time

    async def start(self) -> None:
        """Until all instances are ready. Raises NoRun."""
        version = json.loads((DEMO_BUNDLE / versions.MANIFEST).read_bytes())["version"]
        shutil.copytree(DEMO_BUNDLE, self._home / version)
        versions.point(self._home, version)
        self._instances = [await self._begin(number) for number in range(INSTANCES)]
        for instance in self._instances:
            await instance.ready()
            self.clients.append(Client(address(instance.port)))
            self._stack.push_async_callback(self.clients[-1].close)
            await self.clients[-1].reach()

    async def items(self) -> list[str | int]:
        """Ids to ask for."""
        return list((await self._models())[0]["samples"]["item_ids"])

    async def fail_over(self, bodies: Sequence[Body]) -> dict[str, float]:
        """Seconds from a primary's SIGKILL until its replica has its slots, and until all bodies are answered right."""
        begun = self._clock()
        self._store.kill_first()

        async def taken_over() -> bool:
            return await asyncio.to_thread(self._store.taken_over)

        taken_over_s = await self._until(begun, "the replica has taken over", taken_over)
        right_s = await self._until(begun, "all users have their histories again", lambda: self._all_right(bodies))
        return {"taken_over_s": taken_over_s, "recovered_s": right_s}

    async def publish(self) -> dict[str, float]:
        """Seconds from a command's start until all instances answer with a newer bundle, and with a newer catalogue.

        `published_s` is until the first command has ended.
        """
        newer = self._folder / "newer"
        shutil.copytree(DEMO_BUNDLE, newer)
        manifest = newer / versions.MANIFEST
        manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | {"version": NEWER}))
        begun = self._clock()
        await self._command("service.publish", newer, "--to", self._home)
        published_s = self._clock() - begun

        async def published() -> bool:
            return all({one["version"] for one in model["workers"]} == {NEWER} for model in await self._models())

        bundle_s = await self._until(begun, "all workers answer with the newer bundle", published)
        before, file = (await self._models())[0]["catalog"], self._folder / "items.jsonl"
        file.write_text(json.dumps({"item_id": NEW_ITEM} | dict.fromkeys(before["attributes"], "new")))
        begun = self._clock()
        await self._command("model.catalog", "--bundle", self._home, "--items", file, "--merge")

        async def catalogued() -> bool:
            return all(model["catalog"]["items"] == before["items"] + 1 for model in await self._models())

        catalog_s = await self._until(begun, "all instances have the newer catalogue", catalogued)
        return {"published_s": published_s, "bundle_live_s": bundle_s, "catalog_live_s": catalog_s}

    async def renew(self) -> dict[str, float]:
        """Seconds that it takes to end and start all instances anew, each when the one before it answers callers."""
        begun = self._clock()
        for number in range(INSTANCES):
            self._instances[number].terminate()
            await self._instances[number].ended()
            self._instances[number] = await self._begin(number)
            await self._instances[number].ready()
            answers = partial(self._answers, number)
            await self._until(self._clock(), f"callers come to instance {number} again", answers)
        return {"renewed_s": self._clock() - begun}

    async def asked(self) -> list[int]:
        """Of each instance, how many requests it counts since its start, however they ended."""
        return [requests(await scrape(client)).total() for client in self.clients]

    async def _answers(self, number: int) -> bool:
        """Whether the balancer sends callers to it: nobody else asks a new instance."""
        return (await self.asked())[number] > 0

    async def _begin(self, number: int) -> Instance:
        own = self._settings | {"admin_port": self.admin_ports[number]}
        instance = await Instance.start(self.ports[number], self._cpus, own)
        self._stack.push_async_callback(instance.kill)
        return instance

    async def _models(self) -> list[dict[str, Any]]:
        return [orjson.loads((await client.get("/model")).content) for client in self.clients]

    async def _all_right(self, bodies: Sequence[Body]) -> bool:
        for client in self.clients:
            for body in bodies:
                answer = await client.ask("POST", "/rank", body.content)
                if check(answer, body).kind != Kind.RIGHT:
                    return False
        return True

    async def _until(self, begun: float, what: str, holds: Callable[[], Awaitable[bool]]) -> float:
        """Seconds since `begun`. Raises NoRun."""
        while not await holds():
            if self._clock() - begun > PATIENCE_S:
                raise NoRun(f"{PATIENCE_S:.0f} s have passed, and it is not so that {what}")
            await asyncio.sleep(LOOK_S)
        return self._clock() - begun

    async def _command(self, module: str, *arguments: object) -> None:
        """Raises NoRun where it does not end with 0."""
        with on(self._cpus):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *map(str, arguments)),
                env=bare_environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        output, _ = await output_of(process)
        if process.returncode:
            lines = output.decode(errors="replace").strip().splitlines()
            raise NoRun(f"{module} ended with {process.returncode}: {lines[-1] if lines else 'without a word'}")
