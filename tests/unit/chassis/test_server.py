"""What every server of the mesh does, over a real mTLS connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status
from structlog.testing import capture_logs

from evenflow.runtime.v1 import runtime_service_pb2 as pb
from evenflow.runtime.v1 import runtime_service_pb2_grpc as pb_grpc
from services.chassis.environ import address
from services.chassis.identity import TlsFiles, channel
from services.chassis.server import CannotListen, Server, grpc_server
from services.chassis.status import Status
from tests.fakes.silent_runtime import SilentRuntime
from tests.identities import Identities

SERVICE = "evenflow.runtime.v1.RuntimeService"
CALLERS = {f"/{SERVICE}/": frozenset({"router"})}


class Full(Exception):
    """Too much to do."""

    retry_after_s = 1.5


class Wrong(ValueError):
    """A field makes no sense."""

    field = "grace"


ERRORS = {
    Full: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "FULL"),
    Wrong: Status(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
}


class Servicer(SilentRuntime):
    """Fails as it is told, before or after a first message."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = asyncio.Event()

    async def Drain(  # noqa: N802 - the name is the proto's
        self, request: pb.DrainRequest, context: grpc.aio.ServicerContext
    ) -> pb.DrainResponse:
        if self.error is not None:
            raise self.error
        return pb.DrainResponse(still_running=7)

    async def WatchState(  # noqa: N802 - the name is the proto's
        self, request: pb.WatchStateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchStateResponse]:
        try:
            yield pb.WatchStateResponse(engine="test")
            if self.error is not None:
                raise self.error
            await asyncio.Event().wait()
        finally:
            self.closed.set()


@asynccontextmanager
async def serving(tls: TlsFiles, servicer: Servicer) -> AsyncIterator[tuple[Server, str]]:
    server = grpc_server(errors=ERRORS, callers=CALLERS, tls=tls, services=[SERVICE])
    pb_grpc.add_RuntimeServiceServicer_to_server(servicer, server.grpc)
    port = server.listen(address("127.0.0.1:0"), tls)
    await server.start()
    await server.set_serving()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.grpc.stop(None)


Body = Callable[[pb_grpc.RuntimeServiceStub], Awaitable[Any]]


def against(tmp_path: Path, servicer: Servicer, body: Body, *, caller: str = "router") -> Any:
    """Runs `body` with a stub whose certificate is the caller's."""
    identities = Identities(tmp_path)

    async def scenario() -> Any:
        async with (
            serving(identities.service("runtime"), servicer) as (_, where),
            channel(where, identities.service(caller), server="runtime") as calls,
        ):
            return await body(pb_grpc.RuntimeServiceStub(calls))

    return asyncio.run(scenario())


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert status is not None
    found: dict[str, Any] = {}
    for detail in status.details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            message = kind()
            if detail.Unpack(message):
                found[kind.__name__] = message
    return found


async def drain(stub: Any) -> pb.DrainResponse:
    response: pb.DrainResponse = await stub.Drain(pb.DrainRequest(), timeout=5)
    return response


async def watch(stub: Any) -> list[pb.WatchStateResponse]:
    return [state async for state in stub.WatchState(pb.WatchStateRequest(), timeout=5)]


def test_a_call_of_an_allowed_service_is_served(tmp_path: Path) -> None:
    assert against(tmp_path, Servicer(), drain).still_running == 7


@pytest.mark.parametrize("call", [drain, watch])
def test_another_service_is_refused_with_a_stable_reason(tmp_path: Path, call: Body) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, Servicer(), call, caller="telemetry")

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert details(caught.value)["ErrorInfo"].reason == "CALLER_NOT_ALLOWED"


@pytest.mark.parametrize("call", [drain, watch])
def test_an_expected_error_says_reason_field_and_when_to_come_back(
    tmp_path: Path, call: Body
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as full:
        against(tmp_path, Servicer(Full("no room")), call)
    with pytest.raises(grpc.aio.AioRpcError) as wrong:
        against(tmp_path, Servicer(Wrong("below 0")), call)

    assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(full.value)["RetryInfo"].retry_delay.ToMilliseconds() == 1500
    assert details(wrong.value)["ErrorInfo"].domain == "evenflow"
    assert details(wrong.value)["BadRequest"].field_violations[0].field == "grace"


@pytest.mark.parametrize("call", [drain, watch])
def test_a_bug_is_logged_once_and_not_shown_to_the_caller(tmp_path: Path, call: Body) -> None:
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, Servicer(ZeroDivisionError("secret")), call)

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error"
    assert details(caught.value)["ErrorInfo"].reason == "BUG"
    bugs = [entry for entry in logs if entry["log_level"] == "error"]
    assert [(bug["event"], bug["error"]) for bug in bugs] == [("rpc.bug", "ZeroDivisionError")]
    assert "raise self.error" in bugs[0]["trace"]
    assert "secret" not in str(logs)  # a message may quote a prompt


