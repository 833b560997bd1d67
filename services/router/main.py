"""Composition root: the only module that knows every part of the router."""

import asyncio
import os
import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc
import structlog

from services.chassis import lifecycle, logs, traces
from services.chassis.environ import EX_CONFIG, Address, InvalidConfig
from services.chassis.identity import TlsFiles, certificate_trust_domain
from services.chassis.revocation import Revocations
from services.chassis.server import Server
from services.chassis.streams import keep_open
from services.router.config import Config
from services.router.core.admission import TimeLimits
from services.router.core.circuits import Circuits
from services.router.core.demands import WorkloadClass
from services.router.core.endpoints import Endpoints
from services.router.core.models import Catalogue
from services.router.core.requests import Requests
from services.router.core.snapshot import DataPlane, HostPort
from services.router.core.tenants import CacheSalts, PolicyView
from services.router.inbound.access_log import AccessLogServicer
from services.router.inbound.caching import Caching
from services.router.inbound.check import Mesh
from services.router.inbound.check_socket import CheckSocket
from services.router.inbound.discovery import Discovery
from services.router.inbound.publishing import Publisher
from services.router.outbound import answers
from services.router.outbound.answers import GrpcAnswers
from services.router.outbound.cache_reports import GrpcCacheReports
from services.router.outbound.endpoint_states import GrpcEndpointStates, counts
from services.router.outbound.policy import GrpcPolicy, PolicyFollower
from services.router.outbound.records import GrpcTelemetry, RecordBuffer
from services.router.outbound.runtimes import GrpcRuntime, RuntimeFollower
from services.router.servers import check_socket, operator_server, sidecar_server

_SWEEP_EVERY_S = 1.0
_KNOWN_WITHIN_S = 2.0
_LOOK_EVERY_S = 0.01
_TAKEN_WITHIN_S = 0.5  # else their callers have gone
_LAST_WORDS_S = 0.15  # Envoy tells of an end within 100 ms
_LONGEST_SOCKET_PATH = 100  # Linux takes 107 bytes, and gRPC needs a few

_log = structlog.get_logger(__name__)


def main() -> int:
    try:
        config = Config.from_environ(os.environ)
        salts = CacheSalts(config.salt_secret_file.read_bytes().strip())
        for socket in (config.socket, config.check_socket):
            _make_private(socket)
    except InvalidConfig as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    except (OSError, ValueError) as error:
        print(f"the router can't start: {error}", file=sys.stderr)
        return EX_CONFIG
    logs.configure("router")
    try:
        lifecycle.run(serve(config, salts))
    except lifecycle.CANNOT_START as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def serve(config: Config, salts: CacheSalts) -> None:
    """Until SIGTERM or SIGINT. What follows others ends after what serves."""
    tls = TlsFiles.in_folder(config.tls)
    address = config.telemetry.text if config.telemetry else None
    tracing = traces.start("router", otlp_address=address, tls=tls, sample_share=config.trace_share)
    parts = _parts(config, salts)
    async with asyncio.TaskGroup() as tasks:
        following = [tasks.create_task(each) for each in _followers(config, parts)]

        def empty(address: str) -> None:
            parts.mesh.endpoints.drain(address)
            parts.changed()
            drain = _drain(GrpcRuntime(address, tls), within_s=config.longest_timeout_s)
            following.append(tasks.create_task(drain))

        operator = operator_server(parts.mesh, tls, empty)
        operator.listen(config.operator_listen, tls)
        await _wait_until_known(parts.mesh)
        access_log = _access_log(config, parts)
        sidecar = sidecar_server(
            parts.mesh, parts.catalogue, discovery=parts.discovery, access_log=access_log
        )
        sidecar.listen(Address(f"unix:{config.socket.absolute()}"), None)
        check = check_socket(parts.mesh, _time_limits(config))
        await check.listen(config.check_socket.absolute())
        doors = _Doors(operator, sidecar, check, parts.discovery, access_log, parts.mesh.caching)
        await _serve(doors, drain_s=config.drain_s)
        for each in following:
            each.cancel()
    await asyncio.to_thread(tracing.stop)


