"""Says what takes long: a line when a step begins, its seconds when it ends.

Stage 0 imports this too, so it needs nothing but the standard library.
"""

from __future__ import annotations  # see stage0.py

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

TICK_S = 1.0


@contextmanager
def step(what: str) -> Iterator[None]:
    """Prints `what` while the body runs; on a terminal with the seconds it has taken so far."""
    began_s = time.monotonic()
    over = threading.Event()
    live = sys.stdout.isatty()
    print(f"  {what} ...", end="" if live else "\n", flush=True)
    ticker = threading.Thread(target=_tick, args=(what, began_s, over), daemon=True)
    if live:
        ticker.start()
    try:
        yield
    except BaseException:
        over.set()
        print(" failed" if live else f"  {what}: failed", flush=True)
        raise
    over.set()
    if live:
        ticker.join()
    elapsed_s = time.monotonic() - began_s
    print(f"{_start_of_line(live=live)}  {what}: {elapsed_s:.1f} s", flush=True)


def _tick(what: str, began_s: float, over: threading.Event) -> None:
    while not over.wait(TICK_S):
        elapsed_s = time.monotonic() - began_s
        print(f"{_start_of_line(live=True)}  {what} ... {elapsed_s:.0f} s", end="", flush=True)


def _start_of_line(*, live: bool) -> str:
    return "\r\x1b[2K" if live else ""
