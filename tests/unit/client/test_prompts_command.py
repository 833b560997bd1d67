"""`evenflow prompts` against a registry that runs: what it prints, and returns to the shell."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import Result

from evenflow.cli.prompt_files import InvalidFile, content_of
from evenflow.client import prompt_request
from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from evenflow.policy.v1 import prompt_service_pb2 as pb
from tests.unit.client.test_command import evenflow
from tests.unit.policy.registries import registry

TRIP = """\
name: trip
model: small
messages:
  - role: system
    content: Answer in one line.
  - role: user
    content: Where is {{city}}, in {{days}} days?
variables:
  - {name: city, type: string, max_length: 50}
  - {name: days, type: integer, default: 3}
defaults:
  max_output_tokens: 20
  temperature: 0
  stop: ["\\n"]
"""
Evenflow = Callable[..., Result]


def against(folder: Path, body: Callable[[Evenflow], None]) -> None:
    async def scenario() -> None:
        # What the service logs would be taken for what the command prints.
        with capture_logs():
            await served()

    async def served() -> None:
        async with registry(folder) as policy:
            operator = policy.tls("operator").certificate.parent
            shutil.copytree(operator, folder / "home/certs/operator", symlinks=True)
            port = policy.where.rpartition(":")[2]

            def run(*arguments: str, stdin: str = "") -> Result:
                said = ("prompts", *arguments, "--policy-port", port)
                return evenflow(*said, home=folder / "home", stdin=stdin)

            await asyncio.to_thread(body, run)

    asyncio.run(scenario())


def facts(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_from_a_file_to_a_label_and_back(tmp_path: Path) -> None:
    file = tmp_path / "trip.yaml"
    file.write_text(TRIP)

    def body(run: Evenflow) -> None:
        assert run("create", str(file)).stdout == "trip@1 created\n"
        assert run("create", "-", stdin=TRIP.replace("one", "two")).stdout == "trip@2 created\n"
        assert run("label", "trip", "production=1").stdout == "trip: production is 1\n"
        shared = run("label", "trip", "production=1:90,2:10")
        assert shared.stdout == "trip: production is 1:90,2:10\n"
        assert "production=1:90,2:10" in run("list").stdout
        back = run("rollback", "trip", "production")
        assert back.stdout == "trip: production is 1 again\n"

    against(tmp_path, body)


def test_show_has_all_of_it(tmp_path: Path) -> None:
    def body(run: Evenflow) -> None:
        run("create", "-", stdin=TRIP)
        run("create", "-", stdin=TRIP.replace("one", "two"))
        run("label", "trip", "production=2")

        shown = run("show", "trip@1").stdout

        assert "prompt    trip@1\n" in shown
        assert "model     small\n" in shown
        assert "variable  city: string, at most 50 characters\n" in shown
        assert "variable  days: integer, or '3'\n" in shown
        assert "\nsystem:\nAnswer in one line.\n" in shown
        assert "label production=2\n" in shown
        assert "two line" in run("show", "trip").stdout, "the latest"

    against(tmp_path, body)


def test_scripts_get_json(tmp_path: Path) -> None:
    def body(run: Evenflow) -> None:
        made = facts(run("create", "--json", "-", stdin=TRIP))
        assert made == {"name": "trip", "version": 1, "created": True}
        again = facts(run("create", "--version", "1", "--json", "-", stdin=TRIP))
        assert again == {"name": "trip", "version": 1, "created": False}
        shares = [{"version": 1, "percent": 100}]
        moved = facts(run("label", "trip", "canary=1", "--json"))
        assert moved == {"name": "trip", "label": "canary", "shares": shares, "move": 1}
        (listed,) = facts(run("list", "--json"))["prompts"]
        assert (listed["name"], listed["versions"], listed["labels"][0]["shares"]) == (
            "trip",
            1,
            shares,
        )
        shown = facts(run("show", "trip", "--json"))
        assert shown["content"]["variables"][1]["default"] == "3"
        assert shown["labels"][0]["moves"][0]["number"] == 1

    against(tmp_path, body)


def test_a_refusal_is_told_and_returned(tmp_path: Path) -> None:
    def body(run: Evenflow) -> None:
        run("create", "-", stdin=TRIP)

        other = run("create", "--version", "1", "-", stdin=TRIP.replace("one", "two"))
        assert (other.exit_code, "PROMPT_VERSION_EXISTS" in other.stderr) == (1, True)
        assert run("label", "trip", "production=2").exit_code == 1
        assert run("rollback", "trip", "production").exit_code == 1
        assert run("show", "trip", "--tenant", "globex").exit_code == 1
        for wrong in ("production", "production=", "production=1:90,2", "production=x"):
            assert run("label", "trip", wrong).exit_code == 2, wrong

    against(tmp_path, body)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[", "not YAML"),
        ("- 1", "must be a mapping with a name"),
        ("name: 3", "must be a mapping with a name"),
        ("name: trip\nmessage: []", "unknown field 'message'"),
        ("name: trip\nmessages: [{role: pope, content: x}]", "ROLE_POPE"),
        ("name: trip\nmessages: [x]", "lists of mappings"),
        ("name: trip\nvariables: [{name: x, type: string, size: 3}]", "size"),
        ("name: trip\nvariables: [{name: x, type: string, default: []}]", "a default must be"),
    ],
)
def test_a_file_that_is_none(text: str, why: str) -> None:
    with pytest.raises(InvalidFile, match=why):
        content_of(text.encode())


def test_a_file_says_what_the_contract_says() -> None:
    name, content = content_of(TRIP.encode())

    assert name == "trip"
    assert content.messages[0] == pb.TemplateMessage(
        role=inference_pb.ROLE_SYSTEM, content="Answer in one line."
    )
    assert content.variables[1].default == "3"
    assert (content.defaults.max_output_tokens, content.defaults.temperature) == (20, 0.0)
    assert content.defaults.HasField("temperature")


def test_a_program_names_a_prompt() -> None:
    request = prompt_request("trip", {"city": "Rome", "days": 3}, label="canary", messages="And?")

    assert (request.model, request.prompt.name, request.prompt.label) == ("", "trip", "canary")
    assert dict(request.prompt.variables) == {"city": "Rome", "days": 3.0}
    assert request.prompt.messages[0].content == "And?"
    assert prompt_request("trip", version=2).prompt.version == 2
