"""Answers that Envoy was sent to us for: held from the decision until it comes, and then no more.

So an answer that the cache drops in between is given all the same, and one that Check did not
promise is not. Memory is bounded by the time that they are held.
"""

from collections import OrderedDict
from dataclasses import dataclass

from services.router.core.response_cache import Answer

_HELD_S = 30.0  # Envoy comes within milliseconds; longer, and the caller has gone or Envoy has died


class UnknownReplay(LookupError):
    """Promised by a router before this one, or never: ask again."""

    retry_after_s = 0.1


@dataclass(frozen=True, slots=True)
class Replay:
    answer: Answer
    received_unix_s: float  # when it was asked for


@dataclass(frozen=True, slots=True)
class _Promise:
    replay: Replay
    until_s: float


class Replays:
    def __init__(self) -> None:
        self._promised: OrderedDict[str, _Promise] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._promised)

    def promise(self, request_id: str, replay: Replay, now_s: float) -> None:
        self._promised[request_id] = _Promise(replay, now_s + _HELD_S)

    def take(self, request_id: str) -> Replay:
        """Raises UnknownReplay."""
        promise = self._promised.pop(request_id, None)
        if promise is None:
            raise UnknownReplay("the answer is not there any more; ask again")
        return promise.replay

    def expire(self, now_s: float) -> None:
        while self._promised and next(iter(self._promised.values())).until_s <= now_s:
            self._promised.popitem(last=False)
