import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.postgres import Postgres, postgres
from services.policy.outbound.database import Database
from tests.identities import Identities

SQLITE, POSTGRESQL = "sqlite", "postgresql"


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgres]:
    with (
        tempfile.TemporaryDirectory(prefix="evf-pg-") as folder,  # short, for its socket
        postgres(Path(folder)) as server,
    ):
        yield server


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database; each test that asks for it runs on both kinds."""
    if request.param == SQLITE:
        return f"sqlite:///{tmp_path}/policy.db"
    server: Postgres = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """With its tables."""
    made = Database(database_url)
    made.migrate()
    yield made
    made.close()
