"""One worker under `python -m service`: it answers on the socket of its parent, until it is told to stop."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from model.bundle.layout import BundleError
from service.api.http.door import Door
from service.app import create_app
from service.models.loading import Loading
from service.process.child import end_with
from service.process.control import Drain, Drop, Line, Load, Result, Stop, Switch, Up
from service.process.orders import Orders
from service.process.supervisor import CONTROL, LISTENER, METRICS_FOLDER, PARENT
from service.settings import SettingsError, load_settings
from service.telemetry import logs, tracing


def main() -> None:
    """Serves until it is told to stop or its parent is gone."""
    end_with(int(os.environ[PARENT]))
    settings = load_settings()
    logs.configure(settings.log_level, settings.log_format)
    orders = Orders()
    try:
        app = create_app(settings, Path(os.environ[METRICS_FOLDER]), tracing.from_environment(os.environ), orders)
    except (BundleError, SettingsError, OSError, ValueError) as error:
        print(f"service: worker: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    listener = socket.socket(fileno=int(os.environ[LISTENER]))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=cast(Any, Door),  # on httptools; its type wants an asyncio.Protocol, its code does not
        ws="none",
        log_config=None,  # its loggers write as ours do
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        access_log=False,  # it would write raw paths; at debug ours tells of every request
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        server_header=False,
    )
    Answering(config, app, orders).run([listener])


class Answering(uvicorn.Server):
    """uvicorn's server, which starts and stops when the parent says."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, orders: Orders):
        super().__init__(config)
        self._app, self._orders = app, orders

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM, from whomever, is an orderly end; Ctrl-C in a terminal is the parent's matter."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop, None)
        yield

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with self._told():
            await super()._serve(sockets)

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        line = await Line.over(socket.socket(fileno=int(os.environ[CONTROL])))
        listening = asyncio.create_task(self._listen(line))
        self._orders.open(line)
        try:
            yield
        finally:
            listening.cancel()
            line.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        served = self._app.state.live.current
        self._orders.tell(Up(served.name, served.version, str(served.bundle.folder)))

    async def _listen(self, line: Line) -> None:
        loading: Loading = self._app.state.loading
        async for message in line:
            match message:
                case Drain():
                    self._app.state.duty.drain()
                case Stop(grace_s):
                    self._stop(grace_s)
                case Load(number, folder):
                    line.tell(await loading.load(number, Path(folder)))
                case Switch(number):
                    line.tell(loading.switch(number))
                case Drop(number):
                    loading.drop(number)
                case Result():
                    self._orders.answered(message)

    def _stop(self, grace_s: float | None) -> None:
        if grace_s is not None:
            self.config.timeout_graceful_shutdown = int(grace_s)
        self.should_exit = True
