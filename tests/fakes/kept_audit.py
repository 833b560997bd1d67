"""An audit log in memory; `is_away` makes it refuse."""

from services.policy.core.audit import AuditUnavailable, Deed


class KeptAudit:
    def __init__(self) -> None:
        self.deeds: list[Deed] = []
        self.is_away = False

    async def record(self, deed: Deed) -> None:
        if self.is_away:
            raise AuditUnavailable("the audit log can't be written")
        self.deeds.append(deed)
