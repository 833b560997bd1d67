"""An audit log that is the service's own log: a line for each deed."""

import structlog

from services.policy.core.audit import Deed

_log = structlog.get_logger("audit")


class AuditLines:
    """An Audit."""

    async def record(self, deed: Deed) -> None:
        _log.info(
            "audit.recorded",
            actor=deed.actor,
            action=deed.action,
            subject=deed.subject,
            outcome=deed.outcome,
            tenant=deed.tenant,
            **{f"fact_{name}": value for name, value in deed.facts.items()},
        )
