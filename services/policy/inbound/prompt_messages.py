"""Prompts on the wire: what operators send and are shown, what routers and runtimes are told."""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from evenflow.policy.v1 import prompt_service_pb2 as pb
from services.policy.core.labels import Share
from services.policy.core.prompts import (
    Content,
    Defaults,
    InvalidPrompt,
    Role,
    TemplateMessage,
    Type,
    Variable,
)
from services.policy.core.registry import Author, Change, Label, Pointed, Summary, Version
from services.policy.core.templates import Part

_ROLES = {
    inference_pb.ROLE_SYSTEM: Role.SYSTEM,
    inference_pb.ROLE_USER: Role.USER,
    inference_pb.ROLE_ASSISTANT: Role.ASSISTANT,
}
_ROLE_NUMBERS = {role: number for number, role in _ROLES.items()}
_TYPES = {
    pb.VARIABLE_TYPE_STRING: Type.STRING,
    pb.VARIABLE_TYPE_INTEGER: Type.INTEGER,
    pb.VARIABLE_TYPE_NUMBER: Type.NUMBER,
    pb.VARIABLE_TYPE_BOOLEAN: Type.BOOLEAN,
    pb.VARIABLE_TYPE_ENUM: Type.ENUM,
}
_TYPE_NUMBERS = {kind: number for number, kind in _TYPES.items()}
_MOST_MOVES = 100  # shown of a label


def content_of(content: pb.PromptContent) -> Content:
    """Raises InvalidPrompt."""
    return Content(
        messages=tuple(_template(each, at) for at, each in enumerate(content.messages)),
        variables=tuple(_variable(each, at) for at, each in enumerate(content.variables)),
        model=content.model,
        defaults=_defaults_of(content.defaults),
    )


def version_message(version: Version) -> pb.GetPromptVersionResponse:
    content = version.content
    return pb.GetPromptVersionResponse(
        version=version.number,
        content=pb.PromptContent(
            messages=[
                pb.TemplateMessage(role=_ROLE_NUMBERS[each.role], content=each.content)
                for each in content.messages
            ],
            variables=[_declared(each) for each in content.variables],
            model=content.model,
            defaults=_defaults(content.defaults),
        ),
        created_at=_timestamp(version.author),
        created_by=version.author.name,
    )


def summary_message(summary: Summary, *, with_moves: bool) -> pb.PromptSummary:
    labels = [_label(each, with_moves=with_moves) for each in summary.labels]
    return pb.PromptSummary(name=summary.name, versions=summary.versions, labels=labels)


def shares_of(shares: Iterable[pb.VersionShare]) -> Sequence[Share]:
    return tuple(Share(each.version, each.percent) for each in shares)


def share_messages(shares: Iterable[Share]) -> list[pb.VersionShare]:
    return [pb.VersionShare(version=each.version, percent=each.percent) for each in shares]


def news(change: Change, *, templates: bool) -> pb.PromptNews:
    told = pb.PromptNews(tenant=change.key.tenant, name=change.key.name)
    if isinstance(change.what, Pointed):
        shares = share_messages(change.what.shares)
        told.label.CopyFrom(pb.LabelState(label=change.what.label, shares=shares))
    else:
        told.version.CopyFrom(_released(change.what, templates=templates))
    return told


def _released(version: Version, *, templates: bool) -> pb.ReleasedVersion:
    content, uses = version.content, version.content.uses()
    parts = [part for each in content.parts for part in each]
    return pb.ReleasedVersion(
        version=version.number,
        model=content.model,
        defaults=_defaults(content.defaults),
        variables=[
            pb.ReleasedVariable(declared=_declared(each), uses=uses[each.name])
            for each in content.variables
        ],
        text_bytes=sum(len(each.encode()) for each in parts if isinstance(each, str)),
        fixed_bytes=_fixed_bytes(parts),
        messages=_taken_apart(content) if templates else (),
    )


def _fixed_bytes(parts: Iterable[Part]) -> int:
    fixed = 0
    for part in parts:
        if not isinstance(part, str):
            break
        fixed += len(part.encode())
    return fixed


def _taken_apart(content: Content) -> list[pb.ReleasedMessage]:
    return [
        pb.ReleasedMessage(role=_ROLE_NUMBERS[message.role], parts=[_part(each) for each in parts])
        for message, parts in zip(content.messages, content.parts, strict=True)
    ]


def _part(part: Part) -> pb.ReleasedMessage.Part:
    if isinstance(part, str):
        return pb.ReleasedMessage.Part(text=part)
    return pb.ReleasedMessage.Part(variable=part.variable)


def _label(label: Label, *, with_moves: bool) -> pb.LabelState:
    shown = label.moves[: -_MOST_MOVES - 1 : -1] if with_moves else ()
    return pb.LabelState(
        label=label.name,
        shares=share_messages(label.moves[-1][0].shares),
        moves=[
            pb.LabelMove(
                number=move.number,
                shares=share_messages(move.shares),
                moved_at=_timestamp(author),
                moved_by=author.name,
                rolled_back=move.rolled_back,
            )
            for move, author in shown
        ],
    )


def _template(message: pb.TemplateMessage, at: int) -> TemplateMessage:
    role = _ROLES.get(message.role)
    if role is None:
        text = "must be system, user or assistant"
        raise InvalidPrompt(f"content.messages[{at}].role", text)
    return TemplateMessage(role, message.content)


def _variable(variable: pb.PromptVariable, at: int) -> Variable:
    kind = _TYPES.get(variable.type)
    if kind is None:
        known = ", ".join(each.value for each in Type)
        raise InvalidPrompt(f"content.variables[{at}].type", f"must be one of {known}")
    return Variable(
        name=variable.name,
        type=kind,
        default=variable.default if variable.HasField("default") else None,
        max_length=variable.max_length,
        values=tuple(variable.values),
    )


def _declared(variable: Variable) -> pb.PromptVariable:
    most = variable.most_characters if variable.type is Type.STRING else 0
    return pb.PromptVariable(
        name=variable.name,
        type=_TYPE_NUMBERS[variable.type],
        default=variable.default,
        max_length=most,
        values=variable.values,
    )


def _defaults_of(said: pb.PromptDefaults) -> Defaults:
    given: dict[str, Any] = {field.name: value for field, value in said.ListFields()}
    return Defaults(**{**given, "stop": tuple(said.stop)})


def _defaults(defaults: Defaults) -> pb.PromptDefaults:
    return pb.PromptDefaults(
        max_output_tokens=defaults.max_output_tokens,
        temperature=defaults.temperature,
        top_p=defaults.top_p,
        stop=defaults.stop,
    )


def _timestamp(author: Author) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(round(author.at_unix_s * 1e6))
    return timestamp
