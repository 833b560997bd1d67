"""What the mesh costs over plain Envoy: processor time, time to first token, memory.

Each repeat measures every case through the mesh and through plain Envoy, one right after the other
and in changing order, on the same runtimes; figures are medians of the repeats. Latencies are what
is added to calls that go straight to the runtimes.
"""

import argparse
import statistics
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import psutil

from benchmarks.cases import CASES, MEMORY_STEP_S, MEMORY_STREAMS, MEMORY_TOKENS, Case, engine
from benchmarks.load import Order, Outcome
from benchmarks.mesh import Mesh, PlainEnvoy, plain_envoy, running
from benchmarks.results import Goal, line
from benchmarks.sending import send
from evenflow.home import service_name

GOALS = (
    Goal("b2_times_plain_envoy_per_token", 1.25),
    Goal("c_router_us_per_request", 400.0),
    Goal("b_added_ttft_p50_ms", 1.5),
    Goal("b_added_ttft_p99_ms", 5.0),
)
SETTLE_S = 0.3  # the last entries of the access log are under way for less
REPEATS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to the runtimes. `counted`: the processes that stand in it, by name."""

    name: str
    order: Mapping[str, object]
    counted: Mapping[str, psutil.Process]


@dataclass(slots=True)
class Measured:
    """All repeats of one case on one arm."""

    cpu_us: dict[str, list[float]] = field(default_factory=dict)  # by process, for each request
    first_token_s: list[float] = field(default_factory=list)
    failed: int = 0

    def us(self, process: str) -> float:
        return statistics.median(self.cpu_us[process])

    def ttft_ms(self, percent: int) -> float:
        return 1000 * statistics.quantiles(self.first_token_s, n=100)[percent - 1]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--cases", default=",".join(each.name for each in CASES))
    asked = parser.parse_args(arguments)
    cases = [each for each in CASES if each.name in asked.cases.split(",")]
    figures: dict[str, float] = {"failed_requests": 0}
    baseline: dict[str, float] = {}
    for step_s, alike in groupby(cases, key=lambda case: case.step_s):
        with running(engine(step_s)) as mesh, plain_envoy(mesh) as plain:
            arms = _arms(mesh, plain)
            for case, measured in _repeated(list(alike), arms, asked.repeats):
                _add(case, measured, figures, baseline)
    with running(engine(MEMORY_STEP_S)) as mesh, plain_envoy(mesh) as plain:
        for streams in MEMORY_STREAMS:
            _add_memory(streams, _arms(mesh, plain), figures, baseline)
    goals = [goal for goal in GOALS if goal.figure in figures]
    for goal in goals:
        print(goal.said(figures[goal.figure]))
    print(line("overhead", figures=figures, baseline=baseline, goals=goals), flush=True)
    return 0


def _arms(mesh: Mesh, plain: PlainEnvoy) -> list[Arm]:
    processes = mesh.processes()
    gateway = service_name("gateway")
    as_router = {"as_router": True, "certificate_folder": str(mesh.gateway)}
    return [
        Arm(
            name="mesh",
            order={
                "addresses": [mesh.address],
                "certificate_folder": str(mesh.tenant),
                "server": gateway,
            },
            counted={"envoy": processes["envoy"][0], "router": processes["router"][0]},
        ),
        Arm(
            name="plain",
            order={"addresses": [plain.address], "server": gateway, **as_router},
            counted={"envoy": plain.process},
        ),
        Arm(
            name="direct",
            order={
                "addresses": list(mesh.runtimes),
                "server": service_name("runtime"),
                **as_router,
            },
            counted={},
        ),
    ]


def _repeated(
    cases: list[Case], arms: list[Arm], repeats: int
) -> Iterable[tuple[Case, dict[str, Measured]]]:
    found = {case.name: {arm.name: Measured() for arm in arms} for case in cases}
    for case in cases:  # connections, caches and code that is met for the first time
        for arm in arms:
            load(arm, {**case.load, "for_s": 1.0}, seed=0)
    for repeat in range(repeats):
        for case in cases:
            turn = [arm for arm in arms if arm.counted or case.times]
            for arm in turn[repeat % len(turn) :] + turn[: repeat % len(turn)]:
                measure(arm, case, found[case.name][arm.name], seed=repeat + 1)
    return [(case, found[case.name]) for case in cases]


def measure(arm: Arm, case: Case, into: Measured, *, seed: int) -> None:
    before = {name: _cpu_s(process) for name, process in arm.counted.items()}
    outcome = load(arm, case.load, seed=seed)
    threading.Event().wait(SETTLE_S)
    requests = max(1, outcome.good)
    for name, process in arm.counted.items():
        used_us = 1e6 * (_cpu_s(process) - before[name])
        into.cpu_us.setdefault(name, []).append(used_us / requests)
    into.first_token_s += outcome.first_token_s
    into.failed += outcome.failed
    costs = ", ".join(f"{name} {into.cpu_us[name][-1]:.0f} us" for name in arm.counted)
    print(
        f"{case.name:5}{arm.name:7} {outcome.good / outcome.elapsed_s:6.0f} requests/s, "
        f"{outcome.tokens / outcome.elapsed_s:6.0f} tokens/s, {outcome.failed} failed; "
        f"per request: {costs or '-'}",
        flush=True,
    )


def load(arm: Arm, what: Mapping[str, object], *, seed: int) -> Outcome:
    return send(Order(**{**arm.order, **what}, seed=seed))  # type: ignore[arg-type] # names say which


def _cpu_s(process: psutil.Process) -> float:
    """User and system time of all its threads, living and gone: /proc/PID/stat."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _add(
    case: Case,
    measured: Mapping[str, Measured],
    figures: dict[str, float],
    baseline: dict[str, float],
) -> None:
    mesh, plain = measured["mesh"], measured["plain"]
    tokens = case.load["tokens"]
    for name in ("envoy", "router"):
        figures[f"{case.name}_{name}_us_per_request"] = mesh.us(name)
        figures[f"{case.name}_{name}_us_per_token"] = mesh.us(name) / tokens
    baseline[f"{case.name}_envoy_us_per_request"] = plain.us("envoy")
    baseline[f"{case.name}_envoy_us_per_token"] = plain.us("envoy") / tokens
    ratios = [
        (envoy + router) / alone
        for envoy, router, alone in zip(
            mesh.cpu_us["envoy"], mesh.cpu_us["router"], plain.cpu_us["envoy"], strict=True
        )
    ]
    figures[f"{case.name}_times_plain_envoy_per_token"] = statistics.median(ratios)
    figures["failed_requests"] += sum(each.failed for each in measured.values())
    if case.times:
        for percent in (50, 99):
            name = f"{case.name}_added_ttft_p{percent}_ms"
            direct_ms = measured["direct"].ttft_ms(percent)
            figures[name] = mesh.ttft_ms(percent) - direct_ms
            baseline[name] = plain.ttft_ms(percent) - direct_ms


def _add_memory(
    streams: int, arms: list[Arm], figures: dict[str, float], baseline: dict[str, float]
) -> None:
    """The most that each process holds while so many streams run."""
    for arm, into in zip(arms[:2], (figures, baseline), strict=True):
        most = dict.fromkeys(arm.counted, 0)
        over = threading.Event()

        def look(arm: Arm = arm, most: dict[str, int] = most, over: threading.Event = over) -> None:
            while not over.wait(0.05):
                for name, process in arm.counted.items():
                    most[name] = max(most[name], process.memory_info().rss)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            outcome = load(
                arm,
                {"at_once": streams, "calls": streams, "tokens": MEMORY_TOKENS},
                seed=streams,
            )
        finally:
            over.set()
            watcher.join()
        figures["failed_requests"] += outcome.failed
        for name, rss in most.items():
            into[f"{name}_mb_at_{streams}_streams"] = rss / 1e6
