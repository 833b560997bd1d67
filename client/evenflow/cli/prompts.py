"""`evenflow prompts`: versions of named prompts, and the labels that say which one is used."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import typer
from google.protobuf import json_format
from rich.console import Console

from evenflow.cli.prompt_files import InvalidFile, content_of, role_name, type_name
from evenflow.cli.tables import table
from evenflow.errors import FailedCall, error_of
from evenflow.policy.v1 import prompt_service_pb2 as pb
from evenflow.policy.v1.prompt_service_pb2_grpc import PromptServiceStub

CALL_S = 20.0
_SAID = re.compile(r"([^=]+)=(\d+(?::\d+)?(?:,\d+:\d+)*)", re.ASCII)
_MOST_BYTES = 4 << 20
_WHOLE = 100


class Registry:
    """A tenant's prompts, and how to say what became of them."""

    def __init__(self, channel: grpc.Channel, tenant: str, *, as_json: bool) -> None:
        self.tenant = tenant
        self.as_json = as_json
        self._stub: Any = PromptServiceStub(channel)

    def call(self, method: str, request: Any) -> Any:
        request.tenant = self.tenant
        try:
            return getattr(self._stub, method)(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise error_of(cast(FailedCall, error)) from error

    def say(self, facts: dict[str, Any], text: str) -> None:
        typer.echo(json.dumps(facts) if self.as_json else text)


def create(registry: Registry, file: Path, version: int) -> None:
    try:
        name, content = content_of(_text(file))
    except InvalidFile as error:
        raise typer.BadParameter(f"{file}: {error}") from error
    request = pb.CreatePromptVersionRequest(name=name, version=version, content=content)
    made: pb.CreatePromptVersionResponse = registry.call("CreatePromptVersion", request)
    facts = {"name": name, "version": made.version, "created": made.created}
    was = "created" if made.created else "was there already"
    registry.say(facts, f"{name}@{made.version} {was}")


def list_all(registry: Registry) -> None:
    said: pb.ListPromptsResponse = registry.call("ListPrompts", pb.ListPromptsRequest())
    if registry.as_json:
        typer.echo(json.dumps({"prompts": [_summary_facts(each) for each in said.prompts]}))
        return
    shown = table("prompt", "versions", "labels")
    for each in said.prompts:
        labels = (f"{one.label}={_shares_text(one.shares)}" for one in each.labels)
        shown.add_row(each.name, str(each.versions), "\n".join(labels) or "-")
    Console(highlight=False, markup=False).print(shown)


def show(registry: Registry, prompt: str) -> None:
    name, _, number = prompt.partition("@")
    if number and not (number.isascii() and number.isdigit() and int(number) > 0):
        raise typer.BadParameter(f"must be NAME or NAME@VERSION, got {prompt}")
    wanted = pb.GetPromptVersionRequest(name=name, version=int(number or 0))
    version: pb.GetPromptVersionResponse = registry.call("GetPromptVersion", wanted)
    said: pb.ListPromptsResponse = registry.call("ListPrompts", pb.ListPromptsRequest(name=name))
    if registry.as_json:
        facts = {
            **json_format.MessageToDict(version, preserving_proto_field_name=True),
            "name": name,
            "labels": [_label_facts(label) for each in said.prompts for label in each.labels],
        }
        typer.echo(json.dumps(facts))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in (*_version_lines(name, version), *_label_lines(said.prompts)):
        console.print(line)


def label(registry: Registry, name: str, said: str) -> None:
    label_name, shares = _pointed(said)
    request = pb.SetLabelRequest(name=name, label=label_name, shares=shares)
    moved: pb.SetLabelResponse = registry.call("SetLabel", request)
    facts = {
        "name": name,
        "label": label_name,
        "shares": _share_facts(shares),
        "move": moved.move,
    }
    registry.say(facts, f"{name}: {label_name} is {_shares_text(shares)}")


def roll_back(registry: Registry, name: str, label_name: str) -> None:
    request = pb.RollBackLabelRequest(name=name, label=label_name)
    moved: pb.RollBackLabelResponse = registry.call("RollBackLabel", request)
    facts = {
        "name": name,
        "label": label_name,
        "shares": _share_facts(moved.shares),
        "move": moved.move,
    }
    registry.say(facts, f"{name}: {label_name} is {_shares_text(moved.shares)} again")


def _text(file: Path) -> bytes:
    try:
        read = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"can't read {file}: {error.strerror}") from error
    if len(read) > _MOST_BYTES:
        raise typer.BadParameter(f"must be at most {_MOST_BYTES} bytes, got {len(read)}")
    return read


def _pointed(said: str) -> tuple[str, list[pb.VersionShare]]:
    """As in "production=3" or "production=3:90,4:10"."""
    found = _SAID.fullmatch(said)
    if found is None:
        raise typer.BadParameter(f"must be as production=3 or production=3:90,4:10, got {said}")
    shares = []
    for each in found[2].split(","):
        version, _, percent = each.partition(":")
        try:
            shares.append(pb.VersionShare(version=int(version), percent=int(percent or _WHOLE)))
        except ValueError as error:
            raise typer.BadParameter(f"must be small numbers, got {each}") from error
    return found[1], shares


def _version_lines(name: str, version: pb.GetPromptVersionResponse) -> Iterator[str]:
    content = version.content
    yield f"prompt    {name}@{version.version}"
    yield f"created   {version.created_at.ToJsonString()} by {version.created_by}"
    yield f"model     {content.model or 'as the request says'}"
    defaults = json_format.MessageToDict(content.defaults, preserving_proto_field_name=True)
    for key, value in defaults.items():
        yield f"default   {key} {value}"
    for each in content.variables:
        yield f"variable  {each.name}: {_declared(each)}"
    for message in content.messages:
        yield f"\n{role_name(message.role)}:"
        yield message.content


def _declared(variable: pb.PromptVariable) -> str:
    said = type_name(variable.type)
    if variable.values:
        said += f" of {', '.join(variable.values)}"
    if variable.max_length:
        said += f", at most {variable.max_length} characters"
    return f"{said}, or {variable.default!r}" if variable.HasField("default") else said


def _label_lines(prompts: Iterable[pb.PromptSummary]) -> Iterator[str]:
    for each in prompts:
        for one in each.labels:
            yield f"\nlabel {one.label}={_shares_text(one.shares)}"
            for move in one.moves:
                back = ", rolled back" if move.rolled_back else ""
                yield (
                    f"  {move.number}  {move.moved_at.ToJsonString()}  "
                    f"{_shares_text(move.shares)}  by {move.moved_by}{back}"
                )


def _summary_facts(prompt: pb.PromptSummary) -> dict[str, Any]:
    labels = [_label_facts(each) for each in prompt.labels]
    return {"name": prompt.name, "versions": prompt.versions, "labels": labels}


def _label_facts(said: pb.LabelState) -> dict[str, Any]:
    return {
        "label": said.label,
        "shares": _share_facts(said.shares),
        "moves": [
            {
                "number": each.number,
                "shares": _share_facts(each.shares),
                "moved_at": each.moved_at.ToJsonString(),
                "moved_by": each.moved_by,
                "rolled_back": each.rolled_back,
            }
            for each in said.moves
        ],
    }


def _share_facts(shares: Iterable[pb.VersionShare]) -> list[dict[str, int]]:
    return [{"version": each.version, "percent": each.percent} for each in shares]


def _shares_text(shares: Iterable[pb.VersionShare]) -> str:
    listed = list(shares)
    if len(listed) == 1:
        return str(listed[0].version)
    return ",".join(f"{each.version}:{each.percent}" for each in listed)
