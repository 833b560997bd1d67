"""OpenAI's JSON and server-sent events, made of gRPC by Envoy and of nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.fakes.envoy_router import refuse
from tests.fakes.scripted_runtime import chunk, completion, done, event
from tests.integration.envoy.gateway import ASKED, CHAT, Gateway, running_gateway

pytestmark = pytest.mark.integration


async def whole(_: Any) -> AsyncIterator[Any]:
    yield completion("Paris")


async def two_chunks_and_the_end(_: Any) -> AsyncIterator[Any]:
    yield chunk("Pa")
    yield chunk("ris")
    yield done()


def events(text: str) -> list[str]:
    assert text.endswith("\n\n")
    parts = text.removesuffix("\n\n").split("\n\n")
    return [part.removeprefix("data: ") for part in parts]


def error_of(response: httpx.Response) -> Any:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_the_body_says_whether_the_answer_streams(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(whole)
            for stream in (False, None):
                answer = await gateway.chat(stream=stream)
                assert answer.headers["content-type"] == "application/json"
                assert answer.json()["choices"][0]["message"]["content"] == "Paris"
                assert not [name for name in answer.headers if name.startswith("grpc-")]

            gateway.play(two_chunks_and_the_end)
            answer = await gateway.chat(stream=True)
            assert answer.headers["content-type"] == "text/event-stream"
            *chunks, last = events(answer.text)
            assert [json.loads(each)["choices"][0] for each in chunks] == [
                {"index": 0, "delta": {"content": "Pa"}, "finish_reason": None},
                {"index": 0, "delta": {"content": "ris"}, "finish_reason": None},
            ]
            assert last == "[DONE]"

    asyncio.run(run())


def test_chunks_arrive_as_they_are_made(tmp_path: Path) -> None:
    async def run() -> None:
        read = asyncio.Event()

        async def one_after_the_other(_: Any) -> AsyncIterator[Any]:
            yield chunk("first")
            await read.wait()
            yield chunk("second")

        async with running_gateway(tmp_path) as gateway:
            gateway.play(one_after_the_other)
            body = {**ASKED, "stream": True}
            async with gateway.http.stream("POST", CHAT, json=body) as answer:
                lines = answer.aiter_lines()
                assert "first" in await anext(lines)
                read.set()
                assert any(["second" in line async for line in lines])

    asyncio.run(run())


def test_bodies_of_today_and_tomorrow_are_read(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "hi", "cache_control": {"type": "x"}}]

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(whole)
            answer = await gateway.chat(
                messages=[{"role": "user", "content": parts}],
                temperature=1,
                max_tokens=None,
                seed=2**53 - 1,
                stop=["a"],
                not_yet_invented={"a": [1]},
            )
            assert answer.status_code == 200
            read = gateway.runtimes[0].calls[0].request.completion
            assert read.messages[0].content.list_value[0]["text"] == "hi"
            assert (read.temperature, read.seed) == (1.0, 2**53 - 1)
            assert not read.HasField("max_tokens")

            untyped = {"content-type": "application/x-www-form-urlencoded"}  # curl's default
            gateway.play(two_chunks_and_the_end)
            body = json.dumps({**ASKED, "stream": True})
            answer = await gateway.http.post(CHAT, content=body, headers=untyped)
            assert answer.headers["content-type"] == "text/event-stream"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"model": "m", "messages', None),
        ('{"model": {"a": 1}}', None),
        ('{"model": "m", "max_tokens": "many", "stream": true}', "max_tokens"),
        ('{"model": "m", "max_tokens": 1.5}', "max_tokens"),
        ("[1]", None),
    ],
)
def test_a_body_that_is_no_request_is_a_400(tmp_path: Path, body: str, param: str | None) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            answer = await gateway.http.post(CHAT, content=body)
            error = error_of(answer)
            assert answer.status_code == 400
            assert (error["type"], error["code"]) == ("invalid_request_error", "BODY_INVALID")
            assert error["param"] == param
            assert not gateway.check.asked

    asyncio.run(run())


def test_a_refusal_by_check_is_openais_error(tmp_path: Path) -> None:
    refused = {
        "grpc-status": "8",
        "grpc-message": "too%20%22long%22%0A%C3%A9",
        "x-evenflow-reason": "OUTPUT_LIMIT",
        "x-evenflow-field": "max_tokens",
        "retry-after": "2",
    }

    async def deny(_: Any) -> Any:
        return refuse(429, refused)

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.check.answer = deny
            for stream in (False, True):
                answer = await gateway.chat(stream=stream)
                assert answer.status_code == 429
                assert answer.headers["retry-after"] == "2"
                assert error_of(answer) == {
                    "message": 'too "long"\né',
                    "type": "rate_limit_error",
                    "param": "max_tokens",
                    "code": "OUTPUT_LIMIT",
                }
            assert not gateway.runtimes[0].calls

    asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "http"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.NOT_FOUND, 404),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    ],
)
def test_a_failure_before_the_first_token_is_openais_error(
    tmp_path: Path, code: grpc.StatusCode, http: int
) -> None:
    async def fail(context: Any) -> AsyncIterator[Any]:
        trailers = (("x-evenflow-reason", "WHY"), ("x-evenflow-field", "messages"))
        await context.abort(code, "said so: 100%", trailers)
        yield

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(fail)
            for stream in (False, True):
                answer = await gateway.chat(stream=stream)
                error = error_of(answer)
                assert answer.status_code == http
                assert (error["message"], error["code"]) == ("said so: 100%", "WHY")
                assert error["param"] == "messages"

    asyncio.run(run())


def test_what_envoy_answers_by_itself_is_openais_error(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            unknown = await gateway.http.post("/v1/embeddings", json=ASKED)
            assert (unknown.status_code, error_of(unknown)["code"]) == (404, "PATH_NOT_FOUND")
            large = await gateway.chat(user="x" * (5 << 20))
            assert (large.status_code, error_of(large)["code"]) == (413, "BODY_TOO_LARGE")
            assert not gateway.check.asked

            for server in gateway.runtime_servers:
                await server.stop(0)
            await _is_unavailable(gateway)
            await gateway.router.aclose()
            gateway.http.timeout = 30  # Envoy asks again for some seconds
            await _is_unavailable(gateway)

    asyncio.run(run())


async def _is_unavailable(gateway: Gateway) -> None:
    for stream in (False, True):
        answer = await gateway.chat(stream=stream)
        error = error_of(answer)
        assert answer.status_code == 503
        assert (error["type"], error["code"]) == ("server_error", "NO_ENDPOINT")


def test_a_stream_that_fails_late_does_not_end_as_done(tmp_path: Path) -> None:
    async def fails_late(context: Any) -> AsyncIterator[Any]:
        yield chunk("a")
        yield event('{"error":{"message":"died","code":"WHY"}}')
        await context.abort(grpc.StatusCode.UNAVAILABLE, "died")

    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(fails_late)
            answer = await gateway.chat(stream=True)
            assert json.loads(events(answer.text)[-1])["error"]["code"] == "WHY"
            assert len(gateway.runtimes[1].calls) == 0

    asyncio.run(run())


def test_every_answer_names_the_request(tmp_path: Path) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            gateway.play(whole)
            for answer in (await gateway.chat(), await gateway.http.get("/nowhere")):
                name = answer.headers["x-evenflow-request-id"]
                assert len(name) == 36
                assert answer.headers["x-request-id"] == name

    asyncio.run(run())


@pytest.mark.parametrize("http2", [False, True])
def test_an_answer_to_head_has_no_body(tmp_path: Path, http2: bool) -> None:
    async def run() -> None:
        async with running_gateway(tmp_path) as gateway:
            base = gateway.http.base_url
            async with httpx.AsyncClient(base_url=base, http1=not http2, http2=http2) as client:
                answer = await client.head("/nowhere")
                assert (answer.status_code, answer.content) == (404, b"")
                assert answer.headers["x-evenflow-reason"] == "PATH_NOT_FOUND"
                assert (await client.get("/nowhere")).json()["error"]["code"] == "PATH_NOT_FOUND"

    asyncio.run(run())
