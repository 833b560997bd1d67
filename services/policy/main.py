"""Composition root: the only module that knows every part of the policy service."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import grpc
import structlog
from grpc_health.v1.health_pb2 import HealthCheckResponse

from services.chassis import lifecycle, logs, traces
from services.chassis.environ import EX_CONFIG, InvalidConfig
from services.chassis.identity import TlsFiles
from services.chassis.server import Server, grpc_server
from services.chassis.status import ErrorTable, Status
from services.policy.config import Config
from services.policy.core.audit import Audit, AuditUnavailable
from services.policy.core.nodes import InvalidPolicy
from services.policy.core.tenants import Policy
from services.policy.inbound import checking as policies
from services.policy.inbound import ledger, prompts, tenants
from services.policy.inbound.checking import PolicyServicer
from services.policy.inbound.ledger import LedgerServicer
from services.policy.inbound.prompt_news import PromptNews
from services.policy.inbound.prompts import PromptServicer
from services.policy.inbound.tenants import TenantServicer
from services.policy.outbound.audit_lines import AuditLines
from services.policy.outbound.books import Books
from services.policy.outbound.database import Database, DatabaseUnreachable, InvalidDatabase
from services.policy.outbound.policy_file import PolicyFile, Stamp, policy_of
from services.policy.outbound.prompts import StoredPrompts
from services.policy.outbound.reloading import follow, say_loaded
from services.policy.outbound.upkeep import Upkeep, keep_up
from services.policy.served import Served

ERRORS: ErrorTable = {
    DatabaseUnreachable: Status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNREACHABLE"),
    AuditUnavailable: Status(grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE"),
}
_DAY_S = 86_400.0
FILE_HEALTH = "evenflow.policy.file"  # asked by name: NOT_SERVING while the file on disk is bad

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Of the policy: its file, and what was read there at the start."""

    file: PolicyFile
    policy: Policy
    stamp: Stamp | None


def main() -> int:
    try:
        config = Config.from_environ(os.environ)
        file = PolicyFile(config.file, config.trust_domain)
        stamp = file.stamp()
        policy = file.read()
        database = Database(config.database)
    except (InvalidConfig, InvalidDatabase) as error:
        print(error, file=sys.stderr)
        return EX_CONFIG
    except (InvalidPolicy, OSError) as error:
        print(f"can't use the policy in {config.file}:\n{error}", file=sys.stderr)
        return EX_CONFIG
    logs.configure("policy")
    say_loaded(policy)
    try:
        database.migrate()
        lifecycle.run(serve(config, Source(file, policy, stamp), database))
    except (*lifecycle.CANNOT_START, DatabaseUnreachable) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        database.close()
    return 0


async def serve(config: Config, source: Source, database: Database) -> None:
    tls = TlsFiles.in_folder(config.tls)
    address = config.otlp.text if config.otlp else None
    tracing = traces.start("policy", otlp_address=address, tls=tls, sample_share=config.trace_share)
    servicer = TenantServicer(source.policy, heartbeat_s=config.heartbeat_s)
    read = partial(policy_of, trust_domain=config.trust_domain)
    checking = PolicyServicer(read, lambda: servicer.version)
    now_unix_s = time.time  # noqa: TID251 - windows of budgets are wall time
    books = Books(database)
    leasing = LedgerServicer(
        books, source.policy, now_unix_s=now_unix_s, heartbeat_s=config.heartbeat_s
    )
    news, prompting = _prompts(config, database, AuditLines(), now_unix_s)
    parts = [tenants.served(servicer), policies.served(checking), ledger.served(leasing), prompting]
    server = build_server(parts, tls)
    server.listen(config.listen, tls)
    await server.start()
    await server.set_serving()
    await _set_file_health(server, good=True)
    _log.info("server.ready", listen=config.listen.text)
    async with asyncio.TaskGroup() as tasks:
        following = [
            tasks.create_task(_follow(source, [servicer, leasing], server)),
            tasks.create_task(keep_up(books, _upkeep(config), now_unix_s)),
            tasks.create_task(news.follow()),
        ]
        await lifecycle.stop_signal()
        for each in following:
            each.cancel()
        for told in (servicer, leasing, news):
            told.close()
        await lifecycle.drain(server, drain_s=config.drain_s)
    await asyncio.to_thread(tracing.stop)


def _upkeep(config: Config) -> Upkeep:
    return Upkeep(
        longest_request_s=config.longest_request_s, keep_s=config.keep_attempts_days * _DAY_S
    )


def build_server(parts: Sequence[Served], tls: TlsFiles) -> Server:
    server = grpc_server(
        errors={**ERRORS, **{name: each.errors[name] for each in parts for name in each.errors}},
        callers={rpc: names for each in parts for rpc, names in each.callers.items()},
        tls=tls,
        services=[each.service for each in parts],
    )
    for each in parts:
        each.add_to(server.grpc)
    return server


def _prompts(
    config: Config, database: Database, audit: Audit, now_unix_s: Callable[[], float]
) -> tuple[PromptNews, Served]:
    registry = StoredPrompts(database)
    news = PromptNews(registry, heartbeat_s=config.heartbeat_s)
    servicer = PromptServicer(registry, news, audit, now_unix_s=now_unix_s)
    return news, prompts.served(servicer)


async def _follow(
    source: Source, told: Sequence[TenantServicer | LedgerServicer], server: Server
) -> None:
    async with asyncio.TaskGroup() as tasks:

        def took(policy: Policy) -> None:
            for each in told:
                each.publish(policy)
            tasks.create_task(_set_file_health(server, good=True))

        def refused(_problems: str) -> None:
            tasks.create_task(_set_file_health(server, good=False))

        await follow(source.file, loaded=source.stamp, took=took, refused=refused)


async def _set_file_health(server: Server, *, good: bool) -> None:
    status = HealthCheckResponse.SERVING if good else HealthCheckResponse.NOT_SERVING
    await server.health.set(FILE_HEALTH, status)
