"""Composition root: the only module that knows every part of the runtime."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import structlog

from evenflow.inference.v1.inference_service_pb2_grpc import (
    add_InferenceServiceServicer_to_server,
)
from evenflow.openai.v1.chat_service_pb2_grpc import add_ChatServiceServicer_to_server
from evenflow.runtime.v1.runtime_service_pb2_grpc import add_RuntimeServiceServicer_to_server
from services.chassis import lifecycle, logs, traces
from services.chassis.environ import EX_CONFIG, InvalidConfig
from services.chassis.identity import TlsFiles
from services.chassis.server import Server, grpc_server
from services.runtime import engines
from services.runtime.config import Config
from services.runtime.core.engine import Engine, EngineFailed
from services.runtime.core.journal import JournalUnwritable
from services.runtime.inbound import chat, generation, state
from services.runtime.inbound.refusals import ERRORS
from services.runtime.inbound.serving import Serving
from services.runtime.inbound.stalls import StallWatch
from services.runtime.outbound.journal import FileJournal
from services.runtime.outbound.journal_file import JournalFile, JournalUnusable
from services.runtime.outbound.settling import Reporter

_STOP_S = 0.5  # for what is left when every request has ended

_log = structlog.get_logger(__name__)


def main() -> int:
    try:
        config = Config.from_environ(os.environ)
        engine = engines.build(config, os.environ)
    except InvalidConfig as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    logs.configure("runtime")
    try:
        lifecycle.run(serve(config, engine))
    except (*lifecycle.CANNOT_START, EngineFailed, JournalUnusable, JournalUnwritable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def serve(config: Config, engine: Engine) -> None:
    """Until SIGTERM or SIGINT. Routers see LOADING until the engine answers."""
    async with _journal(config) as journal:
        await _serve(config, engine, journal)


async def _serve(config: Config, engine: Engine, journal: FileJournal | None) -> None:
    tls = TlsFiles.in_folder(config.tls)
    otlp = config.otlp.text if config.otlp else None
    tracing = traces.start("runtime", otlp_address=otlp, tls=tls, sample_share=config.trace_share)
    serving = Serving(engine, endpoint=_endpoint(config), pool=config.pool or "", journal=journal)
    states = state.StateServicer(serving)
    server = build_server(serving, states, tls)
    server.listen(config.listen, tls)
    await server.start()
    _log.info("runtime.loading", engine=engine.name, model=engine.model, version=engine.version)
    try:
        if await _started(engine):
            serving.ready = True
            await server.set_serving()
            _log.info("server.ready", listen=str(config.listen))
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(StallWatch(serving, stall_s=config.stall_s).run())
                await lifecycle.stop_signal()
                watch.cancel()
    finally:
        await _stop(server, serving, states, drain_s=config.drain_s)
        await engine.close()
        await asyncio.to_thread(tracing.stop)


@asynccontextmanager
async def _journal(config: Config) -> AsyncIterator[FileJournal | None]:
    """Told to policy all along, and at the end what there is to tell. None: there is no policy.

    Raises JournalUnusable, JournalUnwritable.
    """
    if config.policy is None or config.journal is None:
        yield None
        return
    file = JournalFile(config.journal)
    most = config.journal_attempts
    journal = FileJournal(file, now_unix_s=_now_unix_s, most_attempts=most)
    tls = TlsFiles.in_folder(config.tls)
    reporter = Reporter(journal, config.policy.text, tls, endpoint=_endpoint(config))
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(reporter.run(random.Random())),  # noqa: S311 - jitter
                tasks.create_task(journal.keep()),
            ]
            try:
                yield journal
                with suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_S):
                        await reporter.flushed()
            finally:
                for each in running:
                    each.cancel()
    finally:
        file.close()


def _endpoint(config: Config) -> str:
    return str(config.advertise or config.listen)


def _now_unix_s() -> float:
    return datetime.now(UTC).timestamp()


def build_server(serving: Serving, states: state.StateServicer, tls: TlsFiles) -> Server:
    server = grpc_server(
        errors=ERRORS,
        callers={**generation.CALLERS, **chat.CALLERS, **state.CALLERS},
        tls=tls,
        services=[generation.SERVICE, chat.SERVICE, state.SERVICE],
    )
    generating = generation.GenerationServicer(serving)  # type: ignore[abstract] # ListModels is the router's
    add_InferenceServiceServicer_to_server(generating, server.grpc)
    add_ChatServiceServicer_to_server(
        chat.ChatServicer(serving, now_unix_s=_now_unix_s), server.grpc
    )
    add_RuntimeServiceServicer_to_server(states, server.grpc)
    return server


async def _started(engine: Engine) -> bool:
    """False when told to stop meanwhile. Raises EngineFailed, in a group as tasks do."""
    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(engine.start())
        stopping = tasks.create_task(lifecycle.stop_signal())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        stopping.cancel()
    return not starting.cancelled()


async def _stop(
    server: Server, serving: Serving, states: state.StateServicer, *, drain_s: float
) -> None:
    """Routers hear of it first; then requests may end; then streams of state do."""
    _log.info("server.draining", drain_s=drain_s, active=serving.active)
    serving.draining = True
    await server.set_not_serving()
    try:
        async with asyncio.timeout(drain_s):
            await serving.wait_until_idle()
    except TimeoutError:
        _log.warning("server.cut_off", active=serving.active)
    states.stop()
    await server.grpc.stop(_STOP_S)
    _log.info("server.stopped")
