"""Deeds as lines of the log: an Audit that is as durable as whatever keeps the log."""

import structlog

from services.policy.core.audit import Deed

_log = structlog.get_logger(__name__)


class LoggedAudit:
    async def record(self, deed: Deed) -> None:
        _log.info(
            "audit.deed",
            actor=deed.actor,
            action=deed.action,
            subject=deed.subject,
            outcome=deed.outcome,
            tenant=deed.tenant,
            **{f"fact_{name}": fact for name, fact in deed.facts.items()},
        )
