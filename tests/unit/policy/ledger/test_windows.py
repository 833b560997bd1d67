"""Windows follow each other without a gap, and begin where the calendar says."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.policy.core.tenants import Window
from services.policy.core.windows import end_unix_s, is_open, start_unix_s

REPLACED: dict[Window, dict[str, Any]] = {
    Window.MINUTE: {"second": 0},
    Window.HOUR: {"second": 0, "minute": 0},
    Window.DAY: {"second": 0, "minute": 0, "hour": 0},
    Window.MONTH: {"second": 0, "minute": 0, "hour": 0, "day": 1},
}
times = st.datetimes(datetime(1970, 2, 1), datetime(2200, 1, 1)) | st.sampled_from(  # noqa: DTZ001 - made UTC below
    [datetime(2024, 2, 29, 23, 59, 59), datetime(2026, 12, 31), datetime(2026, 3, 1)]  # noqa: DTZ001 - likewise
)
windows = st.sampled_from(sorted(REPLACED, key=lambda each: each.value))


@given(windows, times)
def test_a_window_begins_where_the_calendar_says(window: Window, at: datetime) -> None:
    aware = at.replace(tzinfo=UTC)

    began = start_unix_s(window, aware.timestamp())

    assert began == aware.replace(microsecond=0, **REPLACED[window]).timestamp()


@given(windows, times)
def test_windows_follow_each_other_without_a_gap(window: Window, at: datetime) -> None:
    now_unix_s = at.replace(tzinfo=UTC).timestamp()
    began = start_unix_s(window, now_unix_s)
    end = end_unix_s(window, began)

    assert end is not None
    assert began <= now_unix_s < end
    assert start_unix_s(window, end) == end
    assert start_unix_s(window, end - 1) == began


def test_the_total_never_ends() -> None:
    assert start_unix_s(Window.TOTAL, 1e9) == 0
    assert end_unix_s(Window.TOTAL, 0) is None


def test_a_window_is_open_a_little_before_and_after_its_time() -> None:
    hour = 1_000_800

    opened = {
        at
        for at in (-61, -59, 0, 3_599, 3_659, 3_661)
        if is_open(Window.HOUR, hour, hour + at, within_s=60.0)
    }

    assert opened == {-59, 0, 3_599, 3_659}
