"""What one tenant can do to another: floods beside quiet traffic, tenants that all want everything.

One mesh, two gateways with routers that exchange, and a third whose router lets everything go, so
that the runtimes' own queues serve first come, first served. Every arm meets the same runtimes.
"""

import argparse
from collections.abc import Mapping, Sequence

from benchmarks.gateways import Gateways, gateways
from benchmarks.results import Goal, line
from benchmarks.tenants import INPUT_WEIGHT, OUTPUT_WEIGHT, SAMPLED_EVERY_S, Demand, Given

GOALS = (
    Goal("quiet_ttft_p99_times_alone", at_most=1.2),
    Goal("throughput_times_fifo", at_least=0.94),
    Goal("backlogged_difference_times_vtc_bound", at_most=1.0),
    Goal("batch_flood_quiet_ttft_p99_times_alone", at_most=1.2),
    Goal("batch_flood_throughput_times_fifo", at_least=0.94),
    Goal("two_routers_quiet_ttft_p99_times_alone", at_most=1.2),
    Goal("two_routers_throughput_times_fifo", at_least=0.94),
    Goal("two_routers_backlogged_difference_times_vtc_bound", at_most=1.0),
    Goal("two_routers_batch_flood_quiet_ttft_p99_times_alone", at_most=1.2),
    Goal("two_routers_batch_flood_throughput_times_fifo", at_least=0.94),
)
# Steps as long as a large model's on old hardware, so that what a busy machine adds matters less.
STEP_S, SLOTS, RUNTIMES = 0.1, 32, 2
ENGINE = {
    "RUNTIME_SIMULATED_STEP_S": str(STEP_S),
    "RUNTIME_MAX_RUNNING": str(SLOTS),
    "RUNTIME_MAX_CONTEXT_TOKENS": "4096",
    "ROUTER_TRACE_SHARE": "0.01",
    "ROUTER_INTERACTIVE_QUEUE_S": "200",
}
QUIET = {"per_s": 2.5, "prompt_tokens": 200, "least_tokens": 16, "most_tokens": 32}
LONGEST = 96
FLOOD = {"prompt_tokens": 64, "least_tokens": 32, "most_tokens": LONGEST, "timeout_ms": 200_000}
# At once: ten times its share of the slots.
FLOOD_AT_ONCE = 10 * RUNTIMES * SLOTS // 2
BACKLOG = 100  # at once, of each tenant
VTC_BOUND = 2 * max(INPUT_WEIGHT * 200, OUTPUT_WEIGHT * RUNTIMES * SLOTS * LONGEST)
SECONDS = 100.0
WARM_S = 8.0  # until those that began together no longer end together

Figures = dict[str, float]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fairness")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load")
    asked = parser.parse_args(arguments)
    figures: Figures = {}
    baseline: Figures = {}
    with gateways(("quiet", "flood", "other"), ENGINE) as ways:
        bench = _Bench(ways, asked.seconds)
        bench.measure(figures, baseline)
    for goal in GOALS:
        print(goal.said(figures[goal.figure]))
    print(line("fairness", figures=figures, baseline=baseline, goals=GOALS), flush=True)
    return 0


