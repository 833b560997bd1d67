"""What becomes of kept answers when programs end, and of those who are on their way to them."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from deploy.local.aside import surroundings
from tests.integration.cache.cached_mesh import BACK_WITHIN_S, CachedMesh, keeping_mesh
from tests.integration.whole.mesh import ROOT
from tests.integration.whole.programs import until

RESTARTED_WITHIN_S = 120.0


@pytest.fixture(scope="module")
def cached() -> Iterator[CachedMesh]:
    with keeping_mesh() as mesh:
        yield mesh


class Caller(threading.Thread):
    """Asks the same all the time."""

    def __init__(self, cached: CachedMesh, prompt: str) -> None:
        super().__init__()
        self._cached = cached
        self._prompt = prompt
        self._over = threading.Event()
        self.hits = 0
        self.answers = 0
        self.failures: list[Any] = []

    def run(self) -> None:
        while not self._over.is_set():
            try:
                told = self._cached.ask(self._prompt)
            except grpc.RpcError as error:
                self.failures.append(error)
            else:
                self.answers += 1
                self.hits += told.is_hit

    @contextmanager
    def asking(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self._over.set()
            self.join()


def test_no_hit_is_lost_when_the_router_is_restarted(cached: CachedMesh) -> None:
    prompt = "asked while the router is restarted"
    cached.kept(prompt)
    callers = [Caller(cached, prompt) for _ in range(3)]

    with callers[0].asking(), callers[1].asking(), callers[2].asking():
        until(lambda: all(each.hits for each in callers))
        _restart(cached, "router")
        before = [each.answers for each in callers]
        until(
            lambda: all(c.answers > n for c, n in zip(callers, before, strict=True)),
            within_s=BACK_WITHIN_S,
        )

    # One that takes longer than 10 s to start refuses others; that is not about the cache.
    refused = [failure.details() for each in callers for failure in each.failures]
    assert not any("answer" in each for each in refused)
    # The first to ask the new one has its answer kept, so the others may see nothing but hits.
    assert any(each.answers > each.hits for each in callers), "the new one began without answers"


def test_a_killed_router_comes_back_without_answers(cached: CachedMesh) -> None:
    cached.kept("before the kill")

    killed = _pid(cached)
    cached.programs.kill("router")
    until(lambda: _pid(cached) not in (0, killed), within_s=BACK_WITHIN_S)
    cached.until_ready()

    cached.kept("before the kill")


def test_a_hit_needs_no_runtime(cached: CachedMesh) -> None:
    cached.kept("without a runtime")
    cached.programs.freeze("runtime-1", "runtime-2")
    try:
        until(lambda: not any(each.ready for each in cached.endpoints()))
        told = cached.ask("without a runtime")
        with pytest.raises(grpc.RpcError) as refused:
            cached.ask("asked for the first time without a runtime")
    finally:
        cached.programs.thaw("runtime-1", "runtime-2")
    cached.until_ready()

    assert told.is_hit
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_answers_of_a_tenant_that_is_dropped_are_forgotten(cached: CachedMesh) -> None:
    cached.kept("of a tenant that is dropped", tenant="globex")
    kept: list[str] = []

    def without_globex(policy: str) -> str:
        kept.append(policy)
        begin, end = policy.index("  - id: globex"), policy.index("\nclasses:")
        return policy[:begin] + policy[end:]

    cached.rewrite_policy(without_globex)
    cached.rewrite_policy(lambda _: kept[0])

    assert not cached.ask("of a tenant that is dropped", tenant="globex").is_hit


def test_no_text_reaches_a_log(cached: CachedMesh) -> None:
    told = cached.kept("neither this nor the answer to it")
    cached.explained(cached.ask("neither this nor the answer to it"))
    logs = [file.read_text() for file in (cached.mesh.home / "logs").iterdir()]

    assert any('"cache": "hit"' in each or "cache=hit" in each for each in logs)
    assert not any(told.text.strip() in each for each in logs)
    assert not any("nor the answer to it" in each for each in logs)


def _pid(cached: CachedMesh) -> int:
    """Of the router; 0 between two of them."""
    return cached.programs.control.states()["router"].pid


def _restart(cached: CachedMesh, *names: str) -> None:
    mesh = cached.mesh
    subprocess.run(
        [sys.executable, "-m", "deploy.local", "restart", *names],
        cwd=ROOT,
        env=surroundings(mesh.home, mesh.single_ports, mesh.runtime_ports),
        check=True,
        capture_output=True,
        timeout=RESTARTED_WITHIN_S,
    )
