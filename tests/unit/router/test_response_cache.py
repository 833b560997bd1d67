"""The response cache against a slow one that is easy to believe."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.core.endings import Usage
from services.router.core.replays import Replay, Replays, UnknownReplay
from services.router.core.response_cache import (
    MOST_EXPECTED,
    OVERHEAD_BYTES,
    Answer,
    Expected,
    ResponseCache,
)

ROOM_BYTES = 4 * OVERHEAD_BYTES
FOREVER_S = 1e9


def answer(size_bytes: int = 0, version: str = "1") -> Answer:
    return Answer(version, Usage(1, 0, 1), (bytes(size_bytes),))


def kept(cache: ResponseCache, tenant: str, key: str, **changes: float) -> bool:
    """`changes`: ttl_s, now_s, size_bytes."""
    now_s = changes.get("now_s", 0.0)
    cache.expect(key, Expected(tenant, changes.get("ttl_s", 60.0), now_s + 10.0))
    return cache.keep(key, answer(int(changes.get("size_bytes", 0))), now_s)


def found(cache: ResponseCache, tenant: str, key: str, *, now_s: float = 0.0) -> bool:
    return cache.find(tenant, key, ttl_s=FOREVER_S, now_s=now_s) is not None


@dataclass(slots=True)
class Listed:
    """The oracle: one list of all, in order of use, searched from end to end."""

    entries: list[tuple[str, str, int, float]] = field(default_factory=list)

    def keep(self, tenant: str, key: str, size_bytes: int, expires_at_s: float) -> None:
        size_bytes += OVERHEAD_BYTES
        if size_bytes > ROOM_BYTES:
            return
        self.entries = [each for each in self.entries if each[:2] != (tenant, key)]
        while sum(each[2] for each in self.entries) + size_bytes > ROOM_BYTES:
            held = {name: self.held(name) for name in {each[0] for each in self.entries}}
            biggest = min(name for name in held if held[name] == max(held.values()))
            self.entries.remove(next(each for each in self.entries if each[0] == biggest))
        self.entries.append((tenant, key, size_bytes, expires_at_s))

    def find(self, tenant: str, key: str, now_s: float) -> bool:
        for each in self.entries:
            if each[:2] == (tenant, key) and now_s < each[3]:
                self.entries.remove(each)
                self.entries.append(each)
                return True
        return False

    def expire(self, now_s: float) -> None:
        self.entries = [each for each in self.entries if each[3] > now_s]

    def retain(self, tenant: str) -> None:
        self.entries = [each for each in self.entries if each[0] == tenant]

    def held(self, tenant: str) -> int:
        return sum(each[2] for each in self.entries if each[0] == tenant)


# Few of each, so that they meet.
tenants = st.sampled_from(["a", "b", "c"])
keys = st.sampled_from(["1", "2", "3"])
sizes = st.sampled_from([0, 1, OVERHEAD_BYTES, 2 * OVERHEAD_BYTES, 4 * OVERHEAD_BYTES])
ttls = st.sampled_from([1.0, 2.0, 5.0])
steps = st.one_of(
    st.tuples(st.just("keep"), tenants, keys, sizes, ttls),
    st.tuples(st.just("find"), tenants, keys),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 1.0, 2.0])),
    st.tuples(st.just("expire")),
    st.tuples(st.just("retain"), tenants),
)


@given(st.lists(steps, max_size=40))
def test_it_holds_what_a_list_would(script: list[tuple[Any, ...]]) -> None:
    cache, oracle, now_s = ResponseCache(most_bytes=ROOM_BYTES), Listed(), 0.0
    for name, *of in script:
        match name, of:
            case "keep", [tenant, key, size, ttl]:
                kept(cache, tenant, tenant + key, size_bytes=size, ttl_s=ttl, now_s=now_s)
                oracle.keep(tenant, tenant + key, int(size), now_s + float(ttl))
            case "find", [tenant, key]:
                expected = oracle.find(tenant, tenant + key, now_s)
                assert found(cache, tenant, tenant + key, now_s=now_s) is expected
            case "pass", [seconds]:
                now_s += float(seconds)
            case "expire", []:
                cache.expire(now_s)
                oracle.expire(now_s)
            case "retain", [tenant]:
                cache.retain(tenant.__eq__)
                oracle.retain(tenant)
        assert cache.bytes == sum(each[2] for each in oracle.entries) <= ROOM_BYTES
        assert cache.entries == len(oracle.entries)


def test_what_nobody_expects_is_not_taken() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)

    assert not cache.keep("k", answer(), 0.0)
    assert kept(cache, "a", "k")
    assert not cache.keep("k", answer(version="2"), 0.0), "it was expected once"


def test_what_comes_after_its_deadline_is_not_taken() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)
    cache.expect("k", Expected("a", 60.0, until_s=5.0))

    assert not cache.keep("k", answer(), 5.1)


def test_expectations_are_bounded_and_pass() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)
    for number in range(MOST_EXPECTED + 1):
        cache.expect(str(number), Expected("a", 60.0, until_s=5.0))

    assert not cache.keep("0", answer(), 0.0), "the oldest made way"
    assert cache.keep("1", answer(), 0.0)
    cache.expire(5.1)
    assert not cache.keep("2", answer(), 0.0)


def test_what_belongs_to_a_tenant_that_is_no_more_is_not_taken() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)
    cache.expect("k", Expected("a", 60.0, until_s=5.0))
    cache.retain("b".__eq__)

    assert not cache.keep("k", answer(), 0.0)


def test_nobody_has_anothers_key() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)
    kept(cache, "a", "k")

    assert not found(cache, "b", "k")


def test_a_flooder_makes_room_at_its_own_cost() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)
    kept(cache, "quiet", "q")
    for number in range(100):
        kept(cache, "flooder", str(number))

    assert found(cache, "quiet", "q")
    assert cache.entries == 4


def test_what_was_used_last_stays_longest() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)
    for key in ("1", "2", "3", "4"):
        kept(cache, "a", key)
    found(cache, "a", "1")

    kept(cache, "a", "5")

    assert [key for key in "12345" if found(cache, "a", key)] == ["1", "3", "4", "5"]


def test_a_policy_that_shortens_the_time_is_heeded_at_once() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)
    kept(cache, "a", "k", ttl_s=60.0)

    assert cache.find("a", "k", ttl_s=5.0, now_s=4.9) is not None
    assert cache.find("a", "k", ttl_s=5.0, now_s=5.0) is None
    assert cache.find("a", "k", ttl_s=90.0, now_s=60.0) is None


def test_keeping_one_anew_for_long_leaves_no_timers_behind() -> None:
    cache = ResponseCache(most_bytes=ROOM_BYTES)
    for second in range(10_000):
        kept(cache, "a", "k", now_s=float(second))

    assert len(cache._timers) < 2_000  # noqa: SLF001 - memory is what this is about


def test_an_answer_does_not_show_its_text() -> None:
    assert "secret" not in repr(Answer("1", Usage(1, 0, 1), (b"secret",)))


def test_a_replay_is_given_once_to_whom_it_was_promised() -> None:
    replays = Replays()
    replays.promise("r1", Replay(answer(), 1.0), 0.0)

    with pytest.raises(UnknownReplay):
        replays.take("r2")
    assert replays.take("r1").answer == answer()
    with pytest.raises(UnknownReplay):
        replays.take("r1")


def test_a_replay_that_nobody_comes_for_is_dropped() -> None:
    replays = Replays()
    replays.promise("r1", Replay(answer(), 1.0), 0.0)
    replays.promise("r2", Replay(answer(), 1.0), 20.0)

    replays.expire(30.0)

    assert len(replays) == 1
    replays.take("r2")
