"""Composition root: the only module that knows every part of the policy service."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NoReturn

import grpc
import structlog
from grpc_health.v1.health_pb2 import HealthCheckResponse

from evenflow.audit_signing import InvalidKey, Signer
from services.chassis import lifecycle, logs, traces
from services.chassis.admin_calls import AdminCall
from services.chassis.environ import EX_CONFIG, InvalidConfig
from services.chassis.identity import TlsFiles
from services.chassis.secret_file import InvalidSecret, read_secret
from services.chassis.server import Server, grpc_server
from services.chassis.status import ErrorTable, Status
from services.policy import parts
from services.policy.config import Config
from services.policy.core.audit import AuditUnavailable
from services.policy.core.nodes import InvalidPolicy
from services.policy.core.tenants import Policy
from services.policy.inbound import auditing
from services.policy.outbound.audit_chain import AuditChain
from services.policy.outbound.audit_log import AuditLog
from services.policy.outbound.audit_segments import AuditDamaged
from services.policy.outbound.database import Database, DatabaseUnreachable, InvalidDatabase
from services.policy.outbound.policy_file import PolicyFile
from services.policy.outbound.reloading import follow, say_loaded
from services.policy.parts import Kept, Parts, Source
from services.policy.served import Served

ERRORS: ErrorTable = {
    DatabaseUnreachable: Status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNREACHABLE"),
    AuditUnavailable: Status(grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE"),
}
FILE_HEALTH = "evenflow.policy.file"  # asked by name: NOT_SERVING while the file on disk is bad
FOLLOWING_HEALTH = "evenflow.policy.following"  # NOT_SERVING while an earlier version is pinned

_log = structlog.get_logger(__name__)


def main() -> int:
    try:
        config = Config.from_environ(os.environ)
        file = PolicyFile(config.file, config.trust_domain)
        stamp = file.stamp()
        policy = file.read()
        database = Database(config.database)
        key_secret = read_secret(config.key_secret_file)
        signer = _signer(config)
    except (InvalidConfig, InvalidDatabase, InvalidSecret) as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    except (InvalidPolicy, OSError) as error:
        print(f"can't use the policy in {config.file}:\n{error}", file=sys.stderr)
        return EX_CONFIG
    logs.configure("policy")
    say_loaded(policy)
    source = Source(file, policy, stamp, key_secret)
    try:
        database.migrate()
        with closing(_opened(config, signer)) as audit:
            lifecycle.run(serve(config, source, Kept(database, audit, signer)))
    except (*lifecycle.CANNOT_START, DatabaseUnreachable, AuditDamaged, AuditUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        database.close()
    return 0


def _signer(config: Config) -> Signer:
    try:
        return Signer(config.audit_key_file.read_bytes())
    except (InvalidKey, OSError) as error:
        raise InvalidConfig(f"POLICY_AUDIT_KEY_FILE: {error}") from error


def _opened(config: Config, signer: Signer) -> AuditLog:
    """Raises AuditDamaged."""
    try:
        chain = AuditChain(config.audit, signer, now_unix_us=parts.now_unix_us)
    except OSError as error:
        raise AuditDamaged(f"can't use the audit log in {config.audit}: {error}") from error
    return AuditLog(chain, now_unix_us=parts.now_unix_us)


async def serve(config: Config, source: Source, kept: Kept) -> None:
    tls = TlsFiles.in_folder(config.tls)
    address = config.otlp.text if config.otlp else None
    tracing = traces.start("policy", otlp_address=address, tls=tls, sample_share=config.trace_share)
    made = await parts.made(config, source, kept)
    server = build_server(made.served, tls, lambda call: kept.audit.note(auditing.called(call)))
    server.listen(config.listen, tls)
    await server.start()
    await server.set_serving()
    await _set_health(server, FILE_HEALTH, good=True)
    _log.info("server.ready", listen=config.listen.text)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_follow(source, made, server, kept.audit)),
            tasks.create_task(_tell_of_pins(made, server)),
            *(tasks.create_task(each()) for each in made.work),
        ]
        await lifecycle.stop_signal()
        for each in running:
            each.cancel()
        for endless in made.endless:
            endless.close()
        await lifecycle.drain(server, drain_s=config.drain_s)
    await asyncio.to_thread(tracing.stop)


def build_server(
    served: Sequence[Served], tls: TlsFiles, told: Callable[[AdminCall], None] | None = None
) -> Server:
    """`told` of each call of an operator."""
    server = grpc_server(
        errors={**ERRORS, **{name: each.errors[name] for each in served for name in each.errors}},
        callers={rpc: names for each in served for rpc, names in each.callers.items()},
        tls=tls,
        services=[each.service for each in served],
        audit=told,
    )
    for each in served:
        each.add_to(server.grpc)
    return server


async def _follow(source: Source, made: Parts, server: Server, audit: AuditLog) -> None:
    async with asyncio.TaskGroup() as tasks:

        def took(policy: Policy) -> None:
            made.policies.in_force.took(policy, source.file.content)
            tasks.create_task(_set_health(server, FILE_HEALTH, good=True))

        def refused(problems: str) -> None:
            audit.note(auditing.refused(problems))
            tasks.create_task(_set_health(server, FILE_HEALTH, good=False))

        await follow(source.file, loaded=source.stamp, took=took, refused=refused)


async def _tell_of_pins(made: Parts, server: Server) -> NoReturn:
    while True:
        await _set_health(server, FOLLOWING_HEALTH, good=made.policies.in_force.pin is None)
        await made.repinned.wait()
        made.repinned.clear()


async def _set_health(server: Server, part: str, *, good: bool) -> None:
    status = HealthCheckResponse.SERVING if good else HealthCheckResponse.NOT_SERVING
    await server.health.set(part, status)
