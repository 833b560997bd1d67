"""Ends running requests whose key or certificate is good no more: has their runtimes cut them.

Once a second, and again as long as a request runs: a runtime that was out of reach, or that an
attempt had yet to arrive at, is told the next time.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn, Protocol

import grpc
import structlog

from services.router.core.credentials import Cut, cut
from services.router.core.requests import Decision, Requests
from services.router.core.tenants import Tenants

LOOK_EVERY_S = 1.0
_WITHIN_S = 0.9  # so that no runtime delays the next look

_log = structlog.get_logger(__name__)


class CuttingRuntime(Protocol):
    address: str

    async def cut(self, request_ids: Sequence[str], why: Cut, *, within_s: float) -> int:
        """How many of them it had. Raises grpc.aio.AioRpcError or OSError."""


class Allowed:
    """Which running requests may go on, by what is known now."""

    def __init__(
        self,
        tenants: Callable[[], Tenants | None],
        revoked: Callable[[str], bool],
        now_unix_s: Callable[[], float],
    ) -> None:
        self._tenants = tenants
        self._revoked = revoked
        self._now_unix_s = now_unix_s

    def cuts(self, requests: Requests) -> Mapping[tuple[str, Cut], Sequence[str]]:
        """By address and reason, the ids of those that may not, wherever they may run."""
        tenants, now_unix_s = self._tenants(), self._now_unix_s()
        found: defaultdict[tuple[str, Cut], list[str]] = defaultdict(list)
        for each in requests.with_slots():
            why = self._cut(each, tenants, now_unix_s)
            if why is not None:
                for address in each.order:
                    found[address, why].append(each.request_id)
        return found

    def _cut(self, decision: Decision, tenants: Tenants | None, now_unix_s: float) -> Cut | None:
        return cut(
            decision.credential, decision.tenant, tenants, self._revoked, now_unix_s=now_unix_s
        )


async def follow(
    requests: Requests, allowed: Allowed, runtime: Callable[[str], CuttingRuntime]
) -> NoReturn:
    """Ends by cancellation alone."""
    while True:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(LOOK_EVERY_S))
            for (address, why), request_ids in allowed.cuts(requests).items():
                tasks.create_task(_cut(runtime(address), why, request_ids))


async def _cut(runtime: CuttingRuntime, why: Cut, request_ids: Sequence[str]) -> None:
    try:
        ended = await runtime.cut(request_ids, why, within_s=_WITHIN_S)
    except (grpc.aio.AioRpcError, OSError) as error:
        _log.warning("requests.cut_failed", endpoint=runtime.address, problem=str(error))
    else:
        _log.info("requests.cut", endpoint=runtime.address, why=why.value, cut=ended)
