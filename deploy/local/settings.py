"""Everything `make run` can be told: EVENFLOW_* variables, and ENGINE."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from services.chassis import environ
from services.chassis.environ import Address, InvalidConfig, setting

HOST = "127.0.0.1"  # a mesh on one machine stays on it
UNQUOTABLE = set("\"'%;\\\n")  # mean something to supervisord's configuration


def port(value: str) -> int:
    number = int(value)
    if not 1 <= number <= 65535:
        raise ValueError(f"must be a port, 1 to 65535, got {value}")
    return number


def ports(value: str) -> tuple[int, ...]:
    numbers = tuple(port(name) for name in environ.names(value))
    if not numbers:
        raise ValueError(f"must name at least one port, got {value!r}")
    return numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    home: Path = setting(
        environ.path,
        default=Path(".evenflow"),
        help="folder of everything that is made at run time",
    )
    downloads: Path | None = setting(
        environ.path,
        default=None,
        help="folder of what is fetched once (Envoy, model, vLLM); unset, the home folder",
    )
    mesh_port: int = setting(port, default=8443, help="Envoy: mTLS, gRPC and gRPC-Web")
    frontend_port: int = setting(port, default=8080, help="Envoy: API keys, OpenAI and gRPC-Web")
    router_port: int = setting(port, default=9010, help="router, for operators")
    policy_port: int = setting(port, default=9020, help="policy, for routers")
    telemetry_port: int = setting(port, default=9030, help="telemetry: records and OTLP")
    prometheus_port: int = setting(port, default=9031, help="telemetry: Prometheus over HTTPS")
    runtime_ports: tuple[int, ...] = setting(
        ports, default=(9101, 9102), help="one runtime each, comma-separated"
    )
    envoy_threads: int = setting(
        environ.positive_int, default=2, help="Envoy's workers, each on a core at most"
    )
    otlp_forward: Address | None = setting(
        environ.address, default=None, help="an OTLP/gRPC collector; unset, spans go no further"
    )
    otlp_forward_tls: str = setting(
        environ.one_of("off", "system", "mesh"),
        default="off",
        help="off: plain text; system: the machine's authorities; mesh: ours, and our certificate",
    )

    def __post_init__(self) -> None:
        taken = list(self.ports().values())
        twice = sorted({number for number in taken if taken.count(number) > 1})
        if twice:
            raise ValueError(f"every port must be used once, got {twice[0]} twice")
        if UNQUOTABLE & set(str(self.home.absolute())):
            raise ValueError(f"home must be a path without quotes, % or ;, got {self.home}")

    @classmethod
    def from_environ(cls, variables: Mapping[str, str]) -> Self:
        """Paths are absolute afterwards.

        Raises:
            InvalidConfig: names every variable that is wrong.
        """
        settings = environ.read(cls, "EVENFLOW", variables)
        home = settings.home.absolute()
        return replace(settings, home=home, downloads=(settings.downloads or home).absolute())

    def ports(self) -> dict[str, int]:
        """Every port to listen on, under the variable that sets it."""
        single = {
            f"EVENFLOW_{name.upper()}": getattr(self, name)
            for name in (
                *("mesh_port", "frontend_port", "router_port"),
                *("policy_port", "telemetry_port", "prometheus_port"),
            )
        }
        runtimes = {
            f"EVENFLOW_RUNTIME_PORTS (number {at})": number
            for at, number in enumerate(self.runtime_ports, start=1)
        }
        return single | runtimes


def asked_engine(variables: Mapping[str, str]) -> str | None:
    """What ENGINE says; None leaves the choice to the machine."""
    asked = variables.get("ENGINE", "")
    if asked not in {"", "vllm", "llamacpp"}:
        raise InvalidConfig(f"ENGINE must be vllm or llamacpp, got {asked}")
    return asked or None


def address(number: int) -> str:
    return f"{HOST}:{number}"
