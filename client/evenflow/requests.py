"""Builds requests and names events: what the asyncio and the blocking client share."""

from collections.abc import Mapping, Sequence

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


def prompt_request(  # noqa: PLR0913 - as many as a request names, all by name
    name: str,
    variables: Mapping[str, str | float | bool] | None = None,
    *,
    label: str | None = None,
    version: int | None = None,
    sticky: str = "",
    messages: str | Sequence[pb.ChatMessage] = (),
    model: str = "",
    sampling: pb.Sampling | None = None,
    workload_class: "WorkloadClass.ValueType" = WORKLOAD_CLASS_UNSPECIFIED,
) -> pb.GenerateRequest:
    """A request that names a prompt of the registry: the version that `label` says, unless it names
    one. `messages` follow the prompt's own. The model may be left out where the version pins one.
    """
    if isinstance(messages, str):
        messages = [pb.ChatMessage(role=pb.ROLE_USER, content=messages)]
    prompt = pb.PromptInput(name=name, sticky=sticky, messages=messages)
    if version is not None:
        prompt.version = version
    elif label is not None:
        prompt.label = label
    prompt.variables.update(dict(variables or {}))
    return pb.GenerateRequest(
        model=model, prompt=prompt, sampling=sampling, workload_class=workload_class
    )
