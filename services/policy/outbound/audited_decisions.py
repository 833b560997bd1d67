"""Reads recorded decisions out of the entries that the audit log has of requests."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from services.policy.core.verdicts import ADMITTED, RecordedDecision

Entries = Callable[[float], Iterator[Mapping[str, str]]]
"""Those of decisions about requests since a wall-clock instant, the oldest first: an entry's own
fields and its facts by name, what is empty or zero left out."""

_DONE = "done"
_KEY = "key:"  # the actor who is known by an API key, then "<tenant>/<key's id>"


class AuditedDecisions:
    """A Decisions."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def since(self, unix_s: float) -> Iterator[RecordedDecision]:
        return map(decision_of, self._entries(unix_s))


def decision_of(entry: Mapping[str, str]) -> RecordedDecision:
    actor, outcome, asked = entry["actor"], entry["outcome"], entry.get("asked_output_tokens")
    is_key = actor.startswith(_KEY)
    return RecordedDecision(
        request_id=entry["subject"],
        unix_s=datetime.fromisoformat(entry["time"]).timestamp(),
        spiffe_id="" if is_key else actor,
        key_id=actor.partition("/")[2] if is_key else "",
        tenant=entry.get("tenant", ""),
        workload=entry.get("workload", ""),
        model=entry.get("model", ""),
        workload_class=entry.get("asked_class", ""),
        prompt_tokens=int(entry.get("prompt_tokens", 0)),
        exact="prompt_estimated" not in entry,
        output_tokens=int(asked) if asked else None,
        outcome=ADMITTED if outcome == _DONE else outcome,
    )
