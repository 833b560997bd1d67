"""What the router's decisions cost: in memory among many endpoints and tenants, and end to end.

In memory it is the processor time of Check alone, medians: a request that goes at once (`straight`;
`shared`, whose prompt's beginning every endpoint has), one that has to wait (`queued`), and a slot
that becomes free until somebody else is let go (`dispatched`). End to end it is all that the
router's process uses for each request, with everything in use that policy can ask for.
"""

import argparse
import statistics
from collections.abc import Mapping

from benchmarks.admitted import admission_us
from benchmarks.cases import Case, engine
from benchmarks.crowd import measured
from benchmarks.limited import limits_us
from benchmarks.mesh import Mesh, running
from benchmarks.overhead import Arm, Measured, load, measure
from benchmarks.results import Goal, line
from benchmarks.watching import change_policy
from evenflow.home import service_name

GOALS = (
    Goal("decide_us", 300.0),
    Goal("limits_us", 10.0),
    Goal("admission_us", 100.0),
    Goal("router_us_per_request", 500.0),
)
ENDPOINTS = (10, 100, 1000)
ADMISSIONS = 100  # hundreds of requests of each tenant
TENANTS_OF_EACH = 10  # endpoints; so 10,000 tenants wait at 1,000 of them
FEW = 10
ROUNDS = 1000
REPEATS = 5
POLICY_WITHIN_S = 30.0
STEP_S = 1e-6
CLASSES = """
classes:
  interactive:
    resume: true
    cache_ttl_s: 60
    ladder:
      - {when: saturated, rung: smaller_output, max_output_tokens: 128}
      - {when: saturated, rung: smaller_context, max_prompt_tokens: 1024}
      - {when: model_unhealthy, rung: fallback_model, model: another}
      - {when: deadline_at_risk, rung: refuse}
"""
_SHORT = {"at_once": 32, "for_s": 4.0, "tokens": 4, "prompt_bytes": 100, "greedy": True}
CASES = (
    Case("c", "32 short answers at once, not streamed", {**_SHORT, "streamed": False}, STEP_S),
    Case("streamed", "likewise, streamed", _SHORT, STEP_S),
)

Figures = dict[str, float]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks decide")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--in-memory", action="store_true", help="nothing end to end")
    asked = parser.parse_args(arguments)
    figures: Figures = {}
    baseline = _decisions(FEW, FEW, asked.rounds)
    for endpoints in ENDPOINTS:
        found = _decisions(endpoints, TENANTS_OF_EACH * endpoints, asked.rounds)
        figures |= {f"{name}_at_{endpoints}": value for name, value in found.items()}
    figures["decide_us"] = figures[f"decide_us_at_{ENDPOINTS[-1]}"]
    if not asked.in_memory:
        _add_end_to_end(asked.repeats, figures, baseline)
    figures["limits_us"] = limits_us(asked.rounds)
    print(f"all of a tenant's limits: {figures['limits_us']:.1f} us more for each of its requests")
    plain_us, all_us = admission_us(ADMISSIONS)
    baseline["admitted_us"], figures["admitted_us"] = plain_us, all_us
    figures["admission_us"] = all_us - plain_us
    print(f"key, budgets, limits and audit: {plain_us:.0f} us without, {all_us:.0f} us with them")
    goals = [goal for goal in GOALS if goal.figure in figures]
    for goal in goals:
        print(goal.said(figures[goal.figure]))
    print(line("decide", figures=figures, baseline=baseline, goals=goals), flush=True)
    return 0


def _decisions(endpoints: int, tenants: int, rounds: int) -> Figures:
    costs = measured(endpoints, tenants, rounds=rounds)
    found = {
        "straight_us": statistics.median(costs.straight),
        "shared_us": statistics.median(costs.shared),
        "queued_us": statistics.median(costs.queued),
        "dispatched_us": statistics.median(costs.dispatched),
    }
    said = ", ".join(f"{name.removesuffix('_us')} {us:.0f} us" for name, us in found.items())
    print(f"{endpoints:5} endpoints, {tenants:6} tenants: {said}", flush=True)
    return {**found, "decide_us": max(found.values())}


def _add_end_to_end(repeats: int, figures: Figures, baseline: Figures) -> None:
    with running(engine(STEP_S)) as mesh:
        _add_router(mesh, repeats, baseline)
        change_policy(mesh, lambda text: text + CLASSES, within_s=POLICY_WITHIN_S)
        _add_router(mesh, repeats, figures)


def _add_router(mesh: Mesh, repeats: int, into: Figures) -> None:
    arm = _arm(mesh)
    found: Mapping[str, Measured] = {case.name: Measured() for case in CASES}
    for case in CASES:
        load(arm, {**case.load, "for_s": 1.0}, seed=0)
    for repeat in range(repeats):
        for case in CASES:
            measure(arm, case, found[case.name], seed=repeat + 1)
    for name, each in found.items():
        into[f"{name}_router_us_per_request"] = each.us("router")
        into[f"{name}_failed_requests"] = each.failed
    into["router_us_per_request"] = max(each.us("router") for each in found.values())


def _arm(mesh: Mesh) -> Arm:
    order = {
        "addresses": [mesh.address],
        "certificate_folder": str(mesh.tenant),
        "server": service_name("gateway"),
    }
    return Arm(name="mesh", order=order, counted={"router": mesh.processes()["router"][0]})
