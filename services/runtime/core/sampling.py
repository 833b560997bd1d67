"""Sampling values that are valid because they exist: each is checked by the field that names it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

MAX_STOPS = 8
MAX_STOP_BYTES = 256
MAX_LOGPROBS = 20  # as OpenAI's API
MAX_TEMPERATURE = 2.0
MAX_SCHEMA_BYTES = 65536
MAX_SEED = 2**63 - 1


class InvalidSampling(ValueError):
    """A sampling value makes no sense; `field` is its name below `sampling`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose tokens. Raises InvalidSampling naming the first field that is wrong."""

    temperature: float = 1.0  # 0: the likeliest token
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # alternatives per token
    json_schema: str | None = None  # "{}" asks for any JSON object
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            _refuse("temperature", f"must be from 0 to {MAX_TEMPERATURE:g}", self.temperature)
        if not 0.0 < self.top_p <= 1.0:
            _refuse("top_p", "must be above 0 and at most 1", self.top_p)
        if self.top_k < 0:
            _refuse("top_k", "must be at least 0", self.top_k)
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            _refuse("seed", "must be at least 0", self.seed)
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            _refuse("logprobs", f"must be from 0 to {MAX_LOGPROBS}", self.logprobs)
        _check_stop(self.stop)
        if self.json_schema is not None:
            _check_schema(self.json_schema)


def _check_stop(stop: Sequence[str]) -> None:
    if len(stop) > MAX_STOPS:
        _refuse("stop", f"must have at most {MAX_STOPS} strings", len(stop))
    for text in stop:
        size_bytes = len(text.encode())
        if not 0 < size_bytes <= MAX_STOP_BYTES:
            _refuse("stop", f"each must have 1 to {MAX_STOP_BYTES} bytes", size_bytes)


def _check_schema(text: str) -> None:
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        _refuse("json_schema", f"must have at most {MAX_SCHEMA_BYTES} bytes", len(text.encode()))
    try:
        schema = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        json.dumps(schema, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise InvalidSampling("json_schema", f"must be JSON: {str(error)[:200]}") from error
    if not isinstance(schema, dict):
        _refuse("json_schema", "must be a JSON object", type(schema).__name__)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is no number that a computer holds")
    return number


def _refuse(field: str, expected: str, got: object) -> None:
    shown = "NaN" if isinstance(got, float) and math.isnan(got) else got
    raise InvalidSampling(field, f"{expected}, got {shown}")
