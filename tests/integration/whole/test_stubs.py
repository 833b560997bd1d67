"""Generated stubs over mTLS: the answer, and every wall around it."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from evenflow.client import Client, chat_request
from evenflow.errors import Refused, Unreachable
from evenflow.inference.v1 import inference_service_pb2 as pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.identities import Identities
from tests.integration.whole.mesh import Mesh

QUESTION = "What is the capital of France? Answer in one sentence."


def ask(mesh: Mesh, request: pb.GenerateRequest, tenant: str = "acme") -> list[Any]:
    async def scenario() -> list[Any]:
        async with Client(mesh.address, certificate_folder=mesh.tenant(tenant)) as client:
            return [event async for event in client.generate(request, deadline_s=30)]

    return asyncio.run(scenario())


def test_a_real_model_answers(real_mesh: Mesh) -> None:
    request = chat_request(real_mesh.model, QUESTION, sampling=pb.Sampling(temperature=0))

    started, *deltas, finished = ask(real_mesh, request)

    assert "Paris" in "".join(delta.text for delta in deltas)
    assert started.engine == "llamacpp"
    assert started.endpoint in real_mesh.runtimes
    assert started.model_version
    assert finished.reason == pb.FINISH_REASON_STOP
    assert finished.usage.output_tokens >= sum(delta.tokens for delta in deltas) > 0


def test_text_and_tokens_are_prompts_too(real_mesh: Mesh) -> None:
    async def scenario() -> tuple[list[Any], list[Any], int]:
        sampling = pb.Sampling(temperature=0, max_output_tokens=8)
        async with Client(real_mesh.address, certificate_folder=real_mesh.tenant("acme")) as client:
            ids = await client.tokenize(pb.TokenizeRequest(model=real_mesh.model, text="One two"))
            count = await client.count_tokens(
                pb.CountTokensRequest(model=real_mesh.model, text="One two")
            )
            assert count == len(ids)
            text = pb.GenerateRequest(model=real_mesh.model, text="One two", sampling=sampling)
            tokens = pb.GenerateRequest(
                model=real_mesh.model, tokens=pb.TokenInput(ids=ids), sampling=sampling
            )
            return (
                [event async for event in client.generate(text)],
                [event async for event in client.generate(tokens)],
                len(ids),
            )

    from_text, from_tokens, prompt_tokens = asyncio.run(scenario())

    def joined(events: list[Any]) -> str:
        return "".join(event.text for event in events[1:-1])

    assert joined(from_text) == joined(from_tokens)
    assert from_text[-1].usage.prompt_tokens == prompt_tokens


def test_models_are_those_that_the_tenant_may_use(real_mesh: Mesh) -> None:
    async def scenario() -> list[str]:
        folder = real_mesh.tenant("acme")
        async with Client(real_mesh.address, certificate_folder=folder) as client:
            return [model.name for model in await client.list_models()]

    assert asyncio.run(scenario()) == [real_mesh.model]


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (pb.Sampling(top_p=1.5), "sampling.top_p"),
        (pb.Sampling(temperature=-1), "sampling.temperature"),
        (pb.Sampling(temperature=float("nan")), "sampling.temperature"),
        (pb.Sampling(max_output_tokens=0), "sampling.max_output_tokens"),
        (pb.Sampling(logprobs=99), "sampling.logprobs"),
        (pb.Sampling(json_schema="["), "sampling.json_schema"),
    ],
    ids=["top_p", "temperature", "NaN", "max_output_tokens", "logprobs", "json_schema"],
)
def test_a_bad_sampling_value_is_refused_by_field(
    real_mesh: Mesh, sampling: pb.Sampling, field: str
) -> None:
    with pytest.raises(Refused) as caught:
        ask(real_mesh, chat_request(real_mesh.model, "hi", sampling=sampling))

    assert (caught.value.reason, caught.value.field) == ("FIELD_INVALID", field)


def test_a_header_that_claims_another_tenant_changes_nothing(real_mesh: Mesh) -> None:
    async def scenario() -> str:
        folder = real_mesh.tenant("acme")
        claims = (
            ("x-evenflow-tenant", "globex"),
            ("x-evenflow-workload", "admin"),
            ("x-evenflow-endpoints", "127.0.0.1:1"),
            ("x-evenflow-priority", "-100"),
            ("x-forwarded-client-cert", "URI=spiffe://evenflow.local/tenant/globex/web"),
            ("x-envoy-max-retries", "100"),
        )
        async with _channel(real_mesh, folder) as channel:
            stub: Any = InferenceServiceStub(channel)
            call = stub.Generate(chat_request(real_mesh.model, "hi"), metadata=claims, timeout=30)
            events = [event async for event in call]
        request_id: str = events[0].started.request_id
        return request_id

    explained = real_mesh.explain(asyncio.run(scenario()))
    assert (explained.tenant, explained.workload) == ("acme", "web")


def test_no_certificate_another_authoritys_or_plain_text_is_refused(
    real_mesh: Mesh, tmp_path: Path
) -> None:
    stranger = Identities(tmp_path).tenant("acme").certificate.parent
    roots = (real_mesh.tenant("acme") / "ca.pem").read_bytes()

    async def scenario() -> None:
        target = real_mesh.address
        name = [("grpc.ssl_target_name_override", "gateway.evenflow.local")]
        bare = grpc.ssl_channel_credentials(roots)
        async with (
            grpc.aio.secure_channel(target, bare, options=name) as nobody,
            grpc.aio.insecure_channel(target) as plain,
        ):
            for channel in (nobody, plain):
                stub: Any = InferenceServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ListModels(pb.ListModelsRequest(), timeout=5)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        (tmp_path / "mixed").mkdir()
        for file in ("cert.pem", "key.pem"):
            (tmp_path / "mixed" / file).write_bytes((stranger / file).read_bytes())
        (tmp_path / "mixed" / "ca.pem").write_bytes(roots)
        async with Client(target, certificate_folder=tmp_path / "mixed") as client:
            with pytest.raises(Unreachable):
                await client.list_models(deadline_s=5)

    asyncio.run(scenario())


@pytest.mark.parametrize("service", ["router", "policy", "telemetry", "runtime"])
def test_every_other_port_refuses_plain_text(real_mesh: Mesh, service: str) -> None:
    async def scenario() -> None:
        for port in real_mesh.ports(service):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as plain:
                stub: Any = HealthStub(plain)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Check(HealthCheckRequest(), timeout=5)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_a_runtime_called_directly_by_a_tenant_refuses(real_mesh: Mesh) -> None:
    async def scenario() -> grpc.aio.AioRpcError:
        address = real_mesh.runtimes[0]
        async with _channel(real_mesh, real_mesh.tenant("acme"), address, "runtime") as channel:
            stub: Any = InferenceServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.Generate(chat_request(real_mesh.model, "hi"), timeout=5):
                    pass
            return caught.value

    assert asyncio.run(scenario()).code() is grpc.StatusCode.PERMISSION_DENIED


def test_prometheus_needs_a_certificate_of_the_mesh(real_mesh: Mesh) -> None:
    folder = real_mesh.home / "certs" / "operator"
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    url = f"https://127.0.0.1:{real_mesh.prometheus_port}/metrics"
    context.check_hostname = False  # the certificate names telemetry.evenflow.local

    with (
        httpx.Client(verify=context, trust_env=False) as bare,
        pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)),
    ):
        bare.get(url)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with httpx.Client(verify=context, trust_env=False) as operator:
        assert operator.get(url).status_code == 200


def _channel(
    mesh: Mesh, folder: Path, address: str | None = None, server: str = "gateway"
) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        *((folder / name).read_bytes() for name in ("ca.pem", "key.pem", "cert.pem"))
    )
    options = [("grpc.ssl_target_name_override", f"{server}.evenflow.local")]
    return grpc.aio.secure_channel(address or mesh.address, credentials, options=options)
