"""Which endpoints can start a request now: saturation out of what they report and what was sent.

A runtime says what it runs at most every 100 ms, and the gateway tells of an end up to 100 ms late.
So an endpoint gets a little more than it runs at once: as many as end there before we hear of it
(Little's law: ends a second times LATE_S). They wait there for LATE_S, and its slots never idle.

Who has its share already leaves KEPT of its slots free for those who have not (reserve.py).

What is under way there is the less of two guesses, each too high for another reason:
- ours, and beyond them what it reported more than ours (other routers'): wrong by untold ends;
- what it reported, and what we sent since: wrong by what ended since, but not by lost ends.
"""

import math
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from services.router.core.endpoints import Endpoint
from services.router.core.lanes import Lane

LATE_S = 0.15  # 100 ms until it is told, and the ways
STALE_S = 0.5  # two reports missed: nobody knows what runs there
STALE_SHARE = 0.6  # likewise, of the silence after which an endpoint is left out
_UNDER_WAY_S = 0.05  # what was sent so shortly before a report may not be in it
KEPT = 1 / 16  # of its slots; fewer than 16 would lose too much by one that stays free
_SMOOTHED_S = 0.5  # over which the ends a second are taken
_MOST_BEYOND = 3  # times max_running: for answers much shorter than LATE_S, or failing ones
_LOOKED_AT = 64  # of a model's endpoints, where nearly all lack KV blocks


class Vacancies(NamedTuple):
    """Addresses, as far as slots go."""

    full: AbstractSet[str] = frozenset()  # can't start another now
    free: AbstractSet[str] = frozenset()  # can, among others


@dataclass(slots=True)
class _Room:
    """One endpoint. `limit` 0: it does not say how much it runs, and is never full."""

    instance_id: str = ""
    lanes: frozenset[Lane] = frozenset()  # that it can take requests for
    max_running: int = 0
    limit: int = 0
    kept: int = 0  # slots
    shared: int = 0  # slots of an endpoint that keeps some
    limit_keeping: int = 0
    reported: int = 0
    tokens_free: float = math.inf  # of its KV cache
    heard_at_s: float = 0.0
    ours: int = 0  # sent, and not known to have ended
    ours_then: int = 0  # when it reported
    sent: deque[tuple[float, int]] = field(default_factory=deque)  # since then: when, tokens
    sent_tokens: int = 0
    ended: int = 0  # since then
    ends_per_s: float = 0.0
    routers: int = 1

    @property
    def under_way(self) -> int:
        others = max(0, self.reported - self.ours_then)
        theirs = len(self.sent) * (self.routers - 1)  # others saw the same room in the same report
        return min(self.ours + others, self.reported + len(self.sent)) + theirs

    def fits(self, tokens: int) -> bool:
        """In its KV cache. Where nothing runs, nothing will be freed either."""
        return tokens + self.sent_tokens <= self.tokens_free or self.under_way == 0


