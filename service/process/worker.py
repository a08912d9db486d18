"""One worker under `python -m service`: it answers on the socket of its parent, until it is told to stop."""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from model.bundle.errors import BundleError
from service.api.http import leaving
from service.api.http.door import Door
from service.app import create_app
from service.models.loading import Loading
from service.process.child import end_with_parent, end_within, leave
from service.process.control import Beat, Done, Drain, Drop, Failed, Leaving, Line, Load, Result, Stop, Switch, Up, told
from service.process.orders import Orders
from service.process.workers import CONTROL, LISTENER, METRICS_FOLDER
from service.settings import SettingsError, load_settings
from service.telemetry import logs, tracing

log = logging.getLogger("ranker")

BEAT_S = 0.5
CLOSING_S = 1.0  # of the time to stop: for what is closed after the last answer


def main() -> None:
    """Serves until it is told to stop or its parent is gone."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent's matter
    settings = load_settings()
    end_with_parent(settings.shutdown_grace_s)
    logs.configure(settings.log_level, settings.log_format)
    orders = Orders()
    control = socket.socket(fileno=int(os.environ[CONTROL]))
    try:
        app = create_app(settings, Path(os.environ[METRICS_FOLDER]), tracing.from_environment(os.environ), orders)
    except (BundleError, SettingsError, OSError, ValueError) as error:
        with suppress(OSError):
            told(control, Failed(str(error)))  # the parent says it, once for all tries
        leave(1)
    listener = socket.socket(fileno=int(os.environ[LISTENER]))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=cast(Any, Door),  # on httptools; its type wants an asyncio.Protocol, its code does not
        ws="none",
        log_config=None,  # its loggers write as ours do
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        access_log=False,  # it would write raw paths; at debug ours tells of every request
        server_header=False,
    )
    Answering(config, app, orders, control, settings.shutdown_grace_s).run([listener])


class Answering(uvicorn.Server):
    """uvicorn's server, which starts and stops when the parent says."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, orders: Orders, control: socket.socket, grace_s: float):
        super().__init__(config)
        self._app, self._orders, self._control, self._grace_s = app, orders, control, grace_s
        self._until = self._linger_s = 0.0
        self._parent_is_gone = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM, from whomever, is an orderly end; Ctrl-C in a terminal is the parent's matter."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._asked_to_leave)
        yield

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        code: Any = 0
        try:
            async with self._told():
                await super()._serve(sockets)
        except SystemExit as end:  # it could not start; the log says why
            code = end.code
        leave(code if isinstance(code, int) else 1)

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        line = await Line.over(self._control)
        self._orders.open(line)
        tasks = [asyncio.create_task(self._listen(line)), asyncio.create_task(self._beat(line))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            line.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        served = self._app.state.live.current
        self._orders.tell(Up(served.name, served.version, str(served.bundle.folder)))

    async def _beat(self, line: Line) -> None:
        while True:
            line.tell(Beat())
            await asyncio.sleep(BEAT_S)

    async def _listen(self, line: Line) -> None:
        loading: Loading = self._app.state.loading
        tasks: set[asyncio.Task[Done]] = set()

        def begin(number: int, done: Coroutine[Any, Any, Done]) -> None:  # beside it, other messages are heard
            def answer(task: asyncio.Task[Done]) -> None:
                tasks.discard(task)
                if task.cancelled():
                    return
                error = task.exception()  # a bundle that is none to this release fails in ways that nobody foresaw
                line.tell(task.result() if error is None else Done(number, f"a worker cannot take it: {error!r}"))

            tasks.add(task := asyncio.create_task(done))
            task.add_done_callback(answer)

        async for message in line:
            match message:
                case Drain():
                    self._app.state.duty.drain()
                    leaving.last_answers(self.server_state.connections)
                case Stop(grace_s, linger_s):
                    self._stop(grace_s, linger_s)
                case Load(number, folder):
                    begin(number, loading.load(number, Path(folder)))
                case Switch(number):
                    begin(number, loading.switch(number))
                case Drop(number, folder, problem):
                    loading.drop(number, folder, problem)
                case Result():
                    self._orders.answered(message)
        self._parent_is_gone = True
        self._orders.close()
        self._stop(self._grace_s, 0.0)

    def _asked_to_leave(self) -> None:
        """By somebody else than the parent, which may be about to stop too: systemd tells every process of a unit."""
        if self._parent_is_gone:
            self._stop(self._grace_s, 0.0)
        else:
            self._orders.tell(Leaving())

    def _stop(self, grace_s: float, linger_s: float) -> None:
        if not self.should_exit:
            end_within(grace_s + 0.1)
            self._until, self._linger_s = time.perf_counter() + grace_s, linger_s
            self._app.state.duty.close()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more, finishes what is under way, closes. In the time that there is, whatever hangs."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        left_s = self._until - time.perf_counter()
        await leaving.finish(self.server_state.connections, self._until - min(CLOSING_S, left_s / 2), self._linger_s)
        if left := len(self.server_state.tasks):
            log.warning("%d requests are left without an answer: the time to stop is over", left)
        for task in self.server_state.tasks:
            task.cancel()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.lifespan.shutdown(), max(0.0, self._until - time.perf_counter()))
