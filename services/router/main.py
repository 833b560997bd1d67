"""Composition root: the only module that knows every part of the router."""

import asyncio
import os
import random
import sys
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
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
from services.router.core.bands import Band
from services.router.core.circuits import Circuits
from services.router.core.demands import WorkloadClass
from services.router.core.endpoints import Endpoints
from services.router.core.exchange import Change
from services.router.core.flow import FlowControl, QueueLimits
from services.router.core.hedging import Hedging
from services.router.core.models import Catalogue
from services.router.core.outliers import Outliers
from services.router.core.requests import Requests
from services.router.core.saturation import STALE_SHARE, Saturation
from services.router.core.snapshot import DataPlane, HostPort
from services.router.core.tenants import CacheSalts, PolicyView
from services.router.core.weights import Weights
from services.router.inbound.access_log import AccessLogServicer
from services.router.inbound.check_socket import CheckSocket
from services.router.inbound.discovery import Discovery
from services.router.inbound.lessons import Lessons
from services.router.inbound.line import Line
from services.router.inbound.mesh import Mesh
from services.router.inbound.peers import PeerServicer
from services.router.inbound.publishing import Publisher
from services.router.outbound.attempts import AttemptFollower, GrpcAttemptSource
from services.router.outbound.endpoint_states import GrpcEndpointStates, counts
from services.router.outbound.peers import GrpcRouter, PeerFollower
from services.router.outbound.policy import GrpcPolicy, PolicyFollower
from services.router.outbound.records import GrpcTelemetry, RecordBuffer
from services.router.outbound.runtimes import GrpcRuntime, RuntimeFollower
from services.router.servers import check_socket, operator_server, sidecar_server

_SWEEP_EVERY_S = 1.0
_KNOWN_WITHIN_S = 2.0
_LOOK_EVERY_S = 0.01
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

        operator = operator_server(parts.mesh, tls, empty, parts.told)
        operator.listen(config.operator_listen, tls)
        await _wait_until_known(parts.mesh)
        access_log = _access_log(config, parts)
        sidecar = sidecar_server(
            parts.mesh, parts.catalogue, discovery=parts.discovery, access_log=access_log
        )
        sidecar.listen(Address(f"unix:{config.socket.absolute()}"), None)
        check = check_socket(parts.mesh, _time_limits(config))
        await check.listen(config.check_socket.absolute())
        doors = _Doors(operator, sidecar, check, parts.discovery, access_log, parts.told)
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
    attempts: AttemptFollower
    told: PeerServicer
    instance_id: str

    def changed(self) -> None:
        """To be told when the endpoints in service may be others."""
        self.catalogue.notice(self.mesh.endpoints.all(), datetime.now(UTC).timestamp())
        for each in self.mesh.endpoints.all():
            self.mesh.line.changed(each)
        self.publisher.publish()


def _parts(config: Config, salts: CacheSalts) -> _Parts:
    policy = PolicyView(stale_after_s=config.policy_stale_s)
    endpoints = Endpoints(each.text for each in config.runtimes)
    discovery = Discovery()
    gateway = TlsFiles.in_folder(config.gateway_tls)
    publisher = Publisher(discovery.publish, _data_plane(config), endpoints, gateway)
    publisher.publish()
    circuits, outliers = Circuits(_say), Outliers(_say_ejected)
    instance_id = uuid.uuid4().hex

    def shut(address: str, now_s: float) -> bool:
        return circuits.is_open(address, now_s) or bool(outliers.ejected(address, now_s))

    saturation = Saturation(shut, stale_after_s=STALE_SHARE * config.runtime_silence_s)
    flow = FlowControl(saturation, _queue_limits(config), lets_all_go=not config.flow_control)
    requests = Requests(weights=Weights().scaled(config.load_weight, cached=config.prefix_weight))
    records = RecordBuffer(capacity=config.record_buffer)
    return _Parts(
        mesh=Mesh(
            policy,
            endpoints,
            requests,
            salts,
            circuits,
            Revocations(gateway.revocations).has_serial,
            Line(flow),
            outliers,
            Hedging(config.hedge_share),
        ),
        catalogue=Catalogue(),
        discovery=discovery,
        publisher=publisher,
        records=records,
        attempts=AttemptFollower(requests, records.add_attempt if config.telemetry else None),
        told=PeerServicer(instance_id, flow.queues),
        instance_id=instance_id,
    )


def _say(address: str, is_open: bool) -> None:
    _log.warning("endpoint.circuit", endpoint=address, open=is_open)


def _say_ejected(address: str, why: str) -> None:
    if why:
        _log.warning("endpoint.ejected", endpoint=address, why=why.removeprefix("ejected: "))
    else:
        _log.info("endpoint.returned", endpoint=address)


