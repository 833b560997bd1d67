"""What Envoy makes of the router's answers over HTTP/1.1, and of a router that gives none."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from services.router.core.verdicts import Reason, Refused
from services.router.inbound.answers import Answer, refusal
from services.router.inbound.asked import Question
from services.router.inbound.check_socket import CheckSocket
from tests.fakes.envoy_router import let_go
from tests.fakes.scripted_runtime import delta
from tests.integration.envoy.gateway import Gateway, running_gateway, trailers_of
from tests.integration.envoy.mesh import check_socket

pytestmark = pytest.mark.integration

GENERATE = "/evenflow.inference.v1.InferenceService/Generate"
ASK = pb.GenerateRequest(model="m", text="hi")
FOUND_OUT_WITHIN_S = 30.0  # 40 times a quarter of a second without an answer, and as long between
AT_ONCE_S = 1.0


async def one_delta(_: Any) -> AsyncIterator[Any]:
    yield delta("a")


def always(gateway: Gateway, answer: Answer) -> None:
    async def same(_: Question) -> Answer:
        return answer

    gateway.check.answer = same


async def refused(gateway: Gateway, *, timeout_s: float | None = None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.Generate(ASK, timeout=timeout_s).read()
    return caught.value


@pytest.mark.parametrize(
    ("reason", "code", "http"),
    [
        (Reason.POLICY_STALE, grpc.StatusCode.UNAVAILABLE, 503),
        (Reason.DRAINING, grpc.StatusCode.UNAVAILABLE, 503),
        (Reason.DEADLINE, grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    ],
)
def test_what_http_calls_a_failed_server_is_still_the_routers_word(
    tmp_path: Path, reason: Reason, code: grpc.StatusCode, http: int
) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            always(gateway, refusal(Refused(reason, "not now", retry_after_s=1.0), "r1"))

            error = await refused(gateway)
            assert (error.code(), error.details()) == (code, "not now")
            trailers = trailers_of(error)
            assert trailers["x-evenflow-reason"] == reason.value
            assert trailers["grpc-status-details-bin"]

            answer = await gateway.chat()
            assert (answer.status_code, answer.headers["retry-after"]) == (http, "1")
            assert answer.json()["error"]["code"] == reason.value
            assert answer.json()["error"]["message"] == "not now"

    asyncio.run(run())


def test_a_router_that_breaks_over_a_question_is_asked_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            always(gateway, Answer(500, ()))

            error = await refused(gateway)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert trailers_of(error)["x-evenflow-reason"] == "NO_ENDPOINT"
            entry = await gateway.log.entry()
            assert entry.response.response_code_details == "ext_authz_error"

            answer = await gateway.chat()
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "NO_ENDPOINT"
            assert len(gateway.check.asked) == 2

    asyncio.run(run())


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS", "MADEUP"])
def test_the_router_is_asked_about_nothing_but_post(
    tmp_path: Path, method: str, http2: bool
) -> None:
    async def run() -> None:
        async with (
            running_gateway(tmp_path) as gateway,
            httpx.AsyncClient(
                base_url=gateway.http.base_url, http1=not http2, http2=http2, timeout=AT_ONCE_S
            ) as caller,
        ):
            answer = await caller.request(method, GENERATE)
            assert 400 <= answer.status_code < 500
            assert not gateway.check.asked

    asyncio.run(run())


class Hanging:
    """A Check socket whose whole loop stands still while `go_on` is not set."""

    def __init__(self, endpoints: str) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self._endpoints = endpoints

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        """In a thread, with a loop of its own."""
        until, listens = threading.Event(), asyncio.Event()
        here = asyncio.get_running_loop()

        async def serve() -> None:
            socket = CheckSocket(self._answer)
            await socket.listen(path)
            here.call_soon_threadsafe(listens.set)
            await asyncio.to_thread(until.wait)
            socket.close()

        async with asyncio.TaskGroup() as threads:
            threads.create_task(asyncio.to_thread(asyncio.run, serve()))
            await listens.wait()
            try:
                yield
            finally:
                self.go_on.set()
                until.set()

    def _answer(self, _: Question) -> Answer:
        self.go_on.wait()
        return let_go(self._endpoints)


def test_a_router_whose_loop_hangs_is_found_out_and_used_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(one_delta)
            await gateway.router.aclose()
            router = Hanging(gateway.addresses[0])
            async with router.serving(check_socket(tmp_path / "router.sock")):
                await gateway.stub.Generate(ASK).read()
                router.go_on.clear()

                waited = await refused(gateway, timeout_s=AT_ONCE_S)
                assert waited.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                await until_well(gateway, 0)
                error = await refused(gateway, timeout_s=AT_ONCE_S)
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert trailers_of(error)["x-evenflow-reason"] == "NO_ENDPOINT"

                router.go_on.set()
                await until_well(gateway, 1)
                await gateway.stub.Generate(ASK).read()

    asyncio.run(run())


async def until_well(gateway: Gateway, routers: int) -> None:
    async with asyncio.timeout(FOUND_OUT_WITHIN_S):
        while await gateway.envoy.statistic(r"cluster\.check\.membership_healthy") != routers:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.05)