@pytest.mark.parametrize("method", ["Drain", "WatchState"])
def test_bytes_that_are_no_message_are_refused_without_a_word_of_python(
    tmp_path: Path, method: str
) -> None:
    async def scenario() -> None:
        identities = Identities(tmp_path)
        async with (
            serving(identities.service("runtime"), Servicer()) as (_, where),
            channel(where, identities.service("router"), server="runtime") as calls,
        ):
            raw: Any = calls  # the stubs ask for serializers, which bytes need none of
            await raw.unary_stream(f"/{SERVICE}/{method}")(b"\xff", timeout=5).read()

    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(scenario())

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(caught.value)["ErrorInfo"].reason == "BODY_INVALID"
    assert "class" not in str(caught.value.details())
    assert not [entry for entry in logs if entry["log_level"] == "error"]


@pytest.mark.parametrize("size_bytes", [500, 100_000])
def test_no_message_is_too_long_for_a_trailer(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        against(tmp_path, Servicer(Wrong("x" * size_bytes)), drain)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith("x" * 500)


def test_as_many_headers_as_the_gateway_takes_are_served(tmp_path: Path) -> None:
    many = [(f"h{at}", "v" * 300) for at in range(100)]

    async def call(stub: Any) -> pb.DrainResponse:
        response: pb.DrainResponse = await stub.Drain(pb.DrainRequest(), metadata=many, timeout=5)
        return response

    assert against(tmp_path, Servicer(), call).still_running == 7


def test_each_call_leaves_one_line(tmp_path: Path) -> None:
    with capture_logs() as logs:
        against(tmp_path, Servicer(), drain)

    lines = [entry for entry in logs if entry["event"] == "rpc.ended"]
    assert len(lines) == 1
    assert lines[0]["method"] == f"/{SERVICE}/Drain"
    assert lines[0]["peer"] == "spiffe://evenflow.local/service/router"
    assert lines[0]["code"] == "OK"


def test_a_caller_who_leaves_closes_the_handler(tmp_path: Path) -> None:
    servicer = Servicer()

    async def leave(stub: Any) -> None:
        call = stub.WatchState(pb.WatchStateRequest())
        assert (await call.read()).engine == "test"
        call.cancel()
        async with asyncio.timeout(5):
            await servicer.closed.wait()

    against(tmp_path, servicer, leave)


def test_a_client_without_a_certificate_or_with_another_authoritys_is_refused(
    tmp_path: Path,
) -> None:
    ours, others = Identities(tmp_path / "ours"), Identities(tmp_path / "others")

    async def scenario() -> None:
        tls = ours.service("runtime")
        async with serving(tls, Servicer()) as (_, where):
            bare = grpc.ssl_channel_credentials(tls.read().authorities)
            async with (
                grpc.aio.secure_channel(where, bare) as nobody,
                channel(where, others.service("router"), server="runtime") as stranger,
                grpc.aio.insecure_channel(where) as plain,
            ):
                for refused in (nobody, stranger, plain):
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await drain(pb_grpc.RuntimeServiceStub(refused))
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    asyncio.run(scenario())


def test_rotated_files_serve_new_connections_and_break_no_old_one(tmp_path: Path) -> None:
    identities = Identities(tmp_path)

    async def scenario() -> None:
        tls, caller = identities.service("runtime"), identities.service("router")
        servicer = Servicer()
        async with (
            serving(tls, servicer) as (_, where),
            channel(where, caller, server="runtime") as old,
        ):
            stream = pb_grpc.RuntimeServiceStub(old).WatchState(pb.WatchStateRequest())
            await stream.read()
            before = tls.read().certificate
            identities.service("runtime")
            assert tls.read().certificate != before
            async with channel(where, caller, server="runtime") as new:
                await drain(pb_grpc.RuntimeServiceStub(new))
            assert not servicer.closed.is_set()
            assert not stream.done()

    asyncio.run(scenario())


def test_health_follows_the_server_and_is_open_to_every_certificate(tmp_path: Path) -> None:
    identities = Identities(tmp_path)

    async def scenario() -> list[int]:
        tenant = identities.tenant("acme")
        async with (
            serving(identities.service("runtime"), Servicer()) as (server, where),
            channel(where, tenant, server="runtime") as calls,
        ):
            stub: Any = HealthStub(calls)
            found = []
            for change in (server.set_not_serving, server.set_serving, server.set_not_serving):
                await change()
                for name in ("", SERVICE):
                    request = HealthCheckRequest(service=name)
                    found.append((await stub.Check(request, timeout=5)).status)
            return found

    up, down = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
    assert asyncio.run(scenario()) == [down, down, up, up, down, down]


def test_health_says_not_serving_until_it_is_told(tmp_path: Path) -> None:
    identities = Identities(tmp_path)

    async def scenario() -> int:
        tls = identities.service("runtime")
        server = grpc_server(errors=ERRORS, callers=CALLERS, tls=tls, services=[SERVICE])
        port = server.listen(address("127.0.0.1:0"), tls)
        await server.start()
        try:
            async with channel(f"127.0.0.1:{port}", tls, server="runtime") as calls:
                stub: Any = HealthStub(calls)
                status: int = (await stub.Check(HealthCheckRequest(), timeout=5)).status
                return status
        finally:
            await server.grpc.stop(None)

    assert asyncio.run(scenario()) == HealthCheckResponse.NOT_SERVING


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    identities = Identities(tmp_path)

    async def scenario() -> None:
        tls = identities.service("runtime")
        async with serving(tls, Servicer()) as (server, where):
            with pytest.raises(CannotListen, match=where):
                server.listen(address(where), tls)

    asyncio.run(scenario())
