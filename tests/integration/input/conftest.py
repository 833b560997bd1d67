from collections.abc import Iterator

import pytest

from tests.integration.input.health import Health
from tests.integration.whole.mesh import Mesh, running

IDLE_S = 13.0  # an idle connection is closed after it; 300 by default. After every other limit
ENVIRON = {
    "ROUTER_IDLE_CONNECTION_S": str(IDLE_S),
    "RUNTIME_SIMULATED_STEP_S": "0.001",
    "RUNTIME_SIMULATED_PREFILL_PER_TOKEN_S": "0.000001",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def simulated() -> Iterator[Mesh]:
    with running(command="simulate", model="simulated", environ=ENVIRON) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def health(simulated: Mesh) -> Health:
    return Health(simulated)


@pytest.fixture
def mesh(simulated: Mesh, health: Health) -> Iterator[Mesh]:
    """What a test does to it leaves nothing behind, and no bug in any log."""
    yield simulated
    health.check()


@pytest.fixture(scope="session")
def real() -> Iterator[Mesh]:
    environ = {"ENGINE": "llamacpp"}
    with running(command="run", model="smollm2-135m-instruct", environ=environ) as mesh:
        yield mesh
