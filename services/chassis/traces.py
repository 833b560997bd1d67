"""OpenTelemetry: one tracer provider for each process, and a span for each RPC it serves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.chassis.identity import TlsFiles, certificate_trust_domain

_EXPORT_EVERY_MS = 500  # a trace should be there when somebody looks for it
_UNTRACED = ("/grpc.health.v1.Health/", "/grpc.reflection.", "/opentelemetry.")
_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("evenflow")


@dataclass(frozen=True, slots=True)
class Tracing:
    _provider: TracerProvider | None

    def stop(self) -> None:
        """Sends what is left. Blocks for as long as the exporter's time-out at most."""
        if self._provider is not None:
            self._provider.shutdown()


def start(
    service: str, *, otlp_address: str | None, tls: TlsFiles | None, sample_share: float
) -> Tracing:
    """Sends this process's spans to telemetry's OTLP receiver; without an address, nowhere.

    A caller's own sampling decision is kept; `sample_share` decides for traces that begin here.
    """
    if not otlp_address:
        return Tracing(None)
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: f"evenflow-{service}"}),
        sampler=ParentBased(TraceIdRatioBased(sample_share)),
    )
    exporter = _exporter(otlp_address, tls)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_EVERY_MS)
    )
    trace.set_tracer_provider(provider)
    return Tracing(provider)


def _exporter(address: str, tls: TlsFiles | None) -> OTLPSpanExporter:
    if tls is None:
        return OTLPSpanExporter(endpoint=f"http://{address}", insecure=True, timeout=2)
    material = tls.read()
    name = f"telemetry.{certificate_trust_domain(material.certificate)}"
    return OTLPSpanExporter(
        endpoint=f"https://{address}",
        credentials=grpc.ssl_channel_credentials(
            material.authorities, material.key, material.certificate
        ),
        channel_options=(("grpc.ssl_target_name_override", name),),
        timeout=2,
    )


def parent(context: grpc.aio.ServicerContext) -> Context:
    """The caller's span, from the call's `traceparent`; the empty context without one."""
    carrier = {
        key: value
        for key, value in context.invocation_metadata() or ()
        if key in {"traceparent", "tracestate"} and isinstance(value, str)
    }
    return _propagator.extract(carrier, context=Context())


class Spans:
    """A server span around every call but health, reflection and the spans' own way."""

    @asynccontextmanager
    async def around(self, method: str, context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
        if method.startswith(_UNTRACED):
            yield
            return
        span = _tracer.start_span(
            method.lstrip("/"),
            context=parent(context),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.method": method},
        )
        token = attach(trace.set_span_in_context(span))
        try:
            yield
        except grpc.aio.AbortError:
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            # gRPC may close an abandoned stream from another context, or from a copy of this one;
            # OpenTelemetry's own detach would log a traceback
            with suppress(ValueError):
                token.var.reset(token)
            span.end()