@dataclass(frozen=True, slots=True)
class _Parts:
    mesh: Mesh
    catalogue: Catalogue
    discovery: Discovery
    publisher: Publisher
    records: RecordBuffer

    def changed(self) -> None:
        """To be told when the endpoints in service may be others."""
        self.catalogue.notice(self.mesh.endpoints.all(), datetime.now(UTC).timestamp())
        self.publisher.publish()


def _parts(config: Config, salts: CacheSalts) -> _Parts:
    policy = PolicyView(stale_after_s=config.policy_stale_s)
    endpoints = Endpoints(each.text for each in config.runtimes)
    discovery = Discovery()
    gateway = TlsFiles.in_folder(config.gateway_tls)
    publisher = Publisher(discovery.publish, _data_plane(config), endpoints, gateway)
    publisher.publish()
    return _Parts(
        mesh=Mesh(
            policy,
            endpoints,
            Requests(),
            salts,
            Circuits(_say),
            Revocations(gateway.revocations).has_serial,
            Caching(salts, most_bytes=config.cache_bytes, default_ttl_s=config.cache_ttl_s),
        ),
        catalogue=Catalogue(),
        discovery=discovery,
        publisher=publisher,
        records=RecordBuffer(capacity=config.record_buffer),
    )


def _say(address: str, is_open: bool) -> None:
    _log.warning("endpoint.circuit", endpoint=address, open=is_open)


def _followers(config: Config, parts: _Parts) -> Iterator[Coroutine[Any, Any, None]]:
    tls, mesh = TlsFiles.in_folder(config.tls), parts.mesh
    clock = asyncio.get_running_loop().time
    keep = partial(keep_open, jitter=random.Random())  # noqa: S311 - spreads reconnects
    runtimes = RuntimeFollower(
        mesh.endpoints,
        mesh.requests,
        mesh.circuits,
        parts.changed,
        silence_s=config.runtime_silence_s,
    )
    for each in config.runtimes:
        once = partial(runtimes.follow, GrpcRuntime(each.text, tls))
        yield keep(once, what=f"runtime {each}")
    if mesh.caching.on:
        for each in config.runtimes:
            handed_over = GrpcAnswers(each.text, tls, router=mesh.caching.router)
            follow = partial(answers.follow, handed_over, mesh.caching.cache, clock)
            yield keep(follow, what=f"answers of runtime {each}")
    policy = PolicyFollower(mesh.policy, clock)
    yield keep(partial(policy.follow, GrpcPolicy(config.policy.text, tls)), what="policy")
    if config.telemetry is not None:
        telemetry = GrpcTelemetry(config.telemetry.text, tls)
        yield keep(lambda: telemetry.report(parts.records.batches()), what="telemetry")
        states = GrpcEndpointStates(config.telemetry.text, tls)
        yield keep(lambda: states.report(counts(mesh.endpoints)), what="telemetry's endpoints")
        if mesh.caching.on:
            reports = GrpcCacheReports(config.telemetry.text, tls, mesh.caching.cache)
            yield keep(reports.report, what="telemetry's cache")
    yield parts.publisher.follow_certificate()
    yield _sweep(mesh, clock)


async def _wait_until_known(mesh: Mesh) -> None:
    """Returns when policy and every runtime have spoken, or could not be reached in time.

    Envoy holds its questions for a router that is not there, but takes the word of one that is.
    """
    try:
        async with asyncio.timeout(_KNOWN_WITHIN_S):
            while not (mesh.policy.version and all(each.tried for each in mesh.endpoints.all())):  # noqa: ASYNC110 - two followers write it down, and neither knows of us
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        missing = [each.address for each in mesh.endpoints.all() if not each.tried]
        _log.warning("server.unaware", policy=bool(mesh.policy.version), endpoints=missing)


