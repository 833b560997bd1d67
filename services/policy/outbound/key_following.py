"""Sees when keys in the database are others than those in force: another process has changed them,
or it was done and the database could not say so."""

import asyncio
from collections.abc import Callable
from typing import NoReturn

import structlog

from services.policy.core.keys import Keys, KeyStore
from services.policy.outbound.database import DatabaseUnreachable

LOOK_EVERY_S = 1.0  # a row with one number

_log = structlog.get_logger(__name__)


async def follow_keys(
    store: KeyStore, in_force: Callable[[], Keys], took: Callable[[Keys], None]
) -> NoReturn:
    """Calls `took` with each other set of keys. While the database is away, those in force stay.
    Ends by cancellation alone."""
    is_away = False
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            if await store.revision() != in_force().revision:
                keys = await store.read()
                took(keys)
                _log.info("keys.replaced", revision=keys.revision, keys=len(keys.all))
        except DatabaseUnreachable as error:
            if not is_away:
                _log.warning("keys.unreachable", problem=str(error), kept="the keys before")
            is_away = True
        else:
            is_away = False
