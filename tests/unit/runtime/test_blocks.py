"""The block pool: never more blocks than there are, never a block of another salt."""

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.blocks import BlockPool, Lease, block_keys

BLOCK = 4


def keys(prompt: list[int], salt: str = "a") -> tuple[int, ...]:
    return block_keys(prompt, block_tokens=BLOCK, salt=salt)


def test_the_block_with_the_last_token_has_no_key() -> None:
    assert [len(keys([1] * tokens)) for tokens in (1, 4, 5, 8, 9)] == [0, 0, 1, 1, 2]


def test_equal_prefixes_have_equal_keys_within_a_salt_only() -> None:
    long, short = keys([1, 2, 3, 4, 5, 6, 7, 8, 9]), keys([1, 2, 3, 4, 0])

    assert long[:1] == short
    assert not set(long) & set(keys([1, 2, 3, 4, 5, 6, 7, 8, 9], salt="b"))


def test_a_block_after_another_prefix_is_another_block() -> None:
    assert not set(keys([1] * 4 + [5] * 5)) & set(keys([2] * 4 + [5] * 5))


def test_what_was_read_is_found_again_and_counts_as_free() -> None:
    pool = BlockPool(4)
    prompt = keys([1] * 9)
    first = pool.lease(prompt, blocks=3)
    assert first is not None
    pool.give_back(first, computed=2)

    again = pool.lease(prompt, blocks=3)

    assert again is not None
    assert (first.cached, again.cached) == (0, 2)


def test_what_was_not_read_is_not_found() -> None:
    pool = BlockPool(4)
    first = pool.lease(keys([1] * 9), blocks=3)
    assert first is not None
    pool.give_back(first, computed=1)

    again = pool.lease(keys([1] * 9), blocks=3)

    assert again is not None
    assert again.cached == 1


def test_the_prefix_that_was_used_least_recently_is_evicted() -> None:
    pool = BlockPool(4)
    for prompt in ([1] * 5, [2] * 5, [1] * 5):
        lease = pool.lease(keys(prompt), blocks=2)
        assert lease is not None
        pool.give_back(lease, computed=1)
    big = pool.lease(keys([3] * 5), blocks=3)  # leaves room for one cached block
    assert big is not None

    found = [pool.lease(keys(prompt), blocks=1) for prompt in ([1] * 5,)]

    assert found[0] is not None
    assert found[0].cached == 1


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)
salts = st.sampled_from(["a", "b"])


@given(st.lists(st.tuples(prompts, salts, st.booleans(), st.integers(0, 4)), max_size=40))
def test_leases_never_hold_more_than_there_is(
    steps: list[tuple[list[int], str, bool, int]],
) -> None:
    pool = BlockPool(6)
    held: list[Lease] = []
    for prompt, salt, gives_back, computed in steps:
        if gives_back and held:
            pool.give_back(held.pop(0), computed=computed)
        lease = pool.lease(keys(prompt, salt), blocks=len(prompt) // BLOCK + 1)
        if lease is not None:
            held.append(lease)
        distinct = {key for each in held for key in each.shared}
        assert len(distinct) + sum(each.private for each in held) + pool.free == 6
        assert pool.free >= 0

    for lease in held:
        pool.give_back(lease, computed=0)
    assert pool.free == 6
