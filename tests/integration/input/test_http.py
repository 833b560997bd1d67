"""Headers, paths, methods and frames that can't be meant; each answer has a stable reason."""

import gzip

import pytest

from evenflow.inference.v1 import inference_service_pb2 as pb
from tests.integration.input.raw import frame, framed, posted, sent
from tests.integration.input.test_json import REST
from tests.integration.whole.mesh import Mesh

BODY = b"{" + REST
MESSAGE = pb.GenerateRequest(
    model="simulated", text="hi " * 100, sampling=pb.Sampling(max_output_tokens=2)
).SerializeToString()
MODELS = "/evenflow.inference.v1.InferenceService/ListModels"
HEADERS = {
    "115": (b"".join(b"h%d: v\r\n" % at for at in range(115)), 431, "HEADERS_TOO_LARGE"),
    "5,000": (b"".join(b"h%d: v\r\n" % at for at in range(5000)), 431, "HEADERS_TOO_LARGE"),
    "64 KiB": (b"h: " + b"v" * 65536 + b"\r\n", 431, "HEADERS_TOO_LARGE"),
    "10 MiB": (b"h: " + b"v" * (10 << 20) + b"\r\n", 431, "HEADERS_TOO_LARGE"),
    "no key": (b"authorization:\r\n", 401, "UNKNOWN_IDENTITY"),
    "another scheme": (b"authorization: Basic Zm9vOmJhcg==\r\n", 401, "UNKNOWN_IDENTITY"),
    "a key of 30 KB": (
        b"authorization: Bearer %s\r\n" % (b"x" * 30_000),
        401,
        "UNKNOWN_IDENTITY",
    ),
    "a key of no text": (b"authorization: Bearer \xff\xfe\r\n", 401, "UNKNOWN_IDENTITY"),
    "a key with NUL": (b"authorization: Bearer a\0b\r\n", 400, "REQUEST_INVALID"),
    "two lengths": (b"transfer-encoding: chunked\r\n", 400, "REQUEST_INVALID"),
    "a name of no text": (b"h\xff: v\r\n", 400, "REQUEST_INVALID"),
}


@pytest.mark.parametrize(("headers", "status", "code"), HEADERS.values(), ids=HEADERS)
def test_headers_that_are_too_much_are_refused(
    mesh: Mesh, headers: bytes, status: int, code: str
) -> None:
    answer = posted(mesh, BODY, headers=headers)

    assert (answer.status, answer.error["code"]) == (status, code)


@pytest.mark.parametrize(
    "headers",
    [
        b"h: " + b"v" * 28_000 + b"\r\n",
        b"".join(b"h%d: v\r\n" % at for at in range(97)),
        b"h: \xff\r\ntraceparent: \xff\r\nuser-agent: \xff\r\nx-request-id: \xff\r\n",
        b"traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01\r\n",
        b"expect: nonsense\r\n",
    ],
    ids=["28 KB", "100", "no text", "trace 0", "expect"],
)
def test_headers_that_are_only_odd_do_no_harm(mesh: Mesh, headers: bytes) -> None:
    assert posted(mesh, BODY, headers=headers).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "PATCH"])
def test_another_method_is_not_found(mesh: Mesh, method: str) -> None:
    answer = posted(mesh, b"", method=method)

    assert (answer.status, answer.error["code"]) == (404, "PATH_NOT_FOUND")


PATHS = {
    "/": (404, "PATH_NOT_FOUND"),
    "/v1/../admin": (404, "PATH_NOT_FOUND"),
    "/v1/models/%FF%FE": (400, "BODY_INVALID"),
    "/v1/models/a%00b": (400, "REQUEST_INVALID"),
    "/v1/models/\xff": (400, "REQUEST_INVALID"),
    "/v1/models/..%2f..": (404, "MODEL_NOT_FOUND"),
    "/v1/models/%E2%80%AE": (404, "MODEL_NOT_FOUND"),
    "/v1/models/" + "x" * 20_000: (404, "MODEL_NOT_FOUND"),
}


@pytest.mark.parametrize(("path", "expected"), PATHS.items(), ids=[each[:30] for each in PATHS])
def test_an_odd_path_is_no_bug(mesh: Mesh, path: str, expected: tuple[int, str]) -> None:
    answer = posted(mesh, b"", path=path, method="GET")

    assert (answer.status, answer.error["code"]) == expected


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /\r\n\r\n", 426),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 426),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
        (b"FOO / HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"POST /v1/models HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n", 400),
    ],
    ids=["HTTP/0.9", "HTTP/2.0", "noise", "no host", "no method", "bad chunk"],
)
def test_what_is_not_http_is_told_so(mesh: Mesh, text: bytes, status: int) -> None:
    answer = sent(mesh, text)

    assert (answer.status, answer.error["code"]) == (status, "REQUEST_INVALID")


@pytest.mark.parametrize("timeout", ["-1S", "garbage", "1", "S", "", "1.5S", "999999999H", "\xff"])
def test_a_deadline_that_grpc_does_not_know_is_refused_by_name(mesh: Mesh, timeout: str) -> None:
    header = f"grpc-timeout: {timeout}\r\n".encode("latin-1")
    answer = framed(mesh, frame(MESSAGE), headers=header)

    assert answer.headers["x-evenflow-reason"] == "FIELD_INVALID"
    assert answer.headers["x-evenflow-field"] == "grpc-timeout"


@pytest.mark.parametrize("timeout", [b"0S", b"0n", b"1n", b"999u"])
def test_a_deadline_that_has_passed_says_so(mesh: Mesh, timeout: bytes) -> None:
    answer = framed(mesh, frame(MESSAGE), headers=b"grpc-timeout: " + timeout + b"\r\n")

    assert answer.headers["x-evenflow-reason"] == "DEADLINE"


def test_a_deadline_of_a_thousand_years_is_lowered(mesh: Mesh) -> None:
    answer = framed(mesh, frame(MESSAGE), headers=b"grpc-timeout: 99999999H\r\n")

    assert b"grpc-status:0" in answer.body


FRAMES = {
    "compressed": frame(gzip.compress(MESSAGE), flag=1),
    "another flag": frame(MESSAGE, flag=255),
    "two messages": frame(MESSAGE) * 2,
    "too short": frame(MESSAGE, length=len(MESSAGE) + 5),
    "too long": frame(MESSAGE, length=3),
    "4 GiB": frame(MESSAGE, length=2**32 - 1),
    "three bytes": b"abc",
    "cut off": frame(MESSAGE[:-2]),
    "no UTF-8": frame(b"\x0a\x01\xff\x1a\x01x"),
    "huge number": frame(b"\xff" * 20),
    "groups without end": frame(MESSAGE + b"\x3b" * 5000),
}


@pytest.mark.parametrize("content", FRAMES.values(), ids=FRAMES)
def test_a_frame_that_holds_no_message_is_refused(mesh: Mesh, content: bytes) -> None:
    answer = framed(mesh, content, headers=b"grpc-encoding: gzip\r\n")

    assert answer.headers["grpc-status"] == "3"
    assert answer.headers["x-evenflow-reason"] == "BODY_INVALID"


@pytest.mark.parametrize("path", [MODELS, "/grpc.health.v1.Health/Check"])
def test_the_routers_own_methods_refuse_what_is_no_message(mesh: Mesh, path: str) -> None:
    answer = framed(mesh, frame(b"\x0a\x05\xff"), path=path)
    told = str(answer.headers) + answer.body.decode("latin-1")

    assert "BODY_INVALID" in told
    assert "class" not in told
