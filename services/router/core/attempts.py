"""What attempts took whose trailers the gateway never saw, by request; runtimes tell of it.

A runtime tells every router, and again those that come back, so each attempt is taken once, and
only by who knows its request. The word may come before the access log's: a router that was started
again knows a request by its end alone. So what nobody knows here waits for a while.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from services.router.core.endings import Usage

KEPT = 10_000  # requests, as many as are kept themselves
WAITING = 10_000  # other routers' among them; what a few runtimes tell to who comes back


@dataclass(frozen=True, slots=True)
class LostAttempt:
    request_id: str
    number: int  # from 1, as the gateway counts
    tenant: str
    endpoint: str  # host:port
    model_version: str
    usage: Usage
    has_begun: bool  # its first token was made


class LostAttempts:
    """`knows` a request: this router was asked about it, or told of its end."""

    def __init__(
        self, knows: Callable[[str], bool], *, kept: int = KEPT, waiting: int = WAITING
    ) -> None:
        self._knows = knows
        self._taken = _Attempts(kept)
        self._unknown = _Attempts(waiting)

    def hear(self, attempt: LostAttempt) -> bool:
        """True if it is news of a request that is known."""
        if self._knows(attempt.request_id):
            return self._taken.add(attempt)
        self._unknown.add(attempt)
        return False

    def claim(self, request_id: str) -> Sequence[LostAttempt]:
        """Takes what was heard of a request before it was known."""
        waiting = self._unknown.remove(request_id)
        return [each for each in waiting if self._taken.add(each)] if waiting else ()

    def of(self, request_id: str) -> Sequence[LostAttempt]:
        """By number."""
        return sorted(self._taken.of(request_id), key=lambda each: each.number)


class _Attempts:
    """Of the last so many requests."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._by_request: OrderedDict[str, dict[int, LostAttempt]] = OrderedDict()

    def add(self, attempt: LostAttempt) -> bool:
        """False if it was there."""
        attempts = self._by_request.setdefault(attempt.request_id, {})
        if attempt.number in attempts:
            return False
        attempts[attempt.number] = attempt
        if len(self._by_request) > self._kept:
            self._by_request.popitem(last=False)
        return True

    def of(self, request_id: str) -> Iterable[LostAttempt]:
        return self._by_request.get(request_id, {}).values()

    def remove(self, request_id: str) -> Iterable[LostAttempt]:
        return self._by_request.pop(request_id, {}).values()
