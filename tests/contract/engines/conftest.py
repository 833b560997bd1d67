"""Which engines to put through the suite: `--engine NAME`, as often as wanted.

An engine is made by `build()` in `<name>_engine.py` beside this file: SHAPE as in shape.py, and
nothing imported before it is called for. vLLM lives in another environment, so it is left out
unless asked for.
"""

import asyncio
import importlib
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import pytest

from services.runtime.core.engine import Engine

T = TypeVar("T")


class Run(Protocol):
    def __call__(self, main: Coroutine[Any, Any, T], /) -> T: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", action="append", help="simulated, llamacpp or vllm; repeatable")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        # The option is unknown when this folder is not named on the command line.
        names = metafunc.config.getoption("--engine", default=None) or ["simulated", "llamacpp"]
        metafunc.parametrize("engine", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """Runs a coroutine on the one loop that the engines live on."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, run: Run) -> Iterator[Engine]:
    built: Engine = importlib.import_module(f"{__package__}.{request.param}_engine").build()
    run(built.start())
    yield built
    run(built.close())
