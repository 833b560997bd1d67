"""Everything the router can be told, read once at start from ROUTER_* variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.chassis import environ
from services.chassis.environ import Address, setting
from services.router.core.hedge_budget import MOST_SHARE


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
        help="secrets of cache salts, a line `<epoch>:<64 hexadecimal digits>` each; "
        "the last is in force, and a new one empties all caches",
    )
    key_secret_file: Path = setting(
        environ.path,
        help="64 or more hexadecimal digits that API keys are hashed with, policy's too",
    )
    audit_spool: Path = setting(
        environ.path,
        help="folder for what the audit log is to be told, of this router alone; made private",
    )
    audit_spool_bytes: int = setting(
        environ.positive_int,
        default=64 << 20,
        help="bytes of it kept while policy is away, some 300 a request; then high-risk requests "
        "are refused, and of others is only counted how many are not written down",
    )
    audit_stale_s: float = setting(
        environ.positive,
        default=60.0,
        help="seconds that policy may take to acknowledge it; then high-risk requests are refused",
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
    queue_limit: int = setting(
        environ.positive_int,
        default=2000,
        help="requests that wait at once; below the connections that Envoy asks on",
    )
    queue_tenant_limit: int = setting(
        environ.positive_int,
        default=500,
        help="of one tenant; never more than there is room left for the others",
    )
    interactive_queue_s: float = setting(
        environ.positive,
        default=30.0,
        help="seconds that an interactive or high-risk request waits at most",
    )
    batch_queue_s: float = setting(
        environ.positive, default=300.0, help="seconds, likewise, for batch requests; at most 590"
    )
    batch_share: float = setting(
        environ.share,
        default=0.1,
        help="share of the service that batch requests get while others wait, above 0, below 1",
    )
    flow_control: bool = setting(
        environ.flag,
        default=True,
        help="false: nothing waits in the router, and runtimes queue what comes; to compare",
    )
    peers: tuple[Address, ...] = setting(
        environ.addresses,
        default=(),
        help="other routers of these runtimes, where operators connect, host:port,host:port; "
        "fairness between tenants then holds over all; unset, none",
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
    prefix_weight: float = setting(
        environ.not_negative,
        default=1.0,
        help="times what a prompt token that an endpoint has cached counts for when one is picked; "
        "0: prompts are not looked at",
    )
    load_weight: float = setting(
        environ.not_negative,
        default=1.0,
        help="times what tokens in flight and missing KV room count for; 0 for both: endpoints "
        "take turns",
    )
    hedge_share: float = setting(
        environ.share,
        default=0.05,
        help="second arms for late first tokens, as a share of requests; 0 is none, 0.1 the most",
    )
    drain_s: float = setting(
        environ.positive, default=2.0, help="how long running calls may go on after SIGTERM"
    )

    def __post_init__(self) -> None:
        if not self.runtimes:
            raise ValueError("runtimes must name at least one address")
        if self.longest_timeout_s > _DAY_S:
            raise ValueError(f"longest_timeout_s must be at most {_DAY_S}")
        if max(self.interactive_queue_s, self.batch_queue_s) > _LONGEST_QUEUE_S:
            raise ValueError(f"a wait in the queue must be at most {_LONGEST_QUEUE_S} s")
        if not 0.0 < self.batch_share < 1.0:
            raise ValueError(f"batch_share must be above 0 and below 1, got {self.batch_share}")
        if self.hedge_share > MOST_SHARE:
            raise ValueError(
                f"hedge_share must be at most {MOST_SHARE}, got {self.hedge_share}: more hedges"
                " than that would make slow runtimes slower"
            )

    @classmethod
    def from_environ(cls, variables: Mapping[str, str]) -> Self:
        return environ.read(cls, "ROUTER", variables)


_LONGEST_QUEUE_S = 590  # after 600 s Envoy takes a Check for failed
_DAY_S = 86_400  # gRPC writes a deadline with eight digits
