"""Hedging over the simulated engine, in virtual time: it cuts a tail, and makes no storm.

Envoy's part is played here: a second arm after the delay, the first token wins, the loser is
cancelled, and all of it is told to the router a tenth of a second later.
"""

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from services.router.core.demands import WorkloadClass
from services.router.core.hedge_budget import BURST
from services.router.core.hedging import Hedgeable, HedgePlan, Hedging
from services.runtime.core.engine import Job
from services.runtime.core.sampling import Sampling
from services.runtime.core.simulation import Behaviour
from services.runtime.outbound.simulated import SimulatedEngine
from tests import virtual_time

PER_S = 100.0
TOLD_AFTER_S = 0.1
OUTPUT_TOKENS = 8
WARM_UP_S = 5.0


def engine(**changes: float) -> SimulatedEngine:
    plain = {"step_s": 0.03, "step_per_sequence_s": 0.0, "prefill_per_token_s": 0.0}
    return SimulatedEngine(Behaviour(**{**plain, **changes}))  # type: ignore[arg-type] # by name


@dataclass(slots=True)
class Seen:
    """Of the requests after the warm-up."""

    first_token_s: list[float] = field(default_factory=list)
    hedges: int = 0

    @property
    def extra_share(self) -> float:
        return self.hedges / len(self.first_token_s)

    def ttft_s(self, thousandths: int) -> float:
        return statistics.quantiles(self.first_token_s, n=1000)[thousandths - 1]


