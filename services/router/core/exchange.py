"""What routers tell each other, so that who uses several of them gets no more than who uses one.

Each tells totals: what it ever gave to each tenant, and who waits there. Two words of a peer differ
by what is charged here, so one that is lost or comes twice changes nothing. No clocks are compared.

A peer's first word is where counting begins: what it gave before is forgiven, as idleness saves
nothing up. So is what it gave while it was away for longer than FORGIVEN_S; after a shorter
absence, or as another process, it is charged in full. Nobody waits at a peer that is away.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import islice

from services.router.core.bands import Band
from services.router.core.fairness import Turns
from services.router.core.lanes import Lane
from services.router.core.limit_words import Minute, Told

FORGIVEN_S = 10.0
AT_MOST = 10_000  # accounts of a router

Queue = tuple[Lane, Band]
Queues = Callable[[], Iterator[tuple[Queue, Turns]]]


@dataclass(frozen=True, slots=True)
class Account:
    """One tenant in one queue of a router. `served` is a total, in weighted tokens."""

    lane: Lane
    band: Band
    tenant: str
    served: float
    waits: bool


@dataclass(frozen=True, slots=True)
class PeerWord:
    instance_id: str
    accounts: Sequence[Account]
    taken: Sequence[Told] = ()  # of tenants with limits
    minutes: Sequence[Minute] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """At a peer, since its last word. `waits`: 1 it began to, -1 it stopped, 0 as before."""

    lane: Lane
    band: Band
    tenant: str
    given: float
    waits: int


_Key = tuple[Lane, Band, str]
_NOTHING = (0.0, False)


class Peer:
    """What one other router has told. Its process may be another one each time."""

    def __init__(self) -> None:
        self._instance_id = ""
        self._told: dict[_Key, tuple[float, bool]] = {}
        self._away_since_s: float | None = None

    def heard(self, word: PeerWord, now_s: float) -> list[Change]:
        forgiving = not self._instance_id or self._long_away(now_s)
        changes: list[Change] = []
        if forgiving or word.instance_id != self._instance_id:
            changes += self._gone()
            self._told.clear()
        self._instance_id, self._away_since_s = word.instance_id, None
        changes += filter(None, (self._changed(each, forgiving) for each in word.accounts))
        return changes

    def lost(self, now_s: float) -> list[Change]:
        """Its stream has ended."""
        if self._away_since_s is None:
            self._away_since_s = now_s
        return self._gone()

    def _gone(self) -> list[Change]:
        gone = [key for key, (_, waits) in self._told.items() if waits]
        for key in gone:
            self._told[key] = (self._told[key][0], False)
        return [Change(*key, given=0.0, waits=-1) for key in gone]

    def _long_away(self, now_s: float) -> bool:
        return self._away_since_s is not None and now_s - self._away_since_s > FORGIVEN_S

    def _changed(self, account: Account, forgiving: bool) -> Change | None:
        key = (account.lane, account.band, account.tenant)
        served, waits = self._told.get(key, _NOTHING)
        if key not in self._told and len(self._told) >= AT_MOST:
            return None
        self._told[key] = (account.served, account.waits)
        given = 0.0 if forgiving else account.served - served
        began = int(account.waits) - int(waits)
        return Change(*key, given=given, waits=began) if given or began else None


class Telling:
    """What one peer has not been told yet."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues
        self._marks: MutableMapping[Queue, int] = {}

    def accounts(self) -> list[Account]:
        """That changed since the last call: at most AT_MOST, those that changed last."""
        return list(islice(self._all(), AT_MOST))

    def _all(self) -> Iterator[Account]:
        for queue, turns in self._queues():
            mark, standings = turns.standings_since(self._marks.get(queue, 0))
            self._marks[queue] = mark
            for tenant, standing in standings.items():
                yield Account(*queue, tenant, standing.served, standing.waits)