class Saturation:
    """`shut` says of an address that new requests stay away from it: its circuit is open."""

    def __init__(
        self,
        shut: Callable[[str, float], bool] = lambda *_: False,
        *,
        stale_after_s: float = STALE_S,
    ) -> None:
        self._stale_after_s = stale_after_s
        self._rooms: dict[str, _Room] = {}
        self._serving: dict[Lane, set[str]] = {}  # lane to addresses
        self._open: dict[Lane, dict[str, None]] = {}  # likewise; who was picked last comes last
        self._open_keeping: dict[Lane, dict[str, None]] = {}  # likewise, with more than they keep
        self._slots: dict[Lane, int] = {}  # likewise, of those that keep some
        self.routers = 1  # that send to these endpoints
        self._shut = shut
        self.full: set[str] = set()  # addresses that can start nothing now
        self.full_but_kept: set[str] = set()  # likewise, where they keep their free slots

    def saw(self, endpoint: Endpoint, now_s: float) -> None:
        """Takes a runtime's state."""
        room = self._rooms.setdefault(endpoint.address, _Room())
        state = endpoint.state
        if state is not None:
            if state.instance_id != room.instance_id:  # it has nothing of what was sent before
                room.instance_id = state.instance_id
                room.sent.clear()
                room.sent_tokens = room.ended = 0
                room.ends_per_s = 0.0
            _count_ends(room, now_s)
            self._resize(room, state.max_running)
            room.reported = state.running + state.waiting
            known = state.kv_blocks_total and state.kv_block_tokens
            room.tokens_free = state.kv_blocks_free * state.kv_block_tokens if known else math.inf
            room.heard_at_s = now_s
            room.ours_then = room.ours
            while room.sent and room.sent[0][0] <= now_s - _UNDER_WAY_S:
                room.sent_tokens -= room.sent.popleft()[1]
        self.changed(endpoint)

    def changed(self, endpoint: Endpoint) -> None:
        """Whether it can be used at all may be another thing now."""
        room = self._rooms.setdefault(endpoint.address, _Room())
        pool = endpoint.state.pool if endpoint.state else ""
        lanes = frozenset(Lane(each.model, pool) for each in endpoint.serving() if endpoint.ready)
        for lane in room.lanes - lanes:
            self._slots[lane] -= room.shared
            self._serving[lane].discard(endpoint.address)
            self._open[lane].pop(endpoint.address, None)
            self._open_keeping[lane].pop(endpoint.address, None)
        for lane in lanes - room.lanes:
            self._slots[lane] = self._slots.get(lane, 0) + room.shared
            self._serving.setdefault(lane, set()).add(endpoint.address)
        room.lanes = lanes
        self._refresh(endpoint.address, room)

    def _resize(self, room: _Room, max_running: int) -> None:
        room.routers = self.routers
        room.kept = int(max_running * KEPT)
        shared = max_running if room.kept else 0
        for lane in room.lanes:
            self._slots[lane] += shared - room.shared
        room.max_running, room.shared = max_running, shared
        room.limit = max_running + _headroom(room) if max_running else 0
        unheard_of = int(room.ends_per_s * LATE_S / 2)  # on average
        room.limit_keeping = max_running + unheard_of - room.kept if room.kept else room.limit

    def vacancies(self, lane: Lane, *, keeping: bool = False) -> Vacancies:
        """To be used before anything changes. `keeping`: if they keep their free slots."""
        if keeping:
            return Vacancies(self.full_but_kept, self._open_keeping.get(lane, {}).keys())
        return Vacancies(self.full, self._open.get(lane, {}).keys())

    def slots(self, lane: Lane) -> int:
        """Of its endpoints that keep some free."""
        return self._slots.get(lane, 0)

    def sent(self, address: str, tokens: int, now_s: float) -> None:
        room = self._rooms.get(address)
        if room is None:
            room = self._rooms[address] = _Room()
        room.ours += 1
        if room.limit:
            room.sent.append((now_s, tokens))
            room.sent_tokens += tokens
        self._refresh(address, room)

    def freed(self, address: str) -> None:
        """One that was sent there has ended, or is given up."""
        room = self._rooms[address]
        room.ours -= 1
        room.ended += 1
        assert room.ours >= 0, "one was freed twice"
        self._refresh(address, room)

    def takes(self, address: str, tokens: int, now_s: float, *, keeping: bool = False) -> bool:
        room = self._rooms.get(address)
        full = self.full_but_kept if keeping else self.full
        return room is None or (address not in full and self._takes(room, tokens, now_s))

    def has_room(self, lane: Lane, tokens: int, now_s: float, *, keeping: bool = False) -> bool:
        """Some endpoint can start it now; or none serves it, and waiting would be in vain.
        `keeping`: and keeps its free slots all the same."""
        if not self._serving.get(lane):
            return True
        there = (self._open_keeping if keeping else self._open)[lane]
        shut, has_room = [], False
        for address in islice(there, _LOOKED_AT):
            if self._shut(address, now_s):
                shut.append(address)
            elif self._takes(self._rooms[address], tokens, now_s):
                has_room = True
                break
        if has_room or len(shut) == _LOOKED_AT:
            for address in shut:  # nobody is sent there, and they would come first for ever
                _put(there, address, there=True)
        if has_room:
            return True
        return bool(self._open[lane]) and self._has_room_when_all_are_shut(lane, tokens, now_s)

    def _has_room_when_all_are_shut(self, lane: Lane, tokens: int, now_s: float) -> bool:
        if not all(self._shut(address, now_s) for address in self._serving[lane]):
            return False
        return any(self.takes(address, tokens, now_s) for address in self._open[lane])

    def _takes(self, room: _Room, tokens: int, now_s: float) -> bool:
        """One that has a free slot."""
        if room.limit == 0:
            return True
        return now_s - room.heard_at_s <= self._stale_after_s and room.fits(tokens)

    def _refresh(self, address: str, room: _Room) -> None:
        limit, under_way = room.limit, room.under_way
        is_open = not limit or under_way < limit
        is_open_keeping = is_open and (not limit or under_way < room.limit_keeping)
        for lane in room.lanes:
            _put(self._open.setdefault(lane, {}), address, there=is_open)
            _put(self._open_keeping.setdefault(lane, {}), address, there=is_open_keeping)
        (self.full.discard if is_open else self.full.add)(address)
        (self.full_but_kept.discard if is_open_keeping else self.full_but_kept.add)(address)


def _put(last: dict[str, None], address: str, *, there: bool) -> None:
    last.pop(address, None)
    if there:
        last[address] = None


def _count_ends(room: _Room, now_s: float) -> None:
    passed_s = now_s - room.heard_at_s
    if passed_s > 0.0:
        weight = 1.0 - math.exp(-passed_s / _SMOOTHED_S)
        room.ends_per_s += weight * (room.ended / passed_s - room.ends_per_s)
        room.ended = 0


def _headroom(room: _Room) -> int:
    expected = math.ceil(room.ends_per_s * LATE_S)
    return max(1, min(expected, _MOST_BEYOND * room.max_running))
