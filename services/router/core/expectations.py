"""How many tokens of a prompt an endpoint is expected to have cached, and how far that comes true.

The prefix index says what was sent where; each request's end says what its engine found. Their
ratio, smoothed, is how far the index is trusted for an endpoint: what it says is multiplied by it.
So a smaller cache than announced, another eviction order, a tokenizer with other tokens, or no
prefix cache at all, lower an endpoint's attraction instead of sending requests there in vain.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from services.router.core.endings import Usage
from services.router.core.prefixes import BLOCK_TOKENS, Keys, PrefixIndex

_NEWEST_SHARE = 0.1  # of the average: the last twenty or so count
_EMPTY_AFTER = 8  # requests in a row that found nothing where something was expected


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a request's prompt, and what its endpoint was thought to have of it."""

    keys: Keys = ()
    held_tokens: int = 0  # as the index says, before trust


NO_PREFIX = Prefix()


@dataclass(slots=True)
class _Truth:
    trust: float = 1.0  # tokens found for each that was expected, at most 1
    misses: int = 0  # in a row
    expected_tokens: int = 0
    found_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """Of one request: tokens by address. Addresses that are missing have none."""

    held: Mapping[str, int]
    trusts: Mapping[str, _Truth]

    def tokens(self, address: str) -> float:
        held = self.held.get(address, 0)
        return held * self.trusts[address].trust if held else 0.0


class Expectations:
    def __init__(self, index: PrefixIndex | None = None) -> None:
        self._index = index or PrefixIndex()
        self._truths: dict[str, _Truth] = {}

    def of(self, keys: Keys, *, prompt_tokens: int) -> Expected:
        matched = self._index.matched(keys)
        held = {each: min(n * BLOCK_TOKENS, prompt_tokens) for each, n in matched.items()}
        return Expected(held, self._truths)

    def sent(self, address: str, keys: Keys) -> None:
        self._index.add(address, keys)

    def came_true(self, address: str, prefix: Prefix, at: str, usage: Usage) -> None:
        """`address`: where it was sent; `at`: who answered, another after a retry."""
        if at != address:
            self._index.add(at, prefix.keys)
            return
        truth = self._truths.get(address)
        if truth is None or not prefix.held_tokens:
            return
        truth.expected_tokens += prefix.held_tokens
        truth.found_tokens += usage.cached_prompt_tokens
        found = min(1.0, usage.cached_prompt_tokens / prefix.held_tokens)
        truth.trust += _NEWEST_SHARE * (found - truth.trust)
        truth.misses = 0 if usage.cached_prompt_tokens else truth.misses + 1
        if truth.misses == _EMPTY_AFTER:
            self._index.forget(address)
            truth.misses = 0

    def resize(self, address: str, *, kv_tokens: int) -> None:
        """An endpoint has said how large its KV cache is."""
        self._truths.setdefault(address, _Truth())
        self._index.resize(address, kv_tokens)

    def restarted(self, address: str) -> None:
        """Another process serves there, with an empty cache."""
        self._index.forget(address)
        self._truths[address] = _Truth()

    def trust(self, address: str) -> float:
        truth = self._truths.get(address)
        return truth.trust if truth else 1.0
