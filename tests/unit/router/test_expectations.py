"""What runtimes found in their caches corrects what is expected of them."""

import pytest

from services.router.core.endings import Usage
from services.router.core.expectations import Expectations, Prefix
from services.router.core.prefixes import BLOCK_TOKENS
from tests.unit.router.values import A, B

KEYS = (1, 2, 3, 4)
TOKENS = 4 * BLOCK_TOKENS


def made() -> Expectations:
    expectations = Expectations()
    for address in (A, B):
        expectations.resize(address, kv_tokens=100 * BLOCK_TOKENS)
    return expectations


def expected(of: Expectations, address: str = A) -> float:
    return of.held_blocks(KEYS).get(address, 0) * BLOCK_TOKENS * of.trust[address]


def ends(of: Expectations, found: int, *, at: str = A) -> None:
    """One of these prompts, sent to A."""
    held = of.held_blocks(KEYS).get(A, 0) * BLOCK_TOKENS
    of.sent(A, KEYS)
    of.came_true(A, Prefix(KEYS, held), at, Usage(TOKENS, found, 1))


def test_what_was_sent_is_expected_there_and_nowhere_else() -> None:
    expectations = made()
    expectations.sent(A, KEYS)

    assert (expected(expectations), expected(expectations, B)) == (TOKENS, 0)


def test_an_endpoint_that_finds_half_is_trusted_half() -> None:
    expectations = made()
    for _ in range(100):
        ends(expectations, TOKENS // 2)

    assert expected(expectations) == pytest.approx(TOKENS / 2, rel=0.01)


def test_more_than_was_expected_is_no_reason_to_expect_more() -> None:
    expectations = made()
    for _ in range(100):
        ends(expectations, 2 * TOKENS)

    assert expected(expectations) == TOKENS


def test_trust_comes_back_with_the_truth() -> None:
    expectations = made()
    for found in [0] * 5 + [TOKENS] * 50:
        ends(expectations, found)

    assert expectations.trust[A] > 0.95


def test_a_cache_that_is_empty_again_and_again_is_forgotten() -> None:
    expectations = made()
    for _ in range(9):
        ends(expectations, 0)

    assert expectations.held_blocks(KEYS) == {}


def test_the_first_of_its_kind_says_nothing_about_trust() -> None:
    expectations = made()
    ends(expectations, 0)

    assert expectations.trust[A] == 1.0


def test_a_retry_leaves_the_prompt_where_it_was_answered() -> None:
    expectations = made()
    ends(expectations, 0, at=B)

    assert expected(expectations, B) == TOKENS
    assert expectations.trust[A] == 1.0


def test_a_process_that_is_started_again_has_nothing() -> None:
    expectations = made()
    for found in (0, 0, 0):
        ends(expectations, found)
    expectations.restarted(A)

    assert (expected(expectations), expectations.trust[A]) == (0, 1.0)
