"""What operators are told about keys, and routers because of it, over real mTLS connections."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from evenflow.policy.v1 import key_service_pb2 as pb
from evenflow.policy.v1 import tenant_service_pb2 as tenants_pb
from services.policy.core.audit import Deed
from services.policy.core.keys import hashed
from services.policy.inbound.keys import CALLERS, SERVICE
from tests.fakes.kept_keys import KeptKeys
from tests.fakes.runtime_mesh import Refusal, refusal
from tests.unit.policy.policies import policy
from tests.unit.policy.served import KEY_SECRET, NOW_UNIX_S, serving

OPERATOR = "spiffe://evenflow.local/service/operator"
DAY = Duration(seconds=86_400)


def create(**changes: Any) -> pb.CreateKeyRequest:
    return pb.CreateKeyRequest(**{"tenant": "acme", "workload": "web", "id": "web-2", **changes})


async def sent_keys(call: Any) -> tuple[str, list[tenants_pb.ApiKey]]:
    """The version, and the first tenant's keys but those of the file."""
    said = await call.read()
    return said.version, [each for each in said.tenants[0].api_keys if each.hmac_sha256]


def refused(
    tmp_path: Path, act: Callable[[Any], Awaitable[Any]], store: KeptKeys | None = None
) -> tuple[Refusal, list[Deed]]:
    async def scenario() -> tuple[Refusal, list[Deed]]:
        async with serving(tmp_path, store=store) as served, served.keys() as keys:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await act(keys)
            return refusal(caught.value), served.audit.deeds

    return asyncio.run(scenario())


def test_a_key_is_shown_once_and_sent_hashed(tmp_path: Path) -> None:
    async def scenario() -> tuple[Any, Any, Any]:
        async with (
            serving(tmp_path) as served,
            served.keys() as keys,
            served.watching() as watching,
        ):
            await watching.read()
            made = await keys.CreateKey(create(lifetime=DAY))
            return made, await sent_keys(watching), await keys.ListKeys(pb.ListKeysRequest())

    made, (version, sent), listed = asyncio.run(scenario())

    assert re.fullmatch(r"evf_[A-Za-z0-9_-]{43}", made.secret)
    assert version == "v1.1"
    assert [(each.id, each.workload, each.sha256) for each in sent] == [("web-2", "web", b"")]
    assert sent[0].hmac_sha256 == hashed(KEY_SECRET, made.secret)
    assert sent[0].expires_at.seconds == NOW_UNIX_S + 86_400
    assert made.secret.encode() not in listed.SerializeToString()
    assert [(each.id, each.source) for each in listed.keys] == [
        ("web-1", pb.KEY_SOURCE_FILE),
        ("web-2", pb.KEY_SOURCE_CREATED),
    ]


def test_a_key_without_an_id_gets_one_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        async with serving(tmp_path) as served, served.keys() as keys:
            return [(await keys.CreateKey(create(id=""))).key.id for _ in range(2)]

    one, other = asyncio.run(scenario())

    assert one != other
    assert re.fullmatch(r"web-[0-9a-f]{8}", one)


def test_rotated_with_an_overlap_both_secrets_are_sent(tmp_path: Path) -> None:
    async def scenario() -> tuple[Any, Any, Any]:
        async with (
            serving(tmp_path) as served,
            served.keys() as keys,
            served.watching() as watching,
        ):
            await watching.read()
            first = await keys.CreateKey(create())
            await watching.read()
            second = await keys.RotateKey(
                pb.RotateKeyRequest(tenant="acme", id="web-2", overlap=DAY)
            )
            return first, second, await sent_keys(watching)

    first, second, (version, sent) = asyncio.run(scenario())

    assert version == "v1.2"
    assert {each.hmac_sha256: each.expires_at.seconds for each in sent} == {
        hashed(KEY_SECRET, second.secret): 0,
        hashed(KEY_SECRET, first.secret): NOW_UNIX_S + 86_400,
    }
    assert second.key.former_until.seconds == NOW_UNIX_S + 86_400


def test_rotated_without_an_overlap_the_old_secret_is_gone(tmp_path: Path) -> None:
    async def scenario() -> tuple[Any, Any]:
        async with serving(tmp_path) as served, served.keys() as keys:
            await keys.CreateKey(create())
            rotated = await keys.RotateKey(pb.RotateKeyRequest(tenant="acme", id="web-2"))
            async with served.watching() as watching:
                return rotated, await sent_keys(watching)

    rotated, (_, sent) = asyncio.run(scenario())

    assert [each.hmac_sha256 for each in sent] == [hashed(KEY_SECRET, rotated.secret)]


def test_a_revoked_key_is_gone_and_its_id_is_free(tmp_path: Path) -> None:
    async def scenario() -> tuple[Any, Any]:
        async with serving(tmp_path) as served, served.keys() as keys:
            await keys.CreateKey(create())
            await keys.RevokeKey(pb.RevokeKeyRequest(tenant="acme", id="web-2"))
            async with served.watching() as watching:
                gone = await sent_keys(watching)
            return gone, (await keys.CreateKey(create())).key.id

    assert asyncio.run(scenario()) == (("v1.2", []), "web-2")


def test_keys_of_a_tenant_that_left_the_policy_are_not_sent(tmp_path: Path) -> None:
    async def scenario() -> tuple[Any, Any, Any]:
        async with serving(tmp_path) as served, served.keys() as keys:
            await keys.CreateKey(create())
            served.servicer.publish(policy("v2", "globex"))
            async with served.watching() as watching:
                sent = await sent_keys(watching)
            listed = await keys.ListKeys(pb.ListKeysRequest(tenant="acme"))
            await keys.RevokeKey(pb.RevokeKeyRequest(tenant="acme", id="web-2"))
            return sent, listed, await keys.ListKeys(pb.ListKeysRequest(tenant="acme"))

    sent, listed, after = asyncio.run(scenario())

    assert sent == ("v2.1", [])
    assert [each.state for each in listed.keys] == [pb.KEY_STATE_WITHOUT_TENANT]
    assert not after.keys


