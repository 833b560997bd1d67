"""The decisions in the audit log, as far back as it goes, to be made again by another policy."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from services.policy.core.verdicts import ADMITTED, RecordedDecision
from services.policy.outbound.audit_log import AuditLog

_KEY = "key:"


class AuditedDecisions:
    """A Decisions. Blocks."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def since(self, unix_s: float) -> Iterator[RecordedDecision]:
        return map(_decision, self._log.decisions_since(unix_s))


def _decision(said: Mapping[str, str]) -> RecordedDecision:
    actor, asked_output = said["actor"], said.get("asked_output_tokens")
    is_key = actor.startswith(_KEY)
    return RecordedDecision(
        request_id=said["subject"],
        unix_s=datetime.fromisoformat(said["time"]).timestamp(),
        spiffe_id="" if is_key else actor,
        key_id=actor.rpartition("/")[2] if is_key else "",
        tenant=said["tenant"],
        workload=said.get("workload", ""),
        model=said.get("model", ""),
        workload_class=said.get("asked_class", ""),
        prompt_tokens=int(said.get("prompt_tokens", "0")),
        exact="prompt_estimated" not in said,
        output_tokens=int(asked_output) if asked_output else None,
        outcome=ADMITTED if said["outcome"] == "done" else said["outcome"],
    )
