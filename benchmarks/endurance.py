"""Whether the mesh stays as it is: 100,000 requests in a row, and hours at half load.

Fails when a request does, when memory or file descriptors grow after the warm-up, or when slots or
KV blocks are held in the end.
"""

import argparse
from collections.abc import Mapping, Sequence

from benchmarks.cases import engine
from benchmarks.load import Order
from benchmarks.mesh import Mesh, running
from benchmarks.results import line
from benchmarks.sending import send
from benchmarks.watching import Sample, growth, held_in_the_end, sampled
from evenflow.home import service_name

STEP_S = 0.02
FAST_STEP_S = 0.002
HALF_LOAD_PER_S = 40.0  # of 64 tokens each, on two cores
REQUESTS = 100_000
AT_ONCE = 32
SAMPLE_EVERY_S = 0.5
SETTLED_WITHIN_S = 10.0
MOST_GROWTH_SHARE = 0.05  # of memory, from the third fifth of the time to the last
MOST_GROWTH_MB = 8.0  # whichever is more: allocators round up
MOST_MORE_DESCRIPTORS = 4


def load(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks load")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    asked = parser.parse_args(arguments)
    with running(engine(FAST_STEP_S)) as mesh:
        order = _order(mesh, at_once=AT_ONCE, calls=asked.requests, tokens=4, streamed=False)
        return _endure("load", mesh, order)


def soak(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--per-s", type=float, default=HALF_LOAD_PER_S)
    asked = parser.parse_args(arguments)
    with running(engine(STEP_S)) as mesh:
        order = _order(mesh, per_s=asked.per_s, for_s=60 * asked.minutes, tokens=64)
        return _endure("soak", mesh, order)


def _order(mesh: Mesh, **fields: object) -> Order:
    return Order(
        addresses=[mesh.address],
        certificate_folder=str(mesh.tenant),
        server=service_name("gateway"),
        **fields,  # type: ignore[arg-type] # names say which
    )


def _endure(name: str, mesh: Mesh, order: Order) -> int:
    with sampled(mesh, every_s=SAMPLE_EVERY_S) as samples:
        outcome = send(order)
    left = held_in_the_end(mesh, within_s=SETTLED_WITHIN_S)
    figures: dict[str, float] = {
        "requests": outcome.good,
        "failed": outcome.failed,
        "minutes": outcome.elapsed_s / 60,
        "requests_per_s": outcome.good / outcome.elapsed_s,
        "slots_left": left.requests,
        "kv_blocks_left": left.kv_blocks,
    }
    problems = [] if left.nothing else [f"held in the end: {left}"]
    if outcome.failed:
        problems.append(f"{outcome.failed} requests failed")
    problems += _grown(samples, figures)
    for problem in problems:
        print(f"{name}: {problem}")
    print(line(name, figures=figures, baseline={}, goals=()), flush=True)
    return 1 if problems else 0


def _grown(samples: Mapping[str, Sequence[Sample]], figures: dict[str, float]) -> list[str]:
    problems = []
    for role, seen in samples.items():
        warm, last = growth(seen)
        figures[f"{role}_mb_warm"], figures[f"{role}_mb_last"] = warm.rss_mb, last.rss_mb
        figures[f"{role}_descriptors_warm"] = warm.descriptors
        figures[f"{role}_descriptors_last"] = last.descriptors
        if last.rss_mb - warm.rss_mb > max(MOST_GROWTH_MB, MOST_GROWTH_SHARE * warm.rss_mb):
            problems.append(f"{role} grew from {warm.rss_mb:.0f} to {last.rss_mb:.0f} MB")
        if last.descriptors > warm.descriptors + MOST_MORE_DESCRIPTORS:
            problems.append(f"{role}: {warm.descriptors} to {last.descriptors} descriptors")
    return problems
