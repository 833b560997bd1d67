"""Can a tenant hear, by the clock, what another has just asked? And what does that wall cost?

A victim asks something long. Then the prober times the first token of the same prompt, and of one
that nobody has asked, in changing order. If a prefix cache is shared, the first comes sooner. Once
with the prober as another tenant, once as the victim itself, which shows that the cache is alive.
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.conversations import words
from benchmarks.mesh import Mesh, running
from benchmarks.results import Goal, line
from benchmarks.watching import let_all_tenants_use_all_models
from evenflow.connection import connection
from evenflow.home import tenant_folder
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

GOALS = (
    Goal("auc_across_tenants", at_least=0.45),
    Goal("auc_across_tenants", at_most=0.55),
    Goal("auc_within_tenant", at_least=0.9),
)
PAIRS = 400  # standard error of the AUC at 0.5: 0.020
SAME_PAIRS = 100
COSTS = 60
PROMPT_WORDS = 500
QUESTION_WORDS = 20
WARM_UP = 5
DEADLINE_S = 60.0
POLICY_WITHIN_S = 30.0
VICTIM, PROBER = "acme", "globex"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    command: str
    environ: Mapping[str, str]
    model: str
    ready_within_s: float


_QUIET = {"ROUTER_TRACE_SHARE": "0", "ROUTER_HEDGE_SHARE": "0"}
ENGINES = {
    "vllm": Engine(
        command="run",
        environ={"ENGINE": "vllm", **_QUIET},
        model="smollm2-135m-instruct",
        ready_within_s=400.0,
    ),
    "simulated": Engine(
        command="simulate",
        environ={
            "RUNTIME_SIMULATED_STEP_S": "0.005",
            "RUNTIME_SIMULATED_PREFILL_PER_TOKEN_S": "0.0001",
            "RUNTIME_MAX_CONTEXT_TOKENS": "4096",
            **_QUIET,
        },
        model="simulated",
        ready_within_s=120.0,
    ),
}


@dataclass(slots=True)
class Timed:
    """Seconds to the first token."""

    hit: list[float] = field(default_factory=list)  # of prompts that the victim had just used
    miss: list[float] = field(default_factory=list)  # of prompts that nobody had
    cached_tokens: int = 0  # of the hits, as the engine counted them

    @property
    def auc(self) -> float:
        return auc(self.hit, self.miss)


@dataclass(slots=True)
class Cost:
    """Of a beginning that several share, once somebody else has asked with it."""

    shared: list[float] = field(default_factory=list)  # as if tenants had one salt
    first: list[float] = field(default_factory=list)  # another tenant's first, salted
    again: list[float] = field(default_factory=list)  # another tenant's second, salted


class Asker:
    """One request at a time; a prompt is never used for two trials."""

    def __init__(self, model: str, stubs: Mapping[str, Any], *, seed: int, length: int) -> None:
        self._model = model
        self._stubs = stubs
        self._rng = random.Random(seed)  # noqa: S311 - a load must repeat
        self._length = length

    def flip(self) -> bool:
        return self._rng.random() < 0.5

    def fresh(self) -> str:
        """Unlike all before from its first words on."""
        number = self._rng.getrandbits(64)
        return f"{number} {' '.join(words(self._rng, self._length))}"

    def question(self) -> str:
        return " ".join(words(self._rng, QUESTION_WORDS))

    def ttft_s(self, tenant: str, prompt: str) -> tuple[float, int]:
        """And how many tokens of the prompt were cached. Returns when the answer has ended."""
        asked = pb.GenerateRequest(model=self._model, text=prompt)
        asked.sampling.max_output_tokens, asked.sampling.ignore_eos = 1, True
        began_s, first_s, cached = time.perf_counter(), 0.0, 0
        for event in self._stubs[tenant].Generate(asked, timeout=DEADLINE_S):
            if event.HasField("delta"):
                first_s = first_s or time.perf_counter() - began_s
            elif event.HasField("finished"):
                cached = event.finished.usage.cached_prompt_tokens
        return first_s, cached


def main(arguments: list[str]) -> int:
    asked = _asked(arguments)
    engine = ENGINES[asked.engine]
    options = {"runtimes": 1, "ready_within_s": engine.ready_within_s}
    with running(engine.environ, command=engine.command, **options) as mesh, ExitStack() as stack:
        let_all_tenants_use_all_models(mesh, within_s=POLICY_WITHIN_S)
        stubs = {each: stack.enter_context(_stub(mesh, each)) for each in (VICTIM, PROBER)}
        asker = Asker(engine.model, stubs, seed=asked.seed, length=asked.words)
        for tenant in (VICTIM, PROBER) * WARM_UP:
            asker.ttft_s(tenant, asker.fresh())
        across, within = _trials(asker, asked.pairs, asked.same_pairs)
        cost = _costs(asker, asked.costs)
    figures, baseline = _figures(across, within, cost)
    for goal in GOALS:
        print(goal.said(figures[goal.figure]))
    print(line("isolation", figures=figures, baseline=baseline, goals=GOALS), flush=True)
    return 0


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks isolation")
    parser.add_argument("--engine", choices=tuple(ENGINES), default="vllm")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="across tenants")
    parser.add_argument("--same-pairs", type=int, default=SAME_PAIRS, help="within one")
    parser.add_argument("--costs", type=int, default=COSTS, help="beginnings that are shared")
    parser.add_argument("--words", type=int, default=PROMPT_WORDS)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


@contextmanager
def _stub(mesh: Mesh, tenant: str) -> Iterator[Any]:
    folder = tenant_folder(mesh.home, tenant)
    with connection(mesh.address, folder).blocking_channel() as channel:
        yield InferenceServiceStub(channel)


def _trials(asker: Asker, pairs: int, same_pairs: int) -> tuple[Timed, Timed]:
    """Both kinds spread evenly over the same time."""
    across, within = Timed(), Timed()
    every = max(1, round(pairs / max(1, same_pairs)))
    for number in range(max(pairs, same_pairs)):
        if len(across.hit) < pairs:
            _trial(asker, PROBER, across)
        if number % every == 0 and len(within.hit) < same_pairs:
            _trial(asker, VICTIM, within)
        if number % 50 == 0:
            print(f"{number} pairs, AUC {across.auc:.3f} across, {within.auc:.3f} within")
    return across, within


def _trial(asker: Asker, prober: str, into: Timed) -> None:
    used, unused = asker.fresh(), asker.fresh()
    asker.ttft_s(VICTIM, used)
    order = [used, unused] if asker.flip() else [unused, used]
    for prompt in order:
        took_s, cached = asker.ttft_s(prober, prompt)
        if prompt is used:
            into.hit.append(took_s)
            into.cached_tokens += cached
        else:
            into.miss.append(took_s)


def _costs(asker: Asker, rounds: int) -> Cost:
    """What stands for one salt is the tenant's own: to an engine a salt is a salt."""
    cost = Cost()
    for _ in range(rounds):
        beginning = asker.fresh()
        asker.ttft_s(VICTIM, f"{beginning} {asker.question()}")

        def shared(beginning: str = beginning) -> None:
            cost.shared.append(asker.ttft_s(VICTIM, f"{beginning} {asker.question()}")[0])

        def salted(beginning: str = beginning) -> None:
            for into in (cost.first, cost.again):
                into.append(asker.ttft_s(PROBER, f"{beginning} {asker.question()}")[0])

        for ask in (shared, salted) if asker.flip() else (salted, shared):
            ask()
    return cost


