"""What a router is made of, as its settings say. Nothing here runs yet."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files

import structlog

from services.chassis.identity import TlsFiles, certificate_trust_domain
from services.chassis.revocation import Revocations
from services.router.config import Config
from services.router.core.admission import TimeLimits
from services.router.core.bands import Band
from services.router.core.circuits import Circuits
from services.router.core.demands import WorkloadClass
from services.router.core.endings import Ended
from services.router.core.endpoints import Endpoints
from services.router.core.flow import FlowControl
from services.router.core.hedging import Hedging
from services.router.core.limits import Limiting
from services.router.core.models import Catalogue
from services.router.core.outliers import Outliers
from services.router.core.queue_limits import QueueLimits
from services.router.core.requests import Request, Requests
from services.router.core.salts import CacheSalts
from services.router.core.saturation import STALE_SHARE, Saturation
from services.router.core.shadow import Shadow
from services.router.core.snapshot import DataPlane, HostPort
from services.router.core.tenants import PolicyView
from services.router.core.weights import Weights
from services.router.inbound.access_log import AccessLogServicer
from services.router.inbound.auditing import Auditing
from services.router.inbound.budgeting import Budgeting
from services.router.inbound.caching import Caching
from services.router.inbound.discovery import Discovery
from services.router.inbound.lessons import Lessons
from services.router.inbound.line import Line
from services.router.inbound.mesh import Mesh
from services.router.inbound.peers import PeerServicer
from services.router.inbound.publishing import Publisher
from services.router.outbound.attempts import AttemptFollower
from services.router.outbound.leases import LeaseFollower
from services.router.outbound.records import RecordBuffer
from services.router.outbound.spool import Spool

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    mesh: Mesh
    catalogue: Catalogue
    discovery: Discovery
    publisher: Publisher
    records: RecordBuffer
    attempts: AttemptFollower
    told: PeerServicer
    leases: LeaseFollower
    instance_id: str
    spool: Spool

    def changed(self) -> None:
        """To be told when the endpoints in service may be others."""
        self.catalogue.notice(self.mesh.endpoints.all(), _unix_s())
        for each in self.mesh.endpoints.all():
            self.mesh.line.changed(each)
        self.publisher.publish()


def made(config: Config, salts: CacheSalts, spool: Spool, now_unix_ns: Callable[[], int]) -> Parts:
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
    limiting = Limiting()
    budgeting = Budgeting(instance_id, _unix_s)
    return Parts(
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
            caching=Caching(salts, most_bytes=config.cache_bytes, default_ttl_s=config.cache_ttl_s),
            audit=Auditing(
                spool,
                now_unix_ns=now_unix_ns,
                version=lambda: policy.version,
                stale_after_s=config.audit_stale_s,
            ),
            shadow=Shadow(stale_after_s=config.policy_stale_s),
            budgeting=budgeting,
            limiting=limiting,
        ),
        catalogue=Catalogue(),
        discovery=discovery,
        publisher=publisher,
        records=records,
        attempts=AttemptFollower(requests, records.add_attempt if config.telemetry else None),
        told=PeerServicer(instance_id, flow.queues, limiting),
        leases=LeaseFollower(budgeting, asyncio.get_running_loop().time),
        instance_id=instance_id,
        spool=spool,
    )


def _unix_s() -> float:
    return datetime.now(UTC).timestamp()


def _say(address: str, is_open: bool) -> None:
    _log.warning("endpoint.circuit", endpoint=address, open=is_open)


def _say_ejected(address: str, why: str) -> None:
    if why:
        _log.warning("endpoint.ejected", endpoint=address, why=why.removeprefix("ejected: "))
    else:
        _log.info("endpoint.returned", endpoint=address)


def access_log(config: Config, parts: Parts) -> AccessLogServicer:
    mesh, clock = parts.mesh, asyncio.get_running_loop().time

    def record(request: Request, ended: Ended) -> None:
        mesh.audit.ended(request, ended, clock())
        if config.telemetry:
            parts.records.add(request, ended)

    lessons = Lessons(mesh.circuits, mesh.outliers, mesh.hedging, mesh.experience)
    return AccessLogServicer(mesh.requests, lessons, record, tell=parts.attempts.tell)


def time_limits(config: Config) -> TimeLimits:
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
        response_cache=config.cache_bytes > 0,
    )
