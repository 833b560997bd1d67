"""Keeps the policy in step with its file: takes a good change, survives a bad one."""

import asyncio
from collections.abc import Callable
from typing import NoReturn, Protocol

import structlog

from services.policy.core.nodes import InvalidPolicy
from services.policy.core.tenants import Policy
from services.policy.outbound.policy_file import Stamp

POLL_S = 0.2  # a change is taken after two polls that see the same file, so within 0.5 s

_log = structlog.get_logger(__name__)


class PolicySource(Protocol):
    def stamp(self) -> Stamp | None:
        """Changes when the policy may have; None while it can't be reached."""

    async def load(self) -> Policy:
        """Raises:
        InvalidPolicy: it can't be used.
        OSError: it can't be read.
        """


async def follow(
    source: PolicySource,
    *,
    loaded: Stamp | None,
    took: Callable[[Policy], None],
    refused: Callable[[str], None],
) -> NoReturn:
    """Calls `took` with each new policy, `refused` with what is wrong with a new file.

    `loaded` is the stamp that the current policy was read under. A file is read when it has stood
    still for one poll: whoever writes in place would otherwise have half a policy served, since
    the first half of a list of tenants is a list of tenants. Ends by cancellation alone.
    """
    tried = seen = loaded
    while True:
        await asyncio.sleep(POLL_S)
        stamp = source.stamp()
        stands_still = stamp == seen
        seen = stamp
        if stamp == tried or not stands_still:
            continue
        tried = stamp
        try:
            policy = await source.load()
        except (InvalidPolicy, OSError) as error:
            refused(str(error))
            _log.warning("policy.refused", problems=str(error), kept="the policy before")
        else:
            took(policy)
            say_loaded(policy)


def say_loaded(policy: Policy) -> None:
    _log.info("policy.loaded", version=policy.version, tenants=len(policy.tenants))
    if policy.warnings:
        _log.warning(
            "policy.doubtful", warnings=len(policy.warnings), first=str(policy.warnings[0])
        )
