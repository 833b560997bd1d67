"""Nothing decides by the wall clock, which jumps: who reads it is listed here, with the reason."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WALL_CLOCK = frozenset(
    {
        *(f"time.{name}" for name in ("time", "time_ns", "ctime", "localtime", "gmtime")),
        *("time.strftime", "time.asctime", "time.clock_gettime", "time.clock_gettime_ns"),
        *("datetime.now", "datetime.utcnow", "datetime.today", "date.today"),
        *("structlog.processors.TimeStamper", "processors.TimeStamper"),
    }
)
METHODS = frozenset({"GetCurrentTime", "st_mtime", "st_mtime_ns", "time_remaining"})
ALLOWED = {
    ("services/chassis/logs.py", "structlog.processors.TimeStamper"): "when a line was written",
    ("services/chassis/deadline.py", "time_remaining"): "gRPC's, once, when the call comes in",
    ("services/chassis/identity.py", "st_mtime_ns"): "whether a file is another, not when it was",
    ("services/chassis/revocation.py", "st_mtime_ns"): "likewise",
    ("services/runtime/inbound/state.py", "time_remaining"): "gRPC's, once, when the call comes in",
    ("services/policy/outbound/policy_file.py", "st_mtime_ns"): "likewise",
    ("services/policy/outbound/audit_chain.py", "st_mtime_ns"): "how old a segment is, in days",
    ("services/policy/parts.py", "time.time_ns"): "when a thing was done, in the audit log",
    ("services/router/main.py", "time.time_ns"): "likewise",
    (
        "services/policy/parts.py",
        "time.time",
    ): "windows of budgets, the ledger's ages, since when a version is",
    ("services/runtime/main.py", "datetime.now"): "`created` of an answer, ends of attempts",
    ("services/router/parts.py", "datetime.now"): "`created` of a model",
    ("services/router/following.py", "datetime.now"): "a key's end is wall time",
    ("client/evenflow/certificates.py", "datetime.now"): "a certificate's validity is wall time",
    ("client/evenflow/revocations.py", "datetime.now"): "likewise",
    ("client/evenflow/cli/certs.py", "datetime.now"): "likewise",
}


def used(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            whole = ast.unparse(node).removeprefix("datetime.datetime.").removeprefix("dt.")
            if whole in WALL_CLOCK or ast.unparse(node).endswith(("datetime.now", "date.today")):
                yield whole
            elif node.attr in METHODS:
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{each.name}" for each in node.names)


def test_only_those_who_may_read_the_wall_clock() -> None:
    found = Counter(
        (str(file.relative_to(ROOT)), name)
        for folder in ("services", "client/evenflow", "deploy")
        for file in (ROOT / folder).rglob("*.py")
        if "v1" not in file.parts
        for name in used(file.read_text())
    )

    assert set(found) == set(ALLOWED)


@pytest.mark.parametrize(
    "source",
    [
        "time.time()",
        "clock = time.time",
        "datetime.now(UTC)",
        "datetime.datetime.now()",
        "from time import time",
        "stamp.GetCurrentTime()",
    ],
)
def test_each_way_to_read_it_is_found(source: str) -> None:
    assert [*used(source)]
