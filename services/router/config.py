"""Everything the router can be told, read once at start from ROUTER_* variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.chassis import environ
from services.chassis.environ import Address, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    socket: Path = setting(
        environ.path,
        help="unix socket for Envoy; its folder is made private, since whoever reaches it is Envoy",
    )
    check_socket: Path = setting(
        environ.path, help="unix socket likewise, on which Envoy asks about each request"
    )
    operator_listen: Address = setting(environ.address, help="where operators connect, host:port")
    mesh_listen: Address = setting(
        environ.address, help="where Envoy takes gRPC with client certificates, host:port"
    )
    frontend_listen: Address = setting(
        environ.address, help="where Envoy takes API keys, host:port"
    )
    frontend_tls: bool = setting(
        environ.flag,
        default=False,
        help="true: Envoy serves TLS there too, with the gateway's certificate",
    )
    cors_origins: tuple[str, ...] = setting(
        environ.names,
        default=(),
        help="web origins that may call the front end, comma-separated, * for all; unset, none",
    )
    runtimes: tuple[Address, ...] = setting(
        environ.addresses, help="runtimes to follow and send requests to, host:port,host:port"
    )
    policy: Address = setting(environ.address, help="where policy streams tenants, host:port")
    telemetry: Address | None = setting(
        environ.address,
        default=None,
        help="telemetry's host:port, for records and spans; unset, neither is sent",
    )
    tls: Path = setting(
        environ.path, help="the router's folder with cert.pem, key.pem, ca.pem and, if any, crl.pem"
    )
    gateway_tls: Path = setting(
        environ.path, help="the gateway's folder, likewise: Envoy gets it from the router"
    )
    salt_secret_file: Path = setting(
        environ.path,
        help="16 or more secret bytes that cache salts are made with; a new one empties all caches",
    )
    policy_stale_s: float = setting(
        environ.positive,
        default=300.0,
        help="seconds without word from policy after which every request is refused",
    )
    runtime_silence_s: float = setting(
        environ.positive,
        default=0.8,
        help="seconds of silence after which a runtime is left out; it speaks every 0.2 s",
    )
    interactive_timeout_s: float = setting(
        environ.positive,
        default=120.0,
        help="seconds that an interactive request has when its caller sets no deadline",
    )
    batch_timeout_s: float = setting(
        environ.positive, default=1800.0, help="seconds, likewise, for batch requests"
    )
    high_risk_timeout_s: float = setting(
        environ.positive, default=120.0, help="seconds, likewise, for high-risk requests"
    )
    longest_timeout_s: float = setting(
        environ.positive,
        default=3600.0,
        help="seconds that no deadline exceeds; also how long a lost end can hold a slot at most",
    )
    body_limit_bytes: int = setting(
        environ.positive_int,
        default=4 << 20,
        help="bytes of a request's body; Envoy refuses larger ones",
    )
    idle_connection_s: float = setting(
        environ.positive,
        default=300.0,
        help="seconds after which Envoy closes a client's connection without a request",
    )
    cache_bytes: int = setting(
        environ.count,
        default=64 << 20,
        help="memory for answers that are given again, about 2 KB each; 0: none are kept",
    )
    cache_ttl_s: float = setting(
        environ.positive,
        default=300.0,
        help="seconds that an answer is kept whose caller, but not its class, allows it",
    )
    record_buffer: int = setting(
        environ.positive_int,
        default=20_000,
        help="records kept while telemetry is away, about 1 KB each; then the oldest are dropped",
    )
    trace_share: float = setting(
        environ.share, default=1.0, help="share of traces begun at the gateway, 0 to 1"
    )
    drain_s: float = setting(
        environ.positive, default=2.0, help="how long running calls may go on after SIGTERM"
    )

    def __post_init__(self) -> None:
        if not self.runtimes:
            raise ValueError("runtimes must name at least one address")
        if self.longest_timeout_s > _DAY_S:
            raise ValueError(f"longest_timeout_s must be at most {_DAY_S}")

    @classmethod
    def from_environ(cls, variables: Mapping[str, str]) -> Self:
        return environ.read(cls, "ROUTER", variables)


_DAY_S = 86_400  # gRPC writes a deadline with eight digits
