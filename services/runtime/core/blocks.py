"""KV blocks with a prefix cache: who holds which block, and which prefixes may be reused.

A block's key is the hash of its tokens, of every token before them, and of the salt, so equal
text under another salt is another block. A cached block that nobody holds counts as free and is
evicted least recently used first. The idea is vLLM's automatic prefix caching.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lease:
    """Blocks that one sequence holds until it gives them back."""

    shared: tuple[int, ...]  # keys of its prompt's full blocks, in order; the first may be cached
    cached: int  # how many of them were found
    private: int  # blocks besides


def block_keys(prompt: Sequence[int], *, block_tokens: int, salt: str) -> tuple[int, ...]:
    """Keys of the full blocks that a later prompt may reuse.

    The block with the last token is left out: a model must read at least one token.
    """
    parent = hash(salt)
    keys = []
    for start in range(0, len(prompt) - block_tokens, block_tokens):
        parent = hash((parent, tuple(prompt[start : start + block_tokens])))
        keys.append(parent)
    return tuple(keys)


class BlockPool:
    """A fixed number of blocks. Touched by one owner, never across an await."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._private = 0
        self._holders: dict[int, int] = {}  # key -> how many leases hold it
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached, held by none; oldest first

    @property
    def free(self) -> int:
        return self.total - self._private - len(self._holders)

    def lease(self, keys: Sequence[int], blocks: int) -> Lease | None:
        """`blocks` in all, those of `keys` among them; None when there is no room now.

        Keys that are not cached yet become so now: the caller computes them before the next
        lease is asked for, or in the same batch.
        """
        cached = self._cached_prefix(keys)
        fresh = sum(key not in self._holders for key in keys)
        private = blocks - len(keys)
        if private + fresh > self.free:
            return None
        for key in keys:
            self._idle.pop(key, None)
            self._holders[key] = self._holders.get(key, 0) + 1
        self._private += private
        self._evict()
        return Lease(tuple(keys), cached, private)

    def give_back(self, lease: Lease, *, computed: int) -> None:
        """`computed` of the shared blocks hold something that a later prompt may reuse."""
        self._private -= lease.private
        # Last block first, so that a prefix is evicted from its end.
        for index, key in reversed(list(enumerate(lease.shared))):
            self._holders[key] -= 1
            if self._holders[key] == 0:
                del self._holders[key]
                if index < computed:
                    self._idle[key] = None

    def _cached_prefix(self, keys: Sequence[int]) -> int:
        for index, key in enumerate(keys):
            if key not in self._holders and key not in self._idle:
                return index
        return len(keys)

    def _evict(self) -> None:
        while len(self._idle) > self.free:
            self._idle.popitem(last=False)
