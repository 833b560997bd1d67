"""The last line of a benchmark: one JSON object that says what, where and against what."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Goal:
    """One of the two is set."""

    figure: str
    at_most: float | None = None
    at_least: float | None = None

    def met(self, value: float) -> bool:
        if self.at_most is not None:
            return value <= self.at_most
        assert self.at_least is not None, "one of the two is set"
        return value >= self.at_least

    def said(self, value: float) -> str:
        what = f"at least {self.at_least}" if self.at_most is None else f"at most {self.at_most}"
        return f"{self.figure}: {value:.2f}, {what}: {'met' if self.met(value) else 'NOT MET'}"

    def written(self) -> dict[str, str | float]:
        limits = {"at_most": self.at_most, "at_least": self.at_least}
        return {"figure": self.figure, **{k: v for k, v in limits.items() if v is not None}}


def line(
    benchmark: str,
    *,
    figures: Mapping[str, float],
    baseline: Mapping[str, float],
    goals: Sequence[Goal],
) -> str:
    return json.dumps(
        {
            "benchmark": benchmark,
            "figures": _rounded(figures),
            "baseline": _rounded(baseline),
            "goals": [each.written() for each in goals],
            "machine": machine(),
            "commit": _git("rev-parse", "--short", "HEAD") + _git("diff", "HEAD", "--shortstat"),
            "command": f"make bench NAME={benchmark}",
        }
    )


def machine() -> str:
    cpus = Path("/proc/cpuinfo").read_text()
    model = next(
        (row.partition(":")[2].strip() for row in cpus.splitlines() if "model name" in row),
        platform.machine(),
    )
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


def _git(*words: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own words
        ["git", *words],  # noqa: S607 - whichever git the machine has
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.rstrip("\n")
