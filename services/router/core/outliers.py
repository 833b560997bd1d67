"""Outlier ejection: an endpoint far worse than its peers gets no new requests for a while.

Far worse is one of two. It fails requests in a row, while most of its peers don't; what never
reached it is the circuits' matter. Or its first tokens come many times later than its peers' do for
prompts of the same size at the same time. What all do alike is nobody's fault and ejects nobody.

Sources: Envoy's outlier detection (envoyproxy.io, "Outlier detection": errors in a row, times that
grow, a largest share), which can't see first tokens; J. Dean, L. A. Barroso, The Tail at Scale
(CACM 2013), "latency-induced probation". A ratio to the median of the peers, and no deviation
around it: among three or four endpoints the median absolute deviation is often zero.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from services.router.core.endings import Code, Ended
from services.router.core.picking import Candidate
from services.router.core.value import value

ERRORS = "ejected: errors"
SLOW = "ejected: slow"
IN_A_ROW = 5  # Envoy's own default for errors
TIMES_SLOWER = 3.0  # than the median of its peers: equals differ by less, hedges see to the rest
AND_BY_S = 0.1  # what people notice
LEAST_PEERS = 2  # with words of their own; of two endpoints nobody can say which is the odd one
LEAST_FIRSTS = 3  # first tokens that make a peer's word
KEPT = 64  # first tokens of an endpoint for one size of prompts
OLDEST_S = 60.0  # what was before says nothing of now
EJECTED_S = 5.0  # the first time; each further one is twice as long
EJECTED_MOST_S = 300.0
FORGIVEN_AFTER_S = 300.0  # back without another ejection
_SMALLEST_TOKENS = 64  # prompts below it take about the same time to read


def most_ejected(pool: int) -> int:
    """Of so many endpoints. The others take over what it had: of three, half as much again each."""
    return pool // 3


def pool(candidates: Iterable[Candidate]) -> Iterable[str]:
    """Those that could take the request, ejected or not."""
    return (each.address for each in candidates if not each.left_out or each.left_out in _EJECTED)


_EJECTED = frozenset({ERRORS, SLOW})
_FAULTS = frozenset({Code.UNKNOWN, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS})


@value
class Answer:
    """What one request tells of the endpoint that answered it."""

    address: str
    failed: bool
    read_tokens: int  # of the prompt, those that no cache had
    first_token_s: float | None  # since it was sent there; None: none, or since when is not known


def answer(order: Sequence[str], end: Ended, *, queue_wait_s: float) -> Answer | None:
    """`order`: Envoy's, from Check. None: no runtime had the last word.

    Of several attempts only the first was sent when the request was let go, so a first token from
    elsewhere says nothing of how long it took there. Nor does it of the one that was too late.
    """
    if end.usage is None or not end.endpoint:
        return None
    first_s = None
    if end.first_token_s is not None and end.endpoint in order[:1] and end.attempts <= len(order):
        first_s = max(0.0, end.first_token_s - queue_wait_s)
    return Answer(
        end.endpoint,
        end.grpc_code in _FAULTS,
        max(0, end.usage.prompt_tokens - end.usage.cached_prompt_tokens),
        first_s,
    )


@dataclass(frozen=True, slots=True)
class _First:
    began_s: float
    first_s: float


@dataclass(slots=True)
class _Endpoint:
    errors: int = 0  # in a row
    firsts: defaultdict[int, deque[_First]] = field(  # by size of prompts
        default_factory=partial(defaultdict, partial(deque, maxlen=KEPT))
    )
    ejections: int = 0
    why: str = ""  # empty: it is not ejected
    back_at_s: float = -math.inf

    def latest(self, size: int, now_s: float) -> float | None:
        kept = self.firsts.get(size)
        return kept[-1].first_s if kept and kept[-1].began_s > now_s - OLDEST_S else None

    def typical(self, size: int, *, from_s: float, to_s: float) -> float | None:
        kept = self.firsts.get(size, ())
        then = [each.first_s for each in kept if from_s <= each.began_s <= to_s]
        return median(then) if len(then) >= LEAST_FIRSTS else None


class Outliers:
    """`changed` is told of an address and why it is ejected; empty: it is back."""

    def __init__(self, changed: Callable[[str, str], None] = lambda *_: None) -> None:
        self._by_address: defaultdict[str, _Endpoint] = defaultdict(_Endpoint)
        self._ejected: set[str] = set()
        self._changed = changed

    def ejected(self, address: str, now_s: float) -> str:
        """Why new requests stay away; empty: they need not."""
        if address not in self._ejected:
            return ""
        endpoint = self._by_address[address]
        return endpoint.why if now_s < endpoint.back_at_s else ""

    def out(self, now_s: float) -> Mapping[str, str]:
        """Addresses that new requests stay away from, and why; mostly none."""
        why = {each: self.ejected(each, now_s) for each in self._ejected}
        return {address: reason for address, reason in why.items() if reason}

    def learn(self, said: Answer, *, pool: Iterable[str], began_s: float, now_s: float) -> None:
        """`pool`: all that could have taken the request. Looked at only when it matters."""
        endpoint = self._by_address[said.address]
        if began_s < endpoint.back_at_s:
            return  # it began before the ejection, or was all that was left during it
        endpoint.errors = endpoint.errors + 1 if said.failed else 0
        if endpoint.errors >= IN_A_ROW:
            others = [each for each in pool if each != said.address]
            if self._most_answer(others):
                self._eject(said.address, ERRORS, others, now_s)
        if said.first_token_s is not None and not said.failed:
            size = _size(said.read_tokens)
            kept = endpoint.firsts[size]
            kept.append(_First(began_s, said.first_token_s))
            if len(kept) >= IN_A_ROW:
                self._compare(said.address, size, pool, now_s)

    def sweep(self, now_s: float) -> None:
        """Says who is back."""
        for address in [each for each in self._ejected if not self.ejected(each, now_s)]:
            self._ejected.discard(address)
            self._by_address[address].why = ""
            self._changed(address, "")

    def restarted(self, address: str) -> None:
        """Another process serves there now."""
        self._by_address.pop(address, None)
        if address in self._ejected:
            self._ejected.discard(address)
            self._changed(address, "")

    def _most_answer(self, others: Sequence[str]) -> bool:
        failing = sum(self._errors(each) >= IN_A_ROW for each in others)
        return 2 * failing < len(others)

    def _errors(self, address: str) -> int:
        endpoint = self._by_address.get(address)
        return endpoint.errors if endpoint else 0

    def _compare(self, address: str, size: int, pool: Iterable[str], now_s: float) -> None:
        """Its last ones, each of them, against what its peers did in that time and no other."""
        kept = self._by_address[address].firsts[size]
        if kept[-1].first_s <= AND_BY_S:
            return  # as nearly always
        last = [kept[-at] for at in range(1, IN_A_ROW + 1)]
        best_s = min(each.first_s for each in last)
        from_s, to_s = min(each.began_s for each in last), max(each.began_s for each in last)
        if best_s <= AND_BY_S or from_s < now_s - OLDEST_S:
            return
        others = [each for each in pool if each != address]
        peers = [self._by_address[each] for each in others if each in self._by_address]
        # The cheap look first, since all that is usual ends here.
        if not _far(best_s, [each.latest(size, now_s) for each in peers]):
            return
        if _far(best_s, [each.typical(size, from_s=from_s, to_s=to_s) for each in peers]):
            self._eject(address, SLOW, others, now_s)

    def _eject(self, address: str, why: str, others: Sequence[str], now_s: float) -> None:
        self.sweep(now_s)
        out = sum(each in self._ejected for each in others)
        if out + 1 > most_ejected(len(others) + 1):
            return
        endpoint = self._by_address[address]
        forgiven = now_s - endpoint.back_at_s > FORGIVEN_AFTER_S
        endpoint.ejections = 1 if forgiven else endpoint.ejections + 1
        grown_s = math.ldexp(EJECTED_S, min(endpoint.ejections - 1, 10))
        endpoint.back_at_s = now_s + min(grown_s, EJECTED_MOST_S)
        endpoint.why, endpoint.errors = why, 0
        endpoint.firsts.clear()
        self._ejected.add(address)
        self._changed(address, why)


def _size(tokens: int) -> int:
    """Prompts of one size take at most twice as long to read as each other, or a moment."""
    return (tokens // _SMALLEST_TOKENS).bit_length()


def _far(best_s: float, peers: Iterable[float | None]) -> bool:
    words = [each for each in peers if each is not None]
    if len(words) < LEAST_PEERS:
        return False
    usual_s = median(words)
    return best_s > TIMES_SLOWER * usual_s and best_s > usual_s + AND_BY_S
