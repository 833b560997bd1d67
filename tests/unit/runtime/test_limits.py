"""How much may be written: never more than fits, never less than asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.core.engine import ContextTooLong, InvalidInput
from services.runtime.core.limits import ContextLimit, OutputLimit, TenantLimits, output_tokens

FREE = TenantLimits(context_tokens=0, output_tokens=0)


def limit(asked: int | None, prompt: int, tenant: TenantLimits = FREE) -> int:
    return output_tokens(asked, prompt_tokens=prompt, max_context_tokens=1000, tenant=tenant)


@pytest.mark.parametrize(
    ("prompt", "tenant", "expected"),
    [
        (100, FREE, 512),
        (900, FREE, 100),
        (100, TenantLimits(context_tokens=0, output_tokens=50), 50),
        (100, TenantLimits(context_tokens=130, output_tokens=50), 30),
    ],
    ids=["usual", "what is left", "tenant's output", "tenant's context"],
)
def test_what_nobody_asked_for_is_cut(prompt: int, tenant: TenantLimits, expected: int) -> None:
    assert limit(None, prompt, tenant) == expected


@pytest.mark.parametrize(
    ("asked", "prompt", "tenant", "error", "field"),
    [
        (1, 1000, FREE, ContextTooLong, "prompt"),
        (901, 100, FREE, ContextTooLong, "max_output_tokens"),
        (None, 80, TenantLimits(80, 0), ContextLimit, "prompt"),
        (21, 80, TenantLimits(100, 0), ContextLimit, "max_output_tokens"),
        (11, 5, TenantLimits(0, 10), OutputLimit, "max_output_tokens"),
    ],
    ids=["prompt", "sum", "tenant's prompt", "tenant's sum", "tenant's output"],
)
def test_what_does_not_fit_is_refused(
    *, asked: int | None, prompt: int, tenant: TenantLimits, error: type[InvalidInput], field: str
) -> None:
    with pytest.raises(error) as refused:
        limit(asked, prompt, tenant)

    assert refused.value.field == field


@given(
    st.none() | st.integers(1, 1200),
    st.integers(1, 1200),
    st.builds(TenantLimits, st.integers(0, 1200), st.integers(0, 1200)),
)
def test_prompt_and_output_always_fit(asked: int | None, prompt: int, tenant: TenantLimits) -> None:
    try:
        most = limit(asked, prompt, tenant)
    except InvalidInput:
        return

    assert most == (asked or most) >= 1
    assert prompt + most <= min(1000, tenant.context_tokens or 1000)
    assert most <= (tenant.output_tokens or most)
