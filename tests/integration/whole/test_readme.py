"""What the README tells a newcomer to type, typed: its own code blocks against a real mesh."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.whole.mesh import ROOT, Mesh

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def block(language: str, containing: str) -> str:
    found = [
        text
        for kind, text in BLOCK.findall((ROOT / "README.md").read_text())
        if kind == language and containing in text
    ]
    assert len(found) == 1, containing
    text: str = found[0]
    return text


def here(text: str, mesh: Mesh) -> str:
    """The same with this mesh's ports and folder instead of the default ones."""
    return (
        text.replace("http://127.0.0.1:8080", mesh.frontend)
        .replace("127.0.0.1:8443", mesh.address)
        .replace(".evenflow/", f"{mesh.home}/")
    )


def run(command: list[str], **variables: str) -> str:
    environ = os.environ | {"PYTHONPATH": str(ROOT / "client")} | variables
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("library", ["import openai", "from evenflow.client"])
def test_the_python_examples_answer(real_mesh: Mesh, library: str) -> None:
    assert len(run([sys.executable, "-c", here(block("python", library), real_mesh)])) > 20


def test_the_curl_example_streams(real_mesh: Mesh) -> None:
    printed = run(["bash", "-c", here(block("sh", "curl -N"), real_mesh)])

    lines = [line for line in printed.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert len(lines) > 5


def test_the_commands_answer(real_mesh: Mesh) -> None:
    command = [str(Path(sys.executable).with_name("evenflow"))]
    environ = {
        "EVENFLOW_HOME": str(real_mesh.home),
        "EVENFLOW_MESH_PORT": real_mesh.address.rpartition(":")[2],
        "EVENFLOW_ROUTER_PORT": str(real_mesh.ports("router")[0]),
    }

    assert len(run([*command, "chat", "Tell me a story."], **environ)) > 20
    status = run([*command, "status"], **environ)
    assert all(address in status for address in real_mesh.runtimes)
