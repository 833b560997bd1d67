"""The data plane as it should be: a value from which every resource of Envoy's is built.

Nothing here knows Envoy's API; services/router/inbound/resources/ turns it into that.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_ADDRESS = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+):([0-9]{1,5})$")
_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """An address of TCP. Its text is host:port, IPv6 hosts in brackets."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not 0 < self.port <= _HIGHEST_PORT:
            raise ValueError(f"a port is 1 to {_HIGHEST_PORT}, got {self.port}")

    @classmethod
    def parse(cls, text: str) -> "HostPort":
        """Raises ValueError when it is not host:port."""
        match = _ADDRESS.match(text)
        if match is None:
            raise ValueError(f"expected host:port, got {text!r}")
        return cls(match[1].strip("[]"), int(match[2]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM texts of the gateway's own certificate chain, its key, whom it trusts, and whose
    certificates these have revoked; None: nobody's."""

    certificate: bytes
    key: bytes = field(repr=False)
    authorities: bytes
    revocations: bytes | None = None  # with it, each authority needs a list of its own there


@dataclass(frozen=True, slots=True)
class DataPlane:
    """What stays as long as the router runs."""

    trust_domain: str
    mesh: HostPort  # mTLS
    front_end: HostPort  # API keys
    descriptors: bytes = field(repr=False)  # FileDescriptorSet of the transcoded services
    front_end_tls: bool = False
    cors_origins: tuple[str, ...] = ()  # exact, or "*"; empty: no other origin may call
    telemetry: HostPort | None = None  # OTLP; None: nothing is traced
    trace_share: float = 1.0  # of the requests that come without a traceparent
    body_limit_bytes: int = 4 << 20
    queue_limit_s: float = 600.0  # a Check held longer counts as failed
    idle_limit_s: float = 300.0  # a client's connection without a request is closed after it
    response_cache: bool = False  # what Check says may send a request to the router itself

    def __post_init__(self) -> None:
        if not 0.0 <= self.trace_share <= 1.0:
            raise ValueError(f"a share is 0 to 1, got {self.trace_share}")
        if self.mesh == self.front_end:
            raise ValueError(f"both listeners can't have {self.mesh}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of the data plane. Endpoints are a set: their order means nothing."""

    data_plane: DataPlane
    tls: TlsMaterial
    endpoints: tuple[HostPort, ...] = ()
    pools: Mapping[HostPort, str] = field(default_factory=dict)  # of those that are not shared
