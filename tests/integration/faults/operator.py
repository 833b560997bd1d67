"""What the router and the runtimes say of themselves while others fail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from evenflow.router.v1 import router_service_pb2 as pb
from evenflow.router.v1.router_service_pb2_grpc import RouterServiceStub
from evenflow.runtime.v1 import runtime_service_pb2 as runtime_pb
from services.chassis.identity import TlsFiles, channel

CALL_S = 5.0
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Operator:
    router: Any  # grpc-stubs types only the synchronous ones

    async def endpoints(self) -> dict[str, pb.Endpoint]:
        listed = await self.router.ListEndpoints(pb.ListEndpointsRequest(), timeout=CALL_S)
        return {each.address: each for each in listed.endpoints}

    async def policy_version(self) -> str:
        listed = await self.router.ListEndpoints(pb.ListEndpointsRequest(), timeout=CALL_S)
        version: str = listed.policy_version
        return version

    async def until_serving(self, *, within_s: float) -> None:
        """The router answers, has tenants, and every runtime is ready."""
        request = pb.ListEndpointsRequest()
        async with asyncio.timeout(within_s):
            while True:
                listed = await self.router.ListEndpoints(
                    request, timeout=within_s, wait_for_ready=True
                )
                if listed.policy_version and all(each.ready for each in listed.endpoints):
                    return
                await asyncio.sleep(_LOOK_EVERY_S)

    async def explain(self, request_id: str) -> pb.ExplainResponse:
        request = pb.ExplainRequest(request_id=request_id)
        explained: pb.ExplainResponse = await self.router.Explain(request, timeout=CALL_S)
        return explained

    async def until_ready(self, address: str, *, ready: bool, within_s: float) -> float:
        """Seconds that it took."""
        clock = asyncio.get_running_loop().time
        began_s = clock()
        async with asyncio.timeout(within_s):
            while (await self.endpoints())[address].ready is not ready:  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(_LOOK_EVERY_S)
        return clock() - began_s

    async def until_idle(self, *, within_s: float) -> None:
        """Nothing is in flight anywhere, and every runtime's KV blocks are free."""
        async with asyncio.timeout(within_s):
            while not all(_idle(each) for each in (await self.endpoints()).values()):  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(_LOOK_EVERY_S)


@asynccontextmanager
async def operator(address: str, tls: TlsFiles) -> AsyncIterator[Operator]:
    async with channel(address, tls, server="router") as calls:
        yield Operator(RouterServiceStub(calls))


def _idle(endpoint: pb.Endpoint) -> bool:
    return endpoint.ready and endpoint.in_flight == 0 and is_idle(endpoint.state)


async def until_idle(runtime: Any, *, within_s: float) -> None:
    """By its own word: nothing runs or waits, no KV block is held. `runtime`: RuntimeService."""
    call = runtime.WatchState(runtime_pb.WatchStateRequest(), timeout=within_s)
    async for state in call:
        if is_idle(state):
            call.cancel()
            return


def is_idle(state: runtime_pb.WatchStateResponse) -> bool:
    return state.running + state.waiting == 0 and state.kv_blocks_free == state.kv_blocks_total
