"""Everything the policy service can be told, read once at start from POLICY_* variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.chassis import environ
from services.chassis.environ import Address, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    listen: Address = setting(environ.address, help="where routers connect, host:port")
    file: Path = setting(environ.path, help="the YAML file of tenants; re-read when it changes")
    trust_domain: str = setting(
        environ.text, help="trust domain that every SPIFFE ID in the file must be of"
    )
    tls: Path = setting(
        environ.path, help="folder with cert.pem, key.pem, ca.pem and, if any, crl.pem; followed"
    )
    database: str = setting(
        environ.text,
        help="`sqlite:////folder/policy.db` or `postgresql+psycopg://user@host/name`; kept private",
    )
    key_secret_file: Path = setting(
        environ.path,
        help="64 or more hexadecimal digits that API keys are hashed with, the routers' too; a new "
        "one ends all keys that policy has made",
    )
    audit: Path = setting(
        environ.path, help="folder of the audit log, made private; one process writes to it"
    )
    audit_key_file: Path = setting(
        environ.path, help="Ed25519 private key, PEM, that the log's checkpoints are signed with"
    )
    heartbeat_s: float = setting(
        environ.positive,
        default=2.0,
        help="how often routers hear that nothing changed; the contract says at least every 5 s",
    )
    longest_request_s: float = setting(
        environ.positive,
        default=4000.0,
        help="what a router admitted has ended so long after it was last heard of: its "
        "`ROUTER_POLICY_STALE_S` and the longest deadline; then what it held is given up",
    )
    keep_attempts_days: float = setting(
        environ.positive, default=35.0, help="how long the ledger remembers each attempt's usage"
    )
    otlp: Address | None = setting(
        environ.address, default=None, help="telemetry's OTLP address; unset, no spans are sent"
    )
    trace_share: float = setting(
        environ.share, default=1.0, help="share of traces begun here that are kept, 0 to 1"
    )
    drain_s: float = setting(
        environ.positive, default=2.0, help="how long running calls may go on after SIGTERM"
    )

    def __post_init__(self) -> None:
        if self.heartbeat_s > 5:
            raise ValueError(f"heartbeat_s must be at most 5, got {self.heartbeat_s}")

    @classmethod
    def from_environ(cls, variables: Mapping[str, str]) -> Self:
        return environ.read(cls, "POLICY", variables)
