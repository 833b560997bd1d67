"""The router's servers over a real socket: only what the parts cannot show."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.accesslog.v3.als_pb2_grpc import AccessLogServiceStub
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from structlog.testing import capture_logs

from evenflow.inference.v1 import inference_service_pb2 as inference_pb
from evenflow.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from evenflow.openai.v1 import models_service_pb2 as openai_pb
from evenflow.openai.v1.models_service_pb2_grpc import ModelsServiceStub
from services.chassis.environ import Address
from services.chassis.identity import channel
from services.router.core.circuits import OPENS_AFTER
from services.router.core.endings import Ended
from services.router.core.models import Catalogue
from services.router.core.requests import Request
from services.router.inbound.access_log import AccessLogServicer
from services.router.inbound.asked import Question
from services.router.inbound.discovery import Discovery
from services.router.inbound.mesh import Mesh
from services.router.servers import check_socket, sidecar_server
from tests.unit.router.test_log_entries import USAGE, entry
from tests.unit.router.values import LIMITS, A, B, check_request, lessons, mesh

ACME = (("x-evenflow-tenant", "acme"),)


class Sidecar:
    """A served router, and what it passed on to telemetry."""

    def __init__(
        self,
        calls: grpc.aio.Channel,
        check: httpx.AsyncClient,
        of: Mesh,
        recorded: list[Ended],
    ) -> None:
        self._check = check
        self.log: Any = AccessLogServiceStub(calls).StreamAccessLogs
        self.models = InferenceServiceStub(calls)
        self.openai_models = ModelsServiceStub(calls)
        self.mesh = of
        self.recorded = recorded

    async def check(self, question: Question) -> httpx.Response:
        return await asked_over(self._check, question)


async def asked_over(http: httpx.AsyncClient, question: Question) -> httpx.Response:
    """As Envoy asks: over HTTP/1.1."""
    headers = dict(question.headers)
    return await http.post(question.path, headers=headers, content=question.body)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Sidecar]:
    now_s = asyncio.get_running_loop().time()
    of, recorded, address = mesh(now_s=now_s), list[Ended](), f"unix:{folder}/router.sock"
    catalogue = Catalogue()
    catalogue.notice(of.endpoints.all(), 1_000.0)

    def record(_request: Request, end: Ended) -> None:
        recorded.append(end)

    asking = httpx.AsyncHTTPTransport(uds=str(folder / "check.sock"))
    check = check_socket(of, LIMITS)
    server = sidecar_server(
        of,
        catalogue,
        discovery=Discovery(),
        access_log=AccessLogServicer(of.requests, lessons(of), record),
    )
    server.listen(Address(address), None)
    await check.listen(folder / "check.sock")
    await server.grpc.start()
    try:
        async with (
            channel(address, cast(Any, None), server="router") as calls,
            httpx.AsyncClient(transport=asking, base_url="http://router") as http,
        ):
            yield Sidecar(calls, http, of, recorded)
    finally:
        check.close()
        await server.grpc.stop(None)


def run(folder: Path, scenario: Callable[[Sidecar], Awaitable[None]]) -> None:
    async def within() -> None:
        async with served(folder) as sidecar, asyncio.timeout(20.0):
            await scenario(sidecar)

    asyncio.run(within())


def logged(request_id: str, *, path: str | None = None) -> StreamAccessLogsMessage:
    one = entry(grpc_status="0", **USAGE)
    one.request.request_headers["x-evenflow-request-id"] = request_id
    if path is not None:
        one.request.path = path
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.append(one)
    return message


def test_a_request_leaves_one_line_one_record_and_no_slot(tmp_path: Path) -> None:
    async def scenario(sidecar: Sidecar) -> None:
        answer = await sidecar.check(check_request())
        assert (answer.status_code, answer.headers["x-evenflow-tenant"]) == (200, "acme")
        assert sidecar.mesh.requests.load(A).requests == 1
        await sidecar.log(iter([logged("r1"), logged("r1")]))
        assert sidecar.mesh.requests.load(A).requests == 0
        assert [each.request_id for each in sidecar.recorded] == ["r1"]

    with capture_logs() as logs:
        run(tmp_path, scenario)

    lines = [each for each in logs if each["event"] == "request.ended"]
    assert len(lines) == 1
    line = lines[0]
    assert (line["tenant"], line["model"], line["endpoint"]) == ("acme", "small", A)
    assert (line["code"], line["output_tokens"], line["ttft_ms"]) == ("OK", 20, 125.0)


def moved_on(request_id: str) -> StreamAccessLogsMessage:
    """Sent to A first and answered by B, says a clock that has jumped back since."""
    message = logged(request_id)
    common = message.http_logs.log_entry[0].common_properties
    common.duration.FromMilliseconds(100)
    common.start_time.FromSeconds(-3_600)
    common.upstream_remote_address.socket_address.port_value = int(B.rpartition(":")[2])
    return message


def test_what_becomes_of_requests_opens_a_circuit_whatever_the_wall_clock_says(
    tmp_path: Path,
) -> None:
    async def scenario(sidecar: Sidecar) -> None:
        well = logged("r0")
        well.http_logs.log_entry[0].common_properties.upstream_request_attempt_count = 1
        await sidecar.check(check_request(x_request_id="r0"))
        await sidecar.log(iter([well]))
        for at in range(1, 1 + OPENS_AFTER):
            answer = await sidecar.check(check_request(x_request_id=f"r{at}"))
            assert answer.headers["x-evenflow-endpoints"] == f"{A},{B},{A}"
            await sidecar.log(iter([moved_on(f"r{at}")]))
        answer = await sidecar.check(check_request(x_request_id="last"))
        assert answer.headers["x-evenflow-endpoints"] == f"{B},{B},{B}"

    run(tmp_path, scenario)


def test_what_envoy_refused_itself_is_recorded_without_a_tenant(tmp_path: Path) -> None:
    async def scenario(sidecar: Sidecar) -> None:
        await sidecar.log(iter([logged("unseen")]))
        assert [(each.request_id, each.tenant) for each in sidecar.recorded] == [("unseen", "")]

    run(tmp_path, scenario)


def test_what_the_router_answers_itself_is_no_record(tmp_path: Path) -> None:
    path = "/evenflow.inference.v1.InferenceService/ListModels"

    async def scenario(sidecar: Sidecar) -> None:
        await sidecar.check(check_request(path=path))
        await sidecar.log(iter([logged("r1", path=path)]))
        assert sidecar.recorded == []

    run(tmp_path, scenario)


def test_health_checks_leave_no_line(tmp_path: Path) -> None:
    async def scenario(sidecar: Sidecar) -> None:
        await sidecar.log(iter([logged("h1", path="/grpc.health.v1.Health/Check")]))

    with capture_logs() as logs:
        run(tmp_path, scenario)

    assert [each for each in logs if each["event"] == "request.ended"] == []


def test_models_are_listed_to_their_tenant(tmp_path: Path) -> None:
    async def scenario(sidecar: Sidecar) -> None:
        listed = await sidecar.models.ListModels(inference_pb.ListModelsRequest(), metadata=ACME)
        assert [(each.name, each.endpoints) for each in listed.models] == [("small", 2)]

    run(tmp_path, scenario)


def test_openais_list_and_single_model_have_its_shape(tmp_path: Path) -> None:
    async def scenario(sidecar: Sidecar) -> None:
        stub = sidecar.openai_models
        listed = await stub.ListModels(openai_pb.ListModelsRequest(), metadata=ACME)
        one = await stub.GetModel(openai_pb.GetModelRequest(model="small"), metadata=ACME)
        assert listed.object == "list"
        assert [each.id for each in listed.data] == [one.id]
        assert (one.object, one.created) == ("model", 1_000)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (ACME, "MODEL_NOT_FOUND"),
        ((), "UNKNOWN_IDENTITY"),
        ((("x-evenflow-tenant", "x"),), "UNKNOWN_IDENTITY"),
    ],
    ids=["not served", "nobody", "unknown tenant"],
)
def test_a_refused_list_has_a_reason(tmp_path: Path, metadata: Any, reason: str) -> None:
    async def scenario(sidecar: Sidecar) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sidecar.openai_models.GetModel(
                openai_pb.GetModelRequest(model="none"), metadata=metadata
            )
        status, info = rpc_status.from_call(cast(grpc.Call, caught.value)), ErrorInfo()
        assert status is not None
        assert status.details[0].Unpack(info)
        assert info.reason == reason

    run(tmp_path, scenario)


def test_generate_is_not_the_routers_to_answer_unless_it_promised(tmp_path: Path) -> None:
    async def scenario(sidecar: Sidecar) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in sidecar.models.Generate(inference_pb.GenerateRequest()):
                pass
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    run(tmp_path, scenario)
