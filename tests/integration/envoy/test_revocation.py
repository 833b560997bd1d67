"""Whom Envoy refuses by the list of revoked certificates, and when it takes the list."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from evenflow.certificates import Authority, issue, make_authority, read_authority, revoke
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.revocations import pem_of, signed_list
from services.chassis.identity import TlsFiles, channel
from tests.fakes.scripted_runtime import delta, in_two_parts
from tests.integration.envoy.gateway import Gateway, running_gateway, trusting

pytestmark = pytest.mark.integration

ASK = pb.GenerateRequest(model="m", text="hi")
UPDATED = r"listener\..*\.server_ssl_socket_factory\.ssl_context_update_by_sds"
WEB = "spiffe://evenflow.local/tenant/acme/web"


async def answers(_: Any) -> AsyncIterator[Any]:
    yield delta("a")


async def told(gateway: Gateway, lists: bytes | None, **tls: bytes) -> None:
    """Returns when Envoy has them."""
    changed = replace(gateway.snapshot.tls, revocations=lists, **tls)
    await gateway.publish(replace(gateway.snapshot, tls=changed), statistic=UPDATED)


async def accepted(gateway: Gateway, caller: TlsFiles) -> bool:
    """On a new connection."""
    mesh = str(gateway.snapshot.data_plane.mesh)
    async with channel(mesh, caller, server="gateway") as calls:
        call: Any = InferenceServiceStub(calls).Generate(ASK, timeout=5)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - any other fails
            return False
    return True


def authority_of(tmp_path: Path) -> Path:
    """Where the gateway's own authority is."""
    return tmp_path / "certs" / "ca"


def revoking(caller: TlsFiles, authority: Path) -> Authority:
    certificate = x509.load_pem_x509_certificate(caller.certificate.read_bytes())
    return revoke(certificate, authority)


def test_a_revoked_certificate_opens_no_connection_and_others_do(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(in_two_parts(go_on))
            bad, good = gateway.identities.tenant("acme"), gateway.identities.tenant("globex")
            mesh = str(gateway.snapshot.data_plane.mesh)
            async with channel(mesh, bad, server="gateway") as before:
                stub: Any = InferenceServiceStub(before)
                open_stream = stub.Generate(ASK)
                await open_stream.read()

                await told(gateway, revoking(bad, authority_of(tmp_path)).revoked_pem)

                assert not await accepted(gateway, bad)
                assert await accepted(gateway, good)
                go_on.set()
                assert (await open_stream.read()).delta.text == "b"
                # No handshake, no list: here it is Check that refuses, and this one lets all go.
                await stub.Generate(ASK, timeout=5).read()
            assert gateway.discovery.refusals == 0

    asyncio.run(run())


def test_a_session_of_before_is_no_way_round_the_list(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            bad = gateway.identities.tenant("acme")
            mesh = gateway.snapshot.data_plane.mesh
            context = trusting(bad)
            context.maximum_version = ssl.TLSVersion.TLSv1_2  # it says at once what is taken up
            session = await asyncio.to_thread(_session, mesh.host, mesh.port, context, None)
            assert await asyncio.to_thread(_session, mesh.host, mesh.port, context, session)

            await told(gateway, revoking(bad, authority_of(tmp_path)).revoked_pem)

            with pytest.raises(ssl.SSLError, match=r"(?i)revoked"):
                await asyncio.to_thread(_session, mesh.host, mesh.port, context, session)

    asyncio.run(run())


def _session(
    host: str, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> ssl.SSLSession | None:
    """What a connection leaves for the next; with a session: None unless it was taken up."""
    import socket  # noqa: PLC0415

    with (
        socket.create_connection((host, port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host, session=session) as wrapped,
    ):
        return wrapped.session if session is None or wrapped.session_reused else None


def test_a_revoked_runtime_is_sent_nothing_over_new_connections(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            runtime = TlsFiles.in_folder(tmp_path / "certs" / "service" / "runtime")
            await told(gateway, revoking(runtime, authority_of(tmp_path)).revoked_pem)

            assert not await accepted(gateway, gateway.identities.tenant("globex"))
            assert not any(each.calls for each in gateway.runtimes)

    asyncio.run(run())


def test_two_authorities_of_one_name_have_a_list_each(tmp_path: Path) -> None:
    async def run() -> list[bool]:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            old, new = read_authority(authority_of(tmp_path)), make_authority(tmp_path / "new")
            both = replace(old, also=(new,))
            callers = []
            for issuer, name in ((old, "a"), (old, "b"), (new, "c"), (new, "d")):
                issue(replace(issuer, also=(old, new)), WEB, (), tmp_path / name)
                callers.append(TlsFiles.in_folder(tmp_path / name))
            old = revoking(callers[0], authority_of(tmp_path))
            new = revoking(callers[2], tmp_path / "new")
            both = replace(old, also=(new,))
            await told(gateway, both.revoked_pem, authorities=both.pem)
            return [await accepted(gateway, each) for each in callers]

    assert asyncio.run(run()) == [False, True, False, True]


@pytest.mark.parametrize("wrong", ["it has ended", "it is another authority's"])
def test_a_list_that_does_not_fit_refuses_everybody(tmp_path: Path, wrong: str) -> None:
    async def run() -> list[bool]:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            caller = gateway.identities.tenant("globex")
            ours = read_authority(authority_of(tmp_path))
            yesterday = datetime.now(UTC) - timedelta(days=1)
            lists = {
                "it has ended": signed_list(ours.certificate, ours.key, ends_at=yesterday),
                "it is another authority's": make_authority(tmp_path / "other").revoked,
            }
            await told(gateway, pem_of([lists[wrong]]))
            refused = await accepted(gateway, caller)
            await told(gateway, None)
            return [refused, await accepted(gateway, caller)]

    assert asyncio.run(run()) == [False, True]
