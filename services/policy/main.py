"""Composition root: the only module that knows every part of the policy service."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import grpc
import structlog
from grpc_health.v1.health_pb2 import HealthCheckResponse

from evenflow.audit_signing import InvalidKey, Signer
from services.chassis import lifecycle, logs, traces
from services.chassis.admin_calls import AdminCall
from services.chassis.environ import EX_CONFIG, InvalidConfig
from services.chassis.identity import TlsFiles
from services.chassis.server import Server, grpc_server
from services.chassis.status import ErrorTable, Status
from services.chassis.traces import Tracing
from services.policy import policies
from services.policy.config import Config
from services.policy.core.audit import AuditUnavailable
from services.policy.core.nodes import InvalidPolicy
from services.policy.core.tenants import Policy
from services.policy.inbound import auditing, ledger, tenants
from services.policy.inbound.auditing import AuditServicer
from services.policy.inbound.ledger import LedgerServicer
from services.policy.inbound.tenants import TenantServicer
from services.policy.outbound.audit_chain import AuditChain
from services.policy.outbound.audit_decisions import AuditedDecisions
from services.policy.outbound.audit_log import AuditLog
from services.policy.outbound.audit_segments import AuditDamaged
from services.policy.outbound.books import Books
from services.policy.outbound.database import Database, DatabaseUnreachable, InvalidDatabase
from services.policy.outbound.policy_file import PolicyFile, Stamp, policy_of
from services.policy.outbound.reloading import follow, say_loaded
from services.policy.outbound.upkeep import Upkeep, keep_up
from services.policy.policies import Around, Policies
from services.policy.served import Served

ERRORS: ErrorTable = {
    DatabaseUnreachable: Status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNREACHABLE"),
    AuditUnavailable: Status(grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE"),
}
_DAY_S = 86_400.0
FILE_HEALTH = "evenflow.policy.file"  # asked by name: NOT_SERVING while the file on disk is bad
FOLLOWING_HEALTH = "evenflow.policy.following"  # NOT_SERVING while an earlier version is pinned

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Source:
    """Of the policy: its file, and what was read there last."""

    file: PolicyFile
    policy: Policy
    stamp: Stamp | None  # at the start


@dataclass(frozen=True, slots=True)
class Kept:
    """What outlives the process."""

    database: Database
    audit: AuditLog
    signer: Signer


def main() -> int:
    try:
        config = Config.from_environ(os.environ)
        file = PolicyFile(config.file, config.trust_domain)
        stamp = file.stamp()
        policy = file.read()
        database = Database(config.database)
        signer = _signer(config)
    except (InvalidConfig, InvalidDatabase) as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    except (InvalidPolicy, OSError) as error:
        print(f"can't use the policy in {config.file}:\n{error}", file=sys.stderr)
        return EX_CONFIG
    logs.configure("policy")
    say_loaded(policy)
    try:
        return _run(config, Source(file, policy, stamp), database, signer)
    except (*lifecycle.CANNOT_START, DatabaseUnreachable, AuditDamaged, AuditUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        database.close()


def _run(config: Config, source: Source, database: Database, signer: Signer) -> int:
    database.migrate()
    audit = _opened(config, signer)
    try:
        lifecycle.run(serve(config, source, Kept(database, audit, signer)))
    finally:
        audit.close()
    return 0


def _signer(config: Config) -> Signer:
    try:
        return Signer(config.audit_key_file.read_bytes())
    except (InvalidKey, OSError) as error:
        raise InvalidConfig(f"POLICY_AUDIT_KEY_FILE: {error}") from error


def _opened(config: Config, signer: Signer) -> AuditLog:
    """Raises AuditDamaged."""
    try:
        chain = AuditChain(config.audit, signer, now_unix_us=_now_unix_us)
    except OSError as error:
        raise AuditDamaged(f"can't use the audit log in {config.audit}: {error}") from error
    return AuditLog(chain, now_unix_us=_now_unix_us)


def _now_unix_s() -> float:
    """Windows of budgets, and when a version came into force, are wall time."""
    return time.time()  # noqa: TID251


def _now_unix_us() -> int:
    return time.time_ns() // 1000


async def serve(config: Config, source: Source, kept: Kept) -> None:
    tls = TlsFiles.in_folder(config.tls)
    tracing = _tracing(config, tls)
    servicer = TenantServicer(source.policy, heartbeat_s=config.heartbeat_s)
    audit, shown = kept.audit, await _audited(kept, servicer, source)
    books = Books(kept.database)
    leasing = LedgerServicer(
        books, source.policy, now_unix_s=_now_unix_s, heartbeat_s=config.heartbeat_s, audit=audit
    )
    repinned = asyncio.Event()
    around = _around(config, kept, [servicer, leasing], repinned.set)
    parts = policies.made(around, (source.policy, source.file.content))
    await parts.begin()
    served = [
        tenants.served(servicer),
        ledger.served(leasing),
        auditing.served(shown),
        *parts.served,
    ]
    server = build_server(served, tls, lambda call: audit.note(auditing.called(call)))
    server.listen(config.listen, tls)
    await server.start()
    await server.set_serving()
    await _set_health(server, FILE_HEALTH, good=True)
    _log.info("server.ready", listen=config.listen.text)
    async with asyncio.TaskGroup() as tasks:
        work = [
            _follow(source, parts, server, audit),
            parts.in_force.keep_books(),
            _tell_of_pins(parts, repinned, server),
            keep_up(books, _upkeep(config), _now_unix_s),
            audit.keep(),
        ]
        running = [tasks.create_task(each) for each in work]
        await lifecycle.stop_signal()
        for task in running:
            task.cancel()
        for each in (servicer, leasing, parts.shadow, shown):
            each.close()
        await lifecycle.drain(server, drain_s=config.drain_s)
    await asyncio.to_thread(tracing.stop)


def _tracing(config: Config, tls: TlsFiles) -> Tracing:
    address = config.otlp.text if config.otlp else None
    return traces.start("policy", otlp_address=address, tls=tls, sample_share=config.trace_share)


async def _audited(kept: Kept, servicer: TenantServicer, source: Source) -> AuditServicer:
    """From now on the log knows the policy. Raises AuditUnavailable."""
    kept.audit.version = lambda: servicer.version
    kept.audit.keep_days = lambda: source.policy.audit_keep_days
    await kept.audit.record(auditing.loaded(source.policy))
    return AuditServicer(kept.audit, kept.signer.public_pem, kept.signer.id)


def _upkeep(config: Config) -> Upkeep:
    return Upkeep(
        longest_request_s=config.longest_request_s, keep_s=config.keep_attempts_days * _DAY_S
    )


def _around(
    config: Config,
    kept: Kept,
    told: Sequence[TenantServicer | LedgerServicer],
    repinned: Callable[[], None],
) -> Around:
    def publish(policy: Policy) -> None:
        for each in told:
            each.publish(policy)

    return Around(
        database=kept.database,
        audit=kept.audit,
        decisions=AuditedDecisions(kept.audit),
        read=partial(policy_of, trust_domain=config.trust_domain),
        publish=publish,
        repinned=repinned,
        now_unix_s=_now_unix_s,
        clock=asyncio.get_running_loop().time,
        heartbeat_s=config.heartbeat_s,
    )


def build_server(
    parts: Sequence[Served], tls: TlsFiles, told: Callable[[AdminCall], None] | None = None
) -> Server:
    server = grpc_server(
        errors={**ERRORS, **{name: each.errors[name] for each in parts for name in each.errors}},
        callers={rpc: names for each in parts for rpc, names in each.callers.items()},
        tls=tls,
        services=[each.service for each in parts],
        audit=told,
    )
    for each in parts:
        each.add_to(server.grpc)
    return server


async def _follow(source: Source, parts: Policies, server: Server, audit: AuditLog) -> None:
    async with asyncio.TaskGroup() as tasks:

        def took(policy: Policy) -> None:
            source.policy = policy
            audit.note(auditing.loaded(policy))
            parts.in_force.took(policy, source.file.content)
            tasks.create_task(_set_health(server, FILE_HEALTH, good=True))

        def refused(problems: str) -> None:
            audit.note(auditing.refused(problems))
            tasks.create_task(_set_health(server, FILE_HEALTH, good=False))

        await follow(source.file, loaded=source.stamp, took=took, refused=refused)


async def _tell_of_pins(parts: Policies, repinned: asyncio.Event, server: Server) -> NoReturn:
    while True:
        await _set_health(server, FOLLOWING_HEALTH, good=parts.in_force.pin is None)
        await repinned.wait()
        repinned.clear()


async def _set_health(server: Server, part: str, *, good: bool) -> None:
    status = HealthCheckResponse.SERVING if good else HealthCheckResponse.NOT_SERVING
    await server.health.set(part, status)
