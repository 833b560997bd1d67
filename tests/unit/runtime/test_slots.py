"""Slots: who waits, who goes, and whose prefix a slot may reuse."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.engine import Job
from services.runtime.core.sampling import Sampling
from services.runtime.core.slots import Slots


def job(
    name: str = "job", *, salt: str = "a", prompt: Sequence[int] = (1,), priority: int = 0
) -> Job:
    return Job(name, prompt, 1, Sampling(), priority, salt)


def order(slots: Slots) -> list[str]:
    names = []
    while (assignment := slots.assign()) is not None:
        names.append(assignment.job.request_id)
        slots.free(assignment.slot)
    return names


def test_the_lower_priority_number_goes_first_and_then_who_came_first() -> None:
    slots = Slots(1)
    for name, priority in (("batch 1", 10), ("chat 1", 0), ("batch 2", 10), ("chat 2", 0)):
        slots.queue(job(name, priority=priority))

    assert order(slots) == ["chat 1", "chat 2", "batch 1", "batch 2"]


def test_no_job_goes_without_a_free_slot() -> None:
    slots = Slots(1)
    slots.queue(job("first"))
    slots.queue(job("second"))

    assert slots.assign() is not None
    assert slots.assign() is None
    assert slots.waiting == 1


def test_a_withdrawn_job_is_never_assigned() -> None:
    slots = Slots(1)
    gone = job("gone")
    slots.queue(gone)
    slots.withdraw(gone)

    assert slots.assign() is None


def test_a_job_goes_where_most_of_its_prompt_is() -> None:
    slots = Slots(3)
    for prompt in ([1, 2], [1, 2, 3, 4], [7]):
        slots.queue(job(prompt=prompt))
    held = [slots.assign() for _ in range(3)]
    for assignment in held:
        assert assignment is not None
        slots.free(assignment.slot)

    slots.queue(job(prompt=[1, 2, 3, 9]))
    chosen = slots.assign()

    assert chosen is not None
    assert held[1] is not None
    assert (chosen.slot, chosen.may_reuse) == (held[1].slot, True)


def test_without_a_prefix_the_slot_that_was_free_longest_is_taken() -> None:
    slots = Slots(2)
    slots.queue(job(prompt=[1]))
    first = slots.assign()
    assert first is not None
    slots.free(first.slot)

    slots.queue(job(prompt=[2]))
    second = slots.assign()

    assert second is not None
    assert second.slot != first.slot


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.booleans()), max_size=30))
def test_nothing_is_ever_reused_across_salts(steps: list[tuple[str, bool]]) -> None:
    slots = Slots(2)
    holds: dict[int, str] = {}
    busy: list[int] = []
    for salt, frees in steps:
        if frees and busy:
            slots.free(busy.pop())
        slots.queue(job(salt=salt, prompt=[1, 2, 3]))
        assignment = slots.assign()
        if assignment is not None:
            assert assignment.may_reuse == (holds.get(assignment.slot) == assignment.job.cache_salt)
            holds[assignment.slot] = assignment.job.cache_salt
            busy.append(assignment.slot)
