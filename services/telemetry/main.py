"""Composition root: the only module that knows every part of telemetry."""

import asyncio
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    add_TraceServiceServicer_to_server,
)

from evenflow.telemetry.v1.cache_service_pb2_grpc import add_CacheServiceServicer_to_server
from evenflow.telemetry.v1.endpoint_service_pb2_grpc import add_EndpointServiceServicer_to_server
from evenflow.telemetry.v1.record_service_pb2_grpc import add_RecordServiceServicer_to_server
from services.chassis import lifecycle, logs, traces
from services.chassis.callers import AllowedCallers
from services.chassis.environ import EX_CONFIG, InvalidConfig
from services.chassis.identity import TlsFiles, certificate_trust_domain
from services.chassis.server import Server, grpc_server
from services.telemetry.config import Config
from services.telemetry.core.aggregates import Aggregates
from services.telemetry.core.labels import Labels
from services.telemetry.core.records import Observation
from services.telemetry.inbound import caches, endpoints, records, spans
from services.telemetry.inbound.caches import CacheServicer
from services.telemetry.inbound.endpoints import EndpointServicer
from services.telemetry.inbound.exposition import (
    OPERATION,
    PROVIDER,
    MeshCollector,
    Said,
    rendering,
)
from services.telemetry.inbound.metrics_page import MetricsPage
from services.telemetry.inbound.records import RecordServicer
from services.telemetry.inbound.spans import TraceServicer
from services.telemetry.outbound.collector import CollectorTarget, GrpcCollector
from services.telemetry.outbound.forwarding import Forwarder, NoForwarding
from services.telemetry.outbound.otlp_metrics import OtlpMetrics, periodic_reader

SLOTS = 5  # of the window; it covers 80 to 100 % of what was asked for
CALLERS: AllowedCallers = {
    f"/{records.SERVICE}/": frozenset({"router"}),
    f"/{endpoints.SERVICE}/": frozenset({"router"}),
    f"/{caches.SERVICE}/": frozenset({"router"}),
    f"/{spans.SERVICE}/": frozenset(
        {"gateway", "router", "runtime", "policy", "telemetry", "operator"}
    ),
}

_log = structlog.get_logger(__name__)


