"""The mesh's client for asyncio: streams answers, and turns statuses into typed exceptions.

`evenflow.blocking` has the same for programs without an event loop. Both are thin: the events
are the contract's own messages, `evenflow.inference.v1`.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Any, Self, cast

import grpc

from evenflow.connection import DEFAULT_ADDRESS, GATEWAY_NAME, connection, trace_metadata
from evenflow.errors import FailedCall, error_of
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.requests import DEADLINE_S, Event, chat_request, prompt_request
from evenflow.resuming import RESUMES, Answer

__all__ = ["Client", "Event", "chat_request", "prompt_request"]


class Client:
    """One connection to the mesh. Use it as `async with Client(...) as client`.

    `certificate_folder` holds `cert.pem`, `key.pem` and `ca.pem`; the certificate is the
    caller's identity. Calls raise the exceptions of `evenflow.errors`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        certificate_folder: str | os.PathLike[str],
        server_name: str = GATEWAY_NAME,
    ) -> None:
        self._channel = connection(address, certificate_folder, server_name=server_name).channel()
        # The generated annotations describe the blocking stub only.
        self._stub = cast(Any, InferenceServiceStub(self._channel))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close(None)

    async def chat(
        self,
        model: str,
        messages: str | Sequence[pb.ChatMessage],
        *,
        sampling: pb.Sampling | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> str:
        """The whole answer to a chat, as text. A plain string is one message of the user."""
        request = chat_request(model, messages, sampling=sampling)
        text = ""
        async for event in self.generate(request, deadline_s=deadline_s):
            if isinstance(event, pb.Delta):
                text += event.text
        return text

    async def generate(
        self,
        request: pb.GenerateRequest,
        *,
        deadline_s: float = DEADLINE_S,
        resumes: int = RESUMES,
    ) -> AsyncGenerator[Event, None]:
        """Yields one Started, any number of Delta, one Finished.

        A stream that breaks is carried on within the same deadline, `resumes` times at most, where
        policy lets its class be (`Started.resumable`): no token is lost or comes twice.

        Closing the generator, or cancelling the task that reads it, cancels the request.
        """
        answer = Answer(request, resumes=resumes, deadline_s=deadline_s)
        wait_s: float | None = 0.0
        while wait_s is not None:
            if wait_s:
                await asyncio.sleep(wait_s)
            call = self._call(answer)
            try:
                async for response in call:
                    for event in answer.events(response):
                        yield event
            except grpc.aio.AioRpcError as error:
                wait_s = answer.wait_s(cast(FailedCall, error))
            else:
                return
            finally:
                call.cancel()  # a no-op once the stream has ended

    async def list_models(self, *, deadline_s: float = DEADLINE_S) -> Sequence[pb.Model]:
        request = pb.ListModelsRequest()
        response: pb.ListModelsResponse = await self._unary("ListModels", request, deadline_s)
        return response.models

    async def count_tokens(
        self, request: pb.CountTokensRequest, *, deadline_s: float = DEADLINE_S
    ) -> int:
        response: pb.CountTokensResponse = await self._unary("CountTokens", request, deadline_s)
        return response.tokens

    async def tokenize(
        self, request: pb.TokenizeRequest, *, deadline_s: float = DEADLINE_S
    ) -> Sequence[int]:
        response: pb.TokenizeResponse = await self._unary("Tokenize", request, deadline_s)
        return response.ids

    def _call(self, answer: Answer) -> Any:
        return self._stub.Generate(
            answer.request(),
            timeout=answer.remaining_s(),
            metadata=trace_metadata(),
            wait_for_ready=answer.broke,  # where it was the connection that broke
        )

    async def _unary(self, method: str, request: object, deadline_s: float) -> Any:
        call = getattr(self._stub, method)
        try:
            return await call(request, timeout=deadline_s, metadata=trace_metadata())
        except grpc.aio.AioRpcError as error:
            raise error_of(cast(FailedCall, error)) from error
