"""Whether every request ends in one known way while runtimes are killed, paused, slowed and hang.

Four simulated runtimes under five kinds of callers (callers.py). Faults strike at random while
the load lasts (faults.py). Fails when an end has no reason, when an answer is not, token by
token, the one that an unbroken stream has, or when anything is held once all runtimes are well.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict

from benchmarks.callers import AT_ONCE, Order
from benchmarks.ends import End, Ends, heard
from benchmarks.faults import FAULTS, Faults
from benchmarks.mesh import Mesh, running
from benchmarks.results import Goal, line
from benchmarks.sending import run_generator
from benchmarks.watching import Held, change_policy, held_in_the_end, queued

GOALS = (
    Goal("unexplained_requests", 0),
    Goal("tokens_lost_or_repeated", 0),
    Goal("slots_left", 0),
    Goal("queued_left", 0),
    Goal("kv_blocks_left", 0),
    Goal("resumed_streams", at_least=1),
)
RUNTIMES = 4
BASELINE_SHARE = 0.1  # of the time
POLICY_WITHIN_S = 30.0
RUN_AGAIN_WITHIN_S = 60.0
SETTLED_WITHIN_S = 20.0
SHOWN = 20
ENGINE = {
    "RUNTIME_SIMULATED_STEP_S": "0.03",
    "RUNTIME_SIMULATED_HANG_ON_SIGNAL": "true",
    "RUNTIME_MAX_RUNNING": "8",
    "ROUTER_TRACE_SHARE": "0.01",
}
RESUMED = "\nclasses:\n  interactive:\n    resume: true\n"

Figures = dict[str, float]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks chaos")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args(arguments)
    for_s = 60 * asked.minutes
    with running(ENGINE, runtimes=RUNTIMES) as mesh:
        change_policy(mesh, lambda text: text + RESUMED, within_s=POLICY_WITHIN_S)
        order = _order(mesh, for_s=BASELINE_SHARE * for_s, seed=asked.seed)
        unbroken, answers = _called(order)
        baseline = _figures(unbroken, held_in_the_end(mesh, within_s=SETTLED_WITHIN_S), mesh)
        faults = Faults(mesh, RUNTIMES, seed=asked.seed)
        with faults.at_random():
            ends, _ = _called(_order(mesh, for_s=for_s, seed=asked.seed, answers=answers))
        if not faults.all_run(within_s=RUN_AGAIN_WITHIN_S):
            print("not every program runs again")
        left = held_in_the_end(mesh, within_s=SETTLED_WITHIN_S)
        figures = _figures(ends, left, mesh)
    figures |= {f"runtimes_{fault}": faults.struck[fault] for fault in FAULTS}
    _say(ends)
    for goal in GOALS:
        print(goal.said(figures[goal.figure]))
    print(line("chaos", figures=figures, baseline=baseline, goals=GOALS), flush=True)
    return 0 if all(goal.met(figures[goal.figure]) for goal in GOALS) else 1


def _order(mesh: Mesh, **fields: object) -> Order:
    return Order(
        address=mesh.address,
        front_end=f"http://127.0.0.1:{mesh.ports.frontend}",
        certificate_folder=str(mesh.tenant),
        api_key=(mesh.home / "api-keys" / "acme").read_text().strip(),
        **fields,  # type: ignore[arg-type] # names say which
    )


def _called(order: Order) -> tuple[Ends, Mapping[str, str]]:
    said = json.loads(run_generator("benchmarks.callers", asdict(order)))
    return heard(said["ends"]), said["answers"]


def _figures(ends: Ends, left: Held, mesh: Mesh) -> Figures:
    return {
        "requests": ends.all,
        "answered_share": ends.of(End.ANSWERED) / max(1, ends.all - ends.of(End.LEFT)),
        **{f"{each}_requests": ends.of(each) for each in End},
        "tokens_lost_or_repeated": ends.tokens_wrong,
        "resumed_streams": ends.resumed,
        "slots_left": left.requests,
        "at_engines_left": left.running + left.waiting,
        "kv_blocks_left": left.kv_blocks,
        "queued_left": queued(mesh),
    }


def _say(ends: Ends) -> None:
    for kind in AT_ONCE:
        counts = ", ".join(f"{number} {end}" for end, number in ends.counts[kind].most_common())
        print(f"{kind:8} {counts}")
    print("reasons:", ", ".join(f"{number} {each}" for each, number in ends.reasons.most_common()))
    for each in (*ends.unexplained[:SHOWN], *ends.wrong[:SHOWN]):
        print("problem:", each)
