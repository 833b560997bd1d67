"""The salts' file: a line more is taken, a broken one leaves what was before."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.router.core.salts import CacheSalts
from services.router.outbound.salt_file import follow, read
from tests import virtual_time

FIRST, SECOND = f"0:{'ab' * 32}\n", f"1:{'cd' * 32}\n"
LOOKED_S = 3.0  # after so long it was looked at, more than once


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "cache-salt"
    made.write_text(FIRST)
    return made


def write(path: Path, content: str | None) -> None:
    """None: there is no such file any more."""
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


def followed(
    path: Path, scenario: Callable[[CacheSalts], Coroutine[Any, Any, None]]
) -> list[dict[str, Any]]:
    """What was logged."""

    async def run() -> None:
        salts = CacheSalts(read(path))
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(follow(path, salts.replaced))
            await scenario(salts)
            task.cancel()

    with capture_logs() as logged:
        virtual_time.run(run())
    return [dict(each) for each in logged]


def test_a_line_more_is_in_force_and_said_once(path: Path) -> None:
    async def scenario(salts: CacheSalts) -> None:
        write(path, FIRST + SECOND)
        await asyncio.sleep(LOOKED_S)
        assert salts.epoch == 1

    logged = followed(path, scenario)

    assert [(each["event"], each["epoch"]) for each in logged] == [("salts.rotated", 1)]


@pytest.mark.parametrize("broken", ["", SECOND[:40], FIRST + SECOND[:40], None])
def test_a_broken_file_leaves_the_secret_before_and_is_told_of_once(
    path: Path, broken: str | None
) -> None:
    async def scenario(salts: CacheSalts) -> None:
        write(path, broken)
        await asyncio.sleep(LOOKED_S)
        assert salts.epoch == 0
        write(path, FIRST + SECOND)
        await asyncio.sleep(LOOKED_S)
        assert salts.epoch == 1

    logged = followed(path, scenario)

    assert [each["event"] for each in logged] == ["salts.refused", "salts.rotated"]
    assert "cdcd" not in str(logged)
