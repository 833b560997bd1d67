"""Attempts whose trailers nobody got: kept, the last of them, for routers to hear of.

Numbered in the order they ended, so that each listener has its own place. Kept in memory and for no
acknowledgement: who comes back hears the kept ones again and knows what it knew. What must outlive
this process belongs into a ledger that outlives it, and is written from here.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

KEPT = 1000  # an hour of a reader who leaves every fourth second, in 300 KB


@dataclass(frozen=True, slots=True)
class Attempt:
    request_id: str
    number: int  # from 1, as the gateway counts
    tenant: str
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    has_begun: bool  # its first token was made


class LostAttempts:
    def __init__(self, *, kept: int = KEPT) -> None:
        self._kept: deque[Attempt] = deque(maxlen=kept)
        self._ended = 0  # all that there ever were
        self._told = 0  # of them, to somebody
        self.dropped = 0  # before anybody heard of them

    def add(self, attempt: Attempt) -> None:
        if len(self._kept) == self._kept.maxlen and self._told <= self._ended - len(self._kept):
            self.dropped += 1
        self._kept.append(attempt)
        self._ended += 1

    def since(self, place: int) -> Iterator[tuple[int, Attempt]]:
        """Those that are kept and ended later, each with the place after it. The first place is 0.

        Taking one from the iterator is being told of it.
        """
        oldest = self._ended - len(self._kept)
        skipped = max(0, place - oldest)
        for at, attempt in enumerate([*islice(self._kept, skipped, None)], oldest + skipped + 1):
            self._told = max(self._told, at)
            yield at, attempt