def _followers(config: Config, parts: _Parts) -> Iterator[Coroutine[Any, Any, None]]:
    tls, mesh = TlsFiles.in_folder(config.tls), parts.mesh
    clock = asyncio.get_running_loop().time
    keep = partial(keep_open, jitter=random.Random())  # noqa: S311 - spreads reconnects
    runtimes = RuntimeFollower(
        mesh.endpoints,
        mesh.requests,
        (mesh.circuits, mesh.outliers),
        parts.changed,
        silence_s=config.runtime_silence_s,
    )
    runtimes.heard = mesh.line.saw
    for each in config.runtimes:
        once = partial(runtimes.follow, GrpcRuntime(each.text, tls))
        yield keep(once, what=f"runtime {each}")
        lost = partial(parts.attempts.follow, GrpcAttemptSource(each.text, tls))
        yield keep(lost, what=f"attempts of {each}")
    peers: list[PeerFollower] = []
    for each in config.peers:
        peers.append(PeerFollower(parts.instance_id, partial(_elsewhere, mesh, peers)))
        once = partial(peers[-1].follow, GrpcRouter(each.text, tls))
        yield keep(once, what=f"peer {each}")
    policy = PolicyFollower(mesh.policy, clock)
    yield keep(partial(policy.follow, GrpcPolicy(config.policy.text, tls)), what="policy")
    if config.telemetry is not None:
        telemetry = GrpcTelemetry(config.telemetry.text, tls)
        yield keep(lambda: telemetry.report(parts.records.batches()), what="telemetry")
        states = GrpcEndpointStates(config.telemetry.text, tls)
        yield keep(
            lambda: states.report(
                counts(mesh.endpoints, mesh.outliers.ejected, mesh.line.flow.depths)
            ),
            what="telemetry's endpoints",
        )
    yield parts.publisher.follow_certificate()
    yield _sweep(mesh, clock)


def _elsewhere(mesh: Mesh, peers: Sequence[PeerFollower], changes: list[Change]) -> None:
    """What another router has told, or that it is heard no more."""
    mesh.line.flow.saturation.routers = 1 + sum(each.is_heard for each in peers)
    tenants = mesh.policy.current(asyncio.get_running_loop().time())
    for each in changes:
        tenant = tenants.by_id(each.tenant) if tenants else None
        mesh.line.flow.elsewhere(each, weight=tenant.weight if tenant else 1)
    if changes:
        mesh.line.stir()


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
    mesh = parts.mesh
    lessons = Lessons(mesh.circuits, mesh.outliers, mesh.hedging, mesh.experience)
    return AccessLogServicer(mesh.requests, lessons, record, tell=parts.attempts.tell)


@dataclass(frozen=True, slots=True)
class _Doors:
    """All that others call."""

    operator: Server
    sidecar: Server
    check: CheckSocket
    discovery: Discovery
    access_log: AccessLogServicer
    told: PeerServicer


async def _serve(doors: _Doors, *, drain_s: float) -> None:
    for server in (doors.sidecar, doors.operator):
        await server.start()
        await server.set_serving()
    _log.info("server.ready")
    await lifecycle.stop_signal()
    _log.info("server.draining", drain_s=drain_s)
    doors.check.drain()
    async with asyncio.TaskGroup() as draining:
        for server in (doors.sidecar, doors.operator):
            draining.create_task(lifecycle.drain(server, drain_s=drain_s))
        # Envoy's own streams and our peers' have no end, and would hold us up for all of drain_s.
        doors.discovery.close()
        doors.told.close()
        await asyncio.sleep(_LAST_WORDS_S)
        doors.access_log.close()
    doors.check.close()


async def _sweep(mesh: Mesh, clock: Callable[[], float]) -> None:
    """Frees the slots of requests whose end was never reported; says which endpoints are back."""
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        mesh.outliers.sweep(clock())
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


def _queue_limits(config: Config) -> QueueLimits:
    return QueueLimits(
        total=config.queue_limit,
        of_a_tenant=config.queue_tenant_limit,
        longest_s={
            Band.INTERACTIVE: config.interactive_queue_s,
            Band.BATCH: config.batch_queue_s,
        },
        batch_share=config.batch_share,
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
    )


def _make_private(socket: Path) -> None:
    """Whoever can reach the socket is taken for Envoy, so only this user can."""
    if len(str(socket.absolute())) > _LONGEST_SOCKET_PATH:
        raise ValueError(f"the socket's path must have at most {_LONGEST_SOCKET_PATH} characters")
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.parent.chmod(0o700)
