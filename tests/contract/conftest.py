import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.identities import Identities

if TYPE_CHECKING:  # the engines' suite runs in vLLM's environment too, which has no databases
    from deploy.local.postgres import Postgres
    from services.policy.outbound.database import Database

SQLITE, POSTGRESQL = "sqlite", "postgresql"


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def postgresql() -> "Iterator[Postgres]":
    from deploy.local.postgres import postgres  # noqa: PLC0415 - see above

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
def database(database_url: str) -> "Iterator[Database]":
    """With its tables."""
    from services.policy.outbound.database import Database  # noqa: PLC0415 - see above

    made = Database(database_url)
    made.migrate()
    yield made
    made.close()
