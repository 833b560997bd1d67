"""Answers that come later: the requests that wait in the queue, and what wakes them.

Whatever may have made room calls `stir`; the loop then looks once, however many called. A look
every 50 ms while somebody waits makes up for words that never come: a circuit that may be tried
again, a wait that is over, a lost report.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from services.router.core.endings import Ended
from services.router.core.endpoints import Endpoint
from services.router.core.flow import FlowControl
from services.router.core.queue import Waiting
from services.router.core.requests import Decision
from services.router.core.verdicts import Refused
from services.router.inbound.answers import FAILED, Answer

_LOOK_EVERY_S = 0.05


class Held:
    """An answer that comes later, once, through `reply`. `left`: nobody wants it any more."""

    __slots__ = ("_leave", "reply")

    def __init__(self, leave: Callable[[], None]) -> None:
        self._leave = leave
        self.reply: Callable[[Answer], None] = lambda _: None

    def left(self) -> None:
        self._leave()

    def goes_on_as(self, other: "Held") -> None:
        """It waits for something else now."""
        other.reply, self._leave = self.reply, other.left


@dataclass(frozen=True, slots=True)
class Turn:
    """What becomes of a request that waits. Each is called at most once, and one of them only."""

    go: Callable[[float], "Answer | Held"]  # it is judged anew
    refuse: Callable[[Refused, float], Answer]
    leave: Callable[[float], None]  # its caller has left


class Line:
    """Touched by the event loop alone. Needs a running one only while somebody waits."""

    def __init__(self, flow: FlowControl) -> None:
        self.flow = flow
        self._turns: dict[str, tuple[Turn, Held]] = {}
        self._stirred = False
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, waiting: Waiting, turn: Turn) -> Held:
        """For one that the flow control has taken into its queue."""

        def leave() -> None:
            if self._turns.pop(waiting.request_id, None) is not None:
                self.flow.left(waiting.request_id)
                turn.leave(asyncio.get_running_loop().time())

        held = Held(leave)
        self._turns[waiting.request_id] = turn, held
        self._wake_later()
        return held

    def stir(self) -> None:
        """There may be room."""
        if self.flow and not self._stirred:
            self._stirred = True
            asyncio.get_running_loop().call_soon(self._look)

    def saw(self, endpoint: Endpoint) -> None:
        """A runtime has said how it does."""
        self.flow.saturation.saw(endpoint, asyncio.get_running_loop().time())
        self.stir()

    def changed(self, endpoint: Endpoint) -> None:
        """It may be in use or out of use now."""
        self.flow.saturation.changed(endpoint)
        self.stir()

    def freed(self, decision: Decision, ended: Ended | None) -> None:
        self.flow.freed(decision.request_id, ended, decision.queue_wait_s)
        self.stir()

    def _look(self) -> None:
        self._stirred = False
        self._wake_later()  # before anything can fail, so that whoever is left has a turn yet
        now_s = asyncio.get_running_loop().time()
        for waiting, refused in self.flow.expired(now_s):
            turn, held = self._turns.pop(waiting.request_id)
            held.reply(turn.refuse(refused, now_s))
        while (first := self.flow.next(now_s)) is not None:
            self._let_go(first, now_s)

    def _let_go(self, waiting: Waiting, now_s: float) -> None:
        turn, held = self._turns.pop(waiting.request_id)
        answer: Answer | Held = FAILED
        try:
            answer = turn.go(now_s)
        finally:  # a bug in it is the loop's to log; nobody waits for its answer for ever
            self.flow.left(waiting.request_id)  # as it has by now, unless it was refused
            if isinstance(answer, Held):
                held.goes_on_as(answer)
            else:
                held.reply(answer)

    def _wake_later(self) -> None:
        if self.flow and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._look()