class _Bench:
    def __init__(self, ways: Gateways, for_s: float) -> None:
        self._ways = ways
        self._for_s = for_s

    def measure(self, figures: Figures, baseline: Figures) -> None:
        one, two = [self._ways.first], [self._ways.first, self._ways.second]
        alone = self._load("quiet alone", self._quiet(one))
        figures["quiet_alone_ttft_p99_ms"] = alone_ms = ttft_ms(alone["quiet"], 99)
        for name, fields in (("", {}), ("batch_flood_", {"workload_class": "batch"})):
            fifo = self._flooded(f"{name}fifo", [self._ways.fifo], [self._ways.fifo], fields)
            baseline |= _compared(f"{name}", fifo, fifo, self._for_s)
            for prefix, quiet_at, flood_at in (("", one, one), ("two_routers_", two[1:], two)):
                given = self._flooded(f"{prefix}{name}", quiet_at, flood_at, fields)
                figures |= _compared(f"{prefix}{name}", given, fifo, self._for_s)
        for each in (figures, baseline):
            for name in [name for name in each if name.endswith("quiet_ttft_p99_ms")]:
                each[name.replace("_ms", "_times_alone")] = each[name] / alone_ms
        for prefix, first_at, other_at in (("", one, one), ("two_routers_", two, two[1:])):
            figures |= self._backlogged(prefix, first_at, other_at)
        baseline |= self._backlogged("", [self._ways.fifo], [self._ways.fifo])

    def _flooded(
        self,
        name: str,
        quiet_at: Sequence[str],
        flood_at: Sequence[str],
        fields: Mapping[str, object],
    ) -> dict[str, Given]:
        flood = self._ways.demand("flood", flood_at, at_once=FLOOD_AT_ONCE, **FLOOD, **fields)
        return self._load(f"{name} flood", self._quiet(quiet_at), flood)

    def _backlogged(self, prefix: str, at: Sequence[str], other_at: Sequence[str]) -> Figures:
        given = self._load(
            f"{prefix}backlogged",
            self._ways.demand("flood", at, at_once=BACKLOG * len(at), **FLOOD),
            self._ways.demand("other", other_at, at_once=BACKLOG, **FLOOD),
        )
        apart = most_apart(given["flood"], given["other"], for_s=self._for_s)
        return {
            f"{prefix}backlogged_difference_times_vtc_bound": apart / VTC_BOUND,
            f"{prefix}backlogged_service_ratio": per_s(given["flood"], self._for_s)
            / per_s(given["other"], self._for_s),
        }

    def _quiet(self, at: Sequence[str]) -> Demand:
        return self._ways.demand("quiet", at, **QUIET)

    def _load(self, what: str, *demands: Demand) -> dict[str, Given]:
        given = self._ways.load(*demands, for_s=self._for_s, seed=1)
        for name, each in given.items():
            good = sum(outcome.complete for outcome in each.outcomes)
            print(
                f"{what:32} {name:6} {len(each.outcomes):5} requests, {good:5} complete, "
                f"{per_s(each, self._for_s):6.0f} weighted tokens/s, "
                f"TTFT p50 {ttft_ms(each, 50):.0f} ms, p99 {ttft_ms(each, 99):.0f} ms",
                flush=True,
            )
        return given


def ttft_ms(given: Given, percent: int) -> float:
    """What got no first token waited for as long as it took to end. 0: nothing has ended."""
    waited = sorted(
        each.took_s if each.first_s is None else each.first_s
        for each in given.outcomes
        if each.at_s >= WARM_S
    )
    return 1000 * waited[min(len(waited) - 1, len(waited) * percent // 100)] if waited else 0.0


def per_s(given: Given, for_s: float) -> float:
    """Weighted service, while all send."""
    begin, end = given.service[int(WARM_S / SAMPLED_EVERY_S)], _at(given, for_s)
    return (end - begin) / (for_s - WARM_S)


def most_apart(one: Given, other: Given, *, for_s: float) -> float:
    """The largest difference of their service within any part of that time."""
    until = int(for_s / SAMPLED_EVERY_S)
    since = int(WARM_S / SAMPLED_EVERY_S)
    ahead = [a - b for a, b in zip(one.service, other.service, strict=True)][since:until]
    return max(ahead) - min(ahead)


def _at(given: Given, at_s: float) -> float:
    return given.service[min(len(given.service), int(at_s / SAMPLED_EVERY_S)) - 1]


def _compared(
    name: str, given: Mapping[str, Given], fifo: Mapping[str, Given], for_s: float
) -> Figures:
    return {
        f"{name}quiet_ttft_p50_ms": ttft_ms(given["quiet"], 50),
        f"{name}quiet_ttft_p99_ms": ttft_ms(given["quiet"], 99),
        f"{name}throughput_times_fifo": _all_per_s(given, for_s) / _all_per_s(fifo, for_s),
        f"{name}output_tokens_times_fifo": _written(given, for_s) / _written(fifo, for_s),
    }


def _all_per_s(given: Mapping[str, Given], for_s: float) -> float:
    return sum(per_s(each, for_s) for each in given.values())


def _written(given: Mapping[str, Given], for_s: float) -> float:
    """Output tokens of what ended while all sent."""
    return sum(
        each.tokens
        for one in given.values()
        for each in one.outcomes
        if WARM_S <= each.at_s + each.took_s <= for_s
    )
