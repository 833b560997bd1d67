"""Everything telemetry can be told, read once at start from TELEMETRY_* variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.chassis import environ
from services.chassis.environ import Address, setting
from services.telemetry.outbound.collector import CollectorTls


def _collector_tls(text: str) -> CollectorTls:
    return CollectorTls(environ.one_of(*(each.value for each in CollectorTls))(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    listen: Address = setting(
        environ.address, help="where routers report and every service sends its spans, host:port"
    )
    prometheus_listen: Address = setting(
        environ.address, help="where Prometheus reads /metrics, HTTPS with a client certificate"
    )
    tls: Path = setting(
        environ.path, help="folder with cert.pem, key.pem, ca.pem and, if any, crl.pem; followed"
    )
    window_s: float = setting(
        environ.positive, default=300.0, help="quantiles cover the last so many seconds"
    )
    max_tenants: int = setting(
        environ.positive_int, default=1000, help="tenants with labels of their own; then 'other'"
    )
    max_models: int = setting(
        environ.positive_int, default=100, help="models with labels of their own; then 'other'"
    )
    max_series: int = setting(
        environ.positive_int,
        default=1000,
        help="sets of model, tenant and class counted apart, 100 kB each at most; then 'other'",
    )
    otlp: Address | None = setting(
        environ.address,
        default=None,
        help="where its own spans go, as a rule its own `listen`; unset, none are made",
    )
    trace_share: float = setting(
        environ.share, default=1.0, help="share of traces begun here that are kept, 0 to 1"
    )
    otlp_forward: Address | None = setting(
        environ.address,
        default=None,
        help="OTLP/gRPC collector that gets all spans and metrics; unset, spans end here",
    )
    otlp_forward_tls: CollectorTls = setting(
        _collector_tls,
        default=CollectorTls.SYSTEM,
        help="off: plain text; system: the machine's authorities; mesh: ours, and our certificate",
    )
    otlp_forward_max_bytes: int = setting(
        environ.positive_int,
        default=16 << 20,
        help="spans that wait for the collector; beyond it the oldest are dropped",
    )
    drain_s: float = setting(
        environ.positive, default=2.0, help="how long running calls may go on after SIGTERM"
    )

    def __post_init__(self) -> None:
        for address in (self.prometheus_listen, self.otlp_forward):
            if address is not None and address.is_unix:
                raise ValueError(f"must be host:port, got {address}")

    @classmethod
    def from_environ(cls, variables: Mapping[str, str]) -> Self:
        return environ.read(cls, "TELEMETRY", variables)
