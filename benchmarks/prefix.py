"""What picking by prefix gives: the same conversations through the same router with other weights.

Arms: `prefix` (the router as it comes), `least_load` (prompts are not looked at), `round_robin`
(nothing is). People talk in a closed loop; throughput is what they get done. At the same number of
people the arm with less time to first token has less load still to take on, so where `prefix` has
both, its throughput is at least so many times the other's at the same time to first token.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from benchmarks.conversations import Order, Outcome
from benchmarks.mesh import ROOT, Mesh, running
from benchmarks.results import Goal, line
from benchmarks.watching import cache_counters, let_all_tenants_use_all_models

ARMS: Mapping[str, Mapping[str, str]] = {
    "prefix": {},
    "least_load": {"ROUTER_PREFIX_WEIGHT": "0"},
    "round_robin": {"ROUTER_PREFIX_WEIGHT": "0", "ROUTER_LOAD_WEIGHT": "0"},
}
GOALS = (
    Goal("cache_hit_rate_times_round_robin", at_least=2.0),
    Goal("throughput_times_round_robin", at_least=1.5),
    Goal("ttft_p95_times_round_robin", at_most=1.0),
    Goal("no_sharing_throughput_times_least_load", at_least=0.97),
)


POLICY_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    name: str
    talk: Mapping[str, object]  # fields of Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One engine's meshes and cases."""

    command: str
    environ: Mapping[str, str]
    model: str
    runtimes: int
    ready_within_s: float
    cases: Sequence[Case]


SIMULATED = Plan(
    command="simulate",
    # Prefill costs what it costs on a small machine, so that engines and not processors are busy.
    # The KV caches of all four together hold the system prompts, one alone does not.
    environ={
        "RUNTIME_SIMULATED_STEP_S": "0.02",
        "RUNTIME_SIMULATED_STEP_PER_SEQUENCE_S": "0.0005",
        "RUNTIME_SIMULATED_PREFILL_PER_TOKEN_S": "0.0005",
        "RUNTIME_SIMULATED_KV_BLOCKS": "1024",
        "RUNTIME_MAX_RUNNING": "16",
        "RUNTIME_MAX_CONTEXT_TOKENS": "4096",
        "ROUTER_TRACE_SHARE": "0.01",
    },
    model="simulated",
    runtimes=4,
    ready_within_s=120.0,
    cases=(
        Case(
            name="shared",
            talk={
                "people": 40,
                "for_s": 40.0,
                "warm_s": 15.0,
                "think_s": 0.7,
                "systems": 40,
                "system_words": 1000,
                "turns": 2,
            },
        ),
        Case(
            name="no_sharing",
            talk={"people": 24, "for_s": 35.0, "warm_s": 5.0, "think_s": 0.7, "system_words": 400},
        ),
    ),
)
VLLM = Plan(
    command="run",
    environ={"ENGINE": "vllm", "RUNTIME_KV_CACHE_MIB": "96", "ROUTER_TRACE_SHARE": "0.01"},
    model="smollm2-135m-instruct",
    runtimes=2,
    ready_within_s=400.0,
    cases=(
        Case(
            name="shared",
            talk={
                "people": 16,
                "for_s": 75.0,
                "warm_s": 25.0,
                "think_s": 0.3,
                "systems": 24,
                "system_words": 450,
                "question_words": 30,
                "answer_tokens": 8,
                "turns": 2,
            },
        ),
    ),
)


@dataclass(slots=True)
class Measured:
    """All repeats of one case on one arm."""

    per_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)
    queried: int = 0  # prompt tokens, as the engines counted them
    hit: int = 0
    failed: int = 0

    @property
    def hit_rate(self) -> float:
        return self.hit / max(1, self.queried)

    def ttft_ms(self, percent: int) -> float:
        return 1000 * statistics.quantiles(self.first_token_s, n=100)[percent - 1]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks prefix")
    parser.add_argument("--engine", choices=("simulated", "vllm"), default="simulated")
    parser.add_argument("--repeats", type=int, default=2)
    asked = parser.parse_args(arguments)
    plan = VLLM if asked.engine == "vllm" else SIMULATED
    found = {case.name: {arm: Measured() for arm in ARMS} for case in plan.cases}
    for case, arm, repeat, mesh in _meshes(plan, asked.repeats):
        _measure(plan, case, mesh, found[case.name][arm], seed=repeat)
        print(_seen(case.name, arm, found[case.name][arm]), flush=True)
    figures, baseline = _figures(found)
    goals = [goal for goal in GOALS if goal.figure in figures]
    for goal in goals:
        print(goal.said(figures[goal.figure]))
    print(line("prefix", figures=figures, baseline=baseline, goals=goals), flush=True)
    return 0


