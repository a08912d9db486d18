"""A service that is started, told to end and waited for while callers go on: nothing here blocks the event loop."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from loadtest.bench.processes import bare_environment, on, ready
from loadtest.errors import NoRun

PATIENCE_S, LOOK_S = 120.0, 0.05


class Instance:
    """`python -m service` on the demo bundle, with these settings, on these cores."""

    def __init__(self, process: asyncio.subprocess.Process, output: "tempfile._TemporaryFileWrapper[bytes]", port: int):
        self._process, self._output, self.port = process, output, port

    @classmethod
    async def start(cls, port: int, cpus: set[int], settings: Mapping[str, object]) -> "Instance":
        named = {f"RANKER_{name.upper()}": str(value) for name, value in {**settings, "port": port}.items()}
        output = tempfile.NamedTemporaryFile()  # noqa: SIM115  # closed when it has ended
        with on(cpus):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "service"),
                env={"RANKER_LOG_LEVEL": "warning", **bare_environment(), **named},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.file,
                stderr=output.file,
                start_new_session=True,
            )
        return cls(process, output, port)

    async def ready(self) -> None:
        """Until /health/ready says 200. Raises NoRun."""
        async with self._patience("to be ready"):
            while not await asyncio.to_thread(ready, self.port):
                if self._process.returncode is not None:
                    raise NoRun(f"a service did not start: {self._last_line()}")
                await asyncio.sleep(LOOK_S)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> None:
        """Until it has ended. Raises NoRun where it does not, or with another exit code than 0."""
        async with self._patience("to end"):
            code = await self._process.wait()
        if code:
            raise NoRun(f"a service ended with exit code {code}: {self._last_line()}")

    async def kill(self) -> None:
        """What is left of it ends now."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)  # it ends its workers, and the store that it has started
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), 15)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        self._output.close()

    @asynccontextmanager
    async def _patience(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield
        except TimeoutError:
            raise NoRun(f"a service took more than {PATIENCE_S:.0f} s {what}: {self._last_line()}") from None

    def _last_line(self) -> str:
        with open(self._output.name, "rb") as file:
            lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"
