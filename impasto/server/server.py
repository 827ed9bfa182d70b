"""A server: its services on their addresses, from the start to the end of the drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from typing import Self
from wsgiref.simple_server import WSGIServer

from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from impasto.api.impasto.v1 import models_pb2_grpc
from impasto.engine.backend import available_cores
from impasto.server import generation, health, inference, models
from impasto.server.accepting import new_grpc_server
from impasto.server.config import MEBIBYTE, ServerConfig
from impasto.server.explore import Explore
from impasto.server.generation import GenerationService
from impasto.server.health import Health
from impasto.server.host import ModelHost
from impasto.server.inference import InferenceService
from impasto.server.interceptor import Guard, Router
from impasto.server.listening import bind, export
from impasto.server.metrics import Metrics
from impasto.server.models import ModelService
from impasto.server.process import (
    keep_events_to_one_core,
    keep_freed_memory,
    let_the_event_loop_finish,
    new_event_loop,
    spare_the_garbage_collector,
)

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""How long the last replies may take to leave once every call is answered; health watchers end with it."""
ABORT_SECONDS = 0.5
"""How long aborted calls may take to leave."""
QUIET_SECONDS, LATEST_SECONDS = 0.02, 1.0
"""gRPC stops once no call has come for so long, or else about so long after the last accepted one was answered."""
LOOKS = 10
"""At how many moments of the quiet time it is looked whether a call has come: the event loop may miss some of them."""


class Server:
    """`async with Server(config) as server:` listens, loads the models, and serves; leaving it drains and stops."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.metrics = Metrics()
        self.host = ModelHost(config, self.metrics)
        self.address = ""
        self.metrics_address = ""
        router = Router()
        self._guard = Guard(router, self.metrics, self.host.is_loaded)
        GenerationService(self.host, config).add_to(self._guard)
        self._explore = Explore(self.host, config, self._guard.refusal)
        self._explore.add_to(self._guard)
        self._guard.add(models_pb2_grpc.add_ModelServiceServicer_to_server, ModelService(self.host))
        InferenceService(self.host, config).add_to(self._guard)
        services = [generation.SERVICE, models.SERVICE, inference.SERVICE]
        self._health = Health(services)
        self._health.add_to(router)
        reflected = [*services, health.SERVICE, reflection.SERVICE_NAME]
        reflector = reflection.aio.ReflectionServicer(reflected)
        router.add(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflector)
        options = [
            ("grpc.max_receive_message_length", config.limits.receive_mib * MEBIBYTE),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
        self._grpc = new_grpc_server([router], options)
        self._exporter: WSGIServer | None = None
        self._hurried = asyncio.Event()

    async def start(self) -> None:
        """Listen, then load the models; health says SERVING when this returns.

        InvalidRequest if an address or a TLS file cannot be used, and what loading a model raises.
        """
        await self._health.not_serving()
        self.address = bind(self._grpc, self.config.listen, self.config.tls)
        await self._grpc.start()
        if self.config.metrics_listen:
            self._exporter, self.metrics_address = export(self.metrics, self.config.metrics_listen)
        await self.host.load_all()
        await self._health.serving()

    async def stop(self) -> None:
        """Refuse new calls, finish those accepted within the grace time, abort the rest, and free everything."""
        await self._health.not_serving()
        self.host.draining = True
        self._explore.drain()
        aborted = 0 if await self._drain() else self._guard.in_flight
        if aborted:
            log.warning("%d calls are aborted", aborted)
            self.host.abort()
        await self._grpc.stop(ABORT_SECONDS if aborted else FLUSH_SECONDS)
        if self._exporter:
            await asyncio.to_thread(self._exporter.shutdown)
            self._exporter.server_close()
        if not self._hurried.is_set():
            await self.host.close()

    def hurry(self) -> None:
        """Make a stop that has begun abort what is left."""
        self._hurried.set()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def _drain(self) -> bool:
        """Whether all calls have ended, and no more come: not if the grace time is over, or a hurry came, before."""
        ends = [asyncio.ensure_future(wait) for wait in (self._answer_the_last(), self._hurried.wait())]
        await asyncio.wait(ends, timeout=self.config.drain_grace_s, return_when=asyncio.FIRST_COMPLETED)
        answered = ends[0].done()
        for end in ends:
            end.cancel()
        return answered

    async def _answer_the_last(self) -> None:
        """Return when every call has its answer, and no more come; those that do are refused.

        gRPC cancels what is still on its way when it stops, and callers do not try a cancelled call again.
        """
        await self._guard.empty()
        latest = time.monotonic() + LATEST_SECONDS
        quiet = 0
        while quiet < LOOKS and time.monotonic() < latest:
            calls = self._guard.calls
            await asyncio.sleep(QUIET_SECONDS / LOOKS)
            await self._guard.empty()
            quiet = quiet + 1 if calls == self._guard.calls else 0


def _log_address(server: Server) -> None:
    log.info("serving on %s", server.address)


async def serve(config: ServerConfig, on_ready: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal aborts what is left."""
    server = Server(config)
    signalled = asyncio.Event()

    def on_signal() -> None:
        if signalled.is_set():
            server.hurry()
        signalled.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    stopping = asyncio.ensure_future(signalled.wait())
    async with server:
        spare_the_garbage_collector()
        let_the_event_loop_finish()
        if any(model.engine.lanes >= available_cores() > 1 for model in server.host.loaded()):
            keep_events_to_one_core()
        on_ready(server)
        await stopping
        log.info("draining for at most %g s", config.drain_grace_s)


def run(config: ServerConfig, on_ready: Callable[[Server], None] = _log_address) -> None:
    """Serve until a signal; blocks. `on_ready` is called once the models are loaded."""
    keep_freed_memory()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(config, on_ready))
