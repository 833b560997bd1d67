"""What waits to be forwarded: bounded in bytes, and the oldest goes first when it is full.

Whoever sends us spans is never held up by whoever takes them from us; what is newest is what
somebody looks at now.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parcel(Generic[T]):
    content: T
    spans: int
    size_bytes: int


class Backlog(Generic[T]):
    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parcels: deque[Parcel[T]] = deque()
        self._bytes = 0
        self.dropped_spans = 0  # for want of room, since the start

    def __len__(self) -> int:
        return len(self._parcels)

    def offer(self, parcel: Parcel[T]) -> None:
        self._parcels.append(parcel)
        self._bytes += parcel.size_bytes
        while self._bytes > self._max_bytes:
            self.dropped_spans += self._pop().spans

    def take(self) -> Parcel[T] | None:
        """The oldest."""
        return self._pop() if self._parcels else None

    def _pop(self) -> Parcel[T]:
        parcel = self._parcels.popleft()
        self._bytes -= parcel.size_bytes
        return parcel
