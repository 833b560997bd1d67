"""The mesh's client for programs without an event loop; see `evenflow.client`."""

import os
import threading
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any, Self, cast

import grpc

from evenflow.connection import DEFAULT_ADDRESS, GATEWAY_NAME, connection, trace_metadata
from evenflow.errors import FailedCall, error_of
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.requests import DEADLINE_S, Event, chat_request, prompt_request
from evenflow.resuming import RESUMES, Answer

__all__ = ["BlockingClient", "Event", "chat_request", "prompt_request"]


class BlockingClient:
    """One connection to the mesh, safe to share between threads."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        certificate_folder: str | os.PathLike[str],
        server_name: str = GATEWAY_NAME,
    ) -> None:
        reached = connection(address, certificate_folder, server_name=server_name)
        self._channel = reached.blocking_channel()
        self._stub: Any = InferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def chat(
        self,
        model: str,
        messages: str | Sequence[pb.ChatMessage],
        *,
        sampling: pb.Sampling | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> str:
        """The whole answer to a chat, as text. A plain string is one message of the user."""
        request = chat_request(model, messages, sampling=sampling)
        events = self.generate(request, deadline_s=deadline_s)
        return "".join(event.text for event in events if isinstance(event, pb.Delta))

    def generate(
        self,
        request: pb.GenerateRequest,
        *,
        deadline_s: float = DEADLINE_S,
        resumes: int = RESUMES,
    ) -> Generator[Event, None, None]:
        """Yields one Started, any number of Delta, one Finished. Closing it cancels.

        `resumes`: as in `evenflow.client`.
        """
        answer = Answer(request, resumes=resumes, deadline_s=deadline_s)
        wait_s: float | None = 0.0
        while wait_s is not None:
            if wait_s:
                threading.Event().wait(wait_s)
            call = self._call(answer)
            try:
                for response in call:
                    yield from answer.events(response)
            except grpc.RpcError as error:
                wait_s = answer.wait_s(cast(FailedCall, error))
            else:
                return
            finally:
                call.cancel()  # a no-op once the stream has ended

    def _call(self, answer: Answer) -> Any:
        return self._stub.Generate(
            answer.request(),
            timeout=answer.remaining_s(),
            metadata=trace_metadata(),
            wait_for_ready=answer.broke,  # where it was the connection that broke
        )

    def list_models(self, *, deadline_s: float = DEADLINE_S) -> Sequence[pb.Model]:
        try:
            response: pb.ListModelsResponse = self._stub.ListModels(
                pb.ListModelsRequest(), timeout=deadline_s, metadata=trace_metadata()
            )
        except grpc.RpcError as error:
            raise error_of(cast(FailedCall, error)) from error
        return response.models
