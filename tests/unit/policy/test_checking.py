"""What operators are told of a policy that is not in force yet, over real mTLS connections."""

import asyncio
from pathlib import Path

import grpc
import pytest

from evenflow.policy.v1 import policy_service_pb2 as pb
from evenflow.policy.v1.policy_service_pb2_grpc import PolicyServiceStub
from services.chassis.identity import channel
from tests.unit.policy.policies import ACME, GLOBEX
from tests.unit.policy.served import Served, serving


async def checked(
    served: Served, content: str, *, caller: str = "operator"
) -> pb.CheckPolicyResponse:
    async with channel(served.where, served.identities.service(caller), server="policy") as calls:
        told: pb.CheckPolicyResponse = await PolicyServiceStub(calls).CheckPolicy(
            pb.CheckPolicyRequest(content=content.encode()), timeout=10
        )
        return told


def test_a_good_one_is_named_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as served:
            other = await checked(served, ACME + GLOBEX)
            served.file_says(ACME + GLOBEX)
            ours = await checked(served, ACME + GLOBEX)

        assert not other.problems
        assert (other.tenants, other.in_force, len(other.version)) == (2, False, 64)
        assert ours.in_force

    asyncio.run(scenario())


def test_all_that_is_wrong_is_told_by_place(tmp_path: Path) -> None:
    bad = ACME.replace("models:", "model:").replace("2048", "-1")

    async def scenario() -> pb.CheckPolicyResponse:
        async with serving(tmp_path) as served:
            return await checked(served, bad)

    told = asyncio.run(scenario())
    first, second, third = told.problems
    assert (first.line, first.field, first.message) == (2, "tenants[0].models", "is required")
    assert (second.line, second.column, second.field) == (8, 5, "tenants[0].model")
    assert third.message == "must be from 0 to 1000000000, got -1"
    assert (told.version, told.tenants, told.in_force) == ("", 0, False)


@pytest.mark.parametrize("content", ["", "\x00", "tenants: [", "tenants: &a [*a]"])
def test_whatever_is_no_policy_is_a_problem(content: str, tmp_path: Path) -> None:
    async def scenario() -> pb.CheckPolicyResponse:
        async with serving(tmp_path) as served:
            return await checked(served, content)

    assert asyncio.run(scenario()).problems


def test_no_answer_is_endless(tmp_path: Path) -> None:
    many = "tenants:\n" + "  - {}\n" * 2_000

    async def scenario() -> pb.CheckPolicyResponse:
        async with serving(tmp_path) as served:
            return await checked(served, many)

    told = asyncio.run(scenario())
    assert len(told.problems) == 1_000
    assert told.more_problems > 1_000


@pytest.mark.parametrize("caller", ["router", "runtime", "telemetry"])
def test_nobody_but_an_operator_may_ask(caller: str, tmp_path: Path) -> None:
    async def scenario() -> grpc.StatusCode:
        async with serving(tmp_path) as served:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await checked(served, ACME, caller=caller)
            return refused.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.PERMISSION_DENIED
