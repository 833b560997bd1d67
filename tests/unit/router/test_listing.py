"""What an operator is told of the endpoints."""

import asyncio
from typing import Any

from evenflow.router.v1 import router_service_pb2 as pb
from services.router.core.circuits import OPENS_AFTER, TRIED_AGAIN_AFTER_S, Outcome
from services.router.core.outliers import ERRORS, IN_A_ROW, Answer
from services.router.inbound.mesh import Mesh
from services.router.inbound.operator import OperatorServicer
from tests import virtual_time
from tests.unit.router.values import A, B, mesh

C = "10.0.0.3:9101"
NOBODY: Any = None


async def left_out(of: Mesh) -> dict[str, str]:
    servicer = OperatorServicer(of, empty=lambda _: None)
    told = await servicer.ListEndpoints(pb.ListEndpointsRequest(), NOBODY)
    return {each.address: each.left_out for each in told.endpoints}


def test_who_is_left_alone_for_a_while_is_told_with_why() -> None:
    async def scenario() -> None:
        of, now_s = mesh(), asyncio.get_running_loop().time()
        assert await left_out(of) == {A: "", B: ""}

        for _ in range(OPENS_AFTER):
            of.circuits.learn(Outcome(A, succeeded=False), began_s=now_s, now_s=now_s)
        for _ in range(IN_A_ROW):
            failed = Answer(B, failed=True, read_tokens=1, first_token_s=None)
            of.outliers.learn(failed, pool=(A, B, C), began_s=now_s, now_s=now_s)
        assert await left_out(of) == {A: "circuit open", B: ERRORS}

        await asyncio.sleep(TRIED_AGAIN_AFTER_S)
        assert (await left_out(of))[A] == ""

    virtual_time.run(scenario())
