"""The headers that say what is set aside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.engine import InvalidInput
from services.runtime.core.reservations import Account
from services.runtime.inbound.reserved import reservation

ONE = "acme/tokens@1700000000=4096:1:0:2:1"
names = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
accounts = st.builds(
    Account,
    st.builds("{}/{}".format, names, names),
    st.integers(0, 2**40),
    *[st.integers(0, 10**16)] * 4,
    st.booleans(),
)


def written(each: Account) -> str:
    numbers = (each.reserved, each.prompt_rate, each.cached_prompt_rate, each.output_rate)
    units = ":".join(map(str, (*numbers, int(each.hard))))
    return f"{each.budget}@{each.window_start_unix_s}={units}"


@given(
    st.lists(
        accounts, min_size=1, max_size=4, unique_by=lambda a: (a.budget, a.window_start_unix_s)
    )
)
def test_what_is_written_is_read(told: list[Account]) -> None:
    said = {"reservation": "router-a.17/3", "charges": ",".join(map(written, told))}

    read = reservation(said)

    assert read is not None
    assert (read.name, read.covered, [*read.accounts]) == ("router-a.17", 3, told)


def test_without_them_no_budget_counts_the_request() -> None:
    assert reservation({"tenant": "acme"}) is None


@pytest.mark.parametrize(
    ("named", "charges", "field"),
    [
        ("", ONE, "x-evenflow-reservation"),
        ("router.1", ONE, "x-evenflow-reservation"),
        ("router/1", ONE, "x-evenflow-reservation"),
        ("router.1/-1", ONE, "x-evenflow-reservation"),
        ("router.1/1", "", "x-evenflow-charges"),
        ("router.1/1", f"{ONE},", "x-evenflow-charges"),
        ("router.1/1", f"{ONE},{ONE}", "x-evenflow-charges"),
        ("router.1/1", ONE.replace("=4096", "=-1"), "x-evenflow-charges"),
        ("router.1/1", ONE.replace("=4096", f"={10**16 + 1}"), "x-evenflow-charges"),
        ("router.1/1", ONE.replace(":1", ":2"), "x-evenflow-charges"),
        ("router.1/1", ONE.replace("acme", "a" * 200), "x-evenflow-charges"),
        ("router.1/1", ONE.replace("acme/", ""), "x-evenflow-charges"),
        ("router.1/1", ONE + "\u0661", "x-evenflow-charges"),
        ("router.1/1", ",".join(f"a/{at}@0=1:1:1:1:1" for at in range(66)), "x-evenflow-charges"),
    ],
)
def test_a_malformed_header_is_named(named: str, charges: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        reservation({"reservation": named, "charges": charges})

    assert caught.value.field == field


@given(st.text(max_size=40), st.text(max_size=40))
def test_nothing_else_than_a_refusal_comes_of_any_text(named: str, charges: str) -> None:
    try:
        reservation({"reservation": named, "charges": charges})
    except InvalidInput as error:
        assert error.field.startswith("x-evenflow-")  # noqa: PT017 - it need not be raised