def test_the_file_is_told_apart_from_what_routers_are_told(tmp_path: Path) -> None:
    async def scenario() -> str:
        async with serving(tmp_path) as served, served.keys() as keys:
            await keys.CreateKey(create())
            return served.servicer.version

    assert asyncio.run(scenario()) == "v1"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (create(tenant="globex"), "tenant"),
        (create(tenant=""), "tenant"),
        (create(workload="a b"), "workload"),
        (create(id="../x"), "id"),
        (create(lifetime=Duration()), "lifetime"),
        (create(lifetime=Duration(seconds=-1)), "lifetime"),
    ],
    ids=["unknown", "unnamed", "workload", "id", "no time", "past"],
)
def test_a_wrong_field_is_named(tmp_path: Path, request_: pb.CreateKeyRequest, field: str) -> None:
    said, deeds = refused(tmp_path, lambda keys: keys.CreateKey(request_))

    assert (said.reason, said.field) == ("FIELD_INVALID", field)
    assert [each.outcome for each in deeds] == ["FIELD_INVALID"]


@pytest.mark.parametrize("taken", ["web-1", "web-2"], ids=["by the file", "by another"])
def test_an_id_is_taken_once(tmp_path: Path, taken: str) -> None:
    async def act(keys: Any) -> None:
        await keys.CreateKey(create())
        await keys.CreateKey(create(id=taken))

    said, _ = refused(tmp_path, act)

    assert (said.code, said.reason) == (grpc.StatusCode.ALREADY_EXISTS, "KEY_EXISTS")


@pytest.mark.parametrize(("id_", "reason"), [("web-1", "KEY_IN_FILE"), ("web-9", "KEY_NOT_FOUND")])
def test_only_keys_that_policy_has_made_are_changed(tmp_path: Path, id_: str, reason: str) -> None:
    rotate = pb.RotateKeyRequest(tenant="acme", id=id_)
    revoke = pb.RevokeKeyRequest(tenant="acme", id=id_)

    assert refused(tmp_path, lambda keys: keys.RotateKey(rotate))[0].reason == reason
    assert refused(tmp_path, lambda keys: keys.RevokeKey(revoke))[0].reason == reason


def test_each_deed_is_told_and_no_secret(tmp_path: Path) -> None:
    async def scenario() -> tuple[list[str], list[Deed]]:
        async with serving(tmp_path) as served, served.keys() as keys:
            made = await keys.CreateKey(create(lifetime=DAY))
            rotated = await keys.RotateKey(pb.RotateKeyRequest(tenant="acme", id="web-2"))
            await keys.RevokeKey(pb.RevokeKeyRequest(tenant="acme", id="web-2"))
            return [made.secret, rotated.secret], served.audit.deeds

    secrets, deeds = asyncio.run(scenario())

    assert [(each.action, each.outcome) for each in deeds] == [
        ("key.created", "done"),
        ("key.rotated", "done"),
        ("key.revoked", "done"),
    ]
    assert {(each.actor, each.subject, each.tenant) for each in deeds} == {
        (OPERATOR, "acme/web-2", "acme")
    }
    assert not any(secret in str(deeds) for secret in secrets)


def test_what_cannot_be_audited_does_not_happen(tmp_path: Path) -> None:
    async def scenario() -> tuple[str, str, int]:
        store = KeptKeys()
        async with serving(tmp_path, store=store) as served, served.keys() as keys:
            served.audit.is_away = True
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await keys.CreateKey(create())
            said = refusal(caught.value)
            return said.reason, said.code.name, await store.revision()

    assert asyncio.run(scenario()) == ("AUDIT_UNAVAILABLE", "UNAVAILABLE", 0)


def test_without_the_database_nothing_is_acknowledged_and_all_stays_in_force(
    tmp_path: Path,
) -> None:
    async def scenario() -> tuple[list[str], Any, list[str]]:
        store, reasons = KeptKeys(), []
        async with serving(tmp_path, store=store) as served, served.keys() as keys:
            await keys.CreateKey(create())
            store.is_away = True
            for method, asked in (
                (keys.CreateKey, create(id="web-3")),
                (keys.RotateKey, pb.RotateKeyRequest(tenant="acme", id="web-2")),
                (keys.RevokeKey, pb.RevokeKeyRequest(tenant="acme", id="web-2")),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await method(asked)
                reasons.append(refusal(caught.value).reason)
            async with served.watching() as watching:
                sent = await sent_keys(watching)
            return reasons, sent, [each.outcome for each in served.audit.deeds]

    reasons, (version, sent), outcomes = asyncio.run(scenario())

    assert reasons == ["DATABASE_UNREACHABLE"] * 3
    assert (version, [each.id for each in sent]) == ("v1.1", ["web-2"])
    assert outcomes == ["done", *["done", "unknown"] * 3]


def test_keys_are_the_same_after_a_restart(tmp_path: Path) -> None:
    async def scenario() -> tuple[Any, Any]:
        store, seen = KeptKeys(), []
        for start in range(2):
            async with serving(tmp_path / str(start), store=store) as served:
                if not start:
                    async with served.keys() as keys:
                        await keys.CreateKey(create())
                async with served.watching() as watching:
                    seen.append(await sent_keys(watching))
        return seen[0], seen[1]

    before, after = asyncio.run(scenario())

    assert before == after
    assert before[0] == "v1.1"


def test_nobody_but_operators_may_call_it() -> None:
    assert {f"/{SERVICE}/": frozenset({"operator"})} == CALLERS
