"""Slots against an oracle that keeps a list of everything and counts anew each time."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.router.core.inflight import InFlight, Load, Slot

ADDRESSES = ["a:1", "b:1"]
IDS = [f"r{number}" for number in range(3)]  # few, so that they come again
addresses, ids = st.sampled_from(ADDRESSES), st.sampled_from(IDS)


@dataclass
class Admission:
    request_id: str
    slot: Slot
    freed: int = 0
    arm: str | None = None  # where a hedge runs, too


@dataclass
class Oracle:
    admissions: list[Admission] = field(default_factory=list)

    def open(self) -> list[Admission]:
        return [each for each in self.admissions if not each.freed]

    def load(self, address: str) -> Load:
        there = [
            each.slot
            for each in self.open()
            for at in (each.slot.address, each.arm)
            if at == address
        ]
        return Load(sum(each.tokens for each in there), len(there))

    def free(self, which: list[Admission]) -> set[str]:
        for each in which:
            each.freed += 1
        return {each.request_id for each in which}


class AnyInterleaving(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.in_flight = InFlight()
        self.oracle = Oracle()
        self.now_s = 0

    @rule(request_id=ids, address=addresses, tokens=st.integers(0, 3), within_s=st.integers(0, 4))
    def admit(self, request_id: str, address: str, tokens: int, within_s: int) -> None:
        if request_id in self.in_flight:
            return
        slot = Slot(address, tokens, self.now_s + within_s)
        self.in_flight.admit(request_id, slot)
        self.oracle.admissions.append(Admission(request_id, slot))

    @rule(request_id=ids, address=addresses)
    def hedge(self, request_id: str, address: str) -> None:
        which = [each for each in self.oracle.open() if each.request_id == request_id]
        new = [each for each in which if each.arm is None]

        assert self.in_flight.add_arm(request_id, address) == bool(new)
        for each in new:
            each.arm = address

    @rule(request_id=ids)
    def end_once_or_again(self, request_id: str) -> None:
        which = [each for each in self.oracle.open() if each.request_id == request_id]

        assert bool(self.in_flight.end(request_id)) == bool(which)
        self.oracle.free(which)

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds
        due = [each for each in self.oracle.open() if each.slot.expires_at_s <= self.now_s]

        assert set(self.in_flight.expire(self.now_s)) == self.oracle.free(due)

    @precondition(lambda self: self.oracle.open())
    @rule(address=addresses)
    def a_runtime_starts_again(self, address: str) -> None:
        gone = [each for each in self.oracle.open() if each.slot.address == address]

        assert set(self.in_flight.restarted(address)) == self.oracle.free(gone)

    @invariant()
    def counts_are_the_oracles(self) -> None:
        assert {each: self.in_flight.load(each) for each in ADDRESSES} == {
            each: self.oracle.load(each) for each in ADDRESSES
        }
        assert len(self.in_flight) == len(self.oracle.open())

    @invariant()
    def nothing_is_freed_twice(self) -> None:
        assert all(each.freed <= 1 for each in self.oracle.admissions)


TestAnyInterleaving = AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(deadline=None)  # a busy machine is no fault


def test_timers_of_ended_requests_do_not_pile_up() -> None:
    in_flight = InFlight()
    for number in range(5000):
        in_flight.admit(f"r{number}", Slot("a:1", 1, 1e6))
        in_flight.end(f"r{number}")

    assert in_flight.timers() <= 1001


def test_an_id_that_comes_again_keeps_its_new_deadline() -> None:
    in_flight = InFlight()
    in_flight.admit("r1", Slot("a:1", 1, expires_at_s=10.0))
    in_flight.end("r1")
    in_flight.admit("r1", Slot("a:1", 1, expires_at_s=20.0))

    assert in_flight.expire(10.0) == []
    assert in_flight.expire(20.0) == ["r1"]
