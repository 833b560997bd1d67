"""Which endpoints were sent the beginning of a prompt before, and may have it in their KV cache.

A prompt's beginning is cut into blocks of BLOCK_BYTES. A block's key is a hash of its bytes, of all
before them, and of who and what it is for (the tenant's cache salt and the model), so that equal
text of another tenant is another block, here as in the engines.

An approximation: what was sent to an endpoint counts as being there until as much else was sent
there as its KV cache holds, the least recently used evicted first, as engines do. vLLM can tell of
each block that it keeps or drops (KV events), but by a ZMQ socket for each runtime, without TLS,
and by hashes of tokens, which a router without tokenizers can't compute. So the error is measured
instead: each request's end says what was cached in truth (core/expectations.py).

Source: the Gateway API inference extension's approximate prefix index; for what engines do, vLLM's
automatic prefix caching.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from services.router.core.demands import BYTES_PER_TOKEN

# 64 tokens, four of vLLM's blocks. Smaller ones cost more hashing, larger ones miss system prompts.
BLOCK_BYTES = 256
BLOCK_TOKENS = BLOCK_BYTES // BYTES_PER_TOKEN
MOST_BLOCKS = 128  # of one prompt: 32 KiB, 8,000 tokens; more would weigh no more
START_BYTES = MOST_BLOCKS * BLOCK_BYTES
KEPT_BLOCKS = 400_000  # at all endpoints together: about 120 MB

Keys = Sequence[int]


def block_keys(start: bytes, *belongs_to: str) -> Keys:
    """Keys of the full blocks of a prompt's first START_BYTES.

    Python's own hash (SipHash under a secret of this process) is three times as fast as BLAKE2, and
    nobody outside can find two texts with one key. A collision would cost a detour and tell
    nothing: the engine compares for itself.
    """
    parent = hash(belongs_to)
    keys = []
    for at in range(0, min(len(start), START_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        parent = hash((parent, start[at : at + BLOCK_BYTES]))
        keys.append(parent)
    return keys


@dataclass(slots=True)
class _Cache:
    bit: int  # of the endpoint, in `_holders`
    capacity: int = 0  # blocks; 0: nothing is known of its KV cache
    blocks: OrderedDict[int, None] = field(default_factory=OrderedDict)  # oldest first


class Holders(Mapping[str, int]):
    """Addresses, and how many blocks each has, the most first. Nothing is made of a thousand
    endpoints until it is asked for; to be used before the index changes."""

    def __init__(
        self,
        groups: Sequence[tuple[int, int]],  # how many blocks, and a set of who has so many
        bits: Mapping[str, int],
        addresses: Sequence[str],
    ) -> None:
        self._groups = groups
        self._bits = bits
        self._addresses = addresses

    def __getitem__(self, address: str) -> int:
        blocks = self.blocks(address)
        if not blocks:
            raise KeyError(address)
        return blocks

    def __iter__(self) -> Iterator[str]:
        for _, having in self._groups:
            left = having
            while left:
                lowest = left & -left
                yield self._addresses[lowest.bit_length() - 1]
                left ^= lowest

    def __len__(self) -> int:
        return sum(having.bit_count() for _, having in self._groups)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def blocks(self, address: str) -> int:
        """0: it has none."""
        bit = self._bits.get(address, 0)
        for depth, having in self._groups:
            if having & bit:
                return depth
        return 0


class PrefixIndex:
    """Sets of endpoints are whole numbers with a bit for each: a thousand of them are intersected
    in one operation."""

    def __init__(self, *, kept_blocks: int = KEPT_BLOCKS) -> None:
        self._kept_blocks = kept_blocks
        self._caches: dict[str, _Cache] = {}
        self._addresses: list[str] = []  # by bit
        self._bits: dict[str, int] = {}
        self._holders: dict[int, int] = {}  # by key; never zero
        self._full: set[str] = set()

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def full(self) -> AbstractSet[str]:
        """Addresses where whatever is added evicts something else."""
        return self._full

    def resize(self, address: str, tokens: int) -> None:
        """Takes how many tokens an endpoint's KV cache holds."""
        cache = self._caches.get(address)
        if cache is None:
            cache = self._caches[address] = _Cache(bit=1 << len(self._addresses))
            self._addresses.append(address)
            self._bits[address] = cache.bit
        capacity = tokens // BLOCK_TOKENS
        if capacity == cache.capacity:
            return
        cache.capacity = capacity
        self._full.discard(address)
        self._evict(address, cache)

    def add(self, address: str, keys: Keys) -> None:
        """It has these blocks now, or will have before the next request is read there."""
        cache = self._caches.get(address)
        if cache is None:
            return
        blocks, holders, bit = cache.blocks, self._holders, cache.bit
        for key in reversed(keys):  # so that a prefix is evicted from its end
            if key in blocks:
                blocks.move_to_end(key)
            else:
                blocks[key] = None
                holders[key] = holders.get(key, 0) | bit
        self._evict(address, cache)

    def forget(self, address: str) -> None:
        """Its cache is empty."""
        cache = self._caches.get(address)
        while cache is not None and cache.blocks:
            self._drop_oldest(cache)
        self._full.discard(address)

    def matched(self, keys: Keys) -> "Holders":
        """How many of the first blocks each endpoint has; those that have none are not there."""
        groups: list[tuple[int, int]] = []
        having = self._holders.get(keys[0], 0) if keys else 0
        depth = 0
        while having:
            depth += 1
            still = having & self._holders.get(keys[depth], 0) if depth < len(keys) else 0
            if still != having:
                groups.append((depth, having ^ still))
            having = still
        return Holders(groups[::-1], self._bits, self._addresses)

    def _evict(self, address: str, cache: _Cache) -> None:
        room = min(cache.capacity, self._kept_blocks // len(self._caches))
        if len(cache.blocks) > room:
            self._full.add(address)
        while len(cache.blocks) > room:
            self._drop_oldest(cache)

    def _drop_oldest(self, cache: _Cache) -> None:
        key, _ = cache.blocks.popitem(last=False)
        left = self._holders[key] ^ cache.bit
        if left:
            self._holders[key] = left
        else:
            del self._holders[key]
