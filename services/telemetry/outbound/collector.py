"""The OTLP/gRPC collector that spans and metrics are forwarded to."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from services.chassis.identity import TlsFiles
from services.telemetry.outbound.forwarding import CollectorAway, CollectorRefused

EXPORT_WITHIN_S = 5.0
# OTLP 1.5, "Failures": the collector may take it later. Anything else it never will.
_LATER = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    }
)


class CollectorTls(Enum):
    OFF = "off"  # plain text, for a collector on this machine
    SYSTEM = "system"  # verified by the machine's authorities
    MESH = "mesh"  # verified by the mesh's authorities, with our certificate


@dataclass(frozen=True, slots=True)
class CollectorTarget:
    address: str  # host:port
    tls: CollectorTls
    files: TlsFiles

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None: plain text."""
        match self.tls:
            case CollectorTls.OFF:
                return None
            case CollectorTls.SYSTEM:
                return grpc.ssl_channel_credentials()
            case CollectorTls.MESH:
                mine = self.files.read()
                return grpc.ssl_channel_credentials(mine.authorities, mine.key, mine.certificate)

    def channel(self) -> grpc.aio.Channel:
        credentials = self.credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(self.address)
        return grpc.aio.secure_channel(self.address, credentials)


class GrpcCollector:
    """Opens its channel anew after each failure, so that rotated certificates are picked up."""

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._channel: grpc.aio.Channel | None = None

    async def export(self, request: ExportTraceServiceRequest) -> None:
        if self._channel is None:
            self._channel = self._open_channel()
        try:
            stub: Any = TraceServiceStub(self._channel)  # type: ignore[no-untyped-call] # generated
            await stub.Export(request, timeout=EXPORT_WITHIN_S)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _LATER:
                raise CollectorRefused(error.code().name) from error
            await self.close()
            raise CollectorAway(error.code().name) from error

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(grace=None)
