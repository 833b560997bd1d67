import asyncio
from typing import Any, cast

import grpc

from services.chassis.logs import OneLine


class Call:
    """A call whose memory is freed when it has ended, as gRPC's is."""

    def __init__(self) -> None:
        self.is_alive = True

    def auth_context(self) -> dict[str, Any]:
        assert self.is_alive, "gRPC would read freed memory now"
        return {}

    def code(self) -> int:
        return 0


def test_a_call_that_is_gone_is_asked_nothing() -> None:
    async def scenario() -> None:
        call = Call()
        context = cast(grpc.aio.ServicerContext, call)
        async with OneLine().around("/package.Service/Method", context):
            call.is_alive = False

    asyncio.run(scenario())
