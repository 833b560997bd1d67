"""Says what is wrong with a policy before it is put into force, and what it would change, to
operators."""

import asyncio
from collections.abc import Callable
from functools import partial

import grpc

from evenflow.policy.v1 import policy_service_pb2 as pb
from evenflow.policy.v1 import policy_service_pb2_grpc as pb_grpc
from services.chassis.callers import AllowedCallers
from services.chassis.logs import add_facts
from services.chassis.status import ErrorTable, Status
from services.policy.core.nodes import InvalidPolicy, Problem
from services.policy.core.tenants import Policy
from services.policy.inbound.diffing import Diffing
from services.policy.served import Served

SERVICE: str = pb.DESCRIPTOR.services_by_name["PolicyService"].full_name
CALLERS: AllowedCallers = {f"/{SERVICE}/": frozenset({"operator"})}
ERRORS: ErrorTable = {
    InvalidPolicy: Status(grpc.StatusCode.INVALID_ARGUMENT, "POLICY_INVALID"),
}

_MOST_PROBLEMS = 1_000  # in one answer: each has a few hundred bytes at most


class PolicyServicer(pb_grpc.PolicyServiceServicer):
    """`read` is the one that the service's own file is read by."""

    def __init__(
        self, read: Callable[[bytes], Policy], in_force: Callable[[], Policy], diffing: Diffing
    ) -> None:
        self._read = read
        self._in_force = in_force
        self._diffing = diffing
        self._turn = asyncio.Lock()  # a large one takes a second of a core, and 200 MB

    async def CheckPolicy(  # noqa: N802 - the name is the proto's
        self, request: pb.CheckPolicyRequest, context: grpc.aio.ServicerContext
    ) -> pb.CheckPolicyResponse:
        async with self._turn:
            try:
                policy = await asyncio.to_thread(self._read, request.content)
            except InvalidPolicy as error:
                add_facts(problems=len(error.problems))
                return _problems(error)
        add_facts(problems=0, version=policy.version)
        return pb.CheckPolicyResponse(
            version=policy.version,
            tenants=len(policy.tenants),
            in_force=policy.version == self._in_force().version,
            warnings=[_problem(each) for each in policy.warnings[:_MOST_PROBLEMS]],
        )

    async def DiffPolicy(  # noqa: N802 - the name is the proto's
        self, request: pb.DiffPolicyRequest, context: grpc.aio.ServicerContext
    ) -> pb.DiffPolicyResponse:
        async with self._turn:
            return await asyncio.to_thread(self._diff, request.content)

    def _diff(self, content: bytes) -> pb.DiffPolicyResponse:
        return self._diffing.answer(self._in_force(), self._read(content))


def served(servicer: PolicyServicer) -> Served:
    add_to = partial(pb_grpc.add_PolicyServiceServicer_to_server, servicer)
    return Served(SERVICE, CALLERS, add_to, ERRORS)


def _problems(error: InvalidPolicy) -> pb.CheckPolicyResponse:
    shown = error.problems[:_MOST_PROBLEMS]
    return pb.CheckPolicyResponse(
        problems=[_problem(each) for each in shown],
        more_problems=len(error.problems) - len(shown),
    )


def _problem(problem: Problem) -> pb.PolicyProblem:
    return pb.PolicyProblem(
        line=problem.line, column=problem.column, field=problem.field, message=problem.message
    )