def _access_log(config: Config, parts: _Parts) -> AccessLogServicer:
    record = parts.records.add if config.telemetry else None
    return AccessLogServicer(parts.mesh.requests, parts.mesh.circuits, record)


@dataclass(frozen=True, slots=True)
class _Doors:
    """All that others call."""

    operator: Server
    sidecar: Server
    check: CheckSocket
    discovery: Discovery
    access_log: AccessLogServicer
    caching: Caching


async def _serve(doors: _Doors, *, drain_s: float) -> None:
    for server in (doors.sidecar, doors.operator):
        await server.start()
        await server.set_serving()
    _log.info("server.ready")
    await lifecycle.stop_signal()
    _log.info("server.draining", drain_s=drain_s)
    doors.check.drain()
    await _replays_taken(doors.caching)
    async with asyncio.TaskGroup() as draining:
        for server in (doors.sidecar, doors.operator):
            draining.create_task(lifecycle.drain(server, drain_s=drain_s))
        # Envoy's own streams have no end, and would hold up ours for the whole of drain_s.
        doors.discovery.close()
        await asyncio.sleep(_LAST_WORDS_S)
        doors.access_log.close()
    doors.check.close()


async def _replays_taken(caching: Caching) -> None:
    """Envoy is on its way here for these; a server that drains would turn it away."""
    caching.stop()
    try:
        async with asyncio.timeout(_TAKEN_WITHIN_S):
            while caching.replays:  # noqa: ASYNC110 - Envoy takes milliseconds, and rarely once
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        _log.warning("replays.untaken", replays=len(caching.replays))


async def _sweep(mesh: Mesh, clock: Callable[[], float]) -> None:
    """Frees the slots of requests whose end was never reported, and forgets old answers."""
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        mesh.caching.expire(mesh.policy.current(clock()), clock())
        expired = mesh.requests.expire(clock())
        if expired:
            _log.warning("requests.end_unknown", requests=len(expired))


async def _drain(runtime: GrpcRuntime, *, within_s: float) -> None:
    _log.info("endpoint.draining", endpoint=runtime.address)
    try:
        await runtime.drain(within_s=within_s)
    except (grpc.aio.AioRpcError, OSError) as error:
        _log.warning("endpoint.drain_failed", endpoint=runtime.address, problem=str(error))
    else:
        _log.info("endpoint.drained", endpoint=runtime.address)


def _time_limits(config: Config) -> TimeLimits:
    return TimeLimits(
        default_s={
            WorkloadClass.INTERACTIVE: config.interactive_timeout_s,
            WorkloadClass.BATCH: config.batch_timeout_s,
            WorkloadClass.HIGH_RISK: config.high_risk_timeout_s,
        },
        longest_s=config.longest_timeout_s,
    )


def _data_plane(config: Config) -> DataPlane:
    gateway = TlsFiles.in_folder(config.gateway_tls)
    telemetry = config.telemetry
    return DataPlane(
        trust_domain=certificate_trust_domain(gateway.certificate.read_bytes()),
        mesh=HostPort.parse(config.mesh_listen.text),
        front_end=HostPort.parse(config.frontend_listen.text),
        descriptors=(files("evenflow.openai.v1") / "evenflow.binpb").read_bytes(),
        front_end_tls=config.frontend_tls,
        cors_origins=config.cors_origins,
        telemetry=HostPort.parse(telemetry.text) if telemetry else None,
        trace_share=config.trace_share,
        body_limit_bytes=config.body_limit_bytes,
        idle_limit_s=config.idle_connection_s,
        response_cache=config.cache_bytes > 0,
    )


def _make_private(socket: Path) -> None:
    """Whoever can reach the socket is taken for Envoy, so only this user can."""
    if len(str(socket.absolute())) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"the socket's path must have at most {_LONGEST_SOCKET_PATH} characters")
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.parent.chmod(0o700)