@dataclass(slots=True)
class Mesh:
    engines: Sequence[SimulatedEngine]
    hedging: Hedging
    seen: Seen = field(default_factory=Seen)
    running: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    async def serve(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        order = [str(each) for each in sorted(range(4), key=lambda at: (self.running[at], at))]
        plan = self._plan(name, order, began_s)
        tokens = _tokens(self.engines[int(order[0])], name)
        self.running[int(order[0])] += 1
        try:
            took_s, is_hedged = await self._raced(tokens, name, plan)
        finally:
            self.running[int(order[0])] -= 1
        if began_s >= WARM_UP_S:
            self.seen.first_token_s.append(took_s)
            self.seen.hedges += is_hedged
        await asyncio.sleep(TOLD_AFTER_S)
        if plan is not None and not is_hedged:
            self.hedging.budget.release(name)
        self.hedging.first_tokens.learn("simulated", 10, took_s, loop.time())

    def _plan(self, name: str, order: Sequence[str], now_s: float) -> HedgePlan | None:
        asked = Hedgeable(
            model="simulated",
            workload_class=WorkloadClass.INTERACTIVE,
            uncached_prompt_tokens=10,
            output_tokens=OUTPUT_TOKENS,
            endpoints=order,
            timeout_s=60.0,
        )
        decided = self.hedging.decide(asked, lambda _: True, now_s)
        plan = decided if isinstance(decided, HedgePlan) else None
        self.hedging.let_go(name, plan, now_s)
        return plan

    async def _raced(
        self, tokens: AsyncIterator[None], name: str, plan: HedgePlan | None
    ) -> tuple[float, bool]:
        """Until the answer ends. Returns the time to its first token, and whether it was hedged."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with asyncio.TaskGroup() as arms:
            first = arms.create_task(_first(tokens))
            racing = {first}
            await asyncio.wait(racing, timeout=plan.delay_s if plan else None)
            if not first.done():
                assert plan is not None
                second = _tokens(self.engines[int(plan.endpoint)], f"{name}-hedge")
                racing.add(arms.create_task(_first(second)))
                loop.call_later(TOLD_AFTER_S, self._told, name)
                await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            took_s = loop.time() - began_s
            for each in racing:
                each.cancel()  # a finished one does not mind
            winner = next(each for each in racing if each.done())
        async for _ in winner.result():
            pass
        return took_s, len(racing) > 1

    def _told(self, name: str) -> None:
        self.hedging.budget.spend(name, asyncio.get_running_loop().time())


async def _tokens(of: SimulatedEngine, name: str) -> AsyncIterator[None]:
    job = Job(
        request_id=name,
        prompt=(20, 21, 22),
        max_output_tokens=OUTPUT_TOKENS,
        sampling=Sampling(ignore_eos=True),
        priority=0,
        cache_salt="salt",
    )
    async with aclosing(of.generate(job)) as steps:
        async for _ in steps:
            yield


async def _first(tokens: AsyncIterator[None]) -> AsyncIterator[None]:
    """The rest, once the first is there; closed if it is cancelled."""
    try:
        await anext(tokens)
    except asyncio.CancelledError:
        await tokens.aclose()  # type: ignore[attr-defined] # a generator
        raise
    return tokens


def played(
    engines: Sequence[SimulatedEngine],
    *,
    share: float,
    for_s: float,
    then: Callable[[Mesh], None] = lambda _: None,
    then_at_s: float = WARM_UP_S,
) -> Seen:
    """`then` happens at `then_at_s`."""

    async def scenario() -> Seen:
        loop = asyncio.get_running_loop()
        mesh, rng, number = Mesh(engines, Hedging(share)), random.Random(7), 0  # noqa: S311 - repeats
        loop.call_later(then_at_s, then, mesh)
        async with asyncio.TaskGroup() as requests:
            while loop.time() < WARM_UP_S + for_s:
                await asyncio.sleep(rng.expovariate(PER_S))
                number += 1
                requests.create_task(mesh.serve(str(number)))
        return mesh.seen

    return virtual_time.run(scenario())


def one_straggler() -> list[SimulatedEngine]:
    return [engine(), engine(straggler_share=0.1, straggler_s=1.0, seed=1), engine(), engine()]


def test_a_stragglers_tail_is_cut_to_a_quarter_by_three_percent_of_requests() -> None:
    hedged = played(one_straggler(), share=0.05, for_s=60)
    unhedged = played(one_straggler(), share=0.0, for_s=60)

    assert unhedged.ttft_s(990) > 1.0
    assert hedged.ttft_s(990) <= 0.25 * unhedged.ttft_s(990)
    assert hedged.ttft_s(998) <= 0.25 * unhedged.ttft_s(998)
    assert hedged.extra_share <= 0.03


def all_become_slow(mesh: Mesh) -> None:
    """Every first token takes a second more from now on."""
    mesh.engines = [engine(straggler_share=1.0, straggler_s=1.0) for _ in range(4)]


def all_stand_still(mesh: Mesh) -> None:
    """For a second, three seconds from now again, and so on."""
    loop = asyncio.get_running_loop()
    for each in mesh.engines:
        each.hang_or_go_on()
        loop.call_later(1.0, each.hang_or_go_on)
    if loop.time() < WARM_UP_S + 25:
        loop.call_later(3.0, all_stand_still, mesh)


def test_when_all_become_slow_at_once_there_is_no_storm() -> None:
    healthy = [engine() for _ in range(4)]
    hedged = played(healthy, share=0.05, for_s=30, then=all_become_slow)
    unhedged = played([engine() for _ in range(4)], share=0.0, for_s=30, then=all_become_slow)

    assert 0 < hedged.extra_share <= 0.10
    assert hedged.ttft_s(990) <= 1.02 * unhedged.ttft_s(990)


def test_the_first_seconds_cost_no_more_than_a_burst_and_what_was_promised() -> None:
    """Before the delay has followed, only the budget stands between slowness and a storm."""
    hedged = played([engine() for _ in range(4)], share=0.05, for_s=3, then=all_become_slow)

    promised = PER_S * (0.12 + TOLD_AFTER_S)  # arrives within a delay and its report
    assert hedged.hedges <= BURST + promised + 0.05 * len(hedged.first_token_s)


def test_when_all_stand_still_at_once_again_and_again_there_is_no_storm() -> None:
    hedged = played([engine() for _ in range(4)], share=0.05, for_s=30, then=all_stand_still)
    unhedged = played([engine() for _ in range(4)], share=0.0, for_s=30, then=all_stand_still)

    assert 0 < hedged.extra_share <= 0.10
    assert hedged.ttft_s(990) <= 1.02 * unhedged.ttft_s(990)


def test_the_highest_share_is_kept_when_all_become_slow() -> None:
    """A tenth of requests, what was promised at that moment, and a burst."""
    hedged = played([engine() for _ in range(4)], share=0.10, for_s=30, then=all_become_slow)

    assert hedged.extra_share <= 0.10
