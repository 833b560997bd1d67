"""The audit log over real gRPC: who may write and read, once each, and operators' calls in it."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from evenflow.audit_lines import ENTRY_BEGINS
from evenflow.policy.v1 import audit_service_pb2 as pb
from evenflow.policy.v1.audit_service_pb2_grpc import AuditServiceStub
from services.chassis.environ import address
from services.chassis.identity import TlsFiles, channel
from services.policy.inbound import auditing
from services.policy.inbound.auditing import AuditServicer
from services.policy.main import build_server
from services.policy.outbound.audit_chain import AuditChain
from services.policy.outbound.audit_log import AuditLog
from tests.identities import Identities
from tests.unit.audit.logs import NOW_US, SIGNER, deed, proof

ENTRY = pb.SpooledEntry(
    actor="spiffe://evenflow.local/tenant/acme/web",
    action="request.admitted",
    subject="r1",
    tenant="acme",
    outcome="done",
    policy_version="v7",
    request=pb.AuditedRequest(workload="web", model="small", prompt_tokens=7),
)


@dataclass(frozen=True, slots=True)
class Serving:
    where: str
    log: AuditLog
    identities: Identities

    @asynccontextmanager
    async def calls(self, who: str) -> AsyncIterator[Any]:
        async with channel(self.where, self._tls(who), server="policy") as opened:
            yield AuditServiceStub(opened)

    def _tls(self, who: str) -> TlsFiles:
        return self.identities.tenant(who) if who == "acme" else self.identities.service(who)

    async def append(self, requests: Sequence[pb.AppendRequest], who: str = "router") -> list[int]:
        async with self.calls(who) as stub:
            call = stub.Append(iter(requests), timeout=10)
            return [each.sequence async for each in call]

    async def read(self, who: str = "operator", **wanted: Any) -> list[dict[str, Any]]:
        async with self.calls(who) as stub:
            call = stub.ReadAudit(pb.ReadAuditRequest(**wanted), timeout=10)
            lines = [line async for each in call for line in each.lines]
        return [json.loads(line) for line in lines if line.startswith(ENTRY_BEGINS)]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Serving]:
    identities, clock = Identities(folder), count(NOW_US)
    tls = identities.service("policy")
    chain = AuditChain(folder / "audit", SIGNER, now_unix_us=lambda: next(clock))
    log = AuditLog(chain, now_unix_us=lambda: next(clock), version=lambda: "v7")
    servicer = AuditServicer(log, SIGNER.public_pem, SIGNER.id)
    served = [auditing.served(servicer)]
    server = build_server(served, tls, lambda call: log.note(auditing.called(call)))
    port = server.listen(address("127.0.0.1:0"), tls)
    await server.grpc.start()
    try:
        yield Serving(f"127.0.0.1:{port}", log, identities)
    finally:
        await server.grpc.stop(None)
        await asyncio.to_thread(log.close)


def request(*sequences: int, spool: str = "s1") -> pb.AppendRequest:
    entries = []
    for sequence in sequences:
        entry = pb.SpooledEntry(sequence=sequence)
        entry.MergeFrom(ENTRY)
        entries.append(entry)
    return pb.AppendRequest(spool=spool, entries=entries)


def test_a_routers_entries_are_taken_once_and_proven(tmp_path: Path) -> None:
    async def scenario() -> tuple[list[int], list[dict[str, Any]]]:
        async with serving(tmp_path) as served:
            said = await served.append([request(1, 2), request(3)])
            said += await served.append([request(2, 3, 4)])
            return said, await served.read(action="request.")

    said, entries = asyncio.run(scenario())

    assert said == [2, 3, 4]
    assert [each["source"] for each in entries] == ["s1:1", "s1:2", "s1:3", "s1:4"]
    assert (entries[0]["policy"], entries[0]["tenant"]) == ("v7", "acme")
    assert entries[0]["facts"] == {"workload": "web", "model": "small", "prompt_tokens": "7"}
    assert proof(tmp_path / "audit").last > 4


def test_operators_see_what_they_ask_for(tmp_path: Path) -> None:
    async def scenario() -> Sequence[list[dict[str, Any]]]:
        async with serving(tmp_path) as served:
            await served.log.record(deed(1))
            await served.append([request(*range(1, 10))])
            await served.log.record(deed(2, tenant="globex"))
            return [
                await served.read(tenant="globex"),
                await served.read(action="key.created"),
                await served.read(action="request.admitted", last=2),
                await served.read(from_number=12),
            ]

    found = asyncio.run(scenario())

    assert [[each["number"] for each in one] for one in found[:3]] == [[11], [1, 11], [9, 10]]
    assert found[3][0]["number"] == 12


@pytest.mark.parametrize("who", ["acme", "router", "runtime"])
def test_nobody_else_reads_it_and_that_is_written_down(tmp_path: Path, who: str) -> None:
    async def scenario() -> tuple[grpc.StatusCode, list[dict[str, Any]]]:
        async with serving(tmp_path) as served:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await served.read(who)
            return refused.value.code(), await served.read(action="rpc.called")

    code, entries = asyncio.run(scenario())

    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert entries[0]["outcome"] == "CALLER_NOT_ALLOWED"
    assert entries[0]["subject"].endswith("/ReadAudit")
    assert entries[0]["actor"].endswith("tenant/acme/web" if who == "acme" else f"service/{who}")


@pytest.mark.parametrize("who", ["acme", "operator", "runtime"])
def test_nobody_but_a_router_writes_into_it(tmp_path: Path, who: str) -> None:
    async def scenario() -> grpc.StatusCode:
        async with serving(tmp_path) as served:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await served.append([request(1)], who)
            return refused.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.PERMISSION_DENIED


def test_each_call_of_an_operator_is_in_it(tmp_path: Path) -> None:
    async def scenario() -> list[dict[str, Any]]:
        async with serving(tmp_path) as served:
            async with served.calls("operator") as stub:
                said = await stub.GetAuditKey(pb.GetAuditKeyRequest(), timeout=10)
                assert said.public_key == SIGNER.public_pem
            return await served.read(action="rpc.called")

    (entry,) = asyncio.run(scenario())

    assert entry["actor"] == "spiffe://evenflow.local/service/operator"
    assert (entry["subject"].rpartition("/")[2], entry["outcome"]) == ("GetAuditKey", "done")


@pytest.mark.parametrize(
    "bad",
    [request(1, spool=""), request(1, spool="../s"), request(2, 1), request(0)],
    ids=["no spool", "no spool's name", "out of order", "not numbered"],
)
def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path, bad: pb.AppendRequest) -> None:
    async def scenario() -> grpc.StatusCode:
        async with serving(tmp_path) as served:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await served.append([bad])
            return refused.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.INVALID_ARGUMENT
