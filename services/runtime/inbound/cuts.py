"""Attempts that must not go on, since their caller's key or certificate is good no more: they end
with their next step."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class KeyRevoked(PermissionError):
    """The API key that the request came with is revoked or has expired."""


class CertificateGone(PermissionError):
    """Likewise its certificate, or nobody owns its SPIFFE ID any more."""


class Cuts:
    def __init__(self) -> None:
        self._running: Counter[str] = Counter()  # arms of a hedge have one id
        self._cut: dict[str, PermissionError] = {}

    @contextmanager
    def running(self, request_id: str) -> Iterator[None]:
        self._running[request_id] += 1
        try:
            yield
        finally:
            self._running[request_id] -= 1
            if not self._running[request_id]:
                del self._running[request_id]
                self._cut.pop(request_id, None)

    def cut(self, request_ids: Iterable[str], why: PermissionError) -> int:
        """How many attempts end by it."""
        here = {each for each in request_ids if each in self._running}
        self._cut.update(dict.fromkeys(here, why))
        return sum(self._running[each] for each in here)

    def check(self, request_id: str) -> None:
        """Raises what it was cut for."""
        why = self._cut.get(request_id)
        if why is not None:
            raise type(why)(*why.args)