def auc(sooner: Sequence[float], later: Sequence[float]) -> float:
    """How often a value of the first is below one of the second; 0.5: they can't be told apart.

    Mann and Whitney's U over the number of pairs; equal values count half.
    """
    if not sooner or not later:
        return 0.5
    below = sum((a < b) + (a == b) / 2 for a in sooner for b in later)
    return below / (len(sooner) * len(later))


def standard_error(first: int, second: int) -> float:
    """Of the AUC of two samples that can't be told apart."""
    return math.sqrt((first + second + 1) / (12 * first * second))


def _figures(across: Timed, within: Timed, cost: Cost) -> tuple[dict[str, float], dict[str, float]]:
    shared, first, again = (_ms(each) for each in (cost.shared, cost.first, cost.again))
    figures = {
        "auc_across_tenants": across.auc,
        "auc_across_standard_error": standard_error(len(across.hit), len(across.miss)),
        "auc_within_tenant": within.auc,
        "pairs_across_tenants": float(len(across.hit)),
        "pairs_within_tenant": float(len(within.hit)),
        "cached_tokens_across_tenants": float(across.cached_tokens),
        "cached_tokens_within_tenant": float(within.cached_tokens),
        "ttft_p50_used_across_ms": _ms(across.hit),
        "ttft_p50_unused_across_ms": _ms(across.miss),
        "ttft_p50_used_within_ms": _ms(within.hit),
        "ttft_p50_unused_within_ms": _ms(within.miss),
        "ttft_p50_first_of_a_tenant_ms": first,
        "ttft_p50_later_of_a_tenant_ms": again,
        "cost_first_of_a_tenant_ms": first - shared,
        "cost_later_of_a_tenant_ms": again - shared,
    }
    return figures, {"ttft_p50_shared_salt_ms": shared}


def _ms(seconds: Sequence[float]) -> float:
    return 1000 * statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
