"""What is left of the mesh's work when more is asked for than it can do: goodput, queues, refusals.

Saturation is measured first: several tenants in a closed loop that keeps every slot busy. Then they
send at 1.2 and 2 times that rate (Poisson), with a deadline each, once through the mesh's own
gateway and once through one whose router lets everything go (`fifo`). A request is good when its
first token came within TTFT_SLO_S and its last within its deadline.
"""

import argparse
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.fairness import ENGINE, LONGEST, WARM_S
from benchmarks.gateways import Gateways, gateways
from benchmarks.results import Goal, line
from benchmarks.tenants import Demand, Given, Outcome
from benchmarks.watching import queued
from services.router.core.queue_limits import QueueLimits

GOALS = (
    Goal("goodput_times_fifo_at_1_2", at_least=1.5),
    Goal("longest_queue_times_limit", at_most=1.0),
    Goal("refusal_p99_ms", at_most=50.0),
)
TENANTS = ("one", "two", "three", "four")
TIMES = (1.2, 2.0)
AT_ONCE = 24  # of each tenant: half as many again as there are slots
ANSWER = {"prompt_tokens": 64, "least_tokens": 32, "most_tokens": LONGEST}
TIMEOUT_MS = 12_000  # an answer takes 6.6 s on average
TTFT_SLO_S = 5.0
SECONDS = 120.0  # first come, first served needs a while to show what its queue does
LOOK_EVERY_S = 0.2
_REFUSED = {"QUEUE_FULL", "TENANT_QUEUE_FULL", "QUEUE_TIMEOUT", "DEADLINE_UNREACHABLE"}

Figures = dict[str, float]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks overload")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load")
    for_s = parser.parse_args(arguments).seconds
    figures: Figures = {}
    baseline: Figures = {}
    with gateways(TENANTS, ENGINE) as ways:
        figures["saturation_per_s"] = saturation = _saturation(ways, for_s)
        refusals: list[float] = []
        longest = 0
        for times in TIMES:
            name = f"{times:g}".replace(".", "_")
            fifo = _loaded(ways, ways.fifo, times * saturation, for_s)
            with _longest_queue(ways) as seen:
                given = _loaded(ways, ways.first, times * saturation, for_s)
            longest = max(longest, *seen)
            refusals += _told(name, figures, given, for_s)
            _told(name, baseline, fifo, for_s)
            good, plain = figures[f"goodput_per_s_at_{name}"], baseline[f"goodput_per_s_at_{name}"]
            figures[f"goodput_times_fifo_at_{name}"] = good / max(plain, 1 / for_s)
    figures["longest_queue"] = longest
    figures["longest_queue_times_limit"] = longest / QueueLimits().total
    figures["refusal_p99_ms"] = 1000 * _quantile(refusals, 99)
    figures["refusal_p50_ms"] = 1000 * _quantile(refusals, 50)
    figures["late_refusals_share"] = sum(each > 0.5 for each in refusals) / max(1, len(refusals))
    for goal in GOALS:
        print(goal.said(figures[goal.figure]))
    print(line("overload", figures=figures, baseline=baseline, goals=GOALS), flush=True)
    return 0


def _saturation(ways: Gateways, for_s: float) -> float:
    """Requests a second that end while every slot is busy. Nothing is refused."""
    demands = [
        _demand(ways, each, ways.first, at_once=AT_ONCE, timeout_ms=60_000) for each in TENANTS
    ]
    given = ways.load(*demands, for_s=for_s, seed=1)
    ends = [each.at_s + each.took_s for one in given.values() for each in one.outcomes]
    return sum(WARM_S <= each < for_s for each in ends) / (for_s - WARM_S)


def _loaded(ways: Gateways, address: str, per_s: float, for_s: float) -> Mapping[str, Given]:
    demands = [_demand(ways, each, address, per_s=per_s / len(TENANTS)) for each in TENANTS]
    return ways.load(*demands, for_s=for_s, seed=2)


def _demand(ways: Gateways, tenant: str, address: str, **fields: object) -> Demand:
    return ways.demand(tenant, [address], **{**ANSWER, "timeout_ms": TIMEOUT_MS, **fields})


def _told(name: str, into: Figures, given: Mapping[str, Given], for_s: float) -> list[float]:
    """Returns how long each refusal took."""
    outcomes = [each for one in given.values() for each in one.outcomes]
    refusals = [each.took_s for each in outcomes if each.reason in _REFUSED]
    into[f"offered_per_s_at_{name}"] = len(outcomes) / for_s
    into[f"goodput_per_s_at_{name}"] = sum(map(_is_good, outcomes)) / for_s
    into[f"refused_per_s_at_{name}"] = len(refusals) / for_s
    others = [each for each in outcomes if not each.complete and each.reason not in _REFUSED]
    into[f"cut_off_per_s_at_{name}"] = len(others) / for_s
    print(
        f"{name:4} {len(outcomes):5} requests, {sum(map(_is_good, outcomes)):5} good, "
        f"{len(refusals):5} refused, {len(others):5} cut off; refusals p50 "
        f"{1000 * _quantile(refusals, 50):.0f} ms, p99 {1000 * _quantile(refusals, 99):.0f} ms",
        flush=True,
    )
    return refusals


def _is_good(outcome: Outcome) -> bool:
    return outcome.complete and outcome.first_s is not None and outcome.first_s <= TTFT_SLO_S


def _quantile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0


@contextmanager
def _longest_queue(ways: Gateways) -> Iterator[list[int]]:
    """What the router said of its queue while the body lasted."""
    seen, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            seen.append(queued(ways.mesh))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
