"""Durations as people write them: 90d, 24h, 30m, 45s."""

import re

import typer
from google.protobuf.duration_pb2 import Duration

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")


def duration(text: str) -> Duration:
    """Raises typer.BadParameter."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"must be like 90d, 24h, 30m or 45s, got {text!r}")
    return Duration(seconds=int(match[1]) * _SECONDS[match[2]])
