"""How a client reaches the mesh: mTLS with a certificate folder, and the caller's trace."""

import os
from dataclasses import dataclass
from pathlib import Path

import grpc

DEFAULT_ADDRESS = "127.0.0.1:8443"
GATEWAY_NAME = "gateway.evenflow.local"  # DNS name in the gateway's certificate

# A half-open connection is noticed within 20 s, also between two tokens.
_OPTIONS = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 10_000))


@dataclass(frozen=True, slots=True, repr=False)
class Connection:
    """Where to call, as whom, and whose certificate must answer."""

    address: str
    certificate_folder: Path  # holds cert.pem, key.pem and ca.pem
    server_name: str

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self.address, self._credentials(), options=self._options())

    def blocking_channel(self) -> grpc.Channel:
        return grpc.secure_channel(self.address, self._credentials(), options=self._options())

    def _credentials(self) -> grpc.ChannelCredentials:
        # One resolved folder, so that a rotation between two reads can't mix two pairs.
        folder = (self.certificate_folder / "cert.pem").resolve(strict=True).parent
        return grpc.ssl_channel_credentials(
            root_certificates=(folder / "ca.pem").read_bytes(),
            private_key=(folder / "key.pem").read_bytes(),
            certificate_chain=(folder / "cert.pem").read_bytes(),
        )

    def _options(self) -> list[tuple[str, str | int]]:
        return [*_OPTIONS, ("grpc.ssl_target_name_override", self.server_name)]


def connection(
    address: str, certificate_folder: str | os.PathLike[str], *, server_name: str = GATEWAY_NAME
) -> Connection:
    return Connection(address, Path(certificate_folder), server_name)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """W3C trace context of the caller's current OpenTelemetry span; empty without one."""
    try:
        from opentelemetry import propagate  # noqa: PLC0415 - optional; not a dependency
    except ImportError:
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())
