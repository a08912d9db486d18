"""Work that must not be felt by requests: in a process of its own that yields to others, or in a thread to be left.

A thread of asyncio's pool would be waited for when the process ends; one that hangs on a dead disk is not.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from model.bundle.errors import BundleError
from service.process.child import of_this
from service.telemetry.relay import relayed

ENDS_S = 5.0  # from the wish that a process end until it is killed
LIMIT_S = 1800.0  # of a process: ten million items are checked in seconds, by a slow line fetched in minutes
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # numpy's threads would each take a core
Answer = TypeVar("Answer")


def yield_cores(idle: bool) -> None:
    """This process runs behind others; `idle`: only where nobody else wants the core. It cannot be taken back.

    With Linux' autogroups a session is a group of its own, within which alone a priority counts: so the group's too.
    """
    nice = 19 if idle else 10  # 10: a tenth of a core that is busy otherwise
    os.nice(nice)
    if idle and hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


class TooSlow(BundleError):
    """What was not done within its limit."""


async def process(program: str, *arguments: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """What a process that runs `program` prints last, as JSON.

    Raises BundleError: its `problem`, or how it ended; TooSlow after `limit_s`. It is ended then, and where nobody
    waits any more.
    """
    with relayed("check") as log_lines:
        one = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            *arguments,
            env=os.environ | ALONE | of_this() | log_lines.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_lines.stderr,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(limit_s):
            output, _ = await one.communicate()
    except TimeoutError:
        raise TooSlow(f"{arguments[0]}: not looked through after {limit_s:.0f} s; given up") from None
    finally:
        if one.returncode is None:
            await _ended(one)
    return answer(output, one.returncode or 0, arguments[0])


async def _ended(one: asyncio.subprocess.Process) -> None:
    """Lets it remove what it has half-written."""
    for end in (one.terminate, one.kill):
        with suppress(ProcessLookupError):
            end()
        with suppress(TimeoutError):
            await asyncio.wait_for(one.wait(), ENDS_S)
            return


def answer(output: bytes, code: int, what: str) -> dict[str, Any]:
    """The JSON in the last line of a process' output. Raises BundleError."""
    lines = output.splitlines()
    if code or not lines:
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise BundleError(f"{what}: the process that looked at it ended with {ended}")
    told: dict[str, Any] = json.loads(lines[-1])
    if "problem" in told:
        raise BundleError(told["problem"])
    return told


async def thread(work: Callable[[], Answer]) -> Answer:
    """What `work` gives, or raises, in a thread of its own, which ends with the process and is not waited for then."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Answer] = loop.create_future()

    def set_(result: Answer | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # whatever it is belongs to who asked
            error = raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(set_, result, error)

    threading.Thread(target=run, name="apart", daemon=True).start()
    return await done
