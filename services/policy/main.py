"""Composition root: the only module that knows every part of the policy service."""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import grpc
import structlog
from grpc_health.v1.health_pb2 import HealthCheckResponse

from services.chassis import lifecycle, logs, traces
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
from services.policy.outbound.audit_lines import LoggedAudit
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
        lifecycle.run(serve(config, source, Kept(database, LoggedAudit())))
    except (*lifecycle.CANNOT_START, DatabaseUnreachable) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        database.close()
    return 0


async def serve(config: Config, source: Source, kept: Kept) -> None:
    tls = TlsFiles.in_folder(config.tls)
    address = config.otlp.text if config.otlp else None
    tracing = traces.start("policy", otlp_address=address, tls=tls, sample_share=config.trace_share)
    made = await parts.made(config, source, kept)
    server = build_server(made.served, tls)
    server.listen(config.listen, tls)
    await server.start()
    await server.set_serving()
    await _set_health(server, FILE_HEALTH, good=True)
    _log.info("server.ready", listen=config.listen.text)
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_follow(source, made, server)),
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


def build_server(served: Sequence[Served], tls: TlsFiles) -> Server:
    server = grpc_server(
        errors={**ERRORS, **{name: each.errors[name] for each in served for name in each.errors}},
        callers={rpc: names for each in served for rpc, names in each.callers.items()},
        tls=tls,
        services=[each.service for each in served],
    )
    for each in served:
        each.add_to(server.grpc)
    return server


async def _follow(source: Source, made: Parts, server: Server) -> None:
    async with asyncio.TaskGroup() as tasks:

        def took(policy: Policy) -> None:
            made.policies.in_force.took(policy, source.file.content)
            tasks.create_task(_set_health(server, FILE_HEALTH, good=True))

        def refused(_problems: str) -> None:
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
