"""What the policy service is made of, as its settings say. Nothing here runs yet."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from evenflow.audit_signing import Signer
from services.policy import policies
from services.policy.config import Config
from services.policy.core.audit import Audit
from services.policy.core.tenants import Policy
from services.policy.inbound import auditing, keys, ledger, prompts, tenants
from services.policy.inbound.auditing import AuditServicer
from services.policy.inbound.keys import KeyServicer, Making
from services.policy.inbound.ledger import LedgerServicer
from services.policy.inbound.prompt_news import PromptNews
from services.policy.inbound.prompts import PromptServicer
from services.policy.inbound.tenants import TenantServicer
from services.policy.outbound.audit_decisions import AuditedDecisions
from services.policy.outbound.audit_log import AuditLog
from services.policy.outbound.books import Books
from services.policy.outbound.database import Database
from services.policy.outbound.key_following import follow_keys
from services.policy.outbound.key_table import KeyTable
from services.policy.outbound.policy_file import PolicyFile, Stamp, policy_of
from services.policy.outbound.prompts import StoredPrompts
from services.policy.outbound.upkeep import Upkeep, keep_up
from services.policy.policies import Around, Policies
from services.policy.served import Served

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Source:
    """Of the policy: its file, and what was read there at the start."""

    file: PolicyFile
    policy: Policy
    stamp: Stamp | None
    key_secret: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """What outlives the process."""

    database: Database
    audit: AuditLog
    signer: Signer


class Endless(Protocol):
    """Serves streams that have no end."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    policies: Policies
    repinned: asyncio.Event  # set when an earlier version is pinned, or no more
    served: Sequence[Served]
    endless: Sequence[Endless]
    work: Sequence[Callable[[], Coroutine[Any, Any, None]]]  # for as long as it serves


async def made(config: Config, source: Source, kept: Kept) -> Parts:
    """Raises DatabaseUnreachable or AuditUnavailable."""
    store, books = KeyTable(kept.database), Books(kept.database)
    told = TenantServicer(source.policy, heartbeat_s=config.heartbeat_s, keys=await store.read())
    leasing = LedgerServicer(
        books,
        source.policy,
        now_unix_s=now_unix_s,
        heartbeat_s=config.heartbeat_s,
        audit=kept.audit,
    )
    shown = await _audited(kept, told)
    repinned = asyncio.Event()
    around = _around(config, kept, [told.publish, leasing.publish], repinned.set)
    around_file = policies.made(around, (source.policy, source.file.content))
    await around_file.begin()
    key_servicer = KeyServicer(told, _making(store, source, kept.audit))
    registry = StoredPrompts(kept.database)
    news = PromptNews(registry, heartbeat_s=config.heartbeat_s)
    prompting = PromptServicer(registry, news, kept.audit, now_unix_s=now_unix_s)
    return Parts(
        policies=around_file,
        repinned=repinned,
        served=[
            tenants.served(told),
            ledger.served(leasing),
            keys.served(key_servicer),
            prompts.served(prompting),
            auditing.served(shown),
            *around_file.served,
        ],
        endless=[told, leasing, around_file.shadow, news, shown],
        work=[
            around_file.in_force.keep_books,
            partial(keep_up, books, _upkeep(config), now_unix_s),
            news.follow,
            kept.audit.keep,
            partial(follow_keys, store, lambda: told.keys, told.publish_keys),
        ],
    )


async def _audited(kept: Kept, told: TenantServicer) -> AuditServicer:
    """From now on the log knows the policy. Raises AuditUnavailable."""
    kept.audit.version = lambda: told.version
    kept.audit.keep_days = lambda: told.policy.audit_keep_days
    await kept.audit.record(auditing.loaded(told.policy))
    return AuditServicer(kept.audit, kept.signer.public_pem, kept.signer.id)


def now_unix_s() -> float:
    """Windows of budgets, ends of keys and ages of versions are wall time."""
    return time.time()  # noqa: TID251 - likewise


def now_unix_us() -> int:
    return time.time_ns() // 1000


def _around(
    config: Config,
    kept: Kept,
    told: Sequence[Callable[[Policy], None]],
    repinned: Callable[[], None],
) -> Around:
    def publish(policy: Policy) -> None:
        for tell in told:
            tell(policy)

    return Around(
        database=kept.database,
        audit=kept.audit,
        decisions=AuditedDecisions(kept.audit),
        read=partial(policy_of, trust_domain=config.trust_domain),
        publish=publish,
        repinned=repinned,
        now_unix_s=now_unix_s,
        clock=asyncio.get_running_loop().time,
        heartbeat_s=config.heartbeat_s,
    )


def _making(store: KeyTable, source: Source, audit: Audit) -> Making:
    return Making(
        store=store,
        audit=audit,
        key_secret=source.key_secret,
        chance=secrets.token_bytes,
        now_unix_s=now_unix_s,
    )


def _upkeep(config: Config) -> Upkeep:
    return Upkeep(
        longest_request_s=config.longest_request_s, keep_s=config.keep_attempts_days * _DAY_S
    )
