"""A gRPC server with what every service has: spans, one log line, callers, statuses, health."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from services.chassis.admin_calls import AdminCall, AdminCalls
from services.chassis.callers import AllowedCallers, CallerNotAllowed, Callers
from services.chassis.environ import Address
from services.chassis.identity import TlsFiles, certificate_trust_domain, server_credentials
from services.chassis.interception import Around, Interceptor, Wrapped
from services.chassis.logs import OneLine
from services.chassis.revocation import CertificateRevoked, Revocations
from services.chassis.status import ErrorTable, Status, Statuses
from services.chassis.traces import Spans

_ERRORS: ErrorTable = {
    CallerNotAllowed: Status(grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED"),
    CertificateRevoked: Status(grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_REVOKED"),
    DecodeError: Status(grpc.StatusCode.INVALID_ARGUMENT, "BODY_INVALID"),
    TimeoutError: Status(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE"),
}


class CannotListen(OSError):
    """The address is taken or not this machine's; choose another."""


@dataclass(frozen=True, slots=True)
class Server:
    """Add servicers to `wrapped`, `listen`, `start`, then `set_serving`.

    What is added to `grpc` of a bare server gets no span, no line, no status; of any other server
    it makes no difference.
    """

    grpc: grpc.aio.Server
    wrapped: Any  # takes servicers as `grpc` does
    health: Any  # grpc_health's asynchronous servicer
    services: tuple[str, ...]

    def listen(self, address: Address, tls: TlsFiles | None) -> int:
        """Binds and returns the port (0 for a unix socket). Only unix sockets may go without TLS.

        Raises:
            CannotListen: the address can't be bound.
        """
        try:
            if address.is_unix:
                self.grpc.add_insecure_port(address.text)
                return 0
            if tls is None:
                raise ValueError(f"{address} leaves this process's own socket and needs TLS")
            port: int = self.grpc.add_secure_port(address.text, server_credentials(tls))
        except RuntimeError as error:
            raise CannotListen(f"can't listen on {address}: {error}") from error
        return port

    async def start(self) -> None:
        """Answers from now on, NOT_SERVING until `set_serving`."""
        await self.set_not_serving()  # gRPC's servicer begins with SERVING
        await self.grpc.start()

    async def set_serving(self) -> None:
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def set_not_serving(self) -> None:
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _set(self, status: Any) -> None:
        for service in ("", *self.services):
            await self.health.set(service, status)


def grpc_server(  # noqa: PLR0913 - what every service may choose, by name
    *,
    errors: ErrorTable,
    callers: AllowedCallers | None,
    tls: TlsFiles | None,
    services: Sequence[str],
    bare: bool = False,
    audit: Callable[[AdminCall], None] | None = None,
) -> Server:
    """`callers` None: whoever reaches the (unix) socket may call. `services`: full proto names.
    `bare`: some methods count every microsecond; only those of `wrapped` get more. `audit` is told
    of operators' calls.

    NOT_SERVING until `set_serving`.
    """
    parts: list[Around] = [Spans(), OneLine(), Statuses({**_ERRORS, **errors})]
    if audit is not None:
        parts.append(AdminCalls(audit, {**_ERRORS, **errors}))
    if callers is not None and bare:
        raise ValueError("a bare server does not look at its callers")
    if callers is not None:
        if tls is None:
            raise ValueError("callers are told apart by certificate, so TLS files are needed")
        trust_domain = certificate_trust_domain(tls.certificate.read_bytes())
        parts.append(Callers(trust_domain, callers, Revocations(tls.revocations)))
    around = Interceptor(parts)
    server = grpc.aio.server(
        interceptors=[] if bare else [around], options=_OPTIONS + (_NEARBY if bare else ())
    )
    servicer: Any = health.aio.HealthServicer()  # type: ignore[attr-defined] # set at import
    wrapped: Any = Wrapped(server, around) if bare else server
    health_pb2_grpc.add_HealthServicer_to_server(servicer, wrapped)
    names = (*services, health.SERVICE_NAME)
    reflected: Any = reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME))  # type: ignore[attr-defined] # in its __all__
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, wrapped)
    return Server(server, wrapped, servicer, names)


_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two processes on one port would share its calls at random
    # Envoy pings a runtime five times a second, a router once: never too often for peers who have
    # our certificates or our own socket.
    ("grpc.http2.max_ping_strikes", 0),
    # A peer that was cut off without a word leaves its streams here within 4 s. It is not asked
    # while it has none. Longer than what others take to notice: they move on first.
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", 16 << 20),  # the gateway's limit is lower
    # The gateway takes 32 KiB of headers and passes them on; gRPC counts 32 bytes more for each,
    # refuses beyond the first limit at random, and beyond the second always.
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
)
# To a peer on a unix socket there is no bandwidth to probe; each probe is a ping and wakes threads.
_NEARBY = (("grpc.http2.bdp_probe", 0),)