def main() -> int:
    try:
        config = Config.from_environ(os.environ)
    except InvalidConfig as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    logs.configure("telemetry")
    try:
        lifecycle.run(serve(config))
    except lifecycle.CANNOT_START as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def serve(config: Config) -> None:
    address = config.otlp.text if config.otlp else None
    tls = TlsFiles.in_folder(config.tls)
    tracing = traces.start(
        "telemetry", otlp_address=address, tls=tls, sample_share=config.trace_share
    )
    parts = build(config)
    parts.server.listen(config.listen, tls)
    async with asyncio.TaskGroup() as tasks:
        forwarding = tasks.create_task(parts.forward())
        page = await parts.page.listen(config.prometheus_listen, tls)
        await parts.server.start()
        await parts.server.set_serving()
        _log.info("server.ready", listen=config.listen.text)
        await lifecycle.stop_signal()
        page.close()
        parts.records.close()
        parts.endpoints.close()
        parts.caches.close()
        await lifecycle.drain(parts.server, drain_s=config.drain_s)
        forwarding.cancel()
    await asyncio.to_thread(tracing.stop)
    await asyncio.to_thread(parts.stop_metrics)


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Everything that goes to the collector."""

    collector: GrpcCollector
    forwarder: Forwarder
    metrics: OtlpMetrics


@dataclass(frozen=True, slots=True)
class Parts:
    """What a running telemetry is made of."""

    server: Server
    page: MetricsPage
    records: RecordServicer
    endpoints: EndpointServicer
    caches: CacheServicer
    forwarding: Forwarding | None

    async def forward(self) -> None:
        """Until cancelled; returns at once when there is no collector."""
        if self.forwarding is not None:
            try:
                await self.forwarding.forwarder.run()
            finally:
                await self.forwarding.collector.close()

    def stop_metrics(self) -> None:
        if self.forwarding is not None:
            self.forwarding.metrics.stop()


def build(config: Config) -> Parts:
    """Needs a running loop, whose clock it uses."""
    tls = TlsFiles.in_folder(config.tls)
    clock = asyncio.get_running_loop().time
    aggregates = _aggregates(config)
    forwarding = _forwarding(config, tls)
    sink = forwarding.forwarder if forwarding else NoForwarding()

    def take(seen: Observation) -> None:
        named = aggregates.take(seen, clock())
        if forwarding is not None:
            forwarding.metrics.record(seen, named)

    record_servicer = RecordServicer(take, aggregates.take_lost)
    trace_servicer = TraceServicer(sink)
    endpoint_servicer, cache_servicer = EndpointServicer(), CacheServicer()
    collector = MeshCollector(
        aggregates,
        clock=clock,
        own=partial(_own, record_servicer, trace_servicer, sink),
        said=Said(endpoint_servicer.counts, endpoint_servicer.queued, cache_servicer),
    )
    trust_domain = certificate_trust_domain(tls.certificate.read_bytes())
    page = MetricsPage(rendering(collector), trust_domain=trust_domain)
    server = build_server(
        tls, record_servicer, trace_servicer, followed=endpoint_servicer, kept=cache_servicer
    )
    return Parts(server, page, record_servicer, endpoint_servicer, cache_servicer, forwarding)


def _aggregates(config: Config) -> Aggregates:
    labels = Labels(
        max_tenants=config.max_tenants, max_models=config.max_models, max_series=config.max_series
    )
    return Aggregates(labels, slot_s=config.window_s / SLOTS, slots=SLOTS)


def _forwarding(config: Config, tls: TlsFiles) -> Forwarding | None:
    if config.otlp_forward is None:
        return None
    target = CollectorTarget(config.otlp_forward.text, config.otlp_forward_tls, tls)
    collector = GrpcCollector(target.channel)
    forwarder = Forwarder(
        collector,
        max_bytes=config.otlp_forward_max_bytes,
        jitter=random.Random(),  # noqa: S311 - spreads retries, hides nothing
    )
    metrics = OtlpMetrics(periodic_reader(target), operation=OPERATION, provider=PROVIDER)
    return Forwarding(collector, forwarder, metrics)


def build_server(
    tls: TlsFiles,
    taken: RecordServicer,
    received: TraceServicer,
    *,
    followed: EndpointServicer,
    kept: CacheServicer,
) -> Server:
    server = grpc_server(
        errors={},
        callers=CALLERS,
        tls=tls,
        services=[records.SERVICE, endpoints.SERVICE, caches.SERVICE, spans.SERVICE],
    )
    add_EndpointServiceServicer_to_server(followed, server.grpc)
    add_CacheServiceServicer_to_server(kept, server.grpc)
    add_RecordServiceServicer_to_server(taken, server.grpc)
    add_TraceServiceServicer_to_server(received, server.grpc)  # type: ignore[no-untyped-call] # generated
    return server


def _own(
    taken: RecordServicer, received: TraceServicer, sink: Forwarder | NoForwarding
) -> Iterator[tuple[str, str, float]]:
    prefix = "evenflow_telemetry"
    yield f"{prefix}_records", "Request records taken.", taken.taken
    yield f"{prefix}_records_refused", "Request records that made no sense.", taken.refused
    yield f"{prefix}_spans_received", "Spans received over OTLP.", received.received
    yield f"{prefix}_spans_forwarded", "Spans that the collector took.", sink.forwarded_spans
    yield f"{prefix}_spans_dropped", "Spans lost on the way to it.", sink.dropped_spans
    yield f"{prefix}_walled_off", "Attributes that may not leave the mesh.", received.walled_off
