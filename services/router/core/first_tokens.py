"""How long first tokens take now: live quantiles for each model and size of prompt.

Histograms of the times from sending a request to its first token, with buckets that grow by a
constant factor (as DDSketch's; Masson, Rim, Lee, VLDB 2019), whose counts halve every HALF_LIFE_S:
what was an hour ago says little about now. Prompts are told apart by the tokens that must be read.

What a hedge cuts short is known only to have taken longer than the hedge's delay. It is counted at
what it took with the hedge, which is longer than the delay too. So a quantile that lies below the
delay is exactly what it would be without hedges, and hedging can't lower its own delay.
"""

import math
from collections import defaultdict

HALF_LIFE_S = 30.0
FEWEST = 100.0  # values, weighed by age: less say nothing about the slowest twentieth
_GROWTH = math.log(1.05)  # from bucket to bucket, so a quantile is at most 5 % too high
_LEAST_S = 0.001
_FRESH_S = 0.25  # how long a quantile is not computed anew
_SMALL_PROMPT = 128  # tokens; each further size ends at twice as many


class Histogram:
    """Of times in seconds. `now_s` is of any monotonic clock."""

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self._total = 0.0
        self._halved_at_s = -math.inf
        self._known: dict[float, tuple[float, float | None]] = {}  # by share: until when, value

    def add(self, value_s: float, now_s: float) -> None:
        self._fade(now_s)
        bucket = max(0, math.ceil(math.log(max(value_s, _LEAST_S) / _LEAST_S) / _GROWTH))
        self._counts[bucket] = self._counts.get(bucket, 0.0) + 1.0
        self._total += 1.0

    def quantile_s(self, share: float, now_s: float) -> float | None:
        """What that share of the times does not exceed; None: there are too few."""
        until_s, known = self._known.get(share, (-math.inf, None))
        if now_s >= until_s:
            self._fade(now_s)
            known = self._quantile_s(share) if self._total >= FEWEST else None
            self._known[share] = (now_s + _FRESH_S, known)
        return known

    def _quantile_s(self, share: float) -> float:
        wanted, seen, bucket = share * self._total, 0.0, 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                break
        return _LEAST_S * math.exp(_GROWTH * bucket)

    def _fade(self, now_s: float) -> None:
        halvings = (now_s - self._halved_at_s) // HALF_LIFE_S
        if halvings < 1:
            return
        self._halved_at_s = now_s
        kept = 0.5 ** min(halvings, 100.0)
        faded = ((bucket, count * kept) for bucket, count in self._counts.items())
        self._counts = {bucket: count for bucket, count in faded if count > _FORGOTTEN}
        self._total = sum(self._counts.values())


_FORGOTTEN = 0.01  # of one request


class FirstTokens:
    """Models are those that runtimes serve, so there are few."""

    def __init__(self) -> None:
        self._by_size: defaultdict[tuple[str, int], Histogram] = defaultdict(Histogram)
        self._by_model: defaultdict[str, Histogram] = defaultdict(Histogram)

    def learn(self, model: str, uncached_prompt_tokens: int, took_s: float, now_s: float) -> None:
        self._by_size[model, _size(uncached_prompt_tokens)].add(took_s, now_s)
        self._by_model[model].add(took_s, now_s)

    def quantile_s(
        self, model: str, uncached_prompt_tokens: int, *, share: float, now_s: float
    ) -> float | None:
        """Of prompts of that size, or of all while those are few; None: there are too few."""
        sized = self._by_size.get((model, _size(uncached_prompt_tokens)))
        found = sized.quantile_s(share, now_s) if sized else None
        if found is not None:
            return found
        every = self._by_model.get(model)
        return every.quantile_s(share, now_s) if every else None


def _size(tokens: int) -> int:
    return max(0, (tokens - 1) // _SMALL_PROMPT).bit_length()
