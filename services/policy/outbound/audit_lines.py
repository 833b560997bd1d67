"""Writes what the audit log would be told into the service's own log."""

import structlog

from services.policy.core.audit import Deed

_log = structlog.get_logger(__name__)


class LoggedAudit:
    """An Audit."""

    async def record(self, deed: Deed) -> None:
        _log.info(
            "audit.deed",
            actor=deed.actor,
            action=deed.action,
            subject=deed.subject,
            outcome=deed.outcome,
            tenant=deed.tenant,
            facts=dict(deed.facts),
        )
