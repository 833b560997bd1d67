"""Follows the file of the salts' secrets: whoever appends a line to it empties every cache."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import structlog

from services.router.core.salts import InvalidSalts, SaltSecret, secret_in_force

_LOOK_EVERY_S = 1.0

_log = structlog.get_logger(__name__)


def read(path: Path) -> SaltSecret:
    """Raises OSError, and InvalidSalts, which never shows what the file holds."""
    return secret_in_force(path.read_bytes())


async def follow(
    path: Path, took: Callable[[SaltSecret], bool], *, look_every_s: float = _LOOK_EVERY_S
) -> NoReturn:
    """Calls `took` with what is in force. A file that can't be used leaves what was before, and is
    told of once."""
    told = ""
    while True:
        await asyncio.sleep(look_every_s)
        try:
            in_force = read(path)
        except (OSError, InvalidSalts) as error:
            if str(error) != told:
                told = str(error)
                _log.warning("salts.refused", problem=told, kept="the secret before")
            continue
        told = ""
        if took(in_force):
            _log.info("salts.rotated", epoch=in_force.epoch)
