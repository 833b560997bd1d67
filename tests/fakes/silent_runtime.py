"""A RuntimeService that says nothing. Tests put words into the methods that they are about."""

from collections.abc import AsyncIterator

import grpc

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1 import runtime_service_pb2_grpc as pb_grpc


class SilentRuntime(pb_grpc.RuntimeServiceServicer):
    async def WatchState(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchStateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchStateResponse]:
        for _ in ():
            yield pb.WatchStateResponse()

    async def WatchAttempts(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchAttemptsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchAttemptsResponse]:
        for _ in ():
            yield pb.WatchAttemptsResponse()

    async def WatchAnswers(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchAnswersRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchAnswersResponse]:
        for _ in ():
            yield pb.WatchAnswersResponse()

    async def Drain(  # noqa: N802 - the name is the proto's
        self, request: pb.DrainRequest, context: grpc.aio.ServicerContext
    ) -> pb.DrainResponse:
        return pb.DrainResponse()

    async def CutAttempts(  # noqa: N802 - the name is the proto's
        self, request: pb.CutAttemptsRequest, context: grpc.aio.ServicerContext
    ) -> pb.CutAttemptsResponse:
        return pb.CutAttemptsResponse()