def _meshes(plan: Plan, repeats: int) -> Iterator[tuple[Case, str, int, Mesh]]:
    """Every case on every arm, one mesh after the other, arms in changing order."""
    names = list(ARMS)
    for repeat in range(1, 1 + repeats):
        for arm in names[repeat % len(names) :] + names[: repeat % len(names)]:
            with _mesh(plan, arm) as mesh:
                for case in plan.cases:
                    yield case, arm, repeat, mesh


@contextmanager
def _mesh(plan: Plan, arm: str) -> Iterator[Mesh]:
    environ = {**plan.environ, **ARMS[arm]}
    options = {"runtimes": plan.runtimes, "ready_within_s": plan.ready_within_s}
    with running(environ, command=plan.command, **options) as mesh:
        let_all_tenants_use_all_models(mesh, within_s=POLICY_WITHIN_S)
        yield mesh


def _measure(plan: Plan, case: Case, mesh: Mesh, into: Measured, *, seed: int) -> None:
    before = cache_counters(mesh)
    outcome = _talk(
        Order(
            address=mesh.address,
            certificate_folders=[str(each) for each in mesh.tenants],
            model=plan.model,
            seed=seed,
            **case.talk,  # type: ignore[arg-type] # names say which
        )
    )
    after = cache_counters(mesh)
    into.queried += after.queried - before.queried
    into.hit += after.hit - before.hit
    into.per_s.append(outcome.good / outcome.counted_s)
    into.first_token_s += outcome.first_token_s
    into.failed += outcome.failed


def _talk(order: Order) -> Outcome:
    """In a process of its own, so that its work is nobody else's."""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "benchmarks.conversations", json.dumps(asdict(order))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Outcome(**json.loads(done.stdout))


def _seen(case: str, arm: str, measured: Measured) -> str:
    return (
        f"{case:11}{arm:12} {measured.per_s[-1]:6.2f} requests/s, hit rate {measured.hit_rate:.3f},"
        f" TTFT p50 {measured.ttft_ms(50):.0f} p95 {measured.ttft_ms(95):.0f} ms,"
        f" {measured.failed} failed"
    )


def _figures(
    found: Mapping[str, Mapping[str, Measured]],
) -> tuple[dict[str, float], dict[str, float]]:
    figures: dict[str, float] = {"failed_requests": 0}
    baseline: dict[str, float] = {}
    for case, arms in found.items():
        figures["failed_requests"] += sum(each.failed for each in arms.values())
        for arm, measured in arms.items():
            into = figures if arm == "prefix" else baseline
            name = case if arm == "prefix" else f"{case}_{arm}"
            into[f"{name}_requests_per_s"] = statistics.median(measured.per_s)
            into[f"{name}_cache_hit_rate"] = measured.hit_rate
            into[f"{name}_ttft_p50_ms"] = measured.ttft_ms(50)
            into[f"{name}_ttft_p95_ms"] = measured.ttft_ms(95)
    for other in ("round_robin", "least_load"):
        if "shared" in found:
            ours, theirs = found["shared"]["prefix"], found["shared"][other]
            figures[f"cache_hit_rate_times_{other}"] = ours.hit_rate / max(1e-9, theirs.hit_rate)
            figures[f"throughput_times_{other}"] = _ratio(ours, theirs)
            figures[f"ttft_p95_times_{other}"] = ours.ttft_ms(95) / theirs.ttft_ms(95)
        if "no_sharing" in found:
            alone = found["no_sharing"]
            figures[f"no_sharing_throughput_times_{other}"] = _ratio(alone["prefix"], alone[other])
    return figures, baseline


def _ratio(ours: Measured, theirs: Measured) -> float:
    """Median of the repeats' own ratios."""
    pairs = zip(ours.per_s, theirs.per_s, strict=True)
    return statistics.median(mine / other for mine, other in pairs)
