"""What routers tell each other so that a tenant's limits hold over all of them.

As in exchange.py, each tells totals of what it let go and what is under way there, so a word that
is lost or comes twice changes nothing. What a peer let go before its first word, or while it was
away for longer than AWAY_S, is no difference of totals; but the first word of a stream also holds
what the peer counts within the last minute, whoever let it go, and where that is more than is known
here, it is taken over. So a router that was started again has its tenants' minutes again.

What was under way at a peer counts for AWAY_S after it was heard last, and no more when it is
another process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from services.router.core.lanes import Lane
from services.router.core.limits import Elsewhere, Limiting, Taken
from services.router.core.sliding import SlidingMinute
from services.router.core.value import value

AWAY_S = 10.0
AT_MOST = 10_000  # accounts in one word
MOST_KNOWN = 100_000  # of a peer
SLICES_S = (10.0, 20.0, 30.0, 40.0, 50.0, 61.0)  # ends of the ages that a minute is told in
_SKEW_S = 1.0  # by which two routers may have charged the same at different times


@value
class Told:
    """What one tenant took at a router, in one lane."""

    tenant: str
    lane: Lane
    taken: Taken


@value
class Minute:
    """What a router counts of a tenant within the last minute, by SLICES_S, the latest first."""

    tenant: str
    requests: Sequence[int]
    tokens: Sequence[int]


class LimitTelling:
    """What one peer has not been told yet."""

    def __init__(self, limiting: Limiting) -> None:
        self._limiting = limiting
        self._mark = 0
        self._is_first = True

    def taken(self) -> list[Told]:
        """That changed since the last call; the rest with the next one where it is too much."""
        found: list[tuple[int, Told]] = []
        for (tenant, lane), (mark, taken) in reversed(self._limiting.taken.items()):
            if mark <= self._mark:
                break
            found.append((mark, Told(tenant, lane, replace(taken))))
        now = found[-AT_MOST:]  # the oldest changes, the latest of them first
        self._mark = now[0][0] if now else self._mark
        return [each for _, each in now]

    def minutes(self, now_s: float) -> list[Minute]:
        """The first time only."""
        if not self._is_first:
            return []
        self._is_first = False
        return list(islice(self._minutes(now_s), AT_MOST))

    def _minutes(self, now_s: float) -> Iterator[Minute]:
        for tenant, account in self._limiting.accounts.items():
            requests = account.requests.recent(SLICES_S, now_s)
            tokens = account.tokens.recent(SLICES_S, now_s)
            if any(requests) or any(tokens):
                yield Minute(tenant, requests, tokens)


class LimitPeer:
    """What one other router has told. Its process may be another one each time."""

    def __init__(self, limiting: Limiting) -> None:
        self._limiting = limiting
        self._instance_id = ""
        self._told: dict[tuple[str, Lane], Taken] = {}
        self._away_since_s: float | None = None
        self._forgiving = False  # its first word goes on in the next

    def heard(
        self, instance_id: str, told: Sequence[Told], minutes: Sequence[Minute], now_s: float
    ) -> None:
        away_s = 0.0 if self._away_since_s is None else now_s - self._away_since_s
        is_new = not self._instance_id or away_s > AWAY_S
        if is_new or instance_id != self._instance_id:
            self._forget_running(now_s)
            self._told.clear()
            self._forgiving = is_new
        self._instance_id, self._away_since_s = instance_id, None
        for each in told:
            self._hear(each, now_s)
        self._forgiving = self._forgiving and len(told) >= AT_MOST
        for minute in minutes:
            self._take_over(minute, now_s)

    def lost(self, now_s: float) -> None:
        """Its stream has ended."""
        if self._away_since_s is None:
            self._away_since_s = now_s

    def sweep(self, now_s: float) -> None:
        if self._away_since_s is not None and now_s - self._away_since_s > AWAY_S:
            self._forget_running(now_s)

    def _hear(self, told: Told, now_s: float) -> None:
        key, taken = (told.tenant, told.lane), told.taken
        if key not in self._told and len(self._told) >= MOST_KNOWN:
            return
        before = self._told.get(key, _NOTHING)
        self._told[key] = taken
        change = Taken(
            requests=0 if self._forgiving else taken.requests - before.requests,
            tokens=0 if self._forgiving else taken.tokens - before.tokens,
            running=taken.running - before.running,
            blocks=taken.blocks - before.blocks,
        )
        if change != _NOTHING:
            self._limiting.elsewhere(Elsewhere(told.tenant, told.lane, change), now_s)

    def _forget_running(self, now_s: float) -> None:
        for (tenant, lane), taken in self._told.items():
            if taken.running or taken.blocks:
                gone = Taken(running=-taken.running, blocks=-taken.blocks)
                self._limiting.elsewhere(Elsewhere(tenant, lane, gone), now_s)
                self._told[tenant, lane] = replace(taken, running=0, blocks=0)

    def _take_over(self, told: Minute, now_s: float) -> None:
        account = self._limiting.account(told.tenant)
        _raise(account.requests, told.requests, now_s)
        _raise(account.tokens, told.tokens, now_s)


def _raise(minute: SlidingMinute, theirs: Sequence[int], now_s: float) -> None:
    """To what they count, at each age as much as is missing up to there. A slice's end is where it
    can't be missed here for having been charged a moment earlier; its beginning, where it lasts
    longest, is where it is taken over."""
    if len(theirs) != len(SLICES_S):
        return
    ours = minute.recent([each + _SKEW_S for each in SLICES_S], now_s)
    counted = their_sum = begins_s = 0.0
    for mine, their, end_s in zip(ours, theirs, SLICES_S, strict=True):
        counted += mine
        their_sum += their
        missing = int(their_sum - counted)
        if missing > 0:
            minute.insert(missing, begins_s, now_s)
            counted += missing
        begins_s = end_s


_NOTHING = Taken()
