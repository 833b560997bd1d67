"""Which window of a budget a time lies in, when it began and when it ends: in UTC, without a clock.

Seconds since 1970 know no leap seconds, so minutes, hours and days are all of one length; months
are not.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from services.policy.core.tenants import Window

TOTAL_START_UNIX_S = 0  # of the window that never ends

_LENGTHS_S: Mapping[Window, int] = {
    Window.MINUTE: 60,
    Window.HOUR: 3_600,
    Window.DAY: 86_400,
}
_LONGEST_MONTH_S = 31 * 86_400


def start_unix_s(window: Window, at_unix_s: float) -> int:
    """Of the window that the time lies in; a start lies in the window that it begins."""
    at = int(at_unix_s // 1)
    if window is Window.TOTAL:
        return TOTAL_START_UNIX_S
    if window is Window.MONTH:
        first = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0)
        return int(first.timestamp())
    return at - at % _LENGTHS_S[window]


def end_unix_s(window: Window, started_unix_s: int) -> int | None:
    """When the next one begins. None: never."""
    if window is Window.TOTAL:
        return None
    if window is Window.MONTH:
        return start_unix_s(window, started_unix_s + _LONGEST_MONTH_S)
    return started_unix_s + _LENGTHS_S[window]


def is_open(window: Window, started_unix_s: int, now_unix_s: float, *, within_s: float) -> bool:
    """Whether it is the present window, by a clock that may differ by `within_s`."""
    around = (now_unix_s - within_s, now_unix_s, now_unix_s + within_s)
    return started_unix_s in {start_unix_s(window, each) for each in around}
