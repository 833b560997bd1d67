"""The wheel, built and installed as a stranger would: stubs, client, command and types."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import asyncio
from evenflow.blocking import BlockingClient
from evenflow.client import Client, chat_request
from evenflow.errors import Refused, StreamLost
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

async def ask(folder: str) -> str:
    async with Client("127.0.0.1:8443", certificate_folder=folder) as client:
        async for event in client.generate(chat_request("m", "Hello")):
            if isinstance(event, pb.Delta):
                reveal_type(event.text)
        return await client.chat("m", "Hello")
"""


def output(*command: str | Path, cwd: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a fresh environment that holds the wheel, its extra, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    output(sys.executable, *build, ROOT, cwd=folder)
    (wheel,) = folder.glob("evenflow-*.whl")
    output(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    install = ("-m", "uv", "pip", "install", "--quiet", "--python", python)
    pins = ("--constraint", ROOT / "requirements.lock")
    output(sys.executable, *install, *pins, f"{wheel}[cli]", cwd=folder)
    return python


@pytest.mark.integration
def test_stubs_client_and_command_are_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = PROGRAM.replace("reveal_type", "str")

    output(installed, "-c", program, cwd=tmp_path)
    told = output(installed.with_name("evenflow"), "certs", "--help", cwd=tmp_path)

    assert "issue" in told


@pytest.mark.integration
def test_nothing_of_the_services_is_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    listed = "import importlib.util as u; print([u.find_spec(n) for n in ('services', 'deploy')])"

    assert output(installed, "-c", listed, cwd=tmp_path) == "[None, None]\n"


@pytest.mark.integration
def test_mypy_sees_the_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache")

    told = output(*mypy, "--python-executable", installed, "program.py", cwd=tmp_path)

    assert 'Revealed type is "str"' in told
    assert "Success" in told
