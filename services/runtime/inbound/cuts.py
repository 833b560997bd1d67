"""Ends what is under way for requests whose key or certificate was revoked."""

import asyncio
from collections.abc import Iterable

from services.chassis.revocation import CertificateRevoked


class KeyRevoked(PermissionError):
    """The caller's API key is good no more; come back with another."""


Revoked = type[KeyRevoked] | type[CertificateRevoked]
_SAID = {
    KeyRevoked: "this request's API key is revoked",
    CertificateRevoked: "this request's certificate is revoked",
}


class Cut:
    """Of one attempt: not yet cut, or why. Interrupts its wait for the engine."""

    def __init__(self) -> None:
        self.why: Revoked | None = None
        self._wait: asyncio.Timeout | None = None

    def check(self) -> None:
        """Raises KeyRevoked, CertificateRevoked."""
        if self.why is not None:
            raise self.why(_SAID[self.why])

    def waits(self, wait: asyncio.Timeout | None) -> None:
        """None: no more."""
        self._wait = wait

    def now(self, why: Revoked) -> None:
        self.why = why
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(asyncio.get_running_loop().time())


class Cuts:
    def __init__(self) -> None:
        self._under_way: dict[str, list[Cut]] = {}

    def enter(self, request_id: str) -> Cut:
        cut = Cut()
        self._under_way.setdefault(request_id, []).append(cut)
        return cut

    def leave(self, request_id: str, cut: Cut) -> None:
        here = self._under_way[request_id]
        here.remove(cut)
        if not here:
            del self._under_way[request_id]

    def cut(self, request_ids: Iterable[str], why: Revoked) -> int:
        """How many were cut that had not been."""
        found = [
            each
            for request_id in set(request_ids)
            for each in self._under_way.get(request_id, ())
            if each.why is None
        ]
        for each in found:
            each.now(why)
        return len(found)
