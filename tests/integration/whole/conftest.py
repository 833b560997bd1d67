import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.whole.mesh import Mesh, running
from tests.integration.whole.receiver import Receiver, receiving

STEP_S = 0.02
SLOW_PROMPT_WORDS = 1000
SIMULATED = {
    "RUNTIME_SIMULATED_STEP_S": str(STEP_S),
    "RUNTIME_SIMULATED_PREFILL_PER_TOKEN_S": "0.002",  # 2 s and more for the slow prompt
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="session")
def real_mesh(receiver: Receiver) -> Iterator[Mesh]:
    """The mesh of `make run`, on llama.cpp and the real model."""
    environ = {"ENGINE": "llamacpp", "EVENFLOW_OTLP_FORWARD": receiver.address}
    with running(command="run", model="smollm2-135m-instruct", environ=environ) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def simulated_mesh() -> Iterator[Mesh]:
    """The same mesh on the simulated engine, for what depends on its times."""
    with running(
        command="simulate",
        model="simulated",
        environ=SIMULATED,
        step_s=STEP_S,
        slow_prompt_words=SLOW_PROMPT_WORDS,
    ) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """Where the official client for JavaScript is installed."""
    folder = Path(__file__).with_name("node")
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True)
    return folder
