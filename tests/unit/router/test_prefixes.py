"""The prefix index against one that keeps lists and compares them block by block."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.router.core.prefixes import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    MOST_BLOCKS,
    PrefixIndex,
    block_keys,
)

ADDRESSES = ["a:1", "b:1", "c:1"]
texts = st.lists(st.sampled_from("xy"), max_size=4).map("".join)  # few, so that they share much


def keys(text: str, salt: str = "salt") -> tuple[int, ...]:
    """One block for each letter."""
    return tuple(block_keys(b"".join(each.encode() * BLOCK_BYTES for each in text), salt, "small"))


@dataclass
class Oracle:
    capacity: int
    held: list[tuple[int, ...]] = field(default_factory=list)  # blocks by their path; oldest first

    def add(self, path: tuple[int, ...]) -> None:
        blocks = [path[:depth] for depth in range(len(path), 0, -1)]
        self.held = [each for each in self.held if each not in blocks] + blocks
        self.held = self.held[max(0, len(self.held) - self.capacity) :]

    def matched(self, path: tuple[int, ...]) -> int:
        depth = 0
        while depth < len(path) and path[: depth + 1] in self.held:
            depth += 1
        return depth


class AnyTraffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.oracles = {each: Oracle(5) for each in ADDRESSES}
        for each in ADDRESSES:
            self.index.resize(each, 5 * BLOCK_TOKENS)

    @rule(address=st.sampled_from(ADDRESSES), text=texts)
    def send(self, address: str, text: str) -> None:
        self.index.add(address, keys(text))
        self.oracles[address].add(keys(text))

    @rule(address=st.sampled_from(ADDRESSES))
    def restart(self, address: str) -> None:
        self.index.forget(address)
        self.oracles[address].held = []

    @rule(address=st.sampled_from(ADDRESSES), capacity=st.integers(0, 8))
    def another_size(self, address: str, capacity: int) -> None:
        self.index.resize(address, capacity * BLOCK_TOKENS)
        oracle = self.oracles[address]
        oracle.capacity = capacity
        oracle.held = oracle.held[max(0, len(oracle.held) - capacity) :]

    @rule(text=texts)
    def every_endpoint_matches_as_far_as_it_has_blocks(self, text: str) -> None:
        depths = {each: oracle.matched(keys(text)) for each, oracle in self.oracles.items()}

        assert self.index.matched(keys(text)) == {a: depth for a, depth in depths.items() if depth}

    @invariant()
    def nothing_is_kept_that_no_endpoint_has(self) -> None:
        held = {each[-1] for oracle in self.oracles.values() for each in oracle.held}

        assert len(self.index) == len(held)


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(deadline=None)  # a busy machine is no fault


@given(texts, texts)
def test_keys_are_shared_as_far_as_the_text_is(one: str, other: str) -> None:
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1

    same = [a == b for a, b in zip(keys(one), keys(other), strict=False)]
    assert same == [True] * shared + [False] * (len(same) - shared)


def test_equal_text_of_another_tenant_or_for_another_model_is_other_blocks() -> None:
    text = b"x" * 4 * BLOCK_BYTES
    own = set(block_keys(text, "salt of acme", "small"))

    assert not own & set(block_keys(text, "salt of globex", "small"))
    assert not own & set(block_keys(text, "salt of acme", "large"))


def test_only_full_blocks_of_a_bounded_beginning_have_keys() -> None:
    assert not block_keys(b"x" * (BLOCK_BYTES - 1), "salt")
    assert len(block_keys(b"x" * (2 * BLOCK_BYTES - 1), "salt")) == 1
    assert len(block_keys(b"x" * (4 << 20), "salt")) == MOST_BLOCKS


def test_an_endpoint_whose_cache_is_not_known_has_nothing() -> None:
    index = PrefixIndex()
    index.add("a:1", keys("xy"))

    assert index.matched(keys("xy")) == {}


def test_a_cache_is_full_once_something_was_evicted_until_it_is_empty_or_larger() -> None:
    index = PrefixIndex()
    index.resize("a:1", 2 * BLOCK_TOKENS)
    index.add("a:1", keys("xx"))
    assert set(index.full) == set()

    index.add("a:1", keys("y"))
    index.resize("a:1", 2 * BLOCK_TOKENS)  # as runtimes say again and again
    assert set(index.full) == {"a:1"}

    index.forget("a:1")
    assert set(index.full) == set()
    index.add("a:1", keys("xyx"))
    assert set(index.full) == {"a:1"}
    index.resize("a:1", 3 * BLOCK_TOKENS)
    assert set(index.full) == set()


def test_all_endpoints_together_keep_a_bounded_number_of_blocks() -> None:
    index = PrefixIndex(kept_blocks=6)
    for address in ADDRESSES:
        index.resize(address, 1_000_000)
    for number in range(10):
        for address in ADDRESSES:
            index.add(address, keys("xy", salt=f"{number} {address}"))

    assert len(index) == 6
