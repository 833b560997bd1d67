"""Builds requests and names events: what the asyncio and the blocking client share."""

from collections.abc import Sequence

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.workload_class_pb2 import (
    WORKLOAD_CLASS_UNSPECIFIED,
    WorkloadClass,
)

Event = pb.Started | pb.Delta | pb.Finished

DEADLINE_S = 60.0  # of a call that names none; no call waits for ever


def chat_request(
    model: str,
    messages: str | Sequence[pb.ChatMessage],
    *,
    sampling: pb.Sampling | None = None,
    workload_class: "WorkloadClass.ValueType" = WORKLOAD_CLASS_UNSPECIFIED,
) -> pb.GenerateRequest:
    """A request out of chat messages, oldest first. A plain string is one message of the user."""
    if isinstance(messages, str):
        messages = [pb.ChatMessage(role=pb.ROLE_USER, content=messages)]
    return pb.GenerateRequest(
        model=model,
        chat=pb.ChatInput(messages=messages),
        sampling=sampling,
        workload_class=workload_class,
    )
