"""What is told to the log is durable when it says so, or said to be missing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from evenflow.audit_verifying import SEGMENTS
from services.policy.core.audit import AuditUnavailable
from services.policy.core.verdicts import RecordedDecision
from services.policy.inbound.auditing import spooled_of
from services.policy.outbound.audit_chain import AuditChain
from services.policy.outbound.audit_decisions import AuditedDecisions
from services.policy.outbound.audit_log import AuditLog
from tests.unit.audit.logs import NOW_US, SIGNER, deed, proof
from tests.unit.audit.test_chain import no_file_larger_than
from tests.unit.audit.test_servicer import request


@asynccontextmanager
async def log_in(folder: Path) -> AsyncIterator[AuditLog]:
    clock = count(NOW_US)
    chain = AuditChain(folder, SIGNER, now_unix_us=lambda: next(clock))
    log = AuditLog(chain, now_unix_us=lambda: next(clock), version=lambda: "v7")
    try:
        yield log
    finally:
        await asyncio.to_thread(log.close)


def text(folder: Path) -> str:
    return next(folder.glob(SEGMENTS)).read_text()


def test_all_that_many_tell_at_once_is_in_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with log_in(tmp_path) as log, asyncio.TaskGroup() as tasks:
            for number in range(200):
                tasks.create_task(log.record(deed(number)))

    asyncio.run(scenario())

    assert proof(tmp_path).last == 200
    assert all(f'"at":"{number}"' in text(tmp_path) for number in range(200))


def test_who_leaves_meanwhile_has_told_it_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with log_in(tmp_path) as log:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await log.record(deed(1))

    asyncio.run(scenario())

    assert proof(tmp_path).last == 1


def test_what_can_not_be_written_is_refused_and_noted_as_missing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with log_in(tmp_path) as log:
            await log.record(deed(1))
            with no_file_larger_than(1):
                log.note(deed(2))
                log.note(deed(3))
                with pytest.raises(AuditUnavailable):
                    await log.record(deed(4))
            await log.record(deed(5))

    asyncio.run(scenario())

    assert '"action":"audit.gap"' in text(tmp_path)
    assert '"facts":{"missing":"2"}' in text(tmp_path)
    assert proof(tmp_path).last == 3


def test_decisions_are_read_from_a_time_on(tmp_path: Path) -> None:
    async def scenario() -> list[RecordedDecision]:
        async with log_in(tmp_path) as log:
            await log.record(deed(1))
            told = request(1, 2, 3)
            for at, each in enumerate(told.entries):
                each.at.FromMicroseconds(NOW_US + 5_000_000 * at)
            told.entries[2].actor, told.entries[2].outcome = "key:acme/web-1", "OUTPUT_LIMIT"
            await log.append(spooled_of(told))
            return list(AuditedDecisions(log).since(NOW_US / 1e6 + 1))

    by_certificate, by_key = asyncio.run(scenario())

    assert by_certificate == RecordedDecision(
        request_id="r1",
        unix_s=NOW_US / 1e6 + 5,
        spiffe_id="spiffe://evenflow.local/tenant/acme/web",
        tenant="acme",
        workload="web",
        model="small",
        prompt_tokens=7,
        exact=True,
    )
    assert (by_key.key_id, by_key.spiffe_id, by_key.outcome) == ("web-1", "", "OUTPUT_LIMIT")
