"""How many tokens of a prompt an endpoint is expected to have cached, and how far that comes true.

The prefix index says what was sent where; each request's end says what its engine found. Their
ratio, smoothed, is how far the index is trusted for an endpoint: what it says is multiplied by it.
So a smaller cache than announced, another eviction order, a tokenizer with other tokens, or no
prefix cache at all, lower an endpoint's attraction instead of sending requests there in vain.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from services.router.core.endings import Usage
from services.router.core.prefixes import Holders, Keys, PrefixIndex
from services.router.core.value import value

_NEWEST_SHARE = 0.1  # of the average: the last twenty or so count
_EMPTY_AFTER = 8  # requests in a row that found nothing where something was expected


@value
class Prefix:
    """The beginning of a request's prompt, and what its endpoint was thought to have of it."""

    keys: Keys = ()
    held_tokens: int = 0  # as the index says, before trust


NO_PREFIX = Prefix()


class Expectations:
    def __init__(self, index: PrefixIndex | None = None) -> None:
        self._index = index or PrefixIndex()
        self._trust: dict[str, float] = defaultdict(_full)  # found for each that was expected
        self._misses: Counter[str] = Counter()  # in a row

    def held_blocks(self, keys: Keys) -> Holders:
        """How many of the first blocks endpoints have, as the index says; none: not there."""
        return self._index.matched(keys)

    @property
    def full(self) -> AbstractSet[str]:
        """Addresses where whatever is computed evicts something else."""
        return self._index.full

    @property
    def trust(self) -> Mapping[str, float]:
        """How much of that is expected to be true, 0 to 1. Every address has one."""
        return self._trust

    def sent(self, address: str, keys: Keys) -> None:
        self._index.add(address, keys)

    def came_true(self, address: str, prefix: Prefix, at: str, usage: Usage) -> None:
        """`address`: where it was sent; `at`: who answered, another after a retry."""
        if at != address:
            self._index.add(at, prefix.keys)
            return
        if not prefix.held_tokens:
            return
        found = min(1.0, usage.cached_prompt_tokens / prefix.held_tokens)
        self._trust[address] += _NEWEST_SHARE * (found - self._trust[address])
        self._misses[address] = 0 if found else self._misses[address] + 1
        if self._misses[address] == _EMPTY_AFTER:
            self._index.forget(address)
            self._misses[address] = 0

    def resize(self, address: str, *, kv_tokens: int) -> None:
        """An endpoint has said how large its KV cache is."""
        self._index.resize(address, kv_tokens)

    def restarted(self, address: str) -> None:
        """Another process serves there, with an empty cache."""
        self._index.forget(address)
        self._trust.pop(address, None)
        self._misses.pop(address, None)


def _full() -> float:
    return 1.0
