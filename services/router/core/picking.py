"""Endpoint picking: filter, score, pick.

Filter: eligibility.py's endpoints, less those that a `Filter` leaves out at the moment. Score: the
cost that weights.py explains. Pick: the lowest costs, best first. Ties go to fewer requests, then
to the lower address, so that equal inputs give equal picks; without any weights, endpoints take
turns.

Made for a thousand endpoints: where there are more than LOOKED_AT, each request looks at so many,
the next one at those that follow; and, wherever they are, at endpoints that have most of its prompt
and at such as have room, if the others have none. The best of many choices is nearly the best of
all (M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001). Everything else
(KV room, what Explain shows) is for the KEPT cheapest alone.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from services.router.core.eligibility import Eligibility, Eligible
from services.router.core.endpoints import Endpoints, RuntimeState
from services.router.core.expectations import NO_PREFIX, Expectations, Prefix
from services.router.core.inflight import InFlight
from services.router.core.prefixes import BLOCK_TOKENS, Holders, Keys
from services.router.core.saturation import Vacancies
from services.router.core.value import value
from services.router.core.weights import Weights

TRIED = 3  # the first and Envoy's two retries
KEPT = 8  # candidates that are shown; of the others, how many
LOOKED_AT = 32  # of a thousand; loads then differ 5 % more than if all were looked at
_BESIDES = 16  # that have most of the prompt; likewise, that have room
_NO_WEIGHTS = Weights().scaled(0, cached=0)
_FULL = 1e12  # more than any work: what can't start the request now comes last


class Candidate(NamedTuple):  # not a dataclass: eight of them are made for each request
    """An endpoint as one request saw it."""

    address: str  # host:port
    left_out: str  # why it can't be used; empty: it can
    tokens: int  # in flight there
    requests: int  # in flight there
    prefill_tokens: int = 0  # of `tokens`, prompts to be computed
    decode_tokens: int = 0  # of `tokens`, output at most
    cached_tokens: int = 0  # of the request's prompt, as expected
    kv_missing_tokens: int = 0  # its KV cache lacks so many for the request
    cost: float = 0.0  # as weights.py says; the lowest is best
    full: bool = False  # it can't start the request now; a retry may go there all the same


def all_but_one(endpoints: int) -> int:
    """A try is better than a refusal."""
    return endpoints - 1


@dataclass(frozen=True, slots=True)
class Filter:
    """Leaves endpoints out for as long as something lasts, such as an open circuit."""

    leaves_out: Callable[[float], Mapping[str, str]]  # addresses now, and why; mostly none
    most: Callable[[int], int] = all_but_one  # of so many; where it would be more, it is none


@value
class Wanted:
    """What a pick depends on, of a request."""

    model: str
    pool: str = ""  # the boundary: its tenant's pool
    keys: Keys = ()  # of its prompt's beginning, partitioned by tenant
    prompt_tokens: int = 0
    output_tokens: int = 0
    vacancies: Vacancies = Vacancies()  # the full ones come last; a retry may go there


@value
class Pick:
    candidates: Sequence[Candidate]  # best first, then some of those left out
    others: Mapping[str, int] = field(default_factory=dict)  # how many more, by why; "": usable
    prefix: Prefix = NO_PREFIX  # at the first candidate

    @property
    def addresses(self) -> Sequence[str]:
        """To try, in order; none: no endpoint can be used."""
        return usable(self.candidates)[:TRIED]


class Picker:
    def __init__(
        self,
        endpoints: Endpoints,
        in_flight: InFlight,
        expectations: Expectations,
        *,
        weights: Weights,
        filters: Sequence[Filter] = (),
    ) -> None:
        self._endpoints = endpoints
        self._eligibility = Eligibility(endpoints)
        self._in_flight = in_flight
        self._expectations = expectations
        self._weights = weights
        self._filters = filters
        self._round_robin = weights == _NO_WEIGHTS
        self._turn = 0

    @property
    def looks_at_prompts(self) -> bool:
        return self._weights.cached > 0 or self._weights.evicted > 0

    def eligible(self, model: str, pool: str) -> Eligible:
        return self._eligibility.of(model, pool)

    def pick(self, wanted: Wanted, now_s: float) -> Pick:
        eligible = self.eligible(wanted.model, wanted.pool)
        filtered = self._filtered(eligible, now_s)
        held = self._expectations.held_blocks(wanted.keys)
        best = self._best(wanted, self._looked_at(eligible, wanted, held, filtered), held)
        shown = list(best)
        reasons = {**filtered, **eligible.left_out} if filtered else eligible.left_out
        for address, reason in reasons.items():
            if len(shown) == KEPT:
                break
            shown.append(self._left_out(address, reason))
        return Pick(
            shown,
            _others(shown, len(eligible.addresses) - len(filtered) - len(best), reasons),
            Prefix(wanted.keys, _held_tokens(best[0].address, wanted, held)) if best else NO_PREFIX,
        )

    def _filtered(self, eligible: Eligible, now_s: float) -> Mapping[str, str]:
        why: dict[str, str] = {}
        for each in self._filters:
            out = each.leaves_out(now_s)
            if not out:
                continue
            more = sorted(at for at in out if at in eligible.members and at not in why)
            if 0 < len(more) <= each.most(len(eligible.addresses) - len(why)):
                why.update((address, out[address]) for address in more)
        return why

    def _looked_at(
        self,
        eligible: Eligible,
        wanted: Wanted,
        held: Holders,
        filtered: Mapping[str, str],
    ) -> Sequence[str]:
        """By address, as far as all are looked at."""
        addresses = eligible.addresses
        if self._round_robin or len(addresses) - len(filtered) <= LOOKED_AT:
            return [each for each in addresses if each not in filtered]
        following = (each for each in self._in_turn(addresses, LOOKED_AT) if each not in filtered)
        among = dict.fromkeys(islice(following, LOOKED_AT))
        deepest = (each for each in held if each in eligible.members and each not in filtered)
        among.update(dict.fromkeys(islice(deepest, _BESIDES)))
        full, free = wanted.vacancies
        if len(full & among.keys()) > len(among) - KEPT:
            roomy = (each for each in free if each in eligible.members and each not in filtered)
            among.update(dict.fromkeys(islice(roomy, _BESIDES)))
        return list(among)

    def _best(self, wanted: Wanted, addresses: Sequence[str], held: Holders) -> Sequence[Candidate]:
        costs = self._costs(wanted, addresses, held)
        if self._round_robin:
            addresses = self._in_turn(addresses, 1)
        if len(addresses) > KEPT:
            addresses = heapq.nsmallest(KEPT, addresses, key=costs.__getitem__)
        seen = [self._candidate(each, wanted, held, costs[each]) for each in addresses]
        return seen if self._round_robin else sorted(seen, key=_rank)

    def _costs(
        self, wanted: Wanted, addresses: Sequence[str], held: Holders
    ) -> Mapping[str, float]:
        """Without what all of them have in common."""
        work, weights = self._in_flight.work, self._weights
        evicting, trust = self._expectations.full, self._expectations.trust
        evicted, full = weights.evicted * wanted.prompt_tokens, wanted.vacancies.full
        costs = {}
        for address in addresses:
            cost = work[address]
            evicts = address in evicting
            if evicts:
                cost += evicted
            blocks = held.blocks(address) if held else 0
            if blocks:
                saves = weights.cached + (weights.evicted if evicts else 0.0)
                cost -= saves * blocks * BLOCK_TOKENS * trust[address]
            if address in full:
                cost += _FULL
            costs[address] = cost
        return costs

    def _in_turn(self, addresses: Sequence[str], step: int) -> Sequence[str]:
        """From another one on each time."""
        first = self._turn % max(1, len(addresses))
        self._turn += step
        return [*addresses[first:], *addresses[:first]]

    def _candidate(self, address: str, wanted: Wanted, held: Holders, cost: float) -> Candidate:
        weights = self._weights
        load = self._in_flight.load(address)
        missing = _kv_missing(
            self._endpoints.get(address).state, wanted.prompt_tokens + wanted.output_tokens
        )
        return Candidate(
            address,
            "",
            load.tokens,
            load.requests,
            load.prefill_tokens,
            load.decode_tokens,
            round(_held_tokens(address, wanted, held) * self._expectations.trust[address]),
            missing,
            cost + weights.prefill * wanted.prompt_tokens + weights.kv * missing,
            address in wanted.vacancies.full,
        )

    def _left_out(self, address: str, reason: str) -> Candidate:
        load = self._in_flight.load(address)
        return Candidate(
            address, reason, load.tokens, load.requests, load.prefill_tokens, load.decode_tokens
        )


def usable(candidates: Sequence[Candidate]) -> Sequence[str]:
    """Addresses of those that can be used, in the order given."""
    return [candidate.address for candidate in candidates if not candidate.left_out]


def _rank(candidate: Candidate) -> tuple[float, int]:
    return candidate.cost, candidate.requests  # those of equal rank stay in order


def _held_tokens(address: str, wanted: Wanted, held: Holders) -> int:
    return min(held.blocks(address) * BLOCK_TOKENS, wanted.prompt_tokens)


def _kv_missing(state: RuntimeState | None, tokens: int) -> int:
    """As the runtime last said, a fifth of a second ago at most."""
    if state is None or not state.kv_blocks_total:
        return 0
    return max(0, tokens - state.kv_blocks_free * state.kv_block_tokens)


def _others(
    shown: Sequence[Candidate], more_usable: int, reasons: Mapping[str, str]
) -> Mapping[str, int]:
    left_out = [each.left_out for each in shown if each.left_out]
    if not more_usable and len(left_out) == len(reasons):
        return {}
    others = Counter(reasons.values())
    others.subtract(left_out)
    others[""] = more_usable
    return {reason: number for reason, number in others.items() if number}
