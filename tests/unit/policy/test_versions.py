"""Back to an earlier policy and forth again, over real mTLS connections."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from evenflow.policy.v1 import version_service_pb2 as pb
from evenflow.policy.v1.version_service_pb2_grpc import VersionServiceStub
from services.policy.core.audit import AuditUnavailable, Deed
from services.policy.outbound.database import Database, DatabaseUnreachable
from tests.unit.policy.policies import ACME, GLOBEX
from tests.unit.policy.served import Served, read, reason_of, serving

FIRST, SECOND, THIRD = ACME, ACME + GLOBEX, ACME.replace("512", "256")
V1, V2, V3 = (read(each.encode()).version for each in (FIRST, SECOND, THIRD))
OPERATOR = "spiffe://evenflow.local/service/operator"


class Heard:
    """An audit log in memory."""

    def __init__(self) -> None:
        self.deeds: list[Deed] = []
        self.unavailable = False

    async def record(self, deed: Deed) -> None:
        if self.unavailable:
            raise AuditUnavailable("full")
        self.deeds.append(deed)


class Away(Database):
    """A database that can be out of reach."""

    away = False

    async def run(self, work: Callable[..., Any]) -> Any:
        if self.away:
            raise DatabaseUnreachable("the database does not answer")
        return await super().run(work)


def database_in(folder: Path) -> Away:
    made = Away(f"sqlite:///{folder}/policy.db")
    made.migrate()
    return made


class Operator:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = VersionServiceStub(channel)

    async def listed(self) -> pb.ListVersionsResponse:
        told: pb.ListVersionsResponse = await self._stub.ListVersions(
            pb.ListVersionsRequest(), timeout=10
        )
        return told

    async def recorded(self, *versions: str) -> pb.ListVersionsResponse:
        """Once these were in force, the latest first."""
        async with asyncio.timeout(10):
            while True:
                told = await self.listed()
                if [each.version for each in told.versions] == list(versions):
                    return told
                await asyncio.sleep(0.01)

    async def roll_back(self, version: str) -> pb.RollBackResponse:
        told: pb.RollBackResponse = await self._stub.RollBack(
            pb.RollBackRequest(version=version), timeout=10
        )
        return told

    async def follow(self) -> str:
        told = await self._stub.ReleasePin(pb.ReleasePinRequest(), timeout=10)
        return str(told.version)

    async def content(self, version: str) -> bytes:
        parts = self._stub.GetVersion(pb.GetVersionRequest(version=version), timeout=10)
        return b"".join([part.content async for part in parts])

    async def refused(self, version: str) -> str:
        """The reason."""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.roll_back(version)
        return reason_of(refused.value)


async def changed(served: Served, operator: Operator) -> None:
    """The file said FIRST and says SECOND."""
    served.file_says(SECOND)
    await operator.recorded(V2, V1)


def test_what_was_in_force_is_listed_and_shown(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, FIRST) as served, served.calls() as calls:
            operator = Operator(calls)
            await changed(served, operator)
            told = await operator.listed()
            latest = told.versions[0]
            assert (told.in_force, told.file, told.HasField("pin")) == (V2, V2, False)
            assert (latest.cause, latest.actor) == (pb.POLICY_CAUSE_FILE, "policy")
            assert (latest.tenants, latest.content_bytes) == (2, len(SECOND))
            assert await operator.content(V1[:8]) == FIRST.encode()

    asyncio.run(scenario())


def test_an_earlier_version_comes_into_force_and_is_pinned(tmp_path: Path) -> None:
    heard = Heard()

    async def scenario() -> None:
        async with serving(tmp_path, FIRST, audit=heard) as served, served.calls() as calls:
            operator = Operator(calls)
            await changed(served, operator)
            said = await operator.roll_back(V1)
            told = await operator.listed()
            assert (said.version, said.before) == (V1, V2)
            assert served.servicer.version == V1
            assert (told.in_force, told.file) == (V1, V2)
            assert (told.pin.version, told.pin.file_version, told.pin.actor) == (V1, V2, OPERATOR)
            assert told.versions[0].cause == pb.POLICY_CAUSE_ROLL_BACK

    asyncio.run(scenario())
    deed = heard.deeds[-1]
    assert (deed.actor, deed.action, deed.subject) == (OPERATOR, "policy.rolled_back", V1)


def test_a_pin_outlives_a_restart(tmp_path: Path) -> None:
    async def scenario() -> str:
        database = database_in(tmp_path)
        async with serving(tmp_path, FIRST, database=database) as served, served.calls() as calls:
            operator = Operator(calls)
            await changed(served, operator)
            await operator.roll_back(V1)
        async with serving(tmp_path, SECOND, database=database) as served:
            return served.servicer.version

    assert asyncio.run(scenario()) == V1


def test_a_pin_ends_when_the_file_was_changed_while_policy_was_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = database_in(tmp_path)
        async with serving(tmp_path, FIRST, database=database) as served, served.calls() as calls:
            operator = Operator(calls)
            await changed(served, operator)
            await operator.roll_back(V1)
        async with serving(tmp_path, THIRD, database=database) as served, served.calls() as calls:
            told = await Operator(calls).recorded(V3, V1, V2, V1)
            assert served.servicer.version == V3
            assert not told.HasField("pin")
        async with serving(tmp_path, SECOND, database=database) as served:
            assert served.servicer.version == V2  # not pinned again by the file of that time

    asyncio.run(scenario())


def test_a_pin_ends_when_the_file_says_something_else_and_not_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, FIRST) as served, served.calls() as calls:
            operator = Operator(calls)
            await changed(served, operator)
            await operator.roll_back(V1)
            served.file_says(SECOND)
            assert served.servicer.version == V1
            served.file_says(THIRD)
            assert served.servicer.version == V3
            assert not (await operator.recorded(V3, V1, V2, V1)).HasField("pin")

    asyncio.run(scenario())


def test_a_pin_ends_at_an_operators_word(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, FIRST) as served, served.calls() as calls:
            operator = Operator(calls)
            await changed(served, operator)
            await operator.roll_back(V1)
            assert await operator.follow() == V2
            assert await operator.follow() == V2  # again changes nothing
            told = await operator.listed()
            assert served.servicer.version == V2
            assert (len(told.versions), told.versions[0].cause) == (4, pb.POLICY_CAUSE_FOLLOW)

    asyncio.run(scenario())


def test_back_to_what_the_file_says_pins_nothing(tmp_path: Path) -> None:
    async def scenario() -> bool:
        async with serving(tmp_path, FIRST) as served, served.calls() as calls:
            operator = Operator(calls)
            await changed(served, operator)
            await operator.roll_back(V1)
            assert (await operator.roll_back(V2)).version == V2
            return (await operator.listed()).HasField("pin")

    assert asyncio.run(scenario()) is False


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    async def scenario() -> str:
        async with serving(tmp_path, FIRST) as served, served.calls() as calls:
            return await Operator(calls).refused(V3)

    assert asyncio.run(scenario()) == "POLICY_VERSION_NOT_FOUND"


def test_a_version_that_can_not_be_used_any_more_is_refused(tmp_path: Path) -> None:
    async def scenario() -> str:
        async with serving(tmp_path, FIRST) as served, served.calls() as calls:
            operator = Operator(calls)
            in_force = served.parts.policies.in_force
            in_force.took(read(SECOND.encode()), b"tenants: half a file")
            served.file_says(THIRD)
            await operator.recorded(V3, V2, V1)
            reason = await operator.refused(V2)
            assert served.servicer.version == V3
            return reason

    assert asyncio.run(scenario()) == "POLICY_INVALID"


def test_without_its_database_the_file_is_served_and_recorded_later(tmp_path: Path) -> None:
    async def scenario() -> str:
        database = database_in(tmp_path)
        async with serving(tmp_path, FIRST, database=database) as served, served.calls() as calls:
            operator = Operator(calls)
            await operator.recorded(V1)
            database.away = True
            served.file_says(SECOND)
            assert served.servicer.version == V2
            reason = await operator.refused(V1)
            database.away = False
            await operator.recorded(V2, V1)
            return reason

    assert asyncio.run(scenario()) == "DATABASE_UNREACHABLE"


def test_a_roll_back_comes_after_what_was_not_written_down_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = database_in(tmp_path)
        async with serving(tmp_path, FIRST, database=database) as served, served.calls() as calls:
            operator = Operator(calls)
            await operator.recorded(V1)
            database.away = True
            served.file_says(SECOND)
            assert await operator.refused(V1) == "DATABASE_UNREACHABLE"
            database.away = False
            await operator.roll_back(V1)
            await operator.recorded(V1, V2, V1)
        async with serving(tmp_path, SECOND, database=database) as served:
            assert served.servicer.version == V1  # its pin was kept

    asyncio.run(scenario())


def test_what_can_not_be_audited_does_not_happen(tmp_path: Path) -> None:
    heard = Heard()

    async def scenario() -> tuple[str, str]:
        async with serving(tmp_path, FIRST, audit=heard) as served, served.calls() as calls:
            operator = Operator(calls)
            await changed(served, operator)
            heard.unavailable = True
            return await operator.refused(V1), served.servicer.version

    assert asyncio.run(scenario()) == ("AUDIT_UNAVAILABLE", V2)


def test_a_change_of_the_file_is_audited(tmp_path: Path) -> None:
    heard = Heard()

    async def scenario() -> None:
        async with serving(tmp_path, FIRST, audit=heard) as served, served.calls() as calls:
            await changed(served, Operator(calls))
            async with asyncio.timeout(10):
                while len(heard.deeds) < 2:  # noqa: ASYNC110 - a list tells nobody
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())
    assert [(each.action, each.subject) for each in heard.deeds] == [
        ("policy.changed", V1),
        ("policy.changed", V2),
    ]


@pytest.mark.parametrize("caller", ["router", "runtime", "telemetry"])
def test_nobody_but_an_operator_may_roll_back(caller: str, tmp_path: Path) -> None:
    async def scenario() -> str:
        async with serving(tmp_path, FIRST) as served, served.calls(caller) as calls:
            return await Operator(calls).refused(V1)

    assert asyncio.run(scenario()) == "CALLER_NOT_ALLOWED"
