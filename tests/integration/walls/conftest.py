from collections.abc import Iterator

import pytest

from tests.integration.walls.walled_mesh import walled_mesh
from tests.integration.whole.mesh import Mesh


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    with walled_mesh() as started:
        yield started
