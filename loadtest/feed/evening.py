"""The evening: the journal is drained, prepared and learnt from, and the service has the new model. All by commands."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from loadtest.bench.processes import bare_environment, output_of
from loadtest.errors import NoRun
from loadtest.generator.client import Client

NAME = "loop"
RECIPE = Path(__file__).with_name("recipe.toml")
UNPUBLISHED = 3  # model.train's exit code of a model that is not made `current`
PATIENCE_S, LOOK_S = 120.0, 0.1
JOURNAL = {
    "journal_flush_s": 0.2,
    "journal_rotate_s": 1,
}  # settings: what was written is closed soon, and can be drained


class Learnt(NamedTuple):
    """An evening's outcome."""

    impressions: int  # in the log so far
    clicks: int  # of these, joined
    published: bool
    version: str  # that serves tomorrow


class Evenings:
    """One seed's, in a folder: `raw` is what there is before, `journal` what the service writes."""

    def __init__(self, folder: Path, network: str, seed: int, final: bool):
        self._network, self._seed, self._final = network, seed, ("--final",) if final else ()
        self.raw, self.journal, self.home = folder / "raw", folder / "journal", folder / "bundles" / NAME
        self._base, self._log, self._data = folder / "base", folder / "log", folder / "data"

    async def begin(self) -> None:
        """The first model, of the starting set alone; published whatever it is worth. Raises NoRun."""
        await _run("model.prepare", "--dataset", "parquet", "--raw", self.raw, "--out", self._base)
        await self._train(self._base, "--recipe", RECIPE, "--publish-anyway")

    async def learn(self) -> Learnt:
        """Raises NoRun."""
        await _until(self._closed, "the journal's files are not closed")
        await _run("service.drain", "--journal", self.journal, "--out", self._log)
        prepared = await _run(
            *("model.prepare", "--dataset", "service_log", "--raw", self._log, "--base", self._base),
            *("--grow", self.home, "--out", self._data),
        )
        trained = await self._train(self._data, "--warm", self.home, *self._final)
        counts, live = prepared["log"], (self.home / "current").resolve().name
        return Learnt(counts["impressions"], counts["joined"], trained["published"], live)

    async def _closed(self) -> bool:
        return not any(self.journal.glob("*.open"))

    async def _train(self, data: Path, *how: object) -> Any:
        where = ("--data", data, "--network", self._network, "--out", self.home.parent, "--name", NAME)
        return await _run("model.train", *where, "--seed", self._seed, "--keep", 2, *how, allowed=(0, UNPUBLISHED))


async def live(client: Client, version: str) -> None:
    """Until the service answers with it. Raises NoRun."""

    async def answers() -> bool:
        told = orjson.loads((await client.get("/model")).content)
        return bool(told["version"] == version)

    await _until(answers, f"version {version} is not live")


async def _until(holds: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    while not await holds():
        if loop.time() > until:
            raise NoRun(f"{otherwise} after {PATIENCE_S:.0f} s")
        await asyncio.sleep(LOOK_S)


async def _run(module: str, *arguments: object, allowed: tuple[int, ...] = (0,)) -> Any:
    """What a command's last line says. Raises NoRun with its last word where it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, arguments)),
        env={**bare_environment(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},  # seeds run side by side
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await output_of(process)
    if process.returncode not in allowed:
        words = err.decode(errors="replace").strip().splitlines()
        raise NoRun(f"python -m {module} ended with exit code {process.returncode}: {words[-1] if words else ''}")
    return json.loads(out.decode().strip().splitlines()[-1])
