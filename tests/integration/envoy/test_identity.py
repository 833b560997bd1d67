"""Who may connect to whom, and that certificates rotate under open streams."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509

from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from services.chassis.identity import TlsFiles, channel
from services.router.core.snapshot import HostPort
from tests.fakes.envoy_router import let_go
from tests.fakes.scripted_runtime import ScriptedRuntime, delta, in_two_parts
from tests.identities import Identities
from tests.integration.envoy.gateway import (
    CHAT,
    Gateway,
    material,
    running_gateway,
    serving,
    trusting,
)

pytestmark = pytest.mark.integration

ASK = pb.GenerateRequest(model="m", text="hi")


async def answers(_: Any) -> AsyncIterator[Any]:
    yield delta("a")


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def of_another_authority(gateway: Gateway, folder: Path) -> TlsFiles:
    """Trusts the gateway, is not trusted by it."""
    stranger = Identities(folder / "elsewhere").tenant("acme")
    return replace(stranger, authorities=gateway.identities.tenant("acme").authorities)


def test_the_mesh_listener_wants_a_certificate_of_the_mesh(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(answers)
            mesh = str(gateway.snapshot.data_plane.mesh)
            stranger = channel(mesh, of_another_authority(gateway, tmp_path), server="gateway")
            authorities = gateway.identities.tenant("acme").authorities.read_bytes()
            nobody = grpc.aio.secure_channel(mesh, grpc.ssl_channel_credentials(authorities))
            plain = grpc.aio.insecure_channel(mesh)
            for refused in (stranger, nobody, plain):
                async with refused:
                    code = await code_of(InferenceServiceStub(refused).Generate(ASK, timeout=5))
                    assert code is grpc.StatusCode.UNAVAILABLE
            assert await code_of(gateway.stub.Generate(ASK)) is grpc.StatusCode.OK
            assert len(gateway.check.asked) == 1

    asyncio.run(run())


def test_only_a_runtime_is_sent_requests(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            impostor = ScriptedRuntime(answers)
            tls = gateway.identities.service("policy")  # a certificate of the mesh, of another
            async with serving(impostor, tls) as (_, port):
                await gateway.publish(
                    replace(gateway.snapshot, endpoints=(HostPort("127.0.0.1", port),)),
                    statistic=r"cluster\.runtime\.membership_change",
                )

                async def answer(_: Any) -> Any:
                    return let_go(f"127.0.0.1:{port}")

                gateway.check.answer = answer
                code = await code_of(gateway.stub.Generate(ASK))
                assert code is grpc.StatusCode.UNAVAILABLE
                assert not impostor.calls

    asyncio.run(run())


def test_certificates_rotate_under_an_open_stream(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(in_two_parts(go_on))
            call = gateway.stub.Generate(ASK)
            await call.read()

            fresh = material(gateway.identities.service("gateway"))
            await gateway.publish(
                replace(gateway.snapshot, tls=fresh),
                statistic=r"listener\..*\.server_ssl_socket_factory\.ssl_context_update_by_sds",
            )
            assert await _served_serial(gateway) == _serial(fresh.certificate)

            go_on.set()
            assert (await call.read()).delta.text == "b"
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(run())


async def _served_serial(gateway: Gateway) -> int:
    context = trusting(gateway.identities.tenant("acme"))
    mesh = gateway.snapshot.data_plane.mesh
    _, writer = await asyncio.open_connection(mesh.host, mesh.port, ssl=context)
    served = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(served).serial_number


def _serial(certificate: bytes) -> int:
    return x509.load_pem_x509_certificate(certificate).serial_number


def test_the_front_end_speaks_tls_if_told_to(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path, front_end_tls=True) as gateway:
            authorities = gateway.identities.tenant("acme").authorities
            context = ssl.create_default_context(cafile=str(authorities))
            address = gateway.snapshot.data_plane.front_end
            body = {"model": "m", "stream": True}
            async with httpx.AsyncClient(verify=context) as client:
                answer = await client.post(f"https://{address}{CHAT}", json=body)
                assert answer.status_code == 200
                with pytest.raises(httpx.TransportError):
                    await client.post(f"http://{address}{CHAT}", json=body)

    asyncio.run(run())
