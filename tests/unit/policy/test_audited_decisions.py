"""A request's entry in the audit log says all that it takes to decide it again."""

from collections.abc import Iterator

from services.policy.core.verdicts import RecordedDecision
from services.policy.outbound.audited_decisions import AuditedDecisions

WEB = {
    "time": "2027-01-15T08:00:00.500000Z",
    "actor": "spiffe://evenflow.local/tenant/acme/web",
    "action": "request.refused",
    "subject": "r-1",
    "tenant": "acme",
    "outcome": "OUTPUT_LIMIT",
    "policy": "v1",
    "workload": "web",
    "model": "small",
    "class": "interactive",
    "asked_class": "batch",
    "prompt_tokens": "12",
    "prompt_estimated": "1",
    "asked_output_tokens": "4096",
}


def read(entry: dict[str, str]) -> RecordedDecision:
    (decision,) = AuditedDecisions(lambda _since: iter([entry])).since(0.0)
    return decision


def test_of_a_certificate() -> None:
    assert read(WEB) == RecordedDecision(
        request_id="r-1",
        unix_s=1_800_000_000.5,
        spiffe_id="spiffe://evenflow.local/tenant/acme/web",
        tenant="acme",
        workload="web",
        model="small",
        workload_class="batch",
        prompt_tokens=12,
        output_tokens=4096,
        outcome="OUTPUT_LIMIT",
    )


def test_of_a_key_whose_prompt_was_counted_and_that_said_little() -> None:
    left_out = ("asked_class", "asked_output_tokens", "prompt_estimated")
    entry = {name: each for name, each in WEB.items() if name not in left_out}

    decision = read(entry | {"actor": "key:acme/web-1", "outcome": "done"})

    assert (decision.spiffe_id, decision.key_id, decision.tenant) == ("", "web-1", "acme")
    assert (decision.workload_class, decision.output_tokens) == ("", None)
    assert (decision.exact, decision.outcome) == (True, "")


def test_of_nobody() -> None:
    decision = read({**WEB, "actor": "", "tenant": "", "outcome": "UNKNOWN_IDENTITY"})

    assert (decision.spiffe_id, decision.key_id, decision.tenant) == ("", "", "")


def test_the_day_is_asked_for() -> None:
    asked: list[float] = []

    def entries(since: float) -> Iterator[dict[str, str]]:
        asked.append(since)
        return iter(())

    assert not list(AuditedDecisions(entries).since(7.0))

    assert asked == [7.0]
