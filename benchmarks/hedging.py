"""What hedging on the first token gains, and what it costs: the same mesh with and without.

Both meshes run side by side, on four simulated runtimes each, and get the same load in turn. First
one runtime of the four adds a second to a tenth of its requests. Then all four stand still at the
same times: no second arm is faster, so hedges would only add load.
"""

import argparse
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.load import Order, Outcome
from benchmarks.mesh import Mesh, running
from benchmarks.results import Goal, line
from benchmarks.sending import send
from evenflow.home import service_name

GOALS = (
    Goal("ttft_p99_times_unhedged", 0.25),
    Goal("ttft_p999_times_unhedged", 0.25),
    Goal("extra_requests_share", 0.03),
    Goal("all_slow_extra_requests_share", 0.10),
    Goal("all_slow_ttft_p99_times_unhedged", 1.0),
)
RUNTIMES = 4
REPEATS = 5
FOR_S = 20.0  # of each repeat: 10,000 requests on each mesh, so that p99.9 has ten above it
ALL_SLOW_FOR_S = 15.0
ALL_SLOW_REPEATS = 2
STANDS_STILL_S = 1.0
EVERY_S = 3.0
WARM_UP_S = 5.0
SETTLE_S = 0.5  # the last entries of the access log are under way for less
PER_S = 100.0
LOAD = {"tokens": 8, "prompt_bytes": 200, "timeout_s": 10}
ENGINE = {
    "RUNTIME_SIMULATED_MEAN_ANSWER_TOKENS": "100000",  # never ends by itself
    "RUNTIME_SIMULATED_STEP_S": "0.03",  # a first token takes what is left of one step, and one
    "RUNTIME_SIMULATED_STEP_PER_SEQUENCE_S": "1e-9",
    "RUNTIME_SIMULATED_PREFILL_PER_TOKEN_S": "1e-9",
    "RUNTIME_MAX_RUNNING": "64",  # 30 run at once in all: room for second arms is no question here
    "RUNTIME_SIMULATED_HANG_ON_SIGNAL": "true",
    "RUNTIME_2_SIMULATED_STRAGGLER_SHARE": "0.1",
    "RUNTIME_2_SIMULATED_STRAGGLER_S": "1.0",
    "ROUTER_TRACE_SHARE": "0.01",
}


@dataclass(slots=True)
class Measured:
    """All repeats of one load on one mesh."""

    first_token_s: list[float] = field(default_factory=list)
    requests: int = 0
    attempts: int = 0
    failed: int = 0

    @property
    def extra_share(self) -> float:
        return self.attempts / self.requests - 1.0

    def ttft_s(self, thousandths: int) -> float:
        return statistics.quantiles(self.first_token_s, n=1000)[thousandths - 1]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks hedging")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--seconds", type=float, default=FOR_S)
    parser.add_argument("--per-s", type=float, default=PER_S)
    asked = parser.parse_args(arguments)
    with (
        running(ENGINE, runtimes=RUNTIMES) as hedged,
        running({**ENGINE, "ROUTER_HEDGE_SHARE": "0"}, runtimes=RUNTIMES) as unhedged,
    ):
        meshes = {"hedged": hedged, "unhedged": unhedged}
        for mesh in meshes.values():
            send(_order(mesh, asked.per_s, WARM_UP_S, seed=0))
        straggler = _repeated(meshes, asked.repeats, lambda mesh, at: _steady(mesh, asked, at))
        all_slow = _repeated(meshes, ALL_SLOW_REPEATS, lambda mesh, at: _all_slow(mesh, asked, at))
    figures = {**_figures("", straggler), **_figures("all_slow_", all_slow)}
    baseline = {**_baseline("", straggler), **_baseline("all_slow_", all_slow)}
    for goal in GOALS:
        print(goal.said(figures[goal.figure]))
    print(line("hedging", figures=figures, baseline=baseline, goals=GOALS), flush=True)
    return 0


def _repeated(
    meshes: Mapping[str, Mesh], repeats: int, measure: Callable[[Mesh, int], Outcome]
) -> dict[str, Measured]:
    """In changing order."""
    found = {name: Measured() for name in meshes}
    for repeat in range(repeats):
        names = list(meshes)[:: 1 if repeat % 2 else -1]
        for name in names:
            before = meshes[name].sent_to_runtimes()
            outcome = measure(meshes[name], repeat + 1)
            threading.Event().wait(SETTLE_S)
            _add(name, outcome, meshes[name].sent_to_runtimes() - before, found[name])
    return found


def _add(name: str, outcome: Outcome, attempts: int, into: Measured) -> None:
    requests = outcome.good + outcome.failed
    into.first_token_s += outcome.first_token_s
    into.requests += requests
    into.attempts += attempts
    into.failed += outcome.failed
    percentiles = statistics.quantiles(outcome.first_token_s, n=100)
    print(
        f"{name:9} {requests} requests, {attempts - requests} more attempts, {outcome.failed} "
        f"failed; TTFT p50 {1000 * percentiles[49]:.0f} ms, p95 {1000 * percentiles[94]:.0f} ms, "
        f"p99 {1000 * percentiles[98]:.0f} ms",
        flush=True,
    )


def _steady(mesh: Mesh, asked: argparse.Namespace, seed: int) -> Outcome:
    return send(_order(mesh, asked.per_s, asked.seconds, seed=seed))


def _all_slow(mesh: Mesh, asked: argparse.Namespace, seed: int) -> Outcome:
    with _standing_still(mesh):
        return send(_order(mesh, asked.per_s, ALL_SLOW_FOR_S, seed=seed))


@contextmanager
def _standing_still(mesh: Mesh) -> Iterator[None]:
    """Every runtime's engine at once, for STANDS_STILL_S of each EVERY_S."""
    runtimes = mesh.processes()["runtime"]
    over = threading.Event()

    def hang_and_go_on() -> None:
        while not over.wait(EVERY_S - STANDS_STILL_S):
            for each in runtimes:
                each.send_signal(signal.SIGUSR1)
            over.wait(STANDS_STILL_S)
            for each in runtimes:
                each.send_signal(signal.SIGUSR1)

    thread = threading.Thread(target=hang_and_go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _order(mesh: Mesh, per_s: float, for_s: float, *, seed: int) -> Order:
    return Order(
        addresses=[mesh.address],
        certificate_folder=str(mesh.tenant),
        server=service_name("gateway"),
        per_s=per_s,
        for_s=for_s,
        seed=seed,
        **LOAD,  # type: ignore[arg-type] # names say which
    )


def _figures(prefix: str, measured: Mapping[str, Measured]) -> dict[str, float]:
    hedged, unhedged = measured["hedged"], measured["unhedged"]
    return {
        **_baseline(prefix, {"unhedged": hedged}),
        f"{prefix}ttft_p99_times_unhedged": hedged.ttft_s(990) / unhedged.ttft_s(990),
        f"{prefix}ttft_p999_times_unhedged": hedged.ttft_s(999) / unhedged.ttft_s(999),
        f"{prefix}requests": hedged.requests,
    }


def _baseline(prefix: str, measured: Mapping[str, Measured]) -> dict[str, float]:
    unhedged = measured["unhedged"]
    return {
        f"{prefix}ttft_p50_ms": 1000 * unhedged.ttft_s(500),
        f"{prefix}ttft_p99_ms": 1000 * unhedged.ttft_s(990),
        f"{prefix}ttft_p999_ms": 1000 * unhedged.ttft_s(999),
        f"{prefix}extra_requests_share": unhedged.extra_share,
        f"{prefix}failed_requests": unhedged.failed,
    }
