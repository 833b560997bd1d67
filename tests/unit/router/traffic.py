"""Simulated engines behind the router's own picker, in virtual time: minutes pass in seconds.

People talk in a closed loop. Everything between picker and engines (Envoy, processes) is left out.
"""

import heapq
import itertools
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.conversations import WORDS
from services.router.core.demands import estimated_tokens
from services.router.core.endings import Usage
from services.router.core.endpoints import Endpoints
from services.router.core.inflight import Slot
from services.router.core.picking import Picker, Wanted
from services.router.core.prefixes import block_keys
from services.router.core.requests import Requests
from services.router.core.weights import Weights
from services.runtime.core.engine import EngineFailed, Job
from services.runtime.core.sampling import Sampling
from services.runtime.core.simulated_text import encode
from services.runtime.core.simulation import Behaviour, Simulation
from tests.unit.router.values import decision, ended, state

ENGINES = 4
OUTPUT_TOKENS = 32
THINK_S = 0.7
# A slow prefill, and room for 16,000 tokens.
BEHAVIOUR = Behaviour(
    step_s=0.02,
    step_per_sequence_s=0.0005,
    prefill_per_token_s=0.0005,
    max_running=16,
    kv_blocks=1024,
    max_context_tokens=4096,
)

Turns = Iterator[tuple[str, str]]  # salt and prompt of one request after the other
Traffic = Callable[[random.Random], Turns]


def conversations(*, systems: int, system_words: int, turns: int) -> Traffic:
    """Each begins with one of several system prompts, and repeats what was said before."""

    def person(rng: random.Random) -> Turns:
        while True:
            which = rng.randrange(systems)
            told = f"{which} " + words(random.Random(which), system_words)  # noqa: S311 - a test
            for _ in range(turns):
                told += " " + words(rng, 60)
                yield f"salt {which % 2}", told
                told += " " + words(rng, OUTPUT_TOKENS)

    return person


def nothing_shared(rng: random.Random) -> Turns:
    while True:
        yield f"salt {rng.randrange(2)}", f"{rng.random()} {words(rng, rng.choice((50, 400, 800)))}"


def words(rng: random.Random, number: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(number))


@dataclass
class Seen:
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    expected_tokens: int = 0
    first_token_s: list[float] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        return self.cached_tokens / self.prompt_tokens

    @property
    def ttft_p95_s(self) -> float:
        return statistics.quantiles(self.first_token_s, n=20)[-1]


@dataclass
class Running:
    person: Turns
    began_s: float
    address: str
    prompt_tokens: int
    expected_tokens: int
    first_s: float = 0.0


class Street:
    """What happens next is what is due first."""

    def __init__(self, weights: Weights, *, warm_s: float) -> None:
        self.requests = Requests(weights=weights)
        self.seen = Seen()
        self._warm_s = warm_s
        self._rng = random.Random(1)  # noqa: S311 - a test repeats
        self._engines = {f"10.0.0.{n}:8000": Simulation(BEHAVIOUR) for n in range(ENGINES)}
        self._known = Endpoints(self._engines)
        self._picker = Picker(
            self._known, self.requests.in_flight, self.requests.expectations, weights=weights
        )
        self._running: dict[str, Running] = {}
        self._stepping: set[str] = set()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()

    def live(self, traffic: Traffic, *, people: int, for_s: float) -> Seen:
        self._at(0.0, self._tell_states)
        for _ in range(people):
            person = traffic(random.Random(self._rng.random()))  # noqa: S311 - a test repeats
            self._at(self._rng.random(), self._ask(person))
        while self._due[0][0] < for_s:
            now_s, _, what = heapq.heappop(self._due)
            what(now_s)
        return self.seen

    def _at(self, at_s: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (at_s, next(self._numbers), what))

    def _tell_states(self, now_s: float) -> None:
        for address, engine in self._engines.items():
            now = engine.state()
            room = {"kv_blocks_free": now.kv_blocks_free, "kv_blocks_total": now.kv_blocks_total}
            self._known.saw(address, state(**room, kv_block_tokens=now.kv_block_tokens))
            kv_tokens = now.kv_blocks_total * now.kv_block_tokens
            self.requests.expectations.resize(address, kv_tokens=kv_tokens)
        self._at(now_s + 0.2, self._tell_states)

    def _ask(self, person: Turns) -> Callable[[float], None]:
        def ask(now_s: float) -> None:
            salt, text = next(person)
            estimated = estimated_tokens(len(text))
            keys = block_keys(text.encode(), salt, "small")
            picked = self._picker.pick(Wanted("small", "", keys, estimated, OUTPUT_TOKENS), now_s)
            first = picked.candidates[0]
            slot = Slot(
                first.address,
                estimated + OUTPUT_TOKENS,
                1e9,
                estimated - first.cached_tokens,
                OUTPUT_TOKENS,
                picked.prefix,
            )
            request_id, prompt = f"r{next(self._numbers)}", encode(text)
            self.requests.admit(decision(request_id), slot)
            self._running[request_id] = Running(
                person, now_s, first.address, len(prompt), first.cached_tokens
            )
            sampling = Sampling(ignore_eos=True, temperature=0)
            job = Job(request_id, prompt, OUTPUT_TOKENS, sampling, priority=0, cache_salt=salt)
            self._engines[first.address].add(job, now_s)
            self._step(first.address, now_s)

        return ask

    def _step(self, address: str, now_s: float) -> None:
        if address in self._stepping:
            return
        length_s = self._engines[address].begin_step(now_s)
        if length_s is not None:
            self._stepping.add(address)
            self._at(now_s + length_s, lambda at_s: self._stepped(address, at_s))

    def _stepped(self, address: str, now_s: float) -> None:
        self._stepping.discard(address)
        for request_id, step in self._engines[address].finish_step():
            assert not isinstance(step, EngineFailed)
            running = self._running[request_id]
            running.first_s = running.first_s or now_s
            if step.finish_reason is not None:
                self._ended(request_id, step.cached_prompt_tokens, now_s)
        self._step(address, now_s)

    def _ended(self, request_id: str, cached_tokens: int, now_s: float) -> None:
        running = self._running.pop(request_id)
        usage = Usage(running.prompt_tokens, cached_tokens, OUTPUT_TOKENS)
        self.requests.end(ended(request_id, endpoint=running.address, usage=usage))
        if now_s >= self._warm_s:
            self.seen.requests += 1
            self.seen.prompt_tokens += running.prompt_tokens
            self.seen.cached_tokens += cached_tokens
            self.seen.expected_tokens += running.expected_tokens
            self.seen.first_token_s.append(running.first_s - running.began_s)
        self._at(now_s + self._rng.expovariate(1 / THINK_S), self._ask(running.person))
