"""What operators are told that a policy would change, over real mTLS connections."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from evenflow.policy.v1 import policy_service_pb2 as pb
from evenflow.policy.v1.policy_service_pb2_grpc import PolicyServiceStub
from services.policy.core.verdicts import RecordedDecision
from tests.unit.policy.policies import ACME, DOMAIN, GLOBEX
from tests.unit.policy.served import NONE, NOW_UNIX_S, serving


class Recorded:
    """Decisions in memory."""

    def __init__(self, decisions: Sequence[RecordedDecision]) -> None:
        self._decisions = decisions

    def since(self, unix_s: float) -> Iterator[RecordedDecision]:
        return (each for each in self._decisions if each.unix_s >= unix_s)


def asked(number: int, output_tokens: int, *, ago_s: float = 60.0) -> RecordedDecision:
    return RecordedDecision(
        request_id=f"r-{number}",
        unix_s=NOW_UNIX_S - ago_s,
        spiffe_id=f"spiffe://{DOMAIN}/tenant/acme/web",
        tenant="acme",
        model="smollm2",
        output_tokens=output_tokens,
    )


def told(folder: Path, content: str, *recorded: RecordedDecision) -> pb.DiffPolicyResponse:
    async def scenario() -> pb.DiffPolicyResponse:
        decisions = Recorded(recorded) if recorded else NONE
        async with serving(folder, ACME, decisions=decisions) as served, served.calls() as calls:
            said: pb.DiffPolicyResponse = await PolicyServiceStub(calls).DiffPolicy(
                pb.DiffPolicyRequest(content=content.encode()), timeout=10
            )
            return said

    return asyncio.run(scenario())


def test_what_is_in_force_differs_in_nothing(tmp_path: Path) -> None:
    said = told(tmp_path, ACME)

    assert said.old_version == said.new_version != ""
    assert not said.differences
    assert not said.HasField("dry_run")


def test_each_field_is_told_with_both_values(tmp_path: Path) -> None:
    said = told(tmp_path, ACME.replace("512", "256") + GLOBEX)

    output, *added = said.differences
    assert (output.change, output.subject) == (pb.POLICY_CHANGE_CHANGED, "tenants.acme")
    assert (output.field, output.old, output.new) == ("max_output_tokens", "512", "256")
    assert {(each.subject, each.change) for each in added} == {
        ("tenants.globex", pb.POLICY_CHANGE_ADDED)
    }
    assert ("models", "*") in {(each.field, each.new) for each in added}


def test_keys_are_never_told(tmp_path: Path) -> None:
    said = told(tmp_path, ACME.replace("ab" * 32, "cd" * 32))

    (key,) = said.differences
    assert (key.change, key.old, key.new) == (pb.POLICY_CHANGE_CHANGED, "", "")
    assert key.field == "api_keys.web-1.sha256"


def test_the_last_days_requests_are_decided_again(tmp_path: Path) -> None:
    long_ago = asked(1, 400, ago_s=2 * 86_400)
    content = ACME.replace("512", "256")

    run = told(tmp_path, content, long_ago, asked(2, 400), asked(3, 200), asked(4, 300)).dry_run

    (kind,) = run.otherwise
    assert (run.judged, run.different, run.cut_short) == (3, 2, False)
    assert (kind.old, kind.new, kind.tenant, kind.requests) == ("", "OUTPUT_LIMIT", "acme", 2)
    assert list(kind.examples) == ["r-2", "r-4"]
    assert run.since.seconds == NOW_UNIX_S - 60


def test_a_bad_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        told(tmp_path, "tenants: 1")

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "line 1" in (refused.value.details() or "")
